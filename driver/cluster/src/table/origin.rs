//! The rows of one host, and how news of them is taken in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tombolo_ipam::HostId;

use super::commons::Commons;
use super::gather::Gather;
use super::limits::{Limits, Refused};
use super::row::{Change, Content, Key, Row, until};
use super::version::{Cover, Version};
use super::view::Eye;
use crate::time::Tick;

/// How an admitted host stands with the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Its rows are visible.
    #[default]
    Shown,
    /// It failed: its rows are kept and kept up to date, and not visible.
    Hidden {
        /// Since when.
        since: Tick,
    },
    /// It failed long ago: its rows are gone, and none are taken until it is shown again.
    Aged,
}

/// The rows of one host.
///
/// They are always this: of each name the latest change among those in `cover` that are not void, and nothing where that
/// is a removal. Removals are kept as rows without a body until their life is over, and never beyond what is known
/// without a gap, so `swept <= cover.known()`: whoever knows less than `swept` may hold rows whose removal is forgotten.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub cover: Cover,
    pub swept: Version,
    pub rows: BTreeMap<Key, Row>,
    pub standing: Standing,
    pub gather: Option<Gather>,
    /// How many deltas were refused since one was taken.
    pub refusals: u32,
    /// The removals that are still told, and until when.
    graves: BTreeMap<(Version, Key), Tick>,
    /// No removal ends before this.
    due: Option<Tick>,
    bytes: usize,
}

/// News of a host's rows: of each name the latest.
#[derive(Debug)]
pub(super) struct News {
    /// What the news covers, in addition to what is covered already.
    pub cover: Cover,
    /// Whether it is all that the cover amounts to: rows in it that the news lacks are removed.
    pub full: bool,
    /// For a full one: up to where its removals may be forgotten.
    pub swept: Version,
    pub rows: BTreeMap<Key, (Version, Content)>,
}

/// How many rows (removals too) and bytes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Size {
    pub rows: usize,
    pub bytes: usize,
}

impl Size {
    /// This much with `now` in place of `before`, which is part of it.
    pub fn replacing(self, before: Self, now: Self) -> Self {
        Self {
            rows: (self.rows + now.rows).saturating_sub(before.rows),
            bytes: (self.bytes + now.bytes).saturating_sub(before.bytes),
        }
    }
}

impl News {
    /// The news that one change is.
    pub fn of(change: &Change) -> Self {
        let mut cover = Cover::default();
        cover.add(change.version);
        let row = (change.version, change.content.clone());
        let rows = BTreeMap::from([(change.key.clone(), row)]);
        Self {
            cover,
            full: false,
            swept: Version::default(),
            rows,
        }
    }
}

/// What taking news in would do.
pub(super) struct Plan {
    joined: Cover,
    swept: Version,
    put: Vec<(Key, Version, Content)>,
    remove: Vec<Key>,
    /// What there will be of the host.
    pub size: Size,
}

impl Plan {
    /// Has what is to be put in common with other tables.
    pub fn share(&mut self, commons: &Commons) {
        commons.share(self.put.iter_mut().map(|(key, _, content)| (key, content)));
    }
}

impl Origin {
    pub fn size(&self) -> Size {
        Size {
            rows: self.rows.len(),
            bytes: self.bytes,
        }
    }

    /// The time at which a removal's life ends.
    pub fn until(&self, version: Version, key: &Key) -> Option<Tick> {
        self.graves.get(&(version, key.clone())).copied()
    }

    /// What the news would do here.
    ///
    /// # Errors
    /// [`Refused`] if the host would have more than the limits allow.
    pub fn plan(&self, host: HostId, news: News, limits: &Limits) -> Result<Plan, Refused> {
        let mut joined = self.cover.clone();
        joined.join(&news.cover);
        let epoch = joined.known().epoch;
        let void = |version: Version| version.epoch < epoch;
        let mut remove = Vec::new();
        if news.full || epoch > self.cover.known().epoch {
            let gone = |key: &Key, row: &Row| {
                news.full && news.cover.contains(row.version) && !news.rows.contains_key(key)
            };
            let rows = self
                .rows
                .iter()
                .filter(|(key, row)| void(row.version) || gone(key, row));
            remove.extend(rows.map(|(key, _)| key.clone()));
        }
        // What was covered before came in then, or came and was removed, and must not come back.
        let fresh = |key: &Key, version: Version| {
            let later = self.rows.get(key).is_none_or(|row| row.version < version);
            later && !self.cover.contains(version) && joined.contains(version) && !void(version)
        };
        let rows = news.rows.into_iter();
        let put: Vec<_> = rows
            .filter(|(key, (version, _))| fresh(key, *version))
            .map(|(key, (version, content))| (key, version, content))
            .collect();
        if !remove.is_empty() {
            let again: BTreeSet<&Key> = put.iter().map(|(key, ..)| key).collect();
            remove.retain(|key| !again.contains(key));
        }
        let swept = match joined.known().epoch > self.swept.epoch {
            true => Version::new(epoch, 0),
            false => self.swept,
        };
        let swept = if news.full && news.swept.epoch == epoch {
            swept.max(news.swept)
        } else {
            swept
        };
        let size = self.size_after(host, &put, &remove, &joined, limits)?;
        Ok(Plan {
            joined,
            swept,
            put,
            remove,
            size,
        })
    }

