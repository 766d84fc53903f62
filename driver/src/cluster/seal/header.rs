//! What stands in clear at a datagram's head.

use std::net::SocketAddr;

use tombolo_cluster::HostId;

use super::{Instance, Why};

/// What every datagram begins with.
pub const MAGIC: [u8; 2] = *b"tb";
/// The version of this form.
pub const VERSION: u8 = 1;
/// Bytes of the header, of the MAC behind what is sealed, and of both.
pub const HEADER: usize = 44;
/// Bytes of the MAC.
pub const TAG: usize = 16;

/// To whom a datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// One host; nobody else can open it.
    Host(HostId),
    /// Every member; each may open it, and may have it from whoever passes it on.
    All,
}

/// The fields in their order on the wire, with the highest byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub to_all: bool,
    pub number: u32,
    pub sender: HostId,
    pub epoch: u32,
    pub instance: Instance,
    pub counter: u64,
}

impl Header {
    /// Reads the head of a datagram that is long enough to hold a MAC as well.
    pub fn read(bytes: &[u8]) -> Result<Self, Why> {
        if bytes.len() < HEADER + TAG {
            return Err(Why::Short);
        }
        let (magic, rest) = bytes.split_first_chunk().ok_or(Why::Short)?;
        if *magic != MAGIC {
            return Err(Why::Magic);
        }
        let ([version, kind], rest) = rest.split_first_chunk().ok_or(Why::Short)?;
        let to_all = match (*version, *kind) {
            (VERSION, 0) => false,
            (VERSION, 1) => true,
            _ => return Err(Why::Version),
        };
        let (number, rest) = rest.split_first_chunk().ok_or(Why::Short)?;
        let (sender, rest) = rest.split_first_chunk().ok_or(Why::Short)?;
        let (epoch, rest) = rest.split_first_chunk().ok_or(Why::Short)?;
        let (instance, rest) = rest.split_first_chunk().ok_or(Why::Short)?;
        let (counter, _) = rest.split_first_chunk().ok_or(Why::Short)?;
        Ok(Self {
            to_all,
            number: u32::from_be_bytes(*number),
            sender: HostId::from_bytes(*sender),
            epoch: u32::from_be_bytes(*epoch),
            instance: Instance(*instance),
            counter: u64::from_be_bytes(*counter),
        })
    }

    /// The header's bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let fields: [&[u8]; 7] = [
            &MAGIC,
            &[VERSION, u8::from(self.to_all)],
            &self.number.to_be_bytes(),
            &self.sender.bytes(),
            &self.epoch.to_be_bytes(),
            &self.instance.0,
            &self.counter.to_be_bytes(),
        ];
        let mut bytes = [0; HEADER];
        // 2 + 2 + 4 + 16 + 4 + 8 + 8 = 44
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// What the MAC covers besides the sealed bytes: the header, and the one host that it is to.
    pub fn bound(&self, to: To) -> Bound {
        let mut bytes = [0; HEADER + 16];
        let whom = match to {
            To::Host(host) => host.bytes(),
            To::All => [0; 16],
        };
        for (to, from) in bytes.iter_mut().zip(self.bytes().iter().chain(&whom)) {
            *to = *from;
        }
        Bound {
            bytes,
            length: if self.to_all { HEADER } else { HEADER + 16 },
        }
    }
}

/// Associated data on the stack.
pub struct Bound {
    bytes: [u8; HEADER + 16],
    length: usize,
}

impl AsRef<[u8]> for Bound {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

impl Why {
    /// Two live runs of one identifier: what a datagram that is genuine tells, though it isn't taken.
    pub(super) fn alive(header: &Header, from: SocketAddr) -> Self {
        Self::StillAlive {
            sender: header.sender,
            epoch: header.epoch,
            counter: header.counter,
            from,
        }
    }

    pub(super) fn cloned(header: &Header, from: SocketAddr) -> Self {
        Self::Clone {
            sender: header.sender,
            epoch: header.epoch,
            from,
        }
    }
}
