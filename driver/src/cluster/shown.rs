//! What requests are checked against without asking anybody.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::watch;
use tombolo_cluster::charter::Definition;
use tombolo_core::model::{NetName, cut};
use tombolo_ipam::prefix::common;

/// What requests are checked against without asking anybody.
#[derive(Debug, Clone, Default)]
pub struct Shown(watch::Sender<Arc<ShownNow>>);

/// One state of it.
#[derive(Debug, Clone, Default)]
pub struct ShownNow {
    /// The pools of the cluster.
    pub pools: BTreeMap<IpNet, Definition>,
    /// The routes of the other hosts, with these hosts' names.
    pub routes: Vec<(IpNet, String)>,
    /// The largest packet that each wire takes by which hosts of the cluster are reached, in bytes, as far as is known.
    pub wire_mtu: Option<u32>,
    /// Where others reach this host.
    pub vtep: Option<IpAddr>,
    /// Whether this host is in a cluster.
    pub member: bool,
    /// Whether it is, and has only just begun: nothing of the above is known yet.
    pub beginning: bool,
    /// Whether it was decided that it left, and others may still have to hear of it.
    pub left: bool,
    /// Why it is in none though its settings name one, if so.
    pub out: Option<String>,
}

impl Shown {
    /// Of a host that begins, and was in a cluster or not when it ended.
    pub fn beginning(in_cluster: bool) -> Self {
        let shown = Self::default();
        shown.set(ShownNow {
            member: in_cluster,
            beginning: in_cluster,
            ..ShownNow::default()
        });
        shown
    }

    /// As it is now.
    pub fn get(&self) -> Arc<ShownNow> {
        self.0.borrow().clone()
    }

    /// Says how it is.
    pub fn set(&self, now: ShownNow) {
        self.0.send_replace(Arc::new(now));
    }

    /// Waits until something is known.
    pub async fn known(&self) {
        // We hold the sender ourselves, so it can't be gone.
        self.0.subscribe().wait_for(|now| !now.beginning).await.ok();
    }

    /// Says that nothing will be known for a while.
    pub fn give_up(&self) {
        self.0.send_if_modified(|now| {
            let was = now.beginning;
            Arc::make_mut(now).beginning = false;
            was
        });
    }
}

/// Refuses a pool that isn't the cluster's and stands in the way of one that is.
///
/// # Errors
/// Which, and whose.
pub fn clear_of(shown: &ShownNow, pool: IpNet) -> Result<(), String> {
    let overlap = |net: &IpNet| common(*net, pool).is_some();
    match shown.pools.iter().find(|(net, _)| overlap(net) && **net != pool) {
        Some((net, definition)) => {
            let name = definition
                .net
                .as_ref()
                .map(|name| format!(" ({})", cut(name)))
                .unwrap_or_default();
            Err(format!(
                "Pool: {pool} overlaps the cluster's pool {net}{name}: choose another subnet"
            ))
        }
        None => Ok(()),
    }
}

/// The pool of a family that goes by a name in the cluster.
pub fn called(shown: &ShownNow, net: &NetName, v6: bool) -> Option<IpNet> {
    let of_name = |definition: &Definition| definition.net.as_deref() == Some(net.as_str());
    let mut pools = shown
        .pools
        .iter()
        .filter(|(pool, definition)| pool.addr().is_ipv6() == v6 && of_name(definition));
    pools.next().map(|(pool, _)| *pool)
}

/// Refuses a pool of the cluster that a route of another host overlaps.
///
/// # Errors
/// Which route, and whose.
pub fn clear_of_routes(shown: &ShownNow, pool: IpNet) -> Result<(), String> {
    let overlap = |net: &IpNet| common(*net, pool).is_some();
    match shown.routes.iter().find(|(net, _)| overlap(net)) {
        Some((net, host)) => Err(format!(
            "Pool: {pool} overlaps {net}, a route or address of host {}: choose another subnet",
            cut(host)
        )),
        None => Ok(()),
    }
}
