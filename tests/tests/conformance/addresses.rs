//! Which addresses containers and networks have, and when.

use serde_json::{Value, json};
use system_tests::{Container, Scene};

use crate::{DUAL, DUAL_TOO, endpoints, has, scene};

/// The network's list of containers, by name.
fn members(scene: &Scene, network: &str) -> Vec<(String, String)> {
    let shown = scene.inspect("network", network);
    let rows = shown["Containers"].as_object().expect("a list of containers");
    let mut members: Vec<(String, String)> = rows
        .values()
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            (text("Name"), text("IPv4Address"))
        })
        .collect();
    members.sort();
    members
}

/// The networks of a container, as the engine shows them.
fn networks_of(container: &Container) -> Vec<String> {
    let inspected = container.inspect();
    let networks = inspected["NetworkSettings"]["Networks"].as_object();
    networks.expect("a list of networks").keys().cloned().collect()
}

/// Whether an interface of the container bears an address.
fn bears(container: &Container, address: &str) -> bool {
    let links = container.ip_json(&["address"]);
    let links = links.as_array().expect("links").iter();
    let mut all = links.filter_map(|link| link["addr_info"].as_array()).flatten();
    all.any(|a| a["local"] == address)
}

/// TestDockerNetworkConnectDisconnect
#[test]
fn a_network_lists_a_container_with_its_address_until_it_is_disconnected() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    scene.network("other", &DUAL_TOO);
    let one = scene.container("one", &["--network", "other"]);
    for force in [&[][..], &["--force"]] {
        scene.docker(&["network", "connect", "net", "one"]);
        assert_eq!(
            members(&scene, "net"),
            [("one".to_owned(), format!("{}/24", one.ip("net")))]
        );
        assert!(bears(&one, &one.ip("net")) && bears(&one, &one.ip6("net")));
        assert!(endpoints(&scene).iter().any(|a| a.starts_with(&one.ip("net"))));
        let address = one.ip("net");
        scene.docker(&[&["network", "disconnect"], force, &["net", "one"]].concat());
        assert_eq!(members(&scene, "net"), []);
        assert_eq!(networks_of(&one), ["other"]);
        assert!(!bears(&one, &address));
        assert_eq!(endpoints(&scene).len(), 1);
    }
    scene.must_clear_to(&before);
}

/// The container has the chosen addresses, for the engine and in fact.
#[track_caller]
fn must_have_chosen(one: &Container, neighbour: &Container) {
    assert_eq!(
        (one.ip("second").as_str(), one.ip6("second").as_str()),
        ("10.61.0.77", "fd61::77")
    );
    assert!(bears(one, "10.61.0.77") && bears(one, "fd61::77"));
    assert!(neighbour.pings("10.61.0.77") && neighbour.pings6("fd61::77"));
}

const CHOSEN: [&str; 4] = ["--ip", "10.61.0.77", "--ip6", "fd61::77"];

/// TestDockerNetworkConnectPreferredIP
#[test]
fn chosen_addresses_of_both_families_outlive_restarts() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let one = scene.container("one", &["--network", "first"]);
    let two = scene.container("two", &["--network", "second"]);
    scene.docker(&[&["network", "connect"], &CHOSEN[..], &["second", "one"]].concat());
    must_have_chosen(&one, &two);
    scene.docker(&["restart", "one"]);
    must_have_chosen(&one, &two);
    scene.docker(&["stop", "one"]);
    scene.docker(&["start", "one"]);
    must_have_chosen(&one, &two);
    scene.must_clear_to(&before);
}

/// TestDockerNetworkConnectPreferredIPStoppedContainer
#[test]
fn addresses_chosen_for_a_container_that_does_not_run_are_there_once_it_does() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let two = scene.container("two", &["--network", "second"]);
    let one = scene.container("one", &["--network", "first"]);
    scene.docker(&["stop", "one"]);
    scene.docker(&[&["network", "connect"], &CHOSEN[..], &["second", "one"]].concat());
    scene.docker(&["start", "one"]);
    must_have_chosen(&one, &two);
    scene.docker(&["restart", "one"]);
    must_have_chosen(&one, &two);
    scene.must_clear_to(&before);
}

