//! A new process in the place of the running one: no call is refused or lost, nothing is forgotten, and whatever becomes of
//! the new one, somebody serves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use system_tests::host::Background;
use system_tests::{
    Answerer, Host, Scene, Tombolo, ask_tcp, engine, http, json, plugin, say, tombolo, until,
};

/// How often a new process takes over while everything is busy.
const TAKE_OVERS: u32 = 10;

/// What those who work during the take-overs have done.
#[derive(Default)]
struct Work {
    over: AtomicBool,
    calls: AtomicU32,
    runs: AtomicU32,
    longest: Mutex<Duration>,
}

impl Work {
    /// Takes and gives back an address, over and over; each answer must be a grant.
    fn hammer(&self, plugin: &system_tests::plugin::Client, pool: &str) {
        while !self.over.load(Ordering::Relaxed) {
            let start = Instant::now();
            let granted = plugin.accepted(
                "IpamDriver.RequestAddress",
                &json!({ "PoolID": pool, "Address": "" }),
            );
            let address = json::text(&granted, "/Address")
                .split('/')
                .next()
                .unwrap_or_default();
            let release = json!({ "PoolID": pool, "Address": address });
            plugin.accepted("IpamDriver.ReleaseAddress", &release);
            plugin.accepted("NetworkDriver.GetCapabilities", &Value::Null);
            self.calls.fetch_add(3, Ordering::Relaxed);
            let mut longest = self.longest.lock().expect("no panic while held");
            *longest = start.elapsed().max(*longest);
        }
    }

    /// Runs containers, one after the other; each must reach the network's gateway.
    fn run(&self, scene: &Scene) {
        while !self.over.load(Ordering::Relaxed) {
            scene.docker(&[
                "run",
                "--rm",
                "--network",
                "net",
                "-p",
                "80",
                "busybox",
                "ping",
                "-c",
                "1",
                "-W",
                "5",
                "10.70.0.1",
            ]);
            self.runs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has all of that end when this value goes, as it also does in a panic.
    fn until_dropped(&self) -> impl Drop + '_ {
        struct Over<'a>(&'a Work);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.over.store(true, Ordering::Relaxed);
            }
        }
        Over(self)
    }
}

fn pid(tombolo: &Tombolo) -> u64 {
    tombolo.cli(&["status"])["pid"].as_u64().expect("a process id")
}

#[test]
fn ten_take_overs_refuse_and_lose_no_call() {
    let scene = Scene::new();
    let before = scene.snapshot();
    scene.network("net", &["--subnet", "10.70.0.0/24"]);
    let plugin = scene.tombolo().plugin();
    let pool = plugin.accepted(
        "IpamDriver.RequestPool",
        &json!({ "AddressSpace": "LocalDefault", "Pool": "10.71.0.0/16", "V6": false }),
    );
    let pool = json::text(&pool, "/PoolID");
    let work = Work::default();
    std::thread::scope(|scope| {
        let _over = work.until_dropped();
        for _ in 0..3 {
            scope.spawn(|| work.hammer(&plugin, pool));
        }
        for _ in 0..2 {
            scope.spawn(|| work.run(&scene));
        }
        let mut last = pid(scene.tombolo());
        for _ in 0..TAKE_OVERS {
            // Each falls into work that has gone on since the last.
            let so_far = (
                work.calls.load(Ordering::Relaxed),
                work.runs.load(Ordering::Relaxed),
            );
            until("calls and containers go on", || {
                let now = (
                    work.calls.load(Ordering::Relaxed),
                    work.runs.load(Ordering::Relaxed),
                );
                (now.0 > so_far.0 + 10 && now.1 > so_far.1).then_some(())
            });
            scene.tombolo().take_over();
            let new = pid(scene.tombolo());
            assert_ne!(new, last);
            last = new;
        }
    });
    say(&format!(
        "{TAKE_OVERS} take-overs: {} calls, {} containers, the longest three calls took {:?}",
        work.calls.into_inner(),
        work.runs.into_inner(),
        work.longest.into_inner().expect("no panic while held"),
    ));
    plugin.accepted("IpamDriver.ReleasePool", &json!({ "PoolID": pool }));
    scene.must_clear_to(&before);
}

#[test]
fn a_take_over_forgets_nothing_and_disturbs_no_container() {
    let scene = Scene::new();
    let before = scene.snapshot();
    scene.network("net", &["--subnet", "10.70.0.0/24"]);
    let one = scene.container("one", &["--network", "net", "-p", "8080:80"]);
    let _web = Answerer::tcp(&one.spaces(), "0.0.0.0:80");
    // They are kept as well, and come a moment later.
    scene.names_are_known();
    let (state, running) = (scene.tombolo().export(), scene.snapshot());
    scene.tombolo().take_over();
    assert_eq!(scene.tombolo().export(), state);
    running.must_come_back(&scene.host, Some(scene.tombolo()));
    ask_tcp(scene.outside.spaces(), "192.0.2.2:8080").expect("a published port");
    let repairs = &scene.tombolo().cli(&["status"])["repairs"];
    assert_eq!(repairs, &json!({}), "there was nothing to repair");
    scene.must_clear_to(&before);
}

