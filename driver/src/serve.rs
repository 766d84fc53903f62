//! The daemon, put together.
//!
//! ```text
//!   sockets bound, or taken over ─> store opened, records read ─> kernel settled ─> requests served
//!        (Docker's calls wait in the socket's queue meanwhile, for milliseconds)
//!
//!   tasks:  plug-in socket ┐                         thread "engine":
//!           control socket ├── Ask ──> queue ──────> records, kernel, store
//!           Docker's API   │
//!           slow tick      │
//!           heartbeat      │
//!           metrics        ┘
//! ```
//!
//! On SIGTERM or SIGINT nothing more is accepted, requests under way end, and the kernel is left as it is: containers go on.
//! When another process takes over ([`crate::hand_over`]), the sockets are handed to it then. If that process dies before
//! it serves, all is put together once more, with the same sockets.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tombolo_core::state::State;
use tombolo_ipam::Carve;

use crate::claim::Claim;
use crate::cluster;
use crate::cluster::handle::{BEGINS, Cluster, OUTSIDE};
use crate::cluster::keep::Files;
use crate::cluster::part::Around;
use crate::cluster::shown::Shown;
use crate::config::{Config, DockerHost, MetricsAddr, Setting};
use crate::control::{Control, Mended};
use crate::door::Door;
use crate::engine::events::Events;
use crate::engine::{self, Ask, Edge, Engine, Journal, Outside, Setup, Want};
use crate::hand_over::{Giver, Offer, Taken, Told, Waiting};
use crate::http::Plugin;
use crate::kernel::Real;
use crate::kernel::notice::{Notice, Noticed};
use crate::kernel::watch::{Own, Watch};
use crate::lent::Lent;
use crate::metrics::{Metrics, Timed};
use crate::records::{self, Records};
use crate::replicas::{self, Replicas};
use crate::segment::Segments;
use crate::sockets::{self, Found, Name, Socket, Sockets};
use crate::store::{self, Opened, Put, Row, Store};
use crate::{claim, control, dns, docker, host, http, lent, listen, metrics, wires};

/// The version of the records' form.
pub use crate::records::SCHEMA;

/// Between two full looks at the kernel.
const TICK: Duration = Duration::from_secs(10);
/// How long a process that has died while it took over may take to let go of the state.
const LET_GO: Duration = Duration::from_secs(10);
/// How long changes of firewall rules are gathered before the kernel is looked at.
const FLOCK: Duration = Duration::from_millis(200);
/// How long changes of links, neighbours and routes are gathered before they are compared with what should be.
const TOGETHER: Duration = Duration::from_millis(50);
/// How long the end waits for threads that are within a call of the system's, such as a program that sets rules in a container.
const STRAY: Duration = Duration::from_secs(1);
/// Between two plain copies of the records.
const BACKUP: Duration = Duration::from_secs(300);
/// Under what this host's IPv6 prefix is kept.
const ULA: &str = "ula";

