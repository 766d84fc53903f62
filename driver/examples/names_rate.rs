//! How fast names are answered: a table of so many names, a server on this machine's loopback, and clients that ask at a steady pace.
//!
//! ```text
//! cargo run --release -p tombolo --example names_rate -- [--names 50000] [--rate 20000] [--seconds 20] [--write docs/names.md]
//! ```
//!
//! Each question has its time; what an answer takes counts from that, so that a server that is late is late for all that follow
//! as well. Clients and server share the machine's processors.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_server::proto::op::{Message, Query};
use hickory_server::proto::rr::{Name, RecordType};
use ipnet::IpNet;
use rand::RngExt;
use tombolo::dns::{Entry, Home, Names, News, Zone, answer_at};
use tombolo_cluster::HostId;

/// How many clients there are.
const CLIENTS: u32 = 20;

/// An answer that takes longer is lost.
const LOST: Duration = Duration::from_secs(1);

struct Plan {
    names: u32,
    rate: u32,
    seconds: u32,
    write: Option<PathBuf>,
}

fn plan() -> Result<Plan, String> {
    let mut plan = Plan {
        names: 50_000,
        rate: 20_000,
        seconds: 20,
        write: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || {
            value
                .parse::<u32>()
                .map_err(|error| format!("{word} {value}: {error}"))
        };
        match word.as_str() {
            "--names" => plan.names = number()?,
            "--rate" => plan.rate = number()?,
            "--seconds" => plan.seconds = number()?,
            "--write" => plan.write = Some(value.into()),
            other => return Err(format!("{other} is not known")),
        }
    }
    Ok(plan)
}

/// The memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

/// A network with so many containers on a hundred hosts, each with a name and the alias of one of a thousand services.
fn table(count: u32, pool: IpNet) -> Names {
    let host = |n: u32| HostId::from_bytes([(n % 100) as u8 + 1; 16]);
    let entry = |n: u32| Entry {
        pool,
        names: [
            format!("container-{n}").into(),
            format!("service-{}", n % 1_000).into(),
        ]
        .into(),
        addresses: [Ipv4Addr::from(0x7f00_0100 + n).into()].into(),
        services: [].into(),
        place: None,
    };
    let home = Home {
        pools: vec![pool],
        labels: vec!["app".to_owned()],
        gateways: Vec::new(),
    };
    let names = Names::default();
    let entries = (0..count).map(|n| ((host(n), format!("{n:064x}").into()), Some(entry(n))));
    let news = News {
        everything: true,
        entries: entries.collect(),
        homes: Some(BTreeMap::from([(pool, home)])),
    };
    names.hear(news, host(0));
    names
}

fn question(name: &str) -> Result<Vec<u8>, String> {
    let mut message = Message::query();
    let name = Name::from_ascii(name).map_err(|error| error.to_string())?;
    message.add_query(Query::query(name, RecordType::A));
    message.to_vec().map_err(|error| error.to_string())
}

/// Asks at a steady pace; gives how long the answers took, in microseconds, and how many were lost.
fn ask(to: SocketAddr, pace: Duration, count: u32, names: u32) -> Result<(Vec<u64>, u32), String> {
    let text = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
    socket.connect(to).map_err(text)?;
    socket.set_read_timeout(Some(LOST)).map_err(text)?;
    let (mut took, mut lost, mut buffer) = (Vec::with_capacity(count as usize), 0, [0; 4096]);
    let begun = Instant::now() + pace.mul_f64(rand::rng().random());
    for n in 0..count {
        let due = begun + pace * n;
        // A clock of the kernel's: one of a runtime ticks by the millisecond.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut bytes = question(&format!("container-{}.", rand::rng().random_range(0..names)))?;
        let id: [u8; 2] = (n as u16).to_be_bytes();
        bytes[..2].copy_from_slice(&id);
        socket.send(&bytes).map_err(text)?;
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) if length < 12 || buffer[..2] != id => {}
                Ok(_) => {
                    let answers = u16::from_be_bytes([buffer[6], buffer[7]]);
                    if answers != 1 {
                        return Err(format!("{answers} answers to a question for one"));
                    }
                    took.push(due.elapsed().as_micros() as u64);
                    break;
                }
                Err(_) => {
                    lost += 1;
                    break;
                }
            }
        }
    }
    Ok((took, lost))
}

fn run(plan: &Plan) -> Result<String, String> {
    let pool: IpNet = "127.0.0.0/8"
        .parse()
        .map_err(|e: ipnet::AddrParseError| e.to_string())?;
    let zone: Zone = tombolo::dns::ZONE.parse()?;
    let before = resident();
    let names = Arc::new(table(plan.names, pool));
    let memory = resident().saturating_sub(before);
    let text = |error: std::io::Error| error.to_string();
    let runtime = tokio::runtime::Runtime::new().map_err(text)?;
    let served = runtime.block_on(async {
        let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let to = udp.local_addr()?;
        tokio::spawn(answer_at(pool, names.clone(), zone, udp, tcp));
        Ok(to)
    });
    let to: SocketAddr = served.map_err(text)?;
    let pace = Duration::from_secs(1) * CLIENTS / plan.rate;
    let (count, named) = (plan.rate / CLIENTS * plan.seconds, plan.names);
    let all: Result<Vec<_>, String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(move || ask(to, pace, count, named)))
            .collect();
        let ended = clients.into_iter().map(|client| match client.join() {
            Ok(asked) => asked,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect()
    });
    let all = all?;
    let lost: u32 = all.iter().map(|(_, lost)| lost).sum();
    let mut took: Vec<u64> = all.into_iter().flat_map(|(took, _)| took).collect();
    took.sort_unstable();
    let at = |share: f64| {
        took.get((took.len() as f64 * share) as usize)
            .copied()
            .unwrap_or_default()
    };
    let mut text = String::new();
    writeln!(
        text,
        "# Names\n\nOne run of `cargo run --release -p tombolo --example names_rate` on {} processors, which clients and server share. {} \
         containers with two names each on one network; {CLIENTS} clients ask for one of them at a time, at a steady pace of {} questions a \
         second together, for {} s. A time counts from when the question was due.\n",
        std::thread::available_parallelism().map_or(0, usize::from),
        plan.names,
        plan.rate,
        plan.seconds
    )
    .map_err(|e| e.to_string())?;
    writeln!(
        text,
        "| answers | lost | p50 | p99 | p99.9 | longest | memory of the table |\n|---|---|---|---|---|---|---|\n| {} | {lost} | {} µs | {} µs | {} µs | {} µs | {:.1} MiB |\n",
        took.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        took.last().copied().unwrap_or_default(),
        memory as f64 / 1024.0,
    )
    .map_err(|e| e.to_string())?;
    let met = if at(0.99) < 2_000 && lost == 0 {
        "met"
    } else {
        "missed"
    };
    writeln!(
        text,
        "- Aim: 20,000 questions a second with 50,000 names, 99 of 100 answered within 2 ms. Found: {met}."
    )
    .map_err(|e| e.to_string())?;
    Ok(text)
}

#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is read where it was started"
)]
fn main() -> std::process::ExitCode {
    let done = plan().and_then(|plan| {
        let text = run(&plan)?;
        if let Some(file) = &plan.write {
            std::fs::write(file, &text).map_err(|error| error.to_string())?;
        }
        Ok(text)
    });
    match done {
        Ok(text) => {
            println!("{text}");
            std::process::ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            std::process::ExitCode::FAILURE
        }
    }
}
