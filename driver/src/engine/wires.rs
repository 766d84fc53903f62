//! The wires that containers of this host are on, for who looks after them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use tombolo_core::kinds::Joined;
use tombolo_core::model::{Endpoint, EndpointId, IfName};
use tombolo_core::world::Key;

use super::events::What;
use super::{Engine, Journal};
use crate::kernel::Kernel;
use crate::kernel::sandbox::Inside;

/// How many addresses are looked for ahead of need in each pool.
const AHEAD: usize = 16;

/// A wire where addresses are looked for before they go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// The link by which it is asked.
    pub link: IfName,
    /// The addresses that will go out next.
    pub upcoming: Vec<IpAddr>,
}

/// From which version on an engine takes a way out for each family by itself.
const OUT_BY_FAMILY: u32 = 28;

/// Says a way out of IPv6 alone so that the engine takes it: older ones take none of a network without one of IPv4, but take routes;
/// newer ones refuse a default route among these.
pub(super) fn for_engine(joined: &mut Joined, version: Option<&str>) {
    let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    let old = major.is_some_and(|major| major < OUT_BY_FAMILY);
    if let (None, Some(via), true) = (joined.gateway, joined.gateway_v6, old) {
        let everywhere = IpNet::V6(Ipv6Net::default());
        joined.routers.push((everywhere, via));
    }
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// The wires where addresses are looked for before they go out.
    pub(super) fn probed(&self) -> Vec<Wire> {
        let mut wires: BTreeMap<IfName, Vec<IpAddr>> = BTreeMap::new();
        let networks = self
            .state
            .parents()
            .flat_map(|parent| self.state.on_parent(parent));
        for network in networks {
            let link = network
                .spec
                .uplink()
                .and_then(|uplink| uplink.asks_by(&network.id));
            let ours = network.subnets.iter().filter(|subnet| subnet.ours);
            let upcoming = ours.flat_map(|subnet| self.state.upcoming(subnet.pool, AHEAD));
            if let Some(link) = link {
                wires.entry(link).or_default().extend(upcoming);
            }
        }
        let wire = |(link, upcoming)| Wire { link, upcoming };
        wires.into_iter().map(wire).collect()
    }

    /// The links of containers that have joined a network on the wire of a link, as they are to be in their sandboxes.
    pub(super) fn inside(&self, parent: &IfName) -> Vec<(EndpointId, Inside)> {
        let joined = self.state.joined_on(parent);
        joined.filter_map(|endpoint| self.inside_of(endpoint)).collect()
    }

    fn inside_of(&self, endpoint: &Endpoint) -> Option<(EndpointId, Inside)> {
        let network = self.state.network(&endpoint.network)?;
        let uplink = network.spec.uplink()?;
        let lower = uplink.lower(&network.id);
        // That of an endpoint whose record was rebuilt is not known.
        let sandbox = endpoint.sandbox.as_ref().filter(|sandbox| !sandbox.is_empty())?;
        let Joined {
            source,
            prefix,
            gateway,
            gateway_v6,
            routes,
            ..
        } = network.spec.kind().joined(network, endpoint);
        let everywhere = |v6: bool| {
            endpoint
                .address(v6)
                .map(|address| tombolo_core::kinds::everywhere(&address))
        };
        let by_router = [(false, gateway), (true, gateway_v6)];
        let by_router = by_router
            .into_iter()
            .filter_map(|(v6, via)| Some((everywhere(v6)?, Some(via?))));
        let inside = Inside {
            sandbox: sandbox.into(),
            link: source,
            value: network.spec.link_on(&lower, endpoint.mac)?,
            prefix,
            addresses: endpoint.addresses.clone(),
            ways_out: by_router
                .chain(routes.into_iter().map(|net| (net, None)))
                .collect(),
            placed: endpoint.inside,
        };
        Some((endpoint.id.clone(), inside))
    }

    /// Tells that a container's link was put back, or takes it out again where the container has left meanwhile.
    pub(super) async fn put_back(&mut self, id: &EndpointId, inside: &Inside) {
        let sandbox = inside.sandbox.to_str();
        let joined = self.state.endpoint(id).filter(|endpoint| endpoint.linked);
        if joined.is_none_or(|endpoint| endpoint.sandbox.as_deref() != sandbox) && inside.placed {
            self.leaving
                .insert(Key::Child(inside.link.clone()), inside.sandbox.clone());
            return self.take_out_left().await;
        }
        let place = self.place(Some(&tombolo_core::state::Owner::Endpoint(id.clone())));
        let (network, container) = (place.network_name.clone(), place.container_name.clone());
        tracing::warn!(network, container, link = %inside.link, "its link had gone with its parent, and is there again");
        *self.repairs.entry("child").or_default() += 1;
        self.events.tell(&What::Fact {
            action: "repaired",
            fact: "child",
            step: format!("ip link add {} in {}", inside.link, inside.sandbox.display()),
            because: "its parent had gone".to_owned(),
            place,
        });
    }
}
