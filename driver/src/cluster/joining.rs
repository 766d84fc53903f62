//! Becoming a member: what the one at the door says, and what it is told.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tombolo_cluster::HostId;
use tombolo_cluster::charter::Charter;
use tombolo_cluster::membership::Seat;
use tombolo_cluster::wire::{decode, encode};

use super::{calls, certs, token::Token};

/// What the one at the door says.
#[derive(Clone, Serialize, Deserialize)]
pub struct Asking {
    /// The identifier that it has drawn.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// The SHA-256 of its public key.
    pub key: [u8; 32],
    /// The token.
    pub token: String,
    /// Whether its settings name a store that decides.
    pub by_store: bool,
}

/// What it is told.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// It is a member now.
    Welcome {
        /// The text of the cluster's secret.
        secret: String,
        /// What was decided.
        charter: Box<Charter>,
        /// Where others are reached.
        seats: Vec<Seat>,
    },
    /// It is not let in.
    Refused(String),
    /// The identifier that it has drawn is of a host that is gone for good: it was let in before, and did not hear of it.
    Gone(String),
}

/// Asks to be let in. That it is the cluster of the token which answers is proved.
///
/// # Errors
/// Why not, in words.
pub async fn ask(address: SocketAddr, token: &Token, asking: &Asking) -> Result<Answer, String> {
    let stream = calls::connect(address).await.map_err(|e| e.to_string())?;
    let shaken = certs::join(stream, token.authority()).await;
    let mut stream = shaken.map_err(|e| format!("{address}: {}", crate::http::chain(&e)))?;
    let talk = async {
        calls::write(&mut stream, None, &encode(asking)).await?;
        calls::read(&mut stream).await
    };
    let answer = calls::in_time(talk)
        .await
        .map_err(|e| format!("{address}: {e}"))?;
    decode(&answer)
        .ok_or_else(|| format!("{address}: an answer that can't be read; is it of another version?"))
}
