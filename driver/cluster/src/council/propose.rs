//! Bringing a wish to its end: ask, offer, tell; and again when somebody else was faster.

use std::collections::BTreeSet;
use std::time::Duration;

use tombolo_ipam::HostId;

use super::answer::newest;
use super::{
    AGAIN, ASKING, Act, BACK_OFF, Ballot, Context, Council, GRACE, Outcome, PATIENCE, Quorum, RECENT, Shares,
    Telling, Word,
};
use crate::charter::Decree;
use crate::time::Tick;

/// How long an attempt to bring a slot to an end goes on, in ms, and how long the pause between two grows at most.
const ENDING: (u64, u64) = (2000, 60_000);
/// How often a decree is told to a host that is alive and doesn't confirm it.
const TELLINGS: u32 = 5;

/// A proposal of this host for the open slot.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) ballot: Ballot,
    /// The wish's ticket; `None` brings a half-way slot to an end.
    pub(super) wish: Option<u64>,
    pub(super) phase: Phase,
    intent: Decree,
    quorum: Quorum,
    /// Who has promised, or in the second phase accepted, and whose vote counts.
    votes: BTreeSet<HostId>,
    began: Tick,
    again: Tick,
    tries: u32,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Promises are awaited.
    Asking {
        /// What was accepted in the highest proposal before.
        before: Option<(Ballot, Decree)>,
        /// The newest that anybody told.
        held: Shares,
    },
    /// Acceptances are awaited.
    Offering(Decree),
}

impl Attempt {
    pub(super) fn promised(&mut self, from: HostId, accepted: Option<(Ballot, Decree)>, told: Shares) {
        let Phase::Asking { before, held } = &mut self.phase else {
            return;
        };
        if !self.quorum.voters().contains(&from) || !self.votes.insert(from) {
            return;
        }
        if let Some(accepted) = accepted
            && before.as_ref().is_none_or(|(ballot, _)| *ballot < accepted.0)
        {
            *before = Some(accepted);
        }
        newest(held, told);
    }

    pub(super) fn accepted(&mut self, from: HostId) {
        if matches!(self.phase, Phase::Offering(_)) && self.quorum.voters().contains(&from) {
            self.votes.insert(from);
        }
    }

    /// Whether that host has yet to answer.
    fn awaits(&self, host: HostId) -> bool {
        let asking = matches!(self.phase, Phase::Asking { .. });
        (asking || self.quorum.voters().contains(&host)) && !self.votes.contains(&host)
    }

    /// What this attempt has to say in its phase.
    fn word(&self, slot: u64) -> Word {
        let ballot = self.ballot;
        match &self.phase {
            Phase::Asking { .. } => Word::Prepare {
                slot,
                ballot,
                intent: self.intent.clone(),
            },
            Phase::Offering(decree) => Word::Accept {
                slot,
                ballot,
                decree: decree.clone(),
            },
        }
    }

    /// Whether there are votes enough, and whoever may object has had the time for it.
    fn ready(&self, now: Tick, alive: &BTreeSet<HostId>) -> bool {
        let heard = || match self.phase {
            Phase::Offering(_) => true,
            Phase::Asking { .. } if self.wish.is_none() => true,
            Phase::Asking { .. } => {
                let silent = |host: &&HostId| alive.contains(*host) && !self.votes.contains(*host);
                now >= self.began + GRACE || self.quorum.voters().iter().find(silent).is_none()
            }
        };
        self.quorum.met(&self.votes) && heard()
    }
}

impl Council {
    /// Does whatever can be done and whatever is due, and says when to come back.
    pub(super) fn go_on(&mut self, now: Tick, ctx: Context<'_>, acts: &mut Vec<Act>) {
        self.run_out(now, acts);
        self.note_half_way(now);
        loop {
            if self
                .attempt
                .as_ref()
                .is_some_and(|attempt| attempt.ready(now, ctx.alive))
            {
                self.advance(now, acts);
            } else if self.attempt.is_some() || !self.begin(now, ctx, acts) {
                break;
            }
        }
        self.note_half_way(now);
        self.repeat(now, ctx, acts);
        self.ask(now, acts);
        let next = self.next(now);
        if self.woken != Some(next) {
            self.woken = Some(next);
            acts.push(Act::Wake(next));
        }
    }

