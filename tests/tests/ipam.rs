//! Which addresses networks and containers are given, by real engines that ask for them.

use system_tests::{Container, Host, Scene, Staging, json};

/// The subnets of a network, as the engine shows them.
fn subnets(scene: &Scene, network: &str) -> Vec<String> {
    let shown = scene.inspect("network", network);
    let configs = json::rows(&shown["IPAM"]["Config"]).iter();
    configs
        .map(|config| json::text(config, "/Subnet").to_owned())
        .collect()
}

#[test]
fn an_address_in_use_is_refused_also_where_the_engine_cannot_be_asked() {
    let settings = [("TOMBOLO_DOCKER_HOST", "unix:///run/nobody.sock")];
    let scene = Scene::staged(&Staging {
        settings: &settings,
        ..Staging::default()
    });
    scene.network("net", &["--subnet", "10.50.0.0/24"]);
    let chosen = ["--network", "net", "--ip", "10.50.0.5"];
    let one = scene.container("one", &chosen);
    let second = [&["run", "-d", "--name", "two"], &chosen[..], &["busybox", "true"]].concat();
    let refused = scene.try_docker(&second);
    refused.must_fail_with(&["10.50.0.5", "10.50.0.0/24"]);
    let three = scene.container("three", &["--network", "net"]);
    assert!(three.pings("one") && three.pings("10.50.0.5"));
    one.remove();
    scene.docker(&["start", "two"]);
    scene.clear();
}

/// The leases of a pool by address, as tombolo shows them.
fn leases(scene: &Scene, pool: &str) -> Vec<String> {
    let pools = scene.tombolo().cli(&["pools"]);
    let pool = json::rows(&pools)
        .iter()
        .find(|p| p["pool"] == pool)
        .unwrap_or_else(|| panic!("no {pool}: {pools:#}"));
    json::rows(&pool["leases"])
        .iter()
        .map(|lease| json::text(lease, "/address").to_owned())
        .collect()
}

#[test]
fn a_range_a_gateway_and_kept_addresses_are_respected() {
    let scene = Scene::new();
    let before = scene.snapshot();
    let args = [
        "--subnet",
        "10.50.0.0/24",
        "--ip-range",
        "10.50.0.128/29",
        "--gateway",
        "10.50.0.130",
    ];
    // One kept address in the range, one beside it.
    let aux = ["--aux-address", "a=10.50.0.129", "--aux-address", "b=10.50.0.7"];
    scene.network("net", &[&args[..], &aux].concat());
    let one = scene.container("one", &["--network", "net"]);
    let two = scene.container("two", &["--network", "net"]);
    let three = scene.container("three", &["--network", "net", "--ip", "10.50.0.8"]);
    let allowed =
        |ip: &String| ["10.50.0.128", "10.50.0.131", "10.50.0.132", "10.50.0.133"].contains(&ip.as_str());
    assert!(
        allowed(&one.ip("net")) && allowed(&two.ip("net")),
        "{} {}",
        one.ip("net"),
        two.ip("net")
    );
    assert_ne!(one.ip("net"), two.ip("net"));
    assert_eq!(
        three.ip("net"),
        "10.50.0.8",
        "an address of the subnet beside the range"
    );
    assert!(one.pings("two") && one.pings("three") && one.pings("10.50.0.130"));
    let taken = scene.try_docker(&[
        "run",
        "--rm",
        "--network",
        "net",
        "--ip",
        "10.50.0.7",
        "busybox",
        "true",
    ]);
    taken.must_fail_with(&["10.50.0.7"]);
    scene.must_clear_to(&before);
}

