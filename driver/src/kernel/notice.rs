//! Word from the kernel that links, addresses, neighbours, forwarding entries or routes of ours have changed, so that what
//! somebody has taken away or turned elsewhere is put back at once and not on the next slow tick.
//!
//! It says nothing of neighbours for which this host answers (proxies); those wait for the tick.
//!
//! The kernel doesn't say who has changed something. So what is noticed is compared with what is believed to hold: what we
//! have done ourselves is believed by the time that word of it comes.

use std::collections::{BTreeMap, HashMap};
use std::io;

use ipnet::IpNet;
use netlink_packet_core::{NetlinkBuffer, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourFlags;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use tombolo_core::model::{Group, IfName, Mac};
use tombolo_core::world::{Key, LINK_GROUP, ROUTE_METRIC, ROUTE_PROTO, Value};

use super::attributes;
use super::link::{IFINFO, name_and_group, name_and_group_of, reply_index};
use super::neighbours::{Entry, PERMANENT};
use super::socket::{QUEUE, Reply, Socket};
use super::watch::messages;

/// `RTNLGRP_{LINK,NEIGH,IPV4_IFADDR,IPV4_ROUTE,IPV6_IFADDR,IPV6_ROUTE}`, include/uapi/linux/rtnetlink.h.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// `RTM_*` numbers, include/uapi/linux/rtnetlink.h.
pub(super) const NEW_LINK: u16 = 16;
pub(super) const DEL_LINK: u16 = 17;
pub(super) const DEL_ADDRESS: u16 = 21;
const DEL_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;
const DEL_NEIGHBOUR: u16 = 29;

/// Lengths of `struct ifaddrmsg` and `rtmsg`, in bytes: attributes follow.
const IFADDR: usize = 8;
const RTMSG: usize = 12;

/// `IFF_UP`; `AF_BRIDGE`; `RT_TABLE_MAIN`.
const UP: u32 = 1;
const BRIDGE: u8 = 7;
const MAIN: u8 = 254;

/// What is noticed: facts, each with what it has become, or that it is gone. Who holds another belief of one should look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noticed {
    /// The facts.
    pub facts: BTreeMap<Key, Option<Value>>,
    /// Something was missed.
    pub missed: bool,
}

/// What a message tells of a fact.
enum Told {
    /// It has become this, or is gone.
    Became(Option<Value>),
    /// What was told of it before is over.
    Whole,
}

use Told::{Became, Whole};

/// A subscription to what changes of ours in this thread's network namespace.
pub struct Notice {
    socket: TokioSocket,
    /// Links of ours, by their indices.
    ours: HashMap<u32, IfName>,
}

impl Notice {
    /// Subscribes.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket or the subscription, or doesn't tell which links there are.
    pub async fn new() -> io::Result<Self> {
        let socket = subscribe(&GROUPS)?;
        // Asked for on another socket: what comes on this one in the meantime is read after that.
        let dump = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
        let links = Socket::new(NETLINK_ROUTE).dump(dump).await;
        let links = links.map_err(|failure| io::Error::other(failure.to_string()))?;
        let ours = |reply: &Reply| {
            let (name, group) = name_and_group(reply);
            let name = name?.parse().ok().filter(|_| group == Some(LINK_GROUP))?;
            Some((reply_index(reply)?, name))
        };
        Ok(Self {
            socket,
            ours: links.iter().filter_map(ours).collect(),
        })
    }

