//! Which network and which container are meant.

use serde_json::Value;
use tombolo_core::kinds::options::nearest_name;

use super::sight::{End, Net};

/// The networks that the daemon has.
pub(super) fn networks(document: &Value) -> Vec<Net> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let net = |n: &Value| {
        Some(Net {
            id: text(&n["network_id"])?,
            name: text(&n["name"]),
            bridge: text(&n["bridge"]).unwrap_or_default(),
            internal: n["internal"] == true,
            gateways: ["ipv4", "ipv6"]
                .iter()
                .filter_map(|family| n[*family]["gateway"].as_str()?.parse().ok())
                .collect(),
        })
    };
    document
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(net)
        .collect()
}

/// The endpoints that the daemon has.
pub(super) fn endpoints(document: &Value) -> Vec<End> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let end = |e: &Value| {
        Some(End {
            id: text(&e["endpoint_id"])?,
            network: text(&e["network_id"])?,
            container: text(&e["container_name"]),
            addresses: ["ipv4", "ipv6"]
                .iter()
                .filter_map(|family| e[*family].as_str()?.parse().ok())
                .collect(),
            mac: text(&e["mac"]).unwrap_or_default(),
            host_link: text(&e["host_link"]),
            sandbox: text(&e["sandbox"]),
        })
    };
    document
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(end)
        .collect()
}

/// The one that a name, or the beginning of an identifier, means.
fn one<'a, T>(
    what: &str,
    wanted: &str,
    all: &'a [T],
    name: impl Fn(&T) -> Option<&str>,
    id: impl Fn(&T) -> &str,
) -> Result<&'a T, String> {
    if let Some(found) = all
        .iter()
        .find(|item| name(item) == Some(wanted) || id(item) == wanted)
    {
        return Ok(found);
    }
    let begins: Vec<&T> = all
        .iter()
        .filter(|item| !wanted.is_empty() && id(item).starts_with(wanted))
        .collect();
    match begins.as_slice() {
        [found] => Ok(found),
        [] => {
            let near = nearest_name(wanted, all.iter().filter_map(&name));
            let hint = near
                .map(|near| format!(" (did you mean {near}?)"))
                .unwrap_or_default();
            let known: Vec<&str> = all.iter().filter_map(&name).collect();
            let known = match known.as_slice() {
                [] => "there is none with a name".to_owned(),
                names => format!("there are: {}", names.join(", ")),
            };
            Err(format!("{what}: '{wanted}' is not known{hint}; {known}"))
        }
        several => Err(format!(
            "{what}: '{wanted}' begins {} identifiers; write more of it",
            several.len()
        )),
    }
}

/// The network that is meant.
pub(super) fn network<'a>(wanted: &str, networks: &'a [Net]) -> Result<&'a Net, String> {
    one("NETWORK", wanted, networks, |n| n.name.as_deref(), |n| &n.id)
        .map_err(|why| format!("{why}. `tombolo networks` lists those of tombolo's"))
}

/// A container that Docker knows, running or not.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    id: String,
    names: Vec<String>,
    runs: bool,
    /// The networks that it is on, each with its endpoint there.
    places: Vec<(String, String)>,
}

/// The containers of Docker's list.
pub(super) fn containers(document: &Value) -> Vec<Known> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let place = |place: &Value| (text(&place["NetworkID"]), text(&place["EndpointID"]));
    let known = |c: &Value| Known {
        id: text(&c["Id"]),
        names: c["Names"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| text(name).trim_start_matches('/').to_owned())
            .collect(),
        runs: c["State"] == "running" || c["State"] == "paused",
        places: c
            .pointer("/NetworkSettings/Networks")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(_, found)| place(found))
            .collect(),
    };
    document.as_array().into_iter().flatten().map(known).collect()
}

/// The container's place on the network. The name is looked for first, then the beginning of a container's identifier,
/// then that of an endpoint's. `docker` lists the containers that Docker knows.
pub(super) fn endpoint<'a>(
    wanted: &str,
    network: &Net,
    endpoints: &'a [End],
    docker: impl Fn() -> Vec<Known>,
) -> Result<&'a End, String> {
    let here = || endpoints.iter().filter(|e| e.network == network.id);
    if let Some(found) = here().find(|e| e.container.as_deref() == Some(wanted)) {
        return Ok(found);
    }
    let all = docker();
    let begins = |known: &&Known| !wanted.is_empty() && known.id.starts_with(wanted);
    let named = all
        .iter()
        .find(|known| known.names.iter().any(|name| name == wanted));
    let found = match named {
        Some(named) => vec![named],
        None => all.iter().filter(begins).collect(),
    };
    match found.as_slice() {
        [known] => place(known, wanted, network, endpoints),
        [] => {
            let here: Vec<End> = here().cloned().collect();
            let found = one("CONTAINER", wanted, &here, |e| e.container.as_deref(), |e| &e.id)
                .map_err(|why| format!("{why}. `tombolo endpoints` lists who is on which network"))?;
            let unknown = || format!("CONTAINER: '{wanted}' is gone");
            endpoints.iter().find(|e| e.id == found.id).ok_or_else(unknown)
        }
        several => Err(format!(
            "CONTAINER: '{wanted}' begins {} containers' identifiers; write more of it",
            several.len()
        )),
    }
}

