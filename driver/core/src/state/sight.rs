//! Behind which hardware address containers of this host find the addresses of networks that span hosts.
//!
//! They keep what they have found in their own neighbour tables, for minutes. Where an address has got another hardware
//! address meanwhile, because another container has it now or because it has moved between this host and another one, they
//! send to nobody until they look anew. So whoever knows of the change tells them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Edit, Owner, Place, State};
use crate::model::{Endpoint, IfName, Mac};

/// An address as containers of this host see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// The bridge that they are on.
    pub bridge: IfName,
    /// The hardware address that they send to.
    pub mac: Mac,
    /// Whether one of them is there, besides the one that has the address.
    pub watched: bool,
}

impl State {
    /// How containers of this host see an address of the network on a pool that spans hosts; none where nobody has it.
    pub fn sight(&self, pool: IpNet, address: IpAddr) -> Option<Sight> {
        let network = self.network_on(pool).filter(|network| network.spec.spans())?;
        let kind = network.spec.kind();
        let id = self.addresses.get(&(network.id.clone(), address));
        let here = id.and_then(|id| self.endpoints.get(id));
        let mac = match here {
            Some(endpoint) => Some(endpoint.mac).filter(|_| endpoint.linked),
            None => {
                let far = self.far(network, pool, &Place::Address(address))?;
                kind.seen_as(network, &far)
            }
        };
        let watches = |other: &Endpoint| other.linked && Some(&other.id) != id;
        Some(Sight {
            bridge: kind.links(&network.id).into_iter().next()?,
            mac: mac?,
            watched: self.endpoints_of(&network.id).any(watches),
        })
    }

    /// The addresses whose sight an edit may change, each with the pool that is its network's identity. It is asked before the
    /// edit is made.
    pub fn sighted(&self, edit: &Edit) -> Vec<(IpNet, IpAddr)> {
        let Edit::Endpoint(id, endpoint) = edit else {
            return Vec::new();
        };
        let both = self.endpoints.get(id).into_iter().chain(endpoint);
        let of_one = |endpoint: &Endpoint| {
            let network = self.networks.get(&endpoint.network);
            let pool = network
                .filter(|network| network.spec.spans())
                .and_then(|n| n.pool());
            let addresses = endpoint.addresses.iter().map(|address| address.addr());
            let sighted = addresses.filter_map(|address| Some((pool?, address)));
            sighted.collect::<Vec<_>>()
        };
        both.flat_map(of_one).collect()
    }

    /// The pool that is the identity of the network with a bridge, if it spans hosts.
    pub fn pool_of_bridge(&self, bridge: &IfName) -> Option<IpNet> {
        let Some(Owner::Network(id)) = self.links.get(bridge) else {
            return None;
        };
        let network = self.networks.get(id).filter(|network| network.spec.spans())?;
        network.pool()
    }
}
