//! What this host tells the cluster of itself: its endpoints, its routes, and where it is reached.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tombolo_cluster::HostId;
use tombolo_cluster::node::Input;
use tombolo_core::model::EndpointId;
use tombolo_core::peers::{EndpointRow, GroupsRow, HOST, HostRow, WayRow};

use super::{Around, Part};
use crate::dns::{Entry, News};
use crate::engine::Ask;
use crate::engine::shared::Told;
use crate::kernel::routes::{self, Wire};

/// How many rows of routes are told to others at most.
const ROUTES: usize = 128;

impl Part {
    /// Tells the cluster what has changed on this host.
    pub(super) async fn tell_changes(&mut self, everything: bool) -> Result<(), String> {
        let Some(told) = ask_engine(&self.around.asks, everything).await else {
            return Ok(());
        };
        let via = self.node.seat().address.ip();
        let mut rows = endpoint_rows(&told, via);
        rows.extend(group_rows(&told, via));
        let (records, networks) = self.around.replicas.changes();
        // What others hear of a network must be known here after a crash.
        self.keeper.keep(records).await.map_err(|e| e.to_string())?;
        self.around.replicas.kept();
        rows.extend(networks);
        self.around.names.hear(own_names(&told, self.me), self.me);
        self.step(Input::Pools(told.fills)).await?;
        self.step(Input::Rows(rows)).await
    }

    /// Looks at this host: its routes, and where it is reached.
    pub(super) async fn look(&mut self) -> Result<(), String> {
        match (self.around.advertise)(&self.around.advertised) {
            Ok(mut addresses) => {
                let main = self.node.seat().address.ip();
                // The sockets are of one family.
                addresses.retain(|address| address.is_ipv6() == main.is_ipv6());
                if addresses.is_empty() {
                    addresses.push(main);
                }
                if let Some(address) = addresses.first().filter(|first| **first != main) {
                    tracing::info!(%address, "others reach this host elsewhere now");
                    self.step(Input::Moved(SocketAddr::new(*address, self.around.port)))
                        .await?;
                    self.tell_changes(true).await?;
                }
                self.look_at_wires(addresses).await?;
            }
            Err(why) => tracing::debug!(%why, "where others reach this host can't be told"),
        }
        self.told.host_changed();
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

    /// Tells the others by which addresses they reach this host, if these have changed, or the wires that they are on.
    async fn look_at_wires(&mut self, addresses: Vec<IpAddr>) -> Result<(), String> {
        let mut places = places(addresses).await;
        for place in places.iter_mut().filter(|place| place.wire.is_none()) {
            // A wire that can't be read is taken for what it was.
            let known = self.places.iter().find(|known| known.address == place.address);
            place.wire = known.and_then(|known| known.wire.clone());
        }
        if places == self.places {
            return Ok(());
        }
        self.places = places;
        let row = host_row(&self.around, &self.places);
        self.step(Input::Rows(vec![(HOST.to_owned(), Some(row))])).await?;
        self.show();
        Ok(())
    }
}

/// An address by which others reach this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    /// The wire that it is on, as far as it can be told.
    pub(super) wire: Option<Wire>,
}

/// This host's places: the one that stands for it first.
pub(super) async fn places(addresses: Vec<IpAddr>) -> Vec<Place> {
    let mut places = Vec::new();
    for address in addresses {
        let wire = wire(address).await;
        places.push(Place { address, wire });
    }
    places
}

/// The largest packet that goes by all of them.
pub(super) fn mtu(places: &[Place]) -> Option<u32> {
    let mtus = places.iter().filter_map(|place| Some(place.wire.as_ref()?.mtu));
    mtus.min()
}

pub(super) async fn ask_engine(asks: &mpsc::Sender<Ask>, everything: bool) -> Option<Told> {
    let (answer, answered) = oneshot::channel();
    asks.send(Ask::Cluster { everything, answer }).await.ok()?;
    answered.await.ok()
}

pub(super) fn host_row(around: &Around, places: &[Place]) -> Vec<u8> {
    let link_local = |place: &Place| place.wire.as_ref().and_then(|wire| wire.link_local);
    let way = |place: &Place| WayRow {
        address: place.address,
        link_local: link_local(place),
    };
    let several = places.len() > 1;
    let row = HostRow {
        name: around.name.clone(),
        zone: Some(around.zone.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mtu: mtu(places),
        link_local: places.first().and_then(link_local),
        ways: places.iter().filter(|_| several).map(way).collect(),
    };
    // A plain struct always makes JSON.
    serde_json::to_vec(&row).unwrap_or_default()
}

async fn wire(address: IpAddr) -> Option<Wire> {
    match routes::wire_of(address).await {
        Ok(wire) => wire,
        Err(error) => {
            tracing::warn!(%error, "a wire that others reach this host by can't be read");
            None
        }
    }
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

/// What this host's endpoints are called.
pub(super) fn own_names(told: &Told, me: HostId) -> News {
    let entry = |(id, row): &(EndpointId, Option<EndpointRow>)| {
        let place = told.sandboxes.get(id).cloned();
        let entry = row.as_ref().and_then(|row| Entry::of(row, place));
        ((me, id.as_str().into()), entry)
    };
    News {
        everything: false,
        entries: told.endpoints.iter().map(entry).collect(),
        homes: told.homes.clone(),
    }
}

/// The rows of groups that are heard here.
pub(super) fn group_rows(told: &Told, via: IpAddr) -> Vec<(String, Option<Vec<u8>>)> {
    let rows = told.groups.iter();
    rows.map(|((pool, part), groups)| {
        let (pool, groups) = (*pool, groups.clone());
        let row = (!groups.is_empty()).then(|| {
            // A plain struct always makes JSON.
            serde_json::to_vec(&GroupsRow { pool, via, groups }).unwrap_or_default()
        });
        (GroupsRow::key(pool, *part), row)
    })
    .collect()
}
