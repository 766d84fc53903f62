//! Random sequences of everything that can happen, against a plain record of what the owners wrote.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tombolo_cluster::HostId;
use tombolo_cluster::table::*;
use tombolo_cluster::time::Tick;

use crate::common::*;

const HOSTS: u8 = 4;

#[derive(Debug, Clone)]
enum Op {
    Set(u8, u8, Option<u8>),
    /// What is under way arrives; or is lost, or arrives and stays under way.
    Arrive(prop::sample::Index),
    Lose(prop::sample::Index),
    Double(prop::sample::Index),
    Pull {
        to: u8,
        from: u8,
        max_bytes: usize,
        pieces: usize,
    },
    /// The answers to what `to` asks `from` for go under way.
    Ask {
        to: u8,
        from: u8,
        max_bytes: usize,
    },
    Restart {
        host: u8,
        keeps: u16,
        snapshots: bool,
    },
    Restate(u8),
    Hide(u8, u8),
    Show(u8, u8),
    Expel(u8, u8),
    Admit(u8, u8),
    Pass(u64),
    Tick(u8),
    Drain(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let h = || 0..HOSTS;
    let at = any::<prop::sample::Index>;
    prop_oneof![
        30 => (h(), 0..12_u8, prop::option::weighted(0.65, any::<u8>())).prop_map(|(a, k, b)| Op::Set(a, k, b)),
        40 => at().prop_map(Op::Arrive),
        20 => at().prop_map(Op::Lose),
        5 => at().prop_map(Op::Double),
        20 => (h(), h(), 0..600_usize, prop_oneof![1..4_usize, Just(usize::MAX)])
            .prop_map(|(to, from, max_bytes, pieces)| Op::Pull { to, from, max_bytes, pieces }),
        10 => (h(), h(), 0..600_usize).prop_map(|(to, from, max_bytes)| Op::Ask { to, from, max_bytes }),
        3 => (h(), any::<u16>(), any::<bool>())
            .prop_map(|(host, keeps, snapshots)| Op::Restart { host, keeps, snapshots }),
        1 => h().prop_map(Op::Restate),
        3 => (h(), h()).prop_map(|(a, b)| Op::Hide(a, b)),
        4 => (h(), h()).prop_map(|(a, b)| Op::Show(a, b)),
        2 => (h(), h()).prop_map(|(a, b)| Op::Expel(a, b)),
        4 => (h(), h()).prop_map(|(a, b)| Op::Admit(a, b)),
        6 => prop_oneof![5 => 0..120_000_u64, 4 => 0..2_400_000_u64, 1 => Just(90_000_000)].prop_map(Op::Pass),
        10 => h().prop_map(Op::Tick),
        6 => h().prop_map(Op::Drain),
    ]
}

/// What each owner wrote under which number.
type Written = BTreeMap<HostId, BTreeMap<Version, (Key, Option<Arc<[u8]>>)>>;
type Visible = BTreeMap<(HostId, Key), Arc<[u8]>>;

#[derive(Debug, Clone)]
enum Letter {
    Change(Change),
    Delta(Delta),
}

struct World {
    tables: Vec<Table>,
    /// What the reader of each has made of what it was told.
    readers: Vec<Visible>,
    written: Written,
    /// What is under way, and to whom.
    wire: Vec<(u8, Letter)>,
    now: u64,
    limits: Limits,
}

fn id(n: u8) -> HostId {
    host(n + 1)
}

impl World {
    fn new(limits: Limits) -> Self {
        let mut world = Self {
            tables: Vec::new(),
            readers: vec![Visible::new(); HOSTS as usize],
            written: Written::new(),
            wire: Vec::new(),
            now: 0,
            limits,
        };
        for n in 0..HOSTS {
            let table = world.start(n, 1, BTreeMap::new());
            world.tables.push(table);
        }
        world
    }

