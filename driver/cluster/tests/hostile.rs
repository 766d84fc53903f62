//! Whatever a member's bytes are, a node takes them: it counts what it can't read, and goes on. And what a later version
//! says beside what this one knows harms nobody, and is handed on.
//!
//! `HOSTILE_CASES=n` tries so many.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails panics"
)]

#[allow(dead_code, reason = "others who share this file do more")]
#[path = "simulator/world.rs"]
mod world;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tombolo_cluster::node::{Alone, Called, Input, Wish};
use world::{Heard, World, address, definition, host_id};

/// Hosts with rows, a pool and shares, and all that they have said until then.
fn talk(seed: u64) -> (World, Vec<Heard>) {
    let mut world = World::new(seed, 3, Alone::Lease);
    world.tap = Some(Vec::new());
    (0..3).for_each(|at| world.start(at));
    let pool = "10.42.0.0/24".parse().unwrap();
    for at in 0..3 {
        world.input(
            at,
            Input::Rows(vec![(
                format!("ep/{at}"),
                Some(format!("row of {at}").into_bytes()),
            )]),
        );
        world.run(Duration::from_secs(2));
        world.wish(at, Wish::Pool(pool, definition()));
        world.use_pool(at, pool);
        world.run(Duration::from_secs(2));
        world.lease(at, pool, None).unwrap();
    }
    world.crash(2);
    world.run(Duration::from_secs(20));
    world.start(2);
    world.run(Duration::from_secs(5));
    let heard = world.tap.take().unwrap();
    (world, heard)
}

/// Bytes with something wrong.
fn mangle(rng: &mut StdRng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let length = bytes.len();
        match rng.random_range(0..6) {
            0 if length > 0 => {
                let at = rng.random_range(0..length);
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            1 if length > 0 => {
                let at = rng.random_range(0..length);
                bytes[at] = rng.random();
            }
            2 => bytes.truncate(rng.random_range(0..=length)),
            3 => bytes.push(rng.random()),
            4 if length > 1 => {
                let (a, b) = (rng.random_range(0..length), rng.random_range(0..length));
                let piece = bytes[a.min(b)..a.max(b)].to_vec();
                let at = rng.random_range(0..=length);
                bytes.splice(at..at, piece);
            }
            _ => bytes = (0..rng.random_range(0..200)).map(|_| rng.random()).collect(),
        }
    }
    bytes
}

#[test]
fn no_bytes_of_a_member_stop_a_node_or_make_it_say_much() {
    let cases: u64 = std::env::var("HOSTILE_CASES").map_or(60_000, |text| text.parse().unwrap());
    let (_, heard) = talk(1);
    assert!(heard.len() > 100);
    let kinds = heard.iter().fold([0; 3], |mut kinds, heard| {
        kinds[match heard {
            Heard::Datagram(_) => 0,
            Heard::Question(_) => 1,
            Heard::Answer(_) => 2,
        }] += 1;
        kinds
    });
    assert!(kinds.iter().all(|count| *count > 3), "{kinds:?}");
    let mut rng = StdRng::seed_from_u64(7);
    let mut tried = 0;
    while tried < cases {
        // A new node now and then: one that believes much may have become another.
        let (mut world, _) = talk(rng.next_u64());
        for _ in 0..2_000 {
            tried += 1;
            let at = rng.random_range(0..heard.len());
            let from = host_id(1);
            let input = match &heard[at] {
                Heard::Datagram(bytes) => Input::Datagram {
                    from,
                    address: address(1),
                    bytes: mangle(&mut rng, bytes),
                },
                Heard::Question(bytes) => Input::Request {
                    call: (1 << 40) | tried,
                    from,
                    bytes: mangle(&mut rng, bytes),
                },
                Heard::Answer(bytes) => Input::Answered {
                    call: rng.random_range(0..200),
                    answer: Called::Answer(mangle(&mut rng, bytes)),
                },
            };
            world.input(0, input);
            if tried % 100 == 0 {
                world.run(Duration::from_millis(50));
            }
        }
        let node = world.hosts[0].node.as_ref().unwrap();
        let faults: u64 = node.view().hosts.iter().map(|host| host.faults).sum();
        assert!(faults > 100, "what can't be read is counted: {faults}");
    }
}

#[test]
fn what_a_later_version_says_is_counted_or_handed_on_and_harms_nobody() {
    let mut world = World::new(3, 3, Alone::Lease);
    world.start(0);
    world.start(1);
    // A row of a sort that this version doesn't know, with a body that is no JSON.
    let row = ("later/thing".to_owned(), Some(b"\xff\x00 whatever".to_vec()));
    world.input(0, Input::Rows(vec![row]));
    world.run(Duration::from_secs(5));
    // Host 2 hears of it from host 1 only.
    world.crash(0);
    world.start(2);
    world.run(Duration::from_secs(20));
    let node = world.hosts[2].node.as_ref().unwrap();
    let body = node
        .table()
        .get(host_id(0), "later/thing")
        .map(|body| body.to_vec());
    assert_eq!(body.as_deref(), Some(&b"\xff\x00 whatever"[..]));

    // Sorts of frames, questions and answers beyond those that there are.
    for sort in [40_u8, 100, 127] {
        let bytes = vec![sort, 1, 2, 3];
        world.input(
            1,
            Input::Datagram {
                from: host_id(2),
                address: address(2),
                bytes: bytes.clone(),
            },
        );
        world.input(
            1,
            Input::Request {
                call: 2 << 40,
                from: host_id(2),
                bytes,
            },
        );
    }
    let node = world.hosts[1].node.as_ref().unwrap();
    let view = node.view();
    let told = view.hosts.iter().find(|host| host.host == host_id(2)).unwrap();
    assert_eq!(told.faults, 6);
    world.run(Duration::from_secs(5));
    let (a, b) = (
        world.hosts[1].node.as_ref().unwrap(),
        world.hosts[2].node.as_ref().unwrap(),
    );
    assert_eq!(a.table().digest(), b.table().digest());
}
