//! Which streams may lose datagrams, from when until when.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ledger::Stream;
use super::seats::Seats;

/// What was sent that long before something happened may still have been under way.
const BEFORE: Duration = Duration::from_millis(100);

/// Some streams and a time.
#[derive(Debug)]
struct Window {
    why: String,
    who: BTreeSet<Stream>,
    from: Duration,
    /// None while what happened goes on.
    until: Option<Duration>,
}

/// The windows of an event.
#[derive(Debug, Default)]
pub struct Windows(Vec<Window>);

impl Windows {
    /// From now on these streams may lose datagrams, until the window is closed by its number.
    pub fn open(&mut self, why: &str, who: BTreeSet<Stream>, now: Duration) -> usize {
        self.0.push(Window {
            why: why.to_owned(),
            who,
            from: now.saturating_sub(BEFORE),
            until: None,
        });
        self.0.len() - 1
    }

    /// A window ends.
    pub fn close(&mut self, number: usize, until: Duration) {
        self.0[number].until = Some(until);
    }

    /// Whether a datagram of a stream that was sent then may be lost.
    pub fn allow(&self, stream: Stream, sent: Duration) -> bool {
        let within = |window: &Window| window.from <= sent && window.until.is_none_or(|until| sent <= until);
        self.0
            .iter()
            .any(|window| within(window) && window.who.contains(&stream))
    }

    /// How many streams may lose something.
    pub fn streams(&self) -> usize {
        let all: BTreeSet<&Stream> = self.0.iter().flat_map(|window| &window.who).collect();
        all.len()
    }

    /// The longest time that a stream may be without.
    pub fn longest(&self) -> Duration {
        let each = self.0.iter().filter(|window| !window.who.is_empty());
        each.filter_map(|window| Some(window.until? - window.from))
            .max()
            .unwrap_or_default()
    }

    /// When the last one ends.
    pub fn end(&self) -> Duration {
        let ends = self.0.iter().filter_map(|window| window.until);
        ends.max().unwrap_or_default()
    }

    /// The event is over.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All of them as text.
    pub fn told(&self, seats: &Seats) -> String {
        let lines = self.0.iter().map(|window| {
            let until = window
                .until
                .map_or("-".to_owned(), |until| format!("{:.3}", until.as_secs_f64()));
            let from = window.from.as_secs_f64();
            let who: Vec<String> = window.who.iter().map(|stream| seats.told(*stream)).collect();
            format!(
                "  {} from {from:.3} s to {until} s: {}",
                window.why,
                who.join(", ")
            )
        });
        let lines: Vec<String> = lines.collect();
        match lines.is_empty() {
            true => "  nothing".to_owned(),
            false => lines.join("\n"),
        }
    }
}
