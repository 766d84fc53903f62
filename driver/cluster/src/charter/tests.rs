use super::*;

fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn join(n: u8) -> Decree {
    Decree::Join {
        host: host(n),
        name: format!("h{n}"),
        key: [n; 32],
    }
}

fn definition() -> Definition {
    let (gateway, aux) = (Some("10.1.0.1".parse().unwrap()), BTreeSet::new());
    Definition {
        net: None,
        kind: "overlay".into(),
        gateway,
        aux,
        vni: Some(7),
        mtu: Some(1450),
    }
}

fn plain() -> Definition {
    Definition {
        net: None,
        kind: "overlay".into(),
        gateway: None,
        aux: BTreeSet::new(),
        vni: None,
        mtu: None,
    }
}

fn found(pool: &str, founder: u8) -> Decree {
    Decree::Found {
        pool: net(pool),
        founder: host(founder),
        definition: plain(),
    }
}

fn held(version: u32, applied: u64, pieces: &[(&str, u64)], gifts: &[(&str, u64, u8)]) -> Held {
    Held {
        version: (1, version),
        applied,
        pieces: pieces.iter().map(|(text, seq)| (net(text), *seq)).collect(),
        gifts: gifts
            .iter()
            .map(|(text, seq, to)| (net(text), *seq, host(*to)))
            .collect(),
    }
}

fn forget(lost: &[u8], heir: u8, shares: Vec<(u8, Held)>) -> Decree {
    let pool = net("10.1.0.0/24");
    let shares = shares
        .into_iter()
        .map(|(n, held)| (host(n), BTreeMap::from([(pool, held)])))
        .collect();
    Decree::Forget {
        hosts: lost.iter().map(|n| host(*n)).collect(),
        heir: host(heir),
        shares,
    }
}

/// Hosts 1 to 4 and the pool 10.1.0.0/24, founded by host 1 at decree 4.
fn four() -> Charter {
    let mut charter = Charter::founded([9; 16], host(1), "h1".into(), [1; 32], [0; 32]);
    for decree in [join(2), join(3), join(4), found("10.1.0.0/24", 1)] {
        charter.apply(&decree).unwrap();
    }
    charter
}

/// Applies a decree that must change nothing but the index, and gives the text of why.
fn void(charter: &mut Charter, decree: &Decree) -> String {
    let before = charter.clone();
    let why = charter.apply(decree).unwrap_err();
    assert_eq!(
        *charter,
        Charter {
            index: before.index + 1,
            ..before
        },
        "{decree:?}"
    );
    why.to_string()
}

#[test]
fn a_void_decree_takes_its_slot_and_says_why_with_both_sides() {
    let mut charter = four();
    charter.apply(&Decree::Leave { host: host(4) }).unwrap();
    let other_key = Decree::Join {
        host: host(2),
        name: "h2".into(),
        key: [77; 32],
    };
    let same_key = Decree::Join {
        host: host(9),
        name: "h9".into(),
        key: [2; 32],
    };
    let overlap = found("10.1.0.128/25", 2);
    let unmasked = found("10.2.0.1/24", 2);
    let foreign = Decree::Found {
        pool: net("10.3.0.0/24"),
        founder: host(2),
        definition: definition(),
    };
    let no_pool = Decree::Dissolve {
        pool: net("10.9.0.0/24"),
        by: host(1),
    };
    let long = Decree::Join {
        host: host(8),
        name: "x".repeat(256),
        key: [8; 32],
    };
    for (decree, words) in [
        (join(4), vec!["h4", "left", "decree 5"]),
        (other_key, vec!["h2", "0202", "4d4d"]),
        (same_key, vec!["h9", "h2"]),
        (Decree::Leave { host: host(9) }, vec!["0909"]),
        (overlap, vec!["10.1.0.128/25", "10.1.0.0/24", "h1", "decree 4"]),
        (unmasked, vec!["10.2.0.1/24", "10.2.0.0/24"]),
        (foreign, vec!["10.1.0.1", "10.3.0.0/24"]),
        (no_pool, vec!["10.9.0.0/24"]),
        (forget(&[], 1, vec![]), vec!["no host"]),
        (forget(&[9], 1, vec![]), vec!["0909"]),
        (forget(&[4], 1, vec![]), vec!["h4", "left"]),
        (forget(&[2], 4, vec![]), vec!["h4"]),
        (forget(&[2], 2, vec![]), vec!["h2", "among the lost"]),
        (
            Decree::Secret {
                number: 3,
                check: [1; 32],
            },
            vec!["3", "1", "2"],
        ),
        (long, vec!["256", "255"]),
    ] {
        let text = void(&mut charter, &decree);
        for word in words {
            assert!(text.contains(word), "{word:?} stands not in {text:?}");
        }
    }
}

