//! What a network costs a container's start and end: tombolo's networks beside Docker's own of the same sort, one container at a
//! time and eight at once, in turns on one engine.
//!
//! tombolo's networks are measured with both ways in which a container comes by its link (`attach`); engines before 28 know the
//! classic one only, and then the two are the same.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use system_tests::asked::count;
use system_tests::{Engine, Host, Kind, Plan, Scene, Wire, at_once, say};

use crate::picture::{Bar, bars};
use crate::spread::{median, pairs, with_quartiles};
use crate::{aim, disk, machine, turns, wire};

/// How many containers there are at once.
const AT_ONCE: usize = 8;

/// How many containers stay where a host has many endpoints.
fn crowded() -> usize {
    count("TOMBOLO_BENCH_CROWD", 100)
}

/// On how many networks each of them is.
const NETWORKS: usize = 10;

/// How much longer a container may take where there are so many.
const CROWDED: f64 = 1.3;

/// After this time no further round is begun.
const LONGEST: Duration = Duration::from_secs(420);

/// What part of Docker's own share a network may have on an engine that has the sandbox first.
const AIM: f64 = 0.4;

/// A way to start a container.
struct Way {
    name: &'static str,
    args: &'static [&'static str],
    /// Which of the others it is compared with.
    peer: Option<&'static str>,
}

const fn way(name: &'static str, args: &'static [&'static str], peer: Option<&'static str>) -> Way {
    Way { name, args, peer }
}

const NONE: &str = "without network";
const DOCKERS: &str = "Docker's bridge";
const INSIDE: &str = "bridge, inside";
const CLASSIC: &str = "bridge, classic";
const DOCKERS_PORT: &str = "Docker's bridge, a port";
const DOCKERS_MACVLAN: &str = "Docker's macvlan";
const CLASSIC_MACVLAN: &str = "macvlan, classic";
const SWARMS: &str = "Swarm's overlay";

/// What is compared on one host.
const LOCAL: [Way; 10] = [
    way(NONE, &["--network", "none"], None),
    way(DOCKERS, &["--network", "theirs"], None),
    way(INSIDE, &["--network", "inside"], Some(DOCKERS)),
    way(CLASSIC, &["--network", "classic"], Some(DOCKERS)),
    way(DOCKERS_PORT, &["--network", "theirs", "-p", "80"], None),
    way(
        "bridge, inside, a port",
        &["--network", "inside", "-p", "80"],
        Some(DOCKERS_PORT),
    ),
    way(
        "bridge, classic, a port",
        &["--network", "classic", "-p", "80"],
        Some(DOCKERS_PORT),
    ),
    way(DOCKERS_MACVLAN, &["--network", "wire-theirs"], None),
    way(
        "macvlan, inside",
        &["--network", "wire-inside"],
        Some(DOCKERS_MACVLAN),
    ),
    way(
        CLASSIC_MACVLAN,
        &["--network", "wire-ours"],
        Some(DOCKERS_MACVLAN),
    ),
];

/// How many of these, from the first on, are compared on a host with many endpoints as well: no ports, and no wires.
const AMONG_MANY: usize = 4;

/// What is compared on a host of a cluster.
const ACROSS: [Way; 6] = [
    way(NONE, &["--network", "none"], None),
    way(SWARMS, &["--network", "swarm"], None),
    way("overlay, inside", &["--network", "over-inside"], Some(SWARMS)),
    way("overlay, classic", &["--network", "over-classic"], Some(SWARMS)),
    way(
        "host-gateway, inside",
        &["--network", "routed-inside"],
        Some(SWARMS),
    ),
    way(
        "host-gateway, classic",
        &["--network", "routed-classic"],
        Some(SWARMS),
    ),
];

/// What was measured, in milliseconds: of each way, round by round.
struct Times {
    one: Vec<Vec<f64>>,
    many: Vec<Vec<f64>>,
}

/// Measures in so many rounds, and says what was found.
pub fn measure(rounds: usize) -> Vec<String> {
    let begin = crate::load();
    let crowd = crowded();
    let (version, local, among_many) = on_one_host(rounds, crowd);
    let across = in_a_cluster(rounds);
    let mut lines = how_made(&version, &begin);
    lines.extend(report("attach-local", &LOCAL, &local, sandbox_first(&version)));
    lines.push(format!(
        "On the same host with {} endpoints of tombolo's ({crowd} containers, each on {NETWORKS} bridge networks):",
        crowd * NETWORKS
    ));
    lines.push(String::new());
    lines.extend(report(
        "attach-crowded",
        &LOCAL[..AMONG_MANY],
        &among_many,
        sandbox_first(&version),
    ));
    for name in [INSIDE, CLASSIC] {
        let at = LOCAL.iter().position(|way| way.name == name);
        let share = |times: &Times| median(&shares(&times.one, at.expect("a way that is measured")));
        let ratio = share(&among_many) / share(&local);
        let what = format!(
            "{name}: at most {CROWDED} times as long with so many endpoints as with none (ratio of the medians)"
        );
        lines.push(aim(&what, &format!("{ratio:.2}"), ratio <= CROWDED));
    }
    lines.push(String::new());
    lines.push("On a host of a cluster:".to_owned());
    lines.push(String::new());
    lines.extend(report("attach-across", &ACROSS, &across, false));
    lines
}

fn sandbox_first(version: &str) -> bool {
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= 28)
}

