//! Which of its networks a container goes out through, and what the host's firewall and an internal network make of it.

use serde_json::Value;
use system_tests::outside::{HOST, OUTSIDE};
use system_tests::{Answerer, Container, Scene, ask_tcp};

use crate::{DUAL, DUAL_TOO, endpoints, has, scene};

/// Through which gateway the container goes out, in a family; empty if through none.
fn gateway(container: &Container, family: &str) -> String {
    let routes = container.ip_json(&[family, "route", "show", "default"]);
    let routes = routes.as_array().expect("routes");
    assert!(routes.len() <= 1, "more than one default route: {routes:#?}");
    routes.first().map_or_else(String::new, |route| {
        route["gateway"].as_str().unwrap_or_default().to_owned()
    })
}

/// The container's ways out are these, and lead out.
#[track_caller]
fn must_go_out_by(scene: &Scene, container: &Container, v4: &str, v6: &str) {
    assert_eq!(
        (
            gateway(container, "-4").as_str(),
            gateway(container, "-6").as_str()
        ),
        (v4, v6)
    );
    let _out = Answerer::tcp(scene.outside.spaces(), "[::]:80");
    for (way, server, host) in [
        (v4, format!("{}:80", OUTSIDE[0]), HOST[0]),
        (v6, format!("[{}]:80", OUTSIDE[1]), HOST[1]),
    ] {
        let seen = ask_tcp(&container.spaces(), &server);
        if way.is_empty() {
            seen.expect_err("no way out");
        } else {
            assert_eq!(seen.expect("a way out").to_string(), host);
        }
    }
}

/// TestGatewaySelection
#[test]
fn the_way_out_of_each_family_moves_as_networks_come_and_go() {
    let (scene, before) = scene();
    if !has(&scene, 28, "a way out for each family of its own") {
        return;
    }
    scene.network("four", &["--subnet", "10.62.0.0/24"]);
    scene.network("six", &["--ipv4=false", "--ipv6", "--subnet", "fd63::/64"]);
    scene.network("twin", &DUAL);
    let one = scene.container("one", &["--network", "six"]);
    must_go_out_by(&scene, &one, "", "fd63::1");
    scene.docker(&["network", "connect", "four", "one"]);
    must_go_out_by(&scene, &one, "10.62.0.1", "fd63::1");
    scene.docker(&["network", "connect", "twin", "one"]);
    must_go_out_by(&scene, &one, "10.60.0.1", "fd60::1");
    scene.docker(&["network", "disconnect", "twin", "one"]);
    must_go_out_by(&scene, &one, "10.62.0.1", "fd63::1");
    scene.docker(&["network", "disconnect", "four", "one"]);
    must_go_out_by(&scene, &one, "", "fd63::1");
    scene.must_clear_to(&before);
}

/// TestGatewaySelection, on engines with one way out for both families
#[test]
fn the_way_out_moves_to_the_network_that_is_left() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let one = scene.container("one", &["--network", "second"]);
    must_go_out_by(&scene, &one, "10.61.0.1", "fd61::1");
    // The engine prefers the name that comes first.
    scene.docker(&["network", "connect", "first", "one"]);
    must_go_out_by(&scene, &one, "10.60.0.1", "fd60::1");
    scene.docker(&["network", "disconnect", "first", "one"]);
    must_go_out_by(&scene, &one, "10.61.0.1", "fd61::1");
    scene.must_clear_to(&before);
}

/// TestCreateWithPriority, TestConnectWithPriority
#[test]
fn the_way_out_is_through_the_network_of_the_highest_priority() {
    let (scene, before) = scene();
    if !has(&scene, 28, "gw-priority") {
        return;
    }
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let both = [
        "--network",
        "name=first,gw-priority=1",
        "--network",
        "name=second,gw-priority=2",
    ];
    let one = scene.container("one", &both);
    must_go_out_by(&scene, &one, "10.61.0.1", "fd61::1");
    let two = scene.container("two", &["--network", "first"]);
    must_go_out_by(&scene, &two, "10.60.0.1", "fd60::1");
    scene.docker(&["network", "connect", "--gw-priority", "5", "second", "two"]);
    must_go_out_by(&scene, &two, "10.61.0.1", "fd61::1");
    scene.docker(&["network", "disconnect", "second", "two"]);
    must_go_out_by(&scene, &two, "10.60.0.1", "fd60::1");
    scene.must_clear_to(&before);
}

