//! The one task that owns the records and the kernel.
//!
//! ```text
//!            Ask ──────────────┐                       ┌──> Kernel (observe, apply)
//!   http, control, docker, tick ├─> queue ─> Engine ───┤
//!            <── answer ───────┘                       └──> Journal (commit)
//! ```
//!
//! Two rules are here and nowhere else. *Grow: settle, then commit. Shrink: commit, then settle.* Dying in between leaves
//! objects that no record asks for, which the next start sweeps; never a promise that the kernel doesn't keep. When a
//! grow fails, its edits are taken back and the old records settled again: taking back is not a second program. What waits
//! meanwhile is committed together ([`together`]).
//!
//! A change computes the facts of the records it touches and compares them with what is *believed* to hold, so its cost
//! doesn't grow with what else exists. A full look at the kernel corrects the belief and repairs what differs: before all else at the
//! start and after a step whose outcome is unknown ([`Engine::settle`]), beside it on every slow tick and whenever somebody has
//! changed something ([`beside`]).

mod announce;
mod belief;
mod beside;
pub mod events;
pub mod groups;
mod insides;
mod later;
mod lent;
mod peers;
pub mod reconcile;
pub mod shared;
pub mod tally;
mod together;
pub mod tunnels;
pub mod views;
pub mod wires;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout_at;
use tombolo_core::kinds::bridge::MTU_V6_LEAST;
use tombolo_core::kinds::{Found, Theirs};
use tombolo_core::model::{Attach, Endpoint, EndpointId, IfName, Network, NetworkId, Proto};
use tombolo_core::state::{
    Command, Edit, Ephemeral, HostPort, News, Owner, Refusal, Reply, State, Surroundings,
};
use tombolo_core::world::{Family, Key, LINK_GROUP, Setting, Step, Value, World, diff};
use tombolo_ipam::Carve;

use self::belief::Belief;
use self::beside::Beside;
pub use self::beside::Want;
use self::events::Problem;
use self::together::{About, Change, Together};
use crate::dhcp::Lease;
use crate::docker::{Named, NetworkView, View};
use crate::kernel::groups::Groups;
use crate::kernel::notice::Noticed;
use crate::kernel::sandbox::Inside;
use crate::kernel::{self, Flow, Kernel, Placed, Sandbox};
use crate::lent::Kept;
use crate::records::{self, Records};
use crate::store::{self, Put, Row};

/// How many requests may wait for the engine: more than the sockets let in at a time.
pub const QUEUE: usize = 1024;

/// How many repairs of one look are told one by one: with thousands of facts, as after a boot, nobody reads them.
const MANY_REPAIRS: usize = 200;

/// From how many facts on memory that a look took is given back after it.
const MANY_FACTS: usize = 4_096;

/// The MTU of Ethernet, which a bridge has by itself.
const USUAL_MTU: u32 = 1500;

/// Under what it is kept that records were lost and Docker was not asked yet.
const LOST: &str = "lost";

/// How long an endpoint waits until the flows of who had its address before are ended.
const FLOWS_OF_BEFORE: Duration = Duration::from_millis(500);

/// How long flows of before may still take to end when the daemon does.
const LAST_FLOWS: Duration = Duration::from_secs(2);

/// Where changes are made durable.
pub trait Journal: Send {
    /// Writes a change; when it returns, the change survives a power cut.
    ///
    /// # Errors
    /// When it may not survive; nothing of it was written then.
    fn commit(&mut self, puts: &[Put]) -> Result<(), store::Error>;

    /// Writes other records in place of all there are.
    ///
    /// # Errors
    /// As for `commit`.
    fn replace(&mut self, rows: &[Row]) -> Result<(), store::Error>;

    /// Notes that a loss that was found on opening has been made up for.
    ///
    /// # Errors
    /// As for `commit`.
    fn rebuilt(&mut self) -> Result<(), store::Error>;

    /// Writes a plain copy of the records beside them.
    ///
    /// # Errors
    /// When it can't be written; the records are not concerned.
    fn backup(&self) -> Result<(), store::Error>;
}

