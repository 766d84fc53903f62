//! The promises of `trait Kernel`, for any kernel.

use tombolo::kernel::{Error, Kernel};
use tombolo_core::model::{Group, IfName, Mac, Proto};
use tombolo_core::modes::MacvlanMode;
use tombolo_core::world::{Family, Hop, Key, Setting, Step, Value, World, diff};

use crate::lab::{apply, assert_settled, look, name, on, setting, settle, without_settings};

fn mac(last: u8) -> Mac {
    Mac::from_bytes([0x02, 0x7b, 0, 0, 0, last]).unwrap()
}

pub fn bridge(mtu: Option<u32>, last: u8) -> Value {
    Value::Bridge { mtu, mac: mac(last) }
}

pub fn veth(end: &str, last: u8) -> Value {
    Value::Veth {
        peer: name(&format!("tbc{end}")),
        peer_mac: mac(last),
        mac: mac(last + 1),
        mtu: Some(1400),
    }
}

fn publish(proto: Proto, host: &str) -> Key {
    Key::Publish(proto, host.parse().unwrap(), 8080)
}

fn to(address: &str, port: u16) -> Value {
    Value::To(address.parse().unwrap(), port)
}

pub fn vxlan(local: &str, vni: u32, mtu: Option<u32>) -> Value {
    Value::Vxlan {
        vni,
        local: local.parse().unwrap(),
        port: 4789,
        mtu,
    }
}

pub fn on_wire(parent: &IfName, last: u8) -> Value {
    Value::Macvlan {
        parent: parent.clone(),
        mode: MacvlanMode::Bridge,
        mac: mac(last),
        mtu: None,
    }
}

pub fn through(bridge: &str, isolated: bool, multicast: bool) -> Value {
    Value::Tunnel {
        bridge: name(bridge),
        isolated,
        multicast,
    }
}

fn via(address: &str) -> Value {
    Value::Via(address.parse().unwrap())
}

fn neighbour(address: &str) -> Key {
    Key::Neighbour(name("tb-1"), address.parse().unwrap())
}

fn proxied(address: &str) -> Key {
    Key::Proxied(name("tb-1"), address.parse().unwrap())
}

fn flood(link: &str, group: Group, vtep: &str) -> (Key, Value) {
    (
        Key::Flood(name(link), group, vtep.parse().unwrap()),
        Value::Present,
    )
}

fn route(net: &str, hops: &[&str]) -> (Key, Value) {
    let hop = |via: &&str| Hop {
        via: via.parse().unwrap(),
        link: name("tb-1"),
    };
    (
        Key::Route(net.parse().unwrap()),
        Value::Hops(hops.iter().map(hop).collect()),
    )
}

