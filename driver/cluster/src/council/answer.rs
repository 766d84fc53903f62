//! What a host answers to a word of another one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;

use super::word::cut;
use super::{Act, BACK_OFF, Ballot, Context, Council, FETCHING, Kept, Shares, Word};
use crate::charter::{Decree, HELD_MAX, Held, check_shares, later, most, size};
use crate::time::Tick;

impl Council {
    pub(super) fn answer(
        &mut self,
        now: Tick,
        from: HostId,
        word: Word,
        ctx: Context<'_>,
        acts: &mut Vec<Act>,
    ) {
        match word {
            Word::Prepare { slot, ballot, intent } => {
                if self.is_open(from, slot, ballot, acts) && self.may_vote(&intent, ctx) {
                    self.prepare(from, ballot, &intent, ctx, acts);
                }
            }
            Word::Accept { slot, ballot, decree } => {
                let sure = self.vowed == Some(ballot) || ctx.witness.is_sure(&decree.lost(), &self.charter);
                if self.is_open(from, slot, ballot, acts) && sure {
                    self.accept(from, ballot, &decree, acts);
                }
            }
            Word::Promise {
                slot,
                ballot,
                accepted,
                held,
            } => {
                if let Some(attempt) = self.mine(slot, ballot) {
                    attempt.promised(from, accepted, held);
                }
            }
            Word::Accepted { slot, ballot } => {
                if let Some(attempt) = self.mine(slot, ballot) {
                    attempt.accepted(from);
                }
            }
            Word::Object { slot, ballot, why } => {
                if self.mine(slot, ballot).is_some() {
                    self.objected(now, from, why, acts);
                }
            }
            Word::Refuse {
                slot,
                ballot,
                promised,
            } => {
                if self.mine(slot, ballot).is_some() {
                    self.round = self.round.max(promised.round);
                    self.give_way(now);
                }
            }
            Word::Decided { slot, decree } => self.decided(now, from, slot, decree, acts),
            Word::Behind { index } => self.tell(from, index, acts),
            Word::At { index } => {
                if let Some(telling) = self.telling.as_mut().filter(|telling| telling.slot <= index) {
                    telling.untold.remove(&from);
                }
                if index > self.charter.index && now >= self.fetch {
                    self.fetch = now + Duration::from_millis(FETCHING);
                    acts.push(Act::Fetch(from));
                }
            }
        }
    }

    /// Whether a proposal of that host is for the slot that is open here; else one of the two learns what it lacks.
    fn is_open(&self, from: HostId, slot: u64, ballot: Ballot, acts: &mut Vec<Act>) -> bool {
        if slot <= self.charter.index {
            self.tell(from, slot.saturating_sub(1), acts);
            return false;
        }
        if slot > self.charter.slot() {
            acts.push(Act::Say(
                vec![from],
                Word::Behind {
                    index: self.charter.index,
                },
            ));
            return false;
        }
        ballot.host == from && ballot.round > 0 && self.takes_part() && self.charter.hosts.contains_key(&from)
    }

    /// Tells what was decided after that index.
    fn tell(&self, to: HostId, index: u64, acts: &mut Vec<Act>) {
        if index > self.charter.index {
            acts.push(Act::Say(
                vec![to],
                Word::Behind {
                    index: self.charter.index,
                },
            ));
            return;
        }
        let lacks = self.charter.index.saturating_sub(index);
        if lacks > self.recent.len() as u64 {
            acts.push(Act::Say(
                vec![to],
                Word::At {
                    index: self.charter.index,
                },
            ));
            return;
        }
        for (slot, decree) in self.recent.iter().filter(|(slot, _)| *slot > index) {
            acts.push(Act::Say(
                vec![to],
                Word::Decided {
                    slot: *slot,
                    decree: decree.clone(),
                },
            ));
        }
    }

    fn decided(&mut self, now: Tick, from: HostId, slot: u64, decree: Decree, acts: &mut Vec<Act>) {
        if slot > self.charter.slot() {
            acts.push(Act::Say(
                vec![from],
                Word::Behind {
                    index: self.charter.index,
                },
            ));
            return;
        }
        if slot == self.charter.slot() {
            self.conclude(now, decree, acts);
            // Whoever hears of it now and has a wish would begin at the same time.
            self.rest = now + self.chance(BACK_OFF.0);
        } else if self
            .recent
            .iter()
            .any(|(known, other)| *known == slot && *other != decree)
        {
            acts.push(Act::Torn { with: from, slot });
        }
        acts.push(Act::Say(
            vec![from],
            Word::At {
                index: self.charter.index,
            },
        ));
    }

