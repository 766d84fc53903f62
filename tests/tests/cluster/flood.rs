//! What somebody on the wire can do who is no member.

use std::io::Read;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use system_tests::{Spaces, say};

use super::lab::{Lab, Member, PORT, agree, at_once, s, timed};
use super::plugin::addresses;

/// Datagrams a second, and for how long.
const RATE: u64 = 50_000;
const FOR: Duration = Duration::from_secs(10);

/// Every protocol of Ethernet, with the bytes in the wire's order.
const EVERYTHING: i32 = 0x0300;

/// Datagrams of the cluster on the wire, to these hosts, heard for a while.
fn hear(wire: &Spaces, to: &[&Member], limit: Duration) -> Vec<Vec<u8>> {
    let socket = wire
        .enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING))))
        .expect("a socket that hears the wire (root is needed)");
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a time limit on a socket");
    let to: Vec<[u8; 4]> = to
        .iter()
        .filter_map(|member| member.address.parse::<std::net::Ipv4Addr>().ok())
        .map(|address| address.octets())
        .collect();
    let (mut heard, mut buffer, end) = (Vec::new(), vec![0; 2048], Instant::now() + limit);
    while Instant::now() < end {
        let Ok(length) = (&socket).read(&mut buffer) else {
            continue;
        };
        let frame = &buffer[..length];
        // Ethernet, IPv4 without options, UDP to the port.
        let is_ours = length > 42
            && frame[12..14] == [8, 0]
            && frame[14] == 0x45
            && frame[23] == 17
            && to.iter().any(|address| frame[30..34] == *address)
            && frame[36..38] == PORT.to_be_bytes();
        if is_ours {
            let size = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
            heard.push(frame[42..(34 + size).min(length)].to_vec());
        }
    }
    heard
}

/// What a stranger makes of what was heard: noise, the same again, parts of it, and changes of it in each field.
fn forged(heard: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut forged = Vec::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for datagram in heard {
        let noise: Vec<u8> = (0..next() % 1400).map(|_| next() as u8).collect();
        forged.push(noise);
        forged.push(datagram.clone());
        forged.push(datagram[..next() % datagram.len()].to_vec());
        // 2 of magic, version, kind, 4 of the key's number, 16 of the sender, 4 of the epoch, 8 of the instance, 8 of the counter.
        for field in [4..8, 8..24, 24..28, 28..36, 36..44, 44..datagram.len()] {
            let mut changed = datagram.clone();
            let at = field.start + next() % field.len();
            changed[at] ^= 1 << (next() % 8);
            forged.push(changed);
        }
    }
    forged
}

/// Sends these to a host over and over at a rate. Gives how many were sent.
fn flood(from: &Spaces, to: &str, what: &[Vec<u8>], over: &AtomicBool) -> u64 {
    let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    socket.connect((to, PORT)).expect("a way to the host");
    let (began, mut sent) = (Instant::now(), 0_u64);
    while !over.load(Ordering::Relaxed) {
        let due = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX) * RATE / 1_000_000;
        if due <= sent {
            std::thread::yield_now();
        }
        while sent < due {
            let datagram = &what[usize::try_from(sent).unwrap_or_default() % what.len()];
            // One that finds the queue full is lost, as on any wire.
            socket.send(datagram).ok();
            sent += 1;
        }
    }
    sent
}

#[test]
fn a_flood_of_forged_datagrams_changes_nothing_and_costs_little() {
    let lab = Lab::joined_alone(3);
    let networks = at_once(&lab.members, |member| member.network("10.42.0.0/24"));
    // Another cluster on the same wire: its datagrams are well sealed, and no concern of ours.
    let others = [lab.one_more(20, None), lab.one_more(21, None)];
    others[1].paste(&others[0].init());
    agree(&[&others[0], &others[1]], s(10));
    lab.agree(s(10));
    let target = &lab.members[0];
    let (over, quiet) = (AtomicBool::new(false), hear(&lab.wire, &[], Duration::ZERO));
    assert!(quiet.is_empty());
    let heard = std::thread::scope(|scope| {
        scope.spawn(|| {
            // So that there is something to hear.
            while !over.load(Ordering::Relaxed) {
                let (endpoint, address) = networks[1].endpoint(7);
                networks[1].remove(&endpoint, address);
            }
        });
        let heard = hear(&lab.wire, &[target, &others[0], &others[1]], s(2));
        over.store(true, Ordering::Relaxed);
        heard
    });
    assert!(heard.len() > 20, "{} datagrams heard", heard.len());
    let forged = forged(&heard);
    lab.agree(s(10));
    let before = lab.members[0].status();
    let whys = ["garbled", "wrong_key", "replayed", "strangers"];
    let counts = whys.map(|why| target.count(why));
    let downs = || -> usize {
        let count = |log: String| log.lines().filter(|line| line.contains("cluster: down")).count();
        lab.members.iter().map(|member| count(member.tombolo.log())).sum()
    };
    let down = downs();
    let stranger = lab.one_more(200, None);

    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut longest, mut turns) = (Duration::ZERO, 0);
    let (used, began) = (target.processor_time(), Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let spaces = stranger.host.spaces();
            sent.store(flood(spaces, &target.address, &forged, &over), Ordering::Relaxed);
        });
        while began.elapsed() < FOR {
            let network = &networks[turns % 3];
            let (endpoint, address) = network.endpoint(100 + turns);
            let changed = Instant::now();
            let sees = |there: bool| {
                let text = address.to_string();
                lab.members
                    .iter()
                    .all(|member| addresses(&member.peers()).contains(&text) == there)
            };
            timed("a new endpoint is seen by all during the flood", s(2), || {
                sees(true)
            });
            longest = longest.max(changed.elapsed());
            network.remove(&endpoint, address);
            timed(
                "a removed endpoint is seen by none during the flood",
                s(2),
                || sees(false),
            );
            turns += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    let (used, lasted) = (target.processor_time() - used, began.elapsed());
    let sent = sent.load(Ordering::Relaxed);
    let share = used.as_secs_f64() / lasted.as_secs_f64();
    let rate = sent as f64 / lasted.as_secs_f64();
    let counted = whys.map(|why| target.count(why));
    let taken: u64 = counted
        .iter()
        .zip(counts)
        .map(|(after, before)| after - before)
        .sum();
    let words: Vec<String> = whys
        .iter()
        .zip(counted.iter().zip(counts))
        .map(|(why, (after, before))| format!("{why} {}", after - before))
        .collect();
    say(&format!(
        "{rate:.0} datagrams a second for {lasted:?}: {:.0} % of a processor, {taken} of {sent} counted ({})",
        share * 100.0,
        words.join(", ")
    ));
    say(&format!(
        "{} changes meanwhile, the slowest seen by all after {longest:?}",
        2 * turns
    ));
    assert!(
        counted.iter().zip(counts).all(|(after, before)| *after > before),
        "{words:?}"
    );
    assert!(
        rate > RATE as f64 / 2.0,
        "{rate:.0} datagrams a second are too few to tell"
    );
    // A debug build takes twice what people have.
    assert!(share < 0.9, "{used:?} of processor time in {lasted:?}");
    assert_eq!(downs(), down, "nobody was taken for down");
    say(&format!("all agree {:?} after it", lab.agree(s(5))));
    let after = lab.members[0].status();
    assert_eq!(
        (&after["decrees"], &after["secret"]),
        (&before["decrees"], &before["secret"])
    );
    agree(&[&others[0], &others[1]], s(5));
}
