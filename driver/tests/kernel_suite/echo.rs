//! How large packets get through to another host, with something between that drops larger ones and says nothing.

use std::net::IpAddr;

use tombolo::kernel::look::echo::{Takes, takes};

use crate::lab::{Namespace, in_namespace, run};

#[test]
fn the_largest_packet_that_gets_through_is_found() {
    in_namespace(async || {
        let far = Namespace::new();
        run(&format!(
            "ip link add wire type veth peer name end netns {}",
            far.path()
        ));
        run(
            "ip address add 192.0.2.1/24 dev wire && ip address add 2001:db8::1/64 dev wire nodad && ip link set wire mtu 9000 up",
        );
        far.run("ip address add 192.0.2.2/24 dev end && ip address add 2001:db8::2/64 dev end nodad && ip link set end mtu 9000 up");
        let hosts: [(IpAddr, u32); 3] = [
            ("192.0.2.2".parse().unwrap(), 9000),
            ("2001:db8::2".parse().unwrap(), 9000),
            ("192.0.2.3".parse().unwrap(), 9000),
        ];
        // Just up, IPv6 takes a second to find its neighbours.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while takes(&hosts[1..2]) == [Takes::Silent] {
            assert!(std::time::Instant::now() < end, "the other host does not answer");
        }
        assert_eq!(takes(&hosts), [Takes::All, Takes::All, Takes::Silent]);
        far.run("nft 'table inet small { chain in { type filter hook prerouting priority -300; meta length > 1432 drop; }; }'");
        assert_eq!(takes(&hosts[..2]), [Takes::UpTo(1432), Takes::UpTo(1432)]);
    });
}
