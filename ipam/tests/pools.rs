//! Pools: which are given, which are refused, and what goes with one.

mod common;

use common::*;
use tombolo_ipam::{Edit, Error, Ipam, PoolRequest, Want};

const TEN: &[&str] = &["10.0.0.0/22:24", "10.9.0.0/30:30", "fd00::/16:64"];

#[test]
fn a_named_subnet_is_given_with_a_lasting_identifier() {
    let mut ipam = Ipam::default();
    let given = pool(&mut ipam, &exactly(&id("local/10.1.0.0/24")), &[], &[]).unwrap();
    assert_eq!(given.to_string(), "local/10.1.0.0/24");
    assert!(!ipam.pool(&given).unwrap().chosen);
    let ranged = pool(
        &mut ipam,
        &exactly(&id("global/fd00::/64/fd00::100/120")),
        &[],
        &[],
    )
    .unwrap();
    assert_eq!(ranged.to_string(), "global/fd00::/64/fd00::100/120");
}

#[test]
fn a_subnet_that_is_not_masked_is_refused_with_the_masked_one() {
    let mut request = exactly(&id("local/10.1.0.0/24"));
    request.want = Want::Exactly(net("10.1.0.7/24"));
    let error = Ipam::default().request_pool(&request, &[], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pool 10.1.0.7/24 has bits set beyond its prefix length: write 10.1.0.0/24"
    );
    request = PoolRequest {
        want: Want::Exactly(net("10.1.0.0/24")),
        range: Some(net("10.1.0.130/25")),
        ..request
    };
    let error = Ipam::default().request_pool(&request, &[], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "range 10.1.0.130/25 has bits set beyond its prefix length: write 10.1.0.128/25"
    );
}

#[test]
fn a_range_outside_its_subnet_or_of_the_other_family_is_refused() {
    for range in ["10.2.0.0/25", "10.0.0.0/8", "fd00::/64"].map(net) {
        let request = PoolRequest {
            range: Some(range),
            ..exactly(&id("local/10.1.0.0/24"))
        };
        let error = Ipam::default().request_pool(&request, &[], &[]).unwrap_err();
        assert_eq!(
            error,
            Error::RangeOutside {
                pool: net("10.1.0.0/24"),
                range
            }
        );
    }
}

#[test]
fn a_range_without_a_subnet_is_refused() {
    for want in [Want::Any, Want::Sized(24)] {
        let request = PoolRequest {
            range: Some(net("10.0.0.0/25")),
            ..of_our_choice(want, false)
        };
        let error = Ipam::default()
            .request_pool(&request, &carve(TEN), &[])
            .unwrap_err();
        assert_eq!(
            error,
            Error::RangeWithoutPool {
                range: net("10.0.0.0/25")
            }
        );
    }
}

#[test]
fn the_same_pool_again_is_the_same_for_a_repeat_and_refused_otherwise() {
    for text in ["local/10.1.0.0/24", "local/10.1.0.0/24/10.1.0.128/25"] {
        let ipam = with(&[text]);
        let request = exactly(&id(text));
        let repeat = PoolRequest {
            repeat: true,
            ..request
        };
        assert_eq!(
            ipam.request_pool(&repeat, &[], &[]).unwrap(),
            (id(text), Vec::<Edit>::new())
        );
        assert_eq!(
            ipam.request_pool(&request, &[], &[]).unwrap_err(),
            Error::Given { pool: id(text) }
        );
    }
}

#[test]
fn a_pool_of_our_choice_is_known_again_by_its_subnet() {
    let mut ipam = Ipam::default();
    let chosen = pool(&mut ipam, &of_our_choice(Want::Any, false), TEN, &[]).unwrap();
    let repeat = PoolRequest {
        repeat: true,
        ..exactly(&chosen)
    };
    assert_eq!(
        ipam.request_pool(&repeat, &[], &[]).unwrap(),
        (chosen, Vec::<Edit>::new())
    );
    assert!(ipam.pool(&chosen).unwrap().chosen);
}

