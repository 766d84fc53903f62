//! Networks that are the same on all hosts of the cluster: made on one host, they are made on the others through each one's Docker
//! engine, and removed with it.
//!
//! ```text
//!   engine's events ─> follow ──poke──┐                        ┌──> POST /networks/create, DELETE /networks/ID
//!                                     ├─> task ──look──> Book ─┤
//!   other hosts' rows ─> cluster ─────┘                        └──> records kept, rows told by the cluster's part
//! ```
//!
//! The [`Book`] decides and does nothing. The task speaks with the engine, one call at a time and never from within a call of the
//! engine's: a hung engine delays only this.

mod book;
mod definition;
mod keys;
mod task;
mod version;
mod way;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tombolo_cluster::HostId;

use self::book::Book;
use self::definition::Definition;
pub use self::definition::{Listed, Us};
use self::keys::{key_of, name_of};
pub use self::task::{Around, look_after};
use self::version::{Record, Row, Standing};
use self::way::Way;

/// What the keys of rows and of records about networks begin with; the network's name follows.
pub const NETWORK: &str = "net/";

/// Rows or records by their keys; none where one is gone.
pub type Changes = Vec<(String, Option<Vec<u8>>)>;

/// The engine that is served, as long as it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Its identifier.
    pub id: String,
    /// What it calls us.
    pub us: Us,
}

/// What the daemon's parts share of it.
#[derive(Debug)]
pub struct Replicas {
    /// Whether this host takes part.
    on: bool,
    /// While this host is in a cluster.
    book: Mutex<Option<Book>>,
    engine: watch::Sender<Option<Engine>>,
    /// Something may be to be done.
    poke: Notify,
    /// Something may be to be told.
    heard: Notify,
    /// Whether all rows were heard that there were when the part began.
    caught_up: AtomicBool,
    /// Whether this host is about to leave.
    leaving: AtomicBool,
    /// Whether records are being kept just now.
    keeping: watch::Sender<bool>,
    /// Where what is made here meets what users make.
    way: Way,
}

impl Replicas {
    /// Of a host that takes part, or doesn't.
    pub fn new(on: bool) -> Self {
        Self {
            on,
            book: Mutex::new(None),
            engine: watch::Sender::new(None),
            poke: Notify::new(),
            heard: Notify::new(),
            caught_up: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            keeping: watch::Sender::new(false),
            way: Way::default(),
        }
    }

    /// The engine asks for a pool: a network on it that is being made here because another host has it gives way to a user's, which
    /// takes a moment.
    pub async fn make_way(&self, pool: IpNet) {
        self.way.ask(pool).await;
    }

