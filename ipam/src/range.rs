//! A set of addresses as sorted, disjoint ranges that never touch.
//!
//! ```text
//!   insert 10.0.0.0/31, 10.0.0.2/32, 10.0.0.8/30   ->   [.0 - .2]   [.8 - .11]
//! ```
//!
//! IPv4 and IPv6 lie in one set, IPv4 first; no range reaches from one into the other. Every question costs the
//! logarithm of the number of ranges, and so does every change but for the ranges that it swallows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// The address after this one, unless it is the last of its family.
pub fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// The address before this one, unless it is the first of its family.
pub fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_sub(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_sub(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// How many addresses there are from `first` to `last`, both counted; `u64::MAX` where there are more than it holds.
/// None at all between addresses of two families.
pub fn span(first: IpAddr, last: IpAddr) -> u64 {
    let distance = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            u128::from(u32::from(last)).checked_sub(u32::from(first).into())
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => u128::from(last).checked_sub(first.into()),
        _ => None,
    };
    distance.map_or(0, |d| u64::try_from(d.saturating_add(1)).unwrap_or(u64::MAX))
}

/// A set of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// The first address of each range and its last one.
    ends: BTreeMap<IpAddr, IpAddr>,
}

impl Ranges {
    /// Puts all addresses of a subnet (of its masked form) into the set.
    pub fn insert(&mut self, net: IpNet) {
        let (mut first, mut last) = (net.network(), net.broadcast());
        if let Some((&start, &end)) = self.ends.range(..=first).next_back()
            && (end >= first || after(end) == Some(first))
        {
            first = start;
        }
        while let Some((&start, &end)) = self.ends.range(first..).next()
            && (start <= last || after(last) == Some(start))
        {
            self.ends.remove(&start);
            last = last.max(end);
        }
        self.ends.insert(first, last);
    }

    /// Takes all addresses of a subnet (of its masked form) out of the set.
    pub fn remove(&mut self, net: IpNet) {
        let (first, last) = (net.network(), net.broadcast());
        if let Some((&start, &end)) = self.ends.range(..first).next_back()
            && end >= first
            && let Some(kept) = before(first)
        {
            self.ends.insert(start, kept);
            self.keep_beyond(last, end);
        }
        while let Some((&start, &end)) = self.ends.range(first..=last).next() {
            self.ends.remove(&start);
            self.keep_beyond(last, end);
        }
    }

    /// Puts back what a removal up to `last` must leave of a range that ended at `end`.
    fn keep_beyond(&mut self, last: IpAddr, end: IpAddr) {
        if end > last
            && let Some(start) = after(last)
        {
            self.ends.insert(start, end);
        }
    }

