//! What a trace looks at: values, and the questions that only the kernel can answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::firewall::{Layer4, Nic, Ruleset};
use crate::kernel::look::{Address, Link, Neighbour, Query, Way};

/// A network of ours.
#[derive(Debug, Clone, Default)]
pub(super) struct Net {
    pub id: String,
    pub name: Option<String>,
    pub bridge: String,
    pub internal: bool,
    /// The addresses that its bridge has. Where a network has another router, that is not among them.
    pub gateways: Vec<IpAddr>,
}

impl Net {
    pub fn shown(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| self.id.chars().take(12).collect())
    }
}

/// A container's place on a network of ours.
#[derive(Debug, Clone, Default)]
pub(super) struct End {
    pub id: String,
    pub network: String,
    pub container: Option<String>,
    pub addresses: Vec<IpAddr>,
    pub mac: String,
    pub host_link: Option<String>,
    pub sandbox: Option<String>,
}

impl End {
    pub fn shown(&self) -> String {
        let id = || self.id.chars().take(12).collect::<String>();
        self.container
            .clone()
            .unwrap_or_else(|| format!("(endpoint {})", id()))
    }

    /// A command to be carried out in its namespace.
    pub fn command(&self, command: &str) -> String {
        let sandbox = self.sandbox.as_deref().unwrap_or("NAMESPACE");
        format!("nsenter --net={sandbox} {command}")
    }
}

/// A network namespace as it stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub neighbours: Vec<Neighbour>,
}

impl Place {
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    pub fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub fn neighbour(&self, index: u32, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours
            .iter()
            .find(|n| n.index == index && n.address == address)
    }

    /// The first address of a link.
    pub fn first(&self, index: u32, v6: bool) -> Option<IpAddr> {
        let mut of_link = self
            .addresses
            .iter()
            .filter(|a| a.index == index)
            .map(|a| a.net.addr());
        of_link.find(|address| address.is_ipv6() == v6)
    }

    /// The address that the kernel masquerades with on a link: the first one in the next hop's subnet, or the first one.
    pub fn masquerade(&self, index: u32, hop: IpAddr) -> Option<IpAddr> {
        let own = || {
            let of_link = self.addresses.iter().filter(move |a| a.index == index);
            of_link
                .map(|a| a.net)
                .filter(move |net| net.addr().is_ipv6() == hop.is_ipv6())
        };
        own()
            .find(|net| net.contains(&hop))
            .or_else(|| own().next())
            .map(|net| net.addr())
    }
}

/// All that is known when a trace begins.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub networks: Vec<Net>,
    pub endpoints: Vec<End>,
    pub host: Place,
    pub rules: Ruleset,
    /// What the rules of our table mean, by chain and place; empty if the live table is of another version.
    pub meanings: BTreeMap<(String, usize), String>,
    /// Whether frames on bridges pass IP rules too, for IPv4 and IPv6.
    pub bridge_calls: [bool; 2],
    /// Whether this host forwards, for IPv4 and IPv6.
    pub forwards: [bool; 2],
}

impl Sight {
    pub fn network(&self, id: &str) -> Option<&Net> {
        self.networks.iter().find(|network| network.id == id)
    }

    /// The network whose bridge a link is, which may be one that somebody else has made.
    pub fn network_of(&self, link: &Link) -> Option<&Net> {
        self.networks.iter().find(|network| network.bridge == link.name)
    }

    /// The ports of a bridge that lead to no container of ours.
    pub fn other_ports(&self, bridge: &Link) -> impl Iterator<Item = &Link> {
        let ours = |link: &&Link| {
            let is = |end: &End| end.host_link.as_deref() == Some(link.name.as_str());
            self.endpoints.iter().any(is)
        };
        let ports = self.host.links.iter();
        ports.filter(move |link| link.master == Some(bridge.index) && !ours(link))
    }

    /// The port behind which somebody is who is no container of ours, if there is only one.
    pub fn only_other_port(&self, bridge: &Link) -> Option<&Link> {
        let mut others = self.other_ports(bridge);
        others.next().filter(|_| others.next().is_none())
    }

    /// Who has an address on a network.
    pub fn owner(&self, network: &Net, address: IpAddr) -> Option<&End> {
        let on = |end: &&End| end.network == network.id && end.addresses.contains(&address);
        self.endpoints.iter().find(on)
    }

    /// Who has an address on any network of ours.
    pub fn anybody(&self, address: IpAddr) -> Option<&End> {
        self.endpoints.iter().find(|end| end.addresses.contains(&address))
    }
}

pub(super) fn nic(link: &Link) -> Nic {
    Nic {
        name: link.name.clone(),
        group: link.group,
    }
}

/// A container's namespace, as it matters to what comes and goes there.
#[derive(Debug)]
pub(super) struct Inside {
    pub place: Place,
    /// Its own packet filter rules, or why they can't be read.
    pub rules: Result<Ruleset, String>,
    /// Whether it answers no pings, of IPv4 and IPv6.
    pub mute: [bool; 2],
}

/// What only the kernel can answer, and only for a packet as it has become on its way.
pub(super) trait Asker {
    /// Which way a container sends or takes a packet, or the host.
    fn way(&mut self, whose: Option<&End>, query: Query) -> Result<Way, String>;

    /// Whether anybody answers for an address on a link of the host; the kernel is made to ask where it doesn't know.
    fn answers(&mut self, link: &Link, address: IpAddr) -> Option<bool>;

    /// The hardware address of somebody who answers.
    fn mac(&mut self, link: &Link, address: IpAddr) -> Option<String>;

    /// Whether a process listens: in a container, or on the host. None where that can't be told.
    fn listens(&mut self, whose: Option<&End>, layer4: Layer4, address: IpAddr, port: u16) -> Option<bool>;

    /// A number under `/proc/sys/net` of the host.
    fn setting(&mut self, path: &str) -> Option<i64>;

    /// What is in a container's namespace.
    fn inside(&mut self, end: &End) -> Result<Inside, String>;
}
