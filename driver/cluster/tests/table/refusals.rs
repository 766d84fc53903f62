//! Limits: what is refused, that it is counted, and that nobody else pays for it.

use std::sync::Arc;

use tombolo_cluster::table::*;

use crate::common::*;

fn limits() -> Limits {
    Limits {
        body: 10,
        rows_per_host: 3,
        bytes_per_host: 40,
        rows_in_all: 5,
        bytes_in_all: 100,
        hosts: 10,
        ..Limits::default()
    }
}

fn refused(outcome: Outcome) -> Refused {
    match outcome {
        Outcome::Refused(why) => why,
        strange => panic!("{strange:?}"),
    }
}

#[test]
fn own_rows_beyond_a_limit_are_refused_and_say_which_one() {
    let mut one = table_with(1, 1, limits(), &[]);
    let mut try_set = |k: &str, body: &str| {
        one.set(NOW, key(k), Some(body.as_bytes()))
            .map_err(|e| e.to_string())
    };
    assert_eq!(
        try_set("a", "12345678901").unwrap_err(),
        "row a of host 01010101010101010101010101010101 has 11 bytes: at most 10 are allowed"
    );
    for k in ["a", "b", "c"] {
        try_set(k, "1234567890").unwrap();
    }
    assert_eq!(
        try_set("d", "").unwrap_err(),
        "host 01010101010101010101010101010101 would have 4 rows: at most 3 are allowed"
    );
    let long = "k".repeat(30);
    assert_eq!(
        try_set("a", "1").unwrap().unwrap().version,
        v(1, 4),
        "a refused change takes no number"
    );
    assert_eq!(try_set("a", "1"), Ok(None));
    one.set(NOW, key("b"), None).unwrap();
    let error = one.set(NOW, key(&long), Some(b"1")).unwrap_err();
    assert_eq!(
        error,
        Refused::OfHost {
            host: host(1),
            what: "bytes",
            got: 45,
            at_most: 40
        }
    );
    let faults = one.faults()[&host(1)];
    assert_eq!((faults.too_large, faults.over_limit), (1, 2));
}

#[test]
fn of_the_rows_to_begin_with_each_that_exceeds_a_limit_is_left_out_alone_and_counted() {
    let rows_to = [
        ("a", "1"),
        ("b", "12345678901"),
        ("c", "1"),
        (&"k".repeat(40), "1"),
        ("l", "1"),
        ("m", "1"),
    ];
    let mut one = table_with(1, 7, limits(), &rows_to);
    assert_eq!(
        rows_of(&one, host(1)),
        rows(&[("a", "1"), ("c", "1"), ("l", "1")])
    );
    let faults = one.faults()[&host(1)];
    assert_eq!((faults.too_large, faults.over_limit), (1, 2));
    // The others have what there is, and what comes later.
    let mut two = table(2);
    exchange(&mut one, &mut two);
    assert_eq!(apply(&mut two, &set(&mut one, "a", "2")), Outcome::New);
    assert_eq!(rows_of(&two, host(1)), rows_of(&one, host(1)));
}

#[test]
fn whose_rows_are_refused_keeps_no_other_hosts_rows_away() {
    // Hosts 2 and 4 have more than host 1 takes, and an answer has room for one of the three.
    let mut others = table(9);
    for n in [2, 3, 4] {
        let rows: &[(&str, &str)] = match n {
            3 => &[("a", "x")],
            _ => &[("a", "12345678901")],
        };
        exchange(&mut table_with(n, 1, Limits::default(), rows), &mut others);
    }
    let mut one = table_with(1, 1, limits(), &[]);
    for _ in 0..3 {
        let missing = one.missing(u64::MAX, &others.heads(u64::MAX));
        let first = missing.want.iter().find(|head| head.origin != host(9)).unwrap();
        let delta = others.delta(NOW, first, 1_000).unwrap();
        match (first.origin == host(3), one.merge(NOW, delta)) {
            (true, Merged::New { rows: 1 }) | (false, Merged::Refused(Refused::Body { got: 11, .. })) => {}
            (_, strange) => panic!("{strange:?}"),
        }
    }
    assert_eq!(rows_of(&one, host(3)), rows(&[("a", "x")]));
}

#[test]
fn an_epoch_ends_with_its_last_number() {
    let two = table(2);
    assert_eq!(two.own_version(), v(1, 0));
    let mut three = table(3);
    let last = Change {
        origin: host(2),
        version: v(u32::MAX, u32::MAX),
        key: key("a"),
        content: Content::Body(Arc::from(*b"x")),
    };
    assert_eq!(apply(&mut three, &last), Outcome::Ahead);
    assert_eq!(
        apply(
            &mut three,
            &Change {
                version: v(u32::MAX, 0),
                ..last.clone()
            }
        ),
        {
            let why = "a change has the number zero";
            Outcome::Refused(Refused::Contradiction { host: host(2), why })
        }
    );
    assert_eq!(rows_of(&three, host(2)), rows(&[("a", "x")]));
    assert_eq!(three.faults().get(&host(2)).unwrap().contradictions, 1);
}

