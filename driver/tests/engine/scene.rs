//! An engine with a kernel and a disk that outlive it, and that misbehave when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tombolo::engine::{Edge, Engine, Journal, Looked, Setup, Want};
use tombolo::kernel::{Announcement, Error, Fake, Flow, Kernel, Observing, Placed, Removing};
use tombolo::records::Records;
use tombolo::store::{self, Put, Row};
use tombolo_core::kinds::options::Options;
use tombolo_core::kinds::{Spec, Theirs};
use tombolo_core::model::{Attach, IfName, Network, Subnet};
use tombolo_core::state::{Command, Ephemeral, HostPort, Reply, State};
use tombolo_core::world::{Step, World, diff};

/// Something that another task does.
type Elsewhere = Box<dyn FnOnce() + Send>;
/// Values by table and key.
type Rows = BTreeMap<(String, String), Vec<u8>>;

/// A kernel that outlives the engine, and may see it die in the middle of something.
#[derive(Clone)]
pub struct Mortal {
    pub kernel: Arc<Mutex<Fake>>,
    /// Steps until the process dies; the step itself is done.
    pub dies_in: Arc<Mutex<Option<usize>>>,
    /// What happens elsewhere while the next step is made.
    pub meanwhile: Arc<Mutex<Option<Elsewhere>>>,
}

impl Kernel for Mortal {
    fn observe(&mut self) -> impl Future<Output = Result<World, Error>> + Send {
        let kernel = self.kernel.clone();
        async move {
            let look = kernel.lock().unwrap().observe().now_or_never();
            look.expect("the fake never waits")
        }
    }

    fn observe_beside(&mut self) -> Observing {
        self.kernel.lock().unwrap().observe_beside()
    }

    async fn attach(&mut self, step: &Step, _: &Placed) -> Result<(), Error> {
        self.apply(step).await
    }

    async fn named_link(&mut self, _: &IfName) -> Result<Option<Theirs>, Error> {
        Ok(Some(Theirs::default()))
    }

    async fn detach(&mut self, _: &Step, _: &Path) -> Result<(), Error> {
        Ok(())
    }

    async fn sweep(&mut self, _: BTreeSet<IfName>) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    async fn apply_all(&mut self, steps: &[Step]) -> Vec<Result<(), Error>> {
        let mut results = Vec::new();
        for step in steps {
            results.push(self.apply(step).await);
        }
        results
    }

    fn remove_links(&mut self, removals: &[Step]) -> Removing {
        let (mut kernel, steps) = (self.clone(), removals.to_vec());
        Box::pin(async move { kernel.apply_all(&steps).await })
    }

    fn load(&mut self, elements: &World) -> impl Future<Output = Result<(), Error>> + Send {
        let loaded = self.kernel.lock().unwrap().load(elements).now_or_never();
        std::future::ready(loaded.expect("the fake never waits"))
    }

    fn forget(&mut self, flows: BTreeSet<Flow>) -> io::Result<()> {
        self.kernel.lock().unwrap().forget(flows)
    }

    fn announce(&mut self, announcements: &[Announcement]) -> io::Result<()> {
        self.kernel.lock().unwrap().announce(announcements)
    }

    fn forgotten(&mut self, _: Option<&[IpAddr]>, _: Instant) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }

    fn apply(&mut self, step: &Step) -> impl Future<Output = Result<(), Error>> + Send {
        let (kernel, dies_in, step) = (self.kernel.clone(), self.dies_in.clone(), step.clone());
        if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
            meanwhile();
        }
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
pub struct Disk {
    pub rows: Arc<Mutex<Rows>>,
    pub full: Arc<Mutex<bool>>,
    /// How long a write takes.
    pub slow: Arc<Mutex<Duration>>,
    pub writes: Arc<Mutex<usize>>,
    /// Which of the writes is refused, counted from 0.
    pub refuses: Arc<Mutex<Option<usize>>>,
    /// What happens elsewhere during a write, counted from 0.
    pub meanwhile: Arc<Mutex<Option<(usize, Elsewhere)>>>,
}