#[test]
fn a_daemon_goes_on_when_who_would_take_over_may_not() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let first = pid(&tombolo);
    tombolo
        .try_serve(&["--take-over", "--state-dir", "/var/lib/elsewhere"])
        .must_fail_with(&["state_dir", "/var/lib/tombolo", "/var/lib/elsewhere"]);
    tombolo
        .try_serve(&["--take-over", "--plugin-socket", "/run/docker/plugins/other.sock"])
        .must_fail_with(&["plugin_socket", "/run/docker/plugins/tombolo.sock", "other.sock"]);
    // What an older version would say, whose schema is not ours.
    let wish = json!({
        "version": "0.0.9", "schema": 0, "plugin_socket": "/run/docker/plugins/tombolo.sock",
        "state_dir": "/var/lib/tombolo",
    });
    let control = host.path(tombolo::CONTROL);
    let answer = http::request(&control, "POST", "/v1/take-over", wish.to_string().as_bytes());
    let answer = answer.expect("an answer of the control socket");
    assert_eq!(answer.status, 409);
    for text in ["schema", "0.0.9", "this daemon"] {
        assert!(
            answer.text().contains(text),
            "'{text}' is not in {}",
            answer.text()
        );
    }
    assert_eq!(pid(&tombolo), first);
    tombolo
        .plugin()
        .accepted("NetworkDriver.GetCapabilities", &Value::Null);
}

#[test]
fn where_no_daemon_runs_there_is_nothing_to_take_over_and_one_starts() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let first = pid(&tombolo);
    tombolo.kill();
    let started = host.start(tombolo.command(&["serve", "--take-over"]), tombolo::LOG);
    let second = until("the daemon answers", || {
        let status = tombolo.try_cli(&["status", "--output", "json"]);
        status.ok.then(|| json::parse(&status.stdout)["pid"].as_u64())
    });
    assert_ne!(second, Some(first));
    engine::end(&started, Signal::SIGTERM, Duration::from_secs(20));
}

/// The log of a process that is to take over.
const TAKER: &str = "/var/log/taker.log";

fn take_over_in_background(host: &Host, tombolo: &Tombolo) -> Background {
    host.start(tombolo.command(&["serve", "--take-over"]), TAKER)
}

fn ended(process: &Background) -> bool {
    let mut process = process.lock().expect("no panic while held");
    process
        .try_wait()
        .expect("waiting for a process of ours")
        .is_some()
}

#[test]
fn who_dies_while_it_takes_over_leaves_the_old_daemon_which_answers_what_waited() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let first = pid(&tombolo);
    // Somebody's half request makes the old one wait.
    let half = tombolo
        .plugin()
        .half_sent(b"POST /NetworkDriver.GetCapabilities HTTP/1.1\r\nHost: x\r\n");
    let taker = take_over_in_background(&host, &tombolo);
    until("the old daemon hands over", || {
        tombolo.log().contains("handing over").then_some(())
    });
    std::thread::scope(|scope| {
        let plugin = tombolo.plugin();
        scope.spawn(move || plugin.accepted("NetworkDriver.GetCapabilities", &Value::Null));
        engine::end(&taker, Signal::SIGKILL, Duration::from_secs(5));
    });
    drop(half);
    assert_eq!(pid(&tombolo), first, "{}", host.logs());
    assert!(tombolo.log().contains("nobody took over"), "{}", host.logs());
    // It can still be taken over from, and told to end.
    tombolo.take_over();
    assert_ne!(pid(&tombolo), first);
    tombolo.stop();
}

/// Asks to take over as the command line does; gives the connection once the daemon has said yes.
fn ask_to_take_over(host: &Host) -> UnixStream {
    let wish = json!({
        "version": "9.9.9", "schema": 9, "plugin_socket": "/run/docker/plugins/tombolo.sock",
        "state_dir": "/var/lib/tombolo", "metrics_addr": null,
    });
    let wish = wish.to_string();
    let mut stream = http::connect(&host.path(tombolo::CONTROL)).expect("the control socket");
    write!(
        stream,
        "POST /v1/take-over HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: tombolo-take-over\r\n\
         Content-Length: {}\r\n\r\n{wish}",
        wish.len()
    )
    .expect("asking to take over");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.extend(byte);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream
}

