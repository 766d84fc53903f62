//! Flows that connection tracking still leads where they no longer belong (ctnetlink).
//!
//! What became of a flow's first packet holds for all that follow. A UDP client that goes on sending never begins a new
//! flow, so without this it would talk to a container that is gone, or to nobody, for as long as it goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NetlinkMessage};
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::runtime::Builder;
use tokio::sync::Notify;
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

/// How many listings that are filtered are made rather than one of all. Each goes through the whole table: 9 ms with nothing
/// in it where it has 262,144 places, as on a host with 24 GiB of memory.
const FEW: usize = 3;

/// How long it may wait for more of its sort to end the flows of what is gone. (The kernel doesn't let go of the processor
/// while it goes through the table, so that is better done seldom than after each of an engine's calls.)
const LULL: Duration = Duration::from_millis(500);

/// The bit of a flow's status that says that there was an answer (`IPS_SEEN_REPLY`).
const SEEN_REPLY: u32 = 1 << 1;

/// The kernel's table of flows. What is to be forgotten is forgotten by a thread of its own: the kernel goes through all of
/// the table for each listing, within one system call.
#[derive(Default)]
pub(super) struct Conntrack {
    desk: Arc<Desk>,
}

/// Where work is laid down for the thread.
#[derive(Default)]
struct Desk {
    work: Mutex<Work>,
    came: Condvar,
    ended: Notify,
}

#[derive(Default)]
struct Work {
    waiting: BTreeSet<Flow>,
    now: BTreeSet<Flow>,
    /// When what waits is done at the latest.
    due: Option<Instant>,
    /// Whether the thread runs.
    served: bool,
    /// Whether nobody will bring more.
    closed: bool,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy)]
struct Side {
    from: IpAddr,
    to: IpAddr,
    from_port: u16,
    to_port: u16,
}

/// A flow as it is tracked.
struct Tracked {
    protocol: u8,
    original: Side,
    reply: Side,
    answered: bool,
}

impl Conntrack {
    /// Begins to delete the flows that no longer lead where they should.
    pub(super) fn forget(&mut self, flows: BTreeSet<Flow>) -> io::Result<()> {
        let mut work = self.desk.work();
        let lull = match flows.iter().any(Flow::goes_on) {
            true => Duration::ZERO,
            false => LULL,
        };
        work.wait_for(lull);
        // A port leads where it was led last.
        let led: BTreeSet<(IpAddr, u16)> = flows.iter().filter_map(Flow::udp_port).collect();
        work.waiting
            .retain(|old| !old.udp_port().is_some_and(|port| led.contains(&port)));
        work.waiting.extend(flows);
        if !work.served {
            // It has the network namespace of the thread that calls this.
            let desk = Arc::clone(&self.desk);
            let thread = std::thread::Builder::new().name("conntrack".to_owned());
            let started = thread.spawn(move || desk.serve());
            work.served = started.is_ok();
            if let Err(error) = started {
                // Nobody may wait for what is never done.
                (work.waiting, work.due) = (BTreeSet::new(), None);
                return Err(error);
            }
        }
        self.desk.came.notify_one();
        Ok(())
    }

