//! The cluster in numbers. Series with a label for each host or pool are bounded, however many there are.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tombolo_cluster::node::{Link, Standing};

use super::asked::Last;
use crate::cluster::sight::Sight;

/// For how many hosts and pools at most there is a series each: those with the most faults, the first of the pools.
const SERIES: usize = 64;

/// What the part said last; nothing where this host is in no cluster.
#[derive(Debug)]
pub(super) struct Seen(pub Last<Sight>);

impl Collector for Seen {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let last = self.0.lock();
        let mut out = Out(&mut encoder);
        let help = "Whether this host takes part in a cluster: 1 or 0.";
        out.gauge("cluster_member", help, u64::from(last.is_some()))?;
        match &*last {
            Some((at, sight)) => sight_in(&mut out, *at, sight),
            None => Ok(()),
        }
    }
}

struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let metric = self
            .0
            .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    fn gauges<'s>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'s str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values
            .into_iter()
            .try_for_each(|(of, value)| ConstGauge::new(value).encode(metric.encode_family(&[(label, of)])?))
    }

    fn counters<'s>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'s str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.into_iter().try_for_each(|(of, value)| {
            ConstCounter::new(value).encode(metric.encode_family(&[(label, of)])?)
        })
    }
}

fn sight_in(out: &mut Out<'_, '_>, at: Instant, sight: &Sight) -> fmt::Result {
    let view = &sight.view;
    let help = "Age of what is said here of the cluster.";
    out.seconds("cluster_view_age", help, at.elapsed().as_secs_f64())?;
    let may = matches!(view.standing, Standing::Confirmed | Standing::Alone);
    let help = "Whether this host may give addresses of the cluster's pools: 1 or 0.";
    out.gauge("cluster_may_lease", help, u64::from(may))?;
    let help = "Whether a majority, or the store, has confirmed this host since its start: 1 or 0.";
    out.gauge(
        "cluster_confirmed",
        help,
        u64::from(view.standing == Standing::Confirmed),
    )?;
    out.gauge("cluster_decrees", "Decrees that are known here.", view.index)?;
    let help = "The number of the key in force.";
    out.gauge("cluster_key", help, u64::from(view.secret))?;
    let help = "Changes that wait to be gossiped.";
    out.gauge("cluster_waiting", help, view.waiting as u64)?;
    hosts(out, sight)?;
    traffic(out, sight)?;
    pools(out, sight)?;
    if let Some((_, fault)) = &sight.store {
        let help = "Whether the store that decides could not be asked last: 1 or 0.";
        out.gauge("cluster_store_fault", help, u64::from(fault.is_some()))?;
    }
    Ok(())
}

fn hosts(out: &mut Out<'_, '_>, sight: &Sight) -> fmt::Result {
    let hosts = &sight.view.hosts;
    let mut states = BTreeMap::from([("here", 0), ("up", 0), ("down", 0), ("unknown", 0)]);
    for host in hosts {
        let state = match host.link {
            Link::Here => "here",
            Link::Up => "up",
            Link::Down(_) => "down",
            Link::Unknown => "unknown",
        };
        *states.entry(state).or_default() += 1;
    }
    out.gauges(
        "cluster_hosts",
        "Hosts of the cluster, by state.",
        "state",
        states,
    )?;
    let rows = hosts.iter().map(|host| host.rows as u64).sum();
    out.gauge("cluster_rows", "Rows of all hosts.", rows)?;
    let clones = sight.noted.clones().count() as u64;
    let help = "Identifiers that two hosts have, as was seen not long ago.";
    out.gauge("cluster_clones", help, clones)?;
    let up = || hosts.iter().filter(|host| host.link == Link::Up);
    let most = |of: Option<u64>| of.unwrap_or(0) as f64 / 1_000.0;
    let heard = most(up().filter_map(|host| host.heard_ms).max());
    let help = "The longest time for which nothing was heard of a host that is up.";
    out.seconds("cluster_heard_age_max", help, heard)?;
    let rtt = most(up().filter_map(|host| host.rtt_ms).max());
    let help = "The longest that a host that is up took to answer a datagram.";
    out.seconds("cluster_round_trip_max", help, rtt)?;
    let clock = most(up().filter_map(|host| host.clock_ms).map(i64::unsigned_abs).max());
    let help = "The most by which the clock of a host that is up differs from this one's.";
    out.seconds("cluster_clock_difference_max", help, clock)?;
    let mut faults: Vec<(String, u64)> = hosts
        .iter()
        .filter(|host| host.faults > 0)
        .map(|host| (host.host.to_string(), host.faults))
        .collect();
    faults.sort_by_key(|(_, faults)| std::cmp::Reverse(*faults));
    let faults = faults
        .iter()
        .take(SERIES)
        .map(|(host, faults)| (host.as_str(), *faults));
    let help = "Messages and rows of a host that could not be read or were refused, by its identifier.";
    out.counters("cluster_host_faults", help, "host", faults)
}

