//! What is removed after the answer, beside all else: the links of what is gone, several at once.
//!
//! Nobody waits for a link to go, and the kernel takes its time for each. So a request that removes is answered when its records are
//! gone; what goes with a link stays for a moment, until no further one comes. Who asks for something that meets with it waits until
//! it is gone. Who dies meanwhile leaves links that no record asks for, which the next start sweeps.
//!
//! Containers' links and tunnels go soon and together: an address may be another container's next. While a bridge goes, the kernel lets
//! nobody change any link for some 20 ms (`rcu_barrier` in `br_multicast_dev_del`, under the lock of all links), so that waits for a
//! lull, and bridges go one by one. One that has a name of the user's choice is not put off: others may want that name next.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tombolo_core::model::{BRIDGE, IfName};
use tombolo_core::world::{Key, Step, Value, World};

use super::{Engine, Journal};
use crate::kernel::{self, Kernel, Removing};

/// How long a container's link or a tunnel waits for further ones, after the last one and after the first.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(50);

/// How long nothing must be asked for until a bridge goes, and how long it stays at most where none goes before it.
const LULL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

/// How many links are removed at once, and how many bridges may wait: who wants all to be gone waits for each of them.
const MANY: usize = 64;
const BRIDGES: usize = 16;

/// Links that are to be removed.
#[derive(Default)]
pub(super) struct Later {
    /// Whether what is removed just now may wait.
    pub may_wait: bool,
    /// When something was asked for last.
    asked: Option<Instant>,
    /// Ends of containers' links, and tunnels.
    ends: Batch,
    bridges: Batch,
    going: Option<Going>,
}

/// Links that wait, with what is on them.
#[derive(Default)]
struct Batch {
    steps: Vec<Step>,
    links: BTreeSet<IfName>,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// Links that are being removed, with what is on them.
struct Going {
    links: BTreeSet<IfName>,
    removals: Vec<Step>,
    on_them: Vec<Step>,
    done: Removing,
}

/// What became of links that were removed.
pub(super) struct Removed {
    removals: Vec<(Step, Result<(), kernel::Error>)>,
    on_them: Vec<Step>,
}

impl Batch {
    fn add(&mut self, steps: Vec<Step>, links: BTreeSet<IfName>, now: Instant) {
        if links.is_empty() {
            return;
        }
        self.steps.extend(steps);
        self.links.extend(links);
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// Takes one link, with what is on it.
    fn take_one(&mut self) -> Vec<Step> {
        let one = self.links.pop_first();
        let (taken, rest) = std::mem::take(&mut self.steps)
            .into_iter()
            .partition(|step| step.key().on() == one.as_ref());
        self.steps = rest;
        if self.links.is_empty() {
            *self = Self::default();
        }
        taken
    }

    /// When it goes, if nothing has come for it, or been asked for, since `last`.
    fn due(&self, last: Option<Instant>, pause: Duration, longest: Duration) -> Option<Instant> {
        let first = self.first?;
        Some(match self.links.len() >= MANY {
            true => first,
            false => (first + longest).min(last.unwrap_or(first) + pause),
        })
    }
}

impl Later {
    /// Notes that something was asked for.
    pub fn asked(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// When something is to be begun.
    pub fn due(&self) -> Option<Instant> {
        match self.going {
            Some(_) => None,
            None => self.ends_due().into_iter().chain(self.bridges_due()).min(),
        }
    }

    fn ends_due(&self) -> Option<Instant> {
        self.ends.due(self.ends.last, PAUSE, LONGEST)
    }

    fn bridges_due(&self) -> Option<Instant> {
        self.bridges
            .due(self.bridges.last.max(self.asked), LULL, PATIENCE)
    }

    /// Whether a link is to go.
    pub fn concerns(&self, key: &Key) -> bool {
        key.on().is_some_and(|link| self.has(link))
    }

    fn has(&self, link: &IfName) -> bool {
        let going = || {
            self.going
                .as_ref()
                .is_some_and(|going| going.links.contains(link))
        };
        self.ends.links.contains(link) || self.bridges.links.contains(link) || going()
    }

    /// Whether what is wanted, and the steps to it, may meet with one of them: it is to be there after all, or a link is made while
    /// a tunnel goes, which may have the same number.
    pub fn meets(&self, wanted: &World, steps: &[Step]) -> bool {
        if wanted.keys().any(|key| self.concerns(key)) {
            return true;
        }
        let makes = |step: &Step| match step {
            Step::Add(Key::Link(_) | Key::Parent(_), value)
            | Step::Change(Key::Link(_) | Key::Parent(_), _, value) => !matches!(value, Value::Veth { .. }),
            _ => false,
        };
        let tunnel = |step: &Step| matches!(step, Step::Remove(_, Value::Vxlan { .. }));
        let going = self.going.iter().flat_map(|going| &going.removals);
        steps.iter().any(makes) && self.ends.steps.iter().chain(going).any(tunnel)
    }

    /// Puts off what removes links, and what is on them; gives the rest. Addresses are none of it: another network may have them
    /// next, and where they are a route leads.
    pub fn put_off(&mut self, steps: Vec<Step>) -> Vec<Step> {
        if !self.may_wait {
            return steps;
        }
        let now = Instant::now();
        let room = BRIDGES.saturating_sub(self.bridges.links.len());
        let is_bridge = |step: &&Step| matches!(step, Step::Remove(_, Value::Bridge { .. }));
        let bridges = steps.iter().filter(is_bridge).filter_map(Step::removed_link);
        let bridges: BTreeSet<IfName> = bridges
            .filter(|link| link.as_str().starts_with(BRIDGE))
            .take(room)
            .cloned()
            .collect();
        // On a bridge that stays, a tunnel goes before the table that guards it.
        let is_end = |step: &&Step| match step {
            Step::Remove(_, Value::Vxlan { .. }) => !bridges.is_empty(),
            Step::Remove(_, Value::Veth { .. }) => true,
            _ => false,
        };
        let ends = steps.iter().filter(is_end).filter_map(Step::removed_link);
        let ends: BTreeSet<IfName> = ends.cloned().collect();
        let (on_ends, rest) = going_with(steps, &ends);
        self.ends.add(on_ends, ends, now);
        let (on_bridges, rest) = going_with(rest, &bridges);
        self.bridges.add(on_bridges, bridges, now);
        rest
    }

    /// Takes what is to be begun of what is due by a time, or of all: all ends, and one bridge, which goes after what is on it.
    fn take(&mut self, due_by: Option<Instant>) -> Vec<Step> {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due_by.is_none_or(|by| due <= by));
        let (ends, bridges) = (is_due(self.ends_due()), is_due(self.bridges_due()));
        let mut steps = Vec::new();
        if ends || bridges {
            steps.extend(std::mem::take(&mut self.ends).steps);
        }
        if bridges {
            steps.extend(self.bridges.take_one());
        }
        steps
    }

