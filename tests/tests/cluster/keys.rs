//! Another key for the cluster, while its hosts have other things to do, or are off.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use system_tests::{json, say};

use super::lab::{Lab, agree, at_once, s, timed};

#[test]
fn a_key_is_rotated_under_changes_and_who_was_off_gets_it_but_not_who_was_forgotten() {
    let lab = Lab::joined(5);
    let (on, off, forgotten) = (&lab.members[..3], &lab.members[3], &lab.members[4]);
    let networks = at_once(on, |member| member.network("10.42.0.0/24"));
    lab.agree(s(10));
    let old = on[0].try_cli(&["cluster", "token"]).must().stdout;
    forgotten.tombolo.kill();
    off.tombolo.kill();
    timed("two hosts are down", s(20), || {
        on.iter().all(|m| {
            [off, forgotten]
                .iter()
                .all(|other| m.sees(other).as_deref() == Some("down"))
        })
    });
    on[0].try_cli(&["cluster", "forget", forgotten.name()]).must();

    let (over, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let downs = || -> usize {
        let count = |log: String| log.lines().filter(|line| line.contains("cluster: down")).count();
        on.iter().map(|member| count(member.tombolo.log())).sum()
    };
    let before = downs();
    std::thread::scope(|scope| {
        for (n, network) in networks.iter().enumerate() {
            let (over, changes) = (&over, &changes);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let (endpoint, address) = network.endpoint(n);
                    network.remove(&endpoint, address);
                    changes.fetch_add(2, Ordering::Relaxed);
                }
            });
        }
        let began = Instant::now();
        let rotated = on[1]
            .try_cli(&["cluster", "rotate-key", "--output", "json"])
            .must()
            .stdout;
        say(&format!("rotating took {:?}: {rotated}", began.elapsed()));
        let rotated = json::parse(&rotated);
        assert_eq!(rotated["secret"], 2);
        assert_eq!(rotated["without"], serde_json::json!([off.name()]));
        let took = timed("all three have the new key", s(10), || {
            on.iter().all(|member| member.status()["secret"] == 2)
        });
        say(&format!("all have the new key {took:?} later"));
        // Some more seconds of changes under it.
        let so_far = changes.load(Ordering::Relaxed);
        timed("a hundred more changes", s(20), || {
            changes.load(Ordering::Relaxed) > so_far + 100
        });
        over.store(true, Ordering::Relaxed);
    });
    say(&format!("{} changes meanwhile", changes.load(Ordering::Relaxed)));
    assert_eq!(downs(), before, "nobody was taken for down");

    // The old token lets nobody in; a new one does.
    let late = lab.one_more(8, None);
    let token = old.rsplit(' ').next().expect("a token");
    let refused = late.try_cli(&["cluster", "join", &on[0].address, "--token", token]);
    say(&format!("joining with a token of before: {}", refused.stderr));
    refused.must_fail_with(&["token"]);

    off.tombolo.start_again();
    let took = agree(&[&on[0], &on[1], &on[2], off], s(20));
    say(&format!(
        "who was off has the new key, and all agree, {took:?} after its start"
    ));
    assert_eq!(off.status()["secret"], 2);

    forgotten.tombolo.start_again();
    let took = timed("who was forgotten says so", s(20), || {
        forgotten.standing().as_deref() == Some("gone")
    });
    say(&format!("who was forgotten knows {took:?} after its start"));
    assert_eq!(forgotten.status()["secret"], 1, "it has not got the new key");
    assert_eq!(json::rows(&on[0].status()["hosts"]).len(), 4);

    late.paste(&on[2].try_cli(&["cluster", "token"]).must().stdout);
    agree(&[&on[0], &on[1], &on[2], off, &late], s(15));
}
