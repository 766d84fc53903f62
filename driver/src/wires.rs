//! Looks after the links that networks on a wire are on: with one that goes away go the containers' links, wherever they are,
//! and when it is there again they are put back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tombolo_core::model::IfName;

use crate::engine::wires::Wire;
use crate::engine::{Ask, Want};
use crate::kernel::sandbox::PutBack;
use crate::segment::Segments;

/// Between two looks at the parents' numbers. One that was made again has another one.
const LOOK: Duration = Duration::from_secs(1);

/// How long what will go out next is gathered before it is asked for ahead.
const SOON: Duration = Duration::from_millis(20);

/// Looks after them until the engine has ended.
pub async fn look_after(asks: mpsc::Sender<Ask>, segments: Option<Arc<Segments>>, ahead: Arc<Notify>) {
    let mut watched: BTreeSet<IfName> = BTreeSet::new();
    let mut known: BTreeMap<IfName, u32> = BTreeMap::new();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Not for each of many containers that start together.
            () = ahead.notified() => tokio::time::sleep(SOON).await,
        }
        let Some(parents) = ask(&asks, Ask::Parents).await else {
            return;
        };
        if let Some(segments) = &segments {
            let Some(wires) = ask(&asks, Ask::Probed).await else {
                return;
            };
            listen(segments, &wires, &mut watched);
        }
        known.retain(|parent, _| parents.contains(parent));
        for parent in parents {
            // What isn't there keeps the number that it had.
            let Ok(number) = nix::net::if_::if_nametoindex(parent.as_str()) else {
                continue;
            };
            let before = known.insert(parent.clone(), number);
            if before == Some(number) {
                continue;
            }
            if before.is_some() {
                let why = "a link that containers are on was made again";
                let repaired = |answer| {
                    Ask::Look(Want {
                        why,
                        repair: true,
                        answer: Some(answer),
                    })
                };
                // What is on it is there again before it is put back.
                ask(&asks, repaired).await;
            }
            put_back(&asks, parent).await;
        }
    }
}

/// Listens on the wires where addresses are looked for, and asks there for those that will go out next.
fn listen(segments: &Segments, wires: &[Wire], watched: &mut BTreeSet<IfName>) {
    watched.retain(|link| {
        let wanted = wires.iter().any(|wire| wire.link == *link);
        if !wanted {
            segments.unwatch(link);
        }
        wanted
    });
    for Wire { link, upcoming } in wires {
        match segments.watch(link) {
            Ok(()) => {
                watched.insert(link.clone());
                segments.keep_ahead(link, upcoming.clone());
            }
            Err(error) => tracing::debug!(%link, %error, "who is on this wire can't be asked"),
        }
    }
}

/// Puts the links of a parent's containers back that have gone with it.
async fn put_back(asks: &mpsc::Sender<Ask>, parent: IfName) {
    let inside = ask(asks, |answer| Ask::Inside(parent, answer)).await;
    for (id, inside) in inside.into_iter().flatten() {
        let wanted = inside.clone();
        let outcome = tokio::task::spawn_blocking(move || wanted.put_back()).await;
        match outcome {
            Ok(Ok(PutBack::There)) => {}
            // An engine that has ended tells nobody.
            Ok(Ok(PutBack::Again)) => drop(asks.send(Ask::PutBack(id, inside)).await),
            Ok(Err(error)) => {
                tracing::warn!(endpoint = %id, %error, "a container's link can't be looked after; if it had gone with its parent, start the container again");
            }
            Err(error) => tracing::error!(%error, "looking after a container's link"),
        }
    }
}

/// Asks the engine; none if it has ended.
async fn ask<T>(asks: &mpsc::Sender<Ask>, question: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    asks.send(question(answer)).await.ok()?;
    answered.await.ok()
}
