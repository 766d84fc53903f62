//! What networks on the wire of a link of the host have in common, whatever their containers' links are ([`macvlan`](super::macvlan),
//! [`ipvlan`](super::ipvlan)).
//!
//! ```text
//!   container     container      host
//!   eth0          eth0           tbs…  (shim: an address of the pool, a route to each container)
//!     └───────────┴──────────────┘
//!                 │ parent: eth0, eth0.30 (made where it is missing), or a link that leads nowhere
//!   ──────────────┴─────────────────────────────── the wire, with its own router, hosts and strangers
//! ```
//!
//! Nothing of the host's filters, routes or translates what such containers send; so no port is published, and the gateway is
//! somebody else's. The kernel lets a link of the parent's own host speak with the parent's children only if it is such a child
//! itself, the *shim*.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::options::{self, FromText, Options, Switch};
use super::{Dns, Found, Joined, Kind, Publishing, Underlay, bridge};
use crate::model::{Endpoint, IfName, Mac, Network, NetworkId};
use crate::world::{Key, Setting, Value, World};

/// The least and largest VLAN identifier that a frame can bear (IEEE 802.1Q; 0 and 4095 are reserved).
pub const VLAN_IDS: std::ops::RangeInclusive<u16> = 1..=4094;

/// What networks on the wire of a link of the host have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// The link that leads to the wire; none for a network that leads nowhere.
    pub parent: Option<IfName>,
    /// The parent was there already, and is somebody else's.
    #[serde(default)]
    pub theirs: bool,
    /// Largest packet, in bytes; none for the parent's.
    pub mtu: Option<u32>,
    /// What the names of interfaces in containers begin with.
    pub prefix: String,
    /// The name that it goes by in the cluster, where it shares its addresses with the networks of that name elsewhere.
    pub net: Option<crate::model::NetName>,
    /// Whether the host and its containers reach each other; none for the kind's own choice.
    pub host_access: Option<bool>,
    /// The host's own addresses on the network that the user chose.
    #[serde(default)]
    pub host_addresses: Vec<IpAddr>,
    /// The host's own addresses on the network.
    #[serde(default)]
    pub host: Vec<IpAddr>,
    /// Whether the wire is asked who has an address before it is given.
    pub probe: bool,
    /// How its containers come by names, where it is one of the cluster's.
    #[serde(default)]
    pub dns: Dns,
}

/// Addresses with commas in between.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Addresses(Vec<IpAddr>);

impl FromText for Addresses {
    const ALLOWED: &'static str = "an address of each family at most, with a comma in between";
    fn from_text(text: &str) -> Option<Self> {
        let list: Vec<IpAddr> = text
            .split(',')
            .map(|part| part.trim().parse().ok())
            .collect::<Option<_>>()?;
        let of_family = |v6| list.iter().filter(|address| address.is_ipv6() == v6).count();
        (of_family(false) <= 1 && of_family(true) <= 1).then_some(Self(list))
    }
}

/// A parent that is made where it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// The link that carries it.
    pub link: IfName,
    /// Its identifier.
    pub id: u16,
}

impl Uplink {
    /// Takes the options that the kinds have in common.
    ///
    /// # Errors
    /// For a value that an option can't have.
    pub fn take(options: &mut Options, v6: bool) -> Result<Self, options::Error> {
        let parent = options
            .take::<String>(&["parent"])?
            .filter(|parent| !parent.is_empty());
        let parent = parent.map(|parent| named(&parent)).transpose()?;
        let (mtu, prefix) = bridge::take_mtu_and_prefix(options, v6)?;
        let switch = |found: Option<Switch>| found.map(|Switch(on)| on);
        let host_access = switch(options.take(&["host_access"])?);
        let probe = switch(options.take(&["probe"])?);
        let host = options.take::<Addresses>(&["host_address"])?;
        if let (Some(_), Some(false)) = (&host, host_access) {
            return Err(options::refuse_value(
                "host_access",
                "off",
                "a host_address is given; leave that out, or say on",
            ));
        }
        Ok(Self {
            parent,
            theirs: false,
            mtu,
            prefix,
            net: options.take(&["net"])?,
            dns: options.take(&["dns"])?.unwrap_or_default(),
            host_access,
            host_addresses: host.map(|Addresses(list)| list).unwrap_or_default(),
            host: Vec::new(),
            probe: probe.unwrap_or(true),
        })
    }

    /// The parent's VLAN, where its name is that of one: `eth0.30`.
    pub fn vlan(&self) -> Option<Vlan> {
        let (link, id) = self.parent.as_ref()?.as_str().rsplit_once('.')?;
        Some(Vlan {
            link: link.parse().ok()?,
            id: id.parse().ok().filter(|id| VLAN_IDS.contains(id))?,
        })
    }

    /// The link that the containers' links are on.
    pub fn lower(&self, network: &NetworkId) -> IfName {
        self.parent.clone().unwrap_or_else(|| network.dummy_name())
    }

    /// The links of its network, this host's own on it.
    pub fn links(&self, network: &NetworkId) -> Vec<IfName> {
        let shim = (!self.host.is_empty()).then(|| network.shim_name());
        shim.into_iter().collect()
    }

    /// The link by which the wire is asked: the host's own there, if it has one, since the parent neither reaches nor hears other
    /// links on itself, such as those of Docker's own macvlan networks.
    pub fn asks_by(&self, network: &NetworkId) -> Option<IfName> {
        let parent = self.parent.clone().filter(|_| self.probe)?;
        Some(self.links(network).into_iter().next().unwrap_or(parent))
    }

    /// Notes what was found on the host.
    pub fn note(&mut self, found: Found) {
        self.theirs = found.bridge.is_some();
        self.host = Vec::new();
    }

