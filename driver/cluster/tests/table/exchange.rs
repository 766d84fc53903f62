//! Anti-entropy: what two tables ask each other for, and what comes of the answers.

use tombolo_cluster::table::*;
use tombolo_cluster::time::Tick;

use crate::common::*;

/// A table with so many rows of its own, and a further one with nothing.
fn full_and_empty(count: usize) -> (Table, Table) {
    let mut one = table(1);
    (0..count).for_each(|n| drop(set(&mut one, &format!("row{n:03}"), &"x".repeat(50))));
    (one, table(2))
}

fn wanted(to: &mut Table, from: &Table) -> Head {
    let want = to.missing(u64::MAX, &from.heads(u64::MAX)).want;
    want.into_iter().find(|head| head.origin == host(1)).unwrap()
}

/// Takes one piece over. Answers what to ask with next, if it was not the last.
fn piece(to: &mut Table, from: &Table, head: &Head, max_bytes: usize) -> Option<Head> {
    match to.merge(NOW, from.delta(NOW, head, max_bytes).unwrap()) {
        Merged::More(next) => Some(next),
        Merged::New { .. } => None,
        strange => panic!("{strange:?}"),
    }
}

#[test]
fn tables_that_are_equal_ask_for_nothing() {
    let (mut one, mut two) = full_and_empty(3);
    assert_ne!(one.digest(), two.digest());
    exchange(&mut one, &mut two);
    assert_eq!(one.buckets(), two.buckets());
    assert_eq!(two.missing(u64::MAX, &one.heads(u64::MAX)), Missing::default());
    let head = &two.heads(u64::MAX)[0];
    assert_eq!(one.delta(NOW, head, 1000), None);
}

#[test]
fn only_hosts_of_the_buckets_in_the_mask_are_spoken_of() {
    let (one, mut two) = full_and_empty(3);
    let mask = one
        .buckets()
        .iter()
        .enumerate()
        .fold(0, |mask, (n, sum)| mask | u64::from(*sum != 0) << n);
    assert_eq!(mask.count_ones(), 1);
    assert_eq!((one.heads(mask).len(), one.heads(!mask).len()), (1, 0));
    let heads = one.heads(mask);
    assert_eq!(two.missing(mask, &heads).want.len(), 1);
    let beyond = two.missing(!mask, &heads);
    assert_eq!((beyond.want, beyond.have), (vec![], vec![host(2)]));
}

#[test]
fn each_of_two_that_have_what_the_other_lacks_is_told_so() {
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    let changes = [
        set(&mut one, "a", "1"),
        set(&mut one, "b", "2"),
        set(&mut one, "c", "3"),
    ];
    apply(&mut two, &changes[0]);
    apply(&mut three, &changes[2]);
    let missing = two.missing(u64::MAX, &three.heads(u64::MAX));
    assert_eq!(missing.have, [host(1), host(2)]);
    assert_eq!(
        missing.want.iter().map(|head| head.origin).collect::<Vec<_>>(),
        [host(1), host(3)]
    );
    // What was applied ahead of a gap counts: the owner may never come back to fill it.
    exchange(&mut two, &mut three);
    for table in [&two, &three] {
        assert_eq!(rows_of(table, host(1)), rows(&[("a", "1"), ("c", "3")]));
    }
}

#[test]
fn only_what_is_new_is_sent_to_who_knows_enough() {
    let (mut one, mut two) = full_and_empty(20);
    exchange(&mut one, &mut two);
    set(&mut one, "row003", "y");
    remove(&mut one, "row004");
    let delta = one.delta(NOW, &wanted(&mut two, &one), 10_000).unwrap();
    let keys: Vec<_> = delta.rows.iter().map(|(key, ..)| key.as_str()).collect();
    assert_eq!(
        (keys, delta.base.is_some(), delta.whole),
        (vec!["row003", "row004"], true, None)
    );
    // The removal is forgotten, so the same host now needs the whole state.
    one.tick(much_later(NOW));
    let delta = one.delta(NOW, &wanted(&mut two, &one), 10_000).unwrap();
    assert_eq!((delta.rows.len(), &delta.base), (19, &None));
    assert_eq!(two.merge(NOW, delta), Merged::New { rows: 2 });
    assert_eq!(visible(&two), visible(&one));
}

#[test]
fn pieces_fit_their_size_and_are_seen_only_when_the_last_has_come() {
    let (one, mut two) = full_and_empty(100);
    let mut next = Some(wanted(&mut two, &one));
    let mut pieces = 0;
    while let Some(head) = next {
        assert_eq!(two.rows(), 0);
        next = piece(&mut two, &one, &head, 1000);
        pieces += 1;
    }
    assert!((8..=12).contains(&pieces), "{pieces}");
    assert_eq!(visible(&two), visible(&one));
}

