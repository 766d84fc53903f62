//! One host of the world: its durable state, and what it has durably witnessed of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::prefix::{common, subtract};
use tombolo_ipam::share::{Claim, Standing, claims};
use tombolo_ipam::{Edit, HostId, Ipam, PoolId, Share, Slot, Space, Use};

use crate::common::*;

/// What a majority decided, as far as shares go.
#[derive(Debug, Clone, Default)]
pub struct Decree {
    /// Who is no more.
    pub gone: Option<usize>,
    /// Who gets something: pieces, and gifts that were pending.
    pub heir: usize,
    pub pieces: Vec<(IpNet, u64)>,
    pub gifts: Vec<(IpNet, u64, HostId)>,
    /// Who is a member afterwards.
    pub members: BTreeSet<usize>,
}

/// A host's row as another one knows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub version: u64,
    pub share: Share,
}

#[derive(Debug, Clone)]
pub struct Host {
    pub me: usize,
    pub ipam: Ipam,
    pub alive: bool,
    /// How many decrees it has learnt.
    pub index: usize,
    /// The rows that it knows, its own with them.
    pub rows: BTreeMap<usize, Row>,
    pub cidr: IpNet,
}

/// The identifier of a host.
pub fn id_of(host: usize) -> HostId {
    HostId::from_bytes([u8::try_from(host).unwrap() + 1; 16])
}

impl Host {
    pub fn new(me: usize, cidr: IpNet) -> Self {
        let rows = BTreeMap::from([(me, Row::default())]);
        let mut host = Self {
            me,
            ipam: Ipam::default(),
            alive: true,
            index: 0,
            rows,
            cidr,
        };
        let edits = host.ipam.enter(cidr);
        host.apply(edits);
        host
    }

    /// Applies what was decided, after making sure that it can be undone and comes back. Says whether anything changed.
    pub fn apply(&mut self, edits: Vec<Edit>) -> bool {
        let mut there_and_back = self.ipam.clone();
        let undo = apply(&mut there_and_back, edits.clone());
        assert_eq!(restarted(&there_and_back), (there_and_back.clone(), vec![]));
        apply(&mut there_and_back, undo);
        assert_eq!(there_and_back, self.ipam, "{edits:?} cannot be undone");
        let changes = !edits.is_empty();
        apply(&mut self.ipam, edits);
        let share = self.share().clone();
        let row = self.rows.get_mut(&self.me).unwrap();
        if row.share != share {
            row.version += 1;
            row.share = share;
        }
        changes
    }

    pub fn share(&self) -> &Share {
        self.ipam.share(self.cidr).unwrap()
    }

    pub fn pool(&self) -> PoolId {
        PoolId::new(Space::Local, self.cidr, None).unwrap()
    }

    pub fn has_network(&self) -> bool {
        self.ipam.pool(&self.pool()).is_some()
    }

    /// The addresses that endpoints have.
    pub fn endpoints(&self) -> Vec<IpAddr> {
        let leased = self.ipam.slots().iter().filter(|(_, slot)| {
            matches!(
                slot,
                Slot::Leased {
                    usage: Use::Endpoint { .. },
                    ..
                }
            )
        });
        leased.map(|((_, address), _)| *address).collect()
    }

    /// Takes up a row that is newer than the one it knows, of a host that it does not know to be gone.
    pub fn see(&mut self, of: usize, row: &Row, decrees: &[Decree]) {
        let gone = decrees[..self.index].iter().any(|decree| decree.gone == Some(of));
        let known = self.rows.get(&of).map_or(0, |known| known.version);
        if of != self.me && !gone && row.version > known {
            self.rows.insert(of, row.clone());
        }
    }

    /// What the rows and the decrees that it knows say of a prefix.
    pub fn claims(&self, net: IpNet, decrees: &[Decree]) -> Vec<Claim> {
        let rows = self.rows.iter().map(|(host, row)| (id_of(*host), &row.share));
        let mut all: Vec<Claim> = claims(rows, net).collect();
        for decree in &decrees[..self.index] {
            let by = id_of(decree.heir);
            let pieces = decree
                .pieces
                .iter()
                .map(|(net, seq)| (*net, *seq, by, Standing::Settled));
            let gifts = decree
                .gifts
                .iter()
                .map(|(net, seq, to)| (*net, *seq, *to, Standing::Given));
            let said = pieces.chain(gifts).map(|(net, seq, owner, standing)| Claim {
                net,
                seq,
                owner,
                standing,
                by,
            });
            all.extend(said.filter(|claim| common(claim.net, net).is_some()));
        }
        all
    }

