//! How a slot is decided, word by word, in cases that have a name.

use tombolo_cluster::charter::Decree;
use tombolo_cluster::council::{Act, Kept, Outcome, QUEUE_MAX, Shares, Word};

use crate::seat::{Seat, ballot, kept, outcomes, promise, said};
use crate::{charter, forget, host, pool};

#[test]
fn a_single_host_decides_alone_and_at_once() {
    let mut seat = Seat::new(0, &charter(1));
    let acts = seat.propose(5, 1, &pool(0));
    assert_eq!(outcomes(&acts), [(1, Outcome::Decided { index: 1 })]);
    assert!(said(&acts).is_empty());
    let charter = seat.council.charter().clone();
    assert!(acts.contains(&Act::Keep(Kept::Charter(Box::new(charter)))));
    // And what holds already needs no slot.
    assert_eq!(
        outcomes(&seat.propose(6, 2, &pool(0))),
        [(2, Outcome::Decided { index: 1 })]
    );
    assert_eq!(seat.council.charter().index, 1);
}

#[test]
fn what_is_promised_or_accepted_is_kept_before_anybody_hears_of_it() {
    let three = charter(3);
    let mut seat = Seat::new(1, &three);
    let slot = three.slot();
    let words = [
        Word::Prepare {
            slot,
            ballot: ballot(1, 0),
            intent: pool(0),
        },
        Word::Accept {
            slot,
            ballot: ballot(1, 0),
            decree: pool(0),
        },
    ];
    for word in words {
        let acts = seat.hear(1, 0, word.clone());
        let at = |what: fn(&Act) -> bool| acts.iter().position(what).unwrap();
        let keep = at(|act| matches!(act, Act::Keep(Kept::Acceptor(_))));
        assert!(keep < at(|act| matches!(act, Act::Say(_, Word::Promise { .. } | Word::Accepted { .. }))));
        // The same word again is answered the same, and nothing new is kept.
        let again = seat.hear(2, 0, word);
        assert_eq!(said(&again), said(&acts));
        assert_eq!(kept(&again), None);
    }
}

#[test]
fn a_lower_proposal_is_refused_with_the_higher_one_named() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(1, &three);
    seat.hear(
        1,
        2,
        Word::Prepare {
            slot,
            ballot: ballot(4, 2),
            intent: pool(2),
        },
    );
    let refuse = Word::Refuse {
        slot,
        ballot: ballot(4, 0),
        promised: ballot(4, 2),
    };
    for word in [
        Word::Prepare {
            slot,
            ballot: ballot(4, 0),
            intent: pool(0),
        },
        Word::Accept {
            slot,
            ballot: ballot(4, 0),
            decree: pool(0),
        },
    ] {
        assert_eq!(said(&seat.hear(2, 0, word)), std::slice::from_ref(&refuse));
    }
    // Nor may anybody speak in another host's name, or without being a member.
    let foreign = Word::Accept {
        slot,
        ballot: ballot(9, 2),
        decree: pool(2),
    };
    assert_eq!(said(&seat.hear(3, 0, foreign)), []);
    let stranger = Word::Prepare {
        slot,
        ballot: ballot(9, 6),
        intent: pool(6),
    };
    assert_eq!(said(&seat.hear(3, 6, stranger)), []);
}

#[test]
fn a_decree_that_was_accepted_before_goes_first_and_the_wish_takes_the_next_slot() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(0, &three);
    seat.propose(0, 7, &pool(0));
    let older = Decree::Secret {
        number: 2,
        check: [3; 32],
    };
    let accepted = Some((ballot(0, 2), older.clone()));
    let told = Word::Promise {
        slot,
        ballot: ballot(1, 0),
        accepted,
        held: Shares::new(),
    };
    seat.hear(1, 1, told);
    let acts = seat.hear(2, 2, promise(slot, 1, 0));
    assert_eq!(
        said(&acts),
        [Word::Accept {
            slot,
            ballot: ballot(1, 0),
            decree: older.clone()
        }]
    );
    let acts = seat.hear(
        3,
        1,
        Word::Accepted {
            slot,
            ballot: ballot(1, 0),
        },
    );
    assert!(acts.contains(&Act::Changed {
        decree: Some(older),
        index: slot,
        void: None
    }));
    assert_eq!(outcomes(&acts), []);
    // Told to the others, and the wish is asked about in the next slot.
    let next = Word::Prepare {
        slot: slot + 1,
        ballot: ballot(1, 0),
        intent: pool(0),
    };
    assert!(said(&acts).contains(&next), "{acts:?}");
}

