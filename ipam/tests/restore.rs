//! Coming back from the store: everything that can be, and a word about everything that cannot.

mod common;

use std::collections::BTreeMap;

use common::*;
use tombolo_ipam::{Ipam, Pool, PoolId, Problem, Slot, Space, Use};

const P: &str = "local/10.1.0.0/29";

fn pools(stored: &[&str]) -> BTreeMap<PoolId, Pool> {
    stored.iter().map(|text| (id(text), Pool::default())).collect()
}

fn leased(pool: &str) -> Slot {
    Slot::Leased {
        pool: id(pool),
        usage: endpoint(),
    }
}

#[test]
fn what_was_stored_comes_back_the_same() {
    let mut ipam = with(&[
        P,
        "local/10.2.0.0/24/10.2.0.0/25",
        "local/10.2.0.0/24/10.2.0.128/25",
        "global/fd00::/64",
    ]);
    for pool in [P, "local/10.2.0.0/24/10.2.0.128/25", "global/fd00::/64"] {
        lease(&mut ipam, pool, unnamed(Use::Gateway), 5).unwrap();
        lease(&mut ipam, pool, unnamed(named("web")), 5).unwrap();
    }
    lease(&mut ipam, P, this("10.1.0.0", Use::Aux), 5).unwrap();
    free(&mut ipam, P, "10.1.0.2", 6);
    assert_eq!(restarted(&ipam), (ipam, vec![]));
}

#[test]
fn the_stored_form_is_fixed() {
    let slots = [
        Slot::Leased {
            pool: id(P),
            usage: Use::Gateway,
        },
        Slot::Leased {
            pool: id(P),
            usage: named("web"),
        },
        Slot::Cooling {
            pool: id(P),
            until_s: 7,
        },
    ];
    let wanted = [
        r#"{"leased":{"pool":"local/10.1.0.0/29","usage":"gateway"}}"#,
        r#"{"leased":{"pool":"local/10.1.0.0/29","usage":{"endpoint":{"name":"web"}}}}"#,
        r#"{"cooling":{"pool":"local/10.1.0.0/29","until_s":7}}"#,
    ];
    for (slot, wanted) in slots.iter().zip(wanted) {
        assert_eq!(serde_json::to_string(slot).unwrap(), wanted);
    }
    let pools = BTreeMap::from([(
        id(P),
        Pool {
            chosen: true,
            cursor: Some(ip("10.1.0.2")),
        },
    )]);
    let json = serde_json::to_string(&pools).unwrap();
    assert_eq!(
        json,
        r#"{"local/10.1.0.0/29":{"chosen":true,"cursor":"10.1.0.2"}}"#
    );
    assert_eq!(
        serde_json::from_str::<BTreeMap<PoolId, Pool>>(&json).unwrap(),
        pools
    );
}

#[test]
fn a_pool_that_overlaps_is_left_out_with_its_addresses_and_the_rest_stays() {
    let stored = pools(&["local/10.1.0.0/24", "local/10.1.0.128/25", "local/10.2.0.0/24"]);
    let slots = BTreeMap::from([
        ((Space::Local, ip("10.1.0.1")), leased("local/10.1.0.0/24")),
        ((Space::Local, ip("10.1.0.129")), leased("local/10.1.0.128/25")),
        ((Space::Local, ip("10.2.0.1")), leased("local/10.2.0.0/24")),
    ]);
    let (ipam, problems) = Ipam::restore(stored, slots, BTreeMap::new());
    let left_out = id("local/10.1.0.128/25");
    assert_eq!(
        problems,
        [
            Problem::Overlap {
                left_out,
                kept: id("local/10.1.0.0/24")
            },
            Problem::NoPool {
                space: Space::Local,
                address: ip("10.1.0.129"),
                pool: left_out
            },
        ]
    );
    assert_eq!(
        problems[0].to_string(),
        "stored pool local/10.1.0.128/25 was left out: it overlaps stored pool local/10.1.0.0/24"
    );
    assert_eq!((ipam.pools().len(), ipam.slots().len()), (2, 2));
}

#[test]
fn an_address_that_its_pool_cannot_have_is_left_out() {
    let cooling = |pool: &str| Slot::Cooling {
        pool: id(pool),
        until_s: 9,
    };
    let range = "local/10.2.0.0/24/10.2.0.128/25";
    let slots = BTreeMap::from([
        ((Space::Local, ip("10.1.0.8")), leased(P)),
        ((Space::Local, ip("fd00::1")), leased(P)),
        ((Space::Local, ip("10.1.0.7")), cooling(P)),
        ((Space::Local, ip("10.2.0.5")), cooling(range)),
        ((Space::Global, ip("10.1.0.3")), leased(P)),
        ((Space::Local, ip("10.9.0.3")), leased("local/10.9.0.0/24")),
    ]);
    let (ipam, problems) = Ipam::restore(pools(&[P, range]), slots, BTreeMap::new());
    let outside = |address, pool| Problem::Outside {
        address: ip(address),
        pool: id(pool),
    };
    let no_pool = |space, address, pool| Problem::NoPool {
        space,
        address: ip(address),
        pool: id(pool),
    };
    assert_eq!(
        problems,
        [
            outside("10.1.0.7", P),
            outside("10.1.0.8", P),
            outside("10.2.0.5", range),
            no_pool(Space::Local, "10.9.0.3", "local/10.9.0.0/24"),
            outside("fd00::1", P),
            no_pool(Space::Global, "10.1.0.3", P),
        ]
    );
    assert_eq!(ipam, with(&[P, range]));
}

#[test]
fn a_cursor_that_points_elsewhere_begins_anew() {
    let stored = BTreeMap::from([(
        id(P),
        Pool {
            chosen: false,
            cursor: Some(ip("10.9.0.1")),
        },
    )]);
    let (ipam, problems) = Ipam::restore(stored, BTreeMap::new(), BTreeMap::new());
    assert_eq!(
        problems,
        [Problem::Cursor {
            pool: id(P),
            cursor: ip("10.9.0.1")
        }]
    );
    assert_eq!(ipam, with(&[P]));
}
