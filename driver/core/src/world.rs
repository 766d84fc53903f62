//! The world as a set of named facts, and the difference between two worlds.
//!
//! ```text
//!   records --kinds--> desired World ─┐
//!                                     ├─ diff ─> Steps ─Kernel::apply─> the kernel
//!   the kernel --observe--> World ────┘
//! ```
//!
//! Desired and observed are the same type. **The order of [`Key`]'s variants is the order of the world**: walked up to
//! build, down to remove. What must hold before traffic may flow (the table, the guards) comes first and goes last;
//! what lets the outside in (published ports) comes last and goes first. So failing closed costs no thought: whoever
//! adds a variant puts it where it must stand in that order, and `builds_and_removes_in_order` shows it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::model::{IfName, Mac, Proto};

/// The link group of every link that is ours: how a process without memory knows them (`IFLA_GROUP`, set as the link
/// is made, so there is no moment at which it is nobody's). `ip link show group 29807` lists them.
pub const LINK_GROUP: u32 = 0x746f;

/// Packet mark bit "tombolo lets this one pass", set and cleared by our table around the host's other forward rules.
pub const MARK_ACCEPT: u32 = 0x0800_0000;

/// Packet mark bit "masquerade this one", set in our forward chain, read and cleared in our postrouting chain.
pub const MARK_MASQUERADE: u32 = 0x0400_0000;

/// A kernel setting under `/proc/sys/net`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Setting {
    /// `net.ipv4.ip_forward`: this host routes IPv4.
    Forward4,
    /// `net.ipv6.conf.all.forwarding`: this host routes IPv6. Links that learn their routes from router advertisements
    /// (`accept_ra` 1) must go on doing so, which takes the value 2 once forwarding is on.
    Forward6,
    /// `net.ipv6.conf.LINK.disable_ipv6`.
    DisableIpv6(IfName),
    /// `net.ipv6.conf.LINK.accept_ra`: 0 on our bridges, or a container could give this host a default route.
    AcceptRa(IfName),
    /// `net.ipv4.conf.LINK.route_localnet`: 1 on bridges whose published ports are reached on 127.0.0.1. Our table drops
    /// what comes from a container for 127.0.0.0/8.
    RouteLocalnet(IfName),
}

impl Setting {
    /// The link that the setting belongs to, if it is one link's.
    pub fn link(&self) -> Option<&IfName> {
        match self {
            Self::Forward4 | Self::Forward6 => None,
            Self::DisableIpv6(link) | Self::AcceptRa(link) | Self::RouteLocalnet(link) => Some(link),
        }
    }

    /// All settings of one link. They come and go with it.
    pub fn of_link(link: &IfName) -> [Self; 3] {
        [
            Self::DisableIpv6(link.clone()),
            Self::AcceptRa(link.clone()),
            Self::RouteLocalnet(link.clone()),
        ]
    }

    /// The file that holds the setting.
    pub fn path(&self) -> String {
        match self {
            Self::Forward4 => "/proc/sys/net/ipv4/ip_forward".into(),
            Self::Forward6 => "/proc/sys/net/ipv6/conf/all/forwarding".into(),
            Self::DisableIpv6(link) => format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"),
            Self::AcceptRa(link) => format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"),
            Self::RouteLocalnet(link) => format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"),
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }
}

/// The name of a fact. The order of the variants is the order in which they are made true; see the head of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Key {
    /// Our nftables table with its constant chains and rules and its empty sets and maps.
    Table,
    /// Element of set `internal`: nothing is forwarded from or to this bridge, but between its own ports.
    Guard(IfName),
    /// A link of ours.
    Link(IfName),
    /// A kernel setting. It has no absence: a setting that nobody wants is left as it is.
    Setting(Setting),
    /// A link's place on a bridge; it is up.
    Port(IfName),
    /// An address of one of our links.
    Address(IfName, IpNet),
    /// Element of set `bridges`: frames between the ports of this bridge may pass.
    Allow(IfName),
    /// The one rule outside our table: an accept of packets with [`MARK_ACCEPT`] in the FORWARD chain that iptables
    /// manages, because a base chain of ours cannot overrule a drop in another one. Wanted as soon as there is a network;
    /// it counts as holding where that chain does not exist or where there is nothing to overrule.
    DockerAccept(Family),
    /// Element of set `masqueraded`: what leaves the host from this bridge gets the host's address.
    Masquerade(IfName),
    /// Element of one of the maps `publish4`, `publish4_any`, `publish6`, `publish6_any`; the `_any` ones for an
    /// unspecified host address.
    Publish(Proto, IpAddr, u16),
}

