//! This host's part in a cluster while it has one: sockets, clocks and files around the node.
//!
//! ```text
//!   UDP ──open──┐                           ┌──seal──> UDP
//!   TLS ────────┼──> Node::step ──outputs───┼──> calls, each a task
//!   handle ─────┘       ▲                   ├──> Keep, Deal: the engine, waited for
//!                       └───── timers       └──> news, trust, rows
//! ```
//!
//! One task owns it all; it waits for nobody but the engine, which never waits for it.

mod datagrams;
mod door;
mod hidden;
mod inputs;
mod members;
mod news;
mod outputs;
mod own;
mod peers;
mod secrets;
mod tunnels;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, oneshot};
use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, How};
use tombolo_cluster::node::{Alone, Called, Input, Node, Setup, Standing, Wish, next_epoch};
use tombolo_cluster::store::Answer;
use tombolo_cluster::table::Limits;
use tombolo_cluster::time::Tick;
use tombolo_ipam::share::Share;

use super::certs::{Acceptor, Connector, HostKey, SharedTrust};
use super::draw;
use super::joining;
use super::keep::{Files, Keeper, NotKept};
use super::notes::Notes;
use super::seal::{Instance, Last, Opener, Sealer};
use super::secret::Secret;
use super::shown::{Shown, ShownNow};
use super::sight::{Noted, Sight};
use super::store::Store;
use super::tunnels::{Answerer, Asker};
use super::ways::Ways;
use crate::dns::Names;
use crate::engine::events::Events;
use crate::engine::{Ask, Outside};
use crate::replicas::{NETWORK, Replicas};
use datagrams::Suspicion;
use door::{doors, serve, sockets, trust};
use news::words;
use own::{ask_engine, endpoint_rows, group_rows, host_row, own_names};
use secrets::Rotation;
use tombolo_core::peers::HOST;

/// How often it is looked whether others are reached elsewhere than was written down.
const SEATS: Duration = Duration::from_secs(1);
/// How often all that is known of others is written down.
const REMEMBER: Duration = Duration::from_secs(30);
/// How often this host's routes and its address are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How long changes of this host are gathered before the cluster is told.
const GATHER: Duration = Duration::from_millis(10);
/// How often a secret that is missing is asked for.
const ASK_SECRET: Duration = Duration::from_secs(1);

/// What a part is made of, beside what it has kept.
#[derive(Clone)]
pub struct Around {
    /// The engine's queue.
    pub asks: mpsc::Sender<Ask>,
    /// What happens is told here.
    pub events: Events,
    /// Why this host may not lease, for the engine.
    pub outside: Outside,
    /// What requests are checked against.
    pub shown: Shown,
    /// Woken when something of this host has changed.
    pub wake: Arc<Notify>,
    /// The files.
    pub files: Files,
    /// This host's name.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Where others reach this host, looked up anew.
    pub advertise: fn(&crate::config::Advertise) -> Result<Vec<std::net::IpAddr>, String>,
    /// What the settings say of that.
    pub advertised: crate::config::Advertise,
    /// What to do where nobody answers.
    pub alone: Alone,
    /// The port of the tunnels between hosts.
    pub vxlan_port: u16,
    /// What decides, if it isn't the cluster itself.
    pub store: Option<Store>,
    /// Who has which name.
    pub names: Arc<Names>,
    /// The domain that names of containers are in.
    pub zone: String,
    /// Networks that are the same on all hosts.
    pub replicas: Arc<Replicas>,
}

/// What is asked of a part.
pub enum Request {
    /// Have a wish come true.
    Wish(Wish, oneshot::Sender<Result<(), String>>),
    /// Let the part be looked at, with the rows of hosts and endpoints or without.
    See(bool, oneshot::Sender<Sight>),
    /// Let tunnels be tried: who can ask the other hosts.
    Tunnels(oneshot::Sender<Result<Asker, String>>),
    /// Make a token to join with, good for so many seconds.
    Token(u64, oneshot::Sender<Result<(SocketAddr, String), String>>),
    /// Have another secret in force.
    Rotate(Option<Secret>, oneshot::Sender<Rotated>),
    /// Forget hosts, by name or identifier.
    Forget(Vec<String>, oneshot::Sender<Result<Vec<String>, String>>),
}

