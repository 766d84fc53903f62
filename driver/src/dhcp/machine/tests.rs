//! A lease against a server that does as the test says, in time that the test moves.

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use proptest::prelude::*;

use super::times::LONGEST_MS;
use super::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NINE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const TEN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const S: u64 = 1_000;

fn mac(last: u8) -> Mac {
    Mac::from_bytes([2, 0, 0, 0, 0, last]).unwrap()
}

fn who() -> Who {
    Who {
        mac: mac(1),
        client_id: vec![1, 2, 0, 0, 0, 0, 1],
        host_name: None,
    }
}

/// What a message is, and which address it is about.
fn what(out: &Outgoing) -> (MessageType, Option<Ipv4Addr>) {
    let message = &out.message;
    let wanted = match message.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    };
    let held = Some(message.ciaddr()).filter(|address| !address.is_unspecified());
    (message.opts().msg_type().unwrap(), wanted.or(held))
}

/// Terms of a two-minute lease as dnsmasq gives it.
fn terms(address: Ipv4Addr) -> Terms {
    Terms {
        address: Ipv4Net::new(address, 24).unwrap(),
        router: Some(SERVER),
        name_servers: vec![SERVER],
        lease_s: Some(120),
        t1_s: Some(60),
        t2_s: Some(105),
    }
}

/// The network of the addresses that are asked for.
fn within() -> Ipv4Net {
    Ipv4Net::new(NINE, 24).unwrap().trunc()
}

struct Scene {
    machine: Machine,
    now_ms: u64,
    chance: u32,
}

impl Scene {
    fn of(machine: Machine, now_ms: u64) -> Self {
        Self {
            machine,
            now_ms,
            chance: 0,
        }
    }

    fn new(wanted: Option<Ipv4Addr>) -> Self {
        Self::of(Machine::new(who(), wanted, within(), 100 * S), 100 * S)
    }

    /// One with a lease of [`NINE`], which was asked for at 100 s.
    fn bound() -> Self {
        let mut scene = Self::new(None);
        scene.sends(MessageType::Discover, None);
        assert_eq!(
            what(&scene.answer(Kind::Offer(terms(NINE))).send.unwrap()),
            (MessageType::Request, Some(NINE))
        );
        let event = scene.answer(Kind::Ack(terms(NINE))).event.unwrap();
        assert!(matches!(event, Event::Obtained(_)));
        assert_eq!(scene.machine.state, State::Bound);
        scene
    }

    fn tick(&mut self) -> Output {
        let chance = &mut self.chance;
        let mut dice = || {
            *chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *chance
        };
        self.machine.tick(self.now_ms, &mut dice)
    }

    /// Goes on to when something is due, and does it.
    fn next(&mut self) -> Output {
        self.now_ms = self.now_ms.max(self.machine.due_ms());
        self.tick()
    }

    /// Asserts what is sent next, and gives it.
    fn sends(&mut self, kind: MessageType, address: Option<Ipv4Addr>) -> Outgoing {
        let out = self
            .next()
            .send
            .unwrap_or_else(|| panic!("nothing is sent in {:?}", self.machine));
        assert_eq!(what(&out), (kind, address), "in {:?}", self.machine.state);
        out
    }

    fn hears(&mut self, answer: &Answer) -> Output {
        self.machine.receive(self.now_ms, answer, &mut || 77)
    }

    /// An answer of the server to the last question.
    fn to_last(&self, kind: Kind) -> Answer {
        Answer {
            xid: self.machine.xid,
            mac: mac(1),
            server: Some(SERVER),
            hop: mac(200),
            kind,
        }
    }

    fn answer(&mut self, kind: Kind) -> Output {
        self.hears(&self.to_last(kind))
    }

    fn answer_of(&mut self, server: Ipv4Addr, kind: Kind) -> Output {
        let mut answer = self.to_last(kind);
        answer.server = Some(server);
        self.hears(&answer)
    }
}

fn nak() -> Kind {
    Kind::Nak(Some("no".into()))
}

