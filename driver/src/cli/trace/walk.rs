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

use super::back::doubt;
use super::rules::{Chains, Course};
use super::sight::{Asker, End, Inside, Net, Sight, nic};
use super::story::{Ending, Fate, Hop, Mood, Story};
use super::target::Target;
use super::wire::Leg;
use crate::firewall::{Doubt, Hook, Nic, Packet};
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
    /// The container that sends the packet, and by which link the host has it.
    pub home: Option<Home<'a>>,
    /// By which link it has come in to the host; none for what the host itself made.
    pub came: Option<Leg<'a>>,
    /// What to do where the host's routes lead away from the container that the packet is for.
    pub astray: Option<String>,
}

/// Where a walk begins: in a container.
pub(super) struct Start<'a> {
    pub end: &'a End,
    pub net: &'a Net,
    /// The container's namespace, and which way it would send the packet.
    pub inside: Inside,
    pub way: Way,
}

/// Where answers come home.
#[derive(Clone, Copy)]
pub(super) struct Home<'a> {
    pub end: &'a End,
    pub inside: &'a Inside,
    /// The container's own link.
    pub link: &'a Link,
}

impl Home<'_> {
    pub fn nic(&self) -> Nic {
        nic(self.link)
    }
}

/// Between which ports those are that a sender chooses: Linux takes them up to 60999, others beyond.
const CHOSEN_PORTS: (u16, u16) = (32768, u16::MAX);

impl<'a> Walk<'a> {
    pub fn new(sight: &'a Sight, asker: &'a mut dyn Asker, target: Target) -> Self {
        let mut packet = Packet::new(target.address.is_ipv6());
        packet.to = Some(target.address);
        packet.to_port = target.port;
        packet.layer4 = Some(target.layer4);
        packet.unknown_port = CHOSEN_PORTS;
        Self {
            sight,
            asker,
            hops: Vec::new(),
            doubts: Vec::new(),
            packet,
            path_mtu: None,
            seen_as: None,
            home: None,
            came: None,
            astray: None,
        }
    }

    /// Goes from a container to the end.
    pub fn go_from_container(mut self, start: &'a Start<'a>) -> Story {
        let end = match self.container(start) {
            Ok(end) | Err(end) => end,
        };
        self.story(end)
    }

