//! A packet's walk through the base chains of a hook.

use std::net::IpAddr;

use super::nft::{self, Act};
use super::{Body, Chain, ChainId, Hook, Packet, Rule, Ruleset, State, Truth, xt};

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
    pub doubts: Vec<String>,
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
        self.pass_families(hook, packet, &families)
    }

    /// Lets a frame through a hook's base chains for bridges.
    pub fn pass_bridge(&self, hook: Hook, packet: &mut Packet) -> Vec<Seen> {
        self.pass_families(hook, packet, &["bridge"])
    }

    fn pass_families(&self, hook: Hook, packet: &mut Packet, families: &[&str]) -> Vec<Seen> {
        let mut all = Vec::new();
        let mut translated = false;
        for (id, chain, base) in self.base_chains(hook, families) {
            // Translations are decided once a connection, by the first chain that asks for one.
            if base.nat && (packet.state != State::New || translated) {
                continue;
            }
            let seen = self.ask(id, chain, packet);
            translated |= seen.nat.is_some();
            let stops = seen.stops();
            all.push(seen);
            if stops {
                break;
            }
        }
        all
    }

    /// What one base chain says of a packet.
    pub fn ask(&self, id: &ChainId, chain: &Chain, packet: &mut Packet) -> Seen {
        let drops = chain.base.is_some_and(|base| base.drops);
        let mut seen = Seen {
            chain: id.clone(),
            verdict: if drops { Verdict::Drop } else { Verdict::Accept },
            by: None,
            nat: None,
            doubts: Vec::new(),
            mark: (packet.mark, packet.mark),
            drops,
        };
        if let End::Decided(verdict, nat, by) = self.walk(id, chain, packet, &mut seen.doubts, 0) {
            (seen.verdict, seen.by, seen.nat) = (verdict, Some(by), nat.clone());
            if let Some(nat) = nat {
                translate(packet, &nat);
            }
        }
        seen.mark.1 = packet.mark;
        seen
    }

    fn walk(
        &self,
        id: &ChainId,
        chain: &Chain,
        packet: &mut Packet,
        doubts: &mut Vec<String>,
        depth: usize,
    ) -> End {
        for (place, rule) in chain.rules.iter().enumerate() {
            let mut elements = Vec::new();
            let (truth, act) = match &rule.body {
                Body::Nft(expressions) => nft::judge(self, id, expressions, packet, &mut elements),
                Body::Xt(words) => xt::judge(words, packet),
            };
            let decider = |rule: &Rule| Decider {
                chain: id.clone(),
                place,
                text: rule.text.clone(),
                elements: elements.clone(),
                bare: rule.is_bare(),
            };
            match (truth, act) {
                (Truth::No, _) | (_, Act::Nothing) => {}
                (Truth::Maybe, _) => doubts.push(format!("{id}: {}", rule.text)),
                (Truth::Yes, Act::Verdict(verdict)) => return End::Decided(verdict, None, decider(rule)),
                (Truth::Yes, Act::Translate(nat)) => {
                    return End::Decided(Verdict::Accept, Some(nat), decider(rule));
                }
                (Truth::Yes, Act::Return) => return End::Return,
                (Truth::Yes, Act::Mark(mark)) => packet.mark = mark,
                (Truth::Yes, Act::MarkAnd(mark, then)) => {
                    packet.mark = mark;
                    return End::Decided(then, None, decider(rule));
                }
                (Truth::Yes, Act::Jump { to, back }) if depth < DEPTH => {
                    let target = ChainId {
                        chain: to,
                        ..id.clone()
                    };
                    let end = match self.chains.get(&target) {
                        Some(chain) => self.walk(&target, chain, packet, doubts, depth + 1),
                        None => End::Through,
                    };
                    match end {
                        End::Decided(..) => return end,
                        _ if !back => return End::Return,
                        _ => {}
                    }
                }
                (Truth::Yes, Act::Jump { .. }) => doubts.push(format!("{id}: {}", rule.text)),
            }
        }
        End::Through
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
