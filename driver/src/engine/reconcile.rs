//! Records against what Docker says it has.
//!
//! Docker forgets: an engine that is killed between two calls, or whose answer was lost, never mentions what it asked for
//! again. So the engine's own lists are read now and then, in the background, and what they miss is freed. A live thing
//! must never be freed, hence four conditions, all of them:
//!
//! 1. the list comes from the engine that we serve: it names a network of ours, or it is the engine that once did;
//! 2. the thing is missing in two lists in a row, the second one [`PATIENCE`] after the first;
//! 3. no record of ours stands for it (an address of a known endpoint is in use whatever the list says);
//! 4. the engine could be asked at all: no answer frees nothing.
//!
//! The other way round, a lost store is filled again from the same lists: networks, endpoints, leases. Links that are
//! there already are recognised by their names, so running containers don't notice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::{Value, json};
use tombolo_core::model::{EndpointId, NetworkId};
use tombolo_core::state::{Command, Edit};
use tombolo_ipam::{PoolId, Slot, Space, Use};

use super::{Engine, Journal};
use crate::docker::{NetworkView, View};
use crate::kernel::Kernel;
use crate::records;

/// How long something must be missing from Docker's lists before it is freed. A start is between our answer and the
/// engine's own note of it for milliseconds, under heavy load for a second or two.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the names of Docker's problems begin with, in `status`.
pub const PROBLEM: &str = "docker";

/// Under what the engine's identifier is kept.
const ENGINE: &str = "engine";

/// Something of ours that Docker doesn't list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Suspect {
    Endpoint(EndpointId),
    Network(NetworkId),
    Lease(PoolId, IpAddr),
    Pool(PoolId),
}

impl Suspect {
    /// What frees it.
    fn command(&self) -> Command {
        match self.clone() {
            Self::Endpoint(id) => Command::DeleteEndpoint(id),
            Self::Network(id) => Command::DeleteNetwork(id),
            Self::Lease(pool, address) => Command::ReleaseAddress(pool, address),
            Self::Pool(pool) => Command::ReleasePool(pool),
        }
    }
}

/// What is known of the Docker engine.
#[derive(Debug, Default)]
pub struct Docker {
    version: Option<String>,
    heard: Option<Instant>,
    error: Option<String>,
    networks: BTreeMap<NetworkId, String>,
    containers: BTreeMap<EndpointId, String>,
    pools: BTreeMap<IpNet, String>,
    suspects: BTreeMap<Suspect, Instant>,
    freed: u64,
}

impl Docker {
    /// Whether the engine answers just now.
    pub fn serves(&self) -> bool {
        self.heard.is_some() && self.error.is_none()
    }

    /// The pools of networks that have our IPAM, with the networks' names.
    pub fn pools(&self) -> &BTreeMap<IpNet, String> {
        &self.pools
    }

    /// A network's name, once the engine has told it.
    pub fn network_name(&self, id: &NetworkId) -> Option<&str> {
        self.networks.get(id).map(String::as_str)
    }

    /// The name of an endpoint's container, once the engine has told it.
    pub fn container_name(&self, id: &EndpointId) -> Option<&str> {
        self.containers.get(id).map(String::as_str)
    }

    /// For `tombolo status`.
    pub fn status(&self) -> Value {
        json!({
            "reachable": self.serves(),
            "version": self.version,
            "last_look_s": self.heard.map(|at| at.elapsed().as_secs()),
            "error": self.error,
            "missing_there": self.suspects.len(),
            "freed": self.freed,
        })
    }

    fn note(&mut self, view: &View, driver: &str) {
        let ours = |n: &&NetworkView| is_driver(&n.ipam_driver, driver);
        self.version = Some(view.version.clone());
        self.heard = Some(Instant::now());
        self.error = None;
        self.networks = view
            .networks
            .iter()
            .map(|n| (n.id.clone(), n.name.clone()))
            .collect();
        let named = view.networks.iter().flat_map(|n| &n.endpoints);
        self.containers = named.map(|e| (e.id.clone(), e.name.clone())).collect();
        let pools = view
            .networks
            .iter()
            .filter(ours)
            .flat_map(|n| n.subnets.iter().map(|s| (s.pool, n.name.clone())));
        self.pools = pools.collect();
    }

