//! The firewall: our table, and what everybody else's chains do with what it lets pass.

use std::collections::BTreeSet;

use tombolo_core::world::{LINK_GROUP, MARK_ACCEPT};

use super::evidence::Evidence;
use super::{Finding, REPAIR};
use crate::firewall::{Base, Chain, ChainId, Hook, Nic, Packet, Ruleset, Seen, State};

/// Our own table.
const OURS: (&str, &str) = ("inet", "tombolo");

/// A packet of which only the links are known, so that a chain's bottom line shows and not its exceptions.
pub(super) struct Probe {
    pub v6: bool,
    pub iif: Nic,
    pub oif: Nic,
    /// It came through a published port.
    pub dnat: bool,
    pub mark: u32,
}

impl Probe {
    fn packet(&self) -> Packet {
        Packet {
            iif: Some(self.iif.clone()),
            oif: Some(self.oif.clone()),
            mark: self.mark,
            dnat: self.dnat,
            state: State::New,
            ..Packet::new(self.v6)
        }
    }
}

/// What drops a probe on its way through all forward chains, if any does.
pub(super) fn default_fate(ruleset: &Ruleset, probe: &Probe) -> Option<(ChainId, String)> {
    let seen = ruleset.pass(Hook::Forward, &mut probe.packet());
    seen.into_iter()
        .find(Seen::stops)
        .map(|seen| (seen.chain.clone(), why(&seen)))
}

fn why(seen: &Seen) -> String {
    match &seen.by {
        Some(by) => format!("by `{}`", by.text),
        None => "by its policy".to_owned(),
    }
}

fn is_ours(id: &ChainId) -> bool {
    (id.family.as_str(), id.table.as_str()) == OURS
}

/// Chain FORWARD of iptables, in which the daemon keeps its accept.
fn is_iptables(id: &ChainId) -> bool {
    id.table == "filter" && id.chain == "FORWARD" && (id.family == "ip" || id.family == "ip6")
}

