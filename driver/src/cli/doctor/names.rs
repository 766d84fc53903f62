//! Names on networks of the cluster: whether they are answered, and where.

use std::collections::BTreeSet;

use serde_json::Value;

use super::evidence::Evidence;
use super::{Finding, cluster, rows};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

/// What the daemon says of names, or why there is nothing to say.
fn told<'a>(check: &'static str, evidence: &'a Evidence) -> Result<&'a Value, Finding> {
    match &evidence.daemon.names {
        Some(Ok(names)) => Ok(names),
        Some(Err(why)) => Err(Finding::none(check, format!("the daemon doesn't say: {why}"))),
        None => Err(Finding::none(check, "the daemon is not running")),
    }
}

/// Whether names are answered at each gateway of this host, and where its zone is open to the outside.
pub(super) fn gateways(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "names.gateways";
    let names = match told(CHECK, evidence) {
        Ok(names) => names,
        Err(none) => return vec![none],
    };
    let places = || rows(&names["gateways"]).chain(rows(&names["exports"]));
    let of = |failed: bool| places().filter(move |place| place["error"].is_string() == failed);
    let faults = of(true).map(|gateway| {
        let (address, error) = (text(gateway, "address"), text(gateway, "error"));
        let found = format!("names aren't answered at {address}, port 53: {error}");
        let remedy = format!(
            "who else listens there is shown by: ss -lnp 'sport = :53'; have it listen at its own addresses only \
             (dnsmasq: bind-interfaces, unbound and named: an address of their own), so that {address} is left"
        );
        Finding::warning(CHECK, found, remedy)
    });
    let faults: Vec<Finding> = faults.collect();
    let good: Vec<&str> = of(false).map(|gateway| text(gateway, "address")).collect();
    match (faults.is_empty(), good.is_empty()) {
        (false, _) => faults,
        (true, true) => vec![Finding::none(
            CHECK,
            "no network of the cluster has a gateway here that answers names",
        )],
        (true, false) => vec![Finding::ok(
            CHECK,
            format!("names are answered at {}, port 53", good.join(", ")),
        )],
    }
}

/// Whether names are answered within the containers.
pub(super) fn containers(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "names.containers";
    let names = match told(CHECK, evidence) {
        Ok(names) => names,
        Err(none) => return vec![none],
    };
    let failed = rows(&names["failed"]).map(|failed| {
        let (sandbox, error) = (text(failed, "sandbox"), text(failed, "error"));
        let found = format!("the container of {sandbox} asks Docker's resolver only: {error}");
        let remedy = "it finds containers of other hosts if it asks the network's gateway: docker run --dns GATEWAY, or dns: in its \
                      compose file";
        Finding::warning(CHECK, found, remedy)
    });
    let failed: Vec<Finding> = failed.collect();
    let answered = names["containers"].as_u64().unwrap_or_default();
    match (failed.is_empty(), answered) {
        (false, _) => failed,
        (true, 0) => vec![Finding::none(
            CHECK,
            "no container here is on a network of the cluster with dns=auto",
        )],
        (true, answered) => vec![Finding::ok(
            CHECK,
            format!("{answered} containers have their questions answered with the names of all hosts first"),
        )],
    }
}

/// Whether names are in one domain on all hosts.
pub(super) fn zone(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "names.zone";
    let cluster = match cluster::cluster(evidence, CHECK) {
        Ok(cluster) => cluster,
        Err(none) => return none,
    };
    let hosts = || rows(&cluster["hosts"]);
    let own = hosts()
        .find(|host| host["state"] == "here")
        .map_or("-", |host| text(host, "zone"));
    // An earlier version doesn't say.
    let other = hosts().filter(|host| host["zone"].is_string() && text(host, "zone") != own);
    let other: Vec<&Value> = other.collect();
    match cluster::names(other.iter().copied()).as_str() {
        "" => vec![Finding::ok(
            CHECK,
            format!("names are in {own} on all hosts that say so"),
        )],
        names => {
            let theirs: BTreeSet<&str> = other.iter().map(|host| text(host, "zone")).collect();
            let theirs = theirs.into_iter().collect::<Vec<_>>().join(", ");
            let found = format!("names in full end with {own} here and otherwise on {names}: {theirs}");
            let remedy =
                "have the setting dns_zone be the same on all hosts, and restart tombolo where you change it";
            vec![Finding::warning(CHECK, found, remedy)]
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Verdict;
    use super::*;

    fn evidence(names: Value) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.daemon.names = Some(Ok(names));
        evidence
    }

    #[test]
    fn who_is_not_answered_is_told_of_with_what_helps() {
        let evidence = evidence(json!({
            "gateways": [{"address": "10.43.0.1", "error": null}],
            "exports": [{"address": "10.42.0.1", "error": "Address already in use"}],
            "containers": 3,
            "failed": [{"sandbox": "/run/docker/netns/abc", "error": "no nat"}],
        }));
        let [gateways, containers] = [gateways(&evidence), containers(&evidence)];
        assert_eq!((gateways.len(), gateways[0].verdict), (1, Verdict::Warning));
        assert!(
            gateways[0].evidence.contains("10.42.0.1") && gateways[0].evidence.contains("already in use")
        );
        assert_eq!((containers.len(), containers[0].verdict), (1, Verdict::Warning));
        assert!(containers[0].evidence.contains("no nat"));
    }

    #[test]
    fn hosts_whose_names_end_otherwise_are_told_of() {
        let zones = |b: Value| {
            let mut evidence = Evidence::default();
            let hosts = json!([{"name": "a", "state": "here", "zone": "x.internal"}, {"name": "b", "state": "up", "zone": b}]);
            evidence.daemon.cluster = Some(Ok(json!({"in_cluster": true, "hosts": hosts})));
            zone(&evidence).remove(0)
        };
        assert_eq!(zones(json!("x.internal")).verdict, Verdict::Ok);
        assert_eq!(zones(Value::Null).verdict, Verdict::Ok);
        let other = zones(json!("y.internal"));
        assert_eq!(other.verdict, Verdict::Warning);
        assert!(other.evidence.contains("on b: y.internal"), "{}", other.evidence);
        assert_eq!(zone(&Evidence::default())[0].verdict, Verdict::NotApplicable);
    }

    #[test]
    fn all_is_well_or_there_is_nothing() {
        let well = evidence(
            json!({"gateways": [{"address": "10.42.0.1", "error": null}], "containers": 2, "failed": []}),
        );
        assert_eq!(gateways(&well)[0].verdict, Verdict::Ok);
        assert_eq!(containers(&well)[0].verdict, Verdict::Ok);
        let nothing = evidence(json!({"gateways": [], "containers": 0, "failed": []}));
        assert_eq!(gateways(&nothing)[0].verdict, Verdict::NotApplicable);
        assert_eq!(containers(&nothing)[0].verdict, Verdict::NotApplicable);
        let off = Evidence::default();
        assert_eq!(gateways(&off)[0].verdict, Verdict::NotApplicable);
    }
}
