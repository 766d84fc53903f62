//! HTTP on sockets: Docker's, the command line's, and the one for metrics.
//!
//! ```text
//!   accept ─(at most CONNECTIONS)─> headers within HEADER_TIMEOUT ─> body of at most BODY_MAX within DEADLINE
//!          ─> wire::read ─> Ask ─> the engine, within DEADLINE ─> wire::answer
//! ```
//!
//! Whoever is slow, silent or half gone costs one connection for a bounded time, and holds up no shutdown. A request that
//! has been accepted is answered, also while we end: the rest waits in the socket's queue for whoever serves it next.

mod server;
mod wires;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};
use tombolo_cluster::node::Wish;
use tombolo_core::kinds::{Theirs, overlay};
use tombolo_core::model::{EndpointId, Network};
use tombolo_core::state::{Command, Refusal, Reply};
use tombolo_core::wire::{self, Call};
use tombolo_ipam::{self as ipam, Want};

use crate::cluster::handle::{Cluster, OUTSIDE};
use crate::cluster::shown::{called, clear_of, clear_of_routes};
use crate::engine::events::Events;
use crate::engine::{Ask, Error, Looked, Outside};
use crate::kernel::{Sandbox, routes, uplinks};
use crate::lent::{self, Lent};
use crate::metrics::{Metrics, Outcome};
use crate::replicas::Replicas;
use crate::segment::Segments;
use wires::{as_named, clear_the_way, request_unheld, subnet_missing};

pub use server::{Connection, Listen, serve};

/// How long a request of Docker's may take; then it is refused and what it began is taken back. Docker itself would wait
/// for ever, holding the container's lock.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// What remains of the deadline for the engine after somebody else was waited for.
const LAST_TRY: Duration = Duration::from_millis(200);
/// How often the cluster is asked for room for one address at most.
const TRIES: usize = 3;
/// The largest body that is read. Docker's largest, with hundreds of ports, are some tens of KiB.
pub const BODY_MAX: usize = 1 << 20;
/// What methods that there are not are counted as.
const UNKNOWN: &str = "unknown";

/// What Docker's interface speaks for.
#[derive(Clone)]
pub struct Plugin {
    /// The engine's queue.
    pub asks: mpsc::Sender<Ask>,
    /// The cluster, if this host is in one.
    pub cluster: Cluster,
    /// Why this host may not give addresses of the cluster's pools.
    pub outside: Outside,
    /// Networks that are made here because other hosts have them.
    pub replicas: Arc<Replicas>,
    /// Those who are on the wires of this host's links; none where the kernel tells nothing of its own.
    pub segments: Option<Arc<Segments>>,
    /// Woken when other addresses will go out next on a wire.
    pub ahead: Arc<Notify>,
    /// What wires' own DHCP servers lend.
    pub lent: Lent,
    /// Where conflicts on wires are told.
    pub events: Events,
    /// Where answers are counted.
    pub metrics: Arc<Metrics>,
    /// Told of each call: whoever looks for Docker's engine learns that it is there.
    pub called: Arc<Notify>,
}

/// Docker's interface.
pub fn plugin(plugin: Plugin) -> Router {
    Router::new()
        .route("/{method}", post(call))
        .fallback(|| async { no_method("this path") })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(plugin)
}

async fn call(
    State(plugin): State<Plugin>,
    Path(method): Path<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let started = Instant::now();
    #[cfg(feature = "slowed")]
    slowed().await;
    plugin.called.notify_one();
    let unread = body.as_ref().err().map(ToString::to_string);
    let (answer, outcome) = match (wire::read(&method, &body.unwrap_or_default()), unread) {
        (Err(wire::Error::NoMethod { .. }), _) => {
            plugin
                .metrics
                .answered(UNKNOWN, Outcome::Refused, started.elapsed());
            return no_method(&method);
        }
        (_, Some(error)) => {
            let why = format!("body: {error}; at most {BODY_MAX} bytes are read");
            (Err(why), Outcome::Refused)
        }
        (Ok(Call::Fixed(answer)), None) => (Ok(answer), Outcome::Granted),
        (Ok(Call::Asked(endpoint)), None) => {
            asked(&plugin, endpoint).await;
            (Ok(wire::nothing_to_tell()), Outcome::Granted)
        }
        (Ok(Call::Do(command)), None) => match carry_out(&plugin, *command).await {
            Ok(reply) => (Ok(wire::answer(&reply)), Outcome::Granted),
            Err((outcome, why)) => (Err(why), outcome),
        },
        (Err(error), None) => (Err(chain(&error)), Outcome::Refused),
    };
    plugin.metrics.answered(&method, outcome, started.elapsed());
    tracing::debug!(method, took_us = started.elapsed().as_micros(), "answered");
    json(&answer.unwrap_or_else(|why| {
        tracing::warn!(method, %why, "refused");
        wire::refusal(&method, &why)
    }))
}

