//! HTTP on sockets: Docker's, the command line's, and the one for metrics.
//!
//! ```text
//!   accept ─(at most CONNECTIONS)─> headers within HEADER_TIMEOUT ─> body of at most BODY_MAX within DEADLINE
//!          ─> wire::read ─> Ask ─> the engine, within DEADLINE ─> wire::answer
//! ```
//!
//! Whoever is slow, silent or half gone costs one connection for a bounded time, and holds up no shutdown. A request that
//! has been accepted is answered, also while we end: the rest waits in the socket's queue for whoever serves it next.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tombolo_cluster::node::Wish;
use tombolo_core::state::{Command, Refusal, Reply};
use tombolo_core::wire::{self, Call};
use tombolo_ipam::{self as ipam, Want};

use crate::cluster::handle::{Cluster, OUTSIDE};
use crate::cluster::shown::{called, clear_of, clear_of_routes};
use crate::engine::{Ask, Error, Looked, Outside};
use crate::kernel::routes;
use crate::metrics::{Metrics, Outcome};

/// How long a request of Docker's may take; then it is refused and what it began is taken back. Docker itself would wait
/// for ever, holding the container's lock.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// What remains of the deadline for the engine after somebody else was waited for.
const LAST_TRY: Duration = Duration::from_millis(200);
/// What requests of our own command line begin with, and those among them that a whole cluster takes part in.
const CONTROL: &str = "v1/";
const OF_CLUSTER: &str = "v1/cluster/";
/// How long these may take: more than each of their parts, and less than the command line waits.
const CLUSTER_LIMIT: Duration = Duration::from_secs(50);
/// How often the cluster is asked for room for one address at most.
const TRIES: usize = 3;
/// The largest body that is read. Docker's largest, with hundreds of ports, are some tens of KiB.
pub const BODY_MAX: usize = 1 << 20;
/// How long the head of a request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// What methods that there are not are counted as.
const UNKNOWN: &str = "unknown";
/// How many connections are served at a time; more wait in the socket's queue.
const CONNECTIONS: u32 = 512;
/// How long requests that are being served may take to end once we are shutting down.
const DRAIN: Duration = Duration::from_secs(3);
/// How long a connection on which nothing has come yet may still begin a request once we are shutting down.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What Docker's interface speaks for.
#[derive(Clone)]
pub struct Plugin {
    /// The engine's queue.
    pub asks: mpsc::Sender<Ask>,
    /// The cluster, if this host is in one.
    pub cluster: Cluster,
    /// Why this host may not give addresses of the cluster's pools.
    pub outside: Outside,
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

/// Has a command carried out, within the deadline.
async fn carry_out(plugin: &Plugin, command: Command) -> Result<Reply, Failed> {
    let late = |_| failed(Error::Late(DEADLINE));
    // When time is up the receiving end is dropped, by which the engine knows to take back what it granted. On the heap,
    // as what concerns the cluster is rare and large.
    let granted = Box::pin(with_cluster(plugin, command, Instant::now() + DEADLINE));
    tokio::time::timeout(DEADLINE, granted).await.map_err(late)?
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

/// Has the cluster do its part first, where a command concerns it: the engine waits for nobody.
async fn with_cluster(plugin: &Plugin, command: Command, deadline: Instant) -> Result<Reply, Failed> {
    let refused = |why: String| (Outcome::Refused, why);
    let (cluster, shown) = (&plugin.cluster, plugin.cluster.shown());
    let ask = |command: Command| ask_engine(plugin, command, deadline);
    let outside = || plugin.outside.why().unwrap_or_else(|| OUTSIDE.to_owned());
    match command {
        Command::RequestNetPool(mut request, net) => {
            if !shown.member {
                return Err(refused(format!("net: {net}: {}", outside())));
            }
            if !matches!(request.want, Want::Exactly(_))
                && let Some(pool) = called(&shown, &net, request.v6)
            {
                request.want = Want::Exactly(pool);
            }
            let Want::Exactly(pool) = request.want else {
                // One of our choice: it is this host's own until the cluster has it.
                let reply = ask(Command::RequestPool(request)).await.map_err(failed)?;
                let Reply::Pool(id) = reply else { return Ok(reply) };
                if let Err(why) = cluster.share_pool(id.cidr(), &net).await {
                    ask(Command::ReleasePool(id)).await.map_err(failed)?;
                    return Err(refused(why));
                }
                return Ok(reply);
            };
            clear_of(&shown, pool).map_err(refused)?;
            if !shown.pools.contains_key(&pool) {
                clear_of_routes(&shown, pool).map_err(refused)?;
            }
            cluster.share_pool(pool, &net).await.map_err(refused)?;
            ask(Command::RequestPool(request)).await.map_err(failed)
        }
        Command::RequestPool(request) => {
            if let Want::Exactly(pool) = request.want {
                clear_of(&shown, pool).map_err(refused)?;
            }
            ask(Command::RequestPool(request)).await.map_err(failed)
        }
        Command::CreateNetwork(mut network) => {
            let shared = network.subnets.iter().filter(|subnet| subnet.ours);
            match network.spec.net() {
                Some(_) if !shown.member => return Err(refused(format!("net: {}", outside()))),
                Some(_) => {
                    for subnet in shared {
                        clear_of(&shown, subnet.pool).map_err(refused)?;
                        if !shown.pools.contains_key(&subnet.pool) {
                            clear_of_routes(&shown, subnet.pool).map_err(refused)?;
                        }
                    }
                    cluster.share(&mut network).await.map_err(refused)?;
                }
                None => {
                    if let Some(subnet) = shared
                        .into_iter()
                        .find(|subnet| shown.pools.contains_key(&subnet.pool))
                    {
                        return Err(failed(Error::Refused(Refusal::OfCluster(subnet.pool))));
                    }
                }
            }
            ask(Command::CreateNetwork(network)).await.map_err(failed)
        }
        command @ Command::RequestAddress { .. } => request_address(plugin, command, deadline).await,
        command => ask(command).await.map_err(failed),
    }
}

/// Asks for an address; where this host's share has none, the other hosts are asked for some first.
async fn request_address(plugin: &Plugin, command: Command, deadline: Instant) -> Result<Reply, Failed> {
    let refused = |why: String| (Outcome::Refused, why);
    let pool = match &command {
        Command::RequestAddress { pool, .. } => *pool,
        _ => return ask_engine(plugin, command, deadline).await.map_err(failed),
    };
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
    let within = pool.range().unwrap_or(pool.cidr());
    let mut last = first;
    // What the cluster gives for one request another one may take.
    for _ in 0..TRIES {
        let wish = match &last {
            Err(Error::Refused(Refusal::Ipam(ipam::Error::ShareExhausted { .. }))) => Wish::Space {
                pool: pool.cidr(),
                within,
            },
            Err(Error::Refused(Refusal::Ipam(ipam::Error::Foreign { address, .. }))) => {
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
        Command::CreateNetwork(network) => Ok(Looked {
            path_mtu: match network.internal {
                true => None,
                false => routes::path_mtu().await.map_err(why)?,
            },
            link: match network.spec.named_link() {
                Some(link) => routes::link_of(link).await.map_err(why)?,
                None => None,
            },
            ..Looked::default()
        }),
        _ => Ok(Looked::default()),
    }
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

/// What connections know of the server that they belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Nothing is accepted any more.
    Ending,
    /// Time is up.
    Over,
}

/// Where connections come from.
pub trait Listen {
    /// A connection.
    type Stream: Connection;

    /// The next connection.
    fn next(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

/// One connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {
    /// Waits until something has come, or the connection has ended.
    fn readable(&self) -> impl Future<Output = std::io::Result<()>> + Send;
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> std::io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Connection for UnixStream {
    async fn readable(&self) -> std::io::Result<()> {
        self.readable().await
    }
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> std::io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Connection for TcpStream {
    async fn readable(&self) -> std::io::Result<()> {
        self.readable().await
    }
}

/// Serves a socket until told to stop, then lets requests under way end, for a bounded time. Gives the socket back: what
/// waits in its queue is for the next who serves it.
pub async fn serve<L: Listen>(listener: L, app: Router, stop: impl Future<Output = ()>) -> L {
    let room = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let (phase, _) = watch::channel(Phase::Serving);
    tokio::pin!(stop);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = room.clone().acquire_owned().await.ok();
            (place, listener.next().await)
        };
        let (place, stream) = tokio::select! {
            () = &mut stop => break,
            (place, accepted) = accepted => match accepted {
                Ok(stream) => (place, stream),
                Err(error) => {
                    // Out of file descriptors, most likely: connections that end make room.
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let app = app.clone();
        let mut told = phase.subscribe();
        tokio::spawn(async move {
            let ending = told.clone();
            tokio::select! {
                () = connection(stream, app, ending) => {}
                _ = told.wait_for(|phase| *phase == Phase::Over) => {}
            }
            drop(place);
        });
    }
    phase.send_replace(Phase::Ending);
    // All places are free when all connections have ended.
    if tokio::time::timeout(DRAIN, room.acquire_many(CONNECTIONS))
        .await
        .is_err()
    {
        tracing::warn!("requests that did not end in time are cut off");
    }
    phase.send_replace(Phase::Over);
    listener
}

/// Serves one connection: one request.
///
/// hyper is never told that we are ending. It would close a connection from which it has read nothing yet, though the
/// request be on its way, and Docker repeats such a request without its body. Since a connection has one request, it ends
/// by itself.
async fn connection(stream: impl Connection, app: Router, mut phase: watch::Receiver<Phase>) {
    let too_late = async {
        // The sender outlives the connections.
        phase.wait_for(|phase| *phase >= Phase::Ending).await.ok();
        tokio::time::sleep(LAST_WORD).await;
    };
    tokio::select! {
        biased;
        // What is wrong with the connection is found on reading from it.
        _ = stream.readable() => {}
        () = tokio::time::sleep(HEADER_TIMEOUT) => return,
        () = too_late => return,
    }
    let mut http = hyper::server::conn::http1::Builder::new();
    // One request a connection: the end of an idle one could meet Docker's next request on it, which Docker would then
    // repeat without its body. A new connection costs microseconds.
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .half_close(true);
    let service = TowerToHyperService::new(within(app));
    // One that takes over goes on with its connection without HTTP.
    let served = http
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The answer to a request that took too long: to Docker in its own form, to our command line as an error.
fn late(method: &str, limit: Duration) -> Response {
    match method.starts_with(CONTROL) {
        true => {
            let why = format!(
                "not done within {} s; whether it will be is not known",
                limit.as_secs()
            );
            let mut answer = json(&serde_json::json!({ "error": why }));
            *answer.status_mut() = StatusCode::GATEWAY_TIMEOUT;
            answer
        }
        false => json(&wire::refusal(method, "body: it did not come in time")),
    }
}

/// The service with a limit on the time from a request's head to its answer, so that a body which never comes ends too.
fn within(
    app: Router,
) -> impl tower::Service<
    hyper::Request<hyper::body::Incoming>,
    Response = Response,
    Error = Infallible,
    Future: Future<Output = Result<Response, Infallible>> + Send,
> + Clone
+ Send {
    use tower::ServiceExt;
    // Twice the deadline: one for the body, one for the engine, which answers late requests by itself.
    tower::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let app = app.clone();
        let method = request.uri().path().trim_start_matches('/').to_owned();
        async move {
            let request = request.map(axum::body::Body::new);
            // What is asked of a whole cluster takes as long as its slowest host, within bounds of its own.
            let limit = match method.starts_with(OF_CLUSTER) {
                true => CLUSTER_LIMIT,
                false => 2 * DEADLINE,
            };
            let answered = tokio::time::timeout(limit, app.oneshot(request)).await;
            answered.unwrap_or_else(|_| Ok(late(&method, limit)))
        }
    })
}
