//! What tombolo costs, measured on one machine in one run. Prints tables in Markdown; progress goes to standard error.
//!
//! The parts, to be named on the command line (without a name: all but `slowed` and `profile`):
//!
//! - `attach`: what networks cost a container's start and end, beside Docker's own of the same sort
//! - `bridge`: what a way between containers of one host costs, beside Docker's own bridge
//! - `growth`: what more endpoints and more networks on a host cost those that come and go
//! - `slowed`: whether a slower tombolo is told from the usual one (`make bench-check`)
//! - `calls`: how long tombolo's own answers take with few and with many endpoints
//! - `ports`: what a question through a published port takes with few ports and with many
//! - `across`: what a way between containers of two hosts costs, beside the wire and Docker's Swarm
//! - `repair`: how fast six hosts put right what was broken by hand, and reach what is new or has moved
//! - `many`: what up to ten thousand endpoints of other hosts cost
//! - `profile`: where the time of a question between two hosts, and of one through a published port, goes in the kernel (needs `perf`)
//! - `wire`: what a network on a wire (macvlan) costs beside Docker's own
//!
//! What is compared is measured in turns, so that whatever else the machine does hits all alike. Nothing depends on how
//! fast it is: the exit code tells whether everything worked. `TOMBOLO_BENCH_ROUNDS` (default 30) is how many rounds of
//! containers there are, `TOMBOLO_BENCH_CALLS` (default 300) how many times each method is called,
//! `TOMBOLO_BENCH_PORTS` (default 10000) how many ports are many, `TOMBOLO_BENCH_PORT_ROUNDS` (default 100) how many rounds
//! of questions there are, `TOMBOLO_TEST_ENGINE` which engine is used, as for the tests. Between hosts:
//! `TOMBOLO_BENCH_ACROSS_ROUNDS` (default 60) is how many rounds of ways there are (of `bridge` and `wire` as well),
//! `TOMBOLO_BENCH_REPAIRS` (default 30) how often each thing is broken, started, moved, or one more, `TOMBOLO_BENCH_PEERS`
//! (default 10000) how many endpoints `many` goes up to. `TOMBOLO_BENCH_MOST` (default 10000) is how many endpoints `growth` goes up to.
//! `TOMBOLO_BENCH_WRITE` names a document in which the parts write their sections anew (`make bench` has `docs/benchmarks.md`).

mod across;
mod ask;
mod attach;
mod bridge;
mod calm;
mod cost;
mod disk;
mod document;
mod follower;
mod growth;
mod handlers;
mod many;
mod memory;
mod picture;
mod ports;
mod probe;
mod profile;
mod repair;
mod slowed;
mod spread;
mod together;
mod turns;
mod wire;

use std::fs;
use std::time::{Duration, Instant};

use system_tests::asked::count;
use system_tests::{samples, say, tombolo};

use handlers::{METHODS, NOTHING, Place};
use picture::{Bar, bars};

/// How many endpoints the two hosts have.
const FEW: usize = 10;
const MANY: usize = 1000;

/// After this time no further call is made: on a busy machine fewer calls say more than a long wait.
const LONGEST: Duration = Duration::from_secs(60);

/// What we aim at: the time that 99 of 100 answers do not exceed, in milliseconds, and how much longer they may take with
/// many endpoints than with few.
const AIM_MS: f64 = 15.0;
const AIM_RATIO: f64 = 2.0;

/// How many published ports are few.
const FEW_PORTS: usize = 10;

/// A part: its name, what measures it, and the title of the document that it has a section in.
type Part = (&'static str, fn() -> Vec<String>, Option<&'static str>);

const ALL: Option<&str> = Some("Benchmarks");

