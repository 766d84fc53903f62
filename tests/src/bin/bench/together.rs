//! Several containers that come and go at once: what their calls take, and how often tombolo writes to the disk for them.

use crate::handlers::Place;
use crate::spread::{median, with_quartiles};
use crate::turns;

/// How many come and go at once.
const MANY: usize = 8;

/// Measures this many rounds: one alone and several at once, in turns, at each place.
pub fn measure(few: &mut Place, many: &mut Place, rounds: usize) -> Vec<String> {
    let mut lines = vec![
        "All calls of a container that comes and goes, without the links that go later, which each round waits for:".to_owned(),
        String::new(),
        format!("| for each of them | endpoints | alone | {MANY} at once | ratio |"),
        "|---|---|---|---|---|".to_owned(),
    ];
    // By place: the time in ms and the writes, alone and at once.
    let mut found: [[[Vec<f64>; 2]; 2]; 2] = Default::default();
    let places = [few, many];
    for round in 0..rounds {
        for at in turns::order(round, places.len()) {
            for (how, count) in [1, MANY].into_iter().enumerate() {
                let took = places[at].lives(count);
                found[at][0][how].push(took.time.as_secs_f64() * 1e3);
                found[at][1][how].push(took.writes);
            }
        }
    }
    for (what, name) in ["the time, ms", "writes of records"].iter().enumerate() {
        for (place, found) in places.iter().zip(&found) {
            let [alone, at_once] = &found[what];
            lines.push(format!(
                "| {name} | {} | {} | {} | {:.2} |",
                place.endpoints,
                with_quartiles(alone, 1),
                with_quartiles(at_once, 1),
                median(at_once) / median(alone)
            ));
        }
    }
    lines.push(String::new());
    lines
}
