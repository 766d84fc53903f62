//! The routes by which answers for ::1 come in from bridges (see `Key::Loopback`).

use std::net::Ipv6Addr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;
use tombolo_core::model::IfName;
use tombolo_core::world::{ADDRESS_PROTO, LOOPBACK_METRIC};

use super::netlink::Links;
use super::socket::{Failure, unless};

impl Links {
    /// Adds the route on a link.
    pub(super) async fn add_loopback(&mut self, name: &IfName) -> Result<(), Failure> {
        let link = self.our_bridge(name).await?;
        let route = RouteNetlinkMessage::NewRoute(message(link.index));
        unless(
            self.tell(route, NLM_F_CREATE | NLM_F_APPEND).await,
            &[libc::EEXIST],
        )
    }

    /// Removes the route from a link.
    pub(super) async fn remove_loopback(&mut self, name: &IfName) -> Result<(), Failure> {
        let Some(link) = self.find_used(name).await? else {
            return Ok(());
        };
        let route = RouteNetlinkMessage::DelRoute(message(link.index));
        unless(self.tell(route, 0).await, &[libc::ESRCH, libc::ENODEV])
    }
}

fn message(index: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::LOCALHOST, 128)
        .output_interface(index)
        .priority(LOOPBACK_METRIC)
        .table_id(u32::from(libc::RT_TABLE_LOCAL))
        .protocol(RouteProtocol::Other(ADDRESS_PROTO))
        .scope(RouteScope::Universe)
        .kind(RouteType::Local)
        .build()
}

/// The index of the link that such a route of ours is on, if it is one.
pub(super) fn link_of(route: &RouteMessage) -> Option<u32> {
    let header = &route.header;
    let ours = header.protocol == RouteProtocol::Other(ADDRESS_PROTO) && header.kind == RouteType::Local;
    let destination = RouteAttribute::Destination(RouteAddress::Inet6(Ipv6Addr::LOCALHOST));
    let for_loopback = route.attributes.contains(&destination);
    let link = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    link.filter(|_| ours && for_loopback)
}
