//! The list of address pools that we may choose subnets from, and the search for the lowest one that is free.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, cut};
use crate::pool::masked;
use crate::range::{Ranges, after};

/// An entry of the list: addresses, and the size of the subnets that they are cut in. As text `10.208.0.0/12:24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Carve {
    base: IpNet,
    size: u8,
}

impl Carve {
    /// An entry that cuts `base` in subnets of the prefix length `size`.
    ///
    /// # Errors
    /// [`Error::NotMasked`], and [`Error::CarveSize`] for a size that is shorter than the base's prefix length or longer
    /// than the family's addresses.
    pub fn new(base: IpNet, size: u8) -> Result<Self, Error> {
        masked("address pool", base)?;
        let fits = (base.prefix_len()..=base.max_prefix_len()).contains(&size);
        if fits {
            Ok(Self { base, size })
        } else {
            Err(Error::CarveSize { base, size })
        }
    }

    /// The addresses to cut from, masked.
    pub fn base(&self) -> IpNet {
        self.base
    }

    /// The prefix length of the subnets.
    pub fn size(&self) -> u8 {
        self.size
    }

    /// Whether its addresses are IPv6.
    pub fn is_v6(&self) -> bool {
        matches!(self.base, IpNet::V6(_))
    }

    /// How many subnets it has; at most `u64::MAX`.
    pub(crate) fn count(&self) -> u64 {
        1_u64
            .checked_shl(u32::from(self.size - self.base.prefix_len()))
            .unwrap_or(u64::MAX)
    }

    /// The lowest of its subnets that shares no address with any of the sets. It goes from obstacle to obstacle and
    /// jumps over each, so its cost follows the number of ranges in the way, not that of subnets.
    pub(crate) fn lowest_free(&self, obstacles: &[&Ranges]) -> Option<IpNet> {
        let mut at = self.base.network();
        while self.base.contains(&at) {
            let candidate = self.subnet_of(at)?;
            let (first, last) = (candidate.network(), candidate.broadcast());
            match obstacles.iter().filter_map(|set| set.last_in(first, last)).max() {
                None => return Some(candidate),
                Some(obstacle) => at = after(self.subnet_of(obstacle)?.broadcast())?,
            }
        }
        None
    }

    /// The subnet of this entry's size that the address lies in.
    fn subnet_of(&self, address: IpAddr) -> Option<IpNet> {
        IpNet::new(address, self.size).ok().map(|net| net.trunc())
    }
}

impl FromStr for Carve {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let strange = || Error::NoCarve { got: cut(text) };
        let (base, size) = text.rsplit_once(':').ok_or_else(strange)?;
        let plain = size.bytes().all(|b| b.is_ascii_digit());
        let size = size.parse().ok().filter(|_| plain).ok_or_else(strange)?;
        Self::new(base.parse().map_err(|_| strange())?, size)
    }
}

impl fmt::Display for Carve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.base, self.size)
    }
}

impl TryFrom<String> for Carve {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Carve> for String {
    fn from(carve: Carve) -> Self {
        carve.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn carve(text: &str) -> Carve {
        text.parse().unwrap()
    }

    fn set(nets: &[&str]) -> Ranges {
        nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect()
    }

    #[test]
    fn an_entry_reads_back() {
        for text in [
            "10.208.0.0/12:24",
            "fd00::/48:64",
            "10.0.0.0/24:24",
            "::/0:128",
            "0.0.0.0/0:0",
        ] {
            assert_eq!(carve(text).to_string(), text);
            assert_eq!(
                serde_json::to_string(&carve(text)).unwrap(),
                format!("\"{text}\"")
            );
        }
    }

    #[test]
    fn an_entry_that_cannot_be_cut_says_what_is_allowed() {
        for strange in [
            "",
            "10.0.0.0/8",
            "10.0.0.0/8:",
            "10.0.0.0/8:x",
            "10.0.0.0/8:+9",
            "10.0.0.0:24",
            "fd00::/48",
            "/:24",
        ] {
            assert!(
                matches!(strange.parse::<Carve>(), Err(Error::NoCarve { .. })),
                "{strange}"
            );
        }
        let size = "10.0.0.0/8:33".parse::<Carve>().unwrap_err().to_string();
        assert_eq!(
            size,
            "address pool 10.0.0.0/8:33 cannot be cut: its size must be 8 to 32"
        );
        assert!(matches!(
            "10.0.0.0/8:7".parse::<Carve>(),
            Err(Error::CarveSize { .. })
        ));
        assert!(matches!(
            "10.1.0.0/8:24".parse::<Carve>(),
            Err(Error::NotMasked {
                field: "address pool",
                ..
            })
        ));
    }

    #[test]
    fn the_lowest_subnet_clear_of_all_obstacles_is_found() {
        let free = |c: &str, a: &[&str], b: &[&str]| {
            carve(c).lowest_free(&[&set(a), &set(b)]).map(|n| n.to_string())
        };
        assert_eq!(free("10.0.0.0/22:24", &[], &[]).as_deref(), Some("10.0.0.0/24"));
        assert_eq!(
            free("10.0.0.0/22:24", &["10.0.0.0/24"], &["10.0.1.77/32"]).as_deref(),
            Some("10.0.2.0/24")
        );
        assert_eq!(
            free("10.0.0.0/22:24", &["10.0.0.0/23"], &["10.0.3.0/24"]).as_deref(),
            Some("10.0.2.0/24")
        );
        assert_eq!(free("10.0.0.0/22:24", &["10.0.0.0/8"], &[]), None);
        assert_eq!(
            free(
                "10.0.0.0/22:24",
                &["10.0.0.0/23", "10.0.2.9/32"],
                &["10.0.3.255/32"]
            ),
            None
        );
        assert_eq!(
            free(
                "255.255.255.0/24:25",
                &["255.255.255.0/25", "255.255.255.255/32"],
                &[]
            ),
            None
        );
        assert_eq!(
            free("0.0.0.0/0:0", &[], &["fd00::/8"]).as_deref(),
            Some("0.0.0.0/0")
        );
    }

    #[test]
    fn an_obstacle_of_two_to_the_47_subnets_is_jumped_over_not_walked() {
        let found = carve("fd00::/16:64").lowest_free(&[&set(&["fd00::/17"]), &Ranges::default()]);
        assert_eq!(found, Some("fd00:8000::/64".parse().unwrap()));
        assert_eq!(carve("fd00::/16:64").count(), 1 << 48);
        assert_eq!(carve("::/0:128").count(), u64::MAX);
    }

    proptest! {
        #[test]
        fn the_jumping_search_finds_what_stepping_finds(
            size in 22_u8..=30,
            nets in prop::collection::vec((any::<u16>(), 20_u8..=32), 0..24),
            base_length in 20_u8..=22,
        ) {
            let nets: Vec<IpNet> = nets
                .into_iter()
                .map(|(low, length)| IpNet::new([10, 0, (low >> 8) as u8 & 15, low as u8].into(), length).unwrap().trunc())
                .collect();
            let entry = Carve::new(IpNet::new([10, 0, 0, 0].into(), base_length).unwrap(), size).unwrap();
            let (half, rest) = nets.split_at(nets.len() / 2);
            let sets: [Ranges; 2] = [half, rest].map(|nets| nets.iter().copied().collect());
            let stepping = entry.base().subnets(size).unwrap().find(|subnet| {
                !nets.iter().any(|net| net.contains(subnet) || subnet.contains(net))
            });
            prop_assert_eq!(entry.lowest_free(&[&sets[0], &sets[1]]), stepping);
        }
    }
}
