//! What a network costs a `docker run --rm`, from the command to its end with all taken away again: with tombolo, with
//! Docker's own bridge, and without any, in turns on one engine.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use system_tests::{Scene, Staging, say, scene};

use crate::disk;
use crate::samples::Samples;

/// What is compared: a name, and the arguments for `docker run`.
const WAYS: [(&str, &[&str]); 5] = [
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

/// Which of [`WAYS`] are compared with each other: tombolo, Docker's bridge, and what is published.
pub const PAIRS: [(usize, usize, &str); 2] = [(2, 1, ""), (4, 3, ", one published port")];

/// After this time no further round is begun: on a busy machine fewer rounds say more than a long wait.
const LONGEST: Duration = Duration::from_secs(90);

/// What was measured.
pub struct Runs {
    /// The engine's version.
    pub version: String,
    /// The times of each of [`WAYS`], round by round.
    times: [Samples; WAYS.len()],
    /// The files of the disks that were used.
    pub images: Vec<PathBuf>,
}

/// Runs containers in `rounds` rounds, or as many as fit into [`LONGEST`], each of them once in each way.
pub fn measure(rounds: usize) -> Runs {
    assert_eq!(scene::driver(), "tombolo", "{} must not be set", scene::DRIVER);
    let images = Mutex::new(Vec::new());
    let prepare =
        |host: &system_tests::Host| images.lock().expect("no panic while held").push(disk::give(host));
    say("docker run: starting tombolo and an engine");
    let scene = Scene::staged(&Staging {
        flags: &["--data-root", disk::DOCKER],
        settings: &[("TOMBOLO_STATE_DIR", disk::STATE)],
        prepare: Some(&prepare),
    });
    let before = scene.snapshot();
    scene.network("ours", &[]);
    scene.docker(&["network", "create", "-d", "bridge", "theirs"]);
    warm_up(&scene);
    let mut times: [Samples; WAYS.len()] = Default::default();
    let begun = Instant::now();
    for round in 0..rounds {
        if round > 0 && begun.elapsed() > LONGEST {
            say("docker run: this machine is slow or busy, so there are fewer rounds");
            break;
        }
        for way in order(round) {
            let begin = Instant::now();
            run(&scene, WAYS[way].1, &["true"]);
            times[way].add(begin.elapsed());
        }
        if (round + 1) % 5 == 0 {
            say(&format!("docker run: {} of {rounds} rounds", round + 1));
        }
    }
    scene.must_clear_to(&before);
    Runs {
        version: scene.version(),
        times,
        images: images.into_inner().expect("no panic while held"),
    }
}

/// The order of a round: it begins with another one each time, and every other round goes backwards, so that none always
/// comes first or always behind the same.
fn order(round: usize) -> [usize; WAYS.len()] {
    std::array::from_fn(|place| {
        let place = if round.is_multiple_of(2) {
            place
        } else {
            WAYS.len() - 1 - place
        };
        (round / 2 + place) % WAYS.len()
    })
}

fn run(scene: &Scene, args: &[&str], command: &[&str]) -> String {
    scene.docker(&[&["run", "--rm"], args, &["busybox"], command].concat())
}

/// Runs each once, so that nothing is done for the first time while we measure, and looks whether the containers have
/// what they are measured with.
fn warm_up(scene: &Scene) {
    for (name, args) in WAYS {
        let links = run(scene, args, &["ip", "-4", "address"]);
        let has = links.contains("eth0") && links.contains("scope global");
        assert_eq!(has, args[1] != "none", "links of a container, {name}: {links}");
    }
    let endpoints = scene.tombolo().cli(&["endpoints"]);
    assert_eq!(endpoints, serde_json::json!([]), "no container is left");
}

impl Runs {
    /// The network's share of one of [`WAYS`].
    fn share(&self, way: usize) -> Samples {
        self.times[way].above(&self.times[0])
    }

    /// How much larger tombolo's share is than Docker's bridge's, for one of [`PAIRS`].
    pub fn difference(&self, pair: usize) -> Samples {
        let (ours, theirs, _) = PAIRS[pair];
        self.times[ours].above(&self.times[theirs])
    }

    /// The rows of the table.
    pub fn rows(&self) -> Vec<String> {
        let mut rows = vec![format!(
            "| all of it, {} | {} |",
            WAYS[0].0,
            self.times[0].quartiles()
        )];
        for (way, (name, _)) in WAYS.iter().enumerate().skip(1) {
            rows.push(format!(
                "| the network's share: {name} | {} |",
                self.share(way).quartiles()
            ));
        }
        for (pair, (.., what)) in PAIRS.iter().enumerate() {
            let cells = self.difference(pair).quartiles();
            rows.push(format!("| tombolo above Docker's bridge{what} | {cells} |"));
        }
        rows
    }
}