/// Makes an answer late, for the benchmarks' own check.
#[cfg(feature = "slowed")]
async fn slowed() {
    let late = std::env::var("TOMBOLO_SLOWED_MS").ok();
    if let Some(late) = late.and_then(|text| text.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(late)).await;
    }
}

/// Lets the engine know what it is asked of.
async fn asked(plugin: &Plugin, endpoint: EndpointId) {
    let (answer, answered) = oneshot::channel();
    let known = async {
        if plugin.asks.send(Ask::Asked(endpoint, answer)).await.is_ok() {
            // An engine that has ended has nothing to do for it.
            answered.await.ok();
        }
    };
    if tokio::time::timeout(DEADLINE, known).await.is_err() {
        tracing::warn!("the engine is busy; a container's links may come by each other's names");
    }
}

/// Has a command carried out, within the deadline.
async fn carry_out(plugin: &Plugin, command: Command) -> Result<Reply, Failed> {
    // A wire's own DHCP server takes its time.
    let limit = match &command {
        Command::RequestAddress { pool, usage, .. }
            if usage.is_of_share() && plugin.lent.parent_of(pool).is_some() =>
        {
            lent::PATIENCE
        }
        _ => DEADLINE,
    };
    let late = |_| failed(Error::Late(limit));
    // When time is up the receiving end is dropped, by which the engine knows to take back what it granted. On the heap,
    // as what concerns the cluster is rare and large.
    let granted = Box::pin(with_cluster(plugin, command, Instant::now() + limit));
    tokio::time::timeout(limit, granted).await.map_err(late)?
}

/// Why a request was not granted.
type Failed = (Outcome, String);

fn failed(error: Error) -> Failed {
    let outcome = match error {
        Error::Refused(_) => Outcome::Refused,
        Error::Kernel(_) | Error::Store(_) | Error::Gone => Outcome::Failed,
        Error::Late(_) => Outcome::Late,
    };
    (outcome, chain(&error))
}

/// How long requests wait for the cluster's part to begin.
const BEGINNING: Duration = Duration::from_secs(1);

