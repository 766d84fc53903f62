//! Objections, frozen hosts and what is known of their shares, in cases that have a name.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tombolo_cluster::charter::{Decree, Held, Void};
use tombolo_cluster::council::{Outcome, Shares, Word};

use crate::seat::{Seat, ballot, kept, outcomes, promise, said};
use crate::{charter, forget, host, join, net, pool};

fn share(version: u32, seq: u64) -> BTreeMap<IpNet, Held> {
    let held = Held {
        version: (1, version),
        pieces: vec![(net("10.0.0.0/24"), seq)],
        ..Held::default()
    };
    BTreeMap::from([(net("10.0.0.0/16"), held)])
}

#[test]
fn an_objection_ends_a_proposal_before_anything_is_accepted_and_thaws_the_others() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(0, &three);
    let mut other = Seat::new(1, &three);
    other.eyes.against = vec!["it was heard of 0.4 s ago".into(), "x".repeat(1000)];
    let acts = seat.propose(0, 7, &forget(&[host(2)], host(0)));
    assert!(seat.council.frozen(host(2)));
    let [word] = &said(&acts)[..] else {
        panic!("{acts:?}")
    };
    let answer = other.hear(1, 0, word.clone());
    assert_eq!(kept(&answer), None, "who objects has promised nothing");
    let [object @ Word::Object { why, .. }] = &said(&answer)[..] else {
        panic!("{answer:?}")
    };
    assert!(
        Word::decode(&object.encode().unwrap()).is_ok(),
        "long objections are cut"
    );
    let acts = seat.hear(2, 1, object.clone());
    assert_eq!(
        outcomes(&acts),
        [(
            7,
            Outcome::Objected {
                by: host(1),
                why: why.clone()
            }
        )]
    );
    // Whoever is frozen by now thaws as soon as the slot is decided.
    let end = Word::Prepare {
        slot,
        ballot: ballot(2, 0),
        intent: Decree::Nothing,
    };
    assert!(said(&acts).contains(&end), "{acts:?}");
    seat.hear(3, 1, promise(slot, 2, 0));
    seat.hear(
        4,
        1,
        Word::Accepted {
            slot,
            ballot: ballot(2, 0),
        },
    );
    assert_eq!(seat.council.charter().index, slot);
    assert!(!seat.council.frozen(host(2)));
}

#[test]
fn a_host_that_is_to_be_forgotten_objects_itself() {
    let three = charter(3);
    let mut seat = Seat::new(2, &three);
    let intent = forget(&[host(2)], host(0));
    let acts = seat.hear(
        1,
        0,
        Word::Prepare {
            slot: three.slot(),
            ballot: ballot(1, 0),
            intent,
        },
    );
    let [Word::Object { why, .. }] = &said(&acts)[..] else {
        panic!("{acts:?}")
    };
    assert_eq!(why[..], ["this host is alive"]);
}

#[test]
fn frozen_lasts_until_the_slot_is_decided_whatever_is_promised_and_restarted_in_between() {
    let four = charter(4);
    let slot = four.slot();
    let mut seat = Seat::new(1, &four);
    let intent = forget(&[host(3)], host(0));
    seat.hear(
        1,
        0,
        Word::Prepare {
            slot,
            ballot: ballot(1, 0),
            intent,
        },
    );
    let acts = seat.hear(
        2,
        2,
        Word::Prepare {
            slot,
            ballot: ballot(2, 2),
            intent: Decree::Nothing,
        },
    );
    assert!(seat.council.frozen(host(3)) && !seat.council.frozen(host(2)));
    let mut seat = Seat::kept(1, &four, kept(&acts));
    assert!(seat.council.frozen(host(3)));
    seat.hear(
        3,
        2,
        Word::Decided {
            slot,
            decree: Decree::Nothing,
        },
    );
    assert!(!seat.council.frozen(host(3)));
}

#[test]
fn accepting_freezes_without_a_promise_before() {
    let four = charter(4);
    let mut seat = Seat::new(1, &four);
    let decree = forget(&[host(3)], host(0));
    seat.hear(
        1,
        0,
        Word::Accept {
            slot: four.slot(),
            ballot: ballot(1, 0),
            decree,
        },
    );
    assert!(seat.council.frozen(host(3)));
}

