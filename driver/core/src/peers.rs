//! What hosts tell each other of their endpoints: one row each, as JSON.
//!
//! A field that is not known is passed over by the reader, and handed on by all others as it came, because they don't look
//! inside; so a later version may say more. A field that this version needs is never renamed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{Endpoint, Group, Mac, NetName, Network, Proto, fnv1a};
use crate::state::{Heard, Remote};

/// What the keys of these rows begin with; the endpoint's identifier follows.
pub const ENDPOINT: &str = "ep/";

/// What the keys of rows about groups begin with; the pool that is the network's identity follows, and the part's number.
pub const GROUPS: &str = "mc/";

/// How many rows the groups of a network are told in: one that few groups are in is small enough to be gossiped at once.
pub const PARTS: u8 = 8;

/// How many groups of a network a host tells at most.
pub const GROUPS_TOLD: usize = 128;

/// How many groups are read of one row at most: a later version may tell more than this one does.
pub const GROUPS_READ: usize = 512;

/// The key of the row that a host tells of itself.
pub const HOST: &str = "host";

/// A host, as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostRow {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its version of tombolo.
    #[serde(default)]
    pub version: String,
    /// The largest packet on the wires that others reach it by, in bytes.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Its address there that is good on that wire only.
    #[serde(default)]
    pub link_local: Option<Ipv6Addr>,
    /// The domain that names of containers are in there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The addresses that others reach it by, where there are several: the one that stands for it first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways: Vec<WayRow>,
}

/// One of several addresses by which a host is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayRow {
    /// The address.
    pub address: IpAddr,
    /// The host's address on the same wire that is good on that wire only.
    #[serde(default)]
    pub link_local: Option<Ipv6Addr>,
}

impl HostRow {
    /// The addresses that it tells, as far as somebody can be reached at them.
    pub fn ways(&self) -> impl Iterator<Item = &WayRow> {
        self.ways.iter().filter(|way| is_a_hosts(way.address))
    }
}

/// Whether an address can be that of one other host.
pub fn is_a_hosts(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    !(broadcast || address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

/// An endpoint on a network of the cluster. What it doesn't have isn't written: all hosts keep all rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// The network's name in the cluster, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetName>,
    /// The network's pools: without a name they are its identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<IpNet>,
    /// The kind of network.
    pub kind: String,
    /// The VXLAN network identifier, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Its IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<IpAddr>,
    /// Its IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<IpAddr>,
    /// Its hardware address.
    pub mac: Mac,
    /// Where packets for it are sent: its host's VTEP, or next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The container's name, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Further names of it on this network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Whether the container is there: its endpoint has joined a sandbox.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
    /// Its ports that are published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRow>,
}

/// A published port of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRow {
    /// The protocol.
    pub proto: Proto,
    /// The endpoint's port, not the host's.
    pub port: u16,
}

impl EndpointRow {
    /// The endpoint as the data planes see it; none while its container isn't there, or where the row doesn't tell enough.
    pub fn remote(&self) -> Option<Remote> {
        let mut addresses: Vec<IpAddr> = self.ipv4.into_iter().chain(self.ipv6).collect();
        // There are many, and they last.
        addresses.shrink_to_fit();
        Some(Remote {
            pool: *self.pools.first().filter(|_| self.joined)?,
            addresses,
            mac: self.mac,
            via: self.via?,
        })
    }

    /// The row of an endpoint on a network.
    pub fn of(network: &Network, endpoint: &Endpoint, name: Option<&str>, aliases: &[String]) -> Self {
        // One a family and address of the host, of the same port.
        let ports: BTreeSet<PortRow> = endpoint
            .published
            .iter()
            .map(|published| PortRow {
                proto: published.proto,
                port: published.port,
            })
            .collect();
        Self {
            net: network.spec.net().cloned(),
            pools: network.subnets.iter().map(|subnet| subnet.pool).collect(),
            kind: network.spec.kind().name().to_owned(),
            vni: network.spec.agreed().vni,
            ipv4: endpoint.address(false).map(|address| address.addr()),
            ipv6: endpoint.address(true).map(|address| address.addr()),
            mac: endpoint.mac,
            via: None,
            name: name.map(str::to_owned),
            aliases: aliases.to_vec(),
            joined: endpoint.sandbox.is_some(),
            ports: ports.into_iter().collect(),
        }
    }
}

/// Some of the groups that are heard by a host's endpoints on a network of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupsRow {
    /// The pool that is the network's identity.
    pub pool: IpNet,
    /// Where packets for them are sent: the host's VTEP.
    pub via: IpAddr,
    /// The groups' addresses, sorted.
    pub groups: Vec<IpAddr>,
}

impl GroupsRow {
    /// The key of a part of what is told of a pool.
    pub fn key(pool: IpNet, part: u8) -> String {
        format!("{GROUPS}{pool}/{part}")
    }

    /// Which part of what is told a group is in.
    pub fn part_of(group: IpAddr) -> u8 {
        (fnv1a(group.to_string().as_bytes()) % u64::from(PARTS)) as u8
    }

    /// Whether a row with that key is where a part of what is told of the pool belongs.
    pub fn is_key(key: &str, pool: IpNet) -> bool {
        (0..PARTS).any(|part| key == Self::key(pool, part))
    }

