//! Flows that connection tracking still leads where they no longer belong (ctnetlink).
//!
//! What became of a flow's first packet holds for all that follow. A UDP client that goes on sending never begins a new
//! flow, so without this it would talk to a container that is gone, or to nobody, for as long as it goes on.

use std::net::{IpAddr, UdpSocket};

use ipnet::IpNet;
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

/// Attribute numbers (`CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_STATUS`, `CTA_ID`, `CTA_FILTER`; of a tuple, `CTA_TUPLE_IP`,
/// `CTA_TUPLE_PROTO`; of these, `CTA_IP_V4_SRC` and so on, `CTA_PROTO_NUM` and so on).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
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

/// The bit of a flow's status that says that there was an answer (`IPS_SEEN_REPLY`).
const SEEN_REPLY: u32 = 1 << 1;

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

/// A flow as it is tracked.
struct Tracked {
    original: Side,
    reply: Side,
    answered: bool,
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
                Flow::At(address, port) => self.forget_at(*address, *port).await?,
                Flow::Of(address) => self.forget_of(*address).await?,
                Flow::Bare(subnet) => self.forget_bare(*subnet).await?,
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

    /// Deletes the flows whose other end, seen from us, is an address: those translated to it.
    async fn forget_into(&mut self, address: IpAddr) -> Result<(), Failure> {
        let translated = |flow: &Tracked| flow.reply.from == address && flow.original.to != address;
        self.delete(Family::of(address), by_end(REPLY, address, None), translated)
            .await
    }

    /// Deletes the flows to a port of an address that are not translated.
    async fn forget_at(&mut self, address: IpAddr, port: u16) -> Result<(), Failure> {
        let open = |flow: &Tracked| flow.original.to == address && flow.original.to_port == port;
        self.delete(Family::of(address), by_end(REPLY, address, None), open)
            .await
    }

    /// Deletes the flows of UDP from and to an address.
    async fn forget_of(&mut self, address: IpAddr) -> Result<(), Failure> {
        let family = Family::of(address);
        let of = |flow: &Tracked| flow.original.from == address || flow.reply.from == address;
        for direction in [ORIGINAL, REPLY] {
            self.delete(family, by_end(direction, address, Some(Proto::Udp)), of)
                .await?;
            // All of the family were listed.
            if family == Family::V6 {
                break;
            }
        }
        Ok(())
    }

    /// Deletes the flows that left this host with an address of a subnet and were not answered.
    async fn forget_bare(&mut self, subnet: IpNet) -> Result<(), Failure> {
        let bare = |flow: &Tracked| {
            let Side { from, to, .. } = flow.original;
            let left = subnet.contains(&from) && !subnet.contains(&to);
            let as_it_was = flow.reply.to == from && flow.reply.from == to;
            left && as_it_was && !flow.answered
        };
        self.delete(Family::of(subnet.addr()), Vec::new(), bare).await
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
        let astray = |tracked: &Tracked| {
            let Tracked { original, reply, .. } = tracked;
            flows.iter().any(|flow| match flow {
                Flow::Udp { host, port, to } => {
                    let meant = original.to_port == *port && (host.is_unspecified() || *host == original.to);
                    meant && (reply.from, reply.from_port) != *to && is_local(original.to)
                }
                _ => false,
            })
        };
        self.delete(family, ask, astray).await
    }

    async fn delete(
        &mut self,
        family: Family,
        ask: Vec<DefaultNla>,
        unwanted: impl Fn(&Tracked) -> bool,
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

/// What a listing is filtered by: the sender of one direction, and the protocol. By an address of IPv6 the kernel (6.18
/// still) gives all flows but those that were asked for: `ipv6_addr_cmp` is 0 for equal ones. So there it is the protocol
/// alone, or nothing.
fn by_end(direction: u16, address: IpAddr, proto: Option<Proto>) -> Vec<DefaultNla> {
    let (mut tuple, mut by) = (Vec::new(), 0);
    if let IpAddr::V4(v4) = address {
        tuple.extend(written(
            TUPLE_IP | NLA_F_NESTED,
            &written(SOURCES[0], &v4.octets()),
        ));
        by |= BY_SOURCE;
    }
    if let Some(proto) = proto {
        tuple.extend(written(
            TUPLE_PROTO | NLA_F_NESTED,
            &written(PROTOCOL, &[proto.number()]),
        ));
        by |= BY_PROTOCOL;
    }
    let filter = match direction {
        ORIGINAL => FILTER_ORIGINAL,
        _ => FILTER_REPLY,
    };
    match by {
        0 => Vec::new(),
        by => vec![
            nested(direction, &tuple),
            nested(FILTER, &written(filter, &by.to_ne_bytes())),
        ],
    }
}

/// The tuple and the number by which an unwanted flow is deleted; the number is that of this very flow, not of one that
/// came in its place.
fn condemned(reply: &Reply, unwanted: impl Fn(&Tracked) -> bool) -> Option<(&[u8], &[u8])> {
    let listed = reply.payload.get(HEADER..)?;
    let original = attributes::one(listed, ORIGINAL)?;
    let reply = attributes::one(listed, REPLY)?;
    let id = attributes::one(listed, ID)?;
    let status = attributes::one(listed, STATUS).and_then(|bytes| bytes.try_into().ok());
    let flow = Tracked {
        original: side(original)?,
        reply: side(reply)?,
        answered: status.is_some_and(|bytes| u32::from_be_bytes(bytes) & SEEN_REPLY != 0),
    };
    unwanted(&flow).then_some((original, id))
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
