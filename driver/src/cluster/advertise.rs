//! Where other hosts reach this one.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::config::Advertise;

/// Where other hosts reach this one.
///
/// # Errors
/// Why that can't be told, in words.
pub fn advertise(advertise: &Advertise) -> Result<IpAddr, String> {
    match advertise {
        Advertise::Address(address) => Ok(*address),
        Advertise::Interface(name) => {
            let all = nix::ifaddrs::getifaddrs().map_err(|e| format!("the interfaces can't be read: {e}"))?;
            let of_link = all
                .filter(|one| one.interface_name == name.as_str())
                .filter_map(|one| one.address);
            let addresses: Vec<IpAddr> = of_link
                .filter_map(|address| {
                    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
                })
                .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
                .collect();
            let v4 = addresses.iter().find(|address| address.is_ipv4());
            v4.or(addresses.first())
                .copied()
                .ok_or_else(|| format!("interface {name} is not there, or has no address"))
        }
        // Connecting a socket of UDP sends nothing: it asks the kernel for the way, and the source address on it.
        Advertise::Auto => {
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
                "this host has no default route: name an address or an interface (TOMBOLO_ADVERTISE)"
                    .to_owned()
            })
        }
    }
}
