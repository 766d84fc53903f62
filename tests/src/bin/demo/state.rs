//! What is known of a demo that is up: a directory with a lock that its keeper holds, and the first processes of its hosts.
//!
//! The keeper is the process that the hosts hang on: they end with it, whatever it dies of (see `system_tests::host`). So
//! the lock tells all: held, a demo is up, and the process id in it is the keeper's; not held, the rest is only files.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use system_tests::wait::within;
use system_tests::{Host, Spaces, cgroups};

/// Names the directory; default `/run/tombolo-demo`.
pub const DIRECTORY: &str = "TOMBOLO_DEMO_DIR";

/// Files in it: the lock, with the keeper's process id; the hosts, and their list while it is written; what the keeper
/// says; that all is ready.
const LOCK: &str = "lock";
const HOSTS: &str = "hosts.json";
const PART: &str = "hosts.part";
const LOG: &str = "log";
const READY: &str = "ready";

/// Where the words of a keeper that failed are kept.
const FAILED: &str = "/var/log/tombolo-demo.log";

/// How long a keeper may take to end well, and the kernel to end what hung on it.
const END: Duration = Duration::from_secs(60);

/// How long others may look at the lock.
const LOOK: Duration = Duration::from_secs(1);

/// The directory of a demo.
#[derive(Debug)]
pub struct State(PathBuf);

/// A host of a demo: its name, its first process, and its control group.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its name.
    pub name: String,
    pid: u32,
    /// When the process was started, in the kernel's ticks: process ids are used again.
    started: u64,
    group: String,
}

impl State {
    /// The directory, which need not be there.
    pub fn new() -> Self {
        Self(std::env::var(DIRECTORY).map_or_else(|_| PathBuf::from("/run/tombolo-demo"), PathBuf::from))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Takes the lock for this process, which is the keeper from now on; none if there is one. It holds as long as the file
    /// is open. What the keeper says of errors goes to the log.
    ///
    /// # Errors
    /// What kept the lock from being made.
    pub fn take(&self) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.0)?;
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.file(LOCK))?;
        // Whoever only looks whether it is held has it for a moment.
        let taken = within(LOOK, || match lock.try_lock() {
            Ok(()) => Some(Ok(())),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(e)) => Some(Err(e)),
        });
        match taken {
            Some(result) => result?,
            None => return Ok(None),
        }
        // Somebody may have swept between our opening and our locking; then another keeper would find no lock.
        if fs::metadata(self.file(LOCK)).ok().map(|found| found.ino()) != Some(lock.metadata()?.ino()) {
            return Ok(None);
        }
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id())?;
        nix::unistd::dup2_stderr(File::create(self.file(LOG))?)?;
        Ok(Some(lock))
    }

    /// Why a keeper failed, in short; all that it said goes to [`FAILED`].
    pub fn last_words(&self) -> String {
        let said = fs::read_to_string(self.file(LOG)).unwrap_or_default();
        let short: Vec<&str> = said
            .lines()
            .skip_while(|line| line.is_empty())
            .take_while(|line| {
                !["stack backtrace", "===", "---"]
                    .iter()
                    .any(|end| line.starts_with(end))
            })
            .take(20)
            .collect();
        let mut words = short.join("\n");
        if !said.is_empty() && fs::write(FAILED, said).is_ok() {
            words.push_str(&format!("\nThe logs of all hosts are in {FAILED}."));
        }
        words
    }

    /// The keeper's process id; none if no demo is up.
    pub fn keeper(&self) -> Option<Pid> {
        let lock = File::open(self.file(LOCK)).ok()?;
        if !matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return None;
        }
        // It writes its id right after it has taken the lock.
        within(END, || {
            fs::read_to_string(self.file(LOCK)).ok()?.trim().parse().ok()
        })
        .map(Pid::from_raw)
    }

    /// Whether all of the demo is there.
    pub fn is_ready(&self) -> bool {
        self.file(READY).exists()
    }

    /// Says that all of the demo is there. From now on all that the keeper says goes to the log.
    ///
    /// # Errors
    /// What kept that from being written.
    pub fn set_ready(&self) -> io::Result<()> {
        let log = File::options().append(true).open(self.file(LOG))?;
        fs::write(self.file(READY), "")?;
        // Last: whoever started the demo waits for the end of this pipe.
        nix::unistd::dup2_stdout(&log)?;
        Ok(())
    }

    /// Notes the hosts.
    ///
    /// # Errors
    /// What kept them from being written.
    pub fn write_hosts(&self, hosts: &[Arc<Host>]) -> io::Result<()> {
        let rows = hosts.iter().map(|host| {
            let pid = host.holder_pid();
            json!({ "name": host.hostname(), "pid": pid, "started": started(pid), "group": host.name() })
        });
        let text = Value::Array(rows.collect()).to_string();
        let part = self.file(PART);
        fs::write(&part, text)?;
        fs::rename(part, self.file(HOSTS))
    }

    /// The hosts that were noted.
    pub fn hosts(&self) -> Vec<Known> {
        let text = fs::read(self.file(HOSTS)).unwrap_or_default();
        let rows: Value = serde_json::from_slice(&text).unwrap_or_default();
        let rows = rows.as_array().cloned().unwrap_or_default();
        rows.iter().filter_map(Known::read).collect()
    }

    /// Ends the keeper, and with it all that is the demo's; removes the directory. Tells whether anything was there.
    ///
    /// # Errors
    /// What is still there.
    pub fn remove(&self) -> Result<bool, String> {
        let was_there = self.0.exists();
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if let Some(keeper) = self.keeper() {
                kill(keeper, signal).ok();
                within(END, || self.keeper().is_none().then_some(()));
            }
        }
        if let Some(keeper) = self.keeper() {
            return Err(format!("process {keeper} does not end"));
        }
        self.sweep()?;
        Ok(was_there)
    }

    /// Waits for the end of hosts whose keeper has ended, and removes what is noted of them. Where there is a keeper,
    /// nothing is done.
    ///
    /// # Errors
    /// What is still there.
    pub fn sweep(&self) -> Result<(), String> {
        if self.keeper().is_some() {
            return Ok(());
        }
        for host in self.hosts() {
            host.end()?;
        }
        for name in [READY, HOSTS, PART, LOG, LOCK] {
            fs::remove_file(self.file(name)).ok();
        }
        match fs::remove_dir(&self.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(format!("removing {}: {e}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Known {
    fn read(row: &Value) -> Option<Self> {
        Some(Self {
            name: row["name"].as_str()?.to_owned(),
            pid: u32::try_from(row["pid"].as_u64()?).ok()?,
            started: row["started"].as_u64()?,
            group: row["group"].as_str()?.to_owned(),
        })
    }

    /// Its namespaces.
    pub fn spaces(&self) -> Spaces {
        Spaces::of_process(self.pid)
    }

    /// Waits until the kernel has ended it, which follows from its keeper's end, and removes its control groups.
    fn end(&self) -> Result<(), String> {
        let gone = || (started(self.pid) != Some(self.started)).then_some(());
        if within(END, gone).is_none() {
            return Err(format!("process {} of host {} does not end", self.pid, self.name));
        }
        cgroups::remove(&self.group);
        Ok(())
    }
}

/// When a process was started; none if there is no such one, or only what its parent hasn't asked about yet.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    // Field 22 of proc_pid_stat(5); the first one here is the third.
    fields.get(19)?.parse().ok()
}
