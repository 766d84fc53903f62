//! Measures a cluster in virtual time: the daemon's own code on a wire of our own making.
//!
//! ```text
//! cargo run --release -p tombolo-cluster --example measure -- [--hosts N[xROWS],...] [--loss F,...] [--seed N]
//!                                                             [--only rest,quiet,churn,failure] [--write FILE]
//! ```
//!
//! Prints the lines of a table, for each number of hosts a column. With `--write` they take the place of what stands
//! in the file between `<!-- measured -->` and `<!-- /measured -->`, with losses between `<!-- measured with loss -->` and
//! its end, and the command stands above them.
//!
//! What it takes to compute does not appear in the times: they count waiting, the way of each message, and sending over an
//! uplink of 1 Gbit/s. It has lines of its own: the processor's time of the whole run, the simulated wire included, divided
//! among the hosts. Each host has its own table, as a daemon has; but a row that many of them hold is in memory once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    dead_code
)]

#[path = "../tests/simulator/world.rs"]
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tombolo_cluster::HostId;
use tombolo_cluster::membership::Seat;
use tombolo_cluster::node::{Alone, Input, Link, News};
use tombolo_cluster::table::{Commons, Seen};
use tombolo_cluster::time::Tick;
use world::{At, Wire, World, address, host_id};

/// The longest way of a datagram that is measured with, in milliseconds, and the least that the clock can tell.
const WAY_MS: u64 = 1;

/// What a host can send, in bytes per millisecond: 1 Gbit/s.
const UPLINK: u64 = 125_000;

/// Nothing takes longer, or it counts as not happening.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is measured.
#[derive(Clone)]
struct Plan {
    hosts: usize,
    rows: usize,
    loss: f64,
    seed: u64,
    only: Vec<String>,
}

impl Plan {
    fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == what)
    }
}

fn main() {
    let mut sizes = vec![(3, 50), (25, 50), (200, 50), (1000, 50)];
    let (mut losses, mut seed, mut only, mut write) = (vec![0.0], 1, Vec::new(), None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--hosts" => sizes = value.split(',').map(size).collect(),
            "--loss" => losses = value.split(',').map(|n| n.parse().expect("a number")).collect(),
            "--seed" => seed = value.parse().expect("a number"),
            "--only" => only = value.split(',').map(str::to_owned).collect(),
            "--write" => write = Some(value),
            _ => panic!("{arg} is none of --hosts --loss --seed --only --write"),
        }
    }
    let mut columns = Vec::new();
    for (hosts, rows) in sizes {
        for loss in &losses {
            let plan = Plan {
                hosts,
                rows,
                loss: *loss,
                seed,
                only: only.clone(),
            };
            columns.push((title(&plan), measure(&plan)));
        }
    }
    let table = table(&columns);
    println!("{table}");
    if let Some(file) = write {
        let loss = if losses == [0.0] { "" } else { " with loss" };
        let (begin, end) = (
            format!("<!-- measured{loss} -->"),
            format!("<!-- /measured{loss} -->"),
        );
        let args: Vec<String> = std::env::args().skip(1).collect();
        let text = std::fs::read_to_string(&file).expect("the file");
        let (before, rest) = text.split_once(&begin).expect("a mark where the table begins");
        let (_, after) = rest.split_once(&end).expect("a mark where the table ends");
        let written = format!(
            "{before}{begin}\n    {COMMAND} {}\n\n{table}{end}{after}",
            args.join(" ")
        );
        std::fs::write(&file, written).expect("the file");
    }
}

/// So many hosts, with so many rows each.
fn size(text: &str) -> (usize, usize) {
    let (hosts, rows) = text.split_once('x').unwrap_or((text, "50"));
    (hosts.parse().expect("a number"), rows.parse().expect("a number"))
}

/// What runs this, but for what follows it.
const COMMAND: &str = "cargo run --release -p tombolo-cluster --example measure --";

fn title(plan: &Plan) -> String {
    let loss = match plan.loss {
        0.0 => String::new(),
        loss => format!(", {} % lost", loss * 100.0),
    };
    format!("{} hosts, {} rows each{loss}", plan.hosts, plan.rows)
}