fn on_one_host(rounds: usize, crowd: usize) -> (String, Times, Times) {
    say("attach: starting tombolo and an engine");
    let (scene, images) = disk::scene();
    scene.docker(&["network", "create", "-d", "bridge", "theirs"]);
    for attach in ["inside", "classic"] {
        scene.network(attach, &["-o", &format!("attach={attach}")]);
    }
    // As far apart as in the part `wire`: a parent and a wire each.
    let neighbour = Host::new();
    let wires = [1, 2, 3].map(|number| Wire::new(number, None, false));
    for (wire, network) in wires.iter().zip(["wire-ours", "wire-theirs", "wire-inside"]) {
        wire::lay(wire, &scene.host, &neighbour);
        wire::create(&scene, wire, network);
    }
    ready(&scene);
    let times = in_turns(&scene.engine, &LOCAL, rounds);
    gather(&scene, crowd);
    let among_many = in_turns(&scene.engine, &LOCAL[..AMONG_MANY], rounds);
    let version = scene.version();
    scene.clear();
    drop(scene);
    disk::must_be_gone(&images);
    (version, times, among_many)
}

/// Starts containers that stay, each on several networks.
fn gather(scene: &Scene, crowd: usize) {
    let networks: Vec<String> = (0..NETWORKS).map(|n| format!("crowd-{n}")).collect();
    networks.iter().for_each(|network| scene.network(network, &[]));
    let started = AtomicUsize::new(0);
    at_once(&[0, 1], |first| {
        for number in (*first..crowd).step_by(2) {
            let name = format!("stays-{number}");
            scene.container(&name, &["--network", &networks[0]]);
            for network in &networks[1..] {
                scene.docker(&["network", "connect", network, &name]);
            }
            let started = started.fetch_add(1, Ordering::Relaxed) + 1;
            if started.is_multiple_of(20) {
                say(&format!(
                    "attach: {} of {} endpoints",
                    started * NETWORKS,
                    crowd * NETWORKS
                ));
            }
        }
    });
}

/// The engine has told tombolo of itself, without which no link is made within a sandbox.
fn ready(scene: &Scene) {
    scene.container("named", &["--network", "classic"]);
    scene.names_are_known();
    scene.docker(&["rm", "-f", "named"]);
}

fn in_a_cluster(rounds: usize) -> Times {
    say("attach: starting two hosts");
    let sites = Plan::of(2).joined();
    let kinds = [
        ("over", Kind::Overlay, "10.42"),
        ("routed", Kind::HostGateway, "10.43"),
    ];
    for (name, kind, net) in kinds {
        for (attach, third) in [("inside", 0), ("classic", 128)] {
            let (option, subnet) = (format!("attach={attach}"), format!("{net}.{third}.0/17"));
            sites.network(
                &format!("{name}-{attach}"),
                kind,
                &["--subnet", &subnet, "-o", &option],
            );
        }
    }
    super::across::swarm(&sites);
    let site = &sites[0];
    // One that stays on each, as elsewhere in a swarm: its overlay is made with the first container and goes with the last.
    for way in &ACROSS[1..] {
        let network = way.args[1];
        site.container(&format!("stays-on-{network}"), network, &[]);
    }
    in_turns(&site.engine, &ACROSS, rounds)
}

