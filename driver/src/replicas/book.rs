//! Who wants which network: what decides, without a clock, a socket or a disk.
//!
//! ```text
//!   the engine's list ──look──┐                  ┌──> what to make, what to remove
//!   others' rows ─────heard───┼──> records, by ──┤
//!   how that ended ───────────┘    name          └──> rows and records that have changed
//! ```
//!
//! Of each name the newest version holds, made or removed. A network that appears in the engine's list was made by its user, and
//! one that is in it no more was removed by its user, unless it was this host that did so because of another one, or the engine has
//! forgotten it: then it never asked us to remove it.

mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tombolo_cluster::HostId;

use super::definition::{Definition, Listed, Us};
use super::keys::key_of;
use super::version::{Here, Record, Row, Stamp, Standing, Version};

/// How long a network of another host's is waited for before it is made: who starts an application on several hosts at once makes
/// it on each.
pub const SETTLE: Duration = Duration::from_secs(1);

/// How long nobody must have used a network that was kept before it goes: a container that is replaced is gone for a moment.
pub const UNUSED: Duration = Duration::from_secs(5);

/// After what failed, until it is tried again: twice as long each time, up to the second.
const AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];

/// How long it is known that a network was removed, and of how many. A host that was off for longer brings it back.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);
const REMEMBERED_MANY: usize = 2_000;

/// How long an engine must not list a network before it has forgotten it: while it removes one it doesn't list it any more, and asks
/// us for that a moment later.
const FORGOTTEN: Duration = Duration::from_secs(5);

/// How much of the engine's reason is told to others, in characters.
const WHY_MAX: usize = 300;

/// How large a definition may be, in bytes: rows are bounded.
const DEFINITION_MAX: usize = 6 << 10;

/// What is to be done at the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a network.
    Make(String, Definition),
    /// Remove one, by its identifier, unless a container has it.
    Remove(String, String),
}

/// What has happened, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// The network's name.
    pub network: String,
    /// What became of it: `made`, `removed`, `kept`, `old`, `refused` or `settled`.
    pub action: &'static str,
    /// The host's name.
    pub host: String,
    /// More about it.
    pub detail: Option<String>,
}

/// What is remembered of a name only while this runs.
#[derive(Debug, Clone)]
struct Mood {
    standing: Standing,
    /// When what is to be was heard first.
    since: Instant,
    /// Attempts that failed, and when the next one is due.
    tries: u32,
    next: Instant,
    /// The engine's networks when the last one failed: with others it may succeed.
    beside: Option<u64>,
    /// When a container was seen last that has it.
    used: Option<Instant>,
    /// Since when the engine doesn't list it though it has not asked us to remove it.
    lost: Option<Instant>,
}

/// The networks of one host that are to be the same on all.
#[derive(Debug, Clone)]
pub struct Book {
    me: HostId,
    records: BTreeMap<String, Record>,
    rows: BTreeMap<String, BTreeMap<HostId, Row>>,
    moods: BTreeMap<String, Mood>,
    members: BTreeMap<HostId, String>,
    /// Networks that can't be told, and why.
    unfit: BTreeMap<String, String>,
    unkept: BTreeSet<String>,
    stale: BTreeSet<String>,
    published: BTreeMap<String, Row>,
    happened: Vec<Happened>,
    /// The engine's networks when it was first looked at: those that appear later were made by who knew of all the others.
    first: Option<BTreeSet<String>>,
    /// When the engine was looked at last.
    looked: Option<Instant>,
    /// Hosts that are down.
    down: BTreeSet<HostId>,
    leaving: bool,
}

impl Book {
    /// With what was kept.
    pub fn new(me: HostId, records: BTreeMap<String, Record>) -> Self {
        Self {
            me,
            stale: records.keys().cloned().collect(),
            records,
            rows: BTreeMap::new(),
            moods: BTreeMap::new(),
            members: BTreeMap::new(),
            unfit: BTreeMap::new(),
            unkept: BTreeSet::new(),
            published: BTreeMap::new(),
            happened: Vec::new(),
            first: None,
            looked: None,
            down: BTreeSet::new(),
            leaving: false,
        }
    }

