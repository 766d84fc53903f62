//! How hosts of one cluster know each other on the wire.
//!
//! ```text
//!   Secret ──HKDF──┬─> a key for each run of each sender ──> seal    datagrams: Sealer, Opener
//!   (32 bytes,     ├─> the authority's Ed25519 key ────────> certs   connections: Connector, Acceptor
//!    a number)     ├─> the key of join tokens ─────────────> token   joining: Token
//!                  └─> check, which tells two secrets apart and gives nothing away
//!   HostKey (each host's own) ──> its print stands in the charter, and is what a connection is judged by
//! ```
//!
//! The secret tells members from strangers: whoever holds it can seal datagrams in any member's name. A host's own key
//! tells members apart, on connections; so what must come from one certain member goes over a connection.
//! Time and random bits are handed in, but for TLS itself, which draws its own.

pub mod advertise;
pub mod calls;
pub mod certs;
pub mod etcd;
pub mod handle;
pub mod joining;
pub mod keep;
pub mod notes;
pub mod out;
pub mod part;
pub mod private;
pub mod seal;
pub mod secret;
pub mod shown;
pub mod sight;
pub mod store;
mod task;
pub mod token;
pub mod tunnels;
mod ways;

/// The cryptographic library failed at what cannot fail with the sizes given, such as for lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: the cryptographic library refused, and doesn't say why")]
pub struct Refused {
    /// What was being done.
    pub doing: &'static str,
}

/// Random bytes of the system, for the edges that hand them in: secrets, host keys, instances, nonces of tokens.
pub fn draw<const N: usize>() -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Refused {
            doing: "drawing random bytes",
        }),
    }
}