/// TestDockerNetworkUnsupportedRequiredIP
#[test]
fn no_address_can_be_chosen_in_a_subnet_that_nobody_chose() {
    let (scene, before) = scene();
    scene.network("net", &[]);
    let two = scene.container("two", &["--network", "net"]);
    scene.names_are_known();
    let pools = scene.tombolo().cli(&["pools"]);
    let free = two.ip("net").rsplit_once('.').expect("an address").0.to_owned() + ".99";
    let args = [
        "run",
        "--rm",
        "--network",
        "net",
        "--ip",
        &free,
        "busybox",
        "true",
    ];
    scene
        .try_docker(&args)
        .must_fail_with(&["user configured subnet"]);
    assert_eq!(
        scene.tombolo().cli(&["pools"]),
        pools,
        "the refusal holds nothing"
    );
    scene.must_clear_to(&before);
}

/// TestDockerNetworkRestartWithMultipleNetworks
#[test]
fn a_container_of_several_networks_is_on_all_of_them_after_a_restart() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let one = scene.container("one", &["--network", "first"]);
    let neighbours =
        ["first", "second"].map(|net| scene.container(&format!("in-{net}"), &["--network", net]));
    scene.docker(&["network", "connect", "second", "one"]);
    for _ in 0..2 {
        assert_eq!(networks_of(&one), ["first", "second"]);
        for neighbour in &neighbours {
            assert!(
                neighbour.pings("one") && one.pings6(neighbour.name()),
                "{}",
                neighbour.name()
            );
        }
        scene.docker(&["restart", "one"]);
    }
    scene.must_clear_to(&before);
}

/// TestDockerNetworkConnectDisconnectToStoppedContainer
#[test]
fn a_container_that_does_not_run_is_connected_and_disconnected_and_the_engine_remembers() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let one = scene.container("one", &["--network", "first"]);
    scene.docker(&["stop", "one"]);
    scene.docker(&["network", "connect", "second", "one"]);
    assert_eq!(networks_of(&one), ["first", "second"]);
    assert_eq!(
        endpoints(&scene),
        [""; 0],
        "nothing is held for one that does not run"
    );
    scene.engine.stop();
    scene.engine.start_again();
    assert_eq!(networks_of(&one), ["first", "second"]);
    scene.docker(&["start", "one"]);
    assert_eq!(endpoints(&scene).len(), 2);
    scene.docker(&["stop", "one"]);
    scene.docker(&["network", "disconnect", "second", "one"]);
    scene.engine.stop();
    scene.engine.start_again();
    assert_eq!(networks_of(&one), ["first"]);
    scene.docker(&["start", "one"]);
    assert_eq!(endpoints(&scene).len(), 1);
    scene.must_clear_to(&before);
}

/// TestDockerNetworkDisconnectContainerNonexistingNetwork
#[test]
fn a_stopped_container_is_disconnected_from_a_network_that_is_no_more() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let one = scene.container("one", &["--network", "net"]);
    scene.docker(&["stop", "one"]);
    scene.docker(&["network", "rm", "net"]);
    scene.docker(&["network", "disconnect", "--force", "net", "one"]);
    assert_eq!(networks_of(&one), [""; 0]);
    scene.must_clear_to(&before);
}

/// TestDockerNetworkRunNetByID, TestDockerNetworkDeletePreferID
#[test]
fn networks_are_found_by_their_ids_before_names_that_look_like_ids() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let id = scene.docker(&["network", "inspect", "--format", "{{.Id}}", "net"]);
    // A name that is the beginning of the other's id, and one that is the whole of it.
    scene.network(&id[..12], &DUAL_TOO);
    let one = scene.container("one", &["--network", &id]);
    assert!(one.ip("net").starts_with("10.60.0."), "{}", one.ip("net"));
    one.remove();
    scene.docker(&["network", "rm", &id]);
    let left = scene.docker(&[
        "network",
        "ls",
        "--filter",
        "type=custom",
        "--format",
        "{{.Name}}",
    ]);
    assert_eq!(left, id[..12]);
    let shown = scene.tombolo().cli(&["networks"]);
    assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown:#}");
    scene.docker(&["network", "rm", &id[..12]]);
    scene.must_clear_to(&before);
}

