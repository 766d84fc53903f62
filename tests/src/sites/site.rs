//! One of several hosts: its engine, its tombolo, and what a test does there.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Kind, Rows};
use crate::command::Output;
use crate::container::Container;
use crate::engine::Engine;
use crate::host::Host;
use crate::json;
use crate::spaces::Spaces;
use crate::tombolo::Tombolo;

/// A host with an engine and tombolo.
#[derive(Debug)]
pub struct Site {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Its tombolo.
    pub tombolo: Tombolo,
    /// The host. Gone after all that runs on it.
    pub host: Arc<Host>,
}

impl Site {
    /// Starts tombolo and an engine on a host.
    pub(super) fn start(host: &Arc<Host>, flags: &[String], settings: &[(String, String)]) -> Self {
        let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let tombolo = Tombolo::start_with(host, &settings);
        let engine = Arc::new(Engine::start(host, &flags));
        // As on users' hosts, where it hits every network's traffic: see `Scene`.
        let policy = host.run("iptables", &["-S", "FORWARD"]);
        assert!(
            policy.starts_with("-P FORWARD DROP"),
            "the engine was expected to drop what is forwarded: {policy}"
        );
        Self {
            engine,
            tombolo,
            host: Arc::clone(host),
        }
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        self.host.hostname()
    }

    /// Tries to make a network; `args` are more of `docker network create`.
    #[track_caller]
    pub fn try_network(&self, name: &str, kind: Kind, args: &[&str]) -> Output {
        let line = [
            "network",
            "create",
            "-d",
            "tombolo",
            "--ipam-driver",
            "tombolo",
            "-o",
        ];
        let option = kind.option(name);
        self.engine
            .try_docker(&[&line[..], &[&option], args, &[name]].concat())
    }

    /// Makes a network.
    #[track_caller]
    pub fn network(&self, name: &str, kind: Kind, args: &[&str]) {
        self.try_network(name, kind, args).must();
    }

    /// Runs a container that waits to be ended; `args` are more of `docker run`.
    #[track_caller]
    pub fn container(&self, name: &str, network: &str, args: &[&str]) -> Container {
        let args = [&["--network", network], args].concat();
        Container::run(&self.host, &self.engine, name, &args)
    }

    /// Tries to run a container; gives what the engine said if it refuses, with the container removed.
    #[track_caller]
    pub fn try_container(&self, name: &str, network: &str, args: &[&str]) -> Result<Container, String> {
        let args = [&["--network", network], args].concat();
        Container::try_run(&self.host, &self.engine, name, &args).map_err(|refused| {
            self.engine.try_docker(&["rm", "-f", name]);
            refused.stderr
        })
    }

    /// A container that is there already.
    pub fn known(&self, name: &str) -> Container {
        Container::known(&self.host, &self.engine, name)
    }

    /// The host's network namespace alone, for programs of the test machine that the engine's files lack.
    pub fn network_spaces(&self) -> Spaces {
        self.host.network_spaces()
    }

    /// Whether an address answers a ping from the host.
    #[track_caller]
    pub fn pings(&self, target: &str) -> bool {
        let family = if target.contains(':') { "-6" } else { "-4" };
        let args = ["ping", family, "-c", "1", "-W", "3", target];
        self.network_spaces().try_run("busybox", &args).ok
    }

    /// What it says of the cluster.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.tombolo.cli(&["cluster", "status"])
    }

    /// The hosts of its cluster by their names, and whether each is there.
    #[track_caller]
    pub fn sees(&self) -> BTreeMap<String, bool> {
        let status = self.status();
        let hosts = json::rows(&status["hosts"]).iter().map(|host| {
            let there = host["state"] == "here" || host["state"] == "up";
            (json::text(host, "/name").to_owned(), there)
        });
        hosts.collect()
    }

    /// The endpoints of all hosts, as it says.
    #[track_caller]
    pub fn peers(&self) -> Vec<Value> {
        json::rows(&self.tombolo.cli(&["peers"])).to_vec()
    }

    /// Deletes all of tombolo's rows of a sort from the kernel, as somebody may do by hand; gives how many there were.
    #[track_caller]
    pub fn delete(&self, rows: Rows) -> usize {
        rows.delete(&self.host)
    }

    /// What a power cut takes from the kernel beside what [`Host::cut_power`] does: what hangs on no link.
    pub(super) fn forget_kernel(&self) {
        self.host.sh("for family in -4 -6; do
                 for type in blackhole unreachable prohibit; do
                     ip $family route flush table all type $type 2>/dev/null || true
                 done
                 ip $family rule flush 2>/dev/null || true
                 ip $family rule add pref 32766 table main
             done
             ip rule add pref 32767 table default
             ip xfrm state flush 2>/dev/null || true
             ip xfrm policy flush 2>/dev/null || true");
    }

    /// What it says of itself, for somebody who wonders why a test failed.
    pub(super) fn words(&self) -> String {
        let lines: [&[&str]; 3] = [&["cluster", "status"], &["networks"], &["peers"]];
        let said = lines.map(|line| {
            let output = self.tombolo.try_cli(line);
            format!("--- {}\n{}\n{}\n", output.line, output.stdout, output.stderr)
        });
        said.concat()
    }
}
