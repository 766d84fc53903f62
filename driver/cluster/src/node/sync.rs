//! Finding out what was missed: two hosts compare in short what they know, and exchange what differs.
//!
//! Every few seconds a host tells another one its digest in a datagram; while all is equal, nothing else happens. Where
//! digests differ, the host that notices calls the other one: buckets first, then the heads of those that differ, then
//! rows. It goes on at a quick pace until all is equal. Who is there and what was decided are compared on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tombolo_ipam::HostId;

use super::{Called, Node, Output};
use crate::membership::Seat;
use crate::table::{Content, Cover, Delta, Head, Merged, Version};
use crate::time::Tick;
use crate::wire::{Answer, Digest, Frame, ROWS, Request, decode};

/// How often a host tells its digest while all is quiet.
const QUIET: Duration = Duration::from_secs(5);

/// How often while something has changed not long ago.
const BUSY: Duration = Duration::from_millis(500);

/// How long a change counts as not long ago.
const BUSY_FOR: Duration = Duration::from_secs(3);

/// How soon after a sign of something missed a host is compared with.
const SOON: Duration = Duration::from_millis(30);

/// How long after a comparison the same host isn't compared with again.
const PAUSE: Duration = Duration::from_millis(200);

/// How often the list of members is fetched while somebody is neither known to be there nor not.
const MEMBERS: Duration = Duration::from_secs(2);

/// How often it is asked for when there is somebody of whom no address is known: perhaps nobody knows one.
const PLACES: Duration = Duration::from_secs(20);

/// How many hosts, about, compare at once with one that has come.
const FIRST: u64 = 8;

/// With how many it is enough to be level: what came to the others came to one of them as well.
const ENOUGH: usize = 3;

/// How many hosts may wait to be compared with; whoever comes on top tells its digest again.
const WAITING: usize = 8;

/// What a call is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Nothing: there is no answer to speak of.
    Nothing,
    /// To find out which rows differ.
    Compare,
    /// To get rows, and bring some.
    Exchange,
    /// To learn who is there.
    Members,
    /// To learn what was decided.
    Charter,
    /// To learn what others hold of our shares.
    Shares,
    /// To learn what others hold of anybody's shares.
    AllShares,
    /// To learn what this host may have forgotten.
    Recall,
    /// To be known to somebody.
    Hello,
}

/// What is going on.
pub(super) struct State {
    next: Tick,
    changed: Option<Tick>,
    /// Whom to compare with next, and when.
    soon: BTreeMap<HostId, Tick>,
    /// Who is being compared with.
    with: Option<HostId>,
    last: BTreeMap<HostId, Tick>,
    /// Who was found, at a time since the start, to know no row that is missing here.
    level: BTreeSet<HostId>,
    members: Tick,
    /// When to look next whether there is a member without an address.
    places: Tick,
    /// When somebody came or went last, as was seen here.
    moved: Tick,
}

impl State {
    pub(super) fn new(now: Tick) -> Self {
        Self {
            next: now + SOON,
            changed: None,
            soon: BTreeMap::new(),
            with: None,
            last: BTreeMap::new(),
            level: BTreeSet::new(),
            members: now,
            places: now + MEMBERS,
            moved: now,
        }
    }
}

