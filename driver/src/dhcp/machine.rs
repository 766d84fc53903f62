//! One lease, from the first question to the end: what is said when, and what an answer means (RFC 2131, sections 3 and 4.4).
//! Pure: the time, chance and answers come in; what to send, when to look again, and what has happened come out.
//!
//! ```text
//!             offer              ack                T1                    T2
//!  Init ──> Selecting ──> Requesting ──> Bound ──────> Renewing ────────────> Rebinding
//!   ^           │  ^          │            ^  ^           │ ack                  │ ack
//!   │           └──┘ no offer │ nak, no    └──┼───────────┴──────────────────────┘
//!   │<────────────────────────┘ answer        │ ack          nak, or it is over: Lost
//!   │<──────────────────────────────────── InitReboot <── a lease of an earlier run that is over, or the clock leapt
//!   └───────── nak, no answer: Lost ──────────┘
//! ```
//!
//! Beyond the letter of the RFC:
//!
//! - Rebinding asks by turns in its own form and in that of InitReboot. The first has a server answer to the address itself,
//!   which fails while its container is not there to say where that is; the second has it answer to all.
//! - An offer outside the network that is asked for is taken only if no other comes, and one whose server is silent when it is asked
//!   for makes room for the next.
//! - A NAK of another server than the lease's own counts only if no ACK comes with it: two servers may share a wire, and one
//!   that doesn't know the other's leases refuses them.
//! - A question that is asked anew long after the last one is a new transaction, as an answer's time counts from its question.
//! - The last questions before T2 and the end are ten seconds apart and not a minute, since leases of two minutes exist.

mod times;

use std::net::Ipv4Addr;

use dhcproto::v4::Message;
use ipnet::Ipv4Net;
use tombolo_core::model::Mac;

use super::frame::To;
use super::message::{Answer, Kind, Say, Terms, Who};
pub use times::Times;
use times::{back_off_ms, spread_ms};

/// How often an offered address is asked for, and one that was had before a start.
const REQUESTS: u32 = 4;
const REBOOTS: u32 = 3;

/// How many offers are kept beside the one that is taken.
const OTHERS: usize = 4;

/// The least time between two questions of who has an address, in milliseconds.
const LEAST_MS: u64 = 10_000;
/// How long an answer to one form of question is waited for before the other form, and an ACK after a stranger's NAK.
const SOON_MS: u64 = 4_000;

/// What is random: any number of 32 bits.
pub type Dice<'a> = &'a mut dyn FnMut() -> u32;

/// Where a lease is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Before the first question, or the first after a failure.
    Init,
    /// Waits for offers.
    Selecting,
    /// Asks for what was offered.
    Requesting,
    /// Asks whether what was had before is still to be had.
    InitReboot,
    /// Has an address.
    Bound,
    /// Asks its server for more time.
    Renewing,
    /// Asks all servers for more time.
    Rebinding,
    /// Is over, by our own wish.
    Released,
}

/// What a server gave, with times of the caller's clock in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The address, with the length of its network's prefix.
    pub address: Ipv4Net,
    /// The first router.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// The server.
    pub server: Ipv4Addr,
    /// The hardware address that the server is reached by.
    pub hop: Mac,
    /// When it was asked for.
    pub since_ms: u64,
    /// When it has to be renewed and when it ends; never, if none.
    pub times: Option<Times>,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is an address where there was none.
    Obtained(Grant),
    /// It may be kept for longer, or was lost and is had again.
    Renewed(Grant),
    /// There is another address than before.
    Changed {
        /// The one before.
        was: Ipv4Addr,
        /// What there is now.
        now: Grant,
    },
    /// The address may not be used any more. Another one is being looked for.
    Lost {
        /// The address.
        address: Ipv4Addr,
        /// What a server said, if one did.
        refused: Option<String>,
    },
    /// A question for more time was not answered.
    NoAnswer {
        /// How long it may still be used, in milliseconds.
        left_ms: u64,
    },
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The message.
    pub message: Message,
    /// To whom.
    pub to: To,
}

/// What comes of an input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// What to send.
    pub send: Option<Outgoing>,
    /// What has happened.
    pub event: Option<Event>,
}

/// An offer, or what else is being asked for.
#[derive(Debug, Clone, Copy)]
struct Offer {
    address: Ipv4Addr,
    server: Ipv4Addr,
    hop: Mac,
}

impl Offer {
    /// What is offered; none without the server's name, as it can't be taken then.
    fn of(answer: &Answer, terms: &Terms) -> Option<Self> {
        Some(Self {
            address: terms.address.addr(),
            server: answer.server?,
            hop: answer.hop,
        })
    }
}