fn traffic(out: &mut Out<'_, '_>, sight: &Sight) -> fmt::Result {
    let (traffic, calls) = (sight.noted.traffic, sight.noted.calls);
    for (name, help, value) in [
        (
            "cluster_datagrams_received",
            "Datagrams that came.",
            traffic.received,
        ),
        (
            "cluster_datagrams_received_bytes",
            "Bytes of datagrams that came.",
            traffic.received_bytes,
        ),
        (
            "cluster_datagrams_sent",
            "Datagrams that were sent.",
            traffic.sent,
        ),
        (
            "cluster_datagrams_sent_bytes",
            "Bytes of datagrams that were sent.",
            traffic.sent_bytes,
        ),
        (
            "cluster_datagrams_unsent",
            "Datagrams that the kernel did not take.",
            traffic.unsent,
        ),
        ("cluster_calls_taken", "Calls of other hosts.", calls.taken),
    ] {
        out.counter(name, help, value)?;
    }
    let ended = [
        ("answered", calls.answered),
        ("failed", calls.failed),
        ("refused", calls.refused),
    ];
    let help = "Calls to other hosts, by how they ended.";
    out.counters("cluster_calls", help, "result", ended)?;
    let help = "Datagrams that came and were not taken, by reason.";
    out.counters(
        "cluster_datagrams_dropped",
        help,
        "reason",
        sight.counts.dropped(),
    )
}

