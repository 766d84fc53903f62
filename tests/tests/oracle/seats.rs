//! The containers whose datagrams are counted. A seat is an address: its container may die, and may be on another host later.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use system_tests::Kind;

use super::agent::Agent;
use super::ledger::{Family, Stream};

/// How many hosts there are, and containers on each network of each.
pub const HOSTS: usize = 3;
const PER_HOST: usize = 2;

/// The networks: name, kind, and the bytes that tell their pools, `10.N.0.0/16` and `fdN::/64`.
pub const NETWORKS: [(&str, Kind, u8); 2] = [("over", Kind::Overlay, 42), ("gate", Kind::HostGateway, 43)];

/// How many seats a network has, and all have.
pub const PER_NETWORK: usize = HOSTS * PER_HOST;
pub const SEATS: usize = PER_NETWORK * NETWORKS.len();

/// A container that sends and receives.
#[derive(Debug)]
pub struct Seat {
    /// The container's name.
    pub name: String,
    /// Its network.
    pub network: &'static str,
    /// Its addresses.
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// The hardware address that follows from them.
    pub mac: String,
    /// The host that it is on, by its place.
    pub host: usize,
    /// What sends and receives there; none while there is no container.
    pub agent: Option<Agent>,
}

impl Seat {
    /// A seat by its number, with the addresses that it asks for: the first of a host's has some that nobody has had,
    /// which another host's share may hold.
    pub fn new(number: usize) -> Self {
        let (network, _, byte) = NETWORKS[number / PER_NETWORK];
        let (host, nth) = (number % PER_NETWORK / PER_HOST, number % PER_HOST);
        let last = 10 + u8::try_from(number % PER_NETWORK).expect("few seats");
        let first = u16::from_str_radix(&format!("fd{byte}"), 16).expect("digits");
        Self {
            name: format!("{network}-{}{nth}", ["a", "b", "c"][host]),
            network,
            v4: Ipv4Addr::new(10, byte, 200, last),
            v6: Ipv6Addr::new(first, 0, 0, 0, 0, 0, 200, u16::from(last)),
            mac: String::new(),
            host,
            agent: None,
        }
    }

    /// Whether it has the addresses that its host's share gave, rather than any.
    pub fn of_share(number: usize) -> bool {
        !number.is_multiple_of(PER_HOST)
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// All seats.
#[derive(Debug)]
pub struct Seats(pub Vec<Seat>);

impl Seats {
    /// The streams for which something holds of who sends and who receives.
    pub fn streams(&self, is: impl Fn(&Seat, &Seat, Family) -> bool) -> BTreeSet<Stream> {
        Stream::all()
            .filter(|stream| is(&self.0[stream.from], &self.0[stream.to], stream.family))
            .collect()
    }

    /// The seats that are on a host, by their numbers.
    pub fn on(&self, host: usize) -> Vec<usize> {
        (0..SEATS).filter(|&number| self.0[number].host == host).collect()
    }

    /// A stream as text.
    pub fn told(&self, stream: Stream) -> String {
        let (from, to) = (&self.0[stream.from], &self.0[stream.to]);
        let host = |seat: &Seat| ["a", "b", "c"][seat.host];
        format!(
            "{} on {} -> {} on {} ({})",
            from.name,
            host(from),
            to.name,
            host(to),
            to.address(stream.family)
        )
    }
}
