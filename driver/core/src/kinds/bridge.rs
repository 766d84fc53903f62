//! Kind `bridge`: one Linux bridge on this host, a veth pair for each endpoint.
//!
//! ```text
//!   container          host
//!   eth0 ─── veth ─── tbh… ─┐
//!                           ├─ tb-…  10.208.0.1/24 ── forward (our table) ── masquerade ── eth0
//!   eth0 ─── veth ─── tbh… ─┘
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::options::{self, FromText, Names, Options, Prefixes};
use super::{Dns, Found, Joined, Kind, Publishing, Underlay};
use crate::model::{Endpoint, IfName, Mac, NetName, Network, NetworkId};
use crate::world::{Family, Key, Setting, Value, World};

/// The options of a bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// The bridge's name, where the user chose one.
    pub name: Option<IfName>,
    /// A bridge of that name was there already, and is somebody else's.
    #[serde(default)]
    pub adopted: bool,
    /// Largest packet, in bytes; none for the largest on the way to the outside.
    pub mtu: Option<u32>,
    /// The largest on the way to the outside when the network was made; none for the kernel's own choice (1500).
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// Whether what leaves the host gets the host's address.
    pub masquerade: bool,
    /// What the names of interfaces in containers begin with.
    pub prefix: String,
    /// The host's address that ports are published on where the user names none.
    pub host_binding: Option<IpAddr>,
    /// Whether its containers may speak with each other.
    #[serde(default = "yes")]
    pub icc: bool,
    /// How IPv4 goes out and in.
    #[serde(default)]
    pub mode_ipv4: Mode,
    /// How IPv6 goes out and in.
    #[serde(default)]
    pub mode_ipv6: Mode,
    /// The address that the outside sees, where that isn't the kernel's choice.
    #[serde(default)]
    pub host_ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    #[serde(default)]
    pub host_ipv6: Option<Ipv6Addr>,
    /// Whether the bridge gets no IPv4 address.
    #[serde(default)]
    pub inhibit_ipv4: bool,
    /// Who may use its published ports; empty for everybody.
    #[serde(default)]
    pub publish_from: Vec<IpNet>,
    /// The links by which every address and port of its containers is reached.
    #[serde(default)]
    pub trusted: Vec<IfName>,
    /// Who publishes its ports.
    #[serde(default)]
    pub ports: Ports,
    /// The name that it goes by in the cluster, where it shares its addresses with the networks of that name elsewhere.
    #[serde(default)]
    pub net: Option<NetName>,
    /// How its containers come by names, where it is one of the cluster's.
    #[serde(default)]
    pub dns: Dns,
}

fn yes() -> bool {
    true
}

/// What the kind is called.
pub const NAME: &str = "bridge";

/// How a family's packets go out of a network and in (Docker's `gateway_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Out with the host's address, in through published ports on the host.
    #[default]
    Nat,
    /// Out with the container's address, in to published ports at the container's address.
    Routed,
    /// As `Nat`, and in to any port at the container's address.
    NatUnprotected,
    /// Neither out nor in, and the host has no address on the network. For internal networks.
    Isolated,
}

impl Mode {
    /// Whether the host stands for its containers.
    fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::NatUnprotected)
    }
}

impl FromText for Mode {
    const ALLOWED: &'static str = "nat, routed, nat-unprotected or isolated";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "nat" | "" => Some(Self::Nat),
            "routed" => Some(Self::Routed),
            "nat-unprotected" => Some(Self::NatUnprotected),
            "isolated" => Some(Self::Isolated),
            _ => None,
        }
    }
}

/// Who publishes a network's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ports {
    /// We do.
    #[default]
    Tombolo,
    /// The engine does, on a second interface of the container (`docker_gwbridge`), so that it can list them.
    Docker,
}

impl FromText for Ports {
    const ALLOWED: &'static str = "tombolo or docker";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "tombolo" => Some(Self::Tombolo),
            "docker" => Some(Self::Docker),
            _ => None,
        }
    }
}

