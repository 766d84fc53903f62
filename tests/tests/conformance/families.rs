//! Address families: what has no IPv6, or no IPv4, and what is said of it.

use system_tests::outside::{HOST, OUTSIDE};
use system_tests::{Answerer, Container, ask_tcp};

use crate::{DUAL, has, scene};

/// The addresses of a family on the container's interfaces, loopback excepted.
fn addresses(container: &Container, family: &str) -> Vec<String> {
    let shown = container.ip_json(&[family, "address"]);
    let links = shown.as_array().expect("links").iter();
    let others = links.filter(|link| link["ifname"] != "lo");
    let all = others.filter_map(|link| link["addr_info"].as_array()).flatten();
    all.map(|a| a["local"].to_string()).collect()
}

/// What the name server of a container says of a name.
fn lookup(container: &Container, name: &str) -> String {
    container.try_exec(&["nslookup", name]).stdout
}

/// TestNonIPv6Network
#[test]
fn a_container_of_a_network_without_ipv6_has_not_even_a_link_local_address() {
    let (scene, before) = scene();
    scene.network("net", &["--subnet", "10.60.0.0/24"]);
    let one = scene.container("one", &["--network", "net"]);
    assert_eq!(addresses(&one, "-6"), [""; 0]);
    assert_eq!(
        one.exec(&["cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"]),
        "1"
    );
    assert_eq!(one.ip6("net"), "");
    // The host's side neither: its bridge would be a way round all that was decided for IPv4.
    let bridge = scene.tombolo().cli(&["networks"])[0]["bridge"]
        .as_str()
        .expect("a bridge")
        .to_owned();
    let host = scene.host.run("ip", &["-6", "address", "show", "dev", &bridge]);
    assert_eq!(host, "");
    scene.must_clear_to(&before);
}

/// TestContainerDisabledIPv6, TestDisableIPv6Addrs
#[test]
fn a_container_that_switches_ipv6_off_is_known_by_its_ipv4_address_only() {
    let (scene, before) = scene();
    if !has(&scene, 27, "telling whether a container has IPv6") {
        return;
    }
    scene.network("net", &DUAL);
    let off = ["--sysctl", "net.ipv6.conf.all.disable_ipv6=1"];
    let one = scene.container("one", &[&["--network", "net"], &off[..]].concat());
    let two = scene.container("two", &["--network", "net"]);
    assert_eq!(addresses(&one, "-6"), [""; 0]);
    assert!(two.pings("one") && one.pings("two"));
    let said = lookup(&two, "one");
    assert!(said.contains(&one.ip("net")) && !said.contains("fd60:"), "{said}");
    assert!(
        lookup(&one, "two").contains(&two.ip6("net")),
        "what others have is told to everybody"
    );
    scene.must_clear_to(&before);
}

/// TestDisableIPv4
#[test]
fn a_network_without_ipv4_has_ipv6_in_full() {
    let (scene, before) = scene();
    if !has(&scene, 28, "networks without IPv4") {
        return;
    }
    scene.network("six", &["--ipv4=false", "--ipv6", "--subnet", "fd60::/64"]);
    let one = scene.container("one", &["--network", "six", "-p", "8080:80"]);
    let two = scene.container("two", &["--network", "six"]);
    assert_eq!(addresses(&one, "-4"), [""; 0]);
    assert_eq!(one.ip("six"), "");
    assert!(one.pings6("two") && two.pings6("one"));
    let outside = scene.outside.spaces();
    let _out = Answerer::tcp(outside, "[::]:80");
    let seen = ask_tcp(&one.spaces(), &format!("[{}]:80", OUTSIDE[1])).expect("the way out");
    assert_eq!(seen.to_string(), HOST[1]);
    let _in = Answerer::tcp(&one.spaces(), "[::]:80");
    let seen = ask_tcp(outside, &format!("[{}]:8080", HOST[1])).expect("the way in");
    assert_eq!(seen.to_string(), OUTSIDE[1]);
    ask_tcp(outside, &format!("{}:8080", HOST[0])).expect_err("no IPv4, so no port of IPv4");
    scene.must_clear_to(&before);
}

/// TestSetEndpointSysctl
#[test]
fn settings_of_one_interface_are_made_when_it_is() {
    let (scene, before) = scene();
    if !has(&scene, 28, "settings for an interface on the command line") {
        return;
    }
    scene.network("net", &DUAL);
    let key = "com.docker.network.endpoint.sysctls";
    let wish = format!(
        "name=net,\"driver-opt={key}=net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.hop_limit=42\""
    );
    let one = scene.container("one", &["--network", &wish]);
    for (file, value) in [
        ("ipv4/conf/eth0/log_martians", "1"),
        ("ipv6/conf/eth0/hop_limit", "42"),
    ] {
        assert_eq!(
            one.exec(&["cat", &format!("/proc/sys/net/{file}")]),
            value,
            "{file}"
        );
    }
    scene.must_clear_to(&before);
}

/// TestDisableIPv6OnInterface
#[test]
fn one_interface_can_be_without_ipv6_while_the_other_has_it() {
    let (scene, before) = scene();
    if !has(&scene, 28, "settings for an interface on the command line") {
        return;
    }
    // An engine that announces addresses wants to announce the one that is switched off as well, and to go out through it,
    // and fails; with its own bridge too. So there is no way out here.
    let quiet = ["--internal", "-o", "com.docker.network.advertise_addr_nmsgs=0"];
    scene.network("net", &[&DUAL[..], &quiet[..]].concat());
    let key = "com.docker.network.endpoint.sysctls";
    let wish = format!("name=net,driver-opt={key}=net.ipv6.conf.IFNAME.disable_ipv6=1");
    let one = scene.container("one", &["--network", &wish]);
    let two = scene.container("two", &["--network", "net"]);
    assert_eq!(addresses(&one, "-6"), [""; 0]);
    assert!(two.pings(&one.ip("net")) && !addresses(&two, "-6").is_empty());
    scene.must_clear_to(&before);
}
