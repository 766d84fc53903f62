//! Several hosts that share one pool: random asks, gifts, leases and decrees, with messages that are lost, late, twice
//! and in any order, and hosts that start again, join, and are forgotten.
//!
//! After each step no address is leased twice, no two hosts have settled the same address, and no address is lost. At
//! the end, when all messages arrive, everything is settled with exactly one host.

#![allow(
    clippy::unwrap_used,
    reason = "what a test says is well-formed, or the test fails"
)]

#[path = "../common/mod.rs"]
mod common;
mod hosts;
mod resolving;
mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use world::World;

#[allow(missing_docs, reason = "it is told beside each step")]
#[derive(Debug, Clone)]
pub enum Step {
    /// A host asks another for room, or for the n-th address.
    Ask {
        from: usize,
        of: usize,
        want: u64,
        within: usize,
        place: Option<usize>,
    },
    /// A host gives all it has to another.
    GiveAll { of: usize, to: usize },
    /// The n-th message that is on its way arrives, or (as often) the one that was sent last; it may arrive again.
    Deliver { nth: usize, again: bool },
    /// The n-th message is lost.
    Lose { nth: usize },
    /// A host shows its row to another.
    Show { from: usize, to: usize },
    /// A host does what it can, while it hears those hosts whose bit is set.
    Tend { host: usize, hears: u8 },
    /// A container starts: with the n-th address, or any.
    Lease { host: usize, place: Option<usize> },
    /// The n-th container of a host ends.
    Free { host: usize, nth: usize },
    /// A host makes its network, or removes it with all its containers.
    Network { host: usize },
    /// A host's process ends and begins again; what was on its way to it is lost.
    Restart { host: usize },
    /// Time goes by.
    Wait { seconds: u64 },
    /// A majority of those whose bit is set decides that a host is no more, and who is its heir.
    Forget { host: usize, heir: usize, quorum: u8 },
    /// A majority of those whose bit is set takes in a new host.
    Join { quorum: u8 },
}

/// A step; `often` hosts are forgotten, and others join.
fn step(often: u32) -> impl Strategy<Value = Step> {
    let host = || 0_usize..7;
    let place = || 0_usize..32;
    let want = prop_oneof![1_u64..=16, Just(1000)];
    let ask = (
        host(),
        host(),
        want,
        0_usize..4,
        prop::option::weighted(0.2, place()),
    );
    prop_oneof![
        12 => ask.prop_map(|(from, of, want, within, place)| Step::Ask { from, of, want, within, place }),
        1 => (host(), host()).prop_map(|(of, to)| Step::GiveAll { of, to }),
        30 => (0_usize..64, prop::bool::weighted(0.2)).prop_map(|(nth, again)| Step::Deliver { nth, again }),
        2 => (0_usize..64).prop_map(|nth| Step::Lose { nth }),
        12 => (host(), host()).prop_map(|(from, to)| Step::Show { from, to }),
        24 => (host(), any::<u8>(), any::<u8>()).prop_map(|(host, a, b)| Step::Tend { host, hears: a | b }),
        14 => (host(), prop::option::weighted(0.2, place())).prop_map(|(host, place)| Step::Lease { host, place }),
        6 => (host(), place()).prop_map(|(host, nth)| Step::Free { host, nth }),
        2 => host().prop_map(|host| Step::Network { host }),
        2 => host().prop_map(|host| Step::Restart { host }),
        1 => (0_u64..200).prop_map(|seconds| Step::Wait { seconds }),
        often => (host(), host(), any::<u8>(), any::<u8>())
            .prop_map(|(host, heir, a, b)| Step::Forget { host, heir, quorum: a | b }),
        often => (host(), host(), any::<u8>()).prop_map(|(host, heir, quorum)| Step::Forget { host, heir, quorum }),
        often => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Step::Join { quorum: a | b }),
    ]
}

/// A world of 2 to 6 hosts, IPv4 or IPv6, and what happens in it.
fn story() -> impl Strategy<Value = (usize, bool, Vec<Step>)> {
    let steps = prop_oneof![
        prop::collection::vec(step(1), 1..220),
        prop::collection::vec(step(5), 1..160),
    ];
    (2_usize..=6, any::<bool>(), steps)
}

/// Takes the steps one by one, then lets everything arrive. Says what came about.
fn run((hosts, v6, steps): (usize, bool, Vec<Step>)) -> BTreeSet<&'static str> {
    let mut world = World::new(hosts, v6);
    for step in steps {
        world.take(&step);
        world.check();
    }
    world.come_to_rest();
    world.met
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_address_is_leased_by_two_hosts_and_none_is_lost(story in story()) {
        run(story);
    }
}

/// Host 1 asks the founder for room, and claims what it was given.
fn host_1_claims() -> Vec<Step> {
    let newest = || Step::Deliver {
        nth: 63,
        again: false,
    };
    let (from, of, want, within, place) = (1, 0, 4, 0, None);
    let ask = Step::Ask {
        from,
        of,
        want,
        within,
        place,
    };
    vec![ask, newest(), newest(), Step::Tend { host: 1, hears: 0 }]
}

#[test]
fn a_gift_that_no_majority_knew_is_void_when_its_giver_is_forgotten() {
    let mut steps = host_1_claims();
    let quorum = 0b1100;
    steps.push(Step::Forget {
        host: 0,
        heir: 2,
        quorum,
    });
    let met = run((4, false, steps));
    assert!(met.contains("disclaimed") && !met.contains("settled"), "{met:?}");
}

#[test]
fn what_a_majority_witnessed_is_still_known_after_one_of_them_was_forgotten() {
    let mut steps = host_1_claims();
    let show = |from, to| Step::Show { from, to };
    let newest = || Step::Deliver {
        nth: 63,
        again: false,
    };
    steps.push(Step::Network { host: 1 });
    for (from, to) in [(1, 0), (0, 2), (1, 2)] {
        steps.extend([show(from, to), newest(), newest()]);
    }
    steps.extend([
        Step::Tend {
            host: 1,
            hears: 0b111,
        },
        newest(),
    ]);
    steps.push(Step::Lease { host: 1, place: None });
    steps.push(Step::Forget {
        host: 2,
        heir: 3,
        quorum: 0b11001,
    });
    // Neither of these two was among the witnesses.
    steps.push(Step::Forget {
        host: 0,
        heir: 3,
        quorum: 0b11000,
    });
    let met = run((5, false, steps));
    assert!(
        met.contains("settled") && met.contains("leased") && met.contains("granted a gift"),
        "{met:?}"
    );
}

/// A story in which nothing changes hands shows nothing. The same stories every time. (A void claim is rare among them,
/// and has its own test above.)
#[test]
fn the_stories_meet_everything_that_can_come_about() {
    let mut runner = TestRunner::deterministic();
    let mut met = BTreeSet::new();
    for _ in 0..150 {
        met.extend(run(story().new_tree(&mut runner).unwrap().current()));
    }
    let all = [
        "claimed",
        "foreign",
        "forgotten",
        "gave all",
        "gave an address",
        "gave no address",
        "gave no room",
        "gave room",
        "gift done",
        "granted a gift",
        "granted a piece",
        "joined",
        "leased",
        "leased by name",
        "merged",
        "regained",
        "settled",
        "share exhausted",
    ];
    let missing: Vec<_> = all.iter().filter(|what| !met.contains(*what)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
