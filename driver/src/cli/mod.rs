//! The command line: one file a command, and what they share.
//!
//! ```text
//!   serve                                    -> config -> the daemon, here
//!   status networks endpoints ports          -> config -> client -> control socket -> table or JSON
//!   pools state peers cluster                -> config -> client -> control socket -> table or JSON
//!   events                                   -> config -> client -> control socket -> a line each as it comes
//!   doctor trace                             -> config -> client, Docker, kernel -> what is wrong, what would happen
//!   version completions manual               -> need nobody
//! ```

mod client;
mod cluster;
mod completions;
mod doctor;
mod endpoints;
mod events;
mod failure;
mod manual;
mod names;
mod networks;
mod output;
mod peers;
mod pools;
mod ports;
mod serve;
mod state;
mod status;
mod trace;
mod version;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Setting};
use client::Client;
use failure::Failure;

const LONG_ABOUT: &str = "\
A network and IPAM plug-in for Docker. `tombolo serve` is the daemon that makes the networks; the other commands ask \
it how things stand.";

const EXAMPLES: &str = "\
Examples:
  tombolo serve                          serve this host's Docker engine, in the foreground
  tombolo status                         is it well, and what does it look after?
  tombolo endpoints --output json | jq   who has which address, for a script
  tombolo cluster init                   begin a cluster of hosts with this one
  docker network create -d tombolo --ipam-driver tombolo demo

Settings come from flags, then the environment (TOMBOLO_…), then /etc/tombolo/tombolo.toml, then defaults.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 the daemon is not running.";

#[derive(Debug, Parser)]
#[command(name = "tombolo", version, about = "A network and IPAM plug-in for Docker", long_about = LONG_ABOUT)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// File of settings [env: TOMBOLO_CONFIG] [default: /etc/tombolo/tombolo.toml, which may be absent]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Socket of the running daemon [env: TOMBOLO_CONTROL_SOCKET] [default: /run/tombolo/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    control_socket: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Serve(Box<serve::Flags>),
    /// Show whether the daemon is well, what it looks after and where its settings come from
    Status(status::Flags),
    /// List the networks
    Networks(networks::Flags),
    /// List the endpoints: each container's place on a network
    Endpoints(endpoints::Flags),
    /// List the published ports: which port of this host leads to which container
    Ports(ports::Flags),
    /// Follow what happens, as it happens
    Events(events::Flags),
    /// List the address pools and who holds their addresses
    Pools(pools::Flags),
    /// List the endpoints of all hosts of the cluster
    Peers(peers::Flags),
    /// Begin a cluster of hosts, join it, see how it stands, leave it
    Cluster(cluster::Flags),
    /// Save or restore all that the daemon remembers
    State(state::Flags),
    /// Look for what is wrong on this host, and say what to do about it
    Doctor(doctor::Flags),
    /// Say hop by hop what would become of a packet
    Trace(trace::Flags),
    /// Show the version
    Version(version::Flags),
    /// Print the completions of a shell
    Completions(completions::Flags),
    /// Write the manual pages
    #[command(hide = true)]
    Manual(manual::Flags),
}

impl Common {
    /// The settings of this process. `flags` are those of one command alone.
    fn settings(&self, mut flags: BTreeMap<Setting, String>) -> Result<Config, Failure> {
        if let Some(path) = &self.control_socket {
            flags.insert(Setting::ControlSocket, path.clone());
        }
        Ok(config::load(&flags, self.config.as_deref(), &environment())?)
    }

    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.settings(BTreeMap::new())?.control_socket))
    }
}

/// The variables of this process that may be settings. Bytes that are no UTF-8 become U+FFFD, which no setting takes.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .map(|(key, text)| {
            (
                key.to_string_lossy().into_owned(),
                text.to_string_lossy().into_owned(),
            )
        })
        .filter(|(key, _)| key.starts_with("TOMBOLO_"))
        .collect()
}

/// Runs the command that this process was called with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Vec::new();
    let result = run(&cli, &mut out);
    // What a command has to say is worth reading even where it failed in the end.
    match result.and(print(&out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where even stderr is gone the exit code is all that is left to say it with.
            let _ = writeln!(io::stderr(), "tombolo: {}", failure.chain());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: &Cli, out: &mut Vec<u8>) -> Result<(), Failure> {
    let common = &cli.common;
    match &cli.command {
        Command::Serve(flags) => flags.run(common),
        Command::Status(flags) => flags.run(&common.client()?, out),
        Command::Networks(flags) => flags.run(&common.client()?, out),
        Command::Endpoints(flags) => flags.run(&common.client()?, out),
        Command::Ports(flags) => flags.run(&common.client()?, out),
        Command::Events(flags) => flags.run(&common.client()?),
        Command::Pools(flags) => flags.run(&common.client()?, out),
        Command::Peers(flags) => flags.run(&common.client()?, out),
        Command::Cluster(flags) => flags.run(common, out),
        Command::State(flags) => flags.run(&common.client()?, out),
        Command::Doctor(flags) => flags.run(common, out),
        Command::Trace(flags) => flags.run(common, out),
        Command::Version(flags) => flags.run(out),
        Command::Completions(flags) => flags.run(out),
        Command::Manual(flags) => flags.run(),
    }
}

/// Prints what a command had to say, in one go. A reader that has seen enough (`| head`) is no failure.
fn print(out: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(out).and_then(|()| stdout.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Failure::File {
            doing: "writing",
            path: "standard output".into(),
            source,
        }),
        _ => Ok(()),
    }
}
