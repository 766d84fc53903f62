//! Metrics as Prometheus scrapes them, and the dashboard that is made of them.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{Host, Scene, Staging, Tombolo, http, json as look, until};

/// Where the tests' tombolo is scraped: the host's address on the wire, so from outside.
const ADDR: &str = "192.0.2.2:9477";

fn scene() -> Scene {
    Scene::staged(&Staging {
        settings: &[("TOMBOLO_METRICS_ADDR", ADDR)],
        ..Staging::default()
    })
}

fn get(scene: &Scene, path: &str) -> http::Answer {
    let mut stream = scene.outside.spaces().enter(|| TcpStream::connect(ADDR)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    std::io::Write::write_all(&mut stream, http::head("GET", path, 0).as_bytes()).unwrap();
    http::read_answer(&mut stream).unwrap()
}

/// Values by series: a name, and labels as they are written.
struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// Scrapes, and checks that each line is one that OpenMetrics knows.
    fn of(scene: &Scene) -> Self {
        let answer = get(scene, "/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = answer.text();
        let body = text
            .strip_suffix("# EOF\n")
            .unwrap_or_else(|| panic!("no end: {text}"));
        let (mut families, mut samples) = (BTreeSet::new(), BTreeMap::new());
        for line in body.lines() {
            if let Some(about) = line.strip_prefix("# ") {
                let words: Vec<&str> = about.splitn(3, ' ').collect();
                assert!(
                    words.len() == 3 && ["HELP", "TYPE", "UNIT"].contains(&words[0]),
                    "{line}"
                );
                if words[0] == "TYPE" {
                    assert!(families.insert(words[1].to_owned()), "twice: {line}");
                }
                continue;
            }
            let (series, value) = line
                .rsplit_once(' ')
                .unwrap_or_else(|| panic!("no value: {line}"));
            let name = name(series);
            let suffixes = ["", "_total", "_info", "_bucket", "_sum", "_count"].into_iter();
            let family = suffixes
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|f| families.contains(*f));
            assert!(family.is_some(), "nothing was said of {name}");
            let old = samples.insert(series.to_owned(), value.parse().unwrap());
            assert!(old.is_none(), "twice: {series}");
        }
        Self(samples)
    }

    fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(|series| name(series)).collect()
    }

    /// A value; 0 where there is no such series, as for what has not happened yet.
    fn value(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or_default()
    }

    fn requests(&self, method: &str, result: &str) -> f64 {
        self.value(&format!(
            "tombolo_requests_total{{method=\"{method}\",result=\"{result}\"}}"
        ))
    }
}

fn name(series: &str) -> &str {
    series.split('{').next().unwrap()
}

#[track_caller]
fn until_value(scene: &Scene, series: &str, wanted: f64) {
    until(&format!("{series} is {wanted}"), || {
        (Samples::of(scene).value(series) == wanted).then_some(())
    });
}

