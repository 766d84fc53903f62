//! What the store promises to its caller while all is well.

// A test may panic and print anywhere, its helpers too.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod store_common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use store_common::{SCHEMA, Writer, changes};
use tombolo::store::{Error, NAME_MAX, Opened, Put, Row, Store, VALUE_MAX};

fn row(table: &str, key: &str, value: &[u8]) -> Row {
    Row {
        table: table.to_owned(),
        key: key.to_owned(),
        value: value.to_vec(),
    }
}

/// Not a test by itself: the process that has the store open.
#[test]
fn writer() {
    store_common::write();
}

#[test]
fn the_store_can_live_on_a_thread_of_its_own() {
    fn sendable<T: Send + Sync>() {}
    sendable::<Store>();
}

#[test]
fn rows_come_back_as_committed_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/state");
    let (store, opened) = Store::open(&path, SCHEMA).unwrap();
    assert_eq!(opened, Opened::Fresh);
    assert_eq!(store.load().unwrap(), []);
    let long = vec![b'7'; VALUE_MAX];
    let puts = [
        Put::set("b", "", "1"),
        Put::set("a", "k2", long.clone()),
        Put::set("a", "k", "first"),
        Put::set("a", "k", "second"),
        Put::set("aa", "k", ""),
        Put::remove("a", "absent"),
    ];
    store.commit(&puts).unwrap();
    let expected = [
        row("a", "k", b"second"),
        row("a", "k2", &long),
        row("aa", "k", b""),
        row("b", "", b"1"),
    ];
    assert_eq!(store.load().unwrap(), expected);
    drop(store);

    let (store, opened) = Store::open(&path, SCHEMA).unwrap();
    assert_eq!(opened, Opened::Whole);
    assert_eq!(store.load().unwrap(), expected);
    // A long value made short leaves none of its pieces, and a removed one none at all.
    store
        .commit(&[Put::set("a", "k2", "short"), Put::remove("b", "")])
        .unwrap();
    let expected = [
        row("a", "k", b"second"),
        row("a", "k2", b"short"),
        row("aa", "k", b""),
    ];
    assert_eq!(store.load().unwrap(), expected);
    store.replace(&[row("z", "1", &long)]).unwrap();
    assert_eq!(store.load().unwrap(), [row("z", "1", &long)]);
    store.replace(&[]).unwrap();
    drop(store);
    let (store, opened) = Store::open(&path, SCHEMA).unwrap();
    assert_eq!((store.load().unwrap(), opened), (Vec::new(), Opened::Whole));
}

#[test]
fn a_refused_change_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), SCHEMA).unwrap();
    let good = Put::set("a", "good", "1");
    let large = Put::set("a", "b", vec![b'x'; VALUE_MAX + 1]);
    assert!(
        matches!(store.commit(&[good.clone(), large]), Err(Error::TooLarge { bytes, .. }) if bytes == VALUE_MAX + 1)
    );
    for (table, key) in [
        ("", "k"),
        ("a\0b", "k"),
        ("a", "k\0"),
        ("a", "k".repeat(NAME_MAX).as_str()),
    ] {
        let refused = store.commit(&[good.clone(), Put::set(table, key, "1")]);
        assert!(
            matches!(refused, Err(Error::BadName { .. })),
            "{table:?} {key:?}: {refused:?}"
        );
        assert!(matches!(
            store.replace(&[row(table, key, b"1")]),
            Err(Error::BadName { .. })
        ));
    }
    store
        .commit(&[Put::set("a", "k".repeat(NAME_MAX - 1), "1")])
        .unwrap();
    assert_eq!(store.load().unwrap().len(), 1);
}

#[test]
fn no_changes_mean_no_writing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), SCHEMA).unwrap();
    store.commit(&[Put::set("a", "k", "1")]).unwrap();
    let mark = || std::fs::read(dir.path().join("mark")).unwrap();
    let before = mark();
    store.commit(&[]).unwrap();
    assert_eq!(mark(), before);
    store.commit(&[Put::set("a", "k", "1")]).unwrap();
    assert_ne!(mark(), before);
}

/// A page of the database that is too large becomes a file that is not synchronised.
#[test]
fn large_values_with_long_names_make_no_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), SCHEMA).unwrap();
    let name = |k: usize| format!("{k:04}{}", "n".repeat(NAME_MAX - 5));
    for round in 0..3 {
        for chunk in (0..60).collect::<Vec<_>>().chunks(20) {
            let put = |k: &usize| Put::set("t", name(*k), vec![b'0' + round; VALUE_MAX - k * 8]);
            store.commit(&chunk.iter().map(put).collect::<Vec<_>>()).unwrap();
        }
    }
    // Long names alone fill the pages that lead to the others.
    store
        .commit(&(0..6000).map(|k| Put::set("u", name(k), "1")).collect::<Vec<_>>())
        .unwrap();
    drop(store);
    let (store, _) = Store::open(dir.path(), SCHEMA).unwrap();
    assert_eq!(store.load().unwrap().len(), 6060);
    assert_eq!(std::fs::read_dir(dir.path().join("db/blobs")).unwrap().count(), 0);
}

