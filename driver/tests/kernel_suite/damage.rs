//! What somebody broke behind our back is found and mended, and swept where nobody wants it.

use tombolo::kernel::Real;
use tombolo_core::model::Group;
use tombolo_core::world::{Family, Key, LEAVING_GROUP, Step, Value, World, diff};

use crate::lab::{
    Namespace, apply, assert_settled, in_namespace, look, make_forward, name, run, settle, without_settings,
};
use crate::promises::one_of_each;

/// Builds everything, breaks something, then asserts that the given facts no longer hold as asked and that one pass mends
/// all; then breaks it again and asserts that one pass towards nothing leaves nothing.
fn mended<const N: usize>(damage: [&'static str; N], expected: Vec<Key>) {
    in_namespace(async move || {
        make_forward();
        let mut kernel = Real::new();
        let world: World = one_of_each().into_iter().collect();
        for command in damage {
            settle(&mut kernel, &world).await;
            run(command);
            let steps = diff(&world, &look(&mut kernel).await);
            for key in &expected {
                assert!(
                    steps.iter().any(|step| step.key() == key),
                    "after {command}, {key:?} is not mended: {steps:?}"
                );
            }
            settle(&mut kernel, &world).await;
            assert_settled(&mut kernel, &world).await;
            run(command);
            settle(&mut kernel, &World::new()).await;
            assert_eq!(
                without_settings(look(&mut kernel).await),
                World::new(),
                "after {command}"
            );
            assert!(!run("nft list tables").contains("tombolo"), "after {command}");
        }
    });
}

#[test]
fn a_table_with_something_missing_is_replaced() {
    mended(
        [
            "nft flush ruleset && iptables -P FORWARD DROP && ip6tables -P FORWARD DROP",
            "nft delete table inet tombolo",
            "nft flush chain inet tombolo forward",
            "nft flush chain inet tombolo clear && nft delete chain inet tombolo clear",
            "nft delete rule inet tombolo srcnat handle $(nft -a list chain inet tombolo srcnat | grep -o 'saddr 127.*handle [0-9]*' | grep -o '[0-9]*$')",
            "nft delete chain inet tombolo $(nft list table inet tombolo | grep -o 'version_[0-9a-f]*')",
        ],
        vec![Key::Table],
    );
}

#[test]
fn a_table_with_something_strange_is_replaced() {
    mended(
        [
            "nft 'add table inet tombolo { flags dormant; }'",
            "nft add rule inet tombolo forward accept",
            "nft insert rule inet tombolo forward accept",
            "nft add chain inet tombolo strange",
            "nft add set inet tombolo strange '{ type ipv4_addr; }'",
            "nft add element inet tombolo bridges '{ \"one\" . \"two\" }'",
            "nft add element inet tombolo publish4_any '{ 1 . 80 : 10.0.0.2 . 80 }'",
        ],
        vec![Key::Table],
    );
}

#[test]
fn links_that_were_being_removed_when_somebody_died_are_ours_and_go() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let world: World = one_of_each().into_iter().collect();
        settle(&mut kernel, &world).await;
        run(&format!(
            "ip link set tbh1 group {LEAVING_GROUP}; ip link set tb-1 group {LEAVING_GROUP}"
        ));
        assert_settled(&mut kernel, &world).await;
        settle(&mut kernel, &World::new()).await;
        assert_settled(&mut kernel, &World::new()).await;
    });
}

#[test]
fn lost_elements_are_put_back_alone() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let world: World = one_of_each().into_iter().collect();
        settle(&mut kernel, &world).await;
        run("nft flush set inet tombolo internal && nft flush map inet tombolo publish4_any");
        let steps: Vec<String> = diff(&world, &look(&mut kernel).await)
            .iter()
            .map(Step::to_string)
            .collect();
        assert_eq!(
            steps,
            [
                "nft add element inet tombolo internal { \"tb-1\" }",
                "nft add element inet tombolo publish4_any { udp . 8080 : 10.0.0.2 . 80 }"
            ]
        );
        settle(&mut kernel, &world).await;
        assert_settled(&mut kernel, &world).await;
    });
}

