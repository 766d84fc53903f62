use proptest::prelude::*;

use super::super::definition::tests::{listed, us};
use super::*;

fn host(n: usize) -> HostId {
    HostId::from_bytes([n as u8 + 1; 16])
}

const OVERLAY: &[(&str, &str)] = &[("type", "overlay")];

/// An engine with its networks, and who is on them.
#[derive(Debug, Default, Clone)]
struct FakeEngine {
    networks: Vec<Listed>,
    used: BTreeSet<String>,
    made: usize,
    /// Those that it has forgotten without a word.
    ours: BTreeSet<String>,
}

impl FakeEngine {
    fn add(&mut self, name: &str, options: &[(&str, &str)], subnet: &str) {
        self.made += 1;
        let id = format!("{name}-{}", self.made);
        self.networks.push(listed(&id, name, options, subnet));
    }

    fn remove(&mut self, name: &str) {
        let used = &self.used;
        self.networks.retain(|n| n.name != name || used.contains(&n.name));
    }

    fn subnet(&self, name: &str) -> Option<String> {
        let network = self.networks.iter().find(|network| network.name == name)?;
        let definition = Definition::of(network, &us())?;
        definition.pool(false).map(|pool| pool.to_string())
    }

    fn names(&self) -> BTreeMap<String, Option<String>> {
        self.networks
            .iter()
            .map(|n| (n.name.clone(), self.subnet(&n.name)))
            .collect()
    }
}

/// Hosts whose rows come when they are delivered.
struct World {
    books: Vec<Book>,
    engines: Vec<FakeEngine>,
    kept: Vec<BTreeMap<String, Record>>,
    /// The last row of each host about each name, and those that it has seen.
    rows: Vec<BTreeMap<String, Row>>,
    begin: Instant,
    ms: u64,
    /// How far each host's clock is off.
    skew: Vec<u64>,
}

impl World {
    fn new(hosts: usize) -> Self {
        let members: BTreeMap<HostId, String> = (0..hosts).map(|n| (host(n), format!("h{n}"))).collect();
        let book = |n| {
            let mut book = Book::new(host(n), BTreeMap::new());
            book.members(members.clone());
            book
        };
        Self {
            books: (0..hosts).map(book).collect(),
            engines: vec![FakeEngine::default(); hosts],
            kept: vec![BTreeMap::new(); hosts],
            rows: vec![BTreeMap::new(); hosts],
            begin: Instant::now(),
            ms: 1_000_000,
            skew: (0..hosts as u64).map(|n| n * 5_000).collect(),
        }
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_millis(self.ms)
    }

    fn keep(&mut self, at: usize) {
        for (name, record) in self.books[at].unkept() {
            match record {
                // As it is on disk.
                Some(record) => {
                    let text = serde_json::to_vec(&record).unwrap();
                    drop(self.kept[at].insert(name, serde_json::from_slice(&text).unwrap()));
                }
                None => drop(self.kept[at].remove(&name)),
            }
        }
        for (name, row) in self.books[at].changed_rows() {
            match row {
                Some(row) => {
                    let row = Row::read(&serde_json::to_vec(&row).unwrap()).unwrap();
                    drop(self.rows[at].insert(name, row));
                }
                None => drop(self.rows[at].remove(&name)),
            }
        }
    }

