//! A wire in memory, with strangers that come, answer and leave.

use proptest::prelude::*;

use super::*;

/// A stranger answers so soon.
const ANSWER: Duration = Duration::from_millis(5);

/// What is asked for, and when.
type Asked = (IpAddr, Instant);

/// Addresses with nobody's, one's or several hardware addresses, and what is under way.
struct Lan {
    now: Instant,
    start: Instant,
    asking: Asking<Asked>,
    holders: BTreeMap<IpAddr, Mac>,
    /// Answers for all addresses.
    proxy: Option<Mac>,
    /// When addresses were given up.
    left: BTreeMap<IpAddr, Instant>,
    /// Words under way.
    words: Vec<(Instant, Word)>,
    probes: Vec<(Instant, IpAddr)>,
    verdicts: Vec<(Asked, Verdict)>,
}

fn mac(last: u8) -> Mac {
    Mac::from_bytes([2, 0, 0, 0, 0, last]).unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn word(address: IpAddr, mac: Mac, sort: Sort) -> Word {
    Word { address, mac, sort }
}

fn taken(last: u8) -> Verdict {
    Verdict::Taken(Holder::Stranger(mac(last)))
}

impl Lan {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            asking: Asking::new(now, 7),
            holders: BTreeMap::new(),
            proxy: None,
            left: BTreeMap::new(),
            words: Vec::new(),
            probes: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// Somebody takes an address as it should be done.
    fn come(&mut self, address: IpAddr, mac: Mac) {
        for sort in [Sort::Claims, Sort::Speaks] {
            self.asking.hear(word(address, mac, sort), |_| false, self.now);
        }
        self.holders.insert(address, mac);
    }

    fn leave(&mut self, address: IpAddr) {
        if self.holders.remove(&address).is_some() {
            self.left.insert(address, self.now);
        }
    }

    fn ask(&mut self, address: IpAddr) {
        self.asking
            .ask(address, Trust::Known, (address, self.now), self.now);
        self.take_verdicts();
    }

    /// What is said of an address.
    fn verdict(&mut self, address: IpAddr) -> Verdict {
        self.verdicts.clear();
        self.ask(address);
        self.wait(Duration::from_millis(300));
        let [(_, verdict)] = &self.verdicts[..] else {
            panic!("{:?}", self.verdicts)
        };
        verdict.clone()
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let words = self.words.iter().map(|(at, _)| *at);
            let next = words.chain(self.asking.due()).min().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            let (come, wait) = std::mem::take(&mut self.words)
                .into_iter()
                .partition::<Vec<_>, _>(|(at, _)| *at <= self.now);
            self.words = wait;
            for (_, word) in come {
                self.asking.hear(word, |_| false, self.now);
            }
            for address in self.asking.turn(self.now) {
                self.asking.sent(address, Ok(()));
                self.probes.push((self.now, address));
                // The proxy is faster than who has it.
                let holders = self.proxy.into_iter().chain(self.holders.get(&address).copied());
                self.words
                    .extend(holders.map(|mac| (self.now + ANSWER, word(address, mac, Sort::Answers))));
            }
            self.take_verdicts();
            if next.is_none() {
                return;
            }
        }
    }

    fn take_verdicts(&mut self) {
        for (asked, verdict) in std::mem::take(&mut self.asking.settled) {
            assert!(
                self.now - asked.1 <= Duration::from_millis(300),
                "{asked:?} {verdict:?}"
            );
            match verdict {
                Verdict::Free => assert_eq!(self.holders.get(&asked.0), None, "{asked:?}"),
                Verdict::Taken(Holder::Stranger(_)) if self.proxy.is_none() => {
                    let left = self.left.get(&asked.0);
                    let lately = left.is_some_and(|at| self.now - *at <= SILENCE + ANSWER);
                    assert!(self.holders.contains_key(&asked.0) || lately, "{asked:?}");
                }
                _ => {}
            }
            self.verdicts.push((asked, verdict));
        }
    }

    fn probes_of(&self, address: IpAddr) -> Vec<Duration> {
        let of = self.probes.iter().filter(|(_, of)| *of == address);
        of.map(|(at, _)| *at - self.start).collect()
    }
}

#[test]
fn an_address_that_nobody_has_is_asked_for_three_times_and_then_known() {
    let mut lan = Lan::new();
    assert_eq!(lan.verdict(address(1)), Verdict::Free);
    assert_eq!(lan.probes.len(), 3);
    lan.wait(Duration::from_secs(59));
    assert_eq!(lan.verdict(address(1)), Verdict::Free);
    assert_eq!(lan.probes.len(), 3, "it was known");
    lan.wait(Duration::from_secs(2));
    assert_eq!(lan.verdict(address(1)), Verdict::Free);
    assert_eq!(lan.probes.len(), 6);
}

