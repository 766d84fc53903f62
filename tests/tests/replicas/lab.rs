//! Hosts whose networks are the same on all, and what is asked of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::wait::within;
use system_tests::{Output, Plan, Site, Sites, json};

/// How long what is to be everywhere may take; generous, as engines of a test machine share two cores.
pub const SOON: Duration = Duration::from_secs(20);

/// Three hosts; those after the first with other releases of Docker if the run asks for that.
pub fn plan() -> Plan {
    Plan::of_releases().replicated()
}

/// What a network is, as the engine lists it, without what differs from host to host.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub subnets: Vec<String>,
    pub options: Value,
    pub labels: Value,
    pub internal: bool,
}

/// The networks of a host that have our driver, by name.
pub fn networks(site: &Site) -> BTreeMap<String, Listed> {
    let answer = site.engine.get("/networks").expect("an engine that answers");
    let all = json::parse(&String::from_utf8_lossy(&answer.body));
    let ours = all
        .as_array()
        .expect("networks")
        .iter()
        .filter(|network| network["Driver"] == "tombolo");
    let listed = |network: &Value| {
        let subnets = network["IPAM"]["Config"].as_array().into_iter().flatten();
        let mut subnets: Vec<String> = subnets
            .map(|subnet| subnet["Subnet"].as_str().unwrap_or_default().to_owned())
            .collect();
        subnets.sort();
        let name = network["Name"].as_str().expect("a name").to_owned();
        let listed = Listed {
            subnets,
            options: network["Options"].clone(),
            labels: network["Labels"].clone(),
            internal: network["Internal"] == true,
        };
        (name, listed)
    };
    ours.map(listed).collect()
}

pub fn has(site: &Site, network: &str) -> bool {
    networks(site).contains_key(network)
}

/// Waits for something; gives how long it took.
#[track_caller]
pub fn comes(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    let came = within(SOON, || holds().then_some(()));
    assert!(came.is_some(), "{what}: not within {SOON:?}");
    begun.elapsed()
}

/// Waits until a network is on all these hosts, or on none.
#[track_caller]
pub fn all_have<'a>(sites: impl IntoIterator<Item = &'a Site>, network: &str, is: bool) -> Duration {
    let begun = Instant::now();
    for site in sites {
        comes(&format!("network {network} on {}: {is}", site.name()), || {
            has(site, network) == is
        });
    }
    begun.elapsed()
}

/// What a host says of a network in `tombolo networks`.
pub fn state_of(site: &Site, network: &str) -> Value {
    let all = site.tombolo.cli(&["networks"]);
    let found = all
        .as_array()
        .into_iter()
        .flatten()
        .find(|listed| listed["name"] == network);
    found.cloned().unwrap_or(Value::Null)
}

/// How a network stands on a host, as another one says.
pub fn standing(site: &Site, network: &str, on: &str) -> String {
    let state = &state_of(site, network)["replica"]["hosts"][on]["state"];
    state.as_str().unwrap_or("unknown").to_owned()
}

/// Waits until a host says so of a network on another one.
#[track_caller]
pub fn says(site: &Site, network: &str, on: &str, expected: &str) {
    let mut said = String::new();
    let holds = within(SOON, || {
        said = standing(site, network, on);
        (said == expected).then_some(())
    });
    assert!(
        holds.is_some(),
        "{} says that {network} is {said} on {on}, not {expected}",
        site.name()
    );
}

/// The problems in `tombolo status` of a host, as one text.
pub fn problems(site: &Site) -> String {
    site.tombolo.cli(&["status"])["problems"].to_string()
}

/// Makes a network on one host as a user does.
#[track_caller]
pub fn make(site: &Site, network: &str, args: &[&str]) {
    try_make(site, network, args).must();
}

/// The same, which the engine may refuse.
pub fn try_make(site: &Site, network: &str, args: &[&str]) -> Output {
    let line = ["network", "create", "-d", "tombolo", "--ipam-driver", "tombolo"];
    site.engine.try_docker(&[&line[..], args, &[network]].concat())
}

/// An overlay on a subnet.
#[track_caller]
pub fn make_overlay(site: &Site, network: &str, subnet: &str) {
    make(site, network, &["-o", "type=overlay", "--subnet", subnet]);
}

/// Each host but one.
pub fn others(sites: &Sites, at: usize) -> impl Iterator<Item = &Site> {
    sites
        .iter()
        .enumerate()
        .filter(move |(n, _)| *n != at)
        .map(|(_, site)| site)
}