    /// Whether it witnesses a claim: it knows the gift and the claim, and nothing newer.
    pub fn witnesses_claim(&self, of: usize, net: IpNet, seq: u64, decrees: &[Decree]) -> bool {
        let all = self.claims(net, decrees);
        let owner = id_of(of);
        let of_seq = |claim: &Claim| claim.seq == seq && claim.owner == owner && claim.net.contains(&net);
        let given = all.iter().any(|c| of_seq(c) && c.standing == Standing::Given);
        let claimed = all
            .iter()
            .any(|c| of_seq(c) && c.by == owner && c.standing != Standing::Given);
        given && claimed && all.iter().all(|claim| claim.seq <= seq)
    }

    /// The parts of a gift of `by` that it does not know to be settled with somebody else, who may have given them on.
    pub fn unsettled_parts(&self, by: usize, net: IpNet, seq: u64, decrees: &[Decree]) -> Vec<IpNet> {
        let all = self.claims(net, decrees);
        let settled = all.iter().filter(|claim| match claim.standing {
            Standing::Settled => claim.by != id_of(by) && claim.seq >= seq || claim.seq > seq,
            Standing::Given => claim.seq > seq,
            Standing::Claimed => false,
        });
        without(net, settled.map(|claim| claim.net))
    }

    /// What it must have claimed, and what it must disclaim, by what it knows.
    pub fn tend_claims(&mut self, decrees: &[Decree]) -> BTreeSet<&'static str> {
        let mut met = BTreeSet::new();
        let me = id_of(self.me);
        for claim in self.claims(self.cidr, decrees) {
            if claim.owner == me && claim.by != me && claim.standing == Standing::Given {
                let newer = self.claims(claim.net, decrees);
                let newer = newer.iter().filter(|other| other.seq > claim.seq);
                for part in without(claim.net, newer.map(|other| other.net)) {
                    // What is settled already under this number is not claimed again.
                    let edits = self.ipam.claim(self.cidr, part, claim.seq);
                    if self.apply(edits) {
                        met.insert("claimed");
                    }
                }
            }
        }
        let pieces = self.share().pieces.clone();
        for (net, piece) in pieces.iter().filter(|(_, piece)| !piece.settled) {
            let all = self.claims(*net, decrees);
            let newer = all.iter().filter(|c| c.seq > piece.seq).map(|c| c.net);
            let given = all
                .iter()
                .filter(|c| c.standing == Standing::Given && c.owner == me && c.seq == piece.seq);
            let void = without(*net, given.map(|c| c.net));
            let void: Vec<IpNet> = void.into_iter().chain(newer).collect();
            for part in void {
                let edits = self.ipam.disclaim(self.cidr, part, piece.seq);
                if self.apply(edits) {
                    met.insert("disclaimed");
                }
            }
        }
        met
    }

    /// Learns the next decree.
    pub fn learn(&mut self, decrees: &[Decree]) -> BTreeSet<&'static str> {
        let decree = &decrees[self.index];
        self.index += 1;
        if let Some(gone) = decree.gone {
            self.rows.remove(&gone);
        }
        let mut met = BTreeSet::new();
        if decree.heir == self.me {
            let edits = self
                .ipam
                .grant(self.cidr, self.index as u64, &decree.pieces, &decree.gifts);
            self.apply(edits);
            met.extend((!decree.pieces.is_empty()).then_some("granted a piece"));
            met.extend((!decree.gifts.is_empty()).then_some("granted a gift"));
        }
        met
    }
}

/// What is left of a prefix without some others.
pub fn without(net: IpNet, others: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    others.fold(vec![net], |parts, other| {
        parts.into_iter().flat_map(|part| subtract(part, other)).collect()
    })
}