    fn start(&mut self, n: u8, epoch: u32, rows: BTreeMap<Key, Arc<[u8]>>) -> Table {
        self.note_all(n, epoch, &rows);
        let mut table = Table::new(id(n), epoch, self.limits.clone(), rows).unwrap();
        (0..HOSTS).for_each(|other| table.admit(id(other)).unwrap());
        table
    }

    fn note_all(&mut self, n: u8, epoch: u32, rows: &BTreeMap<Key, Arc<[u8]>>) {
        for ((key, body), count) in rows.iter().zip(1..) {
            let wrote = (key.clone(), Some(body.clone()));
            self.written
                .entry(id(n))
                .or_default()
                .insert(v(epoch, count), wrote);
        }
    }

    /// Each host has a clock of its own.
    fn time(&self, n: u8) -> Tick {
        Tick(self.now + u64::from(n) * 7_777_777)
    }

    fn own(&self, n: u8) -> BTreeMap<Key, Arc<[u8]>> {
        let rows = self.tables[n as usize].rows_of(id(n));
        rows.map(|(key, body)| (key.clone(), body.clone())).collect()
    }

    /// Does it, and answers the host that may have changed.
    fn carry_out(&mut self, op: Op) -> Option<u8> {
        match op {
            Op::Set(n, k, body) => {
                let body = body.map(|b| vec![b; 1 + b as usize % 40]);
                let now = self.time(n);
                let table = &mut self.tables[n as usize];
                if let Some(change) = table.set(now, key(&format!("k{k}")), body.as_deref()).unwrap() {
                    assert_eq!(change.version, table.own_version());
                    let wrote = (change.key.clone(), body.map(Arc::from));
                    self.written
                        .entry(id(n))
                        .or_default()
                        .insert(change.version, wrote);
                    let letter = Letter::Change(change);
                    let others = (0..HOSTS).filter(|to| *to != n);
                    self.wire.extend(others.map(|to| (to, letter.clone())));
                }
                Some(n)
            }
            Op::Arrive(at) | Op::Double(at) | Op::Lose(at) if self.wire.is_empty() => {
                let _ = at;
                None
            }
            Op::Lose(at) => {
                self.wire.swap_remove(at.index(self.wire.len()));
                None
            }
            Op::Arrive(at) => {
                let (to, letter) = self.wire.swap_remove(at.index(self.wire.len()));
                self.arrive(to, letter);
                Some(to)
            }
            Op::Double(at) => {
                let (to, letter) = self.wire[at.index(self.wire.len())].clone();
                self.arrive(to, letter);
                Some(to)
            }
            Op::Pull {
                to,
                from,
                max_bytes,
                pieces,
            } => {
                self.pull(to, from, max_bytes, pieces);
                Some(to)
            }
            Op::Ask { to, from, max_bytes } => {
                let (now, heads) = (self.time(from), self.tables[from as usize].heads(u64::MAX));
                let wanted = self.tables[to as usize].missing(u64::MAX, &heads).want;
                let from = &self.tables[from as usize];
                let deltas = wanted.iter().filter_map(|head| from.delta(now, head, max_bytes));
                self.wire.extend(deltas.map(|delta| (to, Letter::Delta(delta))));
                None
            }
            Op::Restart {
                host,
                keeps,
                snapshots,
            } => {
                let kept = (0..16).filter(|bit| keeps >> bit & 1 == 1).collect::<Vec<u16>>();
                let mut rows = self.own(host);
                rows.retain(|key, _| kept.iter().any(|n| key.as_str() == format!("k{n}")));
                let (now, old) = (self.time(host), &self.tables[host as usize]);
                let epoch = old.own_version().epoch + 1;
                let records = (0..HOSTS).filter_map(|n| old.snapshot(now, id(n)).unwrap());
                let records: Vec<_> = records.filter(|_| snapshots).collect();
                let mut table = self.start(host, epoch, rows);
                for record in records {
                    let restored = table.restore(now, &record).unwrap();
                    assert!(matches!(restored, Merged::New { .. }), "{restored:?}");
                }
                self.readers[host as usize] = seen_by(table.begin(), Visible::new());
                self.tables[host as usize] = table;
                Some(host)
            }
            Op::Restate(n) => {
                let epoch = self.tables[n as usize].own_version().epoch + 2;
                self.note_all(n, epoch, &self.own(n));
                self.tables[n as usize].restate(epoch).unwrap();
                Some(n)
            }
            Op::Hide(n, other) => {
                let now = self.time(n);
                self.tables[n as usize].hide(now, id(other));
                Some(n)
            }
            Op::Show(n, other) => {
                self.tables[n as usize].show(id(other));
                Some(n)
            }
            Op::Expel(n, other) => {
                self.tables[n as usize].expel(id(other));
                Some(n)
            }
            Op::Admit(n, other) => {
                self.tables[n as usize].admit(id(other)).unwrap();
                Some(n)
            }
            Op::Pass(ms) => {
                self.now += ms;
                None
            }
            Op::Tick(n) => {
                let now = self.time(n);
                self.tables[n as usize].tick(now);
                Some(n)
            }
            Op::Drain(n) => {
                self.drain(n);
                Some(n)
            }
        }
    }