#[test]
fn what_happens_is_counted() {
    let scene = scene();
    scene.network("net", &["--subnet", "10.84.0.0/24"]);
    scene.container("one", &["--network", "net", "-p", "8080:80"]);
    let plugin = scene.tombolo().plugin();
    plugin.refused(
        "NetworkDriver.CreateNetwork",
        &json!({
            "NetworkID": "9".repeat(64), "IPv4Data": [], "IPv6Data": [],
            "Options": { "com.docker.network.generic": { "mtv": "1400" } },
        }),
    );
    let socket = scene.host.path(system_tests::plugin::SOCKET);
    for _ in 0..2 {
        http::request(&socket, "POST", "/NetworkDriver.Nonsense", b"{}").unwrap();
    }
    let samples = Samples::of(&scene);
    for (method, result, count) in [
        ("NetworkDriver.CreateNetwork", "granted", 1.0),
        ("NetworkDriver.CreateNetwork", "refused", 1.0),
        ("NetworkDriver.Join", "granted", 1.0),
        ("NetworkDriver.Leave", "granted", 0.0),
        ("IpamDriver.RequestPool", "granted", 1.0),
        ("IpamDriver.RequestAddress", "granted", 2.0),
        ("NetworkDriver.Nonsense", "refused", 0.0),
        ("unknown", "refused", 2.0),
    ] {
        assert_eq!(samples.requests(method, result), count, "{method} {result}");
    }
    let duration = "tombolo_request_duration_seconds";
    let of = |part: &str| samples.value(&format!("{duration}_{part}"));
    assert_eq!(of("count{method=\"NetworkDriver.CreateNetwork\"}"), 2.0);
    let buckets = ["0.0005", "0.005", "0.1", "10.0", "+Inf"];
    let buckets = buckets.map(|le| {
        of(&format!(
            "bucket{{le=\"{le}\",method=\"NetworkDriver.CreateNetwork\"}}"
        ))
    });
    assert!(buckets.is_sorted() && buckets[4] == 2.0, "{buckets:?}");
    let sum = of("sum{method=\"NetworkDriver.CreateNetwork\"}");
    assert!(0.0 < sum && sum < 10.0, "{sum}");
    assert!(samples.value("tombolo_store_commit_duration_seconds_count") >= 5.0);
    assert_eq!(samples.value("tombolo_store_commit_failures_total"), 0.0);

    let pool = "{pool=\"10.84.0.0/24\",range=\"\",network=\"net\"}";
    for (series, value) in [
        ("tombolo_networks", 1.0),
        ("tombolo_endpoints", 1.0),
        ("tombolo_endpoints_joined", 1.0),
        ("tombolo_problems", 0.0),
        ("tombolo_docker_reachable", 1.0),
        (&format!("tombolo_pool_leases{pool}"), 2.0),
        (&format!("tombolo_pool_free{pool}"), 252.0),
    ] {
        until_value(&scene, series, value);
    }
    let ports = look::rows(&scene.tombolo().cli(&["ports"])).len();
    until_value(&scene, "tombolo_published_ports", ports as f64);
    until("all facts hold", || {
        let samples = Samples::of(&scene);
        let facts = ["desired", "holding"].map(|which| samples.value(&format!("tombolo_facts_{which}")));
        let shown = scene.tombolo().cli(&["status"])["facts"].as_f64();
        (facts[0] == facts[1] && facts[0] > 8.0 && shown == Some(facts[0])).then_some(())
    });

    let table = "tombolo_repairs_total{kind=\"table\"}";
    let before = Samples::of(&scene).value(table);
    scene.host.run("nft", &["delete", "table", "inet", "tombolo"]);
    until_value(&scene, table, before + 1.0);
    until("status counts the same", || {
        let samples = Samples::of(&scene);
        let shown = scene.tombolo().cli(&["status"])["repairs"].take();
        let same = shown.as_object()?.iter().all(|(kind, count)| {
            Some(samples.value(&format!("tombolo_repairs_total{{kind=\"{kind}\"}}"))) == count.as_f64()
        });
        (same && shown["publish"].as_u64() >= Some(1)).then_some(())
    });

    scene.engine.kill();
    until_value(&scene, "tombolo_docker_reachable", 0.0);
    assert_eq!(get(&scene, "/").status, 404);
}

#[test]
fn the_dashboard_asks_for_nothing_that_is_not_exported() {
    let scene = scene();
    scene.network("net", &[]);
    scene.container("one", &["--network", "net"]);
    scene.host.run("nft", &["delete", "table", "inet", "tombolo"]);
    let samples = until("a repair is counted", || {
        let samples = Samples::of(&scene);
        let repaired = samples.names().contains("tombolo_repairs_total");
        repaired.then_some(samples)
    });
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/grafana/tombolo.json");
    let dashboard = look::parse(&std::fs::read_to_string(file).unwrap());
    let mut queries = Vec::new();
    gather(&dashboard, &mut queries);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let asked: BTreeSet<&str> = queries
        .iter()
        .flat_map(|query| query.split(|c| !is_part(c)))
        .filter(|word| word.starts_with("tombolo_"))
        .collect();
    assert!(
        asked.len() > 15,
        "what the dashboard asks for was not found: {asked:?}"
    );
    let exported = samples.names();
    let unknown: Vec<_> = asked.difference(&exported).collect();
    assert!(unknown.is_empty(), "{unknown:?} of {exported:?}");
}

/// All queries of a dashboard.
fn gather(value: &Value, queries: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| gather(item, queries)),
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if ["expr", "query"].contains(&key.as_str()) => {
                        queries.push(text.clone());
                    }
                    other => gather(other, queries),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn nothing_listens_unless_asked_for_and_an_address_that_cannot_be_is_said() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let listening = host.sh("cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == \"0A\"'");
    assert_eq!(listening, "");
    tombolo.stop();
    let serve = |addr: &str| tombolo.try_cli(&["serve", "--metrics-addr", addr]);
    let absent = serve("198.51.100.9:9477");
    assert_eq!(absent.code, Some(1));
    absent.must_fail_with(&[
        "metrics_addr (from flag --metrics-addr): '198.51.100.9:9477' can't be listened on",
        "Cannot assign requested address",
    ]);
    let _taken = host
        .spaces()
        .enter(|| std::net::TcpListener::bind("127.0.0.1:9477"))
        .unwrap();
    serve("127.0.0.1:9477")
        .must_fail_with(&["'127.0.0.1:9477' can't be listened on", "Address already in use"]);
    let wrong = serve("localhost:9477");
    assert_eq!(wrong.code, Some(2));
    wrong.must_fail_with(&["metrics_addr (from flag --metrics-addr): 'localhost:9477': what stands before"]);
}
