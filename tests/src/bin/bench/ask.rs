//! Questions through a published port, and who answers them: one byte there, one byte back.
//!
//! Client and server run on one processor, so that what is measured is the way of the packets and not how long a second
//! processor takes to wake up.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::unistd::Pid;
use std::os::fd::AsRawFd;
use system_tests::Spaces;

/// How long an answer may take before we give up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Exchanges on a connection before any is measured.
const WARM_UP: usize = 20;

/// A server that sends back each byte.
pub struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

/// Keeps the calling thread on the processor of all questions and answers.
pub fn stay() {
    stay_on(last());
}

/// The processor of all questions and answers.
pub fn last() -> usize {
    let count = std::thread::available_parallelism().expect("the number of processors");
    count.get() - 1
}

/// Keeps the calling thread on a processor.
pub fn stay_on(processor: usize) {
    let mut one = CpuSet::new();
    one.set(processor).expect("a processor that is there");
    sched_setaffinity(Pid::from_raw(0), &one).expect("choosing a processor");
}

impl Server {
    /// A server on a port of all addresses of a place.
    pub fn start(place: &Spaces, port: u16) -> Self {
        Self::at(place, (Ipv4Addr::UNSPECIFIED, port).into())
    }

    /// A server at an address of a place, with a port of the kernel's choice where that is 0.
    pub fn at(place: &Spaces, address: SocketAddr) -> Self {
        let listener = place.enter(|| TcpListener::bind(address));
        let listener = Arc::new(listener.unwrap_or_else(|e| panic!("listening on {address}: {e}")));
        let accepting = Arc::clone(&listener);
        let thread = std::thread::spawn(move || {
            stay();
            while let Ok((stream, _)) = accepting.accept() {
                // A connection ends by a reset: the client leaves nothing behind.
                echo(stream).ok();
            }
        });
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

impl Server {
    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a socket that is bound")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On Linux this wakes whoever waits in accept.
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Sends back each byte of a connection.
pub fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// A connection for questions.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Closed by a reset, so that thousands of ended connections do not linger.
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &at_once)?;
    Ok(stream)
}

/// One question and its answer.
pub fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

/// What was measured in a round: each exchange on one connection, and each connection with an exchange, in order.
#[derive(Default)]
pub struct Round {
    /// Exchanges on a connection that was there.
    pub exchanges: Vec<Duration>,
    /// Connecting, one exchange, and closing.
    pub connections: Vec<Duration>,
}

/// Asks each of these addresses from a place, so many times.
pub fn round(place: &Spaces, addresses: &[SocketAddr], exchanges: usize, connections: usize) -> Round {
    let asked = place.enter(|| {
        stay();
        let mut round = Round::default();
        for &address in addresses {
            ask(address, exchanges, connections, &mut round).map_err(|e| format!("asking {address}: {e}"))?;
        }
        Ok::<_, String>(round)
    });
    asked.unwrap_or_else(|e| panic!("{e}"))
}

fn ask(address: SocketAddr, exchanges: usize, connections: usize, round: &mut Round) -> io::Result<()> {
    let mut stream = connect(address)?;
    for _ in 0..WARM_UP {
        exchange(&mut stream)?;
    }
    for _ in 0..exchanges {
        let begin = Instant::now();
        exchange(&mut stream)?;
        round.exchanges.push(begin.elapsed());
    }
    drop(stream);
    for _ in 0..connections {
        let begin = Instant::now();
        let mut stream = connect(address)?;
        exchange(&mut stream)?;
        drop(stream);
        round.connections.push(begin.elapsed());
    }
    Ok(())
}
