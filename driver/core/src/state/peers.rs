//! What other hosts have: their endpoints, their pieces of pools, and how they are reached. None of it is a record of ours:
//! it is told anew after each start.
//!
//! Two hosts may be seen with one address for a moment, while a container moves and the news of both is on its way. So the
//! unit of facts isn't a host's row but a *place* (an address, a hardware address, a VTEP, a piece of a pool); of those who are
//! in it the last one heard of counts, and what this host has itself counts before all.

mod ends;
mod holders;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tombolo_ipam::HostId;

use super::{Owner, State};
use crate::kinds::{Agreed, Far, Reach, Underlay};
use crate::model::{Group, Mac, Network, NetworkId};
use crate::world::World;
use holders::{Holder, Holders, Name};

/// An endpoint of another host's that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The pool that is the identity of its network.
    pub pool: IpNet,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its hardware address.
    pub mac: Mac,
    /// Its host's VTEP.
    pub via: IpAddr,
}

/// The groups that somebody on another host hears on a network, or some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The pool that is the identity of the network.
    pub pool: IpNet,
    /// The groups.
    pub groups: BTreeSet<Group>,
    /// The host's VTEP.
    pub via: IpAddr,
}

/// Something that one of several hosts has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An address.
    Address(IpAddr),
    /// A hardware address.
    Mac(Mac),
    /// The VTEP of a host with endpoints on the network.
    Vtep(IpAddr),
    /// A group that somebody on a host hears, and the host's VTEP.
    Listener(Group, IpAddr),
    /// A piece of the pool. It may be one of the network's other family.
    Piece(IpNet),
}

/// How a host is reached of which nothing is known.
static NOWHERE: Reach = Reach {
    v4: Vec::new(),
    v6: Vec::new(),
    ways: Vec::new(),
};

/// What is new of other hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// This is all there is: what isn't in it is gone.
    pub everything: bool,
    /// What tunnels run on here, if it is known.
    pub underlay: Option<Underlay>,
    /// Endpoints: what they are now, or that they are gone.
    pub endpoints: Vec<(HostId, Arc<str>, Option<Remote>)>,
    /// Groups that are heard: what a row tells of them now, or that it is gone.
    pub heard: Vec<(HostId, Arc<str>, Option<Heard>)>,
    /// Pools with all pieces that other hosts have of them.
    pub pieces: BTreeMap<IpNet, BTreeMap<IpNet, HostId>>,
    /// How hosts are reached now; none for one that is no member any more.
    pub reach: Vec<(HostId, Option<Reach>)>,
    /// What was agreed on for pools that are the identity of a network.
    pub agreed: BTreeMap<IpNet, Agreed>,
}

/// What other hosts have.
#[derive(Debug, Default)]
pub struct Peers {
    underlay: Option<Underlay>,
    rows: BTreeMap<Name, (u64, Remote)>,
    groups: BTreeMap<Name, Heard>,
    heard: u64,
    places: BTreeMap<(IpNet, Place), Holders>,
    pieces: BTreeMap<IpNet, BTreeMap<IpNet, HostId>>,
    reach: BTreeMap<HostId, Reach>,
    agreed: BTreeMap<IpNet, Agreed>,
}

impl Peers {
    /// How a host is reached, as far as that is known.
    pub fn reach(&self, host: &HostId) -> Option<&Reach> {
        self.reach.get(host)
    }

    /// What tunnels run on here.
    pub fn underlay(&self) -> Option<&Underlay> {
        self.underlay.as_ref()
    }

    fn put(&mut self, name: Name, remote: Option<Remote>) {
        let old = self.rows.get(&name);
        if old.map(|(_, old)| old) == remote.as_ref() {
            return;
        }
        if let Some((seq, old)) = self.rows.remove(&name) {
            let holder = (seq, name.clone());
            places(&old).for_each(|place| self.leave((old.pool, place), &holder));
        }
        let Some(remote) = remote else { return };
        self.heard += 1;
        for place in places(&remote) {
            let holders = self.places.entry((remote.pool, place)).or_default();
            holders.insert((self.heard, name.clone()));
        }
        self.rows.insert(name, (self.heard, remote));
    }

