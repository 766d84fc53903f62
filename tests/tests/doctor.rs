//! `tombolo doctor` on a host that is damaged by hand: the right check turns bad, and what it says to do mends it.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::command::{LIMIT, run};
use system_tests::tombolo::INSIDE;
use system_tests::{Answerer, Container, Host, Output, Scene, json, say, until};

/// What doctor found. It ends with 1 where there is a fault.
fn examine(host: &Host, args: &[&str]) -> (Vec<Value>, Output) {
    let output = host.try_run(INSIDE, &[&["doctor", "--output", "json"], args].concat());
    let document = json::parse(&output.stdout);
    let findings = json::rows(&document["findings"]).to_vec();
    let faults = findings.iter().any(|finding| finding["verdict"] == "fault");
    assert_eq!(output.code, Some(i32::from(faults)), "{document:#}");
    (findings, output)
}

fn is_bad(finding: &Value) -> bool {
    finding["verdict"] == "fault" || finding["verdict"] == "warning"
}

/// The bad findings of a check.
fn bad(host: &Host, check: &str) -> Vec<Value> {
    let (findings, _) = examine(host, &[]);
    findings
        .into_iter()
        .filter(|finding| finding["check"] == check && is_bad(finding))
        .collect()
}

/// A host with two networks and a container on each.
fn lab() -> (Scene, Vec<Container>) {
    let scene = Scene::new();
    scene.network(
        "net",
        &["--ipv6", "--subnet", "10.91.0.0/24", "--subnet", "fd91::/64"],
    );
    scene.network("other", &["--subnet", "10.92.0.0/24"]);
    let containers = vec![
        scene.container("one", &["--network", "net", "-p", "8080:80"]),
        scene.container("two", &["--network", "net"]),
        scene.container("far", &["--network", "other"]),
    ];
    (scene, containers)
}

fn bridge(scene: &Scene, network: &str) -> String {
    until("the networks' names are known", || {
        let networks = scene.tombolo().cli(&["networks"]);
        let found = json::rows(&networks).iter().find(|n| n["name"] == network)?;
        Some(json::text(found, "/bridge").to_owned())
    })
}

fn host_link(scene: &Scene, container: &str) -> String {
    until("the containers' names are known", || {
        let endpoints = scene.tombolo().cli(&["endpoints"]);
        let found = json::rows(&endpoints)
            .iter()
            .find(|e| e["container_name"] == container)?;
        Some(json::text(found, "/host_link").to_owned())
    })
}

/// Damages the host until doctor sees it: the daemon looks every few seconds too, and may have mended it before.
#[track_caller]
fn must_see(scene: &Scene, check: &str, damage: &str) -> Value {
    let finding = until(&format!("{check} turns bad after: {damage}"), || {
        scene.host.sh(damage);
        bad(&scene.host, check).into_iter().next()
    });
    for key in ["evidence", "remedy"] {
        assert!(
            !json::text(&finding, &format!("/{key}")).is_empty(),
            "{finding:#}"
        );
    }
    finding
}

/// Damages the host, types what doctor says, and looks again.
#[track_caller]
fn must_mend(scene: &Scene, check: &str, damage: &str) -> Value {
    say(check);
    assert_eq!(
        bad(&scene.host, check),
        Vec::<Value>::new(),
        "bad before anything was done"
    );
    let finding = must_see(scene, check, damage);
    let command = finding["command"]
        .as_str()
        .unwrap_or_else(|| panic!("nothing to type: {finding:#}"));
    let typed = scene.host.try_run("sh", &["-c", command]);
    let after = bad(&scene.host, check);
    assert!(
        after.is_empty(),
        "'{command}' did not mend it: {after:#?}\n{}\n{}",
        typed.stdout,
        typed.stderr
    );
    finding
}

