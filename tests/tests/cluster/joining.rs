//! How a cluster comes about: by the line that a host prints, and by settings.

use std::time::Instant;

use serde_json::json;
use system_tests::{Tombolo, json, say};

use super::lab::{Lab, at_once, s, timed};

#[test]
fn hosts_join_by_the_printed_line_and_a_host_in_no_cluster_opens_no_port() {
    let lab = Lab::new(4);
    for member in &lab.members {
        assert_eq!(member.status()["in_cluster"], false);
        assert!(!member.has_port(), "a port is open on a host in no cluster");
    }
    let printed = lab.members[0].try_cli(&["cluster", "init"]).must().stdout;
    let head = "tombolo cluster join 10.200.0.1 --token tombolo-join-1.";
    assert!(
        printed.starts_with(head) && printed.lines().count() == 1,
        "{printed}"
    );
    lab.members[1].paste(&printed);
    lab.members[2].paste(&printed);
    let three: Vec<_> = lab.members[..3].iter().collect();
    let took = super::lab::agree(&three, s(10));
    say(&format!("three hosts agree {took:?} after the last has joined"));
    assert!(three.iter().all(|member| member.has_port()));
    assert!(!lab.members[3].has_port());
    // As people and scripts ask it.
    for member in three {
        let status = member.tombolo.cli(&["cluster", "status"]);
        assert_eq!(status["cluster"], lab.members[0].status()["cluster"]);
        assert_eq!(json::rows(&status["hosts"]).len(), 3);
        assert_eq!(member.tombolo.cli(&["peers"]), json!([]));
        let table = member.try_cli(&["cluster", "status"]).must().stdout;
        assert!(
            lab.members[..3].iter().all(|other| table.contains(other.name())),
            "{table}"
        );
    }
    // In a cluster already.
    lab.members[1]
        .try_cli(&["cluster", "init"])
        .must_fail_with(&["in a cluster already"]);

    // The token of another cluster is none of this one.
    let line = lab.members[3].init();
    let token = line.rsplit(' ').next().expect("a token");
    lab.members[2].try_cli(&["cluster", "leave"]).must();
    let there = lab.members[0].address.as_str();
    let refused = lab.members[2].try_cli(&["cluster", "join", there, "--token", token]);
    say(&format!("with the token of another cluster: {}", refused.stderr));
    refused.must_fail_with(&[there, "token"]);
    assert_eq!(lab.members[2].status()["in_cluster"], false);
    assert!(!lab.members[2].has_port());
}

#[test]
fn hosts_that_are_set_up_by_files_and_start_together_make_one_cluster_begun_by_the_first_of_the_list() {
    let key = std::sync::OnceLock::new();
    let lab = Lab::with(3, |_, host| {
        by_files(host, &key, "10.200.0.2,10.200.0.1,10.200.0.3")
    });
    let took = lab.agree(s(30));
    say(&format!(
        "three hosts that were set up by files agree {took:?} after their start"
    ));
    let status = lab.members[0].status();
    assert_eq!(
        status["decrees"], 2,
        "one has begun it and two have joined: {status:#}"
    );
    let logs: Vec<String> = lab.members.iter().map(|member| member.tombolo.log()).collect();
    let began: Vec<bool> = logs.iter().map(|log| log.contains("began the cluster")).collect();
    assert_eq!(began, [false, true, false], "the first of the list has begun it");
}

#[test]
fn a_host_with_another_key_file_is_told_so_and_stays_out() {
    // A key for each.
    let lab = Lab::with(2, |_, host| {
        by_files(host, &std::sync::OnceLock::new(), "10.200.0.1")
    });
    let [one, other] = [&lab.members[0], &lab.members[1]];
    timed("the first has begun its cluster", s(20), || one.has_port());
    let began = other.tombolo.log().lines().count();
    timed("the other is refused again", s(10), || {
        let log = other.tombolo.log();
        log.lines()
            .skip(began)
            .any(|line| line.contains("not joined yet") && line.contains("10.200.0.1"))
    });
    let log = other.tombolo.log();
    let line = log.lines().rfind(|line| line.contains("not joined yet"));
    say(&format!("with another key: {}", line.unwrap_or_default()));
    assert!(
        line.is_some_and(|line| line.contains("key") || line.contains("authority")),
        "{line:?}"
    );
    assert_eq!(other.status()["in_cluster"], false);
    assert_eq!(json::rows(&one.status()["hosts"]).len(), 1);
}

