//! A pool of the cluster under real engines on three hosts: addresses that are unique everywhere, whoever comes and goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use serde_json::Value;
use system_tests::json::{rows, text};
use system_tests::wait::until;
use system_tests::{Engine, Host, Spaces, Tombolo, image, say};

/// The wire's own address.
const WIRE: &str = "10.200.0.254";

/// How many containers each host starts.
const CONTAINERS: usize = 60;

/// How many a host starts at a time.
const AT_A_TIME: usize = 6;

/// A host with an engine and tombolo.
struct Site {
    engine: Engine,
    tombolo: Tombolo,
    host: Arc<Host>,
}

impl Site {
    fn new(wire: &Spaces, number: usize) -> Self {
        let host = Arc::new(Host::with_engine_files());
        let (link, holder) = (format!("h{number}"), host.holder_pid().to_string());
        let veth = [
            "link", "add", &link, "type", "veth", "peer", "name", "wire0", "netns", &holder,
        ];
        wire.run("ip", &veth);
        wire.run("ip", &["link", "set", &link, "master", "br0", "up"]);
        host.run(
            "ip",
            &["address", "add", &format!("10.200.0.{number}/24"), "dev", "wire0"],
        );
        host.run("ip", &["link", "set", "wire0", "up"]);
        host.run("ip", &["route", "add", "default", "via", WIRE]);
        let tombolo = Tombolo::start(&host);
        let engine = Engine::start(&host, &[]);
        Self {
            engine,
            tombolo,
            host,
        }
    }

    fn network(&self, name: &str, subnet: &str) {
        let net = format!("net={name}");
        let args = [
            "network",
            "create",
            "-d",
            "tombolo",
            "--ipam-driver",
            "tombolo",
            "--subnet",
            subnet,
            "-o",
            &net,
            name,
        ];
        self.engine.docker(&args);
    }

    /// Starts a container; gives its address, or what the engine said.
    fn container(&self, name: &str, network: &str) -> Result<String, String> {
        let args = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            network,
            image::NAME,
            "sleep",
            "100000",
        ];
        let ran = self.engine.try_docker(&args);
        if !ran.ok {
            return Err(ran.stderr);
        }
        let seen = self.engine.inspect("container", name);
        Ok(text(&seen, &format!("/NetworkSettings/Networks/{network}/IPAddress")).to_owned())
    }
}

struct Sites {
    sites: Vec<Site>,
    _wire: Spaces,
}

impl Sites {
    fn joined(count: usize) -> Self {
        let wire = Spaces::new_network();
        wire.run("ip", &["link", "add", "br0", "type", "bridge"]);
        wire.run("ip", &["address", "add", &format!("{WIRE}/24"), "dev", "br0"]);
        wire.run("ip", &["link", "set", "br0", "up"]);
        let sites: Vec<Site> = (1..=count).map(|number| Site::new(&wire, number)).collect();
        let line = sites[0].tombolo.try_cli(&["cluster", "init"]).must().stdout;
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        for site in &sites[1..] {
            site.tombolo.try_cli(&words).must();
        }
        for site in &sites {
            until("all hosts are up", || {
                let status = site.tombolo.cli(&["cluster", "status"]);
                let up = rows(&status["hosts"])
                    .iter()
                    .filter(|host| host["state"] != "down" && host["state"] != "unknown");
                (up.count() == count).then_some(())
            });
        }
        Self { sites, _wire: wire }
    }
}

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
                        let address = site.container(&name, network);
                        let address = address.unwrap_or_else(|why| {
                            panic!("{name} on {}: {why}\n{}", site.host.name(), site.host.logs())
                        });
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
    let Sites { sites, _wire } = Sites::joined(3);
    for site in &sites {
        site.network("app", "10.42.0.0/24");
    }
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
    for site in &sites {
        until("all endpoints are known everywhere", || {
            (rows(&site.tombolo.cli(&["peers"])).len() == 3 * half).then_some(())
        });
    }

    // The host that founded the pool is gone, with its containers, its engine and its daemon.
    let founder = sites[0].host.name().to_owned();
    let alive = sites[1].tombolo.try_cli(&["cluster", "forget", &founder]);
    alive.must_fail_with(&[&founder, "is there"]);
    sites[0].host.cut_power();
    until("the founder's death is noticed", || {
        let status = sites[1].tombolo.cli(&["cluster", "status"]);
        rows(&status["hosts"])
            .iter()
            .any(|host| host["state"] == "down")
            .then_some(())
    });
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
    let Sites { sites, _wire } = Sites::joined(3);
    for site in &sites {
        site.network("tiny", "10.43.0.0/28");
    }
    // 13 addresses beside the gateway's.
    let mut held: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for n in 0..13 {
        let at = n % 3;
        let name = format!("t{n}");
        let address = sites[at]
            .container(&name, "tiny")
            .unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(
            held.insert(address.clone(), (at, name)).is_none(),
            "{address} is given twice"
        );
    }
    for (at, site) in sites.iter().enumerate() {
        let why = site.container(&format!("full{at}"), "tiny").unwrap_err();
        assert!(
            why.contains("10.43.0.0/28") && why.contains("no free address"),
            "{why}"
        );
        site.engine.try_docker(&["rm", "-f", &format!("full{at}")]);
    }
    let (freed, (at, name)) = held.pop_first().expect("some are held");
    sites[at].engine.docker(&["rm", "-f", &name]);
    let other = (at + 1) % 3;
    let again = until("the freed address serves another host", || {
        let name = format!("again{other}");
        let got = sites[other].container(&name, "tiny");
        if got.is_err() {
            sites[other].engine.try_docker(&["rm", "-f", &name]);
        }
        got.ok()
    });
    assert_eq!(again, freed);

    // An address that is in use elsewhere is refused with its owner's name, one that is free there is given.
    let (taken, (owner, _)) = held
        .iter()
        .find(|(_, (at, _))| *at != other)
        .expect("one elsewhere");
    let args = [
        "run",
        "-d",
        "--name",
        "same",
        "--network",
        "tiny",
        "--ip",
        taken,
        image::NAME,
        "sleep",
        "1",
    ];
    let refused = sites[other].engine.try_docker(&args);
    assert!(
        !refused.ok && refused.stderr.contains(sites[*owner].host.name()),
        "{}",
        refused.stderr
    );
    sites[other].engine.try_docker(&["rm", "-f", "same"]);
    let (_, (_, victim)) = held.iter().find(|(address, _)| *address == taken).expect("it");
    sites[*owner].engine.docker(&["rm", "-f", victim]);
    let args = [
        "run",
        "-d",
        "--name",
        "named",
        "--network",
        "tiny",
        "--ip",
        taken,
        image::NAME,
        "sleep",
        "100000",
    ];
    sites[other].engine.docker(&args);
    let seen: Value = sites[other].engine.inspect("container", "named");
    assert_eq!(text(&seen, "/NetworkSettings/Networks/tiny/IPAddress"), taken);
}
