//! A packet's walk through the base chains of a hook.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

use super::nft::{self, Act};
use super::{Body, Chain, ChainId, Hook, Packet, Rule, Ruleset, State, Truth, xt};

/// How many times a chain is walked again to see what the rules would change that can't be judged.
const WORLDS: usize = 100;

/// How deep chains may jump, as in the kernel (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// What a base chain says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on to the next chain.
    Accept,
    /// Gone without a word.
    Drop,
    /// Gone, and the sender is told.
    Reject,
}

/// A translation that a chain asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nat {
    /// Another destination.
    To(Option<IpAddr>, Option<u16>),
    /// Another source.
    From(Option<IpAddr>),
    /// The address of the link that it leaves by.
    Masquerade,
    /// This host itself, at a port.
    Redirect(Option<u16>),
}

/// What a rule that we can't judge could do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Could {
    /// Stop a packet that goes on without it.
    Stop,
    /// Something else: let it pass where it is stopped, or change it so that what comes after decides otherwise.
    Change,
}

/// A rule that we can't judge, and that could have decided otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Its chain, and the rule as its program lists it.
    pub text: String,
    /// What it could do.
    pub could: Could,
}

/// What one base chain said of a packet.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The chain.
    pub chain: ChainId,
    /// What it said.
    pub verdict: Verdict,
    /// The rule that said it, with its own chain and its place there; none if it was the chain's policy.
    pub by: Option<Decider>,
    /// What it asks to translate.
    pub nat: Option<Nat>,
    /// Rules that we can't judge and that could have decided otherwise.
    pub doubts: Vec<Doubt>,
    /// The packet's mark before and after.
    pub mark: (u32, u32),
    /// Whether what no rule decides is dropped.
    pub drops: bool,
}

/// The rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decider {
    /// Its chain, which may be one that the base chain jumped to.
    pub chain: ChainId,
    /// Its place there, from 0.
    pub place: usize,
    /// As its program lists it.
    pub text: String,
    /// The elements of sets and maps that matched.
    pub elements: Vec<String>,
    /// It asks for nothing: it decides about all that comes so far.
    pub bare: bool,
}

impl Seen {
    /// Whether the packet ends here.
    pub fn stops(&self) -> bool {
        self.verdict != Verdict::Accept
    }

    /// Whether a rule decided, or something was changed: else there is nothing to tell.
    pub fn speaks(&self) -> bool {
        self.stops()
            || self.by.is_some()
            || self.nat.is_some()
            || self.mark.0 != self.mark.1
            || !self.doubts.is_empty()
    }
}

/// How the walk through a chain ended.
enum End {
    /// Nothing was decided.
    Through,
    /// Back to where it was jumped from.
    Return,
    /// Decided.
    Decided(Verdict, Option<Nat>, Decider),
}

impl Ruleset {
    /// Lets a packet through a hook's base chains for IP; the packet is then as it goes on.
    pub fn pass(&self, hook: Hook, packet: &mut Packet) -> Vec<Seen> {
        let families = if packet.v6 {
            ["inet", "ip6"]
        } else {
            ["inet", "ip"]
        };
        self.pass_families(hook, packet, &families, None)
    }

    /// Lets a frame through a hook's base chains for bridges.
    pub fn pass_bridge(&self, hook: Hook, packet: &mut Packet) -> Vec<Seen> {
        self.pass_families(hook, packet, &["bridge"], None)
    }

    /// Lets a frame through the base chains of a link, as it comes in by it or leaves by it.
    pub fn pass_link(&self, hook: Hook, link: &str, packet: &mut Packet) -> Vec<Seen> {
        self.pass_families(hook, packet, &["netdev", "inet"], Some(link))
    }