/// Where a container is on a network.
fn place<'a>(known: &Known, wanted: &str, network: &Net, endpoints: &'a [End]) -> Result<&'a End, String> {
    let place = known.places.iter().find(|(net, _)| *net == network.id);
    let end = place.and_then(|(_, id)| endpoints.iter().find(|e| e.id == *id));
    match (end, place) {
        (Some(end), _) => Ok(end),
        _ if !known.runs => Err(format!(
            "CONTAINER: '{wanted}' does not run: start it (docker start {wanted}), then trace again"
        )),
        (None, Some(_)) => Err(format!(
            "CONTAINER: '{wanted}' has an endpoint that tombolo doesn't know; see `tombolo doctor`"
        )),
        (None, None) => Err(format!(
            "CONTAINER: '{wanted}' is not on network {}; `docker network connect {0} {wanted}` puts it there",
            network.shown()
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lists() -> (Vec<Net>, Vec<End>) {
        let nets = networks(&json!([
            { "network_id": "aaaa1111", "name": "front", "bridge": "tb-a" },
            { "network_id": "aaaa2222", "name": "back", "bridge": "tb-b" },
        ]));
        let ends = endpoints(&json!([
            { "endpoint_id": "e1", "network_id": "aaaa1111", "container_name": "web", "ipv4": "10.1.0.2" },
            { "endpoint_id": "f1", "network_id": "aaaa2222", "container_name": null, "ipv4": "10.2.0.2" },
        ]));
        (nets, ends)
    }

    #[test]
    fn names_and_beginnings_of_identifiers_are_taken() {
        let (nets, ends) = lists();
        assert_eq!(network("back", &nets).unwrap().id, "aaaa2222");
        assert_eq!(network("aaaa11", &nets).unwrap().id, "aaaa1111");
        assert!(
            network("aaaa", &nets)
                .unwrap_err()
                .contains("begins 2 identifiers")
        );
        let wrong = network("frond", &nets).unwrap_err();
        assert!(
            wrong.contains("did you mean front?") && wrong.contains("front, back"),
            "{wrong}"
        );
        let none = Vec::new;
        assert_eq!(endpoint("web", &nets[0], &ends, none).unwrap().id, "e1");
        assert_eq!(endpoint("e", &nets[0], &ends, none).unwrap().id, "e1");
        assert!(
            endpoint("wep", &nets[0], &ends, none)
                .unwrap_err()
                .contains("did you mean web?")
        );
    }

    fn docker() -> Vec<Known> {
        let on = |network: &str, endpoint: &str| json!({ "Networks": { "n": { "NetworkID": network, "EndpointID": endpoint } } });
        containers(&json!([
            { "Id": "e1d0c", "Names": ["/db"], "State": "running", "NetworkSettings": on("aaaa2222", "f1") },
            { "Id": "bb01", "Names": ["/off"], "State": "exited", "NetworkSettings": on("aaaa1111", "") },
            { "Id": "bb02", "Names": ["/new"], "State": "created", "NetworkSettings": on("", "") },
            { "Id": "cc01", "Names": ["/lost"], "State": "running", "NetworkSettings": on("aaaa1111", "zz") },
        ]))
    }

    #[test]
    fn a_container_that_only_docker_knows_by_that_name_is_found_there() {
        let (nets, ends) = lists();
        assert_eq!(endpoint("db", &nets[1], &ends, docker).unwrap().id, "f1");
        for (wanted, what) in [
            ("db", "not on network front"),
            ("off", "does not run: start it (docker start off)"),
            ("new", "does not run: start it (docker start new)"),
            ("lost", "has an endpoint that tombolo doesn't know"),
            ("bb", "begins 2 containers' identifiers"),
        ] {
            let error = endpoint(wanted, &nets[0], &ends, docker).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_containers_identifier_goes_before_an_endpoints() {
        let (nets, ends) = lists();
        assert_eq!(endpoint("e1", &nets[1], &ends, docker).unwrap().id, "f1");
        assert_eq!(endpoint("f", &nets[1], &ends, docker).unwrap().id, "f1");
    }
}
