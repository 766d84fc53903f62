//! Containers on a LAN come and go while tombolo is killed at random moments: nothing is left of them.
//!
//! `TOMBOLO_TEST_SEED` is what the moments follow from; the seed of each run is shown, so one that failed can be tried again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use system_tests::asked::{count, seed};
use system_tests::wait::within;
use system_tests::{Site, at_once, say};

use crate::scene::{
    GATEWAYS, OTHERS, SUBNETS, addresses, both, hosts, look, make, must_clear_to, must_go, reaches,
};

/// Containers that are run, stopped, started again and removed, where `UNDERLAY_CYCLES` says nothing else.
const CYCLES: usize = 40;

/// How many of them at the same time. Two processors are kept busy by this many.
const AT_ONCE: usize = 4;

/// By when what Docker has forgotten must be found and freed.
const RECONCILED: Duration = Duration::from_secs(120);

/// What the churn is about.
struct Churn<'a> {
    site: &'a Site,
    cycles: usize,
    begun: AtomicUsize,
    started: AtomicUsize,
    over: AtomicBool,
    refused: Mutex<Vec<String>>,
}

impl Churn<'_> {
    /// Runs containers until enough of them have started. A command that meets a dying daemon may be refused: that is shown to the
    /// user, who tries again, as here with the next container.
    fn work(&self) {
        while self.started.load(Ordering::Relaxed) < self.cycles {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            // Of this many, one fewer than twice the cycles, most have started if enough have.
            if number + 1 >= 2 * self.cycles {
                return;
            }
            let name = format!("churn{number}");
            let network = ["lan", "other"][number % 2];
            match self.site.try_container(&name, network, &[]) {
                Err(refused) => self.refused.lock().expect("no panic while held").push(refused),
                Ok(container) => {
                    self.started.fetch_add(1, Ordering::Relaxed);
                    self.site.engine.docker(&["stop", &name]);
                    self.site.engine.try_docker(&["start", &name]);
                    container.remove();
                }
            }
        }
    }
}

#[test]
fn killed_at_random_moments_it_leaves_no_link_and_no_route() {
    let seed = seed("TOMBOLO_TEST_SEED");
    let cycles = count("UNDERLAY_CYCLES", CYCLES);
    let sites = hosts(1);
    let site = &sites[0];
    let nothing = look(site);
    make(
        site,
        "lan",
        &[&SUBNETS[..], &GATEWAYS, &["--ip-range", "192.0.2.128/25"]].concat(),
    );
    make(site, "other", &OTHERS);
    let stays = site.container("stays", "lan", &[]);
    let own = addresses(&stays, "lan");
    must_go(both(reaches, "from the host", site.host.spaces(), &own));
    let calm = look(site);
    let flow = system_tests::Flow::start(sites.lan().router(), &stays.spaces(), &format!("{}:7000", own[0]));

    let churn = Churn {
        site,
        cycles,
        begun: AtomicUsize::new(0),
        started: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        refused: Mutex::default(),
    };
    let kills = std::thread::scope(|scope| {
        let killer = scope.spawn(|| site.tombolo.kill_until(&churn.over, seed));
        let workers = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            at_once(&[(); AT_ONCE], |()| churn.work());
        }));
        churn.over.store(true, Ordering::Relaxed);
        let kills = killer.join().expect("the killer");
        workers.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        kills
    });
    let tally = flow.stop();
    let refused = churn.refused.into_inner().expect("no panic while held");
    say(&format!(
        "{kills} kills, {} datagrams, {} starts refused: {:#?}",
        tally.sent,
        refused.len(),
        refused.iter().take(3).collect::<Vec<_>>()
    ));
    assert!(
        tally.lost.is_empty(),
        "{} of {} lost: {:?}",
        tally.lost.len(),
        tally.sent,
        tally.lost
    );
    assert!(
        kills > cycles / 20,
        "only {kills} kills: tombolo was hardly disturbed"
    );
    let started = churn.started.into_inner();
    assert!(
        started >= cycles,
        "only {started}: most containers did not start: {refused:#?}"
    );
    assert!(!site.tombolo.log().contains("panicked"), "{}", site.tombolo.log());
    // What died half-way is found by comparing with Docker, twice over some time, so that no live one is taken away.
    let mut left = Vec::new();
    let clean = within(RECONCILED, || {
        left = calm.differences(&look(site));
        left.is_empty().then_some(())
    });
    assert!(clean.is_some(), "left after {RECONCILED:?}:\n{}", left.join("\n"));
    must_go(both(reaches, "from the host, later", site.host.spaces(), &own));
    must_clear_to(site, &nothing);
}
