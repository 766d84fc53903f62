//! A host's part in the cluster, put together.
//!
//! ```text
//!   datagrams, calls, ticks, own rows, wishes --step--> [keep, send, call, ask the owner of the shares, tell]
//! ```
//!
//! What comes out is carried out in its order; what is to be *kept* is durable before anything behind it happens. So a
//! host that dies at any moment has never said more than it remembers. Where keeping fails, the node is thrown away and
//! a new one begins from what was kept.
//!
//! The shares of pools and the leases in them must agree at every moment, so they are one owner's (the engine); here is
//! only what is told to others of them. The owner is asked by [`Output::Share`] and answers by [`Input::Shared`].

mod confirm;
mod decide;
mod io;
mod space;
mod store;
mod sync;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::Deal;

use crate::charter::Charter;
use crate::council::Council;
use crate::membership::{self, Membership, Seat};
use crate::table::{self, Change, Commons, Key, Refused, Table};
use crate::time::Tick;
use crate::wire::{Answer, FRAME, Frame, Request, decode, encode};

pub use confirm::Standing;
pub use io::{Alone, Called, Fill, Input, News, Output, Setup, Wish};
pub use space::SHARE;
pub use view::{HostView, Link, PoolView, View};

/// How long a call may take until it counts as failed.
pub const CALL_TIME: Duration = Duration::from_secs(5);

/// How long after the start those are shown who have not been heard of.
const UNSEEN: Duration = Duration::from_secs(30);

/// How often the table forgets what it need not know any more.
const TABLE: Duration = Duration::from_secs(1);

/// How long a wish may take: Docker waits for the handler that has it.
pub const WISH_TIME: Duration = Duration::from_millis(1_900);

/// How long a wish may take to let a host in: many may be at the door at once, and they wait longer than Docker does.
pub const ADMIT_TIME: Duration = Duration::from_secs(8);

/// The epoch after this one. A host whose disk was set back must not begin an epoch that it had already, so it is one of
/// several thousand that may come next, by a random number.
pub fn next_epoch(last: u32, random: u64) -> u32 {
    // Enough for a million starts.
    last.saturating_add(1 + (random >> 52) as u32)
}

/// A wish that is being worked on.
struct Pending {
    wish: Wish,
    until: Tick,
    /// The revision of our share of the wish's pool when it began.
    had: u64,
}

/// A call that has not been answered yet.
struct Calling {
    to: HostId,
    what: sync::Purpose,
    until: Tick,
}

/// What was measured of the way to a host.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    at: Option<Tick>,
    rtt: Option<Duration>,
    clock_ms: Option<i64>,
    /// When it was there at another address last.
    moved: Option<Tick>,
}

/// A host's part in the cluster.
pub struct Node {
    me: HostId,
    epoch: u32,
    now: Tick,
    wall: u64,
    random: u64,
    membership: Membership,
    table: Table,
    table_due: Tick,
    council: Council,
    council_due: Option<Tick>,
    seats: BTreeMap<HostId, Seat>,
    heard: BTreeMap<HostId, Heard>,
    calls: BTreeMap<u64, Calling>,
    next_ticket: u64,
    wishes: BTreeMap<u64, Pending>,
    routes: Vec<(IpNet, String)>,
    sync: sync::State,
    space: space::State,
    confirm: confirm::State,
    store: store::State,
    /// Hosts that were taken for dead, and since when: their rows are hidden, not forgotten.
    down: BTreeMap<HostId, Tick>,
    /// When those count as not there who have not been heard of since the start.
    unseen: Tick,
    /// Whose word is being heard, and where from: one who has left by it is to hear that it was understood.
    asker: Option<(HostId, SocketAddr)>,
    /// Where hosts with one identifier were heard, as people were told.
    twice: BTreeMap<HostId, BTreeSet<SocketAddr>>,
    /// Messages that could not be read, by sender.
    strange: BTreeMap<HostId, u64>,
    out: VecDeque<Output>,
}