/// Least and largest MTU, in bytes: RFC 791's 68 octets, and what the kernel lets a bridge have.
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;
/// Least MTU of a network with IPv6, in bytes (RFC 8200, section 5).
pub const MTU_V6_LEAST: u32 = 1280;

/// The longest prefix of an interface name in a container: 15 bytes less three digits.
const PREFIX_MAX: usize = 12;

/// Takes what the interfaces of containers are like: the largest packet, and what their names begin with.
///
/// # Errors
/// For a value that an option can't have.
pub fn take_mtu_and_prefix(options: &mut Options, v6: bool) -> Result<(Option<u32>, String), options::Error> {
    let mtu = options
        .take::<u32>(&["mtu", "com.docker.network.driver.mtu"])?
        .filter(|mtu| *mtu != 0);
    let least = if v6 { MTU_V6_LEAST } else { *MTU.start() };
    if let Some(mtu) = mtu.filter(|mtu| !(least..=*MTU.end()).contains(mtu)) {
        let allowed = format!("{least} to {}, or 0 for the kernel's own choice", MTU.end());
        return Err(options::refuse_value("mtu", &mtu.to_string(), &allowed));
    }
    let prefix = options.take::<String>(&["iface_prefix", "com.docker.network.container_iface_prefix"])?;
    let prefix = prefix.unwrap_or_else(|| "eth".to_owned());
    if prefix.len() > PREFIX_MAX || prefix.parse::<IfName>().is_err() {
        let allowed = format!("1 to {PREFIX_MAX} bytes that an interface name can begin with");
        return Err(options::refuse_value("iface_prefix", &prefix, &allowed));
    }
    Ok((mtu, prefix))
}

impl Bridge {
    /// Takes the kind's options.
    ///
    /// # Errors
    /// For a value that an option can't have.
    pub fn take(options: &mut Options, v6: bool) -> Result<Self, options::Error> {
        let name = options.take::<IfName>(&["bridge_name", "com.docker.network.bridge.name"])?;
        let (mtu, prefix) = take_mtu_and_prefix(options, v6)?;
        let masquerade = options.take(&["masquerade", "com.docker.network.bridge.enable_ip_masquerade"])?;
        let host_binding = options.take(&["host_binding", "com.docker.network.bridge.host_binding_ipv4"])?;
        options.take_default("com.docker.network.bridge.default_bridge", false)?;
        let icc = options.take(&["icc", "com.docker.network.bridge.enable_icc"])?;
        let inhibit = options.take(&["inhibit_ipv4", "com.docker.network.bridge.inhibit_ipv4"])?;
        let mode = |options: &mut Options, ours, dockers| options.take::<Mode>(&[ours, dockers]);
        let mode_ipv4 = mode(
            options,
            "gateway_mode_ipv4",
            "com.docker.network.bridge.gateway_mode_ipv4",
        )?;
        let mode_ipv6 = mode(
            options,
            "gateway_mode_ipv6",
            "com.docker.network.bridge.gateway_mode_ipv6",
        )?;
        let publish_from = options.take::<Prefixes>(&["publish_from"])?;
        let trusted = options.take::<Names>(&[
            "trusted_interfaces",
            "com.docker.network.bridge.trusted_host_interfaces",
        ])?;
        Ok(Self {
            name,
            adopted: false,
            mtu,
            path_mtu: None,
            masquerade: masquerade.unwrap_or(true),
            prefix,
            host_binding,
            icc: icc.unwrap_or(true),
            mode_ipv4: mode_ipv4.unwrap_or_default(),
            mode_ipv6: mode_ipv6.unwrap_or_default(),
            host_ipv4: options.take(&["host_ipv4", "com.docker.network.host_ipv4"])?,
            host_ipv6: options.take(&["host_ipv6", "com.docker.network.host_ipv6"])?,
            inhibit_ipv4: inhibit.unwrap_or(false),
            publish_from: publish_from.map(|Prefixes(list)| list).unwrap_or_default(),
            trusted: trusted.map(|Names(list)| list).unwrap_or_default(),
            ports: options.take(&["ports"])?.unwrap_or_default(),
            net: options.take(&["net"])?,
            dns: options.take(&["dns"])?.unwrap_or_default(),
        })
    }

