//! Is what a host remembers of itself the latest?
//!
//! Between two lives of a host its disk may have been set back, the others may have forgotten it, or a copy of its disk
//! may be running elsewhere. So before it gives addresses from its share, it asks.
//!
//! Every change of ownership, and every decree, is known to a majority; but this host may have been one of that, and
//! not remember. A host that is to be safe against this ([`Alone::Wait`]) is *sure* when so many others have told it all
//! that they know that one of any majority's others is among them, and takes over what they know of its shares and votes.
//! Until then it gives no address, changes no share, votes for nothing and witnesses nothing. Its shares are of this
//! *life* then: their revisions have its epoch in the upper half. Who was asked lets pass nothing of an earlier life that
//! it didn't know of, so a gift that nobody told of can't be claimed any more.
//!
//! A host that is not ([`Alone::Lease`]) asks as well, but no more than a majority, itself among it; and if nobody
//! answers at all, it goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Deal, Share};

use super::{Alone, News, Node, Output};
use crate::charter::Charter;
use crate::council::Acceptor;
use crate::time::Tick;
use crate::wire::{Confirm, Frame, Holding, Request, encode};

use super::sync::Purpose;

/// How long a host waits to be confirmed before it counts itself as alone.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a host that is there at one address isn't confirmed at another one: the disk may have been copied, and whoever
/// runs twice is found out until then.
const MOVING: Duration = Duration::from_secs(5);

/// How often those are asked again who have not answered.
const AGAIN: Duration = Duration::from_millis(400);

/// How often a host that nobody knows to be there calls one of the others.
const HELLO: Duration = Duration::from_secs(3);

/// How often one that seems to be out calls those who said so.
const REFUSED: Duration = Duration::from_secs(10);

/// How long after it was last told of another one with its identifier a host believes that it is the only one again.
const TWICE: Duration = Duration::from_secs(20);

/// Whether this host may give addresses of its shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A majority has confirmed what it remembers, or there is nobody else.
    Confirmed,
    /// It has begun anew and waits to be confirmed.
    Waiting,
    /// Nobody answers, and it goes on with what it remembers.
    Alone,
    /// It was forgotten, or has left: its shares are void.
    Gone(String),
    /// Another host runs under the same identifier.
    Cloned(SocketAddr),
}

/// What is going on.
pub(super) struct State {
    standing: Standing,
    alone: Alone,
    since: Tick,
    /// When it was confirmed last.
    confirmed: Tick,
    next: Tick,
    tries: u32,
    hello: Tick,
    got: BTreeSet<HostId>,
    /// Who has told all that it knows, since this host began anew.
    told: BTreeSet<HostId>,
    /// Others hold later shares of ours: they are being fetched.
    later: BTreeSet<HostId>,
    /// In which lives others were confirmed, as we were told.
    lives: BTreeMap<HostId, u32>,
    /// Who doesn't let us in.
    refused: BTreeSet<HostId>,
    /// When we were last told that we were elsewhere a moment ago.
    elsewhere: Option<Tick>,
    /// When we were last told of another host with our identifier. Who was is not alone, whoever answers.
    twice: Option<Tick>,
}

impl State {
    pub(super) fn new(now: Tick, alone: Alone, lives: BTreeMap<HostId, u32>) -> Self {
        Self {
            standing: Standing::Waiting,
            alone,
            since: now,
            confirmed: now,
            next: now,
            tries: 0,
            hello: now,
            got: BTreeSet::new(),
            told: BTreeSet::new(),
            later: BTreeSet::new(),
            lives,
            refused: BTreeSet::new(),
            elsewhere: None,
            twice: None,
        }
    }

    /// Whether this host remembers all that it ever promised, as far as can be known; where hosts are to be forgotten,
    /// without them.
    pub(super) fn is_recalled(&self, lost: &BTreeSet<HostId>, charter: &Charter, me: HostId) -> bool {
        self.alone == Alone::Lease || self.standing == Standing::Confirmed || {
            charter.hosts.contains_key(&me) && !lost.is_empty() && self.is_told(lost, charter, me)
        }
    }

