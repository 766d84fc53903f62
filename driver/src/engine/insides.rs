//! Links that were made within their sandboxes, beside an engine that doesn't know of them.
//!
//! **Names.** The engine names its links by its own list, which has none that we made within a sandbox: the first one it adds is `eth0`,
//! whoever has that name. A container that starts on networks of several drivers would not start. But before the engine adds
//! a network to a container it asks what there is to know of each endpoint that the container has (`EndpointOperInfo`), and
//! waits for the answer. It asks again afterwards, so a question before which nothing came is one before something comes.
//!
//! While a container starts nobody minds the name of a link. Later somebody may, so room is made in the beginning only. Where what
//! comes is one of our networks as well, no room was needed, and the link has its name back before another one can get it.
//!
//! **An engine that was restarted beside its containers** (live-restore) takes links of ours for its own and, where a container
//! ends, takes one of them out twice, of which engines of 28 die. So on such an engine no link is made within a sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tombolo_core::model::{Endpoint, EndpointId, IfName};
use tombolo_core::state::Edit;

use super::{Engine, Journal};
use crate::kernel::{self, Kernel, Placed, Sandbox};

/// How long a container counts as one that starts, from the last network that it has joined.
const STARTS: Duration = Duration::from_secs(30);

/// How long a name is left to the engine, which may have been refused what it was about to add.
const PATIENCE: Duration = Duration::from_secs(15);

/// The sandbox that an endpoint's link was made in.
fn sandbox_of(endpoint: &Endpoint) -> Option<String> {
    let sandbox = endpoint.sandbox.as_ref().filter(|_| endpoint.inside);
    sandbox.filter(|sandbox| !sandbox.is_empty()).cloned()
}

/// The containers that start with links of ours within their sandboxes.
#[derive(Debug, Default)]
pub(super) struct Starting(BTreeMap<String, Start>);

/// A container that starts.
#[derive(Debug)]
struct Start {
    /// When it joined the last of our networks.
    since: Instant,
    /// How many times it has joined or left one.
    changes: u64,
    /// How many that were, and which links of the engine's own there were, when the engine last asked for an endpoint of it. It
    /// asks for each endpoint.
    asked: BTreeMap<EndpointId, (u64, BTreeSet<String>)>,
    /// The name that was left to the engine last, and the index of the link that had it.
    left: Option<(IfName, u32)>,
}

impl Starting {
    /// Notes that a container has joined, or left, a network.
    fn changed(&mut self, sandbox: &str, joined: bool, now: Instant) {
        self.0.retain(|_, start| now - start.since < STARTS);
        if !joined && !self.0.contains_key(sandbox) {
            return;
        }
        let start = self.0.entry(sandbox.to_owned()).or_insert_with(|| Start {
            since: now,
            changes: 0,
            asked: BTreeMap::new(),
            left: None,
        });
        start.since = if joined { now } else { start.since };
        start.changes += 1;
    }

    /// Whether the engine is about to add a network to a container if it asks for an endpoint of it now, given its links there.
    fn about_to_add(&mut self, sandbox: &str, asked: &EndpointId, strangers: &BTreeSet<String>) -> bool {
        let Some(start) = self.0.get_mut(sandbox) else {
            return false;
        };
        let now = (start.changes, strangers.clone());
        start.asked.insert(asked.clone(), now.clone()) == Some(now)
    }

    fn starts(&self, sandbox: &str, now: Instant) -> bool {
        let start = self.0.get(sandbox);
        start.is_some_and(|start| now - start.since < STARTS)
    }
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Notes who has come or gone with a change; `taken` are the edits that take it back.
    pub(super) fn note_starts(&mut self, taken: &[Edit]) {
        for edit in taken {
            let Edit::Endpoint(id, before) = edit else {
                continue;
            };
            let before = before.as_ref().and_then(sandbox_of);
            let now = self.state.endpoint(id).and_then(sandbox_of);
            match (before, now) {
                (None, Some(joined)) => self.starting.changed(&joined, true, Instant::now()),
                (Some(left), None) => self.starting.changed(&left, false, Instant::now()),
                _ => {}
            }
        }
    }

