//! Shares of cluster pools: what is leased, what becomes of a piece on its way, and what is stored.

#![allow(
    clippy::unwrap_used,
    reason = "what a test says is well-formed, or the test fails"
)]

mod common;

use std::collections::BTreeMap;

use common::*;
use ipnet::IpNet;
use tombolo_ipam::share::Summary;
use tombolo_ipam::{Ask, Edit, Error, Gift, Ipam, Piece, Problem, Share, Use, Want};

const C: &str = "10.1.0.0/24";
const P: &str = "local/10.1.0.0/24";

#[test]
fn endpoints_get_addresses_of_settled_pieces_only_around_and_around() {
    let mut ipam = with_pieces(C, &["10.1.0.8/30", "10.1.0.64/31", "10.1.0.255/32"], &[P]);
    let edits = ipam.claim(net(C), net("10.1.0.32/27"), 2);
    done(&mut ipam, edits);
    assert_eq!(
        lease(&mut ipam, P, unnamed(Use::Gateway), 0).unwrap(),
        "10.1.0.1/24"
    );
    let next = |ipam: &mut Ipam| lease(ipam, P, unnamed(endpoint()), 0);
    for wanted in [".8", ".9", ".10", ".11", ".64", ".65"] {
        assert_eq!(next(&mut ipam).unwrap(), format!("10.1.0{wanted}/24"));
    }
    let refused = next(&mut ipam).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "this host's share of pool local/10.1.0.0/24 has no free address: it has 2 pieces there, and 7 addresses are \
         leased; more must come from other hosts"
    );
    free(&mut ipam, P, "10.1.0.64", 5);
    free(&mut ipam, P, "10.1.0.9", 6);
    assert_eq!(ipam.fill(&id(P)).free, 2);
    assert_eq!(next(&mut ipam).unwrap(), "10.1.0.64/24", "freed first");
    assert_eq!(next(&mut ipam).unwrap(), "10.1.0.9/24");
}

#[test]
fn a_named_address_outside_the_share_is_anothers_but_not_for_gateways_and_auxiliaries() {
    let mut ipam = with_pieces(C, &["10.1.0.128/25"], &[P]);
    let refused = lease(&mut ipam, P, this("10.1.0.7", named("web")), 0).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "address 10.1.0.7 of pool local/10.1.0.0/24 is not in what this host owns of the pool: it is another host's, \
         or on its way"
    );
    assert!(lease(&mut ipam, P, this("10.1.0.200", named("web")), 0).is_ok());
    assert!(lease(&mut ipam, P, this("10.1.0.7", Use::Aux), 0).is_ok());
    assert!(lease(&mut ipam, P, this("10.1.0.9", Use::Gateway), 0).is_ok());
    free(&mut ipam, P, "10.1.0.7", 0);
    assert_eq!(ipam.fill(&id(P)).cooling, 0, "what is not ours does not cool");
}

#[test]
fn what_cools_outside_the_share_is_never_given() {
    let mut ipam = with(&[P]);
    for address in ["10.1.0.7", "10.1.0.9"] {
        lease(&mut ipam, P, this(address, endpoint()), 0).unwrap();
        free(&mut ipam, P, address, 0);
    }
    let edits = ipam.grant(net(C), 1, &[(net("10.1.0.9/32"), 1)], &[]);
    done(&mut ipam, edits);
    assert_eq!(
        lease(&mut ipam, P, unnamed(endpoint()), 0).unwrap(),
        "10.1.0.9/24"
    );
    assert!(matches!(
        lease(&mut ipam, P, unnamed(endpoint()), 500),
        Err(Error::ShareExhausted { pieces: 1, .. })
    ));
}

