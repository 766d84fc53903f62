//! Hosts, a network between them that loses, doubles, delays and reorders, and disks; in virtual time.
//!
//! Besides the councils each host has a row: a version that only it raises, that others witness unless they are frozen
//! for it, and that hosts read of each other after the members changed. That is all that forgetting depends on.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::rand_core::TryRng;
use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, Decree, Held};
use tombolo_cluster::council::{Acceptor, Act, Context, Council, Kept, Outcome, Quorum, Witness, Word};
use tombolo_cluster::time::Tick;

use crate::oracle::{Oracle, POOL};

pub struct Faults {
    /// In a thousand.
    pub loss: u32,
    pub double: u32,
    /// That a host crashes in the middle of the acts of a call.
    pub crash: u32,
    /// The longest delay of a word in ms.
    pub delay: u64,
    /// Whether hosts believe that others, alive, may be forgotten.
    pub rash: bool,
}

enum Event {
    Hear(HostId, Word),
    Wake(u64),
    Start,
    Adopt(Box<Charter>),
    /// The row of a host at a version.
    Row(HostId, u32),
    /// Another host wants to read all rows.
    Read(HostId),
    /// Rows as another host knows them, and since which decree it knows the members.
    Rows(HostId, BTreeMap<HostId, u32>, u64),
    /// Reads the rows of others again, until enough have answered.
    Again,
}

pub struct Host {
    pub id: HostId,
    pub council: Option<Council>,
    disk: (Charter, Option<Acceptor>),
    wakes: u64,
    /// The newest version of each host's row that was witnessed; durable.
    rows: BTreeMap<HostId, u32>,
    /// Whose rows were read since the members changed; durable.
    read: (u64, BTreeSet<HostId>),
    reading: bool,
    pub wishes: BTreeMap<u64, (Decree, u64)>,
    /// The highest index that anybody was told.
    told: u64,
}

pub struct Sim {
    pub now: u64,
    pub trace: bool,
    pub rng: Mix,
    pub hosts: Vec<Host>,
    pub faults: Faults,
    pub oracle: Oracle,
    queue: BTreeMap<(u64, u64), (usize, Event)>,
    count: u64,
    pub tickets: u64,
    /// Which hosts cannot speak with each other.
    pub cut: BTreeSet<usize>,
    pub outcomes: BTreeMap<u64, Outcome>,
}

/// Random numbers that cost little where nothing is optimised.
pub struct Mix(u64);

impl TryRng for Mix {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Ok(mixed ^ (mixed >> 32))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        bytes
            .iter_mut()
            .try_for_each(|byte| self.try_next_u32().map(|number| *byte = number as u8))
    }
}

impl Host {
    /// Whether it is up, wants nothing and has nothing half-way.
    pub fn at_rest(&self) -> bool {
        let half_way = |kept: &Acceptor| kept.accepted.is_some() || !kept.frozen.is_empty();
        let open = self.disk.1.as_ref().filter(|kept| kept.slot > self.disk.0.index);
        self.council.is_some() && self.wishes.is_empty() && !open.is_some_and(half_way)
    }
}

/// What one host knows when its council is called.
struct Eyes<'a> {
    rows: &'a BTreeMap<HostId, u32>,
    read: &'a (u64, BTreeSet<HostId>),
    dead: &'a BTreeSet<HostId>,
    rash: bool,
}

impl Witness for Eyes<'_> {
    fn is_sure(&self, _: &BTreeSet<HostId>, _: &Charter) -> bool {
        true
    }

    fn held(&self, host: HostId) -> BTreeMap<ipnet::IpNet, Held> {
        let held = |count: &u32| Held {
            version: (1, *count),
            ..Held::default()
        };
        self.rows
            .get(&host)
            .map(held)
            .into_iter()
            .map(|held| (POOL.parse().unwrap(), held))
            .collect()
    }

    fn objections(&self, decree: &Decree, charter: &Charter) -> Vec<String> {
        let lost = decree.lost();
        let alive = lost.iter().any(|host| !self.dead.contains(host));
        let electors = charter.hosts.keys().copied().collect();
        // An assertion must be true; what needs none may be wrong.
        let asserted = !lost.is_empty() && Quorum::of(&electors, decree).asserted();
        (alive && (asserted || !self.rash))
            .then(|| "it is alive".to_owned())
            .into_iter()
            .collect()
    }

    fn read(&self, charter: &Charter) -> BTreeSet<HostId> {
        match self.read.0 == charter.members_since() {
            true => self.read.1.clone(),
            false => BTreeSet::new(),
        }
    }
}

