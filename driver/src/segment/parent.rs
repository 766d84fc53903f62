//! The task of one parent link: it joins the sockets, the clock and the orders with what is decided in [`Asking`].

use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tombolo_core::model::{IfName, Mac};

use super::asking::Asking;
use super::wire::{Heard, Wire};
use super::{Shared, Trust, Verdict, Why};
use crate::kernel::here::{Here, Stand};

/// When sockets are tried again that could not be opened, or failed: at first, and at most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// The pause after as many frames as are read at once, while nobody waits for any: a flood takes no more than so many out of each
/// of these.
const REST: Duration = Duration::from_millis(5);

/// How often as many frames are read at once before it is decided without the rest: by then it is known that some may be lost.
const TURNS: usize = 32;

/// Who has this address? And whom to tell.
pub(super) type Order = (IpAddr, Trust, oneshot::Sender<Verdict>);

/// What the service tells the task of a parent.
#[derive(Debug)]
pub(super) struct Orders {
    pub checks: mpsc::Receiver<Order>,
    /// Those that are kept ahead.
    pub ahead: watch::Receiver<Vec<IpAddr>>,
    /// How the link stands, if there is one.
    pub link: watch::Receiver<Option<Here>>,
}

/// The task's own.
pub(super) struct Parent {
    name: IfName,
    shared: Arc<Shared>,
    orders: Orders,
    /// Probes sent so far.
    sent: Arc<AtomicU64>,
    asking: Asking<oneshot::Sender<Verdict>>,
    wire: Result<Wire, Why>,
    /// When the sockets are tried again, and the pause before the time after that.
    retry: Option<Instant>,
    pause: Duration,
    /// No frames are read until then.
    rest: Option<Instant>,
}

impl Parent {
    pub fn new(name: IfName, shared: Arc<Shared>, orders: Orders, sent: Arc<AtomicU64>, seed: u64) -> Self {
        Self {
            name,
            shared,
            orders,
            sent,
            asking: Asking::new(Instant::now(), seed),
            wire: Err(Why::Missing),
            retry: None,
            pause: RETRY,
            rest: None,
        }
    }

    /// Goes on until nobody can give orders any more.
    pub async fn run(mut self) {
        self.open();
        let mut heard = Heard::default();
        loop {
            let due = self.due();
            let wire = self.wire.as_ref().ok().filter(|_| self.rest.is_none());
            tokio::select! {
                check = self.orders.checks.recv() => match check {
                    Some(check) => self.check(check),
                    None => return,
                },
                ahead = self.orders.ahead.changed() => match ahead {
                    Ok(()) => self.keep_ahead(),
                    Err(_) => return,
                },
                link = self.orders.link.changed() => match link {
                    Ok(()) => self.open(),
                    Err(_) => return,
                },
                more = hear(wire, &mut heard) => self.heard(&more, &mut heard),
                () = until(due) => {}
            }
            self.turn(&mut heard);
        }
    }

    /// Opens the sockets anew, if the link stands.
    fn open(&mut self) {
        let (now, link) = (Instant::now(), self.orders.link.borrow_and_update().clone());
        self.retry = None;
        let opened = match link {
            None => Err(Why::Missing),
            Some(link) => match (link.stand, link.mac) {
                (Stand::Down, _) => Err(Why::Down),
                (Stand::NoCarrier, _) => Err(Why::NoCarrier),
                (Stand::Strange, _) | (_, None) => Err(Why::Strange),
                (Stand::Up, Some(mac)) => Wire::open(&self.name, link.index, mac).map_err(|error| {
                    self.retry = Some(now + self.pause);
                    Why::Refused(error.to_string())
                }),
            },
        };
        self.have(opened, now);
        self.keep_ahead();
    }