#[test]
fn an_element_added_by_hand_is_taken_out_again() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let world: World = one_of_each().into_iter().collect();
        settle(&mut kernel, &world).await;
        run("nft add element inet tombolo bridges '{ \"eth9\" . \"eth9\" }'");
        run("nft add element inet tombolo publish6 '{ tcp . 2001:db8::9 . 99 : fd00::9 . 999 }'");
        assert_eq!(diff(&world, &look(&mut kernel).await).len(), 2);
        settle(&mut kernel, &world).await;
        assert_settled(&mut kernel, &world).await;
        assert!(!run("nft list table inet tombolo").contains("eth9"));
    });
}

#[test]
fn a_lost_accept_is_put_back_behind_the_administrators_rules() {
    mended(
        [
            "iptables -F FORWARD; ip6tables -F FORWARD",
            "nft delete table ip filter; nft delete table ip6 filter; iptables -P FORWARD DROP; ip6tables -P FORWARD DROP",
        ],
        vec![Key::DockerAccept(Family::V4), Key::DockerAccept(Family::V6)],
    );
    in_namespace(async || {
        make_forward();
        run(
            "iptables -N DOCKER-USER && iptables -A DOCKER-USER -j RETURN && iptables -A FORWARD -j DOCKER-USER",
        );
        run("iptables -A FORWARD -o docker0 -j ACCEPT");
        let mut kernel = Real::new();
        apply(&mut kernel, Step::Add(Key::Table, Value::Present)).await;
        let key = Key::DockerAccept(Family::V4);
        apply(&mut kernel, Step::Add(key.clone(), Value::Present)).await;
        let accept = "-A FORWARD -m mark --mark 0x8000000/0x8000000 -m comment --comment tombolo -j ACCEPT";
        let expected = [
            "-P FORWARD DROP",
            "-A FORWARD -j DOCKER-USER",
            accept,
            "-A FORWARD -o docker0 -j ACCEPT",
        ];
        assert_eq!(run("iptables -S FORWARD").lines().collect::<Vec<_>>(), expected);

        // Docker puts its jump on top again: ours stays where it is.
        run("iptables -D FORWARD -j DOCKER-USER && iptables -I FORWARD -j DOCKER-USER");
        assert_eq!(look(&mut kernel).await.get(&key), Some(&Value::Present));

        // Somebody puts ours on top: an administrator's rules would never be seen.
        run(&accept.replace("-A FORWARD", "iptables -I FORWARD"));
        let found = look(&mut kernel).await.remove(&key).unwrap();
        assert!(matches!(found, Value::Unfit(_)), "{found:?}");
        apply(&mut kernel, Step::Change(key.clone(), found, Value::Present)).await;
        assert_eq!(look(&mut kernel).await.get(&key), Some(&Value::Present));
        let rules = run("iptables -S FORWARD");
        assert_eq!(rules.lines().nth(1), Some(expected[1]), "{rules}");

        apply(&mut kernel, Step::Remove(key, Value::Present)).await;
        assert!(!run("iptables -S FORWARD").contains("tombolo"));
    });
}

#[test]
fn a_forward_chain_that_comes_later_gets_the_accept() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let world: World = one_of_each().into_iter().collect();
        settle(&mut kernel, &world).await;
        assert_settled(&mut kernel, &world).await;
        make_forward();
        assert_eq!(diff(&world, &look(&mut kernel).await).len(), 2);
        settle(&mut kernel, &world).await;
        assert!(run("ip6tables -S FORWARD").contains("--comment tombolo"));
        assert_settled(&mut kernel, &world).await;
    });
}

#[test]
fn damaged_links_are_mended() {
    mended(
        [
            "ip link set tb-1 down",
            "ip link set tb-1 type bridge stp_state 1",
            "ip link set tb-1 mtu 1200",
            "ip link set tb-1 address 02:00:00:00:00:77",
        ],
        vec![Key::Link(name("tb-1"))],
    );
}

