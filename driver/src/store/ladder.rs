//! Opening, rung by rung, until the store opens. Each rung is tried once.
//!
//! ```text
//! 1. open db and read all of it                  -> Whole
//! 2. set its snapshots aside, open, read         -> Recovered, nothing lost
//! 3. start from the newest whole copy (the backup, or what 1 or 2 could read), else empty
//!                                                -> Recovered, lost
//! ```
//!
//! A copy of the database is made before each opening, since opening already changes it. On damage the copy goes to
//! `damaged-<n>/db`, so nothing that was found is ever lost. A new database is made whole beside the old one
//! (`db.built`, `db.copied`, `db.ready`) and then takes its place: a crash anywhere leaves the old one, or the new one, or a
//! `db.ready` that the next opening puts in place.

use std::path::{Path, PathBuf};

use super::backup::{self, Found, Saved};
use super::files::{Place, copy, remove, shift, sync_tree};
use super::raw::{Fault, Raw};
use super::{Error, Opened, Row, mark};

/// What one rung came to, short of an error.
enum Tried {
    Good(Raw),
    Damaged { why: String, saved: Option<Saved> },
}

/// Opens the store, by whatever rung it takes.
pub(super) fn climb(place: &Place, schema: u32) -> Result<(Raw, Opened), Error> {
    finish(place)?;
    let mark = mark::read(place)?;
    if !place.db().exists() {
        return if place.untouched()? {
            make(place, schema, 0, &[], None)?;
            finish(place)?;
            Ok((must(attempt(place, schema, None)?, place)?, Opened::Fresh))
        } else {
            let damaged = place.damaged()?;
            start_over(
                place,
                schema,
                &damaged,
                "the database is missing",
                mark,
                Vec::new(),
            )
        };
    }
    keep(place)?;
    match attempt(place, schema, mark) {
        Ok(Tried::Good(raw)) => {
            remove(&place.found())?;
            let opened = match raw.lost() {
                Some(how) => Opened::Recovered {
                    how: how.to_owned(),
                    lost: true,
                },
                None => Opened::Whole,
            };
            Ok((raw, opened))
        }
        Ok(Tried::Damaged { why, saved }) => repair(place, schema, mark, why, saved),
        Err(error @ (Error::Newer { .. } | Error::Older { .. })) => {
            // It is another version's, to the last byte: opening it has already changed some.
            sync_tree(&place.found())?;
            shift(&place.found(), &place.ready())?;
            remove(&place.db())?;
            shift(&place.ready(), &place.db())?;
            Err(error)
        }
        Err(error) => {
            // No damage was found, so the database may go on changing and the copy would be stale.
            remove(&place.found())?;
            Err(error)
        }
    }
}

/// The rungs after the first.
fn repair(
    place: &Place,
    schema: u32,
    mark: Option<u64>,
    why: String,
    saved: Option<Saved>,
) -> Result<(Raw, Opened), Error> {
    tracing::error!("the database is damaged: {why}");
    // Before anything is moved: a backup with another schema means that this is not ours to repair.
    check_backup(place, schema)?;
    sync_tree(&place.found())?;
    let damaged = place.damaged()?;
    let found = damaged.join("db");
    shift(&place.found(), &found)?;
    let mut copies: Vec<Saved> = saved.into_iter().collect();

    if has_snapshots(&found)? {
        tracing::warn!("setting the snapshots of the database aside");
        copy(&found, &place.copied(), |name| !is_snapshot(name))?;
        ready(place)?;
        swap(place, || Ok(damaged.join("db-tried")))?;
        match attempt(place, schema, mark)? {
            Tried::Good(raw) => {
                let how = format!(
                    "the database did not open ({why}) until its snapshots were set aside; what was found is kept in {}",
                    damaged.display()
                );
                let opened = match raw.lost() {
                    Some(lost) => Opened::Recovered {
                        how: format!("{lost}; then {how}"),
                        lost: true,
                    },
                    None => Opened::Recovered { how, lost: false },
                };
                return Ok((raw, opened));
            }
            Tried::Damaged { why, saved } => {
                tracing::error!("the database is damaged without its snapshots as well: {why}");
                copies.extend(saved);
            }
        }
    }
    start_over(
        place,
        schema,
        &damaged,
        &format!("the database is damaged ({why})"),
        mark,
        copies,
    )
}