/// Why a request was not granted. The kernel and the records are as they were before it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The records don't allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The kernel didn't do it.
    #[error("the kernel did not make it so: {0}")]
    Kernel(#[source] kernel::Error),
    /// It could not be made durable.
    #[error("the change could not be stored ({0}); check the disk under the state directory")]
    Store(#[source] Arc<store::Error>),
    /// It took too long.
    #[error("not done within {} s; it was taken back. See 'tombolo status' and the daemon's log", .0.as_secs())]
    Late(Duration),
    /// The engine has ended.
    #[error("tombolo is shutting down")]
    Gone,
}

/// What is asked of the engine.
pub enum Ask {
    /// Carry out a command.
    Do {
        /// The command.
        command: Command,
        /// What was looked up on the host for it.
        looked: Looked,
        /// When the asker will have gone.
        deadline: Instant,
        /// Where the answer goes. If the asker has gone, what was granted is taken back.
        answer: oneshot::Sender<Result<Reply, Error>>,
    },
    /// Show something.
    Show(views::Show, oneshot::Sender<serde_json::Value>),
    /// Give the numbers that are exported as metrics.
    Tally(oneshot::Sender<tally::Tally>),
    /// Keep that the addresses of a pool are lent by the DHCP server on the wire of a link, or forget that they were.
    LentPool(IpNet, Option<IfName>, oneshot::Sender<Result<(), String>>),
    /// Keep a lease that is new.
    Lent(Lease, oneshot::Sender<Result<(), String>>),
    /// Keep that a lease was renewed; it is passed over if another one is kept for its address.
    Relent(Lease, oneshot::Sender<Result<(), String>>),
    /// Forget a lease, unless a container has its address. Whether it is forgotten.
    Unlent(Lease, oneshot::Sender<Result<bool, String>>),
    /// Say whether an address is lent to this host.
    IsLent(Ipv4Addr, oneshot::Sender<bool>),
    /// Name all that is lent.
    AllLent(oneshot::Sender<Kept>),
    /// Name the wires where addresses are looked for before they go out.
    Probed(oneshot::Sender<Vec<wires::Wire>>),
    /// Name the links to the wire where those of a subnet are, if there is one: that by which they are asked for, and the parent.
    ProbedOn(IpNet, oneshot::Sender<Option<(IfName, IfName)>>),
    /// Name the address that this host would get on a network on a subnet.
    HostNext(IpNet, oneshot::Sender<Option<IpAddr>>),
    /// Name the links that containers of this host are on the wire of.
    Parents(oneshot::Sender<BTreeSet<IfName>>),
    /// Say what the links on one of them are like in their sandboxes.
    Inside(IfName, oneshot::Sender<Vec<(EndpointId, Inside)>>),
    /// Tell that a container's link was put back into its sandbox.
    PutBack(EndpointId, Inside),
    /// Say how a network is to be made, see [`State::as_named`].
    Named(Network, oneshot::Sender<Result<Network, Refusal>>),
    /// The engine asks what there is to know of an endpoint, which it does before it adds another network to its container.
    Asked(EndpointId, oneshot::Sender<()>),
    /// Name this host's networks.
    Networks(oneshot::Sender<BTreeSet<NetworkId>>),
    /// Name the tunnels of this host's networks.
    Tunnels(oneshot::Sender<Vec<tunnels::Tunnel>>),
    /// Look at the kernel, beside all else.
    Look(Want),
    /// Write a plain copy of the records.
    Backup,
    /// Look at the kernel if this is not what is believed of it.
    Noticed(Noticed),
    /// Say that the engine's task is alive.
    Alive(oneshot::Sender<()>),
    /// Say when all links are gone whose removal was put off.
    Removed(oneshot::Sender<()>),
    /// What the Docker engine has just said of itself, or why it can't be asked.
    Docker(Result<View, String>),
    /// What containers are called, as the Docker engine has just said.
    Called(Vec<Named>),
    /// Say what the cluster is to know: what has changed since it was asked last, or everything.
    Cluster {
        /// Everything.
        everything: bool,
        /// Where the answer goes.
        answer: oneshot::Sender<shared::Told>,
    },
    /// Take in which groups are heard on the bridges of this host.
    Heard(Groups),
    /// Take in what is new of the cluster's other hosts.
    Peers(News),
    /// Keep records of this host's part in the cluster: keys and texts, none for what is to be forgotten.
    Keep(Vec<(String, Option<String>)>, oneshot::Sender<Result<(), String>>),
    /// Put other records in place of all there are.
    Import(Records, oneshot::Sender<Result<(), String>>),
}

/// What there is to do next.
enum Next {
    /// Something was put off until now.
    Due,
    /// Links have been removed.
    Removed(later::Removed),
    /// The kernel has been looked at.
    Found(Result<World, kernel::Error>),
    /// Something is asked for, or nobody will ask any more.
    Asked(Option<Box<Ask>>),
}

/// What was looked up on the host for one command, before the engine was asked.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    /// What a pool that is chosen must not overlap; empty where no pool is chosen.
    pub avoid: Vec<IpNet>,
    /// The MTU of the way to the outside, where a network is made and there is a way.
    pub path_mtu: Option<u32>,
    /// The largest packet that fits into a tunnel to each of the cluster's hosts, where a network is made and that is known.
    pub tunnel_mtu: Option<u32>,
    /// The link that has the name that the user chose for a network's bridge.
    pub link: Option<Theirs>,
    /// The sandbox that is joined, where it can be entered by now.
    pub sandbox: Option<Arc<Sandbox>>,
}

/// What the engine takes from the host; functions, so that a test can take them from elsewhere.
#[derive(Clone, Copy)]
pub struct Edge {
    /// Seconds of the wall clock.
    pub now_s: fn() -> u64,
    /// How it stands with a port of this host.
    pub port: fn(Proto, IpAddr, u16) -> HostPort,
    /// Which process of this host has a port, in words.
    pub port_holder: fn(Proto, IpAddr, u16) -> Option<String>,
    /// Ports to choose ephemeral ones from.
    pub ephemeral: fn() -> Ephemeral,
    /// What keeps a link of this host from carrying packets, in words.
    pub dead_link: fn(&IfName) -> Option<&'static str>,
}

/// What doesn't change while the engine runs.
pub struct Setup {
    /// Where pools are cut from.
    pub carve: Vec<Carve>,
    /// The host's address that ports are published on where neither user nor network names one.
    pub host_binding: Option<IpAddr>,
    /// How containers come by their links on networks that don't say so.
    pub attach: Attach,
    /// The driver's name, as networks carry it.
    pub driver: String,
    /// What the host is asked for.
    pub edge: Edge,
    /// The settings, for `tombolo status`: name, value, where it came from.
    pub settings: Vec<(String, String, String)>,
    /// What looks as though it was meant for a setting and is none, each in words.
    pub ignored: Vec<String>,
    /// How the records were recovered, if they were damaged.
    pub recovered: Option<String>,
    /// Why this host may not give addresses of the cluster's pools, if so: set by its part in the cluster.
    pub outside: Outside,
    /// Woken when something has changed that the cluster is to know.
    pub wake: Arc<Notify>,
}

/// Why this host may not give addresses of the cluster's pools now; none if it may. Shared with who knows.
#[derive(Debug, Clone, Default)]
pub struct Outside(watch::Sender<Option<String>>);

impl Outside {
    /// With a reason to begin with.
    pub fn because(why: &str) -> Self {
        Self(watch::Sender::new(Some(why.to_owned())))
    }

    /// Says how it is now.
    pub fn set(&self, why: Option<String>) {
        self.0.send_replace(why);
    }

    /// How it is now.
    pub fn why(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until this host may give addresses.
    pub async fn lifted(&self) {
        // We hold the sender ourselves, so it can't be gone.
        self.0.subscribe().wait_for(Option::is_none).await.ok();
    }
}

/// The engine. See the head of the file.
pub struct Engine<K, J> {
    state: State,
    meta: BTreeMap<String, String>,
    /// The leases among it, of addresses that wires' own DHCP servers have lent.
    lent: BTreeMap<Ipv4Addr, Lease>,
    /// What the cluster's part of this daemon keeps.
    cluster: BTreeMap<String, String>,
    /// What has changed that the cluster is to know.
    touched: shared::Touched,
    /// Which groups are heard on this host.
    listening: groups::Listening,
    /// What containers of this host may believe of addresses.
    announcements: announce::Announcements,
    believed: Belief,
    /// The look that is under way.
    beside: Option<Beside>,
    /// The link that is to be made within a sandbox with the change that is under way.
    placing: Option<(Key, Placed)>,
    /// Links on wires that are to be taken out of the sandboxes in which they were made.
    leaving: BTreeMap<Key, PathBuf>,
    /// Whether sandboxes were looked into for links that an earlier run has left there.
    swept: bool,
    /// Links that are removed after the answer.
    later: later::Later,
    /// How long the last write of records took.
    write_took: Duration,
    /// The containers that start with links within their sandboxes.
    starting: insides::Starting,
    kernel: K,
    journal: J,
    setup: Setup,
    started: Instant,
    /// What went wrong and is being tried again, by what it is about.
    problems: BTreeMap<String, Problem>,
    /// Facts put right by a full look, by sort of fact.
    repairs: BTreeMap<&'static str, u64>,
    /// The belief is known to be incomplete: only a full look helps.
    in_doubt: bool,
    /// What other hosts have was told: until then, what looks unwanted of it may be wanted.
    peers_known: bool,
    /// The records were lost: what looks unwanted may be wanted by Docker, so nothing is swept until it was asked.
    keep_unknown: bool,
    docker: reconcile::Docker,
    events: events::Events,
    told: events::Told,
    facts_desired: usize,
    facts_holding: usize,
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// An engine that believes nothing yet: call [`Self::settle`] before the first request.
    pub fn new(
        state: State,
        meta: BTreeMap<String, String>,
        lost: bool,
        kernel: K,
        journal: J,
        setup: Setup,
    ) -> Self {
        Self {
            state,
            lent: lent::leases(&meta),
            meta,
            cluster: BTreeMap::new(),
            touched: shared::Touched::waking(setup.wake.clone()),
            listening: groups::Listening::default(),
            announcements: announce::Announcements::default(),
            believed: Belief::default(),
            beside: None,
            placing: None,
            leaving: BTreeMap::new(),
            swept: false,
            later: later::Later::default(),
            write_took: Duration::ZERO,
            starting: insides::Starting::default(),
            kernel,
            journal,
            setup,
            started: Instant::now(),
            problems: BTreeMap::new(),
            repairs: BTreeMap::new(),
            in_doubt: false,
            peers_known: false,
            keep_unknown: lost,
            docker: reconcile::Docker::default(),
            events: events::Events::default(),
            told: events::Told::default(),
            facts_desired: 0,
            facts_holding: 0,
        }
    }

