//! The command line's interface: documents to look at, records to export and import, events to follow. Mode 0600: root
//! only.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRef, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cluster::handle::Cluster;
use crate::dns::Served;
use crate::engine::events::{Events, What};
use crate::engine::views::{Comparison, Difference, Show};
use crate::engine::{Ask, Error, Want};
use crate::hand_over::{Giver, PROTOCOL, Told, Wish};
use crate::http::chain;
use crate::records::Records;
use crate::replicas::Replicas;

/// The largest import that is read: some hundred thousand records.
const IMPORT_MAX: usize = 256 << 20;

/// The largest wish to take over that is read.
const WISH_MAX: usize = 64 << 10;

/// Between two empty lines to one who follows events: a reader that has gone is found out only by writing to it.
const STILL_HERE: Duration = Duration::from_secs(10);

type Asks = State<mpsc::Sender<Ask>>;

/// What the control interface speaks for.
#[derive(Clone)]
pub struct Control {
    /// The engine's queue.
    pub asks: mpsc::Sender<Ask>,
    /// What happens.
    pub events: Events,
    /// What the daemon was told: it ends when that is no longer to serve.
    pub told: watch::Receiver<Told>,
    /// Who may be asked to hand the sockets over.
    pub giver: Giver,
    /// The cluster.
    pub cluster: Cluster,
    /// Where names are answered.
    pub names: Arc<Served>,
    /// Networks that are the same on all hosts.
    pub replicas: Arc<Replicas>,
    /// Has sockets made anew whose names were taken away.
    pub mends: mpsc::Sender<oneshot::Sender<Mended>>,
}

/// The sockets that were made anew, each as a step, and why it failed if it did.
pub type Mended = Vec<(String, Option<String>)>;

impl FromRef<Control> for mpsc::Sender<Ask> {
    fn from_ref(control: &Control) -> Self {
        control.asks.clone()
    }
}

/// The control interface.
pub fn control(control: Control) -> Router {
    let giver = control.giver.clone();
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/networks", get(networks))
        .route(
            "/v1/endpoints",
            get(|State(asks): Asks| show(asks, Show::Endpoints)),
        )
        .route("/v1/ports", get(|State(asks): Asks| show(asks, Show::Ports)))
        .route("/v1/pools", get(|State(asks): Asks| show(asks, Show::Pools)))
        .route(
            "/v1/state",
            get(|State(asks): Asks| show(asks, Show::Records)).put(import),
        )
        .route("/v1/events", get(events))
        .route(
            "/v1/take-over",
            post(async move |request: Request| take_over(giver, request).await),
        )
        .route(
            "/v1/differences",
            get(async |State(asks): Asks| compared(compare(asks, false).await)),
        )
        .route("/v1/settle", post(settle))
        .route("/v1/cluster", get(cluster_status))
        .route("/v1/peers", get(peers))
        .route("/v1/names", get(names))
        .route("/v1/cluster/{what}", post(cluster))
        .fallback(|| async {
            error(
                StatusCode::NOT_FOUND,
                "no such path; this daemon may be older than the command",
            )
        })
        .layer(DefaultBodyLimit::max(IMPORT_MAX))
        .with_state(control)
}

