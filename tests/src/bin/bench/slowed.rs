//! Whether the benchmarks would tell: the same build twice, one of them with each answer made late, must differ by that.
//!
//! It takes a build with the feature `slowed`, which people never get: `make bench-check`.

use std::time::Instant;

use system_tests::{Engine, Scene, Staging, say};

use crate::spread::{median, pairs, with_quartiles};
use crate::turns;

/// How late each answer is, in ms, and how many answers a container's start and end wait for.
const LATE: f64 = 5.0;
const ANSWERS: f64 = 8.0;

/// In how many of the rounds, each of which starts both one after the other, the slower one has to be the slower. Were they the
/// same, 60 rounds would find so many once in 150 times.
const CERTAIN: f64 = 2.0 / 3.0;

/// Measures in so many rounds; panics unless the slower one is found to be slower, by about as much as it is.
pub fn measure(rounds: usize) -> Vec<String> {
    let late = format!("{LATE}");
    let scenes = ["0", late.as_str()].map(|late| {
        say(&format!(
            "slowed: starting an engine, and a tombolo {late} ms late"
        ));
        let scene = Scene::staged(&Staging {
            settings: &[("TOMBOLO_SLOWED_MS", late)],
            ..Staging::default()
        });
        scene.network("net", &[]);
        scene
    });
    let mut shares: [Vec<f64>; 2] = Default::default();
    for round in 0..=rounds {
        for at in turns::order(round, 2) {
            let [with, without] = ["net", "none"].map(|network| run(&scenes[at].engine, network));
            // The first round only warms up.
            if round > 0 {
                shares[at].push(with - without);
            }
        }
    }
    let [usual, slowed] = &shares;
    let later = pairs(slowed, usual, |slowed, usual| slowed - usual);
    let more = median(&later);
    let found = later.iter().filter(|more| **more > 0.0).count();
    let lines = vec![
        format!("share of a network, ms: {}", with_quartiles(usual, 1)),
        format!(
            "the same, each answer {LATE} ms late: {}",
            with_quartiles(slowed, 1)
        ),
        format!(
            "more: {more:.1} ms, where {:.0} are to be expected; in {found} of {} rounds",
            LATE * ANSWERS,
            later.len()
        ),
    ];
    assert!(
        found as f64 >= CERTAIN * later.len() as f64
            && more > LATE * ANSWERS / 2.0
            && more < LATE * ANSWERS * 2.0,
        "a slower tombolo isn't told from the usual one:\n{}",
        lines.join("\n")
    );
    lines
}

fn run(engine: &Engine, network: &str) -> f64 {
    let begin = Instant::now();
    engine.docker(&["run", "--rm", "--network", network, "busybox", "true"]);
    begin.elapsed().as_secs_f64() * 1e3
}
