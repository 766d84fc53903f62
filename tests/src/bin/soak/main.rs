//! The soak: containers with published ports come and go on three networks at once, for a long time, and tombolo must
//! neither grow nor leak nor complain. `make soak` runs it; the exit code tells the verdict.
//!
//! ```text
//!   8 workers ── docker run -d, asked through its ports, docker rm -f ──> one engine, one tombolo
//!   watcher   ── every 50 containers ──> memory, descriptors, threads, links, connections
//! ```
//!
//! `TOMBOLO_SOAK_CONTAINERS` and `TOMBOLO_SOAK_AT_ONCE` change how many there are in all and at a time.

mod load;
mod verdict;
mod watch;

use std::process::ExitCode;
use std::time::Instant;

use system_tests::asked::count;
use system_tests::{Scene, say, scene};

use load::Load;
use verdict::Verdict;
use watch::{Sample, Watcher};

/// How many containers come and go.
const CONTAINERS: usize = 2000;

/// How many workers start and remove them.
const AT_ONCE: usize = 8;

/// After this many tombolo has seen all that it will see, and its memory should stay where it is.
const SETTLED: usize = 200;

/// How often the watcher looks, in containers.
const EVERY: usize = 50;

fn main() -> ExitCode {
    assert_eq!(scene::driver(), "tombolo", "{} must not be set", scene::DRIVER);
    let total = count("TOMBOLO_SOAK_CONTAINERS", CONTAINERS);
    let at_once = count("TOMBOLO_SOAK_AT_ONCE", AT_ONCE);
    assert!(
        total > SETTLED,
        "TOMBOLO_SOAK_CONTAINERS must be more than {SETTLED}, after which memory is compared"
    );
    say("soak: starting tombolo and an engine");
    let scene = Scene::new();
    let nothing = scene.snapshot();
    // Bridges and engine do some things with the first container only.
    load::make_networks(&scene);
    load::warm_up(&scene);
    let idle = scene.snapshot();
    let watcher = Watcher::new(&scene);
    let at_rest = watcher.look(0);
    let repairs = watcher.repairs();

    let begun = Instant::now();
    let load = Load::new(total);
    let samples = std::thread::scope(|scope| {
        for worker in 0..at_once {
            let (load, scene) = (&load, &scene);
            scope.spawn(move || load.work(scene, worker));
        }
        follow(&watcher, &load, total, begun)
    });
    let took = begun.elapsed();

    say("soak: waiting until the kernel has forgotten the last connections");
    let mut verdict = Verdict::default();
    verdict.that(
        "no error of docker's and every port led to its container",
        load.errors(),
    );
    verdict.that(
        "the host and the leases are as before the first container",
        verdict::patiently(|| idle.differences(&scene.snapshot())),
    );
    verdict.that(
        "no connection of a removed container is tracked",
        verdict::patiently(|| watcher.connections()),
    );
    verdict.that(
        "descriptors and threads are as many as before",
        verdict::patiently(|| watcher.look(total).more_held_than(&at_rest)),
    );
    verdict.that("tombolo's log has no error and no warning", watcher.complaints());
    let now = watcher.repairs();
    verdict.that(
        "nothing had to be repaired",
        if now == repairs {
            Vec::new()
        } else {
            vec![format!("repairs {now}, before {repairs}")]
        },
    );
    verdict.that("memory is flat", watch::growth(&samples, SETTLED));
    scene.clear();
    verdict.that(
        "without networks the host is as it was at first",
        verdict::patiently(|| nothing.differences(&scene.snapshot())),
    );

    print(&format!(
        "{total} containers with four published ports each, {at_once} at a time, on three networks: {:.0} s, {:.2} a \
         second. Docker {}.\n\n{}\n{}",
        took.as_secs_f64(),
        total as f64 / took.as_secs_f64(),
        scene.version(),
        watch::table(&samples, SETTLED),
        verdict.text()
    ));
    if verdict.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Looks at tombolo each time some more containers are through, until all are, and tells how far it is.
fn follow(watcher: &Watcher<'_>, load: &Load, total: usize, begun: Instant) -> Vec<Sample> {
    let mut samples = Vec::new();
    for wanted in (EVERY..=total).step_by(EVERY) {
        let done = load.wait_for(wanted);
        let sample = watcher.look(done);
        let rate = done as f64 / begun.elapsed().as_secs_f64();
        say(&format!(
            "soak: {done} of {total}, {rate:.2} a second, {:.0} min left; {sample}; {} errors",
            (total - done) as f64 / rate / 60.0,
            load.errors().len()
        ));
        samples.push(sample);
    }
    samples
}

#[allow(clippy::print_stdout, reason = "the table is what this program is for")]
fn print(text: &str) {
    println!("{text}");
}
