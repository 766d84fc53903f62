//! Where the host's routes lead: read only, for the choice of pools that collide with nothing and of an MTU that fits.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
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
                        mtus.extend(mtu_of(&self::link(&handle, link).await?));
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

/// The subnet of the first address of a family that a link has, without link-local ones; none if it has no such address.
///
/// # Errors
/// [`Error::Unreadable`] when netlink fails or takes longer than a second.
pub async fn subnet_of(link: &IfName, v6: bool) -> Result<Option<IpNet>, Error> {
    ask("the addresses of a link", async |handle: rtnetlink::Handle| {
        let found = handle.link().get().match_name(link.to_string()).execute();
        let index = match found.try_collect::<Vec<_>>().await {
            Ok(links) => links.first().map(|link| link.header.index),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => None,
            Err(error) => return Err(error.to_string()),
        };
        let Some(index) = index else { return Ok(None) };
        let of_link = handle.address().get().set_link_index_filter(index).execute();
        let all: Vec<AddressMessage> = of_link.try_collect().await.map_err(|error| error.to_string())?;
        let subnet = |message: &AddressMessage| {
            let address = held(message).filter(|address| address.is_ipv6() == v6)?;
            let one_wire = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            let net = IpNet::new(address, message.header.prefix_len).ok()?.trunc();
            (!one_wire && net.prefix_len() < net.max_prefix_len()).then_some(net)
        };
        Ok(all.iter().find_map(subnet))
    })
    .await
}

/// The wire that an address of this host's is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// The link's name.
    pub link: IfName,
    /// Its largest packet, in bytes.
    pub mtu: u32,
    /// This host's address there that is good on this wire only, if it has one.
    pub link_local: Option<Ipv6Addr>,
}

/// The wire that an address of this host's is on; none if it has no such address.
///
/// # Errors
/// [`Error::Unreadable`] when netlink fails or takes longer than a second.
pub async fn wire_of(address: IpAddr) -> Result<Option<Wire>, Error> {
    ask("the link of an address", async |handle: rtnetlink::Handle| {
        let all: Vec<AddressMessage> = handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| error.to_string())?;
        let has = |message: &&AddressMessage| held(message) == Some(address);
        let Some(index) = all.iter().find(has).map(|message| message.header.index) else {
            return Ok(None);
        };
        let link_local = all.iter().filter(|message| message.header.index == index);
        let link_local = link_local.filter_map(held).find_map(|address| match address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
            _ => None,
        });
        let link = link(&handle, index).await?;
        let (name, mtu) = (name_of(&link), mtu_of(&link));
        Ok(name.zip(mtu).map(|(link, mtu)| Wire {
            link,
            mtu,
            link_local,
        }))
    })
    .await
}

/// This host's own address in a message.
fn held(message: &AddressMessage) -> Option<IpAddr> {
    let of = |local: bool| {
        message
            .attributes
            .iter()
            .find_map(move |attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
    };
    // Of a point-to-point address, `Address` is the other end.
    of(true).or_else(|| of(false))
}

/// The links by which some addresses are reached without any router in between; none for the others.
///
/// # Errors
/// [`Error::Unreadable`] when netlink fails or takes longer than a second.
pub async fn neighbours(addresses: &[IpAddr]) -> Result<Vec<Option<IfName>>, Error> {
    ask("the ways to other hosts", async |handle: rtnetlink::Handle| {
        let mut found = Vec::new();
        let mut names: BTreeMap<u32, Option<IfName>> = BTreeMap::new();
        for address in addresses {
            let Some(index) = neighbour(&handle, *address).await? else {
                found.push(None);
                continue;
            };
            if let Entry::Vacant(entry) = names.entry(index) {
                entry.insert(name_of(&link(&handle, index).await?));
            }
            found.push(names.get(&index).cloned().flatten());
        }
        Ok(found)
    })
    .await
}

/// The link by which an address is reached without a router, if it is.
async fn neighbour(handle: &rtnetlink::Handle, to: IpAddr) -> Result<Option<u32>, String> {
    let route = route_to(handle, to, RouteFlags::empty()).await?;
    let Some(route) = route.filter(|route| route.header.kind == RouteType::Unicast) else {
        return Ok(None);
    };
    let through =
        |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    let link = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(link) => Some(*link),
        _ => None,
    });
    Ok(link.filter(|_| !route.attributes.iter().any(through)))
}

/// A route as far as it matters here.
struct Way {
    links: Vec<u32>,
    mtu: Option<u32>,
}

/// The route that leads to an address, as it stands in the table (`ip route get fibmatch`).
async fn way_to(handle: &rtnetlink::Handle, to: IpAddr) -> Result<Option<Way>, String> {
    let route = route_to(handle, to, RouteFlags::FibMatch).await?;
    Ok(route.as_ref().and_then(way))
}

/// The route that leads to an address (`ip route get`).
async fn route_to(
    handle: &rtnetlink::Handle,
    to: IpAddr,
    flags: RouteFlags,
) -> Result<Option<RouteMessage>, String> {
    let mut message = match to {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4, 32)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, 128)
            .build(),
    };
    message.header.flags = flags;
    let found = handle
        .route()
        .get(message)
        .execute()
        .try_collect::<Vec<_>>()
        .await;
    match found {
        Ok(routes) => Ok(routes.into_iter().next()),
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

/// What is told of a link.
async fn link(handle: &rtnetlink::Handle, index: u32) -> Result<Vec<LinkAttribute>, String> {
    let link = handle.link().get().match_index(index).execute();
    let link: Vec<LinkMessage> = link.try_collect().await.map_err(|error| error.to_string())?;
    Ok(link.into_iter().flat_map(|link| link.attributes).collect())
}

fn name_of(link: &[LinkAttribute]) -> Option<IfName> {
    link.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })
}

fn mtu_of(link: &[LinkAttribute]) -> Option<u32> {
    link.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
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
