//! A packet's way from a container: its own namespace, its link, the bridge; then the host, see [`super::host`].
//!
//! ```text
//!   container ── link ── port ── bridge ─┬─ another port ── another container
//!                                        └─ host (prerouting, route, forward, postrouting) ── …
//! ```
//!
//! Each function takes the packet one place further. What ends its way is the error of a step, arriving as well as dying:
//! so a `?` reads "if it still goes on".

use std::net::IpAddr;

use super::sight::{Asker, End, Net, Place, Sight, nic};
use super::story::{Ending, Fate, Hop, Mood, Story};
use super::target::Target;
use crate::firewall::{Doubt, Hook, Packet};
use crate::kernel::look::{FORWARDING, Link, Query, RouteKind, Way};

/// Goes on with a value, or has come to an end.
pub(super) type Step<T> = Result<T, Ending>;

/// The walk.
pub(super) struct Walk<'a> {
    pub sight: &'a Sight,
    pub asker: &'a mut dyn Asker,
    pub hops: Vec<Hop>,
    pub doubts: Vec<Doubt>,
    pub packet: Packet,
    pub path_mtu: Option<u32>,
    pub seen_as: Option<IpAddr>,
}

/// Where a walk begins: in a container.
pub(super) struct Start<'a> {
    pub end: &'a End,
    pub net: &'a Net,
    /// The container's namespace, and which way it would send the packet.
    pub inside: Place,
    pub way: Way,
}

impl<'a> Walk<'a> {
    pub fn new(sight: &'a Sight, asker: &'a mut dyn Asker, target: Target) -> Self {
        let mut packet = Packet::new(target.address.is_ipv6());
        packet.to = Some(target.address);
        packet.to_port = target.port;
        packet.layer4 = Some(target.layer4);
        Self {
            sight,
            asker,
            hops: Vec::new(),
            doubts: Vec::new(),
            packet,
            path_mtu: None,
            seen_as: None,
        }
    }

    /// Goes from a container to the end.
    pub fn go_from_container(mut self, start: &Start<'_>) -> Story {
        let end = match self.container(start) {
            Ok(end) | Err(end) => end,
        };
        self.story(end)
    }

    pub fn story(self, end: Ending) -> Story {
        let end = end.in_doubt(&self.doubts);
        let lost = matches!(end.fate, Fate::Dies | Fate::Unsure);
        Story {
            hops: self.hops,
            path_mtu: self.path_mtu.filter(|_| !lost),
            seen_as: self.seen_as.filter(|_| !lost),
            doubts: self.doubts.into_iter().map(|doubt| doubt.text).collect(),
            end,
        }
    }

    pub fn hop(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.say(at, Mood::Goes, what, Vec::new());
    }

    pub fn mind(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.say(at, Mood::Mind, what, Vec::new());
    }

    pub fn say(&mut self, at: impl Into<String>, mood: Mood, what: impl Into<String>, rules: Vec<String>) {
        self.hops.push(Hop {
            at: at.into(),
            mood,
            what: what.into(),
            rules,
        });
    }

