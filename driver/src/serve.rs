//! The daemon, put together.
//!
//! ```text
//!   sockets bound ─> store opened, records read ─> kernel settled ─> requests served
//!        (Docker's calls wait in the socket's queue meanwhile, for milliseconds)
//!
//!   tasks:  plug-in socket ┐                         thread "engine":
//!           control socket ├── Ask ──> queue ──────> records, kernel, store
//!           Docker's API   │
//!           slow tick      ┘
//! ```
//!
//! On SIGTERM or SIGINT the sockets close, requests under way end, and the kernel is left as it is: containers go on.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tombolo_core::state::State;
use tombolo_ipam::Carve;

use crate::config::{Config, DockerHost};
use crate::control::Control;
use crate::engine::events::Events;
use crate::engine::{self, Ask, Edge, Engine, Journal, Setup};
use crate::kernel::Real;
use crate::kernel::watch::Watch;
use crate::records::{self, Records};
use crate::store::{self, Opened, Put, Row, Store};
use crate::{control, docker, host, http};

/// The version of the records' form.
pub use crate::records::SCHEMA;

/// Between two full looks at the kernel.
const TICK: Duration = Duration::from_secs(10);
/// How long changes of firewall rules are gathered before the kernel is looked at.
const FLOCK: Duration = Duration::from_millis(200);
/// Between two plain copies of the records.
const BACKUP: Duration = Duration::from_secs(300);
/// Under what this host's IPv6 prefix is kept.
const ULA: &str = "ula";

/// What keeps the daemon from serving.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket could not be made.
    #[error("making the socket {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
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
    recovered: Option<String>,
    fresh: bool,
    lost: bool,
}

/// Serves until told to stop by a signal.
///
/// # Errors
/// [`Error`], before anything was served.
pub fn run(config: Config) -> Result<(), Error> {
    let system = |what| move |source| Error::System { what, source };
    let runtime = tokio::runtime::Runtime::new().map_err(system("starting the asynchronous runtime"))?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Error> {
    let (plugin_socket, _plugin_name) = plugin_listener(&config.plugin_socket)?;
    let (control_socket, _control_name) = bind(&config.control_socket)?;
    let state = |source| Error::State {
        dir: config.state_dir.clone(),
        source,
    };
    let (store, opened) = Store::open(&config.state_dir, records::SCHEMA).map_err(state)?;
    let mut loaded = load(&store, opened).map_err(state)?;
    let carve = carve(&config, &store, &mut loaded.meta)?;
    let setup = Setup {
        carve,
        host_binding: Some(config.host_binding),
        driver: driver_name(&config.plugin_socket),
        edge: Edge {
            now_s: host::now_s,
            port_free: host::port_free,
            port_holder: host::port_holder,
            ephemeral: host::ephemeral,
        },
        settings: config
            .listing()
            .into_iter()
            .map(|s| (s.name.to_owned(), s.value, s.origin))
            .collect(),
        recovered: loaded.recovered.clone(),
    };

    let driver = setup.driver.clone();
    let events = Events::default();
    let told = events.clone();
    let (asks, queue) = mpsc::channel(engine::QUEUE);
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let engine = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || run_engine(loaded, store, setup, told, queue, ready))
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

    let stop = stop_signal()?;
    let plugin = tokio::spawn(http::serve(
        plugin_socket,
        http::plugin(asks.clone()),
        stopped(stop.clone()),
    ));
    let control = tokio::spawn(http::serve(
        control_socket,
        control::control(Control {
            asks: asks.clone(),
            events,
            stop: stop.clone(),
        }),
        stopped(stop.clone()),
    ));
    let tick = tokio::spawn(tick(asks.clone()));
    let watch = tokio::spawn(watch(asks.clone()));
    let DockerHost::Unix(docker_socket) = &config.docker_host;
    let follow = tokio::spawn(docker::follow(docker_socket.clone(), driver, asks));
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    tracing::info!(plugin_socket = %config.plugin_socket.display(), state = %config.state_dir.display(), "serving");

    for server in [plugin, control] {
        // A server that panicked has ended as well.
        server.await.ok();
    }
    tick.abort();
    watch.abort();
    follow.abort();
    tokio::task::spawn_blocking(move || engine.join()).await.ok();
    tracing::info!("ended; networks and containers go on as they are");
    Ok(())
}

