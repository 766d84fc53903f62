//! The ranges that networks without a subnet are cut from.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::parse::{Parsed, Wrong};

/// What IPv4 networks are cut from where no range of IPv4 is given: first a corner of 10.0.0.0/8 that Docker's own
/// defaults do not use, then, for hosts behind a VPN that takes all of 10.0.0.0/8, the range of RFC 2544 for
/// benchmarks, which nobody routes.
pub const DEFAULT_V4: [&str; 2] = ["10.208.0.0/12:24", "198.18.0.0/15:24"];

/// The longest prefix of a network that is cut from a pool: one more would leave no room for a gateway and a
/// container.
const fn longest(base: &IpNet) -> u8 {
    match base {
        IpNet::V4(_) => 30,
        IpNet::V6(_) => 126,
    }
}

/// A range of addresses and the size of the networks that it is cut in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    /// The range, masked.
    pub base: IpNet,
    /// The prefix length of the networks, at least the range's own.
    pub size: u8,
}

impl fmt::Display for AddressPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.base, self.size)
    }
}

/// Pools as the setting's text.
pub fn list(pools: &[AddressPool]) -> String {
    pools
        .iter()
        .map(AddressPool::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Reads a list of pools. Where it holds none of IPv4 the default ones are added: a host without IPv4 pools could
/// give no network a subnet, which nobody who only adds IPv6 wants.
pub fn parse(text: &str) -> Parsed<Vec<AddressPool>> {
    let mut pools = parse_all(text.split(',').map(str::trim))?;
    if pools.iter().all(|pool| pool.base.addr().is_ipv6()) {
        pools.extend(parse_all(DEFAULT_V4.into_iter())?);
    }
    Ok(pools)
}

fn parse_all<'a>(texts: impl Iterator<Item = &'a str>) -> Parsed<Vec<AddressPool>> {
    let (mut pools, mut wrongs): (Vec<AddressPool>, Vec<Wrong>) = (Vec::new(), Vec::new());
    for text in texts {
        match parse_one(text) {
            Ok(pool) => match pools.iter().find(|other| overlap(&other.base, &pool.base)) {
                Some(other) => wrongs.push(Wrong::new(text, format!("it overlaps {other}"))),
                None => pools.push(pool),
            },
            Err(why) => wrongs.push(Wrong::new(text, why)),
        }
    }
    if wrongs.is_empty() { Ok(pools) } else { Err(wrongs) }
}

/// The size of networks where none is given: /24 or /64, or the whole range where that is smaller.
fn usual_size(base: &IpNet) -> u8 {
    let usual = if base.addr().is_ipv6() { 64 } else { 24 };
    usual.max(base.prefix_len())
}

fn parse_one(text: &str) -> Result<AddressPool, String> {
    // The colon before the size is the one behind the slash: an IPv6 range has others.
    let slash = text.find('/').unwrap_or(text.len());
    let colon = text[slash..].find(':').map(|at| at + slash);
    let (base, size) = match colon {
        Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
        None => (text, None),
    };
    let base: IpNet = base
        .parse()
        .map_err(|_| format!("'{base}' is no range of addresses with a prefix length"))?;
    let size: u8 = match size {
        Some(size) => size
            .parse()
            .map_err(|_| format!("'{size}' is no prefix length"))?,
        None => usual_size(&base),
    };
    if base != base.trunc() {
        return Err(format!(
            "bits are set beyond the prefix, did you mean {}:{size}?",
            base.trunc()
        ));
    }
    let sizes = base.prefix_len()..=longest(&base);
    if !sizes.contains(&size) {
        return Err(match sizes.is_empty() {
            true => format!(
                "{base} is too small to hold a network: /{} is the smallest",
                sizes.end()
            ),
            false => format!(
                "networks in {base} can have the sizes {} to {}",
                sizes.start(),
                sizes.end()
            ),
        });
    }
    match special(&base) {
        Some(what) => Err(format!("it holds {what} addresses, which no container can have")),
        None => Ok(AddressPool { base, size }),
    }
}

/// What sort of address a range holds that no container can have.
fn special(base: &IpNet) -> Option<&'static str> {
    const SPECIAL: [(&str, &str); 8] = [
        ("0.0.0.0/8", "unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/3", "multicast or reserved"),
        ("::/127", "unspecified or loopback"),
        ("::ffff:0:0/96", "mapped IPv4"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    ];
    let hit = |(range, _): &&(&str, &str)| range.parse::<IpNet>().is_ok_and(|range| overlap(&range, base));
    SPECIAL.iter().find(hit).map(|(_, what)| *what)
}

/// Whether two ranges share an address. Of two prefixes that do, one holds the other's first address.
fn overlap(a: &IpNet, b: &IpNet) -> bool {
    let holds = |range: &IpNet, address: IpAddr| range.contains(&address);
    holds(a, b.network()) || holds(b, a.network())
}
