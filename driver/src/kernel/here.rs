//! Word from the kernel of this host's links and addresses: which are there now, and what changes.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{AsyncSocketExt, TokioSocket};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use tombolo_core::model::Mac;

use super::attributes;
use super::link::IFINFO;
use super::notice::{DEL_ADDRESS, DEL_LINK, NEW_LINK, address_of, subscribe};
use super::watch::messages;

/// `RTNLGRP_{LINK,IPV4_IFADDR,IPV6_IFADDR}`, include/uapi/linux/rtnetlink.h.
const GROUPS: [u32; 3] = [1, 5, 9];

/// `RTM_NEWADDR`.
const NEW_ADDRESS: u16 = 20;

/// `IFLA_ADDRESS`, `IFLA_IFNAME`.
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;

/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// How a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It carries frames.
    Up,
    /// It is switched off.
    Down,
    /// It is on, but nothing is at its other end, or that is off.
    NoCarrier,
    /// It is not one of Ethernet.
    Strange,
}

/// A link of this host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Here {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, where it has one of Ethernet.
    pub mac: Option<Mac>,
    /// How it stands.
    pub stand: Stand,
}

/// What the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// A link is there, like this.
    Link(Here),
    /// The link of this index is gone.
    NoLink(u32),
    /// An address is on the link of this index.
    Address(IpAddr, u32),
    /// It is there no more.
    NoAddress(IpAddr, u32),
    /// Something was missed: only [`all`] tells.
    Missed,
}

/// All links and addresses of this thread's network namespace: the links first.
///
/// # Errors
/// When the kernel doesn't tell.
pub(crate) fn all() -> io::Result<Vec<Told>> {
    let all: Vec<InterfaceAddress> = getifaddrs()?.collect();
    let links: Vec<Here> = all.iter().filter_map(link).collect();
    let by_name: HashMap<&str, u32> = links.iter().map(|l| (l.name.as_str(), l.index)).collect();
    let addresses = all.iter().filter_map(|entry| {
        // An address may have a label instead: the link's name, a colon, and more.
        let name = entry.interface_name.split(':').next()?;
        let address = entry.address.as_ref()?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        let address = v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))?;
        Some(Told::Address(address, *by_name.get(name)?))
    });
    let addresses: Vec<Told> = addresses.collect();
    Ok(links.into_iter().map(Told::Link).chain(addresses).collect())
}

fn link(entry: &InterfaceAddress) -> Option<Here> {
    let address = entry.address.as_ref()?.as_link_addr()?;
    let up = entry.flags.contains(InterfaceFlags::IFF_UP);
    let running = entry.flags.contains(InterfaceFlags::IFF_RUNNING);
    let ethernet = address.hatype() == ETHERNET;
    Some(Here {
        index: u32::try_from(address.ifindex()).ok()?,
        name: entry.interface_name.clone(),
        mac: address
            .addr()
            .filter(|_| ethernet)
            .and_then(|mac| Mac::from_bytes(mac).ok()),
        stand: stand(ethernet, up, running),
    })
}

fn stand(ethernet: bool, up: bool, running: bool) -> Stand {
    match (ethernet, up, running) {
        (false, _, _) => Stand::Strange,
        (_, false, _) => Stand::Down,
        (_, _, false) => Stand::NoCarrier,
        _ => Stand::Up,
    }
}

/// A subscription to changes in this thread's network namespace.
pub(crate) struct Changes {
    socket: TokioSocket,
}

impl Changes {
    /// Subscribes. Who asks for [`all`] after this misses nothing.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket or the subscription.
    pub fn new() -> io::Result<Self> {
        let socket = subscribe(&GROUPS)?;
        Ok(Self { socket })
    }

    /// Waits for the next changes.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn next(&mut self) -> io::Result<Vec<Told>> {
        match self.socket.recv_from_full().await {
            Ok((datagram, _)) => Ok(messages(&datagram).filter_map(|m| told(&m)).collect()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(vec![Told::Missed]),
            Err(error) => Err(error),
        }
    }
}