    /// Ends wishes whose time ran out, and an attempt for a slot's end that leads nowhere.
    fn run_out(&mut self, now: Tick, acts: &mut Vec<Act>) {
        if let Some(attempt) = &self.attempt {
            let reached = (
                attempt.votes.len(),
                attempt.quorum.voters().len(),
                attempt.quorum.needed(&attempt.votes),
            );
            let asking = matches!(attempt.phase, Phase::Asking { .. });
            if let Some(wish) = self
                .wishes
                .front_mut()
                .filter(|wish| attempt.wish == Some(wish.ticket) && asking)
            {
                wish.reached = wish.reached.max(Some(reached));
            }
            if attempt.wish.is_none() && now >= attempt.began + Duration::from_millis(ENDING.0) {
                self.attempt = None;
                self.half_way = None;
            }
        }
        let mut i = 0;
        while let Some(wish) = self.wishes.get(i) {
            if now < wish.deadline {
                i += 1;
                continue;
            }
            let outcome = match wish.reached {
                Some((reached, of, needed)) if !wish.offered && reached < needed => {
                    Outcome::NoMajority { reached, of, needed }
                }
                _ => Outcome::Late {
                    offered: wish.offered,
                },
            };
            self.finish(i, outcome, acts);
        }
    }

    /// Takes a wish out of the queue, with the attempt for it.
    fn finish(&mut self, place: usize, outcome: Outcome, acts: &mut Vec<Act>) {
        if let Some(wish) = self.wishes.remove(place) {
            self.attempt.take_if(|attempt| attempt.wish == Some(wish.ticket));
            acts.push(Act::Done(wish.ticket, outcome));
        }
    }

    /// Notes since when the slot is half-way, and how long that may last: the longer, the oftener it was tried in vain.
    fn note_half_way(&mut self, now: Tick) {
        if !self.acceptor.half_way() {
            self.half_way = None;
        } else if self.half_way.is_none() {
            let patience = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
            let pause = patience.saturating_mul(1 << self.ended.min(8)).min(ENDING.1);
            let jitter = self.chance(pause / 3);
            self.half_way = Some(now + Duration::from_millis(pause) + jitter);
        }
    }

    /// Begins an attempt for the first wish, or for an end of the slot; whether anything was done.
    fn begin(&mut self, now: Tick, ctx: Context<'_>, acts: &mut Vec<Act>) -> bool {
        let sure = ctx.witness.is_sure(&BTreeSet::new(), &self.charter);
        let ending = sure && self.takes_part() && self.half_way.is_some_and(|until| now >= until);
        let Some(wish) = self.wishes.front().filter(|_| !ending) else {
            return ending && self.end_slot(now, acts);
        };
        let member = self.charter.hosts.contains_key(&self.me);
        if member && (!self.takes_part() || now < self.rest) {
            return false;
        }
        let settled = match self.charter.holds(&wish.decree) {
            Some(index) => Some(Outcome::Decided { index }),
            None => {
                let member = self.charter.member(self.me).map(|_| ());
                let applied = member.and_then(|()| self.charter.clone().apply(&wish.decree));
                applied.err().map(|why| Outcome::Void { why })
            }
        };
        if let Some(outcome) = settled {
            self.finish(0, outcome, acts);
            return true;
        }
        if !self.may_vote(&wish.decree, ctx) {
            // Whoever waits for it should hear that hosts are missing.
            let hosts = self.charter.hosts.len();
            let read = self.read(ctx).len();
            self.rest = now + Duration::from_millis(AGAIN.0);
            if let Some(wish) = self.wishes.front_mut() {
                wish.reached = wish.reached.max(Some((read, hosts, read.max(hosts / 2) + 1)));
            }
            return false;
        }
        let (ticket, offered, intent) = (wish.ticket, wish.offered, wish.decree.clone());
        match self.consent(&intent, ctx) {
            Ok(held) => self.start(now, Some(ticket), intent, held, acts),
            Err(_) if offered => self.end_slot(now, acts),
            Err(why) => {
                self.finish(0, Outcome::Objected { by: self.me, why }, acts);
                true
            }
        }
    }

    /// Begins to bring the slot to an end, with what was accepted in it or with nothing; whether it could.
    fn end_slot(&mut self, now: Tick, acts: &mut Vec<Act>) -> bool {
        self.ended = self.ended.saturating_add(1);
        self.half_way = None;
        self.start(now, None, Decree::Nothing, Shares::new(), acts)
    }