    /// Whether so many have told all that they know that one of the others of any quorum, of which this host may have been,
    /// is among them; at most all that are not lost. A quorum is a majority, or to forget somebody half of an even number
    /// with the lowest identifier among them ([`crate::council::Quorum`]).
    fn is_told(&self, lost: &BTreeSet<HostId>, charter: &Charter, me: HostId) -> bool {
        let hosts = charter.hosts.keys();
        let rest = hosts.filter(|host| **host != me && !lost.contains(host));
        let told = rest.clone().filter(|host| self.told.contains(host));
        let lowest = charter.hosts.keys().next();
        let with_lowest = told.clone().any(|host| Some(host) == lowest);
        told.count() >= strict(charter.hosts.len(), with_lowest).min(rest.count())
    }
}

/// How many of the others of so many hosts meet the others of each quorum, if the lowest is among them or not.
fn strict(hosts: usize, with_lowest: bool) -> usize {
    let even = hosts.is_multiple_of(2);
    hosts.div_ceil(2) + usize::from(even && !with_lowest)
}

impl Node {
    /// Whether this host may give addresses of its shares.
    pub fn standing(&self) -> &Standing {
        &self.confirm.standing
    }

    /// Whether this host may give addresses of its shares now.
    pub fn may_lease(&self) -> bool {
        matches!(self.confirm.standing, Standing::Confirmed | Standing::Alone)
    }

    fn stand(&mut self, standing: Standing) {
        if self.confirm.standing != standing {
            let sure = standing == Standing::Confirmed;
            self.confirm.standing = standing.clone();
            self.out.push_back(Output::Tell(News::Standing(standing)));
            if sure {
                self.confirm.confirmed = self.now;
            }
            if sure && self.own_life() > 0 && !self.by_store() {
                self.go_on_sure();
            }
        }
    }

    /// Whether it matters that this host's disk may have been set back.
    pub(super) fn is_strict(&self) -> bool {
        self.confirm.alone == Alone::Wait
    }

    /// Whether this host remembers all that it ever promised, as far as can be known.
    pub(super) fn is_recalled(&self) -> bool {
        let (charter, lost) = (self.council.charter(), BTreeSet::new());
        self.confirm.is_recalled(&lost, charter, self.me)
    }

    /// The life that this host's shares are of.
    pub(super) fn own_life(&self) -> u64 {
        match (self.is_strict(), &self.confirm.standing) {
            (true, Standing::Confirmed) => u64::from(self.epoch),
            // Others were told of a life when it mattered, and take nothing of an earlier one since.
            (false, Standing::Confirmed) => self.confirm_life(&self.me),
            _ => 0,
        }
    }

    /// Takes note of a life that a host's shares are to be of, or a later one.
    fn note_life(&mut self, host: HostId, epoch: u32) {
        if self.confirm_life(&host) < u64::from(epoch) {
            self.confirm.lives.insert(host, epoch);
            let record = (life_key(&host), Some(encode(&epoch)));
            self.out.push_back(Output::Keep(vec![record]));
        }
    }

    /// The life that another host's shares have to be of, or a later one.
    pub(super) fn confirm_life(&self, host: &HostId) -> u64 {
        self.confirm.lives.get(host).copied().map_or(0, u64::from)
    }

    pub(super) fn confirm_due(&self) -> Option<Tick> {
        let lonely = self.is_lonely();
        let asks = self.is_unconfirmed() && !self.by_store();
        let next = asks.then_some(self.confirm.next);
        let patience = self.confirm.standing == Standing::Waiting && self.confirm.alone == Alone::Lease;
        let patience = patience.then_some(self.confirm.since + PATIENCE);
        let twice = self
            .confirm
            .twice
            .filter(|_| matches!(self.confirm.standing, Standing::Cloned(_)));
        next.into_iter()
            .chain((lonely || !self.confirm.refused.is_empty()).then_some(self.confirm.hello))
            .chain(twice.map(|at| at + TWICE))
            .chain(patience.filter(|at| *at > self.now))
            .min()
    }

    /// Whether this host has begun anew and is not confirmed yet.
    pub(super) fn is_unconfirmed(&self) -> bool {
        matches!(self.confirm.standing, Standing::Waiting | Standing::Alone)
    }

    /// Whether nobody else is there, though there should be.
    fn is_lonely(&self) -> bool {
        self.membership.alive_count() == 0 && self.charter().hosts.len() > 1
    }

    /// The store has confirmed what this host remembers.
    pub(super) fn confirmed_by_store(&mut self) {
        if self.is_unconfirmed() {
            self.stand(Standing::Confirmed);
        }
    }

