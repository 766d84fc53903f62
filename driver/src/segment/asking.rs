//! Whom to ask for on one wire, when, and what follows from the answers. Pure: time and words come in, probes go out.
//!
//! ```text
//!   ask ──known for a minute──> verdict at once
//!    └───else──> round:  probe ── 60..90 ms ── probe ── 60..90 ms ── probe ── 100 ms ──> nobody has it
//!                          └──────── an answer, at any time ────────> taken
//!   ahead: those that will be asked for next have a round each as soon as they are named, and another one, of one probe,
//!          40 to 50 s after the last
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tombolo_core::model::Mac;
use tombolo_core::world::Family;

use super::proxies::{DRAWN, Proxies};
use super::random::Random;
use super::table::{Known, SILENCE, Table};
use super::{Holder, Trust, Verdict, Why};
use crate::kernel::frame::{Sort, Word};

/// How many probes a round has, between them, and after the last. All of it stays below 300 ms.
const PROBES: u8 = 3;
const GAP: Duration = Duration::from_millis(60);
const GAP_SPREAD: Duration = Duration::from_millis(30);
const LAST: Duration = Duration::from_millis(100);

/// When those that are kept ahead are asked for again; it must be less than [`SILENCE`].
const AGAIN: Duration = Duration::from_secs(40);
const AGAIN_SPREAD: Duration = Duration::from_secs(10);

/// The pause between the beginnings of two rounds of those.
const AHEAD_GAP: Duration = Duration::from_millis(10);

/// How many addresses are kept ahead at most, and how many are asked for at a time.
pub(super) const AHEAD: usize = 256;
const ROUNDS: usize = 1024;

/// How often an address is drawn anew that is ours or a stranger's, before the trial is given up.
const DRAWS: usize = 20 * DRAWN;

/// An address that is being asked for. `W` is who waits for the outcome.
#[derive(Debug)]
struct Round<W> {
    left: u8,
    due: Instant,
    sent: bool,
    /// Why a probe couldn't be sent.
    refused: Option<String>,
    /// An answer may have been lost.
    missed: bool,
    /// Who has answered that answers for all.
    proxy: Option<Mac>,
    /// Who is being tried by this, if it is for that.
    tries: BTreeSet<Mac>,
    waiting: Vec<W>,
}

/// All that is asked and known on one wire.
#[derive(Debug)]
pub(super) struct Asking<W> {
    table: Table,
    proxies: Proxies,
    rounds: HashMap<IpAddr, Round<W>>,
    due: BTreeSet<(Instant, IpAddr)>,
    /// Those that are kept ahead, and when each is asked for next.
    ahead: BTreeMap<IpAddr, Instant>,
    /// When the next of those may begin.
    next_ahead: Instant,
    random: Random,
    /// What is known now, for those who waited.
    pub settled: Vec<(W, Verdict)>,
}

impl<W> Asking<W> {
    pub fn new(now: Instant, seed: u64) -> Self {
        Self {
            table: Table::default(),
            proxies: Proxies::default(),
            rounds: HashMap::new(),
            due: BTreeSet::new(),
            ahead: BTreeMap::new(),
            next_ahead: now,
            random: Random::new(seed),
            settled: Vec::new(),
        }
    }

    /// Who has this address? The answer is among [`Self::settled`], now or later.
    pub fn ask(&mut self, address: IpAddr, trust: Trust, who: W, now: Instant) {
        let known = match self.table.known(address, now) {
            _ if trust == Trust::Nothing => None,
            Known::Free(_, None) => Some(Verdict::Free),
            Known::Free(_, Some(proxy)) => Some(Verdict::Proxy(proxy)),
            // An older word is a reason to ask, not to believe: whoever said it may have gone.
            Known::Taken(mac, age) if age <= SILENCE => Some(Verdict::Taken(Holder::Stranger(mac))),
            Known::Taken(..) | Known::Unknown => None,
        };
        if let Some(verdict) = known {
            return self.settled.push((who, verdict));
        }
        match self.round(address, PROBES, now) {
            Some(round) => round.waiting.push(who),
            None => self.settled.push((who, Verdict::Unasked(Why::Busy))),
        }
    }

