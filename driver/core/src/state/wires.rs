//! Networks on the wire of a link of the host: what they need of it, and the host's own addresses on them.

use std::net::IpAddr;

use tombolo_ipam::{Edit as IpamEdit, PoolId, Slot, Space, Use, Wish};

use super::{Edit, Refusal, State, Surroundings};
use crate::model::{Endpoint, EndpointId, IfName, Mac, Network, NetworkId};
use crate::world::{Key, Value, World};

impl State {
    /// A network without the gateways that nobody named, if it is on a wire: the gateway there is somebody else's, and engines
    /// before 28 ask for one whatever the network is.
    ///
    /// # Errors
    /// [`Refusal::Unfit`] where there is no room for it on its parent.
    pub fn as_named(&self, network: &Network) -> Result<Network, Refusal> {
        let mut network = network.clone();
        if let Some(parent) = network.spec.uplink().and_then(|uplink| uplink.parent.as_ref()) {
            self.room_on(parent, &network)?;
        }
        if network.spec.uplink().is_some() {
            for subnet in network.subnets.iter_mut().filter(|subnet| subnet.ours) {
                subnet.gateway = subnet.gateway.filter(|gateway| !self.is_unnamed(gateway.addr()));
            }
            // What gives no addresses (`--ipam-driver null`) is no subnet: somebody on the wire gives them.
            network.subnets.retain(|subnet| subnet.pool.prefix_len() > 0);
        }
        Ok(network)
    }

    /// Whether an address is leased for a gateway that nobody named.
    fn is_unnamed(&self, address: IpAddr) -> bool {
        let slot = self.ipam.slot(Space::Local, address);
        matches!(
            slot,
            Some(Slot::Leased {
                usage: Use::Unnamed,
                ..
            })
        )
    }

    /// A new network on a wire as it is to be, and the edits that go before it: gateways that nobody named are free. Any
    /// other network is as it was asked for.
    pub(super) fn on_wire(
        &self,
        asked: &Network,
        around: &Surroundings<'_>,
    ) -> Result<(Network, Vec<Edit>), Refusal> {
        let network = self.as_named(asked)?;
        let Some(uplink) = network.spec.uplink() else {
            return Ok((network, Vec::new()));
        };
        if let Some(parent) = &uplink.parent {
            let made = self.parent_is_ours(parent) || uplink.vlan().is_some();
            if around.found.bridge.is_none() && !made {
                let allowed = "there is no such link; name one that is there ('ip link' shows them), or a VLAN on one, such as eth0.30";
                return unfit("parent", parent.to_string(), allowed);
            }
        }
        // By the pool, as whoever asks may have left the gateway away already.
        let pools = network
            .subnets
            .iter()
            .filter(|subnet| subnet.ours && subnet.gateway.is_none());
        let unnamed = pools
            .filter_map(|subnet| self.ipam.gateway_of(&self.pool_on(subnet.pool)?))
            .filter(|gateway| self.is_unnamed(*gateway));
        let edits = unnamed
            .map(|gateway| Edit::Ipam(IpamEdit::Slot(Space::Local, gateway, None)))
            .collect();
        Ok((network, edits))
    }

    /// Whether a parent's link is one that we have made, for another network.
    fn parent_is_ours(&self, parent: &IfName) -> bool {
        self.on_parent(parent)
            .any(|network| network.spec.uplink().is_some_and(|uplink| !uplink.theirs))
    }

    /// Whether a network can be on a link besides those that are.
    fn room_on(&self, parent: &IfName, network: &Network) -> Result<(), Refusal> {
        let others = self.on_parent(parent).filter(|other| other.id != network.id);
        for other in others.filter(|other| !other.released) {
            let got = || format!("{parent} (also of network {})", other.id);
            if other.spec.kind().name() != network.spec.kind().name() {
                let allowed = "the kernel lets a link be the parent of macvlan or of ipvlan networks, not of both; name another parent";
                return unfit("parent", got(), allowed);
            }
            if other.spec.wants_all() || network.spec.wants_all() {
                let allowed = "a network in mode passthru has its parent for itself; name another parent or another mode";
                return unfit("parent", got(), allowed);
            }
        }
        Ok(())
    }

