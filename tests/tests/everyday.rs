//! What everybody does with a network, on a real engine whose host drops what it forwards unless told otherwise.
//!
//! Each test ends by removing all it made and finding the host's links, routes, rules and pools as they were.

use system_tests::outside::{HOST, OUTSIDE};
use system_tests::{Answerer, Container, Scene, Snapshot, ask_tcp, ask_udp, until};

/// Two subnets, so that a network has both address families whatever the engine's default is.
const DUAL: [&str; 5] = ["--ipv6", "--subnet", "10.60.0.0/24", "--subnet", "fd60::/64"];

fn scene() -> (Scene, Snapshot) {
    let scene = Scene::new();
    let before = scene.snapshot();
    (scene, before)
}

/// Both containers answer pings of the other by name, over both families.
#[track_caller]
fn must_reach_each_other(one: &Container, two: &Container) {
    for (from, to) in [(one, two), (two, one)] {
        assert!(
            from.pings(to.name()),
            "{} pings {} by name",
            from.name(),
            to.name()
        );
        assert!(
            from.pings6(to.name()),
            "{} pings {} by name over IPv6",
            from.name(),
            to.name()
        );
    }
}

/// The container reaches the outside, which sees the host's address.
#[track_caller]
fn must_get_out(scene: &Scene, container: &Container) {
    let place = scene.outside.spaces();
    let (_tcp, _udp) = (Answerer::tcp(place, "[::]:80"), Answerer::udp(place, "[::]:53"));
    let from = container.spaces();
    for (server, host) in OUTSIDE.iter().zip(HOST) {
        let server = if server.contains(':') {
            format!("[{server}]")
        } else {
            (*server).to_owned()
        };
        let seen = ask_tcp(&from, &format!("{server}:80")).expect("the outside answers a connection");
        assert_eq!(
            seen.to_string(),
            host,
            "what the outside sees of a connection to {server}"
        );
        let seen = ask_udp(&from, &format!("{server}:53")).expect("the outside answers a datagram");
        assert_eq!(
            seen.to_string(),
            host,
            "what the outside sees of a datagram to {server}"
        );
    }
}

/// The container's ports 80 (TCP) and 53 (UDP), published as 8080 and 5353, are reached from everywhere.
#[track_caller]
fn must_be_published(scene: &Scene, container: &Container) {
    let place = container.spaces();
    let (_tcp, _udp) = (Answerer::tcp(&place, "[::]:80"), Answerer::udp(&place, "[::]:53"));
    let outside = scene.outside.spaces();
    for (host, client) in [
        (HOST[0].to_owned(), OUTSIDE[0]),
        (format!("[{}]", HOST[1]), OUTSIDE[1]),
    ] {
        let seen =
            ask_tcp(outside, &format!("{host}:8080")).expect("a published TCP port answers the outside");
        assert_eq!(seen.to_string(), client, "the container sees who asks at {host}");
        let seen =
            ask_udp(outside, &format!("{host}:5353")).expect("a published UDP port answers the outside");
        assert_eq!(seen.to_string(), client, "the container sees who asks at {host}");
    }
    for address in [HOST[0], "127.0.0.1"] {
        ask_tcp(scene.host.spaces(), &format!("{address}:8080"))
            .expect("a published TCP port answers its host");
        ask_udp(scene.host.spaces(), &format!("{address}:5353"))
            .expect("a published UDP port answers its host");
    }
}

#[test]
fn containers_reach_each_other_by_name_and_the_outside_through_the_host() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let (one, two) = (
        scene.container("one", &["--network", "net"]),
        scene.container("two", &["--network", "net"]),
    );
    must_reach_each_other(&one, &two);
    must_get_out(&scene, &one);
    scene.must_clear_to(&before);
}

#[test]
fn published_ports_are_reached_from_outside_and_from_the_host() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let web = scene.container("web", &["--network", "net", "-p", "8080:80", "-p", "5353:53/udp"]);
    must_be_published(&scene, &web);
    web.remove();
    let gone = ask_tcp(scene.outside.spaces(), &format!("{}:8080", HOST[0]))
        .expect_err("a port of a removed container");
    assert_eq!(
        gone.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "the host itself answers again: {gone}"
    );
    scene.must_clear_to(&before);
}

