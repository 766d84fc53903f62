//! When which host's tunnel is tried, and what has become of it: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tombolo_cluster::HostId;

/// How long a host that is new on a network gets to be ready, and how far the first trials are spread.
const FIRST: Duration = Duration::from_secs(3);
const FIRST_SPREAD: Duration = Duration::from_secs(5);

/// How long after a trial that failed comes the one that confirms it, or its end.
const CONFIRM: Duration = Duration::from_secs(5);
const FAILING: Duration = Duration::from_secs(30);

/// How long after one that went well, or couldn't be made, and how far these are spread.
const WELL: Duration = Duration::from_secs(300);
const WELL_SPREAD: Duration = Duration::from_secs(60);

/// How many hosts are tried in one turn.
const TURN: usize = 16;

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All passes.
    Well,
    /// It doesn't, in words.
    Trouble(String),
    /// It could not be tried: nothing is known that wasn't before.
    Untried,
}

/// What has changed of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is in trouble now, in words.
    Appeared(String),
    /// It is in another one.
    Changed(String),
    /// It is in none any more; that it was in.
    Solved(String),
    /// It is tried no more, as nothing leads there; that it was in.
    Gone(String),
}

#[derive(Debug)]
struct Watched {
    networks: BTreeSet<u32>,
    due: Instant,
    /// Whether the last trial failed: that counts once another one has confirmed it.
    failed: bool,
    trouble: Option<String>,
}

/// All tunnels that are watched, by the hosts that they lead to.
#[derive(Debug, Default)]
pub struct Schedule(BTreeMap<HostId, Watched>);