    /// Whether the host is to have an address on a network, if it can have one there.
    pub fn wants_host(&self, usual: bool, internal: bool) -> bool {
        let usual = usual && !internal && self.parent.is_some();
        self.host_access
            .unwrap_or(usual || !self.host_addresses.is_empty())
    }

    /// The fact that the parent is, where it is ours.
    pub fn parent_fact(&self, network: &NetworkId) -> Option<(Key, Value)> {
        if self.parent.is_none() {
            return Some((Key::Parent(network.dummy_name()), Value::Dummy));
        }
        let vlan = self.vlan().filter(|_| !self.theirs)?;
        let value = Value::Vlan {
            link: vlan.link,
            id: vlan.id,
        };
        Some((Key::Parent(self.lower(network)), value))
    }

    /// Adds the facts of the shim, if the host has an address on the network. Its settings keep it out of what is the parent's:
    /// nobody on the wire but the containers is to find an address of the host's behind it, and it takes no routes from there.
    pub fn shim_facts(&self, network: &Network, link: Value, world: &mut World) {
        let shim = network.id.shim_name();
        world.insert(Key::Link(shim.clone()), link);
        let mut setting = |setting, number| {
            world.insert(Key::Setting(setting), Value::Number(number));
        };
        let v6 = self.host.iter().any(IpAddr::is_ipv6);
        setting(Setting::DisableIpv6(shim.clone()), u32::from(!v6));
        setting(Setting::AcceptRa(shim.clone()), 0);
        // It answers for an address of the host's only whom the host would answer by it, which are the containers; and asks
        // in the name of its own address.
        setting(Setting::ArpFilter(shim.clone()), 1);
        setting(Setting::ArpAnnounce(shim.clone()), 2);
        world.insert(Key::Port(shim.clone()), Value::Up);
        for address in &self.host {
            world.insert(Key::Address(shim.clone(), IpNet::from(*address)), Value::Present);
        }
    }

    /// Adds the facts of an endpoint, whose link is on the parent.
    pub fn endpoint_facts(&self, network: &Network, endpoint: &Endpoint, link: Value, world: &mut World) {
        if !endpoint.linked {
            return;
        }
        world.insert(Key::Child(endpoint.id.container_link()), link);
        for address in &endpoint.addresses {
            let address = address.addr();
            if self.host.iter().any(|host| host.is_ipv6() == address.is_ipv6()) {
                world.insert(Key::Way(network.id.shim_name(), address), Value::Present);
            }
        }
    }

    /// What Docker is told when an endpoint joins. A container without a gateway has no way out, and gets none of the engine's.
    pub fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined {
        let gateway = |v6| {
            let leads = !network.internal && self.parent.is_some();
            let address = endpoint.address(v6).filter(|_| leads)?;
            let subnet = network.subnet_of(address.addr())?;
            let lent = endpoint.way_out.filter(|way_out| way_out.is_ipv6() == v6);
            subnet
                .way_out
                .or(subnet.gateway.map(|gateway| gateway.addr()))
                .or(lent)
        };
        Joined {
            source: endpoint.id.container_link(),
            prefix: self.prefix.clone(),
            gateway: gateway(false),
            gateway_v6: gateway(true),
            engines_way_out: false,
            routes: Vec::new(),
            routers: Vec::new(),
            made: false,
        }
    }
}

/// A parent's name.
fn named(parent: &str) -> Result<IfName, options::Error> {
    let refuse = |allowed: &str| Err(options::refuse_value("parent", parent, allowed));
    if parent == "lo" {
        return refuse("the loopback interface leads to no wire; name a network interface, such as eth0");
    }
    let vlan = parent.rsplit_once('.').map(|(_, id)| id.parse::<u32>());
    if let Some(Ok(id)) = vlan
        && !u16::try_from(id).is_ok_and(|id| VLAN_IDS.contains(&id))
    {
        return refuse("a VLAN identifier, behind the last dot, is 1 to 4094");
    }
    parent.parse().or_else(|_| refuse(IfName::ALLOWED))
}

/// A kind of network on the wire of a link of the host: what it says of itself. All else is the same for each ([`Kind`]).
pub trait OnWire {
    /// The word for the kind.
    const NAME: &'static str;
    /// The wire.
    fn uplink(&self) -> &Uplink;
    /// A link of the network's, with a hardware address where it has one of its own.
    fn link(&self, parent: &IfName, mac: Mac) -> Value;
    /// What Docker is told when an endpoint joins.
    fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined {
        self.uplink().joined(network, endpoint)
    }
}

impl<T: OnWire> Kind for T {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn links(&self, network: &NetworkId) -> Vec<IfName> {
        self.uplink().links(network)
    }

    fn mtu(&self) -> Option<u32> {
        self.uplink().mtu
    }

    fn isolated(&self, _: bool) -> bool {
        false
    }

    fn without_gateway(&self, _: bool, _: bool) -> bool {
        true
    }

    fn publishing(&self, _: bool) -> Publishing {
        Publishing::Elsewhere
    }

    fn network_facts(&self, network: &Network, _: Option<&Underlay>, world: &mut World) {
        let uplink = self.uplink();
        if let Some(address) = uplink.host.first() {
            let link = self.link(&uplink.lower(&network.id), Mac::of_address(*address));
            uplink.shim_facts(network, link, world);
        }
    }

    fn endpoint_facts(&self, network: &Network, endpoint: &Endpoint, world: &mut World) {
        let uplink = self.uplink();
        let link = self.link(&uplink.lower(&network.id), endpoint.mac);
        uplink.endpoint_facts(network, endpoint, link, world);
    }

    fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined {
        OnWire::joined(self, network, endpoint)
    }
}
