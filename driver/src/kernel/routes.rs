//! Where the host's routes lead: read only, for the choice of pools that collide with nothing.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::Error;

const TIMEOUT: Duration = Duration::from_secs(1);

/// The destinations of all unicast and local routes in all tables: the host's networks, its own addresses, and what its
/// VPNs reach, which are often in tables of their own.
///
/// # Errors
/// [`Error::Unreadable`] when netlink fails or takes longer than a second.
pub async fn destinations() -> Result<Vec<IpNet>, Error> {
    let read = async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            // A default message but for the family: the builder would preset fields by which the kernel filters.
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let routes = handle.route().get(message).execute();
            let routes: Vec<RouteMessage> = routes.try_collect().await.map_err(|error| error.to_string())?;
            found.extend(routes.iter().filter_map(destination));
        }
        connection.abort();
        Ok(found)
    };
    let unreadable = |why| Error::Unreadable {
        what: "the routes",
        why,
    };
    tokio::time::timeout(TIMEOUT, read)
        .await
        .map_err(|late| unreadable(late.to_string()))?
        .map_err(unreadable)
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