    fn arrive(&mut self, to: u8, letter: Letter) {
        let now = self.time(to);
        let table = &mut self.tables[to as usize];
        let origin = match &letter {
            Letter::Change(change) => change.origin,
            Letter::Delta(delta) => delta.origin,
        };
        let standing = table.standing(origin);
        let accepting = matches!(standing, Some(Standing::Shown | Standing::Hidden { .. }));
        let refused = match letter {
            Letter::Change(change) => match table.apply(now, change) {
                Outcome::New | Outcome::Ahead | Outcome::Known => None,
                Outcome::Refused(why) => Some(why),
                strange => panic!("{strange:?}"),
            },
            Letter::Delta(delta) => match table.merge(now, delta) {
                Merged::New { .. } | Merged::Known | Merged::More(_) | Merged::Unfitting => None,
                Merged::Refused(why) => Some(why),
                strange => panic!("{strange:?}"),
            },
        };
        match refused {
            Some(Refused::NotAdmitted { .. } | Refused::Aged { .. }) => assert!(!accepting),
            Some(Refused::OfHost { what: "gaps", .. }) => {}
            None => assert!(accepting),
            strange => panic!("{strange:?}"),
        }
    }

    fn pull(&mut self, to: u8, from: u8, max_bytes: usize, pieces: usize) {
        if to == from {
            return;
        }
        let times = (self.time(to), self.time(from));
        let [to, from] = self
            .tables
            .get_disjoint_mut([to as usize, from as usize])
            .unwrap();
        assert_eq!(to.digest() == from.digest(), covers(to) == covers(from));
        for merged in pull(to, from, times, max_bytes, pieces) {
            assert!(
                matches!(merged, Merged::New { .. } | Merged::More(_)),
                "{merged:?}"
            );
        }
    }

    fn drain(&mut self, n: u8) {
        let reader = std::mem::take(&mut self.readers[n as usize]);
        let table = &mut self.tables[n as usize];
        self.readers[n as usize] = seen_by(table.drain(), reader);
        assert_eq!(table.waiting(), 0);
        let visible = table
            .visible()
            .map(|(origin, key, body)| ((origin, key.clone()), body.clone()));
        assert_eq!(self.readers[n as usize], visible.collect::<Visible>());
    }

    /// The rows of each host must be, of each name, the latest that its owner wrote among what is covered.
    fn check(&self, n: u8) {
        let table = &self.tables[n as usize];
        for (origin, cover, _) in table.hosts() {
            let mut wanted = BTreeMap::new();
            for (version, (key, body)) in self.written.get(&origin).into_iter().flatten() {
                if cover.contains(*version) && version.epoch >= cover.known().epoch {
                    wanted.insert(key, (*version, body));
                }
            }
            wanted.retain(|_, (_, body)| body.is_some());
            let held = table.rows_of(origin).map(|(key, body)| {
                (
                    key,
                    (
                        table.version_of(origin, key.as_str()).unwrap(),
                        Some(body.clone()),
                    ),
                )
            });
            let wanted = wanted
                .into_iter()
                .map(|(key, (version, body))| (key, (version, body.clone())));
            assert_eq!(
                held.collect::<BTreeMap<_, _>>(),
                wanted.collect(),
                "{n} of {origin:?}: {cover:?}"
            );
        }
    }

