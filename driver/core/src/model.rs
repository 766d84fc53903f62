//! The nouns: what the rest of tombolo talks about, parsed once at the door.
//!
//! A value of one of these types is well-formed by construction; nothing past `wire` holds a string that should be
//! an interface name, a hardware address or an identifier.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::kinds::Spec;

/// The longest name of a cluster's network, in bytes: as long as a label of a domain name may be (RFC 1035).
pub const NET_MAX: usize = 63;

/// The longest identifier that we accept from Docker, in bytes. Docker's own are 64 hexadecimal digits.
pub const ID_MAX: usize = 128;

/// Why a text is none of the nouns in this file. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// An identifier that is empty, too long or holds strange characters.
    #[error("'{got}' is no identifier: 1 to {ID_MAX} letters, digits, '-', '_' or '.' are allowed")]
    Id {
        /// The text, cut to a readable length.
        got: String,
    },
    /// A name that no network interface can have.
    #[error(
        "'{got}' is no interface name: 1 to 15 bytes without '/', ':', blanks or '%', and not '.' or '..'"
    )]
    IfName {
        /// The text, cut to a readable length.
        got: String,
    },
    /// No published port.
    #[error(
        "'{got}' is no published port: ADDRESS:PORT->PORT/PROTOCOL is allowed, such as 0.0.0.0:8080->80/tcp"
    )]
    Published {
        /// The text, cut to a readable length.
        got: String,
    },
    /// A name that no network of a cluster can have.
    #[error(
        "'{got}' is no name of a cluster's network: 1 to {NET_MAX} small letters, digits, '-', '_' or '.' are allowed, with a \
         letter or digit first"
    )]
    Net {
        /// The text, cut to a readable length.
        got: String,
    },
    /// Not a unicast hardware address.
    #[error(
        "'{got}' is no MAC address: six hexadecimal bytes such as 02:7b:0a:d0:00:02, not multicast, are allowed"
    )]
    Mac {
        /// The text, cut to a readable length.
        got: String,
    },
}

/// A text cut to a length that fits a message, on one line: what a terminal or a log would obey is escaped.
pub fn cut(text: &str) -> String {
    const SHOWN: usize = 80;
    let plain = |text: &str| -> String {
        let escape = |c: char| match c.is_control() {
            true => c.escape_debug().to_string(),
            false => c.to_string(),
        };
        text.chars().map(escape).collect()
    };
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}… ({} bytes)", plain(&text[..at]), text.len()),
        None => plain(text),
    }
}

fn parse_id(text: &str) -> Result<String, Malformed> {
    let fits = !text.is_empty() && text.len() <= ID_MAX;
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fits && plain {
        Ok(text.to_owned())
    } else {
        Err(Malformed::Id { got: cut(text) })
    }
}

/// Twelve hexadecimal digits that stand for an identifier in the name of a link: its first twelve where it begins
/// with such digits (as Docker's do, so an operator recognises it), a hash of it otherwise.
fn short(id: &str) -> String {
    match id.get(..12) {
        Some(head) if head.bytes().all(|b| b.is_ascii_hexdigit()) => head.to_ascii_lowercase(),
        _ => format!("{:012x}", fnv1a(id.as_bytes()) & 0xffff_ffff_ffff),
    }
}

/// The FNV-1a hash (64 bits). Not for secrets: it names things the same way on every start and every host.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

