//! The decisions: a command against the records, giving the edits that carry it out or the reason why not.

use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::share::Deal;
use tombolo_ipam::{Edit as IpamEdit, Pool, PoolId, PoolRequest, Slot, Space, Use, Want, Wish};

use super::{Command, Edit, Owner, Refusal, Reply, State, Surroundings};
use crate::kinds::{Agreed, Found, Spec, Theirs};
use crate::model::{Endpoint, EndpointId, IfName, Mac, Network, NetworkId, PortWish, Subnet};
use crate::world::ADOPTED_GROUP;

/// What a command comes to.
type Decision = Result<(Vec<Edit>, Reply), Refusal>;

impl State {
    /// Decides on a command. A command that only takes away succeeds for what is unknown, with no edits.
    ///
    /// # Errors
    /// [`Refusal`], for commands that add something.
    pub fn decide(&self, command: &Command, around: &Surroundings<'_>) -> Decision {
        match command {
            Command::CreateNetwork(network) => self.create_network(network, around),
            Command::DeleteNetwork(id) => Ok((self.delete_network(id), Reply::Done)),
            Command::CreateEndpoint {
                id,
                network,
                addresses,
                mac,
                rate,
                sysctls,
            } => {
                let network = self.known(network)?;
                let lent = lent_to(network, addresses, around);
                let mut endpoint = make_endpoint(id, network, addresses, *mac, *rate, lent)?;
                endpoint.sysctls.clone_from(sysctls);
                self.create_endpoint(network, endpoint)
            }
            Command::DeleteEndpoint(id) => Ok((self.delete_endpoint(id), Reply::Done)),
            Command::Join {
                network,
                endpoint,
                sandbox,
            } => self.join(network, endpoint, sandbox, around),
            Command::Leave(id) => Ok((self.change(id, leave), Reply::Done)),
            Command::Publish {
                network,
                endpoint,
                wishes,
            } => self.set_ports(network, endpoint, wishes, around),
            Command::Unpublish(id) => Ok((
                self.change(id, |endpoint| endpoint.published.clear()),
                Reply::Done,
            )),
            Command::Lost(id) => Ok((self.change(id, lose), Reply::Done)),
            Command::RequestPool(request) => self.request_pool(request, around),
            Command::RequestWirePool(_, parent) | Command::RequestDhcpPool(_, parent) => {
                Err(Refusal::Unfit {
                    field: "parent",
                    got: parent.to_string(),
                    // Which one that is, is looked up before this is asked.
                    allowed: "its subnet must be known; name it with --subnet",
                })
            }
            Command::RequestNetPool(request, net, _) => Err(match request.want {
                Want::Exactly(pool) => Refusal::NotOfCluster {
                    net: Some(net.clone()),
                    pool,
                },
                // Which pool goes by the name is for the cluster to say, before this is asked.
                Want::Any | Want::Sized(_) => Refusal::Unfit {
                    field: "net",
                    got: net.to_string(),
                    allowed: "this host is in no cluster; see 'tombolo cluster --help'",
                },
            }),
            Command::Deal(pool, deal) => self.deal(*pool, deal, around.now_s),
            Command::ReleasePool(id) => Ok((self.release_pool(id), Reply::Done)),
            Command::RequestAddress {
                pool,
                address,
                usage,
                repeat,
            } => {
                // The engine's repeats come before it serves its API; the same words later mean a second holder. So they
                // do where a container has the address: an engine that starts has ended those that it asks for again, and
                // one that can't be asked may have been serving all the time.
                let held = address.is_some_and(|address| self.lives(pool, address));
                let repeat = *repeat && !around.engine_serves && !held;
                self.may_lease(pool, usage, around)?;
                self.request_address(
                    pool,
                    Wish {
                        address: *address,
                        usage: usage.clone(),
                        repeat,
                    },
                    around.now_s,
                )
            }
            Command::ReleaseAddress(pool, address) => {
                Ok((self.release_address(pool, *address, around.now_s), Reply::Done))
            }
            Command::Agree(id, agreed) => {
                let mut network = self.known(id)?.clone();
                network.spec.agree(*agreed);
                Ok((vec![Edit::Network(id.clone(), Some(network))], Reply::Done))
            }
            Command::Adopt(edits) => Ok((edits.clone(), Reply::Done)),
        }
    }

