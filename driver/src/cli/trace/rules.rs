//! What the rules of a hook say to a packet on its way, in words: the only part that knows anything of our own table, and
//! that is its name.

use tombolo_core::world::MARK_ACCEPT;

use super::story::{Ending, Mood};
use super::walk::{Step, Walk};
use crate::firewall::{Doubt, Hook, Nat, Nic, Packet, Ruleset, Seen, Verdict};

/// Our own table.
const OURS: (&str, &str) = ("inet", "tombolo");

/// Whether it is the packet that goes, or an answer to it that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    There,
    Back,
}

/// Which chains of a hook are asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chains<'l> {
    /// Those for IP.
    Ip,
    /// Those for bridges.
    Bridge,
    /// Those of a link.
    Link(&'l str),
}

/// A container with rules of its own.
pub(super) type Whose<'w> = Option<(&'w str, &'w Ruleset)>;

impl Walk<'_> {
    /// Passes a hook's chains for IP and tells what they say. Gives what they translate.
    pub fn pass(&mut self, hook: Hook) -> Step<Vec<Nat>> {
        let mut packet = self.packet.clone();
        let nats = self.ask(Course::There, None, Chains::Ip, hook, &mut packet);
        self.packet = packet;
        nats
    }

    /// Lets the packet, or an answer, pass chains of the host or of a container.
    pub fn ask(
        &mut self,
        course: Course,
        whose: Whose<'_>,
        chains: Chains<'_>,
        hook: Hook,
        packet: &mut Packet,
    ) -> Step<Vec<Nat>> {
        let rules = whose.map_or(&self.sight.rules, |(_, rules)| rules);
        let all = match chains {
            Chains::Ip => rules.pass(hook, packet),
            Chains::Bridge => rules.pass_bridge(hook, packet),
            Chains::Link(link) => rules.pass_link(hook, link, packet),
        };
        for seen in &all {
            let at = match whose {
                Some((name, _)) => format!("{hook} in container {name}: {}", seen.chain),
                None => format!("{hook}: {}", seen.chain),
            };
            let doubts = seen.doubts.iter().map(|doubt| Doubt {
                text: match course {
                    Course::There => format!("{hook}: {}", doubt.text),
                    Course::Back => format!("{hook}, for the answers: {}", doubt.text),
                },
                ..*doubt
            });
            self.doubts.extend(doubts);
            match course {
                Course::There => self.told(hook, at, whose, seen, packet)?,
                Course::Back if seen.stops() => return self.not_answered(at, whose, seen),
                Course::Back => {}
            }
        }
        Ok(all.into_iter().filter_map(|seen| seen.nat).collect())
    }

    fn not_answered<T>(&mut self, at: String, whose: Whose<'_>, seen: &Seen) -> Step<T> {
        let by = seen
            .by
            .as_ref()
            .map_or_else(|| "by its policy".to_owned(), |by| format!("by `{}`", by.text));
        let inside = whose.map_or_else(String::new, |(name, _)| format!(" in container {name}"));
        let remedy = format!("chain {}{inside} must accept `ct state established`", seen.chain);
        self.dies(at, format!("the answers are dropped {by}"), remedy)
    }

    fn told(&mut self, hook: Hook, at: String, whose: Whose<'_>, seen: &Seen, packet: &Packet) -> Step<()> {
        if !seen.speaks() {
            return Ok(());
        }
        let mut rules: Vec<String> = seen.by.iter().map(|by| by.text.clone()).collect();
        rules.extend(
            seen.by
                .iter()
                .flat_map(|by| by.elements.iter().map(|element| format!("element {element}"))),
        );
        let meaning = self.meaning(seen).filter(|_| whose.is_none());
        let [before, after] = [seen.mark.0, seen.mark.1].map(|mark| mark & MARK_ACCEPT != 0);
        let mark = match after && !before && !seen.stops() {
            true => " (marked as let through)",
            false => "",
        };
        let what = match (seen.verdict, &seen.by) {
            (Verdict::Accept, _) => format!("accepted{mark}"),
            (Verdict::Drop, Some(_)) => "dropped".to_owned(),
            (Verdict::Drop, None) => "dropped by its policy, since no rule of it accepts".to_owned(),
            (Verdict::Reject, _) => "rejected; the sender is told".to_owned(),
        };
        let what = match &meaning {
            Some(meaning) => format!("{what}: {meaning}"),
            None => what,
        };
        let mood = if seen.stops() { Mood::Dies } else { Mood::Goes };
        self.say(&at, mood, &what, rules.clone());
        if !seen.stops() {
            return Ok(());
        }
        let by = rules
            .first()
            .map(|rule| format!(" by `{rule}`"))
            .unwrap_or_default();
        let remedy = match whose {
            Some((name, _)) => format!(
                "the rule is in the container; what runs in {name}, or whoever made it, must let this one through"
            ),
            None => self.way_round(hook, seen, packet),
        };
        Err(Ending::dies(at, format!("{what}{by}"), remedy))
    }

    /// What our own table's text says about the rule that decided.
    fn meaning(&self, seen: &Seen) -> Option<String> {
        let by = seen.by.as_ref()?;
        let ours = (by.chain.family.as_str(), by.chain.table.as_str()) == OURS;
        let meaning = self.sight.meanings.get(&(by.chain.chain.clone(), by.place));
        meaning
            .filter(|_| ours && seen.nat.is_none())
            .map(|text| text.trim_end_matches('.').to_owned())
    }

    /// What to do where a chain drops it.
    fn way_round(&self, hook: Hook, seen: &Seen, packet: &Packet) -> String {
        let id = &seen.chain;
        if let Some(astray) = self.astray.as_ref().filter(|_| hook == Hook::Forward) {
            return astray.clone();
        }
        if (id.family.as_str(), id.table.as_str()) == OURS {
            let by = seen.by.as_ref().map_or("", |by| by.text.as_str());
            return self.way_round_ours(by, packet);
        }
        if let Some(by) = seen.by.as_ref().filter(|by| !by.bare) {
            return format!(
                "the rule is meant for such packets; whoever made it (chain {}) must let this one through",
                by.chain
            );
        }
        if hook == Hook::Forward && seen.mark.1 & MARK_ACCEPT != 0 && !id.legacy {
            if id.table == "filter" && id.chain == "FORWARD" {
                return "tombolo doctor, which says how its accept comes there".to_owned();
            }
            let chain = format!("{} {} {}", id.family, id.table, id.chain);
            return format!("nft insert rule {chain} meta mark and {MARK_ACCEPT:#010x} != 0 accept");
        }
        format!("chain {id} is not tombolo's; whoever made it must let this through")
    }

    fn way_round_ours(&self, by: &str, packet: &Packet) -> String {
        let of = |nic: &Option<Nic>| {
            let name = nic.as_ref().map(|nic| nic.name.as_str())?;
            self.sight.networks.iter().find(|net| net.bridge == name)
        };
        let (from, to) = (of(&packet.iif), of(&packet.oif));
        // The sets that a rule asks for tell more than the way.
        if by.contains("@bridges") {
            return "the network is being built or taken down; `tombolo networks` says what is in its way"
                .to_owned();
        }
        if let Some(net) = [from, to].into_iter().flatten().find(|net| net.internal) {
            return format!(
                "network {} is internal: nothing leaves or enters it; put the container on another network as well",
                net.shown()
            );
        }
        match (from, to) {
            (_, Some(to)) if by.contains("@publishers") => format!(
                "the port is published, but not for {}: network {} was made with publish_from, which lists who may use its ports",
                packet
                    .from
                    .map_or_else(|| "this sender".to_owned(), |from| from.to_string()),
                to.shown()
            ),
            (Some(_), Some(to)) => format!(
                "networks are kept apart: put the container on network {0} as well (docker network connect {0} …), or publish the port",
                to.shown()
            ),
            (None, Some(_)) => {
                "from outside only published ports lead to containers: publish it (docker run -p …)"
                    .to_owned()
            }
            _ => "tombolo doctor".to_owned(),
        }
    }
}
