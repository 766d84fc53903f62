//! The store against a damaged directory: the ladder ends where it should, nothing panics, nothing is deleted, and a
//! refusal of the operating system is not taken for damage.

// A test may panic and print anywhere, its helpers too.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod store_common;

use std::fs;
use std::path::{Path, PathBuf};

use store_common::{Model, Random, SCHEMA, changes, last};
use tombolo::store::{Error, Opened, Row, Store};

const BACKED_UP: u64 = 60;
const COMMITS: u64 = 100;

/// A store with a backup after commit 60, snapshots, and 100 commits.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for part in [1..=BACKED_UP, BACKED_UP + 1..=COMMITS] {
        let (store, _) = Store::open(dir.path(), SCHEMA).unwrap();
        part.clone().for_each(|n| store.commit(&changes(n)).unwrap());
        if *part.end() == BACKED_UP {
            store.backup().unwrap();
        }
    }
    // Opening writes a snapshot of what the one before committed.
    assert_eq!(Store::open(dir.path(), SCHEMA).unwrap().1, Opened::Whole);
    dir
}

fn open(dir: &Path) -> (Vec<Row>, Opened) {
    let (store, opened) = Store::open(dir, SCHEMA).unwrap();
    (store.load().unwrap(), opened)
}

/// The opening must tell a loss until the caller has made up for it, and hold the content after commit `n`.
fn lost_after(dir: &Path, n: u64, told: &str) {
    let (rows, opened) = open(dir);
    let Opened::Recovered { how, lost: true } = &opened else {
        panic!("{opened:?}")
    };
    assert!(how.contains(told) && how.contains("damaged-1"), "{how}");
    assert!(
        rows == Model::at(n).rows(),
        "not the content after commit {n}: {}",
        last(&rows)
    );
    let (store, again) = Store::open(dir, SCHEMA).unwrap();
    assert_eq!(again, opened, "a loss is told until it is made up for");
    store.rebuilt().unwrap();
    store.commit(&changes(n + 1)).unwrap();
    drop(store);
    assert_eq!(open(dir), (Model::at(n + 1).rows(), Opened::Whole));
    assert!(!dir.join("damaged-2").exists() && !dir.join("db.found").exists());
}

fn snapshot(db: &Path) -> PathBuf {
    let names = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    names
        .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("snap."))
        .max()
        .expect("there is a snapshot")
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn a_damaged_snapshot_loses_nothing() {
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.truncate(5),
        |bytes| bytes[20] ^= 4,
        |bytes| bytes.fill(0),
    ];
    for damage in damages {
        let dir = filled();
        let path = snapshot(&dir.path().join("db"));
        let damaged = edit(&path, damage);
        let (rows, opened) = open(dir.path());
        let Opened::Recovered { how, lost: false } = opened else {
            panic!("{opened:?}")
        };
        assert!(
            how.contains("snapshots were set aside") && how.contains("damaged-1"),
            "{how}"
        );
        assert!(rows == Model::at(COMMITS).rows());
        let kept = dir.path().join("damaged-1/db").join(path.file_name().unwrap());
        assert!(
            fs::read(kept).unwrap() == damaged,
            "what was found is kept as it was"
        );
        assert_eq!(open(dir.path()), (rows, Opened::Whole));
    }
}