/// What a fact says. Each key has one variant that goes with it, named behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Value {
    /// [`Key::Table`], [`Key::Guard`], [`Key::Address`], [`Key::Allow`], [`Key::DockerAccept`], [`Key::Masquerade`]: it is
    /// there, and there is nothing more to say.
    Present,
    /// [`Key::Link`]: a bridge that is up, without spanning tree.
    Bridge {
        /// Largest packet, in bytes; none for the kernel's own choice (1500).
        mtu: Option<u32>,
        /// Its hardware address.
        mac: Mac,
    },
    /// [`Key::Link`]: a veth pair, named by the host's end. It is compared by being there only: the other end is Docker's
    /// as soon as it is made, so it is never remade and never changed.
    Veth {
        /// The name of the other end as it is made.
        peer: IfName,
        /// The hardware address of the other end.
        peer_mac: Mac,
        /// The hardware address of this end.
        mac: Mac,
        /// Largest packet of both ends, in bytes; none for the kernel's own choice (1500).
        mtu: Option<u32>,
    },
    /// [`Key::Setting`].
    Number(u32),
    /// [`Key::Port`]: the bridge.
    On(IfName),
    /// [`Key::Publish`]: the endpoint's address and port.
    To(IpAddr, u16),
    /// Only ever found, never asked for: something of ours is there under this name, but not as it must be. It equals
    /// nothing that can be asked for, so it is changed if it is wanted and removed if it is not.
    Unfit(&'static str),
}

impl Value {
    /// Whether `found` in the kernel is what `self` asks for.
    pub fn holds_as(&self, found: &Self) -> bool {
        match (self, found) {
            (Self::Veth { .. }, Self::Veth { .. }) => true,
            (
                Self::Bridge {
                    mtu: None,
                    mac: wanted,
                },
                Self::Bridge { mac: found, .. },
            ) => wanted == found,
            _ => self == found,
        }
    }
}

/// A set of facts, desired or observed.
pub type World = BTreeMap<Key, Value>;

/// One change of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Step {
    /// Make the fact hold; nothing of that name is there.
    Add(Key, Value),
    /// Make the fact hold; it is there with another value (the first).
    Change(Key, Value, Value),
    /// Make the fact gone; it is there with this value.
    Remove(Key, Value),
}

impl Step {
    /// The name of the fact that the step is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Add(key, _) | Self::Change(key, _, _) | Self::Remove(key, _) => key,
        }
    }

    /// Whether the step takes a fact away.
    pub fn removes(&self) -> bool {
        matches!(self, Self::Remove(..))
    }
}

/// The steps from `observed` to `desired`: removals first, from the last key to the first, then additions and changes
/// from the first to the last. It looks at the union of both, so what nobody wants is found.
pub fn diff(desired: &World, observed: &World) -> Vec<Step> {
    let unwanted = observed
        .iter()
        .rev()
        .filter(|(key, _)| !desired.contains_key(*key) && !matches!(key, Key::Setting(_)))
        .map(|(key, value)| Step::Remove(key.clone(), value.clone()));
    let wanted = desired.iter().filter_map(|(key, value)| match observed.get(key) {
        None => Some(Step::Add(key.clone(), value.clone())),
        Some(found) if value.holds_as(found) => None,
        Some(found) => Some(Step::Change(key.clone(), found.clone(), value.clone())),
    });
    unwanted.chain(wanted).collect()
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path().trim_start_matches("/proc/sys/").replace('/', "."))
    }
}

