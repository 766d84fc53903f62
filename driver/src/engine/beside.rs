//! Looks at the kernel that are made beside all else: requests go on meanwhile, however much there is to see.
//!
//! ```text
//!   begin_look ──> a thread of its own reads the kernel
//!                  requests are answered, and what they change is noted (Belief)
//!   take_look <──  what it found, but for what has changed since
//!                  as is believed: that was it        otherwise: repaired, as by any full look
//! ```
//!
//! Who asks while a look is under way is told by the next one: what he means may have come after this one had passed by. A full look
//! in between, which sees more, does for all that nobody waits for. Where the kernel can't be read to an end because too much changes
//! meanwhile, it is read once more while nothing else is done.

use tokio::sync::oneshot;
use tombolo_core::world::{Key, World, diff};

use super::views::Comparison;
use super::{Engine, Journal, reconcile};
use crate::kernel::{self, Kernel, Observing};

/// A look that is under way.
pub(super) struct Beside {
    /// For whom.
    wants: Vec<Want>,
    /// Who has asked since it was begun.
    next: Vec<Want>,
    found: Observing,
}

/// What a look is for.
pub struct Want {
    /// The reason, in the log.
    pub why: &'static str,
    /// Whether what differs is repaired.
    pub repair: bool,
    /// Where each difference is told, if somebody waits for that.
    pub answer: Option<oneshot::Sender<Comparison>>,
}

impl Want {
    /// A look that repairs what differs, and that nobody waits for.
    pub fn repair(why: &'static str) -> Self {
        Self {
            why,
            repair: true,
            answer: None,
        }
    }
}

/// What the look that is under way has found; none if there is none. It may be dropped and asked for again.
pub(super) async fn found(beside: &mut Option<Beside>) -> Option<Result<World, kernel::Error>> {
    Some(beside.as_mut()?.found.as_mut().await)
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Begins a look beside all else, or has one made after that which is under way.
    pub fn begin_look(&mut self, want: Want) {
        match &mut self.beside {
            Some(under_way) => under_way.next.push(want),
            None => self.look_for(vec![want]),
        }
    }

    fn look_for(&mut self, wants: Vec<Want>) {
        self.believed.look_begins();
        self.beside = Some(Beside {
            wants,
            next: Vec::new(),
            found: self.kernel.observe_beside(),
        });
    }

    /// Waits for the look that is under way, if there is one, and takes it in.
    pub async fn await_look(&mut self) {
        if let Some(found) = found(&mut self.beside).await {
            self.take_look(found).await;
        }
    }

    /// Takes in what the look that was under way has found.
    pub(super) async fn take_look(&mut self, found: Result<World, kernel::Error>) {
        let Some(Beside {
            mut wants, mut next, ..
        }) = self.beside.take()
        else {
            return;
        };
        let repairs = wants.iter().any(|want| want.repair);
        let found = match found {
            Err(error) if repairs => {
                tracing::info!(%error, "looked at once more, and nothing else is done meanwhile");
                self.remove_later().await;
                self.believed.look_begins();
                self.kernel.observe().await
            }
            found => found,
        };
        match found {
            _ if self.believed.changed().is_none() => {
                wants.retain(|want| want.answer.is_some());
                next.append(&mut wants);
            }
            Ok(found) => self.compare_with(found, wants).await,
            Err(error) => {
                let compared = match repairs {
                    true => self.unreadable(&error),
                    false => Comparison::unreadable(&error),
                };
                answer_all(wants, &compared);
            }
        }
        if !next.is_empty() {
            self.look_for(next);
        }
    }

    /// Compares what was found with what is believed, and repairs what differs if that is wanted.
    async fn compare_with(&mut self, mut found: World, wants: Vec<Want>) {
        let is_awaited = wants.iter().any(|want| want.answer.is_some());
        if !is_awaited && self.is_as_believed(&found) {
            let is_large = super::is_large(&found);
            // With tens of thousands of facts a world takes megabytes: what was found goes before what is wanted comes.
            drop(found);
            // What was to be made and never was is made by a full look.
            self.in_doubt |= !self.is_as_wanted();
            if is_large {
                crate::host::give_back_memory();
            }
            self.take_out_left().await;
            return;
        }
        // What is to go later differs, and is no difference.
        self.remove_later().await;
        if let Some(changed) = self.believed.changed() {
            self.believed.correct(&mut found, |key| changed.concerns(key));
        }
        let (repairs, looks): (Vec<Want>, Vec<Want>) = wants.into_iter().partition(|want| want.repair);
        if !looks.is_empty() {
            answer_all(looks, &self.differences(&mut found));
        }
        if let Some(why) = repairs.first().map(|want| want.why) {
            let noted = repairs.iter().any(|want| want.answer.is_some());
            let compared = self.settle_found(why, found, noted).await;
            answer_all(repairs, &compared);
        }
    }

    /// Whether nothing is to be done after what was found, and nothing is open from before.
    fn is_as_believed(&self, found: &World) -> bool {
        let is_troubled = self
            .problems
            .keys()
            .any(|about| !about.starts_with(reconcile::PROBLEM));
        if is_troubled || self.keep_unknown || !self.peers_known {
            return false;
        }
        let changed = |key: &Key| {
            self.believed
                .changed()
                .is_none_or(|changed| changed.concerns(key))
        };
        let surprise = self
            .believed
            .first_surprise(found, |key| changed(key) || self.later.concerns(key));
        if let Some(key) = surprise {
            let (believed, found) = (self.believed.get(key), found.get(key));
            tracing::debug!(?key, ?believed, ?found, "the kernel is not as believed");
        }
        surprise.is_none()
    }

    /// Whether what is believed is what is wanted, as far as that may have changed since it was asked last.
    fn is_as_wanted(&mut self) -> bool {
        if !self.believed.was_new() {
            return true;
        }
        let desired = self.state.world();
        self.count_facts(&desired);
        let open = diff(&desired, &self.believed);
        open.iter().all(|step| self.later.concerns(step.key()))
    }

    /// How what was found differs from what is wanted.
    fn differences(&self, found: &mut World) -> Comparison {
        let mut compared = Comparison::default();
        self.believed.remind(found);
        let desired = self.state.world();
        self.state.out_of_sight(&desired, found);
        let steps = diff(&desired, found);
        steps.iter().for_each(|step| compared.note(step, None));
        compared
    }
}

fn answer_all(wants: Vec<Want>, compared: &Comparison) {
    for answer in wants.into_iter().filter_map(|want| want.answer) {
        // Who has gone needs no answer.
        answer.send(compared.clone()).ok();
    }
}
