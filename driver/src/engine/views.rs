//! What the engine shows of itself: the documents behind `tombolo status`, `networks`, `endpoints`, `pools`, `state`.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Value, json};
use tombolo_core::model::{Attach, Endpoint, Network, Published};
use tombolo_core::world::{Key, Step, World};
use tombolo_ipam::{PoolId, Slot, Use};

use super::events::Problem;
use super::{Engine, Journal};
use crate::kernel::{self, Kernel};
use crate::records::{self, Records};

/// What to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// The daemon as a whole.
    Status,
    /// All networks.
    Networks,
    /// All endpoints.
    Endpoints,
    /// All published ports.
    Ports,
    /// All pools with their leases.
    Pools,
    /// All records, in the form that can be imported.
    Records,
}

/// How the kernel differs from what the records want, and what became of that.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Comparison {
    /// Each difference.
    pub differences: Vec<Difference>,
    /// Why the kernel could not be read, if it couldn't.
    pub unreadable: Option<String>,
}

/// One difference.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The step that mends it, as an operator would type it.
    pub step: String,
    /// What differs is there, and no record asks for it.
    pub unwanted: bool,
    /// It was mended.
    pub repaired: bool,
    /// Why it could not be mended, where that was tried.
    pub error: Option<String>,
}

impl Difference {
    /// That a socket of ours was made anew, or why it was not.
    pub fn of_socket((step, error): (String, Option<String>)) -> Self {
        Self {
            step,
            unwanted: false,
            repaired: error.is_none(),
            error,
        }
    }
}

impl Comparison {
    /// None, as the kernel could not be read.
    pub fn unreadable(error: &kernel::Error) -> Self {
        Self {
            unreadable: Some(error.to_string()),
            ..Self::default()
        }
    }

    /// Notes a step, and how it ended where it was made.
    pub fn note(&mut self, step: &Step, made: Option<Option<String>>) {
        self.differences.push(Difference {
            step: step.to_string(),
            unwanted: step.removes(),
            repaired: made == Some(None),
            error: made.flatten(),
        });
    }
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// A document.
    pub fn show(&self, show: Show) -> Value {
        match show {
            Show::Status => self.status(),
            Show::Networks => self.state.networks().map(|n| self.network(n)).collect(),
            Show::Endpoints => self.state.endpoints().map(|e| self.endpoint(e)).collect(),
            Show::Ports => self.ports(),
            Show::Pools => self.state.ipam().pools().keys().map(|id| self.pool(id)).collect(),
            // Our records are plain structs with text keys, which always make JSON.
            Show::Records => {
                serde_json::to_value(Records::of(&self.state, &self.meta)).unwrap_or(Value::Null)
            }
        }
    }

