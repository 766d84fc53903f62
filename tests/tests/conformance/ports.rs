//! Who reaches a published port, and from where.

use std::io::Write;
use std::net::TcpStream;

use serde_json::Value;
use system_tests::outside::{HOST, OUTSIDE};
use system_tests::{Answerer, Container, Scene, Spaces, ask_tcp, ask_udp, json};

use crate::{DUAL, DUAL_TOO, scene};

/// The host's addresses as they stand in front of a port.
fn host() -> [String; 2] {
    [HOST[0].to_owned(), format!("[{}]", HOST[1])]
}

/// Servers on all addresses of a container, for both protocols.
fn serve(container: &Container) -> (Answerer, Answerer) {
    let place = container.spaces();
    (Answerer::tcp(&place, "[::]:80"), Answerer::udp(&place, "[::]:53"))
}

const PORTS: [&str; 4] = ["-p", "8080:80", "-p", "5353:53/udp"];

/// The host ports of a container's endpoint, for a port of the container, on an address.
fn host_ports(scene: &Scene, port: u64) -> Vec<(String, u64)> {
    let shown = scene.tombolo().cli(&["endpoints"]);
    let all = json::rows(&shown)
        .iter()
        .filter_map(|row| row["published"].as_array())
        .flatten();
    let of_it = all.filter(|row| row["port"] == port);
    let mut found: Vec<(String, u64)> = of_it
        .map(|row| {
            (
                row["host_ip"].as_str().unwrap().to_owned(),
                row["host_port"].as_u64().unwrap(),
            )
        })
        .collect();
    found.sort();
    found
}

/// TestAccessPublishedPortFromCtr, …FromAnotherNetwork, TestPortMappedHairpinTCP, TestPortMappedHairpinUDP
#[test]
fn a_published_port_is_reached_through_the_host_from_its_own_network_from_itself_and_from_others() {
    let scene = Scene::new();
    // Docker's own bridge gets a route with its first container.
    scene.docker(&["run", "--rm", "busybox", "true"]);
    let before = scene.snapshot();
    scene.network("net", &DUAL);
    scene.network("other", &DUAL_TOO);
    let web = scene.container("web", &[&["--network", "net"], &PORTS[..]].concat());
    let near = scene.container("near", &["--network", "net"]);
    let far = scene.container("far", &["--network", "other"]);
    let docker0 = scene.container("docker0", &[]);
    let _servers = serve(&web);
    for from in [&web, &near, &far, &docker0] {
        // Docker's own bridge has no IPv6 unless asked for.
        for address in host().iter().take(if from.name() == "docker0" { 1 } else { 2 }) {
            for _ in 0..2 {
                let why = |e| panic!("from {} at {address}: {e}", from.name());
                ask_tcp(&from.spaces(), &format!("{address}:8080")).unwrap_or_else(why);
                ask_udp(&from.spaces(), &format!("{address}:5353")).unwrap_or_else(why);
            }
        }
    }
    // Another network's container is seen as who it is; behind it stands no proxy.
    let seen = ask_tcp(&far.spaces(), "192.0.2.2:8080").expect("from another network");
    assert!(
        seen.to_string() == far.ip("other") || seen.to_string() == HOST[0],
        "{seen}"
    );
    // Each network's own address of this host is one of the host's as well.
    ask_tcp(&near.spaces(), "10.60.0.1:8080").expect("at the gateway");
    ask_tcp(&far.spaces(), "10.61.0.1:8080").expect("at the other network's gateway");
    scene.must_clear_to(&before);
}

/// TestAccessPublishedPortFromHost, TestAccessPublishedPortFromRemoteHost: IPv6 and addresses beside the wire's; the rest
/// is in `everyday.rs`.
#[test]
fn a_published_port_is_reached_at_each_address_of_the_host() {
    let (scene, before) = scene();
    scene
        .host
        .run("ip", &["address", "add", "198.51.100.7/32", "dev", "lo"]);
    scene
        .host
        .run("ip", &["-6", "address", "add", "2001:db8:7::7/128", "dev", "lo"]);
    let outside = scene.outside.spaces();
    outside.run("ip", &["route", "add", "198.51.100.7", "via", HOST[0]]);
    outside.run("ip", &["-6", "route", "add", "2001:db8:7::7", "via", HOST[1]]);
    scene.network("net", &DUAL);
    let web = scene.container("web", &[&["--network", "net"], &PORTS[..]].concat());
    let _servers = serve(&web);
    let [v4, v6] = host();
    for address in [
        &v4,
        &v6,
        "198.51.100.7",
        "[2001:db8:7::7]",
        "10.60.0.1",
        "[fd60::1]",
    ] {
        ask_tcp(scene.host.spaces(), &format!("{address}:8080"))
            .unwrap_or_else(|e| panic!("the host at {address}: {e}"));
        ask_udp(scene.host.spaces(), &format!("{address}:5353"))
            .unwrap_or_else(|e| panic!("the host at {address}, UDP: {e}"));
    }
    for (address, client) in [
        (v4.as_str(), 0),
        (&v6, 1),
        ("198.51.100.7", 0),
        ("[2001:db8:7::7]", 1),
    ] {
        let seen = ask_tcp(outside, &format!("{address}:8080"))
            .unwrap_or_else(|e| panic!("the outside at {address}: {e}"));
        assert_eq!(seen.to_string(), OUTSIDE[client], "the client's address is kept");
        let seen = ask_udp(outside, &format!("{address}:5353"))
            .unwrap_or_else(|e| panic!("the outside at {address}: {e}"));
        assert_eq!(seen.to_string(), OUTSIDE[client], "the client's address is kept");
    }
    scene.clear();
    scene
        .host
        .run("ip", &["address", "del", "198.51.100.7/32", "dev", "lo"]);
    scene
        .host
        .run("ip", &["-6", "address", "del", "2001:db8:7::7/128", "dev", "lo"]);
    before.must_come_back(&scene.host, Some(scene.tombolo()));
}