    /// What was decided has changed.
    pub(super) fn confirm_charter(&mut self) {
        let charter = self.council.charter();
        if matches!(self.confirm.standing, Standing::Gone(_)) {
            // Those who refused us may have been forgotten themselves.
            if charter.hosts.contains_key(&self.me) && !self.are_refused() {
                self.confirm.next = self.now;
                self.stand(Standing::Waiting);
                self.confirm_count();
            }
            return;
        }
        let forget = self
            .confirm
            .lives
            .extract_if(.., |host, _| !charter.hosts.contains_key(host));
        let forget: Vec<_> = forget.map(|(host, _)| (life_key(&host), None)).collect();
        self.confirm
            .refused
            .retain(|host| charter.hosts.contains_key(host));
        if !forget.is_empty() {
            self.out.push_back(Output::Keep(forget));
        }
        if !charter.hosts.contains_key(&self.me) && charter.index > 0 {
            let why = match charter.gone.get(&self.me) {
                Some(gone) => format!("{:?} by decree {}", gone.how, gone.at).to_lowercase(),
                None => "no member".to_owned(),
            };
            self.stand(Standing::Gone(why));
        } else if matches!(self.confirm.standing, Standing::Cloned(_)) {
            // Until nobody tells of it any more.
        } else if charter.by_store {
            // The store is asked, also by the only host: others may have joined before its disk was set back.
        } else if charter.hosts.len() <= 1 {
            self.stand(Standing::Confirmed);
        } else {
            self.confirm_count();
        }
    }

    pub(super) fn confirm_tick(&mut self) {
        let due = self.confirm.hello <= self.now;
        if due && !self.confirm.refused.is_empty() {
            // They may not have known yet that we joined.
            let refused: Vec<HostId> = self.confirm.refused.iter().copied().take(5).collect();
            refused.into_iter().for_each(|host| self.hello(host));
            let gone = matches!(self.confirm.standing, Standing::Gone(_));
            self.confirm.hello = self.now + if gone { REFUSED } else { HELLO };
        }
        if due && self.is_lonely() {
            self.confirm.hello = self.confirm.hello.max(self.now + HELLO);
            // Datagrams may fail for a reason that a call tells: the key was rotated, or we are out.
            let unasked: Vec<HostId> = self
                .seats
                .keys()
                .copied()
                .filter(|host| !self.confirm.refused.contains(host))
                .collect();
            let at = self.pick(unasked.len());
            // Who was refused once asks several, to know where it stands.
            let several = if self.confirm.refused.is_empty() { 1 } else { 5 };
            for host in unasked.into_iter().cycle().skip(at).take(several) {
                self.hello(host);
            }
        }
        let twice = self.confirm.twice.is_some_and(|at| self.now.since(at) < TWICE);
        if matches!(self.confirm.standing, Standing::Cloned(_)) && !twice {
            // Both rose above each other step by step, so what others hold of our last epoch may be the other one's.
            let random = self.chance();
            if !self.begin_epoch(super::next_epoch(self.epoch, random)) {
                self.confirm_anew();
            }
            self.stand(Standing::Waiting);
            self.store_anew();
        }
        if !self.is_unconfirmed() {
            return;
        }
        if self.confirm.next <= self.now && !self.by_store() {
            // Hosts that are off need not be asked all the time.
            self.confirm.tries = self.confirm.tries.saturating_add(1);
            self.confirm.next = self.now + AGAIN.saturating_mul(self.confirm.tries).min(HELLO);
            if self.is_strict() {
                // It is told from here on, whether anybody answers or not.
                self.note_life(self.me, self.epoch);
            }
            let mine = Confirm {
                epoch: self.epoch,
                address: self.membership.me().address,
                index: self.charter().index,
                shares: self
                    .space
                    .own()
                    .iter()
                    .map(|(pool, share)| (*pool, share.revision))
                    .collect(),
                strict: self.is_strict(),
            };
            let others = self.charter().hosts.keys().copied();
            let done = match self.is_strict() {
                true => &self.confirm.told,
                false => &self.confirm.got,
            };
            let unheard = others.filter(|host| *host != self.me && !done.contains(host));
            // Those that are there first, and a few more than are needed: some may be slow.
            let mut asked: Vec<HostId> = unheard.filter(|host| self.address(host).is_some()).collect();
            let lack = self.confirm_need().saturating_sub(done.len());
            let start = self.pick(asked.len());
            asked.rotate_left(start);
            asked.sort_by_key(|host| !self.is_alive(host));
            for host in asked.into_iter().take(lack + lack / 4 + 2) {
                self.send(host, Frame::Confirm(mine.clone()));
            }
        }
        self.confirm_count();
        // Who is refused by anybody is not alone, and may have been forgotten.
        let patience = self.now.since(self.confirm.since) >= PATIENCE
            && self.confirm.twice.is_none()
            && self.confirm.refused.is_empty()
            && !self.is_elsewhere();
        if patience && self.confirm.alone == Alone::Lease && self.confirm.standing == Standing::Waiting {
            self.stand(Standing::Alone);
        }
    }