macro_rules! id_type {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier as Docker sent it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }

        impl FromStr for $name {
            type Err = Malformed;
            fn from_str(text: &str) -> Result<Self, Malformed> {
                parse_id(text).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(
    NetworkId,
    "Docker's identifier of a network: its own on every host."
);
id_type!(
    EndpointId,
    "Docker's identifier of one container's place on one network."
);

/// What the names of bridges of ours begin with that have none of the user's choice.
pub const BRIDGE: &str = "tb-";

/// What the names of VXLAN links of ours begin with.
pub const TUNNEL: &str = "tbv";

impl NetworkId {
    /// The name of the network's bridge where the user chose none: [`BRIDGE`] and twelve digits.
    pub fn bridge_name(&self) -> IfName {
        IfName::fitting(&format!("{BRIDGE}{}", short(&self.0)))
    }

    /// The name of the network's VXLAN link: [`TUNNEL`] and twelve digits.
    pub fn tunnel_name(&self) -> IfName {
        IfName::fitting(&format!("{TUNNEL}{}", short(&self.0)))
    }
}

impl NetworkId {
    /// The name of the link of a network that leads nowhere: `dm-` and twelve digits, as Docker names it.
    pub fn dummy_name(&self) -> IfName {
        IfName::fitting(&format!("dm-{}", short(&self.0)))
    }

    /// The name of this host's own link on a network whose containers are on a wire: `tbs` and twelve digits.
    pub fn shim_name(&self) -> IfName {
        IfName::fitting(&format!("tbs{}", short(&self.0)))
    }
}

impl EndpointId {
    /// The name of the host's end of the endpoint's veth pair: `tbh` and twelve digits.
    pub fn host_link(&self) -> IfName {
        IfName::fitting(&format!("tbh{}", short(&self.0)))
    }

    /// The name of the container's end while it is with the host: `tbc` and twelve digits. Docker renames it.
    pub fn container_link(&self) -> IfName {
        IfName::fitting(&format!("tbc{}", short(&self.0)))
    }
}

/// The name that a network goes by on all hosts of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetName(String);

impl NetName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetName {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let fits = (1..=NET_MAX).contains(&text.len());
        let small = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let plain = text.bytes().all(|b| small(b) || matches!(b, b'-' | b'_' | b'.'));
        if fits && plain && text.bytes().next().is_some_and(small) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Malformed::Net { got: cut(text) })
        }
    }
}

impl TryFrom<String> for NetName {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<NetName> for String {
    fn from(name: NetName) -> Self {
        name.0
    }
}

impl fmt::Display for NetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that a network interface can have: 1 to 15 bytes, as the kernel's `dev_valid_name` (net/core/dev.c) wants it.
///
/// It needs no memory of its own: each fact of the kernel has one or two, and there may be tens of thousands of them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName {
    /// In ASCII, and zeros behind it.
    bytes: [u8; IF_NAME_MAX],
    length: u8,
}

/// How many bytes a name of a link has at most: `IFNAMSIZ` (include/uapi/linux/if.h) without the zero at its end.
const IF_NAME_MAX: usize = 15;

impl IfName {
    /// One that is known to fit.
    fn fitting(text: &str) -> Self {
        debug_assert!(text.is_ascii() && text.len() <= IF_NAME_MAX, "{text}");
        let mut bytes = [0; IF_NAME_MAX];
        let length = text.len().min(IF_NAME_MAX);
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Self {
            bytes,
            length: length as u8,
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IfName").field(&self.as_str()).finish()
    }
}

impl FromStr for IfName {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let fits = (1..=IF_NAME_MAX).contains(&text.len()) && text != "." && text != "..";
        // '%' is the kernel's placeholder for a number; the rest of printable ASCII is what every tool copes with.
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%' | b'"'));
        if fits && plain {
            Ok(Self::fitting(text))
        } else {
            Err(Malformed::IfName { got: cut(text) })
        }
    }
}

impl TryFrom<String> for IfName {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A unicast hardware (Ethernet) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address's six bytes, in the order of transmission.
    pub fn bytes(&self) -> [u8; 6] {
        self.0
    }

    /// Takes six bytes as an address.
    ///
    /// # Errors
    /// [`Malformed::Mac`] for a multicast or an all-zero address.
    pub fn from_bytes(bytes: [u8; 6]) -> Result<Self, Malformed> {
        let mac = Self(bytes);
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            Err(Malformed::Mac { got: mac.to_string() })
        } else {
            Ok(mac)
        }
    }

    /// The address of an endpoint for which the user chose none. It follows from the endpoint's IP address, so that an
    /// address that is used again has the same MAC and no neighbour's cache can be stale.
    pub fn of_address(address: IpAddr) -> Self {
        let [a, b, c, d] = match address {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => (fnv1a(&v6.octets()) as u32).to_be_bytes(),
        };
        Self([0x02, 0x7b, a, b, c, d])
    }

    /// The address of the bridge of a network: the same on every start.
    pub fn of_network(id: &NetworkId) -> Self {
        let [a, b, c, d] = (fnv1a(id.as_str().as_bytes()) as u32).to_be_bytes();
        Self([0x06, 0x7b, a, b, c, d])
    }

    /// The address of the bridges of a network that spans hosts: the same on each of them.
    pub fn of_net(network: &Network) -> Self {
        let pool = network.pool().map(|pool| pool.to_string()).unwrap_or_default();
        let [a, b, c, d] = (fnv1a(pool.as_bytes()) as u32).to_be_bytes();
        Self([0x06, 0x7b, a, b, c, d])
    }

    /// The address of the host's end of an endpoint's veth pair: the same on every start.
    pub fn of_endpoint(id: &EndpointId) -> Self {
        let [a, b, c, d] = (fnv1a(id.as_str().as_bytes()) as u32).to_be_bytes();
        Self([0x0a, 0x7b, a, b, c, d])
    }
}

