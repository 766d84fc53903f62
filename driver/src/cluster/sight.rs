//! What is seen of a part: by `tombolo cluster status`, doctor and metrics. All of it is at hand; nobody is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo_cluster::HostId;
use tombolo_cluster::node::{Called, View};

use super::seal::{Counts, Why};
pub use super::ways::Shown as Way;

/// How long after the last sign of it two hosts count as having one identifier.
const CLONED: Duration = Duration::from_secs(30);

/// What is seen of a part.
#[derive(Debug)]
pub struct Sight {
    /// The cluster.
    pub cluster: [u8; 16],
    /// What the node shows.
    pub view: View,
    /// The rows of all hosts that begin with `ep/` or `host`, if they were asked for.
    pub rows: Vec<(HostId, String, Vec<u8>)>,
    /// Datagrams that came, counted by what became of them.
    pub counts: Counts,
    /// What else was noted.
    pub noted: Noted,
    /// The ways to those hosts that have several.
    pub ways: BTreeMap<HostId, Vec<Way>>,
    /// The store that decides, and why it did not answer last, if it did not.
    pub store: Option<(String, Option<String>)>,
}

impl Sight {
    /// A host's name, or its identifier where none is known.
    pub fn name(&self, host: &HostId) -> String {
        let known = self.view.hosts.iter().find(|view| view.host == *host);
        known.map_or_else(|| host.to_string(), |view| view.name.clone())
    }
}

/// What a part notes on its way, for people.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// Datagrams that came and went.
    pub traffic: Traffic,
    /// Calls.
    pub calls: Calls,
    dropped: BTreeMap<&'static str, (Instant, SocketAddr)>,
    cloned: BTreeMap<HostId, (Instant, SocketAddr, SocketAddr)>,
    called: BTreeMap<HostId, Instant>,
    /// Rows of hosts that could not be read.
    unreadable: BTreeMap<HostId, u64>,
}

/// Datagrams and their bytes, since the part began.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct Traffic {
    pub received: u64,
    pub received_bytes: u64,
    pub sent: u64,
    pub sent_bytes: u64,
    /// Those that the kernel did not take.
    pub unsent: u64,
}

/// Calls, since the part began.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct Calls {
    /// Of other hosts', to this one.
    pub taken: u64,
    /// Of ours, by how they ended.
    pub answered: u64,
    pub failed: u64,
    pub refused: u64,
}

impl Noted {
    /// A datagram was sent, or could not be.
    pub fn sent(&mut self, sent: &std::io::Result<usize>) {
        let traffic = &mut self.traffic;
        match sent {
            Ok(bytes) => {
                traffic.sent += 1;
                traffic.sent_bytes += *bytes as u64;
            }
            Err(_) => traffic.unsent += 1,
        }
    }

    /// A datagram came.
    pub fn received(&mut self, bytes: usize) {
        self.traffic.received += 1;
        self.traffic.received_bytes += bytes as u64;
    }

    /// A datagram was not taken.
    pub fn dropped(&mut self, why: &Why, from: SocketAddr) {
        self.dropped.insert(why.name(), (Instant::now(), from));
    }

    /// Two hosts have one identifier.
    pub fn cloned(&mut self, host: HostId, one: SocketAddr, other: SocketAddr) {
        self.cloned.insert(host, (Instant::now(), one, other));
    }

    /// A call of ours has ended.
    pub fn called(&mut self, host: HostId, called: &Called) {
        match called {
            Called::Answer(_) => {
                self.calls.answered += 1;
                self.called.insert(host, Instant::now());
            }
            Called::Failed => self.calls.failed += 1,
            Called::Refused => self.calls.refused += 1,
        }
    }

    /// Another host has called.
    pub fn taken(&mut self, host: HostId) {
        self.calls.taken += 1;
        self.called.insert(host, Instant::now());
    }

    /// A row of a host can't be read.
    pub fn unreadable(&mut self, host: HostId) {
        *self.unreadable.entry(host).or_default() += 1;
    }

    /// How many rows of a host could not be read.
    pub fn unread(&self, host: &HostId) -> u64 {
        self.unreadable.get(host).copied().unwrap_or_default()
    }

    /// Forgets hosts that are no members.
    pub fn keep(&mut self, members: &BTreeSet<HostId>) {
        self.cloned.retain(|host, _| members.contains(host));
        self.called.retain(|host, _| members.contains(host));
        self.unreadable.retain(|host, _| members.contains(host));
    }

    /// When a datagram was not taken last for this reason, and what it gave for its source.
    pub fn last_dropped(&self, why: &str) -> Option<(Duration, SocketAddr)> {
        self.dropped.get(why).map(|(at, from)| (at.elapsed(), *from))
    }

    /// Identifiers that two hosts have, and where these are.
    pub fn clones(&self) -> impl Iterator<Item = (&HostId, SocketAddr, SocketAddr)> {
        let now = self.cloned.iter().filter(|(_, (at, ..))| at.elapsed() < CLONED);
        now.map(|(host, (_, one, other))| (host, *one, *other))
    }

    /// How long ago a host called, or answered a call.
    pub fn last_call(&self, host: &HostId) -> Option<Duration> {
        self.called.get(host).map(Instant::elapsed)
    }
}
