//! `tombolo trace` against the fate of real packets: what it tells must be what happens.
//!
//! ```text
//!   outside 192.0.2.1 ── wire ── host ─┬─ front  web, app
//!     198.51.100.1 behind it           ├─ back   db
//!                                      ├─ inner  (internal) safe, vault
//!                                      └─ plain  (not masqueraded) bare
//! ```
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use serde_json::Value;
use system_tests::outside::{HOST, OUTSIDE};
use system_tests::{Answerer, Container, Scene, Spaces, ask_tcp, ask_udp, json, say, until};

/// What becomes of a packet, traced or real.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is answered; the other end sees this address.
    Answered(IpAddr),
    /// The sender is told that nobody listens.
    Refused,
    /// It is lost.
    Lost,
}

/// What really becomes of one.
fn real(place: &Spaces, target: &str) -> Fate {
    let (server, protocol) = target.split_once('/').unwrap();
    let asked = match protocol {
        "udp" => ask_udp(place, server),
        _ => ask_tcp(place, server),
    };
    match asked {
        Ok(seen) => Fate::Answered(seen),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Fate::Refused,
        Err(_) => Fate::Lost,
    }
}

fn trace(scene: &Scene, args: &[&str]) -> Value {
    scene.tombolo().cli(&[&["trace"], args].concat())
}

/// What is told of one.
fn told(trace: &Value) -> Fate {
    match json::text(trace, "/fate") {
        "arrives" | "leaves" => Fate::Answered(json::text(trace, "/seen_as").parse().unwrap()),
        "refused" => Fate::Refused,
        "dies" => Fate::Lost,
        other => panic!("{other}: {trace:#}"),
    }
}

/// Compares what is told with what happens, and gives what was told.
#[track_caller]
fn must_agree(scene: &Scene, network: &str, from: &Container, target: &str, what: &str) -> Value {
    let traced = trace(scene, &[network, from.name(), target]);
    let (told, real) = (told(&traced), real(&from.spaces(), target));
    say(&format!("{what}: {real:?}"));
    assert_eq!(told, real, "{what}: told (left) and real (right)\n{traced:#}");
    traced
}

#[track_caller]
fn must_die_at(trace: &Value, at: &str, remedy: &str) {
    assert_eq!(trace["fate"], "dies", "{trace:#}");
    assert!(
        json::text(trace, "/at").contains(at),
        "'{at}' is not where it dies: {trace:#}"
    );
    assert!(
        json::text(trace, "/remedy").contains(remedy),
        "'{remedy}' is not what to do: {trace:#}"
    );
}

struct Lab {
    scene: Scene,
    web: Container,
    app: Container,
    db: Container,
    safe: Container,
    vault: Container,
    bare: Container,
    servers: Vec<Answerer>,
}