#[test]
fn four_messages_make_a_lease() {
    let mut scene = Scene::bound();
    let held = scene.machine.held.as_ref().unwrap().clone();
    assert_eq!(
        (held.server, held.hop, held.since_ms),
        (SERVER, mac(200), 100 * S)
    );
    let times = Times {
        t1_ms: 160 * S,
        t2_ms: 205 * S,
        expiry_ms: 220 * S,
    };
    assert_eq!(held.times, Some(times));
    assert_eq!(scene.machine.due_ms(), 160 * S);
    assert_eq!(scene.tick(), Output::default(), "nothing is due");
}

#[test]
fn a_lost_discover_is_repeated_with_growing_pauses() {
    let mut scene = Scene::new(None);
    let first = scene.sends(MessageType::Discover, None);
    let mut before = scene.now_ms;
    for pause in [2, 4, 8, 16, 32, 64, 64, 64] {
        let again = scene.sends(MessageType::Discover, None);
        assert_eq!(again.message.xid(), first.message.xid());
        let waited = scene.now_ms - before;
        assert!(
            (pause * 875..=pause * 1_125).contains(&waited),
            "{waited} ms for {pause} s"
        );
        let secs = u64::from(again.message.secs());
        assert_eq!(secs, (scene.now_ms - 100 * S) / S);
        before = scene.now_ms;
    }
    // A late offer is as good.
    assert!(scene.answer(Kind::Offer(terms(NINE))).send.is_some());
}

#[test]
fn a_request_is_repeated_and_then_all_begins_anew() {
    let mut scene = Scene::new(None);
    let xid = scene.sends(MessageType::Discover, None).message.xid();
    let first = scene.answer(Kind::Offer(terms(NINE))).send.unwrap();
    assert_eq!(first.message.xid(), xid);
    for _ in 1..REQUESTS {
        assert_eq!(scene.sends(MessageType::Request, Some(NINE)).message.xid(), xid);
    }
    assert_eq!(scene.next(), Output::default());
    assert_eq!(scene.machine.state, State::Init);
    assert_ne!(scene.sends(MessageType::Discover, None).message.xid(), xid);
}

#[test]
fn an_ack_of_the_second_request_counts_from_the_first() {
    let mut scene = Scene::new(None);
    scene.sends(MessageType::Discover, None);
    scene.answer(Kind::Offer(terms(NINE)));
    scene.sends(MessageType::Request, Some(NINE));
    assert!(scene.now_ms > 101 * S);
    scene.answer(Kind::Ack(terms(NINE)));
    assert_eq!(scene.machine.held.as_ref().unwrap().since_ms, 100 * S);
}

#[test]
fn answers_to_others_change_nothing_in_any_state() {
    let mut renewing = Scene::bound();
    renewing.next();
    let mut rebinding = Scene::bound();
    rebinding.now_ms = 206 * S;
    rebinding.tick();
    let mut reboot = Scene::bound();
    reboot.now_ms = 300 * S;
    reboot.tick();
    let mut selecting = Scene::new(None);
    selecting.next();
    let mut requesting = Scene::new(None);
    requesting.next();
    requesting.answer(Kind::Offer(terms(NINE)));
    let scenes = [
        (Scene::new(None), State::Init),
        (selecting, State::Selecting),
        (requesting, State::Requesting),
        (Scene::bound(), State::Bound),
        (renewing, State::Renewing),
        (rebinding, State::Rebinding),
        (reboot, State::InitReboot),
    ];
    for (mut scene, state) in scenes {
        assert_eq!(scene.machine.state, state);
        let before = format!("{:?}", scene.machine);
        for kind in [Kind::Offer(terms(TEN)), Kind::Ack(terms(TEN)), nak()] {
            let mut number = scene.to_last(kind.clone());
            number.xid ^= 1;
            assert_eq!(scene.hears(&number), Output::default());
            let mut address = scene.to_last(kind);
            address.mac = mac(3);
            assert_eq!(scene.hears(&address), Output::default());
        }
        assert_eq!(format!("{:?}", scene.machine), before);
    }
}

