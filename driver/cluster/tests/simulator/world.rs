//! Hosts on a wire of our own making, in a time of our own: the daemon's code for the cluster, without the daemon.
//!
//! Everything follows from the seed. A host has a disk (what it was told to keep, and its pools), containers (leases
//! that live on while its daemon is dead), and clocks that need not agree with anybody's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tombolo_cluster::charter::{Charter, Decree, Definition};
use tombolo_cluster::membership::Seat;
use tombolo_cluster::node::{Alone, Called, Fill, Input, News, Node, Output, Setup, Wish};
use tombolo_cluster::store::{Answer, Ask, Found, Known, Reads, Verdict, Whose, Writes};
use tombolo_cluster::table::{Commons, Limits, Seen};
use tombolo_cluster::time::Tick;
use tombolo_cluster::wire::decode;
use tombolo_ipam::share::{Deal, Share};
use tombolo_ipam::{Edit, HostId, Ipam, Pool, PoolId, Space, Use, Wish as LeaseWish};

/// A host's number in the world.
pub type At = usize;

/// What a host keeps when its daemon dies.
#[derive(Clone, Default)]
pub struct Disk {
    pub epoch: u32,
    pub records: BTreeMap<String, Vec<u8>>,
    pub ipam: Ipam,
    pub seats: Vec<Seat>,
    pub remembered: Vec<Vec<u8>>,
    pub rows: BTreeMap<String, Vec<u8>>,
}

/// A host.
pub struct Host {
    pub id: HostId,
    pub address: SocketAddr,
    pub disk: Disk,
    pub node: Option<Node>,
    /// How often it was started, in truth: a disk may not know.
    pub starts: u32,
    /// Ahead of the world's time.
    pub clock_ms: u64,
    pub wall_ms: i64,
    pub routes: Vec<(IpNet, String)>,
    /// What a reader of its rows holds, kept by the stream of changes alone.
    pub reader: BTreeMap<(HostId, String), Vec<u8>>,
    pub news: Vec<(Tick, News)>,
    pub outcomes: BTreeMap<u64, Result<(), String>>,
    pub sent_bytes: u64,
    pub call_bytes: u64,
    pub sent: u64,
    /// The daemon dies after so many more outputs.
    pub fuse: Option<u32>,
    wake: Option<Tick>,
    /// When all that it has sent is on its way, in bytes of the uplink since the beginning.
    sending: u64,
    pub fills_dirty: bool,
}

/// What one who listens in hears.
#[derive(Clone)]
#[allow(dead_code, reason = "of those who share this file some listen in")]
pub enum Heard {
    Datagram(Vec<u8>),
    Question(Vec<u8>),
    Answer(Vec<u8>),
}

/// What is under way.
#[derive(Clone)]
enum Parcel {
    Datagram {
        from: At,
        to: At,
        bytes: Vec<u8>,
    },
    Request {
        from: At,
        to: At,
        call: u64,
        bytes: Vec<u8>,
    },
    Answer {
        from: At,
        to: At,
        call: u64,
        called: Called,
    },
    Wake(At),
    /// A question has reached the store.
    Asked {
        from: At,
        question: Question,
    },
    /// The store has read, judged, and now writes what comes of it.
    Judged {
        from: At,
        question: Question,
        verdict: Box<Verdict>,
        read: Revisions,
    },
    /// The store's answer, or that there is none.
    Stored {
        to: At,
        life: u32,
        ticket: u64,
        outcome: Result<Box<Answer>, String>,
    },
}

impl Parcel {
    fn garble(&mut self, garble: &mut Garble) {
        let (to, bytes, make): (At, _, fn(Vec<u8>) -> Heard) = match self {
            Self::Datagram { to, bytes, .. } => (*to, bytes, Heard::Datagram),
            Self::Request { to, bytes, .. } => (*to, bytes, Heard::Question),
            Self::Answer {
                to,
                called: Called::Answer(bytes),
                ..
            } => (*to, bytes, Heard::Answer),
            Self::Answer { .. }
            | Self::Wake(_)
            | Self::Asked { .. }
            | Self::Judged { .. }
            | Self::Stored { .. } => return,
        };
        let mut heard = make(std::mem::take(bytes));
        garble(to, &mut heard);
        let (Heard::Datagram(garbled) | Heard::Question(garbled) | Heard::Answer(garbled)) = heard;
        *bytes = garbled;
    }
}

