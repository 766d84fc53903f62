//! Where a store outside of the cluster decides: what is asked of it, and what its answers mean.
//!
//! The council then only holds the charter. All else is as it is: who is there, the rows, and the leases from what this
//! host has settled need no store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Deal, Share};

use super::{Node, Output, Tick};
use crate::charter::Decree;
use crate::council::Outcome;
use crate::store::{Answer, Ask, CONFIRM_MAX, Claim, Known, What, Whose};

/// How often it is looked whether something was decided that nobody here has told.
const LOOK: Duration = Duration::from_secs(30);

/// How often one of those is called who are not there. Hosts that were let in while the others were off, which no
/// majority would have done, may be known to nobody of these.
const CALL: Duration = Duration::from_secs(15);

/// How soon after something went wrong; it doubles up to the second one.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// How long a claim may wait for its answer until it is asked for again.
const WITNESS: Duration = Duration::from_secs(3);

/// How soon a claim that the store did not take is tried again.
const STALE: Duration = Duration::from_millis(200);

/// Most decrees that are asked for at a time.
const DECIDING: usize = 64;

/// What is going on.
pub(super) struct State {
    /// Whose wishes the decrees are that were asked for; wishes have tickets of others' making.
    deciding: BTreeMap<u64, u64>,
    /// A question about this host's shares of these pools, or, once they are confirmed, about the charter alone.
    looking: Option<(u64, Option<Vec<IpNet>>)>,
    /// A question about everybody's shares.
    reading: Option<u64>,
    next: Tick,
    /// When somebody is called next who is not there.
    call: Tick,
    /// How many decrees were known when everybody's shares were read last.
    read: Option<u64>,
    /// The most decrees that another host said it knows.
    heard: u64,
    /// Why the store did not answer last.
    why: Option<String>,
    /// How often in a row it did not.
    failed: u32,
    /// Pools of which this host's share was confirmed in this life.
    confirmed: BTreeSet<IpNet>,
    /// Whether all were, and nothing is put off any more.
    sure: bool,
    /// This life's number, once it has one.
    life: u64,
}

impl State {
    pub(super) fn new(now: Tick) -> Self {
        Self {
            deciding: BTreeMap::new(),
            looking: None,
            reading: None,
            next: now,
            call: now + CALL,
            read: None,
            heard: 0,
            why: None,
            failed: 0,
            confirmed: BTreeSet::new(),
            sure: false,
            life: 0,
        }
    }
}

impl Node {
    /// Whether a store outside of the cluster decides.
    pub(super) fn by_store(&self) -> bool {
        self.council.charter().by_store
    }

    /// Why the store did not answer last; none if it did, or is not asked.
    pub fn store_fault(&self) -> Option<&str> {
        self.store.why.as_deref()
    }

    /// Why they aren't.
    pub(super) fn why_not_sure(&self) -> String {
        let by = if self.by_store() {
            "the store"
        } else {
            "enough other hosts"
        };
        let why = self.store_fault().map(str::to_owned);
        why.unwrap_or_else(|| format!("{by} did not confirm this host since its start: try again"))
    }

    /// Whether this host's shares are known to be the latest, so that they may change.
    pub(super) fn is_sure(&self) -> bool {
        match self.by_store() {
            true => self.store.sure,
            false => self.is_recalled(),
        }
    }

    fn ask_store(&mut self, ticket: u64, ask: Ask) {
        let known = Known::of(self.charter());
        self.out.push_back(Output::Store { ticket, known, ask });
    }

    /// Something may have been decided that is not known here.
    pub(super) fn look_soon(&mut self) {
        self.store.next = self.store.next.min(self.now);
    }

