//! The cluster's secret: had from others where it is missing, staged, and turned over.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tombolo_cluster::HostId;
use tombolo_cluster::node::{Input, Wish};
use tombolo_cluster::time::Tick;

use super::door::{doors, trust};
use super::{ASK_SECRET, Came, Part, Rotated};
use crate::cluster::calls::{self, FOR_SECRET, NEXT_SECRET};
use crate::cluster::secret::Secret;

/// How long the secret before is taken after another came into force.
const OVERLAP: Duration = Duration::from_secs(60);

/// A rotation under way.
pub(super) struct Rotation {
    secret: Secret,
    waiting: BTreeSet<HostId>,
    without: Vec<HostId>,
    until: Instant,
    answer: Option<oneshot::Sender<Rotated>>,
}

impl Part {
    pub(super) fn trust_anew(&mut self) {
        match trust(self.node.charter(), &self.secret, self.next.as_ref()) {
            Ok(trust) => self.trust.set(trust),
            Err(error) => tracing::error!(%error, "who is let in could not be made anew"),
        }
    }

    /// Another secret is in force.
    pub(super) fn turn_over(&mut self, secret: Secret) {
        if let Err(error) = self.around.files.turn_over(&secret) {
            tracing::error!(
                error = crate::http::chain(&error),
                "the new key was not written; it is asked for after a restart"
            );
        }
        let until = self.now() + OVERLAP;
        let old = std::mem::replace(&mut self.secret, secret);
        self.opener.set_secrets(&self.secret, Some((&old, until)));
        let doors = doors(self.node.charter(), &self.secret, self.me, &self.key, &self.trust);
        match (self.sealer.rotate(&self.secret), doors) {
            (Ok(()), Ok((acceptor, connector))) => {
                *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                self.connector = connector;
                tracing::info!(
                    number = self.secret.number(),
                    "another key of the cluster is in force"
                );
            }
            (sealed, doors) => {
                let why = sealed
                    .err()
                    .map(|e| e.to_string())
                    .or(doors.err().map(|e| e.to_string()));
                tracing::error!(why, "the new key can't be used");
            }
        }
        self.trust_anew();
    }

    /// Puts a secret aside that is to come into force, and takes what is sealed with it already.
    pub(super) fn stage(&mut self, offered: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(offered);
        match text.trim().parse::<Secret>() {
            Ok(secret) if secret.number() == self.secret.number() + 1 => {
                let kept = secret.write(&self.around.files.next_secret());
                if let Err(error) = kept {
                    tracing::error!(error = crate::http::chain(&error), "the next key was not written");
                    return Vec::new();
                }
                self.opener
                    .set_secrets(&self.secret, Some((&secret, Tick(u64::MAX))));
                self.next = Some(secret);
                self.trust_anew();
                b"ok".to_vec()
            }
            _ => Vec::new(),
        }
    }

    /// The secrets that a member may have: the one in force.
    pub(super) fn secrets(&self) -> Vec<u8> {
        self.secret.text().as_bytes().to_vec()
    }

    pub(super) fn take_secrets(&mut self, got: Vec<u8>) {
        let wanted = self.node.charter().secret;
        let text = zeroize::Zeroizing::new(String::from_utf8(got).unwrap_or_default());
        if let Ok(secret) = text.trim().parse::<Secret>()
            && secret.number() > self.secret.number()
        {
            // The charter may be behind, and comes next; until then the sender is believed, who is a member.
            if secret.number() != wanted.number || secret.check() == wanted.check {
                self.turn_over(secret);
                return;
            }
        }
        if wanted.number > self.secret.number() {
            self.ask_secret();
        }
    }