#[test]
fn answers_that_a_state_does_not_wait_for_change_nothing() {
    let mut scene = Scene::new(None);
    scene.next();
    for kind in [Kind::Ack(terms(NINE)), nak()] {
        assert_eq!(scene.answer(kind), Output::default());
        assert_eq!(scene.machine.state, State::Selecting);
    }
    let mut scene = Scene::bound();
    for kind in [Kind::Offer(terms(TEN)), Kind::Ack(terms(TEN)), nak()] {
        assert_eq!(scene.answer(kind), Output::default());
        assert_eq!(scene.machine.state, State::Bound);
    }
    let mut scene = Scene::bound();
    scene.next();
    assert_eq!(scene.answer(Kind::Offer(terms(TEN))), Output::default());
}

#[test]
fn a_server_that_refuses_what_it_offers_is_asked_more_and_more_rarely() {
    let mut scene = Scene::new(None);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        scene.sends(MessageType::Discover, None);
        scene.answer(Kind::Offer(terms(NINE)));
        assert_eq!(scene.answer(nak()), Output::default());
        assert_eq!(scene.machine.state, State::Init);
        assert_eq!(scene.machine.refused(), Some("no"));
        pauses.push(scene.machine.due_ms() - scene.now_ms);
    }
    assert!(pauses[..6].is_sorted(), "{pauses:?}");
    assert!(pauses[6] >= LONGEST_MS / 8 * 7, "{pauses:?}");
}

#[test]
fn of_two_servers_the_chosen_one_alone_answers() {
    let mut scene = Scene::new(None);
    scene.next();
    scene.answer(Kind::Offer(terms(NINE)));
    assert_eq!(scene.answer_of(OTHER, Kind::Ack(terms(TEN))), Output::default());
    assert_eq!(scene.answer_of(OTHER, nak()), Output::default());
    assert_eq!(scene.machine.state, State::Requesting);
    assert!(scene.answer(Kind::Ack(terms(NINE))).event.is_some());
}

#[test]
fn an_offer_of_nobody_is_passed_over() {
    let mut scene = Scene::new(None);
    scene.next();
    let mut offer = scene.to_last(Kind::Offer(terms(NINE)));
    offer.server = None;
    assert_eq!(scene.hears(&offer), Output::default());
    assert_eq!(scene.machine.state, State::Selecting);
}

#[test]
fn the_wanted_address_is_waited_for_a_moment() {
    let mut scene = Scene::new(Some(NINE));
    scene.sends(MessageType::Discover, Some(NINE));
    assert_eq!(scene.answer_of(OTHER, Kind::Offer(terms(TEN))), Output::default());
    let taken = scene.answer(Kind::Offer(terms(NINE))).send.unwrap();
    assert_eq!(what(&taken), (MessageType::Request, Some(NINE)));
    // Where nobody offers it, another one is taken.
    let mut scene = Scene::new(Some(NINE));
    scene.next();
    scene.answer(Kind::Offer(terms(TEN)));
    scene.sends(MessageType::Request, Some(TEN));
    assert!(matches!(
        scene.answer(Kind::Ack(terms(TEN))).event,
        Some(Event::Obtained(_))
    ));
}

#[test]
fn an_offer_of_another_network_is_taken_only_if_no_other_comes() {
    let elsewhere = Ipv4Addr::new(198, 51, 100, 9);
    let mut scene = Scene::new(None);
    scene.next();
    assert_eq!(
        scene.answer_of(OTHER, Kind::Offer(terms(elsewhere))),
        Output::default()
    );
    let taken = scene.answer(Kind::Offer(terms(NINE))).send.unwrap();
    assert_eq!(what(&taken), (MessageType::Request, Some(NINE)));
    let mut scene = Scene::new(None);
    scene.next();
    scene.answer(Kind::Offer(terms(elsewhere)));
    scene.sends(MessageType::Request, Some(elsewhere));
}

