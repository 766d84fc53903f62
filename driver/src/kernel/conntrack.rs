//! Flows that connection tracking still leads where they no longer belong (ctnetlink).
//!
//! What became of a flow's first packet holds for all that follow. A UDP client that goes on sending never begins a new
//! flow, so without this it would talk to a container that is gone, or to nobody, for as long as it goes on.

use std::net::{IpAddr, UdpSocket};

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NetlinkMessage};
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tombolo_core::model::Proto;
use tombolo_core::world::Family;

use super::Flow;
use super::attributes::{self, written};
use super::socket::{Failure, Reply, Socket, unless};

/// Length of the header of a netfilter message (`struct nfgenmsg`), in bytes: attributes follow it.
const HEADER: usize = 4;

/// Sorts of messages (`IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`).
const GET: u8 = 1;
const DELETE: u8 = 2;

/// Attribute numbers (`CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_ID`, `CTA_FILTER`; of a tuple, `CTA_TUPLE_IP`,
/// `CTA_TUPLE_PROTO`; of these, `CTA_IP_V4_SRC` and so on, `CTA_PROTO_NUM` and so on).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const SOURCES: [u16; 2] = [1, 3];
const DESTINATIONS: [u16; 2] = [2, 4];
const PROTOCOL: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// `CTA_FILTER_{ORIG,REPLY}_FLAGS`, and which fields of a tuple a dump is filtered by (`CTA_FILTER_FLAG`,
/// net/netfilter/nf_conntrack_netlink.c). Kernels before 5.8 ignore it and list all.
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const BY_SOURCE: u32 = 1 << 0;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// From how many ports on all flows of UDP are listed at once rather than each port's alone.
const MANY: usize = 8;

/// The kernel's table of flows.
pub(super) struct Conntrack {
    socket: Socket,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    from: IpAddr,
    to: IpAddr,
    from_port: u16,
    to_port: u16,
}

impl Conntrack {
    pub(super) fn new() -> Self {
        Self {
            socket: Socket::new(NETLINK_NETFILTER),
        }
    }

    /// Deletes the flows that no longer lead where they should.
    pub(super) async fn forget(&mut self, flows: &[Flow]) -> Result<(), Failure> {
        let mut udp: [Vec<&Flow>; 2] = [Vec::new(), Vec::new()];
        for flow in flows {
            match flow {
                Flow::Into(address) => self.forget_into(*address).await?,
                Flow::Udp { host, .. } => udp[usize::from(host.is_ipv6())].push(flow),
            }
        }
        for (family, flows) in Family::ALL.into_iter().zip(udp) {
            let each = if flows.len() < MANY {
                flows.chunks(1)
            } else {
                flows.chunks(flows.len().max(1))
            };
            for flows in each {
                self.forget_udp(family, flows).await?;
            }
        }
        Ok(())
    }

    /// Deletes the flows whose other end, seen from us, is an address: those translated to it, and its own.
    async fn forget_into(&mut self, address: IpAddr) -> Result<(), Failure> {
        // By an address of IPv6 the kernel (6.18 still) gives all flows but those that were asked for: `ipv6_addr_cmp` is 0
        // for equal ones. So all are listed there.
        let ask = match address {
            IpAddr::V4(v4) => {
                let source = written(SOURCES[0], &v4.octets());
                vec![
                    nested(REPLY, &written(TUPLE_IP | NLA_F_NESTED, &source)),
                    nested(FILTER, &written(FILTER_REPLY, &BY_SOURCE.to_ne_bytes())),
                ]
            }
            IpAddr::V6(_) => Vec::new(),
        };
        let translated = |original: Side, reply: Side| reply.from == address && original.to != address;
        self.delete(Family::of(address), ask, translated).await
    }

    /// Deletes the flows to this host's addresses for some ports that lead elsewhere than those ports lead.
    async fn forget_udp(&mut self, family: Family, flows: &[&Flow]) -> Result<(), Failure> {
        let mut proto = written(PROTOCOL, &[Proto::Udp.number()]);
        let mut by = BY_PROTOCOL;
        if let [Flow::Udp { port, .. }] = flows {
            proto.extend(written(DESTINATION_PORT, &port.to_be_bytes()));
            by |= BY_DESTINATION_PORT;
        }
        let ask = vec![
            nested(ORIGINAL, &written(TUPLE_PROTO | NLA_F_NESTED, &proto)),
            nested(FILTER, &written(FILTER_ORIGINAL, &by.to_ne_bytes())),
        ];
        let astray = |original: Side, reply: Side| {
            flows.iter().any(|flow| match flow {
                Flow::Udp { host, port, to } => {
                    let meant = original.to_port == *port && (host.is_unspecified() || *host == original.to);
                    meant && (reply.from, reply.from_port) != *to && is_local(original.to)
                }
                Flow::Into(_) => false,
            })
        };
        self.delete(family, ask, astray).await
    }

    async fn delete(
        &mut self,
        family: Family,
        ask: Vec<DefaultNla>,
        unwanted: impl Fn(Side, Side) -> bool,
    ) -> Result<(), Failure> {
        let replies = self.socket.dump(message(family, GET, ask)).await?;
        for reply in &replies {
            let Some((original, id)) = condemned(reply, &unwanted) else {
                continue;
            };
            let flow = vec![nested(ORIGINAL, original), DefaultNla::new(ID, id.to_vec())];
            let gone = self.socket.ask(message(family, DELETE, flow)).await;
            unless(gone.map(drop), &[libc::ENOENT])?;
        }
        Ok(())
    }
}

/// The tuple and the number by which an unwanted flow is deleted; the number is that of this very flow, not of one that
/// came in its place.
fn condemned(reply: &Reply, unwanted: impl Fn(Side, Side) -> bool) -> Option<(&[u8], &[u8])> {
    let listed = reply.payload.get(HEADER..)?;
    let original = attributes::one(listed, ORIGINAL)?;
    let reply = attributes::one(listed, REPLY)?;
    let id = attributes::one(listed, ID)?;
    unwanted(side(original)?, side(reply)?).then_some((original, id))
}

/// Reads a tuple; none if its protocol has no ports.
fn side(tuple: &[u8]) -> Option<Side> {
    let ip = attributes::one(tuple, TUPLE_IP)?;
    let proto = attributes::one(tuple, TUPLE_PROTO)?;
    let address = |kinds: [u16; 2]| {
        let (_, value) = attributes::all(ip).find(|(kind, _)| kinds.contains(kind))?;
        attributes::ip(value)
    };
    let port = |wanted: u16| {
        let value = attributes::one(proto, wanted)?;
        value.try_into().ok().map(u16::from_be_bytes)
    };
    Some(Side {
        from: address(SOURCES)?,
        to: address(DESTINATIONS)?,
        from_port: port(SOURCE_PORT)?,
        to_port: port(DESTINATION_PORT)?,
    })
}

/// Whether an address is this host's: only then a socket can have it.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// An attribute that holds others. The crate's own ones lose the flag that says so, which the kernel insists on.
fn nested(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, value.to_vec())
}

fn message(
    family: Family,
    message_type: u8,
    attributes: Vec<DefaultNla>,
) -> NetlinkMessage<NetfilterMessage> {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    let inner = ConntrackMessage::Other {
        message_type,
        attributes,
    };
    NetlinkMessage::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner))
}
