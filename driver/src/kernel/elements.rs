//! Facts as elements of the sets and maps in table `inet tombolo`, and back: pure.
//!
//! An element's key is a row of fields, each filled up with zeros to a multiple of four bytes; numbers of ports stand in
//! network order, names of interfaces take 16 bytes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tombolo_core::model::{IfName, Proto};
use tombolo_core::world::{Family, Key, Value, World};

/// Length of an interface's name in a set, in bytes.
const IFNAME: usize = 16;

/// One of the sets and maps whose elements are facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    Internal,
    Apart,
    Restricted,
    Bridges,
    Foreign,
    Loopback,
    Trusted,
    Masqueraded(Family),
    Source(Family),
    Members(Family),
    Shared(Family),
    Publishers(Family),
    Remote(Family),
    Routed(Family),
    Unprotected(Family),
    Opened(Family),
    /// A map of published ports: of all addresses of the host or of one.
    Publish {
        family: Family,
        any: bool,
    },
}

impl Set {
    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Internal,
            Self::Apart,
            Self::Restricted,
            Self::Bridges,
            Self::Foreign,
            Self::Loopback,
            Self::Trusted,
        ];
        for family in Family::ALL {
            all.extend([
                Self::Masqueraded(family),
                Self::Source(family),
                Self::Members(family),
                Self::Shared(family),
                Self::Publishers(family),
                Self::Remote(family),
                Self::Routed(family),
                Self::Unprotected(family),
                Self::Opened(family),
                Self::Publish { family, any: false },
                Self::Publish { family, any: true },
            ]);
        }
        all
    }

    /// Its name in the table.
    pub(super) fn name(self) -> String {
        match self {
            Self::Internal => "internal".to_owned(),
            Self::Apart => "apart".to_owned(),
            Self::Restricted => "restricted".to_owned(),
            Self::Bridges => "bridges".to_owned(),
            Self::Foreign => "foreign".to_owned(),
            Self::Loopback => "loopback".to_owned(),
            Self::Trusted => "trusted".to_owned(),
            Self::Masqueraded(family) => format!("masqueraded{family}"),
            Self::Source(family) => format!("source{family}"),
            Self::Members(family) => format!("members{family}"),
            Self::Shared(family) => format!("shared{family}"),
            Self::Publishers(family) => format!("publishers{family}"),
            Self::Remote(family) => format!("remote{family}"),
            Self::Routed(family) => format!("routed{family}"),
            Self::Unprotected(family) => format!("unprotected{family}"),
            Self::Opened(family) => format!("opened{family}"),
            Self::Publish { family, any: false } => format!("publish{family}"),
            Self::Publish { family, any: true } => format!("publish{family}_any"),
        }
    }
}

/// An element: its set, its key, the last key where it stands for a range, and what the key leads to in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) set: Set,
    pub(super) key: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
    pub(super) data: Option<Vec<u8>>,
}

