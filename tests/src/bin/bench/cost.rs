//! What ways from place to place cost, measured in turns, and the tables of it.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use system_tests::measure::Way;
use system_tests::samples::Samples;
use system_tests::say;

use crate::picture::{Bar, bars};
use crate::spread::{TIE, beside_one, pairs, with_quartiles};
use crate::{probe, turns};

/// After this time no further round is begun: on a busy machine fewer rounds say more than a long wait.
const LONGEST: Duration = Duration::from_secs(240);

/// How often is asked in a round, of each sort, and how long a connection carries what it can.
const EXCHANGES: usize = 400;
const CONNECTIONS: usize = 60;
const STREAM: Duration = Duration::from_millis(300);

/// What was measured of a way.
#[derive(Default)]
pub struct Cost {
    udp: Asked,
    tcp: Asked,
    connections: Asked,
    /// Round by round: the processor's µs of an exchange, what datagrams and what a connection carried in Gbit/s, the
    /// connection's seconds of a gigabyte.
    udp_work: Vec<f64>,
    udp_gbits: Vec<f64>,
    pub gbits: Vec<f64>,
    work: Vec<f64>,
}

/// Questions of a sort: all of them, and each round's median in µs.
#[derive(Default)]
struct Asked {
    all: Samples,
    medians: Vec<f64>,
}

impl Asked {
    fn add(&mut self, round: &Samples) {
        self.all.extend(round);
        self.medians.push(round.median() * 1e3);
    }
}

impl Cost {
    fn add(&mut self, turn: &probe::Turn) {
        self.udp.add(&turn.udp);
        self.tcp.add(&turn.tcp);
        self.connections.add(&turn.connections);
        self.udp_work.push(turn.udp_work);
        self.udp_gbits.push(turn.udp_gbits);
        self.gbits.push(turn.gbits);
        self.work.push(turn.work);
    }
}

/// Measures ways in `rounds` rounds, or as many as fit into [`LONGEST`]; `before` is done before each turn of a way.
pub fn in_turns(part: &str, ways: &[Way], rounds: usize, before: impl Fn(usize)) -> Vec<Cost> {
    let mut costs: Vec<Cost> = ways.iter().map(|_| Cost::default()).collect();
    let begun = Instant::now();
    for round in 0..=rounds {
        if round > 1 && begun.elapsed() > LONGEST {
            say(&format!(
                "{part}: this machine is slow or busy, so there are fewer rounds"
            ));
            break;
        }
        for at in turns::order(round, ways.len()) {
            before(at);
            let turn = probe::turn(&ways[at], EXCHANGES, CONNECTIONS, STREAM);
            // The first round only warms up.
            if round > 0 {
                costs[at].add(&turn);
            }
        }
        if round % 10 == 0 {
            say(&format!("{part}: {round} of {rounds} rounds"));
        }
    }
    costs
}

/// How it was measured, as a sentence's end.
pub fn how(costs: &[Cost]) -> String {
    format!(
        "{} rounds, in each all ways in turns: {EXCHANGES} questions of one byte with their answers in datagrams, {EXCHANGES} on a \
         connection that is open, and {CONNECTIONS} connections with one each, from connecting to closing, with both ends on one processor; \
         then, with a processor for each end, datagrams as fast as can be for half as long, of which those count that arrive, and a \
         connection that carries what it can for {} ms. The processor's time is that of both ends' threads, in which the kernel does most of its work for \
         packets, and of its own threads for the rest; all of them go before the machine's other work (nice -10).",
        costs[0].gbits.len(),
        STREAM.as_millis()
    )
}

/// A number of each round.
pub type Of = fn(&Cost) -> &Vec<f64>;

/// The sorts of questions.
pub const QUESTIONS: [(&str, Of); 3] = [
    ("UDP", |cost| &cost.udp.medians),
    ("TCP", |cost| &cost.tcp.medians),
    ("with a connection of its own", |cost| &cost.connections.medians),
];

/// What carries as much as it can.
pub const CARRIED: [(&str, Of); 2] = [
    ("datagrams", |cost| &cost.udp_gbits),
    ("a connection", |cost| &cost.gbits),
];

