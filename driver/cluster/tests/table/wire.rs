//! Bytes from elsewhere: what they may be, and that any others do no harm.

use std::sync::Arc;

use proptest::prelude::*;
use tombolo_cluster::table::*;

use crate::common::*;

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![(0..3_u32, 0..40_u32), any::<(u32, u32)>()].prop_map(|(epoch, count)| v(epoch, count))
}

fn covers() -> impl Strategy<Value = Cover> {
    (versions(), prop::collection::vec(versions(), 0..6)).prop_map(|(known, ahead)| {
        let mut cover = Cover::up_to(known);
        for version in ahead {
            cover.add(version);
        }
        cover
    })
}

fn contents() -> impl Strategy<Value = Content> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|body| Content::Body(Arc::from(body))),
        any::<u32>().prop_map(|left_s| Content::Removed { left_s }),
    ]
}

fn keys() -> impl Strategy<Value = Key> {
    "[a-zA-Z0-9/._:-]{1,12}".prop_map(|text| key(&text))
}

fn changes() -> impl Strategy<Value = Change> {
    (1..4_u8, versions(), keys(), contents()).prop_map(|(n, version, key, content)| Change {
        origin: host(n),
        version,
        key,
        content,
    })
}

fn deltas() -> impl Strategy<Value = Delta> {
    let rows = prop::collection::vec((keys(), versions(), contents()), 0..8);
    let whole = prop::option::of(covers());
    (
        1..4_u8,
        prop::option::of(covers()),
        covers(),
        whole,
        versions(),
        rows,
    )
        .prop_map(|(n, base, cover, whole, swept, mut rows)| {
            rows.sort_by_key(|(_, version, _)| *version);
            Delta {
                origin: host(n),
                base,
                cover,
                whole,
                swept,
                rows,
            }
        })
}

/// What a table that has taken anything must still be able to do.
fn is_sound(table: &mut Table) {
    table.tick(much_later(NOW));
    let told = table.drain().len();
    assert!(told <= table.rows() + 2, "{told}");
    for head in table.heads(u64::MAX) {
        let nothing = Head {
            cover: Cover::default(),
            swept: v(0, 0),
            ..head
        };
        if let Some(delta) = table.delta(NOW, &nothing, 100) {
            assert!(delta.cover.within(delta.whole.as_ref().unwrap_or(&delta.cover)));
        }
        table.snapshot(NOW, nothing.origin).unwrap();
    }
}

#[test]
fn a_change_is_small() {
    let mut one = table(1);
    let change = set(&mut one, "share/10.1.0.0/16", "body");
    // Origin, epoch, count, the key and its length, what it is, the body and its length.
    assert_eq!(change.encode().unwrap().len(), 16 + 1 + 1 + 18 + 1 + 5);
}

#[test]
fn too_long_cut_short_and_trailing_bytes_are_told_apart() {
    let mut one = table(1);
    let bytes = set(&mut one, "a", "x").encode().unwrap();
    let text = |bytes: &[u8], at_most| Change::decode(bytes, at_most).unwrap_err().to_string();
    assert_eq!(text(&bytes, 22), "a change of 23 bytes: at most 22 are allowed");
    assert_eq!(text(&bytes[..22], 23), "a change of 22 bytes cannot be read");
    let longer = [&bytes[..], &[0, 0]].concat();
    assert_eq!(
        text(&longer, 99),
        "a change of 25 bytes ends 2 bytes before its end"
    );
    assert!(Change::decode(&bytes, 23).is_ok());
}

#[test]
fn a_length_that_the_bytes_do_not_have_allocates_nothing_and_is_refused() {
    // A delta's origin, no base, a cover, no whole, swept, and then four thousand million rows.
    let bytes = [
        &[1; 16][..],
        &[0],
        &[1, 1, 0],
        &[0],
        &[1, 0],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
    ]
    .concat();
    assert!(matches!(
        Delta::decode(&bytes, 100),
        Err(Garbled::Unreadable { .. })
    ));
    let heads = [0xff, 0xff, 0xff, 0xff, 0x0f];
    assert!(matches!(
        Vec::<Head>::decode(&heads, 100),
        Err(Garbled::Unreadable { .. })
    ));
}

proptest! {
    #[test]
    fn what_is_encoded_reads_back(change in changes(), delta in deltas()) {
        let bytes = change.encode().unwrap();
        prop_assert_eq!(Change::decode(&bytes, bytes.len()), Ok(change));
        let heads = vec![Head { origin: delta.origin, cover: delta.cover.clone(), swept: delta.swept }];
        let bytes = delta.encode().unwrap();
        prop_assert_eq!(Delta::decode(&bytes, bytes.len()), Ok(delta));
        let bytes = heads.encode().unwrap();
        prop_assert_eq!(Vec::<Head>::decode(&bytes, bytes.len()), Ok(heads));
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut one = table(1);
        if let Ok(change) = Change::decode(&bytes, 200) {
            one.apply(NOW, change);
        }
        if let Ok(delta) = Delta::decode(&bytes, 300) {
            one.merge(NOW, delta);
        }
        if let Ok(heads) = Vec::<Head>::decode(&bytes, 300) {
            one.missing(u64::MAX, &heads);
        }
        prop_assert!(one.restore(NOW, &bytes).is_err());
        is_sound(&mut one);
    }

    #[test]
    fn flipped_bytes_do_no_harm_and_a_damaged_record_is_noticed(
        delta in deltas(),
        change in changes(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
    ) {
        let mut one = table(1);
        let mut bytes = change.encode().unwrap();
        let spoil = |bytes: &mut Vec<u8>| flips.iter().for_each(|(at, by)| {
            let at = at.index(bytes.len());
            bytes[at] ^= by;
        });
        spoil(&mut bytes);
        if let Ok(change) = Change::decode(&bytes, bytes.len()) {
            one.apply(NOW, change);
        }
        let mut bytes = delta.encode().unwrap();
        spoil(&mut bytes);
        if let Ok(delta) = Delta::decode(&bytes, bytes.len()) {
            one.merge(NOW, delta);
        }
        is_sound(&mut one);
        let mut two = table(2);
        set(&mut two, "a", "x");
        let mut three = table(3);
        exchange(&mut two, &mut three);
        let good = three.snapshot(NOW, host(2)).unwrap().unwrap();
        let mut record = good.clone();
        spoil(&mut record);
        // Flips may undo each other.
        prop_assert_eq!(one.restore(NOW, &record).is_err(), record != good);
    }

    #[test]
    fn any_changes_and_deltas_whatsoever_leave_a_table_sound(
        news in prop::collection::vec(prop_oneof![changes().prop_map(Ok), deltas().prop_map(Err)], 0..30),
        rows_per_host in 0..6_usize,
    ) {
        let limits = Limits { rows_per_host, bytes_per_host: 200, rows_in_all: 12, ..Limits::default() };
        let mut one = table_with(1, 1, limits.clone(), &[]);
        for news in news {
            match news {
                Ok(change) => drop(one.apply(NOW, change)),
                Err(delta) => drop(one.merge(NOW, delta)),
            }
            prop_assert!(one.rows() <= 12 && one.bytes() <= 600);
            for n in 1..4 {
                prop_assert!(one.rows_of(host(n)).count() <= rows_per_host);
            }
        }
        prop_assert_eq!(one.rows_of(host(1)).count(), 0, "own rows are one's own");
        is_sound(&mut one);
    }
}
