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

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::prefix::{common, overlap, subtract};
use tombolo_ipam::share::{Ask, Deal, Gift, Share, Standing, claims, mended, resolve};

use super::{Fill, Node, Output, Wish};
use crate::charter::{Charter, Decree, Definition, Held};
use crate::store::{Claim, Whose, life};
use crate::table::Seen;
use crate::time::Tick;
use crate::wire::{Frame, Holding, Request, encode};

use super::sync::Purpose;

/// How long an answer to a question is waited for until the next host is asked.
const ASK: Duration = Duration::from_millis(300);

/// How long until hosts are asked again that refused while the founder of the pool had not told of its share yet.
const FOUNDING: Duration = Duration::from_millis(50);

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
        let part = |((pool, host), revision): ((IpNet, HostId), u64)| sum(&encode(&(pool, host, revision)));
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

    pub(super) fn own_fill(&self, pool: &IpNet) -> Option<Fill> {
        self.fills.get(pool).copied()
    }

    /// What others would see of our shares first.
    pub(super) fn rows(shares: &BTreeMap<IpNet, Share>) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
        shares.iter().map(|(pool, share)| (share_key(pool), json(share)))
    }
}

/// FNV-1a of some bytes: it tells difference, not malice.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn share_key(pool: &IpNet) -> String {
    format!("share/{pool}")
}

