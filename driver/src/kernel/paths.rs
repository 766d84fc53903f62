//! Routes to what other hosts have (see [`Key::Route`]), and a look at all routes of ours.
//!
//! Ours bear our protocol number, and those in the main table a metric that nobody else has: the kernel replaces a route
//! by one of the same prefix and metric, so it replaces one of ours.
//!
//! A host may have a million routes of somebody else's (a full BGP table), so the kernel is asked for ours only: it then
//! goes through a table, but gives nothing of the others.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NetlinkDeserializable, NetlinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{RouteMessageBuilder, RouteNextHopBuilder};
use tombolo_core::model::IfName;
use tombolo_core::world::{Family, Hop, Key, ROUTE_METRIC, ROUTE_PROTO, Value, World};

use super::loopback;
use super::netlink::{Links, refused};
use super::socket::{Failure, Reply, unless};

/// Where in `struct rtmsg` table and protocol number stand.
const TABLE: usize = 4;
const PROTOCOL: usize = 5;

/// The tables that routes of ours are in: those to other hosts, and those for ::1.
const TABLES: [(Family, u8); 3] = [
    (Family::V4, RouteHeader::RT_TABLE_MAIN),
    (Family::V6, RouteHeader::RT_TABLE_MAIN),
    (Family::V6, libc::RT_TABLE_LOCAL),
];

impl Links {
    /// Adds the facts about routes of ours. `names` has all links by their indices, `ours` those of ours.
    pub(super) async fn routes(
        &mut self,
        names: &HashMap<u32, String>,
        ours: &HashMap<u32, IfName>,
        world: &mut World,
    ) -> Result<(), Failure> {
        for (family, table) in TABLES {
            for reply in self.routes_of(family, table).await? {
                let read = RouteNetlinkMessage::deserialize(&reply.header, &reply.payload);
                let Ok(RouteNetlinkMessage::NewRoute(route)) = read else {
                    continue;
                };
                if let Some(link) = loopback::link_of(&route).and_then(|index| ours.get(&index)) {
                    world.insert(Key::Loopback(link.clone()), Value::Present);
                } else if let Some(net) = prefix_of(&route, family) {
                    match way_by(&route, net).and_then(|index| ours.get(&index)) {
                        Some(link) => world.insert(Key::Way(link.clone(), net.addr()), Value::Present),
                        None => world.insert(Key::Route(net), value_of(&route, names)),
                    };
                }
            }
        }
        Ok(())
    }

