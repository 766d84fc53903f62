//! Who holds what, told naively: it walks every address of a subnet and keeps no index.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::range::after;
use tombolo_ipam::{PoolId, Space, Use};

/// Who holds what, found by walking.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    pub pools: BTreeSet<PoolId>,
    pub leases: BTreeMap<(Space, IpAddr), (PoolId, Use)>,
}

/// Every address of a subnet, one by one.
pub fn walk(net: IpNet) -> Vec<IpAddr> {
    std::iter::successors(Some(net.network()), |at| after(*at))
        .take_while(|at| net.contains(at))
        .collect()
}

/// Whether an address may belong to a gateway or endpoint, told without the crate's help.
pub fn is_usable(net: IpNet, address: IpAddr) -> bool {
    let all = walk(net);
    match (net, net.prefix_len()) {
        (IpNet::V4(_), 31..) => true,
        (IpNet::V4(_), _) => all[1..all.len() - 1].contains(&address),
        (IpNet::V6(_), _) => all[1..].contains(&address),
    }
}

pub fn share(a: IpNet, b: IpNet) -> bool {
    walk(a).iter().any(|address| b.contains(address))
}

impl Model {
    /// A pool that shares addresses with this one, and is not it.
    pub fn in_the_way(&self, id: &PoolId) -> Option<PoolId> {
        let extent = |id: &PoolId| id.range().unwrap_or(id.cidr());
        self.pools
            .iter()
            .copied()
            .filter(|other| other != id && other.space() == id.space())
            .find(|other| {
                if other.cidr() == id.cidr() {
                    share(extent(other), extent(id))
                } else {
                    share(other.cidr(), id.cidr())
                }
            })
    }

    /// What the pool may give on its own, in the order that begins after the cursor.
    pub fn round(&self, id: &PoolId, cursor: Option<IpAddr>) -> Vec<IpAddr> {
        let of_range = walk(id.range().unwrap_or(id.cidr()));
        let mut all: Vec<IpAddr> = of_range
            .into_iter()
            .filter(|a| is_usable(id.cidr(), *a))
            .collect();
        let start = cursor.map_or(0, |cursor| all.iter().filter(|a| **a <= cursor).count());
        let turns = start.checked_rem(all.len()).unwrap_or(0);
        all.rotate_left(turns);
        all
    }

    pub fn holds(&self, id: &PoolId, address: IpAddr) -> Option<&(PoolId, Use)> {
        self.leases.get(&(id.space(), address))
    }

    pub fn gateway(&self, id: &PoolId) -> Option<IpAddr> {
        let of_pool =
            |(_, (pool, usage)): &(&(Space, IpAddr), &(PoolId, Use))| pool == id && usage.is_gateway();
        self.leases.iter().find(of_pool).map(|((_, address), _)| *address)
    }
}