    /// Waits until none is being deleted that leads to one of some addresses, or to any.
    pub(super) async fn forgotten(&self, addresses: Option<&[IpAddr]>) {
        loop {
            let mut ended = pin!(self.desk.ended.notified());
            // From here on no end is missed.
            ended.as_mut().enable();
            if !self.desk.hurry(addresses) {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        self.desk.work().closed = true;
        self.desk.came.notify_one();
    }
}

impl Work {
    fn wait_for(&mut self, lull: Duration) {
        let due = Instant::now() + lull;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }
}

impl Flow {
    fn is_of(&self, addresses: Option<&[IpAddr]>) -> bool {
        addresses.is_none_or(|addresses| addresses.iter().any(|address| self.concerns(*address)))
    }

    /// The host's port of UDP whose flows these are.
    fn udp_port(&self) -> Option<(IpAddr, u16)> {
        match self {
            Self::Udp { host, port, .. } => Some((*host, *port)),
            _ => None,
        }
    }
}

impl Desk {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what concerns some addresses done at once; tells whether there is such.
    fn hurry(&self, addresses: Option<&[IpAddr]>) -> bool {
        let mut work = self.work();
        let waits = work.waiting.iter().any(|flow| flow.is_of(addresses));
        if waits {
            work.wait_for(Duration::ZERO);
            self.came.notify_one();
        }
        waits || work.now.iter().any(|flow| flow.is_of(addresses))
    }

    /// Does what is laid down until nobody will bring more. What comes meanwhile is done together.
    fn serve(&self) {
        let _leave = Leave(self);
        let runtime = Builder::new_current_thread().enable_all().build();
        let mut socket = Socket::new(NETLINK_NETFILTER);
        loop {
            let mut work = self.work();
            while !work.closed {
                let left = work.due.map(|due| due.saturating_duration_since(Instant::now()));
                work = match left {
                    _ if work.waiting.is_empty() => {
                        self.came.wait(work).unwrap_or_else(PoisonError::into_inner)
                    }
                    None | Some(Duration::ZERO) => break,
                    Some(left) => {
                        self.came
                            .wait_timeout(work, left)
                            .unwrap_or_else(PoisonError::into_inner)
                            .0
                    }
                };
            }
            if work.waiting.is_empty() {
                return;
            }
            work.due = None;
            let flows = std::mem::take(&mut work.waiting);
            work.now.clone_from(&flows);
            drop(work);
            let mut run = || match &runtime {
                Ok(runtime) => runtime.block_on(forget(&mut socket, &flows)),
                Err(e) => Err(Failure::Broken(format!("making a runtime: {e}"))),
            };
            // A listing that was disturbed is made once more.
            if let Err(error) = run().or_else(|_| run()) {
                tracing::warn!(%error, "conntrack: flows of before may go on to lead where they led");
            }
            self.work().now.clear();
            self.ended.notify_waiters();
        }
    }
}

/// Nobody may wait for a thread that is gone.
struct Leave<'a>(&'a Desk);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut work = self.0.work();
        *work = Work {
            closed: work.closed,
            ..Work::default()
        };
        self.0.ended.notify_waiters();
    }
}

/// Deletes flows: as many as can be, whatever goes wrong with one of them. Tells the first failure.
async fn forget(socket: &mut Socket, flows: &BTreeSet<Flow>) -> Result<(), Failure> {
    let mut first = Ok(());
    for family in Family::ALL {
        let unwanted = Unwanted::of(family, flows);
        let mut condemned = BTreeSet::new();
        for ask in unwanted.asks() {
            let take = |reply: Reply| {
                if let Some((tuple, id)) = read(&reply.payload, |flow| unwanted.has(flow)) {
                    condemned.insert((tuple.to_vec(), id.to_vec()));
                }
            };
            first = first.and(socket.list(message(family, GET, ask), take).await);
        }
        for (tuple, id) in condemned {
            // The number is that of this very flow, not of one that came in its place.
            let flow = vec![nested(ORIGINAL, &tuple), DefaultNla::new(ID, id)];
            let gone = socket.ask(message(family, DELETE, flow)).await;
            first = first.and(unless(gone.map(drop), &[libc::ENOENT]));
        }
    }
    first
}

/// Where a port of an address of this host leads, or led.
struct Led {
    proto: Proto,
    host: IpAddr,
    to: (IpAddr, u16),
}

impl Led {
    /// Whether a flow began with its port, so far as the port is not asked.
    fn began(&self, flow: &Tracked) -> bool {
        let at = self.host.is_unspecified() || self.host == flow.original.to;
        at && flow.protocol == self.proto.number()
    }
}

/// What is to be forgotten of one family; see [`Flow`].
struct Unwanted {
    family: Family,
    /// By the host's port.
    into: BTreeMap<u16, Vec<Led>>,
    at: BTreeSet<(IpAddr, u16)>,
    of: BTreeSet<IpAddr>,
    bare: Vec<IpNet>,
    /// By the host's port.
    udp: BTreeMap<u16, Vec<Led>>,
}

impl Unwanted {
    fn of(family: Family, flows: &BTreeSet<Flow>) -> Self {
        let mut all = Self {
            family,
            into: BTreeMap::new(),
            at: BTreeSet::new(),
            of: BTreeSet::new(),
            bare: Vec::new(),
            udp: BTreeMap::new(),
        };
        for flow in flows.iter().filter(|flow| flow.family() == family) {
            match *flow {
                Flow::Into {
                    proto,
                    host,
                    port,
                    to,
                } => {
                    all.into.entry(port).or_default().push(Led { proto, host, to });
                }
                Flow::At(address, port) => drop(all.at.insert((address, port))),
                Flow::Of(address) => drop(all.of.insert(address)),
                Flow::Bare(subnet) => all.bare.push(subnet),
                Flow::Udp { host, port, to } => {
                    let proto = Proto::Udp;
                    all.udp.entry(port).or_default().push(Led { proto, host, to });
                }
            }
        }
        all
    }

