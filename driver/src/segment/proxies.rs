//! Who answers for addresses that nobody has: routers with proxy ARP. Pure.
//!
//! A router that answers for everything makes each address look taken. But a host may have many addresses as well, or many
//! containers behind one hardware address (ipvlan). What tells them apart: whoever has answered for [`MANY`] addresses is asked for
//! others nearby that are drawn by lot. Who answers for all of these but one answers for all: a host that has half
//! of the addresses there does so once in three hundred times.
//!
//! RFC 5227 has routers not do that for probes, and Linux doesn't for ARP; some do, to keep clients apart ("local proxy ARP").

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tombolo_core::model::Mac;

use super::recent::Recent;

/// Whoever has answered for more addresses is tried.
pub(super) const MANY: usize = 8;

/// How many addresses are drawn, and for how many of them who answers for all must answer.
pub(super) const DRAWN: usize = 12;
const ENOUGH: usize = 11;

/// How long an outcome stands before it is tried again.
const AGAIN: Duration = Duration::from_secs(600);

/// How many are remembered at most that have answered.
const SUSPECTS: usize = 256;

#[derive(Debug, Default)]
struct Suspect {
    answered: BTreeSet<IpAddr>,
    /// Drawn addresses that are being asked for, and how many were answered.
    open: BTreeSet<IpAddr>,
    found: usize,
    tried: Option<Instant>,
    /// The last outcome.
    proxy: bool,
}

/// Who has answered our probes.
#[derive(Debug)]
pub(super) struct Proxies {
    suspects: Recent<Mac, Suspect>,
}

impl Default for Proxies {
    fn default() -> Self {
        Self {
            suspects: Recent::new(SUSPECTS),
        }
    }
}

impl Proxies {
    /// Whether somebody is known to answer for all.
    pub fn is(&self, mac: Mac) -> bool {
        self.suspects.get(&mac).is_some_and(|(_, suspect)| suspect.proxy)
    }

    /// Notes an answer to a probe. Whether a trial is due.
    pub fn answered(&mut self, mac: Mac, address: IpAddr, now: Instant) -> bool {
        let mut suspect = self.suspects.remove(&mac).unwrap_or_default();
        if suspect.answered.len() <= MANY {
            suspect.answered.insert(address);
        }
        let known = |at: Instant| now.saturating_duration_since(at) < AGAIN;
        let due = suspect.answered.len() > MANY && !suspect.tried.is_some_and(known);
        self.suspects.put(mac, suspect, now);
        due
    }

    /// Begins a trial with addresses that are drawn.
    pub fn begin(&mut self, mac: Mac, drawn: &BTreeSet<IpAddr>, now: Instant) {
        let mut suspect = self.suspects.remove(&mac).unwrap_or_default();
        (suspect.open, suspect.found, suspect.tried) = (drawn.clone(), 0, Some(now));
        self.suspects.put(mac, suspect, now);
    }

    /// Takes what became of an address that was drawn for somebody. Whether it is known by that to answer for all, and was not
    /// before.
    pub fn settled(&mut self, mac: Mac, address: IpAddr, answered: bool, now: Instant) -> bool {
        let Some(mut suspect) = self.suspects.remove(&mac) else {
            return false;
        };
        let before = suspect.proxy;
        if suspect.open.remove(&address) {
            suspect.found += usize::from(answered);
            if suspect.open.is_empty() {
                suspect.proxy = suspect.found >= ENOUGH;
            }
        }
        let new = suspect.proxy && !before;
        self.suspects.put(mac, suspect, now);
        new
    }

    /// Forgets everybody.
    pub fn clear(&mut self) {
        self.suspects.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Somebody that has answered for many, and then for so many of those drawn.
    fn tried(answers: usize) -> (Proxies, Mac, Instant) {
        let (mut proxies, now) = (Proxies::default(), Instant::now());
        let mac = "02:00:00:00:00:07".parse().unwrap();
        for last in 0..8 {
            assert!(!proxies.answered(mac, address(last), now), "{last}");
            assert!(!proxies.answered(mac, address(last), now), "{last} again");
        }
        assert!(proxies.answered(mac, address(8), now));
        let drawn: BTreeSet<IpAddr> = (100..112).map(address).collect();
        assert_eq!(drawn.len(), DRAWN);
        proxies.begin(mac, &drawn, now);
        for (nth, address) in drawn.into_iter().enumerate() {
            let new = proxies.settled(mac, address, nth < answers, now);
            assert_eq!(new, nth == DRAWN - 1 && answers >= ENOUGH);
        }
        (proxies, mac, now)
    }

    #[test]
    fn who_answers_for_all_is_known_until_it_is_tried_again() {
        for (answers, proxy) in [(DRAWN, true), (ENOUGH, true), (ENOUGH - 1, false), (0, false)] {
            let (mut proxies, mac, now) = tried(answers);
            assert_eq!(proxies.is(mac), proxy, "{answers}");
            assert!(!proxies.answered(mac, address(9), now + AGAIN / 2));
            assert!(proxies.answered(mac, address(9), now + AGAIN));
            assert_eq!(proxies.is(mac), proxy);
        }
    }

    #[test]
    fn one_that_answers_for_all_no_more_is_none_after_the_next_trial() {
        let (mut proxies, mac, now) = tried(DRAWN);
        proxies.begin(mac, &BTreeSet::from([address(200)]), now + AGAIN);
        assert!(!proxies.settled(mac, address(200), false, now + AGAIN));
        assert!(!proxies.is(mac));
    }
}
