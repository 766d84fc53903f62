//! Any world can be made of any other, on every kernel, and all of them come to the same.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use tombolo::kernel::{Fake, Kernel, Real};
use tombolo_core::model::{Group, IfName, Mac, Proto};
use tombolo_core::world::{Family, Hop, Key, Setting, Value, World};

use crate::lab::{assert_settled, block_on, look, make_forward, name, on, run, settle, without_settings};

/// How many pairs of worlds are tried on the real kernel.
const CASES: u32 = 40;

/// One network of a random world.
#[derive(Debug, Clone)]
struct Net {
    internal: bool,
    mtu: Option<u32>,
    mac: u8,
    gateway4: Option<u8>,
    gateway6: bool,
    masquerade: bool,
    accept_ra: u32,
    ports: Vec<(u8, u16, bool)>,
    tunnel: Option<Tunnel>,
    far: Option<u8>,
}

/// What a random network has of a tunnel.
#[derive(Debug, Clone)]
struct Tunnel {
    local: u8,
    mtu: Option<u32>,
    on_bridge: bool,
    isolated: bool,
    multicast: bool,
    entries: Vec<(u8, u8)>,
}

fn net() -> impl Strategy<Value = Net> {
    let shape = (
        any::<bool>(),
        select(vec![None, Some(1280), Some(1400), Some(9000)]),
        1..4u8,
    );
    let addresses = (proptest::option::of(1..4u8), any::<bool>());
    let rest = (
        any::<bool>(),
        0..2u32,
        vec((0..3u8, 80..84u16, any::<bool>()), 0..4),
    );
    let elsewhere = (proptest::option::of(tunnel()), proptest::option::of(1..4u8));
    (shape, addresses, rest, elsewhere).prop_map(
        |((internal, mtu, mac), (gateway4, gateway6), (masquerade, accept_ra, ports), (tunnel, far))| Net {
            internal,
            mtu,
            mac,
            gateway4,
            gateway6,
            masquerade,
            accept_ra,
            ports,
            tunnel,
            far,
        },
    )
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    let link = (1..4u8, select(vec![None, Some(1300), Some(1450)]));
    let port = (any::<bool>(), any::<bool>(), any::<bool>());
    let entries = vec((0..4u8, 0..4u8), 0..6);
    (link, port, entries).prop_map(
        |((local, mtu), (on_bridge, isolated, multicast), entries)| Tunnel {
            local,
            mtu,
            on_bridge,
            isolated,
            multicast,
            entries,
        },
    )
}

/// Networks by number, and endpoints by number on one of them.
fn world() -> impl Strategy<Value = World> {
    (
        btree_map(0..4u8, net(), 0..4),
        btree_map(0..5u8, any::<Index>(), 0..5),
    )
        .prop_map(|(nets, endpoints)| {
            let mut world = World::new();
            for (number, net) in &nets {
                add_net(&mut world, *number, net);
            }
            for (number, index) in endpoints.iter().filter(|_| !nets.is_empty()) {
                let bridge = bridge_name(*nets.keys().nth(index.index(nets.len())).unwrap());
                add_endpoint(&mut world, *number, bridge);
            }
            world
        })
}

fn bridge_name(number: u8) -> IfName {
    name(&format!("tb-{number}"))
}

fn mac(kind: u8, number: u8) -> Mac {
    Mac::from_bytes([0x02, 0x7b, 0, 0, kind, number]).unwrap()
}

fn add_net(world: &mut World, number: u8, net: &Net) {
    let bridge = bridge_name(number);
    world.insert(Key::Table, Value::Present);
    world.insert(Key::DockerAccept(Family::V4), Value::Present);
    world.insert(Key::DockerAccept(Family::V6), Value::Present);
    world.insert(
        Key::Link(bridge.clone()),
        Value::Bridge {
            mtu: net.mtu,
            // With another address the bridge would lose its neighbours.
            mac: mac(if net.tunnel.is_some() { 0 } else { net.mac }, number),
        },
    );
    world.insert(
        Key::Setting(Setting::AcceptRa(bridge.clone())),
        Value::Number(net.accept_ra),
    );
    world.insert(Key::Allow(bridge.clone()), Value::Present);
    if net.internal {
        world.insert(Key::Guard(bridge.clone()), Value::Present);
    }
    if net.masquerade {
        world.insert(Key::Masquerade(bridge.clone(), Family::V4), Value::Present);
    }
    // With its last address of IPv4 a bridge loses its neighbours of IPv4.
    let keeps = net.tunnel.is_some() || net.far.is_some();
    if let Some(last) = if keeps { Some(1) } else { net.gateway4 } {
        let gateway = format!("10.0.{number}.{last}/24").parse().unwrap();
        world.insert(Key::Address(bridge.clone(), gateway), Value::Present);
    }
    if net.gateway6 {
        let gateway = format!("fd00:{number}::1/64").parse().unwrap();
        world.insert(Key::Address(bridge.clone(), gateway), Value::Present);
    }
    if let Some(tunnel) = &net.tunnel {
        add_tunnel(world, number, tunnel);
    }
    if let Some(hops) = net.far {
        add_far(world, number, hops);
    }
    for (proto, port, any) in &net.ports {
        let proto = [Proto::Tcp, Proto::Udp, Proto::Sctp][usize::from(*proto)];
        let (host, to) = if net.gateway6 {
            ("::", "fd00::9")
        } else {
            ("0.0.0.0", "10.0.0.9")
        };
        let host = if *any { host } else { "192.0.2.1" };
        let to = if *any { to } else { "10.0.0.9" };
        let to = Value::To(to.parse().unwrap(), 8000 + u16::from(number));
        world.insert(Key::Publish(proto, host.parse().unwrap(), *port), to);
    }
}

