//! The sockets on one link: probes go out, words come in.
//!
//! There is one socket for ARP and one for IPv6, and none for everything: such a one would have a copy made of each packet that
//! containers send by this link. Of IPv6, a filter in the kernel lets through what tells of neighbours. Frames for our
//! own macvlan links are not seen here; they aren't strangers'. (A link in passthru mode gets the frames for the parent too: then
//! answers of ARP are not seen. There is one container on such a parent, and it isn't there when its address is chosen.)

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, send, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tombolo_core::model::{IfName, Mac};
use tombolo_core::world::Family;

use crate::kernel::frame::{self, ADVERTISEMENT, ICMPV6, SOLICITATION, Word};
use crate::kernel::packet::on_link;

/// `ETH_P_ARP`, `ETH_P_IPV6`.
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// How many frames are read from a socket at most before something else has its turn.
const AT_ONCE: usize = 64;

/// Size of the sockets' buffers, in bytes, and how many frames fit in at least: a short one takes up to 4.5 KiB of it. Of more that
/// lay there at once, some may have been lost. (The kernel's own count, `SO_RXQ_OVFL`, comes with the next frame only.)
const ROOM: usize = 8 << 20;
const FIT: u32 = 1500;

/// As much of a frame is read, in bytes. What we look for is shorter.
const LONGEST: usize = 512;

/// `PACKET_OTHERHOST`, include/uapi/linux/if_packet.h: a frame that is for another host. A frame of a VLAN that this host has no
/// link for is one as well, whoever it is for; words of another VLAN tell nothing of this one. What is for this host, for all or
/// for a group has a smaller number.
const OTHERS: u8 = 3;

/// Where in a frame the protocol and the type of an ICMP message stand, without extension headers, which neither has.
const PROTOCOL: u32 = 14 + 6;
const MESSAGE: u32 = 14 + 40;

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub words: Vec<Word>,
    /// Families of which frames may have been lost, because more came than were read.
    pub missed: Vec<Family>,
}

/// A socket.
#[derive(Debug)]
struct Ear {
    /// A packet socket: of what tokio has, this is nearest to it that needs no unsafe code.
    socket: UdpSocket,
    family: Family,
    /// How many frames were read since there were none left.
    unread: AtomicU32,
}

/// The sockets on a link.
#[derive(Debug)]
pub(super) struct Wire {
    index: u32,
    mac: Mac,
    arp: Ear,
    ipv6: Ear,
    /// Is a member of groups on the link, so that its hardware and switches let frames for these through.
    member: Option<Socket>,
    groups: BTreeSet<Ipv6Addr>,
}

impl Wire {
    /// Opens them.
    ///
    /// # Errors
    /// When there is no such link, or the system gives no socket.
    pub fn open(name: &IfName, index: u32, mac: Mac) -> io::Result<Self> {
        Ok(Self {
            index,
            mac,
            arp: Ear::open(name, ARP, Family::V4, &filter(&[]))?,
            ipv6: Ear::open(name, IPV6, Family::V6, &filter(&[SOLICITATION, ADVERTISEMENT]))?,
            member: None,
            groups: BTreeSet::new(),
        })
    }

