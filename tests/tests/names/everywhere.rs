//! Every name from every container, in every way and of every sort.

use std::time::Duration;

use system_tests::Container;
use system_tests::sites::{Kind, Plan, Sites};

use super::dig::{DOCKER, Outside, comes, dig};

/// How soon what is new is answered everywhere: names come from the engine after its event.
const SOON: Duration = Duration::from_secs(5);

/// How soon it is known that a host is gone, or is there again.
const DEATH: Duration = Duration::from_secs(30);

/// The gateways of the network, by family.
const GATEWAYS: [&str; 2] = ["10.42.0.1", "fd42::1"];

fn sites() -> (Sites, Outside) {
    let sites = Plan::of_releases().ipv6().joined();
    let outside = Outside::of(&sites);
    sites.network(
        "app",
        Kind::Overlay,
        &["--subnet", "10.42.0.0/16", "--ipv6", "--subnet", "fd42::/64"],
    );
    (sites, outside)
}

/// Where a container may ask.
fn servers() -> [&'static str; 3] {
    [DOCKER, GATEWAYS[0], GATEWAYS[1]]
}

#[test]
fn each_container_has_the_names_of_all_at_docker_s_resolver_and_at_the_gateway() {
    let (sites, _outside) = sites();
    let web = sites[0].container(
        "web",
        "app",
        &["--network-alias", "www", "-p", "8080:80", "--hostname", "front"],
    );
    let one = sites[1].container(
        "api-1",
        "app",
        &[
            "--network-alias",
            "api",
            "--ip",
            "10.42.0.11",
            "--ip6",
            "fd42::11",
        ],
    );
    let two = sites[2].container(
        "api-2",
        "app",
        &[
            "--network-alias",
            "api",
            "--ip",
            "10.42.0.12",
            "--ip6",
            "fd42::12",
        ],
    );
    let (v4, v6) = (web.ip("app"), web.ip6("app"));
    let id = web.inspect()["Id"].as_str().expect("an id")[..12].to_owned();
    let full = "web.app.tombolo.internal";
    for asker in [&web, &one, &two] {
        for server in servers() {
            let is = |words: &[&str], expected: &[&str]| {
                comes(asker, server, words, expected, SOON);
            };
            for name in ["web", "WWW", "front", &id, "web.app", full] {
                is(&[name, "A"], &[&v4]);
            }
            is(&["web", "AAAA"], &[&v6]);
            is(&["api", "A"], &["10.42.0.11", "10.42.0.12"]);
            is(&["api.app.tombolo.internal", "AAAA"], &["fd42::11", "fd42::12"]);
            is(&["+tcp", "api-2", "A"], &["10.42.0.12"]);
            is(&["+bufsize=4096", "+edns=0", "api-1", "A"], &["10.42.0.11"]);
            is(&["-x", &v4], &[&format!("{full}.")]);
            is(&["-x", "fd42::12"], &["api-2.app.tombolo.internal."]);
            is(&["_80._tcp.web", "SRV"], &[&format!("0 0 80 {full}.")]);
            is(&["outside.example", "A"], &["192.0.2.7"]);
            is(&["outside.example", "TXT"], &["\"first\" \"second\""]);
            is(&["+tcp", "outside.example", "A"], &["192.0.2.7"]);
            is(&["web", "MX"], &["NOERROR"]);
            is(&["nobody.app.tombolo.internal", "A"], &["NXDOMAIN"]);
            is(&["nobody.example", "A"], &["NXDOMAIN"]);
            is(&["-x", "10.42.77.77"], &["NXDOMAIN"]);
        }
    }
    let reply = dig(&two, DOCKER, &["+edns=0", full]);
    assert_eq!(reply.flags, "qr aa rd ra", "{}", reply.text);
    assert!(reply.text.contains("EDNS: version: 0"), "{}", reply.text);
    let nothing = dig(&two, GATEWAYS[0], &[full, "TXT"]);
    assert!(
        nothing
            .rest
            .iter()
            .any(|data| data.starts_with("ns.tombolo.internal. ")),
        "the zone's authority goes with it: {}",
        nothing.text
    );
    assert_eq!(
        dig(&two, GATEWAYS[0], &["+edns=1", "+noednsneg", full]).status,
        "BADVERS"
    );
    // As programs in containers ask.
    assert!(one.pings("web") && two.pings6("web"));
    follows(&sites, &web);
}

