//! Whether this host forwards, and what of its settings gets in the way.

use std::net::IpAddr;

use tombolo_core::world::{ADOPTED_GROUP, MARK_ACCEPT};

use super::chains::{Probe, default_fate};
use super::evidence::Evidence;
use super::{Finding, Verdict};
use crate::firewall::Nic;
use crate::kernel::look::{Link, Route};

pub(super) fn ipv4(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "forwarding.ipv4";
    let whole = forwarding(evidence, CHECK, "net.ipv4.ip_forward", false);
    if whole.iter().any(|finding| finding.verdict != Verdict::Ok) || evidence.reaching_out(false) == 0 {
        return whole;
    }
    // IPv4 is forwarded by the setting of the link that a packet comes in by; IPv6 by the one for all.
    let bridges = evidence.our_bridges();
    let out = evidence.way_out(false).filter(|out| !bridges.contains(out));
    let links = bridges.iter().copied().chain(out);
    let setting = |link: &Link| format!("net.ipv4.conf.{}.forwarding", link.name);
    let off = links.filter(|link| {
        evidence
            .sysctl
            .get(&setting(link))
            .is_some_and(|value| value == "0")
    });
    let findings: Vec<Finding> = off
        .map(|link| {
            let remedy = "what comes in by that link is dropped without a word; look for what sets it to 0 in /etc/sysctl.d";
            Finding::fault(CHECK, format!("{} is 0", setting(link)), remedy)
                // A name may hold dots; with slashes it is one word.
                .by(format!("sysctl -w net/ipv4/conf/{}/forwarding=1", link.name))
        })
        .collect();
    if findings.is_empty() { whole } else { findings }
}

pub(super) fn ipv6(evidence: &Evidence) -> Vec<Finding> {
    forwarding(evidence, "forwarding.ipv6", "net.ipv6.conf.all.forwarding", true)
}

fn forwarding(evidence: &Evidence, check: &'static str, setting: &str, v6: bool) -> Vec<Finding> {
    let family = if v6 { "IPv6" } else { "IPv4" };
    let containers = evidence.reaching_out(v6);
    let value = evidence.sysctl.get(setting).map(String::as_str);
    vec![match value {
        None => Finding::none(check, format!("there is no {setting}: this kernel runs without {family}")),
        Some("0") if containers > 0 => Finding::fault(
            check,
            format!("{setting} is 0, and {containers} containers have a way out by {family}"),
            "packets between containers and the outside are dropped without a word; look for what sets it to 0 in /etc/sysctl.d",
        )
        .by(format!("sysctl -w {setting}=1")),
        Some("0") => Finding::none(check, format!("{setting} is 0; no container needs it yet")),
        Some(value) => Finding::ok(check, format!("{setting} is {value}")),
    }]
}

/// Whether this host, which has become a router for its containers, is one between its other links too.
pub(super) fn between(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "forwarding.between";
    if let Some(findings) = super::firewall::unknown(evidence, CHECK) {
        return findings;
    }
    let mut findings = Vec::new();
    for (v6, setting) in [
        (false, "net.ipv4.ip_forward"),
        (true, "net.ipv6.conf.all.forwarding"),
    ] {
        if evidence.sysctl.get(setting).is_none_or(|value| value == "0") {
            continue;
        }
        let links = others(evidence, v6);
        let pairs = links
            .iter()
            .flat_map(|from| links.iter().map(move |to| (*from, *to)));
        let open = pairs
            .filter(|(from, to)| from.index != to.index)
            .find(|(from, to)| {
                let nic = |link: &Link| Nic {
                    name: link.name.clone(),
                    group: link.group,
                };
                let probe = Probe {
                    v6,
                    iif: nic(from),
                    oif: nic(to),
                    ..Probe::default()
                };
                default_fate(&evidence.rules.ruleset, &probe).is_none()
            });
        if let Some((from, to)) = open {
            let family = if v6 { "IPv6" } else { "IPv4" };
            let found = format!(
                "{setting} is on for the containers, and no rule drops what comes by {} and leaves by {}",
                from.name, to.name
            );
            let remedy = format!(
                "if this host is not to be a router between its own links, drop that in a chain of yours at hook forward, as with: meta nfproto {} iifname {} oifname {} drop",
                family.to_lowercase(),
                from.name,
                to.name
            );
            findings.push(Finding::warning(CHECK, found, remedy));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            "nothing is forwarded between this host's other links",
        ));
    }
    findings
}

/// The links that lead somewhere in a family and are neither ours nor Docker's.
fn others(evidence: &Evidence, v6: bool) -> Vec<&Link> {
    let bridges = evidence.our_bridges();
    let docker = |link: &Link| {
        let of_docker = link.name.starts_with("docker") || link.name.starts_with("br-");
        of_docker || link.group == tombolo_core::world::LINK_GROUP
    };
    let leads = |link: &&Link| {
        let by_it = |route: &&Route| {
            let own = route.to.is_some_and(|to| match to.addr() {
                IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
                IpAddr::V4(_) => false,
            });
            route.v6 == v6 && route.table == 254 && route.oif == Some(link.index) && !own
        };
        evidence.host.routes.iter().any(|route| by_it(&route))
    };
    let links = evidence.host.links.iter();
    links
        .filter(|link| link.name != "lo" && !bridges.contains(link) && !docker(link))
        .filter(leads)
        .collect()
}

