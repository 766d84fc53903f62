//! Containers come and go by the hundred while tombolo is killed at random moments.
//!
//! Meanwhile a pair of containers on another network exchanges numbered datagrams, of which none may be lost; no two
//! running containers ever have the same address; and at the end, with all removed, nothing is left.
//!
//! `TOMBOLO_TEST_CYCLES` (default 200) is how many containers are run and removed, `TOMBOLO_TEST_SEED` what the moments
//! follow from; the seed of each run is shown, so one that failed can be tried again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use system_tests::asked::{count, seed};
use system_tests::draw::Draw;
use system_tests::wait::within;
use system_tests::{Flow, Scene, json, say};

/// By when what Docker has forgotten must be found and freed.
const RECONCILED: Duration = Duration::from_secs(120);

/// Containers that come and go at the same time. Two processors are kept busy by this many.
const AT_ONCE: usize = 4;

/// One run of the churn.
struct Churn {
    scene: Scene,
    networks: Vec<String>,
    cycles: usize,
    started: AtomicUsize,
    refused: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Churn {
    /// Runs and removes containers until all cycles are begun. A command that meets a dying daemon may be refused: that
    /// is shown to the user, who tries again, as here with the next container.
    fn work(&self, seed: u64) {
        let mut random = Draw::of(seed);
        loop {
            let number = self.started.fetch_add(1, Ordering::Relaxed);
            if number >= self.cycles {
                return;
            }
            let name = format!("churn{number}");
            let network = &self.networks[number % self.networks.len()];
            let ran = self.scene.try_docker(&[
                "run",
                "-d",
                "--name",
                &name,
                "--network",
                network,
                "--stop-signal",
                "KILL",
                "busybox",
                "sleep",
                "3600",
            ]);
            if !ran.ok {
                self.refused.lock().expect("no panic while held").push(ran.stderr);
            } else if random.below(2) == 0 {
                self.scene.docker(&["stop", &name]);
                if random.below(2) == 0 {
                    self.scene.try_docker(&["start", &name]);
                }
            }
            self.scene.docker(&["rm", "-f", &name]);
        }
    }

    /// Looks at the running containers over and over: no address is there twice.
    fn look_for_duplicates(&self) -> usize {
        let mut looks = 0;
        while !self.over.load(Ordering::Relaxed) {
            looks += 1;
            must_have_no_duplicates(&self.addresses());
            std::thread::sleep(Duration::from_millis(200));
        }
        looks
    }

    /// The addresses of all running containers, as their own network namespaces show them.
    fn addresses(&self) -> Vec<(String, String)> {
        let ids = self.scene.docker(&["ps", "-q", "--no-trunc"]);
        let pids = ids.lines().filter_map(|id| {
            let shown = self
                .scene
                .try_docker(&["inspect", "--format", "{{.State.Pid}}", id]);
            shown
                .ok
                .then_some((id.to_owned(), shown.stdout))
                .filter(|(_, pid)| pid != "0")
        });
        let mut all = Vec::new();
        for (id, pid) in pids {
            // A container may end while we look at it.
            let net = format!("--net=/proc/{pid}/ns/net");
            let shown = self.scene.host.try_run(
                "nsenter",
                &[&net, "ip", "-j", "-4", "address", "show", "scope", "global"],
            );
            if shown.ok {
                let links = json::parse(&shown.stdout);
                let addresses = json::rows(&links)
                    .iter()
                    .flat_map(|link| json::rows(&link["addr_info"]).to_vec());
                all.extend(addresses.map(|address| (id.clone(), json::text(&address, "/local").to_owned())));
            }
        }
        all
    }
}

#[track_caller]
fn must_have_no_duplicates(all: &[(String, String)]) {
    let mut holders = BTreeMap::new();
    for (id, address) in all {
        if let Some(other) = holders.insert(address, id) {
            panic!("{address} is held by {id} and by {other}");
        }
    }
}

#[test]
fn killed_at_random_moments_it_leaks_nothing_and_disturbs_nobody() {
    let cycles = count("TOMBOLO_TEST_CYCLES", 200);
    let seed = seed("TOMBOLO_TEST_SEED");
    let scene = Scene::new();
    let nothing = scene.snapshot();
    scene.network("calm", &["--subnet", "10.80.0.0/24"]);
    let one = scene.container("one", &["--network", "calm"]);
    let two = scene.container("two", &["--network", "calm"]);
    let networks = ["busy0", "busy1"].map(str::to_owned).to_vec();
    for network in &networks {
        scene.network(network, &[]);
    }
    let calm = scene.snapshot();
    let flow = Flow::start(&one.spaces(), &two.spaces(), &format!("{}:7000", two.ip("calm")));

    let (started, refused, over) = (AtomicUsize::new(0), Mutex::default(), AtomicBool::new(false));
    let churn = Churn {
        scene,
        networks,
        cycles,
        started,
        refused,
        over,
    };
    let (kills, looks) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| churn.scene.tombolo().kill_until(&churn.over, seed));
        let looker = scope.spawn(|| churn.look_for_duplicates());
        let churn = &churn;
        let workers: Vec<_> = (1..=AT_ONCE as u64)
            .map(|n| scope.spawn(move || churn.work(seed.wrapping_add(n))))
            .collect();
        let ended: Vec<_> = workers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        churn.over.store(true, Ordering::Relaxed);
        let counts = (
            killer.join().expect("the killer"),
            looker.join().expect("the looker"),
        );
        assert!(ended.iter().all(Result::is_ok), "a worker failed");
        counts
    });
    let tally = flow.stop();
    let refused = churn.refused.into_inner().expect("no panic while held");
    say(&format!(
        "{cycles} containers, {kills} kills, {looks} looks, {} datagrams; {} starts refused: {:#?}",
        tally.sent,
        refused.len(),
        refused.iter().take(3).collect::<Vec<_>>()
    ));
    let scene = churn.scene;
    assert!(
        tally.lost.is_empty(),
        "{} of {} datagrams lost: {:?}",
        tally.lost.len(),
        tally.sent,
        tally.lost
    );
    assert!(
        kills > cycles / 20,
        "only {kills} kills: tombolo was hardly disturbed"
    );
    assert!(
        refused.len() < cycles / 2,
        "most containers did not start: {refused:#?}"
    );
    assert!(
        !scene.tombolo().log().contains("panicked"),
        "{}",
        scene.tombolo().log()
    );
    // What died half-way is found by comparing with Docker, twice over some time, so that no live one is taken away.
    let mut left = Vec::new();
    let clean = within(RECONCILED, || {
        left = calm.differences(&scene.snapshot());
        left.is_empty().then_some(())
    });
    assert!(
        clean.is_some(),
        "left behind after {RECONCILED:?}:\n{}",
        left.join("\n")
    );
    assert!(one.pings("two"));
    scene.must_clear_to(&nothing);
}
