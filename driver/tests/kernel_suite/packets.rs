//! Where packets go through the table, shown by real connections between namespaces.
//!
//! ```text
//!    outside                     host                                 networks of ours
//!   192.0.2.2 ──────wire────── 192.0.2.1  ── tb-a   10.1.0.1  ── a1 .2, a2 .3      masqueraded; 8080 leads to a1:80
//!                                         ── tb-b   10.2.0.1  ── b1 .2             not masqueraded
//!                                         ── tb-i   10.3.0.1  ── i1 .2, i2 .3      internal
//!                                         ── other  10.4.0.1  ── o1 .2             not ours
//! ```
//! IPv6 likewise: 2001:db8::/64 on the wire, fd00:1::/64 and so on.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use socket2::{Domain, Protocol, Socket, Type};
use tombolo::kernel::{Flow, Kernel, Real};
use tombolo_core::model::{Mac, Proto};
use tombolo_core::world::{ADOPTED_GROUP, Family, Key, LINK_GROUP, Setting, Step, Value, World};

use crate::lab::{Namespace, apply, in_namespace, make_forward, name, run, setting, settle};

/// How long to wait at most for what should come, and for what should not.
pub const PATIENCE: Duration = Duration::from_secs(3);
pub const DOUBT: Duration = Duration::from_millis(200);

pub struct Lab {
    pub kernel: Real,
    pub world: World,
    pub host: Namespace,
    pub outside: Namespace,
    pub a1: Namespace,
    pub a2: Namespace,
    pub b1: Namespace,
    i1: Namespace,
    i2: Namespace,
    o1: Namespace,
}

/// An address of a network, by the network's number and the host's.
pub fn at(v6: bool, net: u8, host: u8) -> IpAddr {
    let text = if v6 {
        format!("fd00:{net}::{host}")
    } else {
        format!("10.{net}.0.{host}")
    };
    text.parse().unwrap()
}

/// An address on the wire to the outside.
pub fn wire(v6: bool, host: u8) -> IpAddr {
    let text = if v6 {
        format!("2001:db8::{host}")
    } else {
        format!("192.0.2.{host}")
    };
    text.parse().unwrap()
}

fn facts() -> World {
    let mut world = World::from([
        (Key::Table, Value::Present),
        (Key::DockerAccept(Family::V4), Value::Present),
        (Key::DockerAccept(Family::V6), Value::Present),
        (Key::Guard(name("tb-i")), Value::Present),
        (Key::Masquerade(name("tb-a"), Family::V4), Value::Present),
        (Key::Masquerade(name("tb-a"), Family::V6), Value::Present),
        (Key::Loopback(name("tb-a")), Value::Present),
        (Key::LoopbackPorts, Value::Present),
        setting(Setting::Forward4, 1),
        setting(Setting::Forward6, 1),
        setting(Setting::RouteLocalnet(name("tb-a")), 1),
    ]);
    for (net, link) in [(1, "tb-a"), (2, "tb-b"), (3, "tb-i")] {
        let bridge = name(link);
        let mac = Mac::from_bytes([6, 0x7b, 0, 0, 0, net]).unwrap();
        world.insert(Key::Link(bridge.clone()), Value::Bridge { mtu: None, mac });
        world.insert(
            Key::Address(bridge.clone(), format!("10.{net}.0.1/24").parse().unwrap()),
            Value::Present,
        );
        world.insert(
            Key::Address(bridge.clone(), format!("fd00:{net}::1/64").parse().unwrap()),
            Value::Present,
        );
        world.insert(Key::Allow(bridge), Value::Present);
    }
    for (end, bridge) in [
        ("a1", "tb-a"),
        ("a2", "tb-a"),
        ("b1", "tb-b"),
        ("i1", "tb-i"),
        ("i2", "tb-i"),
    ] {
        let link = name(&format!("tbh{end}"));
        let mac = |first| Mac::of_address(at(false, first, end.as_bytes()[0] ^ end.as_bytes()[1]));
        let pair = Value::Veth {
            peer: name(&format!("tbc{end}")),
            peer_mac: mac(1),
            mac: mac(2),
            mtu: None,
        };
        world.insert(Key::Link(link.clone()), pair);
        let on = Value::On {
            bridge: name(bridge),
            isolated: false,
            hairpin: end == "a1",
        };
        world.insert(Key::Port(link), on);
    }
    for proto in [Proto::Tcp, Proto::Udp] {
        for v6 in [false, true] {
            let any = if v6 { "::" } else { "0.0.0.0" };
            world.insert(
                Key::Publish(proto, any.parse().unwrap(), 8080),
                Value::To(at(v6, 1, 2), 80),
            );
            world.insert(
                Key::Publish(proto, wire(v6, 1), 8081),
                Value::To(at(v6, 1, 2), 80),
            );
        }
    }
    world
}