/// The life of one lease.
#[derive(Debug, Clone)]
pub struct Machine {
    who: Who,
    state: State,
    /// The address to ask for.
    wanted: Option<Ipv4Addr>,
    /// Where it should be.
    within: Ipv4Net,
    /// What is held.
    held: Option<Grant>,
    /// What was held, if nothing is.
    was: Option<Ipv4Addr>,
    offer: Option<Offer>,
    /// What else was offered, for when who has offered the one doesn't stand by it.
    others: Vec<Offer>,
    /// A refusal by another server than the lease's own: it counts if nobody says otherwise.
    doubt: Option<String>,
    /// The last refusal.
    refused: Option<String>,
    xid: u32,
    /// When this attempt at an address began, and when the question was asked that an answer's times count from.
    began_ms: u64,
    asked_ms: u64,
    next_ms: u64,
    /// How often this was asked, and how often all began anew since there was an address.
    tries: u32,
    failures: u32,
}

impl Machine {
    /// Asks for an address of a network from now on: for the wanted one, though a server may have it otherwise.
    pub fn new(who: Who, wanted: Option<Ipv4Addr>, within: Ipv4Net, now_ms: u64) -> Self {
        Self {
            who,
            state: State::Init,
            wanted,
            within,
            held: None,
            was: None,
            offer: None,
            others: Vec::new(),
            doubt: None,
            refused: None,
            xid: 0,
            began_ms: now_ms,
            asked_ms: now_ms,
            next_ms: now_ms,
            tries: 0,
            failures: 0,
        }
    }

    /// Says another host name from the next message on.
    pub fn call(&mut self, host_name: String) {
        self.who.host_name = Some(host_name);
    }

    /// Goes on with what an earlier run was given. What has to be asked meanwhile is asked at the first tick.
    pub fn resume(who: Who, held: Grant, now_ms: u64) -> Self {
        let mut machine = Self::new(who, Some(held.address.addr()), held.address, now_ms);
        machine.state = State::Bound;
        machine.next_ms = held.times.map_or(u64::MAX, |times| times.t1_ms);
        machine.held = Some(held);
        machine
    }

    /// When it has something to do: [`Self::tick`] then. `u64::MAX` is never.
    pub fn due_ms(&self) -> u64 {
        self.next_ms
    }

    /// Whether it waits for an answer, or is about to ask.
    pub fn asks(&self) -> bool {
        !matches!(self.state, State::Bound | State::Released)
    }

    /// What a server said when it refused last, since there was an address.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Does what is due.
    pub fn tick(&mut self, now_ms: u64, dice: Dice) -> Output {
        if now_ms < self.next_ms {
            return Output::default();
        }
        match self.state {
            State::Init => self.discover(now_ms, dice),
            State::Selecting => match self.offer {
                // None better has come.
                Some(offer) => self.request(offer, now_ms, dice),
                None => self.ask(Say::Discover { wanted: self.wanted }, To::ALL, now_ms, dice),
            },
            State::Requesting => match self.offer {
                // One that is silent now may be no server at all.
                _ if !self.others.is_empty() => {
                    let next = self.others.remove(0);
                    self.request(next, now_ms, dice)
                }
                Some(Offer { address, server, .. }) if self.tries < REQUESTS => {
                    self.ask(Say::Select { address, server }, To::ALL, now_ms, dice)
                }
                _ => self.restart(now_ms, dice),
            },
            State::InitReboot => match (self.doubt.take(), self.wanted) {
                (None, Some(address)) if self.tries < REBOOTS => {
                    self.ask(Say::Reboot { address }, To::ALL, now_ms, dice)
                }
                (doubt, _) => self.lose(doubt, now_ms),
            },
            State::Bound | State::Renewing | State::Rebinding => self.extend(now_ms, dice),
            State::Released => {
                self.next_ms = u64::MAX;
                Output::default()
            }
        }
    }

    /// Takes an answer.
    pub fn receive(&mut self, now_ms: u64, answer: &Answer, dice: Dice) -> Output {
        if answer.xid != self.xid || answer.mac != self.who.mac {
            return Output::default();
        }
        match (self.state, &answer.kind) {
            (State::Selecting, Kind::Offer(terms)) => self.offered(answer, terms, now_ms, dice),
            (State::Requesting, Kind::Offer(terms)) => {
                self.keep_offer(answer, terms);
                Output::default()
            }
            (State::Requesting, Kind::Ack(terms)) if self.is_of_offer(answer) => {
                self.bind(terms, answer, dice)
            }
            (State::Requesting, Kind::Nak(why)) if self.is_of_offer(answer) => {
                self.refused = Some(why.clone().unwrap_or_default());
                self.restart(now_ms, dice)
            }
            (State::InitReboot | State::Renewing | State::Rebinding, Kind::Ack(terms)) => {
                self.bind(terms, answer, dice)
            }
            (State::InitReboot | State::Renewing | State::Rebinding, Kind::Nak(why)) => {
                let why = why.clone().unwrap_or_default();
                let own = self.held.as_ref().map(|held| held.server);
                if own.is_some() && own == answer.server {
                    return self.lose(Some(why), now_ms);
                }
                self.doubt = Some(why);
                self.next_ms = self.next_ms.min(now_ms + SOON_MS);
                Output::default()
            }
            _ => Output::default(),
        }
    }