#[test]
fn a_chosen_subnet_overlaps_no_route_address_or_name_server_of_the_host() {
    let prepare = |host: &Host| {
        host.run("ip", &["route", "add", "10.44.0.0/24", "via", "192.0.2.1"]);
        host.run("ip", &["address", "add", "10.44.1.200/32", "dev", "lo"]);
        host.write("/etc/resolv.conf", "nameserver 10.44.2.53\n");
        // A VPN that takes half of what is left, as a route wider than a subnet.
        host.run("ip", &["route", "add", "10.44.4.0/22", "via", "192.0.2.1"]);
    };
    let settings = [("TOMBOLO_ADDRESS_POOLS", "10.44.0.0/21:24")];
    let scene = Scene::staged(&Staging {
        settings: &settings,
        prepare: Some(&prepare),
        ..Staging::default()
    });
    scene.network("first", &[]);
    assert_eq!(subnets(&scene, "first"), ["10.44.3.0/24"]);
    scene.try_network("second", &[]).must_fail_with(&["10.44.0.0/21"]);
    // The VPN goes down: what it covered is free.
    scene.host.run("ip", &["route", "del", "10.44.4.0/22"]);
    scene.network("second", &[]);
    let second = subnets(&scene, "second");
    assert!(
        second[0].starts_with("10.44.") && second != ["10.44.3.0/24"],
        "{second:?}"
    );
    let (one, two) = (
        scene.container("one", &["--network", "first"]),
        scene.container("two", &["--network", "second"]),
    );
    assert!(one.ip("first").starts_with("10.44.3."));
    assert!(!one.pings(&two.ip("second")));
}

#[test]
fn both_families_are_chosen_where_none_is_given() {
    let scene = Scene::new();
    let before = scene.snapshot();
    scene.network("net", &["--ipv6"]);
    scene.network("other", &["--ipv6"]);
    let (net, other) = (subnets(&scene, "net"), subnets(&scene, "other"));
    assert_eq!((net.len(), other.len()), (2, 2));
    assert!(
        net.iter().any(|s| s.ends_with("/24"))
            && net.iter().any(|s| s.starts_with("fd") && s.ends_with("/64"))
    );
    assert!(
        net.iter().all(|subnet| !other.contains(subnet)),
        "{net:?} {other:?}"
    );
    let (one, two) = (
        scene.container("one", &["--network", "net"]),
        scene.container("two", &["--network", "net"]),
    );
    assert!(one.pings("two") && two.pings6("one"));
    scene.must_clear_to(&before);
}

#[test]
fn a_subnet_of_a_chosen_size_is_found() {
    let scene = Scene::new();
    let asked = scene.try_network("net", &["--subnet", "0.0.0.0/26"]);
    // Engines differ in whether they pass this on; where one does, the answer is ours.
    if scene.major() >= 28 {
        asked.clone().must();
    }
    if asked.ok {
        let pools = scene.tombolo().cli(&["pools"]);
        assert!(json::text(&pools, "/0/pool").ends_with("/26"), "{pools:#}");
        let one = scene.container("one", &["--network", "net"]);
        assert_eq!(one.on("net")["IPPrefixLen"], 26);
    }
    assert!(
        !asked.stderr.contains("tombolo"),
        "not refused by us: {}",
        asked.stderr
    );
}

#[test]
fn a_full_subnet_an_address_in_use_and_one_outside_are_refused_with_their_names() {
    let scene = Scene::new();
    scene.network("net", &["--subnet", "10.50.0.0/29"]);
    let names = ["c1", "c2", "c3", "c4", "c5"];
    let all: Vec<Container> = names
        .iter()
        .map(|name| scene.container(name, &["--network", "net"]))
        .collect();
    let mut addresses: Vec<String> = all.iter().map(|container| container.ip("net")).collect();
    addresses.sort();
    assert_eq!(
        addresses,
        (2..=6).map(|n| format!("10.50.0.{n}")).collect::<Vec<_>>()
    );
    let run = |args: &[&str]| {
        scene.try_docker(&[&["run", "--rm", "--network", "net"], args, &["busybox", "true"]].concat())
    };
    run(&[]).must_fail_with(&["10.50.0.0/29"]);
    run(&["--ip", "10.50.0.4"]).must_fail_with(&["10.50.0.4", "10.50.0.0/29"]);
    run(&["--ip", "10.50.0.1"]).must_fail_with(&["10.50.0.1"]);
    run(&["--ip", "10.51.0.1"]).must_fail_with(&[]);
    assert_eq!(leases(&scene, "10.50.0.0/29").len(), 6, "refusals hold nothing");
    all[2].remove();
    run(&[]).must();
}

