//! The firewall: our table, and what everybody else's chains do with what it lets pass.

use std::collections::BTreeSet;

use tombolo_core::world::{LINK_GROUP, MARK_ACCEPT};

use super::chains::{FIREWALLD, OURS, drops, families, forward_chains, is_iptables, is_ours};
use super::evidence::Evidence;
use super::{Finding, REPAIR};
use crate::firewall::{Base, Chain, ChainId, Rule};
use crate::kernel::look::Link;

/// What can't be told without rules, or without networks.
pub(super) fn unknown(evidence: &Evidence, check: &'static str) -> Option<Vec<Finding>> {
    if let Some(error) = &evidence.rules.error {
        return Some(vec![Finding::none(
            check,
            format!("the rules can't be read: {error}"),
        )]);
    }
    if !evidence.rules.has_nft {
        return Some(vec![Finding::none(check, "there is no program nft on this host")]);
    }
    None
}

pub(super) fn table(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "firewall.table";
    if !evidence.rules.has_nft {
        let remedy = "no network can be made without it; install the package nftables";
        return vec![
            Finding::fault(CHECK, "there is no program nft on this host", remedy)
                .by("apt-get install -y nftables"),
        ];
    }
    if let Some(error) = &evidence.rules.error {
        let remedy = "the daemon can't read them either; see whether `nft list ruleset` works";
        return vec![Finding::fault(CHECK, error.clone(), remedy)];
    }
    let there = evidence.rules.ruleset.has_table(OURS.0, OURS.1);
    vec![match (there, evidence.our_bridges().len()) {
        (true, _) => Finding::ok(CHECK, "table inet tombolo is there"),
        (false, 0) => Finding::none(CHECK, "there is no network, so no table inet tombolo"),
        (false, bridges) => {
            let found = format!("table inet tombolo is not there, but {bridges} bridges are");
            let remedy = "containers are neither masqueraded nor isolated nor published; the daemon makes it anew at once";
            Finding::fault(CHECK, found, remedy).by(REPAIR)
        }
    }]
}

pub(super) fn forward_accept(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "firewall.forward-accept";
    if let Some(findings) = unknown(evidence, CHECK) {
        return findings;
    }
    let mut findings = Vec::new();
    for v6 in families(evidence) {
        for (id, chain, _) in forward_chains(evidence, v6)
            .into_iter()
            .filter(|(id, ..)| is_iptables(id))
        {
            findings.push(match drops(evidence, id, chain, v6, MARK_ACCEPT) {
                None => Finding::ok(
                    CHECK,
                    format!("{id} lets pass what bears the mark {MARK_ACCEPT:#010x}"),
                ),
                Some(how) => {
                    let found = format!("{id} drops what tombolo lets pass, {how}");
                    let place = place(evidence, id, chain, v6);
                    let before = Chain {
                        base: chain.base.map(|base| Base { drops: false, ..base }),
                        rules: chain.rules[..place].to_vec(),
                        links: Vec::new(),
                    };
                    match drops(evidence, id, &before, v6, MARK_ACCEPT) {
                        // No line of ours helps behind it.
                        Some(how) => {
                            let remedy = format!(
                                "that is done {how}, which is asked before tombolo's accept and leaves it nothing: remove \
                                 that rule, or narrow it to what you mean to drop"
                            );
                            Finding::fault(CHECK, found, remedy)
                        }
                        None => {
                            let remedy = "the daemon puts its rule there within a second (iptables-legacy: ten), if it runs";
                            Finding::fault(CHECK, found, remedy).by(accept_line(evidence, id, place))
                        }
                    }
                }
            });
        }
    }
    if findings.is_empty() {
        findings.push(match families(evidence).is_empty() {
            true => Finding::none(CHECK, "there is no network"),
            false => Finding::ok(
                CHECK,
                "there is no chain FORWARD of iptables that could drop anything",
            ),
        });
    }
    findings
}

/// Where our accept is in a chain, from 0; if it is not there, where it belongs: behind the jump to DOCKER-USER.
fn place(evidence: &Evidence, id: &ChainId, chain: &Chain, v6: bool) -> usize {
    let drops_all_but = |rule: &Rule| Chain {
        base: chain.base.map(|base| Base { drops: true, ..base }),
        rules: vec![rule.clone()],
        links: Vec::new(),
    };
    // What a rule says tells, not what it is called.
    let is_accept = |rule: &Rule| {
        let alone = drops_all_but(rule);
        let passes = |mark| drops(evidence, id, &alone, v6, mark).is_none();
        passes(MARK_ACCEPT) && !passes(0)
    };
    let user = |rule: &Rule| rule.text.contains("DOCKER-USER");
    let ours = chain.rules.iter().position(is_accept);
    ours.unwrap_or_else(|| chain.rules.iter().position(user).map_or(0, |user| user + 1))
}

