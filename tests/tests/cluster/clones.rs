//! Two hosts with one identifier: a disk that was copied.

use std::collections::BTreeSet;
use std::net::IpAddr;

use system_tests::{json, say};

use super::lab::{Lab, Member, at_once, s, timed};

const POOL: &str = "10.42.0.0/24";

/// Whether a host's log tells that a host is there twice, with both of its addresses.
fn tells(member: &Member, both: [&str; 2]) -> bool {
    let log = member.tombolo.log();
    log.lines().any(|line| {
        line.contains("cloned") && both.iter().all(|address| line.contains(&format!("{address}:")))
    })
}

/// Leases all the while until a host knows that it is there twice.
fn lease_until_told(member: &Member, network: &super::plugin::Network<'_>) -> Vec<IpAddr> {
    let mut got = Vec::new();
    system_tests::wait::within(s(10), || {
        if got.len() < 40 {
            got.extend(network.try_lease());
        }
        (member.standing().as_deref() == Some("cloned")).then_some(())
    });
    got
}

/// A host's disk is copied to another host, whose daemon is then started so many times; the last time on the wire.
fn with_a_copy(starts: usize) {
    let lab = Lab::joined(3);
    let networks = at_once(&lab.members, |member| member.network(POOL));
    let mut leased: BTreeSet<IpAddr> = networks.iter().map(|network| network.lease()).collect();
    lab.agree(s(10));
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    let events = "/var/log/events.log";
    one.tombolo.cli_to(&["events", "--output", "json"], events);
    three.tombolo.stop();
    lab.wire.run("ip", &["link", "add", "br1", "type", "bridge"]);
    let copy = lab.one_more(9, Some(&three.host));
    for _ in 1..starts {
        copy.host.run("ip", &["link", "set", "wire0", "down"]);
        copy.tombolo.kill();
        copy.tombolo.start_again();
    }
    copy.host.run("ip", &["link", "set", "wire0", "up"]);
    copy.host
        .run("ip", &["route", "replace", "default", "via", "10.200.0.254"]);
    three.tombolo.start_again();
    let twins = [three, &copy];
    let meanwhile = at_once(&twins, |member| {
        lease_until_told(member, &member.made(&networks[2]))
    });
    for (member, got) in twins.iter().zip(meanwhile) {
        say(&format!(
            "{} leased {} addresses until it knew",
            member.name(),
            got.len()
        ));
        for address in got {
            assert!(leased.insert(address), "{address} was given twice");
        }
    }
    let both = [three.address.as_str(), copy.address.as_str()];
    let took = timed("somebody says that a host is there twice", s(15), || {
        [one, two].iter().any(|member| tells(member, both))
    });
    say(&format!("a host that is there twice is told of after {took:?}"));
    timed("doctor names both addresses", s(10), || {
        [one, two].iter().any(|member| {
            let told = member.complaints("cluster.clones");
            told.iter()
                .any(|told| both.iter().all(|address| told.contains(&format!("{address}:"))))
        })
    });
    let lines = one.host.log(events);
    let told = timed("the event of it, on the host that watches events", s(15), || {
        let log = one.host.log(events);
        log.lines()
            .any(|line| line.contains("\"cloned\"") && both.iter().all(|address| line.contains(address)))
    });
    say(&format!("and as an event {told:?} later\n{lines}"));

    let cloned = |member: &&Member| member.standing().as_deref() == Some("cloned");
    let took = timed("one of the two at least knows it", s(15), || {
        [three, &copy].iter().any(cloned)
    });
    say(&format!("one of the two knows {took:?} later"));
    let mut who = Vec::new();
    for member in [three, &copy] {
        let network = member.made(&networks[2]);
        let got = (0..3).map(|_| network.try_lease());
        match got.collect::<Result<Vec<_>, _>>() {
            Ok(addresses) => {
                who.push(member.name());
                for address in addresses {
                    assert!(leased.insert(address), "{address} was given twice");
                }
            }
            Err(why) => {
                say(&format!("{} may not: {why}", member.name()));
                assert!(why.contains("identifier") && why.contains("leave"), "{why}");
            }
        }
    }
    say(&format!("{} of the two may lease", who.len()));
    assert!(who.len() <= 1, "{who:?}");

    // The way out of it, on the copy as people are told: it doesn't know what the original has given since.
    timed("the copy knows it as well", s(15), || cloned(&&copy));
    let (out, stays) = (&copy, three);
    out.try_cli(&["cluster", "leave"]).must();
    assert_eq!(out.status()["in_cluster"], false);
    if starts == 1 {
        // Whoever doesn't want to wait until it believes by itself that it is the only one again.
        stays.tombolo.stop();
        stays.tombolo.start_again();
    }
    let took = super::lab::agree(&[one, two, stays], s(40));
    say(&format!(
        "the cluster is as it was {took:?} after the copy has left"
    ));
    let address = stays.made(&networks[2]).lease();
    assert!(leased.insert(address), "{address} was given twice");
    assert_eq!(json::rows(&one.status()["hosts"]).len(), 3);
}

#[test]
fn a_copy_that_starts_as_often_as_its_original_is_told_of_and_at_most_one_of_them_leases() {
    with_a_copy(1);
}

#[test]
fn a_copy_that_starts_more_often_than_its_original_is_told_of_and_at_most_one_of_them_leases() {
    with_a_copy(2);
}