    /// The routes of one table that bear our protocol number.
    async fn routes_of(&mut self, family: Family, table: u8) -> Result<Vec<Reply>, Failure> {
        // All else must be zero: the kernel would take it for a filter as well, or refuse it.
        let mut ask = RouteMessage::default();
        ask.header.address_family = of_family(family);
        ask.header.protocol = RouteProtocol::Other(ROUTE_PROTO);
        ask.attributes.push(RouteAttribute::Table(u32::from(table)));
        let dump = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(ask));
        let mut replies = match self.strict.dump(dump).await {
            // A table is made by its first route.
            Err(failure) if failure.errno() == Some(libc::ENOENT) => Vec::new(),
            replies => replies?,
        };
        // A kernel that doesn't filter gives all, with things in them that our reader doesn't know.
        replies.retain(|reply| {
            let at = |place: usize| reply.payload.get(place).copied();
            (at(PROTOCOL), at(TABLE)) == (Some(ROUTE_PROTO), Some(table))
        });
        Ok(replies)
    }

    /// Makes a route, in the place of one of ours for the same prefix.
    pub(super) async fn add_route(&mut self, net: IpNet, hops: &[Hop]) -> Result<(), Failure> {
        if net != net.trunc() {
            return Failure::ours(format!("{net} is not the beginning of its network"));
        }
        let mut next = Vec::new();
        for hop in hops {
            let Some(link) = self.find(&hop.link).await? else {
                return Err(refused(libc::ENODEV, format!("there is no link {}", hop.link)));
            };
            let family = of_family(Family::of(net.addr()));
            let through = RouteNextHopBuilder::new(family).interface(link.index).onlink();
            match through.via(hop.via) {
                Ok(through) if hop.via.is_ipv6() == net.addr().is_ipv6() => next.push(through.build()),
                _ => return Failure::ours(format!("{} can't lead to {net}", hop.via)),
            }
        }
        let mut route = about(net, RouteType::Unicast);
        match <[RouteNextHop; 1]>::try_from(next) {
            Ok([hop]) => {
                route.header.flags = RouteFlags::Onlink;
                route.attributes.push(RouteAttribute::Oif(hop.interface_index));
                route.attributes.extend(hop.attributes);
            }
            Err(hops) if hops.is_empty() => return Failure::ours("a route needs a next hop"),
            Err(hops) => route.attributes.push(RouteAttribute::MultiPath(hops)),
        }
        self.tell(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
            .await
    }

    /// Makes a route by a link of ours to an address on its wire.
    pub(super) async fn add_way(&mut self, link: &IfName, to: IpAddr) -> Result<(), Failure> {
        let link = self.ours(link).await?;
        let mut route = about(IpNet::from(to), RouteType::Unicast);
        route.header.scope = RouteScope::Link;
        route.attributes.push(RouteAttribute::Oif(link.index));
        self.tell(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
            .await
    }

    /// Removes a route of ours, whatever it has become.
    pub(super) async fn remove_route(&mut self, net: IpNet) -> Result<(), Failure> {
        let route = RouteNetlinkMessage::DelRoute(about(net, RouteType::Unspec));
        unless(self.tell(route, 0).await, &[libc::ESRCH])
    }
}

fn of_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// What all routes of ours to a prefix have in common.
fn about(net: IpNet, kind: RouteType) -> RouteMessage {
    let scope = match kind {
        // Whatever it has.
        RouteType::Unspec => RouteScope::NoWhere,
        _ => RouteScope::Universe,
    };
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .table_id(u32::from(RouteHeader::RT_TABLE_MAIN))
        .protocol(RouteProtocol::Other(ROUTE_PROTO))
        .priority(ROUTE_METRIC)
        .scope(scope)
        .kind(kind)
        .build();
    route.header.address_family = of_family(Family::of(net.addr()));
    route.header.destination_prefix_length = net.prefix_len();
    route
        .attributes
        .push(RouteAttribute::Destination(net.addr().into()));
    route
}

/// The prefix of a route of ours in the main table.
fn prefix_of(route: &RouteMessage, family: Family) -> Option<IpNet> {
    let main = route.header.table == RouteHeader::RT_TABLE_MAIN;
    if !main || !route.attributes.contains(&RouteAttribute::Priority(ROUTE_METRIC)) {
        return None;
    }
    let everywhere: IpAddr = match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    // A default route tells no destination.
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(ip(address)),
        _ => None,
    });
    IpNet::new(
        destination.unwrap_or(Some(everywhere))?,
        route.header.destination_prefix_length,
    )
    .ok()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// The link of a route that leads to one address without a next hop.
fn way_by(route: &RouteMessage, net: IpNet) -> Option<u32> {
    let through = |attribute: &RouteAttribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
        )
    };
    if net.prefix_len() != net.max_prefix_len() || route.attributes.iter().any(through) {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The next hops of a route, in the kernel's order, which is that in which they were given.
fn value_of(route: &RouteMessage, names: &HashMap<u32, String>) -> Value {
    if route.header.kind != RouteType::Unicast {
        return Value::Unfit("a route that leads nowhere");
    }
    let several = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let hops: Option<Vec<Hop>> = match several {
        Some(hops) => hops
            .iter()
            .map(|hop| {
                let fits = hop.flags.contains(RouteNextHopFlags::Onlink) && hop.hops == 0;
                let index = Some(hop.interface_index).filter(|_| fits)?;
                hop_of(&hop.attributes, index, names)
            })
            .collect(),
        None => {
            let index = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let index = index.filter(|_| route.header.flags.contains(RouteFlags::Onlink));
            index.and_then(|index| Some(vec![hop_of(&route.attributes, index, names)?]))
        }
    };
    hops.map_or(
        Value::Unfit("a route whose next hops are not as tombolo makes them"),
        Value::Hops,
    )
}

fn hop_of(attributes: &[RouteAttribute], index: u32, names: &HashMap<u32, String>) -> Option<Hop> {
    let via = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    })?;
    let link = names.get(&index)?.parse().ok()?;
    Some(Hop { via, link })
}
