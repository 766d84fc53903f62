//! A pool: a subnet, or one range of a subnet, that Docker was given for one network; and which of its addresses can
//! be used.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, cut};
use crate::prefix::size;
use crate::range::{after, before, span};

/// An address space: pools of one space share no address, pools of two may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// What belongs to this host alone.
    Local,
    /// What Docker shares among hosts.
    Global,
}

impl FromStr for Space {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "local" => Ok(Self::Local),
            "global" => Ok(Self::Global),
            _ => Err(Error::NoPoolId { got: cut(text) }),
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Global => "global",
        })
    }
}

/// Which pool: it says all that was asked for, so the same request has the same identifier on every start.
///
/// As text it is `local/10.1.0.0/24`, or `local/10.1.0.0/24/10.1.0.128/25` for one range of a subnet. Its order is by
/// space, then by address, so a map of pools answers "what lies next to this one".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolId {
    space: Space,
    cidr: IpNet,
    range: Option<IpNet>,
}

impl PoolId {
    /// Names the pool of a subnet, or of one range of it (Docker's `--ip-range`).
    ///
    /// # Errors
    /// [`Error::NotMasked`] and [`Error::RangeOutside`].
    pub fn new(space: Space, cidr: IpNet, range: Option<IpNet>) -> Result<Self, Error> {
        masked("pool", cidr)?;
        if let Some(range) = range {
            masked("range", range)?;
            if !cidr.contains(&range) {
                return Err(Error::RangeOutside { pool: cidr, range });
            }
        }
        Ok(Self { space, cidr, range })
    }

    /// The address space.
    pub fn space(&self) -> Space {
        self.space
    }

    /// The subnet, masked: every address of the pool lies in it, and has its prefix length.
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// The range of the subnet that addresses are chosen from, masked, if it is not the whole.
    pub fn range(&self) -> Option<IpNet> {
        self.range
    }

    /// What two pools of one subnet must not share: the range, or else the whole subnet.
    pub(crate) fn extent(&self) -> IpNet {
        self.range.unwrap_or(self.cidr)
    }

    /// The first and the last address that this pool may give without being asked for it by name: its range, or else
    /// the whole subnet, without what is [kept out](KeptOut). None where that leaves nothing.
    pub fn window(&self) -> Option<(IpAddr, IpAddr)> {
        let (first, last) = usable(self.cidr)?;
        let extent = self.extent();
        let (first, last) = (first.max(extent.network()), last.min(extent.broadcast()));
        (first <= last).then_some((first, last))
    }

    /// How many addresses the [window](Self::window) has; at most `u64::MAX`.
    pub fn size(&self) -> u64 {
        self.window().map_or(0, |(first, last)| span(first, last))
    }

    /// The subnet's first usable address: its gateway, unless somebody chooses another.
    pub fn first_usable(&self) -> Option<IpAddr> {
        usable(self.cidr).map(|(first, _)| first)
    }

    /// Whether the address lies in the [window](Self::window).
    pub(crate) fn gives(&self, address: IpAddr) -> bool {
        self.window()
            .is_some_and(|(first, last)| first <= address && address <= last)
    }

    /// Why neither a gateway nor an endpoint can have this address of the subnet, if so.
    pub fn kept_out(&self, address: IpAddr) -> Option<KeptOut> {
        kept_out(self.cidr, address)
    }
}

/// Refuses a subnet with bits beyond its prefix length.
pub(crate) fn masked(field: &'static str, got: IpNet) -> Result<(), Error> {
    let masked = got.trunc();
    if got == masked {
        Ok(())
    } else {
        Err(Error::NotMasked { field, got, masked })
    }
}

/// An address that belongs to the subnet itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptOut {
    /// The first address of an IPv4 subnet.
    Network,
    /// The last address of an IPv4 subnet.
    Broadcast,
    /// The first address of an IPv6 subnet (RFC 4291, section 2.6.1).
    SubnetRouter,
}

impl fmt::Display for KeptOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "its network address",
            Self::Broadcast => "its broadcast address",
            Self::SubnetRouter => "its subnet-router anycast address",
        })
    }
}

/// What an address is to its subnet, by the rules of Docker's own allocator.
///
/// IPv4: the first and the last address are kept out up to /30; of a /31 both are usable (RFC 3021), of a /32 the one
/// that it has. IPv6: the first is kept out at every length and the last is usable, so a /127 has one and a /128 none.
/// Docker 20.10 was seen to do the same for IPv6, but to keep both ends out of IPv4 subnets of every length, so that a
/// /31 or /32 had no address at all; newer ones (by their source) do as we do.
pub(crate) fn kept_out(cidr: IpNet, address: IpAddr) -> Option<KeptOut> {
    match cidr {
        IpNet::V6(_) => (address == cidr.network()).then_some(KeptOut::SubnetRouter),
        IpNet::V4(_) if cidr.prefix_len() > 30 => None,
        IpNet::V4(_) if address == cidr.network() => Some(KeptOut::Network),
        IpNet::V4(_) => (address == cidr.broadcast()).then_some(KeptOut::Broadcast),
    }
}

/// The first and the last address of a subnet that are not kept out, if any.
fn usable(cidr: IpNet) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = (cidr.network(), cidr.broadcast());
    let first = if kept_out(cidr, first).is_some() {
        after(first)?
    } else {
        first
    };
    let last = if kept_out(cidr, last).is_some() {
        before(last)?
    } else {
        last
    };
    (first <= last).then_some((first, last))
}