#[test]
fn an_address_that_was_freed_is_not_given_to_the_next() {
    let scene = Scene::new();
    scene.network("net", &["--subnet", "10.50.0.0/24"]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let one = scene.container("one", &["--network", "net"]);
        seen.push(one.ip("net"));
        one.remove();
    }
    assert!(
        seen[0] != seen[1] && seen[1] != seen[2] && seen[0] != seen[2],
        "{seen:?}"
    );
    assert_eq!(leases(&scene, "10.50.0.0/24"), ["10.50.0.1"]);
}

#[test]
fn overlapping_subnets_are_refused_with_both_named() {
    let scene = Scene::new();
    scene.network("net", &["--subnet", "10.50.0.0/24"]);
    scene
        .try_network("same", &["--subnet", "10.50.0.0/24"])
        .must_fail_with(&["10.50.0.0/24"]);
    scene
        .try_network("within", &["--subnet", "10.50.0.0/25"])
        .must_fail_with(&["10.50.0.0/24", "10.50.0.0/25"]);
    scene
        .try_network("around", &["--subnet", "10.50.0.0/16"])
        .must_fail_with(&["10.50.0.0/24", "10.50.0.0/16"]);
    scene.docker(&["network", "rm", "net"]);
    scene.network("around", &["--subnet", "10.50.0.0/16"]);
}

/// What becomes of a network with a tiny subnet: of making it, and of the first containers on it.
fn life_in(scene: &Scene, ipam: &str, subnet: &str) -> Vec<String> {
    let v6 = if subnet.contains(':') {
        vec!["--ipv6", "--subnet", "10.52.0.0/24"]
    } else {
        vec![]
    };
    let head = [
        "network",
        "create",
        "-d",
        "bridge",
        "--ipam-driver",
        ipam,
        "--subnet",
        subnet,
    ];
    let made = scene.try_docker(&[&head[..], &v6, &["tiny"]].concat());
    let mut story = vec![format!("made: {}", made.ok)];
    if made.ok {
        for name in ["c1", "c2"] {
            let run = [
                "run",
                "-d",
                "--name",
                name,
                "--network",
                "tiny",
                "busybox",
                "sleep",
                "3600",
            ];
            let ran = scene.try_docker(&run);
            let place = scene.inspect("container", name)["NetworkSettings"]["Networks"]["tiny"].take();
            let keys = [
                "IPAddress",
                "IPPrefixLen",
                "Gateway",
                "GlobalIPv6Address",
                "GlobalIPv6PrefixLen",
                "IPv6Gateway",
            ];
            let family = if v6.is_empty() { &keys[..3] } else { &keys[3..] };
            let shown: Vec<String> = family.iter().map(|key| place[key].to_string()).collect();
            story.push(format!(
                "{name}: {} {}",
                ran.ok,
                if ran.ok { shown.join(" ") } else { String::new() }
            ));
        }
    }
    scene.clear();
    story
}

#[test]
fn tiny_subnets_are_used_as_dockers_own_addresses_use_them() {
    let scene = Scene::new();
    let mut differences = Vec::new();
    for subnet in [
        "10.53.0.0/31",
        "10.53.0.8/32",
        "10.53.0.16/30",
        "fd53::/127",
        "fd53::10/128",
        "fd53::20/126",
    ] {
        let (ours, dockers) = (
            life_in(&scene, "tombolo", subnet),
            life_in(&scene, "default", subnet),
        );
        // Engines of old can make nothing of /31 and /32; there is nothing to compare with then.
        if ours != dockers && dockers != ["made: false"] {
            differences.push(format!("{subnet}: {ours:?}, but Docker's own: {dockers:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
