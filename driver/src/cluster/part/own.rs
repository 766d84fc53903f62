//! What this host tells the cluster of itself: its endpoints, its routes, and where it is reached.

use std::net::SocketAddr;

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tombolo_cluster::node::Input;

use super::Part;
use crate::engine::Ask;
use crate::engine::shared::Told;

/// How many rows of routes are told to others at most.
const ROUTES: usize = 128;

impl Part {
    /// Tells the cluster what has changed on this host.
    pub(super) async fn tell_changes(&mut self, everything: bool) -> Result<(), String> {
        let Some(told) = ask_engine(&self.around.asks, everything).await else {
            return Ok(());
        };
        let rows = endpoint_rows(&told, self.node.seat().address.ip());
        self.step(Input::Pools(told.fills)).await?;
        self.step(Input::Rows(rows)).await
    }

    /// Looks at this host: its routes, and where it is reached.
    pub(super) async fn look(&mut self) -> Result<(), String> {
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
}

pub(super) async fn ask_engine(asks: &mpsc::Sender<Ask>, everything: bool) -> Option<Told> {
    let (answer, answered) = oneshot::channel();
    asks.send(Ask::Cluster { everything, answer }).await.ok()?;
    answered.await.ok()
}

pub(super) fn host_row(name: &str) -> Vec<u8> {
    serde_json::json!({ "name": name, "version": env!("CARGO_PKG_VERSION") })
        .to_string()
        .into_bytes()
}

pub(super) fn endpoint_rows(told: &Told, via: std::net::IpAddr) -> Vec<(String, Option<Vec<u8>>)> {
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
