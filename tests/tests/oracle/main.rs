//! The data plane under whatever befalls hosts: every container of a network sends numbered datagrams to every other one, over
//! both families and without a pause, while a script of events goes on. Each event says which streams may lose something, and
//! from when until when. Whatever else is lost, comes twice, or comes to somebody it was not for, is a fault.
//!
//! ```text
//!   script ── event ──> lab (three hosts, two networks) ──> windows: who may lose, from when, until when
//!                        seats: containers, each with an agent ── sent, came ──> ledger
//!                                                       ledger + windows ──> verdict ──> table
//! ```
//!
//! A run follows from its seed, so far as time does: `ORACLE_SEED=7 cargo test -p system-tests --test oracle -- --nocapture`.
//! `ORACLE_EVENTS` or `ORACLE_MINUTES` say how long it is, `ORACLE_RATE` how many datagrams a stream has a second, and
//! `ORACLE_ONLY` (such as `kill,move`) which sorts of events there are. `ORACLE_LOGS` is where the hosts' logs are put if it
//! fails.

mod agent;
mod churn;
mod events;
mod lab;
mod ledger;
mod script;
mod seats;
mod stray;
mod table;
mod windows;

use std::time::{Duration, Instant};

use system_tests::asked::{asked, seed};
use system_tests::draw::Draw;
use system_tests::say;

use churn::Churn;
use lab::Lab;
use script::{Script, Sort};
use table::Table;

/// How long streams are watched after an event's last window.
const AFTER: Duration = Duration::from_millis(500);

/// How long a datagram may take: one that has not come by then is lost. Generous, for machines with much else to do.
const UNDER_WAY: Duration = Duration::from_secs(2);

#[test]
fn nothing_is_lost_but_what_an_event_may_lose() {
    let seed = seed("ORACLE_SEED");
    let rate = asked("ORACLE_RATE").unwrap_or(agent::RATE);
    let sorts = match std::env::var("ORACLE_ONLY") {
        Ok(names) => names.split(',').map(Sort::named).collect(),
        Err(_) => Sort::ALL.to_vec(),
    };
    let minutes = asked("ORACLE_MINUTES").map(|minutes: u64| Duration::from_secs(60 * minutes));
    let events = asked("ORACLE_EVENTS");
    // The time ends a run only where nobody says how many events there are.
    let (limit, count) = match (minutes, events) {
        (_, Some(count)) => (Duration::MAX, count),
        (Some(limit), None) => (limit, usize::MAX),
        (None, None) => (Duration::MAX, script::EVENTS),
    };
    say(&format!("{rate} datagrams a second and stream"));

    let began = Instant::now();
    let mut lab = Lab::new(rate);
    say(&format!(
        "{} streams flow after {:.1?}",
        ledger::Stream::all().count(),
        began.elapsed()
    ));
    let mut table = Table::default();
    let churn = Churn::default();
    let sites = lab.sites();
    std::thread::scope(|scope| {
        let _over = churn.until_dropped();
        scope.spawn(|| churn.go_on(&sites));
        let began = Instant::now();
        for (at, event) in Script::new(Draw::of(seed), sorts).take(count).enumerate() {
            if began.elapsed() >= limit {
                break;
            }
            let told = format!(
                "event {} at {:.1} s: {event}",
                at + 1,
                lab.ledger.now().as_secs_f64()
            );
            say(&told);
            events::run(&event, &mut lab, &churn);
            let end = lab.windows.end().max(lab.ledger.now()) + AFTER;
            // The script's own pace: streams flow for a while, and then what is under way has arrived.
            lab.ledger.sleep_until(end + UNDER_WAY);
            let verdict = lab.ledger.judge(end, &lab.windows);
            let refused = churn.refused();
            if !verdict.faults.is_empty() || !refused.is_empty() {
                let seats = &lab.seats;
                let faults = verdict
                    .faults
                    .iter()
                    .map(|fault| fault.told(seats))
                    .chain(refused);
                let faults: Vec<String> = faults.collect();
                let windows = lab.windows.told(seats);
                if let Ok(dir) = std::env::var("ORACLE_LOGS") {
                    lab.keep_logs(std::path::Path::new(&dir));
                }
                panic!(
                    "ORACLE_SEED={seed}, {told}\nover at {:.1} s; {} faults:\n{}\nallowed was:\n{windows}",
                    end.as_secs_f64(),
                    faults.len(),
                    faults[..faults.len().min(60)].join("\n"),
                );
            }
            table.add(&event, &verdict, &lab.windows);
            lab.windows.clear();
        }
    });
    say(&table.told(&lab.ledger, &churn));
}