/// A question to the store.
#[derive(Clone)]
struct Question {
    life: u32,
    ticket: u64,
    known: Known,
    ask: Ask,
    tries: u32,
}

/// As of when the charter and shares were read.
type Revisions = (u64, BTreeMap<Whose, u64>, Option<(HostId, u64)>);

/// A store outside of the cluster, whose transactions are all or nothing.
#[derive(Default)]
pub struct Shelf {
    revision: u64,
    charter: Option<(u64, Vec<u8>)>,
    shares: BTreeMap<Whose, (u64, Share)>,
    lives: BTreeMap<HostId, u64>,
    /// Whether it runs.
    pub down: bool,
}

impl Shelf {
    fn read(&self, ask: &Ask) -> (Found, Revisions) {
        let (revision, charter) = self.charter.as_ref().expect("the store has a charter");
        let charter = decode(charter).expect("a charter");
        let wanted: Vec<Whose> = match ask.reads() {
            Reads::Of(shares) => shares,
            Reads::Pool(pool) => self
                .shares
                .keys()
                .copied()
                .filter(|(of, _)| *of == pool)
                .collect(),
            Reads::All => self.shares.keys().copied().collect(),
        };
        let there = wanted
            .iter()
            .filter_map(|whose| Some((*whose, self.shares.get(whose)?)));
        let life = ask.life_of();
        let life = life.map(|host| (host, self.lives.get(&host).copied().unwrap_or(0)));
        let shares = there.clone().map(|(whose, (_, share))| (whose, share.clone()));
        let read = there.map(|(whose, (revision, _))| (whose, *revision));
        (
            Found {
                charter,
                shares: shares.collect(),
                life: life.map_or(0, |(_, life)| life),
            },
            (*revision, read.collect(), life),
        )
    }

    fn write(&mut self, writes: &Writes, read: &Revisions) -> bool {
        let of = |whose: &Whose| self.shares.get(whose).map(|(revision, _)| *revision);
        let same = writes
            .unless
            .iter()
            .all(|whose| of(whose) == read.1.get(whose).copied());
        if !same || self.charter.as_ref().map(|(revision, _)| *revision) != Some(read.0) {
            return false;
        }
        if let Some((host, life)) = read.2 {
            if self.lives.get(&host).copied().unwrap_or(0) != life {
                return false;
            }
            if let Some(life) = writes.life {
                self.lives.insert(host, life);
            }
        }
        self.revision += 1;
        if let Some(charter) = &writes.charter {
            self.charter = Some((self.revision, tombolo_cluster::wire::encode(charter)));
        }
        for (whose, share) in &writes.shares {
            match share {
                Some(share) => drop(self.shares.insert(*whose, (self.revision, share.clone()))),
                None => drop(self.shares.remove(whose)),
            }
        }
        for host in &writes.gone {
            self.lives.remove(host);
        }
        if let Some(pool) = writes.dissolved {
            self.shares.retain(|(of, _), _| *of != pool);
        }
        true
    }
}

/// How bad the wire is.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    pub loss: f64,
    pub duplicate: f64,
    pub delay_ms: (u64, u64),
}

impl Wire {
    pub const GOOD: Self = Self {
        loss: 0.0,
        duplicate: 0.0,
        delay_ms: (0, 1),
    };
}

