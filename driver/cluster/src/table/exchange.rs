//! How two tables find out what one lacks of the other, and make good for it.
//!
//! ```text
//!   A                                         B
//!   digest, or 64 buckets       ------>       compares with its own
//!   missing(mask, heads)        <------       heads(mask) of the buckets that differ
//!   Head of what A has          ------>       delta(head)
//!   merge: New, or the next     <------       Delta
//!   Head to ask with
//! ```

use serde::{Deserialize, Serialize};
use tombolo_ipam::HostId;

use super::Table;
use super::gather::Gather;
use super::limits::{Refused, UNDER_WAY};
use super::origin::{News, Origin};
use super::row::{Content, Key, Row, left_s};
use super::version::{Cover, Version};
use crate::time::Tick;
use crate::wire::sum;

/// What somebody has of a host's rows: said to offer them, and said to ask for what is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose rows.
    pub origin: HostId,
    /// Which changes.
    pub cover: Cover,
    /// Removals up to here may be forgotten: whoever knows less needs the whole state.
    pub swept: Version,
}

/// What of two tables the other one has, or lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// What to ask the other one for, and from where on: last of all those whose rows were refused most
    /// often since some were taken.
    pub want: Vec<Head>,
    /// Hosts of which this table has what the other one lacks.
    pub have: Vec<HostId>,
    /// An own change that the other one has, and that this host never made.
    pub own_from_future: Option<Version>,
}

/// Rows of a host, from one table to another: what the asker lacks, or a piece of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Whose rows.
    pub origin: HostId,
    /// What the asker had when it asked. None: the whole state begins here, to be put in place of what the asker has.
    pub base: Option<Cover>,
    /// What this covers in addition.
    pub cover: Cover,
    /// What the sender has, if more is to follow.
    pub whole: Option<Cover>,
    /// The sender's forgotten removals, see [`Head`].
    pub swept: Version,
    /// The rows, earliest change first.
    pub rows: Vec<(Key, Version, Content)>,
}

/// What became of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// It was applied.
    New {
        /// How many rows it wrote or took away.
        rows: usize,
    },
    /// It holds nothing new. Nothing was changed.
    Known,
    /// It is a piece and was put aside; nothing is visible of it yet. This is what to ask with next, whomever.
    More(Head),
    /// It begins at what this table does not have (any more). Nothing was changed.
    Unfitting,
    /// It was not applied. Nothing was changed.
    Refused(Refused),
    /// It is said to be of our own rows, and this host never made the change. Nothing was changed.
    OwnFromFuture(Version),
}

/// How many buckets the hosts are spread over.
pub(super) const BUCKETS: usize = 64;

/// For each bucket a sum over what is covered of its hosts. A host of which nothing is known counts for nothing.
#[derive(Debug)]
pub(super) struct Sums([u64; BUCKETS]);

impl Default for Sums {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Sums {
    pub fn replace(&mut self, host: HostId, before: &Cover, now: &Cover) {
        if let Some(bucket) = self.0.get_mut(bucket(host)) {
            *bucket ^= sum_of(host, before) ^ sum_of(host, now);
        }
    }
}

fn bucket(host: HostId) -> usize {
    (sum(host.bytes()) % BUCKETS as u64) as usize
}

fn sum_of(host: HostId, cover: &Cover) -> u64 {
    let known = [cover.known().epoch, cover.known().count];
    let ahead = cover
        .ahead()
        .iter()
        .flat_map(|span| [span.epoch, span.first, span.last]);
    let numbers = known.into_iter().chain(ahead).flat_map(u32::to_le_bytes);
    match cover.is_empty() {
        true => 0,
        false => sum(host.bytes().into_iter().chain(numbers)),
    }
}

impl Origin {
    fn head(&self, origin: HostId) -> Head {
        Head {
            origin,
            cover: self.cover.clone(),
            swept: self.swept,
        }
    }

    /// Whether a host with this needs the whole state rather than what is new.
    fn is_beyond(&self, head: &Head) -> bool {
        head.cover.known().epoch < self.cover.known().epoch || head.cover.known().max(head.swept) < self.swept
    }
}

impl Table {
    /// A sum over what is covered of all hosts: two tables with the same one have the same, rows included.
    pub fn digest(&self) -> u64 {
        self.sums.0.iter().fold(0, |all, bucket| all ^ bucket)
    }

    /// The same for each of 64 groups of hosts.
    pub fn buckets(&self) -> [u64; BUCKETS] {
        self.sums.0
    }

    /// What this table has of the hosts in the buckets of the mask, of which bit `n` stands for bucket `n`.
    pub fn heads(&self, mask: u64) -> Vec<Head> {
        let told = self.origins.iter().filter(|(_, origin)| !origin.cover.is_empty());
        told.filter(|(host, _)| mask >> bucket(**host) & 1 == 1)
            .map(|(host, origin)| origin.head(*host))
            .collect()
    }

