//! The command line's interface: documents to look at, records to export and import. Mode 0600: root only.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::engine::views::Show;
use crate::engine::{Ask, Error};
use crate::http::chain;
use crate::records::Records;

/// The largest import that is read: some hundred thousand records.
const IMPORT_MAX: usize = 256 << 20;

type Asks = State<mpsc::Sender<Ask>>;

/// The control interface.
pub fn control(asks: mpsc::Sender<Ask>) -> Router {
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
        .fallback(|| async {
            error(
                StatusCode::NOT_FOUND,
                "no such path; this daemon may be older than the command",
            )
        })
        .layer(DefaultBodyLimit::max(IMPORT_MAX))
        .with_state(asks)
}

async fn show(asks: mpsc::Sender<Ask>, what: Show) -> Response {
    let (answer, answered) = oneshot::channel();
    let sent = asks.send(Ask::Show(what, answer)).await;
    match (sent, answered.await) {
        (Ok(()), Ok(document)) => crate::http::json(&document),
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

fn error(status: StatusCode, why: &str) -> Response {
    (
        status,
        [("content-type", "application/json")],
        json!({ "error": why }).to_string(),
    )
        .into_response()
}