    /// With what the cluster's part of this daemon has kept, and whether that will tell of other hosts. Who is in no
    /// cluster hears of nobody.
    pub fn keeping(self, cluster: BTreeMap<String, String>, in_cluster: bool) -> Self {
        Self {
            cluster,
            peers_known: !in_cluster,
            ..self
        }
    }

    /// The records.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Serves requests until all askers are gone. Gives the journal back, for a last copy of the records.
    pub async fn run(mut self, mut asks: mpsc::Receiver<Ask>) -> J {
        loop {
            let next = self.next(&mut asks).await;
            self.announce_held();
            let now = Instant::now();
            if self.later.due().is_some_and(|due| due <= now) {
                self.begin_removal(Some(now));
            }
            match next {
                Next::Due => {}
                Next::Removed(removed) => self.note_removed(removed),
                Next::Found(found) => self.take_look(found).await,
                Next::Asked(Some(ask)) => self.answer_together(*ask, &mut asks).await,
                Next::Asked(None) => break,
            }
            self.settle_doubt().await;
            self.tell_standing();
        }
        self.remove_later().await;
        if !self.kernel.forgotten(None, Instant::now() + LAST_FLOWS).await {
            tracing::warn!("ended while flows of before were still being ended");
        }
        self.journal
    }

    /// Looks at the kernel if the outcome of a step is not known.
    async fn settle_doubt(&mut self) {
        if self.in_doubt {
            self.settle("a step with unknown outcome").await;
        }
    }

    /// What is to be done next.
    async fn next(&mut self, asks: &mut mpsc::Receiver<Ask>) -> Next {
        let due = self.announcements.due().into_iter().chain(self.later.due());
        let asked = async {
            let asked = match due.min() {
                Some(due) => timeout_at(due.into(), asks.recv()).await,
                None => Ok(asks.recv().await),
            };
            asked.map_or(Next::Due, |ask| Next::Asked(ask.map(Box::new)))
        };
        tokio::select! {
            biased;
            Some(removed) = self.later.removed() => Next::Removed(removed),
            Some(found) = beside::found(&mut self.beside) => Next::Found(found),
            next = asked => next,
        }
    }

    /// Answers what is asked; what is carried out is answered when it is written, with others or before anything else is asked.
    async fn answer(&mut self, ask: Ask, together: &mut Together) {
        if !matches!(ask, Ask::Do { .. }) {
            self.write_together(together).await.ok();
        }
        match ask {
            Ask::Do {
                command,
                looked,
                deadline,
                answer,
            } => {
                self.carry_out_among(together, command, &looked, deadline, answer)
                    .await;
            }
            Ask::Show(show, answer) => {
                self.remove_later().await;
                // An asker that has gone needs no answer, here and below.
                answer.send(self.show(show)).ok();
            }
            Ask::Tally(answer) => {
                self.remove_later().await;
                answer.send(self.tally()).ok();
            }
            Ask::LentPool(pool, parent, answer) => {
                drop(answer.send(self.keep_lent_pool(pool, parent.as_ref())));
            }
            Ask::Lent(lease, answer) => drop(answer.send(self.keep_lent(lease))),
            Ask::Relent(lease, answer) => drop(answer.send(self.keep_relent(lease))),
            Ask::Unlent(lease, answer) => drop(answer.send(self.forget_lent(&lease))),
            Ask::IsLent(address, answer) => drop(answer.send(self.lent.contains_key(&address))),
            Ask::AllLent(answer) => drop(answer.send(self.all_lent())),
            Ask::Probed(answer) => drop(answer.send(self.probed())),
            Ask::ProbedOn(subnet, answer) => {
                drop(answer.send(self.state.probed_on(subnet)));
            }
            Ask::HostNext(subnet, answer) => drop(answer.send(self.state.host_next(subnet))),
            Ask::Parents(answer) => drop(answer.send(self.state.parents().cloned().collect())),
            Ask::Inside(parent, answer) => drop(answer.send(self.inside(&parent))),
            Ask::PutBack(id, inside) => self.put_back(&id, &inside).await,
            Ask::Named(network, answer) => drop(answer.send(self.state.as_named(&network))),
            Ask::Asked(id, answer) => {
                self.make_room(&id).await;
                answer.send(()).ok();
            }
            Ask::Networks(answer) => {
                let ids = self.state.networks().map(|network| network.id.clone());
                answer.send(ids.collect()).ok();
            }
            Ask::Tunnels(answer) => drop(answer.send(self.tunnels())),
            Ask::Look(want) => self.begin_look(want),
            Ask::Backup => {
                if let Err(error) = self.journal.backup() {
                    tracing::warn!(%error, "the plain copy of the records was not written");
                }
            }
            Ask::Noticed(noticed) => {
                if self.surprises(&noticed) {
                    self.begin_look(Want::repair("somebody changed what is tombolo's"));
                }
            }
            Ask::Alive(answer) => drop(answer.send(())),
            Ask::Removed(answer) => {
                self.remove_later().await;
                answer.send(()).ok();
            }
            Ask::Docker(view) => self.heard_from_docker(view, Instant::now()).await,
            Ask::Called(named) => self.heard_names(named),
            Ask::Cluster { everything, answer } => drop(answer.send(self.told_cluster(everything))),
            Ask::Heard(groups) => self.listen(groups),
            Ask::Peers(news) => self.hear(news).await,
            Ask::Keep(records, answer) => drop(answer.send(self.keep(records))),
            Ask::Import(records, answer) => {
                let imported = self.import(records).await;
                answer.send(imported).ok();
            }
        }
    }

