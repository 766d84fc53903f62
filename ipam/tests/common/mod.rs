//! What the tests of this crate share: short ways to say an address, a pool and a wish, and to do what was decided.

#![allow(dead_code, reason = "every test binary uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    reason = "what a test says is well-formed, or the test fails"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::{
    Ask, Carve, Edit, Error, Gift, HostId, Ipam, NoGift, Piece, Pool, PoolId, PoolRequest, Problem, Slot,
    Space, Use, Want, Wish,
};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn id(text: &str) -> PoolId {
    text.parse().unwrap()
}

pub fn carve(entries: &[&str]) -> Vec<Carve> {
    entries.iter().map(|entry| entry.parse().unwrap()).collect()
}

pub fn exactly(pool: &PoolId) -> PoolRequest {
    let want = Want::Exactly(pool.cidr());
    PoolRequest {
        space: pool.space(),
        want,
        range: pool.range(),
        v6: pool.cidr().addr().is_ipv6(),
        repeat: false,
    }
}

pub fn of_our_choice(want: Want, v6: bool) -> PoolRequest {
    PoolRequest {
        space: Space::Local,
        want,
        range: None,
        v6,
        repeat: false,
    }
}

pub fn endpoint() -> Use {
    Use::Endpoint { name: None }
}

pub fn named(name: &str) -> Use {
    Use::Endpoint {
        name: Some(name.to_owned()),
    }
}

pub fn unnamed(usage: Use) -> Wish {
    Wish {
        address: None,
        usage,
        repeat: false,
    }
}

pub fn this(address: &str, usage: Use) -> Wish {
    Wish {
        address: Some(ip(address)),
        usage,
        repeat: false,
    }
}

pub fn again(wish: Wish) -> Wish {
    Wish { repeat: true, ..wish }
}

/// Applies all edits and returns those that undo them, in the order in which they must be applied.
pub fn apply(ipam: &mut Ipam, edits: Vec<Edit>) -> Vec<Edit> {
    let mut undo: Vec<Edit> = edits.into_iter().map(|edit| ipam.apply(edit)).collect();
    undo.reverse();
    undo
}

/// Asks for a pool and makes it so.
pub fn pool(
    ipam: &mut Ipam,
    request: &PoolRequest,
    entries: &[&str],
    avoid: &[&str],
) -> Result<PoolId, Error> {
    let avoid: Vec<IpNet> = avoid.iter().map(|text| net(text)).collect();
    let (id, edits) = ipam.request_pool(request, &carve(entries), &avoid)?;
    apply(ipam, edits);
    Ok(id)
}

/// Pools that are simply there.
pub fn with(pools: &[&str]) -> Ipam {
    let mut ipam = Ipam::default();
    for text in pools {
        pool(&mut ipam, &exactly(&id(text)), &[], &[]).unwrap();
    }
    ipam
}

/// Asks for an address and makes it so.
pub fn lease(ipam: &mut Ipam, pool: &str, wish: Wish, now_s: u64) -> Result<String, Error> {
    let (answer, edits) = ipam.request_address(&id(pool), &wish, now_s)?;
    apply(ipam, edits);
    Ok(answer.to_string())
}

/// Gives an address back.
pub fn free(ipam: &mut Ipam, pool: &str, address: &str, now_s: u64) {
    let edits = ipam.release_address(&id(pool), ip(address), now_s);
    apply(ipam, edits);
}

/// What a store would read after a restart: all records, through JSON, and what was made of them.
pub fn restarted(ipam: &Ipam) -> (Ipam, Vec<Problem>) {
    let pools: Vec<(&PoolId, &Pool)> = ipam.pools().iter().collect();
    let slots: Vec<(&(Space, IpAddr), &Slot)> = ipam.slots().iter().collect();
    let pools = serde_json::to_vec(&pools).unwrap();
    let slots = serde_json::to_vec(&slots).unwrap();
    let pools: Vec<(PoolId, Pool)> = serde_json::from_slice(&pools).unwrap();
    let slots: Vec<((Space, IpAddr), Slot)> = serde_json::from_slice(&slots).unwrap();
    let shares = serde_json::to_vec(ipam.shares()).unwrap();
    let shares = serde_json::from_slice(&shares).unwrap();
    Ipam::restore(BTreeMap::from_iter(pools), BTreeMap::from_iter(slots), shares)
}

pub fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

/// Does what was decided about shares, and makes sure that it can be undone and comes back from the store.
pub fn done(ipam: &mut Ipam, edits: Vec<Edit>) {
    let before = ipam.clone();
    let undo = apply(ipam, edits.clone());
    let mut back = ipam.clone();
    apply(&mut back, undo);
    assert_eq!(back, before, "the inverse edits of {edits:?} do not lead back");
    assert_eq!(restarted(ipam), (ipam.clone(), vec![]));
}

/// A host that was granted these pieces, with networks on these pools.
pub fn with_pieces(cidr: &str, pieces: &[&str], pools: &[&str]) -> Ipam {
    let mut ipam = with(pools);
    let pieces: Vec<(IpNet, u64)> = pieces.iter().map(|piece| (net(piece), 1)).collect();
    let edits = ipam.grant(net(cidr), 1, &pieces, &[]);
    done(&mut ipam, edits);
    ipam
}

pub fn space(within: &str, want: u64) -> Ask {
    Ask::Space {
        within: net(within),
        want,
        urgent: false,
    }
}

/// What a host gives to host 2.
pub fn give(ipam: &mut Ipam, cidr: &str, ask: Ask) -> Result<String, NoGift> {
    let (given, edits) = ipam.give(net(cidr), host(2), &ask, 1000)?;
    done(ipam, edits);
    Ok(given.to_string())
}

/// Pieces and gifts as text: `=` settled, `?` claimed, `>` given.
pub fn shown(ipam: &Ipam, cidr: &str) -> String {
    let share = ipam.share(net(cidr)).unwrap();
    let pieces = share.pieces.iter().map(|(net, Piece { seq, settled })| {
        let sign = if *settled { '=' } else { '?' };
        (*net, format!("{net}{sign}{seq}"))
    });
    let gifts = share
        .gifts
        .iter()
        .map(|(net, Gift { seq, .. })| (*net, format!("{net}>{seq}")));
    let all: BTreeMap<IpNet, String> = pieces.chain(gifts).collect();
    all.into_values().collect::<Vec<_>>().join(" ")
}