/// How a rotation ended: the number of the key in force, how many hosts have it, and the names of those that do not yet.
pub type Rotated = Result<(u32, usize, Vec<String>), String>;

/// What comes from tasks.
enum Came {
    Called(u64, HostId, Called),
    Asked {
        from: HostId,
        bytes: Vec<u8>,
        answer: oneshot::Sender<Vec<u8>>,
    },
    Secret {
        offered: Option<Vec<u8>>,
        answer: oneshot::Sender<Vec<u8>>,
    },
    Tunnel {
        from: HostId,
        bytes: Vec<u8>,
        answer: oneshot::Sender<Vec<u8>>,
    },
    Join(joining::Asking, oneshot::Sender<joining::Answer>),
    GotSecret(Option<Vec<u8>>),
    /// The hosts that are taken for dead and whose kernels have answered.
    Echoes(BTreeSet<HostId>),
    Staged(HostId, bool),
    Stored(u64, Result<Box<Answer>, String>),
}

/// Why a part ended.
#[derive(Debug)]
pub enum End {
    /// The daemon ends.
    Told,
    /// This host left the cluster.
    Left,
    /// Something could not be kept: it begins anew from what was.
    Broken(String),
}

/// This host's part.
pub struct Part {
    around: Around,
    keeper: Keeper,
    notes: Notes,
    node: Node,
    me: HostId,
    started: Instant,
    udp: Arc<UdpSocket>,
    sealer: Sealer,
    opener: Opener,
    secret: Secret,
    next: Option<Secret>,
    key: HostKey,
    trust: SharedTrust,
    acceptor: Arc<RwLock<Acceptor>>,
    connector: Connector,
    answerer: Answerer,
    came: mpsc::Sender<Came>,
    answers: BTreeMap<u64, oneshot::Sender<Vec<u8>>>,
    wishes: BTreeMap<u64, oneshot::Sender<Result<(), String>>>,
    joins: BTreeMap<u64, (joining::Asking, oneshot::Sender<joining::Answer>)>,
    ticket: u64,
    rotation: Option<Rotation>,
    clones: BTreeMap<HostId, Suspicion>,
    /// Where hosts were heard last.
    heard_at: BTreeMap<HostId, SocketAddr>,
    noted: Noted,
    /// The addresses by which others reach this host; the one that stands for it first.
    places: Vec<own::Place>,
    /// The ways to the hosts that have several.
    ways: Ways,
    /// What the engine was told of other hosts.
    told: peers::Told,
    /// When hosts were told that they speak in an epoch that is over.
    behind: BTreeMap<HostId, Instant>,
    left: bool,
    leave_ticket: Option<u64>,
    keep_heard: bool,
    asking_secret: bool,
    /// When a question for a secret was answered, or not, last.
    secret_asked: Option<Instant>,
}

/// Why a part can't begin.
#[derive(Debug, thiserror::Error)]
#[error("this host's part in the cluster can't begin: {0}")]
pub struct NoPart(pub String);

fn no(what: &'static str) -> impl Fn(String) -> NoPart {
    move |why| NoPart(format!("{what}: {why}"))
}

