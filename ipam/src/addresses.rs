//! Asking for an address and giving one back.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::Error;
use crate::ipam::{Edit, Ipam};
use crate::pool::{Pool, PoolId};
use crate::range::{after, before};
use crate::share::Share;
use crate::slot::{Slot, Use};

/// How long a freed address is passed over while others are free, in seconds: longer than the neighbour caches and
/// most connection tracking entries that still lead to its last holder.
pub const COOL_DOWN_S: u64 = 120;

/// How many addresses that have cooled down are forgotten with each change. More than one, so that a pool forgets
/// faster than it frees.
const FORGET: usize = 4;

/// A wish for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// This one, or one of our choice.
    pub address: Option<IpAddr>,
    /// What for.
    pub usage: Use,
    /// Whether it may have been given already for the same sort of use, and the answer is then yes: Docker asks again
    /// for what it has when it starts.
    pub repeat: bool,
}

impl Ipam {
    /// Decides which address of a pool answers a wish. The answer has the pool's prefix length.
    ///
    /// - An *endpoint* that names none gets the next free address after the last one given so, around the range (or
    ///   the whole pool). Addresses that cool are passed over; when nothing else is left, the one that was freed first
    ///   is given.
    /// - A *gateway* that names none gets the first usable address of the subnet, even where the pool has a range, so
    ///   that hosts that share the subnet agree on it. (Docker's own allocator takes the first one of the range.)
    ///   Where another range's pool holds it, it is the lowest free one of the pool's own range.
    /// - *This host*, on a network where it has an address among its containers, gets the last free one.
    /// - A *named* address may lie anywhere in the subnet. An auxiliary one may even be a kept-out one.
    /// - Of a *cluster pool*, which is one whose subnet this host has a [share](Share) of, endpoints get addresses of
    ///   settled pieces only, and so do gateways where the first usable one is held. That one and what is named for a
    ///   gateway or kept as auxiliary is no host's: every host reserves it.
    ///
    /// A gateway that is asked for again by its address is given again. Everything else that is held is given again
    /// only to a wish that says so.
    ///
    /// # Errors
    /// [`Error::NoPool`], [`Error::Outside`], [`Error::KeptOut`], [`Error::InUse`], [`Error::HasGateway`],
    /// [`Error::AuxWithoutAddress`] and [`Error::Exhausted`]; of a cluster pool [`Error::Foreign`] and
    /// [`Error::ShareExhausted`].
    pub fn request_address(&self, id: &PoolId, wish: &Wish, now_s: u64) -> Result<(IpNet, Vec<Edit>), Error> {
        let pool = *self.pool(id).ok_or(Error::NoPool { pool: *id })?;
        let (address, edits) = match (wish.address, &wish.usage) {
            (Some(address), _) if self.is_repeat(id, address, wish)? => (address, Vec::new()),
            (Some(address), _) => (address, self.lease(id, address, wish, now_s)),
            (None, Use::Gateway | Use::Unnamed) => match self.gateway_of(id) {
                Some(gateway) if wish.repeat => (gateway, Vec::new()),
                Some(gateway) => return Err(Error::HasGateway { pool: *id, gateway }),
                None => {
                    let address = self.next_gateway(id)?;
                    let unnamed = Wish {
                        usage: Use::Unnamed,
                        ..wish.clone()
                    };
                    (address, self.lease(id, address, &unnamed, now_s))
                }
            },
            (None, Use::Aux) => return Err(Error::AuxWithoutAddress { pool: *id }),
            (None, Use::Host) => {
                let address = self.last_free(id)?;
                (address, self.lease(id, address, wish, now_s))
            }
            (None, Use::Endpoint { .. }) => {
                let address = self.next_after(id, pool.cursor)?;
                let mut edits = self.lease(id, address, wish, now_s);
                edits.push(Edit::Pool(
                    *id,
                    Some(Pool {
                        cursor: Some(address),
                        ..pool
                    }),
                ));
                (address, edits)
            }
        };
        // The container takes everything within this length for on-link.
        match IpNet::new(address, id.cidr().prefix_len()) {
            Ok(answer) => Ok((answer, edits)),
            Err(_) => Err(Error::Outside { pool: *id, address }),
        }
    }

    /// Whether a named address is held already by the one who asks; refuses what cannot be given.
    fn is_repeat(&self, id: &PoolId, address: IpAddr, wish: &Wish) -> Result<bool, Error> {
        if !id.cidr().contains(&address) {
            return Err(Error::Outside { pool: *id, address });
        }
        if let Some(Slot::Leased { pool: owner, usage }) = self.slot(id.space(), address) {
            let again = wish.repeat || wish.usage.is_gateway();
            if again && owner == id && usage.same_sort(&wish.usage) {
                return Ok(true);
            }
            return Err(Error::InUse {
                pool: *id,
                address,
                holder: usage.clone(),
                owner: *owner,
            });
        }
        if wish.usage == Use::Aux {
            return Ok(false);
        }
        if let Some(why) = id.kept_out(address) {
            return Err(Error::KeptOut {
                pool: *id,
                address,
                why,
            });
        }
        let foreign = |share: &Share| !share.leases(address);
        if wish.usage.is_of_share() && self.share_of(id).is_some_and(foreign) {
            return Err(Error::Foreign { pool: *id, address });
        }
        match self.gateway_of(id).filter(|_| wish.usage.is_gateway()) {
            Some(gateway) => Err(Error::HasGateway { pool: *id, gateway }),
            None => Ok(false),
        }
    }