#[test]
fn a_server_that_does_not_stand_by_its_offer_makes_room_for_the_next() {
    let mut scene = Scene::new(None);
    scene.next();
    let taken = scene.answer_of(OTHER, Kind::Offer(terms(TEN))).send.unwrap();
    assert_eq!(what(&taken), (MessageType::Request, Some(TEN)));
    assert_eq!(scene.answer(Kind::Offer(terms(NINE))), Output::default());
    // The same ones again are no news, nor is what would not do.
    let elsewhere = Ipv4Addr::new(198, 51, 100, 9);
    for (server, address) in [
        (OTHER, TEN),
        (SERVER, NINE),
        (Ipv4Addr::new(192, 0, 2, 3), elsewhere),
    ] {
        assert_eq!(
            scene.answer_of(server, Kind::Offer(terms(address))),
            Output::default()
        );
    }
    let next = scene.sends(MessageType::Request, Some(NINE));
    let named = next.message.opts().get(OptionCode::ServerIdentifier);
    assert_eq!(named, Some(&DhcpOption::ServerIdentifier(SERVER)));
    let event = scene.answer(Kind::Ack(terms(NINE))).event;
    assert!(matches!(event, Some(Event::Obtained(_))), "{event:?}");
    // It is asked as often as any other, and then all begins anew.
    let mut scene = Scene::new(None);
    scene.next();
    scene.answer_of(OTHER, Kind::Offer(terms(TEN)));
    scene.answer(Kind::Offer(terms(NINE)));
    for _ in 0..REQUESTS {
        scene.sends(MessageType::Request, Some(NINE));
    }
    scene.next();
    scene.sends(MessageType::Discover, None);
}

#[test]
fn at_t1_the_server_is_asked_and_the_lease_counts_from_the_question() {
    let mut scene = Scene::bound();
    let out = scene.sends(MessageType::Request, Some(NINE));
    let to = To::Server {
        from: NINE,
        server: SERVER,
        hop: mac(200),
    };
    assert_eq!((scene.now_ms, out.to, out.message.ciaddr()), (160 * S, to, NINE));
    assert_eq!(scene.machine.state, State::Renewing);
    scene.now_ms += S;
    let event = scene.answer(Kind::Ack(terms(NINE))).event;
    let Some(Event::Renewed(grant)) = event else {
        panic!("{event:?}")
    };
    assert_eq!(
        (grant.since_ms, grant.times.unwrap().expiry_ms),
        (160 * S, 280 * S)
    );
    assert_eq!(scene.machine.due_ms(), 220 * S);
}

#[test]
fn a_late_answer_to_an_earlier_question_is_not_taken() {
    let mut scene = Scene::bound();
    scene.next();
    let late = scene.to_last(Kind::Ack(terms(NINE)));
    scene.next();
    assert_eq!(scene.hears(&late), Output::default());
    assert!(scene.answer(Kind::Ack(terms(NINE))).event.is_some());
}

#[test]
fn without_an_answer_all_servers_are_asked_in_both_forms_and_then_the_address_is_lost() {
    let mut scene = Scene::bound();
    let (mut forms, mut left) = (Vec::new(), Vec::new());
    let lost = loop {
        let Output { send, event } = scene.next();
        match event {
            Some(Event::NoAnswer { left_ms }) => {
                assert_eq!(left_ms, 220 * S - scene.now_ms);
                left.push(left_ms);
            }
            Some(event) => break event,
            None => assert!(left.is_empty()),
        }
        let out = send.unwrap();
        assert_eq!(what(&out), (MessageType::Request, Some(NINE)));
        let all = matches!(out.to, To::All { .. });
        assert_eq!(all, scene.now_ms >= 205 * S);
        assert_eq!(all, scene.machine.state == State::Rebinding);
        if let To::All { from } = out.to {
            assert_eq!(from, out.message.ciaddr());
        }
        forms.push((all, out.message.ciaddr() == NINE, out.message.flags().broadcast()));
    };
    let (renew, rebind, reboot) = ((false, true, false), (true, true, true), (true, false, true));
    let first = forms.iter().take_while(|form| **form == renew).count();
    assert!((2..=5).contains(&first), "{forms:?}");
    assert_eq!(forms[first..first + 2], [rebind, reboot]);
    assert!(left.is_sorted_by(|a, b| a > b), "{left:?}");
    assert_eq!(scene.now_ms, 220 * S);
    let refused = None;
    assert_eq!(
        lost,
        Event::Lost {
            address: NINE,
            refused
        }
    );
    assert_eq!(scene.machine.held, None);
    // It goes on looking for the same one.
    scene.sends(MessageType::Discover, Some(NINE));
    assert_eq!(scene.now_ms, 220 * S);
    scene.answer(Kind::Offer(terms(NINE)));
    let event = scene.answer(Kind::Ack(terms(NINE))).event;
    assert!(matches!(event, Some(Event::Renewed(_))), "{event:?}");
}

