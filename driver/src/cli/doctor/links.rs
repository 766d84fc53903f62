//! Links: do the sizes of their packets fit together, and do they carry any?

use std::collections::BTreeSet;

use tombolo_core::world::LINK_GROUP;

use super::evidence::{Evidence, name_of};
use super::{Finding, cluster};
use crate::kernel::look::Link;

/// The number of the state in which a bridge's port carries nothing (`BR_STATE_DISABLED`). The others are for STP to choose.
const DISABLED: u8 = 0;

/// Bridges, their ports and the containers' ends of these: up, and carrying.
pub(super) fn state(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "links.state";
    if let Some(error) = &evidence.host.error {
        return vec![Finding::none(CHECK, error.clone())];
    }
    let bridges = evidence.our_bridges();
    if bridges.is_empty() {
        return vec![Finding::none(CHECK, "there is no bridge of tombolo's")];
    }
    let up = |link: &str| format!("ip link set dev {link} up");
    let mut findings = Vec::new();
    for bridge in &bridges {
        let name = network(evidence, bridge).map_or_else(|| bridge.name.clone(), name_of);
        if !bridge.up {
            let found = format!("bridge {} of network {name} is down", bridge.name);
            findings.push(Finding::fault(CHECK, found, "nothing gets through").by(up(&bridge.name)));
        }
        for port in ports_of(evidence, bridge) {
            let remedy = "nothing gets to its container, or from there";
            if !port.up {
                let found = format!("port {} of network {name} is down", port.name);
                findings.push(Finding::fault(CHECK, found, remedy).by(up(&port.name)));
            } else if port.carrier && port.port.is_some_and(|port| port.state == DISABLED) {
                let found = format!("port {} of network {name} is in state disabled", port.name);
                let command = format!("bridge link set dev {} state 3", port.name);
                findings.push(Finding::fault(CHECK, found, remedy).by(command));
            }
        }
    }
    for (endpoint, link, whose) in containers(evidence) {
        if !link.up {
            let found = format!("{} of container {whose} is down", link.name);
            let remedy = "nothing gets to it, or from there; its routes went with that, so setting it up is not enough";
            let fault = Finding::fault(CHECK, found, remedy);
            findings.push(match endpoint["container_name"].as_str() {
                Some(name) => fault.by(format!("docker restart {name}")),
                None => fault,
            });
        }
    }
    if findings.is_empty() {
        let (bridges, containers) = (bridges.len(), evidence.daemon.inner.len());
        let found = format!("{bridges} bridges, their ports and the links of {containers} containers are up");
        findings.push(Finding::ok(CHECK, found));
    }
    findings
}

/// The links that networks on a wire have their containers on: there, up, and plugged in.
pub(super) fn parents(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "links.parents";
    if let Some(error) = &evidence.host.error {
        return vec![Finding::none(CHECK, error.clone())];
    }
    let networks = evidence.daemon.networks.iter();
    let on_wires: Vec<(&serde_json::Value, &str)> = networks
        .filter_map(|network| Some((network, network["parent"].as_str()?)))
        .collect();
    if on_wires.is_empty() {
        return vec![Finding::none(
            CHECK,
            "no network is on the wire of a link of this host",
        )];
    }
    let mut findings = Vec::new();
    for (network, parent) in &on_wires {
        let name = name_of(network);
        let remedy = "its containers reach nobody on the wire until it is";
        match evidence.host.links.iter().find(|link| link.name == *parent) {
            None => findings.push(Finding::fault(
                CHECK,
                format!("{parent}, which network {name}'s containers are on, is not there"),
                "make it, or give it its name again: its containers get their links back within seconds (a managed plug-in can't see to \
                 that: start them again)",
            )),
            Some(link) if !link.up => findings.push(
                Finding::fault(CHECK, format!("{parent} of network {name} is down"), remedy)
                    .by(format!("ip link set dev {parent} up")),
            ),
            Some(link) if !link.carrier => findings.push(Finding::fault(
                CHECK,
                format!("{parent} of network {name} has no carrier"),
                "look at its cable and at what it is plugged into",
            )),
            Some(_) => {}
        }
    }
    if findings.is_empty() {
        let found = format!("the parents of {} networks are up", on_wires.len());
        findings.push(Finding::ok(CHECK, found));
    }
    findings
}