impl Element {
    /// The element that a fact is; none if the fact is of another sort, or one of mixed families.
    pub(super) fn of(key: &Key, value: &Value) -> Option<Self> {
        let member = |set, key| {
            Some(Self {
                set,
                key,
                end: None,
                data: None,
            })
        };
        match (key, value) {
            (Key::Guard(link), _) => member(Set::Internal, name(link)),
            (Key::Apart(link), _) => member(Set::Apart, name(link)),
            (Key::Restricted(link), _) => member(Set::Restricted, name(link)),
            (Key::Foreign(link), _) => member(Set::Foreign, name(link)),
            (Key::LoopbackPorts, _) => member(Set::Loopback, Ipv6Addr::LOCALHOST.octets().to_vec()),
            (Key::Allow(link), _) => member(Set::Bridges, [name(link), name(link)].concat()),
            (Key::Trusted(from, link), _) => member(Set::Trusted, [name(from), name(link)].concat()),
            (Key::Masquerade(link, family), _) => member(Set::Masqueraded(*family), name(link)),
            (Key::Routed(link, family), _) => member(Set::Routed(*family), name(link)),
            (Key::Unprotected(link, family), _) => member(Set::Unprotected(*family), name(link)),
            (Key::Source(link, family), Value::Ip(source)) if Family::of(*source) == *family => Some(Self {
                set: Set::Source(*family),
                key: name(link),
                end: None,
                data: Some(address(*source)),
            }),
            (Key::Member(link, member_of), _) => member(
                Set::Members(Family::of(*member_of)),
                [name(link), address(*member_of)].concat(),
            ),
            (Key::Shared(link, shared), _) => member(
                Set::Shared(Family::of(*shared)),
                [name(link), address(*shared)].concat(),
            ),
            (Key::Publisher(link, from), _) => {
                Some(range(Set::Publishers(Family::of(from.addr())), link, from))
            }
            (Key::Remote(link, net), _) => Some(range(Set::Remote(Family::of(net.addr())), link, net)),
            (Key::Open(proto, to, port), _) => member(
                Set::Opened(Family::of(*to)),
                [protocol(*proto), address(*to), number(*port)].concat(),
            ),
            (Key::Publish(proto, host, port), Value::To(to, to_port)) if host.is_ipv6() == to.is_ipv6() => {
                let set = Set::Publish {
                    family: Family::of(*host),
                    any: host.is_unspecified(),
                };
                let host = if host.is_unspecified() {
                    Vec::new()
                } else {
                    address(*host)
                };
                Some(Self {
                    set,
                    key: [protocol(*proto), host, number(*port)].concat(),
                    end: None,
                    data: Some([address(*to), number(*to_port)].concat()),
                })
            }
            _ => None,
        }
    }

    /// The fact that the element is; none if no fact is like it, so it cannot be of our making.
    pub(super) fn fact(&self) -> Option<(Key, Value)> {
        let mut key = Fields(&self.key);
        let present = |key| (key, Value::Present);
        let fact = match self.set {
            Set::Internal => present(Key::Guard(key.name()?)),
            Set::Apart => present(Key::Apart(key.name()?)),
            Set::Restricted => present(Key::Restricted(key.name()?)),
            Set::Foreign => present(Key::Foreign(key.name()?)),
            Set::Loopback => {
                let address = key.address(Family::V6)?;
                present(Key::LoopbackPorts).and_if(address == Ipv6Addr::LOCALHOST)?
            }
            Set::Masqueraded(family) => present(Key::Masquerade(key.name()?, family)),
            Set::Routed(family) => present(Key::Routed(key.name()?, family)),
            Set::Unprotected(family) => present(Key::Unprotected(key.name()?, family)),
            Set::Trusted => present(Key::Trusted(key.name()?, key.name()?)),
            Set::Bridges => {
                let (from, to) = (key.name()?, key.name()?);
                present(Key::Allow(from.clone())).and_if(from == to)?
            }
            Set::Source(family) => {
                let mut data = Fields(self.data.as_deref()?);
                let source = Value::Ip(data.address(family)?);
                (Key::Source(key.name()?, family), source).and_if(data.0.is_empty())?
            }
            Set::Members(family) => present(Key::Member(key.name()?, key.address(family)?)),
            Set::Shared(family) => present(Key::Shared(key.name()?, key.address(family)?)),
            Set::Publishers(family) | Set::Remote(family) => {
                let (link, first) = (key.name()?, key.address(family)?);
                let mut end = Fields(self.end.as_deref()?);
                let (same, last) = (end.name()?, end.address(family)?);
                let net = ipnet_of(first, last)?;
                let fact = match self.set {
                    Set::Remote(_) => Key::Remote(link.clone(), net),
                    _ => Key::Publisher(link.clone(), net),
                };
                present(fact).and_if(link == same && end.0.is_empty())?
            }
            Set::Opened(family) => {
                let (proto, to, port) = (key.proto()?, key.address(family)?, key.number()?);
                present(Key::Open(proto, to, port))
            }
            Set::Publish { family, any } => {
                let proto = key.proto()?;
                let host = if any {
                    unspecified(family)
                } else {
                    key.address(family)?
                };
                let port = key.number()?;
                let mut data = Fields(self.data.as_deref()?);
                let to = Value::To(data.address(family)?, data.number()?);
                (Key::Publish(proto, host, port), to)
                    .and_if(data.0.is_empty() && any == host.is_unspecified())?
            }
        };
        fact.and_if(key.0.is_empty())
    }
}