impl fmt::Display for Step {
    /// The step as the line that an operator would type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.removes() { "delete" } else { "add" };
        let value = match self {
            Self::Add(_, value) | Self::Change(_, _, value) | Self::Remove(_, value) => value,
        };
        let element = |f: &mut fmt::Formatter<'_>, set: &str, text: fmt::Arguments<'_>| {
            write!(f, "nft {verb} element inet tombolo {set} {{ {text} }}")
        };
        match (self.key(), value) {
            (Key::Table, _) if self.removes() => f.write_str("nft delete table inet tombolo"),
            (Key::Table, _) => f.write_str("nft -f skeleton.nft"),
            (Key::Guard(link), _) => element(f, "internal", format_args!("\"{link}\"")),
            (Key::Allow(link), _) => element(f, "bridges", format_args!("\"{link}\" . \"{link}\"")),
            (Key::Masquerade(link), _) => element(f, "masqueraded", format_args!("\"{link}\"")),
            (Key::Publish(proto, host, port), value) => {
                let family = if host.is_ipv6() { 6 } else { 4 };
                let (any, host) = match host.is_unspecified() {
                    true => ("_any", String::new()),
                    false => ("", format!(" . {host}")),
                };
                let to = match value {
                    Value::To(address, to) => format!(" : {address} . {to}"),
                    _ => String::new(),
                };
                element(
                    f,
                    &format!("publish{family}{any}"),
                    format_args!("{proto}{host} . {port}{to}"),
                )
            }
            (Key::Link(link), _) if self.removes() => write!(f, "ip link delete {link}"),
            (Key::Link(link), Value::Bridge { mtu, mac }) => {
                let verb = if matches!(self, Self::Change(..)) {
                    "set"
                } else {
                    "add"
                };
                write!(
                    f,
                    "ip link {verb} {link} address {mac}{} group {LINK_GROUP} up type bridge",
                    Mtu(*mtu)
                )
            }
            (
                Key::Link(link),
                Value::Veth {
                    peer,
                    peer_mac,
                    mac,
                    mtu,
                },
            ) => {
                let mtu = Mtu(*mtu);
                write!(
                    f,
                    "ip link add {link} address {mac}{mtu} group {LINK_GROUP} type veth peer name {peer} "
                )?;
                write!(f, "address {peer_mac}{mtu}")
            }
            (Key::Link(link), other) => write!(f, "ip link add {link} # {other:?}"),
            (Key::Setting(setting), Value::Number(number)) => write!(f, "sysctl -w {setting}={number}"),
            (Key::Setting(setting), _) => write!(f, "sysctl {setting}"),
            (Key::Port(link), Value::On(bridge)) if !self.removes() => {
                write!(f, "ip link set {link} master {bridge} up")
            }
            (Key::Port(link), _) => write!(f, "ip link set {link} nomaster"),
            (Key::Address(link, address), _) => write!(f, "ip address {verb} {address} dev {link}"),
            (Key::DockerAccept(family), _) => {
                let tool = if *family == Family::V6 {
                    "ip6tables"
                } else {
                    "iptables"
                };
                let flag = if self.removes() { "-D" } else { "-I" };
                write!(
                    f,
                    "{tool} {flag} FORWARD -m mark --mark {MARK_ACCEPT:#x}/{MARK_ACCEPT:#x} -j ACCEPT"
                )
            }
        }
    }
}

