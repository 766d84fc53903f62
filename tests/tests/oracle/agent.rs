//! What sends and receives in a container: one thread, with sockets in the container's network namespace.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use system_tests::Spaces;

use super::ledger::{Family, Ledger, Stream};
use super::stray::Watch;

/// Datagrams a second and stream, unless said otherwise.
pub const RATE: u32 = 100;

/// Where all receive.
pub const PORT: u16 = 7007;

/// What the kernel holds for a thread that the machine does not let run, in bytes; and what it may hold of a socket's for those
/// that are asked for in vain, which must not keep back what goes to others.
const BUFFER: usize = 8 << 20;

/// A thread that sends and receives for a seat.
#[derive(Debug)]
pub struct Agent {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The sockets of an agent.
struct Sockets {
    v4: UdpSocket,
    v6: UdpSocket,
    watch: Watch,
}

impl Agent {
    /// Starts the agent of a seat. From here on it receives.
    pub fn start(
        ledger: &Arc<Ledger>,
        place: &Spaces,
        own: (usize, Ipv4Addr, Ipv6Addr),
        streams: Vec<(Stream, SocketAddr)>,
        rate: u32,
    ) -> Self {
        let (seat, v4, v6) = own;
        let sockets = place.enter(|| Sockets {
            v4: socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))),
            v6: socket(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))),
            watch: Watch::new(v4, v6),
        });
        let over = Arc::new(AtomicBool::new(false));
        let (flag, ledger) = (Arc::clone(&over), Arc::clone(ledger));
        let thread = std::thread::spawn(move || sockets.go_on(&ledger, seat, &streams, rate, &flag));
        Self {
            over,
            thread: Some(thread),
        }
    }
}

/// Ends the thread, and lets the container's network namespace go.
impl Drop for Agent {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn socket(address: SocketAddr) -> UdpSocket {
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("a socket of IPv6 alone");
    }
    socket.bind(&address.into()).expect("an agent's port");
    socket.set_nonblocking(true).expect("a socket that never waits");
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).expect("a large buffer (root is needed)");
    setsockopt(&socket, sockopt::SndBufForce, &BUFFER).expect("a large buffer (root is needed)");
    socket.into()
}

impl Sockets {
    /// Sends one datagram of each stream, takes in what has come, and so on, so many times a second.
    fn go_on(
        &self,
        ledger: &Ledger,
        seat: usize,
        streams: &[(Stream, SocketAddr)],
        rate: u32,
        over: &AtomicBool,
    ) {
        let tick = Duration::from_secs(1) / rate;
        let mut due = Instant::now();
        while !over.load(Ordering::Relaxed) {
            for (stream, address) in streams {
                let socket = match stream.family {
                    Family::V4 => &self.v4,
                    Family::V6 => &self.v6,
                };
                // One that can't be sent is lost like any other.
                socket.send_to(&ledger.next(*stream), address).ok();
            }
            self.take_in(ledger, seat);
            // Who was held up does not make up for it: that would overrun queues, and the network would be blamed.
            due = (due + tick).max(Instant::now());
            std::thread::sleep(due.saturating_duration_since(Instant::now()).max(tick / 4));
        }
        self.take_in(ledger, seat);
    }

    fn take_in(&self, ledger: &Ledger, seat: usize) {
        let mut buffer = [0; 64];
        for (socket, family) in [(&self.v4, Family::V4), (&self.v6, Family::V6)] {
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => ledger.came(seat, family, &buffer[..length]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    // What a router says of an address that is not there, or a link that went.
                    Err(_) => break,
                }
            }
        }
        self.watch.take_in(|text| ledger.strayed(seat, text));
    }
}
