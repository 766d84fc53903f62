//! The host reaches its containers, and they reach it: by a link of its own on the same parent (the shim).

use std::time::{Duration, Instant};

use system_tests::lan::{ROUTER, STRANGER, who_has};
use system_tests::wait::{PATIENCE, within};
use system_tests::{Answerer, Flow, Lan, Rows, Site, Sites, Snapshot, ask_tcp, json, until};

use crate::scene::{
    GATEWAYS, OTHERS, SUBNETS, addresses, both, global, hosts, look, make, make_lan, misses, must_clear_to,
    must_go, ours, reaches, shim,
};

/// The first host's routes to its containers: the destinations alone.
fn routes(site: &Site) -> Vec<String> {
    let rows = Rows::Routes.of(&site.host);
    let to = rows
        .iter()
        .filter(|row| row["dev"].as_str().is_some_and(|dev| dev.starts_with("tbs")));
    to.map(|row| json::text(row, "/dst").to_owned()).collect()
}

/// Waits until nothing on a host bears witness of its networks.
#[track_caller]
fn nothing_is_left(site: &Site, before: &Snapshot) {
    must_clear_to(site, before);
    assert!(ours(site).is_empty(), "{:?}", ours(site));
    assert!(routes(site).is_empty(), "{:?}", routes(site));
}

fn one_host() -> (Sites, Snapshot) {
    let sites = hosts(1);
    let before = look(&sites[0]);
    (sites, before)
}

#[test]
fn the_host_reaches_its_containers_and_they_reach_it() {
    let (sites, before) = one_host();
    make_lan(&sites, 0, &[]);
    let one = sites[0].container("one", "lan", &[]);
    let two = sites[0].container("two", "lan", &[]);
    let host = sites[0].host.spaces();
    let (link, shims) = shim(&sites[0]);
    let (place, own) = (one.spaces(), addresses(&one, "lan"));
    let of_shim = [0, 1].map(|family| shims[family].split('/').next().expect("an address").to_owned());
    // No net but itself is behind a shim's address: the way to the LAN stays that of the parent.
    assert!(
        shims[0].ends_with("/32") && shims[1].ends_with("/128"),
        "{shims:?}"
    );
    must_go(
        [
            both(reaches, "from the host", host, &own),
            both(
                reaches,
                "from the host to the other",
                host,
                &addresses(&two, "lan"),
            ),
            both(reaches, "to the shim's", &place, &of_shim),
            both(reaches, "to the router", &place, &ROUTER),
            both(reaches, "the host to the router", host, &ROUTER),
            both(reaches, "the host to the stranger", host, &STRANGER),
            both(
                reaches,
                "the stranger to the host",
                sites.lan().stranger(),
                &Lan::host(0),
            ),
            both(
                reaches,
                "the stranger to the container",
                sites.lan().stranger(),
                &own,
            ),
        ]
        .into_iter()
        .flatten(),
    );
    must_go([reaches("to the host's own address", &place, &Lan::host(0)[0])]);
    // By connections as well, and each sees the other as who it is.
    let (inside, outside) = (Answerer::tcp(&place, "[::]:80"), Answerer::tcp(host, "[::]:81"));
    let seen = ask_tcp(host, &format!("{}:80", own[0])).expect("an answer of the container");
    let known = [Lan::host(0)[0].clone(), of_shim[0].clone()];
    assert!(known.contains(&seen.to_string()), "{seen} is none of {known:?}");
    let seen = ask_tcp(&place, &format!("{}:81", Lan::host(0)[0])).expect("an answer of the host");
    assert_eq!(seen.to_string(), own[0]);
    // One route a container and family, through the shim.
    assert_eq!(routes(&sites[0]).len(), 4, "{:?}", routes(&sites[0]));
    // The address is from the pool, so nobody else gets it, and only one machine answers for it.
    assert_eq!(who_has(sites.lan().stranger(), &of_shim[0]).len(), 1, "{link}");
    let leases = sites[0].tombolo.cli(&["pools"]);
    assert!(
        leases.to_string().contains(&format!("\"{}", of_shim[0])),
        "{leases:#}"
    );
    two.remove();
    until("the route to a container that is gone is gone", || {
        (routes(&sites[0]).len() == 2).then_some(())
    });
    drop((inside, outside, place));
    nothing_is_left(&sites[0], &before);
}

