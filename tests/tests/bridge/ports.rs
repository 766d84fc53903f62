//! Published ports: from where they are reached, and whom the container sees.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use system_tests::outside::{HOST, OUTSIDE};
use system_tests::{Answerer, Spaces, ask_tcp};

use crate::ways::{DUAL, DUAL2, Fate, at, must_go, scene, seen_as, server, tcp, udp};

#[test]
fn a_published_port_is_reached_from_everywhere_and_the_sender_is_kept() {
    let (scene, _) = scene();
    scene.network("net", &DUAL);
    scene.network("other", &DUAL2);
    let web = server(
        &scene,
        "web",
        &["--network", "net", "-p", "8080:80", "-p", "5353:53/udp"],
    );
    let same = scene.container("same", &["--network", "net"]);
    let other = scene.container("other", &["--network", "other"]);
    let docker0 = scene.container("docker0", &[]);
    let (outside, host) = (scene.outside.spaces(), scene.host.spaces());
    let (same, other_place, docker0_place) = (same.spaces(), other.spaces(), docker0.spaces());
    let mut ways = Vec::new();
    for (v6, gateway) in [(0, "10.60.0.1"), (1, "fd60::1")] {
        let (wire, client) = (HOST[v6], OUTSIDE[v6]);
        let others = [other.ip("other"), other.ip6("other")][v6].clone();
        for (make, port) in [
            (tcp as fn(_, _, String, _) -> _, 8080),
            (udp as fn(_, _, String, _) -> _, 5353),
        ] {
            let wire = at(wire, port);
            ways.extend([
                make("outside", outside, wire.clone(), seen_as(client)),
                make("the host, its own address", host, wire.clone(), Fate::Answered),
                make("the same network", &same, wire.clone(), seen_as(gateway)),
                make("itself", &web.place, wire.clone(), seen_as(gateway)),
                make(
                    "another network",
                    &other_place,
                    wire.clone(),
                    seen_as(others.clone()),
                ),
                make(
                    "the gateway's address",
                    &other_place,
                    at(gateway, port),
                    seen_as(others.clone()),
                ),
            ]);
            // Docker's own default bridge has IPv4 only.
            if v6 == 0 {
                // Docker replaces what its containers send out with; from 28 on it drops answers to their own addresses.
                ways.push(make(
                    "a container on docker0",
                    &docker0_place,
                    wire,
                    seen_as(gateway),
                ));
            }
            let loopback = ["127.0.0.1", "::1"][v6];
            ways.push(make(
                "the host, its loopback",
                host,
                at(loopback, port),
                seen_as(gateway),
            ));
        }
    }
    must_go(&ways);
    scene.clear();
}

#[test]
fn a_port_of_a_container_on_two_networks_is_reached_from_both() {
    let (scene, before) = scene();
    // The engine publishes by way of the network whose name comes first.
    scene.network("first", &DUAL);
    scene.network("second", &DUAL2);
    let web = server(
        &scene,
        "web",
        &["--network", "second", "-p", "8080:80", "-p", "5353:53/udp"],
    );
    scene.docker(&["network", "connect", "first", "web"]);
    let [one, two] = ["first", "second"].map(|net| scene.container(net, &["--network", net]).spaces());
    let outside = scene.outside.spaces();
    let ways = |gateways: [&'static str; 2]| {
        let mut ways = Vec::new();
        for v6 in [0, 1] {
            let (tcp_port, udp_port) = (at(HOST[v6], 8080), at(HOST[v6], 5353));
            ways.extend([
                tcp("the one", &one, tcp_port.clone(), seen_as(gateways[v6])),
                tcp("the other", &two, tcp_port.clone(), seen_as(gateways[v6])),
                udp("the one", &one, udp_port.clone(), seen_as(gateways[v6])),
                udp("the other", &two, udp_port.clone(), seen_as(gateways[v6])),
                tcp("outside", outside, tcp_port, seen_as(OUTSIDE[v6])),
                udp("outside", outside, udp_port, seen_as(OUTSIDE[v6])),
            ]);
        }
        ways
    };
    must_go(&ways(["10.60.0.1", "fd60::1"]));
    scene.docker(&["network", "disconnect", "first", "web"]);
    must_go(&[
        tcp(
            "the one it has left",
            &one,
            at(HOST[0], 8080),
            seen_as(
                scene.inspect("container", "first")["NetworkSettings"]["Networks"]["first"]["IPAddress"]
                    .as_str()
                    .unwrap(),
            ),
        ),
        tcp("its own", &two, at(HOST[0], 8080), seen_as("10.61.0.1")),
    ]);
    scene.docker(&["network", "connect", "first", "web"]);
    scene.tombolo().kill();
    scene.tombolo().start_again();
    must_go(&ways(["10.60.0.1", "fd60::1"]));
    drop((web, one, two));
    scene.must_clear_to(&before);
}

/// An INIT chunk (RFC 9260, section 3.3.2), as it stands behind the IP header: from port 40000 to 8083, with its checksum.
#[rustfmt::skip]
const SCTP_INIT: [u8; 32] = [
    0x9c, 0x40, 0x1f, 0x93, 0x00, 0x00, 0x00, 0x00, 0xdc, 0xcc, 0x3f, 0xcd, 0x01, 0x00, 0x00, 0x14,
    0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x80, 0x00, 0x00, 0x01, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01,
];

