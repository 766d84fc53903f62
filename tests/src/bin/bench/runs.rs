//! What a network costs a `docker run --rm`, from the command to its end with all taken away again: with tombolo, with
//! Docker's own bridge, and without any, in turns on one engine.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use system_tests::{Scene, say};

use crate::samples::Samples;
use crate::{disk, turns};

/// What is compared: a name, and the arguments for `docker run`.
pub type Way = (&'static str, &'static [&'static str]);

/// What this part compares.
const WAYS: [Way; 5] = [
    ("without network", &["--network", "none"]),
    ("Docker's bridge", &["--network", "theirs"]),
    ("tombolo", &["--network", "ours"]),
    (
        "Docker's bridge, one published port",
        &["--network", "theirs", "-p", "8081:80"],
    ),
    (
        "tombolo, one published port",
        &["--network", "ours", "-p", "8082:80"],
    ),
];

/// Which of [`WAYS`] are compared with each other: tombolo, Docker's bridge, and what is said of it.
pub const PAIRS: [(usize, usize, &str); 2] = [
    (2, 1, "tombolo above Docker's bridge"),
    (4, 3, "tombolo above Docker's bridge, one published port"),
];

/// After this time no further round is begun: on a busy machine fewer rounds say more than a long wait.
const LONGEST: Duration = Duration::from_secs(90);

/// What was measured.
pub struct Runs {
    /// The engine's version.
    pub version: String,
    /// What the containers took.
    pub times: Times,
    /// The files of the disks that were used.
    pub images: Vec<PathBuf>,
}

/// What containers took, in several ways in turns; the first is without a network.
pub struct Times {
    ways: &'static [Way],
    /// Of each way, round by round.
    times: Vec<Samples>,
}

/// Runs containers in `rounds` rounds, or as many as fit into [`LONGEST`], each of them once in each of [`WAYS`].
pub fn measure(rounds: usize) -> Runs {
    say("docker run: starting tombolo and an engine");
    let (scene, images) = disk::scene();
    begin_with_a_port(&scene);
    let before = scene.snapshot();
    scene.network("ours", &[]);
    scene.docker(&["network", "create", "-d", "bridge", "theirs"]);
    let times = in_turns(&scene, &WAYS, rounds);
    scene.must_clear_to(&before);
    Runs {
        version: scene.version(),
        times,
        images,
    }
}

/// Publishes a port as Docker does, once: what engines of 28 and later make for the first one stays.
fn begin_with_a_port(scene: &Scene) {
    run(scene, &["-p", "8080:80"], &["true"]);
}

/// Runs containers in `rounds` rounds, or as many as fit into [`LONGEST`], each of them once in each way.
pub fn in_turns(scene: &Scene, ways: &'static [Way], rounds: usize) -> Times {
    warm_up(scene, ways);
    let mut times = vec![Samples::default(); ways.len()];
    let begun = Instant::now();
    for round in 0..rounds {
        if round > 0 && begun.elapsed() > LONGEST {
            say("docker run: this machine is slow or busy, so there are fewer rounds");
            break;
        }
        for way in turns::order(round, ways.len()) {
            let begin = Instant::now();
            run(scene, ways[way].1, &["true"]);
            times[way].add(begin.elapsed());
        }
        if (round + 1) % 5 == 0 {
            say(&format!("docker run: {} of {rounds} rounds", round + 1));
        }
    }
    Times { ways, times }
}

fn run(scene: &Scene, args: &[&str], command: &[&str]) -> String {
    scene.docker(&[&["run", "--rm"], args, &["busybox"], command].concat())
}

/// Runs each once, so that nothing is done for the first time while we measure, and looks whether the containers have
/// what they are measured with.
fn warm_up(scene: &Scene, ways: &[Way]) {
    for (name, args) in ways {
        let links = run(scene, args, &["ip", "-4", "address"]);
        let has = links.contains("eth0") && links.contains("scope global");
        assert_eq!(has, args[1] != "none", "links of a container, {name}: {links}");
    }
    let endpoints = scene.tombolo().cli(&["endpoints"]);
    assert_eq!(endpoints, serde_json::json!([]), "no container is left");
}

impl Times {
    /// How many rounds there were.
    pub fn rounds(&self) -> usize {
        self.times[0].len()
    }

    /// The network's share of a way.
    pub fn share(&self, way: usize) -> Samples {
        self.above(way, 0)
    }

    /// How much longer a way took than another in the same round.
    pub fn above(&self, way: usize, other: usize) -> Samples {
        self.times[way].above(&self.times[other])
    }

    /// A table: all of it without a network, each network's share, and of pairs of ways how much more the first took.
    pub fn table(&self, pairs: &[(usize, usize, &str)]) -> Vec<String> {
        let mut rows = vec![
            "| `docker run --rm` | median | quartiles |".to_owned(),
            "|---|---|---|".to_owned(),
            format!(
                "| all of it, {} | {} |",
                self.ways[0].0,
                self.times[0].quartiles()
            ),
        ];
        for (way, (name, _)) in self.ways.iter().enumerate().skip(1) {
            rows.push(format!(
                "| the network's share: {name} | {} |",
                self.share(way).quartiles()
            ));
        }
        for (way, other, what) in pairs {
            rows.push(format!("| {what} | {} |", self.above(*way, *other).quartiles()));
        }
        rows.push(String::new());
        rows
    }
}
