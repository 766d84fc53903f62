//! Hosts that leave, and hosts that are forgotten.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use system_tests::{json, say};

use super::lab::{Lab, agree, at_once, s, timed};
use super::plugin::{Network, addresses};

/// A /28 has fourteen addresses for hosts, and one is the gateway's.
const POOL: &str = "10.42.0.0/28";
const ADDRESSES: usize = 13;

/// Leases on these networks in turn until each refuses. Gives the addresses, and the last refusal.
fn exhaust(networks: &[&Network<'_>]) -> (Vec<String>, String) {
    let (mut got, mut open, mut last) = (Vec::new(), networks.to_vec(), String::new());
    while !open.is_empty() {
        open.retain(|network| match network.try_lease() {
            Ok(address) => {
                got.push(address.to_string());
                true
            }
            Err(why) => {
                last = why;
                false
            }
        });
        assert!(got.len() <= ADDRESSES, "{got:?}");
    }
    (got, last)
}

#[test]
fn a_host_that_leaves_is_gone_everywhere_and_its_addresses_are_with_the_others() {
    let lab = Lab::joined(3);
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    let networks = at_once(&lab.members, |member| member.network(POOL));
    let (endpoint, address) = networks[2].endpoint(1);
    lab.agree(s(10));
    let refused = three.try_cli(&["cluster", "leave"]);
    say(&format!("leaving with a network: {}", refused.stderr));
    refused.must_fail_with(&[POOL]);
    assert_eq!(
        three.standing().as_deref(),
        Some("confirmed"),
        "it is in the cluster still"
    );
    networks[2].remove(&endpoint, address);
    let mut networks = networks;
    networks.pop().expect("the third").delete();

    let before = three.id();
    let began = Instant::now();
    three.try_cli(&["cluster", "leave"]).must();
    say(&format!("leaving took {:?}", began.elapsed()));
    let took = agree(&[one, two], s(5));
    say(&format!("the two others agree {took:?} later"));
    let status = one.status();
    assert_eq!(json::rows(&status["hosts"]).len(), 2, "{status:#}");
    assert_eq!(three.status()["in_cluster"], false);
    timed("its port is closed", s(3), || !three.has_port());
    let (got, why) = exhaust(&[&networks[0], &networks[1]]);
    assert_eq!(
        got.iter().collect::<BTreeSet<_>>().len(),
        ADDRESSES,
        "{got:?}; {why}"
    );

    // It may join again, as another host.
    let line = one.try_cli(&["cluster", "token"]).must().stdout;
    three.paste(&line);
    lab.agree(s(10));
    assert_ne!(three.id(), before);
}

#[test]
fn a_host_that_is_forgotten_gives_its_addresses_to_the_others_and_may_lease_none_when_it_is_back() {
    let lab = Lab::joined(3);
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    let networks = at_once(&lab.members, |member| member.network(POOL));
    let (_, lost) = networks[2].endpoint(1);
    networks[2].lease();
    lab.agree(s(10));
    let refused = one.try_cli(&["cluster", "forget", three.name()]);
    say(&format!("forgetting a host that is up: {}", refused.stderr));
    refused.must_fail_with(&[three.name(), "there"]);

    three.tombolo.kill();
    timed("both others mark it down", s(20), || {
        [one, two]
            .iter()
            .all(|m| m.sees(three).as_deref() == Some("down"))
    });
    let began = Instant::now();
    one.try_cli(&["cluster", "forget", three.name()]).must();
    say(&format!("forgetting took {:?}", began.elapsed()));
    say(&format!(
        "the two others agree {:?} later",
        agree(&[one, two], s(5))
    ));
    assert_eq!(one.status()["hosts"].as_array().map(Vec::len), Some(2));
    assert_eq!(addresses(&one.peers()), Vec::<String>::new());
    let (got, why) = exhaust(&[&networks[0], &networks[1]]);
    assert_eq!(
        got.iter().collect::<BTreeSet<_>>().len(),
        ADDRESSES,
        "{got:?}; {why}"
    );
    assert!(got.contains(&lost.to_string()), "{lost} is not among {got:?}");

    // It comes back, and learns that it is out.
    three.tombolo.start_again();
    let took = timed("it says that it is gone", s(15), || {
        three.standing().as_deref() == Some("gone")
    });
    say(&format!("a forgotten host knows {took:?} after its start"));
    let shown = three.try_cli(&["cluster", "status"]).must().stdout;
    assert!(shown.contains("gone"), "{shown}");
    let why = three
        .made(&networks[2])
        .try_lease()
        .expect_err("it may lease nothing");
    say(&format!("leasing on a forgotten host: {why}"));
    assert!(why.contains("cluster"), "{why}");
    assert_eq!(json::rows(&one.status()["hosts"]).len(), 2);
    three.try_cli(&["cluster", "leave"]).must();
    assert_eq!(three.status()["in_cluster"], false);
    let line = two.try_cli(&["cluster", "token"]).must().stdout;
    three.paste(&line);
    lab.agree(s(10));
}

#[test]
fn a_pool_that_is_full_is_refused_with_who_has_how_many_and_what_is_released_here_is_leased_there() {
    let lab = Lab::joined(3);
    let networks = at_once(&lab.members, |member| member.network(POOL));
    let each: Vec<&Network<'_>> = networks.iter().collect();
    let began = Instant::now();
    let (got, why) = exhaust(&each);
    say(&format!(
        "{} addresses of a /28 in {:?}; then: {why}",
        got.len(),
        began.elapsed()
    ));
    assert_eq!(
        got.iter().collect::<BTreeSet<_>>().len(),
        ADDRESSES,
        "{got:?}; {why}"
    );
    assert_eq!(got.len(), ADDRESSES, "{got:?}");
    lab.agree(s(10));
    let why = networks[0].try_lease().expect_err("none is left");
    say(&format!("once all have told each other: {why}"));
    assert!(why.contains(POOL) && why.contains("no free address"), "{why}");
    for member in &lab.members[1..] {
        // The gateway's address is a lease of whoever owns it.
        let leased = member.leases(POOL).len() - 1;
        let named = [leased, leased + 1]
            .iter()
            .any(|n| why.contains(&format!("{} {n}", member.name())));
        assert!(leased == 0 || named, "{leased} {why}");
    }

    // What one releases, others may lease, by name or not.
    let of_three = lab.members[2].leases(POOL);
    let of_three = got.iter().filter(|address| of_three.contains(address));
    let free: Vec<IpAddr> = of_three.filter_map(|address| address.parse().ok()).collect();
    assert!(free.len() >= 2, "{free:?} of {got:?}");
    free[..2].iter().for_each(|address| networks[2].release(*address));
    let mut leased = None;
    let took = timed("the first host leases what the third has released", s(10), || {
        leased = networks[0].try_lease().ok();
        leased.is_some()
    });
    say(&format!(
        "an address that was released on one host is leased on another {took:?} later"
    ));
    let leased = leased.expect("an address");
    assert!(free[..2].contains(&leased), "{leased} {free:?}");
    let other = free[..2]
        .iter()
        .find(|address| **address != leased)
        .expect("the other one");
    assert_eq!(networks[1].ask_for(&other.to_string()), Ok(*other));
    assert!(networks[2].try_lease().is_err());
    let mine = networks[1]
        .ask_for(&leased.to_string())
        .expect_err("it is leased elsewhere");
    say(&format!("an address that is leased on another host: {mine}"));
    assert!(
        mine.contains(&leased.to_string()) && mine.contains(lab.members[0].name()),
        "{mine}"
    );
}