#[test]
fn an_association_of_sctp_begins_through_a_published_port() {
    let (scene, before) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    let one = scene.container("one", &["--network", "net", "-p", "8083:80/sctp"]);
    assert_eq!(host_ports(&scene, 80), [("0.0.0.0".to_owned(), 8083)]);
    // The kernel need not speak it to translate it, so both ends are raw sockets, with IANA's number of SCTP.
    let raw = |place: &Spaces| {
        place.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(132))).unwrap())
    };
    let (outside, mut inside) = (raw(scene.outside.spaces()), raw(&one.spaces()));
    inside.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let to: SocketAddr = format!("{}:0", HOST[0]).parse().unwrap();
    outside.send_to(&SCTP_INIT, &to.into()).unwrap();
    let mut packet = [0; 128];
    let length = inside.read(&mut packet).expect("the association begins");
    // 20 bytes of IP with the sender from the 13th on; SCTP begins with both ports.
    let sender: [u8; 4] = packet[12..16].try_into().unwrap();
    assert_eq!(
        (length, Ipv4Addr::from(sender).to_string().as_str()),
        (52, OUTSIDE[0])
    );
    assert_eq!(packet[20..24], [0x9c, 0x40, 0, 80]);
    drop((outside, inside));
    scene.must_clear_to(&before);
}

#[test]
fn a_port_published_on_the_loopback_is_not_reached_from_the_wire_even_with_crafted_packets() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let args = [
        "--network",
        "net",
        "-p",
        "127.0.0.1:8080:80",
        "-p",
        "[::1]:8080:80",
        "-p",
        "127.0.0.1:5353:53/udp",
    ];
    let _web = server(&scene, "web", &args);
    let (outside, host) = (scene.outside.spaces(), scene.host.spaces());
    // A neighbour whose own loopback addresses are out of the way sends to the host's.
    let old = |spaces: &Spaces| {
        spaces.run(
            "sh",
            &["-c", "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local;
               ip -6 route del local ::1 dev lo table local; ip address flush dev lo;
               sysctl -qw net.ipv4.conf.all.route_localnet=1;
               ip route add 127.0.0.1/32 via 192.0.2.2 src 192.0.2.1; ip -6 route add ::1/128 via 2001:db8::2"],
        );
    };
    old(outside);
    must_go(&[
        tcp("the host", host, "127.0.0.1:8080", seen_as("10.60.0.1")),
        tcp("the host", host, "[::1]:8080", seen_as("fd60::1")),
        udp("the host", host, "127.0.0.1:5353", seen_as("10.60.0.1")),
        tcp("the wire, crafted", outside, "127.0.0.1:8080", Fate::Lost),
        tcp("the wire, crafted", outside, "[::1]:8080", Fate::Lost),
        udp("the wire, crafted", outside, "127.0.0.1:5353", Fate::Lost),
        tcp(
            "the wire, the host's address",
            outside,
            "192.0.2.2:8080",
            Fate::Lost,
        ),
    ]);
    scene.must_clear_to(&before);
}

/// The host ports that `tombolo endpoints` shows for a container's port.
fn host_ports(scene: &system_tests::Scene, port: u16) -> Vec<(String, u16)> {
    let endpoints = scene.tombolo().cli(&["endpoints"]);
    let published = endpoints
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|e| e["published"].as_array().unwrap().clone());
    let of_port = published.filter(|p| p["port"] == port);
    let row = |p: serde_json::Value| {
        (
            p["host_ip"].as_str().unwrap().to_owned(),
            p["host_port"].as_u64().unwrap() as u16,
        )
    };
    of_port.map(row).collect()
}

#[test]
fn an_ephemeral_port_is_free_in_range_and_the_same_for_both_families() {
    let (scene, before) = scene();
    // Four ports to choose from, two of which the host uses: one for IPv4 only, one for IPv6 only.
    scene.host.sysctl("net/ipv4/ip_local_port_range", "40000 40003");
    let _v4 = Answerer::tcp(scene.host.spaces(), "192.0.2.2:40000");
    let _v6 = Answerer::tcp(scene.host.spaces(), "[2001:db8::2]:40001");
    scene.network("net", &DUAL);
    let web = server(&scene, "web", &["--network", "net", "-p", "80", "-p", "81"]);
    let mut all = Vec::new();
    for port in [80, 81] {
        let found = host_ports(&scene, port);
        let (hosts, ports): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        assert_eq!(hosts, ["0.0.0.0", "::"]);
        assert_eq!(ports[0], ports[1], "one port for both families");
        all.push(ports[0]);
        must_go(&[tcp(
            "outside",
            scene.outside.spaces(),
            at(HOST[0], ports[0]),
            seen_as(OUTSIDE[0]),
        )]);
    }
    all.sort_unstable();
    assert_eq!(all, [40002, 40003]);
    let refused = scene.try_docker(&[
        "run",
        "-d",
        "--network",
        "net",
        "-p",
        "82",
        "busybox",
        "sleep",
        "60",
    ]);
    refused.must_fail_with(&["40000-40003"]);
    drop(web);
    scene.must_clear_to(&before);
}

