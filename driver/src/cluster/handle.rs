//! The cluster as the rest of the daemon sees it: a handle to ask. Behind it is the [`Task`].

mod documents;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tombolo_cluster::charter::{Definition, ON_WIRE};
use tombolo_cluster::node::Wish;
use tombolo_core::kinds::{Agreed, overlay};
use tombolo_core::model::{NetName, Network, Subnet};

use super::keep::Keeper;
use super::part::{Around, Request};
use super::secret::Secret;
use super::shown::{Shown, ShownNow};
use super::sight::Sight;
use super::task::{Ask, Task};
use super::token::Token;
use super::tunnels::Asker;
use crate::config::Config;
use crate::dns::Names;
use crate::replicas::Replicas;

/// How long a token is good for that `init` makes, in seconds.
const TOKEN_S: u64 = 24 * 3600;

/// The handle.
#[derive(Clone)]
pub struct Cluster {
    asks: mpsc::Sender<Ask>,
    shown: Shown,
    outside: crate::engine::Outside,
    troubles: watch::Sender<usize>,
    replicas: Arc<Replicas>,
    names: Arc<Names>,
    /// One who leaves at a time.
    leaving: Arc<tokio::sync::Mutex<()>>,
}

/// How long leaving waits for networks that are removed here because they are there for all hosts.
const WITHDRAW: Duration = Duration::from_secs(30);

/// Why this host may not lease while it is in no cluster.
pub const OUTSIDE: &str = "this host is in no cluster; see 'tombolo cluster --help'";

/// Why it may not just after its start.
pub const BEGINS: &str = "its part in the cluster has only just begun: try again";

impl Cluster {
    /// A handle and the task that must run behind it.
    pub fn new(config: &Config, around: Around, kept: BTreeMap<String, String>) -> (Self, Task) {
        let (asks, queue) = mpsc::channel(256);
        let handle = Self {
            asks,
            shown: around.shown.clone(),
            outside: around.outside.clone(),
            troubles: watch::Sender::new(0),
            replicas: around.replicas.clone(),
            names: around.names.clone(),
            leaving: Arc::default(),
        };
        let task = Task {
            keeper: Keeper::new(around.asks.clone(), kept),
            around,
            queue,
            join: config.join.addresses(config.cluster_port),
            setting: config.join.to_string(),
            key_file: config.cluster_key_file.0.clone(),
        };
        (handle, task)
    }

    /// Waits until something is known to check requests against.
    pub async fn known(&self) {
        self.shown.known().await;
    }

    /// What requests are checked against.
    pub fn shown(&self) -> Arc<ShownNow> {
        self.shown.get()
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Ask) -> Result<T, String> {
        let (answer, answered) = oneshot::channel();
        let gone = || "tombolo is shutting down".to_owned();
        self.asks.send(ask(answer)).await.map_err(|_| gone())?;
        // Where there is no part, its requests are dropped.
        let no_part = || self.outside.why().unwrap_or_else(|| OUTSIDE.to_owned());
        answered.await.unwrap_or_else(|_| Err(no_part()))
    }

    /// Has a wish come true.
    ///
    /// # Errors
    /// Why it doesn't, in words.
    pub async fn wish(&self, wish: Wish) -> Result<(), String> {
        self.ask(|answer| Ask::Part(Request::Wish(wish, answer))).await
    }

    /// Has a network's pools be the cluster's, notes what is agreed on there, and adds the addresses that are kept on all hosts.
    ///
    /// # Errors
    /// Why they can't be, in words.
    pub async fn share(&self, network: &mut Network) -> Result<(), String> {
        let main = network.pool();
        for subnet in network.subnets.iter().filter(|subnet| subnet.ours) {
            // A network of both families is one network: what is agreed on stands with the pool that is its identity.
            let identity = main == Some(subnet.pool);
            self.share_subnet(network, subnet, identity).await?;
        }
        let shown = self.shown();
        if let Some(definition) = main.and_then(|pool| shown.pools.get(&pool)) {
            network.spec.agree(Agreed {
                vni: definition.vni,
                mtu: definition.mtu,
            });
        }
        let shown = self.shown();
        for subnet in network.subnets.iter_mut().filter(|subnet| subnet.ours) {
            let kept = shown
                .pools
                .get(&subnet.pool)
                .into_iter()
                .flat_map(|definition| &definition.aux);
            let more: Vec<IpAddr> = kept
                .copied()
                .filter(|aux| !subnet.aux.contains(aux) && subnet.way_out != Some(*aux))
                .collect();
            subnet.aux.extend(more);
        }
        Ok(())
    }

    async fn share_subnet(&self, network: &Network, subnet: &Subnet, identity: bool) -> Result<(), String> {
        let mut aux: BTreeSet<IpAddr> = subnet.aux.iter().copied().collect();
        aux.extend(subnet.way_out);
        let asks = network.spec.asks();
        let wish = |vni: Option<u32>| {
            let definition = Definition {
                net: network.spec.net().map(ToString::to_string),
                kind: network.spec.kind().name().to_owned(),
                gateway: subnet.gateway.map(|gateway| gateway.addr()),
                aux: aux.clone(),
                vni: vni.filter(|_| identity),
                mtu: asks.mtu.filter(|_| identity),
            };
            self.wish(Wish::Pool(subnet.pool, definition))
        };
        let field = if network.spec.net().is_some() {
            "net"
        } else {
            "Pool"
        };
        let mut vni = self.vni_for(network, subnet.pool);
        loop {
            let Err(why) = wish(vni).await else { return Ok(()) };
            // Another network may have got the number a moment ago; then there is another one for us now.
            let now = self.vni_for(network, subnet.pool);
            if !identity || now == vni {
                return Err(format!("{field}: {why}"));
            }
            vni = now;
        }
    }

