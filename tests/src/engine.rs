//! A Docker engine on a host of the lab: this machine's own, or one of another Debian release.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::command::{LIMIT, Output, PATH, run};
use crate::host::{Background, Host};
use crate::{http, image, json, wait};

/// Names the engine of a run: `native` (this machine's), or the Debian release of an engine root: `trixie`, `sid`.
pub const ENGINE: &str = "TOMBOLO_TEST_ENGINE";

/// The engine's socket on its host.
pub const SOCKET: &str = "/run/docker.sock";

/// The engine's log on its host.
pub const LOG: &str = "/var/log/dockerd.log";

/// The engine's process id file on its host.
const PIDFILE: &str = "/run/docker.pid";

/// How long an engine may take to answer or to end. One that waits for a missing plug-in takes its time.
const START: Duration = Duration::from_secs(90);

/// The last words of an engine that has given its own containerd 15 seconds, which a machine that reads the program for the first time
/// may need. A service manager starts it again.
const CONTAINERD_LATE: &str = "timeout waiting for containerd to start";

/// How often an engine is started whose containerd is late.
const STARTS: usize = 3;

/// The root of the files of the engine that this run is to use; made now if it is missing.
pub fn root() -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| root_of(&of_run())).clone()
}

/// The name of the engine that this run is to use.
pub fn of_run() -> String {
    std::env::var(ENGINE).unwrap_or_else(|_| "native".to_owned())
}

/// The root of the files of an engine by its name, as in [`ENGINE`]; made now if it is missing.
pub fn root_of(name: &str) -> PathBuf {
    if name == "native" {
        PathBuf::from("/")
    } else {
        made_root(name)
    }
}