/// The world.
pub struct World {
    pub now: Tick,
    pub rng: StdRng,
    pub hosts: Vec<Host>,
    pub wire: Wire,
    /// Which side of a cut each host is on: sides don't hear each other.
    pub side: Vec<u8>,
    pub alone: Alone,
    /// What decides, if it isn't the majority; it is on the side 0 of a cut.
    pub shelf: Option<Shelf>,
    /// Who holds an address, in truth.
    pub leases: BTreeMap<(IpNet, IpAddr), At>,
    queue: BinaryHeap<Reverse<(Tick, u64)>>,
    parcels: BTreeMap<u64, Parcel>,
    numbered: u64,
    next_ticket: u64,
    pub steps: u64,
    by_address: BTreeMap<SocketAddr, At>,
    pub trace: bool,
    /// What was sent, where somebody listens in: datagrams, questions and answers.
    pub tap: Option<Vec<Heard>>,
    /// Changes what is under way to a host.
    pub garble: Option<Garble>,
    /// How many bytes a host can send in a millisecond; what comes on top waits.
    pub uplink: Option<u64>,
    /// Whether a reader of each host's rows is kept, and checked.
    pub readers: bool,
    /// Told each change that a reader sees.
    pub watch: Option<Watch>,
    /// Where the hosts' rows are in memory once for all of them.
    pub commons: Option<Commons>,
}

/// What looks at the changes that readers see, each with the time and the host.
pub type Watch = Box<dyn FnMut(Tick, At, &Seen)>;

/// What changes a message on its way, and to whom it goes.
pub type Garble = Box<dyn FnMut(At, &mut Heard)>;

pub fn host_id(n: At) -> HostId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&(n as u64 + 1).to_be_bytes());
    HostId::from_bytes(bytes)
}

pub fn address(n: At) -> SocketAddr {
    let [_, _, a, b] = (n as u32 + 1).to_be_bytes();
    SocketAddr::from(([10, 200, a, b], 7947))
}

pub fn definition() -> Definition {
    Definition {
        net: None,
        kind: "bridge".to_owned(),
        gateway: None,
        aux: BTreeSet::new(),
        vni: None,
        mtu: None,
    }
}

impl World {
    /// So many hosts that are members already, none of them started.
    pub fn new(seed: u64, hosts: usize, alone: Alone) -> Self {
        let mut world = Self {
            now: Tick(1_000),
            rng: StdRng::seed_from_u64(seed),
            hosts: Vec::new(),
            wire: Wire::GOOD,
            side: Vec::new(),
            alone,
            shelf: None,
            leases: BTreeMap::new(),
            queue: BinaryHeap::new(),
            parcels: BTreeMap::new(),
            numbered: 0,
            next_ticket: 1,
            steps: 0,
            by_address: BTreeMap::new(),
            trace: std::env::var_os("SIM_TRACE").is_some(),
            tap: None,
            garble: None,
            uplink: None,
            readers: true,
            watch: None,
            commons: None,
        };
        let mut charter = Charter::founded([7; 16], host_id(0), "host0".to_owned(), [0; 32], [0; 32]);
        for n in 1..hosts {
            let mut key = [n as u8; 32];
            key[..8].copy_from_slice(&(n as u64).to_be_bytes());
            let join = Decree::Join {
                host: host_id(n),
                name: format!("host{n}"),
                key,
            };
            charter.apply(&join).expect("a host joins");
        }
        let charter = tombolo_cluster::wire::encode(&charter);
        let seats: Vec<Seat> = (0..hosts).map(|n| Seat::new(host_id(n), address(n), 0)).collect();
        for n in 0..hosts {
            world.add(n, charter.clone(), seats.clone());
        }
        world
    }

    /// Has a store decide, from the beginning on.
    pub fn with_store(mut self) -> Self {
        for host in &mut self.hosts {
            let charter = host.disk.records.get_mut("charter").expect("a charter");
            let by_store: Charter = decode::<Charter>(charter).expect("a charter").with_store();
            *charter = tombolo_cluster::wire::encode(&by_store);
            self.shelf = Some(Shelf {
                charter: Some((0, charter.clone())),
                ..Shelf::default()
            });
        }
        self
    }

