//! When a lease has to be renewed, and how long an answer is waited for.

use super::{Dice, Terms};

/// How long the first answer is waited for, in milliseconds; twice as long each time, up to the longest.
const FIRST_MS: u64 = 2_000;
pub const LONGEST_MS: u64 = 64_000;

/// What comes when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The server is asked for more time.
    pub t1_ms: u64,
    /// All servers are.
    pub t2_ms: u64,
    /// The address isn't ours any more.
    pub expiry_ms: u64,
}

impl Times {
    /// When what has to come. Times of the server that can't be are replaced by the usual ones (RFC 2131, section 4.4.5), and
    /// those a little shortened by chance, so that what began together doesn't ask together for ever.
    pub fn of(terms: &Terms, asked_ms: u64, dice: Dice) -> Option<Self> {
        let lease_ms = u64::from(terms.lease_s?) * 1_000;
        let told = |seconds: Option<u32>| Some(u64::from(seconds?) * 1_000).filter(|ms| *ms > 0);
        let t2_ms = told(terms.t2_s)
            .filter(|t2| *t2 < lease_ms)
            .unwrap_or_else(|| a_little_less(lease_ms / 8 * 7, dice));
        let t1_ms = told(terms.t1_s)
            .filter(|t1| *t1 < t2_ms)
            .unwrap_or_else(|| a_little_less((lease_ms / 2).min(t2_ms / 7 * 4), dice));
        Some(Self {
            t1_ms: asked_ms.saturating_add(t1_ms),
            t2_ms: asked_ms.saturating_add(t2_ms),
            expiry_ms: asked_ms.saturating_add(lease_ms),
        })
    }
}

/// How long is waited after so many vain questions, in milliseconds.
pub fn back_off_ms(tries: u32, dice: Dice) -> u64 {
    spread_ms((FIRST_MS << tries.min(16)).min(LONGEST_MS), dice)
}

/// Less by chance, by a sixteenth at most.
fn a_little_less(ms: u64, dice: Dice) -> u64 {
    ms - u64::from(dice()) % (ms / 16).max(1)
}

/// An eighth more or less, by chance.
pub fn spread_ms(ms: u64, dice: Dice) -> u64 {
    ms - ms / 8 + u64::from(dice()) % (ms / 4).max(1)
}
