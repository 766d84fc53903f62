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
//! The other way round, what Docker has and we have not is noted from the same lists: networks, endpoints, leases. At once
//! if records were lost, after the same patience otherwise. Links that are there already are recognised by their
//! names, so running containers don't notice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::json;
use tombolo_core::kinds::Spec;
use tombolo_core::kinds::options::{self, Options};
use tombolo_core::model::{Attach, Endpoint, EndpointId, Network, NetworkId, Published, Subnet};
use tombolo_core::state::{Command, Edit, Owner, State};
use tombolo_core::world::{Key, Value, World};
use tombolo_ipam::{PoolId, Slot, Space, Use};

use super::events::{Problem, What};
use super::{Engine, Journal, Looked};
use crate::docker::{EndpointView, Named, NetworkView, SubnetView, View};
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
    /// The other way round: Docker lists a network with our driver or our IPAM of which there is no record.
    Unnoted(NetworkId),
}

/// Names as Docker has told them.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub networks: BTreeMap<NetworkId, String>,
    pub containers: BTreeMap<EndpointId, String>,
}

/// What is known of the Docker engine.
#[derive(Debug, Default)]
pub struct Docker {
    version: Option<String>,
    live_restore: bool,
    heard: Option<Instant>,
    error: Option<String>,
    networks: BTreeMap<NetworkId, String>,
    containers: BTreeMap<EndpointId, String>,
    aliases: BTreeMap<EndpointId, Vec<String>>,
    pools: BTreeMap<IpNet, String>,
    holders: BTreeMap<IpAddr, String>,
    suspects: BTreeMap<Suspect, Instant>,
    freed: u64,
}

impl Docker {
    /// Whether the engine answers just now.
    pub fn serves(&self) -> bool {
        self.heard.is_some() && self.error.is_none()
    }

    /// Whether the engine's containers end with it, as far as it has told.
    pub fn ends_with_its_containers(&self) -> bool {
        self.heard.is_some() && !self.live_restore
    }