    /// Has other sockets from now on, or none.
    fn have(&mut self, wire: Result<Wire, Why>, now: Instant) {
        match (&self.wire, &wire) {
            (_, Ok(_)) => tracing::debug!(parent = %self.name, "who else is on this wire can be asked"),
            (Err(before), Err(why)) if before == why => {}
            (_, Err(why)) => {
                tracing::info!(parent = %self.name, %why, "who else is on this wire can't be asked");
            }
        }
        let why = wire.as_ref().err().cloned();
        self.asking.stop(&why.unwrap_or(Why::Changed), now);
        (self.wire, self.rest) = (wire, None);
    }

    fn check(&mut self, (address, trust, who): Order) {
        match &self.wire {
            Ok(_) => self.asking.ask(address, trust, who, Instant::now()),
            // Who asked may have gone.
            Err(why) => drop(who.send(Verdict::Unasked(why.clone()))),
        }
    }

    fn keep_ahead(&mut self) {
        let ahead = self.orders.ahead.borrow_and_update().clone();
        self.asking.keep_ahead(&ahead, Instant::now());
        if let Ok(wire) = &mut self.wire {
            wire.listen_for(self.asking.ahead());
        }
    }

    fn heard(&mut self, more: &io::Result<bool>, heard: &mut Heard) {
        let now = Instant::now();
        self.take_in(heard, now);
        match more {
            Ok(true) if !self.asking.is_asking() => self.rest = Some(now + REST),
            Ok(_) => self.pause = RETRY,
            Err(error) => {
                tracing::warn!(parent = %self.name, %error, "a packet socket failed, and is opened anew");
                self.retry = Some(now + self.pause);
                self.pause = (2 * self.pause).min(RETRY_MOST);
                self.have(Err(Why::Refused(error.to_string())), now);
            }
        }
    }

    fn take_in(&mut self, heard: &mut Heard, now: Instant) {
        for family in heard.missed.drain(..) {
            self.asking.missed(family);
        }
        let own = self.shared.own();
        let ours = |mac: Mac| own.is(mac) || (self.shared.ours)(mac);
        for word in heard.words.drain(..).filter(|word| !ours(word.mac)) {
            let has = |address| own.has(address) || ours(Mac::of_address(address));
            self.asking.hear(word, has, now);
        }
    }

    /// When there is something to do without anybody's word.
    fn due(&self) -> Option<Instant> {
        let asking = self.wire.as_ref().ok().and_then(|_| self.asking.due());
        [asking, self.retry, self.rest].into_iter().flatten().min()
    }

    /// Reads what has come already: an answer may lie there when the time for it is over, if this task was held up.
    fn catch_up(&mut self, heard: &mut Heard) {
        for _ in 0..TURNS {
            let Ok(wire) = &self.wire else { return };
            let more = wire.catch_up(heard);
            self.heard(&more, heard);
            if !matches!(more, Ok(true)) {
                return;
            }
        }
    }

    /// Does what is due, and tells who waited.
    fn turn(&mut self, heard: &mut Heard) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.rest) {
            self.rest = None;
        }
        if due(self.retry) {
            self.open();
            if self.retry.is_some() {
                self.pause = (2 * self.pause).min(RETRY_MOST);
            }
        }
        if due(self.due()) {
            self.catch_up(heard);
        }
        if let Ok(wire) = &self.wire {
            for address in self.asking.turn(now) {
                let sent = wire.probe(address).map_err(|error| error.to_string());
                self.sent.fetch_add(u64::from(sent.is_ok()), Ordering::Relaxed);
                self.asking.sent(address, sent);
            }
        }
        if self.asking.is_asking() {
            self.rest = None;
        }
        for (who, verdict) in self.asking.settled.drain(..) {
            // Who asked may have gone.
            drop(who.send(verdict));
        }
    }
}

/// Hears what is said on a wire, if there is one.
async fn hear(wire: Option<&Wire>, heard: &mut Heard) -> io::Result<bool> {
    match wire {
        Some(wire) => wire.hear(heard).await,
        None => pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => pending().await,
    }
}
