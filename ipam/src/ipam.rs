//! All pools and all slots, the edits that change them, and the way back from the store.
//!
//! ```text
//!   request --decide(&self)--> answer + edits --store: one transaction--> apply(&mut self), edit by edit
//!                                                                             └─> inverse edits, to go back
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;

use crate::index::{Held, Index};
use crate::pool::{Pool, PoolId, Space};
use crate::slot::{Slot, Use};

/// A change of one record: it is set to a value, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Of a pool.
    Pool(PoolId, Option<Pool>),
    /// Of an address.
    Slot(Space, IpAddr, Option<Slot>),
}

/// Something in the store that cannot be: the record was left out, or (a cursor) put right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Two pools share addresses; the first one was kept.
    #[error("stored pool {left_out} was left out: it overlaps stored pool {kept}")]
    Overlap {
        /// The pool that was left out.
        left_out: PoolId,
        /// The pool that was kept.
        kept: PoolId,
    },
    /// The search for the next address would begin at an address that the pool does not give; it begins at its start.
    #[error(
        "stored pool {pool} went on from address {cursor}, which is not one that it gives; it begins anew"
    )]
    Cursor {
        /// The pool.
        pool: PoolId,
        /// The address it went on from.
        cursor: IpAddr,
    },
    /// A slot whose pool is not there, or is of another space.
    #[error(
        "stored address {address} in the {space} space was left out: there is no pool {pool} in that space"
    )]
    NoPool {
        /// The space.
        space: Space,
        /// The address.
        address: IpAddr,
        /// The pool that it names.
        pool: PoolId,
    },
    /// A slot whose address its pool cannot have.
    #[error("stored address {address} was left out: pool {pool} cannot have it")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The pool that it names.
        pool: PoolId,
    },
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// How many addresses it has leased, those outside its range with them.
    pub leased: usize,
    /// How many addresses cool after use.
    pub cooling: usize,
    /// How many it can still give without their being named, the cooling ones with them; at most `u64::MAX`.
    pub free: u64,
}

/// Which address is whose. The key of a slot *is* the address, so no address can be held twice in one space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ipam {
    pools: BTreeMap<PoolId, Pool>,
    slots: BTreeMap<(Space, IpAddr), Slot>,
    pub(crate) index: Index,
}

impl Ipam {
    /// Takes up what was stored. What cannot be is left out and told: one damaged record must not keep the rest from
    /// its owners.
    pub fn restore(
        pools: BTreeMap<PoolId, Pool>,
        slots: BTreeMap<(Space, IpAddr), Slot>,
    ) -> (Self, Vec<Problem>) {
        let (mut ipam, mut problems) = (Self::default(), Vec::new());
        for (id, mut pool) in pools {
            if let Some(kept) = ipam.overlapping(&id) {
                problems.push(Problem::Overlap { left_out: id, kept });
                continue;
            }
            if let Some(cursor) = pool.cursor.take_if(|at| !id.gives(*at)) {
                problems.push(Problem::Cursor { pool: id, cursor });
            }
            ipam.apply(Edit::Pool(id, Some(pool)));
        }
        for ((space, address), slot) in slots {
            match ipam.impossible(space, address, &slot) {
                Some(problem) => problems.push(problem),
                None => drop(ipam.apply(Edit::Slot(space, address, Some(slot)))),
            }
        }
        (ipam, problems)
    }

    /// Why a stored slot cannot be, if so.
    fn impossible(&self, space: Space, address: IpAddr, slot: &Slot) -> Option<Problem> {
        let pool = *slot.pool();
        if pool.space() != space || !self.pools.contains_key(&pool) {
            return Some(Problem::NoPool { space, address, pool });
        }
        let possible = match slot {
            Slot::Leased { .. } => pool.cidr().contains(&address),
            Slot::Cooling { .. } => pool.gives(address),
        };
        (!possible).then_some(Problem::Outside { address, pool })
    }

    /// All pools, by space and address.
    pub fn pools(&self) -> &BTreeMap<PoolId, Pool> {
        &self.pools
    }

    /// All slots, by space and address.
    pub fn slots(&self) -> &BTreeMap<(Space, IpAddr), Slot> {
        &self.slots
    }

    /// A pool.
    pub fn pool(&self, id: &PoolId) -> Option<&Pool> {
        self.pools.get(id)
    }

    /// What is known of an address: nothing of a free one.
    pub fn slot(&self, space: Space, address: IpAddr) -> Option<&Slot> {
        self.slots.get(&(space, address))
    }

