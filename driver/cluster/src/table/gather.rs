//! A delta that comes in pieces: collected aside, so that nobody sees half of it.

use std::collections::BTreeMap;

use super::limits::Limits;
use super::origin::News;
use super::row::{Content, Key};
use super::version::{Cover, Version};
use crate::time::Tick;

/// The pieces of a delta that have come. It may go on from another host than the one it began with.
#[derive(Debug)]
pub(super) struct Gather {
    /// Whether it began with nothing, rather than with what the table holds.
    pub full: bool,
    /// What it covers so far, with what it began with.
    pub cover: Cover,
    /// What it must cover to be complete: rows of a piece may be superseded by others of its sender.
    pub goal: Cover,
    /// Removals up to here were forgotten by its first sender, and none of their rows is here.
    pub swept: Version,
    rows: BTreeMap<Key, (Version, Content)>,
    bytes: usize,
    /// When the last piece came.
    pub touched: Tick,
}

impl Gather {
    pub fn new(full: bool, base: Cover, swept: Version, now: Tick) -> Self {
        let rows = BTreeMap::new();
        Self {
            full,
            goal: base.clone(),
            cover: base,
            swept,
            rows,
            bytes: 0,
            touched: now,
        }
    }

    /// Adds a piece: rows that are all in `cover`, of a sender that has `whole`.
    pub fn add(&mut self, now: Tick, cover: &Cover, whole: &Cover, rows: Vec<(Key, Version, Content)>) {
        for (key, version, content) in rows {
            let later = self.rows.get(&key).is_none_or(|(held, _)| *held < version);
            if later && !self.cover.contains(version) {
                self.bytes += size(&key, &content);
                if let Some((_, before)) = self.rows.insert(key.clone(), (version, content)) {
                    self.bytes -= size(&key, &before);
                }
            }
        }
        self.cover.join(cover);
        self.goal.join(whole);
        self.touched = now;
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.goal.within(&self.cover)
    }

    /// What of a host's limits it exceeds: the name, how much it has, and how much is allowed.
    pub fn excess(&self, limits: &Limits) -> Option<(&'static str, usize, usize)> {
        let rows = limits.rows_per_host.saturating_mul(2);
        match (self.rows.len() > rows, self.bytes > limits.bytes_per_host) {
            (true, _) => Some(("rows and removals", self.rows.len(), rows)),
            (_, true) => Some(("bytes", self.bytes, limits.bytes_per_host)),
            _ => None,
        }
    }

    /// What it amounts to.
    pub fn into_news(self) -> News {
        News {
            cover: self.cover,
            full: self.full,
            swept: self.swept,
            rows: self.rows,
        }
    }
}

fn size(key: &Key, content: &Content) -> usize {
    match content {
        Content::Body(body) => key.as_str().len() + body.len(),
        Content::Removed { .. } => key.as_str().len(),
    }
}
