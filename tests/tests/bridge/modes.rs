//! Gateway modes, and who may speak with whom inside and across networks.

use system_tests::outside::{HOST, OUTSIDE};
use system_tests::{Answerer, Snapshot};

use crate::ways::{DUAL, DUAL2, Fate, at, must_go, route_from_outside, scene, seen_as, server, tcp, udp};

#[test]
fn containers_of_a_network_without_icc_speak_through_published_ports_only() {
    let (scene, before) = scene();
    let option = ["-o", "com.docker.network.bridge.enable_icc=false"];
    scene.network("net", &[&DUAL[..], &option[..]].concat());
    let web = server(&scene, "web", &["--network", "net", "-p", "8080:80"]);
    let two = server(&scene, "two", &["--network", "net"]);
    let out = Answerer::tcp(scene.outside.spaces(), "[::]:80");
    let (own, own6) = (web.container.ip("net"), web.container.ip6("net"));
    let host = scene.host.spaces();
    must_go(&[
        tcp("to a neighbour", &two.place, at(&own, 80), Fate::Lost),
        tcp("to a neighbour", &two.place, at(&own6, 80), Fate::Lost),
        udp("to a neighbour", &two.place, at(&own, 53), Fate::Lost),
        tcp(
            "to a neighbour's port",
            &two.place,
            at(HOST[0], 8080),
            seen_as("10.60.0.1"),
        ),
        tcp(
            "to a neighbour's port",
            &two.place,
            at(HOST[1], 8080),
            seen_as("fd60::1"),
        ),
        tcp("from the host", host, at(&own, 80), seen_as("10.60.0.1")),
        tcp("out", &two.place, at(OUTSIDE[0], 80), seen_as(HOST[0])),
        tcp(
            "in",
            scene.outside.spaces(),
            at(HOST[0], 8080),
            seen_as(OUTSIDE[0]),
        ),
    ]);
    // Whoever is root in a container can send to a neighbour by way of the host.
    two.place.run(
        "ip",
        &["route", "replace", &format!("{own}/32"), "via", "10.60.0.1"],
    );
    must_go(&[tcp(
        "to a neighbour by way of the host",
        &two.place,
        at(&own, 80),
        Fate::Lost,
    )]);
    drop(out);
    scene.must_clear_to(&before);
}

/// A network of one mode for both families, another one beside it, and the outside knowing the way to both.
fn with_mode(mode: &str) -> (system_tests::Scene, Snapshot) {
    let (scene, before) = scene();
    let modes = [
        format!("com.docker.network.bridge.gateway_mode_ipv4={mode}"),
        format!("com.docker.network.bridge.gateway_mode_ipv6={mode}"),
    ];
    let options = ["-o", &modes[0], "-o", &modes[1]];
    scene.network("net", &[&DUAL[..], &options[..]].concat());
    scene.network("nat", &DUAL2);
    route_from_outside(&scene);
    (scene, before)
}

#[test]
fn a_routed_network_is_reached_at_its_containers_addresses_and_published_ports() {
    let (scene, before) = with_mode("routed");
    let web = server(
        &scene,
        "web",
        &["--network", "net", "-p", "8080:80", "-p", "5353:53/udp"],
    );
    let nat = server(&scene, "nat", &["--network", "nat"]);
    let outside = scene.outside.spaces();
    let _out = Answerer::tcp(outside, "[::]:80");
    for (v6, (own, other)) in [
        (web.container.ip("net"), nat.container.ip("nat")),
        (web.container.ip6("net"), nat.container.ip6("nat")),
    ]
    .into_iter()
    .enumerate()
    {
        must_go(&[
            tcp("outside, published", outside, at(&own, 80), seen_as(OUTSIDE[v6])),
            udp("outside, published", outside, at(&own, 53), seen_as(OUTSIDE[v6])),
            tcp("outside, not published", outside, at(&own, 81), Fate::Lost),
            tcp("outside, on the host", outside, at(HOST[v6], 8080), Fate::Lost),
            tcp(
                "from a network behind NAT",
                &nat.place,
                at(&own, 80),
                seen_as(other.clone()),
            ),
            tcp("the same, not published", &nat.place, at(&own, 81), Fate::Lost),
            tcp(
                "to the network behind NAT",
                &web.place,
                at(&other, 80),
                Fate::Lost,
            ),
            tcp(
                "out, with its own address",
                &web.place,
                at(OUTSIDE[v6], 80),
                seen_as(own.clone()),
            ),
        ]);
        let ping = ["ping", "-c", "1", "-W", "3", &own];
        outside.run("busybox", &ping);
    }
    scene.must_clear_to(&before);
}

