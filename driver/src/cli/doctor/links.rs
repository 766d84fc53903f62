//! Links: do the sizes of their packets fit together?

use super::Finding;
use super::evidence::{Evidence, name_of};
use crate::kernel::look::Link;

pub(super) fn mtu(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "links.mtu";
    if let Some(error) = &evidence.host.error {
        return vec![Finding::none(CHECK, error.clone())];
    }
    let bridges = evidence.our_bridges();
    if bridges.is_empty() {
        return vec![Finding::none(CHECK, "there is no bridge of tombolo's")];
    }
    let mut findings = Vec::new();
    for bridge in &bridges {
        findings.extend(ports(evidence, CHECK, bridge));
        let out = evidence
            .way_out(false)
            .or(evidence.way_out(true))
            .filter(|out| out.mtu < bridge.mtu);
        if let Some(out) = out.filter(|_| !internal(evidence, bridge)) {
            let found = format!(
                "bridge {} has MTU {}, and {}, by which packets leave, has {}",
                bridge.name, bridge.mtu, out.name, out.mtu
            );
            let remedy = format!(
                "larger packets come back as 'fragmentation needed', which some firewalls swallow; make the network anew with \
                 -o mtu={}",
                out.mtu
            );
            findings.push(Finding::warning(CHECK, found, remedy));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!(
                "{} bridges and their ports fit together and the way out",
                bridges.len()
            ),
        ));
    }
    findings
}

fn network<'a>(evidence: &'a Evidence, bridge: &Link) -> Option<&'a serde_json::Value> {
    evidence
        .daemon
        .networks
        .iter()
        .find(|network| network["bridge"] == bridge.name.as_str())
}

fn internal(evidence: &Evidence, bridge: &Link) -> bool {
    network(evidence, bridge).is_some_and(|network| network["internal"] == true)
}

/// Ports that are not like the others. What the network asks for counts, and without that what most ports have.
fn ports(evidence: &Evidence, check: &'static str, bridge: &Link) -> Vec<Finding> {
    let ports: Vec<&Link> = evidence
        .host
        .links
        .iter()
        .filter(|link| link.master == Some(bridge.index))
        .collect();
    let network = network(evidence, bridge);
    let asked = network
        .and_then(|network| network["mtu"].as_u64())
        .and_then(|mtu| u32::try_from(mtu).ok());
    let count = |mtu: u32| ports.iter().filter(|port| port.mtu == mtu).count();
    let common = ports
        .iter()
        .map(|port| port.mtu)
        .max_by_key(|mtu| (count(*mtu), *mtu));
    let Some(expected) = asked.or(common) else {
        return Vec::new();
    };
    let name = network.map_or_else(|| bridge.name.clone(), name_of);
    let finding = |port: &&Link| {
        let found = format!(
            "port {} of network {name} has MTU {}, the others have {expected}",
            port.name, port.mtu
        );
        let remedy = "larger packets for it vanish without a word: a bridge tells nobody";
        Finding::warning(check, found, remedy).by(format!("ip link set dev {} mtu {expected}", port.name))
    };
    ports
        .iter()
        .filter(|port| port.mtu != expected)
        .map(finding)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tombolo_core::world::LINK_GROUP;

    use super::super::Verdict;
    use super::*;
    use crate::kernel::look::Route;

    fn host(ports: &[u32], out: u32) -> Evidence {
        let mut evidence = Evidence::default();
        let link = |index: u32, name: String, mtu, kind: &str, master| Link {
            index,
            name,
            mtu,
            group: LINK_GROUP,
            kind: Some(kind.to_owned()),
            master,
            ..Link::default()
        };
        let smallest = ports.iter().copied().min().unwrap_or(1500);
        evidence.host.links = vec![link(1, "tb-1".to_owned(), smallest, "bridge", None)];
        let ports = ports.iter().zip(10..);
        evidence
            .host
            .links
            .extend(ports.map(|(mtu, index)| link(index, format!("tbh{index}"), *mtu, "veth", Some(1))));
        evidence.host.links.push(Link {
            index: 2,
            name: "eth0".to_owned(),
            mtu: out,
            ..Link::default()
        });
        evidence.host.routes = vec![Route {
            table: 254,
            oif: Some(2),
            ..Route::default()
        }];
        evidence
    }

    #[test]
    fn a_port_unlike_the_others_is_told_with_the_line_that_mends_it() {
        let findings = mtu(&host(&[1500, 1400, 1500], 1500));
        assert_eq!(findings.len(), 1);
        assert_eq!(
            findings[0].command.as_deref(),
            Some("ip link set dev tbh11 mtu 1500")
        );
        assert_eq!(mtu(&host(&[1500, 1500], 1500))[0].verdict, Verdict::Ok);
    }

    #[test]
    fn what_the_network_asks_for_counts_more() {
        let mut evidence = host(&[1400, 1400, 1300], 1500);
        evidence.daemon.networks = vec![json!({ "name": "n", "bridge": "tb-1", "mtu": 1300 })];
        assert_eq!(mtu(&evidence).len(), 2);
    }

    #[test]
    fn a_way_out_that_is_narrower_is_told_but_not_of_an_internal_network() {
        let mut evidence = host(&[1500], 1450);
        assert!(mtu(&evidence)[0].remedy.as_ref().unwrap().contains("-o mtu=1450"));
        evidence.daemon.networks = vec![json!({ "name": "n", "bridge": "tb-1", "internal": true })];
        assert_eq!(mtu(&evidence)[0].verdict, Verdict::Ok);
    }
}
