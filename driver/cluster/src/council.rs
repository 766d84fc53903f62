//! The council: how hosts decide what has to be agreed on. Rare decisions, each by a majority.
//!
//! ```text
//!   wish ──propose──> ┌─────────┐ ──Keep──> disk      Prepare ─> Promise, Object     is anybody against it, and what
//!   word ──hear─────> │ Council │ ──Say───> others                                   was accepted before?
//!   time ──tick─────> │         │ ──Done──> the wish  Accept  ─> Accepted            a majority: it is decided
//!   charter ─adopt──> └─────────┘ ──Changed           Decided, Behind, At            how everybody hears of it
//! ```
//!
//! Decrees are numbered. Slot i is decided by single-decree Paxos among the members of the charter of index i - 1, so
//! that a decree which changes who decides takes effect with the next one. A host answers only for the slot after its own
//! charter: for older ones it tells what was decided, for newer ones it asks.
//!
//! Two things are added to Paxos. A proposal carries what it wants (its *intent*), and any host that answers may object:
//! then nothing was accepted and the proposal ends. And a host that promises to an intent to forget others tells what it
//! has witnessed of their shares, and witnesses nothing newer of them until the slot is decided ([`Council::frozen`]);
//! the newest that a quorum tells stands in the decree. Whatever a majority had witnessed is therefore in it.
//!
//! Acts are to be carried out in their order, and all of one call before the next call; a `Keep` is durable before what
//! follows it is done. After a `Keep` that failed the council must be dropped, and begun again from what is on disk.
//! Words come authenticated, with the host that sent them; hosts may be late, deaf or dead, but they don't lie.

mod acceptor;
mod answer;
mod propose;
mod quorum;
mod word;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;

use crate::charter::{Charter, Decree, Held, Void};
use crate::time::Tick;

pub use acceptor::{Acceptor, Ballot};
pub(crate) use answer::telling;
use propose::Attempt;
pub use quorum::Quorum;
pub use word::{NoWord, OBJECTION_MAX, OBJECTIONS_MAX, Shares, WORD_MAX, Word};

/// How long a proposal waits for hosts that are alive and haven't answered, once a quorum has.
pub const GRACE: Duration = Duration::from_millis(300);
/// How long a slot may stay half-way before any host brings it to an end; up to a third more, by chance.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Most wishes that wait; further ones are turned away.
pub const QUEUE_MAX: usize = 64;

/// How many decided decrees are kept to tell others who are a little behind.
const RECENT: usize = 16;
/// The pause before a word is said again to who hasn't answered; it doubles up to the second one.
const AGAIN: (u64, u64) = (150, 2000);
/// The pause before another attempt after a refused one, in ms, by chance up to this; it doubles up to the second one.
const BACK_OFF: (u64, u64) = (40, 2000);
/// How often a host asks another one, by turns of chance, whether it is behind, in ms.
const ASKING: u64 = 5000;
/// The least pause between two fetches of a charter, in ms.
const FETCHING: u64 = 1000;

/// What this host knows that a decision depends on.
pub trait Witness {
    /// The share of a host, by pool, as witnessed here; for this host itself as it is. What [`Council::frozen`] speaks of
    /// must not be newer than when it began to. What this host has confirmed to another one as witnessed must not be
    /// forgotten, not even by a restart.
    fn held(&self, host: HostId) -> BTreeMap<IpNet, Held>;

    /// What this host has against a decree, in words for people; empty if nothing. For instance that a host to forget
    /// was heard of just now, that a route of this host overlaps a pool to found, that a pool to dissolve is in use,
    /// that a host which wants to leave owns something.
    fn objections(&self, decree: &Decree, charter: &Charter) -> Vec<String>;

    /// Whether this host remembers all that it has promised, accepted and witnessed, as far as that can be known; where a
    /// decree forgets these hosts, without them. One that may not takes no part in deciding.
    fn is_sure(&self, lost: &BTreeSet<HostId>, charter: &Charter) -> bool;

    /// The members whose shares this host has read since the members changed last ([`Charter::members_since`]), each
    /// told by that member itself after it knew of that change, with all that it had witnessed of others; as durable as
    /// what they told, since rows that are frozen cannot be read again after a restart. Until these are enough ([`Charter::read_enough`]) this host takes no part in changing the members again.
    fn read(&self, charter: &Charter) -> BTreeSet<HostId>;
}

/// What is handed in with each call.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The hosts that are believed to be alive.
    pub alive: &'a BTreeSet<HostId>,
    /// What this host knows.
    pub witness: &'a dyn Witness,
}

/// Something to make durable. The charter makes an acceptor that was kept before it void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Replaces the acceptor that was kept before.
    Acceptor(Box<Acceptor>),
    /// Replaces the charter that was kept before.
    Charter(Box<Charter>),
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Make this durable before anything that follows.
    Keep(Kept),
    /// Send a word to each of these hosts. It may be lost.
    Say(Vec<HostId>, Word),
    /// Call `tick` at this time or soon after; replaces the one before.
    Wake(Tick),
    /// A wish came to its end.
    Done(u64, Outcome),
    /// The charter is another one.
    Changed {
        /// The decree; `None` if a whole charter was adopted.
        decree: Option<Decree>,
        /// The charter's index.
        index: u64,
        /// Why the decree changed nothing but the index.
        void: Option<Void>,
    },
    /// Get the charter from this host and `adopt` it.
    Fetch(HostId),
    /// This host knows another decree for a slot than that one does: an operator's assertion was false, or a disk went
    /// back. The cluster is split.
    Torn {
        /// The other host.
        with: HostId,
        /// The slot.
        slot: u64,
    },
}

