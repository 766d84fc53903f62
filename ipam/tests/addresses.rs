//! Addresses: which one answers, which are refused, and how they come back.

mod common;

use common::*;
use tombolo_ipam::{COOL_DOWN_S, Edit, Error, Ipam, KeptOut, Slot, Space, Use};

const P: &str = "local/10.1.0.0/29";
/// The two ranges of one subnet.
const LOW: &str = "local/10.1.0.0/28/10.1.0.0/29";
const HIGH: &str = "local/10.1.0.0/28/10.1.0.8/29";

/// Leases all that the pool gives on its own and returns the addresses in the order in which they came.
fn drain(ipam: &mut Ipam, pool: &str, now_s: u64) -> Vec<String> {
    let given: Vec<String> =
        std::iter::from_fn(|| lease(ipam, pool, unnamed(endpoint()), now_s).ok()).collect();
    assert!(matches!(
        lease(ipam, pool, unnamed(endpoint()), now_s),
        Err(Error::Exhausted { .. })
    ));
    given
}

#[test]
fn endpoints_get_the_usable_addresses_in_order_with_the_subnets_length() {
    for (pool, wanted) in [
        (
            P,
            &[
                "10.1.0.1/29",
                "10.1.0.2/29",
                "10.1.0.3/29",
                "10.1.0.4/29",
                "10.1.0.5/29",
                "10.1.0.6/29",
            ][..],
        ),
        ("local/10.1.0.0/31", &["10.1.0.0/31", "10.1.0.1/31"]),
        ("local/10.1.0.7/32", &["10.1.0.7/32"]),
        ("local/fd00::/126", &["fd00::1/126", "fd00::2/126", "fd00::3/126"]),
        ("local/fd00::/127", &["fd00::1/127"]),
        ("local/fd00::/128", &[]),
        ("local/10.1.0.0/24/10.1.0.254/31", &["10.1.0.254/24"]),
        (
            "local/10.1.0.0/24/10.1.0.0/30",
            &["10.1.0.1/24", "10.1.0.2/24", "10.1.0.3/24"],
        ),
        (
            "local/255.255.255.252/30",
            &["255.255.255.253/30", "255.255.255.254/30"],
        ),
    ] {
        assert_eq!(drain(&mut with(&[pool]), pool, 0), wanted, "{pool}");
    }
}

#[test]
fn an_unknown_pool_is_named_in_the_refusal() {
    let error = lease(&mut with(&[P]), "global/10.1.0.0/29", unnamed(endpoint()), 0).unwrap_err();
    assert_eq!(error.to_string(), "there is no pool global/10.1.0.0/29");
}

#[test]
fn exhaustion_names_the_pool_and_what_it_has_leased() {
    let mut ipam = with(&[P]);
    drain(&mut ipam, P, 0);
    lease(&mut ipam, P, this("10.1.0.0", Use::Aux), 0).unwrap();
    let error = lease(&mut ipam, P, unnamed(endpoint()), 0).unwrap_err();
    assert_eq!(
        error,
        Error::Exhausted {
            pool: id(P),
            leases: 7
        }
    );
    assert!(
        error
            .to_string()
            .starts_with("pool local/10.1.0.0/29 has no free address: 7 of its addresses are leased")
    );
}

#[test]
fn a_freed_address_goes_to_the_back_of_the_queue() {
    let mut ipam = with(&[P]);
    let first = lease(&mut ipam, P, unnamed(endpoint()), 0).unwrap();
    free(&mut ipam, P, "10.1.0.1", 0);
    // Long after it has cooled down, it still comes last.
    let given = drain(&mut ipam, P, 10 * COOL_DOWN_S);
    assert_eq!(
        given,
        [
            "10.1.0.2/29",
            "10.1.0.3/29",
            "10.1.0.4/29",
            "10.1.0.5/29",
            "10.1.0.6/29",
            "10.1.0.1/29"
        ]
    );
    assert_eq!(first, "10.1.0.1/29");
}

