//! What is told to those who follow events, and that nothing else is.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tombolo::docker::{NetworkView, View};
use tombolo::engine::events::{Events, Follower};
use tombolo::engine::{Ask, Looked, Want};
use tombolo_core::model::{PortWish, Proto};
use tombolo_core::state::Command;
use tombolo_core::world::Key;

use crate::scene::{Scene, network, runtime};

/// The events that were told, as `type action` and what they are about.
pub fn told(mut follower: Follower) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(Some(line)) = follower.next().now_or_never() {
        let event: Value = serde_json::from_str(&line).unwrap();
        let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let about = [
            "network_id",
            "network_name",
            "endpoint_id",
            "fact",
            "because",
            "host_port",
        ];
        let about = about.into_iter().filter(|key| !event[key].is_null());
        let about: Vec<String> = about.map(|key| event[key].to_string().replace('"', "")).collect();
        told.push(format!("{} {} {}", word("type"), word("action"), about.join(" ")));
    }
    told
}

/// Has an engine do all this and nothing else; gives what was told.
fn run(scene: Scene, asks: impl IntoIterator<Item = Ask>) -> Vec<String> {
    let events = Events::default();
    let follower = events.follow().unwrap();
    let (sender, queue) = mpsc::channel(16);
    asks.into_iter().for_each(|ask| sender.try_send(ask).unwrap());
    drop(sender);
    let engine = scene.engine.telling(events);
    runtime().block_on(engine.run(queue));
    told(follower)
}

/// A request whose asker waits for the answer, which may be read at the end.
pub fn ask(
    command: Command,
) -> (
    Ask,
    oneshot::Receiver<Result<tombolo_core::state::Reply, tombolo::engine::Error>>,
) {
    let (answer, answered) = oneshot::channel();
    let ask = Ask::Do {
        command,
        looked: Looked::default(),
        deadline: Instant::now() + Duration::from_secs(60),
        answer,
    };
    (ask, answered)
}

fn create_network() -> Command {
    Command::CreateNetwork(network(0, 0, false, false))
}

#[test]
fn the_life_of_an_endpoint_is_told_in_its_order() {
    let (net, end) = (|| "n0".parse().unwrap(), || "e0".parse().unwrap());
    let wish = |first| PortWish {
        proto: Proto::Tcp,
        host: Some("192.0.2.1".parse().unwrap()),
        first,
        last: first,
        port: 80,
    };
    let publish = |ports: &[u16]| Command::Publish {
        network: net(),
        endpoint: end(),
        wishes: ports.iter().map(|port| wish(*port)).collect(),
    };
    let commands = [
        create_network(),
        Command::CreateEndpoint {
            id: end(),
            network: net(),
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
            mac: None,
            rate: None,
            sysctls: Vec::new(),
        },
        Command::Join {
            network: net(),
            endpoint: end(),
            sandbox: "/run/x".to_owned(),
        },
        publish(&[8080, 8081]),
        publish(&[8081, 8082]),
        // What changes nothing is nothing to tell.
        publish(&[8081, 8082]),
        Command::DeleteNetwork(net()),
    ];
    let (asks, answers): (Vec<_>, Vec<_>) = commands.into_iter().map(ask).unzip();
    let told = run(Scene::new(), asks);
    for mut answer in answers {
        answer.try_recv().unwrap().unwrap();
    }
    let expected = [
        "network created n0",
        "endpoint created n0 e0",
        "endpoint joined n0 e0",
        "port published n0 e0 8080",
        "port published n0 e0 8081",
        "port unpublished n0 e0 8080",
        "port published n0 e0 8082",
        "port unpublished n0 e0 8081",
        "port unpublished n0 e0 8082",
        "endpoint left n0 e0",
        "endpoint removed n0 e0",
        "network removed n0",
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_is_not_stored_is_not_told() {
    let scene = Scene::new();
    *scene.disk.full.lock().unwrap() = true;
    let (full, mut refused) = ask(create_network());
    assert_eq!(run(scene, [full]), [""; 0]);
    assert!(refused.try_recv().unwrap().is_err());
}

#[test]
fn what_is_taken_back_is_not_told() {
    let scene = Scene::new();
    let (unheard, answered) = ask(create_network());
    *scene.kernel.meanwhile.lock().unwrap() = Some(Box::new(move || drop(answered)));
    assert_eq!(run(scene, [unheard]), [""; 0]);
}

#[test]
fn a_repair_is_told_with_its_reason_and_whose_it_is() {
    let mut scene = Scene::new();
    scene.ask(&create_network()).unwrap();
    let held = scene.found().into_keys().find(|key| matches!(key, Key::Allow(_)));
    scene.kernel.kernel.lock().unwrap().steal(&held.unwrap());
    let look = Ask::Look(Want::repair("tick"));
    assert_eq!(run(scene, [look]), ["fact repaired n0 allow tick"]);
}

#[test]
fn names_are_told_once_and_the_engine_as_it_comes_and_goes() {
    let mut scene = Scene::new();
    scene.ask(&create_network()).unwrap();
    let view = |name: &str| View {
        engine: "engine-1".to_owned(),
        version: "28.5".to_owned(),
        live_restore: false,
        bridges: std::collections::BTreeSet::new(),
        networks: vec![NetworkView {
            id: "n0".parse().unwrap(),
            name: name.to_owned(),
            driver: "tombolo".to_owned(),
            ipam_driver: "default".to_owned(),
            internal: false,
            v6: false,
            options: Default::default(),
            lent: false,
            subnets: Vec::new(),
            endpoints: Vec::new(),
        }],
    };
    let heard = [Ok("one"), Ok("one"), Err("gone"), Err("gone"), Ok("other")];
    let asks = heard.map(|heard| Ask::Docker(heard.map(view).map_err(str::to_owned)));
    let expected = [
        "network named n0 one",
        "docker reachable ",
        "docker unreachable ",
        "network named n0 other",
        "docker reachable ",
    ];
    assert_eq!(run(scene, asks), expected);
}
