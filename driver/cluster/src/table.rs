//! A table of which each host writes its own rows, and of which every host has all.
//!
//! ```text
//!   own set --Change--> gossip --Change--> apply          live: one change each, lost and reordered as it pleases
//!   digest, buckets, heads --missing--> Head --delta--> Delta --merge--> Head ...      repair: pair by pair
//!   apply, merge, hide, show, expel --> the visible rows --drain--> Seen ...           the reader
//! ```
//!
//! The rows of a host are a function of which of its changes are covered: of each name the latest. So it does not matter
//! on which way, in which order or how often a change came. Changes are numbered ([`Version`]); a table knows for each
//! host all changes up to one and some ahead of a gap ([`Cover`]).
//!
//! Only the owner removes a row, and says so by a change as any other. A removal is told for a while, then forgotten by
//! each host for itself. Who knows less than what was forgotten gets the whole state of that owner instead of what is
//! new, so what was removed cannot come back through those who never heard of it.

mod commons;
mod exchange;
mod gather;
mod limits;
mod origin;
mod row;
mod snapshot;
mod version;
mod view;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use tombolo_ipam::HostId;

pub use commons::Commons;
pub use exchange::{Delta, Head, Merged, Missing};
pub use limits::{Faults, Limits, Refused};
pub use origin::Standing;
pub use row::{Change, Content, Key, NoKey};
pub use version::{Cover, NoCover, Span, Version};
pub use view::Seen;
pub use wire::{Garbled, Wire};

use crate::time::Tick;
use exchange::Sums;
use limits::Ledger;
use origin::{News, Origin, Size};
use row::left_s;
use view::{Eye, View};

/// What became of a change that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied, and nothing before it is missing.
    New,
    /// It was applied before, is void, or is an own change that came back. Nothing was changed.
    Known,
    /// It was applied, and something before it is missing.
    Ahead,
    /// It was not applied. Nothing was changed.
    Refused(Refused),
    /// It is said to be our own, and this host never made it: its disk went back, or it has a double. Nothing was changed.
    OwnFromFuture(Version),
}

/// The rows of all hosts. See the module.
#[derive(Debug)]
pub struct Table {
    me: HostId,
    limits: Limits,
    /// The admitted hosts, this one among them.
    origins: BTreeMap<HostId, Origin>,
    total: Size,
    sums: Sums,
    view: View,
    faults: Ledger,
    commons: Option<Commons>,
}

impl Table {
    /// A table with the rows of this host, all stated at once under a new epoch. No other host is admitted yet. A row that
    /// exceeds the limits is left out and counted, as if it had been [set](Self::set).
    ///
    /// # Errors
    /// [`Refused`] if those within the limits of one host exceed those of all.
    pub fn new(
        me: HostId,
        epoch: u32,
        limits: Limits,
        own_rows: impl IntoIterator<Item = (Key, Arc<[u8]>)>,
    ) -> Result<Self, Refused> {
        let own_rows: BTreeMap<Key, Arc<[u8]>> = own_rows.into_iter().collect();
        let mut table = Self {
            me,
            limits,
            origins: BTreeMap::from([(me, Origin::default())]),
            total: Size::default(),
            sums: Sums::default(),
            view: View::default(),
            faults: Ledger::default(),
            commons: None,
        };
        let fitting = table.fitting(own_rows);
        table.state(epoch, fitting)?;
        Ok(table)
    }

    /// States all own rows anew under a greater epoch, as a start does: for a host whose own changes others know better
    /// than it does.
    ///
    /// # Errors
    /// [`Refused::Epoch`] if the epoch is no greater.
    pub fn restate(&mut self, epoch: u32) -> Result<(), Refused> {
        let after = self.own_version();
        if epoch <= after.epoch {
            return Err(Refused::Epoch { after });
        }
        let rows = self.origins.get(&self.me).into_iter().flat_map(Origin::live);
        let rows = rows.map(|(key, body)| (key.clone(), body.clone())).collect();
        self.state(epoch, rows)
    }

    /// From now on rows that other tables of this process have as well are in memory once.
    pub fn in_common(&mut self, commons: Commons) {
        self.commons = Some(commons);
    }

    /// This host.
    pub fn me(&self) -> HostId {
        self.me
    }

    /// The number of the last own change.
    pub fn own_version(&self) -> Version {
        self.origins
            .get(&self.me)
            .map(|own| own.cover.known())
            .unwrap_or_default()
    }

