//! Hosts on a LAN, networks on their `eth0`, and who reaches whom.

use std::time::Duration;

use serde_json::Value;
use system_tests::lan::{LINK, NET, NET6, ROUTER, pings};
use system_tests::wait::within;
use system_tests::{Container, Output, Plan, Site, Sites, Snapshot, Spaces, at_once, json, scene};

/// The LAN's addresses.
pub const SUBNETS: [&str; 5] = ["--ipv6", "--subnet", NET, "--subnet", NET6];
/// The LAN's router as the containers' gateway.
pub const GATEWAYS: [&str; 4] = ["--gateway", ROUTER[0], "--gateway", ROUTER[1]];
/// That all hosts of a cluster share the LAN's addresses.
pub const CLUSTER: [&str; 6] = [
    "-o",
    "net=lan",
    "--ipam-opt",
    "net=lan",
    "--ipam-opt",
    "parent=eth0",
];
/// Addresses that nobody else on the LAN has.
pub const OTHERS: [&str; 2] = ["--subnet", "198.51.100.0/24"];

/// How long a first packet may take, on a machine with much else to do.
const SOON: Duration = Duration::from_secs(6);

/// So many hosts on a LAN, in no cluster.
#[track_caller]
pub fn hosts(count: usize) -> Sites {
    Plan::of(count).on_lan().started()
}

/// Tries to make a network of a kind on a host; `args` are more of `docker network create`.
#[track_caller]
pub fn try_make(site: &Site, name: &str, kind: &str, args: &[&str]) -> Output {
    let sort = format!("type={kind}");
    let drivers: &[&str] = match scene::driver().as_str() {
        "tombolo" => &["-d", "tombolo", "--ipam-driver", "tombolo", "-o", &sort],
        _ => &["-d", kind],
    };
    site.engine
        .try_docker(&[&["network", "create"], drivers, args, &[name]].concat())
}

/// Makes a macvlan network on a host's `eth0`.
#[track_caller]
pub fn make(site: &Site, name: &str, args: &[&str]) {
    let parent = format!("parent={LINK}");
    try_make(site, name, "macvlan", &[&["-o", &parent], args].concat()).must();
}

/// Makes a macvlan network `lan` with the LAN's addresses and its router; containers of host `at` get their addresses from a part of
/// their own.
#[track_caller]
pub fn make_lan(sites: &Sites, at: usize, args: &[&str]) {
    let range = format!("192.0.2.{}/27", 64 + 32 * at);
    let range6 = format!("2001:db8:1::{}:0/112", 1 + at);
    let ranges = ["--ip-range", &range, "--ip-range", &range6];
    make(
        &sites[at],
        "lan",
        &[&SUBNETS[..], &GATEWAYS, &ranges, args].concat(),
    );
}

/// A container's addresses of both families on a network.
#[track_caller]
pub fn addresses(container: &Container, network: &str) -> [String; 2] {
    let place = container.on(network);
    ["/IPAddress", "/GlobalIPv6Address"].map(|path| json::text(&place, path).to_owned())
}

/// One line of a table: somebody sends a ping to an address, and whether it is answered.
pub struct Row<'a> {
    what: String,
    from: &'a Spaces,
    to: String,
    answered: bool,
}

/// A line that says who reaches an address.
pub fn reaches<'a>(what: &str, from: &'a Spaces, to: &str) -> Row<'a> {
    Row {
        what: what.to_owned(),
        from,
        to: to.to_owned(),
        answered: true,
    }
}

/// A line that says who doesn't reach an address.
pub fn misses<'a>(what: &str, from: &'a Spaces, to: &str) -> Row<'a> {
    Row {
        answered: false,
        ..reaches(what, from, to)
    }
}

/// The same for both families.
pub fn both<'a>(
    row: fn(&str, &'a Spaces, &str) -> Row<'a>,
    what: &str,
    from: &'a Spaces,
    to: &[impl AsRef<str>; 2],
) -> [Row<'a>; 2] {
    [0, 1].map(|family| row(what, from, to[family].as_ref()))
}

