//! Giving pieces away: which one a host that asks gets, and why it gets none.

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Gift, Share};
use crate::host::HostId;
use crate::ipam::{Edit, Ipam};
use crate::pool::{KeptOut, Space, kept_out, usable_of};
use crate::prefix::{common, free_blocks, size, subtract};
use crate::range::{Ranges, before};
use crate::slot::{Slot, Use};

/// How many pieces and gifts a share may have for another to be cut off: the row of a share is to stay small.
pub const MOST_PIECES: usize = 192;

/// What another host asks of this host's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Room for addresses.
    Space {
        /// Where they are to lie: the pool, or a range of it.
        within: IpNet,
        /// How many would do: a hint.
        want: u64,
        /// Somebody waits for it: the last free address is given as well.
        urgent: bool,
    },
    /// One address.
    Address(IpAddr),
}

/// Why nothing is given. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoGift {
    /// This host has nothing of the pool.
    #[error("this host has no share of pool {pool}")]
    NoShare {
        /// The pool.
        pool: IpNet,
    },
    /// Something outside the pool was asked for.
    #[error("{got} does not lie in pool {pool}")]
    Outside {
        /// The pool.
        pool: IpNet,
        /// What was asked for.
        got: IpNet,
    },
    /// The address is another host's, as far as this host knows.
    #[error("address {address} of pool {pool} is not in this host's share")]
    NotMine {
        /// The pool.
        pool: IpNet,
        /// The address.
        address: IpAddr,
    },
    /// The address lies in a piece that is on its way to this host.
    #[error(
        "address {address} of pool {pool} was given to this host, and a majority has yet to witness it: ask again"
    )]
    Unsettled {
        /// The pool.
        pool: IpNet,
        /// The address.
        address: IpAddr,
    },
    /// The address was given to somebody else.
    #[error("address {address} of pool {pool} is on its way from this host to host {to}")]
    Given {
        /// The pool.
        pool: IpNet,
        /// The address.
        address: IpAddr,
        /// Its recipient.
        to: HostId,
    },
    /// An address that no endpoint can have.
    #[error("address {address} of pool {pool} is {why}: no endpoint can have it")]
    KeptOut {
        /// The pool.
        pool: IpNet,
        /// The address.
        address: IpAddr,
        /// What it is.
        why: KeptOut,
    },
    /// Somebody on this host has the address.
    #[error("address {address} of pool {pool} is in use by {holder} of this host")]
    Leased {
        /// The pool.
        pool: IpNet,
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: Use,
    },
    /// This host has no room, or needs what it has.
    #[error("this host can spare no address of pool {pool} in {within}: {free} of its own are free there")]
    Nothing {
        /// The pool.
        pool: IpNet,
        /// Where room was asked for.
        within: IpNet,
        /// How many are free; at most `u64::MAX`.
        free: u64,
    },
    /// The share would be cut in too many pieces.
    #[error(
        "this host's share of pool {pool} would be {pieces} pieces without what was asked for: {MOST_PIECES} are allowed"
    )]
    Scattered {
        /// The pool.
        pool: IpNet,
        /// How many they would be.
        pieces: usize,
    },
}

impl Ipam {
    /// Decides which piece of this host's share another host gets. What was given to it before and is not done, and
    /// answers what it asks now, is the answer again, without edits.
    ///
    /// *Room* is the smallest prefix without a leased address that has as many usable addresses as are wanted; where
    /// none has, the largest. While this host has a network on the pool, it gives at most half (rounded up) of what it
    /// has free there, and keeps one address at least unless somebody waits. Of several prefixes of that size it is one where nothing cools,
    /// which leaves the fewest pieces and the largest room whole, and of these the highest. *One address* is given if
    /// it is not leased, even if it cools.
    ///
    /// What cools in it is forgotten, as this host will not give it out.
    ///
    /// # Errors
    /// [`NoGift`] says why nothing is given.
    pub fn give(&self, cidr: IpNet, to: HostId, ask: &Ask, now_s: u64) -> Result<(IpNet, Vec<Edit>), NoGift> {
        let pool = cidr.trunc();
        let share = self.share(pool).ok_or(NoGift::NoShare { pool })?;
        let got = match *ask {
            Ask::Space { within, .. } => within.trunc(),
            Ask::Address(address) => address.into(),
        };
        let within = common(pool, got).ok_or(NoGift::Outside { pool, got })?;
        let answers = |net: &IpNet| match ask {
            Ask::Space { .. } => within.contains(net),
            Ask::Address(address) => net.contains(address),
        };
        let mut pending = share.gifts.iter().filter(|(_, gift)| gift.to == to);
        if let Some((net, _)) = pending.find(|(net, _)| answers(net)) {
            return Ok((*net, Vec::new()));
        }
        let net = match *ask {
            Ask::Space { want, urgent, .. } => self.spare(pool, share, within, (want, urgent), now_s)?,
            Ask::Address(address) => {
                self.single(pool, share, address)?;
                within
            }
        };
        let after = hand_over(share, &[net], to);
        let pieces = after.pieces.len().saturating_add(after.gifts.len());
        let grows = pieces > share.pieces.len().saturating_add(share.gifts.len());
        if grows && pieces > MOST_PIECES {
            return Err(NoGift::Scattered { pool, pieces });
        }
        Ok((net, self.parting(pool, after, &[net])))
    }