#[test]
fn of_ipv6_the_host_is_reached_at_its_address_among_the_containers_only() {
    let (sites, _) = one_host();
    make_lan(&sites, 0, &[]);
    let one = sites[0].container("one", "lan", &[]);
    // Neighbour discovery is answered by the link that has the address; of IPv4, by any (arp_filter).
    let own = json::rows(&sites[0].tombolo.cli(&["networks"])[0]["host"])
        .iter()
        .filter_map(serde_json::Value::as_str)
        .find(|address| address.contains(':'))
        .expect("an address of IPv6 of the host's")
        .to_owned();
    must_go([
        reaches("to the host among the containers", &one.spaces(), &own),
        misses(
            "to the host's address on the wire",
            &one.spaces(),
            &Lan::host(0)[1],
        ),
    ]);
}

#[test]
fn a_host_with_several_networks_reaches_the_containers_of_all() {
    let (sites, before) = one_host();
    make_lan(&sites, 0, &[]);
    make(&sites[0], "more", &OTHERS);
    let one = sites[0].container("one", "lan", &[]);
    let two = sites[0].container("two", "more", &[]);
    let three = sites[0].container("three", "lan", &[]);
    sites[0].engine.docker(&["network", "connect", "more", "three"]);
    let host = sites[0].host.spaces();
    must_go([
        reaches("the first network's", host, &one.ip("lan")),
        reaches("the second network's", host, &two.ip("more")),
        reaches("who is on both, by the first", host, &three.ip("lan")),
        reaches("who is on both, by the second", host, &three.ip("more")),
    ]);
    let shims = ours(&sites[0])
        .iter()
        .filter(|name| name.starts_with("tbs"))
        .count();
    assert_eq!(shims, 2, "{:?}", ours(&sites[0]));
    // What belonged to the first goes with it, and only that.
    one.remove();
    sites[0].engine.docker(&["network", "disconnect", "lan", "three"]);
    sites[0].engine.docker(&["network", "rm", "lan"]);
    must_go([reaches("the second network's, later", host, &two.ip("more"))]);
    nothing_is_left(&sites[0], &before);
}

#[test]
fn the_host_has_the_address_that_the_user_chose() {
    let (sites, before) = one_host();
    let own = ["192.0.2.200", "2001:db8:1::200"];
    let option = format!("host_address={},{}", own[0], own[1]);
    make_lan(&sites, 0, &["-o", &option]);
    let one = sites[0].container("one", "lan", &[]);
    assert_eq!(
        shim(&sites[0]).1,
        [format!("{}/32", own[0]), format!("{}/128", own[1])]
    );
    must_go(
        [
            both(
                reaches,
                "from the host",
                sites[0].host.spaces(),
                &addresses(&one, "lan"),
            ),
            both(reaches, "to that address", &one.spaces(), &own),
        ]
        .into_iter()
        .flatten(),
    );
    let refused = sites[0].try_container("two", "lan", &["--ip", own[0]]).err();
    assert!(
        refused
            .expect("the host's address to be refused")
            .contains(own[0])
    );
    nothing_is_left(&sites[0], &before);
}

#[test]
fn host_access_that_is_off_leaves_no_link_and_no_way() {
    let (sites, before) = one_host();
    make_lan(&sites, 0, &["-o", "host_access=off"]);
    let one = sites[0].container("one", "lan", &[]);
    let place = one.spaces();
    must_go(
        [
            both(
                misses,
                "from the host",
                sites[0].host.spaces(),
                &addresses(&one, "lan"),
            ),
            both(misses, "to the host", &place, &Lan::host(0)),
            both(reaches, "to the router", &place, &ROUTER),
        ]
        .into_iter()
        .flatten(),
    );
    assert!(ours(&sites[0]).is_empty(), "{:?}", ours(&sites[0]));
    assert!(routes(&sites[0]).is_empty());
    drop(place);
    nothing_is_left(&sites[0], &before);
}

#[test]
fn host_access_outlives_a_kill_without_a_loss() {
    let (sites, before) = one_host();
    make_lan(&sites, 0, &[]);
    let one = sites[0].container("one", "lan", &[]);
    let (host, own) = (sites[0].host.spaces(), addresses(&one, "lan"));
    must_go(both(reaches, "from the host", host, &own));
    let calm = look(&sites[0]);
    let flow = Flow::start(host, &one.spaces(), &format!("{}:7000", own[0]));
    let back = Flow::start(&one.spaces(), host, &format!("{}:7001", Lan::host(0)[0]));
    for _ in 0..3 {
        sites[0].tombolo.kill();
        sites[0].tombolo.start_again();
        calm.must_come_back(&sites[0].host, Some(&sites[0].tombolo));
    }
    for (tally, way) in [(flow.stop(), "to the container"), (back.stop(), "to the host")] {
        assert!(tally.lost.is_empty(), "{way}: {:?} of {}", tally.lost, tally.sent);
    }
    let two = sites[0].container("two", "lan", &[]);
    must_go(both(
        reaches,
        "a container of later",
        host,
        &addresses(&two, "lan"),
    ));
    nothing_is_left(&sites[0], &before);
}

