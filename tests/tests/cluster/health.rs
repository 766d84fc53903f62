//! What is wrong with a cluster, as doctor and metrics tell it on a host.

use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use system_tests::{http, json, say};

use super::lab::{Lab, Member, PORT, s, timed};

/// Where metrics are scraped, of each host at its own address.
const METRICS: u16 = 9477;

/// The value of a series; none where there is no such series.
fn metric(lab: &Lab, member: &Member, series: &str) -> Option<f64> {
    let place = (member.address.as_str(), METRICS);
    let mut stream = lab
        .wire
        .enter(|| TcpStream::connect(place))
        .expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    let head = http::head("GET", "/metrics", 0);
    std::io::Write::write_all(&mut stream, head.as_bytes()).expect("a request");
    let answer = http::read_answer(&mut stream).expect("an answer").text();
    let mut lines = answer.lines();
    let line = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

fn with_metrics(count: usize) -> Lab {
    Lab::with(count, |n, _| {
        let place = format!("10.200.0.{}:{METRICS}", n + 1);
        vec![("TOMBOLO_METRICS_ADDR", place)]
    })
}

/// A datagram that says it is a member's, of a later start, and is sealed with nothing.
fn forged(member: &str) -> Vec<u8> {
    let id = (0..16).map(|at| u8::from_str_radix(&member[2 * at..2 * at + 2], 16).expect("an identifier"));
    let id: Vec<u8> = id.collect();
    let parts: [&[u8]; 6] = [b"tb\x01\x00", &[0, 0, 0, 1], &id, &[255; 4], &[7; 16], &[9; 40]];
    parts.concat()
}

#[test]
fn doctor_and_metrics_tell_of_a_firewall_a_forger_and_of_hosts_that_are_gone() {
    let lab = with_metrics(3);
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    assert_eq!(metric(&lab, one, "tombolo_cluster_member"), Some(0.0));
    assert_eq!(metric(&lab, one, "tombolo_cluster_decrees"), None);
    lab.join();
    let network = one.network("10.42.0.0/24");
    network.lease();
    lab.agree(s(10));
    for member in &lab.members {
        assert_eq!(member.complaints("cluster."), Vec::<String>::new());
    }
    timed("the metrics of a well cluster", s(5), || {
        let value = |series: &str| metric(&lab, one, series);
        let share = value("tombolo_cluster_share_leased{pool=\"10.42.0.0/24\"}");
        value("tombolo_cluster_hosts{state=\"up\"}") == Some(2.0)
            && value("tombolo_cluster_may_lease") == Some(1.0)
            && value("tombolo_cluster_decrees") == Some(4.0)
            && value("tombolo_cluster_datagrams_received_total") > Some(5.0)
            && share > Some(0.0)
    });

    // UDP is lost on its way, TCP isn't.
    let three_is = three.address.as_str();
    lab.wire.run(
        "nft",
        &[&format!(
            "add table bridge lab; add chain bridge lab cut {{ type filter hook forward priority 0; }}; \
             add rule bridge lab cut ip saddr {three_is} udp dport {PORT} drop; \
             add rule bridge lab cut ip daddr {three_is} udp dport {PORT} drop"
        )],
    );
    for (member, other) in [(three, one), (one, three)] {
        let mut told = Vec::new();
        timed("doctor tells of UDP", s(60), || {
            told = member.complaints("cluster.udp");
            told.iter().any(|told| told.contains(other.address.as_str()))
        });
        say(&format!("{}: {told:?}", member.name()));
    }
    let alone = three.complaints("cluster.hosts");
    assert!(
        alone.iter().any(|told| told.starts_with("1 of 3 are there")),
        "{alone:?}"
    );
    let missing = one.complaints("cluster.hosts");
    assert!(
        missing.iter().any(|told| told.contains(three.name())),
        "{missing:?}"
    );
    assert_eq!(
        metric(&lab, one, "tombolo_cluster_hosts{state=\"down\"}"),
        Some(1.0)
    );
    lab.heal();
    timed("all is well again", s(30), || {
        lab.members.iter().all(|member| {
            let bad = [
                member.complaints("cluster.udp"),
                member.complaints("cluster.hosts"),
            ];
            bad.iter().all(Vec::is_empty)
        })
    });

    // Somebody on the wire has no key.
    let socket = lab
        .wire
        .enter(|| UdpSocket::bind("10.200.0.254:0"))
        .expect("a socket");
    let place = (one.address.as_str(), PORT);
    for _ in 0..3 {
        socket.send_to(&forged(&two.id()), place).expect("a datagram");
    }
    timed("doctor tells of datagrams that don't open", s(10), || {
        let told = one.complaints("cluster.datagrams");
        told.iter()
            .any(|told| told.contains("whose seal is broken") && told.contains("10.200.0.254:"))
    });
    timed("so do metrics", s(5), || {
        metric(
            &lab,
            one,
            "tombolo_cluster_datagrams_dropped_total{reason=\"mac\"}",
        ) >= Some(3.0)
    });

    // One that was forgotten, and comes back.
    three.tombolo.kill();
    timed("the third is down", s(20), || {
        one.sees(three).as_deref() == Some("down")
    });
    one.try_cli(&["cluster", "forget", three.name()]).must();
    three.tombolo.start_again();
    timed("doctor tells that it is out", s(20), || {
        let told = three.complaints("cluster.standing");
        told.iter().any(|told| told.contains("out of the cluster"))
    });
    timed("its metrics do", s(5), || {
        metric(&lab, three, "tombolo_cluster_may_lease") == Some(0.0)
    });
    three.try_cli(&["cluster", "leave"]).must();
    assert_eq!(three.complaints("cluster."), Vec::<String>::new());
    assert_eq!(metric(&lab, three, "tombolo_cluster_member"), Some(0.0));

    // One whose port somebody else has takes no part, and says so.
    two.tombolo.stop();
    let taken = two
        .host
        .spaces()
        .enter(|| UdpSocket::bind(("0.0.0.0", PORT)))
        .expect("the port");
    two.tombolo.start_again();
    timed("doctor tells of the port", s(10), || {
        let told = two.complaints("cluster.standing");
        told.iter().any(|told| told.contains("port 7947"))
    });
    let shown = two.try_cli(&["cluster", "status"]).must().stdout;
    assert!(
        shown.contains("takes no part") && shown.contains("port 7947"),
        "{shown}"
    );
    drop(taken);
    timed("it takes part again", s(10), || {
        two.standing().as_deref() == Some("confirmed")
    });
    assert!(json::rows(&one.status()["hosts"]).len() == 2);
}