    fn put_groups(&mut self, name: Name, heard: Option<Heard>) {
        // Whoever hears a group as well changes nothing, so the order doesn't matter.
        let holder = (0, name.clone());
        if let Some(old) = self.groups.remove(&name) {
            listeners(&old).for_each(|key| self.leave(key, &holder));
        }
        let Some(heard) = heard else { return };
        for key in listeners(&heard) {
            self.places.entry(key).or_default().insert(holder.clone());
        }
        self.groups.insert(name, heard);
    }

    /// Takes a holder out of a place.
    fn leave(&mut self, key: (IpNet, Place), holder: &Holder) {
        if let Some(holders) = self.places.get_mut(&key) {
            holders.remove(holder);
            if holders.is_empty() {
                self.places.remove(&key);
            }
        }
    }

    /// The rows about endpoints that are gone by some news without being named there.
    fn unnamed(&self, news: &News) -> Vec<Name> {
        match news.everything {
            true => unnamed(&self.rows, &news.endpoints),
            false => Vec::new(),
        }
    }

    /// The same of rows about groups.
    fn unnamed_groups(&self, news: &News) -> Vec<Name> {
        match news.everything {
            true => unnamed(&self.groups, &news.heard),
            false => Vec::new(),
        }
    }

    /// Who is in a place now, and whose it is.
    fn holder(&self, pool: IpNet, place: &Place) -> Option<(&HostId, &Remote)> {
        let (_, name) = self.places.get(&(pool, place.clone()))?.last()?;
        let (_, remote) = self.rows.get(name)?;
        Some((&name.0, remote))
    }

    /// The places of one pool that VTEPs are in, and then those of who hears groups, with who is there.
    fn vteps_on(&self, pool: IpNet) -> impl Iterator<Item = (&Place, &Holders)> {
        let first = (pool, Place::Vtep(IpAddr::from([0; 4])));
        let of_pool = self.places.range(first..);
        of_pool
            .take_while(move |((of, place), _)| {
                *of == pool && matches!(place, Place::Vtep(_) | Place::Listener(..))
            })
            .map(|((_, place), holders)| (place, holders))
    }

    /// The places of one pool that somebody is in.
    fn places_of(&self, pool: IpNet) -> impl Iterator<Item = &Place> {
        // The least place of all: there is no address below this one.
        let first = (pool, Place::Address(IpAddr::from([0; 4])));
        self.places
            .range(first..)
            .take_while(move |((of, _), _)| *of == pool)
            .map(|((_, place), _)| place)
    }
}

/// The names of those rows that aren't among some that were told.
fn unnamed<R, T>(rows: &BTreeMap<Name, R>, told: &[(HostId, Arc<str>, T)]) -> Vec<Name> {
    let named: BTreeSet<(&HostId, &str)> = told.iter().map(|(host, key, _)| (host, &**key)).collect();
    let gone = rows.keys().filter(|(host, key)| !named.contains(&(host, &**key)));
    gone.cloned().collect()
}

/// The places that an endpoint is in.
fn places(remote: &Remote) -> impl Iterator<Item = Place> {
    let addresses = remote.addresses.iter().copied().map(Place::Address);
    addresses
        .chain([Place::Mac(remote.mac), Place::Vtep(remote.via)])
        .collect::<Vec<_>>()
        .into_iter()
}

/// The places that a row about groups is in.
fn listeners(heard: &Heard) -> impl Iterator<Item = (IpNet, Place)> {
    let groups = heard.groups.iter();
    groups.map(|group| (heard.pool, Place::Listener(*group, heard.via)))
}

