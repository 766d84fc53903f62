//! Doing something inside another network namespace, on a thread of its own: the others stay where they are.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

/// Does something inside the network namespace that a file stands for (`/run/docker/netns/…`, `/proc/PID/ns/net`).
///
/// # Errors
/// When the namespace can't be entered; the work was not begun then.
pub fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    inside_of(&File::open(namespace)?, work)
}

/// The same for a namespace whose file is open.
///
/// # Errors
/// As for [`inside`].
pub fn inside_of<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_a_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

/// Does something inside a new network namespace, which ends with it.
///
/// # Errors
/// When there can't be one; the work was not begun then.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
