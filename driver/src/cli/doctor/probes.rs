//! What came of probes in the tunnels to other hosts: frames like those of containers, each way, as large as the networks' packets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;
use tombolo_core::kinds::overlay;

use super::Finding;
use super::chains::why;
use super::evidence::Evidence;
use crate::firewall::{Could, Hook, Layer4, Nic, Packet, Seen};

const CHECK: &str = "tunnels.probes";

/// What passes one way, as the daemon says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passes {
    All,
    UpTo(u64),
    Nothing,
    Unknown,
}

impl Passes {
    fn of(value: &Value) -> Self {
        match (value.as_str(), value["up_to"].as_u64()) {
            (Some("all"), _) => Self::All,
            (Some("nothing"), _) => Self::Nothing,
            (_, Some(size)) => Self::UpTo(size),
            _ => Self::Unknown,
        }
    }

    /// Less than a network's packets need.
    fn less(self, mtu: u64) -> Option<u64> {
        match self {
            Self::UpTo(size) if size < mtu => Some(size),
            _ => None,
        }
    }
}

/// One tunnel to one host.
struct Tried<'a> {
    host: &'a str,
    network: &'a str,
    local: IpAddr,
    vtep: IpAddr,
    port: u16,
    mtu: u64,
    mtu_there: Option<u64>,
    wire_mtu: Option<u64>,
    to: Passes,
    from: Passes,
    refused: Option<&'a str>,
    refused_there: Option<&'a str>,
    untried: Option<&'a str>,
}

impl<'a> Tried<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        Some(Self {
            host: value["name"].as_str()?,
            network: value["network"].as_str()?,
            local: value["local"].as_str()?.parse().ok()?,
            vtep: value["vtep"].as_str()?.parse().ok()?,
            port: u16::try_from(value["port"].as_u64()?).ok()?,
            mtu: value["mtu"].as_u64()?,
            mtu_there: value["mtu_there"].as_u64(),
            wire_mtu: value["wire_mtu"].as_u64(),
            to: Passes::of(&value["to"]),
            from: Passes::of(&value["from"]),
            refused: value["refused"].as_str(),
            refused_there: value["refused_there"].as_str(),
            untried: value["why"].as_str(),
        })
    }
}

/// Whether the tunnels to all hosts pass packets as large as their networks', each way.
pub(super) fn tunnels(evidence: &Evidence) -> Vec<Finding> {
    let tried = match &evidence.daemon.tunnels {
        None => return vec![Finding::none(CHECK, "no network has a tunnel")],
        Some(Err(why)) => {
            let found = format!("the daemon could not send probes: {why}");
            return vec![Finding::none(CHECK, found)];
        }
        Some(Ok(tried)) => tried.as_array().map(Vec::as_slice).unwrap_or_default(),
    };
    let tried: Vec<Tried<'_>> = tried.iter().filter_map(Tried::of).collect();
    let findings: Vec<Finding> = tried.iter().flat_map(|tried| judge(evidence, tried)).collect();
    if !findings.is_empty() {
        return findings;
    }
    let sizes = tried.iter().map(|tried| tried.mtu);
    vec![match sizes.clone().min().zip(sizes.max()) {
        None => Finding::none(CHECK, "no other host that is up has endpoints behind a tunnel"),
        Some((least, most)) => {
            // One that has several ways was tried by each.
            let hosts: BTreeSet<&str> = tried.iter().map(|tried| tried.host).collect();
            let hosts = match hosts.len() {
                1 => "1 other host".to_owned(),
                many => format!("{many} other hosts"),
            };
            let sizes = match least == most {
                true => format!("{most} bytes"),
                false => format!("{least} to {most} bytes"),
            };
            let found = format!("packets of {sizes} pass the tunnels to and from {hosts}");
            Finding::ok(CHECK, found)
        }
    }]
}

fn judge(evidence: &Evidence, tried: &Tried<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(dropped(evidence, tried));
    findings.extend(too_small(evidence, tried));
    let mtus = tried
        .mtu_there
        .filter(|there| findings.is_empty() && *there != tried.mtu);
    if let Some(there) = mtus {
        let found = format!(
            "network {}: its packets have up to {} bytes on this host, and up to {there} on host {}",
            tried.network, tried.mtu, tried.host
        );
        let remedy = "what is larger than the smaller one is lost on that host: make the network anew where it was made with \
                      another -o mtu=N";
        findings.push(Finding::fault(CHECK, found, remedy));
    }
    if let Some(untried) = tried.untried.filter(|_| findings.is_empty()) {
        let found = format!(
            "the tunnel to host {} (network {}) was not tried: {untried}",
            tried.host, tried.network
        );
        let remedy = "see `tombolo cluster status`; that host's daemon answers at the cluster's port by TCP, if its version \
                      is as new as this one's";
        findings.push(Finding::warning(CHECK, found, remedy));
    }
    findings
}

