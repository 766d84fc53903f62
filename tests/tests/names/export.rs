//! The zone, open to the outside.

use std::time::Duration;

use system_tests::sites::{Kind, Plan};
use system_tests::until;

use super::dig::{DOCKER, Outside, comes, dig_in};

/// Where the name server of the LAN answers, on the second host.
const LAN: &str = "127.0.0.1";
const PORT: &str = "5300";

#[test]
fn the_outside_has_the_zone_where_it_is_opened_and_all_of_it_if_it_may() {
    let sites = Plan::of(3)
        .setting(0, "TOMBOLO_DNS_EXPORT", "zone,10.200.0.2")
        .joined();
    sites.network(
        "app",
        Kind::Overlay,
        &["--subnet", "10.42.0.0/16", "--ipv6", "--subnet", "fd42::/64"],
    );
    let web = sites[0].container(
        "web",
        "app",
        &["-p", "8080:80", "--ip", "10.42.0.7", "--ip6", "fd42::7"],
    );
    let api = sites[1].container("api", "app", &["--network-alias", "backend", "--ip", "10.42.0.8"]);
    comes(
        &web,
        DOCKER,
        &["api", "A"],
        &["10.42.0.8"],
        Duration::from_secs(5),
    );
    let (own, allowed, other) = (
        sites[0].network_spaces(),
        sites[1].network_spaces(),
        sites[2].network_spaces(),
    );
    let server = "10.200.0.1";
    let asks = |words: &[&str]| {
        let reply = dig_in(&allowed, server, words);
        match reply.answers.is_empty() {
            true => reply.status,
            false => reply.answers.join(" "),
        }
    };
    until("the zone is open", || {
        (asks(&["web.app.tombolo.internal", "A"]) == "10.42.0.7").then_some(())
    });
    for (words, expected) in [
        (&["web.app.tombolo.internal", "AAAA"][..], "fd42::7"),
        (&["backend.app.tombolo.internal", "A"], "10.42.0.8"),
        (&["+tcp", "backend.app.tombolo.internal", "A"], "10.42.0.8"),
        (
            &["_http._tcp.web.app.tombolo.internal", "SRV"],
            "0 0 80 web.app.tombolo.internal.",
        ),
        (
            &["_80._tcp.web.app.tombolo.internal", "SRV"],
            "0 0 80 web.app.tombolo.internal.",
        ),
        (&["_https._tcp.web.app.tombolo.internal", "SRV"], "NXDOMAIN"),
        (&["tombolo.internal", "NS"], "ns.tombolo.internal."),
        (&["ns.tombolo.internal", "A"], server),
        (&["-x", "10.42.0.7"], "web.app.tombolo.internal."),
        (&["-x", "10.42.7.7"], "NXDOMAIN"),
        (&["app.tombolo.internal", "A"], "NOERROR"),
        (&["nobody.app.tombolo.internal", "A"], "NXDOMAIN"),
        // Short names are for containers, and nobody else's names are looked up.
        (&["web", "A"], "REFUSED"),
        (&["web.app", "A"], "REFUSED"),
        (&["outside.example", "A"], "REFUSED"),
        (&["-x", "192.0.2.1"], "REFUSED"),
    ] {
        assert_eq!(asks(words), expected, "{words:?}");
    }
    let reply = dig_in(&allowed, server, &["web.app.tombolo.internal", "A"]);
    assert_eq!(
        reply.flags, "qr aa rd",
        "with authority, and without recursion: {}",
        reply.text
    );
    let closed = dig_in(&own, "10.200.0.2", &["+time=1", "web.app.tombolo.internal", "A"]);
    assert_eq!(
        closed.status, "nothing",
        "host b has not opened it: {}",
        closed.text
    );

    // All of it, to who may have it.
    let serial = || {
        let soa = asks(&["tombolo.internal", "SOA"]);
        soa.split(' ')
            .nth(2)
            .and_then(|word| word.parse::<u32>().ok())
            .expect("a serial number")
    };
    let before = serial();
    let whole = dig_in(&allowed, server, &["tombolo.internal", "AXFR"]).text;
    for line in [
        "web.app.tombolo.internal.",
        "backend.app.tombolo.internal.",
        "10.42.0.8",
        "fd42::7",
        "SRV",
    ] {
        assert!(whole.contains(line), "{line} is not in {whole}");
    }
    assert_eq!(whole.matches("SOA").count(), 2, "{whole}");
    for transfer in ["AXFR", "IXFR=1"] {
        let refused = dig_in(&other, server, &["+tcp", "tombolo.internal", transfer]).text;
        assert!(!refused.contains("web.app"), "{transfer}: {refused}");
    }

    // A name server of the LAN that passes the zone on: what it says follows what happens.
    let _lan = Outside::at(
        &allowed,
        &[
            "--port",
            PORT,
            "--listen-address",
            LAN,
            "--cache-size=0",
            &format!("--server=/tombolo.internal/{server}"),
        ],
    );
    let by_lan = |name: &str| dig_in(&allowed, LAN, &["-p", PORT, name, "A"]).answers;
    until("the LAN's name server knows", || {
        (by_lan("web.app.tombolo.internal") == ["10.42.0.7"]).then_some(())
    });
    api.remove();
    until("what is gone is gone there", || {
        by_lan("api.app.tombolo.internal").is_empty().then_some(())
    });
    assert!(serial() > before, "a copy is known to be old");
}
