//! Beside the host's other firewall rules: obeyed, not changed, and back in time when they are swept away.

use std::time::{Duration, Instant};

use system_tests::outside::{HOST, OUTSIDE};
use system_tests::{Answerer, Scene, ask_tcp, ask_tcp_for, say, until};

use crate::ways::{DUAL, DUAL2, Fate, at, must_go, scene, seen_as, server, tcp, udp};

/// What a user sees of a network that works.
fn must_work(scene: &Scene, web: &crate::ways::Server) {
    let outside = scene.outside.spaces();
    let _out = Answerer::tcp(outside, "[::]:80");
    let host = scene.host.spaces();
    must_go(&[
        tcp("in", outside, at(HOST[0], 8080), seen_as(OUTSIDE[0])),
        tcp("in", outside, at(HOST[1], 8080), seen_as(OUTSIDE[1])),
        udp("in", outside, at(HOST[0], 5353), seen_as(OUTSIDE[0])),
        tcp("out", &web.place, at(OUTSIDE[0], 80), seen_as(HOST[0])),
        tcp("out", &web.place, at(OUTSIDE[1], 80), seen_as(HOST[1])),
        tcp("from the host", host, at("127.0.0.1", 8080), Fate::Answered),
        tcp("itself", &web.place, at(HOST[0], 8080), seen_as("10.60.0.1")),
    ]);
}

const WEB: [&str; 6] = ["--network", "net", "-p", "8080:80", "-p", "5353:53/udp"];

#[test]
fn the_administrators_own_chain_sees_sender_and_port_and_has_the_last_word() {
    let (scene, _) = scene();
    scene.network("net", &DUAL);
    let web = server(&scene, "web", &[&WEB[..], &["-p", "8081:80"]].concat());
    must_work(&scene, &web);
    let outside = scene.outside.spaces();
    scene.network("other", &DUAL2);
    let other = scene.container("other", &["--network", "other"]).spaces();
    let nft = |rule: &str| scene.host.run("nft", &[rule]);
    let rule = "insert rule inet tombolo-user published";
    // By the port that was asked for, which is not the container's.
    nft(&format!(
        "{rule} meta l4proto tcp ct original proto-dst 8080 drop"
    ));
    must_go(&[
        tcp("the port that is closed", outside, at(HOST[0], 8080), Fate::Lost),
        tcp(
            "the same from the same network",
            &web.place,
            at(HOST[0], 8080),
            Fate::Lost,
        ),
        tcp(
            "the same from another network",
            &other,
            at(HOST[1], 8080),
            Fate::Lost,
        ),
        tcp(
            "another port of the same container's",
            outside,
            at(HOST[0], 8081),
            seen_as(OUTSIDE[0]),
        ),
    ]);
    // By the sender.
    nft("flush chain inet tombolo-user published");
    nft(&format!("{rule} ip saddr {} drop", OUTSIDE[0]));
    must_go(&[
        tcp(
            "the sender that is closed out",
            outside,
            at(HOST[0], 8080),
            Fate::Lost,
        ),
        tcp("another sender", outside, at(HOST[1], 8080), seen_as(OUTSIDE[1])),
        tcp("the host", scene.host.spaces(), at(HOST[0], 8080), Fate::Answered),
    ]);
    // It is never touched: not by a restart, not by the end of the last network.
    scene.tombolo().kill();
    scene.tombolo().start_again();
    drop((web, other));
    scene.clear();
    let chain = nft("list chain inet tombolo-user published");
    assert!(chain.contains("192.0.2.1 drop"), "{chain}");
    // A file of his own that holds his chain alone serves as well.
    nft("delete table inet tombolo-user");
    nft(&format!(
        "add table inet tombolo-user; add chain inet tombolo-user published; \
         add rule inet tombolo-user published ip saddr {} drop",
        OUTSIDE[0]
    ));
    scene.network("net", &DUAL);
    let web = server(&scene, "web", &WEB);
    must_go(&[
        tcp("closed out", outside, at(HOST[0], 8080), Fate::Lost),
        tcp("not closed out", outside, at(HOST[1], 8080), seen_as(OUTSIDE[1])),
    ]);
    drop(web);
    scene.clear();
    // Without rules of the administrator's it goes with the last network.
    nft("flush chain inet tombolo-user published");
    scene.network("net", &DUAL);
    scene.clear();
    until("the table that nobody used is gone", || {
        let tables = scene.host.run("nft", &["list", "tables"]);
        (!tables.contains("tombolo")).then_some(())
    });
}

