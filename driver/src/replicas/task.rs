//! What carries out what the book decides.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use super::book::{Action, Happened};
use super::{Engine, Listed, Replicas};
use crate::docker;
use crate::docker::networks::{self, NotRemoved};
use crate::engine::Ask;
use crate::engine::events::{Events, What};

/// Between two looks when nothing happens.
const QUIET: Duration = Duration::from_secs(10);

/// How long what happens is gathered.
const GATHER: Duration = Duration::from_millis(50);

/// What it is done with.
pub struct Around {
    /// The engine's socket.
    pub socket: PathBuf,
    /// What our networks are known by.
    pub asks: mpsc::Sender<Ask>,
    /// Woken when there is something to keep and to tell.
    pub wake: Arc<Notify>,
    /// What happens is told here.
    pub events: Events,
}

/// How long it is waited until what an action follows from is kept.
const KEPT: Duration = Duration::from_secs(5);

/// Makes and removes networks for ever.
pub async fn look_after(replicas: Arc<Replicas>, around: Around) {
    tokio::join!(act(&replicas, &around), tell(&replicas, &around));
}

async fn act(replicas: &Replicas, around: &Around) {
    loop {
        let engine = replicas.engine.borrow().clone().filter(|_| replicas.is_ready());
        let due = engine
            .as_ref()
            .and_then(|_| replicas.with(|book| book.due()).flatten());
        let wait = due.map_or(QUIET, |due| due.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = replicas.poke.notified() => {}
            () = tokio::time::sleep(wait.min(QUIET)) => {}
        }
        tokio::time::sleep(GATHER).await;
        let engine = replicas.engine.borrow().clone().filter(|_| replicas.is_ready());
        if let Some(engine) = engine {
            look(replicas, &engine, around).await;
        }
    }
}

/// Has what was heard told on, whatever the engine is doing.
async fn tell(replicas: &Replicas, around: &Around) {
    loop {
        replicas.heard.notified().await;
        tokio::time::sleep(GATHER).await;
        told(replicas, around);
    }
}

async fn look(replicas: &Replicas, engine: &Engine, around: &Around) {
    let listed: Vec<Listed> = match networks::list(&around.socket).await {
        Ok(listed) => listed,
        Err(error) => {
            tracing::debug!(%error, "the engine's networks can't be read; tried again");
            return;
        }
    };
    let mut ours = BTreeSet::new();
    if replicas.with(|book| book.missing(&listed)) == Some(true) {
        let (answer, answered) = oneshot::channel();
        // Where nobody answers, tombolo ends.
        if around.asks.send(Ask::Networks(answer)).await.is_err() {
            return;
        }
        let Ok(known) = answered.await else { return };
        ours = known.iter().map(ToString::to_string).collect();
    }
    let at = (Instant::now(), crate::host::now_ms());
    let actions = replicas.with(|book| book.look(&engine.id, (&listed, &ours), &engine.us, at));
    told(replicas, around);
    let actions = actions.unwrap_or_default();
    if !actions.is_empty() && tokio::time::timeout(KEPT, replicas.all_kept()).await.is_err() {
        // A crash now would make our own deed look like the user's. The next look decides anew.
        tracing::warn!(
            "what is known of networks for all hosts is not kept yet; none is made or removed until it is"
        );
        return;
    }
    for action in actions {
        carry_out(replicas, engine, &around.socket, &listed, action).await;
        told(replicas, around);
    }
}

async fn carry_out(replicas: &Replicas, engine: &Engine, socket: &Path, listed: &[Listed], action: Action) {
    match action {
        Action::Make(network, definition) => {
            if !replicas.way.begin(definition.pools(), Instant::now()) {
                replicas.with(|book| book.gave_way(&network, Instant::now()));
                return;
            }
            let made = networks::make(socket, &definition.request(&network, &engine.us)).await;
            let gone = match &made {
                Ok(id) if replicas.way.is_wanted() => networks::remove(socket, &network, id).await.is_ok(),
                _ => false,
            };
            replicas.way.end();
            if gone {
                tracing::info!(
                    network,
                    "the network that came from another host gave way to the one that is made here"
                );
            }
            let now = Instant::now();
            replicas.with(|book| match &made {
                Ok(_) if gone => book.gave_way(&network, now),
                Ok(id) => book.made(&engine.id, &network, id, &definition, now),
                Err(error) => {
                    // Without an answer it may be made yet.
                    let known = !matches!(error, docker::Error::Answer { .. });
                    book.not_made(&network, (&error.to_string(), known), listed, now);
                }
            });
        }
        Action::Remove(network, id) => {
            let removed = networks::remove(socket, &network, &id).await;
            let now = Instant::now();
            replicas.with(|book| match &removed {
                Ok(()) => book.removed(&network, now),
                Err(NotRemoved::InUse) => book.in_use(&network, now),
                Err(NotRemoved::Other(error)) => {
                    book.not_removed(&network, now);
                    tracing::warn!(network, %error, "a network that was removed on another host is not removed here; tried again");
                }
            });
        }
    }
}

/// Has records kept and rows told, and tells people.
fn told(replicas: &Replicas, around: &Around) {
    let news = replicas.with(|book| (book.has_changed(), book.news()));
    let Some((changed, news)) = news else {
        return;
    };
    if changed {
        around.wake.notify_one();
    }
    for happened in news {
        let Happened {
            network,
            action,
            host,
            detail,
        } = happened;
        match action {
            "refused" => tracing::warn!(network, host, detail, "network for all hosts: {action}"),
            _ => tracing::info!(network, host, "network for all hosts: {action}"),
        }
        around.events.tell(&What::Replica {
            action,
            network_name: network,
            host_name: host,
            detail,
        });
    }
}
