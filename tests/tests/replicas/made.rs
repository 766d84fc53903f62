//! Made, removed, made again.

use system_tests::say;

use super::lab::{all_have, comes, has, make, make_overlay, networks, others, plan, says};

/// A network with much to say of it.
const APP: [&str; 11] = [
    "-o",
    "type=overlay",
    "-o",
    "mtu=1400",
    "--ipv6",
    "--subnet",
    "10.42.0.0/16",
    "--subnet",
    "fd42::/64",
    "--gateway",
    "10.42.0.9",
];

#[test]
fn it_is_the_same_everywhere_and_stays_where_containers_are() {
    let sites = plan().joined();
    make(&sites[0], "app", &[&APP[..], &["--label", "team=blue"]].concat());
    let took = all_have(others(&sites, 0), "app", true);
    say(&format!("a network was on the other two hosts after {took:?}"));
    for site in others(&sites, 0) {
        assert_eq!(
            networks(site)["app"],
            networks(&sites[0])["app"],
            "{}",
            site.name()
        );
    }
    make(&sites[0], "alone", &["--subnet", "10.50.0.0/24"]);
    let web = sites[1].container("web", "app", &[]);
    let client = sites[2].container("client", "app", &[]);
    comes("the other host's container answers by its name", || {
        client.pings("web")
    });
    assert!(
        !has(&sites[1], "alone"),
        "a bridge network stays where it was made"
    );

    // Removed where nobody uses it, it stays on the other two, marked, and goes with each one's last container.
    sites[0].engine.docker(&["network", "rm", "app"]);
    for on in ["b", "c"] {
        for site in sites.iter() {
            says(site, "app", on, "kept");
        }
    }
    let table = sites[0].tombolo.try_cli(&["networks"]).must().stdout;
    assert!(table.contains("not here, kept on b, kept on c"), "{table}");
    assert!(!has(&sites[0], "app") && client.pings("web"));
    // One that was never started counts as well.
    let create = [
        "create",
        "--name",
        "idle",
        "--network",
        "app",
        system_tests::image::NAME,
        "true",
    ];
    sites[2].engine.docker(&create);
    client.remove();
    sites[2].engine.docker(&["start", "idle"]);
    sites[2].engine.docker(&["rm", "-f", "idle"]);
    all_have([&sites[2]], "app", false);
    assert!(has(&sites[1], "app"), "one uses it still");
    // Made again with the same lines it is the same network.
    make(&sites[2], "app", &APP);
    all_have(sites.iter(), "app", true);
    says(&sites[0], "app", "b", "here");
    let client = sites[2].container("client", "app", &[]);
    comes("the container that was there all the time answers", || {
        client.pings("web")
    });

    // Made anew, otherwise: the old one stays with its container, and is replaced after that.
    client.remove();
    sites[2].engine.docker(&["network", "rm", "app"]);
    all_have([&sites[0], &sites[2]], "app", false);
    make_overlay(&sites[0], "app", "10.43.0.0/16");
    all_have([&sites[2]], "app", true);
    says(&sites[0], "app", "b", "old");
    assert_eq!(networks(&sites[1])["app"].subnets[0], "10.42.0.0/16");
    web.remove();
    comes("the new one is in the place of the old one", || {
        networks(&sites[1])
            .get("app")
            .is_some_and(|app| app.subnets == ["10.43.0.0/16"])
    });
    sites[1].engine.docker(&["network", "rm", "app"]);
    all_have(sites.iter(), "app", false);
}

#[test]
fn hosts_that_come_later_or_were_off_have_it_too_and_one_that_leaves_takes_nothing_from_the_others() {
    let sites = plan().started();
    let line = sites[0].tombolo.try_cli(&["cluster", "init"]).must().stdout;
    let join: Vec<&str> = line.split_whitespace().skip(1).collect();
    make_overlay(&sites[0], "app", "10.42.0.0/16");
    make(
        &sites[0],
        "own",
        &[
            "-o",
            "type=overlay",
            "-o",
            "replicate=off",
            "--subnet",
            "10.44.0.0/16",
        ],
    );
    make(
        &sites[0],
        "bridges",
        &["-o", "replicate=on", "--subnet", "10.45.0.0/24"],
    );
    sites[1].tombolo.try_cli(&join).must();
    all_have([&sites[1]], "app", true);
    all_have([&sites[1]], "bridges", true);

    // The engine of one is down, and tombolo of another one that joins meanwhile, and removes something.
    sites[1].engine.stop();
    make_overlay(&sites[0], "later", "10.46.0.0/16");
    sites[0].engine.docker(&["network", "rm", "bridges"]);
    sites[2].tombolo.try_cli(&join).must();
    all_have([&sites[2]], "later", true);
    says(&sites[2], "later", "b", "coming");
    sites[1].engine.start_again();
    all_have([&sites[1]], "later", true);
    all_have([&sites[1]], "bridges", false);
    assert!(!has(&sites[1], "own") && !has(&sites[2], "own"));

    // What is made and removed while a tombolo is off comes when it is back.
    sites[2].tombolo.kill();
    sites[0].engine.docker(&["network", "rm", "later"]);
    all_have([&sites[1]], "later", false);
    make_overlay(&sites[1], "night", "10.47.0.0/16");
    all_have([&sites[0]], "night", true);
    sites[2].tombolo.start_again();
    all_have([&sites[2]], "night", true);
    all_have([&sites[2]], "later", false);

    // Leaving is for the host alone.
    sites[2].tombolo.try_cli(&["cluster", "leave"]).must();
    assert!(networks(&sites[2]).is_empty(), "{:?}", networks(&sites[2]));
    let web = sites[0].container("web", "app", &[]);
    let client = sites[1].container("client", "app", &[]);
    comes("the others go on", || client.pings("web"));
    // One that is used keeps a host from leaving, and it has all its networks again.
    let refused = sites[1].tombolo.try_cli(&["cluster", "leave"]);
    refused.must_fail_with(&["10.42.0.0/16"]);
    all_have([&sites[1]], "night", true);
    assert!(client.pings("web"));
    web.remove();
    assert!(has(&sites[0], "night"));
}