    fn status(&self) -> Value {
        let setting = |(name, value, origin): &(String, String, String)| json!({ "name": name, "value": value, "origin": origin });
        let problem = |(about, problem): (&String, &Problem)| {
            let place = self.place(problem.owner.as_ref());
            json!({
                "about": about,
                "problem": problem.text,
                "step": problem.step,
                "network_name": place.network_name,
                "container_name": place.container_name,
            })
        };
        let leased =
            |(_, slot): &(&(tombolo_ipam::Space, IpAddr), &Slot)| matches!(slot, Slot::Leased { .. });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "schema": records::SCHEMA,
            "pid": std::process::id(),
            "uptime_s": self.started.elapsed().as_secs(),
            "settings": self.setup.settings.iter().map(setting).collect::<Vec<_>>(),
            "networks": self.state.networks().count(),
            "endpoints": self.state.endpoints().count(),
            "pools": self.state.ipam().pools().len(),
            "leases": self.state.ipam().slots().iter().filter(leased).count(),
            // As many as the metric for those that should hold: endpoints' links are there, but made by nobody again.
            "facts": self.state.world().len(),
            "ignored": self.setup.ignored,
            "repairs": self.repairs,
            "problems": self.problems.iter().map(problem).chain(self.dead_parents()).collect::<Vec<_>>(),
            "docker": self.docker.status(),
            "recovered": self.setup.recovered,
        })
    }

    fn network(&self, network: &Network) -> Value {
        let subnet = |v6| {
            network
                .subnet(v6)
                .map(|s| json!({ "pool": s.pool, "gateway": s.gateway.map(|g| g.addr()) }))
        };
        let kind = network.spec.kind();
        let uplink = network.spec.uplink();
        let missing = self.dead_parent(network).or_else(|| self.missing(network));
        json!({
            "network_id": network.id,
            "name": self.docker.network_name(&network.id),
            "kind": kind.name(),
            "attach": match network.is_inside(self.setup.attach) {
                true => Attach::Inside,
                false => Attach::Classic,
            },
            "bridge": kind.links(&network.id).first().filter(|_| uplink.is_none()),
            "parent": uplink.map(|uplink| uplink.lower(&network.id)),
            "host": uplink.map(|uplink| &uplink.host),
            "internal": network.internal || uplink.is_some_and(|uplink| uplink.parent.is_none()),
            "ipv4": subnet(false),
            "ipv6": subnet(true),
            "mtu": kind.mtu(),
            "vni": network.spec.agreed().vni,
            "groups": network.spec.has_multicast().then(|| self.heard_on(network)),
            "remote_endpoints": self.state.remote_endpoints(network),
            "unreached": self.state.unreached(network),
            "endpoints": self.state.endpoints_of(&network.id).count(),
            "settled": missing.is_none(),
            "problem": missing,
        })
    }

    /// Problems of the links that containers are on, each told for one of the networks.
    fn dead_parents(&self) -> impl Iterator<Item = Value> {
        self.state.parents().filter_map(|parent| {
            let network = self.state.on_parent(parent).next()?;
            let problem = self.dead_parent(network)?;
            Some(json!({
                "about": format!("parent {parent}"),
                "problem": problem,
                "step": Value::Null,
                "network_name": self.docker.network_name(&network.id),
                "container_name": Value::Null,
            }))
        })
    }

    /// What keeps the link from carrying packets that a network's containers are on, if something does.
    fn dead_parent(&self, network: &Network) -> Option<String> {
        let parent = network.spec.uplink()?.lower(&network.id);
        let why = (self.setup.edge.dead_link)(&parent)?;
        Some(format!("{parent}, which its containers are on, {why}"))
    }

    /// A fact of the network that doesn't hold, if there is one.
    fn missing(&self, network: &Network) -> Option<String> {
        let mut wanted = World::new();
        let underlay = self.state.peers().underlay();
        network.spec.kind().network_facts(network, underlay, &mut wanted);
        let lacks = |(key, value): &(&Key, &tombolo_core::world::Value)| {
            !self.believed.get(*key).is_some_and(|held| value.holds_as(held))
        };
        wanted.iter().find(lacks).map(|(key, _)| {
            let about = super::events::about(key);
            let why = self
                .problems
                .get(&about)
                .map(|problem| problem.text.clone())
                .unwrap_or_else(|| "does not hold".to_owned());
            format!("{about}: {why}")
        })
    }

    fn endpoint(&self, endpoint: &Endpoint) -> Value {
        let network = self.state.network(&endpoint.network);
        let on_wire = self.state.is_on_wire(endpoint);
        let published = |p: &Published| json!({ "proto": p.proto, "host_ip": p.host, "host_port": p.host_port, "port": p.port });
        json!({
            "network_id": endpoint.network,
            "endpoint_id": endpoint.id,
            "network_name": self.docker.network_name(&endpoint.network),
            "container_name": self.docker.container_name(&endpoint.id),
            "kind": network.map(|n| n.spec.kind().name()),
            "ipv4": endpoint.address(false).map(|a| a.addr()),
            "ipv6": endpoint.address(true).map(|a| a.addr()),
            "mac": endpoint.mac,
            "joined": endpoint.sandbox.is_some(),
            "host_link": endpoint.linked.then(|| endpoint.id.host_link()).filter(|_| !on_wire),
            "problem": network.and_then(|network| self.dead_parent(network)).filter(|_| endpoint.linked),
            "sandbox": endpoint.sandbox,
            "attach": endpoint.sandbox.as_ref().map(|_| match endpoint.inside {
                true => Attach::Inside,
                false => Attach::Classic,
            }),
            "published": endpoint.published.iter().map(published).collect::<Vec<_>>(),
        })
    }

    /// One object a published port, in the order of the host's ports.
    fn ports(&self) -> Value {
        let mut all: Vec<(&Published, &Endpoint)> = self
            .state
            .endpoints()
            .flat_map(|e| e.published.iter().map(move |p| (p, e)))
            .collect();
        all.sort_by_key(|(p, _)| (p.host_port, p.proto, p.host));
        let port = |(p, e): &(&Published, &Endpoint)| {
            json!({
                "host_ip": p.host,
                "host_port": p.host_port,
                "proto": p.proto,
                "container_ip": e.address(p.host.is_ipv6()).map(|a| a.addr()),
                "port": p.port,
                "container_name": self.docker.container_name(&e.id),
                "network_name": self.docker.network_name(&e.network),
                "endpoint_id": e.id,
                "network_id": e.network,
            })
        };
        all.iter().map(port).collect()
    }

    fn pool(&self, pool: &PoolId) -> Value {
        let ipam = self.state.ipam();
        let lease = |(address, usage): (IpAddr, &Use)| {
            let (word, name) = match usage {
                Use::Gateway | Use::Unnamed => ("gateway", None),
                Use::Host => ("host", None),
                Use::Aux => ("aux", None),
                Use::Endpoint { name } => ("endpoint", name.clone()),
            };
            let container = self.docker.holder(address).filter(|_| word == "endpoint");
            json!({ "address": address, "use": word, "name": name, "container_name": container })
        };
        let fill = ipam.fill(pool);
        let network = self
            .state
            .networks()
            .find(|n| n.subnets.iter().any(|s| s.ours && s.pool == pool.cidr()));
        json!({
            "pool": pool.cidr(),
            "pool_id": pool,
            "address_space": match pool.space() {
                tombolo_ipam::Space::Local => tombolo_core::wire::SPACE_LOCAL,
                tombolo_ipam::Space::Global => tombolo_core::wire::SPACE_GLOBAL,
            },
            "range": pool.range(),
            "leases": ipam.leases_of(pool).map(lease).collect::<Vec<_>>(),
            "free": fill.free,
            "cooling": fill.cooling,
            "network_id": network.map(|n| &n.id),
            // A network of another driver has no record here, only its pool.
            "network_name": match network {
                Some(network) => self.docker.network_name(&network.id),
                None => self.docker.pools().get(&pool.cidr()).map(String::as_str),
            },
        })
    }
}