    /// Puts a host there that is off.
    pub fn add(&mut self, n: At, charter: Vec<u8>, seats: Vec<Seat>) {
        let clock_ms = self.rng.random_range(0..1_000_000_000);
        let mut disk = Disk {
            seats,
            ..Disk::default()
        };
        disk.records.insert("charter".to_owned(), charter);
        self.by_address.insert(address(n), n);
        self.side.push(0);
        self.hosts.push(Host {
            id: host_id(n),
            address: address(n),
            disk,
            node: None,
            starts: 0,
            clock_ms,
            wall_ms: 1_700_000_000_000,
            routes: Vec::new(),
            reader: BTreeMap::new(),
            news: Vec::new(),
            outcomes: BTreeMap::new(),
            sent_bytes: 0,
            call_bytes: 0,
            sent: 0,
            fuse: None,
            wake: None,
            sending: 0,
            fills_dirty: true,
        });
    }

    pub fn log(&mut self, what: impl FnOnce() -> String) {
        let now = self.now.0;
        if self.trace {
            println!("{now:>9} {}", what());
        }
    }

    /// Starts a host's daemon from its disk.
    pub fn start(&mut self, at: At) {
        if self.hosts[at].node.is_some() {
            return;
        }
        let seed = self.rng.next_u64();
        let host = &mut self.hosts[at];
        host.disk.epoch = tombolo_cluster::node::next_epoch(host.disk.epoch, seed);
        host.starts += 1;
        let disk = &host.disk;
        let charter = disk
            .records
            .get("charter")
            .and_then(|bytes| decode(bytes))
            .expect("a charter");
        let acceptor = disk
            .records
            .get("acceptor")
            .map(|bytes| decode(bytes).expect("an acceptor"));
        let witnessed = disk.records.iter().filter_map(|(key, bytes)| {
            let (host, pool) = key.strip_prefix("witness/")?.split_once('/')?;
            Some((
                (pool.parse().expect("a pool"), host.parse().expect("a host")),
                decode::<Share>(bytes).expect("a share"),
            ))
        });
        let lives = disk.records.iter().filter_map(|(key, bytes)| {
            let host = key.strip_prefix("life/")?;
            Some((host.parse().expect("a host"), decode(bytes).expect("an epoch")))
        });
        let setup = Setup {
            me: host.id,
            epoch: disk.epoch,
            address: host.address,
            seed,
            charter,
            acceptor,
            witnessed: witnessed.collect(),
            lives: lives.collect(),
            shares: disk.ipam.shares().clone(),
            rows: disk.rows.clone().into_iter().collect(),
            remembered: disk.remembered.clone(),
            seats: disk.seats.clone(),
            alone: self.alone,
            limits: Limits::default(),
        };
        let tick = Tick(self.now.0 + host.clock_ms);
        let mut node = Node::new(tick, setup).expect("a node");
        if let Some(commons) = &self.commons {
            node.in_common(commons.clone());
        }
        if self.readers {
            let rows = node.table().visible();
            host.reader = rows
                .map(|(origin, key, body)| ((origin, key.to_string()), body.to_vec()))
                .collect();
        }
        host.node = Some(node);
        host.fills_dirty = true;
        host.fuse = None;
        self.log(|| format!("start {at}"));
        let routes = self.hosts[at].routes.clone();
        self.input(at, Input::Routes(routes));
        self.fills(at);
    }

    /// A host's daemon dies, its containers live on.
    pub fn crash(&mut self, at: At) {
        self.log(|| format!("crash {at}"));
        let host = &mut self.hosts[at];
        if let Some(node) = host.node.take() {
            // A copy now and then; it may be of any age.
            if self.rng.random_bool(0.5) {
                host.disk.remembered = node.remember();
                host.disk.seats = node.seats().cloned().collect();
            }
        }
        host.wake = None;
    }

