//! What the tests of the table share.

use std::collections::BTreeMap;
use std::sync::Arc;

use tombolo_cluster::HostId;
use tombolo_cluster::table::{Change, Content, Key, Limits, Merged, Outcome, Table, Version, Wire};
use tombolo_cluster::time::Tick;

/// A host by its number.
pub fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

pub fn key(text: &str) -> Key {
    text.parse().unwrap()
}

pub fn v(epoch: u32, count: u32) -> Version {
    Version::new(epoch, count)
}

pub const NOW: Tick = Tick(1_000_000);

/// Half an hour and a second after a time: no removal is told so long.
pub fn much_later(now: Tick) -> Tick {
    Tick(now.0 + 1_801_000)
}

/// A table of host `n` in its first epoch, without rows, that has admitted hosts 1 to 9.
pub fn table(n: u8) -> Table {
    table_with(n, 1, Limits::default(), &[])
}

pub fn table_with(n: u8, epoch: u32, limits: Limits, rows: &[(&str, &str)]) -> Table {
    let rows = rows.iter().map(|(k, body)| (key(k), Arc::from(body.as_bytes())));
    let mut table = Table::new(host(n), epoch, limits, rows).unwrap();
    for other in 1..10 {
        table.admit(host(other)).unwrap();
    }
    table
}

/// Sets an own row that is not like this yet.
pub fn set(table: &mut Table, k: &str, body: &str) -> Change {
    table.set(NOW, key(k), Some(body.as_bytes())).unwrap().unwrap()
}

/// Removes an own row that is there.
pub fn remove(table: &mut Table, k: &str) -> Change {
    table.set(NOW, key(k), None).unwrap().unwrap()
}

pub fn apply(table: &mut Table, change: &Change) -> Outcome {
    table.apply(NOW, change.clone())
}

/// What a table holds of a host, as text.
pub fn rows_of(table: &Table, origin: HostId) -> BTreeMap<String, String> {
    table
        .rows_of(origin)
        .map(|(key, body)| (key.to_string(), text(body)))
        .collect()
}

/// What is visible, as text.
pub fn visible(table: &Table) -> BTreeMap<(HostId, String), String> {
    table
        .visible()
        .map(|(origin, key, body)| ((origin, key.to_string()), text(body)))
        .collect()
}

pub fn text(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).unwrap()
}

pub fn rows(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    rows.iter()
        .map(|(key, body)| (key.to_string(), body.to_string()))
        .collect()
}

pub fn body(change: &Change) -> Option<&[u8]> {
    match &change.content {
        Content::Body(body) => Some(body),
        Content::Removed { .. } => None,
    }
}

/// `to` fetches from `from` what it lacks, in pieces of at most `max_bytes`, through the wire. At most `pieces` are
/// carried over. Answers what became of each.
pub fn pull(
    to: &mut Table,
    from: &mut Table,
    times: (Tick, Tick),
    max_bytes: usize,
    pieces: usize,
) -> Vec<Merged> {
    let differing = to.buckets().into_iter().zip(from.buckets()).enumerate();
    let mask = differing
        .filter(|(_, (one, other))| one != other)
        .fold(0, |mask, (n, _)| mask | 1 << n);
    let heads = from.heads(mask).encode().unwrap();
    let wanted = to.missing(mask, &Vec::decode(&heads, heads.len()).unwrap()).want;
    let mut merged = Vec::new();
    for head in wanted {
        let mut next = Some(head);
        while let Some(head) = next.take().filter(|_| merged.len() < pieces) {
            let Some(delta) = from.delta(times.1, &head, max_bytes) else {
                break;
            };
            let bytes = delta.encode().unwrap();
            assert!(
                bytes.len() <= max_bytes || delta.rows.len() <= 1,
                "{} > {max_bytes}",
                bytes.len()
            );
            let outcome = to.merge(times.0, Wire::decode(&bytes, bytes.len()).unwrap());
            if let Merged::More(head) = &outcome {
                next = Some(head.clone());
            }
            merged.push(outcome);
            assert!(merged.len() < 10_000, "it has an end");
        }
    }
    merged
}

/// Both fetch from each other all that they lack.
pub fn exchange(one: &mut Table, other: &mut Table) {
    pull(one, other, (NOW, NOW), 1 << 20, usize::MAX);
    pull(other, one, (NOW, NOW), 1 << 20, usize::MAX);
    assert_eq!(one.digest(), other.digest());
}
