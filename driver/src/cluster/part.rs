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

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, Definition, How};
use tombolo_cluster::node::{Alone, Called, Input, News, Node, Output, Setup, Standing, Wish};
use tombolo_cluster::store::Answer;
use tombolo_cluster::table::Limits;
use tombolo_cluster::time::Tick;
use tombolo_core::state::{Command, Reply};
use tombolo_ipam::share::Share;

use super::calls::{self, FOR_NODE, FOR_SECRET, NEXT_SECRET};
use super::certs::{Acceptor, Authority, ClusterId, Connector, HostKey, Print, SharedTrust, Trust, Who};
use super::draw;
use super::joining;
use super::keep::{Files, Keeper};
use super::notes::Notes;
use super::seal::{Instance, Last, Opener, Sealer, To, Why};
use super::secret::Secret;
use super::sight::{Noted, Sight};
use super::store::Store;
use crate::engine::events::{Events, What};
use crate::engine::shared::Told;
use crate::engine::{Ask, Looked, Outside};

/// How many datagrams are taken in one go before anything else has its turn.
const BURST: usize = 256;
/// How large the kernel's queue of datagrams is to be, in bytes.
const QUEUE: usize = 4 << 20;
/// How many connections are served at a time.
const CONNECTIONS: usize = 256;
/// How often it is looked whether others are reached elsewhere than was written down.
const SEATS: Duration = Duration::from_secs(1);
/// How often all that is known of others is written down.
const REMEMBER: Duration = Duration::from_secs(30);
/// How often this host's routes and its address are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How long the engine may take for a deal.
const DEAL: Duration = Duration::from_secs(5);
/// How long changes of this host are gathered before the cluster is told.
const GATHER: Duration = Duration::from_millis(10);
/// How long the secret before is taken after another came into force.
const OVERLAP: Duration = Duration::from_secs(60);
/// How often a secret that is missing is asked for.
const ASK_SECRET: Duration = Duration::from_secs(1);
/// How often two hosts with one identifier are told of each other.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// How many rows of routes are told to others at most.
const ROUTES: usize = 128;

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
    pub advertise: fn(&crate::config::Advertise) -> Result<std::net::IpAddr, String>,
    /// What the settings say of that.
    pub advertised: crate::config::Advertise,
    /// What to do where nobody answers.
    pub alone: Alone,
    /// What decides, if it isn't the cluster itself.
    pub store: Option<Store>,
}

/// What requests are checked against without asking anybody.
#[derive(Debug, Clone, Default)]
pub struct Shown(Arc<RwLock<Arc<ShownNow>>>);

/// One state of it.
#[derive(Debug, Clone, Default)]
pub struct ShownNow {
    /// The pools of the cluster.
    pub pools: BTreeMap<IpNet, Definition>,
    /// The routes of the other hosts, with these hosts' names.
    pub routes: Vec<(IpNet, String)>,
    /// Whether this host is in a cluster.
    pub member: bool,
    /// Why it is in none though its settings name one, if so.
    pub out: Option<String>,
}

impl Shown {
    /// As it is now.
    pub fn get(&self) -> Arc<ShownNow> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says how it is.
    pub fn set(&self, now: ShownNow) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
    }
}

