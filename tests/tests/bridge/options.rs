//! The other options of a bridge network.

use system_tests::outside::{HOST, OUTSIDE, WIRE};
use system_tests::{Answerer, until};

use crate::ways::{DUAL, Fate, at, must_go, route_from_outside, scene, seen_as, serve, server, tcp, udp};

#[test]
fn only_the_senders_of_publish_from_reach_published_ports() {
    let (scene, _) = scene();
    let outside = scene.outside.spaces();
    // The outside has two more addresses, in a network of their own.
    outside.run("ip", &["address", "add", "198.51.100.1/32", "dev", "lo"]);
    scene
        .host
        .run("ip", &["route", "add", "198.51.100.1/32", "via", OUTSIDE[0]]);
    let before = scene.snapshot();
    let from = ["-o", "publish_from=198.51.100.0/24,2001:db8::/64"];
    scene.network("net", &[&DUAL[..], &from[..]].concat());
    scene.network("free", &["--subnet", "10.61.0.0/24"]);
    let web = server(
        &scene,
        "web",
        &["--network", "net", "-p", "8080:80", "-p", "5353:53/udp"],
    );
    let same = scene.container("same", &["--network", "net"]);
    let other = scene.container("other", &["--network", "free"]);
    let _free = server(&scene, "free", &["--network", "free", "-p", "8081:80"]);
    must_go(&[
        tcp("not among them", outside, at(HOST[0], 8080), Fate::Lost),
        udp("not among them", outside, at(HOST[0], 5353), Fate::Lost),
        tcp("among them", outside, at(HOST[1], 8080), seen_as(OUTSIDE[1])),
        tcp(
            "the host itself",
            scene.host.spaces(),
            at(HOST[0], 8080),
            Fate::Answered,
        ),
        tcp(
            "the same network",
            &same.spaces(),
            at(HOST[0], 8080),
            Fate::Answered,
        ),
        tcp("another network", &other.spaces(), at(HOST[0], 8080), Fate::Lost),
        tcp(
            "another network's port",
            outside,
            at(HOST[0], 8081),
            seen_as(OUTSIDE[0]),
        ),
    ]);
    outside.run(
        "ip",
        &[
            "route",
            "replace",
            "192.0.2.2",
            "dev",
            WIRE,
            "src",
            "198.51.100.1",
        ],
    );
    must_go(&[
        tcp("among them", outside, at(HOST[0], 8080), seen_as("198.51.100.1")),
        udp("among them", outside, at(HOST[0], 5353), seen_as("198.51.100.1")),
    ]);
    drop(web);
    scene.must_clear_to(&before);
}

#[test]
fn a_chosen_address_is_what_the_outside_sees() {
    let (scene, _) = scene();
    for (address, family) in [("192.0.2.77/24", "-4"), ("2001:db8::77/64", "-6")] {
        scene
            .host
            .run("ip", &[family, "address", "add", address, "dev", WIRE]);
    }
    until("the second IPv6 address may be used", || {
        let shown = scene.host.run("ip", &["-6", "address", "show", "dev", WIRE]);
        (!shown.contains("tentative")).then_some(())
    });
    let before = scene.snapshot();
    let options = [
        "-o",
        "com.docker.network.host_ipv4=192.0.2.77",
        "-o",
        "com.docker.network.host_ipv6=2001:db8::77",
    ];
    scene.network("net", &[&DUAL[..], &options[..]].concat());
    let one = server(&scene, "one", &["--network", "net", "-p", "8080:80"]);
    let _out = Answerer::tcp(scene.outside.spaces(), "[::]:80");
    must_go(&[
        tcp("IPv4", &one.place, at(OUTSIDE[0], 80), seen_as("192.0.2.77")),
        tcp("IPv6", &one.place, at(OUTSIDE[1], 80), seen_as("2001:db8::77")),
        tcp(
            "in",
            scene.outside.spaces(),
            at(HOST[0], 8080),
            seen_as(OUTSIDE[0]),
        ),
        tcp("itself", &one.place, at(HOST[0], 8080), Fate::Answered),
    ]);
    scene.must_clear_to(&before);
}

#[test]
fn trusted_interfaces_reach_every_port() {
    let (scene, before) = scene();
    let option = format!("com.docker.network.bridge.trusted_host_interfaces={WIRE}:wg7");
    scene.network("net", &[&DUAL[..], &["-o", &option]].concat());
    scene.network(
        "other",
        &["--subnet", "10.61.0.0/24", "-o", "trusted_interfaces=wg7"],
    );
    route_from_outside(&scene);
    let web = server(&scene, "web", &["--network", "net"]);
    let other = server(&scene, "other", &["--network", "other"]);
    let outside = scene.outside.spaces();
    must_go(&[
        tcp(
            "IPv4",
            outside,
            at(&web.container.ip("net"), 81),
            seen_as(OUTSIDE[0]),
        ),
        tcp(
            "IPv6",
            outside,
            at(&web.container.ip6("net"), 81),
            seen_as(OUTSIDE[1]),
        ),
        udp(
            "UDP",
            outside,
            at(&web.container.ip("net"), 53),
            seen_as(OUTSIDE[0]),
        ),
        tcp(
            "another's trust",
            outside,
            at(&other.container.ip("other"), 81),
            Fate::Lost,
        ),
    ]);
    scene.must_clear_to(&before);
}