pub(super) fn rp_filter(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "forwarding.rp-filter";
    let number = |name: &str| -> u32 {
        let text = evidence.sysctl.get(&format!("net.ipv4.conf.{name}.rp_filter"));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let bridges = evidence.our_bridges();
    if bridges.is_empty() {
        return vec![Finding::none(CHECK, "there is no bridge of tombolo's")];
    }
    let all = number("all");
    // The kernel takes the larger one of `all` and the link's own; 1 is strict, 2 is loose.
    let strict = bridges.iter().filter(|link| number(&link.name).max(all) == 1);
    let (own, by_all): (Vec<&Link>, Vec<&Link>) =
        strict.partition(|link| number(&link.name) == 1 && all == 0);
    let finding = |links: &[&Link], found: String| {
        let remedy =
            "what a container on two networks sends by the other one is dropped without a word; 2 is loose";
        // A name may hold dots; with slashes it is one word.
        let each = links
            .iter()
            .map(|link| format!(" net/ipv4/conf/{}/rp_filter=2", link.name));
        Finding::warning(CHECK, found, remedy).by(format!("sysctl -w{}", each.collect::<String>()))
    };
    let mut findings: Vec<Finding> = own
        .iter()
        .map(|link| {
            finding(
                &[link],
                format!("net.ipv4.conf.{}.rp_filter is 1: strict", link.name),
            )
        })
        .collect();
    if !by_all.is_empty() {
        let names: Vec<&str> = by_all.iter().map(|link| link.name.as_str()).collect();
        let found = format!(
            "net.ipv4.conf.all.rp_filter is {all}, which makes it strict on {} bridges ({})",
            names.len(),
            names.join(", ")
        );
        findings.push(finding(&by_all, found));
    }
    if findings.is_empty() {
        return vec![Finding::ok(
            CHECK,
            format!("strict on none of {} bridges", bridges.len()),
        )];
    }
    findings
}

/// With br_netfilter, frames between two containers of one network pass the rules for forwarded packets as well.
pub(super) fn br_netfilter(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "forwarding.br-netfilter";
    let mut findings = Vec::new();
    for (setting, v6) in [
        ("net.bridge.bridge-nf-call-iptables", false),
        ("net.bridge.bridge-nf-call-ip6tables", true),
    ] {
        match evidence.sysctl.get(setting).map(String::as_str) {
            None => {}
            Some("0") => findings.push(Finding::ok(
                CHECK,
                format!("{setting} is 0: frames within a network pass no IP rules"),
            )),
            Some(value) => findings.push(frames(
                evidence,
                CHECK,
                &format!("{setting} is {value}"),
                v6,
                setting,
            )),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            "br_netfilter is not loaded: frames within a network pass no IP rules",
        ));
    }
    findings
}