    /// A look at the engine, and all that follows from it.
    fn look(&mut self, at: usize) {
        let (now, now_ms) = (self.now(), self.ms + self.skew[at]);
        let listed = self.engines[at].networks.clone();
        let ours = &self.engines[at].ours;
        let actions = self.books[at].look("engine", (&listed, ours), &us(), (now, now_ms));
        self.keep(at);
        for action in actions {
            let (book, engine) = (&mut self.books[at], &mut self.engines[at]);
            match action {
                Action::Make(name, definition) => {
                    let request = definition.request(&name, &us());
                    let subnet = definition.pool(false).unwrap();
                    let taken = engine.networks.iter().find(|network| {
                        let definition = Definition::of(network, &us());
                        definition.is_some_and(|d| d.pool(false) == Some(subnet))
                    });
                    match taken.map(|network| network.name.clone()) {
                        Some(other) => {
                            let why = format!("{subnet} is taken by {other}");
                            book.not_made(&name, (&why, true), &listed, now);
                        }
                        None => {
                            engine.made += 1;
                            let id = format!("{name}-{}", engine.made);
                            let mut made = request.clone();
                            made["Id"] = id.as_str().into();
                            engine.networks.push(serde_json::from_value(made).unwrap());
                            book.made("engine", &name, &id, &definition, now);
                        }
                    }
                }
                Action::Remove(name, id) => match engine.used.contains(&name) {
                    true => book.in_use(&name, now),
                    false => {
                        engine.networks.retain(|network| network.id != id);
                        book.removed(&name, now);
                    }
                },
            }
            self.keep(at);
        }
    }

    /// Rows of one host come to another one.
    fn deliver(&mut self, from: usize, to: usize) {
        let rows = self.rows[from].clone();
        let now = self.now();
        let names: BTreeSet<String> = self.books[to]
            .rows
            .iter()
            .filter(|(_, rows)| rows.contains_key(&host(from)))
            .map(|(name, _)| name.clone())
            .chain(rows.keys().cloned())
            .collect();
        for name in names {
            self.books[to].heard(host(from), &name, rows.get(&name).cloned(), now);
        }
        self.keep(to);
    }

    /// A tombolo that is killed and comes back with what it has kept.
    fn restart(&mut self, at: usize) {
        let members = self.books[at].members.clone();
        self.books[at] = Book::new(host(at), self.kept[at].clone());
        self.books[at].members(members);
        for from in (0..self.books.len()).filter(|from| *from != at) {
            self.deliver(from, at);
        }
    }

    /// All hears all, several times, and time goes by.
    fn settle(&mut self) {
        for _ in 0..12 {
            for at in 0..self.books.len() {
                self.look(at);
                for to in (0..self.books.len()).filter(|to| *to != at) {
                    self.deliver(at, to);
                }
            }
            self.ms += 7_000;
        }
    }

    #[track_caller]
    fn all_have(&self, expected: &[(&str, &str)]) {
        let expected: BTreeMap<String, Option<String>> = expected
            .iter()
            .map(|(name, subnet)| ((*name).to_owned(), Some((*subnet).to_owned())))
            .collect();
        for (at, engine) in self.engines.iter().enumerate() {
            assert_eq!(engine.names(), expected, "host {at}");
        }
    }

    fn standing(&self, at: usize, name: &str) -> Standing {
        self.books[at].moods[name].standing.clone()
    }

    fn actions(&mut self, at: usize) -> Vec<(String, &'static str)> {
        let news = self.books[at].news().into_iter();
        news.map(|happened| (happened.host, happened.action)).collect()
    }
}

#[test]
fn what_is_made_on_one_host_is_on_all_and_goes_from_all() {
    let mut world = World::new(3);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.engines[0].add("alone", &[], "10.9.0.0/24");
    world.settle();
    assert_eq!(world.engines[0].names().len(), 2);
    world.engines[0].remove("alone");
    world.settle();
    world.all_have(&[("app", "10.42.0.0/16")]);
    assert_eq!(world.actions(1), [("h1".to_owned(), "made")]);
    assert_eq!(world.actions(0), []);
    world.engines[2].remove("app");
    world.settle();
    world.all_have(&[]);
    assert_eq!(world.actions(1), [("h1".to_owned(), "removed")]);
    // It is made again, otherwise, elsewhere.
    world.engines[1].add("app", OVERLAY, "10.43.0.0/16");
    world.settle();
    world.all_have(&[("app", "10.43.0.0/16")]);
}