/// The element that a fact is, as nft writes it, with numbers in the place of names that need a file on the host.
fn text(key: &Key, value: &Value) -> Option<String> {
    Some(match (key, value) {
        (Key::Guard(link) | Key::Apart(link) | Key::Restricted(link) | Key::Foreign(link), _) => {
            format!("\"{link}\"")
        }
        (Key::LoopbackPorts, _) => Ipv6Addr::LOCALHOST.to_string(),
        (Key::Allow(link), _) => format!("\"{link}\" . \"{link}\""),
        (Key::Trusted(from, link), _) => format!("\"{from}\" . \"{link}\""),
        (Key::Masquerade(link, _) | Key::Routed(link, _) | Key::Unprotected(link, _), _) => {
            format!("\"{link}\"")
        }
        (Key::Source(link, _), Value::Ip(source)) => format!("\"{link}\" : {source}"),
        (Key::Member(link, address) | Key::Shared(link, address), _) => {
            format!("\"{link}\" . {address}")
        }
        (Key::Publisher(link, net) | Key::Remote(link, net), _) => format!("\"{link}\" . {net}"),
        (Key::Open(proto, to, port), _) => format!("{} . {to} . {port}", proto.number()),
        (Key::Publish(proto, host, port), Value::To(to, to_port)) => {
            let host = match host.is_unspecified() {
                true => String::new(),
                false => format!(" . {host}"),
            };
            format!("{}{host} . {port} : {to} . {to_port}", proto.number())
        }
        _ => return None,
    })
}

/// The lines by which nft adds the elements that some facts are, one a set; facts of other sorts are left out.
pub(super) fn lines(facts: &World) -> String {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in facts {
        if let (Some(element), Some(text)) = (Element::of(key, value), text(key, value)) {
            sets.entry(element.set.name()).or_default().push(text);
        }
    }
    let line = |(set, elements): (String, Vec<String>)| {
        format!("add element inet tombolo {set} {{ {} }}\n", elements.join(", "))
    };
    sets.into_iter().map(line).collect()
}

/// The element that stands for all addresses of a prefix, with the name of a link.
fn range(set: Set, link: &IfName, net: &IpNet) -> Element {
    Element {
        set,
        key: [name(link), address(net.network())].concat(),
        end: Some([name(link), address(net.broadcast())].concat()),
        data: None,
    }
}

/// The prefix that goes from one address to another, if there is one.
fn ipnet_of(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let same = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        _ => return None,
    };
    let net = IpNet::new(first, same as u8).ok()?;
    (net.network() == first && net.broadcast() == last).then_some(net)
}

fn protocol(proto: Proto) -> Vec<u8> {
    vec![proto.number(), 0, 0, 0]
}

trait AndIf: Sized {
    /// Itself, if something holds.
    fn and_if(self, holds: bool) -> Option<Self> {
        holds.then_some(self)
    }
}

impl AndIf for (Key, Value) {}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn name(link: &IfName) -> Vec<u8> {
    let mut bytes = link.as_str().as_bytes().to_vec();
    bytes.resize(IFNAME, 0);
    bytes
}

fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn number(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    vec![high, low, 0, 0]
}

