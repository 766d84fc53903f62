//! What the rules of a hook say to a packet on its way, in words: the only part that knows anything of our own table, and
//! that is its name.

use tombolo_core::world::MARK_ACCEPT;

use super::story::{Ending, Mood};
use super::walk::{Step, Walk};
use crate::firewall::{Hook, Nat, Nic, Seen, Verdict};

/// Our own table.
const OURS: (&str, &str) = ("inet", "tombolo");

impl Walk<'_> {
    /// Passes a hook's chains and tells what they say. Gives what they translate.
    pub fn pass(&mut self, hook: Hook) -> Step<Vec<Nat>> {
        let seen = self.sight.rules.pass(hook, &mut self.packet);
        self.told(hook, &seen)?;
        Ok(seen.into_iter().filter_map(|seen| seen.nat).collect())
    }

    pub fn told(&mut self, hook: Hook, seen: &[Seen]) -> Step<()> {
        for seen in seen {
            self.doubts.extend(seen.doubts.iter().cloned());
            if !seen.speaks() {
                continue;
            }
            let at = format!("{hook}: {}", seen.chain);
            let mut rules: Vec<String> = seen.by.iter().map(|by| by.text.clone()).collect();
            rules.extend(
                seen.by
                    .iter()
                    .flat_map(|by| by.elements.iter().map(|element| format!("element {element}"))),
            );
            let meaning = self.meaning(seen);
            let mark = if seen.mark.1 & MARK_ACCEPT != seen.mark.0 & MARK_ACCEPT && !seen.stops() {
                " (marked as let through)"
            } else {
                ""
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
            if seen.stops() {
                let by = rules
                    .first()
                    .map(|rule| format!(" by `{rule}`"))
                    .unwrap_or_default();
                let remedy = self.way_round(hook, seen);
                return Err(Ending::dies(at, format!("{what}{by}"), remedy));
            }
        }
        Ok(())
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
    fn way_round(&self, hook: Hook, seen: &Seen) -> String {
        let id = &seen.chain;
        if (id.family.as_str(), id.table.as_str()) == OURS {
            return self.way_round_ours();
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

    fn way_round_ours(&self) -> String {
        let of = |nic: &Option<Nic>| {
            let name = nic.as_ref().map(|nic| nic.name.as_str())?;
            self.sight.networks.iter().find(|net| net.bridge == name)
        };
        let (from, to) = (of(&self.packet.iif), of(&self.packet.oif));
        if let Some(net) = [from, to].into_iter().flatten().find(|net| net.internal) {
            return format!(
                "network {} is internal: nothing leaves or enters it; put the container on another network as well",
                net.shown()
            );
        }
        match (from, to) {
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