    /// The suspects that have been missing for long enough; the rest is remembered.
    fn ripe(&mut self, missing: BTreeSet<Suspect>, now: Instant) -> Vec<Suspect> {
        self.suspects.retain(|suspect, _| missing.contains(suspect));
        let mut ripe = Vec::new();
        for suspect in missing {
            let since = *self.suspects.entry(suspect.clone()).or_insert(now);
            if now.duration_since(since) >= PATIENCE {
                ripe.push(suspect);
            }
        }
        ripe
    }
}

/// Whether a driver's name is ours. A managed plug-in is named with its tag.
pub fn is_driver(name: &str, driver: &str) -> bool {
    name.strip_prefix(driver)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Takes in what the engine says of itself, and frees what it has forgotten.
    pub async fn heard_from_docker(&mut self, view: Result<View, String>, now: Instant) {
        let view = match view {
            Ok(view) => view,
            Err(error) => {
                self.docker.error = Some(error);
                self.docker.suspects.clear();
                return;
            }
        };
        let driver = self.setup.driver.clone();
        self.docker.note(&view, &driver);
        if !self.serves_us(&view) {
            return;
        }
        if self.keep_unknown {
            self.rebuild(&view).await;
            return;
        }
        let missing = self.missing_from(&view);
        for suspect in self.docker.ripe(missing, now) {
            tracing::warn!(?suspect, "Docker has forgotten it; freed");
            self.docker.freed += 1;
            self.docker.suspects.remove(&suspect);
            self.by_ourselves(&suspect.command()).await;
        }
    }

    /// Whether the view is of the engine that we serve.
    fn serves_us(&mut self, view: &View) -> bool {
        if self.meta.get(ENGINE) == Some(&view.engine) {
            return true;
        }
        let ours = view.networks.iter().any(|n| {
            self.state.network(&n.id).is_some()
                || (self.keep_unknown && is_driver(&n.driver, &self.setup.driver))
        });
        if ours {
            match self.journal.commit(&[records::put_meta(ENGINE, &view.engine)]) {
                Ok(()) => drop(self.meta.insert(ENGINE.to_owned(), view.engine.clone())),
                Err(error) => tracing::warn!(%error, "the engine's identifier could not be stored"),
            }
        }
        ours
    }

    fn missing_from(&self, view: &View) -> BTreeSet<Suspect> {
        let networks: BTreeSet<&NetworkId> = view.networks.iter().map(|n| &n.id).collect();
        let endpoints: BTreeSet<&EndpointId> = view
            .networks
            .iter()
            .flat_map(|n| &n.endpoints)
            .map(|e| &e.id)
            .collect();
        let (pools, addresses) = self.in_use(view);
        let ipam = self.state.ipam();

        let gone = self.state.networks().filter(|n| !networks.contains(&n.id));
        let mut missing: BTreeSet<Suspect> = gone.map(|n| Suspect::Network(n.id.clone())).collect();
        let gone = self.state.endpoints().filter(|e| !endpoints.contains(&e.id));
        missing.extend(gone.map(|e| Suspect::Endpoint(e.id.clone())));
        for id in ipam.pools().keys() {
            if !pools.contains(&id.cidr()) {
                missing.insert(Suspect::Pool(*id));
            }
        }
        for ((_, address), slot) in ipam.slots() {
            if let Slot::Leased { pool, .. } = slot
                && pools.contains(&pool.cidr())
                && !addresses.contains(address)
            {
                missing.insert(Suspect::Lease(*pool, *address));
            }
        }
        missing
    }

    /// The pools and the addresses of our IPAM that something stands for, there or here.
    fn in_use(&self, view: &View) -> (BTreeSet<IpNet>, BTreeSet<IpAddr>) {
        let (mut pools, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for network in view
            .networks
            .iter()
            .filter(|n| is_driver(&n.ipam_driver, &self.setup.driver))
        {
            pools.extend(network.subnets.iter().map(|s| s.pool));
            addresses.extend(
                network
                    .subnets
                    .iter()
                    .flat_map(|s| s.gateway.into_iter().chain(s.aux.iter().copied())),
            );
            addresses.extend(
                network
                    .endpoints
                    .iter()
                    .flat_map(|e| e.addresses.iter().map(IpNet::addr)),
            );
        }
        for subnet in self.state.networks().flat_map(|n| &n.subnets).filter(|s| s.ours) {
            pools.insert(subnet.pool);
            addresses.extend(
                subnet
                    .gateway
                    .iter()
                    .map(IpNet::addr)
                    .chain(subnet.aux.iter().copied()),
            );
        }
        addresses.extend(
            self.state
                .endpoints()
                .flat_map(|e| e.addresses.iter().map(IpNet::addr)),
        );
        (pools, addresses)
    }

    /// Fills lost records from Docker's lists and the links that are there.
    async fn rebuild(&mut self, view: &View) {
        let driver = self.setup.driver.clone();
        let mut problems = Vec::new();
        for network in &view.networks {
            if is_driver(&network.ipam_driver, &driver) {
                self.rebuild_leases(network).await;
            }
            if is_driver(&network.driver, &driver) {
                match network.record(&driver) {
                    Ok(record) => self.by_ourselves(&Command::CreateNetwork(record)).await,
                    Err(error) => problems.push(format!("network {}: {error}", network.name)),
                }
                self.rebuild_endpoints(network).await;
            }
        }
        for problem in &problems {
            tracing::error!(%problem, "could not be rebuilt from what Docker says");
            self.problems
                .insert(format!("{PROBLEM}: rebuild"), problem.clone());
        }
        let (networks, endpoints) = (self.state.networks().count(), self.state.endpoints().count());
        tracing::warn!(
            networks,
            endpoints,
            "records rebuilt from what Docker and the kernel hold"
        );
        self.keep_unknown = false;
        if let Err(error) = self.journal.rebuilt() {
            tracing::warn!(%error, "the next start will rebuild the records again");
        }
        self.settle("records rebuilt").await;
    }

    async fn rebuild_leases(&mut self, network: &NetworkView) {
        for subnet in &network.subnets {
            let Ok(id) = PoolId::new(Space::Local, subnet.pool, subnet.range) else {
                continue;
            };
            let inside = |address: &IpAddr| subnet.pool.contains(address);
            let of_endpoints = network.endpoints.iter().flat_map(|e| {
                e.addresses.iter().map(|a| {
                    (
                        a.addr(),
                        Use::Endpoint {
                            name: Some(e.name.clone()),
                        },
                    )
                })
            });
            let held = subnet.gateway.map(|g| (g, Use::Gateway)).into_iter();
            let held = held
                .chain(subnet.aux.iter().map(|a| (*a, Use::Aux)))
                .chain(of_endpoints);
            let held: Vec<(IpAddr, Use)> = held.filter(|(address, _)| inside(address)).collect();
            let edits = self.state.adopt_leases(id, &held);
            self.by_ourselves(&Command::Adopt(edits)).await;
        }
    }

    async fn rebuild_endpoints(&mut self, network: &NetworkView) {
        for seen in &network.endpoints {
            let create = Command::CreateEndpoint {
                id: seen.id.clone(),
                network: network.id.clone(),
                addresses: seen.addresses.clone(),
                mac: seen.mac,
            };
            self.by_ourselves(&create).await;
            let Some(made) = self.state.endpoint(&seen.id) else {
                continue;
            };
            let mut joined = made.clone();
            let host_link = tombolo_core::world::Key::Link(seen.id.host_link());
            joined.linked = self.believed.contains_key(&host_link);
            joined.sandbox = joined.linked.then(|| seen.sandbox.clone().unwrap_or_default());
            if joined.linked {
                joined.published = seen.published(&joined, &self.believed);
            }
            self.by_ourselves(&Command::Adopt(vec![Edit::Endpoint(
                seen.id.clone(),
                Some(joined),
            )]))
            .await;
        }
    }
}
