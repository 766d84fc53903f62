//! Everything that can become of a share, as one thing to ask for: whoever speaks with the other hosts and whoever owns
//! the records are two.

use ipnet::IpNet;

use super::{Ask, NoGift, Share};
use crate::host::HostId;
use crate::ipam::{Edit, Ipam};

/// What is to become of this host's share of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deal {
    /// Take what a decree grants: [`Ipam::grant`].
    Grant {
        /// The decree.
        at: u64,
        /// Pieces with their sequence numbers.
        pieces: Vec<(IpNet, u64)>,
        /// Gifts that go with them, and to whom.
        gifts: Vec<(IpNet, u64, HostId)>,
    },
    /// Give a piece away: [`Ipam::give`].
    Give {
        /// To whom.
        to: HostId,
        /// What is asked for.
        ask: Ask,
    },
    /// Give everything away: [`Ipam::give_all`].
    GiveAll(HostId),
    /// Note a gift to this host: [`Ipam::claim`].
    Claim(IpNet, u64),
    /// A claim is good: [`Ipam::settle`].
    Settle(IpNet, u64),
    /// A claim is void: [`Ipam::disclaim`].
    Disclaim(IpNet, u64),
    /// A gift has arrived: [`Ipam::gift_done`].
    Done(IpNet, u64),
    /// A gift will never be taken: [`Ipam::regain`].
    Regain(IpNet, u64),
    /// Others know of a later state of the share than this host: it is set to that.
    Restore(Share),
    /// The share is void: this host is no member any more, or the pool is no more the cluster's. While this host has a
    /// network on the pool an empty share stays, so that nothing is leased from it.
    Void,
}

impl Ipam {
    /// Decides what becomes of a share.
    ///
    /// # Errors
    /// [`NoGift`], if nothing can be given; of the rest nothing can fail.
    pub fn deal(&self, cidr: IpNet, deal: &Deal, now_s: u64) -> Result<Vec<Edit>, NoGift> {
        match deal {
            Deal::Grant { at, pieces, gifts } => Ok(self.grant(cidr, *at, pieces, gifts)),
            Deal::Give { to, ask } => self.give(cidr, *to, ask, now_s).map(|(_, edits)| edits),
            Deal::GiveAll(to) => self.give_all(cidr, *to),
            Deal::Claim(net, seq) => Ok(self.claim(cidr, *net, *seq)),
            Deal::Settle(net, seq) => Ok(self.settle(cidr, *net, *seq)),
            Deal::Disclaim(net, seq) => Ok(self.disclaim(cidr, *net, *seq)),
            Deal::Done(net, seq) => Ok(self.gift_done(cidr, *net, *seq)),
            Deal::Regain(net, seq) => Ok(self.regain(cidr, *net, *seq)),
            Deal::Restore(share) => Ok(self.restore_share(cidr, share)),
            Deal::Void => Ok(self.void(cidr)),
        }
    }

    /// Decides that a share is what others know of it, as that is later than what this host knows.
    fn restore_share(&self, cidr: IpNet, share: &Share) -> Vec<Edit> {
        let cidr = cidr.trunc();
        let later = self.share(cidr).is_none_or(|own| own.revision < share.revision);
        let (mended, _) = super::mended(cidr, share.clone());
        later
            .then_some(Edit::Share(cidr, Some(mended)))
            .into_iter()
            .collect()
    }

    /// Decides that a share is void.
    fn void(&self, cidr: IpNet) -> Vec<Edit> {
        let cidr = cidr.trunc();
        match self.share(cidr) {
            Some(own) if self.has_network(cidr) => {
                let empty = Share {
                    applied: own.applied,
                    revision: own.revision.saturating_add(1),
                    ..Share::default()
                };
                let same = own.pieces.is_empty() && own.gifts.is_empty();
                (!same)
                    .then_some(Edit::Share(cidr, Some(empty)))
                    .into_iter()
                    .collect()
            }
            _ => self.dissolve(cidr),
        }
    }
}