    /// Gives the host its addresses on a network, where it is to have some; the edits that lease them.
    pub(super) fn host_on(
        &self,
        network: &mut Network,
        around: &Surroundings<'_>,
    ) -> Result<Vec<Edit>, Refusal> {
        let usual = network.spec.usually_has_host();
        let (internal, subnets) = (network.internal, network.subnets.clone());
        let Some(uplink) = network.spec.uplink_mut() else {
            return Ok(Vec::new());
        };
        let named = uplink.host_addresses.clone();
        if let Some(stray) = named
            .iter()
            .find(|address| !subnets.iter().any(|subnet| subnet.pool.contains(*address)))
        {
            return unfit(
                "host_address",
                stray.to_string(),
                "it must be an address of one of the network's subnets",
            );
        }
        if !uplink.wants_host(usual, internal) {
            return Ok(Vec::new());
        }
        let mut edits = Vec::new();
        let mut lacking = None;
        for v6 in [false, true] {
            let wanted = named.iter().copied().find(|address| address.is_ipv6() == v6);
            let mut of_family = subnets.iter().filter(|subnet| subnet.pool.addr().is_ipv6() == v6);
            let subnet = match wanted {
                Some(wanted) => of_family.find(|subnet| subnet.pool.contains(&wanted)),
                None => of_family.next(),
            };
            let Some(subnet) = subnet else { continue };
            match (wanted, self.pool_on(subnet.pool).filter(|_| subnet.ours)) {
                // Where there is hardly room for two, both are containers'.
                (None, _) if uplink.host_access.is_none() && is_pair(subnet.pool) => {}
                (address, Some(pool)) => {
                    self.may_lease(&pool, &Use::Host, around)?;
                    let wish = Wish {
                        address,
                        usage: Use::Host,
                        repeat: true,
                    };
                    let (address, leased) = self.ipam.request_address(&pool, &wish, around.now_s)?;
                    uplink.host.push(address.addr());
                    edits.extend(leased.into_iter().map(Edit::Ipam));
                }
                (Some(address), None) => uplink.host.push(address),
                (None, None) => lacking = Some(subnet.pool),
            }
        }
        match lacking.filter(|_| uplink.host.is_empty() && uplink.host_access == Some(true)) {
            Some(pool) => unfit(
                "host_access",
                format!("on, and {pool} is of another IPAM driver"),
                "the host needs an address of its own there: name one that the driver never gives (-o host_address=…), or add --ipam-driver tombolo",
            ),
            None => Ok(edits),
        }
    }

    /// The edits that give back what the host has of a network that goes.
    pub(super) fn host_off(&self, id: &NetworkId) -> Vec<Edit> {
        let uplink = self.networks.get(id).and_then(|network| network.spec.uplink());
        let leases = uplink.into_iter().flat_map(|uplink| &uplink.host);
        let of_host = leases.filter_map(|address| match self.ipam.slot(Space::Local, *address) {
            Some(Slot::Leased {
                pool,
                usage: Use::Host,
            }) => Some((pool, *address)),
            _ => None,
        });
        of_host
            .map(|(_, address)| Edit::Ipam(IpamEdit::Slot(Space::Local, address, None)))
            .collect()
    }

    /// Whether an endpoint is on a network on a wire: its link is out of sight, and what became of it is for Docker to say.
    pub fn is_on_wire(&self, endpoint: &Endpoint) -> bool {
        let network = self.networks.get(&endpoint.network);
        network.is_some_and(|network| network.spec.uplink().is_some())
    }

    /// The links that networks on a wire are on.
    pub fn parents(&self) -> impl Iterator<Item = &IfName> {
        self.parents.keys()
    }

    /// The networks on the wire of a link.
    pub fn on_parent(&self, parent: &IfName) -> impl Iterator<Item = &Network> {
        let networks = self.parents.get(parent).into_iter().flatten();
        networks.filter_map(|id| self.networks.get(id))
    }