#[test]
fn a_copy_that_gave_way_to_its_own_user_is_not_made_again_while_that_one_is_made() {
    let mut world = World::new(2);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.look(0);
    world.deliver(0, 1);
    world.ms += 1_100;
    let (now, now_ms) = (world.now(), world.ms);
    let look =
        |world: &mut World, now| world.books[1].look("engine", (&[], &BTreeSet::new()), &us(), (now, now_ms));
    assert!(matches!(look(&mut world, now)[..], [Action::Make(..)]));
    world.books[1].gave_way("app", now);
    assert_eq!(look(&mut world, now), []);
    assert_eq!(world.standing(1, "app"), Standing::Coming);
    assert_eq!(world.books[1].due(), Some(now + AGAIN[0]));
    // The user's comes, or doesn't.
    let mut other = world.books[1].clone();
    let copy = other.look("engine", (&[], &BTreeSet::new()), &us(), (now + AGAIN[0], now_ms));
    assert!(matches!(copy[..], [Action::Make(..)]));
    world.engines[1].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.all_have(&[("app", "10.42.0.0/16")]);
    assert_eq!(world.standing(1, "app"), Standing::Here);
    world.engines[0].remove("app");
    world.settle();
    world.all_have(&[]);
}

#[test]
fn where_containers_use_it_it_stays_and_goes_with_the_last() {
    let mut world = World::new(3);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.engines[1].used.insert("app".to_owned());
    world.engines[0].remove("app");
    world.settle();
    assert_eq!(world.engines[1].names().len(), 1);
    assert_eq!(world.standing(1, "app"), Standing::Kept);
    assert!(world.engines[2].names().is_empty());
    assert!(world.actions(2).contains(&("h1".to_owned(), "kept")));
    world.engines[1].used.clear();
    world.settle();
    world.all_have(&[]);
    assert_eq!(world.actions(2), [("h1".to_owned(), "settled")]);
}

#[test]
fn made_again_meanwhile_it_is_the_same_or_takes_the_place_of_the_old_one() {
    let mut world = World::new(3);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.engines[1].used.insert("app".to_owned());
    world.engines[0].remove("app");
    world.settle();
    world.engines[2].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.all_have(&[("app", "10.42.0.0/16")]);
    assert_eq!(world.standing(1, "app"), Standing::Here);

    world.engines[0].remove("app");
    world.settle();
    world.engines[0].add("app", OVERLAY, "10.50.0.0/16");
    world.settle();
    assert_eq!(world.engines[1].subnet("app").as_deref(), Some("10.42.0.0/16"));
    assert_eq!(world.standing(1, "app"), Standing::Old);
    assert_eq!(world.engines[2].subnet("app").as_deref(), Some("10.50.0.0/16"));
    world.engines[1].used.clear();
    world.settle();
    world.all_have(&[("app", "10.50.0.0/16")]);
}

#[test]
fn a_host_whose_name_or_subnet_is_taken_keeps_its_own_and_all_hear_of_it() {
    let mut world = World::new(3);
    world.engines[1].add("app", &[], "10.9.0.0/24");
    world.engines[2].add("mine", &[], "10.42.0.0/16");
    world.look(1);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    assert_eq!(world.engines[1].subnet("app"), None);
    assert_eq!(world.engines[1].networks.len(), 1);
    let refused = |at, why: &str| {
        let standing = world.standing(at, "app");
        assert!(
            matches!(&standing, Standing::Refused { why: said } if said.contains(why)),
            "{standing:?}"
        );
    };
    refused(1, "a network of driver tombolo");
    let heard = world.actions(0);
    assert!(heard.contains(&("h1".to_owned(), "refused")), "{heard:?}");
    // With the name free it comes, though not where the subnet is taken: there is no such host here.
    world.engines[1].remove("app");
    world.settle();
    assert_eq!(world.engines[1].subnet("app").as_deref(), Some("10.42.0.0/16"));
    assert!(world.actions(0).contains(&("h1".to_owned(), "settled")));
}