const PARTS: [Part; 11] = [
    (
        "attach",
        || attach::measure(count("TOMBOLO_BENCH_ROUNDS", 50)),
        ALL,
    ),
    (
        "bridge",
        || bridge::measure(count("TOMBOLO_BENCH_ACROSS_ROUNDS", 60)),
        ALL,
    ),
    (
        "growth",
        || {
            growth::measure(
                count("TOMBOLO_BENCH_CALLS", 300),
                count("TOMBOLO_BENCH_MOST", 10_000),
            )
        },
        ALL,
    ),
    (
        "slowed",
        || slowed::measure(count("TOMBOLO_BENCH_ROUNDS", 30)),
        None,
    ),
    ("calls", calls, ALL),
    ("ports", scaling_of_ports, ALL),
    (
        "across",
        || across::measure(count("TOMBOLO_BENCH_ACROSS_ROUNDS", 60)),
        ALL,
    ),
    ("profile", profile::measure, ALL),
    (
        "repair",
        || repair::measure(count("TOMBOLO_BENCH_REPAIRS", 30)),
        ALL,
    ),
    (
        "many",
        || {
            many::measure(
                count("TOMBOLO_BENCH_PEERS", 10_000),
                count("TOMBOLO_BENCH_MORE", 100),
            )
        },
        ALL,
    ),
    (
        "wire",
        || wire::measure(count("TOMBOLO_BENCH_ACROSS_ROUNDS", 60)),
        ALL,
    ),
];

fn main() {
    assert!(
        std::env::var_os(tombolo::BINARY).is_some(),
        "{} must name the release build: what is measured is what people run. `make bench` does so",
        tombolo::BINARY
    );
    let named: Vec<String> = std::env::args().skip(1).collect();
    let parts = match named.is_empty() {
        // The one takes a build of its own, the other one a tool.
        true => PARTS
            .iter()
            .map(|(name, ..)| (*name).to_owned())
            .filter(|name| name != "slowed" && name != "profile")
            .collect(),
        false => named,
    };
    let parts = parts.iter().map(|named| {
        let known = PARTS.iter().find(|(name, ..)| name == named);
        known.unwrap_or_else(|| {
            panic!(
                "no part is called '{named}': {:?} are",
                PARTS.map(|(name, ..)| name)
            )
        })
    });
    for (name, measure, document) in parts.collect::<Vec<_>>() {
        let lines = measure();
        print(&lines.join("\n"));
        if let Some(title) = document {
            document::put(title, name, &lines);
        }
        // What the next one makes is not to wait for what this one has left to the kernel.
        calm::wait();
    }
}

/// The part `calls`.
fn calls() -> Vec<String> {
    let begin = load();
    let [mut few, mut many] = ask_in_turns(count("TOMBOLO_BENCH_CALLS", 300));
    let at_once = together::measure(&mut few, &mut many, count("TOMBOLO_BENCH_AT_ONCE", 40));
    let mut sync = few.cost_of_sync();
    sync.extend(&many.cost_of_sync());
    let lines = [
        how_made(&few, &begin, &sync),
        table_of_handlers(&few, &many),
        at_once,
    ];
    let images = [few.image.clone(), many.image.clone()];
    drop((few, many));
    disk::must_be_gone(&images);
    lines.concat()
}

/// The part `ports`.
fn scaling_of_ports() -> Vec<String> {
    let many = count("TOMBOLO_BENCH_PORTS", 10_000);
    let begin = load();
    let table = ports::measure(FEW_PORTS, many, count("TOMBOLO_BENCH_PORT_ROUNDS", 100));
    let title = "## Through a published port".to_owned();
    [
        vec![title, String::new(), machine("ports", &begin), String::new()],
        table,
    ]
    .concat()
}

/// How a part was measured, and on what.
fn machine(part: &str, load_before: &str) -> String {
    let cores = std::thread::available_parallelism().expect("the number of processors");
    format!(
        "One run of `make bench PARTS={part}` at {}: Linux {}, {cores} processors, load average {load_before} before (the \
         machine's other work) and {} after.",
        commit(),
        read("/proc/sys/kernel/osrelease").trim(),
        load()
    )
}

/// The commit that is measured, in short, and whether something differs from it that isn't a document.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short", "HEAD"]);
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs"]);
    match (head, changed) {
        (Some(head), Some(changed)) if changed.is_empty() => head,
        (Some(head), _) => format!("{head} with changes"),
        (None, _) => "an unknown commit".to_owned(),
    }
}

