//! All records in memory, and what each command does to them.
//!
//! ```text
//!   (State, Command, Surroundings) --decide--> (edits, Reply) or a Refusal      nothing is changed
//!   State --apply(edit)--> the edit that takes it back                          nothing can fail
//! ```
//!
//! Deciding and doing are apart, so that the engine can settle the kernel in between, and so that taking a change back
//! is not a second program: it is the inverse edits, applied.

mod decide;
mod peers;
mod ports;
mod sight;
#[cfg(test)]
mod tests;
mod wires;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use tombolo_ipam::share::{Deal, Share};
use tombolo_ipam::{self as ipam, Carve, Ipam, PoolId, PoolRequest, Slot, Space, Use};

pub use self::peers::{Heard, News, Peers, Place, Remote};
pub use self::sight::Sight;
use crate::kinds::{Agreed, Found, Joined};
use crate::model::{Attach, Endpoint, EndpointId, IfName, Mac, NetName, Network, NetworkId, PortWish, Proto};
use crate::world::{Family, Key, Value, World};

/// What Docker (or the reconciliation with Docker) wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Make a network.
    CreateNetwork(Network),
    /// Remove a network with all that is left on it.
    DeleteNetwork(NetworkId),
    /// Note an endpoint; no link is made before it joins.
    CreateEndpoint {
        /// Docker's identifier.
        id: EndpointId,
        /// The network.
        network: NetworkId,
        /// Addresses from whichever IPAM the network has.
        addresses: Vec<IpNet>,
        /// The hardware address, where the user chose one.
        mac: Option<Mac>,
        /// What it is sent at most, in bits a second.
        rate: Option<u64>,
        /// The settings of its link, as the engine writes them.
        sysctls: Vec<String>,
    },
    /// Remove an endpoint and its link.
    DeleteEndpoint(EndpointId),
    /// Make an endpoint's link, for Docker to move into a sandbox.
    Join {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Docker's name of the sandbox.
        sandbox: String,
    },
    /// The endpoint's sandbox is being taken down.
    Leave(EndpointId),
    /// Publish ports for an endpoint; what was published before and isn't wished now ends.
    Publish {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// What to publish.
        wishes: Vec<PortWish>,
    },
    /// Publish nothing more for an endpoint.
    Unpublish(EndpointId),
    /// The host's end of an endpoint's link is gone, and the container with it.
    Lost(EndpointId),
    /// Reserve a pool.
    RequestPool(PoolRequest),
    /// Reserve a pool that is the cluster's, under a name.
    RequestNetPool(PoolRequest, NetName, Option<IfName>),
    /// Reserve a pool on the wire of a link of the host: where none is named, the link's own.
    RequestWirePool(PoolRequest, IfName),
    /// Reserve a pool on the wire of a link of the host, whose addresses the wire's own DHCP server gives.
    RequestDhcpPool(PoolRequest, IfName),
    /// Let something become of this host's share of one of the cluster's pools.
    Deal(IpNet, Deal),
    /// Give a pool back with all addresses in it.
    ReleasePool(PoolId),
    /// Lease an address.
    RequestAddress {
        /// The pool.
        pool: PoolId,
        /// A certain address.
        address: Option<IpAddr>,
        /// What for.
        usage: Use,
        /// Whether this has the form in which the engine repeats, at its start, what it holds already.
        repeat: bool,
    },
    /// Give an address back.
    ReleaseAddress(PoolId, IpAddr),
    /// Note what the cluster has agreed on for a network.
    Agree(NetworkId, Agreed),
    /// Note leases and endpoints that Docker holds and we have lost.
    Adopt(Vec<Edit>),
}

