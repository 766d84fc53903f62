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

use crate::model::{Group, IfName, Mac, Proto};
use crate::modes::{IpvlanFlag, IpvlanMode, MacvlanMode};

/// The link group of every link that is ours: how a process without memory knows them (`IFLA_GROUP`, set as the link
/// is made, so there is no moment at which it is nobody's). `ip link show group 29807` lists them.
pub const LINK_GROUP: u32 = 0x746f;

/// The link group of a bridge that somebody else has made and that a network of ours uses. It is put back to 0 when the
/// network goes; the bridge stays.
pub const ADOPTED_GROUP: u32 = 0x7470;

/// The link group of a container's link that was made within its sandbox: there it is known from those that the engine
/// has moved, which bear [`LINK_GROUP`] and which the engine counts.
pub const PLACED_GROUP: u32 = 0x7471;

/// The link group of links of ours that are being removed together: the kernel removes a group at once. A process that dies meanwhile
/// leaves them, and the next one takes them for what they are, links of ours that nobody wants.
pub const LEAVING_GROUP: u32 = 0x7472;

/// `IFA_PROTO` of the addresses that we give to such a bridge: by it they are known from its owner's (Linux 5.18).
pub const ADDRESS_PROTO: u8 = 0x74;

/// Metric of the routes of [`Key::Loopback`]: behind the one on `lo`, which has 0.
pub const LOOPBACK_METRIC: u32 = 1024;

/// Protocol number (`rtm_protocol`) of the routes of [`Key::Route`], and of those of [`Key::Loopback`].
pub const ROUTE_PROTO: u8 = ADDRESS_PROTO;

/// Metric of the routes of [`Key::Route`]: one that nobody else has, so that replacing a route replaces one of ours.
pub const ROUTE_METRIC: u32 = LINK_GROUP;

/// Packet mark bit "tombolo lets this one pass", set and cleared by our table around the host's other forward rules.
pub const MARK_ACCEPT: u32 = 0x0800_0000;

/// Packet mark bit "masquerade this one", set in our forward chain, read and cleared in our postrouting chain.
pub const MARK_MASQUERADE: u32 = 0x0400_0000;

/// Packet mark bit "this one is for a published port", for the administrator's own chain.
pub const MARK_PUBLISHED: u32 = 0x0200_0000;

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
    /// `net.bridge.bridge-nf-call-ip6tables`: IPv6 frames between the ports of any bridge pass through the host's filters.
    /// Only ever looked at. It is 0 where the kernel has no such filtering.
    BridgeFilter6,
    /// `net.ipv6.conf.LINK.accept_dad`: 0 where a bridge answers for others, which it does not while it looks whether
    /// somebody has its own link-local address.
    AcceptDad(IfName),
    /// `net.ipv4.conf.LINK.arp_filter`: 1 where ARP is answered only to those whom this host would answer by the link.
    ArpFilter(IfName),
    /// `net.ipv4.conf.LINK.arp_announce`: 2 where ARP asks in the name of an address of the link's own, if it has one.
    ArpAnnounce(IfName),
    /// `net.ipv4.conf.LINK.proxy_arp`: 1 on bridges where this host answers ARP for what it has routes to elsewhere.
    ProxyArp(IfName),
    /// `net.ipv6.conf.LINK.proxy_ndp`: the same for neighbour discovery, for the addresses of [`Key::Proxied`].
    ProxyNdp(IfName),
    /// `net.ipv4.neigh.LINK.proxy_delay`, or of IPv6: how long such an answer may be put off at most, in hundredths of a
    /// second (the kernel's own choice is 80, drawn anew for each answer). It is looked at only where answers are given, for it has
    /// a file for each link.
    ProxyDelay(IfName, Family),
}

impl Setting {
    /// The link that the setting belongs to, if it is one link's.
    pub fn link(&self) -> Option<&IfName> {
        match self {
            Self::Forward4 | Self::Forward6 | Self::BridgeFilter6 => None,
            Self::DisableIpv6(link) | Self::AcceptRa(link) | Self::RouteLocalnet(link) => Some(link),
            Self::ProxyArp(link) | Self::ProxyNdp(link) | Self::ProxyDelay(link, _) => Some(link),
            Self::AcceptDad(link) | Self::ArpFilter(link) | Self::ArpAnnounce(link) => Some(link),
        }
    }

    /// The setting without which this one has no effect. Where that is 0 nobody looks at this one.
    pub fn only_with(&self) -> Option<Self> {
        match self {
            Self::ProxyDelay(link, Family::V4) => Some(Self::ProxyArp(link.clone())),
            Self::ProxyDelay(link, Family::V6) => Some(Self::ProxyNdp(link.clone())),
            _ => None,
        }
    }

