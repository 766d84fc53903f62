//! Packet sockets (packet(7)) on one link, without code that isn't safe.

use std::io;
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tombolo_core::model::IfName;

/// A socket that sends frames by a link, and gets those of a type that a filter lets through (`ETH_P_…`); none if the type is 0.
///
/// It may have got some of other links, or past the filter, before it was bound: who reads looks at where a frame is from.
pub(crate) fn on_link(name: &IfName, kind: u16, filter: &[SockFilter]) -> io::Result<Socket> {
    let link = link_address(name)?;
    let protocol = Protocol::from(i32::from(kind.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))?;
    if !filter.is_empty() {
        socket.attach_filter(filter)?;
    }
    // The address bears no type, so that the socket's own stays.
    bind(socket.as_raw_fd(), &link)?;
    Ok(socket)
}

/// A socket that sends frames by whatever link is named with each, and gets none.
pub(super) fn on_no_link() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)
}

/// A link as sockets of its family name it.
pub(super) fn link_address(name: &IfName) -> io::Result<LinkAddr> {
    let addresses = getifaddrs()?.filter(|address| address.interface_name == name.as_str());
    let mut links = addresses.filter_map(|address| address.address?.as_link_addr().copied());
    links
        .next()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}
