//! From what travels to bytes and back. Bytes from elsewhere may be anything.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::exchange::{Delta, Head};
use super::row::Change;

/// Bytes that are not what they should be. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Garbled {
    /// Too many of them.
    #[error("{what} of {got} bytes: at most {at_most} are allowed")]
    TooLong {
        /// What they should be.
        what: &'static str,
        /// How many they are.
        got: usize,
        /// The limit.
        at_most: usize,
    },
    /// They cannot be read.
    #[error("{what} of {got} bytes cannot be read")]
    Unreadable {
        /// What they should be.
        what: &'static str,
        /// How many they are.
        got: usize,
        /// Where reading ended.
        #[source]
        source: postcard::Error,
    },
    /// It cannot be written, which none of the types here gives cause for.
    #[error("{what} cannot be encoded")]
    Unwritable {
        /// What it is.
        what: &'static str,
        /// Why.
        #[source]
        source: postcard::Error,
    },
    /// They can be read, and more follows.
    #[error("{what} of {got} bytes ends {over} bytes before its end")]
    Trailing {
        /// What they should be.
        what: &'static str,
        /// How many they are.
        got: usize,
        /// How many are too many.
        over: usize,
    },
    /// A record of which some bits changed since it was written.
    #[error("{what} of {got} bytes does not agree with its check sum")]
    Damaged {
        /// What they should be.
        what: &'static str,
        /// How many they are.
        got: usize,
    },
}

/// What goes on the wire as postcard. Reading it allocates no more than a small multiple of its bytes and a megabyte.
pub trait Wire: Serialize + DeserializeOwned {
    /// What it is, for messages.
    const WHAT: &'static str;

    /// Its bytes.
    ///
    /// # Errors
    /// [`Garbled::Unwritable`], rather than a panic.
    fn encode(&self) -> Result<Vec<u8>, Garbled> {
        postcard::to_stdvec(self).map_err(|source| Garbled::Unwritable {
            what: Self::WHAT,
            source,
        })
    }

    /// What the bytes say, all of them, if they are at most `at_most`.
    ///
    /// # Errors
    /// [`Garbled`]: too long, unreadable, or more than it takes.
    fn decode(bytes: &[u8], at_most: usize) -> Result<Self, Garbled> {
        let (what, got) = (Self::WHAT, bytes.len());
        if got > at_most {
            return Err(Garbled::TooLong { what, got, at_most });
        }
        match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(Garbled::Trailing {
                what,
                got,
                over: rest.len(),
            }),
            Err(source) => Err(Garbled::Unreadable { what, got, source }),
        }
    }
}

impl Wire for Change {
    const WHAT: &'static str = "a change";
}

impl Wire for Delta {
    const WHAT: &'static str = "a delta";
}

impl Wire for Vec<Head> {
    const WHAT: &'static str = "a list of heads";
}
