//! Three hosts in one cluster, an overlay and a host-gateway network, and containers that talk without a pause.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use system_tests::json::text;
use system_tests::wait::until;
use system_tests::{Plan, Sites, at_once, engine, tombolo};

use super::UNDER_WAY;
use super::agent::{Agent, PORT};
use super::ledger::{Family, Ledger, Stream};
use super::seats::{HOSTS, NETWORKS, SEATS, Seat, Seats};
use super::windows::Windows;

/// The lab. Agents go before the hosts.
pub struct Lab {
    pub seats: Seats,
    pub ledger: Arc<Ledger>,
    pub windows: Windows,
    sites: Arc<Sites>,
    rate: u32,
}

impl Lab {
    /// Makes all of it, and waits until each stream flows.
    pub fn new(rate: u32) -> Self {
        let mut plan = Plan::of(HOSTS).ipv6();
        for at in 0..HOSTS {
            // So that an engine that is restarted leaves its containers alone.
            plan = plan.flag(at, "--live-restore");
        }
        if std::env::var_os("ORACLE_LOGS").is_some() {
            // Who keeps logs wants each step in them.
            plan = plan.settings("TOMBOLO_LOG", "debug");
        }
        let sites = plan.joined();
        for (network, kind, byte) in NETWORKS {
            let (v4, v6) = (format!("10.{byte}.0.0/16"), format!("fd{byte}::/64"));
            sites.network(network, kind, &["--subnet", &v4, "--ipv6", "--subnet", &v6]);
        }
        let mut lab = Self {
            seats: Seats((0..SEATS).map(Seat::new).collect()),
            ledger: Arc::new(Ledger::new()),
            windows: Windows::default(),
            sites: Arc::new(sites),
            rate,
        };
        let window = lab.open("the beginning", |_, _, _| true);
        lab.choose_addresses();
        // A network's hosts at once, the seats of a host one after the other.
        let hosts: Vec<usize> = (0..HOSTS).collect();
        at_once(&hosts, |&host| {
            lab.seats.on(host).into_iter().for_each(|seat| lab.run(seat));
        });
        (0..SEATS).for_each(|seat| lab.seat(seat));
        lab.all_flow();
        let now = lab.ledger.now();
        lab.windows.close(window, now);
        // What was sent until then comes yet.
        lab.ledger.sleep_until(now + UNDER_WAY);
        lab.ledger.judge(now, &lab.windows);
        lab.windows.clear();
        lab
    }

    /// The hosts.
    pub fn sites(&self) -> Arc<Sites> {
        Arc::clone(&self.sites)
    }

    /// Some seats have what their host's share gives.
    fn choose_addresses(&mut self) {
        let seats: Vec<usize> = (0..SEATS).filter(|&seat| Seat::of_share(seat)).collect();
        let chosen = seats.iter().map(|&number| {
            let seat = &self.seats.0[number];
            let probe = self.sites[seat.host].container(&format!("{}-probe", seat.name), seat.network, &[]);
            let (v4, v6) = (probe.ip(seat.network), probe.ip6(seat.network));
            probe.remove();
            (number, v4, v6)
        });
        for (number, v4, v6) in chosen.collect::<Vec<_>>() {
            let seat = &mut self.seats.0[number];
            seat.v4 = v4.parse().expect("an address of IPv4");
            seat.v6 = v6.parse().expect("an address of IPv6");
        }
    }

    /// Runs a seat's container on the seat's host.
    pub fn run(&self, number: usize) {
        let seat = &self.seats.0[number];
        let (v4, v6) = (seat.v4.to_string(), seat.v6.to_string());
        let args = ["--ip", &v4, "--ip6", &v6, "--restart", "always"];
        self.sites[seat.host].container(&seat.name, seat.network, &args);
    }

    /// Starts a seat's agent as soon as its container runs.
    pub fn seat(&mut self, number: usize) {
        let seat = &self.seats.0[number];
        let container = self.sites[seat.host].known(&seat.name);
        let engine = &self.sites[seat.host].engine;
        until(&format!("{} runs", seat.name), || {
            let state = engine.try_docker(&["inspect", "-f", "{{.State.Running}}", &seat.name]);
            (state.stdout == "true").then_some(())
        });
        let streams = Stream::all()
            .filter(|stream| stream.from == number)
            .map(|stream| {
                let to = self.seats.0[stream.to].address(stream.family);
                (stream, SocketAddr::new(to, PORT))
            });
        let own = (number, seat.v4, seat.v6);
        let agent = Agent::start(
            &self.ledger,
            &container.spaces(),
            own,
            streams.collect(),
            self.rate,
        );
        let mac = text(&container.on(seat.network), "/MacAddress").to_lowercase();
        let seat = &mut self.seats.0[number];
        (seat.agent, seat.mac) = (Some(agent), mac);
    }

    /// Ends a seat's agent, because its container ends.
    pub fn leave(&mut self, number: usize) {
        self.seats.0[number].agent = None;
    }

    /// Streams that may lose datagrams from now on.
    pub fn open(&mut self, why: &str, who: impl Fn(&Seat, &Seat, Family) -> bool) -> usize {
        let who = self.seats.streams(who);
        self.windows.open(why, who, self.ledger.now())
    }

    /// A window ends, so long from now.
    pub fn close(&mut self, window: usize, after: Duration) {
        self.windows.close(window, self.ledger.now() + after);
    }

    /// Puts the hosts' logs where somebody can read them whole.
    pub fn keep_logs(&self, dir: &Path) {
        std::fs::create_dir_all(dir).expect("a directory for logs");
        for site in self.sites.iter() {
            for (log, name) in [(tombolo::LOG, "tombolo"), (engine::LOG, "dockerd")] {
                let file = dir.join(format!("{}-{name}.log", site.name()));
                std::fs::write(file, site.host.log(log)).expect("writing a log");
            }
        }
    }

    /// Waits until something of each stream has come.
    fn all_flow(&self) {
        for stream in Stream::all() {
            until(&format!("{} flows", self.seats.told(stream)), || {
                (self.ledger.so_far(stream) > 0).then_some(())
            });
        }
    }
}