#[test]
fn what_others_send_beyond_a_limit_is_refused_counted_and_costs_nobody_a_row() {
    let mut one = table_with(1, 1, limits(), &[("own", "row")]);
    let mut two = table(2);
    let mut three = table(3);
    for k in ["a", "b", "c"] {
        assert_eq!(apply(&mut one, &set(&mut two, k, "x")), Outcome::New);
    }
    let fourth = refused(apply(&mut one, &set(&mut two, "d", "x")));
    assert_eq!(
        fourth,
        Refused::OfHost {
            host: host(2),
            what: "rows",
            got: 4,
            at_most: 3
        }
    );
    assert_eq!(
        apply(&mut one, &set(&mut two, "c", "y")),
        Outcome::Ahead,
        "what fits is taken"
    );
    let large = refused(apply(&mut one, &set(&mut two, "a", "12345678901")));
    assert!(matches!(large, Refused::Body { got: 11, .. }));
    assert_eq!(apply(&mut one, &set(&mut three, "a", "x")), Outcome::New);
    let all = refused(apply(&mut one, &set(&mut three, "b", "x")));
    assert_eq!(
        all,
        Refused::InAll {
            host: host(3),
            what: "rows",
            got: 6,
            at_most: 5
        }
    );
    assert_eq!(
        all.to_string(),
        "with what host 03030303030303030303030303030303 sent there would be 6 rows in all: at most 5 are allowed"
    );
    assert_eq!(rows_of(&one, host(1)), rows(&[("own", "row")]));
    assert_eq!(
        rows_of(&one, host(2)),
        rows(&[("a", "x"), ("b", "x"), ("c", "y")])
    );
    let faults = |n| *one.faults().get(&host(n)).unwrap();
    assert_eq!(
        (faults(2).over_limit, faults(2).too_large, faults(3).over_limit),
        (1, 1, 1)
    );
}

#[test]
fn bytes_beyond_those_of_all_are_refused_and_room_is_made_by_who_says_less() {
    let within = |bytes_in_all| Limits {
        bytes_per_host: 100,
        bytes_in_all,
        ..limits()
    };
    let mut one = table_with(1, 1, within(25), &[("own", "1234567")]);
    let (mut two, mut three) = (table(2), table(3));
    assert_eq!(apply(&mut one, &set(&mut two, "a", "1234567890")), Outcome::New);
    let second = set(&mut three, "a", "12345");
    assert_eq!(
        refused(apply(&mut one, &second)),
        Refused::InAll {
            host: host(3),
            what: "bytes",
            got: 27,
            at_most: 25
        }
    );
    assert_eq!(apply(&mut one, &set(&mut two, "a", "12345678")), Outcome::New);
    assert_eq!(apply(&mut one, &second), Outcome::New);
    assert_eq!((one.bytes(), one.faults()[&host(3)].over_limit), (25, 1));
}

#[test]
fn a_delta_beyond_a_limit_is_refused_as_a_whole_in_pieces_or_not() {
    let mut two = table(2);
    for k in ["a", "b", "c", "d"] {
        set(&mut two, k, "x");
    }
    for max_bytes in [1000, 0] {
        let mut one = table_with(1, 1, limits(), &[]);
        let merged = pull(&mut one, &mut two, (NOW, NOW), max_bytes, 9);
        let last = merged.into_iter().last().unwrap();
        assert_eq!(
            last,
            Merged::Refused(Refused::OfHost {
                host: host(2),
                what: "rows",
                got: 4,
                at_most: 3
            })
        );
        assert_eq!(one.rows(), 0);
        // Room is made by the owner, and the next attempt succeeds.
        let mut two = table_with(2, 2, limits(), &[("a", "x"), ("b", "x"), ("c", "x")]);
        exchange(&mut one, &mut two);
        assert_eq!(rows_of(&one, host(2)).len(), 3);
    }
}

#[test]
fn pieces_are_not_collected_beyond_what_a_host_may_have() {
    let mut two = table(2);
    (0..20).for_each(|n| drop(set(&mut two, &format!("key{n:02}"), "x")));
    let mut one = table_with(1, 1, limits(), &[]);
    let merged = pull(&mut one, &mut two, (NOW, NOW), 0, 20);
    assert_eq!(
        merged.len(),
        7,
        "six rows of six bytes are within the limit of rows and removals"
    );
    assert!(matches!(
        merged.last(),
        Some(Merged::Refused(Refused::OfHost {
            what: "rows and removals",
            got: 7,
            ..
        }))
    ));
}

