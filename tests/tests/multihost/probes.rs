//! Tunnels that pass nothing, or small packets only: found by doctor with probes in them, on either side.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use system_tests::json::{self, text};
use system_tests::wait::{PATIENCE, within};
use system_tests::{Host, Kind, Plan, Sites, http};

use crate::matrix::{network, one_each};

/// What doctor says on a host of the probes.
fn probes(sites: &Sites, at: usize) -> (String, String) {
    let mut findings = sites[at].tombolo.findings();
    findings.retain(|finding| finding["check"] == "tunnels.probes");
    let [finding] = findings.as_slice() else {
        panic!("one finding of the probes: {findings:#?}");
    };
    assert_eq!(
        finding["verdict"] == "fault",
        finding["remedy"].is_string(),
        "{finding:#}"
    );
    (
        text(finding, "/verdict").to_owned(),
        text(finding, "/evidence").to_owned(),
    )
}

/// That doctor comes to say this on a host.
#[track_caller]
fn says(sites: &Sites, at: usize, verdict: &str, words: &[&str]) {
    let mut last = None;
    let said = within(PATIENCE, || {
        let found = last.insert(probes(sites, at));
        let so = found.0 == verdict && words.iter().all(|words| found.1.contains(words));
        so.then_some(())
    });
    assert!(
        said.is_some(),
        "doctor on host {at} does not say {verdict} {words:?}, but {last:?}"
    );
}

/// A rule for UDP that comes in on a host, for as long as its table is there.
fn rule(sites: &Sites, at: usize, rule: &str) {
    let ruleset = format!(
        "table inet strict {{ chain input {{ type filter hook input priority 0; policy accept; {rule}; }}; }}"
    );
    sites[at].host.run("nft", &[&ruleset]);
}

fn no_rule(sites: &Sites, at: usize) {
    sites[at].host.run("nft", &["delete", "table", "inet", "strict"]);
}

const ALL_PASS: &str = "packets of 1450 bytes pass the tunnels to and from 1 other host";

#[test]
fn a_firewall_that_drops_the_tunnels_is_found_on_both_sides() {
    let sites = Plan::of(2).ipv6().joined();
    says(&sites, 0, "not-applicable", &["no network has a tunnel"]);
    network(&sites, "over", Kind::Overlay, 42, &[]);
    let containers = one_each(&sites, "over");
    for at in [0, 1] {
        says(&sites, at, "ok", &[ALL_PASS]);
    }

    rule(&sites, 1, "udp dport 4789 drop");
    let way = "UDP 4789 is dropped on the way from this host to host b; the other way is free";
    says(&sites, 0, "fault", &[way, "between 10.200.0.1 and 10.200.0.2"]);
    let way = "UDP 4789 is dropped on the way from host a to this host; the other way is free";
    let own = "chain inet strict input of this host drops it by `udp dport 4789 drop`";
    says(&sites, 1, "fault", &[way, own]);
    assert!(!containers[0].pings(&containers[1].ip("over")));

    no_rule(&sites, 1);
    for at in [0, 1] {
        says(&sites, at, "ok", &[ALL_PASS]);
    }

    // What this host itself doesn't let out, the kernel refuses.
    sites[0].host.run(
        "nft",
        &["table inet strict { chain output { type filter hook output priority 0; udp dport 4789 drop; }; }"],
    );
    let refused = "this host can't send it: Operation not permitted";
    let own = "chain inet strict output of this host drops it";
    says(&sites, 0, "fault", &["from this host to host b", refused, own]);
    let refused = "a can't send it: Operation not permitted";
    says(&sites, 1, "fault", &["from host a to this host", refused]);
}

#[test]
fn a_way_that_loses_large_datagrams_without_a_word_is_told_with_its_limit_and_both_values() {
    let sites = Plan::of(2).ipv6().joined();
    // Containers alone are on it: there is no gateway that could be asked.
    network(&sites, "inner", Kind::Overlay, 42, &["--internal"]);
    let containers = one_each(&sites, "inner");
    says(&sites, 0, "ok", &[ALL_PASS]);

    // 1300 bytes with the outer headers of IP, UDP, VXLAN and Ethernet, which are 50. Large pings on the wire pass.
    rule(&sites, 1, "udp dport 4789 meta length > 1300 drop");
    let words = [
        "network inner: packets pass the tunnel from this host to host b up to 1250 bytes, the other way all",
        "the network's MTU is 1450 here and 1450 there",
        "the wire of this host takes 1500 bytes, that of b 1500",
    ];
    says(&sites, 0, "fault", &words);
    let words = [
        "packets pass the tunnel from host a to this host up to 1250 bytes, the other way all",
        "of this host may be what drops it",
    ];
    says(&sites, 1, "fault", &words);
    let address = containers[1].ip("inner");
    let ping = |size: &str| {
        let ping = ["ping", "-c", "1", "-W", "1", "-s", size, &address];
        containers[0].try_exec(&ping).ok
    };
    // Containers see the same: 28 bytes are IP and ICMP.
    assert!(ping("1222") && !ping("1223"));
}

#[test]
fn a_smaller_wire_that_an_older_network_does_not_suit_is_told_with_both_values() {
    let cabled = Plan::of(2).ipv6().cabled();
    let sites = cabled.start(|_| ());
    sites.join();
    network(&sites, "over", Kind::Overlay, 42, &[]);
    let _containers = one_each(&sites, "over");
    says(&sites, 0, "ok", &[ALL_PASS]);
    // What is larger is lost where it comes in, without a word.
    sites[1].host.run("ip", &["link", "set", "wire0", "mtu", "1400"]);
    // A veth takes four bytes more than its MTU, for the tag of a VLAN (`is_skb_forwardable`).
    let words = [
        "packets pass the tunnel from this host to host b up to 1354 bytes, the other way all",
        "the network's MTU is 1450 here and 1450 there",
        "the wire of this host takes 1500 bytes, that of b 1400",
    ];
    says(&sites, 0, "fault", &words);
}