    /// Carries a command out; gives the reply and the edits that take it back. `may_wait`: links of what is gone are left for
    /// [`remove_later`](Self::remove_later).
    ///
    /// # Errors
    /// [`Error`]; nothing was changed then.
    pub async fn carry_out(
        &mut self,
        command: &Command,
        looked: &Looked,
        deadline: Instant,
        may_wait: bool,
    ) -> Result<(Reply, Vec<Edit>), Error> {
        let mut change = self.change(command, looked, deadline).await?;
        self.write(std::slice::from_mut(&mut change))
            .await
            .map_err(Error::Store)?;
        self.finish(&change, may_wait).await;
        Ok((change.reply, change.taken))
    }

    /// Decides on a command, and makes it so as far as [`make`](Self::make) does.
    async fn change(
        &mut self,
        command: &Command,
        looked: &Looked,
        deadline: Instant,
    ) -> Result<Change, Error> {
        let decision = self.decide(command, looked);
        self.note_decision(command, &decision);
        self.make(command, looked, deadline, decision?).await
    }

    /// Makes what was decided: in the records, and in the kernel where it grows.
    async fn make(
        &mut self,
        command: &Command,
        looked: &Looked,
        deadline: Instant,
        (edits, reply): (Vec<Edit>, Reply),
    ) -> Result<Change, Error> {
        if edits.is_empty() {
            return Ok(Change::none(reply));
        }
        let puts = writable(&edits)?;
        let about = About::of(&self.state, &edits);
        if command.shrinks() {
            let (taken, before, after) = self.apply(edits);
            return Ok(Change {
                reply,
                taken,
                puts,
                about,
                left: Some((before, after)),
            });
        }
        self.placing = self.placed(&edits, looked);
        let gave_back = match self.placing.as_ref().map(|(_, placed)| placed.clone()) {
            Some(placed) => self.give_back(&placed).await,
            None => false,
        };
        let grown = self.grow(edits, deadline).await;
        let placed = self.placing.take();
        let (puts, taken, reply) = match (grown, placed) {
            (Ok(taken), _) => (puts, taken, reply),
            (Err(why @ Error::Kernel(_)), Some((link, placed))) => {
                tracing::info!(?link, %why, "not made within its sandbox; the engine is left to move it there");
                if gave_back {
                    self.leave_name(placed.sandbox, &BTreeSet::new()).await;
                }
                let (edits, reply) = self.decide(command, &Looked::default())?;
                (writable(&edits)?, self.grow(edits, deadline).await?, reply)
            }
            (Err(error), _) => return Err(error),
        };
        Ok(Change {
            reply,
            taken,
            puts,
            about,
            left: None,
        })
    }

    fn decide(&self, command: &Command, looked: &Looked) -> Result<(Vec<Edit>, Reply), Refusal> {
        let edge = self.setup.edge;
        let outside = self.setup.outside.why();
        let container_name = |id: &EndpointId| self.docker.container_name(id).map(str::to_owned);
        let around = Surroundings {
            now_s: (edge.now_s)(),
            carve: &self.setup.carve,
            avoid: &looked.avoid,
            engine_serves: self.docker.serves(),
            engine_pools: self.docker.pools(),
            ephemeral: &edge.ephemeral,
            port: &edge.port,
            port_holder: &edge.port_holder,
            container_name: &container_name,
            lent: &|address| lent::came_with(&self.lent, address),
            lender: &|pool| lent::lender(&self.meta, pool),
            host_binding: self.setup.host_binding,
            found: self.found(command, looked),
            outside: outside.as_deref(),
            attach: self.setup.attach,
            enterable: looked.sandbox.is_some() && self.docker.ends_with_its_containers(),
        };
        let mut decision = self.state.decide(command, &around);
        if let Ok((_, Reply::Joined(joined))) = &mut decision {
            wires::for_engine(joined, self.docker.version());
        }
        decision
    }

    /// Notes what follows from a decision beside its edits.
    fn note_decision(&mut self, command: &Command, decision: &Result<(Vec<Edit>, Reply), Refusal>) {
        match (command, decision) {
            (_, Err(refusal)) => self.state.owe_release(refusal),
            (Command::ReleasePool(pool), _) => self.state.released(pool),
            _ => {}
        }
    }

    /// What the record of a new network keeps of what was found. A link that we know is none of somebody else's, and an
    /// adopted one stays that when records are rebuilt.
    fn found(&self, command: &Command, looked: &Looked) -> Found {
        let (named, v6) = match command {
            Command::CreateNetwork(network) => (network.spec.named_link(), network.subnet(true).is_some()),
            _ => (None, false),
        };
        let believed = named.and_then(|name| {
            let link = self.believed.get(&Key::Link(name.clone()));
            link.or_else(|| self.believed.get(&Key::Parent(name.clone())))
        });
        let on_wire = matches!(command, Command::CreateNetwork(network) if network.spec.uplink().is_some());
        Found {
            path_mtu: looked
                .path_mtu
                // IPv6 has no smaller packets than this: the kernel cuts them on such a way (RFC 8200, section 5).
                .map(|mtu| if v6 { mtu.max(MTU_V6_LEAST) } else { mtu })
                .filter(|mtu| *mtu != USUAL_MTU),
            tunnel_mtu: looked.tunnel_mtu,
            bridge: match believed {
                Some(value) => (*value == Value::Adopted).then(Theirs::default),
                // One of ours of which no record tells is as good as none.
                None => looked.link.filter(|link| !on_wire || link.group != LINK_GROUP),
            },
        }
    }

    /// Makes edits that grow, in the records and in the kernel. Gives those that take them back.
    async fn grow(&mut self, edits: Vec<Edit>, deadline: Instant) -> Result<Vec<Edit>, Error> {
        self.await_forgotten(&edits, deadline).await;
        self.expect_children(&edits);
        let (taken, before, after) = self.apply(edits);
        match self.reach(&before, &after, Some(deadline)).await {
            Ok(()) => Ok(taken),
            Err(error) => {
                self.undo(taken, true).await;
                Err(error)
            }
        }
    }

