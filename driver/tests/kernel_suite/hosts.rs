//! Containers of one network on two hosts: through a tunnel, and without one. All of it is made by steps of the kernel, but
//! for the wire between the hosts.
//!
//! ```text
//!   c1 10.1.0.2 ── tb-1 ── tbv1 ~~~~ tunnel ~~~~ tbv1 ── tb-1 ── c2 10.1.0.130
//!                  host 1 192.0.2.1 ──wire── 192.0.2.2 host 2
//! ```
//! IPv6 likewise: fd00:1::2, fd00:1::82, 2001:db8::1, 2001:db8::2.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use ipnet::IpNet;
use tombolo::kernel::{Announcement, Kernel, Real};
use tombolo_core::model::{Group, Mac, Proto};
use tombolo_core::world::{Family, Hop, Key, Setting, Value, World};

use crate::lab::{Namespace, block_on, in_namespace, make_forward, name, run, setting, settle};
use crate::packets::{DOUBT, PATIENCE, ask, wire};

/// Two hosts with a container each.
struct Pair {
    hosts: [Namespace; 2],
    containers: [Namespace; 2],
    worlds: [World; 2],
}

/// The address of a host's container, by the host's number: 0 or 1.
fn container(v6: bool, host: usize) -> IpAddr {
    let text = match (v6, host) {
        (false, 0) => "10.1.0.2",
        (false, _) => "10.1.0.130",
        (true, 0) => "fd00:1::2",
        (true, _) => "fd00:1::82",
    };
    text.parse().unwrap()
}

/// An address of the network that nobody has.
fn nobody(v6: bool) -> IpAddr {
    if v6 { "fd00:1::99" } else { "10.1.0.99" }.parse().unwrap()
}

fn mac(host: usize) -> Mac {
    Mac::of_address(container(false, host))
}

/// What of the network is with a host.
fn part(v6: bool, host: usize) -> IpNet {
    let length = if v6 { 121 } else { 25 };
    IpNet::new(container(v6, host), length).unwrap().trunc()
}

/// What both ways have in common: a bridge with a container on it.
fn common(host: usize) -> World {
    let (bridge, link) = (name("tb-1"), name("tbh1"));
    let number = u8::try_from(host).unwrap();
    let own = |kind| Mac::from_bytes([6, 0x7b, 0, 0, kind, number]).unwrap();
    let pair = Value::Veth {
        peer: name("tbc1"),
        peer_mac: mac(host),
        mac: own(1),
        mtu: Some(1400),
    };
    let mtu = Some(1400);
    let mut world = World::from([
        (Key::Table, Value::Present),
        (Key::Link(bridge.clone()), Value::Bridge { mtu, mac: own(2) }),
        (Key::Link(link.clone()), pair),
        (Key::Port(link), crate::lab::on(&bridge)),
        (Key::Allow(bridge.clone()), Value::Present),
        setting(Setting::Forward4, 1),
        setting(Setting::Forward6, 1),
    ]);
    for family in Family::ALL {
        world.insert(Key::Masquerade(bridge.clone(), family), Value::Present);
        world.insert(Key::DockerAccept(family), Value::Present);
    }
    world
}

/// What a host has of a tunnel to the other one.
fn tunnel(host: usize, outer6: bool, world: &mut World) {
    let (bridge, link, other) = (name("tb-1"), name("tbv1"), 1 - host);
    let vtep = |host: usize| wire(outer6, u8::try_from(host).unwrap() + 1);
    let vxlan = Value::Vxlan {
        vni: 4242,
        local: vtep(host),
        port: 4789,
        mtu: Some(1400),
    };
    let through = Value::Tunnel {
        bridge: bridge.clone(),
        isolated: false,
        multicast: true,
    };
    world.extend([
        (Key::Tunnels, Value::Present),
        (Key::Link(link.clone()), vxlan),
        (Key::Port(link.clone()), through),
        (Key::Forward(link.clone(), mac(other)), Value::Via(vtep(other))),
        (
            Key::Flood(link.clone(), Group::BROADCAST, vtep(other)),
            Value::Present,
        ),
    ]);
    // Neighbours are looked for at the group of an address; that of the one that nobody has goes to the other host, too.
    let group = Group::of("ff02::1:ff00:99".parse().unwrap()).unwrap();
    world.insert(Key::Flood(link, group, vtep(other)), Value::Present);
    for v6 in [false, true] {
        let neighbour = Key::Neighbour(bridge.clone(), container(v6, other));
        world.insert(neighbour, Value::Mac(mac(other)));
    }
}

