//! The modes of macvlan: who reaches whom on the host, on the LAN and behind its router.

use system_tests::lan::{LINK, OUTSIDE, ROUTER, STRANGER, who_has};
use system_tests::{Answerer, Container, Lan, Sites, Spaces, ask_tcp};

use crate::scene::{
    GATEWAYS, SUBNETS, addresses, both, hosts, look, make, make_lan, misses, must_clear_to, must_go, reaches,
    without_host,
};

/// Two containers on one host and one on another, on networks of one mode.
struct Three {
    places: Vec<Spaces>,
    addresses: Vec<[String; 2]>,
    containers: Vec<Container>,
}

impl Three {
    fn of_mode(sites: &Sites, mode: &str) -> Self {
        let mode = format!("macvlan_mode={mode}");
        for at in 0..2 {
            make_lan(sites, at, &[&["-o", &mode], without_host()].concat());
        }
        let run = |at: usize, name: &str| sites[at].container(name, "lan", &[]);
        let containers = vec![run(0, "one"), run(0, "two"), run(1, "three")];
        Self {
            places: containers.iter().map(Container::spaces).collect(),
            addresses: containers.iter().map(|c| addresses(c, "lan")).collect(),
            containers,
        }
    }
}

/// That a container reaches whoever is on the LAN or behind its router, and is reached from there, but not from its own host.
fn reaches_all_but_its_host(sites: &Sites, three: &Three) {
    let (lan, one, own) = (sites.lan(), &three.places[0], &three.addresses[0]);
    let (here, there) = (Lan::host(0), Lan::host(1));
    must_go(
        [
            both(reaches, "to the router", one, &ROUTER),
            both(reaches, "to the outside", one, &OUTSIDE),
            both(reaches, "to the stranger", one, &STRANGER),
            both(reaches, "to the other host", one, &there),
            both(reaches, "to the other host's container", one, &three.addresses[2]),
            both(reaches, "from the router", lan.router(), own),
            both(reaches, "from the outside", lan.outside(), own),
            both(reaches, "from the stranger", lan.stranger(), own),
            both(reaches, "from the other host", sites[1].host.spaces(), own),
            both(reaches, "from the other host's container", &three.places[2], own),
            both(misses, "to its host", one, &here),
            both(misses, "from its host", sites[0].host.spaces(), own),
        ]
        .into_iter()
        .flatten(),
    );
}

#[test]
fn containers_of_the_bridge_mode_reach_each_other_and_the_lan() {
    let sites = hosts(2);
    let before = look(&sites[0]);
    let three = Three::of_mode(&sites, "bridge");
    reaches_all_but_its_host(&sites, &three);
    let [one, two, _] = &three.places[..] else {
        panic!("three")
    };
    must_go(
        [
            both(reaches, "to a neighbour", one, &three.addresses[1]),
            both(reaches, "from a neighbour", two, &three.addresses[0]),
        ]
        .into_iter()
        .flatten(),
    );
    // Nobody translates on the way.
    let outside = Answerer::tcp(sites.lan().outside(), "[::]:80");
    for (to, own) in OUTSIDE.iter().zip(&three.addresses[0]) {
        let to = if to.contains(':') {
            format!("[{to}]:80")
        } else {
            format!("{to}:80")
        };
        let seen = ask_tcp(one, &to).expect("an answer of the outside").to_string();
        assert_eq!(&seen, own, "{to}");
    }
    drop((outside, three));
    must_clear_to(&sites[0], &before);
}

#[test]
fn containers_of_the_private_mode_are_apart_on_one_host() {
    let sites = hosts(2);
    let three = Three::of_mode(&sites, "private");
    reaches_all_but_its_host(&sites, &three);
    // Not even where the switch sends back what came from there.
    sites.lan().reflect(0);
    let [one, two, _] = &three.places[..] else {
        panic!("three")
    };
    must_go(
        [
            both(misses, "to a neighbour", one, &three.addresses[1]),
            both(misses, "from a neighbour", two, &three.addresses[0]),
        ]
        .into_iter()
        .flatten(),
    );
}

#[test]
fn containers_of_the_vepa_mode_reach_each_other_where_the_switch_sends_back() {
    let sites = hosts(2);
    let three = Three::of_mode(&sites, "vepa");
    reaches_all_but_its_host(&sites, &three);
    let one = &three.places[0];
    must_go(both(misses, "by a switch that doesn't", one, &three.addresses[1]));
    sites.lan().reflect(0);
    must_go(both(reaches, "by a switch that does", one, &three.addresses[1]));
    // With the packets' own hardware addresses.
    let seen = who_has(sites.lan().router(), &three.addresses[1][0]);
    let own = three.containers[1].on("lan")["MacAddress"].clone();
    assert_eq!(seen, [own.as_str().expect("a hardware address")]);
}

#[test]
fn several_networks_share_a_parent() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    make(
        &sites[0],
        "lan",
        &[&SUBNETS[..], &GATEWAYS, without_host()].concat(),
    );
    let more = ["--subnet", "198.51.100.0/24", "-o", "macvlan_mode=private"];
    make(&sites[0], "more", &[&more[..], without_host()].concat());
    // A machine of the second network's range on the LAN.
    let other = sites.lan().machine("other", ["198.51.100.9", "2001:db8:9::9"]);
    let one = sites[0].container("one", "lan", &[]);
    let two = sites[0].container("two", "more", &[]);
    sites[0].engine.docker(&["network", "connect", "more", "one"]);
    let (first, second) = (one.spaces(), two.spaces());
    must_go([
        reaches("to the router", &first, ROUTER[0]),
        reaches("to a machine of the second network", &first, "198.51.100.9"),
        reaches("from there to the first", &other, &one.ip("more")),
        reaches("from there to the second", &other, &two.ip("more")),
        misses("to a neighbour of the private network", &first, &two.ip("more")),
        misses("from the second to the router", &second, ROUTER[0]),
    ]);
    sites[0].engine.docker(&["network", "disconnect", "more", "one"]);
    let links = first.run("ip", &["-o", "link", "show"]);
    assert_eq!(links.lines().count(), 2, "{links}");
    assert!(links.contains(LINK), "{links}");
    drop((first, second));
    must_clear_to(&sites[0], &before);
}
