//! Where a name or a subnet is taken, the host keeps what it has, and every host says so.

use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::wait::within;

use super::lab::{SOON, all_have, comes, has, make, make_overlay, plan, problems, says};

#[test]
fn a_host_where_name_or_subnet_is_taken_keeps_its_own_and_every_host_says_so() {
    let sites = plan().joined();
    let events: Vec<_> = sites
        .iter()
        .map(|site| {
            site.tombolo
                .cli_to(&["events", "--output", "json"], "/tmp/events")
        })
        .collect();
    let heard = |at: usize, action: &str, network: &str, on: &str| {
        let text = sites[at].host.log("/tmp/events");
        let mut lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.any(|event| {
            event["type"] == "replica"
                && event["action"] == action
                && event["network_name"] == network
                && event["host_name"] == on
        })
    };
    for site in sites.iter() {
        let follows = within(SOON, || {
            site.host.log("/tmp/events").contains("following").then_some(())
        });
        assert!(follows.is_some(), "{} follows events", site.name());
    }
    sites[1].engine.docker(&["network", "create", "app"]);
    make_overlay(&sites[0], "app", "10.42.0.0/16");
    all_have([&sites[2]], "app", true);
    let driver = sites[1].engine.inspect("network", "app")["Driver"].clone();
    for (at, site) in sites.iter().enumerate() {
        says(site, "app", "b", "refused");
        let said = problems(site);
        assert!(
            said.contains("network on b") && said.contains("driver bridge"),
            "{said}"
        );
        comes("the event of it", || heard(at, "refused", "app", "b"));
    }
    assert_eq!(driver, "bridge");
    let table = sites[1].tombolo.try_cli(&["networks"]).must().stdout;
    assert!(
        table
            .lines()
            .any(|line| line.contains("app") && line.contains("not here, refused on b")),
        "{table}"
    );

    // With the name free it comes.
    sites[1].engine.docker(&["network", "rm", "app"]);
    all_have([&sites[1]], "app", true);
    comes("the event that all is well", || heard(0, "settled", "app", "b"));
    assert!(!problems(&sites[0]).contains("network on b"));
    drop(events);
    assert!(has(&sites[0], "app"));

    // A subnet that another network has there.
    make(&sites[2], "mine", &["--subnet", "10.47.0.0/24"]);
    make(
        &sites[0],
        "pair",
        &["-o", "replicate=on", "--subnet", "10.47.0.0/24"],
    );
    all_have([&sites[1]], "pair", true);
    says(&sites[0], "pair", "c", "refused");
    let said = problems(&sites[1]);
    assert!(
        said.contains("network on c") && said.contains("10.47.0.0/24"),
        "{said}"
    );
    sites[2].engine.docker(&["network", "rm", "mine"]);
    all_have([&sites[2]], "pair", true);
    says(&sites[0], "pair", "c", "here");
}

#[test]
fn an_engine_that_hangs_delays_nothing_but_its_own_networks() {
    let sites = plan().joined();
    make_overlay(&sites[0], "app", "10.42.0.0/16");
    all_have(sites.iter(), "app", true);
    let web = sites[1].container("web", "app", &[]);
    let client = sites[2].container("client", "app", &[]);
    comes("the name of the one on the host whose engine will hang", || {
        client.pings("web")
    });
    sites[1].engine.signal(Signal::SIGSTOP);
    make_overlay(&sites[0], "later", "10.43.0.0/16");
    all_have([&sites[2]], "later", true);
    sites[2].engine.docker(&["network", "rm", "later"]);
    all_have([&sites[0]], "later", false);
    make_overlay(&sites[2], "last", "10.44.0.0/16");
    all_have([&sites[0]], "last", true);
    assert!(client.pings("web"), "names and packets don't need that engine");
    sites[1].tombolo.cli(&["networks"]);
    sites[1].engine.signal(Signal::SIGCONT);
    all_have([&sites[1]], "last", true);
    assert!(!has(&sites[1], "later"));
    assert!(web.pings("client"));
}