/// The fields of a key or of what it leads to that are not yet read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn name(&mut self) -> Option<IfName> {
        let field = self.take::<IFNAME>()?;
        let end = field.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&field[..end]).ok()?.parse().ok()
    }

    fn proto(&mut self) -> Option<Proto> {
        let [number, ..] = self.take::<4>()?;
        Proto::from_number(number)
    }

    fn address(&mut self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => Some(Ipv4Addr::from(self.take::<4>()?).into()),
            Family::V6 => Some(Ipv6Addr::from(self.take::<16>()?).into()),
        }
    }

    fn number(&mut self) -> Option<u16> {
        // The filling may be missing after the last field.
        if let [high, low] = *self.0 {
            self.0 = &[];
            return Some(u16::from_be_bytes([high, low]));
        }
        let [high, low, ..] = self.take::<4>()?;
        Some(u16::from_be_bytes([high, low]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Vec<(Key, Value)> {
        let link: IfName = "a-name-of-15-by".parse().unwrap();
        let publish = |proto, host: &str, to: &str| {
            (
                Key::Publish(proto, host.parse().unwrap(), 80),
                Value::To(to.parse().unwrap(), 8080),
            )
        };
        vec![
            (Key::Guard(link.clone()), Value::Present),
            (Key::Allow(link.clone()), Value::Present),
            (Key::Apart(link.clone()), Value::Present),
            (Key::Restricted(link.clone()), Value::Present),
            (Key::Foreign(link.clone()), Value::Present),
            (Key::LoopbackPorts, Value::Present),
            (
                Key::Trusted("eth0".parse().unwrap(), link.clone()),
                Value::Present,
            ),
            (Key::Masquerade(link.clone(), Family::V4), Value::Present),
            (Key::Routed(link.clone(), Family::V6), Value::Present),
            (Key::Unprotected(link.clone(), Family::V4), Value::Present),
            (
                Key::Source(link.clone(), Family::V6),
                Value::Ip("2001:db8::7".parse().unwrap()),
            ),
            (
                Key::Publisher(link.clone(), "198.51.100.0/24".parse().unwrap()),
                Value::Present,
            ),
            (
                Key::Publisher(link.clone(), "2001:db8::1/128".parse().unwrap()),
                Value::Present,
            ),
            (
                Key::Publisher(link.clone(), "0.0.0.0/0".parse().unwrap()),
                Value::Present,
            ),
            (
                Key::Remote(link.clone(), "10.0.0.64/26".parse().unwrap()),
                Value::Present,
            ),
            (
                Key::Remote(link.clone(), "fd00::4000/114".parse().unwrap()),
                Value::Present,
            ),
            (
                Key::Member(link.clone(), "10.0.0.2".parse().unwrap()),
                Value::Present,
            ),
            (Key::Shared(link, "fd00::2".parse().unwrap()), Value::Present),
            (
                Key::Open(Proto::Sctp, "10.0.0.2".parse().unwrap(), 80),
                Value::Present,
            ),
            publish(Proto::Tcp, "192.0.2.1", "10.0.0.2"),
            publish(Proto::Udp, "0.0.0.0", "10.0.0.2"),
            publish(Proto::Sctp, "2001:db8::1", "fd00::2"),
            publish(Proto::Tcp, "::", "fd00::2"),
        ]
    }

    #[test]
    fn every_fact_comes_back_from_its_element() {
        for (key, value) in facts() {
            let element = Element::of(&key, &value).unwrap();
            assert!(text(&key, &value).is_some(), "{key:?}");
            assert_eq!(element.fact(), Some((key, value)));
        }
    }

    #[test]
    fn an_element_that_no_fact_is_like_is_told() {
        for (key, value) in facts() {
            let element = Element::of(&key, &value).unwrap();
            let longer = Element {
                key: [element.key.clone(), vec![0; 4]].concat(),
                ..element.clone()
            };
            let shorter = Element {
                key: element.key[..element.key.len() - 4].to_vec(),
                ..element.clone()
            };
            assert_eq!((longer.fact(), shorter.fact()), (None, None), "{key:?}");
        }
        let two = [name(&"one".parse().unwrap()), name(&"two".parse().unwrap())].concat();
        assert_eq!(
            Element {
                set: Set::Bridges,
                key: two,
                end: None,
                data: None
            }
            .fact(),
            None
        );
        let icmp = Element {
            set: Set::Publish {
                family: Family::V4,
                any: true,
            },
            key: vec![1, 0, 0, 0, 0, 80, 0, 0],
            end: None,
            data: Some(vec![0; 8]),
        };
        assert_eq!(icmp.fact(), None);
    }

    #[test]
    fn families_are_not_mixed() {
        let key = Key::Publish(Proto::Tcp, "::".parse().unwrap(), 80);
        assert_eq!(
            Element::of(&key, &Value::To("10.0.0.2".parse().unwrap(), 80)),
            None
        );
    }
}