impl FromStr for Mac {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed::Mac { got: cut(text) };
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(malformed)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        Self::from_bytes(bytes)
    }
}

impl TryFrom<String> for Mac {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A group (multicast or broadcast) hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Group([u8; 6]);

impl Group {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address's six bytes, in the order of transmission.
    pub fn bytes(&self) -> [u8; 6] {
        self.0
    }

    /// Takes six bytes as a group's address, if they are one.
    pub fn from_bytes(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & 1 == 1).then_some(Self(bytes))
    }

    /// The group of frames in which packets to a multicast address travel (RFC 1112 section 6.4, RFC 2464 section 7).
    pub fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(v4) if v4.is_multicast() => {
                let [_, b, c, d] = v4.octets();
                Some(Self([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
            }
            IpAddr::V6(v6) if v6.is_multicast() => {
                let [.., a, b, c, d] = v6.octets();
                Some(Self([0x33, 0x33, a, b, c, d]))
            }
            _ => None,
        }
    }
}

impl From<Group> for String {
    fn from(group: Group) -> Self {
        group.to_string()
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A transport protocol whose ports can be published. The numbers are IANA's, as Docker sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP, protocol 6.
    Tcp,
    /// UDP, protocol 17.
    Udp,
    /// SCTP, protocol 132.
    Sctp,
}

impl Proto {
    /// The protocol of an IANA number, where it is one with ports.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// IANA's number of the protocol.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// One address family of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The network's addresses, masked.
    pub pool: IpNet,
    /// The gateway's address with the pool's prefix length.
    pub gateway: Option<IpNet>,
    /// Addresses that the user keeps for things that aren't containers.
    pub aux: Vec<IpAddr>,
    /// The containers' way out, where it isn't `gateway`: an aux address that bears Docker's name for it.
    #[serde(default)]
    pub way_out: Option<IpAddr>,
    /// Whether the pool is one of our own IPAM's. The engine tells by the address space.
    pub ours: bool,
}

/// A network as Docker asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Docker's identifier.
    pub id: NetworkId,
    /// Its kind and that kind's options.
    pub spec: Spec,
    /// No way out or in but between its own containers and this host's own address on it.
    pub internal: bool,
    /// Its address families: one or two, IPv4 first.
    pub subnets: Vec<Subnet>,
    /// Docker has given the network's pool back. It is about to be deleted, or it is what is left of a creation whose
    /// answer was lost; in both cases a new network may take its place.
    pub released: bool,
    /// How its containers come by their links, where the user has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Attach>,
}

/// How a container comes by its link on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attach {
    /// It is made on the host, and the engine moves it into the container's sandbox.
    #[default]
    Classic,
    /// It is made within the sandbox, which the engine knows nothing of.
    Inside,
}

impl Attach {
    /// What it may be, for messages.
    pub const ALLOWED: &'static str = "classic or inside";

    /// The option that says so.
    pub const OPTION: &'static str = "attach";

    /// What a network's options say.
    pub fn among(options: &BTreeMap<String, String>) -> Option<Self> {
        options.get(Self::OPTION).and_then(|text| Self::from_text(text))
    }

    /// What a text says.
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "classic" => Some(Self::Classic),
            "inside" => Some(Self::Inside),
            _ => None,
        }
    }
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classic => "classic",
            Self::Inside => "inside",
        })
    }
}

impl Network {
    /// Whether its containers' links are made within their sandboxes where these can be entered. `usual` holds for networks
    /// that don't say.
    pub fn is_inside(&self, usual: Attach) -> bool {
        self.attach.unwrap_or(usual) == Attach::Inside && self.spec.goes_inside()
    }

    /// The pool that is the identity of a network of the cluster's: that of IPv4, where it has one.
    pub fn pool(&self) -> Option<IpNet> {
        self.subnets.first().map(|subnet| subnet.pool)
    }

