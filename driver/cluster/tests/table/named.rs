//! Faults that tables of this sort had elsewhere, each with the circumstances in which it showed.

use std::time::Duration;

use tombolo_cluster::table::*;
use tombolo_cluster::time::Tick;

use crate::common::*;

#[test]
fn a_removal_that_overtakes_its_row_is_kept_and_the_row_does_not_come_back() {
    let (mut one, mut two) = (table(1), table(2));
    let (set, removed) = (set(&mut one, "a", "x"), remove(&mut one, "a"));
    assert_eq!(apply(&mut two, &removed), Outcome::Ahead);
    assert_eq!(apply(&mut two, &set), Outcome::New, "it is noted as come");
    assert_eq!(rows_of(&two, host(1)), rows(&[]));
    assert_eq!(apply(&mut two, &set), Outcome::Known);
    assert_eq!(
        two.heads(u64::MAX).iter().map(|head| head.cover.known()).max(),
        Some(v(1, 2))
    );
}

#[test]
fn a_removal_ahead_of_a_gap_outlives_its_life_until_the_gap_is_closed() {
    let (mut one, mut two) = (table(1), table(2));
    let (set, removed) = (set(&mut one, "a", "x"), remove(&mut one, "a"));
    apply(&mut two, &removed);
    two.tick(much_later(NOW));
    assert_eq!(two.apply(much_later(NOW), set), Outcome::New);
    assert_eq!(rows_of(&two, host(1)), rows(&[]));
    two.tick(much_later(NOW));
    assert_eq!(two.rows(), 0, "and not beyond that");
}

#[test]
fn who_missed_a_removal_that_all_others_have_forgotten_loses_the_row_still() {
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    set(&mut one, "a", "x");
    set(&mut one, "b", "y");
    exchange(&mut one, &mut two);
    exchange(&mut one, &mut three);
    remove(&mut one, "a");
    exchange(&mut one, &mut two);
    one.tick(much_later(NOW));
    two.tick(much_later(NOW));
    assert_eq!((one.rows(), two.rows(), three.rows()), (1, 1, 2));
    exchange(&mut three, &mut two);
    assert_eq!(rows_of(&three, host(1)), rows(&[("b", "y")]));
    assert_eq!(rows_of(&two, host(1)), rows(&[("b", "y")]));
}

#[test]
fn a_row_that_was_sent_before_its_removal_and_comes_after_that_was_forgotten_stays_away() {
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    let changes = [
        set(&mut one, "a", "x"),
        remove(&mut one, "a"),
        set(&mut one, "b", "x"),
    ];
    // The sender missed the removal, and it is asked before the asker knew of any of this.
    apply(&mut three, &changes[0]);
    apply(&mut three, &changes[2]);
    let nothing = Head {
        origin: host(1),
        cover: Cover::default(),
        swept: v(0, 0),
    };
    let late = three.delta(NOW, &nothing, 1000).unwrap();
    assert_eq!((late.base.clone(), late.rows.len()), (None, 2));
    apply(&mut two, &changes[0]);
    apply(&mut two, &changes[1]);
    two.tick(much_later(NOW));
    assert_eq!((two.rows(), two.merge(NOW, late)), (0, Merged::New { rows: 1 }));
    assert_eq!(rows_of(&two, host(1)), rows(&[("b", "x")]));
}

#[test]
fn a_removals_life_is_what_was_left_of_it_however_often_it_is_handed_on() {
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    set(&mut one, "a", "x");
    remove(&mut one, "a");
    let after = |minutes: u64| NOW + Duration::from_secs(60 * minutes);
    pull(&mut two, &mut one, (after(20), after(20)), 1000, 1);
    pull(&mut three, &mut two, (after(25), after(25)), 1000, 1);
    three.tick(Tick(after(30).0 - 1));
    assert_eq!(three.rows(), 1);
    three.tick(after(30));
    assert_eq!(three.rows(), 0);
}

#[test]
fn a_host_that_left_and_came_back_is_seen_with_the_rows_it_never_changed() {
    // Nobody makes removals in its name when it leaves: they would outrank the very rows that it still has.
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    set(&mut one, "a", "x");
    for other in [&mut two, &mut three] {
        exchange(&mut one, other);
        other.expel(host(1));
        assert_eq!((rows_of(other, host(1)), other.rows()), (rows(&[]), 0));
        other.admit(host(1)).unwrap();
    }
    exchange(&mut two, &mut three);
    exchange(&mut one, &mut two);
    exchange(&mut two, &mut three);
    assert_eq!(rows_of(&three, host(1)), rows(&[("a", "x")]));
}

#[test]
fn changes_of_a_host_that_is_no_member_leave_nothing_behind() {
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    let change = set(&mut one, "a", "x");
    exchange(&mut one, &mut three);
    two.expel(host(1));
    let refused = Refused::NotAdmitted { host: host(1) };
    assert_eq!(apply(&mut two, &change), Outcome::Refused(refused.clone()));
    let missing = two.missing(u64::MAX, &three.heads(u64::MAX));
    assert!(
        missing.want.iter().all(|head| head.origin != host(1)),
        "nor is it asked for"
    );
    let nothing = Head {
        origin: host(1),
        cover: Cover::default(),
        swept: v(0, 0),
    };
    let delta = three.delta(NOW, &nothing, 1000).unwrap();
    assert_eq!(two.merge(NOW, delta), Merged::Refused(refused));
    assert_eq!((two.rows(), two.bytes(), two.digest()), (0, 0, table(2).digest()));
    assert_eq!(two.faults().get(&host(1)).unwrap().not_admitted, 2);
}

