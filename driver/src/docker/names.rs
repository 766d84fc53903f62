//! What containers are called on their networks: their names, aliases, hostnames and short identifiers, as the engine's own
//! resolver has them (moby `daemon/container_operations.go`, `buildEndpointDNSNames`).
//!
//! They stand only in the inspection of a container, which blocks while that container starts. So each is made on a task of
//! its own, once for a name of an endpoint, and holds up nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tombolo_core::model::EndpointId;

use super::get_json;

/// How many containers are inspected at once.
const AT_ONCE: usize = 8;

/// How many names beside the container's own one are noted of an endpoint.
pub const ALIASES: usize = 64;

/// How many characters of an identifier the engine takes for the short one.
const SHORT: usize = 12;

/// What an endpoint goes by on its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The endpoint.
    pub id: EndpointId,
    /// The container's name.
    pub name: String,
    /// Its other names there, at most [`ALIASES`].
    pub aliases: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectJson {
    id: String,
    name: String,
    #[serde(default)]
    config: ConfigJson,
    network_settings: SettingsJson,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct ConfigJson {
    #[serde(default)]
    hostname: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SettingsJson {
    #[serde(default)]
    networks: Option<BTreeMap<String, AttachedJson>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AttachedJson {
    #[serde(rename = "EndpointID", default)]
    endpoint_id: String,
    #[serde(default)]
    aliases: Option<Vec<String>>,
    #[serde(rename = "DNSNames", default)]
    dns_names: Option<Vec<String>>,
}

impl InspectJson {
    fn named(self) -> Vec<Named> {
        let name = self.name.trim_start_matches('/').to_owned();
        let short = self.id.get(..SHORT).unwrap_or(&self.id).to_owned();
        let attached = self.network_settings.networks.into_iter().flatten();
        attached
            .filter_map(|(_, attached)| {
                let told = attached.aliases.into_iter().chain(attached.dns_names).flatten();
                let own = [short.clone(), self.config.hostname.clone()];
                let mut seen = BTreeSet::from([name.clone()]);
                let aliases = told
                    .chain(own)
                    .filter(|alias| !alias.is_empty() && seen.insert(alias.clone()))
                    .take(ALIASES)
                    .collect();
                Some(Named {
                    // An endpoint that has not come about yet has none.
                    id: attached.endpoint_id.parse().ok()?,
                    name: name.clone(),
                    aliases,
                })
            })
            .collect()
    }
}

/// The inspections: what is under way, and what is known by them.
pub(super) struct Inspections {
    socket: PathBuf,
    permits: Arc<Semaphore>,
    running: JoinSet<(String, Option<InspectJson>)>,
    /// Containers that are inspected just now.
    pending: BTreeSet<String>,
    /// Containers to inspect again once that has ended.
    again: BTreeSet<String>,
    /// By endpoint: the container, and its name when it was inspected.
    known: BTreeMap<EndpointId, (String, String)>,
}

impl Inspections {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            running: JoinSet::new(),
            pending: BTreeSet::new(),
            again: BTreeSet::new(),
            known: BTreeMap::new(),
        }
    }

    /// Has a container inspected, whose names may have changed.
    pub(super) fn inspect(&mut self, container: &str) {
        if !self.pending.insert(container.to_owned()) {
            self.again.insert(container.to_owned());
            return;
        }
        let (socket, permits, container) = (self.socket.clone(), self.permits.clone(), container.to_owned());
        self.running.spawn(async move {
            // It is never closed.
            let _permit = permits.acquire().await.ok();
            let answer = get_json(&socket, &format!("/containers/{container}/json")).await;
            // It may be gone, or take longer than we wait: the next look asks again if it is there.
            let answer = answer.inspect_err(
                |error| tracing::debug!(container, %error, "the names of a container can't be read"),
            );
            (container, answer.ok())
        });
    }

    /// Has those inspected whose names are not known yet: containers, their endpoints, and what they are called.
    pub(super) fn look<'a>(&mut self, there: impl Iterator<Item = (&'a str, EndpointId, &'a str)>) {
        let mut kept = BTreeMap::new();
        // What stands for an endpoint without a container, as the engine lists it, can't be inspected.
        let there = there.filter(|(container, ..)| container.bytes().all(|b| b.is_ascii_hexdigit()));
        for (container, endpoint, name) in there {
            match self.known.remove_entry(&endpoint) {
                Some((endpoint, known)) if known.1 == name => drop(kept.insert(endpoint, known)),
                _ if self.pending.contains(container) => {}
                _ => self.inspect(container),
            }
        }
        self.known = kept;
    }

    /// Whether an endpoint of a container is one of those that are known.
    pub(super) fn knows(&self, container: &str) -> bool {
        self.known.values().any(|(of, _)| of == container)
    }

    /// The names that the next inspection has found. It never ends while there is none.
    pub(super) async fn found(&mut self) -> Vec<Named> {
        let Some(ended) = self.running.join_next().await else {
            return std::future::pending().await;
        };
        // A task that panicked has told of itself.
        let Ok((container, answer)) = ended else {
            return Vec::new();
        };
        self.pending.remove(&container);
        if self.again.remove(&container) {
            self.inspect(&container);
        }
        let named = answer.map(InspectJson::named).unwrap_or_default();
        for of in &named {
            self.known
                .insert(of.id.clone(), (container.clone(), of.name.clone()));
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(digit: &str) -> String {
        digit.repeat(64)
    }

    #[test]
    fn names_of_all_sorts_are_noted_once_and_the_containers_own_apart() {
        let (app, idle) = (endpoint("a"), "");
        let text = format!(
            r#"{{"Id":"0123456789abcdef","Name":"/shop-api-1","Config":{{"Hostname":"0123456789ab"}},"NetworkSettings":{{"Networks":{{
                "app":{{"EndpointID":"{app}","Aliases":["api","shop-api-1"],"DNSNames":["shop-api-1","api","backend","0123456789ab"]}},
                "idle":{{"EndpointID":"{idle}","Aliases":null,"DNSNames":null}}}}}}}}"#
        );
        let named = serde_json::from_str::<InspectJson>(&text).unwrap().named();
        let expected = Named {
            id: app.parse().unwrap(),
            name: "shop-api-1".to_owned(),
            aliases: ["api", "backend", "0123456789ab"].map(str::to_owned).to_vec(),
        };
        assert_eq!(named, [expected]);
    }

    #[test]
    fn an_engine_that_tells_no_dns_names_and_a_hostname_of_choice() {
        let app = endpoint("b");
        let text = format!(
            r#"{{"Id":"0123456789abcdef","Name":"/db","Config":{{"Hostname":"store"}},
                "NetworkSettings":{{"Networks":{{"app":{{"EndpointID":"{app}","Aliases":["0123456789ab"]}}}}}}}}"#
        );
        let named = serde_json::from_str::<InspectJson>(&text).unwrap().named();
        assert_eq!(named[0].aliases, ["0123456789ab", "store"]);
    }
}