impl Command {
    /// Whether the command only takes away. Such a one is committed first and settled afterwards, and it succeeds for
    /// what is unknown.
    pub fn shrinks(&self) -> bool {
        match self {
            Self::DeleteNetwork(_) | Self::DeleteEndpoint(_) | Self::Leave(_) | Self::Unpublish(_) => true,
            Self::Lost(_) | Self::ReleasePool(_) | Self::ReleaseAddress(..) => true,
            Self::CreateNetwork(_)
            | Self::CreateEndpoint { .. }
            | Self::Join { .. }
            | Self::Publish { .. } => false,
            Self::RequestPool(_) | Self::RequestNetPool(..) | Self::RequestWirePool(..) => false,
            Self::RequestDhcpPool(..) => false,
            Self::RequestAddress { .. } => false,
            Self::Adopt(_) | Self::Deal(..) | Self::Agree(..) => false,
        }
    }
}

/// What a command brings back to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// The endpoint is noted; a MAC is named if we chose it.
    Endpoint {
        /// The chosen hardware address.
        chosen: Option<Mac>,
    },
    /// The endpoint's link is made.
    Joined(Joined),
    /// The pool is reserved. Its identifier is the same for the same pool, always.
    Pool(PoolId),
    /// The address is leased; the prefix length is the pool's.
    Address(IpNet),
    /// This host's share of a pool is this now.
    Share(Option<Share>),
}

/// One record set to a value, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A network.
    Network(NetworkId, Option<Network>),
    /// An endpoint.
    Endpoint(EndpointId, Option<Endpoint>),
    /// A pool or a lease.
    Ipam(ipam::Edit),
}

/// What a decision may depend on besides the records: looked up at the edge and handed in.
pub struct Surroundings<'a> {
    /// Seconds of the wall clock, since 1970.
    pub now_s: u64,
    /// Where pools are cut from when the user names none.
    pub carve: &'a [Carve],
    /// What a pool that we choose must not overlap: routes, addresses and name servers of this host.
    pub avoid: &'a [IpNet],
    /// Whether the engine serves its API just now. It repeats its requests only before it does.
    pub engine_serves: bool,
    /// Pools of networks that the engine knows to use our IPAM, with the networks' names.
    pub engine_pools: &'a BTreeMap<IpNet, String>,
    /// Host ports to choose from.
    pub ephemeral: &'a dyn Fn() -> Ephemeral,
    /// How it stands with a port of this host.
    pub port: &'a dyn Fn(Proto, IpAddr, u16) -> HostPort,
    /// Which process of this host listens on a port, in words, as far as it can be told.
    pub port_holder: &'a dyn Fn(Proto, IpAddr, u16) -> Option<String>,
    /// The name of an endpoint's container, once it is known.
    pub container_name: &'a dyn Fn(&EndpointId) -> Option<String>,
    /// What came with an address that somebody else has given: the hardware address that it was given to, and the way out.
    pub lent: &'a dyn Fn(IpAddr) -> Option<(Mac, Option<IpAddr>)>,
    /// The link to the wire whose own server gives a pool's addresses, if one does.
    pub lender: &'a dyn Fn(IpNet) -> Option<IfName>,
    /// The host's address that ports are published on where neither user nor network names one.
    pub host_binding: Option<IpAddr>,
    /// What was found on the host for a network that is made.
    pub found: Found,
    /// Why this host may not give addresses of the cluster's pools now, if so.
    pub outside: Option<&'a str>,
    /// How containers come by their links on networks that don't say so.
    pub attach: Attach,
    /// Whether the sandbox that is joined can be entered now.
    pub enterable: bool,
}

/// The host ports from which ephemeral ones are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ephemeral {
    /// The first of them (`net.ipv4.ip_local_port_range`).
    pub first: u16,
    /// The last of them.
    pub last: u16,
    /// Those that the administrator keeps for something else (`net.ipv4.ip_local_reserved_ports`).
    pub reserved: Vec<RangeInclusive<u16>>,
}

/// How it stands with a port of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPort {
    /// Nobody has it.
    Free,
    /// A process of this host has it.
    Taken,
    /// The address is none of this host's.
    Elsewhere,
}

