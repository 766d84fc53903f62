//! What carries out what the book decides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::book::{Action, Happened};
use super::{Engine, Listed, Replicas};
use crate::docker::networks::{self, NotRemoved};
use crate::engine::events::{Events, What};

/// Between two looks when nothing happens.
const QUIET: Duration = Duration::from_secs(10);

/// How long what happens is gathered.
const GATHER: Duration = Duration::from_millis(50);

/// What it is done with.
pub struct Around {
    /// The engine's socket.
    pub socket: PathBuf,
    /// Woken when there is something to keep and to tell.
    pub wake: Arc<Notify>,
    /// What happens is told here.
    pub events: Events,
}

/// Makes and removes networks for ever.
pub async fn look_after(replicas: Arc<Replicas>, around: Around) {
    loop {
        let due = replicas.with(|book| book.due()).flatten();
        let wait = due.map_or(QUIET, |due| due.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = replicas.poke.notified() => {}
            () = tokio::time::sleep(wait.min(QUIET)) => {}
        }
        tokio::time::sleep(GATHER).await;
        let engine = replicas.engine.borrow().clone();
        // What was heard and needs nothing done is told all the same.
        if let Some(engine) = engine.filter(|_| replicas.book().is_some()) {
            look(&replicas, &engine, &around).await;
        }
        told(&replicas, &around);
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
    let at = (Instant::now(), crate::host::now_ms());
    let actions = replicas.with(|book| book.look(&engine.id, &listed, &engine.us, at));
    told(replicas, around);
    for action in actions.unwrap_or_default() {
        carry_out(replicas, engine, &around.socket, &listed, action).await;
        told(replicas, around);
    }
}

async fn carry_out(replicas: &Replicas, engine: &Engine, socket: &Path, listed: &[Listed], action: Action) {
    match action {
        Action::Make(network, definition) => {
            let made = networks::make(socket, &definition.request(&network, &engine.us)).await;
            let now = Instant::now();
            replicas.with(|book| match &made {
                Ok(id) => book.made(&engine.id, &network, id, &definition, now),
                Err(error) => book.not_made(&network, &error.to_string(), listed, now),
            });
        }
        Action::Remove(network, id) => {
            let removed = networks::remove(socket, &id).await;
            let now = Instant::now();
            replicas.with(|book| match &removed {
                Ok(()) => book.removed(&network, now),
                Err(NotRemoved::InUse) => book.in_use(&network, now),
                Err(NotRemoved::Other(error)) => {
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
