//! Forward chains of everybody, and what else drops by default: what they do with what our table lets pass.
//!
//! A chain is not searched for words but asked, by a packet of which only the links and the mark are known. So its bottom
//! line shows, and its exceptions don't.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tombolo_core::world::{ADOPTED_GROUP, LINK_GROUP, MARK_ACCEPT};

use super::Finding;
use super::evidence::Evidence;
use super::firewall::unknown;
use crate::firewall::{Base, Chain, ChainId, Hook, Nic, Packet, Ruleset, Seen, State};
use crate::kernel::look::Link;

/// Our own table.
pub(super) const OURS: (&str, &str) = ("inet", "tombolo");

/// A packet of which little more than the links is known, so that a chain's bottom line shows and not its exceptions.
#[derive(Default)]
pub(super) struct Probe {
    pub v6: bool,
    /// An address that sends and is sent to, where the links don't tell whose the packet is.
    pub member: Option<IpAddr>,
    pub iif: Nic,
    pub oif: Nic,
    /// It came through a published port.
    pub dnat: bool,
    pub mark: u32,
}

impl Probe {
    fn packet(&self) -> Packet {
        Packet {
            from: self.member,
            to: self.member,
            iif: Some(self.iif.clone()),
            oif: Some(self.oif.clone()),
            mark: self.mark,
            dnat: self.dnat,
            state: State::New,
            ..Packet::new(self.v6)
        }
    }
}

/// What of somebody else's drops a probe on its way through all forward chains, if anything does. What our own table
/// drops is meant to be dropped, whatever others say.
pub(super) fn default_fate(ruleset: &Ruleset, probe: &Probe) -> Option<(ChainId, String)> {
    let families = if probe.v6 { ["inet", "ip6"] } else { ["inet", "ip"] };
    let mut packet = probe.packet();
    let mut first = None;
    for (id, chain, _) in ruleset.base_chains(Hook::Forward, &families) {
        let seen = ruleset.ask(id, chain, &mut packet);
        match seen.stops() {
            true if is_ours(id) => return None,
            true => drop(first.get_or_insert_with(|| (id.clone(), why(&seen)))),
            false => {}
        }
    }
    first
}

pub(super) fn why(seen: &Seen) -> String {
    match &seen.by {
        Some(by) if by.chain == seen.chain => format!("by `{}`", by.text),
        Some(by) => format!("by `{}` in chain {}", by.text, by.chain),
        None => "by its policy".to_owned(),
    }
}

/// Whether a chain is of our own table.
pub(super) fn is_ours(id: &ChainId) -> bool {
    (id.family.as_str(), id.table.as_str()) == OURS
}

/// Chain FORWARD of iptables, in which the daemon keeps its accept.
pub(super) fn is_iptables(id: &ChainId) -> bool {
    id.table == "filter" && id.chain == "FORWARD" && (id.family == "ip" || id.family == "ip6")
}

/// The families that our networks have.
pub(super) fn families(evidence: &Evidence) -> BTreeSet<bool> {
    evidence
        .subnets()
        .iter()
        .map(|(subnet, ..)| subnet.addr().is_ipv6())
        .collect()
}

/// Packets as they come from our table's forward chain: out of each bridge, and in through a published port.
fn probes(evidence: &Evidence, v6: bool, mark: u32) -> Vec<Probe> {
    let out = evidence.way_out(v6).or(evidence.way_out(!v6));
    let other = out.map_or_else(Nic::default, |link| Nic {
        name: link.name.clone(),
        group: link.group,
    });
    let probe = |iif: &Nic, oif: &Nic, dnat| Probe {
        v6,
        member: None,
        iif: iif.clone(),
        oif: oif.clone(),
        dnat,
        mark,
    };
    let of_bridge = |bridge: &Link| {
        let ours = Nic {
            name: bridge.name.clone(),
            group: bridge.group,
        };
        [probe(&ours, &other, false), probe(&other, &ours, true)]
    };
    evidence.our_bridges().into_iter().flat_map(of_bridge).collect()
}

/// What a chain does with those of a family that it drops by default, if it does.
pub(super) fn drops(evidence: &Evidence, id: &ChainId, chain: &Chain, v6: bool, mark: u32) -> Option<String> {
    probes(evidence, v6, mark).into_iter().find_map(|probe| {
        let seen = evidence.rules.ruleset.ask(id, chain, &mut probe.packet());
        seen.stops().then(|| why(&seen))
    })
}

