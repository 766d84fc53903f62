//! A packet's way through the host, whoever sent it.
//!
//! ```text
//!   in ── prerouting ── route ─┬─ input ── a process of the host
//!                              └─ forward ── postrouting ─┬─ a container of ours
//!   the host itself ── output ── route ───────────────────┴─ a link, and the next router
//! ```

use std::net::IpAddr;

use super::rules::Course;
use super::sight::{End, nic};
use super::story::{Ending, Fate, Story};
use super::walk::{Step, Walk};
use super::wire::Leg;
use crate::firewall::{Hook, Nat};
use crate::kernel::look::{Link, Query, Route, RouteKind, Way};

impl<'a> Walk<'a> {
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
        let back = self
            .asker
            .way(None, query)
            .unwrap_or_else(|why| Way::None(why, 0));
        let route = match back {
            Way::Route(route) => route,
            Way::None(why, _) => {
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
        let own = sight.anybody(from).and_then(|end| end.host_link.as_deref());
        let port = match own {
            Some(name) => sight.host.named(name),
            None => sight.only_other_port(link),
        };
        self.enter(Leg { link, port })
    }

    /// What sort of address the packet goes to.
    fn judge_address(&mut self) -> Step<()> {
        let query = Query {
            to: self.to(),
            from: None,
            iif: None,
            mark: 0,
        };
        let way = self.asker.way(None, query);
        self.packet.to_type = match way {
            Ok(Way::Route(route)) => Some(match route.kind {
                RouteKind::Local => "local",
                RouteKind::Many => "broadcast",
                _ => "unicast",
            }),
            Ok(Way::None(..)) => Some("unicast"),
            Err(_) => None,
        };
        Ok(())
    }

    /// Whether the sender is reached by the link that the packet comes in by.
    fn judge_way_back(&mut self, link: &Link) {
        let Some(from) = self.packet.from else {
            return;
        };
        let query = Query {
            to: from,
            from: None,
            iif: None,
            mark: 0,
        };
        self.packet.by_way_back = match self.asker.way(None, query) {
            Ok(Way::Route(route)) => Some(route.oif == Some(link.index)),
            _ => None,
        };
    }

    /// A redirected packet goes to the first address of the link it has come in by, or to the loopback if the host made it.
    fn redirected(&mut self, nats: &[Nat], link: Option<&Link>) -> Step<()> {
        if !nats.iter().any(|nat| matches!(nat, Nat::Redirect(_))) {
            return Ok(());
        }
        let v6 = self.packet.v6;
        let own = match link {
            Some(link) => self.sight.host.first(link.index, v6),
            None if v6 => Some(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
            None => Some(IpAddr::from(std::net::Ipv4Addr::LOCALHOST)),
        };
        match (own, link) {
            (None, Some(link)) => {
                let why = format!(
                    "a rule redirects it to the address of {}, which has none",
                    link.name
                );
                self.dies("host", why, format!("ip address add ADDRESS dev {}", link.name))
            }
            _ => {
                self.packet.to = own;
                Ok(())
            }
        }
    }

    /// It has come in by a link.
    pub fn enter(&mut self, leg: Leg<'a>) -> Step<Ending> {
        self.came = Some(leg);
        let link = leg.link;
        self.packet.iif = Some(nic(link));
        let mut packet = self.packet.clone();
        self.comes_in(Course::There, leg, &mut packet)?;
        self.packet = packet;
        let before = (self.packet.to, self.packet.to_port);
        self.judge_address()?;
        self.judge_way_back(link);
        let nats = self.pass(Hook::Prerouting)?;
        self.redirected(&nats, Some(link))?;
        self.tell_destination(&nats, before)?;
        let query = Query {
            to: self.to(),
            from: self.packet.from,
            iif: Some(link.index),
            mark: self.packet.mark,
        };
        let route = match self.way(query)? {
            Way::Route(route) => route,
            Way::None(why, errno) => return self.no_way(link, query, &why, errno),
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

    fn no_way<T>(&mut self, link: &Link, query: Query, why: &str, errno: i32) -> Step<T> {
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
        let (why, remedy) = self.refusal(Some(link), query, why, errno);
        self.dies("host", why, remedy)
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
        let ending = self.at_host();
        if ending.fate != Fate::Dies {
            self.answers(None, self.came)?;
        }
        Ok(ending)
    }

    fn at_host(&mut self) -> Ending {
        let path = match self.packet.v6 {
            true => "ipv6/icmp/echo_ignore_all",
            false => "ipv4/icmp_echo_ignore_all",
        };
        let mute = self.asker.setting(path).is_some_and(|number| number != 0);
        self.arrive(None, "host", mute)
    }

    /// Made by this host itself.
    fn made_here(&mut self) -> Step<Ending> {
        let before = (self.packet.to, self.packet.to_port);
        self.judge_address()?;
        if let Way::Route(route) = self.own_way()? {
            self.packet.oif = route.oif.and_then(|oif| self.sight.host.link(oif)).map(nic);
        }
        let nats = self.pass(Hook::Output)?;
        self.redirected(&nats, None)?;
        self.tell_destination(&nats, before)?;
        let sight = self.sight;
        let route = match self.own_way()? {
            Way::Route(route) => route,
            Way::None(why, _) => {
                let to = self.to();
                return self.dies("host", format!("no route to {to}: {why}"), "see `ip route`");
            }
        };
        let link = route.oif.and_then(|oif| sight.host.link(oif));
        match (route.kind, link) {
            (RouteKind::Local, _) => {
                let lo = sight.host.named("lo").map(nic);
                (self.packet.iif, self.packet.oif) = (None, lo.clone());
                self.pass(Hook::Postrouting)?;
                (self.packet.iif, self.packet.oif) = (lo, None);
                self.pass(Hook::Input)?;
                let ending = self.at_host();
                if ending.fate != Fate::Dies {
                    self.answers(None, None)?;
                }
                Ok(ending)
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

    /// Which way what the host itself makes goes.
    fn own_way(&mut self) -> Step<Way> {
        self.way(Query {
            to: self.to(),
            from: None,
            iif: None,
            mark: self.packet.mark,
        })
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
        self.mind_astray(oif);
        self.packet.oif = Some(nic(oif));
        self.pass(Hook::Forward)?;
        self.packet.iif = Some(nic(iif));
        self.leave(route, oif)
    }

    /// A container's address may be routed elsewhere than to its network.
    fn mind_astray(&mut self, oif: &Link) {
        let (sight, to) = (self.sight, self.to());
        let net = sight.anybody(to).and_then(|end| sight.network(&end.network));
        if let Some(net) = net.filter(|net| net.bridge != oif.name) {
            self.mind(
                "host",
                format!(
                    "{to} is a container's on network {}, but its route does not lead to bridge {}",
                    net.shown(),
                    net.bridge
                ),
            );
            self.astray = Some(format!(
                "a route of the host takes {to} through {}, not to bridge {}: see `ip route get {to}`",
                oif.name, net.bridge
            ));
        }
    }

    /// It leaves by a link: to a container of ours, or to the next hop.
    fn leave(&mut self, route: &Route, oif: &'a Link) -> Step<Ending> {
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
        let Some(net) = sight.network_of(oif) else {
            let ending = self.away(oif, hop, route.gateway.is_some(), self.packet.from == sender)?;
            return self.gone_to_a_stranger(oif, ending);
        };
        let Some(end) = sight.owner(net, hop) else {
            let ending = self.somebody(net, oif, hop)?;
            return self.gone_to_a_stranger(oif, ending);
        };
        let leg = self.port(end, net)?;
        self.within_bridge(leg, end)?;
        self.goes(leg)?;
        let (ending, back) = self.receive(end, leg)?;
        if ending.fate != Fate::Dies {
            self.answers(Some(back), self.came)?;
        }
        Ok(ending)
    }

    /// To somebody on a link whom nobody here knows, and his answer.
    fn gone_to_a_stranger(&mut self, link: &'a Link, ending: Ending) -> Step<Ending> {
        let leg = Leg {
            link,
            port: self.sight.only_other_port(link),
        };
        self.goes(leg)?;
        self.answers(Some(leg), self.came)?;
        Ok(ending)
    }

    fn goes(&mut self, leg: Leg<'_>) -> Step<()> {
        let mut packet = self.packet.clone();
        self.goes_out(Course::There, leg, &mut packet)
    }

    /// Where frames pass the IP rules, what a published port leads back to the same bridge is translated within it, and
    /// never comes to the host.
    fn within_bridge(&mut self, leg: Leg<'_>, end: &End) -> Step<()> {
        let Some(came) = self.came.filter(|came| came.link.index == leg.link.index) else {
            return Ok(());
        };
        if self.sight.bridge_calls[usize::from(self.packet.v6)] && came.port.is_some() {
            let what = "it is translated within the bridge, as frames pass the IP rules (net.bridge.bridge-nf-call-iptables)";
            self.mind(format!("bridge {}", leg.link.name), what);
            self.frame(came, end)?;
        }
        Ok(())
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