#[test]
fn a_damaged_table_for_tunnels_is_replaced() {
    mended(
        [
            "nft delete table bridge tombolo",
            "nft flush chain bridge tombolo silent",
            "nft add rule bridge tombolo forward accept",
            "nft add chain bridge tombolo strange",
            "nft 'add table bridge tombolo { flags dormant; }'",
            "nft delete chain bridge tombolo $(nft list table bridge tombolo | grep -o 'version_[0-9a-f]*')",
        ],
        vec![Key::Tunnels],
    );
}

#[test]
fn damaged_tunnels_are_mended() {
    mended(
        [
            "ip link set tbv1 down",
            "ip link set tbv1 mtu 1200",
            "ip link set tbv1 type vxlan local 192.0.2.77",
            "ip link set tbv1 type vxlan learning",
            "bridge fdb append 00:00:00:00:00:00 dev tbv1 dst 192.0.2.5",
        ],
        vec![Key::Link(name("tbv1"))],
    );
    mended(
        [
            "ip link set tb-1 type bridge mcast_snooping 0",
            "ip link set tb-1 type bridge mcast_querier 0",
            "ip link set tb-1 type bridge mcast_igmp_version 2",
            "ip link set tb-1 type bridge mcast_mld_version 1",
            "ip link set tb-1 type bridge mcast_query_response_interval 1000",
        ],
        vec![Key::Querier(name("tb-1"))],
    );
    mended(
        [
            "ip link set tbv1 nomaster",
            "ip link set tbv1 master a-name-of-15-by",
            "ip link set tbv1 type bridge_slave learning on",
            "ip link set tbv1 type bridge_slave neigh_suppress off",
            "ip link set tbv1 type bridge_slave flood off",
            "ip link set tbv1 type bridge_slave mcast_flood off",
            "ip link set tbv1 type bridge_slave bcast_flood off mcast_flood off",
            "ip link set tbv1 type bridge_slave mcast_router 1",
            "ip link set tbv1 type bridge_slave isolated on",
            "ip link set tbv1 type bridge_slave hairpin on",
        ],
        vec![Key::Port(name("tbv1"))],
    );
}

#[test]
fn a_tunnel_that_must_be_made_anew_takes_two_looks() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let world: World = one_of_each().into_iter().collect();
        let damage = [
            "ip link set tbv1 type vxlan remote 192.0.2.5",
            "ip link set tbv1 type vxlan dev lo",
            "ip link delete tbv1; ip link add tbv1 group 29807 type vxlan id 7 local 192.0.2.1 dstport 4789 nolearning",
            "ip link delete tbv1; ip link add tbv1 group 29807 type bridge",
        ];
        for command in damage {
            settle(&mut kernel, &world).await;
            run(command);
            let steps = diff(&world, &look(&mut kernel).await);
            let link = Key::Link(name("tbv1"));
            assert!(
                steps.iter().any(|step| *step.key() == link),
                "{command}: {steps:?}"
            );
            settle(&mut kernel, &world).await;
            settle(&mut kernel, &world).await;
            assert_settled(&mut kernel, &world).await;
            run(command);
            settle(&mut kernel, &World::new()).await;
            assert_eq!(
                without_settings(look(&mut kernel).await),
                World::new(),
                "{command}"
            );
        }
    });
}

