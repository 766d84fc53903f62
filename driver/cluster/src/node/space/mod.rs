//! Shares of pools: who owns which piece, and how pieces change hands.
//!
//! ```text
//!   taker                       giver                        others
//!     ask ──────────────────────> gift, durable
//!     claim, durable <─────────── told (or seen in its row)
//!     both shares ──────────────────────────────────────────> kept, durable
//!     settled <──────────────────────────────────────────────── majority
//!     row ──────────────────────> the gift is dropped
//! ```
//!
//! The giver stops to use a piece when its gift is durable, and the taker begins when a majority has both records in
//! mind. So whatever a majority decides later (to forget the giver, or the taker) is decided by somebody who knows, and
//! no piece is ever used by two.

mod ask;
mod claim;
mod learn;
mod leave;
mod own;
mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Ask, Share};

use super::{Fill, Node, Wish};
use crate::charter::{Charter, Decree, Definition, Held};
use crate::time::Tick;
use crate::wire::{encode, sum};

/// How the keys of rows begin that tell of shares.
pub const SHARE: &str = "share/";

/// And those that tell how full they are.
const FILL_KEY: &str = "fill/";

/// How long an answer to a question is waited for until the next host is asked.
const ASK: Duration = Duration::from_millis(300);

/// How long until hosts are asked again that gave nothing while one of them had yet to hear what it could give: the founder
/// that it is, or a giver that its last gift has arrived.
const AGAIN: Duration = Duration::from_millis(50);

/// How long nothing is asked for in the background after everybody has said no.
const REST: Duration = Duration::from_secs(3);

/// How often those are asked again to keep shares in mind who have not answered.
const WITNESS: Duration = Duration::from_millis(200);

/// How long a pool that this host has no network on keeps its piece, so that a network that is made again finds it.
const IDLE: Duration = Duration::from_secs(20);

/// How long a pool counts as used on which a network was granted that isn't seen yet.
const BEGUN: Duration = Duration::from_secs(5);

/// How often hosts are asked whose shares have not been read since the members changed.
const READING: Duration = Duration::from_millis(300);

/// How long after others objected to it leaving is proposed again.
const LEAVE: Duration = Duration::from_millis(300);

/// How long the owner of the shares isn't asked again for what it refused: it may have other leases then.
const BALKED: Duration = Duration::from_millis(300);

/// How often the fill of a share is told to others at most.
const FILL: Duration = Duration::from_millis(500);

/// A question for space that is under way.
struct Asking {
    ticket: u64,
    ask: Ask,
    to: HostId,
    until: Tick,
    tried: BTreeSet<HostId>,
    /// One of them has answered with a gift that has arrived already: once it has heard of that it may give another.
    behind: bool,
    /// Somebody waits for it.
    urgent: bool,
}

/// A claim that others are asked to keep in mind.
struct Claiming {
    seq: u64,
    round: u64,
    got: BTreeSet<HostId>,
    next: Tick,
}

