//! Between the host's own chains and a link: chains of bridges, and those at a link's own hooks.
//!
//! ```text
//!   port ── ingress ── bridge: prerouting ─┬─ input ── ingress of the bridge ── the host
//!                                          └─ forward ── postrouting ── egress ── another port
//!   the host ── egress of the bridge ── bridge: output ── postrouting ── egress ── port
//! ```

use super::rules::{Chains, Course};
use super::sight::nic;
use super::walk::{Step, Walk};
use crate::firewall::{Could, Doubt, Hook, Packet};
use crate::kernel::look::Link;

/// By which link something comes to the host or leaves it, and by which of its ports if that is a bridge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leg<'a> {
    pub link: &'a Link,
    pub port: Option<&'a Link>,
}

impl Leg<'_> {
    fn is_bridge(&self) -> bool {
        self.link.kind.as_deref() == Some("bridge")
    }
}

impl<'a> Walk<'a> {
    /// In by a link, up to where the host's own chains begin.
    pub fn comes_in(&mut self, course: Course, leg: Leg<'_>, packet: &mut Packet) -> Step<()> {
        if leg.is_bridge() {
            self.of_port(course, Hook::Ingress, leg.port, packet)?;
            self.of_bridge(
                course,
                &[Hook::Prerouting, Hook::Input],
                leg.link,
                (leg.port, None),
                packet,
            )?;
        }
        self.of_port(course, Hook::Ingress, Some(leg.link), packet)
    }

    /// Out by a link, from where the host's own chains end.
    pub fn goes_out(&mut self, course: Course, leg: Leg<'_>, packet: &mut Packet) -> Step<()> {
        self.of_port(course, Hook::Egress, Some(leg.link), packet)?;
        if leg.is_bridge() {
            let hooks = [Hook::Output, Hook::Postrouting];
            self.of_bridge(course, &hooks, leg.link, (None, leg.port), packet)?;
            self.of_port(course, Hook::Egress, leg.port, packet)?;
        }
        Ok(())
    }

    /// From one port of a bridge to another.
    pub fn across(
        &mut self,
        course: Course,
        from: Leg<'_>,
        to: Option<&Link>,
        packet: &mut Packet,
    ) -> Step<()> {
        self.of_port(course, Hook::Ingress, from.port, packet)?;
        let hooks = [Hook::Prerouting, Hook::Forward, Hook::Postrouting];
        self.of_bridge(course, &hooks, from.link, (from.port, to), packet)?;
        if self.sight.bridge_calls[usize::from(packet.v6)] {
            if course == Course::There {
                self.mind(
                    format!("bridge {}", from.link.name),
                    "frames pass the IP rules too (net.bridge.bridge-nf-call-iptables)",
                );
            }
            (packet.iif, packet.oif) = (Some(nic(from.link)), None);
            self.ask(course, None, Chains::Ip, Hook::Prerouting, packet)?;
            packet.oif = Some(nic(from.link));
            self.ask(course, None, Chains::Ip, Hook::Forward, packet)?;
            self.ask(course, None, Chains::Ip, Hook::Postrouting, packet)?;
        }
        self.of_port(course, Hook::Egress, to, packet)
    }

    fn of_port(&mut self, course: Course, hook: Hook, port: Option<&Link>, packet: &mut Packet) -> Step<()> {
        match port {
            Some(port) => self
                .ask(course, None, Chains::Link(&port.name), hook, packet)
                .map(drop),
            None => Ok(()),
        }
    }

    /// The bridge's own chains see the ports' names. Which port somebody is behind whom we don't know, is not known.
    fn of_bridge(
        &mut self,
        course: Course,
        hooks: &[Hook],
        bridge: &Link,
        (from, to): (Option<&Link>, Option<&Link>),
        packet: &mut Packet,
    ) -> Step<()> {
        let mut framed = packet.clone();
        (framed.iif, framed.oif) = (from.map(nic), to.map(nic));
        for hook in hooks {
            let blind = match hook {
                Hook::Prerouting | Hook::Input => from.is_none(),
                Hook::Forward => from.is_none() || to.is_none(),
                _ => to.is_none(),
            };
            let chains = self.sight.rules.base_chains(*hook, &["bridge"]);
            let asked = chains
                .iter()
                .find(|(_, chain, base)| base.drops || !chain.rules.is_empty());
            match asked {
                Some((id, ..)) if blind => {
                    let text = format!(
                        "chain {id}, since it is not known which port of {} it takes",
                        bridge.name
                    );
                    self.doubts.push(Doubt {
                        text,
                        could: Could::Stop,
                    });
                }
                _ => drop(self.ask(course, None, Chains::Bridge, *hook, &mut framed)?),
            }
        }
        packet.mark = framed.mark;
        Ok(())
    }
}