    /// The hosts of the cluster, with their names.
    pub fn members(&mut self, mut members: BTreeMap<HostId, String>) {
        let mut bearers: BTreeMap<String, usize> = BTreeMap::new();
        for name in members.values() {
            *bearers.entry(name.clone()).or_default() += 1;
        }
        for (host, name) in &mut members {
            if bearers.get(name).is_some_and(|bearers| *bearers > 1) {
                *name = format!("{name} ({:.8})", host.to_string());
            }
        }
        for (name, rows) in &mut self.rows {
            let before = rows.len();
            rows.retain(|host, _| members.contains_key(host));
            if rows.len() < before {
                self.stale.insert(name.clone());
            }
        }
        self.rows.retain(|_, rows| !rows.is_empty());
        self.down.retain(|host| members.contains_key(host));
        self.members = members;
    }

    /// A host is up, with the rows of these names, or it is down.
    pub fn link(&mut self, host: HostId, up: Option<&BTreeSet<String>>) {
        match up {
            Some(names) => {
                self.down.remove(&host);
                let gone = |(name, rows): (&String, &BTreeMap<HostId, Row>)| {
                    (rows.contains_key(&host) && !names.contains(name)).then(|| name.clone())
                };
                for name in self.rows.iter().filter_map(gone).collect::<Vec<_>>() {
                    self.rows.get_mut(&name).and_then(|rows| rows.remove(&host));
                }
            }
            None => drop(self.down.insert(host)),
        }
        // Who tells the definitions of its networks may be another host now.
        let told = self
            .records
            .iter()
            .filter(|(_, record)| record.version.stamp.by == host);
        self.stale.extend(told.map(|(name, _)| name.clone()));
    }

    /// Another host's row is this now, or is gone.
    pub fn heard(&mut self, host: HostId, name: &str, row: Option<Row>, now: Instant) {
        let rows = self.rows.entry(name.to_owned()).or_default();
        let before = match row.clone() {
            Some(row) => rows.insert(host, row),
            None => rows.remove(&host),
        };
        if rows.is_empty() {
            self.rows.remove(name);
        }
        self.stale.insert(name.to_owned());
        let standing = |row: &Option<Row>| row.as_ref().map(|row| row.standing.clone());
        let (was, is) = (standing(&before), standing(&row));
        if was != is {
            self.tell_other(host, name, was.as_ref(), is.as_ref());
        }
        if let Some(version) = row.as_ref().and_then(Row::version) {
            self.take(name, version, now);
        }
    }

    /// Takes a version, if it is the newest.
    fn take(&mut self, name: &str, version: Version, now: Instant) {
        let newer = match self.records.get(name) {
            Some(record) => record.version.stamp < version.stamp,
            // That something is gone which never was here is of no interest.
            None => version.definition.is_some(),
        };
        if newer {
            let record = self.records.get(name).cloned();
            let (here, making) = record.map_or((None, None), |record| (record.here, record.making));
            self.write(
                name,
                Some(Record {
                    version,
                    here,
                    making,
                }),
            );
            self.moods.remove(name);
            self.mood(name, now);
        }
    }

    fn write(&mut self, name: &str, record: Option<Record>) {
        match record {
            Some(record) => drop(self.records.insert(name.to_owned(), record)),
            None => drop(self.records.remove(name)),
        }
        self.unkept.insert(name.to_owned());
        self.stale.insert(name.to_owned());
    }

