//! What befalls the hosts, in an order that follows from the seed.

use std::fmt;
use std::time::Duration;

use system_tests::draw::Draw;

use super::seats::{HOSTS, SEATS};

/// How many events a run has, unless said otherwise.
pub const EVENTS: usize = 18;

/// A sort of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// Other containers start and stop on all hosts at once.
    Churn,
    /// A container is removed, and one with its addresses is started on another host.
    Move,
    /// Tombolo is stopped and started.
    Restart,
    /// Tombolo is killed and started.
    Kill,
    /// A new tombolo takes over from the old one, on each host.
    TakeOver,
    /// The engine is stopped and started; its containers go on.
    Daemon,
    /// A host loses its power, and is started again once the others have noticed.
    Death,
    /// A host is cut off from the others, for less time than they need to notice.
    Partition,
    /// A host is cut off from the others until both sides have noticed.
    LongPartition,
    /// A host's cable is pulled out and put in again.
    Flap,
    /// Rows are deleted from a host's kernel.
    Rows,
    /// The cluster gets another key.
    Rotate,
}

impl Sort {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Churn,
        Self::Move,
        Self::Restart,
        Self::Kill,
        Self::TakeOver,
        Self::Daemon,
        Self::Death,
        Self::Partition,
        Self::LongPartition,
        Self::Flap,
        Self::Rows,
        Self::Rotate,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Churn => "churn",
            Self::Move => "move",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::TakeOver => "take-over",
            Self::Daemon => "dockerd",
            Self::Death => "death",
            Self::Partition => "partition",
            Self::LongPartition => "long-partition",
            Self::Flap => "flap",
            Self::Rows => "rows",
            Self::Rotate => "rotate-key",
        }
    }

    /// The one that is called so.
    pub fn named(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|sort| sort.name() == name);
        found.unwrap_or_else(|| panic!("no sort of event is called {name}"))
    }

    /// Whether it takes so long that it comes once where others come twice.
    fn is_long(self) -> bool {
        matches!(self, Self::Death | Self::LongPartition)
    }
}

/// An event. All that is chosen is chosen here, so that how a run goes changes nothing of those that follow.
#[derive(Debug, Clone)]
pub struct Event {
    pub sort: Sort,
    /// The host that it befalls.
    pub host: usize,
    /// The seat that it befalls.
    pub seat: usize,
    /// How long what is taken away stays away.
    pub pause: Duration,
    /// For what depends on what there is by then.
    pub draw: Draw,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = ["a", "b", "c"][self.host];
        write!(
            f,
            "{} (host {host}, seat {}, {:?})",
            self.sort.name(),
            self.seat,
            self.pause
        )
    }
}

/// Events without an end: decks of all sorts, each shuffled; long ones are in every second one.
#[derive(Debug)]
pub struct Script {
    draw: Draw,
    sorts: Vec<Sort>,
    deck: Vec<Sort>,
    decks: usize,
}

impl Script {
    /// Events of these sorts.
    pub fn new(draw: Draw, sorts: Vec<Sort>) -> Self {
        Self {
            draw,
            sorts,
            deck: Vec::new(),
            decks: 0,
        }
    }
}

impl Iterator for Script {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        while self.deck.is_empty() {
            let all = self.decks.is_multiple_of(2);
            self.deck = self
                .sorts
                .iter()
                .copied()
                .filter(|sort| all || !sort.is_long())
                .collect();
            self.draw.shuffle(&mut self.deck);
            self.decks += 1;
        }
        let sort = self.deck.pop()?;
        let draw = &mut self.draw;
        Some(Event {
            sort,
            host: draw.below(HOSTS),
            seat: draw.below(SEATS),
            pause: draw.millis(500, 4000),
            draw: Draw::of(draw.number()),
        })
    }
}