#[test]
fn a_well_host_gets_no_fault_and_each_check_says_something() {
    let (scene, _containers) = lab();
    // Names come from the engine, a moment later.
    bridge(&scene, "other");
    let (findings, output) = examine(&scene.host, &[]);
    let bad: Vec<&Value> = findings.iter().filter(|f| is_bad(f)).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(output.ok);
    let mut checks: Vec<&str> = findings.iter().map(|f| json::text(f, "/check")).collect();
    checks.dedup();
    assert_eq!(checks.len(), 50, "{checks:?}");
    let table = scene.tombolo().try_cli(&["doctor"]).must().stdout;
    assert!(
        table.ends_with("not applicable") && table.contains("0 faults, 0 warnings"),
        "{table}"
    );
    let before = scene.snapshot();
    examine(&scene.host, &[]);
    assert_eq!(
        before.differences(&scene.snapshot()),
        Vec::<String>::new(),
        "looking changes nothing"
    );
}

#[test]
fn what_is_damaged_is_found_and_mended_by_what_is_printed() {
    let (scene, containers) = lab();
    let net = bridge(&scene, "net");
    let two = host_link(&scene, "two");

    must_mend(&scene, "forwarding.ipv4", "sysctl -qw net.ipv4.ip_forward=0");
    must_mend(
        &scene,
        "forwarding.ipv6",
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
    );
    must_mend(
        &scene,
        "forwarding.rp-filter",
        &format!("sysctl -qw net.ipv4.conf.{net}.rp_filter=1"),
    );
    must_mend(&scene, "links.mtu", &format!("ip link set dev {two} mtu 1400"));

    // Somebody else's ruleset: a default drop, and one that is asked before tombolo's.
    let drop = |table: &str, priority: i32| {
        format!(
            "nft add table inet {table}; nft add chain inet {table} f '{{ type filter hook forward priority {priority}; policy drop; }}'"
        )
    };
    let foreign = must_mend(&scene, "firewall.foreign-chains", &drop("adm", 10));
    assert_eq!(
        foreign["command"],
        "nft insert rule inet adm f meta mark and 0x08000000 != 0 accept"
    );
    assert!(containers[0].pings("192.0.2.1"), "traffic flows as well");
    scene.host.sh("nft delete table inet adm");
    must_mend(&scene, "firewall.foreign-chains", &drop("early", -200));
    assert!(containers[0].pings("192.0.2.1"), "traffic flows as well");
    scene.host.sh("nft delete table inet early");

    // A ruleset that drops frames, or what leaves.
    let chain = |family: &str, hook: &str| {
        format!(
            "nft add table {family} adm; nft add chain {family} adm f '{{ type filter hook {hook} priority 10; policy drop; }}'"
        )
    };
    must_mend(&scene, "firewall.bridge-chains", &chain("bridge", "forward"));
    assert!(containers[0].pings("two"), "frames flow as well");
    scene.host.sh("nft delete table bridge adm");
    must_mend(&scene, "firewall.foreign-chains", &chain("inet", "postrouting"));
    assert!(containers[0].pings("192.0.2.1"), "traffic flows as well");
    scene.host.sh("nft delete table inet adm");

    // Links: their settings, and both of their ends.
    must_mend(
        &scene,
        "forwarding.ipv4",
        &format!("sysctl -qw net.ipv4.conf.{net}.forwarding=0"),
    );
    must_mend(&scene, "links.mtu", &format!("ip link set dev {net} mtu 1400"));
    must_mend(
        &scene,
        "links.state",
        &format!("bridge link set dev {two} state 0"),
    );
    let sandbox = containers[1].inspect()["NetworkSettings"]["SandboxKey"].clone();
    let inside = format!("nsenter --net={} ip link set dev eth0", sandbox.as_str().unwrap());
    must_mend(&scene, "links.mtu", &format!("{inside} mtu 1400"));
    let down = must_see(&scene, "links.state", &format!("{inside} down"));
    assert_eq!(down["command"], "docker restart two");
    scene.host.sh(&format!("{inside} up"));
    assert!(bad(&scene.host, "links.state").is_empty());

    // A process that has taken a port since it was published.
    let shared = {
        let _late = Answerer::tcp(scene.host.spaces(), "127.0.0.1:8080");
        must_see(&scene, "ports.listeners", "true")
    };
    assert!(
        json::text(&shared, "/evidence").contains("published for one: 0.0.0.0:8080/tcp"),
        "{shared:#}"
    );

    // An administrator's own drop before tombolo's accept: a second accept would not help, so none is printed.
    let shadowed = must_see(
        &scene,
        "firewall.forward-accept",
        "iptables -C DOCKER-USER -j DROP 2>/dev/null || iptables -I DOCKER-USER -j DROP",
    );
    assert!(shadowed["command"].is_null(), "{shadowed:#}");
    assert!(
        json::text(&shadowed, "/remedy").contains("DOCKER-USER"),
        "{shadowed:#}"
    );
    scene.host.sh("iptables -D DOCKER-USER -j DROP");
    assert!(bad(&scene.host, "firewall.forward-accept").is_empty());

    // Frames that tombolo itself keeps apart, on a bridge that was there before.
    scene
        .host
        .sh("ip link add br0 type bridge; sysctl -qw net.bridge.bridge-nf-call-iptables=1");
    let apart = [
        "-o",
        "bridge_name=br0",
        "-o",
        "icc=false",
        "--subnet",
        "10.94.0.0/24",
    ];
    scene.network("apart", &apart);
    assert_eq!(
        bad(&scene.host, "forwarding.br-netfilter"),
        Vec::<Value>::new(),
        "icc=false is no fault"
    );
    scene.host.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0");

    // Frames within a network that pass somebody's rules.
    scene.host.sh(&drop("adm", 10));
    must_mend(
        &scene,
        "forwarding.br-netfilter",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=1",
    );
    scene.host.sh("nft delete table inet adm");

    // What the daemon itself puts right.
    let address = format!("ip address delete 10.91.0.1/24 dev {net}");
    let fact = must_mend(&scene, "daemon.facts", &format!("{address} 2>/dev/null || true"));
    assert_eq!(fact["command"], "tombolo doctor --repair");
    must_mend(
        &scene,
        "daemon.leaks",
        "ip link add stray group 29807 type bridge 2>/dev/null || true",
    );
    assert!(!scene.host.try_run("ip", &["link", "show", "stray"]).ok);

    // Names that lead elsewhere.
    let spec = "mkdir -p /etc/docker/plugins; echo tcp://127.0.0.1:9 >/etc/docker/plugins/tombolo.spec";
    must_mend(&scene, "docker.plugin-name", spec);

    // What cannot be typed in a line is told all the same.
    let overlap = must_see(
        &scene,
        "addresses.overlap",
        "ip route replace 10.92.0.128/25 dev wire0",
    );
    assert!(
        json::text(&overlap, "/evidence").contains("10.92.0.128/25 on wire0"),
        "{overlap:#}"
    );
    scene.host.sh("ip route delete 10.92.0.128/25 dev wire0");
    must_see(
        &scene,
        "addresses.overlap",
        "ip route replace blackhole 10.92.0.128/25",
    );
    scene.host.sh("ip route delete blackhole 10.92.0.128/25");
    assert!(bad(&scene.host, "addresses.overlap").is_empty());
    let legacy = must_see(&scene, "firewall.legacy", "iptables-legacy -A FORWARD -j ACCEPT");
    assert!(
        json::text(&legacy, "/evidence").contains("ip filter"),
        "{legacy:#}"
    );
    scene.host.sh("iptables-legacy -F FORWARD");
    assert!(bad(&scene.host, "firewall.legacy").is_empty());
    assert!(containers[1].pings("one") && containers[0].pings("192.0.2.1"));
}

