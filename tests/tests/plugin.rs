//! The managed plug-in: made by `make plugin`, given to an engine, and put to work by it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use system_tests::{
    Answerer, Container, Engine, Host, Outside, Snapshot, Tombolo, ask_tcp, json, say, tombolo, until,
};

/// The plug-in's name, which no setting of tombolo knows of; its networks have it for their driver, with the tag.
const NAME: &str = "acme/net:2";

const DRIVERS: [&str; 4] = ["-d", NAME, "--ipam-driver", NAME];

/// The folder of the plug-in, made once.
fn made() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-config/plugin.sh");
        let binary = tombolo::binary().canonicalize().expect("the release binary");
        let made = Command::new(script).arg(binary).arg(&folder).output();
        let made = made.expect("starting plugin.sh");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        folder
    })
}

struct Stage {
    outside: Outside,
    engine: Arc<Engine>,
    host: Arc<Host>,
}

impl Stage {
    /// A host with an engine that has the plug-in, enabled, and no tombolo beside it.
    fn new() -> Self {
        Self::with_flags(&[])
    }

    /// The same, with more flags for the engine.
    fn with_flags(flags: &[&str]) -> Self {
        let host = Arc::new(Host::with_engine_files());
        let outside = Outside::of(&host);
        let engine = Arc::new(Engine::start(&host, flags));
        let stage = Self {
            outside,
            engine,
            host,
        };
        stage.install();
        stage
    }

    fn install(&self) {
        let folder = self.host.path("/tmp/plugin");
        let copied = Command::new("cp").arg("-a").arg(made()).arg(&folder).status();
        assert!(copied.expect("starting cp").success());
        self.engine.docker(&["plugin", "create", NAME, "/tmp/plugin"]);
        self.engine.docker(&["plugin", "enable", NAME]);
    }

    /// Makes network `net`, with more arguments.
    fn network(&self, args: &[&str]) {
        self.engine
            .docker(&[&["network", "create"], &DRIVERS[..], args, &["net"]].concat());
    }

    fn container(&self, name: &str, args: &[&str]) -> Container {
        Container::run(&self.host, &self.engine, name, args)
    }

    /// What the command line shows, which reaches the plug-in where it reaches any other tombolo.
    #[track_caller]
    fn shown(&self, command: &str) -> serde_json::Value {
        json::parse(&self.host.run("tombolo", &[command, "--output", "json"]))
    }

    /// All that the plug-in remembers, once it has learned which engine it serves.
    #[track_caller]
    fn exported(&self) -> serde_json::Value {
        until("the plug-in knows its engine", || {
            let state = json::parse(&self.host.run("tombolo", &["state", "export"]));
            state["meta"]["engine"].is_string().then_some(state)
        })
    }

    fn plugin(&self) -> serde_json::Value {
        json::parse(&self.engine.docker(&["plugin", "inspect", NAME]))[0].take()
    }

    /// The plug-in's process, as its host counts, if it runs.
    fn try_pid(&self) -> Option<i32> {
        let processes = std::fs::read_dir(self.host.path("/proc")).expect("the host's /proc");
        let named = processes.flatten().filter(|process| {
            std::fs::read_to_string(process.path().join("comm")).is_ok_and(|name| name == "tombolo\n")
        });
        let pids: Vec<i32> = named
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .collect();
        assert!(pids.len() <= 1, "processes of one plug-in: {pids:?}");
        pids.first().copied()
    }

    #[track_caller]
    fn pid(&self) -> i32 {
        self.try_pid().expect("the plug-in's process")
    }

    /// Each container reaches the other by name, the outside reaches `one`, and both reach the outside.
    #[track_caller]
    fn must_work(&self, one: &Container, two: &Container) {
        assert!(one.pings("two") && two.pings("one"));
        assert!(one.pings("192.0.2.1"), "out of the network, masqueraded");
        let _web = Answerer::tcp(&one.spaces(), "0.0.0.0:80");
        ask_tcp(self.outside.spaces(), "192.0.2.2:8080").expect("a published port");
        ask_tcp(self.host.spaces(), "127.0.0.1:8080").expect("a published port on the host itself");
    }
}

impl Drop for Stage {
    /// The plug-in's control group is named by the engine alone, so the engine must be the one to take it away.
    fn drop(&mut self) {
        self.engine.try_docker(&["plugin", "disable", "-f", NAME]);
        if std::thread::panicking() {
            say(&self.host.logs());
        }
    }
}

fn runs(container: &Container) -> bool {
    container.inspect()["State"]["Running"] == true && !container.ip("net").is_empty()
}

#[test]
fn a_managed_plug_in_serves_networks_and_comes_back_with_its_engine() {
    let stage = Stage::new();
    let before = Snapshot::of(&stage.host, None);
    stage.network(&["--subnet", "10.70.0.0/24"]);
    let always = ["--network", "net", "--restart", "always"];
    let one = stage.container("one", &[&always[..], &["-p", "8080:80"]].concat());
    let two = stage.container("two", &always);
    stage.must_work(&one, &two);
    let networks = stage.shown("networks");
    assert_eq!(json::rows(&networks).len(), 1, "{networks:#}");
    until(
        "the plug-in has learned the network's name from the engine",
        || (stage.shown("networks")[0]["name"] == "net").then_some(()),
    );

    for end in [Engine::stop, Engine::kill] {
        end(&stage.engine);
        if stage.try_pid().is_some() {
            // An engine that was killed leaves its plug-ins running, and ends them when it starts again.
            say("the plug-in outlives its engine");
        }
        stage.engine.start_again();
        until("both containers run again", || {
            (runs(&one) && runs(&two)).then_some(())
        });
        stage.must_work(&one, &two);
        assert_eq!(
            json::text(&stage.shown("networks"), "/0/network_id"),
            json::text(&networks, "/0/network_id")
        );
    }

    stage.engine.docker(&["rm", "-f", "one", "two"]);
    stage.engine.docker(&["network", "rm", "net"]);
    before.must_come_back(&stage.host, None);
}