/// Names come, change and go with what happens to containers.
#[track_caller]
fn follows(sites: &Sites, web: &Container) {
    sites[2].engine.docker(&["rename", "api-2", "worker"]);
    comes(web, DOCKER, &["worker", "A"], &["10.42.0.12"], SOON);
    comes(web, DOCKER, &["api-2", "A"], &["NXDOMAIN"], SOON);
    let late = sites[1].container("late", "bridge", &[]);
    sites[1].engine.docker(&[
        "network",
        "connect",
        "--alias",
        "later",
        "--ip",
        "10.42.0.13",
        "app",
        "late",
    ]);
    comes(web, DOCKER, &["later", "A"], &["10.42.0.13"], SOON);
    comes(&late, DOCKER, &["worker", "A"], &["10.42.0.12"], SOON);
    sites[1].engine.docker(&["network", "disconnect", "app", "late"]);
    let worker = sites[2].known("worker");
    comes(&worker, DOCKER, &["later", "A"], &["NXDOMAIN"], SOON);
    sites[2].engine.docker(&["restart", "-t", "0", "worker"]);
    comes(web, DOCKER, &["api", "A"], &["10.42.0.11", "10.42.0.12"], SOON);
    sites[1].engine.docker(&["rm", "-f", "api-1"]);
    comes(web, DOCKER, &["api", "A"], &["10.42.0.12"], SOON);
    // One moves to another host, with its address and without.
    for address in ["10.42.0.13", "10.42.0.14"] {
        sites[1].engine.try_docker(&["rm", "-f", "mover"]);
        sites[2].engine.try_docker(&["rm", "-f", "mover"]);
        let to = usize::from(address.ends_with('4')) + 1;
        sites[to].container("mover", "app", &["--ip", address]);
        comes(web, DOCKER, &["mover", "A"], &[address], SOON);
        assert!(web.pings("mover"), "{address}");
    }
    sites[2]
        .engine
        .docker(&["update", "--restart", "always", "mover"]);
    // A host is cut off: its names go there, and ours here, and all are back when it is mended.
    sites.part(&[2]);
    comes(web, DOCKER, &["mover", "A"], &["NXDOMAIN"], DEATH);
    // Beyond the cut is the outside's name server as well.
    comes(&worker, DOCKER, &["web", "A"], &["SERVFAIL"], DEATH);
    comes(&worker, DOCKER, &["mover", "A"], &["10.42.0.14"], SOON);
    sites.heal();
    comes(web, DOCKER, &["mover", "A"], &["10.42.0.14"], DEATH);
    comes(&worker, DOCKER, &["web", "A"], &[&web.ip("app")], DEATH);
    // It dies, and returns.
    sites.power_off(2);
    comes(web, DOCKER, &["api", "A"], &["NXDOMAIN"], DEATH);
    sites.power_on(2);
    comes(web, DOCKER, &["mover", "A"], &["10.42.0.14"], DEATH);
    comes(
        &sites[2].known("mover"),
        DOCKER,
        &["web", "A"],
        &[&web.ip("app")],
        DEATH,
    );
}

#[test]
fn nobody_is_told_of_networks_that_it_is_not_on() {
    let (sites, _outside) = sites();
    sites.network("other", Kind::HostGateway, &["--subnet", "10.43.0.0/16"]);
    let web = sites[0].container("web", "app", &[]);
    let secret = sites[1].container("secret", "other", &["--ip", "10.43.0.9"]);
    let both = sites[0].container("both", "app", &[]);
    sites[0].engine.docker(&["network", "connect", "other", "both"]);
    for server in [DOCKER, GATEWAYS[0], "10.43.0.1"] {
        comes(&both, server, &["secret", "A"], &["10.43.0.9"], SOON);
        comes(&both, server, &["web", "A"], &[&web.ip("app")], SOON);
    }
    for name in ["secret", "secret.other", "secret.other.tombolo.internal"] {
        comes(&web, DOCKER, &[name, "A"], &["NXDOMAIN"], SOON);
        comes(&web, GATEWAYS[0], &[name, "A"], &["NXDOMAIN"], SOON);
    }
    comes(&secret, "10.43.0.1", &["web", "A"], &["NXDOMAIN"], SOON);
    comes(&secret, "10.43.0.1", &["both", "A"], &[&both.ip("other")], SOON);
    // A gateway of a network that the asker isn't on refuses, if it is reached at all.
    let status = dig(&secret, GATEWAYS[0], &["+time=1", "web", "A"]).status;
    assert!(["REFUSED", "nothing"].contains(&status.as_str()), "{status}");
}