    /// After everybody is shown and a few rounds of exchanges all hold what the owners hold, and nothing else.
    fn settle(&mut self, max_bytes: usize) {
        self.now += 31_000;
        for n in 0..HOSTS {
            let now = self.time(n);
            self.tables[n as usize].tick(now);
            for other in 0..HOSTS {
                self.tables[n as usize].admit(id(other)).unwrap();
                self.tables[n as usize].show(id(other));
            }
        }
        for _ in 0..2 {
            for to in 0..HOSTS {
                (0..HOSTS).for_each(|from| self.pull(to, from, max_bytes, usize::MAX));
            }
        }
        self.now = much_later(Tick(self.now)).0;
        for n in 0..HOSTS {
            assert_eq!(covers(&self.tables[n as usize]), covers(&self.tables[0]));
            assert_eq!(self.tables[n as usize].digest(), self.tables[0].digest());
            self.check(n);
            for other in 0..HOSTS {
                let held = self.tables[n as usize].rows_of(id(other));
                let held: BTreeMap<_, _> = held.map(|(key, body)| (key.clone(), body.clone())).collect();
                assert_eq!(held, self.own(other));
            }
            self.drain(n);
            let now = self.time(n);
            let table = &mut self.tables[n as usize];
            table.tick(now);
            let sizes = table
                .visible()
                .map(|(_, key, body)| key.as_str().len() + body.len());
            let (count, bytes) = sizes.fold((0, 0), |(n, sum), size| (n + 1, sum + size));
            assert_eq!(
                (table.rows(), table.bytes()),
                (count, bytes),
                "no removal outlives its life"
            );
        }
    }
}

fn covers(table: &Table) -> Vec<(HostId, Cover)> {
    let heads = table.heads(u64::MAX).into_iter();
    heads.map(|head| (head.origin, head.cover)).collect()
}

/// What a reader holds after it was told this.
fn seen_by(seen: Vec<Seen>, mut reader: Visible) -> Visible {
    for Seen {
        origin,
        key,
        before,
        after,
    } in seen
    {
        assert_ne!(before, after, "nothing is told that did not change");
        let held = match after {
            Some(body) => reader.insert((origin, key), body),
            None => reader.remove(&(origin, key)),
        };
        assert_eq!(held, before, "what was there before is what the reader saw");
    }
    reader
}

fn run(ops: Vec<Op>, max_bytes: usize, limits: Limits) {
    let mut world = World::new(limits);
    for op in ops {
        if let Some(n) = world.carry_out(op) {
            world.check(n);
        }
    }
    world.settle(max_bytes);
}

/// Half as many cases as usual, since each is a long story; the environment can ask for more.
fn fewer() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases / 2,
        ..usual
    }
}

proptest! {
    #![proptest_config(fewer())]

    #[test]
    fn whatever_happens_all_end_with_what_the_owners_hold(
        ops in prop::collection::vec(op(), 0..250),
        max_bytes in 0..2000_usize,
    ) {
        run(ops, max_bytes, Limits::default());
    }

    #[test]
    fn it_does_so_where_removals_are_swept_early_for_want_of_room(
        ops in prop::collection::vec(op(), 0..250),
        max_bytes in 0..2000_usize,
    ) {
        // Twelve names: no host ever has more rows, and it often has as many removals as it may.
        run(ops, max_bytes, Limits { rows_per_host: 12, ..Limits::default() });
    }

    #[test]
    fn it_does_so_where_removals_are_soon_forgotten(
        ops in prop::collection::vec(op(), 0..250),
    ) {
        let removal_life = std::time::Duration::from_secs(20);
        run(ops, 1 << 20, Limits { removal_life, ..Limits::default() });
    }
}