    fn pass_families(
        &self,
        hook: Hook,
        packet: &mut Packet,
        families: &[&str],
        link: Option<&str>,
    ) -> Vec<Seen> {
        let mut all: Vec<Seen> = Vec::new();
        // The priority of the chain that asked for a translation, and the packet before it.
        let mut translated: Option<(i64, Packet)> = None;
        for (id, chain, base) in self.base_chains(hook, families) {
            if link.is_some_and(|link| !chain.is_for(link)) {
                continue;
            }
            if base.priority >= turning(hook) {
                packet.turn();
            }
            if base.nat && packet.state != State::New {
                continue;
            }
            // Translations are decided once a connection, by the first chain that asks for one.
            if let Some((priority, before)) = translated.as_ref().filter(|_| base.nat) {
                let rival =
                    *priority == base.priority && self.ask(id, chain, &mut before.clone()).nat.is_some();
                if let Some(seen) = all.iter_mut().find(|seen| rival && seen.nat.is_some()) {
                    let text = format!(
                        "chains {} and {id} have one priority, and both translate: the kernel asks the one that was made later",
                        seen.chain
                    );
                    let could = Could::Change;
                    seen.doubts.push(Doubt { text, could });
                }
                continue;
            }
            let before = packet.clone();
            let seen = self.ask(id, chain, packet);
            if seen.nat.is_some() {
                translated = Some((base.priority, before));
            }
            let stops = seen.stops();
            all.push(seen);
            if stops {
                break;
            }
        }
        packet.turn();
        all
    }

    /// What one base chain says of a packet.
    pub fn ask(&self, id: &ChainId, chain: &Chain, packet: &mut Packet) -> Seen {
        let drops = chain.base.is_some_and(|base| base.drops);
        let main = self.world(id, chain, packet, &BTreeSet::new());
        let doubts = self.doubts(id, chain, packet, &main);
        let mark = (packet.mark, main.packet.mark);
        *packet = main.packet;
        Seen {
            chain: id.clone(),
            verdict: main.verdict,
            by: main.by,
            nat: main.nat,
            doubts,
            mark,
            drops,
        }
    }

    /// Walks a chain as though certain rules matched that can't be judged, and the others of that sort were not there.
    fn world(&self, id: &ChainId, chain: &Chain, packet: &Packet, assumed: &BTreeSet<Place>) -> World {
        let drops = chain.base.is_some_and(|base| base.drops);
        let mut walk = Walk {
            rules: self,
            assumed,
            packet: packet.clone(),
            maybe: Vec::new(),
            lost: Vec::new(),
        };
        let (verdict, nat, by) = match walk.through(id, chain, 0) {
            End::Decided(verdict, nat, by) => (verdict, nat, Some(by)),
            End::Through | End::Return if drops => (Verdict::Drop, None, None),
            End::Through | End::Return => (Verdict::Accept, None, None),
        };
        World {
            verdict,
            nat,
            by,
            packet: walk.packet,
            maybe: walk.maybe,
            lost: walk.lost,
        }
    }

    /// The rules that can't be judged and could have made another end of it.
    fn doubts(&self, id: &ChainId, chain: &Chain, packet: &Packet, main: &World) -> Vec<Doubt> {
        let doubt = |text: &String, could| Doubt {
            text: text.clone(),
            could,
        };
        let mut doubts: Vec<Doubt> = main.lost.iter().map(|text| doubt(text, Could::Change)).collect();
        let (mut known, mut worlds) = (BTreeSet::new(), VecDeque::new());
        let mut meet = |world: &World, assumed: &BTreeSet<Place>, worlds: &mut VecDeque<_>| {
            for (place, text) in &world.maybe {
                if known.insert(place.clone()) {
                    let mut assumed = assumed.clone();
                    assumed.insert(place.clone());
                    worlds.push_back((assumed, text.clone()));
                }
            }
        };
        meet(main, &BTreeSet::new(), &mut worlds);
        for _ in 0..WORLDS {
            let Some((assumed, text)) = worlds.pop_front() else {
                return doubts;
            };
            let other = self.world(id, chain, packet, &assumed);
            doubts.extend(main.other_end(&other).map(|could| doubt(&text, could)));
            // What is met only if that one matches.
            meet(&other, &assumed, &mut worlds);
        }
        doubts.extend(worlds.iter().map(|(_, text)| doubt(text, Could::Change)));
        doubts
    }
}

/// A rule's chain, and its place there.
type Place = (ChainId, usize);

/// How a walk through a base chain ended.
struct World {
    verdict: Verdict,
    nat: Option<Nat>,
    by: Option<Decider>,
    packet: Packet,
    maybe: Vec<(Place, String)>,
    lost: Vec<String>,
}