    /// Changes a record, if there is one, and has it kept if that makes a difference.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Record)) {
        let Some(before) = self.records.get(name) else {
            return;
        };
        let mut record = before.clone();
        change(&mut record);
        if record != *before {
            self.write(name, Some(record));
        }
    }

    fn mood(&mut self, name: &str, now: Instant) -> &mut Mood {
        self.moods.entry(name.to_owned()).or_insert(Mood {
            standing: Standing::Coming,
            since: now,
            tries: 0,
            next: now,
            beside: None,
            used: None,
            lost: None,
        })
    }

    fn stand(&mut self, name: &str, standing: Standing, now: Instant) {
        let mood = self.mood(name, now);
        let was = std::mem::replace(&mut mood.standing, standing.clone());
        if was == standing {
            return;
        }
        self.stale.insert(name.to_owned());
        if standing.is_trouble() {
            self.tell(name, self.me, &standing);
        } else if was.is_trouble() {
            self.tell(name, self.me, &Standing::Here);
        }
    }

    /// What this host's user has just said of a name: a stamp that is later than all that is known.
    fn say(&mut self, name: &str, definition: Option<Definition>, here: Option<(&str, &str)>, now_ms: u64) {
        let others = self.rows.get(name).into_iter().flat_map(BTreeMap::values);
        let known = others.map(|row| row.stamp);
        let known = known.chain(self.records.get(name).map(|record| record.version.stamp));
        let stamp = Stamp::next(now_ms, self.me, known.max().as_ref());
        let here = here.map(|(engine, id)| Here {
            engine: engine.to_owned(),
            id: id.to_owned(),
            stamp,
            made: false,
        });
        let record = Record {
            version: Version { stamp, definition },
            here,
            making: None,
        };
        self.write(name, Some(record));
        self.moods.remove(name);
    }

    /// This host's user has made a network.
    fn user_made(&mut self, name: &str, network: &Listed, definition: Definition, seen: &Seen<'_>) {
        let here = Some((seen.engine, network.id.as_str()));
        self.say(name, Some(definition), here, seen.now_ms);
        self.stand(name, Standing::Here, seen.now);
    }

    /// Whether nobody wants a network of that name.
    fn is_gone(&self, name: &str) -> bool {
        let record = self.records.get(name);
        record.is_none_or(|record| record.version.definition.is_none())
    }

    /// Networks that were there, and are not listed.
    pub fn missing(&self, listed: &[Listed]) -> bool {
        let there: BTreeSet<&str> = listed.iter().map(|network| network.id.as_str()).collect();
        let mut here = self.records.values().filter_map(|record| record.here.as_ref());
        here.any(|here| !there.contains(here.id.as_str()))
    }

    /// Takes in what the engine lists, and the identifiers of the networks that it has not asked us to remove; gives what is to be
    /// done.
    pub fn look(
        &mut self,
        engine: &str,
        (listed, ours): (&[Listed], &BTreeSet<String>),
        us: &Us,
        (now, now_ms): (Instant, u64),
    ) -> Vec<Action> {
        let mut there: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
        for network in listed {
            there.entry(&network.name).or_default().push(network);
        }
        let beside = fingerprint(listed);
        let ids = || listed.iter().map(|network| network.id.clone()).collect();
        self.first.get_or_insert_with(ids);
        self.unfit.clear();
        let names: BTreeSet<String> = self
            .records
            .keys()
            .cloned()
            .chain(there.keys().map(|name| (*name).to_owned()))
            .collect();
        let mut actions = Vec::new();
        for name in names {
            let found = there.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let seen = Seen {
                engine,
                found,
                ours,
                us,
                beside,
                now,
                now_ms,
            };
            actions.extend(self.look_at(&name, &seen));
        }
        self.forget_many();
        self.looked = Some(now);
        actions
    }

    fn look_at(&mut self, name: &str, seen: &Seen<'_>) -> Option<Action> {
        // Another engine's networks say nothing of what its user has removed.
        self.change(name, |record| {
            drop(record.here.take_if(|here| here.engine != seen.engine))
        });
        let here = self.records.get(name).and_then(|record| record.here.clone());
        let told = seen
            .found
            .iter()
            .find_map(|network| Some((*network, Definition::of(network, seen.us)?)));
        let told = told.filter(|(_, definition)| !self.leaving && self.is_fit(name, definition));
        if let Some(here) = here {
            if let Some(network) = seen.found.iter().find(|network| network.id == here.id) {
                self.mood(name, seen.now).lost = None;
                return self.keep_or_replace(name, network, &here, seen);
            }
            if seen.ours.contains(&here.id) {
                // The engine is about to remove it, or has forgotten it.
                let since = *self.mood(name, seen.now).lost.get_or_insert(seen.now);
                if seen.now < since + FORGOTTEN {
                    return None;
                }
                self.mood(name, seen.now).lost = None;
            } else if self.is_of_now(name, &here) && !self.leaving {
                // Its user has removed it, and may have made another one.
                match told {
                    Some((network, definition)) => self.user_made(name, network, definition, seen),
                    None => {
                        self.say(name, None, None, seen.now_ms);
                        self.stand(name, Standing::Gone, seen.now);
                    }
                }
                return None;
            }
            self.change(name, |record| record.here = None);
        }
        let record = self.records.get(name).cloned();
        match (record, told) {
            (None, None) => None,
            (None, Some((network, definition))) => {
                self.user_made(name, network, definition, seen);
                None
            }
            (Some(record), Some((network, definition))) => {
                self.meet(name, &record, network, definition, seen);
                None
            }
            (Some(record), None) => self.make_or_forget(name, &record, seen),
        }
    }

    /// Whether what is here is the newest version.
    fn is_of_now(&self, name: &str, here: &Here) -> bool {
        let record = self.records.get(name);
        record.is_some_and(|r| r.version.definition.is_some() && r.version.stamp == here.stamp)
    }

    /// There is a network of that name which nothing is known of.
    fn meet(
        &mut self,
        name: &str,
        record: &Record,
        network: &Listed,
        definition: Definition,
        seen: &Seen<'_>,
    ) {
        let wanted = record.version.definition.as_ref();
        let same = wanted.is_some_and(|wanted| wanted.same(&definition));
        let ours = record
            .making
            .as_ref()
            .is_some_and(|making| making.same(&definition));
        if same || ours {
            // Where it was asked for because of a version that is over, it is of none.
            let stamp = if same {
                record.version.stamp
            } else {
                self.no_stamp()
            };
            let here = Here {
                engine: seen.engine.to_owned(),
                id: network.id.clone(),
                stamp,
                made: ours,
            };
            self.change(name, |record| (record.here, record.making) = (Some(here), None));
            self.stand(
                name,
                if same { Standing::Here } else { Standing::Coming },
                seen.now,
            );
        } else if self.is_new(network) {
            // Its user knew of what was removed, or will hear of what is elsewhere, and has made another one.
            self.user_made(name, network, definition, seen);
        } else {
            let why = match wanted {
                Some(_) => "another network of this name is here, with other options or another subnet",
                None => {
                    "a network of this name was removed for all hosts, and one is here that was not heard of before: remove it, and \
                     make it again to have it on all"
                }
            };
            self.stay_refused(name, why.to_owned(), seen.now);
        }
    }

    /// It can't be made for as long as what is here is here: that needs no further attempt.
    fn stay_refused(&mut self, name: &str, why: String, now: Instant) {
        self.stand(name, Standing::Refused { why }, now);
        self.mood(name, now).tries = 0;
    }

    /// A stamp that is no version's.
    fn no_stamp(&self) -> Stamp {
        Stamp { at: 0, by: self.me }
    }

    /// The network that is the record's is there.
    fn keep_or_replace(
        &mut self,
        name: &str,
        network: &Listed,
        here: &Here,
        seen: &Seen<'_>,
    ) -> Option<Action> {
        let record = self.records.get(name)?.clone();
        let wanted = record.version.definition.as_ref();
        let is = Definition::of(network, seen.us);
        // What was made of it is it, however the engine lists it.
        let same = wanted.is_some_and(|wanted| {
            here.stamp == record.version.stamp || is.is_some_and(|is| wanted.same(&is))
        });
        let twin = |other: &&Listed| other.id != network.id && Definition::of(other, seen.us).is_some();
        // The user made one at the same moment, which engines before 25 let happen: theirs is the one.
        let doubled = here.made && seen.found.iter().any(twin);
        if same && !doubled && !self.leaving {
            self.change(name, |record| {
                let stamp = record.version.stamp;
                record.here.iter_mut().for_each(|here| here.stamp = stamp);
            });
            self.stand(name, Standing::Here, seen.now);
            return None;
        }
        let mood = self.mood(name, seen.now);
        let used = mood.used.is_some_and(|used| seen.now < used + UNUSED);
        let due = (self.leaving || !used) && seen.now >= self.mood(name, seen.now).next;
        due.then(|| {
            // If the answer is lost, nobody is to take it for the user's deed.
            let none = self.no_stamp();
            self.change(name, |record| {
                record.here.iter_mut().for_each(|here| here.stamp = none)
            });
            Action::Remove(name.to_owned(), network.id.clone())
        })
    }

    /// The network isn't there.
    fn make_or_forget(&mut self, name: &str, record: &Record, seen: &Seen<'_>) -> Option<Action> {
        let Some(wanted) = record.version.definition.clone() else {
            let life = u64::try_from(REMEMBERED.as_millis()).unwrap_or(u64::MAX);
            if record.version.stamp.at.saturating_add(life) < seen.now_ms {
                self.forget(name);
            } else {
                self.stand(name, Standing::Gone, seen.now);
            }
            return None;
        };
        if let Some(other) = seen.found.first() {
            let why = format!(
                "the name is taken here by a network of driver {}: remove that one, or give one of the two another name",
                other.driver()
            );
            self.stay_refused(name, why, seen.now);
            return None;
        }
        if !wanted.is_everywhere() {
            let why = "its options aren't those of a network for all hosts; a later version of tombolo may know them";
            self.stay_refused(name, why.to_owned(), seen.now);
            return None;
        }
        let mood = self.mood(name, seen.now);
        let other_beside = mood.beside.is_some_and(|beside| beside != seen.beside);
        let due = seen.now >= mood.since + SETTLE && (seen.now >= mood.next || other_beside);
        (due && !self.leaving).then(|| {
            // If the answer is lost, what appears later is known by this.
            self.change(name, |record| record.making = Some(wanted.clone()));
            Action::Make(name.to_owned(), wanted)
        })
    }

    fn forget(&mut self, name: &str) {
        self.write(name, None);
        self.moods.remove(name);
    }

    /// Forgets the oldest of too many that were removed.
    fn forget_many(&mut self) {
        let removed = self.records.iter().filter(|(_, record)| {
            record.version.definition.is_none() && record.here.is_none() && record.making.is_none()
        });
        let mut removed: Vec<(Stamp, String)> = removed
            .map(|(name, record)| (record.version.stamp, name.clone()))
            .collect();
        if let Some(many) = removed.len().checked_sub(REMEMBERED_MANY) {
            removed.sort_unstable();
            removed.iter().take(many).for_each(|(_, name)| self.forget(name));
        }
    }

    fn is_new(&self, network: &Listed) -> bool {
        self.first
            .as_ref()
            .is_some_and(|first| !first.contains(&network.id))
    }

    fn is_fit(&mut self, name: &str, definition: &Definition) -> bool {
        let size = serde_json::to_vec(definition).map_or(0, |text| text.len());
        let why = match (key_of(name), size) {
            (Some(_), 0..=DEFINITION_MAX) => return true,
            (None, _) => {
                "its name is too long to be told to other hosts: at most 180 bytes are allowed".to_owned()
            }
            (_, size) => format!(
                "its options and labels take {size} bytes, and at most {DEFINITION_MAX} are told to other hosts: it is on this host only"
            ),
        };
        self.unfit.insert(name.to_owned(), why);
        false
    }

    /// A network was made that was to be.
    pub fn made(&mut self, engine: &str, name: &str, id: &str, of: &Definition, now: Instant) {
        let Some(record) = self.records.get(name) else {
            return;
        };
        // Another version may have come meanwhile: this is not it, then, and the next look replaces it.
        let stamp = match record.version.definition.as_ref() == Some(of) {
            true => record.version.stamp,
            false => self.no_stamp(),
        };
        let here = Here {
            engine: engine.to_owned(),
            id: id.to_owned(),
            stamp,
            made: true,
        };
        self.change(name, |record| (record.here, record.making) = (Some(here), None));
        self.stand(name, Standing::Here, now);
        self.happened(name, "made", self.me, None);
    }

    /// One isn't made now, as this host's user is making it.
    pub fn gave_way(&mut self, name: &str, now: Instant) {
        self.change(name, |record| record.making = None);
        self.stand(name, Standing::Coming, now);
        self.mood(name, now).next = now + AGAIN[0];
    }

    /// One could not be made, or it isn't known whether it was.
    pub fn not_made(&mut self, name: &str, (why, known): (&str, bool), listed: &[Listed], now: Instant) {
        if known {
            self.change(name, |record| record.making = None);
        }
        let why = why.chars().take(WHY_MAX).collect();
        self.stand(name, Standing::Refused { why }, now);
        let mood = self.mood(name, now);
        let wait = AGAIN[0].saturating_mul(1 << mood.tries.min(16)).min(AGAIN[1]);
        (mood.tries, mood.next) = (mood.tries.saturating_add(1), now + wait);
        mood.beside = Some(fingerprint(listed));
    }

    /// One was removed that was to be.
    pub fn removed(&mut self, name: &str, now: Instant) {
        self.change(name, |record| record.here = None);
        self.moods.remove(name);
        let gone = self.is_gone(name);
        self.stand(name, if gone { Standing::Gone } else { Standing::Coming }, now);
        if let (false, Some(mood)) = (gone, self.moods.get_mut(name)) {
            // What takes its place has been waited for already.
            mood.since = now.checked_sub(SETTLE).unwrap_or(now);
        }
        self.happened(name, "removed", self.me, None);
    }

    /// One could not be removed, because containers have it.
    pub fn in_use(&mut self, name: &str, now: Instant) {
        let gone = self.is_gone(name);
        self.mood(name, now).used = Some(now);
        self.stand(name, if gone { Standing::Kept } else { Standing::Old }, now);
    }

    /// One could not be removed for another reason.
    pub fn not_removed(&mut self, name: &str, now: Instant) {
        self.mood(name, now).next = now + AGAIN[0];
    }

    /// When the next look is due, if something waits for a moment after the last one.
    pub fn due(&self) -> Option<Instant> {
        let due = self.moods.values().flat_map(|mood| {
            let own = match mood.standing {
                Standing::Coming => Some((mood.since + SETTLE).max(mood.next)),
                Standing::Refused { .. } if mood.tries > 0 => Some(mood.next),
                Standing::Kept | Standing::Old => mood.used.map(|used| used + UNUSED),
                _ => None,
            };
            own.into_iter().chain(mood.lost.map(|lost| lost + FORGOTTEN))
        });
        due.filter(|due| self.looked.is_none_or(|looked| *due > looked))
            .min()
    }

    /// Another engine is served, or the same one anew.
    pub fn engine_anew(&mut self) {
        self.first = None;
    }

    /// This host is to leave the cluster, or is not: its networks of the cluster go, for it alone.
    pub fn leave(&mut self, leaving: bool) {
        self.leaving = leaving;
        // Whoever used them may be gone by now.
        self.moods.clear();
        self.stale.extend(self.records.keys().cloned());
    }

    /// The networks that still are here and are to go before this host leaves, without those that containers have.
    pub fn not_left(&self) -> usize {
        let used = |name: &String| {
            let mood = self.moods.get(name);
            mood.is_some_and(|mood| matches!(mood.standing, Standing::Kept | Standing::Old))
        };
        let here = self.records.iter().filter(|(_, record)| record.here.is_some());
        here.filter(|(name, _)| !used(name)).count()
    }
}

/// What the engine lists under one name.
struct Seen<'a> {
    engine: &'a str,
    found: &'a [&'a Listed],
    ours: &'a BTreeSet<String>,
    us: &'a Us,
    beside: u64,
    now: Instant,
    now_ms: u64,
}

/// A number that differs where the networks do.
fn fingerprint(listed: &[Listed]) -> u64 {
    let mut ids: Vec<&str> = listed.iter().map(|network| network.id.as_str()).collect();
    ids.sort_unstable();
    tombolo_core::model::fnv1a(ids.concat().as_bytes())
}

#[cfg(test)]
mod tests;
