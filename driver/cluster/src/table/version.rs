//! Which changes of a host are meant, and which of them a table has.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a change of a host's own rows. Later ones are greater.
///
/// Rows of an older epoch are void as soon as all of a newer one, from its first change on, is known: a host that
/// starts states all its rows anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    /// Rises at each start of the host.
    pub epoch: u32,
    /// Rises by one with each change of its rows, from one on; zero is before the first.
    pub count: u32,
}

impl Version {
    /// The change of this number of this epoch.
    pub const fn new(epoch: u32, count: u32) -> Self {
        Self { epoch, count }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.count)
    }
}

/// Changes of one epoch that follow each other without a gap; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The epoch.
    pub epoch: u32,
    /// The count of the first.
    pub first: u32,
    /// The count of the last.
    pub last: u32,
}

impl Span {
    /// The span of one change.
    pub fn of(version: Version) -> Self {
        let Version { epoch, count } = version;
        Self {
            epoch,
            first: count,
            last: count,
        }
    }

    /// Its last change.
    pub fn end(&self) -> Version {
        Version::new(self.epoch, self.last)
    }

    fn contains(&self, version: Version) -> bool {
        self.epoch == version.epoch && (self.first..=self.last).contains(&version.count)
    }

    /// Whether both together have no gap.
    fn touches(&self, other: &Self) -> bool {
        self.epoch == other.epoch
            && self.first <= other.last.saturating_add(1)
            && other.first <= self.last.saturating_add(1)
    }

    /// Whether it goes on, without a gap, from everything up to `known`.
    fn follows(&self, known: Version) -> bool {
        match self.epoch == known.epoch {
            true => self.first.saturating_sub(1) <= known.count,
            false => self.epoch > known.epoch && self.first <= 1,
        }
    }
}

/// Which changes of a host were applied: all up to one, and at most [`Cover::SPANS`] spans ahead of what is missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "(Version, Vec<Span>)", into = "(Version, Vec<Span>)")]
pub struct Cover {
    known: Version,
    ahead: Vec<Span>,
}

/// Bytes that say which changes a host has, and contradict themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "changes said to be had are not in order: at most {} spans after the known ones, rising, with gaps between them",
    Cover::SPANS
)]
pub struct NoCover;

impl TryFrom<(Version, Vec<Span>)> for Cover {
    type Error = NoCover;
    fn try_from((known, ahead): (Version, Vec<Span>)) -> Result<Self, NoCover> {
        let mut before: Option<Span> = None;
        for span in &ahead {
            let apart = before.is_none_or(|b| b < *span && !b.touches(span));
            let ordered = 1 <= span.first && span.first <= span.last && span.end() > known;
            if !apart || !ordered || span.follows(known) {
                return Err(NoCover);
            }
            before = Some(*span);
        }
        match ahead.len() <= Self::SPANS {
            true => Ok(Self { known, ahead }),
            false => Err(NoCover),
        }
    }
}

impl From<Cover> for (Version, Vec<Span>) {
    fn from(cover: Cover) -> Self {
        (cover.known, cover.ahead)
    }
}

impl Cover {
    /// How many spans there can be ahead of what is missing.
    pub const SPANS: usize = 32;

    /// All changes up to this one.
    pub fn up_to(known: Version) -> Self {
        Self {
            known,
            ahead: Vec::new(),
        }
    }

    /// The change up to which all were applied.
    pub fn known(&self) -> Version {
        self.known
    }

    /// What was applied ahead of a gap, rising.
    pub fn ahead(&self) -> &[Span] {
        &self.ahead
    }

    /// The latest change that was applied.
    pub fn top(&self) -> Version {
        self.ahead.last().map_or(self.known, Span::end)
    }

    /// Whether nothing was applied.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the change was applied, or is void.
    pub fn contains(&self, version: Version) -> bool {
        version <= self.known || self.ahead.iter().any(|span| span.contains(version))
    }

    /// Whether all of it is in the other one as well.
    pub fn within(&self, other: &Self) -> bool {
        let covered = |span: &Span| {
            span.end() <= other.known
                || other
                    .ahead
                    .iter()
                    .any(|of| of.contains(Version::new(span.epoch, span.first)) && of.contains(span.end()))
        };
        self.known <= other.known && self.ahead.iter().all(covered)
    }

    /// Adds a change. False, and nothing is changed, if there would be too many gaps.
    pub fn add(&mut self, version: Version) -> bool {
        self.add_span(Span::of(version))
    }

    /// Adds all of the other one, as far as there are not too many gaps. What was here stays.
    pub fn join(&mut self, other: &Self) {
        if other.known > self.known {
            let ahead = std::mem::take(&mut self.ahead);
            *self = Self::settled(other.known, ahead);
        }
        for span in &other.ahead {
            self.add_span(*span);
        }
    }

    /// The part of it up to a change.
    pub fn up_to_only(&self, at: Version) -> Self {
        let cut = |span: &Span| {
            let last = if span.epoch == at.epoch {
                span.last.min(at.count)
            } else {
                span.last
            };
            (Version::new(span.epoch, span.first) <= at).then_some(Span { last, ..*span })
        };
        Self {
            known: self.known.min(at),
            ahead: self.ahead.iter().filter_map(cut).collect(),
        }
    }