    /// It dies here.
    pub fn dies<T>(
        &mut self,
        at: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Step<T> {
        let (at, why) = (at.into(), why.into());
        self.say(&at, Mood::Dies, &why, Vec::new());
        Err(Ending::dies(at, why, remedy))
    }

    /// Where the packet goes now.
    pub fn to(&self) -> IpAddr {
        // A walk begins with a destination, and no translation takes it away.
        self.packet.to.unwrap_or(IpAddr::from([0, 0, 0, 0]))
    }

    pub fn narrow(&mut self, mtu: u32) {
        self.path_mtu = Some(self.path_mtu.map_or(mtu, |known| known.min(mtu)));
    }

    fn container(&mut self, start: &Start<'_>) -> Step<Ending> {
        let (end, net, to) = (start.end, start.net, self.to());
        let at = format!("container {}", end.shown());
        let route = match &start.way {
            Way::Route(route) => route,
            Way::None(why) => {
                let family = if to.is_ipv6() { "IPv6" } else { "IPv4" };
                let has = end.addresses.iter().any(|a| a.is_ipv6() == to.is_ipv6());
                let remedy = match (has, net.internal) {
                    (false, _) => {
                        format!("give the network {family} addresses (it has none), or use the other family")
                    }
                    (true, true) => format!(
                        "network {} is internal and has no way out; put the container on another one as well",
                        net.shown()
                    ),
                    (true, false) => {
                        "see `ip route` in the container; what runs in it may have changed it".to_owned()
                    }
                };
                return self.dies(at, format!("no route to {to}: {why}"), remedy);
            }
        };
        match route.kind {
            RouteKind::Local => {
                self.packet.from = route.source.or(Some(to));
                self.hop(&at, format!("{to} is its own address"));
                return self.arrive(end.sandbox.as_deref(), &at);
            }
            RouteKind::Refused => {
                return self.dies(
                    at,
                    format!("a route of its own refuses {to}"),
                    "see `ip route` in the container",
                );
            }
            _ => {}
        }
        let Some(link) = route.oif.and_then(|oif| start.inside.link(oif)) else {
            return Err(Ending::new(
                Fate::Unsure,
                at,
                "its route leads to a link that is not there",
            ));
        };
        let (end, net) = self.sender(start, link)?;
        self.packet.from = route.source.or(end
            .addresses
            .iter()
            .copied()
            .find(|a| a.is_ipv6() == to.is_ipv6()));
        self.packet.original = (self.packet.from, self.packet.to, self.packet.to_port);
        self.narrow(route.mtu.unwrap_or(link.mtu));
        let hop = route.gateway.unwrap_or(to);
        let via = route
            .gateway
            .map(|gateway| format!(" by {gateway}"))
            .unwrap_or_default();
        let from = self
            .packet
            .from
            .map(|from| format!(" from {from}"))
            .unwrap_or_default();
        self.hop(
            &at,
            format!(
                "its route leads{via} through {} (MTU {}){from}",
                link.name, link.mtu
            ),
        );
        if !link.up {
            return self.dies(
                at,
                format!("its link {} is down", link.name),
                format!("ip link set {} up, in the container", link.name),
            );
        }
        let known = start.inside.neighbour(link.index, hop);
        match known {
            Some(entry) if entry.failed() => {
                self.mind(&at, format!("{hop} did not answer when it was last asked for"))
            }
            Some(entry) => {
                let mac = entry.mac.as_deref().unwrap_or("not known yet");
                self.hop(&at, format!("neighbour {hop} is {mac}"));
            }
            None => self.hop(&at, format!("neighbour {hop} is asked for when needed")),
        }
        let answered = known.is_some_and(|entry| !entry.failed() && !entry.asked());
        let bridge = self.port(end, net)?;
        self.next_hop(end, net, bridge, hop, answered)
    }

    /// Whose link a container sends by: it may be on several networks.
    fn sender<'s>(&mut self, start: &Start<'s>, link: &Link) -> Step<(&'s End, &'s Net)>
    where
        'a: 's,
    {
        if link.mac.as_deref() == Some(start.end.mac.as_str()) {
            return Ok((start.end, start.net));
        }
        let at = format!("container {}", start.end.shown());
        let same =
            |end: &&End| end.sandbox == start.end.sandbox && Some(end.mac.as_str()) == link.mac.as_deref();
        let other = self.sight.endpoints.iter().find(same);
        match other.and_then(|end| Some((end, self.sight.network(&end.network)?))) {
            Some((end, net)) => {
                let what = format!(
                    "it sends this by network {}, not by {}",
                    net.shown(),
                    start.net.shown()
                );
                self.mind(at, what);
                Ok((end, net))
            }
            None => {
                let why = format!(
                    "it sends this by {}, which is not tombolo's; what becomes of it there is not known",
                    link.name
                );
                Err(Ending::new(Fate::Unsure, at, why))
            }
        }
    }

