//! Questions and streams from a place to another, and the processor's time that they take.
//!
//! Who asks and who answers are on one processor, so that what is measured is the way of the packets and not how long a
//! second processor takes to wake up. A stream has a processor for each end. They go before the machine's other work.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use system_tests::measure::Way;
use system_tests::samples::Samples;
use system_tests::{Host, Spaces};

use crate::ask;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exchanges that aren't counted at the beginning.
const WARM_UP: usize = 30;

/// What is written at a time.
const CHUNK: usize = 128 << 10;

/// The bytes of a datagram that is one of many: each network's MTU is larger.
const DATAGRAM: usize = 1_300;

/// What one turn of a way has given.
pub struct Turn {
    /// One byte there and one back, in datagrams.
    pub udp: Samples,
    /// The same on a connection that is open.
    pub tcp: Samples,
    /// The processor's time of an exchange of datagrams, in µs.
    pub udp_work: f64,
    /// Connections with an exchange each, from the connecting to the closing.
    pub connections: Samples,
    /// What arrived of datagrams that were sent as fast as can be, in Gbit/s.
    pub udp_gbits: f64,
    /// What a connection carried, in Gbit/s.
    pub gbits: f64,
    /// The processor's time of a gigabyte, in seconds.
    pub work: f64,
}

/// Asks so many times and connects so many times, and then streams for a while.
pub fn turn(way: &Way, exchanges: usize, connections: usize, stream: Duration) -> Turn {
    let measured = udp(way, exchanges).and_then(|(udp, udp_work)| {
        let tcp = tcp(way, exchanges)?;
        let connections = connect(way, connections)?;
        let udp_gbits = flood(way, stream / 2)?;
        let (gbits, work) = carry(way, stream)?;
        Ok(Turn {
            udp,
            tcp,
            udp_work,
            connections,
            udp_gbits,
            gbits,
            work,
        })
    });
    measured.unwrap_or_else(|e| panic!("{}: {e}", way.name))
}

/// A processor.
enum Which {
    First,
    Last,
}

/// Keeps the calling thread on a processor, where it goes before others.
fn first_on(processor: Which) {
    match processor {
        Which::First => ask::stay_on(0),
        Which::Last => ask::stay(),
    }
    crate::before_others();
}

/// Moves the container's end of a link into a network namespace of a host's, with its address and up; gives where that is.
pub fn end(host: &Host, name: &str, link: &str, address: &str) -> (Spaces, IpAddr) {
    host.sh(&format!(
        "ip netns add {name} && ip link set {link} netns {name} && ip -n {name} address add {address} dev {link} &&
         ip -n {name} link set {link} up"
    ));
    let address = address.split('/').next().and_then(|address| address.parse().ok());
    let spaces = Spaces::of_network(&host.path(&format!("/run/netns/{name}")));
    (spaces, address.expect("an address"))
}