/// What keeps the daemon from serving.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket could not be made.
    #[error(transparent)]
    Sockets(#[from] sockets::Error),
    /// Another tombolo looks after this host.
    #[error(transparent)]
    Claim(#[from] claim::Error),
    /// The socket for metrics could not be made.
    #[error(
        "metrics_addr (from {origin}): '{addr}' can't be listened on; allowed: an address of this host with a port that is free, or off"
    )]
    Metrics {
        /// The address.
        addr: SocketAddr,
        /// Where the setting came from.
        origin: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The state is of a driver of another name. It is as it was.
    #[error("the state in {}", dir.display())]
    Driver {
        /// The state directory.
        dir: PathBuf,
        /// Whose it is.
        source: records::OtherDriver,
    },
    /// The state can't be used.
    #[error("opening the state in {}", dir.display())]
    State {
        /// The state directory.
        dir: PathBuf,
        /// Why not.
        source: store::Error,
    },
    /// Something that the system gives every process was refused.
    #[error("{what}")]
    System {
        /// What was refused.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Journal for Store {
    fn commit(&mut self, puts: &[Put]) -> Result<(), store::Error> {
        Store::commit(self, puts)
    }

    fn replace(&mut self, rows: &[Row]) -> Result<(), store::Error> {
        Store::replace(self, rows)
    }

    fn rebuilt(&mut self) -> Result<(), store::Error> {
        Store::rebuilt(self)
    }

    fn backup(&self) -> Result<(), store::Error> {
        Store::backup(self)
    }
}

/// What was read from the store.
struct Loaded {
    state: State,
    meta: BTreeMap<String, String>,
    /// What the cluster's part of the daemon has kept.
    cluster: BTreeMap<String, String>,
    recovered: Option<String>,
    fresh: bool,
    lost: bool,
}

/// What is served, and who waits for us to serve it.
struct Open {
    sockets: Sockets,
    metrics: Option<TcpListener>,
    giver: Option<Waiting>,
}

/// Serves until told to stop by a signal, or by another process that takes over. `taken` is what this process took over
/// itself.
///
/// # Errors
/// [`Error`], before anything was served.
pub fn run(config: Config, taken: Option<Taken>) -> Result<(), Error> {
    let system = |what| move |source| Error::System { what, source };
    let runtime = tokio::runtime::Runtime::new().map_err(system("starting the asynchronous runtime"))?;
    let ended = runtime.block_on(serve(config, taken));
    // What still runs on a thread of its own changes nothing any more; nobody who stops this daemon is to wait for it.
    runtime.shutdown_timeout(STRAY);
    ended
}

async fn serve(config: Config, taken: Option<Taken>) -> Result<(), Error> {
    for ignored in &config.ignored {
        tracing::warn!("{ignored}");
    }
    let (tell, told) = watch::channel(Told::Serve);
    end_on_signal(tell.clone())?;
    // Where another daemon looks after this host, nothing of its is touched. One who hands over has let go of the claim.
    let sockets = match taken {
        Some(taken) => Whence::Taken(taken),
        None => Whence::Found(Found::look(&config)?),
    };
    let claim = Claim::take(&config.control_socket)?;
    let mut open = open(&config, sockets)?;
    let mut held = hold(&config, claim)?;
    while let Some(back) = serve_once(&config, open, held, &tell, &told).await? {
        open = back;
        held = hold_again(&config).await?;
    }
    tracing::info!("ended; networks and containers go on as they are");
    Ok(())
}

/// Where the sockets come from.
enum Whence {
    Taken(Taken),
    Found(Found),
}

fn open(config: &Config, sockets: Whence) -> Result<Open, Error> {
    let socket = |listener| Socket { listener, name: None };
    Ok(match sockets {
        Whence::Taken(taken) => Open {
            sockets: Sockets {
                plugin: socket(taken.plugin),
                control: socket(taken.control),
            },
            metrics: taken.metrics,
            giver: Some(taken.giver),
        },
        Whence::Found(found) => Open {
            sockets: found.open(config)?,
            metrics: metrics_socket(config)?,
            giver: None,
        },
    })
}

/// What one process at a time may have: this host, and the state.
struct Held {
    claim: Claim,
    store: Store,
    opened: Opened,
}

/// Takes hold of the state, before anything of the kernel is touched.
fn hold(config: &Config, claim: Claim) -> Result<Held, Error> {
    let opened = Store::open(&config.state_dir, records::SCHEMA);
    let (store, opened) = opened.map_err(|source| Error::State {
        dir: config.state_dir.clone(),
        source,
    })?;
    Ok(Held { claim, store, opened })
}

/// Takes hold once more after a process that may have had it for a moment and died: what it held is let go of piece by
/// piece, in no order that we know.
async fn hold_again(config: &Config) -> Result<Held, Error> {
    let end = tokio::time::Instant::now() + LET_GO;
    loop {
        let held = Claim::take(&config.control_socket).map_err(Error::Claim);
        match held.and_then(|claim| hold(config, claim)) {
            Err(
                Error::Claim(claim::Error::Taken { .. })
                | Error::State {
                    source: store::Error::Locked { .. },
                    ..
                },
            ) if tokio::time::Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
            held => return held,
        }
    }
}

/// Puts all together and serves until told something else. Gives back what was served if another process was to take over
/// and has gone.
async fn serve_once(
    config: &Config,
    open: Open,
    held: Held,
    tell: &watch::Sender<Told>,
    told: &watch::Receiver<Told>,
) -> Result<Option<Open>, Error> {
    let state = |source| Error::State {
        dir: config.state_dir.clone(),
        source,
    };
    let Held { claim, store, opened } = held;
    let mut loaded = load(&store, opened).map_err(state)?;
    let driver = driver_name(&config.plugin_socket);
    note_driver(config, &store, &mut loaded, &driver)?;
    let carve = carve(config, &store, &mut loaded.meta)?;
    let in_cluster = cluster::keep::in_cluster(&loaded.cluster);
    let setup = Setup {
        carve,
        host_binding: Some(config.host_binding),
        attach: config.attach,
        driver,
        edge: Edge {
            now_s: host::now_s,
            port: host::port,
            port_holder: host::port_holder,
            ephemeral: host::ephemeral,
            dead_link: host::dead_link,
        },
        settings: config
            .listing()
            .into_iter()
            .map(|s| (s.name.to_owned(), s.value, s.origin))
            .collect(),
        ignored: config.ignored.clone(),
        recovered: loaded.recovered.clone(),
        outside: Outside::because(if in_cluster { BEGINS } else { OUTSIDE }),
        wake: Arc::default(),
    };
    let (outside, wake) = (setup.outside.clone(), setup.wake.clone());
    let wake_cluster = wake.clone();
    let kept = loaded.cluster.clone();

    let driver = setup.driver.clone();
    let metrics = Arc::new(Metrics::new());
    let store = Timed::new(store, metrics.clone());
    let events = Events::default();
    let follow = events.clone();
    let (asks, queue) = mpsc::channel(engine::QUEUE);
    let (ready, is_ready) = oneshot::channel();
    let kernel = Real::new();
    let own = kernel.own();
    let engine = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || run_engine(loaded, kernel, store, setup, follow, queue, ready))
        .map_err(|source| Error::System {
            what: "starting the engine's thread",
            source,
        })?;
    is_ready.await.map_err(|_| {
        let source = std::io::Error::other("its thread ended before it began");
        Error::System {
            what: "starting the engine",
            source,
        }
    })?;

    let Open {
        mut sockets,
        metrics: metrics_socket,
        giver,
    } = open;
    if let Some(giver) = giver {
        sockets.plugin.take_name(&config.plugin_socket);
        sockets.control.take_name(&config.control_socket);
        giver.serves();
    }
    // Before the cluster hears of this host: it would be told that nobody here hears anything.
    let (membership, heard) = listen::first_heard(&asks).await;
    let names = Arc::new(dns::Names::default());
    let served = Arc::new(dns::Served::default());
    let replicas = Arc::new(Replicas::new(config.replicate.0));
    let around = Around {
        asks: asks.clone(),
        events: events.clone(),
        outside: outside.clone(),
        shown: Shown::beginning(in_cluster),
        wake,
        files: Files::below(&config.state_dir),
        name: host_name(),
        port: config.cluster_port,
        advertise: cluster::advertise::advertise,
        advertised: config.advertise.clone(),
        vxlan_port: config.vxlan_port,
        store: cluster::store::Store::of(&config.store),
        names: names.clone(),
        zone: config.dns_zone.to_string(),
        replicas: replicas.clone(),
        alone: match config.cluster_alone {
            crate::config::Alone::Lease => tombolo_cluster::node::Alone::Lease,
            crate::config::Alone::Wait => tombolo_cluster::node::Alone::Wait,
        },
    };
    let (cluster, task) = Cluster::new(config, around, kept);
    let (end_cluster, cluster_ends) = oneshot::channel();
    let clustered = tokio::spawn(task.run(cluster_ends));
    let (giver, mut offers) = Giver::new(config, sockets.are_ours(), tell.clone());
    let scraped_cluster = cluster.clone();
    let tunnels = cluster::tunnels::watch(cluster.clone(), events.clone());
    let told_events = events.clone();
    let replica_events = events.clone();
    let (mends, mut mend) = mpsc::channel::<oneshot::Sender<Mended>>(1);
    let called = Arc::new(Notify::new());
    let ahead = Arc::new(Notify::new());
    let (lent, changes) = Lent::new(asks.clone());
    // Before the first call: which pools are lent must be known.
    lent.tend().await;
    let segments = match Segments::new(|_| false) {
        Ok(segments) => Some(Arc::new(segments)),
        Err(error) => {
            tracing::warn!(%error, "strangers on the wires of this host can't be looked for");
            None
        }
    };
    let plugin = http::plugin(Plugin {
        asks: asks.clone(),
        segments: segments.clone(),
        ahead: ahead.clone(),
        lent: lent.clone(),
        events: events.clone(),
        cluster: cluster.clone(),
        outside,
        replicas: replicas.clone(),
        metrics: metrics.clone(),
        called: called.clone(),
    });
    let control = control::control(Control {
        asks: asks.clone(),
        events,
        told: told.clone(),
        giver,
        cluster,
        names: served.clone(),
        replicas: replicas.clone(),
        mends,
    });
    let door = |socket, path: &Path, app| {
        let door = Door::open(socket, path.to_owned(), app, told.clone());
        door.map_err(|source| Error::System {
            what: "listening on a socket",
            source,
        })
    };
    let mut plugin = door(sockets.plugin, &config.plugin_socket, plugin)?;
    let mut control = door(sockets.control, &config.control_socket, control)?;
    let mut others = JoinSet::new();
    others.spawn(tick(asks.clone()));
    others.spawn(watch(own, asks.clone()));
    others.spawn(notice(asks.clone()));
    others.spawn(listen::listen(membership, heard, asks.clone()));
    others.spawn(heartbeat(asks.clone()));
    others.spawn(tunnels);
    others.spawn(dns::serve(
        names,
        config.dns_zone.clone(),
        served.clone(),
        export(config),
    ));
    others.spawn(wires::look_after(asks.clone(), segments, ahead));
    others.spawn(lent::look_after(lent, changes, told_events));
    let scraped = match metrics_socket {
        Some(socket) => {
            let router = metrics::router(metrics, asks.clone(), scraped_cluster);
            let socket = scrapable(socket)?;
            Some(tokio::spawn(http::serve(socket, router, end(told.clone()))))
        }
        None => None,
    };
    let DockerHost::Unix(docker_socket) = &config.docker_host;
    let around = replicas::Around {
        socket: docker_socket.clone(),
        asks: asks.clone(),
        wake: wake_cluster,
        events: replica_events,
    };
    others.spawn(replicas::look_after(replicas.clone(), around));
    others.spawn(docker::follow(
        docker_socket.clone(),
        driver,
        asks,
        called,
        replicas,
    ));
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    tracing::info!(plugin_socket = %config.plugin_socket.display(), state = %config.state_dir.display(), "serving");

    let mut interval = tokio::time::interval(TICK);
    let ended = end(told.clone());
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            _ = interval.tick() => drop([plugin.mend(), control.mend()]),
            Some(answer) = mend.recv() => {
                let mended = [plugin.mend(), control.mend()].into_iter().flatten().collect();
                // An asker that has gone needs no answer.
                answer.send(mended).ok();
            }
        }
    }
    if *told.borrow() == Told::HandOver {
        // Who takes over gets sockets that are reached.
        drop([plugin.mend(), control.mend()]);
    }

    let (plugin, control) = (plugin.ended().await, control.ended().await);
    let metrics = match scraped {
        Some(scraped) => scraped.await.ok().and_then(|socket| socket.into_std().ok()),
        None => None,
    };
    others.shutdown().await;
    // The engine outlives it: what is kept last goes through it.
    end_cluster.send(()).ok();
    clustered.await.ok();
    tokio::task::spawn_blocking(move || engine.join()).await.ok();
    drop(claim);
    let offer = offers
        .try_recv()
        .ok()
        .filter(|_| *told.borrow() == Told::HandOver);
    // A server that panicked has ended as well, but its socket is lost.
    match (offer, plugin, control) {
        (Some(offer), Some(plugin), Some(control)) => {
            let sockets = Sockets { plugin, control };
            Ok(hand_over(offer, sockets, metrics, tell).await)
        }
        _ => Ok(None),
    }
}

