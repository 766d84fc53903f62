//! The disk under the records, and the clock that their times are read from.

use super::Finding;
use super::evidence::Evidence;

/// What the store needs to go on for a while, and what it needs for its next change, in bytes.
const COMFORT: u64 = 64 << 20;
const LEAST: u64 = 4 << 20;

/// By how much the clock may seem to have gone back, in seconds.
const SLACK_S: u64 = 60;
/// No clock of a host on which this runs shows an earlier time than 1 January 2026.
const EARLIEST_S: u64 = 1_767_225_600;

pub(super) fn disk(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "storage.disk";
    let (storage, dir) = (&evidence.storage, evidence.places.state_dir.display());
    if let Some(error) = &storage.error {
        let why = format!("{dir}: {error}");
        return vec![match evidence.daemon_answers() {
            true => Finding::fault(
                CHECK,
                why,
                "the daemon can keep nothing; make the directory reachable and restart it",
            ),
            false => Finding::none(CHECK, why),
        }];
    }
    let Some((free, all)) = storage.bytes else {
        return vec![Finding::none(CHECK, "not looked at")];
    };
    if storage.read_only {
        let remedy = "no change can be kept, so every request is refused; see the kernel's log for why, then mount it writable";
        return vec![Finding::fault(
            CHECK,
            format!("{dir} is on a file system that can't be written to"),
            remedy,
        )];
    }
    let inodes = match storage.inodes {
        (_, 0) => u64::MAX,
        (free, _) => free,
    };
    let found = format!("{} MiB of {} MiB are free under {dir}", free >> 20, all >> 20);
    let remedy =
        format!("without room no change can be kept and every request is refused; make room (df {dir})");
    vec![match (free, inodes) {
        (..LEAST, _) => Finding::fault(CHECK, found, remedy),
        (_, ..16) => Finding::fault(CHECK, format!("{inodes} inodes are free under {dir}"), remedy),
        (..COMFORT, _) => Finding::warning(CHECK, found, remedy),
        _ => Finding::ok(CHECK, found),
    }]
}

pub(super) fn clock(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "storage.clock";
    let storage = &evidence.storage;
    let remedy = "addresses that were freed may rest too long or too short; set the clock (timedatectl, chronyc makestep)";
    vec![match storage.newest_s {
        _ if storage.now_s == 0 => Finding::none(CHECK, "not looked at"),
        _ if storage.now_s < EARLIEST_S => Finding::warning(
            CHECK,
            format!("it shows second {} since 1970, which is long past", storage.now_s),
            remedy,
        ),
        Some(newest) if newest > storage.now_s + SLACK_S => {
            let ahead = newest - storage.now_s;
            Finding::warning(
                CHECK,
                format!("the records were last written {ahead} s in the future: it has gone back"),
                remedy,
            )
        }
        _ => Finding::ok(CHECK, "has not gone back"),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::evidence::Storage;
    use super::*;

    fn on(storage: Storage) -> Evidence {
        Evidence {
            storage,
            ..Evidence::default()
        }
    }

    #[test]
    fn a_disk_is_told_before_it_is_full() {
        let verdict = |free: u64, inodes, read_only| {
            let bytes = Some((free, 1 << 30));
            disk(&on(Storage {
                bytes,
                inodes,
                read_only,
                ..Storage::default()
            }))[0]
                .verdict
        };
        assert_eq!(verdict(1 << 29, (9000, 10000), false), Verdict::Ok);
        assert_eq!(verdict(1 << 29, (0, 0), false), Verdict::Ok);
        assert_eq!(verdict(32 << 20, (9000, 10000), false), Verdict::Warning);
        assert_eq!(verdict(1 << 20, (9000, 10000), false), Verdict::Fault);
        assert_eq!(verdict(1 << 29, (3, 10000), false), Verdict::Fault);
        assert_eq!(verdict(1 << 29, (9000, 10000), true), Verdict::Fault);
    }

    #[test]
    fn a_clock_that_went_back_is_told() {
        let verdict = |now_s, newest_s| {
            clock(&on(Storage {
                now_s,
                newest_s,
                ..Storage::default()
            }))[0]
                .verdict
        };
        let now = EARLIEST_S + 1000;
        assert_eq!(verdict(now, Some(now - 5)), Verdict::Ok);
        assert_eq!(verdict(now, Some(now + 30)), Verdict::Ok);
        assert_eq!(verdict(now, Some(now + 300)), Verdict::Warning);
        assert_eq!(verdict(1000, None), Verdict::Warning);
    }
}
