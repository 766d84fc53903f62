//! A slot: who holds one address, or how long it rests after somebody did.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pool::PoolId;

/// What an address was given for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// The network's gateway.
    Gateway,
    /// A gateway that nobody named: an engine before 28 asks for one, whatever the network is.
    Unnamed,
    /// Kept for something that is no container (Docker's `--aux-address`).
    Aux,
    /// This host itself, on a network where it has an address among its containers.
    Host,
    /// A container.
    Endpoint {
        /// The container's name, where the engine says it (29 and later).
        #[serde(default)]
        name: Option<String>,
    },
}

impl Use {
    /// Whether both are gateways, both auxiliary addresses, both this host or both endpoints.
    pub(crate) fn same_sort(&self, other: &Self) -> bool {
        let sort = |usage: &Self| match usage {
            Self::Unnamed => std::mem::discriminant(&Self::Gateway),
            other => std::mem::discriminant(other),
        };
        sort(self) == sort(other)
    }

    /// Whether it is the gateway's.
    pub fn is_gateway(&self) -> bool {
        matches!(self, Self::Gateway | Self::Unnamed)
    }

    /// Whether it is somebody's who must have an address of this host's own share: a container's, or the host's.
    pub fn is_of_share(&self) -> bool {
        matches!(self, Self::Host | Self::Endpoint { .. })
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway | Self::Unnamed => f.write_str("the gateway"),
            Self::Host => f.write_str("this host"),
            Self::Aux => f.write_str("an auxiliary address"),
            Self::Endpoint { name: Some(name) } => write!(f, "endpoint '{name}'"),
            Self::Endpoint { name: None } => f.write_str("an endpoint"),
        }
    }
}

/// The state of an address that is not simply free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// Somebody has it.
    Leased {
        /// The pool it was asked from. Of two pools on one subnet, the one whose range it lies in may be the other.
        pool: PoolId,
        /// What for.
        usage: Use,
    },
    /// Nobody has it, but somebody had: it is passed over while anything else is free, as neighbours, connection
    /// tracking and caches elsewhere still know it.
    Cooling {
        /// The pool that may give it out: its window holds the address.
        pool: PoolId,
        /// Until when, in seconds of the same clock that requests carry.
        until_s: u64,
    },
}

impl Slot {
    /// The pool that the slot belongs to, and goes with.
    pub fn pool(&self) -> &PoolId {
        match self {
            Self::Leased { pool, .. } | Self::Cooling { pool, .. } => pool,
        }
    }
}
