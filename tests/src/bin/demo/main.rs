//! Three hosts on this machine with a network of each kind that spans hosts, for somebody who wants to see and try them.
//!
//! ```text
//!   demo up ──starts──> demo keep ──holds──> hosts a, b, c: namespaces, engines, tomboli, containers
//!      │ shows what it says     │
//!      └── ends when all is up  └── stays; `demo down` ends it, and all hosts end with it
//! ```
//!
//! `make demo`, `demo-shell HOST=b`, `demo-status` and `demo-down` call it. It is the lab of the system tests: the names of
//! their variables hold, see `tests/README.md`.

mod keep;
mod state;
mod tour;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

use system_tests::{command, tombolo};

use state::{Known, State};

const USAGE: &str = "usage: demo up | demo shell HOST [-- COMMAND...] | demo status | demo down";

/// What the demo calls, and Debian's packages that hold it.
const PROGRAMS: [(&str, &str); 6] = [
    ("dockerd", "docker.io"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("busybox", "busybox-static"),
    ("bash", "bash"),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if !nix::unistd::geteuid().is_root() {
        return refuse("The demo needs root: it makes namespaces, links and mounts. Nothing was done.");
    }
    let state = State::new();
    match words.as_slice() {
        ["up"] => up(&state),
        ["keep"] => keep::keep(&state),
        ["shell", host] => shell(&state, host, &[]),
        ["shell", host, "--", command @ ..] => shell(&state, host, command),
        ["status"] => status(&state),
        ["down"] => down(&state),
        _ => refuse(USAGE),
    }
}

/// Shows text to the user. If nobody reads it any more they have gone, and so does this process: from a keeper the hosts
/// are gone with it.
fn print(text: &str) {
    let mut out = std::io::stdout();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// Says why something was not done.
#[allow(clippy::print_stderr, reason = "this program speaks to its user")]
fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

/// Starts a keeper and shows what it says until all is up.
#[expect(
    clippy::zombie_processes,
    reason = "a keeper that is ready outlives this process"
)]
fn up(state: &State) -> ExitCode {
    if state.keeper().is_some() {
        return if state.is_ready() {
            print("The demo is up already; nothing was changed.\n");
            print(tour::WHAT_NEXT);
            ExitCode::SUCCESS
        } else {
            refuse("A demo is just being started. Wait for it, or remove it with: make demo-down")
        };
    }
    if let Some(why) = missing() {
        return refuse(&why);
    }
    // What one left that was killed, if there was one.
    if let Err(why) = state.sweep() {
        return refuse(&format!("An earlier demo is still there: {why}"));
    }
    let this = std::env::current_exe().expect("this program's path");
    let keeper = Command::new(this)
        .arg("keep")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut keeper = keeper.expect("starting this program once more");
    let said = keeper.stdout.take().expect("a pipe");
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        print(&line);
    }
    if state.is_ready() {
        return ExitCode::SUCCESS;
    }
    keeper.wait().ok();
    refuse(&state.last_words());
    match state.sweep() {
        Ok(()) => refuse("The demo did not come up. Nothing of it is left."),
        Err(why) => refuse(&format!(
            "The demo did not come up, and not all could be removed: {why}"
        )),
    }
}

/// What is missing for a demo, and how to get it.
fn missing() -> Option<String> {
    if !tombolo::binary().exists() {
        let path = tombolo::binary();
        return Some(format!("{} is missing: make build", path.display()));
    }
    let directories: Vec<&str> = command::PATH.split(':').collect();
    let there = |program: &str| {
        directories
            .iter()
            .any(|dir| std::path::Path::new(dir).join(program).exists())
    };
    let packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !there(program))
        .map(|(_, package)| *package)
        .collect();
    (!packages.is_empty()).then(|| {
        format!(
            "These are missing: {0}\nInstall them, as root, with: apt-get install --no-install-recommends {0}",
            packages.join(" ")
        )
    })
}

/// The demo's hosts; says what to do if there are none.
fn hosts(state: &State) -> Result<Vec<Known>, ExitCode> {
    let hosts = state.hosts();
    if state.keeper().is_none() || hosts.is_empty() {
        return Err(refuse("No demo is up. Start it with: make demo"));
    }
    Ok(hosts)
}

/// Runs a shell or a command on a host, with this terminal.
fn shell(state: &State, name: &str, words: &[&str]) -> ExitCode {
    let hosts = match hosts(state) {
        Ok(hosts) => hosts,
        Err(code) => return code,
    };
    let Some(host) = hosts.iter().find(|host| host.name == name) else {
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        return refuse(&format!("No host is called '{name}': {}", names.join(", ")));
    };
    if words.is_empty() {
        print(&format!(
            "On host {name}. Try: docker ps; tombolo peers; tombolo doctor. Leave with: exit"
        ));
    }
    let (program, args) = words.split_first().unwrap_or((&"bash", &[]));
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir("/root")
        .env("HOME", "/root")
        .env("PS1", "\\h:\\w# ")
        .env("PATH", command::PATH);
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("DOCKER_")) {
        command.env_remove(variable);
    }
    match host.spaces().enter(|| command.spawn()) {
        Ok(mut child) => {
            let ended = child.wait().expect("waiting for a child");
            ended
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(e) => refuse(&format!("Cannot start {program} on host {name}: {e}")),
    }
}

/// Shows the hosts of the demo and what runs on them.
fn status(state: &State) -> ExitCode {
    let hosts = match hosts(state) {
        Ok(hosts) => hosts,
        Err(code) => return code,
    };
    if !state.is_ready() {
        print("The demo is being started.");
    }
    let mut well = true;
    for host in &hosts {
        let format = "table {{.Names}}\t{{.Image}}\t{{.Status}}\t{{.Networks}}";
        let output = host.spaces().try_run("docker", &["ps", "--format", format]);
        well &= output.ok;
        print(&format!(
            "Host {}\n{}{}\n",
            host.name, output.stdout, output.stderr
        ));
    }
    for line in [["cluster", "status"].as_slice(), &["peers"]] {
        let output = hosts[0].spaces().try_run(tombolo::INSIDE, line);
        well &= output.ok;
        print(&format!("{}{}\n", output.stdout, output.stderr));
    }
    print(tour::WHAT_NEXT);
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Removes the demo.
fn down(state: &State) -> ExitCode {
    match state.remove() {
        Ok(true) => {
            print("The demo is removed: its hosts, their processes, links and files.");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            print("No demo is up; there is nothing to remove.");
            ExitCode::SUCCESS
        }
        Err(why) => refuse(&format!("Not all of the demo could be removed: {why}")),
    }
}
