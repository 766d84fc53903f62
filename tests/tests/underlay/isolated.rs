//! A network without a parent: its containers reach each other and nobody else.

use system_tests::json;
use system_tests::lan::{ROUTER, kernel_lacks};

use crate::scene::{
    SUBNETS, addresses, both, hosts, look, misses, must_clear_to, must_go, ours, reaches, try_make, ways_out,
};

#[test]
fn a_network_without_a_parent_is_apart_from_all_others() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    let made = try_make(&sites[0], "lonely", "macvlan", &SUBNETS);
    if kernel_lacks("dummy") {
        made.must_fail_with(&["modprobe dummy"]);
        before.must_come_back(&sites[0].host, Some(&sites[0].tombolo));
        assert!(ours(&sites[0]).is_empty());
        return;
    }
    made.must();
    // With addresses that nobody on the LAN has.
    let [one, two] = [("one", "60"), ("two", "61")].map(|(name, last)| {
        let own = [format!("192.0.2.{last}"), format!("2001:db8:1::{last}")];
        sites[0].container(name, "lonely", &["--ip", &own[0], "--ip6", &own[1]])
    });
    assert_eq!(ways_out(&one), [""; 0]);
    let place = one.spaces();
    must_go(
        [
            both(reaches, "to a neighbour", &place, &addresses(&two, "lonely")),
            both(misses, "to the router", &place, &ROUTER),
            both(
                misses,
                "from the router",
                sites.lan().router(),
                &addresses(&one, "lonely"),
            ),
        ]
        .into_iter()
        .flatten(),
    );
    let networks = sites[0].tombolo.cli(&["networks"]);
    assert_eq!(json::rows(&networks)[0]["internal"], true, "{networks:#}");
    drop(place);
    must_clear_to(&sites[0], &before);
}

#[test]
fn two_networks_without_a_parent_are_apart_from_each_other() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    let made = [("first", "198.51.100.0/24"), ("second", "203.0.113.128/25")]
        .map(|(name, subnet)| try_make(&sites[0], name, "macvlan", &["--subnet", subnet]));
    if kernel_lacks("dummy") {
        for made in made {
            made.must_fail_with(&["modprobe dummy"]);
        }
        before.must_come_back(&sites[0].host, Some(&sites[0].tombolo));
        return;
    }
    for made in made {
        made.must();
    }
    let one = sites[0].container("one", "first", &[]);
    let two = sites[0].container("two", "second", &[]);
    let place = one.spaces();
    // Even by a way of the container's own.
    place.run("ip", &["route", "add", "203.0.113.128/25", "dev", "eth0"]);
    must_go([misses("to the other network", &place, &two.ip("second"))]);
    drop(place);
    must_clear_to(&sites[0], &before);
}
