//! What a row is called, what it holds, and how a change of it travels.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tombolo_ipam::HostId;

use super::version::Version;
use crate::time::Tick;

/// A row's name: 1 to 200 of the letters `a-z` and `A-Z`, digits, and `/ . _ : -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// A text that is no row's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{got}' ({length} bytes) is no name of a row: 1 to {} ASCII letters, digits and / . _ : - are allowed",
    Key::LONGEST
)]
pub struct NoKey {
    /// Its beginning.
    pub got: String,
    /// Its length in bytes.
    pub length: usize,
}

impl Key {
    /// The greatest length in bytes.
    pub const LONGEST: usize = 200;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nothing else holds this name.
    pub(super) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl FromStr for Key {
    type Err = NoKey;
    fn from_str(text: &str) -> Result<Self, NoKey> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/._:-".contains(&b);
        if (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(NoKey {
                got: text.chars().take(80).collect(),
                length: text.len(),
            })
        }
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl serde::de::Visitor<'_> for Name {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row's name")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Key, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// What the owner says of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// It is this. The bytes are the owner's, and nobody else's business.
    Body(#[serde(with = "plain_bytes")] Arc<[u8]>),
    /// It is no more. Only the owner says so.
    Removed {
        /// For how many seconds this is still worth telling.
        left_s: u32,
    },
}

/// One change of a row, as it is passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Whose row it is.
    pub origin: HostId,
    /// The change's number. The one before it has the count below, and the first of an epoch voids all older epochs.
    pub version: Version,
    /// The row's name.
    pub key: Key,
    /// What it is now.
    pub content: Content,
}

/// A row as a table keeps it; without a body the owner has removed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub version: Version,
    pub body: Option<Arc<[u8]>>,
}

impl Row {
    /// How many bytes it counts for with its name.
    pub fn size(&self, key: &Key) -> usize {
        key.as_str().len() + self.body.as_ref().map_or(0, |body| body.len())
    }
}

/// The whole seconds from `now` on. Rounded down, so that passing it on never lengthens a life.
pub(super) fn left_s(now: Tick, until: Tick) -> u32 {
    u32::try_from(until.since(now).as_secs()).unwrap_or(u32::MAX)
}

/// When a removal that others passed on is forgotten: no later than one that began now would be.
pub(super) fn until(now: Tick, left_s: u32, life: Duration) -> Tick {
    now + Duration::from_secs(left_s.into()).min(life)
}

/// Bytes as one piece, without an intermediate copy.
mod plain_bytes {
    use super::{Arc, fmt};

    pub fn serialize<S: serde::Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Arc<[u8]>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Arc<[u8]>, E> {
                Ok(bytes.into())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_a_strange_one_says_what_is_allowed() {
        for text in ["a", "share/10.1.0.0/16", "peer/fd00::1_x-Y.9", &"k".repeat(200)] {
            assert_eq!(text.parse::<Key>().unwrap().as_str(), text);
        }
        for text in ["", " ", "a b", "ä", "a\0", "a%", &"k".repeat(201)] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
        assert_eq!(
            "a b".parse::<Key>().unwrap_err().to_string(),
            "'a b' (3 bytes) is no name of a row: 1 to 200 ASCII letters, digits and / . _ : - are allowed"
        );
    }

    #[test]
    fn a_removals_life_is_never_lengthened_by_passing_it_on() {
        let (life, now) = (Duration::from_secs(1800), Tick(5_000));
        assert_eq!(left_s(now, Tick(5_999)), 0);
        assert_eq!(left_s(now, now + life), 1800);
        assert_eq!(left_s(Tick(9_000), now), 0);
        assert_eq!(until(now, u32::MAX, life), now + life);
        assert_eq!(until(now, 3, life), Tick(8_000));
    }
}
