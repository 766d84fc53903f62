//! How fast six hosts put right what was broken by hand, and reach what is new or has moved.

mod rows;
mod starts;

use system_tests::samples::Samples;
use system_tests::{Kind, Plan, Rows, say};

use crate::picture::{Bar, bars};
use starts::{Ground, Reached};

const HOSTS: usize = 6;

/// What we aim at, in milliseconds: for 99 of 100 repairs, and for 99 of 100 that are started.
const REPAIRED: f64 = 1000.0;
const STARTED: f64 = 300.0;

/// The networks: name, kind, subnet.
const NETWORKS: [(&str, Kind, &str); 2] = [
    ("over", Kind::Overlay, "10.42.0.0/16"),
    ("routed", Kind::HostGateway, "10.43.0.0/16"),
];

/// Measures each `count` times, and says what was found.
pub fn measure(count: usize) -> Vec<String> {
    let load = crate::load();
    say("repair: starting six hosts");
    let sites = Plan::of(HOSTS).joined();
    for (name, kind, subnet) in NETWORKS {
        sites.network(name, kind, &["--subnet", subnet]);
    }
    let grounds = NETWORKS.map(|(name, kind, _)| (kind, Ground::on(&sites, name, kind)));
    sites.know(HOSTS * NETWORKS.len());
    let host = &sites[0].host;
    let mut repairs = Vec::new();
    for (name, sort) in [
        ("a forwarding row", Rows::Forwarding),
        ("a neighbour", Rows::Neighbours),
        ("a route to another host", Rows::Routes),
    ] {
        repairs.push((name, rows::deleted(host, sort, count)));
        say(&format!("repair: {name}"));
    }
    repairs.push(("the tunnel, with all that was on it", rows::tunnel(host, count)));
    say("repair: the tunnel");
    let mut starts = Vec::new();
    for (kind, ground) in &grounds {
        starts.push((
            format!("{}: a container is started", kind.name()),
            ground.started(count),
        ));
        say(&format!("repair: {}: started", kind.name()));
        starts.push((
            format!("{}: an address moves to another host", kind.name()),
            ground.moved(count),
        ));
        say(&format!("repair: {}: moved", kind.name()));
    }
    drop(grounds);
    [
        how_made(&sites[0].engine.version(), &load, count),
        table(&repairs, &starts),
    ]
    .concat()
}

fn how_made(version: &str, load: &str, count: usize) -> Vec<String> {
    vec![
        "## What was broken, is new, or has moved".to_owned(),
        String::new(),
        format!(
            "{} {HOSTS} hosts made of namespaces, each with Docker {version} and tombolo, with an overlay and a \
             host-gateway network and a container of each on every host; {count} times each.",
            crate::machine("repair", load)
        ),
        String::new(),
        "*Deleted by hand*: on one host, from when the kernel tells that it is gone to when it tells that it is there again; \
         with the tunnel, from the command until the last forwarding row is there. *Started* and *moves*: from when tombolo \
         says that the endpoint has joined. Docker then moves the link into the container and sets it up, and is done with \
         that when a container of the same host has an answer. On each host a container sends a datagram every millisecond \
         from the join on; its kernel asks for a neighbour that it doesn't know every 10 ms, where a kernel usually waits a \
         second, but the hosts' kernels are as they always are. What moves was removed from one host a moment before it is \
         started on another, with `--ip`."
            .to_owned(),
        String::new(),
    ]
}

fn table(repairs: &[(&str, Samples)], starts: &[(String, Reached)]) -> Vec<String> {
    let mut lines = vec![
        "| in ms | p50 | p99 | longest |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    let cells = |times: &Samples| format!("{:.1} | {:.1} | {:.1}", times.median(), times.p99(), times.max());
    for (name, times) in repairs {
        lines.push(format!("| deleted by hand: {name} | {} |", cells(times)));
    }
    for (name, times) in starts {
        if !times.rows.is_empty() {
            lines.push(format!(
                "| {name}, until all others have its row | {} |",
                cells(&times.rows)
            ));
        }
        lines.push(format!(
            "| {name}, until its own host's container reaches it | {} |",
            cells(&times.here)
        ));
        lines.push(format!(
            "| {name}, until all hosts' containers reach it | {} |",
            cells(&times.all)
        ));
        lines.push(format!(
            "| {name}, how much later all than its own | {} |",
            cells(&times.all.above(&times.here))
        ));
    }
    lines.push(String::new());
    lines.extend(pictures(repairs, starts));
    for (name, times) in repairs {
        let p99 = times.p99();
        let what = format!("{name} is back within {REPAIRED} ms, 99 of 100");
        lines.push(crate::aim(&what, &format!("{p99:.1} ms"), p99 < REPAIRED));
    }
    for (name, times) in starts {
        let (all, later) = (times.all.p99(), times.all.above(&times.here).p99());
        if !times.rows.is_empty() {
            let rows = times.rows.p99();
            let what =
                format!("{name}, and all others have its row within {STARTED} ms of the join, 99 of 100");
            lines.push(crate::aim(&what, &format!("{rows:.1} ms"), rows < STARTED));
        }
        let what = format!("{name}, and all reach it within {STARTED} ms of the join, 99 of 100");
        lines.push(crate::aim(&what, &format!("{all:.1} ms"), all < STARTED));
        let what = format!("{name}, and all reach it within {STARTED} ms of its own host, 99 of 100");
        lines.push(crate::aim(&what, &format!("{later:.1} ms"), later < STARTED));
    }
    lines
}

fn pictures(repairs: &[(&str, Samples)], starts: &[(String, Reached)]) -> Vec<String> {
    let bar = |name: &str, times: &Samples| Bar {
        name: name.to_owned(),
        ours: true,
        numbers: times.all().to_vec(),
    };
    let repaired: Vec<Bar> = repairs.iter().map(|(name, times)| bar(name, times)).collect();
    let reached: Vec<Bar> = starts.iter().map(|(name, times)| bar(name, &times.all)).collect();
    let mut lines = bars(
        "repair",
        "deleted by hand, until it is there again, ms",
        &repaired,
    );
    lines.extend(bars(
        "repair-reached",
        "until all hosts' containers reach it, ms",
        &reached,
    ));
    lines
}