/// Why a command was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The network isn't known.
    #[error(
        "network {0} is not known to tombolo; it may have been removed, or its state was lost: make it again with 'docker network create'"
    )]
    NoNetwork(NetworkId),
    /// The endpoint isn't known.
    #[error(
        "endpoint {0} is not known to tombolo; disconnect the container from the network and connect it again"
    )]
    NoEndpoint(EndpointId),
    /// Something of that identifier is there and isn't the same.
    #[error("{what} {id} exists, but with different {field}: {have} there, {got} asked for")]
    Differs {
        /// "network" or "endpoint".
        what: &'static str,
        /// Its identifier.
        id: String,
        /// The field that differs.
        field: &'static str,
        /// What is there.
        have: String,
        /// What was asked for.
        got: String,
    },
    /// A network needs what this one lacks or has too much of.
    #[error("{field}: {got}; {allowed}")]
    Unfit {
        /// The field.
        field: &'static str,
        /// What came.
        got: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Two networks want the same addresses.
    #[error(
        "subnet {pool} overlaps {other_pool} of network {other}; choose another with --subnet, or leave it out"
    )]
    Overlap {
        /// The subnet asked for.
        pool: IpNet,
        /// The one that is there.
        other_pool: IpNet,
        /// Whose it is.
        other: NetworkId,
    },
    /// Two records want the same link.
    #[error("the interface name {link} is taken by {holder}; choose another")]
    LinkTaken {
        /// The name.
        link: IfName,
        /// Whose it is.
        holder: Owner,
    },
    /// The endpoint is in a sandbox already.
    #[error("endpoint {endpoint} has joined sandbox {sandbox} and must leave it first")]
    Joined {
        /// The endpoint.
        endpoint: EndpointId,
        /// Where it is.
        sandbox: String,
    },
    /// A port can't be published.
    #[error("port {host_port}/{proto} on {host}: {why}")]
    Port {
        /// The protocol.
        proto: Proto,
        /// The host's address.
        host: IpAddr,
        /// The host's port or ports.
        host_port: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A pool is some network's already.
    #[error("pool {pool} is used by network {network}; choose another with --subnet, or leave it out")]
    PoolTaken {
        /// The pool.
        pool: IpNet,
        /// The network's name or identifier.
        network: String,
    },
    /// A pool that is the cluster's, for a network that is not.
    #[error(
        "Pool: {0} is a pool of the cluster's: add '-o net=NAME' (and --ipam-opt net=NAME) to share it with the networks of that \
         name, or choose another subnet"
    )]
    OfCluster(IpNet),
    /// A network of the cluster's on a pool that is not.
    #[error(
        "Pool: a network of the cluster's{} needs a pool of the cluster's, and {pool} is none: this host is in no cluster, or has \
         not taken the pool up (see 'tombolo cluster status')", net.as_ref().map(|net| format!(" (net={net})")).unwrap_or_default()
    )]
    NotOfCluster {
        /// The network's name in the cluster, where it has one.
        net: Option<NetName>,
        /// The pool.
        pool: IpNet,
    },
    /// This host may not give addresses of the cluster's pools now.
    #[error("address: pool {pool} is shared with other hosts, and this host may give none of it now: {why}")]
    MayNotLease {
        /// The pool.
        pool: IpNet,
        /// Why not, and what to do.
        why: String,
    },
    /// Another host can't have a piece of a share.
    #[error(transparent)]
    NoGift(#[from] ipam::share::NoGift),
    /// Our IPAM refused.
    #[error(transparent)]
    Ipam(#[from] ipam::Error),
}

/// All records, and what is derived from them for quick answers.
#[derive(Debug, Default)]
pub struct State {
    networks: BTreeMap<NetworkId, Network>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    ipam: Ipam,
    members: BTreeMap<NetworkId, BTreeSet<EndpointId>>,
    addresses: BTreeMap<(NetworkId, IpAddr), EndpointId>,
    subnets: BTreeMap<IpAddr, (IpNet, NetworkId)>,
    links: BTreeMap<IfName, Owner>,
    /// Networks on wires, by the links that lead there.
    parents: BTreeMap<IfName, BTreeSet<NetworkId>>,
    ports: BTreeMap<(Proto, u16, IpAddr), EndpointId>,
    sandboxes: BTreeMap<String, BTreeSet<EndpointId>>,
    /// Endpoints on networks that span hosts, by their hardware addresses.
    macs: BTreeMap<(NetworkId, Mac), EndpointId>,
    peers: Peers,
    /// Docker's own bridges whose names don't tell, and whether frames of IPv6 are filtered on bridges: looked up, not kept.
    foreign: BTreeSet<IfName>,
    bridge_filter6: bool,
    owed: BTreeMap<PoolId, u32>,
}

/// Whose facts: the unit in which they are computed, so that the cost of one change doesn't grow with what else is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The host: there is at least one network.
    Host,
    /// A network.
    Network(NetworkId),
    /// An endpoint.
    Endpoint(EndpointId),
    /// A place on the network of a pool that one of the other hosts is in.
    Remote(IpNet, Place),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Network(id) => write!(f, "network {id}"),
            Self::Endpoint(id) => write!(f, "endpoint {id}"),
            Self::Remote(pool, place) => write!(f, "another host on {pool} ({place:?})"),
        }
    }
}

