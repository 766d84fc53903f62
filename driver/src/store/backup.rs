//! The backup: a plain JSON copy of all rows. The store starts from it when the database is lost, and a person can read
//! it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tombolo_core::model::fnv1a;

use super::files::{Place, parent, sync};
use super::{Error, Row};

type Tables = BTreeMap<String, BTreeMap<String, Value>>;

#[derive(Serialize, Deserialize)]
struct Document {
    schema: u32,
    commits: u64,
    /// The hash of the tables' text, without blanks: a flipped letter is still JSON.
    check: String,
    tables: Tables,
}

/// Only what must be readable in every schema to come.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

/// Rows that were saved, and up to which commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) commits: u64,
    pub(super) rows: Vec<Row>,
}

/// What lies in the place of the backup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A whole backup with our schema.
    Whole(Saved),
    /// A whole backup with this other schema.
    Other(u32),
    /// No backup that can be used, and why.
    Damaged(String),
}

fn check(tables: &Tables) -> Result<String, serde_json::Error> {
    Ok(format!("{:016x}", fnv1a(&serde_json::to_vec(tables)?)))
}

/// Writes the backup so that after a crash the old one or the new one is there.
pub(super) fn write(place: &Place, schema: u32, commits: u64, rows: &[Row]) -> Result<(), Error> {
    let mut tables = Tables::new();
    for Row { table, key, value } in rows {
        let not_json = |source| Error::NotJson {
            table: table.clone(),
            key: key.clone(),
            source,
        };
        let value = serde_json::from_slice(value).map_err(not_json)?;
        tables
            .entry(table.clone())
            .or_default()
            .insert(key.clone(), value);
    }
    let (path, part) = (place.backup(), place.dir.join("backup.json.tmp"));
    let refused = |e: io::Error| Error::io("writing", &part)(e);
    let check = check(&tables).map_err(|e| refused(e.into()))?;
    let document = Document {
        schema,
        commits,
        check,
        tables,
    };
    let mut text = serde_json::to_vec_pretty(&document).map_err(|e| refused(e.into()))?;
    text.push(b'\n');
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .map_err(refused)?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(refused)?;
    fs::rename(&part, &path).map_err(Error::io("writing", &path))?;
    sync(parent(&path))
}

/// Reads the backup.
pub(super) fn read(place: &Place, schema: u32) -> Result<Found, Error> {
    let path = place.backup();
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(e) => return Err(Error::io("reading", &path)(e)),
    };
    Ok(match serde_json::from_slice::<Version>(&text) {
        Err(e) => Found::Damaged(e.to_string()),
        Ok(version) if version.schema != schema => Found::Other(version.schema),
        Ok(_) => parse(&text).map_or_else(|e| Found::Damaged(e.to_string()), Found::Whole),
    })
}

fn parse(text: &[u8]) -> Result<Saved, Box<dyn std::error::Error>> {
    let Document {
        commits,
        check: expected,
        tables,
        ..
    } = serde_json::from_slice(text)?;
    if check(&tables)? != expected {
        return Err("its check does not fit its tables".into());
    }
    let mut rows = Vec::new();
    for (table, keys) in tables {
        for (key, value) in keys {
            rows.push(Row {
                table: table.clone(),
                key,
                value: serde_json::to_vec(&value)?,
            });
        }
    }
    Ok(Saved { commits, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(table: &str, key: &str, value: &str) -> Row {
        Row {
            table: table.to_owned(),
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_backup_is_read_as_written_and_any_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::make(dir.path()).unwrap();
        assert_eq!(read(&place, 1).unwrap(), Found::Nothing);
        let rows = vec![
            row("a", "1", r#"{"n":18446744073709551615}"#),
            row("a", "2", "[]"),
            row("b", "", "\"é\""),
        ];
        write(&place, 1, 9, &rows).unwrap();
        assert_eq!(read(&place, 1).unwrap(), Found::Whole(Saved { commits: 9, rows }));
        assert_eq!(read(&place, 2).unwrap(), Found::Other(1));

        let text = fs::read_to_string(place.backup()).unwrap();
        let broken = [
            text[..text.len() / 2].to_owned(),
            String::new(),
            text.replace("18446744073709551615", "7"),
        ];
        for damaged in broken {
            fs::write(place.backup(), damaged).unwrap();
            assert!(matches!(read(&place, 1).unwrap(), Found::Damaged(_)));
        }
    }

    #[test]
    fn a_row_that_is_no_json_leaves_the_last_backup() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::make(dir.path()).unwrap();
        write(&place, 1, 1, &[row("a", "1", "1")]).unwrap();
        assert!(matches!(
            write(&place, 1, 2, &[row("a", "1", "{")]),
            Err(Error::NotJson { .. })
        ));
        assert!(matches!(
            read(&place, 1).unwrap(),
            Found::Whole(Saved { commits: 1, .. })
        ));
    }
}
