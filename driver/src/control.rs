//! The command line's interface: documents to look at, records to export and import, events to follow. Mode 0600: root
//! only.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRef, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::events::{Events, What};
use crate::engine::views::Show;
use crate::engine::{Ask, Error};
use crate::hand_over::{Giver, Told, Wish};
use crate::http::chain;
use crate::records::Records;

/// The largest import that is read: some hundred thousand records.
const IMPORT_MAX: usize = 256 << 20;

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
}

impl FromRef<Control> for mpsc::Sender<Ask> {
    fn from_ref(control: &Control) -> Self {
        control.asks.clone()
    }
}

/// The control interface.
pub fn control(control: Control) -> Router {
    let giver = control.giver.clone();
    Router::new()
        .route("/v1/status", get(|State(asks): Asks| show(asks, Show::Status)))
        .route(
            "/v1/networks",
            get(|State(asks): Asks| show(asks, Show::Networks)),
        )
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
            "/v1/hand-over",
            post(async move |body: Bytes| hand_over(&giver, &body)),
        )
        .route("/v1/differences", get(|State(asks): Asks| compare(asks, false)))
        .route("/v1/settle", post(|State(asks): Asks| compare(asks, true)))
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

async fn show(asks: mpsc::Sender<Ask>, what: Show) -> Response {
    let (answer, answered) = oneshot::channel();
    let sent = asks.send(Ask::Show(what, answer)).await;
    match (sent, answered.await) {
        (Ok(()), Ok(document)) => crate::http::json(&document),
        _ => error(StatusCode::SERVICE_UNAVAILABLE, &chain(&Error::Gone)),
    }
}

async fn compare(asks: mpsc::Sender<Ask>, repair: bool) -> Response {
    let (answer, answered) = oneshot::channel();
    let sent = asks.send(Ask::Compare { repair, answer }).await;
    match (sent, answered.await) {
        (Ok(()), Ok(compared)) => crate::http::json(&json!(compared)),
        _ => error(StatusCode::SERVICE_UNAVAILABLE, &chain(&Error::Gone)),
    }
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

fn hand_over(giver: &Giver, body: &Bytes) -> Response {
    let wish: Wish = match serde_json::from_slice(body) {
        Ok(wish) => wish,
        Err(why) => return error(StatusCode::BAD_REQUEST, &format!("no wish to take over: {why}")),
    };
    match giver.agree(&wish) {
        Ok(()) => crate::http::json(&json!({ "pid": std::process::id() })),
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