#[test]
fn a_pool_that_entered_the_cluster_leases_nothing_before_it_owns_something() {
    let mut ipam = with(&[P]);
    let edits = ipam.enter(net(C));
    done(&mut ipam, edits);
    assert_eq!(ipam.enter(net(C)), []);
    assert_eq!(ipam.enter(net("10.1.0.0/16")), [], "it overlaps");
    assert_eq!(ipam.claim(net("10.1.0.0/16"), net("10.1.0.0/16"), 1), []);
    assert!(matches!(
        lease(&mut ipam, P, unnamed(endpoint()), 0),
        Err(Error::ShareExhausted { pieces: 0, .. })
    ));
    assert_eq!(
        lease(&mut ipam, P, unnamed(Use::Gateway), 0).unwrap(),
        "10.1.0.1/24"
    );
    let another = lease(
        &mut with_pieces(C, &[C], &["global/10.1.0.0/24"]),
        "global/10.1.0.0/24",
        this("10.1.0.3", endpoint()),
        0,
    );
    assert!(another.is_ok(), "only the local space has cluster pools");
}

#[test]
fn a_subnet_of_our_choice_lies_outside_every_cluster_pool() {
    let mut ipam = with_pieces(C, &[], &[]);
    let chosen = pool(
        &mut ipam,
        &of_our_choice(Want::Any, false),
        &["10.1.0.0/22:24"],
        &[],
    );
    assert_eq!(chosen.unwrap().to_string(), "local/10.1.1.0/24");
}

#[test]
fn a_piece_changes_hands_in_four_steps_and_each_may_come_twice() {
    let (mut donor, mut recipient) = (with_pieces(C, &[C], &[P]), with(&[P]));
    let given = net(&give(&mut donor, C, space(C, 100)).unwrap());
    assert_eq!(shown(&donor, C), "10.1.0.0/25=1 10.1.0.128/25>2");
    let twice = |ipam: &mut Ipam, edits: fn(&Ipam, IpNet, IpNet, u64) -> Vec<Edit>| {
        let first = edits(ipam, net(C), given, 2);
        assert_eq!(first.len(), 1);
        done(ipam, first);
        assert_eq!(edits(ipam, net(C), given, 2), []);
    };
    twice(&mut recipient, Ipam::claim);
    assert_eq!(shown(&recipient, C), "10.1.0.128/25?2");
    assert!(lease(&mut recipient, P, unnamed(endpoint()), 0).is_err());
    assert_eq!(recipient.settle(net(C), given, 1), [], "another claim");
    twice(&mut recipient, Ipam::settle);
    assert_eq!(
        lease(&mut recipient, P, unnamed(endpoint()), 0).unwrap(),
        "10.1.0.128/24"
    );
    twice(&mut donor, Ipam::gift_done);
    assert_eq!(shown(&donor, C), "10.1.0.0/25=1");
    assert_eq!(donor.regain(net(C), given, 2), [], "it is too late");
    assert_eq!(recipient.disclaim(net(C), given, 2), [], "it is settled");
    assert_eq!(recipient.claim(net(C), given, 1), [], "it is older");
}

#[test]
fn a_gift_that_comes_back_is_claimed_when_the_gift_away_is_done() {
    let mut donor = with_pieces(C, &[C], &[]);
    give(&mut donor, C, Ask::Address(ip("10.1.0.4"))).unwrap();
    let back = net("10.1.0.4/32");
    assert_eq!(donor.claim(net(C), back, 3), []);
    let edits = donor.gift_done(net(C), back, 2);
    done(&mut donor, edits);
    let edits = donor.claim(net(C), back, 3);
    done(&mut donor, edits);
    let edits = donor.settle(net(C), back, 3);
    done(&mut donor, edits);
    assert_eq!(shown(&donor, C), "10.1.0.0/24=3");
}

