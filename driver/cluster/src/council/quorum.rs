//! How many of whom have to agree.
//!
//! A proposal's quorum follows from its *intent*, the decree that its proposer wants, and holds for both its phases, also
//! where it ends up carrying another decree. Paxos needs that any two quorums of one slot have a host in common.
//! With n electors:
//!
//! - Any other intent: more than half of the electors.
//! - An intent to forget hosts: none of these counts; of the rest more than half *of all n*, or exactly half with the
//!   lowest identifier among them. Any two sets of more than half meet; one of just half and one of more than half meet;
//!   two of just half either meet or are each other's complement, and then only one has the lowest identifier.
//! - An intent to forget so many that the rest cannot be that: *all* of the rest. That is an assertion of the operator,
//!   namely that the lost hosts decide nothing any more, here or among themselves. If it is true, no two decrees are
//!   decided for one slot: whatever was decided with the help of any host of the rest is found there. If it is false, as
//!   when each side of a network cut in two forgets the other, it splits the cluster.
//!
//! So forgetting one host of three or more is never an assertion, unless it is the lowest of two.

use std::collections::BTreeSet;

use tombolo_ipam::HostId;

use crate::charter::Decree;

/// Whose votes count for a proposal, and how many are enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    voters: BTreeSet<HostId>,
    need: usize,
    /// One vote less is enough with this host's.
    lowest: Option<HostId>,
    asserted: bool,
}

impl Quorum {
    /// That of an intent among these electors.
    pub fn of(electors: &BTreeSet<HostId>, intent: &Decree) -> Self {
        let lost = intent.lost();
        let voters: BTreeSet<HostId> = electors.difference(&lost).copied().collect();
        let half = electors.len() / 2;
        let (mut need, mut lowest, mut asserted) = (half + 1, None, false);
        if !lost.is_empty() {
            let even = electors.len().is_multiple_of(2);
            lowest = electors
                .first()
                .copied()
                .filter(|host| even && voters.contains(host));
            if voters.len() + usize::from(lowest.is_some()) < need {
                (need, lowest, asserted) = (voters.len(), None, true);
            }
        }
        Self {
            voters,
            need,
            lowest,
            asserted,
        }
    }

    /// Whose votes count.
    pub fn voters(&self) -> &BTreeSet<HostId> {
        &self.voters
    }

    /// Whether these votes are enough. Only votes of voters are to be handed in.
    pub fn met(&self, votes: &BTreeSet<HostId>) -> bool {
        !votes.is_empty() && votes.len() >= self.needed(votes)
    }

    /// How many votes are needed, given these.
    pub fn needed(&self, votes: &BTreeSet<HostId>) -> usize {
        let one = self.lowest.is_some_and(|host| votes.contains(&host));
        self.need.saturating_sub(usize::from(one))
    }

    /// Whether it rests on the operator's word that the hosts to forget are lost, rather than on numbers.
    pub fn asserted(&self) -> bool {
        self.asserted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn host(n: u8) -> HostId {
        HostId::from_bytes([n; 16])
    }

    fn hosts(mask: u32) -> BTreeSet<HostId> {
        (0..32)
            .filter(|bit| mask & (1 << bit) != 0)
            .map(|bit| host(bit as u8 + 1))
            .collect()
    }

    fn forget(mask: u32) -> Decree {
        Decree::Forget {
            hosts: hosts(mask).into_iter().collect(),
            heir: host(99),
            shares: BTreeMap::new(),
        }
    }

    /// The masks of the smallest and larger sets of voters that are enough.
    fn enough(n: u32, intent: &Decree) -> (Quorum, Vec<u32>) {
        let quorum = Quorum::of(&hosts((1 << n) - 1), intent);
        let lost = intent.lost();
        let sets =
            (0..1_u32 << n).filter(|mask| hosts(*mask).is_disjoint(&lost) && quorum.met(&hosts(*mask)));
        let sets = sets.collect();
        (quorum, sets)
    }

    #[test]
    fn any_two_quorums_of_a_slot_meet_unless_one_is_an_operators_assertion() {
        let mut pairs = 0_u64;
        for n in 1..=7_u32 {
            let mut intents = vec![enough(n, &Decree::Nothing)];
            intents.extend((1..1_u32 << n).map(|lost| enough(n, &forget(lost))));
            for (one, sets) in intents.iter().filter(|(quorum, _)| !quorum.asserted()) {
                for (other, others) in intents.iter().filter(|(quorum, _)| !quorum.asserted()) {
                    let apart = sets.iter().flat_map(|a| others.iter().map(move |b| (a, b)));
                    let apart = apart.inspect(|_| pairs += 1).find(|(a, b)| *a & *b == 0);
                    assert_eq!(apart, None, "of {n}: {one:?}, {other:?}");
                }
            }
        }
        assert!(pairs > 100_000, "{pairs}");
    }

    #[test]
    fn forgetting_one_host_of_three_or_more_is_no_assertion_and_the_rest_can_do_it() {
        for n in 3..=12_u32 {
            for lost in 0..n {
                let quorum = Quorum::of(&hosts((1 << n) - 1), &forget(1 << lost));
                assert!(!quorum.asserted(), "{lost} of {n}");
                assert!(quorum.met(quorum.voters()), "{lost} of {n}");
            }
        }
    }

    #[test]
    fn an_even_cluster_cut_in_halves_that_each_forget_one_host_of_the_other_decides_once() {
        // Hosts 1 and 4 are on one side, 2 and 3 on the other. A majority of "all but the lost one" would be two on
        // either side; the side with the lowest identifier is the one that may.
        let (_, left) = enough(4, &forget(0b0010));
        let (_, right) = enough(4, &forget(0b1000));
        assert!(left.contains(&0b1001));
        assert!(!right.contains(&0b0110));
    }

    #[test]
    fn of_two_hosts_the_lower_may_forget_the_other_and_the_other_only_by_assertion() {
        let both = hosts(0b11);
        assert!(!Quorum::of(&both, &forget(0b10)).asserted());
        let quorum = Quorum::of(&both, &forget(0b01));
        assert!(quorum.asserted());
        assert!(quorum.met(&hosts(0b10)));
    }

    #[test]
    fn an_assertion_needs_all_that_remain() {
        let quorum = Quorum::of(&hosts(0b11111), &forget(0b11100));
        assert!(quorum.asserted());
        assert!(!quorum.met(&hosts(0b00001)));
        assert!(quorum.met(&hosts(0b00011)));
        // And forgetting everybody is no decision of anybody.
        assert!(!Quorum::of(&hosts(0b1), &forget(0b1)).met(&BTreeSet::new()));
    }
}
