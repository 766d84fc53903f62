//! `tombolo trace`: what would become of a packet, hop by hop.
//!
//! ```text
//!   find   which network, which container                (daemon's lists, Docker's where those don't know the name)
//!   live   namespaces, links, routes, rules as they are  -> Sight
//!   walk   the way from a container, host through the host, inside in the container it comes to, back that of an answer,
//!          wire between host and links, rules what rules say: pure but for some questions
//!   story  what is told of it
//! ```
//!
//! No packet is sent. The host's firewall is walked as it is listed, our own table like everybody's; what the rules of ours
//! mean is read from the text that they are made from.

mod back;
mod find;
mod host;
mod inside;
mod live;
mod rules;
mod sight;
mod story;
mod target;
#[cfg(test)]
mod tests;
mod walk;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use clap::Args;
use serde_json::Value;

use super::Common;
use super::client::Client;
use super::failure::Failure;
use super::output::Output;
use crate::config::DockerHost;
use sight::Net;
use target::Target;
use walk::Walk;

const HELP: &str = "\
Examples:
  tombolo trace demo web 192.0.2.1               would a ping get there?
  tombolo trace demo web 192.0.2.1:443           and a TCP connection to port 443?
  tombolo trace demo web 10.208.1.3:53/udp       to a container of another network
  tombolo trace --from 203.0.113.9 192.0.2.2:80  what comes in for a published port
  tombolo trace demo web 192.0.2.1:443 --output json | jq -r .fate

NETWORK and CONTAINER are names or identifiers, or the beginning of one; CONTAINER may be an endpoint's too. No packet is sent to ADDRESS; where this host \
does not know whether a neighbour is there it asks for it, as it would for a packet.

The last line says where the packet arrives, or where it dies and what to do. In JSON, fate is arrives, leaves (this host; \
what is beyond can't be seen), refused (nobody listens), dies, or unsure: something that can't be judged, such as a rule with \
an extension that is not known, could decide otherwise. Looked at are routes, bridges, packet filter rules of nftables and \
iptables, and the containers on both ends; not looked at are programs at the links (tc, XDP, BPF) and IPsec.

Exit codes: 0 traced, wherever it ended; 1 it could not be traced; 2 wrong usage or settings; 3 the daemon is not running.";

/// The flags of `tombolo trace`.
#[derive(Debug, Args)]
#[command(after_help = HELP, override_usage = "tombolo trace NETWORK CONTAINER ADDRESS[:PORT][/tcp|udp|sctp]
       tombolo trace --from ADDRESS ADDRESS[:PORT][/tcp|udp|sctp]")]
pub struct Flags {
    /// NETWORK CONTAINER ADDRESS, or the latter alone with --from
    #[arg(required = true, num_args = 1..=3, value_names = ["NETWORK", "CONTAINER", "ADDRESS"])]
    arguments: Vec<String>,
    /// Trace what comes from this address, by the link that this host reaches it by, instead of a container
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    #[command(flatten)]
    output: Output,
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::Refused {
        message: message.into(),
    }
}

/// Asks Docker one question.
fn ask_docker(socket: &Path, call: &str) -> Result<Value, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime
        .block_on(crate::docker::ask(socket, call))
        .map_err(|error| error.to_string())
}

fn misused(message: impl Into<String>) -> Failure {
    Failure::Usage {
        message: message.into(),
    }
}

impl Flags {
    /// Traces a packet and tells what becomes of it.
    pub fn run(&self, common: &Common, out: &mut Vec<u8>) -> Result<(), Failure> {
        let (names, target) = match (self.from, self.arguments.as_slice()) {
            (None, [network, container, target]) => (Some((network, container)), target),
            (Some(_), [target]) => (None, target),
            (None, _) => {
                return Err(misused(
                    "NETWORK CONTAINER ADDRESS are needed, or --from ADDRESS with one address",
                ));
            }
            (Some(_), _) => {
                return Err(misused(
                    "with --from, one ADDRESS is needed and no network or container",
                ));
            }
        };
        let target: Target = target.parse().map_err(misused)?;
        if self
            .from
            .is_some_and(|from| from.is_ipv6() != target.address.is_ipv6())
        {
            return Err(misused("--from and ADDRESS must be of one family, IPv4 or IPv6"));
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(refused(
                "`tombolo trace` looks into containers' namespaces and the firewall, which are for root only: run it as root, for \
                 example with sudo",
            ));
        }
        let config = common.settings(BTreeMap::new())?;
        let client = Client::new(config.control_socket.clone());
        let DockerHost::Unix(docker) = &config.docker_host;
        let networks = find::networks(&client.get_json("/v1/networks")?);
        let endpoints = find::endpoints(&client.get_json("/v1/endpoints")?);

        let mut live = live::Live::new(docker)?;
        let (from, story) = match (names, self.from) {
            (Some((network, container)), _) => {
                let net = find::network(network, &networks).map_err(refused)?;
                let known = || {
                    let list = ask_docker(docker, "/containers/json?all=1");
                    list.map(|list| find::containers(&list)).unwrap_or_default()
                };
                let end = find::endpoint(container, net, &endpoints, known).map_err(refused)?;
                let namespace = live::namespace(end, docker)?;
                let start = live::start(end, net, &namespace, &target)?;
                let sight = live::sight(networks.clone(), endpoints.clone())?;
                let story = Walk::new(&sight, &mut live, target).go_from_container(&start);
                (
                    format!("container {} on network {}", end.shown(), net.shown()),
                    story,
                )
            }
            (None, Some(from)) => {
                let sight = live::sight(networks.clone(), endpoints.clone())?;
                (
                    from.to_string(),
                    Walk::new(&sight, &mut live, target).go_from_address(from),
                )
            }
            (None, None) => return Err(misused("NETWORK CONTAINER ADDRESS are needed")),
        };
        let to = target.to_string();
        self.output
            .show(&story.document(&from, &to), |_| story.text(&from, &to), out)
    }
}