#[test]
fn a_host_that_was_off_comes_to_know_of_it_and_one_whose_engine_is_new_has_removed_nothing() {
    let mut world = World::new(3);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.engines[0].add("old", OVERLAY, "10.43.0.0/16");
    world.settle();
    // Host 2 is off.
    world.engines[0].remove("old");
    world.engines[0].add("new", OVERLAY, "10.44.0.0/16");
    for _ in 0..3 {
        (0..2).for_each(|at| world.look(at));
        world.deliver(0, 1);
        world.deliver(1, 0);
        world.ms += 1_000;
    }
    world.restart(2);
    world.settle();
    world.all_have(&[("app", "10.42.0.0/16"), ("new", "10.44.0.0/16")]);

    let at = (world.now(), world.ms);
    let actions = world.books[1].look("another", (&[], &BTreeSet::new()), &us(), at);
    let makes = |name: &str| {
        actions
            .iter()
            .any(|a| matches!(a, Action::Make(made, _) if made == name))
    };
    assert!(makes("app") && makes("new"), "{actions:?}");
}

#[test]
fn a_removal_while_tombolo_was_off_is_the_users_and_a_crash_in_the_midst_of_a_change_is_not() {
    let mut world = World::new(2);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.engines[1].remove("app");
    world.restart(1);
    world.settle();
    world.all_have(&[]);

    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.engines[0].remove("app");
    world.engines[0].add("app", OVERLAY, "10.60.0.0/16");
    world.look(0);
    world.deliver(0, 1);
    // It removes the old one and is killed before it notes that.
    world.engines[1].remove("app");
    world.restart(1);
    world.settle();
    world.all_have(&[("app", "10.60.0.0/16")]);
}

#[test]
fn what_an_engine_has_forgotten_was_removed_by_nobody() {
    let mut world = World::new(2);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.engines[0].add("back", OVERLAY, "10.43.0.0/16");
    world.settle();
    // Its disk is another one, its identifier the same.
    let ids = world.engines[1].networks.drain(..).map(|network| network.id);
    world.engines[1].ours = ids.collect();
    world.settle();
    world.all_have(&[("app", "10.42.0.0/16"), ("back", "10.43.0.0/16")]);
}

#[test]
fn a_removal_under_way_is_the_users_though_the_engine_has_not_asked_for_it_yet() {
    let mut world = World::new(2);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.engines[1].ours = world.engines[1]
        .networks
        .drain(..)
        .map(|network| network.id)
        .collect();
    world.look(1);
    assert!(world.books[1].due().is_some(), "it is looked again soon");
    world.ms += 1_000;
    world.look(1);
    assert!(world.engines[1].names().is_empty(), "it isn't made again");
    world.engines[1].ours.clear();
    world.settle();
    world.all_have(&[]);
}

#[test]
fn what_a_host_that_leaves_has_removed_before_a_crash_was_removed_by_no_user() {
    let mut world = World::new(2);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.books[1].leave(true);
    let listed = world.engines[1].networks.clone();
    let at = (world.now(), world.ms);
    let actions = world.books[1].look("engine", (&listed, &BTreeSet::new()), &us(), at);
    assert!(matches!(&actions[..], [Action::Remove(..)]), "{actions:?}");
    world.keep(1);
    world.engines[1].networks.clear();
    world.restart(1);
    world.settle();
    world.all_have(&[("app", "10.42.0.0/16")]);
}

#[test]
fn what_an_engine_makes_after_it_was_given_up_is_not_taken_for_a_users() {
    let mut world = World::new(2);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.look(0);
    world.deliver(0, 1);
    world.ms += 1_000;
    let at = (world.now(), world.ms);
    let actions = world.books[1].look("engine", (&[], &BTreeSet::new()), &us(), at);
    assert!(matches!(&actions[..], [Action::Make(..)]), "{actions:?}");
    let now = world.now();
    world.books[1].not_made("app", ("no answer", false), &[], now);
    world.keep(1);
    world.engines[0].remove("app");
    world.look(0);
    world.deliver(0, 1);
    world.engines[1].add("app", OVERLAY, "10.42.0.0/16");
    world.restart(1);
    world.settle();
    world.all_have(&[]);
}

