//! Who is there: membership by SWIM, as the library `foca` has it, with what a cluster needs around it.
//!
//! foca sends nothing and knows no time. Here its timers are kept in their order, its messages become outputs, and what
//! it leaves to its user is added: an announcement is repeated until somebody answers, and whole member lists can be
//! exchanged, because gossip alone takes minutes to tell everybody of everybody in a large cluster.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foca::{
    BroadcastHandler, Config, Foca, Identity, Invalidates, Member, Notification, PeriodicParams,
    PostcardCodec, Runtime, Timer,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tombolo_ipam::HostId;

use crate::time::Tick;
use crate::wire::sum;

/// The largest message that foca makes, in bytes: what is around it must fit into a datagram beside it.
pub const PACKET: usize = 1_100;

/// The largest change that rides on gossip, in bytes; a larger one is left to the anti-entropy.
pub const RIDER: usize = 900;

/// How many changes may wait to be gossiped. What comes on top is left to the anti-entropy, which carries much at once.
const RIDERS: usize = 256;

/// How often waiting changes are pushed on.
const PUSH: Duration = Duration::from_millis(20);

/// How many waiting changes make a push go to more hosts.
const CROWD: usize = 16;

/// By how many times more at most.
const MOST_ROUNDS: usize = 4;

/// How often a host tells the same thing at least: foca's two times in the smallest clusters are lost together too often.
const LEAST_TOLD: NonZeroU8 = NonZeroU8::MIN.saturating_add(5);

/// How often an announcement is repeated while nobody is known to be there.
const ANNOUNCE: Duration = Duration::from_secs(1);

/// How often while only some are missing: two groups that began apart know nobody of each other to ask again.
const APART: Duration = Duration::from_secs(5);

/// A host, where it is reached, and the how-manieth life of it this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The host.
    pub host: HostId,
    /// Where its datagrams and streams go.
    pub address: SocketAddr,
    /// Rises with each start (upper half) and each return from being taken for dead (lower half).
    pub life: u64,
}

impl Seat {
    /// The seat of a host in its `epoch`th start.
    pub fn new(host: HostId, address: SocketAddr, epoch: u32) -> Self {
        let life = u64::from(epoch) << 32;
        Self { host, address, life }
    }
}

impl Identity for Seat {
    type Addr = HostId;

    fn renew(&self) -> Option<Self> {
        let life = self.life.checked_add(1)?;
        Some(Self { life, ..self.clone() })
    }

    fn addr(&self) -> HostId {
        self.host
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        // The address decides nothing but which of two that can't both be is kept everywhere.
        (self.life, self.address) > (adversary.life, adversary.address)
    }
}

/// What came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A host is there.
    Up(Seat),
    /// A host is not there any more.
    Down(Seat),
    /// A host that is there has another address, or began another life.
    Moved(Seat),
    /// We had been taken for dead, and are back.
    Rejoined,
}

/// What identifies a gossiped change: a newer one of the same row takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RiderKey {
    /// What the change is of.
    pub subject: Vec<u8>,
}

impl Invalidates for RiderKey {
    fn invalidates(&self, other: &Self) -> bool {
        self.subject == other.subject
    }
}

/// Takes gossiped changes out of foca, and tells it of those that we add. Whether a change is news, and so handed on, is
/// for the table to say.
#[derive(Default)]
struct Riders {
    came: Arc<Mutex<Vec<Vec<u8>>>>,
    next: Arc<Mutex<Option<RiderKey>>>,
}

impl BroadcastHandler<Seat> for Riders {
    type Key = RiderKey;
    type Error = Infallible;

    fn receive_item(&mut self, data: &[u8], sender: Option<&Seat>) -> Result<Option<RiderKey>, Infallible> {
        match sender {
            Some(_) => {
                lock(&self.came).push(data.to_vec());
                Ok(None)
            }
            None => Ok(lock(&self.next).take()),
        }
    }
}

/// A lock whose holder panicked guards plain data all the same.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What foca wants done, gathered.
#[derive(Default)]
struct Wishes {
    now: Tick,
    sends: Vec<(Seat, Vec<u8>)>,
    timers: Vec<(Tick, Timer<Seat>)>,
    events: Vec<Event>,
}

