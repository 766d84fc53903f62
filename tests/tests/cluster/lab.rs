//! Hosts on one wire, each with a daemon, and what is seen of their cluster.

use std::fs;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
pub use system_tests::at_once;
use system_tests::wait::within;
use system_tests::{Host, Output, Tombolo, Wire, http, json, say, tombolo};

/// The port of the cluster.
pub const PORT: u16 = 7947;

/// Room for clusters that run at once: each test is about how long things take. One that keeps the machine busy takes all of it.
static ROOM: Mutex<u32> = Mutex::new(ALL);
static LEFT: Condvar = Condvar::new();
const ALL: u32 = 2;

/// Up to so many hosts leave room for another cluster: they mostly wait.
const FEW: usize = 5;

/// What a cluster takes of the room, until it is dropped.
struct Turn(u32);

impl Turn {
    fn take(much: u32) -> Self {
        let room = ROOM.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LEFT.wait_while(room, |room| *room < much);
        *room.unwrap_or_else(PoisonError::into_inner) -= much;
        Self(much)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *ROOM.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        LEFT.notify_all();
    }
}

/// A host on the wire, and its daemon.
pub struct Member {
    /// Its address on the wire.
    pub address: String,
    /// Its daemon. Gone before the host.
    pub tombolo: Tombolo,
    /// The host.
    pub host: Arc<Host>,
}

/// The wire and the hosts on it.
pub struct Lab {
    /// The hosts; that of the lowest address first.
    pub members: Vec<Member>,
    /// The namespace with the bridge.
    pub wire: Wire,
    _turn: Turn,
}

impl Lab {
    /// So many hosts, each in no cluster yet.
    pub fn new(count: usize) -> Self {
        Self::with(count, |_, _| Vec::new())
    }

