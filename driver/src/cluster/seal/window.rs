//! Which counters of a sender have been seen: the last 2,048 one by one, all before them as seen.

const WORD: u64 = u64::BITS as u64;
/// One word more than the reach, as the words that the highest counter enters are cleared whole.
const WORDS: usize = 33;
/// How far behind the highest counter one may be that is still told apart, in counters.
pub const REACH: u64 = WORD * (WORDS as u64 - 1);

/// A ring of bits; a counter's word is found by its quotient by 64.
#[derive(Debug, Clone)]
pub struct Window {
    top: u64,
    bits: [u64; WORDS],
}

impl Window {
    /// A window for which all counters up to `top` were seen.
    pub fn after(top: u64) -> Self {
        let mut window = Self {
            top,
            bits: [u64::MAX; WORDS],
        };
        if let Some((word, _)) = window.place(top) {
            // Of the word in which the highest is, only its bit and those below.
            *word = u64::MAX >> (WORD - 1 - top % WORD);
        }
        window
    }

    /// The highest counter seen.
    pub fn top(&self) -> u64 {
        self.top
    }

    /// Whether a counter is new; one too old to tell is not.
    pub fn is_new(&self, counter: u64) -> bool {
        if counter > self.top {
            return true;
        }
        if self.top - counter >= REACH {
            return false;
        }
        let word = self.bits.get(slot(counter)).copied().unwrap_or(u64::MAX);
        word & 1 << (counter % WORD) == 0
    }

    /// Notes a counter as seen. One that is too old has no place and needs none.
    pub fn note(&mut self, counter: u64) {
        if counter > self.top {
            let (from, to) = (self.top / WORD, counter / WORD);
            // After a whole round every word has been cleared.
            for word in (from + 1..=to).take(WORDS) {
                if let Some(bits) = self.bits.get_mut(slot(word.saturating_mul(WORD))) {
                    *bits = 0;
                }
            }
            self.top = counter;
        } else if self.top - counter >= REACH {
            return;
        }
        if let Some((word, bit)) = self.place(counter) {
            *word |= bit;
        }
    }

    fn place(&mut self, counter: u64) -> Option<(&mut u64, u64)> {
        Some((self.bits.get_mut(slot(counter))?, 1 << (counter % WORD)))
    }
}

/// Which word of the ring; below `WORDS` by its making.
fn slot(counter: u64) -> usize {
    (counter / WORD % WORDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_window_tells_the_last_2048_apart() {
        let mut window = Window::after(0);
        assert!(!window.is_new(0));
        window.note(1);
        window.note(5000);
        assert!(!window.is_new(5000));
        assert!(window.is_new(5000 - REACH + 1));
        assert!(!window.is_new(5000 - REACH));
        assert!(!window.is_new(2));
        window.note(u64::MAX);
        assert!(window.is_new(u64::MAX - REACH + 1) && !window.is_new(u64::MAX) && !window.is_new(5001));
    }

    proptest! {
        /// The window says "new" of exactly what a set of all counters says, within its reach.
        #[test]
        fn a_window_agrees_with_a_set(
            start in prop_oneof![0u64..300, any::<u64>()],
            steps in prop::collection::vec((any::<bool>(), prop_oneof![0u64..70, 0u64..2200, 0u64..100_000]), 1..300),
        ) {
            let mut window = Window::after(start);
            let (mut seen, mut top) = (BTreeSet::new(), start);
            for (ahead, by) in steps {
                let counter = if ahead { top.saturating_add(by) } else { top.saturating_sub(by) };
                let wanted = counter > start && !seen.contains(&counter) && top.saturating_sub(counter) < REACH;
                prop_assert_eq!(window.is_new(counter), wanted, "counter {} of {}", counter, top);
                window.note(counter);
                seen.insert(counter);
                top = top.max(counter);
                prop_assert_eq!(window.top(), top);
                prop_assert!(!window.is_new(counter));
            }
        }
    }
}
