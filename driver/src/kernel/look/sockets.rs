//! Which sockets take what comes for an address and a port (`linux/inet_diag.h`).
//!
//! The lists under `/proc/net` don't say of a socket of all IPv6 addresses whether it takes IPv4 as well; this does.

use std::net::IpAddr;

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use tokio::runtime::Builder;

use super::super::Error;
use super::super::attributes::{self, ip};
use super::super::socket::Socket;
use super::unreadable;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// The attribute that says whether a socket of IPv6 is for IPv6 only (`INET_DIAG_SKV6ONLY`).
const V6ONLY: u16 = 11;
/// Length of `struct inet_diag_msg`, in bytes.
const DIAG: usize = 72;
/// `TCP_LISTEN`; of UDP, `TCP_CLOSE` is a socket that is connected to nobody.
const TCP_LISTEN: u8 = 10;
const TCP_CLOSE: u8 = 7;

/// A socket that waits for whoever comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// The address that it is bound to, perhaps all of a family.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// It is one of IPv6, and for that only.
    pub v6only: bool,
}

impl Listener {
    /// Whether it takes what comes for an address and a port.
    pub fn takes(&self, address: IpAddr, port: u16) -> bool {
        let fits = match self.address {
            IpAddr::V4(bound) => bound.is_unspecified() && address.is_ipv4() || address == bound,
            IpAddr::V6(bound) => {
                bound.is_unspecified() && (address.is_ipv6() || !self.v6only)
                    || bound.to_canonical() == address
            }
        };
        fits && self.port == port
    }
}

/// All that wait in this thread's network namespace, of TCP or UDP.
///
/// # Errors
/// When the kernel can't be asked.
pub fn listeners(tcp: bool) -> Result<Vec<Listener>, Error> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unreadable("the sockets", error))?;
    let mut socket = Socket::new(NETLINK_SOCK_DIAG);
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let ask = socket.dump(request(family, tcp));
        let replies = runtime
            .block_on(ask)
            .map_err(|why| unreadable("the sockets", why))?;
        found.extend(replies.iter().filter_map(|reply| listener(&reply.payload)));
    }
    Ok(found)
}

/// `struct inet_diag_req_v2`: family, protocol, what else is wanted, padding, states, then an empty id.
#[derive(Debug, Clone)]
struct Request([u8; 56]);

fn request(family: i32, tcp: bool) -> NetlinkMessage<Request> {
    let (protocol, state) = match tcp {
        true => (libc::IPPROTO_TCP, TCP_LISTEN),
        false => (libc::IPPROTO_UDP, TCP_CLOSE),
    };
    let mut bytes = [0; 56];
    // Numbers of families and protocols that fit into a byte.
    (bytes[0], bytes[1]) = (family as u8, protocol as u8);
    bytes[4..8].copy_from_slice(&(1u32 << state).to_ne_bytes());
    NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::InnerMessage(Request(bytes)),
    )
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..self.0.len()].copy_from_slice(&self.0);
    }
}

fn listener(payload: &[u8]) -> Option<Listener> {
    let message = payload.get(..DIAG)?;
    let v6 = i32::from(message[0]) == libc::AF_INET6;
    let address = &message[8..if v6 { 24 } else { 12 }];
    let only = attributes::one(&payload[DIAG..], V6ONLY).and_then(|value| value.first());
    Some(Listener {
        address: ip(address)?,
        port: u16::from_be_bytes([message[4], message[5]]),
        v6only: only.is_some_and(|only| *only != 0),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::attributes::written;
    use super::*;

    #[test]
    fn what_is_for_ipv6_only_takes_no_ipv4() {
        let mut message = vec![0; DIAG];
        message[0] = libc::AF_INET6 as u8;
        message[4..6].copy_from_slice(&80u16.to_be_bytes());
        let (four, six): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        for (only, takes) in [(0, true), (1, false)] {
            let bytes = [message.clone(), written(V6ONLY, &[only])].concat();
            let listener = listener(&bytes).unwrap();
            assert_eq!((listener.takes(four, 80), listener.takes(six, 80)), (takes, true));
            assert!(!listener.takes(six, 81));
        }
        assert!(listener(&[0; 8]).is_none());
    }

    #[test]
    fn what_listens_here_is_found() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = own.local_addr().unwrap();
        let found = listeners(true).unwrap();
        assert!(found.iter().any(|one| one.takes(address.ip(), address.port())));
        let other = "127.0.0.2".parse().unwrap();
        assert!(!found.iter().any(|one| one.takes(other, address.port())));
    }
}