/// The forward chains of everybody that packets of a family pass.
pub(super) fn forward_chains(evidence: &Evidence, v6: bool) -> Vec<(&ChainId, &Chain, Base)> {
    let families = if v6 { ["inet", "ip6"] } else { ["inet", "ip"] };
    evidence.rules.ruleset.base_chains(Hook::Forward, &families)
}

/// firewalld's table.
pub(super) const FIREWALLD: &str = "firewalld";

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
            if id.table == FIREWALLD {
                let remedy = "firewalld makes these rules itself: do as is said at firewall.firewalld";
                findings.push(Finding::fault(CHECK, found, remedy));
                continue;
            }
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
                    Finding::fault(CHECK, found, remedy).by(by_links(&insert))
                }
            });
        }
        findings.extend(postrouting(evidence, CHECK, v6));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "nobody else has a chain in the forward hook"));
    }
    findings
}

/// Lines that let pass what comes or goes by our bridges, by those of others that our networks use, and by their ports.
fn by_links(insert: &str) -> String {
    let groups = format!("{{ {LINK_GROUP}, {ADOPTED_GROUP} }}");
    format!("{insert} iifgroup {groups} accept && {insert} oifgroup {groups} accept")
}

/// Chains that drop what leaves this host, though it was let pass. The mark is of no use there: our last chain clears it.
fn postrouting(evidence: &Evidence, check: &'static str, v6: bool) -> Vec<Finding> {
    let families = if v6 { ["inet", "ip6"] } else { ["inet", "ip"] };
    let chains = evidence.rules.ruleset.base_chains(Hook::Postrouting, &families);
    let foreign = chains
        .into_iter()
        .filter(|(id, _, base)| !is_ours(id) && !base.nat);
    let finding = |(id, chain, base): (&ChainId, &Chain, Base)| {
        let how = drops(evidence, id, chain, v6, 0)?;
        let found = format!(
            "chain {id} (hook postrouting, priority {}) drops what tombolo lets pass, {how}",
            base.priority
        );
        let remedy = "no packet of a container leaves; this line lets pass what comes or goes by tombolo's links. It lasts until \
                      that ruleset is loaded anew: put it into its file too";
        let fault = Finding::fault(check, found, remedy);
        Some(match nft_chain(id) {
            Some(chain) => fault.by(by_links(&format!("nft insert rule {chain}"))),
            None => fault,
        })
    };
    foreign.filter_map(finding).collect()
}

/// A chain as nft is told of it, if it is nft's.
fn nft_chain(id: &ChainId) -> Option<String> {
    (!id.legacy).then(|| format!("{} {} {}", id.family, id.table, id.chain))
}

/// Chains for frames: they come before all rules for packets, and see what containers of one network send each other.
pub(super) fn bridge_chains(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "firewall.bridge-chains";
    const HOOKS: [(Hook, bool, bool); 5] = [
        (Hook::Prerouting, true, false),
        (Hook::Input, true, false),
        (Hook::Forward, true, true),
        (Hook::Output, false, true),
        (Hook::Postrouting, false, true),
    ];
    if let Some(findings) = unknown(evidence, CHECK) {
        return findings;
    }
    if evidence.our_bridges().is_empty() {
        return vec![Finding::none(CHECK, "there is no network")];
    }
    // What a frame comes by is a port, and our ports are in our group whosever the bridge is.
    let port = Nic {
        name: String::new(),
        group: LINK_GROUP,
    };
    let mut findings = Vec::new();
    for (hook, comes, goes) in HOOKS {
        for (id, chain, base) in evidence.rules.ruleset.base_chains(hook, &["bridge"]) {
            let dropped = families(evidence).into_iter().find_map(|v6| {
                let mut packet = Packet {
                    iif: comes.then(|| port.clone()),
                    oif: goes.then(|| port.clone()),
                    state: State::New,
                    ..Packet::new(v6)
                };
                let seen = evidence.rules.ruleset.ask(id, chain, &mut packet);
                seen.stops().then(|| why(&seen))
            });
            let Some(how) = dropped else { continue };
            let found = format!(
                "chain {id} (hook {hook}, priority {}) drops the frames of containers, {how}",
                base.priority
            );
            let remedy = "frames come before all rules for packets, so no accept of tombolo's helps; this line lets pass what comes \
                          or goes by its links. It lasts until that ruleset is loaded anew: put it into its file too";
            let insert = format!("nft insert rule {} {} {}", id.family, id.table, id.chain);
            findings.push(Finding::fault(CHECK, found, remedy).by(by_links(&insert)));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "no chain drops frames by default"));
    }
    findings
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
        // A chain that bears a hook's name is asked there.
        let hook = match *name {
            "postrouting" | "input" | "output" => *name,
            _ => "forward",
        };
        objects.push(
            json!({ "chain": { "family": family, "table": table, "name": name, "type": "filter",
            "hook": hook, "prio": prio, "policy": policy } }),
        );
        objects.push(json!({ "rule": { "family": family, "table": table, "chain": name, "handle": 1, "expr": expressions } }));
    }
    let listings = crate::kernel::look::rules::Listings {
        json: json!({ "nftables": objects }).to_string(),
        ..Default::default()
    };
    crate::firewall::read(&listings).unwrap()
}

