//! Name servers that say nothing.

use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use system_tests::sites::{Kind, Plan};

use super::dig::{DOCKER, Outside, comes, dig};

/// More connections than are served at once, and fewer than may wait beside them.
const IDLE: usize = 100;

/// Clients ask again after two seconds at the earliest.
const BOUND: Duration = Duration::from_secs(2);

#[test]
fn a_name_server_that_is_silent_holds_nobody_up() {
    let sites = Plan::of(1).joined();
    let outside = Outside::of(&sites);
    sites.network("app", Kind::Overlay, &["--subnet", "10.42.0.0/16"]);
    let web = sites[0].container("web", "app", &[]);
    // Docker doesn't know that name.
    comes(
        &web,
        DOCKER,
        &["web.app.tombolo.internal", "A"],
        &[&web.ip("app")],
        Duration::from_secs(5),
    );
    outside.signal(Signal::SIGSTOP);
    for server in [DOCKER, "10.42.0.1"] {
        let reply = dig(&web, server, &["outside.example", "A"]);
        assert_eq!(reply.status, "SERVFAIL", "{}", reply.text);
        assert!(reply.took() < BOUND, "{server}: {}", reply.text);
        // What is ours is answered all the same.
        comes(
            &web,
            server,
            &["web", "A"],
            &[&web.ip("app")],
            Duration::from_millis(500),
        );
    }
    outside.signal(Signal::SIGCONT);
    comes(
        &web,
        DOCKER,
        &["outside.example", "A"],
        &["192.0.2.7"],
        Duration::from_secs(5),
    );
}

#[test]
fn connections_that_say_nothing_hold_nobody_up_for_long() {
    let sites = Plan::of(1).joined();
    let _outside = Outside::of(&sites);
    sites.network("app", Kind::Overlay, &["--subnet", "10.42.0.0/16"]);
    let web = sites[0].container("web", "app", &[]);
    let (name, own) = ("web.app.tombolo.internal", web.ip("app"));
    for server in [DOCKER, "10.42.0.1"] {
        comes(&web, server, &[name, "A"], &[&own], Duration::from_secs(5));
        let connect = || TcpStream::connect((server, 53)).expect("a connection");
        let idle: Vec<TcpStream> = web.spaces().enter(|| (0..IDLE).map(|_| connect()).collect());
        comes(&web, server, &[name, "A"], &[&own], Duration::from_millis(500));
        // Those that came before are thrown out, one lot after the other.
        let reply = dig(&web, server, &["+tcp", "+time=20", name, "A"]);
        assert_eq!(reply.answers, [own.as_str()], "{}", reply.text);
        drop(idle);
    }
}