    /// Has the store decide. What this host has against it is said before; others are not asked.
    pub(super) fn decide_by_store(&mut self, ticket: u64, decree: Decree) {
        let against = self.with_council(|council, _, ctx| ctx.witness.objections(&decree, council.charter()));
        let refused = match (against.is_empty(), decree.check()) {
            (false, _) => Some(format!("this host objects: {}", against.join("; "))),
            (_, Err(error)) => Some(error.to_string()),
            _ if self.store.deciding.len() >= DECIDING => {
                Some(format!("{DECIDING} wishes are being decided already: try again"))
            }
            _ => None,
        };
        if let Some(why) = refused {
            return self.done(ticket, Err(why));
        }
        let mine = match decree {
            Decree::Leave { .. } | Decree::Dissolve { .. } => self.space.own().clone(),
            _ => BTreeMap::new(),
        };
        let own = self.ticket();
        self.store.deciding.insert(own, ticket);
        self.ask_store(own, Ask::Decide { decree, mine });
    }

    /// Has the store keep a gift and its claim in mind.
    pub(super) fn witness_by_store(&mut self, round: u64, claim: Claim) {
        self.claim_stored(round, Some(self.now + WITNESS));
        self.ask_store(round, Ask::Witness(Box::new(claim)));
    }

    /// Reads everybody's shares, unless that is under way.
    pub(super) fn read_store(&mut self) {
        if self.store.reading.is_none() {
            let ticket = self.ticket();
            self.store.reading = Some(ticket);
            self.ask_store(ticket, Ask::Read);
        }
    }

    /// Whether everybody's shares were read since the members changed last.
    pub(super) fn has_read_store(&self) -> bool {
        let since = self.council.charter().members_since();
        self.store.read.is_some_and(|read| read >= since)
    }

    /// Another host knows so many decrees.
    pub(super) fn store_heard(&mut self, index: u64) {
        self.store.heard = self.store.heard.max(index);
    }

    /// Whether somebody is there, and nobody has said that it knows of the last decree.
    pub(super) fn store_untold(&self) -> bool {
        self.membership.alive_count() > 0 && self.store.heard < self.charter().index
    }

    pub(super) fn store_due(&self) -> Option<Tick> {
        let next = self.store.looking.is_none().then_some(self.store.next);
        let due = next.map_or(self.store.call, |next| next.min(self.store.call));
        self.by_store().then_some(due)
    }

    /// Calls somebody who is not there as far as is known.
    fn call_absent(&mut self) {
        self.store.call = self.now + CALL;
        let absent = self.seats.keys().filter(|host| !self.is_alive(host));
        let absent: Vec<HostId> = absent.copied().collect();
        let at = self.pick(absent.len());
        if let Some(host) = absent.get(at) {
            self.hello(*host);
        }
    }

    pub(super) fn store_tick(&mut self) {
        if self.by_store() && self.store.call <= self.now {
            self.call_absent();
        }
        if !self.by_store() || self.store.looking.is_some() || self.store.next > self.now {
            return;
        }
        let pools: Option<Vec<IpNet>> = self
            .is_unconfirmed()
            .then(|| self.unconfirmed_pools().take(CONFIRM_MAX).copied().collect());
        let own = |pool: &IpNet| (*pool, self.space.own().get(pool).cloned());
        let ask = match &pools {
            Some(pools) => Ask::Confirm {
                me: self.me,
                mine: pools.iter().map(own).collect(),
            },
            None => Ask::Look,
        };
        let ticket = self.ticket();
        self.store.looking = Some((ticket, pools));
        self.ask_store(ticket, ask);
    }