    /// All settings of one link. They come and go with it.
    pub fn of_link(link: &IfName) -> [Self; 10] {
        [
            Self::DisableIpv6(link.clone()),
            Self::AcceptRa(link.clone()),
            Self::RouteLocalnet(link.clone()),
            Self::AcceptDad(link.clone()),
            Self::ArpFilter(link.clone()),
            Self::ArpAnnounce(link.clone()),
            Self::ProxyArp(link.clone()),
            Self::ProxyNdp(link.clone()),
            Self::ProxyDelay(link.clone(), Family::V4),
            Self::ProxyDelay(link.clone(), Family::V6),
        ]
    }

    /// The file that holds the setting.
    pub fn path(&self) -> String {
        match self {
            Self::Forward4 => "/proc/sys/net/ipv4/ip_forward".into(),
            Self::Forward6 => "/proc/sys/net/ipv6/conf/all/forwarding".into(),
            Self::BridgeFilter6 => "/proc/sys/net/bridge/bridge-nf-call-ip6tables".into(),
            Self::DisableIpv6(link) => format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"),
            Self::AcceptRa(link) => format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"),
            Self::RouteLocalnet(link) => format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"),
            Self::AcceptDad(link) => format!("/proc/sys/net/ipv6/conf/{link}/accept_dad"),
            Self::ArpFilter(link) => format!("/proc/sys/net/ipv4/conf/{link}/arp_filter"),
            Self::ArpAnnounce(link) => format!("/proc/sys/net/ipv4/conf/{link}/arp_announce"),
            Self::ProxyArp(link) => format!("/proc/sys/net/ipv4/conf/{link}/proxy_arp"),
            Self::ProxyNdp(link) => format!("/proc/sys/net/ipv6/conf/{link}/proxy_ndp"),
            Self::ProxyDelay(link, family) => format!("/proc/sys/net/ipv{family}/neigh/{link}/proxy_delay"),
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

impl fmt::Display for Family {
    /// The digit that our sets' names end in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "4",
            Self::V6 => "6",
        })
    }
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// IPv6 or IPv4.
    pub fn of_v6(v6: bool) -> Self {
        if v6 { Self::V6 } else { Self::V4 }
    }

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        Self::of_v6(address.is_ipv6())
    }
}

/// The name of a fact. The order of the variants is the order in which they are made true; see the head of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Key {
    /// Our nftables table with its constant chains and rules and its empty sets and maps.
    Table,
    /// Table `inet tombolo-user` with the administrator's own chain. It, or its hook, is made where it is missing; then
    /// it is the administrator's: what is in it is not looked at, and it is removed only if nothing was added.
    UserTable,
    /// Table `bridge tombolo` with its constant rules: what is asked of neighbours (ARP, neighbour and router discovery,
    /// multicast membership) leaves no host through a tunnel, and is counted.
    Tunnels,
    /// Element of set `internal`: nothing is forwarded from or to this bridge, but between its own ports.
    Guard(IfName),
    /// Element of set `apart`: nothing is forwarded between this bridge's own ports, published ports excepted.
    Apart(IfName),
    /// Element of set `restricted`: this bridge's published ports are for the senders of [`Key::Publisher`] only.
    Restricted(IfName),
    /// Element of set `members4` or `members6`: a container on a bridge of somebody else's. Who has no other address there
    /// is outside, so it comes before the container's link.
    Member(IfName, IpAddr),
    /// A link of ours that others of ours are on: a VLAN's, or one that leads nowhere.
    Parent(IfName),
    /// A link of ours, or one of somebody else's that a network of ours uses.
    Link(IfName),
    /// A container's link on the wire of a parent. It is out of sight as soon as Docker has taken it, so it is made once
    /// and taken for there until its endpoint goes.
    Child(IfName),
    /// A kernel setting. It has no absence: a setting that nobody wants is left as it is.
    Setting(Setting),
    /// A bridge of ours asks who hears which group (IGMPv3, MLDv2), and sends frames for groups to those only who do. It comes
    /// before the ports, each of which is asked as it comes.
    Querier(IfName),
    /// A link's place on a bridge; it is up.
    Port(IfName),
    /// An address of one of our links.
    Address(IfName, IpNet),
    /// A route by this host's own link on a wire to a container of this host on that wire, and to nobody else.
    Way(IfName, IpAddr),
    /// A route for ::1 on a bridge, behind the one on `lo`: answers to what this host sent to a published port on ::1
    /// come in by the bridge, and an IPv6 loopback address is looked for on the link of arrival only
    /// (`rt6_need_strict`, net/ipv6/route.c).
    Loopback(IfName),
    /// The limit of what the host sends through a link: a token bucket filter as its root queue discipline (tc-tbf).
    Rate(IfName),
    /// A permanent neighbour on a bridge: the hardware address behind an address of another host's. The bridge answers ARP
    /// and neighbour discovery for it in the place of the tunnel (`neigh_suppress`, bridge(8)).
    Neighbour(IfName, IpAddr),
    /// An address for which this host answers neighbour discovery on a bridge (`ip neigh add proxy`).
    Proxied(IfName, IpAddr),
    /// Where a VXLAN link sends frames for a hardware address: its entry in the forwarding table of the link (`self`) and
    /// in that of the bridge (`master`), without which the bridge would flood.
    Forward(IfName, Mac),
    /// A VTEP to which a VXLAN link sends a copy of each frame for a group (head-end replication).
    Flood(IfName, Group, IpAddr),
    /// Element of set `remote4` or `remote6`: addresses of the network of this bridge that other hosts have and that
    /// are reached without a tunnel. What goes there keeps its sender's address, and what comes from there is let in.
    Remote(IfName, IpNet),
    /// A route to a part of a network that other hosts have, with our protocol number and metric.
    Route(IpNet),
    /// Element of set `masqueraded4` or `masqueraded6`: what leaves the host from this bridge gets the host's address. It
    /// comes before [`Key::Allow`], because what becomes of a flow's first packet holds for all that follow; so do the next
    /// two.
    Masquerade(IfName, Family),
    /// Element of map `source4` or `source6`: the address that it gets, where that is not the kernel's own choice.
    Source(IfName, Family),
    /// Element of set `foreign`: a bridge of Docker's own. What goes there is left to Docker's rules.
    Foreign(IfName),
    /// Element of set `bridges`: frames between the ports of this bridge may pass.
    Allow(IfName),
    /// The one rule outside our table: an accept of packets with [`MARK_ACCEPT`] in the FORWARD chain that iptables
    /// manages, because a base chain of ours cannot overrule a drop in another one. Wanted as soon as there is a network;
    /// it counts as holding where that chain does not exist or where there is nothing to overrule.
    DockerAccept(Family),
    /// Element of set `loopback`: published ports are reached on ::1 as well.
    LoopbackPorts,
    /// Element of set `publishers4` or `publishers6`: these may use the published ports of a restricted bridge.
    Publisher(IfName, IpNet),
    /// Element of set `trusted`: what comes by the first link reaches any address and port behind the second, a bridge.
    Trusted(IfName, IfName),
    /// Element of set `routed4` or `routed6`: containers on this bridge are reached at their own addresses: ICMP, and the
    /// ports of [`Key::Open`].
    Routed(IfName, Family),
    /// Element of set `unprotected4` or `unprotected6`: the outside reaches any port of this bridge's containers at their
    /// own addresses.
    Unprotected(IfName, Family),
    /// Element of set `shared4` or `shared6`: from this bridge, a container with this address is asked through a published
    /// port, and is on the bridge's network as well.
    Shared(IfName, IpAddr),
    /// Element of set `opened4` or `opened6`: a port of a container that is published at the container's own address.
    Open(Proto, IpAddr, u16),
    /// Element of one of the maps `publish4`, `publish4_any`, `publish6`, `publish6_any`; the `_any` ones for an
    /// unspecified host address.
    Publish(Proto, IpAddr, u16),
}