    /// Another host has begun anew and asks.
    pub(super) fn asked_to_confirm(&mut self, from: HostId, address: SocketAddr, confirm: Confirm) {
        let seat = self.membership.seat(&from);
        let moved = self.heard.get(&from).and_then(|heard| heard.moved);
        if seat.is_some_and(|seat| seat.address != confirm.address)
            || moved.is_some_and(|at| self.now.since(at) < MOVING)
        {
            let epoch = confirm.epoch;
            return self.send_to(from, address, &Frame::Elsewhere { epoch });
        }
        let known = self.space.known().iter().filter(|((_, host), _)| *host == from);
        let newer = known
            .into_iter()
            .any(|((pool, _), share)| confirm.shares.get(pool).is_none_or(|mine| *mine < share.revision));
        let covers = self.table.hosts().find(|(host, ..)| *host == from);
        let heard = covers.map_or(0, |(_, cover, _)| cover.top().epoch);
        if confirm.strict {
            self.note_life(from, confirm.epoch);
        }
        let index = self.charter().index;
        self.send_to(
            from,
            address,
            &Frame::Confirmed {
                epoch: confirm.epoch,
                index,
                newer,
                heard,
            },
        );
        if confirm.index > index {
            self.fetch_charter(from);
        }
    }

    /// The answer to our question.
    pub(super) fn confirmed(&mut self, from: HostId, epoch: u32, index: u64, newer: bool, heard: u32) {
        if epoch != self.epoch {
            return;
        }
        if heard > self.epoch {
            self.rise(from, heard);
        }
        if index > self.charter().index {
            // What is missing may be that we are out: it counts when that is known.
            return self.fetch_charter(from);
        }
        if newer {
            if self.confirm.later.insert(from) {
                self.call(from, &Request::Shares, Purpose::Shares);
            }
            return;
        }
        self.confirm.got.insert(from);
        let asked = |call: &super::Calling| call.to == from && call.what == Purpose::Recall;
        if self.is_strict() && !self.confirm.told.contains(&from) && !self.calls.values().any(asked) {
            self.call(from, &Request::Recall, Purpose::Recall);
        }
        self.confirm_count();
    }

    /// What another host has told of all that this one may have forgotten.
    pub(super) fn recalled(&mut self, from: HostId, holding: Holding, vote: &Acceptor) {
        let index = holding.index;
        self.take_shares(from, holding);
        if index > self.charter().index {
            // It is asked again when that is known.
            return self.fetch_charter(from);
        }
        let acts = self.council.recall(vote);
        self.act(acts);
        // An answer to a question of an earlier epoch may lack what was said since.
        if self.confirm.got.contains(&from) {
            self.confirm.told.insert(from);
        }
        self.confirm_count();
    }

    /// How many others have to confirm this host, at most.
    fn confirm_need(&self) -> usize {
        let hosts = self.charter().hosts.len();
        match self.is_strict() {
            true => strict(hosts, false).min(hosts.saturating_sub(1)),
            false => hosts / 2,
        }
    }

    /// Somebody has seen us at another address a moment ago.
    pub(super) fn seen_elsewhere(&mut self, epoch: u32) {
        // The first answers may have been enough.
        let just =
            self.confirm.standing == Standing::Confirmed && self.now.since(self.confirm.confirmed) < MOVING;
        if epoch == self.epoch && (just || self.is_unconfirmed()) {
            self.confirm.elsewhere = Some(self.now);
            self.confirm.since = self.now;
            self.stand(Standing::Waiting);
        }
    }

    /// Whether somebody has told us a moment ago that we were elsewhere.
    fn is_elsewhere(&self) -> bool {
        let told = self.confirm.elsewhere;
        told.is_some_and(|at| self.now.since(at) < MOVING)
    }

