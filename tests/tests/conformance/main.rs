//! What the Docker engine's own network tests assert, asserted of tombolo's networks: in our words, in our lab, by the
//! real command line and by real packets. Each test names those of the engine's that it answers to.
//!
//! `../../CONFORMANCE.md` lists all of them, with what shows each of them here, or why it cannot be asked of a plug-in.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod addresses;
mod connecting;
mod daemon;
mod dns;
mod errors;
mod families;
mod gateways;
mod macs;
mod names;
mod ports;

use std::io::Write;

use system_tests::{Scene, Snapshot, json};

/// Two subnets, so that a network has both address families whatever the engine's default is.
const DUAL: [&str; 5] = ["--ipv6", "--subnet", "10.60.0.0/24", "--subnet", "fd60::/64"];

/// The same for a second network.
const DUAL_TOO: [&str; 5] = ["--ipv6", "--subnet", "10.61.0.0/24", "--subnet", "fd61::/64"];

/// A scene, and how its host looks before anything is made.
fn scene() -> (Scene, Snapshot) {
    let scene = Scene::new();
    let before = scene.snapshot();
    (scene, before)
}

/// Whether the engine is new enough for what a test needs. If not, that is said where nobody can miss it: the test runner
/// keeps what a passing test prints, but not what goes straight to standard error.
fn has(scene: &Scene, since: u32, what: &str) -> bool {
    let new_enough = scene.major() >= since;
    if !new_enough {
        let version = scene.version();
        writeln!(
            std::io::stderr(),
            "\nNOT ASKED of Docker {version}: {what} came with Docker {since}"
        )
        .expect("writing to standard error");
    }
    new_enough
}

/// The addresses of all endpoints that tombolo knows, in order.
fn endpoints(scene: &Scene) -> Vec<String> {
    let shown = scene.tombolo().cli(&["endpoints"]);
    let address = |row: &serde_json::Value| row["ipv4"].as_str().unwrap_or("-").to_owned();
    let mut all: Vec<String> = json::rows(&shown).iter().map(address).collect();
    all.sort();
    all
}
