//! A pool that all hosts want at one moment, and use as soon as they may.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails panics"
)]

#[allow(dead_code, reason = "others who share this file do more")]
#[path = "simulator/world.rs"]
mod world;

use std::time::Duration;

use ipnet::IpNet;
use rand::RngExt;
use tombolo_cluster::node::{Alone, Wish};
use world::{World, definition};

const HOSTS: usize = 3;

/// How far a host is: what it wishes for, one after the other.
enum Step {
    Pool(u64),
    Space(u64),
    Done,
}

fn found_and_lease(mut world: World) {
    let pool: IpNet = "10.42.0.0/28".parse().unwrap();
    (0..HOSTS).for_each(|at| world.start(at));
    world.run(Duration::from_secs(5));
    let mut steps: Vec<Step> = (0..HOSTS)
        .map(|at| Step::Pool(world.wish(at, Wish::Pool(pool, definition()))))
        .collect();
    for _ in 0..3_000 {
        world.run(Duration::from_millis(1));
        for (at, step) in steps.iter_mut().enumerate() {
            let ticket = match step {
                Step::Pool(ticket) | Step::Space(ticket) => *ticket,
                Step::Done => continue,
            };
            let Some(outcome) = world.hosts[at].outcomes.remove(&ticket) else {
                continue;
            };
            assert_eq!(outcome, Ok(()), "host {at}");
            if matches!(step, Step::Pool(_)) {
                world.use_pool(at, pool);
            }
            *step = match world.lease(at, pool, None) {
                Ok(_) => Step::Done,
                Err(_) => Step::Space(world.wish(at, Wish::Space { pool, within: pool })),
            };
        }
    }
    assert!(steps.iter().all(|step| matches!(step, Step::Done)));
}

#[test]
fn hosts_that_find_a_pool_founded_before_its_founder_knows_wait_for_the_founder() {
    for seed in 0..1_000 {
        println!("seed {seed}");
        found_and_lease(World::new(seed, HOSTS, Alone::Lease).with_store());
        found_and_lease(World::new(seed, HOSTS, Alone::Lease));
    }
}

/// Leases and releases anywhere in a pool that is nearly full, and gives why hosts were refused space.
fn churn(mut world: World) -> Vec<String> {
    let pool: IpNet = "10.42.0.0/28".parse().unwrap();
    (0..HOSTS).for_each(|at| world.start(at));
    world.run(Duration::from_secs(5));
    for at in 0..HOSTS {
        world.wish(at, Wish::Pool(pool, definition()));
        world.run(Duration::from_millis(100));
        world.use_pool(at, pool);
    }
    let mut refusals = Vec::new();
    for _ in 0..400 {
        let at = world.rng.random_range(0..HOSTS);
        let held = world.leases.iter().filter(|(_, holder)| **holder == at);
        let held: Vec<_> = held.map(|((_, address), _)| *address).collect();
        if held.is_empty() || world.rng.random_bool(0.6) {
            if world.lease(at, pool, None).is_err() {
                world.wish(at, Wish::Space { pool, within: pool });
            }
        } else {
            let which = world.rng.random_range(0..held.len());
            world.release(at, pool, held[which]);
        }
        let pause = world.rng.random_range(0..10);
        world.run(Duration::from_millis(pause));
        for host in &mut world.hosts {
            let ended = std::mem::take(&mut host.outcomes);
            refusals.extend(ended.into_values().filter_map(Result::err));
        }
    }
    refusals
}

#[test]
fn nobody_is_refused_space_while_some_is_on_its_way_to_it() {
    let mut refused = 0;
    for seed in 0..60 {
        let world = || World::new(seed, HOSTS, Alone::Lease);
        for refusals in [churn(world().with_store()), churn(world())] {
            refused += refusals.len();
            // The others are there: nobody is refused without a question.
            let unasked = refusals.iter().find(|why| why.contains("0 hosts were asked"));
            assert_eq!(unasked, None, "seed {seed}");
        }
    }
    assert!(refused > 100, "{refused}");
}
