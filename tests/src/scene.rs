//! The usual scene: an outside, a host wired to it, and on that host tombolo and a Docker engine.

use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value;

use crate::command::Output;
use crate::container::Container;
use crate::engine::Engine;
use crate::host::Host;
use crate::json;
use crate::outside::Outside;
use crate::snapshot::Snapshot;
use crate::tombolo::Tombolo;
use crate::wait::until;

/// Names the network driver of a run. Default `tombolo`; `bridge` runs what it can against Docker's own, without
/// tombolo, which tells whether a test asks for more than Docker itself gives.
pub const DRIVER: &str = "TOMBOLO_TEST_DRIVER";

/// How a scene differs from the usual one.
#[derive(Default)]
pub struct Staging<'a> {
    /// More flags for the engine.
    pub flags: &'a [&'a str],
    /// Settings in tombolo's environment.
    pub settings: &'a [(&'a str, &'a str)],
    /// What is done to the host before anything runs on it.
    pub prepare: Option<&'a dyn Fn(&Host)>,
}

/// An outside, a host, and on it tombolo and an engine.
#[derive(Debug)]
pub struct Scene {
    /// The world outside.
    pub outside: Outside,
    /// The engine.
    pub engine: Arc<Engine>,
    tombolo: Option<Arc<Tombolo>>,
    /// The host.
    pub host: Arc<Host>,
}

impl Deref for Scene {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}

/// The name of the driver under test.
pub fn driver() -> String {
    std::env::var(DRIVER).unwrap_or_else(|_| "tombolo".to_owned())
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Scene {
    /// A scene with an engine as it comes.
    pub fn new() -> Self {
        Self::with_flags(&[])
    }

    /// A scene with more flags for its engine.
    pub fn with_flags(flags: &[&str]) -> Self {
        Self::staged(&Staging {
            flags,
            ..Staging::default()
        })
    }

    /// A scene that differs from the usual one.
    pub fn staged(staging: &Staging<'_>) -> Self {
        let host = Arc::new(Host::with_engine_files());
        let outside = Outside::of(&host);
        if let Some(prepare) = staging.prepare {
            prepare(&host);
        }
        let tombolo = (driver() == "tombolo").then(|| Arc::new(Tombolo::start_with(&host, staging.settings)));
        let engine = Arc::new(Engine::start(&host, staging.flags));
        // The engine does this where it was the one that made the host a router, and it hits every network's traffic.
        let policy = host.run("iptables", &["-S", "FORWARD"]);
        assert!(
            policy.starts_with("-P FORWARD DROP"),
            "the engine was expected to drop what is forwarded: {policy}"
        );
        Self {
            outside,
            engine,
            tombolo,
            host,
        }
    }

    /// The scene's tombolo.
    #[track_caller]
    pub fn tombolo(&self) -> &Tombolo {
        self.tombolo
            .as_deref()
            .expect("this test needs tombolo itself, not a stand-in")
    }

    /// Waits until tombolo has learned the name of each endpoint's container and network, which the engine tells in its own time.
    #[track_caller]
    pub fn names_are_known(&self) {
        until("names are known", || {
            let endpoints = self.tombolo().cli(&["endpoints"]);
            let unnamed = |e: &Value| e["network_name"].is_null() || e["container_name"].is_null();
            (!json::rows(&endpoints).iter().any(unnamed)).then_some(())
        });
    }

    /// The arguments that choose the driver under test for a network and its addresses.
    pub fn drivers(&self) -> Vec<String> {
        let driver = driver();
        let addresses = if self.tombolo.is_some() {
            driver.as_str()
        } else {
            "default"
        };
        ["-d", &driver, "--ipam-driver", addresses]
            .map(str::to_owned)
            .to_vec()
    }

    /// Tries to make a network of the driver under test, with more arguments for `docker network create`.
    #[track_caller]
    pub fn try_network(&self, name: &str, args: &[&str]) -> Output {
        let drivers = self.drivers();
        let drivers: Vec<&str> = drivers.iter().map(String::as_str).collect();
        self.engine
            .try_docker(&[&["network", "create"], &drivers[..], args, &[name]].concat())
    }

    /// Makes a network of the driver under test, with more arguments for `docker network create`.
    #[track_caller]
    pub fn network(&self, name: &str, args: &[&str]) {
        self.try_network(name, args).must();
    }

    /// Runs a container that waits to be ended; `args` are those of `docker run`.
    #[track_caller]
    pub fn container(&self, name: &str, args: &[&str]) -> Container {
        Container::run(&self.host, &self.engine, name, args)
    }

    /// The host's links, routes and rules, and tombolo's pools.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.host, self.tombolo.as_deref())
    }

    /// Removes all containers and networks, and waits until the host is as it was.
    #[track_caller]
    pub fn must_clear_to(&self, before: &Snapshot) {
        self.clear();
        before.must_come_back(&self.host, self.tombolo.as_deref());
    }

    /// Removes all containers and all networks that were made.
    #[track_caller]
    pub fn clear(&self) {
        let all = self.engine.docker(&["ps", "-aq"]);
        let containers: Vec<&str> = all.lines().collect();
        if !containers.is_empty() {
            self.engine.docker(&[&["rm", "-f"], &containers[..]].concat());
        }
        let all = self
            .engine
            .docker(&["network", "ls", "-q", "--filter", "type=custom"]);
        let networks: Vec<&str> = all.lines().collect();
        if !networks.is_empty() {
            self.engine.docker(&[&["network", "rm"], &networks[..]].concat());
        }
    }
}
