//! What a trace tells: hop by hop, and how it ends.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Value, json};

use crate::firewall::{Could, Doubt};

/// How a packet fares at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mood {
    /// It goes on.
    Goes,
    /// It goes on, but there is something to know.
    Mind,
    /// It ends here.
    Dies,
}

/// One place on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Hop {
    /// Where: `container web`, `bridge tb-1`, `host`, `table inet tombolo` …
    pub at: String,
    /// How it fares there.
    pub mood: Mood,
    /// What happens.
    pub what: String,
    /// Rules and elements that decide it, as their programs list them.
    pub rules: Vec<String>,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fate {
    /// It reaches somebody who takes it.
    Arrives,
    /// It leaves this host; what is beyond can't be seen from here.
    Leaves,
    /// It reaches its host, where nobody listens: the sender is told.
    Refused,
    /// It is lost.
    Dies,
    /// It can't be told.
    Unsure,
}

/// The end of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    pub fate: Fate,
    /// Where it arrives or dies.
    pub at: String,
    /// Why, or what happens there.
    pub why: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Ending {
    pub fn new(fate: Fate, at: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            fate,
            at: at.into(),
            why: why.into(),
            remedy: None,
        }
    }

    /// The same, as sure as it can be with these doubts: a packet that dies is dead whatever would have stopped it before.
    pub fn in_doubt(self, doubts: &[Doubt]) -> Self {
        let without = match self.fate {
            Fate::Arrives => "arrives",
            Fate::Leaves => "leaves",
            Fate::Refused => "is refused",
            Fate::Dies => "dies",
            Fate::Unsure => return self,
        };
        let matters = |doubt: &Doubt| self.fate != Fate::Dies || doubt.could == Could::Change;
        let Some(doubt) = doubts.iter().find(|doubt| matters(doubt)) else {
            return self;
        };
        let why = format!(
            "something that can't be judged could decide otherwise ({}); if it doesn't, the packet {without} here: {}",
            doubt.text, self.why
        );
        Self {
            fate: Fate::Unsure,
            why,
            ..self
        }
    }

    pub fn dies(at: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::new(Fate::Dies, at, why)
        }
    }
}

/// A trace.
#[derive(Debug, Clone)]
pub(super) struct Story {
    pub hops: Vec<Hop>,
    pub end: Ending,
    /// The largest packet that gets through whole, in bytes.
    pub path_mtu: Option<u32>,
    /// The address that the other end sees.
    pub seen_as: Option<IpAddr>,
    /// What could have decided otherwise and can't be judged.
    pub doubts: Vec<String>,
}

impl Story {
    pub fn document(&self, from: &str, to: &str) -> Value {
        json!({
            "from": from,
            "to": to,
            "hops": self.hops,
            "fate": self.end.fate,
            "at": self.end.at,
            "why": self.end.why,
            "remedy": self.end.remedy,
            "path_mtu": self.path_mtu,
            "seen_as": self.seen_as,
            "doubts": self.doubts,
        })
    }

    pub fn text(&self, from: &str, to: &str) -> String {
        let mut text = format!("{from} -> {to}\n\n");
        let width = self
            .hops
            .iter()
            .map(|hop| hop.at.chars().count())
            .max()
            .unwrap_or(0);
        for hop in &self.hops {
            let sign = match hop.mood {
                Mood::Goes => ' ',
                Mood::Mind => '!',
                Mood::Dies => 'X',
            };
            text.push_str(&format!("{sign} {:<width$}  {}\n", hop.at, hop.what));
            for rule in &hop.rules {
                text.push_str(&format!("  {:<width$}    {rule}\n", ""));
            }
        }
        for doubt in &self.doubts {
            text.push_str(&format!(
                "? this can't be judged, and might decide otherwise: {doubt}\n"
            ));
        }
        text.push('\n');
        if let Some(address) = self.seen_as {
            text.push_str(&format!("The other end sees {address}. "));
        }
        if let Some(mtu) = self.path_mtu {
            text.push_str(&format!("Packets of up to {mtu} bytes get through whole."));
        }
        if !text.ends_with('\n') {
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        let Ending {
            fate,
            at,
            why,
            remedy,
        } = &self.end;
        let word = match fate {
            Fate::Arrives => "ARRIVES",
            Fate::Leaves => "LEAVES this host",
            Fate::Refused => "REFUSED",
            Fate::Dies => "DIES",
            Fate::Unsure => "UNSURE",
        };
        let remedy = remedy
            .as_ref()
            .map(|remedy| format!(" To do: {remedy}"))
            .unwrap_or_default();
        text.push_str(&format!("{word} at {at}: {why}.{remedy}\n"));
        text.lines()
            .map(|line| format!("{}\n", plain(line).trim_end()))
            .collect()
    }
}

/// Names and rules that others wrote, without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
