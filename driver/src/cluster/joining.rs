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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tombolo_cluster::charter::Decree;

    use super::*;

    fn host(n: u8) -> HostId {
        HostId::from_bytes([n; 16])
    }

    fn asking() -> Vec<u8> {
        encode(&Asking {
            host: host(2),
            name: "two".to_owned(),
            key: [2; 32],
            token: "tombolo-join-1-whatever".to_owned(),
            by_store: false,
        })
    }

    fn welcome() -> Vec<u8> {
        let mut charter = Charter::founded([7; 16], host(1), "one".to_owned(), [0; 32], [0; 32]);
        let join = Decree::Join {
            host: host(2),
            name: "two".to_owned(),
            key: [2; 32],
        };
        charter.apply(&join).unwrap();
        encode(&Answer::Welcome {
            secret: "no secret".to_owned(),
            charter: Box::new(charter),
            seats: vec![Seat::new(host(1), SocketAddr::from(([10, 0, 0, 1], 7947)), 1)],
        })
    }

    /// What is read of the bytes is written as it was read, and nothing may follow it.
    fn same<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> bool {
        let Some(read) = decode::<T>(bytes) else {
            return false;
        };
        let again = encode(&read);
        let read_again = decode::<T>(&again).map(|read| encode(&read));
        assert_eq!(read_again, Some(again));
        assert!(decode::<T>(&[bytes, &[0]].concat()).is_none());
        true
    }

    #[test]
    fn a_question_and_a_welcome_read_back() {
        assert!(same::<Asking>(&asking()) && same::<Answer>(&welcome()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn changed_and_random_bytes_of_a_stranger_are_a_question_or_none(
            spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4),
            cut in any::<prop::sample::Index>(),
            random in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            for mut bytes in [asking(), welcome()] {
                for (at, by, insert) in &spoils {
                    let at = at.index(bytes.len());
                    if *insert { bytes.insert(at, *by) } else { bytes[at] = *by }
                }
                for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())], &random] {
                    same::<Asking>(bytes);
                    same::<Answer>(bytes);
                }
            }
        }
    }
}
