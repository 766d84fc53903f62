//! Endpoints of one host as the others see them, while their hosts come, die and come back.

use std::time::{Duration, Instant};

use system_tests::{json, say};

use super::lab::{Lab, at_once, s, timed};
use super::plugin::addresses;

/// The median and the longest of some times, in words.
fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let most = times.last().copied().unwrap_or_default();
    format!(
        "{:?} (median), {most:?} (longest) of {}",
        times[times.len() / 2],
        times.len()
    )
}

#[test]
fn endpoints_are_seen_everywhere_within_a_second_and_hidden_while_their_daemon_is_dead() {
    let lab = Lab::joined(3);
    let networks = at_once(&lab.members, |member| member.network("10.42.0.0/24"));
    lab.agree(s(10));
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for turn in 0..8 {
        let (at, network) = (turn % 3, &networks[turn % 3]);
        let address = network.lease();
        let began = Instant::now();
        let endpoint = network.endpoint_at(turn, address);
        let seen = |there: bool| {
            let sees = |member: &super::lab::Member| {
                addresses(&member.peers()).contains(&address.to_string()) == there
            };
            lab.members.iter().all(sees)
        };
        timed("all see the new endpoint", s(5), || seen(true));
        came.push(began.elapsed());
        let peers = lab.members[(at + 1) % 3].tombolo.cli(&["peers"]);
        let row = &json::rows(&peers)[0];
        let shown = [
            &row["host"],
            &row["host_name"],
            &row["network"],
            &row["kind"],
            &row["vtep"],
            &row["here"],
        ];
        let (id, name) = (lab.members[at].id(), lab.members[at].name());
        assert_eq!(
            shown.map(|v| v.to_string().replace('"', "")),
            [&id, name, "app", "bridge", &lab.members[at].address, "false"]
        );
        let began = Instant::now();
        network.remove(&endpoint, address);
        timed("nobody sees the removed endpoint", s(5), || seen(false));
        went.push(began.elapsed());
    }
    say(&format!(
        "an endpoint is seen by all after {}",
        summary(came.clone())
    ));
    say(&format!("a removed one by none after {}", summary(went.clone())));
    // One of many may meet a busy machine; half of them may not.
    came.sort();
    went.sort();
    assert!(
        came[came.len() / 2] < s(1) && went[went.len() / 2] < s(1),
        "{came:?} {went:?}"
    );

    // A daemon dies: its endpoints are hidden, not forgotten.
    let kept: Vec<_> = (0..3)
        .map(|n| networks[2].endpoint(100 + n).1.to_string())
        .collect();
    timed("all see the endpoints", s(5), || {
        lab.members
            .iter()
            .all(|member| kept.iter().all(|one| addresses(&member.peers()).contains(one)))
    });
    let leases = lab.members[2].leases("10.42.0.0/24");
    let host = lab.members[2].id();
    lab.members[2].tombolo.kill();
    let down = timed("both others mark it down", s(20), || {
        lab.members[..2]
            .iter()
            .all(|m| m.sees(&lab.members[2]).as_deref() == Some("down"))
    });
    say(&format!(
        "a daemon that was killed is down for both others after {down:?}"
    ));
    assert!(
        lab.members[..2].iter().all(|member| member.peers().is_empty()),
        "its rows are hidden"
    );
    let table = lab.members[0].try_cli(&["cluster", "status"]).must().stdout;
    assert!(table.contains("down"), "{table}");

    lab.members[2].tombolo.start_again();
    let back = timed("both others see its rows", s(10), || {
        lab.members[..2]
            .iter()
            .all(|member| addresses(&member.peers()) == kept)
    });
    say(&format!(
        "its rows are seen by both others {back:?} after it answers again"
    ));
    assert!(back < s(2), "{back:?}");
    lab.agree(s(10));
    assert_eq!(lab.members[2].id(), host);
    assert_eq!(lab.members[2].leases("10.42.0.0/24"), leases);
    let next = networks[2].lease().to_string();
    assert!(!leases.contains(&next), "{next} is leased already");
}