impl Part {
    /// Begins from what was kept. Gives it with what comes from its tasks.
    ///
    /// # Errors
    /// [`NoPart`].
    pub async fn begin(around: Around, mut keeper: Keeper) -> Result<(Running, Part), NoPart> {
        let me: HostId = keeper
            .read("host")
            .ok_or_else(|| NoPart("its identifier is missing".to_owned()))?;
        let charter: Charter = keeper
            .read("charter")
            .ok_or_else(|| NoPart("what was decided is missing".to_owned()))?;
        if let Some(why) = other_store(&charter, around.store.as_ref()) {
            return Err(NoPart(why));
        }
        let secret =
            Secret::read(&around.files.secret()).map_err(|e| no("the secret")(crate::http::chain(&e)))?;
        let next = Secret::read(&around.files.next_secret()).ok();
        let key = HostKey::read(&around.files.host_key())
            .map_err(|e| no("the host's key")(crate::http::chain(&e)))?;
        let addresses = (around.advertise)(&around.advertised).map_err(no("advertise"))?;
        let address = addresses.first().copied();
        let address = address.ok_or_else(|| no("advertise")("no address".to_owned()))?;
        let address = SocketAddr::new(address, around.port);
        let refused = |e: super::Refused| NoPart(e.to_string());
        // What fails, and is tried again each second, comes before an epoch is used up.
        let (udp, tcp) = sockets(address).await.map_err(|e| {
            NoPart(format!(
                "port {} of UDP and TCP: {e}; end what has it, or set cluster_port",
                address.port()
            ))
        })?;
        let seed = u64::from_be_bytes(draw().map_err(refused)?);
        let epoch = next_epoch(keeper.read::<u32>("epoch").unwrap_or(0), seed);
        keeper
            .keep(vec![(
                "epoch".to_owned(),
                Some(tombolo_cluster::wire::encode(&epoch)),
            )])
            .await
            .map_err(|e| NoPart(e.to_string()))?;
        let instance = Instance(draw().map_err(refused)?);
        let sealer = Sealer::new(&secret, me, epoch, instance).map_err(refused)?;
        let members: BTreeSet<HostId> = charter.hosts.keys().copied().collect();
        let last: BTreeMap<HostId, Last> = keeper.read("heard").unwrap_or_default();
        let opener = Opener::new(me, &secret, &members, &last);
        let (forgotten, networks) = around.replicas.begin(me, keeper.below(NETWORK));
        keeper.keep(forgotten).await.map_err(|e| NoPart(e.to_string()))?;
        let told = ask_engine(&around.asks, true)
            .await
            .ok_or_else(|| NoPart("the engine has ended".to_owned()))?;
        around.names.hear(own_names(&told, me), me);
        let places = own::places(addresses).await;
        let seats = around.files.read_seats();
        let notes = Notes::new(around.files.clone(), seats.clone());
        let witnessed = keeper.below("witness/").into_iter().filter_map(|(key, bytes)| {
            let (host, pool) = key.split_once('/')?;
            let share: Share = tombolo_cluster::wire::decode(&bytes)?;
            Some(((pool.parse().ok()?, host.parse().ok()?), share))
        });
        let lives = keeper.below("life/").into_iter();
        let lives = lives
            .filter_map(|(key, bytes)| Some((key.parse().ok()?, tombolo_cluster::wire::decode(&bytes)?)));
        let mut rows: Vec<(String, Vec<u8>)> = vec![(HOST.to_owned(), host_row(&around, &places))];
        rows.extend(
            endpoint_rows(&told, address.ip())
                .into_iter()
                .chain(group_rows(&told, address.ip()))
                .chain(networks)
                .filter_map(|(key, row)| Some((key, row?))),
        );
        let setup = Setup {
            me,
            epoch,
            address,
            seed,
            charter,
            acceptor: keeper.read("acceptor"),
            witnessed: witnessed.collect(),
            lives: lives.collect(),
            shares: told.shares.clone(),
            rows,
            remembered: around.files.read_rows(),
            seats,
            alone: around.alone,
            limits: Limits::default(),
        };
        let node = Node::new(Tick(0), setup).map_err(|e| NoPart(e.to_string()))?;
        let trust = SharedTrust::new(
            trust(node.charter(), &secret, next.as_ref()).map_err(|e| NoPart(e.to_string()))?,
        );
        let (acceptor, connector) =
            doors(node.charter(), &secret, me, &key, &trust).map_err(|e| NoPart(e.to_string()))?;
        let (came, coming) = mpsc::channel(1024);
        let acceptor = Arc::new(RwLock::new(acceptor));
        let serving = tokio::spawn(serve(tcp, acceptor.clone(), came.clone()));
        let part = Self {
            answerer: Answerer::new(around.asks.clone()),
            around,
            keeper,
            notes,
            node,
            me,
            started: Instant::now(),
            udp: Arc::new(udp),
            sealer,
            opener,
            secret,
            next,
            key,
            trust,
            acceptor,
            connector,
            came,
            answers: BTreeMap::new(),
            wishes: BTreeMap::new(),
            joins: BTreeMap::new(),
            ticket: 1 << 40,
            rotation: None,
            clones: BTreeMap::new(),
            heard_at: BTreeMap::new(),
            noted: Noted::default(),
            places,
            ways: Ways::default(),
            told: peers::Told::beginning(),
            behind: BTreeMap::new(),
            left: false,
            leave_ticket: None,
            keep_heard: false,
            asking_secret: false,
            secret_asked: None,
        };
        let fills = Input::Pools(told.fills);
        Ok((
            Running {
                coming,
                serving,
                fills: Some(fills),
            },
            part,
        ))
    }

