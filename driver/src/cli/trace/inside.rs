//! In the container that the packet comes to: its link, its own rules, and its way back.

use super::back::doubt;
use super::rules::{Chains, Course};
use super::sight::{End, Inside, nic};
use super::story::{Ending, Fate};
use super::walk::{Step, Walk};
use super::wire::Leg;
use crate::firewall::{Hook, Packet};
use crate::kernel::look::{Query, Route, RouteKind, Way};

impl<'a> Walk<'a> {
    /// A container takes the packet that has come by a link; its answer leaves by the same one, or by another of its own.
    pub fn receive(&mut self, end: &'a End, leg: Leg<'a>) -> Step<(Ending, Leg<'a>)> {
        let at = format!("container {}", end.shown());
        self.seen_as = self.seen_as.or(self.packet.from);
        let inside = match self.asker.inside(end) {
            Ok(inside) => inside,
            Err(why) => {
                self.doubts
                    .push(doubt(format!("{at} can't be looked into: {why}")));
                return Ok((self.arrive(Some(end), &at, false), leg));
            }
        };
        let by_mac = |link: &&crate::kernel::look::Link| link.mac.as_deref() == Some(end.mac.as_str());
        let Some(link) = inside.place.links.iter().find(by_mac) else {
            let why = format!(
                "it has no link with the hardware address {} that it was given",
                end.mac
            );
            return Err(Ending::new(Fate::Unsure, at, why));
        };
        if !link.up {
            let remedy = end.command(&format!("ip link set {} up", link.name));
            return self.dies(at, format!("its link {} is down", link.name), remedy);
        }
        self.narrow(link.mtu);
        let (from, to) = (self.packet.from, self.to());
        if !inside
            .place
            .addresses
            .iter()
            .any(|address| address.net.addr() == to)
        {
            let why = format!("it does not have the address {to} any more");
            return self.dies(at, why, format!("docker restart {}", end.shown()));
        }
        let taken = Query {
            to,
            from,
            iif: Some(link.index),
            mark: 0,
        };
        let refused = match self.asker.way(Some(end), taken) {
            Ok(Way::Route(route)) if route.kind == RouteKind::Local => None,
            Ok(Way::Route(_)) => Some("a route of its own leads elsewhere".to_owned()),
            Ok(Way::None(why, _)) => Some(why),
            Err(why) => {
                self.doubts.push(doubt(format!("{at} can't be asked: {why}")));
                None
            }
        };
        let (back, route) = self.container_way_back(end, &inside, leg, &at)?;
        if let Some(why) = refused {
            let why = format!("it does not take what comes in by {}: {why}", link.name);
            let remedy = end.command("ip route");
            return self.dies(at, why, format!("see its routes: {remedy}"));
        }
        let mut packet = Packet {
            mark: 0,
            connmark: 0,
            iif: Some(nic(link)),
            oif: None,
            dnat: false,
            snat: false,
            to_type: Some("local"),
            original: (from, self.packet.to, self.packet.to_port),
            ..self.packet.clone()
        };
        let mut answer = Packet {
            original: packet.original,
            dnat: false,
            snat: false,
            connmark: 0,
            oif: route
                .and_then(|route| inside.place.link(route.oif?).map(nic))
                .or(Some(nic(link))),
            ..self.answer()
        };
        let name = end.shown();
        match &inside.rules {
            Ok(rules) => {
                let whose = Some((name.as_str(), rules));
                let chains = Chains::Link(&link.name);
                self.ask(Course::There, whose, chains, Hook::Ingress, &mut packet)?;
                for hook in [Hook::Prerouting, Hook::Input] {
                    let nats = self.ask(Course::There, whose, Chains::Ip, hook, &mut packet)?;
                    self.no_nats(&at, nats.len());
                }
                for hook in [Hook::Output, Hook::Postrouting] {
                    self.ask(Course::Back, whose, Chains::Ip, hook, &mut answer)?;
                }
                let by = answer.oif.clone().unwrap_or_default().name;
                self.ask(Course::Back, whose, Chains::Link(&by), Hook::Egress, &mut answer)?;
            }
            Err(why) => self
                .doubts
                .push(doubt(format!("the rules in {at} can't be read: {why}"))),
        }
        let mute = inside.mute[usize::from(self.packet.v6)];
        Ok((self.arrive(Some(end), &at, mute), back))
    }

    /// Translations in a container lead to where we don't follow.
    pub fn no_nats(&mut self, at: &str, found: usize) {
        if found > 0 {
            self.doubts
                .push(doubt(format!("rules in {at} translate the packet's addresses")));
        }
    }

    /// By which link of the host's the container's answer comes, and the route by which it leaves the container.
    fn container_way_back(
        &mut self,
        end: &'a End,
        inside: &Inside,
        leg: Leg<'a>,
        at: &str,
    ) -> Step<(Leg<'a>, Option<Route>)> {
        let Some(asker) = self.packet.from else {
            return Ok((leg, None));
        };
        let query = Query {
            to: asker,
            from: self.packet.to,
            iif: None,
            mark: 0,
        };
        let route = match self.asker.way(Some(end), query) {
            Ok(Way::Route(route)) => route,
            Ok(Way::None(why, _)) => {
                let why = format!("it has no route back to {asker}, so no answer comes: {why}");
                return self.dies(at, why, format!("docker restart {}", end.shown()));
            }
            Err(why) => {
                self.doubts
                    .push(doubt(format!("the way of the answers from {at}: {why}")));
                return Ok((leg, None));
            }
        };
        match route.kind {
            RouteKind::Unicast => {}
            // To itself, through a port that it publishes.
            RouteKind::Local => return Ok((leg, Some(route))),
            _ => {
                let why = format!("a route of its own refuses {asker}, so no answer comes");
                return self.dies(at, why, format!("see its routes: {}", end.command("ip route")));
            }
        }
        let mac = route.oif.and_then(|oif| inside.place.link(oif)?.mac.clone());
        if mac.as_deref() == Some(end.mac.as_str()) {
            return Ok((leg, Some(route)));
        }
        // It is on several networks and answers by another one.
        let sight = self.sight;
        let other = sight
            .endpoints
            .iter()
            .find(|other| other.sandbox == end.sandbox && Some(other.mac.as_str()) == mac.as_deref());
        let port = other.and_then(|other| sight.host.named(other.host_link.as_deref()?));
        let bridge = port.and_then(|port| sight.host.link(port.master?));
        match (port, bridge) {
            (Some(port), Some(link)) => {
                self.mind(
                    at,
                    format!("it answers {asker} by another network, bridge {}", link.name),
                );
                let port = Some(port);
                Ok((Leg { link, port }, Some(route)))
            }
            _ => {
                let why = format!("it answers {asker} by a link that is not tombolo's");
                Err(Ending::new(Fate::Unsure, at, why))
            }
        }
    }
}
