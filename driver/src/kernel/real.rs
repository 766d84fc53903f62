//! The kernel that this host runs.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use futures_util::FutureExt;
use ipnet::IpNet;
use tokio::time::timeout_at;
use tombolo_core::kinds::Theirs;
use tombolo_core::model::IfName;
use tombolo_core::world::{Family, Key, Setting, Step, Value, World};

use super::announce::Announcer;
use super::conntrack::Conntrack;
use super::docker_accept::{DockerAccept, Place};
use super::elements::Element;
use super::neighbours::is_entry;
use super::netlink::{Asked, Links, Port, has_settings};
use super::nft::{Nftables, Table};
use super::sandbox::on_this_thread;
use super::socket::Failure;
use super::user::User;
use super::vxlan::Tunnel;
use super::watch::Own;
use super::{Announcement, Error, Flow, Kernel, Observing, Placed, Removing, settings};

/// The Linux kernel, in the network namespace of the thread that uses this. It keeps nothing but open sockets, so a
/// future of it may be dropped at any moment: the step was then done or not, and the next call begins afresh.
pub struct Real {
    links: Links,
    nft: Nftables,
    docker: DockerAccept,
    conntrack: Conntrack,
    announcer: Announcer,
}

impl Default for Real {
    fn default() -> Self {
        Self::new()
    }
}

impl Real {
    /// Makes ready to speak to the kernel; nothing is opened yet.
    pub fn new() -> Self {
        Self {
            links: Links::new(),
            nft: Nftables::new(),
            docker: DockerAccept::default(),
            conntrack: Conntrack::default(),
            announcer: Announcer::default(),
        }
    }

    /// By what our own changes of firewall rules are known.
    pub fn own(&self) -> Own {
        self.nft.own()
    }

    async fn add(&mut self, key: &Key, value: &Value) -> Result<(), Failure> {
        match (key, value) {
            (Key::Table, Value::Present) => self.nft.load(&World::new()).await,
            (Key::Parent(name), value) => self.links.add_parent(name, value).await,
            (Key::Port(link), Value::Up) => self.links.raise(link, true).await,
            (Key::Way(link, address), Value::Present) => self.links.add_way(link, *address).await,
            (Key::Link(name) | Key::Child(name), value) => match Asked::of(name, value) {
                Some(asked) => self.links.add(&asked).await,
                None => Failure::ours(format!("no such link can be made: {value:?}")),
            },
            (Key::Setting(setting), Value::Number(number)) => self.set(setting, *number).await,
            (
                Key::Port(link),
                Value::On {
                    bridge,
                    isolated,
                    hairpin,
                },
            ) => {
                let port = Port {
                    bridge,
                    isolated: *isolated,
                    hairpin: *hairpin,
                };
                self.links.add_port(link, &port).await
            }
            (Key::UserTable, Value::Present) => self.nft.add_user().await,
            (Key::Tunnels, Value::Present) => self.nft.add_tunnels().await,
            (
                Key::Port(link),
                Value::Tunnel {
                    bridge,
                    isolated,
                    multicast,
                },
            ) => {
                let tunnel = Tunnel {
                    bridge,
                    isolated: *isolated,
                    multicast: *multicast,
                };
                self.links.add_tunnel(link, &tunnel).await
            }
            (Key::Route(net), Value::Hops(hops)) => self.links.add_route(*net, hops).await,
            (Key::Querier(link), Value::Present) => self.links.add_querier(link).await,
            (Key::Loopback(link), Value::Present) => self.links.add_loopback(link).await,
            (Key::Rate(link), Value::Rate(bits)) => self.links.limit(link, *bits).await,
            (Key::Address(link, address), Value::Present) => self.links.add_address(link, *address).await,
            (Key::DockerAccept(family), Value::Present) => match self.nft.is_there().await? {
                true => self.docker.add(&mut self.nft, *family).await,
                false => Failure::ours("table inet tombolo is not there"),
            },
            _ => match Element::of(key, value) {
                Some(element) => self.nft.add(&element).await,
                None => Failure::ours(format!("no such fact can be made: {value:?}")),
            },
        }
    }