/// Facts of every sort, in the order in which they must be made.
pub fn one_of_each() -> Vec<(Key, Value)> {
    let (br, other, host) = (name("tb-1"), name("a-name-of-15-by"), name("tbh1"));
    let shim = name("tbs1");
    let publisher = |link: &IfName, from: &str| Key::Publisher(link.clone(), from.parse().unwrap());
    let remote = |link: &IfName, net: &str| (Key::Remote(link.clone(), net.parse().unwrap()), Value::Present);
    let group = Group::of("224.0.0.251".parse().unwrap()).unwrap();
    let open = |address: &str| Key::Open(Proto::Tcp, address.parse().unwrap(), 80);
    let apart = Value::On {
        bridge: br.clone(),
        isolated: true,
        hairpin: true,
    };
    let facts = vec![
        (Key::Table, Value::Present),
        (Key::UserTable, Value::Present),
        (Key::Tunnels, Value::Present),
        (Key::Guard(br.clone()), Value::Present),
        (Key::Apart(br.clone()), Value::Present),
        (Key::Restricted(br.clone()), Value::Present),
        (
            Key::Member(br.clone(), "10.0.0.2".parse().unwrap()),
            Value::Present,
        ),
        (
            Key::Member(br.clone(), "fd00::2".parse().unwrap()),
            Value::Present,
        ),
        (Key::Link(other.clone()), bridge(None, 2)),
        (Key::Link(br.clone()), bridge(Some(1400), 1)),
        (Key::Link(host.clone()), veth("1", 0x10)),
        (Key::Link(shim.clone()), on_wire(&other, 0x30)),
        (Key::Link(name("tbv1")), vxlan("192.0.2.1", 4242, Some(1400))),
        (Key::Link(name("tbv2")), vxlan("2001:db8::1", 4243, None)),
        (Key::Child(name("tbc8")), on_wire(&other, 0x31)),
        setting(Setting::Forward4, 1),
        setting(Setting::Forward6, 1),
        setting(Setting::DisableIpv6(other.clone()), 1),
        setting(Setting::AcceptRa(br.clone()), 0),
        setting(Setting::RouteLocalnet(br.clone()), 1),
        setting(Setting::ProxyArp(br.clone()), 1),
        setting(Setting::ProxyNdp(br.clone()), 1),
        setting(Setting::AcceptDad(br.clone()), 0),
        setting(Setting::AcceptRa(shim.clone()), 0),
        setting(Setting::ArpFilter(shim.clone()), 1),
        setting(Setting::ArpAnnounce(shim.clone()), 2),
        setting(Setting::ProxyDelay(br.clone(), Family::V4), 0),
        setting(Setting::ProxyDelay(br.clone(), Family::V6), 0),
        (Key::Querier(br.clone()), Value::Present),
        (Key::Port(host.clone()), apart),
        (Key::Port(shim.clone()), Value::Up),
        (Key::Port(name("tbv1")), through("tb-1", false, true)),
        (Key::Port(name("tbv2")), through("a-name-of-15-by", true, false)),
        (
            Key::Address(br.clone(), "10.0.0.1/24".parse().unwrap()),
            Value::Present,
        ),
        (
            Key::Address(br.clone(), "fd00::1/64".parse().unwrap()),
            Value::Present,
        ),
        (
            Key::Address(shim.clone(), "198.51.100.2/32".parse().unwrap()),
            Value::Present,
        ),
        (
            Key::Way(shim.clone(), "198.51.100.7".parse().unwrap()),
            Value::Present,
        ),
        (Key::Way(shim, "2001:db8:1::7".parse().unwrap()), Value::Present),
        (Key::Loopback(br.clone()), Value::Present),
        (Key::Rate(host), Value::Rate(10_000_000)),
        (neighbour("10.0.0.70"), Value::Mac(mac(0x70))),
        (neighbour("fd00::70"), Value::Mac(mac(0x70))),
        (proxied("10.0.0.80"), Value::Present),
        (proxied("fd00::80"), Value::Present),
        (Key::Forward(name("tbv1"), mac(0x70)), via("192.0.2.2")),
        (Key::Forward(name("tbv1"), mac(0x71)), via("192.0.2.3")),
        (Key::Forward(name("tbv2"), mac(0x70)), via("2001:db8::2")),
        flood("tbv1", group, "192.0.2.2"),
        flood("tbv1", Group::BROADCAST, "192.0.2.2"),
        flood("tbv1", Group::BROADCAST, "192.0.2.3"),
        flood("tbv2", Group::BROADCAST, "2001:db8::2"),
        remote(&br, "10.0.0.64/26"),
        remote(&br, "10.0.0.192/27"),
        remote(&br, "fd00::4000/114"),
        route("10.0.0.64/26", &["192.0.2.2"]),
        route("10.0.0.192/27", &["192.0.2.2", "192.0.2.3"]),
        route("fd00::4000/114", &["2001:db8::2"]),
        route("fd00::8000/114", &["2001:db8::2", "2001:db8::3", "2001:db8::4"]),
        (Key::Masquerade(br.clone(), Family::V4), Value::Present),
        (Key::Masquerade(br.clone(), Family::V6), Value::Present),
        (
            Key::Source(br.clone(), Family::V4),
            Value::Ip("192.0.2.1".parse().unwrap()),
        ),
        (
            Key::Source(br.clone(), Family::V6),
            Value::Ip("2001:db8::1".parse().unwrap()),
        ),
        (Key::Foreign(name("docker7")), Value::Present),
        (Key::Allow(br.clone()), Value::Present),
        (Key::DockerAccept(Family::V4), Value::Present),
        (Key::DockerAccept(Family::V6), Value::Present),
        (Key::LoopbackPorts, Value::Present),
        (publisher(&br, "0.0.0.0/1"), Value::Present),
        (publisher(&br, "192.0.2.7/32"), Value::Present),
        (publisher(&br, "2001:db8::/32"), Value::Present),
        (Key::Trusted(name("eth1"), br.clone()), Value::Present),
        (Key::Routed(br.clone(), Family::V4), Value::Present),
        (Key::Unprotected(br.clone(), Family::V6), Value::Present),
        (
            Key::Shared(br.clone(), "10.0.0.2".parse().unwrap()),
            Value::Present,
        ),
        (Key::Shared(br, "fd00::2".parse().unwrap()), Value::Present),
        (open("10.0.0.2"), Value::Present),
        (open("fd00::2"), Value::Present),
        (publish(Proto::Tcp, "192.0.2.1"), to("10.0.0.2", 80)),
        (publish(Proto::Udp, "0.0.0.0"), to("10.0.0.2", 80)),
        (publish(Proto::Sctp, "2001:db8::1"), to("fd00::2", 80)),
        (publish(Proto::Tcp, "::"), to("fd00::2", 80)),
    ];
    facts
}

