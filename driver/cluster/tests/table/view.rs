//! Single tables: what is set, what is visible, what is remembered.

use tombolo_cluster::table::*;
use tombolo_cluster::time::Tick;

use crate::common::*;

#[test]
fn own_changes_are_numbered_from_one_on_and_what_changes_nothing_is_none() {
    let mut one = table_with(1, 7, Limits::default(), &[("b", "2"), ("a", "1")]);
    assert_eq!(
        (one.own_version(), one.version_of(host(1), "b")),
        (v(7, 2), Some(v(7, 2)))
    );
    let change = set(&mut one, "a", "3");
    assert_eq!(
        (change.version, change.origin, body(&change)),
        (v(7, 3), host(1), Some(&b"3"[..]))
    );
    assert_eq!(one.set(NOW, key("a"), Some(b"3")), Ok(None));
    assert_eq!(one.set(NOW, key("x"), None), Ok(None));
    assert_eq!(remove(&mut one, "a").content, Content::Removed { left_s: 1800 });
    assert_eq!(one.set(NOW, key("a"), None), Ok(None));
    assert_eq!((one.own_version(), one.version_of(host(1), "a")), (v(7, 4), None));
    assert_eq!(rows_of(&one, host(1)), rows(&[("b", "2")]));
}

#[test]
fn a_body_is_handed_on_as_its_owner_wrote_it() {
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    let strange = [0, 255, 13, 10, 0x80, 0xfe];
    one.set(NOW, key("a"), Some(&strange)).unwrap();
    exchange(&mut one, &mut two);
    exchange(&mut two, &mut three);
    assert_eq!(three.get(host(1), "a").unwrap().as_ref(), strange);
}

#[test]
fn the_view_has_all_that_is_shown_and_a_dropped_host_is_told_as_gone() {
    let (mut one, mut two) = (table(1), table(2));
    set(&mut one, "a", "x");
    set(&mut two, "b", "y");
    exchange(&mut one, &mut two);
    assert_eq!(two.begin().len(), 2);
    two.expel(host(1));
    two.expel(host(2));
    two.hide(NOW, host(2));
    let told = two.drain();
    assert_eq!((told.len(), told[0].origin, &told[0].after), (1, host(1), &None));
    assert_eq!(
        visible(&two).into_keys().collect::<Vec<_>>(),
        [(host(2), "b".to_owned())],
        "oneself stays"
    );
    assert_eq!(
        (two.standing(host(1)), two.standing(host(2))),
        (None, Some(Standing::Shown))
    );
}

#[test]
fn the_waiting_differences_are_bounded_by_the_rows() {
    let (mut one, mut two) = (table(1), table(2));
    two.begin();
    for n in 0..1000 {
        let k = format!("k{n}");
        apply(&mut two, &set(&mut one, &k, "x"));
        apply(&mut two, &remove(&mut one, &k));
        assert_eq!(two.waiting(), 0);
    }
}

#[test]
fn what_is_remembered_of_others_is_known_after_a_restart_and_own_rows_are_not_in_it() {
    let (mut one, mut two) = (table(1), table(2));
    set(&mut one, "a", "x");
    set(&mut one, "b", "y");
    remove(&mut one, "b");
    set(&mut two, "own", "z");
    exchange(&mut one, &mut two);
    two.hide(NOW, host(1));
    let record = two.snapshot(NOW, host(1)).unwrap().unwrap();
    assert_eq!(
        (two.snapshot(NOW, host(2)), two.snapshot(NOW, host(3))),
        (Ok(None), Ok(None))
    );
    let later = Tick(5);
    let mut two = table_with(2, 2, Limits::default(), &[("own", "z")]);
    assert_eq!(two.restore(later, &record), Ok(Merged::New { rows: 2 }));
    assert_eq!(visible(&two).len(), 2, "how it stands is not remembered");
    assert!(
        two.missing(u64::MAX, &one.heads(u64::MAX))
            .want
            .iter()
            .all(|head| head.origin != host(1))
    );
    two.tick(Tick(5 + 1_799_999));
    assert_eq!(two.rows(), 3);
    two.tick(Tick(5 + 1_800_000));
    assert_eq!(two.rows(), 2, "the removal had half an hour left");
    assert_eq!(two.restore(later, &record), Ok(Merged::Known));
    assert_eq!(
        one.restore(later, &record),
        Ok(Merged::Known),
        "own rows are not restored"
    );
    let mut alone = Table::new(host(4), 1, Limits::default(), []).unwrap();
    let refused = Merged::Refused(Refused::NotAdmitted { host: host(1) });
    assert_eq!(alone.restore(later, &record), Ok(refused));
}