/// What a message says. One that is cut short says nothing.
fn told(message: &NetlinkBuffer<&[u8]>) -> Option<Told> {
    let payload = message.payload();
    match message.message_type() {
        kind @ (NEW_LINK | DEL_LINK) => link_told(kind, payload),
        NEW_ADDRESS => address_of(payload).map(|(index, net)| Told::Address(net.addr(), index)),
        DEL_ADDRESS => address_of(payload).map(|(index, net)| Told::NoAddress(net.addr(), index)),
        _ => None,
    }
}

fn link_told(kind: u16, payload: &[u8]) -> Option<Told> {
    let head = payload.get(..IFINFO)?;
    // Others are about a link as a part of something: a bridge's port.
    if head[0] != 0 {
        return None;
    }
    let (index, flags) = (attributes::number(&head[4..])?, attributes::number(&head[8..])?);
    if kind == DEL_LINK {
        return Some(Told::NoLink(index));
    }
    let ethernet = u16::from_ne_bytes([head[2], head[3]]) == ETHERNET;
    let written = &payload[IFINFO..];
    let set = |flag: InterfaceFlags| flags & flag.bits().cast_unsigned() != 0;
    let mac = attributes::one(written, LINK_ADDRESS).filter(|_| ethernet);
    Some(Told::Link(Here {
        index,
        name: attributes::text(attributes::one(written, LINK_NAME)?),
        mac: mac.and_then(|mac| Mac::from_bytes(mac.try_into().ok()?).ok()),
        stand: stand(
            ethernet,
            set(InterfaceFlags::IFF_UP),
            set(InterfaceFlags::IFF_RUNNING),
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::attributes::written;
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((16 + payload.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    }

    fn read(datagram: &[u8]) -> Vec<Told> {
        messages(datagram).filter_map(|message| told(&message)).collect()
    }

    fn of_link(family: u8, flags: u32) -> Vec<u8> {
        let mut payload = vec![family, 0];
        payload.extend(ETHERNET.to_ne_bytes());
        payload.extend(7u32.to_ne_bytes());
        payload.extend(flags.to_ne_bytes());
        payload.extend([0; 4]);
        payload.extend(written(LINK_NAME, b"eth0\0"));
        payload.extend(written(LINK_ADDRESS, &[2, 0, 0, 0, 0, 1]));
        payload
    }

    #[test]
    fn a_link_is_told_with_how_it_stands() {
        for (flags, stand) in [(0x41, Stand::Up), (0x1, Stand::NoCarrier), (0x40, Stand::Down)] {
            let here = Here {
                index: 7,
                name: "eth0".to_owned(),
                mac: Some("02:00:00:00:00:01".parse().unwrap()),
                stand,
            };
            assert_eq!(read(&message(NEW_LINK, &of_link(0, flags))), [Told::Link(here)]);
        }
        assert_eq!(read(&message(DEL_LINK, &of_link(0, 0))), [Told::NoLink(7)]);
        // As a bridge's port.
        assert_eq!(read(&message(DEL_LINK, &of_link(7, 0))), []);
    }

    #[test]
    fn an_address_is_this_hosts_own_end() {
        let head = [2, 32, 0, 0, 9, 0, 0, 0].to_vec();
        let payload = [head, written(1, &[192, 0, 2, 1]), written(2, &[192, 0, 2, 2])].concat();
        let address = "192.0.2.2".parse().unwrap();
        assert_eq!(read(&message(NEW_ADDRESS, &payload)), [Told::Address(address, 9)]);
        assert_eq!(
            read(&message(DEL_ADDRESS, &payload)),
            [Told::NoAddress(address, 9)]
        );
    }

    #[test]
    fn what_is_cut_short_does_no_harm() {
        let whole = message(NEW_LINK, &of_link(0, 0x41));
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), [], "{length}");
            let inner = message(NEW_LINK, whole.get(16..length).unwrap_or_default());
            assert!(read(&inner).len() <= 1);
        }
    }
}
