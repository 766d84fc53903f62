//! What no engine should say. Each is answered by a clear refusal, or has no effect; nothing panics, and the state is
//! the same afterwards, byte for byte of its export.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use system_tests::http::{self, Answer};
use system_tests::plugin::refusal;
use system_tests::{Host, Snapshot, Tombolo, json as look};

/// Methods that say nothing without a body, with a request that would be fine.
fn methods() -> Vec<(&'static str, Value)> {
    let (network, endpoint) = ("a".repeat(64), "b".repeat(64));
    let place = json!({ "NetworkID": network, "EndpointID": endpoint });
    let with = |more: Value| {
        let mut all = place.clone();
        all.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        all
    };
    let ports = json!({
        "com.docker.network.endpoint.exposedports": [{ "Proto": 6, "Port": 80 }],
        "com.docker.network.portmap":
            [{ "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080 }],
    });
    let generic = json!({ "com.docker.network.generic": { "com.docker.network.driver.mtu": "1400" },
        "com.docker.network.enable_ipv6": false });
    let data = json!([{ "AddressSpace": "LocalDefault", "Pool": "10.33.0.0/24", "Gateway": "10.33.0.1/24",
        "AuxAddresses": { "a": "10.33.0.9/24" } }]);
    let interface = json!({ "Address": "10.33.0.2/24", "AddressIPv6": "", "MacAddress": "" });
    vec![
        ("NetworkDriver.GwAllocCheck", json!({ "Options": generic })),
        (
            "NetworkDriver.AllocateNetwork",
            json!({ "NetworkID": network, "Options": {}, "IPv4Data": data, "IPv6Data": [] }),
        ),
        ("NetworkDriver.FreeNetwork", json!({ "NetworkID": network })),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": network, "Options": generic, "IPv4Data": data, "IPv6Data": [] }),
        ),
        (
            "NetworkDriver.CreateEndpoint",
            with(json!({ "Interface": interface, "Options": ports })),
        ),
        ("NetworkDriver.EndpointOperInfo", place.clone()),
        (
            "NetworkDriver.Join",
            with(json!({ "SandboxKey": "/var/run/docker/netns/0123456789ab", "Options": ports })),
        ),
        (
            "NetworkDriver.ProgramExternalConnectivity",
            with(json!({ "Options": ports })),
        ),
        ("NetworkDriver.RevokeExternalConnectivity", place.clone()),
        ("NetworkDriver.Leave", place.clone()),
        ("NetworkDriver.DeleteEndpoint", place.clone()),
        ("NetworkDriver.DeleteNetwork", json!({ "NetworkID": network })),
        (
            "NetworkDriver.DiscoverNew",
            json!({ "DiscoveryType": 1, "DiscoveryData": { "Address": "192.0.2.9", "Self": false } }),
        ),
        (
            "NetworkDriver.DiscoverDelete",
            json!({ "DiscoveryType": 1, "DiscoveryData": { "Address": "192.0.2.9", "Self": false } }),
        ),
        (
            "IpamDriver.RequestPool",
            json!({ "AddressSpace": "", "Pool": "10.34.0.0/24", "SubPool": "", "Options": {}, "V6": false }),
        ),
        ("IpamDriver.ReleasePool", json!({ "PoolID": "no-such-pool" })),
        (
            "IpamDriver.RequestAddress",
            json!({ "PoolID": "no-such-pool", "Address": "10.34.0.2", "Options": {} }),
        ),
        (
            "IpamDriver.ReleaseAddress",
            json!({ "PoolID": "no-such-pool", "Address": "10.34.0.2" }),
        ),
    ]
}

const BODILESS: [&str; 4] = [
    "Plugin.Activate",
    "NetworkDriver.GetCapabilities",
    "IpamDriver.GetCapabilities",
    "IpamDriver.GetDefaultAddressSpaces",
];

const TEARDOWN: [&str; 7] = [
    "NetworkDriver.RevokeExternalConnectivity",
    "NetworkDriver.Leave",
    "NetworkDriver.DeleteEndpoint",
    "NetworkDriver.DeleteNetwork",
    "NetworkDriver.FreeNetwork",
    "IpamDriver.ReleaseAddress",
    "IpamDriver.ReleasePool",
];

/// A daemon with a network, an endpoint and a pool to lose.
struct Victim {
    host: Arc<Host>,
    tombolo: Tombolo,
    export: String,
    snapshot: Snapshot,
}

fn network(id: char, pool: &str, gateway: &str) -> Value {
    json!({
        "NetworkID": id.to_string().repeat(64), "Options": { "com.docker.network.generic": {} }, "IPv6Data": [],
        "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": pool, "Gateway": gateway }],
    })
}

