//! A parent such as `eth0.30`: a sub-interface of 802.1Q, made when it is missing and removed with its last network.

use system_tests::lan::kernel_lacks;
use system_tests::{Site, Sites};

use crate::scene::{
    OTHERS, addresses, both, hosts, look, must_clear_to, must_go, ours, reaches, try_make, without_host,
};

const PARENT: &str = "eth0.30";
const OPTION: [&str; 2] = ["-o", "parent=eth0.30"];

/// Addresses of both families, on a VLAN where nobody else is.
const BOTH: [&str; 5] = [
    "--ipv6",
    "--subnet",
    "198.51.100.0/24",
    "--subnet",
    "2001:db8:30::/64",
];

fn has(site: &Site, link: &str) -> bool {
    site.host.try_run("ip", &["link", "show", "dev", link]).ok
}

/// Whether this kernel has VLANs; where it has none, networks on them are refused and nothing stays.
#[track_caller]
fn works(sites: &Sites) -> bool {
    if !kernel_lacks("vlan") {
        return true;
    }
    let before = look(&sites[0]);
    try_make(&sites[0], "tagged", "macvlan", &[&OTHERS[..], &OPTION].concat())
        .must_fail_with(&[PARENT, "modprobe 8021q"]);
    before.must_come_back(&sites[0].host, Some(&sites[0].tombolo));
    assert!(!has(&sites[0], PARENT));
    false
}

#[test]
fn a_sub_interface_comes_with_its_first_network_and_goes_with_its_last() {
    let sites = hosts(2);
    if !works(&sites) {
        return;
    }
    let before = look(&sites[0]);
    for (at, range) in ["198.51.100.64/27", "198.51.100.96/27"].iter().enumerate() {
        let range6 = format!("2001:db8:30::{}:0/112", at + 1);
        let ranges = ["--ip-range", range, "--ip-range", &range6];
        try_make(
            &sites[at],
            "tagged",
            "macvlan",
            &[&BOTH[..], &OPTION, &ranges].concat(),
        )
        .must();
    }
    assert!(ours(&sites[0]).iter().any(|link| link == PARENT));
    let shown = sites[0].host.run("ip", &["-d", "link", "show", "dev", PARENT]);
    assert!(shown.contains("vlan protocol 802.1Q id 30"), "{shown}");
    let one = sites[0].container("one", "tagged", &[]);
    let two = sites[1].container("two", "tagged", &[]);
    must_go(both(
        reaches,
        "to the other host",
        &one.spaces(),
        &addresses(&two, "tagged"),
    ));
    // Tagged on the wire: without the tag nobody sees any of it.
    must_go(both(
        crate::scene::misses,
        "from the LAN",
        sites.lan().stranger(),
        &addresses(&one, "tagged"),
    ));
    let more = [&["--subnet", "203.0.113.128/26"][..], &OPTION].concat();
    try_make(&sites[0], "second", "macvlan", &more).must();
    one.remove();
    sites[0].engine.docker(&["network", "rm", "tagged"]);
    assert!(has(&sites[0], PARENT), "another network has it");
    must_clear_to(&sites[0], &before);
    assert!(!has(&sites[0], PARENT));
}

#[test]
fn a_sub_interface_of_somebody_elses_is_used_and_stays() {
    let sites = hosts(1);
    if !works(&sites) {
        return;
    }
    let host = &sites[0].host;
    host.run(
        "ip",
        &[
            "link", "add", "link", "eth0", "name", PARENT, "up", "type", "vlan", "id", "30",
        ],
    );
    let before = look(&sites[0]);
    try_make(&sites[0], "tagged", "macvlan", &[&OTHERS[..], &OPTION].concat()).must();
    let one = sites[0].container("one", "tagged", &[]);
    let two = sites[0].container("two", "tagged", &[]);
    must_go([reaches("a neighbour", &one.spaces(), &two.ip("tagged"))]);
    assert!(!ours(&sites[0]).iter().any(|link| link == PARENT));
    must_clear_to(&sites[0], &before);
    assert!(has(&sites[0], PARENT));
}

#[test]
fn a_sub_interface_is_there_again_after_a_power_cut() {
    let sites = hosts(1);
    if !works(&sites) {
        return;
    }
    let args = [&OTHERS[..], &OPTION, without_host()].concat();
    try_make(&sites[0], "tagged", "macvlan", &args).must();
    let one = sites[0].container("one", "tagged", &["--restart", "always"]);
    sites.power_off(0);
    assert!(!has(&sites[0], PARENT));
    sites.power_on(0);
    let two = sites[0].container("two", "tagged", &[]);
    must_go([reaches("a neighbour", &two.spaces(), &one.ip("tagged"))]);
    assert!(ours(&sites[0]).iter().any(|link| link == PARENT));
}
