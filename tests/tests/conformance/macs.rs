//! Hardware addresses: chosen ones stay, those that we choose are never two containers'.

use serde_json::json;
use system_tests::{Container, until};

use crate::{DUAL, DUAL_TOO, has, scene};

const CHOSEN: &str = "02:00:00:00:00:55";

/// The hardware address that the engine shows, which must be that of the interface.
#[track_caller]
fn mac(container: &Container, network: &str) -> String {
    let shown = container.on(network)["MacAddress"]
        .as_str()
        .expect("a MAC address")
        .to_owned();
    let links = container.ip_json(&["link"]);
    let mut links = links.as_array().expect("links").iter();
    assert!(
        links.any(|link| link["address"] == shown.as_str()),
        "no interface has {shown}"
    );
    shown
}

/// TestMACAddrOnRestart
#[test]
fn a_container_that_comes_back_never_has_the_hardware_address_of_one_that_came_meanwhile() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let one = scene.container("one", &["--network", "net"]);
    scene.docker(&["stop", "one"]);
    let two = scene.container("two", &["--network", "net"]);
    scene.docker(&["start", "one"]);
    assert_ne!(mac(&one, "net"), mac(&two, "net"));
    assert!(one.pings("two") && two.pings6("one"));
    scene.must_clear_to(&before);
}

/// TestCfgdMACAddrOnRestart, TestInspectCfgdMAC
#[test]
fn a_chosen_hardware_address_is_shown_and_outlives_restarts() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    scene.docker(&[
        "create",
        "--name",
        "idle",
        "--network",
        "net",
        "--mac-address",
        CHOSEN,
        "busybox",
        "sleep",
        "9",
    ]);
    let idle = scene.inspect("container", "idle");
    let places = [
        idle["Config"]["MacAddress"].clone(),
        idle["NetworkSettings"]["Networks"]["net"]["MacAddress"].clone(),
    ];
    assert!(
        places.contains(&json!(CHOSEN)),
        "shown before it runs: {places:?}"
    );
    let one = scene.container("one", &["--network", "net", "--mac-address", CHOSEN]);
    for way in [&["restart", "one"][..], &["stop", "one"]] {
        assert_eq!(mac(&one, "net"), CHOSEN);
        scene.docker(way);
    }
    scene.docker(&["start", "one"]);
    assert_eq!(mac(&one, "net"), CHOSEN);
    scene.must_clear_to(&before);
}

/// TestDockerNetworkConnectWithMac
#[test]
fn a_hardware_address_is_chosen_for_the_first_network_and_not_for_the_next() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let one = scene.container("one", &["--network", "first", "--mac-address", CHOSEN]);
    scene.docker(&["network", "connect", "second", "one"]);
    assert_eq!(mac(&one, "first"), CHOSEN);
    assert_ne!(mac(&one, "second"), CHOSEN);
    scene.must_clear_to(&before);
}

/// The neighbour's entry for an address.
fn entry(neighbour: &Container, address: &str) -> Option<String> {
    let shown = neighbour.ip_json(&["neigh", "show", "to", address]);
    shown[0]["lladdr"].as_str().map(str::to_owned)
}

/// TestAdvertiseAddresses
#[test]
fn neighbours_learn_at_once_that_an_address_has_another_holder() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let address = ["--network", "net", "--ip", "10.60.0.55", "--ip6", "fd60::55"];
    let two = scene.container("two", &["--network", "net"]);
    let knows_both = |who: &Container, mac: &str| {
        ["10.60.0.55", "fd60::55"]
            .iter()
            .all(|a| entry(who, a).as_deref() == Some(mac))
    };
    let one = scene.container("one", &address);
    assert!(two.pings("10.60.0.55") && two.pings6("fd60::55"));
    let ours = mac(&one, "net");
    assert!(knows_both(&two, &ours));
    one.remove();
    // A MAC that we choose follows from the address: whoever has a stale entry has the right one.
    let again = scene.container("again", &address);
    assert_eq!(mac(&again, "net"), ours);
    assert!(knows_both(&two, &ours) && two.pings("10.60.0.55") && two.pings6("fd60::55"));
    again.remove();
    // One that the user chooses does not, and the engine must tell. Of a plug-in's IPv4 addresses it tells 0.0.0.0: it
    // has them in their IPv6 form. See ../../CONFORMANCE.md.
    if has(&scene, 28, "announcing a container's addresses") {
        scene.container("other", &[&address[..], &["--mac-address", CHOSEN]].concat());
        until("the neighbour has the new entry without asking", || {
            (entry(&two, "fd60::55").as_deref() == Some(CHOSEN)).then_some(())
        });
    }
    scene.must_clear_to(&before);
}

/// TestAdvertiseAddresses, its options
#[test]
fn how_often_addresses_are_announced_can_be_chosen_for_a_network() {
    let (scene, before) = scene();
    if !has(&scene, 28, "announcing a container's addresses") {
        return;
    }
    let options = [
        "-o",
        "com.docker.network.advertise_addr_nmsgs=2",
        "-o",
        "com.docker.network.advertise_addr_ms=200",
    ];
    scene.network("net", &[&DUAL[..], &options].concat());
    let one = scene.container("one", &["--network", "net"]);
    assert!(one.pings(&one.ip("net")));
    scene.must_clear_to(&before);
}