    /// Decides to give every settled piece to one host: this host has no network on the pool any more, or leaves. What
    /// is claimed or given already stays as it is.
    ///
    /// # Errors
    /// [`NoGift::NoShare`], and [`NoGift::Leased`] while an endpoint has an address of them.
    pub fn give_all(&self, cidr: IpNet, to: HostId) -> Result<Vec<Edit>, NoGift> {
        let pool = cidr.trunc();
        let share = self.share(pool).ok_or(NoGift::NoShare { pool })?;
        let nets: Vec<IpNet> = share.settled().map(|(net, _)| net).collect();
        for (address, slot) in self.slots_in(pool.network(), pool.broadcast()) {
            if let Slot::Leased { usage, .. } = slot
                && usage.is_of_share()
                && share.leases(address)
            {
                return Err(NoGift::Leased {
                    pool,
                    address,
                    holder: usage.clone(),
                });
            }
        }
        match nets.is_empty() {
            true => Ok(Vec::new()),
            false => Ok(self.parting(pool, hand_over(share, &nets, to), &nets)),
        }
    }

    /// The edits that part with these pieces.
    fn parting(&self, pool: IpNet, after: Share, nets: &[IpNet]) -> Vec<Edit> {
        let slots = nets
            .iter()
            .flat_map(|net| self.slots_in(net.network(), net.broadcast()));
        let cooling = slots.filter(|(_, slot)| matches!(slot, Slot::Cooling { .. }));
        let forget = cooling.map(|(address, _)| Edit::Slot(Space::Local, address, None));
        let mut edits: Vec<Edit> = forget.collect();
        edits.push(Edit::Share(pool, Some(after)));
        edits
    }

    /// Refuses an address that can't be given.
    fn single(&self, pool: IpNet, share: &Share, address: IpAddr) -> Result<(), NoGift> {
        if let Some((_, Gift { to, .. })) = share.gift_of(address) {
            return Err(NoGift::Given { pool, address, to });
        }
        match share.piece_of(address) {
            None => return Err(NoGift::NotMine { pool, address }),
            Some((_, piece)) if !piece.settled => return Err(NoGift::Unsettled { pool, address }),
            Some(_) => {}
        }
        if let Some(Slot::Leased { usage, .. }) = self.slot(Space::Local, address) {
            let holder = usage.clone();
            return Err(NoGift::Leased {
                pool,
                address,
                holder,
            });
        }
        match kept_out(pool, address) {
            Some(why) => Err(NoGift::KeptOut { pool, address, why }),
            None => Ok(()),
        }
    }