#[test]
fn any_server_may_answer_either_form() {
    for asked in 1..=2 {
        let mut scene = Scene::bound();
        scene.now_ms = 205 * S;
        scene.tick();
        (1..asked).for_each(|_| drop(scene.next()));
        let event = scene.answer_of(OTHER, Kind::Ack(terms(NINE))).event;
        assert!(matches!(event, Some(Event::Renewed(_))), "{event:?}");
        assert_eq!(scene.machine.held.as_ref().unwrap().server, OTHER);
    }
}

#[test]
fn after_a_loss_another_address_is_a_change() {
    let mut scene = Scene::bound();
    scene.next();
    let event = scene.answer(nak()).event;
    let refused = Some("no".into());
    assert_eq!(
        event,
        Some(Event::Lost {
            address: NINE,
            refused
        })
    );
    scene.sends(MessageType::Discover, Some(NINE));
    assert_eq!(scene.now_ms, 160 * S, "at once");
    scene.answer(Kind::Offer(terms(TEN)));
    scene.next();
    let event = scene.answer(Kind::Ack(terms(TEN))).event;
    assert!(
        matches!(event, Some(Event::Changed { was: NINE, .. })),
        "{event:?}"
    );
}

#[test]
fn an_ack_of_another_address_is_a_change() {
    let mut scene = Scene::bound();
    scene.next();
    let event = scene.answer(Kind::Ack(terms(TEN))).event;
    let Some(Event::Changed { was: NINE, now }) = event else {
        panic!("{event:?}")
    };
    assert_eq!(now.address.addr(), TEN);
    assert_eq!(
        what(&scene.next().send.unwrap()),
        (MessageType::Request, Some(TEN))
    );
}

#[test]
fn a_refusal_by_another_server_counts_only_if_nobody_says_otherwise() {
    let mut scene = Scene::bound();
    scene.now_ms = 205 * S;
    scene.tick();
    assert_eq!(scene.answer_of(OTHER, nak()), Output::default());
    let event = scene.answer(Kind::Ack(terms(NINE))).event;
    assert!(matches!(event, Some(Event::Renewed(_))), "{event:?}");
    // That refusal is forgotten.
    let event = scene.next().event;
    assert_eq!(event, None);
    assert!(scene.answer(Kind::Ack(terms(NINE))).event.is_some());

    let mut scene = Scene::bound();
    scene.now_ms = 205 * S;
    scene.tick();
    scene.answer_of(OTHER, nak());
    let event = scene.next().event;
    assert!(
        matches!(event, Some(Event::Lost { address: NINE, .. })),
        "{event:?}"
    );
    assert!(scene.now_ms <= 209 * S);
}

#[test]
fn a_lease_without_an_end_is_never_due() {
    let mut scene = Scene::new(None);
    scene.next();
    let endless = Terms {
        lease_s: None,
        ..terms(NINE)
    };
    scene.answer(Kind::Offer(endless.clone()));
    scene.answer(Kind::Ack(endless));
    assert_eq!(scene.machine.held.as_ref().unwrap().times, None);
    assert_eq!(scene.machine.due_ms(), u64::MAX);
    scene.now_ms = u64::MAX;
    assert_eq!(scene.tick(), Output::default());
    assert_eq!(scene.machine.state, State::Bound);
}

