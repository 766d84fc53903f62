//! The parent link: whether it can be used, and a packet socket on it (packet(7)).
//!
//! What a driver hands up passes packet sockets before a macvlan on the link takes it (`__netif_receive_skb_core`), so one
//! socket sees the answers to all containers, whether they go to all or to one container's hardware address. A filter in the
//! kernel lets pass what is for a client of DHCP and nothing else. It leaves out what bears the tag of a VLAN: the kernel has
//! taken the tag off by then, and shows frames of `eth0.30` on `eth0` as well.

use std::io;
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recvfrom, send};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tombolo_core::model::IfName;

use super::frame::{IPV4, LONGEST, UDP};

/// `ETH_P_ALL`, include/uapi/linux/if_ether.h: with any other type, what comes in passes a macvlan first.
const ALL_TYPES: u16 = 3;
/// `ARPHRD_ETHER`, include/uapi/linux/if_arp.h.
const ETHERNET: u16 = 1;

/// Why a link can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is none of that name.
    #[error("there is no such link")]
    Missing,
    /// It is set down.
    #[error("it is down")]
    Down,
    /// Nothing is connected to it.
    #[error("it has no carrier")]
    NoCarrier,
    /// A macvlan needs Ethernet.
    #[error("it is no Ethernet link")]
    NotEthernet,
    /// The system refuses.
    #[error("{0}")]
    System(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => Self::Missing,
            Some(libc::ENETDOWN) => Self::Down,
            _ => Self::System(error.to_string()),
        }
    }
}

impl From<nix::Error> for Fault {
    fn from(error: nix::Error) -> Self {
        io::Error::from(error).into()
    }
}

/// A link that is up.
struct Up {
    address: LinkAddr,
    carrier: bool,
}

fn look(name: &IfName) -> Result<Up, Fault> {
    let mut found = getifaddrs()?.filter(|found| found.interface_name == name.as_str());
    let (flags, address) = found
        .find_map(|found| Some((found.flags, *found.address?.as_link_addr()?)))
        .ok_or(Fault::Missing)?;
    if address.hatype() != ETHERNET {
        Err(Fault::NotEthernet)
    } else if !flags.contains(InterfaceFlags::IFF_UP) {
        Err(Fault::Down)
    } else {
        // `IFF_RUNNING` follows this one after up to a second.
        let carrier = flags.contains(InterfaceFlags::IFF_LOWER_UP);
        Ok(Up { address, carrier })
    }
}

/// Whether a link can carry something now.
pub fn usable(name: &IfName) -> Result<(), Fault> {
    match look(name)?.carrier {
        true => Ok(()),
        false => Err(Fault::NoCarrier),
    }
}

/// What comes in by a link for clients of DHCP, and a way to send by it.
pub struct Frames {
    name: IfName,
    index: usize,
    /// A packet socket (packet(7)): of what tokio has, this is nearest to it that needs no unsafe code.
    socket: UdpSocket,
}