/// What can't be told without rules, or without networks.
fn unknown(evidence: &Evidence, check: &'static str) -> Option<Vec<Finding>> {
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

/// The families that our networks have.
fn families(evidence: &Evidence) -> BTreeSet<bool> {
    evidence
        .subnets()
        .iter()
        .map(|(subnet, ..)| subnet.addr().is_ipv6())
        .collect()
}

/// Packets as they come from our table's forward chain: out of a bridge, and in through a published port.
fn probes(evidence: &Evidence, v6: bool, mark: u32) -> Vec<Probe> {
    let Some(bridge) = evidence.our_bridges().first().map(|link| link.name.clone()) else {
        return Vec::new();
    };
    let ours = Nic {
        name: bridge,
        group: LINK_GROUP,
    };
    let out = evidence.way_out(v6).or(evidence.way_out(!v6));
    let other = out.map_or_else(Nic::default, |link| Nic {
        name: link.name.clone(),
        group: link.group,
    });
    let probe = |iif: &Nic, oif: &Nic, dnat| Probe {
        v6,
        iif: iif.clone(),
        oif: oif.clone(),
        dnat,
        mark,
    };
    vec![probe(&ours, &other, false), probe(&other, &ours, true)]
}

/// What a chain does with those of a family that it drops by default, if it does.
fn drops(evidence: &Evidence, id: &ChainId, chain: &Chain, v6: bool, mark: u32) -> Option<String> {
    let dropped = probes(evidence, v6, mark).into_iter().find_map(|probe| {
        let seen = evidence.rules.ruleset.ask(id, chain, &mut probe.packet());
        seen.stops().then(|| why(&seen))
    });
    dropped
}

/// The forward chains of everybody that packets of a family pass.
fn forward_chains(evidence: &Evidence, v6: bool) -> Vec<(&ChainId, &Chain, Base)> {
    let families = if v6 { ["inet", "ip6"] } else { ["inet", "ip"] };
    evidence.rules.ruleset.base_chains(Hook::Forward, &families)
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
                    let remedy = "the daemon puts its rule there within a second, if it runs";
                    Finding::fault(CHECK, found, remedy).by(accept_line(evidence, id, chain))
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

/// The line that puts the accept behind the jump to DOCKER-USER.
fn accept_line(evidence: &Evidence, id: &ChainId, chain: &Chain) -> String {
    let tool = match (id.family.as_str(), id.legacy, evidence.rules.iptables_is_legacy) {
        ("ip6", true, false) => "ip6tables-legacy",
        ("ip6", false, true) => "ip6tables-nft",
        ("ip6", ..) => "ip6tables",
        (_, true, false) => "iptables-legacy",
        (_, false, true) => "iptables-nft",
        _ => "iptables",
    };
    let user = chain
        .rules
        .iter()
        .position(|rule| rule.text.contains("DOCKER-USER"));
    let place = user.map_or(1, |user| user + 2);
    format!(
        "{tool} -I FORWARD {place} -m mark --mark {MARK_ACCEPT:#x}/{MARK_ACCEPT:#x} -m comment --comment tombolo -j ACCEPT"
    )
}

pub(super) fn foreign_chains(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "firewall.foreign-chains";
    if let Some(findings) = unknown(evidence, CHECK) {
        return findings;
    }
    if evidence.our_bridges().is_empty() {
        return vec![Finding::none(CHECK, "there is no network")];
    }
    let ours = evidence.rules.ruleset.base_chains(Hook::Forward, &[OURS.0]);
    let marked_from = ours
        .iter()
        .find(|(id, ..)| is_ours(id))
        .map(|(_, _, base)| base.priority);
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for v6 in families(evidence) {
        let foreign = forward_chains(evidence, v6);
        for (id, chain, base) in foreign
            .into_iter()
            .filter(|(id, ..)| !is_ours(id) && !is_iptables(id))
        {
            if !seen.insert(id) {
                continue;
            }
            // A chain that is asked before ours sees no mark yet.
            let marked = marked_from.is_none_or(|ours| base.priority >= ours);
            let mark = if marked { MARK_ACCEPT } else { 0 };
            let Some(how) = drops(evidence, id, chain, v6, mark) else {
                findings.push(Finding::ok(
                    CHECK,
                    format!("chain {id} lets pass what tombolo lets pass"),
                ));
                continue;
            };
            let found = format!(
                "chain {id} (hook forward, priority {}) drops what tombolo lets pass, {how}",
                base.priority
            );
            let insert = format!("nft insert rule {} {} {}", id.family, id.table, id.chain);
            let remedy = "an accept of tombolo's can't overrule a drop there; this line lets pass what tombolo lets pass. It \
                          lasts until that ruleset is loaded anew: put it into its file too";
            findings.push(match marked {
                true => Finding::fault(CHECK, found, remedy)
                    .by(format!("{insert} meta mark and {MARK_ACCEPT:#010x} != 0 accept")),
                false => {
                    let remedy = format!(
                        "{remedy}. That chain is asked before tombolo's, so it knows them by their links"
                    );
                    let command = format!(
                        "{insert} iifgroup {LINK_GROUP} accept && {insert} oifgroup {LINK_GROUP} accept"
                    );
                    Finding::fault(CHECK, found, remedy).by(command)
                }
            });
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "nobody else has a chain in the forward hook"));
    }
    findings
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

pub(super) fn firewalld(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "firewall.firewalld";
    if !evidence.firewalld && !evidence.rules.ruleset.has_table("inet", "firewalld") {
        return vec![Finding::ok(CHECK, "not running")];
    }
    let bridges: Vec<String> = evidence
        .our_bridges()
        .iter()
        .map(|link| format!("--add-interface={}", link.name))
        .collect();
    if bridges.is_empty() {
        return vec![Finding::ok(CHECK, "running; there is no network yet")];
    }
    let remedy = "it refuses what is forwarded between links of no zone, and forgets lines that were inserted into its table \
                  when it is loaded anew: put the bridges into a zone that trusts them";
    let command = format!(
        "firewall-cmd --permanent --zone=trusted {} && firewall-cmd --reload",
        bridges.join(" ")
    );
    vec![Finding::warning(CHECK, "running", remedy).by(command)]
}

/// A ruleset of one forward chain that drops all.
#[cfg(test)]
pub(super) fn dropping(family: &str, table: &str, chain: &str, priority: i64) -> Ruleset {
    ruleset(&[(family, table, chain, priority, "drop", serde_json::json!([]))])
}

/// A ruleset of forward chains with one rule each.
#[cfg(test)]
fn ruleset(chains: &[(&str, &str, &str, i64, &str, serde_json::Value)]) -> Ruleset {
    use serde_json::json;

    let mut objects = Vec::new();
    for (family, table, name, prio, policy, expressions) in chains {
        objects.push(
            json!({ "chain": { "family": family, "table": table, "name": name, "type": "filter",
            "hook": "forward", "prio": prio, "policy": policy } }),
        );
        objects.push(json!({ "rule": { "family": family, "table": table, "chain": name, "handle": 1, "expr": expressions } }));
    }
    let listings = crate::kernel::look::rules::Listings {
        json: json!({ "nftables": objects }).to_string(),
        ..Default::default()
    };
    crate::firewall::read(&listings).unwrap()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Verdict;
    use super::*;
    use crate::kernel::look::Link;

    /// A host with one network and these forward chains.
    fn host(chains: &[(&str, &str, &str, i64, &str, Value)]) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.rules.has_nft = true;
        evidence.rules.ruleset = ruleset(chains);
        evidence.daemon.networks =
            vec![json!({ "name": "n", "bridge": "tb-1", "ipv4": { "pool": "10.1.0.0/24" } })];
        evidence.host.links = vec![Link {
            index: 3,
            name: "tb-1".to_owned(),
            group: LINK_GROUP,
            kind: Some("bridge".to_owned()),
            ..Link::default()
        }];
        evidence
    }

    fn marked(op: &str) -> Value {
        let mark = json!({ "&": [{ "meta": { "key": "mark" } }, MARK_ACCEPT] });
        json!([{ "match": { "op": op, "left": mark, "right": 0 } }, { "accept": null }])
    }

    fn bridged(key: &str) -> Value {
        json!([{ "match": { "op": "==", "left": { "meta": { "key": key } }, "right": LINK_GROUP } }, { "accept": null }])
    }

    #[test]
    fn a_chain_that_drops_gets_the_line_to_add() {
        let evidence = host(&[("ip", "adm", "fwd", 0, "drop", bridged("iifgroup"))]);
        let finding = &foreign_chains(&evidence)[0];
        assert_eq!(
            finding.verdict,
            Verdict::Fault,
            "what comes in through a published port is dropped"
        );
        assert_eq!(
            finding.command.as_deref(),
            Some("nft insert rule ip adm fwd meta mark and 0x08000000 != 0 accept")
        );
        let bare = host(&[("inet", "adm", "fwd", 0, "accept", json!([{ "drop": null }]))]);
        assert!(foreign_chains(&bare)[0].evidence.contains("by `"));
        let mended = host(&[("ip", "adm", "fwd", 0, "drop", marked("!="))]);
        assert_eq!(foreign_chains(&mended)[0].verdict, Verdict::Ok);
        let harmless = host(&[("ip", "adm", "fwd", 0, "accept", json!([]))]);
        assert_eq!(foreign_chains(&harmless)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn a_chain_that_is_asked_before_ours_is_told_of_links() {
        let evidence = host(&[
            ("inet", "tombolo", "forward", -10, "accept", json!([])),
            ("inet", "adm", "fwd", -20, "drop", marked("!=")),
        ]);
        let finding = &foreign_chains(&evidence)[0];
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(
            finding
                .command
                .as_ref()
                .unwrap()
                .contains("iifgroup 29807 accept"),
            "{finding:?}"
        );
    }

    #[test]
    fn an_exception_of_the_administrators_is_no_fault() {
        let port = json!({ "payload": { "protocol": "tcp", "field": "dport" } });
        let rule = json!([{ "match": { "op": "==", "left": port, "right": 25 } }, { "drop": null }]);
        assert_eq!(
            foreign_chains(&host(&[("ip", "adm", "fwd", 0, "accept", rule)]))[0].verdict,
            Verdict::Ok
        );
    }

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