/// Whether a world has a fact as it was asked for.
fn shows(world: &World, key: &Key, value: &Value) -> bool {
    let wanted = World::from([(key.clone(), value.clone())]);
    diff(&wanted, world).iter().all(Step::removes)
}

pub async fn a_new_host_has_nothing_of_ours(mut kernel: impl Kernel) {
    assert_eq!(without_settings(look(&mut kernel).await), World::new());
}

pub async fn what_was_added_shows_and_what_was_removed_does_not(mut kernel: impl Kernel) {
    for (key, value) in one_of_each() {
        apply(&mut kernel, Step::Add(key.clone(), value.clone())).await;
        let world = look(&mut kernel).await;
        assert!(shows(&world, &key, &value), "{key:?}: {:?}", world.get(&key));
    }
    let world: World = one_of_each().into_iter().collect();
    assert_settled(&mut kernel, &world).await;
    for (key, value) in one_of_each()
        .into_iter()
        .rev()
        .filter(|(key, _)| !matches!(key, Key::Setting(_)))
    {
        let before = look(&mut kernel).await;
        apply(&mut kernel, Step::Remove(key.clone(), value)).await;
        let mut after = look(&mut kernel).await;
        // Where there is nothing to overrule, the accept goes with the table.
        let goes_with_table = matches!(key, Key::DockerAccept(_)) && after.contains_key(&key);
        assert!(goes_with_table || !after.contains_key(&key), "{key:?}");
        // Nothing else went with it, but what cannot be without it.
        after.insert(key.clone(), before[&key].clone());
        let lost: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).collect();
        let of_link = |lost: &&&Key| match lost {
            Key::Setting(setting) => setting.link().is_some_and(|link| Key::Link(link.clone()) == key),
            Key::DockerAccept(_) => key == Key::Table,
            _ => false,
        };
        assert_eq!(
            lost.iter().filter(|key| !of_link(key)).count(),
            0,
            "{key:?} took {lost:?}"
        );
    }
    assert_eq!(without_settings(look(&mut kernel).await), World::new());
}

pub async fn a_step_may_be_repeated(mut kernel: impl Kernel) {
    for (key, value) in one_of_each() {
        let step = Step::Add(key, value);
        apply(&mut kernel, step.clone()).await;
        let before = look(&mut kernel).await;
        apply(&mut kernel, step).await;
        assert_eq!(look(&mut kernel).await, before);
    }
    for (key, value) in one_of_each().into_iter().rev() {
        let step = Step::Remove(key, value);
        apply(&mut kernel, step.clone()).await;
        let before = look(&mut kernel).await;
        apply(&mut kernel, step).await;
        assert_eq!(look(&mut kernel).await, before);
    }
}