    /// Asks again soon what is waited for: there was no way to a server, and there is one now.
    pub fn nudge(&mut self, now_ms: u64, dice: Dice) {
        if self.asks() {
            self.next_ms = self.next_ms.min(now_ms + u64::from(dice() % 1_000));
        }
    }

    /// Gives the address back, if one is held, or was asked for and may have been given meanwhile; this is the end.
    pub fn release(&mut self, dice: Dice) -> Option<Outgoing> {
        let asked = self.offer.filter(|_| self.state == State::Requesting);
        let held = self.end().map(|held| Offer {
            address: held.address.addr(),
            server: held.server,
            hop: held.hop,
        });
        let Offer { address, server, hop } = held.or(asked)?;
        let from = address;
        let to = To::Server { from, server, hop };
        let message = Say::Release { address, server }.message(&self.who, dice(), 0);
        Some(Outgoing { message, to })
    }

    /// Tells the server that somebody else uses the address, if one is held; this is the end.
    pub fn decline(&mut self, dice: Dice) -> Option<Outgoing> {
        let held = self.end()?;
        let (address, server) = (held.address.addr(), held.server);
        let message = Say::Decline { address, server }.message(&self.who, dice(), 0);
        Some(Outgoing { message, to: To::ALL })
    }

    fn end(&mut self) -> Option<Grant> {
        self.state = State::Released;
        self.next_ms = u64::MAX;
        self.held.take()
    }

    /// Begins a transaction: an answer to an earlier one isn't taken any more.
    fn transact(&mut self, state: State, now_ms: u64, dice: Dice) {
        self.xid = dice();
        self.state = state;
        self.tries = 0;
        self.asked_ms = now_ms;
        self.offer = None;
        self.others.clear();
        self.doubt = None;
    }

    /// Asks, and waits for longer the more often it was asked.
    fn ask(&mut self, say: Say, to: To, now_ms: u64, dice: Dice) -> Output {
        self.next_ms = now_ms.saturating_add(back_off_ms(self.tries, dice));
        self.say(say, to, now_ms)
    }

    fn say(&mut self, say: Say, to: To, now_ms: u64) -> Output {
        self.tries = self.tries.saturating_add(1);
        let seconds = now_ms.saturating_sub(self.began_ms) / 1_000;
        let message = say.message(&self.who, self.xid, u16::try_from(seconds).unwrap_or(u16::MAX));
        Output {
            send: Some(Outgoing { message, to }),
            event: None,
        }
    }

    fn discover(&mut self, now_ms: u64, dice: Dice) -> Output {
        self.transact(State::Selecting, now_ms, dice);
        self.began_ms = now_ms;
        self.ask(Say::Discover { wanted: self.wanted }, To::ALL, now_ms, dice)
    }

    fn offered(&mut self, answer: &Answer, terms: &Terms, now_ms: u64, dice: Dice) -> Output {
        let Some(offer) = Offer::of(answer, terms) else {
            return Output::default();
        };
        let fits = self.wanted.is_none_or(|wanted| wanted == offer.address);
        if fits && self.within.contains(&offer.address) {
            return self.request(offer, now_ms, dice);
        }
        // Another server may offer the right one.
        if self.offer.is_none() {
            self.offer = Some(offer);
        } else {
            self.keep_offer(answer, terms);
        }
        Output::default()
    }

    /// Notes what another server than the one that is asked offers. Nothing is kept but what would do.
    fn keep_offer(&mut self, answer: &Answer, terms: &Terms) {
        let Some(offer) = Offer::of(answer, terms) else {
            return;
        };
        let mut known = self.offer.iter().chain(&self.others);
        let known = known.any(|known| known.server == offer.server);
        if !known && self.others.len() < OTHERS && self.within.contains(&offer.address) {
            self.others.push(offer);
        }
    }

    /// Takes an offer. The number stays that of the offer (RFC 2131, section 4.4.1).
    fn request(&mut self, offer: Offer, now_ms: u64, dice: Dice) -> Output {
        let (xid, others) = (self.xid, std::mem::take(&mut self.others));
        self.transact(State::Requesting, now_ms, dice);
        (self.xid, self.others) = (xid, others);
        self.offer = Some(offer);
        let Offer { address, server, .. } = offer;
        self.ask(Say::Select { address, server }, To::ALL, now_ms, dice)
    }

