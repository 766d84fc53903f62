//! What the tests of the command line share: a daemon of our own making, and the built binary.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use tempfile::TempDir;

/// A daemon that keeps what came.
pub struct Daemon {
    pub directory: TempDir,
    pub requests: Receiver<String>,
}

impl Daemon {
    /// Answers whatever comes with this status line and body. An empty status line means that it never answers.
    pub fn answering(status: &'static str, body: impl Into<String>) -> Self {
        let body = body.into();
        Self::telling(move |_| (status, body.clone()))
    }

    /// Answers each request, which is its first line, a blank, its body, with a status line and a body.
    pub fn telling(answer: impl Fn(&str) -> (&'static str, String) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("control.sock")).unwrap();
        let (sender, requests) = channel();
        thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read_request(&mut stream);
                let (status, body) = answer(&request);
                // Before the answer: whoever has it may look at once.
                sender.send(request).unwrap();
                if status.is_empty() {
                    silent.push(stream);
                } else {
                    let length = body.len();
                    write!(
                        stream,
                        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
                    )
                    .unwrap();
                }
            }
        });
        Self { directory, requests }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    pub fn ask(&self, args: &[&str]) -> Output {
        tombolo(&self.socket(), args)
    }

    /// The one request that came since the last look: its first line, a blank, its body.
    pub fn request(&self) -> String {
        self.requests.recv().unwrap()
    }
}

fn read_request(stream: &mut UnixStream) -> String {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            });
            if body.len() >= length.unwrap_or(0) {
                return format!("{} {body}", head.lines().next().unwrap());
            }
        }
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the request ended early: {text}");
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// The binary with no settings but its control socket.
pub fn tombolo(socket: &Path, args: &[&str]) -> Output {
    command(args)
        .env("TOMBOLO_CONTROL_SOCKET", socket)
        .output()
        .unwrap()
}

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
    command
        .env_clear()
        .env("TOMBOLO_CONFIG", "/dev/null")
        .args(args)
        .stdin(Stdio::null());
    command
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