/// Of a tunnel that passes nothing at all, one way or both.
fn dropped(evidence: &Evidence, tried: &Tried<'_>) -> Option<Finding> {
    let (to, from) = (tried.to == Passes::Nothing, tried.from == Passes::Nothing);
    let (host, port) = (tried.host, tried.port);
    let way = match (to, from) {
        (true, true) => format!("to host {host} and from it"),
        (true, false) => format!("from this host to host {host}; the other way is free"),
        (false, true) => format!("from host {host} to this host; the other way is free"),
        (false, false) => return None,
    };
    let mut found = format!(
        "UDP {port} is dropped on the way {way}: no probe passes the tunnel between {} and {} (network {})",
        tried.local, tried.vtep, tried.network
    );
    let own = own_rules(evidence, tried, to, from, false);
    for (told, whose) in [
        (tried.refused.filter(|_| to), "this host"),
        (tried.refused_there.filter(|_| from), host),
    ] {
        found.extend(told.map(|why| format!("; {whose} can't send it: {why}")));
    }
    let doubts = match own.is_empty() {
        true => own_rules(evidence, tried, to, from, true),
        false => Vec::new(),
    };
    found.extend(own.iter().chain(&doubts).map(|rule| format!("; {rule}")));
    let remedy = match own.is_empty() {
        false => format!("let UDP port {port} (TOMBOLO_VXLAN_PORT) pass there before that rule"),
        true => format!(
            "let UDP port {port} (TOMBOLO_VXLAN_PORT, the same on all hosts) through both ways: no rule of this host is known to \
             drop it, so see `tombolo doctor` on host {host}, the firewall of whoever runs the hosts, and what is between"
        ),
    };
    Some(Finding::fault(CHECK, found, remedy))
}

/// Of a tunnel that passes small packets only.
fn too_small(evidence: &Evidence, tried: &Tried<'_>) -> Option<Finding> {
    let mtu = tried.mtu;
    // The other host sends no larger ones than the network has there.
    let mtu_from = tried.mtu_there.map_or(mtu, |there| there.min(mtu));
    let (to, from) = (tried.to.less(mtu), tried.from.less(mtu_from));
    let host = tried.host;
    let least = to.into_iter().chain(from).min()?;
    let passes = match (to, from) {
        (Some(to), Some(from)) if to == from => format!("to host {host} and from it up to {to} bytes"),
        (Some(to), Some(from)) => {
            format!("to host {host} up to {to} bytes, and from it up to {from}")
        }
        (Some(to), None) => format!("from this host to host {host} up to {to} bytes, the other way all"),
        (None, Some(from)) => {
            format!("from host {host} to this host up to {from} bytes, the other way all")
        }
        (None, None) => return None,
    };
    let there = tried
        .mtu_there
        .map_or_else(String::new, |there| format!(" and {there} there"));
    let wire = match (tried.wire_mtu, own_wire(evidence)) {
        (Some(theirs), Some(ours)) => {
            format!("; the wire of this host takes {ours} bytes, that of {host} {theirs}")
        }
        (Some(theirs), None) => format!("; the wire of {host} takes {theirs} bytes"),
        (None, _) => String::new(),
    };
    let mut found = format!(
        "network {}: packets pass the tunnel {passes}, and the network's MTU is {mtu} here{there}{wire}",
        tried.network
    );
    let own = own_rules(evidence, tried, to.is_some(), from.is_some(), true);
    found.extend(own.iter().map(|rule| format!("; {rule}")));
    let remedy = format!(
        "connections stand still as soon as much is sent. Let what is between pass larger UDP packets (the network's MTU and {} \
         bytes), or make the network anew with -o mtu={least}",
        overlay::overhead(tried.vtep)
    );
    Some(Finding::fault(CHECK, found, remedy))
}

/// The largest packet on this host's own wire, as it tells the others.
fn own_wire(evidence: &Evidence) -> Option<u64> {
    let Some(Ok(cluster)) = &evidence.daemon.cluster else {
        return None;
    };
    let mut hosts = cluster["hosts"].as_array()?.iter();
    hosts.find(|host| host["state"] == "here")?["mtu"].as_u64()
}