#[test]
fn repair_settles_at_once_and_tells_what_it_did() {
    let (scene, _containers) = lab();
    let net = bridge(&scene, "net");
    let (told, output) = until("the daemon repairs it because it was told to", || {
        scene.host.sh(&format!(
            "ip address delete 10.91.0.1/24 dev {net} 2>/dev/null || true"
        ));
        let output = scene.tombolo().try_cli(&["doctor", "--repair"]);
        output
            .stdout
            .contains("repaired ")
            .then(|| (output.stdout.clone(), output))
    });
    assert!(
        told.contains(&format!("ip address add 10.91.0.1/24 dev {net}")),
        "{told}"
    );
    assert!(output.ok && told.contains("0 faults"), "{told}");
    let nothing = scene.tombolo().try_cli(&["doctor", "--repair"]).must().stdout;
    assert!(
        nothing.contains("nothing that the daemon could repair"),
        "{nothing}"
    );
}

#[test]
fn it_says_what_it_can_without_the_daemon_docker_or_nft() {
    let (scene, containers) = lab();
    bridge(&scene, "net");
    // Without Docker.
    scene.engine.stop();
    assert_eq!(bad(&scene.host, "docker.engine").len(), 1);
    assert!(bad(&scene.host, "daemon.reachable").is_empty());
    scene.engine.start_again();
    assert!(bad(&scene.host, "docker.engine").is_empty());
    drop(containers);

    // Without the daemon: its own checks can't be told, the others can, and what it would put back can be typed.
    scene.network("again", &["--subnet", "10.93.0.0/24"]);
    let one = scene.container("again", &["--network", "again"]);
    scene.tombolo().kill();
    let (findings, output) = examine(&scene.host, &[]);
    let verdict = |check: &str| {
        let found = findings.iter().find(|f| f["check"] == check).unwrap();
        json::text(found, "/verdict").to_owned()
    };
    assert_eq!(verdict("daemon.reachable"), "fault");
    assert_eq!(
        verdict("docker.plugin-socket"),
        "fault",
        "a killed daemon leaves a socket that nobody listens on"
    );
    assert_eq!(verdict("daemon.facts"), "not-applicable");
    assert_eq!(verdict("addresses.overlap"), "ok", "no network overlaps itself");
    assert_eq!(verdict("docker.engine"), "ok");
    assert_eq!(output.code, Some(1));
    scene
        .host
        .sh("iptables -S FORWARD | grep -e '--comment tombolo' | sed 's/^-A/iptables -D/' | sh");
    assert!(!one.pings("192.0.2.1"), "nothing passes without the accept");
    let accept = bad(&scene.host, "firewall.forward-accept");
    let command = json::text(&accept[0], "/command");
    assert!(
        command.starts_with("iptables -I FORWARD 2 "),
        "behind the jump to DOCKER-USER: {command}"
    );
    scene.host.sh(command);
    assert!(bad(&scene.host, "firewall.forward-accept").is_empty() && one.pings("192.0.2.1"));
    scene.tombolo().start_again();
    assert!(bad(&scene.host, "daemon.reachable").is_empty());

    // Without nft.
    scene.host.sh("mv \"$(command -v nft)\" /root/nft.away");
    assert_eq!(bad(&scene.host, "firewall.table").len(), 1);
    scene.host.sh("mv /root/nft.away /usr/sbin/nft");
    assert!(bad(&scene.host, "firewall.table").is_empty());

    // Without root.
    let mut command = std::process::Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        INSIDE,
        "doctor",
    ]);
    run(scene.host.spaces(), command, None, LIMIT).must_fail_with(&["run it as root", "sudo"]);

    // A daemon that hangs has to be ended before another one can start.
    let hangs = scene.tombolo().cli(&["status"])["pid"].clone();
    scene.tombolo().signal(Signal::SIGSTOP);
    let (findings, _) = examine(&scene.host, &[]);
    let verdict = |check: &str| findings.iter().find(|f| f["check"] == check).unwrap();
    let silent = verdict("daemon.reachable");
    assert!(
        json::text(silent, "/evidence").contains(&format!("process {hangs} lives and holds the lock")),
        "{silent:#}"
    );
    assert_eq!(verdict("addresses.overlap")["verdict"], "ok", "{findings:#?}");
    scene.host.sh(json::text(silent, "/command"));
    until("the new daemon answers", || {
        let status = scene.tombolo().try_cli(&["status", "--output", "json"]);
        (status.ok && json::parse(&status.stdout)["pid"] != hangs).then_some(())
    });
}