#[test]
fn of_those_that_are_up_the_first_tells_what_the_maker_does_not() {
    let mut world = World::new(3);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    let tell = |world: &World| (1..3).map(|at| tells_of(world, at)).collect::<Vec<_>>();
    assert_eq!(tell(&world), [Some(false), Some(false)]);
    for at in 1..3 {
        world.books[at].link(host(0), None);
        world.keep(at);
    }
    assert_eq!(tell(&world), [Some(true), Some(false)]);
    let names = BTreeSet::from(["app".to_owned()]);
    for at in 1..3 {
        world.books[at].link(host(0), Some(&names));
        world.keep(at);
    }
    assert_eq!(tell(&world), [Some(false), Some(false)]);
    // Back without its rows, they are none of its any more.
    world.books[2].link(host(0), Some(&BTreeSet::new()));
    assert!(!world.books[2].rows["app"].contains_key(&host(0)));
}

#[test]
fn hosts_of_one_name_are_told_apart() {
    let mut book = Book::new(host(0), BTreeMap::new());
    book.members(BTreeMap::from([
        (host(0), "a".to_owned()),
        (host(1), "a".to_owned()),
        (host(2), "b".to_owned()),
    ]));
    let names: Vec<&str> = book.members.values().map(String::as_str).collect();
    assert_eq!(names, ["a (01010101)", "a (02020202)", "b"]);
}

#[test]
fn of_two_that_were_made_at_one_moment_the_users_stays() {
    let mut world = World::new(2);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.engines[1].add("app", OVERLAY, "10.43.0.0/16");
    world.settle();
    world.all_have(&[("app", "10.43.0.0/16")]);
    world.engines[0].remove("app");
    world.settle();
    world.all_have(&[]);
}

#[test]
fn a_host_that_leaves_takes_its_own_away_and_nobody_elses() {
    let mut world = World::new(2);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    world.books[1].leave(true);
    world.look(1);
    assert!(world.engines[1].names().is_empty());
    assert_eq!(world.books[1].not_left(), 0);
    world.look(1);
    assert!(world.engines[1].names().is_empty(), "it isn't made again");
    world.deliver(1, 0);
    world.look(0);
    assert_eq!(world.engines[0].names().len(), 1);
    // It stays after all.
    world.books[1].leave(false);
    world.settle();
    world.all_have(&[("app", "10.42.0.0/16")]);
}

#[test]
fn the_definition_is_told_once_and_by_others_where_it_is_lost() {
    let mut world = World::new(3);
    world.engines[0].add("app", OVERLAY, "10.42.0.0/16");
    world.settle();
    let tells = |world: &World| -> Vec<bool> {
        world
            .rows
            .iter()
            .map(|rows| rows["app"].definition.is_some())
            .collect()
    };
    assert_eq!(tells(&world), [true, false, false]);
    // The first one's disk is lost.
    world.books[0] = Book::new(host(0), BTreeMap::new());
    world.books[0].members((0..3).map(|n| (host(n), format!("h{n}"))).collect());
    world.engines[0].networks.clear();
    world.rows[0].clear();
    world.kept[0].clear();
    world.deliver(0, 1);
    world.deliver(0, 2);
    assert_eq!(tells_of(&world, 1), Some(true));
    world.settle();
    world.all_have(&[("app", "10.42.0.0/16")]);
}

fn tells_of(world: &World, at: usize) -> Option<bool> {
    world.rows[at].get("app").map(|row| row.definition.is_some())
}

#[test]
fn what_is_too_large_or_has_no_name_for_others_stays_and_is_told() {
    let mut world = World::new(2);
    let long = "x".repeat(181);
    world.engines[0].add(&long, OVERLAY, "10.42.0.0/16");
    world.look(0);
    assert!(world.books[0].unfit()[&long].contains("at most 180"));
    assert!(world.rows[0].is_empty());
}

