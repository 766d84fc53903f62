//! What a network on a wire costs: tombolo's macvlan beside Docker's own driver, on one engine.
//!
//! ```text
//!                        ┌── wire1 ── bridge ── wire1 ──┐
//!   containers of ours ──┘                              neighbour
//!   containers of theirs ┐                              │
//!                        └── wire2 ── bridge ── wire2 ──┘
//! ```
//!
//! Each driver has a parent and a wire of its own, which are alike: what tombolo puts on its parent (the host's own link
//! there, a socket that hears who is on the wire) then costs its own containers and not Docker's.

use std::net::IpAddr;

use system_tests::measure::Way;
use system_tests::{Host, Scene, Wire, say, wait};

use crate::cost::{self, Cost};
use crate::{load, machine};

/// The networks, in the order of their wires: a name, and what it is called.
const NETWORKS: [(&str, &str); 2] = [
    ("wire-ours", "tombolo's macvlan"),
    ("wire-theirs", "Docker's macvlan"),
];

/// The places on each wire: the host with the containers, and the neighbour.
const HOST: usize = 0;
const NEIGHBOUR: usize = 1;

/// Where questions go from a container.
const TO: [&str; 2] = ["another container", "a neighbour on the wire"];

/// Measures ways in so many rounds, and says what was found.
pub fn measure(rounds: usize) -> Vec<String> {
    let begin = load();
    say("wire: starting tombolo and an engine");
    let scene = Scene::new();
    let neighbour = Host::new();
    // The scene's own is the one with the number 0.
    let wires = [1, 2].map(|number| Wire::new(number, None, false));
    for (wire, (network, _)) in wires.iter().zip(NETWORKS) {
        lay(wire, &scene.host, &neighbour);
        create(&scene, wire, network);
    }
    let ways = ways(&scene, &neighbour, &wires);
    let costs = cost::in_turns("wire", &ways, rounds, |_| ());
    let lines = [how_made(&scene.version(), &begin), of_ways(&ways, &costs)];
    drop(ways);
    scene.clear();
    lines.concat()
}

/// Plugs a host and its neighbour into a wire.
pub fn lay(wire: &Wire, host: &Host, neighbour: &Host) {
    wire.plug(host, HOST);
    wire.plug(neighbour, NEIGHBOUR);
}

/// Makes a network on a wire, by tombolo or by Docker's own driver. Its addresses are those of the wire, without those of host
/// and neighbour.
pub fn create(scene: &Scene, wire: &Wire, name: &str) {
    const OURS: [&str; 6] = ["-d", "tombolo", "--ipam-driver", "tombolo", "-o", "type=macvlan"];
    let drivers: &[&str] = match name {
        "wire-theirs" => &["-d", "macvlan"],
        "wire-inside" => &[&OURS[..], &["-o", "attach=inside"]].concat(),
        _ => &OURS,
    };
    let first = wire.ipv4(HOST);
    let net = first.strip_suffix('1').expect("an address that ends in 1");
    let [subnet, range, gateway] = ["0/24", "128/25", "254"].map(|last| format!("{net}{last}"));
    let pool = ["--subnet", &subnet, "--ip-range", &range, "--gateway", &gateway];
    let parent = format!("parent={}", wire.link());
    let head = ["network", "create", "-o", &parent];
    scene.docker(&[&head, drivers, &pool, &[name]].concat());
}

/// The ways of tombolo's network and Docker's to each of [`TO`], in turns.
fn ways(scene: &Scene, neighbour: &Host, wires: &[Wire; 2]) -> Vec<Way> {
    let mut ways = Vec::new();
    for (to, place) in TO.iter().enumerate() {
        for ((network, driver), wire) in NETWORKS.iter().zip(wires) {
            let container =
                |name: &str| scene.container(&format!("{network}-{to}-{name}"), &["--network", network]);
            let from = container("asks");
            let (to, address) = if to == 0 {
                let other = container("answers");
                (other.spaces(), other.ip(network))
            } else {
                (neighbour.network_spaces(), wire.ipv4(NEIGHBOUR))
            };
            let name = format!("{driver}, to {place}");
            wait::until(&format!("{name}: a ping"), || from.pings(&address).then_some(()));
            let address: IpAddr = address.parse().expect("an address");
            ways.push(Way {
                name,
                from: from.spaces(),
                to,
                address,
            });
        }
    }
    ways
}

fn how_made(version: &str, load_before: &str) -> Vec<String> {
    vec![
        "## macvlan, beside Docker's own".to_owned(),
        String::new(),
        format!(
            "{} A host made of namespaces with Docker {version} and tombolo. Each network has \
             a parent of its own (a veth) that leads to a bridge and a neighbour behind it, with MTU 1500; both are alike. So what tombolo \
             puts on its parent, the host's own link there and a socket that hears who is on the wire, costs its own containers only. \
             tombolo's `host_access` and `probe` are on, as by default.",
            machine("wire", load_before)
        ),
        String::new(),
    ]
}

fn of_ways(ways: &[Way], costs: &[Cost]) -> Vec<String> {
    let pairs: Vec<_> = TO.iter().zip(costs.chunks_exact(2)).collect();
    let mut lines = vec![cost::how(costs), String::new()];
    lines.extend(cost::table(ways.iter().map(|way| way.name.as_str()).zip(costs)));
    lines.extend(cost::compared(pairs.iter().map(|(to, pair)| {
        (format!("tombolo / Docker, to {to}"), [&pair[0], &pair[1]])
    })));
    let names: Vec<&str> = ways.iter().map(|way| way.name.as_str()).collect();
    lines.extend(cost::pictures("wire", &names, costs, |name| {
        name.starts_with("tombolo")
    }));
    for (to, pair) in &pairs {
        let whose = format!("Docker's macvlan, to {to}");
        lines.extend(cost::aims_beside(&pair[0], &pair[1], &whose));
    }
    lines
}