#[test]
fn the_second_phase_waits_a_little_for_hosts_that_are_alive_and_not_for_others() {
    let three = charter(3);
    let slot = three.slot();
    let accept = |acts: &[Act]| said(acts).iter().any(|word| matches!(word, Word::Accept { .. }));
    let mut seat = Seat::new(0, &three);
    seat.propose(0, 7, &pool(0));
    assert!(!accept(&seat.hear(10, 1, promise(slot, 1, 0))));
    assert!(!accept(&seat.tick(299)));
    assert!(accept(&seat.tick(300)));
    let mut seat = Seat::new(0, &three);
    seat.alive.remove(&host(2));
    seat.propose(0, 7, &pool(0));
    assert!(accept(&seat.hear(10, 1, promise(slot, 1, 0))));
}

#[test]
fn without_a_majority_a_wish_ends_at_its_deadline_and_says_who_was_missing() {
    let five = charter(5);
    let mut seat = Seat::new(0, &five);
    seat.propose(0, 7, &pool(0));
    seat.hear(10, 1, promise(five.slot(), 1, 0));
    assert_eq!(outcomes(&seat.tick(1999)), []);
    let outcome = Outcome::NoMajority {
        reached: 2,
        of: 5,
        needed: 3,
    };
    assert_eq!(outcomes(&seat.tick(2000)), [(7, outcome)]);
}

#[test]
fn a_wish_that_was_offered_ends_without_a_promise_that_it_never_happens() {
    let three = charter(3);
    let mut seat = Seat::new(0, &three);
    seat.alive.clear();
    seat.propose(0, 7, &pool(0));
    seat.hear(10, 1, promise(three.slot(), 1, 0));
    assert_eq!(outcomes(&seat.tick(2000)), [(7, Outcome::Late { offered: true })]);
}

#[test]
fn a_refused_proposal_comes_again_with_a_higher_number() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(0, &three);
    seat.propose(0, 7, &pool(0));
    let acts = seat.hear(
        1,
        1,
        Word::Refuse {
            slot,
            ballot: ballot(1, 0),
            promised: ballot(8, 1),
        },
    );
    let again = [acts, seat.tick(200)].concat();
    assert!(
        said(&again).contains(&Word::Prepare {
            slot,
            ballot: ballot(9, 0),
            intent: pool(0)
        }),
        "{again:?}"
    );
}

#[test]
fn a_slot_that_was_left_half_way_is_ended_by_any_host_after_a_while() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(1, &three);
    seat.hear(
        0,
        0,
        Word::Accept {
            slot,
            ballot: ballot(1, 0),
            decree: pool(0),
        },
    );
    assert_eq!(said(&seat.tick(2999)), []);
    let acts = seat.tick(4001);
    assert_eq!(
        said(&acts),
        [Word::Prepare {
            slot,
            ballot: ballot(2, 1),
            intent: Decree::Nothing
        }]
    );
    let acts = seat.hear(4002, 2, promise(slot, 2, 1));
    assert_eq!(
        said(&acts),
        [Word::Accept {
            slot,
            ballot: ballot(2, 1),
            decree: pool(0)
        }]
    );
}

#[test]
fn a_slot_with_nothing_but_a_harmless_promise_is_left_alone() {
    let three = charter(3);
    let mut seat = Seat::new(1, &three);
    seat.hear(
        0,
        0,
        Word::Prepare {
            slot: three.slot(),
            ballot: ballot(1, 0),
            intent: pool(0),
        },
    );
    assert_eq!(said(&seat.tick(60_000)), []);
}

#[test]
fn the_queue_has_an_end() {
    let mut seat = Seat::new(0, &charter(3));
    for ticket in 0..QUEUE_MAX as u64 {
        assert_eq!(outcomes(&seat.propose(0, ticket, &pool(0))), []);
    }
    assert_eq!(
        outcomes(&seat.propose(0, 99, &pool(0))),
        [(99, Outcome::Crowded { most: QUEUE_MAX })]
    );
}

#[test]
fn the_last_round_there_is_makes_nobody_spin() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(0, &three);
    seat.hear(
        0,
        2,
        Word::Prepare {
            slot,
            ballot: ballot(u64::MAX, 2),
            intent: forget(&[host(1)], host(2)),
        },
    );
    let acts = [seat.propose(1, 7, &pool(0)), seat.tick(9000)].concat();
    assert_eq!(outcomes(&acts), [(7, Outcome::Late { offered: false })]);
}