/// `nft` of a host, in its own network namespace or in a container's: another version of it may not read what was made there.
struct Nft<'a> {
    host: &'a Host,
    sandbox: Option<String>,
}

impl Nft<'_> {
    fn run(&self, args: &[&str]) -> String {
        let Some(sandbox) = &self.sandbox else {
            return self.host.run("nft", args);
        };
        let net = format!("--net={sandbox}");
        self.host.run("nsenter", &[&[net.as_str(), "nft"], args].concat())
    }

    /// Has frames of the probes' type counted that come in by a link.
    fn count(&self, link: &str) {
        let ruleset = format!(
            "table netdev probes {{ chain into {{ type filter hook ingress device \"{link}\" priority 0; ether type 0x88b5 counter; }}; }}"
        );
        self.run(&[&ruleset]);
    }

    /// How many have been.
    fn counted(&self) -> u64 {
        let ruleset = json::parse(&self.run(&["-j", "list", "table", "netdev", "probes"]));
        let rules = json::rows(&ruleset["nftables"]).iter();
        let counters = rules.filter_map(|rule| rule["rule"]["expr"].as_array()).flatten();
        let mut packets = counters.filter_map(|expression| expression["counter"]["packets"].as_u64());
        packets.next().expect("a counter")
    }
}

#[test]
fn no_container_sees_a_probe() {
    let sites = Plan::of(2).ipv6().joined();
    network(&sites, "over", Kind::Overlay, 42, &[]);
    let containers = one_each(&sites, "over");
    says(&sites, 0, "ok", &[ALL_PASS]);
    let links = json::parse(&sites[1].host.run("ip", &["-j", "link", "show", "type", "vxlan"]));
    let tunnel = text(&links[0], "/ifname").to_owned();
    let outside = Nft {
        host: &sites[1].host,
        sandbox: None,
    };
    outside.count(&tunnel);
    let inside = containers.iter().zip(&*sites).map(|(container, site)| Nft {
        host: &site.host,
        sandbox: Some(text(&container.inspect(), "/NetworkSettings/SandboxKey").to_owned()),
    });
    let inside: Vec<Nft> = inside.collect();
    for place in &inside {
        place.count("eth0");
    }
    says(&sites, 0, "ok", &[ALL_PASS]);
    assert!(outside.counted() >= 2);
    for place in &inside {
        assert_eq!(place.counted(), 0);
    }
}

/// Where tombolo's metrics are scraped on their own host, and where a follower of events writes.
const METRICS: &str = "127.0.0.1:9477";
const FOLLOWED: &str = "/tmp/events";

/// How long the daemon may take to find by itself what is in trouble, or in none any more: it confirms the first, and tries
/// what is in trouble every half a minute.
const BY_ITSELF: Duration = Duration::from_secs(120);

/// How many tunnels are in trouble by a host's metrics; none where they say nothing of it.
fn troubles(sites: &Sites, at: usize) -> Option<f64> {
    let place = sites[at].host.spaces();
    let mut stream = place.enter(|| TcpStream::connect(METRICS)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head = http::head("GET", "/metrics", 0);
    std::io::Write::write_all(&mut stream, head.as_bytes()).expect("a request");
    let text = http::read_answer(&mut stream).expect("an answer").text();
    let value = |line: &str| line.strip_prefix("tombolo_tunnel_problems ")?.parse().ok();
    text.lines().find_map(value)
}

#[test]
fn the_daemon_finds_it_by_itself_and_tells_when_it_is_over() {
    let sites = Plan::of(2)
        .ipv6()
        .settings("TOMBOLO_METRICS_ADDR", METRICS)
        .joined();
    let follower = sites[0].tombolo.cli_to(&["events", "--output", "json"], FOLLOWED);
    // A line that is still being written is left for the next look.
    let told = |action: &str, words: &str| {
        let text = sites[0].host.log(FOLLOWED);
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        let mut events = whole
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(json::parse);
        let about = |event: &Value| {
            event["about"] == "tunnel to host b"
                && event["action"] == action
                && text_of(event).contains(words)
        };
        events.any(|event| about(&event)).then_some(())
    };
    let finds = |what: &str, found: &dyn Fn() -> Option<()>| {
        assert!(
            within(BY_ITSELF, found).is_some(),
            "{what}: {}",
            sites[0].host.log(FOLLOWED)
        );
    };
    rule(&sites, 1, "udp dport 4789 meta length > 1300 drop");
    network(&sites, "over", Kind::Overlay, 42, &[]);
    let _containers = one_each(&sites, "over");
    let words =
        "packets of network over pass to it up to 1250 bytes, and from it in all sizes, and its MTU is 1450";
    finds("small packets pass", &|| told("appeared", words));
    finds("that is counted", &|| {
        (troubles(&sites, 0) == Some(1.0)).then_some(())
    });
    no_rule(&sites, 1);
    finds("all packets pass", &|| told("solved", words));
    finds("nothing is counted", &|| {
        (troubles(&sites, 0) == Some(0.0)).then_some(())
    });
    drop(follower);
}

fn text_of(event: &Value) -> &str {
    event["problem"].as_str().unwrap_or_default()
}
