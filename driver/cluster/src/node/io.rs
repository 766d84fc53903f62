//! What a node begins with, what goes in and what comes out.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Deal, Share};

use super::Standing;
use crate::charter::{Charter, Definition};
use crate::council::Acceptor;
use crate::membership::Seat;
use crate::table::{Limits, Seen};

/// What a host begins with.
pub struct Setup {
    /// The host.
    pub me: HostId,
    /// How the how-manieth start this is; higher than ever before, and kept as such already.
    pub epoch: u32,
    /// Where others reach us.
    pub address: SocketAddr,
    /// For random choices.
    pub seed: u64,
    /// What was decided, as far as it was kept.
    pub charter: Charter,
    /// What the council must not forget.
    pub acceptor: Option<Acceptor>,
    /// Shares of others that we promised to keep in mind.
    pub witnessed: BTreeMap<(IpNet, HostId), Share>,
    /// In which epochs others were that their shares are to be of, or later ones.
    pub lives: BTreeMap<HostId, u32>,
    /// Our own shares.
    pub shares: BTreeMap<IpNet, Share>,
    /// Our own rows.
    pub rows: Vec<(String, Vec<u8>)>,
    /// The others' rows as they were last known ([`super::Node::remember`]); some may be missing or damaged.
    pub remembered: Vec<Vec<u8>>,
    /// Where others were reached last.
    pub seats: Vec<Seat>,
    /// What a host that nobody answers may do after a start.
    pub alone: Alone,
    /// Bounds of the table.
    pub limits: Limits,
}

/// What a host does that has begun anew and reaches no majority of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// It leases from its share after a moment: containers start after a power cut though others are still down.
    Lease,
    /// It gives no new address before enough others have confirmed that its share is still its own. Safe also for a host whose
    /// disk was set back to an earlier state, or that was forgotten while it was off.
    Wait,
}

/// What comes in.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time has passed; see [`super::Node::due`].
    Tick,
    /// A datagram of a host whose seal was right.
    Datagram {
        /// Who sent it.
        from: HostId,
        /// Where from.
        address: SocketAddr,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// A call of a host that has proved who it is.
    Request {
        /// Comes back with the answer.
        call: u64,
        /// Who calls.
        from: HostId,
        /// What it asks.
        bytes: Vec<u8>,
    },
    /// How a call of ours went.
    Answered {
        /// As it was given out.
        call: u64,
        /// How.
        answer: Called,
    },
    /// Rows of ours that are set, or removed.
    Rows(Vec<(String, Option<Vec<u8>>)>),
    /// What the owner of the shares did.
    Shared {
        /// The pool.
        pool: IpNet,
        /// As it was given out.
        ticket: u64,
        /// Our share of it now, or why nothing was done.
        share: Result<Option<Share>, String>,
    },
    /// Which pools this host has networks on, and how full its shares are.
    Pools(BTreeMap<IpNet, Fill>),
    /// The routes of this host, and in words what they belong to.
    Routes(Vec<(IpNet, String)>),
    /// Something that only the cluster can do.
    Wish {
        /// Comes back with the outcome.
        ticket: u64,
        /// What it is.
        wish: Wish,
    },
    /// What the store answered; or that it can't be reached, or why it refused, in words for people.
    Stored {
        /// As it was given out.
        ticket: u64,
        /// What.
        outcome: Result<Box<crate::store::Answer>, String>,
    },
    /// Others reach us elsewhere now.
    Moved(SocketAddr),
    /// Two hosts have one identifier: the datagrams of both were heard.
    Cloned {
        /// The identifier.
        host: HostId,
        /// Where the one is.
        one: SocketAddr,
        /// Where the other is.
        other: SocketAddr,
        /// The latest epoch that was heard of either.
        epoch: u32,
    },
    /// A host seems to speak in an epoch before the latest that was heard of it: its disk was set back.
    Behind {
        /// The host.
        host: HostId,
        /// Where it speaks from; it may be somebody else who does.
        address: SocketAddr,
        /// The latest epoch that was heard.
        epoch: u32,
    },
}