/// TestForbidDuplicateNetworkNames, TestNetworkCreateDelete
#[test]
fn a_second_network_of_one_name_is_refused_and_leaves_nothing() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let with_one = scene.snapshot();
    scene
        .try_network("net", &DUAL_TOO)
        .must_fail_with(&["already exists"]);
    with_one.must_come_back(&scene.host, Some(scene.tombolo()));
    scene.docker(&["network", "rm", "net"]);
    assert!(!scene.try_docker(&["network", "inspect", "net"]).ok);
    before.must_come_back(&scene.host, Some(scene.tombolo()));
}

/// TestDockerNetworkIPAMInvalidCombinations
#[test]
fn subnets_ranges_gateways_and_kept_addresses_that_do_not_fit_are_refused_and_leave_nothing() {
    let (scene, before) = scene();
    let subnet = ["--subnet", "10.60.0.0/16"];
    for misfit in [
        &["--ip-range", "10.61.0.0/24"][..],
        &["--gateway", "10.61.0.1"],
        &["--aux-address", "a=10.61.0.9"],
        &["--gateway", "10.60.0.1", "--gateway", "10.60.0.2"],
        &["--ip-range", "10.60.1.0/24", "--ip-range", "10.60.2.0/24"],
        &["--subnet", "10.60.0.0/16"],
        &["--subnet", "10.60.1.0/24"],
        &["--gateway", "10.60.0.1", "--aux-address", "a=10.60.0.1"],
    ] {
        let made = scene.try_network("net", &[&subnet, misfit].concat());
        assert!(!made.ok, "made, but should not: {}", made.line);
        assert_eq!(scene.tombolo().cli(&["pools"]), json!([]), "after {}", made.line);
    }
    before.must_come_back(&scene.host, Some(scene.tombolo()));
}

/// TestDockerNetworkIPAMMultipleNetworks, the part that does not apply: one subnet of each family is what a bridge has,
/// with Docker's own driver as with ours.
#[test]
fn two_subnets_of_one_family_are_refused_with_the_remedy() {
    let (scene, before) = scene();
    let args = ["--subnet", "10.60.0.0/24", "--subnet", "10.61.0.0/24"];
    scene.try_network("net", &args).must_fail_with(&["one subnet"]);
    before.must_come_back(&scene.host, Some(scene.tombolo()));
}

/// TestDockerNetworkIPAMOptions
#[test]
fn an_address_option_that_is_unknown_is_refused_by_its_name() {
    let (scene, before) = scene();
    scene
        .try_network("net", &["--ipam-opt", "opt1=drv1"])
        .must_fail_with(&["opt1"]);
    before.must_come_back(&scene.host, Some(scene.tombolo()));
}

/// TestDockerNetworkNullIPAMDriver
#[test]
fn a_network_without_addresses_is_refused_with_what_to_do() {
    let (scene, before) = scene();
    let driver = system_tests::scene::driver();
    scene
        .try_docker(&["network", "create", "-d", &driver, "--ipam-driver", "null", "net"])
        .must_fail_with(&["0.0.0.0/0"]);
    before.must_come_back(&scene.host, Some(scene.tombolo()));
}

/// TestDefaultNetworkOpts
#[test]
fn options_that_the_engine_has_for_all_our_networks_apply_unless_one_says_otherwise() {
    let plain = Scene::new();
    if !has(&plain, 24, "`default-network-opts` of the engine's settings") {
        return;
    }
    drop(plain);
    let scene = Scene::with_flags(&[
        "--default-network-opt",
        "tombolo=com.docker.network.driver.mtu=1400",
    ]);
    let before = scene.snapshot();
    scene.network("as-all", &[]);
    scene.network("other", &["-o", "com.docker.network.driver.mtu=1300"]);
    for (network, mtu) in [("as-all", 1400), ("other", 1300)] {
        let one = scene.container(&format!("on-{network}"), &["--network", network]);
        let link: Value = one.ip_json(&["link", "show", "dev", "eth0"])[0]["mtu"].take();
        assert_eq!(link, mtu, "{network}");
    }
    scene.must_clear_to(&before);
}