    fn prepare(
        &mut self,
        from: HostId,
        ballot: Ballot,
        intent: &Decree,
        ctx: Context<'_>,
        acts: &mut Vec<Act>,
    ) {
        let slot = self.charter.slot();
        self.round = self.round.max(ballot.round);
        if ballot < self.acceptor.promised {
            let promised = self.acceptor.promised;
            acts.push(Act::Say(
                vec![from],
                Word::Refuse {
                    slot,
                    ballot,
                    promised,
                },
            ));
            return;
        }
        let held = match self.consent(intent, ctx) {
            Ok(held) => held,
            Err(why) => {
                acts.push(Act::Say(
                    vec![from],
                    Word::Object {
                        slot,
                        ballot,
                        why: cut(why),
                    },
                ));
                return;
            }
        };
        if let Ok(changed) = self.acceptor.promise(ballot, intent) {
            self.vowed = Some(ballot);
            self.keep(changed, acts);
            let accepted = self.acceptor.accepted.clone();
            acts.push(Act::Say(
                vec![from],
                Word::Promise {
                    slot,
                    ballot,
                    accepted,
                    held,
                },
            ));
        }
    }

    fn accept(&mut self, from: HostId, ballot: Ballot, decree: &Decree, acts: &mut Vec<Act>) {
        let slot = self.charter.slot();
        self.round = self.round.max(ballot.round);
        match self.acceptor.accept(ballot, decree) {
            Ok(changed) => {
                self.keep(changed, acts);
                acts.push(Act::Say(vec![from], Word::Accepted { slot, ballot }));
            }
            Err(promised) => acts.push(Act::Say(
                vec![from],
                Word::Refuse {
                    slot,
                    ballot,
                    promised,
                },
            )),
        }
    }

    /// What this host tells of the shares that an intent speaks of, or what it has against the intent.
    pub(super) fn consent(&self, intent: &Decree, ctx: Context<'_>) -> Result<Shares, Vec<String>> {
        let mut why = ctx.witness.objections(intent, &self.charter);
        let mut held = Shares::new();
        if let Decree::Forget { heir, .. } = intent {
            let lost = intent.lost();
            if lost.contains(&self.me) {
                why.insert(0, "this host is alive".to_owned());
            }
            let members = self.charter.hosts.keys();
            held = telling(&lost, *heir, members.map(|host| (*host, ctx.witness.held(*host))));
            let size = most(
                "bytes of the shares of hosts to forget at once",
                size(&held),
                HELD_MAX,
            );
            if let Err(error) = size.and_then(|()| check_shares(held.values())) {
                why.push(error.to_string());
            }
        }
        match why.is_empty() {
            true => Ok(held),
            false => Err(why),
        }
    }

    pub(super) fn keep(&self, changed: bool, acts: &mut Vec<Act>) {
        if changed {
            acts.push(Act::Keep(Kept::Acceptor(Box::new(self.acceptor.clone()))));
        }
    }

    /// The attempt under way, if it is this one.
    fn mine(&mut self, slot: u64, ballot: Ballot) -> Option<&mut super::Attempt> {
        let open = slot == self.charter.slot();
        self.attempt
            .as_mut()
            .filter(|attempt| open && attempt.ballot == ballot)
    }
}

/// What is told of the members' shares for a decree that forgets some: of the lost ones all, of the others what speaks
/// against them, and of the heir what it has applied.
pub(crate) fn telling(
    lost: &BTreeSet<HostId>,
    heir: HostId,
    members: impl Iterator<Item = (HostId, BTreeMap<IpNet, Held>)>,
) -> Shares {
    let (mut held, others): (Shares, Shares) = members.partition(|(host, _)| lost.contains(host));
    for (other, mut share) in others {
        for (pool, theirs) in &mut share {
            theirs.gifts.clear();
            theirs
                .pieces
                .retain(|piece| lost.iter().any(|host| speaks_against(piece, pool, host, &held)));
        }
        // Of the heir what it has applied counts as well.
        share.retain(|_, theirs| other == heir || !theirs.pieces.is_empty());
        held.insert(other, share);
    }
    held.retain(|_, share| !share.is_empty());
    held
}

/// Whether a piece of somebody's says that a lost host's row is older than it should be.
fn speaks_against(piece: &(IpNet, u64), pool: &IpNet, lost: &HostId, held: &Shares) -> bool {
    let meets = |net: &IpNet| net.contains(&piece.0) || piece.0.contains(net);
    let Some(theirs) = held.get(lost).and_then(|share| share.get(pool)) else {
        return false;
    };
    let owned = theirs
        .pieces
        .iter()
        .any(|(net, seq)| meets(net) && later(*seq, piece.1));
    owned
        || theirs
            .gifts
            .iter()
            .any(|(net, seq, _)| meets(net) && piece.1 > *seq)
}

/// Takes over what is newer, by host and pool. Of one row two hosts may have told different parts.
pub(super) fn newest(all: &mut Shares, told: Shares) {
    for (host, share) in told {
        let known: &mut BTreeMap<_, Held> = all.entry(host).or_default();
        for (pool, mut held) in share {
            match known.get_mut(&pool) {
                Some(older) if older.version > held.version => {}
                Some(same) if same.version == held.version => {
                    held.pieces.retain(|piece| !same.pieces.contains(piece));
                    same.pieces.append(&mut held.pieces);
                }
                _ => {
                    known.insert(pool, held);
                }
            }
        }
    }
}