/// What a host has of routes to the other one: for the container it looks as if all were on one wire.
fn routes(host: usize, world: &mut World) {
    let (bridge, other) = (name("tb-1"), 1 - host);
    for v6 in [false, true] {
        let net = part(v6, other);
        let hop = Hop {
            via: wire(v6, u8::try_from(other).unwrap() + 1),
            link: name("eth0"),
        };
        let gateway = part(v6, host).hosts().next().unwrap();
        let gateway = IpNet::new(gateway, part(v6, host).prefix_len()).unwrap();
        world.extend([
            (Key::Address(bridge.clone(), gateway), Value::Present),
            (Key::Route(net), Value::Hops(vec![hop])),
            (Key::Remote(bridge.clone(), net), Value::Present),
            setting(Setting::ProxyDelay(bridge.clone(), Family::of_v6(v6)), 0),
        ]);
    }
    world.insert(
        Key::Proxied(bridge.clone(), container(true, other)),
        Value::Present,
    );
    world.extend([
        setting(Setting::ProxyArp(bridge.clone()), 1),
        setting(Setting::ProxyNdp(bridge), 1),
    ]);
}

impl Pair {
    /// Makes the hosts, each with its part of a world. This thread's namespace is the first one.
    fn new(worlds: [World; 2]) -> Self {
        let hosts = [Namespace::current(), Namespace::new()];
        run(&format!(
            "ip link add eth0 type veth peer name eth0 netns {}",
            hosts[1].path()
        ));
        for (number, host) in (1..).zip(&hosts) {
            host.run(&format!(
                "ip link set eth0 up && ip address add 192.0.2.{number}/24 dev eth0 &&
                 ip address add 2001:db8::{number}/64 dev eth0 nodad"
            ));
            host.within(make_forward);
        }
        let containers = [Namespace::new(), Namespace::new()];
        let pair = Self {
            hosts,
            containers,
            worlds,
        };
        for host in [0, 1] {
            pair.settle(host);
            let container = &pair.containers[host];
            pair.hosts[host].run(&format!("ip link set tbc1 netns {}", container.path()));
            container.run(&format!(
                "ip link set tbc1 name eth0 && ip link set eth0 up && ip address add {}/24 dev eth0 &&
                 ip address add {}/64 dev eth0 nodad",
                self::container(false, host),
                self::container(true, host)
            ));
        }
        pair
    }

    fn settle(&self, host: usize) {
        let world = &self.worlds[host];
        self.hosts[host].within(|| block_on(settle(&mut Real::new(), world)));
    }

    /// Whom the container of the other host takes that of a host for.
    fn seen_from(
        &self,
        v6: bool,
        host: usize,
        proto: Proto,
        patience: std::time::Duration,
    ) -> Option<IpAddr> {
        let to = SocketAddr::new(container(v6, 1 - host), 80);
        let [client, server] = [host, 1 - host].map(|host| &self.containers[host]);
        ask(proto, client, to, server, 80, patience)
    }

    /// Has a container look for an address that nobody has.
    fn look_for_nobody(&self, v6: bool) {
        let unspecified = if v6 { "[::]:0" } else { "0.0.0.0:0" };
        let socket = self.containers[0]
            .within(|| UdpSocket::bind(unspecified))
            .unwrap();
        socket.send_to(b"x", (nobody(v6), 9)).unwrap();
        std::thread::sleep(DOUBT);
    }

    /// How many questions of a family for unknown addresses a host has counted.
    fn unanswered(&self, v6: bool) -> u32 {
        let counter = if v6 { "unanswered6" } else { "unanswered4" };
        count(&self.hosts[0].run(&format!("nft list counter bridge tombolo {counter}")))
    }

