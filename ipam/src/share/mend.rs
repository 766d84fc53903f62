//! A share that came from a disk or from another host: what of it can be.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::Share;
use crate::prefix::common;

/// Why a stored piece or gift cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It has bits beyond its prefix length.
    #[error("it has bits set beyond its prefix length")]
    NotMasked,
    /// It is not of the pool.
    #[error("it does not lie in the pool")]
    Outside,
    /// It shares addresses with one that is newer, or was as good and came first.
    #[error("it overlaps {kept}, which was kept")]
    Overlap {
        /// The one that was kept.
        kept: IpNet,
    },
}

/// A share without the pieces and gifts that cannot be, and which these are. Of two that overlap, the one with the
/// higher sequence number is kept; under the same number a gift, so that nothing is leased that was given away.
pub fn mended(pool: IpNet, share: Share) -> (Share, Vec<(IpNet, Misfit)>) {
    let pieces = share.pieces.iter().map(|(net, piece)| (*net, piece.seq, true));
    let gifts = share.gifts.iter().map(|(net, gift)| (*net, gift.seq, false));
    let mut all: Vec<(IpNet, u64, bool)> = pieces.chain(gifts).collect();
    all.sort_by_key(|(net, seq, piece)| (Reverse(*seq), *piece, *net));
    // What is kept is disjoint, by address.
    let mut kept: BTreeMap<IpNet, bool> = BTreeMap::new();
    let mut misfits = Vec::new();
    for (net, _, piece) in all {
        let misfit = match overlapped(&kept, net) {
            _ if net != net.trunc() => Misfit::NotMasked,
            _ if !pool.contains(&net) => Misfit::Outside,
            Some(kept) => Misfit::Overlap { kept },
            None => {
                kept.insert(net, piece);
                continue;
            }
        };
        misfits.push((net, misfit));
    }
    misfits.sort_by_key(|(net, _)| *net);
    let Share {
        mut pieces,
        mut gifts,
        applied,
        revision,
    } = share;
    pieces.retain(|net, _| kept.get(net) == Some(&true));
    gifts.retain(|net, _| kept.get(net) == Some(&false));
    (
        Share {
            pieces,
            gifts,
            applied,
            revision,
        },
        misfits,
    )
}

/// One of some disjoint prefixes that has an address of this one: it begins before it ends, and next to its start.
fn overlapped(kept: &BTreeMap<IpNet, bool>, net: IpNet) -> Option<IpNet> {
    let from = IpNet::from(net.network());
    let before = kept.range(..=from).next_back();
    let inside = kept.range(from..).next();
    let next = before.into_iter().chain(inside);
    next.map(|(other, _)| *other)
        .find(|other| common(*other, net).is_some())
}
