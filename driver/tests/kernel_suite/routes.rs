//! What the host's routes say of the way to the outside, and which of them are ours.

use std::time::Instant;

use tombolo::kernel::Real;
use tombolo::kernel::routes::path_mtu;
use tombolo_core::world::{Key, World};

use crate::lab::{assert_settled, in_namespace, run, settle};
use crate::promises::one_of_each;

#[test]
fn the_way_to_the_outside_has_the_mtu_of_its_route_or_link() {
    // What is done, and what the way's MTU is then.
    let cases = [
        ("true", None),
        (
            "ip link add name up type veth peer name other && ip link set dev up mtu 1450 up && ip link set dev other up
             ip link add name tun type veth peer name end && ip link set dev tun mtu 1380 up && ip link set dev end up
             ip address add 192.0.2.1/24 dev up && ip address add 2001:db8::1/64 dev up nodad",
            None,
        ),
        ("ip route add default via 192.0.2.9 metric 100", Some(1450)),
        ("ip route add default dev tun metric 200", Some(1450)),
        ("ip route add default dev tun metric 50", Some(1380)),
        ("ip route del default metric 50", Some(1450)),
        // As VPNs take all traffic without touching the default route: by its halves, or by a table of their own.
        ("ip route add 0.0.0.0/1 dev tun && ip route add 128.0.0.0/1 dev tun", Some(1380)),
        ("ip route del 0.0.0.0/1 && ip route del 128.0.0.0/1", Some(1450)),
        ("ip route add default dev tun table 7 && ip rule add not fwmark 7 table 7", Some(1380)),
        ("ip rule del not fwmark 7 table 7", Some(1450)),
        ("ip route add default via 192.0.2.9 metric 90 mtu 1420", Some(1420)),
        // Of two families the least.
        ("ip -6 route add default via 2001:db8::9 mtu 1400", Some(1400)),
        ("ip -6 route add unreachable 2000::/3 metric 5", Some(1420)),
        (
            "ip route flush exact default && ip route add default nexthop dev tun nexthop via 192.0.2.9",
            Some(1380),
        ),
    ];
    in_namespace(async move || {
        for (done, mtu) in cases {
            run(done);
            assert_eq!(path_mtu().await.unwrap(), mtu, "after {done}");
        }
    });
}

#[test]
fn ours_are_found_among_a_great_many_of_somebody_elses() {
    in_namespace(async || {
        let mut world: World = one_of_each().into_iter().collect();
        world.retain(|key, _| matches!(key, Key::Link(_) | Key::Loopback(_) | Key::Route(_)));
        assert!(world.keys().any(|key| matches!(key, Key::Route(_))));
        let mut kernel = Real::new();
        // Neither family has a table yet but for the kernel's own.
        assert_settled(&mut kernel, &World::new()).await;
        settle(&mut kernel, &world).await;
        // Of another protocol; and of ours, but elsewhere or of another metric.
        run(
            r#"ip link add theirs type bridge && ip link set theirs up && seq 0 99999 |
             awk '{ print "route add", 100 + int($1 / 65536) "." int($1 / 256) % 256 "." $1 % 256 ".0/24 dev theirs" }' |
             ip -batch - && seq 0 1999 | awk '{ printf "route add 2001:db8:%x::/48 dev theirs\n", $1 }' | ip -6 -batch - &&
             ip route add 192.0.2.0/24 dev theirs proto 116 table 7 &&
             ip route add 198.51.100.0/24 dev theirs proto 116 metric 5"#,
        );
        let begun = Instant::now();
        assert_settled(&mut kernel, &world).await;
        eprintln!("a look among them took {:?}", begun.elapsed());
        settle(&mut kernel, &World::new()).await;
        let left = run("ip -j route show proto 116 && ip -j -6 route show table all proto 116");
        assert!(left.contains("198.51.100.0") && !left.contains("::1"), "{left}");
    });
}