    fn known(&self, id: &NetworkId) -> Result<&Network, Refusal> {
        self.networks
            .get(id)
            .ok_or_else(|| Refusal::NoNetwork(id.clone()))
    }

    fn member(&self, network: &NetworkId, id: &EndpointId) -> Result<(&Network, &Endpoint), Refusal> {
        let network = self.known(network)?;
        let endpoint = self.endpoints.get(id).filter(|e| e.network == network.id);
        endpoint
            .map(|endpoint| (network, endpoint))
            .ok_or_else(|| Refusal::NoEndpoint(id.clone()))
    }

    fn create_network(&self, network: &Network, around: &Surroundings<'_>) -> Decision {
        if let Some(have) = self.networks.get(&network.id) {
            return same_network(have, network).map(|()| (Vec::new(), Reply::Done));
        }
        let (mut network, mut edits) = self.on_wire(network, around)?;
        network.spec.note(around.found);
        self.well_formed(&network)?;
        self.as_shared(&network)?;
        lendable(&network, around)?;
        if let Some(theirs) = around.found.bridge.filter(|_| network.spec.uplink().is_none()) {
            adoptable(&network, theirs)?;
        }
        spanning(&network)?;
        for subnet in &network.subnets {
            let Some((other_pool, other)) = self.overlapping(subnet.pool) else {
                continue;
            };
            match self.networks.get(other) {
                Some(old) if old.released && self.endpoints_of(other).next().is_none() => {
                    edits.push(Edit::Network(old.id.clone(), None));
                }
                _ => {
                    let (other_pool, other) = (*other_pool, other.clone());
                    return Err(Refusal::Overlap {
                        pool: subnet.pool,
                        other_pool,
                        other,
                    });
                }
            }
        }
        edits.dedup();
        edits.extend(self.host_on(&mut network, around)?);
        let network = &network;
        self.links_free(network, &edits)?;
        edits.extend(self.mark_aux(network));
        edits.extend(self.keep_aux(network));
        edits.push(Edit::Network(network.id.clone(), Some(network.clone())));
        Ok((edits, Reply::Done))
    }

    /// Only here it becomes known which addresses of a pool are aux addresses: when they were leased, they looked like a
    /// container's.
    fn mark_aux(&self, network: &Network) -> Vec<Edit> {
        let of_ours = network.subnets.iter().filter(|s| s.ours).flat_map(|s| &s.aux);
        let mark = |address: &IpAddr| match self.ipam.slot(Space::Local, *address) {
            Some(Slot::Leased {
                pool,
                usage: Use::Endpoint { .. },
            }) => {
                let slot = Slot::Leased {
                    pool: *pool,
                    usage: Use::Aux,
                };
                Some(Edit::Ipam(IpamEdit::Slot(Space::Local, *address, Some(slot))))
            }
            _ => None,
        };
        of_ours.filter_map(mark).collect()
    }

    /// The leases of aux addresses that other hosts named: in a pool of the cluster they are kept on all hosts.
    fn keep_aux(&self, network: &Network) -> Vec<Edit> {
        let shared = network
            .subnets
            .iter()
            .filter(|s| s.ours && self.ipam.share(s.pool).is_some());
        let keep = |subnet: &Subnet| {
            let pool = self.pool_on(subnet.pool);
            let free = |address: &&IpAddr| {
                !matches!(self.ipam.slot(Space::Local, **address), Some(Slot::Leased { .. }))
            };
            let lease = move |(pool, address): (PoolId, IpAddr)| {
                let slot = Slot::Leased {
                    pool,
                    usage: Use::Aux,
                };
                Edit::Ipam(IpamEdit::Slot(Space::Local, address, Some(slot)))
            };
            let free: Vec<IpAddr> = subnet.aux.iter().filter(free).copied().collect();
            pool.into_iter()
                .flat_map(move |pool| {
                    free.clone()
                        .into_iter()
                        .map(move |address| lease((pool, address)))
                })
                .collect::<Vec<_>>()
        };
        shared.flat_map(keep).collect()
    }

    /// A pool on a subnet: the first one, where several have a range each.
    pub(super) fn pool_on(&self, subnet: IpNet) -> Option<PoolId> {
        let least = PoolId::new(Space::Local, subnet, None).ok()?;
        let (pool, _) = self.ipam.pools().range(least..).next()?;
        (pool.cidr() == subnet).then_some(*pool)
    }