/// What is asked of a part.
pub enum Request {
    /// Have a wish come true.
    Wish(Wish, oneshot::Sender<Result<(), String>>),
    /// Let the part be looked at, with the rows of hosts and endpoints or without.
    See(bool, oneshot::Sender<Sight>),
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
    Join(joining::Asking, oneshot::Sender<joining::Answer>),
    GotSecret(Option<Vec<u8>>),
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

/// A rotation under way.
struct Rotation {
    secret: Secret,
    waiting: BTreeSet<HostId>,
    without: Vec<HostId>,
    until: Instant,
    answer: Option<oneshot::Sender<Rotated>>,
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
    came: mpsc::Sender<Came>,
    answers: BTreeMap<u64, oneshot::Sender<Vec<u8>>>,
    wishes: BTreeMap<u64, oneshot::Sender<Result<(), String>>>,
    joins: BTreeMap<u64, (joining::Asking, oneshot::Sender<joining::Answer>)>,
    ticket: u64,
    rotation: Option<Rotation>,
    clones: BTreeMap<HostId, Suspicion>,
    /// Where hosts were heard last.
    places: BTreeMap<HostId, SocketAddr>,
    noted: Noted,
    /// When hosts were told that they speak in an epoch that is over.
    behind: BTreeMap<HostId, Instant>,
    left: bool,
    leave_ticket: Option<u64>,
    keep_heard: bool,
    asking_secret: bool,
    /// When a question for a secret was answered, or not, last.
    secret_asked: Option<Instant>,
}

/// Signs that two hosts have one identifier.
struct Suspicion {
    signs: u32,
    first: Instant,
    told: Option<Instant>,
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
        let address = (around.advertise)(&around.advertised).map_err(no("advertise"))?;
        let address = SocketAddr::new(address, around.port);
        let epoch = keeper.read::<u32>("epoch").unwrap_or(0).saturating_add(1);
        keeper
            .keep(vec![(
                "epoch".to_owned(),
                Some(tombolo_cluster::wire::encode(&epoch)),
            )])
            .await
            .map_err(|e| NoPart(e.to_string()))?;
        let (udp, tcp) = sockets(address).await.map_err(|e| {
            NoPart(format!(
                "port {} of UDP and TCP: {e}; end what has it, or set cluster_port",
                address.port()
            ))
        })?;
        let refused = |e: super::Refused| NoPart(e.to_string());
        let instance = Instance(draw().map_err(refused)?);
        let sealer = Sealer::new(&secret, me, epoch, instance).map_err(refused)?;
        let members: BTreeSet<HostId> = charter.hosts.keys().copied().collect();
        let last: BTreeMap<HostId, Last> = keeper.read("heard").unwrap_or_default();
        let opener = Opener::new(me, &secret, &members, &last);
        let told = ask_engine(&around.asks, true)
            .await
            .ok_or_else(|| NoPart("the engine has ended".to_owned()))?;
        let seats = around.files.read_seats();
        let notes = Notes::new(around.files.clone(), seats.clone());
        let seed = u64::from_be_bytes(draw().map_err(refused)?);
        let witnessed = keeper.below("witness/").into_iter().filter_map(|(key, bytes)| {
            let (host, pool) = key.split_once('/')?;
            let share: Share = tombolo_cluster::wire::decode(&bytes)?;
            Some(((pool.parse().ok()?, host.parse().ok()?), share))
        });
        let mut rows: Vec<(String, Vec<u8>)> = vec![("host".to_owned(), host_row(&around.name))];
        rows.extend(
            endpoint_rows(&told, address.ip())
                .into_iter()
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
            places: BTreeMap::new(),
            noted: Noted::default(),
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

    async fn carry_out(
        &mut self,
        output: Output,
        inputs: &mut std::collections::VecDeque<Input>,
    ) -> Result<(), String> {
        match output {
            Output::Keep(records) => self.keeper.keep(records).await.map_err(|e| e.to_string())?,
            Output::Send { to, address, bytes } => self.send(to, address, &bytes),
            Output::Call {
                call,
                to,
                address,
                bytes,
            } => {
                let (connector, came) = (self.connector.clone(), self.came.clone());
                tokio::spawn(async move {
                    let outcome = calls::call(&connector, address, to, FOR_NODE, &bytes).await;
                    // A part that has ended needs no answer.
                    let called = calls::called(outcome);
                    came.send(Came::Called(call, to, called)).await.ok();
                });
            }
            Output::Answer { call, bytes } => {
                if let Some(answer) = self.answers.remove(&call) {
                    answer.send(bytes).ok();
                }
            }
            Output::Share { pool, ticket, deal } => {
                let share = self.deal(Command::Deal(pool, deal)).await;
                inputs.push_back(Input::Shared { pool, ticket, share });
            }
            Output::Store { ticket, known, ask } => {
                // A part of a cluster that a store decides for doesn't begin without one.
                let Some(store) = self.around.store.clone() else {
                    return Ok(());
                };
                let (cluster, came) = (self.node.charter().cluster, self.came.clone());
                tokio::spawn(async move {
                    let asked = store.ask(cluster, known, &ask).await;
                    let answer = asked.map(Box::new).map_err(|e| e.to_string());
                    came.send(Came::Stored(ticket, answer)).await.ok();
                });
            }
            Output::Done { ticket, outcome } => self.done(ticket, outcome),
            Output::Epoch(epoch) => self.begin_epoch(epoch).await?,
            Output::Charter => self.charter_changed().await,
            Output::Tell(news) => self.tell(news),
            Output::Seen(seen) => {
                if seen.iter().any(|row| row.key.as_str() == "routes") {
                    self.show();
                }
            }
        }
        Ok(())
    }

    /// Keeps another epoch, and seals in it.
    async fn begin_epoch(&mut self, epoch: u32) -> Result<(), String> {
        let record = vec![("epoch".to_owned(), Some(tombolo_cluster::wire::encode(&epoch)))];
        self.keeper.keep(record).await.map_err(|e| e.to_string())?;
        let text = |e: super::Refused| e.to_string();
        let instance = Instance(draw().map_err(text)?);
        self.sealer = Sealer::new(&self.secret, self.me, epoch, instance).map_err(text)?;
        tracing::info!(epoch, "this host speaks in another epoch");
        Ok(())
    }

    fn send(&mut self, to: HostId, address: SocketAddr, bytes: &[u8]) {
        match self.sealer.seal(To::Host(to), bytes) {
            // A full queue, or a way that is gone: datagrams may be lost.
            Ok(sealed) => self.noted.sent(&self.udp.try_send_to(&sealed, address)),
            Err(error) => tracing::error!(%error, "a datagram was not sealed"),
        }
    }

    async fn deal(&self, command: Command) -> Result<Option<Share>, String> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Do {
            command,
            looked: Looked::default(),
            deadline: Instant::now() + DEAL,
            answer,
        };
        let gone = |_| "the engine has ended".to_owned();
        self.around.asks.send(ask).await.map_err(|_| gone(()))?;
        match answered.await.map_err(|_| gone(()))? {
            Ok(Reply::Share(share)) => Ok(share),
            Ok(other) => Err(format!("the engine answered {other:?}")),
            Err(error) => Err(crate::http::chain(&error)),
        }
    }

