//! What hosts tell each other of a network, and what each keeps of it.

use serde::{Deserialize, Serialize};
use tombolo_cluster::HostId;

use super::definition::Definition;

/// When somebody made or removed a network: later than all that was known of it there, whatever the clocks say (a hybrid logical
/// clock: Kulkarni et al., 2014).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds of the wall clock, or more.
    pub at: u64,
    /// Where.
    pub by: HostId,
}

/// The latest that a stamp may be: past it nothing later could be said (the year 10,000 is far before).
const LATEST: u64 = 1 << 53;

impl Stamp {
    /// A stamp of this host that is later than another one.
    pub fn next(now_ms: u64, me: HostId, after: Option<&Self>) -> Self {
        let least = after.map_or(0, |after| after.at.saturating_add(1));
        Self {
            at: now_ms.max(least).min(LATEST),
            by: me,
        }
    }
}

/// A network as it was at some time: made so, or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// When.
    pub stamp: Stamp,
    /// What it is; none where it was removed.
    pub definition: Option<Definition>,
}

/// The network of this host's engine that is this network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// The engine.
    pub engine: String,
    /// The network's identifier there.
    pub id: String,
    /// Of which version it is.
    pub stamp: Stamp,
    /// Whether it was made because of another host's.
    #[serde(default)]
    pub made: bool,
}

/// What this host keeps of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The newest version that is known.
    pub version: Version,
    /// What there is of it here.
    pub here: Option<Here>,
    /// What the engine was asked to make, where it is not known yet what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub making: Option<Definition>,
}

/// How it stands with a network on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Standing {
    /// It is there.
    Here,
    /// It is not there, and not to be.
    Gone,
    /// It is about to be made.
    Coming,
    /// It was removed elsewhere, and containers use it here.
    Kept,
    /// Another one was made in its place elsewhere, and containers use the old one here.
    Old,
    /// It can't be made there.
    Refused {
        /// Why, in words.
        why: String,
    },
    /// What a later version of tombolo says.
    #[serde(other)]
    Unknown,
}

impl Standing {
    /// Whether people are to hear of it.
    pub fn is_trouble(&self) -> bool {
        matches!(self, Self::Kept | Self::Old | Self::Refused { .. })
    }
}

/// A host's row about a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The newest version that the host knows.
    pub stamp: Stamp,
    /// Whether it was removed then.
    #[serde(default)]
    pub removed: bool,
    /// What it is. Told by the host where it was made, and by all others where that one doesn't tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Definition>,
    /// How it stands there.
    pub standing: Standing,
}

impl Row {
    /// Reads what another host tells.
    ///
    /// # Errors
    /// Where it is no such row.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let row: Self = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        match row.stamp.at <= LATEST {
            true => Ok(row),
            false => Err(format!("at: {} is too late", row.stamp.at)),
        }
    }

    /// The version, where the row tells all of it.
    pub fn version(&self) -> Option<Version> {
        let told = self.removed || self.definition.is_some();
        told.then(|| Version {
            stamp: self.stamp,
            definition: self.definition.clone().filter(|_| !self.removed),
        })
    }
}
