//! Where the host's routes lead: read only, for the choice of pools that collide with nothing and of an MTU that fits.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType,
};
use tombolo_core::kinds::Theirs;
use tombolo_core::model::IfName;
use tombolo_core::world::Setting;

use super::Error;

const TIMEOUT: Duration = Duration::from_secs(1);

/// The MTU of the way to the outside, in bytes: that of the link of each family's best default route, or the route's own
/// where it has one; the least of both. None where the host has no way to the outside.
///
/// # Errors
/// [`Error::Unreadable`] when netlink fails or takes longer than a second.
pub async fn path_mtu() -> Result<Option<u32>, Error> {
    ask("the default routes", async |handle: rtnetlink::Handle| {
        let mut least = None;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = all(&handle, family).await?;
            let best = routes
                .iter()
                .filter_map(default_route)
                .min_by_key(|route| route.metric);
            let Some(best) = best else { continue };
            let mtu = match best.mtu {
                Some(mtu) => Some(mtu),
                None => link_mtu(&handle, best.link).await?,
            };
            least = least.into_iter().chain(mtu).min();
        }
        Ok(least)
    })
    .await
}

/// The link of that name, if there is one.
///
/// # Errors
/// [`Error::Unreadable`] when netlink fails or takes longer than a second.
pub async fn link_of(name: &IfName) -> Result<Option<Theirs>, Error> {
    let localnet = std::fs::read_to_string(Setting::RouteLocalnet(name.clone()).path());
    let localnet = localnet.is_ok_and(|text| text.trim() != "0");
    ask("a link", async |handle: rtnetlink::Handle| {
        let found = handle.link().get().match_name(name.to_string()).execute();
        let links = match found.try_collect::<Vec<_>>().await {
            Ok(links) => links,
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Vec::new(),
            Err(error) => return Err(error.to_string()),
        };
        let group = |link: &LinkMessage| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Group(group) => Some(*group),
                _ => None,
            })
        };
        Ok(links.first().map(|link| Theirs {
            group: group(link).unwrap_or_default(),
            localnet,
        }))
    })
    .await
}

/// A default route as far as it matters here.
struct DefaultRoute {
    metric: u32,
    link: u32,
    mtu: Option<u32>,
}

fn default_route(route: &RouteMessage) -> Option<DefaultRoute> {
    let header = &route.header;
    let main = header.table == RouteHeader::RT_TABLE_MAIN && header.kind == RouteType::Unicast;
    if !main || header.destination_prefix_length != 0 {
        return None;
    }
    let mut found = DefaultRoute {
        metric: 0,
        link: 0,
        mtu: None,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(link) => found.link = *link,
            RouteAttribute::Priority(metric) => found.metric = *metric,
            RouteAttribute::MultiPath(hops) => {
                found.link = hops.first().map_or(found.link, |hop| hop.interface_index);
            }
            RouteAttribute::Metrics(metrics) => {
                found.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (found.link != 0).then_some(found)
}

async fn link_mtu(handle: &rtnetlink::Handle, index: u32) -> Result<Option<u32>, String> {
    let link = handle.link().get().match_index(index).execute();
    let link: Vec<_> = link.try_collect().await.map_err(|error| error.to_string())?;
    let mtu = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    };
    Ok(link.iter().flat_map(|l| &l.attributes).find_map(mtu))
}

async fn all(handle: &rtnetlink::Handle, family: AddressFamily) -> Result<Vec<RouteMessage>, String> {
    // A default message but for the family: the builder would preset fields by which the kernel filters.
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    let routes = handle.route().get(message).execute();
    routes.try_collect().await.map_err(|error| error.to_string())
}

/// Asks something on a connection of its own, for a second at most.
async fn ask<T>(
    what: &'static str,
    question: impl AsyncFnOnce(rtnetlink::Handle) -> Result<T, String>,
) -> Result<T, Error> {
    let asked = async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let answer = question(handle).await;
        connection.abort();
        answer
    };
    let unreadable = |why| Error::Unreadable { what, why };
    tokio::time::timeout(TIMEOUT, asked)
        .await
        .map_err(|late| unreadable(late.to_string()))?
        .map_err(unreadable)
}

/// The destinations of all unicast and local routes in all tables: the host's networks, its own addresses, and what its
/// VPNs reach, which are often in tables of their own.
///
/// # Errors
/// [`Error::Unreadable`] when netlink fails or takes longer than a second.
pub async fn destinations() -> Result<Vec<IpNet>, Error> {
    ask("the routes", async |handle: rtnetlink::Handle| {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = all(&handle, family).await?;
            found.extend(routes.iter().filter_map(destination));
        }
        Ok(found)
    })
    .await
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}