#[test]
fn what_was_lost_of_other_hosts_is_put_back() {
    let (mac, tunnel) = ("02:7b:00:00:00:70", name("tbv1"));
    let forward = Key::Forward(tunnel.clone(), mac.parse().unwrap());
    mended(
        [
            "bridge fdb del 02:7b:00:00:00:70 dev tbv1 self",
            "bridge fdb del 02:7b:00:00:00:70 dev tbv1 master",
            "bridge fdb del 02:7b:00:00:00:70 dev tbv1 self master",
            "bridge fdb replace 02:7b:00:00:00:70 dev tbv1 self static dst 192.0.2.9",
            "bridge fdb replace 02:7b:00:00:00:70 dev tbv1 self static dst 192.0.2.2 port 99",
            "bridge fdb replace 02:7b:00:00:00:70 dev tbv1 self dynamic dst 192.0.2.2",
            "bridge fdb replace 02:7b:00:00:00:70 dev tbv1 master dynamic",
            "bridge fdb replace 02:7b:00:00:00:70 dev tbh1 master static",
        ],
        vec![forward],
    );
    let flood = Key::Flood(tunnel, Group::BROADCAST, "192.0.2.3".parse().unwrap());
    mended(
        [
            "bridge fdb del ff:ff:ff:ff:ff:ff dev tbv1 self dst 192.0.2.3",
            "bridge fdb del ff:ff:ff:ff:ff:ff dev tbv1 self",
        ],
        vec![flood],
    );
    for (address, other) in [("10.0.0.70", "10.0.0.80"), ("fd00::70", "fd00::80")] {
        let lost = [
            format!("ip neigh del {address} dev tb-1"),
            format!("ip neigh replace {address} lladdr 02:00:00:00:00:99 dev tb-1 nud permanent"),
            format!("ip neigh replace {address} lladdr 02:7b:00:00:00:70 dev tb-1 nud reachable"),
        ];
        let bridge = name("tb-1");
        mended(
            lost.map(|line| &*line.leak()),
            vec![Key::Neighbour(bridge.clone(), address.parse().unwrap())],
        );
        let unproxied = format!("ip neigh del proxy {other} dev tb-1").leak();
        mended([&*unproxied], vec![Key::Proxied(bridge, other.parse().unwrap())]);
    }
}

#[test]
fn routes_to_other_hosts_are_put_back() {
    mended(
        [
            "ip route del 10.0.0.192/27",
            "ip route replace blackhole 10.0.0.192/27 proto 116 metric 29807",
            "ip route replace 10.0.0.192/27 proto 116 metric 29807 via 192.0.2.3 dev tb-1 onlink",
            "ip route replace 10.0.0.192/27 proto 116 metric 29807 dev tb-1",
            "ip route replace 10.0.0.192/27 proto 116 metric 29807 nexthop via 192.0.2.2 dev tb-1 onlink weight 5 nexthop via 192.0.2.3 dev tb-1 onlink",
        ],
        vec![Key::Route("10.0.0.192/27".parse().unwrap())],
    );
    mended(
        [
            "ip -6 route del fd00::8000/114",
            "ip -6 route del fd00::8000/114; ip -6 route add blackhole fd00::8000/114 proto 116 metric 29807",
            "ip -6 route replace fd00::8000/114 proto 116 metric 29807 via 2001:db8::7 dev tb-1 onlink",
            "ip -6 route del fd00::8000/114 proto 116 via 2001:db8::3 dev tb-1",
            "ip -6 route append fd00::8000/114 proto 116 metric 29807 via 2001:db8::7 dev tb-1 onlink",
        ],
        vec![Key::Route("fd00::8000/114".parse().unwrap())],
    );
}

