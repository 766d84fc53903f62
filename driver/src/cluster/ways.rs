//! The ways to hosts that are reached at several addresses: which of them carry packets.
//!
//! Each way is asked again and again, and answered by the host at its other end. One that misses some answers is left out until
//! it has answered some again: nothing is lost by leaving one out, as long as there is another.
//!
//! ```text
//!   new ── an answer ──> carries ── MISSED questions in a row without an answer ──> left out
//!                           ^───────────── PROVED answers in a row ────────────────────┘
//! ```
//!
//! It is the host's tombolo that answers. While that is down, no way is answered, and the host's containers go on: then the ways
//! are used that were used before, whatever wire was cut meanwhile or long ago.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tombolo_cluster::HostId;

use crate::config::PLACES;

/// How often each way is asked at most.
const OFTEN: Duration = Duration::from_millis(300);

/// The time that a question takes of everybody's, so that a thousand hosts aren't asked all the time.
const EACH: Duration = Duration::from_millis(1);

/// So many questions in a row without an answer have a way left out.
const MISSED: u32 = 3;

/// So many answers in a row bring it back.
const PROVED: u32 = 3;

/// Of so many rounds a way that is left out is asked in one: what is sent to a neighbour that isn't there waits in the kernel, in
/// the room of all that this host sends.
const RARELY: u64 = 10;

/// How many questions are waited for: the way may be a long one.
const OPEN: usize = 8;

/// What a datagram about ways begins with. None of the node's begins so: they begin with a small number.
const MARK: u8 = 0xff;

/// What hosts tell each other of ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Does this come?
    Ask(u64),
    /// It came.
    Answer(u64),
}

impl Word {
    /// As bytes.
    pub fn encode(self) -> [u8; 10] {
        let (sort, number) = match self {
            Self::Ask(number) => (0, number),
            Self::Answer(number) => (1, number),
        };
        let mut bytes = [MARK, sort, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    /// From bytes; none if they are no such word.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [MARK, sort, number @ ..] = bytes else {
            return None;
        };
        let number = u64::from_be_bytes(number.try_into().ok()?);
        match sort {
            0 => Some(Self::Ask(number)),
            1 => Some(Self::Answer(number)),
            _ => None,
        }
    }
}

/// A way, as people are shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The address at its end.
    pub address: IpAddr,
    /// Whether it carries packets.
    pub up: bool,
    /// How long the last answer took.
    pub rtt: Option<Duration>,
    /// How long ago it was answered last.
    pub heard: Option<Duration>,
}

#[derive(Debug)]
struct Way {
    address: IpAddr,
    up: bool,
    /// Questions in a row without an answer, and answers in a row.
    missed: u32,
    proved: u32,
    asked: VecDeque<(u64, Instant)>,
    rtt: Option<Duration>,
    heard: Option<Instant>,
}

impl Way {
    /// One that was never asked: its first answer is enough.
    fn new(address: IpAddr) -> Self {
        Self {
            address,
            up: false,
            missed: 0,
            proved: PROVED - 1,
            asked: VecDeque::new(),
            rtt: None,
            heard: None,
        }
    }

    /// Counts a question that nobody has answered, and asks the next one. Whether the way is left out by that.
    fn ask(&mut self, number: u64, now: Instant) -> bool {
        if !self.asked.is_empty() {
            self.missed = self.missed.saturating_add(1);
        }
        if self.missed >= MISSED {
            self.proved = 0;
        }
        self.asked.truncate(OPEN - 1);
        self.asked.push_front((number, now));
        let lost = self.up && self.missed >= MISSED;
        self.up &= !lost;
        lost
    }

    /// Whether it is asked in this round, by its number among all ways.
    fn is_asked(&self, round: u64, at: u64) -> bool {
        let lost = !self.up && self.missed >= MISSED;
        !lost || round.wrapping_add(at).is_multiple_of(RARELY)
    }

    /// Takes an answer. Whether the way is back by that; none if it is no answer to a question that is open.
    fn answered(&mut self, number: u64, now: Instant) -> Option<bool> {
        let at = self.asked.iter().position(|(asked, _)| *asked == number)?;
        let (_, asked) = self.asked.get(at).copied()?;
        // Those before it that are still open were lost.
        let in_a_row = self.asked.len() == at + 1;
        self.asked.truncate(at);
        let proved = if in_a_row { self.proved } else { 0 };
        (self.missed, self.proved) = (0, proved.saturating_add(1));
        (self.rtt, self.heard) = (Some(now.duration_since(asked)), Some(now));
        let back = !self.up && self.proved >= PROVED;
        self.up |= back;
        Some(back)
    }
}