#[test]
fn a_gift_that_nobody_takes_comes_back_whole_or_in_part() {
    let mut donor = with_pieces(C, &[C], &[P]);
    give(&mut donor, C, space(C, 100)).unwrap();
    let mut part = donor.clone();
    let edits = donor.regain(net(C), net("10.1.0.128/25"), 2);
    done(&mut donor, edits);
    assert_eq!(shown(&donor, C), "10.1.0.0/24=3");
    let edits = part.gift_done(net(C), net("10.1.0.128/26"), 2);
    done(&mut part, edits);
    let edits = part.regain(net(C), net(C), 2);
    done(&mut part, edits);
    assert_eq!(shown(&part, C), "10.1.0.0/25=1 10.1.0.192/26=3");
    let mut recipient = with_pieces(C, &[], &[P]);
    let edits = recipient.claim(net(C), net("10.1.0.128/25"), 2);
    done(&mut recipient, edits);
    let edits = recipient.disclaim(net(C), net("10.1.0.192/26"), 2);
    done(&mut recipient, edits);
    assert_eq!(shown(&recipient, C), "10.1.0.128/26?2");
}

#[test]
fn settled_halves_become_one_under_the_higher_number() {
    let mut ipam = with_pieces(C, &["10.1.0.0/25", "10.1.0.128/26"], &[]);
    assert!(!ipam.owns_all(net(C)));
    let edits = ipam.claim(net(C), net("10.1.0.192/26"), 7);
    done(&mut ipam, edits);
    assert_eq!(shown(&ipam, C), "10.1.0.0/25=1 10.1.0.128/26=1 10.1.0.192/26?7");
    let edits = ipam.settle(net(C), net("10.1.0.192/26"), 7);
    done(&mut ipam, edits);
    assert_eq!(shown(&ipam, C), "10.1.0.0/24=7");
    assert!(ipam.owns_all(net(C)));
    let (_, edits) = ipam.give(net(C), host(2), &space(C, 1), 0).unwrap();
    done(&mut ipam, edits);
    assert!(!ipam.owns_all(net(C)));
}

#[test]
fn a_grant_is_taken_up_once_and_yields_to_what_is_newer() {
    let mut ipam = with_pieces(C, &["10.1.0.0/25"], &[]);
    let (_, edits) = ipam
        .give(net(C), host(2), &Ask::Address(ip("10.1.0.4")), 0)
        .unwrap();
    done(&mut ipam, edits);
    let edits = ipam.claim(net(C), net("10.1.0.192/26"), 9);
    done(&mut ipam, edits);
    assert_eq!(ipam.grant(net(C), 1, &[(net(C), 50)], &[]), [], "it was applied");
    let gifts = [
        (net("10.1.0.192/27"), 9, host(1)), // the very gift that was claimed: it is this host's own now
        (net("10.1.0.160/27"), 4, host(3)),
        (net("10.2.0.0/24"), 1, host(3)), // of no use
    ];
    let pieces = [(net("10.1.0.0/29"), 2), (net("10.1.0.128/27"), 5)];
    let edits = ipam.grant(net(C), 8, &pieces, &gifts);
    done(&mut ipam, edits);
    let share = ipam.share(net(C)).unwrap();
    assert_eq!(share.applied, 8);
    let gift = |seq, to| Gift { seq, to: host(to) };
    assert_eq!(
        share.gifts,
        BTreeMap::from([
            (net("10.1.0.160/27"), gift(4, 3)),
            (net("10.1.0.192/27"), gift(9, 1))
        ])
    );
    assert_eq!(
        shown(&ipam, C),
        "10.1.0.0/25=2 10.1.0.128/27=5 10.1.0.160/27>4 10.1.0.192/27>9 10.1.0.224/27?9"
    );
    let edits = ipam.grant(net(C), 9, &[], &[(net("10.1.0.128/27"), 5, host(3))]);
    done(&mut ipam, edits);
    assert!(
        shown(&ipam, C).contains("10.1.0.128/27=5"),
        "it is settled under this number"
    );
}

