//! Hosts that are taken for dead. Their rows are hidden by the table; what leads to their containers stays a little longer, and for
//! as long as their kernels answer: a tombolo that is off, is exchanged or can't be heard is no reason to cut off the containers
//! of its host, which go on.
//!
//! ```text
//!   up ── not heard any more (5 s) ──> hidden ── GRACE without an echo ──> nothing leads there
//!                                      │    ^
//!                                      └────┘ an echo, asked for every half second
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tombolo_cluster::HostId;
use tombolo_cluster::table::Standing;

use super::{Came, Part};
use crate::kernel::look::echo;

/// How long what leads to a host that failed stays: a suspicion from before a short cut may run out after it was mended, and is
/// taken back within milliseconds. The same after its kernel has answered last.
const GRACE: Duration = Duration::from_secs(2);

/// How often kernels are asked.
const ASK: Duration = Duration::from_millis(500);

/// A host that failed, and what was told of it before.
#[derive(Debug)]
struct Failed {
    since: Instant,
    /// When its kernel answered last.
    echo: Option<Instant>,
    keys: BTreeSet<String>,
}

impl Failed {
    fn keeps(&self, now: Instant) -> bool {
        let last = self.echo.unwrap_or(self.since).max(self.since);
        now.duration_since(last) < GRACE
    }
}

/// Rows that were told of hosts that are taken for dead.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    hosts: BTreeMap<HostId, Failed>,
    /// Whether kernels are being asked.
    asking: bool,
    /// Whether a host has failed that had not.
    fresh: bool,
}

impl Hidden {
    /// Nothing was told yet of any host. Those that are being asked are being asked all the same.
    pub(super) fn begin_again(self) -> Self {
        Self {
            hosts: BTreeMap::new(),
            ..self
        }
    }

    /// Notes that a row is no more visible, or is again. Answers whether it was hidden with its host, of which nothing is told
    /// yet.
    pub(super) fn note(
        &mut self,
        host: HostId,
        key: &str,
        gone: bool,
        standing: Option<Standing>,
        now: Instant,
    ) -> bool {
        let hidden = gone && is_hidden(standing);
        if hidden {
            let failed = self.hosts.entry(host).or_insert_with(|| {
                self.fresh = true;
                Failed {
                    since: now,
                    echo: None,
                    keys: BTreeSet::new(),
                }
            });
            failed.keys.insert(key.to_owned());
        } else if let Some(failed) = self.hosts.get_mut(&host) {
            failed.keys.remove(key);
        }
        hidden
    }

    /// Whether a host has failed since this was asked last.
    pub(super) fn has_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Whether what leads to a host stays for now.
    pub(super) fn keeps(&self, host: &HostId) -> bool {
        self.hosts.contains_key(host)
    }

    /// A host's kernel has answered. Whether it is the first time since it is taken for dead.
    fn answered(&mut self, host: &HostId, now: Instant) -> bool {
        let failed = self.hosts.get_mut(host);
        failed.is_some_and(|failed| failed.echo.replace(now).is_none())
    }

    /// The rows of hosts that are hidden no more, which may have changed without a word meanwhile, or for too long.
    fn over(&mut self, standing: impl Fn(HostId) -> Option<Standing>, now: Instant) -> Vec<(HostId, String)> {
        let over = self.hosts.extract_if(.., |host, failed| {
            !is_hidden(standing(*host)) || !failed.keeps(now)
        });
        over.flat_map(|(host, failed)| failed.keys.into_iter().map(move |key| (host, key)))
            .collect()
    }
}

pub(super) fn is_hidden(standing: Option<Standing>) -> bool {
    matches!(standing, Some(Standing::Hidden { .. }))
}

impl Part {
    /// Notes what became of the rows of hosts that failed: they are there again, members no more, or still gone.
    pub(super) fn note_hidden(&mut self) {
        let table = self.node.table();
        let standing = |host| table.standing(host);
        let over = self.told.hidden.over(standing, Instant::now()).into_iter();
        let rows = over.map(|(host, key)| {
            let body = table
                .get(host, &key)
                .filter(|_| !is_hidden(standing(host)))
                .cloned();
            (host, key, body)
        });
        for (host, key, body) in rows.collect::<Vec<_>>() {
            self.note_row(host, &key, body.as_deref());
        }
    }