impl Key {
    /// Whether the fact is an element of one of our table's sets and maps.
    pub fn is_element(&self) -> bool {
        match self {
            Self::Guard(_) | Self::Apart(_) | Self::Restricted(_) | Self::Allow(_) | Self::Foreign(_) => true,
            Self::LoopbackPorts | Self::Masquerade(..) | Self::Source(..) | Self::Publisher(..) => true,
            Self::Trusted(..) | Self::Routed(..) | Self::Unprotected(..) | Self::Remote(..) => true,
            Self::Member(..) | Self::Shared(..) | Self::Open(..) | Self::Publish(..) => true,
            Self::Table | Self::UserTable | Self::Tunnels | Self::Link(_) | Self::Setting(_) => false,
            Self::Address(..) | Self::Loopback(_) | Self::Rate(_) | Self::DockerAccept(_) => false,
            Self::Port(_) | Self::Neighbour(..) | Self::Proxied(..) | Self::Forward(..) => false,
            Self::Flood(..) | Self::Route(_) | Self::Querier(_) => false,
            Self::Parent(_) | Self::Child(_) | Self::Way(..) => false,
        }
    }

    /// The link that the fact goes with: once that is removed it doesn't hold any more, and needs no removal of its own.
    pub fn on(&self) -> Option<&IfName> {
        match self {
            Self::Link(link) | Self::Querier(link) | Self::Port(link) | Self::Address(link, _) => Some(link),
            Self::Loopback(link) | Self::Rate(link) | Self::Flood(link, ..) => Some(link),
            Self::Neighbour(link, _) | Self::Proxied(link, _) | Self::Forward(link, _) => Some(link),
            Self::Setting(setting) => setting.link(),
            _ => None,
        }
    }

    /// Whether the fact follows from what other hosts have told, so that it can't be known before they are heard; or is there
    /// for their sake only.
    pub fn is_of_peers(&self) -> bool {
        matches!(
            self,
            Self::Neighbour(..)
                | Self::Proxied(..)
                | Self::Forward(..)
                | Self::Flood(..)
                | Self::Remote(..)
                | Self::Route(_)
        )
    }
}

