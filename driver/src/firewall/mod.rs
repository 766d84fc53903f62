//! What all packet filter rules of this host, whoever's they are, would do with a packet: pure, from listings.
//!
//! ```text
//!   listings ──read──> Ruleset ──pass(hook, packet)──> what each base chain says, and the packet as it goes on
//!                         nft   rules that nft wrote as JSON
//!                         xt    rules that iptables wrote, where nft can't read them
//! ```
//!
//! Nothing here knows what our own table looks like: it is walked as it is listed, like everybody's.
//!
//! Truth has three values. A match that we can't judge (an extension, a field that the asker left open) is a *maybe*: the
//! walk goes on as though the rule were not there, and is then made again as though it matched. If that ends otherwise,
//! the rule is a doubt. So is whatever does something that we can't follow.

mod field;
mod nft;
mod packet;
mod read;
#[cfg(test)]
mod tests;
mod walk;
mod xt;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

pub use packet::{Ends, Layer4, Nic, Packet, State};
pub use read::read;
pub use walk::{Could, Doubt, Nat, Seen, Verdict};

/// Where in the kernel a base chain is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// As a packet has come in, before it is known whom it is for.
    Prerouting,
    /// For this host itself.
    Input,
    /// For somebody else.
    Forward,
    /// Made on this host.
    Output,
    /// As it leaves.
    Postrouting,
    /// As it comes in by a certain link, before everything else.
    Ingress,
    /// As it leaves by a certain link, after everything else.
    Egress,
}

impl Hook {
    fn of(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "prerouting" => Some(Self::Prerouting),
            "input" => Some(Self::Input),
            "forward" => Some(Self::Forward),
            "output" => Some(Self::Output),
            "postrouting" => Some(Self::Postrouting),
            "ingress" => Some(Self::Ingress),
            "egress" => Some(Self::Egress),
            _ => None,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// The name of a chain. `legacy` stands before the family for tables of the kernel's older iptables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainId {
    /// Its family, as nft names it.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its own name.
    pub chain: String,
    /// It is one of the kernel's older iptables, beside nftables.
    pub legacy: bool,
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.legacy {
            return write!(f, "{} (legacy) {} {}", self.family, self.table, self.chain);
        }
        write!(f, "{} {} {}", self.family, self.table, self.chain)
    }
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Where it is asked.
    pub hook: Hook,
    /// In which order.
    pub priority: i64,
    /// It translates addresses, so it is asked about new connections only.
    pub nat: bool,
    /// What no rule of it decides is dropped.
    pub drops: bool,
}

/// A chain with its rules.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// Where and when it is asked, if it is one that the kernel asks.
    pub base: Option<Base>,
    /// The links that it is asked about, if it is for certain ones.
    pub links: Vec<String>,
    /// Its rules, in their order.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// As its program lists it.
    pub text: String,
    body: Body,
}

impl Rule {
    /// Whether a name stands in it as a whole.
    pub fn names(&self, name: &str) -> bool {
        match &self.body {
            Body::Nft(expressions) => expressions.iter().any(|e| holds(e, name)),
            Body::Xt(words) => words.iter().any(|word| word == name),
        }
    }

    /// Whether it matches whatever comes.
    fn is_bare(&self) -> bool {
        match &self.body {
            Body::Nft(expressions) => {
                let words = [
                    "match", "vmap", "xt", "limit", "quota", "ct count", "set", "map", "meter",
                ];
                let asks = |e: &Value| words.iter().any(|word| e.get(word).is_some());
                !expressions.iter().any(asks)
            }
            // `-A CHAIN -j TARGET`, and options of the target.
            Body::Xt(words) => words.get(2).is_some_and(|word| word == "-j" || word == "-g"),
        }
    }
}

/// Whether a text is somewhere in a value.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Array(values) => values.iter().any(|value| holds(value, text)),
        Value::Object(fields) => fields.values().any(|value| holds(value, text)),
        _ => false,
    }
}

#[derive(Debug, Clone)]
enum Body {
    /// The expressions of nft's JSON.
    Nft(Vec<Value>),
    /// The words of a line of `iptables-save`.
    Xt(Vec<String>),
}

/// A set or map: its elements as nft's JSON has them.
type SetId = (String, String, String);

/// All rules of a host.
#[derive(Debug, Clone, Default)]
pub struct Ruleset {
    /// All chains.
    pub chains: BTreeMap<ChainId, Chain>,
    sets: BTreeMap<SetId, Vec<Value>>,
}

impl Ruleset {
    /// The base chains of a hook that packets of a family pass, in the kernel's order.
    pub fn base_chains(&self, hook: Hook, families: &[&str]) -> Vec<(&ChainId, &Chain, Base)> {
        let of_hook = |(id, chain): (&'_ ChainId, &'_ Chain)| {
            let base = chain.base.filter(|base| base.hook == hook)?;
            families.contains(&id.family.as_str()).then_some(base)
        };
        let mut found: Vec<_> = self
            .chains
            .iter()
            .filter_map(|(id, chain)| of_hook((id, chain)).map(|base| (id, chain, base)))
            .collect();
        found.sort_by_key(|(_, _, base)| base.priority);
        found
    }

    /// Whether there is a table.
    pub fn has_table(&self, family: &str, table: &str) -> bool {
        self.chains
            .keys()
            .any(|id| id.family == family && id.table == table && !id.legacy)
    }
}

/// Whether something holds, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Maybe,
}

impl Truth {
    fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }
}
