//! All that the checks look at: values only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::Value;

use crate::firewall::Ruleset;
use crate::kernel::look::echo::Takes;
use crate::kernel::look::{Link, Route};
use tombolo_core::world::{ADOPTED_GROUP, LINK_GROUP};

/// What the names of bridges that we make begin with; the start of the network's identifier follows.
const BRIDGE_PREFIX: &str = "tb-";
/// The options of a network that name its bridge.
const BRIDGE_NAMES: [&str; 2] = ["bridge_name", "com.docker.network.bridge.name"];

/// What was found on this host. An `Err` holds, in words, why it could not be found out.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Sockets and directories, as the daemon has them where it answers.
    pub places: Places,
    /// The daemon's documents.
    pub daemon: Daemon,
    /// Docker's documents.
    pub docker: Docker,
    /// The host's network.
    pub host: Host,
    /// All packet filter rules.
    pub rules: Rules,
    /// Settings under `/proc/sys`, by their names with dots; what is missing there is missing here.
    pub sysctl: BTreeMap<String, String>,
    /// What this kernel was tried for, and what it said against it.
    pub features: Vec<(Feature, Result<(), String>)>,
    /// The disk under the state directory.
    pub storage: Storage,
    /// systemd, where it runs.
    pub systemd: Option<Systemd>,
    /// firewalld is running.
    pub firewalld: bool,
}

#[derive(Debug, Default)]
pub(super) struct Places {
    pub plugin_socket: PathBuf,
    pub control_socket: PathBuf,
    pub state_dir: PathBuf,
    pub docker_socket: PathBuf,
    /// Whether something listens on the plug-in's socket, or why it can't be reached.
    pub listens: Option<Result<(), String>>,
    /// Files by which Docker finds plug-ins, with what is in them; sockets have none.
    pub plugin_files: BTreeMap<PathBuf, String>,
}

#[derive(Debug, Default)]
pub(super) struct Daemon {
    /// Its status; none was asked for in tests that need none.
    pub status: Option<Result<Value, String>>,
    /// What it says of the cluster.
    pub cluster: Option<Result<Value, String>>,
    /// Where it answers names.
    pub names: Option<Result<Value, String>>,
    pub networks: Vec<Value>,
    pub endpoints: Vec<Value>,
    /// What came of probes in the tunnels; none was asked for where no network has one.
    pub tunnels: Option<Result<Value, String>>,
    /// What differs from the records.
    pub differences: Option<Result<Value, String>>,
    /// Published ports, each with the process of this host that has it too, in words.
    pub listeners: Vec<(Value, String)>,
    /// Containers' ends of their links, by their endpoints.
    pub inner: BTreeMap<String, Link>,
    /// The process that holds the lock by which one tombolo a host is known, where it can be told.
    pub holder: Option<u32>,
    /// Sandboxes of joined endpoints, and whether they are there.
    pub sandboxes: BTreeMap<String, bool>,
}

#[derive(Debug, Default)]
pub(super) struct Docker {
    pub version: Option<Result<Value, String>>,
    pub networks: Vec<Value>,
    pub plugins: Vec<Value>,
}

#[derive(Debug, Default)]
pub(super) struct Host {
    pub links: Vec<Link>,
    pub routes: Vec<Route>,
    pub name_servers: Vec<IpAddr>,
    /// How large packets get through to the cluster's other hosts, where networks span them: the host's identifier, the
    /// largest packet that both wires take, in bytes, and what was found.
    pub paths: Vec<(String, u32, Takes)>,
    /// Questions of containers for addresses that nobody has, by family; none where there is no tunnel.
    pub unanswered: Option<[u64; 2]>,
    /// Why the lists above are empty, if they could not be read.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Rules {
    pub ruleset: Ruleset,
    /// Why there are none, if they could not be read.
    pub error: Option<String>,
    pub has_nft: bool,
    /// `iptables` is the older sort.
    pub iptables_is_legacy: bool,
}