#[test]
fn the_first_answer_ends_it() {
    let mut lan = Lan::new();
    lan.holders.insert(address(1), mac(9));
    assert_eq!(lan.verdict(address(1)), taken(9));
    assert_eq!(lan.probes.len(), 1);
    lan.wait(Duration::from_secs(30));
    assert_eq!(lan.verdict(address(1)), taken(9));
    assert_eq!(lan.probes.len(), 1, "it was known");
}

#[test]
fn a_stranger_that_was_heard_long_ago_is_asked_again() {
    let mut lan = Lan::new();
    lan.come(address(1), mac(9));
    lan.come(address(2), mac(8));
    lan.wait(Duration::from_secs(61));
    lan.leave(address(1));
    assert_eq!(lan.verdict(address(1)), Verdict::Free);
    assert_eq!(lan.verdict(address(2)), taken(8));
}

#[test]
fn those_kept_ahead_are_known_without_a_probe_at_any_time() {
    let mut lan = Lan::new();
    let ahead: Vec<IpAddr> = (1..=16).map(address).collect();
    lan.holders.insert(address(3), mac(9));
    lan.asking.keep_ahead(&ahead, lan.now);
    lan.wait(Duration::from_secs(1));
    for _ in 0..40 {
        lan.wait(Duration::from_secs(13));
        for address in &ahead {
            let before = lan.probes.len();
            lan.ask(*address);
            let (_, verdict) = lan.verdicts.pop().unwrap();
            assert_eq!(
                verdict == Verdict::Free,
                *address != self::address(3),
                "{address}"
            );
            assert_eq!(lan.probes.len(), before);
        }
    }
    // In the order in which they were named, three times at first, and then once in 40 to 50 s.
    let begun: Vec<IpAddr> = lan.probes.iter().map(|(_, address)| *address).collect();
    assert_eq!(begun[..3], ahead[..3]);
    let probes = lan.probes_of(address(1));
    assert!(probes[2] < Duration::from_millis(200), "{probes:?}");
    for pair in probes[2..].windows(2) {
        let seconds = (pair[1] - pair[0]).as_secs_f64();
        assert!((40.0..51.0).contains(&seconds), "{probes:?}");
    }
}

#[test]
fn those_no_longer_kept_ahead_are_left_in_peace() {
    let mut lan = Lan::new();
    lan.asking.keep_ahead(&[address(1), address(2)], lan.now);
    lan.wait(Duration::from_secs(1));
    lan.asking.keep_ahead(&[address(2), address(3)], lan.now);
    lan.wait(Duration::from_secs(102));
    assert_eq!(lan.probes_of(address(1)).len(), 3);
    assert_eq!(lan.probes_of(address(2)).len(), 5);
    assert_eq!(lan.probes_of(address(3)).len(), 5);
}

#[test]
fn who_waits_for_the_same_address_shares_a_round() {
    let mut lan = Lan::new();
    for _ in 0..5 {
        lan.ask(address(1));
    }
    lan.wait(Duration::from_millis(300));
    assert_eq!((lan.verdicts.len(), lan.probes.len()), (5, 3));
}

#[test]
fn more_than_can_be_asked_for_at_a_time_are_told_so() {
    let mut lan = Lan::new();
    for n in 0..2000_u32 {
        lan.ask(IpAddr::from((0x0a01_0000 + n).to_be_bytes()));
    }
    let busy = lan.verdicts.drain(..).map(|(_, verdict)| verdict);
    assert_eq!(
        busy.collect::<Vec<_>>(),
        vec![Verdict::Unasked(Why::Busy); 2000 - ROUNDS]
    );
    lan.wait(Duration::from_millis(300));
    assert_eq!(lan.verdicts.len(), ROUNDS);
    assert_eq!(lan.asking.rounds.len() + lan.asking.due.len(), 0);
}

#[test]
fn who_answers_for_all_is_found_out_and_hides_nobody() {
    let mut lan = Lan::new();
    lan.proxy = Some(mac(1));
    // The proxy's own address, known by what it asks for itself.
    lan.come(address(254), mac(1));
    lan.holders.insert(address(40), mac(9));
    let ahead: Vec<IpAddr> = (1..=16).map(address).collect();
    lan.asking.keep_ahead(&ahead, lan.now);
    lan.wait(Duration::from_secs(2));
    for last in [1, 9, 16, 100, 200] {
        assert_eq!(lan.verdict(address(last)), Verdict::Proxy(mac(1)), "{last}");
    }
    assert_eq!(lan.verdict(address(40)), taken(9));
    assert_eq!(lan.verdict(address(254)), taken(1));
    // It is gone, and nobody is hidden by what is known of it.
    lan.proxy = None;
    lan.wait(Duration::from_secs(61));
    assert_eq!(lan.verdict(address(100)), Verdict::Free);
}

