//! What the host's routes say of the way to the outside.

use tombolo::kernel::routes::path_mtu;

use crate::lab::{in_namespace, run};

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
