//! What a host's kernel holds for its networks, and tombolo's pools, as text that can be compared.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::host::Host;
use crate::tombolo::Tombolo;
use crate::{json, wait};

/// Links, addresses, routes, rules and pools. What differs by itself (indices, counters, states) is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, Vec<String>>);

impl Snapshot {
    /// Looks at a host, and at the pools of its tombolo if it has one.
    pub fn of(host: &Host, tombolo: Option<&Tombolo>) -> Self {
        let mut parts = BTreeMap::from([
            ("links", links(host)),
            ("routes", lines(&host.run("ip", &["route"]))),
            ("routes of IPv6", lines(&host.run("ip", &["-6", "route"]))),
            ("rules", rules(host)),
        ]);
        if let Some(tombolo) = tombolo {
            parts.insert("pools", pools(tombolo));
        }
        Self(parts)
    }

    /// The lines that are in only one of the two, or more often in it, with a sign for which one.
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let mut balance: BTreeMap<(&str, &str), i32> = BTreeMap::new();
        for (snapshot, weight) in [(self, -1), (later, 1)] {
            for (part, line) in snapshot
                .0
                .iter()
                .flat_map(|(part, lines)| lines.iter().map(move |line| (part, line)))
            {
                *balance.entry((part, line)).or_default() += weight;
            }
        }
        let line = |((part, line), count): ((&str, &str), i32)| {
            let sign = if count < 0 { '-' } else { '+' };
            (count != 0).then(|| format!("{sign} {part}: {line}"))
        };
        balance.into_iter().filter_map(line).collect()
    }

    /// Waits until a fresh look shows the same lines; an engine that starts again lays its rules in another order. The
    /// kernel takes a container's links away some time after its end.
    #[track_caller]
    pub fn must_come_back(&self, host: &Host, tombolo: Option<&Tombolo>) {
        let mut differences = Vec::new();
        let same = wait::within(wait::PATIENCE / 3, || {
            differences = self.differences(&Self::of(host, tombolo));
            differences.is_empty().then_some(())
        });
        assert!(
            same.is_some(),
            "not as before (- was there, + is there now):\n{}",
            differences.join("\n")
        );
    }

    /// The lines of one part: `links`, `routes`, `routes of IPv6`, `rules` or `pools`.
    pub fn part(&self, name: &str) -> &[String] {
        &self.0[name]
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.trim_end().replace(" linkdown", ""))
        .collect()
}

fn links(host: &Host) -> Vec<String> {
    let found = json::parse(&host.run("ip", &["-j", "address"]));
    let mut links: Vec<String> = json::rows(&found).iter().map(link).collect();
    links.sort();
    links
}

fn link(link: &Value) -> String {
    let addresses = json::rows(&link["addr_info"]).iter();
    // Link-local addresses come and go with the state of a link.
    let addresses = addresses
        .filter(|a| a["scope"] != "link")
        .map(|a| format!("{}/{}", a["local"], a["prefixlen"]));
    let addresses: Vec<String> = addresses.collect();
    format!(
        "{} mtu {} master {} {}",
        link["ifname"],
        link["mtu"],
        link["master"],
        addresses.join(" ")
    )
}

/// The pools and their leases. How many freed addresses wait before they are given again is a matter of time.
fn pools(tombolo: &Tombolo) -> Vec<String> {
    let mut pools = tombolo.cli(&["pools"]);
    for pool in pools
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        // Names are learned in the background.
        pool.remove("network_name");
        pool.remove("cooling");
        pool.remove("free");
        let leases = pool.get_mut("leases").and_then(Value::as_array_mut);
        for lease in leases.into_iter().flatten().filter_map(Value::as_object_mut) {
            lease.remove("container_name");
        }
    }
    lines(&format!("{pools:#}"))
}

fn rules(host: &Host) -> Vec<String> {
    lines(&host.run("nft", &["list", "ruleset"]))
        .iter()
        .map(|line| without_counts(line))
        .collect()
}

/// A rule without the numbers of its counter.
fn without_counts(line: &str) -> String {
    let mut words = Vec::new();
    let mut rest = line.split(' ');
    while let Some(word) = rest.next() {
        words.push(word);
        if word == "packets" || word == "bytes" {
            rest.next();
        }
    }
    words.join(" ")
}
