//! Twelve hosts that join at once, are cut in two, are put together again, and lose some of what they say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use system_tests::{json, say};

use super::lab::{Lab, Member, at_once, s, timed};
use super::plugin::{Network, addresses};

const POOL: &str = "10.42.0.0/21";

/// What each host asks for before it is used up, with few leases on a large pool: whoever has less free asks for more.
const SPARE: u64 = 4;

/// How many addresses of the pool a host has free, as it says.
fn spare(member: &Member) -> Option<u64> {
    let status = member.status();
    let pool = json::rows(&status["pools"])
        .iter()
        .find(|pool| pool["pool"] == POOL)?;
    let name = member.name();
    let own = json::rows(&pool["shares"])
        .iter()
        .find(|share| share["name"] == name)?;
    own["free"].as_u64()
}

/// Leases so many addresses on each network, all at once; each must be another.
fn lease_on_each(networks: &[Network<'_>], count: usize, given: &mut BTreeMap<IpAddr, usize>) {
    let got = at_once(networks, |network| {
        (0..count).map(|_| network.lease()).collect::<Vec<_>>()
    });
    for (host, addresses) in got.into_iter().enumerate() {
        for address in addresses {
            if let Some(other) = given.insert(address, host) {
                panic!("{address} was given on hosts {other} and {host}");
            }
        }
    }
}

#[test]
fn twelve_hosts_lease_on_both_sides_of_a_cut_and_agree_soon_after_it() {
    let lab = Lab::new(12);
    let line = lab.members[0].init();
    let began = Instant::now();
    at_once(&lab.members[1..], |member| member.paste(&line));
    say(&format!(
        "eleven hosts have joined at once after {:?}",
        began.elapsed()
    ));
    say(&format!("all twelve agree {:?} later", lab.agree(s(20))));
    assert_eq!(lab.members[0].status()["decrees"], 11);

    let began = Instant::now();
    let networks = at_once(&lab.members, |member| member.network(POOL));
    say(&format!(
        "twelve networks on one pool were made at once in {:?}",
        began.elapsed()
    ));
    let mut given = BTreeMap::new();
    lease_on_each(&networks, 3, &mut given);
    for (n, network) in networks.iter().enumerate() {
        let (address, _) = given
            .iter()
            .find(|(_, host)| **host == n)
            .expect("a lease of each host");
        network.endpoint_at(n, *address);
    }
    say(&format!(
        "all agree on endpoints and shares after {:?}",
        lab.agree(s(15))
    ));
    assert_eq!(lab.members[11].peers().len(), 12);

    // The smaller side can't have its shares grow: what it gives is what each host has by now.
    let took = timed("each host has some to spare", s(15), || {
        lab.members
            .iter()
            .all(|member| spare(member).is_some_and(|free| free >= SPARE))
    });
    say(&format!(
        "each host has {SPARE} addresses or more to spare after {took:?}"
    ));
    lab.cut(7);
    let sides = [&lab.members[..7], &lab.members[7..]];
    let state = |of: usize, to: usize| {
        sides[of]
            .iter()
            .all(|a| sides[to].iter().all(|b| a.sees(b).as_deref() == Some("down")))
    };
    let took = timed("each side marks the other down", s(25), || {
        state(0, 1) && state(1, 0)
    });
    say(&format!(
        "after a cut in 7 and 5 each side marks the other down within {took:?}"
    ));
    for side in sides {
        for member in side {
            assert_eq!(
                addresses(&member.peers()).len(),
                side.len(),
                "a side sees its own endpoints"
            );
        }
    }
    let began = Instant::now();
    lease_on_each(&networks, SPARE as usize - 1, &mut given);
    say(&format!(
        "36 addresses on both sides of the cut took {:?}",
        began.elapsed()
    ));
    for (n, network) in networks.iter().enumerate() {
        network.endpoint(100 + n);
    }
    // What needs a majority is there on one side only.
    let refused = lab.members[11]
        .try_network("10.43.0.0/24", "other")
        .err()
        .expect("no majority");
    say(&format!("founding a pool on the smaller side: {refused}"));
    assert!(refused.contains("12"), "{refused}");
    lab.members[0]
        .try_network("10.44.0.0/24", "more")
        .expect("a majority")
        .delete();

    lab.heal();
    let took = lab.agree(s(15));
    say(&format!("all agree {took:?} after the cut was mended"));
    assert_eq!(lab.members[0].peers().len(), 24);
    lease_on_each(&networks, 2, &mut given);
    let leased: usize = lab.members.iter().map(|member| member.leases(POOL).len()).sum();
    // One for each second endpoint, and each host's own note of the gateway.
    assert_eq!(leased, given.len() + 12 + 12);

    lossy(&lab, &networks);
}

/// Half a minute of loss: nobody is taken for down, and each change arrives.
fn lossy(lab: &Lab, networks: &[Network<'_>]) {
    let before = downs(lab);
    lab.lose(5);
    let (began, mut longest, mut turn) = (Instant::now(), Duration::ZERO, 1000);
    while began.elapsed() < s(30) {
        turn += 1;
        let network = &networks[turn % networks.len()];
        let address = network.lease();
        let changed = Instant::now();
        let endpoint = network.endpoint_at(turn, address);
        let all = |there: bool| {
            let text = address.to_string();
            lab.members
                .iter()
                .all(|member| addresses(&member.peers()).contains(&text) == there)
        };
        timed("a new endpoint is seen by all in spite of losses", s(5), || {
            all(true)
        });
        longest = longest.max(changed.elapsed());
        let changed = Instant::now();
        network.remove(&endpoint, address);
        timed(
            "a removed endpoint is seen by none in spite of losses",
            s(5),
            || all(false),
        );
        longest = longest.max(changed.elapsed());
    }
    say(&format!(
        "{} changes with 5 % lost: the slowest was everywhere after {longest:?}",
        2 * (turn - 1000)
    ));
    assert_eq!(downs(lab), before, "nobody was taken for down");
    lab.heal();
    say(&format!("all agree {:?} after it", lab.agree(s(10))));
}

/// How often hosts were taken for down, as all daemons say in their logs.
fn downs(lab: &Lab) -> usize {
    let logs = lab.members.iter().map(|member| member.tombolo.log());
    let down = |log: String| log.lines().filter(|line| line.contains("cluster: down")).count();
    logs.map(down).sum()
}

#[test]
fn status_and_peers_of_the_command_line_are_what_the_hosts_agree_on() {
    let lab = Lab::joined(3);
    let networks = at_once(&lab.members, |member| member.network(POOL));
    for (n, network) in networks.iter().enumerate() {
        network.endpoint(n);
    }
    lab.agree(s(10));
    let all: Vec<_> = lab
        .members
        .iter()
        .map(|member| member.tombolo.cli(&["peers"]))
        .collect();
    for (n, peers) in all.iter().enumerate() {
        let here = json::rows(peers).iter().filter(|peer| peer["here"] == true);
        let here: Vec<&str> = here.map(|peer| json::text(peer, "/host_name")).collect();
        assert_eq!(here, [lab.members[n].name()]);
        let of_host = lab.members[n]
            .tombolo
            .cli(&["peers", "--host", lab.members[0].name()]);
        assert_eq!(json::rows(&of_host).len(), 1);
        let shares = lab.members[n].try_cli(&["pools", "--shares"]).must().stdout;
        assert!(
            lab.members.iter().all(|member| shares.contains(member.name())),
            "{shares}"
        );
    }
}