    /// What the listings are filtered by that hold all of it.
    fn asks(&self) -> Vec<Vec<DefaultNla>> {
        let at = self.at.iter().map(|(address, _)| *address);
        let into = self.into.values().flatten().map(|led| led.to.0);
        let ends: BTreeSet<IpAddr> = into.chain(at).collect();
        let mut asks: Vec<Vec<DefaultNla>> =
            ends.iter().map(|end| by(REPLY, Some(*end), None, None)).collect();
        for address in &self.of {
            asks.push(by(ORIGINAL, Some(*address), Some(Proto::Udp), None));
            if !ends.contains(address) {
                asks.push(by(REPLY, Some(*address), Some(Proto::Udp), None));
            }
        }
        asks.extend(
            self.udp
                .keys()
                .map(|port| by(ORIGINAL, None, Some(Proto::Udp), Some(*port))),
        );
        let one_by_one = asks.len() <= FEW && self.bare.is_empty();
        // By an address of IPv6 the kernel (6.18 still) gives all flows but those that were asked for: `ipv6_addr_cmp` is
        // 0 for equal ones.
        let by_address = self.family == Family::V6 && !(ends.is_empty() && self.of.is_empty());
        if one_by_one && !by_address {
            return asks;
        }
        let all_are_udp = ends.is_empty() && self.bare.is_empty();
        vec![by(ORIGINAL, None, all_are_udp.then_some(Proto::Udp), None)]
    }

    fn has(&self, flow: &Tracked) -> bool {
        let Tracked { original, reply, .. } = flow;
        let udp = flow.protocol == Proto::Udp.number();
        let into =
            || of_port(&self.into, original.to_port).any(|led| led.began(flow) && flow.end() == led.to);
        let astray = || {
            let mut ports = of_port(&self.udp, original.to_port);
            ports.any(|led| led.began(flow) && flow.end() != led.to) && is_local(original.to)
        };
        self.at.contains(&(original.to, original.to_port))
            || udp && (self.of.contains(&original.from) || self.of.contains(&reply.from))
            || self.bare.iter().any(|subnet| flow.is_bare(subnet))
            || into()
            || astray()
    }
}

fn of_port(ports: &BTreeMap<u16, Vec<Led>>, port: u16) -> impl Iterator<Item = &Led> {
    ports.get(&port).into_iter().flatten()
}

impl Tracked {
    /// Who answers, and from which port.
    fn end(&self) -> (IpAddr, u16) {
        (self.reply.from, self.reply.from_port)
    }

    /// Whether it left this host with an address of a subnet and was not answered.
    fn is_bare(&self, subnet: &IpNet) -> bool {
        let Side { from, to, .. } = self.original;
        let left = subnet.contains(&from) && !subnet.contains(&to);
        let as_it_was = self.reply.to == from && self.reply.from == to;
        left && as_it_was && !self.answered
    }
}

/// What a listing is filtered by: the sender of one direction, the protocol, and the port that direction is sent to. The
/// kernel filters by a port only together with its protocol.
fn by(direction: u16, from: Option<IpAddr>, proto: Option<Proto>, to_port: Option<u16>) -> Vec<DefaultNla> {
    let (mut tuple, mut flags) = (Vec::new(), 0);
    if let Some(IpAddr::V4(v4)) = from {
        let source = written(SOURCES[0], &v4.octets());
        tuple.extend(written(TUPLE_IP | NLA_F_NESTED, &source));
        flags |= BY_SOURCE;
    }
    if let Some(proto) = proto {
        let mut of = written(PROTOCOL, &[proto.number()]);
        flags |= BY_PROTOCOL;
        if let Some(port) = to_port {
            of.extend(written(DESTINATION_PORT, &port.to_be_bytes()));
            flags |= BY_DESTINATION_PORT;
        }
        tuple.extend(written(TUPLE_PROTO | NLA_F_NESTED, &of));
    }
    let filter = match direction {
        ORIGINAL => FILTER_ORIGINAL,
        _ => FILTER_REPLY,
    };
    match flags {
        0 => Vec::new(),
        flags => vec![
            nested(direction, &tuple),
            nested(FILTER, &written(filter, &flags.to_ne_bytes())),
        ],
    }
}

/// The tuple and the number by which a listed flow is deleted, if it is unwanted.
fn read(payload: &[u8], unwanted: impl Fn(&Tracked) -> bool) -> Option<(&[u8], &[u8])> {
    let listed = payload.get(HEADER..)?;
    let original = attributes::one(listed, ORIGINAL)?;
    let reply = attributes::one(listed, REPLY)?;
    let id = attributes::one(listed, ID)?;
    let status = attributes::one(listed, STATUS).and_then(|bytes| bytes.try_into().ok());
    let protocol =
        attributes::one(original, TUPLE_PROTO).and_then(|proto| attributes::one(proto, PROTOCOL))?;
    let flow = Tracked {
        protocol: *protocol.first()?,
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
