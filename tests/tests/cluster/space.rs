//! Pools that stand in another's way.

use system_tests::say;

use super::lab::{Lab, s, timed};
use super::plugin::NET;

#[test]
fn a_pool_that_overlaps_the_clusters_or_a_route_of_a_member_is_refused_with_its_name() {
    let lab = Lab::joined(3);
    let [one, two, three] = [&lab.members[0], &lab.members[1], &lab.members[2]];
    three
        .host
        .run("ip", &["route", "add", "10.60.0.0/16", "via", "10.200.0.254"]);
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

    let mut why = String::new();
    timed("the route of another member is known", s(15), || {
        match two.try_network("10.60.7.0/24", "vpn") {
            Ok(made) => {
                made.delete();
                false
            }
            Err(refused) => {
                why = refused;
                true
            }
        }
    });
    say(&why);
    assert!(
        why.contains("10.60.0.0/16") && why.contains(three.name()),
        "{why}"
    );
}