#[test]
fn a_port_published_on_one_address_is_reached_on_that_address_only() {
    let (scene, before) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    let args = [
        "--network",
        "net",
        "-p",
        "127.0.0.1:8081:80",
        "-p",
        "192.0.2.2:8082:80",
        "-p",
        "7000-7001:7000-7001",
    ];
    let web = scene.container("web", &args);
    let place = web.spaces();
    let _servers =
        ["0.0.0.0:80", "0.0.0.0:7000", "0.0.0.0:7001"].map(|address| Answerer::tcp(&place, address));
    let (outside, host) = (scene.outside.spaces(), scene.host.spaces());
    ask_tcp(host, "127.0.0.1:8081").expect("published on the loopback, asked there");
    ask_tcp(outside, "192.0.2.2:8081").expect_err("published on the loopback, asked from outside");
    ask_tcp(outside, "192.0.2.2:8082").expect("published on the wire, asked from outside");
    ask_tcp(outside, "192.0.2.2:7000").expect("first of a range");
    ask_tcp(outside, "192.0.2.2:7001").expect("last of a range");
    scene.must_clear_to(&before);
}

#[test]
fn a_port_that_is_not_published_is_not_reached_from_outside() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let web = scene.container("web", &["--network", "net", "-p", "8080:80"]);
    let place = web.spaces();
    let _servers = ["[::]:80", "[::]:81"].map(|address| Answerer::tcp(&place, address));
    let outside = scene.outside.spaces();
    // Somebody on the host's wire can send to the container's own address; nothing in front of the host helps.
    outside.run("ip", &["route", "add", "10.60.0.0/24", "via", HOST[0]]);
    outside.run("ip", &["route", "add", "fd60::/64", "via", HOST[1]]);
    ask_tcp(outside, &format!("{}:81", web.ip("net"))).expect_err("a port that is not published");
    ask_tcp(outside, &format!("[{}]:81", web.ip6("net")))
        .expect_err("a port that is not published, over IPv6");
    ask_tcp(outside, "192.0.2.2:8080").expect("the published one");
    scene.must_clear_to(&before);
}

#[test]
fn a_running_container_is_connected_and_disconnected() {
    let (scene, before) = scene();
    scene.network("first", &["--subnet", "10.60.0.0/24"]);
    scene.network("second", &["--subnet", "10.61.0.0/24"]);
    let one = scene.container("one", &["--network", "first", "-p", "8080:80"]);
    let two = scene.container("two", &["--network", "second"]);
    assert!(!one.pings("two"), "not on one network yet");
    for _ in 0..2 {
        scene.docker(&[
            "network",
            "connect",
            "--ip",
            "10.61.0.77",
            "--alias",
            "uno",
            "second",
            "one",
        ]);
        assert_eq!(one.ip("second"), "10.61.0.77");
        assert!(one.pings("two") && two.pings("one") && two.pings("uno"));
        scene.docker(&["network", "disconnect", "second", "one"]);
        assert!(!one.pings(&two.ip("second")) && !two.pings("uno"));
    }
    let _web = Answerer::tcp(&one.spaces(), "0.0.0.0:80");
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080")
        .expect("published through the network that was there all along");
    scene.must_clear_to(&before);
}

#[test]
fn a_container_has_the_addresses_that_were_chosen_for_it() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let mac = "02:00:00:00:00:55";
    let chosen = ["--ip", "10.60.0.55", "--ip6", "fd60::55", "--mac-address", mac];
    let one = scene.container("one", &[&["--network", "net"], &chosen[..]].concat());
    let two = scene.container("two", &["--network", "net"]);
    assert_eq!(
        (one.ip("net").as_str(), one.ip6("net").as_str()),
        ("10.60.0.55", "fd60::55")
    );
    let link = &one.ip_json(&["address", "show", "dev", "eth0"])[0];
    assert_eq!(link["address"], mac);
    let has = |address: &str| {
        link["addr_info"]
            .as_array()
            .is_some_and(|all| all.iter().any(|a| a["local"] == address))
    };
    assert!(has("10.60.0.55") && has("fd60::55"), "{link:#}");
    must_reach_each_other(&one, &two);
    let shown = two.on("net")["MacAddress"].clone();
    assert_eq!(
        two.ip_json(&["link", "show", "dev", "eth0"])[0]["address"],
        shown,
        "a MAC that we chose is shown"
    );
    scene.must_clear_to(&before);
}

#[test]
fn a_container_has_a_place_on_each_of_two_networks() {
    let (scene, before) = scene();
    scene.network("first", &["--subnet", "10.60.0.0/24"]);
    scene.network("second", &["--subnet", "10.61.0.0/24"]);
    let one = scene.container("one", &["--network", "first"]);
    let two = scene.container("two", &["--network", "second"]);
    scene.docker(&[
        "create",
        "--name",
        "both",
        "--network",
        "first",
        "busybox",
        "sleep",
        "3600",
    ]);
    scene.docker(&["network", "connect", "second", "both"]);
    scene.docker(&["start", "both"]);
    for other in ["one", "two"] {
        scene.docker(&["exec", "both", "ping", "-c", "1", "-W", "3", other]);
    }
    assert!(one.pings("both") && two.pings("both"));
    assert!(
        !one.pings(&two.ip("second")),
        "a common neighbour is no bridge between two networks"
    );
    scene.must_clear_to(&before);
}