fn endpoint(address: &str) -> Value {
    json!({
        "NetworkID": "1".repeat(64), "EndpointID": "2".repeat(64), "Options": {},
        "Interface": { "Address": address, "AddressIPv6": "", "MacAddress": "02:00:00:00:00:02" },
    })
}

impl Victim {
    fn new() -> Self {
        let host = Arc::new(Host::new());
        let tombolo = Tombolo::start(&host);
        let plugin = tombolo.plugin();
        plugin.accepted(
            "NetworkDriver.CreateNetwork",
            &network('1', "10.31.0.0/24", "10.31.0.1/24"),
        );
        plugin.accepted("NetworkDriver.CreateEndpoint", &endpoint("10.31.0.2/24"));
        let pool =
            json!({ "AddressSpace": "", "Pool": "10.32.0.0/24", "SubPool": "", "Options": {}, "V6": false });
        let pool = plugin.accepted("IpamDriver.RequestPool", &pool);
        let lease = json!({ "PoolID": pool["PoolID"], "Address": "10.32.0.7", "Options": {} });
        plugin.accepted("IpamDriver.RequestAddress", &lease);
        let (export, snapshot) = (tombolo.export().to_string(), Snapshot::of(&host, Some(&tombolo)));
        Self {
            host,
            tombolo,
            export,
            snapshot,
        }
    }

    fn bytes(&self, method: &str, body: &[u8]) -> Answer {
        self.tombolo.plugin().bytes(method, body)
    }

    /// Sends a body that must be refused, by a status or by words.
    #[track_caller]
    fn must_refuse(&self, method: &str, body: &[u8]) -> String {
        let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        let answer = self.bytes(method, body);
        let text = answer.text();
        let words = serde_json::from_str(&text)
            .ok()
            .and_then(|answer| refusal(&answer));
        assert!(
            answer.status != 200 || words.is_some(),
            "{method} accepted {shown}: {text}"
        );
        words.unwrap_or(text)
    }

    /// Nothing has changed, and nothing panicked.
    #[track_caller]
    fn must_be_unharmed(&self) {
        assert!(!self.tombolo.log().contains("panicked"), "{}", self.tombolo.log());
        assert_eq!(self.tombolo.export().to_string(), self.export);
        self.snapshot.must_come_back(&self.host, Some(&self.tombolo));
    }
}

#[test]
fn an_empty_body_is_refused_where_one_is_needed() {
    let victim = Victim::new();
    // Its answer is always the same, so a repeat that has lost its body gets it too.
    let constant = "NetworkDriver.EndpointOperInfo";
    assert_eq!(
        victim.tombolo.plugin().call(constant, &Value::Null),
        json!({ "Value": {} })
    );
    for (method, _) in methods().into_iter().filter(|(method, _)| *method != constant) {
        let why = victim.must_refuse(method, b"");
        assert!(why.contains("body"), "{method}: {why}");
        assert_eq!(
            victim.bytes(method, b"").status,
            200,
            "a refusal of {method} is an answer, not a fault"
        );
    }
    for method in BODILESS {
        assert_eq!(
            victim.tombolo.plugin().call(method, &Value::Null),
            victim.tombolo.plugin().call(method, &json!({}))
        );
    }
    victim.must_be_unharmed();
}