#[test]
fn a_database_full_of_garbage_starts_from_the_backup() {
    let damages: [fn(&mut Vec<u8>); 3] = [
        |bytes| {
            bytes
                .iter_mut()
                .zip(0_u32..)
                .for_each(|(b, i)| *b = (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        },
        |bytes| bytes.truncate(100),
        Vec::clear,
    ];
    for damage in damages {
        let dir = filled();
        let damaged = edit(&dir.path().join("db/db"), damage);
        lost_after(dir.path(), BACKED_UP, "the backup");
        assert!(
            fs::read(dir.path().join("damaged-1/db/db")).unwrap() == damaged,
            "what was found is kept as it was"
        );
    }
}

#[test]
fn a_database_with_a_lost_tail_starts_from_what_is_newer() {
    let dir = filled();
    let old = tempfile::tempdir().unwrap();
    // An older but whole database, put in the place of ours behind our back.
    let (store, _) = Store::open(old.path(), SCHEMA).unwrap();
    (1..=80).for_each(|n| store.commit(&changes(n)).unwrap());
    drop(store);
    fs::rename(dir.path().join("db"), dir.path().join("aside")).unwrap();
    fs::rename(old.path().join("db"), dir.path().join("db")).unwrap();
    lost_after(dir.path(), 80, "what could be read of it");
}

#[test]
fn a_missing_database_starts_from_the_backup() {
    let dir = filled();
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    lost_after(dir.path(), BACKED_UP, "the backup");
}

#[test]
fn something_else_in_the_place_of_the_database_is_kept() {
    for hollow in [false, true] {
        let dir = filled();
        fs::rename(dir.path().join("db"), dir.path().join("aside")).unwrap();
        let db = dir.path().join("db");
        if hollow {
            fs::create_dir(&db).unwrap()
        } else {
            fs::write(&db, "no directory").unwrap()
        }
        lost_after(dir.path(), BACKED_UP, "the backup");
        assert_eq!(dir.path().join("damaged-1/db").is_dir(), hollow);
    }
}

/// What an opening leaves that died between two of its steps.
#[test]
fn the_next_opening_ends_what_a_dead_one_began() {
    let expected = (Model::at(COMMITS).rows(), Opened::Whole);
    let dir = filled();
    let at = |name: &str| dir.path().join(name);
    // The new database was ready and the old one already moved.
    fs::rename(at("db"), at("db.ready")).unwrap();
    fs::create_dir(at("db.copied")).unwrap();
    assert_eq!(open(dir.path()), expected);
    assert!(!at("db.copied").exists() && !at("damaged-1").exists());
    // The old one was still there.
    fs::rename(at("db"), at("db.ready")).unwrap();
    fs::write(at("db"), "damaged").unwrap();
    assert_eq!(open(dir.path()), expected);
    assert_eq!(fs::read_to_string(at("damaged-1/db-tried")).unwrap(), "damaged");
    // It died while the database was read: the copy it made is the truer one.
    let copied = std::process::Command::new("cp")
        .arg("-rT")
        .args([at("db"), at("db.found")])
        .status()
        .unwrap();
    assert!(copied.success());
    assert_eq!(open(dir.path()), expected);
    assert!(!at("db.found").exists());
}

#[test]
fn without_a_whole_backup_a_lost_database_starts_empty() {
    for damage in [
        "",
        "{\"schema\":1}",
        "{\"schema\":1,\"commits\":3,\"check\":\"0\",\"tables\":{}}",
    ] {
        let dir = filled();
        fs::write(dir.path().join("backup.json"), damage).unwrap();
        fs::write(dir.path().join("db/db"), "garbage").unwrap();
        let (rows, opened) = open(dir.path());
        assert!(
            matches!(&opened, Opened::Recovered { how, lost: true } if how.contains("from nothing")),
            "{opened:?}"
        );
        assert!(rows.is_empty());
        assert_eq!(
            fs::read_to_string(dir.path().join("damaged-1/backup.json")).unwrap(),
            damage
        );
        assert_eq!(
            fs::read_to_string(dir.path().join("damaged-1/db/db")).unwrap(),
            "garbage"
        );
    }
}

/// Whatever is done to any file of the database, the store opens, and holds the content after some commit: never a
/// mixture, and never less than it admits.
#[test]
fn random_damage_never_passes_for_whole() {
    let original = filled();
    let mut random = Random::new();
    let models: Vec<Vec<Row>> = (0..=COMMITS).map(|n| Model::at(n).rows()).collect();
    let rounds = std::env::var("TOMBOLO_TEST_ROUNDS").map_or(60, |n| n.parse().unwrap());
    let mut outcomes = std::collections::BTreeMap::new();
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let copied = std::process::Command::new("cp")
            .arg("-rT")
            .args([original.path(), dir.path()])
            .status()
            .unwrap();
        assert!(copied.success());
        let db = dir.path().join("db");
        let file = [
            db.join("db"),
            db.join("db"),
            db.join("db"),
            snapshot(&db),
            db.join("conf"),
        ][random.below(5) as usize]
            .clone();
        let what = hurt(&file, &mut random);
        let (rows, opened) = open(dir.path());
        let n = models.iter().position(|model| *model == rows);
        let case = format!(
            "round {round}, {what} in {}: {opened:?}, commit {n:?}",
            file.display()
        );
        let outcome = match (&opened, n) {
            (Opened::Whole, Some(n)) if n as u64 == COMMITS => "whole",
            (Opened::Recovered { lost: false, .. }, Some(n)) if n as u64 == COMMITS => "repaired",
            (Opened::Recovered { lost: true, .. }, Some(n)) if n as u64 == BACKED_UP => "from the backup",
            (Opened::Recovered { lost: true, .. }, Some(n)) if n as u64 > BACKED_UP => {
                "from what could be read"
            }
            _ => panic!("{case}"),
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    println!("{outcomes:?}");
    assert!(
        outcomes.len() >= 3,
        "the damage is too small or too large to show anything: {outcomes:?}"
    );
}

/// Damages a file in a random way and says how.
fn hurt(file: &Path, random: &mut Random) -> String {
    let length = fs::metadata(file).unwrap().len();
    let at = random.below(length);
    let mut what = String::new();
    edit(file, |bytes| match random.below(4) {
        0 => {
            bytes[at as usize] ^= 1 << random.below(8);
            what = format!("a bit flipped at {at}");
        }
        1 => {
            bytes.truncate(at as usize);
            what = format!("cut at {at} of {length}");
        }
        2 => {
            let end = (at + 1 + random.below(5000)).min(length);
            bytes[at as usize..end as usize].fill(0);
            what = format!("zeroes from {at} to {end}");
        }
        _ => {
            let end = (at + 1 + random.below(600)).min(length);
            bytes[at as usize..end as usize]
                .iter_mut()
                .for_each(|b| *b = random.below(256) as u8);
            what = format!("noise from {at} to {end}");
        }
    });
    what
}

#[test]
fn a_refusal_of_the_system_is_no_damage() {
    let dir = filled();
    // No process may write to an immutable file, not even root's.
    let db = dir.path().join("db/db");
    let chattr = |flag: &str| {
        std::process::Command::new("chattr")
            .arg(flag)
            .arg(&db)
            .status()
            .unwrap()
            .success()
    };
    assert!(
        chattr("+i"),
        "this test sets the immutable flag: run it as root, on a file system that has it"
    );
    let refused = Store::open(dir.path(), SCHEMA);
    assert!(chattr("-i"));
    let error = refused.expect_err("the file cannot be written");
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(!dir.path().join("damaged-1").exists());
    assert_eq!(open(dir.path()), (Model::at(COMMITS).rows(), Opened::Whole));
}