/// Adds a tunnel and what is known of those behind it.
fn add_tunnel(world: &mut World, number: u8, tunnel: &Tunnel) {
    let (link, bridge) = (name(&format!("tbv{number}")), bridge_name(number));
    world.insert(Key::Tunnels, Value::Present);
    world.insert(
        Key::Link(link.clone()),
        Value::Vxlan {
            vni: 100 + u32::from(number),
            local: Ipv4Addr::new(192, 0, 2, tunnel.local).into(),
            port: 4789,
            mtu: tunnel.mtu,
        },
    );
    if tunnel.on_bridge {
        let through = Value::Tunnel {
            bridge: bridge.clone(),
            isolated: tunnel.isolated,
            multicast: tunnel.multicast,
        };
        world.insert(Key::Port(link.clone()), through);
        if tunnel.multicast {
            world.insert(Key::Querier(bridge.clone()), Value::Present);
        }
    }
    for (host, vtep) in &tunnel.entries {
        let vtep = Ipv4Addr::new(198, 51, 100, *vtep).into();
        let address = Ipv4Addr::new(10, 0, number, 100 + host).into();
        if tunnel.on_bridge {
            world.insert(Key::Forward(link.clone(), mac(0x20, *host)), Value::Via(vtep));
        }
        world.insert(Key::Flood(link.clone(), Group::BROADCAST, vtep), Value::Present);
        world.insert(
            Key::Neighbour(bridge.clone(), address),
            Value::Mac(mac(0x20, *host)),
        );
    }
}

/// Adds what other hosts have and is reached without a tunnel, by so many hops.
fn add_far(world: &mut World, number: u8, hops: u8) {
    let link = name("eth1");
    for v6 in [false, true] {
        let net: IpNet = match v6 {
            true => format!("fd00:{number}::8000/113").parse().unwrap(),
            false => format!("10.0.{number}.128/25").parse().unwrap(),
        };
        let via = |hop: u8| -> IpAddr {
            match v6 {
                true => format!("2001:db8::{hop}").parse().unwrap(),
                false => Ipv4Addr::new(192, 0, 2, hop).into(),
            }
        };
        let hop = |hop| Hop {
            via: via(hop),
            link: link.clone(),
        };
        world.insert(Key::Route(net), Value::Hops((1..=hops).map(hop).collect()));
        world.insert(Key::Remote(bridge_name(number), net), Value::Present);
        world.insert(Key::Proxied(bridge_name(number), net.addr()), Value::Present);
    }
}

fn add_endpoint(world: &mut World, number: u8, bridge: IfName) {
    let link = name(&format!("tbh{number}"));
    let peer = name(&format!("tbc{number}"));
    let value = Value::Veth {
        peer,
        peer_mac: mac(0x10, number),
        mac: mac(0x11, number),
        mtu: None,
    };
    world.insert(Key::Link(link.clone()), value);
    world.insert(Key::Port(link), on(&bridge));
}

/// Goes from nothing to each world in turn and back to nothing; gives what was seen on the way.
async fn walk(kernel: &mut impl Kernel, worlds: &[World]) -> Vec<Vec<Key>> {
    let mut seen = Vec::new();
    for world in worlds {
        settle(kernel, world).await;
        assert_settled(kernel, world).await;
        let found = without_settings(look(kernel).await);
        let wanted = without_settings(world.clone());
        assert!(
            found.keys().eq(wanted.keys()),
            "found {found:#?}, wanted {wanted:#?}"
        );
        seen.push(found.into_keys().collect());
    }
    settle(kernel, &World::new()).await;
    assert_eq!(without_settings(look(kernel).await), World::new());
    seen
}

fn runner(cases: u32) -> TestRunner {
    let persistence = FileFailurePersistence::Direct("tests/kernel_suite/random.seeds");
    TestRunner::new(Config {
        cases,
        failure_persistence: Some(Box::new(persistence)),
        ..Config::default()
    })
}

/// A fake host with a link to others.
fn fake() -> Fake {
    let mut fake = Fake::new();
    fake.put_foreign_link(name("eth1"));
    fake
}

#[test]
fn any_world_follows_any_other_on_the_fake() {
    let outcome = runner(1000).run(&vec(world(), 1..4), |worlds| {
        block_on(walk(&mut fake(), &worlds));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn any_world_follows_any_other_on_the_real_one_as_on_the_fake() {
    // The runner is not async: each case has a small runtime of its own, in this thread's namespace.
    std::thread::spawn(|| {
        crate::lab::enter_namespace();
        make_forward();
        run("ip link add eth1 type veth peer name wire && ip link set eth1 up && ip link set wire up");
        let outcome = runner(CASES).run(&vec(world(), 2..3), |worlds| {
            let on_fake = block_on(walk(&mut fake(), &worlds));
            let on_real = block_on(walk(&mut Real::new(), &worlds));
            prop_assert_eq!(on_fake, on_real);
            Ok(())
        });
        outcome.unwrap();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