#[test]
fn a_body_that_is_cut_short_or_no_object_is_refused() {
    let victim = Victim::new();
    for (method, request) in methods() {
        let whole = request.to_string();
        for cut in [1, 2, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            victim.must_refuse(method, &whole.as_bytes()[..cut]);
        }
        for other in [
            "null",
            "[]",
            "7",
            "\"text\"",
            "{\"a\":",
            "\u{0}",
            "{}{}",
            "[[[[[[[[[[[[[[[[",
        ] {
            victim.must_refuse(method, other.as_bytes());
        }
        victim.must_refuse(method, &[0xff, 0xfe, 0x80]);
        victim.must_refuse(method, "[".repeat(100_000).as_bytes());
    }
    victim.must_be_unharmed();
}

#[test]
fn a_body_of_ten_megabytes_is_refused() {
    let victim = Victim::new();
    let padding = "x".repeat(10 << 20);
    for (method, mut request) in methods() {
        request["Padding"] = Value::String(padding.clone());
        victim.must_refuse(method, request.to_string().as_bytes());
    }
    victim.must_refuse("NetworkDriver.CreateNetwork", " ".repeat(10 << 20).as_bytes());
    victim.must_be_unharmed();
}

/// All copies of a request in which one field, at any depth, has another type.
fn with_wrong_types(request: &Value) -> Vec<Value> {
    fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v))
                .collect(),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(i, v)| (i.to_string(), v))
                .collect(),
            _ => Vec::new(),
        };
        for (key, child) in children {
            let path = format!("{at}/{key}");
            found.push(path.clone());
            paths(child, &path, found);
        }
    }
    let mut all = Vec::new();
    paths(request, "", &mut all);
    let wrong = [
        json!(17),
        json!(-1.5),
        json!(true),
        json!("\u{0}\u{1f4a5}"),
        json!(["x"]),
        json!({ "x": 1 }),
    ];
    let mut copies = Vec::new();
    for path in all {
        for other in &wrong {
            let mut copy = request.clone();
            let field = copy.pointer_mut(&path).expect("a path of the request");
            if std::mem::discriminant(field) != std::mem::discriminant(other) {
                field.clone_from(other);
                copies.push(copy);
            }
        }
    }
    copies
}

#[test]
fn a_field_of_another_type_never_harms() {
    let victim = Victim::new();
    for (method, request) in methods() {
        for copy in with_wrong_types(&request) {
            let answer = victim.bytes(method, copy.to_string().as_bytes());
            let parsed = look::parse(&answer.text());
            assert_eq!(answer.status, 200, "{method} {copy}: {parsed}");
            // Some fields are nobody's business: then the request is granted, and taken back here.
            if refusal(&parsed).is_none() {
                undo(&victim, method, &copy, &parsed);
            }
        }
    }
    victim.must_be_unharmed();
}

fn undo(victim: &Victim, method: &str, request: &Value, answer: &Value) {
    let plugin = victim.tombolo.plugin();
    match method {
        "NetworkDriver.CreateNetwork" => {
            plugin.accepted(
                "NetworkDriver.DeleteNetwork",
                &json!({ "NetworkID": request["NetworkID"] }),
            );
        }
        "IpamDriver.RequestPool" => {
            plugin.accepted("IpamDriver.ReleasePool", &json!({ "PoolID": answer["PoolID"] }));
        }
        _ => {}
    }
}