/// Events as they happen, one JSON object a line, until the reader goes or the daemon ends. An empty line says nothing.
async fn events(State(control): State<Control>) -> Response {
    let Some(follower) = control.events.follow() else {
        let why = "too many follow the events already; end one of them";
        return error(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let first = futures_util::stream::iter([daemon("following")]);
    let rest = futures_util::stream::unfold(Some((follower, control.told)), |following| async move {
        let (mut follower, mut told) = following?;
        let line = tokio::select! {
            biased;
            line = follower.next() => line,
            _ = told.wait_for(|told| *told != Told::Serve) => None,
            () = tokio::time::sleep(STILL_HERE) => Some("\n".to_owned()),
        };
        match line {
            Some(line) => Some((line, Some((follower, told)))),
            None => Some((daemon("ending"), None)),
        }
    });
    let lines = first.chain(rest).map(Ok::<_, Infallible>);
    (
        [("content-type", "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

fn daemon(action: &'static str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    What::Daemon { action, version }.line()
}

async fn document(asks: mpsc::Sender<Ask>, what: Show) -> Option<Value> {
    let (answer, answered) = oneshot::channel();
    asks.send(Ask::Show(what, answer)).await.ok()?;
    answered.await.ok()
}

fn shown(document: Option<Value>) -> Response {
    match document {
        Some(document) => crate::http::json(&document),
        None => error(StatusCode::SERVICE_UNAVAILABLE, &chain(&Error::Gone)),
    }
}

async fn show(asks: mpsc::Sender<Ask>, what: Show) -> Response {
    shown(document(asks, what).await)
}

async fn status(State(control): State<Control>) -> Response {
    let mut document = document(control.asks, Show::Status).await;
    document
        .iter_mut()
        .for_each(|document| control.replicas.note_problems(document));
    shown(document)
}

async fn networks(State(control): State<Control>) -> Response {
    let mut document = document(control.asks, Show::Networks).await;
    document
        .iter_mut()
        .for_each(|document| control.replicas.note_networks(document));
    shown(document)
}

async fn cluster_status(State(control): State<Control>) -> Response {
    crate::http::json(&control.cluster.status().await)
}

async fn names(State(control): State<Control>) -> Response {
    crate::http::json(&control.names.document())
}

async fn peers(State(control): State<Control>) -> Response {
    crate::http::json(&control.cluster.peers().await)
}

/// What is asked of the cluster; of each sort of request a part.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct OfCluster {
    ttl_s: Option<u64>,
    address: Option<SocketAddr>,
    token: Option<String>,
    hosts: Vec<String>,
    key: Option<String>,
}

/// The longest that a token is good for, in seconds.
const TOKEN_MAX_S: u64 = 365 * 24 * 3600;

async fn cluster(State(control): State<Control>, Path(what): Path<String>, body: Bytes) -> Response {
    let asked: OfCluster = match serde_json::from_slice(if body.is_empty() { b"{}" } else { &body }) {
        Ok(asked) => asked,
        // What was wrong may be a secret, so it isn't repeated.
        Err(why) => {
            return error(
                StatusCode::BAD_REQUEST,
                &format!("body: not what '{what}' takes (line {})", why.line()),
            );
        }
    };
    let cluster = control.cluster;
    let done = match (what.as_str(), asked.address, &asked.token) {
        ("init", ..) => cluster.init().await,
        ("token", ..) => match asked.ttl_s {
            Some(ttl_s @ 1..=TOKEN_MAX_S) => cluster.token(ttl_s).await,
            other => Err(format!(
                "ttl_s: {other:?}; 1 to {TOKEN_MAX_S} seconds are allowed"
            )),
        },
        ("join", Some(address), Some(token)) => cluster.join(address, token).await,
        ("join", ..) => Err("join: address and token are needed".to_owned()),
        ("leave", ..) => cluster.leave().await,
        ("tunnels", ..) => cluster.tunnels().await,
        ("forget", ..) => cluster.forget(asked.hosts).await,
        ("rotate-key", ..) => cluster.rotate(asked.key.as_deref()).await,
        _ => {
            return error(
                StatusCode::NOT_FOUND,
                "no such path; this daemon may be older than the command",
            );
        }
    };
    match done {
        Ok(document) => crate::http::json(&document),
        Err(why) => error(StatusCode::CONFLICT, &why),
    }
}

async fn compare(asks: mpsc::Sender<Ask>, repair: bool) -> Option<Comparison> {
    let (answer, answered) = oneshot::channel();
    let want = Want {
        why: "asked for by hand",
        repair,
        answer: Some(answer),
    };
    asks.send(Ask::Look(want)).await.ok()?;
    answered.await.ok()
}

fn compared(compared: Option<Comparison>) -> Response {
    match compared {
        Some(compared) => crate::http::json(&json!(compared)),
        None => error(StatusCode::SERVICE_UNAVAILABLE, &chain(&Error::Gone)),
    }
}

async fn settle(State(control): State<Control>) -> Response {
    let (answer, answered) = oneshot::channel();
    let mended = match control.mends.send(answer).await {
        // While the daemon ends nobody looks after its sockets any more.
        Ok(()) => answered.await.unwrap_or_default(),
        Err(_) => Mended::new(),
    };
    let settled = compare(control.asks, true).await.map(|mut settled| {
        settled
            .differences
            .extend(mended.into_iter().map(Difference::of_socket));
        settled
    });
    compared(settled)
}

async fn import(State(asks): Asks, body: Bytes) -> Response {
    let records: Records = match serde_json::from_slice(&body) {
        Ok(records) => records,
        Err(why) => {
            return error(
                StatusCode::BAD_REQUEST,
                &format!("no document of 'tombolo state export': {why}"),
            );
        }
    };
    let (answer, answered) = oneshot::channel();
    let sent = asks.send(Ask::Import(records, answer)).await;
    match (sent, answered.await) {
        (Ok(()), Ok(Ok(()))) => crate::http::json(&json!({})),
        (Ok(()), Ok(Err(why))) => error(StatusCode::CONFLICT, &why),
        _ => error(StatusCode::SERVICE_UNAVAILABLE, &chain(&Error::Gone)),
    }
}

async fn take_over(giver: Giver, mut request: Request) -> Response {
    let connection = hyper::upgrade::on(&mut request);
    let wish = match axum::body::to_bytes(request.into_body(), WISH_MAX).await {
        Ok(body) => serde_json::from_slice::<Wish>(&body).map_err(|why| why.to_string()),
        Err(why) => Err(why.to_string()),
    };
    let wish = match wish {
        Ok(wish) => wish,
        Err(why) => return error(StatusCode::BAD_REQUEST, &format!("no wish to take over: {why}")),
    };
    match giver.agree(&wish) {
        Ok(promise) => {
            tokio::spawn(giver.begin(promise, connection));
            let headers = [("connection", "upgrade"), ("upgrade", PROTOCOL)];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }
        Err(why) => error(StatusCode::CONFLICT, &why.to_string()),
    }
}

fn error(status: StatusCode, why: &str) -> Response {
    (
        status,
        [("content-type", "application/json")],
        json!({ "error": why }).to_string(),
    )
        .into_response()
}