#[test]
fn a_network_has_the_largest_packet_that_was_chosen() {
    let (scene, before) = scene();
    scene.network("net", &["-o", "com.docker.network.driver.mtu=1400"]);
    let (one, two) = (
        scene.container("one", &["--network", "net"]),
        scene.container("two", &["--network", "net"]),
    );
    for container in [&one, &two] {
        assert_eq!(
            container.ip_json(&["link", "show", "dev", "eth0"])[0]["mtu"],
            1400
        );
    }
    // 20 bytes of IP and 8 of ICMP go on top.
    assert!(
        one.try_exec(&["ping", "-c", "1", "-W", "3", "-s", "1372", "two"])
            .ok
    );
    scene.must_clear_to(&before);
}

#[test]
fn an_internal_network_has_no_way_out_or_in() {
    let (scene, before) = scene();
    scene.network("inner", &[&["--internal"], &DUAL[..]].concat());
    scene.network("open", &["--subnet", "10.61.0.0/24"]);
    let (one, two) = (
        scene.container("one", &["--network", "inner"]),
        scene.container("two", &["--network", "inner"]),
    );
    let other = scene.container("other", &["--network", "open"]);
    must_reach_each_other(&one, &two);
    let default_routes = |family| {
        one.ip_json(&[family, "route", "show", "default"])
            .as_array()
            .map(Vec::len)
    };
    assert_eq!((default_routes("-4"), default_routes("-6")), (Some(0), Some(0)));

    let outside = scene.outside.spaces();
    let _servers = [outside, &two.spaces(), &other.spaces()].map(|place| Answerer::tcp(place, "[::]:80"));
    // Whoever is root in a container can add a route, and whoever is on the wire as well: the host must not forward.
    one.spaces()
        .run("ip", &["route", "add", "default", "dev", "eth0"]);
    one.spaces()
        .run("ip", &["route", "add", "192.0.2.0/24", "via", "10.60.0.1"]);
    outside.run("ip", &["route", "add", "10.60.0.0/24", "via", HOST[0]]);
    ask_tcp(&one.spaces(), "192.0.2.1:80").expect_err("out");
    ask_tcp(outside, &format!("{}:80", two.ip("inner"))).expect_err("in");
    ask_tcp(&other.spaces(), &format!("{}:80", two.ip("inner"))).expect_err("in from another network");
    ask_tcp(&one.spaces(), &format!("{}:80", other.ip("open"))).expect_err("out to another network");
    scene.must_clear_to(&before);
}

#[test]
fn two_networks_are_apart() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network(
        "second",
        &["--ipv6", "--subnet", "10.61.0.0/24", "--subnet", "fd61::/64"],
    );
    let (one, two) = (
        scene.container("one", &["--network", "first"]),
        scene.container("two", &["--network", "second"]),
    );
    let _web = Answerer::tcp(&two.spaces(), "[::]:80");
    assert!(!one.pings("two"), "the name is not known");
    ask_tcp(&one.spaces(), &format!("{}:80", two.ip("second"))).expect_err("from one network into the other");
    ask_tcp(&one.spaces(), &format!("[{}]:80", two.ip6("second")))
        .expect_err("from one network into the other");
    scene.must_clear_to(&before);
}

#[test]
fn dockers_own_networks_are_reached_through_published_ports_only() {
    let (scene, _) = scene();
    scene.network("ours", &["--subnet", "10.60.0.0/24"]);
    scene.docker(&[
        "network",
        "create",
        "-d",
        "bridge",
        "--subnet",
        "10.62.0.0/24",
        "theirs",
    ]);
    let one = scene.container("one", &["--network", "ours"]);
    let two = scene.container("two", &["--network", "theirs", "-p", "8085:80"]);
    let _ours = Answerer::tcp(&one.spaces(), "[::]:80");
    let _theirs = [80, 81].map(|port| Answerer::tcp(&two.spaces(), &format!("[::]:{port}")));
    ask_tcp(&one.spaces(), &format!("{}:81", two.ip("theirs")))
        .expect_err("from ours straight into Docker's");
    ask_tcp(&two.spaces(), &format!("{}:80", one.ip("ours"))).expect_err("from Docker's straight into ours");
    ask_tcp(&one.spaces(), "192.0.2.2:8085").expect("a port that Docker has published");
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8085").expect("the same from outside");
    scene.clear();
}