    /// The address that this host would get on a network on a subnet of our pools.
    pub fn host_next(&self, subnet: ipnet::IpNet) -> Option<IpAddr> {
        let wish = Wish {
            address: None,
            usage: Use::Host,
            repeat: false,
        };
        let (address, _) = self.ipam.request_address(&self.pool_on(subnet)?, &wish, 0).ok()?;
        Some(address.addr())
    }

    /// The addresses that endpoints will get next of our pools on a subnet, `most` of each at most.
    pub fn upcoming(&self, subnet: ipnet::IpNet, most: usize) -> Vec<IpAddr> {
        let Ok(least) = PoolId::new(Space::Local, subnet, None) else {
            return Vec::new();
        };
        let pools = self.ipam.pools().range(least..);
        let pools = pools.take_while(|(pool, _)| pool.cidr() == subnet);
        pools
            .flat_map(|(pool, _)| self.ipam.upcoming(pool, most))
            .collect()
    }

    /// The endpoints that have joined a network on the wire of a link.
    pub fn joined_on(&self, parent: &IfName) -> impl Iterator<Item = &Endpoint> {
        let networks = self.on_parent(parent);
        let endpoints = networks.flat_map(|network| self.endpoints_of(&network.id));
        endpoints.filter(|endpoint| endpoint.sandbox.is_some())
    }

    /// Where an endpoint that has joined is to be found on its wire: by which link of the host it is told, each of its
    /// addresses, and its hardware address; nothing where that is the parent's. Containers of this host hear what the host's
    /// own link there says, and nothing of what the parent sends. On a bridge the engine tells of a link that it has moved, and
    /// of one that was made within its sandbox we do.
    pub fn places_on_wire(&self, id: &EndpointId) -> Vec<(IfName, IpAddr, Mac)> {
        let endpoint = self
            .endpoints
            .get(id)
            .filter(|endpoint| endpoint.sandbox.is_some());
        let network = endpoint.and_then(|endpoint| self.networks.get(&endpoint.network));
        let Some((endpoint, network)) = endpoint.zip(network) else {
            return Vec::new();
        };
        let links: Vec<IfName> = match network.spec.uplink() {
            Some(uplink) if network.spec.has_macs() => {
                let shim = uplink.links(&network.id).into_iter();
                shim.chain([uplink.lower(&network.id)]).collect()
            }
            None if endpoint.inside => network.spec.kind().links(&network.id),
            _ => return Vec::new(),
        };
        let place = |address: &ipnet::IpNet| {
            let links = links.clone().into_iter();
            let address = address.addr();
            links
                .map(move |link| (link, address, endpoint.mac))
                .collect::<Vec<_>>()
        };
        endpoint.addresses.iter().flat_map(place).collect()
    }

    /// Takes containers' links on wires for there where they are out of sight: Docker has them. What became of them is for
    /// it to say.
    pub fn out_of_sight(&self, desired: &World, observed: &mut World) {
        let children = desired.iter().filter(|(key, _)| matches!(key, Key::Child(_)));
        let unseen: Vec<(Key, Value)> = children
            .filter(|(key, _)| !observed.contains_key(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        observed.extend(unseen);
    }

    /// The links to the wire where addresses of a subnet are looked for before they go out: that by which they are, and the
    /// parent.
    pub fn probed_on(&self, subnet: ipnet::IpNet) -> Option<(IfName, IfName)> {
        let (_, id) = self
            .subnets
            .get(&subnet.network())
            .filter(|(net, _)| *net == subnet)?;
        let uplink = self.networks.get(id)?.spec.uplink()?;
        let parent = uplink.parent.clone().filter(|_| uplink.probe)?;
        Some((uplink.asks_by(id)?, parent))
    }
}

/// Whether a subnet has two addresses at most.
fn is_pair(subnet: ipnet::IpNet) -> bool {
    subnet.prefix_len() + 1 >= subnet.max_prefix_len()
}

fn unfit<T>(field: &'static str, got: String, allowed: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Unfit { field, got, allowed })
}
