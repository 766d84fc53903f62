//! Panics of the database, turned into errors without a word on stderr.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::thread;

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`; a panic in it comes back as its message.
///
/// The value that panicked must not be used again: the caller closes the database or leaves it be.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    quieten();
    let outer = CAUGHT.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    result.map_err(|payload| format!("the database panicked: {}", message(&*payload)))
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Keeps the panics that we catch, and those of the database's own threads, from the hook that prints them. All others
/// go to the hook that was there.
fn quieten() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let named = |name: &str| name.starts_with("sled-io-") || name == "log flusher";
            if CAUGHT.get() || thread::current().name().is_some_and(named) {
                tracing::debug!("panic of the database: {info}");
            } else {
                loud(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(
            caught(|| panic!("torn")),
            Err::<(), _>("the database panicked: torn".to_owned())
        );
        assert_eq!(
            caught(|| panic!("torn {}", 1)),
            Err::<(), _>("the database panicked: torn 1".to_owned())
        );
        assert!(!CAUGHT.get());
    }
}
