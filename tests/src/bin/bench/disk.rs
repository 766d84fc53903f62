//! A disk for a host of the lab, whose own files are in memory: there, making a change durable would cost nothing.
//!
//! It is an ext4 in a file under `/var/tmp`, through a loop device. File and device are released as soon as the host
//! has it mounted, so both vanish with the host, however that ends.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::fcntl::posix_fallocate;
use system_tests::{Host, Scene, Staging, scene, until};

use crate::samples::Samples;

/// Where a host has its disk.
pub const AT: &str = "/disk";

/// Where the engine keeps its data.
pub const DOCKER: &str = "/disk/docker";

/// Where tombolo keeps its state.
pub const STATE: &str = "/disk/tombolo";

/// Where the files are that the disks are made of. Unlike `/tmp` it is never in memory.
const FILES: &str = "/var/tmp";

const BYTES: i64 = 512 << 20;

/// A loop device. Once it is dropped it goes with its last mount.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["-d".as_ref(), self.0.as_ref()]);
    }
}

fn run(program: &str, args: &[&Path]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("starting {program}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Gives a host a disk at [`AT`]; the answer is the file that it is made of, for [`must_be_gone`].
pub fn give(host: &Host) -> PathBuf {
    let dir = tempfile::Builder::new()
        .prefix("tombolo-bench-")
        .tempdir_in(FILES);
    let dir = dir.unwrap_or_else(|e| panic!("making a directory in {FILES}: {e}"));
    let image = dir.path().join("disk");
    let file = File::create(&image).expect("making the file of a disk");
    posix_fallocate(&file, 0, BYTES).expect("reserving the file of a disk");
    // Nothing is left to be initialised later, while we measure.
    let whole = "lazy_itable_init=0,lazy_journal_init=0";
    run(
        "mkfs.ext4",
        &["-q".as_ref(), "-E".as_ref(), whole.as_ref(), &image],
    );
    let device = Loop(run("losetup", &["--find".as_ref(), "--show".as_ref(), &image]));
    host.run("mkdir", &["-p", AT]);
    host.run("mount", &[&device.0, AT]);
    image
}

/// A scene whose engine and tombolo have their data on such a disk; and the files of it, for [`must_be_gone`].
pub fn scene() -> (Scene, Vec<PathBuf>) {
    assert_eq!(scene::driver(), "tombolo", "{} must not be set", scene::DRIVER);
    let images = Mutex::new(Vec::new());
    let prepare = |host: &Host| images.lock().expect("no panic while held").push(give(host));
    let scene = Scene::staged(&Staging {
        flags: &["--data-root", DOCKER],
        settings: &[("TOMBOLO_STATE_DIR", STATE)],
        prepare: Some(&prepare),
    });
    (scene, images.into_inner().expect("no panic while held"))
}

/// Waits until no loop device stands on one of these files, and no file is left.
pub fn must_be_gone(images: &[PathBuf]) {
    until("the disks' loop devices are gone", || {
        let all = run(
            "losetup",
            &["--noheadings".as_ref(), "--output".as_ref(), "BACK-FILE".as_ref()],
        );
        let held = |image: &PathBuf| all.contains(&*image.to_string_lossy());
        (!images.iter().any(held)).then_some(())
    });
    for image in images {
        assert!(!image.exists(), "{} was left behind", image.display());
    }
}

/// What it costs to make a few hundred bytes durable on a host's disk, without any database: the floor under every
/// change that is.
pub fn cost_of_sync(host: &Host) -> Samples {
    let path = host.path(&format!("{AT}/sync"));
    let mut file = File::create(&path).expect("making a file on a host's disk");
    let mut samples = Samples::default();
    let end = Instant::now() + Duration::from_secs(2);
    while samples.len() < 200 && Instant::now() < end {
        let begin = Instant::now();
        file.write_all(&[b'x'; 500])
            .and_then(|()| file.sync_all())
            .expect("writing to a host's disk");
        samples.add(begin.elapsed());
    }
    std::fs::remove_file(path).expect("removing a file of a host's disk");
    samples
}