/// Something that a kind of network needs of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Feature {
    /// What it is called.
    pub name: &'static str,
    /// The kind of network that needs it; none for all.
    pub kind: &'static str,
    /// Whether a host without it lacks something although no network needs it yet.
    pub always: bool,
    /// The module that brings it.
    pub module: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Storage {
    /// Bytes: free and all.
    pub bytes: Option<(u64, u64)>,
    /// Inodes: free and all; zero of zero where the file system has no such limit.
    pub inodes: (u64, u64),
    pub read_only: bool,
    /// Why the directory can't be looked at.
    pub error: Option<String>,
    /// Seconds of the wall clock.
    pub now_s: u64,
    /// The newest change in the state directory, by the same clock.
    pub newest_s: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Systemd {
    /// What `tombolo.service` is to be started before; none if there is no such unit.
    pub before: Option<String>,
    pub enabled: String,
}

impl Evidence {
    /// Whether the daemon answered.
    pub fn daemon_answers(&self) -> bool {
        matches!(self.daemon.status, Some(Ok(_)))
    }

    /// The links that bridges of our networks are: what we made, what a network of ours uses, and what the daemon names.
    pub fn our_bridges(&self) -> Vec<&Link> {
        let named = |link: &Link| {
            self.daemon
                .networks
                .iter()
                .any(|n| n["bridge"] == link.name.as_str())
        };
        let ours = |link: &&Link| {
            let made = link.group == LINK_GROUP && link.kind.as_deref() == Some("bridge");
            made || link.group == ADOPTED_GROUP || named(link)
        };
        self.host.links.iter().filter(ours).collect()
    }

    /// The address of a container on a bridge.
    pub fn member(&self, bridge: &Link, v6: bool) -> Option<IpAddr> {
        let of = |network: &&Value| network["bridge"] == bridge.name.as_str();
        let network = self.daemon.networks.iter().find(of)?;
        let family = if v6 { "ipv6" } else { "ipv4" };
        let endpoints = self.daemon.endpoints.iter();
        let mut joined =
            endpoints.filter(|e| e["network_id"] == network["network_id"] && e["joined"] == true);
        joined.find_map(|e| e[family].as_str()?.parse().ok())
    }

    /// Docker's entry of the network that a bridge belongs to, for want of a daemon that could tell.
    pub fn dockers_of(&self, bridge: &Link) -> Option<&Value> {
        let start = bridge.name.strip_prefix(BRIDGE_PREFIX);
        let of = |network: &&Value| {
            let id = network["Id"].as_str().unwrap_or_default();
            let options = &network["Options"];
            let named = |key: &str| options[key] == bridge.name.as_str();
            start.is_some_and(|start| !start.is_empty() && id.starts_with(start))
                || (network["Driver"] != "bridge" && BRIDGE_NAMES.into_iter().any(named))
        };
        self.docker.networks.iter().find(of)
    }

    /// The link that most traffic leaves by.
    pub fn way_out(&self, v6: bool) -> Option<&Link> {
        let default = |route: &&Route| route.to.is_none() && route.v6 == v6 && route.table == 254;
        let oif = self.host.routes.iter().find(default)?.oif?;
        self.link(oif)
    }

    pub fn link(&self, index: u32) -> Option<&Link> {
        self.host.links.iter().find(|link| link.index == index)
    }

    /// The subnets of our networks, each with the network's name and its bridge. Without the daemon they are known by the
    /// bridges' own routes, and by the names that Docker has for them.
    pub fn subnets(&self) -> Vec<(IpNet, String, String)> {
        if self.daemon.networks.is_empty() {
            let bridges = self.our_bridges();
            let own = |route: &Route| {
                let bridge = bridges.iter().find(|bridge| route.oif == Some(bridge.index))?;
                let link_local: IpNet = IpNet::V6("fe80::/10".parse().ok()?);
                let subnet = route
                    .to
                    .filter(|to| route.table == 254 && !link_local.contains(to))?;
                let name = self
                    .dockers_of(bridge)
                    .and_then(|network| network["Name"].as_str());
                Some((
                    subnet,
                    name.unwrap_or(&bridge.name).to_owned(),
                    bridge.name.clone(),
                ))
            };
            return self.host.routes.iter().filter_map(own).collect();
        }
        let of = |network: &Value| {
            let name = name_of(network);
            let bridge = network["bridge"].as_str().unwrap_or_default().to_owned();
            ["ipv4", "ipv6"].map(|family| {
                let pool = network[family]["pool"]
                    .as_str()
                    .and_then(|pool| pool.parse().ok());
                pool.map(|pool: IpNet| (pool, name.clone(), bridge.clone()))
            })
        };
        // Those on a wire have the wire's own subnets.
        let routed = self.daemon.networks.iter().filter(|n| !n["parent"].is_string());
        routed.flat_map(of).flatten().collect()
    }

    /// How many joined endpoints of networks that reach outside have an address of a family.
    pub fn reaching_out(&self, v6: bool) -> usize {
        let internal = |endpoint: &Value| {
            let network = self
                .daemon
                .networks
                .iter()
                .find(|n| n["network_id"] == endpoint["network_id"]);
            // Those on a wire send past the host.
            network.is_some_and(|network| network["internal"] == true || network["parent"].is_string())
        };
        let family = if v6 { "ipv6" } else { "ipv4" };
        let reaches = |e: &&Value| e["joined"] == true && !e[family].is_null() && !internal(e);
        self.daemon.endpoints.iter().filter(reaches).count()
    }
}

/// A network's name, or what its identifier begins with as long as Docker hasn't told it.
pub(super) fn name_of(network: &Value) -> String {
    match network["name"].as_str() {
        Some(name) => name.to_owned(),
        None => network["network_id"]
            .as_str()
            .unwrap_or("-")
            .chars()
            .take(12)
            .collect(),
    }
}