impl State {
    /// What other hosts have.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The owners whose facts some news may change. It is asked before the news is taken in.
    pub fn concerned(&self, news: &News) -> BTreeSet<Owner> {
        let mut owners = BTreeSet::new();
        let mut all = |pool: IpNet, place: Place| {
            owners.insert(Owner::Remote(pool, place));
        };
        let row = |name: &Name| self.peers.rows.get(name).map(|(_, remote)| remote);
        let of_row = |remote: &Remote, all: &mut dyn FnMut(IpNet, Place)| {
            places(remote).for_each(|place| all(remote.pool, place));
        };
        for (host, key, remote) in &news.endpoints {
            let old = row(&(*host, key.clone()));
            if old != remote.as_ref() {
                for remote in old.into_iter().chain(remote) {
                    of_row(remote, &mut all);
                }
            }
        }
        for remote in self.peers.unnamed(news).iter().filter_map(row) {
            of_row(remote, &mut all);
        }
        for (host, key, heard) in &news.heard {
            let old = self.peers.groups.get(&(*host, key.clone()));
            // What is in both stays as it is.
            let before: BTreeSet<_> = old.into_iter().flat_map(listeners).collect();
            let after: BTreeSet<_> = heard.iter().flat_map(listeners).collect();
            let differ = before.symmetric_difference(&after).cloned();
            differ.for_each(|(pool, place)| all(pool, place));
        }
        for name in self.peers.unnamed_groups(news) {
            let gone = self.peers.groups.get(&name).into_iter().flat_map(listeners);
            gone.for_each(|(pool, place)| all(pool, place));
        }
        let none = BTreeMap::new();
        let gone = self
            .peers
            .pieces
            .keys()
            .filter(|pool| news.everything && !news.pieces.contains_key(pool));
        let pools = news.pieces.iter().chain(gone.map(|pool| (pool, &none)));
        for (pool, pieces) in pools {
            let old = self.peers.pieces.get(pool).unwrap_or(&none);
            let differ = |piece: &&IpNet| old.get(*piece) != pieces.get(*piece);
            for piece in old.keys().chain(pieces.keys()).filter(differ) {
                all(*pool, Place::Piece(*piece));
            }
        }
        let mut moved: BTreeSet<&HostId> = news
            .reach
            .iter()
            .filter(|(host, reach)| self.peers.reach.get(host) != reach.as_ref())
            .map(|(host, _)| host)
            .collect();
        if news.everything {
            let named: BTreeSet<&HostId> = news.reach.iter().map(|(host, _)| host).collect();
            moved.extend(self.peers.reach.keys().filter(|host| !named.contains(host)));
        }
        if !moved.is_empty() {
            for (_, (_, remote)) in self
                .peers
                .rows
                .iter()
                .filter(|((host, _), _)| moved.contains(host))
            {
                of_row(remote, &mut all);
            }
            let groups = self.peers.groups.iter();
            for (_, heard) in groups.filter(|((host, _), _)| moved.contains(host)) {
                listeners(heard).for_each(|(pool, place)| all(pool, place));
            }
            for (pool, pieces) in &self.peers.pieces {
                for (piece, _) in pieces.iter().filter(|(_, host)| moved.contains(host)) {
                    all(*pool, Place::Piece(*piece));
                }
            }
        }
        if let Some(underlay) = news.underlay.filter(|now| Some(*now) != self.peers.underlay) {
            let tunnels = self.networks.values().filter(|network| network.spec.has_tunnel());
            // Rows that name this host's own VTEP lead nowhere.
            let before = self.peers.underlay.map(|before| before.vtep);
            let ours = |via: IpAddr| via == underlay.vtep || Some(via) == before;
            for (_, remote) in self.peers.rows.values().filter(|(_, remote)| ours(remote.via)) {
                of_row(remote, &mut all);
            }
            for heard in self.peers.groups.values().filter(|heard| ours(heard.via)) {
                listeners(heard).for_each(|(pool, place)| all(pool, place));
            }
            owners.extend(tunnels.map(|network| Owner::Network(network.id.clone())));
        }
        let beside = self.beside(&owners, news);
        owners.extend(beside);
        owners
    }

