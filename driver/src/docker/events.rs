//! The engine's events, as far as they tell of names.

use std::collections::BTreeMap;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;

use super::Error;

/// The largest event that is read: it has the labels of its container.
const EVENT_MAX: usize = 4 << 20;

/// What happened at the engine.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    actor: ActorJson,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ActorJson {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl Event {
    /// Whether there is a network more, or less.
    pub(super) fn is_of_networks(&self) -> bool {
        self.r#type == "network" && matches!(self.action.as_str(), "create" | "destroy" | "remove")
    }

    /// The container that has another name now, on a network of ours.
    pub(super) fn renamed(self, ours: impl Fn(&str) -> bool, known: impl Fn(&str) -> bool) -> Option<String> {
        let mut attributes = self.actor.attributes;
        match (self.r#type.as_str(), self.action.as_str()) {
            ("network", "connect") if attributes.get("type").is_some_and(|driver| ours(driver)) => {
                attributes.remove("container")
            }
            ("container", "rename") if known(&self.actor.id) => Some(self.actor.id),
            _ => None,
        }
    }
}

/// The engine's events, a line of JSON each.
pub(super) struct EventStream {
    body: Incoming,
    read: Vec<u8>,
}

impl EventStream {
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            read: Vec::new(),
        }
    }

    /// The next event. Nothing is lost where this is not waited for to its end.
    pub(super) async fn next(&mut self) -> Result<Event, Error> {
        let broken = |why: String| Error::Answer {
            call: "/events".to_owned(),
            why,
        };
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| broken(error.to_string()));
            }
            if self.read.len() > EVENT_MAX {
                return Err(broken(format!("an event of more than {EVENT_MAX} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.read.extend(frame.data_ref().into_iter().flatten()),
                _ => {
                    return Err(broken(
                        "the stream has ended: the engine is going down".to_owned(),
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(text: &str) -> Option<String> {
        let event: Event = serde_json::from_str(text).unwrap();
        event.renamed(|driver| driver == "tombolo", |container| container == "known")
    }

    #[test]
    fn only_what_concerns_our_networks_is_looked_into() {
        let connect = r#"{"Type":"network","Action":"connect","Actor":{"ID":"n","Attributes":{"container":"c","name":"app","type":"tombolo"}}}"#;
        assert_eq!(renamed(connect).as_deref(), Some("c"));
        assert_eq!(renamed(&connect.replace("tombolo", "bridge")), None);
        assert_eq!(renamed(&connect.replace("\"connect", "\"disconnect")), None);
        let rename = r#"{"Type":"container","Action":"rename","Actor":{"ID":"known","Attributes":{"name":"b","oldName":"/a"}}}"#;
        assert_eq!(renamed(rename).as_deref(), Some("known"));
        assert_eq!(renamed(&rename.replace("known", "other")), None);
    }
}