impl State {
    /// Puts records together. What doesn't fit is left out and described.
    pub fn restore(
        networks: Vec<Network>,
        endpoints: Vec<Endpoint>,
        pools: BTreeMap<PoolId, ipam::Pool>,
        slots: BTreeMap<(Space, IpAddr), ipam::Slot>,
        shares: BTreeMap<IpNet, Share>,
    ) -> (Self, Vec<String>) {
        let (ipam, problems) = Ipam::restore(pools, slots, shares);
        let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let mut state = Self {
            ipam,
            ..Self::default()
        };
        for network in networks {
            match state.fits(&network) {
                Ok(()) => drop(state.apply(Edit::Network(network.id.clone(), Some(network)))),
                Err(refusal) => problems.push(format!("network {} is left out: {refusal}", network.id)),
            }
        }
        for endpoint in endpoints {
            match state.networks.contains_key(&endpoint.network) {
                true => drop(state.apply(Edit::Endpoint(endpoint.id.clone(), Some(endpoint)))),
                false => problems.push(format!(
                    "endpoint {} is left out: its network is gone",
                    endpoint.id
                )),
            }
        }
        (state, problems)
    }

    /// All networks.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }

    /// One network.
    pub fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id)
    }

    /// All endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values()
    }

    /// Whether a link of that name is the tunnel of a network that is here.
    pub fn has_tunnel(&self, link: &IfName) -> bool {
        matches!(self.links.get(link), Some(Owner::Network(id)) if id.tunnel_name() == *link)
    }

    /// One endpoint.
    pub fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id)
    }

    /// The endpoints of one network.
    pub fn endpoints_of(&self, network: &NetworkId) -> impl Iterator<Item = &Endpoint> {
        self.members
            .get(network)
            .into_iter()
            .flatten()
            .filter_map(|id| self.endpoints.get(id))
    }

    /// Pools and leases.
    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// The addresses of our pools that an endpoint had not long ago, or is to have, and none is linked with now.
    pub fn unheld(&self) -> BTreeSet<IpAddr> {
        let linked = self.endpoints.values().filter(|endpoint| endpoint.linked);
        let held: BTreeSet<IpAddr> = linked
            .flat_map(|endpoint| endpoint.addresses.iter().map(|address| address.addr()))
            .collect();
        let of_endpoint = |slot: &Slot| match slot {
            Slot::Cooling { .. } => true,
            Slot::Leased { usage, .. } => matches!(usage, Use::Endpoint { .. }),
        };
        let slots = self.ipam.slots().iter().filter(|(_, slot)| of_endpoint(slot));
        let addresses = slots.map(|((_, address), _)| *address);
        addresses.filter(|address| !held.contains(address)).collect()
    }

    /// Notes that a second network on a pool was refused: the engine will undo it with a release of that pool, which is
    /// not meant for the first network. The note is not kept over a restart; then the reconciliation mends it.
    pub fn owe_release(&mut self, refusal: &Refusal) {
        let pool = match refusal {
            Refusal::Ipam(ipam::Error::HasGateway { pool, .. }) => Some(*pool),
            Refusal::Overlap { pool, other_pool, .. } if pool == other_pool => {
                PoolId::new(Space::Local, *pool, None)
                    .ok()
                    .filter(|id| self.ipam.pool(id).is_some())
            }
            _ => None,
        };
        if let Some(pool) = pool {
            *self.owed.entry(pool).or_default() += 1;
        }
    }

    /// Notes that a release of a pool came.
    pub fn released(&mut self, pool: &PoolId) {
        if let Some(count) = self.owed.get_mut(pool) {
            *count -= 1;
            if *count == 0 {
                self.owed.remove(pool);
            }
        }
    }

    /// Sets one record; gives the edit that takes it back.
    pub fn apply(&mut self, edit: Edit) -> Edit {
        match edit {
            Edit::Ipam(edit) => Edit::Ipam(self.ipam.apply(edit)),
            Edit::Network(id, network) => {
                let old = self.networks.remove(&id);
                if let Some(old) = &old {
                    self.unindex_network(old);
                }
                if let Some(network) = network {
                    self.index_network(&network);
                    self.networks.insert(id.clone(), network);
                }
                Edit::Network(id, old)
            }
            Edit::Endpoint(id, endpoint) => {
                let old = self.endpoints.remove(&id);
                if let Some(old) = &old {
                    self.unindex_endpoint(old);
                }
                if let Some(endpoint) = endpoint {
                    self.index_endpoint(&endpoint);
                    self.endpoints.insert(id.clone(), endpoint);
                }
                Edit::Endpoint(id, old)
            }
        }
    }

    fn index_network(&mut self, network: &Network) {
        for link in network.spec.kind().links(&network.id) {
            self.links.insert(link, Owner::Network(network.id.clone()));
        }
        if let Some(uplink) = network.spec.uplink() {
            let on = self.parents.entry(uplink.lower(&network.id)).or_default();
            on.insert(network.id.clone());
        }
        for subnet in &network.subnets {
            self.subnets
                .insert(subnet.pool.network(), (subnet.pool, network.id.clone()));
        }
    }

    fn unindex_network(&mut self, network: &Network) {
        for link in network.spec.kind().links(&network.id) {
            self.links.remove(&link);
        }
        if let Some(uplink) = network.spec.uplink() {
            let lower = uplink.lower(&network.id);
            if let Some(on) = self.parents.get_mut(&lower) {
                on.remove(&network.id);
                if on.is_empty() {
                    self.parents.remove(&lower);
                }
            }
        }
        for subnet in &network.subnets {
            if self
                .subnets
                .get(&subnet.pool.network())
                .is_some_and(|(_, id)| *id == network.id)
            {
                self.subnets.remove(&subnet.pool.network());
            }
        }
    }

    fn index_endpoint(&mut self, endpoint: &Endpoint) {
        self.members
            .entry(endpoint.network.clone())
            .or_default()
            .insert(endpoint.id.clone());
        for link in [endpoint.id.host_link(), endpoint.id.container_link()] {
            self.links.insert(link, Owner::Endpoint(endpoint.id.clone()));
        }
        for address in &endpoint.addresses {
            self.addresses
                .insert((endpoint.network.clone(), address.addr()), endpoint.id.clone());
        }
        if self
            .networks
            .get(&endpoint.network)
            .is_some_and(|network| network.spec.spans())
        {
            let key = (endpoint.network.clone(), endpoint.mac);
            self.macs.insert(key, endpoint.id.clone());
        }
        if let Some(sandbox) = endpoint.sandbox.as_ref().filter(|sandbox| !sandbox.is_empty()) {
            self.sandboxes
                .entry(sandbox.clone())
                .or_default()
                .insert(endpoint.id.clone());
        }
        for p in endpoint.published.iter().filter(|p| !endpoint.opens(p)) {
            self.ports
                .insert((p.proto, p.host_port, p.host), endpoint.id.clone());
        }
    }

    fn unindex_endpoint(&mut self, endpoint: &Endpoint) {
        if let Some(members) = self.members.get_mut(&endpoint.network) {
            members.remove(&endpoint.id);
            if members.is_empty() {
                self.members.remove(&endpoint.network);
            }
        }
        for link in [endpoint.id.host_link(), endpoint.id.container_link()] {
            self.links.remove(&link);
        }
        let mac = (endpoint.network.clone(), endpoint.mac);
        if self.macs.get(&mac) == Some(&endpoint.id) {
            self.macs.remove(&mac);
        }
        for address in &endpoint.addresses {
            let key = (endpoint.network.clone(), address.addr());
            if self.addresses.get(&key) == Some(&endpoint.id) {
                self.addresses.remove(&key);
            }
        }
        if let Some(sandbox) = &endpoint.sandbox
            && let Some(joined) = self.sandboxes.get_mut(sandbox)
        {
            joined.remove(&endpoint.id);
            if joined.is_empty() {
                self.sandboxes.remove(sandbox);
            }
        }
        for p in endpoint.published.iter().filter(|p| !endpoint.opens(p)) {
            self.ports.remove(&(p.proto, p.host_port, p.host));
        }
    }

    /// Notes which bridges are Docker's own and don't tell it by their names. Gives whether that is news.
    pub fn note_foreign(&mut self, bridges: BTreeSet<IfName>) -> bool {
        let ours = |link: &IfName| self.links.contains_key(link);
        let foreign: BTreeSet<IfName> = bridges.into_iter().filter(|link| !ours(link)).collect();
        let news = foreign != self.foreign;
        self.foreign = foreign;
        news
    }

    /// Notes whether IPv6 frames between the ports of bridges pass through the host's filters.
    pub fn note_bridge_filter6(&mut self, on: bool) {
        self.bridge_filter6 = on;
    }

    /// The owners whose facts an edit may change.
    pub fn owners(&self, edit: &Edit) -> Vec<Owner> {
        match edit {
            Edit::Network(id, network) => {
                let both = self.networks.get(id).into_iter().chain(network);
                let remote = both.flat_map(|network| self.remote_owners(network));
                [Owner::Host, Owner::Network(id.clone())]
                    .into_iter()
                    .chain(remote)
                    .collect()
            }
            Edit::Endpoint(id, endpoint) => {
                let both = || self.endpoints.get(id).into_iter().chain(endpoint);
                let places = both().flat_map(|e| self.places_here(&e.network, &e.addresses, e.mac));
                // Others of its container may want what it wants.
                let sandboxes = both().filter_map(|e| self.sandboxes.get(e.sandbox.as_ref()?));
                let beside = sandboxes.flatten().filter(|other| *other != id);
                let beside = beside.map(|other| Owner::Endpoint(other.clone()));
                [Owner::Endpoint(id.clone())]
                    .into_iter()
                    .chain(places)
                    .chain(beside)
                    .collect()
            }
            Edit::Ipam(_) => Vec::new(),
        }
    }

    /// Whose a fact is, as far as there is a record that wants it.
    pub fn owner(&self, key: &Key) -> Option<Owner> {
        let link = match key {
            Key::Guard(link) | Key::Apart(link) | Key::Restricted(link) | Key::Allow(link) => link,
            Key::Link(link) | Key::Querier(link) | Key::Port(link) | Key::Address(link, _) => link,
            Key::Loopback(link) | Key::Rate(link) | Key::Publisher(link, _) | Key::Trusted(_, link) => link,
            Key::Masquerade(link, _) | Key::Source(link, _) => link,
            Key::Routed(link, _) | Key::Unprotected(link, _) => link,
            Key::Member(link, _) | Key::Shared(link, _) => link,
            Key::Setting(setting) => setting.link()?,
            Key::Way(link, _) => link,
            Key::Child(link) => link,
            Key::Publish(proto, host, port) => {
                let id = self.ports.get(&(*proto, *port, *host))?;
                return Some(Owner::Endpoint(id.clone()));
            }
            Key::Open(_, address, _) => {
                let opens = |e: &&Endpoint| e.published.iter().any(|p| p.host == *address && e.opens(p));
                return self
                    .endpoints
                    .values()
                    .find(opens)
                    .map(|e| Owner::Endpoint(e.id.clone()));
            }
            Key::Neighbour(link, _) | Key::Proxied(link, _) | Key::Forward(link, _) => link,
            Key::Flood(link, ..) | Key::Remote(link, _) => link,
            Key::Route(net) => {
                let (_, (_, id)) = self.subnets.range(..=net.network()).next_back()?;
                return Some(Owner::Network(id.clone()));
            }
            Key::Table | Key::UserTable | Key::Tunnels | Key::DockerAccept(_) | Key::Foreign(_) => {
                return None;
            }
            Key::LoopbackPorts | Key::Parent(_) => return None,
        };
        self.links.get(link).cloned()
    }

    /// The facts of one owner.
    pub fn facts(&self, owner: &Owner, world: &mut World) {
        match owner {
            Owner::Host => self.host_facts(world),
            Owner::Network(id) => {
                if let Some(network) = self.networks.get(id) {
                    let underlay = self.peers.underlay();
                    network.spec.kind().network_facts(network, underlay, world);
                }
            }
            Owner::Endpoint(id) => {
                let Some(endpoint) = self.endpoints.get(id) else {
                    return;
                };
                let Some(network) = self.networks.get(&endpoint.network) else {
                    return;
                };
                network.spec.kind().endpoint_facts(network, endpoint, world);
                self.shared_facts(endpoint, world);
            }
            Owner::Remote(pool, place) => self.remote_facts(*pool, place, world),
        }
    }

    /// The facts of a container that is on several networks: each of its addresses is shared with the bridges of the others.
    /// Each of its endpoints tells those that concern itself, so they come with the second one and go with either.
    fn shared_facts(&self, endpoint: &Endpoint, world: &mut World) {
        let sandbox = endpoint
            .sandbox
            .as_ref()
            .and_then(|sandbox| self.sandboxes.get(sandbox));
        let others = sandbox.into_iter().flatten().filter(|id| **id != endpoint.id);
        for other in others.filter_map(|id| self.endpoints.get(id)) {
            for (one, two) in [(endpoint, other), (other, endpoint)] {
                let Some(network) = self.networks.get(&one.network) else {
                    continue;
                };
                if network.spec.uplink().is_some() {
                    continue;
                }
                for link in network.spec.kind().links(&network.id).into_iter().take(1) {
                    let shared =
                        |address: &IpNet| (Key::Shared(link.clone(), address.addr()), Value::Present);
                    world.extend(two.addresses.iter().map(shared));
                }
            }
        }
    }

    /// All facts.
    pub fn world(&self) -> World {
        let mut world = World::new();
        self.facts(&Owner::Host, &mut world);
        for id in self.networks.keys() {
            self.facts(&Owner::Network(id.clone()), &mut world);
        }
        for id in self.endpoints.keys() {
            self.facts(&Owner::Endpoint(id.clone()), &mut world);
        }
        for owner in self
            .networks
            .values()
            .flat_map(|network| self.remote_owners(network))
        {
            self.facts(&owner, &mut world);
        }
        world
    }

    /// What the host needs as soon as there is a network, and not before: an idle tombolo leaves no trace in the kernel.
    fn host_facts(&self, world: &mut World) {
        if self.networks.is_empty() {
            return;
        }
        world.insert(Key::Table, Value::Present);
        world.insert(Key::UserTable, Value::Present);
        if self.networks.values().any(|network| network.spec.has_tunnel()) {
            world.insert(Key::Tunnels, Value::Present);
        }
        for family in Family::ALL {
            world.insert(Key::DockerAccept(family), Value::Present);
        }
        for networks in self.parents.values() {
            let mut networks = networks.iter().filter_map(|id| self.networks.get(id));
            let fact = networks.find_map(|network| network.spec.uplink()?.parent_fact(&network.id));
            world.extend(fact);
        }
        for link in &self.foreign {
            world.insert(Key::Foreign(link.clone()), Value::Present);
        }
        // Filtered on the bridge, an answer for ::1 bears that address before it is let in, which the kernel forbids.
        if !self.bridge_filter6 {
            world.insert(Key::LoopbackPorts, Value::Present);
        }
    }
}