fn in_turns(engine: &Engine, ways: &[Way], rounds: usize) -> Times {
    let run = |way: &Way| drop(engine.docker(&[&["run", "--rm"], way.args, &["busybox", "true"]].concat()));
    ways.iter().for_each(run);
    let mut times = Times {
        one: vec![Vec::new(); ways.len()],
        many: vec![Vec::new(); ways.len()],
    };
    let begun = Instant::now();
    for round in 0..rounds {
        if round > 0 && begun.elapsed() > LONGEST {
            say("attach: this machine is slow or busy, so there are fewer rounds");
            break;
        }
        for at in turns::order(round, ways.len()) {
            let begin = Instant::now();
            run(&ways[at]);
            times.one[at].push(ms(begin));
        }
        // They take eight times as long, and are many themselves.
        if round % 4 == 0 {
            for at in turns::order(round / 4, ways.len()) {
                let begin = Instant::now();
                std::thread::scope(|scope| {
                    for _ in 0..AT_ONCE {
                        scope.spawn(|| run(&ways[at]));
                    }
                });
                times.many[at].push(ms(begin) / AT_ONCE as f64);
            }
        }
        if (round + 1) % 5 == 0 {
            say(&format!("attach: {} of {rounds} rounds", round + 1));
        }
    }
    times
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

fn how_made(version: &str, load: &str) -> Vec<String> {
    vec![
        "## To start a container and to end it".to_owned(),
        String::new(),
        format!(
            "{} Docker {version}. `docker run --rm busybox true`, from the command to its end with all taken away again, in turns. \
             The *share* of a network is the time with it less the time with `--network none` in the same round; of {AT_ONCE} that \
             are started at once, it is an {AT_ONCE}th of the time until the last has ended. *Inside* and *classic* are the two ways in \
             which a container comes by its link (`-o attach=`).",
            machine("attach", load)
        ),
        String::new(),
    ]
}

/// A way's share, round by round.
fn shares(of: &[Vec<f64>], at: usize) -> Vec<f64> {
    pairs(&of[at], &of[0], |with, without| with - without)
}

fn report(picture: &str, ways: &[Way], times: &Times, aims: bool) -> Vec<String> {
    let mut lines = vec![
        format!(
            "{} rounds; without a network one container takes {:.0} ms.",
            times.one[0].len(),
            median(&times.one[0])
        ),
        String::new(),
        format!(
            "| share of the network, ms | one at a time | {AT_ONCE} at once | of its peer's, one | {AT_ONCE} at once |"
        ),
        "|---|---|---|---|---|".to_owned(),
    ];
    let mut all = Vec::new();
    let at_of = |name: &str| ways.iter().position(|way| way.name == name);
    for (at, way) in ways.iter().enumerate().skip(1) {
        let (one, many) = (shares(&times.one, at), shares(&times.many, at));
        let ratio = |of: &[Vec<f64>], own: &[f64]| {
            let peer = way.peer.and_then(at_of)?;
            Some(median(own) / median(&shares(of, peer)))
        };
        let told = |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        lines.push(format!(
            "| {} | {} | {} | {} | {} |",
            way.name,
            with_quartiles(&one, 0),
            with_quartiles(&many, 0),
            told(ratio(&times.one, &one)),
            told(ratio(&times.many, &many)),
        ));
        all.push(Bar {
            name: way.name.to_owned(),
            ours: way.peer.is_some(),
            numbers: one,
        });
    }
    lines.push(String::new());
    lines.extend(bars(picture, "share of a container's start and end, ms", &all));
    for (at, way) in ways
        .iter()
        .enumerate()
        .filter(|(_, way)| aims && (way.name.contains("inside") || way.name == CLASSIC_MACVLAN))
    {
        let Some(peer) = way.peer.and_then(at_of) else {
            continue;
        };
        let ratio = median(&shares(&times.one, at)) / median(&shares(&times.one, peer));
        let most = if way.name == CLASSIC_MACVLAN { 1.0 } else { AIM };
        lines.push(aim(
            &format!(
                "{}: at most {most} of {} (ratio of the medians)",
                way.name, ways[peer].name
            ),
            &format!("{ratio:.2}"),
            ratio <= most,
        ));
    }
    lines.push(String::new());
    lines
}
