//! The way of an answer: what drops it ends a conversation as surely as what drops the packet.
//!
//! ```text
//!   who answers ── prerouting ── route ─┬─ forward ── postrouting ── the container that asked, or a link
//!                                       └─ input ── the host, if that has asked
//!   the host itself ── output ── postrouting ── …
//! ```

use std::net::IpAddr;

use super::rules::{Chains, Course};
use super::sight::nic;
use super::walk::{Step, Walk};
use super::wire::Leg;
use crate::firewall::{Could, Doubt, Ends, Hook, Packet, State};
use crate::kernel::look::{Link, Query, RouteKind, Way};

impl<'a> Walk<'a> {
    /// An answer to the packet as it is now.
    pub fn answer(&self) -> Packet {
        let mut answer = self.packet.clone();
        std::mem::swap(&mut answer.from, &mut answer.to);
        std::mem::swap(&mut answer.from_port, &mut answer.to_port);
        (answer.iif, answer.oif) = (None, None);
        answer.state = State::Established;
        answer.mark = 0;
        answer.to_type = Some("unicast");
        answer
    }

    /// Lets an answer go back through the host: from a link, or from the host itself, to a link or the host itself.
    pub fn answers(&mut self, from: Option<Leg<'_>>, to: Option<Leg<'_>>) -> Step<()> {
        let (asker, asked, port) = self.packet.original;
        let Some(asker) = asker else {
            return Ok(());
        };
        let mut answer = self.answer();
        let lo = || self.sight.host.named("lo").map(nic);
        if let Some(leg) = from {
            answer.iif = Some(nic(leg.link));
            // By the link that the packet has left by: the host's route to who answers is that one.
            answer.by_way_back = Some(self.packet.oif == answer.iif);
            self.comes_in(Course::Back, leg, &mut answer)?;
            answer.turns = Some(Ends {
                to: (Some(asker), None),
                ..answer.ends()
            });
            self.ask(Course::Back, None, Chains::Ip, Hook::Prerouting, &mut answer)?;
            self.way_back(leg.link, to, asker, &answer)?;
        } else {
            answer.oif = to.map_or_else(lo, |leg| Some(nic(leg.link)));
            if let Some(leg) = to {
                self.host_way_back(leg, asker, &answer)?;
            }
            self.ask(Course::Back, None, Chains::Ip, Hook::Output, &mut answer)?;
        }
        if to.is_some() || from.is_none() {
            if let (Some(_), Some(leg)) = (from, to) {
                answer.oif = Some(nic(leg.link));
                self.ask(Course::Back, None, Chains::Ip, Hook::Forward, &mut answer)?;
            }
            answer.turns = Some(Ends {
                from: (asked, port),
                ..answer.ends()
            });
            self.ask(Course::Back, None, Chains::Ip, Hook::Postrouting, &mut answer)?;
        }
        match to {
            Some(leg) => {
                self.goes_out(Course::Back, leg, &mut answer)?;
                self.comes_home(answer)
            }
            None => {
                (answer.iif, answer.oif) =
                    (answer.iif.or_else(|| self.sight.host.named("lo").map(nic)), None);
                self.ask(Course::Back, None, Chains::Ip, Hook::Input, &mut answer)
                    .map(drop)
            }
        }
    }

    /// Back in the container that has asked.
    pub fn comes_home(&mut self, answer: Packet) -> Step<()> {
        let Some(home) = self.home else {
            return Ok(());
        };
        let name = home.end.shown();
        let mut answer = Packet {
            mark: 0,
            connmark: 0,
            iif: Some(home.nic()),
            oif: None,
            dnat: false,
            snat: false,
            to_type: Some("local"),
            ..answer
        };
        if let Ok(rules) = &home.inside.rules {
            let whose = Some((name.as_str(), rules));
            let chains = Chains::Link(&home.link.name);
            self.ask(Course::Back, whose, chains, Hook::Ingress, &mut answer)?;
            for hook in [Hook::Prerouting, Hook::Input] {
                self.ask(Course::Back, whose, Chains::Ip, hook, &mut answer)?;
            }
        }
        Ok(())
    }

