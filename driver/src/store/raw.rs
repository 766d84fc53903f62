//! The database: the only file that knows that it is sled.
//!
//! What sled 0.34.7 needs to be trusted with what Docker was promised:
//! - its `flush` on Linux writes no metadata and empties no disk cache, so each commit ends with an fsync of its file
//!   through a handle of our own;
//! - a page of 128 KiB becomes a file of its own that nobody synchronises, and a page holds some twenty entries: so a
//!   value is kept in small pieces ([`super::entries`]), and no page grows so large;
//! - a damaged page may be taken for the end of the log, or be skipped: so one entry of our own, [`Meta`], counts the
//!   commits and holds a digest of all other entries, and both are checked on opening.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::entries::{Gathered, edits};
use super::files::{parent, sync};
use super::panics::caught;
use super::{Error, Row};

/// The name of our own entry. No row's name begins with NUL.
const META: &[u8] = b"\0meta";

/// How much of the records is kept in memory a second time, by the database: what is asked for is answered from the state.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
const FLUSH_EVERY_MS: u64 = 500;
const LOCK_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Meta {
    schema: u32,
    /// How many commits were made; never goes back.
    commits: u64,
    /// The sum of the hashes of all other entries.
    digest: u64,
    /// What the caller must still make up for.
    lost: Option<String>,
}

/// Only what must be readable in every schema to come.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

/// Why a database was not opened or read.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is damaged.
    Damage(String),
    /// The operating system refused something: nothing is known about the database.
    Refused(io::Error),
    /// It is whole and has this other schema.
    Schema(u32),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Io { source, .. } => Self::Refused(source),
            other => Self::Damage(other.to_string()),
        }
    }
}

/// A change to the database.
pub(super) struct Changes<'a> {
    /// Forget all rows first.
    pub(super) clear: bool,
    pub(super) puts: BTreeMap<(&'a str, &'a str), Option<&'a [u8]>>,
    /// The caller has made up for what was lost.
    pub(super) rebuilt: bool,
}

/// The open database.
#[derive(Debug)]
pub(super) struct Raw {
    db: Handle,
    path: PathBuf,
    /// The database's file, for the fsync that makes a commit durable.
    file: File,
    meta: Meta,
}

/// The database's handle; closing a damaged one may panic.
#[derive(Debug)]
struct Handle(Option<sled::Db>);

impl Handle {
    fn get(&self) -> &sled::Db {
        self.0.as_ref().expect("the database is taken only by drop")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let db = self.0.take();
        if let Err(why) = caught(move || drop(db)) {
            tracing::warn!("closing the database: {why}");
        }
    }
}

impl Raw {
    /// Opens the database and reads all of it.
    pub(super) fn open(path: &Path, schema: u32) -> Result<(Self, Vec<Row>), Fault> {
        let db = connect(path)?;
        let (meta, rows) = caught(|| {
            let meta = meta(db.get(), schema)?;
            let rows = read(db.get(), meta.digest)?;
            Ok::<_, Fault>((meta, rows))
        })
        .map_err(panicked)??;
        let file = secure(path)?;
        Ok((
            Self {
                db,
                path: path.to_owned(),
                file,
                meta,
            },
            rows,
        ))
    }

    /// Makes a database that holds `rows`. `lost` is what the caller must make up for.
    pub(super) fn create(
        path: &Path,
        schema: u32,
        commits: u64,
        rows: &[Row],
        lost: Option<String>,
    ) -> Result<(), Error> {
        let failed = |fault| match fault {
            Fault::Refused(e) => Error::io("making the database", path)(e),
            Fault::Damage(why) => Error::Damaged {
                path: path.to_owned(),
                why,
            },
            Fault::Schema(found) => Error::Damaged {
                path: path.to_owned(),
                why: format!("it has schema {found}"),
            },
        };
        let db = connect(path).map_err(failed)?;
        let file = secure(path).map_err(failed)?;
        let meta = Meta {
            schema,
            commits,
            digest: 0,
            lost,
        };
        let puts = rows
            .iter()
            .map(|r| ((r.table.as_str(), r.key.as_str()), Some(r.value.as_slice())))
            .collect();
        let mut raw = Self {
            db,
            path: path.to_owned(),
            file,
            meta,
        };
        raw.write(&Changes {
            clear: false,
            puts,
            rebuilt: false,
        })
        .map_err(|why| failed(Fault::Refused(io::Error::other(why))))
    }

    /// All rows, ordered.
    pub(super) fn rows(&self) -> Result<Vec<Row>, Error> {
        match caught(|| read(self.db.get(), self.meta.digest))
            .map_err(panicked)
            .flatten()
        {
            Ok(rows) => Ok(rows),
            Err(Fault::Refused(e)) => Err(Error::io("reading the database", &self.path)(e)),
            Err(Fault::Damage(why)) => Err(Error::Damaged {
                path: self.path.clone(),
                why,
            }),
            Err(Fault::Schema(found)) => Err(Error::Damaged {
                path: self.path.clone(),
                why: format!("it has schema {found}"),
            }),
        }
    }