/// Hands all over to another process; gives it back, to be served again, if that one has gone.
async fn hand_over(
    offer: Offer,
    sockets: Sockets,
    metrics: Option<TcpListener>,
    tell: &watch::Sender<Told>,
) -> Option<Open> {
    let scraped = metrics.as_ref().map(AsFd::as_fd);
    let (plugin, control) = (&sockets.plugin.listener, &sockets.control.listener);
    match offer.give(plugin.as_fd(), control.as_fd(), scraped).await {
        Ok(()) => {
            let names = [sockets.plugin.name, sockets.control.name];
            names.into_iter().flatten().for_each(Name::leave);
            None
        }
        Err(error) => {
            let error = http::chain(&error);
            tracing::error!(error, "nobody took over; this daemon goes on");
            tell.send_replace(Told::Serve);
            Some(Open {
                sockets,
                metrics,
                giver: None,
            })
        }
    }
}

/// The engine's thread: it may block on the disk without holding up anything else.
fn run_engine(
    loaded: Loaded,
    kernel: Real,
    store: Timed<Store>,
    setup: Setup,
    events: Events,
    queue: mpsc::Receiver<Ask>,
    ready: tokio::sync::oneshot::Sender<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "the engine has no runtime"),
    };
    runtime.block_on(async {
        let engine = Engine::new(loaded.state, loaded.meta, loaded.lost, kernel, store, setup);
        let in_cluster = cluster::keep::in_cluster(&loaded.cluster);
        let mut engine = engine.telling(events).keeping(loaded.cluster, in_cluster);
        engine.settle_first(loaded.fresh).await;
        ready.send(()).ok();
        let store = engine.run(queue).await;
        if let Err(error) = store.backup() {
            tracing::error!(%error, "the last copy of the records was not written");
        }
    });
    // A look that is under way changes nothing, and nobody is to wait for it.
    runtime.shutdown_background();
}