/// Has both hosts answer each method this many times, or as many as fit into [`LONGEST`].
fn ask_in_turns(rounds: usize) -> [Place; 2] {
    let mut places = [FEW, MANY].map(Place::with);
    for place in &mut places {
        place.round(0);
        place.warmed_up();
    }
    let begun = Instant::now();
    for round in 0..rounds {
        if round > 0 && begun.elapsed() > LONGEST {
            say("handlers: this machine is slow or busy, so there are fewer rounds");
            break;
        }
        for turn in 0..2 {
            places[(round + turn) % 2].round(round);
        }
        if (round + 1) % 50 == 0 {
            say(&format!("handlers: {} of {rounds} rounds", round + 1));
        }
    }
    places.iter().for_each(Place::must_be_well);
    places
}

/// Has the calling thread, and what it starts from now on, go before the machine's other work.
fn before_others() {
    let thread = nix::unistd::gettid().to_string();
    let done = std::process::Command::new("renice")
        .args(["-n", "-10", "-p", &thread])
        .output();
    assert!(done.is_ok_and(|done| done.status.success()), "renice");
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("reading {path}: {e}"))
}

/// How many processes wanted a processor in the last minute, on average.
fn load() -> String {
    let text = read("/proc/loadavg");
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn how_made(few: &Place, load_before: &str, sync: &samples::Samples) -> Vec<String> {
    vec![
        "## tombolo's own answers".to_owned(),
        String::new(),
        format!(
            "{} Hosts made of namespaces with a tombolo each and without engines, whose records are on ext4 on a loop device, where a write \
             of 500 bytes with fsync takes {:.2} ms (p99 {:.2} ms). {} calls of each method in turns, a connection each, {FEW} or {MANY} \
             endpoints on four networks, each with a published port. A turn begins when the links of the one before are gone: both hosts \
             are of one kernel, which lets nobody change a link for some 20 ms while a bridge goes.",
            machine("calls", load_before),
            sync.median(),
            sync.p99(),
            few.times()["NetworkDriver.Join"].len()
        ),
        String::new(),
    ]
}

fn table_of_handlers(few: &Place, many: &Place) -> Vec<String> {
    let mut lines = vec![
        format!(
            "| answers, in ms | p50, {FEW} | p99 | longest | p50, {MANY} | p99 | longest | p50 {MANY}/{FEW} | p99 {MANY}/{FEW} |"
        ),
        "|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    let row = |name: &str, [few, many]: [&samples::Samples; 2]| {
        let ratios = [many.median() / few.median(), many.p99() / few.p99()];
        format!(
            "| {name} | {few} | {many} | {:.2} | {:.2} |",
            ratios[0], ratios[1]
        )
    };
    lines.extend(METHODS.map(|method| {
        let name = method.split('.').next_back().unwrap_or(method);
        let what = if method == NOTHING { " (nothing to do)" } else { "" };
        row(
            &format!("`{name}`{what}"),
            [&few.times()[method], &many.times()[method]],
        )
    }));
    let all = [few.all(), many.all()];
    lines.push(row("all but `EndpointOperInfo`", [&all[0], &all[1]]));
    lines.push(String::new());
    let bar = |method: &&'static str| Bar {
        name: method.split('.').next_back().unwrap_or(method).to_owned(),
        ours: true,
        numbers: many.times()[*method].all().to_vec(),
    };
    lines.extend(bars(
        "calls",
        &format!("an answer with {MANY} endpoints, ms"),
        &METHODS.iter().map(bar).collect::<Vec<_>>(),
    ));
    let worst = all[0].p99().max(all[1].p99());
    let ratio = all[1].p99() / all[0].p99();
    lines.push(aim(
        &format!("99 of 100 answers within {AIM_MS} ms"),
        &format!("{worst:.2} ms"),
        worst < AIM_MS,
    ));
    lines.push(aim(
        &format!("with {MANY} endpoints at most {AIM_RATIO} times that with {FEW}"),
        &format!("{ratio:.2}"),
        ratio <= AIM_RATIO,
    ));
    lines.push(String::new());
    lines
}

fn aim(what: &str, found: &str, met: bool) -> String {
    let verdict = if met { "met" } else { "not met" };
    format!("- Aim: {what}. Found: {found}, {verdict}.")
}

#[allow(clippy::print_stdout, reason = "the table is what this program is for")]
fn print(text: &str) {
    println!("{text}");
}
