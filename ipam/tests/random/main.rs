//! Random sequences of requests against a naive model, with time that moves and restarts in between.
//!
//! After each step the model must agree with the crate, what was stored must come back the same, and the undoing edits
//! must lead back.

#![allow(
    clippy::unwrap_used,
    reason = "what a test says is well-formed, or the test fails"
)]

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod model;
mod steps;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tombolo_ipam::{Ipam, PoolId};

use bench::Bench;
use steps::{Step, step, under_pressure};

/// Takes the steps one by one, then gives all back. Says what came about.
fn run(steps: Vec<Step>) -> BTreeSet<&'static str> {
    let mut bench = Bench::default();
    for step in steps {
        bench.take(step);
        bench.check();
    }
    let pools: Vec<PoolId> = bench.ipam.pools().keys().copied().collect();
    for id in pools {
        let edits = bench.ipam.release_pool(&id);
        bench.apply(edits);
    }
    assert_eq!(
        bench.ipam,
        Ipam::default(),
        "nothing is left of what was released"
    );
    bench.met
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_keeps_every_address_with_one_holder(steps in prop::collection::vec(step(), 1..60)) {
        run(steps);
    }

    #[test]
    fn two_ranges_of_one_small_subnet_keep_every_address_with_one_holder(steps in under_pressure()) {
        run(steps);
    }
}

/// A sequence that never meets an exhausted pool shows nothing of it. The same sequences every time.
#[test]
fn the_sequences_meet_everything_that_can_come_about() {
    let mut runner = TestRunner::deterministic();
    let wide = prop::collection::vec(step(), 1..60);
    let mut met = BTreeSet::new();
    for _ in 0..100 {
        met.extend(run(wide.new_tree(&mut runner).unwrap().current()));
        met.extend(run(under_pressure().new_tree(&mut runner).unwrap().current()));
    }
    let all = [
        "around",
        "cooling",
        "exhausted",
        "forgotten",
        "free",
        "given",
        "has gateway",
        "in use",
        "kept out",
        "no subnet",
        "outside",
        "overlap",
        "repeat",
    ];
    assert_eq!(met, BTreeSet::from(all));
}