#[test]
fn a_failed_host_is_hidden_kept_up_to_date_and_back_at_once() {
    let (mut one, mut two) = (table(1), table(2));
    apply(&mut two, &set(&mut one, "a", "x"));
    two.begin();
    two.hide(NOW, host(1));
    assert_eq!((visible(&two).len(), two.drain().len()), (0, 1));
    assert_eq!(apply(&mut two, &set(&mut one, "b", "y")), Outcome::New);
    assert_eq!(apply(&mut two, &set(&mut one, "a", "z")), Outcome::New);
    assert_eq!(two.drain(), []);
    two.show(host(1));
    let back: Vec<_> = two
        .drain()
        .into_iter()
        .map(|seen| text(&seen.after.unwrap()))
        .collect();
    assert_eq!(back, ["z", "y"]);
}

#[test]
fn a_host_that_failed_long_ago_is_forgotten_and_taken_in_afresh_when_it_returns() {
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    let change = set(&mut one, "a", "x");
    exchange(&mut one, &mut two);
    exchange(&mut one, &mut three);
    two.hide(NOW, host(1));
    let day = Limits::default().hidden_life;
    assert_eq!(two.tick(Tick((NOW + day).0 - 1)), []);
    assert_eq!(two.tick(NOW + day), [host(1)]);
    assert_eq!((two.rows(), two.standing(host(1))), (0, Some(Standing::Aged)));
    let missing = two.missing(u64::MAX, &three.heads(u64::MAX));
    assert!(
        missing.want.iter().all(|head| head.origin != host(1)),
        "others' memory does not bring it back"
    );
    assert_eq!(
        apply(&mut two, &change),
        Outcome::Refused(Refused::Aged { host: host(1) })
    );
    two.show(host(1));
    exchange(&mut two, &mut three);
    assert_eq!(visible(&two), visible(&one));
}

#[test]
fn a_reader_that_begins_sees_each_row_once_and_misses_none() {
    let (mut one, mut two) = (table(1), table(2));
    apply(&mut two, &set(&mut one, "a", "x"));
    let first = two.begin();
    assert_eq!(first.len(), 1);
    assert_eq!(
        (first[0].before.clone(), text(first[0].after.as_ref().unwrap())),
        (None, "x".into())
    );
    assert_eq!(
        two.drain(),
        [],
        "what was there at the beginning is not told again"
    );
    apply(&mut two, &set(&mut one, "b", "y"));
    assert_eq!(two.drain().len(), 1);
    apply(&mut two, &set(&mut one, "b", "z"));
    assert_eq!(two.begin().len(), 2);
    assert_eq!(two.drain(), []);
}

#[test]
fn a_row_that_was_removed_and_set_between_two_looks_is_told_as_one_difference() {
    let (mut one, mut two) = (table(1), table(2));
    apply(&mut two, &set(&mut one, "a", "x"));
    apply(&mut two, &set(&mut one, "b", "x"));
    two.begin();
    for change in [
        remove(&mut one, "a"),
        set(&mut one, "a", "y"),
        remove(&mut one, "b"),
        set(&mut one, "b", "x"),
    ] {
        apply(&mut two, &change);
    }
    apply(&mut two, &set(&mut one, "c", "x"));
    apply(&mut two, &remove(&mut one, "c"));
    assert_eq!(
        two.waiting(),
        1,
        "what is as it was, or came and went, waits for nobody"
    );
    let told = two.drain();
    assert_eq!((told.len(), told[0].key.as_str()), (1, "a"));
    let both = [&told[0].before, &told[0].after].map(|body| text(body.as_ref().unwrap()));
    assert_eq!(both, ["x", "y"]);
}

#[test]
fn a_restarted_host_is_never_seen_with_some_of_its_rows() {
    let mut one = table_with(1, 1, Limits::default(), &[("a", "1"), ("b", "1"), ("c", "1")]);
    let (mut two, mut three) = (table(2), table(3));
    exchange(&mut one, &mut two);
    let mut one = table_with(1, 2, Limits::default(), &[("a", "2"), ("b", "1")]);
    // A live change overtakes the repair: it is seen, and what was there stays until the whole new state has come.
    let change = set(&mut one, "d", "2");
    assert_eq!(apply(&mut two, &change), Outcome::Ahead);
    assert_eq!(
        rows_of(&two, host(1)),
        rows(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "2")])
    );
    two.begin();
    let heads = two.missing(u64::MAX, &one.heads(u64::MAX)).want;
    let mut next = heads.into_iter().find(|head| head.origin == host(1));
    let mut pieces = 0;
    while let Some(head) = next.take() {
        assert_eq!(two.drain(), [], "nothing is seen of a piece");
        let delta = one.delta(NOW, &head, 0).unwrap();
        match two.merge(NOW, delta) {
            Merged::More(head) => next = Some(head),
            merged => assert_eq!(merged, Merged::New { rows: 3 }, "two written, one taken away"),
        }
        pieces += 1;
    }
    assert_eq!(pieces, 3);
    let told: Vec<_> = two.drain().into_iter().map(|seen| seen.key.to_string()).collect();
    assert_eq!(told, ["a", "c"], "and what is the same in both is no difference");
    assert_eq!(visible(&two), visible(&one));
    // One that had no rows to state can be followed by its changes alone.
    let mut one = table_with(1, 3, Limits::default(), &[]);
    assert_eq!(apply(&mut two, &set(&mut one, "e", "3")), Outcome::New);
    assert_eq!(rows_of(&two, host(1)), rows(&[("e", "3")]));
    exchange(&mut two, &mut three);
    assert_eq!(rows_of(&three, host(1)), rows(&[("e", "3")]));
}
