//! Requests whose records are written together: to those who ask it is as if each were written alone.

use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::sync::{mpsc, oneshot};
use tombolo::engine::events::Events;
use tombolo::engine::{Ask, Error};
use tombolo_core::state::{Command, Reply};
use tombolo_core::world::{World, diff};

use crate::events::{ask, told};
use crate::random::command;
use crate::scene::{Disk, Mortal, Scene, network, runtime};

type Answer = oneshot::Receiver<Result<Reply, Error>>;

/// What became of some requests.
struct Outcome {
    answers: Vec<Result<String, String>>,
    told: Vec<String>,
    disk: Disk,
    kernel: Mortal,
}

impl Outcome {
    fn found(&self) -> World {
        self.kernel.kernel.lock().unwrap().world()
    }

    fn writes(&self) -> usize {
        *self.disk.writes.lock().unwrap()
    }

    /// What the records on the disk want of the kernel, and isn't so.
    fn undone(&self) -> Vec<String> {
        let (state, problems) = self.disk.load().into_state();
        assert!(problems.is_empty(), "{problems:?}");
        let undone = diff(&state.world(), &self.found());
        undone.iter().map(ToString::to_string).collect()
    }
}

/// Asks for all at once, or for each when the one before is answered, of a host whose disk takes its time.
fn outcome(commands: &[Command], at_once: bool, refuses: Option<usize>) -> Outcome {
    let Scene { kernel, disk, engine } = Scene::new();
    *disk.slow.lock().unwrap() = Duration::from_millis(2);
    *disk.refuses.lock().unwrap() = refuses;
    let events = Events::default();
    let follower = events.follow().unwrap();
    let (asks, queue) = mpsc::channel(commands.len());
    let answers = runtime().block_on(async {
        let requests: Vec<(Ask, Answer)> = commands.iter().cloned().map(ask).collect();
        let ask_all = async {
            let (mut waiting, mut answers) = (Vec::new(), Vec::new());
            for (request, answer) in requests {
                asks.try_send(request).unwrap();
                match at_once {
                    true => waiting.push(answer),
                    false => answers.push(answer.await.unwrap()),
                }
            }
            drop(asks);
            for answer in waiting {
                answers.push(answer.await.unwrap());
            }
            answers
        };
        let engine = engine.telling(events);
        tokio::join!(ask_all, engine.run(queue)).0
    });
    let text = |answer: Result<Reply, Error>| match answer {
        Ok(reply) => Ok(format!("{reply:?}")),
        Err(error) => Err(error.to_string()),
    };
    Outcome {
        answers: answers.into_iter().map(text).collect(),
        told: told(follower),
        disk,
        kernel,
    }
}

/// Requests that all wait already.
fn queued(commands: &[Command]) -> (mpsc::Receiver<Ask>, Vec<Answer>) {
    let (asks, queue) = mpsc::channel(commands.len());
    let (requests, answers): (Vec<Ask>, Vec<Answer>) = commands.iter().cloned().map(ask).unzip();
    for request in requests {
        asks.try_send(request).unwrap();
    }
    (queue, answers)
}

/// A network, and as many endpoints on it.
fn endpoints(count: u8) -> Vec<Command> {
    let network = Command::CreateNetwork(network(0, 0, false, true));
    let endpoint = |n: u8| Command::CreateEndpoint {
        id: format!("e{n}").parse().unwrap(),
        network: "n0".parse().unwrap(),
        addresses: vec![format!("10.0.0.{}/24", n + 2).parse().unwrap()],
        mac: None,
        rate: None,
        sysctls: Vec::new(),
    };
    std::iter::once(network).chain((0..count).map(endpoint)).collect()
}

#[test]
fn those_that_wait_are_written_together() {
    let together = outcome(&endpoints(12), true, None);
    assert!(
        together.answers.iter().all(Result::is_ok),
        "{:?}",
        together.answers
    );
    assert_eq!(together.disk.load().endpoints.len(), 12);
    assert!(together.writes() < 13, "{} writes", together.writes());
    assert_eq!(outcome(&endpoints(12), false, None).writes(), 13);
}

