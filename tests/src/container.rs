//! A container of a lab's engine.

use std::sync::Arc;

use serde_json::Value;

use crate::command::Output;
use crate::engine::Engine;
use crate::host::Host;
use crate::json;
use crate::spaces::Spaces;

/// A container of a lab's engine, by its name.
#[derive(Debug, Clone)]
pub struct Container {
    host: Arc<Host>,
    engine: Arc<Engine>,
    name: String,
}

impl Container {
    /// Runs a container that waits to be ended; `args` are those of `docker run`.
    #[track_caller]
    pub fn run(host: &Arc<Host>, engine: &Arc<Engine>, name: &str, args: &[&str]) -> Self {
        Self::try_run(host, engine, name, args).unwrap_or_else(|refused| panic!("{}", refused.must().stderr))
    }

    /// Tries to run a container that waits to be ended.
    ///
    /// # Errors
    /// How the command ended that was refused. Then the container may have been created.
    #[track_caller]
    pub fn try_run(
        host: &Arc<Host>,
        engine: &Arc<Engine>,
        name: &str,
        args: &[&str],
    ) -> Result<Self, Output> {
        // Its first process would ignore a request to end: so a stop kills it at once.
        let head = ["run", "-d", "--name", name, "--stop-signal", "KILL"];
        let ran = engine.try_docker(&[&head, args, &["busybox", "sleep", "3600"]].concat());
        if ran.ok {
            Ok(Self::known(host, engine, name))
        } else {
            Err(ran)
        }
    }

    /// A container that is there already.
    pub fn known(host: &Arc<Host>, engine: &Arc<Engine>, name: &str) -> Self {
        Self {
            host: Arc::clone(host),
            engine: Arc::clone(engine),
            name: name.to_owned(),
        }
    }

    /// The container's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the engine says of the container.
    #[track_caller]
    pub fn inspect(&self) -> Value {
        self.engine.inspect("container", &self.name)
    }

    /// What the engine says of the container's place on a network.
    #[track_caller]
    pub fn on(&self, network: &str) -> Value {
        let mut inspected = self.inspect();
        let place = inspected["NetworkSettings"]["Networks"][network].take();
        assert!(place.is_object(), "{} is not on network {network}", self.name);
        place
    }

    /// The container's IPv4 address on a network.
    #[track_caller]
    pub fn ip(&self, network: &str) -> String {
        json::text(&self.on(network), "/IPAddress").to_owned()
    }

    /// The container's IPv6 address on a network.
    #[track_caller]
    pub fn ip6(&self, network: &str) -> String {
        json::text(&self.on(network), "/GlobalIPv6Address").to_owned()
    }

    /// Runs a command in the container.
    #[track_caller]
    pub fn try_exec(&self, command: &[&str]) -> Output {
        self.engine
            .try_docker(&[&["exec", self.name.as_str()], command].concat())
    }

    /// Runs a command in the container, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn exec(&self, command: &[&str]) -> String {
        self.try_exec(command).must().stdout
    }

    /// Whether a name or an address answers a ping from the container.
    #[track_caller]
    pub fn pings(&self, target: &str) -> bool {
        self.try_exec(&["ping", "-c", "1", "-W", "3", target]).ok
    }

    /// Whether a name or an address answers a ping over IPv6 from the container.
    #[track_caller]
    pub fn pings6(&self, target: &str) -> bool {
        self.try_exec(&["ping", "-6", "-c", "1", "-W", "3", target]).ok
    }

    /// The container's network namespace.
    #[track_caller]
    pub fn spaces(&self) -> Spaces {
        let inspected = self.inspect();
        let pid = inspected
            .pointer("/State/Pid")
            .and_then(Value::as_u64)
            .filter(|&pid| pid > 0);
        let pid = pid.unwrap_or_else(|| panic!("{} does not run: {:#}", self.name, inspected["State"]));
        Spaces::of_network(&self.host.path(&format!("/proc/{pid}/ns/net")))
    }

    /// A command of `ip -j` in the container's network namespace. It is the test machine's `ip`.
    #[track_caller]
    pub fn ip_json(&self, args: &[&str]) -> Value {
        json::parse(&self.spaces().run("ip", &[&["-j"], args].concat()))
    }

    /// Ends and removes the container.
    #[track_caller]
    pub fn remove(&self) {
        self.engine.docker(&["rm", "-f", &self.name]);
    }
}
