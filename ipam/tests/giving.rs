//! What a host gives of its share to another, and what it keeps.

#![allow(
    clippy::unwrap_used,
    reason = "what a test says is well-formed, or the test fails"
)]

mod common;

use common::*;
use ipnet::IpNet;
use tombolo_ipam::{Ask, Ipam, NoGift, Use};

const C: &str = "10.1.0.0/24";
const P: &str = "local/10.1.0.0/24";

#[test]
fn room_is_the_smallest_prefix_with_enough_addresses_and_never_more_than_half() {
    for (want, wanted) in [
        (1, "10.1.0.254/32"),
        (2, "10.1.0.252/31"),
        (60, "10.1.0.192/26"),
        (64, "10.1.0.128/26"),
        (100, "10.1.0.128/25"),
        (u64::MAX, "10.1.0.128/25"),
    ] {
        let mut ipam = with_pieces(C, &[C], &[P]);
        assert_eq!(give(&mut ipam, C, space(C, want)).unwrap(), wanted, "{want}");
        lease(&mut ipam, P, unnamed(endpoint()), 0).unwrap();
    }
    let mut ipam = with_pieces(C, &[C], &[]);
    assert_eq!(give(&mut ipam, C, space(C, u64::MAX)).unwrap(), C);
}

#[test]
fn room_has_no_leased_address_and_best_none_that_cools() {
    let mut ipam = with_pieces(C, &[C], &[P]);
    for address in ["10.1.0.1", "10.1.0.130", "10.1.0.200"] {
        lease(&mut ipam, P, this(address, endpoint()), 900).unwrap();
    }
    free(&mut ipam, P, "10.1.0.200", 999);
    let ask = space(C, 60);
    let give_at = |ipam: &Ipam, now_s| {
        ipam.give(net(C), host(2), &ask, now_s)
            .map(|(given, _)| given.to_string())
    };
    assert_eq!(give_at(&ipam, 1000).as_deref(), Ok("10.1.0.64/26"));
    assert_eq!(
        give_at(&ipam, 2000).as_deref(),
        Ok("10.1.0.192/26"),
        "it has cooled"
    );
    lease(&mut ipam, P, this("10.1.0.64", endpoint()), 0).unwrap();
    assert_eq!(
        give_at(&ipam, 1000).as_deref(),
        Ok("10.1.0.192/26"),
        "none other is left"
    );
    assert_eq!(give(&mut ipam, C, ask).as_deref(), Ok("10.1.0.192/26"));
    assert!(
        ipam.slots()
            .keys()
            .all(|(_, address)| *address != ip("10.1.0.200"))
    );
}

#[test]
fn a_whole_piece_is_given_rather_than_a_part_of_a_larger_one() {
    let mut ipam = with_pieces(C, &["10.1.0.0/25", "10.1.0.160/28", "10.1.0.192/26"], &[P]);
    assert_eq!(give(&mut ipam, C, space(C, 16)).unwrap(), "10.1.0.160/28");
    assert_eq!(shown(&ipam, C), "10.1.0.0/25=1 10.1.0.160/28>2 10.1.0.192/26=1");
    // The same again while it is on its way, and another for another host.
    assert_eq!(
        ipam.give(net(C), host(2), &space(C, 1), 0).unwrap(),
        (net("10.1.0.160/28"), vec![])
    );
    let (other, edits) = ipam.give(net(C), host(3), &space(C, 16), 0).unwrap();
    assert_eq!(
        other,
        net("10.1.0.224/28"),
        "of the smaller piece, the highest that has 16"
    );
    done(&mut ipam, edits);
    assert_eq!(
        shown(&ipam, C),
        "10.1.0.0/25=1 10.1.0.160/28>2 10.1.0.192/27=1 10.1.0.224/28>2 10.1.0.240/28=1"
    );
}

#[test]
fn the_last_address_stays_with_a_host_that_has_a_network() {
    let mut ipam = with_pieces(C, &["10.1.0.8/32"], &[P]);
    assert_eq!(
        give(&mut ipam, C, space(C, 1)).unwrap_err().to_string(),
        "this host can spare no address of pool 10.1.0.0/24 in 10.1.0.0/24: 1 of its own are free there"
    );
    let waits = Ask::Space {
        within: net(C),
        want: 1,
        urgent: true,
    };
    let mut asked_by_who_waits = ipam.clone();
    assert_eq!(give(&mut asked_by_who_waits, C, waits).unwrap(), "10.1.0.8/32");
    let edits = ipam.release_pool(&id(P));
    done(&mut ipam, edits);
    assert_eq!(give(&mut ipam, C, space(C, 1)).unwrap(), "10.1.0.8/32");
    // What no endpoint can have is no room.
    let mut ends = with_pieces(C, &["10.1.0.0/32", "10.1.0.255/32"], &[]);
    assert!(matches!(
        give(&mut ends, C, space(C, 1)),
        Err(NoGift::Nothing { free: 0, .. })
    ));
}

