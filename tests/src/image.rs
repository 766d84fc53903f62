//! The one image of the lab: busybox, made from the test machine's static one. No registry is ever asked.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::OnceLock;

/// The image's name.
pub const NAME: &str = "busybox:latest";

const APPLETS: [&str; 17] = [
    "sh", "sleep", "ping", "ping6", "nc", "httpd", "wget", "ip", "cat", "echo", "true", "false", "nslookup",
    "kill", "ls", "hostname", "mkdir",
];

/// The image as a tarball of its root file system.
pub fn tarball() -> &'static [u8] {
    static TARBALL: OnceLock<Vec<u8>> = OnceLock::new();
    TARBALL.get_or_init(make)
}

fn make() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory for the image");
    let bin = dir.path().join("bin");
    for name in ["bin", "tmp", "etc", "proc", "sys", "dev"] {
        fs::create_dir(dir.path().join(name)).expect("making directories of the image");
    }
    fs::copy("/bin/busybox", bin.join("busybox"))
        .expect("copying /bin/busybox: install the package busybox-static");
    for applet in APPLETS {
        symlink("busybox", bin.join(applet)).expect("making applets of the image");
    }
    let tar = Command::new("tar")
        .arg("-C")
        .arg(dir.path())
        .args(["--owner=0", "--group=0", "-cf", "-", "."])
        .output();
    let tar = tar.expect("starting tar");
    assert!(
        tar.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&tar.stderr)
    );
    tar.stdout
}
