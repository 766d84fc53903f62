//! Why a decree changes nothing.

use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::HostId;

use super::{How, TooMuch};

/// Why a decree changes nothing. Hosts that have a name stand in the text with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Void {
    /// A host that never was a member, or was one so long ago that nobody remembers.
    #[error("host {host} is no member of the cluster: only a member can be named here")]
    NoMember {
        /// The host.
        host: HostId,
    },
    /// A host that was a member.
    #[error(
        "host {host} {} the cluster at decree {at}: its identifier never comes back, a new one has to be drawn",
        match how { How::Left => "left", How::Forgotten { .. } => "was lost to" }
    )]
    Gone {
        /// The host.
        host: String,
        /// In which way it went.
        how: How,
        /// The decree.
        at: u64,
    },
    /// Two hosts with one identifier.
    #[error(
        "host {host} is a member with the key {theirs}, and this one has the key {ours}: two hosts have one identifier, \
         the one that came last has to draw a new one"
    )]
    OtherKey {
        /// The host.
        host: String,
        /// The head of the member's key.
        theirs: String,
        /// The head of the key that came.
        ours: String,
    },
    /// Two hosts with one key.
    #[error("host {name} ({host}) has the key of the member {other}: each host has to draw its own")]
    KeyTaken {
        /// Who would join.
        host: HostId,
        /// Its name.
        name: String,
        /// The member.
        other: String,
    },
    /// The last host cannot leave.
    #[error("host {host} is the last one of the cluster: nobody would be left to decide anything")]
    LastHost {
        /// The host.
        host: String,
    },
    /// A `Forget` that names no host.
    #[error("no host was named as lost: at least one is needed")]
    Nobody,
    /// An heir that is lost itself.
    #[error("host {heir} is among the lost ones: it cannot inherit from them, another member has to")]
    LostHeir {
        /// The heir.
        heir: String,
    },
    /// A pool that shares addresses with one that was founded.
    #[error("pool {wanted} overlaps pool {existing}, founded by {by}")]
    Overlap {
        /// The pool to found.
        wanted: IpNet,
        /// The pool in its way.
        existing: IpNet,
        /// Who founded that, and when.
        by: String,
    },
    /// A name that another pool has.
    #[error("pool {wanted} is to be called '{net}', and so is pool {existing}, founded by {by}")]
    NetTaken {
        /// The name.
        net: String,
        /// The pool to found.
        wanted: IpNet,
        /// The pool that has the name.
        existing: IpNet,
        /// Who founded that, and when.
        by: String,
    },
    /// A VXLAN network identifier that another pool has.
    #[error("pool {wanted} is to have VNI {vni}, and so has pool {existing}, founded by {by}")]
    VniTaken {
        /// The identifier.
        vni: u32,
        /// The pool to found.
        wanted: IpNet,
        /// The pool that has it.
        existing: IpNet,
        /// Who founded that, and when.
        by: String,
    },
    /// A pool with bits beyond its prefix length.
    #[error("pool {got} has bits set beyond its prefix length: write {masked}")]
    NotMasked {
        /// As it came.
        got: IpNet,
        /// What was probably meant.
        masked: IpNet,
    },
    /// An address of a definition that isn't the pool's.
    #[error("{field} {address} does not lie in pool {pool}")]
    Outside {
        /// `gateway` or `aux address`.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: IpNet,
    },
    /// A pool that isn't there.
    #[error("pool {pool} was not founded, or has ended already")]
    NoPool {
        /// The pool.
        pool: IpNet,
    },
    /// Somebody was faster.
    #[error("what belongs to pool {pool} was decided anew meanwhile: try again")]
    DefinedAnew {
        /// The pool.
        pool: IpNet,
    },
    /// A secret out of turn.
    #[error("secret {got} cannot be put in force: {inforce} is, so only {allowed} is allowed")]
    Number {
        /// The number that came.
        got: u32,
        /// That of the secret in force.
        inforce: u32,
        /// The one after it.
        allowed: u32,
    },
    /// More than is allowed.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
}

impl Void {
    /// The head of a key's digest, enough to tell two apart.
    pub(super) fn key(key: &[u8; 32]) -> String {
        key.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