fn fill_key(pool: &IpNet) -> String {
    format!("fill/{pool}")
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

    /// What is known of a host's own shares here.
    pub(super) fn shares_of(&self, host: &HostId) -> BTreeMap<IpNet, Share> {
        let of_host = self.space.known.iter().filter(|((_, of), _)| of == host);
        of_host.map(|((pool, _), share)| (*pool, share.clone())).collect()
    }

    /// All shares that are known here, our own among them.
    pub(super) fn all_shares(&self) -> Vec<(IpNet, HostId, Share)> {
        let own = self
            .space
            .own
            .iter()
            .map(|(pool, share)| (*pool, self.me, share.clone()));
        let known = self
            .space
            .known
            .iter()
            .map(|((pool, host), share)| (*pool, *host, share.clone()));
        own.chain(known).collect()
    }

    /// Another host holds the same of everybody's shares, with so many decrees known to it.
    pub(super) fn read_shares(&mut self, from: HostId, index: u64) {
        // What is read counts once it can't be forgotten any more.
        self.keep_known();
        let read = self.space.read.entry(from).or_default();
        let more = *read < index;
        *read = (*read).max(index);
        if more && !self.space.enough {
            self.space.count_read(self.council.charter(), self.me);
        }
    }

    /// Keeps all that is known of others' shares.
    fn keep_known(&mut self) {
        let known = self.space.known.keys().copied().collect();
        self.keep(known);
    }

    /// Keeps what is known of these shares, as far as it isn't kept.
    fn keep(&mut self, whose: Vec<(IpNet, HostId)>) {
        let mut records = Vec::new();
        for (pool, host) in whose {
            let kept = self.space.kept.get(&(pool, host)).copied();
            let share = self.space.known.get(&(pool, host));
            let fresh = share.filter(|share| kept.is_none_or(|kept| kept < share.revision));
            let Some((revision, record)) = fresh.map(|share| (share.revision, encode(share))) else {
                continue;
            };
            self.space.kept.insert((pool, host), revision);
            records.push((witness_key(&pool, &host), Some(record)));
        }
        if !records.is_empty() {
            self.out.push_back(Output::Keep(records));
        }
    }

    /// Gets what another host holds of everybody's shares.
    pub(super) fn fetch_shares(&mut self, from: HostId) {
        let asked = self
            .calls
            .values()
            .any(|call| call.to == from && call.what == Purpose::AllShares);
        if !asked {
            self.call(from, &Request::AllShares, Purpose::AllShares);
        }
    }

    /// Takes what another host holds of everybody's shares.
    pub(super) fn take_shares(&mut self, from: HostId, holding: Holding) {
        let mut own = BTreeMap::new();
        for (pool, host, share) in holding.shares {
            match host == self.me {
                true => drop(own.insert(pool, share)),
                false => self.learn_share(pool, host, share),
            }
        }
        self.shares_elsewhere(own);
        match holding.sure {
            true => self.read_shares(from, holding.index),
            false => self.keep_known(),
        }
    }

    /// What this host holds of everybody's shares.
    pub(super) fn holding(&self) -> Holding {
        Holding {
            index: self.charter().index,
            sure: self.is_sure(),
            shares: self.all_shares(),
        }
    }

    /// Whether shares have to be read since the members have changed: before they change again, and where a store decides,
    /// for what was given to somebody who is gone.
    fn is_unread(&self) -> bool {
        match self.by_store() {
            true => !self.has_read_store() && !self.orphans().is_empty(),
            false => !self.space.has_read(),
        }
    }

    /// Reads the shares of others after the members have changed: before they change again, what a majority of the earlier
    /// ones had in mind must be known to a majority of the present ones.
    fn read_tick(&mut self) {
        if self.space.reading > self.now || !self.is_unread() {
            return;
        }
        self.space.reading = self.now + READING;
        if self.by_store() {
            return self.read_store();
        }
        let since = self.charter().members_since();
        let unread = |host: &HostId| self.space.read.get(host).is_none_or(|index| *index < since);
        let mut hosts: Vec<HostId> = self
            .membership
            .alive()
            .map(|seat| seat.host)
            .filter(unread)
            .collect();
        let start = usize::try_from(self.chance() % hosts.len().max(1) as u64).unwrap_or(0);
        if start < hosts.len() {
            hosts.rotate_left(start);
        }
        let digest = self.digest();
        for host in hosts.into_iter().take(64) {
            self.send(host, Frame::Digest(digest));
        }
    }

    /// Asks the owner of the shares, once for the same thing.
    fn deal_once(&mut self, pool: IpNet, deal: Deal) {
        if !self.is_member(&self.me) && deal != Deal::Void {
            return;
        }
        if !self.is_sure() && deal != Deal::Void {
            // A share that isn't confirmed stays as it is: a later revision of an earlier state would hide that. But there
            // has to be one, or all of the pool could be leased.
            let first = matches!(deal, Deal::Grant { .. }) && !self.space.own.contains_key(&pool);
            if !first {
                return;
            }
        }
        let what = format!("{deal:?}");
        let dealing = self
            .space
            .dealing
            .values()
            .any(|(of, same)| *of == pool && *same == what);
        let barren = self.space.barren.contains(&(pool, what.clone()));
        let balked = self.space.balked.contains_key(&(pool, what.clone()));
        if !dealing && !barren && !balked {
            let ticket = self.deal(pool, deal);
            self.space.dealing.insert(ticket, (pool, what));
        }
    }

    /// The owner of the shares has done something, or refused.
    pub(super) fn shared(&mut self, pool: IpNet, ticket: u64, share: Result<Option<Share>, String>) {
        let dealt = self.space.dealing.remove(&ticket);
        let share = match share {
            Ok(share) => share,
            Err(why) => {
                if let Some(dealt) = dealt {
                    self.space.balked.insert(dealt, self.now + BALKED);
                }
                if let Some((to, theirs)) = self.space.gives.remove(&ticket) {
                    self.send(
                        to,
                        Frame::Told {
                            ticket: theirs,
                            pool,
                            given: Err(why),
                        },
                    );
                }
                return;
            }
        };
        // What changed nothing would change nothing again, until something else does.
        let before = self.space.own.get(&pool).map(|own| own.revision);
        let same = before == share.as_ref().map(|share| share.revision);
        match dealt.filter(|_| same) {
            Some(dealt) => drop(self.space.barren.insert(dealt)),
            None => self.space.barren.retain(|(of, _)| *of != pool),
        }
        let row = share.as_ref().map(json);
        self.space.stale.insert(pool);
        match &share {
            Some(share) => drop(self.space.own.insert(pool, share.clone())),
            None => drop(self.space.own.remove(&pool)),
        }
        self.set_row(&share_key(&pool), row.as_deref());
        if let Some(share) = &share {
            self.raise(pool, share);
        }
        if let Some((to, theirs)) = self.space.gives.remove(&ticket) {
            let given = share
                .clone()
                .ok_or_else(|| "this host has no share of it".to_owned());
            self.send(
                to,
                Frame::Told {
                    ticket: theirs,
                    pool,
                    given,
                },
            );
        }
        self.space.claims.retain(|(of, net), claim| {
            let piece = share
                .as_ref()
                .filter(|_| *of == pool)
                .map(|share| share.pieces.get(net));
            piece.is_none_or(|piece| piece.is_some_and(|piece| !piece.settled && piece.seq == claim.seq))
        });
        for (net, piece) in share
            .iter()
            .flat_map(|share| &share.pieces)
            .filter(|(_, piece)| !piece.settled)
        {
            let (now, round) = (self.now, self.next_ticket + 1);
            self.next_ticket = round;
            let claiming = || Claiming {
                seq: piece.seq,
                round,
                got: BTreeSet::new(),
                next: now,
            };
            self.space.claims.entry((pool, *net)).or_insert_with(claiming);
        }
        self.settle_wishes(pool);
        let known: Vec<HostId> = self.holders(&pool);
        for host in known {
            self.react(pool, host);
        }
        self.space_tick();
    }

    fn holders(&self, pool: &IpNet) -> Vec<HostId> {
        let of_pool = self.space.known.keys().filter(|(of, _)| of == pool);
        of_pool.map(|(_, host)| *host).collect()
    }

    /// Learns from rows that are there already.
    pub(super) fn learn_rows(&mut self) {
        let rows = self.table.visible().map(|(origin, key, body)| Seen {
            origin,
            key: key.clone(),
            before: None,
            after: Some(body.clone()),
        });
        let rows: Vec<Seen> = rows.collect();
        self.see_shares(&rows);
    }

    /// Rows of others that were seen to change.
    pub(super) fn see_shares(&mut self, seen: &[Seen]) {
        let me = self.me;
        for row in seen.iter().filter(|row| row.origin != me) {
            let Some(body) = &row.after else { continue };
            if let Some(pool) = row
                .key
                .as_str()
                .strip_prefix("share/")
                .and_then(|pool| pool.parse().ok())
            {
                match serde_json::from_slice::<Share>(body) {
                    Ok(share) => self.learn_share(pool, row.origin, share),
                    Err(_) => *self.strange.entry(row.origin).or_default() += 1,
                }
            } else if let Some(pool) = row
                .key
                .as_str()
                .strip_prefix("fill/")
                .and_then(|pool| pool.parse().ok())
            {
                match serde_json::from_slice::<Fill>(body) {
                    Ok(fill) => {
                        let before = self.space.others.insert((pool, row.origin), fill);
                        // Who said no may say yes now.
                        self.space.said_no.remove(&(pool, row.origin));
                        if before.is_none_or(|before| before.free < fill.free) {
                            self.space.rest.remove(&pool);
                        }
                    }
                    Err(_) => *self.strange.entry(row.origin).or_default() += 1,
                }
            }
        }
    }

    /// Takes another host's share, if it is later than what is known of it. While it is being decided whether to forget
    /// that host, nothing later is learned of it: the decision rests on what was told.
    fn learn_share(&mut self, pool: IpNet, host: HostId, share: Share) {
        if self.council.frozen(host) {
            return;
        }
        let founded = self
            .charter()
            .pools
            .get(&pool)
            .map_or(u64::MAX, |founded| founded.at);
        let later = self
            .space
            .known
            .get(&(pool, host))
            .is_none_or(|known| known.revision < share.revision);
        // What its owner has told nobody before its disk was set back is void.
        let later = later && life(&share) >= self.confirm_life(&host);
        if later && self.is_member(&host) && share.applied >= founded {
            let (share, misfits) = mended(pool, share);
            if !misfits.is_empty() {
                // What no share can have is nobody's, whoever says so.
                *self.strange.entry(host).or_default() += 1;
            }
            self.space.barren.retain(|(of, _)| *of != pool);
            self.space.known.insert((pool, host), share);
            self.react(pool, host);
        }
    }

    /// What follows for us from everybody's shares.
    pub(super) fn react_to_all(&mut self) {
        let known: Vec<(IpNet, HostId)> = self.space.known.keys().copied().collect();
        for (pool, host) in known {
            self.react(pool, host);
        }
    }

    /// What follows for us from another host's share.
    fn react(&mut self, pool: IpNet, host: HostId) {
        let Some(theirs) = self.space.known.get(&(pool, host)) else {
            return;
        };
        let Some(founded) = self.charter().pools.get(&pool) else {
            return;
        };
        let at = founded.at;
        let empty = Share::default();
        let own = self.space.own.get(&pool).unwrap_or(&empty);
        let mut deals = Vec::new();
        // Who has asked to be let go takes nothing more: it is the giver's again. It may have asked in an earlier life.
        let going = self.is_going();
        let gifts = theirs.gifts.iter().filter(|_| !going);
        for (net, gift) in gifts.filter(|(_, gift)| gift.to == self.me) {
            // What anybody has under a higher number there makes the gift void, or it was taken and passed on already.
            let own_rows = std::iter::once((self.me, own));
            let later = claims(own_rows, *net).any(|claim| claim.seq >= gift.seq);
            let known = self
                .space
                .known
                .iter()
                .filter(|((of, _), _)| *of == pool)
                .map(|((_, by), share)| (*by, share));
            let elsewhere = claims(known, *net).any(|claim| claim.seq > gift.seq);
            let void = founded
                .floor
                .iter()
                .any(|(piece, floor)| *floor > gift.seq && overlap(*piece, *net));
            if !later && !elsewhere && !void {
                deals.push(Deal::Claim(*net, gift.seq));
            }
        }
        for (net, gift) in &own.gifts {
            // Settled there, or passed on from there to whomever: it has arrived.
            let rows = std::iter::once((host, theirs));
            let arrived = claims(rows, *net).any(|claim| {
                let settled = claim.seq == gift.seq && claim.standing == Standing::Settled;
                claim.seq > gift.seq || settled && gift.to == host
            });
            if arrived {
                deals.push(Deal::Done(*net, gift.seq));
            }
        }
        let claims = deals.iter().any(|deal| matches!(deal, Deal::Claim(..)));
        let begins = !deals.is_empty() && own.applied < founded.at;
        if claims {
            // We are among those who must not forget the gift.
            self.keep(vec![(pool, host)]);
        }
        if begins {
            // The share begins with the founding that it belongs to.
            self.deal_once(
                pool,
                Deal::Grant {
                    at,
                    pieces: Vec::new(),
                    gifts: Vec::new(),
                },
            );
        }
        for deal in deals {
            self.deal_once(pool, deal);
        }
        self.space.held_off |= going;
    }

    /// Another host asks for a piece.
    pub(super) fn asked(&mut self, from: HostId, ticket: u64, pool: IpNet, ask: Ask) {
        let why = if !self.charter().pools.contains_key(&pool) {
            Some(format!("{pool} is no pool of the cluster's here"))
        } else if !self.may_lease() || !self.is_sure() {
            Some("this host has not been confirmed since its start".to_owned())
        } else {
            None
        };
        match why {
            Some(why) => self.send(
                from,
                Frame::Told {
                    ticket,
                    pool,
                    given: Err(why),
                },
            ),
            None => {
                let own = self.deal(pool, Deal::Give { to: from, ask });
                self.space.gives.insert(own, (from, ticket));
            }
        }
    }

    /// The answer to a question of ours.
    pub(super) fn told(&mut self, from: HostId, ticket: u64, pool: IpNet, given: Result<Share, String>) {
        let asked = self
            .space
            .asks
            .get(&pool)
            .is_some_and(|ask| ask.ticket == ticket && ask.to == from);
        match given {
            Ok(share) => {
                let asking = match asked {
                    true => self.space.asks.remove(&pool),
                    false => None,
                };
                self.learn_share(pool, from, share);
                self.react(pool, from);
                let claiming = self.space.claims.keys().any(|(of, _)| *of == pool);
                let dealing = self.space.dealing.values().any(|(of, _)| *of == pool);
                if let Some(asking) = asking.filter(|_| !claiming && !dealing) {
                    // A gift of before, which has arrived already: nothing follows from it.
                    self.settle_wishes(pool);
                    if asking.urgent && self.wants_space(&pool) {
                        self.space.asks.insert(pool, asking);
                        self.ask_next(pool);
                    } else {
                        // Asked again at once, it would say the same.
                        self.space.rest.insert(pool, self.now + REST);
                    }
                }
            }
            Err(why) if asked => {
                let waiting = self
                    .wishes
                    .iter()
                    .filter(|(_, w)| matches!(w.wish, Wish::Address(of, _) if of == pool));
                let waiting: Vec<u64> = waiting.map(|(ticket, _)| *ticket).collect();
                let of_address = self
                    .space
                    .asks
                    .get(&pool)
                    .is_some_and(|ask| matches!(ask.ask, Ask::Address(_)));
                if of_address && self.is_founding(&pool) {
                    self.ask_later(pool);
                } else if of_address {
                    self.space.asks.remove(&pool);
                    let name = self.name(&from);
                    for ticket in waiting {
                        self.done(
                            ticket,
                            Err(format!("its owner, host {name}, does not give it: {why}")),
                        );
                    }
                } else {
                    // Its own count of what is free may be on its way, or be what it keeps for itself.
                    self.space.said_no.insert((pool, from));
                    self.ask_next(pool);
                }
            }
            Err(_) => {}
        }
    }

    /// Whether somebody waits for space in a pool.
    fn wants_space(&self, pool: &IpNet) -> bool {
        self.wishes
            .values()
            .any(|pending| matches!(pending.wish, Wish::Space { pool: of, .. } if of == *pool))
    }

    /// Asks for space, unless that is under way.
    fn ask(&mut self, pool: IpNet, ask: Ask, urgent: bool) {
        // What is given while the store is away would be nobody's until it is back.
        if !self.is_sure() || !urgent && self.store_fault().is_some() {
            return;
        }
        if let Some(under_way) = self.space.asks.get_mut(&pool) {
            let replaced = urgent && !under_way.urgent;
            if !replaced {
                return;
            }
        }
        let asking = Asking {
            ticket: 0,
            ask,
            to: self.me,
            until: self.now,
            tried: BTreeSet::new(),
            urgent,
        };
        self.space.asks.insert(pool, asking);
        self.ask_next(pool);
    }

    /// Asks the next host that may have room.
    fn ask_next(&mut self, pool: IpNet) {
        let Some(mut asking) = self.space.asks.remove(&pool) else {
            return;
        };
        // Ahead of need those are asked who keep as much as this host then has, and those who have no use for it. Where
        // little is left for many, it would be passed around for ever.
        let own = self.space.own_fill(&pool).unwrap_or_default().free;
        let spares = |fill: Fill| {
            fill.free
                > if fill.used {
                    own.saturating_mul(2).saturating_add(2)
                } else {
                    0
                }
        };
        let mut donors: Vec<(u64, HostId)> = self
            .holders(&pool)
            .into_iter()
            .filter(|host| !asking.tried.contains(host) && self.is_alive(host))
            .map(|host| (self.space.room_of(&pool, &host), host))
            .filter(|(fill, _)| asking.urgent || fill.map_or(own == 0, spares))
            .map(|(fill, host)| (fill.map_or(1, |fill| fill.free), host))
            .collect();
        // The founder may own all of it and not have told so yet.
        if let Some(founder) = self.charter().pools.get(&pool).map(|founded| founded.founder)
            && founder != self.me
            && !asking.tried.contains(&founder)
            && self.is_alive(&founder)
            && (asking.urgent || self.space.fill(&pool, &founder).is_none())
            && !donors.iter().any(|(_, host)| *host == founder)
        {
            donors.push((1, founder));
        }
        donors.sort_by(|a, b| b.cmp(a));
        // Those that have about as much are asked in varying order, or all would ask the same one.
        let most = donors.first().map_or(0, |(free, _)| *free);
        let best = donors
            .iter()
            .take_while(|(free, _)| free.saturating_mul(2) >= most)
            .count()
            .max(1);
        let at = usize::try_from(self.chance() % best as u64).unwrap_or(0);
        match donors.get(at) {
            Some((_, host)) => {
                asking.to = *host;
                asking.tried.insert(*host);
                asking.until = self.now + ASK;
                asking.ticket = self.ticket();
                let frame = Frame::Ask {
                    ticket: asking.ticket,
                    pool,
                    ask: asking.ask,
                };
                let to = asking.to;
                self.space.asks.insert(pool, asking);
                self.send(to, frame);
            }
            None if asking.urgent && self.wants_space(&pool) && self.is_founding(&pool) => {
                asking.tried.clear();
                self.space.asks.insert(pool, asking);
                self.ask_later(pool);
            }
            None => {
                self.space.rest.insert(pool, self.now + REST);
                let waiting = self
                    .wishes
                    .iter()
                    .filter(|(_, w)| matches!(w.wish, Wish::Space { pool: of, .. } if of == pool));
                let waiting: Vec<u64> = waiting.map(|(ticket, _)| *ticket).collect();
                // A question ahead of need refuses nobody: what was given to who waits may be on its way.
                let claiming = self.space.claims.keys().any(|(of, _)| *of == pool);
                if !claiming {
                    self.settle_wishes(pool);
                }
                if asking.urgent && !claiming {
                    let asked = format!("{} hosts were asked", asking.tried.len());
                    let why = self.why_no_space(pool, &asked);
                    for ticket in waiting {
                        self.done(ticket, Err(why.clone()));
                    }
                }
            }
        }
    }

    /// Whether the founder of a pool is there and has not told of its share yet. It may not know itself that it is the
    /// founder: where a store decides, others may read that first.
    fn is_founding(&self, pool: &IpNet) -> bool {
        let founded = self.charter().pools.get(pool);
        founded.is_some_and(|founded| {
            let share = self.space.known.get(&(*pool, founded.founder));
            let told = share.is_some_and(|share| share.applied >= founded.at);
            !told && self.is_alive(&founded.founder)
        })
    }

    /// Has a question be asked again in a moment; answers to the one before don't count any more.
    fn ask_later(&mut self, pool: IpNet) {
        let (me, until) = (self.me, self.now + FOUNDING);
        if let Some(asking) = self.space.asks.get_mut(&pool) {
            asking.to = me;
            asking.until = until;
        }
    }

    pub(super) fn why_no_space(&self, pool: IpNet, reached: &str) -> String {
        let mut hosts: Vec<String> = Vec::new();
        let mut free = 0;
        for ((of, host), fill) in &self.space.others {
            if *of == pool && fill.leased > 0 {
                hosts.push(format!("{} {}", self.name(host), fill.leased));
            }
            if *of == pool {
                free += self.space.room_of(of, host).map_or(0, |fill| fill.free);
            }
        }
        let own = self.space.own_fill(&pool).unwrap_or_default();
        hosts.push(format!("this host {}", own.leased));
        let leased = hosts.join(", ");
        let there_is = match free {
            0 => "no other host has one to spare".to_owned(),
            free => format!("{free} are free on other hosts, which gave none"),
        };
        format!("pool {pool} has no free address for this host: {there_is} (leased: {leased}; {reached})")
    }

    pub(super) fn why_not_given(&self, pool: IpNet, address: IpAddr, reached: &str) -> String {
        let owner = self.owner_of(&pool, address).map_or_else(
            || "a host that is not known here".to_owned(),
            |host| {
                let state = if self.is_alive(&host) {
                    ""
                } else {
                    ", which is not there"
                };
                format!("host {}{state}", self.name(&host))
            },
        );
        format!(
            "address {address} of pool {pool} is in the share of {owner}, and it was not given in time ({reached})"
        )
    }

    /// Who owns an address of a pool, as far as is known here.
    pub(super) fn owner_of(&self, pool: &IpNet, address: IpAddr) -> Option<HostId> {
        let own = self.space.own.get(pool).map(|share| (self.me, share));
        let known = self.space.known.iter().filter(|((of, _), _)| of == pool);
        let rows = known.map(|((_, host), share)| (*host, share)).chain(own);
        let owners = resolve(*pool, rows).owners;
        let found = owners
            .iter()
            .find(|(net, _)| net.contains(&address))
            .map(|(_, owner)| *owner);
        found.or_else(|| self.charter().pools.get(pool).map(|founded| founded.founder))
    }

    /// Is asked to keep two shares in mind.
    pub(super) fn witness(
        &mut self,
        from: HostId,
        round: u64,
        pool: IpNet,
        giver: HostId,
        gave: Share,
        mine: Share,
    ) {
        // Who may have forgotten something can't be relied on to remember.
        if !self.is_sure() {
            return;
        }
        let mut keep = Vec::new();
        for (host, share) in [(giver, gave), (from, mine)] {
            if host == self.me {
                let own = self.space.own.get(&pool);
                if own.is_none_or(|own| own.revision < share.revision || life(own) != life(&share)) {
                    return;
                }
                continue;
            }
            let known = self
                .space
                .known
                .get(&(pool, host))
                .map_or(0, |known| known.revision);
            if known < share.revision {
                self.learn_share(pool, host, share.clone());
            }
            let known = self.space.known.get(&(pool, host));
            if known.is_none_or(|known| known.revision < share.revision) {
                return;
            }
            keep.push((pool, host));
        }
        // What was passed on since, to whomever, isn't claimed again by who doesn't know of that.
        let known = self.space.known.get(&(pool, from));
        let claimed = known.into_iter().flat_map(|share| &share.pieces);
        let mut claimed = claimed.filter(|(_, piece)| !piece.settled);
        if claimed.any(|(net, piece)| self.is_void(&pool, net, piece.seq)) {
            return;
        }
        self.keep(keep);
        let since = self.charter().members_since();
        self.send(from, Frame::Witnessed { round, since });
    }

    /// Somebody keeps a claim of ours in mind.
    pub(super) fn witnessed(&mut self, from: HostId, round: u64, since: u64) {
        // Among other members another majority would count.
        if since != self.charter().members_since() {
            return;
        }
        let needed = majority(self.charter().hosts.len());
        let Some((key, claim)) = self
            .space
            .claims
            .iter_mut()
            .find(|(_, claim)| claim.round == round)
        else {
            return;
        };
        claim.got.insert(from);
        let ((pool, net), seq, got) = (*key, claim.seq, claim.got.clone());
        let members = got.iter().filter(|host| self.is_member(host)).count();
        // We ourselves keep it in mind as well.
        if members + 1 >= needed {
            self.deal_once(pool, Deal::Settle(net, seq));
        }
    }

    /// Has claims kept in mind by those who have not said so yet.
    fn claims_tick(&mut self) {
        let due: Vec<(IpNet, IpNet)> = self
            .space
            .claims
            .iter()
            .filter(|(_, claim)| claim.next <= self.now)
            .map(|(key, _)| *key)
            .collect();
        for (pool, net) in due {
            let needed = majority(self.charter().hosts.len());
            let giver = self.giver(&pool, &net);
            let Some(claim) = self.space.claims.get_mut(&(pool, net)) else {
                continue;
            };
            claim.next = self.now + WITNESS;
            let (seq, round, got) = (claim.seq, claim.round, claim.got.clone());
            if self.is_void(&pool, &net, seq) {
                self.deal_once(pool, Deal::Disclaim(net, seq));
                continue;
            }
            let Some((giver, gave)) = giver else { continue };
            let Some(mine) = self.space.own.get(&pool).cloned() else {
                continue;
            };
            if self.council.charter().by_store {
                let claim = Claim {
                    pool,
                    net,
                    seq,
                    giver,
                    gave,
                    claimer: self.me,
                    mine,
                };
                self.witness_by_store(round, claim);
                continue;
            }
            let mut others: Vec<HostId> = self
                .charter()
                .hosts
                .keys()
                .copied()
                .filter(|host| *host != self.me && !got.contains(host) && self.is_alive(host))
                .collect();
            // A few more than are needed, beginning anywhere: some may be slow.
            let start = usize::try_from(self.chance() % others.len().max(1) as u64).unwrap_or(0);
            if start < others.len() {
                others.rotate_left(start);
            }
            let lack = needed.saturating_sub(1 + got.len());
            for host in others.into_iter().take(lack + lack / 4 + 2) {
                let frame = Frame::Witness {
                    round,
                    pool,
                    giver,
                    gave: gave.clone(),
                    mine: mine.clone(),
                };
                self.send(host, frame);
            }
            if got.len() + 1 >= needed {
                self.deal_once(pool, Deal::Settle(net, seq));
            }
        }
    }

    /// A claim of ours is in the store with the gift, or not: then it is tried again at a time.
    pub(super) fn claim_stored(&mut self, round: u64, again: Option<Tick>) {
        let mut claims = self.space.claims.iter_mut();
        let Some((key, claim)) = claims.find(|(_, claim)| claim.round == round) else {
            return;
        };
        let ((pool, net), seq) = (*key, claim.seq);
        match again {
            Some(at) => claim.next = at,
            None => self.deal_once(pool, Deal::Settle(net, seq)),
        }
    }

    /// Takes what the store has of others' shares.
    pub(super) fn learn_stored(&mut self, shares: BTreeMap<Whose, Share>) {
        for ((pool, host), share) in shares {
            if host != self.me {
                self.learn_share(pool, host, share);
            }
        }
    }

    /// Whose gift a claim of ours is.
    fn giver(&self, pool: &IpNet, net: &IpNet) -> Option<(HostId, Share)> {
        let of_pool = self
            .space
            .known
            .iter()
            .filter(|((of, host), _)| of == pool && self.is_member(host));
        let gift = |share: &Share| share.gifts.get(net).is_some_and(|gift| gift.to == self.me);
        of_pool
            .into_iter()
            .find(|(_, share)| gift(share))
            .map(|((_, host), share)| (*host, share.clone()))
    }

    /// Whether a claim without a giver is void: somebody has the piece under a higher number.
    fn is_void(&self, pool: &IpNet, net: &IpNet, seq: u64) -> bool {
        let founded = self.charter().pools.get(pool);
        let mut floor = founded.into_iter().flat_map(|founded| &founded.floor);
        let known = self
            .space
            .known
            .iter()
            .filter(|((of, _), _)| of == pool)
            .map(|((_, by), share)| (*by, share));
        floor.any(|(piece, floor)| *floor > seq && overlap(*piece, *net))
            || claims(known, *net).any(|claim| claim.seq > seq)
    }

    /// What this host has networks on, and how full.
    pub(super) fn pools(&mut self, fills: BTreeMap<IpNet, Fill>) {
        for (pool, fill) in &fills {
            if fill.used {
                self.space.idle.remove(pool);
                self.space.wanted.remove(pool);
                self.space.begun.remove(pool);
            }
        }
        self.space.fills = fills;
        self.space.stale.clear();
        self.enter_pools();
    }

    /// Where this host has a network on a pool of the cluster's and no share of it, an empty one comes about, so that nothing
    /// is leased there. It may have wished for the pool in vain, and others founded it.
    fn enter_pools(&mut self) {
        if !self.is_member(&self.me) {
            return;
        }
        let used = |pool: &IpNet| self.space.fills.get(pool).is_some_and(|fill| fill.used);
        let pools = self.council.charter().pools.iter();
        let entered: Vec<(IpNet, u64)> = pools
            .filter(|(pool, founded)| {
                founded.founder != self.me && used(pool) && !self.space.own.contains_key(*pool)
            })
            .map(|(pool, founded)| (*pool, founded.at))
            .collect();
        for (pool, at) in entered {
            let (pieces, gifts) = (Vec::new(), Vec::new());
            self.deal_once(pool, Deal::Grant { at, pieces, gifts });
        }
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

    fn tell_fill(&mut self, pool: IpNet, fill: Fill) {
        let due = match self.space.told_fills.get(&pool) {
            None => fill != Fill::default(),
            Some((told, at)) => *told != fill && *at + FILL <= self.now,
        };
        if due {
            self.space.told_fills.insert(pool, (fill, self.now));
            self.set_row(&fill_key(&pool), Some(&json(&fill)));
        }
    }

    /// Asks for space before it is needed.
    fn ask_ahead(&mut self, pool: IpNet, fill: Fill) {
        // In a small pool each host has few to spare, and asking for them would only send them round.
        let most = (self.part(&pool) / 4).clamp(1, 256);
        let low = (fill.leased / 4).clamp(4, 256).min(most);
        let claiming = self.space.claims.keys().any(|(of, _)| *of == pool);
        let resting = self.space.rest.contains_key(&pool);
        let stale = self.space.stale.contains(&pool);
        if fill.free < low
            && !stale
            && !claiming
            && !resting
            && self.may_lease()
            && !self.space.asks.contains_key(&pool)
        {
            let want = self.fair(&pool, fill);
            self.ask(
                pool,
                Ask::Space {
                    within: pool,
                    want,
                    urgent: false,
                },
                false,
            );
        }
    }

    /// Half of what each host would have of a pool if all had the same.
    fn part(&self, pool: &IpNet) -> u64 {
        let bits = pool.max_prefix_len() - pool.prefix_len();
        let size = 1_u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX);
        let hosts = self.charter().hosts.len() as u64;
        size / (2 * hosts.max(1))
    }

    /// How many addresses to ask for: as many again as are in use, and at first a part of the pool for each host.
    fn fair(&self, pool: &IpNet, fill: Fill) -> u64 {
        match fill.leased {
            0 => self.part(pool).clamp(1, 1 << 16),
            leased => leased.clamp(4, 1 << 16),
        }
    }

    /// Gives a share back that this host has no use for; the last one who has all of it ends the pool.
    fn give_back(&mut self, pool: IpNet) {
        let share = self.space.own.get(&pool).filter(|share| !share.pieces.is_empty());
        let Some(share) = share.filter(|_| self.space.leaving.is_none()) else {
            self.space.idle.remove(&pool);
            return;
        };
        let since = *self.space.idle.entry(pool).or_insert(self.now);
        if self.now.since(since) < IDLE {
            return;
        }
        self.space.idle.insert(pool, self.now);
        let holders = self.holders(&pool);
        let used = |host: &HostId| self.space.fill(&pool, host).is_some_and(|fill| fill.used);
        let user = self
            .membership
            .alive()
            .map(|seat| seat.host)
            .find(|host| used(host));
        // Where nobody uses it, the holders agree without a word on who collects it.
        let lowest = holders.into_iter().filter(|host| self.holds(&pool, host)).min();
        let heir = user.or_else(|| lowest.filter(|host| *host < self.me && self.is_alive(host)));
        let all = share.gifts.is_empty() && share.pieces.contains_key(&pool) && share.settled().count() == 1;
        match heir {
            Some(heir) => self.deal_once(pool, Deal::GiveAll(heir)),
            None if all => {
                let ticket = self.ticket();
                let until = self.now + Duration::from_secs(5);
                let decree = Decree::Dissolve { pool, by: self.me };
                if self.by_store() {
                    return self.decide_by_store(ticket, decree);
                }
                let acts =
                    self.with_council(|council, now, ctx| council.propose(now, ticket, &decree, until, ctx));
                self.act(acts);
            }
            None => {}
        }
    }

    fn holds(&self, pool: &IpNet, host: &HostId) -> bool {
        let share = self.space.known.get(&(*pool, *host));
        share.is_some_and(|share| !share.pieces.is_empty())
    }

    pub(super) fn wish_pool(&mut self, ticket: u64, pool: IpNet, definition: Definition) {
        if let Some(founded) = self.charter().pools.get(&pool).cloned() {
            let conflict = founded.conflict(&definition);
            if let Some((field, theirs, ours)) =
                conflict.as_ref().filter(|_| self.is_used(&pool, &definition))
            {
                let founder = self.name(&founded.founder);
                let why = format!(
                    "pool {pool} is the cluster's already, founded by host {founder} with {field} {theirs}; here it is {ours}: \
                     use the same on every host, or another subnet"
                );
                return self.done(ticket, Err(why));
            }
            self.space.wanted.insert(pool, self.now + Duration::from_secs(60));
            if !founded.has(&definition) {
                let (by, before) = (self.me, founded.definition);
                let net = definition.net.or_else(|| before.net.clone());
                let definition = Box::new(Definition { net, ..definition });
                let before = Box::new(before);
                let decree = Decree::Define {
                    pool,
                    by,
                    before,
                    definition,
                };
                return self.decree(ticket, decree);
            }
            return self.pool_founded(ticket, pool);
        }
        if let Some((other, founded)) = self.charter().pools.iter().find(|(net, _)| overlap(**net, pool)) {
            let founder = self.name(&founded.founder);
            let why = format!(
                "pool {pool} overlaps the cluster's pool {other}, founded by host {founder}: choose another subnet"
            );
            return self.done(ticket, Err(why));
        }
        let founder = self.me;
        self.decree(
            ticket,
            Decree::Found {
                pool,
                founder,
                definition,
            },
        );
    }

    /// Whether somebody has a network on a pool, but for the one that is wished for. One that is to be made here has an
    /// address pool of ours already; one of which only the name is known has not.
    fn is_used(&self, pool: &IpNet, wished: &Definition) -> bool {
        let ours = self.space.own_fill(pool).is_some_and(|fill| fill.used);
        let mut fills = self.space.others.iter();
        ours && wished.kind.is_empty() || fills.any(|((of, _), fill)| of == pool && fill.used)
    }

    /// A pool is one of the cluster's; the wish for it ends when what it grants us is in our share.
    pub(super) fn pool_founded(&mut self, ticket: u64, pool: IpNet) {
        let at = self
            .charter()
            .pools
            .get(&pool)
            .map(|founded| (founded.at, founded.founder));
        let applied = self.space.own.get(&pool).map_or(0, |share| share.applied);
        match at {
            // An empty share, so that nothing is leased of the pool but what is given to us.
            Some((at, founder)) if applied < at && founder != self.me => {
                self.deal_once(
                    pool,
                    Deal::Grant {
                        at,
                        pieces: Vec::new(),
                        gifts: Vec::new(),
                    },
                );
            }
            Some((at, _)) if applied < at => {}
            Some(_) => {
                let wish = self.wishes.get(&ticket).map(|pending| &pending.wish);
                if matches!(wish, Some(Wish::Pool(_, definition)) if !definition.kind.is_empty()) {
                    self.space.begun.insert(pool, self.now + BEGUN);
                }
                self.done(ticket, Ok(()));
            }
            None => self.done(
                ticket,
                Err(format!(
                    "pool {pool} was given up by the cluster meanwhile: try again"
                )),
            ),
        }
    }

    pub(super) fn wish_space(&mut self, ticket: u64, pool: IpNet, within: IpNet) {
        if !self.charter().pools.contains_key(&pool) {
            return self.done(ticket, Err(format!("pool {pool} is none of the cluster's")));
        }
        if let Some(why) = self.why_none_now() {
            return self.done(ticket, Err(why));
        }
        let fill = self.space.own_fill(&pool).unwrap_or_default();
        let want = self.fair(&pool, fill);
        self.ask(
            pool,
            Ask::Space {
                within,
                want,
                urgent: true,
            },
            true,
        );
    }

    pub(super) fn wish_address(&mut self, ticket: u64, pool: IpNet, address: IpAddr) {
        let own = self.space.own.get(&pool);
        if own.is_some_and(|share| share.leases(address)) {
            return self.done(ticket, Ok(()));
        }
        if let Some(why) = self.why_none_now() {
            return self.done(ticket, Err(why));
        }
        match self.owner_of(&pool, address) {
            Some(owner) if owner == self.me => {}
            Some(owner) if self.is_alive(&owner) => self.ask_owner(pool, address),
            _ => {
                let why = self.why_not_given(pool, address, "it can't be asked");
                self.done(ticket, Err(why));
            }
        }
    }

    /// Why this host can't get more of any pool now, if it can't.
    fn why_none_now(&self) -> Option<String> {
        if self.space.leaving.is_some() || self.is_going() {
            return Some("this host is about to leave the cluster".to_owned());
        }
        (!self.is_sure()).then(|| self.why_not_sure())
    }

    /// Asks the owner of an address for it, if it is there.
    fn ask_owner(&mut self, pool: IpNet, address: IpAddr) {
        let owner = self.owner_of(&pool, address);
        let Some(to) = owner.filter(|owner| *owner != self.me && self.is_alive(owner)) else {
            return;
        };
        let ticket = self.ticket();
        let ask = Ask::Address(address);
        let asking = Asking {
            ticket,
            ask,
            to,
            until: self.now + ASK,
            tried: BTreeSet::from([to]),
            urgent: true,
        };
        self.space.asks.insert(pool, asking);
        self.send(to, Frame::Ask { ticket, pool, ask });
    }

    /// Ends the wishes that a change of our share fulfils.
    fn settle_wishes(&mut self, pool: IpNet) {
        let wishes: Vec<(u64, Wish, u64)> = self
            .wishes
            .iter()
            .map(|(ticket, pending)| (*ticket, pending.wish.clone(), pending.had))
            .collect();
        for (ticket, wish, had) in wishes {
            let own = self.space.own.get(&pool);
            match wish {
                Wish::Pool(of, definition) if of == pool => {
                    let founded = self.charter().pools.get(&pool);
                    // What differs is being decided.
                    if founded.is_some_and(|founded| founded.has(&definition)) {
                        self.pool_founded(ticket, pool);
                    }
                }
                Wish::Address(of, address)
                    if of == pool && own.is_some_and(|share| share.leases(address)) =>
                {
                    self.done(ticket, Ok(()));
                }
                Wish::Space { pool: of, within } if of == pool => {
                    let claiming = self.space.claims.keys().any(|(of, _)| *of == pool);
                    let asking = self.space.asks.contains_key(&pool);
                    // What was there before is used up.
                    let settled = own.is_some_and(|share| {
                        share.revision > had && share.settled().any(|(net, _)| overlap(net, within))
                    });
                    if settled && !claiming && !asking {
                        self.done(ticket, Ok(()));
                    }
                }
                _ => {}
            }
        }
    }

    /// What was decided has changed: take what is granted, drop what is void.
    pub(super) fn space_charter(&mut self) {
        let charter = self.council.charter().clone();
        self.enter_pools();
        self.space.read.retain(|host, _| charter.hosts.contains_key(host));
        self.space.count_read(&charter, self.me);
        let me_gone = !charter.hosts.contains_key(&self.me);
        let pools: Vec<IpNet> = self.space.own.keys().copied().collect();
        for pool in pools {
            let applied = self.space.own.get(&pool).map_or(0, |share| share.applied);
            let stands = charter
                .pools
                .get(&pool)
                .is_some_and(|founded| founded.at <= applied);
            if me_gone || !stands {
                self.deal_once(pool, Deal::Void);
            }
        }
        self.space.known.retain(|(pool, host), share| {
            let founded = charter.pools.get(pool);
            charter.hosts.contains_key(host) && founded.is_some_and(|founded| founded.at <= share.applied)
        });
        let stale: Vec<(IpNet, HostId)> = self
            .space
            .kept
            .keys()
            .copied()
            .filter(|key| !self.space.known.contains_key(key))
            .collect();
        if !stale.is_empty() {
            let forget = stale
                .iter()
                .map(|(pool, host)| (witness_key(pool, host), None))
                .collect();
            self.out.push_back(Output::Keep(forget));
            self.space.kept.retain(|key, _| !stale.contains(key));
        }
        self.space
            .others
            .retain(|(pool, host), _| charter.hosts.contains_key(host) && charter.pools.contains_key(pool));
        self.space
            .told_fills
            .retain(|pool, _| charter.pools.contains_key(pool));
        if me_gone {
            return;
        }
        if self.space.held_off && !self.is_going() {
            self.space.held_off = false;
            self.react_to_all();
        }
        if self.space.since != charter.members_since() {
            self.space.since = charter.members_since();
            for claim in self.space.claims.values_mut() {
                claim.got.clear();
                claim.next = self.now;
            }
        }
        let me = self.me;
        for grant in charter.grants.iter().filter(|grant| grant.to == me) {
            if self
                .space
                .own
                .get(&grant.pool)
                .is_none_or(|share| share.applied < grant.at)
            {
                let deal = Deal::Grant {
                    at: grant.at,
                    pieces: grant.pieces.clone(),
                    gifts: grant.gifts.clone(),
                };
                self.deal_once(grant.pool, deal);
            }
        }
    }

    /// Gifts whose recipients are no more, or that we inherited and are to ourselves: whoever has the piece under a later
    /// number has it; what nobody has is ours again. That is known once a majority was read since the members changed.
    fn orphans_tick(&mut self) {
        let orphans = self.orphans();
        if orphans.is_empty() || self.is_unread() {
            return;
        }
        for (pool, net, gift) in orphans {
            let mut left = vec![net];
            for taken in self.later_than(&pool, &net, &gift) {
                left = left.iter().flat_map(|part| subtract(*part, taken)).collect();
                if let Some(part) = common(net, taken) {
                    self.deal_once(pool, Deal::Done(part, gift.seq));
                }
            }
            for part in left {
                self.deal_once(pool, Deal::Regain(part, gift.seq));
            }
        }
    }

    fn orphans(&self) -> Vec<(IpNet, IpNet, Gift)> {
        let charter = self.council.charter();
        let me = self.me;
        let orphan = |to: &HostId| *to == me || !charter.hosts.contains_key(to);
        let gifts = self
            .space
            .own
            .iter()
            .flat_map(|(pool, share)| share.gifts.iter().map(move |(net, gift)| (*pool, *net, *gift)));
        gifts.filter(|(_, _, gift)| orphan(&gift.to)).collect()
    }

    /// What of a given piece somebody has under a later number, or settled under the same.
    fn later_than(&self, pool: &IpNet, net: &IpNet, gift: &Gift) -> Vec<IpNet> {
        let charter = self.council.charter();
        let known = self
            .space
            .known
            .iter()
            .filter(|((of, _), _)| of == pool)
            .map(|((_, by), share)| (*by, share));
        let own = self.space.own.get(pool).map(|share| (self.me, share));
        let later = claims(known.chain(own), *net).filter(|claim| {
            claim.seq > gift.seq || claim.seq == gift.seq && claim.standing == Standing::Settled
        });
        let floor = charter
            .pools
            .get(pool)
            .into_iter()
            .flat_map(|founded| &founded.floor);
        let decreed = floor.filter(|(_, seq)| **seq > gift.seq).map(|(piece, _)| *piece);
        later
            .map(|claim| claim.net)
            .chain(decreed)
            .filter(|piece| overlap(*piece, *net))
            .collect()
    }

    /// This host wants to leave: its shares go to others first.
    pub(super) fn wish_leave(&mut self, ticket: u64) {
        if let Some((pool, _)) = self.space.fills.iter().find(|(_, fill)| fill.used) {
            let why = format!(
                "this host has a network on the cluster's pool {pool}: remove it first (docker network rm)"
            );
            return self.done(ticket, Err(why));
        }
        if let Some(pending) = self.wishes.get_mut(&ticket) {
            pending.until = self.now + Duration::from_secs(20);
        }
        self.space.leaving = Some(ticket);
        self.space.gone = false;
        self.space.objected = None;
        // It may have come out before, and others not have heard of it.
        self.space.out = !self.is_member(&self.me);
        self.leave_tick();
    }

    /// Others know of something that stands in the way of our leaving. It may be that they haven't heard the latest.
    pub(super) fn leave_later(&mut self, why: String) {
        self.stay();
        self.space.objected = Some((why, self.now + LEAVE));
    }

    /// Whether it may be decided any moment that this host leaves.
    fn is_going(&self) -> bool {
        self.space.gone || self.council.may_leave()
    }

    /// Leaving isn't proposed any more, and what was given to us meanwhile is taken.
    fn stay(&mut self) {
        self.space.gone = false;
        self.react_to_all();
    }

    /// Why others objected to our leaving last.
    pub(super) fn why_not_left(&self) -> Option<String> {
        self.space.objected.as_ref().map(|(why, _)| why.clone())
    }

    fn leave_tick(&mut self) {
        let Some(ticket) = self.space.leaving else { return };
        if self.space.out {
            // Whoever is there is to hear of it, and so many that they can decide without us.
            let untold: Vec<HostId> = self
                .council
                .untold()
                .filter(|host| self.is_member(host))
                .collect();
            let stay = self.charter().hosts.len();
            let few = !self.by_store() && stay - untold.len() < majority(stay);
            let waits = match self.by_store() {
                true => self.store_untold(),
                false => few || untold.iter().any(|host| self.is_alive(host)),
            };
            let until = self.wishes.get(&ticket).map(|pending| pending.until);
            let late = until.is_none_or(|until| until <= self.now + Duration::from_secs(1));
            if late && few {
                self.space.leaving = None;
                let names: Vec<String> = untold.iter().map(|host| self.name(host)).collect();
                let why = format!(
                    "it is decided, but of the hosts that stay too few have heard of it to decide anything without this one: \
                     have {} running and leave again, or have them forgotten first",
                    names.join(", ")
                );
                self.done(ticket, Err(why));
            } else if late || !waits {
                self.membership.leave(self.now);
                self.space.leaving = None;
                self.done(ticket, Ok(()));
            }
            return;
        }
        if !self.wishes.contains_key(&ticket) {
            self.space.leaving = None;
            self.stay();
            return;
        }
        if self.charter().hosts.len() == 1 {
            return self.left(ticket);
        }
        let held: Vec<IpNet> = self
            .space
            .own
            .iter()
            .filter(|(_, share)| !share.pieces.is_empty())
            .map(|(pool, _)| *pool)
            .collect();
        // Only what is settled can be given: asking for the rest would go on without an end.
        let settled = |pool: &&IpNet| {
            let share = self.space.own.get(*pool);
            share.is_some_and(|share| share.settled().next().is_some())
        };
        for pool in held.iter().filter(settled).copied().collect::<Vec<_>>().iter() {
            let used = |host: &HostId| self.space.fill(pool, host).is_some_and(|fill| fill.used);
            let user = self
                .membership
                .alive()
                .map(|seat| seat.host)
                .find(|host| used(host));
            if let Some(heir) = user.or_else(|| self.somebody()) {
                self.deal_once(*pool, Deal::GiveAll(heir));
            }
        }
        let pending = self.space.own.values().any(|share| !share.gifts.is_empty());
        let early = self.space.objected.as_ref().is_some_and(|(_, at)| *at > self.now);
        let still = held.is_empty() && !pending && self.space.dealing.is_empty();
        if still && !self.space.gone && !early {
            self.space.gone = true;
            let host = self.me;
            self.decree(ticket, Decree::Leave { host });
        }
    }

    /// This host is out.
    pub(super) fn left(&mut self, ticket: u64) {
        self.space.leaving = Some(ticket);
        self.space.out = true;
        self.leave_tick();
    }
}

fn witness_key(pool: &IpNet, host: &HostId) -> String {
    format!("witness/{host}/{pool}")
}
