//! The lab itself, with nothing but Docker's own bridge: what the other tests rely on.

use std::process::Command;

use system_tests::{Answerer, Engine, Flow, Host, Outside, Spaces, ask_tcp, ask_udp, say, until};

use std::sync::Arc;

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