    /// Makes a change durably. After an error its outcome is unknown, and so is the state of the database.
    pub(super) fn write(&mut self, changes: &Changes<'_>) -> Result<(), String> {
        let mut meta = self.meta.clone();
        meta.commits += 1;
        if changes.rebuilt {
            meta.lost = None;
        }
        let db = self.db.get();
        let done = caught(|| {
            let batch = draft(db, &mut meta, changes)?;
            db.apply_batch(batch)?;
            db.flush()
        });
        done.and_then(|done| done.map(drop).map_err(|e| e.to_string()))?;
        self.file
            .sync_all()
            .map_err(|e| format!("fsync of the database: {e}"))?;
        self.meta = meta;
        Ok(())
    }

    pub(super) fn schema(&self) -> u32 {
        self.meta.schema
    }

    pub(super) fn commits(&self) -> u64 {
        self.meta.commits
    }

    pub(super) fn lost(&self) -> Option<&str> {
        self.meta.lost.as_deref()
    }
}

fn connect(path: &Path) -> Result<Handle, Fault> {
    wait_for_lock(&path.join("db")).map_err(|e| fault(e.into()))?;
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    let db = caught(|| config.open()).map_err(panicked)?.map_err(fault)?;
    Ok(Handle(Some(db)))
}

/// Waits until nobody has the lock on the database's file. The store's own lock keeps other processes out, but a thread
/// of a database that was closed a moment ago may hold its file a little longer, and sled does not wait.
fn wait_for_lock(file: &Path) -> io::Result<()> {
    let file = match File::open(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another process holds its file",
                ));
            }
            Err(TryLockError::Error(e)) => return Err(e),
            Ok(()) => return Ok(()),
        }
    }
}

/// Puts everything that opening made or changed on the disk, and opens the handle that commits synchronise.
fn secure(path: &Path) -> Result<File, Fault> {
    let file = File::open(path.join("db")).map_err(Fault::Refused)?;
    file.sync_all().map_err(Fault::Refused)?;
    for part in [&path.join("conf"), &path.join("blobs"), path, parent(path)] {
        sync(part)?;
    }
    Ok(file)
}

fn panicked(why: String) -> Fault {
    // The database unwraps some refusals of the operating system; these show as `Os { code: …`.
    if why.contains("Os { code:") {
        Fault::Refused(io::Error::other(why))
    } else {
        Fault::Damage(why)
    }
}

/// Tells damage from a refusal. The database keeps the kind of an I/O error but not always its number.
fn fault(error: sled::Error) -> Fault {
    use io::ErrorKind as Kind;
    match error {
        sled::Error::Io(e) => match e.kind() {
            Kind::UnexpectedEof | Kind::InvalidData | Kind::InvalidInput | Kind::NotFound => {
                Fault::Damage(e.to_string())
            }
            Kind::NotADirectory | Kind::IsADirectory | Kind::AlreadyExists => Fault::Damage(e.to_string()),
            Kind::Other if !e.to_string().contains("could not acquire lock") => Fault::Damage(e.to_string()),
            _ => Fault::Refused(e),
        },
        other => Fault::Damage(other.to_string()),
    }
}

fn meta(db: &sled::Db, schema: u32) -> Result<Meta, Fault> {
    let entry = db
        .get(META)
        .map_err(fault)?
        .ok_or_else(|| Fault::Damage("it has no schema".to_owned()))?;
    let garbled = |e: serde_json::Error| Fault::Damage(format!("its schema is unreadable: {e}"));
    let version: Version = serde_json::from_slice(&entry).map_err(garbled)?;
    if version.schema != schema {
        return Err(Fault::Schema(version.schema));
    }
    serde_json::from_slice(&entry).map_err(garbled)
}

/// All rows, checked against the digest.
fn read(db: &sled::Db, digest: u64) -> Result<Vec<Row>, Fault> {
    let mut rows = Gathered::default();
    for entry in db.iter() {
        let (name, value) = entry.map_err(fault)?;
        if *name != *META {
            rows.add(&name, &value).map_err(Fault::Damage)?;
        }
    }
    rows.checked(digest).map_err(Fault::Damage)
}

/// The change as a batch of entries, our own among them.
fn draft(db: &sled::Db, meta: &mut Meta, changes: &Changes<'_>) -> Result<sled::Batch, sled::Error> {
    let mut batch = sled::Batch::default();
    if changes.clear {
        for name in db.iter().keys() {
            batch.remove(name?);
        }
        meta.digest = 0;
    }
    let old = |name: &[u8]| if changes.clear { Ok(None) } else { db.get(name) };
    for ((table, key), value) in &changes.puts {
        for (name, value) in edits(table, key, *value, &mut meta.digest, old)? {
            match value {
                Some(value) => batch.insert(name, value),
                None => batch.remove(name),
            }
        }
    }
    let entry = serde_json::to_vec(meta).map_err(io::Error::from)?;
    batch.insert(META, entry);
    Ok(batch)
}
