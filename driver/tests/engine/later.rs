//! Links that are removed after the answer: what may be done meanwhile, and what waits for them.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tombolo::engine::Ask;
use tombolo::kernel::notice::Noticed;
use tombolo_core::model::IfName;
use tombolo_core::state::Command;
use tombolo_core::world::{Key, Value};

use crate::events::ask;
use crate::scene::{Scene, network, runtime};

fn link_of(scene: &Scene, wanted: impl Fn(&Value) -> bool) -> IfName {
    let found = scene.found();
    let mut links = found.iter().filter_map(|(key, value)| match key {
        Key::Link(link) if wanted(value) => Some(link.clone()),
        _ => None,
    });
    links.next().unwrap()
}

fn is_veth(value: &Value) -> bool {
    matches!(value, Value::Veth { .. })
}

/// A host with a container on a network, `e0` on `n0`.
fn with_a_container() -> Scene {
    let mut scene = Scene::new();
    for command in [
        Command::CreateNetwork(network(0, 0, false, false)),
        Command::CreateEndpoint {
            id: "e0".parse().unwrap(),
            network: "n0".parse().unwrap(),
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
            mac: None,
            rate: None,
            sysctls: Vec::new(),
        },
        Command::Join {
            network: "n0".parse().unwrap(),
            endpoint: "e0".parse().unwrap(),
            sandbox: "/run/x".to_owned(),
        },
    ] {
        assert!(scene.ask(&command).is_some(), "{command:?}");
    }
    scene
}

/// What was taken away unnoticed is put back by the next look. Gives whether word of some links makes the engine look.
fn looks_for(facts: impl Fn(&Scene) -> BTreeMap<Key, Option<Value>>, ends: bool) -> bool {
    let scene = with_a_container();
    let facts = facts(&scene);
    let kernel = scene.kernel.kernel.clone();
    let (asks, queue) = mpsc::channel(4);
    let (end, _answered) = ask(Command::DeleteEndpoint("e0".parse().unwrap()));
    if ends {
        asks.try_send(end).unwrap();
    }
    asks.try_send(Ask::Noticed(Noticed { facts, missed: false }))
        .unwrap();
    drop(asks);
    let stolen = Key::Address(
        link_of(&scene, |value| matches!(value, Value::Bridge { .. })),
        "10.0.0.1/24".parse().unwrap(),
    );
    kernel.lock().unwrap().steal(&stolen);
    runtime().block_on(scene.engine.run(queue));
    kernel.lock().unwrap().world().contains_key(&stolen)
}

#[test]
fn word_of_a_link_that_goes_makes_nobody_look() {
    let down = || Some(Value::Unfit("a link that is down"));
    let unknown = |_: &Scene| BTreeMap::from([(Key::Link("tb-9".parse().unwrap()), down())]);
    assert!(
        !looks_for(unknown, false),
        "one that nobody knows any more goes down"
    );
    let its = |value: Option<Value>| {
        move |scene: &Scene| BTreeMap::from([(Key::Link(link_of(scene, is_veth)), value.clone())])
    };
    assert!(!looks_for(its(down()), true), "the container's goes down");
    assert!(!looks_for(its(None), true), "the container's is gone");
    assert!(looks_for(its(down()), false), "one that is wanted goes down");
    assert!(looks_for(its(None), false), "one that is wanted is gone");
}

#[test]
fn a_network_on_the_addresses_of_one_that_is_gone_waits_for_nothing() {
    let mut scene = with_a_container();
    for command in [
        Command::Leave("e0".parse().unwrap()),
        Command::DeleteEndpoint("e0".parse().unwrap()),
        Command::DeleteNetwork("n0".parse().unwrap()),
    ] {
        assert!(scene.ask_first(&command).is_some(), "{command:?}");
    }
    let bridge = link_of(&scene, |value| matches!(value, Value::Bridge { .. }));
    let address = Key::Address(bridge.clone(), "10.0.0.1/24".parse().unwrap());
    assert!(!scene.found().contains_key(&address));
    scene
        .ask_first(&Command::CreateNetwork(network(1, 0, false, false)))
        .unwrap();
    assert!(scene.found().contains_key(&Key::Link(bridge.clone())));
    scene.engine.begin_removal(None);
    // One of that name waits for it.
    scene
        .ask_first(&Command::CreateNetwork(network(0, 1, false, false)))
        .unwrap();
    assert!(scene.found().contains_key(&Key::Link(bridge)));
    assert_eq!(scene.undone(), []);
}