    /// The store has answered, or could not be asked.
    pub(super) fn stored(&mut self, ticket: u64, outcome: Result<Box<Answer>, String>) {
        let deciding = self.store.deciding.remove(&ticket);
        let looking = self.store.looking.take_if(|(of, _)| *of == ticket);
        let reading = self.store.reading.take_if(|of| *of == ticket).is_some();
        let answer = match outcome {
            Ok(answer) => *answer,
            Err(why) => {
                self.store.why = Some(why.clone());
                let pause = AGAIN.0.saturating_mul(1 << self.store.failed.min(8)).min(AGAIN.1);
                let again = self.now + pause;
                // What was asked for may have come about all the same.
                self.store.next = self.store.next.min(again);
                if looking.is_some() {
                    self.store.next = again;
                    self.store.failed = self.store.failed.saturating_add(1);
                }
                if let Some(wish) = deciding {
                    self.done(wish, Err(why));
                } else if looking.is_none() && !reading {
                    let chance = self.chance() % 500;
                    let again = again + Duration::from_millis(chance);
                    self.claim_stored(ticket, Some(again));
                }
                return;
            }
        };
        self.store.why = None;
        self.store.failed = 0;
        let index = answer.charter.index;
        let acts = self.with_council(|council, now, ctx| council.adopt(now, answer.charter, ctx));
        self.act(acts);
        match answer.what {
            What::Decided(void) => {
                let outcome = match void {
                    None => Outcome::Decided { index },
                    Some(why) => Outcome::Void { why },
                };
                if let Some(wish) = deciding {
                    self.decided(wish, outcome);
                }
                // Others learn of it from here.
                self.sync_now();
            }
            What::Kept => self.claim_stored(ticket, None),
            What::Stale(mut shares) => {
                let me = self.me;
                let later = shares.extract_if(.., |(_, host), _| *host == me);
                let later: BTreeMap<_, _> = later.map(|((pool, _), share)| (pool, share)).collect();
                if !later.is_empty() {
                    self.shares_elsewhere(later);
                }
                self.learn_stored(shares);
                match looking {
                    Some(_) => self.store.next = self.now + STALE,
                    None => self.claim_stored(ticket, Some(self.now + STALE)),
                }
            }
            What::Read(shares) if reading => {
                self.learn_stored(shares);
                self.store.read = Some(index);
            }
            What::Read(_) => self.look_later(),
            What::Confirmed(life, shares) => {
                self.look_later();
                if let Some((_, Some(pools))) = looking {
                    self.pools_confirmed(pools, life, shares);
                }
            }
        }
    }

    /// The pools whose shares the store has still to confirm.
    fn unconfirmed_pools(&self) -> impl Iterator<Item = &IpNet> {
        let pools = self.charter().pools.keys();
        pools.filter(|pool| !self.store.confirmed.contains(*pool))
    }

    fn look_later(&mut self) {
        let quarter = u64::try_from(LOOK.as_millis() / 4).unwrap_or(0).max(1);
        let chance = Duration::from_millis(self.chance() % quarter);
        self.store.next = self.now + LOOK + chance;
    }

    /// The store had nothing against this host's shares of these pools.
    fn pools_confirmed(&mut self, pools: Vec<IpNet>, life: u64, shares: BTreeMap<Whose, Share>) {
        if !self.is_unconfirmed() {
            return;
        }
        for ((pool, _), share) in shares {
            self.deal(pool, Deal::Restore(share));
        }
        self.store.life = life;
        self.store.confirmed.extend(pools);
        if self.unconfirmed_pools().next().is_some() {
            self.store.next = self.now;
            return;
        }
        self.store.sure = true;
        self.go_on_sure();
        // Leases begin after all that.
        self.confirmed_by_store();
    }

    /// What was put off until it was certain that this host's shares are the latest.
    pub(super) fn go_on_sure(&mut self) {
        let own: Vec<(IpNet, Share)> = self.space.own().clone().into_iter().collect();
        for (pool, share) in own {
            self.raise(pool, &share);
        }
        self.space_charter();
        self.react_to_all();
    }

    /// Puts a share into this life, if it isn't.
    pub(super) fn raise(&mut self, pool: IpNet, share: &Share) {
        let life = match self.by_store() {
            true if self.store.sure || self.store.confirmed.contains(&pool) => self.store.life,
            // The store may have a later one.
            true => 0,
            false => self.own_life(),
        };
        if crate::store::life(share) < life {
            let risen = crate::store::risen(share, life);
            self.deal(pool, Deal::Restore(risen));
        }
    }

    /// It must be confirmed anew.
    pub(super) fn store_anew(&mut self) {
        self.store.confirmed.clear();
        self.store.sure = false;
        self.store.next = self.now;
    }
}