/// Has the cluster do its part first, where a command concerns it: the engine waits for nobody.
async fn with_cluster(plugin: &Plugin, command: Command, deadline: Instant) -> Result<Reply, Failed> {
    let refused = |why: String| (Outcome::Refused, why);
    let cluster = &plugin.cluster;
    if matches!(
        command,
        Command::RequestNetPool(..)
            | Command::RequestPool(_)
            | Command::RequestWirePool(..)
            | Command::RequestDhcpPool(..)
            | Command::CreateNetwork(_)
    ) {
        // Just after a start that takes milliseconds, or the cluster's part can't begin and says why.
        drop(tokio::time::timeout(BEGINNING, cluster.known()).await);
    }
    let shown = cluster.shown();
    let ask = |command: Command| ask_engine(plugin, command, deadline);
    let outside = || plugin.outside.why().unwrap_or_else(|| OUTSIDE.to_owned());
    match command {
        Command::RequestDhcpPool(request, parent) => {
            if nix::net::if_::if_nametoindex(parent.as_str()).is_err() {
                let why =
                    format!("parent: there is no link {parent}: name the one that leads to the DHCP server");
                return Err(refused(why));
            }
            let Want::Exactly(pool) = request.want else {
                return Err(subnet_missing(&parent, request.v6).await);
            };
            clear_of(&shown, pool).map_err(refused)?;
            plugin.replicas.make_way(pool).await;
            let reply = ask(Command::RequestPool(request)).await.map_err(failed)?;
            let Reply::Pool(id) = reply else { return Ok(reply) };
            if let Err(why) = plugin.lent.lend(id.cidr(), parent).await {
                ask(Command::ReleasePool(id)).await.map_err(failed)?;
                return Err((Outcome::Failed, why));
            }
            Ok(reply)
        }
        command @ (Command::ReleaseAddress(..) | Command::ReleasePool(_)) => {
            let lent = match &command {
                Command::ReleaseAddress(pool, _) | Command::ReleasePool(pool) => {
                    plugin.lent.parent_of(pool).is_some()
                }
                _ => false,
            };
            let reply = ask(command).await.map_err(failed);
            if lent {
                plugin.lent.returned();
            }
            reply
        }
        Command::RequestWirePool(request, parent) => Err(subnet_missing(&parent, request.v6).await),
        Command::RequestNetPool(mut request, net, parent) => {
            if !shown.member {
                return Err(refused(format!("net: {net}: {}", outside())));
            }
            if !matches!(request.want, Want::Exactly(_))
                && let Some(pool) = called(&shown, &net, request.v6)
            {
                request.want = Want::Exactly(pool);
            }
            if let Some(parent) = parent
                .as_ref()
                .filter(|_| !matches!(request.want, Want::Exactly(_)))
            {
                return Err(subnet_missing(parent, request.v6).await);
            }
            let Want::Exactly(pool) = request.want else {
                // One of our choice: it is this host's own until the cluster has it.
                let reply = ask(Command::RequestPool(request)).await.map_err(failed)?;
                let Reply::Pool(id) = reply else { return Ok(reply) };
                if let Err(why) = cluster.share_pool(id.cidr(), &net, false).await {
                    ask(Command::ReleasePool(id)).await.map_err(failed)?;
                    return Err(refused(why));
                }
                return Ok(reply);
            };
            clear_of(&shown, pool).map_err(refused)?;
            if !shown.pools.contains_key(&pool) && parent.is_none() {
                clear_of_routes(&shown, pool).map_err(refused)?;
            }
            plugin.replicas.make_way(pool).await;
            cluster
                .share_pool(pool, &net, parent.is_some())
                .await
                .map_err(refused)?;
            ask(Command::RequestPool(request)).await.map_err(failed)
        }
        Command::RequestPool(request) => {
            if let Want::Exactly(pool) = request.want {
                clear_of(&shown, pool).map_err(refused)?;
                plugin.replicas.make_way(pool).await;
            }
            ask(Command::RequestPool(request)).await.map_err(failed)
        }
        Command::CreateNetwork(network) => {
            let mut network = as_named(plugin, network).await.map_err(failed)?;
            let shared = network.subnets.iter().filter(|subnet| subnet.ours);
            match network.spec.is_shared() {
                true if !shown.member => {
                    let field = match network.spec.spans() {
                        true => format!("type: {}", network.spec.kind().name()),
                        false => "net".to_owned(),
                    };
                    return Err(refused(format!("{field}: {}", outside())));
                }
                true => {
                    for subnet in shared {
                        clear_of(&shown, subnet.pool).map_err(refused)?;
                        if !shown.pools.contains_key(&subnet.pool) && network.spec.uplink().is_none() {
                            clear_of_routes(&shown, subnet.pool).map_err(refused)?;
                        }
                    }
                    cluster.share(&mut network).await.map_err(refused)?;
                }
                false => {
                    if let Some(subnet) = shared
                        .into_iter()
                        .find(|subnet| shown.pools.contains_key(&subnet.pool))
                    {
                        return Err(failed(Error::Refused(Refusal::OfCluster(subnet.pool))));
                    }
                }
            }
            clear_the_way(plugin, &network, deadline).await?;
            let made = with_space(plugin, Command::CreateNetwork(network), deadline).await;
            plugin.ahead.notify_one();
            made
        }
        command @ Command::RequestAddress { .. } => request_unheld(plugin, command, deadline).await,
        command => ask(command).await.map_err(failed),
    }
}

/// Asks for an address; where this host's share has none, the other hosts are asked for some first.
async fn request_address(plugin: &Plugin, command: Command, deadline: Instant) -> Result<Reply, Failed> {
    let first = match ask_engine(plugin, command.clone(), deadline).await {
        Err(Error::Refused(Refusal::MayNotLease { .. })) if plugin.cluster.shown().member => {
            // Just after a start the others' word takes a moment.
            let patience = deadline
                .saturating_duration_since(Instant::now())
                .saturating_sub(LAST_TRY);
            drop(tokio::time::timeout(patience, plugin.outside.lifted()).await);
            ask_engine(plugin, command.clone(), deadline).await
        }
        first => first,
    };
    with_space_since(first, plugin, command, deadline).await
}

/// Asks for what needs addresses.
async fn with_space(plugin: &Plugin, command: Command, deadline: Instant) -> Result<Reply, Failed> {
    let first = ask_engine(plugin, command.clone(), deadline).await;
    with_space_since(first, plugin, command, deadline).await
}

