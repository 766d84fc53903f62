//! Prefixes: aligned blocks of addresses, what is left of one, and the few that make up a stretch.
//!
//! ```text
//!   subtract 10.0.0.0/29 - 10.0.0.2/32   ->   .4/30  .0/31  .3/32
//!   cover    10.0.0.1 to 10.0.0.9        ->   .1/32  .2/31  .4/30  .8/31
//! ```

use std::net::IpAddr;

use ipnet::IpNet;

use crate::range::Ranges;

/// What both have, if anything: of two prefixes that meet, one lies in the other.
pub fn common(a: IpNet, b: IpNet) -> Option<IpNet> {
    match (a.contains(&b), b.contains(&a)) {
        (true, _) => Some(b),
        (_, true) => Some(a),
        _ => None,
    }
}

/// Whether both have an address in common.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    common(a, b).is_some()
}

/// The lower and the upper half of a prefix; none of a single address.
pub fn halves(net: IpNet) -> Option<[IpNet; 2]> {
    let mut both = net.trunc().subnets(net.prefix_len().checked_add(1)?).ok()?;
    Some([both.next()?, both.next()?])
}

/// The prefix that is the other half of the one above this one; none of the whole family.
pub fn sibling(net: IpNet) -> Option<IpNet> {
    halves(net.supernet()?)?.into_iter().find(|half| *half != net)
}

/// What is left of a prefix without another: the fewest prefixes, the largest first.
pub fn subtract(net: IpNet, hole: IpNet) -> Vec<IpNet> {
    if common(net, hole).is_none() {
        return vec![net];
    }
    let (mut left, mut around) = (Vec::new(), net);
    while !hole.contains(&around) {
        let Some([low, high]) = halves(around) else { break };
        let (inner, outer) = if low.contains(&hole) {
            (low, high)
        } else {
            (high, low)
        };
        left.push(outer);
        around = inner;
    }
    left
}

/// The fewest prefixes that make up the addresses from `first` to `last`, both counted, in their order. None between
/// addresses of two families.
pub fn cover(first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpNet> {
    let v6 = first.is_ipv6();
    let width = if v6 { 128 } else { 32 };
    let last = (last.is_ipv6() == v6).then(|| number(last));
    let mut at = Some(number(first));
    std::iter::from_fn(move || {
        let start = at?;
        let distance = last?.checked_sub(start)?;
        let fits = distance.checked_add(1).map_or(128, u128::ilog2);
        let bits = fits.min(start.trailing_zeros()).min(width);
        at = 1_u128.checked_shl(bits).and_then(|size| start.checked_add(size));
        IpNet::new(address(v6, start)?, u8::try_from(width - bits).ok()?).ok()
    })
}

/// The largest prefixes in `region` that have no address of `taken`, in their order.
pub fn free_blocks(region: IpNet, taken: &Ranges) -> impl Iterator<Item = IpNet> + '_ {
    taken
        .gaps(region.network(), region.broadcast())
        .flat_map(|(first, last)| cover(first, last))
}