impl World {
    /// What is different in another one, if that matters.
    fn other_end(&self, other: &Self) -> Option<Could> {
        match (self.verdict != Verdict::Accept, other.verdict != Verdict::Accept) {
            (false, true) => Some(Could::Stop),
            (true, false) => Some(Could::Change),
            (true, true) => None,
            (false, false) => {
                let same = self.nat == other.nat && self.packet == other.packet && self.lost == other.lost;
                (!same).then_some(Could::Change)
            }
        }
    }
}

/// On the way through a base chain.
struct Walk<'a> {
    rules: &'a Ruleset,
    /// Rules that can't be judged and are taken to match; others of that sort are taken not to.
    assumed: &'a BTreeSet<Place>,
    packet: Packet,
    /// The rules that can't be judged.
    maybe: Vec<(Place, String)>,
    /// The rules that do what we can't follow.
    lost: Vec<String>,
}

impl Walk<'_> {
    fn through(&mut self, id: &ChainId, chain: &Chain, depth: usize) -> End {
        for (place, rule) in chain.rules.iter().enumerate() {
            let mut elements = Vec::new();
            let judged = match &rule.body {
                Body::Nft(expressions) => {
                    nft::judge(self.rules, id, expressions, &self.packet, &mut elements)
                }
                Body::Xt(words) => xt::judge(words, &self.packet),
            };
            if judged.truth == Truth::No || judged.is_idle(&self.packet) {
                continue;
            }
            let text = || format!("{id}: {}", rule.text);
            if judged.truth == Truth::Maybe {
                let place = (id.clone(), place);
                let assumed = self.assumed.contains(&place);
                self.maybe.push((place, text()));
                if !assumed {
                    continue;
                }
            }
            if judged.lost {
                self.lost.push(text());
            }
            (self.packet.mark, self.packet.connmark) = judged.marks;
            let decider = |rule: &Rule| Decider {
                chain: id.clone(),
                place,
                text: rule.text.clone(),
                elements: elements.clone(),
                bare: rule.is_bare(),
            };
            match judged.act {
                Act::Nothing => {}
                Act::Verdict(verdict) => return End::Decided(verdict, None, decider(rule)),
                Act::Translate(nat) => {
                    translate(&mut self.packet, &nat);
                    return End::Decided(Verdict::Accept, Some(nat), decider(rule));
                }
                Act::Return => return End::Return,
                Act::Jump { to, back } => {
                    let target = ChainId {
                        chain: to,
                        ..id.clone()
                    };
                    let end = match self.rules.chains.get(&target) {
                        Some(chain) if depth < DEPTH => self.through(&target, chain, depth + 1),
                        // Not a chain at all, but something to be done that we don't know.
                        _ => {
                            self.lost.push(text());
                            End::Through
                        }
                    };
                    match end {
                        End::Decided(..) => return end,
                        _ if !back => return End::Return,
                        _ => {}
                    }
                }
            }
        }
        End::Through
    }
}

impl Chain {
    /// Whether it is asked about a link.
    fn is_for(&self, link: &str) -> bool {
        let fits = |name: &String| match name.strip_suffix('*') {
            Some(beginning) => link.starts_with(beginning),
            None => name == link,
        };
        self.links.iter().any(fits)
    }
}

/// The priority at which the kernel translates in a hook (`NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`).
fn turning(hook: Hook) -> i64 {
    match hook {
        Hook::Postrouting | Hook::Input => 100,
        _ => -100,
    }
}

fn translate(packet: &mut Packet, nat: &Nat) {
    match nat {
        Nat::To(address, port) => {
            packet.to = address.or(packet.to);
            packet.to_port = port.or(packet.to_port);
            packet.dnat = true;
            packet.to_type = None;
        }
        Nat::From(address) => {
            packet.from = address.or(packet.from);
            packet.snat = true;
        }
        // Which address that is, only the asker knows.
        Nat::Masquerade => {
            packet.from = None;
            packet.snat = true;
        }
        Nat::Redirect(port) => {
            packet.to_port = port.or(packet.to_port);
            packet.dnat = true;
            packet.to_type = Some("local");
        }
    }
}
