//! What follows from the records and is never stored: which subnets and which addresses are taken, and what each pool
//! holds. It makes every question cost the logarithm of what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::pool::{PoolId, Space};
use crate::range::Ranges;
use crate::slot::Slot;

/// A set of addresses for each space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spaces {
    local: Ranges,
    global: Ranges,
}

impl Spaces {
    pub(crate) fn of(&self, space: Space) -> &Ranges {
        match space {
            Space::Local => &self.local,
            Space::Global => &self.global,
        }
    }

    fn of_mut(&mut self, space: Space) -> &mut Ranges {
        match space {
            Space::Local => &mut self.local,
            Space::Global => &mut self.global,
        }
    }
}

/// The slots of one pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// The addresses it has leased.
    pub(crate) leased: BTreeSet<IpAddr>,
    /// Those of the leased ones that are gateways.
    pub(crate) gateways: BTreeSet<IpAddr>,
    /// The addresses that cool, the one that was freed first in front.
    pub(crate) cooling: BTreeSet<(u64, IpAddr)>,
}

/// The derived knowledge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// The subnets of all pools. Neighbouring ones are one range here, so a search jumps over all of them at once.
    pub(crate) subnets: Spaces,
    /// The addresses of all slots.
    pub(crate) taken: Spaces,
    /// The slots of each pool that has any.
    held: BTreeMap<PoolId, Held>,
}

impl Index {
    /// What a pool holds, if anything.
    pub(crate) fn held(&self, pool: &PoolId) -> Option<&Held> {
        self.held.get(pool)
    }

    /// A subnet has its first pool.
    pub(crate) fn subnet_comes(&mut self, space: Space, cidr: IpNet) {
        self.subnets.of_mut(space).insert(cidr);
    }

    /// A subnet has lost its last pool.
    pub(crate) fn subnet_goes(&mut self, space: Space, cidr: IpNet) {
        self.subnets.of_mut(space).remove(cidr);
    }

    /// An address has a slot that it did not have.
    pub(crate) fn slot_comes(&mut self, space: Space, address: IpAddr, slot: &Slot) {
        self.taken.of_mut(space).insert(address.into());
        let held = self.held.entry(*slot.pool()).or_default();
        match slot {
            Slot::Leased { usage, .. } => {
                held.leased.insert(address);
                if usage.is_gateway() {
                    held.gateways.insert(address);
                }
            }
            Slot::Cooling { until_s, .. } => {
                held.cooling.insert((*until_s, address));
            }
        }
    }

    /// An address no longer has the slot that it had.
    pub(crate) fn slot_goes(&mut self, space: Space, address: IpAddr, slot: &Slot) {
        self.taken.of_mut(space).remove(address.into());
        let Some(held) = self.held.get_mut(slot.pool()) else {
            return;
        };
        match slot {
            Slot::Leased { .. } => {
                held.leased.remove(&address);
                held.gateways.remove(&address);
            }
            Slot::Cooling { until_s, .. } => {
                held.cooling.remove(&(*until_s, address));
            }
        }
        if held.leased.is_empty() && held.cooling.is_empty() {
            self.held.remove(slot.pool());
        }
    }
}