#[test]
fn a_share_is_told_in_numbers() {
    let mut ipam = with(&[P]);
    lease(&mut ipam, P, this("10.1.0.77", endpoint()), 0).unwrap();
    let edits = ipam.grant(
        net(C),
        4,
        &[(net("10.1.0.0/28"), 1), (net("10.1.0.32/30"), 1)],
        &[(net("10.1.0.64/26"), 2, host(3))],
    );
    done(&mut ipam, edits);
    let edits = ipam.claim(net(C), net("10.1.0.128/25"), 2);
    done(&mut ipam, edits);
    for wish in [
        unnamed(Use::Gateway),
        this("10.1.0.0", Use::Aux),
        unnamed(endpoint()),
    ] {
        lease(&mut ipam, P, wish, 0).unwrap();
    }
    lease(&mut ipam, P, this("10.1.0.9", endpoint()), 0).unwrap();
    free(&mut ipam, P, "10.1.0.9", 0);
    assert_eq!(
        ipam.summary(net(C)),
        Some(Summary {
            settled: 2,
            claimed: 1,
            given: 1,
            free: 15 + 4 - 2,
            leased: 3,
            cooling: 1,
            stranded: 1
        })
    );
    assert_eq!(ipam.fill(&id(P)).free, 17);
    let huge = with_pieces("fd00::/48", &["fd00::/48"], &[]);
    assert_eq!(huge.summary(net("fd00::/48")).unwrap().free, u64::MAX);
}

#[test]
fn the_stored_form_of_a_share_is_fixed() {
    let mut share = Share {
        applied: 7,
        revision: 0,
        ..Share::default()
    };
    share.pieces.insert(
        net("10.1.0.0/25"),
        Piece {
            seq: 1,
            settled: true,
        },
    );
    share
        .gifts
        .insert(net("10.1.0.128/25"), Gift { seq: 2, to: host(2) });
    let text = serde_json::to_string(&share).unwrap();
    assert_eq!(
        text,
        format!(
            r#"{{"pieces":{{"10.1.0.0/25":{{"seq":1,"settled":true}}}},"gifts":{{"10.1.0.128/25":{{"seq":2,"to":"{}"}}}},"applied":7,"revision":0}}"#,
            host(2)
        )
    );
    assert_eq!(serde_json::from_str::<Share>(&text).unwrap(), share);
}

#[test]
fn what_cannot_be_of_a_stored_share_is_left_out_and_told() {
    let settled = |seq| Piece { seq, settled: true };
    let share = Share {
        pieces: BTreeMap::from([
            (net("10.1.0.0/25"), settled(1)),
            (net("10.1.0.64/26"), settled(2)),
            (net("10.1.0.129/25"), settled(1)),
            (net("10.1.0.192/26"), settled(5)),
            (net("10.2.0.0/24"), settled(1)),
        ]),
        gifts: BTreeMap::from([(net("10.1.0.192/27"), Gift { seq: 5, to: host(2) })]),
        applied: 3,
        revision: 0,
    };
    let shares = BTreeMap::from([
        (net(C), share),
        (net("10.1.0.0/26"), Share::default()),
        (net("10.3.0.1/24"), Share::default()),
        (net("10.4.0.0/24"), Share::default()),
    ]);
    let (ipam, problems) = Ipam::restore(BTreeMap::new(), BTreeMap::new(), shares);
    assert_eq!(shown(&ipam, C), "10.1.0.64/26=2 10.1.0.192/27>5");
    assert_eq!(ipam.share(net(C)).unwrap().applied, 3);
    assert_eq!(ipam.shares().len(), 2);
    let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
    let piece =
        |net: &str, why: &str| format!("stored piece {net} of the share of pool {C} was left out: {why}");
    assert_eq!(
        told,
        [
            piece("10.1.0.0/25", "it overlaps 10.1.0.64/26, which was kept"),
            piece("10.1.0.129/25", "it has bits set beyond its prefix length"),
            piece("10.1.0.192/26", "it overlaps 10.1.0.192/27, which was kept"),
            piece("10.2.0.0/24", "it does not lie in the pool"),
            "stored share of pool 10.1.0.0/26 was left out: it overlaps the stored share of pool 10.1.0.0/24"
                .to_owned(),
            "stored share of pool 10.3.0.1/24 was left out: the pool has bits set beyond its prefix length"
                .to_owned(),
        ]
    );
}
