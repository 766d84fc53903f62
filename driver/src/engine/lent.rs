//! What the records hold of addresses that wires' own DHCP servers have lent.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use tombolo_core::model::{IfName, Mac};
use tombolo_ipam::{PoolId, Slot, Space};

use super::{Engine, Journal};
use crate::dhcp::Lease;
use crate::kernel::Kernel;
use crate::lent::Kept;
use crate::records;

/// Under what it is kept which pools' addresses are lent, and which are.
const POOL: &str = "lent/pool/";
const LEASE: &str = "lent/lease/";

/// The leases among what is kept. What can't be read is of no use to anybody.
pub(super) fn leases(meta: &BTreeMap<String, String>) -> BTreeMap<Ipv4Addr, Lease> {
    let leases = meta.iter().filter(|(key, _)| key.starts_with(LEASE));
    let leases = leases.filter_map(|(_, text)| serde_json::from_str::<Lease>(text).ok());
    leases.map(|lease| (lease.address.addr(), lease)).collect()
}

/// What came with an address that was lent.
pub(super) fn came_with(
    leases: &BTreeMap<Ipv4Addr, Lease>,
    address: IpAddr,
) -> Option<(Mac, Option<IpAddr>)> {
    let IpAddr::V4(address) = address else { return None };
    let lease = leases.get(&address)?;
    Some((lease.mac, lease.router.map(IpAddr::V4)))
}

/// The link to the wire whose own server gives a pool's addresses, if one does.
pub(super) fn lender(meta: &BTreeMap<String, String>, pool: IpNet) -> Option<IfName> {
    meta.get(&format!("{POOL}{pool}"))?.parse().ok()
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Keeps whether the addresses of a pool are lent, and by which link its wire is reached.
    pub(super) fn keep_lent_pool(&mut self, pool: IpNet, parent: Option<&IfName>) -> Result<(), String> {
        self.keep_meta(&format!("{POOL}{pool}"), parent.map(ToString::to_string))
    }

    /// Keeps a lease that is new: of an address that nobody has by our records.
    pub(super) fn keep_lent(&mut self, lease: Lease) -> Result<(), String> {
        let address = lease.address.addr();
        let server = lease.server;
        match self.lent.get(&address) {
            Some(other) if other.id() != lease.id() => Err(format!(
                "Address: the DHCP server {server} gives {address}, which {} was given by {} before: are there two servers, or has \
                 one lost what it knew? Remove that container, or have the server keep the address out of what it gives",
                other.mac, other.server
            )),
            None if self.is_held(address) => Err(format!(
                "Address: the DHCP server {server} gives {address}, which is kept for something else here: have the server keep it \
                 out of what it gives (see 'tombolo pools')"
            )),
            _ => self.put_lent(lease),
        }
    }

    /// Keeps that a lease was renewed. One that nobody has a record of, or another record, is no container's address.
    pub(super) fn keep_relent(&mut self, lease: Lease) -> Result<(), String> {
        let known = self.lent.get(&lease.address.addr());
        match known.is_some_and(|known| known.id() == lease.id()) {
            true => self.put_lent(lease),
            false => Ok(()),
        }
    }

    fn put_lent(&mut self, lease: Lease) -> Result<(), String> {
        let address = lease.address.addr();
        let text = serde_json::to_string(&lease).map_err(|error| error.to_string())?;
        self.keep_meta(&format!("{LEASE}{address}"), Some(text))?;
        self.lent.insert(address, lease);
        Ok(())
    }

    /// Forgets a lease, unless a container has its address, or it isn't the one that is kept.
    pub(super) fn forget_lent(&mut self, lease: &Lease) -> Result<bool, String> {
        let address = lease.address.addr();
        let same = self
            .lent
            .get(&address)
            .is_some_and(|kept| kept.id() == lease.id());
        if !same || self.is_held(address) {
            return Ok(false);
        }
        self.keep_meta(&format!("{LEASE}{address}"), None)?;
        self.lent.remove(&address);
        Ok(true)
    }

    fn is_held(&self, address: Ipv4Addr) -> bool {
        let slot = self.state.ipam().slot(Space::Local, IpAddr::V4(address));
        matches!(slot, Some(Slot::Leased { .. }))
    }

    fn keep_meta(&mut self, key: &str, value: Option<String>) -> Result<(), String> {
        let put = match &value {
            Some(value) => records::put_meta(key, value),
            None => records::forget_meta(key),
        };
        self.journal.commit(&[put]).map_err(|error| error.to_string())?;
        match value {
            Some(value) => drop(self.meta.insert(key.to_owned(), value)),
            None => drop(self.meta.remove(key)),
        }
        Ok(())
    }

    /// All of it. A pool that is gone is forgotten.
    pub(super) fn all_lent(&mut self) -> Kept {
        let pools: Vec<(IpNet, IfName)> = self
            .meta
            .iter()
            .filter_map(|(key, parent)| Some((key.strip_prefix(POOL)?.parse().ok()?, parent.parse().ok()?)))
            .collect();
        let (there, gone): (Vec<_>, Vec<_>) = pools.into_iter().partition(|(pool, _)| {
            let least = PoolId::new(Space::Local, *pool, None);
            let pools = least.map(|least| self.state.ipam().pools().range(least..).next());
            pools.is_ok_and(|next| next.is_some_and(|(next, _)| next.cidr() == *pool))
        });
        for (pool, _) in gone {
            if let Err(error) = self.keep_lent_pool(pool, None) {
                tracing::warn!(%pool, error, "that a pool is gone could not be noted");
            }
        }
        let leases = self.lent.values();
        Kept {
            pools: there.into_iter().collect(),
            leases: leases
                .map(|lease| {
                    let address = lease.address.addr();
                    let name = self.docker.holder(address.into()).map(str::to_owned);
                    (lease.clone(), self.is_held(address), name)
                })
                .collect(),
        }
    }
}