fn lab() -> Lab {
    let scene = Scene::new();
    let network = |name: &str, number: u8, more: &[&str]| {
        let subnets = [format!("10.8{number}.0.0/24"), format!("fd8{number}::/64")];
        let args = [
            "--ipv6",
            "--subnet",
            subnets[0].as_str(),
            "--subnet",
            subnets[1].as_str(),
        ];
        scene.network(name, &[&args, more].concat());
    };
    network("front", 1, &[]);
    network("back", 2, &[]);
    network("inner", 3, &["--internal"]);
    network("plain", 4, &["-o", "masquerade=false"]);
    let run = |name: &str, network: &str, more: &[&str]| {
        scene.container(name, &[&["--network", network], more].concat())
    };
    let web = run("web", "front", &[]);
    let app = run("app", "front", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let db = run("db", "back", &["-p", "8081:80"]);
    let (safe, vault) = (run("safe", "inner", &[]), run("vault", "inner", &[]));
    let bare = run("bare", "plain", &[]);
    let outside = scene.outside.spaces();
    outside.run("ip", &["address", "add", "198.51.100.1/32", "dev", "lo"]);
    // The outside knows the way back to one network, which is not masqueraded.
    outside.run("ip", &["route", "add", "10.84.0.0/24", "via", HOST[0]]);
    let mut servers = vec![
        Answerer::tcp(outside, "[::]:80"),
        Answerer::udp(outside, "[::]:53"),
        Answerer::tcp(scene.host.spaces(), "[::]:9000"),
    ];
    for container in [&app, &db, &vault] {
        servers.push(Answerer::tcp(&container.spaces(), "[::]:80"));
        servers.push(Answerer::udp(&container.spaces(), "[::]:53"));
    }
    until("names are known", || {
        let shown = scene.tombolo().cli(&["endpoints"]);
        let named = json::rows(&shown)
            .iter()
            .filter(|e| e["container_name"].is_string());
        (named.count() == 6).then_some(())
    });
    Lab {
        scene,
        web,
        app,
        db,
        safe,
        vault,
        bare,
        servers,
    }
}

#[test]
fn what_is_told_is_what_happens() {
    let lab = lab();
    let Lab {
        scene,
        web,
        app,
        db,
        safe,
        vault,
        bare,
        servers,
    } = &lab;
    assert!(!servers.is_empty());
    let (out4, out6, host) = (OUTSIDE[0], OUTSIDE[1], HOST[0]);
    let (app4, app6, db4, db6) = (app.ip("front"), app.ip6("front"), db.ip("back"), db.ip6("back"));
    let gateway = "10.81.0.1";
    let cases: Vec<(&str, &str, &Container, String)> = vec![
        ("same network", "front", web, format!("{app4}:80/tcp")),
        ("same network, IPv6", "front", web, format!("[{app6}]:80/tcp")),
        ("same network, UDP", "front", web, format!("{app4}:53/udp")),
        (
            "same network, nobody listens",
            "front",
            web,
            format!("{app4}:81/tcp"),
        ),
        (
            "same network, nobody is there",
            "front",
            web,
            "10.81.0.99:80/tcp".to_owned(),
        ),
        ("another network", "front", web, format!("{db4}:80/tcp")),
        ("another network, IPv6", "front", web, format!("[{db6}]:80/tcp")),
        (
            "within an internal network",
            "inner",
            safe,
            format!("{}:80/tcp", vault.ip("inner")),
        ),
        (
            "out of an internal network",
            "inner",
            safe,
            format!("{out4}:80/tcp"),
        ),
        (
            "into an internal network",
            "front",
            web,
            format!("{}:80/tcp", vault.ip("inner")),
        ),
        ("outside, masqueraded", "front", web, format!("{out4}:80/tcp")),
        (
            "outside, masqueraded, IPv6",
            "front",
            web,
            format!("[{out6}]:80/tcp"),
        ),
        (
            "outside, masqueraded, UDP",
            "front",
            web,
            format!("{out4}:53/udp"),
        ),
        (
            "outside, not masqueraded",
            "plain",
            bare,
            format!("{out4}:80/tcp"),
        ),
        (
            "outside, behind a router",
            "front",
            web,
            "198.51.100.1:80/tcp".to_owned(),
        ),
        (
            "outside, nobody is there",
            "front",
            web,
            "192.0.2.77:80/tcp".to_owned(),
        ),
        (
            "published by a neighbour",
            "front",
            web,
            format!("{host}:8080/tcp"),
        ),
        (
            "published by a neighbour, by the gateway's address",
            "front",
            web,
            format!("{gateway}:8080/tcp"),
        ),
        (
            "published by another network",
            "front",
            web,
            format!("{host}:8081/tcp"),
        ),
        (
            "published by another network, UDP",
            "back",
            db,
            format!("{host}:5353/udp"),
        ),
        ("published by itself", "front", app, format!("{host}:8080/tcp")),
        ("the host itself", "front", web, format!("{host}:9000/tcp")),
        (
            "the host itself, by the gateway's address",
            "front",
            web,
            format!("{gateway}:9000/tcp"),
        ),
        (
            "a port of the host that nobody has",
            "front",
            web,
            format!("{host}:9001/tcp"),
        ),
        ("itself", "front", app, format!("{app4}:80/tcp")),
    ];
    for (what, network, from, target) in &cases {
        must_agree(scene, network, from, target, what);
    }

    // Where and why, for some of them.
    let dies = |network: &str, from: &Container, to: &str| trace(scene, &[network, from.name(), to]);
    must_die_at(
        &dies("front", web, &format!("{db4}:80")),
        "inet tombolo forward",
        "docker network connect back",
    );
    must_die_at(&dies("inner", safe, out4), "container safe", "internal");
    must_die_at(&dies("front", web, "10.81.0.99"), "bridge", "tombolo endpoints");
    let published = trace(scene, &["front", "web", &format!("{host}:8081")]);
    assert_eq!(published["at"], "container db", "{published:#}");
    let hops = published["hops"].to_string();
    assert!(
        hops.contains("publish4") && hops.contains("10.82.0."),
        "the element is shown: {hops}"
    );

    // From outside.
    let outside = scene.outside.spaces();
    outside.run("ip", &["route", "add", "10.81.0.0/24", "via", HOST[0]]);
    for (what, target) in [
        ("in, by a published port", format!("{host}:8080/tcp")),
        ("in, by a published port, UDP", format!("{host}:5353/udp")),
        ("in, straight to a container", format!("{app4}:80/tcp")),
        ("in, to the host itself", format!("{host}:9000/tcp")),
        ("in, to a port that nobody has", format!("{host}:9001/tcp")),
    ] {
        let traced = trace(scene, &["--from", out4, &target]);
        assert_eq!(told(&traced), real(outside, &target), "{what}\n{traced:#}");
    }
    let own = trace(scene, &["--from", "127.0.0.1", "127.0.0.1:8080/tcp"]);
    let asked = real(scene.host.spaces(), "127.0.0.1:8080/tcp");
    assert_eq!(told(&own), asked, "on the host itself\n{own:#}");
}

#[test]
fn damage_on_the_way_is_told_as_it_happens() {
    let lab = lab();
    let Lab { scene, web, app, .. } = &lab;
    let (out, host) = (OUTSIDE[0], &scene.host);
    let target = format!("{out}:80/tcp");
    let agree = |what: &str| must_agree(scene, "front", web, &target, what);
    assert_eq!(agree("at first")["fate"], "leaves");

    // Somebody else's chain, by its policy and by a rule of its own; mended as it is printed.
    host.sh("nft add table ip adm; nft add chain ip adm fw '{ type filter hook forward priority 10; policy drop; }'");
    let dropped = agree("dropped by a policy");
    must_die_at(
        &dropped,
        "ip adm fw",
        "nft insert rule ip adm fw meta mark and 0x08000000 != 0 accept",
    );
    host.sh(json::text(&dropped, "/remedy"));
    assert_eq!(agree("mended as printed")["fate"], "leaves");
    host.sh("nft flush chain ip adm fw; nft add rule ip adm fw tcp dport 80 reject; nft add rule ip adm fw accept");
    assert_eq!(trace(scene, &["front", "web", &target])["fate"], "dies");
    assert_eq!(
        trace(scene, &["front", "web", &format!("{out}:81")])["fate"],
        "leaves"
    );
    host.sh("nft delete table ip adm");

    // Docker's chain of the administrator, in iptables' own words.
    host.sh("iptables -I DOCKER-USER -m conntrack --ctstate NEW -p tcp --dport 80 -j DROP");
    must_die_at(
        &agree("dropped in DOCKER-USER"),
        "ip filter FORWARD",
        "whoever made it",
    );
    host.sh("iptables -D DOCKER-USER -m conntrack --ctstate NEW -p tcp --dport 80 -j DROP");

    // Answers alone.
    host.sh(
        "nft add table inet adm; nft add chain inet adm fw '{ type filter hook forward priority 10; }'
             nft add rule inet adm fw iifname wire0 ct state established drop",
    );
    let answers = agree("answers are dropped");
    assert!(json::text(&answers, "/why").contains("answers"), "{answers:#}");
    host.sh("nft delete table inet adm");

    // Routes.
    host.sh("ip route add unreachable 198.51.100.1");
    must_agree(scene, "front", web, "198.51.100.1:80/tcp", "a route that refuses");
    host.sh("ip route delete unreachable 198.51.100.1");

    // A smaller packet on the way: what the container's kernel learns is what was told.
    host.sh("ip route add 198.51.100.1 via 192.0.2.1 mtu 1300");
    let traced = trace(scene, &["front", "web", "198.51.100.1:53/udp"]);
    let learnt = until("the container learns the path's MTU", || {
        web.spaces().enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // Refused as too large once it is known; that is what is waited for.
            socket.send_to(&[0; 1400], "198.51.100.1:53").ok();
        });
        let route = web.ip_json(&["route", "get", "198.51.100.1"]);
        route[0]["metrics"][0]["mtu"].as_u64()
    });
    assert_eq!(traced["path_mtu"], learnt, "{traced:#}");
    assert_eq!(trace(scene, &["front", "web", &target])["path_mtu"], 1500);
    host.sh("ip route delete 198.51.100.1");

    // Frames between containers, where those pass IP rules as well.
    let app_port = format!("{}:80/tcp", app.ip("front"));
    host.sysctl("net/bridge/bridge-nf-call-iptables", "1");
    must_agree(scene, "front", web, &app_port, "frames pass IP rules");
    host.sh("nft add table ip adm; nft add chain ip adm fw '{ type filter hook forward priority 10; policy drop; }'");
    must_agree(
        scene,
        "front",
        web,
        &app_port,
        "frames pass IP rules, which drop them",
    );
    host.sysctl("net/bridge/bridge-nf-call-iptables", "0");
    must_agree(scene, "front", web, &app_port, "frames pass no IP rules");
    host.sh("nft delete table ip adm");
}

