//! What is somebody else's is neither seen nor touched.

use std::time::Duration;

use tokio::time::timeout;
use tombolo::kernel::watch::Watch;
use tombolo::kernel::{Error, Fake, Kernel, Real};
use tombolo_core::model::Group;
use tombolo_core::world::{Key, Setting, Step, Value, World};

use crate::lab::{
    apply, attempt, in_namespace, look, make_forward, name, on, run, setting, settle, without_settings,
};
use crate::promises::{bridge, one_of_each, through, veth, vxlan};

/// A host with all sorts of things of others, some named like ours.
const OTHERS: [&str; 13] = [
    "ip link add docker0 type bridge && ip link set docker0 up && ip address add 172.17.0.1/16 dev docker0",
    "ip link add tb-else type bridge && ip address add 10.1.0.1/24 dev tb-else && ip -6 address add fd01::1/64 dev tb-else",
    "ip link add tbh9 type veth peer name tbc9 && ip link set tbh9 master tb-else up",
    "ip link add eth9 type veth peer name wire && ip link set eth9 up && ip address add 192.0.2.9/24 dev eth9",
    "nft add table inet other && nft add set inet other internal '{ type ifname; }' && nft add element inet other internal '{ eth9 }'",
    "nft add table ip tombolo && nft add chain ip tombolo forward '{ type filter hook forward priority 0; }'",
    "iptables -A FORWARD -i tombolo -m comment --comment tombolo -j ACCEPT",
    "iptables -A FORWARD -m mark --mark 0x8000000/0x8000000 -j ACCEPT",
    // A tunnel of theirs, named like ours, with entries like ours.
    "ip link add tbv9 up type vxlan id 9 local 192.0.2.9 dstport 4789 nolearning && ip link set tbv9 master docker0 && ip link set tbv9 type bridge_slave learning off &&
     bridge fdb add 02:00:00:00:00:09 dev tbv9 self master static dst 192.0.2.2 && bridge fdb append ff:ff:ff:ff:ff:ff dev tbv9 dst 192.0.2.2",
    "ip neigh add 172.17.0.9 lladdr 02:00:00:00:00:09 dev docker0 nud permanent && ip neigh add proxy fd01::9 dev docker0",
    // Prefixes of ours with other metrics, and our number elsewhere.
    "ip route add 10.0.0.64/26 via 192.0.2.8 dev eth9 && ip route add blackhole 10.0.0.192/27 metric 7 && ip route add 10.9.0.0/24 dev eth9 proto 116",
    "ip route add 10.9.0.0/24 dev eth9 proto 116 metric 29807 table 7 && ip -6 route add blackhole fd00::4000/114 metric 9",
    "nft add table bridge other && nft add table bridge tombolo-user && nft add chain bridge other forward '{ type filter hook forward priority -10; }' &&
     nft add rule bridge other forward ether type arp accept",
];

