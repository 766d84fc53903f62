//! Who is in a place of another host's.

use std::collections::BTreeSet;
use std::sync::Arc;

use tombolo_ipam::HostId;

/// A row's name: whose it is, and what that host calls it.
pub(super) type Name = (HostId, Arc<str>);

/// Who is in a place, and when they were heard of.
pub(super) type Holder = (u64, Name);

/// All who are in a place, in the order in which they were heard of. Nearly always that is one, and a set has room for eleven.
#[derive(Debug, Default)]
pub(super) enum Holders {
    #[default]
    None,
    One(Holder),
    Several(BTreeSet<Holder>),
}

impl Holders {
    pub(super) fn insert(&mut self, holder: Holder) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(holder),
            Self::One(one) if one == holder => Self::One(one),
            Self::One(one) => Self::Several(BTreeSet::from([one, holder])),
            Self::Several(mut all) => {
                all.insert(holder);
                Self::Several(all)
            }
        };
    }

    pub(super) fn remove(&mut self, holder: &Holder) {
        match self {
            Self::One(one) if one == holder => *self = Self::None,
            Self::None | Self::One(_) => {}
            Self::Several(all) => drop(all.remove(holder)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::One(_) => false,
            Self::Several(all) => all.is_empty(),
        }
    }

    /// The last one heard of.
    pub(super) fn last(&self) -> Option<&Holder> {
        match self {
            Self::None => None,
            Self::One(one) => Some(one),
            Self::Several(all) => all.last(),
        }
    }
}