/// TestAccessPortPublishedOnLoopbackAddress
#[test]
fn a_port_of_the_loopback_is_not_reached_by_packets_that_claim_to_be_for_it() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    scene.network("other", &DUAL_TOO);
    let web = scene.container(
        "web",
        &[
            "--network",
            "net",
            "-p",
            "127.0.0.1:8080:80",
            "-p",
            "127.0.0.1:5353:53/udp",
        ],
    );
    let other = scene.container("other", &["--network", "other"]);
    let _servers = serve(&web);
    ask_tcp(scene.host.spaces(), "127.0.0.1:8080").expect("the host itself");
    ask_udp(scene.host.spaces(), "127.0.0.1:5353").expect("the host itself");
    let outside = scene.outside.spaces();
    for (from, gateway) in [
        (outside, HOST[0]),
        (&other.spaces(), "10.61.0.1"),
        (&web.spaces(), "10.60.0.1"),
    ] {
        ask_tcp(from, &format!("{gateway}:8080")).expect_err("another address of the host");
        // What a neighbour on the wire can do: no loopback of its own, and a route for it through the host.
        aim_loopback_at(from, gateway);
        ask_tcp(from, "127.0.0.1:8080").expect_err("a packet for 127.0.0.1 on the wire");
        ask_udp(from, "127.0.0.1:5353").expect_err("a datagram for 127.0.0.1 on the wire");
    }
    scene.must_clear_to(&before);
}

/// Makes a place send what is for 127.0.0.1 to a gateway.
fn aim_loopback_at(place: &Spaces, gateway: &str) {
    let allow = |name: &str| {
        place
            .enter(|| std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1"))
            .expect("a setting");
    };
    allow("all");
    place.run("ip", &["address", "del", "127.0.0.1/8", "dev", "lo"]);
    place.try_run("ip", &["route", "flush", "table", "local", "127.0.0.0/8"]);
    let source = json::parse(&place.run("ip", &["-j", "route", "get", gateway]));
    let source = source[0]["prefsrc"]
        .as_str()
        .expect("a source address")
        .to_owned();
    place.run(
        "ip",
        &["route", "add", "127.0.0.1/32", "via", gateway, "src", &source],
    );
    let way = place.run("ip", &["route", "get", "127.0.0.1"]);
    assert!(way.contains(&format!("via {gateway}")), "{way}");
}

/// TestPortMappingOnDistinctLoopbackAddrs
#[test]
fn one_port_of_two_loopback_addresses_leads_to_two_containers() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let [one, two] = [1, 2].map(|number| {
        let port = format!("127.0.0.{number}:8080:80");
        scene.container(&format!("c{number}"), &["--network", "net", "-p", &port])
    });
    let ports = ["127.0.0.1:8080", "127.0.0.2:8080"];
    for (serving, its, other) in [(&one, ports[0], ports[1]), (&two, ports[1], ports[0])] {
        let _only = Answerer::tcp(&serving.spaces(), "[::]:80");
        ask_tcp(scene.host.spaces(), its)
            .unwrap_or_else(|e| panic!("{its} leads to {}: {e}", serving.name()));
        ask_tcp(scene.host.spaces(), other).expect_err("the other container does not serve");
    }
    ask_tcp(scene.host.spaces(), "127.0.0.3:8080").expect_err("an address that nobody has published on");
    scene.must_clear_to(&before);
}

