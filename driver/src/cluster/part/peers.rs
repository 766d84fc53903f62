//! What other hosts have, for the data planes: their endpoints, their pieces of pools, and how they are reached. It is told to
//! the engine as it comes, and all of it once after a start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tombolo_cluster::HostId;
use tombolo_cluster::membership::Seat;
use tombolo_cluster::node::SHARE;
use tombolo_cluster::table::{Seen, Standing};
use tombolo_core::kinds::{Agreed, Reach, Underlay, host_gateway};
use tombolo_core::peers::{ENDPOINT, EndpointRow, GROUPS, GroupsRow, HOST, HostRow, PARTS, is_a_hosts};
use tombolo_core::state::{Heard, News};
use tombolo_core::world::Hop;

use super::Part;
use super::hidden::{Hidden, is_hidden};
use crate::dns::{self, Entry};
use crate::engine::Ask;
use crate::kernel::routes;
use crate::replicas::NETWORK;

/// What the engine has been told, and what it has yet to be told.
#[derive(Debug, Default)]
pub(super) struct Told {
    news: News,
    names: dns::News,
    pieces: BTreeMap<IpNet, BTreeMap<IpNet, HostId>>,
    reach: BTreeMap<HostId, Reach>,
    pub(super) hidden: Hidden,
    underlay: Option<Underlay>,
    /// The cluster's pools, of which what others hear is taken in.
    pools: BTreeSet<IpNet>,
    /// Whether pieces may have changed, or how hosts are reached.
    pieces_due: bool,
    reach_due: bool,
    /// When it could not be read how hosts are reached.
    reach_failed: Option<Instant>,
    /// Whether hosts may have told other addresses of theirs.
    ways_due: bool,
    /// When all there is will be told, until that has been done.
    all_due: Option<Instant>,
    /// Whether another host was met.
    met: bool,
}

/// How long after the first other host was met all there is is told, if not all that are met have told before what has changed:
/// what was remembered may be old, and what the kernel has of an earlier run is as good.
const CAUGHT_UP: Duration = Duration::from_millis(500);

/// How long another host is waited for.
const ALONE: Duration = Duration::from_secs(3);

/// How long after a failure it is read again how hosts are reached.
const READ_AGAIN: Duration = Duration::from_secs(3);

impl Told {
    /// Of a part that begins.
    pub(super) fn beginning() -> Self {
        Self {
            all_due: Some(Instant::now() + ALONE),
            ways_due: true,
            ..Self::default()
        }
    }

    /// Another host is there.
    pub(super) fn met(&mut self) {
        if !std::mem::replace(&mut self.met, true) {
            let soon = Instant::now() + CAUGHT_UP;
            self.all_due = self.all_due.map(|due| due.min(soon));
        }
    }

    /// When all there is is to be told, if it has not been.
    pub(super) fn due(&self) -> Option<tokio::time::Instant> {
        self.all_due.map(tokio::time::Instant::from_std)
    }

    /// Somebody may be reached elsewhere, or otherwise, now.
    pub(super) fn look_again(&mut self) {
        self.reach_due = true;
    }

    /// A host may have told, or be, something else.
    pub(super) fn host_changed(&mut self) {
        (self.reach_due, self.ways_due) = (true, true);
    }

    /// Pools may be others, or their pieces others' now.
    pub(super) fn count_again(&mut self) {
        self.pieces_due = true;
        self.host_changed();
    }
}

impl Part {
    /// Begins with all there is.
    pub(super) fn tell_all_peers(&mut self) {
        self.told = Told {
            met: self.told.met,
            hidden: std::mem::take(&mut self.told.hidden).begin_again(),
            pools: self.node.charter().pools.keys().copied().collect(),
            news: News {
                everything: true,
                ..News::default()
            },
            names: dns::News {
                everything: true,
                ..dns::News::default()
            },
            pieces_due: true,
            reach_due: true,
            ways_due: true,
            ..Told::default()
        };
        let hosts = self.node.table().hosts();
        let hosts: Vec<(HostId, Standing)> = hosts.map(|(host, _, standing)| (host, standing)).collect();
        // Host by host: a copy of all rows at once would be the most that this process ever holds.
        for (host, standing) in hosts {
            let rows = self.node.table().rows_of(host);
            let rows: Vec<_> = rows.map(|(key, body)| (key.clone(), body.clone())).collect();
            for (key, body) in rows {
                self.told
                    .hidden
                    .note(host, key.as_str(), true, Some(standing), Instant::now());
                self.note_row(host, key.as_str(), Some(&body));
            }
        }
        self.around.replicas.caught_up();
    }

