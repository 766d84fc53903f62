//! Names: those of containers, aliases, hosts files, and names that only somebody outside knows.

use std::net::Ipv4Addr;

use system_tests::outside::OUTSIDE;
use system_tests::{Container, Scene, until};

use crate::dns::NameServer;
use crate::{DUAL, DUAL_TOO, has, scene};

/// What the outside's name server says of every name, and what one in a container says.
const FROM_OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const FROM_CONTAINER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 88);

/// A name that no container has.
const ELSEWHERE: &str = "name.example.com";

fn hosts_file(container: &Container) -> String {
    container.exec(&["cat", "/etc/hosts"])
}

/// Whether a name is resolved to an address in a container.
fn resolves(container: &Container, name: &str, to: &str) -> bool {
    container.try_exec(&["nslookup", name]).stdout.contains(to)
}

/// TestUserDefinedNetworkConnectDisconnectAlias
#[test]
fn an_alias_is_known_on_the_network_it_was_given_for_and_by_no_other_container() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let one = scene.container(
        "one",
        &[
            "--network",
            "first",
            "--network-alias",
            "uno",
            "--network-alias",
            "same",
        ],
    );
    let two = scene.container("two", &["--network", "first", "--network-alias", "same"]);
    let three = scene.container("three", &["--network", "second"]);
    assert!(two.pings("uno") && !three.pings("uno"));
    scene.docker(&["network", "connect", "--alias", "eins", "second", "one"]);
    assert!(three.pings("eins") && three.pings6("eins") && !two.pings("eins"));
    assert!(resolves(&two, "same", &one.ip("first")) && resolves(&two, "same", &two.ip("first")));
    scene.docker(&["network", "disconnect", "second", "one"]);
    assert!(!three.pings("eins") && two.pings("uno"));
    one.remove();
    assert!(!two.pings("uno"));
    assert!(resolves(&two, "same", &two.ip("first")));
    scene.must_clear_to(&before);
}

/// TestUserDefinedNetworkLinks, TestUserDefinedNetworkLinksWithRestart, TestUserDefinedNetworkConnectDisconnectLink
#[test]
fn a_link_is_a_name_for_one_container_alone_and_outlives_restarts() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let target = scene.container("target", &["--network", "first"]);
    let one = scene.container("one", &["--network", "first", "--link", "target:aim"]);
    let two = scene.container("two", &["--network", "first"]);
    assert!(one.pings("aim") && one.pings("target") && !two.pings("aim"));
    for restarted in ["target", "one"] {
        scene.docker(&["restart", restarted]);
        assert!(one.pings("aim"), "after a restart of {restarted}");
    }
    scene.docker(&["network", "connect", "second", "target"]);
    scene.docker(&["network", "connect", "--link", "target:goal", "second", "one"]);
    assert!(one.pings("goal"));
    scene.docker(&["network", "disconnect", "second", "one"]);
    assert!(!one.pings("goal") && one.pings("aim"));
    target.remove();
    assert!(!one.pings("aim"));
    scene.must_clear_to(&before);
}

/// TestEmbeddedDNSInvalidInput
#[test]
fn a_name_that_is_none_is_refused_and_the_next_one_is_resolved() {
    let (scene, before) = scene();
    scene.network("net", &DUAL);
    let one = scene.container("one", &["--network", "net"]);
    scene.container("two", &["--network", "net"]);
    for nonsense in [" ", "-", "a..b", ".."] {
        assert!(!one.pings(nonsense), "{nonsense:?}");
        assert!(one.pings("two"), "after {nonsense:?}");
    }
    scene.must_clear_to(&before);
}

/// TestEtcHostsIpv6
#[test]
fn the_hosts_file_has_the_containers_own_name_and_the_loopback_of_families_that_it_has() {
    let (scene, before) = scene();
    scene.network("dual", &DUAL);
    scene.network("four", &["--subnet", "10.61.0.0/24"]);
    let run = |name: &str, net: &str, more: &[&str]| {
        scene.container(name, &[&["--network", net, "--hostname", name], more].concat())
    };
    let (dual, four) = (run("on-dual", "dual", &[]), run("on-four", "four", &[]));
    let off = run("off", "dual", &["--sysctl", "net.ipv6.conf.all.disable_ipv6=1"]);
    let line = |text: &str, address: &str, name: &str| {
        text.lines().any(|line| {
            let mut words = line.split_whitespace();
            // Engines since 28 write a plug-in's IPv4 addresses in their IPv6 form. See ../../CONFORMANCE.md.
            let own = words.next().map(|word| word.trim_start_matches("::ffff:"));
            own == Some(address) && words.any(|word| word == name)
        })
    };
    let text = hosts_file(&dual);
    assert!(
        line(&text, "127.0.0.1", "localhost") && line(&text, "::1", "localhost"),
        "{text}"
    );
    assert!(line(&text, &dual.ip("dual"), "on-dual"), "{text}");
    let text = hosts_file(&four);
    assert!(line(&text, &four.ip("four"), "on-four"), "{text}");
    if has(
        &scene,
        26,
        "a hosts file without IPv6 where the container has none",
    ) {
        let text = hosts_file(&off);
        assert!(!line(&text, "::1", "localhost"), "{text}");
        assert!(line(&hosts_file(&dual), &dual.ip6("dual"), "on-dual"));
    }
    scene.must_clear_to(&before);
}

