//! Records as rows of the store and as the document of `tombolo state export`: one JSON text each, the same in both.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tombolo_core::model::{Endpoint, Network};
use tombolo_core::state::{Edit, State};
use tombolo_ipam::share::Share;
use tombolo_ipam::{Edit as IpamEdit, Pool, PoolId, Slot, Space};

use crate::store::{Put, Row};

/// The version of the records' form. A store with a larger one is not opened.
pub const SCHEMA: u32 = 1;

const NETWORK: &str = "network";
const ENDPOINT: &str = "endpoint";
const POOL: &str = "pool";
const SLOT: &str = "slot";
const SHARE: &str = "share";
const CLUSTER: &str = "cluster";
const META: &str = "meta";

/// Under what the name of the driver is kept that the records are of: so Docker calls it in its networks.
pub const DRIVER: &str = "driver";

/// Records of a driver that has another name now: Docker, which calls it by the old one, would seem to have forgotten all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "driver: the networks in these records are of the driver '{was}', which is what plugin_socket's file was called; now it is \
     called '{now}', and Docker would find none of them. Set plugin_socket to a file called {was}.sock, or remove those \
     networks first (docker network rm) while it is called that"
)]
pub struct OtherDriver {
    was: String,
    now: String,
}

/// A row that is none of our records.
#[derive(Debug, thiserror::Error)]
#[error("record {table}/{key} can't be read and is left out: {why}")]
pub struct Unreadable {
    table: String,
    key: String,
    why: String,
}

/// One address of a pool, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlotRecord {
    space: Space,
    address: IpAddr,
    slot: Slot,
}

/// One pool, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PoolRecord {
    id: PoolId,
    #[serde(flatten)]
    pool: Pool,
}

/// All records: what the store holds, and what is exported and imported.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Records {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// Networks, by identifier.
    pub networks: Vec<Network>,
    /// Endpoints, by identifier.
    pub endpoints: Vec<Endpoint>,
    /// Pools, by identifier.
    pub pools: Vec<PoolRecord>,
    /// Leased and cooling addresses, in their order.
    pub addresses: Vec<SlotRecord>,
    /// This host's shares of pools of the cluster.
    #[serde(default)]
    pub shares: std::collections::BTreeMap<ipnet::IpNet, Share>,
    /// What this host's part in the cluster must not forget, in hexadecimal digits.
    #[serde(default, skip_serializing)]
    pub cluster: std::collections::BTreeMap<String, String>,
    /// What this host keeps besides: its IPv6 prefix, the engine it serves, the driver's name.
    pub meta: std::collections::BTreeMap<String, String>,
}

impl Records {
    /// The records of a state.
    pub fn of(state: &State, meta: &std::collections::BTreeMap<String, String>) -> Self {
        let addresses = state
            .ipam()
            .slots()
            .iter()
            .map(|((space, address), slot)| SlotRecord {
                space: *space,
                address: *address,
                slot: slot.clone(),
            });
        Self {
            schema: SCHEMA,
            networks: state.networks().cloned().collect(),
            endpoints: state.endpoints().cloned().collect(),
            pools: state
                .ipam()
                .pools()
                .iter()
                .map(|(id, pool)| PoolRecord { id: *id, pool: *pool })
                .collect(),
            addresses: addresses.collect(),
            shares: state.ipam().shares().clone(),
            cluster: std::collections::BTreeMap::new(),
            meta: meta.clone(),
        }
    }