    /// Promises to this host itself and asks the others; whether it could.
    fn start(
        &mut self,
        now: Tick,
        wish: Option<u64>,
        intent: Decree,
        told: Shares,
        acts: &mut Vec<Act>,
    ) -> bool {
        let round = self.acceptor.promised.round.max(self.round).saturating_add(1);
        let ballot = Ballot { round, host: self.me };
        let electors: BTreeSet<HostId> = self.charter.hosts.keys().copied().collect();
        let quorum = Quorum::of(&electors, &intent);
        let promise = self.acceptor.promise(ballot, &intent);
        if let Ok(changed) = promise {
            self.keep(changed, acts);
            let phase = Phase::Asking {
                before: None,
                held: Shares::new(),
            };
            let (votes, again) = (BTreeSet::new(), now);
            let mut attempt = Attempt {
                ballot,
                wish,
                phase,
                intent,
                quorum,
                votes,
                began: now,
                again,
                tries: 0,
            };
            attempt.promised(self.me, self.acceptor.accepted.clone(), told);
            self.attempt = Some(attempt);
        } else {
            // Only with the last round that there is: nobody counts up to that.
            self.rest = now + Duration::from_millis(BACK_OFF.1);
        }
        promise.is_ok()
    }

    /// A quorum has voted: from asking to offering, from offering to the end.
    fn advance(&mut self, now: Tick, acts: &mut Vec<Act>) {
        let Some(mut attempt) = self.attempt.take() else {
            return;
        };
        match attempt.phase {
            Phase::Asking { before, held } => {
                let own = match attempt.intent.clone() {
                    Decree::Forget { hosts, heir, .. } => Decree::Forget {
                        hosts,
                        heir,
                        shares: held,
                    },
                    other => other,
                };
                let carried = before.is_some();
                let decree = before.map_or(own, |(_, decree)| decree);
                if let (Err(why), Some(ticket), false) = (decree.check(), attempt.wish, carried) {
                    // What several hosts told is too much together.
                    self.end(ticket, Outcome::Void { why: why.into() }, acts);
                    self.hasten(now);
                    return;
                }
                for wish in self
                    .wishes
                    .iter_mut()
                    .filter(|wish| wish.decree.same_wish(&decree))
                {
                    wish.offered = true;
                }
                match self.acceptor.accept(attempt.ballot, &decree) {
                    Ok(changed) => self.keep(changed, acts),
                    Err(_) => return self.give_way(now),
                }
                attempt.votes = BTreeSet::from([self.me]);
                attempt.phase = Phase::Offering(decree);
                (attempt.again, attempt.tries) = (now, 0);
                self.attempt = Some(attempt);
            }
            Phase::Offering(decree) => {
                let mut untold: BTreeSet<HostId> = self.others().collect();
                self.conclude(now, decree.clone(), acts);
                untold.extend(self.others());
                if !untold.is_empty() {
                    let slot = self.charter.index;
                    acts.push(Act::Say(
                        untold.iter().copied().collect(),
                        Word::Decided { slot, decree },
                    ));
                    let again = now + Duration::from_millis(AGAIN.1);
                    self.telling = Some(Telling {
                        slot,
                        untold,
                        again,
                        tries: 1,
                    });
                }
            }
        }
    }

    /// The open slot is decided.
    pub(super) fn conclude(&mut self, now: Tick, decree: Decree, acts: &mut Vec<Act>) {
        let void = self.charter.apply(&decree).err();
        let index = self.charter.index;
        self.recent.push_back((index, decree.clone()));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.turn(now, acts);
        acts.push(Act::Changed {
            decree: Some(decree.clone()),
            index,
            void: void.clone(),
        });
        let mut i = 0;
        while let Some(wish) = self.wishes.get(i) {
            if !wish.decree.same_wish(&decree) {
                i += 1;
                continue;
            }
            let outcome = match void.clone() {
                Some(why) => Outcome::Void { why },
                None => Outcome::Decided { index },
            };
            self.finish(i, outcome, acts);
        }
        acts.push(Act::Changed {
            decree: Some(decree),
            index,
            void,
        });
    }

    /// A host objects to the wish of the attempt under way. If it was offered in this slot before, it may have been
    /// decided: then the slot is brought to an end first, and the wish is asked about again in the next one.
    pub(super) fn objected(&mut self, now: Tick, by: HostId, why: Vec<String>, acts: &mut Vec<Act>) {
        let asking =
            |attempt: &mut Attempt| attempt.wish.is_some() && matches!(attempt.phase, Phase::Asking { .. });
        // Ending a slot is nobody's wish, and what was offered in this very attempt is too late to object to.
        let Some(ticket) = self.attempt.take_if(asking).and_then(|attempt| attempt.wish) else {
            return;
        };
        if !self
            .wishes
            .iter()
            .any(|wish| wish.ticket == ticket && wish.offered)
        {
            self.end(ticket, Outcome::Objected { by, why }, acts);
        }
        self.hasten(now);
    }

