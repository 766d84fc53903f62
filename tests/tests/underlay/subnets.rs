//! Where addresses come from: several subnets, addresses that are kept for others, and other IPAM drivers.

use system_tests::lan::{LINK, ROUTER};
use system_tests::{Output, Site};

use crate::scene::{
    OTHERS, hosts, look, make, misses, must_clear_to, must_go, ours, reaches, try_make, ways_out,
    without_host,
};

#[test]
fn a_network_has_several_subnets() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    let subnets = ["--subnet", "198.51.100.0/24", "--subnet", "203.0.113.128/25"];
    make(&sites[0], "two", &[&subnets[..], without_host()].concat());
    let run = |name: &str, ip: &str| sites[0].container(name, "two", &["--ip", ip]);
    let first = [run("one", "198.51.100.9"), run("two", "198.51.100.10")];
    let second = [run("three", "203.0.113.140"), run("four", "203.0.113.141")];
    must_go([
        reaches("in the first", &first[0].spaces(), "198.51.100.10"),
        reaches("in the second", &second[0].spaces(), "203.0.113.141"),
        misses("from one to the other", &first[0].spaces(), "203.0.113.141"),
    ]);
    must_clear_to(&sites[0], &before);
}

#[test]
fn what_is_kept_for_others_is_nobodys() {
    let sites = hosts(1);
    let kept = [
        "--aux-address",
        "printer=198.51.100.2",
        "--aux-address",
        "camera=198.51.100.4",
    ];
    make(&sites[0], "lan", &[&OTHERS[..], &kept, without_host()].concat());
    let given = ["one", "two", "three"].map(|name| sites[0].container(name, "lan", &[]).ip("lan"));
    assert_eq!(given, ["198.51.100.1", "198.51.100.3", "198.51.100.5"]);
    let refused = sites[0]
        .try_container("four", "lan", &["--ip", "198.51.100.4"])
        .err();
    let refused = refused.expect("an address that is kept to be refused");
    assert!(refused.contains("198.51.100.4"), "{refused}");
}

/// Tries to make a macvlan network with the addresses of another driver.
#[track_caller]
fn with_driver(site: &Site, driver: &str, args: &[&str]) -> Output {
    let head = [
        "network",
        "create",
        "-d",
        "tombolo",
        "-o",
        "type=macvlan",
        "-o",
        "parent=eth0",
    ];
    site.engine
        .try_docker(&[&head[..], &["--ipam-driver", driver], args, &["theirs"]].concat())
}

#[test]
fn dockers_own_addresses_will_do_where_the_host_has_one_named() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    let own = [
        "--subnet",
        "192.0.2.0/24",
        "--ip-range",
        "192.0.2.64/27",
        "--gateway",
        ROUTER[0],
    ];
    let asked = |more: &[&str]| with_driver(&sites[0], "default", &[&own[..], more].concat());
    asked(&["-o", "host_access=on"]).must_fail_with(&["host_access", "host_address"]);
    before.must_come_back(&sites[0].host, Some(&sites[0].tombolo));
    asked(&[]).must();
    let one = sites[0].container("one", "theirs", &[]);
    let place = one.spaces();
    must_go([
        reaches("to the router", &place, ROUTER[0]),
        misses("from the host", sites[0].host.spaces(), &one.ip("theirs")),
    ]);
    assert!(ours(&sites[0]).is_empty(), "{:?}", ours(&sites[0]));
    drop(place);
    must_clear_to(&sites[0], &before);
    asked(&["-o", "host_address=192.0.2.200"]).must();
    let one = sites[0].container("one", "theirs", &[]);
    must_go([
        reaches("from the host", sites[0].host.spaces(), &one.ip("theirs")),
        reaches("to the host", &one.spaces(), "192.0.2.200"),
    ]);
    must_clear_to(&sites[0], &before);
}

#[test]
fn a_network_without_addresses_has_links() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    with_driver(&sites[0], "null", &[]).must();
    let one = sites[0].container("one", "theirs", &["--cap-add", "NET_ADMIN"]);
    assert_eq!(ways_out(&one), [""; 0]);
    one.exec(&["ip", "address", "add", "192.0.2.90/24", "dev", LINK]);
    must_go([
        reaches("to the router", &one.spaces(), ROUTER[0]),
        reaches("from the router", sites.lan().router(), "192.0.2.90"),
    ]);
    must_clear_to(&sites[0], &before);
}

#[test]
fn a_network_without_a_subnet_is_told_that_of_its_parent() {
    let sites = hosts(1);
    let before = look(&sites[0]);
    // The engine asks for pools without end while they overlap the host's routes, and that of the parent always does.
    let args = ["--ipam-opt", "parent=eth0", "-o", "parent=eth0"];
    try_make(&sites[0], "lan", "macvlan", &args).must_fail_with(&["--subnet", "192.0.2.0/24"]);
    before.must_come_back(&sites[0].host, Some(&sites[0].tombolo));
}
