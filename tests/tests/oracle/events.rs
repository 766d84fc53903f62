//! What each sort of event does, and which streams may lose something by it.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use system_tests::draw::Draw;
use system_tests::json::text;
use system_tests::{Rows, at_once, say};

use super::churn::Churn;
use super::lab::Lab;
use super::ledger::Family;
use super::script::{Event, Sort};
use super::seats::{HOSTS, Seat};

/// How long after its start a container may be unreachable, while the hosts are told where it is.
const AFTER_MOVE: Duration = Duration::from_millis(300);

/// How long after rows were deleted they may be missing.
const AFTER_ROWS: Duration = Duration::from_secs(1);

/// How long after a wire carries again hosts may need to reach each other, who have not lost sight of each other.
/// The kernel's part in this: who was asked for in vain is asked for again after a second only, and a link whose carrier came back
/// makes sure first that nobody else has its own address of IPv6, up to two seconds long.
const AFTER_HEAL: Duration = Duration::from_millis(1500);
const AFTER_MEND: Duration = Duration::from_millis(3500);

/// How long streams may need once all hosts see each other again.
const AFTER_SIGHT: Duration = Duration::from_secs(1);

/// Does what an event is.
pub fn run(event: &Event, lab: &mut Lab, churn: &Churn) {
    let host = event.host;
    let sites = lab.sites();
    let site = &sites[host];
    // The script's own pace.
    let pause = || std::thread::sleep(event.pause);
    match event.sort {
        Sort::Churn => {
            at_once(&sites, |site| (0..3).for_each(|_| churn.one(site)));
        }
        Sort::Move => relocate(event, lab),
        Sort::Restart => {
            let _held = churn.spare(&[host]);
            site.tombolo.stop();
            pause();
            site.tombolo.start_again();
        }
        Sort::Kill => {
            let _held = churn.spare(&[host]);
            site.tombolo.kill();
            pause();
            site.tombolo.start_again();
        }
        Sort::TakeOver => sites.iter().for_each(|site| site.tombolo.take_over()),
        Sort::Daemon => {
            let _held = churn.spare(&[host]);
            site.engine.stop();
            pause();
            site.engine.start_again();
        }
        Sort::Death => die(host, lab, churn),
        Sort::Partition => {
            let _held = churn.spare(&[host]);
            let window = lab.open("cut off", across(host));
            sites.part(&[host]);
            pause();
            sites.heal();
            lab.close(window, AFTER_HEAL);
        }
        Sort::LongPartition => {
            let _held = churn.spare(&[host]);
            let others: Vec<usize> = (0..HOSTS).filter(|&other| other != host).collect();
            let window = lab.open("cut off", across(host));
            sites.part(&[host]);
            sites.see(&[host], &[host]);
            sites.see(&others, &others);
            pause();
            sites.heal();
            sites.all_up();
            lab.close(window, AFTER_SIGHT);
        }
        Sort::Flap => {
            let _held = churn.spare(&[host]);
            let window = lab.open("without a cable", across(host));
            sites.cut(host);
            pause();
            sites.mend(host);
            lab.close(window, AFTER_MEND);
        }
        Sort::Rows => delete_rows(event, lab),
        Sort::Rotate => drop(site.tombolo.try_cli(&["cluster", "rotate-key"]).must()),
    }
}

/// From a host to the others, and back.
fn across(host: usize) -> impl Fn(&Seat, &Seat, Family) -> bool {
    move |from, to, _| (from.host == host) != (to.host == host)
}

/// Removes a seat's container, and has another host run it.
fn relocate(event: &Event, lab: &mut Lab) {
    let sites = lab.sites();
    let (name, old) = (lab.seats.0[event.seat].name.clone(), lab.seats.0[event.seat].host);
    let new = (old + 1 + event.draw.clone().below(HOSTS - 1)) % HOSTS;
    let window = lab.open("moves", |from, to, _| from.name == name || to.name == name);
    lab.leave(event.seat);
    sites[old].known(&name).remove();
    lab.seats.0[event.seat].host = new;
    lab.run(event.seat);
    lab.close(window, AFTER_MOVE);
    let told = lab.windows.end();
    // Who asks before anybody answers there asks in vain, which is the test's own doing.
    lab.seat(event.seat);
    lab.windows.close(window, told.max(lab.ledger.now()));
}

/// Takes a host's power, and gives it back once the others have noticed.
fn die(host: usize, lab: &mut Lab, churn: &Churn) {
    let sites = lab.sites();
    let _held = churn.spare(&[host]);
    let others: Vec<usize> = (0..HOSTS).filter(|&other| other != host).collect();
    let window = lab.open("without power", |from, to, _| {
        from.host == host || to.host == host
    });
    let seats = lab.seats.on(host);
    seats.iter().for_each(|&seat| lab.leave(seat));
    sites.power_off(host);
    sites.see(&others, &others);
    sites.power_on(host);
    seats.iter().for_each(|&seat| lab.seat(seat));
    sites.all_up();
    lab.close(window, AFTER_SIGHT);
}

/// Deletes some of the rows by which a host reaches others: one sort of them, and rather those that lead to seats.
fn delete_rows(event: &Event, lab: &mut Lab) {
    let sites = lab.sites();
    let site = &sites[event.host];
    let mut draw: Draw = event.draw.clone();
    let sorts = [Rows::Neighbours, Rows::Forwarding, Rows::Routes];
    let sort = sorts[draw.below(sorts.len())];
    let (mut all, mut others): (Vec<Value>, Vec<Value>) = sort.of(&site.host).into_iter().partition(|row| {
        let mut seats = lab.seats.0.iter().filter(|seat| seat.host != event.host);
        seats.any(|seat| {
            [Family::V4, Family::V6]
                .iter()
                .any(|family| leads_to(sort, row, seat, *family))
        })
    });
    assert!(
        !all.is_empty(),
        "host {} has no {sort:?} to others' seats",
        site.name()
    );
    draw.shuffle(&mut all);
    draw.shuffle(&mut others);
    all.truncate(1 + draw.below(4));
    others.truncate(draw.below(3));
    all.append(&mut others);
    let lost = |from: &Seat, to: &Seat, family| {
        let here = from.host == event.host && to.host != event.host;
        here && all.iter().any(|row| leads_to(sort, row, to, family))
    };
    let window = lab.open("rows deleted", lost);
    for row in &all {
        say(&format!("  {sort:?} {row}"));
        sort.delete_one(&site.host, row);
    }
    lab.close(window, AFTER_ROWS);
}

/// Whether a seat is reached by a row.
fn leads_to(rows: Rows, row: &Value, to: &Seat, family: Family) -> bool {
    match rows {
        Rows::Neighbours => to.address(family).to_string() == text(row, "/dst"),
        Rows::Forwarding => to.mac == text(row, "/mac"),
        Rows::Routes => within(text(row, "/dst"), to.address(family)),
    }
}

/// Whether an address is in a prefix as `ip route` prints one.
fn within(prefix: &str, address: IpAddr) -> bool {
    let (base, length) = prefix.split_once('/').unwrap_or((prefix, "128"));
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let width = if base.is_ipv4() { 32 } else { 128 };
    let mask = u128::MAX.checked_shl(128 - length.min(width)).unwrap_or(0);
    base.is_ipv4() == address.is_ipv4() && (bits(base) ^ bits(address)) & mask == 0
}
