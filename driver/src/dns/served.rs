//! Where names are answered just now, and where they can't be: for whoever looks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// Where names are answered.
#[derive(Debug, Default)]
pub struct Served(Mutex<Now>);

#[derive(Debug, Default)]
struct Now {
    /// By this host's address: why not, if not.
    gateways: BTreeMap<IpAddr, Option<String>>,
    /// By this host's address that others reach it at: the same for the zone that is open to the outside.
    exports: BTreeMap<IpAddr, Option<String>>,
    /// By network namespace: the same.
    containers: BTreeMap<String, Option<String>>,
}

impl Served {
    fn now(&self) -> MutexGuard<'_, Now> {
        // What is noted there is whole at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn gateway(&self, address: IpAddr, why_not: Option<String>) {
        self.now().gateways.insert(address, why_not);
    }

    pub(super) fn no_gateway(&self, address: IpAddr) {
        self.now().gateways.remove(&address);
    }

    pub(super) fn export(&self, address: IpAddr, why_not: Option<String>) {
        self.now().exports.insert(address, why_not);
    }

    pub(super) fn no_export(&self, address: IpAddr) {
        self.now().exports.remove(&address);
    }

    pub(super) fn container(&self, sandbox: &str, why_not: Option<String>) {
        self.now().containers.insert(sandbox.to_owned(), why_not);
    }

    pub(super) fn no_container(&self, sandbox: &str) {
        self.now().containers.remove(sandbox);
    }

    /// The document behind `/v1/names`.
    pub fn document(&self) -> Value {
        let now = self.now();
        let places = |places: &BTreeMap<IpAddr, Option<String>>| -> Vec<Value> {
            let places = places.iter();
            places
                .map(|(address, error)| json!({ "address": address, "error": error }))
                .collect()
        };
        let failed = now.containers.iter().filter_map(|(sandbox, error)| {
            let error = error.as_ref()?;
            Some(json!({ "sandbox": sandbox, "error": error }))
        });
        let answered = now.containers.values().filter(|error| error.is_none()).count();
        json!({
            "gateways": places(&now.gateways),
            "exports": places(&now.exports),
            "containers": answered,
            "failed": failed.collect::<Vec<_>>(),
        })
    }
}
