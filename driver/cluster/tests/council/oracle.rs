//! What must be true of all hosts together, noted and held against each act as it is carried out.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, Decree, Void};
use tombolo_cluster::council::{Outcome, Shares};

/// The pool that the shares of the simulation are of.
pub const POOL: &str = "10.0.0.0/8";

#[derive(Default)]
pub struct Oracle {
    /// For each slot the decree, and who knows it.
    pub decided: BTreeMap<u64, (Decree, BTreeSet<HostId>)>,
    pub charters: BTreeMap<u64, (Charter, BTreeSet<HostId>)>,
    /// Hosts that died for good.
    pub dead: BTreeSet<HostId>,
    /// Who confirmed to have witnessed this version of that host's row, with which members in mind.
    witnessed: BTreeMap<(HostId, u32, u64), BTreeSet<HostId>>,
    /// The versions of rows that a majority of members confirmed.
    settled: BTreeSet<(HostId, u32, u64)>,
    /// Wishes that were told not to happen.
    never: Vec<Decree>,
    /// How many decrees changed who is a member, and how many forgot hosts whose rows a majority had witnessed.
    pub changes: u64,
    pub forgotten: u64,
}

impl Oracle {
    /// A host's charter has another index, by a decree or as a whole.
    pub fn changed(&mut self, host: HostId, decree: Option<&Decree>, void: Option<&Void>, charter: &Charter) {
        let index = charter.index;
        if let Some(decree) = decree {
            let dead = &self.dead;
            let known = self
                .decided
                .entry(index)
                .or_insert_with(|| (decree.clone(), BTreeSet::new()));
            if known.0 != *decree {
                // What only the dead knew of, an operator has asserted away.
                assert!(
                    known.1.is_subset(dead),
                    "slot {index}: {host:?} knows {decree:?}, {known:?}"
                );
                *known = (decree.clone(), BTreeSet::new());
            }
            if known.1.is_empty() {
                self.changes += u64::from(decree.changes_members() && void.is_none());
                if let (Decree::Forget { shares, .. }, None) = (decree, void) {
                    let rest = charter.hosts.keys().copied().collect();
                    self.inherits(decree, shares, &rest);
                }
            }
            if let Some((_, known)) = self.decided.get_mut(&index) {
                known.insert(host);
            }
        }
        let known = self
            .charters
            .entry(index)
            .or_insert_with(|| (charter.clone(), BTreeSet::new()));
        if known.0 != *charter {
            assert!(
                known.1.is_subset(&self.dead),
                "index {index}: {host:?} has {charter:?}, {known:?}"
            );
            *known = (charter.clone(), BTreeSet::new());
        }
        known.1.insert(host);
    }

    /// Whatever a majority had witnessed, and any host that remains was among, stands in the decree.
    fn inherits(&mut self, decree: &Decree, shares: &Shares, rest: &BTreeSet<HostId>) {
        let lost = decree.lost();
        let pool = POOL.parse().unwrap();
        for key in self.settled.iter().filter(|(owner, ..)| lost.contains(owner)) {
            let (owner, version, _) = *key;
            if self.witnessed.get(key).is_none_or(|by| by.is_disjoint(rest)) {
                continue;
            }
            let told = shares
                .get(&owner)
                .and_then(|share| share.get(&pool))
                .map_or(0, |held| held.version.1);
            assert!(
                told >= version,
                "{owner:?}: a majority had witnessed {version}, the decree has {told}"
            );
            self.forgotten += 1;
        }
    }

    /// A host has witnessed a row and says so.
    pub fn witness(&mut self, host: HostId, owner: HostId, version: u32, charter: &Charter) {
        if !charter.hosts.contains_key(&host) || !charter.hosts.contains_key(&owner) {
            return;
        }
        let by = self
            .witnessed
            .entry((owner, version, charter.members_since()))
            .or_default();
        by.insert(host);
        if by.len() > charter.hosts.len() / 2 {
            self.settled.insert((owner, version, charter.members_since()));
        }
    }

    /// A wish came to its end.
    pub fn done(&mut self, wish: &Decree, outcome: &Outcome, charter: &Charter) {
        match outcome {
            Outcome::Decided { .. } => {
                let known = |(_, (decree, _)): (&u64, &(Decree, _))| decree.same_wish(wish);
                assert!(
                    charter.holds(wish).is_some() || self.decided.iter().any(known),
                    "{wish:?} was told to be decided, and isn't"
                );
            }
            Outcome::Objected { .. } | Outcome::NoMajority { .. } => self.never.push(wish.clone()),
            Outcome::Void { .. } | Outcome::Late { .. } | Outcome::Crowded { .. } => {}
        }
    }

    /// What was told not to happen hasn't. Only for wishes that are made once.
    pub fn never_happened(&self) {
        for wish in self
            .never
            .iter()
            .filter(|wish| matches!(wish, Decree::Found { .. } | Decree::Secret { .. }))
        {
            let happened = self.decided.values().any(|(decree, _)| decree.same_wish(wish));
            assert!(!happened, "{wish:?} was told not to happen");
        }
    }
}