/// Gives a link that is in this namespace to another one, as a container's only interface.
pub fn give(link: &str, net: u8, host: u8) -> Namespace {
    let container = Namespace::new();
    run(&format!("ip link set {link} netns {}", container.path()));
    container.run(&format!(
        "ip link set {link} name eth0 && ip link set eth0 up && ip address add 10.{net}.0.{host}/24 dev eth0 &&
         ip address add fd00:{net}::{host}/64 dev eth0 nodad && ip route add default via 10.{net}.0.1 &&
         ip route add default via fd00:{net}::1"
    ));
    container
}

impl Lab {
    pub async fn new() -> Self {
        let outside = Namespace::new();
        run(&format!(
            "ip link add eth0 type veth peer name wire netns {}",
            outside.path()
        ));
        run(
            "ip link set eth0 up && ip address add 192.0.2.1/24 dev eth0 && ip address add 2001:db8::1/64 dev eth0 nodad",
        );
        outside.run(
            "ip link set wire up && ip address add 192.0.2.2/24 dev wire && ip address add 2001:db8::2/64 dev wire nodad &&
             ip route add 10.0.0.0/8 via 192.0.2.1 && ip route add fd00::/16 via 2001:db8::1",
        );
        run("ip link add other type bridge && ip link set other up && ip address add 10.4.0.1/24 dev other &&
             ip address add fd00:4::1/64 dev other nodad && ip link add oh type veth peer name oc && ip link set oh master other up");
        let (mut kernel, world) = (Real::new(), facts());
        settle(&mut kernel, &world).await;
        let give = |end: &str, net, host| give(&format!("tbc{end}"), net, host);
        let (a1, a2, b1) = (give("a1", 1, 2), give("a2", 1, 3), give("b1", 2, 2));
        let (i1, i2, o1) = (give("i1", 3, 2), give("i2", 3, 3), self::give("oc", 4, 2));
        Self {
            kernel,
            world,
            host: Namespace::current(),
            outside,
            a1,
            a2,
            b1,
            i1,
            i2,
            o1,
        }
    }
}

/// A server's socket. The one before it on the same port is closed, but a process that another test is just starting may
/// still hold it, from its fork to its exec.
fn bound<T: Send>(server: &Namespace, bind: impl Fn() -> std::io::Result<T> + Sync) -> T {
    let start = Instant::now();
    loop {
        match server.within(&bind) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && start.elapsed() < PATIENCE => {
                std::thread::yield_now()
            }
            other => return other.unwrap(),
        }
    }
}

/// Whom a server on a port of a namespace takes a client for, if the client reaches it at an address and hears back in
/// time.
pub fn ask(
    proto: Proto,
    client: &Namespace,
    to: SocketAddr,
    server: &Namespace,
    port: u16,
    patience: Duration,
) -> Option<IpAddr> {
    let any: SocketAddr = SocketAddr::new("::".parse().unwrap(), port);
    match proto {
        Proto::Tcp => {
            let listener = bound(server, || TcpListener::bind(any));
            // The server's kernel answers; the connection then waits to be accepted.
            let stream = client.within(|| TcpStream::connect_timeout(&to, patience)).ok()?;
            listener.set_nonblocking(true).unwrap();
            let (_, from) = listener
                .accept()
                .unwrap_or_else(|e| panic!("{to} answered, but not the server: {e}"));
            drop(stream);
            Some(from.ip().to_canonical())
        }
        _ => {
            // Bound to the address that was asked, where no table comes between: a server at all addresses would answer
            // from the one nearest to the client.
            let here = if to.port() == port { to } else { any };
            let listener = bound(server, || UdpSocket::bind(here));
            let unspecified = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = client.within(|| UdpSocket::bind(unspecified)).unwrap();
            // Connected: an answer from another address than asked does not count.
            socket.connect(to).ok()?;
            socket.send(b"ask").ok()?;
            listener.set_read_timeout(Some(patience)).unwrap();
            let (_, from) = listener.recv_from(&mut [0; 16]).ok()?;
            listener.send_to(b"answer", from).unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            let heard = socket.recv(&mut [0; 16]).is_ok();
            heard.then_some(from.ip().to_canonical())
        }
    }
}

/// Whether a single datagram arrives, whatever becomes of an answer.
fn arrives(
    client: &Namespace,
    from: &str,
    to: SocketAddr,
    server: &Namespace,
    port: u16,
    patience: Duration,
) -> bool {
    let listener = bound(server, || UdpSocket::bind(("0.0.0.0", port)));
    let socket = client.within(|| UdpSocket::bind(from)).unwrap();
    socket.send_to(b"ask", to).unwrap();
    listener.set_read_timeout(Some(patience)).unwrap();
    listener.recv(&mut [0; 16]).is_ok()
}

/// What else filters on the host.
#[derive(Clone, Copy)]
struct Filters {
    /// Whether what is not ours passes FORWARD; if not, there is a chain of that name which drops.
    others_pass: bool,
    /// Whether frames between the ports of a bridge pass through the filters.
    bridged: bool,
}

