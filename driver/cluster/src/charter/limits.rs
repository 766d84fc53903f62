//! How much a decree and a charter may hold, and bytes that became one.

use super::{Charter, Decree, Definition, Held};

/// Most hosts of a cluster.
pub const HOSTS_MAX: usize = 4096;
/// Most pools that span hosts.
pub const POOLS_MAX: usize = 4096;
/// Most hosts that are remembered after they went.
pub const GONE_MAX: usize = 10_000;
/// Most bytes of an encoded decree.
pub const DECREE_MAX: usize = 512 * 1024;
/// Most bytes of the shares that one host tells for one decree, encoded.
pub const HELD_MAX: usize = 256 * 1024;
/// Most bytes of an encoded charter.
pub const CHARTER_MAX: usize = 32 * 1024 * 1024;

const LOST_MAX: usize = 256;
const NAME_MAX: usize = 255;
const KIND_MAX: usize = 32;
const AUX_MAX: usize = 1024;
const PIECES_MAX: usize = 16_384;

/// More of something than is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {got}, and at most {most} are allowed")]
pub struct TooMuch {
    /// Of what.
    pub what: &'static str,
    /// How much came.
    pub got: usize,
    /// How much may.
    pub most: usize,
}

/// Why bytes are no charter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCharter {
    /// More than is allowed.
    #[error("no charter")]
    TooMuch(#[from] TooMuch),
    /// Not the bytes of one.
    #[error("these {bytes} bytes are no charter")]
    Unreadable {
        /// How many came.
        bytes: usize,
        /// What the decoder found.
        source: postcard::Error,
    },
}

pub(crate) fn most(what: &'static str, got: usize, most: usize) -> Result<(), TooMuch> {
    match got > most {
        true => Err(TooMuch { what, got, most }),
        false => Ok(()),
    }
}

/// How many bytes a value has when it is encoded.
pub(crate) fn size<T: serde::Serialize>(value: &T) -> usize {
    postcard::experimental::serialized_size(value).unwrap_or(usize::MAX)
}

impl Decree {
    /// Whether it keeps to the limits, its encoded size among them.
    pub fn check(&self) -> Result<(), TooMuch> {
        match self {
            Self::Nothing | Self::Leave { .. } | Self::Dissolve { .. } | Self::Secret { .. } => Ok(()),
            Self::Join { name, .. } => most("bytes of a host's name", name.len(), NAME_MAX),
            Self::Found { definition, .. } => definition.check(),
            Self::Define {
                before, definition, ..
            } => before.check().and_then(|()| definition.check()),
            Self::Forget { hosts, shares, .. } => {
                most("hosts to forget at once", hosts.len(), LOST_MAX)?;
                most("hosts with shares", shares.len(), HOSTS_MAX)?;
                check_shares(shares.values())?;
                most("bytes of a decree", size(self), DECREE_MAX)
            }
        }
    }
}

/// Whether the shares that a word or a decree carries keep to the limits.
pub(crate) fn check_shares<'a>(
    shares: impl Iterator<Item = &'a std::collections::BTreeMap<ipnet::IpNet, Held>>,
) -> Result<(), TooMuch> {
    let pieces = |held: &Held| held.pieces.len().saturating_add(held.gifts.len());
    let sum = shares
        .flat_map(|share| share.values())
        .map(pieces)
        .fold(0, usize::saturating_add);
    most("pieces and gifts in all", sum, PIECES_MAX)
}

impl Definition {
    fn check(&self) -> Result<(), TooMuch> {
        most("bytes of a network's kind", self.kind.len(), KIND_MAX)?;
        most(
            "bytes of a network's name",
            self.net.as_ref().map_or(0, String::len),
            NAME_MAX,
        )?;
        most("aux addresses", self.aux.len(), AUX_MAX)
    }
}

impl Charter {
    /// Its bytes, to send or to keep.
    pub fn encode(&self) -> Result<Vec<u8>, NoCharter> {
        most("bytes of a charter", size(self), CHARTER_MAX)?;
        postcard::to_allocvec(self).map_err(|source| NoCharter::Unreadable { bytes: 0, source })
    }

    /// The charter of these bytes, whoever they came from.
    pub fn decode(bytes: &[u8]) -> Result<Self, NoCharter> {
        most("bytes of a charter", bytes.len(), CHARTER_MAX)?;
        let unreadable = |source| NoCharter::Unreadable {
            bytes: bytes.len(),
            source,
        };
        let (charter, rest): (Self, _) = postcard::take_from_bytes(bytes).map_err(unreadable)?;
        most("bytes after a charter", rest.len(), 0)?;
        most("hosts of the cluster", charter.hosts.len(), HOSTS_MAX)?;
        most("pools of the cluster", charter.pools.len(), POOLS_MAX)?;
        most("hosts that are gone", charter.gone.len(), GONE_MAX)?;
        charter
            .pools
            .values()
            .try_for_each(|founded| founded.definition.check())?;
        Ok(charter)
    }
}