#[test]
fn wrong_words_are_answered_with_the_right_ones() {
    let lab = lab();
    let tombolo = lab.scene.tombolo();
    for (args, texts) in [
        (
            &["frnt", "web", "192.0.2.1"][..],
            &["NETWORK", "did you mean front?", "back"][..],
        ),
        (
            &["front", "wep", "192.0.2.1"],
            &["CONTAINER", "did you mean web?"],
        ),
        (
            &["front", "db", "192.0.2.1"],
            &["not on network front", "docker network connect"],
        ),
        (&["front", "web", "example.org"], &["ADDRESS", "no IP address"]),
        (&["front", "web", "192.0.2.1:0"], &["port 0"]),
        (&["front", "web"], &["NETWORK CONTAINER ADDRESS"]),
        (&["--from", "::1", "192.0.2.1"], &["one family"]),
    ] {
        tombolo
            .try_cli(&[&["trace"], args].concat())
            .must_fail_with(texts);
    }
    let endpoint = tombolo.cli(&["endpoints"]);
    let web = json::rows(&endpoint)
        .iter()
        .find(|e| e["container_name"] == "web")
        .unwrap();
    let ids = [json::text(web, "/network_id"), json::text(web, "/endpoint_id")].map(|id| id[..20].to_owned());
    let container = json::text(&lab.web.inspect(), "/Id")[..12].to_owned();
    for (network, container) in [(ids[0].as_str(), ids[1].as_str()), ("front", container.as_str())] {
        let traced = trace(&lab.scene, &[network, container, "192.0.2.1"]);
        assert_eq!(traced["from"], "container web on network front");
    }
    let told = tombolo
        .try_cli(&["trace", "front", "web", "192.0.2.1:80"])
        .must()
        .stdout;
    assert!(
        told.lines()
            .last()
            .unwrap()
            .starts_with("LEAVES this host at link wire0"),
        "{told}"
    );
    assert!(told.contains("The other end sees 192.0.2.2."), "{told}");
}