/// How a call went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Called {
    /// It was answered.
    Answer(Vec<u8>),
    /// It was not, or not in time.
    Failed,
    /// The host that was called has proved who it is, and doesn't let us in: we are no member to it.
    Refused,
}

/// How full a share is, as its owner counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Fill {
    /// How many addresses it can still give.
    pub free: u64,
    /// How many are leased.
    pub leased: u64,
    /// Whether this host has a network on the pool.
    pub used: bool,
}

/// Something that only the cluster can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Have the pool be one of the cluster's: found it, or find that it is there and the same.
    Pool(IpNet, Definition),
    /// More room in a pool, in a part of it.
    Space {
        /// The pool.
        pool: IpNet,
        /// The part of it that helps.
        within: IpNet,
    },
    /// One certain address.
    Address(IpNet, std::net::IpAddr),
    /// Let a host in.
    Admit {
        /// The host.
        host: HostId,
        /// Its name.
        name: String,
        /// The SHA-256 of its public key.
        key: [u8; 32],
    },
    /// Forget hosts that are gone for good.
    Forget(Vec<HostId>),
    /// Have another secret be in force.
    Secret(u32, [u8; 32]),
    /// Leave the cluster.
    Leave,
}

/// What comes out, to be carried out in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Keep records durably before carrying out what follows.
    Keep(Vec<(String, Option<Vec<u8>>)>),
    /// Send a datagram.
    Send {
        /// To whom.
        to: HostId,
        /// Where.
        address: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Call a host.
    Call {
        /// Comes back with the answer.
        call: u64,
        /// Whom.
        to: HostId,
        /// Where.
        address: SocketAddr,
        /// What to ask.
        bytes: Vec<u8>,
    },
    /// Answer a call.
    Answer {
        /// As it came.
        call: u64,
        /// The answer.
        bytes: Vec<u8>,
    },
    /// Ask the owner of the shares.
    Share {
        /// The pool.
        pool: IpNet,
        /// Comes back with the outcome.
        ticket: u64,
        /// What.
        deal: Deal,
    },
    /// Ask the store that decides for this cluster. There is always an answer ([`Input::Stored`]), in time for a wish.
    Store {
        /// Comes back with the answer.
        ticket: u64,
        /// Which charter is known here.
        known: crate::store::Known,
        /// What to ask.
        ask: crate::store::Ask,
    },
    /// A wish has come true, or not.
    Done {
        /// As it came.
        ticket: u64,
        /// Nothing, or why not.
        outcome: Result<(), String>,
    },
    /// This host begins another epoch, which is to be kept; its datagrams are sealed in it from here on.
    Epoch(u32),
    /// Who belongs to the cluster has changed, or what secret is in force: see [`super::Node::charter`].
    Charter,
    /// Something to tell people.
    Tell(News),
    /// Rows of others changed as readers see them.
    Seen(Vec<Seen>),
}

/// Something to tell people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A host is there.
    Up(HostId),
    /// A host is not there any more.
    Down(HostId),
    /// A host joined the cluster.
    Joined(HostId),
    /// A host left it.
    Left(HostId, String),
    /// A host was forgotten.
    Forgotten(HostId, String),
    /// Two hosts have one identifier.
    Cloned {
        /// The identifier.
        host: HostId,
        /// Where the one is.
        one: SocketAddr,
        /// Where the other is.
        other: SocketAddr,
    },
    /// This host's disk was set back: others know of later records.
    SetBack(String),
    /// Two hosts know different decrees of one number: an assertion that a host was gone for good was false.
    Torn {
        /// The other host.
        with: HostId,
        /// The number.
        slot: u64,
    },
    /// Whether this host may lease has changed.
    Standing(Standing),
}