    /// Asks whether somebody has an address.
    ///
    /// # Errors
    /// When the frame can't be sent.
    pub fn probe(&self, address: IpAddr) -> io::Result<()> {
        let ear = match address {
            IpAddr::V4(_) => &self.arp,
            IpAddr::V6(_) => &self.ipv6,
        };
        let frame = frame::probe(address, self.mac);
        send(ear.socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// Hears who asks for some addresses, and none else, as far as the link can: RFC 4862, section 5.4.2, has whoever probes
    /// do so.
    pub fn listen_for(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        let group = |address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(frame::solicited_node(v6)),
        };
        let groups: BTreeSet<Ipv6Addr> = addresses.filter_map(group).collect();
        if groups == self.groups {
            return;
        }
        if let Err(error) = self.join(&groups) {
            // As where IPv6 is switched off. Answers go to all nodes, and are heard nevertheless.
            tracing::debug!(%error, index = self.index, "not all who ask for addresses of IPv6 are heard");
        }
    }

    fn join(&mut self, groups: &BTreeSet<Ipv6Addr>) -> io::Result<()> {
        let member = match self.member.take() {
            Some(member) => member,
            None => Socket::new(Domain::IPV6, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?,
        };
        let before = std::mem::replace(&mut self.groups, groups.clone());
        let leave = before.difference(groups);
        let left = leave.map(|group| member.leave_multicast_v6(group, self.index));
        let join = groups.difference(&before);
        let joined = join.map(|group| member.join_multicast_v6(group, self.index));
        // One that is refused doesn't stop the others.
        let outcomes: Vec<io::Result<()>> = left.chain(joined).collect();
        self.member = Some(member);
        outcomes.into_iter().collect()
    }

    /// Waits for frames, and adds what they say. Whether there may be more.
    ///
    /// # Errors
    /// When a socket fails for another reason than that its link is down.
    pub async fn hear(&self, heard: &mut Heard) -> io::Result<bool> {
        tokio::select! {
            ready = self.arp.socket.readable() => ready?,
            ready = self.ipv6.socket.readable() => ready?,
        }
        self.read(heard, |ear, buffer| {
            ear.socket.try_io(Interest::READABLE, || ear.receive(buffer))
        })
    }

    /// Adds what has come, whether the runtime knows of it already or not. Whether there may be more.
    ///
    /// # Errors
    /// As for [`Self::hear`].
    pub fn catch_up(&self, heard: &mut Heard) -> io::Result<bool> {
        self.read(heard, Ear::receive)
    }

    fn read(&self, heard: &mut Heard, receive: impl Fn(&Ear, &mut [u8]) -> Received) -> io::Result<bool> {
        let arp = self.arp.read(self.index, heard, &receive)?;
        let ipv6 = self.ipv6.read(self.index, heard, &receive)?;
        Ok(arp || ipv6)
    }
}

/// A frame's length, and where it is from.
type Received = io::Result<(usize, Option<LinkAddr>)>;

impl Ear {
    fn open(name: &IfName, kind: u16, family: Family, filter: &[SockFilter]) -> io::Result<Self> {
        let socket = on_link(name, kind, filter)?;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            family,
            unread: AtomicU32::new(0),
        })
    }

    /// Reads what has come in by the link of an index. Whether there may be more.
    fn read(
        &self,
        index: u32,
        heard: &mut Heard,
        receive: impl Fn(&Self, &mut [u8]) -> Received,
    ) -> io::Result<bool> {
        let mut buffer = [0; LONGEST];
        for _ in 0..AT_ONCE {
            let (length, from) = match receive(self, &mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unread.store(0, Ordering::Relaxed);
                    return Ok(false);
                }
                // That the link is down is told by other means.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => return Ok(false),
                Err(error) => return Err(error),
            };
            if self.unread.fetch_add(1, Ordering::Relaxed) == FIT {
                self.unread.store(0, Ordering::Relaxed);
                heard.missed.push(self.family);
            }
            // What came before the socket was bound may be of any link.
            let here = from
                .is_some_and(|from| u32::try_from(from.ifindex()) == Ok(index) && from.pkttype() < OTHERS);
            if here {
                heard.words.extend(frame::read(&buffer[..length]));
            }
        }
        Ok(true)
    }

    fn receive(&self, buffer: &mut [u8]) -> Received {
        Ok(recvfrom(self.socket.as_raw_fd(), buffer)?)
    }
}

/// A filter (Linux's classic BPF, Documentation/networking/filter.rst) that lets through what is not for others; if types are
/// given, only messages of ICMP for IPv6 of these.
fn filter(types: &[u8]) -> Vec<SockFilter> {
    let code = |parts: &[u32]| parts.iter().sum::<u32>() as u16;
    let load = |at: u32| SockFilter::new(code(&[libc::BPF_LD, libc::BPF_B, libc::BPF_ABS]), 0, 0, at);
    let end = |length: u32| SockFilter::new(code(&[libc::BPF_RET, libc::BPF_K]), 0, 0, length);
    let jump = |value: u32, yes: u8, no: u8| {
        SockFilter::new(code(&[libc::BPF_JMP, libc::BPF_JEQ, libc::BPF_K]), yes, no, value)
    };
    // `SKF_AD_OFF + SKF_AD_PKTTYPE`: not a place in the frame.
    let sort = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
    let mut program = vec![load(sort), jump(u32::from(OTHERS), 0, 1), end(0)];
    if !types.is_empty() {
        let types = types.iter().map(|kind| u32::from(*kind));
        program.extend([
            load(PROTOCOL),
            jump(u32::from(ICMPV6), 1, 0),
            end(0),
            load(MESSAGE),
        ]);
        let left = (0..types.len() as u8).rev();
        // Over those that follow, and over the end.
        program.extend(types.zip(left).map(|(kind, left)| jump(kind, left + 1, 0)));
        program.push(end(0));
    }
    program.push(end(LONGEST as u32));
    program
}