/// What rules of this host stop the packets of a tunnel, in words; `doubtful` ones as well, which may look at sizes.
fn own_rules(evidence: &Evidence, tried: &Tried<'_>, to: bool, from: bool, doubtful: bool) -> Vec<String> {
    let wire = wire(evidence, tried.vtep);
    let packet = |from: IpAddr, to: IpAddr| Packet {
        from: Some(from),
        to: Some(to),
        layer4: Some(Layer4::Udp),
        to_port: Some(tried.port),
        ..Packet::new(to.is_ipv6())
    };
    let mut seen = Vec::new();
    let rules = &evidence.rules.ruleset;
    if to {
        let mut out = Packet {
            oif: Some(wire.clone()),
            ..packet(tried.local, tried.vtep)
        };
        seen.extend(rules.pass(Hook::Output, &mut out));
        seen.extend(rules.pass(Hook::Postrouting, &mut out));
    }
    if from {
        let mut into = Packet {
            iif: Some(wire.clone()),
            to_type: Some("local"),
            ..packet(tried.vtep, tried.local)
        };
        seen.extend(rules.pass_link(Hook::Ingress, &wire.name, &mut into));
        seen.extend(rules.pass(Hook::Prerouting, &mut into));
        seen.extend(rules.pass(Hook::Input, &mut into));
    }
    let told = |seen: &Seen| match seen.stops() {
        true => vec![format!(
            "chain {} of this host drops it {}",
            seen.chain,
            why(seen)
        )],
        false => {
            let doubts = seen.doubts.iter().filter(|doubt| doubt.could == Could::Stop);
            let doubts = doubts.map(|doubt| format!("`{}` of this host may be what drops it", doubt.text));
            doubts.filter(|_| doubtful).collect()
        }
    };
    seen.iter().flat_map(told).collect()
}

/// The link by which a host is reached; nameless if none is known.
fn wire(evidence: &Evidence, vtep: IpAddr) -> Nic {
    let routes = evidence.host.routes.iter();
    let leads = routes.filter(|route| {
        let within = route
            .to
            .map_or(route.v6 == vtep.is_ipv6(), |to| to.contains(&vtep));
        within && route.table == 254 && route.oif.is_some()
    });
    let best = leads.max_by_key(|route| route.to.map_or(0, |to| to.prefix_len()));
    let link = best.and_then(|route| evidence.link(route.oif?));
    link.map_or_else(Nic::default, |link| Nic {
        name: link.name.clone(),
        group: link.group,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Verdict, chains};
    use super::*;

    fn tried(changes: Value) -> Evidence {
        let mut one = json!({
            "name": "b", "network": "app", "local": "192.0.2.1", "vtep": "192.0.2.2", "port": 4789, "mtu": 1450,
            "mtu_there": 1450, "wire_mtu": 1500, "to": "all", "from": "all", "refused": null, "refused_there": null, "why": null,
        });
        for (key, value) in changes.as_object().unwrap() {
            one[key] = value.clone();
        }
        let mut evidence = Evidence::default();
        evidence.daemon.tunnels = Some(Ok(json!([one])));
        evidence
    }

    #[track_caller]
    fn says(evidence: &Evidence, verdict: Verdict, words: &str) {
        let findings = tunnels(evidence);
        assert_eq!(
            (findings.len(), findings[0].verdict),
            (1, verdict),
            "{findings:?}"
        );
        assert!(findings[0].evidence.contains(words), "{}", findings[0].evidence);
    }

    #[test]
    fn what_passes_is_told_with_each_way_and_both_sizes() {
        says(
            &Evidence::default(),
            Verdict::NotApplicable,
            "no network has a tunnel",
        );
        says(&tried(json!({})), Verdict::Ok, "packets of 1450 bytes pass");
        let both = json!({"to": "nothing", "from": "nothing"});
        says(
            &tried(both),
            Verdict::Fault,
            "UDP 4789 is dropped on the way to host b and from it",
        );
        let to = json!({"to": "nothing", "refused": "Operation not permitted"});
        says(
            &tried(to),
            Verdict::Fault,
            "this host can't send it: Operation not permitted",
        );
        let small = json!({"to": {"up_to": 1250}});
        let words = "from this host to host b up to 1250 bytes, the other way all, and the network's MTU is 1450 here and 1450 there; \
                     the wire of b takes 1500 bytes";
        says(&tried(small), Verdict::Fault, words);
        let other = json!({"mtu_there": 1400, "from": {"up_to": 1400}});
        says(
            &tried(other),
            Verdict::Fault,
            "up to 1450 bytes on this host, and up to 1400 on host b",
        );
        let why = json!({"to": null, "from": null, "why": "it has no such network"});
        says(
            &tried(why),
            Verdict::Warning,
            "was not tried: it has no such network",
        );
    }

    #[test]
    fn the_rule_of_this_host_is_named() {
        let drop = json!([
            {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4789}}, {"drop": null}
        ]);
        let host = chains::host(&[("inet", "mine", "input", 0, "accept", drop)]);
        let mut evidence = tried(json!({"from": "nothing"}));
        evidence.rules = host.rules;
        says(
            &evidence,
            Verdict::Fault,
            "chain inet mine input of this host drops it",
        );
        assert!(
            tunnels(&evidence)[0]
                .remedy
                .as_ref()
                .unwrap()
                .contains("before that rule")
        );
    }
}
