//! What tunnels run on: large and small packets, IPv6, hosts whose wires differ.

use system_tests::json::text;
use system_tests::{Container, Kind, Plan, Sites, until};

use crate::echo::{self, Echo, PORT};
use crate::matrix::{addresses, network, one_each};

/// The MTU of a container's only interface.
fn mtu(container: &Container) -> u64 {
    let links = container.ip_json(&["link", "show", "eth0"]);
    links[0]["mtu"].as_u64().expect("an MTU")
}

/// That two containers reach each other with all that fits, and with what is cut into pieces.
#[track_caller]
fn reach(containers: &[Container], network: &str) {
    let echo = Echo::in_place(&containers[1].spaces());
    let place = containers[0].spaces();
    for address in addresses(&containers[1], network) {
        let to = std::net::SocketAddr::new(address, PORT);
        until(&format!("{address} is reached"), || {
            echo::datagram(&place, to, 1).ok()
        });
        let headers = if address.is_ipv6() { 48 } else { 28 };
        let most = usize::try_from(mtu(&containers[0])).expect("a size") - headers;
        for size in [most, most + 1, 60_000] {
            let back = echo::datagram(&place, to, size);
            assert!(back.is_ok(), "{size} bytes to {address}: {back:?}");
        }
        let back = echo::stream(&place, to, 300_000);
        assert!(back.is_ok(), "a stream to {address}: {back:?}");
    }
    drop(echo);
}

/// What doctor says of a check.
pub fn finding(sites: &Sites, at: usize, check: &str) -> (String, String) {
    let findings = sites[at].tombolo.findings();
    let found = findings.iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("doctor says nothing of {check}"));
    (
        text(found, "/verdict").to_owned(),
        text(found, "/evidence").to_owned(),
    )
}

#[test]
fn large_packets_are_used_where_the_wire_takes_them() {
    let sites = Plan::of(2).ipv6().mtu(9000).joined();
    network(&sites, "over", Kind::Overlay, 42, &[]);
    network(&sites, "routed", Kind::HostGateway, 43, &[]);
    for (net, most) in [("over", 8950), ("routed", 9000)] {
        let containers = one_each(&sites, net);
        assert_eq!(containers.iter().map(mtu).collect::<Vec<_>>(), [most; 2], "{net}");
        reach(&containers, net);
    }
    assert_eq!(finding(&sites, 0, "tunnels.mtu").0, "ok");
    let (verdict, evidence) = finding(&sites, 0, "tunnels.probes");
    assert!(
        verdict == "ok" && evidence.starts_with("packets of 8950 bytes pass"),
        "{evidence}"
    );
}

#[test]
fn tunnels_run_over_ipv6() {
    let wired = Plan::of(2).ipv6();
    let sites = wired
        .setting(0, "TOMBOLO_ADVERTISE", "fd00:200::1")
        .setting(1, "TOMBOLO_ADVERTISE", "fd00:200::2")
        .joined();
    network(&sites, "over", Kind::Overlay, 42, &[]);
    let containers = one_each(&sites, "over");
    assert_eq!(mtu(&containers[0]), 1430);
    reach(&containers, "over");
    let links = sites[0].host.run("ip", &["-d", "link", "show", "type", "vxlan"]);
    assert!(links.contains("local fd00:200::1"), "{links}");
    let (verdict, evidence) = finding(&sites, 0, "tunnels.probes");
    assert!(
        verdict == "ok" && evidence.starts_with("packets of 1430 bytes pass"),
        "{evidence}"
    );
}

#[test]
fn the_least_wire_counts_for_all_and_doctor_tells_both() {
    let cabled = Plan::of(2).ipv6().cabled();
    cabled.hosts()[1].run("ip", &["link", "set", "wire0", "mtu", "1400"]);
    let sites = cabled.start(|_| ());
    sites.join();
    until("each host knows the other's wire", || {
        let told = |at: usize| {
            let status = sites[at].status();
            let hosts = system_tests::json::rows(&status["hosts"]).to_vec();
            hosts.iter().all(|host| host["mtu"].is_u64())
        };
        (told(0) && told(1)).then_some(())
    });
    network(&sites, "over", Kind::Overlay, 42, &[]);
    let containers = one_each(&sites, "over");
    assert_eq!(containers.iter().map(mtu).collect::<Vec<_>>(), [1350, 1350]);
    reach(&containers, "over");
    let (verdict, evidence) = finding(&sites, 0, "tunnels.mtu");
    assert_eq!(verdict, "warning");
    assert_eq!(
        evidence,
        "the wire of b takes packets of 1400 bytes, that of a of 1500"
    );
}

#[test]
fn a_host_on_another_wire_is_told_of_or_reached_through_a_tunnel() {
    let sites = Plan::of(3).ipv6().started();
    // The third one is behind a router: its neighbours know it by a route only.
    let wire: &system_tests::Spaces = sites.wire(0);
    wire.run("sysctl", &["-w", "net.ipv4.ip_forward=1"]);
    wire.run("ip", &["address", "add", "10.202.0.254/24", "dev", "br0"]);
    sites[2]
        .host
        .run("ip", &["address", "flush", "dev", "wire0", "scope", "global"]);
    sites[2]
        .host
        .run("ip", &["address", "add", "10.202.0.3/24", "dev", "wire0"]);
    sites[2]
        .host
        .run("ip", &["route", "add", "default", "via", "10.202.0.254"]);
    for at in [0, 1] {
        sites[at]
            .host
            .run("ip", &["route", "add", "10.202.0.0/24", "via", "10.200.0.254"]);
    }
    sites.join();
    let v4 = ["--subnet", "10.43.0.0/16"];
    sites.network("routed", Kind::HostGateway, &v4);
    let both = ["--subnet", "10.44.0.0/16", "-o", "fallback=overlay"];
    sites.network("both", Kind::HostGateway, &both);
    let routed: Vec<Container> = one_each(&sites, "routed");
    until("the far host is told of", || {
        let (verdict, evidence) = finding(&sites, 0, "routes.adjacent");
        (verdict == "fault" && evidence.contains("network routed: host c (10.202.0.3:7947)")).then_some(())
    });
    assert!(routed[0].pings(&routed[1].ip("routed")));
    assert!(!routed[0].pings(&routed[2].ip("routed")));
    let both: Vec<Container> = one_each(&sites, "both");
    for one in &both {
        for other in both.iter().filter(|other| other.name() != one.name()) {
            let address = other.ip("both");
            until(&format!("{} reaches {}", one.name(), other.name()), || {
                one.pings(&address).then_some(())
            });
        }
    }
    // Near hosts by a route, the far one by the tunnel.
    let routes = sites[0].host.run("ip", &["route", "show", "proto", "116"]);
    assert!(
        routes.contains("via 10.200.0.2") && !routes.contains("10.202.0.3"),
        "{routes}"
    );
    let tunnel = sites[0].host.run("bridge", &["fdb", "show"]);
    assert!(tunnel.contains("dst 10.202.0.3"), "{tunnel}");
    // So the far one's alone is tried.
    let (verdict, evidence) = finding(&sites, 0, "tunnels.probes");
    assert_eq!(
        (verdict.as_str(), evidence.as_str()),
        (
            "ok",
            "packets of 1450 bytes pass the tunnels to and from 1 other host"
        )
    );
}
