//! Pools that stand in another's way.

use system_tests::say;

use super::lab::Lab;
use super::plugin::NET;

#[test]
fn a_pool_that_overlaps_the_clusters_or_a_route_of_a_member_is_refused_with_its_name() {
    let lab = Lab::with(3, |n, host| {
        if n == 2 {
            host.run("ip", &["route", "add", "10.60.0.0/16", "via", "10.200.0.254"]);
        }
        Vec::new()
    });
    lab.join();
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    let _net = one.network("10.42.0.0/24");
    for (member, pool) in [
        (two, "10.42.0.0/25"),
        (two, "10.42.0.0/16"),
        (one, "10.42.0.128/25"),
    ] {
        let why = member.try_network(pool, "other").err().expect("an overlap");
        say(&why);
        assert!(
            why.contains(pool) && why.contains("10.42.0.0/24") && why.contains(NET),
            "{why}"
        );
    }
    // The same pool under another name, and the same name for a local network of the host.
    let why = two
        .try_network("10.42.0.0/24", "other")
        .err()
        .expect("another name");
    say(&why);
    assert!(
        why.contains("10.42.0.0/24") && why.contains(NET) && why.contains("other"),
        "{why}"
    );

    for pool in ["10.60.7.0/24", "10.0.0.0/8"] {
        let why = two
            .try_network(pool, "vpn")
            .err()
            .expect("a route of another member");
        say(&why);
        let route = why.contains("10.60.0.0/16") && why.contains(three.name());
        assert!(route || why.contains("10.42.0.0/24"), "{why}");
    }
}

#[test]
fn a_network_of_the_cluster_has_one_gateway_until_nobody_has_it_any_more() {
    let lab = Lab::new(3);
    lab.join();
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    let pool = "10.42.0.0/24";
    let first = one
        .try_network_with(pool, NET, "10.42.0.254")
        .expect("the first one");
    for member in [two, three] {
        let why = member.try_network_with(pool, NET, "10.42.0.1").err();
        let why = why.expect("another gateway");
        say(&why);
        for part in [pool, "gateway", "10.42.0.254", "10.42.0.1"] {
            assert!(why.contains(part), "{part}: {why}");
        }
    }
    let second = two
        .try_network_with(pool, NET, "10.42.0.254")
        .expect("the same gateway");
    first.delete();
    // One host still has it.
    let why = three.try_network_with(pool, NET, "10.42.0.1").err();
    assert!(why.is_some_and(|why| why.contains("10.42.0.254")));
    second.delete();
    // The others hear within a second that nobody has it any more.
    let third = system_tests::wait::until("another gateway", || {
        three.try_network_with(pool, NET, "10.42.0.1").ok()
    });
    third.delete();
}
