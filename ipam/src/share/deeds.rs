//! What becomes of a share: grants, claims and their end. Each gives the edits that make it so, and none where nothing
//! changes, so that a message that comes twice or late does no harm.

use ipnet::IpNet;

use super::{Gift, Piece, Share};
use crate::host::HostId;
use crate::ipam::{Edit, Ipam};
use crate::pool::{PoolId, Space, usable_of};
use crate::prefix::{common, subtract};
use crate::range::Ranges;
use crate::slot::Slot;

/// A share in numbers. Numbers of addresses are at most `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// How many settled pieces it has.
    pub settled: usize,
    /// How many pieces wait for a majority.
    pub claimed: usize,
    /// How many gifts wait for their recipient.
    pub given: usize,
    /// How many usable addresses of settled pieces are not leased, the cooling ones with them.
    pub free: u64,
    /// How many addresses of settled pieces are leased.
    pub leased: u64,
    /// How many addresses of settled pieces cool after use.
    pub cooling: u64,
    /// How many addresses outside settled pieces are leased to endpoints all the same: none, unless a share was lost.
    pub stranded: u64,
}

impl Ipam {
    /// Decides that a pool is one of the cluster: an empty share, so that nothing is leased from it until a piece
    /// is granted or settled. Nothing if it has a share, or overlaps another pool's.
    pub fn enter(&self, cidr: IpNet) -> Vec<Edit> {
        let cidr = cidr.trunc();
        match self.shares().contains_key(&cidr) || !self.may_share(cidr) {
            true => Vec::new(),
            false => vec![Edit::Share(cidr, Some(Share::default()))],
        }
    }

    /// Decides what a decree gives to this host: settled pieces, and the pending gifts of a host that is no more, of
    /// which this host takes care now. Claims make way whatever their sequence number: they rest on a gift that the
    /// decree did not know of, and are void, or are made again. What is settled or given under a higher number stays, and
    /// under the same number it makes way for a piece only. A gift to this host itself is kept all the same; it is
    /// [regained](Self::regain) like one to a host that is no more. Nothing if the decree, or a later one, was applied
    /// before.
    pub fn grant(
        &self,
        cidr: IpNet,
        index: u64,
        pieces: &[(IpNet, u64)],
        gifts: &[(IpNet, u64, HostId)],
    ) -> Vec<Edit> {
        self.change(cidr, |pool, share| {
            if index <= share.applied {
                return;
            }
            share.applied = index;
            for &(net, seq) in pieces.iter().filter(|(net, _)| fits(pool, *net)) {
                for part in share.clear(net, |held, firm| !firm || held <= seq) {
                    share.put(pool, part, Piece { seq, settled: true });
                }
            }
            for &(net, seq, to) in gifts.iter().filter(|(net, ..)| fits(pool, *net)) {
                for part in share.clear(net, |held, firm| !firm || held < seq) {
                    share.gifts.insert(part, Gift { seq, to });
                }
            }
        })
    }

    /// Decides to note a gift to this host, as a piece that is not settled. Nothing for what this host has settled, or
    /// has claimed under this sequence number or a higher one; nor, until that is done, for what it gives away itself:
    /// the gift to it may yet be void, and then its own one is the only record of the piece.
    pub fn claim(&self, cidr: IpNet, net: IpNet, seq: u64) -> Vec<Edit> {
        self.change(cidr, |pool, share| {
            if fits(pool, net) {
                for part in share.clear(net, |held, firm| !firm && held < seq) {
                    share.pieces.insert(part, Piece { seq, settled: false });
                }
            }
        })
    }

    /// Decides that a claim is good: a majority has witnessed it.
    pub fn settle(&self, cidr: IpNet, net: IpNet, seq: u64) -> Vec<Edit> {
        self.change(cidr, |pool, share| {
            for part in share.unclaim(net, seq) {
                share.put(pool, part, Piece { seq, settled: true });
            }
        })
    }

    /// Decides that a claim was void, and drops it. Nothing for what is settled.
    pub fn disclaim(&self, cidr: IpNet, net: IpNet, seq: u64) -> Vec<Edit> {
        self.change(cidr, |_, share| drop(share.unclaim(net, seq)))
    }

    /// Decides to drop a gift, or a part of one: somebody else has settled it.
    pub fn gift_done(&self, cidr: IpNet, net: IpNet, seq: u64) -> Vec<Edit> {
        self.change(cidr, |_, share| drop(share.ungive(net, seq)))
    }

    /// Decides to take back a gift, or a part of one: its recipient will never take it. It is settled, under the next
    /// sequence number.
    pub fn regain(&self, cidr: IpNet, net: IpNet, seq: u64) -> Vec<Edit> {
        self.change(cidr, |pool, share| {
            let seq_now = seq.saturating_add(1);
            for part in share.ungive(net, seq) {
                share.put(
                    pool,
                    part,
                    Piece {
                        seq: seq_now,
                        settled: true,
                    },
                );
            }
        })
    }