    /// What the other table has and this one lacks, and the other way round, among the hosts in the mask's buckets.
    /// Hosts that are not admitted here, or were aged out, are passed over.
    pub fn missing(&mut self, mask: u64, theirs: &[Head]) -> Missing {
        let mut missing = Missing::default();
        let mut told = std::collections::BTreeSet::new();
        for head in theirs.iter().filter(|head| mask >> bucket(head.origin) & 1 == 1) {
            let Ok(origin) = self.accepting(head.origin) else {
                continue;
            };
            let first = told.insert(head.origin);
            if first && !origin.cover.within(&head.cover) {
                missing.have.push(head.origin);
            }
            if !first || head.cover.within(&origin.cover) {
                continue;
            }
            if head.origin == self.me {
                missing.own_from_future = Some(head.cover.top());
                continue;
            }
            match &origin.gather {
                // What is under way goes on where it stands, with whoever has more of it.
                Some(gather) if !gather.may_go_on_with(&head.cover) => {}
                Some(gather) if head.cover.within(&gather.cover) => {}
                Some(gather) => missing.want.push(gather.head(head.origin)),
                None => missing.want.push(origin.head(head.origin)),
            }
        }
        // One answer holds only so much. Whose rows are refused keeps nobody else's away.
        let refusals = |head: &Head| self.origins.get(&head.origin).map(|origin| origin.refusals);
        missing.want.sort_by_key(refusals);
        let untold = self.heads(mask).into_iter().map(|head| head.origin);
        missing.have.extend(untold.filter(|host| !told.contains(host)));
        if missing.own_from_future.is_some() {
            self.own_came_back(missing.own_from_future);
        }
        missing
    }

    /// What somebody with this head lacks of the host's rows: all of it, or a first piece of about `max_bytes` encoded
    /// and at least one row. None if there is nothing.
    pub fn delta(&self, now: Tick, head: &Head, max_bytes: usize) -> Option<Delta> {
        let origin = self.accepting(head.origin).ok()?;
        if origin.cover.within(&head.cover) {
            return None;
        }
        let base = (!origin.is_beyond(head)).then(|| head.cover.clone());
        let lacking = origin.rows_beyond(base.as_ref());
        let spans = base.as_ref().map_or(0, |base| base.ahead().len()) + 2 * origin.cover.ahead().len();
        let room = max_bytes.saturating_sub(HEADER_BYTES + SPAN_BYTES * spans);
        let mut used = 0_usize;
        let fitting = lacking.iter().take_while(|(key, row)| {
            let first = used == 0;
            used = used.saturating_add(row.size(key) + ROW_BYTES);
            first || used <= room
        });
        let fitting = fitting.count();
        let last = fitting.checked_sub(1).and_then(|last| lacking.get(last));
        let (cover, whole) = match last {
            Some((_, row)) if fitting < lacking.len() => {
                (origin.cover.up_to_only(row.version), Some(origin.cover.clone()))
            }
            _ => (origin.cover.clone(), None),
        };
        let told = |(key, row): &(&Key, &Row)| {
            let until = || origin.until(row.version, key).unwrap_or(now);
            let removed = || Content::Removed {
                left_s: left_s(now, until()),
            };
            (
                (*key).clone(),
                row.version,
                row.body.clone().map_or_else(removed, Content::Body),
            )
        };
        let rows = lacking.iter().take(fitting).map(told).collect();
        Some(Delta {
            origin: head.origin,
            base,
            cover,
            whole,
            swept: origin.swept,
            rows,
        })
    }

    /// Applies a delta that came from elsewhere. One that comes in pieces is collected and applied at its last, so that
    /// nobody sees half of it. Own rows are never taken.
    pub fn merge(&mut self, now: Tick, delta: Delta) -> Merged {
        if delta.origin == self.me {
            let top = delta.whole.as_ref().map_or(delta.cover.top(), Cover::top);
            let future = (top > self.own_version()).then_some(top);
            return self
                .own_came_back(future)
                .map_or(Merged::Known, Merged::OwnFromFuture);
        }
        let host = delta.origin;
        let merged = self.take_delta(now, delta).unwrap_or_else(|refused| {
            self.faults.refused(&refused, self.limits.hosts);
            Merged::Refused(refused)
        });
        if let Some(origin) = self.origins.get_mut(&host) {
            match &merged {
                Merged::Refused(why) if why.lasts() => origin.refusals = origin.refusals.saturating_add(1),
                Merged::New { .. } => origin.refusals = 0,
                _ => {}
            }
        }
        merged
    }

