//! What was sent and what came, stream by stream, and what to think of it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::seats::{PER_NETWORK, SEATS, Seats};
use super::windows::Windows;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Datagrams from one seat to another over one family; seats are meant by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream {
    pub from: usize,
    pub to: usize,
    pub family: Family,
}

impl Stream {
    /// All there are: from each seat to each other one of its network, over both families.
    pub fn all() -> impl Iterator<Item = Self> {
        let pairs = (0..SEATS).flat_map(|from| (0..SEATS).map(move |to| (from, to)));
        let pairs = pairs.filter(|(from, to)| from != to && from / PER_NETWORK == to / PER_NETWORK);
        pairs.flat_map(|(from, to)| [Family::V4, Family::V6].map(|family| Self { from, to, family }))
    }

    fn place(self) -> usize {
        let family = usize::from(self.family == Family::V6);
        (self.from * SEATS + self.to) * 2 + family
    }
}

/// What a datagram says of itself: a number of the run, its stream, and its place in it.
pub const LENGTH: usize = 20;

/// A datagram that was sent.
#[derive(Debug)]
struct Sent {
    at: Duration,
    came: bool,
}

/// A stream that flows, or has flowed.
#[derive(Debug, Default)]
struct Log {
    /// The number of the first one that is still to be judged.
    first: u64,
    sent: VecDeque<Sent>,
    /// When the last one was sent of those that were judged and had come.
    good: Option<Duration>,
    highest: u64,
    came: u64,
    twice: Vec<u64>,
    late: Vec<u64>,
}

/// Something that should not have been.
#[derive(Debug)]
pub struct Fault {
    stream: Option<Stream>,
    what: String,
}

impl Fault {
    /// As text.
    pub fn told(&self, seats: &Seats) -> String {
        let stream = self
            .stream
            .map_or("nobody's".to_owned(), |stream| seats.told(stream));
        format!("  {stream}: {}", self.what)
    }
}

/// What came of a while.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What should not have been.
    pub faults: Vec<Fault>,
    /// How many datagrams were lost that could be.
    pub allowed: u64,
    /// How many were judged.
    pub judged: u64,
    /// The longest time that a stream was without.
    pub gap: Duration,
}

/// A datagram that somebody saw whom it was not for.
#[derive(Debug)]
struct Stray {
    seen_by: usize,
    /// None if it is nobody's.
    stream: Option<Stream>,
    number: u64,
    at: Duration,
}

/// Some datagrams in a row that were lost.
#[derive(Debug)]
struct Run {
    numbers: (u64, u64),
    times: (Duration, Duration),
    /// How many of them may not be.
    faulty: u64,
}

/// The book of all streams.
#[derive(Debug)]
pub struct Ledger {
    began: Instant,
    run: u64,
    logs: Vec<Mutex<Log>>,
    strays: Mutex<Vec<Stray>>,
    reordered: AtomicU64,
}