impl Node {
    /// A host's part, from what it has kept. What it remembers of the others' rows is visible at once; who isn't there
    /// after a while is then hidden.
    ///
    /// # Errors
    /// If there are more rows or hosts than the limits allow.
    pub fn new(now: Tick, setup: Setup) -> Result<Self, Refused> {
        let seat = Seat::new(setup.me, setup.address, setup.epoch);
        let shares: Vec<(String, Vec<u8>)> = space::State::rows(&setup.shares).collect();
        let rows = setup.rows.into_iter().chain(shares);
        let rows = rows.filter_map(|(key, body)| Some((key.parse::<Key>().ok()?, body.into())));
        let mut table = Table::new(setup.me, setup.epoch, setup.limits, rows)?;
        for host in setup.charter.hosts.keys() {
            table.admit(*host)?;
        }
        for record in &setup.remembered {
            // What was damaged comes again from the others.
            table.restore(now, record).ok();
        }
        table.drain();
        let mut node = Self {
            me: setup.me,
            epoch: setup.epoch,
            now,
            wall: 0,
            random: setup.seed | 1,
            membership: Membership::new(seat, setup.seed),
            table,
            table_due: now,
            council: Council::new(setup.me, setup.charter, setup.acceptor, setup.seed),
            council_due: Some(now),
            seats: setup.seats.into_iter().map(|seat| (seat.host, seat)).collect(),
            heard: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_ticket: 1,
            wishes: BTreeMap::new(),
            routes: Vec::new(),
            sync: sync::State::new(now),
            space: space::State::new(setup.shares, setup.witnessed),
            confirm: confirm::State::new(now, setup.alone, setup.lives),
            store: store::State::new(now),
            down: BTreeMap::new(),
            unseen: now + UNSEEN,
            asker: None,
            twice: BTreeMap::new(),
            strange: BTreeMap::new(),
            out: VecDeque::new(),
        };
        node.seats.remove(&node.me);
        node.membership.resize(node.council.charter().hosts.len());
        let seeds = node.seats.values().cloned().collect();
        node.membership.seed(now, seeds);
        node.learn_rows();
        node.space_charter();
        node.confirm_charter();
        Ok(node)
    }

    /// What was decided, as far as it is known here.
    pub fn charter(&self) -> &Charter {
        self.council.charter()
    }

    /// The rows of all hosts.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// From now on rows that other nodes of this process have as well are in memory once.
    pub fn in_common(&mut self, commons: Commons) {
        self.table.in_common(commons);
    }

    /// Where others reach us.
    pub fn seat(&self) -> &Seat {
        self.membership.me()
    }

