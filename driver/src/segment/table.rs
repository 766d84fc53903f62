//! What is known of the addresses on one wire: who was heard with which, and which were asked for in vain. Pure: the time is
//! handed in.
//!
//! ```text
//!   a stranger's word at ●, a probe that nobody answered at ○; what holds then
//!
//!   ──────●═════ taken, for 10 min ═════╡ unknown ──>        ──────○═══ free, for 60 s ═══╡ unknown ──>
//!   ──────●══ taken ══○══ free, for 60 s ══╡ unknown ──>     ──────○══ free ══●══ taken, for 10 min ══╡ ──>
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tombolo_core::model::Mac;

use super::recent::Recent;
use crate::kernel::frame::{Sort, Word};

/// How long it holds that nobody has an address, after nobody has answered.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// How long a stranger's word holds, if it isn't asked for meanwhile.
const WORD: Duration = Duration::from_secs(600);

/// How long it holds that somebody has asked whether an address is free: whoever takes it says so within that time (RFC 5227,
/// section 2.1.1), and whoever only looks, as other hosts of ours do, says no more.
const CLAIM: Duration = Duration::from_secs(10);

/// How many addresses of strangers are remembered at most, and how many that nobody has.
const STRANGERS: usize = 4096;
const SILENT: usize = 4096;

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It was asked for so long ago, and nobody answered, or only a router that answers for all (proxy ARP).
    Free(Duration, Option<Mac>),
    /// A stranger has it, or is about to, by a word that is so old.
    Taken(Mac, Duration),
    /// Nothing.
    Unknown,
}

/// A stranger's word.
#[derive(Debug)]
struct Heard {
    mac: Mac,
    /// The best that was said: an answer can be given for somebody else.
    sort: Sort,
}

impl Heard {
    fn holds(&self) -> Duration {
        match self.sort {
            Sort::Answers | Sort::Speaks => WORD,
            Sort::Claims => CLAIM,
        }
    }
}

/// What is known of one wire's addresses.
#[derive(Debug)]
pub(super) struct Table {
    heard: Recent<IpAddr, Heard>,
    silent: Recent<IpAddr, Option<Mac>>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            heard: Recent::new(STRANGERS),
            silent: Recent::new(SILENT),
        }
    }
}

impl Table {
    /// Notes a stranger's word.
    pub fn hear(&mut self, word: Word, now: Instant) {
        let before = self.heard.get(&word.address);
        let spoke = |before: &Heard| before.mac == word.mac && before.sort == Sort::Speaks;
        let heard = Heard {
            mac: word.mac,
            sort: match before {
                Some((_, before)) if spoke(before) => Sort::Speaks,
                _ => word.sort,
            },
        };
        self.heard.put(word.address, heard, now);
        // The word is newer, whatever the clock's grain.
        self.silent.remove(&word.address);
    }

    /// Notes that nobody has answered for an address, or none but a router that answers for all.
    pub fn silent(&mut self, address: IpAddr, proxy: Option<Mac>, now: Instant) {
        self.heard.remove(&address);
        self.silent.put(address, proxy, now);
    }

    /// What is known of an address.
    pub fn known(&self, address: IpAddr, now: Instant) -> Known {
        let age = |at: Instant| now.saturating_duration_since(at);
        if let Some((at, heard)) = self.heard.get(&address)
            && age(at) <= heard.holds()
        {
            return Known::Taken(heard.mac, age(at));
        }
        match self.silent.get(&address) {
            Some((at, proxy)) if age(at) <= SILENCE => Known::Free(age(at), *proxy),
            _ => Known::Unknown,
        }
    }

    /// Forgets where somebody only answered: it does so for others.
    pub fn forget_answers(&mut self, mac: Mac) {
        self.heard
            .retain(|heard| heard.mac != mac || heard.sort != Sort::Answers);
    }

