//! What the cluster is told of this host: how full its shares are, and its endpoints on networks of the cluster.
//!
//! A change only notes what it touched; whoever speaks with the cluster is woken, and asks. So a change costs the same
//! however many endpoints there are, and many at once are told together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::Notify;
use tombolo_cluster::node::Fill;
use tombolo_core::kinds::Dns;
use tombolo_core::model::{EndpointId, Network};
use tombolo_core::peers::EndpointRow;
use tombolo_core::state::{Edit, Owner};
use tombolo_core::world::{Key, World};
use tombolo_ipam::share::Share;
use tombolo_ipam::{PoolId, Space};

use super::groups::Part;
use super::{Engine, Journal};
use crate::dns::{Home, Place};
use crate::kernel::Kernel;

/// What has changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    endpoints: BTreeSet<EndpointId>,
    /// Whether the cluster may have to be told otherwise which groups are heard.
    listeners: bool,
    /// Whether networks may be others, or called otherwise.
    networks: bool,
    wake: Arc<Notify>,
}

impl Touched {
    /// Wakes `wake` with each change.
    pub fn waking(wake: Arc<Notify>) -> Self {
        Self {
            wake,
            ..Self::default()
        }
    }

    /// Notes what an edit touches.
    pub fn note(&mut self, edit: &Edit) {
        if let Edit::Endpoint(id, _) = edit {
            self.endpoints.insert(id.clone());
        }
        // Whose a bridge is may be another one now.
        let network = matches!(edit, Edit::Network(..));
        (self.listeners, self.networks) = (self.listeners | network, self.networks | network);
        self.wake.notify_one();
    }

    /// Notes that other groups are heard.
    pub fn listeners(&mut self) {
        self.listeners = true;
        self.wake.notify_one();
    }

    /// Notes that a network has a name now.
    pub fn network_named(&mut self) {
        self.networks = true;
        self.wake.notify_one();
    }

    /// Notes that an endpoint has a name now.
    pub fn named(&mut self, id: &EndpointId) {
        self.endpoints.insert(id.clone());
        self.wake.notify_one();
    }
}

/// What the cluster is told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// How full each pool is that has a share, or a network of the cluster on it.
    pub fills: BTreeMap<IpNet, Fill>,
    /// The shares themselves.
    pub shares: BTreeMap<IpNet, Share>,
    /// Endpoints that were touched: what they are now, or that they are gone.
    pub endpoints: Vec<(EndpointId, Option<EndpointRow>)>,
    /// The sandboxes of those of them that have joined one, where names are answered to them.
    pub sandboxes: BTreeMap<EndpointId, Place>,
    /// The networks of the cluster that this host has, by the pools that identify them, where these may have changed.
    pub homes: Option<BTreeMap<IpNet, Home>>,
    /// Groups that are heard, by pool and part, where that has changed; none where a part has none any more.
    pub groups: BTreeMap<Part, Vec<IpAddr>>,
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// What has changed since this was asked last; or everything.
    pub(super) fn told_cluster(&mut self, everything: bool) -> Told {
        let touched = std::mem::take(&mut self.touched.endpoints);
        let groups = match std::mem::take(&mut self.touched.listeners) || everything {
            true => self.told_groups(everything),
            false => BTreeMap::new(),
        };
        let homes = (std::mem::take(&mut self.touched.networks) || everything).then(|| self.homes());
        let ids: BTreeSet<EndpointId> = match everything {
            true => self
                .state
                .endpoints()
                .map(|endpoint| endpoint.id.clone())
                .collect(),
            false => touched,
        };
        let row = |id: &EndpointId| {
            let endpoint = self.state.endpoint(id)?;
            let network = self
                .state
                .network(&endpoint.network)
                .filter(|network| is_shared(network))?;
            let (name, aliases) = (self.docker.container_name(id), self.docker.aliases(id));
            Some(EndpointRow::of(network, endpoint, name, aliases))
        };
        let sandbox = |id: &EndpointId| {
            let endpoint = self.state.endpoint(id)?;
            let dns = self.state.network(&endpoint.network)?.spec.dns();
            let sandbox = endpoint.sandbox.clone().filter(|_| dns != Dns::Off)?;
            let hook = dns == Dns::Auto;
            Some((id.clone(), Place { sandbox, hook }))
        };
        let ipam = self.state.ipam();
        let fill = |(pool, _): (&IpNet, &Share)| {
            let sums = ipam.summary(*pool).unwrap_or_default();
            let least = PoolId::new(Space::Local, *pool, None);
            let used = least.is_ok_and(|least| {
                let found = ipam.pools().range(least..).next();
                found.is_some_and(|(id, _)| id.cidr() == *pool)
            });
            let (free, leased) = (sums.free, sums.leased);
            (*pool, Fill { free, leased, used })
        };
        Told {
            fills: ipam.shares().iter().map(fill).collect(),
            shares: ipam.shares().clone(),
            groups,
            homes,
            sandboxes: ids.iter().filter_map(sandbox).collect(),
            endpoints: ids.iter().map(|id| (id.clone(), row(id))).collect(),
        }
    }
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// The networks of the cluster that this host has: what they are called, and its own addresses there.
    fn homes(&self) -> BTreeMap<IpNet, Home> {
        let named = self
            .state
            .networks()
            .filter(|network| network.spec.dns() != Dns::Off);
        let home = |network: &Network| {
            let mut facts = World::new();
            self.state.facts(&Owner::Network(network.id.clone()), &mut facts);
            let own = facts.keys().filter_map(|key| match key {
                Key::Address(_, address) => Some(address.addr()),
                _ => None,
            });
            let name = self.docker.network_name(&network.id).map(str::to_ascii_lowercase);
            let net = network.spec.net().map(ToString::to_string);
            let mut labels: Vec<String> = name.into_iter().chain(net).collect();
            labels.dedup();
            let home = Home {
                pools: network.subnets.iter().map(|subnet| subnet.pool).collect(),
                labels,
                gateways: own.collect(),
            };
            Some((network.pool()?, home))
        };
        named.filter_map(home).collect()
    }
}

/// Whether a network is one of the cluster's.
fn is_shared(network: &Network) -> bool {
    network.spec.is_shared()
}