impl Runtime<Seat> for Wishes {
    fn notify(&mut self, notification: Notification<'_, Seat>) {
        match notification {
            Notification::MemberUp(seat) => self.events.push(Event::Up(seat.clone())),
            Notification::MemberDown(seat) => self.events.push(Event::Down(seat.clone())),
            Notification::Rename(_, seat) => self.events.push(Event::Moved(seat.clone())),
            Notification::Rejoin(_) => self.events.push(Event::Rejoined),
            Notification::Active | Notification::Idle | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, to: Seat, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Seat>, after: Duration) {
        self.timers.push((self.now + after, event));
    }
}

/// This host's view of who is there.
pub struct Membership {
    foca: Foca<Seat, PostcardCodec, StdRng, Riders>,
    came: Arc<Mutex<Vec<Vec<u8>>>>,
    next: Arc<Mutex<Option<RiderKey>>>,
    timers: BTreeMap<(Tick, u64), Timer<Seat>>,
    /// Numbers timers, so that those of one instant keep their order.
    submitted: u64,
    push: Option<Tick>,
    announce: Option<Tick>,
    seeds: Vec<Seat>,
    next_seed: usize,
    /// When those who are missing are looked for next.
    apart: Tick,
    size: u32,
    sends: VecDeque<(Seat, Vec<u8>)>,
    events: VecDeque<Event>,
    /// Those that are there, by host: foca would have to be searched.
    there: BTreeMap<HostId, Seat>,
    /// A sum over them and ourselves.
    sum: u64,
    /// Changes that were left to the anti-entropy because too many waited.
    pub left_over: u64,
    /// Messages that foca didn't understand.
    pub strange: u64,
}

impl Membership {
    /// A host that is alone so far. `seed` makes its random choices repeatable.
    pub fn new(me: Seat, seed: u64) -> Self {
        let riders = Riders::default();
        let (came, next) = (riders.came.clone(), riders.next.clone());
        let foca =
            Foca::with_custom_broadcast(me, config(1), StdRng::seed_from_u64(seed), PostcardCodec, riders);
        Self {
            foca,
            came,
            next,
            timers: BTreeMap::new(),
            submitted: 0,
            push: None,
            announce: None,
            seeds: Vec::new(),
            next_seed: 0,
            apart: Tick(0),
            size: 1,
            sends: VecDeque::new(),
            events: VecDeque::new(),
            there: BTreeMap::new(),
            sum: 0,
            left_over: 0,
            strange: 0,
        }
    }

    /// Our own seat, as others know it now.
    pub fn me(&self) -> &Seat {
        self.foca.identity()
    }

    /// Names those to announce ourselves to while nobody is known to be there.
    pub fn seed(&mut self, now: Tick, seeds: Vec<Seat>) {
        let me = self.foca.identity().host;
        self.seeds = seeds.into_iter().filter(|seat| seat.host != me).collect();
        self.announce = (!self.seeds.is_empty()).then_some(now);
    }

    /// How many hosts there are in all, this one with them: how often things are told follows from it.
    pub fn resize(&mut self, hosts: usize) {
        let size = u32::try_from(hosts).unwrap_or(u32::MAX).max(1);
        // Steps, so that each joining host doesn't change it anew.
        if size.next_power_of_two() != self.size.next_power_of_two() {
            let changed = self.foca.set_config(config(size));
            debug_assert!(
                changed.is_ok(),
                "what may not change while foca runs follows from no size"
            );
        }
        self.size = size;
    }

    /// Those that are there, without ourselves.
    pub fn alive(&self) -> impl Iterator<Item = &Seat> {
        self.there.values()
    }

    /// How many are there, without ourselves.
    pub fn alive_count(&self) -> usize {
        self.foca.num_members()
    }

    /// Where a host that is there is reached.
    pub fn seat(&self, host: &HostId) -> Option<&Seat> {
        self.there.get(host)
    }

    /// A sum over who is there, ourselves among them, and in which life: hosts that agree on all of it have the same one.
    pub fn sum(&self) -> u64 {
        self.sum ^ sum_of(self.foca.identity())
    }

    /// All that is known of members, this host with them, for another host to [take in](Self::take_in).
    pub fn list(&self) -> Vec<Member<Seat>> {
        let me = Member::alive(self.foca.identity().clone());
        self.foca.iter_membership_state().cloned().chain([me]).collect()
    }