    /// Where the host sends an answer that has come in by a link.
    fn way_back(&mut self, by: &Link, to: Option<Leg<'_>>, asker: IpAddr, answer: &Packet) -> Step<()> {
        let query = Query {
            to: asker,
            from: answer.from,
            iif: Some(by.index),
            mark: answer.mark,
        };
        let found = match self.asker.way(None, query) {
            Ok(Way::Route(route)) => route,
            Ok(Way::None(why, errno)) => {
                let (why, remedy) = self.refusal(Some(by), query, &why, errno);
                return self.dies("host", format!("the answers to {asker} go astray: {why}"), remedy);
            }
            Err(why) => {
                self.doubts.push(doubt(format!("the way of the answers: {why}")));
                return Ok(());
            }
        };
        let fits = match to {
            None => found.kind == RouteKind::Local,
            // Whoever is outside may be reached by another link than the one he comes by.
            Some(leg) => {
                found.kind == RouteKind::Unicast && (self.home.is_none() || found.oif == Some(leg.link.index))
            }
        };
        match fits {
            true => Ok(()),
            false => self.goes_astray(asker, found.kind, found.oif),
        }
    }

    /// Where the host sends its own answer.
    fn host_way_back(&mut self, to: Leg<'_>, asker: IpAddr, answer: &Packet) -> Step<()> {
        let query = Query {
            to: asker,
            from: answer.from,
            iif: None,
            mark: 0,
        };
        match self.asker.way(None, query) {
            Ok(Way::Route(route)) if route.kind != RouteKind::Unicast => {
                self.goes_astray(asker, route.kind, route.oif)
            }
            Ok(Way::Route(route)) if self.home.is_some() && route.oif != Some(to.link.index) => {
                self.goes_astray(asker, route.kind, route.oif)
            }
            Ok(Way::Route(_)) => Ok(()),
            Ok(Way::None(why, _)) => {
                let why = format!("the host has no route back to {asker}: {why}");
                self.dies("host", why, format!("see `ip route get {asker}`"))
            }
            Err(why) => {
                self.doubts.push(doubt(format!("the way of the answers: {why}")));
                Ok(())
            }
        }
    }

    fn goes_astray(&mut self, asker: IpAddr, kind: RouteKind, oif: Option<u32>) -> Step<()> {
        let link = oif.and_then(|oif| self.sight.host.link(oif));
        let why = match (kind, link) {
            (RouteKind::Unicast, Some(link)) => {
                format!(
                    "a route of the host sends the answers to {asker} through {}",
                    link.name
                )
            }
            (RouteKind::Refused, _) => format!("a route of the host refuses the answers to {asker}"),
            (RouteKind::Local, _) => format!("the host takes the answers to {asker} for its own"),
            _ => format!("the host's route for the answers to {asker} leads nowhere known"),
        };
        self.dies("host", why, format!("see `ip route get {asker}`"))
    }

    /// Why the kernel has no way, and what to do: it gives the same answer for a route that is not there and for one that it
    /// doesn't take for what comes from somewhere.
    pub fn refusal(&mut self, by: Option<&Link>, query: Query, why: &str, errno: i32) -> (String, String) {
        let plain = Query {
            from: None,
            iif: None,
            ..query
        };
        let route = match self.asker.way(None, plain) {
            Ok(Way::Route(route)) if route.kind != RouteKind::Refused => Some(route),
            _ => None,
        };
        let (to, v6) = (query.to, query.to.is_ipv6());
        let family = if v6 { "ipv6" } else { "ipv4" };
        match (by, route, errno) {
            (Some(by), Some(_), libc::EHOSTUNREACH) if !v6 => {
                let path = format!("net.{family}.conf.{}.forwarding", by.name);
                (
                    format!("what comes in by {} is not forwarded ({path})", by.name),
                    format!("sysctl -w {path}=1"),
                )
            }
            (Some(by), Some(_), libc::EINVAL | libc::EXDEV) => {
                let from = query
                    .from
                    .map_or_else(String::new, |from| format!("from {from} "));
                (
                    format!(
                        "what comes {from}in by {} is refused, as the way back is another one (rp_filter), or the address can't be a sender's",
                        by.name
                    ),
                    format!(
                        "see net.ipv4.conf.all.rp_filter and net.ipv4.conf.{}.rp_filter, the larger of which holds: 2 is loose, 0 is off",
                        by.name
                    ),
                )
            }
            (Some(by), ..) => (
                format!("no route to {to} for what comes in by {}: {why}", by.name),
                format!("see `ip route get {to}`"),
            ),
            (None, ..) => (
                format!("no route to {to}: {why}"),
                format!("see `ip route get {to}`"),
            ),
        }
    }
}

/// Something that could stop the packet, or its answer, and can't be judged.
pub(super) fn doubt(text: String) -> Doubt {
    Doubt {
        text,
        could: Could::Stop,
    }
}
