//! A packet as rules see it. What the asker doesn't know is left open.

use std::net::IpAddr;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer4 {
    /// A TCP segment.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An SCTP packet.
    Sctp,
    /// A ping.
    Echo,
}

impl Layer4 {
    /// Its name in nft's listings.
    pub fn name(self, v6: bool) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Echo if v6 => "ipv6-icmp",
            Self::Echo => "icmp",
        }
    }

    /// IANA's number.
    pub fn number(self, v6: bool) -> u64 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Echo if v6 => 58,
            Self::Echo => 1,
        }
    }

    /// Whether it has ports.
    pub fn has_ports(self) -> bool {
        self != Self::Echo
    }
}

/// A link as rules see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: u32,
}

/// What connection tracking says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The first of a connection.
    New,
    /// An answer, of one that was let in.
    Established,
}

/// A packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Whether it is of IPv6.
    pub v6: bool,
    /// Where it comes from.
    pub from: Option<IpAddr>,
    /// Where it goes.
    pub to: Option<IpAddr>,
    /// What it carries.
    pub layer4: Option<Layer4>,
    /// The port it comes from.
    pub from_port: Option<u16>,
    /// The port it goes to.
    pub to_port: Option<u16>,
    /// Between which ports one is that is not known.
    pub unknown_port: (u16, u16),
    /// The link it came in by; none for what this host made.
    pub iif: Option<Nic>,
    /// The link it leaves by; none as long as that is not decided.
    pub oif: Option<Nic>,
    /// Its mark.
    pub mark: u32,
    /// Its connection's mark.
    pub connmark: u32,
    /// What connection tracking says of it.
    pub state: State,
    /// Its connection's destination was translated.
    pub dnat: bool,
    /// Its connection's source was translated.
    pub snat: bool,
    /// Its connection's first packet, as it was before any translation: source, destination, destination's port.
    pub original: (Option<IpAddr>, Option<IpAddr>, Option<u16>),
    /// What sort of address it goes to, as the routes say (`local`, `unicast`, …); none if that wasn't asked.
    pub to_type: Option<&'static str>,
    /// It has come in by the link that its sender is reached by; none if that wasn't asked.
    pub by_way_back: Option<bool>,
    /// What its ends become where the kernel takes translations back, if it is an answer.
    pub turns: Option<Ends>,
}

/// Where a packet comes from and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Its source's address and port.
    pub from: (Option<IpAddr>, Option<u16>),
    /// Its destination's address and port.
    pub to: (Option<IpAddr>, Option<u16>),
}

/// Flags of TCP, as nft and iptables name them.
const TCP_FLAGS: [(&str, u64); 8] = [
    ("fin", 1),
    ("syn", 2),
    ("rst", 4),
    ("psh", 8),
    ("ack", 16),
    ("urg", 32),
    ("ecn", 64),
    ("cwr", 128),
];

/// The bit of a flag of TCP.
pub(super) fn tcp_flag(name: &str) -> Option<u64> {
    let same = |(known, _): &&(&str, u64)| name.eq_ignore_ascii_case(known);
    TCP_FLAGS.iter().find(same).map(|(_, bit)| *bit)
}

impl Packet {
    /// Its flags, if it is a segment of TCP: the first one of a connection, or the first answer.
    pub(super) fn tcp_flags(&self) -> u64 {
        match self.state {
            State::New => 2,
            State::Established => 2 | 16,
        }
    }

    /// Its type of ICMP, if it is a ping or the answer to one: number and nft's name.
    pub(super) fn icmp_type(&self) -> (u64, &'static str) {
        match (self.state, self.v6) {
            (State::New, false) => (8, "echo-request"),
            (State::New, true) => (128, "echo-request"),
            (State::Established, false) => (0, "echo-reply"),
            (State::Established, true) => (129, "echo-reply"),
        }
    }

    /// A new connection's first packet, of which nothing else is known.
    pub fn new(v6: bool) -> Self {
        Self {
            v6,
            from: None,
            to: None,
            layer4: None,
            from_port: None,
            to_port: None,
            unknown_port: (0, u16::MAX),
            iif: None,
            oif: None,
            mark: 0,
            connmark: 0,
            state: State::New,
            dnat: false,
            snat: false,
            original: (None, None, None),
            to_type: None,
            by_way_back: None,
            turns: None,
        }
    }

    /// Its ends.
    pub fn ends(&self) -> Ends {
        Ends {
            from: (self.from, self.from_port),
            to: (self.to, self.to_port),
        }
    }

    /// Takes a translation back.
    pub(super) fn turn(&mut self) {
        if let Some(ends) = self.turns.take() {
            (self.from, self.from_port) = ends.from;
            (self.to, self.to_port) = ends.to;
        }
    }
}