    /// Takes in what another host knows of members.
    pub fn take_in(&mut self, now: Tick, members: Vec<Member<Seat>>) {
        self.with(now, |foca, wishes| {
            foca.apply_many(members.into_iter(), false, wishes)
        });
    }

    /// Notes that a host is gone for good, whatever gossip says.
    pub fn expel(&mut self, now: Tick, host: &HostId) {
        let seats: Vec<Seat> = self.seat(host).cloned().into_iter().collect();
        self.seeds.retain(|seat| seat.host != *host);
        self.take_in(now, seats.into_iter().map(Member::down).collect());
    }

    /// Announces ourselves to somebody.
    pub fn announce(&mut self, now: Tick, to: Seat) {
        self.with(now, |foca, wishes| foca.announce(to, wishes));
    }

    /// Says good-bye.
    pub fn leave(&mut self, now: Tick) {
        self.announce = None;
        self.with(now, |foca, wishes| foca.leave_cluster(wishes));
    }

    /// We have another address now.
    pub fn move_to(&mut self, now: Tick, address: SocketAddr) {
        let seat = Seat {
            address,
            ..self.foca.identity().clone()
        };
        if let Some(seat) = seat
            .renew()
            .filter(|_| seat.address != self.foca.identity().address)
        {
            self.with(now, |foca, wishes| foca.change_identity(seat, wishes));
        }
    }

    /// We begin another epoch.
    pub fn begin(&mut self, now: Tick, epoch: u32) {
        let me = self.foca.identity();
        let seat = Seat::new(me.host, me.address, epoch);
        if seat.life > me.life {
            self.with(now, |foca, wishes| foca.change_identity(seat, wishes));
        }
    }

    /// Has a change ride on gossip. One of the same subject that still waits is replaced. Gives whether it does: it may
    /// be too large, or too many may wait.
    pub fn spread(&mut self, now: Tick, subject: Vec<u8>, change: &[u8]) -> bool {
        if change.is_empty() || change.len() > RIDER || self.foca.custom_broadcast_backlog() >= RIDERS {
            self.left_over += 1;
            return false;
        }
        *lock(&self.next) = Some(RiderKey { subject });
        let added = self.foca.add_broadcast(change).unwrap_or(false);
        if self.push.is_none() && self.foca.num_members() > 0 {
            self.push = Some(now);
        }
        added
    }

    /// Takes a message that another host's foca has sent. Gives the changes that rode on it.
    pub fn hear(&mut self, now: Tick, message: &[u8]) -> Vec<Vec<u8>> {
        self.with(now, |foca, wishes| foca.handle_data(message, wishes));
        std::mem::take(&mut *lock(&self.came))
    }

