//! What an heir is granted of the shares of lost hosts.
//!
//! Several records may speak of the same addresses: a piece that its host had given away and the claim of the recipient,
//! a claim that came too late, a grant that was never applied. The highest number wins, as everywhere.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use tombolo_ipam::HostId;

use super::{Charter, Grant, Held};

/// Disjoint, masked prefixes, each with what is said of it.
type Pieces<V> = BTreeMap<IpNet, V>;

/// The grants to the heir at the charter's index: for each pool what the lost hosts owned, claimed or were still to be
/// granted, and the gifts that they had not brought to an end.
///
/// A piece's number rises by two: by one it could equal that of a claim on a gift that its host had begun to give and
/// that no majority knows of; such a claim has to lose.
pub(super) fn grants(
    charter: &Charter,
    lost: &BTreeSet<HostId>,
    heir: HostId,
    shares: &BTreeMap<HostId, BTreeMap<IpNet, Held>>,
) -> Vec<Grant> {
    let mut grants = Vec::new();
    for (pool, founded) in &charter.pools {
        let living = shares.iter().filter(|(host, _)| !lost.contains(host));
        let held = living
            .filter_map(|(_, share)| share.get(pool))
            .flat_map(|held| &held.pieces);
        let living = highest(held.copied());
        let mut said: Vec<Said> = Vec::new();
        for host in lost {
            let held = shares.get(host).and_then(|share| share.get(pool));
            if let Some(held) = held {
                said.extend(held.pieces.iter().map(|(net, seq)| Said::piece(*net, *seq)));
                said.extend(
                    held.gifts
                        .iter()
                        .map(|(net, seq, to)| Said::gift(*net, *seq, *to)),
                );
            }
            for grant in charter.due(*host, *pool, held.map_or(0, |held| held.applied)) {
                said.extend(grant.pieces.iter().map(|(net, seq)| Said::piece(*net, *seq)));
                said.extend(
                    grant
                        .gifts
                        .iter()
                        .map(|(net, seq, to)| Said::gift(*net, *seq, *to)),
                );
            }
        }
        said.retain(|word| pool.contains(&word.net));
        // Highest number first; a claim before the gift that it answers.
        said.sort_by_key(|word| (std::cmp::Reverse(word.seq), word.to, word.net));
        let mut taken: Pieces<Option<HostId>> = Pieces::new();
        let (mut pieces, mut gifts) = (Vec::new(), Vec::new());
        for word in said {
            // What a decree gave out with a higher number isn't this host's any more, whatever its row says; nor is
            // what another host has by two transfers more. By one it may be a claim that nobody knows the gift of.
            let (older, passed) = (|floor: &u64| *floor > word.seq, |seq: &u64| later(word.seq, *seq));
            match word.to {
                None => {
                    let (mut free, mut ours, mut left) = (Vec::new(), Vec::new(), Vec::new());
                    uncovered(&taken, word.net, &|_| true, &mut free);
                    free.into_iter()
                        .for_each(|net| uncovered(&founded.floor, net, &older, &mut ours));
                    ours.into_iter()
                        .for_each(|net| uncovered(&living, net, &passed, &mut left));
                    taken.extend(left.iter().map(|net| (*net, None)));
                    pieces.extend(left.into_iter().map(|net| (net, word.seq.saturating_add(2))));
                }
                // A gift is claimed whole: if anybody has any of it with a number as high, it was brought to an end.
                Some(to) => {
                    let free = !overlaps(&taken, word.net, &|_| true);
                    let done = overlaps(&founded.floor, word.net, &older)
                        || overlaps(&living, word.net, &|seq| *seq > word.seq);
                    if free && !done {
                        taken.insert(word.net, Some(to));
                        gifts.push((word.net, word.seq, to));
                    }
                }
            }
        }
        if !pieces.is_empty() || !gifts.is_empty() {
            pieces.sort();
            gifts.sort();
            grants.push(Grant {
                at: charter.index,
                to: heir,
                pool: *pool,
                pieces,
                gifts,
            });
        }
    }
    grants
}

/// Whether a piece with the second number has been passed on since it had the first one, by a host that had settled it.
pub(crate) fn later(seq: u64, other: u64) -> bool {
    other >= seq.saturating_add(2)
}

/// Disjoint pieces with the highest number that any of these has there.
fn highest(pieces: impl Iterator<Item = (IpNet, u64)>) -> Pieces<u64> {
    let mut pieces: Vec<(IpNet, u64)> = pieces.map(|(net, seq)| (net.trunc(), seq)).collect();
    pieces.sort_by_key(|(net, seq)| (*seq, *net));
    let mut highest = Pieces::new();
    raise(&mut highest, &pieces);
    highest
}

/// Notes that a decree gave out these pieces, with numbers no lower than all that were given out there before.
pub(super) fn raise(floor: &mut Pieces<u64>, pieces: &[(IpNet, u64)]) {
    for (net, seq) in pieces {
        // An older piece around the new one is cut; older ones within it are gone.
        while let Some((old, number)) = around(floor, *net).or_else(|| within(floor, *net)) {
            floor.remove(&old);
            let mut rest = Vec::new();
            uncovered(&Pieces::from([(*net, ())]), old, &|()| true, &mut rest);
            floor.extend(rest.into_iter().map(|net| (net, number)));
        }
        floor.insert(*net, *seq);
    }
}

/// What a share or a grant says of a piece: owned, or on its way to somebody.
struct Said {
    net: IpNet,
    seq: u64,
    to: Option<HostId>,
}

impl Said {
    fn piece(net: IpNet, seq: u64) -> Self {
        Self {
            net: net.trunc(),
            seq,
            to: None,
        }
    }

    fn gift(net: IpNet, seq: u64, to: HostId) -> Self {
        Self {
            net: net.trunc(),
            seq,
            to: Some(to),
        }
    }
}

/// The prefix that holds all of `net`, with its value.
fn around<V: Copy>(pieces: &Pieces<V>, net: IpNet) -> Option<(IpNet, V)> {
    std::iter::successors(Some(net), IpNet::supernet)
        .find_map(|net| pieces.get(&net).map(|value| (net, *value)))
}

/// The first prefix that lies in `net`. Disjoint and masked prefixes sort by their addresses, so those within a prefix
/// follow where it would stand itself.
fn within<V: Copy>(pieces: &Pieces<V>, net: IpNet) -> Option<(IpNet, V)> {
    let (first, value) = pieces.range(net..).next()?;
    net.contains(first).then_some((*first, *value))
}

/// Whether a prefix that counts shares addresses with `net`.
fn overlaps<V: Copy>(pieces: &Pieces<V>, net: IpNet, counts: &dyn Fn(&V) -> bool) -> bool {
    let inside = || pieces.range(net..).take_while(|(piece, _)| net.contains(*piece));
    around(pieces, net).is_some_and(|(_, value)| counts(&value)) || inside().any(|(_, value)| counts(value))
}

/// The parts of `net` that no prefix that counts holds, into `free`, as few as there can be. The depth is at most the
/// family's 32 or 128 bits.
fn uncovered<V: Copy>(pieces: &Pieces<V>, net: IpNet, counts: &dyn Fn(&V) -> bool, free: &mut Vec<IpNet>) {
    if around(pieces, net).is_some_and(|(_, value)| counts(&value)) {
        return;
    }
    if !overlaps(pieces, net, counts) {
        free.push(net);
        return;
    }
    if let Ok(halves) = net.subnets(net.prefix_len().saturating_add(1)) {
        halves.for_each(|half| uncovered(pieces, half, counts, free));
    }
}