/// How many addresses a prefix has; `u128::MAX` for all of IPv6, which are one more.
pub fn size(net: IpNet) -> u128 {
    let bits = u32::from(net.max_prefix_len().saturating_sub(net.prefix_len()));
    1_u128.checked_shl(bits).unwrap_or(u128::MAX)
}

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The address of a number; none beyond the family.
fn address(v6: bool, number: u128) -> Option<IpAddr> {
    match v6 {
        true => Some(IpAddr::V6(number.into())),
        false => u32::try_from(number).ok().map(|n| IpAddr::V4(n.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::{after, before, span};
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn shown(nets: impl IntoIterator<Item = IpNet>) -> Vec<String> {
        nets.into_iter().map(|net| net.to_string()).collect()
    }

    #[test]
    fn a_hole_leaves_one_prefix_for_each_bit_that_it_is_longer() {
        let left = |a, b| shown(subtract(net(a), net(b)));
        assert_eq!(
            left("10.0.0.0/29", "10.0.0.2/32"),
            ["10.0.0.4/30", "10.0.0.0/31", "10.0.0.3/32"]
        );
        assert_eq!(left("10.0.0.0/29", "10.0.0.0/29"), [""; 0]);
        assert_eq!(left("10.0.0.4/30", "10.0.0.0/24"), [""; 0]);
        assert_eq!(left("10.0.0.4/30", "fd00::/8"), ["10.0.0.4/30"]);
        assert_eq!(subtract(net("::/0"), net("::1/128")).len(), 128);
    }

    #[test]
    fn the_ends_of_both_families_are_covered_without_overflow() {
        for whole in ["0.0.0.0/0", "::/0", "255.255.255.255/32", "8000::/1"] {
            let whole = net(whole);
            assert_eq!(
                cover(whole.network(), whole.broadcast()).collect::<Vec<_>>(),
                [whole]
            );
        }
        let end = "255.255.255.253".parse().unwrap();
        assert_eq!(
            shown(cover(end, "255.255.255.255".parse().unwrap())),
            ["255.255.255.253/32", "255.255.255.254/31"]
        );
        assert_eq!(cover(end, "::1".parse().unwrap()).count(), 0);
        assert_eq!(cover("::1".parse().unwrap(), "::".parse().unwrap()).count(), 0);
        assert_eq!((size(net("::/0")), size(net("0.0.0.0/0"))), (u128::MAX, 1 << 32));
    }

    #[test]
    fn siblings_are_the_two_halves_of_one() {
        for (a, b) in [
            ("10.0.0.0/25", "10.0.0.128/25"),
            ("fd00::1/128", "fd00::/128"),
            ("0.0.0.0/1", "128.0.0.0/1"),
        ] {
            assert_eq!(sibling(net(a)), Some(net(b)));
            assert_eq!(sibling(net(b)), Some(net(a)));
        }
        assert_eq!((sibling(net("::/0")), halves(net("10.0.0.1/32"))), (None, None));
    }

    #[test]
    fn free_blocks_lie_between_what_is_taken() {
        let taken: Ranges = ["10.0.0.3/32", "10.0.0.8/30"].map(net).into_iter().collect();
        assert_eq!(
            shown(free_blocks(net("10.0.0.0/28"), &taken)),
            ["10.0.0.0/31", "10.0.0.2/32", "10.0.0.4/30", "10.0.0.12/30"]
        );
    }

    proptest! {
        #[test]
        fn a_cover_has_each_address_once_and_cannot_be_fewer(v6: bool, start in 0_u8..64, more in 0_u8..64) {
            let base: IpAddr = if v6 { "fd00::" } else { "10.0.0.0" }.parse().unwrap();
            let step = |from: IpAddr, n: u8| (0..n).fold(from, |at, _| after(at).unwrap());
            let first = step(base, start);
            let last = step(first, more);
            let nets: Vec<IpNet> = cover(first, last).collect();
            let mut at = Some(first);
            for net in &nets {
                prop_assert_eq!(*net, net.trunc());
                prop_assert_eq!(Some(net.network()), at);
                at = after(net.broadcast());
            }
            prop_assert_eq!(at.and_then(before), Some(last));
            prop_assert!(nets.windows(2).all(|w| sibling(w[0]) != Some(w[1])));
        }

        #[test]
        fn what_is_left_and_the_hole_are_the_whole(
            v6: bool, places in (0_u8..64, 0_u8..64), bits in (0_u8..=6, 0_u8..=6),
        ) {
            let (base, longest) = if v6 { ("fd00::", 128) } else { ("10.0.0.0", 32) };
            let prefix = |place: u8, bits: u8| {
                let at = (0..place).fold(base.parse().unwrap(), |at, _| after(at).unwrap());
                IpNet::new(at, longest - bits).unwrap().trunc()
            };
            let (whole, hole) = (prefix(places.0, bits.0), prefix(places.1, bits.1));
            let mut parts = subtract(whole, hole);
            prop_assert!(parts.iter().all(|part| common(*part, hole).is_none()));
            parts.extend(common(whole, hole));
            prop_assert_eq!(parts.iter().map(|p| span(p.network(), p.broadcast())).sum::<u64>(), size(whole) as u64);
            prop_assert!(parts.iter().all(|part| whole.contains(part)));
            prop_assert_eq!(parts.into_iter().collect::<Ranges>(), [whole].into_iter().collect::<Ranges>());
        }
    }
}
