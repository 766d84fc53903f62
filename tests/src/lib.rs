//! The lab: hosts made of namespaces, each with a Docker engine and a tombolo of its own, wires between them, and what
//! is needed to look at them from outside.
//!
//! ```text
//!   Outside (a network namespace)                Host (network, mount, process and name namespaces)
//!     192.0.2.1, 2001:db8::1  ──── veth ────  192.0.2.2, 2001:db8::2
//!     Answerer, clients                         tombolo serve ── /run/docker/plugins/tombolo.sock ── dockerd
//!                                               containers: their network namespaces entered by the test's threads
//! ```
//!
//! Nothing here outlives the test process, however it ends: see [`host`].

pub mod answerer;
pub mod asked;
pub mod cgroups;
pub mod command;
pub mod container;
pub mod conversation;
pub mod dhcp;
pub mod draw;
pub mod engine;
pub mod flow;
pub mod host;
pub mod http;
pub mod image;
pub mod json;
pub mod lan;
pub mod measure;
pub mod outside;
pub mod plugin;
mod root;
pub mod samples;
pub mod scene;
pub mod sites;
pub mod snapshot;
pub mod spaces;
pub mod tombolo;
pub mod wait;
pub mod wire;

pub use answerer::{Answerer, ask_tcp, ask_tcp_for, ask_udp, ask_udp_for};
pub use command::Output;
pub use container::Container;
pub use engine::Engine;
pub use flow::Flow;
pub use host::Host;
pub use lan::Lan;
pub use outside::Outside;
pub use scene::{Scene, Staging};
pub use sites::{Kind, Plan, Rows, Site, Sites};
pub use snapshot::Snapshot;
pub use spaces::Spaces;
pub use tombolo::Tombolo;
pub use wait::until;
pub use wire::Wire;

/// Does something for each, all at once.
#[track_caller]
pub fn at_once<'a, T: Sync, R: Send>(each: &'a [T], act: impl Fn(&'a T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> = each.iter().map(|one| scope.spawn(move || act(one))).collect();
        let done = threads.into_iter().map(|thread| thread.join());
        done.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Shows text to whoever runs the tests; the test runner keeps it for the tests that fail.
#[allow(
    clippy::print_stderr,
    reason = "the standard error of a test is where its runner looks"
)]
pub fn say(text: &str) {
    eprintln!("{text}");
}
