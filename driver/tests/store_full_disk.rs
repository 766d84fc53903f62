//! The store on a full disk: refused in clear words, never taken for damage, and whole again when there is space.
//!
//! Needs root for a small file system of its own, mounted in a mount namespace of its own.

// A test may panic and print anywhere, its helpers too.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod store_common;

use std::error::Error as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use store_common::{Model, SCHEMA, changes, last};
use tombolo::store::{Error, Opened, Store};

const INSIDE: &str = "TOMBOLO_TEST_IN_MOUNT_NAMESPACE";

#[test]
fn a_full_disk_is_no_damage() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts a file system: run it as root"
    );
    if let Some(at) = std::env::var_os(INSIDE) {
        let mount = ["-t", "tmpfs", "-o", "size=8m", "tmpfs"];
        assert!(
            Command::new("mount")
                .args(mount)
                .arg(&at)
                .status()
                .unwrap()
                .success()
        );
        return on_a_small_disk(at.as_ref());
    }
    let at = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap());
    command
        .args(["--exact", "a_full_disk_is_no_damage", "--nocapture"])
        .env(INSIDE, at.path());
    assert!(command.status().unwrap().success());
}

/// Fills the disk to the last byte.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut size = 1 << 16;
    while size > 0 {
        if file.write_all(&vec![1; size]).is_err() {
            size /= 2;
        }
    }
}

fn on_a_small_disk(at: &Path) {
    let (state, filler) = (at.join("state"), at.join("filler"));
    let (store, opened) = Store::open(&state, SCHEMA).unwrap();
    assert_eq!(opened, Opened::Fresh);
    (1..=100).for_each(|n| store.commit(&changes(n)).unwrap());
    drop(store);

    fill(&filler);
    let refused = Store::open(&state, SCHEMA).expect_err("the disk is full");
    assert!(matches!(refused, Error::Io { .. }), "{refused:?}");
    println!("{refused}: {}", refused.source().unwrap());
    assert!(refused.to_string().contains("free some space"), "{refused}");
    fs::remove_file(&filler).unwrap();
    let (store, opened) = Store::open(&state, SCHEMA).unwrap();
    assert_eq!(
        (store.load().unwrap(), opened),
        (Model::at(100).rows(), Opened::Whole)
    );

    // While it is open: a commit that finds no space is unsure, and none is tried after it.
    fill(&filler);
    let (n, error) = (101..10_000)
        .find_map(|n| Some((n, store.commit(&changes(n)).err()?)))
        .expect("it gets full");
    println!("commit {n}: {error}");
    assert!(matches!(error, Error::Unsure { .. }), "{error:?}");
    assert!(matches!(store.commit(&changes(n)), Err(Error::Closed { .. })));
    drop(store);
    fs::remove_file(&filler).unwrap();
    let (store, opened) = Store::open(&state, SCHEMA).unwrap();
    assert_eq!(opened, Opened::Whole);
    let rows = store.load().unwrap();
    assert!(
        last(&rows) == n || last(&rows) == n - 1,
        "commit {n} was refused, {} is there",
        last(&rows)
    );
    assert!(rows == Model::at(last(&rows)).rows());
    store.commit(&changes(last(&rows) + 1)).unwrap();
    assert!(!state.join("damaged-1").exists());
}
