//! What happens, told to whoever follows it (`tombolo events`).
//!
//! ```text
//!   engine ──Events::tell──> bounded channel ──> Follower ──> /v1/events ──> tombolo events
//!                                        └─────> Follower ──> …
//! ```
//!
//! The engine never waits for a reader: the channel holds the last [`HELD`] events, and a reader that is slower than that
//! is told how many it has missed. An event is told after the change is stored and answered, so what is read here is true;
//! a change that was taken back is never mentioned. Where nobody follows, nothing is written or kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tombolo_core::model::{Endpoint, EndpointId, IfName, Network, NetworkId, Proto, Published};
use tombolo_core::state::{Edit, Owner};
use tombolo_core::world::{Key, Step};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::{Engine, Journal};
use crate::kernel::Kernel;

/// How many events a reader may be behind: two containers with as many ports as one can have.
const HELD: usize = 4096;
/// How many may follow at a time, so that they don't take all places of the control socket.
const FOLLOWERS: usize = 64;

/// Whose something is, with names as far as Docker has told them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_id: Option<NetworkId>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_name: Option<String>,
    /// The endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_id: Option<EndpointId>,
    /// The name of its container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
}

/// What happened. The names of variants and fields are those of the JSON that is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum What {
    /// A network: `created`, `removed`, or `named` (Docker has told its name).
    Network {
        /// What became of it.
        action: &'static str,
        /// Which.
        #[serde(flatten)]
        place: Place,
    },
    /// An endpoint: `created`, `joined`, `left`, `removed`, or `named` (Docker has told its container's name).
    Endpoint {
        /// What became of it.
        action: &'static str,
        /// Which.
        #[serde(flatten)]
        place: Place,
        /// Its IPv4 address.
        #[serde(skip_serializing_if = "Option::is_none")]
        ipv4: Option<IpAddr>,
        /// Its IPv6 address.
        #[serde(skip_serializing_if = "Option::is_none")]
        ipv6: Option<IpAddr>,
    },
    /// A port of this host: `published` or `unpublished`.
    Port {
        /// What became of it.
        action: &'static str,
        /// Whose.
        #[serde(flatten)]
        place: Place,
        /// The protocol.
        proto: Proto,
        /// The host's address.
        host_ip: IpAddr,
        /// The host's port.
        host_port: u16,
        /// The container's address.
        #[serde(skip_serializing_if = "Option::is_none")]
        container_ip: Option<IpAddr>,
        /// The container's port.
        port: u16,
    },
    /// An address on a wire: `conflict` (somebody there has it, so it was not given), or `unasked` (it was given, though it
    /// can't be told whether somebody has it).
    Address {
        /// What became of it.
        action: &'static str,
        /// The address.
        address: IpAddr,
        /// The link that leads to the wire.
        parent: IfName,
        /// Who has it, or why nobody could be asked.
        because: String,
    },
    /// A fact that somebody had changed: `repaired`.
    Fact {
        /// What became of it.
        action: &'static str,
        /// Its sort, as counted in `tombolo status`.
        fact: &'static str,
        /// What was done, as the line that an operator would type.
        step: String,
        /// Why the kernel was looked at.
        because: String,
        /// Whose it is.
        #[serde(flatten)]
        place: Place,
    },
    /// A problem of `tombolo status`, or of a tunnel: `appeared`, `changed` or `solved`.
    Problem {
        /// What became of it.
        action: &'static str,
        /// What it is about.
        about: String,
        /// What is wrong.
        problem: String,
        /// Whose it is.
        #[serde(flatten)]
        place: Place,
    },
    /// The Docker engine: `reachable` or `unreachable`.
    Docker {
        /// What became of it.
        action: &'static str,
        /// Its version.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// Why it can't be reached.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A record that Docker has forgotten: `freed`.
    Record {
        /// What became of it.
        action: &'static str,
        /// What it was: `network`, `endpoint`, `pool` or `lease`.
        record: &'static str,
        /// Its identifier, or a lease's address.
        id: String,
        /// Whose it was.
        #[serde(flatten)]
        place: Place,
    },
    /// All records: `imported`.
    Records {
        /// What became of them.
        action: &'static str,
    },
    /// A host of the cluster: `up`, `down`, `joined`, `left`, `forgotten` or `cloned`; or this host's own standing in it:
    /// `standing`.
    Host {
        /// What became of it.
        action: &'static str,
        /// Its identifier.
        host: String,
        /// Its name.
        name: String,
        /// More about it, in words.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// A network that is to be the same on all hosts: `made` or `removed` here because it was so on another host; `kept` (removed
    /// elsewhere, and used by containers on that host), `old` (made anew elsewhere, and the old one is used there), `refused` (it
    /// can't be made there), or `settled` after one of these.
    Replica {
        /// What became of it.
        action: &'static str,
        /// The network.
        network_name: String,
        /// The host.
        host_name: String,
        /// More about it, in words.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// This daemon: `following` (the first event of each reader) or `ending` (the last one).
    Daemon {
        /// What became of it.
        action: &'static str,
        /// Its version.
        version: &'static str,
    },
    /// These events: `missed` by a reader that was too slow.
    Events {
        /// What became of them.
        action: &'static str,
        /// How many.
        count: u64,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    what: &'a What,
}

impl What {
    /// The event as it is sent: one JSON object and a line end.
    pub fn line(&self) -> String {
        let mut time = String::new();
        // The same form as in the log. Writing to a text can't fail.
        SystemTime.format_time(&mut Writer::new(&mut time)).ok();
        let line = Line { time, what: self };
        let mut text =
            serde_json::to_string(&line).expect("events are plain structs, which always make JSON");
        text.push('\n');
        text
    }
}

/// Where events are told and followed.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<String>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(HELD))
    }
}

impl Events {
    /// Tells those who follow; never waits.
    pub fn tell(&self, what: &What) {
        if self.0.receiver_count() > 0 {
            // The last reader may have gone just now.
            self.0.send(what.line()).ok();
        }
    }

    /// Follows from now on; none where as many follow already as may.
    pub fn follow(&self) -> Option<Follower> {
        (self.0.receiver_count() < FOLLOWERS).then(|| Follower(self.0.subscribe()))
    }
}

/// Reads events.
#[derive(Debug)]
pub struct Follower(broadcast::Receiver<String>);

impl Follower {
    /// The next event's line, or how many were missed. None when nothing more will happen. Nothing is lost where it is
    /// dropped before it is ready.
    pub async fn next(&mut self) -> Option<String> {
        match self.0.recv().await {
            Ok(line) => Some(line),
            Err(RecvError::Lagged(count)) => Some(
                What::Events {
                    action: "missed",
                    count,
                }
                .line(),
            ),
            Err(RecvError::Closed) => None,
        }
    }
}

/// What was told last of things that are true for a while.
#[derive(Debug, Default)]
pub(super) struct Told {
    problems: BTreeMap<String, String>,
    docker: bool,
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Tells events to these readers.
    pub fn telling(mut self, events: Events) -> Self {
        self.events = events;
        self
    }

    /// Whose something is.
    pub(super) fn place(&self, owner: Option<&Owner>) -> Place {
        match owner {
            None | Some(Owner::Host) => Place::default(),
            Some(Owner::Remote(..)) => Place::default(),
            Some(Owner::Network(id)) => self.place_of_network(id),
            Some(Owner::Endpoint(id)) => match self.state.endpoint(id) {
                Some(endpoint) => self.place_of(endpoint),
                None => Place::default(),
            },
        }
    }

    pub(super) fn place_of_network(&self, id: &NetworkId) -> Place {
        Place {
            network_id: Some(id.clone()),
            network_name: self.docker.network_name(id).map(str::to_owned),
            ..Place::default()
        }
    }

    pub(super) fn place_of(&self, endpoint: &Endpoint) -> Place {
        Place {
            endpoint_id: Some(endpoint.id.clone()),
            container_name: self.docker.container_name(&endpoint.id).map(str::to_owned),
            ..self.place_of_network(&endpoint.network)
        }
    }

    /// Tells what a change has made, from the edits that would take it back.
    pub(super) fn tell_change(&self, taken: &[Edit]) {
        // The last edit of a record is the one with its oldest value.
        let (mut networks, mut endpoints) = (BTreeMap::new(), BTreeMap::new());
        for edit in taken {
            match edit {
                Edit::Network(id, old) => drop(networks.insert(id, old.as_ref())),
                Edit::Endpoint(id, old) => drop(endpoints.insert(id, old.as_ref())),
                Edit::Ipam(_) => {}
            }
        }
        let networks = |was: bool| {
            networks
                .iter()
                .filter(move |(_, old)| old.is_some() == was)
                .map(|(id, _)| *id)
        };
        for id in networks(false).filter(|id| self.state.network(id).is_some()) {
            self.tell_network("created", id);
        }
        for (id, old) in &endpoints {
            self.tell_endpoint_change(*old, self.state.endpoint(id));
        }
        for id in networks(true).filter(|id| self.state.network(id).is_none()) {
            self.tell_network("removed", id);
        }
    }

    pub(super) fn tell_network(&self, action: &'static str, id: &NetworkId) {
        let place = self.place_of_network(id);
        tracing::info!(network = place.network_name, network_id = %id, "network {action}");
        self.events.tell(&What::Network { action, place });
    }

    fn tell_endpoint_change(&self, old: Option<&Endpoint>, new: Option<&Endpoint>) {
        let ports = |e: Option<&Endpoint>| -> BTreeSet<Published> {
            e.map(|e| e.published.iter().cloned().collect())
                .unwrap_or_default()
        };
        let joined = |e: Option<&Endpoint>| e.is_some_and(|e| e.sandbox.is_some());
        let (had, has) = (ports(old), ports(new));
        if let Some(old) = old {
            had.difference(&has)
                .for_each(|p| self.tell_port("unpublished", old, p));
            if joined(Some(old)) && !joined(new) {
                self.tell_endpoint("left", old);
            }
            if new.is_none() {
                self.tell_endpoint("removed", old);
            }
        }
        if let Some(new) = new {
            if old.is_none() {
                self.tell_endpoint("created", new);
            }
            if joined(Some(new)) && !joined(old) {
                self.tell_endpoint("joined", new);
            }
            has.difference(&had)
                .for_each(|p| self.tell_port("published", new, p));
        }
    }

    pub(super) fn tell_endpoint(&self, action: &'static str, endpoint: &Endpoint) {
        let place = self.place_of(endpoint);
        let (ipv4, ipv6) = (endpoint.address(false), endpoint.address(true));
        let (ipv4, ipv6) = (ipv4.map(|a| a.addr()), ipv6.map(|a| a.addr()));
        let (network, container) = (&place.network_name, &place.container_name);
        let address = ipv4.or(ipv6).map(tracing::field::display);
        tracing::info!(network, container, address, endpoint_id = %endpoint.id, "endpoint {action}");
        self.events.tell(&What::Endpoint {
            action,
            place,
            ipv4,
            ipv6,
        });
    }

    fn tell_port(&self, action: &'static str, endpoint: &Endpoint, published: &Published) {
        let place = self.place_of(endpoint);
        let (network, container) = (&place.network_name, &place.container_name);
        // A container may have thousands.
        tracing::debug!(network, container, %published, endpoint_id = %endpoint.id, "port {action}");
        self.events.tell(&What::Port {
            action,
            place,
            proto: published.proto,
            host_ip: published.host,
            host_port: published.host_port,
            container_ip: endpoint.address(published.host.is_ipv6()).map(|a| a.addr()),
            port: published.port,
        });
    }

    /// Notes that a step has put right what somebody had changed.
    pub(super) fn repaired(&mut self, step: &Step, why: &str, tell: bool) {
        let fact = super::sort(step.key());
        *self.repairs.entry(fact).or_default() += 1;
        if !tell {
            return;
        }
        let place = self.place(self.state.owner(step.key()).as_ref());
        let (network, container) = (&place.network_name, &place.container_name);
        tracing::info!(%step, because = why, network, container, "repaired");
        self.events.tell(&What::Fact {
            action: "repaired",
            fact,
            step: step.to_string(),
            because: why.to_owned(),
            place,
        });
    }

    /// Tells which problems are new, other or gone, and whether the Docker engine has come or gone.
    pub(super) fn tell_standing(&mut self) {
        let problem = |action, about: &str, problem: &str, place| {
            self.events.tell(&What::Problem {
                action,
                about: about.to_owned(),
                problem: problem.to_owned(),
                place,
            });
        };
        for (about, text) in &self.told.problems {
            if !self.problems.contains_key(about) {
                problem("solved", about, text, Place::default());
            }
        }
        for (about, now) in &self.problems {
            let place = || self.place(now.owner.as_ref());
            match self.told.problems.get(about) {
                None => problem("appeared", about, &now.text, place()),
                Some(told) if *told != now.text => problem("changed", about, &now.text, place()),
                Some(_) => {}
            }
        }
        let serves = self.docker.serves();
        if serves != self.told.docker {
            self.events.tell(&What::Docker {
                action: if serves { "reachable" } else { "unreachable" },
                version: self.docker.version().filter(|_| serves).map(str::to_owned),
                error: self.docker.error().map(str::to_owned),
            });
        }
        let text = |(about, problem): (&String, &Problem)| (about.clone(), problem.text.clone());
        self.told = Told {
            problems: self.problems.iter().map(text).collect(),
            docker: serves,
        };
    }

    /// Tells the names that Docker has told since the last look.
    pub(super) fn tell_names(&mut self, before: &super::reconcile::Names) {
        let news = |network: &&Network| {
            let name = self.docker.network_name(&network.id);
            name.is_some() && name != before.networks.get(&network.id).map(String::as_str)
        };
        let mut named = false;
        for network in self.state.networks().filter(news) {
            self.tell_network("named", &network.id);
            named = true;
        }
        if named {
            self.touched.network_named();
        }
        let news = |endpoint: &&Endpoint| {
            let name = self.docker.container_name(&endpoint.id);
            name.is_some() && name != before.containers.get(&endpoint.id).map(String::as_str)
        };
        let named: Vec<EndpointId> = self
            .state
            .endpoints()
            .filter(news)
            .map(|e| e.id.clone())
            .collect();
        for id in named {
            self.touched.named(&id);
            if let Some(endpoint) = self.state.endpoint(&id) {
                self.tell_endpoint("named", endpoint);
            }
        }
    }
}

/// Something that went wrong and is being tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// What is wrong.
    pub text: String,
    /// What would put it right, as the line that an operator would type.
    pub step: Option<String>,
    /// Whose it is.
    pub owner: Option<Owner>,
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self {
            text,
            step: None,
            owner: None,
        }
    }
}