    /// Counts on the second host what comes out of the tunnel and asks for an address.
    fn listen(&self) {
        self.hosts[1].run(
            "nft add table bridge watch && nft add chain bridge watch in '{ type filter hook prerouting priority -300; }' &&
             nft add rule bridge watch in iifname tbv1 arp operation 1 counter &&
             nft add rule bridge watch in iifname tbv1 icmpv6 type '{ 135, 136 }' counter",
        );
    }

    fn heard(&self, v6: bool) -> u32 {
        let sort = if v6 { "icmpv6" } else { "arp" };
        let text = self.hosts[1].run(&format!("nft -n list chain bridge watch in | grep {sort}"));
        count(&text)
    }
}

/// The number of packets in a listing of one counter.
fn count(text: &str) -> u32 {
    let (_, rest) = text.split_once("packets ").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

fn two(world: impl Fn(usize, &mut World)) -> [World; 2] {
    [0, 1].map(|host| {
        let mut all = common(host);
        world(host, &mut all);
        all
    })
}

/// Containers reach each other through a tunnel, and nobody is asked for their addresses.
fn through_a_tunnel(outer6: bool) {
    in_namespace(async move || {
        let mut pair = Pair::new(two(|host, world| tunnel(host, outer6, world)));
        pair.listen();
        for (v6, proto) in [
            (false, Proto::Tcp),
            (false, Proto::Udp),
            (true, Proto::Tcp),
            (true, Proto::Udp),
        ] {
            for host in [0, 1] {
                let seen = pair.seen_from(v6, host, proto, PATIENCE);
                assert_eq!(seen, Some(container(v6, host)), "{proto} from {host}");
            }
        }
        for v6 in [false, true] {
            assert_eq!((pair.unanswered(v6), pair.heard(v6)), (0, 0));
            pair.look_for_nobody(v6);
            assert!(pair.unanswered(v6) > 0);
            assert_eq!(pair.heard(v6), 0);
        }
        // Without the table they would have asked the other host: what was tried is what it stops.
        for world in &mut pair.worlds {
            world.remove(&Key::Tunnels);
        }
        pair.settle(0);
        for v6 in [false, true] {
            // Whoever has just asked in vain doesn't ask again at once.
            pair.containers[0].run("ip neigh flush all");
            pair.look_for_nobody(v6);
            assert!(pair.heard(v6) > 0, "{v6}");
        }
    });
}

#[test]
fn containers_believe_what_they_are_told_of_an_address_and_no_other_host_hears_of_it() {
    in_namespace(async || {
        let mut pair = Pair::new(two(|host, world| tunnel(host, false, world)));
        pair.listen();
        let believes = |pair: &Pair, v6| {
            let shown = pair.containers[0].run(&format!("ip neigh show {}", nobody(v6)));
            let mut words = shown.split_whitespace().skip_while(|word| *word != "lladdr");
            words.nth(1).map(|mac| mac.parse::<Mac>().unwrap())
        };
        // One for all of them, as the daemon has: its socket is opened once.
        let mut kernel = Real::new();
        let mut tell = |pair: &Pair, v6, mac| {
            let one = Announcement {
                bridge: name("tb-1"),
                address: nobody(v6),
                mac,
            };
            let told = pair.hosts[0].within(|| kernel.announce(&[one.clone(), one]));
            told.unwrap();
            std::thread::sleep(DOUBT);
        };
        let (old, new) = (mac(0), mac(1));
        for v6 in [false, true] {
            // Who knows nothing of it learns nothing.
            tell(&pair, v6, new);
            assert_eq!(believes(&pair, v6), None);
            let known = format!(
                "ip neigh replace {} lladdr {old} dev eth0 nud reachable",
                nobody(v6)
            );
            pair.containers[0].run(&known);
            tell(&pair, v6, new);
            assert_eq!(believes(&pair, v6), Some(new), "{v6}");
            tell(&pair, v6, old);
            assert_eq!(believes(&pair, v6), Some(old), "{v6}");
            assert_eq!(pair.heard(v6), 0, "{v6}");
        }
        // The bridge itself keeps them from the tunnel.
        for world in &mut pair.worlds {
            world.remove(&Key::Tunnels);
        }
        pair.settle(0);
        for v6 in [false, true] {
            tell(&pair, v6, new);
            assert_eq!((believes(&pair, v6), pair.heard(v6)), (Some(new), 0), "{v6}");
        }
        let nowhere = Announcement {
            bridge: name("tb-9"),
            address: nobody(false),
            mac: new,
        };
        assert!(Real::new().announce(&[nowhere]).is_err());
        // One that was made anew is another link.
        let anew = Announcement {
            bridge: name("tb-8"),
            address: nobody(false),
            mac: new,
        };
        for made in [
            "ip link add tb-8 type bridge",
            "ip link delete tb-8; ip link add tb-8 type bridge",
        ] {
            pair.hosts[0].run(&format!("{made}; ip link set tb-8 up"));
            let told = pair.hosts[0].within(|| kernel.announce(std::slice::from_ref(&anew)));
            told.unwrap();
        }
    });
}

#[test]
fn containers_reach_each_other_through_a_tunnel_and_ask_nobody() {
    through_a_tunnel(false);
}

#[test]
fn containers_reach_each_other_through_a_tunnel_of_ipv6() {
    through_a_tunnel(true);
}

#[test]
fn broadcasts_reach_the_other_host_where_they_may() {
    in_namespace(async || {
        let mut pair = Pair::new(two(|host, world| tunnel(host, false, world)));
        let arrives = |pair: &Pair, patience| {
            let server = pair.containers[1]
                .within(|| UdpSocket::bind("0.0.0.0:99"))
                .unwrap();
            server.set_read_timeout(Some(patience)).unwrap();
            let client = pair.containers[0]
                .within(|| UdpSocket::bind("0.0.0.0:0"))
                .unwrap();
            client.set_broadcast(true).unwrap();
            client.send_to(b"x", "10.1.0.255:99").unwrap();
            server.recv(&mut [0; 4]).is_ok()
        };
        assert!(arrives(&pair, PATIENCE));
        let quiet = Value::Tunnel {
            bridge: name("tb-1"),
            isolated: false,
            multicast: false,
        };
        pair.worlds[0].insert(Key::Port(name("tbv1")), quiet);
        pair.settle(0);
        assert!(!arrives(&pair, DOUBT));
    });
}

#[test]
fn containers_reach_each_other_by_routes_with_their_own_addresses() {
    in_namespace(async || {
        let mut pair = Pair::new(two(routes));
        let all = |pair: &Pair, patience| {
            let ways = [
                (false, Proto::Tcp),
                (false, Proto::Udp),
                (true, Proto::Tcp),
                (true, Proto::Udp),
            ];
            let ways = ways.into_iter().flat_map(|way| [(way, 0), (way, 1)]);
            let seen = ways
                .map(|((v6, proto), host)| (container(v6, host), pair.seen_from(v6, host, proto, patience)));
            seen.collect::<Vec<_>>()
        };
        for (own, seen) in all(&pair, PATIENCE) {
            assert_eq!(seen, Some(own));
        }
        // Of an internal network as well; the other host itself is outside.
        for world in &mut pair.worlds {
            world.insert(Key::Guard(name("tb-1")), Value::Present);
        }
        pair.settle(0);
        pair.settle(1);
        for (own, seen) in all(&pair, PATIENCE) {
            assert_eq!(seen, Some(own));
        }
        for v6 in [false, true] {
            let to = SocketAddr::new(container(v6, 0), 80);
            let outside = ask(Proto::Tcp, &pair.hosts[1], to, &pair.containers[0], 80, DOUBT);
            assert_eq!(outside, None);
        }
        // Without the sets, they are masqueraded or dropped.
        for world in &mut pair.worlds {
            world.retain(|key, _| !matches!(key, Key::Remote(..)));
        }
        pair.settle(0);
        pair.settle(1);
        pair.hosts
            .iter()
            .for_each(|host| drop(host.run("conntrack -F 2>/dev/null || true")));
        for (own, seen) in all(&pair, DOUBT) {
            assert_eq!(seen, None, "{own}");
        }
    });
}