#[test]
fn identifiers_of_ten_kilobytes_are_refused_or_unknown() {
    let victim = Victim::new();
    let long = "f".repeat(10 << 10);
    for (method, request) in methods() {
        for key in [
            "NetworkID",
            "EndpointID",
            "PoolID",
            "SandboxKey",
            "Pool",
            "Address",
        ] {
            if request.get(key).is_some() {
                let mut copy = request.clone();
                copy[key] = Value::String(long.clone());
                let answer = victim.bytes(method, copy.to_string().as_bytes());
                assert!(
                    answer.body.len() < 2000,
                    "{method} repeats what it was sent: {} bytes",
                    answer.body.len()
                );
                let known = TEARDOWN.contains(&method) || refusal(&look::parse(&answer.text())).is_some();
                assert!(
                    known || !method.contains("Create"),
                    "{method} accepted a long {key}"
                );
            }
        }
    }
    victim.must_be_unharmed();
}

#[test]
fn tearing_down_what_is_not_known_succeeds() {
    let victim = Victim::new();
    for (method, request) in methods().iter().filter(|(method, _)| TEARDOWN.contains(method)) {
        victim.tombolo.plugin().accepted(method, request);
        victim.tombolo.plugin().accepted(method, request);
    }
    victim.must_be_unharmed();
}

#[test]
fn the_same_again_is_granted_and_something_else_under_its_name_is_refused() {
    let victim = Victim::new();
    let plugin = victim.tombolo.plugin();
    plugin.accepted(
        "NetworkDriver.CreateNetwork",
        &network('1', "10.31.0.0/24", "10.31.0.1/24"),
    );
    plugin.accepted("NetworkDriver.CreateEndpoint", &endpoint("10.31.0.2/24"));
    for other in [
        network('1', "10.31.0.0/24", "10.31.0.9/24"),
        network('1', "10.35.0.0/24", "10.35.0.1/24"),
    ] {
        let why = plugin.refused("NetworkDriver.CreateNetwork", &other);
        assert!(why.contains("10.31.0."), "what is there is named: {why}");
    }
    let why = plugin.refused("NetworkDriver.CreateEndpoint", &endpoint("10.31.0.3/24"));
    assert!(why.contains("10.31.0.2") && why.contains("10.31.0.3"), "{why}");
    plugin.refused(
        "NetworkDriver.CreateNetwork",
        &network('3', "10.31.0.128/25", "10.31.0.129/25"),
    );
    victim.must_be_unharmed();
}

#[test]
fn a_method_that_does_not_exist_is_not_found() {
    let victim = Victim::new();
    for method in [
        "NetworkDriver.Explode",
        "IpamDriver.",
        "VolumeDriver.Create",
        "",
        "..",
        "NetworkDriver.CreateNetwork/x",
    ] {
        assert_eq!(victim.bytes(method, b"{}").status, 404, "{method}");
    }
    victim.must_be_unharmed();
}

#[test]
fn half_a_request_does_not_hold_up_the_end() {
    let victim = Victim::new();
    let head = http::head("POST", "/NetworkDriver.CreateNetwork", 1000);
    let halves: [&[u8]; 4] = [b"", b"PO", &head.as_bytes()[..40], head.as_bytes()];
    let held: Vec<_> = halves
        .iter()
        .map(|half| victim.tombolo.plugin().half_sent(half))
        .collect();
    let start = Instant::now();
    victim.tombolo.stop();
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "it took {:?} to end",
        start.elapsed()
    );
    drop(held);
    victim.tombolo.start_again();
    victim.must_be_unharmed();
}

#[test]
fn slow_and_idle_connections_hold_up_nobody() {
    let victim = Victim::new();
    let plugin = victim.tombolo.plugin();
    let _idle: Vec<_> = (0..200).map(|_| plugin.connect()).collect();
    let mut slow: Vec<_> = (0..20)
        .map(|_| plugin.half_sent(b"POST /NetworkDriver.Leave HTTP/1.1\r\nContent-Le"))
        .collect();
    let start = Instant::now();
    for one in &mut slow {
        plugin.accepted("NetworkDriver.EndpointOperInfo", &methods()[5].1);
        // One more byte now and then: never done, never quite idle.
        one.write_all(b"n").ok();
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "20 requests took {:?}",
        start.elapsed()
    );
    victim.must_be_unharmed();
}