#[test]
fn daemons_that_are_started_five_times_in_a_row_are_the_same_cluster() {
    let lab = Lab::joined(3);
    let networks = at_once(&lab.members, |member| member.network("10.42.0.0/24"));
    let endpoints: Vec<_> = networks
        .iter()
        .enumerate()
        .map(|(n, net)| net.endpoint(n))
        .collect();
    // How full each share is follows the leases by the daemon's next turn.
    let told = |status: &serde_json::Value| -> u64 {
        let shares = json::rows(&status["pools"][0]["shares"]);
        shares.iter().filter_map(|share| share["leased"].as_u64()).sum()
    };
    timed("all are told of the gateway and of the endpoints", s(10), || {
        let statuses = lab.members.iter().map(|member| member.status());
        statuses.map(|status| told(&status)).all(|leased| leased == 4)
    });
    lab.agree(s(10));
    let before = lab.members[0].status();
    let leases: Vec<_> = lab
        .members
        .iter()
        .map(|member| member.leases("10.42.0.0/24"))
        .collect();
    for turn in 0..5 {
        let began = Instant::now();
        at_once(&lab.members, |member| {
            match turn % 2 {
                0 => member.tombolo.kill(),
                _ => member.tombolo.stop(),
            }
            member.tombolo.start_again();
        });
        say(&format!("start {} of all took {:?}", turn + 2, began.elapsed()));
    }
    say(&format!("they agree {:?} after the last start", lab.agree(s(15))));
    let after = lab.members[0].status();
    assert_eq!(after["cluster"], before["cluster"]);
    assert_eq!(after["decrees"], before["decrees"]);
    let shares = |status: &serde_json::Value| status["pools"][0]["shares"].clone();
    assert_eq!(shares(&after), shares(&before));
    for (member, leases) in lab.members.iter().zip(leases) {
        assert_eq!(member.leases("10.42.0.0/24"), leases);
        assert_eq!(super::plugin::addresses(&member.peers()).len(), endpoints.len());
    }
}

