//! Why the store could not do what was asked.

use std::io;
use std::path::{Path, PathBuf};

use super::{NAME_MAX, VALUE_MAX};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the store. Nothing was changed.
    #[error(
        "the state directory {} is in use by {}: stop that process, or choose another directory",
        dir.display(), pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The store's directory.
        dir: PathBuf,
        /// The process, where it has written its number.
        pid: Option<u32>,
    },
    /// The store was written by a newer tombolo. Nothing was changed.
    #[error(
        "the state in {} was written by a newer tombolo: it has schema {found}, and this version ({}) knows schema {ours}. \
         Run the newer version again; or move that directory aside, and this version notes anew what Docker and the kernel have",
        dir.display(), env!("CARGO_PKG_VERSION")
    )]
    Newer {
        /// The store's directory.
        dir: PathBuf,
        /// The schema of the store.
        found: u32,
        /// The schema asked for.
        ours: u32,
    },
    /// The store was written by an older tombolo and there is no way from its schema to ours. Nothing was changed.
    #[error("the state in {} has schema {found}, which this version (schema {ours}) can no longer read", dir.display())]
    Older {
        /// The store's directory.
        dir: PathBuf,
        /// The schema of the store.
        found: u32,
        /// The schema asked for.
        ours: u32,
    },
    /// The operating system refused something. On opening and in a backup: what was there is still there.
    #[error("{doing} {}{}", path.display(), hint(source))]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A value is too long. Nothing was written.
    #[error("the value of {table}/{key} has {bytes} bytes; the store takes {VALUE_MAX}")]
    TooLarge {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// The value's length.
        bytes: usize,
    },
    /// A table or key that cannot be a name. Nothing was written.
    #[error(
        "{table:?}/{key:?} names no row: a table has a name, no name holds NUL, both together have at most {NAME_MAX} bytes"
    )]
    BadName {
        /// The table.
        table: String,
        /// The key.
        key: String,
    },
    /// A row cannot be in the backup. The last backup was kept.
    #[error("backing up {table}/{key}: its value is no JSON document")]
    NotJson {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// What is read is not what was written. Opening the store again repairs what can be repaired.
    #[error("the state in {} is damaged ({why}): restart tombolo to repair it", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A commit failed half-way. It may or may not be there after the next opening.
    #[error(
        "writing the state failed ({why}); whether the change was kept is known after a restart of tombolo"
    )]
    Unsure {
        /// What failed.
        why: String,
    },
    /// An earlier commit failed, so nothing more is written. Nothing was changed.
    #[error(
        "the state is not written any more since a write failed ({why}): see to the disk, then restart tombolo"
    )]
    Closed {
        /// What failed then.
        why: String,
    },
}

impl Error {
    /// Names what was being done to `path` when the operating system refused.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// What the operator can do about a refusal.
fn hint(refusal: &io::Error) -> &'static str {
    match refusal.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some space there, then start again)"
        }
        io::ErrorKind::PermissionDenied => " (run as root, or give this user the directory and all in it)",
        io::ErrorKind::ReadOnlyFilesystem => {
            " (mount that file system for writing; `dmesg` tells if the disk failed)"
        }
        _ => "",
    }
}