pub async fn what_was_changed_shows(mut kernel: impl Kernel) {
    let world: World = one_of_each().into_iter().collect();
    settle(&mut kernel, &world).await;
    let (br, other) = (name("tb-1"), name("a-name-of-15-by"));
    let tunnel = Key::Link(name("tbv1"));
    let changes = [
        (Key::Table, Value::Present),
        (Key::Link(br.clone()), bridge(Some(1300), 1)),
        (Key::Link(br.clone()), bridge(Some(1300), 7)),
        (Key::Link(br.clone()), bridge(None, 8)),
        (Key::Link(name("tbh1")), veth("1", 0x10)),
        setting(Setting::AcceptRa(br.clone()), 2),
        (Key::Port(name("tbh1")), on(&other)),
        (Key::Rate(name("tbh1")), Value::Rate(100_000_000_000)),
        (
            Key::Source(br.clone(), Family::V4),
            Value::Ip("192.0.2.9".parse().unwrap()),
        ),
        (publish(Proto::Tcp, "0.0.0.0"), to("10.0.0.3", 81)),
        (publish(Proto::Tcp, "0.0.0.0"), to("10.0.0.3", 82)),
        (publish(Proto::Tcp, "0.0.0.0"), to("10.0.0.4", 82)),
        (Key::Tunnels, Value::Present),
        (neighbour("10.0.0.70"), Value::Mac(mac(0x75))),
        (neighbour("fd00::70"), Value::Mac(mac(0x75))),
        (Key::Forward(name("tbv1"), mac(0x70)), via("192.0.2.3")),
        route("10.0.0.64/26", &["192.0.2.2", "192.0.2.3"]),
        route("10.0.0.64/26", &["192.0.2.3", "192.0.2.2"]),
        route("10.0.0.64/26", &["192.0.2.4"]),
        route("fd00::4000/114", &["2001:db8::2", "2001:db8::3"]),
        route("fd00::4000/114", &["2001:db8::3", "2001:db8::5", "2001:db8::2"]),
        route("fd00::4000/114", &["2001:db8::1:1", "2001:db8::2"]),
        route("fd00::4000/114", &["2001:db8::9"]),
        (tunnel.clone(), vxlan("192.0.2.1", 4242, Some(1300))),
        (tunnel.clone(), vxlan("192.0.2.9", 4242, None)),
        // The kernel is to choose the source, and what the tunnel leads to stays.
        (tunnel.clone(), vxlan("0.0.0.0", 4242, None)),
        (Key::Port(name("tbv1")), through("tb-1", true, false)),
        (Key::Port(name("tbv1")), through("a-name-of-15-by", false, true)),
        (Key::Forward(name("tbv1"), mac(0x70)), via("192.0.2.4")),
        // What the kernel changes in no link.
        (tunnel.clone(), vxlan("192.0.2.1", 4244, Some(1300))),
        (tunnel.clone(), vxlan("2001:db8::1", 4244, Some(1300))),
        (tunnel, bridge(None, 5)),
    ];
    for (key, value) in changes {
        let found = look(&mut kernel)
            .await
            .get(&key)
            .cloned()
            .unwrap_or_else(|| to("10.9.9.9", 1));
        apply(&mut kernel, Step::Change(key.clone(), found, value.clone())).await;
        let world = look(&mut kernel).await;
        assert!(shows(&world, &key, &value), "{key:?}: {:?}", world.get(&key));
    }
}

pub async fn what_is_gone_may_be_removed(mut kernel: impl Kernel) {
    for (key, value) in one_of_each() {
        apply(&mut kernel, Step::Remove(key, value)).await;
    }
    assert_eq!(without_settings(look(&mut kernel).await), World::new());
}

