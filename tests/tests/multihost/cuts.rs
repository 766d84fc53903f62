//! Hosts on two wires: both are used, and one that is cut is left out.

use serde_json::Value;
use system_tests::json::{rows, text};
use system_tests::{Container, Flow, Kind, Plan, Sites, until};

use crate::matrix::network;
use crate::underlay::finding;

/// How many datagrams of a flow are watched once a way was left out: they take a second and a half.
const WATCHED: u64 = 1_500;

/// A flow's datagrams in the time in which a host would be taken for dead that isn't heard any more.
const DEATH: u64 = 15_000;

/// What a flow may lose of its 1,000 datagrams a second until a wire that carries nothing is noticed: four questions at 300 ms
/// each, and as much again for a machine that is busy.
const UNNOTICED: usize = 2_400;

/// The addresses of a host's that another one leaves out; none before it knows of two.
fn left_out(sites: &Sites, at: usize, of: usize) -> Option<Vec<String>> {
    let status = sites[at].status();
    let host = rows(&status["hosts"])
        .iter()
        .find(|host| host["name"] == sites[of].name())?;
    let ways = rows(&host["ways"]);
    let out = ways.iter().filter(|way| way["up"] == false);
    let out: Vec<String> = out.map(|way| text(way, "/address").to_owned()).collect();
    (ways.len() == 2).then_some(out)
}

/// Waits until two hosts leave out just these ways to each other: wires by their numbers.
#[track_caller]
fn leave_out(sites: &Sites, wires: &[usize], v6: bool) {
    for (at, of) in [(0, 1), (1, 0)] {
        let wanted: Vec<String> = wires
            .iter()
            .map(|&number| match v6 {
                true => sites.wire(number).ipv6(of),
                false => sites.wire(number).ipv4(of),
            })
            .collect();
        until(&format!("{} leaves {wanted:?} out", sites[at].name()), || {
            (left_out(sites, at, of)? == wanted).then_some(())
        });
    }
}

/// Where a host's tunnels lead, one for each hardware address.
fn tunnels(sites: &Sites, at: usize) -> Vec<Value> {
    let all = sites[at].host.run("bridge", &["-json", "fdb", "show"]);
    let all = system_tests::json::parse(&all);
    let unicast = |row: &&Value| {
        let first = row["mac"]
            .as_str()
            .and_then(|mac| u8::from_str_radix(mac.get(..2)?, 16).ok());
        !row["dst"].is_null() && first.is_some_and(|first| first & 1 == 0)
    };
    rows(&all).iter().filter(unicast).cloned().collect()
}

/// Where a host's tunnels lead to a container.
#[track_caller]
fn way_to(sites: &Sites, at: usize, container: &Container, network: &str) -> String {
    let mac = container.inspect()["NetworkSettings"]["Networks"][network]["MacAddress"].clone();
    until(&format!("a tunnel to {mac}"), || {
        let all = tunnels(sites, at);
        let row = all.iter().find(|row| row["mac"] == mac)?;
        Some(text(row, "/dst").to_owned())
    })
}

/// Two containers on the second host to which the first host's tunnels lead by the one and the other wire.
#[track_caller]
fn one_by_each(sites: &Sites, network: &str) -> [Container; 2] {
    let (mut first, mut second) = (None, None);
    for n in 0..24 {
        let container = sites[1].container(&format!("{network}-b{n}"), network, &[]);
        match way_to(sites, 0, &container, network) {
            way if way == sites.wire(0).ipv4(1) => first = first.or(Some(container)),
            way if way == sites.wire(1).ipv4(1) => second = second.or(Some(container)),
            other => panic!("a tunnel to {other}"),
        }
        if let (Some(_), Some(_)) = (&first, &second) {
            break;
        }
    }
    [first, second].map(|container| container.expect("a container by each of two wires among 24"))
}

/// Flows from a container to others.
#[track_caller]
fn flows(from: &Container, to: &[Container], network: &str) -> Vec<Flow> {
    let flow = |to: &Container| {
        let address = format!("{}:9", to.ip(network));
        Flow::start(&from.spaces(), &to.spaces(), &address)
    };
    to.iter().map(flow).collect()
}

/// Lets flows go on for some datagrams.
#[track_caller]
fn go_on(flows: &[Flow], datagrams: u64) {
    for flow in flows {
        let more = flow.so_far() + datagrams;
        until("a flow goes on", || (flow.so_far() >= more).then_some(()));
    }
}

/// Ends flows; each may have lost so many, and all of those in one gap.
#[track_caller]
fn lost_at_most(flows: Vec<Flow>, most: usize, what: &str) {
    for flow in flows {
        let tally = flow.stop();
        assert!(
            tally.lost.len() <= most,
            "{what}: {} of {} were lost: {:?}...",
            tally.lost.len(),
            tally.sent,
            tally.lost.first()
        );
    }
}

/// That neither host's tombolo is missed while a wire is cut: what went around it goes on so, and goes so after the start.
#[track_caller]
fn restart(sites: &Sites, number: usize, from: &Container, to: &[Container; 2], network: &str) {
    for at in [1, 0] {
        let running = flows(from, to, network);
        sites[at].tombolo.stop();
        // Long enough for the other one to miss its answers by both wires.
        go_on(&running, 2 * WATCHED);
        sites[at].tombolo.start_again();
        leave_out(sites, &[number], false);
        go_on(&running, WATCHED);
        let what = format!(
            "{network}, wire {number} is cut and tombolo of {} starts",
            sites[at].name()
        );
        lost_at_most(running, 0, &what);
    }
}