/// All that somebody could miss, line by line, without what changes by itself.
fn inventory() -> Vec<String> {
    let commands = [
        // That nobody is at the other end the kernel notes when it likes.
        "ip -o link show | sed 's/ state .*link/ link/; s/NO-CARRIER,//'",
        "ip -o address show | sed 's/ tentative//'",
        "bridge link show | sed 's/ state.*//; s/NO-CARRIER,//'",
        "nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'",
        "iptables -S && ip6tables -S",
        "bridge fdb show",
        "ip neigh show nud permanent && ip neigh show proxy && ip -6 neigh show proxy",
        // The kernel's own routes of a link's link-local address come when that is known to be nobody else's.
        "(ip route show table all; ip -6 route show table all) | sed 's/ linkdown//' | grep -v -e fe80: -e ff00:",
        "sysctl -a 2>/dev/null | grep -E '(accept_ra|disable_ipv6|route_localnet|promote_secondaries|proxy_.*) ='",
    ];
    commands
        .iter()
        .flat_map(|command| run(command).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn others_are_unseen_and_untouched() {
    in_namespace(async || {
        make_forward();
        OTHERS.iter().for_each(|command| drop(run(command)));
        let mut kernel = Real::new();
        assert_eq!(without_settings(look(&mut kernel).await), World::new());
        // Forwarding lets the kernel join a multicast group on each link; it is not ours to hide.
        settle(&mut kernel, &World::from([setting(Setting::Forward4, 1)])).await;
        let before = inventory();
        settle(
            &mut kernel,
            &one_of_each()
                .into_iter()
                .filter(|(key, _)| *key != Key::Setting(Setting::Forward6))
                .collect(),
        )
        .await;
        assert_ne!(inventory(), before);
        settle(&mut kernel, &World::new()).await;
        assert_eq!(inventory(), before);
    });
}

/// Whatever is believed of them.
#[test]
fn addresses_that_an_adopted_bridge_had_before_are_never_taken_away() {
    in_namespace(async || {
        run(
            "ip link add br0 type bridge && ip link set br0 up && ip address add 10.5.0.1/24 dev br0 &&
             ip address add fd00:5::1/64 dev br0 nodad",
        );
        let br0 = name("br0");
        let of = |address: &str| Key::Address(br0.clone(), address.parse().unwrap());
        let theirs = [of("10.5.0.1/24"), of("fd00:5::1/64")];
        let ours = of("10.6.0.1/24");
        let mut kernel = Real::new();
        apply(&mut kernel, Step::Add(Key::Link(br0.clone()), Value::Adopted)).await;
        for key in theirs.iter().chain([&ours]) {
            apply(&mut kernel, Step::Add(key.clone(), Value::Present)).await;
        }
        for key in theirs.iter().chain([&ours]) {
            apply(&mut kernel, Step::Remove(key.clone(), Value::Present)).await;
        }
        let found = look(&mut kernel).await;
        assert!(theirs.iter().all(|key| found.get(key) == Some(&Value::Theirs)));
        assert!(!found.contains_key(&ours));
    });
}

#[test]
fn no_step_changes_a_link_that_is_not_ours() {
    in_namespace(async || {
        OTHERS.iter().for_each(|command| drop(run(command)));
        let mut kernel = Real::new();
        let before = inventory();
        let els = name("tb-else");
        let (mac, vtep) = ("02:00:00:00:00:09".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let refusals = [
            Step::Add(Key::Link(els.clone()), bridge(None, 1)),
            Step::Change(Key::Link(els.clone()), bridge(None, 1), bridge(Some(1300), 2)),
            Step::Add(Key::Link(name("tbh9")), veth("8", 1)),
            Step::Add(Key::Link(name("tbh8")), veth("9", 1)),
            Step::Add(
                Key::Address(els.clone(), "10.2.0.1/24".parse().unwrap()),
                Value::Present,
            ),
            Step::Add(Key::Port(name("tbh9")), on(&els)),
            Step::Add(Key::Querier(els.clone()), Value::Present),
            Step::Add(Key::Setting(Setting::AcceptRa(els.clone())), Value::Number(0)),
            Step::Add(Key::Setting(Setting::ProxyArp(els.clone())), Value::Number(1)),
            Step::Add(Key::Port(name("tbv9")), through("tb-else", false, true)),
            Step::Change(
                Key::Link(name("tbv9")),
                vxlan("192.0.2.9", 9, None),
                vxlan("192.0.2.8", 9, None),
            ),
            Step::Add(
                Key::Neighbour(els.clone(), "10.1.0.9".parse().unwrap()),
                Value::Mac(mac),
            ),
            Step::Add(
                Key::Proxied(els.clone(), "fd01::9".parse().unwrap()),
                Value::Present,
            ),
            Step::Add(Key::Forward(name("tbv9"), mac), Value::Via(vtep)),
            Step::Add(Key::Flood(name("tbv9"), Group::BROADCAST, vtep), Value::Present),
        ];
        for step in refusals {
            let answer = kernel.apply(&step).await;
            assert!(matches!(answer, Err(Error::Refused { .. })), "{step}: {answer:?}");
        }
        let removals = [
            Step::Remove(Key::Link(name("tbv9")), vxlan("192.0.2.9", 9, None)),
            Step::Remove(Key::Port(name("tbv9")), through("docker0", false, true)),
            Step::Remove(Key::Querier(els.clone()), Value::Present),
            Step::Remove(Key::Forward(name("tbv9"), mac), Value::Via(vtep)),
            Step::Remove(Key::Flood(name("tbv9"), Group::BROADCAST, vtep), Value::Present),
            Step::Remove(
                Key::Neighbour(name("docker0"), "172.17.0.9".parse().unwrap()),
                Value::Mac(mac),
            ),
            Step::Remove(
                Key::Proxied(name("docker0"), "fd01::9".parse().unwrap()),
                Value::Present,
            ),
            Step::Remove(
                Key::Route("10.0.0.64/26".parse().unwrap()),
                Value::Hops(Vec::new()),
            ),
            Step::Remove(
                Key::Route("fd00::4000/114".parse().unwrap()),
                Value::Hops(Vec::new()),
            ),
            Step::Remove(Key::Link(els.clone()), bridge(None, 1)),
            Step::Remove(Key::Port(name("tbh9")), on(&els)),
            Step::Remove(Key::Address(els, "10.1.0.1/24".parse().unwrap()), Value::Present),
        ];
        for step in removals {
            // Nothing of ours is there under that name, so it is gone.
            kernel.apply(&step).await.unwrap();
        }
        assert_eq!(inventory(), before);
    });
}

#[test]
fn a_name_that_somebody_else_has_is_refused_in_plain_words() {
    let step = Step::Add(Key::Link(name("tb-else")), bridge(None, 1));
    let text = |answer: Result<(), Error>| answer.unwrap_err().to_string();
    let mut fake = Fake::new();
    fake.put_foreign_link(name("tb-else"));
    let said = text(crate::lab::block_on(fake.apply(&step)));
    assert!(said.contains("is not tombolo's"), "{said}");
    in_namespace(async move || {
        run("ip link add tb-else type bridge");
        let said = text(Real::new().apply(&step).await);
        assert!(
            said.contains("exists and is not tombolo's; remove it (ip link delete tb-else)"),
            "{said}"
        );
    });
}

#[test]
fn a_program_that_says_no_is_quoted() {
    in_namespace(async || {
        let mut kernel = Real::new();
        settle(&mut kernel, &one_of_each().into_iter().collect()).await;
        let (fine, text) = attempt("ip link set tb-1 mtu 99999999");
        assert!(!fine, "{text}");
        let answer = kernel
            .apply(&Step::Change(
                Key::Link(name("tb-1")),
                bridge(None, 1),
                bridge(Some(99_999_999), 2),
            ))
            .await;
        let said = answer.unwrap_err().to_string();
        assert!(
            said.starts_with("ip link set tb-1") && said.contains("mtu greater than device maximum"),
            "{said}"
        );
    });
}

#[test]
fn what_others_change_in_our_table_is_heard_and_what_we_change_is_not() {
    in_namespace(async || {
        let mut kernel = Real::new();
        settle(&mut kernel, &World::from([(Key::Table, Value::Present)])).await;
        let mut watch = Watch::new(kernel.own()).unwrap();
        let add = Step::Add(Key::Guard(name("tb-1")), Value::Present);
        // The kernel has told of it before the step is done; so what is not heard now never will be.
        apply(&mut kernel, add.clone()).await;
        let heard = timeout(Duration::from_millis(200), watch.changed()).await;
        assert!(heard.is_err(), "our own change is heard");
        for _ in 0..3 {
            run("nft delete element inet tombolo internal '{ tb-1 }'");
            apply(&mut kernel, add.clone()).await;
        }
        timeout(Duration::from_secs(10), watch.changed())
            .await
            .expect("it is heard")
            .unwrap();
        watch.catch_up().unwrap();
        let heard = timeout(Duration::from_millis(200), watch.changed()).await;
        assert!(heard.is_err(), "what one look serves is heard once");
    });
}