#[test]
fn two_pools_have_neither_one_name_nor_one_vni() {
    let mut charter = four();
    let named = |pool: &str, net_name: &str, vni| Decree::Found {
        pool: net(pool),
        founder: host(1),
        definition: Definition {
            net: Some(net_name.into()),
            vni: Some(vni),
            ..plain()
        },
    };
    charter.apply(&named("10.2.0.0/24", "web", 5)).unwrap();
    assert!(void(&mut charter, &named("10.3.0.0/24", "web", 6)).contains("'web'"));
    assert!(void(&mut charter, &named("10.3.0.0/24", "db", 5)).contains("VNI 5"));
    charter.apply(&named("10.3.0.0/24", "db", 6)).unwrap();
    // A network of both families has two pools.
    charter.apply(&named("fd00:3::/64", "db", 6)).unwrap();
    assert!(void(&mut charter, &named("fd00:4::/64", "db", 7)).contains("'db'"));
}

#[test]
fn a_pool_is_defined_anew_by_who_knows_what_stood_until_then() {
    let mut charter = four();
    let pool = net("10.2.0.0/24");
    let by_name = Definition {
        net: Some("web".into()),
        kind: String::new(),
        ..plain()
    };
    let whole = |gateway: &str| Definition {
        kind: "bridge".into(),
        gateway: Some(gateway.parse().unwrap()),
        ..by_name.clone()
    };
    let define = |before: &Definition, definition: Definition| Decree::Define {
        pool,
        by: host(2),
        before: Box::new(before.clone()),
        definition: Box::new(definition),
    };
    let first = define(&by_name, whole("10.2.0.1"));
    assert!(void(&mut charter, &first).contains("was not founded"));
    charter
        .apply(&Decree::Found {
            pool,
            founder: host(1),
            definition: by_name.clone(),
        })
        .unwrap();
    assert_eq!(charter.holds(&first), None);
    charter.apply(&first).unwrap();
    assert!(charter.holds(&first).is_some());
    assert_eq!(charter.pools[&pool].definition, whole("10.2.0.1"));
    // The other one that began at the same time.
    assert!(void(&mut charter, &define(&by_name, whole("10.2.0.2"))).contains("decided anew meanwhile"));
    assert!(void(&mut charter, &define(&whole("10.2.0.1"), whole("10.9.0.1"))).contains("gateway 10.9.0.1"));
    charter
        .apply(&define(&whole("10.2.0.1"), whole("10.2.0.2")))
        .unwrap();
    // Whose the addresses are is another question.
    assert_eq!(
        charter.grants.iter().filter(|grant| grant.pool == pool).count(),
        1
    );
}

#[test]
fn the_last_host_cannot_leave() {
    let mut charter = Charter::founded([9; 16], host(1), "h1".into(), [1; 32], [0; 32]);
    assert!(void(&mut charter, &Decree::Leave { host: host(1) }).contains("last"));
}

#[test]
fn a_member_that_joins_again_with_its_key_only_takes_the_new_name() {
    let mut charter = four();
    charter
        .apply(&Decree::Join {
            host: host(2),
            name: "new".into(),
            key: [2; 32],
        })
        .unwrap();
    assert_eq!(
        charter.hosts[&host(2)],
        Member {
            name: "new".into(),
            key: [2; 32],
            since: 1
        }
    );
    assert_eq!(charter.members_since(), 3);
}

#[test]
fn founding_grants_the_whole_pool_and_dissolving_ends_the_grant() {
    let mut charter = four();
    let pool = net("10.1.0.0/24");
    let grant = Grant {
        at: 4,
        to: host(1),
        pool,
        pieces: vec![(pool, 1)],
        gifts: vec![],
    };
    assert_eq!(charter.due(host(1), pool, 3).collect::<Vec<_>>(), [&grant]);
    assert_eq!(charter.due(host(1), pool, 4).count(), 0);
    charter.apply(&Decree::Dissolve { pool, by: host(2) }).unwrap();
    assert!(charter.grants.is_empty() && charter.pools.is_empty());
}

