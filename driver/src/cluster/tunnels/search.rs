//! The largest packet that passes one way through a tunnel, narrowed down round by round: pure.

use std::collections::BTreeSet;

use serde::Serialize;

use super::SIZES;
use crate::kernel::probe::LEAST;

/// What passes one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passes {
    /// The largest that was tried.
    All,
    /// Nothing larger than this, in bytes.
    UpTo(u32),
    /// Nothing at all.
    Nothing,
}

/// A search for one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The largest to try.
    full: u32,
    /// The largest that passed.
    passed: Option<u32>,
    /// The least above it that was lost.
    lost: Option<u32>,
}

impl Search {
    /// For packets up to a size, in bytes.
    pub fn new(full: u32) -> Self {
        Self {
            full,
            passed: None,
            lost: None,
        }
    }

    /// The sizes to try next; none when all is known.
    pub fn next(&self) -> BTreeSet<u32> {
        match (self.passed, self.lost) {
            (None, None) => BTreeSet::from([LEAST, self.full]),
            (Some(passed), Some(lost)) => between(passed, lost),
            _ => BTreeSet::new(),
        }
    }

    /// Takes in what came of some sizes. One is lost by chance now and then, so what is smaller than one that passed
    /// counts as passed.
    pub fn note(&mut self, tried: &BTreeSet<u32>, came: &BTreeSet<u32>) {
        let passed = tried.intersection(came).max().copied();
        self.passed = self.passed.max(passed);
        let lost = tried.difference(came).copied();
        let lost = lost.chain(self.lost).filter(|size| Some(*size) > self.passed);
        self.lost = lost.min();
    }

    /// What is known so far.
    pub fn passes(&self) -> Passes {
        match self.passed {
            Some(passed) if passed >= self.full => Passes::All,
            Some(passed) => Passes::UpTo(passed),
            None => Passes::Nothing,
        }
    }
}

/// Sizes that cut what is between two into pieces of about one length.
fn between(low: u32, high: u32) -> BTreeSet<u32> {
    let gap = u64::from(high.saturating_sub(low));
    let parts = SIZES as u64 + 1;
    let cut = |n: u64| low + u32::try_from(gap * n / parts).unwrap_or(0);
    (1..parts)
        .map(cut)
        .filter(|size| (low + 1..high).contains(size))
        .chain((gap > 1).then_some(low + 1))
        .take(SIZES)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the limit is, it is found, in few rounds of few sizes.
        #[test]
        fn a_limit_is_found(full in LEAST + 1..65_000, limit in 0..70_000_u32) {
            let mut search = Search::new(full);
            let mut rounds = 0;
            loop {
                let next = search.next();
                if next.is_empty() {
                    break;
                }
                rounds += 1;
                prop_assert!(next.len() <= SIZES && rounds <= 7, "{:?} {rounds}", next);
                let came = next.iter().copied().filter(|size| *size <= limit).collect();
                search.note(&next, &came);
            }
            let found = match search.passes() {
                Passes::All => full,
                Passes::UpTo(size) => size,
                Passes::Nothing => 0,
            };
            let is = if limit < LEAST { 0 } else { limit.min(full) };
            prop_assert_eq!(found, is);
        }
    }

    #[test]
    fn a_small_one_that_is_lost_by_chance_says_nothing_against_a_large_one_that_came() {
        let mut search = Search::new(1450);
        search.note(&search.next(), &BTreeSet::from([1450]));
        assert_eq!((search.passes(), search.next().len()), (Passes::All, 0));
    }
}