    fn confirm_count(&mut self) {
        let (charter, confirm) = (self.council.charter(), &self.confirm);
        let done = match self.is_strict() {
            true => confirm.is_told(&BTreeSet::new(), charter, self.me),
            false => confirm.got.iter().filter(|host| self.is_member(host)).count() >= self.confirm_need(),
        };
        if done && self.is_unconfirmed() && !self.by_store() && !self.is_elsewhere() {
            self.stand(Standing::Confirmed);
        }
    }

    /// What another host holds of our shares, which is later than what we remember.
    pub(super) fn shares_elsewhere(&mut self, shares: BTreeMap<IpNet, Share>) {
        let mut back = Vec::new();
        for (pool, share) in shares {
            let own = self.space.own().get(&pool).map_or(0, |share| share.revision);
            let founded = self.charter().pools.get(&pool).map(|founded| founded.at);
            // It may be of a pool that was given up meanwhile.
            if own < share.revision && founded.is_some_and(|at| at <= share.applied) {
                back.push(format!(
                    "{pool} was at revision {own}, and is at {}",
                    share.revision
                ));
                self.deal(pool, Deal::Restore(share));
            }
        }
        self.confirm.later.clear();
        if !back.is_empty() {
            self.confirm.next = self.now;
            self.set_back(back.join("; "));
        }
    }

    /// Others know of later records of ours than we do.
    pub(super) fn set_back(&mut self, how: String) {
        self.out.push_back(Output::Tell(News::SetBack(how)));
    }

    /// Another host doesn't let us in. It may not know yet that we joined; if a majority says so, we are out.
    pub(super) fn refused(&mut self, by: HostId) {
        let news = self.confirm.refused.insert(by);
        if news {
            self.look_soon();
        }
        if matches!(self.confirm.standing, Standing::Gone(_)) {
            return;
        }
        if self.confirm.standing == Standing::Alone {
            self.stand(Standing::Waiting);
        }
        if self.are_refused() {
            let names: Vec<String> = self.confirm.refused.iter().map(|host| self.name(host)).collect();
            self.stand(Standing::Gone(format!(
                "forgotten: {} let it in no more",
                names.join(", ")
            )));
        } else if news {
            // The others are asked at once.
            self.confirm.hello = self.now;
        }
    }

    /// Another host lets us in.
    pub(super) fn let_in(&mut self, by: &HostId) {
        if self.confirm.refused.remove(by)
            && matches!(self.confirm.standing, Standing::Gone(_))
            && self.is_member(&self.me)
            && !self.are_refused()
        {
            // Those who refused us had not heard yet that we joined.
            self.stand(Standing::Waiting);
            self.confirm.next = self.now;
            self.store_anew();
        }
    }

    /// Whether a majority doesn't let us in.
    fn are_refused(&self) -> bool {
        let hosts = &self.council.charter().hosts;
        let refused = self
            .confirm
            .refused
            .iter()
            .filter(|host| hosts.contains_key(host))
            .count();
        // One whom a store let in may be unknown to a majority for a while; but it is known to somebody.
        match self.by_store() {
            true => refused > 0 && refused + 1 == hosts.len(),
            false => refused + 1 > hosts.len() / 2,
        }
    }

    pub(super) fn hello_answered(&mut self, from: HostId, answered: bool) {
        if answered && let Some(seat) = self.seats.get(&from).cloned() {
            self.membership.announce(self.now, seat);
        }
    }

    /// Another host runs under our identifier.
    pub(super) fn confirm_cloned(&mut self, other: SocketAddr) {
        self.confirm.twice = Some(self.now);
        if !matches!(self.confirm.standing, Standing::Gone(_)) {
            self.stand(Standing::Cloned(other));
        }
    }

    /// This host begins another epoch: what was confirmed was of the one before.
    pub(super) fn confirm_anew(&mut self) {
        self.confirm.got.clear();
        self.confirm.told.clear();
        // What is under way was asked in the epoch before.
        self.calls.retain(|_, call| call.what != Purpose::Recall);
        self.confirm.tries = 0;
        self.confirm.next = self.now;
        if self.is_strict() && self.confirm.standing == Standing::Confirmed {
            self.stand(Standing::Waiting);
            self.confirm_charter();
        }
    }
}

fn life_key(host: &HostId) -> String {
    format!("life/{host}")
}
