//! The store against kill -9: what was acknowledged is there, and each commit is there whole or not at all.

// A test may panic and print anywhere, its helpers too.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod store_common;

use std::time::Duration;

use store_common::{Model, Random, SCHEMA, Writer, verify};
use tombolo::store::{Row, Store};

/// Not a test by itself: the process that the tests start and kill.
#[test]
fn writer() {
    store_common::write();
}

#[test]
fn a_hundred_kills_lose_no_acknowledged_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new();
    let mut model = Model::default();
    let (mut last, mut early) = (0, 0);
    for round in 0..100 {
        let mut writer = Writer::start("writer", dir.path());
        // One round in four is killed while it opens the store, the others while they commit. The pause is the
        // random moment itself; nothing waits for it.
        let mut acknowledged = None;
        if round % 4 != 0 {
            acknowledged = Some(writer.ack().expect("the writer died by itself"));
        }
        std::thread::sleep(Duration::from_micros(random.below(25_000)));
        acknowledged = writer.kill().or(acknowledged);
        early += u32::from(acknowledged.is_none());
        last = verify(dir.path(), &mut model, acknowledged.unwrap_or(last));
    }
    println!("{last} commits, {early} kills before the first of a run");
    assert!(
        last > 100 && early > 0,
        "the kills came at the wrong moments: {last} commits, {early} early kills"
    );
    assert!(!dir.path().join("damaged-1").exists());
}

const REPLACER: &str = "TOMBOLO_TEST_REPLACER_DIR";
const MANY: usize = 3_000;

fn generation(number: u64) -> Vec<Row> {
    let row = |k: usize| Row {
        table: "many".to_owned(),
        key: format!("{:05}", k + (number as usize % 2) * 500),
        value: number.to_string().into_bytes(),
    };
    (0..MANY).map(row).collect()
}

/// Not a test by itself: replaces everything, again and again, until it is killed.
#[test]
fn replacer() {
    let Ok(dir) = std::env::var(REPLACER) else { return };
    let (store, _) = Store::open(dir.as_ref(), SCHEMA).unwrap();
    for number in 1.. {
        store.replace(&generation(number)).unwrap();
    }
}

#[test]
fn a_kill_during_replace_leaves_one_generation() {
    let mut random = Random::new();
    let mut seen = 0;
    for _ in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "replacer"])
            .env(REPLACER, dir.path())
            .stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100 + random.below(900)));
        child.kill().unwrap();
        child.wait().unwrap();
        let rows = Store::open(dir.path(), SCHEMA).unwrap().0.load().unwrap();
        if let Some(row) = rows.first() {
            let number = std::str::from_utf8(&row.value).unwrap().parse().unwrap();
            assert!(rows == generation(number), "not generation {number}");
            seen += 1;
        }
    }
    println!("{seen} of 8 kills found a generation");
    assert!(seen > 0);
}
