//! The engine in numbers, for metrics.

use std::collections::BTreeMap;

use tombolo_core::world::World;

use super::{Engine, Journal};
use crate::kernel::Kernel;

/// The numbers. Their cost grows with endpoints and leases, not with facts: these were counted by the last full look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Networks.
    pub networks: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Endpoints that have joined a container.
    pub joined: usize,
    /// Published ports.
    pub ports: usize,
    /// Address pools.
    pub pools: Vec<Pool>,
    /// Facts that should hold, as of the last full look.
    pub facts_desired: usize,
    /// Facts that should hold and do, as of the last full look.
    pub facts_holding: usize,
    /// Facts put right since the start, by sort.
    pub repairs: BTreeMap<&'static str, u64>,
    /// Groups that other hosts are told of, because somebody here hears them, and those that are too many for that.
    pub groups: (usize, usize),
    /// Problems that `tombolo status` shows.
    pub problems: usize,
    /// Whether the Docker engine answers.
    pub docker_reachable: bool,
    /// Records freed since the start because Docker had forgotten them.
    pub freed: u64,
}

/// One address pool in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The subnet.
    pub pool: String,
    /// The part of it that addresses are given from; empty for all of it.
    pub range: String,
    /// The network's name; empty where it is not known.
    pub network: String,
    /// Addresses in use.
    pub leases: usize,
    /// Addresses that nobody has, the resting ones included.
    pub free: u64,
    /// Freed addresses that rest a while.
    pub cooling: usize,
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// The numbers of now.
    pub fn tally(&self) -> Tally {
        let ipam = self.state.ipam();
        let names: BTreeMap<_, _> = self
            .state
            .networks()
            .flat_map(|n| n.subnets.iter().filter(|s| s.ours).map(move |s| (s.pool, &n.id)))
            .filter_map(|(pool, id)| Some((pool, self.docker.network_name(id)?)))
            .collect();
        let pool = |id: &tombolo_ipam::PoolId| {
            let fill = ipam.fill(id);
            let other = || self.docker.pools().get(&id.cidr()).map(String::as_str);
            Pool {
                pool: id.cidr().to_string(),
                range: id.range().map(|range| range.to_string()).unwrap_or_default(),
                network: names
                    .get(&id.cidr())
                    .copied()
                    .or_else(other)
                    .unwrap_or_default()
                    .to_owned(),
                leases: fill.leased,
                free: fill.free,
                cooling: fill.cooling,
            }
        };
        Tally {
            networks: self.state.networks().count(),
            endpoints: self.state.endpoints().count(),
            joined: self.state.endpoints().filter(|e| e.sandbox.is_some()).count(),
            ports: self.state.endpoints().map(|e| e.published.len()).sum(),
            pools: ipam.pools().keys().map(pool).collect(),
            facts_desired: self.facts_desired,
            facts_holding: self.facts_holding,
            repairs: self.repairs.clone(),
            groups: self.counted_groups(),
            problems: self.problems.len(),
            docker_reachable: self.docker.serves(),
            freed: self.docker.freed(),
        }
    }

    /// Counts the facts at the end of a full look.
    pub(super) fn count_facts(&mut self, desired: &World) {
        let holds = |(key, value): &(_, &tombolo_core::world::Value)| {
            self.believed.get(*key).is_some_and(|held| value.holds_as(held))
        };
        self.facts_holding = desired.iter().filter(holds).count();
        self.facts_desired = desired.len();
    }
}
