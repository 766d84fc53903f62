//! What requests are checked against without asking anybody.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use tombolo_cluster::charter::Definition;
use tombolo_core::model::{NetName, cut};
use tombolo_ipam::prefix::common;

/// What requests are checked against without asking anybody.
#[derive(Debug, Clone, Default)]
pub struct Shown(Arc<RwLock<Arc<ShownNow>>>);

/// One state of it.
#[derive(Debug, Clone, Default)]
pub struct ShownNow {
    /// The pools of the cluster.
    pub pools: BTreeMap<IpNet, Definition>,
    /// The routes of the other hosts, with these hosts' names.
    pub routes: Vec<(IpNet, String)>,
    /// Whether this host is in a cluster.
    pub member: bool,
    /// Whether it was decided that it left, and others may still have to hear of it.
    pub left: bool,
    /// Why it is in none though its settings name one, if so.
    pub out: Option<String>,
}

impl Shown {
    /// As it is now.
    pub fn get(&self) -> Arc<ShownNow> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says how it is.
    pub fn set(&self, now: ShownNow) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
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
