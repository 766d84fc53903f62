//! Serving a socket: connections within bounds, and an end that cuts nobody off.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tombolo_core::wire;

use super::{DEADLINE, json};
use crate::lent;

/// What requests of our own command line begin with, and those among them that a whole cluster takes part in.
const CONTROL: &str = "v1/";
const OF_CLUSTER: &str = "v1/cluster/";
/// The request that may have to wait for a DHCP server.
const LEASES: &str = "IpamDriver.RequestAddress";
/// How long these may take: more than each of their parts, and less than the command line waits.
const CLUSTER_LIMIT: Duration = Duration::from_secs(50);
/// How long the head of a request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections are served at a time; more wait in the socket's queue.
const CONNECTIONS: u32 = 512;
/// How long requests that are being served may take to end once we are shutting down.
const DRAIN: Duration = Duration::from_secs(3);
/// How long a connection on which nothing has come yet may still begin a request once we are shutting down.
const LAST_WORD: Duration = Duration::from_secs(1);

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
                // A wire's own DHCP server takes its time.
                false if method == LEASES => DEADLINE + lent::PATIENCE,
                false => 2 * DEADLINE,
            };
            let answered = tokio::time::timeout(limit, app.oneshot(request)).await;
            answered.unwrap_or_else(|_| Ok(late(&method, limit)))
        }
    })
}
