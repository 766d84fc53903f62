//! Probes of a tunnel: frames in VXLAN (RFC 7348) like those of containers, padded to a size, from this host to another one.
//!
//! ```text
//!   outer IP │ UDP to the tunnels' port │ VXLAN, VNI │ Ethernet, type 88b5 │ probe, zeros ──> tbv… of the other host ──> Probes
//! ```
//!
//! Outside they are what the kernel makes of a container's packet: from this host's VTEP and any port, without "don't fragment".
//! They are made here and not by the VXLAN link, which would need an entry that says where the probe's address is.
//!
//! Inside they go to 01:80:c2:00:00:0e (IEEE 802.1Q, table 8-1), which no bridge passes on: the kernel hands such a frame to who
//! listens at the port that it came in by (`br_handle_frame`), so no container of either host sees one, and what a container
//! sends itself comes in elsewhere. The type is that for local experiments (IEEE 802, clause 9.2.4).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{LinkAddr, recvfrom};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tombolo_core::model::IfName;

/// The least probe, in bytes: what fits into the least frame of Ethernet.
pub const LEAST: u32 = 46;

/// The largest, in bytes: with all headers it fits into a datagram.
pub const MOST: u32 = 65_000;

/// How long to wait between sending all of them, and before the second time.
const AGAIN: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_millis(20);

/// How often each is sent at least: one may get lost by chance.
const TIMES: u32 = 2;

/// How many frames are read at most before something else has its turn.
const AT_ONCE: usize = 64;

const ETHERNET: usize = 14;
const NEAREST_BRIDGE: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e];
/// From nobody in particular: a local address. The kernel takes no frame without one.
const NOBODY: [u8; 6] = [0x02, 0x74, 0x6f, 0x6d, 0x62, 0x6f];
const EXPERIMENT: u16 = 0x88b5;
/// VXLAN's flags: there is a VNI.
const WITH_VNI: u8 = 0x08;

/// What a probe begins with; a version is part of it.
const MAGIC: [u8; 5] = *b"tmbl\x01";

/// What the probes of one trial have in common, so that nobody else's are taken for them.
pub type Nonce = [u8; 16];

/// Which of the two hosts sends: a probe that comes back to its own sender says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who asked for the trial.
    Asker,
    /// Who was asked.
    Asked,
}

/// A tunnel from this host to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// This host's VXLAN link.
    pub link: IfName,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// This host's VTEP; unspecified where the kernel is to choose one by the route.
    pub local: IpAddr,
    /// The other one's.
    pub vtep: IpAddr,
    /// The tunnels' UDP port.
    pub port: u16,
}

/// One end of a trial: it sends probes, and notes those that come.
#[derive(Debug)]
pub struct Probes {
    vni: u32,
    end: End,
    nonce: Nonce,
    link: i32,
    /// A packet socket (packet(7)): of what tokio has, this is nearest to it that needs no unsafe code.
    frames: UdpSocket,
    udp: UdpSocket,
    /// Sizes that came.
    pub came: BTreeSet<u32>,
    /// Why this host could not send one, if so.
    pub refused: Option<String>,
}

