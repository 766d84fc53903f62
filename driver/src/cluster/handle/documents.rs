//! The documents behind `tombolo cluster status` and `tombolo peers`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tombolo_cluster::HostId;
use tombolo_cluster::node::{Link, Standing};
use tombolo_core::peers::{EndpointRow, HOST, HostRow};

use super::{Cluster, OUTSIDE};
use crate::cluster::keep::hex;
use crate::cluster::sight::Way;

/// The ways to a host that has several.
fn ways(ways: Option<&Vec<Way>>) -> Vec<Value> {
    let way = |way: &Way| {
        let ms = |span: Option<Duration>| span.map(|span| span.as_millis());
        json!({ "address": way.address, "up": way.up, "rtt_ms": ms(way.rtt), "heard_ms": ms(way.heard) })
    };
    ways.into_iter().flatten().map(way).collect()
}

impl Cluster {
    /// The document behind `tombolo cluster status`.
    pub async fn status(&self) -> Value {
        let Some(sight) = self.see().await else {
            let out = self.shown().out.clone();
            let broken = self.outside.why().filter(|why| out.is_none() && why != OUTSIDE);
            let standing = out.as_ref().map(|_| "out").or(broken.as_ref().map(|_| "broken"));
            return json!({
                "in_cluster": false, "cluster": null, "host": null, "standing": standing, "standing_note": out.or(broken),
                "decrees": 0, "secret": 0, "store": null, "hosts": [], "pools": [], "waiting": 0, "clones": [],
                "counts": {"garbled": 0, "wrong_key": 0, "replayed": 0, "strangers": 0, "clones": 0}, "dropped": [],
            });
        };
        let view = &sight.view;
        let told = sight.rows.iter().filter(|(_, key, _)| key == HOST);
        // A row that can't be read says nothing.
        let told: BTreeMap<HostId, HostRow> = told
            .filter_map(|(host, _, body)| Some((*host, serde_json::from_slice(body).ok()?)))
            .collect();
        let name = |host: &HostId| sight.name(host);
        let hosts = view.hosts.iter().map(|host| {
            let (state, down_ms) = match host.link {
                Link::Here => ("here", None),
                Link::Up => ("up", None),
                Link::Down(ms) => ("down", Some(ms)),
                Link::Unknown => ("unknown", None),
            };
            let told = told.get(&host.host);
            let version = told.map(|row| &row.version).filter(|version| !version.is_empty());
            json!({
                "host": host.host, "name": host.name, "address": host.address, "state": state, "down_ms": down_ms,
                "heard_ms": host.heard_ms, "rtt_ms": host.rtt_ms, "clock_ms": host.clock_ms, "version": version,
                "zone": told.and_then(|row| row.zone.as_deref()), "mtu": told.and_then(|row| row.mtu), "ways": ways(sight.ways.get(&host.host)),
                "rows": host.rows, "faults": host.faults + sight.noted.unread(&host.host),
                "call_ms": sight.noted.last_call(&host.host).map(|ago| ago.as_millis()),
            })
        });
        let clones = sight.noted.clones();
        let clones =
            clones.map(|(host, one, other)| json!({ "host": host, "name": name(host), "at": [one, other] }));
        let dropped = sight.counts.dropped().into_iter().filter(|(_, count)| *count > 0);
        let dropped = dropped.map(|(why, count)| {
            let last = sight.noted.last_dropped(why);
            json!({
                "why": why, "count": count, "last_ms": last.map(|(ago, _)| ago.as_millis()),
                "from": last.map(|(_, from)| from),
            })
        });
        let store = sight
            .store
            .as_ref()
            .map(|(store, fault)| json!({ "name": store, "fault": fault }));
        let pools = view.pools.iter().map(|pool| {
            let holders: BTreeSet<&HostId> = pool.pieces.keys().chain(pool.fills.keys()).collect();
            let shares = holders.into_iter().map(|host| {
                let fill = pool.fills.get(host).copied().unwrap_or_default();
                json!({
                    "host": host, "name": name(host), "pieces": pool.pieces.get(host).cloned().unwrap_or_default(),
                    "free": fill.free, "leased": fill.leased, "used": fill.used,
                })
            });
            json!({
                "pool": pool.pool, "net": pool.net, "kind": pool.kind, "founder": pool.founder, "next": pool.next,
                "disputed": pool.disputed, "shares": shares.collect::<Vec<_>>(),
            })
        });
        let (standing, note) = match &view.standing {
            Standing::Confirmed => ("confirmed", None),
            Standing::Waiting => ("waiting", None),
            Standing::Alone => ("alone", None),
            Standing::Gone(how) => ("gone", Some(how.clone())),
            Standing::Cloned(other) => ("cloned", Some(format!("the other one is at {other}"))),
        };
        let counts = sight.counts;
        json!({
            "in_cluster": true, "cluster": hex(&sight.cluster), "host": view.me, "standing": standing, "standing_note": note,
            "decrees": view.index, "secret": view.secret, "store": store, "clones": clones.collect::<Vec<_>>(),
            "dropped": dropped.collect::<Vec<_>>(), "hosts": hosts.collect::<Vec<_>>(), "pools": pools.collect::<Vec<_>>(),
            "waiting": view.waiting,
            "counts": {
                "garbled": counts.short + counts.long + counts.magic + counts.version + counts.mac,
                "wrong_key": counts.old_key + counts.new_key,
                "replayed": counts.replay + counts.old_epoch,
                "strangers": counts.sender,
                "clones": counts.clones + counts.still_alive,
            },
        })
    }

    /// The document behind `tombolo peers`: endpoints of all hosts, as far as these are there.
    pub async fn peers(&self) -> Value {
        let Some(sight) = self.see().await else {
            return json!([]);
        };
        let name = |host: &HostId| sight.name(host);
        let homes = self.names.homes().borrow().clone();
        let label = |row: &EndpointRow| homes.get(row.pools.first()?)?.labels.first().cloned();
        let peer = |(host, key, body): &(HostId, String, Vec<u8>)| {
            key.strip_prefix(tombolo_core::peers::ENDPOINT)?;
            // A row that can't be read is counted where it is used.
            let row: EndpointRow = serde_json::from_slice(body).ok()?;
            let pools = || {
                row.pools
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            };
            // Without a name in the cluster it is called as on this host, which may not have it.
            let network = row.net.as_ref().map(ToString::to_string).or_else(|| label(&row));
            let network = network.unwrap_or_else(pools);
            Some(json!({
                "host": host, "host_name": name(host), "network": network, "kind": row.kind, "ipv4": row.ipv4, "ipv6": row.ipv6,
                "mac": row.mac, "name": row.name, "aliases": row.aliases, "vtep": row.via, "vni": row.vni, "joined": row.joined,
                "here": *host == sight.view.me,
            }))
        };
        sight.rows.iter().filter_map(peer).collect()
    }
}
