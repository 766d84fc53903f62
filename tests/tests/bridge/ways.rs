//! Tables of ways: from where to where, and who is seen there.

use std::time::Duration;

use system_tests::outside::HOST;
use system_tests::{
    Answerer, Container, Scene, Snapshot, Spaces, ask_tcp, ask_tcp_for, ask_udp, ask_udp_for,
};

/// How long an answer is waited for that should not come.
const DOUBT: Duration = Duration::from_millis(600);

/// Two subnets, so that a network has both address families whatever the engine's default is.
pub const DUAL: [&str; 5] = ["--ipv6", "--subnet", "10.60.0.0/24", "--subnet", "fd60::/64"];
/// The same for a second network.
pub const DUAL2: [&str; 5] = ["--ipv6", "--subnet", "10.61.0.0/24", "--subnet", "fd61::/64"];

/// A scene, and what its host looked like at first.
pub fn scene() -> (Scene, Snapshot) {
    let scene = Scene::new();
    let before = scene.snapshot();
    (scene, before)
}

/// What becomes of a question.
#[derive(Debug, Clone)]
pub enum Fate {
    /// It is answered by somebody who sees this sender.
    SeenAs(String),
    /// It is answered, whoever is seen.
    Answered,
    /// There is no answer.
    Lost,
}

/// One row of a table.
pub struct Way<'a> {
    what: &'a str,
    from: &'a Spaces,
    udp: bool,
    to: String,
    fate: Fate,
}

/// A row for TCP.
pub fn tcp<'a>(what: &'a str, from: &'a Spaces, to: impl Into<String>, fate: Fate) -> Way<'a> {
    Way {
        what,
        from,
        udp: false,
        to: to.into(),
        fate,
    }
}

/// A row for UDP.
pub fn udp<'a>(what: &'a str, from: &'a Spaces, to: impl Into<String>, fate: Fate) -> Way<'a> {
    Way {
        udp: true,
        ..tcp(what, from, to, fate)
    }
}

/// It is answered by somebody who sees this sender.
pub fn seen_as(sender: impl Into<String>) -> Fate {
    Fate::SeenAs(sender.into())
}

/// Tries every row; the ones that went otherwise are told together.
#[track_caller]
pub fn must_go(ways: &[Way<'_>]) {
    let mut wrong = Vec::new();
    for way in ways {
        let got = match (&way.fate, way.udp) {
            (Fate::Lost, false) => ask_tcp_for(DOUBT, way.from, &way.to),
            (Fate::Lost, true) => ask_udp_for(DOUBT, way.from, &way.to),
            (_, false) => ask_tcp(way.from, &way.to),
            (_, true) => ask_udp(way.from, &way.to),
        };
        let right = match (&way.fate, &got) {
            (Fate::SeenAs(sender), Ok(seen)) => *sender == seen.to_string(),
            (Fate::Answered, Ok(_)) | (Fate::Lost, Err(_)) => true,
            _ => false,
        };
        if !right {
            let proto = if way.udp { "udp" } else { "tcp" };
            wrong.push(format!(
                "{} ({proto} to {}): {got:?}, not {:?}",
                way.what, way.to, way.fate
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// An address and a port in one text.
pub fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// A container that serves TCP at 80 and 81, and UDP at 53, on all of its addresses.
pub struct Server {
    /// The container.
    pub container: Container,
    /// Its namespace.
    pub place: Spaces,
    _servers: Vec<Answerer>,
}

/// Runs a server.
pub fn server(scene: &Scene, name: &str, args: &[&str]) -> Server {
    serve(scene.container(name, args))
}

/// Lets a container serve.
pub fn serve(container: Container) -> Server {
    let place = container.spaces();
    let servers = vec![
        Answerer::tcp(&place, "[::]:80"),
        Answerer::tcp(&place, "[::]:81"),
        Answerer::udp(&place, "[::]:53"),
    ];
    Server {
        container,
        place,
        _servers: servers,
    }
}

/// Lets the outside send straight to the two test networks, as anybody on the host's wire can.
pub fn route_from_outside(scene: &Scene) {
    let outside = scene.outside.spaces();
    for (net, via) in [
        ("10.60.0.0/23", HOST[0]),
        ("fd60::/64", HOST[1]),
        ("fd61::/64", HOST[1]),
    ] {
        outside.run("ip", &["route", "replace", net, "via", via]);
    }
}
