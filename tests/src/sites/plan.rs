//! How many hosts there are to be, and how they differ from the usual ones.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Site, Sites};
use crate::engine;
use crate::host::Host;
use crate::lan::Lan;
use crate::wire::Wire;

/// The hosts that are to be.
#[derive(Debug)]
pub struct Plan {
    hosts: Vec<Wanted>,
    mtu: Option<u32>,
    wires: usize,
    ipv6: bool,
    lan: bool,
    replicated: bool,
}

/// How one host is to be.
#[derive(Debug, Default, Clone)]
struct Wanted {
    engine: Option<String>,
    flags: Vec<String>,
    settings: Vec<(String, String)>,
}

impl Plan {
    /// So many hosts, with the engine of the run, on a wire with IPv4.
    pub fn of(hosts: usize) -> Self {
        Self {
            hosts: vec![Wanted::default(); hosts],
            mtu: None,
            wires: 1,
            ipv6: false,
            lan: false,
            replicated: false,
        }
    }

    /// Hosts that make a network when another one does. Without it a test makes each network on each host that is to have it.
    pub fn replicated(mut self) -> Self {
        self.replicated = true;
        self
    }

    /// A host with the engine of another name: `native`, `trixie` or `sid`, as in [`engine::ENGINE`].
    pub fn engine(mut self, at: usize, name: &str) -> Self {
        self.hosts[at].engine = Some(name.to_owned());
        self
    }

    /// Three hosts with three releases of Docker, where the run is one with the newest of them; else all with the engine of the run.
    pub fn of_releases() -> Self {
        let plan = Self::of(3);
        match engine::of_run().as_str() {
            "sid" => plan.engine(0, "native").engine(1, "trixie"),
            _ => plan,
        }
    }

    /// A host with one more flag for its engine.
    pub fn flag(mut self, at: usize, flag: &str) -> Self {
        self.hosts[at].flags.push(flag.to_owned());
        self
    }

    /// A host with one more setting in tombolo's environment, such as `TOMBOLO_LOG`.
    pub fn setting(mut self, at: usize, name: &str, value: &str) -> Self {
        self.hosts[at].settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// All hosts with one more setting.
    pub fn settings(mut self, name: &str, value: &str) -> Self {
        for at in 0..self.hosts.len() {
            self = self.setting(at, name, value);
        }
        self
    }

    /// Wires of another MTU than 1500.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// A second wire, `wire1`, by which no default route goes.
    pub fn second_wire(mut self) -> Self {
        self.wires = 2;
        self
    }

    /// Wires with IPv6 as well.
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Hosts on a [`Lan`] in place of wires.
    pub fn on_lan(mut self) -> Self {
        self.wires = 0;
        self.lan = true;
        self
    }

    /// Makes the hosts and lays the cables; nothing runs on them yet.
    pub fn cabled(mut self) -> Cabled {
        if !self.replicated {
            self = self.settings("TOMBOLO_REPLICATE", "off");
        }
        let wires: Vec<Wire> = (0..self.wires)
            .map(|number| Wire::new(number, self.mtu, self.ipv6))
            .collect();
        // One after the other: an engine root that is missing is then made once, and hosts are quick to make.
        let roots = self.hosts.iter().map(Wanted::root);
        let hosts = roots
            .enumerate()
            .map(|(at, root)| Arc::new(Host::called(&name(at), &root)));
        let hosts: Vec<Arc<Host>> = hosts.collect();
        let lan = self.lan.then(Lan::new);
        for (at, host) in hosts.iter().enumerate() {
            wires.iter().for_each(|wire| wire.plug(host, at));
            lan.iter().for_each(|lan| lan.plug(host, at));
        }
        Cabled {
            wanted: self.hosts,
            hosts,
            wires,
            lan,
        }
    }

    /// Makes the hosts and starts tombolo and an engine on each; they are in no cluster.
    #[track_caller]
    pub fn started(self) -> Sites {
        self.cabled().start(|_| ())
    }

    /// The same in one cluster, with all hosts up.
    #[track_caller]
    pub fn joined(self) -> Sites {
        let sites = self.started();
        sites.join();
        sites
    }
}

impl Wanted {
    fn root(&self) -> PathBuf {
        self.engine.as_deref().map_or_else(engine::root, engine::root_of)
    }
}

/// Hosts on wires, with nothing that runs on them.
#[derive(Debug)]
pub struct Cabled {
    wanted: Vec<Wanted>,
    hosts: Vec<Arc<Host>>,
    wires: Vec<Wire>,
    lan: Option<Lan>,
}

impl Cabled {
    /// The hosts.
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// Starts tombolo and an engine on each host, all at once, and calls `each` for one that is ready.
    #[track_caller]
    pub fn start(self, each: impl Fn(&Site) + Sync) -> Sites {
        let places: Vec<usize> = (0..self.hosts.len()).collect();
        let sites = crate::at_once(&places, |&at| {
            let Wanted { flags, settings, .. } = &self.wanted[at];
            let site = Site::start(&self.hosts[at], flags, settings);
            each(&site);
            site
        });
        Sites {
            sites,
            wires: self.wires,
            lan: self.lan,
        }
    }
}

/// The name of a host by its place: a, b, c, and after z by numbers.
fn name(at: usize) -> String {
    let letter = u8::try_from(at)
        .ok()
        .filter(|&n| n < 26)
        .map(|n| char::from(b'a' + n));
    letter.map_or_else(|| format!("h{at}"), String::from)
}
