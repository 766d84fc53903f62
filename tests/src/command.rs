//! Commands run in a place of the lab: each has a time limit, and a failure shows all there is to see.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::Host;
use crate::spaces::Spaces;

/// How long a command may take unless said otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Where programs are looked for, on every host alike: Debian's own before any other of the same name.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command as an operator would type it.
    pub line: String,
    /// Whether its exit code was 0.
    pub ok: bool,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, with white space at its ends cut.
    pub stdout: String,
    /// Standard error, with white space at its ends cut.
    pub stderr: String,
}

impl Output {
    /// Panics with all there is to see unless the command succeeded.
    #[track_caller]
    pub fn must(self) -> Self {
        assert!(
            self.ok,
            "failed ({:?}): {}\n{}\n{}",
            self.code, self.line, self.stdout, self.stderr
        );
        self
    }

    /// Panics unless the command failed and its standard error holds each of these texts.
    #[track_caller]
    pub fn must_fail_with(self, texts: &[&str]) -> Self {
        assert!(
            !self.ok,
            "succeeded, but should not: {}\n{}",
            self.line, self.stdout
        );
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "'{text}' is not in what '{}' said: {}",
                self.line,
                self.stderr
            );
        }
        self
    }
}

/// Starts a command, feeds it `input`, and waits for its end; ends it when the limit is passed.
#[track_caller]
pub fn run(place: &Spaces, mut command: Command, input: Option<Vec<u8>>, limit: Duration) -> Output {
    let line = line_of(&command);
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("PATH", PATH);
    let mut child = place
        .enter(move || command.spawn())
        .unwrap_or_else(|e| panic!("cannot start '{line}': {e}"));
    let feeder = child.stdin.take().zip(input).map(|(mut pipe, bytes)| {
        // A command that ends without reading all of its input tells why by its exit code.
        std::thread::spawn(move || drop(pipe.write_all(&bytes)))
    });
    let output = finish(child, &line, limit);
    if let Some(feeder) = feeder {
        feeder.join().expect("the thread that feeds a command");
    }
    output
}

#[track_caller]
fn finish(child: Child, line: &str, limit: Duration) -> Output {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit"));
    let (end, ended) = mpsc::channel();
    std::thread::spawn(move || end.send(child.wait_with_output()));
    let (result, late) = match ended.recv_timeout(limit) {
        Ok(result) => (result, false),
        Err(_) => {
            kill(pid, Signal::SIGKILL).ok();
            let after = ended.recv_timeout(Duration::from_secs(5));
            (
                after.unwrap_or_else(|_| panic!("not done in {limit:?}, nor after SIGKILL: {line}")),
                true,
            )
        }
    };
    let raw = result.unwrap_or_else(|e| panic!("waiting for '{line}': {e}"));
    let output = Output {
        line: line.to_owned(),
        ok: raw.status.success(),
        code: raw.status.code(),
        stdout: String::from_utf8_lossy(&raw.stdout).trim().to_owned(),
        stderr: String::from_utf8_lossy(&raw.stderr).trim().to_owned(),
    };
    assert!(
        !late,
        "not done in {limit:?}: {line}\n{}\n{}",
        output.stdout, output.stderr
    );
    output
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| w.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

impl Spaces {
    /// Runs a command inside and waits for its end.
    #[track_caller]
    pub fn try_run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(args);
        run(self, command, None, LIMIT)
    }

    /// Runs a command inside, which must succeed, and returns its standard output.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        self.try_run(program, args).must().stdout
    }
}

impl Host {
    /// Runs a command on the host and waits for its end.
    #[track_caller]
    pub fn try_run(&self, program: &str, args: &[&str]) -> Output {
        self.spaces().try_run(program, args)
    }

    /// Runs a command on the host, which must succeed, and returns its standard output.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        self.spaces().run(program, args)
    }

    /// Runs a line of shell on the host, which must succeed, and returns its standard output.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run("sh", &["-ec", script])
    }
}
