//! Who wants which network: what decides, without a clock, a socket or a disk.
//!
//! ```text
//!   the engine's list ──look──┐                  ┌──> what to make, what to remove
//!   others' rows ─────heard───┼──> records, by ──┤
//!   how that ended ───────────┘    name          └──> rows and records that have changed
//! ```
//!
//! Of each name the newest version holds, made or removed. A network that appears in the engine's list was made by its user, and
//! one that is in it no more was removed by its user, unless it was this host that did so because of another one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tombolo_cluster::HostId;

use super::definition::{Definition, Listed, Us};
use super::version::{Here, Record, Row, Stamp, Standing, Version};

/// How long a network of another host's is waited for before it is made: who starts an application on several hosts at once makes
/// it on each.
pub const SETTLE: Duration = Duration::from_millis(500);

/// How long nobody must have used a network that was kept before it goes: a container that is replaced is gone for a moment.
pub const UNUSED: Duration = Duration::from_secs(5);

/// After what failed, until it is tried again: twice as long each time, up to the second.
const AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];

/// How long it is known that a network was removed. A host that was off for longer brings it back.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

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
            leaving: false,
        }
    }

    /// The hosts of the cluster, with their names.
    pub fn members(&mut self, members: BTreeMap<HostId, String>) {
        for (name, rows) in &mut self.rows {
            let before = rows.len();
            rows.retain(|host, _| members.contains_key(host));
            if rows.len() < before {
                self.stale.insert(name.clone());
            }
        }
        self.rows.retain(|_, rows| !rows.is_empty());
        self.members = members;
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

    fn tell_other(&mut self, host: HostId, name: &str, was: Option<&Standing>, is: Option<&Standing>) {
        let trouble = |standing: Option<&Standing>| {
            standing.is_some_and(|s| matches!(s, Standing::Kept | Standing::Old | Standing::Refused { .. }))
        };
        match is {
            Some(is) if trouble(Some(is)) => self.tell(name, host, is),
            _ if trouble(was) => self.tell(name, host, &Standing::Here),
            _ => {}
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
            let here = self.records.get(name).and_then(|record| record.here.clone());
            self.write(name, Some(Record { version, here }));
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

    fn write_here(&mut self, name: &str, here: Option<Here>) {
        let Some(record) = self.records.get(name).filter(|record| record.here != here) else {
            return;
        };
        let version = record.version.clone();
        self.write(name, Some(Record { version, here }));
    }

    fn mood(&mut self, name: &str, now: Instant) -> &mut Mood {
        self.moods.entry(name.to_owned()).or_insert(Mood {
            standing: Standing::Coming,
            since: now,
            tries: 0,
            next: now,
            beside: None,
            used: None,
        })
    }

    fn stand(&mut self, name: &str, standing: Standing, now: Instant) {
        let mood = self.mood(name, now);
        let was = std::mem::replace(&mut mood.standing, standing.clone());
        if was == standing {
            return;
        }
        self.stale.insert(name.to_owned());
        let trouble = |s: &Standing| matches!(s, Standing::Kept | Standing::Old | Standing::Refused { .. });
        if trouble(&standing) {
            self.tell(name, self.me, &standing);
        } else if trouble(&was) {
            self.tell(name, self.me, &Standing::Here);
        }
    }

    fn tell(&mut self, name: &str, host: HostId, standing: &Standing) {
        let (action, detail) = match standing {
            Standing::Kept => ("kept", None),
            Standing::Old => ("old", None),
            Standing::Refused { why } => ("refused", Some(why.clone())),
            Standing::Here | Standing::Gone | Standing::Coming | Standing::Unknown => ("settled", None),
        };
        self.happened(name, action, host, detail);
    }

    fn happened(&mut self, name: &str, action: &'static str, host: HostId, detail: Option<String>) {
        let known = self.members.get(&host);
        self.happened.push(Happened {
            network: name.to_owned(),
            action,
            host: known.cloned().unwrap_or_else(|| host.to_string()),
            detail,
        });
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
        let version = Version { stamp, definition };
        self.write(name, Some(Record { version, here }));
        self.moods.remove(name);
    }

    /// Takes in what the engine lists; gives what is to be done.
    pub fn look(
        &mut self,
        engine: &str,
        listed: &[Listed],
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
                us,
                beside,
                now,
                now_ms,
            };
            actions.extend(self.look_at(&name, &seen));
        }
        actions
    }

    fn look_at(&mut self, name: &str, seen: &Seen<'_>) -> Option<Action> {
        let here = self.records.get(name).and_then(|record| record.here.as_ref());
        if here.is_some_and(|here| here.engine != seen.engine) {
            // Another engine's networks say nothing of what its user has removed.
            self.write_here(name, None);
        }
        let here = self.records.get(name).and_then(|record| record.here.clone());
        let ours = |network: &&&Listed| here.as_ref().is_some_and(|here| here.id == network.id);
        let (now, now_ms) = (seen.now, seen.now_ms);
        if let Some(network) = seen.found.iter().find(ours) {
            let twin = |other: &&&Listed| other.id != network.id && Definition::of(other, seen.us).is_some();
            let used = self.moods.get(name).and_then(|mood| mood.used);
            if here.as_ref().is_some_and(|here| here.made)
                && seen.found.iter().any(|other| twin(&other))
                && used.is_none_or(|used| seen.now >= used + UNUSED)
            {
                // The user made one at the same moment, which engines before 25 let happen: theirs is the one.
                return Some(Action::Remove(name.to_owned(), network.id.clone()));
            }
            return self.keep_or_replace(name, network, seen);
        }
        let told = seen
            .found
            .iter()
            .find_map(|network| Some((*network, Definition::of(network, seen.us)?)));
        let told = told.filter(|(_, definition)| !self.leaving && self.is_fit(name, definition));
        let record = self.records.get(name).cloned();
        match (record, told) {
            (None, None) => None,
            (None, Some((network, definition))) => {
                self.say(name, Some(definition), Some((seen.engine, &network.id)), now_ms);
                self.stand(name, Standing::Here, now);
                None
            }
            (Some(record), Some((network, definition))) => {
                let wanted = record.version.definition.as_ref();
                if wanted.is_some_and(|wanted| wanted.same(&definition)) {
                    let here = Here {
                        engine: seen.engine.to_owned(),
                        id: network.id.clone(),
                        stamp: record.version.stamp,
                        made: false,
                    };
                    self.write_here(name, Some(here));
                    self.stand(name, Standing::Here, now);
                } else if wanted.is_none() || record.here.is_some() || self.is_new(network) {
                    // Its user has removed it, or somebody else has, or will hear of it, and has made another one.
                    self.say(name, Some(definition), Some((seen.engine, &network.id)), now_ms);
                    self.stand(name, Standing::Here, now);
                } else {
                    let why = "another network of this name is here, with other options or another subnet"
                        .to_owned();
                    self.stand(name, Standing::Refused { why }, now);
                }
                None
            }
            (Some(record), None) => self.make_or_forget(name, &record, seen),
        }
    }

    /// The network that is the record's is there.
    fn keep_or_replace(&mut self, name: &str, network: &Listed, seen: &Seen<'_>) -> Option<Action> {
        let record = self.records.get(name)?.clone();
        let is = Definition::of(network, seen.us);
        let wanted = record.version.definition.as_ref();
        // What was made of it is it, however the engine lists it.
        let made = record
            .here
            .as_ref()
            .is_some_and(|here| here.stamp == record.version.stamp);
        let same = wanted.is_some_and(|wanted| made || is.is_some_and(|is| wanted.same(&is)));
        if same && !self.leaving {
            let here = record.here.map(|here| Here {
                stamp: record.version.stamp,
                ..here
            });
            self.write_here(name, here);
            self.stand(name, Standing::Here, seen.now);
            return None;
        }
        let mood = self.mood(name, seen.now);
        let used = mood.used.is_some_and(|used| seen.now < used + UNUSED);
        let due = self.leaving || !used;
        due.then(|| Action::Remove(name.to_owned(), network.id.clone()))
    }

    /// The network isn't there.
    fn make_or_forget(&mut self, name: &str, record: &Record, seen: &Seen<'_>) -> Option<Action> {
        if let Some(here) = &record.here {
            let removed = here.stamp == record.version.stamp && record.version.definition.is_some();
            if removed && !self.leaving {
                self.say(name, None, None, seen.now_ms);
                self.stand(name, Standing::Gone, seen.now);
                return None;
            }
            self.write_here(name, None);
        }
        let Some(wanted) = record.version.definition.clone() else {
            let life = u64::try_from(REMEMBERED.as_millis()).unwrap_or(u64::MAX);
            if record.version.stamp.at.saturating_add(life) < seen.now_ms {
                self.write(name, None);
                self.moods.remove(name);
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
            self.stand(name, Standing::Refused { why }, seen.now);
            return None;
        }
        let mood = self.mood(name, seen.now);
        let other_beside = mood.beside.is_some_and(|beside| beside != seen.beside);
        let due = seen.now >= mood.since + SETTLE && (seen.now >= mood.next || other_beside);
        (due && !self.leaving).then(|| Action::Make(name.to_owned(), wanted))
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
            false => Stamp { at: 0, by: self.me },
        };
        self.write_here(
            name,
            Some(Here {
                engine: engine.to_owned(),
                id: id.to_owned(),
                stamp,
                made: true,
            }),
        );
        self.stand(name, Standing::Here, now);
        self.happened(name, "made", self.me, None);
    }

    /// One could not be made.
    pub fn not_made(&mut self, name: &str, why: &str, listed: &[Listed], now: Instant) {
        self.stand(name, Standing::Refused { why: why.to_owned() }, now);
        let mood = self.mood(name, now);
        let wait = AGAIN[0].saturating_mul(1 << mood.tries.min(16)).min(AGAIN[1]);
        (mood.tries, mood.next) = (mood.tries.saturating_add(1), now + wait);
        mood.beside = Some(fingerprint(listed));
    }

    /// One was removed that was to be.
    pub fn removed(&mut self, name: &str, now: Instant) {
        self.write_here(name, None);
        self.moods.remove(name);
        let gone = self
            .records
            .get(name)
            .is_none_or(|r| r.version.definition.is_none());
        self.stand(name, if gone { Standing::Gone } else { Standing::Coming }, now);
        if let (false, Some(mood)) = (gone, self.moods.get_mut(name)) {
            // What takes its place has been waited for already.
            mood.since = now.checked_sub(SETTLE).unwrap_or(now);
        }
        self.happened(name, "removed", self.me, None);
    }

    /// One could not be removed, because containers have it.
    pub fn in_use(&mut self, name: &str, now: Instant) {
        let gone = self
            .records
            .get(name)
            .is_none_or(|r| r.version.definition.is_none());
        self.mood(name, now).used = Some(now);
        self.stand(name, if gone { Standing::Kept } else { Standing::Old }, now);
    }

    /// When the next look is due, if something waits for a moment.
    pub fn due(&self) -> Option<Instant> {
        let due = self.moods.values().filter_map(|mood| match mood.standing {
            Standing::Coming => Some(mood.since + SETTLE),
            Standing::Refused { .. } if mood.tries > 0 => Some(mood.next),
            Standing::Kept | Standing::Old => Some(mood.used? + UNUSED),
            _ => None,
        });
        due.min()
    }

    /// This host is to leave the cluster, or is not: its networks of the cluster go, for it alone.
    pub fn leave(&mut self, leaving: bool) {
        self.leaving = leaving;
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

    /// Whether there is something to keep or to tell.
    pub fn has_changed(&self) -> bool {
        !self.unkept.is_empty() || !self.stale.is_empty()
    }

    /// The records to keep, of names that have changed.
    pub fn unkept(&mut self) -> Vec<(String, Option<Record>)> {
        let names = std::mem::take(&mut self.unkept).into_iter();
        names
            .map(|name| (name.clone(), self.records.get(&name).cloned()))
            .collect()
    }

    /// The rows that are others now than when this was asked last.
    pub fn changed_rows(&mut self) -> Vec<(String, Option<Row>)> {
        let mut changed = Vec::new();
        for name in std::mem::take(&mut self.stale) {
            let row = self.row(&name);
            let before = match row.clone() {
                Some(row) => self.published.insert(name.clone(), row),
                None => self.published.remove(&name),
            };
            if before != row {
                changed.push((name, row));
            }
        }
        changed
    }

    fn row(&self, name: &str) -> Option<Row> {
        let version = &self.records.get(name)?.version;
        let stamp = version.stamp;
        let told_there = self.rows.get(name).and_then(|rows| rows.get(&stamp.by));
        let told = told_there.is_some_and(|row| row.stamp == stamp && row.definition.is_some());
        let standing = self.moods.get(name).map(|mood| mood.standing.clone());
        Some(Row {
            stamp,
            removed: version.definition.is_none(),
            definition: version.definition.clone().filter(|_| !told),
            standing: standing.unwrap_or(Standing::Coming),
        })
    }

    /// What has happened since this was asked last.
    pub fn news(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    /// The networks that are to be everywhere, or still are: name, record, and how it stands on this host and the others.
    pub fn networks(&self) -> impl Iterator<Item = (&str, &Record, BTreeMap<&str, &Standing>)> {
        self.records.iter().filter_map(|(name, record)| {
            let own = self.moods.get(name).map(|mood| (self.me, &mood.standing));
            let others = self.rows.get(name).into_iter().flatten();
            let others = others.map(|(host, row)| (*host, &row.standing));
            let all = own.into_iter().chain(others);
            let named =
                all.filter_map(|(host, standing)| Some((self.members.get(&host)?.as_str(), standing)));
            let hosts: BTreeMap<&str, &Standing> = named.collect();
            let gone = record.version.definition.is_none()
                && hosts.values().all(|standing| **standing == Standing::Gone);
            (!gone).then_some((name.as_str(), record, hosts))
        })
    }

    /// This host's name, as the cluster knows it.
    pub fn own_name(&self) -> &str {
        self.members.get(&self.me).map_or("", String::as_str)
    }

    /// The networks that can't be told to others, and why.
    pub fn unfit(&self) -> &BTreeMap<String, String> {
        &self.unfit
    }
}

/// What the engine lists under one name.
struct Seen<'a> {
    engine: &'a str,
    found: &'a [&'a Listed],
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

/// The longest name that fits into a key, in bytes.
const NAME_MAX: usize = 180;

/// A network's name as a part of a key: what can't be in one stands as a colon and two hexadecimal digits a byte.
pub fn key_of(name: &str) -> Option<String> {
    use std::fmt::Write;
    let mut key = String::new();
    for byte in name.bytes() {
        match byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            true => key.push(char::from(byte)),
            // Writing to a text can't fail.
            false => write!(key, ":{byte:02x}").ok()?,
        }
    }
    (1..=NAME_MAX).contains(&key.len()).then_some(key)
}

/// The name that a key is of.
pub fn name_of(key: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = key.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b':' {
            let (digits, after) = after.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (key_of(&name).as_deref() == Some(key)).then_some(name)
}

#[cfg(test)]
mod tests;