    /// Whether the engine has told nothing since the start.
    pub fn never_heard(&self) -> bool {
        self.heard.is_none()
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

    /// The other names of an endpoint on its network, as far as the engine has told them.
    pub fn aliases(&self, id: &EndpointId) -> &[String] {
        self.aliases.get(id).map_or(&[], Vec::as_slice)
    }

    /// The name of the container that has an address of our IPAM, on whichever driver's network.
    pub fn holder(&self, address: IpAddr) -> Option<&str> {
        self.holders.get(&address).map(String::as_str)
    }

    /// The engine's version, once it has told it.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Why the engine could not be asked, if it could not.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// How many records were freed because the engine had forgotten them.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// For `tombolo status`.
    pub fn status(&self) -> serde_json::Value {
        json!({
            "reachable": self.serves(),
            "version": self.version,
            "last_look_s": self.heard.map(|at| at.elapsed().as_secs()),
            "error": self.error,
            "missing_there": self.suspects.len(),
            "freed": self.freed,
        })
    }

    /// Takes a view in; gives the names that were known before it. What is told of an endpoint that `there` knows stays,
    /// where the view was begun before that endpoint came about.
    fn note(&mut self, view: &View, driver: &str, there: impl Fn(&EndpointId) -> bool) -> Names {
        let before = Names {
            networks: std::mem::take(&mut self.networks),
            containers: std::mem::take(&mut self.containers),
        };
        let ours = |n: &&NetworkView| is_driver(&n.ipam_driver, driver);
        self.version = Some(view.version.clone());
        self.live_restore = view.live_restore;
        self.heard = Some(Instant::now());
        self.error = None;
        self.networks = view
            .networks
            .iter()
            .map(|n| (n.id.clone(), n.name.clone()))
            .collect();
        let told = before.containers.iter().filter(|(id, _)| there(id));
        let told = told.map(|(id, name)| (id.clone(), name.clone()));
        let named = view.networks.iter().flat_map(|n| &n.endpoints);
        let named = named.map(|e| (e.id.clone(), e.name.clone()));
        self.containers = told.chain(named).collect();
        self.aliases.retain(|id, _| self.containers.contains_key(id));
        let pools = view
            .networks
            .iter()
            .filter(ours)
            .flat_map(|n| n.subnets.iter().map(|s| (s.pool, n.name.clone())));
        self.pools = pools.collect();
        let endpoints = view.networks.iter().filter(ours).flat_map(|n| &n.endpoints);
        self.holders = endpoints
            .flat_map(|e| e.addresses.iter().map(|a| (a.addr(), e.name.clone())))
            .collect();
        before
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
        let there = |id: &EndpointId| self.state.endpoint(id).is_some();
        let before = self.docker.note(&view, &driver, there);
        self.tell_names(&before);
        self.note_foreign(&view).await;
        if !self.serves_us(&view) {
            return;
        }
        if self.keep_unknown {
            self.rebuild(&view).await;
            return;
        }
        let missing = self.missing_from(&view);
        for suspect in self.docker.ripe(missing, now) {
            self.docker.suspects.remove(&suspect);
            match suspect {
                Suspect::Unnoted(id) => {
                    for network in view.networks.iter().filter(|n| n.id == id) {
                        self.note_again(network).await;
                    }
                }
                forgotten => self.free(forgotten).await,
            }
        }
        self.sweep_sandboxes(&view).await;
    }

    /// Takes in what containers are called.
    pub fn heard_names(&mut self, named: Vec<Named>) {
        for Named { id, name, aliases } in named {
            let Some(endpoint) = self.state.endpoint(&id) else {
                continue;
            };
            let docker = &mut self.docker;
            let renamed = docker.containers.insert(id.clone(), name.clone()) != Some(name);
            let before = docker.aliases.insert(id.clone(), aliases);
            if renamed || before.as_deref() != Some(docker.aliases(&id)) {
                self.touched.named(&id);
            }
            if renamed {
                self.tell_endpoint("named", endpoint);
            }
        }
    }

    /// Leaves what goes to bridges of Docker's own to its rules, whatever names they have.
    async fn note_foreign(&mut self, view: &View) {
        let facts = |state: &State| {
            let mut world = World::new();
            state.facts(&Owner::Host, &mut world);
            world
        };
        let before = facts(&self.state);
        if !self.state.note_foreign(view.bridges.clone()) {
            return;
        }
        let after = facts(&self.state);
        if let Err(error) = self.reach(&before, &after, None).await {
            tracing::warn!(%error, "Docker's own bridges are not all noted; looked at again");
            self.in_doubt = true;
        }
    }

    async fn free(&mut self, suspect: Suspect) {
        let (command, record, id, owner) = match suspect {
            Suspect::Endpoint(id) => {
                let (text, owner) = (id.to_string(), Owner::Endpoint(id.clone()));
                (Command::DeleteEndpoint(id), "endpoint", text, Some(owner))
            }
            Suspect::Network(id) => {
                let (text, owner) = (id.to_string(), Owner::Network(id.clone()));
                (Command::DeleteNetwork(id), "network", text, Some(owner))
            }
            Suspect::Lease(pool, address) => {
                let command = Command::ReleaseAddress(pool, address);
                (command, "lease", address.to_string(), None)
            }
            Suspect::Pool(pool) => (Command::ReleasePool(pool), "pool", pool.to_string(), None),
            // What is not noted can't be freed.
            Suspect::Unnoted(_) => return,
        };
        let place = self.place(owner.as_ref());
        tracing::warn!(
            record,
            id,
            network = place.network_name,
            "Docker has forgotten it; it is freed"
        );
        if self.by_ourselves(&command).await {
            self.docker.freed += 1;
            self.events.tell(&What::Record {
                action: "freed",
                record,
                id,
                place,
            });
        }
    }

    /// Whether the view is of the engine that we serve.
    fn serves_us(&mut self, view: &View) -> bool {
        if self.meta.get(ENGINE) == Some(&view.engine) {
            return true;
        }
        // All networks in the view have our driver or our IPAM. Who has no network can only gain by believing it.
        let none = self.state.networks().next().is_none();
        let ours = view
            .networks
            .iter()
            .any(|n| none || self.state.network(&n.id).is_some());
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
        let unnoted = view.networks.iter().filter(|n| self.lacks(n));
        missing.extend(unnoted.map(|n| Suspect::Unnoted(n.id.clone())));
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

    /// Whether there is no record of a network, or of one of its pools.
    fn lacks(&self, network: &NetworkView) -> bool {
        let driver = &self.setup.driver;
        let pool = |s: &SubnetView| PoolId::new(Space::Local, s.pool, s.range);
        let noted = |s: &SubnetView| pool(s).is_ok_and(|id| self.state.ipam().pool(&id).is_some());
        (is_driver(&network.driver, driver) && self.state.network(&network.id).is_none())
            || (is_driver(&network.ipam_driver, driver) && !network.subnets.iter().all(noted))
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
        // A network that the engine doesn't list vouches for nothing: its pools are waited for as long as itself.
        let listed: BTreeSet<&NetworkId> = view.networks.iter().map(|n| &n.id).collect();
        let there = || self.state.networks().filter(|n| listed.contains(&n.id));
        // The engine never hears of the host's own addresses on wires.
        let uplinks = there().filter_map(|n| n.spec.uplink());
        addresses.extend(uplinks.flat_map(|uplink| uplink.host.iter().copied()));
        for subnet in there().flat_map(|n| &n.subnets).filter(|s| s.ours) {
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

    /// Fills lost records from Docker's lists and what the kernel holds. Only when all of it is there again, what is left
    /// over is swept; otherwise the next look tries again.
    async fn rebuild(&mut self, view: &View) {
        for network in &view.networks {
            self.note_again(network).await;
        }
        self.agree().await;
        let (networks, endpoints) = (self.state.networks().count(), self.state.endpoints().count());
        if self.problems.keys().any(|about| about.starts_with(PROBLEM)) {
            return;
        }
        tracing::warn!(
            networks,
            endpoints,
            "records rebuilt from what Docker and the kernel hold"
        );
        self.keep_unknown = false;
        self.meta.remove(super::LOST);
        let forgotten = self.journal.commit(&[records::forget_meta(super::LOST)]);
        if let Err(error) = forgotten.and_then(|()| self.journal.rebuilt()) {
            tracing::warn!(%error, "the next start will rebuild the records again");
        }
        self.settle("records rebuilt").await;
    }

    /// Notes a network that Docker has, with its leases and endpoints, as far as there are no records of them.
    async fn note_again(&mut self, network: &NetworkView) {
        let about = format!("{PROBLEM}: network {}", network.name);
        match self.rebuild_network(network).await {
            Ok(()) => drop(self.problems.remove(&about)),
            Err(error) => {
                tracing::error!(network = network.name, %error, "not noted from what Docker says; tried again");
                let problem = Problem {
                    owner: Some(Owner::Network(network.id.clone())),
                    ..error.into()
                };
                self.problems.insert(about, problem);
            }
        }
    }

    async fn rebuild_one(&mut self, command: &Command) -> Result<(), String> {
        self.rebuild_with(command, &Looked::default()).await
    }

    async fn rebuild_with(&mut self, command: &Command, looked: &Looked) -> Result<(), String> {
        let deadline = Instant::now() + crate::http::DEADLINE;
        let done = self.carry_out(command, looked, deadline, false).await;
        let (_, taken) = done.map_err(|error| crate::http::chain(&error))?;
        self.tell_change(&taken);
        Ok(())
    }

    async fn rebuild_leases(&mut self, network: &NetworkView) -> Result<(), String> {
        for subnet in &network.subnets {
            let id =
                PoolId::new(Space::Local, subnet.pool, subnet.range).map_err(|error| error.to_string())?;
            let gateway = self.gateway(network, subnet);
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
            let held = gateway.map(|g| (g.addr(), Use::Gateway)).into_iter();
            let held = held
                .chain(subnet.aux.iter().map(|a| (*a, Use::Aux)))
                .chain(of_endpoints);
            let held: Vec<(IpAddr, Use)> = held
                .filter(|(address, _)| subnet.pool.contains(address))
                .collect();
            let edits = self.state.adopt_leases(id, &held);
            self.rebuild_one(&Command::Adopt(edits)).await?;
        }
        Ok(())
    }

    /// The gateway of a subnet. An engine lists one only where the user named it, or where it chose the subnet as well;
    /// otherwise the bridge tells, and if that is gone, the rule by which a gateway is chosen.
    fn gateway(&self, network: &NetworkView, subnet: &SubnetView) -> Option<IpNet> {
        let kind = Spec::read(Options::new(network.options.clone()), network.v6);
        if kind.as_ref().is_ok_and(|kind| kind.uplink().is_some()) {
            return subnet
                .gateway
                .and_then(|address| IpNet::new(address, subnet.pool.prefix_len()).ok());
        }
        let on_bridge = || {
            let kind = Spec::read(Options::new(network.options.clone()), network.v6).ok()?;
            let bridge = kind.kind().links(&network.id).into_iter().next()?;
            self.believed.keys().find_map(|key| match key {
                Key::Address(link, address) if *link == bridge && subnet.pool.contains(&address.addr()) => {
                    Some(*address)
                }
                _ => None,
            })
        };
        let by_rule = || PoolId::new(Space::Local, subnet.pool, None).ok()?.first_usable();
        let prefixed = |address| IpNet::new(address, subnet.pool.prefix_len()).ok();
        subnet
            .gateway
            .and_then(prefixed)
            .or_else(on_bridge)
            .or_else(|| by_rule().and_then(prefixed))
    }

    async fn rebuild_network(&mut self, network: &NetworkView) -> Result<(), String> {
        let driver = self.setup.driver.clone();
        if is_driver(&network.ipam_driver, &driver) {
            self.rebuild_leases(network).await?;
        }
        if !is_driver(&network.driver, &driver) {
            return Ok(());
        }
        let record = self.record(network).map_err(|error| error.to_string())?;
        if network.lent {
            // Addresses of our own choice there could be somebody's.
            return Err(
                "its addresses are lent by a server of its wire (dhcp=on), and what that has lent is lost: make the network again".to_owned(),
            );
        }
        // A bridge says in its group whose it is; the parent of a wire is as it was before.
        let parent = record.spec.uplink().and_then(|uplink| uplink.parent.clone());
        let link = match parent {
            Some(parent) => self
                .kernel
                .named_link(&parent)
                .await
                .map_err(|error| error.to_string())?,
            None => None,
        };
        let looked = Looked {
            link,
            ..Looked::default()
        };
        self.rebuild_with(&Command::CreateNetwork(record), &looked)
            .await?;
        for endpoint in &network.endpoints {
            self.rebuild_endpoint(network, endpoint).await?;
        }
        Ok(())
    }

    /// A network's record, as its creation would have made it.
    fn record(&self, network: &NetworkView) -> Result<Network, options::Error> {
        let ours = is_driver(&network.ipam_driver, &self.setup.driver);
        let subnet = |s: &SubnetView| Subnet {
            pool: s.pool,
            gateway: self.gateway(network, s),
            aux: s.aux.clone(),
            way_out: s.way_out,
            ours,
        };
        let mut subnets: Vec<Subnet> = network.subnets.iter().map(subnet).collect();
        subnets.sort_by_key(|s| s.pool.addr().is_ipv6());
        let spec = Spec::read(Options::new(network.options.clone()), network.v6)?;
        Ok(Network {
            id: network.id.clone(),
            spec,
            internal: network.internal,
            subnets,
            released: false,
            attach: Attach::among(&network.options),
        })
    }

    async fn rebuild_endpoint(&mut self, network: &NetworkView, seen: &EndpointView) -> Result<(), String> {
        if self.state.endpoint(&seen.id).is_some_and(|e| e.linked) {
            return Ok(());
        }
        let create = Command::CreateEndpoint {
            id: seen.id.clone(),
            network: network.id.clone(),
            addresses: seen.addresses.clone(),
            mac: seen.mac,
            rate: match self.believed.get(&Key::Rate(seen.id.host_link())) {
                Some(Value::Rate(bits)) => Some(*bits),
                _ => None,
            },
            // What they were is in the sandbox, and made for good.
            sysctls: Vec::new(),
        };
        self.rebuild_one(&create).await?;
        let host_link = Key::Link(seen.id.host_link());
        let on_wire = |endpoint: &&Endpoint| self.state.is_on_wire(endpoint);
        let made = self.state.endpoint(&seen.id);
        if made.filter(on_wire).is_some() {
            // Docker lists those only that are in a container that runs, and the link has been there since it was joined.
            let child = Key::Child(seen.id.container_link());
            self.believed.believe(child, Some(Value::Present));
        }
        let made = self
            .state
            .endpoint(&seen.id)
            .filter(|made| on_wire(made) || self.believed.contains_key(&host_link));
        // Without a link there is no container that runs; Docker will say so, or join it.
        let Some(made) = made.cloned() else { return Ok(()) };
        let published = self.published(&made);
        let joined = Endpoint {
            linked: true,
            sandbox: Some(String::new()),
            published,
            ..made
        };
        self.rebuild_one(&Command::Adopt(vec![Edit::Endpoint(
            seen.id.clone(),
            Some(joined),
        )]))
        .await
    }

    /// The ports that the kernel has published for an endpoint: Docker doesn't know those that we chose.
    fn published(&self, endpoint: &Endpoint) -> Vec<Published> {
        let ours = |address: &IpAddr| endpoint.addresses.iter().any(|a| a.addr() == *address);
        let found = self
            .believed
            .iter()
            .filter_map(|(key, value)| match (key, value) {
                (Key::Open(proto, address, port), _) if ours(address) => Some(Published {
                    proto: *proto,
                    host: *address,
                    host_port: *port,
                    port: *port,
                }),
                (Key::Publish(proto, host, host_port), Value::To(address, port)) if ours(address) => {
                    Some(Published {
                        proto: *proto,
                        host: *host,
                        host_port: *host_port,
                        port: *port,
                    })
                }
                _ => None,
            });
        found.collect()
    }
}
