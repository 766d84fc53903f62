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
use std::time::Duration;

use serde_json::Value;
use system_tests::outside::{HOST, OUTSIDE};
use system_tests::{Answerer, Container, Scene, Spaces, ask_tcp, ask_tcp_for, ask_udp, json, say, until};

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
    fate(asked)
}

fn fate(asked: std::io::Result<IpAddr>) -> Fate {
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

/// The same where it may be unsure, which it then must say.
#[track_caller]
fn must_not_lie(scene: &Scene, args: &[&str], from: &Spaces, sure: bool, what: &str) {
    let traced = trace(scene, args);
    let target = args[args.len() - 1].trim_end_matches("/tcp");
    let mut real = fate(ask_tcp_for(Duration::from_secs(1), from, target));
    let unsure = traced["fate"] == "unsure";
    // The damage before may have left a neighbour that must be asked for once more.
    if !unsure && real == Fate::Lost && told(&traced) != real {
        real = fate(ask_tcp(from, target));
    }
    say(&format!(
        "{what}: {real:?}{}",
        if unsure { ", unsure" } else { "" }
    ));
    assert_eq!(unsure, !sure, "{what}: {real:?} in truth\n{traced:#}");
    if unsure {
        assert!(!json::text(&traced, "/why").is_empty());
    } else {
        assert_eq!(
            told(&traced),
            real,
            "{what}: told (left) and real (right)\n{traced:#}"
        );
    }
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
    for (from, target) in [
        ("127.0.0.1", "127.0.0.1:8080/tcp"),
        ("::1", "[::1]:8080/tcp"),
        ("127.0.0.1", "127.0.0.1:9000/tcp"),
        ("::1", "[::1]:9000/tcp"),
        ("10.81.0.1", "10.81.0.3:80/tcp"),
    ] {
        let own = trace(scene, &["--from", from, target]);
        let asked = real(scene.host.spaces(), target);
        assert_eq!(told(&own), asked, "on the host itself\n{own:#}");
    }
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

fn sh(place: &Spaces, script: &str) {
    place.run("sh", &["-ec", script]);
}

/// Commands that do something, and those that undo it.
type Damage = (String, String);

/// Who asks.
#[derive(Clone, Copy)]
enum Asker {
    Web,
    Outside,
    Host,
}

#[test]
fn what_others_put_in_the_way_is_told_as_it_happens() {
    use Asker::{Host, Outside, Web};
    let lab = lab();
    let Lab { scene, web, app, .. } = &lab;
    let (out, host) = (format!("{}:80/tcp", OUTSIDE[0]), &scene.host);
    let app_port = format!("{}:80/tcp", app.ip("front"));
    let published = format!("{}:8080/tcp", HOST[0]);
    let port = |container: &Container| {
        let rows = scene.tombolo().cli(&["endpoints"]);
        let row = json::rows(&rows)
            .iter()
            .find(|row| row["container_name"] == container.name())
            .cloned()
            .unwrap();
        json::text(&row, "/host_link").to_owned()
    };
    let bridge = {
        let rows = scene.tombolo().cli(&["networks"]);
        let row = json::rows(&rows)
            .iter()
            .find(|row| row["name"] == "front")
            .cloned()
            .unwrap();
        json::text(&row, "/bridge").to_owned()
    };
    let (web_port, app_port_name) = (port(web), port(app));
    let chain = |family: &str, hook: &str, rule: &str| {
        format!(
            "nft add table {family} adm; nft add chain {family} adm c '{{ type filter hook {hook} priority 10; }}'; nft add rule {family} adm c {rule}"
        )
    };
    let gone = |family: &str| format!("nft delete table {family} adm");
    let nft = |family: &str, hook: &str, rule: &str| (chain(family, hook, rule), gone(family));
    let iptables = |rule: &str| {
        (
            format!("iptables {}", rule.replace("-X", "-I")),
            format!("iptables {}", rule.replace("-X", "-D")),
        )
    };
    let plain = |there: &str, back: &str| (there.to_owned(), back.to_owned());
    let route = |route: &str| {
        let with = |act: &str| format!("ip route {act} {route}");
        (with("add"), with("delete"))
    };
    let unforwarded = |link: &str| {
        let with = |number: u8| format!("sysctl -qw net.ipv4.conf.{link}.forwarding={number}");
        (with(0), with(1))
    };
    let cases: Vec<(&str, Damage, Asker, &str, bool)> = vec![
        (
            "a limit on the rate",
            nft("ip", "forward", "limit rate over 10000/second drop"),
            Web,
            &out,
            true,
        ),
        (
            "a quota that is not used up",
            nft("ip", "forward", "quota over 100 mbytes drop"),
            Web,
            &out,
            true,
        ),
        (
            "a limit on connections",
            nft("ip", "forward", "ct count over 20 reject"),
            Web,
            &out,
            false,
        ),
        (
            "a limit on each sender's rate",
            (
                chain("ip", "forward", "accept").replace(
                    "nft add rule ip adm c accept",
                    "nft add set ip adm m '{ type ipv4_addr; flags dynamic; size 100; }'; \
                     nft add rule ip adm c update @m '{ ip saddr limit rate over 1000/second }' drop",
                ),
                gone("ip"),
            ),
            Web,
            &out,
            true,
        ),
        (
            "no tracking",
            (
                chain("ip", "prerouting", "notrack").replace("priority 10", "priority -300"),
                gone("ip"),
            ),
            Web,
            &out,
            false,
        ),
        (
            "a table that is switched off",
            (
                format!(
                    "{}; nft add table ip adm '{{ flags dormant; }}'",
                    chain("ip", "forward", "drop")
                ),
                gone("ip"),
            ),
            Web,
            &out,
            true,
        ),
        (
            "a time to live of one",
            iptables("-t mangle -X FORWARD -j TTL --ttl-set 1"),
            Web,
            &out,
            false,
        ),
        (
            "a limit of iptables'",
            iptables("-X DOCKER-USER -m hashlimit --hashlimit-above 9/sec --hashlimit-name x -j DROP"),
            Web,
            &out,
            true,
        ),
        (
            "an unknown match",
            iptables("-X DOCKER-USER -m statistic --mode nth --every 1 --packet 0 -j DROP"),
            Web,
            &out,
            false,
        ),
        (
            "flags of TCP",
            iptables("-X DOCKER-USER -p tcp --syn -j DROP"),
            Web,
            &out,
            true,
        ),
        (
            "frames from a port",
            nft(
                "bridge",
                "prerouting",
                &format!("iifname {web_port} ip protocol tcp drop"),
            ),
            Web,
            &out,
            true,
        ),
        (
            "frames to the host",
            nft(
                "bridge",
                "input",
                &format!("iifname {web_port} ip protocol tcp drop"),
            ),
            Web,
            &out,
            true,
        ),
        (
            "frames from the host",
            nft(
                "bridge",
                "output",
                &format!("oifname {app_port_name} ip protocol tcp drop"),
            ),
            Outside,
            &published,
            true,
        ),
        (
            "frames to a port",
            nft(
                "bridge",
                "postrouting",
                &format!("oifname {app_port_name} ip protocol tcp drop"),
            ),
            Outside,
            &published,
            true,
        ),
        (
            "frames to another port",
            nft(
                "bridge",
                "postrouting",
                &format!("oifname {web_port} ip protocol tcp drop"),
            ),
            Outside,
            &published,
            true,
        ),
        (
            "a bridge's own ingress",
            nft(
                "netdev",
                &format!("ingress device {bridge}"),
                "ip protocol tcp drop",
            ),
            Web,
            &out,
            true,
        ),
        (
            "the wire's egress",
            nft("netdev", "egress device wire0", "ip protocol tcp drop"),
            Web,
            &out,
            true,
        ),
        (
            "the wire's ingress",
            nft("netdev", "ingress device wire0", "ip protocol tcp drop"),
            Web,
            &out,
            true,
        ),
        (
            "another link's ingress",
            nft("netdev", "ingress device lo", "drop"),
            Web,
            &out,
            true,
        ),
        (
            "answers in prerouting",
            nft("ip", "prerouting", "iifname wire0 ct state established drop"),
            Web,
            &out,
            true,
        ),
        (
            "answers in postrouting",
            nft(
                "ip",
                "postrouting",
                &format!("oifname {bridge} ct state established drop"),
            ),
            Web,
            &out,
            true,
        ),
        (
            "answers to the host",
            nft("ip", "input", "iifname wire0 ct state established drop"),
            Host,
            &out,
            true,
        ),
        (
            "answers to the host, to others",
            nft("ip", "input", "iifname wire0 ct state established drop"),
            Web,
            &out,
            true,
        ),
        (
            "a blackhole for the container",
            route("blackhole 10.81.0.0/25"),
            Web,
            &out,
            true,
        ),
        (
            "a wire that forwards nothing",
            unforwarded("wire0"),
            Web,
            &out,
            true,
        ),
        (
            "a bridge that forwards nothing",
            unforwarded(&bridge),
            Web,
            &out,
            true,
        ),
        (
            "a route of the subnet that leads elsewhere",
            route("10.81.0.0/25 via 192.0.2.1"),
            Outside,
            &published,
            true,
        ),
        (
            "a redirection",
            iptables("-t nat -X PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 9000"),
            Web,
            &out,
            true,
        ),
        (
            "a translation that is not known",
            iptables("-t nat -X PREROUTING -d 192.0.2.1 -j NETMAP --to 192.0.2.1/32"),
            Web,
            &out,
            false,
        ),
        (
            "another address of the host's",
            plain(
                "ip address add 10.81.0.200/32 dev lo",
                "ip address delete 10.81.0.200/32 dev lo",
            ),
            Web,
            "10.81.0.200:9000/tcp",
            true,
        ),
    ];
    for (what, (put, take), asker, target, sure) in &cases {
        host.sh(put);
        match asker {
            Web => must_not_lie(scene, &["front", "web", target], &web.spaces(), *sure, what),
            Outside => must_not_lie(
                scene,
                &["--from", OUTSIDE[0], target],
                scene.outside.spaces(),
                *sure,
                what,
            ),
            Host => must_not_lie(scene, &["--from", HOST[0], target], host.spaces(), *sure, what),
        }
        host.sh(take);
    }

    // In the containers.
    let within = |what: &str, whose: &Container, (put, take): Damage, target: &str| {
        let place = whose.spaces();
        sh(&place, &put);
        must_not_lie(scene, &["front", "web", target], &web.spaces(), true, what);
        sh(&place, &take);
    };
    within(
        "the sender's own rules",
        web,
        nft("ip", "output", "tcp dport 80 drop"),
        &out,
    );
    within(
        "the sender's own rules about answers",
        web,
        nft("ip", "input", "ct state established drop"),
        &out,
    );
    within(
        "the receiver's own rules",
        app,
        nft("ip", "input", "tcp dport 80 drop"),
        &app_port,
    );
    let link = plain(
        "ip link set eth0 down",
        "ip link set eth0 up; ip route add default via 10.81.0.1",
    );
    within("the receiver's link", app, link, &app_port);
    let route = (
        "ip route delete default".to_owned(),
        "ip route add default via 10.81.0.1".to_owned(),
    );
    within("no default route, to a neighbour", app, route.clone(), &app_port);
    sh(&app.spaces(), &route.0);
    must_not_lie(
        scene,
        &["--from", OUTSIDE[0], &published],
        scene.outside.spaces(),
        true,
        "no default route",
    );
    sh(&app.spaces(), &route.1);
    let address = format!("{}/24", app.ip("front"));
    let lost = plain(
        &format!("ip address delete {address} dev eth0"),
        &format!("ip address add {address} dev eth0; ip route add default via 10.81.0.1"),
    );
    within("no address", app, lost, &app_port);
    sh(&app.spaces(), "sysctl -qw net.ipv4.icmp_echo_ignore_all=1");
    assert_eq!(trace(scene, &["front", "web", &app.ip("front")])["fate"], "dies");
    assert!(!web.pings(&app.ip("front")));
    sh(&app.spaces(), "sysctl -qw net.ipv4.icmp_echo_ignore_all=0");
    assert_eq!(
        trace(scene, &["front", "web", &app.ip("front")])["fate"],
        "arrives"
    );
}

#[test]
fn a_bridge_of_somebody_elses_and_ports_that_are_kept_apart_are_told_as_they_are() {
    let scene = Scene::new();
    let host = &scene.host;
    let lan = Spaces::new_network();
    let holder = host.holder_pid().to_string();
    lan.run(
        "ip",
        &[
            "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", &holder,
        ],
    );
    sh(
        &lan,
        "ip address add 10.77.0.100/24 dev lan0; ip link set lan0 up",
    );
    host.sh("ip link add br0 type bridge; ip address add 10.77.0.1/24 dev br0; ip link set br0 up");
    host.sh("ip link set lan0 master br0 up");
    scene.network(
        "ad",
        &[
            "-o",
            "bridge_name=br0",
            "--subnet",
            "10.77.0.0/24",
            "--gateway",
            "10.77.0.1",
        ],
    );
    scene.network("apart", &["-o", "icc=false", "--subnet", "10.78.0.0/24"]);
    let near = scene.container("near", &["--network", "ad", "-p", "8090:80"]);
    let one = scene.container("one", &["--network", "apart"]);
    let other = scene.container("other", &["--network", "apart", "-p", "8091:80"]);
    scene.names_are_known();
    let servers = [&near.spaces(), &other.spaces(), &lan].map(|place| Answerer::tcp(place, "[::]:80"));
    let published = format!("{}:8090/tcp", HOST[0]);
    let outside = scene.outside.spaces();
    let from_outside = ["--from", OUTSIDE[0], published.as_str()];
    must_not_lie(
        &scene,
        &from_outside,
        outside,
        true,
        "published on somebody else's bridge",
    );
    for (what, target) in [
        ("somebody else on the bridge", "10.77.0.100:80/tcp"),
        ("nobody on the bridge", "10.77.0.101:80/tcp"),
    ] {
        must_agree(&scene, "ad", &near, target, what);
    }
    let gone = trace(&scene, &["ad", "near", "10.77.0.100"]);
    assert_eq!(
        (&gone["fate"], &gone["at"]),
        (&"leaves".into(), &"bridge br0".into()),
        "{gone:#}"
    );
    // It has answered, and is gone: what is remembered of it proves nothing.
    sh(
        &lan,
        "ip link set lan0 down; ip address flush dev lan0; ip link set lan0 up",
    );
    must_agree(
        &scene,
        "ad",
        &near,
        "10.77.0.100:80/tcp",
        "somebody who was there",
    );

    let published = format!("{}:8091/tcp", HOST[0]);
    for calls in ["0", "1"] {
        host.sysctl("net/bridge/bridge-nf-call-iptables", calls);
        let what = format!("a neighbour's published port, frames pass IP rules: {calls}");
        must_agree(&scene, "apart", &one, &published, &what);
    }
    host.sysctl("net/bridge/bridge-nf-call-iptables", "0");
    drop(servers);
    // What listens for IPv6 only is not there for IPv4.
    let only = other.spaces().enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        socket.set_only_v6(true).unwrap();
        socket
            .bind(&"[::]:80".parse::<std::net::SocketAddr>().unwrap().into())
            .unwrap();
        socket.listen(1).unwrap();
        socket
    });
    must_agree(&scene, "apart", &one, &published, "a listener for IPv6 only");
    drop(only);
}