    fn add_span(&mut self, span: Span) -> bool {
        if self.ahead.is_empty() && span.epoch == self.known.epoch && span.follows(self.known) {
            self.known = self.known.max(span.end());
            return true;
        }
        let (touching, mut apart): (Vec<Span>, Vec<Span>) =
            self.ahead.iter().partition(|other| other.touches(&span));
        let first = touching.iter().fold(span.first, |first, of| first.min(of.first));
        let last = touching.iter().fold(span.last, |last, of| last.max(of.last));
        apart.push(Span {
            epoch: span.epoch,
            first,
            last,
        });
        apart.sort_unstable();
        let next = Self::settled(self.known, apart);
        let fits = next.ahead.len() <= Self::SPANS;
        if fits {
            *self = next;
        }
        fits
    }

    /// Lets the known part swallow what follows it without a gap. The spans rise and are apart.
    fn settled(mut known: Version, mut ahead: Vec<Span>) -> Self {
        for span in &ahead {
            if span.follows(known) {
                known = known.max(span.end());
            }
        }
        ahead.retain(|span| span.end() > known);
        Self { known, ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn v(epoch: u32, count: u32) -> Version {
        Version::new(epoch, count)
    }

    #[test]
    fn a_later_epoch_counts_only_from_its_first_change_on() {
        let mut cover = Cover::up_to(v(1, 5));
        assert!(cover.add(v(2, 2)));
        assert_eq!(
            (cover.known(), cover.ahead()),
            (
                v(1, 5),
                &[Span {
                    epoch: 2,
                    first: 2,
                    last: 2
                }][..]
            )
        );
        assert!(cover.add(v(1, 7)) && cover.add(v(2, 1)));
        assert_eq!(cover, Cover::up_to(v(2, 2)));
        assert!(cover.contains(v(1, 99)), "what is void needs no asking for");
    }

    #[test]
    fn gaps_beyond_the_limit_are_not_noted_and_what_was_noted_stays() {
        let mut cover = Cover::default();
        for n in 0..Cover::SPANS as u32 {
            assert!(cover.add(v(0, 2 * n + 2)));
        }
        let full = cover.clone();
        assert!(!cover.add(v(0, 200)));
        assert_eq!(cover, full);
        assert!(cover.add(v(0, 3)), "a change that closes a gap always fits");
        assert_eq!(cover.ahead().len(), Cover::SPANS - 1);
    }

    #[test]
    fn the_greatest_counts_overflow_nothing() {
        let mut cover = Cover::up_to(v(u32::MAX, u32::MAX));
        assert!(cover.add(v(u32::MAX, u32::MAX)) && cover.add(v(0, 0)));
        assert_eq!(cover, Cover::up_to(v(u32::MAX, u32::MAX)));
        let mut cover = Cover::default();
        assert!(cover.add(v(3, u32::MAX)) && cover.add(v(3, u32::MAX - 1)));
        assert_eq!(
            cover.ahead(),
            &[Span {
                epoch: 3,
                first: u32::MAX - 1,
                last: u32::MAX
            }]
        );
    }

    /// The cover of a set of changes, by the meaning of the words: nothing incremental.
    fn plain(set: &BTreeSet<Version>) -> (Version, BTreeSet<Version>) {
        let runs = |epoch: u32| (1..).take_while(|n| set.contains(&v(epoch, *n))).last();
        let known = (0..4_u32)
            .rev()
            .find_map(|e| runs(e).map(|n| v(e, n)))
            .unwrap_or_default();
        (
            known,
            set.iter().copied().filter(|version| *version > known).collect(),
        )
    }

    fn changes() -> impl Strategy<Value = BTreeSet<Version>> {
        prop::collection::btree_set((0..4_u32, 1..24_u32).prop_map(|(e, c)| v(e, c)), 0..40)
    }

    fn cover_of(set: impl IntoIterator<Item = Version>) -> Cover {
        let mut cover = Cover::default();
        set.into_iter().for_each(|version| assert!(cover.add(version)));
        cover
    }

    proptest! {
        #[test]
        fn a_cover_is_what_was_added_in_whatever_order(
            set in changes(),
            order in any::<prop::sample::Index>(),
            at in (0..4_u32, 0..26_u32),
        ) {
            let mut list: Vec<Version> = set.iter().copied().collect();
            if !list.is_empty() {
                let by = order.index(list.len());
                list.rotate_left(by);
            }
            let cover = cover_of(list);
            let (known, above) = plain(&set);
            prop_assert_eq!(cover.known(), known);
            let at = v(at.0, at.1);
            prop_assert_eq!(cover.contains(at), at <= known || above.contains(&at));
            let cut = cover.up_to_only(at);
            prop_assert!(cut.within(&cover) && cut.top() <= at);
            let kept = set.iter().filter(|version| **version <= at);
            prop_assert!(kept.into_iter().all(|version| cut.contains(*version)));
            prop_assert_eq!(Cover::try_from((cover.known(), cover.ahead().to_vec())), Ok(cover));
        }

        #[test]
        fn joining_is_the_union(a in changes(), b in changes()) {
            let (one, other) = (cover_of(a.iter().copied()), cover_of(b.iter().copied()));
            let mut joined = one.clone();
            joined.join(&other);
            prop_assert_eq!(&joined, &cover_of(a.union(&b).copied()));
            prop_assert!(one.within(&joined) && other.within(&joined));
            prop_assert_eq!(joined.within(&one), joined == one);
        }
    }
}
