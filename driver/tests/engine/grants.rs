//! What is granted to somebody who has gone, and what comes too late.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tombolo::engine::{Ask, Error, Looked};
use tombolo_core::state::Command;
use tombolo_core::world::{World, diff};

use crate::scene::{Scene, network, text};

fn ask(
    command: Command,
    deadline: Instant,
) -> (Ask, oneshot::Receiver<Result<tombolo_core::state::Reply, Error>>) {
    let (answer, answered) = oneshot::channel();
    (
        Ask::Do {
            command,
            looked: Looked::default(),
            deadline,
            answer,
        },
        answered,
    )
}

#[test]
fn a_request_whose_time_is_up_is_refused_and_leaves_nothing() {
    let mut scene = Scene::new();
    let before = text(scene.engine.state());
    let command = Command::CreateNetwork(network(0, 0, false, true));
    let refused = scene
        .engine
        .carry_out(&command, &Looked::default(), Instant::now(), false)
        .now_or_never()
        .expect("nothing waits");
    assert!(matches!(refused, Err(Error::Late(_))), "{refused:?}");
    assert_eq!(text(scene.engine.state()), before);
    assert_eq!(diff(&World::new(), &scene.found()), []);
}

#[test]
fn what_nobody_waits_for_any_more_is_not_begun() {
    let Scene { kernel, disk, engine } = Scene::new();
    let (asks, queue) = mpsc::channel(4);
    let deadline = Instant::now() + Duration::from_secs(60);
    let (unheard, answered) = ask(Command::CreateNetwork(network(0, 0, false, false)), deadline);
    drop(answered);
    asks.try_send(unheard).unwrap();
    drop(asks);
    drop(engine.run(queue).now_or_never().expect("nothing waits"));
    assert!(disk.load().networks.is_empty());
    assert!(kernel.kernel.lock().unwrap().steps().is_empty());
}

#[tokio::test]
async fn what_was_granted_to_somebody_who_left_meanwhile_is_taken_back() {
    let Scene { kernel, disk, engine } = Scene::new();
    let (asks, queue) = mpsc::channel(4);
    let deadline = Instant::now() + Duration::from_secs(60);
    let (unheard, answered) = ask(Command::CreateNetwork(network(0, 0, false, false)), deadline);
    // The asker leaves in the middle of the work: after the first step that the kernel sees.
    *kernel.meanwhile.lock().unwrap() = Some(Box::new(move || drop(answered)));
    asks.try_send(unheard).unwrap();
    let (heard, reply) = ask(Command::CreateNetwork(network(1, 1, false, false)), deadline);
    asks.try_send(heard).unwrap();
    drop(asks);
    drop(engine.run(queue).await);
    assert!(reply.await.unwrap().is_ok());
    let networks: Vec<String> = disk.load().networks.iter().map(|n| n.id.to_string()).collect();
    assert_eq!(networks, ["n1"]);
}
