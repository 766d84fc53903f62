//! A tombolo that stays away longer than a host may be silent: its containers go on, and nobody cuts them off.

use system_tests::{Container, Flow, Kind, Plan, Site, Sites, until};

use crate::matrix::{addresses, network, one_each};

/// A flow's datagrams in a time after which nothing leads to a host that is dead: four seconds.
const GIVEN_UP: u64 = 4_000;

/// Flows each way between two containers, in both families.
fn flows(containers: &[Container], name: &str) -> Vec<Flow> {
    let pairs = [(0, 1), (1, 0)];
    let one = |(from, to): (usize, usize)| {
        let ends = addresses(&containers[to], name);
        ends.map(|end| {
            let end = std::net::SocketAddr::new(end, 9);
            Flow::start(
                &containers[from].spaces(),
                &containers[to].spaces(),
                &end.to_string(),
            )
        })
    };
    pairs.into_iter().flat_map(one).collect()
}

/// Lets all flows go on, and says which doesn't.
#[track_caller]
fn go_on(flows: &[(Flow, String)], what: &str) {
    let more: Vec<u64> = flows.iter().map(|(flow, _)| flow.so_far() + GIVEN_UP).collect();
    for ((flow, name), more) in flows.iter().zip(more) {
        until(&format!("{what}: the flow {name} goes on"), || {
            (flow.so_far() >= more).then_some(())
        });
    }
}

#[track_caller]
fn sees(site: &Site, other: &Site, up: bool) {
    let what = format!(
        "{} sees {} {}",
        site.name(),
        other.name(),
        if up { "up" } else { "down" }
    );
    until(&what, || {
        (site.sees().get(other.name()) == Some(&up)).then_some(())
    });
}

/// The rows of a host that another one lists.
fn listed(at: &Site, of: &Site) -> usize {
    let peers = at.peers();
    peers.iter().filter(|peer| peer["host_name"] == of.name()).count()
}

#[test]
fn containers_of_a_host_whose_tombolo_stays_away_are_reached_all_the_while() {
    let sites: Sites = Plan::of(2).ipv6().joined();
    let kinds = [("over", Kind::Overlay, 42), ("routed", Kind::HostGateway, 43)];
    let containers = kinds.map(|(name, kind, number)| {
        network(&sites, name, kind, number, &[]);
        (name, one_each(&sites, name))
    });
    for (at, of) in [(0, 1), (1, 0)] {
        until("both containers are listed", || {
            (listed(&sites[at], &sites[of]) == containers.len()).then_some(())
        });
    }
    let running: Vec<(Flow, String)> = containers
        .iter()
        .flat_map(|(name, both)| {
            let named = ["a to b", "a to b, IPv6", "b to a", "b to a, IPv6"];
            let named = named.map(|way| format!("{name}, {way}"));
            flows(both, name).into_iter().zip(named)
        })
        .collect();

    sites[1].tombolo.kill();
    sees(&sites[0], &sites[1], false);
    go_on(&running, "b's tombolo is off");
    assert_eq!(
        listed(&sites[0], &sites[1]),
        0,
        "what is listed is what is known for sure"
    );
    // Who starts meanwhile knows of them what it knew.
    for end in [
        |site: &Site| site.tombolo.kill(),
        |site: &Site| site.tombolo.stop(),
    ] {
        end(&sites[0]);
        sites[0].tombolo.start_again();
        sees(&sites[0], &sites[1], false);
        go_on(&running, "b's tombolo is off, and that of a is new");
    }
    sites[1].tombolo.start_again();
    for (at, of) in [(0, 1), (1, 0)] {
        sees(&sites[at], &sites[of], true);
    }
    go_on(&running, "b's tombolo is back");
    for (flow, name) in running {
        let tally = flow.stop();
        assert!(
            tally.lost.is_empty(),
            "{name}: {} of {} were lost, from {:?} to {:?}",
            tally.lost.len(),
            tally.sent,
            tally.lost.first(),
            tally.lost.last()
        );
    }
}