    /// The link that goes right into a sandbox with some edits, if one does.
    fn placed(&self, edits: &[Edit], looked: &Looked) -> Option<(Key, Placed)> {
        let sandbox = looked.sandbox.clone()?;
        let goes = edits.iter().find_map(|edit| match edit {
            Edit::Endpoint(_, Some(after)) => Some(after).filter(|after| after.inside),
            _ => None,
        })?;
        let joined = self
            .state
            .network(&goes.network)
            .map(|network| network.spec.kind().joined(network, goes))?;
        let placed = Placed {
            sandbox,
            prefix: joined.prefix,
            addresses: goes.addresses.clone(),
            sysctls: goes.sysctls.clone(),
            routes: joined.routes,
        };
        let link = match self.state.is_on_wire(goes) {
            true => Key::Child(goes.id.container_link()),
            false => Key::Link(goes.id.host_link()),
        };
        Some((link, placed))
    }

    /// Notes which links on wires are to be taken out of their sandboxes after an edit, that was not made yet.
    fn note_leaving(&mut self, edit: &Edit) {
        let Edit::Endpoint(id, after) = edit else { return };
        // How one came by its link whose record was rebuilt is not known, nor where that is.
        let rebuilt = |endpoint: &Endpoint| {
            let network = self.state.network(&endpoint.network);
            let may_be = network.is_some_and(|network| network.spec.goes_inside());
            may_be && endpoint.sandbox.as_deref() == Some("")
        };
        let placed =
            |endpoint: &&Endpoint| (endpoint.inside || rebuilt(endpoint)) && self.state.is_on_wire(endpoint);
        let link = Key::Child(id.container_link());
        let before = self.state.endpoint(id).filter(placed);
        let sandbox = before.and_then(|endpoint| endpoint.sandbox.clone());
        match (sandbox, after.as_ref().filter(placed)) {
            (_, Some(_)) => drop(self.leaving.remove(&link)),
            (Some(sandbox), None) => drop(self.leaving.insert(link, sandbox.into())),
            (None, None) => {}
        }
    }

    /// Believes nothing of the links of endpoints that join a sandbox anew: one on a wire went with the last one, or was put
    /// back when that ended.
    fn expect_children(&mut self, edits: &[Edit]) {
        for edit in edits {
            let Edit::Endpoint(id, Some(after)) = edit else {
                continue;
            };
            let was_in = self.state.endpoint(id).and_then(|before| before.sandbox.as_ref());
            let joins = after.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty());
            if joins && was_in.is_none() {
                self.believed.believe(Key::Child(id.container_link()), None);
            }
        }
    }

    /// Changes the records. Gives the inverse edits, and the facts of the touched records before and after.
    fn apply(&mut self, edits: Vec<Edit>) -> (Vec<Edit>, World, World) {
        let owners: BTreeSet<Owner> = edits.iter().flat_map(|edit| self.state.owners(edit)).collect();
        let before = facts_of(&self.state, &owners);
        let seen: Vec<_> = edits.iter().flat_map(|edit| self.state.sighted(edit)).collect();
        self.note_sights(&seen);
        edits.iter().for_each(|edit| self.touched.note(edit));
        edits.iter().for_each(|edit| self.note_leaving(edit));
        let mut taken: Vec<Edit> = edits.into_iter().map(|edit| self.state.apply(edit)).collect();
        taken.reverse();
        let after = facts_of(&self.state, &owners);
        (taken, before, after)
    }

    /// The steps from what is believed of some facts, as they were wanted before and are after, to what is wanted.
    fn steps_to(&self, before: &World, after: &World) -> Vec<Step> {
        let keys: BTreeSet<&Key> = before.keys().chain(after.keys()).collect();
        let held = keys
            .into_iter()
            .filter_map(|key| Some((key.clone(), self.believed.get(key)?.clone())));
        diff(after, &held.collect())
    }

    /// Brings the facts of some records from `before` to `after`, starting from what is believed of them. Growing
    /// (with a deadline) stops at the first refusal; removing goes on to the end and tells the first, but for what is removed later.
    async fn reach(&mut self, before: &World, after: &World, deadline: Option<Instant>) -> Result<(), Error> {
        let mut steps = self.steps_to(before, after);
        if deadline.is_some() && self.later.meets(after, &steps) {
            self.remove_later().await;
            steps = self.steps_to(before, after);
        }
        let steps = self.later.put_off(steps);
        let mut first = None;
        for run in runs(&steps) {
            if run[0].key().is_of_peers() {
                // A host that isn't reached is no reason to refuse what is asked for on this one.
                self.make_of_peers(run).await;
                continue;
            }
            for step in run {
                let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                let done = if late {
                    Err(Error::Late(crate::http::DEADLINE))
                } else {
                    self.step(step).await
                };
                if let Err(error) = done {
                    if deadline.is_some() {
                        return Err(error);
                    }
                    first.get_or_insert(error);
                }
            }
        }
        self.forget(&steps);
        first.map_or(Ok(()), Err)
    }

    /// Ends the flows that lead where the ports of some steps led before.
    fn forget(&mut self, steps: &[Step]) {
        let mut flows: BTreeSet<Flow> = BTreeSet::new();
        for step in steps {
            if let Step::Remove(Key::Open(_, address, port), _) = *step {
                flows.insert(Flow::At(address, port));
            }
            let Key::Publish(proto, host, port) = *step.key() else {
                continue;
            };
            if let Step::Remove(_, Value::To(old, old_port)) | Step::Change(_, Value::To(old, old_port), _) =
                step
            {
                flows.insert(Flow::Into {
                    proto,
                    host,
                    port,
                    to: (*old, *old_port),
                });
            }
            if let Step::Add(key, value) | Step::Change(key, _, value) = step {
                flows.extend(udp_flow((key, value)));
            }
        }
        self.forget_flows(flows);
    }

    /// Ends the flows of addresses that have lost their endpoint. What goes on after its container's end would be the next
    /// one's, whatever that publishes. `taken` are the edits that take the change back.
    fn forget_holders(&mut self, taken: &[Edit]) {
        let mut flows: BTreeSet<Flow> = BTreeSet::new();
        for edit in taken {
            let Edit::Endpoint(id, Some(before)) = edit else {
                continue;
            };
            if before.linked && !self.state.endpoint(id).is_some_and(|now| now.linked) {
                flows.extend(before.addresses.iter().map(|address| Flow::Of(address.addr())));
            }
        }
        self.forget_flows(flows);
    }

    /// Lets no endpoint have an address, or a port, while the flows of who had it before are still being ended.
    async fn await_forgotten(&mut self, edits: &[Edit], deadline: Instant) {
        let addresses = addresses_of(edits);
        // Better a flow of before than a container that does not start.
        let patience = deadline.min(Instant::now() + FLOWS_OF_BEFORE);
        if !self.kernel.forgotten(Some(&addresses), patience).await {
            tracing::warn!(?addresses, "flows of before are still being ended");
        }
    }

