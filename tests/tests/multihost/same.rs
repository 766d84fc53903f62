//! One network on all hosts: what must be the same, what each host has for itself, and what becomes of the others when one
//! removes it.

use system_tests::{Answerer, Kind, Plan, ask_tcp, until};

use crate::matrix::{addresses, network, one_each};

#[test]
fn definitions_that_differ_are_refused_with_both_values_and_the_host_named() {
    let sites = Plan::of(2).joined();
    let make = |at: usize, name: &str, kind, args: &[&str]| {
        let subnet = ["--subnet", "10.42.0.0/16"];
        sites[at].try_network(name, kind, &[&subnet, args].concat())
    };
    make(
        0,
        "app",
        Kind::Overlay,
        &["--gateway", "10.42.0.1", "-o", "vni=5000", "-o", "mtu=1400"],
    )
    .must();
    for (kind, args, texts) in [
        (
            Kind::Overlay,
            &["--gateway", "10.42.0.9"][..],
            ["gateway 10.42.0.1", "10.42.0.9"],
        ),
        (Kind::Overlay, &["-o", "vni=5001"], ["vni 5000", "5001"]),
        (Kind::Overlay, &["-o", "mtu=1300"], ["mtu 1400", "1300"]),
        (Kind::HostGateway, &[], ["kind overlay", "host-gateway"]),
    ] {
        let refused = make(1, "other", kind, args);
        refused.must_fail_with(&[texts[0], texts[1], "by host a"]);
    }
    // What is left open is what the others have.
    make(1, "app", Kind::Overlay, &[]).must();
    let link = |at: usize| sites[at].host.run("ip", &["-d", "link", "show", "type", "vxlan"]);
    for at in [0, 1] {
        let shown = link(at);
        assert!(
            shown.contains("vxlan id 5000") && shown.contains("mtu 1400"),
            "{shown}"
        );
    }
    // Another network can't have the number.
    let subnet = ["--subnet", "10.43.0.0/16", "-o", "vni=5000"];
    sites[1]
        .try_network("second", Kind::Overlay, &subnet)
        .must_fail_with(&["VNI 5000", "10.42.0.0/16"]);
}

#[test]
fn a_network_needs_a_cluster_and_our_addresses() {
    let sites = Plan::of(1).started();
    let refused = sites[0].try_network("app", Kind::Overlay, &["--subnet", "10.42.0.0/16"]);
    refused.must_fail_with(&["type: overlay", "this host is in no cluster"]);
    sites.join();
    let line = [
        "network",
        "create",
        "-d",
        "tombolo",
        "-o",
        "type=overlay",
        "--subnet",
        "10.42.0.0/16",
        "app",
    ];
    sites[0]
        .engine
        .try_docker(&line)
        .must_fail_with(&["--ipam-driver tombolo"]);
}

#[test]
fn each_host_has_its_own_way_out_and_ports_and_what_one_removes_stays_with_the_others() {
    let sites = Plan::of(2).ipv6().joined();
    network(&sites, "over", Kind::Overlay, 42, &[]);
    network(&sites, "routed", Kind::HostGateway, 43, &[]);
    for net in ["over", "routed"] {
        let containers: Vec<_> = sites
            .iter()
            .enumerate()
            .map(|(at, site)| site.container(&format!("{net}-{at}"), net, &["-p", "8080:80"]))
            .collect();
        // The world sees a container as its own host.
        let world: &system_tests::Spaces = sites.wire(0);
        let server = Answerer::tcp(world, "[::]:9090");
        for (at, container) in containers.iter().enumerate() {
            let seen = ask_tcp(&container.spaces(), "10.200.0.254:9090").expect("the world answers");
            assert_eq!(seen.to_string(), sites.wire(0).ipv4(at), "{net} on {at}");
        }
        drop(server);
        // And reaches each host's port on that host, with the asker's own address seen.
        for (at, container) in containers.iter().enumerate() {
            let server = Answerer::tcp(&container.spaces(), "[::]:80");
            let port = format!("{}:8080", sites.wire(0).ipv4(at));
            let seen = ask_tcp(world, &port).unwrap_or_else(|e| panic!("{net}: {port}: {e}"));
            assert_eq!(seen.to_string(), "10.200.0.254");
            drop(server);
        }
        // A container asks the port of the other host, whose container is on its own network.
        let server = Answerer::tcp(&containers[1].spaces(), "[::]:80");
        let port = format!("{}:8080", sites.wire(0).ipv4(1));
        ask_tcp(&containers[0].spaces(), &port)
            .unwrap_or_else(|e| panic!("{net}: from the other host's container: {e}"));
        drop(server);
        containers.iter().for_each(|container| container.remove());
    }

    let containers = one_each(&sites, "over");
    sites[0].engine.docker(&["rm", "-f", containers[0].name()]);
    sites[0].engine.docker(&["network", "rm", "over"]);
    until("the tunnel goes with the network", || {
        let links = sites[0].host.run("ip", &["link", "show", "type", "vxlan"]);
        links.trim().is_empty().then_some(())
    });
    let again = sites[1].container("again", "over", &[]);
    let [v4, v6] = addresses(&containers[1], "over");
    assert!(again.pings(&v4.to_string()) && again.pings6(&v6.to_string()));
    // And it comes back there as if nothing had been.
    sites[0].network(
        "over",
        Kind::Overlay,
        &["--subnet", "10.42.0.0/16", "--ipv6", "--subnet", "fd42::/64"],
    );
    let back = sites[0].container("back", "over", &[]);
    until("the host that is back reaches the other", || {
        back.pings(&v4.to_string()).then_some(())
    });
}
