//! What happens when Docker or tombolo has forgotten what the other one remembers.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::wait::within;
use system_tests::{Answerer, Flow, Scene, ask_tcp, json as look};

/// By when what one of both has forgotten must be found: tombolo waits some time lest it free what is just being made.
const FOUND: Duration = Duration::from_secs(120);

/// The values of a field in a list of the command line, sorted.
fn all(scene: &Scene, list: &str, field: &str) -> Vec<String> {
    let shown = scene.tombolo().cli(&[list]);
    let mut values: Vec<String> = look::rows(&shown)
        .iter()
        .map(|row| row[field].to_string())
        .collect();
    values.sort();
    values
}

#[test]
fn what_docker_has_forgotten_is_freed_and_what_it_still_has_is_not() {
    let scene = Scene::new();
    scene.network("net", &["--subnet", "10.75.0.0/24"]);
    let one = scene.container("one", &["--network", "net", "-p", "8080:80"]);
    let two = scene.container("two", &["--network", "net"]);
    let flow = Flow::start(&one.spaces(), &two.spaces(), &format!("{}:7000", two.ip("net")));
    let before = scene.snapshot();

    // As an engine would that was killed in the middle of its work: it will never speak of any of this again.
    let plugin = scene.tombolo().plugin();
    let known = scene.tombolo().cli(&["pools"])[0]["pool_id"].clone();
    plugin.accepted(
        "IpamDriver.RequestAddress",
        &json!({ "PoolID": known, "Address": "10.75.0.99", "Options": {} }),
    );
    let pool =
        json!({ "AddressSpace": "", "Pool": "10.76.0.0/24", "SubPool": "", "Options": {}, "V6": false });
    let pool = plugin.accepted("IpamDriver.RequestPool", &pool);
    let gateway = json!({ "PoolID": pool["PoolID"], "Address": "10.76.0.1", "Options": {} });
    plugin.accepted("IpamDriver.RequestAddress", &gateway);
    let network = json!({
        "NetworkID": "9".repeat(64), "Options": { "com.docker.network.generic": {} }, "IPv6Data": [],
        "IPv4Data": [{ "AddressSpace": "", "Pool": "10.77.0.0/24", "Gateway": "10.77.0.1/24" }],
    });
    plugin.accepted("NetworkDriver.CreateNetwork", &network);
    let endpoint = json!({
        "NetworkID": "9".repeat(64), "EndpointID": "8".repeat(64), "Options": {},
        "Interface": { "Address": "10.77.0.2/24", "AddressIPv6": "", "MacAddress": "" },
    });
    plugin.accepted("NetworkDriver.CreateEndpoint", &endpoint);
    assert_eq!(all(&scene, "networks", "network_id").len(), 2);

    let mut left = Vec::new();
    let freed = within(FOUND, || {
        left = before.differences(&scene.snapshot());
        let lists = ["networks", "endpoints"].map(|list| look::rows(&scene.tombolo().cli(&[list])).len());
        (left.is_empty() && lists == [1, 2]).then_some(())
    });
    assert!(freed.is_some(), "left after {FOUND:?}:\n{}", left.join("\n"));
    let tally = flow.stop();
    assert!(tally.lost.is_empty(), "{:?}", tally.lost);
    assert!(one.pings("two") && two.pings("one"));
    scene.docker(&["restart", "one"]);
    assert!(two.pings("one"));
}