#[test]
fn wrong_words_are_answered_with_the_right_ones() {
    let lab = lab();
    let tombolo = lab.scene.tombolo();
    let engine = &lab.scene.engine;
    let off = lab.scene.container("off", &["--network", "front"]);
    engine.docker(&["stop", "-t", "0", off.name()]);
    engine.docker(&[
        "create",
        "--name",
        "idle",
        "--network",
        "front",
        json::text(&off.inspect(), "/Config/Image"),
    ]);
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
        (
            &["front", "idle", "192.0.2.1"],
            &["does not run", "docker start idle"],
        ),
        (
            &["front", "off", "192.0.2.1"],
            &["does not run", "docker start off"],
        ),
        (&["front", "web", "example.org"], &["ADDRESS", "no IP address"]),
        (&["front", "web", "192.0.2.1:0"], &["port 0"]),
        (&["front", "web"], &["NETWORK CONTAINER ADDRESS"]),
        (&["--from", "::1", "192.0.2.1"], &["one family"]),
        (&["front", "web", "192.0.2.1/udp"], &["protocol but no port"]),
        (&["--from", "192.0.2.1", "web", "192.0.2.1"], &["one ADDRESS"]),
    ] {
        let failed = tombolo
            .try_cli(&[&["trace"], args].concat())
            .must_fail_with(texts);
        // What is not known may be there later; what can't be a trace is wrong usage.
        let code = match texts[0] {
            "NETWORK" | "CONTAINER" | "not on network front" | "does not run" => 1,
            _ => 2,
        };
        assert_eq!(failed.code, Some(code), "{args:?}");
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