#[test]
fn one_address_is_given_unless_it_is_held_or_not_ours() {
    let mut ipam = with_pieces(C, &["10.1.0.0/25"], &[P]);
    let edits = ipam.claim(net(C), net("10.1.0.192/26"), 3);
    done(&mut ipam, edits);
    lease(&mut ipam, P, this("10.1.0.5", named("web")), 0).unwrap();
    lease(&mut ipam, P, this("10.1.0.6", endpoint()), 0).unwrap();
    free(&mut ipam, P, "10.1.0.6", 999);
    let mut ask = |text: &str| give(&mut ipam, C, Ask::Address(ip(text)));
    assert_eq!(ask("10.1.0.6").as_deref(), Ok("10.1.0.6/32"), "it cools");
    assert_eq!(ask("10.1.0.6").as_deref(), Ok("10.1.0.6/32"));
    for (address, wanted) in [
        (
            "10.1.0.5",
            "address 10.1.0.5 of pool 10.1.0.0/24 is in use by endpoint 'web' of this host",
        ),
        (
            "10.1.0.0",
            "address 10.1.0.0 of pool 10.1.0.0/24 is its network address: no endpoint can have it",
        ),
        (
            "10.1.0.130",
            "address 10.1.0.130 of pool 10.1.0.0/24 is not in this host's share",
        ),
        (
            "10.1.0.200",
            "address 10.1.0.200 of pool 10.1.0.0/24 was given to this host, and a majority has yet to witness it: ask again",
        ),
        ("10.2.0.1", "10.2.0.1/32 does not lie in pool 10.1.0.0/24"),
        ("fd00::1", "fd00::1/128 does not lie in pool 10.1.0.0/24"),
    ] {
        assert_eq!(ask(address).unwrap_err().to_string(), wanted);
    }
    let to_another = ipam.give(net(C), host(3), &Ask::Address(ip("10.1.0.6")), 0);
    assert_eq!(
        to_another.unwrap_err().to_string(),
        format!(
            "address 10.1.0.6 of pool 10.1.0.0/24 is on its way from this host to host {}",
            host(2)
        )
    );
    let unknown = give(&mut ipam, "10.9.0.0/16", Ask::Address(ip("10.9.0.1")));
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "this host has no share of pool 10.9.0.0/16"
    );
}

#[test]
fn a_share_in_too_many_pieces_gives_no_single_addresses_but_whole_pieces() {
    let cidr = "10.0.0.0/8";
    let mut ipam = with_pieces(cidr, &[cidr], &[]);
    let mut refused = None;
    for n in 0..40 {
        let (address, to) = (IpNet::from(ip(&format!("10.{n}.77.77"))).addr(), host(n + 3));
        match ipam.give(net(cidr), to, &Ask::Address(address), 0) {
            Ok((_, edits)) => done(&mut ipam, edits),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let share = ipam.share(net(cidr)).unwrap();
    assert!(share.pieces.len() + share.gifts.len() <= tombolo_ipam::share::MOST_PIECES);
    assert!(matches!(refused, Some(NoGift::Scattered { .. })));
    let text = refused.unwrap().to_string();
    assert!(text.ends_with("192 are allowed"), "{text}");
    assert_eq!(
        give(&mut ipam, cidr, space(cidr, 1 << 20)).unwrap(),
        "10.16.0.0/12"
    );
}

#[test]
fn everything_is_given_when_no_endpoint_has_an_address_of_it() {
    let mut ipam = with_pieces(C, &["10.1.0.0/26", "10.1.0.128/25"], &[P]);
    let edits = ipam.claim(net(C), net("10.1.0.64/26"), 3);
    done(&mut ipam, edits);
    lease(&mut ipam, P, unnamed(Use::Gateway), 0).unwrap();
    let web = lease(&mut ipam, P, unnamed(named("web")), 0).unwrap();
    assert_eq!(web, "10.1.0.2/24");
    assert_eq!(
        ipam.give_all(net(C), host(2)).unwrap_err().to_string(),
        "address 10.1.0.2 of pool 10.1.0.0/24 is in use by endpoint 'web' of this host"
    );
    free(&mut ipam, P, "10.1.0.2", 0);
    let edits = ipam.give_all(net(C), host(2)).unwrap();
    done(&mut ipam, edits);
    assert_eq!(shown(&ipam, C), "10.1.0.0/26>2 10.1.0.64/26?3 10.1.0.128/25>2");
    assert_eq!(ipam.give_all(net(C), host(2)), Ok(vec![]));
    let edits = ipam.dissolve(net(C));
    done(&mut ipam, edits);
    assert_eq!((ipam.share(net(C)), ipam.dissolve(net(C))), (None, vec![]));
}

#[test]
fn ipv6_is_given_the_same_way() {
    let cidr = "fd00::/64";
    let mut ipam = with_pieces(cidr, &[cidr], &["local/fd00::/64"]);
    assert_eq!(
        give(&mut ipam, cidr, space(cidr, 1000)).unwrap(),
        "fd00::ffff:ffff:ffff:fc00/118"
    );
    assert_eq!(
        lease(&mut ipam, "local/fd00::/64", unnamed(endpoint()), 0).unwrap(),
        "fd00::1/64"
    );
    let mut large = with_pieces("fd00::/16", &["fd00::/16"], &["local/fd00::/16"]);
    assert_eq!(
        give(&mut large, "fd00::/16", space("fd00::/16", u64::MAX)).unwrap(),
        "fd00:ffff:ffff:ffff::/64"
    );
    let mut all = with_pieces("::/0", &["::/0"], &["local/::/0"]);
    assert_eq!(
        give(&mut all, "::/0", space("8000::/1", 1)).unwrap(),
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"
    );
}

#[test]
fn ten_thousand_scattered_leases_do_not_make_giving_slow() {
    let (cidr, pool) = ("fd00::/64", "local/fd00::/64");
    let mut ipam = with_pieces(cidr, &[cidr], &[pool]);
    for n in 0..10_000_u32 {
        let address = format!("fd00::{:x}:{:x}", n % 97, n.wrapping_mul(2_654_435_761) >> 16);
        drop(lease(&mut ipam, pool, this(&address, endpoint()), 0));
    }
    let leased = ipam.summary(net(cidr)).unwrap().leased;
    assert!(leased > 9_000, "{leased}");
    let begun = std::time::Instant::now();
    give(&mut ipam, cidr, space(cidr, 1 << 20)).unwrap();
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