fn frames(evidence: &Evidence, check: &'static str, found: &str, v6: bool, setting: &str) -> Finding {
    for link in evidence.our_bridges() {
        let nic = Nic {
            name: link.name.clone(),
            group: link.group,
        };
        // Behind a bridge of somebody else's, a container is known by its address.
        let member = evidence.member(link, v6);
        if link.group == ADOPTED_GROUP && member.is_none() {
            continue;
        }
        let probe = Probe {
            v6,
            member,
            iif: nic.clone(),
            oif: nic,
            ..Probe::default()
        };
        if let Some((chain, by)) = default_fate(&evidence.rules.ruleset, &probe) {
            let what = format!(
                "{found}, and chain {chain} drops frames between containers of {} ({by})",
                link.name
            );
            let remedy = format!(
                "let that chain accept what bears the mark {MARK_ACCEPT:#010x} (see firewall.foreign-chains), or keep frames \
                 away from IP rules"
            );
            return Finding::fault(check, what, remedy).by(format!("sysctl -w {setting}=0"));
        }
    }
    Finding::ok(
        check,
        format!("{found}: frames within a network pass the IP rules, which let them through"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tombolo_core::world::LINK_GROUP;

    use super::super::chains::dropping;
    use super::*;

    fn with(settings: &[(&str, &str)]) -> Evidence {
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut evidence = Evidence {
            sysctl: settings.collect(),
            ..Evidence::default()
        };
        evidence.host.links = vec![Link {
            name: "tb-1".to_owned(),
            group: LINK_GROUP,
            kind: Some("bridge".to_owned()),
            ..Link::default()
        }];
        evidence
    }

    #[test]
    fn a_router_between_the_hosts_other_links_is_told_unless_somebody_drops_that() {
        let mut evidence = with(&[
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
        ]);
        evidence.rules.has_nft = true;
        let routes = [(1, "eth0"), (2, "eth1"), (3, "docker0"), (4, "lo")];
        for (index, name) in routes {
            evidence.host.links.push(Link {
                index,
                name: name.to_owned(),
                ..Link::default()
            });
            let route = |to: &str, v6| Route {
                to: Some(to.parse().unwrap()),
                v6,
                table: 254,
                oif: Some(index),
                ..Route::default()
            };
            evidence.host.routes.push(route("fe80::/64", true));
            evidence
                .host
                .routes
                .push(route(&format!("10.{index}.0.0/16"), false));
            if index != 2 {
                evidence.host.routes.push(route("2001:db8::/64", true));
            }
        }
        let findings = between(&evidence);
        assert_eq!(findings.len(), 1, "IPv6 leads nowhere by eth1: {findings:?}");
        assert_eq!(findings[0].verdict, Verdict::Warning);
        assert!(
            findings[0].evidence.contains("by eth0 and leaves by eth1"),
            "{findings:?}"
        );
        evidence.rules.ruleset = dropping("ip", "filter", "FORWARD", 0);
        assert_eq!(between(&evidence)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn forwarding_is_needed_by_containers_that_reach_out() {
        let mut evidence = with(&[("net.ipv4.ip_forward", "0")]);
        assert_eq!(ipv4(&evidence)[0].verdict, Verdict::NotApplicable);
        assert_eq!(ipv6(&evidence)[0].verdict, Verdict::NotApplicable);
        evidence.daemon.networks = vec![json!({ "network_id": "n", "internal": true })];
        evidence.daemon.endpoints =
            vec![json!({ "network_id": "n", "joined": true, "ipv4": "10.1.0.2", "ipv6": null })];
        assert_eq!(ipv4(&evidence)[0].verdict, Verdict::NotApplicable);
        evidence.daemon.networks[0]["internal"] = json!(false);
        let fault = &ipv4(&evidence)[0];
        assert_eq!(
            (fault.verdict, fault.command.as_deref()),
            (Verdict::Fault, Some("sysctl -w net.ipv4.ip_forward=1"))
        );
        evidence
            .sysctl
            .insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
        assert_eq!(ipv4(&evidence)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn the_larger_rp_filter_counts() {
        for (all, own, verdict) in [
            ("0", "0", Verdict::Ok),
            ("1", "0", Verdict::Warning),
            ("0", "1", Verdict::Warning),
            ("1", "2", Verdict::Ok),
        ] {
            let evidence = with(&[
                ("net.ipv4.conf.all.rp_filter", all),
                ("net.ipv4.conf.tb-1.rp_filter", own),
            ]);
            assert_eq!(rp_filter(&evidence)[0].verdict, verdict, "{all} {own}");
        }
    }

    #[test]
    fn one_setting_that_makes_all_bridges_strict_is_one_warning() {
        let mut evidence = with(&[("net.ipv4.conf.all.rp_filter", "1")]);
        let mut other = evidence.host.links[0].clone();
        other.name = "tb-2".to_owned();
        evidence.host.links.push(other);
        let findings = rp_filter(&evidence);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(
            findings[0].command.as_deref(),
            Some("sysctl -w net/ipv4/conf/tb-1/rp_filter=2 net/ipv4/conf/tb-2/rp_filter=2")
        );
    }

    #[test]
    fn a_link_that_does_not_forward_is_told_where_the_host_does() {
        let mut evidence = with(&[
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.conf.tb-1.forwarding", "0"),
        ]);
        assert_eq!(ipv4(&evidence)[0].verdict, Verdict::Ok, "nobody needs it");
        evidence.daemon.endpoints =
            vec![json!({ "network_id": "n", "joined": true, "ipv4": "10.1.0.2", "ipv6": null })];
        let fault = &ipv4(&evidence)[0];
        assert_eq!(
            (fault.verdict, fault.command.as_deref()),
            (Verdict::Fault, Some("sysctl -w net/ipv4/conf/tb-1/forwarding=1"))
        );
    }

    #[test]
    fn frames_that_pass_ip_rules_matter_where_those_drop_them() {
        let setting = [("net.bridge.bridge-nf-call-iptables", "1")];
        let mut evidence = with(&setting);
        assert_eq!(br_netfilter(&evidence)[0].verdict, Verdict::Ok);
        evidence.rules.ruleset = super::super::chains::dropping("inet", "adm", "f", 0);
        assert_eq!(br_netfilter(&evidence)[0].verdict, Verdict::Fault);
        evidence.sysctl.insert(setting[0].0.to_owned(), "0".to_owned());
        assert_eq!(br_netfilter(&evidence)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn what_our_own_table_drops_within_a_network_is_nobodys_fault() {
        let mut evidence = with(&[("net.bridge.bridge-nf-call-iptables", "1")]);
        for (table, verdict) in [("tombolo", Verdict::Ok), ("adm", Verdict::Fault)] {
            evidence.rules.ruleset = super::super::chains::dropping("inet", table, "forward", 0);
            assert_eq!(br_netfilter(&evidence)[0].verdict, verdict, "{table}");
        }
    }
}
