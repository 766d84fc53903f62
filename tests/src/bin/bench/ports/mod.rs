//! Whether a published port becomes slower with the number of ports: ten and ten thousand of them, with tombolo and with
//! Docker's own bridge, whose userland proxy is off or on.
//!
//! ```text
//!   outside ── wire ── host (10 or 10,000 ports, an engine, tombolo or not) ── five containers, a server in three
//! ```
//!
//! All hosts are prepared first and kept; then one after the other is asked, round by round, so that whatever slows down
//! the machine slows down all of them. Ports are published on IPv4 alone. Of each host three ports are asked, the first,
//! one in the middle and the last: where rules stand in a list, that makes a difference.
//!
//! Docker takes longer for each port the more there are, hours for all. So it publishes some of them itself, and the
//! rules of the others are written after them in one go, as copies of its own: what a packet meets is the same.

pub mod profile;

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system_tests::outside::HOST;
use system_tests::{Container, Engine, Host, Outside, Tombolo, say};

use crate::ask::{self, Server};
use crate::picture::{Bar, bars};
use crate::samples::Samples;
use crate::spread::{TIE, beside_one, median, pairs};
use crate::turns;

/// On how many containers the ports are: one has 2,000 at most.
const CONTAINERS: usize = 5;

/// The first host port, and how far those of the next container are from it.
const PORT: usize = 20_000;
const STEP: usize = 2_000;

/// What is compared: a name, the flags of the engine, and whether tombolo is the driver.
const WAYS: [(&str, &[&str], bool); 3] = [
    ("tombolo", &[], true),
    (
        "Docker's bridge, userland proxy off",
        &["--userland-proxy=false"],
        false,
    ),
    ("Docker's bridge, userland proxy on", &[], false),
];

/// Those without anything in user space on the way of a packet.
const TOMBOLO: usize = 0;
const DOCKER: usize = 1;

/// How many ports Docker publishes itself.
const BY_DOCKER: usize = 200;

/// How long it may take to start a container with its ports.
const START: Duration = Duration::from_secs(300);

/// After this time no further round is begun: on a busy machine fewer rounds say more than a long wait.
const LONGEST: Duration = Duration::from_secs(300);

/// How often each port is asked in a round, on one connection and on connections of their own.
const EXCHANGES: usize = 200;
const CONNECTIONS: usize = 60;

/// How many ports of a place are asked.
const ASKED: usize = 3;

/// How much slower a port of tombolo's may be with many ports than with few.
const AIM: f64 = 1.05;

/// What was measured of one sort of question at one place: all of it, and the median of each round.
#[derive(Default)]
struct Times {
    all: Samples,
    medians: Vec<f64>,
}

impl Times {
    fn add(&mut self, round: &[Duration]) {
        let mut samples = Samples::default();
        round.iter().for_each(|time| samples.add(*time));
        self.medians.push(samples.median());
        self.all.extend(&samples);
    }
}

/// A host with its ports. What it holds ends in the order of the fields.
struct Place {
    way: usize,
    ports: usize,
    /// How many ports the driver published itself, and how long it took.
    set_up: (usize, Duration),
    asked: Vec<SocketAddr>,
    exchanges: Times,
    connections: Times,
    version: String,
    memory_mib: Option<f64>,
    _servers: Vec<Server>,
    outside: Outside,
    _tombolo: Option<Tombolo>,
    _engine: Arc<Engine>,
    _host: Arc<Host>,
}

