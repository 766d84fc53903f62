//! What real engines said, said again to the real socket.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use system_tests::{Host, Snapshot, Tombolo, conversation};

/// Replays all recordings of a scenario; after each, nothing is left of it.
#[track_caller]
fn replay(scenario: &str) {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    let before = Snapshot::of(&host, Some(&tombolo));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conversations")
        .join(scenario);
    let mut recordings: Vec<_> = fs::read_dir(folder)
        .expect("the scenario's folder")
        .flatten()
        .collect();
    recordings.sort_by_key(fs::DirEntry::path);
    assert_eq!(recordings.len(), 3, "one recording of each engine");
    for recording in recordings {
        system_tests::say(&format!("replaying {}", recording.path().display()));
        conversation::replay(
            &tombolo.plugin(),
            &fs::read_to_string(recording.path()).expect("a recording"),
        );
        for list in ["networks", "endpoints", "pools"] {
            assert_eq!(
                tombolo.cli(&[list]),
                json!([]),
                "{list} after {}",
                recording.path().display()
            );
        }
        before.must_come_back(&host, Some(&tombolo));
    }
    assert!(!tombolo.log().contains("panicked"), "{}", tombolo.log());
}

#[test]
fn two_networks_with_published_ports_chosen_addresses_and_a_restart() {
    replay("everyday");
}

#[test]
fn an_internal_network_gets_no_gateway() {
    replay("internal");
}

#[test]
fn a_network_of_both_families_with_a_range_and_a_kept_address() {
    replay("dual-stack");
}

#[test]
fn a_network_without_a_subnet_gets_one_of_ours() {
    replay("subnet-of-our-choice");
}
