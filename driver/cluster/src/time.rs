//! Time as the cluster's code knows it: handed in, never read.

use std::ops::Add;
use std::time::Duration;

/// A point of a clock that never goes back: milliseconds since some start, which differs between hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// How long ago `earlier` was; zero for what is still to come.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        // Half a thousand million years of milliseconds fit.
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}
