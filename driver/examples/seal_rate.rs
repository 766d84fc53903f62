//! How many datagrams a core seals, opens and drops in a second: `cargo run --release -p tombolo --example seal_rate`.
#![allow(clippy::print_stdout, reason = "a program that prints its figures")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo::cluster::seal::{DATAGRAM_MAX, Instance, Opener, PLAIN_MAX, Sealer, To};
use tombolo::cluster::secret::Secret;
use tombolo_cluster::HostId;
use tombolo_cluster::time::Tick;

const SPAN: Duration = Duration::from_secs(1);
const ROUND: usize = 20_000;

/// Does it with each of a round of datagrams, again and again for a second, without what `make` costs.
fn rate<T>(
    what: &str,
    mut make: impl FnMut() -> Result<T, Box<dyn Error>>,
    mut each: impl FnMut(&mut T),
) -> Result<(), Box<dyn Error>> {
    let (mut done, mut spent) = (0u32, Duration::ZERO);
    while spent < SPAN {
        let mut round = (0..ROUND).map(|_| make()).collect::<Result<Vec<_>, _>>()?;
        let began = Instant::now();
        round.iter_mut().for_each(&mut each);
        spent += began.elapsed();
        done += ROUND as u32;
    }
    let per_s = f64::from(done) / spent.as_secs_f64();
    println!("{what:<58} {per_s:>12.0} /s {:>9.0} ns", 1e9 / per_s);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let host = |number: u8| HostId::from_bytes([number; 16]);
    let secret = Secret::new(1, [7; 32]);
    // 500 members, as in a cluster larger than any that is meant.
    let member = |number: u16| {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        HostId::from_bytes(bytes)
    };
    let members: BTreeSet<_> = (0..500).map(member).chain([host(1), host(2)]).collect();
    let mut opener = Opener::new(host(2), &secret, &members, &BTreeMap::new());
    let mut sealer = Sealer::new(&secret, host(1), 1, Instance([1; 8]))?;
    let to = To::Host(host(2));
    let from = SocketAddr::from(([10, 0, 0, 1], 7946));
    opener.open(Tick(0), from, &mut sealer.seal(to, b"first")?)?;
    let long = vec![7; PLAIN_MAX];

    let mut out = Vec::with_capacity(DATAGRAM_MAX);
    for length in [100, PLAIN_MAX] {
        rate(
            &format!("sealed, {length} bytes"),
            || Ok(()),
            |()| {
                let _ = black_box(sealer.seal_into(to, &long[..length], &mut out));
            },
        )?;
    }
    for length in [100, PLAIN_MAX] {
        let make = || Ok(sealer.seal(to, &long[..length])?);
        rate(
            &format!("opened, {length} bytes"),
            make,
            |datagram: &mut Vec<u8>| {
                let _ = black_box(opener.open(Tick(0), from, datagram));
            },
        )?;
    }
    let genuine = sealer.seal(to, &long)?;

    let mut random = 1u64;
    let mut draw = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_be_bytes()
    };
    let mut drop_rate = |what: &str, change: fn(&mut Vec<u8>, [u8; 8])| {
        let make = || {
            let mut datagram = genuine.clone();
            change(&mut datagram, draw());
            Ok(datagram)
        };
        rate(what, make, |datagram: &mut Vec<u8>| {
            let _ = black_box(opener.open(Tick(0), from, datagram));
        })
    };
    drop_rate("dropped: noise", |bytes, random| {
        bytes[..8].copy_from_slice(&random)
    })?;
    drop_rate("dropped: our magic, no member", |bytes, random| {
        bytes[8..16].copy_from_slice(&random)
    })?;
    drop_rate("dropped: a member's, another secret's number", |bytes, _| {
        bytes[7] = 9
    })?;
    drop_rate(
        "dropped: a member's present run, forged (a MAC of 1,172 B)",
        |bytes, random| bytes[60..68].copy_from_slice(&random),
    )?;
    drop_rate(
        "dropped: a later run of a member, forged (a key, a MAC)",
        |bytes, random| {
            bytes[24] = 1;
            bytes[28..36].copy_from_slice(&random);
        },
    )?;
    println!("{:?}", opener.counts());
    Ok(())
}