#[test]
fn a_cooling_address_is_passed_over_and_of_several_the_first_freed_comes_first() {
    let mut ipam = with(&[P]);
    drain(&mut ipam, P, 0);
    for (address, at) in [("10.1.0.4", 10), ("10.1.0.2", 20), ("10.1.0.6", 30)] {
        free(&mut ipam, P, address, at);
    }
    let slot = Slot::Cooling {
        pool: id(P),
        until_s: 20 + COOL_DOWN_S,
    };
    assert_eq!(ipam.slot(Space::Local, ip("10.1.0.2")), Some(&slot));
    assert_eq!(
        drain(&mut ipam, P, 31),
        ["10.1.0.4/29", "10.1.0.2/29", "10.1.0.6/29"]
    );
}

#[test]
fn a_free_address_is_preferred_to_one_that_cools_wherever_it_lies() {
    let mut ipam = with(&[P]);
    lease(&mut ipam, P, this("10.1.0.1", Use::Gateway), 0).unwrap();
    for _ in 2..=6 {
        let given = lease(&mut ipam, P, unnamed(endpoint()), 0).unwrap();
        free(&mut ipam, P, given.trim_end_matches("/29"), 0);
    }
    // All were used once; at the end of the cool-down they are forgotten a few at a time, and go round again.
    let given = lease(&mut ipam, P, unnamed(endpoint()), COOL_DOWN_S).unwrap();
    assert_eq!(given, "10.1.0.2/29");
    assert_eq!(
        lease(&mut ipam, P, unnamed(endpoint()), COOL_DOWN_S).unwrap(),
        "10.1.0.3/29"
    );
}

#[test]
fn cooled_addresses_are_forgotten_so_slots_do_not_pile_up() {
    let pool = "local/fd00::/64";
    let mut ipam = with(&[pool]);
    let mut most = 0;
    for second in 0..20 * COOL_DOWN_S {
        let given = lease(&mut ipam, pool, unnamed(endpoint()), second).unwrap();
        free(&mut ipam, pool, given.trim_end_matches("/64"), second);
        most = most.max(ipam.slots().len());
    }
    assert!(
        most as u64 <= COOL_DOWN_S + 2,
        "{most} slots for one lease a second"
    );
}

#[test]
fn addresses_that_cool_in_another_pool_of_the_subnet_are_forgotten_too() {
    let (low, high) = ("local/fd00::/64/fd00::/96", "local/fd00::/64/fd00:0:0:0:1::/96");
    let mut ipam = with(&[low, high]);
    let mut most = 0;
    for second in 0..20 * COOL_DOWN_S {
        // By name out of the other pool's range: that pool gives it, so it cools there.
        let address = format!("fd00::1:0:0:{:x}", second % 0xffff + 1);
        lease(&mut ipam, low, this(&address, endpoint()), second).unwrap();
        free(&mut ipam, low, &address, second);
        most = most.max(ipam.slots().len());
        assert!(
            matches!(ipam.slot(Space::Local, ip(&address)), Some(Slot::Cooling { pool, .. }) if *pool == id(high))
        );
    }
    assert!(
        most as u64 <= COOL_DOWN_S + 2,
        "{most} slots for one lease a second"
    );
}

#[test]
fn named_addresses_may_lie_anywhere_in_the_subnet_but_not_beyond() {
    let mut ipam = with(&[HIGH]);
    assert_eq!(
        lease(&mut ipam, HIGH, this("10.1.0.2", endpoint()), 0).unwrap(),
        "10.1.0.2/28"
    );
    assert_eq!(
        lease(&mut ipam, HIGH, this("10.1.0.3", Use::Aux), 0).unwrap(),
        "10.1.0.3/28"
    );
    assert_eq!(
        lease(&mut ipam, HIGH, this("10.1.0.4", Use::Gateway), 0).unwrap(),
        "10.1.0.4/28"
    );
    for outside in ["10.1.0.16", "10.0.255.255", "fd00::1", "::ffff:10.1.0.5"] {
        for usage in [endpoint(), Use::Aux, Use::Gateway] {
            let error = lease(&mut ipam, HIGH, this(outside, usage), 0).unwrap_err();
            assert_eq!(
                error,
                Error::Outside {
                    pool: id(HIGH),
                    address: ip(outside)
                }
            );
        }
    }
}