#[test]
fn rows_of_later_versions_and_strange_bytes_are_read_or_not_and_nothing_worse() {
    let row = r#"{"stamp":{"at":5,"by":"01010101010101010101010101010101"},"standing":{"state":"dancing","why":1},"more":[1]}"#;
    let row = Row::read(row.as_bytes()).unwrap();
    assert_eq!((row.standing.clone(), row.version()), (Standing::Unknown, None));
    for strange in [
        "{}",
        "[]",
        r#"{"stamp":{"at":99999999999999999,"by":"01010101010101010101010101010101"},"standing":{"state":"here"}}"#,
        r#"{"stamp":{"at":-1,"by":"01010101010101010101010101010101"},"standing":{"state":"here"}}"#,
    ] {
        assert!(Row::read(strange.as_bytes()).is_err(), "{strange}");
    }
}

/// What users, wires and machines do.
#[derive(Debug, Clone)]
enum Event {
    Make(usize, usize, usize),
    Remove(usize, usize),
    Use(usize, usize, bool),
    Look(usize),
    Deliver(usize, usize),
    Restart(usize),
    Wait(u64),
}

const NAMES: [&str; 4] = ["app", "back", "front", "mesh"];

fn event() -> impl Strategy<Value = Event> {
    let (at, name) = (0..3_usize, 0..NAMES.len());
    prop_oneof![
        3 => (at.clone(), name.clone(), 0..3_usize).prop_map(|(at, name, subnet)| Event::Make(at, name, subnet)),
        3 => (at.clone(), name.clone()).prop_map(|(at, name)| Event::Remove(at, name)),
        2 => (at.clone(), name, any::<bool>()).prop_map(|(at, name, on)| Event::Use(at, name, on)),
        6 => at.clone().prop_map(Event::Look),
        6 => (at.clone(), at.clone()).prop_map(|(from, to)| Event::Deliver(from, to)),
        1 => at.prop_map(Event::Restart),
        2 => (1..4_000_u64).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever happens in whichever order: in the end all hosts have the same, and nothing is left of what was removed.
    #[test]
    fn all_hosts_agree_in_the_end(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new(3);
        for event in events {
            match event {
                Event::Make(at, name, subnet) => {
                    // Each name has subnets of its own, as nobody is told of conflicts here.
                    let there = world.engines[at].networks.iter().any(|network| network.name == NAMES[name]);
                    if !there {
                        let subnet = format!("10.{}.0.0/16", 10 * name + subnet);
                        world.engines[at].add(NAMES[name], OVERLAY, &subnet);
                    }
                }
                Event::Remove(at, name) => world.engines[at].remove(NAMES[name]),
                Event::Use(at, name, on) => {
                    let there = world.engines[at].networks.iter().any(|network| network.name == NAMES[name]);
                    match on && there {
                        true => drop(world.engines[at].used.insert(NAMES[name].to_owned())),
                        false => drop(world.engines[at].used.remove(NAMES[name])),
                    }
                }
                Event::Look(at) => world.look(at),
                Event::Deliver(from, to) if from != to => world.deliver(from, to),
                Event::Deliver(..) => {}
                Event::Restart(at) => world.restart(at),
                Event::Wait(ms) => world.ms += ms,
            }
        }
        world.settle();
        // What containers use stays as it is; all else is the same.
        world.engines.iter_mut().for_each(|engine| engine.used.clear());
        world.settle();
        for at in 0..3 {
            // Made just before a crash, and unknown after it: it is its user who decides.
            for name in NAMES {
                let mood = world.books[at].moods.get(name);
                if mood.is_some_and(|mood| matches!(mood.standing, Standing::Refused { .. })) {
                    world.engines[at].remove(name);
                }
            }
        }
        world.settle();
        let first = world.engines[0].names();
        for at in 1..3 {
            prop_assert_eq!(world.engines[at].names(), first.clone(), "host {}", at);
        }
        for name in first.into_keys() {
            world.engines[1].remove(&name);
        }
        world.settle();
        world.all_have(&[]);
    }
}
