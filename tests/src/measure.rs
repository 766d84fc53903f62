//! What ways from one place to another cost: how long a datagram and its answer take, how much a connection carries.
//!
//! Ways are measured in turns, so that whatever else the machine does hits all alike.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::samples::Samples;
use crate::spaces::Spaces;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a server looks whether it is still wanted.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Exchanges that aren't counted at the beginning of each turn: neighbours are looked up, processors wake.
const WARM_UP: usize = 50;

/// How long a connection carries what it can in each turn.
const STREAM: Duration = Duration::from_millis(400);

/// What is written at a time.
const CHUNK: usize = 128 << 10;

/// A way: from a place to an address in another.
#[derive(Debug)]
pub struct Way {
    /// What it is called.
    pub name: String,
    /// Where questions come from.
    pub from: Spaces,
    /// Where answers come from.
    pub to: Spaces,
    /// The address there.
    pub address: IpAddr,
}

/// What was measured of a way.
#[derive(Debug, Default, Clone)]
pub struct Cost {
    /// Each datagram with its answer.
    pub exchanges: Samples,
    /// What a connection carried in each turn, in Gbit/s.
    pub gbits: Vec<f64>,
}

impl Cost {
    /// What a connection carried in the median turn, in Gbit/s.
    pub fn gbit(&self) -> f64 {
        let mut sorted = self.gbits.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// Measures ways in turns, so many datagrams in each.
///
/// # Errors
/// What kept a question or an answer of a way from arriving, with the way's name.
pub fn in_turns(ways: &[Way], turns: usize, exchanges: usize) -> io::Result<Vec<Cost>> {
    let mut costs = vec![Cost::default(); ways.len()];
    for turn in 0..turns {
        // Each turn begins with another way.
        for next in 0..ways.len() {
            let at = (turn + next) % ways.len();
            let (way, cost) = (&ways[at], &mut costs[at]);
            let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", way.name));
            cost.exchanges.extend(&way.exchange(exchanges).map_err(named)?);
            cost.gbits.push(way.stream(STREAM).map_err(named)?);
        }
    }
    Ok(costs)
}

impl Way {
    /// Sends datagrams of 64 bytes one after the other, each when the one before it was answered.
    ///
    /// # Errors
    /// What kept a question or an answer from arriving.
    pub fn exchange(&self, count: usize) -> io::Result<Samples> {
        let server = self.to.enter(|| UdpSocket::bind((self.address, 0)))?;
        server.set_read_timeout(Some(LOOK_UP))?;
        let to = server.local_addr()?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| answer(&server, &over));
            let asked = self.ask(to, count);
            over.store(true, Ordering::Relaxed);
            asked
        })
    }

    fn ask(&self, to: SocketAddr, count: usize) -> io::Result<Samples> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let client = self.from.enter(|| UdpSocket::bind((any, 0)))?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.connect(to)?;
        let mut samples = Samples::default();
        let mut buffer = [0; 64];
        for number in 0..WARM_UP + count {
            let begun = Instant::now();
            client.send(&buffer)?;
            client.recv(&mut buffer)?;
            if number >= WARM_UP {
                samples.add(begun.elapsed());
            }
        }
        Ok(samples)
    }

    /// Has a connection carry what it can for a while; gives how much that is, in Gbit/s.
    ///
    /// # Errors
    /// What kept the connection from being made, or ended it.
    pub fn stream(&self, time: Duration) -> io::Result<f64> {
        let listener = self.to.enter(|| TcpListener::bind((self.address, 0)))?;
        let to = listener.local_addr()?;
        let mut sender = self.from.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        sender.set_write_timeout(Some(PATIENCE))?;
        let (receiver, _) = listener.accept()?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        thread::scope(|scope| {
            let receiving = scope.spawn(|| receive(receiver));
            let chunk = vec![0; CHUNK];
            let begun = Instant::now();
            while begun.elapsed() < time {
                sender.write_all(&chunk)?;
            }
            drop(sender);
            let bytes = receiving.join().expect("the thread that receives")?;
            // 2^53 bytes would take weeks.
            Ok(bytes as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9)
        })
    }
}

/// Sends back each datagram until nobody asks any more.
fn answer(server: &UdpSocket, over: &AtomicBool) {
    let mut buffer = [0; 64];
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, asker)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..length], asker).ok();
        }
    }
}

/// Reads to the end of a connection and counts.
fn receive(mut connection: TcpStream) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        match connection.read(&mut buffer)? {
            0 => return Ok(bytes),
            length => bytes += length as u64,
        }
    }
}