impl Frames {
    /// Listens from now on. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the link can't be used, or the system gives no socket.
    pub fn open(name: &IfName) -> Result<Self, Fault> {
        let address = look(name)?.address;
        let protocol = Protocol::from(i32::from(ALL_TYPES.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))?;
        // What comes in before these two lines, by whatever link, is sorted out where it is read.
        let filter =
            FILTER.map(|(code, then, otherwise, number)| SockFilter::new(code, then, otherwise, number));
        socket.attach_filter(&filter)?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self {
            name: name.clone(),
            index: address.ifindex(),
            socket: UdpSocket::from_std(socket.into())?,
        })
    }

    /// Whether the name is still that of the link.
    pub fn is_still(&self) -> bool {
        if_nametoindex(self.name.as_str()).is_ok_and(|index| usize::try_from(index) == Ok(self.index))
    }

    /// Waits for a frame, and gives its length. May be dropped at any moment without losing one.
    ///
    /// # Errors
    /// When nothing can be received any more: the link is down or gone.
    pub async fn next(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            // So that a flood doesn't keep all else of this thread from its turn. No frame is in hand here.
            tokio::task::consume_budget().await;
            self.socket.readable().await?;
            let read = || Ok(recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer)?);
            match self.socket.try_io(Interest::READABLE, read) {
                // What goes out by the link is from this host: no server's word, though a container may say so.
                Ok((length, Some(from)))
                    if from.ifindex() == self.index && from.pkttype() != libc::PACKET_OUTGOING =>
                {
                    return Ok(length);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a frame. It may be lost, as any, and is where the link's queue is full.
    ///
    /// # Errors
    /// When the link is down or gone.
    pub fn send(&self, frame: &[u8]) -> Result<(), Fault> {
        match send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Codes of BPF's instructions (include/uapi/linux/bpf_common.h): load a byte, two and four bytes; two from behind X; X from
/// the length in a header of IP; and, jump if equal, if a bit is set; return.
const LOAD_1: u16 = 0x30;
const LOAD_2: u16 = 0x28;
const LOAD_4: u16 = 0x20;
const LOAD_2_BEHIND: u16 = 0x48;
const LOAD_X: u16 = 0xb1;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_VLAN_TAG` (include/uapi/linux/filter.h): the tag that was taken off.
const TAG: u32 = 0xffff_f000 + 44;

/// Lets whole packets of IPv4 and UDP to port 68 pass, without a VLAN's tag: code, how far to jump if so and if not, number.
const FILTER: [(u16, u8, u8, u32); 14] = [
    (LOAD_2, 0, 0, 12),
    (IF_EQUAL, 0, 11, u16::from_be_bytes(IPV4) as u32),
    (LOAD_4, 0, 0, TAG),
    (AND, 0, 0, 0xfff),
    (IF_EQUAL, 0, 8, 0),
    (LOAD_1, 0, 0, 23),
    (IF_EQUAL, 0, 6, UDP as u32),
    (LOAD_2, 0, 0, 20),
    (IF_SET, 4, 0, 0x3fff),
    (LOAD_X, 0, 0, 14),
    (LOAD_2_BEHIND, 0, 0, 16),
    (IF_EQUAL, 0, 1, dhcproto::v4::CLIENT_PORT as u32),
    (RETURN, 0, 0, LONGEST as u32),
    (RETURN, 0, 0, 0),
];

#[cfg(test)]
mod tests {
    use super::super::frame::{To, frame, read};
    use super::*;

    /// How many bytes of a frame the filter lets pass, as the kernel runs it (Documentation/networking/filter.rst). A load from
    /// outside of the frame ends it with none.
    fn pass(frame: &[u8], tag: u32) -> u32 {
        let load = |from: usize, length: usize| {
            let bytes = frame.get(from..from + length)?;
            Some(
                bytes
                    .iter()
                    .fold(0u32, |number, byte| number << 8 | u32::from(*byte)),
            )
        };
        let (mut a, mut x, mut at) = (0u32, 0usize, 0usize);
        loop {
            let (code, then, otherwise, number) = FILTER[at];
            let jump = |fine: bool| usize::from(if fine { then } else { otherwise });
            at += 1;
            let loaded = match code {
                LOAD_4 if number == TAG => Some(tag),
                LOAD_1 => load(number as usize, 1),
                LOAD_2 => load(number as usize, 2),
                LOAD_2_BEHIND => load(x + number as usize, 2),
                LOAD_X => load(number as usize, 1),
                _ => Some(a),
            };
            let Some(loaded) = loaded else { return 0 };
            match code {
                LOAD_X => x = (loaded as usize & 0xf) * 4,
                AND => a &= number,
                IF_EQUAL => at += jump(a == number),
                IF_SET => at += jump(a & number != 0),
                RETURN => return number,
                _ => a = loaded,
            }
        }
    }

    #[test]
    fn the_filter_lets_pass_what_is_read_and_little_else() {
        let mac = tombolo_core::model::Mac::from_bytes([2, 0, 0, 0, 0, 1]).unwrap();
        let question = frame(mac, To::ALL, &[7; 300]);
        let mut answer = question.clone();
        answer[34..38].copy_from_slice(&[0, 67, 0, 68]);
        assert!(read(&answer).is_some());
        assert!(pass(&answer, 0) as usize >= answer.len());
        assert_eq!(pass(&question, 0), 0, "for a server");
        // A tag of VLAN 30; and one that says a priority only.
        assert_eq!(pass(&answer, 30), 0);
        assert_ne!(pass(&answer, 5 << 13), 0);
        // Another type of frame, another protocol, the first and the second part of a packet.
        for (at, byte) in [(12, 0x86), (23, 6), (20, 0x20), (21, 1)] {
            let mut other = answer.clone();
            other[at] = byte;
            assert_eq!(pass(&other, 0), 0, "byte {at}");
        }
        // With options of IP, the ports are further behind.
        let mut long = answer.clone();
        long[14] = 0x46;
        long.splice(34..34, [1, 1, 1, 1]);
        assert_ne!(pass(&long, 0), 0);
        for length in 0..38 {
            assert_eq!(pass(&answer[..length], 0), 0, "{length} bytes");
        }
    }
}
