//! Without tombolo, containers ask Docker as they always did, and come back to us with it.

use std::time::Duration;

use system_tests::Container;
use system_tests::sites::{Kind, Plan, Site};

use super::dig::{DOCKER, Outside, comes};

/// How soon the kernel gives questions to Docker's resolver by itself.
const OPEN: Duration = Duration::from_secs(5);

/// How soon a tombolo that has come back answers again.
const BACK: Duration = Duration::from_secs(10);

/// What the host's own `nft` says in a container: an older one may not understand what the host's iptables has written there.
#[track_caller]
fn nft(site: &Site, container: &Container, words: &[&str]) -> String {
    let pid = &container.inspect()["State"]["Pid"];
    let namespace = format!("--net=/proc/{pid}/ns/net");
    site.host
        .run("nsenter", &[&[namespace.as_str(), "nft"], words].concat())
}

#[test]
fn a_tombolo_that_dies_leaves_names_to_docker_and_takes_them_again_when_it_is_back() {
    let sites = Plan::of(2).joined();
    let _outside = Outside::of(&sites);
    sites.network("app", Kind::Overlay, &["--subnet", "10.42.0.0/16"]);
    let web = sites[0].container("web", "app", &[]);
    let beside = sites[0].container("beside", "app", &[]);
    let far = sites[1].container("far", "app", &["--ip", "10.42.0.9"]);
    comes(&web, DOCKER, &["far", "A"], &["10.42.0.9"], BACK);

    sites[0].tombolo.kill();
    let took = comes(&web, DOCKER, &["beside", "A"], &[&beside.ip("app")], OPEN);
    system_tests::say(&format!("Docker's resolver answers {took:?} after the death"));
    comes(&web, DOCKER, &["outside.example", "A"], &["192.0.2.7"], OPEN);
    // What is there of the other host is not cut off meanwhile.
    assert!(web.pings("10.42.0.9"));

    sites[0].tombolo.start_again();
    let took = comes(&web, DOCKER, &["far", "A"], &["10.42.0.9"], BACK);
    system_tests::say(&format!(
        "names of all hosts are answered {took:?} after the start"
    ));

    // One that is stopped in good order has Docker's resolver answer at once.
    sites[0].tombolo.stop();
    let took = comes(
        &web,
        DOCKER,
        &["beside", "A"],
        &[&beside.ip("app")],
        Duration::from_secs(1),
    );
    system_tests::say(&format!("Docker's resolver answers {took:?} after the end"));
    sites[0].tombolo.start_again();
    comes(&web, DOCKER, &["far", "A"], &["10.42.0.9"], BACK);

    // Whoever throws our rules away in a container gets them back.
    nft(&sites[0], &web, &["delete", "table", "ip", "tombolo_dns"]);
    comes(&web, DOCKER, &["far", "A"], &["10.42.0.9"], BACK);

    // A container that isn't on the network any more asks Docker again, at once.
    sites[0].engine.docker(&["network", "create", "plain"]);
    sites[0].engine.docker(&["network", "connect", "plain", "web"]);
    sites[0].engine.docker(&["network", "disconnect", "app", "web"]);
    comes(&web, DOCKER, &["far", "A"], &["NXDOMAIN"], OPEN);
    let tables = nft(&sites[0], &web, &["list", "tables"]);
    assert!(!tables.contains("tombolo"), "{tables}");
    drop(far);
}