    /// Makes the table anew if it has to be, with all its elements at once. Whether that was done; otherwise it is done step
    /// by step, so that one bad element doesn't stop the others.
    async fn load_table(&mut self, steps: &[Step], desired: &World) -> bool {
        let anew = |step: &&Step| *step.key() == Key::Table && !step.removes();
        if !steps.iter().any(|step| anew(&step)) {
            return false;
        }
        let elements = desired.iter().filter(|(key, _)| key.is_element());
        let elements: World = elements
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        tracing::debug!(
            elements = elements.len(),
            "nft -f skeleton.nft, with all elements"
        );
        if let Err(error) = self.kernel.load(&elements).await {
            tracing::warn!(%error, "the table is made step by step, as it can't be made at once");
            return false;
        }
        let believed = self.believed.anew();
        believed.retain(|key, _| !key.is_element());
        believed.insert(Key::Table, Value::Present);
        believed.extend(elements);
        true
    }

    /// Ends the flows that began while a network that is masqueraded was not.
    fn forget_bare(&mut self, steps: &[Step]) {
        let mut flows: BTreeSet<Flow> = BTreeSet::new();
        for step in steps {
            let Step::Add(key @ Key::Masquerade(_, family), _) = step else {
                continue;
            };
            let Some(Owner::Network(id)) = self.state.owner(key) else {
                continue;
            };
            let subnet = self
                .state
                .network(&id)
                .and_then(|n| n.subnet(*family == Family::V6));
            flows.extend(subnet.map(|subnet| Flow::Bare(subnet.pool)));
        }
        self.forget_flows(flows);
    }

    fn forget_flows(&mut self, flows: BTreeSet<Flow>) {
        if flows.is_empty() {
            return;
        }
        if let Err(error) = self.kernel.forget(flows) {
            tracing::warn!(%error, "flows of before may go on to lead where the ports led");
        }
    }

    /// Makes one step and keeps the belief true.
    async fn step(&mut self, step: &Step) -> Result<(), Error> {
        let placed = self.placing.as_ref().filter(|(key, _)| key == step.key());
        let left = self.leaving.get(step.key()).filter(|_| step.removes());
        let done = match (placed.filter(|_| !step.removes()), left) {
            (Some((_, placed)), _) => {
                tracing::debug!("{step} # within {}", placed.sandbox);
                self.kernel.attach(step, placed).await
            }
            (None, Some(sandbox)) => {
                tracing::debug!("{step} # within {}", sandbox.display());
                match self.kernel.detach(step, sandbox).await {
                    Ok(()) => {
                        self.leaving.remove(step.key());
                        self.kernel.apply(step).await
                    }
                    refused => refused,
                }
            }
            (None, None) => {
                tracing::debug!("{step}");
                self.kernel.apply(step).await
            }
        };
        self.believe_step(step, &done);
        done.map_err(Error::Kernel)
    }

    /// Takes links on wires out of sandboxes that could not be taken out when they were to go.
    async fn take_out_left(&mut self) {
        for link in self.leaving.keys().cloned().collect::<Vec<_>>() {
            // What was taken back was not to go.
            let wanted = match self.state.owner(&link) {
                Some(Owner::Endpoint(id)) => self.state.endpoint(&id).is_some_and(|endpoint| endpoint.linked),
                _ => false,
            };
            if wanted {
                self.leaving.remove(&link);
                continue;
            }
            let step = Step::Remove(link, Value::Present);
            if let Err(error) = self.step(&step).await {
                self.trouble(&step, &error);
            }
        }
    }

    /// Takes links on wires out of sandboxes that an earlier run has left there, once Docker has told what it has. How a container
    /// came by its link says a record only if it was not rebuilt, so all are left that are some container's.
    async fn sweep_sandboxes(&mut self, view: &View) {
        if self.swept {
            return;
        }
        let troubled = self
            .problems
            .keys()
            .any(|about| about.starts_with(reconcile::PROBLEM));
        let driver = &self.setup.driver;
        let ours = view
            .networks
            .iter()
            .filter(|network| reconcile::is_driver(&network.driver, driver));
        let ours: Vec<&NetworkView> = ours.collect();
        let mut known = ours.iter().map(|network| self.state.network(&network.id));
        if troubled || !known.all(|network| network.is_some()) {
            return;
        }
        self.swept = true;
        let may_be = |network: &Network| network.spec.uplink().is_some() && network.spec.goes_inside();
        if !self.state.networks().any(may_be) {
            return;
        }
        let on_wire = |endpoint: &&Endpoint| endpoint.linked && self.state.is_on_wire(endpoint);
        let recorded = self
            .state
            .endpoints()
            .filter(on_wire)
            .map(|endpoint| &endpoint.id);
        let told = ours.iter().flat_map(|network| &network.endpoints);
        let wanted = recorded.chain(told.map(|endpoint| &endpoint.id));
        let wanted = wanted.map(EndpointId::container_link).collect();
        match self.kernel.sweep(wanted).await {
            Ok(taken) if taken.is_empty() => {}
            Ok(taken) => {
                tracing::warn!(links = ?taken, "taken out of sandboxes, where an earlier run had left them")
            }
            Err(error) => tracing::warn!(%error, "links that nobody wants may be in containers"),
        }
    }

    /// Makes many steps and keeps the belief true.
    async fn steps(&mut self, steps: &[Step]) -> Vec<Result<(), Error>> {
        if let [step] = steps {
            return vec![self.step(step).await];
        }
        for step in steps {
            tracing::debug!("{step}");
        }
        let done = self.kernel.apply_all(steps).await;
        for (step, done) in steps.iter().zip(&done) {
            self.believe_step(step, done);
        }
        done.into_iter().map(|done| done.map_err(Error::Kernel)).collect()
    }

    fn believe_step(&mut self, step: &Step, done: &Result<(), kernel::Error>) {
        let unknown = matches!(done, Err(kernel::Error::Unknown { .. }));
        self.in_doubt |= unknown;
        if done.is_ok() || unknown {
            match step {
                // If it is unknown whether it is there, taking it as there makes the way back remove it.
                Step::Add(key, value) | Step::Change(key, _, value) => {
                    self.believed.believe(key.clone(), Some(value.clone()));
                }
                Step::Remove(key, _) if done.is_ok() => self.believed.believe(key.clone(), None),
                Step::Remove(..) => {}
            }
        }
    }