/// The line that puts the accept at a place, from 0.
fn accept_line(evidence: &Evidence, id: &ChainId, place: usize) -> String {
    let tool = match (id.family.as_str(), id.legacy, evidence.rules.iptables_is_legacy) {
        ("ip6", true, false) => "ip6tables-legacy",
        ("ip6", false, true) => "ip6tables-nft",
        ("ip6", ..) => "ip6tables",
        (_, true, false) => "iptables-legacy",
        (_, false, true) => "iptables-nft",
        _ => "iptables",
    };
    let place = place + 1;
    format!(
        "{tool} -I FORWARD {place} -m mark --mark {MARK_ACCEPT:#x}/{MARK_ACCEPT:#x} -m comment --comment tombolo -j ACCEPT"
    )
}

pub(super) fn legacy(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "firewall.legacy";
    let of = |legacy: bool| {
        let chains = evidence.rules.ruleset.chains.iter();
        let used =
            chains.filter(|(id, chain)| id.legacy == legacy && !is_ours(id) && !chain.rules.is_empty());
        used.map(|(id, _)| format!("{} {}", id.family, id.table))
            .collect::<BTreeSet<_>>()
    };
    let (old, new) = (of(true), of(false));
    let list = |tables: &BTreeSet<String>| tables.iter().cloned().collect::<Vec<_>>().join(", ");
    vec![match (old.is_empty(), new.is_empty()) {
        (true, _) => Finding::ok(CHECK, "no rules in the kernel's older iptables"),
        (false, true) => Finding::ok(
            CHECK,
            format!("all rules are in the kernel's older iptables ({})", list(&old)),
        ),
        (false, false) => {
            let found = format!(
                "rules in the older iptables ({}) beside rules in nftables ({})",
                list(&old),
                list(&new)
            );
            let remedy = "a packet must pass both, and `iptables` shows only one of them; look at them with \
                          iptables-legacy-save, move them with `iptables-legacy-save | iptables-nft-restore -n`, then empty the \
                          old tables";
            Finding::warning(CHECK, found, remedy)
        }
    }]
}

/// Where firewalld tells which link is in which zone, with nftables and with iptables.
const ZONES: [&str; 2] = ["filter_FORWARD_ZONES", "FORWARD_ZONES"];