    /// The leases that an endpoint's addresses must have and, after a loss or a hasty clean-up, may lack.
    fn mend_leases(&self, network: &Network, addresses: &[IpNet]) -> Vec<Edit> {
        let lack = |address: &&IpNet| {
            !matches!(
                self.ipam.slot(Space::Local, address.addr()),
                Some(Slot::Leased { .. })
            )
        };
        let mend = |address: &IpNet| {
            let subnet = network.subnet_of(address.addr()).filter(|s| s.ours)?;
            let slot = Slot::Leased {
                pool: self.pool_on(subnet.pool)?,
                usage: Use::Endpoint { name: None },
            };
            Some(Edit::Ipam(IpamEdit::Slot(
                Space::Local,
                address.addr(),
                Some(slot),
            )))
        };
        addresses.iter().filter(lack).filter_map(mend).collect()
    }

    /// Whether a network from the store can stand beside the ones that are there.
    pub(super) fn fits(&self, network: &Network) -> Result<(), Refusal> {
        self.well_formed(network)?;
        let overlap = network
            .subnets
            .iter()
            .find_map(|s| self.overlapping(s.pool).map(|found| (s.pool, found)));
        if let Some((pool, (other_pool, other))) = overlap {
            return Err(Refusal::Overlap {
                pool,
                other_pool: *other_pool,
                other: other.clone(),
            });
        }
        self.links_free(network, &[])
    }

