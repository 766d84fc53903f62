//! Where other hosts reach this one.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::config::{Advertise, Place};

/// The addresses by which other hosts reach this one, the one that stands for it first; at least one, all of its family.
///
/// Of several places those count that have an address: a host that has lost one of its cards is still reached by the others.
///
/// # Errors
/// Why that can't be told, in words.
pub fn advertise(advertise: &Advertise) -> Result<Vec<IpAddr>, String> {
    if advertise.0.is_empty() {
        return by_default_route().map(|address| vec![address]);
    }
    // Of one that lost its IPv4 for a while the IPv6 is no place for hosts that speak IPv4.
    let (found, lacking) = of_places(&advertise.0, false)?;
    let (found, lacking) = match found.is_empty() {
        true => of_places(&advertise.0, true)?,
        false => (found, lacking),
    };
    if found.is_empty() {
        return Err(lacking.join("; "));
    }
    for why in lacking {
        tracing::debug!(%why, "this host is not reached by one of its places");
    }
    Ok(found)
}

/// The addresses of places in a family, and why some have none.
fn of_places(places: &[Place], v6: bool) -> Result<(Vec<IpAddr>, Vec<String>), String> {
    let (mut found, mut lacking): (Vec<IpAddr>, Vec<String>) = (Vec::new(), Vec::new());
    for place in places {
        let address = match place {
            Place::Address(address) if address.is_ipv6() == v6 => Some(*address),
            Place::Address(_) => None,
            Place::Interface(name) => of_interface(name.as_str(), v6)?,
        };
        match address {
            Some(address) if found.contains(&address) => {}
            Some(address) => found.push(address),
            None => lacking.push(match place {
                Place::Address(address) => format!("{address} is of the other family"),
                Place::Interface(name) => format!("interface {name} is not there, or has no address"),
            }),
        }
    }
    Ok((found, lacking))
}

/// The first address of an interface in a family.
fn of_interface(name: &str, v6: bool) -> Result<Option<IpAddr>, String> {
    let all = nix::ifaddrs::getifaddrs().map_err(|e| format!("the interfaces can't be read: {e}"))?;
    let of_link = all
        .filter(|one| one.interface_name == name)
        .filter_map(|one| one.address);
    let mut addresses = of_link
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .filter(|address| v6 == address.is_ipv6());
    Ok(addresses.next())
}

/// The source address of the default route. Connecting a socket of UDP sends nothing: it asks the kernel for the way, and the
/// source address on it.
fn by_default_route() -> Result<IpAddr, String> {
    let ways: [(SocketAddr, SocketAddr); 2] = [
        (([0, 0, 0, 0], 0).into(), ([192, 0, 2, 1], 9).into()),
        (
            ([0_u16; 8], 0).into(),
            ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into(),
        ),
    ];
    let source = |(any, far): (SocketAddr, SocketAddr)| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(far).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    ways.into_iter().find_map(source).ok_or_else(|| {
        "this host has no default route: name an address or an interface (TOMBOLO_ADVERTISE)".to_owned()
    })
}
