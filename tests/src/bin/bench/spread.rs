//! Numbers of rounds, and what is said of them: the median, and between which quartiles half of them are.

/// The value that a part (0 to 1) of the numbers doesn't exceed.
pub fn quantile(numbers: &[f64], part: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted[rank.min(sorted.len()) - 1]
}

/// The median.
pub fn median(numbers: &[f64]) -> f64 {
    quantile(numbers, 0.5)
}

/// The median and the quartiles, with so many digits behind the point.
pub fn with_quartiles(numbers: &[f64], digits: usize) -> String {
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|part| quantile(numbers, part));
    format!("{middle:.digits$} ({low:.digits$} to {high:.digits$})")
}

/// What `act` makes of each round's two numbers.
pub fn pairs(ones: &[f64], others: &[f64], act: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    assert_eq!(ones.len(), others.len(), "measured in the same rounds");
    ones.iter()
        .zip(others)
        .map(|(one, other)| act(*one, *other))
        .collect()
}

/// What is said where ratios may be told as a tie.
pub const TIE: &str = " (a tie if 1 is between the quartiles and the median within 5 %)";

/// A small difference is none where rounds differ by more.
const SMALL: f64 = 0.05;

/// Ratios of rounds as they are told, and whether they are on the better side of 1, or as good as 1.
pub fn beside_one(ratios: &[f64], better: std::cmp::Ordering) -> (String, bool) {
    let middle = median(ratios);
    let between = quantile(ratios, 0.25) <= 1.0 && quantile(ratios, 0.75) >= 1.0;
    let tie = between && (middle - 1.0).abs() <= SMALL;
    let order = middle.total_cmp(&1.0);
    let found = with_quartiles(ratios, 2);
    (
        if tie { format!("{found}, a tie") } else { found },
        tie || order.is_eq() || order == better,
    )
}
