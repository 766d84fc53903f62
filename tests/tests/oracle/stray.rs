//! Sees in a container what its own address is not meant by: what a bridge floods, or sends to the wrong port.
//!
//! The kernel would drop such a datagram without a word, so a socket of UDP alone never hears of it.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::agent::PORT;

/// Lengths of headers.
const IPV6: usize = 40;
const UDP: usize = 8;

/// Where the destination stands in a header of IPv4 and of IPv6.
const TO4: usize = 16;
const TO6: usize = 24;

/// The number of UDP in a header of IP.
const IS_UDP: u8 = 17;

/// Sockets that hear all packets, one a family.
#[derive(Debug)]
pub struct Watch {
    v4: Socket,
    v6: Socket,
    own4: Ipv4Addr,
    own6: Ipv6Addr,
}

impl Watch {
    /// Watches the network namespace that the thread is in, whose addresses these are.
    pub fn new(own4: Ipv4Addr, own6: Ipv6Addr) -> Self {
        Self {
            v4: socket(libc::ETH_P_IP, &filter4(own4)),
            v6: socket(libc::ETH_P_IPV6, &filter6(own6)),
            own4,
            own6,
        }
    }

    /// Gives what each datagram says that was seen since and is for another.
    pub fn take_in(&self, mut stray: impl FnMut(&[u8])) {
        let own4 = self.own4.octets();
        drain(&self.v4, |packet| {
            let header = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
            let strays = packet.get(9) == Some(&IS_UDP) && packet.get(TO4..TO4 + 4) != Some(&own4[..]);
            if strays && let Some(said) = said(packet, header) {
                stray(said);
            }
        });
        let own6 = self.own6.octets();
        drain(&self.v6, |packet| {
            let strays = packet.get(6) == Some(&IS_UDP) && packet.get(TO6..TO6 + 16) != Some(&own6[..]);
            if strays && let Some(said) = said(packet, IPV6) {
                stray(said);
            }
        });
    }
}

/// Gives each packet that waits in a socket.
fn drain(mut socket: &Socket, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; 256];
    while let Ok(length) = socket.read(&mut buffer) {
        each(&buffer[..length]);
    }
}

/// What a datagram to an agent says; the filter was not there yet when the first packets came, so it is asked again.
fn said(packet: &[u8], header: usize) -> Option<&[u8]> {
    let port = packet.get(header + 2..header + 4)?;
    (port == PORT.to_be_bytes())
        .then(|| packet.get(header + UDP..))
        .flatten()
}

/// A socket for packets of a sort, without their link headers.
fn socket(sort: i32, filter: &[SockFilter]) -> Socket {
    let sort = u16::try_from(sort).expect("a number of Ethernet's").to_be();
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(sort))));
    let socket = socket.expect("a socket for packets (root is needed)");
    socket.attach_filter(filter).expect("a filter");
    socket.set_nonblocking(true).expect("a socket that never waits");
    socket
}

fn op(code: u32, k: u32) -> SockFilter {
    jump(code, 0, 0, k)
}

fn jump(code: u32, yes: u8, no: u8, k: u32) -> SockFilter {
    SockFilter::new(u16::try_from(code).expect("an instruction"), yes, no, k)
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF_BEHIND: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const HEADER_LENGTH: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// UDP to the agents' port at another address than ours.
fn filter4(own: Ipv4Addr) -> Vec<SockFilter> {
    vec![
        op(LOAD_BYTE, 9),
        jump(IF_EQUAL, 0, 6, u32::from(IS_UDP)),
        op(LOAD_WORD, 16),
        jump(IF_EQUAL, 4, 0, u32::from(own)),
        op(HEADER_LENGTH, 0),
        op(LOAD_HALF_BEHIND, 2),
        jump(IF_EQUAL, 0, 1, u32::from(PORT)),
        op(RETURN, 256),
        op(RETURN, 0),
    ]
}

/// The same of IPv6.
fn filter6(own: Ipv6Addr) -> Vec<SockFilter> {
    let octets = own.octets();
    let word = |at: usize| u32::from_be_bytes(octets[at..at + 4].try_into().expect("four bytes"));
    vec![
        op(LOAD_BYTE, 6),
        jump(IF_EQUAL, 0, 11, u32::from(IS_UDP)),
        op(LOAD_HALF, 42),
        jump(IF_EQUAL, 0, 9, u32::from(PORT)),
        op(LOAD_WORD, 24),
        jump(IF_EQUAL, 0, 6, word(0)),
        op(LOAD_WORD, 28),
        jump(IF_EQUAL, 0, 4, word(4)),
        op(LOAD_WORD, 32),
        jump(IF_EQUAL, 0, 2, word(8)),
        op(LOAD_WORD, 36),
        jump(IF_EQUAL, 1, 0, word(12)),
        op(RETURN, 256),
        op(RETURN, 0),
    ]
}