    async fn set(&mut self, setting: &Setting, number: u32) -> Result<(), Failure> {
        let ours = match setting {
            Setting::Forward6 => self.links.observe(&mut World::new()).await?,
            _ => Vec::new(),
        };
        if let Some(link) = setting.link() {
            self.links.with_settings(link).await?;
        }
        settings::apply(setting, number, &ours)
    }

    async fn change(&mut self, key: &Key, value: &Value) -> Result<(), Failure> {
        match (key, value) {
            (Key::Parent(name), value) => self.links.change_parent(name, value).await,
            (Key::Link(name) | Key::Child(name), value) => match Asked::of(name, value) {
                Some(asked) => self.links.change(&asked).await,
                None => Failure::ours(format!("no link can become that: {value:?}")),
            },
            (Key::Publish(..) | Key::Source(..), _) => match Element::of(key, value) {
                Some(element) => self.nft.change(&element).await,
                None => Failure::ours("a published port and its endpoint must be of one family"),
            },
            _ => self.add(key, value).await,
        }
    }

    async fn remove(&mut self, key: &Key, value: &Value) -> Result<(), Failure> {
        match key {
            Key::Table => self.nft.unload().await,
            Key::Link(name) | Key::Child(name) | Key::Parent(name) => self.links.remove(name).await,
            Key::Way(_, address) => self.links.remove_route(IpNet::from(*address)).await,
            // It has no absence.
            Key::Setting(_) => Ok(()),
            Key::Port(link) if *value == Value::Up => self.links.raise(link, false).await,
            Key::Port(link) => self.links.remove_port(link).await,
            Key::Address(link, address) => {
                if address.addr().is_ipv4() && self.links.find_used(link).await?.is_some() {
                    settings::promote_secondaries(link)?;
                }
                self.links.remove_address(link, *address).await
            }
            Key::DockerAccept(family) => self.docker.remove(&mut self.nft, *family).await,
            Key::UserTable => self.nft.remove_user().await,
            Key::Tunnels => self.nft.remove_tunnels().await,
            Key::Route(net) => self.links.remove_route(*net).await,
            Key::Querier(link) => self.links.remove_querier(link).await,
            Key::Loopback(link) => self.links.remove_loopback(link).await,
            Key::Rate(link) => self.links.unlimit(link).await,
            _ => match Element::of(key, value) {
                Some(element) => self.nft.remove(&element).await,
                // Such an element cannot be, so it is gone.
                None => Ok(()),
            },
        }
    }

    /// Removes and adds elements at once; where that is refused, one after the other, for one that is gone already doesn't
    /// keep back the others.
    async fn exchange(&mut self, steps: &[Step], results: &mut Vec<Result<(), Error>>) {
        let elements = |removed: bool| -> Vec<Element> {
            let some = steps.iter().filter(|step| step.removes() == removed);
            some.filter_map(|step| Element::of(step.key(), &Value::Present))
                .collect()
        };
        if self.nft.exchange(&elements(true), &elements(false)).await.is_ok() {
            results.extend(steps.iter().map(|_| Ok(())));
            return;
        }
        for step in steps {
            results.push(self.apply(step).await);
        }
    }