impl Place {
    fn prepare(way: usize, ports: usize) -> Self {
        let (name, flags, ours) = WAYS[way];
        let host = Arc::new(Host::with_engine_files());
        let outside = Outside::of(&host);
        let tombolo = ours.then(|| Tombolo::start(&host));
        let engine = Arc::new(Engine::start(&host, flags));
        let [driver, addresses] = if ours {
            ["tombolo"; 2]
        } else {
            ["bridge", "default"]
        };
        let drivers = ["-d", driver, "--ipam-driver", addresses];
        engine.docker(
            &[
                &["network", "create"],
                &drivers[..],
                &["--subnet", "10.60.0.0/24", "net"],
            ]
            .concat(),
        );
        let each = ports / CONTAINERS;
        let real = if ours {
            each
        } else {
            each.min(BY_DOCKER / CONTAINERS)
        };
        let begun = Instant::now();
        for number in 0..CONTAINERS {
            let first = PORT + number * STEP;
            let last = first + real - 1;
            start(
                &engine,
                &container_name(number),
                &format!("0.0.0.0:{first}-{last}:{first}-{last}"),
            );
            say(&format!(
                "ports: {name}: {} of {ports} after {:.0} s",
                (number + 1) * real,
                begun.elapsed().as_secs_f64()
            ));
        }
        let set_up = (real * CONTAINERS, begun.elapsed());
        if real < each {
            copy_rules(&host, real, each);
            say(&format!("ports: {name}: the rules of {ports}"));
        }
        // The first, one in the middle, and the last.
        let asked: [_; ASKED] = [(0, 0), (CONTAINERS / 2, each / 2), (CONTAINERS - 1, each - 1)];
        let asked = asked.map(|(number, port)| (number, PORT + number * STEP + port));
        let servers = asked.map(|(number, port)| {
            let container = Container::known(&host, &engine, &container_name(number));
            Server::start(&container.spaces(), u16::try_from(port).expect("a port"))
        });
        let address = |(_, port)| format!("{}:{port}", HOST[0]).parse().expect("an address");
        Self {
            way,
            ports,
            set_up,
            asked: asked.map(address).to_vec(),
            exchanges: Times::default(),
            connections: Times::default(),
            version: engine.version(),
            memory_mib: tombolo
                .as_ref()
                .map(|tombolo| crate::memory::of(&host, tombolo)[0]),
            _servers: servers.into(),
            outside,
            _tombolo: tombolo,
            _engine: engine,
            _host: host,
        }
    }

    /// Asks once more; only what comes after the warm-up counts.
    fn round(&mut self, counts: bool) {
        let round = ask::round(self.outside.spaces(), &self.asked, EXCHANGES, CONNECTIONS);
        if counts {
            self.exchanges.add(&round.exchanges);
            self.connections.add(&round.connections);
        }
    }
}

/// Writes the rules of each container's ports from the `real`-th to the `each`-th, as copies of those of its first port.
fn copy_rules(host: &Host, real: usize, each: usize) {
    let save = host.run("iptables-save", &[]);
    let mut text = String::new();
    let mut table: Vec<&str> = Vec::new();
    let mut at_the_end = true;
    for line in save.lines() {
        if line == "COMMIT" {
            for number in 0..CONTAINERS {
                let first = PORT + number * STEP;
                let of_first: Vec<&str> = table
                    .iter()
                    .copied()
                    .filter(|l| port_of(l) == Some(first))
                    .collect();
                let ports = first + real..first + each;
                let copies =
                    ports.flat_map(|port| of_first.iter().map(move |line| with_port(line, first, port)));
                // Engines of 28 and later drop what no rule of a port has accepted, at the end of the same chain.
                text.extend(copies.map(|copy| match at_the_end {
                    true => copy,
                    false => copy.replacen("-A ", "-I ", 1),
                }));
            }
            text.push_str("COMMIT\n");
            table.clear();
        } else if line.starts_with('*') {
            at_the_end = line != "*filter";
            text.push_str(&format!("{line}\n"));
        } else {
            table.push(line);
        }
    }
    host.write("/tmp/rules", &text);
    host.run("iptables-restore", &["--noflush", "/tmp/rules"]);
}

/// The port that a rule is for.
fn port_of(rule: &str) -> Option<usize> {
    let (_, port) = rule.split_once(" --dport ")?;
    port.split(' ').next()?.parse().ok()
}

/// A rule for another port.
fn with_port(rule: &str, old: usize, new: usize) -> String {
    let [old, new] = [old, new].map(|port| port.to_string());
    format!("{}\n", rule.replace(&old, &new))
}

fn container_name(number: usize) -> String {
    format!("ports-{number}")
}

fn start(engine: &Engine, name: &str, range: &str) {
    let args = [
        "run",
        "-d",
        "--name",
        name,
        "--stop-signal",
        "KILL",
        "--network",
        "net",
        "-p",
        range,
    ];
    let command = ["busybox", "sleep", "86400"];
    engine
        .try_docker_for(START, &[&args[..], &command].concat())
        .must();
}

/// Publishes `few` and `many` ports each way and asks in `rounds` rounds, or as many as fit into [`LONGEST`].
pub fn measure(few: usize, many: usize, rounds: usize) -> Vec<String> {
    let most = CONTAINERS * STEP;
    for ports in [few, many] {
        assert!(
            ports.is_multiple_of(CONTAINERS) && (CONTAINERS..=most).contains(&ports),
            "{ports} ports: a multiple of {CONTAINERS} is wanted, {most} at most"
        );
    }
    let mut places: Vec<Place> = Vec::new();
    for way in 0..WAYS.len() {
        places.extend([few, many].map(|ports| Place::prepare(way, ports)));
    }
    places.iter_mut().for_each(|place| place.round(false));
    let begun = Instant::now();
    for round in 0..rounds {
        if round > 0 && begun.elapsed() > LONGEST {
            say("ports: this machine is slow or busy, so there are fewer rounds");
            break;
        }
        for turn in turns::order(round, places.len()) {
            places[turn].round(true);
        }
        if (round + 1) % 10 == 0 {
            say(&format!("ports: {} of {rounds} rounds", round + 1));
        }
    }
    table(&places, [few, many])
}