/// That a wire which is cut loses a moment's packets only, and nobody. The first wire stays cut for `death` datagrams.
#[track_caller]
fn cut(sites: &Sites, number: usize, death: u64, from: &Container, to: &[Container; 2], network: &str) {
    let what = format!("{network}, wire {number}");
    let running = flows(from, to, network);
    match number {
        0 => sites.wire(0).cut(1),
        _ => sites.wire(1).part(&[0], &[1]),
    }
    leave_out(sites, &[number], false);
    go_on(&running, WATCHED);
    lost_at_most(running, UNNOTICED, &what);
    // Once it is left out, nothing is lost, and nobody is taken for dead: not even if it is the wire that stands for them.
    let running = flows(from, to, network);
    go_on(&running, if number == 0 { death } else { WATCHED });
    lost_at_most(running, 0, &what);
    let seen = [0, 1].map(|at| sites[at].sees());
    assert!(
        seen.iter().flat_map(|seen| seen.values()).all(|up| *up),
        "{seen:?}"
    );
    let container = sites[1].container(&format!("{network}-new{number}"), network, &[]);
    let address = container.ip(network);
    until(&format!("{what}: one that was started meanwhile"), || {
        from.pings(&address).then_some(())
    });
    if number == 0 {
        restart(sites, number, from, to, network);
    }
    match number {
        0 => sites.wire(0).mend(1),
        _ => sites.wire(1).heal(),
    }
    leave_out(sites, &[], false);
    let running = flows(from, to, network);
    go_on(&running, WATCHED);
    lost_at_most(running, 0, &format!("{what}, mended"));
}

#[test]
fn two_wires_are_both_used_and_a_cut_of_either_loses_nobody() {
    let sites = Plan::of(2)
        .second_wire()
        .settings("TOMBOLO_ADVERTISE", "wire0,wire1")
        .started();
    for site in sites.iter() {
        for link in ["all", "wire0", "wire1"] {
            site.host
                .run("sysctl", &["-w", &format!("net.ipv4.conf.{link}.rp_filter=1")]);
        }
    }
    sites.join();
    leave_out(&sites, &[], false);
    sites.network("over", Kind::Overlay, &["--subnet", "10.42.0.0/16"]);
    sites.network("routed", Kind::HostGateway, &["--subnet", "10.43.0.0/16"]);

    let over = sites[0].container("over-a", "over", &[]);
    let far = one_by_each(&sites, "over");
    cut(&sites, 0, DEATH, &over, &far, "over");
    cut(&sites, 1, WATCHED, &over, &far, "over");

    let routed = sites[0].container("routed-a", "routed", &[]);
    let far = [0, 1].map(|n| sites[1].container(&format!("routed-b{n}"), "routed", &[]));
    let routes = until("a route by both wires", || {
        let routes = sites[0].host.run("ip", &["route", "show", "proto", "116"]);
        routes.contains("10.201.0.2").then_some(routes)
    });
    for hop in [
        "nexthop via 10.200.0.2 dev wire0",
        "nexthop via 10.201.0.2 dev wire1",
    ] {
        assert!(routes.contains(hop), "{routes}");
    }
    cut(&sites, 0, WATCHED, &routed, &far, "routed");
}

#[test]
fn tunnels_over_ipv6_have_several_ways_as_well() {
    let mut plan = Plan::of(2).ipv6().second_wire();
    for at in 0..2 {
        let both = format!("fd00:200::{0},fd00:201::{0}", at + 1);
        plan = plan.setting(at, "TOMBOLO_ADVERTISE", &both);
    }
    let sites = plan.joined();
    leave_out(&sites, &[], true);
    network(&sites, "over", Kind::Overlay, 42, &[]);
    let from = sites[0].container("over-a", "over", &[]);
    let to: Vec<Container> = (0..4)
        .map(|n| sites[1].container(&format!("over-b{n}"), "over", &[]))
        .collect();
    for number in [0, 1] {
        let reached = |what: &str| {
            for (address, other) in to.iter().map(|other| (other.ip("over"), other.name())) {
                until(&format!("{what}: {other} is reached"), || {
                    from.pings(&address).then_some(())
                });
            }
        };
        sites.wire(number).cut(1);
        leave_out(&sites, &[number], true);
        reached("a wire is cut");
        sites.wire(number).mend(1);
        leave_out(&sites, &[], true);
        reached("it is mended");
    }
}

#[test]
fn doctor_and_status_tell_of_a_way_that_carries_nothing() {
    let sites = Plan::of(2)
        .second_wire()
        .settings("TOMBOLO_ADVERTISE", "wire0,wire1")
        .joined();
    leave_out(&sites, &[], false);
    let said = |words: &str| {
        let output = sites[0].tombolo.try_cli(&["doctor"]);
        assert!(output.stdout.contains(words), "{words}: {}", output.stdout);
    };
    said("all ways to b carry packets");
    sites.network("over", Kind::Overlay, &["--subnet", "10.42.0.0/16"]);
    let containers: Vec<Container> = (0..2)
        .map(|at| sites[at].container(&format!("over-{at}"), "over", &[]))
        .collect();
    let probes = |verdict: &str| {
        until(&format!("probes in tunnels: {verdict}"), || {
            let (found, _) = finding(&sites, 0, "tunnels.probes");
            (found == verdict).then_some(())
        });
    };
    probes("ok");
    sites.wire(1).cut(1);
    leave_out(&sites, &[1], false);
    said("the way to b by 10.201.0.2 was answered last");
    // A tunnel is tried by the ways that are used.
    probes("ok");
    drop(containers);
    let status = sites[0].tombolo.try_cli(&["cluster", "status"]).must().stdout;
    let line = status.lines().find(|line| line.contains("10.201.0.2"));
    assert!(
        line.is_some_and(|line| line.starts_with("b ") && line.contains("left out")),
        "{status}"
    );
}