    fn is_of_offer(&self, answer: &Answer) -> bool {
        self.offer
            .is_some_and(|offer| answer.server.is_none_or(|server| server == offer.server))
    }

    /// Begins anew, later the more often that was necessary.
    fn restart(&mut self, now_ms: u64, dice: Dice) -> Output {
        self.state = State::Init;
        self.offer = None;
        self.next_ms = now_ms.saturating_add(back_off_ms(self.failures, dice));
        self.failures = self.failures.saturating_add(1);
        Output::default()
    }

    /// Asks for more time, of whom it is time to ask.
    fn extend(&mut self, now_ms: u64, dice: Dice) -> Output {
        let times = self.held.as_ref().and_then(|held| held.times);
        let (Some(held), Some(times)) = (&self.held, times) else {
            // It has no end.
            self.next_ms = u64::MAX;
            return Output::default();
        };
        let (address, server, hop) = (held.address.addr(), held.server, held.hop);
        let unanswered = self.state != State::Bound;
        if let Some(doubt) = self.doubt.take() {
            return self.lose(Some(doubt), now_ms);
        }
        if now_ms >= times.expiry_ms {
            if unanswered {
                return self.lose(None, now_ms);
            }
            // Nobody has been asked: this run is younger than the lease's end, or the host slept.
            self.transact(State::InitReboot, now_ms, dice);
            self.began_ms = now_ms;
            self.wanted = Some(address);
            return self.ask(Say::Reboot { address }, To::ALL, now_ms, dice);
        }
        if !unanswered {
            self.began_ms = now_ms;
        }
        let all = now_ms >= times.t2_ms;
        let state = if all { State::Rebinding } else { State::Renewing };
        let tries = if self.state == state { self.tries } else { 0 };
        self.transact(state, now_ms, dice);
        self.tries = tries;
        let end_ms = if all { times.expiry_ms } else { times.t2_ms };
        let mut wait_ms = ((end_ms - now_ms) / 2).max(LEAST_MS);
        let (say, to) = match (all, tries % 2) {
            (false, _) => {
                let from = address;
                (Say::Extend { address, all }, To::Server { from, server, hop })
            }
            (true, 0) => {
                wait_ms = SOON_MS;
                (Say::Extend { address, all }, To::All { from: address })
            }
            (true, _) => (Say::Reboot { address }, To::ALL),
        };
        self.next_ms = end_ms.min(now_ms.saturating_add(spread_ms(wait_ms, dice)));
        let mut output = self.say(say, to, now_ms);
        if unanswered {
            let left_ms = times.expiry_ms - now_ms;
            output.event = Some(Event::NoAnswer { left_ms });
        }
        output
    }

    fn bind(&mut self, terms: &Terms, answer: &Answer, dice: Dice) -> Output {
        let before = self.held.as_ref();
        // Who doesn't say its name is the one that was asked.
        let asked = self
            .offer
            .map(|offer| offer.server)
            .or(before.map(|held| held.server));
        let Some(server) = answer.server.or(asked) else {
            return Output::default();
        };
        let was = before.map(|held| held.address.addr()).or(self.was);
        let grant = Grant {
            address: terms.address,
            router: terms.router,
            name_servers: terms.name_servers.clone(),
            server,
            hop: answer.hop,
            since_ms: self.asked_ms,
            times: Times::of(terms, self.asked_ms, dice),
        };
        self.transact(State::Bound, self.asked_ms, dice);
        self.next_ms = grant.times.map_or(u64::MAX, |times| times.t1_ms);
        self.wanted = Some(grant.address.addr());
        self.held = Some(grant.clone());
        self.was = None;
        self.refused = None;
        self.failures = 0;
        let event = match was {
            None => Event::Obtained(grant),
            Some(was) if was == grant.address.addr() => Event::Renewed(grant),
            Some(was) => Event::Changed { was, now: grant },
        };
        Output {
            send: None,
            event: Some(event),
        }
    }

    /// What is held isn't any more. All begins anew, at once.
    fn lose(&mut self, refused: Option<String>, now_ms: u64) -> Output {
        self.state = State::Init;
        self.next_ms = now_ms;
        self.doubt = None;
        self.refused.clone_from(&refused);
        let Some(held) = self.held.take() else {
            return Output::default();
        };
        let address = held.address.addr();
        self.was = Some(address);
        self.wanted = Some(address);
        Output {
            send: None,
            event: Some(Event::Lost { address, refused }),
        }
    }
}

#[cfg(test)]
mod tests;