fn load(store: &Store, opened: Opened) -> Result<Loaded, store::Error> {
    let (records, unreadable) = Records::read(&store.load()?);
    let meta = records.meta.clone();
    let cluster = records.cluster.clone();
    let (state, misfits) = records.into_state();
    let unreadable: Vec<String> = unreadable.iter().map(ToString::to_string).collect();
    for problem in unreadable.iter().chain(&misfits) {
        tracing::error!(%problem, "a record is not used");
    }
    let fresh = opened == Opened::Fresh;
    let (recovered, lost) = match opened {
        Opened::Fresh | Opened::Whole => (None, false),
        Opened::Recovered { how, lost } => (Some(how), lost),
    };
    if let Some(how) = &recovered {
        tracing::error!(%how, "the state was damaged");
    }
    let lost = lost || !unreadable.is_empty() || !misfits.is_empty();
    Ok(Loaded {
        state,
        meta,
        cluster,
        recovered,
        fresh,
        lost,
    })
}

/// Where pools are cut from. A host whose settings name no IPv6 range gets a unique local prefix of its own, drawn once
/// and kept (RFC 4193, section 3.2).
fn carve(config: &Config, store: &Store, meta: &mut BTreeMap<String, String>) -> Result<Vec<Carve>, Error> {
    let state = |source| Error::State {
        dir: config.state_dir.clone(),
        source,
    };
    // The settings were checked for just what a pool must be.
    let mut carve: Vec<Carve> = config
        .address_pools
        .iter()
        .filter_map(|p| Carve::new(p.base, p.size).ok())
        .collect();
    if carve.iter().any(Carve::is_v6) {
        return Ok(carve);
    }
    let kept = meta.get(ULA).and_then(|text| text.parse().ok());
    let prefix: IpNet = match kept {
        Some(prefix) => prefix,
        None => {
            let prefix = draw_ula().map_err(|source| Error::System {
                what: "reading /dev/urandom",
                source,
            })?;
            store
                .commit(&[records::put_meta(ULA, &prefix.to_string())])
                .map_err(state)?;
            meta.insert(ULA.to_owned(), prefix.to_string());
            prefix
        }
    };
    // A /48 cut in /64 is always well-formed.
    carve.extend(Carve::new(prefix, 64).ok());
    Ok(carve)
}