/// The ways to a host.
#[derive(Debug, Default)]
struct Ends {
    ways: Vec<Way>,
    /// Those that carried packets when some did last.
    last: BTreeSet<IpAddr>,
}

impl Ends {
    /// Notes which carry packets now, if any does.
    fn note(&mut self) {
        let up: BTreeSet<IpAddr> = self
            .ways
            .iter()
            .filter(|way| way.up)
            .map(|way| way.address)
            .collect();
        if !up.is_empty() {
            self.last = up;
        }
    }

    /// Those that are used: all while nothing is known.
    fn used(&self) -> impl Iterator<Item = IpAddr> {
        let known = self.ways.iter().any(|way| self.last.contains(&way.address));
        let ways = self.ways.iter().map(|way| way.address);
        ways.filter(move |way| !known || self.last.contains(way))
    }
}

/// The ways to those hosts that have several.
#[derive(Debug, Default)]
pub struct Ways {
    hosts: BTreeMap<HostId, Ends>,
    round: u64,
    number: u64,
    next: Option<Instant>,
}

/// A change: whose way, where it leads, and whether it carries packets now.
pub type Change = (HostId, IpAddr, bool);

impl Ways {
    /// What is known of all hosts now: their addresses, the one that stands for the host first. Whether that is anything new.
    pub fn know(&mut self, all: BTreeMap<HostId, Vec<IpAddr>>) -> bool {
        let before = self.addresses();
        let mut old = std::mem::take(&mut self.hosts);
        for (host, mut addresses) in all {
            let mut seen = BTreeSet::new();
            addresses.retain(|address| seen.insert(*address));
            addresses.truncate(PLACES);
            if addresses.len() < 2 {
                continue;
            }
            let Ends { mut ways, last } = old.remove(&host).unwrap_or_default();
            let way = |address| {
                let known = ways.iter().position(|way| way.address == address);
                known.map_or_else(|| Way::new(address), |at| ways.swap_remove(at))
            };
            let ways = addresses.into_iter().map(way).collect();
            self.hosts.insert(host, Ends { ways, last });
        }
        if self.hosts.is_empty() {
            self.next = None;
        } else if self.next.is_none() {
            self.next = Some(Instant::now());
        }
        self.addresses() != before
    }

    fn addresses(&self) -> BTreeMap<HostId, Vec<IpAddr>> {
        let of = |ends: &Ends| ends.ways.iter().map(|way| way.address).collect();
        self.hosts.iter().map(|(host, ends)| (*host, of(ends))).collect()
    }

    /// When ways are to be asked next; never where no host has several.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// The questions that are to be sent now, and the ways that are left out from now on.
    pub fn ask(&mut self, now: Instant) -> (Vec<(HostId, IpAddr, Word)>, Vec<Change>) {
        let (mut words, mut changes) = (Vec::new(), Vec::new());
        self.round = self.round.wrapping_add(1);
        let mut at = 0;
        for (host, ends) in &mut self.hosts {
            for way in &mut ends.ways {
                at += 1;
                if !way.is_asked(self.round, at) {
                    continue;
                }
                self.number += 1;
                if way.ask(self.number, now) {
                    changes.push((*host, way.address, false));
                }
                words.push((*host, way.address, Word::Ask(self.number)));
            }
            // All of a host's may be lost in one round: then it is the host that is not there.
            ends.note();
        }
        let number = u32::try_from(at).unwrap_or(u32::MAX);
        self.next = (number > 0).then(|| now + OFTEN.max(EACH * number));
        (words, changes)
    }

    /// Takes an answer of a host's.
    pub fn answered(&mut self, host: HostId, number: u64, now: Instant) -> Option<Change> {
        let ends = self.hosts.get_mut(&host)?;
        let back = |way: &mut Way| way.answered(number, now).map(|back| (way.address, back));
        let (address, back) = ends.ways.iter_mut().find_map(back)?;
        ends.note();
        back.then_some((host, address, true))
    }

    /// The addresses by which a host is reached now: those that carried packets last where none is answered; none where it has
    /// one only, which it is then reached by.
    pub fn usable(&self, host: &HostId) -> Vec<IpAddr> {
        self.hosts
            .get(host)
            .map_or_else(Vec::new, |ends| ends.used().collect())
    }

    /// Whether any way to a host is answered.
    pub fn is_answered(&self, host: &HostId) -> bool {
        let ends = self.hosts.get(host);
        ends.is_some_and(|ends| ends.ways.iter().any(|way| way.up))
    }