pub async fn removing_a_bridge_takes_what_was_on_it(mut kernel: impl Kernel) {
    let world: World = one_of_each().into_iter().collect();
    settle(&mut kernel, &world).await;
    let br = name("tb-1");
    apply(&mut kernel, Step::Remove(Key::Link(br.clone()), bridge(None, 1))).await;
    let after = look(&mut kernel).await;
    let with_bridge = |key: &Key| match key {
        Key::Link(link) | Key::Address(link, _) | Key::Loopback(link) | Key::Querier(link) => *link == br,
        Key::Neighbour(..) | Key::Proxied(..) | Key::Route(_) => true,
        Key::Port(link) => ![name("tbv2"), name("tbs1")].contains(link),
        Key::Setting(setting) => setting.link() == Some(&br),
        _ => false,
    };
    for key in world.keys() {
        assert_eq!(after.contains_key(key), !with_bridge(key), "{key:?}");
    }
    // What the bridge knew of the tunnel went as well.
    let half = &after[&Key::Forward(name("tbv1"), mac(0x70))];
    assert!(matches!(half, Value::Unfit(_)), "{half:?}");
    apply(
        &mut kernel,
        Step::Remove(Key::Link(name("tbh1")), veth("1", 0x10)),
    )
    .await;
    settle(&mut kernel, &world).await;
    assert_settled(&mut kernel, &world).await;
    apply(
        &mut kernel,
        Step::Remove(Key::Link(name("tbh1")), veth("1", 0x10)),
    )
    .await;
    assert!(!look(&mut kernel).await.contains_key(&Key::Port(name("tbh1"))));
}

