//! Where packets go that concern somebody else's bridge which a network of ours uses, and a container on two networks.
//!
//! ```text
//!    outside ──wire── host  ── br0   10.5.0.1  ── n  .50  somebody else's machine
//!                           │                  ── c1 .2   a container of ours; 8082 leads to c1:80
//!                           ├─ tb-a  10.1.0.1  ── a1 .2
//!                           └─ tb-b  10.2.0.1  ── b1 .2
//! ```

use std::net::{IpAddr, SocketAddr};

use tombolo_core::model::{Mac, Proto};
use tombolo_core::world::{Family, Key, Value, World};

use crate::lab::{Namespace, in_namespace, make_forward, name, run, settle};
use crate::packets::{DOUBT, Lab, PATIENCE, ask, at, filter_bridged, give, wire};

/// A pair on a bridge, as facts.
fn pair(end: &str, bridge: &str, number: u8, world: &mut World) {
    let link = name(&format!("tbh{end}"));
    let mac = |last| Mac::from_bytes([6, 0x7b, 0, 0, number, last]).unwrap();
    let pair = Value::Veth {
        peer: name(&format!("tbc{end}")),
        peer_mac: mac(1),
        mac: mac(2),
        mtu: None,
    };
    let on = Value::On {
        bridge: name(bridge),
        isolated: false,
        hairpin: true,
    };
    world.extend([(Key::Link(link.clone()), pair), (Key::Port(link), on)]);
}

/// Published ports of both families and protocols.
fn publish(port: u16, to: impl Fn(bool) -> IpAddr, world: &mut World) {
    for v6 in [false, true] {
        let any = if v6 { "::" } else { "0.0.0.0" };
        for proto in [Proto::Tcp, Proto::Udp] {
            world.insert(
                Key::Publish(proto, any.parse().unwrap(), port),
                Value::To(to(v6), 80),
            );
        }
    }
}

struct Adopted {
    lab: Lab,
    n: Namespace,
    c1: Namespace,
}