    /// The VXLAN network identifier that is wished for a network: the user's, or one that is free. None leaves it to what was
    /// agreed on before.
    fn vni_for(&self, network: &Network, pool: IpNet) -> Option<u32> {
        match network.spec.asks().vni {
            None if network.spec.has_tunnel() => self.free_vni(network, pool),
            asked => asked,
        }
    }

    /// The VXLAN network identifier for a network that has none yet: it follows from the network's identity, and is none
    /// that another one has.
    fn free_vni(&self, network: &Network, pool: IpNet) -> Option<u32> {
        let shown = self.shown();
        if shown
            .pools
            .get(&pool)
            .is_some_and(|definition| definition.vni.is_some())
        {
            return None;
        }
        let identity = network
            .spec
            .net()
            .map_or_else(|| pool.to_string(), ToString::to_string);
        let taken: BTreeSet<u32> = shown
            .pools
            .values()
            .filter_map(|definition| definition.vni)
            .collect();
        overlay::vnis_of(&identity).find(|vni| !taken.contains(vni))
    }

    /// Has a pool be the cluster's, of which no more than a name is known.
    ///
    /// # Errors
    /// Why it can't be, in words.
    pub async fn share_pool(&self, pool: IpNet, net: &NetName, on_wire: bool) -> Result<(), String> {
        let definition = Definition {
            net: Some(net.to_string()),
            kind: if on_wire { ON_WIRE } else { "" }.to_owned(),
            gateway: None,
            aux: BTreeSet::new(),
            vni: None,
            mtu: None,
        };
        self.wish(Wish::Pool(pool, definition))
            .await
            .map_err(|why| format!("net: {why}"))
    }

    async fn see(&self) -> Option<Sight> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Part(Request::See(true, answer))).await.ok()?;
        answered.await.ok()
    }

    /// Has the part be looked at without its rows, if this host is in a cluster and not too much is asked of it already.
    pub fn measure(&self, answer: oneshot::Sender<Sight>) -> bool {
        self.shown().member && self.asks.try_send(Ask::Part(Request::See(false, answer))).is_ok()
    }

    /// Tries the tunnels to all hosts that are up, with probes in them.
    ///
    /// # Errors
    /// Why that can't be done, in words.
    pub async fn tunnels(&self) -> Result<Value, String> {
        Ok(json!(self.asker().await?.all().await?))
    }

    /// What the other hosts that are up are asked with to try tunnels.
    ///
    /// # Errors
    /// Why there is nothing, in words.
    pub async fn asker(&self) -> Result<Asker, String> {
        self.ask(|answer| Ask::Part(Request::Tunnels(answer))).await
    }

    /// Says how many hosts' tunnels are in trouble.
    pub fn note_troubles(&self, count: usize) {
        self.troubles.send_replace(count);
    }

    /// How many are.
    pub fn troubles(&self) -> usize {
        *self.troubles.borrow()
    }

    /// Begins a cluster with this host.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn init(&self) -> Result<Value, String> {
        self.ask(Ask::Init).await?;
        self.token(TOKEN_S).await
    }

    /// Makes a token to join with.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn token(&self, ttl_s: u64) -> Result<Value, String> {
        let (address, token) = self
            .ask(|answer| Ask::Part(Request::Token(ttl_s, answer)))
            .await?;
        Ok(json!({ "address": address, "token": token, "expires_s": ttl_s }))
    }

    /// Joins the cluster of the host at an address.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn join(&self, address: SocketAddr, token: &str) -> Result<Value, String> {
        let token = Token::parse(token).map_err(|e| e.to_string())?;
        self.ask(|answer| Ask::Join(address, token, answer)).await
    }

    /// Leaves the cluster.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn leave(&self) -> Result<Value, String> {
        let Ok(_one) = self.leaving.try_lock() else {
            return Err("this host is leaving its cluster already".to_owned());
        };
        let until = tokio::time::Instant::now() + WITHDRAW;
        self.replicas.withdraw(until).await;
        let left = self.ask(Ask::Leave).await;
        // It may join another one.
        self.replicas.stay();
        left
    }

    /// Forgets hosts that are gone for good.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn forget(&self, hosts: Vec<String>) -> Result<Value, String> {
        let forgotten = self
            .ask(|answer| Ask::Part(Request::Forget(hosts, answer)))
            .await?;
        Ok(json!({ "forgotten": forgotten }))
    }

    /// Has another key in force; a given one, or one that is drawn.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn rotate(&self, key: Option<&str>) -> Result<Value, String> {
        let key = key
            .map(|text| text.trim().parse::<Secret>().map_err(|e| format!("key: {e}")))
            .transpose()?;
        let (secret, hosts, without) = self.ask(|answer| Ask::Part(Request::Rotate(key, answer))).await?;
        Ok(json!({ "secret": secret, "hosts": hosts, "without": without }))
    }
}