#[test]
fn a_bridge_may_have_no_ipv4_address_and_containers_another_gateway() {
    let (scene, before) = scene();
    let args = [
        "--subnet",
        "10.60.0.0/24",
        "--gateway",
        "10.60.0.1",
        "--aux-address",
        "DefaultGatewayIPv4=10.60.0.9",
        "-o",
        "com.docker.network.bridge.inhibit_ipv4=true",
        "-o",
        "bridge_name=bare0",
    ];
    scene.network("net", &args);
    let addresses = scene
        .host
        .run("ip", &["-4", "-o", "address", "show", "dev", "bare0"]);
    assert_eq!(addresses, "");
    // The gateway is a machine on the bridge: here, one of the containers.
    let gateway = server(&scene, "gateway", &["--network", "net", "--ip", "10.60.0.10"]);
    gateway
        .place
        .run("ip", &["address", "add", "10.60.0.9/24", "dev", "eth0"]);
    gateway
        .place
        .run("ip", &["address", "add", "203.0.113.1/32", "dev", "lo"]);
    let one = scene.container("one", &["--network", "net"]);
    let routes = one.ip_json(&["route", "show", "default"]);
    assert_eq!(routes[0]["gateway"], "10.60.0.9");
    must_go(&[tcp(
        "by the other gateway",
        &one.spaces(),
        "203.0.113.1:80",
        Fate::Answered,
    )]);
    let refused = scene.try_network(
        "second",
        &[
            "--subnet",
            "10.61.0.0/24",
            "--aux-address",
            "DefaultGatewayIPv4=10.99.0.1",
        ],
    );
    refused.must_fail_with(&["10.99.0.1"]);
    scene.must_clear_to(&before);
}

#[test]
fn an_existing_bridge_is_used_and_left_as_it_was() {
    let (scene, _) = scene();
    for bridge in ["lan0", "bare0"] {
        scene.host.run("ip", &["link", "add", bridge, "type", "bridge"]);
        scene.host.run("ip", &["link", "set", bridge, "up"]);
    }
    scene
        .host
        .run("ip", &["address", "add", "10.60.0.1/24", "dev", "lan0"]);
    let before = scene.snapshot();
    scene.network(
        "lan",
        &[
            "--subnet",
            "10.60.0.0/24",
            "-o",
            "com.docker.network.bridge.name=lan0",
        ],
    );
    scene.network("bare", &["--subnet", "10.61.0.0/24", "-o", "bridge_name=bare0"]);
    let _out = Answerer::tcp(scene.outside.spaces(), "[::]:80");
    let mut servers = Vec::new();
    for (net, port) in [("lan", 8080), ("bare", 8081)] {
        let web = server(&scene, net, &["--network", net, "-p", &format!("{port}:80")]);
        must_go(&[
            tcp(
                "in",
                scene.outside.spaces(),
                at(HOST[0], port),
                seen_as(OUTSIDE[0]),
            ),
            tcp("out", &web.place, at(OUTSIDE[0], 80), seen_as(HOST[0])),
        ]);
        servers.push(web);
    }
    scene.tombolo().kill();
    scene.tombolo().start_again();
    must_go(&[tcp(
        "after a restart",
        scene.outside.spaces(),
        at(HOST[0], 8081),
        Fate::Answered,
    )]);
    scene.must_clear_to(&before);
    let lan0 = scene.host.run("ip", &["-d", "address", "show", "lan0"]);
    assert!(
        lan0.contains("10.60.0.1/24") && lan0.contains("group default"),
        "{lan0}"
    );
    let bare0 = scene.host.run("ip", &["address", "show", "bare0"]);
    assert!(bare0.contains("bare0") && !bare0.contains("10.61.0.1"), "{bare0}");
    // Its neighbours must not reach the host's loopback now.
    assert_eq!(scene.host.sysctl_value("net/ipv4/conf/bare0/route_localnet"), "0");
    scene.host.run("ip", &["link", "set", "bare0", "group", "5"]);
    let refused = scene.try_network("marked", &["-o", "bridge_name=bare0"]);
    refused.must_fail_with(&["bridge_name", "bare0 (link group 5)", "group default"]);
    let refused = scene.try_network("wrong", &["-o", &format!("bridge_name={WIRE}")]);
    refused.must_fail_with(&[WIRE, "not a bridge"]);
}

