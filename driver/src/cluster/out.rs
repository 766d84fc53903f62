//! Staying out: a host that was told to leave, or was forgotten, doesn't join again because its settings still say so.
//!
//! The mark is a record of its own, kept in the same write as what makes the host none of the cluster. It ends where
//! somebody says otherwise: by `tombolo cluster join` or `init`, or by another value of the setting `join`.

use serde::{Deserialize, Serialize};

/// The record's key.
pub const RECORD: &str = "out";

/// That this host stays out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What the setting `join` was then.
    join: String,
    because: Because,
}

/// Why it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Because {
    /// It was told to leave.
    Left,
    /// The cluster let it in, it did not hear of that, and was forgotten meanwhile.
    Forgotten,
}

impl Mark {
    /// A mark that holds as long as the setting says this; none where it names nobody.
    pub fn of(join: &str, because: Because) -> Option<Self> {
        let join = join.to_owned();
        (join != "off").then_some(Self { join, because })
    }

    /// Whether it holds for what the setting says now.
    pub fn holds(&self, join: &str) -> bool {
        self.join == join
    }

    /// Why this host is in no cluster, and what is to be done if it is to be in one.
    pub fn text(&self) -> String {
        let why = match self.because {
            Because::Left => "was told to leave its cluster",
            Because::Forgotten => "was forgotten by the cluster that it was about to join",
        };
        format!(
            "this host {why}, so the setting join ({}) is not followed: use 'tombolo cluster join' or 'init' if it is to be in \
             one again, or change the setting",
            self.join
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_until_the_setting_is_another_one() {
        let mark = Mark::of("192.0.2.1,192.0.2.2", Because::Left).expect("a mark");
        assert!(mark.holds("192.0.2.1,192.0.2.2"));
        for other in ["192.0.2.1", "192.0.2.2,192.0.2.1", "off"] {
            assert!(!mark.holds(other), "{other}");
        }
        assert_eq!(Mark::of("off", Because::Left), None);
    }

    #[test]
    fn a_mark_says_why_and_what_to_do() {
        for (because, why) in [
            (Because::Left, "told to leave"),
            (Because::Forgotten, "was forgotten"),
        ] {
            let text = Mark::of("192.0.2.1", because)
                .map(|mark| mark.text())
                .unwrap_or_default();
            for part in [why, "192.0.2.1", "'tombolo cluster join'", "change the setting"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }
}