/// What a fact says. Each key has one variant that goes with it, named behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Value {
    /// It is there, and there is nothing more to say. All keys without a variant of their own.
    Present,
    /// [`Key::Link`]: a bridge that is up, without spanning tree.
    Bridge {
        /// Largest packet, in bytes; none for the kernel's own choice (1500).
        mtu: Option<u32>,
        /// Its hardware address.
        mac: Mac,
    },
    /// [`Key::Link`]: a bridge that somebody else has made. Only its link group is ours, [`ADOPTED_GROUP`].
    Adopted,
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
    /// [`Key::Link`]: a VXLAN link that is up and learns nothing. The interface that frames leave by follows from the routes.
    Vxlan {
        /// The VXLAN network identifier (RFC 7348), 1 to 16,777,215.
        vni: u32,
        /// This host's VTEP: the source address of what is sent. What comes is taken at any of its addresses.
        local: IpAddr,
        /// The port of UDP of all VTEPs.
        port: u16,
        /// Largest packet within the tunnel, in bytes; none for the kernel's own choice (1500).
        mtu: Option<u32>,
    },
    /// [`Key::Link`] and [`Key::Child`]: a link with a hardware address of its own on the wire of another link. As a `Child`
    /// it is compared by being there only, as a pair is.
    Macvlan {
        /// The other link.
        parent: IfName,
        /// How it speaks with the others there.
        mode: MacvlanMode,
        /// Its hardware address.
        mac: Mac,
        /// Largest packet, in bytes; none for the parent's.
        mtu: Option<u32>,
    },
    /// [`Key::Link`] and [`Key::Child`]: a link that shares another link's wire and hardware address.
    Ipvlan {
        /// The other link.
        parent: IfName,
        /// What it does with frames.
        mode: IpvlanMode,
        /// How it speaks with the others there.
        flag: IpvlanFlag,
        /// Largest packet, in bytes; none for the parent's.
        mtu: Option<u32>,
    },
    /// [`Key::Parent`]: a VLAN's link (IEEE 802.1Q) that is up.
    Vlan {
        /// The link that carries it.
        link: IfName,
        /// Its identifier, 1 to 4094.
        id: u16,
    },
    /// [`Key::Parent`]: a link that is up and leads nowhere.
    Dummy,
    /// [`Key::Port`] of a link that is on no bridge: it is up.
    Up,
    /// [`Key::Setting`].
    Number(u32),
    /// [`Key::Port`].
    On {
        /// The bridge.
        bridge: IfName,
        /// No frames from or to other isolated ports of the bridge (`IFLA_BRPORT_ISOLATED`).
        isolated: bool,
        /// Frames may go out where they came in (`IFLA_BRPORT_MODE`): a container that uses its own published port
        /// needs it where frames between ports are filtered, because they are translated within the bridge then.
        hairpin: bool,
    },
    /// [`Key::Port`] of a VXLAN link: the bridge learns nothing from it, and answers for those behind it.
    Tunnel {
        /// The bridge.
        bridge: IfName,
        /// No frames from or to other isolated ports of the bridge.
        isolated: bool,
        /// Whether frames to groups go there, and so to other hosts: for the bridge a multicast router is there.
        multicast: bool,
    },
    /// [`Key::Rate`]: bits a second.
    Rate(u64),
    /// [`Key::Neighbour`]: the hardware address.
    Mac(Mac),
    /// [`Key::Forward`]: the VTEP.
    Via(IpAddr),
    /// [`Key::Route`]: its next hops, of equal cost, in their order. There is at least one.
    Hops(Vec<Hop>),
    /// [`Key::Source`]: the address.
    Ip(IpAddr),
    /// [`Key::Publish`]: the endpoint's address and port.
    To(IpAddr, u16),
    /// Only ever found: an address that the owner of an adopted bridge has given it. It is as good as ours, and it is
    /// never removed.
    Theirs,
    /// Only ever found, never asked for: something of ours is there under this name, but not as it must be. It equals
    /// nothing that can be asked for, so it is changed if it is wanted and removed if it is not.
    Unfit(&'static str),
}

/// A next hop of a route. It is on the link, whatever addresses that has (`onlink`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Hop {
    /// The other host's address.
    pub via: IpAddr,
    /// The link that it is reached by.
    pub link: IfName,
}

