//! What the store's tests share: a process that writes until it is killed, and what it must have written.
//!
//! Commit number `n` is always the same changes, so the content after it is known: a store is right if its content is
//! that after some commit that is not older than the last one acknowledged.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use tombolo::store::{Opened, Put, Row, Store};

pub const SCHEMA: u32 = 1;
const DIR: &str = "TOMBOLO_TEST_WRITER_DIR";

/// A small generator of random numbers (xorshift64*), so that a seed tells the whole run.
pub struct Random(u64);

impl Random {
    /// From `TOMBOLO_TEST_SEED`, or from the clock; the seed is printed.
    pub fn new() -> Self {
        let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = std::env::var("TOMBOLO_TEST_SEED").map_or_else(|_| clock(), |s| s.parse().unwrap());
        println!("TOMBOLO_TEST_SEED={seed}");
        Self(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// The changes of commit `n`: a pair of rows that always agree, now and then a removal, and the number itself. Most
/// values have up to 400 bytes, one in eleven several kilobytes, one in 97 nearly as many as the store takes.
pub fn changes(n: u64) -> Vec<Put> {
    let pad = match n {
        n if n.is_multiple_of(97) => 60_000,
        n if n.is_multiple_of(11) => 2_000 + (n % 7) * 1_500,
        n => n * 31 % 350,
    };
    let value = format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(pad as usize));
    let pair = |k: u64| [("left", format!("{k:03}")), ("right", format!("{k:03}"))];
    let mut puts: Vec<Put> = pair(n * 7 % 120)
        .map(|(t, k)| Put::set(t, k, value.clone()))
        .into();
    if n.is_multiple_of(5) {
        puts.extend(pair(n * 13 % 120).map(|(t, k)| Put::remove(t, k)));
    }
    puts.push(Put::set("count", "last", n.to_string()));
    puts
}

/// What the store must hold, commit by commit.
#[derive(Default)]
pub struct Model {
    pub n: u64,
    rows: BTreeMap<(String, String), Vec<u8>>,
}

impl Model {
    pub fn at(n: u64) -> Self {
        let mut model = Self::default();
        model.advance(n);
        model
    }

    pub fn advance(&mut self, n: u64) {
        while self.n < n {
            self.n += 1;
            for put in changes(self.n) {
                match put.value {
                    Some(value) => self.rows.insert((put.table, put.key), value),
                    None => self.rows.remove(&(put.table, put.key)),
                };
            }
        }
    }

    pub fn rows(&self) -> Vec<Row> {
        let row = |((table, key), value): (&(String, String), &Vec<u8>)| Row {
            table: table.clone(),
            key: key.clone(),
            value: value.clone(),
        };
        self.rows.iter().map(row).collect()
    }
}

/// The number of the last commit in `rows`.
pub fn last(rows: &[Row]) -> u64 {
    let count = rows.iter().find(|row| row.table == "count");
    count.map_or(0, |row| std::str::from_utf8(&row.value).unwrap().parse().unwrap())
}

/// Opens the store and checks that it holds all that was acknowledged, whole commits only, with no damage seen.
/// Returns the number of its last commit.
pub fn verify(dir: &Path, model: &mut Model, acknowledged: u64) -> u64 {
    let (store, opened) = Store::open(dir, SCHEMA).unwrap();
    assert!(
        matches!(opened, Opened::Fresh | Opened::Whole),
        "after commit {acknowledged}: {opened:?}"
    );
    let rows = store.load().unwrap();
    let found = last(&rows);
    assert!(
        found >= acknowledged,
        "commit {acknowledged} was acknowledged, {found} is the last one found"
    );
    assert!(
        found <= acknowledged + 1,
        "one commit at a time, {acknowledged} acknowledged, yet {found} was found"
    );
    model.advance(found);
    assert!(
        model.rows() == rows,
        "the content is not that after commit {found}"
    );
    let blobs = std::fs::read_dir(dir.join("db/blobs")).unwrap().count();
    assert_eq!(
        blobs, 0,
        "values in files of their own do not survive a power cut"
    );
    found
}

/// The writing process: the present test executable, run again for the test `entry` alone, which calls [`write`].
pub struct Writer {
    pub child: Child,
    acks: BufReader<ChildStdout>,
}

impl Writer {
    pub fn start(entry: &str, dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", entry, "--nocapture", "--test-threads=1"])
            .env(DIR, dir);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let acks = BufReader::new(child.stdout.take().unwrap());
        Self { child, acks }
    }

    /// The next acknowledged commit; none when the writer is dead and all it said was read.
    pub fn ack(&mut self) -> Option<u64> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.acks.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // A line that the kill cut short was not acknowledged to anybody.
            if let Some(n) = line.strip_prefix("ack ").and_then(|n| n.strip_suffix(";\n")) {
                return Some(n.parse().unwrap());
            }
        }
    }

    /// Kills the writer and returns the last commit it acknowledged, if it came so far.
    pub fn kill(mut self) -> Option<u64> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.ack()).last()
    }
}

/// What the writing process does: commit after commit, each acknowledged on standard output, until it is killed.
/// Returns at once in any other process.
pub fn write() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let (store, _) = Store::open(Path::new(&dir), SCHEMA).unwrap();
    let mut out = std::io::stdout();
    // The test runner has begun a line of its own, which would swallow the first acknowledgement.
    writeln!(out).unwrap();
    for n in last(&store.load().unwrap()) + 1.. {
        store.commit(&changes(n)).unwrap();
        writeln!(out, "ack {n};").and_then(|()| out.flush()).unwrap();
    }
}