#[test]
fn an_heir_gets_pieces_with_higher_numbers_and_the_gifts_as_they_are() {
    let mut charter = four();
    let share = held(5, 4, &[("10.1.0.0/25", 1)], &[("10.1.0.128/26", 2, 3)]);
    charter.apply(&forget(&[1], 2, vec![(1, share)])).unwrap();
    let (pieces, gifts) = (
        vec![(net("10.1.0.0/25"), 3)],
        vec![(net("10.1.0.128/26"), 2, host(3))],
    );
    assert_eq!(
        charter.grants,
        [Grant {
            at: 5,
            to: host(2),
            pool: net("10.1.0.0/24"),
            pieces,
            gifts
        }]
    );
    assert_eq!(
        charter.gone[&host(1)],
        Gone {
            name: "h1".into(),
            how: How::Forgotten { heir: host(2) },
            at: 5
        }
    );
    assert!(void(&mut charter, &join(1)).contains("never comes back"));
}

#[test]
fn what_a_lost_host_was_granted_and_never_applied_is_its_heirs() {
    let mut charter = four();
    charter.apply(&forget(&[1], 2, vec![])).unwrap();
    assert_eq!(charter.grants.len(), 1);
    assert_eq!(charter.grants[0].pieces, [(net("10.1.0.0/24"), 3)]);
    // Host 2 applied nothing of it either, and is lost in its turn.
    charter
        .apply(&forget(&[2], 3, vec![(2, held(1, 0, &[], &[]))]))
        .unwrap();
    assert_eq!(charter.grants.len(), 1);
    assert_eq!(
        (charter.grants[0].to, &charter.grants[0].pieces),
        (host(3), &vec![(net("10.1.0.0/24"), 5)])
    );
    // Host 3 applied it and gave half of it away; the grant isn't due any more.
    let share = held(2, 6, &[("10.1.0.0/25", 5)], &[]);
    charter.apply(&forget(&[3], 4, vec![(3, share)])).unwrap();
    assert_eq!(charter.grants[0].pieces, [(net("10.1.0.0/25"), 7)]);
}

#[test]
fn a_claim_that_came_too_late_takes_nothing_from_the_heir_before() {
    let mut charter = four();
    // Host 1 began to give the upper half to host 3; nobody but host 3 knows of it.
    charter
        .apply(&forget(
            &[1],
            2,
            vec![(1, held(1, 4, &[("10.1.0.0/24", 1)], &[]))],
        ))
        .unwrap();
    assert_eq!(charter.grants[0].pieces, [(net("10.1.0.0/24"), 3)]);
    // Host 3 is lost while its claim still stands in its row; host 2 has given the half on to host 4 since.
    let claim = held(7, 0, &[("10.1.0.128/25", 2)], &[]);
    charter.apply(&forget(&[3], 2, vec![(3, claim)])).unwrap();
    assert_eq!(charter.grants.len(), 1, "{:?}", charter.grants);
}

#[test]
fn of_lost_hosts_that_both_name_a_piece_the_higher_number_counts_and_a_claimed_gift_is_done() {
    let mut charter = four();
    let donor = held(3, 4, &[("10.1.0.0/25", 1)], &[("10.1.0.128/25", 2, 3)]);
    let recipient = held(2, 0, &[("10.1.0.128/26", 2)], &[]);
    let stale = held(1, 0, &[("10.1.0.0/24", 1)], &[]);
    let decree = forget(&[1, 3, 4], 2, vec![(1, donor), (3, recipient), (4, stale)]);
    charter.apply(&decree).unwrap();
    let grant = &charter.grants[0];
    assert!(grant.gifts.is_empty(), "{grant:?}");
    let pieces = [("10.1.0.0/25", 3), ("10.1.0.128/26", 4), ("10.1.0.192/26", 3)];
    assert_eq!(grant.pieces, pieces.map(|(text, seq)| (net(text), seq)));
}

#[test]
fn a_piece_that_went_on_through_a_host_that_left_stays_whose_it_is() {
    let mut charter = four();
    // Host 1 gave the lower half to one that has left, which gave it on to host 3; host 1's row is an old one.
    let stale = held(1, 4, &[("10.1.0.0/24", 1)], &[("10.1.0.64/26", 2, 4)]);
    let living = held(6, 0, &[("10.1.0.0/25", 3)], &[]);
    charter
        .apply(&forget(&[1], 2, vec![(1, stale.clone()), (3, living)]))
        .unwrap();
    assert_eq!(charter.grants[0].pieces, [(net("10.1.0.128/25"), 3)]);
    assert_eq!(charter.grants[0].gifts, []);
    // A claim on what host 1 began to give and nobody knows of is no such thing.
    let mut charter = four();
    let claim = held(6, 0, &[("10.1.0.0/25", 2)], &[]);
    charter
        .apply(&forget(
            &[1],
            2,
            vec![
                (
                    1,
                    Held {
                        gifts: vec![],
                        ..stale
                    },
                ),
                (3, claim),
            ],
        ))
        .unwrap();
    assert_eq!(charter.grants[0].pieces, [(net("10.1.0.0/24"), 3)]);
}