#[test]
fn an_address_that_is_kept_out_can_only_be_auxiliary() {
    for (pool, address, why) in [
        (P, "10.1.0.0", KeptOut::Network),
        (P, "10.1.0.7", KeptOut::Broadcast),
        ("local/fd00::/64", "fd00::", KeptOut::SubnetRouter),
        ("local/fd00::/127", "fd00::", KeptOut::SubnetRouter),
    ] {
        let mut ipam = with(&[pool]);
        for usage in [endpoint(), Use::Gateway] {
            let error = lease(&mut ipam, pool, this(address, usage), 0).unwrap_err();
            assert_eq!(
                error,
                Error::KeptOut {
                    pool: id(pool),
                    address: ip(address),
                    why
                }
            );
        }
        lease(&mut ipam, pool, this(address, Use::Aux), 0).unwrap();
        free(&mut ipam, pool, address, 0);
        assert!(
            ipam.slots().is_empty(),
            "what no pool gives need not cool: {:?}",
            ipam.slots()
        );
    }
}

#[test]
fn an_auxiliary_address_must_be_named() {
    let error = lease(&mut with(&[P]), P, unnamed(Use::Aux), 0).unwrap_err();
    assert_eq!(error, Error::AuxWithoutAddress { pool: id(P) });
}

#[test]
fn an_address_in_use_is_refused_with_its_holder() {
    let mut ipam = with(&[P]);
    lease(&mut ipam, P, this("10.1.0.3", named("web")), 0).unwrap();
    let error = lease(&mut ipam, P, this("10.1.0.3", named("db")), 0).unwrap_err();
    let told = "address 10.1.0.3 of pool local/10.1.0.0/29 is in use by endpoint 'web' of pool local/10.1.0.0/29: \
                choose another or name none";
    assert_eq!(error.to_string(), told);
}

#[test]
fn a_repeat_is_answered_for_the_same_sort_of_use_and_refused_for_another() {
    let uses = [Use::Gateway, Use::Aux, named("web")];
    for holder in &uses {
        for asks in &uses {
            let mut ipam = with(&[P]);
            lease(&mut ipam, P, this("10.1.0.3", holder.clone()), 0).unwrap();
            let before = ipam.clone();
            // The repeat carries no name: Docker does not say it again.
            let asks = if *asks == named("web") {
                endpoint()
            } else {
                asks.clone()
            };
            let same =
                holder == &asks || matches!((holder, &asks), (Use::Endpoint { .. }, Use::Endpoint { .. }));
            let repeat = lease(&mut ipam, P, again(this("10.1.0.3", asks.clone())), 0);
            let refused = Error::InUse {
                pool: id(P),
                address: ip("10.1.0.3"),
                holder: holder.clone(),
                owner: id(P),
            };
            assert_eq!(
                repeat,
                if same {
                    Ok("10.1.0.3/29".to_owned())
                } else {
                    Err(refused.clone())
                }
            );
            if !(same && asks == Use::Gateway) {
                assert_eq!(
                    lease(&mut ipam, P, this("10.1.0.3", asks), 0).unwrap_err(),
                    refused
                );
            }
            assert_eq!(ipam, before, "neither changes anything, the name is kept");
        }
    }
}

#[test]
fn a_repeat_for_what_was_never_given_is_given() {
    let mut ipam = with(&[P]);
    assert_eq!(
        lease(&mut ipam, P, again(this("10.1.0.4", endpoint())), 0).unwrap(),
        "10.1.0.4/29"
    );
    assert_eq!(
        ipam.leases_of(&id(P)).collect::<Vec<_>>(),
        [(ip("10.1.0.4"), &endpoint())]
    );
}

#[test]
fn a_named_address_is_given_though_it_cools() {
    let mut ipam = with(&[P]);
    lease(&mut ipam, P, this("10.1.0.3", endpoint()), 0).unwrap();
    free(&mut ipam, P, "10.1.0.3", 0);
    lease(&mut ipam, P, this("10.1.0.3", named("back")), 1).unwrap();
    assert_eq!(
        ipam.leases_of(&id(P)).collect::<Vec<_>>(),
        [(ip("10.1.0.3"), &named("back"))]
    );
}