#[test]
fn only_so_many_deltas_are_under_way_at_once() {
    let mut one = table_with(
        1,
        1,
        Limits {
            gathers: 1,
            ..Limits::default()
        },
        &[],
    );
    let nothing = |n| Head {
        origin: host(n),
        cover: Cover::default(),
        swept: v(0, 0),
    };
    let others = [2, 3].map(|n| table_with(n, 1, Limits::default(), &[("a", "x"), ("b", "y")]));
    let first = |n: usize, of: &[Table; 2]| of[n].delta(NOW, &nothing(n as u8 + 2), 0).unwrap();
    assert!(matches!(one.merge(NOW, first(0, &others)), Merged::More(_)));
    assert!(matches!(
        one.merge(NOW, first(1, &others)),
        Merged::Refused(Refused::InAll {
            what: "deltas under way",
            got: 2,
            at_most: 1,
            ..
        })
    ));
    let whole = others[1].delta(NOW, &nothing(3), 1000).unwrap();
    assert_eq!(
        one.merge(NOW, whole),
        Merged::New { rows: 2 },
        "a whole one needs no room"
    );
}

#[test]
fn gaps_beyond_what_can_be_noted_are_left_to_the_exchange() {
    let (mut one, mut two) = (table(1), table(2));
    let changes: Vec<_> = (0..80).map(|n| set(&mut one, &format!("k{n}"), "x")).collect();
    let outcomes: Vec<_> = changes
        .iter()
        .skip(1)
        .step_by(2)
        .map(|change| apply(&mut two, change))
        .collect();
    assert!(outcomes[..32].iter().all(|outcome| *outcome == Outcome::Ahead));
    assert!(
        outcomes[32..]
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Refused(Refused::OfHost { what: "gaps", .. })))
    );
    exchange(&mut one, &mut two);
    assert_eq!(visible(&one), visible(&two));
}

#[test]
fn removals_beyond_the_limit_are_forgotten_early_without_harm() {
    let mut one = table_with(1, 1, limits(), &[]);
    let (mut two, mut three) = (table(2), table_with(3, 1, limits(), &[]));
    set(&mut one, "keep", "x");
    for n in 0..3 {
        set(&mut one, &format!("k{n}"), "x");
        if n == 1 {
            exchange(&mut one, &mut two);
        }
        remove(&mut one, &format!("k{n}"));
    }
    set(&mut one, "k3", "x");
    exchange(&mut one, &mut three);
    let last = remove(&mut one, "k3");
    assert_eq!(
        (one.rows(), rows_of(&one, host(1)).len()),
        (4, 1),
        "three removals are told"
    );
    assert_eq!(apply(&mut three, &last), Outcome::New);
    assert_eq!(three.rows(), 4);
    exchange(&mut two, &mut three);
    assert_eq!(rows_of(&two, host(1)), rows(&[("keep", "x")]));
}

#[test]
fn hosts_beyond_the_limit_are_not_admitted_and_their_faults_are_summed_up() {
    let mut one = table_with(1, 1, limits(), &[]);
    one.admit(host(10)).unwrap();
    assert_eq!(one.admit(host(10)), Ok(()));
    assert_eq!(
        one.admit(host(11)),
        Err(Refused::InAll {
            host: host(11),
            what: "hosts",
            got: 11,
            at_most: 10
        })
    );
    for n in 100..130 {
        one.undecodable(host(n));
    }
    assert_eq!((one.faults().len(), one.faults_of_others().undecodable), (10, 20));
}

#[test]
fn a_delta_that_contradicts_itself_is_refused() {
    let mut two = table(2);
    let nothing = Head {
        origin: host(2),
        cover: Cover::default(),
        swept: v(0, 0),
    };
    for k in ["a", "b"] {
        set(&mut two, k, "x");
    }
    let good = two.delta(NOW, &nothing, 1000).unwrap();
    let mut one = table(1);
    let spoilt: [fn(&mut Delta); 5] = [
        |delta| delta.rows.swap(0, 1),
        |delta| delta.rows[1].1 = delta.rows[0].1,
        |delta| delta.cover = Cover::up_to(v(1, 1)),
        |delta| delta.whole = Some(Cover::up_to(v(1, 1))),
        |delta| delta.swept = v(1, 3),
    ];
    for (n, spoil) in spoilt.into_iter().enumerate() {
        let mut delta = good.clone();
        spoil(&mut delta);
        let merged = one.merge(NOW, delta);
        assert!(
            matches!(merged, Merged::Refused(Refused::Contradiction { .. })),
            "{n}: {merged:?}"
        );
    }
    assert_eq!(
        (one.rows(), one.faults().get(&host(2)).unwrap().contradictions),
        (0, 5)
    );
    assert_eq!(one.merge(NOW, good), Merged::New { rows: 2 });
}