#[test]
fn a_default_drop_ruleset_needs_the_one_documented_line() {
    let (scene, _) = scene();
    scene.network("net", &DUAL);
    let web = server(&scene, "web", &WEB);
    scene.host.run(
        "nft",
        &["add table inet admin; add chain inet admin forward { type filter hook forward priority 0; policy drop; };
           add chain inet admin input { type filter hook input priority 0; policy drop; };
           add rule inet admin input ct state established,related accept;
           add rule inet admin input iifname lo accept;
           add rule inet admin input meta l4proto ipv6-icmp accept"],
    );
    let outside = scene.outside.spaces();
    must_go(&[tcp(
        "in, without the line",
        outside,
        at(HOST[0], 8080),
        Fate::Lost,
    )]);
    // As the README prints it.
    let readme = include_str!("../../../README.md");
    let line = "nft insert rule inet admin forward meta mark and 0x08000000 != 0 accept";
    assert!(readme.contains(line), "the README has the line");
    scene.host.run("nft", &[line.strip_prefix("nft ").unwrap()]);
    must_work(&scene, &web);
}

#[test]
fn an_internal_network_of_dockers_own_stays_internal() {
    let (scene, _) = scene();
    // The first network of Docker's own leaves an empty table behind.
    scene.docker(&["network", "create", "--subnet", "10.62.0.0/24", "closed"]);
    scene.container("short", &["--network", "closed"]).remove();
    scene.docker(&["network", "rm", "closed"]);
    let before = scene.snapshot();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    let web = server(&scene, "web", &["--network", "net", "-p", "8080:80"]);
    scene.docker(&[
        "network",
        "create",
        "--internal",
        "--subnet",
        "10.62.0.0/24",
        "closed",
    ]);
    scene.docker(&["network", "create", "--subnet", "10.63.0.0/24", "open"]);
    let [closed, open] = ["closed", "open"].map(|net| scene.container(net, &["--network", net]).spaces());
    for time in ["where Docker made its rules last", "where ours came last"] {
        must_go(&[
            tcp(time, &closed, "10.62.0.1:8080", Fate::Lost),
            tcp(time, &closed, at(HOST[0], 8080), Fate::Lost),
            tcp(time, &open, at(HOST[0], 8080), seen_as("10.60.0.1")),
        ]);
        scene
            .host
            .sh("iptables -S FORWARD | grep -e '--comment tombolo' | sed s/-A/-D/ | xargs -L1 iptables");
        until("our rule is back", || {
            let rules = scene.host.run("iptables", &["-S", "FORWARD"]);
            rules.contains("--comment tombolo").then_some(())
        });
    }
    drop((web, closed, open));
    scene.must_clear_to(&before);
}

#[test]
fn filtered_bridges_make_no_difference() {
    let (scene, before) = scene();
    for family in ["iptables", "ip6tables"] {
        scene
            .host
            .sysctl(&format!("net/bridge/bridge-nf-call-{family}"), "1");
    }
    scene.network("net", &DUAL);
    let web = server(&scene, "web", &WEB);
    let two = scene.container("two", &["--network", "net"]);
    must_work(&scene, &web);
    must_go(&[
        tcp(
            "a neighbour",
            &two.spaces(),
            at(&web.container.ip("net"), 80),
            seen_as(two.ip("net")),
        ),
        tcp(
            "a neighbour's port",
            &two.spaces(),
            at(HOST[0], 8080),
            seen_as("10.60.0.1"),
        ),
    ]);
    // An answer for ::1 can't come in here; so the port is not taken there, and whoever asks is told at once.
    until("the setting is seen", || {
        ask_tcp(scene.host.spaces(), "[::1]:8080")
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
            .then_some(())
    });
    scene.must_clear_to(&before);
}

/// Within what time our part must be back.
const BACK: Duration = Duration::from_secs(2);

/// How long one attempt waits: less than a lost packet takes to be sent again, which would count as ours.
const GLANCE: Duration = Duration::from_millis(300);

/// Does damage, and sees that within two seconds all works again, and that the repair was logged and counted.
fn must_be_repaired(scene: &Scene, web: &crate::ways::Server, what: &str, damage: impl FnOnce()) {
    let repairs = || {
        let status = scene.tombolo().cli(&["status"]);
        let counts = status["repairs"].as_object().unwrap().clone();
        counts.values().filter_map(serde_json::Value::as_u64).sum::<u64>()
    };
    let (before, log) = (repairs(), scene.tombolo().log().len());
    damage();
    let start = Instant::now();
    until(&format!("it works again after {what}"), || {
        ask_tcp_for(GLANCE, scene.outside.spaces(), "192.0.2.2:8080").ok()
    });
    let took = start.elapsed();
    say(&format!("{what}: back after {took:?}"));
    assert!(took < BACK, "{what}: back after {took:?}");
    must_work(scene, web);
    assert!(repairs() > before, "{what}: the repair is counted");
    let log = scene.tombolo().log().split_off(log);
    assert!(log.contains("repaired"), "{what}: the repair is logged: {log}");
}

#[test]
fn our_part_is_back_after_others_swept_the_rules_away() {
    let (scene, _) = scene();
    scene.network("net", &DUAL);
    let web = server(&scene, "web", &WEB);
    must_work(&scene, &web);
    let host = &scene.host;
    // More than once: the first could be noticed by the look that follows the making of the network.
    for time in ["", " again", " and again"] {
        must_be_repaired(&scene, &web, &format!("nft flush map{time}"), || {
            host.run("nft", &["flush", "map", "inet", "tombolo", "publish4_any"]);
        });
    }
    must_be_repaired(&scene, &web, "iptables -F", || {
        host.run("iptables", &["-F"]);
        host.run("ip6tables", &["-F"]);
    });
    must_be_repaired(&scene, &web, "iptables -P FORWARD DROP and -F", || {
        host.run("iptables", &["-P", "FORWARD", "DROP"]);
        host.run("iptables", &["-F", "FORWARD"]);
    });
    must_be_repaired(&scene, &web, "nft flush ruleset", || {
        host.run("nft", &["flush", "ruleset"]);
    });
    must_be_repaired(&scene, &web, "nft delete table", || {
        host.run("nft", &["delete", "table", "inet", "tombolo"]);
    });
    scene.clear();
}

#[test]
fn a_restart_of_the_engine_makes_its_chains_anew_and_ours_stands() {
    let scene = Scene::with_flags(&["--live-restore"]);
    scene.network("net", &DUAL);
    let web = server(&scene, "web", &WEB);
    must_work(&scene, &web);
    scene.host.run("iptables", &["-P", "FORWARD", "DROP"]);
    scene.engine.stop();
    scene.host.run("iptables", &["-F"]);
    scene.engine.start_again();
    until("our rule stands in the engine's new chain", || {
        let rules = scene.host.run("iptables", &["-S", "FORWARD"]);
        rules.contains("--comment tombolo").then_some(())
    });
    must_work(&scene, &web);
    let rules = scene.host.run("iptables", &["-S", "FORWARD"]);
    let place = |word: &str| rules.lines().position(|line| line.contains(word));
    assert!(
        place("DOCKER-USER") < place("--comment tombolo"),
        "the administrator's chain comes first: {rules}"
    );
    scene.clear();
}
