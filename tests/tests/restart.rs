//! What goes on when tombolo, the engine or the whole machine ends and starts again.

use serde_json::json;
use system_tests::{Answerer, Container, Flow, Host, Scene, Snapshot, Tombolo, ask_tcp, json, until};

use std::sync::Arc;

const ALWAYS: [&str; 4] = ["--network", "net", "--restart", "always"];

/// Starts numbered datagrams between two containers of network `net`.
#[track_caller]
fn flow(one: &Container, two: &Container) -> Flow {
    Flow::start(&one.spaces(), &two.spaces(), &format!("{}:7000", two.ip("net")))
}

#[track_caller]
fn must_lose_none(flow: Flow) {
    let so_far = flow.so_far();
    until("some more of the flow", || {
        (flow.so_far() > so_far + 200).then_some(())
    });
    let tally = flow.stop();
    assert!(
        tally.lost.is_empty(),
        "{} of {} datagrams lost: {:?}",
        tally.lost.len(),
        tally.sent,
        tally.lost
    );
}

/// The container is back and has a place on `net`.
#[track_caller]
fn must_be_back(container: &Container) {
    until(&format!("{} runs again", container.name()), || {
        (container.inspect()["State"]["Running"] == true && !container.ip("net").is_empty()).then_some(())
    });
}

#[track_caller]
fn must_reach_each_other(one: &Container, two: &Container) {
    assert!(
        one.pings(two.name()) && two.pings(one.name()),
        "{} and {}",
        one.name(),
        two.name()
    );
}

/// The container's port 80, published as 8080, is reached from outside.
#[track_caller]
fn must_be_published(scene: &Scene, container: &Container) {
    let _web = Answerer::tcp(&container.spaces(), "0.0.0.0:80");
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("a published port");
}

/// All addresses that tombolo has leased to containers, in order.
fn leased(tombolo: &Tombolo) -> Vec<String> {
    let pools = tombolo.cli(&["pools"]);
    let leases = json::rows(&pools)
        .iter()
        .flat_map(|pool| json::rows(&pool["leases"]));
    let leases = leases.filter(|lease| lease["use"] == "endpoint");
    let mut addresses: Vec<String> = leases
        .map(|lease| json::text(lease, "/address").to_owned())
        .collect();
    addresses.sort();
    addresses
}

/// Waits until exactly these containers hold addresses, and tombolo knows of exactly as many endpoints.
#[track_caller]
fn must_be_all(scene: &Scene, containers: &[&Container]) {
    let mut wanted: Vec<String> = containers.iter().map(|container| container.ip("net")).collect();
    wanted.sort();
    let mut seen = Vec::new();
    let found = system_tests::wait::within(system_tests::wait::PATIENCE * 2, || {
        let endpoints = scene.tombolo().cli(&["endpoints"]);
        seen = vec![format!("{:?}", leased(scene.tombolo())), format!("{endpoints:#}")];
        (leased(scene.tombolo()) == wanted && json::rows(&endpoints).len() == wanted.len()).then_some(())
    });
    assert!(found.is_some(), "wanted {wanted:?}, found {}", seen.join("\n"));
}

#[test]
fn traffic_and_networks_live_through_the_end_of_tombolo() {
    let scene = Scene::new();
    let before = scene.snapshot();
    scene.network("net", &["--subnet", "10.70.0.0/24"]);
    let one = scene.container("one", &["--network", "net", "-p", "8080:80"]);
    let two = scene.container("two", &["--network", "net"]);
    let running = scene.snapshot();
    let flow = flow(&one, &two);
    for end in [Tombolo::kill, Tombolo::stop] {
        end(scene.tombolo());
        let stopped = Snapshot::of(&scene.host, None);
        let differences = stopped.differences(&running);
        assert!(
            differences.iter().all(|line| line.starts_with("+ pools")),
            "ending changes nothing: {differences:?}"
        );
        must_be_published(&scene, &one);
        scene.tombolo().start_again();
        running.must_come_back(&scene.host, Some(scene.tombolo()));
    }
    must_lose_none(flow);
    let three = scene.container("three", &["--network", "net"]);
    must_reach_each_other(&one, &three);
    must_be_all(&scene, &[&one, &two, &three]);
    scene.must_clear_to(&before);
}

