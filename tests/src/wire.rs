//! A wire between hosts: a bridge in a namespace of its own, with a cable to each host that can be cut or be made to lose
//! what goes from some hosts to others.

use std::ops::Deref;

use crate::host::Host;
use crate::spaces::Spaces;

/// The last part of the wire's own address, the hosts' default route.
const OWN: usize = 254;

/// The bridge, and the table of rules that lose packets, in the wire's namespace.
const BRIDGE: &str = "br0";
const TABLE: &str = "lab";

/// A wire: hosts on it have the addresses 10.200.0.1 and fd00:200::1 and so on; those on the second one 10.201.0.1.
#[derive(Debug)]
pub struct Wire {
    spaces: Spaces,
    number: usize,
    mtu: Option<u32>,
    ipv6: bool,
}

/// The namespace with the bridge.
impl Deref for Wire {
    type Target = Spaces;
    fn deref(&self) -> &Spaces {
        &self.spaces
    }
}

impl Wire {
    /// A wire by its number, with another MTU than usual if one is given, and with IPv6 where it is wanted.
    pub fn new(number: usize, mtu: Option<u32>, ipv6: bool) -> Self {
        let wire = Self {
            spaces: Spaces::new_network(),
            number,
            mtu,
            ipv6,
        };
        wire.ip(&["link", "add", BRIDGE, "type", "bridge"]);
        wire.address(&wire.spaces, BRIDGE, OWN);
        wire.ip(&["link", "set", BRIDGE, "up"]);
        wire
    }

    /// What the hosts call it.
    pub fn link(&self) -> String {
        format!("wire{}", self.number)
    }

    /// The IPv4 address of a host on it, by the host's place among all.
    pub fn ipv4(&self, at: usize) -> String {
        format!("10.20{}.0.{}", self.number, at + 1)
    }

    /// The IPv6 address of a host on it.
    pub fn ipv6(&self, at: usize) -> String {
        format!("fd00:20{}::{}", self.number, at + 1)
    }

    /// Lays a cable to a host that has none to this wire; over the first wire it gets its default routes.
    pub fn plug(&self, host: &Host, at: usize) {
        let (port, link, holder) = (port(at), self.link(), host.holder_pid().to_string());
        self.ip(&[
            "link", "add", &port, "type", "veth", "peer", "name", &link, "netns", &holder,
        ]);
        if let Some(mtu) = self.mtu {
            let mtu = mtu.to_string();
            self.ip(&["link", "set", &port, "mtu", &mtu]);
            host.run("ip", &["link", "set", &link, "mtu", &mtu]);
        }
        self.ip(&["link", "set", &port, "master", BRIDGE, "up"]);
        self.address(host.spaces(), &link, at + 1);
        host.run("ip", &["link", "set", &link, "up"]);
        if self.number == 0 {
            host.run("ip", &["route", "add", "default", "via", &self.ipv4(OWN - 1)]);
            if self.ipv6 {
                host.run("ip", &["route", "add", "default", "via", &self.ipv6(OWN - 1)]);
            }
        }
    }

    /// Takes a host's end of the cable away; what the host had by it is gone with the link.
    pub fn unplug(&self, at: usize) {
        self.ip(&["link", "delete", &port(at)]);
    }

    /// Cuts a host's cable: its link stays, without a carrier.
    pub fn cut(&self, at: usize) {
        self.ip(&["link", "set", &port(at), "down"]);
    }

    /// Mends a host's cable.
    pub fn mend(&self, at: usize) {
        self.ip(&["link", "set", &port(at), "up"]);
    }

    /// Carries nothing more between two groups of hosts, whose links notice nothing.
    pub fn part(&self, ones: &[usize], others: &[usize]) {
        self.lose(ones, others);
        self.lose(others, ones);
    }

    /// Carries nothing more from these hosts to those; the other way it does.
    pub fn lose(&self, from: &[usize], to: &[usize]) {
        let set = |hosts: &[usize]| {
            let ports: Vec<String> = hosts.iter().map(|&at| format!("\"{}\"", port(at))).collect();
            ports.join(", ")
        };
        let rule = format!("iifname {{ {} }} oifname {{ {} }} drop", set(from), set(to));
        self.rule(&rule);
    }

    /// Judges what goes from host to host by one more rule of nft.
    pub fn rule(&self, rule: &str) {
        let chain = format!("bridge {TABLE} lose");
        let hook = "{ type filter hook forward priority 0; }";
        let text = format!("add table bridge {TABLE}; add chain {chain} {hook}; add rule {chain} {rule}");
        self.spaces.run("nft", &[&text]);
    }

    /// Carries everything again; cut cables stay cut.
    pub fn heal(&self) {
        // Deleting a table that isn't there is an error; adding one that is there is none.
        self.spaces.run(
            "nft",
            &[&format!("add table bridge {TABLE}; delete table bridge {TABLE}")],
        );
    }

    fn address(&self, place: &Spaces, link: &str, last: usize) {
        let mut addresses = vec![format!("{}/24", self.ipv4(last - 1))];
        if self.ipv6 {
            addresses.push(format!("{}/64", self.ipv6(last - 1)));
        }
        for address in addresses {
            // Without duplicate address detection, which would take a second.
            place.run("ip", &["address", "add", &address, "dev", link, "nodad"]);
        }
    }

    fn ip(&self, args: &[&str]) {
        self.spaces.run("ip", args);
    }
}

/// The wire's end of a host's cable.
fn port(at: usize) -> String {
    format!("h{at}")
}
