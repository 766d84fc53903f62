//! What a way between containers of two hosts costs: by the wire alone, by tombolo's networks, and by Docker's own overlay,
//! Swarm's, on the same two hosts.
//!
//! ```text
//!   a ── over, routed, swarm ── tombolo, engine ── wire ── engine, tombolo ── over, routed, swarm ── b
//! ```
//!
//! Swarm switches on that frames on bridges are filtered as packets are, for the whole host. That concerns tombolo's
//! bridges as well, though not its own, which are in a namespace apart. Elsewhere it may be on or off, so tombolo's ways are
//! measured with both.

pub mod profile;
mod report;

use std::net::IpAddr;

use system_tests::measure::Way;
use system_tests::{Kind, Plan, Site, Sites, say, wait};

use crate::cost;

/// The setting that has frames on bridges filtered.
const FILTERED: &str = "net/bridge/bridge-nf-call-iptables";

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Wire,
    Routed,
    RoutedFiltered,
    Overlay,
    OverlayFiltered,
    Swarm,
}

const ALL: [Which; 6] = [
    Which::Wire,
    Which::Routed,
    Which::RoutedFiltered,
    Which::Overlay,
    Which::OverlayFiltered,
    Which::Swarm,
];

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Wire => "the bare wire, host to host",
            Self::Routed => "host-gateway",
            Self::RoutedFiltered => "host-gateway, frames filtered",
            Self::Overlay => "overlay",
            Self::OverlayFiltered => "overlay, frames filtered",
            Self::Swarm => "Docker's Swarm overlay",
        }
    }

    /// The network of its containers.
    fn network(self) -> Option<&'static str> {
        match self {
            Self::Wire => None,
            Self::Routed | Self::RoutedFiltered => Some("routed"),
            Self::Overlay | Self::OverlayFiltered => Some("over"),
            Self::Swarm => Some("swarm"),
        }
    }

    fn filtered(self) -> bool {
        matches!(self, Self::RoutedFiltered | Self::OverlayFiltered)
    }
}

/// Measures all ways in so many rounds, and says what was found.
pub fn measure(rounds: usize) -> Vec<String> {
    let load = crate::load();
    say("across: starting two hosts");
    let sites = Plan::of(2).joined();
    let ways = ways(&sites);
    let costs = cost::in_turns("across", &ways, rounds, |at| filter(&sites, ALL[at]));
    report::lines(&sites[0].engine.version(), &load, &costs)
}

/// Has frames on bridges filtered, or not, as a way wants it.
fn filter(sites: &Sites, which: Which) {
    let filtered = if which.filtered() { "1" } else { "0" };
    sites.iter().for_each(|site| site.host.sysctl(FILTERED, filtered));
}

/// All ways between two hosts, with what they need.
fn ways(sites: &Sites) -> [Way; ALL.len()] {
    sites.network("over", Kind::Overlay, &["--subnet", "10.42.0.0/16"]);
    sites.network("routed", Kind::HostGateway, &["--subnet", "10.43.0.0/16"]);
    swarm(sites);
    ALL.map(|which| way(sites, which))
}

/// Has both engines be a swarm with an overlay of its own that takes containers by hand.
pub fn swarm(sites: &Sites) {
    let [first, second] = [&sites[0].engine, &sites[1].engine];
    let address = sites.wire(0).ipv4(0);
    first.docker(&["swarm", "init", "--advertise-addr", &address]);
    let token = first.docker(&["swarm", "join-token", "-q", "worker"]);
    second.docker(&["swarm", "join", "--token", &token, &format!("{address}:2377")]);
    first.docker(&[
        "network",
        "create",
        "-d",
        "overlay",
        "--attachable",
        "--subnet",
        "10.44.0.0/16",
        "swarm",
    ]);
}

fn way(sites: &Sites, which: Which) -> Way {
    let name = which.name().to_owned();
    let Some(network) = which.network() else {
        let [from, to] = [0, 1].map(|at| sites[at].network_spaces());
        let address = sites.wire(0).ipv4(1).parse().expect("an address");
        return Way {
            name,
            from,
            to,
            address,
        };
    };
    let container = |site: &Site| {
        let name = format!("on-{network}");
        match site
            .engine
            .try_docker(&["inspect", "--type", "container", &name])
            .ok
        {
            true => site.known(&name),
            false => site.container(&name, network, &[]),
        }
    };
    let [from, to] = [container(&sites[0]), container(&sites[1])];
    let address: IpAddr = to.ip(network).parse().expect("an address");
    let reached = || from.pings(&address.to_string()).then_some(());
    wait::until(&format!("{name}: a ping"), reached);
    Way {
        name,
        from: from.spaces(),
        to: to.spaces(),
        address,
    }
}
