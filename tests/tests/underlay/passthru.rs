//! The passthru mode: one container has the parent for itself.

use serde_json::Value;
use system_tests::lan::{LINK, OUTSIDE, ROUTER};
use system_tests::{Site, json};

use crate::scene::{
    GATEWAYS, OTHERS, SUBNETS, addresses, both, hosts, look, make, must_clear_to, must_go, reaches, try_make,
};

const PASSTHRU: [&str; 4] = ["-o", "parent=eth0", "-o", "macvlan_mode=passthru"];

/// The hardware address of a host's link to the LAN.
fn mac(site: &Site) -> Value {
    let shown = json::parse(&site.host.run("ip", &["-j", "link", "show", LINK]));
    shown[0]["address"].clone()
}

#[test]
fn a_container_of_the_passthru_mode_has_the_parent_for_itself_and_gives_it_back() {
    let sites = hosts(1);
    let (before, own) = (look(&sites[0]), mac(&sites[0]));
    make(
        &sites[0],
        "lan",
        &[&SUBNETS[..], &GATEWAYS, &PASSTHRU[2..]].concat(),
    );
    let one = sites[0].container("one", "lan", &[]);
    let place = one.spaces();
    let at = addresses(&one, "lan");
    must_go(
        [
            both(reaches, "to the router", &place, &ROUTER),
            both(reaches, "to the outside", &place, &OUTSIDE),
            both(reaches, "from the router", sites.lan().router(), &at),
        ]
        .into_iter()
        .flatten(),
    );
    // There is room for one, and whoever comes second hears why.
    let refused = sites[0].try_container("two", "lan", &[]).err();
    let refused = refused.expect("a second container to be refused");
    assert!(refused.contains("passthru"), "{refused}");
    must_go(both(reaches, "after the refusal", &place, &ROUTER));
    drop(place);
    must_clear_to(&sites[0], &before);
    assert_eq!(mac(&sites[0]), own, "the parent's own hardware address");
    must_go(both(
        reaches,
        "the host to the router",
        sites[0].host.spaces(),
        &ROUTER,
    ));
}

#[test]
fn a_parent_has_no_other_network_beside_one_of_the_passthru_mode() {
    let sites = hosts(1);
    let bridge = ["-o", "parent=eth0"];
    let before = look(&sites[0]);
    let refused = |options: &[&str], name: &str| {
        let here = look(&sites[0]);
        try_make(&sites[0], name, "macvlan", &[options, &OTHERS].concat())
            .must_fail_with(&["parent", "passthru", LINK]);
        here.must_come_back(&sites[0].host, Some(&sites[0].tombolo));
    };
    make(&sites[0], "first", &[&SUBNETS[..], &PASSTHRU[2..]].concat());
    refused(&PASSTHRU, "second");
    refused(&bridge, "second");
    sites[0].engine.docker(&["network", "rm", "first"]);
    make(&sites[0], "first", &SUBNETS);
    refused(&PASSTHRU, "second");
    must_clear_to(&sites[0], &before);
}