    /// Notes what was found on the host.
    pub fn note(&mut self, found: Found) {
        (self.path_mtu, self.adopted) = (found.path_mtu, found.bridge.is_some());
    }

    fn mode(&self, family: Family) -> Mode {
        match family {
            Family::V4 => self.mode_ipv4,
            Family::V6 => self.mode_ipv6,
        }
    }

    /// The facts of one family of a network that isn't internal.
    fn ways_out(&self, link: &IfName, family: Family, world: &mut World) {
        let mode = self.mode(family);
        let source = match family {
            Family::V4 => self.host_ipv4.map(IpAddr::V4),
            Family::V6 => self.host_ipv6.map(IpAddr::V6),
        };
        if mode.translates() && self.masquerade {
            world.insert(Key::Masquerade(link.clone(), family), Value::Present);
            if let Some(source) = source {
                world.insert(Key::Source(link.clone(), family), Value::Ip(source));
            }
        }
        match (mode, family) {
            (Mode::Routed, _) => drop(world.insert(Key::Routed(link.clone(), family), Value::Present)),
            (Mode::Isolated, _) => {}
            (_, Family::V4) => {
                let setting = Setting::RouteLocalnet(link.clone());
                world.insert(Key::Setting(setting), Value::Number(1));
            }
            (_, Family::V6) => drop(world.insert(Key::Loopback(link.clone()), Value::Present)),
        }
        if mode == Mode::NatUnprotected {
            world.insert(Key::Unprotected(link.clone(), family), Value::Present);
        }
    }

    /// The name of the network's bridge.
    pub fn link(&self, network: &NetworkId) -> IfName {
        self.name.clone().unwrap_or_else(|| network.bridge_name())
    }
}

impl Bridge {
    /// The facts of a network on this bridge, which has a hardware address.
    pub fn facts(&self, network: &Network, mac: Mac, world: &mut World) {
        let link = self.link(&network.id);
        if self.adopted {
            world.insert(Key::Link(link.clone()), Value::Adopted);
        } else {
            let value = Value::Bridge { mtu: self.mtu(), mac };
            world.insert(Key::Link(link.clone()), value);
            // An address of the kernel's own (link-local) would be one that containers reach the host at.
            let none = network.subnet(true).is_none() || self.mode_ipv6 == Mode::Isolated;
            let v6 = u32::from(none);
            let setting = |setting, number, world: &mut World| {
                world.insert(Key::Setting(setting), Value::Number(number));
            };
            setting(Setting::DisableIpv6(link.clone()), v6, world);
            setting(Setting::AcceptRa(link.clone()), 0, world);
        }
        for gateway in network.subnets.iter().filter_map(|s| s.gateway) {
            let family = Family::of(gateway.addr());
            let inhibited = self.inhibit_ipv4 && family == Family::V4;
            if !inhibited && self.mode(family) != Mode::Isolated {
                world.insert(Key::Address(link.clone(), gateway), Value::Present);
            }
        }
        world.insert(Key::Allow(link.clone()), Value::Present);
        if !self.icc {
            world.insert(Key::Apart(link.clone()), Value::Present);
        }
        if network.internal {
            world.insert(Key::Guard(link), Value::Present);
            return;
        }
        for subnet in &network.subnets {
            self.ways_out(&link, Family::of(subnet.pool.addr()), world);
        }
        if !self.publish_from.is_empty() {
            world.insert(Key::Restricted(link.clone()), Value::Present);
        }
        for from in &self.publish_from {
            world.insert(Key::Publisher(link.clone(), *from), Value::Present);
        }
        for from in &self.trusted {
            world.insert(Key::Trusted(from.clone(), link.clone()), Value::Present);
        }
    }
}