fn pools(out: &mut Out<'_, '_>, sight: &Sight) -> fmt::Result {
    let view = &sight.view;
    let own: Vec<(String, u64, u64)> = view
        .pools
        .iter()
        .filter_map(|pool| Some((pool, pool.fills.get(&view.me)?)))
        .map(|(pool, fill)| (pool.pool.to_string(), fill.free, fill.leased))
        .take(SERIES)
        .collect();
    let help = "Addresses of this host's share of a pool of the cluster that nobody has.";
    let free = own.iter().map(|(pool, free, _)| (pool.as_str(), *free));
    out.gauges("cluster_share_free", help, "pool", free)?;
    let help = "Addresses of this host's share of a pool of the cluster that are in use.";
    let leased = own.iter().map(|(pool, _, leased)| (pool.as_str(), *leased));
    out.gauges("cluster_share_leased", help, "pool", leased)?;
    out.gauge("cluster_pools", "Pools of the cluster.", view.pools.len() as u64)?;
    let disputed = view.pools.iter().map(|pool| pool.disputed.len() as u64).sum();
    let help = "Pieces of pools that two hosts claim.";
    out.gauge("cluster_pieces_disputed", help, disputed)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;
    use tombolo_cluster::HostId;
    use tombolo_cluster::node::{Fill, HostView, PoolView, View};

    use super::*;
    use crate::cluster::seal::Counts;
    use crate::cluster::sight::Noted;

    fn host(n: u8, link: Link) -> HostView {
        HostView {
            host: HostId::from_bytes([n; 16]),
            name: format!("h{n}"),
            address: None,
            link,
            heard_ms: Some(u64::from(n) * 100),
            rtt_ms: Some(u64::from(n)),
            clock_ms: Some(-500 * i64::from(n)),
            rows: 3,
            faults: u64::from(n),
        }
    }

    fn sight(hosts: Vec<HostView>) -> Sight {
        let me = HostId::from_bytes([0; 16]);
        let pool = PoolView {
            pool: "10.42.0.0/24".parse().unwrap(),
            net: None,
            kind: String::new(),
            founder: me,
            pieces: BTreeMap::new(),
            fills: BTreeMap::from([(
                me,
                Fill {
                    free: 7,
                    leased: 5,
                    used: true,
                },
            )]),
            next: None,
            disputed: Vec::new(),
        };
        let mut noted = Noted::default();
        noted.received(100);
        noted.sent(&Ok(50));
        noted.called(me, &tombolo_cluster::node::Called::Failed);
        Sight {
            cluster: [1; 16],
            view: View {
                me,
                standing: Standing::Alone,
                index: 9,
                secret: 2,
                hosts,
                pools: vec![pool],
                waiting: 4,
            },
            rows: Vec::new(),
            ways: BTreeMap::new(),
            counts: Counts {
                mac: 6,
                ..Counts::default()
            },
            noted,
            store: Some(("etcd://x".to_owned(), Some("it can't be reached".to_owned()))),
        }
    }

    fn scraped(sight: Option<Sight>) -> String {
        let last = Last::default();
        last.set(sight);
        let mut registry = Registry::with_prefix("tombolo");
        registry.register_collector(Box::new(Seen(last)));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn what_is_seen_of_the_cluster_is_told_in_numbers() {
        let hosts = vec![
            host(0, Link::Here),
            host(1, Link::Up),
            host(2, Link::Up),
            host(9, Link::Down(5)),
        ];
        let text = scraped(Some(sight(hosts)));
        for line in [
            "tombolo_cluster_member 1",
            "tombolo_cluster_may_lease 1",
            "tombolo_cluster_confirmed 0",
            "tombolo_cluster_decrees 9",
            "tombolo_cluster_waiting 4",
            "tombolo_cluster_hosts{state=\"up\"} 2",
            "tombolo_cluster_hosts{state=\"down\"} 1",
            "tombolo_cluster_hosts{state=\"unknown\"} 0",
            "tombolo_cluster_rows 12",
            "tombolo_cluster_heard_age_max_seconds 0.2",
            "tombolo_cluster_round_trip_max_seconds 0.002",
            "tombolo_cluster_clock_difference_max_seconds 1.0",
            "tombolo_cluster_datagrams_received_bytes_total 100",
            "tombolo_cluster_datagrams_sent_total 1",
            "tombolo_cluster_datagrams_dropped_total{reason=\"mac\"} 6",
            "tombolo_cluster_calls_total{result=\"failed\"} 1",
            "tombolo_cluster_share_free{pool=\"10.42.0.0/24\"} 7",
            "tombolo_cluster_share_leased{pool=\"10.42.0.0/24\"} 5",
            "tombolo_cluster_store_fault 1",
            "tombolo_cluster_clones 0",
        ] {
            assert!(text.lines().any(|l| l == line), "'{line}' is not in:\n{text}");
        }
    }

    #[test]
    fn a_host_in_no_cluster_says_only_that() {
        let text = scraped(None);
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(series, ["tombolo_cluster_member 0"]);
    }

    #[test]
    fn series_stay_few_however_many_hosts_there_are() {
        let hosts = (1..=200).map(|n| host(n, Link::Up)).collect();
        let text = scraped(Some(sight(hosts)));
        let faults = text
            .lines()
            .filter(|line| line.starts_with("tombolo_cluster_host_faults_total{"));
        assert_eq!(faults.count(), SERIES);
        assert!(
            text.contains("} 200\n"),
            "the one with the most is among them: {text}"
        );
        assert!(text.lines().count() < 300);
    }
}
