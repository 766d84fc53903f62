//! Measures what rows cost in memory, beyond the bytes of their names and bodies.
//!
//! `cargo run --release -p tombolo-cluster --example table_memory [ROWS-PER-HOST] [HOSTS]`

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use tombolo_cluster::HostId;
use tombolo_cluster::table::{Change, Content, Cover, Head, Key, Limits, Table, Version};
use tombolo_cluster::time::Tick;

/// Bytes of a row's body, as a container's addresses, names and labels have.
const BODY: usize = 220;

fn main() {
    let mut given = std::env::args().skip(1).map(|text| text.parse::<u32>().unwrap());
    let (rows, hosts) = (given.next().unwrap_or(10_000), given.next().unwrap_or(20));
    let me = HostId::from_bytes([0; 16]);
    let mut table = Table::new(me, 1, Limits::default(), []).unwrap();
    let (before, began) = (resident(), Instant::now());
    for n in 1..=hosts {
        let origin = HostId::from_bytes(u128::from(n).to_be_bytes());
        table.admit(origin).unwrap();
        for count in 1..=rows {
            // Names in no order, as identifiers come.
            let key: Key = format!(
                "peer/{:024x}",
                u64::from(count).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            )
            .parse()
            .unwrap();
            let content = Content::Body(Arc::from([7_u8; BODY]));
            let version = Version::new(1, count);
            table.apply(
                Tick(0),
                Change {
                    origin,
                    version,
                    key,
                    content,
                },
            );
        }
        table.drain();
    }
    let (count, took) = (table.rows(), began.elapsed());
    assert_eq!(count, (rows * hosts) as usize);
    let held = resident().saturating_sub(before) * 1024;
    println!(
        "{count} rows: {} bytes a row, of which {} are name and body; {} ns a change",
        held / count,
        table.bytes() / count,
        took.as_nanos() / count as u128,
    );
    println!("10,000 rows: {} KiB", held / count * 10_000 / 1024);
    let origin = HostId::from_bytes(1_u128.to_be_bytes());
    let nothing = Head {
        origin,
        cover: Cover::default(),
        swept: Version::default(),
    };
    let began = Instant::now();
    let whole = table.delta(Tick(0), &nothing, usize::MAX).unwrap();
    println!(
        "all rows of a host as a delta: {} µs",
        began.elapsed().as_micros()
    );
    table.expel(origin);
    table.admit(origin).unwrap();
    let began = Instant::now();
    table.merge(Tick(0), whole);
    println!("merged: {} µs", began.elapsed().as_micros());
    let began = Instant::now();
    table.tick(Tick(1));
    println!("a tick with nothing due: {} µs", began.elapsed().as_micros());
}

/// The memory that this process holds, in KiB.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