/// The endpoints with their containers' ends of the links, and the containers' names.
fn containers(evidence: &Evidence) -> Vec<(&serde_json::Value, &Link, &str)> {
    let of = |endpoint: &'_ serde_json::Value| -> Option<_> {
        let id = endpoint["endpoint_id"].as_str()?;
        let (id, link) = evidence.daemon.inner.get_key_value(id)?;
        let known = evidence
            .daemon
            .endpoints
            .iter()
            .find(|e| e["endpoint_id"] == id.as_str())?;
        let whose = known["container_name"].as_str().unwrap_or(id);
        Some((known, link, whose))
    };
    evidence.daemon.endpoints.iter().filter_map(of).collect()
}

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
        findings.extend(narrow(evidence, CHECK, bridge));
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
    findings.extend(inside(evidence, CHECK));
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

/// The ports that are ours: a bridge of somebody else's may have others, for them to look after.
fn ports_of<'a>(evidence: &'a Evidence, bridge: &Link) -> Vec<&'a Link> {
    let of = |link: &&Link| link.master == Some(bridge.index) && link.group == LINK_GROUP;
    evidence.host.links.iter().filter(of).collect()
}

/// What a network asks for.
fn asked(network: &serde_json::Value) -> Option<u32> {
    network["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok())
}

/// A bridge that takes less than all of its ports do: what it sends itself, and what is routed to them, is cut to that.
fn narrow(evidence: &Evidence, check: &'static str, bridge: &Link) -> Option<Finding> {
    let least = ports_of(evidence, bridge).iter().map(|port| port.mtu).min()?;
    let found = format!(
        "bridge {} has MTU {}, and its ports {least}",
        bridge.name, bridge.mtu
    );
    let remedy =
        "larger packets from elsewhere come back as 'fragmentation needed', which some firewalls swallow";
    let finding = Finding::warning(check, found, remedy);
    (bridge.mtu < least).then(|| finding.by(format!("ip link set dev {} mtu {least}", bridge.name)))
}

/// Containers' ends that are not like their network.
fn inside(evidence: &Evidence, check: &'static str) -> Vec<Finding> {
    let finding = |(endpoint, link, whose): (&serde_json::Value, &Link, &str)| {
        let host_link = endpoint["host_link"].as_str()?;
        let outer = evidence.host.links.iter().find(|link| link.name == host_link);
        let mut networks = evidence.daemon.networks.iter();
        let network = networks.find(|n| n["network_id"] == endpoint["network_id"]);
        let expected = network.and_then(asked).or(outer.map(|outer| outer.mtu))?;
        let found = format!(
            "{} of container {whose} has MTU {}, its network {expected}",
            link.name, link.mtu
        );
        let remedy = "larger packets vanish without a word between the two: a bridge tells nobody";
        let command = format!(
            "nsenter --net={} ip link set dev {} mtu {expected}",
            endpoint["sandbox"].as_str()?,
            link.name
        );
        (link.mtu != expected).then(|| Finding::warning(check, found, remedy).by(command))
    };
    containers(evidence).into_iter().filter_map(finding).collect()
}

/// Ports that are not like the others. What the network asks for counts, and without that what most ports have.
fn ports(evidence: &Evidence, check: &'static str, bridge: &Link) -> Vec<Finding> {
    let ports = ports_of(evidence, bridge);
    let network = network(evidence, bridge);
    let asked = network.and_then(asked);
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

/// Containers whose links came the classic way though their networks ask for the other.
pub(super) fn attach(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "links.attach";
    let is_inside = |row: &&serde_json::Value| row["attach"] == "inside";
    let networks = evidence.daemon.networks.iter().filter(is_inside);
    let networks: BTreeSet<&str> = networks
        .filter_map(|network| network["network_id"].as_str())
        .collect();
    if networks.is_empty() {
        return vec![Finding::none(CHECK, "no network has attach=inside")];
    }
    let on = |endpoint: &&serde_json::Value| {
        let network = endpoint["network_id"].as_str();
        endpoint["attach"].is_string() && network.is_some_and(|network| networks.contains(network))
    };
    let joined: Vec<_> = evidence.daemon.endpoints.iter().filter(on).collect();
    let classic: Vec<_> = joined.iter().filter(|endpoint| !is_inside(endpoint)).collect();
    if classic.is_empty() {
        let found = format!(
            "{} containers have links that were made within their sandboxes",
            joined.len()
        );
        return vec![Finding::ok(CHECK, found)];
    }
    let names = classic.iter().map(|endpoint| {
        let name = endpoint["container_name"].as_str();
        name.or(endpoint["endpoint_id"].as_str()).unwrap_or("-")
    });
    let found = format!(
        "{} of {} containers on networks with attach=inside came by their links the classic way: {}",
        classic.len(),
        joined.len(),
        cluster::listed(names)
    );
    let remedy = "it takes Docker 28 or later without live-restore, containers on networks of tombolo's only, and a tombolo that sees \
                  /run/docker/netns; a container that was started before is made so at its next start";
    vec![Finding::warning(CHECK, found, remedy)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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

    #[test]
    fn a_bridge_that_is_narrower_than_its_ports_is_told() {
        let mut evidence = host(&[1500, 1500], 1500);
        evidence.host.links[0].mtu = 1400;
        let finding = &mtu(&evidence)[0];
        assert_eq!(
            (finding.verdict, finding.command.as_deref()),
            (Verdict::Warning, Some("ip link set dev tb-1 mtu 1500"))
        );
    }

    /// A container behind the first port.
    fn inhabited() -> Evidence {
        let mut evidence = host(&[1500], 1500);
        for link in &mut evidence.host.links {
            (link.up, link.carrier) = (true, true);
            link.port = link.master.map(|_| crate::kernel::look::Port {
                state: crate::kernel::look::FORWARDING,
                ..Default::default()
            });
        }
        evidence.daemon.networks = vec![json!({ "network_id": "n", "name": "net", "bridge": "tb-1" })];
        evidence.daemon.endpoints = vec![
            json!({ "endpoint_id": "e", "network_id": "n", "container_name": "web",
            "host_link": "tbh10", "sandbox": "/run/netns/x" }),
        ];
        let link = Link {
            name: "eth0".to_owned(),
            mtu: 1500,
            up: true,
            ..Link::default()
        };
        evidence.daemon.inner = [("e".to_owned(), link)].into();
        evidence
    }

    #[test]
    fn the_containers_end_of_a_link_counts_as_well() {
        let mut evidence = inhabited();
        assert_eq!(
            (mtu(&evidence)[0].verdict, state(&evidence)[0].verdict),
            (Verdict::Ok, Verdict::Ok)
        );
        let inner = evidence.daemon.inner.get_mut("e").unwrap();
        (inner.mtu, inner.up) = (1300, false);
        let (size, down) = (&mtu(&evidence)[0], &state(&evidence)[0]);
        assert_eq!(
            (size.verdict, size.command.as_deref()),
            (
                Verdict::Warning,
                Some("nsenter --net=/run/netns/x ip link set dev eth0 mtu 1500")
            )
        );
        assert_eq!(
            (down.verdict, down.command.as_deref()),
            (Verdict::Fault, Some("docker restart web"))
        );
    }

    #[test]
    fn a_port_or_a_bridge_that_carries_nothing_is_a_fault() {
        let mut evidence = inhabited();
        evidence.host.links[0].up = false;
        assert_eq!(
            state(&evidence)[0].command.as_deref(),
            Some("ip link set dev tb-1 up")
        );
        let mut evidence = inhabited();
        evidence.host.links[1].up = false;
        assert_eq!(
            state(&evidence)[0].command.as_deref(),
            Some("ip link set dev tbh10 up")
        );
        let mut evidence = inhabited();
        evidence.host.links[1].port = Some(crate::kernel::look::Port::default());
        assert_eq!(
            state(&evidence)[0].command.as_deref(),
            Some("bridge link set dev tbh10 state 3")
        );
        // Somebody else's port of an adopted bridge is for them to look after.
        evidence.host.links[1].group = 0;
        assert_eq!(state(&evidence)[0].verdict, Verdict::Ok);
        evidence.host.links[1].group = LINK_GROUP;
        // Without a carrier that is its state, and the other end tells why.
        evidence.host.links[1].carrier = false;
        assert_eq!(state(&evidence)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn links_that_came_otherwise_than_asked_are_told() {
        let mut evidence = Evidence::default();
        assert_eq!(attach(&evidence)[0].verdict, Verdict::NotApplicable);
        evidence.daemon.networks = vec![
            json!({ "network_id": "a", "attach": "inside" }),
            json!({ "network_id": "b", "attach": "classic" }),
        ];
        let endpoint = |network: &str, name: &str, attach: Option<&str>| json!({ "network_id": network, "endpoint_id": "e", "container_name": name, "attach": attach });
        evidence.daemon.endpoints = vec![
            endpoint("a", "fast", Some("inside")),
            endpoint("a", "starts", None),
            endpoint("b", "other", Some("classic")),
        ];
        assert_eq!(attach(&evidence)[0].verdict, Verdict::Ok);
        evidence
            .daemon
            .endpoints
            .push(endpoint("a", "slow", Some("classic")));
        let finding = &attach(&evidence)[0];
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(
            finding.evidence.starts_with("1 of 2 containers"),
            "{}",
            finding.evidence
        );
        assert!(finding.evidence.ends_with(": slow"), "{}", finding.evidence);
    }
}
