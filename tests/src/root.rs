//! Making a host: its namespaces, its first process and its root file system.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

/// Where the root is put together; in the host's own mount namespace, so nobody else sees it there.
const STAGE: &str = "/run";

/// Where the root is put together under [`STAGE`].
const ROOT: &str = "/run/root";

/// Directories that are file systems in memory of their own: `/run` is a host's by nature, and Docker cannot lay its
/// image layers on an overlay.
const IN_MEMORY: [&str; 4] = ["run", "tmp", "var/lib/docker", "var/lib/containerd"];

/// What the test machine may have of Docker's and tombolo's own, which is nothing of a new host.
const NOT_SHOWN: [&str; 3] = ["etc/docker", "etc/tombolo", "var/lib/tombolo"];

/// Makes a host and returns its first process; must be called on a thread that does nothing else afterwards.
pub fn make(lower: &Path, name: &str) -> Child {
    let spaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID;
    unshare(spaces).expect("making a host's namespaces");
    fs::write("/proc/sys/kernel/hostname", name).expect("naming a host");
    mount_at("none", "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None);
    let binary = crate::tombolo::binary();
    let holder = start_first();
    lay_root(lower);
    show_binary(&binary);
    chdir(ROOT).expect("entering a host's root");
    // Pivoting onto itself stacks the old root upon the new one, so no directory for it is needed.
    pivot_root(".", ".").expect("changing a host's root");
    umount2(".", MntFlags::MNT_DETACH).expect("leaving the old root");
    chdir("/").expect("entering a host's root");
    write_names(name);
    holder
}

/// Starts the first process of the process namespace, which ends when its input does, and waits until it is what it
/// will be: while it still reads programs and libraries, its root may not change under it.
///
/// Processes that lose their parent become its own; with SIGCHLD ignored the kernel takes them away when they end. (`sh`
/// will not do: dash does not hand an ignored SIGCHLD on.)
fn start_first() -> Child {
    let mut first = Command::new("bash")
        .args(["-c", "trap '' CHLD; exec cat"])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting a host's first process");
    let (input, output) = (first.stdin.as_mut(), first.stdout.as_mut());
    input
        .expect("a pipe")
        .write_all(b"?")
        .expect("asking a host's first process");
    output
        .expect("a pipe")
        .read_exact(&mut [0])
        .expect("an answer of a host's first process");
    first
}

fn mount_at(source: &str, target: &str, fs: Option<&str>, flags: MsFlags, data: Option<&str>) {
    mount(Some(source), target, fs, flags, data)
        .unwrap_or_else(|e| panic!("mounting {source} at {target} ({fs:?}, {data:?}): {e}"));
}

fn lay_root(lower: &Path) {
    let none = MsFlags::empty();
    mount_at("tmpfs", STAGE, Some("tmpfs"), none, Some("mode=755"));
    for dir in ["upper", "work", "root"] {
        fs::create_dir(format!("{STAGE}/{dir}")).expect("making the stage of a host's root");
    }
    let layers = format!(
        "lowerdir={},upperdir={STAGE}/upper,workdir={STAGE}/work",
        lower.display()
    );
    mount_at("overlay", ROOT, Some("overlay"), none, Some(&layers));
    for dir in NOT_SHOWN {
        // Removed from the overlay: below it, all stays.
        match fs::remove_dir_all(format!("{ROOT}/{dir}")) {
            Err(e) if e.kind() != ErrorKind::NotFound => panic!("hiding {dir} from a host: {e}"),
            _ => {}
        }
    }
    for dir in IN_MEMORY {
        let target = format!("{ROOT}/{dir}");
        fs::create_dir_all(&target).expect("making directories of a host");
        mount_at("tmpfs", &target, Some("tmpfs"), none, None);
    }
    // A mount of proc shows the process namespace of the process that mounts it, and that is not ours but our child's.
    let proc = Command::new("mount")
        .args(["-t", "proc", "proc", &format!("{ROOT}/proc")])
        .status();
    assert!(proc.expect("starting mount").success(), "mounting a host's /proc");
    mount_at("sysfs", &format!("{ROOT}/sys"), Some("sysfs"), none, None);
    for shared in ["sys/fs/cgroup", "dev"] {
        let (source, target) = (format!("/{shared}"), format!("{ROOT}/{shared}"));
        mount_at(&source, &target, None, MsFlags::MS_BIND | MsFlags::MS_REC, None);
    }
}

/// Makes the tested binary, where it has been built, the host's `tombolo`.
fn show_binary(binary: &Path) {
    if binary.exists() {
        let target = format!("{ROOT}{}", crate::tombolo::INSIDE);
        fs::write(&target, "").expect("making a place for the tested binary");
        mount_at(&binary.to_string_lossy(), &target, None, MsFlags::MS_BIND, None);
    }
}

fn write_names(name: &str) {
    // No name server of the test machine: nothing of a host may leave the lab.
    for (file, text) in [
        ("/etc/hostname", format!("{name}\n")),
        (
            "/etc/hosts",
            format!("127.0.0.1 localhost {name}\n::1 localhost\n"),
        ),
        ("/etc/resolv.conf", "nameserver 192.0.2.1\n".to_owned()),
    ] {
        // Over a link to elsewhere, as resolv.conf often is.
        fs::remove_file(file).ok();
        fs::write(file, text).unwrap_or_else(|e| panic!("writing a host's {file}: {e}"));
    }
}