/// ` mtu N`, or nothing.
struct Mtu(Option<u32>);

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    /// One fact of each sort, in the order in which they must be made.
    fn one_of_each() -> Vec<(Key, Value)> {
        let (bridge, veth) = (name("tb-1"), name("tbh1"));
        let mac: Mac = "02:7b:00:00:00:01".parse().unwrap();
        let pair = Value::Veth {
            peer: name("tbc1"),
            peer_mac: mac,
            mac,
            mtu: Some(1400),
        };
        let public = "192.0.2.1".parse().unwrap();
        vec![
            (Key::Table, Value::Present),
            (Key::Guard(bridge.clone()), Value::Present),
            (Key::Link(bridge.clone()), Value::Bridge { mtu: Some(1400), mac }),
            (Key::Link(veth.clone()), pair),
            (Key::Setting(Setting::Forward4), Value::Number(1)),
            (Key::Setting(Setting::AcceptRa(bridge.clone())), Value::Number(0)),
            (Key::Port(veth), Value::On(bridge.clone())),
            (
                Key::Address(bridge.clone(), "10.0.0.1/24".parse().unwrap()),
                Value::Present,
            ),
            (Key::Allow(bridge.clone()), Value::Present),
            (Key::DockerAccept(Family::V4), Value::Present),
            (Key::Masquerade(bridge), Value::Present),
            (
                Key::Publish(Proto::Tcp, public, 80),
                Value::To("10.0.0.2".parse().unwrap(), 8080),
            ),
        ]
    }

    #[test]
    fn builds_and_removes_in_order() {
        let facts = one_of_each();
        let world: World = facts.iter().cloned().collect();
        let up: Vec<Key> = diff(&world, &World::new())
            .iter()
            .map(|s| s.key().clone())
            .collect();
        assert_eq!(up, facts.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>());

        let down: Vec<Key> = diff(&World::new(), &world)
            .iter()
            .map(|s| s.key().clone())
            .collect();
        let settings = |key: &&Key| !matches!(key, Key::Setting(_));
        assert_eq!(
            down,
            facts
                .iter()
                .rev()
                .map(|(k, _)| k)
                .filter(settings)
                .cloned()
                .collect::<Vec<_>>()
        );
        assert!(diff(&world, &world).is_empty());
    }

    #[test]
    fn steps_read_like_a_shell_session() {
        let world: World = one_of_each().into_iter().collect();
        let lines: Vec<String> = diff(&world, &World::new()).iter().map(Step::to_string).collect();
        let expected = [
            "nft -f skeleton.nft",
            "nft add element inet tombolo internal { \"tb-1\" }",
            "ip link add tb-1 address 02:7b:00:00:00:01 mtu 1400 group 29807 up type bridge",
            "ip link add tbh1 address 02:7b:00:00:00:01 mtu 1400 group 29807 type veth peer name tbc1 address 02:7b:00:00:00:01 mtu 1400",
            "sysctl -w net.ipv4.ip_forward=1",
            "sysctl -w net.ipv6.conf.tb-1.accept_ra=0",
            "ip link set tbh1 master tb-1 up",
            "ip address add 10.0.0.1/24 dev tb-1",
            "nft add element inet tombolo bridges { \"tb-1\" . \"tb-1\" }",
            "iptables -I FORWARD -m mark --mark 0x8000000/0x8000000 -j ACCEPT",
            "nft add element inet tombolo masqueraded { \"tb-1\" }",
            "nft add element inet tombolo publish4 { tcp . 192.0.2.1 . 80 : 10.0.0.2 . 8080 }",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_veth_is_never_remade_and_a_bridge_is_mended() {
        let mac: Mac = "02:7b:00:00:00:01".parse().unwrap();
        let other: Mac = "02:7b:00:00:00:02".parse().unwrap();
        let veth = |mac| Value::Veth {
            peer: name("p"),
            peer_mac: mac,
            mac,
            mtu: None,
        };
        let of = |value| World::from([(Key::Link(name("l")), value)]);
        assert!(diff(&of(veth(mac)), &of(veth(other))).is_empty());
        let bridge = |mtu, mac| of(Value::Bridge { mtu, mac });
        assert!(diff(&bridge(None, mac), &bridge(Some(9000), mac)).is_empty());
        assert_eq!(diff(&bridge(Some(1400), mac), &bridge(Some(1500), mac)).len(), 1);
        assert_eq!(diff(&bridge(None, mac), &bridge(None, other)).len(), 1);
    }
}
