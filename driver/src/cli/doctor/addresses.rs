//! Addresses and ports: does a network of ours have some that lead elsewhere on this host?

use std::collections::BTreeMap;
use tombolo_core::world::{ROUTE_METRIC, ROUTE_PROTO};

use ipnet::IpNet;

use super::Finding;
use super::evidence::Evidence;
use crate::engine::reconcile::is_driver;
use crate::kernel::look::{Route, RouteKind};

/// Shorter routes say where most traffic goes, not which addresses a network has.
const ROUTE_LEAST: u8 = 4;

pub(super) fn overlaps(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "addresses.overlap";
    let subnets = evidence.subnets();
    if subnets.is_empty() {
        return vec![Finding::none(CHECK, "no network is known")];
    }
    let mut findings = Vec::new();
    for (at, (subnet, name, bridge)) in subnets.iter().enumerate() {
        let about = format!("network {name} ({subnet})");
        findings.extend(routes(evidence, CHECK, *subnet, (name, &about), bridge));
        for server in evidence
            .host
            .name_servers
            .iter()
            .filter(|server| subnet.contains(*server))
        {
            let found = format!("{about} holds the address of this host's name server {server}");
            findings.push(Finding::fault(CHECK, found, elsewhere(name)));
        }
        for (other, others_name, _) in subnets
            .iter()
            .skip(at + 1)
            .filter(|(other, ..)| meet(*subnet, *other))
        {
            let found = format!("{about} overlaps network {others_name} ({other})");
            findings.push(Finding::fault(CHECK, found, elsewhere(name)));
        }
        // Without the daemon's list, a network that is at home on the bridge is the bridge's own.
        let own = |other: IpNet| !evidence.daemon_answers() && other == *subnet;
        for (docker, other) in dockers(evidence)
            .into_iter()
            .filter(|(_, other)| meet(*subnet, *other) && !own(*other))
        {
            let found = format!("{about} overlaps Docker's network {docker} ({other})");
            findings.push(Finding::fault(CHECK, found, elsewhere(name)));
        }
    }
    if findings.is_empty() {
        let found = format!(
            "{} subnets overlap no route, address, name server or other network",
            subnets.len()
        );
        findings.push(Finding::ok(CHECK, found));
    }
    findings
}

fn elsewhere(name: &str) -> String {
    format!(
        "make the network anew without --subnet, or with one that is free: docker network rm {name}, then docker network create \
         -d tombolo --ipam-driver tombolo {name}"
    )
}

