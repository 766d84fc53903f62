//! What an engine finds after it has ended and started again.

use std::time::{Duration, Instant};

use system_tests::{Answerer, Container, Engine, Scene, ask_tcp, until};

use crate::{DUAL, DUAL_TOO, endpoints, scene};

/// The engine's own limit for its start while a plug-in is missing.
const BOOT: Duration = Duration::from_secs(60);

/// How long an address may be held for a container that died while neither engine nor tombolo was there.
const FORGOTTEN: Duration = Duration::from_secs(90);

/// What an engine says of a network, less what it counts anew.
fn network(scene: &Scene, name: &str) -> serde_json::Value {
    let mut shown = scene.inspect("network", name);
    shown.as_object_mut().expect("a network").remove("Containers");
    shown
}

/// The container is on both networks again, with neighbours that it reaches.
#[track_caller]
fn must_be_back(scene: &Scene, one: &Container, two: &Container) {
    for container in [one, two] {
        until(&format!("{} is back on both networks", container.name()), || {
            let networks = &container.inspect()["NetworkSettings"]["Networks"];
            let has = |net: &str| {
                networks[net]["IPAddress"]
                    .as_str()
                    .is_some_and(|ip| !ip.is_empty())
            };
            (container.inspect()["State"]["Running"] == true && has("first") && has("second")).then_some(())
        });
    }
    for (network, wire) in [("first", "eth0"), ("second", "eth1")] {
        let target = two.ip(network);
        assert!(one.pings(&target), "{network}, {wire}");
        assert!(one.pings6(&two.ip6(network)), "{network}");
    }
    assert_eq!(endpoints(scene).len(), 4);
}

/// TestDockerNetworkMultipleNetworksGracefulDaemonRestart, …UngracefulDaemonRestart, TestDaemonRestartWithExistingNetwork
#[test]
fn containers_of_several_networks_are_on_all_of_them_after_each_end_of_the_engine() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let shown = ["first", "second"].map(|name| network(&scene, name));
    let always = ["--network", "first", "--restart", "always"];
    let [one, two] = ["one", "two"].map(|name| {
        let container = scene.container(name, &always);
        scene.docker(&["network", "connect", "second", name]);
        container
    });
    must_be_back(&scene, &one, &two);
    for end in [Engine::stop, Engine::kill] {
        end(&scene.engine);
        scene.engine.start_again();
        assert_eq!(["first", "second"].map(|name| network(&scene, name)), shown);
        // What a killed engine has forgotten is freed only after two looks.
        until("nobody else is left", || {
            (endpoints(&scene).len() == 4).then_some(())
        });
        must_be_back(&scene, &one, &two);
    }
    scene.must_clear_to(&before);
}

/// TestDockerNetworkDriverUngracefulRestart
#[test]
fn an_engine_that_was_killed_starts_without_us_and_the_same_address_is_free_when_we_are_back() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let chosen = ["--network", "net", "--ip", "10.60.0.55"];
    scene.container("one", &[&chosen[..], &["--restart", "always"]].concat());
    scene.engine.kill();
    scene.tombolo().kill();
    let begun = Instant::now();
    scene.engine.launch();
    let up = || scene.engine.get("/_ping").filter(|answer| answer.status == 200);
    assert!(
        system_tests::wait::within(BOOT, up).is_some(),
        "not up after {BOOT:?}"
    );
    system_tests::say(&format!("the engine was up after {:?}", begun.elapsed()));
    scene.tombolo().start_again();
    scene.docker(&["rm", "-f", "one"]);
    // Who has died without us is found out by looking, and that takes a moment.
    let run = [
        &["run", "-d", "--name", "two", "--stop-signal", "KILL"],
        &chosen[..],
        &["busybox", "sleep", "3600"],
    ];
    let reused = system_tests::wait::within(FORGOTTEN, || {
        let ran = scene.try_docker(&run.concat());
        if !ran.ok {
            scene.docker(&["rm", "-f", "two"]);
        }
        ran.ok.then_some(())
    });
    assert!(reused.is_some(), "the address is not free after {FORGOTTEN:?}");
    let shown = scene.inspect("container", "two");
    assert_eq!(
        shown["NetworkSettings"]["Networks"]["net"]["IPAddress"],
        "10.60.0.55"
    );
    let three = scene.container("three", &["--network", "net"]);
    assert!(three.pings("two") && three.pings6("two"));
    scene.must_clear_to(&before);
}

/// TestPortMappingRestore, TestDaemonRestartWithLiveRestore
#[test]
fn a_port_of_a_container_that_outlived_its_engine_is_freed_with_the_container() {
    let scene = Scene::with_flags(&["--live-restore"]);
    let before = scene.snapshot();
    scene.network("net", &DUAL);
    let args = ["--network", "net", "-p", "8080:80"];
    let one = scene.container("one", &args);
    for end in [Engine::stop, Engine::kill] {
        end(&scene.engine);
        scene.engine.start_again();
        let web = Answerer::tcp(&one.spaces(), "[::]:80");
        ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("published still");
        drop(web);
        let again = scene.try_docker(&[
            "run",
            "--rm",
            "--network",
            "net",
            "-p",
            "8080:80",
            "busybox",
            "true",
        ]);
        again.must_fail_with(&["8080"]);
    }
    one.remove();
    let two = scene.container("two", &args);
    let _web = Answerer::tcp(&two.spaces(), "[::]:80");
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("published by the next");
    scene.must_clear_to(&before);
}