    /// Tells that a host is up, or down, of whose networks something is known.
    pub(super) fn note_link(&self, host: HostId, up: bool) {
        let rows = self.node.table().rows_of(host);
        let keys = rows
            .map(|(key, _)| key.as_str())
            .filter(|key| key.starts_with(NETWORK));
        let keys: Vec<&str> = keys.collect();
        self.around.replicas.link(host, up.then_some(&keys));
    }

    /// Notes rows that were seen to change.
    pub(super) fn note_seen(&mut self, seen: &[Seen]) {
        for row in seen {
            let standing = self.node.table().standing(row.origin);
            let (key, gone) = (row.key.as_str(), row.after.is_none());
            if !self
                .told
                .hidden
                .note(row.origin, key, gone, standing, Instant::now())
            {
                self.note_row(row.origin, key, row.after.as_deref());
            }
        }
    }

    pub(super) fn note_row(&mut self, host: HostId, key: &str, body: Option<&[u8]>) {
        if host == self.me {
            return;
        }
        if key == HOST {
            self.told.host_changed();
        } else if key.starts_with(SHARE) {
            self.told.pieces_due = true;
        } else if let Some(endpoint) = key.strip_prefix(ENDPOINT) {
            let row = body.and_then(|body| self.endpoint_row(host, key, body));
            let remote = row.as_ref().and_then(EndpointRow::remote);
            let entry = row.and_then(|row| Entry::of(&row, None));
            let endpoint: Arc<str> = endpoint.into();
            self.told.names.entries.push(((host, endpoint.clone()), entry));
            self.told.news.endpoints.push((host, endpoint, remote));
        } else if key.starts_with(NETWORK) {
            // That a host is down says nothing of its networks.
            let hidden = body.is_none() && is_hidden(self.node.table().standing(host));
            if !hidden && let Err(error) = self.around.replicas.heard(host, key, body) {
                self.unreadable(host, key, &error);
            }
        } else if key.starts_with(GROUPS) {
            let heard = body.and_then(|body| self.heard(host, key, body));
            self.told.news.heard.push((host, key.into(), heard));
        }
    }

    /// What a row tells. One that can't be read is counted, and tells that there is nothing.
    fn endpoint_row(&mut self, host: HostId, key: &str, body: &[u8]) -> Option<EndpointRow> {
        let row = serde_json::from_slice(body);
        row.inspect_err(|error| self.unreadable(host, key, &error.to_string()))
            .ok()
    }

    /// The same for one about groups.
    fn heard(&mut self, host: HostId, key: &str, body: &[u8]) -> Option<Heard> {
        let v6 = self.node.seat().address.is_ipv6();
        let fits = |heard: Heard| match heard {
            _ if !GroupsRow::is_key(key, heard.pool) => Err(format!("pool: {} has no such key", heard.pool)),
            _ if !is_a_hosts(heard.via) || heard.via.is_ipv6() != v6 => {
                Err(format!("via: {} is no host's here", heard.via))
            }
            heard => Ok(heard),
        };
        let heard = GroupsRow::read(body).and_then(fits);
        let heard = heard
            .inspect_err(|error| self.unreadable(host, key, error))
            .ok()?;
        // There may be as many as a host likes; those of the cluster's pools are few.
        self.told.pools.contains(&heard.pool).then_some(heard)
    }

    fn unreadable(&mut self, host: HostId, key: &str, error: &str) {
        tracing::warn!(host = self.node.name(&host), key, %error, "a row of another host can't be read, and is passed over");
        self.noted.unreadable(host);
    }