    /// The round of an address: the one that is under way with at least so many probes to come in all, or a new one.
    fn round(&mut self, address: IpAddr, probes: u8, now: Instant) -> Option<&mut Round<W>> {
        if self.rounds.len() >= ROUNDS && !self.rounds.contains_key(&address) {
            return None;
        }
        let due = &mut self.due;
        let round = self.rounds.entry(address).or_insert_with(|| {
            due.insert((now, address));
            Round {
                left: probes,
                due: now,
                sent: false,
                refused: None,
                missed: false,
                proxy: None,
                tries: BTreeSet::new(),
                waiting: Vec::new(),
            }
        });
        Some(round)
    }

    /// These are asked for next, the first ones first, and none else.
    pub fn keep_ahead(&mut self, addresses: &[IpAddr], now: Instant) {
        let mut before = std::mem::take(&mut self.ahead);
        for (nth, address) in addresses.iter().take(AHEAD).enumerate() {
            let known = match self.table.known(*address, now) {
                Known::Free(age, _) => AGAIN.saturating_sub(age),
                _ => Duration::ZERO,
            };
            // So that they are asked for in this order.
            let anew = now + known + Duration::from_micros(nth as u64);
            let at = before.remove(address).unwrap_or(anew);
            self.ahead.entry(*address).or_insert(at);
        }
    }

    /// Those that are kept ahead.
    pub fn ahead(&self) -> impl Iterator<Item = IpAddr> {
        self.ahead.keys().copied()
    }

    /// Takes a word that is not our own. `own` knows addresses of ours, which tell nothing in a trial.
    pub fn hear(&mut self, word: Word, own: impl Fn(IpAddr) -> bool, now: Instant) {
        let Word { address, mac, sort } = word;
        let answers = sort == Sort::Answers;
        if answers && self.rounds.contains_key(&address) && self.proxies.answered(mac, address, now) {
            self.try_for_all(mac, address, own, now);
        }
        if answers && self.proxies.is(mac) {
            // It would say so of any address; somebody else may have it nevertheless, so the round goes on.
            let tried = self.rounds.get_mut(&address).is_some_and(|round| {
                round.proxy = Some(mac);
                round.tries.contains(&mac)
            });
            if tried {
                self.tried(address, now);
            }
            return;
        }
        self.table.hear(word, now);
        if let Some(round) = self.end(address) {
            self.settle(address, round, Verdict::Taken(Holder::Stranger(mac)), now);
        }
    }

    /// Ends a round that is for a trial only, once it has told what it is for.
    fn tried(&mut self, address: IpAddr, now: Instant) {
        let idle = self
            .rounds
            .get(&address)
            .is_some_and(|round| round.waiting.is_empty());
        if idle && let Some(round) = self.end(address) {
            let proxy = round.proxy;
            self.trials(address, &round.tries, proxy, now);
        }
    }

    /// Begins a trial of somebody who has answered for many addresses.
    fn try_for_all(&mut self, mac: Mac, near: IpAddr, own: impl Fn(IpAddr) -> bool, now: Instant) {
        let mut drawn = BTreeSet::new();
        for _ in 0..DRAWS {
            let address = self.random.near(near);
            let held = matches!(self.table.known(address, now), Known::Taken(..));
            if drawn.len() < DRAWN && !held && !own(address) && !self.rounds.contains_key(&address) {
                drawn.insert(address);
            }
        }
        let room = self.rounds.len() + DRAWN <= ROUNDS;
        // With too few that could be asked for, it is not known, and what it says counts.
        if drawn.len() < DRAWN || !room {
            drawn.clear();
        }
        self.proxies.begin(mac, &drawn, now);
        for address in drawn {
            if let Some(round) = self.round(address, PROBES, now) {
                round.tries.insert(mac);
            }
        }
    }

    /// Tells trials what became of an address.
    fn trials(&mut self, address: IpAddr, tries: &BTreeSet<Mac>, answered: Option<Mac>, now: Instant) {
        for mac in tries {
            let found = answered == Some(*mac);
            if self.proxies.settled(*mac, address, found, now) {
                tracing::warn!(%mac, "it answers for all addresses on this wire (proxy ARP), so its answers tell nothing");
                self.table.forget_answers(*mac);
                // What was taken by its word is to be asked for anew.
                self.ahead.values_mut().for_each(|at| *at = now);
            }
        }
    }

    /// Takes a round out.
    fn end(&mut self, address: IpAddr) -> Option<Round<W>> {
        let round = self.rounds.remove(&address)?;
        self.due.remove(&(round.due, address));
        Some(round)
    }