#[test]
fn the_newest_share_that_a_quorum_has_witnessed_stands_in_the_decree() {
    let mut three = charter(4);
    three.apply(&pool(3)).unwrap();
    let slot = three.slot();
    let mut seat = Seat::new(0, &three);
    seat.eyes.held.insert(host(3), share(4, 1));
    seat.alive.remove(&host(3));
    seat.propose(0, 7, &forget(&[host(3)], host(0)));
    for (from, version) in [(1, 9), (2, 5)] {
        let held = Shares::from([(host(3), share(version, u64::from(version)))]);
        seat.hear(
            1,
            from,
            Word::Promise {
                slot,
                ballot: ballot(1, 0),
                accepted: None,
                held,
            },
        );
    }
    let acts = seat.hear(
        2,
        1,
        Word::Accepted {
            slot,
            ballot: ballot(1, 0),
        },
    );
    let acts = [
        acts,
        seat.hear(
            2,
            2,
            Word::Accepted {
                slot,
                ballot: ballot(1, 0),
            },
        ),
    ]
    .concat();
    assert_eq!(outcomes(&acts), [(7, Outcome::Decided { index: slot })]);
    let grants = &seat.council.charter().grants;
    assert!(
        grants
            .iter()
            .any(|grant| grant.to == host(0) && grant.pieces.contains(&(net("10.0.0.0/24"), 11)))
    );
}

#[test]
fn what_speaks_against_an_old_row_is_told_with_it() {
    let mut four = charter(4);
    four.apply(&pool(3)).unwrap();
    let mut seat = Seat::new(1, &four);
    seat.eyes.held.extend([
        (host(3), share(1, 1)),
        (host(2), share(5, 3)),
        (host(0), share(5, 2)),
    ]);
    let intent = forget(&[host(3)], host(1));
    let acts = seat.hear(
        1,
        0,
        Word::Prepare {
            slot: four.slot(),
            ballot: ballot(1, 0),
            intent,
        },
    );
    let [Word::Promise { held, .. }] = &said(&acts)[..] else {
        panic!("{acts:?}")
    };
    assert_eq!(held.keys().copied().collect::<Vec<_>>(), [host(2), host(3)]);
}

#[test]
fn a_forgotten_host_learns_of_it_from_whoever_it_asks_and_wants_nothing_any_more() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(0, &three);
    seat.hear(
        0,
        1,
        Word::Decided {
            slot,
            decree: forget(&[host(2)], host(0)),
        },
    );
    let mut lost = Seat::new(2, &three);
    let acts = lost.propose(9, 1, &pool(2));
    let prepare = said(&acts).remove(0);
    let told = said(&seat.hear(10, 2, prepare)).remove(0);
    let acts = lost.hear(11, 0, told);
    let [
        (
            1,
            Outcome::Void {
                why: Void::Gone { .. },
            },
        ),
    ] = &outcomes(&acts)[..]
    else {
        panic!("{acts:?}")
    };
}

#[test]
fn who_has_not_read_the_shares_of_enough_members_takes_no_part_in_changing_them() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(1, &three);
    seat.eyes.read = false;
    for intent in [
        forget(&[host(2)], host(0)),
        Decree::Leave { host: host(0) },
        join(5),
    ] {
        let acts = seat.hear(
            1,
            0,
            Word::Prepare {
                slot,
                ballot: ballot(1, 0),
                intent,
            },
        );
        assert_eq!((kept(&acts), said(&acts)), (None, vec![]));
    }
    let acts = seat.hear(
        1,
        0,
        Word::Prepare {
            slot,
            ballot: ballot(1, 0),
            intent: pool(0),
        },
    );
    assert!(
        matches!(said(&acts)[..], [Word::Promise { .. }]),
        "anything else it decides with the others"
    );
    // Nor does it begin; and says at the end how many are missing.
    let mut seat = Seat::new(1, &three);
    seat.eyes.read = false;
    assert_eq!(said(&seat.propose(0, 7, &forget(&[host(2)], host(1)))), []);
    let outcome = Outcome::NoMajority {
        reached: 1,
        of: 3,
        needed: 2,
    };
    assert_eq!(outcomes(&seat.tick(2000)), [(7, outcome)]);
    seat.propose(2001, 8, &forget(&[host(2)], host(1)));
    seat.eyes.read = true;
    assert!(!said(&seat.tick(2200)).is_empty());
}