    fn well_formed(&self, network: &Network) -> Result<(), Refusal> {
        let unfit = |field, got: String, allowed| Err(Refusal::Unfit { field, got, allowed });
        let bridged = network.spec.uplink().is_none();
        for (at, subnet) in network.subnets.iter().enumerate() {
            let earlier = network.subnets.iter().take(at);
            let overlaps =
                |other: &&Subnet| other.pool.contains(&subnet.pool) || subnet.pool.contains(&other.pool);
            if let Some(other) = earlier.clone().find(overlaps) {
                let allowed = "the subnets of a network may have no address in common";
                return unfit(
                    "IPv4Data, IPv6Data",
                    format!("{} and {}", other.pool, subnet.pool),
                    allowed,
                );
            }
        }
        if network.subnets.is_empty() && bridged {
            let allowed = "a bridge network needs an IPv4 or an IPv6 subnet";
            return unfit("IPv4Data, IPv6Data", "no subnet".to_owned(), allowed);
        }
        for (v6, field) in [(false, "IPv4Data"), (true, "IPv6Data")] {
            let count = network
                .subnets
                .iter()
                .filter(|s| s.pool.addr().is_ipv6() == v6)
                .count();
            if count > 1 && bridged {
                let allowed = "a bridge network has one subnet of each family; make one larger instead";
                return unfit(field, format!("{count} subnets"), allowed);
            }
        }
        for subnet in &network.subnets {
            let v6 = subnet.pool.addr().is_ipv6();
            if network.spec.kind().isolated(v6) && !network.internal {
                let field = if v6 {
                    "gateway_mode_ipv6"
                } else {
                    "gateway_mode_ipv4"
                };
                let allowed = "only an internal network can be isolated; add --internal";
                return unfit(field, "isolated".to_owned(), allowed);
            }
            if subnet.pool.prefix_len() == 0 {
                let allowed = "a bridge network needs addresses; --ipam-driver null has none to give";
                return unfit("Pool", subnet.pool.to_string(), allowed);
            }
            if special(subnet.pool.network()) || special(subnet.pool.broadcast()) {
                let allowed = "loopback, multicast and IPv6 link-local addresses are no container's";
                return unfit("Pool", subnet.pool.to_string(), allowed);
            }
            match subnet.gateway {
                Some(gateway) if gateway.prefix_len() != subnet.pool.prefix_len() => {
                    return unfit(
                        "Gateway",
                        gateway.to_string(),
                        "it must have its subnet's prefix length",
                    );
                }
                Some(gateway) if !subnet.pool.contains(&gateway.addr()) => {
                    return unfit(
                        "Gateway",
                        gateway.to_string(),
                        "it must be an address of its subnet",
                    );
                }
                None if !network.internal && bridged => {
                    return unfit(
                        "Gateway",
                        "none".to_owned(),
                        "a bridge network that isn't internal needs one",
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn links_free(&self, network: &Network, edits: &[Edit]) -> Result<(), Refusal> {
        let links = network.spec.kind().links(&network.id);
        links.into_iter().try_for_each(|link| self.link_free(link, edits))
    }

    /// Whether nobody has a link of that name, or whoever has it goes with these edits.
    fn link_free(&self, link: IfName, edits: &[Edit]) -> Result<(), Refusal> {
        let goes = |holder: &Owner| {
            edits.iter().any(|edit| match (edit, holder) {
                (Edit::Network(id, None), Owner::Network(holder)) => id == holder,
                (Edit::Endpoint(id, None), Owner::Endpoint(holder)) => id == holder,
                _ => false,
            })
        };
        match self.links.get(&link).filter(|holder| !goes(holder)) {
            Some(holder) => Err(Refusal::LinkTaken {
                link,
                holder: holder.clone(),
            }),
            None => Ok(()),
        }
    }

    /// A network's subnet that shares an address with `pool`. Subnets never overlap each other, so only the nearest one
    /// below and the nearest one above can.
    fn overlapping(&self, pool: IpNet) -> Option<&(IpNet, NetworkId)> {
        let below = self.subnets.range(..=pool.network()).next_back();
        let above = self.subnets.range(pool.network()..).next();
        let overlaps = |other: &IpNet| other.contains(&pool) || pool.contains(other);
        below
            .into_iter()
            .chain(above)
            .map(|(_, entry)| entry)
            .find(|(other, _)| overlaps(other))
    }

    fn delete_network(&self, id: &NetworkId) -> Vec<Edit> {
        if !self.networks.contains_key(id) {
            return Vec::new();
        }
        let endpoints = self.endpoints_of(id).map(|e| Edit::Endpoint(e.id.clone(), None));
        endpoints
            .chain(self.host_off(id))
            .chain([Edit::Network(id.clone(), None)])
            .collect()
    }

    fn create_endpoint(&self, network: &Network, endpoint: Endpoint) -> Decision {
        let (id, addresses) = (&endpoint.id, &endpoint.addresses);
        if let Some(have) = self.endpoints.get(id) {
            same_endpoint(have, &endpoint)?;
            return Ok((
                Vec::new(),
                Reply::Endpoint {
                    chosen: have.mac_chosen.then_some(have.mac),
                },
            ));
        }
        // Docker is the authority on who has an address: another endpoint that has it on this network is one that it has
        // forgotten (it does so after a crash), and must not stand in the way.
        let stale = |address: &IpNet| self.addresses.get(&(network.id.clone(), address.addr()));
        let mut edits: Vec<Edit> = addresses
            .iter()
            .filter_map(stale)
            .map(|old| Edit::Endpoint(old.clone(), None))
            .collect();
        edits.dedup();
        self.link_free(id.host_link(), &edits)?;
        let chosen = endpoint.mac_chosen.then_some(endpoint.mac);
        edits.extend(self.mend_leases(network, addresses));
        edits.push(Edit::Endpoint(id.clone(), Some(endpoint)));
        Ok((edits, Reply::Endpoint { chosen }))
    }

    fn delete_endpoint(&self, id: &EndpointId) -> Vec<Edit> {
        self.endpoints
            .get(id)
            .map(|e| Edit::Endpoint(e.id.clone(), None))
            .into_iter()
            .collect()
    }

    /// The edit that changes one endpoint; none if it is unknown or stays as it is.
    fn change(&self, id: &EndpointId, with: impl Fn(&mut Endpoint)) -> Vec<Edit> {
        let Some(old) = self.endpoints.get(id) else {
            return Vec::new();
        };
        let mut new = old.clone();
        with(&mut new);
        if new == *old {
            Vec::new()
        } else {
            vec![Edit::Endpoint(id.clone(), Some(new))]
        }
    }

    fn join(
        &self,
        network: &NetworkId,
        id: &EndpointId,
        sandbox: &str,
        around: &Surroundings<'_>,
    ) -> Decision {
        let (network, endpoint) = self.member(network, id)?;
        if let Some(joined) = endpoint.sandbox.as_ref().filter(|joined| *joined != sandbox) {
            return Err(Refusal::Joined {
                endpoint: id.clone(),
                sandbox: joined.clone(),
            });
        }
        // A link that is there already stays where it is.
        let inside = match endpoint.linked {
            true => endpoint.inside,
            false => around.enterable && network.is_inside(around.attach),
        };
        let edits = self.change(id, |endpoint| {
            endpoint.sandbox = Some(sandbox.to_owned());
            endpoint.linked = true;
            endpoint.inside = inside;
        });
        let mut joined = network.spec.kind().joined(network, endpoint);
        joined.made = inside;
        Ok((edits, Reply::Joined(joined)))
    }

    fn set_ports(
        &self,
        network: &NetworkId,
        id: &EndpointId,
        wishes: &[PortWish],
        around: &Surroundings<'_>,
    ) -> Decision {
        let (network, endpoint) = self.member(network, id)?;
        let published = self.publish(network, endpoint, wishes, around)?;
        Ok((
            self.change(id, |endpoint| endpoint.published.clone_from(&published)),
            Reply::Done,
        ))
    }

    fn request_pool(&self, request: &PoolRequest, around: &Surroundings<'_>) -> Decision {
        // While the engine serves its API it repeats nothing, so a pool that is some network's is asked for by another one.
        if let (Want::Exactly(cidr), true) = (&request.want, around.engine_serves) {
            let bound = self.subnets.get(&cidr.network()).filter(|(pool, _)| pool == cidr);
            let live = bound
                .and_then(|(_, id)| self.networks.get(id))
                .filter(|n| n.ours() && !n.released);
            let name = around
                .engine_pools
                .get(cidr)
                .cloned()
                .or_else(|| live.map(|n| n.id.to_string()));
            if let Some(network) = name.filter(|_| self.holds(request, *cidr)) {
                return Err(Refusal::PoolTaken { pool: *cidr, network });
            }
        }
        let (id, edits) = self.ipam.request_pool(request, around.carve, around.avoid)?;
        Ok((of_ipam(edits), Reply::Pool(id)))
    }

    /// Whether the very pool of a request is there already.
    fn holds(&self, request: &PoolRequest, cidr: IpNet) -> bool {
        let id = PoolId::new(request.space, cidr, request.range);
        id.is_ok_and(|id| self.ipam.pool(&id).is_some())
    }

    fn release_pool(&self, id: &PoolId) -> Vec<Edit> {
        if self.ipam.pool(id).is_none() || self.owed.contains_key(id) {
            return Vec::new();
        }
        let bound = self
            .subnets
            .get(&id.cidr().network())
            .filter(|(cidr, _)| *cidr == id.cidr());
        let network = bound
            .and_then(|(_, id)| self.networks.get(id))
            .filter(|n| n.ours() && self.stands_on(n, id));
        match network {
            // Docker removes a network only when nothing is attached, so this is not the end of this network but the undoing
            // of another one that was refused the same pool.
            Some(network) if self.endpoints_of(&network.id).next().is_some() => Vec::new(),
            Some(network) => {
                let released = Network {
                    released: true,
                    ..network.clone()
                };
                let mark = Edit::Network(network.id.clone(), Some(released));
                of_ipam(self.ipam.release_pool(id))
                    .into_iter()
                    .chain([mark])
                    .collect()
            }
            None => of_ipam(self.ipam.release_pool(id)),
        }
    }

    /// Whether a pool on a network's subnet is the network's own. Of several, which have a range each, it is the one that
    /// gave the network its gateway.
    fn stands_on(&self, network: &Network, id: &PoolId) -> bool {
        let of_subnet =
            PoolId::new(id.space(), id.cidr(), None).map(|least| self.ipam.pools().range(least..));
        let of_subnet = of_subnet
            .into_iter()
            .flatten()
            .take_while(|(other, _)| other.cidr() == id.cidr());
        let alone = of_subnet.count() == 1;
        let of_pool = network.subnets.iter().find(|subnet| subnet.pool == id.cidr());
        let gateway = of_pool.and_then(|subnet| subnet.gateway);
        let giver = gateway.and_then(|g| self.ipam.slot(id.space(), g.addr()));
        alone || giver.is_some_and(|slot| slot.pool() == id)
    }

    /// Whether a container that is joined to a network of ours has an address of a pool.
    fn lives(&self, pool: &PoolId, address: IpAddr) -> bool {
        let network = self.subnets.get(&pool.cidr().network()).map(|(_, id)| id.clone());
        let endpoint = network.and_then(|network| self.addresses.get(&(network, address)));
        let endpoint = endpoint.and_then(|id| self.endpoints.get(id));
        endpoint.is_some_and(|endpoint| endpoint.sandbox.is_some())
    }

    /// Whether this host may give endpoints addresses of a pool.
    pub(super) fn may_lease(
        &self,
        pool: &PoolId,
        usage: &Use,
        around: &Surroundings<'_>,
    ) -> Result<(), Refusal> {
        if !usage.is_of_share() {
            return Ok(());
        }
        let share = self.ipam.share(pool.cidr());
        let bound = self.subnets.get(&pool.cidr().network());
        let network = bound
            .filter(|(cidr, _)| *cidr == pool.cidr())
            .and_then(|(_, id)| self.networks.get(id));
        let lost =
            "its records of the cluster were lost: leave and join again (see 'tombolo cluster --help')";
        let why = match share {
            Some(_) => around.outside,
            // Whoever shares and has no share has lost it, and must not give what is others'.
            None => network.filter(|network| network.spec.is_shared()).map(|_| lost),
        };
        match why {
            Some(why) => Err(Refusal::MayNotLease {
                pool: pool.cidr(),
                why: why.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// What becomes of this host's share of a pool.
    fn deal(&self, pool: IpNet, deal: &Deal, now_s: u64) -> Decision {
        let edits = self.ipam.deal(pool, deal, now_s)?;
        let after = edits.iter().rev().find_map(|edit| match edit {
            IpamEdit::Share(cidr, share) if *cidr == pool => Some(share.clone()),
            _ => None,
        });
        let share = after.unwrap_or_else(|| self.ipam.share(pool).cloned());
        Ok((of_ipam(edits), Reply::Share(share)))
    }

    /// A network shares its addresses with others in the cluster if it says so, and only then.
    fn as_shared(&self, network: &Network) -> Result<(), Refusal> {
        for subnet in network.subnets.iter().filter(|subnet| subnet.ours) {
            let pool = subnet.pool;
            match (network.spec.is_shared(), self.ipam.share(pool)) {
                (false, Some(_)) => return Err(Refusal::OfCluster(pool)),
                (true, None) => {
                    let net = network.spec.net().cloned();
                    return Err(Refusal::NotOfCluster { net, pool });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn request_address(&self, pool: &PoolId, wish: Wish, now_s: u64) -> Decision {
        let (address, edits) = self.ipam.request_address(pool, &wish, now_s)?;
        Ok((of_ipam(edits), Reply::Address(address)))
    }

    fn release_address(&self, pool: &PoolId, address: IpAddr, now_s: u64) -> Vec<Edit> {
        let slot = self.ipam.slot(pool.space(), address);
        let of_container = matches!(
            slot,
            Some(Slot::Leased {
                usage: Use::Endpoint { .. },
                ..
            })
        );
        // The undoing of a second network on this pool gives back what is the first one's.
        if self.owed.contains_key(pool) && !of_container {
            return Vec::new();
        }
        of_ipam(self.ipam.release_address(pool, address, now_s))
    }

    /// The edits that note what Docker holds and we have lost: a pool with its leases, as far as they are free.
    pub fn adopt_leases(&self, pool: PoolId, held: &[(IpAddr, Use)]) -> Vec<Edit> {
        let space = pool.space();
        let lease = |(address, usage): &(IpAddr, Use)| {
            let slot = Slot::Leased {
                pool,
                usage: usage.clone(),
            };
            let missing = !matches!(self.ipam.slot(space, *address), Some(Slot::Leased { .. }));
            missing.then_some(Edit::Ipam(IpamEdit::Slot(space, *address, Some(slot))))
        };
        let leases: Vec<Edit> = held.iter().filter_map(lease).collect();
        let missing = self.ipam.pool(&pool).is_none();
        let pool = missing.then(|| Edit::Ipam(IpamEdit::Pool(pool, Some(Pool::default()))));
        pool.into_iter().chain(leases).collect()
    }
}

impl Network {
    /// Whether all its pools are of our own IPAM.
    fn ours(&self) -> bool {
        self.subnets.iter().all(|s| s.ours)
    }
}

fn of_ipam(edits: Vec<IpamEdit>) -> Vec<Edit> {
    edits.into_iter().map(Edit::Ipam).collect()
}

fn leave(endpoint: &mut Endpoint) {
    endpoint.sandbox = None;
    endpoint.published.clear();
    // Nobody else takes it out of the sandbox.
    endpoint.linked &= !endpoint.inside;
    endpoint.inside = false;
}

/// What came with an address that a wire's own server has given: the hardware address, and the way out.
fn lent_to(
    network: &Network,
    addresses: &[IpNet],
    around: &Surroundings<'_>,
) -> Option<(Mac, Option<IpAddr>)> {
    let mut addresses = addresses.iter().filter(|_| network.spec.uplink().is_some());
    addresses.find_map(|address| (around.lent)(address.addr()))
}

fn lose(endpoint: &mut Endpoint) {
    leave(endpoint);
    endpoint.linked = false;
}

/// Addresses of a wire's own DHCP server are for links that have hardware addresses of their own on that wire.
fn lendable(network: &Network, around: &Surroundings<'_>) -> Result<(), Refusal> {
    let ours = network.subnets.iter().filter(|subnet| subnet.ours);
    for lender in ours.filter_map(|subnet| (around.lender)(subnet.pool)) {
        let Spec::Macvlan(macvlan) = &network.spec else {
            return Err(Refusal::Unfit {
                field: "type",
                got: network.spec.kind().name().to_owned(),
                allowed: "with --ipam-opt dhcp=on it must be macvlan: the server tells containers apart by their MAC addresses on the wire",
            });
        };
        if macvlan.uplink.parent.as_ref() != Some(&lender) {
            let parent = macvlan.uplink.parent.as_ref();
            return Err(Refusal::Unfit {
                field: "parent",
                got: parent.map_or_else(|| "no parent".to_owned(), ToString::to_string),
                allowed: "-o parent= must be the interface that --ipam-opt parent= names, whose DHCP server gives the addresses",
            });
        }
    }
    Ok(())
}

fn make_endpoint(
    id: &EndpointId,
    network: &Network,
    addresses: &[IpNet],
    mac: Option<Mac>,
    rate: Option<u64>,
    lent: Option<(Mac, Option<IpAddr>)>,
) -> Result<Endpoint, Refusal> {
    for address in addresses {
        if network.subnet_of(address.addr()).is_none() {
            let allowed = "it must be an address of one of the network's subnets";
            return Err(Refusal::Unfit {
                field: "Interface.Address",
                got: address.to_string(),
                allowed,
            });
        }
    }
    if let Some(rate) = rate.filter(|_| network.spec.uplink().is_some()) {
        return Err(Refusal::Unfit {
            field: "rate",
            got: format!("{rate} bytes a second"),
            allowed: "what containers on a wire are sent doesn't pass through tombolo's hands; leave it out",
        });
    }
    let shared_mac = matches!(network.spec, Spec::Ipvlan(_));
    if let Some(mac) = mac.filter(|_| shared_mac) {
        return Err(Refusal::Unfit {
            field: "Interface.MacAddress",
            got: mac.to_string(),
            allowed: "an ipvlan network's containers have their parent's MAC address; leave --mac-address out",
        });
    }
    if let (Some((_, _)), Some(mac)) = (lent, mac) {
        return Err(Refusal::Unfit {
            field: "Interface.MacAddress",
            got: mac.to_string(),
            allowed: "an address of the wire's own DHCP server is asked for before Docker tells a MAC address, so tombolo chooses that; \
                      leave --mac-address out",
        });
    }
    let own = match addresses.first() {
        _ if lent.is_some() => lent.map(|(mac, _)| mac),
        Some(first) => Some(Mac::of_address(first.addr())),
        // On a wire somebody else may give addresses.
        None if network.spec.uplink().is_some() && network.subnets.is_empty() => Some(Mac::of_endpoint(id)),
        None => None,
    };
    let Some(own) = own else {
        let allowed = "a bridge network gives its endpoints addresses; use an IPAM driver that has some";
        return Err(Refusal::Unfit {
            field: "Interface.Address",
            got: "none".to_owned(),
            allowed,
        });
    };
    Ok(Endpoint {
        id: id.clone(),
        network: network.id.clone(),
        addresses: addresses.to_vec(),
        mac: mac.unwrap_or(own),
        mac_chosen: mac.is_none() && !shared_mac,
        sandbox: None,
        linked: false,
        published: Vec::new(),
        rate,
        // A server may name a router that is none here: then there is no way out.
        way_out: lent.and_then(|(_, way_out)| way_out).filter(|router| {
            let own = addresses.iter().any(|address| address.addr() == *router);
            network.subnet_of(*router).is_some() && !own
        }),
        inside: false,
        sysctls: Vec::new(),
    })
}

/// Whether a network that spans hosts has what that takes.
fn spanning(network: &Network) -> Result<(), Refusal> {
    let lacks = network.subnets.iter().find(|subnet| !subnet.ours);
    match lacks.filter(|_| network.spec.spans()) {
        Some(subnet) => Err(Refusal::Unfit {
            field: "IPv4Data, IPv6Data",
            got: format!("{} is of another IPAM driver", subnet.pool),
            allowed: "a network on several hosts needs addresses that are unique on all of them: add --ipam-driver tombolo",
        }),
        None => Ok(()),
    }
}

/// Whether a network may use a link of somebody else's: what we change of it and could not give back is left as it is.
fn adoptable(network: &Network, theirs: Theirs) -> Result<(), Refusal> {
    let link = network
        .spec
        .named_link()
        .map(ToString::to_string)
        .unwrap_or_default();
    let unfit = |got: String, allowed| {
        Err(Refusal::Unfit {
            field: "bridge_name",
            got: format!("{link} ({got})"),
            allowed,
        })
    };
    if network.spec.spans() {
        let allowed = "a network on several hosts makes a bridge of its own: choose a name that no link has";
        return unfit("a link of somebody else's".to_owned(), allowed);
    }
    if theirs.group != 0 && theirs.group != ADOPTED_GROUP {
        let allowed = "tombolo marks a bridge that it uses by its link group, which must be free: ip link set BRIDGE group default";
        return unfit(format!("link group {}", theirs.group), allowed);
    }
    if theirs.localnet && theirs.group == 0 {
        let allowed = "tombolo turns this setting on and off by itself: sysctl -w net.ipv4.conf.BRIDGE.route_localnet=0";
        return unfit("route_localnet is 1".to_owned(), allowed);
    }
    Ok(())
}

/// Whether an address is none that a container can have.
fn special(address: IpAddr) -> bool {
    // IPv4 link-local addresses are used on purpose, for services that clouds have there.
    let one_wire = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    one_wire || address.is_loopback() || address.is_multicast()
}

/// A repeat of a creation must ask for the same.
fn same_network(have: &Network, got: &Network) -> Result<(), Refusal> {
    let subnets = |n: &Network| {
        let each = n.subnets.iter().map(|s| match s.gateway {
            Some(gateway) => format!("{} (gateway {gateway})", s.pool),
            None => s.pool.to_string(),
        });
        each.collect::<Vec<_>>().join(", ")
    };
    // A kind's options always make JSON; without it the message would only lack them.
    let options = |n: &Network| serde_json::to_string(&n.spec).unwrap_or_default();
    let asked = |n: &Network| {
        let mut spec = n.spec.clone();
        spec.agree(Agreed::default());
        spec.note(Found::default());
        spec
    };
    let field = if asked(have) != asked(got) {
        ("options", options(have), options(got))
    } else if have.internal != got.internal {
        ("internal", have.internal.to_string(), got.internal.to_string())
    } else if have.subnets != named_only(have, got) {
        ("subnets", subnets(have), subnets(got))
    } else {
        return Ok(());
    };
    let (field, have_text, got) = field;
    Err(Refusal::Differs {
        what: "network",
        id: have.id.to_string(),
        field,
        have: have_text,
        got,
    })
}

/// The subnets asked for, without gateways that an engine asked for by itself and that a network on a wire didn't take.
fn named_only(have: &Network, got: &Network) -> Vec<Subnet> {
    let on_wire = have.spec.uplink().is_some();
    let mut subnets = got.subnets.clone();
    for (subnet, there) in subnets.iter_mut().zip(&have.subnets) {
        if on_wire && there.gateway.is_none() {
            subnet.gateway = None;
        }
    }
    subnets
}

/// A repeat of a creation must ask for the same.
fn same_endpoint(have: &Endpoint, got: &Endpoint) -> Result<(), Refusal> {
    let list = |e: &Endpoint| {
        e.addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (field, have_text, got) = if have.network != got.network {
        ("network", have.network.to_string(), got.network.to_string())
    } else if have.addresses != got.addresses {
        ("addresses", list(have), list(got))
    } else if have.mac != got.mac {
        ("MAC address", have.mac.to_string(), got.mac.to_string())
    } else if have.rate != got.rate {
        let text = |rate: Option<u64>| rate.map_or("none".to_owned(), |bits| format!("{bits}bit"));
        ("rate", text(have.rate), text(got.rate))
    } else {
        return Ok(());
    };
    Err(Refusal::Differs {
        what: "endpoint",
        id: have.id.to_string(),
        field,
        have: have_text,
        got,
    })
}
