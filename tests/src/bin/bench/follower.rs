//! A program of a host that tells line by line what happens, read as it does: what the kernel says of its rows, what
//! tombolo says of its endpoints.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use system_tests::Host;

/// The program, which ends with this value.
pub struct Follower {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Follower {
    /// Starts a program on a host.
    pub fn start(host: &Host, mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let child = host.spaces().enter(|| command.spawn());
        let mut child = child.unwrap_or_else(|e| panic!("starting {command:?}: {e}"));
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let (tell, lines) = channel();
        // Ends with the program, whose pipe then ends.
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if tell.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// What the kernel says of changes of a sort: `bridge monitor fdb`, `ip monitor neigh`. It is heard when this returns.
    pub fn of_kernel(host: &Host, program: &str, sort: &str) -> Self {
        let mut command = Command::new(program);
        command.args(["monitor", sort]);
        let follower = Self::start(host, command);
        // It says nothing of itself; a moment later it listens.
        std::thread::sleep(Duration::from_millis(200));
        follower
    }

    /// Forgets what was said so far.
    pub fn forget(&self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// Waits for a line of which `wanted` makes something; when that was read, and what it is.
    pub fn until<T>(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<(Instant, T)> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (read, line) = self.lines.recv_timeout(left).ok()?;
            if let Some(found) = wanted(&line) {
                return Some((read, found));
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
