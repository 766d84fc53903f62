//! The store against a power cut: ext4 on a loop device, the writer stopped right after an acknowledgement, and the
//! device's backing file copied as it is, without any sync. The copy is what a disk would hold after the cut.
//!
//! A kill alone would not show a missing fsync, since the page cache survives it. Needs root for loop devices and
//! mounts. All mounts are made in a mount namespace of their own, so that none is left behind whatever happens; the
//! loop devices go with them.

// A test may panic and print anywhere, its helpers too.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod store_common;

use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use store_common::{Model, Random, Writer, verify};

const INSIDE: &str = "TOMBOLO_TEST_IN_MOUNT_NAMESPACE";
const ROUNDS: u32 = 40;

/// Not a test by itself: the process that the test starts and stops.
#[test]
fn writer() {
    store_common::write();
}

#[test]
fn forty_power_cuts_lose_no_acknowledged_commit() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts file systems: run it as root"
    );
    if std::env::var_os(INSIDE).is_some() {
        return rounds();
    }
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(test);
    command
        .args([
            "--exact",
            "forty_power_cuts_lose_no_acknowledged_commit",
            "--nocapture",
        ])
        .env(INSIDE, "1");
    assert!(command.status().unwrap().success());
}

fn run(program: &str, arguments: &[&Path]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {} {said}",
        output.status
    );
}

/// Mounts the file system in `image` for the time of `work`.
fn mounted<T>(image: &Path, at: &Path, work: impl FnOnce() -> T) -> T {
    run("mount", &["-o".as_ref(), "loop".as_ref(), image, at]);
    let result = work();
    run("umount", &[at]);
    result
}

fn rounds() {
    let dir = tempfile::tempdir().unwrap();
    let [blank, disk, cut, at] = ["blank", "disk", "cut", "mnt"].map(|name| dir.path().join(name));
    std::fs::create_dir(&at).unwrap();
    std::fs::File::create(&blank).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.ext4", &["-q".as_ref(), &blank]);
    let mut random = Random::new();
    let (mut total, mut lost) = (0, Vec::new());
    for round in 0..ROUNDS {
        run("cp", &["--sparse=always".as_ref(), &blank, &disk]);
        let stop_after = 1 + random.below(150);
        let acknowledged = mounted(&disk, &at, || {
            let mut writer = Writer::start("writer", &at.join("state"));
            let mut seen = 0;
            while seen < stop_after {
                seen = writer.ack().expect("the writer died by itself");
            }
            kill(Pid::from_raw(writer.child.id() as i32), Signal::SIGSTOP).unwrap();
            // Commits between the last line read and the stop are acknowledged as well, so the copy is made before
            // they are known: killing closes the store's files, which writes nothing.
            run("cp", &["--sparse=always".as_ref(), &disk, &cut]);
            writer.kill().unwrap_or(seen)
        });
        // Mounting replays the journal, as after a real cut.
        let outcome = mounted(&cut, &at, || {
            std::panic::catch_unwind(|| verify(&at.join("state"), &mut Model::default(), acknowledged))
        });
        run("e2fsck", &["-fn".as_ref(), &cut]);
        match outcome {
            Ok(found) => total += found,
            Err(_) => lost.push(round),
        }
    }
    println!(
        "{} of {ROUNDS} power cuts lost something; {total} commits kept",
        lost.len()
    );
    assert!(lost.is_empty(), "rounds {lost:?} lost acknowledged commits");
}