/// The engine's thread: it may block on the disk without holding up anything else.
fn run_engine(
    loaded: Loaded,
    store: Store,
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
        let engine = Engine::new(loaded.state, loaded.meta, loaded.lost, Real::new(), store, setup);
        let mut engine = engine.telling(events);
        engine.settle_first(loaded.fresh).await;
        ready.send(()).ok();
        let store = engine.run(queue).await;
        if let Err(error) = store.backup() {
            tracing::error!(%error, "the last copy of the records was not written");
        }
    });
}

fn load(store: &Store, opened: Opened) -> Result<Loaded, store::Error> {
    let (records, unreadable) = Records::read(&store.load()?);
    let meta = records.meta.clone();
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

/// The driver's name is the file name of its socket: so Docker finds plug-ins.
fn driver_name(socket: &Path) -> String {
    socket.file_stem().map_or_else(
        || "tombolo".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

/// The name of a socket that we made; it goes with us.
struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        // Whoever took it away meanwhile did our work.
        std::fs::remove_file(&self.0).ok();
    }
}

/// The plug-in's socket: systemd's, if it holds it for us (and keeps its name), else our own.
fn plugin_listener(path: &Path) -> Result<(UnixListener, Option<Name>), Error> {
    let fault = |source| Error::Bind {
        path: path.to_owned(),
        source,
    };
    let handed = listenfd::ListenFd::from_env()
        .take_unix_listener(0)
        .map_err(fault)?;
    match handed {
        Some(listener) => {
            listener.set_nonblocking(true).map_err(fault)?;
            Ok((UnixListener::from_std(listener).map_err(fault)?, None))
        }
        None => bind(path).map(|(listener, name)| (listener, Some(name))),
    }
}

/// A socket that only root may speak to, in place of what an earlier run left. The lock on the state directory keeps
/// two daemons apart; a socket that still answers is another's all the same.
fn bind(path: &Path) -> Result<(UnixListener, Name), Error> {
    let fault = |source| Error::Bind {
        path: path.to_owned(),
        source,
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let text = "another process serves it; stop that one first ('tombolo status' shows its pid)";
        return Err(fault(std::io::Error::new(std::io::ErrorKind::AddrInUse, text)));
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fault)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fault)?;
    let name = Name(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fault)?;
    Ok((listener, name))
}

async fn tick(asks: mpsc::Sender<Ask>) {
    let mut last_backup = tokio::time::Instant::now();
    let mut interval = tokio::time::interval(TICK);
    interval.tick().await;
    loop {
        interval.tick().await;
        let due = last_backup.elapsed() >= BACKUP;
        if due {
            last_backup = tokio::time::Instant::now();
        }
        let sent = asks
            .send(Ask::Settle {
                why: "tick",
                backup: due,
            })
            .await;
        if sent.is_err() {
            return;
        }
    }
}

/// Has the kernel looked at soon after somebody has changed firewall rules.
async fn watch(asks: mpsc::Sender<Ask>) {
    let watched = async {
        let mut watch = Watch::new()?;
        loop {
            watch.changed().await?;
            // Changes come in flocks, such as an engine's start; one look serves all of one.
            tokio::time::sleep(FLOCK).await;
            if asks
                .send(Ask::Settle {
                    why: "firewall rules were changed",
                    backup: false,
                })
                .await
                .is_err()
            {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    if let Err(error) = watched.await {
        let every_s = TICK.as_secs();
        tracing::warn!(%error, every_s, "changes of firewall rules are not heard, only found now and then");
    }
}

/// Becomes true when the process is told to stop.
fn stop_signal() -> Result<watch::Receiver<bool>, Error> {
    let fault = |source| Error::System {
        what: "listening for signals",
        source,
    };
    let mut term = signal(SignalKind::terminate()).map_err(fault)?;
    let mut int = signal(SignalKind::interrupt()).map_err(fault)?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("told to stop");
        stop.send(true).ok();
    });
    Ok(stopped)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender goes only after it has said so.
    stop.wait_for(|stop| *stop).await.ok();
}
