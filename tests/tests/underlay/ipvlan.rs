//! Ipvlan: containers share the parent's hardware address; l2 is a switch, l3 and l3s are routers.

use system_tests::lan::{LINK, OUTSIDE, ROUTER, STRANGER, kernel_lacks, neighbour};
use system_tests::{Container, Lan, Site, Sites, json};

use crate::scene::{
    GATEWAYS, SUBNETS, addresses, both, hosts, look, misses, must_clear_to, must_go, reaches, try_make,
    ways_out,
};

/// Addresses behind the hosts for the modes that route.
const BEHIND: [&str; 5] = [
    "--ipv6",
    "--subnet",
    "198.51.100.0/24",
    "--subnet",
    "2001:db8:9::/64",
];

/// Makes networks of ipvlan, or sees them refused by a kernel that has none: then nothing stays and there is no more to try.
#[track_caller]
fn works(site: &Site, name: &str, args: &[&str]) -> bool {
    let before = look(site);
    let made = try_make(site, name, "ipvlan", &[&["-o", "parent=eth0"], args].concat());
    if kernel_lacks("ipvlan") {
        made.must_fail_with(&["eth0", "modprobe ipvlan"]);
        before.must_come_back(&site.host, Some(&site.tombolo));
        return false;
    }
    made.must();
    true
}

fn parents_mac(site: &Site) -> String {
    let shown = json::parse(&site.host.run("ip", &["-j", "link", "show", LINK]));
    json::text(&shown[0], "/address").to_owned()
}

/// A network of the LAN's addresses on the first host, with two containers.
#[track_caller]
fn two_of_l2(sites: &Sites, options: &[&str]) -> Option<[Container; 2]> {
    let ranges = ["--ip-range", "192.0.2.64/27", "--ip-range", "2001:db8:1::1:0/112"];
    let args = [&SUBNETS[..], &GATEWAYS, &ranges, options].concat();
    works(&sites[0], "lan", &args).then(|| ["one", "two"].map(|name| sites[0].container(name, "lan", &[])))
}

#[test]
fn l2_is_on_the_lan_with_the_parents_hardware_address() {
    let sites = hosts(2);
    let before = look(&sites[0]);
    let Some([one, two]) = two_of_l2(&sites, &["-o", "ipvlan_mode=l2", "-o", "host_access=off"]) else {
        return;
    };
    let (place, own) = (one.spaces(), addresses(&one, "lan"));
    must_go(
        [
            both(reaches, "to a neighbour", &place, &addresses(&two, "lan")),
            both(reaches, "to the router", &place, &ROUTER),
            both(reaches, "to the outside", &place, &OUTSIDE),
            both(reaches, "from the stranger", sites.lan().stranger(), &own),
            both(reaches, "from the other host", sites[1].host.spaces(), &own),
            both(misses, "to its host", &place, &Lan::host(0)),
            both(misses, "from its host", sites[0].host.spaces(), &own),
        ]
        .into_iter()
        .flatten(),
    );
    let mac = parents_mac(&sites[0]);
    assert_eq!(neighbour(sites.lan().stranger(), &own[0]), Some(mac));
    drop(place);
    must_clear_to(&sites[0], &before);
}

#[test]
fn l2_with_host_access_is_reached_by_its_host() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    let Some([one, _]) = two_of_l2(&sites, &["-o", "host_access=on"]) else {
        return;
    };
    let place = one.spaces();
    must_go(both(
        reaches,
        "from its host",
        sites[0].host.spaces(),
        &addresses(&one, "lan"),
    ));
    must_go([reaches("to its host", &place, &Lan::host(0)[0])]);
    drop(place);
    must_clear_to(&sites[0], &before);
}

#[test]
fn the_flags_say_whether_neighbours_are_reached() {
    for (flag, among) in [("bridge", true), ("private", false), ("vepa", false)] {
        let sites = hosts(1);
        let flag = format!("ipvlan_flag={flag}");
        let Some([one, two]) = two_of_l2(&sites, &["-o", &flag, "-o", "host_access=off"]) else {
            return;
        };
        let (place, other) = (one.spaces(), addresses(&two, "lan"));
        let row = if among { reaches } else { misses };
        must_go(
            [
                both(row, &flag, &place, &other),
                both(reaches, "to the router", &place, &ROUTER),
            ]
            .into_iter()
            .flatten(),
        );
    }
}

/// The modes that route: two containers on a host, and a LAN that knows the way to them.
#[track_caller]
fn routes(mode: &str) {
    let sites = hosts(1);
    let before = look(&sites[0]);
    let option = format!("ipvlan_mode={mode}");
    if !works(&sites[0], "behind", &[&BEHIND[..], &["-o", &option]].concat()) {
        return;
    }
    let host = Lan::host(0);
    for place in [sites.lan().router(), sites.lan().stranger()] {
        for (net, via) in [BEHIND[2], BEHIND[4]].iter().zip(&host) {
            place.run("ip", &["route", "add", net, "via", via]);
        }
    }
    let one = sites[0].container("one", "behind", &[]);
    let two = sites[0].container("two", "behind", &[]);
    let (place, own) = (one.spaces(), addresses(&one, "behind"));
    must_go(
        [
            both(reaches, "to a neighbour", &place, &addresses(&two, "behind")),
            both(reaches, "from the router", sites.lan().router(), &own),
            both(reaches, "from the stranger", sites.lan().stranger(), &own),
            both(reaches, "to the stranger", &place, &STRANGER),
        ]
        .into_iter()
        .flatten(),
    );
    // The way out is the link itself: nobody is asked for a neighbour there.
    let ways = ways_out(&one);
    assert!(
        ways.len() == 2 && ways.iter().all(|way| way.starts_with("default dev eth0")),
        "{ways:?}"
    );
    drop(place);
    must_clear_to(&sites[0], &before);
}

#[test]
fn l3_routes() {
    routes("l3");
}

#[test]
fn l3s_routes() {
    routes("l3s");
}