pub(super) fn firewalld(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "firewall.firewalld";
    if !evidence.firewalld && !evidence.rules.ruleset.has_table("inet", FIREWALLD) {
        return vec![Finding::ok(CHECK, "not running")];
    }
    // The zone of somebody else's bridge is theirs to choose.
    let bridges = evidence.our_bridges().into_iter();
    let made: Vec<&Link> = bridges.filter(|link| link.group == LINK_GROUP).collect();
    if made.is_empty() {
        return vec![Finding::ok(
            CHECK,
            "running; there is no network of tombolo's own bridge",
        )];
    }
    // Which zone is the administrator's choice as well, once there is one.
    let chains = &evidence.rules.ruleset.chains;
    let zones = chains.iter().filter(|(id, _)| ZONES.contains(&id.chain.as_str()));
    let rules: Vec<&Rule> = zones.flat_map(|(_, chain)| &chain.rules).collect();
    let without = made
        .iter()
        .filter(|link| !rules.iter().any(|rule| rule.names(&link.name)));
    let without: Vec<&str> = without.map(|link| link.name.as_str()).collect();
    if without.is_empty() {
        return vec![Finding::ok(CHECK, "running; the bridges have zones")];
    }
    let found = format!("running; in no zone: {}", without.join(", "));
    let remedy = "it refuses what containers begin whose bridge is in no zone, and forgets lines that were inserted into its table \
                  when it is loaded anew: put the bridges into a zone that trusts them";
    let add: Vec<String> = without
        .iter()
        .map(|name| format!("--add-interface={name}"))
        .collect();
    let command = format!(
        "firewall-cmd --permanent --zone=trusted {} && firewall-cmd --reload",
        add.join(" ")
    );
    vec![Finding::warning(CHECK, found, remedy).by(command)]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Verdict;
    use super::super::chains::{foreign_chains, host, marked};
    use super::*;

    #[test]
    fn forward_of_iptables_needs_our_accept() {
        let evidence = host(&[("ip", "filter", "FORWARD", 0, "drop", json!([]))]);
        let finding = &forward_accept(&evidence)[0];
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(
            finding
                .command
                .as_ref()
                .unwrap()
                .starts_with("iptables -I FORWARD 1 -m mark --mark 0x8000000/0x8000000")
        );
        assert_eq!(
            foreign_chains(&evidence)[0].evidence,
            "nobody else has a chain in the forward hook"
        );
        let mended = host(&[("ip", "filter", "FORWARD", 0, "drop", marked("!="))]);
        assert_eq!(forward_accept(&mended)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn a_drop_before_our_accept_is_named_and_no_second_accept_is_printed() {
        let legacy = |lines: &str| {
            let mut evidence = host(&[]);
            let text = format!("*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n{lines}COMMIT\n");
            let listings = crate::kernel::look::rules::Listings {
                json: json!({ "nftables": [] }).to_string(),
                legacy: [text, String::new()],
                ..Default::default()
            };
            evidence.rules.ruleset = crate::firewall::read(&listings).unwrap();
            forward_accept(&evidence).remove(0)
        };
        let (jump, drop) = ("-A FORWARD -j DOCKER-USER\n", "-A FORWARD -j DROP\n");
        let ours = "-A FORWARD -m mark --mark 0x8000000/0x8000000 -m comment --comment tombolo -j ACCEPT\n";
        let user = "-A DOCKER-USER -j DROP\n";
        for (lines, dropped_by) in [
            (format!("{jump}{ours}{user}"), Some("-A DOCKER-USER -j DROP")),
            (format!("{jump}{user}"), Some("-A DOCKER-USER -j DROP")),
            (format!("{drop}{jump}{ours}"), Some("-A FORWARD -j DROP")),
            (format!("{drop}{jump}"), Some("-A FORWARD -j DROP")),
            (format!("{jump}{drop}"), None),
            (jump.to_owned(), None),
        ] {
            let finding = legacy(&lines);
            assert_eq!(finding.verdict, Verdict::Fault, "{lines}");
            match dropped_by {
                Some(rule) => {
                    assert_eq!(finding.command, None, "{lines}");
                    assert!(finding.remedy.unwrap().contains(rule), "{lines}");
                }
                None => assert!(finding.command.unwrap().contains("-I FORWARD 2 "), "{lines}"),
            }
        }
        assert_eq!(legacy(&format!("{jump}{ours}{drop}")).verdict, Verdict::Ok);
    }

    #[test]
    fn firewalld_is_told_of_bridges_that_have_no_zone() {
        let zone = |link: &str| {
            let of =
                json!({ "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": link } });
            let rule = json!([of, { "goto": { "target": "filter_FWD_trusted" } }]);
            host(&[("inet", "firewalld", "filter_FORWARD_ZONES", 10, "accept", rule)])
        };
        let other = &firewalld(&zone("tb-11"))[0];
        assert_eq!(other.verdict, Verdict::Warning);
        assert_eq!(other.evidence, "running; in no zone: tb-1");
        assert_eq!(
            other.command.as_deref(),
            Some("firewall-cmd --permanent --zone=trusted --add-interface=tb-1 && firewall-cmd --reload")
        );
        assert_eq!(firewalld(&zone("tb-1"))[0].verdict, Verdict::Ok);
        assert_eq!(firewalld(&host(&[]))[0].evidence, "not running");
    }

    #[test]
    fn without_nft_the_table_is_a_fault_and_the_rest_unknown() {
        let mut evidence = host(&[]);
        evidence.rules.has_nft = false;
        assert_eq!(table(&evidence)[0].verdict, Verdict::Fault);
        for check in [forward_accept, foreign_chains] {
            assert_eq!(check(&evidence)[0].verdict, Verdict::NotApplicable);
        }
    }

    #[test]
    fn a_missing_table_is_a_fault_only_where_there_are_bridges() {
        let mut evidence = host(&[]);
        assert_eq!(table(&evidence)[0].verdict, Verdict::Fault);
        evidence.host.links.clear();
        assert_eq!(table(&evidence)[0].verdict, Verdict::NotApplicable);
    }

    #[test]
    fn older_rules_beside_newer_ones_are_told() {
        let old = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n".to_owned();
        let both = |json: Value| {
            let listings = crate::kernel::look::rules::Listings {
                json: json!({ "nftables": json }).to_string(),
                legacy: [old.clone(), String::new()],
                ..Default::default()
            };
            let mut evidence = host(&[]);
            evidence.rules.ruleset = crate::firewall::read(&listings).unwrap();
            legacy(&evidence)[0].verdict
        };
        assert_eq!(both(json!([])), Verdict::Ok);
        let rule = json!({ "rule": { "family": "ip", "table": "filter", "chain": "INPUT", "handle": 1, "expr": [] } });
        assert_eq!(both(json!([rule])), Verdict::Warning);
    }

    #[test]
    fn firewalld_is_told_of_the_bridges() {
        let mut evidence = host(&[]);
        assert_eq!(firewalld(&evidence)[0].verdict, Verdict::Ok);
        evidence.firewalld = true;
        assert!(
            firewalld(&evidence)[0]
                .command
                .as_ref()
                .unwrap()
                .contains("--add-interface=tb-1")
        );
    }
}