/// What is known and under way.
pub(super) struct State {
    own: BTreeMap<IpNet, Share>,
    known: BTreeMap<(IpNet, HostId), Share>,
    /// The revisions of those of `known` that are durable here.
    kept: BTreeMap<(IpNet, HostId), u64>,
    fills: BTreeMap<IpNet, Fill>,
    told_fills: BTreeMap<IpNet, (Fill, Tick)>,
    others: BTreeMap<(IpNet, HostId), Fill>,
    asks: BTreeMap<IpNet, Asking>,
    rest: BTreeMap<IpNet, Tick>,
    /// Who had no room when it was asked last, and hasn't told of more since.
    said_no: BTreeSet<(IpNet, HostId)>,
    claims: BTreeMap<(IpNet, IpNet), Claiming>,
    /// Gifts that the owner of the shares was asked to make: for whom, and the taker's ticket.
    gives: BTreeMap<u64, (HostId, u64)>,
    /// What was asked of the owner of the shares and changed nothing.
    barren: BTreeSet<(IpNet, String)>,
    /// What the owner of the shares refused, and until when it isn't asked for again.
    balked: BTreeMap<(IpNet, String), Tick>,
    /// What was asked of the owner of the shares and is not done yet.
    dealing: BTreeMap<u64, (IpNet, String)>,
    idle: BTreeMap<IpNet, Tick>,
    /// Pools whose share has changed since its fill was told.
    stale: BTreeSet<IpNet>,
    /// Pools that are about to be used: a piece is wanted before there is a network.
    wanted: BTreeMap<IpNet, Tick>,
    /// Pools that a network was granted on, until when it is to be there.
    begun: BTreeMap<IpNet, Tick>,
    /// What the pools are, and since when as far as was seen here.
    defined: BTreeMap<IpNet, (Definition, Tick)>,
    leaving: Option<u64>,
    /// Gifts may have been left alone, because it might have been decided that this host leaves.
    held_off: bool,
    /// The leaving was proposed.
    gone: bool,
    /// It was decided.
    out: bool,
    /// Why others objected to our leaving, and when it is proposed again: what they know of us may be on its way.
    objected: Option<(String, Tick)>,
    /// Of whom all shares were read, and how many decrees it knew of then.
    read: BTreeMap<HostId, u64>,
    reading: Tick,
    /// Whether these are enough for the next change of members, whoever it concerns.
    enough: bool,
    /// The decree that changed the members last, as claims are counted by.
    since: u64,
}

impl State {
    pub(super) fn new(own: BTreeMap<IpNet, Share>, witnessed: BTreeMap<(IpNet, HostId), Share>) -> Self {
        let kept = witnessed
            .iter()
            .map(|(key, share)| (*key, share.revision))
            .collect();
        Self {
            own,
            known: witnessed,
            kept,
            fills: BTreeMap::new(),
            told_fills: BTreeMap::new(),
            others: BTreeMap::new(),
            asks: BTreeMap::new(),
            rest: BTreeMap::new(),
            said_no: BTreeSet::new(),
            claims: BTreeMap::new(),
            gives: BTreeMap::new(),
            barren: BTreeSet::new(),
            balked: BTreeMap::new(),
            dealing: BTreeMap::new(),
            idle: BTreeMap::new(),
            stale: BTreeSet::new(),
            wanted: BTreeMap::new(),
            begun: BTreeMap::new(),
            defined: BTreeMap::new(),
            leaving: None,
            held_off: false,
            gone: false,
            out: false,
            objected: None,
            read: BTreeMap::new(),
            reading: Tick(0),
            enough: false,
            since: 0,
        }
    }

    /// Whether this host has, or is about to have, something on a pool.
    pub(super) fn needs(&self, pool: &IpNet) -> bool {
        let used = self.fills.get(pool).is_some_and(|fill| fill.used);
        let owns = self
            .own
            .get(pool)
            .is_some_and(|share| !share.pieces.is_empty() || !share.gifts.is_empty());
        used || owns || self.wanted.contains_key(pool)
    }

    /// Whether this host has a network on a pool, or has just been granted one.
    pub(super) fn uses(&self, pool: &IpNet, now: Tick) -> bool {
        let used = self.fills.get(pool).is_some_and(|fill| fill.used);
        used || self.begun.get(pool).is_some_and(|until| *until > now)
    }

    /// What is known of a host's shares, as the council wants it.
    pub(super) fn held(&self, host: &HostId, me: HostId) -> BTreeMap<IpNet, Held> {
        if *host == me {
            return self
                .own
                .iter()
                .map(|(pool, share)| (*pool, Held::from(share)))
                .collect();
        }
        let of_host = self.known.iter().filter(|((_, of), _)| of == host);
        of_host
            .map(|((pool, _), share)| (*pool, Held::from(share)))
            .collect()
    }