impl Ledger {
    /// A book with nothing in it.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            run: u64::from(std::process::id()) << 32 | 0x746f_6d62,
            logs: (0..SEATS * SEATS * 2).map(|_| Mutex::default()).collect(),
            strays: Mutex::default(),
            reordered: AtomicU64::new(0),
        }
    }

    /// The time, counted from the run's beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until it is later than that.
    pub fn sleep_until(&self, then: Duration) {
        std::thread::sleep(then.saturating_sub(self.now()));
    }

    fn log(&self, stream: Stream) -> std::sync::MutexGuard<'_, Log> {
        self.logs[stream.place()].lock().expect("no panic while held")
    }

    /// Notes that the next datagram of a stream is sent, and gives it.
    pub fn next(&self, stream: Stream) -> [u8; LENGTH] {
        let mut log = self.log(stream);
        let number = log.first + log.sent.len() as u64;
        log.sent.push_back(Sent {
            at: self.now(),
            came: false,
        });
        let mut text = [0; LENGTH];
        text[..8].copy_from_slice(&self.run.to_be_bytes());
        text[8..16].copy_from_slice(&number.to_be_bytes());
        text[16] = u8::try_from(stream.from).expect("few seats");
        text[17] = u8::try_from(stream.to).expect("few seats");
        text[18] = u8::from(stream.family == Family::V6);
        text
    }

    fn read(&self, text: &[u8]) -> Option<(Stream, u64)> {
        let text: &[u8; LENGTH] = text.try_into().ok()?;
        let number = |at: usize| u64::from_be_bytes(text[at..at + 8].try_into().expect("eight bytes"));
        let stream = Stream {
            from: usize::from(text[16]),
            to: usize::from(text[17]),
            family: if text[18] == 0 { Family::V4 } else { Family::V6 },
        };
        let known = number(0) == self.run && stream.from < SEATS && stream.to < SEATS;
        known.then(|| (stream, number(8)))
    }

    /// Notes a datagram that came to a seat over a family.
    pub fn came(&self, to: usize, family: Family, text: &[u8]) {
        let read = self.read(text);
        let Some((stream, number)) = read.filter(|(stream, _)| stream.to == to && stream.family == family)
        else {
            return self.strayed(to, text);
        };
        let mut log = self.log(stream);
        if number < log.first {
            // It was judged, and lost.
            log.late.push(number);
            return;
        }
        let index = usize::try_from(number - log.first).expect("few at a time");
        let Some(sent) = log.sent.get_mut(index) else {
            drop(log);
            return self.strayed(to, text);
        };
        if std::mem::replace(&mut sent.came, true) {
            log.twice.push(number);
            return;
        }
        log.came += 1;
        if number < log.highest {
            self.reordered.fetch_add(1, Ordering::Relaxed);
        }
        log.highest = log.highest.max(number);
    }

    /// Notes a datagram that a seat saw though it was not for it.
    pub fn strayed(&self, seen_by: usize, text: &[u8]) {
        let read = self.read(text);
        let stray = Stray {
            seen_by,
            stream: read.map(|(stream, _)| stream),
            number: read.map_or(0, |(_, number)| number),
            at: self.now(),
        };
        self.strays.lock().expect("no panic while held").push(stray);
    }

    /// How many of a stream have come so far.
    pub fn so_far(&self, stream: Stream) -> u64 {
        self.log(stream).came
    }

    /// How many have come of all streams, and how many of those behind a later one.
    pub fn totals(&self) -> (u64, u64) {
        let came = Stream::all().map(|stream| self.so_far(stream)).sum();
        (came, self.reordered.load(Ordering::Relaxed))
    }

    /// Judges all that was sent up to then, and forgets it.
    pub fn judge(&self, until: Duration, windows: &Windows) -> Verdict {
        let mut verdict = Verdict::default();
        for stream in Stream::all() {
            let mut log = self.log(stream);
            log.judge(stream, until, windows, &mut verdict);
            for (numbers, what) in [
                (std::mem::take(&mut log.twice), "came twice"),
                (std::mem::take(&mut log.late), "came after it was taken for lost"),
            ] {
                if let Some(first) = numbers.first() {
                    verdict.fault(
                        Some(stream),
                        format!("{} of them {what}, first #{first}", numbers.len()),
                    );
                }
            }
        }
        for stray in self.strays.lock().expect("no panic while held").drain(..) {
            // Who has not been told yet where somebody went to sends to where they were.
            if stray.stream.is_some_and(|stream| windows.allow(stream, stray.at)) {
                continue;
            }
            let (seen_by, number, at) = (stray.seen_by, stray.number, stray.at.as_secs_f64());
            verdict.fault(
                stray.stream,
                format!("#{number} was seen by seat {seen_by} at {at:.3} s"),
            );
        }
        verdict
    }
}

impl Verdict {
    fn fault(&mut self, stream: Option<Stream>, what: String) {
        self.faults.push(Fault { stream, what });
    }

    /// Takes in some that were lost in a row, between one that came and another.
    fn lost(&mut self, stream: Stream, run: &Run, between: (Option<Duration>, Duration)) {
        let count = run.numbers.1 - run.numbers.0 + 1;
        self.allowed += count - run.faulty;
        let gap = between.1 - between.0.unwrap_or(run.times.0);
        if run.faulty == 0 {
            self.gap = self.gap.max(gap);
            return;
        }
        let (first, last) = (run.times.0.as_secs_f64(), run.times.1.as_secs_f64());
        self.fault(
            Some(stream),
            format!(
                "{count} lost, {} of them against the rules: #{} to #{}, sent from {first:.3} s to {last:.3} s",
                run.faulty, run.numbers.0, run.numbers.1
            ),
        );
    }
}

impl Log {
    fn judge(&mut self, stream: Stream, until: Duration, windows: &Windows, verdict: &mut Verdict) {
        let mut run: Option<Run> = None;
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.at <= until) {
            let number = self.first;
            self.first += 1;
            verdict.judged += 1;
            if sent.came {
                if let Some(run) = run.take() {
                    verdict.lost(stream, &run, (self.good, sent.at));
                }
                self.good = Some(sent.at);
                continue;
            }
            let run = run.get_or_insert(Run {
                numbers: (number, number),
                times: (sent.at, sent.at),
                faulty: 0,
            });
            (run.numbers.1, run.times.1) = (number, sent.at);
            run.faulty += u64::from(!windows.allow(stream, sent.at));
        }
        if let Some(run) = run {
            verdict.lost(stream, &run, (self.good, run.times.1));
        }
    }
}