    /// Whether the address is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.last_in(address, address).is_some()
    }

    /// The end of the last range that has an address from `first` to `last`, both counted: none if the set has none
    /// of these addresses. Whoever looks for room beyond the obstacle goes on after it.
    pub fn last_in(&self, first: IpAddr, last: IpAddr) -> Option<IpAddr> {
        self.ends
            .range(..=last)
            .next_back()
            .map(|(_, &end)| end)
            .filter(|&end| end >= first)
    }

    /// The lowest address from `first` to `last`, both counted, that is *not* in the set.
    pub fn first_gap(&self, first: IpAddr, last: IpAddr) -> Option<IpAddr> {
        let gap = match self.last_in(first, first) {
            // Ranges never touch, so what follows one is a gap.
            Some(end) => after(end)?,
            None => first,
        };
        (gap <= last).then_some(gap)
    }

    /// The stretches from `first` to `last`, both counted, that are *not* in the set, in their order.
    pub fn gaps(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let mut at = Some(first);
        std::iter::from_fn(move || {
            let start = self.first_gap(at?, last)?;
            let next = self.ends.range(start..=last).next();
            // Ranges never touch, so the next gap begins right after the range that ends this one.
            at = next.and_then(|(_, &end)| after(end));
            let end = next.and_then(|(&obstacle, _)| before(obstacle));
            Some((start, end.unwrap_or(last)))
        })
    }

    /// The ranges in their order, each with its first and its last address.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        self.ends.iter().map(|(&first, &last)| (first, last))
    }

    /// Whether the set has no address.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl FromIterator<IpNet> for Ranges {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut set = Self::default();
        nets.into_iter().for_each(|net| set.insert(net));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn shown(set: &Ranges) -> Vec<String> {
        set.iter()
            .map(|(first, last)| format!("{first}-{last}"))
            .collect()
    }

    #[test]
    fn neighbours_become_one_range_and_a_hole_makes_two() {
        let mut set: Ranges = ["10.0.0.0/31", "10.0.0.8/30", "10.0.0.2/32"]
            .map(net)
            .into_iter()
            .collect();
        assert_eq!(shown(&set), ["10.0.0.0-10.0.0.2", "10.0.0.8-10.0.0.11"]);
        set.insert(net("10.0.0.0/28"));
        assert_eq!(shown(&set), ["10.0.0.0-10.0.0.15"]);
        set.remove(net("10.0.0.4/30"));
        assert_eq!(shown(&set), ["10.0.0.0-10.0.0.3", "10.0.0.8-10.0.0.15"]);
        set.remove(net("10.0.0.0/24"));
        assert!(set.is_empty());
    }

    #[test]
    fn the_ends_of_both_families_neither_overflow_nor_join() {
        let set: Ranges = ["255.255.255.254/31", "::/127", "0.0.0.0/32"]
            .map(net)
            .into_iter()
            .collect();
        assert_eq!(
            shown(&set),
            ["0.0.0.0-0.0.0.0", "255.255.255.254-255.255.255.255", "::-::1"]
        );
        assert_eq!(set.first_gap(ip("255.255.255.254"), ip("255.255.255.255")), None);
        let mut all: Ranges = ["::/0", "0.0.0.0/0"].map(net).into_iter().collect();
        assert_eq!(
            all.first_gap(ip("::"), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
            None
        );
        all.remove(net("::1/128"));
        assert_eq!(all.first_gap(ip("::"), ip("ff::")), Some(ip("::1")));
        assert_eq!(
            all.gaps(ip("::"), ip("ff::")).collect::<Vec<_>>(),
            [(ip("::1"), ip("::1"))]
        );
        assert_eq!(span(ip("::"), ip("ffff::")), u64::MAX);
        assert_eq!(span(ip("10.0.0.1"), ip("10.0.0.6")), 6);
    }

    /// One change to the set: put in or take out the subnet of this length at this place among 64 addresses.
    fn change() -> impl Strategy<Value = (bool, IpNet)> {
        (any::<bool>(), any::<bool>(), 0_u8..64, 0_u8..=6).prop_map(|(put, v6, place, bits)| {
            let base = if v6 { "fd00::" } else { "10.0.0.0" };
            let address = (0..place).fold(ip(base), |at, _| after(at).unwrap());
            let longest = if v6 { 128 } else { 32 };
            (put, IpNet::new(address, longest - bits).unwrap().trunc())
        })
    }

    proptest! {
        #[test]
        fn any_changes_leave_what_a_plain_set_would_hold(changes in prop::collection::vec(change(), 0..40)) {
            let (mut set, mut plain) = (Ranges::default(), BTreeSet::new());
            for (put, net) in changes {
                let mut at = Some(net.network());
                while let Some(address) = at.filter(|a| *a <= net.broadcast()) {
                    if put { plain.insert(address) } else { plain.remove(&address) };
                    at = after(address);
                }
                if put { set.insert(net) } else { set.remove(net) }
            }
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|w| after(w[0].1).is_some_and(|next| next < w[1].0)));
            prop_assert_eq!(ranges.iter().map(|(f, l)| span(*f, *l)).sum::<u64>(), plain.len() as u64);
            for base in ["10.0.0.0/26", "fd00::/122"].map(net) {
                let gaps: Vec<_> = set.gaps(base.network(), base.broadcast()).collect();
                prop_assert!(gaps.windows(2).all(|w| after(w[0].1).is_some_and(|next| next < w[1].0)));
                let in_gap = |a: IpAddr| gaps.iter().any(|(first, last)| *first <= a && a <= *last);
                let mut at = base.network();
                let mut wanted_gap = None;
                let mut here = base.broadcast();
                while here >= base.network() {
                    prop_assert_eq!(set.contains(here), plain.contains(&here));
                    prop_assert_eq!(in_gap(here), !plain.contains(&here));
                    if !plain.contains(&here) { wanted_gap = Some(here) }
                    prop_assert_eq!(set.first_gap(here, base.broadcast()), wanted_gap);
                    here = before(here).unwrap();
                }
                while at <= base.broadcast() {
                    let wanted = plain.range(base.network()..=at).next().is_some();
                    prop_assert_eq!(set.last_in(base.network(), at).is_some(), wanted);
                    at = after(at).unwrap();
                }
            }
        }
    }
}
