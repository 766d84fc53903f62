//! Servers that tell each asker which address they saw it under, and their clients.
//!
//! So one question shows both that traffic passes and whether the sender's address was kept or replaced on the way.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

use crate::spaces::Spaces;

/// How long an asker waits. Long enough for a busy machine; what is dropped costs this much of a test's time.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a datagram server looks whether it is still wanted.
const LOOK_UP: Duration = Duration::from_millis(100);

/// A server that answers each asker with the asker's address.
#[derive(Debug)]
pub struct Answerer {
    listener: Option<Arc<TcpListener>>,
    unwanted: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    /// A server for connections to an address such as `[::]:80` in a place.
    #[track_caller]
    pub fn tcp(place: &Spaces, address: &str) -> Self {
        let listener = place.enter(|| TcpListener::bind(address));
        let listener = Arc::new(listener.unwrap_or_else(|e| panic!("listening on {address} (TCP): {e}")));
        let accepting = Arc::clone(&listener);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, asker)) = accepting.accept() {
                answer(stream, asker).ok();
            }
        });
        Self {
            listener: Some(listener),
            unwanted: Arc::default(),
            thread: Some(thread),
        }
    }

    /// A server for datagrams to an address such as `[::]:53` in a place.
    #[track_caller]
    pub fn udp(place: &Spaces, address: &str) -> Self {
        let socket = place.enter(|| UdpSocket::bind(address));
        let socket = socket.unwrap_or_else(|e| panic!("listening on {address} (UDP): {e}"));
        socket
            .set_read_timeout(Some(LOOK_UP))
            .expect("a time limit on a socket");
        let unwanted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&unwanted);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((_, asker)) = socket.recv_from(&mut buffer) {
                    socket
                        .send_to(asker.ip().to_canonical().to_string().as_bytes(), asker)
                        .ok();
                }
            }
        });
        Self {
            listener: None,
            unwanted,
            thread: Some(thread),
        }
    }
}

/// An asker that goes away early is its own fault.
fn answer(mut stream: TcpStream, asker: SocketAddr) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(asker.ip().to_canonical().to_string().as_bytes())
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            // On Linux this wakes whoever waits in accept.
            shutdown(listener.as_raw_fd(), Shutdown::Both).ok();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Asks a server from a place which address it sees, by a connection.
///
/// # Errors
/// Whatever kept the question or the answer from arriving.
pub fn ask_tcp(place: &Spaces, server: &str) -> io::Result<IpAddr> {
    ask_tcp_for(PATIENCE, place, server)
}

/// The same with another patience.
///
/// # Errors
/// As for [`ask_tcp`].
pub fn ask_tcp_for(patience: Duration, place: &Spaces, server: &str) -> io::Result<IpAddr> {
    let address: SocketAddr = server.parse().unwrap_or_else(|e| panic!("{server}: {e}"));
    place.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        text.parse()
            .map_err(|_| io::Error::other(format!("answered '{text}'")))
    })
}

/// Asks a server from a place which address it sees, by a datagram. The answer must come from where the question went.
///
/// # Errors
/// Whatever kept the question or the answer from arriving.
pub fn ask_udp(place: &Spaces, server: &str) -> io::Result<IpAddr> {
    ask_udp_for(PATIENCE, place, server)
}

/// The same with another patience.
///
/// # Errors
/// As for [`ask_udp`].
pub fn ask_udp_for(patience: Duration, place: &Spaces, server: &str) -> io::Result<IpAddr> {
    let address: SocketAddr = server.parse().unwrap_or_else(|e| panic!("{server}: {e}"));
    place.enter(|| {
        let socket = UdpSocket::bind(if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" })?;
        socket.set_read_timeout(Some(patience))?;
        socket.connect(address)?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        text.parse()
            .map_err(|_| io::Error::other(format!("answered '{text}'")))
    })
}
