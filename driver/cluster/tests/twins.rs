//! A host whose disk was copied, after the copy is gone.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails panics"
)]

#[allow(dead_code, reason = "others who share this file do more")]
#[path = "simulator/world.rs"]
mod world;

use std::time::Duration;

use tombolo_cluster::node::{Alone, Input, Standing};
use tombolo_cluster::table::{Content, Cover, Delta, Version};
use tombolo_cluster::wire::{Frame, Request, encode};
use world::{At, World, address, host_id};

const KEY: &str = "ep/7";

/// The row of the host with the copied disk, as it is held at another one.
fn row_at(world: &World, at: At) -> Option<Vec<u8>> {
    let table = world.hosts[at].node.as_ref().unwrap().table();
    table.get(host_id(2), KEY).map(|body| body.to_vec())
}

/// Host 2 and its copy rose to the same epoch in the same moment, and others hold the copy's rows of it. Their numbers are
/// those of host 2's own, so that no comparison tells them apart.
#[test]
fn what_a_copy_said_in_the_epoch_of_its_original_is_over_soon_after_the_copy_is_gone() {
    let mut world = World::new(5, 3, Alone::Lease);
    (0..3).for_each(|at| world.start(at));
    let original = b"the original's".to_vec();
    world.input(2, Input::Rows(vec![(KEY.to_owned(), Some(original.clone()))]));
    world.run(Duration::from_secs(5));
    assert_eq!(row_at(&world, 0).as_ref(), Some(&original));

    let node = world.hosts[2].node.as_ref().unwrap();
    let version = node.table().own_version();
    let rows: Vec<_> = node
        .table()
        .rows_of(host_id(2))
        .map(|(key, body)| (key.clone(), body.clone()))
        .collect();
    let twice = Frame::Twice {
        one: address(2),
        other: address(9),
        epoch: version.epoch,
    };
    world.input(
        2,
        Input::Datagram {
            from: host_id(0),
            address: address(0),
            bytes: encode(&twice),
        },
    );
    let risen = world.hosts[2].node.as_ref().unwrap();
    let version = risen.table().own_version();
    assert_eq!(
        version,
        Version::new(version.epoch, u32::try_from(rows.len()).unwrap())
    );
    assert!(matches!(risen.standing(), Standing::Cloned(_)));
    let copys = rows.into_iter().zip(1..).map(|((key, body), n)| {
        let body = if key.as_str() == KEY {
            b"the copy's".as_slice().into()
        } else {
            body
        };
        (key, Version::new(version.epoch, n), Content::Body(body))
    });
    let delta = Delta {
        origin: host_id(2),
        base: None,
        cover: Cover::up_to(version),
        whole: None,
        swept: Version::new(version.epoch, 0),
        rows: copys.collect(),
    };
    for at in 0..2 {
        let bytes = encode(&Request::Exchange {
            want: Vec::new(),
            deltas: vec![delta.clone()],
        });
        world.input(
            at,
            Input::Request {
                call: 1 << 40,
                from: host_id(1 - at),
                bytes,
            },
        );
        assert_eq!(row_at(&world, at).as_deref(), Some(b"the copy's".as_slice()));
    }

    world.run(Duration::from_secs(30));
    let standing = world.hosts[2].node.as_ref().unwrap().standing();
    assert_eq!(standing, &Standing::Confirmed);
    for at in 0..2 {
        assert_eq!(row_at(&world, at).as_ref(), Some(&original), "at host {at}");
    }
}
