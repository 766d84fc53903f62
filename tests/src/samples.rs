//! Measured times, in milliseconds, and what is said of them.

use std::fmt;
use std::time::Duration;

/// Times in milliseconds, in the order in which they were measured. Differences of times may be negative.
#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a time.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    /// Adds all times of another.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    /// All of them.
    pub fn all(&self) -> &[f64] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What each is above that of the same number in `other`: of two things that were measured in turns, whatever slowed
    /// down both drops out.
    pub fn above(&self, other: &Self) -> Self {
        assert_eq!(self.len(), other.len(), "two things that were measured in turns");
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }

    /// The smallest of the times that at least `part` (0 to 1) of all do not exceed.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        // At least the first, at most the last: the rank is then in range.
        let rank = (part * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted[rank.min(sorted.len()) - 1]
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The time that 99 of 100 do not exceed.
    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    /// The longest.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

/// Median, p99 and longest, as three cells of a table.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} | {:.2} | {:.2}", self.median(), self.p99(), self.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: &[f64]) -> Samples {
        Samples(times.to_vec())
    }

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let samples = of(&hundred);
        assert_eq!(
            (samples.median(), samples.p99(), samples.max()),
            (50.0, 99.0, 100.0)
        );
        assert_eq!((samples.quantile(0.25), samples.quantile(0.75)), (25.0, 75.0));
        let one = of(&[7.0]);
        assert_eq!((one.median(), one.p99(), one.max()), (7.0, 7.0, 7.0));
        assert_eq!(of(&[3.0, 1.0]).median(), 1.0);
    }

    #[test]
    fn a_difference_goes_from_round_to_round() {
        let difference = of(&[15.0, 25.0, 30.0]).above(&of(&[10.0, 30.0, 20.0]));
        assert_eq!(difference.0, [5.0, -5.0, 10.0]);
    }
}
