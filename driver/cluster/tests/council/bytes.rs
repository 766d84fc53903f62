//! Words and charters from anybody's bytes, and a council that hears anything.

use ipnet::IpNet;
use proptest::prelude::*;
use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, Decree, Held};
use tombolo_cluster::council::{Act, Ballot, Shares, WORD_MAX, Word};

use crate::seat::{Seat, ballot, outcomes};
use crate::{charter, found, host, join, pool};

fn any_net() -> impl Strategy<Value = IpNet> {
    (any::<std::net::IpAddr>(), 0..=32_u8).prop_map(|(address, bits)| IpNet::new(address, bits).unwrap())
}

fn any_host() -> impl Strategy<Value = HostId> {
    (0..5_usize).prop_map(host)
}

fn any_shares() -> impl Strategy<Value = Shares> {
    let pieces = prop::collection::vec((any_net(), any::<u64>()), 0..3);
    let gifts = prop::collection::vec((any_net(), any::<u64>(), any_host()), 0..3);
    let held = (any::<(u32, u32)>(), any::<u64>(), pieces, gifts);
    let held = held.prop_map(|(version, applied, pieces, gifts)| Held {
        version,
        applied,
        pieces,
        gifts,
    });
    let share = prop::collection::btree_map(any_net(), held, 0..3);
    prop::collection::btree_map(any_host(), share, 0..3)
}

fn any_decree() -> impl Strategy<Value = Decree> {
    prop_oneof![
        Just(Decree::Nothing),
        (0..6_usize).prop_map(join),
        any_host().prop_map(|host| Decree::Leave { host }),
        (prop::collection::vec(any_host(), 0..4), any_host(), any_shares())
            .prop_map(|(hosts, heir, shares)| Decree::Forget { hosts, heir, shares }),
        (any_net(), 0..5_usize).prop_map(|(pool, by)| found(pool, by, "k".into())),
        (0..5_usize).prop_map(pool),
        (any_net(), any_host()).prop_map(|(pool, by)| Decree::Dissolve { pool, by }),
        (1..4_u32).prop_map(|number| Decree::Secret {
            number,
            check: [0; 32]
        }),
    ]
}

fn any_word() -> impl Strategy<Value = Word> {
    let slot = || prop_oneof![4 => 3..8_u64, 1 => any::<u64>()];
    let ballot = || (prop_oneof![4 => 0..5_u64, 1 => any::<u64>()], any_host());
    let ballot = move || ballot().prop_map(|(round, host)| Ballot { round, host });
    prop_oneof![
        (slot(), ballot(), any_decree()).prop_map(|(slot, ballot, intent)| Word::Prepare {
            slot,
            ballot,
            intent
        }),
        (
            slot(),
            ballot(),
            prop::option::of((ballot(), any_decree())),
            any_shares()
        )
            .prop_map(|(slot, ballot, accepted, held)| Word::Promise {
                slot,
                ballot,
                accepted,
                held
            }),
        (slot(), ballot()).prop_map(|(slot, ballot)| Word::Object {
            slot,
            ballot,
            why: vec!["no".into()]
        }),
        (slot(), ballot(), any_decree()).prop_map(|(slot, ballot, decree)| Word::Accept {
            slot,
            ballot,
            decree
        }),
        (slot(), ballot()).prop_map(|(slot, ballot)| Word::Accepted { slot, ballot }),
        (slot(), ballot(), ballot()).prop_map(|(slot, ballot, promised)| Word::Refuse {
            slot,
            ballot,
            promised
        }),
        (slot(), any_decree()).prop_map(|(slot, decree)| Word::Decided { slot, decree }),
        slot().prop_map(|index| Word::Behind { index }),
        slot().prop_map(|index| Word::At { index }),
    ]
}

proptest! {
    #[test]
    fn a_word_reads_back(word in any_word()) {
        prop_assert_eq!(Word::decode(&word.encode().unwrap()), Ok(word));
    }

    #[test]
    fn strange_bytes_are_a_word_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(word) = Word::decode(&bytes) {
            prop_assert_eq!(Word::decode(&word.encode().unwrap()), Ok(word));
        }
        let _ = Charter::decode(&bytes);
    }

    #[test]
    fn a_word_with_bytes_changed_is_a_word_or_an_error(
        word in any_word(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        rest in 0..4_usize,
    ) {
        let mut bytes = word.encode().unwrap();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let longer = [bytes.clone(), vec![0; rest]].concat();
        if rest > 0 && Word::decode(&bytes).is_ok() {
            prop_assert!(Word::decode(&longer).is_err());
        }
        let shorter = &bytes[..bytes.len() - 1];
        if Word::decode(&bytes).is_ok() {
            prop_assert!(Word::decode(shorter).is_err());
        }
    }

    #[test]
    fn a_charter_takes_any_decrees(decrees in prop::collection::vec(any_decree(), 0..30)) {
        let mut charter = charter(4);
        for decree in decrees {
            let before = charter.index;
            let void = charter.apply(&decree).is_err();
            prop_assert_eq!(charter.index, before + 1);
            prop_assert!(!void || charter.clone().apply(&decree).is_err());
            let pools: Vec<&IpNet> = charter.pools.keys().collect();
            prop_assert!(pools.windows(2).all(|two| !two[0].contains(two[1])));
            for grant in &charter.grants {
                prop_assert!(charter.hosts.contains_key(&grant.to) && charter.pools.contains_key(&grant.pool));
                let mut nets: Vec<IpNet> = grant.pieces.iter().map(|(net, _)| *net).collect();
                nets.extend(grant.gifts.iter().map(|(net, ..)| *net));
                nets.sort();
                prop_assert!(nets.iter().all(|net| grant.pool.contains(net)));
                prop_assert!(nets.windows(2).all(|two| !two[0].contains(&two[1])), "{:?}", nets);
            }
        }
        prop_assert!(!charter.hosts.is_empty());
        prop_assert_eq!(Charter::decode(&charter.encode().unwrap()), Ok(charter));
    }

    #[test]
    fn whatever_is_said_a_council_goes_on_and_every_wish_ends(
        words in prop::collection::vec((0..5_usize, any_word(), 0..500_u64), 0..60),
        wishes in prop::collection::vec(any_decree(), 1..4),
    ) {
        let mut seat = Seat::new(0, &charter(4));
        let mut now = 0;
        let mut acts = Vec::new();
        for (ticket, wish) in wishes.iter().enumerate() {
            acts.extend(seat.propose(now, ticket as u64, wish));
        }
        for (from, word, pause) in words {
            now += pause;
            let done = seat.hear(now, from, word);
            let soon = |act: &Act| matches!(act, Act::Wake(at) if at.0 <= now);
            prop_assert!(!done.iter().any(soon), "woken without end");
            acts.extend(done);
        }
        acts.extend(seat.tick(now.max(2000)));
        prop_assert_eq!(outcomes(&acts).len(), wishes.len());
    }
}

#[test]
fn a_few_bytes_that_claim_to_be_many_are_refused() {
    // An objection that would be 2^60 bytes long, and as many objections.
    for count in [
        &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f][..],
        &[0xff; 9][..],
    ] {
        let mut bytes = Word::Object {
            slot: 1,
            ballot: ballot(1, 0),
            why: vec![],
        }
        .encode()
        .unwrap();
        bytes.pop();
        bytes.extend(count);
        assert!(Word::decode(&bytes).is_err());
    }
    let long = vec![0; WORD_MAX + 1];
    let error = Word::decode(&long).unwrap_err();
    assert!(format!("{error:?}").contains("1048577"));
}
