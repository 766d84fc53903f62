//! Containers that are started, and how long until those of other hosts reach them.
//!
//! The clock begins when tombolo says that the endpoint has joined: until then Docker has not asked for all. From then on a
//! container on each host sends a datagram every millisecond to a port that nobody has; the first answer, which is that of
//! the new container's kernel, ends it. When the one on the same host has an answer, Docker is done with the container.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use system_tests::samples::Samples;
use system_tests::{Kind, Sites, Spaces, at_once, json};

use crate::follower::Follower;

/// How long a container may take to start, and to be reached.
const PATIENCE: Duration = Duration::from_secs(30);

/// The port that nobody has.
const PORT: u16 = 9;

const DAY: Duration = Duration::from_secs(86_400);

/// What is measured of containers on one network, from the join on.
#[derive(Default)]
pub struct Reached {
    /// Until all other hosts have the row that leads there; for an overlay.
    pub rows: Samples,
    /// Until a container of the same host reached it.
    pub here: Samples,
    /// Until containers of all hosts did.
    pub all: Samples,
}

/// The hosts with a container each on one network from which others are asked.
pub struct Ground<'a> {
    sites: &'a Sites,
    network: &'a str,
    probers: Vec<Spaces>,
    events: Vec<Follower>,
    /// What the kernels say of forwarding rows, where there are such.
    rows: Vec<Follower>,
}

impl<'a> Ground<'a> {
    /// Starts the containers.
    pub fn on(sites: &'a Sites, network: &'a str, kind: Kind) -> Self {
        let numbers: Vec<usize> = (0..sites.len()).collect();
        let probers = at_once(&numbers, |&at| {
            let prober = sites[at]
                .container(&format!("asks-{network}"), network, &[])
                .spaces();
            ask_for_neighbours_often(&prober);
            prober
        });
        let events = sites.iter().map(|site| {
            let command = site.tombolo.command(&["events", "--output", "json"]);
            let follower = Follower::start(&site.host, command);
            let follows = follower.until(PATIENCE, |line| line.contains("following").then_some(()));
            follows.expect("tombolo's events");
            follower
        });
        let tunnels = sites.iter().filter(|_| kind == Kind::Overlay);
        Self {
            sites,
            network,
            probers,
            events: events.collect(),
            rows: tunnels
                .map(|site| Follower::of_kernel(&site.host, "bridge", "fdb"))
                .collect(),
        }
    }

    /// Starts `count` containers, one after the other, each on the next host.
    pub fn started(&self, count: usize) -> Reached {
        let mut reached = Reached::default();
        for number in 0..count {
            let at = number % self.sites.len();
            let name = format!("new-{}-{number}", self.network);
            self.start(at, &name, &[], &mut reached);
            self.sites[at].known(&name).remove();
        }
        reached
    }

    /// Starts `count` containers, removes each, and starts one with its address on another host.
    pub fn moved(&self, count: usize) -> Reached {
        let mut reached = Reached::default();
        for number in 0..count {
            let from = number % self.sites.len();
            let to = (from + 1 + number / self.sites.len()) % self.sites.len();
            let to = if to == from {
                (to + 1) % self.sites.len()
            } else {
                to
            };
            let name = format!("moves-{}-{number}", self.network);
            let first = self.sites[from].container(&name, self.network, &[]);
            let address = first.ip(self.network);
            first.remove();
            self.start(to, &name, &["--ip", &address], &mut reached);
            self.sites[to].known(&name).remove();
        }
        reached
    }

    fn start(&self, at: usize, name: &str, args: &[&str], reached: &mut Reached) {
        let events = &self.events[at];
        events.forget();
        self.rows.iter().for_each(Follower::forget);
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| self.sites[at].container(name, self.network, args));
            let joined = events.until(PATIENCE, joined);
            let (_, (joined, address)) = joined.unwrap_or_else(|| panic!("{name} has not joined"));
            let times = at_once(&self.probers, |place| reach(place, address));
            // A row may be there before the join.
            let since = |time: Duration| (time + DAY - joined).rest(DAY);
            reached.here.add(since(times[at]));
            reached.all.add(since(
                times
                    .into_iter()
                    .max_by_key(|time| since(*time))
                    .unwrap_or_default(),
            ));
            let container = starting.join().expect("a container that starts");
            if !self.rows.is_empty() {
                let mac = json::text(&container.on(self.network), "/MacAddress").to_owned();
                reached.rows.add(since(self.told(at, &mac).max(joined)));
            }
        });
    }

    /// When the last of the other hosts had the row that leads a hardware address to a host.
    fn told(&self, at: usize, mac: &str) -> Duration {
        let host = self.sites.wire(0).ipv4(at);
        let leads = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            (words[0] != "Deleted" && words.contains(&mac) && words.contains(&host.as_str())).then_some(())
        };
        let others = (0..self.rows.len()).filter(|other| *other != at);
        let last = others.map(|other| {
            let told = self.rows[other].until(PATIENCE, leads);
            told.unwrap_or_else(|| panic!("{other} has no row for {mac}")).0
        });
        let ago = last.max().map(|last| last.elapsed()).unwrap_or_default();
        (now() + DAY - ago).rest(DAY)
    }
}

/// A rest of a division of durations.
trait Rest {
    fn rest(self, of: Duration) -> Duration;
}

impl Rest for Duration {
    fn rest(self, of: Duration) -> Duration {
        let nanoseconds = self.as_nanos() % of.as_nanos();
        // Less than a day.
        Duration::from_nanos(nanoseconds as u64)
    }
}

/// The time of day in UTC.
fn now() -> Duration {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock that is set");
    since.rest(DAY)
}

/// When an endpoint has joined, as the time of day, and its address, if that is what a line says.
fn joined(line: &str) -> Option<(Duration, IpAddr)> {
    if !line.contains("\"joined\"") {
        return None;
    }
    let event = json::parse(line);
    let time = json::text(&event, "/time")
        .split('T')
        .nth(1)?
        .trim_end_matches('Z');
    let seconds: Vec<f64> = time.split(':').filter_map(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = seconds[..] else {
        return None;
    };
    let time = Duration::from_secs_f64(hours * 3600.0 + minutes * 60.0 + seconds);
    Some((time, json::text(&event, "/ipv4").parse().ok()?))
}

/// Has a container's kernel ask for a neighbour that it doesn't know every 10 ms, and go on with it. It would do so every
/// second, and a sender that is a moment too early would measure that.
fn ask_for_neighbours_often(container: &Spaces) {
    for (setting, value) in [("retrans_time_ms", "10"), ("mcast_solicit", "100000")] {
        let path = format!("/proc/sys/net/ipv4/neigh/eth0/{setting}");
        let written = container.enter(|| std::fs::write(&path, value));
        written.unwrap_or_else(|e| panic!("writing {value} to {path}: {e}"));
    }
}

/// Asks from a place until there is an answer; when that came, as the time of day.
fn reach(place: &Spaces, address: IpAddr) -> Duration {
    let end = std::time::Instant::now() + PATIENCE;
    let asked = place.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddr::new(address, PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        loop {
            let heard = socket.send(b"?").and_then(|_| socket.recv(&mut [0]));
            match heard {
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Ok(now()),
                _ if std::time::Instant::now() > end => {
                    return Err(io::Error::new(
                        ErrorKind::TimedOut,
                        format!("{address}: {heard:?}"),
                    ));
                }
                // Whoever says that it isn't there says so at once.
                Err(e) if e.kind() != ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                _ => {}
            }
        }
    });
    asked.unwrap_or_else(|e: io::Error| panic!("asking in vain for {PATIENCE:?}: {e}"))
}
