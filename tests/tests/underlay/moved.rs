//! An address that goes on on another host: the router and the containers that knew it reach it there at once.

use std::time::Duration;

use system_tests::lan::reached;
use system_tests::{Container, Plan, Sites, Spaces, say, until};

use crate::scene::{CLUSTER, GATEWAYS, SUBNETS, make};

/// The addresses that move.
const ADDRESSES: [&str; 2] = ["192.0.2.77", "2001:db8:1::77"];

/// How soon after its start it is to be reached. What believes an old hardware address would do so for half a minute.
const SOON: Duration = Duration::from_secs(1);

/// Three hosts in a cluster with a network, and on the last of them a container that knows the others.
fn sites() -> (Sites, Container) {
    let sites = Plan::of(3).on_lan().joined();
    for site in sites.iter() {
        make(site, "lan", &[&SUBNETS[..], &GATEWAYS, &CLUSTER].concat());
    }
    let watcher = sites[2].container("watcher", "lan", &[]);
    (sites, watcher)
}

/// Has a container with the addresses start on host after host; those that knew the one before reach it soon.
#[track_caller]
fn is_followed(mac_at: impl Fn(usize) -> Option<&'static str>) {
    let (sites, watcher) = sites();
    let (lan, watching) = (sites.lan(), watcher.spaces());
    let askers: [(&str, &Spaces); 4] = [
        ("the router", lan.router()),
        ("the stranger", lan.stranger()),
        ("a container", &watching),
        ("another host", sites[2].host.spaces()),
    ];
    for (turn, at) in [0, 1, 2, 0].into_iter().enumerate() {
        let mut args = vec!["--ip", ADDRESSES[0], "--ip6", ADDRESSES[1]];
        args.extend(mac_at(turn).into_iter().flat_map(|mac| ["--mac-address", mac]));
        // Another host may not have given the address up yet.
        let mover = until("the container may have its address", || {
            sites[at].try_container("mover", "lan", &args).ok()
        });
        let place = mover.spaces();
        for (who, from) in askers {
            for address in ADDRESSES {
                let came = reached(from, &place, address, SOON);
                let believed = from.run("ip", &["neigh", "show", address]);
                let host = sites[at].name();
                let came = came.unwrap_or_else(|| {
                    panic!("{who} to {address} on {host}, turn {turn}: not within {SOON:?}; {believed}")
                });
                say(&format!(
                    "{who} to {address} on {host}: {} lost, after {:?}",
                    came.lost, came.after
                ));
            }
        }
        drop(place);
        mover.remove();
    }
}

#[test]
fn an_address_that_moves_is_reached_at_its_new_place_at_once() {
    is_followed(|_| None);
}

#[test]
fn an_address_that_moves_behind_another_hardware_address_is_reached_at_once() {
    is_followed(|turn| Some(["02:11:00:00:00:01", "02:11:00:00:00:02"][turn % 2]));
}
