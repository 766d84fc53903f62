//! Several hosts on a wire, each with an engine and tombolo, in one cluster.
//!
//! ```text
//!     a  10.200.0.1 ──┐                      ┌── 10.201.0.1  a
//!     b  10.200.0.2 ──┤ wire0      wire1 ────┼── 10.201.0.2  b
//!     c  10.200.0.3 ──┘ .254       (a second └── 10.201.0.3  c
//!        default route          one, if wanted)
//! ```
//!
//! Hosts are meant by their place: 0 is a, 1 is b. Nothing outlives the test process: see [`crate::host`].

mod kind;
mod plan;
mod rows;
mod site;

use std::collections::BTreeMap;
use std::time::Duration;

pub use kind::{ACROSS, Kind};
pub use plan::{Cabled, Plan};
pub use rows::Rows;
pub use site::Site;

use crate::lan::Lan;
use crate::wait::within;
use crate::wire::Wire;

/// How long hosts may take to notice each other's coming and going; generous, as they need ten seconds for a death.
const NOTICE: Duration = Duration::from_secs(60);

/// Hosts, and the wires or the LAN that they are on.
#[derive(Debug)]
pub struct Sites {
    sites: Vec<Site>,
    wires: Vec<Wire>,
    lan: Option<Lan>,
}

impl std::ops::Deref for Sites {
    type Target = [Site];
    fn deref(&self) -> &[Site] {
        &self.sites
    }
}

impl Sites {
    /// So many hosts, as they usually are, in one cluster.
    pub fn joined(count: usize) -> Self {
        Plan::of(count).joined()
    }

    /// Has the first host begin a cluster and the others join it, all at once; waits until all see all.
    #[track_caller]
    pub fn join(&self) {
        let line = self[0].tombolo.try_cli(&["cluster", "init"]).must().stdout;
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        crate::at_once(&self.sites[1..], |site| site.tombolo.try_cli(&words).must());
        self.all_up();
    }

    /// Waits until each host sees all others.
    #[track_caller]
    pub fn all_up(&self) {
        let all: Vec<usize> = (0..self.len()).collect();
        self.see(&all, &all);
    }

    /// Waits until these hosts see those, and of all others that they are down.
    #[track_caller]
    pub fn see(&self, who: &[usize], whom: &[usize]) {
        let wanted: BTreeMap<String, bool> = (0..self.len())
            .map(|at| (self[at].name().to_owned(), whom.contains(&at)))
            .collect();
        for &at in who {
            let mut seen = BTreeMap::new();
            let sees = within(NOTICE, || {
                seen = self[at].sees();
                (seen == wanted).then_some(())
            });
            if sees.is_none() {
                panic!(
                    "{} sees {seen:?}, not {wanted:?}, after {NOTICE:?}",
                    self[at].name()
                );
            }
        }
    }

    /// Waits until each host knows of so many endpoints on all.
    #[track_caller]
    pub fn know(&self, endpoints: usize) {
        for site in &self.sites {
            let mut known = 0;
            let all = within(NOTICE, || {
                known = site.peers().len();
                (known == endpoints).then_some(())
            });
            if all.is_none() {
                panic!(
                    "{} knows {known} endpoints, not {endpoints}, after {NOTICE:?}",
                    site.name()
                );
            }
        }
    }

    /// Makes a network with the same line on each host, one after the other; `args` are more of `docker network create`.
    #[track_caller]
    pub fn network(&self, name: &str, kind: Kind, args: &[&str]) {
        for site in &self.sites {
            site.network(name, kind, args);
        }
    }

    /// A wire by its number.
    #[track_caller]
    pub fn wire(&self, number: usize) -> &Wire {
        &self.wires[number]
    }

    /// The LAN that the hosts are on.
    #[track_caller]
    pub fn lan(&self) -> &Lan {
        self.lan.as_ref().expect("hosts of a plan that is on a LAN")
    }

    /// Cuts a host's cables, of all wires.
    pub fn cut(&self, at: usize) {
        self.wires.iter().for_each(|wire| wire.cut(at));
    }

    /// Mends a host's cables.
    pub fn mend(&self, at: usize) {
        self.wires.iter().for_each(|wire| wire.mend(at));
    }

    /// Has the wires carry nothing between these hosts and the others. Their links notice nothing.
    pub fn part(&self, some: &[usize]) {
        let others: Vec<usize> = (0..self.len()).filter(|at| !some.contains(at)).collect();
        self.wires.iter().for_each(|wire| wire.part(some, &others));
    }

    /// Has the wires carry everything again.
    pub fn heal(&self) {
        self.wires.iter().for_each(Wire::heal);
    }

    /// Ends a host as a power cut does: everything at once, and only what is on its disks is left.
    pub fn power_off(&self, at: usize) {
        self[at].host.cut_power();
        self.wires.iter().for_each(|wire| wire.unplug(at));
        self[at].forget_kernel();
    }

    /// Starts a host that was off: its cables, tombolo and the engine, which starts its containers of `--restart always`.
    #[track_caller]
    pub fn power_on(&self, at: usize) {
        for wire in &self.wires {
            wire.plug(&self[at].host, at);
        }
        self.lan.iter().for_each(|lan| lan.plug(&self[at].host, at));
        self[at].tombolo.start_again();
        self[at].engine.start_again();
    }
}

/// Shows what the hosts say of each other when a test fails.
impl Drop for Sites {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for site in &self.sites {
                crate::say(&format!("=== host {}\n{}", site.name(), site.words()));
            }
        }
    }
}
