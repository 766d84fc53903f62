//! What whoever runs the tests asks for, in variables of the environment.

use std::fmt::Display;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::say;

/// What a variable says, or nothing where it is not set. One that can't be read ends the run.
#[track_caller]
pub fn asked<T: FromStr<Err: Display>>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(e) => panic!("{variable}={text}: {e}"),
    }
}

/// How many there are to be: at least one.
#[track_caller]
pub fn count(variable: &str, default: usize) -> usize {
    let count = asked(variable).unwrap_or(default);
    assert!(count > 0, "{variable} must be at least 1");
    count
}

/// What the random numbers of a run follow from: what a variable says, or the time. It is shown, so a run that failed can be had
/// again.
#[track_caller]
pub fn seed(variable: &str) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("a clock after 1970").as_secs();
    let seed = asked(variable).unwrap_or(now);
    say(&format!("{variable}={seed}"));
    seed
}