    /// Sets an own row, or removes it. Answers the change to pass on; none if nothing changed.
    ///
    /// # Errors
    /// [`Refused`]: a body too large, too many rows, or an epoch whose numbers are used up. Nothing was changed, and it
    /// is counted.
    pub fn set(&mut self, now: Tick, key: Key, body: Option<&[u8]>) -> Result<Option<Change>, Refused> {
        let outcome = self.try_set(now, key, body);
        outcome.inspect_err(|refused| self.faults.refused(refused, self.limits.hosts))
    }

    fn try_set(&mut self, now: Tick, key: Key, body: Option<&[u8]>) -> Result<Option<Change>, Refused> {
        let origin = self.me;
        if self.get(origin, key.as_str()).map(|held| &**held) == body {
            return Ok(None);
        }
        let last = self.own_version();
        let count = last.count.checked_add(1).ok_or(Refused::Epoch { after: last })?;
        let version = Version::new(last.epoch, count);
        let content = match body {
            Some(body) => Content::Body(self.checked(origin, &key, body.into())?),
            None => Content::Removed {
                left_s: left_s(now, now + self.limits.removal_life),
            },
        };
        let change = Change {
            origin,
            version,
            key,
            content,
        };
        self.integrate(now, origin, News::of(&change))?;
        Ok(Some(change))
    }

    /// Applies a change that came from elsewhere.
    pub fn apply(&mut self, now: Tick, change: Change) -> Outcome {
        let host = change.origin;
        if host == self.me {
            let future = change.version > self.own_version();
            return match self.own_came_back(future.then_some(change.version)) {
                Some(version) => Outcome::OwnFromFuture(version),
                None => Outcome::Known,
            };
        }
        match self.take_in(now, change) {
            Ok(outcome) => outcome,
            Err(refused) => {
                self.faults.refused(&refused, self.limits.hosts);
                Outcome::Refused(refused)
            }
        }
    }

    /// Admits a host: from now on its rows are taken, and shown. One that is admitted stays as it is.
    ///
    /// # Errors
    /// [`Refused::InAll`] if there are as many hosts as may be.
    pub fn admit(&mut self, host: HostId) -> Result<(), Refused> {
        let at_most = self.limits.hosts;
        if self.origins.contains_key(&host) {
            return Ok(());
        }
        if self.origins.len() >= at_most {
            return Err(Refused::InAll {
                host,
                what: "hosts",
                got: self.origins.len() + 1,
                at_most,
            });
        }
        self.origins.insert(host, Origin::default());
        Ok(())
    }

    /// Drops a host that left or was forgotten, with its rows, and takes nothing of it until it is admitted again. No
    /// removals are made of its rows: only their owner could. This host itself is never dropped.
    pub fn expel(&mut self, host: HostId) {
        if host != self.me {
            self.hide_from_view(host);
            self.empty(host);
            self.origins.remove(&host);
        }
    }

    /// Hides the rows of a host that failed, and goes on keeping them up to date. Not this host's.
    pub fn hide(&mut self, now: Tick, host: HostId) {
        if host != self.me && self.standing(host) == Some(Standing::Shown) {
            self.hide_from_view(host);
            self.stand(host, Standing::Hidden { since: now });
        }
    }

    /// Shows the rows of a host again. One whose rows aged out is taken in afresh.
    pub fn show(&mut self, host: HostId) {
        if let Some(origin) = self.origins.get_mut(&host)
            && origin.standing != Standing::Shown
        {
            origin.standing = Standing::Shown;
            for (key, body) in origin.live() {
                self.view.note(host, key, None, Some(body));
            }
        }
    }

    /// Lets time pass: forgets removals that were told long enough, deltas that do not go on, and the rows of hosts that
    /// failed long ago. Answers these hosts. Cheap if nothing is due; once a second is often enough.
    pub fn tick(&mut self, now: Tick) -> Vec<HostId> {
        let mut aged = Vec::new();
        for (host, origin) in &mut self.origins {
            let before = origin.size();
            origin.sweep(now);
            self.total = self.total.replacing(before, origin.size());
            let stale = |touched: Tick| now.since(touched) >= self.limits.gather_life;
            if origin.gather.as_ref().is_some_and(|gather| stale(gather.touched)) {
                origin.gather = None;
            }
            if origin.outlived(now, self.limits.hidden_life) {
                aged.push(*host);
            }
        }
        for host in &aged {
            self.empty(*host);
            self.stand(*host, Standing::Aged);
        }
        aged
    }

