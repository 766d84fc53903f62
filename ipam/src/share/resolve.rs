//! Who owns what, by the records of all hosts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Share;
use crate::host::HostId;
use crate::prefix::{common, cover};
use crate::range::{after, before};

/// What a claim rests on; the greater stands where two have one sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Somebody else's gift to the owner.
    Given,
    /// The owner's own record, which a majority has yet to witness.
    Claimed,
    /// The owner's own record, which a majority has witnessed.
    Settled,
}

/// What one record says of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The prefix.
    pub net: IpNet,
    /// Under which sequence number.
    pub seq: u64,
    /// Whose it is.
    pub owner: HostId,
    /// What it rests on.
    pub standing: Standing,
    /// Whose record it is: the giver's or the owner's.
    pub by: HostId,
}

/// What the records say of a prefix: every piece and gift that has an address of it. What no pool can have, as it has
/// bits beyond its length, is not told.
pub fn claims<'a>(
    rows: impl IntoIterator<Item = (HostId, &'a Share)>,
    net: IpNet,
) -> impl Iterator<Item = Claim> {
    let all = rows.into_iter().flat_map(|(by, share)| {
        let pieces = share.pieces.iter().map(move |(net, piece)| Claim {
            net: *net,
            seq: piece.seq,
            owner: by,
            standing: match piece.settled {
                true => Standing::Settled,
                false => Standing::Claimed,
            },
            by,
        });
        let gifts = share.gifts.iter().map(move |(net, gift)| Claim {
            net: *net,
            seq: gift.seq,
            owner: gift.to,
            standing: Standing::Given,
            by,
        });
        pieces.chain(gifts)
    });
    all.filter(move |claim| claim.net == claim.net.trunc() && common(claim.net, net).is_some())
}

/// Two or more hosts that have one prefix under one sequence number, and none has it under a higher one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The prefix.
    pub net: IpNet,
    /// The sequence number.
    pub seq: u64,
    /// Who counts as its owner: whose claim stands best, and of these the host with the lowest identifier.
    pub owner: HostId,
    /// Who else has it.
    pub others: BTreeSet<HostId>,
    /// Whether more than one has it settled, so that an address may be leased twice. Otherwise the others' claims are
    /// void, and pass when these hosts learn of it.
    pub leasing: bool,
}

/// Who owns what of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The owner of each prefix: the largest aligned ones, in their order.
    pub owners: BTreeMap<IpNet, HostId>,
    /// What nobody owns, in its order.
    pub gaps: Vec<IpNet>,
    /// What more than one host has equally, in its order.
    pub conflicts: Vec<Conflict>,
}

/// The order in which claims win.
type Rank = (u64, Standing, Reverse<HostId>);

/// Says who owns what of a pool: at each address whoever has it under the highest sequence number. A gift counts for its
/// recipient, who has it under the same number in its own record once it has claimed it.
pub fn resolve<'a>(pool: IpNet, rows: impl IntoIterator<Item = (HostId, &'a Share)>) -> Ownership {
    let pool = pool.trunc();
    // At each address where something begins (true) or has ended: what. A claim may reach beyond the pool.
    let mut edges: BTreeMap<IpAddr, Vec<(bool, Rank)>> = BTreeMap::from([(pool.network(), Vec::new())]);
    for claim in claims(rows, pool) {
        let Some(net) = common(claim.net, pool) else {
            continue;
        };
        let rank = (claim.seq, claim.standing, Reverse(claim.owner));
        edges.entry(net.network()).or_default().push((true, rank));
        if let Some(end) = after(net.broadcast()).filter(|end| pool.contains(end)) {
            edges.entry(end).or_default().push((false, rank));
        }
    }
    let ends: Vec<IpAddr> = edges.keys().skip(1).filter_map(|next| before(*next)).collect();
    let ends = ends.into_iter().chain([pool.broadcast()]);
    let (mut owned, mut torn) = (Stretches::default(), Stretches::default());
    let mut active: BTreeMap<Rank, usize> = BTreeMap::new();
    for ((first, changes), last) in edges.into_iter().zip(ends) {
        for (begins, rank) in changes {
            let count = active.entry(rank).or_default();
            *count = match begins {
                true => count.saturating_add(1),
                false => count.saturating_sub(1),
            };
            if *count == 0 {
                active.remove(&rank);
            }
        }
        owned.push(first, last, winner(&active));
        torn.push(first, last, dispute(&active));
    }
    let mut ownership = Ownership::default();
    for (net, owner) in owned.prefixes() {
        match owner {
            Some(owner) => drop(ownership.owners.insert(net, owner)),
            None => ownership.gaps.push(net),
        }
    }
    for (net, dispute) in torn.prefixes() {
        if let Some((seq, owner, others, leasing)) = dispute {
            ownership.conflicts.push(Conflict {
                net,
                seq,
                owner,
                others,
                leasing,
            });
        }
    }
    ownership
}

/// Whose claim stands best.
fn winner(active: &BTreeMap<Rank, usize>) -> Option<HostId> {
    active.last_key_value().map(|(rank, _)| rank.2.0)
}

/// Who else has the highest sequence number, if anybody.
fn dispute(active: &BTreeMap<Rank, usize>) -> Option<(u64, HostId, BTreeSet<HostId>, bool)> {
    let (&(seq, _, Reverse(owner)), _) = active.last_key_value()?;
    let equal = active.keys().rev().take_while(|rank| rank.0 == seq);
    let (mut others, mut settled) = (BTreeSet::new(), BTreeSet::new());
    for (_, standing, Reverse(host)) in equal {
        if *host != owner {
            others.insert(*host);
        }
        if *standing == Standing::Settled {
            settled.insert(*host);
        }
    }
    (!others.is_empty()).then_some((seq, owner, others, settled.len() > 1))
}

/// Neighbouring stretches of addresses, each with a value that the next one has not.
struct Stretches<T>(Vec<(IpAddr, IpAddr, T)>);

impl<T> Default for Stretches<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone + PartialEq> Stretches<T> {
    /// Adds the next stretch.
    fn push(&mut self, first: IpAddr, last: IpAddr, value: T) {
        match self.0.last_mut() {
            Some((_, end, same)) if *same == value => *end = last,
            _ => self.0.push((first, last, value)),
        }
    }

    /// The largest aligned prefixes of each.
    fn prefixes(self) -> impl Iterator<Item = (IpNet, T)> {
        self.0
            .into_iter()
            .flat_map(|(first, last, value)| cover(first, last).map(move |net| (net, value.clone())))
    }
}
