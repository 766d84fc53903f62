//! What the node wants: each of its outputs carried out, in their order.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tombolo_cluster::HostId;
use tombolo_cluster::node::{Input, News, Output};
use tombolo_core::peers::HOST;
use tombolo_core::state::{Command, Reply};
use tombolo_ipam::share::Share;

use super::{Came, Part};
use crate::cluster::calls::{self, FOR_NODE};
use crate::cluster::draw;
use crate::cluster::seal::{Instance, Sealer, To};
use crate::engine::{Ask, Looked};

/// How long the engine may take for a deal.
const DEAL: Duration = Duration::from_secs(5);

impl Part {
    pub(super) async fn carry_out(
        &mut self,
        output: Output,
        inputs: &mut VecDeque<Input>,
    ) -> Result<(), String> {
        match output {
            Output::Keep(records) => self.keeper.keep(records).await.map_err(|e| e.to_string())?,
            Output::Send { to, address, bytes } => self.send(to, self.around(&to, address), &bytes),
            Output::Call {
                call,
                to,
                address,
                bytes,
            } => {
                let (connector, came) = (self.connector.clone(), self.came.clone());
                let address = self.around(&to, address);
                tokio::spawn(async move {
                    let outcome = calls::call(&connector, address, to, FOR_NODE, &bytes).await;
                    // A part that has ended needs no answer.
                    let called = calls::called(outcome);
                    came.send(Came::Called(call, to, called)).await.ok();
                });
            }
            Output::Answer { call, bytes } => {
                if let Some(answer) = self.answers.remove(&call) {
                    answer.send(bytes).ok();
                }
            }
            Output::Share { pool, ticket, deal } => {
                let share = self.deal(Command::Deal(pool, deal)).await;
                self.told.count_again();
                inputs.push_back(Input::Shared { pool, ticket, share });
            }
            Output::Store { ticket, known, ask } => {
                // A part of a cluster that a store decides for doesn't begin without one.
                let Some(store) = self.around.store.clone() else {
                    return Ok(());
                };
                let (cluster, came) = (self.node.charter().cluster, self.came.clone());
                tokio::spawn(async move {
                    let asked = store.ask(cluster, known, &ask).await;
                    let answer = asked.map(Box::new).map_err(|e| e.to_string());
                    came.send(Came::Stored(ticket, answer)).await.ok();
                });
            }
            Output::Done { ticket, outcome } => self.done(ticket, outcome),
            Output::Epoch(epoch) => self.begin_epoch(epoch).await?,
            Output::Charter => self.charter_changed().await,
            Output::Tell(news) => {
                self.told.host_changed();
                if matches!(news, News::Up(_)) {
                    self.told.met();
                }
                if let News::Up(host) | News::Down(host) = news {
                    self.note_link(host, matches!(news, News::Up(_)));
                }
                self.tell(news);
            }
            Output::Seen(seen) => {
                self.note_seen(&seen);
                if seen.iter().any(|row| matches!(row.key.as_str(), "routes" | HOST)) {
                    self.show();
                }
            }
        }
        Ok(())
    }

    /// Keeps another epoch, and seals in it.
    async fn begin_epoch(&mut self, epoch: u32) -> Result<(), String> {
        let record = vec![("epoch".to_owned(), Some(tombolo_cluster::wire::encode(&epoch)))];
        self.keeper.keep(record).await.map_err(|e| e.to_string())?;
        let text = |e: crate::cluster::Refused| e.to_string();
        let instance = Instance(draw().map_err(text)?);
        self.sealer = Sealer::new(&self.secret, self.me, epoch, instance).map_err(text)?;
        tracing::info!(epoch, "this host speaks in another epoch");
        Ok(())
    }

    pub(super) fn send(&mut self, to: HostId, address: SocketAddr, bytes: &[u8]) {
        match self.sealer.seal(To::Host(to), bytes) {
            // A full queue, or a way that is gone: datagrams may be lost.
            Ok(sealed) => self.noted.sent(&self.udp.try_send_to(&sealed, address)),
            Err(error) => tracing::error!(%error, "a datagram was not sealed"),
        }
    }

    async fn deal(&self, command: Command) -> Result<Option<Share>, String> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Do {
            command,
            looked: Looked::default(),
            deadline: Instant::now() + DEAL,
            answer,
        };
        let gone = |_| "the engine has ended".to_owned();
        self.around.asks.send(ask).await.map_err(|_| gone(()))?;
        match answered.await.map_err(|_| gone(()))? {
            Ok(Reply::Share(share)) => Ok(share),
            Ok(other) => Err(format!("the engine answered {other:?}")),
            Err(error) => Err(crate::http::chain(&error)),
        }
    }
}
