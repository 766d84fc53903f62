//! What was asked of a run, and what was found.

use std::time::Duration;

use system_tests::{say, wait};

/// How long the kernel may take to forget a connection that has ended, and tombolo to end a thread that idles.
const FORGOTTEN: Duration = Duration::from_secs(180);

/// How many findings of one sort are shown.
const SHOWN: usize = 10;

/// What was asked, with what speaks against it.
#[derive(Default)]
pub struct Verdict(Vec<(&'static str, Vec<String>)>);

impl Verdict {
    /// Notes what was asked, and what was found against it.
    pub fn that(&mut self, asked: &'static str, against: Vec<String>) {
        let word = if against.is_empty() { "yes" } else { "NO" };
        say(&format!("soak: {asked}: {word}"));
        self.0.push((asked, against));
    }

    /// Whether nothing was found.
    pub fn good(&self) -> bool {
        self.0.iter().all(|(_, against)| against.is_empty())
    }

    /// All of it, a line each.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (asked, against) in &self.0 {
            let word = if against.is_empty() { "yes" } else { "NO" };
            text += &format!("- {asked}: {word}\n");
            for line in against.iter().take(SHOWN) {
                text += &format!("    {line}\n");
            }
            if against.len() > SHOWN {
                text += &format!("    and {} more\n", against.len() - SHOWN);
            }
        }
        text + if self.good() { "Passed." } else { "FAILED." }
    }
}

/// Looks until nothing is found any more, or it is certain to stay.
pub fn patiently(mut look: impl FnMut() -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    wait::within(FORGOTTEN, || {
        found = look();
        found.is_empty().then_some(())
    });
    found
}
