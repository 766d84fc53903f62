//! What a host has promised and accepted for the slot that is open. It must be on disk before anybody hears of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tombolo_ipam::HostId;

use crate::charter::Decree;

/// A proposal's number: of two the higher one wins. No two hosts make the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// The round; 0 is below all proposals.
    pub round: u64,
    /// Who proposes.
    pub host: HostId,
}

impl Ballot {
    /// Below all proposals.
    pub const NONE: Self = Self {
        round: 0,
        host: HostId::from_bytes([0; 16]),
    };
}

/// A host's durable part in deciding one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptor {
    /// The slot.
    pub slot: u64,
    /// The host takes part in no proposal below this one.
    pub promised: Ballot,
    /// The hosts that any proposal of this slot, promised or accepted, would forget. All of them, not those of the
    /// latest only: an earlier proposal may have been accepted elsewhere, and may still be the one that is decided.
    pub frozen: BTreeSet<HostId>,
    /// The last decree that the host accepted, and in which proposal.
    pub accepted: Option<(Ballot, Decree)>,
}

impl Acceptor {
    /// One that has promised nothing.
    pub fn of(slot: u64) -> Self {
        Self {
            slot,
            promised: Ballot::NONE,
            frozen: BTreeSet::new(),
            accepted: None,
        }
    }

    /// Promises; gives whether anything changed, or the higher proposal that stands against it.
    pub(super) fn promise(&mut self, ballot: Ballot, intent: &Decree) -> Result<bool, Ballot> {
        if ballot < self.promised {
            return Err(self.promised);
        }
        let before = (self.promised, self.frozen.len());
        self.promised = ballot;
        self.frozen.extend(intent.lost());
        Ok(before != (self.promised, self.frozen.len()))
    }

    /// Accepts; gives whether anything changed, or the higher proposal that stands against it.
    pub(super) fn accept(&mut self, ballot: Ballot, decree: &Decree) -> Result<bool, Ballot> {
        if ballot < self.promised {
            return Err(self.promised);
        }
        if self
            .accepted
            .as_ref()
            .is_some_and(|(accepted, _)| *accepted == ballot)
        {
            return Ok(false);
        }
        self.promised = ballot;
        self.frozen.extend(decree.lost());
        self.accepted = Some((ballot, decree.clone()));
        Ok(true)
    }

    /// Takes over what another host has promised and accepted, as if this one had as well; gives whether anything changed.
    /// What was accepted is told to whoever asks, also where a higher proposal was promised since.
    pub(super) fn recall(&mut self, other: &Self) -> bool {
        let before = self.clone();
        if let Some((ballot, decree)) = &other.accepted
            && self.accepted.as_ref().is_none_or(|(own, _)| own < ballot)
        {
            self.frozen.extend(decree.lost());
            self.promised = self.promised.max(*ballot);
            self.accepted = Some((*ballot, decree.clone()));
        }
        self.frozen.extend(&other.frozen);
        self.promised = self.promised.max(other.promised);
        before != *self
    }

    /// Whether the slot should be brought to an end even if nobody wants anything: something may be decided already
    /// that nobody has heard of, or hosts are frozen.
    pub(super) fn half_way(&self) -> bool {
        self.accepted.is_some() || !self.frozen.is_empty()
    }
}