    /// Waits until something of ours has changed, and adds it.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn noticed(&mut self, noticed: &mut Noticed) -> io::Result<()> {
        while noticed.facts.is_empty() && !noticed.missed {
            let received = self.socket.recv_from_full().await;
            self.take(received, noticed)?;
        }
        Ok(())
    }

    /// Adds what has come meanwhile, without waiting.
    ///
    /// # Errors
    /// As for [`Self::noticed`].
    pub fn catch_up(&mut self, noticed: &mut Noticed) -> io::Result<()> {
        use futures_util::FutureExt;
        while let Some(received) = self.socket.recv_from_full().now_or_never() {
            self.take(received, noticed)?;
        }
        Ok(())
    }

    fn take(&mut self, received: io::Result<(Vec<u8>, SocketAddr)>, noticed: &mut Noticed) -> io::Result<()> {
        match received {
            Ok((datagram, _)) => self.read(&datagram, noticed),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => noticed.missed = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn read(&mut self, datagram: &[u8], noticed: &mut Noticed) {
        for message in messages(datagram) {
            match self.fact(&message) {
                Some((key, Became(value))) => drop(noticed.facts.insert(key, value)),
                Some((key, Whole)) => drop(noticed.facts.remove(&key)),
                None => {}
            }
        }
    }

    /// What a message says of facts of ours. One that is cut short says nothing.
    fn fact(&mut self, message: &NetlinkBuffer<&[u8]>) -> Option<(Key, Told)> {
        let payload = message.payload();
        let told = match message.message_type() {
            NEW_LINK | DEL_LINK => return self.link(message.message_type(), payload),
            NEW_NEIGHBOUR | DEL_NEIGHBOUR => self.neighbour(message.message_type() == NEW_NEIGHBOUR, payload),
            DEL_ADDRESS => self.address_gone(payload),
            DEL_ROUTE => route_gone(payload, &self.ours),
            _ => None,
        };
        told.map(|(key, value)| (key, Became(value)))
    }

    fn link(&mut self, kind: u16, payload: &[u8]) -> Option<(Key, Told)> {
        let head = payload.get(..IFINFO)?;
        let index = attributes::number(&head[4..])?;
        let (flags, changed) = (attributes::number(&head[8..])?, attributes::number(&head[12..])?);
        if head[0] == BRIDGE {
            // It is a port no more; what a port is like is not looked at here.
            let name = self.ours.get(&index)?;
            return (kind == DEL_LINK).then(|| (Key::Port(name.clone()), Became(None)));
        }
        if kind == DEL_LINK {
            let name = self.ours.remove(&index)?;
            return Some((Key::Link(name), Became(None)));
        }
        let (name, group) = name_and_group_of(payload.get(IFINFO..)?);
        match name
            .and_then(|name| name.parse::<IfName>().ok())
            .filter(|_| group == Some(LINK_GROUP))
        {
            Some(name) => {
                self.ours.insert(index, name.clone());
                // A link that is put on a bridge goes down for a moment.
                match changed != u32::MAX && changed & UP != 0 {
                    true if flags & UP == 0 => {
                        Some((Key::Link(name), Became(Some(Value::Unfit("a link that is down")))))
                    }
                    true => Some((Key::Link(name), Whole)),
                    false => None,
                }
            }
            // One that was ours and has been taken out of our group.
            None => self
                .ours
                .remove(&index)
                .map(|name| (Key::Link(name), Became(None))),
        }
    }

    fn neighbour(&self, there: bool, payload: &[u8]) -> Option<(Key, Option<Value>)> {
        let entry = Entry::read(payload)?;
        let name = self.ours.get(&entry.index)?.clone();
        if payload[0] != BRIDGE {
            let address = entry.destination?;
            if entry.flags.contains(NeighbourFlags::Proxy) {
                return Some((Key::Proxied(name, address), there.then_some(Value::Present)));
            }
            let lasts = there && entry.state & PERMANENT != 0;
            let mac = entry
                .mac
                .and_then(|mac| Mac::from_bytes(mac).ok())
                .filter(|_| lasts);
            return Some((Key::Neighbour(name, address), mac.map(Value::Mac)));
        }
        let hardware = entry.mac?;
        let of_link = entry.flags.contains(NeighbourFlags::Own);
        if let Some(group) = Group::from_bytes(hardware) {
            let vtep = entry.destination.filter(|_| of_link)?;
            return Some((Key::Flood(name, group, vtep), there.then_some(Value::Present)));
        }
        let key = Key::Forward(name, Mac::from_bytes(hardware).ok()?);
        match (there, of_link) {
            (true, true) => Some((key, Some(entry.way()))),
            // The other half tells where it leads.
            (true, false) => None,
            (false, _) => Some((key, None)),
        }
    }

    fn address_gone(&self, payload: &[u8]) -> Option<(Key, Option<Value>)> {
        let (index, net) = address_of(payload)?;
        let name = self.ours.get(&index)?.clone();
        Some((Key::Address(name, net), None))
    }
}

/// A socket to which the kernel tells what changes of some groups.
pub(super) fn subscribe(groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let inner = socket.socket_mut();
    inner.bind(&SocketAddr::new(0, 0))?;
    setsockopt(inner, sockopt::RcvBufForce, &QUEUE)?;
    for group in groups {
        inner.add_membership(*group)?;
    }
    Ok(socket)
}

/// The link's index and the address in a message about an address.
pub(super) fn address_of(payload: &[u8]) -> Option<(u32, IpNet)> {
    let head = payload.get(..IFADDR)?;
    let of = |wanted| attributes::one(&payload[IFADDR..], wanted).and_then(attributes::ip);
    // `IFA_LOCAL` where there is one: of a point-to-point address, `IFA_ADDRESS` is the other end.
    let net = IpNet::new(of(2).or_else(|| of(1))?, head[1]).ok()?;
    Some((attributes::number(&head[4..])?, net))
}

/// A route of ours that is gone; `links` are ours by their indices.
fn route_gone(payload: &[u8], links: &HashMap<u32, IfName>) -> Option<(Key, Option<Value>)> {
    let head = payload.get(..RTMSG)?;
    let (length, table, protocol) = (head[1], head[4], head[5]);
    let of = |wanted| attributes::one(&payload[RTMSG..], wanted);
    // `RTA_PRIORITY`, `RTA_DST`, `RTA_OIF`, `RTA_GATEWAY`.
    let ours =
        protocol == ROUTE_PROTO && table == MAIN && of(6).and_then(attributes::number) == Some(ROUTE_METRIC);
    let net = IpNet::new(of(1).and_then(attributes::ip)?, length).ok()?;
    // One to a single address without a next hop, by a link of ours, is a way.
    let by = of(4)
        .and_then(attributes::number)
        .filter(|_| net.prefix_len() == net.max_prefix_len() && of(5).is_none());
    let key = match by.and_then(|index| links.get(&index)) {
        Some(link) => Key::Way(link.clone(), net.addr()),
        None => Key::Route(net),
    };
    ours.then_some((key, None))
}
