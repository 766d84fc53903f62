//! Networks that span hosts: whether these can reach each other, and with how large packets.

use std::collections::BTreeSet;

use serde_json::Value;

use super::evidence::Evidence;
use super::{Finding, rows};
use crate::kernel::look::echo::Takes;

/// The networks of kinds that span hosts.
fn spanning(evidence: &Evidence) -> impl Iterator<Item = &Value> {
    let spans = |network: &&Value| matches!(network["kind"].as_str(), Some("overlay" | "host-gateway"));
    evidence.daemon.networks.iter().filter(spans)
}

fn name(network: &Value) -> &str {
    let id = network["network_id"].as_str().unwrap_or("-");
    network["name"].as_str().unwrap_or(id)
}

/// The hosts of the cluster, if this one is in one.
fn hosts(evidence: &Evidence) -> Vec<&Value> {
    match &evidence.daemon.cluster {
        Some(Ok(cluster)) => rows(&cluster["hosts"]).collect(),
        _ => Vec::new(),
    }
}

/// Whether the wires of all hosts take packets of one size.
pub(super) fn mtu(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "tunnels.mtu";
    if spanning(evidence).next().is_none() {
        return vec![Finding::none(CHECK, "no network spans hosts")];
    }
    let told: Vec<(u64, &str)> = hosts(evidence)
        .into_iter()
        .filter_map(|host| Some((host["mtu"].as_u64()?, host["name"].as_str()?)))
        .collect();
    let (least, most) = (told.iter().min(), told.iter().max());
    let Some((least, most)) = least.zip(most) else {
        return vec![Finding::none(CHECK, "no host has told its MTU yet")];
    };
    if least.0 == most.0 {
        return vec![Finding::ok(
            CHECK,
            format!("the wires of all hosts take packets of {} bytes", least.0),
        )];
    }
    let found = format!(
        "the wire of {} takes packets of {} bytes, that of {} of {}",
        least.1, least.0, most.1, most.0
    );
    let remedy = "networks that are made from now on suit the least; one that is older may send what does not get through: give all \
                  wires the same MTU, or make the network anew with -o mtu=N";
    vec![Finding::warning(CHECK, found, remedy)]
}

/// Whether packets as large as both wires take get through to each host.
pub(super) fn path(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "tunnels.path";
    let paths = &evidence.host.paths;
    if paths.is_empty() {
        return vec![Finding::none(
            CHECK,
            "no network spans hosts, or no other host is there",
        )];
    }
    let known = hosts(evidence);
    let called = |id: &str| {
        let host = known.iter().find(|host| host["host"] == id);
        host.and_then(|host| host["name"].as_str())
            .unwrap_or(id)
            .to_owned()
    };
    let small = paths.iter().filter_map(|(host, most, takes)| match takes {
        Takes::UpTo(size) => Some((called(host), *most, *size)),
        Takes::All | Takes::Silent => None,
    });
    let findings: Vec<Finding> = small
        .map(|(name, most, size)| {
            let found = format!(
                "packets to host {name} get through up to {size} bytes, and the wires of both hosts take {most}"
            );
            let remedy = "something between them drops what is larger: let it pass packets of that size, or set the MTU of the hosts' \
                          interfaces to what gets through and make the networks anew";
            Finding::fault(CHECK, found, remedy)
        })
        .collect();
    if !findings.is_empty() {
        return findings;
    }
    let silent: Vec<String> = paths
        .iter()
        .filter(|(.., takes)| *takes == Takes::Silent)
        .map(|(host, ..)| called(host))
        .collect();
    let asked = paths.len() - silent.len();
    let found = format!("the largest packets get through to {asked} hosts");
    match silent.as_slice() {
        [] => vec![Finding::ok(CHECK, found)],
        silent => vec![Finding::ok(
            CHECK,
            format!("{found}; no echo requests are answered by {}", silent.join(", ")),
        )],
    }
}

/// What containers asked for in vain.
pub(super) fn unanswered(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "tunnels.unanswered";
    let Some([v4, v6]) = evidence.host.unanswered else {
        return vec![Finding::none(CHECK, "there is no tunnel")];
    };
    let found = format!(
        "containers have asked {v4} times (ARP) and {v6} times (neighbour discovery) for addresses of overlay networks that no host has"
    );
    vec![Finding::ok(CHECK, found)]
}