/// `fd` and forty random bits.
fn draw_ula() -> std::io::Result<IpNet> {
    use std::io::Read;
    let mut octets = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut octets[1..6])?;
    octets[0] = 0xfd;
    IpNet::new(std::net::Ipv6Addr::from(octets).into(), 48).map_err(std::io::Error::other)
}

/// Notes the driver's name with the records, unless they are of a driver of another one.
fn note_driver(config: &Config, store: &Store, loaded: &mut Loaded, driver: &str) -> Result<(), Error> {
    let dir = || config.state_dir.clone();
    let records = Records::of(&loaded.state, &loaded.meta);
    records
        .of_driver(driver)
        .map_err(|source| Error::Driver { dir: dir(), source })?;
    if loaded
        .meta
        .get(records::DRIVER)
        .is_none_or(|noted| noted != driver)
    {
        store
            .commit(&[records::put_meta(records::DRIVER, driver)])
            .map_err(|source| Error::State { dir: dir(), source })?;
        loaded.meta.insert(records::DRIVER.to_owned(), driver.to_owned());
    }
    Ok(())
}

/// How the zone of names is open to the outside, if it is.
fn export(config: &Config) -> Option<dns::Export> {
    let transfer = config.dns_export.0.clone()?;
    let advertised = config.advertise.clone();
    let addresses = move || {
        let addresses = cluster::advertise::advertise(&advertised);
        let told = addresses
            .inspect_err(|error| tracing::debug!(error, "where others reach this host can't be told"));
        told.ok()
    };
    Some(dns::Export {
        transfer,
        addresses: Arc::new(addresses),
    })
}