#[test]
fn all_exposed_ports_are_published_on_demand() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let args = ["--network", "net", "-P", "--expose", "80", "--expose", "53/udp"];
    let _web = server(&scene, "web", &args);
    let (tcp_port, udp_port) = (host_ports(&scene, 80)[0].1, host_ports(&scene, 53)[0].1);
    let outside = scene.outside.spaces();
    must_go(&[
        tcp("outside", outside, at(HOST[0], tcp_port), seen_as(OUTSIDE[0])),
        udp("outside", outside, at(HOST[1], udp_port), seen_as(OUTSIDE[1])),
    ]);
    scene.must_clear_to(&before);
}

#[test]
fn a_conflict_names_who_holds_the_port() {
    let (scene, before) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    scene.container("holder", &["--network", "net", "-p", "8080:80"]);
    // The engine's names are learned in the background.
    system_tests::until("the container's name is known", || {
        scene
            .tombolo()
            .cli(&["endpoints"])
            .to_string()
            .contains("\"holder\"")
            .then_some(())
    });
    let run = |port: &str| {
        scene.try_docker(&[
            "run",
            "-d",
            "--name",
            "late",
            "--network",
            "net",
            "-p",
            port,
            "busybox",
            "true",
        ])
    };
    run("8080:80").must_fail_with(&["8080/tcp", "container holder"]);
    scene.docker(&["rm", "-f", "late"]);
    let place = Spaces::of_process(scene.host.holder_pid());
    // Every Debian has a perl that can listen.
    let listen = "use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 1, LocalPort => 8099) or die; sleep 3600";
    let mut listener = std::process::Command::new("perl");
    listener.args(["-e", listen]);
    let mut listener = place.enter(move || listener.spawn()).unwrap();
    system_tests::until("a process listens on 8099", || {
        scene.host.run("ss", &["-tln"]).contains(":8099").then_some(())
    });
    run("8099:80").must_fail_with(&["8099/tcp", "perl (pid "]);
    listener.kill().unwrap();
    listener.wait().unwrap();
    scene.must_clear_to(&before);
}

#[test]
fn an_address_and_all_addresses_are_not_both_published_at_one_port() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let _one = server(&scene, "one", &["--network", "net", "-p", "192.0.2.2:8080:80"]);
    let _two = server(&scene, "two", &["--network", "net", "-p", "127.0.0.1:8080:81"]);
    let refused = scene.try_docker(&[
        "run",
        "-d",
        "--network",
        "net",
        "-p",
        "8080:80",
        "busybox",
        "true",
    ]);
    refused.must_fail_with(&["8080/tcp"]);
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("the specific address still answers");
    scene.must_clear_to(&before);
}

#[test]
fn the_default_binding_of_the_host_and_of_a_network_are_obeyed() {
    let settings = [("TOMBOLO_HOST_BINDING", "127.0.0.1")];
    let scene = system_tests::Scene::staged(&system_tests::Staging {
        settings: &settings,
        ..system_tests::Staging::default()
    });
    let before = scene.snapshot();
    scene.network("inner", &["--subnet", "10.60.0.0/24"]);
    scene.network(
        "wire",
        &[
            "--subnet",
            "10.61.0.0/24",
            "-o",
            "com.docker.network.bridge.host_binding_ipv4=192.0.2.2",
        ],
    );
    let _inner = server(
        &scene,
        "inner",
        &["--network", "inner", "-p", "8080:80", "-p", "0.0.0.0:8082:80"],
    );
    let _wire = server(&scene, "wire", &["--network", "wire", "-p", "8081:80"]);
    let (outside, host) = (scene.outside.spaces(), scene.host.spaces());
    must_go(&[
        tcp("the host's default: here", host, "127.0.0.1:8080", Fate::Answered),
        tcp(
            "the host's default: not from outside",
            outside,
            "192.0.2.2:8080",
            Fate::Lost,
        ),
        tcp("the user's own word", outside, "192.0.2.2:8082", Fate::Answered),
        tcp("the network's own", outside, "192.0.2.2:8081", Fate::Answered),
        tcp(
            "the network's own: not on the loopback",
            host,
            "127.0.0.1:8081",
            Fate::Lost,
        ),
    ]);
    scene.must_clear_to(&before);
}

#[test]
fn the_engine_publishes_where_that_is_chosen_and_lists_it() {
    let (scene, _) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24", "-o", "ports=docker"]);
    let web = server(&scene, "web", &["--network", "net", "-p", "8080:80"]);
    let two = scene.container("two", &["--network", "net"]);
    let listed = scene.docker(&["ps", "--filter", "name=web", "--format", "{{.Ports}}"]);
    assert!(listed.contains("0.0.0.0:8080->80/tcp"), "{listed}");
    assert!(two.pings("web") && web.container.pings("two"));
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("the engine's port");
    assert!(host_ports(&scene, 80).is_empty(), "not ours as well");
    scene.clear();
}
