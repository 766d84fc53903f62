//! A host's share of a cluster pool: which pieces of it the host owns, and which it has given away.
//!
//! Only the host itself writes its share, makes it durable, and then shows it to the others. A piece changes hands
//! by two such records, and nobody leases from it until a majority of the hosts has witnessed both:
//!
//! ```text
//!   donor                              recipient                       piece
//!   piece .64/26 seq 3, settled        -                               donor leases
//!   gift  .64/26 seq 4 to recipient    -                       give    nobody leases
//!   gift  .64/26 seq 4                 piece .64/26 seq 4      claim   nobody leases
//!   gift  .64/26 seq 4                 the same, settled       settle  recipient leases
//!   -                                  the same, settled       gift_done
//! ```
//!
//! Each change of hands raises the piece's sequence number, so of two records about one address the higher one is
//! newer, whatever the order in which they arrive. Pieces, gifts and whatever a majority decides are aligned
//! prefixes; two settled halves of one prefix become that prefix.
//!
//! What the caller has to see to, as it knows the other hosts and this does not:
//! - *Claim* what another host's record gives to this one, if no record that it knows of has a higher number there;
//!   *disclaim* it when one has, or when a majority decided otherwise.
//! - *Settle* a claim when a majority has made the gift and the claim durable, and knew of nothing newer there.
//! - A *gift is done* when a majority has the recipient's settled record. Earlier, that record could be lost with the
//!   recipient, and the piece would be nobody's.
//! - *Regain* a gift when a majority has decided that its recipient is no more, and none of a majority knows it to be
//!   settled: with the recipient or its heir, or with somebody whom the recipient gave it to. Where some do know that,
//!   the gift is done as above. Both may be so for a part of it.

mod deal;
mod deeds;
mod give;
mod mend;
mod resolve;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::host::HostId;
use crate::prefix::{common, sibling, subtract};

pub use deal::Deal;
pub use deeds::Summary;
pub use give::{Ask, MOST_PIECES, NoGift};
pub use mend::{Misfit, mended};
pub use resolve::{Claim, Conflict, Ownership, Standing, claims, resolve};

/// A piece that this host owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// How often it has changed hands, at least.
    pub seq: u64,
    /// Whether a majority has witnessed it: addresses may be leased from it.
    pub settled: bool,
}

/// A piece that this host gave away and whose recipient has not settled it yet, as far as this host knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gift {
    /// The sequence number that its recipient has it under.
    pub seq: u64,
    /// The recipient.
    pub to: HostId,
}

/// A host's share of one cluster pool: its durable record, and the row that others read.
///
/// One that is empty still counts: it keeps `applied`, and a pool with it leases nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// What it owns. No two of these and of the gifts have an address in common.
    pub pieces: BTreeMap<IpNet, Piece>,
    /// What it gave away.
    pub gifts: BTreeMap<IpNet, Gift>,
    /// The last decree whose grants it has taken up.
    pub applied: u64,
    /// Rises with each change, so that of two records of one host the later one is known.
    #[serde(default)]
    pub revision: u64,
}

impl Share {
    /// The pieces that addresses may be leased from, in their order.
    pub fn settled(&self) -> impl Iterator<Item = (IpNet, u64)> + '_ {
        let settled = self.pieces.iter().filter(|(_, piece)| piece.settled);
        settled.map(|(net, piece)| (*net, piece.seq))
    }

    /// Whether the address lies in a settled piece.
    pub fn leases(&self, address: IpAddr) -> bool {
        self.piece_of(address).is_some_and(|(_, piece)| piece.settled)
    }

    /// The piece that the address lies in.
    pub fn piece_of(&self, address: IpAddr) -> Option<(IpNet, Piece)> {
        // As pieces are disjoint, the last one that begins at or before the address is the only one that can have it.
        let (net, piece) = self.pieces.range(..=IpNet::from(address)).next_back()?;
        net.contains(&address).then_some((*net, *piece))
    }

    /// The gift that the address lies in.
    pub fn gift_of(&self, address: IpAddr) -> Option<(IpNet, Gift)> {
        let (net, gift) = self.gifts.range(..=IpNet::from(address)).next_back()?;
        net.contains(&address).then_some((*net, *gift))
    }

    /// What the settled pieces have from `first` to `last`, both counted, each with its first and last address.
    pub(crate) fn spans(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        self.settled()
            .map(move |(net, _)| (net.network().max(first), net.broadcast().min(last)))
            .filter(|(first, last)| first <= last)
    }

    /// Takes everything that `yields` out of a prefix, and returns what of the prefix nothing that stays stands in. It is
    /// asked with the sequence number, and whether it is a settled piece or a gift rather than a claim.
    fn clear(&mut self, net: IpNet, yields: impl Fn(u64, bool) -> bool) -> Vec<IpNet> {
        let mut room = vec![net];
        let mut keep_out = |other: IpNet| {
            room = room.iter().flat_map(|part| subtract(*part, other)).collect();
        };
        let (pieces, gifts) = (self.meeting(net), self.gifts_meeting(net));
        for (other, piece) in pieces {
            match yields(piece.seq, piece.settled) {
                true => {
                    self.pieces.remove(&other);
                    let rest = subtract(other, net).into_iter();
                    self.pieces.extend(rest.map(|part| (part, piece)));
                }
                false => keep_out(other),
            }
        }
        for (other, gift) in gifts {
            match yields(gift.seq, true) {
                true => self.split_gift(other, gift, net),
                false => keep_out(other),
            }
        }
        room
    }

    /// Takes a prefix out of a gift; what else it has stays given.
    fn split_gift(&mut self, net: IpNet, gift: Gift, hole: IpNet) {
        self.gifts.remove(&net);
        let rest = subtract(net, hole).into_iter();
        self.gifts.extend(rest.map(|part| (part, gift)));
    }

    /// The pieces that have an address of a prefix.
    fn meeting(&self, net: IpNet) -> Vec<(IpNet, Piece)> {
        let pieces = self.pieces.iter();
        let meeting = pieces.filter(|(other, _)| common(**other, net).is_some());
        meeting.map(|(other, piece)| (*other, *piece)).collect()
    }

    /// The gifts that have an address of a prefix.
    fn gifts_meeting(&self, net: IpNet) -> Vec<(IpNet, Gift)> {
        let gifts = self.gifts.iter();
        let meeting = gifts.filter(|(other, _)| common(**other, net).is_some());
        meeting.map(|(other, gift)| (*other, *gift)).collect()
    }

    /// Makes one of this settled piece and its other half while both are settled, and so on upwards to the pool.
    fn merge(&mut self, pool: IpNet, net: IpNet) {
        let mut at = net;
        while at != pool
            && let (Some(other), Some(above)) = (sibling(at), at.supernet())
            && let (Some(one), Some(two)) = (self.pieces.get(&at), self.pieces.get(&other))
            && one.settled
            && two.settled
        {
            let seq = one.seq.max(two.seq);
            self.pieces.remove(&at);
            self.pieces.remove(&other);
            self.pieces.insert(above, Piece { seq, settled: true });
            at = above;
        }
    }

    /// Puts a piece where nothing stands, and merges it if it is settled.
    fn put(&mut self, pool: IpNet, net: IpNet, piece: Piece) {
        self.pieces.insert(net, piece);
        if piece.settled {
            self.merge(pool, net);
        }
    }
}