    /// Places that may lead to the same entry as one of those of some owners: while the rows of a host with several ways change
    /// over from one VTEP to another one, both are reached by the same way.
    fn beside(&self, owners: &BTreeSet<Owner>, news: &News) -> Vec<Owner> {
        let told = news
            .reach
            .iter()
            .filter_map(|(host, reach)| Some((host, reach.as_ref()?)));
        let reach = told.chain(&self.peers.reach);
        let several: BTreeSet<&HostId> = reach
            .filter(|(_, reach)| !reach.ways.is_empty())
            .map(|(host, _)| host)
            .collect();
        if several.is_empty() {
            return Vec::new();
        }
        let of = |holders: &Holders| holders.last().map(|(_, (host, _))| *host);
        let mut hosts: BTreeMap<IpNet, BTreeSet<HostId>> = BTreeMap::new();
        for owner in owners {
            if let Owner::Remote(pool, place @ (Place::Vtep(_) | Place::Listener(..))) = owner {
                let holders = self.peers.places.get(&(*pool, place.clone()));
                let host = holders.and_then(of).filter(|host| several.contains(host));
                hosts.entry(*pool).or_default().extend(host);
            }
        }
        let its = hosts.iter().flat_map(|(pool, hosts)| {
            let all = self.peers.vteps_on(*pool);
            let its = all.filter(move |(_, holders)| of(holders).is_some_and(|host| hosts.contains(&host)));
            its.map(|(place, _)| Owner::Remote(*pool, place.clone()))
        });
        its.collect()
    }

    /// Takes news of other hosts in.
    pub fn hear(&mut self, news: News) {
        for name in self.peers.unnamed(&news) {
            self.peers.put(name, None);
        }
        for name in self.peers.unnamed_groups(&news) {
            self.peers.put_groups(name, None);
        }
        if news.everything {
            self.peers.pieces.clear();
            let members: BTreeSet<&HostId> = news.reach.iter().map(|(host, _)| host).collect();
            self.peers.reach.retain(|host, _| members.contains(host));
        }
        for (host, key, remote) in news.endpoints {
            self.peers.put((host, key), remote);
        }
        for (host, key, heard) in news.heard {
            self.peers.put_groups((host, key), heard);
        }
        if news.everything {
            crate::pack(&mut self.peers.rows);
            crate::pack(&mut self.peers.places);
        }
        self.peers.pieces.extend(news.pieces);
        self.peers.pieces.retain(|_, pieces| !pieces.is_empty());
        for (host, reach) in news.reach {
            match reach {
                Some(reach) => drop(self.peers.reach.insert(host, reach)),
                None => drop(self.peers.reach.remove(&host)),
            }
        }
        self.peers.underlay = news.underlay.or(self.peers.underlay);
        self.peers.agreed.extend(news.agreed);
    }

    /// The owners of all that other hosts have of a network. There may be tens of thousands, so they aren't gathered.
    pub(super) fn remote_owners(&self, network: &Network) -> impl Iterator<Item = Owner> {
        let of_main = network.pool().into_iter().flat_map(|pool| {
            let places = self.peers.places_of(pool);
            places.map(move |place| Owner::Remote(pool, place.clone()))
        });
        let pools = network.subnets.iter().map(|subnet| subnet.pool);
        let of_pools = pools.flat_map(|pool| {
            let pieces = self.peers.pieces.get(&pool).into_iter();
            let pieces = pieces.flat_map(BTreeMap::keys);
            pieces.map(move |piece| Owner::Remote(pool, Place::Piece(*piece)))
        });
        let all = of_main.chain(of_pools);
        network.spec.spans().then_some(all).into_iter().flatten()
    }

    /// The networks whose records were lost and made anew, and lack what was agreed on: what that is.
    pub fn unagreed(&self) -> Vec<(NetworkId, Agreed)> {
        let lacks = |network: &&Network| network.spec.has_tunnel() && network.spec.agreed().vni.is_none();
        let agreed = |network: &Network| {
            let agreed = self.peers.agreed.get(&network.pool()?)?;
            Some((network.id.clone(), *agreed))
        };
        self.networks.values().filter(lacks).filter_map(agreed).collect()
    }

    /// How many endpoints other hosts have on a network.
    pub fn remote_endpoints(&self, network: &Network) -> usize {
        let places = network
            .pool()
            .into_iter()
            .flat_map(|pool| self.peers.places_of(pool));
        let spans = network.spec.spans();
        places
            .filter(|place| spans && matches!(place, Place::Mac(_)))
            .count()
    }

