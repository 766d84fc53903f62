//! The store outside of the cluster that decides where the settings name one: an etcd.
//!
//! | key | value |
//! |---|---|
//! | `/tombolo/CLUSTER/charter` | what was decided |
//! | `/tombolo/CLUSTER/share/POOL/HOST` | a host's share of a pool as it was witnessed last |
//! | `/tombolo/CLUSTER/life/HOST` | how often a host was confirmed after a start |
//!
//! What is to be read and written is said by [`tombolo_cluster::store`]; here it is done: read everything at one revision,
//! judge, write if nothing of it has changed meanwhile, else again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::Semaphore;
use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, NoCharter};
use tombolo_cluster::store::{Answer, Ask, Found, Known, Reads, Refused, Whose, Writes};
use tombolo_cluster::wire::{decode, encode};

use super::etcd::{self, Entry, Etcd, Txn};
use super::keep::hex;
use crate::config;

/// How long a question may take in all: less than a wish.
const QUESTION: Duration = Duration::from_millis(1_600);
/// How many questions are under way at a time; further ones wait.
const AT_A_TIME: usize = 8;
/// The pause before what others were faster with is tried again; by chance up to this for each try.
const PAUSE_MS: u64 = 10;
/// How many keys are read or compared in one transaction: etcd takes 128 operations.
const OPERATIONS: usize = 100;

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be asked; or its answer didn't come, and a decree may have been decided all the same.
    #[error("the store {name} can't be reached: {error}; what this host has goes on")]
    Unreached {
        /// The store.
        name: String,
        /// Why.
        error: etcd::Error,
    },
    /// It is busy, or others were always faster.
    #[error("the store {name} was too busy for {} ms: try again", QUESTION.as_millis())]
    Busy {
        /// The store.
        name: String,
    },
    /// It knows nothing of the cluster.
    #[error(
        "the store {name} has nothing of this cluster: it is another store, or was emptied; what this host has goes on"
    )]
    Nothing {
        /// The store.
        name: String,
    },
    /// What it has can't be read.
    #[error("the store {name} has a charter of this cluster that can't be read: {error}")]
    Unreadable {
        /// The store.
        name: String,
        /// Why.
        error: NoCharter,
    },
    /// What it has speaks against it.
    #[error("the store {name}: {error}")]
    Refused {
        /// The store.
        name: String,
        /// What.
        error: Refused,
    },
    /// Too much for one transaction.
    #[error(
        "this needs {got} operations at once in the store {name}, and {OPERATIONS} are made at most: do it in several steps"
    )]
    TooMuch {
        /// The store.
        name: String,
        /// How many.
        got: usize,
    },
}

/// The store.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    etcd: Etcd,
    turn: Semaphore,
    /// The charter that was read last, and as of when in which cluster of etcd.
    charter: Mutex<Option<((String, i64), Charter)>>,
}

/// What was read, and as of when.
struct Reading {
    found: Found,
    charter: i64,
    shares: BTreeMap<Whose, i64>,
    life: Option<(HostId, i64)>,
}

impl Store {
    /// What the settings name, if it isn't the cluster itself.
    pub fn of(setting: &config::Store) -> Option<Self> {
        match setting {
            config::Store::Own => None,
            config::Store::Etcd(endpoints) => Some(Self(Arc::new(Inner {
                name: setting.to_string(),
                etcd: Etcd::new(endpoints.clone()),
                turn: Semaphore::new(AT_A_TIME),
                charter: Mutex::new(None),
            }))),
        }
    }

    /// As the settings name it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Begins a cluster.
    ///
    /// # Errors
    /// [`Error`]. If it can't be reached, a key of a cluster that nobody has may be left there.
    pub async fn begin(&self, charter: &Charter) -> Result<(), Error> {
        let until = Instant::now() + QUESTION;
        let key = charter_key(&charter.cluster);
        let mut txn = Txn::default();
        txn.unchanged(&key, 0);
        txn.put(&key, &encode(charter));
        // Its identifier was drawn just now: where it is there, it was this very transaction, sent twice.
        self.carry_out(&txn, until).await.map(drop)
    }