#[test]
fn what_changes_while_pieces_are_under_way_is_in_the_end_as_it_is_then() {
    let (mut one, mut two) = full_and_empty(30);
    let mut next = Some(wanted(&mut two, &one));
    let mut n = 0;
    while let Some(head) = next {
        // Changed and removed are rows that were sent, and rows that were not.
        if n < 9 {
            set(&mut one, &format!("row{:03}", n), &format!("new {n}"));
            remove(&mut one, &format!("row{:03}", 29 - n));
        }
        n += 1;
        next = piece(&mut two, &one, &head, 300);
    }
    assert!(n > 9);
    assert_eq!(visible(&two), visible(&one));
}

#[test]
fn a_delta_is_begun_again_if_removals_are_forgotten_between_its_pieces() {
    let (mut one, mut two) = full_and_empty(30);
    let head = wanted(&mut two, &one);
    let next = piece(&mut two, &one, &head, 300).unwrap();
    remove(&mut one, "row000");
    one.tick(much_later(NOW));
    let delta = one.delta(NOW, &next, 300).unwrap();
    assert_eq!(delta.base, None);
    let mut next = Some(next);
    for _ in 0..20 {
        next = next.and_then(|head| piece(&mut two, &one, &head, 300));
    }
    assert_eq!(next, None, "it has an end");
    assert_eq!(visible(&two), visible(&one));
}

#[test]
fn what_began_after_a_removal_was_forgotten_does_not_go_on_with_who_missed_the_removal() {
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    let mut changes = vec![set(&mut one, "a", "x"), set(&mut one, "b", "x")];
    changes.extend([remove(&mut one, "b"), set(&mut one, "c", "x")]);
    for at in [0, 1, 3] {
        apply(&mut three, &changes[at]);
    }
    one.tick(much_later(NOW));
    let head = wanted(&mut two, &one);
    let next = piece(&mut two, &one, &head, 0).unwrap();
    // The third host has what comes next, the removed row among it.
    let missing = two.missing(u64::MAX, &three.heads(u64::MAX));
    assert!(
        missing.want.iter().all(|head| head.origin != host(1)),
        "it is not asked"
    );
    let unwanted = three.delta(NOW, &next, 1000).unwrap();
    assert_eq!(unwanted.rows.len(), 2);
    assert_eq!(two.merge(NOW, unwanted), Merged::Unfitting, "nor listened to");
    assert_eq!(piece(&mut two, &one, &next, 0), None);
    assert_eq!(rows_of(&two, host(1)), rows(&[("a", "x"), ("c", "x")]));
}

#[test]
fn a_late_piece_of_somebody_who_missed_a_removal_does_not_bring_the_row_back() {
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    exchange(&mut one, &mut two);
    let changes = ["a", "b", "c"].map(|k| set(&mut one, k, "x"));
    apply(&mut three, &changes[0]);
    apply(&mut three, &changes[2]);
    let late = three.delta(NOW, &two.heads(u64::MAX)[0], 0).unwrap();
    assert_eq!((late.rows.len(), late.rows[0].0.as_str()), (1, "a"));
    remove(&mut one, "a");
    set(&mut one, "c", "y");
    set(&mut one, "d", "x");
    one.tick(much_later(NOW));
    // The whole state is under way and has come further than the late piece, which seems to belong to it.
    let head = wanted(&mut two, &one);
    let head = piece(&mut two, &one, &head, 0).unwrap();
    let head = piece(&mut two, &one, &head, 0).unwrap();
    assert_eq!(two.merge(NOW, late), Merged::More(head.clone()));
    assert_eq!(piece(&mut two, &one, &head, 0), None);
    assert_eq!(
        rows_of(&two, host(1)),
        rows(&[("b", "x"), ("c", "y"), ("d", "x")])
    );
}

#[test]
fn a_delta_begun_with_one_host_goes_on_with_another() {
    let (mut one, mut two) = full_and_empty(30);
    let mut three = table(3);
    exchange(&mut one, &mut three);
    // What the second sender lacks, the first one's pieces may have left out: it takes both.
    set(&mut one, "row000", "new");
    let head = wanted(&mut two, &one);
    let mut next = piece(&mut two, &one, &head, 300).unwrap();
    while let Some(delta) = three.delta(NOW, &next, 300) {
        match two.merge(NOW, delta) {
            Merged::More(head) => next = head,
            strange => panic!("{strange:?}"),
        }
    }
    assert_eq!(two.rows(), 0, "row000 would be missing");
    assert!(
        two.missing(u64::MAX, &three.heads(u64::MAX))
            .want
            .iter()
            .all(|head| head.origin != host(1))
    );
    let next = wanted(&mut two, &one);
    assert_eq!(piece(&mut two, &one, &next, 300), None);
    assert_eq!(visible(&two), visible(&one));
}

