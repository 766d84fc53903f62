//! Who becomes a member, and who is one no more.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tombolo_cluster::HostId;
use tombolo_cluster::charter::How;
use tombolo_cluster::node::{Input, Wish};

use super::Part;
use crate::cluster::certs::Authority;
use crate::cluster::joining;

impl Part {
    pub(super) fn token(&self, ttl_s: u64) -> Result<String, String> {
        let token = crate::cluster::token::Token::issue_now(&self.secret, ttl_s)?;
        Ok(token.text())
    }

    pub(super) async fn forget(
        &mut self,
        names: &[String],
        answer: oneshot::Sender<Result<Vec<String>, String>>,
    ) -> Result<(), String> {
        let mut hosts = BTreeMap::new();
        let mut wrong = Vec::new();
        for name in names {
            let charter = self.node.charter();
            let called = |(id, member): &(&HostId, &tombolo_cluster::charter::Member)| {
                member.name == *name || (name.len() >= 8 && id.to_string().starts_with(name.as_str()))
            };
            let found: Vec<(HostId, String)> = charter
                .hosts
                .iter()
                .filter(called)
                .map(|(id, m)| (*id, m.name.clone()))
                .collect();
            match found.as_slice() {
                [(id, name)] => drop(hosts.insert(*id, name.clone())),
                [] => wrong.push(format!("no host is called '{}'", tombolo_core::model::cut(name))),
                _ => wrong.push(format!(
                    "{} hosts are called '{}': name one by its identifier",
                    found.len(),
                    tombolo_core::model::cut(name)
                )),
            }
        }
        if !wrong.is_empty() || hosts.is_empty() {
            let known: Vec<String> = self
                .node
                .charter()
                .hosts
                .values()
                .map(|member| member.name.clone())
                .collect();
            answer
                .send(Err(format!(
                    "{}; the hosts are: {}",
                    wrong.join("; "),
                    known.join(", ")
                )))
                .ok();
            return Ok(());
        }
        let (done, decided) = oneshot::channel();
        let ticket = self.ticket();
        self.wishes.insert(ticket, done);
        let forgotten: Vec<String> = hosts.values().cloned().collect();
        tokio::spawn(async move {
            let outcome = decided
                .await
                .unwrap_or_else(|_| Err("tombolo is shutting down".to_owned()));
            answer.send(outcome.map(|()| forgotten)).ok();
        });
        self.step(Input::Wish {
            ticket,
            wish: Wish::Forget(hosts.into_keys().collect()),
        })
        .await
    }

    /// Somebody is at the door, with a token.
    pub(super) async fn asked_to_join(
        &mut self,
        asking: joining::Asking,
        answer: oneshot::Sender<joining::Answer>,
    ) -> Result<(), String> {
        let verified = Authority::of(&self.secret)
            .map_err(|e| e.to_string())
            .and_then(|authority| {
                let token = crate::cluster::token::Token::parse(&asking.token).map_err(|e| e.to_string())?;
                token
                    .verify(&self.secret, authority.print(), crate::host::now_s())
                    .map_err(|e| e.to_string())
            });
        let verified = verified.and_then(|()| {
            match self.around.store.as_ref().filter(|_| !asking.by_store) {
                _ if self.around.store.is_some() == asking.by_store => Ok(()),
                Some(store) => Err(format!(
                    "in this cluster the store {} decides, and on that host no setting names it: set TOMBOLO_STORE there",
                    store.name()
                )),
                None => Err(
                    "in this cluster its own hosts decide, and on that host TOMBOLO_STORE names a store: leave it out there"
                        .to_owned(),
                ),
            }
        });
        if let Err(why) = verified {
            tracing::warn!(host = %asking.host, name = %tombolo_core::model::cut(&asking.name), %why, "a host was not let in");
            answer.send(joining::Answer::Refused(why)).ok();
            return Ok(());
        }
        if let Some(gone) = self.gone(&asking.host) {
            answer.send(gone).ok();
            return Ok(());
        }
        let ticket = self.ticket();
        let wish = Wish::Admit {
            host: asking.host,
            name: asking.name.clone(),
            key: asking.key,
        };
        self.joins.insert(ticket, (asking, answer));
        self.step(Input::Wish { ticket, wish }).await
    }

    /// The answer to one who is gone.
    fn gone(&self, host: &HostId) -> Option<joining::Answer> {
        let gone = self.node.charter().gone.get(host)?;
        let how = match gone.how {
            How::Left => "left",
            How::Forgotten { .. } => "was forgotten by",
        };
        Some(joining::Answer::Gone(format!(
            "it {how} the cluster at decree {}",
            gone.at
        )))
    }

    pub(super) fn join_answer(
        &self,
        asking: &joining::Asking,
        outcome: Result<(), String>,
    ) -> joining::Answer {
        match outcome {
            Err(why) => self.gone(&asking.host).unwrap_or(joining::Answer::Refused(why)),
            Ok(()) => joining::Answer::Welcome {
                secret: self.secret.text().to_string(),
                charter: Box::new(self.node.charter().clone()),
                seats: self
                    .node
                    .seats()
                    .filter(|seat| seat.host != asking.host)
                    .cloned()
                    .chain([self.node.seat().clone()])
                    .collect(),
            },
        }
    }
}