/// A table in Markdown: a line for each thing measured, a column for each plan.
fn table(columns: &[(String, Vec<(String, String)>)]) -> String {
    let mut lines: Vec<&String> = Vec::new();
    for (what, _) in columns.iter().flat_map(|(_, cells)| cells) {
        if !lines.contains(&what) {
            lines.push(what);
        }
    }
    let mut text = String::from("| |");
    columns
        .iter()
        .for_each(|(title, _)| text += &format!(" {title} |"));
    text += "\n|---|";
    columns.iter().for_each(|_| text += "---|");
    text.push('\n');
    for line in lines {
        text += &format!("| {line} |");
        for (_, cells) in columns {
            let cell = cells.iter().find(|(what, _)| what == line);
            text += &format!(" {} |", cell.map_or("", |(_, cell)| cell));
        }
        text.push('\n');
    }
    text
}

/// A body as an endpoint's row has it, with a number by which it is known again.
fn body(at: At, row: usize, number: u64) -> Vec<u8> {
    format!(
        r#"{{"net":"backend","pools":["10.42.0.0/16"],"kind":"vxlan","vni":4242,"ipv4":"10.42.{}.{}","ipv6":null,"mac":"02:42:0a:2a:{:02x}:{:02x}","via":"10.200.{}.{}","name":"shop-{at}-{row}","aliases":["shop","web"],"joined":true,"n":"{number:016x}"}}"#,
        at % 256, row % 256, at % 256, row % 256, at / 256, at % 256,
    )
    .into_bytes()
}