/// Whether one way is as good as another, each sort of question and what is carried.
pub fn aims_beside(ours: &Cost, theirs: &Cost, whose: &str) -> Vec<String> {
    let questions = QUESTIONS.map(|(sort, of)| {
        (
            of,
            Ordering::Less,
            format!("an answer takes no longer than with {whose}, {sort}"),
        )
    });
    let carried = CARRIED.map(|(sort, of)| {
        (
            of,
            Ordering::Greater,
            format!("at least as much is carried as with {whose}, {sort}"),
        )
    });
    let all = questions.into_iter().chain(carried);
    all.map(|(of, better, what)| {
        let (found, met) = beside_one(&ratios(of, ours, theirs), better);
        crate::aim(&format!("{what}{TIE}"), &found, met)
    })
    .collect()
}

/// What each way cost.
pub fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a Cost)>) -> Vec<String> {
    let mut lines = vec![
        "| | UDP p50, µs | p99 | TCP p50, µs | p99 | a connection, µs | p99 | UDP, Gbit/s | TCP, Gbit/s | processor, s per 100,000 UDP | per GB of TCP |".to_owned(),
        "|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    let asked = |asked: &Asked| {
        let p99 = asked.all.p99() * 1e3;
        format!("{} | {p99:.0}", with_quartiles(&asked.medians, 1))
    };
    lines.extend(rows.map(|(name, cost)| {
        let in_all: Vec<f64> = cost.udp_work.iter().map(|each| each / 10.0).collect();
        format!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} |",
            asked(&cost.udp),
            asked(&cost.tcp),
            asked(&cost.connections),
            with_quartiles(&cost.udp_gbits, 2),
            with_quartiles(&cost.gbits, 1),
            with_quartiles(&in_all, 2),
            with_quartiles(&cost.work, 2)
        )
    }));
    lines.push(String::new());
    lines.push("Medians of the rounds, and quartiles in brackets.".to_owned());
    lines.push(String::new());
    lines
}

/// Pictures of what ways cost; those whose name `ours` takes are tombolo's.
pub fn pictures(part: &str, names: &[&str], costs: &[Cost], ours: impl Fn(&str) -> bool) -> Vec<String> {
    let sorts: [(&str, &str, Of); 3] = [
        ("", "a question and its answer on a connection, µs", |cost| {
            &cost.tcp.medians
        }),
        ("-connection", "a connection with one question, µs", |cost| {
            &cost.connections.medians
        }),
        ("-carried", "what a connection carries, Gbit/s", |cost| {
            &cost.gbits
        }),
    ];
    let picture = |(name, what, of): (&str, &str, Of)| {
        let bar = |(name, cost): (&&str, &Cost)| Bar {
            name: (*name).to_owned(),
            ours: ours(name),
            numbers: of(cost).clone(),
        };
        let all: Vec<Bar> = names.iter().zip(costs).map(bar).collect();
        bars(&format!("{part}{name}"), what, &all)
    };
    sorts.into_iter().flat_map(picture).collect()
}

/// What some cost beside others: what is compared, and the two.
pub fn compared<'a>(rows: impl Iterator<Item = (String, [&'a Cost; 2])>) -> Vec<String> {
    let mut lines = vec![
        "| ratio, round by round | UDP | TCP | a connection | UDP throughput | TCP throughput | processor per GB |".to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    let sorts: [Of; 6] = [
        |cost| &cost.udp.medians,
        |cost| &cost.tcp.medians,
        |cost| &cost.connections.medians,
        |cost| &cost.udp_gbits,
        |cost| &cost.gbits,
        |cost| &cost.work,
    ];
    lines.extend(rows.map(|(what, [one, other])| {
        let cells = sorts.map(|sort| with_quartiles(&ratios(sort, one, other), 2));
        format!("| {what} | {} |", cells.join(" | "))
    }));
    lines.push(String::new());
    lines
}

/// How a number of one way is to another's, round by round.
pub fn ratios(sort: Of, one: &Cost, other: &Cost) -> Vec<f64> {
    pairs(sort(one), sort(other), |one, other| one / other)
}