    /// When [`tick`](Self::tick) is wanted next.
    pub fn due(&self) -> Option<Tick> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        [timer, self.push, self.announce].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Tick) {
        // foca's timers are handed back in the order of their times, even where several are late.
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let timer = entry.remove();
            self.with(now, |foca, wishes| foca.handle_timer(timer, wishes));
        }
        if self.push.is_some_and(|at| at <= now) {
            match self.foca.updates_backlog() {
                0 => self.broadcast(now),
                _ => self.with(now, |foca, wishes| foca.gossip(wishes)),
            }
            self.push = self.waits().then(|| now + PUSH);
        }
        if self.announce.is_some_and(|at| at <= now) {
            self.announce = (!self.seeds.is_empty()).then(|| now + ANNOUNCE);
            if self.foca.num_members() == 0 || self.apart <= now {
                self.apart = now + APART;
                self.announce_to_one(now);
            }
        }
    }

    /// Announces ourselves to the next seed that isn't there, one at a time and around: most are answered at once, and
    /// hundreds need not be asked together.
    fn announce_to_one(&mut self, now: Tick) {
        let around = (0..self.seeds.len()).map(|n| (self.next_seed + n) % self.seeds.len());
        let absent = around
            .filter_map(|at| self.seeds.get(at).map(|seat| (at, seat)))
            .find(|(_, seat)| !self.there.contains_key(&seat.host));
        if let Some((at, seat)) = absent.map(|(at, seat)| (at, seat.clone())) {
            self.next_seed = at + 1;
            self.announce(now, seat);
        }
    }

    /// The next message to send.
    pub fn next_send(&mut self) -> Option<(Seat, Vec<u8>)> {
        self.sends.pop_front()
    }

    /// The next thing that came about.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How many changes wait to be gossiped.
    pub fn waiting(&self) -> usize {
        self.foca.custom_broadcast_backlog()
    }

    /// Pushes waiting changes on, to more hosts the more there are.
    fn broadcast(&mut self, now: Tick) {
        let rounds = 1 + (self.waiting() / CROWD).min(MOST_ROUNDS);
        for _ in 0..rounds {
            self.with(now, |foca, wishes| foca.broadcast(wishes));
        }
    }

    /// Whether something waits to be told, and there is somebody to tell.
    fn waits(&self) -> bool {
        let waiting = self.foca.updates_backlog() + self.foca.custom_broadcast_backlog();
        waiting > 0 && self.foca.num_members() > 0
    }

    fn with(
        &mut self,
        now: Tick,
        act: impl FnOnce(&mut Foca<Seat, PostcardCodec, StdRng, Riders>, &mut Wishes) -> Result<(), foca::Error>,
    ) {
        let mut wishes = Wishes {
            now,
            ..Wishes::default()
        };
        if act(&mut self.foca, &mut wishes).is_err() {
            self.strange += 1;
        }
        for (at, timer) in wishes.timers {
            self.submitted += 1;
            self.timers.insert((at, self.submitted), timer);
        }
        self.sends.extend(wishes.sends);
        let events = at_once(wishes.events);
        for event in &events {
            let known = match event {
                Event::Up(seat) => self.there.insert(seat.host, seat.clone()),
                Event::Down(seat) => self.there.remove(&seat.host),
                // One that is down may begin another life, and stay so.
                Event::Moved(seat) => self
                    .there
                    .get_mut(&seat.host)
                    .map(|known| std::mem::replace(known, seat.clone())),
                Event::Rejoined => None,
            };
            let now = match event {
                Event::Up(seat) => Some(seat),
                Event::Moved(seat) => known.is_some().then_some(seat),
                Event::Down(_) | Event::Rejoined => None,
            };
            self.sum ^= known.as_ref().map_or(0, sum_of) ^ now.map_or(0, sum_of);
        }
        debug_assert_eq!(self.there.len(), self.foca.num_members());
        // Who came, went, or is suspected to have, is told at once, as changes are.
        if self.push.is_none() && self.waits() {
            self.push = Some(now);
        }
        self.events.extend(events);
    }
}

/// What came about at once: a host whose end is heard together with its next life, as after a cut that was mended, has
/// not been away.
fn at_once(events: Vec<Event>) -> Vec<Event> {
    let mut done: Vec<Event> = Vec::with_capacity(events.len());
    for event in events {
        let ended = |other: &Event| matches!((other, &event), (Event::Down(old), Event::Up(new)) if old.host == new.host);
        let end = done.iter().rposition(ended);
        match (end, event) {
            (Some(end), Event::Up(seat)) => {
                let of_host = |event: &Event| matches!(event, Event::Down(other) | Event::Moved(other) if other.host == seat.host);
                let since = done.split_off(end);
                done.extend(since.into_iter().filter(|event| !of_host(event)));
                done.push(Event::Moved(seat));
            }
            (_, event) => done.push(event),
        }
    }
    done
}

/// A sum of a host and its life.
fn sum_of(seat: &Seat) -> u64 {
    sum(seat.host.bytes().into_iter().chain(seat.life.to_be_bytes()))
}

/// foca's settings for a cluster of so many hosts.
fn config(hosts: u32) -> Config {
    let size = NonZeroU32::new(hosts.next_power_of_two()).unwrap_or(NonZeroU32::MIN);
    let some = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
    let lan = Config::new_lan(size);
    Config {
        max_packet_size: some(PACKET),
        max_transmissions: lan.max_transmissions.max(LEAST_TOLD),
        // One that was taken for dead is asked again soon, so that a healed partition closes by itself.
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: Duration::from_secs(5),
            num_members: some(2),
        }),
        notify_down_members: true,
        ..lan
    }
}

#[cfg(test)]
mod tests;