#[test]
fn those_that_are_written_together_are_refused_together_and_leave_nothing() {
    // The network is alone.
    let refused = outcome(&endpoints(12), true, Some(1));
    let granted = refused.answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(refused.disk.load().endpoints.len() + 1, granted);
    assert!(refused.answers[0].is_ok() && refused.answers[1].is_err() && refused.answers[2].is_err());
    assert_eq!(refused.undone(), [""; 0]);

    let before = Scene::new().found();
    let all_refused = outcome(&endpoints(0), true, Some(0));
    assert!(all_refused.answers[0].is_err());
    assert_eq!(diff(&before, &all_refused.found()), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whether_together_or_alone_all_is_the_same(commands in proptest::collection::vec(command(), 1..40)) {
        let together = outcome(&commands, true, None);
        let alone = outcome(&commands, false, None);
        prop_assert_eq!(&together.answers, &alone.answers);
        prop_assert_eq!(&together.told, &alone.told);
        prop_assert_eq!(together.found(), alone.found());
        prop_assert_eq!(together.undone(), [""; 0]);
        prop_assert_eq!(&*together.disk.rows.lock().unwrap(), &*alone.disk.rows.lock().unwrap());
    }

    #[test]
    fn whatever_write_is_refused_what_is_granted_is_kept_and_all_else_is_gone(
        commands in proptest::collection::vec(command(), 1..40),
        refuses in 0..6usize,
    ) {
        let outcome = outcome(&commands, true, Some(refuses));
        prop_assert_eq!(outcome.undone(), [""; 0]);
    }

    #[test]
    fn what_was_granted_to_those_who_left_during_a_write_is_taken_back(
        commands in proptest::collection::vec(command(), 1..40),
        leave in proptest::collection::vec(any::<bool>(), 40),
        write in 0..8usize,
    ) {
        let Scene { kernel, disk, engine } = Scene::new();
        *disk.slow.lock().unwrap() = Duration::from_millis(2);
        let (queue, answers) = queued(&commands);
        let (gone, stay): (Vec<_>, Vec<_>) = answers.into_iter().zip(leave).partition(|(_, leaves)| *leaves);
        *disk.meanwhile.lock().unwrap() = Some((write, Box::new(move || drop(gone))));
        runtime().block_on(engine.run(queue));
        for (mut answer, _) in stay {
            prop_assert!(answer.try_recv().is_ok(), "each is answered");
        }
        let outcome = Outcome { answers: Vec::new(), told: Vec::new(), disk, kernel };
        prop_assert_eq!(outcome.undone(), [""; 0]);
    }

    #[test]
    fn after_a_death_what_was_granted_is_there_and_nothing_else(
        commands in proptest::collection::vec(command(), 1..40),
        dies_in in 0..40usize,
    ) {
        let Scene { kernel, disk, engine } = Scene::new();
        *disk.slow.lock().unwrap() = Duration::from_millis(2);
        *kernel.dies_in.lock().unwrap() = Some(dies_in);
        let (queue, answers) = queued(&commands);
        let runtime = runtime();
        let entered = runtime.enter();
        engine.run(queue).now_or_never();
        drop(entered);
        let scene = Scene::after(kernel, disk);
        prop_assert_eq!(scene.undone(), []);
        scene.assert_stored();
        for (command, mut answer) in commands.iter().zip(answers) {
            let Command::CreateNetwork(network) = command else { continue };
            let removed = Command::DeleteNetwork(network.id.clone());
            if answer.try_recv().is_ok_and(|answer| answer.is_ok()) && !commands.contains(&removed) {
                prop_assert!(scene.engine.state().network(&network.id).is_some(), "{command:?}");
            }
        }
    }
}