    /// Has the kernels of hosts that failed asked whether they go on, in a task of its own.
    pub(super) fn ask_hidden(&mut self) {
        if self.told.hidden.asking || self.told.hidden.hosts.is_empty() {
            return;
        }
        let mut asked: BTreeMap<IpAddr, HostId> = BTreeMap::new();
        for seat in self
            .other_seats()
            .filter(|seat| self.told.hidden.keeps(&seat.host))
        {
            let ways = self.ways.usable(&seat.host);
            let main = std::iter::once(seat.address.ip()).filter(|_| ways.is_empty());
            asked.extend(ways.iter().copied().chain(main).map(|way| (way, seat.host)));
        }
        if asked.is_empty() {
            return;
        }
        self.told.hidden.asking = true;
        let came = self.came.clone();
        tokio::spawn(async move {
            let next = tokio::time::Instant::now() + ASK;
            let addresses: Vec<IpAddr> = asked.keys().copied().collect();
            let answered = echo::answering(&addresses).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "other hosts' kernels can't be asked");
                BTreeSet::new()
            });
            let hosts = answered.iter().filter_map(|address| asked.get(address).copied());
            let hosts = hosts.collect();
            tokio::time::sleep_until(next).await;
            came.send(Came::Echoes(hosts)).await.ok();
        });
    }

    /// Kernels of hosts that are taken for dead have answered, and those of others have not.
    pub(super) fn echoes(&mut self, hosts: &BTreeSet<HostId>) {
        self.told.hidden.asking = false;
        for host in hosts {
            if self.told.hidden.answered(host, Instant::now()) {
                let host = self.node.name(host);
                tracing::info!(
                    host,
                    "its tombolo isn't heard, and its kernel answers: what leads to its containers stays"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tombolo_cluster::time::Tick;

    use super::*;

    const FAILED: Option<Standing> = Some(Standing::Hidden { since: Tick(1) });

    fn host(n: u8) -> HostId {
        HostId::from_bytes([n; 16])
    }

    #[test]
    fn rows_of_a_failed_host_are_kept_for_a_moment() {
        let (now, mut hidden) = (Instant::now(), Hidden::default());
        assert!(hidden.note(host(1), "endpoint/a", true, FAILED, now));
        assert!(hidden.note(host(1), "endpoint/b", true, FAILED, now));
        assert!(hidden.note(host(2), "endpoint/c", true, FAILED, now));
        assert!(!hidden.note(host(3), "endpoint/d", true, Some(Standing::Shown), now));
        assert_eq!(hidden.over(|_| FAILED, now), []);

        // The first is back with one of two rows; the second was forgotten.
        assert!(!hidden.note(host(1), "endpoint/a", false, Some(Standing::Shown), now));
        let then = |of| (of == host(1)).then_some(Standing::Shown);
        let over = [
            (host(1), "endpoint/b".to_owned()),
            (host(2), "endpoint/c".to_owned()),
        ];
        assert_eq!(hidden.over(then, now), over);
        assert_eq!(hidden.over(then, now), []);

        // One that stays away is gone after a while.
        assert!(hidden.note(host(1), "endpoint/a", true, FAILED, now));
        assert_eq!(hidden.over(|_| FAILED, now + GRACE / 2), []);
        assert_eq!(
            hidden.over(|_| FAILED, now + GRACE),
            [(host(1), "endpoint/a".to_owned())]
        );
    }

    #[test]
    fn a_host_whose_kernel_answers_is_kept_for_as_long_as_it_does() {
        let (begin, mut hidden) = (Instant::now(), Hidden::default());
        hidden.note(host(1), "endpoint/a", true, FAILED, begin);
        hidden.note(host(2), "endpoint/b", true, FAILED, begin);
        let mut now = begin;
        for turn in 0..40 {
            now += GRACE / 4;
            assert_eq!(hidden.answered(&host(1), now), turn == 0);
            assert!(!hidden.answered(&host(3), now), "it was never told of");
            let over = hidden.over(|_| FAILED, now);
            // The other one's doesn't.
            let gone = if turn == 3 {
                vec![(host(2), "endpoint/b".to_owned())]
            } else {
                vec![]
            };
            assert_eq!(over, gone, "{turn}");
        }
        assert!(hidden.keeps(&host(1)) && !hidden.keeps(&host(2)));
        assert_eq!(hidden.over(|_| FAILED, now + GRACE / 2), []);
        assert_eq!(
            hidden.over(|_| FAILED, now + GRACE),
            [(host(1), "endpoint/a".to_owned())]
        );
    }
}
