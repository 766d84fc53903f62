//! `tombolo doctor`: what a person would otherwise look up with ip, bridge, nft, sysctl and nsenter.
//!
//! ```text
//!   gather ──> Evidence ──> checks (pure, one file a group) ──> Findings ──> list or JSON, exit code
//!     control socket, Docker's API, netlink, nft, /proc
//! ```
//!
//! Whatever can't be found out is evidence too: a host without Docker, without nft or without the daemon gets the checks
//! that don't need it.

mod addresses;
mod chains;
mod cluster;
mod daemon;
mod docker;
mod evidence;
mod firewall;
mod forwarding;
mod gather;
mod kernel;
mod links;
mod names;
mod probes;
mod render;
mod storage;
mod tunnels;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::Common;
use super::client::Client;
use super::failure::Failure;
use super::output::{Format, Output};
use evidence::Evidence;

const HELP: &str = "\
Examples:
  tombolo doctor                  what is wrong on this host, and what to do about it
  tombolo doctor --repair         have the daemon settle at once, then look again
  tombolo doctor --output json | jq '.findings[] | select(.verdict == \"fault\")'

Verdicts: ok; warning: works, but not as well or not for long; fault: something does not work; not applicable: nothing \
here needs it, or it cannot be told. What is printed behind `do:` can be typed as it stands.

Nothing is changed without --repair. Kernel features are tried in a network namespace that is thrown away.

Exit codes: 0 nothing is wrong, or warnings only; 1 a fault, or it could not look; 2 wrong usage or settings; \
3 the daemon is not running, with --repair.";

/// The flags of `tombolo doctor`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    /// Have the daemon put right at once what it can, and look again
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    output: Output,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// Something does not work.
    Fault,
    /// It works, but not as well, or not for long.
    Warning,
    /// As it should be.
    Ok,
    /// Nothing here needs it, or it cannot be told.
    NotApplicable,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The check's name, which stays.
    pub check: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found, and where.
    pub evidence: String,
    /// What to do about it, in words.
    pub remedy: Option<String>,
    /// What to type, where that is all there is to do.
    pub command: Option<String>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, evidence: impl Into<String>) -> Self {
        Self {
            check,
            verdict,
            evidence: evidence.into(),
            remedy: None,
            command: None,
        }
    }

    fn ok(check: &'static str, evidence: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, evidence)
    }

    fn none(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Verdict::NotApplicable, why)
    }

    fn warning(check: &'static str, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::new(check, Verdict::Warning, evidence)
        }
    }

    fn fault(check: &'static str, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::new(check, Verdict::Fault, evidence)
        }
    }

    fn by(self, command: impl Into<String>) -> Self {
        Self {
            command: Some(command.into()),
            ..self
        }
    }

    fn bad(&self) -> bool {
        self.verdict <= Verdict::Warning
    }
}

/// The command that has the daemon put things right.
const REPAIR: &str = "tombolo doctor --repair";

type Check = fn(&Evidence) -> Vec<Finding>;

/// All checks, in the order in which they are shown.
const CHECKS: [Check; 50] = [
    daemon::reachable,
    daemon::problems,
    daemon::facts,
    daemon::leaks,
    daemon::records,
    daemon::settings,
    docker::plugin_socket,
    docker::name_clash,
    docker::engine,
    docker::version,
    docker::unit_order,
    forwarding::ipv4,
    forwarding::ipv6,
    forwarding::between,
    forwarding::rp_filter,
    forwarding::br_netfilter,
    firewall::table,
    firewall::forward_accept,
    chains::foreign_chains,
    chains::bridge_chains,
    firewall::legacy,
    firewall::firewalld,
    links::state,
    links::parents,
    links::mtu,
    links::attach,
    addresses::overlaps,
    addresses::listeners,
    cluster::standing,
    cluster::hosts,
    cluster::udp,
    cluster::ways,
    cluster::store,
    cluster::clones,
    cluster::pools,
    cluster::datagrams,
    cluster::rows_taken,
    cluster::clocks,
    tunnels::mtu,
    tunnels::path,
    probes::tunnels,
    tunnels::unanswered,
    tunnels::reach,
    names::gateways,
    names::containers,
    names::zone,
    kernel::features,
    kernel::conntrack,
    storage::disk,
    storage::clock,
];

fn examine(evidence: &Evidence) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(evidence)).collect()
}

impl Flags {
    /// Looks at everything and shows what it found.
    pub fn run(&self, common: &Common, out: &mut Vec<u8>) -> Result<(), Failure> {
        let config = common.settings(std::collections::BTreeMap::new())?;
        if !nix::unistd::geteuid().is_root() {
            return Err(Failure::Refused {
                message: "`tombolo doctor` looks into the firewall, the containers' namespaces and the daemon's socket, \
                          which are for root only: run it as root, for example with sudo"
                    .to_owned(),
            });
        }
        let client = Client::new(config.control_socket.clone());
        let repaired = match self.repair {
            true => Some(client.post_json("/v1/settle", &json!({}))?),
            false => None,
        };
        let findings = examine(&gather::all(&config, &client));
        let document =
            json!({ "repaired": repaired.as_ref().map(|r| &r["differences"]), "findings": findings });
        let text = match self.output.output {
            Format::Json => format!("{document:#}\n"),
            Format::Table => format!(
                "{}{}",
                repaired.as_ref().map(render::repaired).unwrap_or_default(),
                render::findings(&findings)
            ),
        };
        out.extend_from_slice(text.as_bytes());
        let faults = findings.iter().filter(|f| f.verdict == Verdict::Fault).count();
        match faults {
            0 => Ok(()),
            faults => Err(Failure::Faults { faults }),
        }
    }
}

/// The rows of a list in a document; none where it is no list.
fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    super::output::items(value).iter()
}

/// The texts of an array.
fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}
