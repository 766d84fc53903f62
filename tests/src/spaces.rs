//! Namespaces that a thread of the test can enter for a while.
//!
//! A socket belongs to the network namespace in which it was made, whoever uses it later; so servers and clients
//! "in a container" are made by a thread that goes there and are then used like any other.

use std::fs::File;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, with the mount, name and process namespaces of a host where it has them.
#[derive(Debug)]
pub struct Spaces {
    mount: Option<File>,
    others: Vec<(CloneFlags, File)>,
}

fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|e| panic!("opening namespace {}: {e}", path.display()))
}

impl Spaces {
    /// A new network namespace with its loopback up. It lives as long as this value or a socket in it.
    pub fn new_network() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace (root is needed)");
            open(Path::new("/proc/thread-self/ns/net"))
        });
        let file = file.join().expect("the thread that makes a network namespace");
        let spaces = Self {
            mount: None,
            others: vec![(CloneFlags::CLONE_NEWNET, file)],
        };
        spaces.run("ip", &["link", "set", "lo", "up"]);
        spaces
    }

    /// The network namespace that a file stands for, such as `/proc/PID/ns/net` or one of Docker's sandbox keys.
    pub fn of_network(path: &Path) -> Self {
        Self {
            mount: None,
            others: vec![(CloneFlags::CLONE_NEWNET, open(path))],
        }
    }

    /// All namespaces of the host whose first process has this id.
    pub fn of_process(pid: u32) -> Self {
        let file = |name: &str| open(Path::new(&format!("/proc/{pid}/ns/{name}")));
        Self {
            mount: Some(file("mnt")),
            others: vec![
                (CloneFlags::CLONE_NEWNET, file("net")),
                (CloneFlags::CLONE_NEWUTS, file("uts")),
                (CloneFlags::CLONE_NEWPID, file("pid")),
            ],
        }
    }

    /// The file of the network namespace, for moving links into it by `ip link set … netns`.
    pub fn network(&self) -> &File {
        let found = self
            .others
            .iter()
            .find(|(flag, _)| *flag == CloneFlags::CLONE_NEWNET);
        &found.expect("every Spaces has a network namespace").1
    }

    /// Runs a closure on a thread of its own inside the namespaces. Processes that it starts are inside as well.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.go();
                inside()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn go(&self) {
        if let Some(mount) = &self.mount {
            // A thread that shares its root and working directory with others may not change mount namespaces.
            unshare(CloneFlags::CLONE_FS).expect("unsharing the working directory");
            setns(mount, CloneFlags::CLONE_NEWNS).expect("entering a mount namespace");
        }
        for (flag, file) in &self.others {
            setns(file, *flag).unwrap_or_else(|e| panic!("entering a namespace ({flag:?}): {e}"));
        }
    }
}
