//! Addresses are unique on the LAN: strangers' are found out before they are given, and hosts of a cluster share one pool.

use std::collections::BTreeMap;

use system_tests::lan::{NET, ROUTER, STRANGER, STRANGER_MAC, who_has};
use system_tests::{Container, Lan, Plan, Site, at_once, json, until};

use crate::scene::{
    CLUSTER, GATEWAYS, SUBNETS, addresses, both, hosts, look, make, must_clear_to, must_go, reaches,
};

/// How many containers each of three hosts starts at once.
const EACH: usize = 50;

/// How many are started at the same time on a host: each is some processes, and there are not many processors.
const AT_ONCE: usize = 4;

/// Five addresses of which the stranger has one.
const AROUND: [&str; 4] = ["--ip-range", "192.0.2.48/29", "--ip-range", "2001:db8:1::50/124"];

/// A file of a host with the events that came while a test ran.
const EVENTS: &str = "/var/log/events.log";

#[test]
fn an_address_of_a_strangers_is_never_given() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    let following = sites[0].tombolo.cli_to(&["events", "--output", "json"], EVENTS);
    until("events are followed", || {
        sites[0].host.log(EVENTS).contains("following").then_some(())
    });
    make(
        &sites[0],
        "lan",
        &[&SUBNETS[..], &GATEWAYS, &AROUND, &["-o", "host_access=off"]].concat(),
    );
    // All that there are: eight of IPv4, one of them the stranger's.
    let names: Vec<String> = (0..7).map(|n| format!("c{n}")).collect();
    let containers: Vec<Container> = names
        .iter()
        .map(|name| sites[0].container(name, "lan", &[]))
        .collect();
    let given: Vec<[String; 2]> = containers.iter().map(|one| addresses(one, "lan")).collect();
    for own in &given {
        assert!(own[0] != STRANGER[0] && own[1] != STRANGER[1], "{given:?}");
    }
    let refused = sites[0]
        .try_container("c7", "lan", &[])
        .expect_err("the last one is the stranger's");
    assert!(refused.contains(NET), "{refused}");
    must_go(both(
        reaches,
        "the stranger to a container",
        sites.lan().stranger(),
        &given[0],
    ));
    assert_eq!(who_has(sites.lan().router(), STRANGER[0]), [STRANGER_MAC]);
    until("an event tells of the stranger", || {
        let log = sites[0].host.log(EVENTS);
        let told =
            |line: &&str| line.contains(&format!("\"{}\"", STRANGER[0])) && line.contains(STRANGER_MAC);
        log.lines().find(told).map(|_| ())
    });
    system_tests::engine::end(
        &following,
        nix::sys::signal::Signal::SIGTERM,
        system_tests::wait::PATIENCE,
    );
    must_clear_to(&sites[0], &before);
}

#[test]
fn an_address_of_a_strangers_is_refused_by_its_owner() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    make(&sites[0], "lan", &[&SUBNETS[..], &GATEWAYS].concat());
    for args in [["--ip", STRANGER[0]], ["--ip6", STRANGER[1]]] {
        let refused = sites[0].try_container("thief", "lan", &args).err();
        let refused = refused.unwrap_or_else(|| panic!("{args:?} was given"));
        assert!(
            refused.contains(args[1]) && refused.contains(STRANGER_MAC),
            "{refused}"
        );
    }
    // Once the stranger has gone, the address is anybody's.
    let lan = sites.lan();
    lan.stranger().run("ip", &["link", "set", "eth0", "down"]);
    let own = until("the address may be had", || {
        sites[0].try_container("heir", "lan", &["--ip", STRANGER[0]]).ok()
    });
    must_go([reaches("from the router", lan.router(), &own.ip("lan"))]);
    must_clear_to(&sites[0], &before);
}

#[test]
fn a_network_that_asks_nobody_gives_what_it_is_asked_for() {
    let sites = hosts(1);
    make(
        &sites[0],
        "lan",
        &[&SUBNETS[..], &GATEWAYS, &["-o", "probe=off"]].concat(),
    );
    let one = sites[0].container("one", "lan", &["--ip", STRANGER[0]]);
    assert_eq!(one.ip("lan"), STRANGER[0]);
}

/// Starts the containers of a host, some at a time, and gives their addresses.
fn start(site: &Site) -> Vec<[String; 2]> {
    let numbers: Vec<usize> = (0..AT_ONCE).collect();
    let started = at_once(&numbers, |first| {
        let mine = (*first..EACH).step_by(AT_ONCE);
        mine.map(|n| addresses(&site.container(&format!("c{n}"), "lan", &[]), "lan"))
            .collect::<Vec<_>>()
    });
    started.concat()
}

#[test]
fn hosts_of_a_cluster_start_containers_on_one_lan_at_once_and_all_are_distinct() {
    let sites = Plan::of(3).on_lan().joined();
    for site in sites.iter() {
        make(site, "lan", &[&SUBNETS[..], &GATEWAYS, &CLUSTER].concat());
    }
    let given = at_once(&sites[..], start);
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, own) in given.iter().enumerate() {
        assert_eq!(own.len(), EACH, "host {at}");
        for address in own.iter().flatten() {
            if let Some(other) = owners.insert(address, at) {
                panic!("{address} is on host {at} and on host {other}");
            }
        }
    }
    // Nor are they anybody else's: the stranger's, the router's, the hosts' own, or those by which hosts reach containers.
    let mut others: Vec<String> = [STRANGER, ROUTER]
        .concat()
        .iter()
        .map(|&a| a.to_owned())
        .collect();
    for (at, site) in sites.iter().enumerate() {
        others.extend(Lan::host(at));
        let shims = crate::scene::shim(site).1;
        others.extend(shims.iter().map(|a| a.split('/').next().unwrap().to_owned()));
    }
    for address in &others {
        assert!(
            !owners.contains_key(address.as_str()),
            "{address} is a container's"
        );
    }
    let count = others.len();
    others.sort();
    others.dedup();
    assert_eq!(others.len(), count, "two hosts have one address: {others:?}");
    // One each is reached from elsewhere, on its own host and on the others.
    let mut rows = Vec::new();
    for (at, own) in given.iter().enumerate() {
        rows.extend(both(
            reaches,
            "from the stranger",
            sites.lan().stranger(),
            &own[0],
        ));
        for site in sites.iter() {
            rows.extend(both(
                reaches,
                &format!("from {}", site.name()),
                site.host.spaces(),
                &own[at + 1],
            ));
        }
    }
    must_go(rows);
    let told = json::rows(&sites[0].tombolo.cli(&["peers"])).len();
    assert!(told > 0, "the first host knows of no container");
}