impl Journal for Disk {
    fn commit(&mut self, puts: &[Put]) -> Result<(), store::Error> {
        let write = {
            let mut writes = self.writes.lock().unwrap();
            *writes += 1;
            *writes - 1
        };
        std::thread::sleep(*self.slow.lock().unwrap());
        if let Some((_, meanwhile)) = self.meanwhile.lock().unwrap().take_if(|(at, _)| *at == write) {
            meanwhile();
        }
        let refused = *self.refuses.lock().unwrap() == Some(write);
        if std::mem::take(&mut *self.full.lock().unwrap()) || refused {
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
    pub fn load(&self) -> Records {
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

pub struct Scene {
    pub kernel: Mortal,
    pub disk: Disk,
    pub engine: Engine<Mortal, Disk>,
}

fn start(kernel: &Mortal, disk: &Disk, lost: bool) -> Engine<Mortal, Disk> {
    let records = disk.load();
    let meta = records.meta.clone();
    let (state, problems) = records.into_state();
    assert!(problems.is_empty(), "{problems:?}");
    let setup = Setup {
        carve: vec!["10.208.0.0/16:24".parse().unwrap()],
        host_binding: None,
        attach: Attach::Classic,
        driver: "tombolo".to_owned(),
        edge: Edge {
            now_s: || 0,
            port: |_, _, _| HostPort::Free,
            port_holder: |_, _, _| None,
            dead_link: |_| None,
            ephemeral: || Ephemeral {
                first: 32768,
                last: 60999,
                reserved: Vec::new(),
            },
        },
        settings: Vec::new(),
        ignored: Vec::new(),
        recovered: None,
        outside: Default::default(),
        wake: Default::default(),
    };
    Engine::new(state, meta, lost, kernel.clone(), disk.clone(), setup)
}

impl Scene {
    pub fn new() -> Self {
        let kernel = Mortal {
            kernel: Arc::new(Mutex::new(Fake::new())),
            dies_in: Arc::default(),
            meanwhile: Arc::default(),
        };
        Self::after(kernel, Disk::default())
    }

    /// The next start on a kernel and a disk that have seen another engine end.
    pub fn after(kernel: Mortal, disk: Disk) -> Self {
        let engine = start(&kernel, &disk, false);
        let mut scene = Self { kernel, disk, engine };
        scene.restart();
        scene
    }

    pub fn restart(&mut self) {
        *self.kernel.dies_in.lock().unwrap() = None;
        self.begin(false, false);
    }

    /// A start that finds an empty disk.
    pub fn first_start(&mut self) {
        self.begin(false, true);
    }

    fn begin(&mut self, lost: bool, fresh: bool) {
        self.engine = start(&self.kernel, &self.disk, lost);
        self.engine
            .settle_first(fresh)
            .now_or_never()
            .expect("nothing waits");
    }

    /// The next start finds no records, and knows that there were some.
    pub fn lose_records(&mut self) {
        self.disk.rows.lock().unwrap().clear();
        self.begin(true, false);
    }

    /// The reply, if the command was granted. A death is followed by the next start.
    pub fn ask(&mut self, command: &Command) -> Option<Reply> {
        self.ask_for(command, false)
    }

    /// The same; links of what is gone may still be there.
    pub fn ask_first(&mut self, command: &Command) -> Option<Reply> {
        self.ask_for(command, true)
    }

    /// Removes such links.
    pub fn remove_later(&mut self) {
        if self.engine.remove_later().now_or_never().is_none() {
            self.restart();
        }
    }

    /// Begins a look beside all else.
    pub fn begin_look(&mut self) {
        self.engine.begin_look(Want::repair("tick"));
    }

    /// Takes it in.
    pub fn take_look(&mut self) {
        if self.engine.await_look().now_or_never().is_none() {
            self.restart();
        }
    }

    fn ask_for(&mut self, command: &Command, first: bool) -> Option<Reply> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let looked = Looked::default();
        let may_wait = first && command.shrinks();
        let answer = self
            .engine
            .carry_out(command, &looked, deadline, may_wait)
            .now_or_never();
        match answer {
            Some(answer) => answer.ok().map(|(reply, _)| reply),
            None => {
                self.restart();
                None
            }
        }
    }

    pub fn found(&self) -> World {
        self.kernel.kernel.lock().unwrap().world()
    }

    /// The steps that would still have to be made.
    pub fn undone(&self) -> Vec<Step> {
        diff(&self.engine.state().world(), &self.found())
    }

    /// The records on the disk are those in memory.
    pub fn assert_stored(&self) {
        let (stored, problems) = self.disk.load().into_state();
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(text(&stored), text(self.engine.state()));
    }
}

/// A runtime with a clock, on this thread.
pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

pub fn text(state: &State) -> serde_json::Value {
    serde_json::to_value(Records::of(state, &BTreeMap::new())).unwrap()
}

/// A network of the bridge kind on `10.POOL.0.0/24`.
pub fn network(id: u8, pool: u8, internal: bool, v6: bool) -> Network {
    let subnet = |pool: String, gateway: String| Subnet {
        pool: pool.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        aux: Vec::new(),
        way_out: None,
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
        attach: None,
    }
}