impl Kind for Bridge {
    fn name(&self) -> &'static str {
        NAME
    }

    fn links(&self, network: &NetworkId) -> Vec<IfName> {
        vec![self.link(network)]
    }

    fn mtu(&self) -> Option<u32> {
        self.mtu.or(self.path_mtu)
    }

    fn isolated(&self, v6: bool) -> bool {
        self.mode(Family::of_v6(v6)) == Mode::Isolated
    }

    fn without_gateway(&self, internal: bool, v6: bool) -> bool {
        let inhibited = internal && self.inhibit_ipv4 && !v6;
        inhibited || self.isolated(v6)
    }

    fn publishing(&self, v6: bool) -> Publishing {
        match (self.ports, self.mode(Family::of_v6(v6))) {
            (Ports::Docker, _) | (_, Mode::Isolated) => Publishing::Elsewhere,
            (_, Mode::Routed) => Publishing::Container,
            _ => Publishing::Host(self.host_binding),
        }
    }

    fn network_facts(&self, network: &Network, _: Option<&Underlay>, world: &mut World) {
        self.facts(network, Mac::of_network(&network.id), world);
    }

    fn endpoint_facts(&self, network: &Network, endpoint: &Endpoint, world: &mut World) {
        if !endpoint.linked {
            return;
        }
        let host = endpoint.id.host_link();
        let pair = Value::Veth {
            peer: endpoint.id.container_link(),
            peer_mac: endpoint.mac,
            mac: Mac::of_endpoint(&endpoint.id),
            mtu: self.mtu(),
        };
        // This host becomes a router with the first container, not with the first network: an engine that starts finds
        // forwarding off, turns it on itself, and then sets the policy of FORWARD to DROP, which it would not otherwise.
        for address in endpoint.addresses.iter().filter(|_| !network.internal) {
            let setting = if address.addr().is_ipv6() {
                Setting::Forward6
            } else {
                Setting::Forward4
            };
            world.insert(Key::Setting(setting), Value::Number(1));
        }
        world.insert(Key::Link(host.clone()), pair);
        for address in endpoint.addresses.iter().filter(|_| self.adopted) {
            world.insert(
                Key::Member(self.link(&network.id), address.addr()),
                Value::Present,
            );
        }
        if let Some(rate) = endpoint.rate {
            world.insert(Key::Rate(host.clone()), Value::Rate(rate));
        }
        let on = Value::On {
            bridge: self.link(&network.id),
            isolated: !self.icc,
            hairpin: !endpoint.published.is_empty(),
        };
        world.insert(Key::Port(host), on);
        for published in &endpoint.published {
            let Some(to) = endpoint.address(published.host.is_ipv6()) else {
                continue;
            };
            if endpoint.opens(published) {
                let key = Key::Open(published.proto, published.host, published.port);
                world.insert(key, Value::Present);
            } else {
                let key = Key::Publish(published.proto, published.host, published.host_port);
                world.insert(key, Value::To(to.addr(), published.port));
            }
        }
    }

    fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined {
        let engines_way_out = self.ports == Ports::Docker && !network.internal;
        let gateway = |v6| {
            let out = endpoint.address(v6).is_some() && !network.internal && !engines_way_out;
            let subnet = network.subnet(v6).filter(|_| out)?;
            subnet.way_out.or(subnet.gateway.map(|g| g.addr()))
        };
        Joined {
            source: endpoint.id.container_link(),
            prefix: self.prefix.clone(),
            gateway: gateway(false),
            gateway_v6: gateway(true),
            engines_way_out,
            routes: Vec::new(),
            routers: Vec::new(),
            made: false,
        }
    }
}
