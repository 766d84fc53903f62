//! A flow of numbered datagrams between two places, and which of them were lost.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::spaces::Spaces;
use crate::wait;

/// Datagrams a second.
pub const RATE: u32 = 1000;

/// What the receiver can hold while the machine does something else, in bytes: some ten seconds of the flow.
const BUFFER: usize = 16 << 20;

/// A sender that was held up sends no more than this many datagrams at once: more would overrun the kernel's queue
/// between two links, and the network under test would be blamed for it.
const BURST: u32 = 50;

/// A flow that goes on until it is stopped.
#[derive(Debug)]
pub struct Flow {
    over: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<io::Result<u64>>,
    receiver: JoinHandle<Vec<u64>>,
}

/// What became of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// How many datagrams were sent.
    pub sent: u64,
    /// The numbers of those that did not arrive.
    pub lost: Vec<u64>,
}

impl Flow {
    /// Starts a flow from one place to an address in another, and waits until its first datagram has arrived.
    #[track_caller]
    pub fn start(from: &Spaces, to: &Spaces, address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap_or_else(|e| panic!("{address}: {e}"));
        let inlet = to
            .enter(|| UdpSocket::bind(address))
            .expect("the receiver's socket");
        setsockopt(&inlet, sockopt::RcvBufForce, &BUFFER).expect("a large buffer (root is needed)");
        inlet
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("a time limit on a socket");
        let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let outlet = from.enter(|| UdpSocket::bind(any)).expect("the sender's socket");
        let (over, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (Arc::clone(&over), Arc::clone(&received));
        let receiver = std::thread::spawn(move || receive(&inlet, &flag, &count));
        let flag = Arc::clone(&over);
        let sender = std::thread::spawn(move || send(&outlet, address, &flag));
        let flow = Self {
            over,
            received,
            sender,
            receiver,
        };
        wait::until("the first datagram of a flow", || {
            (flow.so_far() > 0).then_some(())
        });
        flow
    }

    /// How many datagrams have arrived so far.
    pub fn so_far(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends the flow, lets what is under way arrive, and tells what was lost.
    pub fn stop(self) -> Tally {
        self.over.store(true, Ordering::Relaxed);
        let sent = self
            .sender
            .join()
            .expect("the sender's thread")
            .expect("sending datagrams");
        let mut missing: Vec<bool> = vec![true; usize::try_from(sent).expect("a count that fits")];
        for number in self.receiver.join().expect("the receiver's thread") {
            missing[usize::try_from(number).expect("a number that was sent")] = false;
        }
        let lost = (0..sent)
            .zip(missing)
            .filter(|(_, missing)| *missing)
            .map(|(number, _)| number)
            .collect();
        Tally { sent, lost }
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, over: &AtomicBool) -> io::Result<u64> {
    let mut number = 0_u64;
    let mut due = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let behind = Instant::now().saturating_duration_since(due);
        due += behind.saturating_sub(Duration::from_secs(1) * BURST / RATE);
        socket.send_to(&number.to_be_bytes(), to)?;
        number += 1;
        due += Duration::from_secs(1) / RATE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(number)
}

/// Reads until the flow is over and nothing has come for the socket's time limit.
fn receive(socket: &UdpSocket, over: &AtomicBool, count: &AtomicU64) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut buffer = [0; 8];
    loop {
        match socket.recv(&mut buffer) {
            Ok(8) => {
                numbers.push(u64::from_be_bytes(buffer));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(_) if over.load(Ordering::Relaxed) => return numbers,
            Err(_) => {}
        }
    }
}