#[test]
fn a_lost_store_is_filled_again_from_docker_and_the_kernel() {
    let scene = Scene::new();
    let nothing = scene.snapshot();
    scene.network(
        "net",
        &["--ipv6", "--subnet", "10.75.0.0/24", "--subnet", "fd75::/64"],
    );
    scene.network("idle", &["-o", "com.docker.network.driver.mtu=1400"]);
    let one = scene.container("one", &["--network", "net", "-p", "8080:80"]);
    let two = scene.container("two", &["--network", "net"]);
    let flow = Flow::start(&one.spaces(), &two.spaces(), &format!("{}:7000", two.ip("net")));
    let lists = |scene: &Scene| {
        [
            ("networks", "network_id"),
            ("endpoints", "endpoint_id"),
            ("endpoints", "ipv6"),
            ("pools", "pool"),
        ]
        .map(|(list, field)| all(scene, list, field))
    };
    let before = (scene.snapshot(), lists(&scene));

    scene.tombolo().kill();
    scene.host.sh("find /var/lib/tombolo -mindepth 1 -delete");
    scene.tombolo().start_again();
    let mut now = lists(&scene);
    let mut left = Vec::new();
    let filled = within(FOUND, || {
        now = lists(&scene);
        left = before.0.differences(&scene.snapshot());
        // Names and purposes of leases are what nobody else knows.
        (now == before.1 && !left.iter().any(|line| !line.contains("pools"))).then_some(())
    });
    assert!(
        filled.is_some(),
        "{now:#?}\nbefore: {:#?}\n{}",
        before.1,
        left.join("\n")
    );
    let tally = flow.stop();
    assert!(
        tally.lost.is_empty(),
        "{} of {} datagrams lost: {:?}",
        tally.lost.len(),
        tally.sent,
        tally.lost
    );
    let status: Value = scene.tombolo().cli(&["status"]);
    assert!(!scene.tombolo().log().contains("panicked"), "{status:#}");

    let three = scene.container("three", &["--network", "net"]);
    assert!(
        ![one.ip("net"), two.ip("net")].contains(&three.ip("net")),
        "a live address was given again"
    );
    assert!(three.pings("one") && three.pings6("two") && one.pings("three"));
    let web = Answerer::tcp(&one.spaces(), "[::]:80");
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("still published");
    drop(web);
    scene.must_clear_to(&nothing);
}

/// Every file of the store, not only the one that matters today.
const DAMAGE: &str = "find /var/lib/tombolo -type f -size +0 | while read -r file; do
    head -c 4096 /dev/urandom | dd of=\"$file\" bs=1 conv=notrunc status=none; done";

#[test]
fn a_damaged_store_is_put_aside_and_filled_again() {
    must_fill_a_damaged_store_again(|_| ());
}

/// As on a host whose root is read-only, with what is written kept in an overlay: directories of the layer below can
/// be read and written, and not renamed.
#[test]
fn a_damaged_store_is_put_aside_where_directories_can_not_be_renamed() {
    must_fill_a_damaged_store_again(|scene| {
        scene.host.sh("mkdir /run/upper /run/work
            layers=lowerdir=/var/lib/tombolo,upperdir=/run/upper,workdir=/run/work
            mount -t overlay -o $layers overlay /var/lib/tombolo");
        let path = |name: &str| scene.host.path(&format!("/var/lib/tombolo/{name}"));
        let renamed = fs::rename(path("db"), path("renamed"));
        assert_eq!(renamed.map_err(|e| e.kind()), Err(ErrorKind::CrossesDevices));
    });
}

#[track_caller]
fn must_fill_a_damaged_store_again(prepare: impl Fn(&Scene)) {
    let scene = Scene::new();
    let nothing = scene.snapshot();
    scene.network("net", &["--subnet", "10.75.0.0/24"]);
    let one = scene.container("one", &["--network", "net"]);
    let two = scene.container("two", &["--network", "net"]);
    scene.tombolo().stop();
    scene.host.sh(DAMAGE);
    prepare(&scene);
    scene.tombolo().start_again();
    let back = within(FOUND, || {
        (all(&scene, "endpoints", "endpoint_id").len() == 2).then_some(())
    });
    assert!(
        back.is_some(),
        "the endpoints are not back:\n{}",
        scene.tombolo().log()
    );
    assert!(one.pings("two"));
    let three = scene.container("three", &["--network", "net"]);
    assert!(
        ![one.ip("net"), two.ip("net")].contains(&three.ip("net")),
        "a live address was given again"
    );
    scene.must_clear_to(&nothing);
}
