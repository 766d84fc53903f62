//! What a way between two containers on one bridge costs, beside Docker's own bridge.

use std::net::IpAddr;

use system_tests::measure::Way;
use system_tests::{Scene, say, wait};

use crate::cost;
use crate::machine;

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
    for (how, ours) in ["classic", "inside"].iter().zip(&costs) {
        let whose = format!("Docker's bridge, attach={how}");
        lines.extend(cost::aims_beside(ours, theirs, &whose));
    }
    lines.push(String::new());
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