    /// The host's end of a container's link, and its bridge.
    pub fn port(&mut self, end: &End, net: &Net) -> Step<&'a Link> {
        const REPAIR: &str = "tombolo doctor --repair";
        let name = end.host_link.clone().unwrap_or_default();
        let at = format!("port {name}");
        let sight = self.sight;
        let Some(link) = sight.host.named(&name) else {
            return self.dies(
                at,
                "the host's end of the container's link is not there",
                "restart the container",
            );
        };
        if !link.up {
            return self.dies(at, "it is down", REPAIR);
        }
        let Some(bridge) = link.master.and_then(|master| sight.host.link(master)) else {
            return self.dies(at, "it is on no bridge", REPAIR);
        };
        if bridge.name != net.bridge {
            return self.dies(
                at,
                format!(
                    "it is on {}, not on the network's bridge {}",
                    bridge.name, net.bridge
                ),
                REPAIR,
            );
        }
        let port = link.port.unwrap_or_default();
        if port.state != FORWARDING {
            return self.dies(
                at,
                format!(
                    "the bridge does not forward for it (state {}, and not {FORWARDING})",
                    port.state
                ),
                REPAIR,
            );
        }
        self.narrow(link.mtu);
        let isolated = if port.isolated { ", isolated" } else { "" };
        self.hop(
            at,
            format!(
                "up, on bridge {}, forwarding{isolated} (MTU {})",
                bridge.name, link.mtu
            ),
        );
        if !bridge.up {
            return self.dies(format!("bridge {}", bridge.name), "it is down", REPAIR);
        }
        Ok(bridge)
    }

    /// Who answers for the next hop on the network's wire: this host, another container, or nobody.
    fn next_hop(&mut self, end: &End, net: &Net, bridge: &Link, hop: IpAddr, answered: bool) -> Step<Ending> {
        let hosts = |address: &&crate::kernel::look::Address| {
            address.index == bridge.index && address.net.addr() == hop
        };
        if self.sight.host.addresses.iter().any(|address| hosts(&address)) {
            self.packet.iif = Some(nic(bridge));
            return self.enter(bridge);
        }
        let at = format!("bridge {}", bridge.name);
        let Some(other) = self.sight.owner(net, hop) else {
            if answered {
                let why = format!("somebody answers for {hop} there whom tombolo does not know");
                return Err(Ending::new(Fate::Unsure, at, why));
            }
            let gateway = hop != self.to();
            let remedy = match gateway {
                true => "the bridge lacks the gateway's address: tombolo doctor --repair".to_owned(),
                false => format!("`tombolo endpoints` shows who is on network {}", net.shown()),
            };
            return self.dies(at, format!("nobody on network {} has {hop}", net.shown()), remedy);
        };
        self.frame(end, other, bridge)?;
        self.port(other, net)?;
        self.arrive(other.sandbox.as_deref(), &format!("container {}", other.shown()))
    }

    /// From one port of a bridge to another.
    fn frame(&mut self, end: &End, other: &End, bridge: &Link) -> Step<()> {
        let at = format!("bridge {}", bridge.name);
        let port = |end: &End| {
            end.host_link
                .as_ref()
                .and_then(|name| self.sight.host.named(name))
        };
        let isolated =
            |link: Option<&Link>| link.and_then(|link| link.port).is_some_and(|port| port.isolated);
        let (from, to) = (port(end), port(other));
        if isolated(from) && isolated(to) {
            let remedy = "the network lets its containers speak to the outside only (icc=false): publish the port, or use another network";
            return self.dies(at, "both ports are isolated from one another", remedy);
        }
        self.hop(&at, format!("straight to container {}", other.shown()));
        // The bridge's own chains see the ports' names.
        let mut framed = self.packet.clone();
        (framed.iif, framed.oif) = (from.map(nic), to.map(nic));
        for hook in [Hook::Prerouting, Hook::Forward, Hook::Postrouting] {
            let seen = self.sight.rules.pass_bridge(hook, &mut framed);
            self.told(hook, &seen)?;
        }
        if self.sight.bridge_calls[usize::from(self.packet.v6)] {
            self.mind(
                &at,
                "frames pass the IP rules too (net.bridge.bridge-nf-call-iptables)",
            );
            (self.packet.iif, self.packet.oif) = (Some(nic(bridge)), None);
            self.pass(Hook::Prerouting)?;
            self.packet.oif = Some(nic(bridge));
            self.pass(Hook::Forward)?;
            self.pass(Hook::Postrouting)?;
        }
        Ok(())
    }

    /// Asks which way the host sends the packet.
    pub fn way(&mut self, iif: Option<u32>, from: Option<IpAddr>) -> Step<Way> {
        let query = Query {
            to: self.to(),
            from,
            iif,
            mark: self.packet.mark,
        };
        let asked = self.asker.way(query);
        asked.map_err(|why| Ending::new(Fate::Unsure, "host", format!("its routes can't be asked: {why}")))
    }

    /// It has reached a container or the host; does anybody listen?
    pub fn arrive(&mut self, sandbox: Option<&str>, at: &str) -> Step<Ending> {
        self.seen_as = self.seen_as.or(self.packet.from);
        let (Some(port), Some(layer4)) = (self.packet.to_port, self.packet.layer4) else {
            return Ok(Ending::new(Fate::Arrives, at, "it answers pings itself"));
        };
        let name = layer4.name(self.packet.v6);
        Ok(match self.asker.listens(sandbox, layer4, self.to(), port) {
            Some(true) => Ending::new(
                Fate::Arrives,
                at,
                format!("somebody listens on port {port}/{name}"),
            ),
            None => Ending::new(
                Fate::Arrives,
                at,
                format!("whether anybody listens on port {port}/{name} can't be told"),
            ),
            Some(false) => Ending {
                remedy: Some(
                    "start what should listen there, on this address or on all (0.0.0.0, ::)".to_owned(),
                ),
                ..Ending::new(Fate::Refused, at, format!("nobody listens on port {port}/{name}"))
            },
        })
    }
}