    /// Gives a link the name back that was left to the engine, if what comes is not the engine's. Tells whether it has.
    pub(super) async fn give_back(&mut self, placed: &Placed) -> bool {
        let (entered, sandbox) = (placed.sandbox.clone(), placed.sandbox.to_string());
        let start = self.starting.0.get_mut(&sandbox);
        let Some((name, index)) = start.and_then(|start| start.left.take()) else {
            return false;
        };
        let done = async {
            // Beside a link of the engine's what comes will be one of the engine's, too.
            let alone = entered.clone().strangers().await?.is_empty();
            if alone {
                entered.give_back(name, index).await?;
            }
            Ok::<_, kernel::Error>(alone)
        };
        done.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a link keeps another name than its own");
            false
        })
    }

    /// The engine asks for an endpoint: makes room where it may be about to add a link of its own.
    pub(super) async fn make_room(&mut self, asked: &EndpointId) {
        let endpoint = self.state.endpoint(asked).filter(|endpoint| endpoint.inside);
        let sandbox = endpoint.and_then(|endpoint| endpoint.sandbox.clone());
        let Some(sandbox) = sandbox.filter(|sandbox| self.starting.starts(sandbox, Instant::now())) else {
            return;
        };
        let Some(entered) = Sandbox::at(Path::new(&sandbox)).map(Arc::new) else {
            return;
        };
        match entered.clone().strangers().await {
            Ok(strangers) => {
                if self.starting.about_to_add(&sandbox, asked, &strangers) {
                    self.leave_name(entered, &strangers).await;
                }
            }
            Err(error) => tracing::warn!(%error, "whether a link of the engine's comes is not known"),
        }
    }

    /// Leaves the name to the engine that it gives its next link, and has it given back where that doesn't come.
    pub(super) async fn leave_name(&mut self, entered: Arc<Sandbox>, strangers: &BTreeSet<String>) {
        let sandbox = entered.to_string();
        match entered.make_room(strangers).await {
            Ok(None) => {}
            Ok(Some((name, index))) => {
                if let Some(start) = self.starting.0.get_mut(&sandbox) {
                    start.left = Some((name.clone(), index));
                }
                tracing::debug!(sandbox, %name, "left to a link of the engine's");
                tokio::spawn(async move {
                    tokio::time::sleep(PATIENCE).await;
                    // Kept open meanwhile it would outlive its container.
                    let Some(entered) = Sandbox::at(Path::new(&sandbox)).map(Arc::new) else {
                        return;
                    };
                    if let Err(error) = entered.give_back(name, index).await {
                        tracing::warn!(%error, "a link keeps another name than its own");
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "the engine may find the name taken that it gives a link"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the engine asks while a container joins three networks, the second of them another driver's.
    #[test]
    fn a_question_before_which_nothing_came_is_one_before_something_comes() {
        let now = Instant::now();
        let id = |text: &str| -> EndpointId { text.parse().unwrap() };
        let mut starting = Starting::default();
        let (none, some) = (BTreeSet::new(), BTreeSet::from(["eth0".to_owned()]));
        starting.changed("s", true, now);
        assert!(!starting.about_to_add("s", &id("a"), &none), "after the first");
        assert!(starting.about_to_add("s", &id("a"), &none), "before the second");
        assert!(!starting.about_to_add("s", &id("a"), &some), "after the second");
        assert!(starting.about_to_add("s", &id("a"), &some), "before the third");
        starting.changed("s", true, now);
        assert!(!starting.about_to_add("s", &id("a"), &some), "after the third");
        assert!(
            !starting.about_to_add("s", &id("b"), &some),
            "after the third, which is ours"
        );
        starting.changed("s", false, now);
        assert!(
            !starting.about_to_add("s", &id("a"), &some),
            "after it has left one"
        );
    }

    /// What it asks where two networks are ours, and the third is another driver's: before and after for each of the two.
    #[test]
    fn each_endpoint_of_a_container_is_asked_for() {
        let now = Instant::now();
        let [a, b]: [EndpointId; 2] = ["a", "b"].map(|id| id.parse().unwrap());
        let (none, some) = (BTreeSet::new(), BTreeSet::from(["eth0".to_owned()]));
        let mut starting = Starting::default();
        starting.changed("s", true, now);
        starting.changed("s", true, now);
        for (endpoint, strangers, before) in [
            (&a, &none, false),
            (&b, &none, false),
            (&a, &none, true),
            (&b, &none, true),
            (&a, &some, false),
            (&b, &some, false),
        ] {
            assert_eq!(
                starting.about_to_add("s", endpoint, strangers),
                before,
                "{endpoint:?} {strangers:?}"
            );
        }
    }

    #[test]
    fn one_that_has_started_is_left_alone() {
        let begun = Instant::now();
        let mut starting = Starting::default();
        starting.changed("s", true, begun);
        assert!(starting.starts("s", begun));
        assert!(!starting.starts("s", begun + STARTS));
        starting.changed("other", true, begun + STARTS);
        assert!(!starting.starts("s", begun), "and forgotten");
        starting.changed("s", false, begun + STARTS);
        assert!(!starting.starts("s", begun + STARTS), "who leaves does not start");
    }
}
