//! A cluster for which an etcd decides, with the built binary and a real etcd on the wire.

// What other tests of clusters need isn't all needed here.
#[allow(dead_code)]
#[path = "cluster/lab.rs"]
mod lab;
#[allow(dead_code)]
#[path = "cluster/plugin.rs"]
mod plugin;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, Member, agree, at_once, s, timed};
use plugin::Network;
use system_tests::{Spaces, Tombolo, http, json, say};

/// A /28 has fourteen addresses for hosts, and one is the gateway's.
const POOL: &str = "10.42.0.0/28";
const ADDRESSES: usize = 13;

/// Where the etcd is, on the wire.
const PLACE: &str = "10.200.0.254:2379";

/// How long a refusal may take: a wish's bound, and some room for a busy machine.
const QUICK: Duration = Duration::from_secs(4);

/// An etcd of one member.
struct Etcd {
    data: tempfile::TempDir,
    process: Option<Child>,
}

impl Etcd {
    fn start(lab: &Lab) -> Self {
        let data = tempfile::tempdir().expect("a directory for etcd");
        let mut etcd = Self { data, process: None };
        etcd.start_again(&lab.wire);
        etcd
    }

    fn start_again(&mut self, wire: &Spaces) {
        let place = format!("http://{PLACE}");
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.data.path())
            .args(["--listen-client-urls", &place, "--advertise-client-urls", &place])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"])
            .args(["--initial-cluster", "default=http://127.0.0.1:2380"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = wire.enter(move || command.spawn());
        self.process = Some(process.expect("starting etcd: apt-get install etcd-server"));
        timed("etcd serves", s(20), || is_well(wire).unwrap_or(false));
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killing etcd");
            process.wait().expect("waiting for etcd");
        }
    }
}