#[test]
fn a_second_opener_is_refused_with_the_process_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::start("writer", dir.path());
    writer.ack().expect("the writer died by itself");
    let refused = Store::open(dir.path(), SCHEMA).expect_err("it is open");
    assert!(
        matches!(refused, Error::Locked { pid, .. } if pid == Some(writer.child.id())),
        "{refused:?}"
    );
    assert!(
        refused
            .to_string()
            .contains(&format!("process {}", writer.child.id())),
        "{refused}"
    );
    writer.kill();
    Store::open(dir.path(), SCHEMA).expect("the lock goes with the process");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), 2).unwrap();
    store.commit(&changes(1)).unwrap();
    store.backup().unwrap();
    let rows = store.load().unwrap();
    drop(store);
    let newer = |result: Result<(Store, Opened), Error>| {
        matches!(
            result,
            Err(Error::Newer {
                found: 2,
                ours: 1,
                ..
            })
        )
    };
    assert!(newer(Store::open(dir.path(), 1)));
    assert_eq!(Store::open(dir.path(), 2).unwrap().0.load().unwrap(), rows);
    assert!(matches!(
        Store::open(dir.path(), 3),
        Err(Error::Older {
            found: 2,
            ours: 3,
            ..
        })
    ));

    // Nor is a damaged one repaired with a backup that we cannot read.
    std::fs::write(dir.path().join("db/db"), "garbage").unwrap();
    assert!(newer(Store::open(dir.path(), 1)));
    assert!(!dir.path().join("damaged-1").exists());
    let (store, opened) = Store::open(dir.path(), 2).unwrap();
    assert!(matches!(opened, Opened::Recovered { lost: true, .. }));
    assert_eq!(store.load().unwrap(), rows);
}

#[test]
fn closing_and_opening_again_in_one_process_needs_no_pause() {
    let dir = tempfile::tempdir().unwrap();
    for n in 1..=100 {
        let (store, _) = Store::open(dir.path(), SCHEMA).unwrap();
        store.commit(&changes(n)).unwrap();
    }
}

/// A panic of the database on a damaged file must not reach stderr, where it would look like one of ours.
#[test]
fn damage_is_not_printed() {
    const DAMAGED: &str = "TOMBOLO_TEST_DAMAGED_DIR";
    if let Some(dir) = std::env::var_os(DAMAGED) {
        Store::open(dir.as_ref(), SCHEMA).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), SCHEMA).unwrap();
    (1..50).for_each(|n| store.commit(&changes(n)).unwrap());
    drop(store);
    let file = dir.path().join("db/db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.truncate(bytes.len() / 3);
    std::fs::write(&file, bytes).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "damage_is_not_printed", "--nocapture"])
        .env(DAMAGED, dir.path());
    let output = command.stdout(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(dir.path().join("damaged-1").exists(), "the damage was seen");
}

/// Prints what a commit costs; the bound only tells a hang or a lost index from a slow disk.
#[test]
fn a_commit_takes_milliseconds() {
    // Not the temporary directory, which may be in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (store, _) = Store::open(dir.path(), SCHEMA).unwrap();
    let json = format!("\"{}\"", "x".repeat(400)).into_bytes();
    let rows: Vec<Row> = (0..5000).map(|k| row("t", &format!("{k:064}"), &json)).collect();
    let start = Instant::now();
    store.replace(&rows).unwrap();
    println!("replace by 5000 rows: {:?}", start.elapsed());
    let mut times: Vec<Duration> = (0..1000_usize)
        .map(|n| {
            let puts = [0, 1, 2].map(|k| Put::set("t", format!("{:064}", (n * 37 + k) % 5000), json.clone()));
            let start = Instant::now();
            store.commit(&puts).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "commit of 3 rows among 5000: p50 {:?}, p99 {:?}, max {:?}",
        times[500], times[990], times[999]
    );
    let start = Instant::now();
    store.backup().unwrap();
    println!("backup: {:?}", start.elapsed());
    drop(store);
    let start = Instant::now();
    Store::open(dir.path(), SCHEMA).unwrap();
    println!("open: {:?}", start.elapsed());
    assert!(times[500] < Duration::from_millis(100));
}