    fn size_after(
        &self,
        host: HostId,
        put: &[(Key, Version, Content)],
        remove: &[Key],
        joined: &Cover,
        limits: &Limits,
    ) -> Result<Size, Refused> {
        let (mut size, mut graves) = (self.size(), self.graves.len());
        for key in remove.iter().chain(put.iter().map(|(key, ..)| key)) {
            if let Some(row) = self.rows.get(key) {
                size.rows -= 1;
                size.bytes -= row.size(key);
                graves -= usize::from(row.body.is_none());
            }
        }
        for (key, _, content) in put {
            size.rows += 1;
            size.bytes += key.as_str().len();
            match content {
                Content::Body(body) => size.bytes += body.len(),
                Content::Removed { .. } => graves += 1,
            }
        }
        let refuse = |what, got, at_most| {
            Err(Refused::OfHost {
                host,
                what,
                got,
                at_most,
            })
        };
        let rows = size.rows - graves;
        if rows > limits.rows_per_host {
            return refuse("rows", rows, limits.rows_per_host);
        }
        if size.bytes > limits.bytes_per_host {
            return refuse("bytes", size.bytes, limits.bytes_per_host);
        }
        if graves > limits.rows_per_host {
            // Those that are known without a gap can be swept early; the others have to wait for what is missing.
            let early = self.graves_up_to(joined.known()).count()
                + put
                    .iter()
                    .filter(|(_, version, _)| *version <= joined.known())
                    .count();
            if graves.saturating_sub(early) > limits.rows_per_host {
                return refuse("removals", graves, limits.rows_per_host);
            }
        }
        Ok(size)
    }

    /// Does what was planned; answers how many rows it wrote or took away.
    pub fn carry_out(&mut self, plan: Plan, now: Tick, limits: &Limits, eye: &mut Eye<'_>) -> usize {
        let Plan {
            joined,
            swept,
            put,
            remove,
            size: _,
        } = plan;
        let changed = put.len() + remove.len();
        for key in &remove {
            if let Some(row) = self.take(key) {
                eye.note(key, row.body, None);
            }
        }
        for (key, version, content) in put {
            let before = self.take(&key).and_then(|row| row.body);
            let body = match content {
                Content::Body(body) => Some(body),
                Content::Removed { left_s } => {
                    let until = until(now, left_s, limits.removal_life);
                    self.due = Some(self.due.map_or(until, |due| due.min(until)));
                    self.graves.insert((version, key.clone()), until);
                    None
                }
            };
            eye.note(&key, before, body.as_ref());
            let row = Row { version, body };
            self.bytes += row.size(&key);
            self.rows.insert(key, row);
        }
        self.cover = joined;
        self.swept = swept;
        if self
            .gather
            .as_ref()
            .is_some_and(|gather| gather.goal.within(&self.cover))
        {
            self.gather = None;
        }
        while self.graves.len() > limits.rows_per_host && self.sweep_first() {}
        changed
    }

    /// Forgets the removals whose life is over.
    pub fn sweep(&mut self, now: Tick) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let known = self.graves_up_to(self.cover.known());
        let over = known
            .filter(|(_, until)| **until <= now)
            .map(|(grave, _)| grave.clone());
        for (version, key) in over.collect::<Vec<_>>() {
            self.sweep_one(version, &key);
        }
        self.due = self.graves.values().min().copied();
    }

    /// The rows whose changes are not in the cover, earliest first; all rows without a cover.
    pub fn rows_beyond(&self, cover: Option<&Cover>) -> Vec<(&Key, &Row)> {
        let beyond = |row: &Row| cover.is_none_or(|cover| !cover.contains(row.version));
        let mut rows: Vec<_> = self.rows.iter().filter(|(_, row)| beyond(row)).collect();
        rows.sort_unstable_by_key(|(_, row)| row.version);
        rows
    }

    /// The rows with a body.
    pub fn live(&self) -> impl Iterator<Item = (&Key, &Arc<[u8]>)> {
        self.rows
            .iter()
            .filter_map(|(key, row)| row.body.as_ref().map(|body| (key, body)))
    }

    /// Whether it failed longer ago than `life`.
    pub fn outlived(&self, now: Tick, life: Duration) -> bool {
        matches!(self.standing, Standing::Hidden { since } if now.since(since) >= life)
    }

    /// The removals that are known without a gap.
    fn graves_up_to(&self, known: Version) -> impl Iterator<Item = (&(Version, Key), &Tick)> {
        self.graves
            .iter()
            .take_while(move |((version, _), _)| *version <= known)
    }

    /// Sweeps the earliest removal, whatever is left of its life; false if there is none that is known without a gap.
    fn sweep_first(&mut self) -> bool {
        let first = self
            .graves_up_to(self.cover.known())
            .next()
            .map(|(grave, _)| grave.clone());
        first
            .inspect(|(version, key)| self.sweep_one(*version, key))
            .is_some()
    }

    fn sweep_one(&mut self, version: Version, key: &Key) {
        self.take(key);
        self.swept = self.swept.max(version);
    }

    /// Takes a row out, with its grave.
    fn take(&mut self, key: &Key) -> Option<Row> {
        let row = self.rows.remove(key)?;
        self.bytes -= row.size(key);
        if row.body.is_none() {
            self.graves.remove(&(row.version, key.clone()));
        }
        Some(row)
    }
}