/// How much longer the second place took than the first, in each round.
fn ratios(first: &Times, second: &Times) -> Vec<f64> {
    pairs(&first.medians, &second.medians, |first, second| second / first)
}

/// What was asked of two places, each with what it took there.
fn questions<'a>(one: &'a Place, two: &'a Place) -> [(&'static str, [&'a Times; 2]); 2] {
    [
        ("exchange", [&one.exchanges, &two.exchanges]),
        ("connection and exchange", [&one.connections, &two.connections]),
    ]
}

fn table(places: &[Place], [few, many]: [usize; 2]) -> Vec<String> {
    let rounds = places[0].exchanges.medians.len();
    let mut lines = vec![
        format!(
            "Docker {}; {rounds} rounds in turns, in each {} exchanges of one byte on a connection that is open and {} \
             connections with an exchange each, from another host, through the first, the middle and the last port. The \
             ratio is the median of the rounds' ratios.",
            places[0].version,
            ASKED * EXCHANGES,
            ASKED * CONNECTIONS
        ),
        String::new(),
        format!(
            "| times in µs | ports | p50 | p99 | p50, {few} ports | p99, {few} ports | p50 ratio | p99 ratio |"
        ),
        "|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    let mut ours = Vec::new();
    for pair in places.chunks_exact(2) {
        for (what, times) in questions(&pair[0], &pair[1]) {
            let ratio = median(&ratios(times[0], times[1]));
            let [[p50, p99], [p50_many, p99_many]] = times.map(|t| [t.all.median() * 1e3, t.all.p99() * 1e3]);
            lines.push(format!(
                "| {}: {what} | {} | {p50_many:.1} | {p99_many:.1} | {p50:.1} | {p99:.1} | {ratio:.3} | {:.2} |",
                WAYS[pair[0].way].0,
                pair[1].ports,
                p99_many / p99
            ));
            if pair[0].way == TOMBOLO {
                ours.push((what, ratio));
            }
        }
    }
    lines.push(String::new());
    for (what, of) in [
        (
            "exchange",
            (|place| &place.exchanges.medians) as fn(&Place) -> &Vec<f64>,
        ),
        ("connection", |place| &place.connections.medians),
    ] {
        let bar = |place: &Place| Bar {
            name: format!(
                "{}, {} ports",
                WAYS[place.way].0.replace("userland ", ""),
                place.ports
            ),
            ours: place.way == TOMBOLO,
            numbers: of(place).iter().map(|ms| ms * 1e3).collect(),
        };
        lines.extend(bars(
            &format!("ports-{what}"),
            &format!("{what} through a published port, µs"),
            &places.iter().map(bar).collect::<Vec<_>>(),
        ));
    }
    lines.push(format!(
        "| until {CONTAINERS} containers have their ports | ports | seconds |"
    ));
    lines.push("|---|---|---|".to_owned());
    for place in places {
        let (ports, took) = place.set_up;
        lines.push(format!(
            "| {} | {ports} | {:.1} |",
            WAYS[place.way].0,
            took.as_secs_f64()
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "Docker published {BY_DOCKER} of the {many} ports itself; the rules of the others are copies of its own, written after them."
    ));
    lines.push(String::new());
    if let [Some(few), Some(many)] = [places[0].memory_mib, places[1].memory_mib] {
        lines.push(format!(
            "tombolo then holds {few:.1} MiB and {many:.1} MiB of memory."
        ));
        lines.push(String::new());
    }
    let percent = |ratio: f64| format!("{:+.1} %", (ratio - 1.0) * 100.0);
    for (what, ratio) in ours {
        let most = (AIM - 1.0) * 100.0;
        let what = format!("with {many} ports at most {most:.0} % slower than with {few}, {what}");
        lines.push(crate::aim(&what, &percent(ratio), ratio <= AIM));
    }
    // Both with few ports: with many, Docker's are far behind.
    let (tombolo, docker) = (&places[0], &places[2]);
    for (what, [of_docker, ours]) in questions(docker, tombolo) {
        let (found, met) = beside_one(&ratios(of_docker, ours), Ordering::Less);
        let name = WAYS[docker.way].0;
        lines.push(crate::aim(
            &format!("with {few} ports no slower than {name}, {what}{TIE}"),
            &found,
            met,
        ));
    }
    lines
}