    /// Adds one thing to what is under way.
    fn post(&mut self, after: Duration, mut parcel: Parcel) {
        if let Some(garble) = &mut self.garble {
            parcel.garble(garble);
        }
        if let Some(tap) = &mut self.tap {
            match &parcel {
                Parcel::Datagram { bytes, .. } => tap.push(Heard::Datagram(bytes.clone())),
                Parcel::Request { bytes, .. } => tap.push(Heard::Question(bytes.clone())),
                Parcel::Answer {
                    called: Called::Answer(bytes),
                    ..
                } => tap.push(Heard::Answer(bytes.clone())),
                Parcel::Answer { .. }
                | Parcel::Wake(_)
                | Parcel::Asked { .. }
                | Parcel::Judged { .. }
                | Parcel::Stored { .. } => {}
            }
        }
        self.numbered += 1;
        self.queue.push(Reverse((self.now + after, self.numbered)));
        self.parcels.insert(self.numbered, parcel);
    }

    /// How long it takes until so many bytes of a host are with another one.
    fn travel(&mut self, from: At, bytes: u64) -> Duration {
        let (least, most) = self.wire.delay_ms;
        let way = self.rng.random_range(least..=most);
        let Some(uplink) = self.uplink else {
            return Duration::from_millis(way);
        };
        let now = self.now.0 * uplink;
        let host = &mut self.hosts[from];
        host.sending = host.sending.max(now) + bytes;
        Duration::from_millis(way + (host.sending - now) / uplink)
    }

    fn cut(&self, a: At, b: At) -> bool {
        self.side[a] != self.side[b]
    }

