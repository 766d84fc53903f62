//! Numbers for Prometheus.
//!
//! ```text
//!   http ── requests, their times ──┐
//!   store ── times of commits ──────┼──> Metrics ──> GET /metrics
//!   engine ── Tally, if asked ──────┤
//!   cluster ── Sight, if asked ─────┘
//! ```
//!
//! What happens often is counted where it happens, in atomics that a scrape reads without asking anybody. What stands in
//! the records (networks, pools, ports) the engine tells when it is asked, so that it keeps no second book of it: at most
//! once a second, however many scrape, and not waited for longer than [`PATIENCE`]. A scrape of an engine that is
//! busy for longer gets the numbers that it gave last, and their age.

mod asked;
mod cluster;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::mpsc;

use asked::{Asked, Last};

use crate::cluster::handle::Cluster;
use crate::cluster::sight::Sight;
use crate::engine::tally::Tally;
use crate::engine::{Ask, Journal, QUEUE};
use crate::records;
use crate::store::{self, Put, Row};

/// How long a scrape waits for the engine and the cluster's part.
const PATIENCE: Duration = Duration::from_secs(1);
/// The upper ends of the buckets of all histograms, in seconds: 0.5 ms to 10 s.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// What OpenMetrics texts are called (its section "Content type").
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a request of Docker's ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was granted.
    Granted,
    /// It can't be granted: the user or Docker asked for something that is not allowed.
    Refused,
    /// The kernel, the disk or we ourselves failed.
    Failed,
    /// It was not done in time.
    Late,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Late => "late",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    method: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: String,
}

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    request_durations: Family<Method, Histogram, fn() -> Histogram>,
    commit_durations: Histogram,
    commit_failures: Counter,
    engine: Asked<Tally>,
    cluster: Asked<Sight>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics of which none has counted anything yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tombolo");
        let build = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("schema", records::SCHEMA.to_string()),
        ];
        registry.register("build", "This daemon", Info::new(build.to_vec()));
        let requests = Family::default();
        registry.register(
            "requests",
            "Requests of Docker's, by method and result (granted, refused, failed, late)",
            requests.clone(),
        );
        let durations: fn() -> Histogram = || Histogram::new(BUCKETS);
        let request_durations = Family::new_with_constructor(durations);
        registry.register_with_unit(
            "request_duration",
            "How long Docker waited for an answer",
            Unit::Seconds,
            request_durations.clone(),
        );
        let commit_durations = Histogram::new(BUCKETS);
        registry.register_with_unit(
            "store_commit_duration",
            "How long a write of changes took until they were durable",
            Unit::Seconds,
            commit_durations.clone(),
        );
        let commit_failures = Counter::default();
        registry.register(
            "store_commit_failures",
            "Writes of changes that failed; what they were for was refused",
            commit_failures.clone(),
        );
        let (engine, cluster) = (Asked::default(), Asked::default());
        registry.register_collector(Box::new(Told(engine.last.clone())));
        registry.register_collector(Box::new(cluster::Seen(cluster.last.clone())));
        Self {
            registry,
            requests,
            request_durations,
            commit_durations,
            commit_failures,
            engine,
            cluster,
        }
    }

    /// Counts an answer to Docker. `method` must be one that there is: each is a time series of its own.
    pub fn answered(&self, method: &str, outcome: Outcome, took: Duration) {
        let answer = Answer {
            method: method.to_owned(),
            result: outcome.label(),
        };
        self.requests.get_or_create(&answer).inc();
        let method = Method {
            method: method.to_owned(),
        };
        self.request_durations
            .get_or_create(&method)
            .observe(took.as_secs_f64());
    }

    /// The metrics as OpenMetrics text; `asks` is the engine's queue.
    async fn scrape(
        &self,
        asks: &mpsc::Sender<Ask>,
        cluster: Option<&Cluster>,
    ) -> Result<String, fmt::Error> {
        let engine = self
            .engine
            .ask(|answer| asks.try_send(Ask::Tally(answer)).is_ok());
        let seen = async {
            match cluster.filter(|cluster| cluster.shown().member) {
                Some(cluster) => self.cluster.ask(|answer| cluster.measure(answer)).await,
                // Numbers of a cluster that it was in would only mislead.
                None => self.cluster.last.set(None),
            }
        };
        // Late numbers are told by their age.
        let both = futures_util::future::join(engine, seen);
        tokio::time::timeout(PATIENCE, both).await.ok();
        let mut queue = Registry::with_prefix("tombolo");
        let waiting = QUEUE.saturating_sub(asks.capacity()) as u64;
        queue.register(
            "engine_queue_depth",
            "Requests and looks that wait for the engine",
            ConstGauge::new(waiting),
        );
        if let Some(cluster) = cluster.filter(|cluster| cluster.shown().member) {
            queue.register(
                "tunnel_problems",
                "Hosts whose tunnels do not pass all that networks send, as of the last probes",
                ConstGauge::new(cluster.troubles() as u64),
            );
        }
        let mut text = String::new();
        text::encode_registry(&mut text, &queue)?;
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What the engine told.
#[derive(Debug)]
struct Told(Last<Tally>);

impl Collector for Told {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some((at, tally)) = self.0.lock().clone() else {
            return Ok(());
        };
        let mut gauge = |name: &str, help: &str, value: usize| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value as u64).encode(metric)
        };
        gauge("networks", "Networks.", tally.networks)?;
        gauge(
            "endpoints",
            "Endpoints: places of containers on networks.",
            tally.endpoints,
        )?;
        gauge(
            "endpoints_joined",
            "Endpoints that have joined a container.",
            tally.joined,
        )?;
        gauge(
            "published_ports",
            "Ports of this host that lead to a container.",
            tally.ports,
        )?;
        let help = "Facts that should hold in the kernel, as of the last full look.";
        gauge("facts_desired", help, tally.facts_desired)?;
        let help = "Facts that should hold in the kernel and do, as of the last full look.";
        gauge("facts_holding", help, tally.facts_holding)?;
        let help = "Groups that other hosts are told of, because a container here hears them.";
        gauge("multicast_groups", help, tally.groups.0)?;
        let help = "Groups that containers here hear and that are too many to be told to other hosts.";
        gauge("multicast_groups_untold", help, tally.groups.1)?;
        gauge("problems", "Problems that tombolo status shows.", tally.problems)?;
        let help = "Whether the Docker engine answers: 1 or 0.";
        gauge("docker_reachable", help, usize::from(tally.docker_reachable))?;

        let (name, help) = (
            "engine_view_age",
            "Age of what the engine says of networks, pools and facts.",
        );
        let metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        ConstGauge::new(at.elapsed().as_secs_f64()).encode(metric)?;

        let help = "Records freed because Docker had forgotten them.";
        let metric = encoder.encode_descriptor("records_freed", help, None, MetricType::Counter)?;
        ConstCounter::new(tally.freed).encode(metric)?;

        let help = "Facts put right because somebody else had changed them, by sort.";
        let mut metric = encoder.encode_descriptor("repairs", help, None, MetricType::Counter)?;
        for (kind, count) in &tally.repairs {
            ConstCounter::new(*count).encode(metric.encode_family(&[("kind", *kind)])?)?;
        }

        type Number = fn(&crate::engine::tally::Pool) -> u64;
        let numbers: [(&str, &str, Number); 3] = [
            ("pool_leases", "Addresses of a pool that are in use.", |pool| {
                pool.leases as u64
            }),
            (
                "pool_free",
                "Addresses of a pool that nobody has, those that rest included.",
                |pool| pool.free,
            ),
            (
                "pool_cooling",
                "Freed addresses of a pool that rest a while.",
                |pool| pool.cooling as u64,
            ),
        ];
        for (name, help, number) in numbers {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for pool in &tally.pools {
                let labels = [
                    ("pool", pool.pool.as_str()),
                    ("range", &pool.range),
                    ("network", &pool.network),
                ];
                ConstGauge::new(number(pool)).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Where metrics are scraped.
pub fn router(metrics: Arc<Metrics>, asks: mpsc::Sender<Ask>, cluster: Cluster) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .fallback(|| async { (StatusCode::NOT_FOUND, "tombolo's metrics are at /metrics\n") })
        .with_state((metrics, asks, cluster))
}

type Sources = (Arc<Metrics>, mpsc::Sender<Ask>, Cluster);

async fn scrape(State((metrics, asks, cluster)): State<Sources>) -> Response {
    match metrics.scrape(&asks, Some(&cluster)).await {
        Ok(text) => ([("content-type", CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// A journal whose commits are timed.
pub struct Timed<J> {
    journal: J,
    metrics: Arc<Metrics>,
}

impl<J> Timed<J> {
    /// Times the commits of a journal.
    pub fn new(journal: J, metrics: Arc<Metrics>) -> Self {
        Self { journal, metrics }
    }
}

impl<J: Journal> Journal for Timed<J> {
    fn commit(&mut self, puts: &[Put]) -> Result<(), store::Error> {
        let started = Instant::now();
        let done = self.journal.commit(puts);
        self.metrics
            .commit_durations
            .observe(started.elapsed().as_secs_f64());
        if done.is_err() {
            self.metrics.commit_failures.inc();
        }
        done
    }

    fn replace(&mut self, rows: &[Row]) -> Result<(), store::Error> {
        self.journal.replace(rows)
    }

    fn rebuilt(&mut self) -> Result<(), store::Error> {
        self.journal.rebuilt()
    }

    fn backup(&self) -> Result<(), store::Error> {
        self.journal.backup()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tally::Pool;

    fn tally() -> Tally {
        let pool = Pool {
            pool: "10.208.0.0/24".to_owned(),
            range: String::new(),
            network: "a \"b\"\\".to_owned(),
            leases: 3,
            free: u64::MAX,
            cooling: 0,
        };
        Tally {
            networks: 2,
            pools: vec![pool],
            repairs: [("table", 4)].into(),
            docker_reachable: true,
            ..Tally::default()
        }
    }

    /// An engine that gives numbers and counts how often it was asked.
    fn engine() -> (mpsc::Sender<Ask>, tokio::task::JoinHandle<usize>) {
        let (asks, mut queue) = mpsc::channel(QUEUE);
        let engine = tokio::spawn(async move {
            let mut asked = 0;
            while let Some(Ask::Tally(answer)) = queue.recv().await {
                asked += 1;
                answer.send(tally()).ok();
            }
            asked
        });
        (asks, engine)
    }

    #[tokio::test]
    async fn a_scrape_has_what_was_counted_and_what_the_engine_says() {
        let metrics = Metrics::new();
        metrics.answered("NetworkDriver.Join", Outcome::Granted, Duration::from_micros(700));
        metrics.answered("NetworkDriver.Join", Outcome::Late, Duration::from_secs(11));
        metrics.commit_durations.observe(0.002);
        let (asks, _engine) = engine();
        let text = metrics.scrape(&asks, None).await.unwrap();
        for line in [
            "# TYPE tombolo_requests counter",
            "tombolo_requests_total{method=\"NetworkDriver.Join\",result=\"granted\"} 1",
            "tombolo_requests_total{method=\"NetworkDriver.Join\",result=\"late\"} 1",
            "# UNIT tombolo_request_duration_seconds seconds",
            "tombolo_request_duration_seconds_bucket{le=\"0.0005\",method=\"NetworkDriver.Join\"} 0",
            "tombolo_request_duration_seconds_bucket{le=\"0.001\",method=\"NetworkDriver.Join\"} 1",
            "tombolo_request_duration_seconds_bucket{le=\"10.0\",method=\"NetworkDriver.Join\"} 1",
            "tombolo_request_duration_seconds_bucket{le=\"+Inf\",method=\"NetworkDriver.Join\"} 2",
            "tombolo_store_commit_duration_seconds_count 1",
            "tombolo_store_commit_failures_total 0",
            "tombolo_engine_queue_depth 0",
            "tombolo_networks 2",
            "tombolo_docker_reachable 1",
            "tombolo_repairs_total{kind=\"table\"} 4",
            "tombolo_records_freed_total 0",
            "tombolo_pool_leases{pool=\"10.208.0.0/24\",range=\"\",network=\"a \\\"b\\\"\\\\\"} 3",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "'{line}' is not in what was scraped:\n{text}"
            );
        }
        assert!(text.contains("tombolo_build_info{version=\""), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let named = |line: &&str| !line.is_empty() && !line.starts_with("# ");
        assert!(
            text.lines().filter(named).all(|l| l.starts_with("tombolo_")),
            "{text}"
        );
    }

    #[tokio::test]
    async fn however_many_scrape_the_engine_is_asked_once() {
        let metrics = Metrics::new();
        let (asks, engine) = engine();
        for text in futures_util::future::join_all((0..50).map(|_| metrics.scrape(&asks, None))).await {
            assert!(text.unwrap().contains("tombolo_networks 2"));
        }
        drop(asks);
        assert_eq!(engine.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_busy_engine_is_not_waited_for_and_its_last_numbers_are_told_with_their_age() {
        let metrics = Metrics::new();
        let (asks, _busy) = mpsc::channel(QUEUE);
        let started = Instant::now();
        let scrapes = (0..3).map(|_| metrics.scrape(&asks, None));
        for text in futures_util::future::join_all(scrapes).await {
            let text = text.unwrap();
            assert!(
                text.contains("tombolo_build_info") && !text.contains("tombolo_networks"),
                "{text}"
            );
            assert!(text.contains("tombolo_engine_queue_depth 1\n"), "{text}");
        }
        assert!(
            started.elapsed() < 2 * PATIENCE,
            "they wait at the same time, not one after the other"
        );
        let then = Instant::now().checked_sub(Duration::from_secs(30)).unwrap();
        *metrics.engine.last.lock() = Some((then, tally()));
        let text = metrics.scrape(&asks, None).await.unwrap();
        assert!(text.contains("tombolo_networks 2"), "{text}");
        assert!(text.contains("tombolo_engine_view_age_seconds 3"), "{text}");
    }
}
