//! Datagrams that come: opened, passed on to the node, or signs that something is wrong with their sender.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tombolo_cluster::HostId;
use tombolo_cluster::node::Input;

use super::{ASK_SECRET, Part};
use crate::cluster::seal::Why;
use crate::cluster::ways::Word;

/// How many datagrams are taken in one go before anything else has its turn.
const BURST: usize = 256;

/// How often two hosts with one identifier are told of each other.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// Signs that two hosts have one identifier.
pub(super) struct Suspicion {
    signs: u32,
    first: Instant,
    told: Option<Instant>,
}

impl Part {
    /// Takes what has come, as much as may be in one go.
    pub(super) async fn datagrams(&mut self, udp: &UdpSocket, buffer: &mut [u8]) -> Result<(), String> {
        for _ in 0..BURST {
            let (length, from) = match udp.try_recv_from(buffer) {
                Ok(got) => got,
                // Nothing more, or a report of what was sent before.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => continue,
            };
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            let now = self.now();
            let Some(bytes) = buffer.get_mut(..length) else {
                continue;
            };
            self.noted.received(length);
            let opened = self.opener.open(now, from, bytes);
            if let Err(why) = &opened {
                self.noted.dropped(why, from);
            }
            let input = match opened {
                Ok(opened) => {
                    self.keep_heard |= opened.first;
                    let (sender, bytes) = (opened.sender, opened.plain.to_vec());
                    if let Some(word) = Word::decode(&bytes) {
                        self.word(sender, from, word);
                        continue;
                    }
                    // By whichever way it came, it is answered by the best.
                    let address = SocketAddr::new(self.ways.standing_for(&sender, from.ip()), from.port());
                    self.heard_at.insert(sender, address);
                    Input::Datagram {
                        from: sender,
                        address,
                        bytes,
                    }
                }
                Err(Why::Clone { sender, from, .. } | Why::StillAlive { sender, from, .. }) => {
                    match self.suspect(sender, from) {
                        Some(input) => input,
                        None => continue,
                    }
                }
                Err(Why::OldEpoch { sender, .. }) => match self.is_behind(sender, from) {
                    Some(input) => input,
                    None => continue,
                },
                Err(Why::NewKey) => {
                    self.ask_secret();
                    continue;
                }
                Err(_) => continue,
            };
            self.step(input).await?;
            if std::mem::take(&mut self.keep_heard) {
                self.keep_heard().await.map_err(|e| e.to_string())?;
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Signs that a host runs twice: one may be a datagram that was held up, several over some time are proof.
    fn suspect(&mut self, host: HostId, from: SocketAddr) -> Option<Input> {
        let now = Instant::now();
        let suspicion = self.clones.entry(host).or_insert(Suspicion {
            signs: 0,
            first: now,
            told: None,
        });
        if now.duration_since(suspicion.first) > Duration::from_secs(60) {
            *suspicion = Suspicion {
                signs: 0,
                first: now,
                told: suspicion.told,
            };
        }
        suspicion.signs = suspicion.signs.saturating_add(1);
        let proof = suspicion.signs >= 3 && now.duration_since(suspicion.first) > Duration::from_secs(1);
        let told = suspicion
            .told
            .is_some_and(|told| now.duration_since(told) < TELL_AGAIN);
        if !proof || told {
            return None;
        }
        suspicion.told = Some(now);
        let other = self.heard_at.get(&host).copied().unwrap_or(from);
        self.noted.cloned(host, from, other);
        Some(Input::Cloned {
            host,
            one: from,
            other,
            epoch: self.opener.epoch(&host).unwrap_or(0),
        })
    }

    /// A host may speak in an epoch that is over: it is told, now and then, as this is not proved.
    fn is_behind(&mut self, host: HostId, from: SocketAddr) -> Option<Input> {
        let now = Instant::now();
        let told = self.behind.get(&host);
        if told.is_some_and(|told| now.duration_since(*told) < ASK_SECRET) {
            return None;
        }
        let epoch = self.opener.epoch(&host)?;
        self.behind.insert(host, now);
        Some(Input::Behind {
            host,
            address: from,
            epoch,
        })
    }
}
