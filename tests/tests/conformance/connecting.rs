//! Containers that nobody named, addresses of one link only, and connections that fail half-way.

use system_tests::outside::OUTSIDE;
use system_tests::{Answerer, Container, Scene, ask_tcp, json};

use crate::{DUAL, DUAL_TOO, endpoints, has, scene};

/// The link-local address of a container's interface.
fn link_local(container: &Container, link: &str) -> String {
    let shown = container.ip_json(&["-6", "address", "show", "dev", link]);
    let mut all = json::rows(&shown[0]["addr_info"]).iter();
    let found = all.find(|address| address["scope"] == "link");
    json::text(
        found.unwrap_or_else(|| panic!("a link-local address: {shown:#}")),
        "/local",
    )
    .to_owned()
}

/// The interfaces of a container, the loopback's among them.
fn links(container: &Container) -> usize {
    let shown = container.ip_json(&["link"]);
    shown.as_array().expect("links").len()
}

/// TestBridgeICC, its part about link-local addresses
#[test]
fn neighbours_reach_each_other_at_their_link_local_addresses() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let [one, two] = ["one", "two"].map(|name| scene.container(name, &["--network", "net"]));
    for (from, to) in [(&one, &two), (&two, &one)] {
        let target = format!("{}%eth0", link_local(to, "eth0"));
        assert!(from.pings6(&target), "{} pings {target}", from.name());
    }
    scene.must_clear_to(&before);
}

/// TestDockerNetworkAnonymousEndpoint
#[test]
fn a_container_that_nobody_named_is_found_by_the_names_that_the_engine_gave_it() {
    let (scene, before) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    let one = scene.container("one", &["--network", "net"]);
    let hosts = one.exec(&["cat", "/etc/hosts"]);
    let id = scene.docker(&["run", "-d", "--network", "net", "busybox", "sleep", "3600"]);
    let shown = scene.inspect("container", id.trim());
    let given = shown["Name"]
        .as_str()
        .expect("a name")
        .trim_start_matches('/')
        .to_owned();
    assert!(one.pings(&id[..12]));
    if has(
        &scene,
        25,
        "finding a container by a name that the engine made up",
    ) {
        assert!(one.pings(&given), "{given}");
    }
    assert_eq!(
        one.exec(&["cat", "/etc/hosts"]),
        hosts,
        "neighbours are in no hosts file"
    );
    scene.docker(&["rm", "-f", &given]);
    assert!(!one.pings(&given), "its name goes with it");
    scene.must_clear_to(&before);
}

/// TestDockerNetworkConnectLinkLocalIP
#[test]
fn a_container_has_the_link_local_addresses_that_were_chosen_for_it() {
    let (scene, before) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    let [one, two] = ["one", "two"].map(|name| scene.container(name, &["--network", "net"]));
    scene.docker(&["network", "disconnect", "net", "one"]);
    let connect =
        |address: &str| scene.try_docker(&["network", "connect", "--link-local-ip", address, "net", "one"]);
    connect("169.253.5.5").must_fail_with(&["169.253.5.5"]);
    connect("169.254.7.7").must();
    assert_eq!(one.on("net")["IPAMConfig"]["LinkLocalIPs"][0], "169.254.7.7");
    let shown = one.ip_json(&["-4", "address"]).to_string();
    let own = one.ip("net");
    assert!(
        shown.contains("\"169.254.7.7\"") && shown.contains(&format!("\"{own}\"")),
        "{shown}"
    );
    // A neighbour that has one as well reaches it.
    two.spaces()
        .run("ip", &["address", "add", "169.254.7.8/16", "dev", "eth0"]);
    assert!(two.pings("169.254.7.7") && two.pings(&own));
    scene.must_clear_to(&before);
}

/// What is there while only the first network is connected.
#[track_caller]
fn must_be_on_the_first_only(scene: &Scene, one: &Container) {
    assert_eq!(links(one), 2, "the loopback and the first network's");
    assert_eq!(endpoints(scene).len(), 1);
    let shown = scene.inspect("network", "second");
    assert_eq!(shown["Containers"], serde_json::json!({}));
    let seen = ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("the port is published still");
    assert_eq!(seen.to_string(), OUTSIDE[0]);
}

/// TestJoinError
#[test]
fn a_connection_that_fails_half_way_leaves_nothing_and_succeeds_later() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let one = scene.container("one", &["--network", "first", "-p", "8080:80"]);
    let place = one.spaces();
    let _web = Answerer::tcp(&place, "[::]:80");
    must_be_on_the_first_only(&scene, &one);
    let snapshot = scene.snapshot();
    // The engine refuses an address whose subnet the container has a route to. By then we have answered that all is well.
    place.run("ip", &["route", "add", "10.61.0.0/24", "dev", "eth0"]);
    let refused = scene.try_docker(&["network", "connect", "second", "one"]);
    refused.must_fail_with(&["10.61.0"]);
    snapshot.must_come_back(&scene.host, Some(scene.tombolo()));
    must_be_on_the_first_only(&scene, &one);
    place.run("ip", &["route", "del", "10.61.0.0/24", "dev", "eth0"]);
    scene.docker(&["network", "connect", "second", "one"]);
    let two = scene.container("two", &["--network", "second"]);
    assert!(one.pings(&two.ip("second")) && one.pings6(&two.ip6("second")));
    drop(place);
    scene.must_clear_to(&before);
}

/// TestJoinError, where the way out is what cannot be
#[test]
fn a_way_out_that_cannot_be_moved_leaves_the_one_that_there_was() {
    let (scene, before) = scene();
    if !has(&scene, 28, "a way out that is given back after a failure") {
        return;
    }
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let one = scene.container("one", &["--network", "first", "-p", "8080:80"]);
    let place = one.spaces();
    let _web = Answerer::tcp(&place, "[::]:80");
    place.run("ip", &["route", "add", "10.61.0.0/24", "dev", "eth0"]);
    let refused = scene.try_docker(&["network", "connect", "--gw-priority", "9", "second", "one"]);
    refused.must_fail_with(&["10.61.0"]);
    let _out = Answerer::tcp(scene.outside.spaces(), "[::]:80");
    ask_tcp(&place, &format!("{}:80", OUTSIDE[0])).expect("the way out");
    must_be_on_the_first_only(&scene, &one);
    drop(place);
    scene.must_clear_to(&before);
}