    /// Where to send what is for a host at an address of its own, which may be one that carries nothing now.
    pub fn around(&self, host: &HostId, address: IpAddr) -> IpAddr {
        let Some(ends) = self.hosts.get(host) else {
            return address;
        };
        let own = ends.ways.iter().any(|way| way.address == address);
        let other = ends
            .used()
            .next()
            .filter(|_| own && ends.used().all(|used| used != address));
        other.unwrap_or(address)
    }

    /// The address that stands for a host, where it is heard at one of its own.
    pub fn standing_for(&self, host: &HostId, address: IpAddr) -> IpAddr {
        let ways = self.hosts.get(host).map_or(&[][..], |ends| &ends.ways);
        let own = ways.iter().any(|way| way.address == address);
        ways.first()
            .filter(|_| own)
            .map_or(address, |first| first.address)
    }

    /// All of it, for people.
    pub fn shown(&self, now: Instant) -> BTreeMap<HostId, Vec<Shown>> {
        let shown = |way: &Way| Shown {
            address: way.address,
            up: way.up,
            rtt: way.rtt,
            heard: way.heard.map(|heard| now.duration_since(heard)),
        };
        let all = self.hosts.iter();
        all.map(|(host, ends)| (*host, ends.ways.iter().map(shown).collect()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(n: u8) -> HostId {
        HostId::from_bytes([n; 16])
    }

    fn at(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    /// Asks once, and has those addresses answer.
    fn round(ways: &mut Ways, now: Instant, answer: impl Fn(IpAddr) -> bool) -> Vec<Change> {
        let (words, mut changes) = ways.ask(now);
        for (host, address, word) in words {
            let Word::Ask(number) = word else {
                panic!("{word:?}")
            };
            if answer(address) {
                changes.extend(ways.answered(host, number, now + Duration::from_millis(1)));
            }
        }
        changes
    }

    /// Whether a way's last question was answered.
    fn answered(ways: &Ways, address: IpAddr) -> bool {
        let mut all = ways.hosts.values().flat_map(|ends| &ends.ways);
        all.any(|way| way.address == address && way.asked.is_empty())
    }

    #[test]
    fn hosts_with_one_address_are_not_asked() {
        let mut ways = Ways::default();
        let all = BTreeMap::from([(host(1), vec![at(1)]), (host(2), vec![at(2), at(2)])]);
        assert!(!ways.know(all));
        assert_eq!((ways.due(), ways.usable(&host(1))), (None, vec![]));
        assert_eq!(ways.around(&host(1), at(1)), at(1));
        assert_eq!(ways.standing_for(&host(1), at(9)), at(9));
    }

    #[test]
    fn a_way_without_answers_is_left_out_and_comes_back() {
        let mut ways = Ways::default();
        let all = BTreeMap::from([(host(1), vec![at(1), at(2)])]);
        assert!(ways.know(all.clone()));
        assert!(!ways.know(all));
        let now = Instant::now();
        // All are used before the first is answered.
        assert_eq!(ways.usable(&host(1)), [at(1), at(2)]);
        let first = round(&mut ways, now, |_| true);
        assert_eq!(first, [(host(1), at(1), true), (host(1), at(2), true)]);
        assert_eq!(ways.due(), Some(now + OFTEN));
        // The first question after the cut is missed by the next one, and so on.
        for _ in 0..3 {
            assert_eq!(round(&mut ways, now, |address| address != at(1)), []);
        }
        assert_eq!(ways.usable(&host(1)), [at(1), at(2)]);
        let lost = round(&mut ways, now, |address| address != at(1));
        assert_eq!(lost, [(host(1), at(1), false)]);
        assert_eq!(ways.usable(&host(1)), [at(2)]);
        assert_eq!(ways.around(&host(1), at(1)), at(2));
        assert_eq!(ways.around(&host(1), at(2)), at(2));
        assert_eq!(ways.standing_for(&host(1), at(2)), at(1));

        // It is asked now and then. An answer that gets through then is not enough.
        let mut rarely = 0;
        for _ in 0..4 * RARELY {
            let counted = std::cell::Cell::new(0);
            let lost = round(&mut ways, now, |address| {
                counted.set(counted.get() + u64::from(address == at(1)));
                address != at(1)
            });
            assert_eq!(lost, []);
            rarely += counted.get();
        }
        assert_eq!(rarely, 4);
        while round(&mut ways, now, |_| true).is_empty() && !answered(&ways, at(1)) {}
        assert_eq!(round(&mut ways, now, |_| true), []);
        assert_eq!(round(&mut ways, now, |address| address != at(1)), []);
        assert_eq!(round(&mut ways, now, |_| true), []);
        assert_eq!(round(&mut ways, now, |_| true), []);
        assert_eq!(round(&mut ways, now, |_| true), [(host(1), at(1), true)]);
        assert_eq!(ways.usable(&host(1)), [at(1), at(2)]);
    }

    #[test]
    fn a_host_that_does_not_answer_keeps_the_ways_that_it_had() {
        let mut ways = Ways::default();
        ways.know(BTreeMap::from([(host(1), vec![at(1), at(2)])]));
        let now = Instant::now();
        // The first wire was cut before anything was known of it.
        assert_eq!(
            round(&mut ways, now, |address| address == at(2)),
            [(host(1), at(2), true)]
        );
        assert_eq!(ways.usable(&host(1)), [at(2)]);
        // Its tombolo is stopped, and its containers go on.
        for _ in 0..40 {
            round(&mut ways, now, |_| false);
        }
        assert!(!ways.is_answered(&host(1)));
        assert_eq!(ways.usable(&host(1)), [at(2)]);
        assert_eq!(ways.around(&host(1), at(1)), at(2));
        // Both at once, after both were good.
        let mut ways = Ways::default();
        ways.know(BTreeMap::from([(host(1), vec![at(1), at(2)])]));
        round(&mut ways, now, |_| true);
        for _ in 0..40 {
            round(&mut ways, now, |_| false);
            assert_eq!(ways.usable(&host(1)), [at(1), at(2)]);
        }
    }

    #[test]
    fn a_host_without_any_way_keeps_them_all() {
        let mut ways = Ways::default();
        ways.know(BTreeMap::from([(host(1), vec![at(1), at(2)])]));
        let now = Instant::now();
        for _ in 0..9 {
            round(&mut ways, now, |_| false);
        }
        assert_eq!(ways.usable(&host(1)), [at(1), at(2)]);
        assert_eq!(ways.around(&host(1), at(1)), at(1));
        let shown = ways.shown(now);
        assert!(shown[&host(1)].iter().all(|way| !way.up && way.heard.is_none()));
    }

    #[test]
    fn answers_that_take_longer_than_a_question_count() {
        let mut ways = Ways::default();
        ways.know(BTreeMap::from([(host(1), vec![at(1), at(2)])]));
        let mut late = Vec::new();
        let mut now = Instant::now();
        let mut back = 0;
        for _ in 0..20 {
            let (words, changes) = ways.ask(now);
            assert_eq!(changes, []);
            late.push(words);
            now += OFTEN;
            // Each comes two questions late.
            if let Some(words) = late.len().checked_sub(3).and_then(|at| late.get(at)) {
                for (host, _, word) in words {
                    let Word::Ask(number) = word else {
                        panic!("{word:?}")
                    };
                    back += usize::from(ways.answered(*host, *number, now).is_some());
                }
            }
        }
        assert_eq!(ways.shown(now)[&host(1)][0].rtt, Some(OFTEN * 3));
        assert_eq!(back, 2, "each is back once, and stays");
        // What was never asked, or was answered already, is no answer.
        assert_eq!(ways.answered(host(1), 1, now), None);
        assert_eq!(ways.answered(host(2), 1, now), None);
    }

    #[test]
    fn what_is_known_of_a_way_outlives_other_news() {
        let mut ways = Ways::default();
        ways.know(BTreeMap::from([(host(1), vec![at(1), at(2)])]));
        let now = Instant::now();
        for _ in 0..5 {
            round(&mut ways, now, |address| address == at(2));
        }
        // A new one isn't used before it was answered.
        assert!(ways.know(BTreeMap::from([(host(1), vec![at(1), at(2), at(3)])])));
        assert_eq!(ways.usable(&host(1)), [at(2)]);
        round(&mut ways, now, |address| address != at(1));
        assert_eq!(ways.usable(&host(1)), [at(2), at(3)]);
        assert!(ways.know(BTreeMap::new()));
        assert_eq!(ways.due(), None);
    }

    proptest! {
        #[test]
        fn a_word_is_read_as_it_was_written(number: u64, answer: bool) {
            let word = if answer { Word::Answer(number) } else { Word::Ask(number) };
            prop_assert_eq!(Word::decode(&word.encode()), Some(word));
        }

        #[test]
        fn any_bytes_are_a_word_that_writes_them_or_none(bytes in prop::collection::vec(any::<u8>(), 0..14)) {
            if let Some(word) = Word::decode(&bytes) {
                prop_assert_eq!(&word.encode()[..], &bytes[..]);
            }
        }
    }
}