    /// Reads what another host tells. A group that none is to be told of is passed over.
    ///
    /// # Errors
    /// Where it isn't such a row, or tells of more than [`GROUPS_READ`] groups.
    pub fn read(body: &[u8]) -> Result<Heard, String> {
        let row: Self = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let count = row.groups.len();
        if count > GROUPS_READ {
            return Err(format!(
                "groups: {count} are told, at most {GROUPS_READ} are allowed"
            ));
        }
        let groups = row.groups.iter().filter(|group| is_told(**group));
        let groups: BTreeSet<Group> = groups.filter_map(|group| Group::of(*group)).collect();
        Ok(Heard {
            pool: row.pool,
            groups,
            via: row.via,
        })
    }
}

/// Whether other hosts are told who hears a group. Not of those that are heard by all (224.0.0.0/24 and ff02::1), that stay
/// on their interface (ff01::/16), or in which neighbours are asked for each other (ff02::1:ff00:0/104): each bridge answers
/// that itself.
pub fn is_told(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(v4) => v4.is_multicast() && v4.octets()[..3] != [224, 0, 0],
        IpAddr::V6(v6) => {
            let scope = v6.segments()[0] & 0xf;
            let solicited = v6.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
            let all = v6 == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            v6.is_multicast() && scope > 1 && !solicited && !all
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_of_a_later_version_is_read_and_one_of_an_earlier_too() {
        let least = r#"{"kind":"bridge","mac":"02:7b:0a:2a:00:02"}"#;
        let row: EndpointRow = serde_json::from_str(least).unwrap();
        assert_eq!((row.net, row.joined), (None, false));
        let later = r#"{"kind":"bridge","mac":"02:7b:0a:2a:00:02","net":"app","ipv4":"10.42.0.2","colour":"red","joined":true,
                        "pools":["10.42.0.0/24"],"more":{"x":[1,2]}}"#;
        let row: EndpointRow = serde_json::from_str(later).unwrap();
        assert_eq!(row.ipv4, Some("10.42.0.2".parse().unwrap()));
        for strange in [
            "{}",
            "[]",
            r#"{"kind":"bridge","mac":"ff:ff:ff:ff:ff:ff"}"#,
            r#"{"kind":1}"#,
        ] {
            assert!(serde_json::from_str::<EndpointRow>(strange).is_err(), "{strange}");
        }
    }

    #[test]
    fn groups_are_read_up_to_a_bound_and_those_of_neighbours_are_passed_over() {
        let row = |groups: &str| {
            GroupsRow::read(
                format!(r#"{{"pool":"10.42.0.0/24","via":"192.0.2.2","groups":[{groups}]}}"#).as_bytes(),
            )
        };
        let told = |text: &str| row(&format!("\"{text}\"")).unwrap().groups.len();
        for (text, count) in [
            ("239.1.2.3", 1),
            ("224.0.1.129", 1),
            ("ff15::1234", 1),
            ("ff02::fb", 1),
            ("224.0.0.251", 0),
            ("10.42.0.7", 0),
            ("255.255.255.255", 0),
            ("ff02::1", 0),
            ("ff01::1234", 0),
            ("ff02::1:ff00:7", 0),
            ("fd42::7", 0),
        ] {
            assert_eq!(told(text), count, "{text}");
        }
        let many = |n: usize| vec!["\"239.1.2.3\""; n].join(",");
        assert!(row(&many(GROUPS_READ)).is_ok());
        assert!(row(&many(GROUPS_READ + 1)).unwrap_err().contains("at most 512"));
        for strange in ["{}", "[]", r#"{"pool":"10.42.0.0/24","groups":[]}"#] {
            assert!(GroupsRow::read(strange.as_bytes()).is_err(), "{strange}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever bytes come as a row about groups, what is read of it is within the bounds.
        #[test]
        fn changed_and_random_bytes_tell_few_groups_or_nothing(
            spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4),
            random in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut body = br#"{"pool":"10.42.0.0/24","via":"10.0.0.1","groups":["239.1.2.3","ff15::1234"]}"#.to_vec();
            for (at, by, insert) in spoils {
                let at = at.index(body.len());
                if insert { body.insert(at, by) } else { body[at] = by }
            }
            for bytes in [body, random] {
                if let Ok(heard) = GroupsRow::read(&bytes) {
                    prop_assert!(heard.groups.len() <= GROUPS_READ);
                }
            }
        }

        /// A row that another host's bytes make is one that this host could have written.
        #[test]
        fn changed_and_random_bytes_are_a_row_that_reads_back_or_none(
            spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4),
            random in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut body = br#"{"net":"app","pools":["10.42.0.0/24","fd00::/64"],"kind":"vxlan","vni":4242,"ipv4":"10.42.0.2",
                "ipv6":null,"mac":"02:7b:0a:2a:00:02","via":"10.0.0.1","name":"web","aliases":["www"],"joined":true}"#.to_vec();
            for (at, by, insert) in spoils {
                let at = at.index(body.len());
                if insert { body.insert(at, by) } else { body[at] = by }
            }
            for bytes in [body, random] {
                if let Ok(row) = serde_json::from_slice::<EndpointRow>(&bytes) {
                    let again = serde_json::to_vec(&row).unwrap();
                    prop_assert_eq!(serde_json::from_slice::<EndpointRow>(&again).unwrap(), row);
                }
            }
        }
    }
}