    /// Forgets everything: it may be another wire now.
    pub fn clear(&mut self) {
        self.heard.clear();
        self.silent.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mac(last: u8) -> Mac {
        Mac::from_bytes([2, 0, 0, 0, 0, last]).unwrap()
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn word(last: u8, of: u8, sort: Sort) -> Word {
        Word {
            address: address(last),
            mac: mac(of),
            sort,
        }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_word_holds_ten_minutes_and_a_silence_one() {
        let (start, mut table) = (Instant::now(), Table::default());
        assert_eq!(table.known(address(1), start), Known::Unknown);
        table.hear(word(1, 7, Sort::Speaks), start);
        table.silent(address(2), None, start);
        let known = |last, seconds| table.known(address(last), after(start, seconds));
        assert_eq!(known(1, 600), Known::Taken(mac(7), Duration::from_secs(600)));
        assert_eq!(known(1, 601), Known::Unknown);
        assert_eq!(known(2, 60), Known::Free(Duration::from_secs(60), None));
        assert_eq!(known(2, 61), Known::Unknown);
    }

    #[test]
    fn what_is_newer_counts() {
        let (start, mut table) = (Instant::now(), Table::default());
        table.hear(word(1, 7, Sort::Speaks), start);
        table.silent(address(1), None, after(start, 5));
        assert_eq!(
            table.known(address(1), after(start, 6)),
            Known::Free(Duration::from_secs(1), None)
        );
        // Even in the same tick.
        table.hear(word(1, 8, Sort::Speaks), after(start, 5));
        assert_eq!(
            table.known(address(1), after(start, 5)),
            Known::Taken(mac(8), Duration::ZERO)
        );
        assert_eq!(table.known(address(1), after(start, 606)), Known::Unknown);
    }

    #[test]
    fn who_only_looks_has_nothing_for_long() {
        let (start, mut table) = (Instant::now(), Table::default());
        table.hear(word(1, 7, Sort::Claims), start);
        assert!(matches!(
            table.known(address(1), after(start, 10)),
            Known::Taken(..)
        ));
        assert_eq!(table.known(address(1), after(start, 11)), Known::Unknown);
        table.hear(word(1, 7, Sort::Speaks), after(start, 11));
        table.hear(word(1, 7, Sort::Claims), after(start, 12));
        assert!(matches!(
            table.known(address(1), after(start, 600)),
            Known::Taken(..)
        ));
    }

    #[test]
    fn answers_for_others_are_forgotten_and_what_somebody_spoke_itself_is_not() {
        let (start, mut table) = (Instant::now(), Table::default());
        table.hear(word(1, 7, Sort::Speaks), start);
        table.hear(word(1, 7, Sort::Answers), start);
        table.hear(word(2, 7, Sort::Answers), start);
        table.hear(word(3, 8, Sort::Answers), start);
        table.forget_answers(mac(7));
        assert_eq!(
            [1, 2, 3].map(|last| matches!(table.known(address(last), start), Known::Taken(..))),
            [true, false, true]
        );
    }

    #[test]
    fn a_flood_of_strangers_has_a_bound() {
        let (start, mut table) = (Instant::now(), Table::default());
        for n in 0..20_000_u32 {
            let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            let sort = Sort::Speaks;
            let mac = mac(7);
            table.hear(
                Word { address, mac, sort },
                start + Duration::from_millis(n.into()),
            );
        }
        assert_eq!(table.heard.len(), STRANGERS);
        let known = |n: u32| table.known(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), after(start, 20));
        assert!(matches!(known(19_999), Known::Taken(..)));
        assert_eq!(known(0), Known::Unknown);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Hear(u8, u8),
        Silent(u8),
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0_u8..4, 0_u8..3).prop_map(|(at, of)| Event::Hear(at, of)),
            (0_u8..4).prop_map(Event::Silent),
            (0_u64..200).prop_map(Event::Wait),
        ]
    }

    proptest! {
        /// The last event about an address tells what is known of it, for as long as it holds.
        #[test]
        fn the_last_event_counts(events in prop::collection::vec(event(), 0..80)) {
            let (start, mut table) = (Instant::now(), Table::default());
            let (mut second, mut last) = (0_u64, [None; 4]);
            for event in events {
                match event {
                    Event::Hear(at, of) => {
                        table.hear(word(at, of, Sort::Speaks), after(start, second));
                        last[usize::from(at)] = Some((second, Some(mac(of))));
                    }
                    Event::Silent(at) => {
                        table.silent(address(at), None, after(start, second));
                        last[usize::from(at)] = Some((second, None));
                    }
                    Event::Wait(seconds) => second += seconds,
                }
                for (at, last) in (0..4).zip(last) {
                    let age = last.map(|(then, who)| (Duration::from_secs(second - then), who));
                    let expected = match age {
                        Some((age, Some(mac))) if age <= WORD => Known::Taken(mac, age),
                        Some((age, None)) if age <= SILENCE => Known::Free(age, None),
                        _ => Known::Unknown,
                    };
                    prop_assert_eq!(table.known(address(at), after(start, second)), expected);
                }
            }
        }
    }
}
