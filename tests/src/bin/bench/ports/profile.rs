//! Where the time of a question through a published port goes, of one on a connection that is open and of a connection of its
//! own, with tombolo and with Docker's bridge without its userland proxy.

use std::time::Duration;

use system_tests::samples::Samples;
use system_tests::say;

use super::{CONTAINERS, DOCKER, Place, TOMBOLO, WAYS};
use crate::profile::{Found, table};
use crate::{ask, turns};

/// What is asked: how often on a connection that is open and how often on ones of their own, what of it counts, and its name.
type Question = (usize, usize, fn(ask::Round) -> Vec<Duration>, &'static str);

const QUESTIONS: [Question; 2] = [
    (5_000, 0, |round| round.exchanges, "exchange"),
    (0, 2_000, |round| round.connections, "connection and exchange"),
];

/// The ways that are compared.
const COMPARED: [usize; 2] = [TOMBOLO, DOCKER];

/// Samples all of it in so many rounds, and says what was found.
pub fn measure(rounds: usize) -> Vec<String> {
    // A port of each container's.
    let places = COMPARED.map(|way| Place::prepare(way, CONTAINERS));
    let columns: Vec<(Question, usize)> = QUESTIONS
        .iter()
        .flat_map(|&question| (0..places.len()).map(move |place| (question, place)))
        .collect();
    let mut found: Vec<Found> = columns.iter().map(|_| Found::default()).collect();
    for round in 0..rounds {
        for at in turns::order(round, columns.len()) {
            let ((exchanges, connections, counts, _), place) = columns[at];
            let place = &places[place];
            found[at].sample(|| {
                let asked = ask::round(place.outside.spaces(), &place.asked[..1], exchanges, connections);
                let mut samples = Samples::default();
                counts(asked).into_iter().for_each(|time| samples.add(time));
                samples
            });
        }
        say(&format!(
            "profile: {} of {rounds} rounds through ports",
            round + 1
        ));
    }
    let names: Vec<String> = columns
        .iter()
        .map(|((.., question), place)| format!("{question}: {}", WAYS[COMPARED[*place]].0))
        .collect();
    let mut lines = vec![
        format!(
            "The questions of `ports` through one of {CONTAINERS} published ports (Docker {}).",
            places[0].version
        ),
        String::new(),
    ];
    lines.extend(table(names.iter().map(String::as_str).zip(&found)));
    lines
}