    /// Takes an empty store for a lost one if the kernel holds links of ours: a first start finds none.
    pub async fn settle_first(&mut self, fresh: bool) {
        self.keep_unknown |= self.meta.contains_key(LOST);
        if fresh {
            self.keep_unknown |= match self.kernel.observe().await {
                Ok(found) => found.keys().any(|key| matches!(key, Key::Link(_))),
                // Not knowing is reason enough to keep what may be there.
                Err(_) => true,
            };
        }
        if self.keep_unknown {
            // The next start must know it too, if Docker can't be asked before.
            self.meta.insert(LOST.to_owned(), "yes".to_owned());
            if let Err(error) = self.journal.commit(&[records::put_meta(LOST, "yes")]) {
                tracing::warn!(%error, "that records were lost could not be noted");
            }
        }
        self.settle("start").await;
        // An earlier run may have ended before it could.
        let ports = self.believed.iter().filter_map(udp_flow);
        let gone = self.state.unheld().into_iter().map(Flow::Of);
        self.forget_flows(ports.chain(gone).collect());
    }

    /// Looks at the kernel, and repairs what differs, before anything else is done.
    pub async fn settle(&mut self, why: &str) {
        self.remove_later().await;
        match self.kernel.observe().await {
            Ok(observed) => drop(self.settle_found(why, observed, false).await),
            Err(error) => {
                // It is tried again with the next look, not after each request. One that is under way began before.
                self.in_doubt = false;
                self.believed.anew();
                self.unreadable(&error);
            }
        }
    }

    /// Repairs what differs from what is believed, a moment after a look: with tens of thousands of facts another one would take as
    /// long, and as much memory again.
    async fn settle_believed(&mut self, why: &str) {
        self.remove_later().await;
        if self.in_doubt {
            return self.settle(why).await;
        }
        let believed = std::mem::take(self.believed.anew());
        self.settle_found(why, believed, false).await;
    }

    /// Notes that the kernel could not be looked at.
    fn unreadable(&mut self, error: &kernel::Error) -> views::Comparison {
        tracing::error!(%error, "the kernel could not be read");
        self.problems
            .insert("kernel".to_owned(), error.to_string().into());
        views::Comparison::unreadable(error)
    }

    /// Notes endpoints whose links are gone, and repairs what differs. One object that won't settle doesn't stop the others; it is a
    /// problem that `status` shows, and tried again on the next look. `noted`: tells what it found.
    async fn settle_found(&mut self, why: &str, mut observed: World, noted: bool) -> views::Comparison {
        let mut compared = views::Comparison::default();
        self.in_doubt = false;
        self.believed.remind(&mut observed);
        let filter6 = observed.get(&Key::Setting(Setting::BridgeFilter6));
        self.state.note_bridge_filter6(filter6 == Some(&Value::Number(1)));
        if self.docker.never_heard() {
            // What an earlier run heard of them holds until there is something newer.
            let foreign = observed.keys().filter_map(|key| match key {
                Key::Foreign(link) => Some(link.clone()),
                _ => None,
            });
            self.state.note_foreign(foreign.collect());
        }
        self.note_lost(&observed).await;
        // With tens of thousands of facts a world takes megabytes: what was believed goes before what is wanted comes.
        self.believed.anew().clear();
        let desired = self.state.world();
        self.state.out_of_sight(&desired, &mut observed);
        *self.believed.anew() = observed;
        let steps = diff(&desired, &self.believed);
        self.problems
            .retain(|about, _| about.starts_with(reconcile::PROBLEM));
        let kept = steps
            .iter()
            .filter(|step| step.removes() && self.keep_unknown)
            .count();
        if kept > 0 {
            let why = format!(
                "{kept} objects that no record asks for are kept until Docker has been asked about them"
            );
            self.problems.insert("records were lost".to_owned(), why.into());
        }
        let strays = self.note_strays(&steps);
        let loaded = self.load_table(&steps, &desired).await;
        let large = is_large(&desired);
        self.count_facts(&desired);
        drop(desired);
        let mut told = 0;
        // With tens of thousands of steps what becomes of each takes megabytes.
        for run in runs(&steps).flat_map(|run| run.chunks(MANY_FACTS)) {
            let wanted = match run.iter().any(|step| self.is_kept(step)) {
                true => Cow::Owned(run.iter().filter(|step| !self.is_kept(step)).cloned().collect()),
                false => Cow::Borrowed(run),
            };
            let in_table = |step: &Step| *step.key() == Key::Table || step.key().is_element();
            let mut made = Vec::new();
            if wanted.first().is_some_and(|step| step.key().is_of_peers()) && !loaded {
                made = self.steps(&wanted).await;
            } else {
                for step in wanted.iter() {
                    made.push(match loaded && in_table(step) {
                        true => Ok(()),
                        false => self.step(step).await,
                    });
                }
            }
            for (step, done) in wanted.iter().zip(made) {
                if noted {
                    compared.note(step, Some(done.as_ref().err().map(ToString::to_string)));
                }
                match done {
                    Ok(()) => {
                        told += 1;
                        self.repaired(step, why, told <= MANY_REPAIRS);
                    }
                    Err(error) => self.trouble(step, &error),
                }
            }
        }
        self.take_out_left().await;
        if let Some(more) = told.checked_sub(MANY_REPAIRS).filter(|more| *more > 0) {
            tracing::info!(because = why, "repaired: {more} more");
        }
        self.forget(&steps);
        self.forget_bare(&steps);
        self.announce(&strays);
        drop(steps);
        if large {
            tombolo_core::pack(self.believed.anew());
            crate::host::give_back_memory();
        }
        // Steps with an unknown outcome were just tried; trying again at once would only spin.
        self.in_doubt = false;
        compared
    }

    /// Whether what was noticed of the kernel is not what is believed of it.
    fn surprises(&self, noticed: &Noticed) -> bool {
        let parent = |key: &Key| match key {
            Key::Link(name) => self.believed.get(&Key::Parent(name.clone())),
            _ => None,
        };
        let believed = |key: &Key| self.believed.get(key).or_else(|| parent(key));
        let surprise = |(key, value): (&Key, &Option<Value>)| match (believed(key), value) {
            (Some(believed), Some(value)) => !believed.holds_as(value),
            // One that is removed goes down first, and that may be heard of before it is heard that it is gone.
            (None, Some(Value::Unfit(_))) => false,
            (believed, value) => believed.is_some() != value.is_some(),
        };
        // What is to go may be gone, with its container's sandbox or by the steps that are under way.
        let mut facts = noticed.facts.iter().filter(|(key, _)| !self.later.concerns(key));
        noticed.missed || facts.any(surprise)
    }

    /// Whether a step would remove what may be wanted by those who were not heard yet: Docker, or other hosts.
    fn is_kept(&self, step: &Step) -> bool {
        let of_tunnel = || match step.key() {
            Key::Link(link) | Key::Port(link) => self.state.has_tunnel(link),
            _ => false,
        };
        let of_peers = || !self.peers_known && (step.key().is_of_peers() || of_tunnel());
        step.removes() && (self.keep_unknown || of_peers())
    }

