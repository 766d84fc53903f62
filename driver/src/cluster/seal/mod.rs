//! Datagrams between members: sealed, bound to whom they are for, and taken once.
//!
//! ```text
//!   'tb' │ version 1 │ kind 1 │ secret's number 4 │ sender 16 │ epoch 4 │ instance 8 │ counter 8 │ sealed ... │ MAC 16
//!   └───────────────── header, 44 bytes, in clear, covered by the MAC ─────────────────────────┘
//! ```
//!
//! AES-256-GCM under a key of its own for each run of a sender: HKDF of the secret, the sender, its epoch and its
//! instance. An *epoch* counts a host's starts and is kept on its disk; an *instance* is drawn at each start. So the
//! nonce can be the counter, even if a disk was put back to an earlier day. A datagram of kind 0 is to one host, whose
//! identifier is covered by the MAC and not sent; one of kind 1 is to all.
//!
//! A datagram has 60 bytes more than what it carries. [`DATAGRAM_MAX`] is what the least path of IPv6 carries whole
//! (1,280 bytes less 48 for IPv6 and UDP), so that no path that carries IPv6 at all needs fragments, with a tunnel in it
//! or not.
//!
//! Limits: whoever holds the secret can seal in any member's name. What an attacker has held back on its way, without
//! letting it through, is new to its recipient later. A run seals 2⁴⁰ datagrams (10,000 a second for three years) before
//! the odds of telling its sealed bytes from random ones reach 2⁻³⁶.

mod header;
#[cfg(test)]
mod mangled;
mod open;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;
use std::net::SocketAddr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use tombolo_cluster::HostId;

use super::Refused;
use super::secret::{Secret, mac};
use header::{HEADER, Header, TAG};
pub use header::{MAGIC, To, VERSION};
pub use open::{Counts, Opened, Opener};
pub use window::REACH;

/// The longest datagram, in bytes.
pub const DATAGRAM_MAX: usize = 1232;
/// How many bytes a datagram has more than what it carries.
pub const OVERHEAD: usize = HEADER + TAG;
/// The most that a datagram carries, in bytes.
pub const PLAIN_MAX: usize = DATAGRAM_MAX - OVERHEAD;

/// One start of a host's daemon: 8 random bytes, drawn at each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance(pub [u8; 8]);

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// How far a sender was heard: what to keep, so that a restart takes nothing twice that came before it was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// The highest epoch.
    pub epoch: u32,
    /// Its instance.
    pub instance: Instance,
    /// The highest counter of it.
    pub counter: u64,
}

/// Why a datagram was not taken. Up to `Mac` nothing is proved: whoever sent it may have written what it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Too short for a header and a MAC.
    #[error("shorter than {OVERHEAD} bytes")]
    Short,
    /// Longer than any that is sent.
    #[error("longer than {DATAGRAM_MAX} bytes")]
    Long,
    /// It begins otherwise: something else came to our port.
    #[error("not one of ours")]
    Magic,
    /// A version or kind that this program doesn't know.
    #[error("of an unknown version")]
    Version,
    /// The sender is not a member, or this host itself.
    #[error("from nobody who is another member")]
    Sender,
    /// Sealed with a secret that isn't valid any more.
    #[error("sealed with a key that was in force earlier")]
    OldKey,
    /// Sealed with a secret that this host hasn't got: it may have missed a rotation.
    #[error("sealed with a key that this host hasn't got")]
    NewKey,
    /// Of an epoch before the sender's last, and not the one heard before it.
    #[error("of an earlier start of {sender}: epoch {epoch}")]
    OldEpoch {
        /// Who is said to have sent it.
        sender: HostId,
        /// The epoch it claims.
        epoch: u32,
    },
    /// Seen before, or so far behind that it can't be told.
    #[error("seen before, or too late to tell")]
    Replay,
    /// Changed, for another host, or not sealed with the cluster's secret.
    #[error("its seal is broken, or it is for another host")]
    Mac,
    /// Genuine, of the sender's epoch, but of another instance: two hosts run with one identifier and one state.
    #[error("{sender} runs twice: {from} is another instance of epoch {epoch}")]
    Clone {
        /// The identifier.
        sender: HostId,
        /// The epoch of both.
        epoch: u32,
        /// Where the other one's datagram came from; addresses can be forged.
        from: SocketAddr,
    },
    /// Genuine and new, of the run before the sender's present one, which should have ended before that began.
    ///
    /// One may have been held up on its way; evidence of two hosts with one identifier are several, over some time,
    /// whose counters rise.
    #[error("{sender} runs twice: {from} still speaks in epoch {epoch}, and a later one has begun")]
    StillAlive {
        /// The identifier.
        sender: HostId,
        /// The earlier epoch.
        epoch: u32,
        /// The datagram's counter, higher than all heard of that run.
        counter: u64,
        /// Where it came from; addresses can be forged.
        from: SocketAddr,
    },
}