#[test]
fn a_host_with_many_addresses_has_them() {
    let mut lan = Lan::new();
    for last in 1..=100 {
        lan.holders.insert(address(last), mac(9));
    }
    let ahead: Vec<IpAddr> = (1..=16).map(address).collect();
    lan.asking.keep_ahead(&ahead, lan.now);
    lan.wait(Duration::from_secs(2));
    for last in [1, 8, 9, 16, 50, 100] {
        assert_eq!(lan.verdict(address(last)), taken(9), "{last}");
    }
    assert_eq!(lan.verdict(address(101)), Verdict::Free);
}

#[test]
fn what_could_not_be_sent_says_nothing() {
    let mut lan = Lan::new();
    lan.ask(address(1));
    while let Some(due) = lan.asking.due() {
        for address in lan.asking.turn(due) {
            lan.asking.sent(address, Err("no room".to_owned()));
        }
    }
    let (_, verdict) = lan.asking.settled.pop().unwrap();
    assert_eq!(verdict, Verdict::Unasked(Why::Refused("no room".to_owned())));
    assert_eq!(lan.asking.table.known(address(1), lan.now), Known::Unknown);
}

#[test]
fn silence_while_frames_are_lost_says_nothing() {
    let mut lan = Lan::new();
    lan.holders.insert(address(3), mac(9));
    for last in 1..=3 {
        lan.ask(address(last));
    }
    lan.ask("fd00::1".parse().unwrap());
    lan.asking.missed(Family::V4);
    lan.wait(Duration::from_millis(300));
    let lost = Verdict::Unasked(Why::Flooded);
    let mut verdicts = lan.verdicts.clone();
    verdicts.sort_by_key(|((address, _), _)| *address);
    let verdicts: Vec<Verdict> = verdicts.into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(verdicts, [lost.clone(), lost, taken(9), Verdict::Free]);
    // The next time it is asked for again.
    assert_eq!(lan.verdict(address(1)), Verdict::Free);
}

#[test]
fn a_wire_that_is_gone_is_forgotten_and_those_kept_ahead_are_asked_for_anew() {
    let mut lan = Lan::new();
    lan.asking.keep_ahead(&[address(1)], lan.now);
    lan.wait(Duration::from_secs(1));
    lan.ask(address(2));
    lan.asking.stop(&Why::NoCarrier, lan.now);
    lan.take_verdicts();
    let (_, verdict) = lan.verdicts.pop().unwrap();
    assert_eq!(verdict, Verdict::Unasked(Why::NoCarrier));
    lan.probes.clear();
    lan.wait(Duration::from_secs(1));
    assert_eq!(lan.probes_of(address(1)).len(), 3);
    assert_eq!(lan.probes_of(address(2)).len(), 0);
}

#[derive(Debug, Clone)]
enum Event {
    Come(u8, u8),
    Leave(u8),
    Ask(u8),
    Ahead(Vec<u8>),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let address = 1_u8..8;
    prop_oneof![
        2 => (address.clone(), 1_u8..4).prop_map(|(at, of)| Event::Come(at, of)),
        2 => address.clone().prop_map(Event::Leave),
        6 => address.clone().prop_map(Event::Ask),
        1 => prop::collection::vec(address, 0..5).prop_map(Event::Ahead),
        4 => (0_u64..400).prop_map(Event::Wait),
        2 => (0_u64..90_000).prop_map(Event::Wait),
    ]
}

proptest! {
    /// Each verdict is true, comes in time, and to everybody once (see [`Lan::take_verdicts`]).
    #[test]
    fn verdicts_are_true(events in prop::collection::vec(event(), 0..120)) {
        let (mut lan, mut asked) = (Lan::new(), 0);
        for event in events {
            match event {
                Event::Come(at, of) => lan.come(address(at), mac(of)),
                Event::Leave(at) => lan.leave(address(at)),
                Event::Ask(at) => {
                    asked += 1;
                    lan.ask(address(at));
                }
                Event::Ahead(ahead) => {
                    let ahead: Vec<IpAddr> = ahead.into_iter().map(address).collect();
                    lan.asking.keep_ahead(&ahead, lan.now);
                }
                Event::Wait(milliseconds) => lan.wait(Duration::from_millis(milliseconds)),
            }
            lan.take_verdicts();
        }
        lan.wait(Duration::from_millis(300));
        prop_assert_eq!(lan.verdicts.len(), asked);
    }
}
