//! A host: namespaces with a root file system of their own, gone with the test however it ends.
//!
//! The first process of the host's process namespace reads a pipe that only this test process holds. When the host is
//! dropped, or the test process dies of anything, the pipe ends, that process ends, and the kernel kills every other
//! process of the namespace; links, routes, rules and mounts vanish with their namespaces. The file systems are in
//! memory, so there is no data to clean. Control groups alone outlive their processes: see [`crate::cgroups`].
//!
//! The root is an overlay in memory over the root of the test machine or over an engine root (see `engines.sh`), so
//! what a host writes is its own. It is entered by pivot_root: Docker's image import does not work in a mere chroot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::cgroups;
use crate::spaces::Spaces;

/// A process of a host that goes on in the background.
pub type Background = Arc<Mutex<Child>>;

/// A host made of namespaces.
#[derive(Debug)]
pub struct Host {
    name: String,
    hostname: String,
    holder: Child,
    spaces: Spaces,
    background: Mutex<Vec<Background>>,
    logs: Mutex<Vec<String>>,
}

impl Host {
    /// A host whose files are those of the test machine.
    pub fn new() -> Self {
        Self::on_root(Path::new("/"))
    }

    /// A host whose files are those of the engine that the tests run against.
    pub fn with_engine_files() -> Self {
        Self::on_root(&crate::engine::root())
    }

    /// A host whose files are those under `lower`, which it never changes.
    pub fn on_root(lower: &Path) -> Self {
        Self::make(lower, None)
    }

    /// The same with a host name that somebody may read, which need not be its own alone.
    pub fn called(hostname: &str, lower: &Path) -> Self {
        Self::make(lower, Some(hostname))
    }

    fn make(lower: &Path, hostname: Option<&str>) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make namespaces, links and mounts: run them as root"
        );
        cgroups::reap();
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{number}", cgroups::PREFIX, std::process::id());
        let hostname = hostname.unwrap_or(&name).to_owned();
        let (lower, named) = (lower.to_owned(), hostname.clone());
        let holder = std::thread::spawn(move || crate::root::make(&lower, &named)).join();
        let holder = holder.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let spaces = Spaces::of_process(holder.id());
        let host = Self {
            name,
            hostname,
            holder,
            spaces,
            background: Mutex::default(),
            logs: Mutex::default(),
        };
        host.run("ip", &["link", "set", "lo", "up"]);
        host.sysctl("net/ipv4/ip_forward", "0");
        host.sysctl("net/ipv6/conf/all/forwarding", "0");
        host.sysctl("net/bridge/bridge-nf-call-iptables", "0");
        host.sysctl("net/bridge/bridge-nf-call-ip6tables", "0");
        host
    }

    /// A name that no other host has, and the name of its parent control group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its host name, by which a cluster knows it.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// The host's namespaces.
    pub fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// The host's network namespace alone.
    pub fn network_spaces(&self) -> Spaces {
        Spaces::of_network(Path::new(&format!("/proc/{}/ns/net", self.holder.id())))
    }

    /// The process id of the host's first process, as the test machine counts.
    pub fn holder_pid(&self) -> u32 {
        self.holder.id()
    }

    /// A path of the host as the test process sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.holder.id()))
    }

    /// Writes a file of the host, and the directories above it.
    pub fn write(&self, path: &str, text: &str) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().expect("an absolute path")).expect("making directories on a host");
        fs::write(&file, text).unwrap_or_else(|e| panic!("writing {path} on the host: {e}"));
    }

    /// Sets a kernel setting of the host's network namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{name}");
        // Which namespace is meant depends on who writes, not on the path.
        let result = self.spaces.enter(|| fs::write(&path, value));
        result.unwrap_or_else(|e| panic!("writing {value} to {path}: {e}"));
    }

    /// Reads a kernel setting of the host's network namespace.
    pub fn sysctl_value(&self, name: &str) -> String {
        let path = format!("/proc/sys/{name}");
        let result = self.spaces.enter(|| fs::read_to_string(&path));
        result
            .unwrap_or_else(|e| panic!("reading {path}: {e}"))
            .trim()
            .to_owned()
    }

    /// Starts a process that goes on in the background with its output appended to `log`, a path of the host.
    pub fn start(&self, mut command: Command, log: &str) -> Background {
        let child = self.spaces.enter(|| {
            let open = || fs::OpenOptions::new().create(true).append(true).open(log);
            let out = open().unwrap_or_else(|e| panic!("opening {log} on the host: {e}"));
            let err = out.try_clone().expect("a second handle of a log");
            command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()
        });
        let child = child.unwrap_or_else(|e| panic!("starting {log}'s process: {e}"));
        let child = Arc::new(Mutex::new(child));
        self.background
            .lock()
            .expect("no panic while held")
            .push(Arc::clone(&child));
        let mut logs = self.logs.lock().expect("no panic while held");
        if !logs.iter().any(|known| known == log) {
            logs.push(log.to_owned());
        }
        child
    }

    /// The text of a log so far.
    pub fn log(&self, log: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(log)).unwrap_or_default()).into_owned()
    }

    /// The last lines of all logs, for somebody who wonders why a test failed.
    pub fn logs(&self) -> String {
        let logs = self.logs.lock().expect("no panic while held");
        logs.iter()
            .map(|name| format!("--- {name}\n{}\n", tail(&self.log(name), 40)))
            .collect()
    }

    /// What a power cut leaves: the files on disk, and the wires. Processes, links, rules and `/run` are gone.
    pub fn cut_power(&self) {
        self.kill_processes();
        // Mounts of containers and their groups, which a machine that starts anew does not have.
        self.sh("awk '$5 ~ \"^/(run|var/lib/docker)/\" { print $5 }' /proc/self/mountinfo | sort -r | xargs -r umount -l");
        cgroups::remove(&self.name);
        self.sh("find /run -mindepth 1 -delete; nft flush ruleset");
        let links = crate::json::parse(&self.run("ip", &["-j", "link"]));
        for link in crate::json::rows(&links) {
            let name = crate::json::text(link, "/ifname");
            if name != "lo" && !name.starts_with("wire") {
                // The other end of a pair is gone with the first.
                self.try_run("ip", &["link", "delete", name]);
            }
        }
        self.sysctl("net/ipv4/ip_forward", "0");
        self.sysctl("net/ipv6/conf/all/forwarding", "0");
    }

    fn kill_processes(&self) {
        // -1 is every process of the caller's process namespace but the first of it and the caller.
        self.sh("kill -KILL -1");
        for child in self.background.lock().expect("no panic while held").drain(..) {
            child.lock().expect("no panic while held").wait().ok();
        }
        crate::until("the host's processes are gone", || {
            (self.processes() == 1).then_some(())
        });
    }

    /// How many processes the host has, its first one included.
    fn processes(&self) -> usize {
        let entries = fs::read_dir(self.path("/proc"))
            .expect("reading the host's /proc")
            .flatten();
        entries
            .filter(|e| {
                e.file_name()
                    .to_string_lossy()
                    .bytes()
                    .all(|b| b.is_ascii_digit())
            })
            .count()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::say(&format!("=== host {}\n{}", self.hostname, self.logs()));
        }
        drop(self.holder.stdin.take());
        self.holder.kill().ok();
        // The first process of a namespace is gone only when all others are reaped, and some of them are our children.
        for child in self
            .background
            .lock()
            .unwrap_or_else(|held| held.into_inner())
            .drain(..)
        {
            child.lock().unwrap_or_else(|held| held.into_inner()).wait().ok();
        }
        self.holder.wait().ok();
        cgroups::remove(&self.name);
    }
}

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
