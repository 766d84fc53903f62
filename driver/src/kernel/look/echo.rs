//! How large packets get through to other hosts: found by echo requests (RFC 792, RFC 4443) that are as large as the wire takes,
//! and smaller ones if those get lost. What drops a packet that is too large often says nothing. And who answers at all.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::super::checksum::checksum;

/// How long is waited for an answer: hosts of a cluster are near each other.
const PATIENCE: Duration = Duration::from_millis(300);

/// How often a size is tried before it counts as lost.
const TRIES: u16 = 2;

/// How many hosts are asked at once.
const AT_ONCE: usize = 32;

/// How many are asked at once by one socket, and how many bytes it holds each way.
const BY_ONE: usize = 256;
const ROOM: usize = 1 << 20;

/// Length of an echo request's own header, and of the IP headers without options.
const HEADER: usize = 8;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// The least packets that every way must take (RFC 791, RFC 8200), in bytes.
const LEAST: [u32; 2] = [68, 1280];

/// How large packets get through to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// The largest that was tried.
    All,
    /// None larger than this, in bytes.
    UpTo(u32),
    /// It answers no echo requests, or can't be asked.
    Silent,
}

/// How large packets get through to some hosts; of each the largest one to try, in bytes.
pub fn takes(hosts: &[(IpAddr, u32)]) -> Vec<Takes> {
    let mut all = Vec::new();
    for some in hosts.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let asked: Vec<_> = some
                .iter()
                .map(|(host, most)| scope.spawn(|| ask(*host, *most)))
                .collect();
            // A thread that panicked has nothing to say.
            all.extend(
                asked
                    .into_iter()
                    .map(|asked| asked.join().unwrap_or(Takes::Silent)),
            );
        });
    }
    all
}

fn ask(host: IpAddr, most: u32) -> Takes {
    let Ok(mut asker) = Asker::new(host) else {
        return Takes::Silent;
    };
    let least = LEAST[usize::from(host.is_ipv6())];
    if !asker.echo(least) {
        return Takes::Silent;
    }
    if most <= least || asker.echo(most) {
        return Takes::All;
    }
    let (mut through, mut lost) = (least, most);
    while lost - through > 1 {
        let middle = through + (lost - through) / 2;
        match asker.echo(middle) {
            true => through = middle,
            false => lost = middle,
        }
    }
    Takes::UpTo(through)
}

/// Those hosts that answer an echo request. It takes a moment if all do, and 300 ms for each 256 if not.
///
/// # Errors
/// When the kernel refuses a raw socket (raw(7)). A host that can't be reached just doesn't answer.
pub async fn answering(hosts: &[IpAddr]) -> io::Result<BTreeSet<IpAddr>> {
    let mut all = BTreeSet::new();
    for v6 in [false, true] {
        let family: Vec<IpAddr> = hosts
            .iter()
            .copied()
            .filter(|host| host.is_ipv6() == v6)
            .collect();
        for some in family.chunks(BY_ONE) {
            all.append(&mut answering_at_once(some, v6).await?);
        }
    }
    Ok(all)
}

async fn answering_at_once(hosts: &[IpAddr], v6: bool) -> io::Result<BTreeSet<IpAddr>> {
    /// What tells the requests of one time from those of another.
    static NUMBER: AtomicU16 = AtomicU16::new(0);
    let socket = raw(v6, Type::RAW.nonblocking())?;
    socket.set_recv_buffer_size(ROOM)?;
    // Requests to neighbours that aren't there wait in it.
    socket.set_send_buffer_size(ROOM)?;
    let socket = UdpSocket::from_std(socket.into())?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let request = request(v6, number, LEAST[0] as usize);
    let mut open = BTreeSet::new();
    for host in hosts {
        if socket.send_to(&request, SocketAddr::new(*host, 0)).await.is_ok() {
            open.insert(*host);
        }
    }
    let mut answered = BTreeSet::new();
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut buffer = [0; 1 << 11];
    while !open.is_empty() {
        let Ok(received) = tokio::time::timeout_at(end, socket.recv_from(&mut buffer)).await else {
            break;
        };
        // An error is what a router has said of one host (ICMP unreachable); the others may answer yet.
        let Ok((length, from)) = received else { continue };
        if answers(&buffer[..length], &request, v6) && open.remove(&from.ip()) {
            answered.insert(from.ip());
        }
    }
    Ok(answered)
}

