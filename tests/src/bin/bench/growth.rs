//! What more endpoints and more networks on a host cost those that come and go, and those that stay: the calls of a container's
//! life and of a network's, a packet, a start of tombolo, its memory.

use std::time::Instant;

use system_tests::measure::Way;
use system_tests::say;

use crate::handlers::Place;
use crate::picture::{Bar, bars};
use crate::spread::{median, pairs, with_quartiles};
use crate::{aim, calm, disk, machine, probe, turns};

/// How many endpoints there are, on networks of 500 at most, each with a published port.
const ENDPOINTS: [usize; 4] = [10, 100, 1_000, 10_000];

/// How many networks there are, with nothing on them.
const NETWORKS: [usize; 4] = [10, 100, 1_000, 10_000];

/// How often is asked and answered in a round.
const EXCHANGES: usize = 100;

/// How often tombolo is started anew at each place.
const STARTS: usize = 10;

/// How much longer calls may take with 1,000 than with 10, and packets with the most of all; and seconds that a start with 1,000
/// may take.
const RATIO: f64 = 1.3;
const PACKET_RATIO: f64 = 1.05;
const START_S: f64 = 1.0;
const AIMED_AT: usize = 1_000;

/// What comes and goes.
struct Sort {
    many: &'static str,
    one: &'static str,
    picture: &'static str,
    place: fn(usize) -> Place,
    life: fn(&mut Place, usize),
}

const SORTS: [(Sort, &[usize]); 2] = [
    (
        Sort {
            many: "networks",
            one: "a network's calls, ms",
            picture: "growth-networks",
            place: Place::of_networks,
            life: |place, _| place.come_and_go(),
        },
        &NETWORKS,
    ),
    (
        Sort {
            many: "endpoints",
            one: "a container's calls, ms",
            picture: "growth",
            place: Place::with,
            life: Place::life,
        },
        &ENDPOINTS,
    ),
];

/// What was measured at a place, round by round: the calls of a life in ms, questions in µs, starts in ms; and its memory in MiB.
#[derive(Default)]
struct Measured {
    lives: Vec<f64>,
    answers: Vec<f64>,
    starts: Vec<f64>,
    memory: f64,
}

/// Measures in so many rounds with this many of either at most, and says what was found.
pub fn measure(rounds: usize, most: usize) -> Vec<String> {
    let mut lines = vec![
        "## More endpoints and more networks on a host".to_owned(),
        String::new(),
        format!(
            "{} Hosts made of namespaces with a tombolo each, whose records are on ext4 on a loop device, and without engines. *A \
             container's calls*: the nine that an engine makes while a container comes and goes, with a published port; *a network's*: the \
             five from `RequestPool` to `ReleasePool`; *a question*: of one byte, with its answer, in datagrams between two containers of one \
             network, the median of {EXCHANGES}; {rounds} times at each place in turns. *Start*: from the starting of the process until \
             it answers and all that its records ask for holds, {STARTS} times.",
            machine("growth", &crate::load())
        ),
        String::new(),
    ];
    for (sort, sizes) in SORTS {
        let sizes: Vec<usize> = sizes.iter().copied().filter(|size| *size <= most).collect();
        lines.extend(of_sort(&sort, &sizes, rounds));
    }
    lines
}

fn of_sort(sort: &Sort, sizes: &[usize], rounds: usize) -> Vec<String> {
    let mut places: Vec<Place> = sizes.iter().map(|size| (sort.place)(*size)).collect();
    // Nothing is done for the first time while we measure.
    places.iter_mut().for_each(|place| (sort.life)(place, 0));
    let ways: Vec<Way> = places.iter_mut().map(Place::way).collect();
    let mut measured: Vec<Measured> = sizes.iter().map(|_| Measured::default()).collect();
    for round in 0..rounds {
        for at in turns::order(round, sizes.len()) {
            let begin = Instant::now();
            (sort.life)(&mut places[at], round);
            measured[at].lives.push(begin.elapsed().as_secs_f64() * 1e3);
            let asked = probe::udp(&ways[at], EXCHANGES);
            let (answers, _) = asked.unwrap_or_else(|e| panic!("{} {}: {e}", sizes[at], sort.many));
            measured[at].answers.push(answers.median() * 1e3);
        }
        if (round + 1) % 50 == 0 {
            say(&format!(
                "growth of {}: {} of {rounds} rounds",
                sort.many,
                round + 1
            ));
        }
    }
    for round in 0..STARTS {
        for at in turns::order(round, sizes.len()) {
            measured[at]
                .starts
                .push(places[at].start_anew().as_secs_f64() * 1e3);
        }
    }
    say(&format!("growth of {}: starts", sort.many));
    places.iter().for_each(Place::must_be_well);
    for (place, measured) in places.iter().zip(&mut measured) {
        measured.memory = place.memory();
    }
    let images: Vec<_> = places.iter().map(|place| place.image.clone()).collect();
    drop(ways);
    drop(places);
    disk::must_be_gone(&images);
    calm::wait();
    report(sort, sizes, &measured)
}

fn report(sort: &Sort, sizes: &[usize], measured: &[Measured]) -> Vec<String> {
    let mut lines = vec![
        format!(
            "| {} | {} | a question, µs | start, ms | memory, MiB |",
            sort.many, sort.one
        ),
        "|---|---|---|---|---|".to_owned(),
    ];
    let mut all = Vec::new();
    for (size, of) in sizes.iter().zip(measured) {
        lines.push(format!(
            "| {size} | {} | {} | {} | {:.1} |",
            with_quartiles(&of.lives, 1),
            with_quartiles(&of.answers, 1),
            with_quartiles(&of.starts, 0),
            of.memory
        ));
        all.push(Bar {
            name: format!("{size} {}", sort.many),
            ours: true,
            numbers: of.lives.clone(),
        });
    }
    lines.push(String::new());
    lines.extend(bars(sort.picture, sort.one, &all));
    let Some(aimed) = sizes.iter().position(|size| *size == AIMED_AT) else {
        return lines;
    };
    let ratio = median(&measured[aimed].lives) / median(&measured[0].lives);
    lines.push(aim(
        &format!(
            "{} take at most {RATIO} times as long with {AIMED_AT} {} as with {}, medians",
            sort.one.trim_end_matches(", ms"),
            sort.many,
            sizes[0]
        ),
        &format!("{ratio:.2}"),
        ratio <= RATIO,
    ));
    let start = median(&measured[aimed].starts) / 1e3;
    lines.push(aim(
        &format!(
            "with {AIMED_AT} {} all is as it should be within {START_S} s of a start, median",
            sort.many
        ),
        &format!("{start:.2} s"),
        start < START_S,
    ));
    let most = sizes.len() - 1;
    let packets = pairs(&measured[most].answers, &measured[0].answers, |one, other| {
        one / other
    });
    lines.push(aim(
        &format!(
            "a question takes at most {PACKET_RATIO} times as long with {} {} as with {}",
            sizes[most], sort.many, sizes[0]
        ),
        &with_quartiles(&packets, 2),
        median(&packets) <= PACKET_RATIO,
    ));
    lines.push(String::new());
    lines
}