/// What a problem with a fact is about, as `tombolo status` has it.
pub(super) fn about(key: &Key) -> String {
    format!("{key:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(count: u64) -> What {
        What::Events {
            action: "missed",
            count,
        }
    }

    #[test]
    fn an_event_is_one_line_of_json_with_its_time_first() {
        let what = What::Port {
            action: "published",
            place: Place {
                network_name: Some("de\nmo".to_owned()),
                ..Place::default()
            },
            proto: Proto::Tcp,
            host_ip: IpAddr::from([0, 0, 0, 0]),
            host_port: 8080,
            container_ip: Some(IpAddr::from([10, 208, 0, 2])),
            port: 80,
        };
        let line = what.line();
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let (time, rest) = line.split_once(',').unwrap();
        assert!(
            time.starts_with("{\"time\":\"2") && time.ends_with("Z\""),
            "{time}"
        );
        let expected = r#""type":"port","action":"published","network_name":"de\nmo","proto":"tcp","#
            .to_owned()
            + r#""host_ip":"0.0.0.0","host_port":8080,"container_ip":"10.208.0.2","port":80}"#
            + "\n";
        assert_eq!(rest, expected);
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_many_it_missed_and_goes_on() {
        let events = Events::default();
        let mut follower = events.follow().unwrap();
        let told = 2 * HELD as u64 + 5;
        for count in 0..told {
            events.tell(&missed(count));
        }
        let mut next = async || {
            let line = follower.next().await.unwrap();
            serde_json::from_str::<serde_json::Value>(&line).unwrap()["count"].as_u64()
        };
        let lost = next().await.unwrap();
        assert_eq!(lost, told - HELD as u64);
        for count in lost..told {
            assert_eq!(next().await, Some(count));
        }
    }

    #[tokio::test]
    async fn a_reader_that_goes_makes_room_for_another() {
        let events = Events::default();
        let mut followers: Vec<_> = (0..FOLLOWERS).map(|_| events.follow().unwrap()).collect();
        assert!(events.follow().is_none());
        followers.pop();
        let mut last = events.follow().unwrap();
        drop(events);
        assert_eq!(last.next().await, None);
    }
}