#[test]
fn our_addresses_serve_dockers_own_bridge() {
    let (scene, before) = scene();
    scene.docker(&[
        "network",
        "create",
        "-d",
        "bridge",
        "--ipam-driver",
        "tombolo",
        "net",
    ]);
    let (one, two) = (
        scene.container("one", &["--network", "net"]),
        scene.container("two", &["--network", "net"]),
    );
    assert!(one.pings("two") && two.pings("one"));
    let pools = scene.tombolo().cli(&["pools"]);
    assert!(
        pools.to_string().contains(&one.ip("net")) && pools.to_string().contains(&two.ip("net")),
        "{pools:#}"
    );
    scene.clear();
    // The engine's own rules may stay: they are not ours to judge. Pools and links are.
    let after = scene.snapshot();
    for part in ["links", "routes", "pools"] {
        assert_eq!(before.part(part), after.part(part), "{part}");
    }
}

#[test]
fn our_networks_take_dockers_own_addresses() {
    let (scene, before) = scene();
    let driver = system_tests::scene::driver();
    scene.docker(&[
        "network",
        "create",
        "-d",
        &driver,
        "--ipv6",
        "--subnet",
        "fd60::/64",
        "net",
    ]);
    let (one, two) = (
        scene.container("one", &["--network", "net"]),
        scene.container("two", &["--network", "net"]),
    );
    must_reach_each_other(&one, &two);
    must_get_out(&scene, &one);
    scene.must_clear_to(&before);
}

#[test]
fn dockers_well_known_options_mean_what_they_mean_to_docker() {
    let (scene, before) = scene();
    let options = [
        "com.docker.network.bridge.name=demo0",
        "com.docker.network.bridge.enable_ip_masquerade=false",
        "com.docker.network.container_iface_prefix=net",
    ];
    let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
    scene.network("net", &[&["--subnet", "10.60.0.0/24"], &options[..]].concat());
    assert!(scene.host.try_run("ip", &["link", "show", "demo0"]).ok);
    let one = scene.container("one", &["--network", "net"]);
    assert_eq!(one.ip_json(&["link", "show", "dev", "net0"])[0]["ifname"], "net0");
    let outside = scene.outside.spaces();
    let _web = Answerer::tcp(outside, "0.0.0.0:80");
    outside.run("ip", &["route", "add", "10.60.0.0/24", "via", HOST[0]]);
    let seen = ask_tcp(&one.spaces(), "192.0.2.1:80").expect("the outside knows the way back");
    assert_eq!(seen.to_string(), one.ip("net"), "the address is not replaced");
    scene.must_clear_to(&before);
}

#[test]
fn options_that_cannot_be_are_refused_and_leave_nothing() {
    let (scene, before) = scene();
    for (option, reasons) in [
        ("mtuu=1400", &["mtuu", "did you mean mtu"][..]),
        (
            "com.docker.network.driver.mut=1400",
            &["com.docker.network.driver.mtu"],
        ),
        ("com.docker.network.driver.mtu=big", &["big", "mtu"]),
        ("type=macvlann", &["macvlann", "did you mean macvlan"]),
        ("type=overlay", &["overlay", "in no cluster"]),
        ("type=host-gateway", &["host-gateway", "in no cluster"]),
        ("type=brigde", &["brigde", "bridge"]),
    ] {
        scene.try_network("net", &["-o", option]).must_fail_with(reasons);
    }
    before.must_come_back(&scene.host, Some(scene.tombolo()));
}

#[test]
fn frames_that_iptables_sees_on_bridges_pass_as_well() {
    let (scene, before) = scene();
    scene.host.sysctl("net/bridge/bridge-nf-call-iptables", "1");
    scene.host.sysctl("net/bridge/bridge-nf-call-ip6tables", "1");
    scene.network("net", &DUAL);
    let one = scene.container("one", &["--network", "net", "-p", "8080:80", "-p", "5353:53/udp"]);
    let two = scene.container("two", &["--network", "net"]);
    assert_eq!(
        scene.host.sysctl_value("net/bridge/bridge-nf-call-iptables"),
        "1",
        "somebody else's setting stays"
    );
    must_reach_each_other(&one, &two);
    must_get_out(&scene, &two);
    must_be_published(&scene, &one);
    scene.must_clear_to(&before);
}

#[test]
fn the_example_for_compose_works_as_printed() {
    let (scene, before) = scene();
    scene.host.write(
        "/tmp/example/compose.yml",
        include_str!("../../examples/bridge/compose.yml"),
    );
    let compose = |args: &[&str]| scene.compose(&[&["-f", "/tmp/example/compose.yml"], args].concat());
    compose(&["up", "-d"]).must();
    until("the client reads the web server by its name", || {
        compose(&["logs", "client"])
            .must()
            .stdout
            .contains("hello from tombolo")
            .then_some(())
    });
    let page = scene
        .outside
        .spaces()
        .run("busybox", &["wget", "-q", "-O", "-", "http://192.0.2.2:8080/"]);
    assert_eq!(page, "hello from tombolo");
    compose(&["down"]).must();
    before.must_come_back(&scene.host, Some(scene.tombolo()));
}