#[test]
fn absurd_times_are_replaced_by_the_usual_ones() {
    // T1 and T2 as told; and as taken, in seconds: from and to.
    let usual = ((52, 60), (98, 105));
    let cases = [
        ((None, None), usual),
        ((Some(0), Some(0)), usual),
        ((Some(120), Some(120)), usual),
        ((Some(u32::MAX), Some(u32::MAX)), usual),
        ((Some(3), Some(5)), ((3, 3), (5, 5))),
        ((Some(3), None), ((3, 3), (98, 105))),
        ((Some(110), None), usual),
        ((None, Some(70)), ((37, 40), (70, 70))),
        ((Some(80), Some(70)), ((37, 40), (70, 70))),
        ((Some(119), Some(119)), ((56, 60), (119, 119))),
        ((Some(118), Some(119)), ((118, 118), (119, 119))),
    ];
    for ((t1_s, t2_s), (t1, t2)) in cases {
        let told = Terms {
            t1_s,
            t2_s,
            ..terms(NINE)
        };
        for chance in [0, 1, 12_345, u32::MAX] {
            let times = Times::of(&told, 0, &mut || chance).unwrap();
            assert_eq!(times.expiry_ms, 120 * S);
            for (ms, (from, to)) in [(times.t1_ms, t1), (times.t2_ms, t2)] {
                assert!((from * S..=to * S).contains(&ms), "{t1_s:?} {t2_s:?}: {times:?}");
            }
            assert!(0 < times.t1_ms && times.t1_ms < times.t2_ms && times.t2_ms < times.expiry_ms);
        }
    }
    let shortest = Terms {
        lease_s: Some(super::super::message::LEAST_LEASE_S),
        t1_s: None,
        t2_s: Some(1),
        ..terms(NINE)
    };
    let times = Times::of(&shortest, 0, &mut || u32::MAX).unwrap();
    assert!(0 < times.t1_ms && times.t1_ms < times.t2_ms && times.t2_ms < times.expiry_ms);
    let latest = Times::of(&terms(NINE), u64::MAX - 1, &mut || 0).unwrap();
    assert_eq!(latest.expiry_ms, u64::MAX);
}

/// A machine that goes on with a lease of an earlier run, as it is at a time of [`Scene::bound`]'s clock.
fn resumed(now_ms: u64) -> Scene {
    let held = Scene::bound().machine.held.as_ref().unwrap().clone();
    Scene::of(Machine::resume(who(), held, now_ms), now_ms)
}

#[test]
fn a_lease_of_an_earlier_run_goes_on_where_it_would_be() {
    for (now_s, due_s, state) in [
        (110, 160, State::Renewing),
        (170, 170, State::Renewing),
        (206, 206, State::Rebinding),
        (220, 220, State::InitReboot),
        (9_999, 9_999, State::InitReboot),
    ] {
        let mut scene = resumed(now_s * S);
        let Output { send, event } = scene.next();
        assert_eq!(
            (scene.now_ms, scene.machine.state),
            (due_s * S, state),
            "at {now_s} s"
        );
        assert_eq!(what(&send.unwrap()), (MessageType::Request, Some(NINE)));
        assert_eq!(event, None, "nobody was asked before");
        let event = scene.answer(Kind::Ack(terms(NINE))).event;
        assert!(matches!(event, Some(Event::Renewed(_))), "{event:?}");
    }
}

#[test]
fn a_lease_that_is_over_is_asked_for_a_few_times_and_then_lost() {
    let mut scene = resumed(300 * S);
    for _ in 0..REBOOTS {
        let out = scene.sends(MessageType::Request, Some(NINE));
        assert!(out.message.ciaddr().is_unspecified() && out.message.flags().broadcast());
        assert!(!out.message.opts().contains(OptionCode::ServerIdentifier));
    }
    let event = scene.next().event;
    assert!(
        matches!(event, Some(Event::Lost { address: NINE, .. })),
        "{event:?}"
    );
    scene.sends(MessageType::Discover, Some(NINE));

    let mut scene = resumed(300 * S);
    scene.next();
    let event = scene.answer(nak()).event;
    assert!(
        matches!(event, Some(Event::Lost { refused: Some(_), .. })),
        "{event:?}"
    );
    scene.sends(MessageType::Discover, Some(NINE));
    assert_eq!(scene.now_ms, 300 * S);

    let mut scene = resumed(300 * S);
    scene.next();
    let event = scene.answer(Kind::Ack(terms(TEN))).event;
    assert!(
        matches!(event, Some(Event::Changed { was: NINE, .. })),
        "{event:?}"
    );
}

#[test]
fn what_slept_past_the_end_asks_before_it_goes_on() {
    let mut scene = Scene::bound();
    scene.now_ms = 500 * S;
    let out = scene.tick().send.unwrap();
    assert_eq!(scene.machine.state, State::InitReboot);
    assert!(out.message.ciaddr().is_unspecified());
}