impl Node {
    pub(super) fn sync_due(&self) -> Tick {
        let soon = match self.sync.with {
            None => self.sync.soon.values().min().copied(),
            Some(_) => None,
        };
        let members = self.incomplete().then_some(self.sync.members);
        [Some(self.sync.next), Some(self.sync.places), soon, members]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.sync.next)
    }

    /// Something has changed: comparisons are more frequent for a while.
    pub(super) fn sync_changed(&mut self) {
        self.sync.changed = Some(self.now);
        self.sync.next = self.sync.next.min(self.now + BUSY);
    }

    /// Compare with this host soon: it may know something.
    pub(super) fn sync_soon(&mut self, host: HostId) {
        if self.sync.soon.len() >= WAITING && !self.sync.soon.contains_key(&host) {
            return;
        }
        let last = self.sync.last.get(&host).map_or(Tick(0), |last| *last + PAUSE);
        let at = (self.now + SOON).max(last);
        let entry = self.sync.soon.entry(host).or_insert(at);
        *entry = (*entry).min(at);
    }

    /// Tell our digest to somebody right away.
    pub(super) fn sync_now(&mut self) {
        self.sync.next = self.now;
        self.sync_changed();
    }

    pub(super) fn digest(&self) -> Digest {
        Digest {
            table: self.table.digest(),
            index: self.charter().index,
            shares: self.space.sum(self.me),
            members: self.membership.sum(),
            sure: self.is_sure(),
            sent: self.now.0,
            wall: self.wall,
        }
    }

    /// Another host's digest against ours.
    pub(super) fn compare(&mut self, from: HostId, ours: Digest, theirs: Digest) {
        if theirs.index > ours.index {
            self.fetch_charter(from);
        }
        if theirs.table == ours.table {
            self.sync.level.insert(from);
        } else {
            self.sync_soon(from);
        }
        if theirs.members != ours.members {
            self.compare_members(from);
        }
        self.store_heard(theirs.index);
        if self.by_store() {
            // What must be known of shares for a decree is in the store.
        } else if theirs.shares == ours.shares {
            if theirs.sure {
                self.read_shares(from, theirs.index);
            }
        } else {
            self.fetch_shares(from);
        }
    }

    /// Another host sees others there than we do. While the news goes round that is no wonder, later it passed one of us by.
    fn compare_members(&mut self, from: HostId) {
        let settled = self.now.since(self.sync.moved) >= MEMBERS;
        if settled && self.sync.members <= self.now {
            self.sync.members = self.now + MEMBERS;
            self.ask_members(from);
        }
    }

    fn ask_members(&mut self, of: HostId) {
        let list = self.membership.list();
        self.call(of, &Request::Members(list), Purpose::Members);
    }

    /// Somebody came or went.
    pub(super) fn sync_moved(&mut self) {
        self.sync.moved = self.now;
        self.sync_changed();
    }

    /// A host has come that may have new rows. Some compare with it, and the others with them: it need not serve everybody.
    pub(super) fn sync_arrived(&mut self, host: HostId) {
        let others = self.membership.alive_count() as u64;
        if self.chance() % others.max(1) < FIRST {
            self.sync_soon(host);
        }
    }

    /// Whether the hosts that are there, or three of them, were asked since the start for what this one has missed, and have no
    /// more of it. Where nobody is there, nobody was.
    pub fn has_caught_up(&self) -> bool {
        let alive = self.membership.alive_count().min(ENOUGH);
        let level = self.membership.alive().map(|seat| seat.host);
        alive > 0 && level.filter(|host| self.sync.level.contains(host)).count() >= alive
    }

    /// What an echo tells of the way to a host and of its clock.
    pub(super) fn measure(&mut self, from: HostId, sent: u64, digest: Digest) {
        let rtt = self.now.since(Tick(sent));
        let half = i64::try_from(rtt.as_millis() / 2).unwrap_or(0);
        let there = i64::try_from(digest.wall).unwrap_or(0).saturating_add(half);
        let here = i64::try_from(self.wall).unwrap_or(0);
        let heard = self.heard.entry(from).or_default();
        heard.rtt = Some(rtt);
        heard.clock_ms = Some(there.saturating_sub(here));
    }

    /// Whether somebody is neither known to be there nor known not to be.
    fn incomplete(&self) -> bool {
        let others = self.charter().hosts.len().saturating_sub(1);
        let alive = self.membership.alive_count();
        alive > 0 && alive + self.down.len() < others
    }

    pub(super) fn sync_tick(&mut self) {
        if self.sync.next <= self.now {
            let busy = self.sync.changed.is_some_and(|at| self.now.since(at) < BUSY_FOR);
            self.sync.next = self.now + if busy { BUSY } else { QUIET };
            if let Some(host) = self.somebody() {
                let digest = self.digest();
                self.send(host, Frame::Digest(digest));
            }
        }
        if self.sync.members <= self.now && self.incomplete() {
            self.sync.members = self.now + MEMBERS;
            if let Some(host) = self.somebody() {
                self.ask_members(host);
            }
        }
        if self.sync.places <= self.now {
            self.sync.places = self.now + PLACES;
            if self.unplaced()
                && let Some(host) = self.somebody()
            {
                self.ask_members(host);
            }
        }
        if self.sync.with.is_none() {
            let due = self
                .sync
                .soon
                .iter()
                .filter(|(_, at)| **at <= self.now)
                .min_by_key(|(_, at)| **at);
            if let Some(host) = due.map(|(host, _)| *host) {
                self.sync.soon.remove(&host);
                self.begin_compare(host);
            }
        }
    }

    fn begin_compare(&mut self, host: HostId) {
        if !self.is_member(&host) {
            return;
        }
        self.sync.last.insert(host, self.now);
        let request = Request::Compare {
            buckets: self.table.buckets().to_vec(),
            index: self.charter().index,
        };
        if self.call(host, &request, Purpose::Compare) {
            self.sync.with = Some(host);
        }
    }

    /// Gets what was decided from another host.
    pub(super) fn fetch_charter(&mut self, from: HostId) {
        let fetching = self
            .calls
            .values()
            .filter(|call| call.what == Purpose::Charter)
            .count();
        // One may be slow or gone; asking everybody at once helps nobody.
        if fetching < 2 {
            self.call(from, &Request::Charter, Purpose::Charter);
        }
    }

    /// A call of another host.
    pub(super) fn request(&mut self, call: u64, from: HostId, bytes: &[u8]) {
        if !self.is_member(&from) {
            return;
        }
        let Some(request) = decode::<Request>(bytes) else {
            *self.strange.entry(from).or_default() += 1;
            return self.answer(call, &Answer::Strange);
        };
        let answer = match request {
            Request::Compare { buckets, index } => {
                if index > self.charter().index {
                    self.fetch_charter(from);
                }
                self.differing(&buckets)
            }
            Request::Exchange { want, deltas } => {
                self.merge(from, deltas);
                Answer::Deltas(self.deltas(&want))
            }
            Request::Members(list) => {
                self.membership.take_in(self.now, list);
                let absent = self.seats.values().filter(|seat| !self.is_alive(&seat.host));
                Answer::Members(self.membership.list(), absent.cloned().collect())
            }
            Request::Charter => Answer::Charter(Box::new(self.charter().clone())),
            Request::Council(word) => {
                self.hear_word(from, word);
                Answer::Done
            }
            Request::Frame(frame) => {
                if let Some(address) = self.address(&from) {
                    self.frame(from, address, *frame);
                }
                Answer::Done
            }
            Request::Shares => Answer::Shares(self.shares_of(&from)),
            Request::AllShares => Answer::AllShares(self.holding()),
            Request::Recall => Answer::Recalled(self.holding(), Box::new(self.council.vote().clone())),
            Request::Hello { seat, index } => {
                if seat.host == from {
                    self.seats.insert(from, seat.clone());
                    self.membership.announce(self.now, seat);
                }
                match index < self.charter().index {
                    true => Answer::Charter(Box::new(self.charter().clone())),
                    false => Answer::Done,
                }
            }
        };
        self.answer(call, &answer);
    }

    fn differing(&self, theirs: &[u64]) -> Answer {
        let ours = self.table.buckets();
        let mut buckets = 0;
        for (at, own) in ours.iter().enumerate() {
            if theirs.get(at) != Some(own) {
                buckets |= 1_u64 << at;
            }
        }
        Answer::Heads {
            buckets,
            heads: self.table.heads(buckets),
        }
    }

    /// What is wanted of our rows, as much as fits.
    fn deltas(&self, want: &[Head]) -> Vec<Delta> {
        let mut deltas = Vec::new();
        let mut room = ROWS;
        for head in want {
            if room == 0 {
                break;
            }
            if let Some(delta) = self.table.delta(self.now, head, room) {
                let body = |content: &Content| match content {
                    Content::Body(body) => body.len(),
                    Content::Removed { .. } => 0,
                };
                let sizes = delta
                    .rows
                    .iter()
                    .map(|(key, _, content)| body(content) + key.as_str().len() + 8);
                let size: usize = sizes.sum();
                room = room.saturating_sub(size + 64);
                deltas.push(delta);
            }
        }
        deltas
    }

    /// Takes rows of others. Gives whether any were news.
    fn merge(&mut self, from: HostId, deltas: Vec<Delta>) -> bool {
        let mut news = false;
        for delta in deltas {
            match self.table.merge(self.now, delta) {
                Merged::New { .. } | Merged::More(_) => news = true,
                Merged::OwnFromFuture(version) => self.rows_from_future(from, version),
                Merged::Known | Merged::Unfitting | Merged::Refused(_) => {}
            }
        }
        if news {
            self.sync_changed();
        }
        news
    }

    /// Others know rows of ours that we never wrote: our disk was set back. All are stated anew, under an epoch above.
    pub(super) fn rows_from_future(&mut self, from: HostId, version: Version) {
        if self.begin_epoch(version.epoch.saturating_add(1)) {
            self.set_back(format!(
                "host {} knows rows of a later start of this host",
                self.name(&from)
            ));
        }
    }

    /// States all own rows anew, under another epoch; gives whether that one is above the one before.
    pub(super) fn begin_epoch(&mut self, epoch: u32) -> bool {
        let begun = self.table.restate(epoch).is_ok();
        if begun {
            self.epoch = self.epoch.max(epoch);
            self.out.push_back(Output::Epoch(self.epoch));
            self.membership.begin(self.now, self.epoch);
            self.confirm_anew();
            self.sync_now();
        }
        begun
    }

    /// How a call of ours went.
    pub(super) fn answered(&mut self, call: u64, called: Called) {
        let Some(calling) = self.calls.remove(&call) else {
            return;
        };
        let answer = match called {
            Called::Answer(bytes) => {
                let answer = decode::<Answer>(&bytes);
                if answer.is_none() {
                    *self.strange.entry(calling.to).or_default() += 1;
                }
                self.let_in(&calling.to);
                answer
            }
            Called::Failed => None,
            Called::Refused => {
                self.refused(calling.to);
                None
            }
        };
        match (calling.what, answer) {
            (Purpose::Compare, Some(Answer::Heads { buckets, heads })) => {
                self.exchange(calling.to, buckets, &heads)
            }
            (Purpose::Exchange, Some(Answer::Deltas(deltas))) => {
                let news = self.merge(calling.to, deltas);
                self.sync.with = None;
                if news {
                    // More may be there than fits into one exchange.
                    self.sync.soon.insert(calling.to, self.now + SOON);
                }
            }
            (Purpose::Compare | Purpose::Exchange, _) => self.sync.with = None,
            (Purpose::Members, Some(Answer::Members(list, absent))) => {
                self.membership.take_in(self.now, list);
                self.learn(absent);
            }
            (Purpose::Charter | Purpose::Hello, Some(Answer::Charter(charter))) => {
                let acts = self.with_council(|council, now, ctx| council.adopt(now, *charter, ctx));
                self.act(acts);
            }
            (Purpose::AllShares, Some(Answer::AllShares(holding))) => self.take_shares(calling.to, holding),
            (Purpose::Recall, Some(Answer::Recalled(holding, vote))) => {
                self.recalled(calling.to, holding, &vote);
            }
            (Purpose::Shares, Some(Answer::Shares(shares))) => self.shares_elsewhere(shares),
            (Purpose::Hello, answer) => self.hello_answered(calling.to, answer.is_some()),
            _ => {}
        }
    }

    fn exchange(&mut self, with: HostId, buckets: u64, heads: &[Head]) {
        let missing = self.table.missing(buckets, heads);
        if let Some(version) = missing.own_from_future {
            self.rows_from_future(with, version);
        }
        let nothing = |origin| Head {
            origin,
            cover: Cover::default(),
            swept: Version::default(),
        };
        let theirs = |origin: HostId| heads.iter().find(|head| head.origin == origin).cloned();
        let have: Vec<Head> = missing
            .have
            .into_iter()
            .map(|host| theirs(host).unwrap_or_else(|| nothing(host)))
            .collect();
        let deltas = self.deltas(&have);
        let want = missing.want;
        if want.is_empty() {
            self.sync.level.insert(with);
        }
        if want.is_empty() && deltas.is_empty() {
            self.sync.with = None;
            return;
        }
        let brought = !deltas.is_empty();
        if !self.call(with, &Request::Exchange { want, deltas }, Purpose::Exchange) {
            self.sync.with = None;
        } else if brought {
            self.sync_changed();
        }
    }

    /// Whom we would announce ourselves to, if we had to.
    pub(super) fn hello(&mut self, to: HostId) {
        let request = Request::Hello {
            seat: self.membership.me().clone(),
            index: self.charter().index,
        };
        self.call(to, &request, Purpose::Hello);
    }

    /// Takes addresses that members were reached at, of whom none is known here.
    fn learn(&mut self, seats: Vec<Seat>) {
        let news = |seat: &Seat| {
            seat.host != self.me && self.is_member(&seat.host) && self.address(&seat.host).is_none()
        };
        let news: Vec<Seat> = seats.into_iter().filter(news).collect();
        if !news.is_empty() {
            self.seats.extend(news.into_iter().map(|seat| (seat.host, seat)));
            let seeds = self.seats.values().cloned().collect();
            self.membership.seed(self.now, seeds);
        }
    }

    /// Whether there is a member of whom no address is known here.
    fn unplaced(&self) -> bool {
        let mut members = self.charter().hosts.keys();
        self.membership.alive_count() > 0
            && members.any(|host| *host != self.me && self.address(host).is_none())
    }
}
