//! The engine on a fake kernel: random commands with refusals, lost answers, thefts, a failing disk and sudden deaths.
//! Whatever happened, after the next start what is observed equals what is desired, what was acknowledged is kept, and
//! without records there are no facts.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use proptest::prelude::*;
use tombolo::engine::{Edge, Engine, Journal, Setup};
use tombolo::kernel::{Error, Fake, Kernel};
use tombolo::records::Records;
use tombolo::store::{self, Put, Row};
use tombolo_core::kinds::Spec;
use tombolo_core::kinds::options::Options;
use tombolo_core::model::{Network, PortWish, Proto, Subnet};
use tombolo_core::state::{Command, Reply, State};
use tombolo_core::world::{Step, World, diff};
use tombolo_ipam::{PoolRequest, Space, Use, Want};

/// A kernel that outlives the engine, and may see it die in the middle of something.
#[derive(Clone)]
struct Mortal {
    kernel: Arc<Mutex<Fake>>,
    /// Steps until the process dies; the step itself is done.
    dies_in: Arc<Mutex<Option<usize>>>,
}

impl Kernel for Mortal {
    fn observe(&mut self) -> impl Future<Output = Result<World, Error>> + Send {
        let kernel = self.kernel.clone();
        async move {
            let look = kernel.lock().unwrap().observe().now_or_never();
            look.expect("the fake never waits")
        }
    }

    fn apply(&mut self, step: &Step) -> impl Future<Output = Result<(), Error>> + Send {
        let (kernel, dies_in, step) = (self.kernel.clone(), self.dies_in.clone(), step.clone());
        async move {
            let done = kernel
                .lock()
                .unwrap()
                .apply(&step)
                .now_or_never()
                .expect("the fake never waits");
            let dies = {
                let mut left = dies_in.lock().unwrap();
                let dies = *left == Some(0);
                *left = left.and_then(|n| n.checked_sub(1));
                dies
            };
            if dies {
                std::future::pending::<()>().await;
            }
            done
        }
    }
}

/// A disk made of memory that may be full.
#[derive(Clone, Default)]
struct Disk {
    rows: Arc<Mutex<BTreeMap<(String, String), Vec<u8>>>>,
    full: Arc<Mutex<bool>>,
}

impl Journal for Disk {
    fn commit(&mut self, puts: &[Put]) -> Result<(), store::Error> {
        if std::mem::take(&mut *self.full.lock().unwrap()) {
            return Err(store::Error::Closed {
                why: "the disk is full".to_owned(),
            });
        }
        let mut rows = self.rows.lock().unwrap();
        for put in puts {
            let key = (put.table.clone(), put.key.clone());
            match &put.value {
                Some(value) => drop(rows.insert(key, value.clone())),
                None => drop(rows.remove(&key)),
            }
        }
        Ok(())
    }

    fn replace(&mut self, rows: &[Row]) -> Result<(), store::Error> {
        let of = |row: &Row| ((row.table.clone(), row.key.clone()), row.value.clone());
        *self.rows.lock().unwrap() = rows.iter().map(of).collect();
        Ok(())
    }

    fn rebuilt(&mut self) -> Result<(), store::Error> {
        Ok(())
    }

    fn backup(&self) -> Result<(), store::Error> {
        Ok(())
    }
}

impl Disk {
    fn load(&self) -> Records {
        let rows = self.rows.lock().unwrap();
        let row = |((table, key), value): (&(String, String), &Vec<u8>)| Row {
            table: table.clone(),
            key: key.clone(),
            value: value.clone(),
        };
        let rows: Vec<Row> = rows.iter().map(row).collect();
        let (records, unreadable) = Records::read(&rows);
        assert!(unreadable.is_empty(), "{unreadable:?}");
        records
    }
}

struct Scene {
    kernel: Mortal,
    disk: Disk,
    engine: Engine<Mortal, Disk>,
}

fn start(kernel: &Mortal, disk: &Disk) -> Engine<Mortal, Disk> {
    let records = disk.load();
    let meta = records.meta.clone();
    let (state, problems) = records.into_state();
    assert!(problems.is_empty(), "{problems:?}");
    let setup = Setup {
        carve: vec!["10.208.0.0/16:24".parse().unwrap()],
        driver: "tombolo".to_owned(),
        edge: Edge {
            now_s: || 0,
            port_free: |_, _, _| true,
            ephemeral: || (32768, 60999),
        },
        settings: Vec::new(),
        recovered: None,
    };
    Engine::new(state, meta, false, kernel.clone(), disk.clone(), setup)
}

impl Scene {
    fn new() -> Self {
        let kernel = Mortal {
            kernel: Arc::new(Mutex::new(Fake::new())),
            dies_in: Arc::default(),
        };
        let disk = Disk::default();
        let engine = start(&kernel, &disk);
        let mut scene = Self { kernel, disk, engine };
        scene.restart();
        scene
    }

