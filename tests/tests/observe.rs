//! What a person or a program sees of a running tombolo: published ports, and what happens as it happens.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use system_tests::host::Background;
use system_tests::wait::within;
use system_tests::{Scene, json as look, until};

/// Where a follower of events writes on its host.
const FOLLOWED: &str = "/tmp/events";

/// `tombolo events --output json` in the background.
struct Follower<'a> {
    scene: &'a Scene,
    process: Background,
}

impl<'a> Follower<'a> {
    fn start(scene: &'a Scene) -> Self {
        let args = ["events", "--output", "json"];
        let process = scene.tombolo().cli_to(&args, FOLLOWED);
        let follower = Self { scene, process };
        follower.until("daemon", "following", &[]);
        follower
    }

    /// All events so far. A line that is still being written is left for the next look.
    fn events(&self) -> Vec<Value> {
        let text = self.scene.host.log(FOLLOWED);
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        // What the command says at its end, if it is a failure, is beside the lines of events.
        whole
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(look::parse)
            .collect()
    }

    /// Waits for an event with these fields.
    #[track_caller]
    fn until(&self, sort: &str, action: &str, fields: &[(&str, Value)]) -> Value {
        let is = |event: &Value| {
            event["type"] == sort
                && event["action"] == action
                && fields.iter().all(|(key, value)| event[*key] == *value)
        };
        let found = within(Duration::from_secs(30), || self.events().into_iter().find(is));
        found.unwrap_or_else(|| panic!("no {sort} {action} {fields:?} in {:#?}", self.events()))
    }

    /// Sends a signal and waits for the end; gives the exit code.
    fn end(&self, signal: Signal) -> Option<i32> {
        let pid = self.process.lock().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
        self.ended()
    }

    fn ended(&self) -> Option<i32> {
        until("the follower has ended", || {
            self.process.lock().unwrap().try_wait().unwrap()
        })
        .code()
    }
}

#[test]
fn ports_are_listed_with_the_names_of_both_ends_and_follow_a_rename() {
    let scene = Scene::new();
    scene.network("net", &["--subnet", "10.81.0.0/24"]);
    scene.network("other", &["--subnet", "10.82.0.0/24"]);
    let one = scene.container(
        "one",
        &["--network", "net", "-p", "8081:80", "-p", "192.0.2.2:8080:53/udp"],
    );
    scene.container("two", &["--network", "other", "-p", "127.0.0.1:8079:80"]);
    // A name that is not known yet is refused.
    let list = |args: &[&str]| {
        let args = [&["ports", "--output", "json"], args].concat();
        let listed = scene.tombolo().try_cli(&args);
        if listed.ok {
            look::parse(&listed.stdout)
        } else {
            json!([])
        }
    };
    let brief = |ports: &Value| -> Vec<String> {
        let line = |p: &Value| {
            format!(
                "{}:{}/{} {}:{} {} {}",
                look::text(p, "/host_ip"),
                p["host_port"],
                look::text(p, "/proto"),
                look::text(p, "/container_ip"),
                p["port"],
                p["container_name"],
                p["network_name"]
            )
        };
        let v4 = |p: &&Value| !look::text(p, "/host_ip").contains(':');
        look::rows(ports).iter().filter(v4).map(line).collect()
    };
    let ip = one.ip("net");
    let ours = [
        format!("192.0.2.2:8080/udp {ip}:53 \"one\" \"net\""),
        format!("0.0.0.0:8081/tcp {ip}:80 \"one\" \"net\""),
    ];
    let named = |want: &[String], args: &[&str]| {
        let found = within(Duration::from_secs(5), || {
            (brief(&list(args)) == want).then_some(())
        });
        assert!(
            found.is_some(),
            "{args:?}: {:#?}\nbut wanted {want:#?}",
            brief(&list(args))
        );
    };
    named(&ours, &["--network", "net"]);
    named(&ours, &["--container", "one"]);
    let nobody = scene.tombolo().try_cli(&["ports", "--container", "nobody"]);
    nobody.must_fail_with(&["'nobody'", "there are: one, two"]);
    let all = brief(&list(&[]));
    assert!(
        all.len() == 3 && all[0].starts_with("127.0.0.1:8079/tcp "),
        "sorted by port: {all:#?}"
    );
    let table = scene.tombolo().try_cli(&["ports"]).must().stdout;
    let row = table
        .lines()
        .find(|line| line.starts_with("0.0.0.0:8081 "))
        .unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words[1..], ["tcp", "one", &format!("{ip}:80"), "net"]);

    let leases = scene.tombolo().cli(&["pools"]);
    let lease = look::rows(&leases)
        .iter()
        .flat_map(|pool| look::rows(&pool["leases"]));
    let lease = lease
        .into_iter()
        .find(|lease| lease["address"] == json!(ip))
        .unwrap();
    assert_eq!(lease["container_name"], "one");

    scene.docker(&["rename", "one", "uno"]);
    let renamed = ours.map(|line| line.replace("\"one\"", "\"uno\""));
    named(&renamed, &["--container", "uno"]);
}

