//! Facts as elements of the sets and maps in table `inet tombolo`, and back: pure.
//!
//! An element's key is a row of fields, each filled up with zeros to a multiple of four bytes; numbers of ports stand in
//! network order, names of interfaces take 16 bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tombolo_core::model::{IfName, Proto};
use tombolo_core::world::{Key, Value};

/// Length of an interface's name in a set, in bytes.
const IFNAME: usize = 16;

/// One of the sets and maps whose elements are facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    Internal,
    Bridges,
    Masqueraded,
    /// A map of published ports: of IPv6 or not, of all addresses of the host or of one.
    Publish {
        v6: bool,
        any: bool,
    },
}

impl Set {
    /// All of them.
    pub(super) const ALL: [Self; 7] = [
        Self::Internal,
        Self::Bridges,
        Self::Masqueraded,
        Self::Publish {
            v6: false,
            any: false,
        },
        Self::Publish { v6: false, any: true },
        Self::Publish { v6: true, any: false },
        Self::Publish { v6: true, any: true },
    ];

    /// Its name in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Bridges => "bridges",
            Self::Masqueraded => "masqueraded",
            Self::Publish {
                v6: false,
                any: false,
            } => "publish4",
            Self::Publish { v6: false, any: true } => "publish4_any",
            Self::Publish { v6: true, any: false } => "publish6",
            Self::Publish { v6: true, any: true } => "publish6_any",
        }
    }
}

/// An element: its set, its key, and what the key leads to in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) set: Set,
    pub(super) key: Vec<u8>,
    pub(super) data: Option<Vec<u8>>,
}

impl Element {
    /// The element that a fact is; none if the fact is of another sort, or a published port of mixed families.
    pub(super) fn of(key: &Key, value: &Value) -> Option<Self> {
        let member = |set, key| Some(Self { set, key, data: None });
        match (key, value) {
            (Key::Guard(link), _) => member(Set::Internal, name(link)),
            (Key::Allow(link), _) => member(Set::Bridges, [name(link), name(link)].concat()),
            (Key::Masquerade(link), _) => member(Set::Masqueraded, name(link)),
            (Key::Publish(proto, host, port), Value::To(to, to_port)) if host.is_ipv6() == to.is_ipv6() => {
                let set = Set::Publish {
                    v6: host.is_ipv6(),
                    any: host.is_unspecified(),
                };
                let host = if host.is_unspecified() {
                    Vec::new()
                } else {
                    address(*host)
                };
                let key = [vec![proto.number(), 0, 0, 0], host, number(*port)].concat();
                Some(Self {
                    set,
                    key,
                    data: Some([address(*to), number(*to_port)].concat()),
                })
            }
            _ => None,
        }
    }

    /// The fact that the element is; none if no fact is like it, so it cannot be of our making.
    pub(super) fn fact(&self) -> Option<(Key, Value)> {
        let mut key = Fields(&self.key);
        let fact = match self.set {
            Set::Internal => (Key::Guard(key.name()?), Value::Present),
            Set::Masqueraded => (Key::Masquerade(key.name()?), Value::Present),
            Set::Bridges => {
                let (from, to) = (key.name()?, key.name()?);
                (Key::Allow(from.clone()), Value::Present).and_if(from == to)?
            }
            Set::Publish { v6, any } => {
                let proto = key.proto()?;
                let host = if any { unspecified(v6) } else { key.address(v6)? };
                let port = key.number()?;
                let mut data = Fields(self.data.as_deref()?);
                let to = Value::To(data.address(v6)?, data.number()?);
                (Key::Publish(proto, host, port), to)
                    .and_if(data.0.is_empty() && any == host.is_unspecified())?
            }
        };
        fact.and_if(key.0.is_empty())
    }
}

trait AndIf: Sized {
    /// Itself, if something holds.
    fn and_if(self, holds: bool) -> Option<Self> {
        holds.then_some(self)
    }
}

impl AndIf for (Key, Value) {}

fn unspecified(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
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

    fn address(&mut self, v6: bool) -> Option<IpAddr> {
        if v6 {
            Some(Ipv6Addr::from(self.take::<16>()?).into())
        } else {
            Some(Ipv4Addr::from(self.take::<4>()?).into())
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
            (Key::Masquerade(link), Value::Present),
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
                data: None
            }
            .fact(),
            None
        );
        let icmp = Element {
            set: Set::Publish { v6: false, any: true },
            key: vec![1, 0, 0, 0, 0, 80, 0, 0],
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