    /// Whether a host still owns something, or is giving it, as far as is known here.
    pub(super) fn owns_something(&self, host: &HostId, me: HostId) -> bool {
        self.held(host, me)
            .values()
            .any(|held| !held.pieces.is_empty() || !held.gifts.is_empty())
    }

    /// A sum over what is held of everybody's shares: two hosts with the same one hold the same.
    pub(super) fn sum(&self, me: HostId) -> u64 {
        let own = self.own.iter().map(|(pool, share)| ((*pool, me), share.revision));
        let known = self.known.iter().map(|(key, share)| (*key, share.revision));
        let part = |((pool, host), revision): ((IpNet, HostId), u64)| sum(encode(&(pool, host, revision)));
        own.chain(known)
            .filter(|(_, revision)| *revision > 0)
            .map(part)
            .fold(0, u64::wrapping_add)
    }

    /// The members whose shares were read since the members changed last.
    pub(super) fn read_since(&self, charter: &Charter, me: HostId) -> BTreeSet<HostId> {
        // Without pools there is nothing that somebody could have witnessed.
        if charter.pools.is_empty() {
            return charter.hosts.keys().copied().collect();
        }
        let since = charter.members_since();
        let read = self
            .read
            .iter()
            .filter(|(_, index)| **index >= since)
            .map(|(host, _)| *host);
        read.chain([me])
            .filter(|host| charter.hosts.contains_key(host))
            .collect()
    }

    /// Whether the shares of enough hosts were read for the next change of members, whoever it concerns.
    pub(super) fn has_read(&self) -> bool {
        self.enough
    }

    /// Counts that anew, after either has changed.
    fn count_read(&mut self, charter: &Charter, me: HostId) {
        let read = self.read_since(charter, me);
        self.enough = charter.read_enough(&read, &Decree::Leave { host: me });
    }

    /// Whether something was granted to a host that it has not taken yet, as far as is known here.
    pub(super) fn has_due(&self, host: &HostId, charter: &Charter, me: HostId) -> bool {
        charter.pools.keys().any(|pool| {
            let share = if *host == me {
                self.own.get(pool)
            } else {
                self.known.get(&(*pool, *host))
            };
            let applied = share.map_or(0, |share| share.applied);
            charter.due(*host, *pool, applied).next().is_some()
        })
    }

    pub(super) fn own(&self) -> &BTreeMap<IpNet, Share> {
        &self.own
    }

    pub(super) fn known(&self) -> &BTreeMap<(IpNet, HostId), Share> {
        &self.known
    }

    /// What is known of others' shares of a pool.
    pub(super) fn known_of(&self, pool: IpNet) -> impl Iterator<Item = (HostId, &Share)> {
        let of_pool = self.known.iter().filter(move |((of, _), _)| *of == pool);
        of_pool.map(|((_, host), share)| (*host, share))
    }

    /// The same with our own one.
    pub(super) fn all_of(&self, pool: IpNet, me: HostId) -> impl Iterator<Item = (HostId, &Share)> {
        let own = self.own.get(&pool).map(|share| (me, share));
        self.known_of(pool).chain(own)
    }

    /// Whether a piece of a pool is claimed, and not ours yet.
    fn claiming(&self, pool: &IpNet) -> bool {
        self.claims.keys().any(|(of, _)| of == pool)
    }

    pub(super) fn fill(&self, pool: &IpNet, host: &HostId) -> Option<Fill> {
        self.others.get(&(*pool, *host)).copied()
    }

    /// The same, as far as it can be had.
    fn room_of(&self, pool: &IpNet, host: &HostId) -> Option<Fill> {
        let fill = self.fill(pool, host)?;
        match self.said_no.contains(&(*pool, *host)) {
            true => Some(Fill { free: 0, ..fill }),
            false => Some(fill),
        }
    }

    /// A host has told something new of what it has: who said no may say yes now, to whoever still waits.
    fn ask_anew(&mut self, pool: IpNet, host: HostId) {
        if let Some(asking) = self.asks.get_mut(&pool).filter(|asking| asking.urgent) {
            asking.tried.remove(&host);
        }
    }

