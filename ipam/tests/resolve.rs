//! Who owns what, by the records of several hosts; and what can be of a record that anybody may have written.

#![allow(
    clippy::unwrap_used,
    reason = "what a test says is well-formed, or the test fails"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::*;
use ipnet::IpNet;
use proptest::prelude::*;
use tombolo_ipam::prefix::{common as meet, sibling};
use tombolo_ipam::range::after;
use tombolo_ipam::share::{Conflict, Misfit, Standing, claims, mended, resolve};
use tombolo_ipam::{Gift, HostId, Piece, Share};

const C: &str = "10.1.0.0/24";

fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

/// A share of pieces (`=` settled, `?` claimed) and gifts (`>`, then `:` and the recipient), each with its number.
fn share(texts: &[&str]) -> Share {
    let mut share = Share::default();
    for text in texts {
        let at = text.find(['=', '?', '>']).unwrap();
        let (place, rest) = text.split_at(at);
        match rest[1..].split_once(':') {
            Some((seq, to)) => {
                let gift = Gift {
                    seq: seq.parse().unwrap(),
                    to: host(to.parse().unwrap()),
                };
                share.gifts.insert(net(place), gift);
            }
            None => {
                let piece = Piece {
                    seq: rest[1..].parse().unwrap(),
                    settled: rest.starts_with('='),
                };
                share.pieces.insert(net(place), piece);
            }
        }
    }
    share
}

/// The owners, as text.
fn owners(rows: &[(u8, &[&str])]) -> Vec<String> {
    let shares: Vec<(HostId, Share)> = rows.iter().map(|(n, texts)| (host(*n), share(texts))).collect();
    let ownership = resolve(net(C), shares.iter().map(|(id, share)| (*id, share)));
    let owned = ownership.owners.iter();
    let mut told: Vec<String> = owned
        .map(|(net, owner)| format!("{net} {}", owner.bytes()[0]))
        .collect();
    told.extend(ownership.gaps.iter().map(|gap| format!("{gap} nobody")));
    told.extend(ownership.conflicts.iter().map(|c| {
        format!(
            "{} {} not {:?}{}",
            c.net,
            c.owner.bytes()[0],
            c.others.iter().map(|o| o.bytes()[0]).collect::<Vec<_>>(),
            if c.leasing { " leasing" } else { "" }
        )
    }));
    told
}

#[test]
fn a_piece_is_its_recipients_from_the_gift_on_whatever_row_is_older() {
    let whole = &["10.1.0.0/24=1"][..];
    let gave = &["10.1.0.0/25=1", "10.1.0.128/25>2:2"][..];
    let done = &["10.1.0.0/25=1"][..];
    let (claimed, settled) = (&["10.1.0.128/25?2"][..], &["10.1.0.128/25=2"][..]);
    let wanted = ["10.1.0.0/25 1", "10.1.0.128/25 2"];
    for (donor, recipient) in [
        (gave, &[][..]),
        (gave, claimed),
        (gave, settled),
        (whole, claimed),
        (whole, settled),
        (done, settled),
    ] {
        assert_eq!(owners(&[(1, donor), (2, recipient)]), wanted);
        assert_eq!(owners(&[(2, recipient), (1, donor)]), wanted);
    }
    assert_eq!(owners(&[(1, whole), (2, &[])]), ["10.1.0.0/24 1"]);
    // The recipient gave it on.
    let on = &["10.1.0.128/25>3:3"][..];
    assert_eq!(
        owners(&[(1, gave), (2, on)]),
        ["10.1.0.0/25 1", "10.1.0.128/25 3"]
    );
}

#[test]
fn prefixes_of_one_owner_are_as_large_as_they_can_be_and_gaps_are_told() {
    assert_eq!(
        owners(&[
            (
                1,
                &[
                    "10.1.0.0/26=4",
                    "10.1.0.64/26?5",
                    "10.1.0.128/27=1",
                    "10.1.0.192/26=1"
                ]
            ),
            (2, &["10.1.0.176/28>9:1", "10.1.0.255/32=2"]),
        ]),
        [
            "10.1.0.0/25 1",
            "10.1.0.128/27 1",
            "10.1.0.176/28 1",
            "10.1.0.192/27 1",
            "10.1.0.224/28 1",
            "10.1.0.240/29 1",
            "10.1.0.248/30 1",
            "10.1.0.252/31 1",
            "10.1.0.254/32 1",
            "10.1.0.255/32 2",
            "10.1.0.160/28 nobody",
        ]
    );
    assert_eq!(owners(&[]), ["10.1.0.0/24 nobody"]);
    assert_eq!(owners(&[(1, &["0.0.0.0/0=1"])]), ["10.1.0.0/24 1"]);
}

#[test]
fn equal_numbers_of_two_hosts_are_a_conflict_that_the_settled_one_wins() {
    assert_eq!(
        owners(&[
            (1, &["10.1.0.0/24?2"]),
            (2, &["10.1.0.0/25=2", "10.1.0.128/25=1"])
        ]),
        ["10.1.0.0/25 2", "10.1.0.128/25 1", "10.1.0.0/25 2 not [1]"]
    );
    assert_eq!(
        owners(&[
            (3, &["10.1.0.0/24=2"]),
            (2, &["10.1.0.0/24=2"]),
            (4, &["10.1.0.0/24>2:5"])
        ]),
        ["10.1.0.0/24 2", "10.1.0.0/24 2 not [3, 5] leasing"]
    );
    // Giver and recipient of one gift never are one.
    assert_eq!(
        owners(&[(1, &["10.1.0.0/24>2:2"]), (2, &["10.1.0.0/24=2"])]),
        ["10.1.0.0/24 2"]
    );
}

