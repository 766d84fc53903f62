//! All pools and all slots, the edits that change them, and the way back from the store.
//!
//! ```text
//!   request --decide(&self)--> answer + edits --store: one transaction--> apply(&mut self), edit by edit
//!                                                                             └─> inverse edits, to go back
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;

use ipnet::IpNet;

use crate::index::{Held, Index};
use crate::pool::{Pool, PoolId, Space};
use crate::prefix::common;
use crate::range::span;
use crate::share::{Misfit, Share, mended};
use crate::slot::{Slot, Use};

/// A change of one record: it is set to a value, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Of a pool.
    Pool(PoolId, Option<Pool>),
    /// Of an address.
    Slot(Space, IpAddr, Option<Slot>),
    /// Of this host's share of a cluster pool, which is named by its subnet.
    Share(IpNet, Option<Share>),
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
    /// A share whose pool has bits beyond its prefix length, or overlaps another share's.
    #[error("stored share of pool {left_out} was left out: {}", shared_with(.kept))]
    Share {
        /// The pool.
        left_out: IpNet,
        /// The pool whose share was kept, if it is one that overlaps.
        kept: Option<IpNet>,
    },
    /// A piece or gift of a share that cannot be.
    #[error("stored piece {net} of the share of pool {pool} was left out: {why}")]
    Piece {
        /// The pool.
        pool: IpNet,
        /// The piece.
        net: IpNet,
        /// Why it cannot be.
        why: Misfit,
    },
}

/// Why a share was left out.
fn shared_with(kept: &Option<IpNet>) -> String {
    match kept {
        Some(kept) => format!("it overlaps the stored share of pool {kept}"),
        None => "the pool has bits set beyond its prefix length".to_owned(),
    }
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// How many addresses it has leased, those outside its range with them.
    pub leased: usize,
    /// How many addresses cool after use.
    pub cooling: usize,
    /// How many it can still give without their being named, the cooling ones with them; at most `u64::MAX`. Of a
    /// cluster pool only those in settled pieces of this host.
    pub free: u64,
}

/// Which address is whose. The key of a slot *is* the address, so no address can be held twice in one space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ipam {
    pools: BTreeMap<PoolId, Pool>,
    slots: BTreeMap<(Space, IpAddr), Slot>,
    shares: BTreeMap<IpNet, Share>,
    pub(crate) index: Index,
}

impl Ipam {
    /// Takes up what was stored. What cannot be is left out and told: one damaged record must not keep the rest from
    /// its owners.
    pub fn restore(
        pools: BTreeMap<PoolId, Pool>,
        slots: BTreeMap<(Space, IpAddr), Slot>,
        shares: BTreeMap<IpNet, Share>,
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
        for (pool, share) in shares {
            // They come in their order, so one that overlaps a share that was kept overlaps the last of them.
            let last = ipam.shares.keys().next_back().copied();
            let kept = last.filter(|last| common(*last, pool).is_some());
            if kept.is_some() || pool != pool.trunc() {
                let left_out = pool;
                problems.push(Problem::Share { left_out, kept });
                continue;
            }
            let (share, misfits) = mended(pool, share);
            let told = misfits.into_iter();
            problems.extend(told.map(|(net, why)| Problem::Piece { pool, net, why }));
            ipam.apply(Edit::Share(pool, Some(share)));
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

    /// This host's shares of cluster pools, by subnet. A host can have one of a pool that it has no network on.
    pub fn shares(&self) -> &BTreeMap<IpNet, Share> {
        &self.shares
    }

    /// This host's share of a cluster pool.
    pub fn share(&self, cidr: IpNet) -> Option<&Share> {
        self.shares.get(&cidr)
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
        let free = id.window().map_or(0, |(first, last)| match self.share_of(id) {
            Some(share) => share
                .spans(first, last)
                .map(|(first, last)| self.free_between(id.space(), first, last))
                .fold(0, u64::saturating_add),
            None => self.free_between(id.space(), first, last),
        });
        Fill {
            leased: held.map_or(0, |h| h.leased.len()),
            cooling: held.map_or(0, |h| h.cooling.len()),
            free,
        }
    }

    /// How many addresses from `first` to `last`, both counted, are not leased; at most `u64::MAX`.
    fn free_between(&self, space: Space, first: IpAddr, last: IpAddr) -> u64 {
        let slots = self.slots.range((space, first)..=(space, last));
        let leased = slots.filter(|(_, slot)| matches!(slot, Slot::Leased { .. }));
        span(first, last).saturating_sub(leased.count() as u64)
    }

    /// The slots of this host's own space from `first` to `last`, both counted.
    pub(crate) fn slots_in(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = (IpAddr, &Slot)> {
        let slots = self.slots.range((Space::Local, first)..=(Space::Local, last));
        slots.map(|((_, address), slot)| (*address, slot))
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
            Edit::Share(cidr, share) => {
                let old = match share {
                    Some(share) => self.shares.insert(cidr, share),
                    None => self.shares.remove(&cidr),
                };
                Edit::Share(cidr, old)
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