pub async fn a_table_is_loaded_with_its_elements_at_once(mut kernel: impl Kernel) {
    let world: World = one_of_each().into_iter().collect();
    settle(&mut kernel, &world).await;
    let elements = |world: &World| -> World {
        let elements = world.iter().filter(|(key, _)| key.is_element());
        elements
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let all = elements(&world);
    assert!(all.len() > 15);
    kernel.load(&World::new()).await.unwrap();
    assert_eq!(elements(&look(&mut kernel).await), World::new());
    kernel.load(&all).await.unwrap();
    assert_eq!(elements(&look(&mut kernel).await), all);
    assert_settled(&mut kernel, &world).await;
}

pub async fn a_new_table_has_no_elements(mut kernel: impl Kernel) {
    let world: World = one_of_each().into_iter().collect();
    settle(&mut kernel, &world).await;
    apply(&mut kernel, Step::Add(Key::Table, Value::Present)).await;
    assert_eq!(
        look(&mut kernel)
            .await
            .keys()
            .filter(|key| key.is_element())
            .count(),
        0
    );
    settle(&mut kernel, &world).await;
    assert_settled(&mut kernel, &world).await;
}

pub async fn a_refused_step_changes_nothing(mut kernel: impl Kernel) {
    let (br, no) = (name("tb-1"), name("tb-none"));
    let address = |text: &str| text.parse().unwrap();
    let address_of = |text: &str| -> std::net::IpAddr { text.parse().unwrap() };
    let without_anything = [
        (Key::Guard(br.clone()), Value::Present),
        (Key::Allow(br.clone()), Value::Present),
        (Key::Masquerade(br.clone(), Family::V4), Value::Present),
        (Key::DockerAccept(Family::V4), Value::Present),
        (publish(Proto::Tcp, "::"), to("fd00::2", 80)),
        (Key::Port(name("tbh1")), on(&br)),
        (Key::Rate(name("tbh1")), Value::Rate(8_000)),
        (Key::Loopback(br.clone()), Value::Present),
        (Key::Querier(br.clone()), Value::Present),
        (Key::Link(br.clone()), Value::Adopted),
        (Key::Address(br.clone(), address("10.0.0.1/24")), Value::Present),
        setting(Setting::AcceptRa(br.clone()), 0),
        setting(Setting::ProxyDelay(br.clone(), Family::V6), 0),
        (Key::Port(name("tbv1")), through("tb-1", false, true)),
        (neighbour("10.0.0.70"), Value::Mac(mac(0x70))),
        (proxied("fd00::80"), Value::Present),
        (Key::Forward(name("tbv1"), mac(0x70)), via("192.0.2.2")),
        flood("tbv1", Group::BROADCAST, "192.0.2.2"),
        route("10.0.0.64/26", &["192.0.2.2"]),
        route("fd00::4000/114", &["2001:db8::2"]),
        (
            Key::Remote(br.clone(), "10.0.0.64/26".parse().unwrap()),
            Value::Present,
        ),
    ];
    for (key, value) in without_anything {
        refused(&mut kernel, Step::Add(key, value)).await;
    }
    settle(&mut kernel, &one_of_each().into_iter().collect()).await;
    let lone = name("tbv3");
    apply(
        &mut kernel,
        Step::Add(Key::Link(lone.clone()), vxlan("192.0.2.1", 4299, None)),
    )
    .await;
    let add = |(key, value)| Step::Add(key, value);
    let forward = |link: &IfName, vtep| Step::Add(Key::Forward(link.clone(), mac(0x72)), via(vtep));
    let with_all = [
        // A VXLAN link that is on no bridge, of another family, with the number of another one, with one that is none.
        forward(&lone, "192.0.2.2"),
        forward(&name("tbv1"), "2001:db8::2"),
        forward(&name("tbv2"), "192.0.2.2"),
        forward(&br, "192.0.2.2"),
        forward(&name("tbh1"), "192.0.2.2"),
        add(flood("tbv1", Group::BROADCAST, "2001:db8::2")),
        add(flood("tb-1", Group::BROADCAST, "192.0.2.2")),
        Step::Add(Key::Link(name("tbv4")), vxlan("192.0.2.7", 4242, None)),
        Step::Add(Key::Link(name("tbv4")), vxlan("192.0.2.7", 1 << 24, None)),
        Step::Add(Key::Link(lone.clone()), vxlan("192.0.2.2", 4299, None)),
        Step::Add(Key::Link(lone.clone()), vxlan("192.0.2.1", 4300, None)),
        Step::Add(Key::Port(name("tbv1")), on(&br)),
        Step::Add(Key::Querier(name("tbh1")), Value::Present),
        Step::Add(Key::Port(name("tbh1")), through("tb-1", false, true)),
        Step::Add(Key::Port(lone.clone()), through("tbh1", false, true)),
        Step::Add(
            Key::Neighbour(lone.clone(), address_of("10.0.0.70")),
            Value::Mac(mac(0x70)),
        ),
        Step::Add(Key::Proxied(lone, address_of("fd00::80")), Value::Present),
        Step::Add(neighbour("10.0.0.70"), Value::Present),
        Step::Add(Key::Route(address("10.9.0.0/24")), Value::Hops(Vec::new())),
        add(route("10.9.0.0/24", &["2001:db8::2"])),
        add(route("fd09::/64", &["192.0.2.2"])),
        add(route("10.9.0.1/24", &["192.0.2.2"])),
        add(route("fd09::1/64", &["2001:db8::2"])),
        Step::Add(
            Key::Route(address("10.9.0.0/24")),
            Value::Hops(vec![Hop {
                via: address_of("192.0.2.2"),
                link: no.clone(),
            }]),
        ),
        Step::Add(Key::Link(br.clone()), bridge(Some(1300), 1)),
        Step::Add(Key::Link(br.clone()), bridge(Some(1400), 9)),
        Step::Add(Key::Link(br.clone()), veth("9", 0x20)),
        Step::Add(Key::Link(no.clone()), bridge(Some(70_000), 9)),
        Step::Add(Key::Link(name("tbh1")), bridge(None, 9)),
        // The name of the other end is taken, by the end of another pair.
        Step::Add(Key::Link(name("tbh2")), veth("1", 0x20)),
        Step::Change(Key::Link(no.clone()), bridge(None, 9), bridge(None, 8)),
        Step::Add(Key::Port(name("tbh1")), on(&no)),
        Step::Add(Key::Port(no.clone()), on(&br)),
        Step::Add(Key::Address(no.clone(), address("10.0.0.1/24")), Value::Present),
        Step::Add(Key::Address(br.clone(), address("fe80::1/64")), Value::Present),
        Step::Add(Key::Address(br, address("fd00::1/48")), Value::Present),
        Step::Add(publish(Proto::Udp, "0.0.0.0"), to("10.0.0.3", 80)),
        Step::Add(publish(Proto::Udp, "0.0.0.0"), to("fd00::3", 80)),
        Step::Add(Key::Setting(Setting::AcceptRa(name("tbh1"))), Value::Number(0)),
        Step::Add(Key::Table, Value::Number(1)),
    ];
    for step in with_all {
        refused(&mut kernel, step).await;
    }
}

/// Asserts that a step is refused, in words that name it, and that all is as before.
async fn refused(kernel: &mut impl Kernel, step: Step) {
    let before = look(kernel).await;
    let answer = kernel.apply(&step).await;
    let Err(Error::Refused { step: text, why }) = answer else {
        panic!("{step}: {answer:?}")
    };
    assert_eq!(text, step.to_string());
    assert!(!why.is_empty());
    assert_eq!(look(kernel).await, before, "{step}");
}

pub async fn a_whole_world_comes_and_goes(mut kernel: impl Kernel) {
    let world: World = one_of_each().into_iter().collect();
    for _ in 0..2 {
        settle(&mut kernel, &world).await;
        assert_settled(&mut kernel, &world).await;
        settle(&mut kernel, &World::new()).await;
        assert_settled(&mut kernel, &World::new()).await;
        assert_eq!(without_settings(look(&mut kernel).await), World::new());
    }
}

pub async fn a_bridge_keeps_the_mtu_that_was_asked_for(mut kernel: impl Kernel) {
    // A bridge whose MTU was only given as it was made takes its ports' as soon as there are any.
    for (number, mtu) in [(1, 1280), (2, 1500), (3, 1600)] {
        let (br, host) = (name(&format!("tb-{number}")), name(&format!("tbh{number}")));
        let (peer, host_mtu) = (name(&format!("tbc{number}")), Some(1550));
        let pair = Value::Veth {
            peer,
            peer_mac: mac(0x20),
            mac: mac(0x21),
            mtu: host_mtu,
        };
        let world = World::from([
            (Key::Link(br.clone()), bridge(Some(mtu), number)),
            (Key::Link(host.clone()), pair),
            (Key::Port(host), on(&br)),
        ]);
        settle(&mut kernel, &world).await;
        assert_settled(&mut kernel, &world).await;
    }
}

pub async fn a_dropped_future_leaves_a_kernel_that_works(mut kernel: impl Kernel) {
    let world: World = one_of_each().into_iter().collect();
    for desired in [&world, &World::new(), &world] {
        let steps = diff(desired, &look(&mut kernel).await);
        for step in steps {
            begin(kernel.apply(&step)).await;
            begin(kernel.observe()).await;
            // Done or not, it can be done.
            apply(&mut kernel, step).await;
        }
        settle(&mut kernel, desired).await;
        assert_settled(&mut kernel, desired).await;
    }
}

/// Begins something and drops it as soon as it would wait.
async fn begin<T>(future: impl Future<Output = T>) {
    tokio::select! {
        biased;
        done = future => drop(done),
        () = std::future::ready(()) => {}
    }
}

pub async fn links_that_are_removed_together_go_with_what_is_on_them(mut kernel: impl Kernel) {
    let all: World = one_of_each().into_iter().collect();
    settle(&mut kernel, &all).await;
    let end = |number: u8| {
        (
            name(&format!("tbh4{number}")),
            veth(&format!("tbc4{number}"), 0x40 + 2 * number),
        )
    };
    let ends: Vec<_> = (0..5).map(end).collect();
    for (link, value) in &ends {
        apply(&mut kernel, Step::Add(Key::Link(link.clone()), value.clone())).await;
        apply(&mut kernel, Step::Add(Key::Port(link.clone()), on(&name("tb-1")))).await;
    }
    // One is gone already.
    apply(
        &mut kernel,
        Step::Remove(Key::Link(ends[2].0.clone()), ends[2].1.clone()),
    )
    .await;
    let remove = |(link, value): &(IfName, Value)| Step::Remove(Key::Link(link.clone()), value.clone());
    let steps: Vec<Step> = ends.iter().map(remove).collect();
    assert!(kernel.remove_links(&steps).await.iter().all(Result::is_ok));
    assert_settled(&mut kernel, &all).await;
    // A bridge with its ports, a tunnel among them.
    let links = all.iter().filter_map(|(key, value)| match (key, value) {
        (Key::Link(link), Value::Veth { .. } | Value::Bridge { .. } | Value::Vxlan { .. }) => {
            Some((link.clone(), value.clone()))
        }
        _ => None,
    });
    let links: Vec<(IfName, Value)> = links.collect();
    assert!(links.len() > 3);
    let steps: Vec<Step> = links.iter().map(remove).collect();
    assert!(kernel.remove_links(&steps).await.iter().all(Result::is_ok));
    let gone = |key: &Key| {
        key.on()
            .is_some_and(|link| links.iter().any(|(name, _)| name == link))
    };
    let left = without_settings(look(&mut kernel).await);
    let on_gone: Vec<&Key> = left.keys().filter(|key| gone(key)).collect();
    assert!(on_gone.is_empty(), "{on_gone:?}");
    let elements: Vec<&Key> = all.keys().filter(|key| key.is_element()).collect();
    assert!(elements.iter().all(|key| left.contains_key(key)), "elements stay");
}

/// A look beside all else finds what any look finds, and what is done meanwhile may be found or not.
pub async fn a_look_beside_all_else_finds_the_same(mut kernel: impl Kernel) {
    settle(&mut kernel, &one_of_each().into_iter().collect()).await;
    let all = look(&mut kernel).await;
    assert_eq!(kernel.observe_beside().await.unwrap(), all);
    let new = (Key::Allow(name("tb-5")), Value::Present);
    let under_way = kernel.observe_beside();
    apply(&mut kernel, Step::Add(new.0.clone(), new.1.clone())).await;
    let mut found = under_way.await.unwrap();
    found.remove(&new.0);
    assert_eq!(found, all);
    found.extend([new]);
    assert_eq!(kernel.observe_beside().await.unwrap(), found);
}

pub async fn many_steps_at_once_have_a_result_each(mut kernel: impl Kernel) {
    const MANY: u32 = 1_000;
    settle(&mut kernel, &one_of_each().into_iter().collect()).await;
    let before = look(&mut kernel).await;
    let entries = |number: u32| {
        let [.., high, low] = number.to_be_bytes();
        let mac = Mac::from_bytes([2, 0x7b, 9, 9, high, low]).unwrap();
        let address = std::net::Ipv4Addr::from_bits(0x0a00_1000 + number).into();
        [
            (Key::Neighbour(name("tb-1"), address), Value::Mac(mac)),
            (Key::Forward(name("tbv1"), mac), via("192.0.2.2")),
        ]
    };
    let mut steps: Vec<Step> = (0..MANY)
        .flat_map(entries)
        .map(|(key, value)| Step::Add(key, value))
        .collect();
    let wrong = steps.len() / 2 + 1;
    // On a link that isn't there, among those that are sent together.
    let nowhere = Key::Forward(name("tbv9"), mac(1));
    steps.insert(wrong, Step::Add(nowhere, via("192.0.2.2")));
    let results = kernel.apply_all(&steps).await;
    assert_eq!(results.len(), steps.len());
    let refused = |(number, result): (usize, &Result<(), Error>)| result.is_err().then_some(number);
    let all: Vec<usize> = results.iter().enumerate().filter_map(refused).collect();
    assert_eq!(all, [wrong], "{:?}", results[wrong]);
    assert!(matches!(&results[wrong], Err(Error::Refused { step, .. }) if *step == steps[wrong].to_string()));
    let mut expected = before.clone();
    expected.extend((0..MANY).flat_map(entries));
    assert_eq!(look(&mut kernel).await, expected);

    // Some are gone already, so that the kernel refuses a batch; and a step of another sort stands between.
    let mut steps: Vec<Step> = (0..MANY)
        .flat_map(entries)
        .map(|(key, value)| Step::Remove(key, value))
        .collect();
    for step in &steps[300..305] {
        apply(&mut kernel, step.clone()).await;
    }
    steps.insert(700, Step::Remove(Key::Guard(name("tb-9")), Value::Present));
    let results = kernel.apply_all(&steps).await;
    assert_eq!(results.len(), steps.len());
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(look(&mut kernel).await, before);
    assert!(kernel.apply_all(&[]).await.is_empty());
}