/// Tries everything; gives what went otherwise than it should.
fn wrong_ways(lab: &Lab, v6: bool, proto: Proto, Filters { others_pass, bridged }: Filters) -> Vec<String> {
    let Lab {
        host,
        outside,
        a1,
        a2,
        b1,
        i1,
        i2,
        o1,
        ..
    } = lab;
    let to = |address: IpAddr, port| SocketAddr::new(address, port);
    let (a, b, i, o) = (
        |n| at(v6, 1, n),
        |n| at(v6, 2, n),
        |n| at(v6, 3, n),
        |n| at(v6, 4, n),
    );
    let (eth, out) = (wire(v6, 1), wire(v6, 2));
    let loopback: IpAddr = if v6 { "::1" } else { "127.0.0.1" }.parse().unwrap();
    // The kernel refuses an answer that bears ::1 before it is let in, as one does that was filtered on a bridge.
    let at_loopback = Some(a(1)).filter(|_| !(v6 && bridged));
    #[rustfmt::skip] // A table: one way a line.
    let ways = [
        ("within a network", a2, to(a(2), 80), a1, 80, Some(a(3))),
        ("out, masqueraded", a1, to(out, 80), outside, 80, Some(eth)),
        ("out, not masqueraded", b1, to(out, 80), outside, 80, Some(b(2))),
        ("host to container", host, to(a(2), 80), a1, 80, Some(a(1))),
        ("container to its gateway", a1, to(a(1), 99), host, 99, Some(a(2))),
        ("container to the host's address", a1, to(eth, 99), host, 99, Some(a(2))),
        ("outside to published, all addresses", outside, to(eth, 8080), a1, 80, Some(out)),
        ("outside to published, one address", outside, to(eth, 8081), a1, 80, Some(out)),
        ("outside to published, at the gateway's address", outside, to(a(1), 8080), a1, 80, Some(out)),
        ("published on one address, at another", outside, to(a(1), 8081), a1, 80, None),
        ("host to published, its own address", host, to(eth, 8080), a1, 80, Some(eth)),
        ("host to published, one address", host, to(eth, 8081), a1, 80, Some(eth)),
        ("host to published, loopback", host, to(loopback, 8080), a1, 80, at_loopback),
        ("another network to published", b1, to(eth, 8080), a1, 80, Some(b(2))),
        ("another network to published, its own gateway", b1, to(b(1), 8080), a1, 80, Some(b(2))),
        ("same network to published", a2, to(eth, 8080), a1, 80, Some(a(1))),
        ("itself through published", a1, to(eth, 8080), a1, 80, Some(a(1))),
        ("outside straight to a container", outside, to(a(2), 80), a1, 80, None),
        ("outside straight to one without masquerade", outside, to(b(2), 80), b1, 80, None),
        ("one network to another", b1, to(a(2), 80), a1, 80, None),
        ("and back", a1, to(b(2), 80), b1, 80, None),
        ("within an internal network", i2, to(i(2), 80), i1, 80, Some(i(3))),
        ("host to internal", host, to(i(2), 80), i1, 80, Some(i(1))),
        ("internal to its gateway", i1, to(i(1), 99), host, 99, Some(i(2))),
        ("internal to outside", i1, to(out, 80), outside, 80, None),
        ("outside to internal", outside, to(i(2), 80), i1, 80, None),
        ("internal to another network", i1, to(a(2), 80), a1, 80, None),
        ("another network to internal", a1, to(i(2), 80), i1, 80, None),
        ("internal to published", i1, to(eth, 8080), a1, 80, None),
        ("somebody else's bridge, out", o1, to(out, 80), outside, 80, Some(o(2)).filter(|_| others_pass)),
        ("outside, to somebody else's bridge", outside, to(o(2), 80), o1, 80, Some(out).filter(|_| others_pass)),
        ("somebody else's bridge to published", o1, to(eth, 8080), a1, 80, Some(o(2))),
        ("somebody else's bridge to a container", o1, to(a(2), 80), a1, 80, None),
    ];
    let mut wrong = Vec::new();
    for (what, client, to, server, port, expected) in ways {
        let patience = if expected.is_some() { PATIENCE } else { DOUBT };
        let got = ask(proto, client, to, server, port, patience);
        if got != expected {
            wrong.push(format!("{what} ({proto} to {to}): {got:?}, not {expected:?}"));
        }
    }
    wrong
}