#[test]
fn events_tell_what_happens_as_it_happens() {
    let scene = Scene::new();
    let follower = Follower::start(&scene);
    scene.network("net", &["--subnet", "10.83.0.0/24"]);
    let id = json!(look::text(&scene.inspect("network", "net"), "/Id"));
    follower.until("network", "created", &[("network_id", id.clone())]);
    follower.until(
        "network",
        "named",
        &[("network_id", id.clone()), ("network_name", json!("net"))],
    );

    let one = scene.container("one", &["--network", "net", "-p", "8080:80"]);
    let (endpoint, ip) = (one.on("net")["EndpointID"].clone(), json!(one.ip("net")));
    let joined = [
        ("network_name", json!("net")),
        ("endpoint_id", endpoint.clone()),
        ("ipv4", ip.clone()),
    ];
    follower.until("endpoint", "created", &joined);
    follower.until("endpoint", "joined", &joined);
    let named = [
        ("endpoint_id", endpoint.clone()),
        ("container_name", json!("one")),
    ];
    follower.until("endpoint", "named", &named);
    let port = [
        ("endpoint_id", endpoint.clone()),
        ("host_ip", json!("0.0.0.0")),
        ("host_port", json!(8080)),
        ("proto", json!("tcp")),
        ("container_ip", ip),
        ("port", json!(80)),
    ];
    follower.until("port", "published", &port);

    scene.host.run("nft", &["delete", "table", "inet", "tombolo"]);
    let because = ("because", json!("firewall rules were changed"));
    follower.until("fact", "repaired", &[("fact", json!("table")), because.clone()]);
    let repaired = follower.until(
        "fact",
        "repaired",
        &[
            ("fact", json!("publish")),
            because,
            ("container_name", json!("one")),
        ],
    );
    let step = look::text(&repaired, "/step");
    assert!(
        step.starts_with("nft add element inet tombolo publish4_any { tcp . 8080 :"),
        "{step}"
    );

    one.remove();
    let last = [("endpoint_id", endpoint), ("container_name", json!("one"))];
    let rank = |action: &str, sort: &str| {
        let event = follower.until(sort, action, &last);
        follower.events().iter().position(|e| *e == event).unwrap()
    };
    let order = [
        rank("unpublished", "port"),
        rank("left", "endpoint"),
        rank("removed", "endpoint"),
    ];
    assert!(order.is_sorted(), "{order:?} in {:#?}", follower.events());
    scene.docker(&["network", "rm", "net"]);
    follower.until(
        "network",
        "removed",
        &[("network_id", id), ("network_name", json!("net"))],
    );

    scene.engine.stop();
    let gone = follower.until("docker", "unreachable", &[]);
    assert!(gone["error"].is_string(), "{gone:#}");
    scene.engine.start_again();
    let back = follower.until("docker", "reachable", &[]);
    assert_eq!(back["version"], json!(scene.version()));
    assert_eq!(follower.end(Signal::SIGINT), Some(0));
}

#[test]
fn a_problem_is_told_as_it_appears_and_as_it_is_solved() {
    let scene = Scene::new();
    scene.network("net", &["-o", "bridge_name=wanted"]);
    until("the network's name is known", || {
        let networks = scene.tombolo().cli(&["networks"]);
        look::rows(&networks)
            .iter()
            .any(|n| n["name"] == "net")
            .then_some(())
    });
    let id = json!(look::text(&scene.inspect("network", "net"), "/Id"));
    let follower = Follower::start(&scene);
    // What cannot be: somebody else's link has the name of our bridge.
    until("the name is somebody else's", || {
        let take = "ip link delete wanted; ip link add wanted type veth peer name other";
        scene.host.try_run("sh", &["-c", take]).ok.then_some(())
    });
    let problem = follower.until("problem", "appeared", &[("network_id", id)]);
    until("status names whose it is", || {
        let shown = scene.tombolo().cli(&["status"])["problems"].take();
        let whose = |p: &&Value| p["about"] == problem["about"] && p["network_name"] == "net";
        look::rows(&shown).iter().find(whose).map(drop)
    });
    let table = scene.tombolo().try_cli(&["status"]).must().stdout;
    assert!(table.contains(" (network net): "), "{table}");
    scene.host.run("ip", &["link", "delete", "wanted"]);
    follower.until("problem", "solved", &[("about", problem["about"].clone())]);
    follower.until(
        "fact",
        "repaired",
        &[("fact", json!("link")), ("network_name", json!("net"))],
    );
}

#[test]
fn following_ends_with_the_daemon_and_with_its_reader() {
    let scene = Scene::new();
    let first = "tombolo events | head -n 1";
    let line = scene.host.run("bash", &["-o", "pipefail", "-c", first]);
    assert!(line.contains("  daemon following     tombolo "), "{line}");

    let follower = Follower::start(&scene);
    scene.tombolo().stop();
    assert_eq!(follower.ended(), Some(3));
    follower.until("daemon", "ending", &[]);
    let said = scene.host.log(FOLLOWED);
    assert!(said.contains("tombolo: the daemon has ended"), "{said}");
    let refused = scene.tombolo().try_cli(&["events"]);
    assert_eq!(refused.code, Some(3));

    scene.tombolo().start_again();
    scene.host.sh(&format!("rm {FOLLOWED}"));
    let follower = Follower::start(&scene);
    scene.tombolo().kill();
    assert_eq!(follower.ended(), Some(3));
    assert!(!follower.events().iter().any(|e| e["action"] == "ending"));
}