#[test]
fn what_somebody_took_away_by_hand_comes_back() {
    let (sites, before) = one_host();
    make_lan(&sites, 0, &[]);
    let one = sites[0].container("one", "lan", &[]);
    let (host, own) = (&sites[0].host, addresses(&one, "lan"));
    must_go(both(reaches, "from the host", host.spaces(), &own));
    let calm = look(&sites[0]);
    let (link, _) = shim(&sites[0]);
    let comes_back = |what: &str| {
        let mut missing = Vec::new();
        let whole = within(PATIENCE, || {
            missing = calm.differences(&look(&sites[0]));
            missing.is_empty().then_some(())
        });
        assert!(whole.is_some(), "{what}:\n{}", missing.join("\n"));
        must_go(both(reaches, what, host.spaces(), &own));
    };
    for address in &own {
        let family = if address.contains(':') { "-6" } else { "-4" };
        host.run("ip", &[family, "route", "delete", address, "dev", &link]);
    }
    comes_back("routes are there again");
    for address in global(&sites[0], &link) {
        host.run("ip", &["address", "delete", &address, "dev", &link]);
    }
    comes_back("the shim's addresses are there again");
    host.run("ip", &["link", "set", &link, "down"]);
    comes_back("the shim is up again");
    host.run("ip", &["link", "delete", &link]);
    comes_back("the shim is there again");
    nothing_is_left(&sites[0], &before);
}

#[test]
fn the_hosts_own_address_is_its_own_for_as_long_as_the_network_is() {
    let (sites, _) = one_host();
    make_lan(&sites, 0, &[]);
    let (_, shims) = shim(&sites[0]);
    let leases = || sites[0].tombolo.cli(&["pools"])[0]["leases"].clone();
    let at_first = leases();
    // What the engine has never heard of is freed after two of its lists.
    let until_then = Instant::now() + Duration::from_secs(45);
    within(2 * PATIENCE, || {
        assert_eq!(leases(), at_first, "{shims:?}");
        (Instant::now() > until_then).then_some(())
    })
    .expect("time goes on");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let (sites, _) = one_host();
    let host = &sites[0].host;
    // A shim that an administrator made by hand for the same purpose, and a route through it.
    host.run(
        "ip",
        &[
            "link", "add", "link", "eth0", "name", "mine0", "up", "type", "macvlan", "mode", "bridge",
        ],
    );
    host.run("ip", &["address", "add", "192.0.2.200/32", "dev", "mine0"]);
    host.run("ip", &["route", "add", "192.0.2.201/32", "dev", "mine0"]);
    let before = look(&sites[0]);
    make_lan(&sites, 0, &[]);
    let one = sites[0].container("one", "lan", &[]);
    must_go(both(
        reaches,
        "from the host",
        host.spaces(),
        &addresses(&one, "lan"),
    ));
    sites[0].tombolo.kill();
    sites[0].tombolo.start_again();
    assert_eq!(global(&sites[0], "mine0"), ["192.0.2.200/32"]);
    nothing_is_left(&sites[0], &before);
}

#[test]
fn a_range_that_is_full_names_the_pool() {
    let (sites, before) = one_host();
    // Two addresses of use, of which the host has one and a container the other.
    make(&sites[0], "tight", &["--subnet", "198.51.100.0/30"]);
    let one = sites[0].container("one", "tight", &[]);
    must_go([reaches("from the host", sites[0].host.spaces(), &one.ip("tight"))]);
    let refused = sites[0]
        .try_container("two", "tight", &[])
        .expect_err("no room for two");
    assert!(refused.contains("198.51.100.0/30"), "{refused}");
    nothing_is_left(&sites[0], &before);
}

#[test]
fn the_lans_own_addresses_are_the_hosts_still() {
    // The pool is the whole LAN: what the host and the router have is nobody's in a container.
    let (sites, before) = one_host();
    make(&sites[0], "lan", &[&SUBNETS[..], &GATEWAYS].concat());
    for own in [&Lan::host(0)[0], ROUTER[0]] {
        let refused = sites[0].try_container("thief", "lan", &["--ip", own]).err();
        let refused = refused.unwrap_or_else(|| panic!("a container has {own}"));
        assert!(refused.contains(own), "{refused}");
    }
    must_go(both(
        reaches,
        "the host to the router",
        sites[0].host.spaces(),
        &ROUTER,
    ));
    nothing_is_left(&sites[0], &before);
}