    /// What is visible: rows of this host and of all admitted ones that are not hidden, by host and name.
    pub fn visible(&self) -> impl Iterator<Item = (HostId, &Key, &Arc<[u8]>)> {
        let shown = self
            .origins
            .iter()
            .filter(|(_, origin)| origin.standing == Standing::Shown);
        shown.flat_map(|(host, origin)| origin.live().map(|(key, body)| (*host, key, body)))
    }

    /// For a reader that begins: all that is visible, as if it had just appeared. What [`drain`](Self::drain) answers
    /// from here on follows upon it, without gap or repetition.
    pub fn begin(&mut self) -> Vec<Seen> {
        self.view.take();
        let seen = |(origin, key, body): (HostId, &Key, &Arc<[u8]>)| Seen {
            origin,
            key: key.clone(),
            before: None,
            after: Some(body.clone()),
        };
        self.visible().map(seen).collect()
    }

    /// What differs from what the reader saw last: each row at most once, by host and name.
    pub fn drain(&mut self) -> Vec<Seen> {
        let differing = self.view.take().into_iter();
        differing
            .map(|((origin, key), before)| {
                let shown = self.standing(origin) == Some(Standing::Shown);
                let after = self.get(origin, key.as_str()).filter(|_| shown).cloned();
                Seen {
                    origin,
                    key,
                    before,
                    after,
                }
            })
            .collect()
    }

    /// How many rows [`drain`](Self::drain) would answer.
    pub fn waiting(&self) -> usize {
        self.view.len()
    }

    /// The rows that are held of a host, hidden or not, by name.
    pub fn rows_of(&self, host: HostId) -> impl Iterator<Item = (&Key, &Arc<[u8]>)> {
        self.origins.get(&host).into_iter().flat_map(Origin::live)
    }

    /// A row that is held, hidden or not.
    pub fn get(&self, host: HostId, key: &str) -> Option<&Arc<[u8]>> {
        self.origins.get(&host)?.rows.get(key)?.body.as_ref()
    }

    /// The change that a row that is held, hidden or not, came with.
    pub fn version_of(&self, host: HostId, key: &str) -> Option<Version> {
        let row = self.origins.get(&host)?.rows.get(key)?;
        row.body.as_ref().map(|_| row.version)
    }