/// The last rung: a new database from the newest copy that is whole.
fn start_over(
    place: &Place,
    schema: u32,
    damaged: &Path,
    why: &str,
    mark: Option<u64>,
    copies: Vec<Saved>,
) -> Result<(Raw, Opened), Error> {
    check_backup(place, schema)?;
    let read = copies.into_iter().max_by_key(|copy| copy.commits);
    let (best, from) = match (backup::read(place, schema)?, read) {
        (Found::Whole(backup), Some(read)) if read.commits >= backup.commits => {
            (Some(read), "what could be read of it")
        }
        (Found::Whole(backup), _) => (Some(backup), "the backup"),
        (other, read) => {
            if let Found::Damaged(why) = other {
                tracing::error!("the backup is damaged as well: {why}");
                shift(&place.backup(), &damaged.join("backup.json"))?;
            }
            let from = if read.is_some() {
                "what could be read of it"
            } else {
                "nothing, since there is no whole backup"
            };
            (read, from)
        }
    };
    let Saved { commits, rows } = best.unwrap_or(Saved {
        commits: 0,
        rows: Vec::new(),
    });
    let how = format!(
        "{why}; started from {from}; what was found is kept in {}",
        damaged.display()
    );
    tracing::error!(rows = rows.len(), commit = commits, "{how}");
    // The count of commits never goes back, or the mark would be no proof.
    let commits = commits.max(mark.unwrap_or(0));
    make(place, schema, commits, &rows, Some(how.clone()))?;
    swap(place, || Ok(damaged.join("db-tried-last")))?;
    let raw = must(attempt(place, schema, mark)?, place)?;
    Ok((raw, Opened::Recovered { how, lost: true }))
}

/// Opens and reads the database once.
fn attempt(place: &Place, schema: u32, mark: Option<u64>) -> Result<Tried, Error> {
    let path = place.db();
    match Raw::open(&path, schema) {
        Ok((raw, rows)) => Ok(match mark.filter(|mark| *mark > raw.commits()) {
            None => Tried::Good(raw),
            Some(mark) => {
                let why = format!(
                    "it ends with commit {}, and commit {mark} was made",
                    raw.commits()
                );
                Tried::Damaged {
                    why,
                    saved: Some(Saved {
                        commits: raw.commits(),
                        rows,
                    }),
                }
            }
        }),
        Err(Fault::Damage(why)) => Ok(Tried::Damaged { why, saved: None }),
        Err(Fault::Refused(source)) => Err(Error::io("opening the database", &path)(source)),
        Err(Fault::Schema(found)) => Err(other_schema(place, found, schema)),
    }
}

/// Where a migration will go: `found < ours` is to be read with the old meaning and written with the new. There is only
/// one schema yet, so nothing older can be met.
fn other_schema(place: &Place, found: u32, ours: u32) -> Error {
    let dir = place.dir.clone();
    if found > ours {
        Error::Newer { dir, found, ours }
    } else {
        Error::Older { dir, found, ours }
    }
}

fn check_backup(place: &Place, schema: u32) -> Result<(), Error> {
    match backup::read(place, schema)? {
        Found::Other(found) => Err(other_schema(place, found, schema)),
        _ => Ok(()),
    }
}

/// What we have just made must open.
fn must(tried: Tried, place: &Place) -> Result<Raw, Error> {
    match tried {
        Tried::Good(raw) => Ok(raw),
        Tried::Damaged { why, .. } => Err(Error::Damaged {
            path: place.db(),
            why,
        }),
    }
}

/// Copies the database before it is opened. A copy that is there already is from an opening that died, and truer to
/// what was found then.
fn keep(place: &Place) -> Result<(), Error> {
    if place.found().exists() {
        tracing::warn!("an earlier start ended while it was opening the database");
        return Ok(());
    }
    copy(&place.db(), &place.found(), |_| true)
}

/// Makes a database beside the present one, ready to take its place.
fn make(place: &Place, schema: u32, commits: u64, rows: &[Row], lost: Option<String>) -> Result<(), Error> {
    let built = place.built();
    Raw::create(&built, schema, commits, rows, lost)?;
    // A copy has no lock that a thread of the database might still hold for a moment.
    copy(&built, &place.copied(), |_| true)?;
    remove(&built)?;
    ready(place)
}

fn ready(place: &Place) -> Result<(), Error> {
    sync_tree(&place.copied())?;
    shift(&place.copied(), &place.ready())
}

/// Puts the ready database, if there is one, in the place of the present one, which is kept as `aside`.
fn swap(place: &Place, aside: impl FnOnce() -> Result<PathBuf, Error>) -> Result<(), Error> {
    if !place.ready().exists() {
        return Ok(());
    }
    if place.db().exists() {
        shift(&place.db(), &aside()?)?;
    }
    shift(&place.ready(), &place.db())
}

/// Ends what an earlier opening left undone.
fn finish(place: &Place) -> Result<(), Error> {
    remove(&place.copied())?;
    remove(&place.built())?;
    swap(place, || Ok(place.damaged()?.join("db-tried")))
}

fn is_snapshot(name: &str) -> bool {
    name.starts_with("snap.")
}

fn has_snapshots(db: &Path) -> Result<bool, Error> {
    if !db.is_dir() {
        return Ok(false);
    }
    let entries = std::fs::read_dir(db).map_err(Error::io("listing", db))?;
    Ok(entries
        .flatten()
        .any(|entry| is_snapshot(&entry.file_name().to_string_lossy())))
}
