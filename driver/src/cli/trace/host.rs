//! A packet's way through the host, whoever sent it.
//!
//! ```text
//!   in ── prerouting ── route ─┬─ input ── a process of the host
//!                              └─ forward ── postrouting ─┬─ a container of ours
//!   the host itself ── output ── route ───────────────────┴─ a link, and the next router
//! ```

use std::net::IpAddr;

use super::sight::nic;
use super::story::{Ending, Fate, Story};
use super::walk::{Step, Walk};
use crate::firewall::{Hook, Nat, State};
use crate::kernel::look::{Link, Query, Route, RouteKind, Way};

impl Walk<'_> {
    /// Goes from somebody outside, or from this host, to the end.
    pub fn go_from_address(mut self, from: IpAddr) -> Story {
        self.packet.from = Some(from);
        self.packet.original = (self.packet.from, self.packet.to, self.packet.to_port);
        let end = match self.outside(from) {
            Ok(end) | Err(end) => end,
        };
        self.story(end)
    }

    fn outside(&mut self, from: IpAddr) -> Step<Ending> {
        let query = Query {
            to: from,
            from: None,
            iif: None,
            mark: 0,
        };
        let back = self.asker.way(query).unwrap_or_else(Way::None);
        let route = match back {
            Way::Route(route) => route,
            Way::None(why) => {
                let why = format!("this host has no route to {from}, so no answer would reach it: {why}");
                return self.dies("host", why, "see `ip route`");
            }
        };
        if route.kind == RouteKind::Local {
            self.hop("host", format!("made on this host, from {from}"));
            return self.made_here();
        }
        let sight = self.sight;
        let Some(link) = route.oif.and_then(|oif| sight.host.link(oif)) else {
            return Err(Ending::new(
                Fate::Unsure,
                "host",
                format!("by which link {from} would come in is not known"),
            ));
        };
        self.narrow(link.mtu);
        self.hop(
            format!("link {}", link.name),
            format!("{from} is expected to come in by it (MTU {})", link.mtu),
        );
        self.enter(link)
    }

    /// What sort of address the packet goes to.
    fn judge_address(&mut self) -> Step<()> {
        let query = Query {
            to: self.to(),
            from: None,
            iif: None,
            mark: 0,
        };
        let way = self.asker.way(query);
        self.packet.to_type = match way {
            Ok(Way::Route(route)) => Some(match route.kind {
                RouteKind::Local => "local",
                RouteKind::Many => "broadcast",
                _ => "unicast",
            }),
            Ok(Way::None(_)) => Some("unicast"),
            Err(_) => None,
        };
        Ok(())
    }

    /// It has come in by a link.
    pub fn enter(&mut self, link: &Link) -> Step<Ending> {
        self.packet.iif = Some(nic(link));
        let before = (self.packet.to, self.packet.to_port);
        self.judge_address()?;
        let nats = self.pass(Hook::Prerouting)?;
        self.tell_destination(&nats, before)?;
        let from = self.packet.from;
        let route = match self.way(Some(link.index), from)? {
            Way::Route(route) => route,
            Way::None(why) => return self.no_way(link, &why),
        };
        match route.kind {
            RouteKind::Local => self.input(),
            RouteKind::Unicast => self.forward(link, &route),
            RouteKind::Many => Err(Ending::new(
                Fate::Unsure,
                "host",
                format!("{} is no single host's address", self.to()),
            )),
            RouteKind::Refused | RouteKind::Other => {
                let why = format!("a route of the host refuses {}", self.to());
                self.dies("host", why, format!("see `ip route get {}`", self.to()))
            }
        }
    }

    fn tell_destination(&mut self, nats: &[Nat], before: (Option<IpAddr>, Option<u16>)) -> Step<()> {
        let Some(nat) = nats
            .iter()
            .find(|nat| matches!(nat, Nat::To(..) | Nat::Redirect(_)))
        else {
            return Ok(());
        };
        if let Nat::Redirect(_) = nat {
            self.hop("host", "a rule redirects it to this host itself");
            return Ok(());
        }
        let whose = match self.sight.anybody(self.to()) {
            Some(end) => format!("container {}", end.shown()),
            None => "somebody who is on no network of tombolo's".to_owned(),
        };
        let port = |port: Option<u16>| port.map(|port| format!(" port {port}")).unwrap_or_default();
        let (address, old) = before;
        let published = format!(
            "{}{} is published: it goes to {whose}, {}{}",
            address.map(|a| a.to_string()).unwrap_or_default(),
            port(old),
            self.to(),
            port(self.packet.to_port)
        );
        self.hop("host", published);
        Ok(())
    }

    fn no_way<T>(&mut self, link: &Link, why: &str) -> Step<T> {
        let (to, v6) = (self.to(), self.packet.v6);
        if !self.sight.forwards[usize::from(v6)] {
            return self.not_forwarding(v6);
        }
        if to.is_loopback() {
            let why = format!(
                "{to} is for this host alone; what comes in by {} for it goes no further",
                link.name
            );
            return self.dies("host", why, "publish the port on another address");
        }
        self.dies(
            "host",
            format!("no route to {to} for what comes in by {}: {why}", link.name),
            format!("see `ip route get {to}`"),
        )
    }

    fn not_forwarding<T>(&mut self, v6: bool) -> Step<T> {
        let setting = if v6 {
            "net.ipv6.conf.all.forwarding"
        } else {
            "net.ipv4.ip_forward"
        };
        self.dies(
            "host",
            format!("this host forwards nothing: {setting} is 0"),
            format!("sysctl -w {setting}=1"),
        )
    }

    /// For a process of the host.
    fn input(&mut self) -> Step<Ending> {
        self.hop("host", format!("{} is this host's own address", self.to()));
        self.pass(Hook::Input)?;
        let mut answer = self.answer();
        answer.oif = answer.iif.take();
        self.answered(Hook::Output, &mut answer)?;
        self.arrive(None, "host")
    }

    /// Made by this host itself.
    fn made_here(&mut self) -> Step<Ending> {
        let before = (self.packet.to, self.packet.to_port);
        self.judge_address()?;
        if let Way::Route(route) = self.way(None, None)? {
            self.packet.oif = route.oif.and_then(|oif| self.sight.host.link(oif)).map(nic);
        }
        let nats = self.pass(Hook::Output)?;
        self.tell_destination(&nats, before)?;
        let sight = self.sight;
        let route = match self.way(None, None)? {
            Way::Route(route) => route,
            Way::None(why) => {
                let to = self.to();
                return self.dies("host", format!("no route to {to}: {why}"), "see `ip route`");
            }
        };
        let link = route.oif.and_then(|oif| sight.host.link(oif));
        match (route.kind, link) {
            (RouteKind::Local, _) => {
                self.packet.iif = sight.host.named("lo").map(nic);
                self.packet.oif = None;
                self.pass(Hook::Input)?;
                self.arrive(None, "host")
            }
            (RouteKind::Unicast, Some(link)) => {
                self.packet.oif = Some(nic(link));
                self.leave(&route, link)
            }
            _ => Err(Ending::new(
                Fate::Unsure,
                "host",
                format!("its route to {} leads nowhere known", self.to()),
            )),
        }
    }

    /// From one link to another.
    fn forward(&mut self, iif: &Link, route: &Route) -> Step<Ending> {
        let sight = self.sight;
        if !sight.forwards[usize::from(self.packet.v6)] {
            return self.not_forwarding(self.packet.v6);
        }
        let Some(oif) = route.oif.and_then(|oif| sight.host.link(oif)) else {
            return Err(Ending::new(
                Fate::Unsure,
                "host",
                "its route leads to a link that is not there",
            ));
        };
        let via = route
            .gateway
            .map(|gateway| format!(" by {gateway}"))
            .unwrap_or_default();
        self.hop(
            "host",
            format!("its route to {} leads{via} through {}", self.to(), oif.name),
        );
        self.packet.oif = Some(nic(oif));
        self.pass(Hook::Forward)?;
        // Answers take the same way back; what drops them ends the conversation as surely.
        let mut answer = self.answer();
        std::mem::swap(&mut answer.iif, &mut answer.oif);
        self.answered(Hook::Forward, &mut answer)?;
        self.packet.iif = Some(nic(iif));
        self.leave(route, oif)
    }

    /// An answer to the packet, as it comes back to where it is now.
    fn answer(&self) -> crate::firewall::Packet {
        let mut answer = self.packet.clone();
        std::mem::swap(&mut answer.from, &mut answer.to);
        std::mem::swap(&mut answer.from_port, &mut answer.to_port);
        answer.state = State::Established;
        answer.mark = 0;
        answer.to_type = Some("unicast");
        answer
    }

    fn answered(&mut self, hook: Hook, answer: &mut crate::firewall::Packet) -> Step<()> {
        let seen = self.sight.rules.pass(hook, answer);
        let Some(stop) = seen.iter().find(|seen| seen.stops()) else {
            return Ok(());
        };
        let by = stop
            .by
            .as_ref()
            .map_or_else(|| "by its policy".to_owned(), |by| format!("by `{}`", by.text));
        let at = format!("{hook}: {}", stop.chain);
        let remedy = format!("chain {} must accept `ct state established`", stop.chain);
        self.dies(at, format!("the answers are dropped {by}"), remedy)
    }

    /// It leaves by a link: to a container of ours, or to the next hop.
    fn leave(&mut self, route: &Route, oif: &Link) -> Step<Ending> {
        let sight = self.sight;
        let hop = route.gateway.unwrap_or(self.to());
        self.narrow(route.mtu.unwrap_or(oif.mtu).min(oif.mtu));
        let sender = self.packet.from;
        let nats = self.pass(Hook::Postrouting)?;
        for nat in &nats {
            self.packet.from = match nat {
                Nat::Masquerade => sight.host.masquerade(oif.index, hop).or(route.source),
                Nat::From(address) => *address,
                _ => self.packet.from,
            };
        }
        self.seen_as = self.packet.from;
        if let Some(address) = self.packet.from.filter(|_| self.packet.from != sender) {
            self.hop("host", format!("its source becomes {address}"));
        }
        if let Some(net) = sight.network_of(oif) {
            let Some(end) = sight.owner(net, hop) else {
                let why = format!("nobody on network {} has {hop}", net.shown());
                return self.dies(
                    format!("bridge {}", oif.name),
                    why,
                    "`tombolo endpoints` shows who is there",
                );
            };
            self.port(end, net)?;
            return self.arrive(end.sandbox.as_deref(), &format!("container {}", end.shown()));
        }
        self.away(oif, hop, route.gateway.is_some(), self.packet.from == sender)
    }

    /// It leaves by a link that is not ours.
    fn away(&mut self, oif: &Link, hop: IpAddr, routed: bool, kept: bool) -> Step<Ending> {
        let at = format!("link {}", oif.name);
        if !oif.up || !oif.carrier {
            let state = if oif.up {
                "has nothing on its other end"
            } else {
                "is down"
            };
            return self.dies(
                at,
                format!("it {state}"),
                format!("see `ip link show {}`", oif.name),
            );
        }
        match self.asker.answers(oif, hop) {
            Some(true) => self.hop(&at, format!("{hop} answers there (MTU {})", oif.mtu)),
            None => self.hop(&at, format!("it leaves for {hop} (MTU {})", oif.mtu)),
            Some(false) => {
                let remedy = format!(
                    "see whether {hop} is on, and on the other end of {}: ip neighbour show dev {}",
                    oif.name, oif.name
                );
                return self.dies(at, format!("nobody answers for {hop} there"), remedy);
            }
        }
        let ours = self
            .packet
            .original
            .0
            .filter(|from| kept && self.sight.anybody(*from).is_some());
        if let Some(from) = ours {
            self.mind(&at, format!("it bears the container's own address {from}: answers come only if the other end has a route to it by this host"));
        }
        Ok(match routed {
            true => Ending::new(
                Fate::Leaves,
                at,
                format!("{hop} takes it on; what is beyond can't be seen from here"),
            ),
            false => Ending::new(
                Fate::Leaves,
                at,
                format!("{hop} is reached there; whether it answers can't be seen from here"),
            ),
        })
    }
}