#[test]
fn ranges_of_one_subnet_never_give_the_same_address() {
    let mut ipam = with(&[LOW, HIGH]);
    lease(&mut ipam, LOW, this("10.1.0.9", endpoint()), 0).unwrap();
    let error = lease(&mut ipam, HIGH, again(this("10.1.0.9", endpoint())), 0).unwrap_err();
    assert!(
        matches!(&error, Error::InUse { owner, .. } if *owner == id(LOW)),
        "{error}"
    );
    assert_eq!(drain(&mut ipam, HIGH, 0)[..2], ["10.1.0.8/28", "10.1.0.10/28"]);
    assert_eq!(drain(&mut ipam, LOW, 0).len(), 7);
    // Freed by the pool that had it, it is the other one's to give.
    free(&mut ipam, HIGH, "10.1.0.9", 0);
    assert!(matches!(
        lease(&mut ipam, HIGH, unnamed(endpoint()), 0),
        Err(Error::Exhausted { .. })
    ));
    free(&mut ipam, LOW, "10.1.0.9", 0);
    assert!(matches!(
        lease(&mut ipam, LOW, unnamed(endpoint()), 0),
        Err(Error::Exhausted { .. })
    ));
    assert_eq!(
        lease(&mut ipam, HIGH, unnamed(endpoint()), 0).unwrap(),
        "10.1.0.9/28"
    );
}

#[test]
fn releasing_what_is_not_leased_changes_nothing() {
    let mut ipam = with(&[LOW, HIGH]);
    lease(&mut ipam, LOW, this("10.1.0.3", endpoint()), 0).unwrap();
    for (pool, address) in [
        (LOW, "10.1.0.4"),
        (HIGH, "10.1.0.3"),
        (LOW, "fd00::1"),
        ("global/10.1.0.0/28", "10.1.0.3"),
        ("local/10.1.0.0/28", "10.1.0.3"),
    ] {
        assert_eq!(
            ipam.release_address(&id(pool), ip(address), 0),
            Vec::<Edit>::new(),
            "{pool} {address}"
        );
    }
    free(&mut ipam, LOW, "10.1.0.3", 0);
    assert_eq!(
        ipam.release_address(&id(LOW), ip("10.1.0.3"), 50),
        Vec::<Edit>::new(),
        "a repeat cools no longer"
    );
}

#[test]
fn the_two_spaces_have_addresses_of_their_own() {
    let mut ipam = with(&["local/10.1.0.0/29", "global/10.1.0.0/29"]);
    for pool in ["local/10.1.0.0/29", "global/10.1.0.0/29"] {
        assert_eq!(
            lease(&mut ipam, pool, unnamed(endpoint()), 0).unwrap(),
            "10.1.0.1/29"
        );
    }
}

#[test]
fn how_full_a_pool_is() {
    let mut ipam = with(&[LOW, HIGH]);
    lease(&mut ipam, LOW, this("10.1.0.9", endpoint()), 0).unwrap();
    lease(&mut ipam, HIGH, unnamed(Use::Gateway), 0).unwrap();
    let given = lease(&mut ipam, HIGH, unnamed(endpoint()), 0).unwrap();
    free(&mut ipam, HIGH, given.trim_end_matches("/28"), 0);
    let fill = |pool: &str| ipam.fill(&id(pool));
    assert_eq!(
        (fill(HIGH).leased, fill(HIGH).cooling, fill(HIGH).free),
        (1, 1, 6)
    );
    assert_eq!((fill(LOW).leased, fill(LOW).cooling, fill(LOW).free), (1, 0, 6));
    assert_eq!(
        with(&["local/fd00::/64"]).fill(&id("local/fd00::/64")).free,
        u64::MAX
    );
}

#[test]
fn the_last_seconds_of_the_clock_do_not_overflow() {
    let mut ipam = with(&[P]);
    lease(&mut ipam, P, this("10.1.0.3", endpoint()), u64::MAX).unwrap();
    free(&mut ipam, P, "10.1.0.3", u64::MAX);
    lease(&mut ipam, P, unnamed(endpoint()), u64::MAX).unwrap();
}

#[test]
fn a_large_pool_is_filled_and_emptied_without_walking_it() {
    let pool = "local/10.0.0.0/16";
    let mut ipam = with(&[pool]);
    assert_eq!(drain(&mut ipam, pool, 0).len(), 65_534);
    free(&mut ipam, pool, "10.0.200.7", 0);
    assert_eq!(
        lease(&mut ipam, pool, unnamed(endpoint()), 0).unwrap(),
        "10.0.200.7/16"
    );
    let edits = ipam.release_pool(&id(pool));
    apply(&mut ipam, edits);
    assert_eq!(ipam, Ipam::default());
}
