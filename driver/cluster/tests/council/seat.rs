//! A council at a table of its own: what it is told, what it knows, what it does.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, Decree, Held};
use tombolo_cluster::council::{
    Acceptor, Act, Ballot, Context, Council, Kept, Outcome, Shares, Witness, Word,
};
use tombolo_cluster::time::Tick;

use crate::host;

/// A host that knows these shares and has this to say against anything.
pub struct Eyes {
    pub held: Shares,
    pub against: Vec<String>,
    /// Whether it has read the shares of all members.
    pub read: bool,
}

impl Witness for Eyes {
    fn is_sure(&self, _: &BTreeSet<HostId>, _: &Charter) -> bool {
        true
    }

    fn held(&self, host: HostId) -> BTreeMap<IpNet, Held> {
        self.held.get(&host).cloned().unwrap_or_default()
    }
    fn objections(&self, _: &Decree, _: &Charter) -> Vec<String> {
        self.against.clone()
    }
    fn read(&self, charter: &Charter) -> BTreeSet<HostId> {
        charter.hosts.keys().copied().filter(|_| self.read).collect()
    }
}

/// A council with what it knows, and what it did.
pub struct Seat {
    pub council: Council,
    pub eyes: Eyes,
    pub alive: BTreeSet<HostId>,
}

impl Seat {
    pub fn new(me: usize, charter: &Charter) -> Self {
        Self::kept(me, charter, None)
    }

    pub fn kept(me: usize, charter: &Charter, kept: Option<Acceptor>) -> Self {
        let council = Council::new(host(me), charter.clone(), kept, me as u64);
        Self {
            council,
            eyes: Eyes {
                held: Shares::new(),
                against: Vec::new(),
                read: true,
            },
            alive: charter.hosts.keys().copied().collect(),
        }
    }

    pub fn call(&mut self, what: impl FnOnce(&mut Council, Context<'_>) -> Vec<Act>) -> Vec<Act> {
        what(
            &mut self.council,
            Context {
                alive: &self.alive,
                witness: &self.eyes,
            },
        )
    }

    pub fn propose(&mut self, now: u64, ticket: u64, wish: &Decree) -> Vec<Act> {
        self.call(|council, ctx| council.propose(Tick(now), ticket, wish, Tick(now + 2000), ctx))
    }

    pub fn hear(&mut self, now: u64, from: usize, word: Word) -> Vec<Act> {
        self.call(|council, ctx| council.hear(Tick(now), host(from), word, ctx))
    }

    pub fn tick(&mut self, now: u64) -> Vec<Act> {
        self.call(|council, ctx| council.tick(Tick(now), ctx))
    }
}

/// The words of these acts, each once, without the question whether one is behind.
pub fn said(acts: &[Act]) -> Vec<Word> {
    let word = |act: &Act| match act {
        Act::Say(_, word) if !matches!(word, Word::Behind { .. }) => Some(word.clone()),
        _ => None,
    };
    acts.iter().filter_map(word).collect()
}

pub fn outcomes(acts: &[Act]) -> Vec<(u64, Outcome)> {
    let done = |act: &Act| match act {
        Act::Done(ticket, outcome) => Some((*ticket, outcome.clone())),
        _ => None,
    };
    acts.iter().filter_map(done).collect()
}

pub fn kept(acts: &[Act]) -> Option<Acceptor> {
    let acceptor = |act: &Act| match act {
        Act::Keep(Kept::Acceptor(acceptor)) => Some((**acceptor).clone()),
        _ => None,
    };
    acts.iter().rev().find_map(acceptor)
}

pub fn ballot(round: u64, by: usize) -> Ballot {
    Ballot {
        round,
        host: host(by),
    }
}

pub fn promise(slot: u64, round: u64, by: usize) -> Word {
    Word::Promise {
        slot,
        ballot: ballot(round, by),
        accepted: None,
        held: Shares::new(),
    }
}