impl Why {
    /// The reason in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Sender => "sender",
            Self::OldKey => "old_key",
            Self::NewKey => "new_key",
            Self::OldEpoch { .. } => "old_epoch",
            Self::Replay => "replay",
            Self::Mac => "mac",
            Self::Clone { .. } => "clone",
            Self::StillAlive { .. } => "still_alive",
        }
    }
}

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too much for a datagram.
    #[error("{got} bytes don't fit a datagram: {PLAIN_MAX} are allowed")]
    Long {
        /// How many came.
        got: usize,
    },
    /// All counters are used up.
    #[error("this run has sealed all datagrams that one can: a restart makes another")]
    Spent,
    /// The library.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// A secret's root of the keys of runs.
struct Root {
    number: u32,
    key: hmac::Key,
}

impl Root {
    fn new(secret: &Secret) -> Self {
        let key = secret.derive("datagrams", &[]);
        Self {
            number: secret.number(),
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()),
        }
    }

    /// The key of a run.
    fn key(&self, sender: HostId, epoch: u32, instance: Instance) -> Result<LessSafeKey, Refused> {
        let (sender, epoch) = (sender.bytes(), epoch.to_be_bytes());
        let key = mac(&self.key, [sender.as_slice(), &epoch, &instance.0, &[1]]);
        match UnboundKey::new(&AES_256_GCM, key.as_slice()) {
            Ok(key) => Ok(LessSafeKey::new(key)),
            Err(_) => Err(Refused {
                doing: "making the key of a run",
            }),
        }
    }
}

/// A counter as a nonce. No counter is used twice under a key.
fn nonce(counter: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = counter.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

/// This host's hand: seals what it sends. One for each start; a second with the same epoch and instance would repeat
/// nonces.
pub struct Sealer {
    me: HostId,
    epoch: u32,
    instance: Instance,
    counter: u64,
    number: u32,
    key: LessSafeKey,
}

impl Sealer {
    /// Seals as `me` in its start `epoch`, which is durable by now, with an instance that was just drawn.
    pub fn new(secret: &Secret, me: HostId, epoch: u32, instance: Instance) -> Result<Self, Refused> {
        let key = Root::new(secret).key(me, epoch, instance)?;
        Ok(Self {
            me,
            epoch,
            instance,
            counter: 0,
            number: secret.number(),
            key,
        })
    }

    /// From now on seals with another secret. The counter goes on, so that recipients go on as well.
    pub fn rotate(&mut self, secret: &Secret) -> Result<(), Refused> {
        self.key = Root::new(secret).key(self.me, self.epoch, self.instance)?;
        self.number = secret.number();
        Ok(())
    }

    /// The number of the secret that it seals with.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many datagrams it has sealed.
    pub fn sealed(&self) -> u64 {
        self.counter
    }

    /// A datagram of at most [`DATAGRAM_MAX`] bytes.
    pub fn seal(&mut self, to: To, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::with_capacity(plain.len().min(PLAIN_MAX) + OVERHEAD);
        self.seal_into(to, plain, &mut out)?;
        Ok(out)
    }

    /// The same into a buffer, whose content it replaces. After an error it is empty.
    pub fn seal_into(&mut self, to: To, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.clear();
        if plain.len() > PLAIN_MAX {
            return Err(Error::Long { got: plain.len() });
        }
        let counter = self.counter.checked_add(1).ok_or(Error::Spent)?;
        // Whatever comes of it, this nonce isn't used again.
        self.counter = counter;
        let header = Header {
            to_all: to == To::All,
            number: self.number,
            sender: self.me,
            epoch: self.epoch,
            instance: self.instance,
            counter,
        };
        out.extend_from_slice(&header.bytes());
        out.extend_from_slice(plain);
        let (_, body) = out.split_at_mut(HEADER);
        match self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(header.bound(to)), body)
        {
            Ok(tag) => {
                out.extend_from_slice(tag.as_ref());
                Ok(())
            }
            Err(_) => {
                // What is left may still be in clear.
                out.clear();
                Err(Refused {
                    doing: "sealing a datagram",
                }
                .into())
            }
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Sealer({:?}, epoch {}, key {}, {} sealed)",
            self.me, self.epoch, self.number, self.counter
        )
    }
}