impl Value {
    /// Whether `found` in the kernel is what `self` asks for.
    pub fn holds_as(&self, found: &Self) -> bool {
        match (self, found) {
            (Self::Veth { .. }, Self::Veth { .. }) | (Self::Present, Self::Theirs) => true,
            (
                Self::Macvlan {
                    parent,
                    mode,
                    mac,
                    mtu: None,
                },
                Self::Macvlan {
                    parent: their_parent,
                    mode: their_mode,
                    mac: their_mac,
                    ..
                },
            ) => (parent, mode, mac) == (their_parent, their_mode, their_mac),
            (
                Self::Ipvlan {
                    parent,
                    mode,
                    flag,
                    mtu: None,
                },
                Self::Ipvlan {
                    parent: their_parent,
                    mode: their_mode,
                    flag: their_flag,
                    ..
                },
            ) => (parent, mode, flag) == (their_parent, their_mode, their_flag),
            (
                Self::Vxlan {
                    vni,
                    local,
                    port,
                    mtu: None,
                },
                Self::Vxlan {
                    vni: their_vni,
                    local: their_local,
                    port: their_port,
                    ..
                },
            ) => (vni, local, port) == (their_vni, their_local, their_port),
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

    /// The link that the step removes, where it is one that is only ours (a pair, a bridge, a tunnel): what is on it goes with it.
    pub fn removed_link(&self) -> Option<&IfName> {
        match self {
            Self::Remove(
                Key::Link(link),
                Value::Veth { .. } | Value::Bridge { .. } | Value::Vxlan { .. },
            ) => Some(link),
            _ => None,
        }
    }
}

/// The steps from `observed` to `desired`: removals first, from the last key to the first, then additions and changes
/// from the first to the last. It looks at the union of both, so what nobody wants is found.
pub fn diff(desired: &World, observed: &World) -> Vec<Step> {
    let ours = |key: &Key, value: &Value| !matches!(key, Key::Setting(_)) && *value != Value::Theirs;
    let unwanted = observed
        .iter()
        .rev()
        .filter(|(key, value)| !desired.contains_key(*key) && ours(key, value))
        .map(|(key, value)| Step::Remove(key.clone(), value.clone()));
    let wanted = desired.iter().filter_map(|(key, value)| match observed.get(key) {
        None => Some(Step::Add(key.clone(), value.clone())),
        // A container's link is what it is: what became of it is for Docker to say.
        Some(_) if matches!(key, Key::Child(_)) => None,
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
            (Key::UserTable, _) if self.removes() => f.write_str("nft delete table inet tombolo-user"),
            (Key::UserTable, _) => f.write_str("nft -f user.nft"),
            (Key::Tunnels, _) if self.removes() => f.write_str("nft delete table bridge tombolo"),
            (Key::Tunnels, _) => f.write_str("nft -f tunnels.nft"),
            (Key::Remote(link, net), _) => {
                let set = format!("remote{}", Family::of(net.addr()));
                element(f, &set, format_args!("\"{link}\" . {net}"))
            }
            (Key::Guard(link), _) => element(f, "internal", format_args!("\"{link}\"")),
            (Key::Apart(link), _) => element(f, "apart", format_args!("\"{link}\"")),
            (Key::Restricted(link), _) => element(f, "restricted", format_args!("\"{link}\"")),
            (Key::Member(link, address), _) | (Key::Shared(link, address), _) => {
                let set = if matches!(self.key(), Key::Member(..)) {
                    "members"
                } else {
                    "shared"
                };
                let set = format!("{set}{}", Family::of(*address));
                element(f, &set, format_args!("\"{link}\" . {address}"))
            }
            (Key::Allow(link), _) => element(f, "bridges", format_args!("\"{link}\" . \"{link}\"")),
            (Key::Foreign(link), _) => element(f, "foreign", format_args!("\"{link}\"")),
            (Key::LoopbackPorts, _) => element(f, "loopback", format_args!("::1")),
            (Key::Masquerade(link, family), _) => {
                element(f, &format!("masqueraded{family}"), format_args!("\"{link}\""))
            }
            (Key::Source(link, family), Value::Ip(address)) if !self.removes() => element(
                f,
                &format!("source{family}"),
                format_args!("\"{link}\" : {address}"),
            ),
            (Key::Source(link, family), _) => {
                element(f, &format!("source{family}"), format_args!("\"{link}\""))
            }
            (Key::Publisher(link, from), _) => {
                let set = format!("publishers{}", Family::of(from.addr()));
                element(f, &set, format_args!("\"{link}\" . {from}"))
            }
            (Key::Trusted(from, link), _) => element(f, "trusted", format_args!("\"{from}\" . \"{link}\"")),
            (Key::Routed(link, family), _) => {
                element(f, &format!("routed{family}"), format_args!("\"{link}\""))
            }
            (Key::Unprotected(link, family), _) => {
                element(f, &format!("unprotected{family}"), format_args!("\"{link}\""))
            }
            (Key::Open(proto, address, port), _) => element(
                f,
                &format!("opened{}", Family::of(*address)),
                format_args!("{proto} . {address} . {port}"),
            ),
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
            (Key::Link(link), Value::Adopted) => {
                let group = if self.removes() { 0 } else { ADOPTED_GROUP };
                write!(f, "ip link set {link} group {group}")
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
            (
                Key::Link(link),
                Value::Vxlan {
                    vni,
                    local,
                    port,
                    mtu,
                },
            ) => {
                let verb = if matches!(self, Self::Change(..)) {
                    "set"
                } else {
                    "add"
                };
                write!(
                    f,
                    "ip link {verb} {link}{} group {LINK_GROUP} up type vxlan id {vni} local {local} dstport {port} nolearning",
                    Mtu(*mtu)
                )
            }
            (Key::Parent(link) | Key::Child(link), _) if self.removes() => write!(f, "ip link delete {link}"),
            (Key::Parent(name), Value::Vlan { link, id }) => write!(
                f,
                "ip link add link {link} name {name} group {LINK_GROUP} up type vlan id {id}"
            ),
            (Key::Parent(name), _) => write!(f, "ip link add {name} group {LINK_GROUP} up type dummy"),
            (
                Key::Link(link) | Key::Child(link),
                Value::Macvlan {
                    parent,
                    mode,
                    mac,
                    mtu,
                },
            ) => write!(
                f,
                "ip link add link {parent} name {link} address {mac}{} group {LINK_GROUP} type macvlan mode {mode}",
                Mtu(*mtu)
            ),
            (
                Key::Link(link) | Key::Child(link),
                Value::Ipvlan {
                    parent,
                    mode,
                    flag,
                    mtu,
                },
            ) => write!(
                f,
                "ip link add link {parent} name {link}{} group {LINK_GROUP} type ipvlan mode {mode} {flag}",
                Mtu(*mtu)
            ),
            (Key::Child(link), other) => write!(f, "ip link add {link} # {other:?}"),
            (Key::Link(link), other) => write!(f, "ip link add {link} # {other:?}"),
            (Key::Setting(setting), Value::Number(number)) => write!(f, "sysctl -w {setting}={number}"),
            (Key::Setting(setting), _) => write!(f, "sysctl {setting}"),
            (
                Key::Port(link),
                Value::On {
                    bridge,
                    isolated,
                    hairpin,
                },
            ) if !self.removes() => {
                let on = |on: &bool| if *on { "on" } else { "off" };
                write!(
                    f,
                    "ip link set {link} master {bridge} up type bridge_slave isolated {} hairpin {}",
                    on(isolated),
                    on(hairpin)
                )
            }
            (
                Key::Port(link),
                Value::Tunnel {
                    bridge,
                    isolated,
                    multicast,
                },
            ) if !self.removes() => {
                let on = |on: &bool| if *on { "on" } else { "off" };
                write!(
                    f,
                    "ip link set {link} master {bridge} up type bridge_slave learning off neigh_suppress on isolated {} \
                     mcast_flood {} bcast_flood {} mcast_router {}",
                    on(isolated),
                    on(multicast),
                    on(multicast),
                    if *multicast { 2 } else { 0 }
                )
            }
            (Key::Port(link), Value::Up) => {
                let way = if self.removes() { "down" } else { "up" };
                write!(f, "ip link set {link} {way}")
            }
            (Key::Port(link), _) => write!(f, "ip link set {link} nomaster"),
            (Key::Querier(link), _) if self.removes() => write!(
                f,
                "ip link set {link} type bridge mcast_querier 0 mcast_igmp_version 2 mcast_mld_version 1 \
                 mcast_query_response_interval 1000"
            ),
            (Key::Querier(link), _) => write!(
                f,
                "ip link set {link} type bridge mcast_snooping 1 mcast_querier 1 mcast_igmp_version 3 mcast_mld_version 2 \
                 mcast_query_response_interval 100"
            ),
            (Key::Neighbour(link, address), Value::Mac(mac)) if !self.removes() => {
                write!(
                    f,
                    "ip neigh replace {address} lladdr {mac} dev {link} nud permanent"
                )
            }
            (Key::Neighbour(link, address), _) => write!(f, "ip neigh delete {address} dev {link}"),
            (Key::Proxied(link, address), _) => write!(f, "ip neigh {verb} proxy {address} dev {link}"),
            (Key::Forward(link, mac), Value::Via(via)) if !self.removes() => {
                write!(
                    f,
                    "bridge fdb replace {mac} dev {link} self master static dst {via}"
                )
            }
            (Key::Forward(link, mac), _) => write!(f, "bridge fdb delete {mac} dev {link} self master"),
            (Key::Flood(link, group, via), _) => {
                let verb = if self.removes() { "delete" } else { "append" };
                write!(f, "bridge fdb {verb} {group} dev {link} self permanent dst {via}")
            }
            (Key::Route(net), Value::Hops(hops)) if !self.removes() => {
                write!(
                    f,
                    "ip route replace {net} proto {ROUTE_PROTO} metric {ROUTE_METRIC}"
                )?;
                let word = if hops.len() > 1 { " nexthop" } else { "" };
                for Hop { via, link } in hops {
                    write!(f, "{word} via {via} dev {link} onlink")?;
                }
                Ok(())
            }
            (Key::Route(net), _) => {
                write!(
                    f,
                    "ip route delete {net} proto {ROUTE_PROTO} metric {ROUTE_METRIC}"
                )
            }
            (Key::Way(link, address), _) => write!(
                f,
                "ip route {} {address} dev {link} proto {ROUTE_PROTO} metric {ROUTE_METRIC} scope link",
                if self.removes() { "delete" } else { "replace" }
            ),
            (Key::Address(link, address), _) => write!(f, "ip address {verb} {address} dev {link}"),
            (Key::Loopback(link), _) => {
                write!(
                    f,
                    "ip -6 route {verb} local ::1 dev {link} table local metric {LOOPBACK_METRIC}"
                )
            }
            (Key::Rate(link), Value::Rate(bits)) if !self.removes() => {
                write!(f, "tc qdisc replace dev {link} root tbf rate {bits}bit")
            }
            (Key::Rate(link), _) => write!(f, "tc qdisc delete dev {link} root"),
            (Key::DockerAccept(family), _) => {
                let tool = if *family == Family::V6 {
                    "ip6tables"
                } else {
                    "iptables"
                };
                let flag = if self.removes() { "-D" } else { "-I" };
                write!(
                    f,
                    "{tool} {flag} FORWARD -m mark --mark {MARK_ACCEPT:#x}/{MARK_ACCEPT:#x} -m comment --comment tombolo -j ACCEPT"
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
        let (tunnel, far): (_, IpAddr) = (name("tbv1"), "192.0.2.2".parse().unwrap());
        let vxlan = Value::Vxlan {
            vni: 4242,
            local: public,
            port: 4789,
            mtu: Some(1400),
        };
        let through = Value::Tunnel {
            bridge: bridge.clone(),
            isolated: false,
            multicast: true,
        };
        let (shim, lower) = (name("tbs1"), name("eth0.30"));
        let vlan = Value::Vlan {
            link: name("eth0"),
            id: 30,
        };
        let on_wire = Value::Macvlan {
            parent: lower,
            mode: MacvlanMode::Private,
            mac,
            mtu: None,
        };
        let hops = [far, "192.0.2.3".parse().unwrap()].map(|via| Hop {
            via,
            link: name("eth1"),
        });
        let on = Value::On {
            bridge: bridge.clone(),
            isolated: true,
            hairpin: false,
        };
        vec![
            (Key::Table, Value::Present),
            (Key::UserTable, Value::Present),
            (Key::Tunnels, Value::Present),
            (Key::Guard(bridge.clone()), Value::Present),
            (Key::Apart(bridge.clone()), Value::Present),
            (Key::Restricted(bridge.clone()), Value::Present),
            (
                Key::Member(name("br0"), "10.0.0.2".parse().unwrap()),
                Value::Present,
            ),
            (Key::Parent(name("eth0.30")), vlan),
            (Key::Link(name("br0")), Value::Adopted),
            (Key::Link(bridge.clone()), Value::Bridge { mtu: Some(1400), mac }),
            (Key::Link(veth.clone()), pair),
            (Key::Link(shim.clone()), on_wire.clone()),
            (Key::Link(tunnel.clone()), vxlan),
            (Key::Child(name("tbc2")), on_wire),
            (Key::Setting(Setting::Forward4), Value::Number(1)),
            (Key::Setting(Setting::AcceptRa(bridge.clone())), Value::Number(0)),
            (Key::Setting(Setting::ArpFilter(shim.clone())), Value::Number(1)),
            (Key::Querier(bridge.clone()), Value::Present),
            (Key::Port(veth.clone()), on),
            (Key::Port(shim.clone()), Value::Up),
            (Key::Port(tunnel.clone()), through),
            (
                Key::Address(bridge.clone(), "10.0.0.1/24".parse().unwrap()),
                Value::Present,
            ),
            (Key::Way(shim, "192.0.2.7".parse().unwrap()), Value::Present),
            (Key::Loopback(bridge.clone()), Value::Present),
            (Key::Rate(veth), Value::Rate(10_000_000)),
            (
                Key::Neighbour(bridge.clone(), "10.0.0.7".parse().unwrap()),
                Value::Mac(mac),
            ),
            (
                Key::Proxied(bridge.clone(), "fd00::7".parse().unwrap()),
                Value::Present,
            ),
            (Key::Forward(tunnel.clone(), mac), Value::Via(far)),
            (Key::Flood(tunnel, Group::BROADCAST, far), Value::Present),
            (
                Key::Remote(bridge.clone(), "10.0.0.64/26".parse().unwrap()),
                Value::Present,
            ),
            (
                Key::Route("10.0.0.64/26".parse().unwrap()),
                Value::Hops(hops.to_vec()),
            ),
            (Key::Masquerade(bridge.clone(), Family::V4), Value::Present),
            (Key::Source(bridge.clone(), Family::V4), Value::Ip(public)),
            (Key::Foreign(name("docker7")), Value::Present),
            (Key::Allow(bridge.clone()), Value::Present),
            (Key::DockerAccept(Family::V4), Value::Present),
            (Key::LoopbackPorts, Value::Present),
            (
                Key::Publisher(bridge.clone(), "198.51.100.0/24".parse().unwrap()),
                Value::Present,
            ),
            (Key::Trusted(name("eth1"), bridge.clone()), Value::Present),
            (Key::Routed(bridge.clone(), Family::V6), Value::Present),
            (Key::Unprotected(bridge.clone(), Family::V4), Value::Present),
            (Key::Shared(bridge, "fd00::2".parse().unwrap()), Value::Present),
            (
                Key::Open(Proto::Tcp, "fd00::2".parse().unwrap(), 80),
                Value::Present,
            ),
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
            "nft -f user.nft",
            "nft -f tunnels.nft",
            "nft add element inet tombolo internal { \"tb-1\" }",
            "nft add element inet tombolo apart { \"tb-1\" }",
            "nft add element inet tombolo restricted { \"tb-1\" }",
            "nft add element inet tombolo members4 { \"br0\" . 10.0.0.2 }",
            "ip link add link eth0 name eth0.30 group 29807 up type vlan id 30",
            "ip link set br0 group 29808",
            "ip link add tb-1 address 02:7b:00:00:00:01 mtu 1400 group 29807 up type bridge",
            "ip link add tbh1 address 02:7b:00:00:00:01 mtu 1400 group 29807 type veth peer name tbc1 address 02:7b:00:00:00:01 mtu 1400",
            "ip link add link eth0.30 name tbs1 address 02:7b:00:00:00:01 group 29807 type macvlan mode private",
            "ip link add tbv1 mtu 1400 group 29807 up type vxlan id 4242 local 192.0.2.1 dstport 4789 nolearning",
            "ip link add link eth0.30 name tbc2 address 02:7b:00:00:00:01 group 29807 type macvlan mode private",
            "sysctl -w net.ipv4.ip_forward=1",
            "sysctl -w net.ipv6.conf.tb-1.accept_ra=0",
            "sysctl -w net.ipv4.conf.tbs1.arp_filter=1",
            "ip link set tb-1 type bridge mcast_snooping 1 mcast_querier 1 mcast_igmp_version 3 mcast_mld_version 2 mcast_query_response_interval 100",
            "ip link set tbh1 master tb-1 up type bridge_slave isolated on hairpin off",
            "ip link set tbs1 up",
            "ip link set tbv1 master tb-1 up type bridge_slave learning off neigh_suppress on isolated off mcast_flood on bcast_flood on mcast_router 2",
            "ip address add 10.0.0.1/24 dev tb-1",
            "ip route replace 192.0.2.7 dev tbs1 proto 116 metric 29807 scope link",
            "ip -6 route add local ::1 dev tb-1 table local metric 1024",
            "tc qdisc replace dev tbh1 root tbf rate 10000000bit",
            "ip neigh replace 10.0.0.7 lladdr 02:7b:00:00:00:01 dev tb-1 nud permanent",
            "ip neigh add proxy fd00::7 dev tb-1",
            "bridge fdb replace 02:7b:00:00:00:01 dev tbv1 self master static dst 192.0.2.2",
            "bridge fdb append ff:ff:ff:ff:ff:ff dev tbv1 self permanent dst 192.0.2.2",
            "nft add element inet tombolo remote4 { \"tb-1\" . 10.0.0.64/26 }",
            "ip route replace 10.0.0.64/26 proto 116 metric 29807 nexthop via 192.0.2.2 dev eth1 onlink nexthop via 192.0.2.3 dev eth1 onlink",
            "nft add element inet tombolo masqueraded4 { \"tb-1\" }",
            "nft add element inet tombolo source4 { \"tb-1\" : 192.0.2.1 }",
            "nft add element inet tombolo foreign { \"docker7\" }",
            "nft add element inet tombolo bridges { \"tb-1\" . \"tb-1\" }",
            "iptables -I FORWARD -m mark --mark 0x8000000/0x8000000 -m comment --comment tombolo -j ACCEPT",
            "nft add element inet tombolo loopback { ::1 }",
            "nft add element inet tombolo publishers4 { \"tb-1\" . 198.51.100.0/24 }",
            "nft add element inet tombolo trusted { \"eth1\" . \"tb-1\" }",
            "nft add element inet tombolo routed6 { \"tb-1\" }",
            "nft add element inet tombolo unprotected4 { \"tb-1\" }",
            "nft add element inet tombolo shared6 { \"tb-1\" . fd00::2 }",
            "nft add element inet tombolo opened6 { tcp . fd00::2 . 80 }",
            "nft add element inet tombolo publish4 { tcp . 192.0.2.1 . 80 : 10.0.0.2 . 8080 }",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_somebody_else_gave_a_bridge_serves_and_stays() {
        let key = Key::Address(name("br0"), "10.0.0.1/24".parse().unwrap());
        let (ours, theirs) = (
            World::from([(key.clone(), Value::Present)]),
            World::from([(key, Value::Theirs)]),
        );
        assert!(diff(&ours, &theirs).is_empty());
        assert!(diff(&World::new(), &theirs).is_empty());
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
