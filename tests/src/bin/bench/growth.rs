//! What more endpoints on a host cost those that come and go: the calls of a container's life, a start of tombolo, its memory.

use std::time::Instant;

use system_tests::say;

use crate::handlers::Place;
use crate::picture::{Bar, bars};
use crate::spread::{median, with_quartiles};
use crate::{aim, disk, machine, turns};

/// How many endpoints there are, on four networks, each with a published port. A bridge of the kernel has 1,023 ports.
const SIZES: [usize; 3] = [10, 100, 1000];

/// How often tombolo is started anew at each place.
const STARTS: usize = 10;

/// How much longer a container's calls may take with the most endpoints than with the fewest, and seconds that a start may take.
const RATIO: f64 = 1.3;
const START_S: f64 = 1.0;

/// Measures in so many rounds, and says what was found.
pub fn measure(rounds: usize) -> Vec<String> {
    let begin = crate::load();
    let mut places = SIZES.map(Place::with);
    // Nothing is done for the first time while we measure.
    places.iter_mut().for_each(|place| place.life(0));
    let mut lives: [Vec<f64>; SIZES.len()] = Default::default();
    for round in 0..rounds {
        for at in turns::order(round, SIZES.len()) {
            let begin = Instant::now();
            places[at].life(round);
            lives[at].push(begin.elapsed().as_secs_f64() * 1e3);
        }
        if (round + 1) % 50 == 0 {
            say(&format!("growth: {} of {rounds} rounds", round + 1));
        }
    }
    let mut starts: [Vec<f64>; SIZES.len()] = Default::default();
    for round in 0..STARTS {
        for at in turns::order(round, SIZES.len()) {
            starts[at].push(places[at].start_anew().as_secs_f64() * 1e3);
        }
    }
    say("growth: starts");
    places.iter().for_each(Place::must_be_well);
    let lines = report(&begin, &places, &lives, &starts);
    let images: Vec<_> = places.iter().map(|place| place.image.clone()).collect();
    drop(places);
    disk::must_be_gone(&images);
    lines
}

fn report(begin: &str, places: &[Place], lives: &[Vec<f64>], starts: &[Vec<f64>]) -> Vec<String> {
    let mut lines = vec![
        "## More endpoints on a host".to_owned(),
        String::new(),
        format!(
            "{} Hosts made of namespaces with a tombolo each, whose records are on ext4 on a loop device, and without engines. *A \
             container's calls*: the nine that an engine makes while a container comes and goes, with a published port, {} times at each \
             place in turns. *Start*: from the starting of the process until it answers and all that its records ask for holds, \
             {STARTS} times.",
            machine("growth", begin),
            lives[0].len()
        ),
        String::new(),
        "| endpoints | a container's calls, ms | start, ms | memory, MiB |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    for (((place, size), life), start) in places.iter().zip(SIZES).zip(lives).zip(starts) {
        lines.push(format!(
            "| {size} | {} | {} | {:.1} |",
            with_quartiles(life, 1),
            with_quartiles(start, 0),
            place.memory()[0]
        ));
    }
    lines.push(String::new());
    let bar = |(size, life): (usize, &Vec<f64>)| Bar {
        name: format!("{size} endpoints"),
        ours: true,
        numbers: life.clone(),
    };
    lines.extend(bars(
        "growth",
        "a container's calls, ms",
        &SIZES.into_iter().zip(lives).map(bar).collect::<Vec<_>>(),
    ));
    let [first, .., last] = lives else { return lines };
    let ratio = median(last) / median(first);
    lines.push(aim(
        &format!(
            "a container's calls take at most {RATIO} times as long with {} endpoints as with {}, medians",
            SIZES[2], SIZES[0]
        ),
        &format!("{ratio:.2}"),
        ratio <= RATIO,
    ));
    let start = starts.last().map_or(f64::NAN, |start| median(start) / 1e3);
    lines.push(aim(
        &format!(
            "with {} endpoints all is as it should be within {START_S} s of a start, median",
            SIZES[2]
        ),
        &format!("{start:.2} s"),
        start < START_S,
    ));
    lines.push(String::new());
    lines
}
