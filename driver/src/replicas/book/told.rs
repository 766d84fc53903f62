//! What a book tells: records to keep, rows for the other hosts, and for people what has happened and how it stands.

use std::collections::BTreeMap;

use tombolo_cluster::HostId;

use super::super::version::{Record, Row, Stamp, Standing};
use super::{Book, Happened};

impl Book {
    pub(super) fn tell_other(
        &mut self,
        host: HostId,
        name: &str,
        was: Option<&Standing>,
        is: Option<&Standing>,
    ) {
        match is {
            Some(is) if is.is_trouble() => self.tell(name, host, is),
            _ if was.is_some_and(Standing::is_trouble) => self.tell(name, host, &Standing::Here),
            _ => {}
        }
    }

    pub(super) fn tell(&mut self, name: &str, host: HostId, standing: &Standing) {
        let (action, detail) = match standing {
            Standing::Kept => ("kept", None),
            Standing::Old => ("old", None),
            Standing::Refused { why } => ("refused", Some(why.clone())),
            Standing::Here | Standing::Gone | Standing::Coming | Standing::Unknown => ("settled", None),
        };
        self.happened(name, action, host, detail);
    }

    pub(super) fn happened(
        &mut self,
        name: &str,
        action: &'static str,
        host: HostId,
        detail: Option<String>,
    ) {
        let known = self.members.get(&host);
        self.happened.push(Happened {
            network: name.to_owned(),
            action,
            host: known.cloned().unwrap_or_else(|| host.to_string()),
            detail,
        });
    }

    /// Whether there is something to keep.
    pub fn has_unkept(&self) -> bool {
        !self.unkept.is_empty()
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

    /// Whether another host tells what a version is: that where it was made, or of those that are up the first that has it.
    fn is_told(&self, name: &str, stamp: Stamp) -> bool {
        let rows = self.rows.get(name).into_iter().flatten();
        let mut up = rows.filter(|(host, row)| !self.down.contains(host) && row.stamp == stamp);
        stamp.by != self.me
            && up.any(|(host, row)| match *host == stamp.by {
                true => row.definition.is_some(),
                false => *host < self.me,
            })
    }

    fn row(&self, name: &str) -> Option<Row> {
        let version = &self.records.get(name)?.version;
        let stamp = version.stamp;
        let told = self.is_told(name, stamp);
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