fn number(body: &[u8]) -> Option<u64> {
    let digits = body.get(body.len().checked_sub(18)?..body.len() - 2)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn key(row: usize) -> String {
    format!(
        "endpoint/{:016x}",
        (row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    )
}

/// When each change was made, and when each host saw it or a later one of the same row.
#[derive(Default)]
struct Ledger {
    rows: BTreeMap<HostId, BTreeMap<String, Changed>>,
    spans: Vec<u64>,
    changes: usize,
}

/// The changes of a row, rising, and how many of them each host has seen.
#[derive(Default)]
struct Changed {
    made: Vec<(u64, Tick)>,
    seen: Vec<u32>,
}

impl Ledger {
    fn note(&mut self, now: Tick, at: At, seen: &Seen) {
        let Some(number) = seen.after.as_deref().and_then(number) else {
            return;
        };
        let rows = self.rows.get_mut(&seen.origin);
        let Some(row) = rows.and_then(|rows| rows.get_mut(seen.key.as_str())) else {
            return;
        };
        row.seen.resize(row.seen.len().max(at + 1), 0);
        let count = &mut row.seen[at];
        while let Some((_, since)) = row.made.get(*count as usize).filter(|(of, _)| *of <= number) {
            self.spans.push(now.0 - since.0);
            *count += 1;
        }
    }

    /// The share of pairs of change and host that took at most so long.
    fn quantile(&mut self, share: f64) -> u64 {
        self.spans.sort_unstable();
        let at = (self.spans.len() as f64 * share).ceil() as usize;
        self.spans.get(at.saturating_sub(1)).copied().unwrap_or(0)
    }
}

/// Whether something holds in a run.
type Holds<'a> = &'a dyn Fn(&Run) -> bool;

struct Run {
    plan: Plan,
    world: World,
    ledger: Rc<RefCell<Ledger>>,
    number: u64,
    cells: Vec<(String, String)>,
}

fn measure(plan: &Plan) -> Vec<(String, String)> {
    let mut world = World::new(plan.seed, plan.hosts, Alone::Wait);
    world.readers = false;
    world.commons = Some(Commons::default());
    world.uplink = Some(UPLINK);
    world.wire = Wire {
        loss: plan.loss,
        duplicate: 0.0,
        delay_ms: (WAY_MS, WAY_MS),
    };
    let first = Seat::new(host_id(0), address(0), 0);
    for at in 0..plan.hosts {
        world.hosts[at].disk.seats = vec![first.clone()];
        world.hosts[at].disk.rows = (0..plan.rows).map(|row| (key(row), body(at, row, 0))).collect();
    }
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let watching = Rc::clone(&ledger);
    world.watch = Some(Box::new(move |now, at, seen| {
        watching.borrow_mut().note(now, at, seen)
    }));
    let mut run = Run {
        plan: plan.clone(),
        world,
        ledger,
        number: 0,
        cells: Vec::new(),
    };
    run.cold();
    run.world.run(Duration::from_secs(60));
    run.part("rest", Run::rest);
    run.part("quiet", Run::quiet);
    run.part("churn", Run::churn);
    let downs = run.downs();
    run.cell("taken for dead without cause", format!("{downs}"));
    run.part("failure", Run::failure);
    run.cells
}

impl Run {
    fn part(&mut self, name: &str, part: impl FnOnce(&mut Self)) {
        if self.plan.wants(name) {
            let began = Instant::now();
            part(self);
            eprintln!("{} {name}: {:.1?}", title(&self.plan), began.elapsed());
        }
    }

    fn cell(&mut self, what: &str, cell: String) {
        eprintln!("{}: {what}: {cell}", title(&self.plan));
        self.cells.push((what.to_owned(), cell));
    }

    fn nodes(&self) -> impl Iterator<Item = &tombolo_cluster::node::Node> {
        self.world.hosts.iter().filter_map(|host| host.node.as_ref())
    }

    /// Runs until something holds; gives after how many milliseconds.
    fn until(&mut self, step: Duration, holds: impl Fn(&Self) -> bool) -> Option<u64> {
        let began = self.world.now;
        while !holds(self) {
            if self.world.now.since(began) > PATIENCE {
                return None;
            }
            self.world.run(step);
        }
        Some(self.world.now.0 - began.0)
    }

    fn all_equal(&self) -> bool {
        let mut digests = self.nodes().map(|node| node.table().digest());
        let first = digests.next();
        digests.all(|digest| Some(digest) == first)
    }

    fn all_known(&self) -> bool {
        let hosts = self.nodes().count();
        self.nodes().all(|node| node.alive_count() + 1 == hosts)
    }

    fn traffic(&self) -> (u64, u64, u64) {
        self.world
            .hosts
            .iter()
            .fold((0, 0, 0), |(bytes, calls, sent), host| {
                (bytes + host.sent_bytes, calls + host.call_bytes, sent + host.sent)
            })
    }

    fn downs(&self) -> usize {
        let news = self.world.hosts.iter().flat_map(|host| &host.news);
        news.filter(|(_, news)| matches!(news, News::Down(_))).count()
    }

    /// What each host computed since then, in milliseconds.
    fn computed(&self, since: Duration) -> f64 {
        let spent = computed().saturating_sub(since);
        spent.as_secs_f64() * 1000.0 / self.plan.hosts as f64
    }

    /// All start at once, and know of each other only where the first one is.
    fn cold(&mut self) {
        let (began, busy) = (Instant::now(), computed());
        (0..self.plan.hosts).for_each(|at| self.world.start(at));
        let step = Duration::from_millis(20);
        let known = self.until(step, Self::all_known);
        eprintln!("  known after {known:?} ms, {:.1?}", began.elapsed());
        let more = self.until(step, Self::all_equal);
        let equal = known.zip(more).map(|(known, more)| known + more);
        let (sent, called, _) = self.traffic();
        let took = self.computed(busy);
        self.cell("cold start: everybody knows everybody", seconds(known));
        self.cell("cold start: all have all rows", seconds(equal));
        let each = (sent + called) as f64 / self.plan.hosts as f64 / 1024.0;
        let datagrams = sent as f64 / self.plan.hosts as f64 / 1024.0;
        self.cell(
            "cold start: sent by each host",
            format!("{each:.0} KiB ({datagrams:.0} in datagrams)"),
        );
        let most = self
            .world
            .hosts
            .iter()
            .map(|host| host.sent_bytes + host.call_bytes)
            .max();
        let most = most.unwrap_or(0) as f64 / 1024.0;
        self.cell(
            "cold start: sent by the one that sends most",
            format!("{most:.0} KiB"),
        );
        self.cell("cold start: computed by each host", format!("{took:.0} ms"));
        let rows = self.plan.rows * self.plan.hosts;
        assert!(
            self.nodes().all(|node| node.table().rows() == rows),
            "all rows are everywhere"
        );
        eprintln!("  cold start took {:.1?}", began.elapsed());
    }

    /// Nothing happens for two minutes.
    fn rest(&mut self) {
        let (sent, called, count) = self.traffic();
        let (steps, busy) = (self.world.steps, computed());
        let span = 120;
        self.world.run(Duration::from_secs(span));
        let took = self.computed(busy) / span as f64;
        let (sent_now, called_now, count_now) = self.traffic();
        let each = |amount: u64| amount as f64 / self.plan.hosts as f64 / span as f64;
        let (bytes, calls, messages) = (
            each(sent_now - sent),
            each(called_now - called),
            each(count_now - count),
        );
        self.cell(
            "at rest: sent by each host",
            format!("{:.0} B/s ({calls:.0} of them in calls)", bytes + calls),
        );
        self.cell("at rest: datagrams of each host", format!("{messages:.1} /s"));
        self.cell("at rest: computed by each host", format!("{took:.2} ms/s"));
        eprintln!("  {} steps", self.world.steps - steps);
    }

    /// One row changes somewhere.
    fn change(&mut self) {
        let at = self.world.rng.random_range(0..self.plan.hosts);
        self.change_of(at);
    }

    fn change_of(&mut self, at: At) {
        let row = self.world.rng.random_range(0..self.plan.rows);
        self.number += 1;
        let mut ledger = self.ledger.borrow_mut();
        let rows = ledger.rows.entry(host_id(at)).or_default();
        let changed = rows.entry(key(row)).or_default();
        changed.made.push((self.number, self.world.now));
        ledger.changes += 1;
        drop(ledger);
        let change = (key(row), Some(body(at, row, self.number)));
        self.world.input(at, Input::Rows(vec![change]));
    }

    /// The times of all changes since the last call; a change that somebody never saw is an error.
    fn times(&mut self, what: &str, quantiles: &[(&str, f64)]) {
        let mut ledger = self.ledger.take();
        // Whoever made a change sees it at once; these are no times.
        let pairs = ledger.changes * (self.plan.hosts - 1);
        ledger.spans.sort_unstable();
        let own = ledger.spans.len().saturating_sub(pairs);
        ledger.spans.drain(..own);
        let spans: Vec<String> = quantiles
            .iter()
            .map(|(name, share)| format!("{name} {}", ledger.quantile(*share)))
            .collect();
        let missing = pairs - ledger.spans.len();
        let missing = match missing {
            0 => String::new(),
            some => format!(", {some} NEVER"),
        };
        let changes = ledger.changes;
        self.cell(
            what,
            format!("{} ms, of {changes} changes{missing}", spans.join(", ")),
        );
    }

    /// Single changes, with pauses in between.
    fn quiet(&mut self) {
        let changes = if self.plan.hosts > 500 { 60 } else { 200 };
        for _ in 0..changes {
            let pause = self.world.rng.random_range(5_000..7_000);
            self.change();
            self.world.run(Duration::from_millis(pause));
        }
        self.until(Duration::from_millis(100), Self::all_equal);
        self.times(
            "one change in quiet, until another host has it",
            &[("p50", 0.5), ("p99", 0.99), ("worst", 1.0)],
        );
    }

    /// Every host changes a row each second, or all together 100 a second where that is less.
    fn churn(&mut self) {
        let rate = self.plan.hosts.min(100) as u64;
        let span = if self.plan.hosts > 500 { 10 } else { 60 };
        let (sent, called, _) = self.traffic();
        let busy = computed();
        for turn in 0..span * rate {
            let at = match rate == self.plan.hosts as u64 {
                true => turn as usize % self.plan.hosts,
                false => self.world.rng.random_range(0..self.plan.hosts),
            };
            self.change_of(at);
            let next = (turn + 1) * 1000 / rate - turn * 1000 / rate;
            self.world.run(Duration::from_millis(next));
        }
        let (sent_now, called_now, _) = self.traffic();
        let took = self.computed(busy) / span as f64;
        self.until(Duration::from_millis(100), Self::all_equal);
        self.times(
            "a change among many, until another host has it",
            &[("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("worst", 1.0)],
        );
        let hosts = self.plan.hosts as f64;
        let each = |amount: u64| amount as f64 / hosts / span as f64 / 1024.0;
        self.cell("changes a second meanwhile, in all", format!("{rate}"));
        self.cell(
            "sent by each host meanwhile",
            format!(
                "{:.1} KiB/s ({:.1} of them in calls)",
                each(sent_now - sent + called_now - called),
                each(called_now - called)
            ),
        );
        self.cell("computed by each host meanwhile", format!("{took:.1} ms/s"));
    }

    /// One host's daemon dies, and comes back after a minute; several times.
    fn failure(&mut self) {
        let rounds = if self.plan.hosts > 500 { 2 } else { 5 };
        let (mut first, mut all, mut seen, mut back, mut rows) = (vec![], vec![], vec![], vec![], vec![]);
        for round in 0..rounds {
            self.world.run(Duration::from_secs(30));
            let lost = 1 + round % (self.plan.hosts - 1);
            let id = host_id(lost);
            let died = self.world.now;
            self.world.crash(lost);
            self.until(Duration::from_millis(20), |run| {
                run.nodes().all(|node| node.link(&id) != Link::Up)
            });
            let news = self.world.hosts.iter().flat_map(|host| &host.news);
            let when: Vec<u64> = news
                .filter(|(at, news)| *at > died && *news == News::Down(id))
                .map(|(at, _)| at.0 - died.0)
                .collect();
            first.extend(when.iter().min());
            all.extend(when.iter().max());
            self.world.run(Duration::from_secs(60));
            let began = self.world.now;
            self.world.start(lost);
            let here = |run: &Self| {
                let mut others = run.nodes().filter(|node| node.me() != id);
                others.all(|node| node.link(&id) == Link::Up)
            };
            let knows = |run: &Self| {
                let node = run.world.hosts[lost].node.as_ref();
                node.is_some_and(|node| node.alive_count() + 1 == run.plan.hosts)
            };
            let mut left: Vec<(&mut Vec<u64>, Holds<'_>)> = vec![
                (&mut back, &here),
                (&mut seen, &knows),
                (&mut rows, &Self::all_equal),
            ];
            while !left.is_empty() && self.world.now.since(began) < PATIENCE {
                self.world.run(Duration::from_millis(10));
                let took = self.world.now.0 - began.0;
                left.retain_mut(|(times, holds)| {
                    let done = holds(self);
                    times.extend(done.then_some(took));
                    !done
                });
            }
        }
        let worst = |times: &[u64]| seconds(times.iter().max().copied());
        self.cell("a host dies, until the first one notices", worst(&first));
        self.cell("a host dies, until all notice", worst(&all));
        self.cell(
            "a host is back, until its rows are visible everywhere",
            worst(&back),
        );
        self.cell("a host is back, until all have the same of it", worst(&rows));
        self.cell("a host is back, until it knows everybody", worst(&seen));
        let others = self.world.hosts.iter().flat_map(|host| &host.news);
        let false_ones = others.filter(
            |(_, news)| matches!(news, News::Down(host) if !(1..=rounds).any(|at| host_id(at) == *host)),
        );
        let count = false_ones.count();
        self.cell("others taken for dead meanwhile", format!("{count}"));
    }
}

/// The processor's time that this process has had.
fn computed() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("the kernel counts it");
    let nanoseconds = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or("never".to_owned(), |ms| format!("{:.2} s", ms as f64 / 1000.0))
}