    /// Takes part until told to end.
    pub async fn run(
        mut self,
        mut running: Running,
        requests: &mut mpsc::Receiver<Request>,
        end: &mut oneshot::Receiver<()>,
    ) -> (End, Keeper) {
        let ended = self.take_part(&mut running, requests, end).await;
        if matches!(ended, End::Told)
            && let Err(why) = self.tell_changes(false).await
        {
            tracing::warn!(%why, "what had changed last was not kept");
        }
        self.around.replicas.end();
        running.serving.abort();
        self.notes.settled().await;
        if !self.left {
            self.remember().await;
            self.notes.settled().await;
        }
        (ended, self.keeper)
    }

    async fn take_part(
        &mut self,
        running: &mut Running,
        requests: &mut mpsc::Receiver<Request>,
        end: &mut oneshot::Receiver<()>,
    ) -> End {
        let mut buffer = vec![0; 2048];
        let mut remember = tokio::time::interval(REMEMBER);
        remember.tick().await;
        let mut seats = tokio::time::interval(SEATS);
        seats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK);
        let mut gathered: Option<tokio::time::Instant> = None;
        let mut left_at: Option<tokio::time::Instant> = None;
        let wake = self.around.wake.clone();
        let udp = self.udp.clone();
        self.charter_changed().await;
        self.stand();
        if let Some(fills) = running.fills.take()
            && let Err(why) = self.step(fills).await
        {
            return End::Broken(why);
        }
        loop {
            let due = self.started + Duration::from_millis(self.node.due().0);
            // In no order: datagrams that never end must leave the others their turn.
            let stepped = tokio::select! {
                _ = &mut *end => return End::Told,
                readable = udp.readable() => match readable {
                    Ok(()) => self.datagrams(&udp, &mut buffer).await,
                    Err(error) => Err(format!("the socket: {error}")),
                },
                Some(came) = running.coming.recv() => self.came(came).await,
                Some(request) = requests.recv() => self.request(request).await,
                () = tokio::time::sleep_until(due.into()) => self.step(Input::Tick).await,
                () = wake.notified(), if gathered.is_none() => {
                    gathered = Some(tokio::time::Instant::now() + GATHER);
                    Ok(())
                }
                () = until(gathered) => {
                    gathered = None;
                    self.tell_changes(false).await
                }
                () = until(self.told.due()) => {
                    self.tell_all_peers();
                    Ok(())
                }
                () = until(self.ways.due().map(Into::into)) => {
                    self.ask_ways();
                    Ok(())
                }
                _ = look.tick() => self.look().await,
                _ = seats.tick() => {
                    self.notes.seats(self.node.seats());
                    Ok(())
                }
                _ = remember.tick() => {
                    self.remember().await;
                    Ok(())
                }
                () = until(left_at) => return End::Left,
            };
            if let Err(why) = stepped {
                return End::Broken(why);
            }
            self.tell_peers().await;
            if self.told.hidden.has_fresh() {
                // If this host begins anew meanwhile, there is nobody to tell it what leads to that one's containers.
                remember.reset_immediately();
            }
            if self.left && left_at.is_none() {
                // The last words are on their way for a moment.
                left_at = Some(tokio::time::Instant::now() + Duration::from_millis(500));
            }
        }
    }

    fn now(&self) -> Tick {
        Tick(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Feeds the node, and carries out what comes of it. An error means that something was not kept.
    async fn step(&mut self, input: Input) -> Result<(), String> {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let wall = crate::host::now_s().saturating_mul(1000);
            let outputs = self.node.step(self.now(), wall, input);
            for output in outputs {
                self.carry_out(output, &mut inputs).await?;
            }
        }
        Ok(())
    }

    /// What was decided has changed: who is let in, and which secret is in force.
    async fn charter_changed(&mut self) {
        let charter = self.node.charter();
        let members: BTreeSet<HostId> = charter.hosts.keys().copied().collect();
        self.opener.set_members(&members);
        self.clones.retain(|host, _| members.contains(host));
        self.heard_at.retain(|host, _| members.contains(host));
        self.behind.retain(|host, _| members.contains(host));
        self.noted.keep(&members);
        let named = members.iter().map(|host| (*host, self.node.name(host)));
        self.around.replicas.members(named.collect());
        if charter.secret.number > self.secret.number() {
            let (number, check) = (charter.secret.number, charter.secret.check);
            match self
                .next
                .take_if(|next| next.number() == number && next.check() == check)
            {
                Some(next) => self.turn_over(next),
                None => self.ask_secret(),
            }
        }
        self.trust_anew();
        self.told.count_again();
        self.show();
    }

    /// Says to the engine whether this host may lease.
    fn stand(&self) {
        let why = match self.node.standing() {
            Standing::Confirmed | Standing::Alone => None,
            other => Some(words(other, self.node.charter().by_store)),
        };
        self.around.outside.set(why);
    }

    /// Says what requests are checked against.
    fn show(&self) {
        let charter = self.node.charter();
        let mut routes = Vec::new();
        let wires = charter
            .hosts
            .keys()
            .filter(|host| **host != self.me)
            .filter_map(|host| self.host_row_of(host)?.mtu);
        let wire_mtu = wires.chain(own::mtu(&self.places)).min();
        let table = self.node.table();
        let shown = table
            .hosts()
            .filter(|(.., standing)| *standing == tombolo_cluster::table::Standing::Shown);
        for (host, ..) in shown.filter(|(host, ..)| *host != self.me) {
            if let Some(body) = table.get(host, "routes") {
                // A row that can't be read says nothing.
                let nets: Vec<IpNet> = serde_json::from_slice(body).unwrap_or_default();
                let name = self.node.name(&host);
                routes.extend(nets.into_iter().map(|net| (net, name.clone())));
            }
        }
        self.around.shown.set(ShownNow {
            pools: charter
                .pools
                .iter()
                .map(|(pool, founded)| (*pool, founded.definition.clone()))
                .collect(),
            routes,
            wire_mtu,
            vtep: Some(self.node.seat().address.ip()),
            member: true,
            beginning: false,
            left: !charter.hosts.contains_key(&self.me)
                && charter
                    .gone
                    .get(&self.me)
                    .is_some_and(|gone| gone.how == How::Left),
            out: None,
        });
    }

    /// Keeps how far others were heard, so that nothing of theirs is taken twice.
    async fn keep_heard(&mut self) -> Result<(), NotKept> {
        let heard = tombolo_cluster::wire::encode(&self.opener.last());
        self.keeper.keep(vec![("heard".to_owned(), Some(heard))]).await
    }

    /// Writes down what is known of others.
    async fn remember(&mut self) {
        self.notes.all(self.node.seats(), || self.node.remember());
        if let Err(error) = self.keep_heard().await {
            tracing::warn!(%error, "how far others were heard was not kept");
        }
    }
}

/// What belongs to a part's run.
pub struct Running {
    coming: mpsc::Receiver<Came>,
    serving: tokio::task::JoinHandle<()>,
    fills: Option<Input>,
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Why a cluster of this charter can't be taken part in with this store, or without one.
fn other_store(charter: &Charter, store: Option<&Store>) -> Option<String> {
    match (charter.by_store, store) {
        (true, None) => Some(
            "this cluster was begun with a store that decides, and the setting store (TOMBOLO_STORE) is own: set it as on the \
             other hosts"
                .to_owned(),
        ),
        (false, Some(store)) => Some(format!(
            "this cluster was begun with its own hosts deciding, and the setting store (TOMBOLO_STORE) is {}: set it to own, \
             or leave the cluster and begin one anew",
            store.name()
        )),
        _ => None,
    }
}
