//! What hosts say to decide something, and bytes that became a word.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tombolo_ipam::HostId;

use super::acceptor::Ballot;
use crate::charter::{Decree, Held, TooMuch, check_shares, most};

/// Most bytes of an encoded word.
pub const WORD_MAX: usize = 1024 * 1024;
/// Most objections of a host to one decree; further ones are left out.
pub const OBJECTIONS_MAX: usize = 8;
/// Most bytes of an objection; it is cut there.
pub const OBJECTION_MAX: usize = 256;

/// Shares as witnessed, by host and pool.
pub type Shares = BTreeMap<HostId, BTreeMap<IpNet, Held>>;

/// One message between two hosts of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Will you take part in this proposal, and have you anything against its intent?
    Prepare {
        /// The slot.
        slot: u64,
        /// The proposal.
        ballot: Ballot,
        /// What the proposer wants.
        intent: Decree,
    },
    /// I will, and in none below it.
    Promise {
        /// The slot.
        slot: u64,
        /// The proposal.
        ballot: Ballot,
        /// What I have accepted in this slot before.
        accepted: Option<(Ballot, Decree)>,
        /// The shares of the hosts that the intent would forget, as I have witnessed them; I witness nothing newer of
        /// them until the slot is decided. Of others what a decree needs besides.
        held: Shares,
    },
    /// I have something against the intent. I have promised nothing.
    Object {
        /// The slot.
        slot: u64,
        /// The proposal.
        ballot: Ballot,
        /// What.
        why: Vec<String>,
    },
    /// Accept this decree.
    Accept {
        /// The slot.
        slot: u64,
        /// The proposal.
        ballot: Ballot,
        /// The decree.
        decree: Decree,
    },
    /// I have accepted.
    Accepted {
        /// The slot.
        slot: u64,
        /// The proposal.
        ballot: Ballot,
    },
    /// I have promised myself to a higher proposal.
    Refuse {
        /// The slot.
        slot: u64,
        /// The proposal that is refused.
        ballot: Ballot,
        /// The higher one.
        promised: Ballot,
    },
    /// This was decided.
    Decided {
        /// The slot.
        slot: u64,
        /// The decree.
        decree: Decree,
    },
    /// My charter has this index: tell me what comes after it.
    Behind {
        /// The index.
        index: u64,
    },
    /// My charter has this index: if yours is older, take mine.
    At {
        /// The index.
        index: u64,
    },
}

/// Why bytes are no word, or a word cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoWord {
    /// More of something than is allowed.
    #[error("a word that is too large")]
    TooMuch(#[from] TooMuch),
    /// Not the bytes of a word.
    #[error("these {bytes} bytes are no word")]
    Unreadable {
        /// How many came.
        bytes: usize,
        /// What the decoder found.
        source: postcard::Error,
    },
}

impl Word {
    /// Its bytes, to send.
    pub fn encode(&self) -> Result<Vec<u8>, NoWord> {
        let bytes = postcard::to_allocvec(self).map_err(|source| NoWord::Unreadable { bytes: 0, source })?;
        most("bytes of a word", bytes.len(), WORD_MAX)?;
        Ok(bytes)
    }

    /// The word of these bytes, whoever they came from. Needs memory in proportion to the bytes, which are limited.
    pub fn decode(bytes: &[u8]) -> Result<Self, NoWord> {
        most("bytes of a word", bytes.len(), WORD_MAX)?;
        let unreadable = |source| NoWord::Unreadable {
            bytes: bytes.len(),
            source,
        };
        let (word, rest): (Self, _) = postcard::take_from_bytes(bytes).map_err(unreadable)?;
        most("bytes after a word", rest.len(), 0)?;
        word.check()?;
        Ok(word)
    }

    fn check(&self) -> Result<(), TooMuch> {
        match self {
            Self::Prepare { intent: decree, .. }
            | Self::Accept { decree, .. }
            | Self::Decided { decree, .. } => decree.check(),
            Self::Promise { accepted, held, .. } => {
                check_shares(held.values())?;
                accepted.iter().try_for_each(|(_, decree)| decree.check())
            }
            Self::Object { why, .. } => {
                most("objections", why.len(), OBJECTIONS_MAX)?;
                why.iter()
                    .try_for_each(|why| most("bytes of an objection", why.len(), OBJECTION_MAX))
            }
            Self::Accepted { .. } | Self::Refuse { .. } | Self::Behind { .. } | Self::At { .. } => Ok(()),
        }
    }
}

/// Objections, cut to what a word may hold.
pub(super) fn cut(mut why: Vec<String>) -> Vec<String> {
    why.truncate(OBJECTIONS_MAX);
    for text in &mut why {
        let end = (0..=OBJECTION_MAX)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        if text.len() > OBJECTION_MAX {
            text.truncate(end);
        }
    }
    why
}