    /// Feeds a node, and carries out what comes of it.
    pub fn input(&mut self, at: At, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let host = &mut self.hosts[at];
            let Some(node) = &mut host.node else { return };
            self.steps += 1;
            let tick = Tick(self.now.0 + host.clock_ms);
            let wall = u64::try_from(host.wall_ms + self.now.0 as i64).unwrap_or(0);
            let outputs = node.step(tick, wall, input);
            for output in outputs {
                if let Some(fuse) = &mut self.hosts[at].fuse {
                    if *fuse == 0 {
                        self.crash(at);
                        return;
                    }
                    *fuse -= 1;
                }
                self.carry_out(at, output, &mut inputs);
            }
        }
        self.rearm(at);
    }

    fn rearm(&mut self, at: At) {
        let host = &self.hosts[at];
        let Some(node) = &host.node else { return };
        let due = Tick(node.due().0.saturating_sub(host.clock_ms)).max(self.now + Duration::from_millis(1));
        if host.wake.is_none_or(|wake| due < wake || wake <= self.now) {
            self.hosts[at].wake = Some(due);
            let after = due.since(self.now);
            self.post(after, Parcel::Wake(at));
        }
    }

    fn carry_out(&mut self, at: At, output: Output, inputs: &mut VecDeque<Input>) {
        match output {
            Output::Keep(records) => {
                for (key, value) in records {
                    match value {
                        Some(value) => drop(self.hosts[at].disk.records.insert(key, value)),
                        None => drop(self.hosts[at].disk.records.remove(&key)),
                    }
                }
            }
            Output::Epoch(epoch) => self.hosts[at].disk.epoch = epoch,
            Output::Send { address, bytes, .. } => {
                self.hosts[at].sent += 1;
                let size = bytes.len() as u64 + SEAL;
                self.hosts[at].sent_bytes += size;
                let Some(to) = self.by_address.get(&address).copied() else {
                    return;
                };
                let copies = 1 + usize::from(self.rng.random_bool(self.wire.duplicate));
                for _ in 0..copies {
                    if self.cut(at, to) || self.rng.random_bool(self.wire.loss) {
                        continue;
                    }
                    let after = self.travel(at, size);
                    self.post(
                        after,
                        Parcel::Datagram {
                            from: at,
                            to,
                            bytes: bytes.clone(),
                        },
                    );
                }
            }
            Output::Call {
                call, address, bytes, ..
            } => {
                let size = bytes.len() as u64 + CALL;
                self.hosts[at].call_bytes += size;
                let to = self.by_address.get(&address).copied();
                let after = self.travel(at, size);
                match to.filter(|to| !self.cut(at, *to)) {
                    Some(to) => self.post(
                        after,
                        Parcel::Request {
                            from: at,
                            to,
                            call,
                            bytes,
                        },
                    ),
                    None => self.post(
                        Duration::from_secs(2),
                        Parcel::Answer {
                            from: at,
                            to: at,
                            call,
                            called: Called::Failed,
                        },
                    ),
                }
            }
            // An answer's way back is in the number that it bears.
            Output::Answer { call, bytes } => {
                let size = bytes.len() as u64;
                self.hosts[at].call_bytes += size;
                let (to, call) = ((call >> 40) as At, call & ((1 << 40) - 1));
                let after = self.travel(at, size);
                if !self.cut(at, to) {
                    self.post(
                        after,
                        Parcel::Answer {
                            from: at,
                            to,
                            call,
                            called: Called::Answer(bytes),
                        },
                    );
                }
            }
            Output::Share { pool, ticket, deal } => {
                let share = match self.deal(at, pool, deal) {
                    None => Ok(self.hosts[at].disk.ipam.shares().get(&pool).cloned()),
                    Some(why) => Err(why),
                };
                inputs.push_back(Input::Shared { pool, ticket, share });
                self.hosts[at].fills_dirty = true;
            }
            Output::Store { ticket, known, ask } => {
                let question = Question {
                    life: self.hosts[at].starts,
                    ticket,
                    known,
                    ask,
                    tries: 0,
                };
                self.ask_store(at, question);
            }
            Output::Done { ticket, outcome } => drop(self.hosts[at].outcomes.insert(ticket, outcome)),
            Output::Charter => {}
            Output::Tell(news) => {
                self.log(|| format!("host {at}: {news:?}"));
                let now = self.now;
                self.hosts[at].news.push((now, news));
            }
            Output::Seen(seen) => {
                if let Some(watch) = &mut self.watch {
                    seen.iter().for_each(|row| watch(self.now, at, row));
                }
                for row in seen.into_iter().filter(|_| self.readers) {
                    let key = (row.origin, row.key.to_string());
                    let reader = &mut self.hosts[at].reader;
                    let before = match &row.after {
                        Some(body) => reader.insert(key, body.to_vec()),
                        None => reader.remove(&key),
                    };
                    assert_eq!(
                        before.as_deref(),
                        row.before.as_deref(),
                        "the stream's previous value is what the reader has"
                    );
                }
            }
        }
    }

    fn no_store(&self, at: At) -> bool {
        self.side[at] != 0 || self.shelf.as_ref().is_none_or(|shelf| shelf.down)
    }

    fn ask_store(&mut self, from: At, question: Question) {
        let after = self.travel(from, 0);
        let lost = self.rng.random_bool(self.wire.loss);
        if question.tries > 5 || lost || self.no_store(from) {
            return self.store_away(from, &question);
        }
        self.post(after, Parcel::Asked { from, question });
    }

    fn store_away(&mut self, from: At, question: &Question) {
        let answer = Parcel::Stored {
            to: from,
            life: question.life,
            ticket: question.ticket,
            outcome: Err("the store can't be reached".to_owned()),
        };
        self.post(Duration::from_millis(1_600), answer);
    }

    /// The store has been asked: it reads, and after a while writes, if what it read still holds.
    fn asked(&mut self, from: At, question: Question) {
        if self.no_store(from) {
            return self.store_away(from, &question);
        }
        let Some(shelf) = &self.shelf else { return };
        let (found, read) = shelf.read(&question.ask);
        match question.ask.judge(question.known, found) {
            Ok(verdict) => {
                let after = self.travel(from, 0);
                let verdict = Box::new(verdict);
                self.post(
                    after,
                    Parcel::Judged {
                        from,
                        question,
                        verdict,
                        read,
                    },
                );
            }
            Err(why) => {
                assert!(
                    !matches!(
                        why,
                        tombolo_cluster::store::Refused::Torn(_)
                            | tombolo_cluster::store::Refused::SetBack { .. }
                    ),
                    "{why}"
                );
                let after = self.travel(from, 0);
                self.post(
                    after,
                    Parcel::Stored {
                        to: from,
                        life: question.life,
                        ticket: question.ticket,
                        outcome: Err(why.to_string()),
                    },
                );
            }
        }
    }

    fn judged(&mut self, from: At, mut question: Question, verdict: Verdict, read: &Revisions) {
        if self.no_store(from) {
            return self.store_away(from, &question);
        }
        let Some(shelf) = &mut self.shelf else { return };
        let written = verdict
            .writes
            .as_ref()
            .is_none_or(|writes| shelf.write(writes, read));
        if !written {
            question.tries += 1;
            return self.ask_store(from, question);
        }
        // It may have come about though nobody hears of it.
        if self.rng.random_bool(self.wire.loss) {
            return self.store_away(from, &question);
        }
        let after = self.travel(from, 0);
        self.post(
            after,
            Parcel::Stored {
                to: from,
                life: question.life,
                ticket: question.ticket,
                outcome: Ok(Box::new(verdict.answer)),
            },
        );
    }

    /// The owner of the shares.
    fn deal(&mut self, at: At, pool: IpNet, deal: Deal) -> Option<String> {
        self.log(|| format!("host {at}: {pool} {deal:?}"));
        let now_s = self.now.0 / 1000;
        let decided = self.hosts[at]
            .disk
            .ipam
            .deal(pool, &deal, now_s)
            .map_err(|e| e.to_string());
        match decided {
            Ok(edits) => {
                for edit in edits {
                    self.hosts[at].disk.ipam.apply(edit);
                }
                None
            }
            Err(why) => Some(why),
        }
    }

    /// Tells a node how full its shares are.
    pub fn fills(&mut self, at: At) {
        if self.hosts[at].node.is_none() {
            return;
        }
        self.hosts[at].fills_dirty = false;
        let ipam = &self.hosts[at].disk.ipam;
        let used: BTreeSet<IpNet> = ipam.pools().keys().map(PoolId::cidr).collect();
        let pools: BTreeSet<IpNet> = used
            .iter()
            .copied()
            .chain(ipam.shares().keys().copied())
            .collect();
        let fills: BTreeMap<IpNet, Fill> = pools
            .into_iter()
            .map(|pool| {
                let summary = ipam.summary(pool).unwrap_or_default();
                (
                    pool,
                    Fill {
                        free: summary.free,
                        leased: summary.leased,
                        used: used.contains(&pool),
                    },
                )
            })
            .collect();
        self.input(at, Input::Pools(fills));
    }

    pub fn wish(&mut self, at: At, wish: Wish) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.log(|| format!("host {at} wishes {wish:?} ({ticket})"));
        self.input(at, Input::Wish { ticket, wish });
        ticket
    }

    /// Docker makes a network on a pool of the cluster's: first the pool is this host's own.
    pub fn use_pool(&mut self, at: At, pool: IpNet) {
        let id = PoolId::new(Space::Local, pool, None).expect("a pool");
        if self.hosts[at].disk.ipam.pool(&id).is_none() {
            self.hosts[at]
                .disk
                .ipam
                .apply(Edit::Pool(id, Some(Pool::default())));
        }
        self.fills(at);
    }

    /// Docker removes the network, with all its containers.
    pub fn disuse_pool(&mut self, at: At, pool: IpNet) {
        let id = PoolId::new(Space::Local, pool, None).expect("a pool");
        let edits = self.hosts[at].disk.ipam.release_pool(&id);
        edits
            .into_iter()
            .for_each(|edit| drop(self.hosts[at].disk.ipam.apply(edit)));
        self.leases
            .retain(|(of, _), holder| !(*of == pool && *holder == at));
        self.fills(at);
    }

    /// Starts a container: gives its address, if it got one.
    ///
    /// # Panics
    /// If somebody has the address already.
    pub fn lease(&mut self, at: At, pool: IpNet, address: Option<IpAddr>) -> Result<IpAddr, String> {
        let Some(node) = &self.hosts[at].node else {
            return Err("off".to_owned());
        };
        if !node.may_lease() {
            return Err("may not lease".to_owned());
        }
        let id = PoolId::new(Space::Local, pool, None).expect("a pool");
        let wish = LeaseWish {
            address,
            usage: Use::Endpoint { name: None },
            repeat: false,
        };
        let now_s = self.now.0 / 1000;
        if !node.charter().pools.contains_key(&pool) {
            return Err("not the cluster's".to_owned());
        }
        let (got, edits) = self.hosts[at]
            .disk
            .ipam
            .request_address(&id, &wish, now_s)
            .map_err(|e| e.to_string())?;
        edits
            .into_iter()
            .for_each(|edit| drop(self.hosts[at].disk.ipam.apply(edit)));
        let got = got.addr();
        self.log(|| format!("host {at} leases {got}"));
        if let Some(holder) = self.leases.insert((pool, got), at) {
            panic!("{got} of {pool} is given to host {at}, and host {holder} has it");
        }
        self.fills(at);
        Ok(got)
    }

    pub fn release(&mut self, at: At, pool: IpNet, address: IpAddr) {
        let id = PoolId::new(Space::Local, pool, None).expect("a pool");
        let now_s = self.now.0 / 1000;
        let edits = self.hosts[at].disk.ipam.release_address(&id, address, now_s);
        edits
            .into_iter()
            .for_each(|edit| drop(self.hosts[at].disk.ipam.apply(edit)));
        self.leases.remove(&(pool, address));
        self.log(|| format!("host {at} releases {address}"));
        self.fills(at);
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = at;
            let Some(parcel) = self.parcels.remove(&number) else {
                continue;
            };
            self.deliver(parcel);
        }
        self.now = until;
    }

    fn deliver(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Wake(at) => {
                if self.hosts[at].wake.is_some_and(|wake| wake <= self.now) {
                    self.hosts[at].wake = None;
                    self.input(at, Input::Tick);
                    if self.hosts[at].fills_dirty {
                        self.fills(at);
                    }
                }
            }
            Parcel::Asked { from, question } => self.asked(from, question),
            Parcel::Judged {
                from,
                question,
                verdict,
                read,
            } => self.judged(from, question, *verdict, &read),
            Parcel::Stored {
                to,
                life,
                ticket,
                outcome,
            } => {
                // Whoever asked in an earlier life hears nothing of it.
                if self.hosts[to].starts == life {
                    self.input(to, Input::Stored { ticket, outcome });
                }
            }
            Parcel::Datagram { from, to, bytes } => {
                if !self.cut(from, to) {
                    let (id, address) = (self.hosts[from].id, self.hosts[from].address);
                    self.input(
                        to,
                        Input::Datagram {
                            from: id,
                            address,
                            bytes,
                        },
                    );
                }
            }
            Parcel::Request {
                from,
                to,
                call,
                bytes,
            } => {
                let id = self.hosts[from].id;
                let lets_in = self.hosts[to]
                    .node
                    .as_ref()
                    .map(|node| node.charter().hosts.contains_key(&id));
                let refuse = |called| Parcel::Answer {
                    from: to,
                    to: from,
                    call,
                    called,
                };
                if lets_in.is_none() {
                    self.post(Duration::from_millis(1), refuse(Called::Failed));
                } else if lets_in == Some(false) {
                    self.post(Duration::from_millis(1), refuse(Called::Refused));
                } else if !self.cut(from, to) {
                    let call = ((from as u64) << 40) | call;
                    self.input(
                        to,
                        Input::Request {
                            call,
                            from: id,
                            bytes,
                        },
                    );
                }
            }
            Parcel::Answer {
                from,
                to,
                call,
                called,
            } => {
                if from == to || !self.cut(from, to) {
                    self.input(to, Input::Answered { call, answer: called });
                }
            }
        }
    }
}

/// What sealing adds to a datagram, in bytes, with the headers of UDP and IPv4.
const SEAL: u64 = 57 + 28;

/// What a call costs beside what it says, in bytes: a handshake on both sides.
const CALL: u64 = 2_500;