    /// Tells everybody what became of a round.
    fn settle(&mut self, address: IpAddr, round: Round<W>, verdict: Verdict, now: Instant) {
        if let Some(at) = self.ahead.get_mut(&address) {
            *at = now + self.random.pause(AGAIN, AGAIN_SPREAD);
        }
        let answered = match &verdict {
            Verdict::Taken(Holder::Stranger(mac)) => Some(*mac),
            _ => round.proxy,
        };
        self.trials(address, &round.tries, answered, now);
        let waiting = round.waiting.into_iter();
        self.settled.extend(waiting.map(|who| (who, verdict.clone())));
    }

    /// When there is something to do without anybody's word.
    pub fn due(&self) -> Option<Instant> {
        let round = self.due.first().map(|(at, _)| *at);
        let ahead = self.ahead.values().min().map(|at| (*at).max(self.next_ahead));
        round.into_iter().chain(ahead).min()
    }

    /// Does what is due. Gives the addresses for which a probe is to be sent now.
    pub fn turn(&mut self, now: Instant) -> Vec<IpAddr> {
        self.turn_ahead(now);
        let mut probes = Vec::new();
        while let Some((at, address)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, address));
            let Some(round) = self.rounds.get_mut(&address) else {
                continue;
            };
            if round.left > 0 {
                round.left -= 1;
                let wait = match round.left {
                    0 => LAST,
                    _ => self.random.pause(GAP, GAP_SPREAD),
                };
                round.due = now + wait;
                self.due.insert((round.due, address));
                probes.push(address);
            } else if let Some(round) = self.end(address) {
                self.unanswered(address, round, now);
            }
        }
        probes
    }

    /// Begins the next round of those that are kept ahead, if its time has come.
    fn turn_ahead(&mut self, now: Instant) {
        if self.next_ahead > now {
            return;
        }
        let first = self.ahead.iter().min_by_key(|(_, at)| **at);
        let Some((address, _)) = first.filter(|(_, at)| **at <= now) else {
            return;
        };
        let address = *address;
        self.next_ahead = now + AHEAD_GAP;
        let probes = match self.table.known(address, now) {
            // It was asked for with all probes before, and who is new on a wire says so: one is enough to be sure.
            Known::Free(..) => 1,
            _ => PROBES,
        };
        // Its time is set anew when the round ends; until then, and if there is no room, it is not asked for.
        self.ahead.insert(address, now + AGAIN);
        self.round(address, probes, now);
    }

    fn unanswered(&mut self, address: IpAddr, round: Round<W>, now: Instant) {
        let verdict = match (round.sent, round.missed, round.proxy) {
            (false, ..) => Verdict::Unasked(Why::Refused(round.refused.clone().unwrap_or_default())),
            (true, true, _) => Verdict::Unasked(Why::Flooded),
            (true, false, Some(mac)) => Verdict::Proxy(mac),
            (true, false, None) => Verdict::Free,
        };
        if round.sent && !round.missed {
            self.table.silent(address, round.proxy, now);
        }
        self.settle(address, round, verdict, now);
    }

    /// Notes what became of a probe that was to be sent.
    pub fn sent(&mut self, address: IpAddr, outcome: Result<(), String>) {
        if let Some(round) = self.rounds.get_mut(&address) {
            match outcome {
                Ok(()) => round.sent = true,
                Err(why) => round.refused = Some(why),
            }
        }
    }

    /// Frames were lost that may have been answers.
    pub fn missed(&mut self, family: Family) {
        for (address, round) in &mut self.rounds {
            round.missed |= Family::of(*address) == family;
        }
    }

    /// Nobody can be asked any more: who waits is told so. What was known is forgotten, since it may be another wire
    /// when it comes back; those kept ahead are then asked for at once.
    pub fn stop(&mut self, why: &Why, now: Instant) {
        let rounds = std::mem::take(&mut self.rounds);
        self.due.clear();
        let waiting = rounds.into_values().flat_map(|round| round.waiting);
        self.settled
            .extend(waiting.map(|who| (who, Verdict::Unasked(why.clone()))));
        self.table.clear();
        self.proxies.clear();
        self.ahead.values_mut().for_each(|at| *at = now);
    }

    /// Whether somebody is being asked for.
    pub fn is_asking(&self) -> bool {
        !self.rounds.is_empty()
    }
}

#[cfg(test)]
mod tests;