fn made_root(suite: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/engines.sh");
    let made = Command::new(script)
        .arg(suite)
        .output()
        .expect("starting engines.sh");
    assert!(
        made.status.success(),
        "{ENGINE}={suite}: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let roots = std::env::var("TOMBOLO_TEST_ENGINES");
    PathBuf::from(roots.unwrap_or_else(|_| "/var/cache/tombolo-tests/engines".to_owned())).join(suite)
}

/// A Docker engine.
#[derive(Debug)]
pub struct Engine {
    host: Arc<Host>,
    flags: Vec<String>,
    process: Mutex<Option<Background>>,
}

impl Engine {
    /// Starts an engine on a host and waits until it answers; its image is then there as well.
    pub fn start(host: &Arc<Host>, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|&f| f.to_owned()).collect();
        let engine = Self {
            host: Arc::clone(host),
            flags,
            process: Mutex::new(None),
        };
        engine.start_again();
        let import = engine.client(&["import", "-c", "CMD [\"/bin/sh\"]", "-", image::NAME]);
        run(host.spaces(), import, Some(image::tarball().to_vec()), LIMIT).must();
        engine
    }

    /// Starts the engine's process and waits until it answers.
    pub fn start_again(&self) {
        for _ in 0..STARTS {
            self.launch();
            let answers = || match self.get("/_ping") {
                Some(answer) if answer.status == 200 => Some(true),
                _ => (!self.runs()).then_some(false),
            };
            match wait::within(START, answers) {
                Some(true) => return,
                Some(false) if self.host.log(LOG).trim_end().ends_with(CONTAINERD_LATE) => {}
                _ => break,
            }
        }
        panic!("the engine does not answer\n{}", self.host.logs());
    }

    /// Starts the engine's process without waiting for it.
    pub fn launch(&self) {
        let mut command = Command::new("dockerd");
        command.env("PATH", PATH);
        // Its own choices would depend on the test machine: whether systemd runs there, whether it has a proxy.
        for name in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "http_proxy",
            "https_proxy",
            "NOTIFY_SOCKET",
        ] {
            command.env_remove(name);
        }
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        command.args(["--cgroup-parent", &format!("/{}", self.host.name())]);
        command.args([
            "--pidfile",
            PIDFILE,
            "-H",
            &format!("unix://{SOCKET}"),
            "--shutdown-timeout",
            "5",
        ]);
        command.args(&self.flags);
        let process = self.host.start(command, LOG);
        *self.process.lock().expect("no panic while held") = Some(process);
    }

    /// Stops the engine as its service manager would and waits for its end.
    pub fn stop(&self) {
        self.end(Signal::SIGTERM);
    }

    /// Ends the engine without giving it a moment.
    pub fn kill(&self) {
        self.end(Signal::SIGKILL);
    }

    /// Sends the engine a signal.
    pub fn signal(&self, signal: Signal) {
        let process = self.process.lock().expect("no panic while held");
        send(process.as_ref().expect("an engine that runs"), signal);
    }

    fn end(&self, signal: Signal) {
        let process = self
            .process
            .lock()
            .expect("no panic while held")
            .take()
            .expect("an engine that runs");
        end(&process, signal, START);
        // One that was killed leaves its process id behind, and the number may soon be somebody else's.
        std::fs::remove_file(self.host.path(PIDFILE)).ok();
    }

    fn runs(&self) -> bool {
        let process = self.process.lock().expect("no panic while held");
        process
            .as_ref()
            .is_some_and(|p| matches!(p.lock().expect("no panic while held").try_wait(), Ok(None)))
    }

    /// Asks the engine's own interface; none if it does not answer.
    pub fn get(&self, path: &str) -> Option<http::Answer> {
        http::request(&self.host.path(SOCKET), "GET", path, b"").ok()
    }

    /// The engine's version, such as `20.10.24+dfsg1`.
    pub fn version(&self) -> String {
        self.docker(&["version", "--format", "{{.Server.Version}}"])
    }

    /// The engine's major version.
    pub fn major(&self) -> u32 {
        let version = self.version();
        version
            .split('.')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("a version: {version}"))
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{SOCKET}"))
            .env("HOME", "/tmp");
        command.env("DOCKER_SCAN_SUGGEST", "false");
        command
    }

    /// Runs the engine's own command line and waits for its end.
    #[track_caller]
    pub fn try_docker(&self, args: &[&str]) -> Output {
        self.try_docker_for(LIMIT, args)
    }

    /// Runs the engine's own command line, which may take longer than commands usually do.
    #[track_caller]
    pub fn try_docker_for(&self, limit: Duration, args: &[&str]) -> Output {
        run(self.host.spaces(), self.client(args), None, limit)
    }

    /// Runs the engine's own command line, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> String {
        self.try_docker(args).must().stdout
    }

    /// What `docker inspect` says of a container, or of a network.
    #[track_caller]
    pub fn inspect(&self, sort: &str, name: &str) -> Value {
        json::parse(&self.docker(&["inspect", "--type", sort, name]))[0].take()
    }

    /// Runs the engine's compose: the plug-in of its command line where there is one, the program of old where not.
    #[track_caller]
    pub fn compose(&self, args: &[&str]) -> Output {
        let has_plugin = self.try_docker(&["compose", "version"]).ok;
        let mut command = if has_plugin {
            self.client(&["compose"])
        } else {
            Command::new("docker-compose")
        };
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{SOCKET}"))
            .env("HOME", "/tmp");
        run(self.host.spaces(), command, None, LIMIT)
    }
}

/// Sends a process a signal.
pub fn send(process: &Background, signal: Signal) {
    let id = process.lock().expect("no panic while held").id();
    let pid = Pid::from_raw(i32::try_from(id).expect("process ids fit"));
    kill(pid, signal).expect("signalling a process of ours");
    if signal == Signal::SIGSTOP {
        // One thread takes the signal and stops the others, when its turn comes.
        wait::until("a process that was told to stand still does", || {
            stands_still(pid).then_some(())
        });
    }
}

fn stands_still(pid: Pid) -> bool {
    let stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
        // The name before it may have brackets, too.
        stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
    };
    std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|mut tasks| tasks.all(stopped))
}

/// Sends a signal to a background process and waits for its end.
pub fn end(process: &Background, signal: Signal, limit: Duration) {
    let mut child = process.lock().expect("no panic while held");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit"));
    if matches!(child.try_wait(), Ok(None)) {
        kill(pid, signal).expect("signalling a process of ours");
    }
    if wait::within(limit, || child.try_wait().expect("waiting for a process of ours")).is_none() {
        panic!("not ended within {limit:?} of {signal}:\n{}", threads(pid));
    }
}

/// What the threads of a process are waiting for, as far as the kernel tells.
fn threads(pid: Pid) -> String {
    let read = |file: PathBuf| std::fs::read_to_string(file).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let line = |task: std::fs::DirEntry| {
        let of = |name| read(task.path().join(name)).trim().replace('\n', " ");
        format!("{} {} {}\n", of("comm"), of("wchan"), of("stack"))
    };
    tasks.map(line).collect()
}
