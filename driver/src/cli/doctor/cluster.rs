//! The cluster, as this host's daemon sees it: nobody else is asked.

use std::collections::BTreeMap;

use serde_json::Value;

use super::evidence::Evidence;
use super::{Finding, rows, texts};
use crate::cli::output::duration;

/// What was dropped or called within these many milliseconds is going on.
const LATELY_MS: f64 = 120_000.0;
/// For how many milliseconds no datagram may have come from a host that answers calls.
const SILENT_MS: f64 = 15_000.0;
/// By how many milliseconds a clock may differ.
const CLOCK_MS: f64 = 1_000.0;
/// How many hosts are named in one finding.
const NAMED: usize = 5;

/// The daemon's document, if this host is in a cluster.
pub(super) fn cluster<'a>(evidence: &'a Evidence, check: &'static str) -> Result<&'a Value, Vec<Finding>> {
    let none = |why: &str| Err(vec![Finding::none(check, why)]);
    match &evidence.daemon.cluster {
        Some(Ok(cluster)) if cluster["in_cluster"] == true => Ok(cluster),
        Some(Ok(_)) => none("this host is in no cluster"),
        Some(Err(why)) => Err(vec![Finding::none(check, why.clone())]),
        None => none("the daemon does not answer"),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

fn span(ms: f64) -> String {
    duration(ms / 1_000.0)
}

fn others(cluster: &Value) -> impl Iterator<Item = &Value> {
    rows(&cluster["hosts"]).filter(|host| host["state"] != "here")
}

/// The names of hosts, of many the first ones.
pub(super) fn names<'a>(hosts: impl IntoIterator<Item = &'a Value>) -> String {
    listed(hosts.into_iter().map(|host| text(host, "name")))
}

/// Of many names the first ones.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.collect();
    let shown = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(super) fn standing(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.standing";
    let Some(Ok(cluster)) = &evidence.daemon.cluster else {
        return self::cluster(evidence, CHECK).err().unwrap_or_default();
    };
    let note = cluster["standing_note"].as_str().unwrap_or_default();
    let leave = "tombolo cluster leave";
    let finding = match cluster["standing"].as_str() {
        Some("confirmed") => Finding::ok(CHECK, "confirmed; it gives addresses of its share"),
        Some("waiting") if !cluster["store"].is_null() => Finding::fault(
            CHECK,
            "it has begun anew and the store has not confirmed its share yet",
            "it gives no addresses until then: see that the store runs and can be reached",
        ),
        Some("waiting") => {
            let remedy = "it gives no addresses until enough of the others have answered: start them, or mend the network between; \
                          for hosts that are off for good, `tombolo cluster forget HOST...`";
            Finding::fault(
                CHECK,
                "it has begun anew and nobody has confirmed its share yet",
                remedy,
            )
        }
        Some("alone") => {
            let remedy = "see that the others run, and that UDP and TCP get through at the cluster's port; it gives addresses of its own \
                          share meanwhile";
            Finding::warning(CHECK, "no majority has answered since its start", remedy)
        }
        Some("gone") => {
            let remedy = "its addresses are given to others: end its containers on networks of the cluster, have it leave, then join anew";
            Finding::fault(CHECK, format!("this host is out of the cluster: {note}"), remedy).by(leave)
        }
        Some("cloned") => {
            let remedy = "two hosts have this identifier, as after copying a disk, and neither gives addresses: on the copy, leave and join \
                          anew";
            Finding::fault(
                CHECK,
                format!("another host has the same identifier: {note}"),
                remedy,
            )
            .by(leave)
        }
        Some("out") => Finding::warning(CHECK, note, "have it join, or take the setting join away"),
        Some("broken") => {
            let remedy = "mend what the message names; it is tried again each second";
            Finding::fault(
                CHECK,
                format!("this host takes no part in its cluster: {note}"),
                remedy,
            )
        }
        _ => Finding::none(CHECK, "this host is in no cluster"),
    };
    vec![finding]
}

/// Who is there.
pub(super) fn hosts(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.hosts";
    let cluster = match cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let all = rows(&cluster["hosts"]).count();
    let absent: Vec<&Value> = others(cluster).filter(|host| host["state"] != "up").collect();
    let there = all.saturating_sub(absent.len());
    if absent.is_empty() {
        return vec![Finding::ok(CHECK, format!("all {all} are there"))];
    }
    let found = format!(
        "{there} of {all} are there, this one among them; not there: {}",
        names(absent.iter().copied())
    );
    let by_store = !cluster["store"].is_null();
    let finding = if there == 1 {
        let remedy = "start the others, or see that UDP and TCP get through at the cluster's port, both ways; nothing can be decided, and \
                      this host has its own share only";
        Finding::fault(CHECK, found, remedy)
    } else if there * 2 <= all && !by_store {
        let remedy = "that is no majority: pools can't be founded, hosts can't join or leave, and shares don't grow; start the others, or \
                      forget those that are off for good";
        Finding::fault(CHECK, found, remedy)
    } else {
        let remedy =
            "start them; those that are off for good have addresses that others get once they are forgotten";
        Finding::warning(CHECK, found, remedy)
    };
    vec![finding.by("tombolo cluster status")]
}

/// Hosts that answer calls, by TCP, and are not heard, by UDP.
pub(super) fn udp(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.udp";
    let cluster = match cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let within = |host: &Value, key: &str, ms: f64| host[key].as_f64().is_some_and(|ago| ago < ms);
    let half = others(cluster)
        .filter(|host| host["state"] != "up")
        .filter(|host| within(host, "call_ms", LATELY_MS) && !within(host, "heard_ms", SILENT_MS));
    let findings: Vec<Finding> = half
        .map(|host| {
            let found = format!(
                "{} at {} speaks with this host by TCP, and no datagram of it comes",
                text(host, "name"),
                text(host, "address")
            );
            let remedy = "let UDP through at the cluster's port, both ways: see the firewalls of both hosts and between";
            Finding::fault(CHECK, found, remedy)
        })
        .collect();
    match findings.is_empty() {
        true => vec![Finding::ok(CHECK, "no host is reached by TCP alone")],
        false => findings,
    }
}

/// Hosts with several addresses, and those of them that carry nothing.
pub(super) fn ways(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.ways";
    let cluster = match cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let several: Vec<&Value> = others(cluster)
        .filter(|host| rows(&host["ways"]).count() > 1)
        .collect();
    if several.is_empty() {
        return vec![Finding::none(CHECK, "no other host has several addresses")];
    }
    let findings: Vec<Finding> = several
        .iter()
        .filter(|host| host["state"] == "up")
        .flat_map(|host| rows(&host["ways"]).map(move |way| (host, way)))
        .filter(|(_, way)| way["up"] == false)
        .map(|(host, way)| {
            let heard = way["heard_ms"].as_f64();
            let heard = heard.map_or_else(
                || "was never answered".to_owned(),
                |ms| format!("was answered last {} ago", span(ms)),
            );
            let found = format!("the way to {} by {} {heard}", text(host, "name"), text(way, "address"));
            let remedy = "see that the wire and the switch between are well, and that UDP gets through at the cluster's port; all goes \
                          by the other ways meanwhile. One that is never there is to be taken out of that host's TOMBOLO_ADVERTISE";
            Finding::warning(CHECK, found, remedy)
        })
        .collect();
    match findings.is_empty() {
        true => vec![Finding::ok(
            CHECK,
            format!("all ways to {} carry packets", names(several)),
        )],
        false => findings,
    }
}

/// Identifiers that two hosts have.
pub(super) fn clones(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.clones";
    let cluster = match cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let clones = rows(&cluster["clones"]).map(|clone| {
        let found = format!(
            "two hosts are {}, at {}: both have the identifier {}",
            text(clone, "name"),
            texts(&clone["at"]).join(" and "),
            text(clone, "host")
        );
        let remedy = "on the one that is a copy: `tombolo cluster leave`, then join anew; until then neither gives addresses";
        Finding::fault(CHECK, found, remedy)
    });
    let findings: Vec<Finding> = clones.collect();
    match findings.is_empty() {
        true => vec![Finding::ok(CHECK, "each identifier is of one host")],
        false => findings,
    }
}

pub(super) fn clocks(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.clocks";
    let cluster = match cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let off = |host: &&Value| host["clock_ms"].as_f64().is_some_and(|ms| ms.abs() > CLOCK_MS);
    let off: Vec<&Value> = others(cluster).filter(off).collect();
    if off.is_empty() {
        return vec![Finding::ok(CHECK, "none differs by more than a second")];
    }
    let each = off.iter().take(NAMED).map(|host| {
        let ms = host["clock_ms"].as_f64().unwrap_or_default();
        let way = if ms < 0.0 { "behind" } else { "ahead" };
        format!("{} is {} {way}", text(host, "name"), span(ms.abs()))
    });
    let found = format!(
        "{} clocks differ: {}",
        off.len(),
        each.collect::<Vec<_>>().join(", ")
    );
    let remedy = "set them by NTP; tokens to join expire by them, nothing else does. If all differ by as much, it is this host's";
    vec![Finding::warning(CHECK, found, remedy)]
}

/// What came from a host and could not be taken; another version of it may be why.
pub(super) fn rows_taken(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.rows";
    let cluster = match cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let ours = rows(&cluster["hosts"]).find(|host| host["state"] == "here");
    let ours = ours.map_or("-", |host| text(host, "version"));
    let faults = |host: &Value| host["faults"].as_u64().unwrap_or(0);
    let bad = others(cluster).filter(|host| faults(host) > 0);
    let findings: Vec<Finding> = bad
        .take(NAMED)
        .map(|host| {
            let (name, theirs) = (text(host, "name"), text(host, "version"));
            let found = format!("{} messages or rows of {name} could not be read or were refused", faults(host));
            match theirs != ours && theirs != "-" {
                true => {
                    let remedy = format!("{name} has version {theirs}, and this host {ours}: have both run the later one");
                    Finding::warning(CHECK, found, remedy)
                }
                false => {
                    let remedy = "see the log of that host; where it has very many containers, a bound of rows may be reached";
                    Finding::warning(CHECK, found, remedy)
                }
            }
        })
        .collect();
    if !findings.is_empty() {
        return findings;
    }
    let other = others(cluster).filter(|host| !host["version"].is_null() && text(host, "version") != ours);
    let found = match names(other) {
        none if none.is_empty() => "all that came was taken".to_owned(),
        names => format!("all that came was taken, also from hosts of another version than {ours}: {names}"),
    };
    vec![Finding::ok(CHECK, found)]
}

/// Datagrams that do not open.
pub(super) fn datagrams(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.datagrams";
    let cluster = match cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let lately = |drop: &&Value| drop["last_ms"].as_f64().is_some_and(|ago| ago < LATELY_MS);
    let drops: BTreeMap<&str, &Value> = rows(&cluster["dropped"])
        .filter(lately)
        .map(|drop| (text(drop, "why"), drop))
        .collect();
    let told = [
        (
            "old_key",
            "sealed with a key that is in force no more",
            "that host missed a rotation of the key and can't get the new one: see that TCP gets through to it at the cluster's port",
        ),
        (
            "new_key",
            "sealed with a key that this host hasn't got",
            "this host missed a rotation of the key, and asks for the new one: see that TCP gets through from it at the cluster's port",
        ),
        (
            "mac",
            "whose seal is broken",
            "a host of another cluster, or one that was set up with another key, has this address in its settings; or somebody forges \
             them: see what sends there",
        ),
        (
            "sender",
            "of hosts that are no members",
            "a host that was forgotten, or left, still runs there: `tombolo cluster leave` on it",
        ),
        (
            "version",
            "of a version that is not spoken here",
            "have all hosts run the same version",
        ),
    ];
    let findings: Vec<Finding> = told
        .into_iter()
        .filter_map(|(why, what, remedy)| {
            let drop = drops.get(why)?;
            let found = format!(
                "{} datagrams {what}, the last one {} ago from {}",
                drop["count"],
                span(drop["last_ms"].as_f64().unwrap_or_default()),
                text(drop, "from")
            );
            Some(Finding::warning(CHECK, found, remedy))
        })
        .collect();
    match findings.is_empty() {
        true => vec![Finding::ok(CHECK, "none of late that can't be opened")],
        false => findings,
    }
}

/// Pieces that two hosts claim.
pub(super) fn pools(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.pools";
    let cluster = match cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let disputed = rows(&cluster["pools"]).flat_map(|pool| {
        texts(&pool["disputed"]).into_iter().map(|piece| {
            let found = format!("{piece} of {} is claimed by two hosts", text(pool, "pool"));
            let remedy = "a host was forgotten that still ran: see which (`tombolo pools --shares` on both), end its containers there, and \
                          have it leave";
            Finding::fault(CHECK, found, remedy)
        })
    });
    let findings: Vec<Finding> = disputed.collect();
    match findings.is_empty() {
        true => vec![Finding::ok(CHECK, "each piece has one owner")],
        false => findings,
    }
}

/// The store that decides.
pub(super) fn store(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "cluster.store";
    let cluster = match cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let store = &cluster["store"];
    if store.is_null() {
        return vec![Finding::none(CHECK, "the cluster's own hosts decide")];
    }
    let finding = match store["fault"].as_str() {
        None => Finding::ok(CHECK, format!("{} answers", text(store, "name"))),
        Some(fault) => {
            let remedy = "see that the etcd runs and is reached from here; until then nothing can be decided, and what this host has goes \
                          on. Once it is back all goes by itself";
            Finding::fault(CHECK, fault, remedy)
        }
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Verdict;
    use super::*;

    const ALL: [fn(&Evidence) -> Vec<Finding>; 9] = [
        standing, hosts, udp, clones, clocks, rows_taken, datagrams, pools, store,
    ];

    fn with(cluster: Value) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.daemon.cluster = Some(Ok(cluster));
        evidence
    }

    fn well() -> Value {
        json!({
            "in_cluster": true, "standing": "confirmed", "standing_note": null, "store": null, "clones": [], "dropped": [],
            "pools": [{"pool": "10.42.0.0/24", "disputed": []}],
            "hosts": [
                {"name": "a", "state": "here", "version": "1", "faults": 0},
                {"name": "b", "state": "up", "version": "1", "faults": 0, "clock_ms": -900, "heard_ms": 100, "address": "b:1"},
                {"name": "c", "state": "up", "version": "1", "faults": 0, "clock_ms": 3, "heard_ms": 100, "address": "c:1"},
            ],
        })
    }

    fn one(check: fn(&Evidence) -> Vec<Finding>, cluster: Value) -> Finding {
        let mut findings = check(&with(cluster));
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn a_well_cluster_gets_no_bad_finding_and_no_cluster_none_at_all() {
        for check in ALL {
            let finding = one(check, well());
            assert!(!finding.bad(), "{finding:?}");
            let finding = one(check, json!({"in_cluster": false, "standing": null}));
            assert_eq!(finding.verdict, Verdict::NotApplicable);
            let silent = check(&Evidence::default());
            assert_eq!(silent[0].verdict, Verdict::NotApplicable);
            // An older daemon's document, or a damaged one.
            for strange in [
                json!({"in_cluster": true}),
                json!({"in_cluster": true, "hosts": [null], "dropped": 7}),
            ] {
                check(&with(strange));
            }
        }
    }

    #[test]
    fn how_this_host_stands_says_what_to_do() {
        for (standing_is, verdict, part) in [
            ("waiting", Verdict::Fault, "nobody has confirmed"),
            ("alone", Verdict::Warning, "no majority"),
            ("gone", Verdict::Fault, "out of the cluster: the note"),
            ("cloned", Verdict::Fault, "the same identifier: the note"),
        ] {
            let mut cluster = well();
            (cluster["standing"], cluster["standing_note"]) = (json!(standing_is), json!("the note"));
            let finding = one(standing, cluster);
            assert_eq!(finding.verdict, verdict, "{standing_is}");
            assert!(
                finding.evidence.contains(part) && finding.remedy.is_some(),
                "{finding:?}"
            );
        }
        for (standing_is, verdict) in [("out", Verdict::Warning), ("broken", Verdict::Fault)] {
            let cluster = json!({"in_cluster": false, "standing": standing_is, "standing_note": "the note"});
            let finding = one(standing, cluster);
            assert_eq!(
                (finding.verdict, finding.evidence.contains("the note")),
                (verdict, true)
            );
        }
    }

    #[test]
    fn absent_hosts_are_a_warning_and_a_fault_where_they_are_too_many() {
        let mut cluster = well();
        cluster["hosts"][2]["state"] = json!("down");
        let finding = one(hosts, cluster.clone());
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.evidence.starts_with("2 of 3 are there") && finding.evidence.ends_with(": c"));
        cluster["hosts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "d", "state": "unknown"}));
        assert_eq!(
            one(hosts, cluster.clone()).verdict,
            Verdict::Fault,
            "two of four are no majority"
        );
        cluster["store"] = json!({"name": "etcd://x", "fault": null});
        assert_eq!(
            one(hosts, cluster.clone()).verdict,
            Verdict::Warning,
            "a store needs none"
        );
        cluster["hosts"][1]["state"] = json!("down");
        assert_eq!(one(hosts, cluster).verdict, Verdict::Fault, "nobody else");
    }

    #[test]
    fn a_host_that_answers_calls_and_is_not_heard_is_behind_a_firewall() {
        let mut cluster = well();
        cluster["hosts"][1]["state"] = json!("unknown");
        (cluster["hosts"][1]["heard_ms"], cluster["hosts"][1]["call_ms"]) = (json!(null), json!(2_000));
        let finding = one(udp, cluster.clone());
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(finding.evidence.contains("b at b:1") && finding.remedy.unwrap().contains("UDP"));
        cluster["hosts"][1]["call_ms"] = json!(500_000);
        assert_eq!(one(udp, cluster).verdict, Verdict::Ok);
    }

    #[test]
    fn clones_are_told_with_both_addresses() {
        let mut cluster = well();
        cluster["clones"] = json!([{"host": "b0", "name": "b", "at": ["192.0.2.1:7947", "192.0.2.9:7947"]}]);
        let finding = one(clones, cluster);
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(
            finding.evidence.contains("192.0.2.1:7947 and 192.0.2.9:7947"),
            "{finding:?}"
        );
    }

    #[test]
    fn clocks_rows_and_datagrams_are_warnings_that_name_the_host() {
        let mut cluster = well();
        cluster["hosts"][1]["clock_ms"] = json!(-61_000);
        assert!(one(clocks, cluster).evidence.contains("b is 1 min 1 s behind"));

        let mut cluster = well();
        cluster["hosts"][1]["faults"] = json!(4);
        assert!(
            one(rows_taken, cluster.clone())
                .evidence
                .starts_with("4 messages or rows of b")
        );
        cluster["hosts"][1]["version"] = json!("2");
        assert!(
            one(rows_taken, cluster.clone())
                .remedy
                .unwrap()
                .contains("b has version 2")
        );
        cluster["hosts"][1]["faults"] = json!(0);
        assert!(
            one(rows_taken, cluster)
                .evidence
                .contains("another version than 1: b")
        );

        for why in ["old_key", "new_key", "mac", "sender", "version"] {
            let mut cluster = well();
            cluster["dropped"] =
                json!([{"why": why, "count": 9, "last_ms": 3_000, "from": "192.0.2.7:7947"}]);
            let finding = one(datagrams, cluster.clone());
            assert_eq!(finding.verdict, Verdict::Warning, "{why}");
            assert!(finding.evidence.starts_with("9 datagrams"), "{finding:?}");
            assert!(
                finding.evidence.ends_with("3 s ago from 192.0.2.7:7947"),
                "{finding:?}"
            );
            cluster["dropped"][0]["last_ms"] = json!(400_000);
            assert_eq!(one(datagrams, cluster).verdict, Verdict::Ok, "long ago");
        }
    }

    #[test]
    fn a_disputed_piece_and_a_store_that_is_away_are_faults() {
        let mut cluster = well();
        cluster["pools"][0]["disputed"] = json!(["10.42.0.0/28"]);
        assert!(
            one(pools, cluster)
                .evidence
                .contains("10.42.0.0/28 of 10.42.0.0/24")
        );
        let mut cluster = well();
        cluster["store"] = json!({"name": "etcd://x", "fault": "the store etcd://x can't be reached"});
        assert_eq!(one(store, cluster.clone()).verdict, Verdict::Fault);
        cluster["store"]["fault"] = json!(null);
        assert_eq!(one(store, cluster).evidence, "etcd://x answers");
    }
}