    /// Asks, and writes what comes of it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ask(&self, cluster: [u8; 16], known: Known, ask: &Ask) -> Result<Answer, Error> {
        let until = Instant::now() + QUESTION;
        let busy = || Error::Busy {
            name: self.name().to_owned(),
        };
        let turn = tokio::time::timeout(QUESTION, self.0.turn.acquire()).await;
        // The semaphore is never closed.
        let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        for tries in 1_u64.. {
            if until <= Instant::now() {
                break;
            }
            let reading = self.read(&cluster, ask, until).await?;
            let Reading {
                found,
                charter,
                shares,
                life,
            } = reading;
            let verdict = ask.judge(known, found).map_err(|error| Error::Refused {
                name: self.name().to_owned(),
                error,
            })?;
            let Some(writes) = verdict.writes else {
                return Ok(verdict.answer);
            };
            let mut txn = self.writing(&cluster, &writes, charter, &shares)?;
            if let Some((host, revision)) = life {
                let key = life_key(&cluster, &host);
                txn.unchanged(&key, revision);
                if let Some(life) = writes.life {
                    txn.put(&key, &encode(&life));
                }
            }
            if self.carry_out(&txn, until).await?.held {
                return Ok(verdict.answer);
            }
            let chance = super::draw::<1>().map_or(0, |[byte]| u64::from(byte));
            let pause = (PAUSE_MS * tries * chance) / 255;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Err(busy())
    }

    async fn carry_out(&self, txn: &Txn, until: Instant) -> Result<etcd::Done, Error> {
        let name = self.name().to_owned();
        let done = self.0.etcd.carry_out(txn, until).await;
        done.map_err(|error| Error::Unreached { name, error })
    }

    /// Reads the charter and shares. The charter itself only if it isn't the one that was read last.
    async fn read(&self, cluster: &[u8; 16], ask: &Ask, until: Instant) -> Result<Reading, Error> {
        let name = || self.name().to_owned();
        let key = charter_key(cluster);
        let reads = ask.reads();
        let (wanted, all): (&[Whose], Option<String>) = match &reads {
            Reads::Of(wanted) => (wanted, None),
            Reads::Pool(pool) => (&[], Some(pool_key(cluster, pool))),
            Reads::All => (&[], Some(shares_key(cluster))),
        };
        let (now, rest) = wanted.split_at(wanted.len().min(OPERATIONS));
        loop {
            let mut txn = Txn::default();
            txn.read(&key, true);
            let whose_life = ask.life_of();
            if let Some(host) = &whose_life {
                txn.read(&life_key(cluster, host), false);
            }
            now.iter()
                .for_each(|whose| txn.read(&share_key(cluster, whose), false));
            if let Some(beginning) = &all {
                txn.read_all(beginning);
            }
            let done = self.carry_out(&txn, until).await?;
            let mut found = done.found.into_iter();
            let head = found.next().into_iter().flatten().next();
            let revision = head.ok_or_else(|| Error::Nothing { name: name() })?.revision;
            let life = whose_life.map(|host| (host, found.next().and_then(|found| found.into_iter().next())));
            let mut entries: Vec<Entry> = found.flatten().collect();
            let Some(charter) = self.charter(&key, (done.cluster, revision), until).await? else {
                continue;
            };
            for some in rest.chunks(OPERATIONS) {
                let mut txn = Txn::default();
                some.iter()
                    .for_each(|whose| txn.read(&share_key(cluster, whose), false));
                let done = self.carry_out(&txn, until).await?;
                entries.extend(done.found.into_iter().flatten());
            }
            let (mut shares, mut revisions) = (BTreeMap::new(), BTreeMap::new());
            for entry in entries {
                let Some(whose) = whose_key(cluster, &entry.key) else {
                    continue;
                };
                revisions.insert(whose, entry.revision);
                // One that can't be read counts as none, and is written anew.
                if let Some(share) = decode(&entry.value) {
                    shares.insert(whose, share);
                }
            }
            let of_life = |life: Option<Entry>| life.and_then(|entry| decode(&entry.value));
            return Ok(Reading {
                charter: revision,
                shares: revisions,
                life: life
                    .as_ref()
                    .map(|(host, life)| (*host, life.as_ref().map_or(0, |entry| entry.revision))),
                found: Found {
                    charter,
                    shares,
                    life: life.and_then(|(_, life)| of_life(life)).unwrap_or(0),
                },
            });
        }
    }

