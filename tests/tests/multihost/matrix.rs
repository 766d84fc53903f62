//! Every pair of containers, over every kind and family, with every sort and size of packet.

use std::net::{IpAddr, SocketAddr};

use system_tests::{Container, Kind, Plan, Sites, ask_tcp, ask_udp, say, until};

use crate::echo::{self, Echo, PORT};

/// Sizes of datagrams: the least, what fits a tunnel's packet and one more, what fits the wire's, and the largest there is.
const SIZES: [usize; 7] = [1, 1402, 1422, 1423, 1472, 9000, 65_000];

/// Sizes of what is sent on a connection.
const STREAMS: [usize; 3] = [1, 1460, 64 << 10];

/// Hosts, with different engines where newer ones are asked for.
pub fn plan(count: usize) -> Plan {
    let mut plan = Plan::of(count).ipv6();
    if system_tests::engine::of_run() != "native" {
        for at in 0..count {
            plan = plan.engine(at, ["native", "trixie", "sid"][at % 3]);
        }
    }
    plan
}

/// A network of both families.
pub fn network(sites: &Sites, name: &str, kind: Kind, number: u8, more: &[&str]) {
    let (v4, v6) = (format!("10.{number}.0.0/16"), format!("fd{number}::/64"));
    let args = ["--subnet", &v4, "--ipv6", "--subnet", &v6];
    sites.network(name, kind, &[&args, more].concat());
}

/// One container a host on a network.
pub fn one_each(sites: &Sites, network: &str) -> Vec<Container> {
    let name = |at: usize| format!("{network}-{at}");
    sites
        .iter()
        .enumerate()
        .map(|(at, site)| site.container(&name(at), network, &[]))
        .collect()
}

/// A container's addresses on a network.
pub fn addresses(container: &Container, network: &str) -> [IpAddr; 2] {
    [container.ip(network), container.ip6(network)].map(|text| text.parse().expect("an address"))
}

/// That each container reaches each other one with everything.
#[track_caller]
fn all_reach(containers: &[Container], network: &str) {
    let echoes: Vec<Echo> = containers
        .iter()
        .map(|container| Echo::in_place(&container.spaces()))
        .collect();
    std::thread::scope(|scope| {
        let reach = |one| scope.spawn(move || reaches(one, containers, network));
        let threads: Vec<_> = containers.iter().map(reach).collect();
        for thread in threads {
            // Its own words have been printed.
            assert!(thread.join().is_ok(), "a container doesn't reach the others");
        }
    });
    drop(echoes);
}

/// That one container reaches each other one with everything.
fn reaches(one: &Container, containers: &[Container], network: &str) {
    let place = one.spaces();
    for other in containers.iter().filter(|other| other.name() != one.name()) {
        for address in addresses(other, network) {
            let pair = format!("{} to {} at {address}", one.name(), other.name());
            let pings = || match address.is_ipv6() {
                true => one.pings6(&address.to_string()),
                false => one.pings(&address.to_string()),
            };
            until(&format!("{pair}: ping"), || pings().then_some(()));
            let to = SocketAddr::new(address, PORT);
            for size in SIZES {
                let back = echo::datagram(&place, to, size);
                assert!(back.is_ok(), "{pair}: a datagram of {size} bytes: {back:?}");
            }
            for size in STREAMS {
                let back = echo::stream(&place, to, size);
                assert!(back.is_ok(), "{pair}: a stream of {size} bytes: {back:?}");
            }
        }
    }
}

/// That a server sees the container itself, and not its host.
#[track_caller]
fn senders_are_seen(containers: &[Container], network: &str) {
    let [first, others @ ..] = containers else {
        panic!("no containers")
    };
    let place = first.spaces();
    let tcp = system_tests::Answerer::tcp(&place, "[::]:80");
    let udp = system_tests::Answerer::udp(&place, "[::]:80");
    for other in others {
        for (to, from) in addresses(first, network)
            .into_iter()
            .zip(addresses(other, network))
        {
            let server = SocketAddr::new(to, 80).to_string();
            let seen = [
                ask_tcp(&other.spaces(), &server),
                ask_udp(&other.spaces(), &server),
            ];
            for seen in seen {
                assert_eq!(seen.ok(), Some(from), "{} asks {server}", other.name());
            }
        }
    }
    drop((tcp, udp));
}

#[test]
fn every_pair_of_three_hosts_reaches_each_other_with_everything() {
    let sites = plan(3).joined();
    network(&sites, "over", Kind::Overlay, 42, &[]);
    network(&sites, "routed", Kind::HostGateway, 43, &[]);
    network(&sites, "inside", Kind::Overlay, 44, &["--internal"]);
    network(&sites, "hidden", Kind::HostGateway, 45, &["--internal"]);
    for net in ["over", "routed", "inside", "hidden"] {
        let containers = one_each(&sites, net);
        all_reach(&containers, net);
        senders_are_seen(&containers, net);
        say(&format!("{net}: every pair, every size"));
    }
}

#[test]
fn every_pair_of_six_hosts_reaches_each_other_with_everything() {
    let sites = plan(6).joined();
    network(&sites, "over", Kind::Overlay, 42, &[]);
    network(&sites, "routed", Kind::HostGateway, 43, &[]);
    for net in ["over", "routed"] {
        let containers = one_each(&sites, net);
        all_reach(&containers, net);
        say(&format!("{net}: every pair of six hosts, every size"));
    }
}

#[test]
fn filtered_bridges_and_strict_paths_change_nothing() {
    let sites = Plan::of(2).ipv6().joined();
    for site in sites.iter() {
        for (setting, value) in [
            ("net.ipv4.conf.all.rp_filter", "1"),
            ("net.ipv4.conf.wire0.rp_filter", "1"),
            ("net.bridge.bridge-nf-call-iptables", "1"),
            ("net.bridge.bridge-nf-call-ip6tables", "1"),
        ] {
            site.host.run("sysctl", &["-w", &format!("{setting}={value}")]);
        }
    }
    network(&sites, "over", Kind::Overlay, 42, &[]);
    network(&sites, "routed", Kind::HostGateway, 43, &[]);
    for net in ["over", "routed"] {
        let containers = one_each(&sites, net);
        all_reach(&containers, net);
        senders_are_seen(&containers, net);
    }
}