impl Sim {
    pub fn new(seed: u64, charter: &Charter, n: usize, faults: Faults) -> Self {
        let mut sim = Self {
            now: 0,
            trace: std::env::var("COUNCIL_SEED").is_ok(),
            rng: Mix(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)),
            hosts: Vec::new(),
            faults,
            oracle: Oracle::default(),
            queue: BTreeMap::new(),
            count: 0,
            tickets: 0,
            cut: BTreeSet::new(),
            outcomes: BTreeMap::new(),
        };
        (0..n).for_each(|_| sim.add(charter.clone()));
        sim
    }

    /// One more host, with a charter that it may not be in.
    pub fn add(&mut self, charter: Charter) {
        let id = crate::host(self.hosts.len());
        let rows = BTreeMap::from([(id, 1)]);
        // The first members have nothing to read; who is none yet reads when it is one.
        let read = (charter.members_since(), charter.hosts.keys().copied().collect());
        let (disk, told) = ((charter, None), 0);
        let wishes = BTreeMap::new();
        self.hosts.push(Host {
            id,
            council: None,
            disk,
            wakes: 0,
            rows,
            read,
            reading: false,
            wishes,
            told,
        });
        self.at(0, self.hosts.len() - 1, Event::Start);
    }

    pub fn chance(&mut self, thousandths: u32) -> bool {
        self.rng.random_range(0..1000) < thousandths
    }

    fn at(&mut self, delay: u64, host: usize, event: Event) {
        self.count += 1;
        self.queue.insert((self.now + delay, self.count), (host, event));
    }

    /// Over the network, with all that may happen there.
    fn send(&mut self, from: usize, to: HostId, event: impl Fn() -> Event) {
        let Some(place) = self.hosts.iter().position(|host| host.id == to) else {
            return;
        };
        if self.cut.contains(&from) != self.cut.contains(&place) {
            return;
        }
        for _ in 0..1 + u32::from(self.chance(self.faults.double)) {
            if !self.chance(self.faults.loss) {
                let delay = 1 + self.rng.random_range(0..self.faults.delay);
                self.at(delay, place, event());
            }
        }
    }

    pub fn crash(&mut self, place: usize, pause: u64) {
        if self.hosts[place].council.take().is_some() {
            self.hosts[place].wishes.clear();
            self.at(pause, place, Event::Start);
        }
    }

    /// For good; nothing that it said arrives any more.
    pub fn kill(&mut self, place: usize) {
        let id = self.hosts[place].id;
        self.hosts[place].council = None;
        self.hosts[place].wishes.clear();
        self.oracle.dead.insert(id);
        self.queue
            .retain(|_, (to, event)| *to != place && !matches!(event, Event::Hear(from, _) if *from == id));
    }

    pub fn propose(&mut self, place: usize, wish: &Decree, patience: u64) -> Option<u64> {
        self.hosts[place].council.as_ref()?;
        self.tickets += 1;
        let (ticket, deadline) = (self.tickets, self.now + patience);
        self.hosts[place].wishes.insert(ticket, (wish.clone(), deadline));
        self.call(place, |council, now, ctx| {
            council.propose(now, ticket, wish, Tick(deadline), ctx)
        });
        Some(ticket)
    }

    /// A host's row changes; those that hear of it witness it.
    pub fn raise(&mut self, place: usize) {
        let host = &mut self.hosts[place];
        let Some(council) = &host.council else { return };
        let version = host.rows.entry(host.id).or_default();
        *version += 1;
        let (id, version, charter) = (host.id, *version, council.charter().clone());
        self.oracle.witness(id, id, version, &charter);
        for to in charter.hosts.keys().filter(|to| **to != id) {
            self.send(place, *to, || Event::Row(id, version));
        }
    }

    /// Lets the next event happen, if it is before that time.
    pub fn step(&mut self, until: u64) -> bool {
        let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until) else {
            self.now = until;
            return false;
        };
        let ((now, _), (place, event)) = entry.remove_entry();
        self.now = now;
        let host = &mut self.hosts[place];
        if self.oracle.dead.contains(&host.id) {
            return true;
        }
        match event {
            Event::Start if host.council.is_none() => {
                let (charter, acceptor) = host.disk.clone();
                assert!(
                    charter.index >= host.told,
                    "{:?} told {}, and has {}",
                    host.id,
                    host.told,
                    charter.index
                );
                host.reading = false;
                host.council = Some(Council::new(host.id, charter, acceptor, self.rng.random()));
                self.call(place, |council, now, ctx| council.tick(now, ctx));
            }
            Event::Start => {}
            Event::Wake(number) if host.wakes == number => {
                self.call(place, |council, now, ctx| council.tick(now, ctx));
            }
            Event::Wake(_) => {}
            Event::Hear(from, word) => {
                self.call(place, |council, now, ctx| council.hear(now, from, word, ctx))
            }
            Event::Adopt(charter) => self.call(place, |council, now, ctx| council.adopt(now, *charter, ctx)),
            Event::Row(owner, version) => {
                self.witness(place, owner, version);
            }
            Event::Read(to) => {
                let Some(council) = &host.council else { return true };
                let (from, rows, since) = (host.id, host.rows.clone(), council.charter().members_since());
                self.send(place, to, || Event::Rows(from, rows.clone(), since));
            }
            Event::Rows(from, rows, since) => self.read(place, from, &rows, since),
            Event::Again => {
                host.reading = false;
                self.look(place);
            }
        }
        true
    }

    pub fn run(&mut self, until: u64) {
        while self.step(until) {}
    }

    /// Runs until that holds, for at most so many ms.
    pub fn run_until(&mut self, most: u64, holds: impl Fn(&Self) -> bool) {
        let end = self.now + most;
        while self.now < end && !holds(self) {
            self.run(end.min(self.now + 200));
        }
    }

    /// Notes a row, unless it is newer than what this host may witness; whether it could.
    fn witness(&mut self, place: usize, owner: HostId, version: u32) -> bool {
        let host = &mut self.hosts[place];
        let Some(council) = &host.council else {
            return false;
        };
        let known = host.rows.get(&owner).copied().unwrap_or(0);
        if version > known && council.frozen(owner) {
            return false;
        }
        host.rows.insert(owner, version.max(known));
        if version >= known {
            self.oracle.witness(host.id, owner, version, council.charter());
        }
        true
    }

    /// Takes over the rows that another host knows; it counts as read if it knew of the last change of members.
    fn read(&mut self, place: usize, from: HostId, rows: &BTreeMap<HostId, u32>, since: u64) {
        let noted: Vec<bool> = rows
            .iter()
            .map(|(owner, version)| self.witness(place, *owner, *version))
            .collect();
        let host = &mut self.hosts[place];
        let Some(council) = &host.council else { return };
        if noted.iter().all(|noted| *noted) && since >= council.charter().members_since() {
            host.read.1.insert(from);
        }
    }

    /// Begins to read the rows of others if the members changed, and goes on until it has.
    fn look(&mut self, place: usize) {
        let host = &mut self.hosts[place];
        let Some(council) = &host.council else { return };
        let charter = council.charter();
        if host.read.0 != charter.members_since() || host.read.1.is_empty() {
            host.read = (charter.members_since(), BTreeSet::from([host.id]));
        }
        let all = charter.hosts.keys().all(|member| host.read.1.contains(member));
        if host.reading || all || !charter.hosts.contains_key(&host.id) {
            return;
        }
        host.reading = true;
        let (known, charter_len) = (host.read.1.len(), charter.hosts.len());
        let (id, others): (HostId, Vec<HostId>) = (host.id, charter.hosts.keys().copied().collect());
        others
            .into_iter()
            .filter(|to| *to != id)
            .for_each(|to| self.send(place, to, || Event::Read(id)));
        let pause = if known > charter_len / 2 { 2000 } else { 100 };
        self.at(pause, place, Event::Again);
    }

    fn call(&mut self, place: usize, what: impl FnOnce(&mut Council, Tick, Context<'_>) -> Vec<Act>) {
        let host = &mut self.hosts[place];
        let Some(council) = host.council.as_mut() else {
            return;
        };
        let eyes = Eyes {
            rows: &host.rows,
            read: &host.read,
            dead: &self.oracle.dead,
            rash: self.faults.rash,
        };
        let alive: BTreeSet<HostId> = council
            .charter()
            .hosts
            .keys()
            .filter(|host| !eyes.dead.contains(*host))
            .copied()
            .collect();
        let acts = what(
            council,
            Tick(self.now),
            Context {
                alive: &alive,
                witness: &eyes,
            },
        );
        let cut = match self.chance(self.faults.crash) {
            true => self.rng.random_range(0..=acts.len()),
            false => usize::MAX,
        };
        for (done, act) in acts.into_iter().enumerate() {
            if done == cut {
                break;
            }
            self.carry_out(place, act);
        }
        match cut {
            usize::MAX => self.look(place),
            _ => {
                let longest = [5, 60, 2000][self.rng.random_range(0..3)];
                let pause = self.rng.random_range(1..longest);
                self.crash(place, pause);
            }
        }
    }

    fn carry_out(&mut self, place: usize, act: Act) {
        if self.trace {
            eprintln!("{} {:?} {:?}", self.now, self.hosts[place].id, act);
        }
        let host = &mut self.hosts[place];
        match act {
            Act::Keep(Kept::Charter(charter)) => host.disk.0 = *charter,
            Act::Keep(Kept::Acceptor(acceptor)) => {
                assert!(
                    acceptor.slot > host.disk.0.index,
                    "{:?}: an acceptor for a slot before",
                    host.id
                );
                host.disk.1 = Some(*acceptor);
            }
            Act::Say(hosts, word) => {
                let (from, word) = (host.id, self.travel(word));
                if let Word::At { index } | Word::Behind { index } | Word::Decided { slot: index, .. } = &word
                {
                    self.hosts[place].told = self.hosts[place].told.max(*index);
                }
                assert!(!hosts.contains(&from), "{word:?} to itself");
                hosts
                    .into_iter()
                    .for_each(|to| self.send(place, to, || Event::Hear(from, word.clone())));
            }
            Act::Wake(at) => {
                assert!(at.0 > self.now, "woken at once, without end");
                host.wakes += 1;
                let number = host.wakes;
                self.at(at.0 - self.now, place, Event::Wake(number));
            }
            Act::Done(ticket, outcome) => {
                let (wish, deadline) = host.wishes.remove(&ticket).expect("a wish ends once");
                assert!(self.now <= deadline, "{wish:?} ends late: {outcome:?}");
                if let Outcome::Decided { index } = outcome {
                    host.told = host.told.max(index);
                }
                self.oracle.done(&wish, &outcome, &host.disk.0);
                self.outcomes.insert(ticket, outcome);
            }
            Act::Changed { decree, index, void } => {
                let charter = &host.disk.0;
                if charter.index == index {
                    self.oracle
                        .changed(host.id, decree.as_ref(), void.as_ref(), charter);
                }
            }
            Act::Fetch(from) => {
                let to = host.id;
                let Some(other) = self.hosts.iter().find(|host| host.id == from) else {
                    return;
                };
                let Some(council) = &other.council else { return };
                let charter = council.charter().clone();
                let place = self.hosts.iter().position(|host| host.id == from).unwrap_or(0);
                self.send(place, to, || Event::Adopt(Box::new(charter.clone())));
            }
            Act::Torn { with, slot } => panic!("{:?} is torn from {with:?} at {slot}", host.id),
        }
    }

    /// Now and then a word is taken through its bytes.
    fn travel(&mut self, word: Word) -> Word {
        match self.chance(60) {
            true => Word::decode(&word.encode().unwrap()).unwrap(),
            false => word,
        }
    }
}
