//! A container that goes on on another host, with the same address and another hardware address: those that knew it reach
//! it at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use system_tests::Container;
use system_tests::sites::{Kind, Plan, Sites};
use system_tests::wait::until;

/// The addresses that move, and the hardware addresses behind them.
const ADDRESSES: [&str; 2] = ["10.42.0.77", "fd42::77"];
const MACS: [&str; 2] = ["02:42:00:00:00:0a", "02:42:00:00:00:0b"];

/// How soon after its start it is to be reached.
const SOON: Duration = Duration::from_secs(1);

/// Where the container listens, and how often it is asked.
const PORT: u16 = 7777;
const AGAIN: Duration = Duration::from_millis(50);

/// Three hosts with a network.
fn sites(kind: Kind) -> Sites {
    let sites = Plan::of(3).ipv6().joined();
    sites.network(
        "app",
        kind,
        &["--subnet", "10.42.0.0/16", "--ipv6", "--subnet", "fd42::/64"],
    );
    // A bridge that gets its first container looks for duplicates of its own address of IPv6 for a second or two, and looks
    // for no neighbours before.
    for site in &sites[..2] {
        site.container("resident", "app", &[]);
    }
    sites
}

/// The container that moves, on a host.
#[track_caller]
fn mover(sites: &Sites, at: usize, mac: &str) -> Container {
    let [v4, v6] = ADDRESSES;
    let args = ["--ip", v4, "--ip6", v6, "--mac-address", mac];
    // Another host may not have given the address up yet.
    until("the container may have its address", || {
        sites[at].try_container("mover", "app", &args).ok()
    })
}

/// How long it takes until a datagram from one container comes back from an address of the other; none if it takes too long.
fn echoes(from: &Container, to: &Container, address: &str) -> Option<Duration> {
    let address: IpAddr = address.parse().expect("an address");
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = |of: &Container, port| {
        let socket = of.spaces().enter(|| UdpSocket::bind((any, port)));
        let socket = socket.expect("a socket");
        socket.set_read_timeout(Some(AGAIN)).expect("a time limit");
        socket
    };
    let (client, server) = (socket(from, 0), socket(to, PORT));
    let (begun, mut buffer) = (Instant::now(), [0; 8]);
    while begun.elapsed() < SOON {
        client.send_to(b"there?", (address, PORT)).ok();
        if let Ok((length, whom)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..length], whom).ok();
            if client.recv(&mut buffer).is_ok() {
                return Some(begun.elapsed());
            }
        }
    }
    None
}

/// Moves the container along some hosts; the watcher reaches it soon each time.
#[track_caller]
fn is_followed(sites: &Sites, watcher: &Container, along: &[usize]) {
    let mut macs = MACS.iter().cycle();
    for at in along {
        let mover = mover(sites, *at, macs.next().expect("a cycle"));
        for address in ADDRESSES {
            let took = echoes(watcher, &mover, address);
            let believed = watcher.spaces().run("ip", &["neigh"]);
            let host = sites[*at].name();
            assert!(
                took.is_some(),
                "{address} on {host}: not within {SOON:?}; {believed}"
            );
            system_tests::say(&format!("{address} on {host}: reached within {took:?}"));
        }
        mover.remove();
    }
}

#[test]
fn a_container_that_moves_is_reached_at_once_through_an_overlay() {
    let sites = sites(Kind::Overlay);
    let watcher = sites[2].container("watcher", "app", &[]);
    // To another host, to that of the watcher, and away from it.
    is_followed(&sites, &watcher, &[0, 1, 2, 0]);
}

#[test]
fn a_container_that_moves_is_reached_at_once_by_routes() {
    let sites = sites(Kind::HostGateway);
    let watcher = sites[2].container("watcher", "app", &[]);
    is_followed(&sites, &watcher, &[2, 0, 1, 2]);
}