    /// Tells the engine what is new, if anything is.
    pub(super) async fn tell_peers(&mut self) {
        if std::mem::take(&mut self.told.ways_due) {
            self.know_ways();
        }
        if self.told.reach_due {
            // A host that dies right after it has joined must find the others again.
            self.notes.seats(self.node.seats());
        }
        let vtep = self.node.seat().address.ip();
        let underlay = Underlay {
            vtep,
            several: self.places.len() > 1,
            port: self.around.vxlan_port,
        };
        if self.told.underlay != Some(underlay) {
            self.told.underlay = Some(underlay);
            self.told.news.underlay = Some(underlay);
        }
        if self.told.all_due.is_some() && self.node.has_caught_up() {
            self.tell_all_peers();
        }
        if self.told.all_due.is_some() {
            // All that is of others will be told soon; tunnels need not wait for it.
            self.told.news = News {
                underlay: self.told.news.underlay,
                ..News::default()
            };
            self.told.names = dns::News::default();
            return self.send_news().await;
        }
        self.note_hidden();
        self.ask_hidden();
        if std::mem::take(&mut self.told.pieces_due) {
            self.note_pools();
            self.gather_pieces();
            let pools = self.node.charter().pools.iter();
            let agreed = pools.map(|(pool, founded)| (*pool, &founded.definition));
            let agreed = agreed.filter(|(_, definition)| definition.vni.is_some());
            self.told.news.agreed = agreed
                .map(|(pool, definition)| {
                    let (vni, mtu) = (definition.vni, definition.mtu);
                    (pool, Agreed { vni, mtu })
                })
                .collect();
        }
        // It is not waited for the kernel at every turn where it is slow to answer.
        let rests = |failed: Instant| failed.elapsed() < READ_AGAIN;
        if self.told.reach_due && !self.told.reach_failed.is_some_and(rests) {
            self.told.reach_due = !self.gather_reach().await;
            self.told.reach_failed = self.told.reach_due.then(Instant::now);
        }
        if self.told.reach_due && self.told.news.everything {
            // Told without it, the other hosts would be taken for ones that are not reached.
            return;
        }
        self.send_news().await;
    }

    async fn send_news(&mut self) {
        let names = std::mem::take(&mut self.told.names);
        if names != dns::News::default() {
            self.around.names.hear(names, self.me);
        }
        let news = std::mem::take(&mut self.told.news);
        if news != News::default() {
            // An engine that has ended needs no news.
            self.around.asks.send(Ask::Peers(news)).await.ok();
        }
    }

    /// Takes in what is heard on pools that are new.
    fn note_pools(&mut self) {
        let now: BTreeSet<IpNet> = self.node.charter().pools.keys().copied().collect();
        let before = std::mem::replace(&mut self.told.pools, now.clone());
        let table = self.node.table();
        let hosts: Vec<HostId> = table.hosts().map(|(host, ..)| host).collect();
        let keys = now
            .difference(&before)
            .flat_map(|pool| (0..PARTS).map(|part| GroupsRow::key(*pool, part)));
        let rows = keys.flat_map(|key| hosts.iter().map(move |host| (*host, key.clone())));
        let there = rows.filter_map(|(host, key)| {
            let shown = !is_hidden(table.standing(host));
            let body = table.get(host, &key).filter(|_| shown)?.clone();
            Some((host, key, body))
        });
        for (host, key, body) in there.collect::<Vec<_>>() {
            self.note_row(host, &key, Some(&body));
        }
    }

    fn gather_pieces(&mut self) {
        let pools = self.node.charter().pools.iter();
        let routed = pools
            .filter(|(_, founded)| founded.definition.kind == host_gateway::NAME)
            .map(|(pool, _)| *pool);
        // What a host owns that failed is nobody's for the moment.
        let there =
            |host: &HostId| !is_hidden(self.node.table().standing(*host)) || self.told.hidden.keeps(host);
        let pieces = |pool: IpNet| {
            let all = self.node.pieces_of_others(pool).into_iter();
            all.filter(|(_, host)| there(host)).collect()
        };
        let now: BTreeMap<IpNet, BTreeMap<IpNet, HostId>> = routed.map(|pool| (pool, pieces(pool))).collect();
        let everything = self.told.news.everything;
        for pool in self.told.pieces.keys().filter(|pool| !now.contains_key(pool)) {
            self.told.news.pieces.insert(*pool, BTreeMap::new());
        }
        for (pool, pieces) in &now {
            if everything || self.told.pieces.get(pool) != Some(pieces) {
                self.told.news.pieces.insert(*pool, pieces.clone());
            }
        }
        self.told.pieces = now;
    }

