//! What somebody does to facts of ours is noticed, and what we do ourselves is no surprise.

use std::time::Duration;

use tokio::time::timeout;
use tombolo::kernel::notice::{Notice, Noticed};
use tombolo::kernel::{Kernel, Real};
use tombolo_core::world::{Key, Value, World};

use crate::lab::{in_namespace, look, run, settle};
use crate::promises::one_of_each;

/// The facts that are noticed when they go.
fn of_peers() -> World {
    let kept = |key: &Key| {
        let base = matches!(
            key,
            Key::Link(_) | Key::Port(_) | Key::Address(..) | Key::Setting(_) | Key::Way(..)
        );
        base || key.is_of_peers() && !matches!(key, Key::Remote(..) | Key::Proxied(..))
    };
    one_of_each().into_iter().filter(|(key, _)| kept(key)).collect()
}

/// What is noticed of a command, once it says something of a fact.
async fn noticed_of(notice: &mut Notice, command: &str, key: &Key) -> Option<Value> {
    run(command);
    let mut noticed = Noticed::default();
    loop {
        timeout(Duration::from_secs(5), notice.noticed(&mut noticed))
            .await
            .unwrap_or_else(|_| panic!("nothing is noticed of {key:?} after {command}"))
            .unwrap();
        if let Some(value) = noticed.facts.remove(key) {
            return value;
        }
        noticed = Noticed::default();
    }
}

/// What is noticed until the kernel has nothing more to say, and differs from what holds.
async fn surprises(notice: &mut Notice, kernel: &mut impl Kernel) -> World {
    // What comes last tells that all before it has come.
    run("ip link add last group 29807 type veth peer name least && ip link delete last");
    let last = Key::Link("last".parse().unwrap());
    let mut all = Noticed::default();
    while !all.facts.contains_key(&last) {
        notice.catch_up(&mut all).unwrap();
        assert!(!all.missed);
        tokio::task::yield_now().await;
    }
    let world = look(kernel).await;
    let differs = |(key, value): (Key, Option<Value>)| {
        let same = match (world.get(&key), &value) {
            (Some(held), Some(value)) => held.holds_as(value),
            (held, value) => held.is_some() == value.is_some(),
        };
        (!same).then_some((key, value.unwrap_or(Value::Unfit("gone"))))
    };
    all.facts.into_iter().filter_map(differs).collect()
}

#[test]
fn what_we_do_ourselves_is_no_surprise() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let mut notice = Notice::new().await.unwrap();
        settle(&mut kernel, &of_peers()).await;
        assert_eq!(surprises(&mut notice, &mut kernel).await, World::new());
        settle(&mut kernel, &World::new()).await;
        assert_eq!(surprises(&mut notice, &mut kernel).await, World::new());
    });
}

#[test]
fn what_somebody_takes_away_or_turns_elsewhere_is_noticed() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let world = of_peers();
        settle(&mut kernel, &world).await;
        // It begins later than what it watches.
        let mut notice = Notice::new().await.unwrap();
        for (key, value) in world.iter().rev() {
            let (command, gone) = match (key, value) {
                (Key::Forward(link, mac), _) => (format!("bridge fdb delete {mac} dev {link} self"), true),
                (Key::Neighbour(link, address), _) => (format!("ip neigh delete {address} dev {link}"), true),
                (Key::Flood(link, group, vtep), _) => (
                    format!("bridge fdb delete {group} dev {link} self dst {vtep}"),
                    true,
                ),
                (Key::Route(net), _) => (format!("ip route delete {net} proto 116"), true),
                (Key::Way(link, to), _) => (format!("ip route delete {to} dev {link}"), true),
                // That a link is down is noticed of the link.
                (Key::Port(_), Value::Up) => continue,
                (Key::Address(link, address), _) => (format!("ip address delete {address} dev {link}"), true),
                (Key::Port(link), _) => (format!("ip link set {link} nomaster"), true),
                (Key::Link(link), _) => (format!("ip link set {link} up && ip link set {link} down"), false),
                _ => continue,
            };
            let noticed = noticed_of(&mut notice, &command, key).await;
            assert_eq!(noticed.is_none(), gone, "{command}: {noticed:?}");
        }
    });
}

#[test]
fn a_way_that_leads_elsewhere_is_noticed() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let world = of_peers();
        settle(&mut kernel, &world).await;
        let mut notice = Notice::new().await.unwrap();
        let (key, link, mac) = world
            .keys()
            .find_map(|key| match key {
                Key::Forward(link, mac) => Some((key, link, mac)),
                _ => None,
            })
            .unwrap();
        let Some(Value::Via(via)) = world.get(key) else {
            panic!("no way")
        };
        let elsewhere = if via.is_ipv6() {
            "2001:db8::99"
        } else {
            "192.0.2.99"
        };
        let command = format!("bridge fdb replace {mac} dev {link} self permanent dst {elsewhere}");
        let noticed = noticed_of(&mut notice, &command, key).await;
        assert_eq!(noticed, Some(Value::Via(elsewhere.parse().unwrap())));
    });
}
