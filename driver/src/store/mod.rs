//! The store: what tombolo remembers, kept so that it survives a crash, a power cut and a damaged disk.
//!
//! It knows bytes only: a row is a table's name, a key and a value, and the caller says what they mean. A commit
//! returns when its changes would survive a power cut, all of them or none. What lies in the directory:
//!
//! | name | what it is |
//! |---|---|
//! | `lock` | held while the store is open; its content is the holder's process id |
//! | `db/` | the database ([`raw`]) |
//! | `mark` | the number of the last commit, written after it ([`mark`]): a database that is behind it has lost some |
//! | `backup.json` | a plain copy from a while ago ([`backup`]) |
//! | `damaged-<n>/` | what was found damaged on opening; never deleted by us |
//! | `db.found/`, `db.built/`, `db.copied/`, `db.ready/` | only while the store is being opened ([`ladder`]) |
//!
//! All calls block for milliseconds; the caller gives them a thread of their own.

mod backup;
mod entries;
mod error;
mod files;
mod ladder;
mod mark;
mod panics;
mod raw;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use error::Error;

use self::files::{Lock, Place};
use self::mark::Mark;
use self::raw::{Changes, Raw};

/// The longest value, in bytes.
pub const VALUE_MAX: usize = 64 * 1024;

/// The longest table name and key together, in bytes.
pub const NAME_MAX: usize = 400;

/// A remembered value and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The table's name.
    pub table: String,
    /// The key, alone of its name in the table.
    pub key: String,
    /// The value: a JSON document, so that the backup is readable.
    pub value: Vec<u8>,
}

/// One change: a value to remember, or a row to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The table's name.
    pub table: String,
    /// The key.
    pub key: String,
    /// The value; none to forget the row, which may be absent already.
    pub value: Option<Vec<u8>>,
}

impl Put {
    /// A value to remember.
    pub fn set(table: impl Into<String>, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            table: table.into(),
            key: key.into(),
            value: Some(value.into()),
        }
    }

    /// A row to forget.
    pub fn remove(table: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            table: table.into(),
            key: key.into(),
            value: None,
        }
    }
}

/// What was found on opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Nothing: the store was made.
    Fresh,
    /// All that was committed.
    Whole,
    /// Something was damaged or missing.
    Recovered {
        /// What was wrong, what was done and where the damaged files are, as a sentence for the operator.
        how: String,
        /// Whether acknowledged commits may be missing. The caller must then rebuild from the kernel and Docker, and
        /// say so with [`Store::rebuilt`]; until then every opening says it again.
        lost: bool,
    },
}

/// The open store. One process at a time has it.
#[derive(Debug)]
pub struct Store {
    place: Place,
    state: Mutex<State>,
    // Last, so that the lock is let go after the database is closed.
    _lock: Lock,
}

#[derive(Debug)]
struct State {
    raw: Raw,
    mark: Mark,
    /// Why nothing more is written: a commit failed and its outcome is not known.
    broken: Option<String>,
}

impl Store {
    /// Opens the store in `dir`, or makes it; `dir` is made with mode 0700 if it is missing. Everything in the store is
    /// read and checked before this returns.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it, [`Error::Newer`] or [`Error::Older`] if it was written with another
    /// schema; then nothing was changed. [`Error::Io`] if the operating system refused something (disk full, no right):
    /// such a refusal is never taken for damage. [`Error::Damaged`] if even a store made anew cannot be read.
    pub fn open(dir: &Path, schema: u32) -> Result<(Self, Opened), Error> {
        let place = Place::make(dir)?;
        let lock = Lock::take(&place)?;
        let (raw, opened) = ladder::climb(&place, schema)?;
        let mark = Mark::open(&place, raw.commits())?;
        match &opened {
            Opened::Fresh => tracing::info!(dir = %dir.display(), "made a new store"),
            Opened::Whole => {
                tracing::debug!(dir = %dir.display(), commits = raw.commits(), "opened the store")
            }
            Opened::Recovered { how, lost: false } => tracing::warn!("the store was repaired: {how}"),
            Opened::Recovered { how, lost: true } => tracing::error!("the store has lost data: {how}"),
        }
        let state = Mutex::new(State {
            raw,
            mark,
            broken: None,
        });
        Ok((
            Self {
                place,
                state,
                _lock: lock,
            },
            opened,
        ))
    }

