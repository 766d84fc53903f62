//! How large packets get through to another host, with something between that drops larger ones and says nothing.

use std::net::IpAddr;

use tombolo::kernel::look::echo::{Takes, answering, takes};

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

#[test]
fn those_that_answer_are_told_from_those_that_do_not() {
    in_namespace(async || {
        let far = Namespace::new();
        run(&format!(
            "ip link add wire type veth peer name end netns {}",
            far.path()
        ));
        run(
            "ip address add 192.0.2.1/24 dev wire && ip address add 2001:db8::1/64 dev wire nodad && ip link set wire up",
        );
        far.run("ip link set end up && ip address add 2001:db8::2/64 dev end nodad");
        // More than one socket asks, of which the last but one answers.
        let mut hosts: Vec<IpAddr> = (2..=254).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        hosts.extend(
            ["2001:db8::2", "2001:db8::3", "198.51.100.1"].map(|host| host.parse::<IpAddr>().unwrap()),
        );
        let there: Vec<IpAddr> = vec![
            "192.0.2.2".parse().unwrap(),
            "192.0.2.253".parse().unwrap(),
            hosts[253],
        ];
        for address in &there[..2] {
            far.run(&format!("ip address add {address}/24 dev end"));
        }
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let answered: Vec<IpAddr> = answering(&hosts).await.unwrap().into_iter().collect();
            assert!(answered.iter().all(|host| there.contains(host)), "{answered:?}");
            if answered == there {
                break;
            }
            // Just up, IPv6 takes a second to find its neighbours.
            assert!(std::time::Instant::now() < end, "{answered:?}");
        }
        assert!(answering(&[]).await.unwrap().is_empty());
        // Nobody but ourselves is heard by the one who asks: what comes from elsewhere is no answer.
        far.run("ip address flush dev end");
        assert!(answering(&there).await.unwrap().is_empty());
    });
}
