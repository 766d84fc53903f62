//! Kind `bridge`: one Linux bridge on this host, a veth pair for each endpoint.
//!
//! ```text
//!   container          host
//!   eth0 ─── veth ─── tbh… ─┐
//!                           ├─ tb-…  10.208.0.1/24 ── forward (our table) ── masquerade ── eth0
//!   eth0 ─── veth ─── tbh… ─┘
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::options::{self, Options};
use super::{Joined, Kind};
use crate::model::{Endpoint, IfName, Mac, Network, NetworkId};
use crate::world::{Key, Setting, Value, World};

/// The options of a bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// The bridge's name, where the user chose one.
    pub name: Option<IfName>,
    /// Largest packet, in bytes; none for the kernel's own choice (1500).
    pub mtu: Option<u32>,
    /// Whether what leaves the host gets the host's address.
    pub masquerade: bool,
    /// What the names of interfaces in containers begin with.
    pub prefix: String,
    /// The host's address that ports are published on where the user names none.
    pub host_binding: Option<IpAddr>,
}

/// Least and largest MTU: RFC 791's 68 octets, and what the kernel lets a bridge have. IPv6 wants 1280 (RFC 8200).
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;
const MTU_V6_LEAST: u32 = 1280;

/// The longest prefix of an interface name in a container: 15 bytes less three digits.
const PREFIX_MAX: usize = 12;

impl Bridge {
    /// Takes the kind's options.
    ///
    /// # Errors
    /// For a value that an option can't have.
    pub fn take(options: &mut Options, v6: bool) -> Result<Self, options::Error> {
        let name = options.take::<IfName>(&["bridge_name", "com.docker.network.bridge.name"])?;
        let mtu = options
            .take::<u32>(&["mtu", "com.docker.network.driver.mtu"])?
            .filter(|mtu| *mtu != 0);
        let least = if v6 { MTU_V6_LEAST } else { *MTU.start() };
        if let Some(mtu) = mtu.filter(|mtu| !(least..=*MTU.end()).contains(mtu)) {
            let allowed = format!("{least} to {}, or 0 for the kernel's own choice", MTU.end());
            return Err(options::refuse_value("mtu", &mtu.to_string(), &allowed));
        }
        let masquerade = options.take(&["masquerade", "com.docker.network.bridge.enable_ip_masquerade"])?;
        let host_binding = options.take(&["host_binding", "com.docker.network.bridge.host_binding_ipv4"])?;
        let prefix =
            options.take::<String>(&["iface_prefix", "com.docker.network.container_iface_prefix"])?;
        let prefix = prefix.unwrap_or_else(|| "eth".to_owned());
        if prefix.len() > PREFIX_MAX || prefix.parse::<IfName>().is_err() {
            let allowed = format!("1 to {PREFIX_MAX} bytes that an interface name can begin with");
            return Err(options::refuse_value("iface_prefix", &prefix, &allowed));
        }
        options.take_default("com.docker.network.bridge.enable_icc", true)?;
        options.take_default("com.docker.network.bridge.inhibit_ipv4", false)?;
        options.take_default("com.docker.network.bridge.default_bridge", false)?;
        options.take_default("com.docker.network.bridge.gateway_mode_ipv4", "nat".to_owned())?;
        options.take_default("com.docker.network.bridge.gateway_mode_ipv6", "nat".to_owned())?;
        Ok(Self {
            name,
            mtu,
            masquerade: masquerade.unwrap_or(true),
            prefix,
            host_binding,
        })
    }

    /// The name of the network's bridge.
    pub fn link(&self, network: &NetworkId) -> IfName {
        self.name.clone().unwrap_or_else(|| network.bridge_name())
    }
}

impl Kind for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn links(&self, network: &NetworkId) -> Vec<IfName> {
        vec![self.link(network)]
    }

    fn mtu(&self) -> Option<u32> {
        self.mtu
    }

    fn host_binding(&self) -> Option<IpAddr> {
        self.host_binding
    }

    fn network_facts(&self, network: &Network, world: &mut World) {
        let link = self.link(&network.id);
        let (v4, v6) = (network.subnet(false).is_some(), network.subnet(true).is_some());
        let value = Value::Bridge {
            mtu: self.mtu,
            mac: Mac::of_network(&network.id),
        };
        world.insert(Key::Link(link.clone()), value);
        world.insert(
            Key::Setting(Setting::DisableIpv6(link.clone())),
            Value::Number(u32::from(!v6)),
        );
        world.insert(Key::Setting(Setting::AcceptRa(link.clone())), Value::Number(0));
        for gateway in network.subnets.iter().filter_map(|s| s.gateway) {
            world.insert(Key::Address(link.clone(), gateway), Value::Present);
        }
        world.insert(Key::Allow(link.clone()), Value::Present);
        if network.internal {
            world.insert(Key::Guard(link), Value::Present);
            return;
        }
        if v4 {
            world.insert(
                Key::Setting(Setting::RouteLocalnet(link.clone())),
                Value::Number(1),
            );
        }
        if self.masquerade {
            world.insert(Key::Masquerade(link), Value::Present);
        }
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
            mtu: self.mtu,
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
        world.insert(Key::Port(host), Value::On(self.link(&network.id)));
        for published in &endpoint.published {
            let key = Key::Publish(published.proto, published.host, published.host_port);
            if let Some(to) = endpoint.address(published.host.is_ipv6()) {
                world.insert(key, Value::To(to.addr(), published.port));
            }
        }
    }

    fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined {
        let gateway = |v6| {
            let inside = endpoint.address(v6).is_some() && !network.internal;
            network
                .subnet(v6)
                .filter(|_| inside)
                .and_then(|s| s.gateway)
                .map(|g| g.addr())
        };
        Joined {
            source: endpoint.id.container_link(),
            prefix: self.prefix.clone(),
            gateway: gateway(false),
            gateway_v6: gateway(true),
        }
    }
}
