//! Where the host's routes lead: read only, for the choice of pools that collide with nothing and of an MTU that fits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType,
};
use rtnetlink::RouteMessageBuilder;
use tombolo_core::kinds::Theirs;
use tombolo_core::model::IfName;
use tombolo_core::world::Setting;

use super::Error;

const TIMEOUT: Duration = Duration::from_secs(1);

/// The first addresses that are somewhere outside, whatever networks this host has.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(1, 0, 0, 0)),
    IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0)),
];

/// The MTU of the way to the outside, in bytes: of each family, that of the link of the route that leads there, or the
/// route's own where it has one; the least of both, and of several hops. None where the host has no way to the outside.
///
/// The kernel is asked for one route each: with IPv6, every link has some of its own.
///
/// # Errors
/// [`Error::Unreadable`] when netlink fails or takes longer than a second.
pub async fn path_mtu() -> Result<Option<u32>, Error> {
    ask("the way to the outside", async |handle: rtnetlink::Handle| {
        let mut mtus = Vec::new();
        for to in OUTSIDE {
            match way_to(&handle, to).await? {
                Some(Way { mtu: Some(mtu), .. }) => mtus.push(mtu),
                Some(way) => {
                    for link in way.links {
                        mtus.extend(link_mtu(&handle, link).await?);
                    }
                }
                None => {}
            }
        }
        Ok(mtus.into_iter().min())
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

/// A route as far as it matters here.
struct Way {
    links: Vec<u32>,
    mtu: Option<u32>,
}

/// The route that leads to an address, as it stands in the table (`ip route get fibmatch`).
async fn way_to(handle: &rtnetlink::Handle, to: IpAddr) -> Result<Option<Way>, String> {
    let mut message = match to {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4, 32)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, 128)
            .build(),
    };
    message.header.flags = RouteFlags::FibMatch;
    let found = handle
        .route()
        .get(message)
        .execute()
        .try_collect::<Vec<_>>()
        .await;
    match found {
        Ok(routes) => Ok(routes.first().and_then(way)),
        // No route, or one that says so.
        Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn way(route: &RouteMessage) -> Option<Way> {
    let mut found = Way {
        links: Vec::new(),
        mtu: None,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(link) => found.links.push(*link),
            RouteAttribute::MultiPath(hops) => found.links.extend(hops.iter().map(|hop| hop.interface_index)),
            RouteAttribute::Metrics(metrics) => {
                found.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (route.header.kind == RouteType::Unicast).then_some(found)
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