    /// What became of those that are being removed; none if there are none. It may be dropped and asked for again.
    pub async fn removed(&mut self) -> Option<Removed> {
        let results = self.going.as_mut()?.done.as_mut().await;
        let Going {
            removals, on_them, ..
        } = self.going.take()?;
        let removals = removals.into_iter().zip(results).collect();
        Some(Removed { removals, on_them })
    }
}

/// The steps that remove some links and what goes with them, and the rest.
fn going_with(steps: Vec<Step>, links: &BTreeSet<IfName>) -> (Vec<Step>, Vec<Step>) {
    let goes = |step: &Step| {
        let on = step
            .key()
            .on()
            .filter(|_| !matches!(step.key(), Key::Address(..)));
        step.removes() && on.is_some_and(|link| links.contains(link))
    };
    steps.into_iter().partition(goes)
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Begins to remove what was put off, as far as it is due by a time, or all of it. While something is being removed that goes
    /// on, and the rest waits.
    pub fn begin_removal(&mut self, due_by: Option<Instant>) {
        if self.later.going.is_some() {
            return;
        }
        let steps = self.later.take(due_by);
        if steps.is_empty() {
            return;
        }
        // What is on a link goes with it.
        let (removals, on_them): (Vec<Step>, Vec<Step>) =
            steps.into_iter().partition(|step| step.removed_link().is_some());
        for step in &removals {
            tracing::debug!("{step}");
        }
        self.later.going = Some(Going {
            links: removals.iter().filter_map(Step::removed_link).cloned().collect(),
            done: self.kernel.remove_links(&removals),
            removals,
            on_them,
        });
    }

    /// Notes what became of links that were removed. What could not be removed is tried again by the next full look.
    pub(super) fn note_removed(&mut self, removed: Removed) {
        let mut gone = BTreeSet::new();
        for (step, done) in &removed.removals {
            self.believe_step(step, done);
            match done {
                Ok(()) => gone.extend(step.removed_link()),
                Err(error) => {
                    tracing::warn!(%step, %error, "removed from the records, but not from the kernel yet; tried again");
                    self.in_doubt = true;
                }
            }
        }
        for step in removed.on_them {
            if step.key().on().is_some_and(|link| gone.contains(link)) {
                self.believed.believe(step.key().clone(), None);
            }
        }
    }

    /// Removes all that was put off, and waits until it is gone.
    pub async fn remove_later(&mut self) {
        loop {
            if let Some(removed) = self.later.removed().await {
                self.note_removed(removed);
            }
            self.begin_removal(None);
            if self.later.going.is_none() {
                return;
            }
        }
    }
}
