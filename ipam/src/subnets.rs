//! Asking for a pool and giving one back.

use ipnet::IpNet;

use crate::carve::Carve;
use crate::error::Error;
use crate::ipam::{Edit, Ipam};
use crate::pool::{Pool, PoolId, Space};
use crate::range::Ranges;

/// Which subnet is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// One of our choice.
    Any,
    /// One of our choice, of this prefix length.
    Sized(u8),
    /// This one.
    Exactly(IpNet),
}

/// A wish for a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRequest {
    /// The address space.
    pub space: Space,
    /// The subnet.
    pub want: Want,
    /// The range of the subnet to choose addresses from; with [`Want::Exactly`] only.
    pub range: Option<IpNet>,
    /// Whether a subnet of our choice is to be IPv6. One that was named says its family itself.
    pub v6: bool,
    /// Whether the same pool may have been given already, and the answer is then that one: Docker asks again for what
    /// it has when it starts. Otherwise a pool that was given is refused, as a second network must not get (and, when
    /// it goes, release) the addresses of the first.
    pub repeat: bool,
}

impl Ipam {
    /// Decides which pool answers a request.
    ///
    /// A subnet of our choice is the lowest one of the first entry of `carve` (in that order) that overlaps neither a
    /// pool of the space nor a cluster pool that this host has a share of, nor anything in `avoid`: the host's routes, addresses and name servers, without its default
    /// routes, which would leave nothing. Every call gives a new one. `Sized` cuts the entries in subnets of that size
    /// instead of their own, as far as they are large enough.
    ///
    /// Of one subnet several pools may be given if each has a range and these are disjoint. Their addresses are of one
    /// set all the same: none is given twice.
    ///
    /// # Errors
    /// [`Error::NotMasked`], [`Error::RangeOutside`], [`Error::Given`] and [`Error::Overlap`] for a subnet that was
    /// named; [`Error::RangeWithoutPool`], [`Error::PrefixTooLong`] and [`Error::NoSubnet`] otherwise.
    pub fn request_pool(
        &self,
        request: &PoolRequest,
        carve: &[Carve],
        avoid: &[IpNet],
    ) -> Result<(PoolId, Vec<Edit>), Error> {
        let (id, chosen) = match (request.want, request.range) {
            (Want::Exactly(cidr), range) => (PoolId::new(request.space, cidr, range)?, false),
            (_, Some(range)) => return Err(Error::RangeWithoutPool { range }),
            (Want::Any, None) => (self.choose(request, carve.iter().copied(), avoid)?, true),
            (Want::Sized(prefix), None) => (
                self.choose(request, cut_to(prefix, request.v6, carve)?, avoid)?,
                true,
            ),
        };
        if self.pool(&id).is_some() {
            return if request.repeat {
                Ok((id, Vec::new()))
            } else {
                Err(Error::Given { pool: id })
            };
        }
        match self.overlapping(&id) {
            Some(existing) => Err(Error::Overlap { wanted: id, existing }),
            None => Ok((id, vec![Edit::Pool(id, Some(Pool { chosen, cursor: None }))])),
        }
    }

    /// The first free subnet of these entries.
    fn choose(
        &self,
        request: &PoolRequest,
        carve: impl Iterator<Item = Carve>,
        avoid: &[IpNet],
    ) -> Result<PoolId, Error> {
        let space = request.space;
        let shared = self.shares().keys().filter(|_| space == Space::Local);
        let avoid: Ranges = avoid.iter().chain(shared).copied().collect();
        let obstacles = [self.index.subnets.of(space), &avoid];
        let entries: Vec<Carve> = carve.filter(|entry| entry.is_v6() == request.v6).collect();
        match entries.iter().find_map(|entry| entry.lowest_free(&obstacles)) {
            Some(cidr) => PoolId::new(space, cidr, None),
            None => Err(Error::NoSubnet {
                space,
                tried: entries
                    .iter()
                    .fold(0, |sum, entry| entry.count().saturating_add(sum)),
                bases: entries
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// Decides what goes with a pool: all its slots, then itself. Nothing for a pool that is not there, as what is
    /// gone already is gone.
    pub fn release_pool(&self, id: &PoolId) -> Vec<Edit> {
        if self.pool(id).is_none() {
            return Vec::new();
        }
        let held = self.held(id);
        let leased = held.into_iter().flat_map(|h| h.leased.iter().copied());
        let cooling = held
            .into_iter()
            .flat_map(|h| h.cooling.iter().map(|(_, address)| *address));
        let slots = leased
            .chain(cooling)
            .map(|address| Edit::Slot(id.space(), address, None));
        slots.chain([Edit::Pool(*id, None)]).collect()
    }
}

/// The entries that hold subnets of this size, cut to it.
fn cut_to(prefix: u8, v6: bool, carve: &[Carve]) -> Result<impl Iterator<Item = Carve>, Error> {
    let longest = if v6 { 128 } else { 32 };
    if prefix > longest {
        return Err(Error::PrefixTooLong { prefix, longest });
    }
    // An entry that is too small, or of the other family and too short for the size, cannot be cut so.
    Ok(carve
        .iter()
        .filter_map(move |entry| Carve::new(entry.base(), prefix).ok()))
}