    fn restart(&mut self) {
        *self.kernel.dies_in.lock().unwrap() = None;
        self.engine = start(&self.kernel, &self.disk);
        self.engine.settle("start").now_or_never().expect("nothing waits");
    }

    /// The reply, if the command was granted. A death is followed by the next start.
    fn ask(&mut self, command: &Command) -> Option<Reply> {
        let deadline = Instant::now() + Duration::from_secs(60);
        match self.engine.carry_out(command, &[], deadline).now_or_never() {
            Some(answer) => answer.ok().map(|(reply, _)| reply),
            None => {
                self.restart();
                None
            }
        }
    }

    fn found(&self) -> World {
        self.kernel.kernel.lock().unwrap().world()
    }

    /// The steps that would still have to be made.
    fn undone(&self) -> Vec<Step> {
        diff(&self.engine.state().world(), &self.found())
    }

    /// The records on the disk are those in memory.
    fn assert_stored(&self) {
        let (stored, problems) = self.disk.load().into_state();
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(text(&stored), text(self.engine.state()));
    }
}

fn text(state: &State) -> serde_json::Value {
    serde_json::to_value(Records::of(state, &BTreeMap::new())).unwrap()
}

#[derive(Debug, Clone)]
enum Event {
    Ask(Command),
    Refuse(usize),
    LoseAnswer(usize),
    Die(usize),
    DiskFull,
    Steal(usize),
    Tick,
    Restart,
}

fn network(id: u8, pool: u8, internal: bool, v6: bool) -> Network {
    let subnet = |pool: String, gateway: String| Subnet {
        pool: pool.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        aux: Vec::new(),
        ours: true,
    };
    let mut subnets = vec![subnet(format!("10.{pool}.0.0/24"), format!("10.{pool}.0.1/24"))];
    if v6 {
        subnets.push(subnet(format!("fd00:{pool}::/64"), format!("fd00:{pool}::1/64")));
    }
    let spec = Spec::read(Options::default(), v6).unwrap();
    Network {
        id: format!("n{id}").parse().unwrap(),
        spec,
        internal,
        subnets,
        released: false,
    }
}

