//! Whether the benchmarks would tell: of three runs of the same build, the one whose answers are made late must be found slower by
//! that, and the other two must not be told from each other.
//!
//! It takes a build with the feature `slowed`, which people never get: `make bench-check`.

use std::time::Instant;

use system_tests::{Engine, Scene, Staging, say};

use crate::spread::{median, pairs, with_quartiles};
use crate::turns;

/// How late each answer is, in ms, and how many answers a container's start and end wait for.
const LATE: f64 = 5.0;
const ANSWERS: f64 = 8.0;

/// In how many of the rounds, each of which starts all one after the other, the slower one has to be the slower. Were they the
/// same, 60 rounds would find so many once in 150 times.
const CERTAIN: f64 = 2.0 / 3.0;

/// How late each of them is. The second is there to be taken for what it is: the same as the first.
const DELAYS: [f64; 3] = [0.0, 0.0, LATE];

/// What the rounds say of one of them, beside the usual one.
struct Found {
    /// How much longer it takes, in ms: the median of the rounds.
    more: f64,
    /// In how many rounds it takes longer.
    slower: usize,
    rounds: usize,
}

impl Found {
    fn of(usual: &[f64], other: &[f64]) -> Self {
        let later = pairs(other, usual, |other, usual| other - usual);
        Self {
            more: median(&later),
            slower: later.iter().filter(|more| **more > 0.0).count(),
            rounds: later.len(),
        }
    }

    /// Whether it is as much slower as answers that are `LATE` make it.
    fn is_slower(&self) -> bool {
        self.slower as f64 >= CERTAIN * self.rounds as f64
            && self.more > LATE * ANSWERS / 2.0
            && self.more < LATE * ANSWERS * 2.0
    }

    fn words(&self) -> String {
        format!(
            "more: {:.1} ms; in {} of {} rounds",
            self.more, self.slower, self.rounds
        )
    }
}

/// Measures in so many rounds; panics unless the slower one, and no other, is found to be slower, by about as much as it is.
pub fn measure(rounds: usize) -> Vec<String> {
    let scenes = DELAYS.map(|late| {
        say(&format!(
            "slowed: starting an engine, and a tombolo {late} ms late"
        ));
        let scene = Scene::staged(&Staging {
            settings: &[("TOMBOLO_SLOWED_MS", &late.to_string())],
            ..Staging::default()
        });
        scene.network("net", &[]);
        scene
    });
    let mut shares: [Vec<f64>; DELAYS.len()] = Default::default();
    for round in 0..=rounds {
        for at in turns::order(round, shares.len()) {
            let [with, without] = ["net", "none"].map(|network| run(&scenes[at].engine, network));
            // The first round only warms up.
            if round > 0 {
                shares[at].push(with - without);
            }
        }
    }
    let [usual, same, slowed] = &shares;
    let [no_slower, slower] = [same, slowed].map(|other| Found::of(usual, other));
    let lines = vec![
        format!("share of a network, ms: {}", with_quartiles(usual, 1)),
        format!("the same once more: {}", with_quartiles(same, 1)),
        no_slower.words(),
        format!(
            "the same, each answer {LATE} ms late: {}",
            with_quartiles(slowed, 1)
        ),
        format!(
            "{}, where {:.0} ms are to be expected",
            slower.words(),
            LATE * ANSWERS
        ),
    ];
    let said = lines.join("\n");
    assert!(
        slower.is_slower(),
        "a slower tombolo isn't told from the usual one:\n{said}"
    );
    assert!(
        !no_slower.is_slower(),
        "the usual one is taken for a slower one:\n{said}"
    );
    lines
}

fn run(engine: &Engine, network: &str) -> f64 {
    let begin = Instant::now();
    engine.docker(&["run", "--rm", "--network", network, "busybox", "true"]);
    begin.elapsed().as_secs_f64() * 1e3
}
