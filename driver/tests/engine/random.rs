//! Random commands with refusals, lost answers, thefts, a failing disk and sudden deaths. Whatever happened, after the
//! next start what is observed equals what is desired, what was acknowledged is kept, and without records there are no
//! facts.

use std::net::IpAddr;

use futures_util::FutureExt;
use proptest::prelude::*;
use tombolo_core::model::{PortWish, Proto};
use tombolo_core::state::Command;
use tombolo_core::world::{World, diff};
use tombolo_ipam::{PoolRequest, Space, Use, Want};

use crate::scene::{Scene, network, text};

#[derive(Debug, Clone)]
enum Event {
    /// Whether it is answered first.
    Ask(Box<Command>, bool),
    /// Nothing is asked for a moment.
    Pause,
    /// The same, and something is asked before all is gone that is to be removed.
    ShortPause,
    Refuse(usize),
    LoseAnswer(usize),
    Die(usize),
    DiskFull,
    Steal(usize),
    Tick,
    /// A look beside all else begins, and is taken in.
    Look,
    Found,
    /// The next look fails.
    Blind,
    Restart,
}

pub fn command() -> impl Strategy<Value = Command> {
    let id = 0..4u8;
    let endpoint = |e: u8| format!("e{e}").parse().unwrap();
    let net = |n: u8| format!("n{n}").parse().unwrap();
    let wish = |port: u16, host: u16| PortWish {
        proto: Proto::Tcp,
        host: None,
        first: host,
        last: host,
        port,
    };
    let request = |want| PoolRequest {
        space: Space::Local,
        want,
        range: None,
        v6: false,
        repeat: true,
    };
    prop_oneof![
        3 => (id.clone(), 0..4u8, any::<bool>(), any::<bool>())
            .prop_map(|(n, p, internal, v6)| Command::CreateNetwork(network(n, p, internal, v6))),
        1 => id.clone().prop_map(move |n| Command::DeleteNetwork(net(n))),
        4 => (0..6u8, id.clone(), 2..6u8).prop_map(move |(e, n, a)| Command::CreateEndpoint {
            id: endpoint(e),
            network: net(n),
            addresses: vec![format!("10.{n}.0.{a}/24").parse().unwrap()],
            mac: None,
            rate: None, sysctls: Vec::new(),
        }),
        2 => (0..6u8).prop_map(move |e| Command::DeleteEndpoint(endpoint(e))),
        4 => (0..6u8, id.clone()).prop_map(move |(e, n)| Command::Join {
            network: net(n),
            endpoint: endpoint(e),
            sandbox: "/run/netns/x".to_owned(),
        }),
        2 => (0..6u8).prop_map(move |e| Command::Leave(endpoint(e))),
        3 => (0..6u8, id, 80..83u16, 0..3u16).prop_map(move |(e, n, port, host)| Command::Publish {
            network: net(n),
            endpoint: endpoint(e),
            wishes: vec![wish(port, 8000 + host), wish(port + 1, 0)],
        }),
        1 => (0..6u8).prop_map(move |e| Command::Unpublish(endpoint(e))),
        1 => Just(Command::RequestPool(request(Want::Any))),
        1 => (0..4u8).prop_map(move |p| {
            Command::RequestPool(request(Want::Exactly(format!("10.{p}.0.0/24").parse().unwrap())))
        }),
        1 => (0..4u8).prop_map(|p| Command::ReleasePool(format!("local/10.{p}.0.0/24").parse().unwrap())),
        2 => (0..4u8, proptest::option::of(1..9u8)).prop_map(|(p, a)| Command::RequestAddress {
            pool: format!("local/10.{p}.0.0/24").parse().unwrap(),
            address: a.map(|a| IpAddr::from([10, p, 0, a])),
            usage: if a == Some(1) { Use::Gateway } else { Use::Endpoint { name: None } },
            repeat: false,
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (command(), any::<bool>()).prop_map(|(command, first)| Event::Ask(Box::new(command), first)),
        4 => Just(Event::Pause),
        2 => Just(Event::ShortPause),
        1 => (0..6usize).prop_map(Event::Refuse),
        1 => (0..6usize).prop_map(Event::LoseAnswer),
        2 => (0..6usize).prop_map(Event::Die),
        1 => Just(Event::DiskFull),
        2 => (0..40usize).prop_map(Event::Steal),
        1 => Just(Event::Tick),
        2 => Just(Event::Look),
        2 => Just(Event::Found),
        1 => Just(Event::Blind),
        1 => Just(Event::Restart),
    ]
}

fn play(scene: &mut Scene, events: Vec<Event>) {
    for event in events {
        match event {
            Event::Ask(command, first) => {
                let before = text(scene.engine.state());
                let granted = match first {
                    true => scene.ask_first(&command),
                    false => scene.ask(&command),
                };
                let after = text(scene.engine.state());
                if granted.is_none() && !command.shrinks() {
                    // A death may come after the commit; a refusal changes nothing.
                    let dead = scene.kernel.dies_in.lock().unwrap().is_none();
                    assert!(before == after || dead, "refused, but changed: {command:?}");
                }
                scene.assert_stored();
            }
            Event::Refuse(n) => scene.kernel.kernel.lock().unwrap().refuse_step(n),
            Event::LoseAnswer(n) => scene.kernel.kernel.lock().unwrap().lose_answer(n),
            Event::Die(n) => *scene.kernel.dies_in.lock().unwrap() = Some(n),
            Event::DiskFull => *scene.disk.full.lock().unwrap() = true,
            Event::Steal(n) => {
                let mut kernel = scene.kernel.kernel.lock().unwrap();
                let stolen = kernel.world().into_keys().nth(n);
                stolen.iter().for_each(|key| kernel.steal(key));
            }
            Event::Tick => {
                if scene.engine.settle("tick").now_or_never().is_none() {
                    scene.restart();
                }
            }
            Event::Look => scene.begin_look(),
            Event::Found => scene.take_look(),
            Event::Blind => scene.kernel.kernel.lock().unwrap().fail_next_look(),
            Event::Restart => scene.restart(),
            Event::Pause => scene.remove_later(),
            Event::ShortPause => scene.engine.begin_removal(None),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn after_the_next_start_what_is_observed_is_what_is_desired(events in proptest::collection::vec(event(), 1..60)) {
        let mut scene = Scene::new();
        play(&mut scene, events);
        scene.kernel.kernel.lock().unwrap().behave();
        *scene.disk.full.lock().unwrap() = false;
        scene.restart();
        prop_assert_eq!(scene.undone(), []);
        scene.assert_stored();

        let networks: Vec<_> = scene.engine.state().networks().map(|n| n.id.clone()).collect();
        for id in networks {
            scene.ask(&Command::DeleteNetwork(id));
        }
        prop_assert_eq!(diff(&World::new(), &scene.found()), []);
        prop_assert_eq!(scene.engine.state().endpoints().count(), 0);
    }

    #[test]
    fn without_disturbances_each_granted_command_holds_at_once(
        commands in proptest::collection::vec(command(), 1..60)
    ) {
        let mut scene = Scene::new();
        for command in commands {
            scene.ask(&command);
            prop_assert_eq!(scene.undone(), []);
        }
    }

    /// What was done since a look was begun is no surprise to it, and what somebody else did before that is repaired.
    #[test]
    fn a_look_beside_all_else_repairs_what_others_did_and_nothing_else(
        commands in proptest::collection::vec((command(), any::<bool>()), 1..60),
        looks in proptest::collection::vec(0..60usize, 1..12),
        stolen in proptest::option::of(0..40usize),
    ) {
        let mut scene = Scene::new();
        let mut stole = false;
        for (n, (command, first)) in commands.into_iter().enumerate() {
            if looks.contains(&n) {
                scene.take_look();
                scene.remove_later();
                prop_assert_eq!(scene.undone(), []);
                let repaired = scene.engine.tally().repairs;
                prop_assert!(repaired.is_empty() || stole, "{:?}", repaired);
                let thief = stolen.filter(|_| n > 30 && !stole);
                let key = thief.and_then(|n| scene.found().into_keys().nth(n));
                if let Some(key) = key {
                    scene.kernel.kernel.lock().unwrap().steal(&key);
                    stole = true;
                }
                scene.begin_look();
            }
            match first {
                true => scene.ask_first(&command),
                false => scene.ask(&command),
            };
        }
        scene.take_look();
        scene.remove_later();
        prop_assert_eq!(scene.undone(), []);
    }

    #[test]
    fn what_is_left_after_an_answer_is_nothing_but_links_to_remove(
        commands in proptest::collection::vec(command(), 1..60)
    ) {
        let mut scene = Scene::new();
        for command in commands {
            scene.ask_first(&command);
            for step in scene.undone() {
                prop_assert!(step.removes() && step.key().on().is_some(), "{}", step);
            }
        }
        scene.remove_later();
        prop_assert_eq!(scene.undone(), []);
    }
}

/// Docker's own order, with a death at every step of it.
#[test]
fn a_death_at_any_step_of_a_start_and_a_stop_leaves_nothing_behind() {
    let id = "e0".parse::<tombolo_core::model::EndpointId>().unwrap();
    let net: tombolo_core::model::NetworkId = "n0".parse().unwrap();
    let wish = PortWish {
        proto: Proto::Udp,
        host: None,
        first: 53,
        last: 53,
        port: 53,
    };
    let commands = [
        Command::CreateNetwork(network(0, 0, false, true)),
        Command::CreateEndpoint {
            id: id.clone(),
            network: net.clone(),
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
            mac: None,
            rate: None,
            sysctls: Vec::new(),
        },
        Command::Join {
            network: net.clone(),
            endpoint: id.clone(),
            sandbox: "/run/netns/x".to_owned(),
        },
        Command::Publish {
            network: net.clone(),
            endpoint: id.clone(),
            wishes: vec![wish],
        },
        Command::Unpublish(id.clone()),
        Command::Leave(id.clone()),
        Command::DeleteEndpoint(id),
        Command::DeleteNetwork(net),
    ];
    for fatal in 0..commands.len() {
        for step in 0..16 {
            let mut scene = Scene::new();
            for (n, command) in commands.iter().enumerate() {
                *scene.kernel.dies_in.lock().unwrap() = (n == fatal).then_some(step);
                scene.ask(command);
                *scene.kernel.dies_in.lock().unwrap() = None;
                assert_eq!(scene.undone(), [], "command {fatal}, step {step}, at {command:?}");
            }
            assert_eq!(
                diff(&World::new(), &scene.found()),
                [],
                "command {fatal}, step {step}"
            );
        }
    }
}