    /// Looks how the other hosts are reached, where a network cares, or they have several ways. Whether that could be read.
    async fn gather_reach(&mut self) -> bool {
        let pools = &self.node.charter().pools;
        let routed = pools
            .values()
            .any(|founded| founded.definition.kind == host_gateway::NAME);
        let mut ends: Vec<(HostId, End)> = Vec::new();
        let mut now: BTreeMap<HostId, Reach> = BTreeMap::new();
        for seat in self.other_seats() {
            let ways = self.ways.usable(&seat.host);
            if routed {
                ends.extend(
                    self.ends(seat.host, seat.address.ip(), &ways)
                        .map(|end| (seat.host, end)),
                );
            }
            if routed || !ways.is_empty() {
                let reach = Reach {
                    ways,
                    ..Reach::default()
                };
                now.insert(seat.host, reach);
            }
        }
        let addresses: Vec<IpAddr> = ends.iter().map(|(_, end)| end.address).collect();
        let links = match addresses.is_empty() {
            true => Vec::new(),
            false => match routes::neighbours(&addresses).await {
                Ok(links) => links,
                Err(error) => {
                    tracing::warn!(%error, "the ways to other hosts can't be read");
                    return false;
                }
            },
        };
        for ((host, end), link) in ends.into_iter().zip(links) {
            let (Some(link), Some(reach)) = (link, now.get_mut(&host)) else {
                continue;
            };
            let hop = |via| Hop {
                via,
                link: link.clone(),
            };
            if end.address.is_ipv4() {
                reach.v4.push(hop(end.address));
            }
            // Through IPv6 a host is reached at the address that it has on that wire only, whatever else it has.
            let v6 = end.link_local.map(IpAddr::V6);
            reach
                .v6
                .extend(v6.or(Some(end.address).filter(IpAddr::is_ipv6)).map(hop));
        }
        for reach in now.values_mut() {
            reach.v4.sort();
            reach.v6.sort();
        }
        let news = &mut self.told.news.reach;
        for host in self.told.reach.keys().filter(|host| !now.contains_key(host)) {
            news.push((*host, None));
        }
        for (host, reach) in &now {
            if self.told.news.everything || self.told.reach.get(host) != Some(reach) {
                news.push((*host, Some(reach.clone())));
            }
        }
        self.told.reach = now;
        true
    }

    /// The ends of the ways to a host: `ways`, or the address that stands for it where it has no other.
    fn ends(&self, host: HostId, main: IpAddr, ways: &[IpAddr]) -> impl Iterator<Item = End> {
        let row = self.host_row_of(&host).unwrap_or_default();
        let addresses = match ways {
            [] => vec![main],
            ways => ways.to_vec(),
        };
        addresses.into_iter().map(move |address| {
            let told = row.ways.iter().find(|way| way.address == address);
            let link_local = match told {
                Some(way) => way.link_local,
                None => row.link_local.filter(|_| address == main),
            };
            End { address, link_local }
        })
    }

    /// Where the other members are, or were last, reached.
    pub(super) fn other_seats(&self) -> impl Iterator<Item = &Seat> {
        let members = &self.node.charter().hosts;
        let seats = self.node.seats();
        seats.filter(|seat| seat.host != self.me && members.contains_key(&seat.host))
    }

    /// What another host tells of itself.
    pub(super) fn host_row_of(&self, host: &HostId) -> Option<HostRow> {
        let body = self.node.table().get(*host, HOST)?;
        // A row that can't be read says nothing.
        serde_json::from_slice(body).ok()
    }
}

/// The end of a way.
struct End {
    address: IpAddr,
    /// The host's address there that is good on that wire only.
    link_local: Option<Ipv6Addr>,
}