    /// Takes what has come, as much as may be in one go.
    async fn datagrams(&mut self, udp: &UdpSocket, buffer: &mut [u8]) -> Result<(), String> {
        for _ in 0..BURST {
            let (length, from) = match udp.try_recv_from(buffer) {
                Ok(got) => got,
                // Nothing more, or a report of what was sent before.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => continue,
            };
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            let now = self.now();
            let Some(bytes) = buffer.get_mut(..length) else {
                continue;
            };
            self.noted.received(length);
            let opened = self.opener.open(now, from, bytes);
            if let Err(why) = &opened {
                self.noted.dropped(why, from);
            }
            let input = match opened {
                Ok(opened) => {
                    self.keep_heard |= opened.first;
                    self.places.insert(opened.sender, from);
                    Input::Datagram {
                        from: opened.sender,
                        address: from,
                        bytes: opened.plain.to_vec(),
                    }
                }
                Err(Why::Clone { sender, from, .. } | Why::StillAlive { sender, from, .. }) => {
                    match self.suspect(sender, from) {
                        Some(input) => input,
                        None => continue,
                    }
                }
                Err(Why::OldEpoch { sender, .. }) => match self.is_behind(sender, from) {
                    Some(input) => input,
                    None => continue,
                },
                Err(Why::NewKey) => {
                    self.ask_secret();
                    continue;
                }
                Err(_) => continue,
            };
            self.step(input).await?;
            if std::mem::take(&mut self.keep_heard) {
                let heard = tombolo_cluster::wire::encode(&self.opener.last());
                self.keeper
                    .keep(vec![("heard".to_owned(), Some(heard))])
                    .await
                    .map_err(|e| e.to_string())?;
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Signs that a host runs twice: one may be a datagram that was held up, several over some time are proof.
    fn suspect(&mut self, host: HostId, from: SocketAddr) -> Option<Input> {
        let now = Instant::now();
        let suspicion = self.clones.entry(host).or_insert(Suspicion {
            signs: 0,
            first: now,
            told: None,
        });
        if now.duration_since(suspicion.first) > Duration::from_secs(60) {
            *suspicion = Suspicion {
                signs: 0,
                first: now,
                told: suspicion.told,
            };
        }
        suspicion.signs = suspicion.signs.saturating_add(1);
        let proof = suspicion.signs >= 3 && now.duration_since(suspicion.first) > Duration::from_secs(1);
        let told = suspicion
            .told
            .is_some_and(|told| now.duration_since(told) < TELL_AGAIN);
        if !proof || told {
            return None;
        }
        suspicion.told = Some(now);
        let other = self.places.get(&host).copied().unwrap_or(from);
        self.noted.cloned(host, from, other);
        Some(Input::Cloned {
            host,
            one: from,
            other,
            epoch: self.opener.epoch(&host).unwrap_or(0),
        })
    }

    /// A host may speak in an epoch that is over: it is told, now and then, as this is not proved.
    fn is_behind(&mut self, host: HostId, from: SocketAddr) -> Option<Input> {
        let now = Instant::now();
        let told = self.behind.get(&host);
        if told.is_some_and(|told| now.duration_since(*told) < ASK_SECRET) {
            return None;
        }
        let epoch = self.opener.epoch(&host)?;
        self.behind.insert(host, now);
        Some(Input::Behind {
            host,
            address: from,
            epoch,
        })
    }

    async fn came(&mut self, came: Came) -> Result<(), String> {
        match came {
            Came::Called(call, host, answer) => {
                self.noted.called(host, &answer);
                self.step(Input::Answered { call, answer }).await
            }
            Came::Asked { from, bytes, answer } => {
                self.noted.taken(from);
                self.ticket += 1;
                let call = self.ticket;
                self.answers.retain(|_, answer| !answer.is_closed());
                self.answers.insert(call, answer);
                self.step(Input::Request { call, from, bytes }).await
            }
            Came::Secret { offered, answer } => {
                let said = match offered {
                    Some(offered) => self.stage(&offered),
                    None => self.secrets(),
                };
                answer.send(said).ok();
                Ok(())
            }
            Came::Join(asking, answer) => self.asked_to_join(asking, answer).await,
            Came::GotSecret(got) => {
                self.asking_secret = false;
                self.secret_asked = Some(Instant::now());
                self.take_secrets(got.unwrap_or_default());
                Ok(())
            }
            Came::Staged(host, staged) => self.staged(host, staged).await,
            Came::Stored(ticket, outcome) => self.step(Input::Stored { ticket, outcome }).await,
        }
    }

    async fn request(&mut self, request: Request) -> Result<(), String> {
        match request {
            Request::Wish(wish, answer) => {
                self.ticket += 1;
                let ticket = self.ticket;
                if wish == Wish::Leave {
                    self.leave_ticket = Some(ticket);
                    // A network that was removed just now is in the way no more.
                    self.tell_changes(false).await?;
                }
                self.wishes.insert(ticket, answer);
                self.step(Input::Wish { ticket, wish }).await
            }
            Request::See(with_rows, answer) => {
                let told = |key: &str| key == "host" || key.starts_with(tombolo_core::peers::ENDPOINT);
                let rows = self
                    .node
                    .table()
                    .visible()
                    .filter(|(_, key, _)| with_rows && told(key.as_str()));
                let rows = rows.map(|(host, key, body)| (host, key.to_string(), body.to_vec()));
                let sight = Sight {
                    cluster: self.node.charter().cluster,
                    view: self.node.view(),
                    rows: rows.collect(),
                    counts: self.opener.counts(),
                    noted: self.noted.clone(),
                    store: self.around.store.as_ref().map(|store| {
                        let fault = self.node.store_fault().map(str::to_owned);
                        (store.name().to_owned(), fault)
                    }),
                };
                answer.send(sight).ok();
                Ok(())
            }
            Request::Token(ttl_s, answer) => {
                let token = self.token(ttl_s).map(|token| (self.node.seat().address, token));
                answer.send(token).ok();
                Ok(())
            }
            Request::Forget(names, answer) => self.forget(&names, answer).await,
            Request::Rotate(secret, answer) => self.rotate(secret, answer).await,
        }
    }

    fn token(&self, ttl_s: u64) -> Result<String, String> {
        let authority = Authority::of(&self.secret).map_err(|e| e.to_string())?;
        let nonce = draw().map_err(|e| e.to_string())?;
        let token = super::token::Token::issue(
            &self.secret,
            authority.print(),
            crate::host::now_s(),
            ttl_s,
            nonce,
        );
        Ok(token.text())
    }

    async fn forget(
        &mut self,
        names: &[String],
        answer: oneshot::Sender<Result<Vec<String>, String>>,
    ) -> Result<(), String> {
        let mut hosts = BTreeMap::new();
        let mut wrong = Vec::new();
        for name in names {
            let charter = self.node.charter();
            let called = |(id, member): &(&HostId, &tombolo_cluster::charter::Member)| {
                member.name == *name || (name.len() >= 8 && id.to_string().starts_with(name.as_str()))
            };
            let found: Vec<(HostId, String)> = charter
                .hosts
                .iter()
                .filter(called)
                .map(|(id, m)| (*id, m.name.clone()))
                .collect();
            match found.as_slice() {
                [(id, name)] => drop(hosts.insert(*id, name.clone())),
                [] => wrong.push(format!("no host is called '{}'", tombolo_core::model::cut(name))),
                _ => wrong.push(format!(
                    "{} hosts are called '{}': name one by its identifier",
                    found.len(),
                    tombolo_core::model::cut(name)
                )),
            }
        }
        if !wrong.is_empty() || hosts.is_empty() {
            let known: Vec<String> = self
                .node
                .charter()
                .hosts
                .values()
                .map(|member| member.name.clone())
                .collect();
            answer
                .send(Err(format!(
                    "{}; the hosts are: {}",
                    wrong.join("; "),
                    known.join(", ")
                )))
                .ok();
            return Ok(());
        }
        let (done, decided) = oneshot::channel();
        self.ticket += 1;
        let ticket = self.ticket;
        self.wishes.insert(ticket, done);
        let forgotten: Vec<String> = hosts.values().cloned().collect();
        tokio::spawn(async move {
            let outcome = decided
                .await
                .unwrap_or_else(|_| Err("tombolo is shutting down".to_owned()));
            answer.send(outcome.map(|()| forgotten)).ok();
        });
        self.step(Input::Wish {
            ticket,
            wish: Wish::Forget(hosts.into_keys().collect()),
        })
        .await
    }

    fn done(&mut self, ticket: u64, outcome: Result<(), String>) {
        if self.leave_ticket == Some(ticket) {
            self.leave_ticket = None;
            self.left = outcome.is_ok();
        }
        if let Some(answer) = self.wishes.remove(&ticket) {
            answer.send(outcome.clone()).ok();
        }
        if let Some((asking, answer)) = self.joins.remove(&ticket) {
            answer.send(self.join_answer(&asking, outcome)).ok();
        }
    }

    /// Somebody is at the door, with a token.
    async fn asked_to_join(
        &mut self,
        asking: joining::Asking,
        answer: oneshot::Sender<joining::Answer>,
    ) -> Result<(), String> {
        let verified = Authority::of(&self.secret)
            .map_err(|e| e.to_string())
            .and_then(|authority| {
                let token = super::token::Token::parse(&asking.token).map_err(|e| e.to_string())?;
                token
                    .verify(&self.secret, authority.print(), crate::host::now_s())
                    .map_err(|e| e.to_string())
            });
        let verified = verified.and_then(|()| {
            match self.around.store.as_ref().filter(|_| !asking.by_store) {
                _ if self.around.store.is_some() == asking.by_store => Ok(()),
                Some(store) => Err(format!(
                    "in this cluster the store {} decides, and on that host no setting names it: set TOMBOLO_STORE there",
                    store.name()
                )),
                None => Err(
                    "in this cluster its own hosts decide, and on that host TOMBOLO_STORE names a store: leave it out there"
                        .to_owned(),
                ),
            }
        });
        if let Err(why) = verified {
            tracing::warn!(host = %asking.host, name = %tombolo_core::model::cut(&asking.name), %why, "a host was not let in");
            answer.send(joining::Answer::Refused(why)).ok();
            return Ok(());
        }
        if let Some(gone) = self.gone(&asking.host) {
            answer.send(gone).ok();
            return Ok(());
        }
        self.ticket += 1;
        let ticket = self.ticket;
        let wish = Wish::Admit {
            host: asking.host,
            name: asking.name.clone(),
            key: asking.key,
        };
        self.joins.insert(ticket, (asking, answer));
        self.step(Input::Wish { ticket, wish }).await
    }

    /// The answer to one who is gone.
    fn gone(&self, host: &HostId) -> Option<joining::Answer> {
        let gone = self.node.charter().gone.get(host)?;
        let how = match gone.how {
            How::Left => "left",
            How::Forgotten { .. } => "was forgotten by",
        };
        Some(joining::Answer::Gone(format!(
            "it {how} the cluster at decree {}",
            gone.at
        )))
    }

    fn join_answer(&self, asking: &joining::Asking, outcome: Result<(), String>) -> joining::Answer {
        match outcome {
            Err(why) => self.gone(&asking.host).unwrap_or(joining::Answer::Refused(why)),
            Ok(()) => joining::Answer::Welcome {
                secret: self.secret.text().to_string(),
                charter: Box::new(self.node.charter().clone()),
                seats: self
                    .node
                    .seats()
                    .filter(|seat| seat.host != asking.host)
                    .cloned()
                    .chain([self.node.seat().clone()])
                    .collect(),
            },
        }
    }

    /// What was decided has changed: who is let in, and which secret is in force.
    async fn charter_changed(&mut self) {
        let charter = self.node.charter();
        let members: BTreeSet<HostId> = charter.hosts.keys().copied().collect();
        self.opener.set_members(&members);
        self.clones.retain(|host, _| members.contains(host));
        self.places.retain(|host, _| members.contains(host));
        self.behind.retain(|host, _| members.contains(host));
        self.noted.keep(&members);
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
        self.show();
    }

    fn trust_anew(&mut self) {
        match trust(self.node.charter(), &self.secret, self.next.as_ref()) {
            Ok(trust) => self.trust.set(trust),
            Err(error) => tracing::error!(%error, "who is let in could not be made anew"),
        }
    }

    /// Another secret is in force.
    fn turn_over(&mut self, secret: Secret) {
        if let Err(error) = self.around.files.turn_over(&secret) {
            tracing::error!(
                error = crate::http::chain(&error),
                "the new key was not written; it is asked for after a restart"
            );
        }
        let until = self.now() + OVERLAP;
        let old = std::mem::replace(&mut self.secret, secret);
        self.opener.set_secrets(&self.secret, Some((&old, until)));
        let doors = doors(self.node.charter(), &self.secret, self.me, &self.key, &self.trust);
        match (self.sealer.rotate(&self.secret), doors) {
            (Ok(()), Ok((acceptor, connector))) => {
                *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                self.connector = connector;
                tracing::info!(
                    number = self.secret.number(),
                    "another key of the cluster is in force"
                );
            }
            (Err(error), _) => tracing::error!(%error, "the new key can't be used"),
            (_, Err(error)) => tracing::error!(%error, "the new key can't be used"),
        }
        self.trust_anew();
    }

    /// Puts a secret aside that is to come into force, and takes what is sealed with it already.
    fn stage(&mut self, offered: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(offered);
        match text.trim().parse::<Secret>() {
            Ok(secret) if secret.number() == self.secret.number() + 1 => {
                let kept = secret.write(&self.around.files.next_secret());
                if let Err(error) = kept {
                    tracing::error!(error = crate::http::chain(&error), "the next key was not written");
                    return Vec::new();
                }
                self.opener
                    .set_secrets(&self.secret, Some((&secret, Tick(u64::MAX))));
                self.next = Some(secret);
                self.trust_anew();
                b"ok".to_vec()
            }
            _ => Vec::new(),
        }
    }

    /// The secrets that a member may have: the one in force.
    fn secrets(&self) -> Vec<u8> {
        self.secret.text().as_bytes().to_vec()
    }

    fn take_secrets(&mut self, got: Vec<u8>) {
        let wanted = self.node.charter().secret;
        let text = zeroize::Zeroizing::new(String::from_utf8(got).unwrap_or_default());
        if let Ok(secret) = text.trim().parse::<Secret>()
            && secret.number() > self.secret.number()
        {
            // The charter may be behind, and comes next; until then the sender is believed, who is a member.
            if secret.number() != wanted.number || secret.check() == wanted.check {
                self.turn_over(secret);
                return;
            }
        }
        if wanted.number > self.secret.number() {
            self.ask_secret();
        }
    }

    /// Gets the secret in force from another member, because it isn't here: one question at a time, and after one that
    /// brought nothing none for a moment, as anybody can send what looks sealed with a later one.
    fn ask_secret(&mut self) {
        if std::mem::replace(&mut self.asking_secret, true) {
            return;
        }
        let wait = self
            .secret_asked
            .map_or(Duration::ZERO, |asked| ASK_SECRET.saturating_sub(asked.elapsed()));
        let mut seats: Vec<_> = self.node.seats().cloned().collect();
        // Not always the same first: it may be the one that is slow.
        let first = usize::try_from(self.ticket).unwrap_or(0) % seats.len().max(1);
        self.ticket += 1;
        seats.rotate_left(first);
        let (connector, came) = (self.connector.clone(), self.came.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            for seat in seats {
                if let Ok(answer) = calls::call(&connector, seat.address, seat.host, FOR_SECRET, b"").await {
                    came.send(Came::GotSecret(Some(answer))).await.ok();
                    return;
                }
            }
            came.send(Came::GotSecret(None)).await.ok();
        });
    }

    /// Another secret is to be in force: every host gets it first, then it is decided.
    async fn rotate(
        &mut self,
        secret: Option<Secret>,
        answer: oneshot::Sender<Rotated>,
    ) -> Result<(), String> {
        if self.rotation.is_some() {
            answer
                .send(Err("the key is being rotated already".to_owned()))
                .ok();
            return Ok(());
        }
        let number = self.secret.number().saturating_add(1);
        let drawn = match &secret {
            Some(given) if given.number() != number => Err(format!(
                "key: it is number {} and the next one is {number}: 'tombolo cluster key --number {number}' makes one",
                given.number()
            )),
            Some(given) => Ok(Secret::new(number, *given.bytes())),
            None => Secret::draw(number).map_err(|e| e.to_string()),
        };
        let secret = match drawn {
            Ok(secret) => secret,
            Err(why) => {
                answer.send(Err(why)).ok();
                return Ok(());
            }
        };
        if self.stage(secret.text().as_bytes()).is_empty() {
            answer
                .send(Err("the next key could not be written on this host".to_owned()))
                .ok();
            return Ok(());
        }
        let seats: Vec<_> = self.node.seats().cloned().collect();
        let text = Arc::new(secret.text());
        for seat in &seats {
            let (connector, came, text, seat) = (
                self.connector.clone(),
                self.came.clone(),
                text.clone(),
                seat.clone(),
            );
            tokio::spawn(async move {
                let staged =
                    calls::call(&connector, seat.address, seat.host, NEXT_SECRET, text.as_bytes()).await;
                came.send(Came::Staged(seat.host, staged.is_ok_and(|said| said == b"ok")))
                    .await
                    .ok();
            });
        }
        let others: BTreeSet<HostId> = self
            .node
            .charter()
            .hosts
            .keys()
            .copied()
            .filter(|host| *host != self.me)
            .collect();
        let reached: BTreeSet<HostId> = seats.iter().map(|seat| seat.host).collect();
        self.rotation = Some(Rotation {
            secret,
            waiting: others.intersection(&reached).copied().collect(),
            without: others.difference(&reached).copied().collect(),
            until: Instant::now() + calls::TALK,
            answer: Some(answer),
        });
        self.staged(self.me, true).await
    }

    /// A host has put the next secret aside, or could not.
    async fn staged(&mut self, host: HostId, staged: bool) -> Result<(), String> {
        let Some(rotation) = &mut self.rotation else {
            return Ok(());
        };
        if rotation.waiting.remove(&host) && !staged {
            rotation.without.push(host);
        }
        if !rotation.waiting.is_empty() && Instant::now() < rotation.until {
            return Ok(());
        }
        let Some(mut rotation) = self.rotation.take() else {
            return Ok(());
        };
        let without: Vec<String> = rotation
            .without
            .iter()
            .chain(&rotation.waiting)
            .map(|host| self.node.name(host))
            .collect();
        let hosts = self.node.charter().hosts.len() - without.len();
        let (number, check) = (rotation.secret.number(), rotation.secret.check());
        self.ticket += 1;
        let ticket = self.ticket;
        let (done, decided) = oneshot::channel();
        self.wishes.insert(ticket, done);
        if let Some(answer) = rotation.answer.take() {
            tokio::spawn(async move {
                let outcome = decided
                    .await
                    .unwrap_or_else(|_| Err("tombolo is shutting down".to_owned()));
                answer.send(outcome.map(|()| (number, hosts, without))).ok();
            });
        }
        self.step(Input::Wish {
            ticket,
            wish: Wish::Secret(number, check),
        })
        .await
    }

    fn tell(&mut self, news: News) {
        let name = |host: &HostId| self.node.name(host);
        let (action, host, name, detail) = match &news {
            News::Up(host) => ("up", *host, name(host), None),
            News::Down(host) => ("down", *host, name(host), None),
            News::Joined(host) => ("joined", *host, name(host), None),
            News::Left(host, name) => ("left", *host, name.clone(), None),
            News::Forgotten(host, name) => ("forgotten", *host, name.clone(), None),
            News::Cloned { host, one, other } => {
                let why = format!(
                    "two hosts have this identifier, at {one} and {other}: on the one that is a copy run 'tombolo cluster leave' and \
                     'tombolo cluster join' anew"
                );
                ("cloned", *host, name(host), Some(why))
            }
            News::SetBack(how) => ("set-back", self.me, self.around.name.clone(), Some(how.clone())),
            News::Torn { with, slot } => {
                let why = format!(
                    "host {} knows another decree {slot}: a host was forgotten that was not gone",
                    name(with)
                );
                ("torn", self.me, self.around.name.clone(), Some(why))
            }
            News::Standing(standing) => (
                "standing",
                self.me,
                self.around.name.clone(),
                Some(words(standing, self.node.charter().by_store)),
            ),
        };
        match news {
            News::Cloned { .. } | News::SetBack(_) | News::Torn { .. } | News::Down(_) => {
                tracing::warn!(%host, name, detail, "cluster: {action}");
            }
            _ => tracing::info!(%host, name, detail, "cluster: {action}"),
        }
        let what = What::Host {
            action,
            host: host.to_string(),
            name,
            detail,
        };
        self.around.events.tell(&what);
        if matches!(news, News::Standing(_)) {
            self.stand();
        }
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
        for (host, key, body) in self.node.table().visible() {
            if host != self.me && key.as_str() == "routes" {
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
            member: true,
            out: None,
        });
    }

    /// Tells the cluster what has changed on this host.
    async fn tell_changes(&mut self, everything: bool) -> Result<(), String> {
        let Some(told) = ask_engine(&self.around.asks, everything).await else {
            return Ok(());
        };
        let rows = endpoint_rows(&told, self.node.seat().address.ip());
        self.step(Input::Pools(told.fills)).await?;
        self.step(Input::Rows(rows)).await
    }

    /// Looks at this host: its routes, and where it is reached.
    async fn look(&mut self) -> Result<(), String> {
        match (self.around.advertise)(&self.around.advertised) {
            Ok(address) if address != self.node.seat().address.ip() => {
                tracing::info!(%address, "others reach this host elsewhere now");
                self.step(Input::Moved(SocketAddr::new(address, self.around.port)))
                    .await?;
                self.tell_changes(true).await?;
            }
            Ok(_) => {}
            Err(why) => tracing::debug!(%why, "where others reach this host can't be told"),
        }
        let routes = match crate::host::avoid().await {
            Ok(routes) => routes,
            Err(why) => {
                tracing::warn!(%why, "the routes of this host can't be read");
                return Ok(());
            }
        };
        let pools: Vec<IpNet> = self.node.charter().pools.keys().copied().collect();
        let ours = |net: &IpNet| pools.iter().any(|pool| pool.contains(net));
        let mut routes: Vec<IpNet> = routes.into_iter().filter(|net| !ours(net)).collect();
        routes.truncate(ROUTES);
        let row = serde_json::to_vec(&routes).unwrap_or_default();
        let named = routes
            .into_iter()
            .map(|net| (net, "a route, address or name server".to_owned()));
        self.step(Input::Routes(named.collect())).await?;
        self.step(Input::Rows(vec![("routes".to_owned(), Some(row))]))
            .await
    }

    /// Writes down what is known of others.
    async fn remember(&mut self) {
        self.notes.all(self.node.seats(), || self.node.remember());
        let heard = tombolo_cluster::wire::encode(&self.opener.last());
        if let Err(error) = self.keeper.keep(vec![("heard".to_owned(), Some(heard))]).await {
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

/// How this host stands, in words for people.
pub fn words(standing: &Standing, by_store: bool) -> String {
    match standing {
        Standing::Confirmed if by_store => "the store has confirmed it".to_owned(),
        Standing::Waiting if by_store => "it has begun anew and waits for the store to confirm its share; see 'tombolo cluster status'".to_owned(),
        Standing::Alone if by_store => "the store does not answer; it goes on with its own share".to_owned(),
        Standing::Confirmed => "a majority has confirmed it".to_owned(),
        Standing::Waiting => "it has begun anew and waits for a majority of the cluster to confirm its share; see 'tombolo cluster status'".to_owned(),
        Standing::Alone => "no majority answers; it goes on with its own share".to_owned(),
        Standing::Gone(how) => format!("it is out of the cluster ({how}): 'tombolo cluster leave', then join anew"),
        Standing::Cloned(other) => format!("the host at {other} has the same identifier: 'tombolo cluster leave' on the copy, then join anew"),
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn ask_engine(asks: &mpsc::Sender<Ask>, everything: bool) -> Option<Told> {
    let (answer, answered) = oneshot::channel();
    asks.send(Ask::Cluster { everything, answer }).await.ok()?;
    answered.await.ok()
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

fn host_row(name: &str) -> Vec<u8> {
    serde_json::json!({ "name": name, "version": env!("CARGO_PKG_VERSION") })
        .to_string()
        .into_bytes()
}

fn endpoint_rows(told: &Told, via: std::net::IpAddr) -> Vec<(String, Option<Vec<u8>>)> {
    let row = |row: &tombolo_core::peers::EndpointRow| {
        let row = tombolo_core::peers::EndpointRow {
            via: Some(via),
            ..row.clone()
        };
        // Plain structs with text keys always make JSON.
        serde_json::to_vec(&row).unwrap_or_default()
    };
    let rows = told.endpoints.iter();
    rows.map(|(id, endpoint)| {
        (
            format!("{}{id}", tombolo_core::peers::ENDPOINT),
            endpoint.as_ref().map(row),
        )
    })
    .collect()
}

fn trust(charter: &Charter, secret: &Secret, next: Option<&Secret>) -> Result<Trust, super::certs::Error> {
    let members = charter
        .hosts
        .iter()
        .map(|(host, member)| (*host, Print::from_bytes(member.key)))
        .collect();
    let current = Authority::of(secret)?;
    let next = next.map(Authority::of).transpose()?;
    let authorities: Vec<&Authority> = std::iter::once(&current).chain(&next).collect();
    Trust::new(ClusterId::from_bytes(charter.cluster), &authorities, &members)
}

fn doors(
    charter: &Charter,
    secret: &Secret,
    me: HostId,
    key: &HostKey,
    trust: &SharedTrust,
) -> Result<(Acceptor, Connector), super::certs::Error> {
    let identity = Authority::of(secret)?.identity(ClusterId::from_bytes(charter.cluster), me, key)?;
    Ok((
        Acceptor::new(&identity, trust)?,
        Connector::new(&identity, trust)?,
    ))
}

/// The sockets, at all addresses of the advertised one's family (of both, for IPv6).
async fn sockets(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, address.port()).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, address.port()).into(),
    };
    let tcp = TcpListener::bind(any).await?;
    let udp = UdpSocket::bind(any).await?;
    let socket = rustix::net::sockopt::set_socket_recv_buffer_size_force(&udp, QUEUE);
    if socket.is_err() {
        // As much as the system lets anybody have.
        rustix::net::sockopt::set_socket_recv_buffer_size(&udp, QUEUE).ok();
    }
    Ok((udp, tcp))
}

/// Answers calls, each in a task of its own.
async fn serve(listener: TcpListener, acceptor: Arc<RwLock<Acceptor>>, came: mpsc::Sender<Came>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        stream.set_nodelay(true).ok();
        let acceptor = acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        let came = came.clone();
        tokio::spawn(async move {
            if let Err(why) = converse(stream, &acceptor, &came).await {
                tracing::debug!(why, "a call came to nothing");
            }
            drop(place);
        });
    }
}

async fn converse(
    stream: tokio::net::TcpStream,
    acceptor: &Acceptor,
    came: &mpsc::Sender<Came>,
) -> Result<(), String> {
    let accepted = acceptor
        .accept(stream)
        .await
        .map_err(|e| crate::http::chain(&e))?;
    let mut stream = accepted.stream;
    let text = |e: std::io::Error| e.to_string();
    let reply = match accepted.who {
        Who::Member(peer) => {
            let (kind, bytes) = calls::in_time(calls::read_kind(&mut stream))
                .await
                .map_err(text)?;
            let (answer, answered) = oneshot::channel();
            let asked = match kind {
                FOR_NODE => Came::Asked {
                    from: peer.host,
                    bytes,
                    answer,
                },
                FOR_SECRET => Came::Secret {
                    offered: None,
                    answer,
                },
                NEXT_SECRET => Came::Secret {
                    offered: Some(bytes),
                    answer,
                },
                other => return Err(format!("a question of an unknown sort {other}")),
            };
            came.send(asked)
                .await
                .map_err(|_| "the part has ended".to_owned())?;
            tokio::time::timeout(calls::TALK, answered)
                .await
                .map_err(|_| "no answer in time".to_owned())?
                .map_err(|_| "no answer".to_owned())?
        }
        Who::Joiner => {
            let bytes = calls::in_time(calls::read(&mut stream)).await.map_err(text)?;
            let asking = tombolo_cluster::wire::decode::<joining::Asking>(&bytes)
                .ok_or("a question that can't be read")?;
            let (answer, answered) = oneshot::channel();
            came.send(Came::Join(asking, answer))
                .await
                .map_err(|_| "the part has ended".to_owned())?;
            let answer = tokio::time::timeout(calls::TALK, answered)
                .await
                .map_err(|_| "no answer in time".to_owned())?;
            tombolo_cluster::wire::encode(&answer.map_err(|_| "no answer".to_owned())?)
        }
    };
    calls::in_time(calls::write(&mut stream, None, &reply))
        .await
        .map_err(text)?;
    // The other end may have gone with its answer already.
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.ok();
    Ok(())
}