/// How a wish ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds, since the decree of this index.
    Decided {
        /// The index.
        index: u64,
    },
    /// It makes no sense, as the charter is.
    Void {
        /// Why.
        why: Void,
    },
    /// A host has something against it. Nothing was accepted, it will not happen.
    Objected {
        /// The host.
        by: HostId,
        /// What.
        why: Vec<String>,
    },
    /// The time ran out without a quorum. It will not happen.
    NoMajority {
        /// How many hosts answered; or, where members are to change, how many shares were read since they last did.
        reached: usize,
        /// Of how many whose votes count.
        of: usize,
        /// How many it needs.
        needed: usize,
    },
    /// The time ran out.
    Late {
        /// Whether it was offered to others, so that it may still be decided.
        offered: bool,
    },
    /// Too many wishes wait.
    Crowded {
        /// How many may.
        most: usize,
    },
}

/// A host's part in deciding.
#[derive(Debug)]
pub struct Council {
    me: HostId,
    charter: Charter,
    /// For the slot after the charter; for a later one after the disk lost a charter, and then this host is mute.
    acceptor: Acceptor,
    /// The last decrees, without a gap and up to the charter's index.
    recent: VecDeque<(u64, Decree)>,
    wishes: VecDeque<Wish>,
    attempt: Option<Attempt>,
    /// The last proposal that this host has promised itself to in this life, and had not only kept from an earlier one.
    vowed: Option<Ballot>,
    /// The highest round heard of in this slot.
    round: u64,
    /// Refused attempts in this slot.
    refused: u32,
    /// No attempt before this time.
    rest: Tick,
    /// Since when the slot is half-way, and until when that may last.
    half_way: Option<Tick>,
    /// Attempts to bring the slot to an end.
    ended: u32,
    telling: Option<Telling>,
    /// When to ask another host whether this one is behind; `None` before the first call.
    ask: Option<Tick>,
    /// No fetch before this time.
    fetch: Tick,
    woken: Option<Tick>,
    /// The state of the random numbers.
    seed: u64,
}

/// What somebody here wants to be decided.
#[derive(Debug)]
struct Wish {
    ticket: u64,
    decree: Decree,
    deadline: Tick,
    /// Whether it was offered for acceptance in the open slot.
    offered: bool,
    /// The best that its attempts came to: votes, of how many, needed.
    reached: Option<(usize, usize, usize)>,
}

/// The last decree that this host brought about, and who may not have heard of it.
#[derive(Debug)]
struct Telling {
    slot: u64,
    untold: BTreeSet<HostId>,
    again: Tick,
    tries: u32,
}

impl Council {
    /// A host's council as it was kept. `seed` is random: hosts that draw the same pauses stand in each other's way.
    pub fn new(me: HostId, charter: Charter, kept: Option<Acceptor>, seed: u64) -> Self {
        let acceptor = kept.filter(|kept| kept.slot >= charter.slot());
        let acceptor = acceptor.unwrap_or_else(|| Acceptor::of(charter.slot()));
        Self {
            me,
            charter,
            acceptor,
            recent: VecDeque::new(),
            wishes: VecDeque::new(),
            attempt: None,
            vowed: None,
            round: 0,
            refused: 0,
            rest: Tick(0),
            half_way: None,
            ended: 0,
            telling: None,
            ask: None,
            fetch: Tick(0),
            woken: None,
            seed,
        }
    }

    /// The charter as this host knows it.
    pub fn charter(&self) -> &Charter {
        &self.charter
    }

    /// Whether this host must not witness newer rows of that one's shares: it has told what it knows of them for a
    /// decree that forgets that host, and the slot isn't decided.
    pub fn frozen(&self, host: HostId) -> bool {
        self.acceptor.frozen.contains(&host)
    }

    /// Hosts that may not have heard of the last decree that this host brought about. One that leaves waits a little
    /// until nobody of those alive is among them.
    pub fn untold(&self) -> impl Iterator<Item = HostId> {
        self.telling
            .iter()
            .flat_map(|telling| telling.untold.iter().copied())
    }

    /// Wants a decree. The outcome comes with the ticket, at the deadline at the latest.
    pub fn propose(
        &mut self,
        now: Tick,
        ticket: u64,
        decree: &Decree,
        deadline: Tick,
        ctx: Context<'_>,
    ) -> Vec<Act> {
        let mut acts = Vec::new();
        let outcome = match decree.check() {
            Err(why) => Some(Outcome::Void { why: why.into() }),
            Ok(()) if self.wishes.len() >= QUEUE_MAX => Some(Outcome::Crowded { most: QUEUE_MAX }),
            Ok(()) => None,
        };
        match outcome {
            Some(outcome) => acts.push(Act::Done(ticket, outcome)),
            None => {
                let decree = decree.bare();
                self.wishes.push_back(Wish {
                    ticket,
                    decree,
                    deadline,
                    offered: false,
                    reached: None,
                });
            }
        }
        self.go_on(now, ctx, &mut acts);
        acts
    }

