//! The lab itself, with nothing but Docker's own bridge: what the other tests rely on.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use system_tests::dhcp::Dhcp;
use system_tests::lan::{self, ROUTER, STRANGER};
use system_tests::{Answerer, Engine, Flow, Host, Lan, Outside, Spaces, ask_tcp, ask_udp, say, until};

/// How soon a packet is there on a machine with much else to do.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn an_engine_runs_containers_that_are_reached_from_outside() {
    let host = Arc::new(Host::with_engine_files());
    let outside = Outside::of(&host);
    let engine = Arc::new(Engine::start(&host, &[]));
    say(&format!("engine {}", engine.version()));
    let web = system_tests::Container::run(&host, &engine, "web", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let place = web.spaces();
    let (_tcp, _udp) = (
        Answerer::tcp(&place, "0.0.0.0:80"),
        Answerer::udp(&place, "0.0.0.0:53"),
    );
    assert_eq!(
        ask_tcp(outside.spaces(), "192.0.2.2:8080")
            .expect("a published port")
            .to_string(),
        "192.0.2.1"
    );
    assert_eq!(
        ask_udp(outside.spaces(), "192.0.2.2:5353")
            .expect("a published port")
            .to_string(),
        "192.0.2.1"
    );
    assert!(ask_tcp(outside.spaces(), "192.0.2.2:8081").is_err());
    let groups = || {
        Command::new("find")
            .args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", host.name()])
            .output()
    };
    let found =
        |output: std::io::Result<std::process::Output>| !output.expect("starting find").stdout.is_empty();
    assert!(found(groups()), "containers are in groups of their host's name");
    engine.stop();
    let name = host.name().to_owned();
    drop((place, web, engine));
    drop(Arc::into_inner(host).expect("nobody else holds the host"));
    let left = Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", &name])
        .output();
    assert!(!found(left), "groups of {name} are left");
}

#[test]
fn a_dropped_host_takes_its_processes_and_links_with_it() {
    let host = Host::new();
    let outside = Outside::of(&host);
    let mut sleep = Command::new("sleep");
    sleep.arg("3600");
    let process = host.start(sleep, "/var/log/sleep.log");
    assert!(
        outside
            .spaces()
            .try_run("busybox", &["ping", "-c", "1", "192.0.2.2"])
            .ok
    );
    drop(host);
    assert!(
        process
            .lock()
            .expect("no panic while held")
            .try_wait()
            .expect("our child")
            .is_some()
    );
    until("the wire is gone", || {
        (!outside.spaces().try_run("ip", &["link", "show", "wire0"]).ok).then_some(())
    });
}

#[test]
fn a_flow_tells_which_datagrams_were_lost() {
    let (left, right) = (Spaces::new_network(), Spaces::new_network());
    let pid = std::process::id();
    left.run("ip", &["link", "add", "w0", "type", "veth", "peer", "name", "w1"]);
    let fd = std::os::fd::AsRawFd::as_raw_fd(right.network());
    left.run(
        "ip",
        &["link", "set", "w1", "netns", &format!("/proc/{pid}/fd/{fd}")],
    );
    for (end, link, address) in [(&left, "w0", "10.0.0.1/24"), (&right, "w1", "10.0.0.2/24")] {
        end.run("ip", &["address", "add", address, "dev", link]);
        end.run("ip", &["link", "set", link, "up"]);
    }
    let flow = Flow::start(&left, &right, "10.0.0.2:7000");
    until("half a second of it", || (flow.so_far() > 500).then_some(()));
    right.run(
        "nft",
        &["add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }"],
    );
    let stopped_at = flow.so_far();
    left.run("sleep", &["0.3"]);
    right.run("nft", &["delete table inet t"]);
    until("some more", || (flow.so_far() > stopped_at + 200).then_some(()));
    let tally = flow.stop();
    assert!(
        (100..1000).contains(&tally.lost.len()),
        "{} of {} lost",
        tally.lost.len(),
        tally.sent
    );
    assert!(
        tally.lost.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "one gap: {:?}",
        tally.lost
    );
}

#[test]
fn a_lan_has_a_router_an_outside_and_a_stranger() {
    let lan = Lan::new();
    let host = Arc::new(Host::new());
    lan.plug(&host, 0);
    let here = host.spaces();
    for address in [ROUTER, STRANGER, lan::OUTSIDE].concat() {
        until(&format!("{address} is reached"), || {
            lan::pings(here, address, 1).then_some(())
        });
    }
    for address in Lan::host(0) {
        assert!(lan::pings(lan.outside(), &address, 3), "{address} from outside");
        let came = lan::reached(lan.router(), here, &address, SOON);
        assert!(came.is_some(), "{address} from the router");
    }
    assert_eq!(lan::who_has(here, STRANGER[0]), [lan::STRANGER_MAC]);
    assert_eq!(
        lan::neighbour(here, STRANGER[1]).as_deref(),
        Some(lan::STRANGER_MAC)
    );
    assert!(lan::who_has(here, "192.0.2.99").is_empty());
    let other = lan.machine("other", ["192.0.2.99", "2001:db8:1::99"]);
    assert_eq!(lan::who_has(here, "192.0.2.99").len(), 1);
    // Somebody else who says so as well is heard, too.
    let twin = lan.machine("twin", ["192.0.2.99", "2001:db8:1::99"]);
    assert_eq!(lan::who_has(here, "192.0.2.99").len(), 2);
    drop((other, twin));
    lan.cut(0);
    assert!(!lan::pings(here, STRANGER[0], 1));
    lan.mend(0);
    until("the stranger is reached again", || {
        lan::pings(here, STRANGER[0], 1).then_some(())
    });
    lan.unplug(0);
    assert!(!here.try_run("ip", &["link", "show", "dev", lan::LINK]).ok);
    lan.plug(&host, 0);
    assert!(lan::pings(here, ROUTER[0], 3));
}

#[test]
fn a_dhcp_server_gives_leases_and_knows_them_again() {
    let lan = Lan::new();
    let reserved = ("02:11:22:33:44:66", "192.0.2.180");
    let server = Dhcp::start(&lan, 4, 60, &[reserved]);
    let machine = lan.machine("asker", ["192.0.2.90", "2001:db8:1::90"]);
    let ask = |more: &[&str]| {
        let args = ["udhcpc", "-i", lan::LINK, "-n", "-q", "-f", "-s", "/bin/true"];
        machine.run("busybox", &[&args[..], more].concat());
    };
    ask(&["-x", "hostname:web"]);
    let leases = server.leases();
    assert_eq!(leases.len(), 1, "{leases:?}");
    assert_eq!(leases[0].name, "web");
    assert_eq!(server.messages("DHCPACK", &leases[0].ip), 1);
    // When a lease is to be renewed is the server's word, and the server keeps what it gave.
    assert!(server.log().contains("T1"), "{}", server.log());
    server.stop();
    server.start_again();
    assert_eq!(server.leases(), leases);
    machine.run("ip", &["link", "set", lan::LINK, "address", reserved.0]);
    ask(&[]);
    let lease = server.lease(reserved.1).expect("a lease of what is reserved");
    assert_eq!(lease.mac, reserved.0);
    assert_eq!(server.messages("DHCPACK", reserved.1), 1);
}