/// TestGatewayErrorOnNetDisconnect
#[test]
fn a_network_is_left_even_if_the_next_one_cannot_take_over_the_ports() {
    let (scene, before) = scene();
    let binding = |address| format!("com.docker.network.bridge.host_binding_ipv4={address}");
    scene.network("first", &["--subnet", "10.60.0.0/24", "-o", &binding(HOST[0])]);
    scene.network(
        "second",
        &["--subnet", "10.61.0.0/24", "-o", &binding("127.0.0.1")],
    );
    // Somebody on the host has the port of the address that the second network publishes on.
    let holder = Answerer::tcp(scene.host.spaces(), "127.0.0.1:8080");
    let one = scene.container("one", &["--network", "first", "-p", "8080:80"]);
    scene.docker(&["network", "connect", "second", "one"]);
    let _web = Answerer::tcp(&one.spaces(), "0.0.0.0:80");
    let outside = scene.outside.spaces();
    ask_tcp(outside, "192.0.2.2:8080").expect("published on the first network");
    let left = scene.try_docker(&["network", "disconnect", "first", "one"]);
    assert!(
        left.ok || left.stderr.contains("8080"),
        "said why: {}",
        left.stderr
    );
    assert_eq!(
        endpoints(&scene).len(),
        1,
        "the first network is left: {}",
        left.stderr
    );
    ask_tcp(outside, "192.0.2.2:8080").expect_err("its port is gone");
    let seen = ask_tcp(scene.host.spaces(), "127.0.0.1:8080").expect("whoever had the port has it still");
    assert_eq!(seen.to_string(), "127.0.0.1");
    drop(holder);
    scene.docker(&["network", "connect", "first", "one"]);
    ask_tcp(outside, "192.0.2.2:8080").expect("published again");
    scene.must_clear_to(&before);
}

/// TestDropInForwardChain
#[test]
fn a_rule_of_somebody_elses_that_drops_the_rest_drops_nothing_of_ours() {
    let scene = Scene::new();
    for program in ["iptables", "ip6tables"] {
        scene.host.run(program, &["-A", "FORWARD", "-j", "DROP"]);
    }
    let before = scene.snapshot();
    scene.network("net", &DUAL);
    let one = scene.container("one", &["--network", "net", "-p", "8080:80"]);
    must_go_out_by(&scene, &one, "10.60.0.1", "fd60::1");
    let _web = Answerer::tcp(&one.spaces(), "[::]:80");
    for host in [HOST[0].to_owned(), format!("[{}]", HOST[1])] {
        ask_tcp(scene.outside.spaces(), &format!("{host}:8080")).expect("published");
    }
    scene.must_clear_to(&before);
}

/// TestInternalNwConnectivity, TestDockerNetworkInternalMode
#[test]
fn an_internal_network_has_its_host_and_nothing_beyond() {
    let (scene, before) = scene();
    scene.network("inner", &[&["--internal"], &DUAL[..]].concat());
    scene.network("open", &DUAL_TOO);
    let one = scene.container("one", &["--network", "inner"]);
    let other = scene.container("other", &["--network", "open"]);
    assert_eq!(
        (gateway(&one, "-4"), gateway(&one, "-6")),
        (String::new(), String::new())
    );
    assert!(
        one.pings("10.60.0.1") && one.pings6("fd60::1"),
        "the host's address in the network"
    );
    let _web = Answerer::tcp(&one.spaces(), "[::]:80");
    for address in [one.ip("inner"), format!("[{}]", one.ip6("inner"))] {
        ask_tcp(scene.host.spaces(), &format!("{address}:80")).expect("from the host");
    }
    for beyond in ["10.61.0.1", HOST[0], OUTSIDE[0], &other.ip("open")] {
        let pinged = one.try_exec(&["ping", "-c", "1", "-W", "1", beyond]);
        assert!(
            !pinged.ok && pinged.stderr.contains("unreachable"),
            "{beyond}: {pinged:?}"
        );
        assert!(!other.pings(&one.ip("inner")));
    }
    scene.must_clear_to(&before);
}

/// TestDockerNetworkConnectDisconnectWithPortMapping, asked of packets instead of `docker port`
#[test]
fn ports_stay_published_while_other_networks_come_and_go() {
    let (scene, before) = scene();
    for (number, name) in ["aaa", "ccc", "bbb"].iter().enumerate() {
        scene.network(name, &["--subnet", &format!("10.6{number}.0.0/24")]);
    }
    let one = scene.container("one", &["--network", "ccc", "-p", "8080:80", "-p", "81"]);
    let _web = Answerer::tcp(&one.spaces(), "0.0.0.0:80");
    let published = |when: &str| {
        let seen: Value = scene.tombolo().cli(&["endpoints"]);
        ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").unwrap_or_else(|e| panic!("{when}: {e}\n{seen:#}"));
    };
    published("at first");
    // One that takes the way out over, and one that does not.
    for step in [
        &["connect", "aaa"][..],
        &["connect", "bbb"],
        &["disconnect", "aaa"],
        &["disconnect", "bbb"],
        &["connect", "bbb"],
        &["disconnect", "ccc"],
        &["connect", "aaa"],
    ] {
        scene.docker(&[&["network"], step, &["one"]].concat());
        published(&format!("{step:?}"));
    }
    scene.docker(&["network", "disconnect", "aaa", "one"]);
    scene.docker(&["network", "disconnect", "bbb", "one"]);
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect_err("no network, no port");
    scene.must_clear_to(&before);
}