    /// The charter as of a revision; none if it has changed since.
    async fn charter(&self, key: &str, at: (String, i64), until: Instant) -> Result<Option<Charter>, Error> {
        let known = self
            .0
            .charter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((_, charter)) = known.filter(|(of, _)| *of == at) {
            return Ok(Some(charter));
        }
        let mut txn = Txn::default();
        txn.unchanged(key, at.1);
        txn.read(key, false);
        let done = self.carry_out(&txn, until).await?;
        let entry = done.found.into_iter().flatten().next();
        let Some(entry) = entry.filter(|_| done.held && done.cluster == at.0) else {
            return Ok(None);
        };
        let charter = Charter::decode(&entry.value).map_err(|error| Error::Unreadable {
            name: self.name().to_owned(),
            error,
        })?;
        *self.0.charter.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, charter.clone()));
        Ok(Some(charter))
    }

    /// The transaction that writes, if nothing has changed.
    fn writing(
        &self,
        cluster: &[u8; 16],
        writes: &Writes,
        charter: i64,
        shares: &BTreeMap<Whose, i64>,
    ) -> Result<Txn, Error> {
        let mut txn = Txn::default();
        txn.unchanged(&charter_key(cluster), charter);
        if writes.unless.len() < OPERATIONS {
            for whose in &writes.unless {
                let revision = shares.get(whose).copied().unwrap_or(0);
                txn.unchanged(&share_key(cluster, whose), revision);
            }
        } else {
            // All were read at one time then, the latest of them as of this revision.
            let latest = shares.values().copied().max().unwrap_or(0);
            txn.all_unchanged(&shares_key(cluster), latest);
        }
        if let Some(charter) = &writes.charter {
            txn.put(&charter_key(cluster), &encode(charter));
        }
        for (whose, share) in &writes.shares {
            match share {
                Some(share) => txn.put(&share_key(cluster, whose), &encode(share)),
                // Of one who is gone, and a host's key counts no more: what is too much for one transaction may stay.
                None if txn.size() < OPERATIONS => txn.delete(&share_key(cluster, whose)),
                None => {}
            }
        }
        for host in &writes.gone {
            if txn.size() < OPERATIONS {
                txn.delete(&life_key(cluster, host));
            }
        }
        if let Some(pool) = writes.dissolved {
            txn.delete_all(&pool_key(cluster, &pool));
        }
        match txn.size() {
            got if got > OPERATIONS + 2 => Err(Error::TooMuch {
                name: self.name().to_owned(),
                got,
            }),
            _ => Ok(txn),
        }
    }
}

fn charter_key(cluster: &[u8; 16]) -> String {
    format!("/tombolo/{}/charter", hex(cluster))
}

fn life_key(cluster: &[u8; 16], host: &HostId) -> String {
    format!("/tombolo/{}/life/{host}", hex(cluster))
}

fn shares_key(cluster: &[u8; 16]) -> String {
    format!("/tombolo/{}/share/", hex(cluster))
}

fn pool_key(cluster: &[u8; 16], pool: &IpNet) -> String {
    format!("{}{pool}/", shares_key(cluster))
}

fn share_key(cluster: &[u8; 16], (pool, host): &Whose) -> String {
    format!("{}{host}", pool_key(cluster, pool))
}

fn whose_key(cluster: &[u8; 16], key: &str) -> Option<Whose> {
    let (pool, host) = key.strip_prefix(&shares_key(cluster))?.rsplit_once('/')?;
    Some((pool.parse::<IpNet>().ok()?, host.parse().ok()?))
}
