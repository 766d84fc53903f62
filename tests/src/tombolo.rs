//! The tested binary on a host of the lab: the daemon and its command line.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::command::{LIMIT, Output, run};
use crate::draw::Draw;
use crate::host::{Background, Host};
use crate::{engine, http, json, plugin, wait};

/// Names the tested binary; default `target/debug/tombolo` of this workspace.
pub const BINARY: &str = "TOMBOLO_TEST_BINARY";

/// Where hosts have the tested binary.
pub const INSIDE: &str = "/usr/local/bin/tombolo";

/// The daemon's log on its host.
pub const LOG: &str = "/var/log/tombolo.log";

/// The control socket on its host.
pub const CONTROL: &str = "/run/tombolo/control.sock";

/// How containers come by their links where a test doesn't say (the setting `attach`).
pub const ATTACH: &str = "TOMBOLO_TEST_ATTACH";

/// How long the daemon may take to answer or to end.
const START: Duration = Duration::from_secs(20);

/// The path of the tested binary on the test machine, whether it has been built or not.
pub fn binary() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/tombolo");
    std::env::var(BINARY).map_or(default, PathBuf::from)
}

/// The daemon.
#[derive(Debug)]
pub struct Tombolo {
    host: Arc<Host>,
    environment: Vec<(String, String)>,
    process: Mutex<Option<Background>>,
}

impl Tombolo {
    /// Starts the daemon on a host and waits until it answers as a plug-in.
    pub fn start(host: &Arc<Host>) -> Self {
        Self::start_with(host, &[])
    }

    /// Starts the daemon with settings in its environment and waits until it answers as a plug-in.
    pub fn start_with(host: &Arc<Host>, environment: &[(&str, &str)]) -> Self {
        let binary = binary();
        assert!(
            binary.exists(),
            "{} is missing: build it with `cargo build`, or set {BINARY}",
            binary.display()
        );
        // What a test says comes last, and counts.
        let attach = std::env::var(ATTACH).map(|attach| ("TOMBOLO_ATTACH".to_owned(), attach));
        let said = environment.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
        let environment = attach.into_iter().chain(said).collect();
        let tombolo = Self {
            host: Arc::clone(host),
            environment,
            process: Mutex::new(None),
        };
        tombolo.start_again();
        tombolo
    }

    /// Starts the daemon's process and waits until it answers as a plug-in.
    pub fn start_again(&self) {
        self.launch();
        let socket = self.host.path(plugin::SOCKET);
        let answers = || match http::request(&socket, "POST", "/Plugin.Activate", b"") {
            Ok(answer) => Some(answer.status == 200),
            Err(_) => (!self.runs()).then_some(false),
        };
        if wait::within(START, answers) != Some(true) {
            panic!("tombolo does not answer\n{}", self.host.logs());
        }
    }

    /// Starts the daemon's process without waiting for it.
    pub fn launch(&self) {
        let process = self.host.start(self.command(&["serve"]), LOG);
        *self.process.lock().expect("no panic while held") = Some(process);
    }

    /// Has a new process take over from the running one, which must end well; waits until it has.
    #[track_caller]
    pub fn take_over(&self) {
        let new = self.host.start(self.command(&["serve", "--take-over"]), LOG);
        let old = self.process.lock().expect("no panic while held").replace(new);
        let old = old.expect("a daemon that runs");
        let mut old = old.lock().expect("no panic while held");
        let ended = wait::within(START, || old.try_wait().expect("waiting for a process of ours"));
        assert!(
            ended.is_some_and(|status| status.success()),
            "the old process ended with {ended:?}\n{}",
            self.host.logs()
        );
    }

    /// Runs the daemon with more arguments in the foreground, where it is to refuse to serve.
    #[track_caller]
    pub fn try_serve(&self, args: &[&str]) -> Output {
        let command = self.command(&[&["serve"], args].concat());
        run(self.host.spaces(), command, None, LIMIT)
    }

    /// Stops the daemon as its service manager would and waits for its end.
    pub fn stop(&self) {
        self.end(Signal::SIGTERM);
    }

    /// Ends the daemon without giving it a moment.
    pub fn kill(&self) {
        self.end(Signal::SIGKILL);
    }

    /// Kills the daemon after a random pause and starts it again, until that is over; gives how often.
    pub fn kill_until(&self, over: &AtomicBool, seed: u64) -> usize {
        let mut draw = Draw::of(seed);
        let mut kills = 0;
        while !over.load(Ordering::Relaxed) {
            // The pause is the point: it ends at any moment of what others do.
            std::thread::sleep(draw.millis(0, 1500));
            self.kill();
            kills += 1;
            self.start_again();
        }
        kills
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        let process = self.process.lock().expect("no panic while held");
        engine::send(process.as_ref().expect("a daemon that runs"), signal);
    }

    fn end(&self, signal: Signal) {
        let process = self
            .process
            .lock()
            .expect("no panic while held")
            .take()
            .expect("a daemon that runs");
        engine::end(&process, signal, START);
    }

    /// Whether the daemon's process is there.
    pub fn runs(&self) -> bool {
        let process = self.process.lock().expect("no panic while held");
        process
            .as_ref()
            .is_some_and(|p| matches!(p.lock().expect("no panic while held").try_wait(), Ok(None)))
    }

    /// The daemon's log so far.
    pub fn log(&self) -> String {
        self.host.log(LOG)
    }

    /// The tested binary with arguments, as this daemon is run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(INSIDE);
        command.args(args).env("RUST_BACKTRACE", "1");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TOMBOLO_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Runs the command line and waits for its end.
    #[track_caller]
    pub fn try_cli(&self, args: &[&str]) -> Output {
        run(self.host.spaces(), self.command(args), None, LIMIT)
    }

    /// What `tombolo doctor` finds. It ends with 1 where there is a fault.
    #[track_caller]
    pub fn findings(&self) -> Vec<Value> {
        let output = self.try_cli(&["doctor", "--output", "json"]);
        json::rows(&json::parse(&output.stdout)["findings"]).to_vec()
    }

    /// Runs the command line with `--output json`; it must succeed.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Value {
        let args = [args, &["--output", "json"]].concat();
        json::parse(&self.try_cli(&args).must().stdout)
    }

    /// Starts the command line and lets it go on, with all that it prints in `log`, a path of the host.
    pub fn cli_to(&self, args: &[&str], log: &str) -> Background {
        self.host.start(self.command(args), log)
    }

    /// The whole state as `tombolo state export` writes it.
    #[track_caller]
    pub fn export(&self) -> Value {
        json::parse(&self.try_cli(&["state", "export"]).must().stdout)
    }

    /// A client of the daemon's plug-in socket.
    pub fn plugin(&self) -> plugin::Client {
        plugin::Client::new(&self.host)
    }
}
