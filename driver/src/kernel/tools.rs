//! Running the few programs that we need besides netlink: `nft` for the constant rules, `iptables` for the one rule that
//! must stand among Docker's.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::socket::Failure;

/// How long a program may run. `iptables -w 2` waits up to two seconds for its lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest error text that is handed on, in characters: nft repeats the line that it complains about.
const TEXT_MAX: usize = 400;

/// Where programs of an administrator are found, besides `PATH`, which a service manager may have cut short.
const ALWAYS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The file that a program's name stands for.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(ALWAYS.iter().map(PathBuf::from));
    all.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Runs a program to its end and gives what it wrote. It is killed if the future is dropped.
pub(super) async fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, Failure> {
    let broken = |e: std::io::Error| Failure::Broken(format!("running {}: {e}", program.display()));
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(broken)?;
    let stdin = child.stdin.take();
    let all = async {
        if let Some(mut stdin) = stdin {
            // It may have ended without reading; then its own words say more than our broken pipe.
            let written = stdin.write_all(input.as_bytes()).await;
            tracing::trace!(?written, "input of {}", program.display());
        }
        child.wait_with_output().await
    };
    let output = match timeout(PATIENCE, all).await {
        Ok(output) => output.map_err(broken)?,
        Err(_) => {
            return Err(Failure::Broken(format!(
                "{} did not end within {PATIENCE:?}",
                program.display()
            )));
        }
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said: String = String::from_utf8_lossy(&output.stderr)
        .trim()
        .chars()
        .take(TEXT_MAX)
        .collect();
    let text = format!("{} ended with {}: {said}", program.display(), output.status);
    match output.status.code() {
        Some(_) => Err(Failure::Refused { errno: 0, text }),
        // Killed by a signal: it may have been past the point where it changed something.
        None => Err(Failure::Broken(text)),
    }
}
