//! Servers that send back what they get, whatever its size, and who asks them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use system_tests::Spaces;

/// The port of all of them.
pub const PORT: u16 = 7;

/// How long is waited for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a server looks whether it is still wanted.
const LOOK_UP: Duration = Duration::from_millis(50);

/// A server's room for datagrams. The kernel's usual one holds two of the largest that came in pieces, which several
/// askers at once overflow.
const ROOM: usize = 8 << 20;

/// Sends back datagrams, and what comes on connections.
pub struct Echo {
    unwanted: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// A server of both families in a place.
    pub fn in_place(place: &Spaces) -> Self {
        let unwanted = Arc::new(AtomicBool::new(false));
        let (udp, tcp) = place.enter(|| {
            let udp = UdpSocket::bind(("::", PORT)).expect("a socket for datagrams");
            (udp, TcpListener::bind(("::", PORT)).expect("a listening socket"))
        });
        setsockopt(&udp, sockopt::RcvBufForce, &ROOM).expect("a large buffer (root is needed)");
        udp.set_read_timeout(Some(LOOK_UP)).expect("a time limit");
        tcp.set_nonblocking(true).expect("a socket that doesn't block");
        let (flag, other) = (Arc::clone(&unwanted), Arc::clone(&unwanted));
        let datagrams = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((length, asker)) = udp.recv_from(&mut buffer) {
                    udp.send_to(&buffer[..length], asker).ok();
                }
            }
        });
        let connections = std::thread::spawn(move || {
            while !other.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((stream, _)) => drop(std::thread::spawn(move || give_back(stream))),
                    Err(_) => std::thread::sleep(LOOK_UP),
                }
            }
        });
        Self {
            unwanted,
            threads: vec![datagrams, connections],
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Whoever breaks off has had enough.
fn give_back(mut stream: TcpStream) {
    stream.set_nonblocking(false).ok();
    stream.set_read_timeout(Some(PATIENCE)).ok();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn same(sent: &[u8], got: &[u8]) -> io::Result<()> {
    match sent == got {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{} bytes were sent, and {} others came",
            sent.len(),
            got.len()
        ))),
    }
}

/// A datagram from this length on is sent while no other one of the kind is on its way: each comes in dozens of pieces, and
/// all links of the lab share one queue of the kernel's (`net.core.netdev_max_backlog`), which several at once overflow.
const LARGE: usize = 10_000;

/// Whoever sends a large datagram holds this.
static ALONE: Mutex<()> = Mutex::new(());

/// Sends one datagram and has it back.
///
/// # Errors
/// Whatever kept it.
pub fn datagram(place: &Spaces, to: SocketAddr, length: usize) -> io::Result<()> {
    // Who panicked with it had no answer, and says so itself.
    let _alone = (length >= LARGE).then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner));
    place.enter(|| {
        let socket = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        let sent = pattern(length);
        socket.send(&sent)?;
        let mut got = vec![0; 1 << 16];
        let length = socket.recv(&mut got)?;
        same(&sent, &got[..length])
    })
}

/// Sends some bytes on a connection and has them back.
///
/// # Errors
/// Whatever kept them.
pub fn stream(place: &Spaces, to: SocketAddr, length: usize) -> io::Result<()> {
    place.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let sent = pattern(length);
        let mut writing = stream.try_clone()?;
        let copy = sent.clone();
        let writer = std::thread::spawn(move || writing.write_all(&copy));
        let mut got = vec![0; length];
        stream.read_exact(&mut got)?;
        writer
            .join()
            .map_err(|_| io::Error::other("the writer panicked"))??;
        same(&sent, &got)
    })
}
