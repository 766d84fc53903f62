//! Rows of the kernel that somebody deletes by hand, and how long until they are back.

use std::time::Duration;

use serde_json::Value;
use system_tests::samples::Samples;
use system_tests::{Host, Rows, json};

use crate::follower::Follower;

/// How long a row may stay away before we give up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Until it is quiet again after a repair.
const QUIET: Duration = Duration::from_millis(150);

/// Deletes `count` rows of a sort, one after the other, and measures from when the kernel said that a row is gone to
/// when it said that it is there again.
pub fn deleted(host: &Host, sort: Rows, count: usize) -> Samples {
    let (program, of) = match sort {
        Rows::Forwarding => ("bridge", "fdb"),
        Rows::Neighbours => ("ip", "neigh"),
        Rows::Routes => ("ip", "route"),
    };
    let monitor = Follower::of_kernel(host, program, of);
    let mut samples = Samples::default();
    for number in 0..count {
        let rows: Vec<Value> = sort.of(host).into_iter().filter(leads_away).collect();
        let row = &rows[number % rows.len()];
        let names = match sort {
            Rows::Forwarding => [json::text(row, "/mac"), json::text(row, "/ifname")],
            Rows::Neighbours | Rows::Routes => [json::text(row, "/dst"), json::text(row, "/dev")],
        };
        let told = |line: &str, gone: bool| {
            let text = line.strip_prefix("Deleted ");
            let words: Vec<&str> = text.unwrap_or(line).split(' ').collect();
            (text.is_some() == gone && names.iter().all(|name| words.contains(name))).then_some(())
        };
        monitor.forget();
        sort.delete_one(host, row);
        let gone = monitor.until(PATIENCE, |line| told(line, true));
        let back = monitor.until(PATIENCE, |line| told(line, false));
        let (Some((gone, ())), Some((back, ()))) = (gone, back) else {
            panic!("not back within {PATIENCE:?}: {row}");
        };
        samples.add(back - gone);
        std::thread::sleep(QUIET);
    }
    samples
}

/// Not a route of a pool's whole rest to nowhere.
fn leads_away(row: &Value) -> bool {
    row["dev"].is_string() || row["ifname"].is_string()
}

/// Deletes the tunnel of a network `count` times, and measures until the last row is back of those that went with it.
pub fn tunnel(host: &Host, count: usize) -> Samples {
    let monitor = Follower::of_kernel(host, "bridge", "fdb");
    let mut samples = Samples::default();
    for _ in 0..count {
        let rows = Rows::Forwarding.of(host);
        let link = json::text(&rows[0], "/ifname").to_owned();
        monitor.forget();
        let deleted = std::time::Instant::now();
        host.run("ip", &["link", "delete", &link]);
        let mut missing: Vec<&str> = rows.iter().map(|row| json::text(row, "/mac")).collect();
        let back = monitor.until(PATIENCE, |line| {
            let words: Vec<&str> = line.split(' ').collect();
            if words[0] != "Deleted" && words.contains(&"dst") {
                missing.retain(|mac| !words.contains(mac));
            }
            missing.is_empty().then_some(())
        });
        let Some((back, ())) = back else {
            panic!("after {PATIENCE:?} the tunnel {link} lacks {missing:?}");
        };
        samples.add(back - deleted);
        std::thread::sleep(QUIET);
    }
    samples
}