#[test]
fn pieces_that_come_twice_or_out_of_turn_do_no_harm() {
    let (one, mut two) = full_and_empty(30);
    let mut three = table(3);
    let mut next = Some(wanted(&mut two, &one));
    let mut sent = Vec::new();
    while let Some(head) = next {
        let delta = one.delta(NOW, &head, 300).unwrap();
        sent.push(delta.clone());
        next = match two.merge(NOW, delta) {
            Merged::More(head) => Some(head),
            _ => None,
        };
    }
    for late in sent.iter().rev().take(sent.len() - 1) {
        assert_eq!(three.merge(NOW, late.clone()), Merged::Unfitting);
    }
    for delta in &sent {
        let first = three.merge(NOW, delta.clone());
        let again = three.merge(NOW, delta.clone());
        match first {
            Merged::More(_) => assert_eq!(first, again),
            _ => assert_eq!(again, Merged::Known),
        }
        let begin = three.merge(NOW, sent[0].clone());
        assert!(
            begin == first || begin == Merged::Known,
            "what is under way is not begun again: {begin:?}"
        );
    }
    assert_eq!(visible(&three), visible(&one));
}

#[test]
fn a_delta_that_does_not_go_on_is_given_up() {
    let (one, mut two) = full_and_empty(30);
    let head = wanted(&mut two, &one);
    let next = piece(&mut two, &one, &head, 300).unwrap();
    let life = Limits::default().gather_life;
    two.tick(Tick((NOW + life).0 - 1));
    assert_eq!(wanted(&mut two, &one), next);
    two.tick(NOW + life);
    assert_eq!(wanted(&mut two, &one), head);
    assert_eq!(
        two.merge(NOW, one.delta(NOW, &next, 300).unwrap()),
        Merged::Unfitting
    );
}

#[test]
fn own_rows_are_never_taken_from_others_and_unknown_ones_are_reported() {
    let mut one = table(1);
    let mut two = table(2);
    set(&mut one, "a", "x");
    exchange(&mut one, &mut two);
    // The host's disk went back: it begins once more with an epoch that it had already.
    let mut one = table(1);
    let missing = one.missing(u64::MAX, &two.heads(u64::MAX));
    assert_eq!(missing.own_from_future, Some(v(1, 1)));
    assert!(missing.want.iter().all(|head| head.origin != host(1)));
    let nothing = Head {
        origin: host(1),
        cover: Cover::default(),
        swept: v(0, 0),
    };
    let delta = two.delta(NOW, &nothing, 1000).unwrap();
    assert_eq!(one.merge(NOW, delta.clone()), Merged::OwnFromFuture(v(1, 1)));
    let (key, version, content) = delta.rows[0].clone();
    let change = Change {
        origin: host(1),
        version,
        key,
        content,
    };
    assert_eq!(one.apply(NOW, change.clone()), Outcome::OwnFromFuture(v(1, 1)));
    assert_eq!(
        (one.rows(), one.faults().get(&host(1)).unwrap().from_future),
        (0, 3)
    );
    // It states its rows under an epoch that is above, and is believed.
    assert_eq!(one.restate(1), Err(Refused::Epoch { after: v(1, 0) }));
    one.restate(2).unwrap();
    exchange(&mut one, &mut two);
    assert_eq!(rows_of(&two, host(1)), rows(&[]));
    assert_eq!(one.apply(NOW, change), Outcome::Known);
    assert_eq!(one.faults().get(&host(1)).unwrap().echoes, 1);
}

#[test]
fn a_restatement_keeps_the_rows_and_shows_no_difference() {
    let (mut one, mut two) = full_and_empty(5);
    exchange(&mut one, &mut two);
    remove(&mut one, "row000");
    exchange(&mut one, &mut two);
    one.begin();
    two.begin();
    one.restate(7).unwrap();
    assert_eq!(one.own_version(), v(7, 4));
    exchange(&mut one, &mut two);
    assert_eq!((one.drain(), two.drain()), (vec![], vec![]));
    assert_eq!((one.rows(), two.rows(), rows_of(&two, host(1)).len()), (4, 4, 4));
}
