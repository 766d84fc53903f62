//! What hosts tell each other of their endpoints: one row each, as JSON.
//!
//! A field that is not known is passed over by the reader, and handed on by all others as it came, because they don't look
//! inside; so a later version may say more. A field that this version needs is never renamed.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{Endpoint, Mac, NetName, Network};

/// What the keys of these rows begin with; the endpoint's identifier follows.
pub const ENDPOINT: &str = "ep/";

/// An endpoint on a network of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// The network's name in the cluster, where it has one.
    #[serde(default)]
    pub net: Option<NetName>,
    /// The network's pools: without a name they are its identity.
    #[serde(default)]
    pub pools: Vec<IpNet>,
    /// The kind of network.
    pub kind: String,
    /// The VXLAN network identifier, where there is one.
    #[serde(default)]
    pub vni: Option<u32>,
    /// Its IPv4 address.
    #[serde(default)]
    pub ipv4: Option<IpAddr>,
    /// Its IPv6 address.
    #[serde(default)]
    pub ipv6: Option<IpAddr>,
    /// Its hardware address.
    pub mac: Mac,
    /// Where packets for it are sent: its host's VTEP, or next hop.
    #[serde(default)]
    pub via: Option<IpAddr>,
    /// The container's name, once it is known.
    #[serde(default)]
    pub name: Option<String>,
    /// Further names of it on this network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Whether the container is there: its endpoint has joined a sandbox.
    #[serde(default)]
    pub joined: bool,
}

impl EndpointRow {
    /// The row of an endpoint on a network.
    pub fn of(network: &Network, endpoint: &Endpoint, name: Option<&str>) -> Self {
        Self {
            net: network.spec.net().cloned(),
            pools: network.subnets.iter().map(|subnet| subnet.pool).collect(),
            kind: network.spec.kind().name().to_owned(),
            vni: None,
            ipv4: endpoint.address(false).map(|address| address.addr()),
            ipv6: endpoint.address(true).map(|address| address.addr()),
            mac: endpoint.mac,
            via: None,
            name: name.map(str::to_owned),
            aliases: Vec::new(),
            joined: endpoint.sandbox.is_some(),
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

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