/// A prefix among 32 addresses and a few around them, sometimes not masked.
fn a_net(v6: bool) -> impl Strategy<Value = IpNet> {
    (0_u8..40, 0_u8..=6, prop::bool::weighted(0.1)).prop_map(move |(place, bits, raw)| {
        let (base, longest) = if v6 { ("fd00:9::", 128) } else { ("10.9.0.0", 32) };
        let at = (0..place).fold(ip(base), |at, _| after(at).unwrap());
        let net = IpNet::new(at, longest - bits).unwrap();
        if raw { net } else { net.trunc() }
    })
}

fn a_share(v6: bool) -> impl Strategy<Value = Share> {
    let pieces = prop::collection::btree_map(a_net(v6), (0_u64..5, any::<bool>()), 0..8);
    let gifts = prop::collection::btree_map(a_net(v6), (0_u64..5, 0_u8..5), 0..4);
    (pieces, gifts, any::<u64>()).prop_map(|(pieces, gifts, applied)| {
        let piece = |(net, (seq, settled))| (net, Piece { seq, settled });
        let gift = |(net, (seq, to))| (net, Gift { seq, to: host(to) });
        Share {
            pieces: pieces.into_iter().map(piece).collect(),
            gifts: gifts.into_iter().map(gift).collect(),
            applied,
            revision: 0,
        }
    })
}

fn rows() -> impl Strategy<Value = (IpNet, Vec<Share>)> {
    any::<bool>().prop_flat_map(|v6| {
        let pool = net(if v6 { "fd00:9::/123" } else { "10.9.0.0/27" });
        (Just(pool), prop::collection::vec(a_share(v6), 0..5))
    })
}

fn walk(net: IpNet) -> impl Iterator<Item = IpAddr> {
    std::iter::successors(Some(net.network()), |at| after(*at)).take_while(move |at| net.contains(at))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_rows_have_at_each_address_the_owner_that_looking_at_it_finds((pool, shares) in rows()) {
        let rows: Vec<(HostId, &Share)> = (0..).zip(&shares).map(|(n, share)| (host(n), share)).collect();
        let ownership = resolve(pool, rows.iter().copied());
        let mut owners = BTreeMap::new();
        for (net, owner) in &ownership.owners {
            prop_assert!(*net == net.trunc() && pool.contains(net));
            let other = sibling(*net).and_then(|other| ownership.owners.get(&other));
            prop_assert!(*net == pool || other != Some(owner), "{net} could be larger");
            owners.extend(walk(*net).map(|at| (at, *owner)));
        }
        let gaps: BTreeSet<IpAddr> = ownership.gaps.iter().copied().flat_map(walk).collect();
        let mut torn: BTreeMap<IpAddr, &Conflict> = BTreeMap::new();
        for conflict in &ownership.conflicts {
            torn.extend(walk(conflict.net).map(|at| (at, conflict)));
        }
        for at in walk(pool) {
            let all: Vec<_> = claims(rows.iter().copied(), at.into()).collect();
            let top = all.iter().map(|claim| claim.seq).max();
            let best: Vec<_> = all.iter().filter(|claim| Some(claim.seq) == top).collect();
            let strongest = best.iter().map(|claim| claim.standing).max();
            let owner = best.iter().filter(|c| Some(c.standing) == strongest).map(|c| c.owner).min();
            prop_assert_eq!(owners.get(&at).copied(), owner);
            prop_assert_eq!(gaps.contains(&at), owner.is_none());
            let hosts: BTreeSet<HostId> = best.iter().map(|claim| claim.owner).collect();
            let settled: BTreeSet<HostId> =
                best.iter().filter(|c| c.standing == Standing::Settled).map(|c| c.owner).collect();
            match torn.get(&at) {
                None => prop_assert!(hosts.len() < 2),
                Some(conflict) => {
                    let mut told = conflict.others.clone();
                    told.insert(conflict.owner);
                    prop_assert_eq!((told, Some(conflict.owner), Some(conflict.seq)), (hosts, owner, top));
                    prop_assert_eq!(conflict.leasing, settled.len() > 1);
                }
            }
        }
    }

    #[test]
    fn of_any_share_what_can_be_is_kept_and_the_rest_told((pool, shares) in rows()) {
        for share in shares {
            let (kept, misfits) = mended(pool, share.clone());
            let nets: Vec<IpNet> = kept.pieces.keys().chain(kept.gifts.keys()).copied().collect();
            for (n, net) in nets.iter().enumerate() {
                prop_assert!(*net == net.trunc() && pool.contains(net));
                prop_assert!(nets[n + 1..].iter().all(|other| meet(*net, *other).is_none()));
            }
            prop_assert_eq!(nets.len() + misfits.len(), share.pieces.len() + share.gifts.len());
            let seq = |of: &Share, net: &IpNet| {
                let piece = of.pieces.get(net).map(|piece| piece.seq);
                piece.max(of.gifts.get(net).map(|gift| gift.seq))
            };
            for (net, misfit) in misfits {
                match misfit {
                    Misfit::NotMasked => prop_assert_ne!(net, net.trunc()),
                    Misfit::Outside => prop_assert!(!pool.contains(&net)),
                    Misfit::Overlap { kept: other } => {
                        prop_assert!(meet(net, other).is_some());
                        let lost = [share.pieces.get(&net).map(|p| p.seq), share.gifts.get(&net).map(|g| g.seq)];
                        prop_assert!(lost.into_iter().flatten().min() <= seq(&kept, &other));
                    }
                }
            }
            prop_assert_eq!(mended(pool, kept.clone()), (kept, vec![]));
        }
    }
}