#[test]
fn a_grant_that_the_heir_was_seen_to_have_applied_is_forgotten() {
    let mut charter = four();
    let lost = |n: u8, applied: u64, charter: &mut Charter| {
        let heir = held(9, applied, &[], &[]);
        charter
            .apply(&forget(
                &[n],
                1,
                vec![(1, heir), (n, held(1, 0, &[("10.1.0.0/30", 2)], &[]))],
            ))
            .unwrap();
    };
    lost(2, 0, &mut charter);
    assert_eq!(
        charter.grants.iter().map(|grant| grant.at).collect::<Vec<_>>(),
        [4, 5]
    );
    lost(3, 5, &mut charter);
    // Host 3's claim with number 2 is older than what decree 5 gave out.
    assert_eq!(
        charter.grants.iter().map(|grant| grant.at).collect::<Vec<_>>(),
        [0_u64; 0]
    );
}

#[test]
fn a_floor_holds_the_highest_number_for_each_address() {
    let mut floor = BTreeMap::from([(net("fd00::/64"), 1)]);
    inherit::raise(
        &mut floor,
        &[(net("fd00::/66"), 4), (net("fd00:0:0:0:8000::/65"), 3)],
    );
    let expected = [
        ("fd00::/66", 4),
        ("fd00:0:0:0:4000::/66", 1),
        ("fd00:0:0:0:8000::/65", 3),
    ];
    assert_eq!(floor, expected.map(|(text, seq)| (net(text), seq)).into());
    inherit::raise(&mut floor, &[(net("fd00::/64"), 6)]);
    assert_eq!(floor, [(net("fd00::/64"), 6)].into());
}

#[test]
fn the_gone_are_remembered_up_to_a_number_and_the_oldest_go_first() {
    let mut charter = four();
    for n in 0..u32::try_from(GONE_MAX).unwrap() {
        let mut bits = [0; 16];
        bits[..4].copy_from_slice(&n.to_be_bytes());
        bits[15] = 1;
        charter.gone.insert(
            HostId::from_bytes(bits),
            Gone {
                name: String::new(),
                how: How::Left,
                at: 1,
            },
        );
    }
    charter.apply(&Decree::Leave { host: host(4) }).unwrap();
    assert_eq!(charter.gone.len(), GONE_MAX);
    assert!(charter.gone.contains_key(&host(4)));
}

#[test]
fn a_wish_agrees_with_a_pool_in_what_it_leaves_open_and_differs_by_name() {
    let founded = Founded {
        at: 4,
        founder: host(1),
        definition: definition(),
        floor: BTreeMap::new(),
    };
    assert_eq!(founded.conflict(&plain()), None);
    assert_eq!(founded.conflict(&definition()), None);
    let differs = |wish: Definition| founded.conflict(&wish).unwrap();
    let text = |field: &'static str, theirs: &str, ours: &str| (field, theirs.to_owned(), ours.to_owned());
    assert_eq!(
        differs(Definition {
            kind: "macvlan".into(),
            ..plain()
        }),
        text("kind", "overlay", "macvlan")
    );
    assert_eq!(
        differs(Definition {
            vni: Some(8),
            ..plain()
        }),
        text("vni", "7", "8")
    );
    assert_eq!(
        differs(Definition {
            mtu: Some(9000),
            ..plain()
        }),
        text("mtu", "1450", "9000")
    );
    assert_eq!(
        differs(Definition {
            net: Some("web".into()),
            ..plain()
        }),
        text("net", "none", "web")
    );
    let gateway = Some("10.1.0.2".parse().unwrap());
    assert_eq!(
        differs(Definition { gateway, ..plain() }),
        text("gateway", "10.1.0.1", "10.1.0.2")
    );
    let aux = BTreeSet::from(["10.1.0.9".parse().unwrap()]);
    assert_eq!(
        differs(Definition { aux, ..plain() }),
        text("aux", "none", "10.1.0.9")
    );
}

#[test]
fn a_charter_reads_back_as_bytes_and_as_text() {
    let mut charter = four();
    let share = held(5, 4, &[("10.1.0.0/25", 1)], &[("10.1.0.128/26", 2, 3)]);
    charter.apply(&forget(&[1], 2, vec![(1, share)])).unwrap();
    assert_eq!(Charter::decode(&charter.encode().unwrap()), Ok(charter.clone()));
    let text = serde_json::to_string(&charter).unwrap();
    assert_eq!(serde_json::from_str::<Charter>(&text).unwrap(), charter);
    assert!(Charter::decode(&[0xff; 40]).is_err());
}