/// A host with one network and these forward chains.
#[cfg(test)]
pub(super) fn host(chains: &[(&str, &str, &str, i64, &str, serde_json::Value)]) -> Evidence {
    use serde_json::json;

    let mut evidence = Evidence::default();
    evidence.rules.has_nft = true;
    evidence.rules.ruleset = ruleset(chains);
    evidence.daemon.networks =
        vec![json!({ "name": "n", "bridge": "tb-1", "ipv4": { "pool": "10.1.0.0/24" } })];
    evidence.host.links = vec![crate::kernel::look::Link {
        index: 3,
        name: "tb-1".to_owned(),
        group: LINK_GROUP,
        kind: Some("bridge".to_owned()),
        ..Default::default()
    }];
    evidence
}

/// A rule that accepts what bears our mark, or what doesn't.
#[cfg(test)]
pub(super) fn marked(op: &str) -> serde_json::Value {
    use serde_json::json;

    let mark = json!({ "&": [{ "meta": { "key": "mark" } }, MARK_ACCEPT] });
    json!([{ "match": { "op": op, "left": mark, "right": 0 } }, { "accept": null }])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Verdict;
    use super::*;

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
                .contains("iifgroup { 29807, 29808 } accept"),
            "{finding:?}"
        );
    }

    #[test]
    fn a_chain_that_lets_nothing_leave_gets_lines_that_let_links_pass() {
        let bare = host(&[("inet", "adm", "postrouting", 0, "drop", json!([]))]);
        let finding = &foreign_chains(&bare)[0];
        assert_eq!(finding.verdict, Verdict::Fault);
        assert!(
            finding
                .command
                .as_ref()
                .unwrap()
                .contains("adm postrouting iifgroup { 29807")
        );
        let harmless = host(&[("inet", "adm", "postrouting", 0, "accept", json!([]))]);
        assert_eq!(foreign_chains(&harmless)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn a_chain_that_drops_frames_is_told_whatever_its_hook() {
        for chain in ["forward", "input", "output"] {
            let bare = host(&[("bridge", "adm", chain, 0, "drop", json!([]))]);
            let finding = &bridge_chains(&bare)[0];
            assert_eq!(finding.verdict, Verdict::Fault, "{chain}");
            assert!(
                finding
                    .command
                    .as_ref()
                    .unwrap()
                    .starts_with("nft insert rule bridge adm")
            );
        }
        let harmless = host(&[("bridge", "adm", "forward", 0, "accept", json!([]))]);
        assert_eq!(bridge_chains(&harmless)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn a_bridge_of_somebody_elses_that_a_network_uses_is_one_of_ours() {
        let by_group = bridged("oifgroup");
        let mut evidence = host(&[("ip", "adm", "fwd", 0, "drop", by_group)]);
        evidence.host.links[0].name = "br0".to_owned();
        evidence.host.links[0].group = ADOPTED_GROUP;
        evidence.daemon.networks[0]["bridge"] = json!("br0");
        assert_eq!(
            foreign_chains(&evidence)[0].verdict,
            Verdict::Fault,
            "{LINK_GROUP} is not its group"
        );
        // The daemon does not answer: its group tells.
        evidence.daemon.networks.clear();
        assert_eq!(evidence.our_bridges().len(), 1);
        // Or its group was taken away: the daemon tells.
        evidence.host.links[0].group = 0;
        evidence.daemon.networks = vec![json!({ "bridge": "br0" })];
        assert_eq!(evidence.our_bridges().len(), 1);
        evidence.daemon.networks = vec![json!({ "bridge": "br1" })];
        assert!(evidence.our_bridges().is_empty());
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
}