    /// The hosts with something of a network that are not on a wire of this host's, where the network needs that.
    pub fn unreached(&self, network: &Network) -> BTreeSet<HostId> {
        if !network.spec.needs_wire() {
            return BTreeSet::new();
        }
        let far = |host: &HostId, v6: bool| {
            self.peers
                .reach(host)
                .is_none_or(|reach| reach.hops(v6).is_empty())
        };
        let pools = network.subnets.iter().map(|subnet| subnet.pool);
        let pieces = pools.filter_map(|pool| Some((pool.addr().is_ipv6(), self.peers.pieces.get(&pool)?)));
        let hosts = pieces.flat_map(|(v6, pieces)| pieces.values().filter(move |host| far(host, v6)));
        hosts.copied().collect()
    }

    /// The network of this host's that stands on a pool.
    pub(super) fn network_on(&self, pool: IpNet) -> Option<&Network> {
        let (on, id) = self.subnets.get(&pool.network())?;
        self.networks.get(id).filter(|_| *on == pool)
    }

    /// The facts that follow from who is in a place.
    pub(super) fn remote_facts(&self, pool: IpNet, place: &Place, world: &mut World) {
        let Some(network) = self.network_on(pool).filter(|network| network.spec.spans()) else {
            return;
        };
        if let Some(far) = self.far(network, pool, place) {
            network.spec.kind().remote_facts(network, &far, world);
        }
    }

    /// What of another host's is in a place of a network; none where nothing is, or where this host has the place itself.
    pub(super) fn far(&self, network: &Network, pool: IpNet, place: &Place) -> Option<Far<'_>> {
        let reach = |host: &HostId| self.peers.reach.get(host).unwrap_or(&NOWHERE);
        if let Place::Piece(piece) = place {
            let host = self.peers.pieces.get(&pool)?.get(piece)?;
            return Some(Far::Piece(*piece, reach(host)));
        }
        if let Place::Listener(group, vtep) = place {
            let (_, (host, _)) = self.peers.places.get(&(pool, place.clone()))?.last()?;
            // A row with this host's own VTEP would be a copy's, as below.
            let copy = self.peers.underlay.is_some_and(|underlay| underlay.vtep == *vtep);
            return (!copy).then(|| Far::Listener(*group, *vtep, reach(host)));
        }
        let (host, remote) = self.peers.holder(pool, place)?;
        // A row of this host's own address would be a copy's; nothing is sent there.
        let copy = |underlay: Underlay| underlay.vtep == remote.via;
        if self.peers.underlay.is_some_and(copy) {
            return None;
        }
        match place {
            Place::Address(address) if self.is_far(network, *address) => {
                Some(Far::Address(*address, remote.mac, reach(host)))
            }
            Place::Mac(mac) if !self.has_mac(network, *mac) => Some(Far::Mac(*mac, remote.via, reach(host))),
            Place::Vtep(vtep) => Some(Far::Vtep(*vtep, reach(host))),
            _ => None,
        }
    }

    /// Whether an address can be another host's: it is in the network, and neither the gateway's nor one that this host has.
    fn is_far(&self, network: &Network, address: IpAddr) -> bool {
        let subnet = network.subnet(address.is_ipv6());
        let within = subnet.filter(|subnet| subnet.pool.contains(&address));
        let gateway = within
            .and_then(|subnet| subnet.gateway)
            .map(|gateway| gateway.addr());
        let here = self.addresses.contains_key(&(network.id.clone(), address));
        within.is_some() && gateway != Some(address) && !here
    }

    /// Whether this host has a hardware address on a network.
    fn has_mac(&self, network: &Network, mac: Mac) -> bool {
        mac == Mac::of_net(network) || self.macs.contains_key(&(network.id.clone(), mac))
    }

    /// The places that an endpoint of this host's takes.
    pub(super) fn places_here(&self, network: &NetworkId, addresses: &[IpNet], mac: Mac) -> Vec<Owner> {
        let Some(network) = self.networks.get(network).filter(|network| network.spec.spans()) else {
            return Vec::new();
        };
        let Some(pool) = network.pool() else {
            return Vec::new();
        };
        let places = addresses.iter().map(|address| Place::Address(address.addr()));
        places
            .chain([Place::Mac(mac)])
            .filter(|place| self.peers.places.contains_key(&(pool, place.clone())))
            .map(|place| Owner::Remote(pool, place))
            .collect()
    }
}

#[cfg(test)]
mod tests;