    /// Whether the driver may go by this name with these records. Records without networks and pools may be anybody's, and
    /// so may those that don't tell.
    ///
    /// # Errors
    /// [`OtherDriver`].
    pub fn of_driver(&self, now: &str) -> Result<(), OtherDriver> {
        match self.meta.get(DRIVER) {
            Some(was) if was != now && !(self.networks.is_empty() && self.pools.is_empty()) => {
                Err(OtherDriver {
                    was: was.clone(),
                    now: now.to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Reads rows. What can't be read is left out and described.
    pub fn read(rows: &[Row]) -> (Self, Vec<Unreadable>) {
        let mut records = Self {
            schema: SCHEMA,
            ..Self::default()
        };
        let mut problems = Vec::new();
        for row in rows {
            if let Err(error) = records.take(row) {
                problems.push(Unreadable {
                    table: row.table.to_string(),
                    key: row.key.clone(),
                    why: error.to_string(),
                });
            }
        }
        (records, problems)
    }

    fn take(&mut self, row: &Row) -> Result<(), serde_json::Error> {
        match row.table.as_str() {
            NETWORK => self.networks.push(serde_json::from_slice(&row.value)?),
            ENDPOINT => self.endpoints.push(serde_json::from_slice(&row.value)?),
            POOL => self.pools.push(serde_json::from_slice(&row.value)?),
            SLOT => self.addresses.push(serde_json::from_slice(&row.value)?),
            SHARE => {
                let pool = row.key.parse().map_err(serde::de::Error::custom)?;
                self.shares.insert(pool, serde_json::from_slice(&row.value)?);
            }
            CLUSTER => drop(
                self.cluster
                    .insert(row.key.clone(), serde_json::from_slice(&row.value)?),
            ),
            META => drop(
                self.meta
                    .insert(row.key.clone(), serde_json::from_slice(&row.value)?),
            ),
            other => {
                return Err(serde::de::Error::custom(format!(
                    "'{other}' is no table of this version"
                )));
            }
        }
        Ok(())
    }

    /// The records as rows.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut add = |table: &str, key: String, value: Vec<u8>| {
            rows.push(Row {
                table: table.into(),
                key,
                value,
            })
        };
        for network in &self.networks {
            add(NETWORK, network.id.to_string(), json(network));
        }
        for endpoint in &self.endpoints {
            add(ENDPOINT, endpoint.id.to_string(), json(endpoint));
        }
        for pool in &self.pools {
            add(POOL, pool.id.to_string(), json(pool));
        }
        for record in &self.addresses {
            add(SLOT, slot_key(record.space, record.address), json(record));
        }
        for (pool, share) in &self.shares {
            add(SHARE, pool.to_string(), json(share));
        }
        for (key, value) in &self.cluster {
            add(CLUSTER, key.clone(), json(value));
        }
        for (key, value) in &self.meta {
            add(META, key.clone(), json(value));
        }
        rows
    }

    /// Puts the records together to a state. What doesn't fit is left out and described.
    pub fn into_state(self) -> (State, Vec<String>) {
        let pools = self.pools.into_iter().map(|r| (r.id, r.pool)).collect();
        let slots = self
            .addresses
            .into_iter()
            .map(|r| ((r.space, r.address), r.slot))
            .collect();
        State::restore(self.networks, self.endpoints, pools, slots, self.shares)
    }
}

fn slot_key(space: Space, address: IpAddr) -> String {
    format!("{space}/{address}")
}

/// A record's text.
fn json<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records are plain structs with text keys, which always make JSON")
}

/// An edit as a row to write.
pub fn put(edit: &Edit) -> Put {
    fn row<T: Serialize>(table: &str, key: String, record: Option<&T>) -> Put {
        Put {
            table: table.to_owned(),
            key,
            value: record.map(json),
        }
    }
    match edit {
        Edit::Network(id, network) => row(NETWORK, id.to_string(), network.as_ref()),
        Edit::Endpoint(id, endpoint) => row(ENDPOINT, id.to_string(), endpoint.as_ref()),
        Edit::Ipam(IpamEdit::Pool(id, pool)) => {
            let record = pool.map(|pool| PoolRecord { id: *id, pool });
            row(POOL, id.to_string(), record.as_ref())
        }
        Edit::Ipam(IpamEdit::Slot(space, address, slot)) => {
            let record = slot.clone().map(|slot| SlotRecord {
                space: *space,
                address: *address,
                slot,
            });
            row(SLOT, slot_key(*space, *address), record.as_ref())
        }
        Edit::Ipam(IpamEdit::Share(cidr, share)) => row(SHARE, cidr.to_string(), share.as_ref()),
    }
}

/// Something of this host's part in the cluster to keep, or to keep no longer, as a row to write. The value is text.
pub fn put_cluster(key: &str, value: Option<&str>) -> Put {
    match value {
        Some(value) => Put::set(CLUSTER, key, json(&value)),
        None => Put::remove(CLUSTER, key),
    }
}

/// Something about this host to keep no longer, as a row to write.
pub fn forget_meta(key: &str) -> Put {
    Put::remove(META, key)
}

/// Something to keep about this host, as a row to write.
pub fn put_meta(key: &str, value: &str) -> Put {
    Put::set(META, key, json(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_with_networks_or_pools_are_for_the_driver_that_they_are_of() {
        let id: PoolId = PoolId::new(Space::Local, "10.1.0.0/24".parse().unwrap(), None).unwrap();
        let pool = PoolRecord {
            id,
            pool: Pool::default(),
        };
        let records = |was: Option<&str>, pools: &[PoolRecord]| Records {
            pools: pools.to_vec(),
            meta: was
                .map(|was| (DRIVER.to_owned(), was.to_owned()))
                .into_iter()
                .collect(),
            ..Records::default()
        };
        let pools = [pool];
        assert_eq!(records(None, &pools).of_driver("tombolo"), Ok(()));
        assert_eq!(records(Some("tombolo"), &pools).of_driver("tombolo"), Ok(()));
        assert_eq!(records(Some("t2"), &[]).of_driver("tombolo"), Ok(()));
        let refused = records(Some("t2"), &pools).of_driver("tombolo").unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("the driver 't2'") && text.contains("'tombolo'"),
            "{text}"
        );
    }
}
