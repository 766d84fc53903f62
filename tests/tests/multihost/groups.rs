//! What is sent to a group reaches the hosts where somebody hears it, and no others.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use system_tests::wait::within;
use system_tests::{Container, Kind, Plan, Site, Sites, say, until};

use crate::matrix::{network, one_each};

/// The groups, the addresses of hardware that their frames go to, and the port.
const GROUPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3)),
    IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x1234)),
];
const MACS: [[u8; 6]; 2] = [[0x01, 0x00, 0x5e, 1, 2, 3], [0x33, 0x33, 0, 0, 0x12, 0x34]];
const PORT: u16 = 9876;

/// Between two datagrams for a group.
const EVERY: Duration = Duration::from_millis(2);

/// How soon after joining a group a container is to hear it.
const JOINED: Duration = Duration::from_secs(1);

/// How soon after the last one has left it nothing of a group is to come any more. The bridge first asks twice, a second
/// apart, whether somebody else hears it.
const LEFT: Duration = Duration::from_secs(5);

/// What a listener that reads late can hold, in bytes.
const BUFFER: usize = 16 << 20;

/// How often threads look whether they are still wanted.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Every protocol of Ethernet, with the bytes in the wire's order.
const EVERYTHING: i32 = 0x0300;

/// Whether a thread is still wanted.
type Flag = Arc<AtomicBool>;