/// TestPublishedPortAlreadyInUse
#[test]
fn a_port_in_use_is_refused_with_who_has_it_and_is_free_afterwards() {
    let (scene, before) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    let run = || {
        scene.try_docker(&[
            "run",
            "--rm",
            "--network",
            "net",
            "-p",
            "8080:80",
            "busybox",
            "true",
        ])
    };
    for place in ["0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080"] {
        let server = Answerer::tcp(scene.host.spaces(), place);
        run().must_fail_with(&["8080"]);
        drop(server);
        run().must();
    }
    let web = scene.container("web", &["--network", "net", "-p", "8080:80"]);
    run().must_fail_with(&["8080", &web.ip("net")]);
    web.remove();
    run().must();
    scene.must_clear_to(&before);
}

/// TestRestartUserlandProxyUnder2MSL
#[test]
fn a_container_restarts_at_once_while_connections_to_its_port_still_linger() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let web = scene.container("web", &["--network", "net", "-p", "8080:80"]);
    for _ in 0..3 {
        let server = Answerer::tcp(&web.spaces(), "[::]:80");
        for (place, address) in [
            (scene.host.spaces(), "127.0.0.1:8080"),
            (scene.outside.spaces(), "192.0.2.2:8080"),
        ] {
            // The server ends each connection first, so its end is the one that lingers.
            ask_tcp(place, address).expect("published");
            let open = place.enter(|| TcpStream::connect(address)).expect("published");
            (&open).write_all(b"?").ok();
        }
        drop(server);
        scene.docker(&["restart", "web"]);
    }
    let _server = Answerer::tcp(&web.spaces(), "[::]:80");
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("published");
    scene.must_clear_to(&before);
}

/// TestDockerNetworkCreateHostBind
#[test]
fn ports_without_an_address_are_published_on_the_one_that_the_network_names() {
    let (scene, before) = scene();
    let binding = "com.docker.network.bridge.host_binding_ipv4=192.0.2.2";
    scene.network("net", &["--subnet", "10.60.0.0/24", "-o", binding]);
    let web = scene.container(
        "web",
        &["--network", "net", "-p", "8080:80", "-p", "127.0.0.1:8081:80"],
    );
    let _servers = serve(&web);
    assert_eq!(
        host_ports(&scene, 80),
        [("127.0.0.1".to_owned(), 8081), ("192.0.2.2".to_owned(), 8080)]
    );
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("the address that was named");
    ask_tcp(scene.host.spaces(), "127.0.0.1:8080").expect_err("another one");
    ask_tcp(scene.host.spaces(), "127.0.0.1:8081").expect("one that was named for the port");
    scene.must_clear_to(&before);
}

/// TestDirectRoutingOpenPorts, the default mode: a published port is reached through the host's address, not behind it
#[test]
fn a_published_port_is_not_reached_at_the_containers_own_address_from_outside() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let web = scene.container("web", &[&["--network", "net"], &PORTS[..]].concat());
    let _servers = serve(&web);
    let outside = scene.outside.spaces();
    outside.run("ip", &["route", "add", "10.60.0.0/24", "via", HOST[0]]);
    outside.run("ip", &["-6", "route", "add", "fd60::/64", "via", HOST[1]]);
    ask_tcp(outside, &format!("{}:80", web.ip("net"))).expect_err("straight to the container");
    ask_tcp(outside, &format!("[{}]:80", web.ip6("net"))).expect_err("straight to the container");
    ask_udp(outside, &format!("{}:53", web.ip("net"))).expect_err("straight to the container");
    for address in host() {
        ask_tcp(outside, &format!("{address}:8080")).expect("through the host");
    }
    scene.must_clear_to(&before);
}

/// TestAllPortMappingsAreReturned, as far as it can be asked: a plug-in cannot report to `docker port`, `tombolo
/// endpoints` can.
#[test]
fn ports_found_by_themselves_are_the_same_for_both_families_and_listed() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let web = scene.container(
        "web",
        &[
            "--network",
            "net",
            "-p",
            "80",
            "-p",
            "53/udp",
            "-p",
            "9000-9002:81",
        ],
    );
    let _servers = serve(&web);
    let range = scene.host.sysctl_value("net/ipv4/ip_local_port_range");
    let range: Vec<u64> = range.split_whitespace().map(|n| n.parse().unwrap()).collect();
    for (port, ask) in [(80, ask_tcp as fn(&Spaces, &str) -> _), (53, ask_udp)] {
        let found = host_ports(&scene, port);
        let [(_, v4), (_, v6)] = &found[..] else {
            panic!("one of each family: {found:?}")
        };
        assert_eq!(v4, v6);
        assert!((range[0]..=range[1]).contains(v4), "{found:?}");
        for address in host() {
            ask(scene.outside.spaces(), &format!("{address}:{v4}")).expect("a port that was found");
        }
    }
    let ranged: Value = host_ports(&scene, 81).iter().map(|(_, number)| *number).collect();
    assert_eq!(ranged, serde_json::json!([9000, 9000]));
    scene.must_clear_to(&before);
}