#[test]
fn a_pool_that_overlaps_another_is_refused_and_both_are_named() {
    let existing = [
        "local/10.1.0.0/24",
        "local/10.3.0.0/24/10.3.0.0/26",
        "local/10.3.0.0/24/10.3.0.128/25",
        "local/fd00::/64",
    ];
    let ipam = with(&existing);
    for (wanted, stands_in_the_way) in [
        ("local/10.1.0.0/16", existing[0]),
        ("local/10.0.0.0/8", existing[0]),
        ("local/10.1.0.0/25", existing[0]),
        ("local/10.1.0.128/25", existing[0]),
        ("local/10.1.0.255/32", existing[0]),
        ("local/10.1.0.0/24/10.1.0.0/25", existing[0]),
        ("local/10.1.0.0/16/10.1.9.0/24", existing[0]),
        ("local/10.3.0.0/24", existing[1]),
        ("local/10.3.0.0/24/10.3.0.0/24", existing[1]),
        ("local/10.3.0.0/24/10.3.0.32/27", existing[1]),
        ("local/10.3.0.0/24/10.3.0.192/26", existing[2]),
        ("local/10.3.0.0/25/10.3.0.64/26", existing[2]),
        ("local/fd00::/48", existing[3]),
        ("local/fd00::ff/128", existing[3]),
    ] {
        let refused = ipam.request_pool(&exactly(&id(wanted)), &[], &[]).unwrap_err();
        let told = refused.to_string();
        assert_eq!(
            refused,
            Error::Overlap {
                wanted: id(wanted),
                existing: id(stands_in_the_way)
            }
        );
        assert!(
            told.contains(wanted) && told.contains(stands_in_the_way),
            "{told}"
        );
    }
}

#[test]
fn pools_that_share_no_address_stand_side_by_side() {
    let mut ipam = with(&["local/10.1.0.0/24", "local/10.3.0.0/24/10.3.0.0/26"]);
    for beside in [
        "local/10.0.255.0/24",
        "local/10.1.1.0/24",
        "local/10.3.0.0/24/10.3.0.64/26",
        "local/10.3.0.0/24/10.3.0.128/25",
        "global/10.1.0.0/24",
    ] {
        assert_eq!(
            pool(&mut ipam, &exactly(&id(beside)), &[], &[]).unwrap(),
            id(beside)
        );
    }
}

#[test]
fn a_subnet_of_several_ranges_is_taken_until_the_last_one_goes() {
    let siblings = ["local/10.0.0.0/24/10.0.0.0/26", "local/10.0.0.0/24/10.0.0.64/26"];
    let mut ipam = with(&siblings);
    let any = of_our_choice(Want::Any, false);
    let choice = |ipam: &Ipam| ipam.request_pool(&any, &carve(TEN), &[]).unwrap().0.to_string();
    for sibling in siblings {
        assert_eq!(choice(&ipam), "local/10.0.1.0/24");
        let edits = ipam.release_pool(&id(sibling));
        apply(&mut ipam, edits);
    }
    assert_eq!(choice(&ipam), "local/10.0.0.0/24");
    assert_eq!(ipam, Ipam::default());
}

#[test]
fn every_request_for_any_pool_gets_a_new_one_in_the_order_of_the_list() {
    let mut ipam = Ipam::default();
    let any = of_our_choice(Want::Any, false);
    for wanted in [
        "10.0.0.0/24",
        "10.0.1.0/24",
        "10.0.2.0/24",
        "10.0.3.0/24",
        "10.9.0.0/30",
    ] {
        let given = pool(&mut ipam, &any, TEN, &[]).unwrap();
        assert_eq!(given.cidr(), net(wanted));
        assert!(ipam.pool(&given).unwrap().chosen);
    }
    let error = pool(&mut ipam, &any, TEN, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no subnet is left for a pool in the local space: none of 5 in address pools [10.0.0.0/22:24, 10.9.0.0/30:30] is \
         free of other pools and of this host's own addresses and routes; name a subnet, or configure more address pools"
    );
    assert_eq!(
        pool(&mut ipam, &of_our_choice(Want::Any, true), TEN, &[])
            .unwrap()
            .cidr(),
        net("fd00::/64")
    );
}

#[test]
fn a_released_subnet_of_our_choice_is_the_lowest_again() {
    let mut ipam = Ipam::default();
    let any = of_our_choice(Want::Any, false);
    let first = pool(&mut ipam, &any, TEN, &[]).unwrap();
    pool(&mut ipam, &any, TEN, &[]).unwrap();
    let edits = ipam.release_pool(&first);
    apply(&mut ipam, edits);
    assert_eq!(pool(&mut ipam, &any, TEN, &[]).unwrap(), first);
}

#[test]
fn what_the_host_uses_is_avoided_whatever_its_size() {
    let any = of_our_choice(Want::Any, false);
    for (avoid, wanted) in [
        (&["10.0.0.77/32"][..], "10.0.1.0/24"),
        (&["10.0.0.77/24", "10.0.1.0/25"], "10.0.2.0/24"),
        (&["10.0.0.0/16"], "10.9.0.0/30"),
        (
            &["10.0.1.0/24", "10.0.1.3/32", "192.168.0.0/16", "fd00::/8"],
            "10.0.0.0/24",
        ),
    ] {
        assert_eq!(
            pool(&mut Ipam::default(), &any, TEN, avoid).unwrap().cidr(),
            net(wanted),
            "{avoid:?}"
        );
    }
    assert!(matches!(
        pool(&mut Ipam::default(), &any, TEN, &["10.0.0.0/8"]),
        Err(Error::NoSubnet { tried: 5, .. })
    ));
    // A subnet that was named is the user's decision.
    pool(
        &mut Ipam::default(),
        &exactly(&id("local/10.0.0.0/24")),
        TEN,
        &["10.0.0.0/8"],
    )
    .unwrap();
}