#[test]
fn a_docker_bridge_with_a_name_of_its_own_is_left_to_dockers_rules() {
    let (scene, _) = scene();
    scene.docker(&[
        "network",
        "create",
        "-d",
        "bridge",
        "--subnet",
        "10.62.0.0/24",
        "-o",
        "com.docker.network.bridge.name=odd0",
        "theirs",
    ]);
    scene.network("ours", &["--subnet", "10.60.0.0/24"]);
    let one = server(&scene, "one", &["--network", "ours"]);
    let two = server(&scene, "two", &["--network", "theirs"]);
    until("its name is known", || {
        let table = scene
            .host
            .run("nft", &["list", "set", "inet", "tombolo", "foreign"]);
        table.contains("odd0").then_some(())
    });
    must_go(&[
        tcp(
            "ours to theirs",
            &one.place,
            at(&two.container.ip("theirs"), 80),
            Fate::Lost,
        ),
        tcp(
            "theirs to ours",
            &two.place,
            at(&one.container.ip("ours"), 80),
            Fate::Lost,
        ),
    ]);
    scene.clear();
}

#[test]
fn two_containers_share_a_subnet_of_two_addresses_where_no_gateway_is_kept() {
    let (scene, before) = scene();
    if scene.major() < 28 {
        // Older engines don't ask whether a gateway is needed: they take one of the two addresses for it.
        scene.network(
            "net",
            &[
                "--internal",
                "--subnet",
                "10.60.0.0/31",
                "-o",
                "gateway_mode_ipv4=isolated",
            ],
        );
        scene.container("one", &["--network", "net"]);
        let refused = scene.try_docker(&["run", "-d", "--network", "net", "busybox", "true"]);
        refused.must_fail_with(&["10.60.0.0/31"]);
        scene.must_clear_to(&before);
        return;
    }
    for options in [
        &["-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated"],
        &["-o", "com.docker.network.bridge.inhibit_ipv4=true"],
    ] {
        scene.network(
            "net",
            &[&["--internal", "--subnet", "10.60.0.0/31"], &options[..]].concat(),
        );
        let one = scene.container("one", &["--network", "net"]);
        let two = scene.container("two", &["--network", "net"]);
        assert_eq!(
            [one.ip("net"), two.ip("net")]
                .iter()
                .map(String::as_str)
                .collect::<std::collections::BTreeSet<_>>(),
            ["10.60.0.0", "10.60.0.1"].into()
        );
        assert!(one.pings("two") && two.pings("one"));
        scene.must_clear_to(&before);
    }
}

#[test]
fn a_network_may_have_ipv6_only_on_engines_that_know_it() {
    let (scene, before) = scene();
    let args = ["--ipv4=false", "--ipv6", "--subnet", "fd60::/64"];
    if scene.major() < 28 {
        scene.try_network("net", &args).must_fail_with(&["ipv4"]);
        return;
    }
    scene.network("net", &args);
    let web = server(&scene, "web", &["--network", "net", "-p", "8080:80"]);
    let _out = Answerer::tcp(scene.outside.spaces(), "[::]:80");
    assert_eq!(web.container.ip("net"), "");
    must_go(&[
        tcp(
            "in",
            scene.outside.spaces(),
            at(HOST[1], 8080),
            seen_as(OUTSIDE[1]),
        ),
        tcp("out", &web.place, at(OUTSIDE[1], 80), seen_as(HOST[1])),
        tcp(
            "not by IPv4",
            scene.outside.spaces(),
            at(HOST[0], 8080),
            Fate::Lost,
        ),
    ]);
    drop(web);
    scene.must_clear_to(&before);
}

#[test]
fn a_sysctl_of_an_endpoint_is_applied_by_engines_that_pass_it() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let option =
        "name=net,\"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1\"";
    let run = [
        "run",
        "-d",
        "--name",
        "one",
        "--network",
        option,
        "busybox",
        "sleep",
        "3600",
    ];
    scene.docker(&run);
    if scene.major() >= 28 {
        let value = scene.docker(&["exec", "one", "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians"]);
        assert_eq!(value.trim(), "1");
    }
    scene.must_clear_to(&before);
}

#[test]
fn options_that_cannot_be_are_refused_by_name() {
    let (scene, before) = scene();
    for (option, reasons) in [
        (
            "gateway_mode_ipv4=open",
            &["gateway_mode_ipv4", "'open'", "nat-unprotected"][..],
        ),
        (
            "publish_from=somewhere",
            &["publish_from", "'somewhere'", "prefixes"],
        ),
        ("host_ipv4=fd00::1", &["host_ipv4", "an IPv4 address"]),
        ("trusted_interfaces=a/b", &["trusted_interfaces", "'a/b'"]),
        ("ports=none", &["ports", "tombolo or docker"]),
        ("icc=perhaps", &["icc", "true or false"]),
    ] {
        scene.try_network("net", &["-o", option]).must_fail_with(reasons);
    }
    before.must_come_back(&scene.host, Some(scene.tombolo()));
    let one = serve(scene.container("one", &[]));
    drop(one);
    scene.clear();
}