    /// The same with settings of each host, which may be made ready before its daemon starts.
    pub fn with(count: usize, settings: impl Fn(usize, &Host) -> Vec<(&'static str, String)> + Sync) -> Self {
        let turn = Turn::take(if count > FEW { ALL } else { 1 });
        Self::in_turn(turn, count, settings)
    }

    /// So many hosts in one cluster, and no other cluster beside it.
    pub fn joined_alone(count: usize) -> Self {
        let lab = Self::in_turn(Turn::take(ALL), count, |_, _| Vec::new());
        lab.join();
        lab
    }

    fn in_turn(
        turn: Turn,
        count: usize,
        settings: impl Fn(usize, &Host) -> Vec<(&'static str, String)> + Sync,
    ) -> Self {
        let wire = Wire::new(0, None, false);
        let numbers: Vec<usize> = (0..count).collect();
        let members = at_once(&numbers, |n| {
            let host = host_on(&wire, *n);
            let settings = settings(*n, &host);
            member(&wire, host, *n, &settings)
        });
        Self {
            members,
            wire,
            _turn: turn,
        }
    }

    /// So many hosts in one cluster: the first has begun it, and the others have joined all at once by its line.
    pub fn joined(count: usize) -> Self {
        let lab = Self::new(count);
        lab.join();
        lab
    }

    /// Has the first host begin a cluster, and the others join all at once by its line; waits until they agree.
    #[track_caller]
    pub fn join(&self) {
        let line = self.members[0].init();
        at_once(&self.members[1..], |member| member.paste(&line));
        self.agree(Duration::from_secs(20));
    }

    /// Waits until all hosts say the same of the cluster, and that all are up. Gives how long that took.
    #[track_caller]
    pub fn agree(&self, limit: Duration) -> Duration {
        agree(&self.members.iter().collect::<Vec<_>>(), limit)
    }

    /// Has the wire carry nothing between the hosts before `first` and the others.
    pub fn cut(&self, first: usize) {
        let all: Vec<usize> = (0..self.members.len()).collect();
        let (ones, others) = all.split_at(first);
        self.wire.part(ones, others);
    }

    /// Has the wire lose so many of a hundred packets of the cluster.
    pub fn lose(&self, percent: u32) {
        for end in ["dport", "sport"] {
            self.wire.rule(&format!(
                "meta l4proto {{ tcp, udp }} th {end} {PORT} numgen random mod 100 < {percent} drop"
            ));
        }
    }

    /// Has the wire carry everything again.
    pub fn heal(&self) {
        self.wire.heal();
    }

    /// One more host on the wire, in no cluster, with a copy of a state directory if one is given.
    pub fn one_more(&self, number: usize, state_of: Option<&Host>) -> Member {
        let host = host_on(&self.wire, number);
        if let Some(of) = state_of {
            let (from, to) = (of.path("/var/lib/tombolo"), host.path("/var/lib"));
            let copied = std::process::Command::new("cp")
                .arg("-a")
                .arg(&from)
                .arg(&to)
                .status();
            assert!(
                copied.expect("starting cp").success(),
                "copying {}",
                from.display()
            );
        }
        member(&self.wire, host, number, &[])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in &self.members {
                say(&format!(
                    "=== {} {}\n{}\n{}",
                    member.name(),
                    member.address,
                    member.try_cli(&["cluster", "status"]).stdout,
                    member.try_cli(&["pools", "--shares"]).stdout,
                ));
            }
        }
    }
}

fn host_on(wire: &Wire, number: usize) -> Arc<Host> {
    let host = Host::new();
    wire.plug(&host, number);
    Arc::new(host)
}

fn member(wire: &Wire, host: Arc<Host>, number: usize, settings: &[(&'static str, String)]) -> Member {
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    Member {
        address: wire.ipv4(number),
        tombolo: Tombolo::start_with(&host, &settings),
        host,
    }
}

impl Member {
    /// Its name.
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// Runs the command line.
    #[track_caller]
    pub fn try_cli(&self, args: &[&str]) -> Output {
        self.tombolo.try_cli(args)
    }

    /// Begins a cluster; gives the line to paste.
    #[track_caller]
    pub fn init(&self) -> String {
        self.try_cli(&["cluster", "init"]).must().stdout
    }

    /// Runs the line that another host printed.
    #[track_caller]
    pub fn paste(&self, line: &str) {
        self.host.sh(line);
    }

    /// What it says of the cluster, as the command line asks it.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.ask("/v1/cluster").expect("an answer of the control socket")
    }

    /// The endpoints of all hosts, as it says.
    #[track_caller]
    pub fn peers(&self) -> Vec<Value> {
        let peers = self.ask("/v1/peers").expect("an answer of the control socket");
        json::rows(&peers).to_vec()
    }

    /// Asks the control socket itself: it is quicker than a process.
    fn ask(&self, path: &str) -> Option<Value> {
        let answer = http::request(&self.host.path(tombolo::CONTROL), "GET", path, b"").ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// Its identifier in the cluster.
    #[track_caller]
    pub fn id(&self) -> String {
        json::text(&self.status(), "/host").to_owned()
    }

    /// What it says of another host of the cluster: `here`, `up`, `down` or `unknown`; none if it knows no such host.
    pub fn sees(&self, other: &Member) -> Option<String> {
        let status = self.ask("/v1/cluster")?;
        let hosts = status["hosts"].as_array()?;
        let found = hosts.iter().find(|host| host["name"] == other.name());
        found.and_then(|host| host["state"].as_str()).map(str::to_owned)
    }

    /// How it stands in the cluster.
    pub fn standing(&self) -> Option<String> {
        self.ask("/v1/cluster")?["standing"].as_str().map(str::to_owned)
    }

    /// How many datagrams it did not take, for a reason.
    pub fn count(&self, why: &str) -> u64 {
        let status = self.status();
        let count = status["counts"][why].as_u64();
        count.unwrap_or_else(|| panic!("no {why} in {status:#}"))
    }

    /// What doctor finds wrong by checks whose names begin so.
    #[track_caller]
    pub fn complaints(&self, checks: &str) -> Vec<String> {
        let output = self
            .host
            .try_run(tombolo::INSIDE, &["doctor", "--output", "json"]);
        let document = json::parse(&output.stdout);
        let bad = json::rows(&document["findings"]).iter().filter(|finding| {
            let name = json::text(finding, "/check");
            name.starts_with(checks) && (finding["verdict"] == "fault" || finding["verdict"] == "warning")
        });
        bad.map(|finding| json::text(finding, "/evidence").to_owned())
            .collect()
    }

    /// Whether something is bound to the cluster's port.
    pub fn has_port(&self) -> bool {
        let sockets = self.host.run("ss", &["-Hlntu"]);
        sockets.lines().any(|line| line.contains(&format!(":{PORT} ")))
    }

    /// The processor time that the daemon has used.
    pub fn processor_time(&self) -> Duration {
        let entries = fs::read_dir(self.host.path("/proc"))
            .expect("the host's /proc")
            .flatten();
        let stat = entries
            .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
            .find(|stat| stat.contains("(tombolo) "))
            .expect("the daemon's process");
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11..13]
            .iter()
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        // A tick is a hundredth of a second on every Linux of ours.
        Duration::from_millis(ticks * 10)
    }

    /// What of its view all hosts should have in common.
    fn view(&self) -> Option<Value> {
        let status = self.ask("/v1/cluster")?;
        let peers = self.ask("/v1/peers")?;
        let hosts = status["hosts"].as_array()?;
        let hosts = hosts.iter().map(|host| {
            let there = host["state"] == "here" || host["state"] == "up";
            json!([
                host["host"],
                host["name"],
                host["address"],
                there,
                host["version"],
                host["rows"]
            ])
        });
        let pools = status["pools"].as_array()?;
        let pools = pools.iter().map(|pool| {
            json!([
                pool["pool"],
                pool["net"],
                pool["kind"],
                pool["founder"],
                pool["disputed"],
                pool["shares"]
            ])
        });
        let peers = peers.as_array()?.iter().map(|peer| {
            let mut peer = peer.clone();
            peer["here"].take();
            peer
        });
        Some(json!({
            "cluster": status["cluster"], "decrees": status["decrees"], "secret": status["secret"],
            "hosts": hosts.collect::<Vec<_>>(), "pools": pools.collect::<Vec<_>>(), "peers": peers.collect::<Vec<_>>(),
        }))
    }
}

/// Waits until these hosts, which are all of their cluster, say the same of it, and that all are up and confirmed.
#[track_caller]
pub fn agree(members: &[&Member], limit: Duration) -> Duration {
    let began = Instant::now();
    let mut last = Vec::new();
    let agreed = within(limit, || {
        last = members.iter().map(|member| member.view()).collect();
        let first = last.first()?.as_ref()?;
        let all_up = json::rows(&first["hosts"]).iter().all(|host| host[3] == true);
        let complete = first["hosts"].as_array().map(Vec::len) == Some(members.len());
        let confirmed = || {
            members
                .iter()
                .all(|m| m.standing().as_deref() == Some("confirmed"))
        };
        (complete && all_up && last.iter().all(|view| view.as_ref() == Some(first)) && confirmed())
            .then_some(())
    });
    if agreed.is_none() {
        let mut views = String::new();
        for (member, view) in members.iter().zip(&last) {
            let view = view
                .as_ref()
                .map_or_else(|| "nothing".to_owned(), Value::to_string);
            views.push_str(&format!("{} says {view}\n", member.name()));
        }
        panic!("the hosts do not agree within {limit:?}\n{views}");
    }
    began.elapsed()
}

/// Waits for something with a limit, and gives how long it took.
#[track_caller]
pub fn timed(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    match within(limit, || holds().then_some(())) {
        Some(()) => began.elapsed(),
        None => panic!("not within {limit:?}: {what}"),
    }
}

/// Seconds, as limits are written here.
pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