    /// Where others are, or were last, reached.
    pub fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.seats.values()
    }

    /// The others' rows, a record for each host, to begin with after a restart.
    pub fn remember(&self) -> Vec<Vec<u8>> {
        let others = self.charter().hosts.keys().filter(|host| **host != self.me);
        // What can't be written is missing after the restart, and comes again from the others.
        let records = others.filter_map(|host| self.table.snapshot(self.now, *host).ok().flatten());
        records.collect()
    }

    /// When [`Input::Tick`] is wanted next, if nothing else comes.
    pub fn due(&self) -> Tick {
        let calls = self.calls.values().map(|call| call.until).min();
        let wishes = self.wishes.values().map(|wish| wish.until).min();
        let dues = [
            self.membership.due(),
            self.council_due.filter(|_| !self.by_store()),
            calls,
            wishes,
            Some(self.sync_due()),
            self.space_due(),
            self.confirm_due(),
            self.store_due(),
            (self.unseen > Tick(0) && self.membership.alive_count() > 0).then_some(self.unseen),
        ];
        dues.into_iter()
            .flatten()
            .min()
            .unwrap_or(self.now + Duration::from_secs(1))
    }

    /// Takes one input; gives what is to be carried out.
    pub fn step(&mut self, now: Tick, wall_ms: u64, input: Input) -> Vec<Output> {
        self.now = now.max(self.now);
        self.wall = wall_ms;
        match input {
            Input::Tick => {}
            Input::Datagram { from, address, bytes } => self.datagram(from, address, &bytes),
            Input::Request { call, from, bytes } => self.request(call, from, &bytes),
            Input::Answered { call, answer } => self.answered(call, answer),
            Input::Rows(rows) => self.set_rows(rows),
            Input::Shared { pool, ticket, share } => self.shared(pool, ticket, share),
            Input::Pools(pools) => self.pools(pools),
            Input::Routes(routes) => self.routes = routes,
            Input::Wish { ticket, wish } => self.wish(ticket, wish),
            Input::Stored { ticket, outcome } => self.stored(ticket, outcome),
            Input::Moved(address) => self.membership.move_to(self.now, address),
            Input::Cloned {
                host,
                one,
                other,
                epoch,
            } => self.cloned(host, one, other, epoch),
            Input::Behind { host, address, epoch } => {
                self.send_to(host, address, &Frame::Behind { epoch });
            }
        }
        self.tick();
        self.flush();
        self.out.drain(..).collect()
    }

    fn tick(&mut self) {
        self.membership.tick(self.now);
        if !self.by_store() && self.council_due.take_if(|due| *due <= self.now).is_some() {
            let acts = self.with_council(|council, now, ctx| council.tick(now, ctx));
            self.act(acts);
        }
        if self.table_due <= self.now {
            self.table_due = self.now + TABLE;
            self.table.tick(self.now);
        }
        if self.unseen > Tick(0) && self.unseen <= self.now && self.membership.alive_count() > 0 {
            self.unseen = Tick(0);
            self.hide_unseen();
        }
        self.sync_tick();
        self.space_tick();
        self.confirm_tick();
        self.store_tick();
        let late: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, c)| c.until <= self.now)
            .map(|(id, _)| *id)
            .collect();
        for call in late {
            self.answered(call, Called::Failed);
        }
        let late: Vec<u64> = self
            .wishes
            .iter()
            .filter(|(_, w)| w.until <= self.now)
            .map(|(id, _)| *id)
            .collect();
        for ticket in late {
            let why = self.why_late(ticket);
            self.done(ticket, Err(why));
        }
    }

    /// Carries out what the parts have gathered, until nothing is left.
    fn flush(&mut self) {
        while let Some(event) = self.membership.next_event() {
            self.on_membership(event);
        }
        self.send_gossip();
        let seen = self.table.drain();
        if !seen.is_empty() {
            self.see_shares(&seen);
            self.out.push_back(Output::Seen(seen));
        }
        // A share that was seen may have made more to send.
        self.send_gossip();
    }

    /// Sends what the membership wants to be sent.
    fn send_gossip(&mut self) {
        while let Some((seat, message)) = self.membership.next_send() {
            let bytes = encode(&Frame::Swim(message));
            self.out.push_back(Output::Send {
                to: seat.host,
                address: seat.address,
                bytes,
            });
        }
    }

    /// Hides the rows of those who have not been heard of since the start.
    fn hide_unseen(&mut self) {
        let others = self
            .charter()
            .hosts
            .keys()
            .copied()
            .filter(|host| *host != self.me);
        let unseen: Vec<HostId> = others.filter(|host| !self.is_alive(host)).collect();
        for host in unseen {
            self.down.entry(host).or_insert(self.now);
            self.table.hide(self.now, host);
        }
    }

    fn on_membership(&mut self, event: membership::Event) {
        match event {
            membership::Event::Up(seat) if self.is_member(&seat.host) => {
                self.down.remove(&seat.host);
                self.table.show(seat.host);
                self.out.push_back(Output::Tell(News::Up(seat.host)));
                self.sync_moved();
                self.sync_arrived(seat.host);
                self.seats.insert(seat.host, seat);
            }
            membership::Event::Down(seat) if self.is_member(&seat.host) => {
                self.down.insert(seat.host, self.now);
                self.table.hide(self.now, seat.host);
                self.sync_moved();
                self.out.push_back(Output::Tell(News::Down(seat.host)));
            }
            membership::Event::Moved(seat) if self.is_member(&seat.host) => {
                self.sync_moved();
                if self.is_alive(&seat.host)
                    && self
                        .seats
                        .get(&seat.host)
                        .is_some_and(|old| old.address != seat.address)
                {
                    self.heard.entry(seat.host).or_default().moved = Some(self.now);
                }
                self.seats.insert(seat.host, seat);
            }
            membership::Event::Rejoined => self.sync_now(),
            membership::Event::Up(seat) => self.membership.expel(self.now, &seat.host),
            membership::Event::Down(_) | membership::Event::Moved(_) => {}
        }
    }

    fn is_member(&self, host: &HostId) -> bool {
        self.charter().hosts.contains_key(host)
    }

    fn is_alive(&self, host: &HostId) -> bool {
        self.membership.seat(host).is_some()
    }

    fn datagram(&mut self, from: HostId, address: SocketAddr, bytes: &[u8]) {
        if !self.is_member(&from) || from == self.me {
            return;
        }
        let heard = self.heard.entry(from).or_default();
        heard.at = Some(self.now);
        let Some(frame) = decode::<Frame>(bytes) else {
            *self.strange.entry(from).or_default() += 1;
            return;
        };
        self.frame(from, address, frame);
    }

    fn frame(&mut self, from: HostId, address: SocketAddr, frame: Frame) {
        match frame {
            Frame::Swim(message) => {
                let riders = self.membership.hear(self.now, &message);
                for rider in riders {
                    self.rider(from, &rider);
                }
            }
            Frame::Digest(digest) => {
                let (sent, own) = (digest.sent, self.digest());
                self.send_to(from, address, &Frame::Echo { sent, digest: own });
                self.compare(from, own, digest);
            }
            Frame::Echo { sent, digest } => {
                self.measure(from, sent, digest);
                let own = self.digest();
                self.compare(from, own, digest);
            }
            Frame::Council(word) => {
                self.asker = Some((from, address));
                self.hear_word(from, word);
                self.asker = None;
            }
            Frame::Ask { ticket, pool, ask } => self.asked(from, ticket, pool, ask),
            Frame::Told { ticket, pool, given } => self.told(from, ticket, pool, given),
            Frame::Witness {
                round,
                pool,
                giver,
                gave,
                mine,
            } => self.witness(from, round, pool, giver, gave, mine),
            Frame::Witnessed { round, since } => self.witnessed(from, round, since),
            Frame::Confirm(confirm) => self.asked_to_confirm(from, address, confirm),
            Frame::Confirmed {
                epoch,
                index,
                newer,
                heard,
            } => self.confirmed(from, epoch, index, newer, heard),
            Frame::Twice { one, other, epoch } => {
                let mine = self.membership.me().address;
                self.confirm_cloned(if one == mine { other } else { one });
                self.rise(from, epoch);
            }
            Frame::Elsewhere { epoch } => self.seen_elsewhere(epoch),
            Frame::Behind { epoch } if epoch > self.epoch => self.rise(from, epoch),
            Frame::Behind { .. } => {}
        }
    }

    /// A change that rode on gossip.
    fn rider(&mut self, from: HostId, bytes: &[u8]) {
        let Some(change) = decode::<Change>(bytes) else {
            *self.strange.entry(from).or_default() += 1;
            return;
        };
        let subject = subject(&change);
        match self.table.apply(self.now, change) {
            table::Outcome::New => {
                self.sync_changed();
                self.membership.spread(self.now, subject, bytes);
            }
            table::Outcome::Ahead => {
                self.sync_soon(from);
                self.membership.spread(self.now, subject, bytes);
            }
            table::Outcome::OwnFromFuture(version) => self.rows_from_future(from, version),
            table::Outcome::Known | table::Outcome::Refused(_) => {}
        }
    }

    fn set_rows(&mut self, rows: Vec<(String, Option<Vec<u8>>)>) {
        for (key, body) in rows {
            self.set_row(&key, body.as_deref());
        }
    }

    /// Sets a row of ours, and tells the others.
    fn set_row(&mut self, key: &str, body: Option<&[u8]>) {
        let Ok(key) = key.parse::<Key>() else { return };
        match self.table.set(self.now, key, body) {
            Ok(Some(change)) => {
                self.sync_changed();
                self.membership
                    .spread(self.now, subject(&change), &encode(&change));
            }
            Ok(None) => {}
            // Counted by the table; the row is ours and checked by who made it.
            Err(refused) => drop(refused),
        }
    }

    /// Sends a frame to a host, at an address that it was just heard from.
    fn send_to(&mut self, to: HostId, address: SocketAddr, frame: &Frame) {
        let bytes = encode(frame);
        self.out.push_back(Output::Send { to, address, bytes });
    }

    /// Sends a frame to a host where it is, or was last, reached; by a call if it is too large for a datagram.
    fn send(&mut self, to: HostId, frame: Frame) {
        let Some(address) = self.address(&to) else { return };
        let bytes = encode(&frame);
        if bytes.len() <= FRAME {
            self.out.push_back(Output::Send { to, address, bytes });
        } else {
            self.call(to, &Request::Frame(Box::new(frame)), sync::Purpose::Nothing);
        }
    }

    fn address(&self, host: &HostId) -> Option<SocketAddr> {
        let seat = self.membership.seat(host).or_else(|| self.seats.get(host));
        let asker = self.asker.filter(|(asker, _)| asker == host);
        seat.map(|seat| seat.address)
            .or(asker.map(|(_, address)| address))
    }

    /// Calls a host; gives whether it could be tried.
    fn call(&mut self, to: HostId, request: &Request, what: sync::Purpose) -> bool {
        let Some(address) = self.address(&to) else {
            return false;
        };
        let call = self.ticket();
        self.calls.insert(
            call,
            Calling {
                to,
                what,
                until: self.now + CALL_TIME,
            },
        );
        self.out.push_back(Output::Call {
            call,
            to,
            address,
            bytes: encode(request),
        });
        true
    }

    fn answer(&mut self, call: u64, answer: &Answer) {
        self.out.push_back(Output::Answer {
            call,
            bytes: encode(answer),
        });
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// A number that nobody can guess from the last one, but a run can repeat: xorshift, for choices of whom to ask.
    fn chance(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// One of so many places, by chance; the first one where there is none.
    fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.chance() % count.max(1) as u64).unwrap_or(0)
    }

    /// One of the hosts that are there.
    fn somebody(&mut self) -> Option<HostId> {
        let at = self.pick(self.membership.alive_count());
        self.membership.alive().nth(at).map(|seat| seat.host)
    }

    /// Asks the owner of the shares.
    fn deal(&mut self, pool: IpNet, deal: Deal) -> u64 {
        let ticket = self.ticket();
        self.out.push_back(Output::Share { pool, ticket, deal });
        ticket
    }

    /// A host's name, or its identifier where none is known.
    pub fn name(&self, host: &HostId) -> String {
        let charter = self.charter();
        let member = charter.hosts.get(host).map(|member| member.name.clone());
        let gone = || charter.gone.get(host).map(|gone| gone.name.clone());
        member
            .or_else(gone)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| host.to_string())
    }

    /// Two hosts have one identifier: both are told, and people are.
    fn cloned(&mut self, host: HostId, one: SocketAddr, other: SocketAddr, epoch: u32) {
        for address in BTreeSet::from([one, other]) {
            self.send_to(host, address, &Frame::Twice { one, other, epoch });
        }
        let both = BTreeSet::from([one, other]);
        if self.twice.insert(host, both.clone()) != Some(both) {
            self.out
                .push_back(Output::Tell(News::Cloned { host, one, other }));
        }
    }

    /// Begins an epoch after one that was heard of this host, so that others listen again.
    fn rise(&mut self, from: HostId, heard: u32) {
        if heard >= self.epoch {
            let version = crate::table::Version {
                epoch: heard,
                count: 0,
            };
            self.rows_from_future(from, version);
        }
    }
}

/// What a change is of: a newer one takes its place in gossip.
fn subject(change: &Change) -> Vec<u8> {
    let mut subject = change.origin.bytes().to_vec();
    subject.extend_from_slice(change.key.as_str().as_bytes());
    subject
}