    fn end(&mut self, ticket: u64, outcome: Outcome, acts: &mut Vec<Act>) {
        if let Some(place) = self.wishes.iter().position(|wish| wish.ticket == ticket) {
            self.finish(place, outcome, acts);
        }
    }

    /// An attempt of this host ended early: what it left half-way ends at once.
    fn hasten(&mut self, now: Tick) {
        self.half_way = self.acceptor.half_way().then_some(now);
    }

    /// Somebody else has a higher proposal: it goes first.
    pub(super) fn give_way(&mut self, now: Tick) {
        self.attempt = None;
        let most = BACK_OFF
            .0
            .saturating_mul(2 << self.refused.min(8))
            .min(BACK_OFF.1);
        self.refused = self.refused.saturating_add(1);
        self.rest = now + self.chance(most);
        // The slot's end has the usual patience again: the other proposal may well bring it.
        self.half_way = None;
    }

    /// Says again what was not answered.
    fn repeat(&mut self, now: Tick, ctx: Context<'_>, acts: &mut Vec<Act>) {
        let (me, slot, jitter) = (self.me, self.charter.slot(), self.random() % 256);
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| now >= attempt.again) {
            let pause = AGAIN.0.saturating_mul(1 << attempt.tries.min(8)).min(AGAIN.1);
            attempt.again = now + Duration::from_millis(pause + pause.saturating_mul(jitter) / 1024);
            attempt.tries = attempt.tries.saturating_add(1);
            // The hosts to forget are asked as well: whoever of them answers is not lost.
            let hosts = self.charter.hosts.keys().copied();
            let to: Vec<HostId> = hosts
                .filter(|host| *host != me && attempt.awaits(*host))
                .collect();
            if !to.is_empty() {
                acts.push(Act::Say(to, attempt.word(slot)));
            }
        }
        let due = |telling: &Telling| now >= telling.again || telling.untold.is_empty();
        let Some(mut telling) = self.telling.take_if(|telling| due(telling)) else {
            return;
        };
        // Hosts that aren't alive, or are far behind, ask when they come back. Who has left isn't asked any more, and goes on.
        let left = !self.charter.hosts.contains_key(&self.me);
        telling.untold.retain(|host| left || ctx.alive.contains(host));
        let decree = self
            .recent
            .iter()
            .find(|(slot, _)| *slot == telling.slot)
            .map(|(_, decree)| decree.clone());
        let goes_on = left || telling.tries < TELLINGS;
        if let (Some(decree), false, true) = (decree, telling.untold.is_empty(), goes_on) {
            let (to, slot) = (telling.untold.iter().copied().collect(), telling.slot);
            acts.push(Act::Say(to, Word::Decided { slot, decree }));
            telling.again = now + Duration::from_millis(AGAIN.1);
            telling.tries = telling.tries.saturating_add(1);
            self.telling = Some(telling);
        }
    }

    /// Asks another host, by chance, whether this one is behind.
    fn ask(&mut self, now: Tick, acts: &mut Vec<Act>) {
        if self.ask.is_some_and(|ask| now < ask) {
            return;
        }
        self.ask = Some(now + Duration::from_millis(ASKING / 2) + self.chance(ASKING));
        let others: Vec<HostId> = self.others().collect();
        if others.is_empty() || self.charter.gone.contains_key(&self.me) {
            return;
        }
        let chosen = self.random() % others.len() as u64;
        if let Some(host) = usize::try_from(chosen).ok().and_then(|chosen| others.get(chosen)) {
            acts.push(Act::Say(
                vec![*host],
                Word::Behind {
                    index: self.charter.index,
                },
            ));
        }
    }

    /// When something is due next.
    fn next(&self, now: Tick) -> Tick {
        let mut times: Vec<Tick> = self.wishes.iter().map(|wish| wish.deadline).collect();
        times.extend(self.ask);
        times.extend(self.telling.as_ref().map(|telling| telling.again));
        match &self.attempt {
            Some(attempt) => {
                times.push(attempt.again);
                times.extend(Some(attempt.began + GRACE).filter(|grace| *grace > now));
                let ending = attempt.began + Duration::from_millis(ENDING.0);
                times.extend(attempt.wish.is_none().then_some(ending));
            }
            None if self.takes_part() => {
                times.extend(self.half_way);
                times.extend((!self.wishes.is_empty()).then_some(self.rest));
            }
            None => {}
        }
        times
            .into_iter()
            .min()
            .unwrap_or(now + Duration::from_millis(ASKING))
    }
}