#[test]
fn who_dies_at_any_moment_of_a_take_over_leaves_the_old_daemon() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let first = pid(&tombolo);
    let must_go_on = |said: &str| {
        until(said, || tombolo.log().contains(said).then_some(()));
        assert_eq!(pid(&tombolo), first);
        tombolo
            .plugin()
            .accepted("NetworkDriver.GetCapabilities", &Value::Null);
    };
    // Before it has said that it is still there. Nobody else is agreed with meanwhile.
    let asked = ask_to_take_over(&host);
    tombolo
        .try_serve(&["--take-over"])
        .must_fail_with(&["handing over to another process already"]);
    drop(asked);
    must_go_on("who asked to take over has gone");
    // With the sockets in its hands.
    let mut asked = ask_to_take_over(&host);
    asked.write_all(b"\n").expect("saying that it is still there");
    asked.read_exact(&mut [0]).expect("the sockets");
    drop(asked);
    must_go_on("nobody took over");
    // A process of before asks in another way, and is told so.
    let answer = http::request(&host.path(tombolo::CONTROL), "POST", "/v1/hand-over", b"{}");
    let answer = answer.expect("an answer of the control socket");
    assert!(answer.status == 404 && answer.text().contains("no such path"));
    tombolo.take_over();
    assert_ne!(pid(&tombolo), first);
}

#[test]
fn two_who_take_over_at_once_leave_one_daemon() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let first = pid(&tombolo);
    let takers = [(); 2].map(|()| take_over_in_background(&host, &tombolo));
    let log = || host.log(TAKER);
    until("both have asked, and one of them serves alone", || {
        let gone = takers.iter().filter(|taker| ended(taker)).count();
        (!tombolo.runs() && gone == 1).then_some(())
    });
    let now = pid(&tombolo);
    assert_ne!(now, first, "{}", log());
    tombolo
        .plugin()
        .accepted("NetworkDriver.GetCapabilities", &Value::Null);
    for taker in takers.iter().filter(|taker| !ended(taker)) {
        engine::end(taker, Signal::SIGTERM, Duration::from_secs(20));
    }
}

#[test]
fn who_lost_patience_with_a_daemon_that_stood_still_is_not_handed_over_to() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let first = pid(&tombolo);
    tombolo.signal(Signal::SIGSTOP);
    let refused = tombolo.try_serve(&["--take-over"]);
    tombolo.signal(Signal::SIGCONT);
    refused.must_fail_with(&["did not answer"]);
    until("the daemon has read the stale request", || {
        let log = tombolo.log();
        log.contains("who asked to take over has gone").then_some(())
    });
    assert_eq!(pid(&tombolo), first);
    tombolo
        .plugin()
        .accepted("NetworkDriver.GetCapabilities", &Value::Null);
}

#[test]
fn the_address_for_metrics_is_kept_or_refused_before_anything_is_asked() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start_with(&host, &[("TOMBOLO_METRICS_ADDR", "127.0.0.1:9477")]);
    let first = pid(&tombolo);
    let _other = Answerer::tcp(host.spaces(), "127.0.0.1:9478");
    tombolo
        .try_serve(&["--take-over", "--metrics-addr", "127.0.0.1:9478"])
        .must_fail_with(&["metrics_addr: 127.0.0.1:9478", "another process"]);
    tombolo
        .try_serve(&["--take-over", "--metrics-addr", "192.0.2.77:9477"])
        .must_fail_with(&["metrics_addr", "192.0.2.77:9477", "Cannot assign"]);
    assert_eq!(pid(&tombolo), first);
    for _ in 0..2 {
        tombolo.take_over();
        until("metrics are scraped", || {
            let mut stream = host
                .spaces()
                .enter(|| TcpStream::connect("127.0.0.1:9477"))
                .ok()?;
            let head = http::head("GET", "/metrics", 0);
            stream.write_all(head.as_bytes()).ok()?;
            let scraped = http::read_answer(&mut stream).ok()?;
            scraped.text().contains("tombolo_build_info").then_some(())
        });
    }
    assert_ne!(pid(&tombolo), first);
}

#[test]
fn sockets_whose_names_were_taken_away_are_made_anew_by_a_repair_and_by_a_take_over() {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let call = || {
        tombolo
            .plugin()
            .accepted("NetworkDriver.GetCapabilities", &Value::Null)
    };
    let bind = format!("bind {}", plugin::SOCKET);
    until("the repair comes before the daemon's own look", || {
        host.sh(&format!("rm -f {}", plugin::SOCKET));
        let repaired = tombolo.try_cli(&["doctor", "--repair", "--output", "json"]);
        let repaired = json::parse(&repaired.stdout);
        let steps = json::rows(&repaired["repaired"]);
        steps
            .iter()
            .any(|step| step["step"] == bind.as_str())
            .then_some(())
    });
    call();
    host.sh(&format!("rm {}", plugin::SOCKET));
    tombolo.take_over();
    call();
    host.sh(&format!("rm {}", tombolo::CONTROL));
    // A second one that nobody told of the first takes nothing from it.
    tombolo
        .try_serve(&["--plugin-socket", "/run/docker/plugins/second.sock"])
        .must_fail_with(&["control.sock"]);
    call();
    until("the daemon finds that its control socket is gone", || {
        tombolo.try_cli(&["status"]).ok.then_some(())
    });
    tombolo.stop();
    let left = host.try_run("ls", &[plugin::SOCKET, tombolo::CONTROL]);
    assert!(!left.ok, "a name goes with its socket: {}", left.stdout);
}
