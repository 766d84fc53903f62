//! Announcements: containers of this host are told when an address of a network that spans hosts has got another hardware
//! address (see `tombolo_core::state::Sight`).
//!
//! What counts is what they saw last, also where nobody had the address for a while in between: a container that was removed
//! on one host is started on another seconds or hours later, and neighbour tables may still say what they said.
//! An address that is claimed by two hosts may go to and fro; then what is announced is held up, and the last word is said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tombolo_core::model::{Endpoint, EndpointId, Mac};
use tombolo_core::state::{Edit, Owner, Place};
use tombolo_core::world::{Key, Step, Value};

use super::{Engine, Journal};
use crate::kernel::{Announcement, Kernel};

/// Between two announcements of one address, so that there are three a second at most.
const BETWEEN: Duration = Duration::from_millis(350);

/// How long after a container has joined a wire its place there is told again: its link comes up a moment after we are asked,
/// and a frame may be lost.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// How many addresses that nobody has are remembered at most.
const GONE: usize = 1 << 14;

/// An address, and the pool that is the identity of its network.
pub(super) type Seen = (IpNet, IpAddr);

/// What containers of this host may believe.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    /// The last hardware address of addresses that nobody has, or of which an announcement is held up.
    last: BTreeMap<Seen, Mac>,
    /// When addresses were announced that were not long ago.
    sent: BTreeMap<Seen, Instant>,
    /// What is held up, and until when.
    held: BTreeMap<Seen, Instant>,
    /// Endpoints that have joined a wire, and when their places there are told again.
    wires: BTreeSet<(Instant, EndpointId)>,
}

/// The addresses among what news concerns.
pub(super) fn seen_of<'a>(owners: impl IntoIterator<Item = &'a Owner>) -> Vec<Seen> {
    let seen = |owner: &Owner| match owner {
        Owner::Remote(pool, Place::Address(address)) => Some((*pool, *address)),
        _ => None,
    };
    owners.into_iter().filter_map(seen).collect()
}

impl Announcements {
    /// When the next announcement is due that was held up.
    pub fn due(&self) -> Option<Instant> {
        let wires = self.wires.first().map(|(at, _)| *at);
        self.held.values().min().copied().into_iter().chain(wires).min()
    }

    fn note(&mut self, seen: Seen, mac: Mac) {
        // What is held up is what was told last.
        if self.held.contains_key(&seen) {
            return;
        }
        while self.last.len() >= GONE && !self.last.contains_key(&seen) {
            self.last.pop_first();
        }
        self.last.insert(seen, mac);
    }
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Notes what containers see, before it changes.
    pub(super) fn note_sights(&mut self, addresses: &[Seen]) {
        for seen @ (pool, address) in addresses {
            if let Some(sight) = self.state.sight(*pool, *address) {
                self.announcements.note(*seen, sight.mac);
            }
        }
    }

    /// Tells containers what they see now, where that is not what they saw.
    pub(super) fn announce(&mut self, addresses: &[Seen]) {
        let now = Instant::now();
        let told = &mut self.announcements;
        told.sent
            .retain(|_, at| now.saturating_duration_since(*at) < BETWEEN);
        let mut announcements = Vec::new();
        for seen @ (pool, address) in addresses {
            let Some(sight) = self.state.sight(*pool, *address) else {
                continue;
            };
            // What was held up is said even if it is what was said last: somebody may have asked meanwhile.
            let news = told.last.get(seen).is_some_and(|last| *last != sight.mac);
            if !news && !told.held.contains_key(seen) {
                told.last.remove(seen);
                continue;
            }
            if let Some(at) = told.sent.get(seen) {
                told.held.insert(*seen, *at + BETWEEN);
                continue;
            }
            told.held.remove(seen);
            told.last.remove(seen);
            if sight.watched {
                told.sent.insert(*seen, now);
                announcements.push(Announcement {
                    bridge: sight.bridge,
                    address: *address,
                    mac: sight.mac,
                });
            }
        }
        if announcements.is_empty() {
            return;
        }
        for announcement in &announcements {
            tracing::debug!("{announcement}");
        }
        if let Err(error) = self.kernel.announce(&announcements) {
            tracing::warn!(%error, "containers of this host may send to where an address was for a while");
        }
    }

    /// Says what was held up and is due.
    pub(super) fn announce_held(&mut self) {
        let now = Instant::now();
        let held = self.announcements.held.iter();
        let due: Vec<Seen> = held
            .filter(|(_, at)| **at <= now)
            .map(|(seen, _)| *seen)
            .collect();
        self.announce(&due);
        // An address that nobody has now is remembered as what it was.
        self.announcements.held.retain(|_, at| *at > now);
        while let Some((at, _)) = self.announcements.wires.first()
            && *at <= now
        {
            if let Some((_, id)) = self.announcements.wires.pop_first() {
                self.announce_on_wire(&id);
            }
        }
    }

    /// Tells those on a wire where an endpoint is now: whoever knew its address elsewhere, and the switches in between.
    fn announce_on_wire(&mut self, id: &EndpointId) {
        let announcements = self.state.places_on_wire(id);
        for announcement in announcements {
            let (link, address, mac) = announcement;
            let announcement = Announcement {
                bridge: link,
                address,
                mac,
            };
            tracing::debug!("{announcement}");
            if let Err(error) = self.kernel.announce(std::slice::from_ref(&announcement)) {
                tracing::warn!(%error, "others on the wire may send to where an address was for a while");
            }
        }
    }

    /// Tells of endpoints that have joined a wire by a change, now and again.
    fn announce_joined(&mut self, taken: &[Edit]) {
        let now = Instant::now();
        for edit in taken {
            let Edit::Endpoint(id, before) = edit else {
                continue;
            };
            let joined = |endpoint: &Endpoint| endpoint.sandbox.is_some();
            let joins = self.state.endpoint(id).is_some_and(joined) && !before.as_ref().is_some_and(joined);
            if joins && !self.state.places_on_wire(id).is_empty() {
                self.announce_on_wire(id);
                for after in AGAIN {
                    self.announcements.wires.insert((now + after, id.clone()));
                }
            }
        }
    }

    /// Notes what containers saw of what has changed while nobody looked, and gives the addresses.
    pub(super) fn note_strays(&mut self, steps: &[Step]) -> Vec<Seen> {
        let mut strays = Vec::new();
        for step in steps {
            let (Step::Change(key, Value::Mac(mac), _) | Step::Remove(key, Value::Mac(mac))) = step else {
                continue;
            };
            if let Key::Neighbour(bridge, address) = key
                && let Some(pool) = self.state.pool_of_bridge(bridge)
            {
                self.announcements.note((pool, *address), *mac);
                strays.push((pool, *address));
            }
        }
        strays
    }

    /// Tells containers what they see once a change is made. `taken` are the edits that take it back.
    pub(super) fn announce_change(&mut self, taken: &[Edit]) {
        let seen: Vec<Seen> = taken.iter().flat_map(|edit| self.state.sighted(edit)).collect();
        self.forget_sights(taken);
        self.announce(&seen);
        self.announce_joined(taken);
    }

    /// Forgets what was seen on networks that are gone.
    fn forget_sights(&mut self, taken: &[Edit]) {
        for edit in taken {
            let Edit::Network(id, Some(gone)) = edit else {
                continue;
            };
            let Some(pool) = gone.pool().filter(|_| self.state.network(id).is_none()) else {
                continue;
            };
            let told = &mut self.announcements;
            told.last.retain(|(on, _), _| *on != pool);
            told.sent.retain(|(on, _), _| *on != pool);
            told.held.retain(|(on, _), _| *on != pool);
        }
    }
}
