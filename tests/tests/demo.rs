//! `make demo` and what belongs to it: three hosts that stay, are entered, and go without a trace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use system_tests::command::{Output, run};
use system_tests::json::{parse, rows, text};
use system_tests::{Spaces, until};

/// How long all of it may take to come up.
const UP: Duration = Duration::from_secs(180);

/// A demo in a directory of its own, so that it is nobody else's. Removed whatever becomes of the test.
struct Demo {
    directory: PathBuf,
    _above: tempfile::TempDir,
}

/// A host as the demo has noted it, and the namespaces that are its own.
struct Noted {
    group: String,
    namespaces: Vec<PathBuf>,
}

impl Demo {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the demo needs root");
        let above = tempfile::tempdir().expect("a directory");
        Self {
            directory: above.path().join("demo"),
            _above: above,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command.args(args).env("TOMBOLO_DEMO_DIR", &self.directory);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        let here = Spaces::of_network(Path::new("/proc/self/ns/net"));
        run(&here, self.command(args), None, UP)
    }

    /// Begins to bring it up and waits until its hosts are there.
    fn begin(&self) -> Child {
        let up = self
            .command(&["up"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let up = up.expect("starting the demo");
        until("the hosts are noted", || {
            self.directory.join("hosts.json").exists().then_some(())
        });
        up
    }

    /// The process that the hosts hang on.
    fn keeper(&self) -> Pid {
        let pid = fs::read_to_string(self.directory.join("lock")).expect("the keeper's process id");
        Pid::from_raw(pid.trim().parse().expect("a process id"))
    }

    fn noted(&self) -> Vec<Noted> {
        let hosts = parse(&fs::read_to_string(self.directory.join("hosts.json")).expect("the hosts"));
        let noted = rows(&hosts).iter().map(|host| Noted {
            group: text(host, "/group").to_owned(),
            namespaces: namespaces(host["pid"].as_u64().expect("a process id")),
        });
        noted.collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.command(&["down"]).output().ok();
    }
}

/// A process's namespaces, by their identities.
fn namespaces(pid: u64) -> Vec<PathBuf> {
    let names = ["net", "mnt", "pid", "uts"];
    let links = names.map(|name| fs::read_link(format!("/proc/{pid}/ns/{name}")));
    links.into_iter().flatten().collect()
}

/// Waits until no process is in these hosts' namespaces: they, their mounts and links are no more then.
#[track_caller]
fn must_end(hosts: &[Noted]) {
    let ours: Vec<&PathBuf> = hosts.iter().flat_map(|host| &host.namespaces).collect();
    assert_eq!(ours.len(), 4 * hosts.len(), "a host has namespaces of its own");
    until("no process is in the hosts' namespaces", || {
        let entries = fs::read_dir("/proc").expect("reading /proc").flatten();
        let mut processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let inside = |pid| namespaces(pid).iter().any(|space| ours.contains(&space));
        (!processes.any(inside)).then_some(())
    });
}

/// That nothing of these hosts is left.
#[track_caller]
fn must_be_gone(hosts: &[Noted]) {
    must_end(hosts);
    for host in hosts {
        let groups = Command::new("find")
            .args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", &host.group])
            .output();
        let groups = groups.expect("starting find");
        assert!(groups.stdout.is_empty(), "groups of {} are left", host.group);
    }
}

#[test]
fn the_demo_stays_is_entered_and_goes_without_a_trace() {
    let demo = Demo::new();
    demo.run(&["shell", "b", "--", "true"])
        .must_fail_with(&["No demo is up", "make demo"]);
    let up = demo.run(&["up"]).must();
    for words in [
        "one cluster",
        "network app",
        "network direct",
        "make demo-shell HOST=b",
        "make demo-down",
    ] {
        assert!(up.stdout.contains(words), "'{words}' is not in:\n{}", up.stdout);
    }
    let bare = up.stdout.lines().find(|line| line.starts_with("the bare wire"));
    assert!(bare.is_some_and(|line| line.contains("Gbit/s")), "{}", up.stdout);
    let (keeper, hosts) = (demo.keeper(), demo.noted());
    assert_eq!(hosts.len(), 3);

    let again = demo.run(&["up"]).must();
    assert!(again.stdout.contains("up already"), "{}", again.stdout);
    assert_eq!(demo.keeper(), keeper);

    for host in ["a", "b", "c"] {
        let shown = demo.run(&[
            "shell", host, "--", "tombolo", "cluster", "status", "--output", "json",
        ]);
        let status: Value = parse(&shown.must().stdout);
        let up = rows(&status["hosts"])
            .iter()
            .filter(|host| host["state"] == "here" || host["state"] == "up");
        assert_eq!(up.count(), 3, "{status:#}");
    }
    let url = "http://10.200.0.1:8080/";
    let page = demo
        .run(&["shell", "b", "--", "busybox", "wget", "-q", "-O", "-", url])
        .must();
    assert_eq!(page.stdout, "hello from tombolo");
    demo.run(&["shell", "b", "--", "true"]).must();
    let seven = demo.run(&["shell", "c", "--", "sh", "-c", "exit 7"]);
    assert_eq!(seven.code, Some(7));
    demo.run(&["shell", "d", "--", "true"])
        .must_fail_with(&["a, b, c"]);
    let status = demo.run(&["status"]).must().stdout;
    for words in ["Host a", "Host b", "Host c", "web-app", "client-direct"] {
        assert!(status.contains(words), "'{words}' is not in:\n{status}");
    }

    demo.run(&["down"]).must();
    assert!(!demo.directory.exists());
    must_be_gone(&hosts);
    demo.run(&["down"]).must();
}

#[test]
fn a_demo_that_dies_half_way_leaves_nothing() {
    let demo = Demo::new();
    // Its keeper dies: whoever waits for it is told, and clears away.
    let up = demo.begin();
    let hosts = demo.noted();
    kill(demo.keeper(), Signal::SIGKILL).expect("killing the keeper");
    let up = up.wait_with_output().expect("waiting for the demo");
    let said = String::from_utf8_lossy(&up.stderr);
    assert!(
        !up.status.success() && said.contains("Nothing of it is left"),
        "{said}"
    );
    assert!(!demo.directory.exists());
    must_be_gone(&hosts);

    // Whoever waits for it dies, as by Ctrl-C: nobody wants the demo any more, and it ends by itself.
    let mut up = demo.begin();
    let hosts = demo.noted();
    up.kill().expect("killing the demo");
    up.wait().expect("waiting for the demo");
    must_end(&hosts);
    demo.run(&["down"]).must();
    assert!(!demo.directory.exists());
    must_be_gone(&hosts);

    // It is taken down while it comes up.
    let up = demo.begin();
    let hosts = demo.noted();
    demo.run(&["down"]).must();
    assert!(
        !up.wait_with_output()
            .expect("waiting for the demo")
            .status
            .success()
    );
    assert!(!demo.directory.exists());
    must_be_gone(&hosts);
}
