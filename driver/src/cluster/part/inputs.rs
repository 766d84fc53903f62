//! What comes to a part from its tasks and from the handle.

use std::time::Instant;

use tombolo_cluster::node::{Input, Wish};

use super::{Came, Part, Request};
use crate::cluster::sight::Sight;

impl Part {
    /// A number that nothing else of this part has.
    pub(super) fn ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    pub(super) async fn came(&mut self, came: Came) -> Result<(), String> {
        match came {
            Came::Called(call, host, answer) => {
                self.noted.called(host, &answer);
                self.step(Input::Answered { call, answer }).await
            }
            Came::Asked { from, bytes, answer } => {
                self.noted.taken(from);
                let call = self.ticket();
                self.answers.retain(|_, answer| !answer.is_closed());
                self.answers.insert(call, answer);
                self.step(Input::Request { call, from, bytes }).await
            }
            Came::Secret { offered, answer } => {
                let said = match offered {
                    Some(offered) => self.stage(&offered),
                    None => self.secrets(),
                };
                answer.send(said).ok();
                Ok(())
            }
            Came::Tunnel { from, bytes, answer } => {
                self.answerer.answer(self.vtep_of(&from), bytes, answer);
                Ok(())
            }
            Came::Join(asking, answer) => self.asked_to_join(asking, answer).await,
            Came::GotSecret(got) => {
                self.asking_secret = false;
                self.secret_asked = Some(Instant::now());
                self.take_secrets(got.unwrap_or_default());
                Ok(())
            }
            Came::Echoes(hosts) => {
                self.echoes(&hosts);
                Ok(())
            }
            Came::Staged(host, staged) => self.staged(host, staged).await,
            Came::Stored(ticket, outcome) => self.step(Input::Stored { ticket, outcome }).await,
        }
    }

    pub(super) async fn request(&mut self, request: Request) -> Result<(), String> {
        match request {
            Request::Wish(wish, answer) => {
                let ticket = self.ticket();
                if wish == Wish::Leave {
                    self.leave_ticket = Some(ticket);
                    // A network that was removed just now is in the way no more.
                    self.tell_changes(false).await?;
                }
                self.wishes.insert(ticket, answer);
                self.step(Input::Wish { ticket, wish }).await
            }
            Request::See(with_rows, answer) => {
                let told = |key: &str| key == "host" || key.starts_with(tombolo_core::peers::ENDPOINT);
                let rows = self
                    .node
                    .table()
                    .visible()
                    .filter(|(_, key, _)| with_rows && told(key.as_str()));
                let rows = rows.map(|(host, key, body)| (host, key.to_string(), body.to_vec()));
                let sight = Sight {
                    cluster: self.node.charter().cluster,
                    view: self.node.view(),
                    rows: rows.collect(),
                    counts: self.opener.counts(),
                    noted: self.noted.clone(),
                    ways: self.ways.shown(Instant::now()),
                    store: self.around.store.as_ref().map(|store| {
                        let fault = self.node.store_fault().map(str::to_owned);
                        (store.name().to_owned(), fault)
                    }),
                };
                answer.send(sight).ok();
                Ok(())
            }
            Request::Tunnels(answer) => {
                answer.send(Ok(self.asker())).ok();
                Ok(())
            }
            Request::Token(ttl_s, answer) => {
                let token = self.token(ttl_s).map(|token| (self.node.seat().address, token));
                answer.send(token).ok();
                Ok(())
            }
            Request::Forget(names, answer) => self.forget(&names, answer).await,
            Request::Rotate(secret, answer) => self.rotate(secret, answer).await,
        }
    }

    pub(super) fn done(&mut self, ticket: u64, outcome: Result<(), String>) {
        if self.leave_ticket == Some(ticket) {
            self.leave_ticket = None;
            self.left = outcome.is_ok();
        }
        if let Some(answer) = self.wishes.remove(&ticket) {
            answer.send(outcome.clone()).ok();
        }
        if let Some((asking, answer)) = self.joins.remove(&ticket) {
            answer.send(self.join_answer(&asking, outcome)).ok();
        }
    }
}
