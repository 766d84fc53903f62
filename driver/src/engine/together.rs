//! Requests whose records are written together.
//!
//! ```text
//!   grow, grow, shrink, shrink ──> decided, and made in the kernel where it grows ──> one write ──> what shrinks goes ──> answers
//! ```
//!
//! A write to the disk takes as long for several requests as for one. So those that wait are carried out one after the other and
//! written at once. They gather for no longer than the last write took: where the disk is fast hardly anybody waits for others, and
//! where it is slow many share its time.
//!
//! What shrinks goes from the kernel when it is durable, so nothing that grows may come after it. Each can be taken back without the
//! others, and what is told of it is its own: no two are about one endpoint or address, and what adds or removes a network or a pool,
//! which others may need, is alone. What would be refused, or has nothing to do, because of what is not written yet is decided when
//! that is written, and heard by who asked for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tombolo_core::model::EndpointId;
use tombolo_core::state::{Command, Edit, Refusal, Reply, State};
use tombolo_core::world::World;
use tombolo_ipam::Edit as IpamEdit;

use super::{Ask, Engine, Error, Journal, Looked, addresses_of};
use crate::kernel::Kernel;
use crate::records;
use crate::store::{self, Put};

/// How long requests gather at most, however long a write takes.
const LONGEST: Duration = Duration::from_millis(20);

/// How many are written together at most.
const MANY: usize = 64;

/// What a change is about, so that another one about it must wait.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    Endpoint(EndpointId),
    Address(IpAddr),
}

/// All that a change is about.
#[derive(Debug, Default)]
pub(super) struct About {
    things: BTreeSet<Thing>,
    /// Whether others may need what it is about.
    alone: bool,
}

impl About {
    /// What edits that were not made yet are about. Where a pool's search for a free address goes on is not among it: each request for an
    /// address moves that, and none depends on it.
    pub fn of(state: &State, edits: &[Edit]) -> Self {
        let mut about = Self::default();
        for edit in edits {
            match edit {
                Edit::Endpoint(id, after) => {
                    let both = after.iter().chain(state.endpoint(id));
                    let addresses = both.flat_map(|endpoint| &endpoint.addresses);
                    about
                        .things
                        .extend(addresses.map(|address| Thing::Address(address.addr())));
                    about.things.insert(Thing::Endpoint(id.clone()));
                }
                Edit::Ipam(IpamEdit::Slot(_, address, _)) => {
                    about.things.insert(Thing::Address(*address));
                }
                Edit::Ipam(IpamEdit::Pool(id, Some(_))) if state.ipam().pools().contains_key(id) => {}
                Edit::Ipam(IpamEdit::Pool(..) | IpamEdit::Share(..)) | Edit::Network(..) => {
                    about.alone = true
                }
            }
        }
        about
    }
}

/// What was decided: made in the kernel if it grows, and not durable yet.
pub(super) struct Change {
    pub reply: Reply,
    /// The edits that take it back.
    pub taken: Vec<Edit>,
    pub puts: Vec<Put>,
    pub about: About,
    /// What is still to be done in the kernel: the facts that are to go, and those that are in their place.
    pub left: Option<(World, World)>,
}

impl Change {
    /// One that changes nothing.
    pub fn none(reply: Reply) -> Self {
        Self {
            reply,
            taken: Vec::new(),
            puts: Vec::new(),
            about: About::default(),
            left: None,
        }
    }
}

/// Requests that were carried out and not written yet.
#[derive(Default)]
pub(super) struct Together {
    asked: Vec<Asked>,
    things: BTreeSet<Thing>,
    shrinks: bool,
    began: Option<Instant>,
    /// Whether nothing more may come: what is there is alone, or others came before and were written, and other things wait.
    is_last: bool,
}

struct Asked {
    command: Command,
    change: Change,
    answer: oneshot::Sender<Result<Reply, Error>>,
}

impl Together {
    fn add(&mut self, mut asked: Asked) {
        self.began.get_or_insert_with(Instant::now);
        self.shrinks |= asked.command.shrinks();
        self.is_last |= asked.change.about.alone;
        self.things.append(&mut asked.change.about.things);
        self.asked.push(asked);
    }

    /// Whether there are some, and another one may be carried out before they are written.
    fn waits_for_more(&self, write_took: Duration) -> bool {
        let gathers = |began: Instant| began.elapsed() < write_took.min(LONGEST);
        !self.is_last && self.began.is_some_and(gathers) && self.asked.len() < MANY
    }
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Answers a request, and those that wait as well, if their records can be written with its own.
    pub(super) async fn answer_together(&mut self, first: Ask, asks: &mut mpsc::Receiver<Ask>) {
        let mut together = Together::default();
        let mut next = Some(first);
        while let Some(ask) = next.take() {
            self.answer(ask, &mut together).await;
            // What was left in doubt is looked at before anything else is asked for.
            if together.waits_for_more(self.write_took) && !self.in_doubt {
                next = asks.try_recv().ok();
            }
        }
        // Whose request was not written has been told.
        self.write_together(&mut together).await.ok();
    }

