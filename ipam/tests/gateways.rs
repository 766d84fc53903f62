//! Gateways: where they lie, and that a pool has one.

mod common;

use common::*;
use tombolo_ipam::{Error, Use};

const P: &str = "local/10.1.0.0/29";
/// The two ranges of one subnet.
const LOW: &str = "local/10.1.0.0/28/10.1.0.0/29";
const HIGH: &str = "local/10.1.0.0/28/10.1.0.8/29";

#[test]
fn a_gateway_that_names_no_address_gets_the_first_usable_one_even_beside_a_range() {
    for (pool, wanted) in [
        ("local/10.1.0.0/24", "10.1.0.1/24"),
        ("local/10.1.0.0/24/10.1.0.128/25", "10.1.0.1/24"),
        ("local/10.1.0.0/31", "10.1.0.0/31"),
        ("local/10.1.0.5/32", "10.1.0.5/32"),
        ("local/fd00::/64", "fd00::1/64"),
        ("local/fd00::/127", "fd00::1/127"),
    ] {
        let mut ipam = with(&[pool]);
        assert_eq!(
            lease(&mut ipam, pool, unnamed(Use::Gateway), 0).unwrap(),
            wanted,
            "{pool}"
        );
        assert_eq!(ipam.pool(&id(pool)).unwrap().cursor, None, "{pool}");
    }
    let none = lease(
        &mut with(&["local/fd00::/128"]),
        "local/fd00::/128",
        unnamed(Use::Gateway),
        0,
    )
    .unwrap_err();
    assert_eq!(
        none,
        Error::Exhausted {
            pool: id("local/fd00::/128"),
            leases: 0
        }
    );
}

#[test]
fn a_gateway_whose_place_is_taken_gets_the_lowest_free_one_of_its_own_range() {
    let mut ipam = with(&[LOW, HIGH]);
    assert_eq!(
        lease(&mut ipam, LOW, unnamed(Use::Gateway), 0).unwrap(),
        "10.1.0.1/28"
    );
    lease(&mut ipam, HIGH, unnamed(endpoint()), 0).unwrap();
    assert_eq!(
        lease(&mut ipam, HIGH, unnamed(Use::Gateway), 0).unwrap(),
        "10.1.0.9/28"
    );
    let mut ipam = with(&[P]);
    lease(&mut ipam, P, this("10.1.0.1", Use::Aux), 0).unwrap();
    assert_eq!(
        lease(&mut ipam, P, unnamed(Use::Gateway), 0).unwrap(),
        "10.1.0.2/29"
    );
}

#[test]
fn a_gateways_usual_place_is_its_own_again_though_it_cools() {
    let mut ipam = with(&[P]);
    lease(&mut ipam, P, unnamed(Use::Gateway), 0).unwrap();
    free(&mut ipam, P, "10.1.0.1", 0);
    assert_eq!(
        lease(&mut ipam, P, unnamed(Use::Gateway), 1).unwrap(),
        "10.1.0.1/29"
    );
}

#[test]
fn a_second_gateway_is_refused_and_a_repeat_gets_the_first() {
    let mut ipam = with(&[P]);
    lease(&mut ipam, P, unnamed(Use::Gateway), 0).unwrap();
    let before = ipam.clone();
    let refused = Error::HasGateway {
        pool: id(P),
        gateway: ip("10.1.0.1"),
    };
    assert_eq!(
        lease(&mut ipam, P, unnamed(Use::Gateway), 0).unwrap_err(),
        refused
    );
    assert_eq!(
        lease(&mut ipam, P, this("10.1.0.2", Use::Gateway), 0).unwrap_err(),
        refused
    );
    assert_eq!(
        lease(&mut ipam, P, again(this("10.1.0.2", Use::Gateway)), 0).unwrap_err(),
        refused
    );
    assert_eq!(
        lease(&mut ipam, P, again(unnamed(Use::Gateway)), 0).unwrap(),
        "10.1.0.1/29"
    );
    assert_eq!(
        lease(&mut ipam, P, this("10.1.0.1", Use::Gateway), 0).unwrap(),
        "10.1.0.1/29"
    );
    assert_eq!(ipam, before);
}

#[test]
fn a_gateway_that_was_released_makes_room_for_another_anywhere() {
    let mut ipam = with(&[P]);
    lease(&mut ipam, P, unnamed(Use::Gateway), 0).unwrap();
    lease(&mut ipam, P, unnamed(endpoint()), 0).unwrap();
    free(&mut ipam, P, "10.1.0.1", 0);
    assert_eq!(ipam.gateway_of(&id(P)), None);
    assert_eq!(
        lease(&mut ipam, P, this("10.1.0.5", Use::Gateway), 1).unwrap(),
        "10.1.0.5/29"
    );
    assert_eq!(ipam.gateway_of(&id(P)), Some(ip("10.1.0.5")));
}