    /// Notes that a step was not made.
    fn trouble(&mut self, step: &Step, error: &Error) {
        let owner = self.state.owner(step.key());
        let place = self.place(owner.as_ref());
        let (network, container) = (place.network_name, place.container_name);
        tracing::error!(%step, %error, network, container, "does not settle; tried again on the next look");
        let problem = Problem {
            text: error.to_string(),
            step: Some(step.to_string()),
            owner,
        };
        self.problems.insert(events::about(step.key()), problem);
    }

    /// A joined endpoint whose host end is gone is dead: its container's namespace ended without a word from Docker. Its
    /// link is never made again, because only Docker could put the other end anywhere.
    async fn note_lost(&mut self, observed: &World) {
        let gone = |id: &EndpointId| !observed.contains_key(&Key::Link(id.host_link()));
        let lost = self
            .state
            .endpoints()
            .filter(|e| e.linked && !self.state.is_on_wire(e) && gone(&e.id))
            .map(|e| e.id.clone());
        let lost: Vec<EndpointId> = lost.collect();
        for id in lost {
            let (container, endpoint) = (self.docker.container_name(&id), &id);
            tracing::info!(%endpoint, container, "its link is gone, so its container is");
            self.believed.believe(Key::Link(id.host_link()), None);
            self.by_ourselves(&Command::Lost(id)).await;
        }
    }

    /// Carries out a command that nobody waits for. Whether it was done.
    async fn by_ourselves(&mut self, command: &Command) -> bool {
        let deadline = Instant::now() + crate::http::DEADLINE;
        match self.carry_out(command, &Looked::default(), deadline, false).await {
            Ok((_, taken)) => self.tell_change(&taken),
            Err(error) => {
                tracing::warn!(?command, %error, "not done; tried again later");
                return false;
            }
        }
        true
    }

    /// Keeps what the cluster's part of this daemon must not forget.
    fn keep(&mut self, records: Vec<(String, Option<String>)>) -> Result<(), String> {
        let puts: Vec<Put> = records
            .iter()
            .map(|(key, value)| records::put_cluster(key, value.as_deref()))
            .collect();
        self.journal.commit(&puts).map_err(|error| error.to_string())?;
        for (key, value) in records {
            match value {
                Some(value) => self.cluster.insert(key, value),
                None => self.cluster.remove(&key),
            };
        }
        Ok(())
    }

    async fn import(&mut self, mut records: Records) -> Result<(), String> {
        if records.schema != records::SCHEMA {
            return Err(format!(
                "schema: {}; this version imports {}",
                records.schema,
                records::SCHEMA
            ));
        }
        let driver = &self.setup.driver;
        records.of_driver(driver).map_err(|error| error.to_string())?;
        records.meta.insert(records::DRIVER.to_owned(), driver.clone());
        // What this host owns of the cluster's pools is for the cluster to say, whatever once was.
        records.shares = self.state.ipam().shares().clone();
        records.cluster = self.cluster.clone();
        let rows = records.rows();
        let meta = records.meta.clone();
        let (state, problems) = records.into_state();
        if !problems.is_empty() {
            return Err(format!("the records don't fit together: {}", problems.join("; ")));
        }
        self.journal.replace(&rows).map_err(|error| error.to_string())?;
        (self.state, self.lent, self.meta) = (state, lent::leases(&meta), meta);
        self.events.tell(&events::What::Records { action: "imported" });
        self.settle("import").await;
        Ok(())
    }
}

/// The addresses of the endpoints that edits make or change.
fn addresses_of(edits: &[Edit]) -> Vec<IpAddr> {
    let endpoints = edits.iter().filter_map(|edit| match edit {
        Edit::Endpoint(_, after) => after.as_ref(),
        _ => None,
    });
    endpoints
        .flat_map(|endpoint| endpoint.addresses.iter().map(|address| address.addr()))
        .collect()
}

/// What is written of edits, if all of it can be.
fn writable(edits: &[Edit]) -> Result<Vec<Put>, Error> {
    let puts: Vec<Put> = edits.iter().map(records::put).collect();
    store::check(&puts).map_err(|error| Error::Store(Arc::new(error)))?;
    Ok(puts)
}

/// Whether memory that so many facts took is given back.
fn is_large(world: &World) -> bool {
    world.len() > MANY_FACTS
}

/// The facts of some owners.
fn facts_of(state: &State, owners: &BTreeSet<Owner>) -> World {
    let mut world = World::new();
    owners.iter().for_each(|owner| state.facts(owner, &mut world));
    world
}

/// Steps in runs that are made at once, those that concern other hosts, and one by one, the others.
fn runs(steps: &[Step]) -> impl Iterator<Item = &[Step]> {
    steps.chunk_by(|one, next| one.key().is_of_peers() == next.key().is_of_peers())
}

/// What a published port of UDP leaves of the flows that there are.
fn udp_flow((key, value): (&Key, &Value)) -> Option<Flow> {
    match (key, value) {
        (Key::Publish(Proto::Udp, host, port), Value::To(to, to_port)) => Some(Flow::Udp {
            host: *host,
            port: *port,
            to: (*to, *to_port),
        }),
        _ => None,
    }
}

/// The sort of a fact, for counting.
fn sort(key: &Key) -> &'static str {
    match key {
        Key::Table => "table",
        Key::UserTable => "user-table",
        Key::Tunnels => "tunnels",
        Key::Neighbour(..) => "neighbour",
        Key::Proxied(..) => "proxied",
        Key::Forward(..) => "forward",
        Key::Flood(..) => "flood",
        Key::Remote(..) => "remote",
        Key::Route(_) => "route",
        Key::Apart(_) => "apart",
        Key::Restricted(_) | Key::Publisher(..) => "publish-from",
        Key::Member(..) => "member",
        Key::Shared(..) => "shared",
        Key::Loopback(_) => "loopback-route",
        Key::LoopbackPorts => "loopback",
        Key::Rate(_) => "rate",
        Key::Foreign(_) => "foreign",
        Key::Source(..) => "source",
        Key::Trusted(..) => "trusted",
        Key::Routed(..) => "routed",
        Key::Unprotected(..) => "unprotected",
        Key::Open(..) => "open",
        Key::Guard(_) => "guard",
        Key::Link(_) => "link",
        Key::Parent(_) => "parent",
        Key::Child(_) => "child",
        Key::Way(..) => "way",
        Key::Setting(_) => "setting",
        Key::Querier(_) => "querier",
        Key::Port(_) => "port",
        Key::Address(..) => "address",
        Key::Allow(_) => "allow",
        Key::DockerAccept(_) => "docker-accept",
        Key::Masquerade(..) => "masquerade",
        Key::Publish(..) => "publish",
    }
}