    /// All rows, ordered by table and key.
    ///
    /// # Errors
    /// [`Error::Damaged`] if what is read is not what was written: open the store again.
    pub fn load(&self) -> Result<Vec<Row>, Error> {
        self.state().raw.rows()
    }

    /// Makes all the changes, or none. When it returns without error they would survive a power cut. The last of
    /// several changes to one row counts. No changes: nothing is written.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::BadName`]: nothing was written. [`Error::Unsure`]: the changes may or may not be
    /// there after the next opening, and nothing more is written until then ([`Error::Closed`]).
    pub fn commit(&self, changes: &[Put]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let puts = named_puts(changes)?;
        self.write(&Changes {
            clear: false,
            puts,
            rebuilt: false,
        })
    }

    /// Forgets everything and remembers `rows`, in one step: after a crash either the old rows are there or the new.
    /// All of it is one batch of the database and in memory until it is written: some 20 microseconds and 8 kilobytes a
    /// row were measured, so 100,000 rows take seconds and most of a gigabyte.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn replace(&self, rows: &[Row]) -> Result<(), Error> {
        let puts = named(
            rows.iter()
                .map(|r| (r.table.as_str(), r.key.as_str(), Some(r.value.as_slice()))),
        )?;
        self.write(&Changes {
            clear: true,
            puts,
            rebuilt: false,
        })
    }

    /// Notes that the caller has made up for a loss that [`Opened::Recovered`] told, so that the next opening does not
    /// tell it again. Durable like a commit.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn rebuilt(&self) -> Result<(), Error> {
        self.write(&Changes {
            clear: false,
            puts: BTreeMap::new(),
            rebuilt: true,
        })
    }

    /// Writes the copy `backup.json` anew: readable, and what the store starts from if the database is lost.
    ///
    /// # Errors
    /// [`Error::NotJson`] for a row that is no JSON document, [`Error::Io`], [`Error::Damaged`]. The copy that was
    /// there is kept.
    pub fn backup(&self) -> Result<(), Error> {
        let (schema, commits, rows) = {
            let state = self.state();
            (state.raw.schema(), state.raw.commits(), state.raw.rows()?)
        };
        backup::write(&self.place, schema, commits, &rows)
    }

    fn write(&self, changes: &Changes<'_>) -> Result<(), Error> {
        let mut state = self.state();
        if let Some(why) = &state.broken {
            return Err(Error::Closed { why: why.clone() });
        }
        // After a failed fsync the next one may succeed without having written anything, so there is no second try.
        if let Err(why) = state.raw.write(changes) {
            state.broken = Some(why.clone());
            return Err(Error::Unsure { why });
        }
        let commits = state.raw.commits();
        state.mark.set(commits);
        Ok(())
    }

    /// A panic of the database is caught where it is called, so a poisoned mutex tells nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether changes can be written as far as their names and sizes go.
///
/// # Errors
/// [`Error::TooLarge`] or [`Error::BadName`].
pub fn check(changes: &[Put]) -> Result<(), Error> {
    named_puts(changes).map(drop)
}

fn named_puts(changes: &[Put]) -> Result<Named<'_>, Error> {
    named(
        changes
            .iter()
            .map(|put| (put.table.as_str(), put.key.as_str(), put.value.as_deref())),
    )
}

type Named<'a> = BTreeMap<(&'a str, &'a str), Option<&'a [u8]>>;

/// The changes by name, once their names and sizes are checked.
fn named<'a>(
    changes: impl Iterator<Item = (&'a str, &'a str, Option<&'a [u8]>)>,
) -> Result<Named<'a>, Error> {
    let mut puts = Named::new();
    for (table, key, value) in changes {
        let plain = !table.is_empty() && !table.contains('\0') && !key.contains('\0');
        if !plain || table.len() + key.len() > NAME_MAX {
            return Err(Error::BadName {
                table: table.to_owned(),
                key: key.to_owned(),
            });
        }
        if let Some(bytes) = value.map(<[u8]>::len).filter(|len| *len > VALUE_MAX) {
            return Err(Error::TooLarge {
                table: table.to_owned(),
                key: key.to_owned(),
                bytes,
            });
        }
        puts.insert((table, key), value);
    }
    Ok(puts)
}