    fn book(&self) -> MutexGuard<'_, Option<Book>> {
        // A change of it that panicked has told of itself; what it holds is whole, if old.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Book) -> T) -> Option<T> {
        self.book().as_mut().map(act)
    }

    /// This host's part in a cluster begins, with what it has kept. Gives what is to be forgotten of that, and the rows that it
    /// tells. What can't be read is passed over: it comes from the others again.
    pub fn begin(&self, me: HostId, kept: Vec<(String, Vec<u8>)>) -> (Changes, Changes) {
        if !self.on {
            // Turned on again it would take what was removed meanwhile for removed everywhere.
            let forgotten = kept.into_iter().map(|(key, _)| (format!("{NETWORK}{key}"), None));
            return (forgotten.collect(), Vec::new());
        }
        let records = kept.into_iter().filter_map(|(key, bytes)| {
            let record: Result<Record, _> = serde_json::from_slice(&bytes);
            let record = record
                .inspect_err(|error| tracing::warn!(%error, key, "what was kept of a network can't be read"));
            Some((name_of(&key)?, record.ok()?))
        });
        let mut book = Book::new(me, records.collect());
        book.leave(self.leaving.load(Ordering::Acquire));
        let rows = rows(&mut book);
        self.caught_up.store(false, Ordering::Release);
        self.keeping.send_replace(false);
        *self.book() = Some(book);
        self.poke.notify_one();
        (Vec::new(), rows)
    }

    /// The part has ended.
    pub fn end(&self) {
        *self.book() = None;
    }

    /// All rows were heard that there were: what is found on this host can be compared with them.
    pub fn caught_up(&self) {
        self.caught_up.store(true, Ordering::Release);
        self.poke.notify_one();
    }

    fn is_ready(&self) -> bool {
        self.caught_up.load(Ordering::Acquire) && self.book().is_some()
    }

    /// Another host is up, with rows of these keys, or down.
    pub fn link(&self, host: HostId, up: Option<&[&str]>) {
        let names = up.map(|keys| {
            let names = keys.iter().filter_map(|key| name_of(key.strip_prefix(NETWORK)?));
            names.collect()
        });
        self.with(|book| book.link(host, names.as_ref()));
        self.heard.notify_one();
    }

    /// The hosts of the cluster, with their names.
    pub fn members(&self, members: BTreeMap<HostId, String>) {
        self.with(|book| book.members(members));
    }

    /// Another host's row.
    ///
    /// # Errors
    /// Where it can't be read; it counts as none, then.
    pub fn heard(&self, host: HostId, key: &str, body: Option<&[u8]>) -> Result<(), String> {
        let Some(name) = key.strip_prefix(NETWORK).and_then(name_of) else {
            return Err("the key has no network's name".to_owned());
        };
        let row = body.map(Row::read).transpose();
        let told = row.as_ref().ok().cloned().flatten();
        self.with(|book| book.heard(host, &name, told, Instant::now()));
        self.poke.notify_one();
        self.heard.notify_one();
        row.map(drop)
    }

    /// What has changed since this was asked last: records to keep, then rows to tell. [`kept`](Self::kept) is to follow.
    pub fn changes(&self) -> (Changes, Changes) {
        let changes = self.with(|book| {
            self.keeping.send_replace(true);
            let records = book.unkept().into_iter().filter_map(|(name, record)| {
                // Plain structs with text keys always make JSON.
                let record = record.map(|record| serde_json::to_vec(&record).unwrap_or_default());
                Some((format!("{NETWORK}{}", key_of(&name)?), record))
            });
            let records = records.collect();
            (records, rows(book))
        });
        changes.unwrap_or_default()
    }

    /// The records that had changed are kept.
    pub fn kept(&self) {
        self.keeping.send_replace(false);
    }

    /// Waits until all records are kept as they are.
    async fn all_kept(&self) {
        let mut keeping = self.keeping.subscribe();
        loop {
            let unkept = self.with(|book| book.has_unkept()).unwrap_or_default();
            if !unkept && !*keeping.borrow_and_update() {
                return;
            }
            // We hold the sender ourselves, so it can't be gone.
            keeping.changed().await.ok();
        }
    }

    /// The engine answers, or doesn't any more.
    pub fn engine(&self, engine: Option<Engine>) {
        self.with(Book::engine_anew);
        self.engine.send_replace(engine);
        self.poke.notify_one();
    }

    /// The engine's networks may be others now.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Adds to the document of this host's networks how they stand on the others, and those that are not here.
    pub fn note_networks(&self, document: &mut Value) {
        let Some(networks) = document.as_array_mut() else {
            return;
        };
        self.with(|book| {
            let own = book.own_name().to_owned();
            for (name, record, hosts) in book.networks() {
                let replica = json!({
                    "removed": record.version.definition.is_none(),
                    "since_ms": record.version.stamp.at,
                    "here": hosts.get(own.as_str()),
                    "hosts": hosts,
                });
                let id = record.here.as_ref().map(|here| here.id.as_str());
                let listed = networks
                    .iter_mut()
                    .find(|network| id.is_some() && network["network_id"].as_str() == id);
                match (listed, &record.version.definition) {
                    (Some(network), _) => network["replica"] = replica,
                    (None, definition) => {
                        let pool = |v6| definition.as_ref()?.pool(v6).map(|pool| json!({ "pool": pool }));
                        networks.push(json!({
                            "network_id": null,
                            "name": name,
                            "kind": definition.as_ref().and_then(Definition::kind),
                            "ipv4": pool(false),
                            "ipv6": pool(true),
                            "replica": replica,
                        }));
                    }
                }
            }
        });
    }

    /// Adds to the document of this host's problems those of networks that aren't the same everywhere.
    pub fn note_problems(&self, document: &mut Value) {
        let Some(problems) = document["problems"].as_array_mut() else {
            return;
        };
        let problem = |about: String, problem: String, network: &str| {
            json!({
                "about": about,
                "problem": problem,
                "step": Value::Null,
                "network_name": network,
                "container_name": Value::Null,
            })
        };
        self.with(|book| {
            for (name, _, hosts) in book.networks() {
                let troubles = hosts
                    .into_iter()
                    .filter_map(|(host, standing)| Some((host, words(standing)?)));
                problems.extend(troubles.map(|(host, why)| problem(format!("network on {host}"), why, name)));
            }
            let unfit = book.unfit().iter();
            problems.extend(
                unfit.map(|(name, why)| problem("network for all hosts".to_owned(), why.clone(), name)),
            );
        });
    }

    /// Removes this host's networks of the cluster that no container has, for this host alone, as it is to leave. Waits until they
    /// are gone, or `until`; those that are left are for the leaving itself to tell of.
    pub async fn withdraw(&self, until: tokio::time::Instant) {
        self.leaving.store(true, Ordering::Release);
        self.with(|book| book.leave(true));
        // Where the engine doesn't answer nothing can be removed.
        while self.engine.borrow().is_some() && self.with(|book| book.not_left()).is_some_and(|left| left > 0)
        {
            self.poke.notify_one();
            let step = tokio::time::Instant::now() + std::time::Duration::from_millis(50);
            tokio::time::sleep_until(step.min(until)).await;
            if tokio::time::Instant::now() >= until {
                return;
            }
        }
    }

    /// It stays after all.
    pub fn stay(&self) {
        self.leaving.store(false, Ordering::Release);
        self.with(|book| book.leave(false));
        self.poke.notify_one();
    }
}

fn rows(book: &mut Book) -> Changes {
    let rows = book.changed_rows().into_iter().filter_map(|(name, row)| {
        // As above.
        let row = row.map(|row| serde_json::to_vec(&row).unwrap_or_default());
        Some((format!("{NETWORK}{}", key_of(&name)?), row))
    });
    rows.collect()
}

/// What is the matter with a network on a host, in words; nothing where all is well, or as it is to be while containers have it.
fn words(standing: &Standing) -> Option<String> {
    match standing {
        Standing::Refused { why } => Some(format!("not made there: {why}")),
        _ => None,
    }
}