/// Whether all hosts with a part of a network without tunnels are on a wire of this host's.
pub(super) fn reach(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "routes.adjacent";
    let routed = || spanning(evidence).filter(|network| network["kind"] == "host-gateway");
    if routed().next().is_none() {
        return vec![Finding::none(CHECK, "no host-gateway network is known")];
    }
    let known = hosts(evidence);
    let called = |id: &str| {
        let host = known.iter().find(|host| host["host"] == id);
        let name = host.and_then(|host| host["name"].as_str());
        let address = host.and_then(|host| host["address"].as_str());
        format!("{} ({})", name.unwrap_or(id), address.unwrap_or("-"))
    };
    let mut findings = Vec::new();
    for network in routed() {
        let unreached: BTreeSet<&str> = rows(&network["unreached"]).filter_map(Value::as_str).collect();
        if unreached.is_empty() {
            continue;
        }
        let names: Vec<String> = unreached.into_iter().map(called).collect();
        let found = format!(
            "network {}: {} not on a wire of this host's, so containers there are not reached",
            name(network),
            match names.as_slice() {
                [one] => format!("host {one} is"),
                many => format!("hosts {} are", many.join(", ")),
            }
        );
        let remedy = "a host-gateway network needs all its hosts in one layer-2 segment: make it anew on each host with \
                      -o fallback=overlay, or with -o type=overlay";
        findings.push(Finding::fault(CHECK, found, remedy));
    }
    if findings.is_empty() {
        let found = "all hosts with a part of a host-gateway network are on a wire of this host's";
        findings.push(Finding::ok(CHECK, found));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Verdict;
    use super::*;

    fn evidence(network: Value, hosts: Value) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.daemon.networks = vec![network];
        evidence.daemon.cluster = Some(Ok(json!({ "in_cluster": true, "hosts": hosts })));
        evidence
    }

    #[test]
    fn wires_of_two_sizes_are_told_with_both() {
        let overlay = || json!({"kind": "overlay", "name": "app"});
        let same =
            json!([{"name": "a", "mtu": 1500}, {"name": "b", "mtu": 1500}, {"name": "c", "mtu": null}]);
        assert_eq!(mtu(&evidence(overlay(), same))[0].verdict, Verdict::Ok);
        let two = json!([{"name": "a", "mtu": 9000}, {"name": "b", "mtu": 1500}]);
        let finding = &mtu(&evidence(overlay(), two.clone()))[0];
        assert_eq!(finding.verdict, Verdict::Warning);
        assert_eq!(
            finding.evidence,
            "the wire of b takes packets of 1500 bytes, that of a of 9000"
        );
        assert_eq!(
            mtu(&evidence(json!({"kind": "bridge"}), two))[0].verdict,
            Verdict::NotApplicable
        );
    }

    #[test]
    fn a_way_that_takes_less_than_both_wires_is_told_with_both_sizes() {
        let hosts = json!([{"host": "b0", "name": "b"}, {"host": "c0", "name": "c"}]);
        let mut evidence = evidence(json!({"kind": "overlay"}), hosts);
        assert_eq!(path(&evidence)[0].verdict, Verdict::NotApplicable);
        let way = |host: &str, takes| (host.to_owned(), 1500, takes);
        evidence.host.paths = vec![way("b0", Takes::All), way("c0", Takes::Silent)];
        assert_eq!(path(&evidence)[0].verdict, Verdict::Ok);
        evidence.host.paths[1].2 = Takes::UpTo(1400);
        let finding = &path(&evidence)[0];
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(
            finding
                .evidence
                .contains("to host c get through up to 1400 bytes"),
            "{}",
            finding.evidence
        );
    }

    #[test]
    fn a_host_on_another_wire_is_named() {
        let hosts = json!([{"host": "b0", "name": "b", "address": "192.0.2.7:7947"}]);
        let network =
            |unreached: Value| json!({"kind": "host-gateway", "name": "app", "unreached": unreached});
        let fine = evidence(network(json!([])), hosts.clone());
        assert_eq!(reach(&fine)[0].verdict, Verdict::Ok);
        let finding = &reach(&evidence(network(json!(["b0"])), hosts))[0];
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(
            finding
                .evidence
                .starts_with("network app: host b (192.0.2.7:7947) is not on a wire"),
            "{}",
            finding.evidence
        );
    }

    #[test]
    fn what_nobody_has_is_counted_where_there_are_tunnels() {
        let mut evidence = Evidence::default();
        assert_eq!(unanswered(&evidence)[0].verdict, Verdict::NotApplicable);
        evidence.host.unanswered = Some([3, 1]);
        let finding = &unanswered(&evidence)[0];
        assert_eq!(finding.verdict, Verdict::Ok);
        assert!(finding.evidence.contains("3 times (ARP)"), "{}", finding.evidence);
    }
}