/// Asks again for what needs addresses of this host's share of a pool, once the others have given some.
async fn with_space_since(
    first: Result<Reply, Error>,
    plugin: &Plugin,
    command: Command,
    deadline: Instant,
) -> Result<Reply, Failed> {
    let refused = |why: String| (Outcome::Refused, why);
    let mut last = first;
    // What the cluster gives for one request another one may take.
    for _ in 0..TRIES {
        let wish = match &last {
            Err(Error::Refused(Refusal::Ipam(ipam::Error::ShareExhausted { pool, .. }))) => Wish::Space {
                pool: pool.cidr(),
                within: pool.range().unwrap_or(pool.cidr()),
            },
            Err(Error::Refused(Refusal::Ipam(ipam::Error::Foreign { pool, address }))) => {
                Wish::Address(pool.cidr(), *address)
            }
            _ => break,
        };
        let wished = plugin.cluster.wish(wish).await;
        last = ask_engine(plugin, command.clone(), deadline).await;
        if let (Err(why), Err(Error::Refused(_))) = (wished, &last) {
            return Err(refused(why));
        }
    }
    last.map_err(failed)
}

/// Has the engine carry a command out.
async fn ask_engine(plugin: &Plugin, command: Command, deadline: Instant) -> Result<Reply, Error> {
    let looked = look(plugin, &command).await?;
    let (answer, answered) = oneshot::channel();
    let ask = Ask::Do {
        command,
        looked,
        deadline,
        answer,
    };
    plugin.asks.send(ask).await.map_err(|_| Error::Gone)?;
    answered.await.map_err(|_| Error::Gone)?
}

/// Waits until the links of what is gone are gone as well (`engine/later.rs`): they would be found to be in the way.
async fn removed(plugin: &Plugin) -> Result<(), Error> {
    let (answer, answered) = oneshot::channel();
    plugin
        .asks
        .send(Ask::Removed(answer))
        .await
        .map_err(|_| Error::Gone)?;
    answered.await.map_err(|_| Error::Gone)
}

/// Looks up on the host what a command depends on.
async fn look(plugin: &Plugin, command: &Command) -> Result<Looked, Error> {
    let why = Error::Kernel;
    match command {
        Command::RequestPool(request) if !matches!(request.want, Want::Exactly(_)) => {
            let mut avoid = crate::host::avoid().await.map_err(Error::Kernel)?;
            // What other hosts of the cluster have stands in the way as well.
            let shown = plugin.cluster.shown();
            avoid.extend(shown.pools.keys().chain(shown.routes.iter().map(|(net, _)| net)));
            Ok(Looked {
                avoid,
                ..Looked::default()
            })
        }
        Command::CreateNetwork(network) if network.spec.uplink().is_some() => {
            removed(plugin).await?;
            uplinks::try_out(network).await.map_err(why)?;
            Ok(Looked {
                link: named_link(plugin, network).await?,
                ..Looked::default()
            })
        }
        Command::CreateNetwork(network) => Ok(Looked {
            path_mtu: match network.internal {
                true => None,
                false => routes::path_mtu().await.map_err(why)?,
            },
            tunnel_mtu: {
                let shown = plugin.cluster.shown();
                let overhead = shown.vtep.map(overlay::overhead);
                shown
                    .wire_mtu
                    .zip(overhead)
                    .map(|(mtu, overhead)| mtu.saturating_sub(overhead))
            },
            link: named_link(plugin, network).await?,
            ..Looked::default()
        }),
        Command::Join { sandbox, .. } => Ok(Looked {
            sandbox: Sandbox::at(std::path::Path::new(sandbox)).map(Arc::new),
            ..Looked::default()
        }),
        _ => Ok(Looked::default()),
    }
}

/// What the link that a network names is, once all links that are to be removed are gone.
async fn named_link(plugin: &Plugin, network: &Network) -> Result<Option<Theirs>, Error> {
    let Some(link) = network.spec.named_link() else {
        return Ok(None);
    };
    removed(plugin).await?;
    routes::link_of(link).await.map_err(Error::Kernel)
}

/// An error with all its causes, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// A JSON document with status 200.
pub fn json(document: &Value) -> Response {
    ([("content-type", "application/json")], document.to_string()).into_response()
}

fn no_method(method: &str) -> Response {
    let why = format!(
        "{} is no method of this plug-in",
        tombolo_core::model::cut(method)
    );
    (StatusCode::NOT_FOUND, wire::refusal("", &why).to_string()).into_response()
}
