//! What came of a run, in a few lines.

use std::collections::BTreeMap;
use std::time::Duration;

use super::churn::Churn;
use super::ledger::{Ledger, Verdict};
use super::script::{Event, Sort};
use super::windows::Windows;

/// What came of the events of a sort.
#[derive(Debug, Default)]
struct Line {
    count: usize,
    streams: usize,
    window: Duration,
    gap: Duration,
    allowed: u64,
    faults: usize,
}

/// What came of all.
#[derive(Debug, Default)]
pub struct Table {
    lines: BTreeMap<Sort, Line>,
    judged: u64,
}

impl Table {
    /// Takes in an event that is over.
    pub fn add(&mut self, event: &Event, verdict: &Verdict, windows: &Windows) {
        let line = self.lines.entry(event.sort).or_default();
        line.count += 1;
        line.streams = line.streams.max(windows.streams());
        line.window = line.window.max(windows.longest());
        line.gap = line.gap.max(verdict.gap);
        line.allowed += verdict.allowed;
        line.faults += verdict.faults.len();
        self.judged += verdict.judged;
    }

    /// As text.
    pub fn told(&self, ledger: &Ledger, churn: &Churn) -> String {
        let mut text = format!(
            "{:15}{:>6}{:>18}{:>10}{:>18}{:>8}{:>8}\n",
            "event", "count", "streams may lose", "for (ms)", "longest gap (ms)", "lost", "faults"
        );
        for (sort, line) in &self.lines {
            text += &format!(
                "{:15}{:>6}{:>18}{:>10}{:>18}{:>8}{:>8}\n",
                sort.name(),
                line.count,
                line.streams,
                line.window.as_millis(),
                line.gap.as_millis(),
                line.allowed,
                line.faults
            );
        }
        let (came, reordered) = ledger.totals();
        let seconds = ledger.now().as_secs();
        text + &format!(
            "{} datagrams judged in {seconds} s, {came} came, {reordered} of them behind a later one; {} containers came and went meanwhile",
            self.judged,
            churn.count()
        )
    }
}
