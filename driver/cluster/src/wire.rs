//! What hosts say to each other, as bytes.
//!
//! Two ways lead from host to host. A *datagram* carries one [`Frame`] and may be lost; the daemon seals it. A *call*
//! carries one [`Request`] over a stream and brings one [`Answer`] back. Both say first which sort they are, and a host
//! that doesn't know a sort skips it: so a newer version may say more, as long as it gets on without an answer.
//! What stands in a sort never changes; a sort that must is replaced by a new one.

use foca::Member;
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Ask, Share};

use crate::charter::Charter;
use crate::council::{Acceptor, Word};
use crate::membership::Seat;
use crate::table::{Delta, Head};

/// The largest frame, in bytes, before it is sealed: a datagram with it fits a path whose MTU is 1280, the least of IPv6.
pub const FRAME: usize = 1_150;

/// The largest request or answer, in bytes.
pub const CALL: usize = 4 << 20;

/// About how many bytes of rows go into one request or answer.
pub const ROWS: usize = 256 << 10;

/// What a datagram says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    /// A message of the membership protocol, with changes of rows riding on it.
    Swim(Vec<u8>),
    /// What I know, in short; and what is needed to measure the way.
    Digest(Digest),
    /// The same, in answer to one.
    Echo {
        /// The asker's own time, as it was told.
        sent: u64,
        /// What the answering host knows.
        digest: Digest,
    },
    /// A word of the council.
    Council(Word),
    /// May I have a piece of your share?
    Ask {
        /// Comes back with the answer.
        ticket: u64,
        /// The pool.
        pool: IpNet,
        /// What is wanted.
        ask: Ask,
    },
    /// The answer to [`Ask`](Self::Ask).
    Told {
        /// As it came.
        ticket: u64,
        /// The pool.
        pool: IpNet,
        /// The giver's share with the gift in it, or why there is none.
        given: Result<Share, String>,
    },
    /// Keep these two shares in mind: one gave a piece to the other, the sender.
    Witness {
        /// Comes back with the answer.
        round: u64,
        /// The pool.
        pool: IpNet,
        /// Who gave.
        giver: HostId,
        /// The giver's share with the gift.
        gave: Share,
        /// The sender's share with the claim.
        mine: Share,
    },
    /// Both are kept.
    Witnessed {
        /// As it came.
        round: u64,
        /// The last decree that changed the members, as the answering host knows.
        since: u64,
    },
    /// I have begun anew: is what I remember of myself the latest?
    Confirm(Confirm),
    /// The answer to [`Confirm`](Self::Confirm).
    Confirmed {
        /// The epoch that was asked about.
        epoch: u32,
        /// How many decrees the answering host knows of.
        index: u64,
        /// Of which pools the answering host holds a newer share of the asker's; to be had by a call.
        newer: bool,
        /// The latest epoch of the asker's that it has heard of.
        heard: u32,
    },
    /// Two hosts have your identifier.
    Twice {
        /// Where the one was heard.
        one: SocketAddr,
        /// Where the other was heard.
        other: SocketAddr,
        /// The latest epoch that was heard of either.
        epoch: u32,
    },
    /// You were elsewhere a moment ago, and may be so still: ask again.
    Elsewhere {
        /// The epoch that was asked about.
        epoch: u32,
    },
    /// You speak in an epoch before the latest that was heard of you, and so nobody listens.
    Behind {
        /// The latest that was heard.
        epoch: u32,
    },
}

/// What a host knows, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Of its table.
    pub table: u64,
    /// How many decrees.
    pub index: u64,
    /// Of what it holds of everybody's shares.
    pub shares: u64,
    /// Of who is there, as it sees it.
    pub members: u64,
    /// Whether what it holds is all that it has ever held, as far as is known.
    pub sure: bool,
    /// Its own time, in milliseconds.
    pub sent: u64,
    /// Its wall clock, in milliseconds since 1970.
    pub wall: u64,
}

/// What a host that begins anew remembers of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// The epoch that it begins.
    pub epoch: u32,
    /// Where it is reached.
    pub address: SocketAddr,
    /// How many decrees it knows of.
    pub index: u64,
    /// The revisions of its shares.
    pub shares: BTreeMap<IpNet, u64>,
    /// Whether its shares are of this epoch once it is confirmed. What it gave in an earlier one and whoever answers
    /// doesn't know of then comes too late.
    pub strict: bool,
}

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Where do our tables differ?
    Compare {
        /// The asker's table in short, bucket by bucket.
        buckets: Vec<u64>,
        /// How many decrees it knows of.
        index: u64,
    },
    /// Rows for rows.
    Exchange {
        /// What is wanted: of whom, and what of it is there.
        want: Vec<Head>,
        /// What is brought.
        deltas: Vec<Delta>,
    },
    /// Who is there?
    Members(Vec<Member<Seat>>),
    /// What was decided?
    Charter,
    /// A word of the council that fits no datagram.
    Council(Word),
    /// A frame that fits no datagram.
    Frame(Box<Frame>),
    /// What do you hold of my shares?
    Shares,
    /// What do you hold of anybody's shares?
    AllShares,
    /// My disk may have been set back: what do you know that I may have known?
    Recall,
    /// I am here: at this address, with these decrees.
    Hello {
        /// Where the asker is reached.
        seat: Seat,
        /// How many decrees it knows of.
        index: u64,
    },
}

/// What a call brings back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// It was taken.
    Done,
    /// The heads of those buckets that differ.
    Heads {
        /// Which buckets, a bit each.
        buckets: u64,
        /// Their heads.
        heads: Vec<Head>,
    },
    /// Rows.
    Deltas(Vec<Delta>),
    /// Who is there, and where members were reached last who are not.
    Members(Vec<Member<Seat>>, Vec<Seat>),
    /// What was decided.
    Charter(Box<Charter>),
    /// The asker's shares as they are known.
    Shares(BTreeMap<IpNet, Share>),
    /// All shares as they are known.
    AllShares(Holding),
    /// The same, and what was promised and accepted for the decree that comes next.
    Recalled(Holding, Box<Acceptor>),
    /// The request was not understood.
    Strange,
}

/// What a host holds of everybody's shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holding {
    /// How many decrees it knows of.
    pub index: u64,
    /// Whether it is all that it has ever held, as far as is known.
    pub sure: bool,
    /// Whose share of which pool, in no order.
    pub shares: Vec<(IpNet, HostId, Share)>,
}

/// Where a host is reached.
pub type Address = SocketAddr;

/// As bytes.
pub fn encode<T: Serialize>(what: &T) -> Vec<u8> {
    // Nothing here has a length that isn't known, or a number that doesn't fit: it can't fail.
    postcard::to_stdvec(what).unwrap_or_default()
}

/// From bytes that somebody sent: nothing if they are no such thing, or more than it.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((what, [])) => Some(what),
        _ => None,
    }
}

/// A 64-bit sum of the bytes that is the same on every machine. It finds damage and difference, not malice.
pub(crate) fn sum(bytes: impl IntoIterator<Item = u8>) -> u64 {
    // FNV-1a, and a last mixing so that all bits depend on all bytes.
    let mut sum = bytes.into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        sum = (sum ^ (sum >> 33)).wrapping_mul(factor);
    }
    sum ^ (sum >> 33)
}
