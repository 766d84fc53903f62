//! Requests whose records are written together.
//!
//! ```text
//!   grow, grow, shrink, shrink ──> decided, and made in the kernel where it grows ──> one write ──> what shrinks goes ──> answers
//! ```
//!
//! A write to the disk takes as long for several requests as for one. So those that wait are carried out one after the other and
//! written at once, and gather for no longer than the last write took: where the disk is fast nobody waits for the others, and where
//! it is slow many share its time. What is put off by this costs a request at most once more what its own write would take.
//!
//! What shrinks goes from the kernel when it is durable, so nothing that grows may come after it. No two of them come and go with one
//! record, so each can be taken back without the others, and what is told of it is its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tombolo_core::state::{Command, Edit, Reply, State};
use tombolo_core::world::World;
use tombolo_ipam::Edit as IpamEdit;

use super::{Ask, Engine, Error, Journal, Looked};
use crate::kernel::Kernel;
use crate::records;
use crate::store::{self, Put};

/// How long requests gather at most, however long a write takes.
const LONGEST: Duration = Duration::from_millis(20);

/// How many are written together at most.
const MANY: usize = 64;

/// A record: its table and key.
type Row = (String, String);

/// What was decided: made in the kernel if it grows, and not durable yet.
pub(super) struct Change {
    pub reply: Reply,
    /// The edits that take it back.
    pub taken: Vec<Edit>,
    pub puts: Vec<Put>,
    /// The records that it is about.
    pub rows: BTreeSet<Row>,
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
            rows: BTreeSet::new(),
            left: None,
        }
    }
}

/// The records that some edits are about, by what is written of them. Where a pool's search for a free address goes on is not among
/// it: each request for an address moves that, and none depends on it.
pub(super) fn rows(state: &State, edits: &[Edit], puts: &[Put]) -> BTreeSet<Row> {
    let only_moves = |edit: &Edit| match edit {
        Edit::Ipam(IpamEdit::Pool(id, Some(_))) => state.ipam().pools().contains_key(id),
        _ => false,
    };
    let about = edits.iter().zip(puts).filter(|(edit, _)| !only_moves(edit));
    about
        .map(|(_, put)| (put.table.clone(), put.key.clone()))
        .collect()
}

/// Requests that were carried out and not written yet.
#[derive(Default)]
pub(super) struct Together {
    asked: Vec<Asked>,
    rows: BTreeSet<Row>,
    shrinks: bool,
    began: Option<Instant>,
}

struct Asked {
    command: Command,
    change: Change,
    answer: oneshot::Sender<Result<Reply, Error>>,
}

impl Together {
    fn add(&mut self, asked: Asked) {
        self.began.get_or_insert_with(Instant::now);
        self.shrinks |= asked.command.shrinks();
        self.rows.extend(asked.change.rows.iter().cloned());
        self.asked.push(asked);
    }

    /// Whether something is among them that is about one of these records.
    pub fn meets(&self, rows: &BTreeSet<Row>) -> bool {
        !self.rows.is_disjoint(rows)
    }

    /// Whether there are some, and another one may be carried out before they are written.
    fn waits_for_more(&self, write_took: Duration) -> bool {
        let gathers = |began: Instant| began.elapsed() < write_took.min(LONGEST);
        self.began.is_some_and(gathers) && self.asked.len() < MANY
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
        let written = match together.shrinks && !command.shrinks() {
            true => self.write_together(together).await,
            false => Ok(()),
        };
        let done = match written {
            Ok(()) => {
                self.change(&command, looked, deadline, Some(&mut *together))
                    .await
            }
            Err(error) => Err(Error::Store(error)),
        };
        match done {
            Ok(change) => together.add(Asked {
                command,
                change,
                answer,
            }),
            // An asker that has gone needs no answer.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    /// Writes the records of requests, does what is left to do for them, and answers them.
    ///
    /// # Errors
    /// What the disk says; they were all taken back then, and told.
    pub(super) async fn write_together(&mut self, together: &mut Together) -> Result<(), Arc<store::Error>> {
        let (mut changes, askers): (Vec<_>, Vec<_>) = std::mem::take(together)
            .asked
            .into_iter()
            .map(|asked| (asked.change, (asked.command, asked.answer)))
            .unzip();
        let written = self.write(&mut changes).await;
        for (change, (command, answer)) in changes.into_iter().zip(askers) {
            if let Err(error) = &written {
                answer.send(Err(Error::Store(error.clone()))).ok();
                continue;
            }
            self.finish(&change, command.shrinks()).await;
            let unheard = answer.send(Ok(change.reply)).is_err();
            if unheard && !command.shrinks() {
                tracing::warn!(?command, "the asker has gone; what it was granted is taken back");
                self.take_back(change.taken).await;
            } else {
                self.tell_change(&change.taken);
            }
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
