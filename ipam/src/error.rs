//! What is refused, and why. Deciding changes nothing, so after any of these nothing was changed.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::pool::{KeptOut, PoolId, Space};
use crate::slot::Use;

/// Why a request was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A text that is no pool's identifier.
    #[error(
        "'{got}' is no pool identifier: SPACE/SUBNET or SPACE/SUBNET/RANGE is allowed, such as local/10.1.0.0/24, \
         with SPACE 'local' or 'global'"
    )]
    NoPoolId {
        /// The text, cut to a readable length.
        got: String,
    },
    /// A text that is no host's identifier.
    #[error("'{got}' is no host identifier: 32 hexadecimal digits are allowed")]
    NoHostId {
        /// The text, cut to a readable length.
        got: String,
    },
    /// A text that is no entry of the list of address pools.
    #[error("'{got}' is no address pool: BASE:SIZE is allowed, such as 10.208.0.0/12:24 or fd00::/48:64")]
    NoCarve {
        /// The text, cut to a readable length.
        got: String,
    },
    /// An entry of the list of address pools whose subnets would be larger than its base or smaller than an address.
    #[error("address pool {base}:{size} cannot be cut: its size must be {} to {}", base.prefix_len(), base.max_prefix_len())]
    CarveSize {
        /// The addresses to cut from.
        base: IpNet,
        /// The prefix length asked for.
        size: u8,
    },
    /// A subnet whose address has bits beyond its prefix length.
    #[error("{field} {got} has bits set beyond its prefix length: write {masked}")]
    NotMasked {
        /// Where it stands: `pool`, `range` or `address pool`.
        field: &'static str,
        /// The subnet as it came.
        got: IpNet,
        /// What was probably meant.
        masked: IpNet,
    },
    /// A range that lies outside its pool, or is of the other family.
    #[error("range {range} does not lie in pool {pool}")]
    RangeOutside {
        /// The pool's addresses.
        pool: IpNet,
        /// The range.
        range: IpNet,
    },
    /// A range for a pool that is ours to choose.
    #[error("range {range} was given without a pool: name the subnet that it belongs to")]
    RangeWithoutPool {
        /// The range.
        range: IpNet,
    },
    /// The very pool was given already, and this is not a repeat of that request.
    #[error("pool {pool} was given already: choose another subnet, or one range of it for each network")]
    Given {
        /// The pool.
        pool: PoolId,
    },
    /// A pool that shares addresses with another one.
    #[error(
        "pool {wanted} overlaps pool {existing}: choose another subnet, or disjoint ranges of the same subnet"
    )]
    Overlap {
        /// The pool asked for.
        wanted: PoolId,
        /// The pool that stands in its way.
        existing: PoolId,
    },
    /// "Any subnet of this size" with a size that the family does not have.
    #[error("a subnet of prefix length {prefix} was asked for: 0 to {longest} is allowed")]
    PrefixTooLong {
        /// The prefix length.
        prefix: u8,
        /// The family's longest one.
        longest: u8,
    },
    /// No subnet is left that we may choose.
    #[error(
        "no subnet is left for a pool in the {space} space: none of {tried} in address pools [{bases}] is free of other \
         pools and of this host's own addresses and routes; name a subnet, or configure more address pools"
    )]
    NoSubnet {
        /// The address space.
        space: Space,
        /// How many subnets were to choose from; at most `u64::MAX`.
        tried: u64,
        /// The entries of the list that hold subnets of the family and size.
        bases: String,
    },
    /// A pool that nobody was given, or that was released.
    #[error("there is no pool {pool}")]
    NoPool {
        /// The pool.
        pool: PoolId,
    },
    /// An address outside its pool, or of the other family.
    #[error("address {address} does not lie in pool {pool}")]
    Outside {
        /// The pool.
        pool: PoolId,
        /// The address.
        address: IpAddr,
    },
    /// An address that no gateway and no endpoint can have.
    #[error("address {address} of pool {pool} is {why}: it can only be kept as an auxiliary address")]
    KeptOut {
        /// The pool.
        pool: PoolId,
        /// The address.
        address: IpAddr,
        /// What it is.
        why: KeptOut,
    },
    /// An address that somebody holds.
    #[error(
        "address {address} of pool {pool} is in use by {holder} of pool {owner}: choose another or name none"
    )]
    InUse {
        /// The pool it was asked from.
        pool: PoolId,
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: Use,
        /// The pool that its holder had it from: the same one, or another range of the same subnet.
        owner: PoolId,
    },
    /// A second gateway: a second network is being made on one pool.
    #[error(
        "pool {pool} has its gateway {gateway} already: another network uses this subnet, choose another one"
    )]
    HasGateway {
        /// The pool.
        pool: PoolId,
        /// Its gateway.
        gateway: IpAddr,
    },
    /// An auxiliary address that was not named: there is nothing to keep.
    #[error("an auxiliary address of pool {pool} was asked for without naming it")]
    AuxWithoutAddress {
        /// The pool.
        pool: PoolId,
    },
    /// Every address that may be given without being named is leased.
    #[error(
        "pool {pool} has no free address: {leases} of its addresses are leased; release some, or use a larger subnet or range"
    )]
    Exhausted {
        /// The pool.
        pool: PoolId,
        /// How many addresses it has leased.
        leases: usize,
    },
    /// An address of a cluster pool that is not this host's to lease.
    #[error(
        "address {address} of pool {pool} is not in what this host owns of the pool: it is another host's, or on its way"
    )]
    Foreign {
        /// The pool.
        pool: PoolId,
        /// The address.
        address: IpAddr,
    },
    /// Every address of a cluster pool that this host may give without its being named is leased.
    #[error(
        "this host's share of pool {pool} has no free address: it has {pieces} pieces there, and {leases} addresses are \
         leased; more must come from other hosts"
    )]
    ShareExhausted {
        /// The pool.
        pool: PoolId,
        /// How many settled pieces of it this host owns, where the pool gives addresses.
        pieces: usize,
        /// How many addresses it has leased.
        leases: usize,
    },
}

/// A text cut to a length that fits a message: it may be anything that came through a socket.
pub(crate) fn cut(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}
