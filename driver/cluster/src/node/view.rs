//! What people are shown of the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;

use super::{Fill, Node, Standing};

/// How a host is doing, as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It is this host.
    Here,
    /// It is there.
    Up,
    /// It was taken for dead so many milliseconds ago; its rows are hidden.
    Down(u64),
    /// Nothing was heard of it since the start.
    Unknown,
}

/// A host as seen from here.
#[derive(Debug, Clone, PartialEq)]
pub struct HostView {
    /// Its identifier.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Where it is reached, as far as is known.
    pub address: Option<std::net::SocketAddr>,
    /// How it is doing.
    pub link: Link,
    /// How many milliseconds ago it was heard of.
    pub heard_ms: Option<u64>,
    /// How long a question and its answer took at last, in milliseconds.
    pub rtt_ms: Option<u64>,
    /// How far its clock is ahead of ours, in milliseconds.
    pub clock_ms: Option<i64>,
    /// How many rows it has.
    pub rows: usize,
    /// Messages and rows of it that could not be read or were refused.
    pub faults: u64,
}

/// A pool of the cluster as seen from here.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolView {
    /// The pool.
    pub pool: IpNet,
    /// The name that it goes by, if it has one.
    pub net: Option<String>,
    /// The kind of network.
    pub kind: String,
    /// Who founded it.
    pub founder: HostId,
    /// The pieces of each host.
    pub pieces: BTreeMap<HostId, Vec<IpNet>>,
    /// How full each host's share is, as it told.
    pub fills: BTreeMap<HostId, Fill>,
    /// Who would be asked for space next.
    pub next: Option<HostId>,
    /// Pieces that two hosts claim: nothing may be, so a person must look.
    pub disputed: Vec<IpNet>,
}

/// The cluster as seen from here.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// This host.
    pub me: HostId,
    /// Whether it may give addresses.
    pub standing: Standing,
    /// How many decrees there were.
    pub index: u64,
    /// The number of the secret in force.
    pub secret: u32,
    /// All hosts.
    pub hosts: Vec<HostView>,
    /// All pools.
    pub pools: Vec<PoolView>,
    /// Changes that wait to be gossiped.
    pub waiting: usize,
}

impl Node {
    /// The cluster as seen from here.
    pub fn view(&self) -> View {
        let charter = self.charter();
        View {
            me: self.me,
            standing: self.standing().clone(),
            index: charter.index,
            secret: charter.secret.number,
            hosts: charter.hosts.keys().map(|host| self.host_view(*host)).collect(),
            pools: charter.pools.keys().map(|pool| self.pool_view(*pool)).collect(),
            waiting: self.membership.waiting(),
        }
    }

    /// This host.
    pub fn me(&self) -> HostId {
        self.me
    }

    /// How many others are there.
    pub fn alive_count(&self) -> usize {
        self.membership.alive_count()
    }

    /// How a host is doing.
    pub fn link(&self, host: &HostId) -> Link {
        if *host == self.me {
            Link::Here
        } else if self.is_alive(host) {
            Link::Up
        } else if let Some(since) = self.down.get(host) {
            Link::Down(millis(self.now.since(*since)))
        } else {
            Link::Unknown
        }
    }

    /// The pieces of a pool that other hosts own, as far as is known here.
    pub fn pieces_of_others(&self, pool: IpNet) -> BTreeMap<IpNet, HostId> {
        let ownership = tombolo_ipam::share::resolve(pool, self.space.all_of(pool, self.me));
        let owners = ownership.owners.into_iter();
        owners.filter(|(_, owner)| *owner != self.me).collect()
    }

    fn host_view(&self, host: HostId) -> HostView {
        let heard = self.heard.get(&host).copied().unwrap_or_default();
        let link = self.link(&host);
        let address = match link {
            Link::Here => Some(self.membership.me().address),
            _ => self.address(&host),
        };
        HostView {
            host,
            name: self.name(&host),
            address,
            link,
            heard_ms: heard.at.map(|at| millis(self.now.since(at))),
            rtt_ms: heard.rtt.map(millis),
            clock_ms: heard.clock_ms,
            rows: self.table.rows_of(host).count(),
            faults: self.strange.get(&host).copied().unwrap_or(0) + self.faults_of(&host),
        }
    }

    fn faults_of(&self, host: &HostId) -> u64 {
        let faults = self.table.faults().get(host).copied().unwrap_or_default();
        faults.undecodable + faults.contradictions + faults.too_large + faults.over_limit
    }

    fn pool_view(&self, pool: IpNet) -> PoolView {
        let ownership = tombolo_ipam::share::resolve(pool, self.space.all_of(pool, self.me));
        let mut pieces: BTreeMap<HostId, Vec<IpNet>> = BTreeMap::new();
        for (net, owner) in &ownership.owners {
            pieces.entry(*owner).or_default().push(*net);
        }
        let hosts = self.charter().hosts.keys();
        let fills: BTreeMap<HostId, Fill> = hosts
            .filter_map(|host| {
                let fill = if *host == self.me {
                    self.space.own_fill(&pool)
                } else {
                    self.space.fill(&pool, host)
                };
                fill.map(|fill| (*host, fill))
            })
            .collect();
        let others = fills
            .iter()
            .filter(|(host, fill)| **host != self.me && self.is_alive(host) && fill.free > 0);
        let founded = self.charter().pools.get(&pool);
        PoolView {
            pool,
            net: founded.and_then(|founded| founded.definition.net.clone()),
            kind: founded
                .map(|founded| founded.definition.kind.clone())
                .unwrap_or_default(),
            founder: founded.map_or(self.me, |founded| founded.founder),
            next: others.max_by_key(|(_, fill)| fill.free).map(|(host, _)| *host),
            pieces,
            fills,
            disputed: ownership
                .conflicts
                .iter()
                .filter(|conflict| conflict.leasing)
                .map(|conflict| conflict.net)
                .collect(),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