    /// Gets the secret in force from another member, because it isn't here: one question at a time, and after one that
    /// brought nothing none for a moment, as anybody can send what looks sealed with a later one.
    pub(super) fn ask_secret(&mut self) {
        if std::mem::replace(&mut self.asking_secret, true) {
            return;
        }
        let wait = self
            .secret_asked
            .map_or(Duration::ZERO, |asked| ASK_SECRET.saturating_sub(asked.elapsed()));
        let mut seats = self.seats_now();
        // Not always the same first: it may be the one that is slow.
        let first = usize::try_from(self.ticket()).unwrap_or(0) % seats.len().max(1);
        seats.rotate_left(first);
        let (connector, came) = (self.connector.clone(), self.came.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            for seat in seats {
                if let Ok(answer) = calls::call(&connector, seat.address, seat.host, FOR_SECRET, b"").await {
                    came.send(Came::GotSecret(Some(answer))).await.ok();
                    return;
                }
            }
            came.send(Came::GotSecret(None)).await.ok();
        });
    }

    /// Another secret is to be in force: every host gets it first, then it is decided.
    pub(super) async fn rotate(
        &mut self,
        secret: Option<Secret>,
        answer: oneshot::Sender<Rotated>,
    ) -> Result<(), String> {
        if self.rotation.is_some() {
            answer
                .send(Err("the key is being rotated already".to_owned()))
                .ok();
            return Ok(());
        }
        let number = self.secret.number().saturating_add(1);
        let drawn = match &secret {
            Some(given) if given.number() != number => Err(format!(
                "key: it is number {} and the next one is {number}: 'tombolo cluster key --number {number}' makes one",
                given.number()
            )),
            Some(given) => Ok(Secret::new(number, *given.bytes())),
            None => Secret::draw(number).map_err(|e| e.to_string()),
        };
        let secret = match drawn {
            Ok(secret) => secret,
            Err(why) => {
                answer.send(Err(why)).ok();
                return Ok(());
            }
        };
        if self.stage(secret.text().as_bytes()).is_empty() {
            answer
                .send(Err("the next key could not be written on this host".to_owned()))
                .ok();
            return Ok(());
        }
        let seats = self.seats_now();
        let text = Arc::new(secret.text());
        for seat in &seats {
            let (connector, came, text, seat) = (
                self.connector.clone(),
                self.came.clone(),
                text.clone(),
                seat.clone(),
            );
            tokio::spawn(async move {
                let staged =
                    calls::call(&connector, seat.address, seat.host, NEXT_SECRET, text.as_bytes()).await;
                came.send(Came::Staged(seat.host, staged.is_ok_and(|said| said == b"ok")))
                    .await
                    .ok();
            });
        }
        let others: BTreeSet<HostId> = self
            .node
            .charter()
            .hosts
            .keys()
            .copied()
            .filter(|host| *host != self.me)
            .collect();
        let reached: BTreeSet<HostId> = seats.iter().map(|seat| seat.host).collect();
        self.rotation = Some(Rotation {
            secret,
            waiting: others.intersection(&reached).copied().collect(),
            without: others.difference(&reached).copied().collect(),
            until: Instant::now() + calls::TALK,
            answer: Some(answer),
        });
        self.staged(self.me, true).await
    }

    /// A host has put the next secret aside, or could not.
    pub(super) async fn staged(&mut self, host: HostId, staged: bool) -> Result<(), String> {
        let Some(rotation) = &mut self.rotation else {
            return Ok(());
        };
        if rotation.waiting.remove(&host) && !staged {
            rotation.without.push(host);
        }
        if !rotation.waiting.is_empty() && Instant::now() < rotation.until {
            return Ok(());
        }
        let Some(mut rotation) = self.rotation.take() else {
            return Ok(());
        };
        let without: Vec<String> = rotation
            .without
            .iter()
            .chain(&rotation.waiting)
            .map(|host| self.node.name(host))
            .collect();
        let hosts = self.node.charter().hosts.len() - without.len();
        let (number, check) = (rotation.secret.number(), rotation.secret.check());
        let ticket = self.ticket();
        let (done, decided) = oneshot::channel();
        self.wishes.insert(ticket, done);
        if let Some(answer) = rotation.answer.take() {
            tokio::spawn(async move {
                let outcome = decided
                    .await
                    .unwrap_or_else(|_| Err("tombolo is shutting down".to_owned()));
                answer.send(outcome.map(|()| (number, hosts, without))).ok();
            });
        }
        self.step(Input::Wish {
            ticket,
            wish: Wish::Secret(number, check),
        })
        .await
    }
}