#[test]
fn a_host_whose_disk_was_set_back_is_there_again_with_the_share_that_the_others_remember() {
    let lab = Lab::joined(3);
    let networks = at_once(&lab.members, |member| member.network("10.42.0.0/24"));
    lab.agree(s(10));
    let three = &lab.members[2];
    three.tombolo.stop();
    three.host.sh("cp -a /var/lib/tombolo /var/lib/earlier");
    for _ in 0..4 {
        three.tombolo.start_again();
        lab.agree(s(15));
        three.tombolo.stop();
    }
    three.tombolo.start_again();
    lab.agree(s(15));
    // Its share changes: an address of it is given to another host.
    let shares = lab.members[0].status()["pools"][0]["shares"].clone();
    let ours = json::rows(&shares)
        .iter()
        .find(|share| share["name"] == three.name());
    let piece = json::text(ours.expect("a share of the third"), "/pieces/0").to_owned();
    let first = piece.split('/').next().expect("an address").to_owned();
    let last = first.rsplit_once('.').expect("an IPv4 address");
    let address = format!("{}.{}", last.0, last.1.parse::<u8>().expect("a number") + 3);
    let given = networks[0]
        .ask_for(&address)
        .expect("an address of the third host");
    lab.agree(s(10));
    let before = lab.members[0].status();

    three.tombolo.stop();
    three
        .host
        .sh("rm -rf /var/lib/tombolo; mv /var/lib/earlier /var/lib/tombolo");
    three.tombolo.start_again();
    say(&format!(
        "a host whose disk was set back is there again after {:?}",
        lab.agree(s(20))
    ));
    let after = lab.members[0].status();
    let pieces = |status: &serde_json::Value| {
        let shares = json::rows(&status["pools"][0]["shares"]).iter();
        shares.map(|share| share["pieces"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(pieces(&after), pieces(&before));
    let refused = three.made(&networks[2]).ask_for(&given.to_string());
    assert!(refused.is_err(), "{given} is another host's");
}

/// The settings of hosts that are set up by files, with one key.
fn by_files(
    host: &system_tests::Host,
    text: &std::sync::OnceLock<String>,
    join: &str,
) -> Vec<(&'static str, String)> {
    let key = "/etc/tombolo/cluster.key";
    let text = text.get_or_init(|| host.run("tombolo", &["cluster", "key"]));
    host.write(key, &format!("{text}\n"));
    host.sh(&format!("chmod 600 {key}"));
    vec![
        ("TOMBOLO_JOIN", join.to_owned()),
        ("TOMBOLO_CLUSTER_KEY_FILE", key.to_owned()),
    ]
}

/// Longer than it takes a host to join by its settings.
const SETTLED: std::time::Duration = s(6);

#[test]
fn a_host_that_left_or_was_forgotten_stays_out_whatever_its_settings_say_until_it_is_told_otherwise() {
    let (key, join) = (std::sync::OnceLock::new(), "10.200.0.1,10.200.0.2,10.200.0.3");
    let lab = Lab::with(3, |_, host| by_files(host, &key, join));
    lab.agree(s(30));
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    let stays_out = |why: &str| {
        std::thread::sleep(SETTLED);
        let status = three.status();
        assert_eq!(
            (&status["in_cluster"], &status["standing"]),
            (&json!(false), &json!("out"))
        );
        let shown = three.try_cli(&["cluster", "status"]).must().stdout;
        for part in [why, join, "tombolo cluster join"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(three.tombolo.log().contains(why));
        assert!(!three.has_port());
    };

    let left = three.try_cli(&["cluster", "leave"]).must().stdout;
    assert!(left.contains("tombolo cluster join"), "{left}");
    stays_out("told to leave");
    three.tombolo.kill();
    three.tombolo.start_again();
    stays_out("told to leave");
    three.paste(&two.try_cli(&["cluster", "token"]).must().stdout);
    lab.agree(s(10));
    // Once in again it is like any other, and its settings don't matter after a restart.
    three.tombolo.kill();
    three.tombolo.start_again();
    lab.agree(s(15));

    let before = three.id();
    three.tombolo.kill();
    timed("both others mark it down", s(20), || {
        [one, two]
            .iter()
            .all(|m| m.sees(three).as_deref() == Some("down"))
    });
    one.try_cli(&["cluster", "forget", three.name()]).must();
    for _ in 0..2 {
        three.tombolo.start_again();
        timed("it says that it is gone", s(15), || {
            three.standing().as_deref() == Some("gone")
        });
        std::thread::sleep(SETTLED);
        assert_eq!(three.standing().as_deref(), Some("gone"));
        three.tombolo.kill();
    }
    three.tombolo.start_again();
    timed("it says that it is gone", s(15), || {
        three.standing().as_deref() == Some("gone")
    });
    three.try_cli(&["cluster", "leave"]).must();
    stays_out("told to leave");

    // Another value of the setting is another word of the operator's.
    three.tombolo.stop();
    let again = Tombolo::start_with(
        &three.host,
        &as_texts(&by_files(&three.host, &key, "10.200.0.1,10.200.0.2")),
    );
    let took = lab.agree(s(20));
    say(&format!(
        "with another value of the setting it is in again after {took:?}"
    ));
    assert_ne!(three.id(), before);
    again.stop();
}

#[test]
fn a_host_that_waits_to_join_by_its_settings_waits_no_longer_once_it_is_told_to_leave() {
    let key = std::sync::OnceLock::new();
    let lab = Lab::with(2, |n, host| match n {
        // Nobody is there who would let it in.
        0 => by_files(host, &key, "10.200.0.2"),
        _ => Vec::new(),
    });
    let [one, other] = [&lab.members[0], &lab.members[1]];
    timed("it tries", s(10), || one.tombolo.log().contains("not joined yet"));
    one.try_cli(&["cluster", "leave"]).must();
    let tries = || one.tombolo.log().matches("not joined yet").count();
    let before = tries();
    std::thread::sleep(SETTLED);
    assert_eq!(tries(), before);
    one.try_cli(&["cluster", "leave"])
        .must_fail_with(&["in no cluster"]);
    one.paste(&other.init());
    lab.agree(s(10));
}

fn as_texts<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

#[test]
fn a_host_that_is_killed_soon_after_others_joined_knows_where_these_are() {
    let lab = Lab::new(3);
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    let line = one.init();
    three.paste(&line);
    two.paste(&line);
    lab.agree(s(10));
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    lab.members.iter().for_each(|member| member.tombolo.kill());
    three.tombolo.start_again();
    let status = three.status();
    let of = |member: &super::lab::Member| {
        let hosts = json::rows(&status["hosts"]).iter();
        hosts
            .clone()
            .find(|host| host["name"] == member.name())
            .map(|host| host["address"].clone())
    };
    for member in [one, two] {
        assert_eq!(
            of(member),
            Some(json!(format!("{}:7947", member.address))),
            "{status:#}"
        );
    }
}