    /// The room that this host can spare.
    fn spare(
        &self,
        pool: IpNet,
        share: &Share,
        within: IpNet,
        (want, urgent): (u64, bool),
        now_s: u64,
    ) -> Result<IpNet, NoGift> {
        let (mut leased, mut warm) = (Ranges::default(), Ranges::default());
        for (address, slot) in self.slots_in(pool.network(), pool.broadcast()) {
            match slot {
                Slot::Leased { .. } => leased.insert(address.into()),
                Slot::Cooling { until_s, .. } if *until_s > now_s => {}
                Slot::Cooling { .. } => continue,
            }
            warm.insert(address.into());
        }
        let free_of = |region: IpNet| {
            let free = free_blocks(region, &leased).map(|block| usable_of(pool, block));
            free.fold(0, u128::saturating_add)
        };
        let regions: Vec<(IpNet, IpNet)> = share
            .settled()
            .filter_map(|(piece, _)| Some((piece, common(piece, within)?)))
            .collect();
        let free = regions
            .iter()
            .map(|(_, region)| free_of(*region))
            .fold(0, u128::saturating_add);
        let all = share.settled().map(|(piece, _)| free_of(piece));
        let all = all.fold(0, u128::saturating_add);
        let most = match self.has_network(pool) {
            true if urgent => free.div_ceil(2),
            true => free.div_ceil(2).min(all.saturating_sub(1)),
            false => free,
        };
        let search = Search {
            pool,
            want: u128::from(want.max(1)),
            most,
        };
        let clean = search.best(&regions, &warm, false);
        let any = search.best(&regions, &leased, true);
        let best = clean.into_iter().chain(any).min();
        best.map(|(_, net)| net).ok_or(NoGift::Nothing {
            pool,
            within,
            free: u64::try_from(free).unwrap_or(u64::MAX),
        })
    }

    /// Whether this host has a network on the pool.
    pub(super) fn has_network(&self, pool: IpNet) -> bool {
        self.pools()
            .keys()
            .any(|id| id.space() == Space::Local && id.cidr() == pool)
    }
}

/// The share without these prefixes of settled pieces, which are given.
fn hand_over(share: &Share, nets: &[IpNet], to: HostId) -> Share {
    let mut after = share.clone();
    after.revision = after.revision.saturating_add(1);
    for net in nets {
        for (piece_net, piece) in after.meeting(*net) {
            after.pieces.remove(&piece_net);
            let rest = subtract(piece_net, *net).into_iter();
            after.pieces.extend(rest.map(|part| (part, piece)));
            let seq = piece.seq.saturating_add(1);
            after.gifts.insert(*net, Gift { seq, to });
        }
    }
    after
}

/// How good a prefix is to give; the least is the best.
type Rank = (bool, u128, bool, u8, u128, Reverse<IpNet>);

/// What is looked for.
struct Search {
    pool: IpNet,
    /// How many usable addresses would do.
    want: u128,
    /// How many there may be.
    most: u128,
}

impl Search {
    /// The best prefix in the regions (each beside the piece that it is of) that has no address of `taken`.
    fn best(&self, regions: &[(IpNet, IpNet)], taken: &Ranges, warm: bool) -> Option<(Rank, IpNet)> {
        let mut best = None;
        for (piece, region) in regions {
            for block in free_blocks(*region, taken) {
                for net in self.parts(block) {
                    let found = self.rank(*piece, block, net, warm).map(|rank| (rank, net));
                    best = best.into_iter().chain(found).min();
                }
            }
        }
        best
    }

    /// The prefixes of a free block that may be the best: of each length the highest two, as the highest may have the
    /// broadcast address. A prefix of 2^n addresses has at most two that are kept out, so only lengths next to what is
    /// wanted, and to the most there may be, need be looked at.
    fn parts(&self, block: IpNet) -> impl Iterator<Item = IpNet> {
        let longest = u32::from(block.max_prefix_len());
        let bits = longest - u32::from(block.prefix_len());
        let enough = self.want.checked_next_power_of_two().map_or(128, u128::ilog2);
        let most = self.most.max(1).ilog2();
        [enough, enough + 1, enough + 2, most, most + 1]
            .into_iter()
            .filter_map(move |n| u8::try_from(longest - n.min(bits)).ok())
            .flat_map(move |length| {
                let at = |last: IpAddr| IpNet::new(last, length).ok().map(|net| net.trunc());
                let highest = at(block.broadcast());
                let next = highest.and_then(|net| at(before(net.network())?));
                [highest, next.filter(|net| block.contains(net))]
            })
            .flatten()
    }

    /// How good it is; None if it may not be given.
    fn rank(&self, piece: IpNet, block: IpNet, net: IpNet, warm: bool) -> Option<Rank> {
        let usable = usable_of(self.pool, net);
        if usable == 0 || usable > self.most {
            return None;
        }
        let enough = usable >= self.want;
        let by_size = if enough { size(net) } else { u128::MAX - size(net) };
        let cuts = net.prefix_len().saturating_sub(piece.prefix_len());
        Some((!enough, by_size, warm, cuts, size(block), Reverse(net)))
    }
}
