//! Waiting for what must become true, by looking at it, with a deadline.

use std::time::{Duration, Instant};

/// How long we wait for anything unless said otherwise. Generous, for machines with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long between two looks. It only spares the processor: nothing depends on it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until the condition gives a value; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, condition) {
        Some(value) => value,
        None => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Looks until the condition gives a value or the time is over.
pub fn within<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