    /// The leases of a pool, by address.
    pub fn leases_of(&self, id: &PoolId) -> impl Iterator<Item = (IpAddr, &Use)> + '_ {
        let space = id.space();
        let leased = self.index.held(id).into_iter().flat_map(|held| &held.leased);
        leased.filter_map(move |&address| match self.slot(space, address) {
            Some(Slot::Leased { usage, .. }) => Some((address, usage)),
            _ => None,
        })
    }

    /// The gateway of a pool, if it has leased one.
    pub fn gateway_of(&self, id: &PoolId) -> Option<IpAddr> {
        self.index.held(id)?.gateways.first().copied()
    }

    /// How full a pool is. For people: it counts the leases in the pool's range one by one.
    pub fn fill(&self, id: &PoolId) -> Fill {
        let held = self.index.held(id);
        let leased_inside = id.window().map_or(0, |(first, last)| {
            let space = id.space();
            let slots = self.slots.range((space, first)..=(space, last));
            slots
                .filter(|(_, slot)| matches!(slot, Slot::Leased { .. }))
                .count()
        });
        Fill {
            leased: held.map_or(0, |h| h.leased.len()),
            cooling: held.map_or(0, |h| h.cooling.len()),
            free: id.size().saturating_sub(leased_inside as u64),
        }
    }

    /// What a pool holds, if anything.
    pub(crate) fn held(&self, id: &PoolId) -> Option<&Held> {
        self.index.held(id)
    }

    /// Makes one edit and returns the one that undoes it. Edits are the answer of a request to this very state, and
    /// are applied all, in their order, before anything else is asked; undoing goes backwards.
    pub fn apply(&mut self, edit: Edit) -> Edit {
        match edit {
            Edit::Pool(id, pool) => Edit::Pool(id, self.set_pool(id, pool)),
            Edit::Slot(space, address, slot) => {
                Edit::Slot(space, address, self.set_slot(space, address, slot))
            }
        }
    }

    /// Sets or removes a pool and returns what was there.
    fn set_pool(&mut self, id: PoolId, pool: Option<Pool>) -> Option<Pool> {
        if let Some(pool) = pool {
            self.index.subnet_comes(id.space(), id.cidr());
            return self.pools.insert(id, pool);
        }
        let old = self.pools.remove(&id);
        if old.is_some() && !self.neighbours(&id).any(|other| other.cidr() == id.cidr()) {
            self.index.subnet_goes(id.space(), id.cidr());
        }
        old
    }

    /// Sets or removes a slot and returns what was there.
    fn set_slot(&mut self, space: Space, address: IpAddr, slot: Option<Slot>) -> Option<Slot> {
        let key = (space, address);
        let old = self.slots.remove(&key);
        if let Some(old) = &old {
            self.index.slot_goes(space, address, old);
        }
        if let Some(slot) = slot {
            self.index.slot_comes(space, address, &slot);
            self.slots.insert(key, slot);
        }
        old
    }

    /// The pools next to this one in the order of addresses, of the same space: at most two.
    fn neighbours(&self, id: &PoolId) -> impl Iterator<Item = &PoolId> + '_ {
        let space = id.space();
        let below = self.pools.range(..id).next_back();
        let above = self.pools.range((Bound::Excluded(id), Bound::Unbounded)).next();
        below
            .into_iter()
            .chain(above)
            .map(|(other, _)| other)
            .filter(move |other| other.space() == space)
    }

    /// A pool that shares addresses with this one (which may itself be there). As the pools that are there are
    /// disjoint, one that overlaps can only stand right next to it.
    pub(crate) fn overlapping(&self, id: &PoolId) -> Option<PoolId> {
        let overlap = |a: ipnet::IpNet, b: ipnet::IpNet| a.contains(&b) || b.contains(&a);
        self.neighbours(id)
            .copied()
            .find(|other| match other.cidr() == id.cidr() {
                true => overlap(other.extent(), id.extent()),
                false => overlap(other.cidr(), id.cidr()),
            })
    }

    /// Which of the pools on the subnet of `id` gives this address, if one does: at most one, as their ranges are
    /// disjoint.
    pub(crate) fn giver(&self, id: &PoolId, address: IpAddr) -> Option<PoolId> {
        let single = address.into();
        // The last pool of the subnet that begins at or before the address. A whole subnet sorts before its ranges.
        let bound = PoolId::new(id.space(), id.cidr(), Some(single)).ok()?;
        let (found, _) = self.pools.range(..=bound).next_back()?;
        (found.space() == id.space() && found.cidr() == id.cidr() && found.gives(address)).then_some(*found)
    }
}