#[test]
fn what_somebody_added_of_other_hosts_is_taken_away() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let world: World = one_of_each().into_iter().collect();
        let strays = [
            (
                "bridge fdb add 02:00:00:00:00:09 dev tbv1 self master static dst 192.0.2.2",
                "bridge fdb show dev tbv1",
                "00:09",
            ),
            (
                "bridge fdb add 02:00:00:00:00:09 dev tbv1 self static dst 192.0.2.2",
                "bridge fdb show dev tbv1",
                "00:09",
            ),
            (
                "bridge fdb add 02:00:00:00:00:09 dev tbv1 master dynamic",
                "bridge fdb show dev tbv1",
                "00:09",
            ),
            (
                "bridge fdb append 01:00:5e:00:00:09 dev tbv1 self permanent dst 192.0.2.9",
                "bridge fdb show dev tbv1",
                "00:09",
            ),
            (
                "ip neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev tb-1 nud permanent",
                "ip neigh",
                "10.0.0.9 ",
            ),
            (
                "ip neigh add fd00::9 lladdr 02:00:00:00:00:09 dev tb-1 nud permanent",
                "ip neigh",
                "fd00::9 ",
            ),
            (
                "ip neigh add proxy fd00::9 dev tb-1",
                "ip -6 neigh show proxy",
                "fd00::9 ",
            ),
            (
                "ip route add 10.9.0.0/24 proto 116 metric 29807 dev tb-1",
                "ip route",
                "10.9.0.0",
            ),
            (
                "ip route add blackhole 10.9.0.0/24 proto 116 metric 29807",
                "ip route",
                "10.9.0.0",
            ),
            (
                "ip -6 route add default proto 116 metric 29807 dev tb-1",
                "ip -6 route",
                "default",
            ),
        ];
        for (command, listed, stray) in strays {
            settle(&mut kernel, &world).await;
            run(command);
            assert!(run(listed).contains(stray), "{command}");
            assert_eq!(diff(&world, &look(&mut kernel).await).len(), 1, "{command}");
            settle(&mut kernel, &world).await;
            assert_settled(&mut kernel, &world).await;
            let after = run(listed);
            assert!(!after.contains(stray), "{command}: {after}");
        }
    });
}

#[test]
fn links_that_were_replaced_are_remade() {
    mended(
        [
            "ip link delete tb-1",
            "ip link delete tb-1; ip link add tb-1 group 29807 type veth peer name x",
        ],
        vec![Key::Link(name("tb-1"))],
    );
    mended(
        [
            "ip link delete tbh1",
            "ip link delete tbh1; ip link add tbh1 group 29807 type bridge",
        ],
        vec![Key::Link(name("tbh1")), Key::Port(name("tbh1"))],
    );
}

#[test]
fn ports_and_addresses_are_put_back() {
    mended(
        ["ip link set tbh1 nomaster", "ip link set tbh1 down"],
        vec![Key::Port(name("tbh1"))],
    );
    let gateway = Key::Address(name("tb-1"), "10.0.0.1/24".parse().unwrap());
    mended(["ip address flush dev tb-1"], vec![gateway]);
    // A stray address is taken away, and ours stays though it came later and is the lesser of the two for the kernel.
    in_namespace(async || {
        let mut kernel = Real::new();
        let world: World = one_of_each().into_iter().collect();
        settle(&mut kernel, &world).await;
        run(
            "ip address flush dev tb-1 && ip address add 10.0.0.9/24 dev tb-1 && ip address add 10.0.0.1/24 dev tb-1",
        );
        settle(&mut kernel, &world).await;
        let text = run("ip -4 address show dev tb-1");
        assert!(
            text.contains("10.0.0.1/24") && !text.contains("10.0.0.9"),
            "{text}"
        );
    });
}

#[test]
fn a_container_end_that_docker_put_back_is_no_fact_and_a_lone_one_is_swept() {
    in_namespace(async || {
        let mut kernel = Real::new();
        let world: World = one_of_each().into_iter().collect();
        settle(&mut kernel, &world).await;
        assert!(run("ip link show tbc1").contains("group 29807"));
        // Docker takes it, and renames it; the host's end is the fact all the while.
        let (host, container) = (Namespace::current(), Namespace::new());
        run(&format!("ip link set tbc1 netns {}", container.path()));
        container.run("ip link set tbc1 name eth0 && ip link set eth0 up");
        assert_settled(&mut kernel, &world).await;
        container.run(&format!(
            "ip link set eth0 down && ip link set eth0 name tbc1 && ip link set tbc1 netns {}",
            host.path()
        ));
        assert_settled(&mut kernel, &world).await;
        // A pair of which only the container's end is in sight.
        run("ip link add tbc7 group 29807 type veth peer name tbh7");
        run(&format!("ip link set tbh7 netns {}", container.path()));
        let steps: Vec<String> = diff(&world, &look(&mut kernel).await)
            .iter()
            .map(Step::to_string)
            .collect();
        assert_eq!(steps, ["ip link delete tbc7"]);
        settle(&mut kernel, &world).await;
        assert_settled(&mut kernel, &world).await;
    });
}
