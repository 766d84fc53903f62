//! Rows as entries of the database: a value is cut into pieces, and every entry counts in one digest of all.

use tombolo_core::model::fnv1a;

use super::Row;

/// The largest piece of a value, in bytes.
const PIECE: usize = 4096;

/// An entry to write, or without a value to remove.
pub(super) type Edit<'a> = (Vec<u8>, Option<&'a [u8]>);

/// `table NUL key NUL piece`: ordered as the rows are.
fn name(table: &str, key: &str, piece: usize) -> Vec<u8> {
    let mut name = Vec::with_capacity(table.len() + key.len() + 3);
    name.extend_from_slice(table.as_bytes());
    name.push(0);
    name.extend_from_slice(key.as_bytes());
    // The longest value has 16 pieces.
    name.extend_from_slice(&[0, piece as u8]);
    name
}

fn parse(name: &[u8]) -> Option<(&str, &str, usize)> {
    let (piece, names) = name.split_last()?;
    let (table, key) = std::str::from_utf8(names)
        .ok()?
        .strip_suffix('\0')?
        .split_once('\0')?;
    Some((table, key, usize::from(*piece)))
}

/// An entry's part of the digest, which is the sum of all parts: so a change costs what changes and no more.
fn part(name: &[u8], value: &[u8]) -> u64 {
    fnv1a(&[&name.len().to_be_bytes(), name, value].concat())
}

/// The entries to write and to remove so that the row has this value, or is absent. `old` tells what an entry is now.
pub(super) fn edits<'a, V: AsRef<[u8]>, E>(
    table: &str,
    key: &str,
    value: Option<&'a [u8]>,
    digest: &mut u64,
    old: impl Fn(&[u8]) -> Result<Option<V>, E>,
) -> Result<Vec<Edit<'a>>, E> {
    let pieces: Vec<&[u8]> = match value {
        Some([]) => vec![&[]],
        Some(value) => value.chunks(PIECE).collect(),
        None => Vec::new(),
    };
    let mut edits: Vec<Edit<'a>> = Vec::with_capacity(pieces.len());
    for piece in 0.. {
        let (name, value) = (name(table, key, piece), pieces.get(piece).copied());
        let old = old(&name)?;
        if value.is_none() && old.is_none() {
            break;
        }
        let parts = (
            old.map_or(0, |old| part(&name, old.as_ref())),
            value.map_or(0, |value| part(&name, value)),
        );
        *digest = digest.wrapping_sub(parts.0).wrapping_add(parts.1);
        edits.push((name, value));
    }
    Ok(edits)
}

/// Rows put together again from entries in their order.
#[derive(Default)]
pub(super) struct Gathered {
    rows: Vec<Row>,
    /// How many pieces of the last row there are.
    pieces: usize,
    digest: u64,
}

impl Gathered {
    /// Adds the next entry, or says what is wrong with it.
    pub(super) fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        self.digest = self.digest.wrapping_add(part(name, value));
        let (table, key, piece) =
            parse(name).ok_or_else(|| format!("the entry {} is no row", name.escape_ascii()))?;
        match self
            .rows
            .last_mut()
            .filter(|row| row.table == table && row.key == key)
        {
            Some(row) if piece == self.pieces => row.value.extend_from_slice(value),
            None if piece == 0 => {
                self.rows.push(Row {
                    table: table.to_owned(),
                    key: key.to_owned(),
                    value: value.to_vec(),
                });
            }
            _ => return Err(format!("a piece of {table}/{key} is missing")),
        }
        self.pieces = piece + 1;
        Ok(())
    }

    /// The rows, if they are those that the digest was made of.
    pub(super) fn checked(self, digest: u64) -> Result<Vec<Row>, String> {
        if self.digest == digest {
            Ok(self.rows)
        } else {
            Err("its rows do not fit its digest".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

    fn put(entries: &mut Entries, digest: &mut u64, row: (&str, &str), value: Option<&[u8]>) {
        let old = |name: &[u8]| Ok::<_, Infallible>(entries.get(name).cloned());
        for (name, value) in edits(row.0, row.1, value, digest, old).unwrap() {
            match value {
                Some(value) => entries.insert(name, value.to_vec()),
                None => entries.remove(&name),
            };
        }
    }

    fn gather(entries: &Entries, digest: u64) -> Result<Vec<Row>, String> {
        let mut rows = Gathered::default();
        entries
            .iter()
            .try_for_each(|(name, value)| rows.add(name, value))?;
        rows.checked(digest)
    }

    proptest! {
        #[test]
        fn rows_are_gathered_as_put_and_a_missing_or_changed_entry_is_seen(
            puts in prop::collection::vec(("[a-c]", "[a-c]{0,2}", prop::option::of(0..3 * PIECE)), 1..40),
            pick: prop::sample::Index,
        ) {
            let (mut entries, mut digest, mut model) = (Entries::new(), 0, BTreeMap::new());
            for (n, (table, key, length)) in puts.into_iter().enumerate() {
                let value = length.map(|length| vec![n as u8; length]);
                put(&mut entries, &mut digest, (&table, &key), value.as_deref());
                match value {
                    Some(value) => model.insert((table, key), value),
                    None => model.remove(&(table, key)),
                };
            }
            let expected: Vec<Row> =
                model.into_iter().map(|((table, key), value)| Row { table, key, value }).collect();
            prop_assert_eq!(gather(&entries, digest), Ok(expected));
            prop_assert!(!entries.is_empty() || digest == 0);
            if !entries.is_empty() {
                let name = pick.get(&entries.keys().cloned().collect::<Vec<_>>()).clone();
                let mut hurt = entries.clone();
                hurt.entry(name.clone()).or_default().push(1);
                prop_assert!(gather(&hurt, digest).is_err());
                hurt.remove(&name);
                prop_assert!(gather(&hurt, digest).is_err());
            }
        }
    }
}