/// Numbered datagrams to both groups, from a container.
struct Sender {
    over: Flag,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    fn start(container: &Container) -> Self {
        let sockets = GROUPS.map(|group| {
            container.spaces().enter(|| {
                let any = if group.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(any).expect("a socket");
                if group.is_ipv6() {
                    let link = if_nametoindex("eth0").expect("eth0");
                    SockRef::from(&socket)
                        .set_multicast_if_v6(link)
                        .expect("a way out");
                }
                socket
            })
        });
        let (over, sent) = (Flag::default(), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (Arc::clone(&over), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                let number = count.fetch_add(1, Ordering::Relaxed).to_be_bytes();
                for (socket, group) in sockets.iter().zip(GROUPS) {
                    socket
                        .send_to(&number, (group, PORT))
                        .expect("sending to a group");
                }
                std::thread::sleep(EVERY);
            }
        });
        Self {
            over,
            sent,
            thread: Some(thread),
        }
    }

    /// Waits until so many more have been sent.
    fn go_on(&self, more: u64) {
        let wanted = self.sent.load(Ordering::Relaxed) + more;
        until("datagrams are sent", || {
            (self.sent.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A container that hears one of the groups, or will.
struct Listener {
    socket: UdpSocket,
    group: IpAddr,
    own: Ipv4Addr,
    link: u32,
    heard: Arc<Mutex<Vec<u64>>>,
    over: Flag,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn on(container: &Container, network: &str, group: IpAddr) -> Self {
        let (any, domain): (IpAddr, Domain) = match group {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Domain::IPV4),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Domain::IPV6),
        };
        let (socket, link) = container.spaces().enter(|| {
            let socket = Socket::new(domain, Type::DGRAM, None).expect("a socket");
            if group.is_ipv6() {
                // Beside that of IPv4.
                socket.set_only_v6(true).expect("a socket of IPv6 alone");
            }
            socket.bind(&SocketAddr::new(any, PORT).into()).expect("the port");
            (UdpSocket::from(socket), if_nametoindex("eth0").expect("eth0"))
        });
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).expect("a large buffer (root is needed)");
        socket.set_read_timeout(Some(LOOK_UP)).expect("a time limit");
        let (heard, over) = (Arc::default(), Flag::default());
        let (numbers, flag) = (Arc::clone(&heard), Arc::clone(&over));
        let reading = socket.try_clone().expect("the same socket");
        let thread = std::thread::spawn(move || hear(&reading, &numbers, &flag));
        Self {
            socket,
            group,
            own: container.ip(network).parse().expect("an address"),
            link,
            heard,
            over,
            thread: Some(thread),
        }
    }

    fn join(&self) {
        match self.group {
            IpAddr::V4(group) => self.socket.join_multicast_v4(&group, &self.own),
            IpAddr::V6(group) => self.socket.join_multicast_v6(&group, self.link),
        }
        .expect("joining");
    }

    fn leave(&self) {
        match self.group {
            IpAddr::V4(group) => self.socket.leave_multicast_v4(&group, &self.own),
            IpAddr::V6(group) => self.socket.leave_multicast_v6(&group, self.link),
        }
        .expect("leaving");
    }

    fn count(&self) -> usize {
        self.heard.lock().expect("numbers").len()
    }

    /// Joins, and hears something soon.
    #[track_caller]
    fn join_and_hear(&self, who: &str) {
        let begun = Instant::now();
        self.join();
        let before = self.count();
        let hears = within(JOINED, || (self.count() > before).then_some(()));
        assert!(
            hears.is_some(),
            "{who} hears nothing of {} within {JOINED:?}",
            self.group
        );
        say(&format!("{who} hears {} after {:?}", self.group, begun.elapsed()));
    }

    /// That nothing between the first and the last datagram is missing or doubled, and how many there are.
    #[track_caller]
    fn whole(&self, who: &str) -> usize {
        let heard = self.heard.lock().expect("numbers");
        let mut gaps = heard.windows(2).filter(|pair| pair[1] != pair[0] + 1);
        assert_eq!(
            gaps.next(),
            None,
            "{who} of {}: {} were heard",
            self.group,
            heard.len()
        );
        heard.len()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn hear(socket: &UdpSocket, numbers: &Mutex<Vec<u64>>, over: &AtomicBool) {
    let mut buffer = [0; 8];
    while !over.load(Ordering::Relaxed) {
        if let Ok(8) = socket.recv(&mut buffer) {
            numbers.lock().expect("numbers").push(u64::from_be_bytes(buffer));
        }
    }
}

/// Counts the frames for the groups that come to a host, in its tunnels and on its wire.
struct Tap {
    count: Arc<AtomicU64>,
    over: Flag,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    fn at(site: &Site) -> Self {
        let socket = site.network_spaces().enter(|| {
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING))).expect("a packet socket")
        });
        socket.set_read_timeout(Some(LOOK_UP)).expect("a time limit");
        let (count, over) = (Arc::new(AtomicU64::new(0)), Flag::default());
        let (counted, flag) = (Arc::clone(&count), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while !flag.load(Ordering::Relaxed) {
                let Ok(length) = (&socket).read(&mut buffer) else {
                    continue;
                };
                // As it is, or behind Ethernet, IPv4, UDP and VXLAN.
                let to = |at: usize| buffer[..length].get(at..at + 6);
                if MACS.iter().any(|mac| to(0) == Some(mac) || to(50) == Some(mac)) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self {
            count,
            over,
            thread: Some(thread),
        }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn listeners(container: &Container) -> [Listener; 2] {
    GROUPS.map(|group| Listener::on(container, "app", group))
}

/// The entries of a host's tunnels for the groups.
fn entries(site: &Site) -> usize {
    let shown = site.host.run("bridge", &["fdb", "show"]);
    let of_groups = shown
        .lines()
        .filter(|line| line.starts_with("01:00:5e:01:02:03") || line.starts_with("33:33:00:00:12:34"));
    of_groups.count()
}

/// Three hosts with a network, and a container on each.
fn scene(options: &[&str]) -> (Sites, Vec<Container>) {
    let sites = Plan::of(3).ipv6().joined();
    network(&sites, "app", Kind::Overlay, 42, options);
    let containers = one_each(&sites, "app");
    sites.know(3);
    (sites, containers)
}

#[test]
fn a_group_reaches_the_hosts_where_somebody_hears_it_and_no_others() {
    let (sites, containers) = scene(&[]);
    let neighbour = sites[0].container("neighbour", "app", &[]);
    let (near, at_b, at_c) = (
        listeners(&neighbour),
        listeners(&containers[1]),
        listeners(&containers[2]),
    );
    let sender = Sender::start(&containers[0]);
    let wire = Tap::at(&sites[2]);
    near.iter()
        .for_each(|listener| listener.join_and_hear("a neighbour"));
    at_b.iter().for_each(|listener| listener.join_and_hear("b"));
    sender.go_on(500);
    assert_eq!(
        wire.count(),
        0,
        "nobody on c hears the groups, and their frames come there"
    );
    at_c.iter().for_each(|listener| listener.join_and_hear("c"));
    assert!(wire.count() > 0);

    // Whatever becomes of tombolo, all hear all.
    for site in sites.iter() {
        site.tombolo.kill();
        sender.go_on(100);
        site.tombolo.start_again();
        sender.go_on(300);
        site.tombolo.stop();
        site.tombolo.start_again();
        sender.go_on(300);
    }
    sites.all_up();
    sender.go_on(1000);

    // The one leaves, the others go on.
    let begun = Instant::now();
    at_c.iter().for_each(Listener::leave);
    let mut last = (wire.count(), Instant::now());
    let quiet = within(LEFT * 2, || {
        let now = wire.count();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(1)).then_some(last.1 - begun)
    });
    let quiet = quiet.expect("frames for groups that nobody on c hears go on coming there");
    say(&format!("nothing comes to c any more {quiet:?} after it left"));
    assert!(quiet < LEFT, "{quiet:?}");
    sender.go_on(500);
    assert_eq!(wire.count(), last.0);
    for (who, listeners) in [("a neighbour", &near), ("b", &at_b), ("c", &at_c)] {
        for listener in listeners {
            assert!(listener.whole(who) > 1000, "{who} heard little");
        }
    }

    // Who leaves while nobody listens to that is known to have left afterwards.
    assert_eq!((entries(&sites[0]), entries(&sites[2])), (2, 4));
    sites[0].tombolo.kill();
    drop(at_b);
    // What a hears is sent there all the while: its containers go on.
    until("b tells that it hears nothing", || {
        (entries(&sites[2]) == 2).then_some(())
    });
    assert_eq!(entries(&sites[0]), 2);
    sites[0].tombolo.start_again();
    until("a sends nothing to b", || (entries(&sites[0]) == 0).then_some(()));
}

#[test]
fn a_host_that_begins_anew_and_one_whose_container_dies_are_followed() {
    let (sites, mut containers) = scene(&[]);
    let sender = Sender::start(&containers[0]);
    let mine = listeners(&containers[1]);
    mine.iter().for_each(|listener| listener.join_and_hear("b"));
    assert_eq!(entries(&sites[0]), 2);
    // It says nothing any more.
    containers.remove(1).remove();
    until("a container that has gone hears nothing", || {
        (entries(&sites[0]) == 0).then_some(())
    });
    drop(mine);
    let next = sites[1].container("next", "app", &[]);
    let again = listeners(&next);
    again
        .iter()
        .for_each(|listener| listener.join_and_hear("b, once more"));
    sites[1].tombolo.stop();
    sender.go_on(300);
    sites[1].tombolo.start_again();
    sender.go_on(500);
    again
        .iter()
        .for_each(|listener| assert!(listener.whole("b, once more") > 500));
    // A join while tombolo is away is known once it is there.
    sites[2].tombolo.stop();
    let late = listeners(&containers[1]);
    late.iter().for_each(Listener::join);
    sites[2].tombolo.start_again();
    for listener in &late {
        until("who joined meanwhile hears", || {
            (listener.count() > 0).then_some(())
        });
    }
}

/// A datagram that comes back from a container, by which all that was sent before has come or won't.
fn fence(from: &Container, to: &Container) -> io::Result<()> {
    let socket = |of: &Container, port: u16| {
        of.spaces()
            .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
    };
    let (client, server) = (socket(from, 0)?, socket(to, PORT + 1)?);
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    let address: SocketAddr = (to.ip("app").parse::<IpAddr>().expect("an address"), PORT + 1).into();
    client.send_to(b"last", address)?;
    server.recv(&mut [0; 8]).map(drop)
}

#[test]
fn where_groups_are_to_stay_none_leaves_its_host() {
    let (sites, containers) = scene(&["-o", "multicast=off"]);
    let neighbour = sites[0].container("neighbour", "app", &[]);
    let (near, far) = (listeners(&neighbour), listeners(&containers[1]));
    let wire = Tap::at(&sites[1]);
    far.iter().for_each(Listener::join);
    until("the bridge has learnt who hears", || {
        let shown = sites[1].host.run("bridge", &["mdb", "show"]);
        (shown.contains("239.1.2.3") && shown.contains("ff15::1234")).then_some(())
    });
    let sender = Sender::start(&containers[0]);
    near.iter()
        .for_each(|listener| listener.join_and_hear("a neighbour"));
    sender.go_on(1000);
    drop(sender);
    fence(&containers[0], &containers[1]).expect("the containers reach each other");
    assert!(near.iter().all(|listener| listener.count() > 500));
    assert!(far.iter().all(|listener| listener.count() == 0));
    assert_eq!((wire.count(), entries(&sites[0])), (0, 0));
}