    async fn look(&mut self) -> Result<World, Error> {
        let mut world = World::new();
        let links = self
            .links
            .observe(&mut world)
            .await
            .map_err(|e| unreadable("links and addresses", e))?;
        let bridges: Vec<_> = links
            .into_iter()
            .filter(|link| {
                let key = Key::Link(link.clone());
                world.get(&key).is_some_and(|value| has_settings(&key, value))
            })
            .collect();
        settings::observe(&bridges, &mut world).map_err(|e| unreadable("settings", e))?;
        let table = self
            .nft
            .observe()
            .await
            .map_err(|e| unreadable("table inet tombolo", e))?;
        let wanted = matches!(table, Table::Whole(_));
        match table {
            Table::Absent => {}
            Table::Damaged(how) => drop(world.insert(Key::Table, Value::Unfit(how))),
            Table::Whole(elements) => {
                world.insert(Key::Table, Value::Present);
                world.extend(elements);
            }
        }
        let tunnels = self.nft.tunnels().await;
        match tunnels.map_err(|e| unreadable("table bridge tombolo", e))? {
            Table::Absent => {}
            Table::Damaged(how) => drop(world.insert(Key::Tunnels, Value::Unfit(how))),
            Table::Whole(_) => drop(world.insert(Key::Tunnels, Value::Present)),
        }
        let user = self.nft.user().await;
        match user.map_err(|e| unreadable("table inet tombolo-user", e))? {
            User::Untouched => drop(world.insert(Key::UserTable, Value::Present)),
            // Whoever wants a table has one, and it is not ours to remove.
            User::Theirs if wanted => drop(world.insert(Key::UserTable, Value::Present)),
            User::Theirs | User::Unasked | User::Absent => {}
        }
        for family in Family::ALL {
            let place = self.docker.place(&mut self.nft, family).await;
            let value = match place.map_err(|e| unreadable("chain FORWARD", e))? {
                Place::Right => Value::Present,
                // Nothing to overrule: whoever wants the rule has what it is for. Our table tells that somebody does.
                Place::Nowhere if wanted => Value::Present,
                Place::Nowhere | Place::Missing => continue,
                Place::Early => Value::Unfit("before the jump to DOCKER-USER"),
            };
            world.insert(Key::DockerAccept(family), value);
        }
        Ok(world)
    }
}

fn unreadable(what: &'static str, why: impl Display) -> Error {
    Error::Unreadable {
        what,
        why: why.to_string(),
    }
}

/// How many elements go in one transaction.
const EXCHANGED: usize = 256;

/// Whether a fact is another host's part of a network, an element of a set.
fn is_part(key: &Key) -> bool {
    matches!(key, Key::Remote(..))
}

/// What became of a step, as an operator would type it, that failed.
fn failed(step: &dyn Display, failure: Failure) -> Error {
    let step = step.to_string();
    match failure {
        Failure::Refused { .. } => Error::Refused {
            step,
            why: failure.to_string(),
        },
        Failure::Broken(why) => Error::Unknown { step, why },
    }
}

/// Removes links, all at once if that can be; one that can't be removed keeps back no other one.
async fn remove(steps: &[Step]) -> Vec<Result<(), Error>> {
    let mut links = Links::new();
    let names: Vec<&IfName> = steps.iter().filter_map(Step::removed_link).collect();
    if names.len() == steps.len() && links.remove_many(&names).await.is_ok() {
        return steps.iter().map(|_| Ok(())).collect();
    }
    let mut results = Vec::with_capacity(steps.len());
    for step in steps {
        let removed = match step.removed_link() {
            Some(name) => links.remove(name).await,
            None => Failure::ours("it is no link that is removed"),
        };
        results.push(removed.map_err(|failure| failed(step, failure)));
    }
    results
}

impl Kernel for Real {
    fn observe(&mut self) -> impl Future<Output = Result<World, Error>> + Send {
        // On the heap: it is awaited within the engine's own large futures.
        Box::pin(self.look())
    }

    fn apply(&mut self, step: &Step) -> impl Future<Output = Result<(), Error>> + Send {
        Box::pin(async move {
            let done = match step {
                _ if is_entry(step.key()) => self.links.entry(step).await,
                Step::Add(key, value) => self.add(key, value).await,
                Step::Change(key, _, value) => self.change(key, value).await,
                Step::Remove(key, value) => self.remove(key, value).await,
            };
            done.map_err(|failure| failed(step, failure))
        })
    }

    fn observe_beside(&mut self) -> Observing {
        let mut other = Self {
            docker: self.docker.clone(),
            ..Self::new()
        };
        let observing = tokio::task::spawn_blocking(move || {
            let found = on_this_thread(async move { Ok(other.look().await) });
            found.unwrap_or_else(|failure| Err(unreadable("anything", failure)))
        });
        let broken = |error| Err(unreadable("anything", error));
        Box::pin(async move { observing.await.unwrap_or_else(broken) })
    }

    async fn named_link(&mut self, name: &IfName) -> Result<Option<Theirs>, Error> {
        super::routes::link_of(name).await
    }

