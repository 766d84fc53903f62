//! Networks made and removed at random on all hosts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use system_tests::asked::asked;
use system_tests::draw::Draw;
use system_tests::say;
use system_tests::wait::within;

use super::lab::{SOON, networks, plan};

/// How many names there are.
const NAMES: usize = 50;

/// How many seconds it goes on, unless `REPLICA_SECONDS` says otherwise.
const SECONDS: u64 = 8;

#[test]
fn networks_made_and_removed_at_random_are_the_same_on_all_hosts_in_the_end() {
    let seconds = asked("REPLICA_SECONDS").unwrap_or(SECONDS);
    let sites = plan().joined();
    let end = Instant::now() + Duration::from_secs(seconds);
    let places: Vec<usize> = (0..sites.len()).collect();
    let done = system_tests::at_once(&places, |&at| {
        let mut draw = Draw::of(at as u64 + 1);
        let (mut made, mut removed) = (0, 0);
        while Instant::now() < end {
            let n = draw.below(NAMES);
            let name = format!("net{n}");
            // A refusal is no fault: somebody else was faster.
            match draw.below(2) {
                0 => {
                    let subnet = format!("10.{}.{}.0/24", 100 + at, n);
                    let kind = ["type=overlay", "type=host-gateway"][draw.below(2)];
                    let line = ["network", "create", "-d", "tombolo", "--ipam-driver", "tombolo"];
                    let args = ["-o", kind, "--subnet", &subnet, &name];
                    made += usize::from(sites[at].engine.try_docker(&[&line[..], &args].concat()).ok);
                }
                _ => {
                    let there: Vec<String> = networks(&sites[at]).into_keys().collect();
                    if !there.is_empty() {
                        let name = &there[draw.below(there.len())];
                        removed += usize::from(sites[at].engine.try_docker(&["network", "rm", name]).ok);
                    }
                }
            }
        }
        (made, removed)
    });
    say(&format!("made and removed on each host in {seconds} s: {done:?}"));
    assert!(
        done.iter().all(|(made, removed)| *made > 0 && *removed > 0),
        "{done:?}"
    );
    let mut all: Vec<BTreeMap<String, Vec<String>>> = Vec::new();
    let subnets = |at: usize| -> BTreeMap<String, Vec<String>> {
        networks(&sites[at])
            .into_iter()
            .map(|(name, listed)| (name, listed.subnets))
            .collect()
    };
    let agree = within(3 * SOON, || {
        all = places.iter().map(|at| subnets(*at)).collect();
        all.windows(2).all(|two| two[0] == two[1]).then_some(())
    });
    assert!(agree.is_some(), "{all:#?}");
    say(&format!("{} networks are on all hosts", all[0].len()));
    for name in all[0].keys() {
        sites[1].engine.try_docker(&["network", "rm", name]);
    }
    let none = within(3 * SOON, || {
        all = places.iter().map(|at| subnets(*at)).collect();
        all.iter().all(BTreeMap::is_empty).then_some(())
    });
    if none.is_none() {
        for (site, left) in sites.iter().zip(&all) {
            let log = site.tombolo.log();
            let lines = log
                .lines()
                .filter(|line| left.keys().any(|name| line.contains(&format!("\"{name}\""))));
            say(&format!(
                "{}:\n{}",
                site.name(),
                lines.collect::<Vec<_>>().join("\n")
            ));
        }
        panic!("{all:#?}");
    }
    for site in sites.iter() {
        let links = within(SOON, || {
            let status = site.tombolo.cli(&["status"]);
            (status["networks"] == 0 && status["pools"] == 0).then_some(())
        });
        assert!(
            links.is_some(),
            "{}: {}",
            site.name(),
            site.tombolo.cli(&["status"])
        );
    }
}