    /// Takes note of a word of another host.
    pub fn hear(&mut self, now: Tick, from: HostId, word: Word, ctx: Context<'_>) -> Vec<Act> {
        let mut acts = Vec::new();
        if from != self.me {
            self.answer(now, from, word, ctx, &mut acts);
        }
        self.go_on(now, ctx, &mut acts);
        acts
    }

    /// Takes note of the time.
    pub fn tick(&mut self, now: Tick, ctx: Context<'_>) -> Vec<Act> {
        let mut acts = Vec::new();
        self.go_on(now, ctx, &mut acts);
        acts
    }

    /// Whether it may be decided that this host leaves: it has accepted that itself, before anybody else could.
    pub fn may_leave(&self) -> bool {
        let accepted = self.acceptor.accepted.as_ref().filter(|_| self.takes_part());
        accepted.is_some_and(|(_, decree)| *decree == Decree::Leave { host: self.me })
    }

    /// What this host has promised and accepted for the slot after its charter.
    pub fn vote(&self) -> &Acceptor {
        &self.acceptor
    }

    /// Takes note of what another host has promised and accepted, if it is for the same slot: this one may have done the
    /// same, and not remember it. What it took part in was taken part in by a quorum, and it asks so many that one of
    /// these is among them.
    pub fn recall(&mut self, vote: &Acceptor) -> Vec<Act> {
        let mut acts = Vec::new();
        if vote.slot == self.charter.slot() && self.takes_part() {
            let changed = self.acceptor.recall(vote);
            self.keep(changed, &mut acts);
        }
        acts
    }

    /// Takes over a charter of this cluster, if it is newer.
    pub fn adopt(&mut self, now: Tick, charter: Charter, ctx: Context<'_>) -> Vec<Act> {
        let mut acts = Vec::new();
        if charter.cluster == self.charter.cluster && charter.index > self.charter.index {
            let before = std::mem::replace(&mut self.charter, charter);
            self.recent.clear();
            let index = self.charter.index;
            self.turn(now, &mut acts);
            acts.push(Act::Changed {
                decree: None,
                index,
                void: None,
            });
            let wishes = std::mem::take(&mut self.wishes);
            for wish in wishes {
                let ended = match &wish.decree {
                    Decree::Dissolve { pool, .. } => {
                        before.pools.contains_key(pool) && !self.charter.pools.contains_key(pool)
                    }
                    _ => false,
                };
                match self.charter.holds(&wish.decree).or(ended.then_some(index)) {
                    Some(index) => acts.push(Act::Done(wish.ticket, Outcome::Decided { index })),
                    None => self.wishes.push_back(wish),
                }
            }
        }
        self.go_on(now, ctx, &mut acts);
        acts
    }

    /// The next slot begins: the charter is on the way to the disk, and nothing of the slot before counts.
    fn turn(&mut self, now: Tick, acts: &mut Vec<Act>) {
        if self.acceptor.slot < self.charter.slot() {
            self.acceptor = Acceptor::of(self.charter.slot());
        }
        acts.push(Act::Keep(Kept::Charter(Box::new(self.charter.clone()))));
        (self.attempt, self.half_way, self.vowed) = (None, None, None);
        (self.round, self.refused, self.ended) = (0, 0, 0);
        self.rest = now;
        // What was offered for the slot before is decided by now, or never will be.
        self.wishes.iter_mut().for_each(|wish| wish.offered = false);
    }

    /// Whether this host takes part in deciding the slot after its charter.
    fn takes_part(&self) -> bool {
        self.acceptor.slot == self.charter.slot() && self.charter.hosts.contains_key(&self.me)
    }

    /// Whether this host may take part in deciding this: if it changes the members, it has to know enough. Not so where
    /// it has accepted something: then that or another accepted decree is what comes of the slot.
    fn may_vote(&self, decree: &Decree, ctx: Context<'_>) -> bool {
        if !ctx.witness.is_sure(&decree.lost(), &self.charter) {
            return false;
        }
        if !decree.changes_members() || self.acceptor.accepted.is_some() {
            return true;
        }
        self.charter.read_enough(&self.read(ctx), decree)
    }

    /// The members whose shares this host knows, its own among them.
    fn read(&self, ctx: Context<'_>) -> BTreeSet<HostId> {
        let mut read = ctx.witness.read(&self.charter);
        read.retain(|host| self.charter.hosts.contains_key(host));
        read.insert(self.me);
        read
    }

    fn others(&self) -> impl Iterator<Item = HostId> {
        self.charter.hosts.keys().copied().filter(|host| *host != self.me)
    }

    /// Up to `most` milliseconds by chance.
    fn chance(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.random() % most.saturating_add(1).max(1))
    }

    /// The next random number: the generator SplitMix64, good enough to keep hosts out of each other's way.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
