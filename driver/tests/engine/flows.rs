//! Which flows an engine has the kernel forget, and when.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tombolo::kernel::Flow;
use tombolo_core::model::{PortWish, Proto};
use tombolo_core::state::Command;

use crate::scene::Scene;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Scene {
    #[track_caller]
    fn forgets(&mut self, command: &Command, flows: &[Flow]) {
        self.ask(command)
            .unwrap_or_else(|| panic!("{command:?} is granted"));
        self.must_have_forgotten(flows);
    }

    #[track_caller]
    fn must_have_forgotten(&mut self, flows: &[Flow]) {
        let forgotten = self.kernel.kernel.lock().unwrap().take_forgotten();
        assert_eq!(forgotten, flows.iter().copied().collect::<BTreeSet<Flow>>());
    }
}

#[test]
fn flows_are_forgotten_when_ports_change_when_an_endpoint_ends_and_at_a_start() {
    let (net, end) = (|| "n0".parse().unwrap(), || "e0".parse().unwrap());
    let container = address("10.0.0.2");
    let publish = |ports: &[(Proto, u16)]| Command::Publish {
        network: net(),
        endpoint: end(),
        wishes: ports
            .iter()
            .map(|&(proto, port)| PortWish {
                proto,
                host: Some(address("192.0.2.1")),
                first: port,
                last: port,
                port: 80,
            })
            .collect(),
    };
    let led = |port| Flow::Udp {
        host: address("192.0.2.1"),
        port,
        to: (container, 80),
    };
    let into = |proto, port| Flow::Into {
        proto,
        host: address("192.0.2.1"),
        port,
        to: (container, 80),
    };
    let mut scene = Scene::new();
    scene.with_container(0);
    scene.must_have_forgotten(&[]);
    // Who begins a connection of TCP begins a flow; a client of UDP may go on with one that leads elsewhere.
    scene.forgets(&publish(&[(Proto::Tcp, 8080)]), &[]);
    scene.forgets(&publish(&[(Proto::Tcp, 8080), (Proto::Udp, 8081)]), &[led(8081)]);
    // What an earlier run may have died before.
    scene.restart();
    scene.must_have_forgotten(&[led(8081)]);
    scene.forgets(&publish(&[(Proto::Udp, 8081)]), &[into(Proto::Tcp, 8080)]);
    scene.forgets(
        &Command::DeleteEndpoint(end()),
        &[into(Proto::Udp, 8081), Flow::Of(container)],
    );
    // Nobody waits for this; a process that dies at once leaves it to the next.
    scene.restart();
    scene.must_have_forgotten(&[Flow::Of(container)]);
}

#[test]
fn flows_of_an_endpoint_that_docker_has_forgotten_are_not_those_of_the_next() {
    let mut scene = Scene::new();
    scene.with_container(0);
    scene.must_have_forgotten(&[]);
    let next = Command::CreateEndpoint {
        id: "e1".parse().unwrap(),
        network: "n0".parse().unwrap(),
        addresses: vec!["10.0.0.2/24".parse().unwrap()],
        mac: None,
        rate: None,
        sysctls: Vec::new(),
    };
    scene.forgets(&next, &[Flow::Of(address("10.0.0.2"))]);
}