/// Asks in datagrams so many times; gives the processor's time of each as well, in µs.
pub fn udp(way: &Way, count: usize) -> io::Result<(Samples, f64)> {
    let server = way.to.enter(|| UdpSocket::bind((way.address, 0)))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let client = way.from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.connect(server.local_addr()?)?;
    let kernel = Work::of_kernel();
    thread::scope(|scope| {
        let answering = scope.spawn(|| {
            first_on(Which::Last);
            let work = Work::of_this_thread();
            let mut byte = [0];
            loop {
                match server.recv_from(&mut byte) {
                    Ok((1, asker)) => drop(server.send_to(&byte, asker)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // An empty one says that it was the last.
                    _ => break,
                }
            }
            work.more()
        });
        let asking = scope.spawn(|| {
            first_on(Which::Last);
            let work = Work::of_this_thread();
            let asked = ask_datagrams(&client, count);
            client.send(&[])?;
            Ok::<_, io::Error>((asked?, work.more()))
        });
        let (samples, work) = asking.join().expect("the thread that asks")?;
        let work = work + answering.join().expect("the thread that answers") + kernel.since();
        Ok((samples, work * 1e6 / (WARM_UP + count) as f64))
    })
}

fn ask_datagrams(client: &UdpSocket, count: usize) -> io::Result<Samples> {
    let mut samples = Samples::default();
    for number in 0..WARM_UP + count {
        let begun = Instant::now();
        client.send(b"?")?;
        // A socket that waits for so long only is not asked again by the kernel where something else comes between.
        while let Err(error) = client.recv(&mut [0]) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if number >= WARM_UP {
            samples.add(begun.elapsed());
        }
    }
    Ok(samples)
}

fn tcp(way: &Way, count: usize) -> io::Result<Samples> {
    let listener = way.to.enter(|| TcpListener::bind((way.address, 0)))?;
    let to = listener.local_addr()?;
    let mut client = way.from.enter(|| ask::connect(to))?;
    let (accepted, _) = listener.accept()?;
    thread::scope(|scope| {
        // It ends with the connection.
        scope.spawn(move || {
            first_on(Which::Last);
            ask::echo(accepted).ok();
        });
        let asking = scope.spawn(move || {
            first_on(Which::Last);
            let mut samples = Samples::default();
            for number in 0..WARM_UP + count {
                let begun = Instant::now();
                ask::exchange(&mut client)?;
                if number >= WARM_UP {
                    samples.add(begun.elapsed());
                }
            }
            Ok(samples)
        });
        asking.join().expect("the thread that asks")
    })
}

fn connect(way: &Way, count: usize) -> io::Result<Samples> {
    let server = ask::Server::at(&way.to, (way.address, 0).into());
    let asked = way.from.enter(|| {
        first_on(Which::Last);
        let mut samples = Samples::default();
        for _ in 0..count {
            let begun = Instant::now();
            let mut stream = ask::connect(server.address())?;
            ask::exchange(&mut stream)?;
            drop(stream);
            samples.add(begun.elapsed());
        }
        Ok(samples)
    });
    drop(server);
    asked
}

fn flood(way: &Way, time: Duration) -> io::Result<f64> {
    let server = way.to.enter(|| UdpSocket::bind((way.address, 0)))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let client = way.from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    client.connect(server.local_addr()?)?;
    // The first one finds the way.
    client.send(&[0; DATAGRAM])?;
    server.recv(&mut [0; DATAGRAM])?;
    let (receiver, sender) = (&server, &client);
    thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            first_on(Which::Last);
            let (begun, mut bytes, mut buffer) = (Instant::now(), 0, [0; DATAGRAM]);
            // Some are lost, so it ends by the clock: the last ones are worth nothing.
            while begun.elapsed() < time {
                bytes += receiver.recv(&mut buffer)?;
            }
            Ok::<_, io::Error>(bytes as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9)
        });
        let sending = scope.spawn(move || {
            first_on(Which::First);
            let begun = Instant::now();
            // A little longer than is received.
            while begun.elapsed() < time * 2 {
                if receiving.is_finished() {
                    break;
                }
                sender.send(&[0; DATAGRAM])?;
            }
            receiving.join().expect("the thread that receives")
        });
        sending.join().expect("the thread that sends")
    })
}

fn carry(way: &Way, time: Duration) -> io::Result<(f64, f64)> {
    let listener = way.to.enter(|| TcpListener::bind((way.address, 0)))?;
    let to = listener.local_addr()?;
    let mut sender = way.from.enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    sender.set_write_timeout(Some(PATIENCE))?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let kernel = Work::of_kernel();
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            first_on(Which::First);
            let (work, begun) = (Work::of_this_thread(), Instant::now());
            let chunk = vec![0; CHUNK];
            while begun.elapsed() < time {
                sender.write_all(&chunk)?;
            }
            Ok::<_, io::Error>((begun, work.more()))
        });
        let receiving = scope.spawn(move || {
            first_on(Which::Last);
            let work = Work::of_this_thread();
            let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
            loop {
                match receiver.read(&mut buffer)? {
                    0 => return Ok::<_, io::Error>((bytes, work.more())),
                    length => bytes += length,
                }
            }
        });
        let (begun, sent) = sending.join().expect("the thread that sends")?;
        let (bytes, received) = receiving.join().expect("the thread that receives")?;
        let took = begun.elapsed().as_secs_f64();
        let gigabytes = bytes as f64 / 1e9;
        let work = sent + received + kernel.since();
        Ok((gigabytes * 8.0 / took, work / gigabytes))
    })
}

/// Seconds of the processor: what packets cost is paid by who sends or waits just then, or by the kernel's own threads.
struct Work(f64);

impl Work {
    fn of_this_thread() -> Self {
        Self(seconds("/proc/thread-self/schedstat").unwrap_or_default())
    }

    /// How much more this thread has worked by now.
    fn more(&self) -> f64 {
        Self::of_this_thread().0 - self.0
    }

    /// The kernel's threads for packets, one a processor, so far.
    fn of_kernel() -> Self {
        let entries = fs::read_dir("/proc").expect("reading /proc").flatten();
        let theirs = entries.filter(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            name.starts_with("ksoftirqd/")
        });
        let each = theirs.filter_map(|entry| seconds(&entry.path().join("schedstat").to_string_lossy()));
        Self(each.sum())
    }

    /// How much more they have worked by now.
    fn since(&self) -> f64 {
        Self::of_kernel().0 - self.0
    }
}

fn seconds(path: &str) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    let nanoseconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}