fn command() -> impl Strategy<Value = Command> {
    let id = 0..4u8;
    let endpoint = |e: u8| format!("e{e}").parse().unwrap();
    let net = |n: u8| format!("n{n}").parse().unwrap();
    let wish = |port: u16, host: u16| PortWish {
        proto: Proto::Tcp,
        host: None,
        first: host,
        last: host,
        port,
    };
    let request = |want| PoolRequest {
        space: Space::Local,
        want,
        range: None,
        v6: false,
        repeat: true,
    };
    prop_oneof![
        3 => (id.clone(), 0..4u8, any::<bool>(), any::<bool>())
            .prop_map(|(n, p, internal, v6)| Command::CreateNetwork(network(n, p, internal, v6))),
        1 => id.clone().prop_map(move |n| Command::DeleteNetwork(net(n))),
        4 => (0..6u8, id.clone(), 2..6u8).prop_map(move |(e, n, a)| Command::CreateEndpoint {
            id: endpoint(e),
            network: net(n),
            addresses: vec![format!("10.{n}.0.{a}/24").parse().unwrap()],
            mac: None,
        }),
        2 => (0..6u8).prop_map(move |e| Command::DeleteEndpoint(endpoint(e))),
        4 => (0..6u8, id.clone()).prop_map(move |(e, n)| Command::Join {
            network: net(n),
            endpoint: endpoint(e),
            sandbox: "/run/netns/x".to_owned(),
        }),
        2 => (0..6u8).prop_map(move |e| Command::Leave(endpoint(e))),
        3 => (0..6u8, id, 80..83u16, 0..3u16).prop_map(move |(e, n, port, host)| Command::Publish {
            network: net(n),
            endpoint: endpoint(e),
            wishes: vec![wish(port, 8000 + host), wish(port + 1, 0)],
        }),
        1 => (0..6u8).prop_map(move |e| Command::Unpublish(endpoint(e))),
        1 => Just(Command::RequestPool(request(Want::Any))),
        1 => (0..4u8).prop_map(move |p| {
            Command::RequestPool(request(Want::Exactly(format!("10.{p}.0.0/24").parse().unwrap())))
        }),
        1 => (0..4u8).prop_map(|p| Command::ReleasePool(format!("local/10.{p}.0.0/24").parse().unwrap())),
        2 => (0..4u8, proptest::option::of(1..9u8)).prop_map(|(p, a)| Command::RequestAddress {
            pool: format!("local/10.{p}.0.0/24").parse().unwrap(),
            address: a.map(|a| IpAddr::from([10, p, 0, a])),
            usage: if a == Some(1) { Use::Gateway } else { Use::Endpoint { name: None } },
            repeat: false,
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => command().prop_map(Event::Ask),
        1 => (0..6usize).prop_map(Event::Refuse),
        1 => (0..6usize).prop_map(Event::LoseAnswer),
        2 => (0..6usize).prop_map(Event::Die),
        1 => Just(Event::DiskFull),
        2 => (0..40usize).prop_map(Event::Steal),
        1 => Just(Event::Tick),
        1 => Just(Event::Restart),
    ]
}

fn play(scene: &mut Scene, events: Vec<Event>) {
    for event in events {
        match event {
            Event::Ask(command) => {
                let before = text(scene.engine.state());
                let granted = scene.ask(&command);
                let after = text(scene.engine.state());
                if granted.is_none() && !command.shrinks() {
                    // A death may come after the commit; a refusal changes nothing.
                    let dead = scene.kernel.dies_in.lock().unwrap().is_none();
                    assert!(before == after || dead, "refused, but changed: {command:?}");
                }
                scene.assert_stored();
            }
            Event::Refuse(n) => scene.kernel.kernel.lock().unwrap().refuse_step(n),
            Event::LoseAnswer(n) => scene.kernel.kernel.lock().unwrap().lose_answer(n),
            Event::Die(n) => *scene.kernel.dies_in.lock().unwrap() = Some(n),
            Event::DiskFull => *scene.disk.full.lock().unwrap() = true,
            Event::Steal(n) => {
                let mut kernel = scene.kernel.kernel.lock().unwrap();
                let stolen = kernel.world().into_keys().nth(n);
                stolen.iter().for_each(|key| kernel.steal(key));
            }
            Event::Tick => {
                if scene.engine.settle("tick").now_or_never().is_none() {
                    scene.restart();
                }
            }
            Event::Restart => scene.restart(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn after_the_next_start_what_is_observed_is_what_is_desired(events in proptest::collection::vec(event(), 1..60)) {
        let mut scene = Scene::new();
        play(&mut scene, events);
        scene.kernel.kernel.lock().unwrap().behave();
        *scene.disk.full.lock().unwrap() = false;
        scene.restart();
        prop_assert_eq!(scene.undone(), []);
        scene.assert_stored();

        let networks: Vec<_> = scene.engine.state().networks().map(|n| n.id.clone()).collect();
        for id in networks {
            scene.ask(&Command::DeleteNetwork(id));
        }
        prop_assert_eq!(diff(&World::new(), &scene.found()), []);
        prop_assert_eq!(scene.engine.state().endpoints().count(), 0);
    }

    #[test]
    fn without_disturbances_each_granted_command_holds_at_once(
        commands in proptest::collection::vec(command(), 1..60)
    ) {
        let mut scene = Scene::new();
        for command in commands {
            scene.ask(&command);
            prop_assert_eq!(scene.undone(), []);
        }
    }
}

/// Docker's own order, with a death at every step of it.
#[test]
fn a_death_at_any_step_of_a_start_and_a_stop_leaves_nothing_behind() {
    let id = "e0".parse::<tombolo_core::model::EndpointId>().unwrap();
    let net: tombolo_core::model::NetworkId = "n0".parse().unwrap();
    let wish = PortWish {
        proto: Proto::Udp,
        host: None,
        first: 53,
        last: 53,
        port: 53,
    };
    let commands = [
        Command::CreateNetwork(network(0, 0, false, true)),
        Command::CreateEndpoint {
            id: id.clone(),
            network: net.clone(),
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
            mac: None,
        },
        Command::Join {
            network: net.clone(),
            endpoint: id.clone(),
            sandbox: "/run/netns/x".to_owned(),
        },
        Command::Publish {
            network: net.clone(),
            endpoint: id.clone(),
            wishes: vec![wish],
        },
        Command::Unpublish(id.clone()),
        Command::Leave(id.clone()),
        Command::DeleteEndpoint(id),
        Command::DeleteNetwork(net),
    ];
    for fatal in 0..commands.len() {
        for step in 0..16 {
            let mut scene = Scene::new();
            for (n, command) in commands.iter().enumerate() {
                *scene.kernel.dies_in.lock().unwrap() = (n == fatal).then_some(step);
                scene.ask(command);
                *scene.kernel.dies_in.lock().unwrap() = None;
                assert_eq!(scene.undone(), [], "command {fatal}, step {step}, at {command:?}");
            }
            assert_eq!(
                diff(&World::new(), &scene.found()),
                [],
                "command {fatal}, step {step}"
            );
        }
    }
}
