//! Looking at the kernel for the command line: links, addresses, routes, neighbours and rules, of anybody, in any network
//! namespace. Nothing is changed but what the kernel remembers of neighbours, and nothing is kept.
//!
//! ```text
//!   a thread of the command line ──(inside NAMESPACE)──> Look ──> socket   rtnetlink, read attribute by attribute
//!                                                        rules ─> tools    nft -j list ruleset, iptables-save
//! ```
//!
//! Messages are read by their attributes' numbers, not parsed as a whole: what somebody else's link is like must not
//! keep us from seeing the others.

pub mod echo;
mod read;
pub mod rules;
pub mod sockets;
pub mod spaces;
pub mod trial;

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NetlinkMessage};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::runtime::{Builder, Runtime};

use super::Error;
use super::socket::{Failure, Reply, Socket};

/// A link of anybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: u32,
    /// Its kind (`bridge`, `veth`, …); none for a network card.
    pub kind: Option<String>,
    /// Its hardware address, in Linux's own form.
    pub mac: Option<String>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
    /// Whether there is something on the other end.
    pub carrier: bool,
    /// The number of the bridge (or bond …) it is a port of.
    pub master: Option<u32>,
    /// The number of the other end of a pair, or of the link it stands on, wherever that is.
    pub peer: Option<u32>,
    /// Whether `peer` is a number of another namespace.
    pub peer_elsewhere: bool,
    /// How it is a port, if it is one of a bridge.
    pub port: Option<Port>,
}

/// How a link is a port of a bridge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// The kernel's `BR_STATE_*`: 3 is forwarding.
    pub state: u8,
    /// It speaks to no other isolated port.
    pub isolated: bool,
}

/// The number of the state in which a bridge's port forwards (`BR_STATE_FORWARDING`).
pub const FORWARDING: u8 = 3;

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub index: u32,
    /// The address, with its prefix's length.
    pub net: IpNet,
}

/// A route, or the answer to the question which way an address takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; none for a default route.
    pub to: Option<IpNet>,
    /// Whether it is of IPv6.
    pub v6: bool,
    /// Its table: 254 is main, 255 local.
    pub table: u32,
    /// Its kind.
    pub kind: RouteKind,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// Its metric.
    pub metric: u32,
    /// The link it leaves by.
    pub oif: Option<u32>,
    /// The next router.
    pub gateway: Option<IpAddr>,
    /// The host's address that it prefers for what the host itself sends.
    pub source: Option<IpAddr>,
    /// The largest packet, where the route says so.
    pub mtu: Option<u32>,
}

/// What a route does (`RTN_*`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RouteKind {
    /// To a link or a router.
    #[default]
    Unicast,
    /// To this host itself.
    Local,
    /// To all of a subnet, or to a group.
    Many,
    /// Nowhere: dropped (`blackhole`) or refused (`unreachable`, `prohibit`).
    Refused,
    /// Something else.
    Other,
}

/// Which way the kernel would send something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By this route.
    Route(Route),
    /// Not at all, in the kernel's words and by its error number.
    None(String, i32),
}

/// An entry of a neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The link.
    pub index: u32,
    /// Whose it is.
    pub address: IpAddr,
    /// Its hardware address, where known.
    pub mac: Option<String>,
    /// The kernel's `NUD_*` bits.
    pub state: u16,
}

impl Neighbour {
    /// Whether it was asked for in vain (`NUD_FAILED`).
    pub fn failed(&self) -> bool {
        self.state & 0x20 != 0
    }

    /// Whether somebody has set it for good (`NUD_PERMANENT`, `NUD_NOARP`).
    pub fn fixed(&self) -> bool {
        self.state & (0x80 | 0x40) != 0
    }

    /// Whether it has answered lately (`NUD_REACHABLE`), which may mean half a minute.
    pub fn answered(&self) -> bool {
        self.state & 0x02 != 0
    }

    /// Whether it has answered once (`NUD_REACHABLE`, `NUD_STALE`, `NUD_DELAY`): whether it still would is open.
    pub fn valid(&self) -> bool {
        self.state & (0x02 | 0x04 | 0x08) != 0
    }
}

/// What a packet is like for which a way is asked.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Where it goes.
    pub to: IpAddr,
    /// Where it comes from; none for the kernel's choice.
    pub from: Option<IpAddr>,
    /// The link it came in by; none if this namespace itself made it.
    pub iif: Option<u32>,
    /// Its mark.
    pub mark: u32,
}