#[test]
fn an_unprotected_network_is_reached_at_all_ports_and_published_ones_work_too() {
    let (scene, before) = with_mode("nat-unprotected");
    let web = server(&scene, "web", &["--network", "net", "-p", "8080:80"]);
    let nat = server(&scene, "nat", &["--network", "nat"]);
    let outside = scene.outside.spaces();
    let _out = Answerer::tcp(outside, "[::]:80");
    for (v6, own) in [web.container.ip("net"), web.container.ip6("net")]
        .into_iter()
        .enumerate()
    {
        must_go(&[
            tcp(
                "outside, not published",
                outside,
                at(&own, 81),
                seen_as(OUTSIDE[v6]),
            ),
            tcp(
                "outside, published",
                outside,
                at(HOST[v6], 8080),
                seen_as(OUTSIDE[v6]),
            ),
            tcp("from another network", &nat.place, at(&own, 81), Fate::Lost),
            tcp(
                "out, masqueraded",
                &web.place,
                at(OUTSIDE[v6], 80),
                seen_as(HOST[v6]),
            ),
        ]);
    }
    scene.must_clear_to(&before);
}

#[test]
fn the_modes_of_the_two_families_are_apart() {
    let (scene, before) = scene();
    scene.network("net", &[&DUAL[..], &["-o", "gateway_mode_ipv6=routed"]].concat());
    route_from_outside(&scene);
    let web = server(&scene, "web", &["--network", "net", "-p", "8080:80"]);
    let outside = scene.outside.spaces();
    let _out = Answerer::tcp(outside, "[::]:80");
    let (own, own6) = (web.container.ip("net"), web.container.ip6("net"));
    must_go(&[
        tcp(
            "IPv4: published on the host",
            outside,
            at(HOST[0], 8080),
            seen_as(OUTSIDE[0]),
        ),
        tcp("IPv4: not at its address", outside, at(&own, 80), Fate::Lost),
        tcp(
            "IPv6: at its address",
            outside,
            at(&own6, 80),
            seen_as(OUTSIDE[1]),
        ),
        tcp("IPv6: not on the host", outside, at(HOST[1], 8080), Fate::Lost),
        tcp("IPv4 out", &web.place, at(OUTSIDE[0], 80), seen_as(HOST[0])),
        tcp("IPv6 out", &web.place, at(OUTSIDE[1], 80), seen_as(own6)),
    ]);
    scene.must_clear_to(&before);
}

#[test]
fn an_isolated_network_has_no_address_of_the_hosts() {
    let (scene, before) = scene();
    let options = [
        "--internal",
        "-o",
        "com.docker.network.bridge.gateway_mode_ipv4=isolated",
        "-o",
        "com.docker.network.bridge.gateway_mode_ipv6=isolated",
        "-o",
        "bridge_name=lonely0",
    ];
    scene.network("net", &[&DUAL[..], &options[..]].concat());
    let one = server(&scene, "one", &["--network", "net"]);
    let two = server(&scene, "two", &["--network", "net"]);
    let addresses = scene.host.run("ip", &["-o", "address", "show", "dev", "lonely0"]);
    let own = addresses.lines().filter(|line| !line.contains("fe80::")).count();
    assert_eq!(own, 0, "{addresses}");
    must_go(&[
        tcp(
            "to a neighbour",
            &one.place,
            at(&two.container.ip("net"), 80),
            Fate::Answered,
        ),
        tcp(
            "to a neighbour",
            &one.place,
            at(&two.container.ip6("net"), 80),
            Fate::Answered,
        ),
        tcp(
            "from the host",
            scene.host.spaces(),
            at(&two.container.ip("net"), 80),
            Fate::Lost,
        ),
        tcp("to the host", &one.place, at(HOST[0], 22), Fate::Lost),
    ]);
    scene.clear();
    scene
        .try_network("net", &["-o", "gateway_mode_ipv4=isolated"])
        .must_fail_with(&["gateway_mode_ipv4", "--internal"]);
    before.must_come_back(&scene.host, Some(scene.tombolo()));
}

#[test]
fn networks_are_apart_whoever_routes() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL2);
    route_from_outside(&scene);
    let one = server(&scene, "one", &["--network", "first"]);
    let two = server(&scene, "two", &["--network", "second"]);
    for (first, second) in [
        (one.container.ip("first"), two.container.ip("second")),
        (one.container.ip6("first"), two.container.ip6("second")),
    ] {
        must_go(&[
            tcp("first to second", &one.place, at(&second, 80), Fate::Lost),
            tcp("second to first", &two.place, at(&first, 80), Fate::Lost),
            tcp(
                "outside to first",
                scene.outside.spaces(),
                at(&first, 80),
                Fate::Lost,
            ),
            tcp(
                "the host to first",
                scene.host.spaces(),
                at(&first, 80),
                Fate::Answered,
            ),
        ]);
    }
    scene.must_clear_to(&before);
}