/// Whether the etcd has a leader. It listens before that, and refuses.
fn is_well(wire: &Spaces) -> std::io::Result<bool> {
    let mut stream = wire.enter(|| TcpStream::connect(PLACE))?;
    stream.set_read_timeout(Some(s(2)))?;
    stream.write_all(http::head("GET", "/health", 0).as_bytes())?;
    Ok(http::read_answer(&mut stream)?.status == 200)
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn setting() -> (&'static str, String) {
    ("TOMBOLO_STORE", format!("etcd://{PLACE}"))
}

/// Three hosts for which an etcd decides, and a fourth in no cluster, with the setting or without it.
fn three(of_fourth: bool) -> (Lab, Etcd) {
    let lab = Lab::with(4, |n, _| match n < 3 || of_fourth {
        true => vec![setting()],
        false => Vec::new(),
    });
    let etcd = Etcd::start(&lab);
    let line = lab.members[0].init();
    at_once(&lab.members[1..3], |member| member.paste(&line));
    agree(&inside(&lab), s(20));
    (lab, etcd)
}

fn inside(lab: &Lab) -> Vec<&Member> {
    lab.members.iter().take(3).collect()
}

/// Leases on these networks in turn until each refuses.
fn exhaust(networks: &[&Network<'_>]) -> Vec<IpAddr> {
    let (mut got, mut open) = (Vec::new(), networks.to_vec());
    while !open.is_empty() {
        open.retain(|network| network.try_lease().map(|address| got.push(address)).is_ok());
        assert!(got.len() <= ADDRESSES, "{got:?}");
    }
    got
}

fn distinct(addresses: &[IpAddr]) -> usize {
    addresses.iter().collect::<BTreeSet<_>>().len()
}

/// Has something refused, soon and because the store is away.
#[track_caller]
fn refused<T>(what: &str, act: impl FnOnce() -> Result<T, String>) {
    let began = Instant::now();
    let Err(why) = act() else {
        panic!("{what} is done without the store");
    };
    let took = began.elapsed();
    say(&format!("{what}, refused after {took:?}: {why}"));
    for part in [PLACE, "can't be reached", "what this host has goes on"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(took < QUICK, "{took:?}");
}

fn cli(member: &Member, args: &[&str]) -> Result<String, String> {
    let output = member.try_cli(args);
    match output.ok {
        true => Ok(output.stdout),
        false => Err(output.stderr),
    }
}

#[test]
fn a_pool_is_shared_to_its_last_address_and_a_forgotten_host_gives_its_part_to_the_others() {
    let (lab, _etcd) = three(true);
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    let networks = at_once(&lab.members[..3], |member| member.network(POOL));
    let first = at_once(&networks, |network| (network.lease(), network.lease()));
    let first: Vec<IpAddr> = first.into_iter().flat_map(|(a, b)| [a, b]).collect();
    assert_eq!(distinct(&first), 6, "{first:?}");
    let rest = exhaust(&networks.iter().collect::<Vec<_>>());
    let all: Vec<IpAddr> = first.iter().chain(&rest).copied().collect();
    assert_eq!((all.len(), distinct(&all)), (ADDRESSES, ADDRESSES), "{all:?}");
    let of_three = three.leases(POOL).len() - 1;
    assert!(of_three >= 2, "{of_three}");

    three.tombolo.kill();
    timed("the third is down", s(20), || {
        one.sees(three).as_deref() == Some("down")
    });
    let began = Instant::now();
    one.try_cli(&["cluster", "forget", three.name()]).must();
    say(&format!("forgetting took {:?}", began.elapsed()));
    agree(&[one, two], s(10));
    let status = one.status();
    assert_eq!(json::rows(&status["hosts"]).len(), 2, "{status:#}");
    let mut again = Vec::new();
    timed("its addresses are the others'", s(10), || {
        again.extend(exhaust(&[&networks[0], &networks[1]]));
        again.len() >= of_three
    });
    assert_eq!((again.len(), distinct(&again)), (of_three, of_three), "{again:?}");

    // Back again, it learns of it, from the others or from the store, and gives nothing.
    three.tombolo.start_again();
    timed("the third knows", s(15), || {
        three.standing().as_deref() == Some("gone")
    });
    assert!(three.made(&networks[2]).try_lease().is_err());
}

#[test]
fn while_the_etcd_is_away_own_addresses_are_given_and_the_rest_waits_for_it_without_a_restart() {
    let (lab, mut etcd) = three(true);
    let [one, two, three, fourth] = [0, 1, 2, 3].map(|n| &lab.members[n]);
    let networks = at_once(&lab.members[..3], |member| member.network("10.42.0.0/24"));
    let mut given: Vec<IpAddr> = networks.iter().map(Network::lease).collect();
    agree(&inside(&lab), s(10));

    etcd.kill();
    for network in &networks {
        given.push(network.lease());
    }
    refused("another pool", || one.try_network("10.43.0.0/24", "other"));
    refused("a new secret", || cli(one, &["cluster", "rotate-key"]));
    let shown = cli(one, &["cluster", "status"]).expect("a status");
    let line = shown.lines().find(|line| line.starts_with("Store "));
    assert!(
        line.is_some_and(|line| line.contains("can't be reached")),
        "{shown}"
    );
    assert!(one.status()["store"]["fault"].is_string());
    let told = one.complaints("cluster.store");
    assert!(told.iter().any(|told| told.contains(PLACE)), "{told:?}");
    let line = cli(one, &["cluster", "token"]).expect("a token needs no store");
    let began = Instant::now();
    let joined = fourth.host.try_run("sh", &["-ec", &line]);
    joined.must_fail_with(&[PLACE, "can't be reached"]);
    assert!(began.elapsed() < QUICK, "{:?}", began.elapsed());
    three.tombolo.kill();
    timed("the third is down", s(20), || {
        one.sees(three).as_deref() == Some("down")
    });
    refused("forgetting", || cli(one, &["cluster", "forget", three.name()]));

    // Who begins anew goes on alone after a moment.
    two.tombolo.kill();
    two.tombolo.start_again();
    timed("the second goes on", s(10), || {
        two.standing().as_deref() == Some("alone")
    });
    given.push(two.made(&networks[1]).lease());
    three.tombolo.start_again();

    etcd.start_again(&lab.wire);
    let took = agree(&inside(&lab), s(30));
    say(&format!("all are confirmed {took:?} after the etcd is back"));
    timed("the store is well again", s(35), || {
        one.complaints("cluster.store").is_empty()
    });
    assert_eq!(
        one.status()["store"],
        serde_json::json!({"name": format!("etcd://{PLACE}"), "fault": null})
    );
    at_once(&lab.members[..3], |member| {
        member.try_network("10.43.0.0/24", "other").map(drop)
    })
    .into_iter()
    .for_each(|made| made.expect("another pool"));
    fourth.paste(&line);
    lab.agree(s(20));
    for member in [one, two, three] {
        let again = member.made(&networks[0]);
        given.extend((0..60).map(|_| again.lease()));
    }
    assert_eq!(distinct(&given), given.len(), "{given:?}");
}

#[test]
fn a_host_whose_setting_is_another_one_than_the_clusters_takes_no_part_and_says_why() {
    let (lab, _etcd) = three(false);
    let line = cli(&lab.members[0], &["cluster", "token"]).expect("a token");
    let joined = lab.members[3].host.try_run("sh", &["-ec", &line]);
    joined.must_fail_with(&[PLACE, "TOMBOLO_STORE"]);
    assert_eq!(lab.members[0].status()["hosts"].as_array().map(Vec::len), Some(3));

    let third = &lab.members[2];
    third.tombolo.stop();
    let other = Tombolo::start_with(&third.host, &[]);
    let log = || other.log();
    timed("it says why", s(10), || {
        log().contains("was begun with a store that decides, and the setting store (TOMBOLO_STORE) is own")
    });
    let refused = third.try_network(POOL, "app").map(drop).expect_err("no network");
    assert!(refused.contains("TOMBOLO_STORE"), "{refused}");
    other.stop();
    third.tombolo.start_again();
    agree(&inside(&lab), s(20));
    third.network(POOL).lease();
}