    /// Carries a request out; it is answered when it is written, or at once if it is refused.
    pub(super) async fn carry_out_among(
        &mut self,
        together: &mut Together,
        command: Command,
        looked: &Looked,
        deadline: Instant,
        answer: oneshot::Sender<Result<Reply, Error>>,
    ) {
        if answer.is_closed() {
            return;
        }
        self.later.asked();
        match self.change_among(together, &command, looked, deadline).await {
            Ok(change) => together.add(Asked {
                command,
                change,
                answer,
            }),
            // An asker that has gone needs no answer.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    async fn change_among(
        &mut self,
        together: &mut Together,
        command: &Command,
        looked: &Looked,
        deadline: Instant,
    ) -> Result<Change, Error> {
        if together.shrinks && !command.shrinks() {
            self.write_before(together).await?;
        }
        let mut decision = self.decide(command, looked);
        if self.comes_after(together, command, &decision).await {
            self.write_before(together).await?;
            decision = self.decide(command, looked);
        }
        self.note_decision(command, &decision);
        self.make(command, looked, deadline, decision?).await
    }

    /// Whether requests are to be written before what was decided is made.
    async fn comes_after(
        &mut self,
        together: &Together,
        command: &Command,
        decision: &Result<(Vec<Edit>, Reply), Refusal>,
    ) -> bool {
        if together.asked.is_empty() {
            return false;
        }
        match decision {
            Err(_) => true,
            Ok((edits, _)) if edits.is_empty() => !command.shrinks(),
            Ok((edits, _)) => {
                let about = About::of(&self.state, edits);
                about.alone
                    || !together.things.is_disjoint(&about.things)
                    // Nobody waits for the flows of somebody else's address.
                    || !command.shrinks()
                        && !self.kernel.forgotten(Some(&addresses_of(edits)), Instant::now()).await
            }
        }
    }

    async fn write_before(&mut self, together: &mut Together) -> Result<(), Error> {
        self.write_together(together).await.map_err(Error::Store)?;
        self.settle_doubt().await;
        Ok(())
    }

    /// Writes the records of requests, does what is left to do for them, and answers them.
    ///
    /// # Errors
    /// What the disk says; they were all taken back then, and told.
    pub(super) async fn write_together(&mut self, together: &mut Together) -> Result<(), Arc<store::Error>> {
        let next = Together {
            is_last: true,
            ..Together::default()
        };
        let (mut changes, askers): (Vec<_>, Vec<_>) = std::mem::replace(together, next)
            .asked
            .into_iter()
            .map(|asked| (asked.change, (asked.command, asked.answer)))
            .unzip();
        let written = self.write(&mut changes).await;
        let mut unheard = Vec::new();
        for (change, (command, answer)) in changes.into_iter().zip(askers) {
            if let Err(error) = &written {
                answer.send(Err(Error::Store(error.clone()))).ok();
                continue;
            }
            self.finish(&change, command.shrinks()).await;
            let is_heard = answer.send(Ok(change.reply)).is_ok();
            if is_heard || command.shrinks() {
                self.tell_change(&change.taken);
            } else {
                unheard.push((command, change.taken));
            }
        }
        // What is left to do for the others was decided with it.
        for (command, taken) in unheard.into_iter().rev() {
            tracing::warn!(?command, "the asker has gone; what it was granted is taken back");
            self.take_back(taken).await;
        }
        written
    }

    /// Makes changes durable, or takes them all back.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) async fn write(&mut self, changes: &mut [Change]) -> Result<(), Arc<store::Error>> {
        let puts = changes
            .iter_mut()
            .flat_map(|change| std::mem::take(&mut change.puts));
        let puts: Vec<Put> = puts.collect();
        if puts.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let written = self.journal.commit(&puts).map_err(Arc::new);
        self.write_took = began.elapsed();
        if written.is_err() {
            for change in changes.iter_mut().rev() {
                self.undo(std::mem::take(&mut change.taken), change.left.is_none())
                    .await;
            }
        }
        written
    }

    /// Takes back what is not durable, and what was made of it in the kernel.
    pub(super) async fn undo(&mut self, taken: Vec<Edit>, is_made: bool) {
        let (_, before, after) = self.apply(taken);
        if !is_made {
            return;
        }
        if let Err(again) = self.reach(&before, &after, None).await {
            tracing::error!(%again, "taking a failed change back failed too; the next full look repairs it");
            self.in_doubt = true;
        }
    }

    /// Does what is left to do of a change that is durable. `may_wait`: links of what is gone are left for
    /// [`remove_later`](Self::remove_later).
    pub(super) async fn finish(&mut self, change: &Change, may_wait: bool) {
        if let Some((before, after)) = &change.left {
            self.later.may_wait = may_wait;
            let reached = self.reach(before, after, None).await;
            self.later.may_wait = false;
            if let Err(error) = reached {
                tracing::warn!(%error, "removed from the records, but not all of it from the kernel yet; tried again");
                self.in_doubt = true;
            }
        }
        // A new endpoint may have taken the place of one that Docker has forgotten.
        self.forget_holders(&change.taken);
        self.note_starts(&change.taken);
        self.announce_change(&change.taken);
    }

    /// Takes back what was granted to somebody who has gone.
    async fn take_back(&mut self, taken: Vec<Edit>) {
        let puts = taken.iter().map(records::put).collect();
        let (taken, before, after) = self.apply(taken);
        let mut change = Change {
            taken,
            puts,
            left: Some((before, after)),
            ..Change::none(Reply::Done)
        };
        match self.write(std::slice::from_mut(&mut change)).await {
            Ok(()) => self.finish(&change, false).await,
            Err(error) => {
                tracing::error!(%error, "an unheard grant could not be taken back; the reconciliation with Docker frees it");
            }
        }
    }
}