    fn take_delta(&mut self, now: Tick, delta: Delta) -> Result<Merged, Refused> {
        let host = delta.origin;
        let origin = self.accepting(host)?;
        delta.consistent()?;
        for (key, _, content) in &delta.rows {
            if let Content::Body(body) = content {
                self.checked(host, key, body.clone())?;
            }
        }
        let whole = delta.whole.as_ref().unwrap_or(&delta.cover);
        if whole.within(&origin.cover) {
            return Ok(Merged::Known);
        }
        let fits = |have: &Cover, swept: Version| {
            // The sender may have forgotten removals; that does no harm where they were heard of, or nothing was there.
            let based = |base: &Cover| base.within(have) && delta.swept <= have.known().max(swept);
            delta.base.as_ref().is_some_and(based)
        };
        if let (None, Some(gather)) = (&delta.base, &origin.gather)
            && gather.is_beyond(&delta)
        {
            return Ok(Merged::More(gather.head(host)));
        }
        let goes_on = origin
            .gather
            .as_ref()
            .is_some_and(|gather| gather.may_go_on_with(whole) && fits(&gather.cover, gather.swept));
        let begins = delta.base.is_none() || fits(&origin.cover, Version::default());
        match (delta.whole.is_some(), goes_on, begins) {
            (false, _, true) => {
                let rows = delta
                    .rows
                    .into_iter()
                    .map(|(key, version, content)| (key, (version, content)));
                let (full, swept, cover) = (delta.base.is_none(), delta.swept, delta.cover);
                let rows = self.integrate(
                    now,
                    host,
                    News {
                        cover,
                        full,
                        swept,
                        rows: rows.collect(),
                    },
                )?;
                Ok(Merged::New { rows })
            }
            (_, false, false) => Ok(Merged::Unfitting),
            (_, goes_on, _) => self.gather(now, delta, goes_on),
        }
    }

    /// Puts a piece aside; applies all of them if it was the last.
    fn gather(&mut self, now: Tick, delta: Delta, goes_on: bool) -> Result<Merged, Refused> {
        let (host, at_most) = (delta.origin, self.limits.gathers);
        let others = self
            .origins
            .iter()
            .filter(|(of, origin)| **of != host && origin.gather.is_some())
            .count();
        if others >= at_most {
            return Err(Refused::InAll {
                host,
                what: UNDER_WAY,
                got: others + 1,
                at_most,
            });
        }
        let origin = self.origins.get_mut(&host).ok_or(Refused::NotAdmitted { host })?;
        let fresh = || {
            let swept = if delta.base.is_none() {
                delta.swept
            } else {
                Version::default()
            };
            Gather::new(
                delta.base.is_none(),
                delta.base.clone().unwrap_or_default(),
                swept,
                now,
            )
        };
        let mut gather = match origin.gather.take() {
            Some(gather) if goes_on => gather,
            _ => fresh(),
        };
        gather.add(
            now,
            &delta.cover,
            delta.whole.as_ref().unwrap_or(&delta.cover),
            delta.rows,
        );
        if let Some((what, got, at_most)) = gather.excess(&self.limits) {
            return Err(Refused::OfHost {
                host,
                what,
                got,
                at_most,
            });
        }
        if gather.is_complete() {
            let rows = self.integrate(now, host, gather.into_news())?;
            return Ok(Merged::New { rows });
        }
        let next = gather.head(host);
        origin.gather = Some(gather);
        Ok(Merged::More(next))
    }
}

impl Gather {
    /// Whether a sender that has this may go on with it: one that has not heard of removals which the first sender had
    /// forgotten would bring their rows.
    fn may_go_on_with(&self, whole: &Cover) -> bool {
        self.swept <= self.cover.known().max(whole.known())
    }

    /// Whether a whole state that begins with this piece would only begin once more what is under way.
    fn is_beyond(&self, delta: &Delta) -> bool {
        let swept = delta.swept <= self.cover.known().max(self.swept);
        self.full && swept && delta.whole.is_some() && delta.cover.within(&self.cover)
    }

    fn head(&self, origin: HostId) -> Head {
        Head {
            origin,
            cover: self.cover.clone(),
            swept: self.swept,
        }
    }
}

impl Delta {
    /// Whether it agrees with itself.
    fn consistent(&self) -> Result<(), Refused> {
        let whole = self.whole.as_ref().unwrap_or(&self.cover);
        let rising = self
            .rows
            .is_sorted_by(|(_, earlier, _), (_, later, _)| earlier < later);
        let covered =
            |(_, version, _): &(Key, Version, Content)| version.count > 0 && self.cover.contains(*version);
        let why = match () {
            () if !self.cover.within(whole) => "a piece covers more than its sender has",
            () if self.swept > whole.known() => "removals were forgotten before they were known",
            () if !rising => "its rows do not rise",
            () if !self.rows.iter().all(covered) => "it has a row that it does not cover",
            () => return Ok(()),
        };
        Err(Refused::Contradiction {
            host: self.origin,
            why,
        })
    }
}

/// At most so many bytes have a delta's fields without its rows and spans.
const HEADER_BYTES: usize = 80;
/// At most so many bytes has a span.
const SPAN_BYTES: usize = 15;
/// At most so many bytes has a row beside its name and its body: two lengths, a version and what it is.
const ROW_BYTES: usize = 2 + 10 + 1 + 5;