    fn attach(&mut self, step: &Step, placed: &Placed) -> impl Future<Output = Result<(), Error>> + Send {
        let placed = placed.clone();
        Box::pin(async move {
            let made = match step {
                Step::Add(Key::Link(name) | Key::Child(name), value) => {
                    placed.make(&mut self.links, name.clone(), value.clone()).await
                }
                _ => Failure::ours("only a container's link can be made within a sandbox"),
            };
            made.map_err(|failure| failed(step, failure))
        })
    }

    fn detach(&mut self, step: &Step, sandbox: &Path) -> impl Future<Output = Result<(), Error>> + Send {
        let sandbox = sandbox.to_owned();
        Box::pin(async move {
            let taken = match step {
                Step::Remove(Key::Child(name), _) => super::placed::take_out(&sandbox, name).await,
                _ => Failure::ours("only a link on a wire is to be taken out of a sandbox"),
            };
            taken.map_err(|failure| failed(step, failure))
        })
    }

    async fn sweep(&mut self, wanted: BTreeSet<IfName>) -> Result<Vec<String>, Error> {
        let goes = move |alias: Option<&str>| {
            let is_it = |name: &IfName| Some(name.as_str()) == alias;
            !wanted.iter().any(is_it)
        };
        let swept = tokio::task::spawn_blocking(move || super::placed::sweep(goes)).await;
        let swept = swept.unwrap_or_else(|error| Err(io::Error::other(error)));
        swept.map_err(|error| Error::Refused {
            step: "looking for links that nobody wants in sandboxes".to_owned(),
            why: error.to_string(),
        })
    }

    fn apply_all(&mut self, steps: &[Step]) -> impl Future<Output = Vec<Result<(), Error>>> + Send {
        Box::pin(async move {
            let mut results = Vec::with_capacity(steps.len());
            // One after the other, but that entries which follow each other go together, and other hosts' parts of networks: where
            // two become one or one becomes two, there is no moment at which an address is in none.
            let together = |a: &Step, b: &Step| {
                is_entry(a.key()) && is_entry(b.key()) || is_part(a.key()) && is_part(b.key())
            };
            for run in steps.chunk_by(together) {
                match run {
                    [step] => results.push(self.apply(step).await),
                    [first, ..] if is_part(first.key()) => {
                        for some in run.chunks(EXCHANGED) {
                            self.exchange(some, &mut results).await;
                        }
                    }
                    run => {
                        let made = self.links.entries(run).await;
                        let told = |(step, made): (&Step, Result<(), Failure>)| {
                            made.map_err(|failure| failed(step, failure))
                        };
                        results.extend(run.iter().zip(made).map(told));
                    }
                }
            }
            results
        })
    }

    fn remove_links(&mut self, removals: &[Step]) -> Removing {
        let steps = removals.to_vec();
        let removing = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| format!("making a runtime: {e}"))?;
            let results = runtime.block_on(remove(&steps));
            // Nobody sees the links any more; the kernel may still wait for its processors to let go of them.
            runtime.shutdown_background();
            Ok(results)
        });
        let steps = removals.to_vec();
        Box::pin(async move {
            let removed = removing.await.unwrap_or_else(|e| Err(e.to_string()));
            removed.unwrap_or_else(|why: String| {
                let broken = |step| failed(step, Failure::Broken(why.clone()));
                steps.iter().map(|step| Err(broken(step))).collect()
            })
        })
    }

    fn load(&mut self, elements: &World) -> impl Future<Output = Result<(), Error>> + Send {
        Box::pin(async move {
            let loaded = self.nft.load(elements).await;
            loaded.map_err(|failure| failed(&"nft -f skeleton.nft", failure))
        })
    }

    fn forget(&mut self, flows: BTreeSet<Flow>) -> io::Result<()> {
        self.conntrack.forget(flows)
    }

    fn forgotten(
        &mut self,
        addresses: Option<&[IpAddr]>,
        deadline: Instant,
    ) -> impl Future<Output = bool> + Send {
        let forgotten = timeout_at(deadline.into(), self.conntrack.forgotten(addresses));
        forgotten.map(|in_time| in_time.is_ok())
    }

    fn announce(&mut self, announcements: &[Announcement]) -> io::Result<()> {
        self.announcer.send(announcements)
    }
}