/// Tries every line at once; those that went otherwise are told together.
#[track_caller]
pub fn must_go<'a>(rows: impl IntoIterator<Item = Row<'a>>) {
    let rows: Vec<Row<'a>> = rows.into_iter().collect();
    let wrong = at_once(&rows, |row| {
        let answered = match row.answered {
            true => within(SOON, || pings(row.from, &row.to, 1).then_some(())).is_some(),
            false => pings(row.from, &row.to, 1),
        };
        let said = if answered { "answered" } else { "not answered" };
        (answered != row.answered).then(|| format!("{} ({}): {said}", row.what, row.to))
    });
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The default routes of a container's network namespace, of both families.
#[track_caller]
pub fn ways_out(container: &Container) -> Vec<String> {
    let place = container.spaces();
    let ways = ["-4", "-6"].map(|family| {
        let shown = place.run("ip", &[family, "route", "show", "default"]);
        shown.lines().map(str::trim_end).map(str::to_owned).collect()
    });
    let ways: [Vec<String>; 2] = ways;
    ways.concat()
}

/// The links of a host that tombolo has in its link group, by their names.
#[track_caller]
pub fn ours(site: &Site) -> Vec<String> {
    let shown = site.host.run("ip", &["-j", "link", "show", "group", "29807"]);
    if shown.is_empty() {
        return Vec::new();
    }
    let rows = json::parse(&shown);
    // A link of another group is listed as an object without anything.
    let names = json::rows(&rows).iter().filter_map(|row| row["ifname"].as_str());
    names.map(str::to_owned).collect()
}

/// The link by which a host reaches the containers of its only such network, and that link's addresses, IPv4 first.
#[track_caller]
pub fn shim(site: &Site) -> (String, Vec<String>) {
    let links: Vec<String> = ours(site)
        .into_iter()
        .filter(|name| name.starts_with("tbs"))
        .collect();
    let [link] = &links[..] else {
        panic!("not one link for the host: {links:?}")
    };
    (link.clone(), global(site, link))
}

/// The addresses of a host's link that are not link-local, with their lengths.
#[track_caller]
pub fn global(site: &Site, link: &str) -> Vec<String> {
    let shown = site
        .host
        .run("ip", &["-j", "address", "show", "dev", link, "scope", "global"]);
    let rows = json::parse(&shown);
    let rows = json::rows(&rows)
        .iter()
        .filter_map(|row| row["addr_info"].as_array());
    // An address of another scope is listed as an object without anything.
    let address = |a: &Value| Some(format!("{}/{}", a["local"].as_str()?, a["prefixlen"]));
    rows.flatten().filter_map(address).collect()
}

/// What a host looks like, with the pools of its tombolo.
pub fn look(site: &Site) -> Snapshot {
    Snapshot::of(&site.host, Some(&site.tombolo))
}

/// Removes all of a host's containers and networks, and waits until it looks as before.
#[track_caller]
pub fn must_clear_to(site: &Site, before: &Snapshot) {
    clear(site);
    before.must_come_back(&site.host, Some(&site.tombolo));
}

/// Removes all of a host's containers and networks.
#[track_caller]
pub fn clear(site: &Site) {
    for (list, remove) in [
        (&["ps", "-aq"][..], &["rm", "-f"][..]),
        (
            &["network", "ls", "-q", "--filter", "type=custom"][..],
            &["network", "rm"][..],
        ),
    ] {
        let all = site.engine.docker(list);
        let all: Vec<&str> = all.lines().collect();
        if !all.is_empty() {
            site.engine.docker(&[remove, &all[..]].concat());
        }
    }
}

/// What doctor says by checks whose verdict is not good: the name of each, and its evidence.
#[track_caller]
pub fn complaints(site: &Site) -> Vec<(String, String)> {
    let findings = site.tombolo.findings();
    let bad = findings
        .iter()
        .filter(|finding| finding["verdict"] == "fault" || finding["verdict"] == "warning");
    bad.map(|finding| {
        let text = |path: &str| json::text(finding, path).to_owned();
        (text("/check"), text("/evidence"))
    })
    .collect()
}

/// The option that keeps a host from reaching its containers; Docker's own driver has none, and never lets it.
pub fn without_host() -> &'static [&'static str] {
    match scene::driver().as_str() {
        "tombolo" => &["-o", "host_access=off"],
        _ => &[],
    }
}
