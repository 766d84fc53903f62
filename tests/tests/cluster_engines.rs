//! A pool of the cluster under real engines on three hosts: addresses that are unique everywhere, whoever comes and goes.

use std::collections::BTreeMap;
use std::thread;

use system_tests::json::rows;
use system_tests::wait::until;
use system_tests::{Kind, Site, Sites, say};

/// How many containers each host starts.
const CONTAINERS: usize = 60;

/// How many a host starts at a time.
const AT_A_TIME: usize = 6;

/// Starts containers on a host, some at a time; gives each one's address.
fn start(
    site: &Site,
    prefix: &str,
    network: &str,
    numbers: std::ops::Range<usize>,
) -> BTreeMap<String, String> {
    let numbers: Vec<usize> = numbers.collect();
    let chunks = numbers.chunks(numbers.len().div_ceil(AT_A_TIME).max(1));
    thread::scope(|scope| {
        let threads: Vec<_> = chunks
            .map(|chunk| {
                scope.spawn(move || {
                    let started = chunk.iter().map(|n| {
                        let name = format!("{prefix}{n}");
                        let address = site.container(&name, network, &[]).ip(network);
                        (name, address)
                    });
                    started.collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("containers started"))
            .collect()
    })
}

/// That no address is in two places.
#[track_caller]
fn distinct(all: &[BTreeMap<String, String>]) -> usize {
    let mut holders: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, address) in all.iter().flatten() {
        if let Some(other) = holders.insert(address, name) {
            panic!("{address} is given to {name} and to {other}");
        }
    }
    holders.len()
}

#[test]
fn containers_on_three_hosts_get_distinct_addresses_though_the_founder_dies_on_the_way() {
    let sites = Sites::joined(3);
    sites.network("app", Kind::Shared, &["--subnet", "10.42.0.0/24"]);
    let half = CONTAINERS / 2;
    let first: Vec<_> = thread::scope(|scope| {
        let each = sites.iter().enumerate().map(|(n, site)| {
            // The founder has no more than half of its containers when it dies.
            scope.spawn(move || start(site, &format!("a{n}-"), "app", 0..half))
        });
        let each: Vec<_> = each.collect();
        each.into_iter()
            .map(|thread| thread.join().expect("a host's containers"))
            .collect()
    });
    assert_eq!(distinct(&first), 3 * half);

    // Each host knows the endpoints of all.
    sites.know(3 * half);

    // The host that founded the pool is gone, with its containers, its engine and its daemon.
    let founder = sites[0].name().to_owned();
    let alive = sites[1].tombolo.try_cli(&["cluster", "forget", &founder]);
    alive.must_fail_with(&[&founder, "is there"]);
    sites.power_off(0);
    sites.see(&[1], &[1, 2]);
    let second: Vec<_> = thread::scope(|scope| {
        let each = sites[1..]
            .iter()
            .enumerate()
            .map(|(n, site)| scope.spawn(move || start(site, &format!("b{n}-"), "app", 0..half)));
        let each: Vec<_> = each.collect();
        // In the middle of it the founder is given up.
        sites[1].tombolo.try_cli(&["cluster", "forget", &founder]).must();
        each.into_iter()
            .map(|thread| thread.join().expect("a host's containers"))
            .collect()
    });
    let living: Vec<_> = first[1..].iter().chain(&second).cloned().collect();
    assert_eq!(distinct(&living), 2 * CONTAINERS);

    // What was the founder's is another's now.
    let pools = sites[2].tombolo.cli(&["pools", "--shares"]);
    let shares = rows(&pools["pools"][0]["shares"]);
    assert!(
        shares.iter().all(|share| share["name"] != founder.as_str()),
        "{shares:?}"
    );
    say(&format!(
        "{} containers, all addresses distinct",
        living.iter().map(BTreeMap::len).sum::<usize>()
    ));
}

#[test]
fn a_full_pool_says_so_on_each_host_and_what_is_freed_on_one_serves_another() {
    let sites = Sites::joined(3);
    sites.network("tiny", Kind::Shared, &["--subnet", "10.43.0.0/28"]);
    // 13 addresses beside the gateway's.
    let mut held: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for n in 0..13 {
        let at = n % 3;
        let name = format!("t{n}");
        let address = sites[at].container(&name, "tiny", &[]).ip("tiny");
        assert!(
            held.insert(address.clone(), (at, name)).is_none(),
            "{address} is given twice"
        );
    }
    for (at, site) in sites.iter().enumerate() {
        let why = site
            .try_container(&format!("full{at}"), "tiny", &[])
            .expect_err("the pool is full");
        assert!(
            why.contains("10.43.0.0/28") && why.contains("no free address"),
            "{why}"
        );
    }
    let (freed, (at, name)) = held.pop_first().expect("some are held");
    sites[at].engine.docker(&["rm", "-f", &name]);
    let other = (at + 1) % 3;
    let again = until("the freed address serves another host", || {
        let name = format!("again{other}");
        sites[other].try_container(&name, "tiny", &[]).ok()
    });
    assert_eq!(again.ip("tiny"), freed);

    // An address that is in use elsewhere is refused with its owner's name, one that is free there is given.
    let (taken, (owner, _)) = held
        .iter()
        .find(|(_, (at, _))| *at != other)
        .expect("one elsewhere");
    let refused = sites[other].try_container("same", "tiny", &["--ip", taken]);
    let why = refused.expect_err("somebody else's address");
    assert!(why.contains(sites[*owner].name()), "{why}");
    let (_, (_, victim)) = held.iter().find(|(address, _)| *address == taken).expect("it");
    sites[*owner].engine.docker(&["rm", "-f", victim]);
    let named = sites[other].container("named", "tiny", &["--ip", taken]);
    assert_eq!(&named.ip("tiny"), taken);
}