fn spread(over: Duration, random: u64, host: &HostId) -> Duration {
    let bytes = host.bytes();
    let own = bytes
        .iter()
        .fold(0_u64, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    Duration::from_millis((random ^ own) % (over.as_millis() as u64))
}

impl Schedule {
    /// Forgets all hosts but those that tunnels lead to. Gives those whose tunnels were in trouble.
    pub fn keep(&mut self, hosts: &BTreeMap<HostId, BTreeSet<u32>>) -> Vec<(HostId, Change)> {
        let gone = self.0.extract_if(.., |host, _| !hosts.contains_key(host));
        let troubled = gone.filter_map(|(host, watched)| Some((host, Change::Gone(watched.trouble?))));
        troubled.collect()
    }

    /// The hosts that are to be tried now, of those that tunnels lead to, by their networks' VNIs. `random` spreads them.
    pub fn due(
        &mut self,
        now: Instant,
        hosts: &BTreeMap<HostId, BTreeSet<u32>>,
        random: u64,
    ) -> BTreeSet<HostId> {
        for (host, networks) in hosts {
            let first = now + FIRST + spread(FIRST_SPREAD, random, host);
            let watched = self.0.entry(*host).or_insert_with(|| Watched {
                networks: networks.clone(),
                due: first,
                failed: false,
                trouble: None,
            });
            if !networks.is_subset(&watched.networks) {
                watched.due = watched.due.min(first);
            }
            watched.networks.clone_from(networks);
        }
        let mut due: Vec<(Instant, HostId)> = self.0.iter().map(|(host, w)| (w.due, *host)).collect();
        due.retain(|(due, _)| *due <= now);
        due.sort_unstable();
        due.into_iter().take(TURN).map(|(_, host)| host).collect()
    }

    /// Notes how a trial ended. Gives what has changed by it.
    pub fn note(&mut self, now: Instant, host: HostId, outcome: Outcome, random: u64) -> Option<Change> {
        let watched = self.0.get_mut(&host)?;
        let well = now + WELL + spread(WELL_SPREAD, random, &host);
        match outcome {
            Outcome::Untried => {
                watched.due = if watched.trouble.is_some() {
                    now + FAILING
                } else {
                    well
                };
                None
            }
            Outcome::Well => {
                (watched.due, watched.failed) = (well, false);
                watched.trouble.take().map(Change::Solved)
            }
            Outcome::Trouble(_) if !std::mem::replace(&mut watched.failed, true) => {
                watched.due = now + CONFIRM;
                None
            }
            Outcome::Trouble(text) => {
                watched.due = now + FAILING;
                match watched.trouble.replace(text.clone()) {
                    None => Some(Change::Appeared(text)),
                    Some(before) => (before != text).then_some(Change::Changed(text)),
                }
            }
        }
    }

    /// How many tunnels are in trouble.
    pub fn troubles(&self) -> usize {
        self.0
            .values()
            .filter(|watched| watched.trouble.is_some())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u8) -> HostId {
        HostId::from_bytes([n; 16])
    }

    fn hosts(hosts: &[(u8, &[u32])]) -> BTreeMap<HostId, BTreeSet<u32>> {
        hosts
            .iter()
            .map(|(n, vnis)| (host(*n), vnis.iter().copied().collect()))
            .collect()
    }

    fn trouble(text: &str) -> Outcome {
        Outcome::Trouble(text.to_owned())
    }

    #[test]
    fn trouble_counts_when_it_is_confirmed_and_until_it_is_over() {
        let mut schedule = Schedule::default();
        let (mut now, there) = (Instant::now(), hosts(&[(1, &[7])]));
        assert!(schedule.due(now, &there, 0).is_empty());
        now += FIRST + FIRST_SPREAD;
        assert_eq!(schedule.due(now, &there, 0), BTreeSet::from([host(1)]));
        // Once is chance.
        assert_eq!(schedule.note(now, host(1), trouble("lost"), 0), None);
        assert!(schedule.due(now, &there, 0).is_empty());
        assert_eq!(schedule.note(now, host(1), Outcome::Well, 0), None);
        assert_eq!(schedule.note(now, host(1), trouble("lost"), 0), None);
        now += CONFIRM;
        assert_eq!(schedule.due(now, &there, 0).len(), 1);
        let appeared = Change::Appeared("lost".to_owned());
        assert_eq!(schedule.note(now, host(1), trouble("lost"), 0), Some(appeared));
        assert_eq!(schedule.note(now, host(1), trouble("lost"), 0), None);
        assert_eq!(schedule.note(now, host(1), Outcome::Untried, 0), None);
        assert_eq!(schedule.troubles(), 1);
        let changed = Change::Changed("small".to_owned());
        assert_eq!(schedule.note(now, host(1), trouble("small"), 0), Some(changed));
        now += FAILING;
        assert_eq!(schedule.due(now, &there, 0).len(), 1);
        let solved = Change::Solved("small".to_owned());
        assert_eq!(schedule.note(now, host(1), Outcome::Well, 0), Some(solved));
        assert_eq!(schedule.troubles(), 0);
        assert!(schedule.due(now + FAILING, &there, 0).is_empty());
    }

    #[test]
    fn another_network_is_tried_soon_and_who_is_gone_is_forgotten() {
        let mut schedule = Schedule::default();
        let mut now = Instant::now();
        schedule.due(now, &hosts(&[(1, &[7])]), 0);
        schedule.note(now, host(1), Outcome::Well, 0);
        now += FIRST + FIRST_SPREAD;
        assert!(schedule.due(now, &hosts(&[(1, &[7])]), 0).is_empty());
        schedule.due(now, &hosts(&[(1, &[7, 8])]), 0);
        now += FIRST + FIRST_SPREAD;
        assert_eq!(schedule.due(now, &hosts(&[(1, &[7, 8])]), 0).len(), 1);
        for _ in 0..2 {
            schedule.note(now, host(1), trouble("lost"), 0);
        }
        assert_eq!(schedule.troubles(), 1);
        let gone = Change::Gone("lost".to_owned());
        assert_eq!(schedule.keep(&hosts(&[(1, &[7])])), []);
        assert_eq!(schedule.keep(&hosts(&[])), [(host(1), gone)]);
        assert_eq!(schedule.troubles(), 0);
        assert_eq!(schedule.note(now, host(1), Outcome::Well, 0), None);
    }

    #[test]
    fn many_hosts_are_tried_in_turns() {
        let mut schedule = Schedule::default();
        let all: Vec<(u8, &[u32])> = (0..100).map(|n| (n, &[7_u32][..])).collect();
        let all = hosts(&all);
        let mut now = Instant::now();
        schedule.due(now, &all, 0);
        now += FIRST + FIRST_SPREAD;
        let mut tried = BTreeSet::new();
        while tried.len() < 100 {
            let due = schedule.due(now, &all, 0);
            assert!(!due.is_empty() && due.len() <= TURN);
            for host in &due {
                schedule.note(now, *host, Outcome::Well, 0);
            }
            assert!(due.is_disjoint(&tried));
            tried.extend(due);
        }
    }
}