#[test]
fn any_pool_of_a_size_is_cut_from_every_entry_that_is_large_enough() {
    let mut ipam = with(&["local/10.0.0.0/24"]);
    let sized = |prefix| of_our_choice(Want::Sized(prefix), false);
    assert_eq!(
        pool(&mut ipam, &sized(26), TEN, &[]).unwrap().cidr(),
        net("10.0.1.0/26")
    );
    assert_eq!(
        pool(&mut ipam, &sized(26), TEN, &[]).unwrap().cidr(),
        net("10.0.1.64/26")
    );
    assert_eq!(
        pool(&mut ipam, &sized(23), TEN, &[]).unwrap().cidr(),
        net("10.0.2.0/23")
    );
    assert_eq!(
        pool(&mut ipam, &sized(32), TEN, &["10.0.0.0/22"]).unwrap().cidr(),
        net("10.9.0.0/32")
    );
    let error = pool(&mut ipam, &sized(23), TEN, &[]).unwrap_err();
    assert!(
        matches!(&error, Error::NoSubnet { tried: 2, bases, .. } if bases == "10.0.0.0/22:23"),
        "{error}"
    );
    assert!(matches!(
        pool(&mut ipam, &sized(21), TEN, &[]),
        Err(Error::NoSubnet { tried: 0, .. })
    ));
    assert_eq!(
        pool(&mut ipam, &sized(33), TEN, &[]).unwrap_err(),
        Error::PrefixTooLong {
            prefix: 33,
            longest: 32
        }
    );
    let v6 = of_our_choice(Want::Sized(80), true);
    assert_eq!(
        pool(&mut ipam, &v6, TEN, &["fd00::/20"]).unwrap().cidr(),
        net("fd00:1000::/80")
    );
}

#[test]
fn thousands_of_routes_and_pools_are_no_obstacle_to_a_choice() {
    let mut ipam = Ipam::default();
    let entries = ["fd00::/16:64"];
    let mut avoid = vec!["fd00::/17".to_owned()];
    avoid.extend((0..4096).map(|n| format!("fd00:8000:0:{n:x}::1/128")));
    let avoid: Vec<&str> = avoid.iter().map(String::as_str).collect();
    for n in 4096..4096 + 8 {
        let given = pool(&mut ipam, &of_our_choice(Want::Any, true), &entries, &avoid).unwrap();
        assert_eq!(given.cidr(), net(&format!("fd00:8000:0:{n:x}::/64")));
    }
}

#[test]
fn releasing_a_pool_drops_all_in_it_and_nothing_else() {
    let pools = [
        "local/10.1.0.0/24/10.1.0.0/25",
        "local/10.1.0.0/24/10.1.0.128/25",
        "global/10.1.0.0/24",
    ];
    let mut ipam = with(&pools[1..]);
    lease(&mut ipam, pools[1], unnamed(endpoint()), 0).unwrap();
    lease(&mut ipam, pools[2], unnamed(endpoint()), 0).unwrap();
    let before = ipam.clone();
    pool(&mut ipam, &exactly(&id(pools[0])), &[], &[]).unwrap();
    lease(&mut ipam, pools[0], unnamed(tombolo_ipam::Use::Gateway), 0).unwrap();
    lease(&mut ipam, pools[0], this("10.1.0.0", tombolo_ipam::Use::Aux), 0).unwrap();
    lease(&mut ipam, pools[0], this("10.1.0.200", endpoint()), 0).unwrap();
    lease(&mut ipam, pools[0], unnamed(endpoint()), 0).unwrap();
    lease(&mut ipam, pools[0], unnamed(endpoint()), 0).unwrap();
    free(&mut ipam, pools[0], "10.1.0.3", 0);
    let edits = ipam.release_pool(&id(pools[0]));
    assert_eq!(edits.len(), 6, "five slots and the pool: {edits:?}");
    apply(&mut ipam, edits);
    assert_eq!(ipam, before);
}

#[test]
fn releasing_a_pool_that_is_not_there_changes_nothing() {
    assert_eq!(
        with(&["local/10.1.0.0/24"]).release_pool(&id("local/10.1.0.0/25")),
        []
    );
    assert_eq!(
        with(&["local/10.1.0.0/24"]).release_pool(&id("global/10.1.0.0/24")),
        []
    );
}