/// The driver's name is the file name of its socket: so Docker finds plug-ins.
fn driver_name(socket: &Path) -> String {
    socket.file_stem().map_or_else(
        || "tombolo".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

/// The socket that metrics are scraped from, if there is to be one.
///
/// # Errors
/// [`Error::Metrics`].
pub fn metrics_socket(config: &Config) -> Result<Option<TcpListener>, Error> {
    let MetricsAddr(Some(addr)) = config.metrics_addr else {
        return Ok(None);
    };
    let listener = TcpListener::bind(addr).map_err(|source| Error::Metrics {
        addr,
        origin: config.origin(Setting::MetricsAddr).to_string(),
        source,
    })?;
    Ok(Some(listener))
}

fn scrapable(socket: TcpListener) -> Result<tokio::net::TcpListener, Error> {
    let ready = socket.set_nonblocking(true);
    let ready = ready.and_then(|()| tokio::net::TcpListener::from_std(socket));
    ready.map_err(|source| Error::System {
        what: "listening for scrapes",
        source,
    })
}

async fn tick(asks: mpsc::Sender<Ask>) {
    let mut last_backup = tokio::time::Instant::now();
    let mut interval = tokio::time::interval(TICK);
    interval.tick().await;
    loop {
        interval.tick().await;
        if asks.send(Ask::Look(Want::repair("tick"))).await.is_err() {
            return;
        }
        if last_backup.elapsed() >= BACKUP {
            last_backup = tokio::time::Instant::now();
            if asks.send(Ask::Backup).await.is_err() {
                return;
            }
        }
    }
}

/// Has the kernel looked at soon after somebody has changed firewall rules.
async fn watch(own: Own, asks: mpsc::Sender<Ask>) {
    let watched = async {
        let mut watch = Watch::new(own)?;
        loop {
            watch.changed().await?;
            // Changes come in flocks, such as an engine's start; one look serves all of one.
            tokio::time::sleep(FLOCK).await;
            watch.catch_up()?;
            let want = Want::repair("firewall rules were changed");
            if asks.send(Ask::Look(want)).await.is_err() {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    if let Err(error) = watched.await {
        let every_s = TICK.as_secs();
        tracing::warn!(%error, every_s, "changes of firewall rules are not heard, only found now and then");
    }
}

/// Has the engine look when something of ours was changed by somebody else.
async fn notice(asks: mpsc::Sender<Ask>) {
    let watched = async {
        let mut notice = Notice::new().await?;
        loop {
            let mut noticed = Noticed::default();
            notice.noticed(&mut noticed).await?;
            // What belongs together comes together, and what was changed back meanwhile is no matter.
            tokio::time::sleep(TOGETHER).await;
            notice.catch_up(&mut noticed)?;
            if asks.send(Ask::Noticed(noticed)).await.is_err() {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    if let Err(error) = watched.await {
        let every_s = TICK.as_secs();
        tracing::warn!(%error, every_s, "changes of links, neighbours and routes are not heard, only found now and then");
    }
}

/// Tells the service manager, if it wants to hear it, that we live: each time the engine's task has answered, so a task
/// that hangs is heard of.
async fn heartbeat(asks: mpsc::Sender<Ask>) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    // Three chances within the limit.
    let mut interval = tokio::time::interval(limit / 3);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let (answer, answered) = tokio::sync::oneshot::channel();
        if asks.send(Ask::Alive(answer)).await.is_err() || answered.await.is_err() {
            return;
        }
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
            tracing::warn!(%error, "the service manager does not hear that this daemon lives");
        }
    }
}

/// Tells the daemon to end when a signal says so.
fn end_on_signal(tell: watch::Sender<Told>) -> Result<(), Error> {
    let fault = |source| Error::System {
        what: "listening for signals",
        source,
    };
    let mut term = signal(SignalKind::terminate()).map_err(fault)?;
    let mut int = signal(SignalKind::interrupt()).map_err(fault)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("told to stop");
        // One who is handing over ends anyway, and the other process counts on the sockets. If that one dies, this waits
        // no longer.
        let mut told = tell.subscribe();
        loop {
            if told.wait_for(|told| *told == Told::Serve).await.is_err() {
                return;
            }
            let ends = tell.send_if_modified(|told| {
                let serves = *told == Told::Serve;
                if serves {
                    *told = Told::End;
                }
                serves
            });
            if ends {
                return;
            }
        }
    });
    Ok(())
}

/// This host's name, as it calls itself.
fn host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "host".to_owned())
}

async fn end(mut told: watch::Receiver<Told>) {
    // The senders outlive the servers.
    told.wait_for(|told| *told != Told::Serve).await.ok();
}