#[test]
fn an_address_is_given_back_or_declined_once() {
    let mut scene = Scene::bound();
    let out = scene.machine.release(&mut || 5).unwrap();
    assert_eq!(what(&out), (MessageType::Release, Some(NINE)));
    assert!(matches!(
        out.to,
        To::Server {
            from: NINE,
            server: SERVER,
            ..
        }
    ));
    assert_eq!(scene.machine.state, State::Released);
    assert_eq!(scene.machine.release(&mut || 5), None);
    assert_eq!(scene.machine.due_ms(), u64::MAX);
    assert_eq!(scene.answer(Kind::Ack(terms(NINE))), Output::default());

    let mut scene = Scene::bound();
    let out = scene.machine.decline(&mut || 5).unwrap();
    assert_eq!(
        (what(&out), out.to),
        ((MessageType::Decline, Some(NINE)), To::ALL)
    );
    assert_eq!(scene.machine.decline(&mut || 5), None);
    assert_eq!(Scene::new(None).machine.release(&mut || 5), None);
    // What was asked for may have been given in this very moment; an offer that isn't taken lapses by itself.
    let mut scene = Scene::new(Some(TEN));
    scene.next();
    scene.answer(Kind::Offer(terms(NINE)));
    assert_eq!(scene.machine.clone().release(&mut || 5), None);
    scene.sends(MessageType::Request, Some(NINE));
    let out = scene.machine.release(&mut || 5).unwrap();
    assert_eq!(what(&out), (MessageType::Release, Some(NINE)));
}

#[test]
fn when_there_is_a_way_again_what_waits_asks_soon() {
    let mut scene = Scene::new(None);
    (0..8).for_each(|_| drop(scene.next()));
    assert!(scene.machine.due_ms() > scene.now_ms + 50 * S);
    scene.machine.nudge(scene.now_ms, &mut || 7_300);
    assert_eq!(scene.machine.due_ms(), scene.now_ms + 300);
    let mut scene = Scene::bound();
    scene.machine.nudge(scene.now_ms, &mut || 0);
    assert_eq!(scene.machine.due_ms(), 160 * S);
}

proptest! {
    /// Whatever comes, a held address is one that was given; it is held no longer than it was given for; questions are
    /// never so frequent that they load a wire; and time goes on.
    #[test]
    fn nothing_leads_astray(steps in proptest::collection::vec((0..9u8, 0..4u8, any::<u32>()), 1..200)) {
        let mut scene = Scene::new(None);
        let (mut sent, mut answered) = (0u64, 0u64);
        for (step, which, chance) in steps {
            scene.chance ^= chance;
            let given = Terms {
                lease_s: Some(10 + chance % 1_000),
                t1_s: Some(chance % 7),
                t2_s: Some(chance % 1_013),
                ..terms(if which % 2 == 0 { NINE } else { TEN })
            };
            let server = if which < 2 { SERVER } else { OTHER };
            let output = match step {
                0..5 => {
                    let due = scene.machine.due_ms();
                    if due != u64::MAX {
                        scene.now_ms = scene.now_ms.max(due) + u64::from(chance % 3);
                    }
                    scene.tick()
                }
                5 => scene.answer_of(server, Kind::Offer(given)),
                6 => { answered += 1; scene.answer_of(server, Kind::Ack(given)) }
                7 => { answered += 1; scene.answer_of(server, nak()) }
                _ => { scene.now_ms += u64::from(chance % 2_000_000); scene.tick() }
            };
            sent += u64::from(output.send.is_some());
            let state = scene.machine.state;
            let held = matches!(state, State::Bound | State::Renewing | State::Rebinding | State::InitReboot);
            prop_assert_eq!(scene.machine.held.as_ref().is_some(), held);
            if let (Some(grant), State::Renewing | State::Rebinding) = (scene.machine.held.as_ref(), state) {
                prop_assert!(scene.machine.due_ms() <= grant.times.unwrap().expiry_ms);
            }
        }
        let seconds = (scene.now_ms - 100 * S) / S;
        prop_assert!(sent <= 3 + seconds + 3 * answered, "{} in {} s with {} answers", sent, seconds, answered);
    }
}