/// TestEtcHostsDisconnect
#[test]
fn the_hosts_file_forgets_the_address_of_a_network_that_was_left() {
    let (scene, before) = scene();
    scene.network("first", &DUAL);
    scene.network("second", &DUAL_TOO);
    let one = scene.container("one", &["--network", "first", "--hostname", "me"]);
    scene.docker(&["network", "connect", "second", "one"]);
    let [first, second] = [one.ip("first"), one.ip("second")];
    assert!(hosts_file(&one).contains(&first));
    if has(&scene, 29, "taking a network that was left out of the hosts file") {
        assert!(hosts_file(&one).contains(&second));
        scene.docker(&["network", "disconnect", "second", "one"]);
        let text = hosts_file(&one);
        assert!(!text.contains(&second) && text.contains(&first), "{text}");
    }
    scene.must_clear_to(&before);
}

/// TestInternalNetworkDNS
#[test]
fn a_name_from_outside_is_found_where_there_is_a_way_out_and_only_there() {
    let (scene, before) = scene();
    // The host's own name server, and so the one that the engine asks for its containers.
    let server = NameServer::at(scene.outside.spaces(), OUTSIDE[0], FROM_OUTSIDE);
    let answer = FROM_OUTSIDE.to_string();
    scene.network("open", &["--subnet", "10.60.0.0/24"]);
    scene.network("inner", &["--internal", "--subnet", "10.61.0.0/24"]);
    let one = scene.container("one", &["--network", "inner"]);
    assert!(!resolves(&one, ELSEWHERE, &answer), "no way out");
    assert_eq!(server.asked(), 0, "and nobody has asked for it");
    scene.docker(&["network", "connect", "open", "one"]);
    until("a name from outside is found over the second network", || {
        resolves(&one, ELSEWHERE, &answer).then_some(())
    });
    scene.docker(&["network", "disconnect", "open", "one"]);
    let asked = server.asked();
    assert!(!resolves(&one, ELSEWHERE, &answer), "no way out any more");
    assert_eq!(server.asked(), asked);
    scene.must_clear_to(&before);
}

/// TestIntDNSAsExtDNS, TestInternalNetworkLocalDNS
#[test]
fn a_container_can_be_the_name_server_of_others_on_open_and_on_internal_networks() {
    let (scene, before) = scene();
    scene.network("open", &["--subnet", "10.60.0.0/24"]);
    scene.network("inner", &["--internal", "--subnet", "10.61.0.0/24"]);
    for (network, since) in [("open", 20), ("inner", 27)] {
        if !has(
            &scene,
            since,
            &format!("a name server in a container, {network} network"),
        ) {
            continue;
        }
        let knows = scene.container(&format!("knows-{network}"), &["--network", network]);
        let _server = NameServer::at(&knows.spaces(), "0.0.0.0", FROM_CONTAINER);
        let asks = scene.container(
            &format!("asks-{network}"),
            &["--network", network, "--dns", &knows.ip(network)],
        );
        assert!(
            resolves(&asks, ELSEWHERE, &FROM_CONTAINER.to_string()),
            "on network {network}"
        );
        assert!(
            resolves(&asks, knows.name(), &knows.ip(network)),
            "names of neighbours come first"
        );
    }
    scene.must_clear_to(&before);
}

/// TestExtDNSInIPv6OnlyNw
#[test]
fn a_name_from_outside_is_found_on_a_network_without_ipv4() {
    let (scene, before) = scene();
    if !has(&scene, 28, "networks without IPv4") {
        return;
    }
    let _server = NameServer::at(scene.outside.spaces(), OUTSIDE[0], FROM_OUTSIDE);
    scene.network("six", &["--ipv4=false", "--ipv6", "--subnet", "fd60::/64"]);
    let one = scene.container("one", &["--network", "six"]);
    assert!(resolves(&one, ELSEWHERE, &FROM_OUTSIDE.to_string()));
    scene.must_clear_to(&before);
}

/// TestDaemonDNSFallback, TestDNSNamesForNonSwarmScopedNetworks: a container's own name, on a host that is no swarm's.
#[test]
fn a_containers_own_name_is_resolved_to_its_own_addresses() {
    let scene = Scene::new();
    let before = scene.snapshot();
    scene.network("net", &DUAL);
    let one = scene.container("one", &["--network", "net"]);
    assert!(resolves(&one, "one", &one.ip("net")) && resolves(&one, "one", &one.ip6("net")));
    scene.must_clear_to(&before);
}