impl Probes {
    /// Listens from now on.
    ///
    /// # Errors
    /// When there is no such link, or the system gives no socket.
    pub fn open(way: &Way, end: End, nonce: Nonce) -> io::Result<Self> {
        let link = if_nametoindex(way.link.as_str())?;
        let protocol = Protocol::from(i32::from(EXPERIMENT.to_be()));
        let frames = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))?;
        let (local, there) = (SocketAddr::new(way.local, 0), SocketAddr::new(way.vtep, way.port));
        let udp = Socket::new(Domain::for_address(there), Type::DGRAM.nonblocking(), None)?;
        match there {
            SocketAddr::V4(_) => {
                sockopt::set_ip_mtu_discover(&udp, sockopt::Ipv4PathMtuDiscovery::DONT)?;
            }
            SocketAddr::V6(_) => {
                sockopt::set_ipv6_mtu_discover(&udp, sockopt::Ipv6PathMtuDiscovery::DONT)?;
            }
        }
        udp.bind(&local.into())?;
        udp.connect(&there.into())?;
        Ok(Self {
            vni: way.vni,
            end,
            nonce,
            link: i32::try_from(link).map_err(io::Error::other)?,
            frames: UdpSocket::from_std(frames.into())?,
            udp: UdpSocket::from_std(udp.into())?,
            came: BTreeSet::new(),
            refused: None,
        })
    }

    /// The source of what is sent, by the route where the kernel was to choose it.
    pub fn local(&self) -> Option<IpAddr> {
        // The socket is connected, so it has one.
        self.udp.local_addr().ok().map(|local| local.ip())
    }

    /// Sends probes of some sizes again and again, and notes those that come, until `patience` is over; if `hasty`, only until
    /// all that are expected have come.
    ///
    /// # Errors
    /// When nothing can be received any more.
    pub async fn exchange(
        &mut self,
        send: &BTreeSet<u32>,
        expect: &BTreeSet<u32>,
        patience: Duration,
        hasty: bool,
    ) -> io::Result<()> {
        let end = Instant::now() + patience;
        let (mut times, mut next) = (0, Instant::now());
        loop {
            let enough = hasty && times >= TIMES && expect.is_subset(&self.came);
            if enough || Instant::now() >= end {
                return Ok(());
            }
            if Instant::now() >= next {
                self.send(send).await;
                times += 1;
                next = Instant::now() + if times < TIMES { SECOND } else { AGAIN };
            }
            // A frame or the clock, whichever is first; a clock that is over is no error.
            if let Ok(noted) = tokio::time::timeout_at(next.min(end), self.note()).await {
                noted?;
            }
        }
    }

    async fn send(&mut self, sizes: &BTreeSet<u32>) {
        for size in sizes {
            let datagram = datagram(self.vni, self.end, &self.nonce, *size);
            if let Err(error) = self.udp.send(&datagram).await {
                self.refused.get_or_insert_with(|| error.to_string());
            }
        }
    }

    /// Waits for frames, and notes those that are of this trial.
    async fn note(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; ETHERNET + MOST as usize];
        self.frames.readable().await?;
        for _ in 0..AT_ONCE {
            let read = || Ok(recvfrom::<LinkAddr>(self.frames.as_raw_fd(), &mut buffer)?);
            let (length, from) = match self.frames.try_io(Interest::READABLE, read) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let here = from.is_some_and(|from| i32::try_from(from.ifindex()) == Ok(self.link));
            if let (true, Some(size)) = (here, size_of(&buffer[..length], self.end, &self.nonce)) {
                self.came.insert(size);
            }
        }
        Ok(())
    }
}

fn mark(end: End) -> u8 {
    match end {
        End::Asker => 0,
        End::Asked => 1,
    }
}

/// A probe of a size, in bytes, in a frame in VXLAN.
fn datagram(vni: u32, end: End, nonce: &Nonce, size: u32) -> Vec<u8> {
    let vni = vni.to_be_bytes();
    let vxlan = [WITH_VNI, 0, 0, 0, vni[1], vni[2], vni[3], 0];
    let head = [
        &vxlan[..],
        &NEAREST_BRIDGE,
        &NOBODY,
        &EXPERIMENT.to_be_bytes(),
        &MAGIC,
        &[mark(end)],
        nonce,
        &size.to_be_bytes(),
    ];
    let mut datagram = head.concat();
    datagram.resize(vxlan.len() + ETHERNET + size.clamp(LEAST, MOST) as usize, 0);
    datagram
}

/// The size of a probe that is whole, if this frame is one that the other end of this trial has sent.
fn size_of(frame: &[u8], end: End, nonce: &Nonce) -> Option<u32> {
    let to = frame.strip_prefix(&NEAREST_BRIDGE)?;
    let rest = to.get(NOBODY.len()..)?.strip_prefix(&EXPERIMENT.to_be_bytes())?;
    let told = rest.strip_prefix(&MAGIC)?;
    let (from, told) = told.split_first()?;
    let size = u32::from_be_bytes(*told.strip_prefix(nonce)?.first_chunk()?);
    let whole = usize::try_from(size) == Ok(rest.len());
    (whole && *from != mark(end)).then_some(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VXLAN: usize = 8;

    #[test]
    fn a_probe_is_as_large_as_it_says_and_is_known_by_the_other_end_only() {
        for size in [LEAST, 1450, MOST] {
            let datagram = datagram(0x0012_3456, End::Asker, &[7; 16], size);
            assert_eq!(&datagram[..VXLAN], [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
            let frame = &datagram[VXLAN..];
            assert_eq!(frame.len(), 14 + size as usize);
            assert_eq!(size_of(frame, End::Asked, &[7; 16]), Some(size));
            assert_eq!(size_of(frame, End::Asker, &[7; 16]), None);
            assert_eq!(size_of(frame, End::Asked, &[8; 16]), None);
            assert_eq!(size_of(&frame[..frame.len() - 1], End::Asked, &[7; 16]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100), whole: bool) {
            let mut frame = datagram(1, End::Asker, &[7; 16], LEAST).split_off(VXLAN);
            frame.truncate(bytes.len());
            let frame = if whole { frame } else { bytes };
            let read = size_of(&frame, End::Asked, &[7; 16]);
            prop_assert_eq!(read.is_some(), whole && frame.len() == 60);
        }
    }
}
