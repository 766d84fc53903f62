//! What is removed after the answer: the links of what is gone, several at once.
//!
//! Nobody waits for a link to go, and the kernel takes its time for each. So a request that removes is answered when its records are
//! gone; what goes with a link stays for a moment, until no further one comes or something else is asked for, which finds the kernel
//! as it is believed to be. Who dies meanwhile leaves links that no record asks for, which the next start sweeps.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tombolo_core::model::IfName;
use tombolo_core::world::{Key, Step, Value, World};

use super::{Engine, Journal};
use crate::kernel::Kernel;

/// How long it is waited for further ones, after the last one and after the first.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(50);

/// How many links are removed at once.
const MANY: usize = 64;

/// Links that are to be removed.
#[derive(Debug, Default)]
pub(super) struct Later {
    /// Whether what is removed just now may wait.
    pub may_wait: bool,
    steps: Vec<Step>,
    links: BTreeSet<IfName>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Later {
    /// When they go.
    pub fn due(&self) -> Option<Instant> {
        let (first, last) = self.first.zip(self.last)?;
        Some(match self.links.len() >= MANY {
            true => first,
            false => (first + LONGEST).min(last + PAUSE),
        })
    }

    /// Whether what is wanted, and the steps to it, may meet with one of them: it is to be there after all, or a link is made that has
    /// addresses, as one may.
    pub fn meets(&self, wanted: &World, steps: &[Step]) -> bool {
        let makes = |step: &Step| match step {
            Step::Add(Key::Link(_) | Key::Parent(_), value)
            | Step::Change(Key::Link(_) | Key::Parent(_), _, value) => !matches!(value, Value::Veth { .. }),
            _ => false,
        };
        let stays = |key: &Key| key.on().is_some_and(|link| self.links.contains(link));
        !self.links.is_empty() && (wanted.keys().any(stays) || steps.iter().any(makes))
    }

    /// Puts off what removes links, and what is on them; gives the rest.
    pub fn put_off(&mut self, steps: Vec<Step>) -> Vec<Step> {
        if !self.may_wait {
            return steps;
        }
        let gone: BTreeSet<IfName> = steps.iter().filter_map(Step::removed_link).cloned().collect();
        if gone.is_empty() {
            return steps;
        }
        let goes_with =
            |step: &Step| step.removes() && step.key().on().is_some_and(|link| gone.contains(link));
        let (later, rest) = steps.into_iter().partition(goes_with);
        self.steps.extend::<Vec<Step>>(later);
        self.links.extend(gone);
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        rest
    }
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Removes what was put off. What can't be removed now is tried again by the next full look.
    pub async fn remove_later(&mut self) {
        let Later { steps, .. } = std::mem::take(&mut self.later);
        if steps.is_empty() {
            return;
        }
        // What is on a link goes with it.
        let (links, on_them): (Vec<Step>, Vec<Step>) =
            steps.into_iter().partition(|step| step.removed_link().is_some());
        let made = self.steps(&links).await;
        let mut gone = BTreeSet::new();
        for (step, made) in links.iter().zip(made) {
            match made {
                Ok(()) => gone.extend(step.removed_link()),
                Err(error) => {
                    tracing::warn!(%step, %error, "removed from the records, but not from the kernel yet; tried again");
                    self.in_doubt = true;
                }
            }
        }
        for step in on_them {
            if step.key().on().is_some_and(|link| gone.contains(link)) {
                self.believe(step.key().clone(), None);
            }
        }
    }
}
