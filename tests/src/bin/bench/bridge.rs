//! What a way between two containers on one bridge costs, beside Docker's own bridge.

use std::net::IpAddr;

use system_tests::measure::Way;
use system_tests::{Scene, say, wait};

use crate::cost::{self, Cost, QUESTIONS, ratios};
use crate::spread::{median, quantile, with_quartiles};
use crate::{aim, machine};

/// What is compared: the network, and what it is called.
const NETWORKS: [(&str, &str); 3] = [
    ("classic", "tombolo's bridge, attach=classic"),
    ("inside", "tombolo's bridge, attach=inside"),
    ("theirs", "Docker's bridge"),
];

/// Measures in so many rounds, and says what was found.
pub fn measure(rounds: usize) -> Vec<String> {
    let begin = crate::load();
    say("bridge: starting tombolo and an engine");
    let scene = Scene::new();
    scene.docker(&["network", "create", "-d", "bridge", "theirs"]);
    for attach in ["inside", "classic"] {
        scene.network(attach, &["-o", &format!("attach={attach}")]);
    }
    let ways: Vec<Way> = NETWORKS.iter().map(|network| way(&scene, network)).collect();
    let costs = cost::in_turns("bridge", &ways, rounds, |_| ());
    let mut lines = how_made(&scene.version(), &begin);
    lines.push(cost::how(&costs));
    lines.push(String::new());
    lines.extend(cost::table(ways.iter().map(|way| way.name.as_str()).zip(&costs)));
    let theirs = &costs[2];
    lines.extend(cost::compared(
        NETWORKS[..2]
            .iter()
            .zip(&costs)
            .map(|((_, name), cost)| (format!("{name} / Docker's"), [cost, theirs])),
    ));
    lines.extend(cost::pictures(
        "bridge",
        &NETWORKS.map(|(_, name)| name),
        &costs,
        |name| name.starts_with("tombolo"),
    ));
    lines.extend(aims(&costs[0], theirs));
    drop(ways);
    scene.clear();
    lines
}

fn way(scene: &Scene, (network, name): &(&str, &str)) -> Way {
    let container = |role: &str| scene.container(&format!("{network}-{role}"), &["--network", network]);
    let (from, to) = (container("asks"), container("answers"));
    let address: IpAddr = to.ip(network).parse().expect("an address");
    wait::until(&format!("{name}: a ping"), || {
        from.pings(&address.to_string()).then_some(())
    });
    Way {
        name: (*name).to_owned(),
        from: from.spaces(),
        to: to.spaces(),
        address,
    }
}

fn how_made(version: &str, load: &str) -> Vec<String> {
    vec![
        "## From container to container on one host".to_owned(),
        String::new(),
        format!(
            "{} A host made of namespaces with Docker {version} and tombolo; two containers on each network.",
            machine("bridge", load)
        ),
        String::new(),
    ]
}

fn aims(ours: &Cost, theirs: &Cost) -> Vec<String> {
    let mut lines = Vec::new();
    for (sort, of) in QUESTIONS {
        let took = ratios(of, ours, theirs);
        lines.push(aim(
            &format!("an answer takes no longer than with Docker's bridge, {sort} (a tie if 1 is between the quartiles)"),
            &with_quartiles(&took, 3),
            quantile(&took, 0.25) <= 1.0,
        ));
    }
    let carried = ratios(|cost| &cost.gbits, ours, theirs);
    lines.push(aim(
        "a connection carries at least what it does with Docker's bridge (a tie if 1 is between the quartiles)",
        &with_quartiles(&carried, 3),
        quantile(&carried, 0.75) >= 1.0 || median(&carried) >= 1.0,
    ));
    lines.push(String::new());
    lines
}
