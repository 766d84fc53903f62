//! The hosts that a network's tunnel leads to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tombolo_ipam::HostId;

use super::{Place, State};
use crate::kinds::{Far, host_gateway};
use crate::model::Network;

impl State {
    /// The other hosts that have endpoints on a network and are reached through its tunnel, with their VTEPs.
    pub fn tunnel_ends(&self, network: &Network) -> BTreeMap<HostId, IpAddr> {
        if !network.spec.has_tunnel() {
            return BTreeMap::new();
        }
        let families = || network.subnets.iter().map(|subnet| subnet.pool.addr().is_ipv6());
        let routes = network.spec.kind().name() == host_gateway::NAME;
        let routed = |host: &HostId| {
            let reach = self.peers.reach(host);
            routes && reach.is_some_and(|reach| families().all(|v6| !reach.hops(v6).is_empty()))
        };
        let end = |pool, place: &Place| match self.far(network, pool, place)? {
            Far::Vtep(vtep, _) => {
                let (host, _) = self.peers.holder(pool, place)?;
                (!routed(host)).then_some((*host, vtep))
            }
            _ => None,
        };
        let places = network.pool().into_iter().flat_map(|pool| {
            let places = self.peers.vteps_on(pool);
            let vteps = places.take_while(|(place, _)| matches!(place, Place::Vtep(_)));
            vteps.filter_map(move |(place, _)| end(pool, place))
        });
        places.collect()
    }
}