    /// The network's subnet that an address is of.
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.pool.contains(&address))
    }

    /// The network's subnet of one family: the first, where it has several.
    pub fn subnet(&self, v6: bool) -> Option<&Subnet> {
        self.subnets.iter().find(|s| s.pool.addr().is_ipv6() == v6)
    }
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Docker's identifier.
    pub id: EndpointId,
    /// The network it is on.
    pub network: NetworkId,
    /// Its addresses with prefix lengths: at most one a family, IPv4 first.
    pub addresses: Vec<IpNet>,
    /// Its hardware address.
    pub mac: Mac,
    /// Whether the MAC was ours to choose; a repeat of the same request gets the same answer by it.
    pub mac_chosen: bool,
    /// The sandbox (path of a network namespace) it has joined, as Docker names it.
    pub sandbox: Option<String>,
    /// Its pair of links was made. It stays beyond the leaving, because Docker takes the container's end back to the host
    /// only after that.
    pub linked: bool,
    /// The ports that are published for it now.
    pub published: Vec<Published>,
    /// What it is sent at most, in bits a second.
    #[serde(default)]
    pub rate: Option<u64>,
    /// Its way out, where that came with its address (DHCP).
    #[serde(default)]
    pub way_out: Option<IpAddr>,
    /// Its link was made within the sandbox; the engine knows nothing of it and will not take it out again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inside: bool,
    /// The settings of its link in the sandbox, as `net.X.Y.IFNAME.Z=VALUE` (Docker 27 and later).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<String>,
}

impl Endpoint {
    /// Whether a port of the endpoint's is published at its own address: nothing of the host's is taken then.
    pub fn opens(&self, published: &Published) -> bool {
        self.address(published.host.is_ipv6())
            .is_some_and(|own| own.addr() == published.host)
    }

    /// The endpoint's address of one family.
    pub fn address(&self, v6: bool) -> Option<IpNet> {
        self.addresses.iter().copied().find(|a| a.addr().is_ipv6() == v6)
    }
}

/// A port of the host whose traffic goes to a port of an endpoint.
///
/// As a text it reads as in `docker ps`: `0.0.0.0:8080->80/tcp`. A container may have thousands, and their record must
/// stay small.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Published {
    /// The protocol.
    pub proto: Proto,
    /// The host's address. An unspecified one (`0.0.0.0`, `::`) means all of its family; the endpoint's own means that the
    /// outside is let through to it there.
    pub host: IpAddr,
    /// The host's port, never 0.
    pub host_port: u16,
    /// The endpoint's port, never 0.
    pub port: u16,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.host, self.host_port);
        write!(f, "{host}->{}/{}", self.port, self.proto)
    }
}

impl FromStr for Published {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let read = || {
            let (host, rest) = text.split_once("->")?;
            let (port, proto) = rest.split_once('/')?;
            let host: SocketAddr = host.parse().ok()?;
            let proto = [Proto::Tcp, Proto::Udp, Proto::Sctp]
                .into_iter()
                .find(|p| p.to_string() == proto)?;
            Some(Self {
                proto,
                host: host.ip(),
                host_port: host.port(),
                port: port.parse().ok()?,
            })
        };
        read().ok_or_else(|| Malformed::Published { got: cut(text) })
    }
}

impl TryFrom<String> for Published {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Published> for String {
    fn from(published: Published) -> Self {
        published.to_string()
    }
}

/// A wish to publish: what Docker sends for `-p`, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortWish {
    /// The protocol.
    pub proto: Proto,
    /// The host's address, or none for the network's default binding.
    pub host: Option<IpAddr>,
    /// The first port of the host that will do; 0 for any ephemeral one.
    pub first: u16,
    /// The last port of the host that will do.
    pub last: u16,
    /// The endpoint's port.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_short_and_has_no_control_characters() {
        assert_eq!(cut("plain ünï"), "plain ünï");
        assert_eq!(cut("a\nb\0\u{1b}[31m"), "a\\nb\\0\\u{1b}[31m");
        let long = cut(&"\n".repeat(100));
        assert!(long.ends_with("… (100 bytes)") && !long.contains('\n'), "{long}");
    }

    #[test]
    fn a_published_port_is_written_as_docker_does_and_reads_back() {
        for text in [
            "0.0.0.0:8080->80/tcp",
            "[::]:53->53/udp",
            "127.0.0.1:1->65535/sctp",
        ] {
            let published: Published = text.parse().unwrap();
            assert_eq!(published.to_string(), text);
        }
        for text in [
            "",
            "0.0.0.0->80/tcp",
            "0.0.0.0:8080->80",
            "0.0.0.0:8080->80/icmp",
            "0.0.0.0:8080->99999/tcp",
        ] {
            assert!(text.parse::<Published>().is_err(), "{text}");
        }
    }
}