    pub(super) fn own_fill(&self, pool: &IpNet) -> Option<Fill> {
        self.fills.get(pool).copied()
    }

    /// What others would see of our shares first.
    pub(super) fn rows(shares: &BTreeMap<IpNet, Share>) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
        shares.iter().map(|(pool, share)| (share_key(pool), json(share)))
    }
}

fn share_key(pool: &IpNet) -> String {
    format!("{SHARE}{pool}")
}

fn fill_key(pool: &IpNet) -> String {
    format!("{FILL_KEY}{pool}")
}

fn json<T: serde::Serialize>(what: &T) -> Vec<u8> {
    // Keys are texts and numbers finite: it can't fail.
    serde_json::to_vec(what).unwrap_or_default()
}

fn majority(of: usize) -> usize {
    of / 2 + 1
}

impl Node {
    pub(super) fn space_due(&self) -> Option<Tick> {
        let asks = self.space.asks.values().map(|ask| ask.until);
        let claims = self.space.claims.values().map(|claim| claim.next);
        let idle = self.space.idle.values().map(|since| *since + IDLE);
        let told = self.space.fills.iter().filter_map(|(pool, fill)| {
            let (told, at) = self.space.told_fills.get(pool)?;
            (told != fill).then_some(*at + FILL)
        });
        let rest = self
            .space
            .rest
            .values()
            .chain(self.space.balked.values())
            .copied();
        let unread = self.is_unread();
        let rest = rest.chain(unread.then_some(self.space.reading.max(self.now)));
        let leave = self.space.objected.as_ref().map(|(_, at)| *at);
        let rest = rest.chain(leave.filter(|at| self.space.leaving.is_some() && *at > self.now));
        asks.chain(claims).chain(idle).chain(told).chain(rest).min()
    }

    fn holders(&self, pool: &IpNet) -> Vec<HostId> {
        let of_pool = self.space.known.keys().filter(|(of, _)| of == pool);
        of_pool.map(|(_, host)| *host).collect()
    }

    pub(super) fn space_tick(&mut self) {
        self.claims_tick();
        self.read_tick();
        self.orphans_tick();
        let late: Vec<IpNet> = self
            .space
            .asks
            .iter()
            .filter(|(_, ask)| ask.until <= self.now)
            .map(|(pool, _)| *pool)
            .collect();
        for pool in late {
            let address = match self.space.asks.get(&pool).map(|asking| &asking.ask) {
                Some(Ask::Address(address)) => *address,
                _ => {
                    self.ask_next(pool);
                    continue;
                }
            };
            // Nobody but its owner can give one address: a question or an answer was lost.
            self.space.asks.remove(&pool);
            let waits = |pending: &super::Pending| pending.wish == Wish::Address(pool, address);
            if self.wishes.values().any(waits) {
                self.ask_owner(pool, address);
            }
        }
        let now = self.now;
        self.space.balked.retain(|_, until| *until > self.now);
        let (rest, said_no) = (&mut self.space.rest, &mut self.space.said_no);
        rest.retain(|pool, until| {
            let rests = *until > now;
            if !rests {
                said_no.retain(|(of, _)| of != pool);
            }
            rests
        });
        self.space.wanted.retain(|_, until| *until > self.now);
        self.space.begun.retain(|_, until| *until > self.now);
        let pools: Vec<IpNet> = self.charter().pools.keys().copied().collect();
        self.space.idle.retain(|pool, _| pools.contains(pool));
        for pool in pools {
            let fill = self.space.own_fill(&pool).unwrap_or_default();
            self.tell_fill(pool, fill);
            let used = fill.used || self.space.wanted.contains_key(&pool);
            if used {
                self.ask_ahead(pool, fill);
            } else {
                self.give_back(pool);
            }
        }
        self.leave_tick();
    }
}

fn witness_key(pool: &IpNet, host: &HostId) -> String {
    format!("witness/{host}/{pool}")
}