/// Tries everything with both families and protocols, and sees that no mark of ours outlives the table.
fn all_ways(filters: Filters) {
    in_namespace(async move || {
        filter_bridged(u8::from(filters.bridged));
        if !filters.others_pass {
            make_forward();
        }
        let lab = Lab::new().await;
        run("nft add table inet watch && nft add chain inet watch post '{ type filter hook postrouting priority 400; }' &&
             nft add rule inet watch post meta mark '&' 0x0c000000 != 0 counter");
        let mut wrong = Vec::new();
        for v6 in [false, true] {
            for proto in [Proto::Tcp, Proto::Udp] {
                wrong.extend(wrong_ways(&lab, v6, proto, filters));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        let watch = run("nft list table inet watch");
        assert!(
            watch.contains("counter packets 0 bytes 0"),
            "marks were seen behind our table: {watch}"
        );
    });
}

/// Whether frames between the ports of a bridge pass through the filters too. A new namespace begins with 1, whatever the
/// host has.
pub fn filter_bridged(on: u8) {
    run(&format!(
        "sysctl -w net.bridge.bridge-nf-call-iptables={on} net.bridge.bridge-nf-call-ip6tables={on}"
    ));
}

#[test]
fn every_way_where_nobody_else_filters() {
    all_ways(Filters {
        others_pass: true,
        bridged: false,
    });
}

#[test]
fn every_way_where_forward_drops() {
    all_ways(Filters {
        others_pass: false,
        bridged: false,
    });
}

#[test]
fn every_way_where_frames_between_ports_are_filtered_too() {
    all_ways(Filters {
        others_pass: false,
        bridged: true,
    });
}

/// The kernel walks all of the host's IPv6 routes when a port comes or goes, so a port is to have none.
#[test]
fn bridges_have_routes_of_ipv6_and_their_ports_have_none() {
    in_namespace(async || {
        let lab = Lab::new().await;
        let routes = run("ip -6 route show table all");
        assert!(routes.contains("dev tb-a "), "{routes}");
        assert!(!routes.contains("dev tbh"), "{routes}");
        let published = SocketAddr::new(wire(true, 1), 8080);
        let heard = ask(Proto::Tcp, &lab.outside, published, &lab.a1, 80, PATIENCE);
        assert_eq!(heard, Some(wire(true, 2)));
        // A link whose packets are too small for IPv6 has none that could be taken away.
        let mut small = lab.world.clone();
        let pair = Value::Veth {
            peer: name("tbcs1"),
            peer_mac: Mac::from_bytes([6, 0x7b, 0, 0, 9, 1]).unwrap(),
            mac: Mac::from_bytes([6, 0x7b, 0, 0, 9, 2]).unwrap(),
            mtu: Some(1200),
        };
        small.insert(Key::Link(name("tbhs1")), pair);
        small.insert(Key::Port(name("tbhs1")), crate::lab::on(&name("tb-b")));
        let mut kernel = lab.kernel;
        settle(&mut kernel, &small).await;
        assert!(run("ip -br link show master tb-b").contains("tbhs1"));
    });
}

#[test]
fn a_container_reaches_itself_through_filtered_frames_only_if_its_port_is_in_hairpin_mode() {
    in_namespace(async || {
        filter_bridged(1);
        let lab = Lab::new().await;
        // The frame is translated within the bridge, so it would go out where it came in.
        let published = SocketAddr::new(wire(false, 1), 8080);
        assert_eq!(
            ask(Proto::Tcp, &lab.a1, published, &lab.a1, 80, PATIENCE),
            Some(at(false, 1, 1))
        );
        run("bridge link set dev tbha1 hairpin off");
        assert_eq!(ask(Proto::Tcp, &lab.a1, published, &lab.a1, 80, DOUBT), None);
    });
}

#[test]
fn nothing_passes_before_a_network_is_complete() {
    in_namespace(async || {
        let mut lab = Lab::new().await;
        apply(
            &mut lab.kernel,
            Step::Remove(Key::Allow(name("tb-a")), Value::Present),
        )
        .await;
        let out = SocketAddr::new(wire(false, 2), 80);
        let published = SocketAddr::new(wire(false, 1), 8080);
        assert_eq!(ask(Proto::Tcp, &lab.a1, out, &lab.outside, 80, DOUBT), None);
        assert_eq!(ask(Proto::Tcp, &lab.outside, published, &lab.a1, 80, DOUBT), None);
        assert!(!arrives(&lab.outside, "0.0.0.0:0", published, &lab.a1, 80, DOUBT));
        // Nor does it while the table has just been loaded again.
        apply(&mut lab.kernel, Step::Add(Key::Table, Value::Present)).await;
        assert_eq!(ask(Proto::Tcp, &lab.i1, out, &lab.outside, 80, DOUBT), None);
        assert_eq!(ask(Proto::Tcp, &lab.b1, out, &lab.outside, 80, DOUBT), None);
        settle(&mut lab.kernel, &lab.world).await;
        assert!(arrives(
            &lab.outside,
            "0.0.0.0:0",
            published,
            &lab.a1,
            80,
            PATIENCE
        ));
        assert_eq!(
            ask(Proto::Tcp, &lab.a1, out, &lab.outside, 80, PATIENCE),
            Some(wire(false, 1))
        );
    });
}

#[test]
fn what_goes_to_dockers_own_bridges_is_left_to_dockers_rules() {
    in_namespace(async || {
        let lab = Lab::new().await;
        run("iptables -P FORWARD DROP");
        let out = SocketAddr::new(wire(false, 2), 80);
        for bridge in ["docker0", "docker_gwbridge", "br-0123456789ab"] {
            let uplink = "ip -o route get 192.0.2.2 | grep -o 'dev [^ ]*' | cut -d' ' -f2";
            run(&format!(
                "link=$({uplink}); ip link set $link down; ip link set $link name {bridge}; ip link set {bridge} up"
            ));
            assert_eq!(
                ask(Proto::Tcp, &lab.a1, out, &lab.outside, 80, DOUBT),
                None,
                "{bridge}"
            );
            run("iptables -A FORWARD -j ACCEPT");
            assert!(
                ask(Proto::Tcp, &lab.a1, out, &lab.outside, 80, PATIENCE).is_some(),
                "{bridge}"
            );
            run("iptables -D FORWARD -j ACCEPT");
        }
    });
}

#[test]
fn a_container_cannot_reach_the_hosts_loopback() {
    in_namespace(async || {
        let lab = Lab::new().await;
        // A container whose own 127.0.0.0/8 is out of the way sends to the host's, through its gateway.
        lab.a1.run(
            "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local;
             ip address flush dev lo; sysctl -w net.ipv4.conf.eth0.route_localnet=1 && ip route add 127.0.0.5/32 via 10.1.0.1",
        );
        let to = "127.0.0.5:99".parse().unwrap();
        assert_eq!(ask(Proto::Tcp, &lab.a1, to, &lab.host, 99, DOUBT), None);
        // Without our rules it would: what was tried is what they stop.
        run("nft flush chain inet tombolo raw");
        assert_eq!(
            ask(Proto::Tcp, &lab.a1, to, &lab.host, 99, PATIENCE),
            Some(at(false, 1, 2))
        );
    });
}

#[test]
fn a_published_port_for_certain_senders_is_for_other_hosts_containers_of_its_network_as_well() {
    in_namespace(async || {
        let mut lab = Lab::new().await;
        let bridge = name("tb-a");
        apply(
            &mut lab.kernel,
            Step::Add(Key::Restricted(bridge.clone()), Value::Present),
        )
        .await;
        for v6 in [false, true] {
            for proto in [Proto::Tcp, Proto::Udp] {
                let to = SocketAddr::new(wire(v6, 1), 8080);
                let out = wire(v6, 2);
                assert_eq!(ask(proto, &lab.outside, to, &lab.a1, 80, DOUBT), None);
                let remote = Key::Remote(bridge.clone(), out.into());
                apply(&mut lab.kernel, Step::Add(remote.clone(), Value::Present)).await;
                assert_eq!(ask(proto, &lab.outside, to, &lab.a1, 80, PATIENCE), Some(out));
                apply(&mut lab.kernel, Step::Remove(remote, Value::Present)).await;
            }
        }
    });
}

#[test]
fn nothing_leads_into_an_internal_network() {
    in_namespace(async || {
        let mut lab = Lab::new().await;
        let key = Key::Publish(Proto::Udp, "0.0.0.0".parse().unwrap(), 8082);
        apply(&mut lab.kernel, Step::Add(key, Value::To(at(false, 3, 2), 80))).await;
        let to = SocketAddr::new(wire(false, 1), 8082);
        assert!(!arrives(&lab.outside, "0.0.0.0:0", to, &lab.i1, 80, DOUBT));
        apply(
            &mut lab.kernel,
            Step::Remove(Key::Guard(name("tb-i")), Value::Present),
        )
        .await;
        assert!(arrives(&lab.outside, "0.0.0.0:0", to, &lab.i1, 80, PATIENCE));
    });
}

/// A socket for ICMP messages, in a namespace.
fn icmp(namespace: &Namespace) -> OwnedFd {
    let kind = (
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    );
    namespace
        .within(|| socket(kind.0, kind.1, kind.2, kind.3))
        .unwrap()
}

#[test]
fn nothing_leaves_with_an_address_that_should_have_been_masqueraded() {
    in_namespace(async || {
        let lab = Lab::new().await;
        let (inside, outside) = (icmp(&lab.a1), icmp(&lab.outside));
        // An answer that nobody asked for: connection tracking cannot place it.
        let echo_reply = [0, 0, 0xff, 0xff, 0, 0, 0, 0];
        let to = SockaddrIn::new(192, 0, 2, 2, 0);
        let arrives = |patience: Duration| {
            setsockopt(
                &outside,
                sockopt::ReceiveTimeout,
                &TimeVal::milliseconds(patience.as_millis() as i64),
            )
            .unwrap();
            sendto(inside.as_raw_fd(), &echo_reply, &to, MsgFlags::empty()).unwrap();
            recv(outside.as_raw_fd(), &mut [0; 64], MsgFlags::empty()).is_ok()
        };
        assert!(!arrives(DOUBT));
        let rule =
            "nft -a list chain inet tombolo outward | grep 'ipv4.*ct state invalid' | grep -o '[0-9]*$'";
        run(&format!("nft delete rule inet tombolo outward handle $({rule})"));
        assert!(arrives(PATIENCE));
    });
}

#[test]
fn a_container_cannot_speak_in_the_name_of_the_hosts_loopback() {
    in_namespace(async || {
        let lab = Lab::new().await;
        lab.a1
            .run("ip address add 127.0.0.9/32 dev lo && sysctl -w net.ipv4.conf.eth0.route_localnet=1");
        // By itself the kernel refuses such a sender unless it is told to accept its own addresses from outside.
        run("sysctl -w net.ipv4.conf.tb-a.accept_local=1");
        let to = "10.1.0.1:99".parse().unwrap();
        assert!(!arrives(&lab.a1, "127.0.0.9:0", to, &lab.host, 99, DOUBT));
        run("nft flush chain inet tombolo raw");
        assert!(arrives(&lab.a1, "127.0.0.9:0", to, &lab.host, 99, PATIENCE));
    });
}

#[test]
fn rules_of_somebody_elses_lead_no_container_on_from_the_hosts_loopback() {
    in_namespace(async || {
        let lab = Lab::new().await;
        // As an engine does with a port that it publishes there: to another container, or to the host by another address.
        run(
            "nft add table ip adm && nft add chain ip adm in '{ type nat hook prerouting priority dstnat; }' &&
             nft add rule ip adm in ip daddr 127.0.0.5 udp dport 98 dnat to 192.0.2.2:99 &&
             nft add rule ip adm in ip daddr 127.0.0.5 udp dport 97 dnat to 192.0.2.1:99",
        );
        lab.a1.run(
            "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local;
             ip address flush dev lo; sysctl -w net.ipv4.conf.eth0.route_localnet=1 && ip route add 127.0.0.5/32 via 10.1.0.1",
        );
        let ways = [(98, &lab.outside), (97, &lab.host)];
        let arrives = |(port, server), patience| {
            let to = SocketAddr::new("127.0.0.5".parse().unwrap(), port);
            arrives(&lab.a1, "0.0.0.0:0", to, server, 99, patience)
        };
        // The bridge is ours, or somebody else's, on which this container is nobody we know.
        for group in [LINK_GROUP, ADOPTED_GROUP] {
            run(&format!("ip link set tb-a group {group}"));
            assert_eq!(ways.map(|way| arrives(way, DOUBT)), [false; 2]);
        }
        run("nft flush chain inet tombolo raw");
        assert_eq!(ways.map(|way| arrives(way, PATIENCE)), [true; 2]);
    });
}

#[test]
fn translation_leads_to_the_hosts_loopback_and_back_to_it() {
    in_namespace(async || {
        let lab = Lab::new().await;
        // Somebody else's rule leads containers to what listens there.
        run(
            "nft add table ip adm && nft add chain ip adm in '{ type nat hook prerouting priority dstnat; }' &&
             nft add rule ip adm in ip daddr 192.0.2.77 dnat to 127.0.0.1",
        );
        let to = "192.0.2.77:99".parse().unwrap();
        exchange((&lab.a1, "0.0.0.0:0"), to, (&lab.host, "127.0.0.1:99"));
        // The host asks a container in its loopback's name.
        let to = SocketAddr::new(at(false, 1, 2), 80);
        exchange((&lab.host, "127.0.0.1:0"), to, (&lab.a1, "0.0.0.0:80"));
    });
}

/// A datagram from a client's place and address to another, which leads to a server's, and one back.
fn exchange(client: (&Namespace, &str), to: SocketAddr, server: (&Namespace, &str)) {
    let server = bound(server.0, || UdpSocket::bind(server.1));
    let client = client.0.within(|| UdpSocket::bind(client.1)).unwrap();
    client.connect(to).unwrap();
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.send(b"ask").unwrap();
    let (_, asker) = server.recv_from(&mut [0; 16]).unwrap();
    server.send_to(b"answer", asker).unwrap();
    client.recv(&mut [0; 16]).unwrap();
}

#[test]
fn a_container_cannot_take_part_in_a_connection_of_the_hosts_loopback() {
    in_namespace(async || {
        let lab = Lab::new().await;
        let (from, to) = ("127.0.0.9:5000", "127.0.0.5:8080".parse().unwrap());
        exchange((&lab.host, from), to, (&lab.a1, "0.0.0.0:80"));
        // Another container says the same, and the kernel is told to believe it.
        run("sysctl -w net.ipv4.conf.tb-a.accept_local=1");
        lab.a2.run(
            "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local;
             ip address flush dev lo; ip address add 127.0.0.9/32 dev lo && sysctl -w net.ipv4.conf.eth0.route_localnet=1 &&
             ip route add 127.0.0.5/32 via 10.1.0.1",
        );
        assert!(!arrives(&lab.a2, from, to, &lab.a1, 80, DOUBT));
        run("nft flush chain inet tombolo raw");
        assert!(arrives(&lab.a2, from, to, &lab.a1, 80, PATIENCE));
    });
}

#[test]
fn a_port_of_the_hosts_loopback_is_not_reached_from_the_wire() {
    in_namespace(async || {
        let mut lab = Lab::new().await;
        let (host, proto) = ("127.0.0.7".parse().unwrap(), Proto::Tcp);
        let publish = Key::Publish(proto, host, 8082);
        apply(
            &mut lab.kernel,
            Step::Add(publish, Value::To(at(false, 1, 2), 80)),
        )
        .await;
        let to = "127.0.0.7:8082".parse().unwrap();
        let masqueraded = Some(at(false, 1, 1));
        assert_eq!(ask(proto, &lab.host, to, &lab.a1, 80, PATIENCE), masqueraded);
        // A neighbour whose own 127.0.0.0/8 is out of the way sends to the host's.
        lab.outside.run(
            "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local;
             ip address flush dev lo; sysctl -w net.ipv4.conf.all.route_localnet=1 && ip route add 127.0.0.7/32 via 192.0.2.1",
        );
        assert_eq!(ask(proto, &lab.outside, to, &lab.a1, 80, DOUBT), None);
    });
}

/// Has flows ended, and waits until they are.
async fn forget<const N: usize>(kernel: &mut Real, flows: [Flow; N]) {
    kernel.forget(BTreeSet::from(flows)).expect("starting a thread");
    assert!(kernel.forgotten(None, Instant::now() + PATIENCE).await);
}

#[test]
fn flows_that_lead_astray_are_forgotten_and_no_others() {
    in_namespace(async || {
        let mut lab = Lab::new().await;
        for v6 in [false, true] {
            let (wire, out) = (wire(v6, 1), wire(v6, 2));
            let family = if v6 { "ipv6" } else { "ipv4" };
            let flows = || run("cat /proc/thread-self/net/nf_conntrack");
            let count = |port: u16| {
                let flows = flows();
                flows
                    .lines()
                    .filter(|flow| flow.starts_with(family) && flow.contains(&format!("dport={port} ")))
                    .count()
            };
            // Published, not published, and one that is none of ours: from a container to a port of the outside.
            let ask = |from: &Namespace, to, server: &Namespace, port| {
                ask(Proto::Udp, from, to, server, port, PATIENCE)
            };
            assert!(ask(&lab.outside, SocketAddr::new(wire, 8080), &lab.a1, 80).is_some());
            assert!(ask(&lab.outside, SocketAddr::new(wire, 8090), &lab.host, 8090).is_some());
            assert!(ask(&lab.a1, SocketAddr::new(out, 8090), &lab.outside, 8090).is_some());
            assert_eq!((count(8080), count(8090)), (1, 2), "{}", flows());
            let udp = |port, to| Flow::Udp { host: wire, port, to };
            let (led, astray) = (udp(8080, (at(v6, 1, 2), 80)), udp(8090, (at(v6, 1, 3), 80)));
            forget(&mut lab.kernel, [led, astray]).await;
            assert_eq!((count(8080), count(8090)), (1, 1), "{}", flows());
            let into = |proto, port| Flow::Into {
                proto,
                host: wire,
                port,
                to: (at(v6, 1, 2), 80),
            };
            // What another port led there, or the same one of another protocol, is not meant.
            forget(&mut lab.kernel, [into(Proto::Udp, 8081), into(Proto::Tcp, 8080)]).await;
            assert_eq!((count(8080), count(8090)), (1, 1), "{}", flows());
            forget(&mut lab.kernel, [into(Proto::Udp, 8080)]).await;
            assert_eq!((count(8080), count(8090)), (0, 1), "{}", flows());
            // A container's own, and those to it that nobody translates.
            let own = |port| SocketAddr::new(at(v6, 1, 2), port);
            assert!(ask(&lab.host, own(8092), &lab.a1, 8092).is_some());
            assert!(ask(&lab.host, own(8093), &lab.a1, 8093).is_some());
            forget(&mut lab.kernel, [Flow::At(at(v6, 1, 2), 8092)]).await;
            assert_eq!((count(8092), count(8093), count(8090)), (0, 1, 1), "{}", flows());
            forget(&mut lab.kernel, [Flow::Of(at(v6, 1, 2))]).await;
            assert_eq!((count(8093), count(8090)), (0, 0), "{}", flows());
            // What left with its own address: answered, and not.
            let leave = |from: &Namespace, port| {
                let to = SocketAddr::new(out, port);
                from.within(|| {
                    UdpSocket::bind(("::", 0))
                        .unwrap()
                        .send_to(b"x", v6_form(to))
                        .unwrap()
                });
            };
            assert!(ask(&lab.b1, SocketAddr::new(out, 8094), &lab.outside, 8094).is_some());
            leave(&lab.b1, 8095);
            leave(&lab.a1, 8096);
            let pool = |net| IpNet::new(at(v6, net, 0), if v6 { 64 } else { 24 }).unwrap();
            forget(&mut lab.kernel, [1, 2].map(|net| Flow::Bare(pool(net)))).await;
            assert_eq!((count(8094), count(8095), count(8096)), (1, 0, 1), "{}", flows());
            // So many at once that all flows are listed.
            assert!(ask(&lab.outside, SocketAddr::new(wire, 8080), &lab.a1, 80).is_some());
            assert!(ask(&lab.a1, SocketAddr::new(out, 8097), &lab.outside, 8097).is_some());
            assert!(ask(&lab.b1, SocketAddr::new(out, 8098), &lab.outside, 8098).is_some());
            let (one, two) = (at(v6, 1, 2), at(v6, 1, 3));
            let many = [
                Flow::Of(one),
                into(Proto::Udp, 8080),
                Flow::Of(two),
                Flow::At(two, 1),
            ];
            forget(&mut lab.kernel, many).await;
            assert_eq!((count(8080), count(8097), count(8098)), (0, 0, 1), "{}", flows());
        }
    });
}

#[test]
fn a_table_that_is_loaded_anew_lets_old_flows_and_new_ones_through() {
    const DATAGRAMS: u32 = 600;
    in_namespace(async || {
        make_forward();
        let mut lab = Lab::new().await;
        let elements = lab.world.iter().filter(|(key, _)| key.is_element());
        let elements: World = elements
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let server = lab.a1.within(|| UdpSocket::bind("0.0.0.0:80")).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = SocketAddr::new(wire(false, 1), 8080);
        let one = lab.outside.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        // A socket keeps few datagrams that nobody reads.
        let reader = std::thread::spawn(move || {
            let mut came = BTreeSet::new();
            let mut bytes = [0; 4];
            while came.len() < DATAGRAMS as usize && server.recv(&mut bytes).is_ok() {
                came.insert(u32::from_be_bytes(bytes));
            }
            came
        });
        let outside = lab.outside;
        let sender = std::thread::spawn(move || {
            // Every other one is of a flow of its own.
            for number in 0..DATAGRAMS {
                let own = outside.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
                let socket = if number.is_multiple_of(2) { &one } else { &own };
                socket.send_to(&number.to_be_bytes(), to).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut loads: usize = 0;
        while !sender.is_finished() {
            lab.kernel.load(&elements).await.unwrap();
            loads += 1;
        }
        sender.join().unwrap();
        assert!(loads > 3, "{loads} loads");
        let came = reader.join().unwrap();
        let lost: Vec<u32> = (0..DATAGRAMS).filter(|number| !came.contains(number)).collect();
        // A packet that the old rules are just judging as they are replaced finds their sets empty: elements are looked up
        // by the generation of that instant (`nft_genmask_cur`). It takes some hundred loads to hit one.
        assert!(lost.len() * 10 <= loads, "lost in {loads} loads: {lost:?}");
    });
}

/// An address as a socket of IPv6 that serves both families takes it.
fn v6_form(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
        IpAddr::V6(_) => to,
    }
}

/// The checksum of SCTP (CRC-32C, RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), step);
    !bytes.iter().fold(!0, byte)
}

/// The beginning of an association: an INIT chunk (RFC 9260, section 3.3.2), as it stands behind the IP header.
fn sctp_init(from_port: u16, to_port: u16) -> Vec<u8> {
    let mut packet = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
    // No tag yet, and room for the checksum.
    packet.extend([0; 8]);
    // INIT, 20 bytes, a tag of our own, a window, one stream each way, the first number.
    packet.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 0, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

#[test]
fn sctp_reaches_a_published_port_as_well() {
    in_namespace(async || {
        let mut lab = Lab::new().await;
        let key = Key::Publish(Proto::Sctp, "0.0.0.0".parse().unwrap(), 8083);
        apply(&mut lab.kernel, Step::Add(key, Value::To(at(false, 1, 2), 80))).await;
        // IANA's number of SCTP. The kernel need not speak it to translate it.
        let raw = |namespace: &Namespace| {
            namespace.within(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(132))))
        };
        let (outside, mut inside) = (raw(&lab.outside).unwrap(), raw(&lab.a1).unwrap());
        inside.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = SocketAddr::new(wire(false, 1), 0);
        outside.send_to(&sctp_init(40_000, 8083), &to.into()).unwrap();
        let mut packet = [0; 128];
        let length = inside.read(&mut packet).expect("an association begins");
        // 20 bytes of IP with the sender from the 13th on, 32 of SCTP that begin with the ports.
        assert_eq!((length, &packet[12..16]), (52, &[192, 0, 2, 2][..]));
        assert_eq!(packet[20..24], [(40_000_u16 >> 8) as u8, 40_000_u16 as u8, 0, 80]);
        let mut sctp = packet[20..52].to_vec();
        let sum = sctp[8..12].to_vec();
        sctp[8..12].fill(0);
        assert_eq!(sum, crc32c(&sctp).to_le_bytes(), "its checksum is right again");
    });
}