#[test]
fn containers_come_back_after_an_orderly_restart_of_the_engine() {
    let scene = Scene::new();
    let before = scene.snapshot();
    scene.network("net", &["--subnet", "10.70.0.0/24"]);
    let one = scene.container("one", &[&ALWAYS[..], &["-p", "8080:80"]].concat());
    let two = scene.container("two", &ALWAYS);
    scene.engine.stop();
    scene.engine.start_again();
    must_be_back(&one);
    must_be_back(&two);
    must_reach_each_other(&one, &two);
    must_be_published(&scene, &one);
    must_be_all(&scene, &[&one, &two]);
    scene.must_clear_to(&before);
}

#[test]
fn running_containers_are_not_disturbed_where_the_engine_restores_them_live() {
    let scene = Scene::with_flags(&["--live-restore"]);
    let before = scene.snapshot();
    scene.network("net", &["--subnet", "10.70.0.0/24"]);
    let one = scene.container("one", &["--network", "net", "-p", "8080:80"]);
    let two = scene.container("two", &["--network", "net"]);
    let addresses = (one.ip("net"), two.ip("net"));
    let flow = flow(&one, &two);
    for end in [system_tests::Engine::stop, system_tests::Engine::kill] {
        end(&scene.engine);
        scene.engine.start_again();
        assert_eq!((one.ip("net"), two.ip("net")), addresses);
        must_reach_each_other(&one, &two);
        must_be_published(&scene, &one);
    }
    must_lose_none(flow);
    must_be_all(&scene, &[&one, &two]);
    let three = scene.container("three", &["--network", "net"]);
    must_reach_each_other(&three, &two);
    scene.must_clear_to(&before);
}

#[test]
fn nothing_is_left_of_containers_whose_engine_was_killed() {
    let scene = Scene::new();
    let before = scene.snapshot();
    scene.network("net", &["--subnet", "10.70.0.0/24"]);
    let one = scene.container("one", &[&ALWAYS[..], &["-p", "8080:80"]].concat());
    let two = scene.container("two", &ALWAYS);
    let lost = scene.container("lost", &["--network", "net"]);
    scene.engine.kill();
    scene.engine.start_again();
    must_be_back(&one);
    must_be_back(&two);
    must_reach_each_other(&one, &two);
    must_be_published(&scene, &one);
    assert_eq!(lost.inspect()["State"]["Running"], false);
    must_be_all(&scene, &[&one, &two]);
    scene.must_clear_to(&before);
}

#[test]
fn networks_are_there_again_after_a_power_cut_before_anybody_asks() {
    let scene = Scene::new();
    let before = scene.snapshot();
    scene.network(
        "net",
        &[
            "--subnet",
            "10.70.0.0/24",
            "-o",
            "com.docker.network.bridge.name=demo0",
        ],
    );
    scene.network(
        "idle",
        &[
            "--subnet",
            "10.71.0.0/24",
            "-o",
            "com.docker.network.bridge.name=idle0",
        ],
    );
    let one = scene.container("one", &[&ALWAYS[..], &["-p", "8080:80"]].concat());
    let two = scene.container("two", &ALWAYS);
    scene.host.cut_power();
    assert!(
        !scene.host.try_run("ip", &["link", "show", "demo0"]).ok,
        "the power cut took the links"
    );
    scene.tombolo().start_again();
    for (bridge, address) in [("demo0", "10.70.0.1/24"), ("idle0", "10.71.0.1/24")] {
        until(&format!("{bridge} is there again"), || {
            let shown = scene.host.try_run("ip", &["address", "show", "dev", bridge]);
            (shown.ok && shown.stdout.contains(address)).then_some(())
        });
    }
    scene.engine.start_again();
    must_be_back(&one);
    must_be_back(&two);
    must_reach_each_other(&one, &two);
    must_be_published(&scene, &one);
    must_be_all(&scene, &[&one, &two]);
    let three = scene.container("three", &["--network", "idle"]);
    assert!(three.pings("10.71.0.1"));
    scene.must_clear_to(&before);
}