/// How many addresses of a prefix of the subnet are not kept out; at most `u128::MAX`.
pub(crate) fn usable_of(cidr: IpNet, net: IpNet) -> u128 {
    // Where both ends are one address, the subnet is a single one: it is kept out once, if at all.
    let (first, last) = (cidr.network(), Some(cidr.broadcast()));
    let ends = [Some(first), last.filter(|last| *last != first)];
    let kept = ends.into_iter().flatten();
    let kept = kept.filter(|end| net.contains(end) && kept_out(cidr, *end).is_some());
    size(net).saturating_sub(kept.count() as u128)
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.space, self.cidr)?;
        self.range.map_or(Ok(()), |range| write!(f, "/{range}"))
    }
}

impl FromStr for PoolId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let strange = || Error::NoPoolId { got: cut(text) };
        let net = |address: &str, length: &str| format!("{address}/{length}").parse().map_err(|_| strange());
        // An identifier has five parts at most; what has more need not be split to its end.
        match text.splitn(6, '/').collect::<Vec<_>>()[..] {
            [space, address, length] => {
                Self::new(space.parse().map_err(|_| strange())?, net(address, length)?, None)
            }
            [space, address, length, from, bits] => Self::new(
                space.parse().map_err(|_| strange())?,
                net(address, length)?,
                Some(net(from, bits)?),
            ),
            _ => Err(strange()),
        }
    }
}

impl TryFrom<String> for PoolId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<PoolId> for String {
    fn from(id: PoolId) -> Self {
        id.to_string()
    }
}

/// What is remembered of a pool beyond its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pool {
    /// Whether the subnet was our choice.
    pub chosen: bool,
    /// The last address that was chosen for an endpoint: the search for the next one begins after it.
    pub cursor: Option<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PoolId {
        text.parse().unwrap()
    }

    #[test]
    fn an_identifier_says_what_was_asked_for_and_reads_back() {
        for text in [
            "local/10.1.0.0/24",
            "local/10.1.0.0/24/10.1.0.128/25",
            "global/fd00:9::/64/fd00:9::100/120",
            "local/0.0.0.0/0",
        ] {
            assert_eq!(id(text).to_string(), text);
            let json = serde_json::to_string(&id(text)).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<PoolId>(&json).unwrap(), id(text));
        }
    }

    #[test]
    fn no_identifier_is_made_of_a_strange_text() {
        let long = format!("local/10.0.0.0/8/{}", "/".repeat(10_000));
        for text in [
            "",
            "/",
            "local",
            "local/10.1.0.0",
            "other/10.1.0.0/24",
            "local/10.1.0.0/33",
            "local/10.1.0.0/24/",
            "Local/::/0",
            "local/10.1.0.0/24/10.1.0.0",
            "local/10.1.0.0/24/10.1.0.0/25/",
            "local/ 10.1.0.0/24",
            &long,
        ] {
            let error = text.parse::<PoolId>().unwrap_err();
            assert!(matches!(error, Error::NoPoolId { .. }), "{text}: {error}");
            assert!(error.to_string().len() < 300, "{error}");
        }
        assert_eq!(
            "local/10.1.0.1/24".parse::<PoolId>().unwrap_err().to_string(),
            "pool 10.1.0.1/24 has bits set beyond its prefix length: write 10.1.0.0/24"
        );
        for outside in [
            "local/10.1.0.0/24/10.2.0.0/25",
            "local/10.1.0.0/24/fd00::/96",
            "local/10.1.0.0/24/10.1.0.0/23",
        ] {
            assert!(
                matches!(outside.parse::<PoolId>().unwrap_err(), Error::RangeOutside { .. }),
                "{outside}"
            );
        }
    }

    #[test]
    fn usable_addresses_are_those_of_dockers_own_allocator() {
        for (pool, first, last) in [
            ("local/10.0.0.0/24", "10.0.0.1", "10.0.0.254"),
            ("local/10.0.0.0/30", "10.0.0.1", "10.0.0.2"),
            ("local/10.0.0.0/31", "10.0.0.0", "10.0.0.1"),
            ("local/10.0.0.7/32", "10.0.0.7", "10.0.0.7"),
            ("local/fd00::/126", "fd00::1", "fd00::3"),
            ("local/fd00::/127", "fd00::1", "fd00::1"),
            ("local/10.0.0.0/24/10.0.0.0/31", "10.0.0.1", "10.0.0.1"),
            ("local/10.0.0.0/24/10.0.0.252/30", "10.0.0.252", "10.0.0.254"),
            ("local/10.0.0.0/24/10.0.0.128/31", "10.0.0.128", "10.0.0.129"),
        ] {
            assert_eq!(
                id(pool).window(),
                Some((first.parse().unwrap(), last.parse().unwrap())),
                "{pool}"
            );
        }
        for none in [
            "local/fd00::/128",
            "local/10.0.0.0/24/10.0.0.255/32",
            "local/fd00::/64/fd00::/128",
        ] {
            assert_eq!(id(none).window(), None, "{none}");
            assert_eq!(id(none).size(), 0, "{none}");
        }
        assert_eq!(id("local/10.0.0.0/24").size(), 254);
        assert_eq!(id("local/fd00::/64").size(), u64::MAX);
    }
}