    /// The admitted hosts, this one too: what is covered of each, and how it stands.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &Cover, Standing)> {
        self.origins
            .iter()
            .map(|(host, origin)| (*host, &origin.cover, origin.standing))
    }

    /// How a host stands; none if it is not admitted.
    pub fn standing(&self, host: HostId) -> Option<Standing> {
        self.origins.get(&host).map(|origin| origin.standing)
    }

    /// How many rows are held, removals that are still told included.
    pub fn rows(&self) -> usize {
        self.total.rows
    }

    /// How many bytes names and bodies have.
    pub fn bytes(&self) -> usize {
        self.total.bytes
    }

    /// Counts bytes that a host sent and that could not be decoded.
    pub fn undecodable(&mut self, from: HostId) {
        self.faults.of(from, self.limits.hosts).undecodable += 1;
    }

    /// What went wrong, by host: of at most as many hosts as the limits allow.
    pub fn faults(&self) -> &BTreeMap<HostId, Faults> {
        self.faults.by_host()
    }

    /// What went wrong with further hosts, in one sum.
    pub fn faults_of_others(&self) -> Faults {
        self.faults.others()
    }

    fn take_in(&mut self, now: Tick, change: Change) -> Result<Outcome, Refused> {
        let (host, version) = (change.origin, change.version);
        let cover = &self.accepting(host)?.cover;
        if cover.contains(version) {
            return Ok(Outcome::Known);
        }
        if version.count == 0 {
            return Err(Refused::Contradiction {
                host,
                why: "a change has the number zero",
            });
        }
        if !cover.clone().add(version) {
            return Err(Refused::gaps(host));
        }
        if let Content::Body(body) = &change.content {
            self.checked(host, &change.key, body.clone())?;
        }
        self.integrate(now, host, News::of(&change))?;
        let known = self
            .origins
            .get(&host)
            .is_some_and(|origin| version <= origin.cover.known());
        Ok(if known { Outcome::New } else { Outcome::Ahead })
    }

    /// The host's rows, if more of them are taken.
    fn accepting(&self, host: HostId) -> Result<&Origin, Refused> {
        match self.origins.get(&host) {
            None => Err(Refused::NotAdmitted { host }),
            Some(Origin {
                standing: Standing::Aged,
                ..
            }) => Err(Refused::Aged { host }),
            Some(origin) => Ok(origin),
        }
    }

    fn checked(&self, host: HostId, key: &Key, body: Arc<[u8]>) -> Result<Arc<[u8]>, Refused> {
        let (got, at_most) = (body.len(), self.limits.body);
        match got <= at_most {
            true => Ok(body),
            false => Err(Refused::Body {
                host,
                key: key.clone(),
                got,
                at_most,
            }),
        }
    }

    /// Takes news of an admitted host in, all or nothing; answers how many rows were written or taken away.
    fn integrate(&mut self, now: Tick, host: HostId, news: News) -> Result<usize, Refused> {
        let origin = self.origins.get_mut(&host).ok_or(Refused::NotAdmitted { host })?;
        let mut plan = origin.plan(host, news, &self.limits)?;
        let total = self.total.replacing(origin.size(), plan.size);
        for (what, got, had, at_most) in [
            ("rows", total.rows, self.total.rows, self.limits.rows_in_all),
            ("bytes", total.bytes, self.total.bytes, self.limits.bytes_in_all),
        ] {
            if got > at_most && got > had {
                return Err(Refused::InAll {
                    host,
                    what,
                    got,
                    at_most,
                });
            }
        }
        if let Some(commons) = &self.commons {
            plan.share(commons);
        }
        let (size, cover) = (origin.size(), origin.cover.clone());
        let shown = origin.standing == Standing::Shown;
        let mut eye = Eye {
            view: &mut self.view,
            origin: host,
            shown,
        };
        let changed = origin.carry_out(plan, now, &self.limits, &mut eye);
        self.total = self.total.replacing(size, origin.size());
        self.sums.replace(host, &cover, &origin.cover);
        Ok(changed)
    }

    /// The own rows that are within the limits, one by one; the others are counted.
    fn fitting(&mut self, rows: BTreeMap<Key, Arc<[u8]>>) -> BTreeMap<Key, Arc<[u8]>> {
        let (mut fitting, mut bytes) = (BTreeMap::new(), 0);
        for (key, body) in rows {
            let with = bytes + key.as_str().len() + body.len();
            let faults = self.faults.of(self.me, self.limits.hosts);
            if body.len() > self.limits.body {
                faults.too_large += 1;
            } else if fitting.len() >= self.limits.rows_per_host || with > self.limits.bytes_per_host {
                faults.over_limit += 1;
            } else {
                bytes = with;
                fitting.insert(key, body);
            }
        }
        fitting
    }

    /// States all own rows under an epoch.
    fn state(&mut self, epoch: u32, rows: BTreeMap<Key, Arc<[u8]>>) -> Result<(), Refused> {
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let mut numbered = BTreeMap::new();
        for ((key, body), n) in rows.into_iter().zip(1..) {
            let body = self.checked(self.me, &key, body)?;
            numbered.insert(key, (Version::new(epoch, n), Content::Body(body)));
        }
        let cover = Cover::up_to(Version::new(epoch, count));
        let news = News {
            cover,
            full: true,
            swept: Version::new(epoch, 0),
            rows: numbered,
        };
        self.integrate(Tick::default(), self.me, news).map(|_| ())
    }

    /// Counts own rows that came back; answers the change, if this host never made it.
    fn own_came_back(&mut self, future: Option<Version>) -> Option<Version> {
        let faults = self.faults.of(self.me, self.limits.hosts);
        match future {
            Some(_) => faults.from_future += 1,
            None => faults.echoes += 1,
        }
        future
    }

    fn stand(&mut self, host: HostId, standing: Standing) {
        if let Some(origin) = self.origins.get_mut(&host) {
            origin.standing = standing;
        }
    }

    fn hide_from_view(&mut self, host: HostId) {
        if let Some(origin) = self.origins.get(&host)
            && origin.standing == Standing::Shown
        {
            for (key, body) in origin.live() {
                self.view.note(host, key, Some(body.clone()), None);
            }
        }
    }

    /// Forgets all that is held of a host that is not visible.
    fn empty(&mut self, host: HostId) {
        if let Some(origin) = self.origins.get_mut(&host) {
            self.total = self.total.replacing(origin.size(), Size::default());
            self.sums.replace(host, &origin.cover, &Cover::default());
            *origin = Origin::default();
        }
    }
}