/// Adds the bridge of somebody else's and the network on it.
async fn adopted() -> Adopted {
    let mut lab = Lab::new().await;
    run("ip link add br0 type bridge && ip link set br0 up && ip address add 10.5.0.1/24 dev br0 &&
         ip address add fd00:5::1/64 dev br0 nodad && ip link add nh type veth peer name nc && ip link set nh master br0 up");
    let br0 = name("br0");
    let mut world = lab.world.clone();
    world.insert(Key::Link(br0.clone()), Value::Adopted);
    world.insert(Key::Allow(br0.clone()), Value::Present);
    for v6 in [false, true] {
        world.insert(Key::Masquerade(br0.clone(), Family::of_v6(v6)), Value::Present);
        world.insert(Key::Member(br0.clone(), at(v6, 5, 2)), Value::Present);
        world.insert(
            Key::Address(
                br0.clone(),
                format!("{}/{}", at(v6, 5, 1), if v6 { 64 } else { 24 })
                    .parse()
                    .unwrap(),
            ),
            Value::Present,
        );
    }
    pair("c1", "br0", 5, &mut world);
    publish(8082, |v6| at(v6, 5, 2), &mut world);
    settle(&mut lab.kernel, &world).await;
    lab.world = world;
    let (n, c1) = (give("nc", 5, 50), give("tbcc1", 5, 2));
    Adopted { lab, n, c1 }
}

/// Tries everything with both families and protocols.
fn all_ways(others_pass: bool, bridged: u8) {
    in_namespace(async move || {
        filter_bridged(bridged);
        if !others_pass {
            make_forward();
        }
        let Adopted { lab, n, c1 } = adopted().await;
        let mut wrong = Vec::new();
        for (v6, proto) in [false, true]
            .into_iter()
            .flat_map(|v6| [(v6, Proto::Tcp), (v6, Proto::Udp)])
        {
            let (own, a1) = (|host| at(v6, 5, host), at(v6, 1, 2));
            let (eth, out) = (wire(v6, 1), wire(v6, 2));
            let if_passed = |seen| Some(seen).filter(|_| others_pass);
            #[rustfmt::skip] // A table: one way a line.
            let ways = [
                ("a neighbour out, as it is", &n, (out, 80), &lab.outside, 80, if_passed(own(50))),
                ("outside to a neighbour", &lab.outside, (own(50), 80), &n, 80, if_passed(out)),
                ("a container of another network to a neighbour", &lab.a1, (own(50), 80), &n, 80, Some(own(1))),
                ("a neighbour to a container of another network", &n, (a1, 80), &lab.a1, 80, None),
                ("a neighbour to another network's port", &n, (eth, 8080), &lab.a1, 80, Some(own(50))),
                ("a neighbour to a container", &n, (own(2), 80), &c1, 80, Some(own(50))),
                ("a container to a neighbour", &c1, (own(50), 80), &n, 80, Some(own(2))),
                ("a container out", &c1, (out, 80), &lab.outside, 80, Some(eth)),
                ("outside straight to a container", &lab.outside, (own(2), 80), &c1, 80, None),
                ("outside to its port", &lab.outside, (eth, 8082), &c1, 80, Some(out)),
                ("a neighbour to its port", &n, (own(1), 8082), &c1, 80, Some(own(1))),
                ("another network to its port", &lab.a1, (eth, 8082), &c1, 80, Some(a1)),
                ("another network straight to it", &lab.a1, (own(2), 80), &c1, 80, None),
                ("it to its own port", &c1, (eth, 8082), &c1, 80, Some(own(1))),
                ("the host to it", &lab.host, (own(2), 80), &c1, 80, Some(own(1))),
            ];
            for (what, client, (address, to_port), server, port, expected) in ways {
                let patience = if expected.is_some() { PATIENCE } else { DOUBT };
                let got = ask(
                    proto,
                    client,
                    SocketAddr::new(address, to_port),
                    server,
                    port,
                    patience,
                );
                if got != expected {
                    wrong.push(format!("{what} ({proto}, {address}): {got:?}, not {expected:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

#[test]
fn who_else_is_on_a_bridge_of_somebody_elses_is_outside() {
    all_ways(true, 0);
}

#[test]
fn who_else_is_on_a_bridge_of_somebody_elses_is_outside_where_forward_drops() {
    all_ways(false, 0);
}

#[test]
fn who_else_is_on_a_bridge_of_somebody_elses_is_outside_where_frames_are_filtered() {
    all_ways(true, 1);
}

#[test]
fn a_neighbour_on_somebody_elses_bridge_is_a_sender_like_any_other() {
    in_namespace(async || {
        let Adopted { mut lab, n, c1 } = adopted().await;
        let mut world = lab.world.clone();
        world.insert(Key::Restricted(name("br0")), Value::Present);
        for net in ["192.0.2.0/24", "2001:db8::/64"] {
            world.insert(Key::Publisher(name("br0"), net.parse().unwrap()), Value::Present);
        }
        settle(&mut lab.kernel, &world).await;
        for v6 in [false, true] {
            let port = |address| SocketAddr::new(address, 8082);
            let asked = |from, to, patience| ask(Proto::Tcp, from, port(to), &c1, 80, patience);
            assert_eq!(asked(&lab.outside, wire(v6, 1), PATIENCE), Some(wire(v6, 2)));
            assert_eq!(asked(&n, at(v6, 5, 1), DOUBT), None);
            // The network's own containers always may.
            assert_eq!(asked(&c1, wire(v6, 1), PATIENCE), Some(at(v6, 5, 1)));
        }
    });
}

#[test]
fn a_bridge_that_is_given_back_leaves_the_hosts_loopback_closed() {
    in_namespace(async || {
        let Adopted { mut lab, n, .. } = adopted().await;
        let localnet = || run("cat /proc/sys/net/ipv4/conf/br0/route_localnet");
        run("sysctl -w net.ipv4.conf.br0.route_localnet=1");
        n.run("ip address flush dev lo && ip route del local 127.0.0.1 dev lo table local; ip route del local 127.0.0.0/8 dev lo table local;
               sysctl -w net.ipv4.conf.all.route_localnet=1 && ip route add 127.0.0.1/32 via 10.5.0.1 src 10.5.0.50");
        let asked = |n: &Namespace| {
            let to = "127.0.0.1:7070".parse().unwrap();
            ask(Proto::Tcp, n, to, &Namespace::current(), 7070, DOUBT)
        };
        assert_eq!(asked(&n), None);
        let mut world = lab.world.clone();
        world.retain(|key, _| !format!("{key:?}").contains("br0") && !format!("{key:?}").contains("c1"));
        settle(&mut lab.kernel, &world).await;
        assert_eq!(localnet().trim(), "0");
        assert_eq!(asked(&n), None);
    });
}

#[test]
fn a_port_of_a_container_on_two_networks_is_reached_from_both() {
    in_namespace(async || {
        // Filtered frames are translated back on their way.
        filter_bridged(0);
        let mut lab = Lab::new().await;
        let mut world = lab.world.clone();
        pair("s1", "tb-a", 9, &mut world);
        pair("s2", "tb-b", 10, &mut world);
        publish(8083, |v6| at(v6, 1, 9), &mut world);
        settle(&mut lab.kernel, &world).await;
        let s = give("tbcs1", 1, 9);
        run(&format!("ip link set tbcs2 netns {}", s.path()));
        s.run(
            "ip link set tbcs2 name eth1 && ip link set eth1 up && ip address add 10.2.0.9/24 dev eth1 &&
               ip address add fd00:2::9/64 dev eth1 nodad",
        );
        let asked = |lab: &Lab, v6, patience| {
            let to = SocketAddr::new(wire(v6, 1), 8083);
            ask(Proto::Tcp, &lab.b1, to, &s, 80, patience)
        };
        for v6 in [false, true] {
            assert_eq!(
                asked(&lab, v6, DOUBT),
                None,
                "it answers straight to who asked, who does not know it"
            );
            world.insert(Key::Shared(name("tb-b"), at(v6, 1, 9)), Value::Present);
        }
        settle(&mut lab.kernel, &world).await;
        for v6 in [false, true] {
            assert_eq!(asked(&lab, v6, PATIENCE), Some(at(v6, 1, 1)));
            let to = SocketAddr::new(wire(v6, 1), 8083);
            assert_eq!(
                ask(Proto::Tcp, &lab.outside, to, &s, 80, PATIENCE),
                Some(wire(v6, 2))
            );
        }
    });
}
