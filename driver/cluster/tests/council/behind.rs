//! Hosts that know less than others, or something else, in cases that have a name.

use tombolo_cluster::charter::{Charter, Decree};
use tombolo_cluster::council::{Acceptor, Act, Kept, Outcome, Word};
use tombolo_cluster::time::Tick;

use crate::seat::{Seat, ballot, kept, outcomes, promise, said};
use crate::{charter, host, pool};

#[test]
fn who_is_a_little_behind_is_told_decrees_and_who_is_far_behind_fetches_the_charter() {
    let three = charter(3);
    let mut seat = Seat::new(1, &three);
    let slot = three.slot();
    seat.hear(
        0,
        0,
        Word::Decided {
            slot,
            decree: pool(0),
        },
    );
    let late = Word::Prepare {
        slot,
        ballot: ballot(1, 2),
        intent: pool(2),
    };
    assert_eq!(
        said(&seat.hear(1, 2, late)),
        [Word::Decided {
            slot,
            decree: pool(0)
        }]
    );
    assert_eq!(
        said(&seat.hear(2, 2, Word::Behind { index: 0 })),
        [Word::At { index: slot }]
    );
    // The other end: fetched once, then adopted.
    let mut far = Seat::new(2, &charter(1));
    let at = Word::At { index: slot };
    assert!(far.hear(1, 1, at.clone()).contains(&Act::Fetch(host(1))));
    assert!(
        !far.hear(2, 1, at.clone()).contains(&Act::Fetch(host(1))),
        "not with every word"
    );
    let charter = seat.council.charter().clone();
    let acts = far.call(|council, ctx| council.adopt(Tick(3), charter.clone(), ctx));
    assert!(acts.contains(&Act::Keep(Kept::Charter(Box::new(charter.clone())))));
    assert_eq!(*far.council.charter(), charter);
    // An older one, or another cluster's, changes nothing.
    let foreign = Charter {
        cluster: [1; 16],
        index: 99,
        ..charter.clone()
    };
    for other in [three, foreign] {
        assert_eq!(
            kept(&far.call(|council, ctx| council.adopt(Tick(4), other, ctx))),
            None
        );
    }
    assert_eq!(*far.council.charter(), charter);
}

#[test]
fn a_host_that_hears_of_a_later_slot_asks_what_it_lacks() {
    let three = charter(3);
    let mut seat = Seat::new(1, &three);
    let word = Word::Prepare {
        slot: three.slot() + 1,
        ballot: ballot(1, 0),
        intent: pool(0),
    };
    let acts = seat.hear(1, 0, word);
    assert!(acts.contains(&Act::Say(vec![host(0)], Word::Behind { index: three.index })));
    assert_eq!(kept(&acts), None);
}

#[test]
fn a_wish_that_came_true_in_an_adopted_charter_is_decided() {
    let three = charter(3);
    let mut seat = Seat::new(0, &three);
    seat.propose(0, 7, &pool(0));
    let mut newer = three.clone();
    newer.apply(&pool(0)).unwrap();
    newer.apply(&Decree::Nothing).unwrap();
    let acts = seat.call(|council, ctx| council.adopt(Tick(3), newer, ctx));
    assert_eq!(outcomes(&acts), [(7, Outcome::Decided { index: three.slot() })]);
}

#[test]
fn a_host_whose_disk_lost_a_charter_is_mute_until_it_has_it_again() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::kept(
        1,
        &three,
        Some(Acceptor {
            promised: ballot(5, 0),
            ..Acceptor::of(slot + 1)
        }),
    );
    let word = Word::Prepare {
        slot,
        ballot: ballot(9, 0),
        intent: pool(0),
    };
    let acts = seat.hear(0, 0, word);
    assert_eq!((kept(&acts), said(&acts)), (None, vec![]));
    seat.hear(
        1,
        0,
        Word::Decided {
            slot,
            decree: pool(0),
        },
    );
    let word = Word::Prepare {
        slot: slot + 1,
        ballot: ballot(4, 0),
        intent: Decree::Nothing,
    };
    let acts = seat.hear(2, 0, word);
    assert!(
        matches!(said(&acts)[..], [Word::Refuse { .. }]),
        "it remembers: {acts:?}"
    );
}

#[test]
fn two_decrees_for_one_slot_are_noticed() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(1, &three);
    seat.hear(
        0,
        0,
        Word::Decided {
            slot,
            decree: pool(0),
        },
    );
    assert!(
        !seat
            .hear(
                1,
                2,
                Word::Decided {
                    slot,
                    decree: pool(0)
                }
            )
            .contains(&Act::Torn { with: host(2), slot })
    );
    let other = Word::Decided {
        slot,
        decree: Decree::Nothing,
    };
    assert!(
        seat.hear(2, 2, other)
            .contains(&Act::Torn { with: host(2), slot })
    );
}

#[test]
fn a_decree_is_told_again_to_who_is_alive_and_silent_and_then_no_more() {
    let three = charter(3);
    let slot = three.slot();
    let mut seat = Seat::new(0, &three);
    seat.propose(0, 7, &pool(0));
    seat.hear(1, 1, promise(slot, 1, 0));
    seat.hear(1, 2, promise(slot, 1, 0));
    seat.hear(
        2,
        1,
        Word::Accepted {
            slot,
            ballot: ballot(1, 0),
        },
    );
    seat.hear(3, 1, Word::At { index: slot });
    assert_eq!(seat.council.untold().collect::<Vec<_>>(), [host(2)]);
    let told = (1..100).filter(|second| {
        let acts = seat.tick(second * 1000);
        acts.contains(&Act::Say(
            vec![host(2)],
            Word::Decided {
                slot,
                decree: pool(0),
            },
        ))
    });
    assert_eq!(told.count(), 4);
    assert_eq!(seat.council.untold().count(), 0);
}