fn meet(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Routes and addresses on links that are not the network's own bridge.
fn routes(
    evidence: &Evidence,
    check: &'static str,
    subnet: IpNet,
    (name, about): (&str, &str),
    bridge: &str,
) -> Vec<Finding> {
    let own = evidence
        .host
        .links
        .iter()
        .find(|link| link.name == bridge)
        .map(|link| link.index);
    let mut findings = Vec::new();
    // Those to other hosts' pieces of a network are part of it.
    let ours = |route: &&Route| route.protocol == ROUTE_PROTO && route.metric == ROUTE_METRIC;
    for route in evidence.host.routes.iter().filter(|route| !ours(route)) {
        let to = route
            .to
            .filter(|to| to.prefix_len() >= ROUTE_LEAST && meet(subnet, *to));
        if let Some(to) = to.filter(|to| refuses(route, *to, subnet)) {
            let found = format!(
                "{about} holds {to}, which a route of table {} drops or refuses (blackhole, unreachable or prohibit)",
                route.table
            );
            let family = if route.v6 { "-6 " } else { "" };
            let remedy = format!(
                "containers with these addresses are not reached from here: remove the route (ip {family}route show table {}), or {}",
                route.table,
                elsewhere(name)
            );
            findings.push(Finding::fault(check, found, remedy));
        }
        let counts = matches!(route.kind, RouteKind::Unicast | RouteKind::Local) && route.oif != own;
        let Some(to) = to.filter(|_| counts && route.oif.is_some()) else {
            continue;
        };
        let link = route
            .oif
            .and_then(|oif| evidence.link(oif))
            .map_or("?", |link| link.name.as_str());
        let (sort, table) = match route.kind {
            RouteKind::Local => ("the host's own address", String::new()),
            _ => ("the route", format!(", table {}", route.table)),
        };
        let found = format!("{about} overlaps {sort} {to} on {link}{table}");
        // Of two routes the longer one wins; a shorter one merely cannot be reached from here any more.
        findings.push(match to.prefix_len() >= subnet.prefix_len() {
            true => Finding::fault(
                check,
                found,
                format!(
                    "what is for the network goes there instead; {}, or remove what overlaps it",
                    elsewhere(name)
                ),
            ),
            false => Finding::warning(
                check,
                found,
                format!(
                    "that part of it can't be reached from this host; {}",
                    elsewhere(name)
                ),
            ),
        });
    }
    findings
}

/// Whether a route takes addresses from a subnet and leads nowhere. The bridge's own route is before one of the same
/// length in the main table.
fn refuses(route: &Route, to: IpNet, subnet: IpNet) -> bool {
    const MAIN: u32 = 254;
    let wins = to.prefix_len() > subnet.prefix_len()
        || (to.prefix_len() == subnet.prefix_len() && route.table != MAIN);
    route.kind == RouteKind::Refused && wins
}

/// Published ports that a process of this host has as well: it came later, or it would have been told of.
pub(super) fn listeners(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "ports.listeners";
    if !evidence.daemon_answers() {
        return vec![Finding::none(CHECK, "the daemon does not answer")];
    }
    // A port that is published on several addresses is one port to whoever has taken it.
    let mut shared: BTreeMap<(String, &str, &str), Vec<String>> = BTreeMap::new();
    for (port, holder) in &evidence.daemon.listeners {
        let text = |key: &str| port[key].as_str().unwrap_or("-");
        let number = format!("{}/{}", port["host_port"], text("proto"));
        let address = match text("host_ip") {
            v6 if v6.contains(':') => format!("[{v6}]:{number}"),
            v4 => format!("{v4}:{number}"),
        };
        let whose = port["container_name"].as_str().unwrap_or("a container");
        shared.entry((number, whose, holder)).or_default().push(address);
    }
    let finding = |((_, whose, holder), addresses): (&(String, &str, &str), &Vec<String>)| {
        let found = format!(
            "{holder} has a port that is published for {whose}: {}",
            addresses.join(", ")
        );
        let remedy = "what comes to the port goes to the container, and that process hears nothing of it: give one of the two \
                      another port";
        Finding::warning(CHECK, found, remedy)
    };
    let findings: Vec<Finding> = shared.iter().map(finding).collect();
    if findings.is_empty() {
        return vec![Finding::ok(
            CHECK,
            "no process of this host has a port that is published",
        )];
    }
    findings
}

/// The subnets of networks that Docker has with other drivers.
fn dockers(evidence: &Evidence) -> Vec<(String, IpNet)> {
    let driver = super::docker::driver(evidence);
    let bridges = evidence.our_bridges();
    let of_bridges: Vec<&serde_json::Value> = bridges
        .iter()
        .filter_map(|bridge| Some(&evidence.dockers_of(bridge)?["Id"]))
        .collect();
    let known = |network: &serde_json::Value| {
        let listed = evidence.daemon.networks.iter();
        let mut listed = listed.map(|network| &network["network_id"]);
        match evidence.daemon_answers() {
            true => listed.any(|id| *id == network["Id"]),
            false => {
                let name = network["Driver"].as_str().unwrap_or_default();
                is_driver(name, &driver) || of_bridges.contains(&&network["Id"])
            }
        }
    };
    let mut subnets = Vec::new();
    for network in evidence.docker.networks.iter().filter(|network| !known(network)) {
        let name = network["Name"].as_str().unwrap_or_default();
        for config in network
            .pointer("/IPAM/Config")
            .and_then(|c| c.as_array())
            .into_iter()
            .flatten()
        {
            let subnet = config["Subnet"]
                .as_str()
                .and_then(|subnet| subnet.parse::<IpNet>().ok());
            subnets.extend(subnet.map(|subnet| (name.to_owned(), subnet)));
        }
    }
    subnets
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Verdict;
    use super::*;
    use crate::kernel::look::Link;

    fn host() -> Evidence {
        let mut evidence = Evidence::default();
        evidence.daemon.status = Some(Ok(json!({})));
        evidence.daemon.networks = vec![
            json!({ "network_id": "1", "name": "n", "bridge": "tb-1", "ipv4": { "pool": "10.1.0.0/24" } }),
        ];
        for (index, name) in [(1, "tb-1"), (2, "vpn0")] {
            evidence.host.links.push(Link {
                index,
                name: name.to_owned(),
                ..Link::default()
            });
        }
        evidence.host.routes = vec![route("10.1.0.0/24", 1), route("10.0.0.0/16", 2)];
        evidence
    }

    fn route(to: &str, oif: u32) -> Route {
        Route {
            to: Some(to.parse().unwrap()),
            oif: Some(oif),
            table: 254,
            ..Route::default()
        }
    }

    #[test]
    fn a_networks_own_route_is_no_overlap() {
        assert_eq!(overlaps(&host())[0].verdict, Verdict::Ok);
    }

    #[test]
    fn a_route_of_ours_to_another_hosts_piece_is_no_overlap() {
        let mut evidence = host();
        let piece = Route {
            protocol: ROUTE_PROTO,
            metric: ROUTE_METRIC,
            ..route("10.1.0.128/25", 2)
        };
        evidence.host.routes.push(piece);
        assert_eq!(overlaps(&evidence)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn of_two_routes_the_longer_wins() {
        let mut evidence = host();
        evidence.host.routes.push(route("10.1.0.128/25", 2));
        assert_eq!(overlaps(&evidence)[0].verdict, Verdict::Fault);
        evidence.host.routes[2] = route("10.0.0.0/8", 2);
        let finding = &overlaps(&evidence)[0];
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.evidence.contains("10.0.0.0/8 on vpn0"), "{finding:?}");
        // The halves by which VPNs replace the default route.
        evidence.host.routes[2] = route("0.0.0.0/1", 2);
        assert_eq!(overlaps(&evidence)[0].verdict, Verdict::Ok);
    }

    #[test]
    fn name_servers_and_dockers_networks_count() {
        let mut evidence = host();
        evidence.host.name_servers = vec!["10.1.0.53".parse().unwrap()];
        evidence.docker.networks = vec![
            json!({ "Id": "1", "Name": "n", "IPAM": { "Config": [{ "Subnet": "10.1.0.0/24" }] } }),
            json!({ "Id": "2", "Name": "other", "IPAM": { "Config": [{ "Subnet": "10.1.0.0/16" }] } }),
        ];
        let findings = overlaps(&evidence);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[1].evidence.contains("Docker's network other"));
    }

    #[test]
    fn without_the_daemon_a_network_does_not_overlap_itself() {
        let mut evidence = host();
        evidence.daemon = super::super::evidence::Daemon::default();
        evidence.daemon.status = Some(Err("no answer".to_owned()));
        evidence.host.links[0].group = tombolo_core::world::LINK_GROUP;
        evidence.host.links[0].kind = Some("bridge".to_owned());
        evidence.host.links[0].name = "tb-12ab34cd56ef".to_owned();
        let network = |id: &str, driver: &str, subnet: &str| json!({ "Id": id, "Name": "mine", "Driver": driver, "IPAM": { "Config": [{ "Subnet": subnet }] } });
        for own in [
            // By the driver's name, with an address range of somebody else's bridge as well.
            network("99", "tombolo", "10.1.0.0/24"),
            network("99", "tombolo:latest", "10.1.0.0/24"),
            // A managed plug-in bears any name.
            network("12ab34cd56ef7890", "acme/net:2", "10.1.0.0/24"),
            network("99", "acme/net:2", "10.1.0.0/24"),
        ] {
            evidence.docker.networks = vec![own.clone()];
            let findings = overlaps(&evidence);
            assert_eq!(findings[0].verdict, Verdict::Ok, "{own}: {findings:?}");
        }
        evidence
            .docker
            .networks
            .push(json!({ "Id": "12ab34cd56ef7890", "Name": "mine", "Driver": "acme/net:2" }));
        evidence
            .docker
            .networks
            .push(network("77", "bridge", "10.1.0.0/16"));
        let findings = overlaps(&evidence);
        assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Fault));
        assert!(
            findings[0]
                .evidence
                .starts_with("network mine (10.1.0.0/24) overlaps"),
            "{findings:?}"
        );
        assert!(
            findings[0]
                .remedy
                .as_ref()
                .unwrap()
                .contains("docker network rm mine"),
            "{findings:?}"
        );
    }

    #[test]
    fn a_route_that_overlaps_is_told_with_the_networks_name() {
        let mut evidence = host();
        for (to, verdict) in [("10.1.0.0/25", Verdict::Fault), ("10.1.0.0/20", Verdict::Warning)] {
            evidence.host.routes[1] = route(to, 2);
            let finding = &overlaps(&evidence)[0];
            assert_eq!(finding.verdict, verdict);
            assert!(
                finding.remedy.as_ref().unwrap().contains("docker network rm n,"),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn a_route_that_leads_nowhere_counts_where_it_wins() {
        for (to, table, verdict) in [
            ("10.1.0.128/25", 254, Verdict::Fault),
            ("10.1.0.0/24", 254, Verdict::Ok),
            ("10.1.0.0/24", 100, Verdict::Fault),
            ("10.0.0.0/8", 254, Verdict::Ok),
        ] {
            let mut evidence = host();
            evidence.host.routes[1] = Route {
                oif: None,
                table,
                kind: RouteKind::Refused,
                ..route(to, 2)
            };
            assert_eq!(overlaps(&evidence)[0].verdict, verdict, "{to} in {table}");
        }
    }

    #[test]
    fn a_process_that_has_a_published_port_is_named() {
        let mut evidence = host();
        assert_eq!(listeners(&evidence)[0].verdict, Verdict::Ok);
        let port = json!({ "host_ip": "::", "host_port": 8080, "proto": "tcp", "container_name": "web" });
        let mut other = port.clone();
        other["host_ip"] = json!("0.0.0.0");
        evidence.daemon.listeners = [other, port]
            .map(|port| (port, "nginx (pid 7)".to_owned()))
            .to_vec();
        let findings = listeners(&evidence);
        assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Warning));
        assert_eq!(
            findings[0].evidence,
            "nginx (pid 7) has a port that is published for web: 0.0.0.0:8080/tcp, [::]:8080/tcp"
        );
    }
}