    /// The edits that lease an address which nobody holds.
    fn lease(&self, id: &PoolId, address: IpAddr, wish: &Wish, now_s: u64) -> Vec<Edit> {
        let slot = Slot::Leased {
            pool: *id,
            usage: wish.usage.clone(),
        };
        let mut edits = self.forget_cooled(id, address, now_s);
        edits.push(Edit::Slot(id.space(), address, Some(slot)));
        edits
    }

    /// The address for a gateway that names none.
    fn next_gateway(&self, id: &PoolId) -> Result<IpAddr, Error> {
        let held = |address| matches!(self.slot(id.space(), address), Some(Slot::Leased { .. }));
        match id.first_usable().filter(|first| !held(*first)) {
            Some(first) => Ok(first),
            None => self.next_after(id, None),
        }
    }

    /// The next address that the pool may give, going around its window once after `cursor`; or of those that cool
    /// the one that was freed first.
    fn next_after(&self, id: &PoolId, cursor: Option<IpAddr>) -> Result<IpAddr, Error> {
        let held = self.held(id);
        let exhausted = || Error::Exhausted {
            pool: *id,
            leases: held.map_or(0, |h| h.leased.len()),
        };
        let (first, last) = id.window().ok_or_else(exhausted)?;
        let taken = self.index.taken.of(id.space());
        let start = cursor.and_then(after).unwrap_or(first);
        if let Some(share) = self.share_of(id) {
            let next = |from| {
                share
                    .spans(from, last)
                    .find_map(|(first, last)| taken.first_gap(first, last))
            };
            // What cools where the share no longer is stays unused.
            let cooling = || {
                let mut cooling = held.into_iter().flat_map(|h| &h.cooling);
                cooling.find(|(_, address)| share.leases(*address))
            };
            let free = next(start).or_else(|| next(first));
            let found = free.or_else(|| cooling().map(|(_, address)| *address));
            return found.ok_or_else(|| Error::ShareExhausted {
                pool: *id,
                pieces: share.spans(first, last).count(),
                leases: held.map_or(0, |h| h.leased.len()),
            });
        }
        let free = taken
            .first_gap(start, last)
            .or_else(|| taken.first_gap(first, last));
        let cooling = || held.and_then(|h| h.cooling.first()).map(|(_, address)| *address);
        free.or_else(cooling).ok_or_else(exhausted)
    }

    /// The last free address of a pool: where nobody looks first.
    fn last_free(&self, id: &PoolId) -> Result<IpAddr, Error> {
        let whole = id.window();
        let spans: Vec<(IpAddr, IpAddr)> = match (self.share_of(id), whole) {
            (Some(share), Some((first, last))) => share.spans(first, last).collect(),
            (None, whole) => whole.into_iter().collect(),
            (Some(_), None) => Vec::new(),
        };
        for (first, last) in spans.into_iter().rev() {
            let mut next = Some(last);
            while let Some(address) = next.filter(|address| *address >= first) {
                if self.slot(id.space(), address).is_none() {
                    return Ok(address);
                }
                next = before(address);
            }
        }
        // What cools is better than nothing.
        self.next_after(id, None)
    }

    /// The addresses of a pool that endpoints who name none will get next, `most` of them at most.
    pub fn upcoming(&self, id: &PoolId, most: usize) -> Vec<IpAddr> {
        let mut cursor = self.pool(id).and_then(|pool| pool.cursor);
        let mut upcoming: Vec<IpAddr> = Vec::new();
        while upcoming.len() < most {
            match self.next_after(id, cursor) {
                Ok(next) if !upcoming.contains(&next) => upcoming.push(next),
                // It has come around, or there is none.
                _ => break,
            }
            cursor = upcoming.last().copied();
        }
        upcoming
    }

    /// Decides what becomes of a lease that ends: the address cools, in the pool that gives it (on a subnet of several
    /// ranges that may be another one than had leased it). An address that no pool gives on its own is free at once, and
    /// so is one of a cluster pool that lies outside this host's share.
    /// Nothing for what this pool has not leased, as what is gone already is gone.
    pub fn release_address(&self, id: &PoolId, address: IpAddr, now_s: u64) -> Vec<Edit> {
        match self.slot(id.space(), address) {
            Some(Slot::Leased { pool, .. }) if pool == id => {}
            _ => return Vec::new(),
        }
        let until_s = now_s.saturating_add(COOL_DOWN_S);
        let mine = self.share_of(id).is_none_or(|share| share.leases(address));
        let giver = self.giver(id, address).filter(|_| mine);
        let slot = giver.map(|pool| Slot::Cooling { pool, until_s });
        // Where one more address cools, some must be forgotten, so that they do not grow without bound.
        let mut edits = self.forget_cooled(&giver.unwrap_or(*id), address, now_s);
        edits.push(Edit::Slot(id.space(), address, slot));
        edits
    }

    /// The edits that forget a few addresses of a pool which have cooled down, but for the one that is edited anyway.
    fn forget_cooled(&self, id: &PoolId, except: IpAddr, now_s: u64) -> Vec<Edit> {
        let cooling = self.held(id).into_iter().flat_map(|held| &held.cooling);
        let cooled = cooling
            .take_while(|(until_s, _)| *until_s <= now_s)
            .map(|(_, address)| *address);
        let some = cooled.filter(|address| *address != except).take(FORGET);
        some.map(|address| Edit::Slot(id.space(), address, None))
            .collect()
    }
}
