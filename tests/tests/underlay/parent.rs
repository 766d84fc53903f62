//! A parent that is down, has no carrier, is gone or is called otherwise: tombolo says so, and all is well when it is back.

use system_tests::lan::{LINK, OUTSIDE, ROUTER};
use system_tests::wait::{PATIENCE, within};
use system_tests::{Container, Site, Sites, json, until};

use crate::scene::{addresses, both, complaints, hosts, make_lan, must_go, ours, reaches};

/// A host with a container that reaches the router.
fn one() -> (Sites, Container) {
    let sites = hosts(1);
    make_lan(&sites, 0, &[]);
    let one = sites[0].container("one", "lan", &[]);
    works(&sites, &one);
    (sites, one)
}

/// That a container reaches the router and the router the container, and the host both.
#[track_caller]
fn works(sites: &Sites, one: &Container) {
    let (place, own) = (one.spaces(), addresses(one, "lan"));
    must_go(
        [
            both(reaches, "to the router", &place, &ROUTER),
            both(reaches, "from the router", sites.lan().router(), &own),
            both(reaches, "from the host", sites[0].host.spaces(), &own),
        ]
        .into_iter()
        .flatten(),
    );
}

/// Waits until the network's state, its container's and doctor each tell of the parent in these words.
#[track_caller]
fn is_told(site: &Site, words: &[&str]) {
    let holds = |text: &str| text.contains(LINK) && words.iter().all(|word| text.contains(word));
    let mut last = String::new();
    let told = within(PATIENCE, || {
        let networks = site.tombolo.cli(&["networks"]);
        let endpoints = site.tombolo.cli(&["endpoints"]);
        let doctor = complaints(site);
        last = format!("{networks:#}\n{endpoints:#}\n{doctor:#?}");
        let network = &json::rows(&networks)[0];
        let state = network["settled"] == false && holds(&network["problem"].to_string());
        let containers = json::rows(&endpoints)
            .iter()
            .any(|one| holds(&one["problem"].to_string()));
        (state && containers && doctor.iter().any(|(_, evidence)| holds(evidence))).then_some(())
    });
    assert!(told.is_some(), "{words:?} is not told:\n{last}");
}

/// Waits until nothing is wrong with the parent any more.
#[track_caller]
fn all_is_well(site: &Site) {
    let mut last = String::new();
    let well = within(PATIENCE, || {
        let networks = site.tombolo.cli(&["networks"]);
        let network = &json::rows(&networks)[0];
        let doctor = complaints(site);
        last = format!("{network:#}\n{doctor:#?}");
        let settled = network["settled"] == true && network["problem"].is_null();
        let quiet = doctor.iter().all(|(check, _)| check != "links.parents");
        (settled && quiet).then_some(())
    });
    assert!(well.is_some(), "not well within {PATIENCE:?}:\n{last}");
}

fn set(site: &Site, args: &[&str]) {
    site.host.run("ip", &[&["link", "set"], args].concat());
}

#[test]
fn doctor_finds_nothing_wrong_with_a_network_that_works() {
    let sites = hosts(1);
    let before = complaints(&sites[0]);
    make_lan(&sites, 0, &[]);
    let one = sites[0].container("one", "lan", &["-p", "8080:80"]);
    works(&sites, &one);
    all_is_well(&sites[0]);
    let new: Vec<_> = complaints(&sites[0])
        .into_iter()
        .filter(|complaint| !before.contains(complaint))
        .collect();
    assert!(new.is_empty(), "{new:#?}");
}

#[test]
fn a_parent_that_is_down_is_told_and_carries_again_when_it_is_up() {
    let (sites, one) = one();
    set(&sites[0], &[LINK, "down"]);
    is_told(&sites[0], &["down"]);
    set(&sites[0], &[LINK, "up"]);
    all_is_well(&sites[0]);
    works(&sites, &one);
}

#[test]
fn the_status_tells_of_a_parent_that_is_down() {
    let (sites, _one) = one();
    set(&sites[0], &[LINK, "down"]);
    let mut last = String::new();
    let told = within(PATIENCE, || {
        let status = sites[0].tombolo.cli(&["status"]);
        last = format!("{:#}", status["problems"]);
        last.contains("is down").then_some(())
    });
    assert!(told.is_some(), "{last}");
}

#[test]
fn a_parent_without_a_carrier_is_told_and_carries_again_when_it_has_one() {
    let (sites, one) = one();
    sites.lan().cut(0);
    is_told(&sites[0], &["carrier"]);
    sites.lan().mend(0);
    all_is_well(&sites[0]);
    works(&sites, &one);
}

#[test]
fn a_parent_that_is_gone_is_told_and_containers_start_on_the_new_one() {
    let (sites, one) = one();
    sites.lan().unplug(0);
    is_told(&sites[0], &[]);
    let refused = sites[0].try_container("two", "lan", &[]).err();
    let refused = refused.expect("a container without a parent to be refused");
    assert!(refused.contains(LINK), "{refused}");
    sites.lan().plug(&sites[0].host, 0);
    until("the host's link is there again", || {
        ours(&sites[0])
            .iter()
            .any(|link| link.starts_with("tbs"))
            .then_some(())
    });
    let two = sites[0].container("two", "lan", &[]);
    works(&sites, &two);
    // Nobody restarts what ran before: its link, its addresses and its ways out are put back.
    works(&sites, &one);
    must_go(both(reaches, "out", &one.spaces(), &OUTSIDE));
    all_is_well(&sites[0]);
}

#[test]
fn a_parent_that_is_called_otherwise_is_told_and_its_containers_go_on() {
    let (sites, one) = one();
    let rename = |from: &str, to: &str| {
        // Older kernels rename no link that is up.
        set(&sites[0], &[from, "down"]);
        set(&sites[0], &[from, "name", to]);
        set(&sites[0], &[to, "up"]);
    };
    rename(LINK, "lan9");
    is_told(&sites[0], &[]);
    let (place, own) = (one.spaces(), addresses(&one, "lan"));
    must_go(
        [
            both(reaches, "to the router", &place, &ROUTER),
            both(reaches, "from the router", sites.lan().router(), &own),
        ]
        .into_iter()
        .flatten(),
    );
    let refused = sites[0].try_container("two", "lan", &[]).err();
    let refused = refused.expect("a container without a parent to be refused");
    assert!(refused.contains(LINK), "{refused}");
    rename("lan9", LINK);
    all_is_well(&sites[0]);
    works(&sites, &one);
    let two = sites[0].container("two", "lan", &[]);
    works(&sites, &two);
}