    /// Decides to drop the whole share: a majority has ended the pool. Not merely because the share is empty: it knows
    /// which grants were taken up, and without it they would be taken up again.
    pub fn dissolve(&self, cidr: IpNet) -> Vec<Edit> {
        let cidr = cidr.trunc();
        let there = self.shares().contains_key(&cidr);
        there.then_some(Edit::Share(cidr, None)).into_iter().collect()
    }

    /// Whether settled pieces of this host are the whole pool, and no gift is pending.
    pub fn owns_all(&self, cidr: IpNet) -> bool {
        let Some(share) = self.share(cidr).filter(|share| share.gifts.is_empty()) else {
            return false;
        };
        let settled: Ranges = share.settled().map(|(net, _)| net).collect();
        settled.gaps(cidr.network(), cidr.broadcast()).next().is_none()
    }

    /// A share in numbers. It looks at the pool's slots one by one.
    pub fn summary(&self, cidr: IpNet) -> Option<Summary> {
        let cidr = cidr.trunc();
        let share = self.share(cidr)?;
        let mut sums = Summary {
            settled: share.settled().count(),
            given: share.gifts.len(),
            ..Summary::default()
        };
        sums.claimed = share.pieces.len().saturating_sub(sums.settled);
        let mut taken = 0_u128;
        for (address, slot) in self.slots_in(cidr.network(), cidr.broadcast()) {
            match (slot, share.leases(address)) {
                (Slot::Leased { .. }, true) => {
                    sums.leased += 1;
                    taken += u128::from(usable_of(cidr, address.into()) > 0);
                }
                (Slot::Leased { usage, pool }, false) => {
                    let stranded = usage.is_of_share() && pool.cidr() == cidr;
                    sums.stranded += u64::from(stranded);
                }
                (Slot::Cooling { .. }, true) => sums.cooling += 1,
                (Slot::Cooling { .. }, false) => {}
            }
        }
        let all = share.settled().map(|(net, _)| usable_of(cidr, net));
        let free = all.fold(0, u128::saturating_add).saturating_sub(taken);
        sums.free = u64::try_from(free).unwrap_or(u64::MAX);
        Some(sums)
    }

    /// The share of a pool that is one of the cluster: its subnet has a share.
    pub(crate) fn share_of(&self, id: &PoolId) -> Option<&Share> {
        let local = id.space() == Space::Local;
        self.shares().get(&id.cidr()).filter(|_| local)
    }

    /// Whether no other pool's share stands in the way of one of this pool.
    fn may_share(&self, cidr: IpNet) -> bool {
        let shares = self.shares().keys();
        !shares
            .into_iter()
            .any(|other| *other != cidr && common(*other, cidr).is_some())
    }

    /// The edit that a change of a share is, if it is one.
    fn change(&self, cidr: IpNet, change: impl FnOnce(IpNet, &mut Share)) -> Vec<Edit> {
        let cidr = cidr.trunc();
        let old = self.share(cidr);
        let mut new = old.cloned().unwrap_or_default();
        change(cidr, &mut new);
        let same = match old {
            Some(old) => *old == new,
            None => new == Share::default() || !self.may_share(cidr),
        };
        new.revision = new.revision.saturating_add(1);
        match same {
            true => Vec::new(),
            false => vec![Edit::Share(cidr, Some(new))],
        }
    }
}

impl Share {
    /// Takes what is claimed of a prefix under this sequence number, and not settled, out of the pieces.
    fn unclaim(&mut self, net: IpNet, seq: u64) -> Vec<IpNet> {
        let mut taken = Vec::new();
        for (other, piece) in self.meeting(net) {
            if let Some(part) = common(other, net)
                && piece == (Piece { seq, settled: false })
            {
                self.pieces.remove(&other);
                let rest = subtract(other, net).into_iter();
                self.pieces.extend(rest.map(|rest| (rest, piece)));
                taken.push(part);
            }
        }
        taken
    }

    /// Takes what was given of a prefix under this sequence number out of the gifts.
    fn ungive(&mut self, net: IpNet, seq: u64) -> Vec<IpNet> {
        let mut taken = Vec::new();
        for (other, gift) in self.gifts_meeting(net) {
            if let Some(part) = common(other, net)
                && gift.seq == seq
            {
                self.split_gift(other, gift, net);
                taken.push(part);
            }
        }
        taken
    }
}

/// Whether it can be a piece of the pool.
fn fits(pool: IpNet, net: IpNet) -> bool {
    net == net.trunc() && pool.contains(&net)
}