#[test]
fn a_managed_plug_in_lives_on_with_its_containers_where_the_engine_restores_them_live() {
    let stage = Stage::with_flags(&["--live-restore"]);
    stage.network(&["--subnet", "10.70.0.0/24"]);
    let one = stage.container("one", &["--network", "net", "-p", "8080:80"]);
    let two = stage.container("two", &["--network", "net"]);
    let (pid, state) = (stage.pid(), stage.exported());
    let (inside, address) = (one.spaces(), two.ip("net"));
    for end in [Engine::stop, Engine::kill] {
        end(&stage.engine);
        inside.run("busybox", &["ping", "-c", "1", "-W", "5", &address]);
        stage.engine.start_again();
        stage.must_work(&one, &two);
        assert_eq!(stage.pid(), pid, "the same process");
        assert_eq!(stage.exported(), state);
    }
    let three = stage.container("three", &["--network", "net"]);
    assert!(three.pings("one"));
}

#[test]
fn the_state_of_a_managed_plug_in_outlives_its_process_and_a_change_of_settings() {
    let stage = Stage::new();
    stage.network(&["--subnet", "10.70.0.0/24"]);
    let one = stage.container("one", &["--network", "net", "-p", "8080:80"]);
    let two = stage.container("two", &["--network", "net"]);
    let state = stage.exported();
    let first = stage.pid();

    // A crash: the engine starts it again by itself.
    stage.host.sh(&format!("kill -KILL {first}"));
    until("the plug-in runs again", || {
        let again = stage.try_pid().is_some_and(|pid| pid != first);
        (again && stage.host.try_run("tombolo", &["status"]).ok).then_some(())
    });
    assert_eq!(stage.exported(), state);
    stage.must_work(&one, &two);

    // Off and on with another setting, and traffic goes on meanwhile.
    stage.engine.docker(&["plugin", "disable", "-f", NAME]);
    assert!(one.pings(&two.ip("net")));
    stage.engine.docker(&["plugin", "set", NAME, "TOMBOLO_LOG=debug"]);
    stage.engine.docker(&["plugin", "enable", NAME]);
    assert_eq!(stage.exported(), state);
    let status = stage.shown("status");
    let log = json::rows(&status["settings"])
        .iter()
        .find(|s| s["name"] == "log");
    assert_eq!(log.map(|s| s["value"].clone()), Some("debug".into()));
    let three = stage.container("three", &["--network", "net"]);
    assert!(three.pings("one"));
}

#[test]
fn a_managed_plug_in_has_no_more_rights_than_it_needs() {
    let stage = Stage::new();
    let pid = stage.pid();
    let status = stage.host.run("cat", &[&format!("/proc/{pid}/status")]);
    let line = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    // NET_BIND_SERVICE (10), NET_ADMIN (12) and NET_RAW (13).
    let wanted = format!("{:016x}", (1 << 10) | (1 << 12) | (1 << 13));
    for set in ["CapBnd:", "CapPrm:", "CapEff:"] {
        assert_eq!(line(set), Some(wanted.as_str()), "{set}");
    }
    assert_eq!(line("NoNewPrivs:"), Some("1"));
    assert_eq!(
        stage.plugin()["Settings"]["Mounts"].as_array().map(Vec::len),
        Some(1)
    );

    // What it can't read of its settings it says where the engine's log is, and does not start with.
    stage.engine.docker(&["plugin", "disable", NAME]);
    stage.engine.docker(&["plugin", "set", NAME, "IPTABLES=new"]);
    assert!(!stage.engine.try_docker(&["plugin", "enable", NAME]).ok);
    let log = stage.host.log(system_tests::engine::LOG);
    assert!(
        log.contains("IPTABLES: it is 'new', and may be nft or legacy"),
        "{log}"
    );
}

#[test]
fn a_managed_plug_in_does_not_start_beside_another_tombolo() {
    let stage = Stage::new();
    stage.engine.docker(&["plugin", "disable", NAME]);
    let beside = Tombolo::start_with(&stage.host, &[("TOMBOLO_STATE_DIR", "/var/lib/beside")]);
    let network = stage
        .host
        .sh("docker network create -d tombolo --ipam-driver tombolo theirs");
    assert!(!stage.engine.try_docker(&["plugin", "enable", NAME]).ok);
    let log = stage.host.log(system_tests::engine::LOG);
    assert!(log.contains("another process serves it"), "{log}");
    assert_eq!(json::text(&beside.cli(&["networks"]), "/0/network_id"), network);
    // Nor the other way round, also where systemd has given that one the sockets: then the lock tells.
    stage.host.sh("docker network rm theirs");
    beside.stop();
    // The engine may still be at trying by itself again what has failed, and refuses then.
    until("the plug-in is enabled and answers", || {
        stage.engine.try_docker(&["plugin", "enable", NAME]);
        stage.host.try_run("tombolo", &["status"]).ok.then_some(())
    });
    stage.host.sh("rm /run/tombolo/control.sock");
    beside.try_serve(&[]).must_fail_with(&[
        "/run/tombolo/control.sock.lock is locked",
        "another tombolo",
        "docker plugin ls",
    ]);
}