    pub fn story(self, end: Ending) -> Story {
        let end = end.in_doubt(&self.doubts);
        let mut doubts: Vec<String> = Vec::new();
        for doubt in self.doubts {
            if !doubts.contains(&doubt.text) {
                doubts.push(doubt.text);
            }
        }
        let lost = matches!(end.fate, Fate::Dies | Fate::Unsure);
        Story {
            hops: self.hops,
            path_mtu: self.path_mtu.filter(|_| !lost),
            seen_as: self.seen_as.filter(|_| !lost),
            doubts,
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

    fn container(&mut self, start: &'a Start<'a>) -> Step<Ending> {
        let (end, net, to) = (start.end, start.net, self.to());
        let at = format!("container {}", end.shown());
        let route = match &start.way {
            Way::Route(route) => route,
            Way::None(why, _) => {
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
                self.packet.original = (self.packet.from, self.packet.to, self.packet.to_port);
                self.hop(&at, format!("{to} is its own address"));
                return self.own_address(start, &at);
            }
            RouteKind::Many => {
                let why = format!("{to} is no single host's address; who takes it can't be told");
                return Err(Ending::new(Fate::Unsure, at, why));
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
        let Some(link) = route.oif.and_then(|oif| start.inside.place.link(oif)) else {
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
            let remedy = end.command(&format!("ip link set {} up", link.name));
            return self.dies(at, format!("its link {} is down", link.name), remedy);
        }
        match start.inside.place.neighbour(link.index, hop) {
            Some(entry) if entry.failed() => {
                self.mind(&at, format!("{hop} did not answer when it was last asked for"))
            }
            Some(entry) => {
                let mac = entry.mac.as_deref().unwrap_or("not known yet");
                self.hop(&at, format!("neighbour {hop} is {mac}"));
            }
            None => self.hop(&at, format!("neighbour {hop} is asked for when needed")),
        }
        let home = Home {
            end,
            inside: &start.inside,
            link,
        };
        self.home = Some(home);
        self.own_rules(home, &at)?;
        let leg = self.port(end, net)?;
        self.next_hop(net, leg, hop)
    }

    /// From a container to itself.
    fn own_address(&mut self, start: &'a Start<'a>, at: &str) -> Step<Ending> {
        let lo = start.inside.place.named("lo").map(nic);
        (self.packet.iif, self.packet.oif) = (lo.clone(), lo);
        if let Ok(rules) = &start.inside.rules {
            let (name, mut packet) = (start.end.shown(), self.packet.clone());
            for hook in [Hook::Output, Hook::Postrouting, Hook::Input] {
                let whose = Some((name.as_str(), rules));
                let nats = self.ask(Course::There, whose, Chains::Ip, hook, &mut packet)?;
                self.no_nats(at, nats.len());
            }
        }
        let mute = start.inside.mute[usize::from(self.packet.v6)];
        Ok(self.arrive(Some(start.end), at, mute))
    }

    /// The rules of the container that sends it.
    fn own_rules(&mut self, home: Home<'_>, at: &str) -> Step<()> {
        let rules = match &home.inside.rules {
            Ok(rules) => rules,
            Err(why) => {
                self.doubts
                    .push(doubt(format!("the rules in {at} can't be read: {why}")));
                return Ok(());
            }
        };
        let (name, mut packet) = (home.end.shown(), self.packet.clone());
        packet.oif = Some(home.nic());
        let whose = Some((name.as_str(), rules));
        for hook in [Hook::Output, Hook::Postrouting] {
            let nats = self.ask(Course::There, whose, Chains::Ip, hook, &mut packet)?;
            self.no_nats(at, nats.len());
        }
        let chains = Chains::Link(&home.link.name);
        self.ask(Course::There, whose, chains, Hook::Egress, &mut packet)
            .map(drop)
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
    pub fn port(&mut self, end: &End, net: &Net) -> Step<Leg<'a>> {
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
            return self.dies(at, "it is down", format!("ip link set {name} up"));
        }
        let join = format!("ip link set {name} master {}", net.bridge);
        let Some(bridge) = link.master.and_then(|master| sight.host.link(master)) else {
            return self.dies(at, "it is on no bridge", join);
        };
        if bridge.name != net.bridge {
            return self.dies(
                at,
                format!(
                    "it is on {}, not on the network's bridge {}",
                    bridge.name, net.bridge
                ),
                join,
            );
        }
        if !bridge.up {
            return self.dies(
                format!("bridge {}", bridge.name),
                "it is down",
                format!("ip link set {} up", bridge.name),
            );
        }
        if !link.carrier {
            let remedy = end.command("ip link set LINK up");
            let why = "the container's end of it is down";
            return self.dies(
                at,
                why,
                format!("{remedy}, where `ip link` shows the LINK that is down"),
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
                format!("bridge link set dev {name} state {FORWARDING}"),
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
        Ok(Leg {
            link: bridge,
            port: Some(link),
        })
    }

    /// Who answers for the next hop on the network's wire: this host, another container, somebody else, or nobody.
    fn next_hop(&mut self, net: &Net, leg: Leg<'a>, hop: IpAddr) -> Step<Ending> {
        let sight = self.sight;
        if self.host_answers(leg.link, hop)? {
            return self.enter(leg);
        }
        let Some(other) = sight.owner(net, hop) else {
            let ending = self.somebody(net, leg.link, hop)?;
            let port = sight.only_other_port(leg.link);
            let isolated =
                |port: Option<&Link>| port.and_then(|link| link.port).is_some_and(|port| port.isolated);
            if isolated(leg.port) && (port.is_none() || isolated(port)) {
                let why =
                    format!("the container's port is isolated, and whether that of {hop} is can't be told");
                return Err(Ending::new(Fate::Unsure, ending.at, why));
            }
            let mut packet = self.packet.clone();
            self.across(Course::There, leg, port, &mut packet)?;
            self.seen_as = packet.from;
            return Ok(ending);
        };
        self.frame(leg, other)?;
        let there = self.port(other, net)?;
        let mut packet = self.packet.clone();
        self.across(Course::There, leg, there.port, &mut packet)?;
        let (ending, back) = self.receive(other, there)?;
        let mut answer = self.answer();
        if back.link.index != leg.link.index {
            self.doubts.push(doubt(format!(
                "the answers of container {}, which take another way than the packet",
                other.shown()
            )));
            return Ok(ending);
        }
        self.across(Course::Back, back, leg.port, &mut answer)?;
        self.comes_home(answer)?;
        Ok(ending)
    }

    /// Whether the host answers for an address on a bridge. For IPv4 Linux answers for all that it has, on whichever link.
    fn host_answers(&mut self, bridge: &Link, hop: IpAddr) -> Step<bool> {
        let mut addresses = self.sight.host.addresses.iter();
        if addresses.any(|address| address.index == bridge.index && address.net.addr() == hop) {
            return Ok(true);
        }
        let query = Query {
            to: hop,
            from: None,
            iif: None,
            mark: 0,
        };
        let own =
            matches!(self.asker.way(None, query), Ok(Way::Route(route)) if route.kind == RouteKind::Local);
        if hop.is_ipv6() || !own {
            return Ok(false);
        }
        let mut ignores = |whose: &str| self.asker.setting(&format!("ipv4/conf/{whose}/arp_ignore"));
        match (ignores("all"), ignores(&bridge.name)) {
            (Some(0), Some(0)) => {
                let what = format!("this host answers for {hop}, which another link of it has");
                self.hop(format!("bridge {}", bridge.name), what);
                Ok(true)
            }
            _ => {
                let why = format!(
                    "another link of this host has {hop}; whether it answers here (arp_ignore) can't be told"
                );
                Err(Ending::new(Fate::Unsure, format!("bridge {}", bridge.name), why))
            }
        }
    }

    /// Whether somebody who is no container of ours has an address on a network's bridge: he is asked for, as anybody is.
    pub fn somebody(&mut self, net: &Net, bridge: &Link, hop: IpAddr) -> Step<Ending> {
        let at = format!("bridge {}", bridge.name);
        let unsure = |why: String| Err(Ending::new(Fate::Unsure, at.clone(), why));
        match self.asker.answers(bridge, hop) {
            Some(true) => {}
            None => return unsure(format!("whether anybody has {hop} there can't be told")),
            Some(false) => return self.nobody(net, bridge, hop),
        }
        let mac = self.asker.mac(bridge, hop);
        let container = self
            .sight
            .endpoints
            .iter()
            .any(|end| Some(end.mac.as_str()) == mac.as_deref());
        if container || self.sight.other_ports(bridge).next().is_none() {
            return unsure(format!(
                "somebody answers for {hop} there whom tombolo does not know"
            ));
        }
        self.hop(
            &at,
            format!("{hop} answers there, which is no container of tombolo's"),
        );
        let why = match hop == self.to() {
            true => format!("{hop} is reached there; whether it answers can't be seen from here"),
            false => format!("{hop} takes it on; what is beyond can't be seen from here"),
        };
        Ok(Ending::new(Fate::Leaves, at, why))
    }

    fn nobody(&mut self, net: &Net, bridge: &Link, hop: IpAddr) -> Step<Ending> {
        let at = format!("bridge {}", bridge.name);
        let family = if hop.is_ipv6() { "ipv6" } else { "ipv4" };
        let proxy = if hop.is_ipv6() { "proxy_ndp" } else { "proxy_arp" };
        let answers_for_others = ["all", bridge.name.as_str()]
            .iter()
            .any(|whose| self.asker.setting(&format!("{family}/conf/{whose}/{proxy}")) != Some(0));
        if answers_for_others {
            let why = format!("the host may answer for {hop} there in somebody else's place ({proxy})");
            return Err(Ending::new(Fate::Unsure, at, why));
        }
        let remedy = if net.gateways.contains(&hop) {
            "the bridge lacks the gateway's address, which `tombolo doctor --repair` gives it back unless the network was made with inhibit_ipv4".to_owned()
        } else if hop != self.to() {
            format!(
                "the network's router {hop} is another machine; see whether it is on, and on a port of {}",
                bridge.name
            )
        } else {
            format!("`tombolo endpoints` shows who is on network {}", net.shown())
        };
        self.dies(at, format!("nobody on network {} has {hop}", net.shown()), remedy)
    }

    /// From one port of a bridge to another.
    pub fn frame(&mut self, from: Leg<'_>, other: &End) -> Step<()> {
        let at = format!("bridge {}", from.link.name);
        let name = other.host_link.as_deref();
        let to = name.and_then(|name| self.sight.host.named(name));
        let isolated =
            |link: Option<&Link>| link.and_then(|link| link.port).is_some_and(|port| port.isolated);
        if isolated(from.port) && isolated(to) {
            let remedy = "the network lets its containers speak to the outside only (icc=false): publish the port, or use another network";
            return self.dies(at, "both ports are isolated from one another", remedy);
        }
        self.hop(&at, format!("straight to container {}", other.shown()));
        Ok(())
    }

    /// Asks which way the host sends a packet.
    pub fn way(&mut self, query: Query) -> Step<Way> {
        let asked = self.asker.way(None, query);
        asked.map_err(|why| Ending::new(Fate::Unsure, "host", format!("its routes can't be asked: {why}")))
    }

    /// It has reached a container or the host; does anybody listen?
    pub fn arrive(&mut self, whose: Option<&End>, at: &str, mute: bool) -> Ending {
        self.seen_as = self.seen_as.or(self.packet.from);
        let (Some(port), Some(layer4)) = (self.packet.to_port, self.packet.layer4) else {
            if mute {
                let why = "it answers no pings (icmp_echo_ignore_all, echo_ignore_all)";
                let remedy = "ask for a port, or let it answer pings";
                self.say(at, Mood::Dies, why, Vec::new());
                return Ending::dies(at, why, remedy);
            }
            return Ending::new(Fate::Arrives, at, "it answers pings itself");
        };
        let name = layer4.name(self.packet.v6);
        match self.asker.listens(whose, layer4, self.to(), port) {
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
        }
    }
}