fn raw(v6: bool, sort: Type) -> io::Result<Socket> {
    let (domain, protocol) = match v6 {
        false => (Domain::IPV4, Protocol::ICMPV4),
        true => (Domain::IPV6, Protocol::ICMPV6),
    };
    Socket::new(domain, sort, Some(protocol))
}

struct Asker {
    socket: Socket,
    host: IpAddr,
    number: u16,
}

impl Asker {
    fn new(host: IpAddr) -> io::Result<Self> {
        let socket = raw(host.is_ipv6(), Type::RAW)?;
        socket.connect(&SocketAddr::new(host, 0).into())?;
        Ok(Self {
            socket,
            host,
            number: 0,
        })
    }

    /// Whether an echo request of a packet of this size, in bytes, is answered.
    fn echo(&mut self, size: u32) -> bool {
        (0..TRIES).any(|_| self.try_echo(size).unwrap_or(false))
    }

    fn try_echo(&mut self, size: u32) -> io::Result<bool> {
        self.number += 1;
        let request = request(self.host.is_ipv6(), self.number, size as usize);
        self.socket.send(&request)?;
        let end = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            match (&self.socket).read(&mut buffer) {
                Ok(length) if answers(&buffer[..length], &request, self.host.is_ipv6()) => return Ok(true),
                // Somebody else's.
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Kinds of messages: a request and its answer, by family.
const REQUEST: [u8; 2] = [8, 128];
const ANSWER: [u8; 2] = [0, 129];

/// An echo request that makes a packet of a size. For IPv6 the kernel fills in the checksum.
fn request(v6: bool, number: u16, size: usize) -> Vec<u8> {
    let outer = if v6 { IPV6 } else { IPV4 };
    let mut bytes = vec![0; size.saturating_sub(outer).max(HEADER)];
    bytes[0] = REQUEST[usize::from(v6)];
    // Processes that ask at once are told apart by this.
    bytes[4..6].copy_from_slice(&(std::process::id() as u16).to_be_bytes());
    bytes[6..8].copy_from_slice(&number.to_be_bytes());
    if !v6 {
        let sum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Whether what came is the answer to a request. IPv4 comes with its header.
fn answers(came: &[u8], request: &[u8], v6: bool) -> bool {
    let header = match (v6, came.first()) {
        (true, _) => 0,
        (false, Some(first)) => usize::from(first & 0xf) * 4,
        (false, None) => return false,
    };
    let Some(message) = came.get(header..) else {
        return false;
    };
    let same = message.get(4..) == request.get(4..);
    message.first() == Some(&ANSWER[usize::from(v6)]) && same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_answer_only() {
        let sent = request(false, 7, 1500);
        assert_eq!((sent.len(), checksum(&sent)), (1480, 0));
        let mut answer = sent.clone();
        answer[0] = 0;
        let packet = [&[0x45; 20][..], &answer].concat();
        assert!(answers(&packet, &sent, false));
        let other = request(false, 8, 1500);
        for strange in [&packet[..100], &[], &[0x4f], &[&[0x45; 20][..], &sent].concat()] {
            assert!(!answers(strange, &sent, false));
        }
        assert!(!answers(&packet, &other, false));
        let sent = request(true, 7, 1500);
        let mut answer = sent.clone();
        answer[0] = 129;
        assert_eq!(sent.len(), 1460);
        assert!(answers(&answer, &sent, true) && !answers(&sent, &sent, true));
    }
}
