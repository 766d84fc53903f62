//! Who hears which group on networks whose groups go to other hosts, and what the cluster is told of it.
//!
//! What is told of a network is bounded, so that a container that joins whatever there is costs the others little. What was
//! told before stays, so that it takes nothing from anybody else either.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_core::model::Network;
use tombolo_core::peers::{GROUPS_TOLD, GroupsRow};

use super::{Engine, Journal};
use crate::kernel::Kernel;
use crate::kernel::groups::Groups;

/// A part of what is told of a network.
pub type Part = (IpNet, u8);

/// What is heard, and what is told of it.
#[derive(Debug, Default)]
pub(super) struct Listening {
    heard: Groups,
    told: BTreeMap<IpNet, BTreeSet<IpAddr>>,
    /// How many groups are not told, by pool.
    untold: BTreeMap<IpNet, usize>,
    /// Parts that have changed since the cluster was told.
    changed: BTreeSet<Part>,
}

impl Listening {
    /// Compares what is told with what is heard, by pool.
    fn count(&mut self, heard: BTreeMap<IpNet, BTreeSet<IpAddr>>) {
        let mut told = BTreeMap::new();
        let mut untold = BTreeMap::new();
        let none = BTreeSet::new();
        for (pool, heard) in heard {
            let before = self.told.get(&pool).unwrap_or(&none);
            let (kept, new): (Vec<IpAddr>, Vec<IpAddr>) =
                heard.iter().copied().partition(|group| before.contains(group));
            let now: BTreeSet<IpAddr> = kept.into_iter().chain(new).take(GROUPS_TOLD).collect();
            let over = heard.len() - now.len();
            if over > 0 && !self.untold.contains_key(&pool) {
                tracing::warn!(%pool, heard = heard.len(), told = GROUPS_TOLD,
                    "so many groups are heard that other hosts are not told of all; what they send to the others stays there");
            }
            if over > 0 {
                untold.insert(pool, over);
            }
            told.insert(pool, now);
        }
        for pool in self.told.keys().chain(told.keys()) {
            let (before, now) = (
                self.told.get(pool).unwrap_or(&none),
                told.get(pool).unwrap_or(&none),
            );
            let differ = before.symmetric_difference(now);
            self.changed
                .extend(differ.map(|group| (*pool, GroupsRow::part_of(*group))));
        }
        told.retain(|_, groups| !groups.is_empty());
        (self.told, self.untold) = (told, untold);
    }

    /// The parts that have changed since this was asked last, or all; each with its groups, none where nothing is left of it.
    fn parts(&mut self, everything: bool) -> BTreeMap<Part, Vec<IpAddr>> {
        let changed = std::mem::take(&mut self.changed);
        let mut parts: BTreeMap<Part, Vec<IpAddr>> = changed.iter().map(|part| (*part, Vec::new())).collect();
        for (pool, groups) in &self.told {
            for group in groups {
                let part = (*pool, GroupsRow::part_of(*group));
                if everything || changed.contains(&part) {
                    parts.entry(part).or_default().push(*group);
                }
            }
        }
        parts
    }
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// Takes in what is heard on the bridges of this host.
    pub(super) fn listen(&mut self, heard: Groups) {
        self.listening.heard = heard;
        self.touched.listeners();
    }

    /// What the cluster is to be told of groups.
    pub(super) fn told_groups(&mut self, everything: bool) -> BTreeMap<Part, Vec<IpAddr>> {
        let networks = self
            .state
            .networks()
            .filter(|network| network.spec.has_multicast());
        let heard = networks.filter_map(|network| Some((network.pool()?, self.heard_on(network))));
        let heard = heard.collect();
        self.listening.count(heard);
        self.listening.parts(everything)
    }

    /// The groups that somebody on this host hears on a network.
    pub(super) fn heard_on(&self, network: &Network) -> BTreeSet<IpAddr> {
        let links = network.spec.kind().links(&network.id);
        let heard = links.first().and_then(|bridge| self.listening.heard.get(bridge));
        heard.cloned().unwrap_or_default()
    }

    /// How many groups other hosts are told of, and how many not.
    pub(super) fn counted_groups(&self) -> (usize, usize) {
        let told = self.listening.told.values().map(BTreeSet::len).sum();
        (told, self.listening.untold.values().sum())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn pool(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn groups(range: std::ops::Range<u16>) -> BTreeSet<IpAddr> {
        let group = |n: u16| IpAddr::V4(Ipv4Addr::new(239, 1, (n >> 8) as u8, n as u8));
        range.map(group).collect()
    }

    fn sum(parts: &BTreeMap<Part, Vec<IpAddr>>) -> BTreeSet<IpAddr> {
        parts.values().flatten().copied().collect()
    }

    #[test]
    fn what_has_changed_is_told_once_and_what_is_gone_as_well() {
        let mut listening = Listening::default();
        let (a, b) = (pool("10.1.0.0/16"), pool("10.2.0.0/16"));
        listening.count(BTreeMap::from([(a, groups(0..30)), (b, groups(0..1))]));
        let first = listening.parts(false);
        assert_eq!(
            first.keys().filter(|(of, _)| *of == a).count(),
            8,
            "spread over the parts"
        );
        assert_eq!(sum(&first), groups(0..30));
        listening.count(BTreeMap::from([(a, groups(0..30)), (b, groups(0..1))]));
        assert_eq!(listening.parts(false), BTreeMap::new());
        // One more, and one network less: its part, and the end of that of the other.
        listening.count(BTreeMap::from([(a, groups(0..31))]));
        let then = listening.parts(false);
        assert_eq!(then.len(), 2);
        assert_eq!(
            then.iter()
                .filter(|(_, groups)| groups.is_empty())
                .map(|((of, _), _)| *of)
                .collect::<Vec<_>>(),
            [b]
        );
        assert!(sum(&then).is_superset(&groups(30..31)));
        assert_eq!(sum(&listening.parts(true)), groups(0..31));
    }

    #[test]
    fn who_joins_all_there_is_takes_nothing_from_others() {
        let mut listening = Listening::default();
        let a = pool("10.1.0.0/16");
        let most = GROUPS_TOLD as u16;
        listening.count(BTreeMap::from([(a, groups(1000..1010))]));
        listening.count(BTreeMap::from([(a, groups(0..1010))]));
        assert_eq!(listening.told[&a].len(), GROUPS_TOLD);
        assert!(listening.told[&a].is_superset(&groups(1000..1010)));
        assert_eq!(listening.untold[&a], 1010 - GROUPS_TOLD);
        // What was not told is, once there is room.
        listening.count(BTreeMap::from([(a, groups(500..500 + most))]));
        assert_eq!(
            (listening.told[&a].clone(), listening.untold.len()),
            (groups(500..500 + most), 0)
        );
    }
}