/// The network namespace of the thread that makes this, to be looked at. It must be used on that thread only.
pub struct Look {
    runtime: Runtime,
    socket: Socket,
}

impl Look {
    /// Makes ready to look.
    ///
    /// # Errors
    /// When this process can't have a runtime.
    pub fn new() -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unreadable("the kernel", error))?;
        Ok(Self {
            runtime,
            socket: Socket::new(NETLINK_ROUTE),
        })
    }

    fn dump(&mut self, what: &'static str, message: RouteNetlinkMessage) -> Result<Vec<Reply>, Error> {
        let dump = self.socket.dump(NetlinkMessage::from(message));
        self.runtime.block_on(dump).map_err(|why| unreadable(what, why))
    }

    /// All links.
    ///
    /// # Errors
    /// When netlink can't be read; so for the other lists.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let replies = self.dump("the links", RouteNetlinkMessage::GetLink(message))?;
        Ok(replies
            .iter()
            .filter_map(|reply| read::link(&reply.payload))
            .collect())
    }

    /// All addresses.
    ///
    /// # Errors
    /// See [`Self::links`].
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let replies = self.dump("the addresses", message)?;
        Ok(replies
            .iter()
            .filter_map(|reply| read::address(&reply.payload))
            .collect())
    }

    /// All routes of all tables.
    ///
    /// # Errors
    /// See [`Self::links`].
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let replies = self.dump("the routes", RouteNetlinkMessage::GetRoute(message))?;
            routes.extend(replies.iter().filter_map(|reply| read::route(&reply.payload)));
        }
        Ok(routes)
    }

    /// All entries of the neighbour tables.
    ///
    /// # Errors
    /// See [`Self::links`].
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let replies = self.dump("the neighbours", message)?;
        Ok(replies
            .iter()
            .filter_map(|reply| read::neighbour(&reply.payload))
            .collect())
    }

    /// Has the kernel ask for a neighbour, as it would for a packet to it. The answer is found in the neighbour table.
    ///
    /// # Errors
    /// When netlink doesn't answer, or the link has no neighbours.
    pub fn ask_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), Error> {
        self.neighbour(link, address, |message| {
            message.header.flags = NeighbourFlags::Use;
        })
    }

    /// Has the kernel ask a neighbour that it knows whether it is still there, as it would some seconds after a packet.
    ///
    /// # Errors
    /// See [`Self::ask_neighbour`].
    pub fn probe_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), Error> {
        self.neighbour(link, address, |message| {
            message.header.state = NeighbourState::Probe;
        })
    }

    fn neighbour(
        &mut self,
        link: u32,
        address: IpAddr,
        how: impl Fn(&mut NeighbourMessage),
    ) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.ifindex = link;
        how(&mut message);
        message.attributes = vec![NeighbourAttribute::Destination(match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        })];
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
        message.header.flags = NLM_F_CREATE;
        let asked = self.runtime.block_on(self.socket.ask(message));
        asked.map(drop).map_err(|why| unreadable("the neighbours", why))
    }

    /// Which way a packet would take, as the kernel itself decides it: forwarding, policy rules and `rp_filter` included.
    ///
    /// # Errors
    /// When netlink doesn't answer. That there is no way is an answer.
    pub fn way(&mut self, query: Query) -> Result<Way, Error> {
        let mut message = RouteMessage::default();
        let bits = if query.to.is_ipv6() { 128 } else { 32 };
        message.header.address_family = match query.to {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.destination_prefix_length = bits;
        message.attributes = vec![RouteAttribute::Destination(route_address(query.to))];
        if let Some(from) = query.from {
            message.header.source_prefix_length = bits;
            message
                .attributes
                .push(RouteAttribute::Source(route_address(from)));
        }
        message.attributes.extend(query.iif.map(RouteAttribute::Iif));
        if query.mark != 0 {
            message.attributes.push(RouteAttribute::Mark(query.mark));
        }
        let ask = self
            .socket
            .ask(NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message)));
        match self.runtime.block_on(ask) {
            Ok(replies) => Ok(replies
                .first()
                .and_then(|reply| read::route(&reply.payload))
                .map_or_else(|| Way::None("the kernel gave no route".to_owned(), 0), Way::Route)),
            Err(Failure::Refused { errno, .. }) => {
                let why = std::io::Error::from_raw_os_error(errno).to_string();
                Ok(Way::None(why, errno))
            }
            Err(failure) => Err(unreadable("the route", failure)),
        }
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn unreadable(what: &'static str, why: impl std::fmt::Display) -> Error {
    Error::Unreadable {
        what,
        why: why.to_string(),
    }
}