#[test]
fn what_is_not_ours_stays_and_what_nobody_wants_of_ours_goes() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    host.sh(
        "ip link add foreign0 type bridge; ip link add tb-foreign type bridge; ip link set tb-foreign up
         ip address add 10.90.0.1/24 dev foreign0; ip link add f1 type veth peer name f2; ip link set f1 master foreign0
         nft add table inet theirs; nft 'add chain inet theirs c { type filter hook forward priority 0; }'
         nft add rule inet theirs c ip saddr 10.90.0.0/24 accept; nft add table ip tombolo-not
         iptables -A FORWARD -s 10.90.0.0/24 -j ACCEPT; iptables -t nat -A POSTROUTING -s 10.90.0.0/24 -j MASQUERADE
         ip route add blackhole 10.91.0.0/24",
    );
    let foreign = Snapshot::of(&host, None);
    tombolo.kill();
    // Left by one who died before its record was stored: a bridge and a veth pair with the group that marks ours.
    host.sh(
        "ip link add tb-0123456789ab group 29807 type bridge; ip link set tb-0123456789ab up
         ip link add tbh0123456789ab group 29807 type veth peer name tbc0123456789ab
         ip link set tbh0123456789ab master tb-0123456789ab",
    );
    tombolo.start_again();
    let nothing_else = || {
        let differences = foreign.differences(&Snapshot::of(&host, None));
        // Our own table is ours to add.
        differences
            .iter()
            .all(|line| line.starts_with("+ rules"))
            .then_some(())
    };
    until("orphans are swept", nothing_else);
    let network = serde_json::json!({
        "NetworkID": "f".repeat(64), "Options": { "com.docker.network.generic": {} }, "IPv6Data": [],
        "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": "10.92.0.0/24", "Gateway": "10.92.0.1/24" }],
    });
    tombolo.plugin().accepted("NetworkDriver.CreateNetwork", &network);
    tombolo.plugin().accepted(
        "NetworkDriver.DeleteNetwork",
        &serde_json::json!({ "NetworkID": "f".repeat(64) }),
    );
    until("the network is gone", nothing_else);
}

#[test]
fn a_driver_that_is_called_something_else_leaves_the_networks_to_the_one_that_was() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let pool = json!({ "AddressSpace": "LocalDefault", "Pool": "10.71.0.0/24", "V6": false });
    let pool = tombolo.plugin().accepted("IpamDriver.RequestPool", &pool);
    let state = tombolo.export();
    tombolo.stop();
    tombolo
        .try_serve(&["--plugin-socket", "/run/docker/plugins/t2.sock"])
        .must_fail_with(&["'tombolo'", "'t2'", "/var/lib/tombolo"]);
    tombolo.start_again();
    assert_eq!(tombolo.export(), state);
    let pool = json!({ "PoolID": pool["PoolID"] });
    tombolo.plugin().accepted("IpamDriver.ReleasePool", &pool);
    // Where there is nothing to lose it may be called anything.
    tombolo.stop();
    let log = "/var/log/t2.log";
    let other = tombolo.command(&["serve", "--plugin-socket", "/run/docker/plugins/t2.sock"]);
    let other = host.start(other, log);
    until("a driver of another name serves", || {
        tombolo.try_cli(&["status"]).ok.then_some(())
    });
    system_tests::engine::end(
        &other,
        nix::sys::signal::Signal::SIGTERM,
        std::time::Duration::from_secs(20),
    );
}
