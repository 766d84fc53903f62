//! The built binary on a state that a newer version has written: it says so, and leaves every byte as it is.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tombolo::serve::SCHEMA;
use tombolo::store::{Put, Store};

/// All files below a directory, but for the lock, whose content is the process that tried.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if !path.ends_with("lock") {
            let bytes = fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}

#[test]
fn a_newer_state_is_refused_in_clear_words_and_left_untouched() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let (store, _) = Store::open(&state, SCHEMA + 1).unwrap();
    let row = "{\"a\":\"word that only the newer version knows\"}";
    for n in 0..100 {
        store.commit(&[Put::set("networks", n.to_string(), row)]).unwrap();
    }
    store.backup().unwrap();
    let rows = store.load().unwrap();
    drop(store);
    let before = files(&state);

    for _ in 0..2 {
        let refused = Command::new(env!("CARGO_BIN_EXE_tombolo"))
            .arg("serve")
            .env("TOMBOLO_STATE_DIR", &state)
            .env("TOMBOLO_PLUGIN_SOCKET", place.path().join("tombolo.sock"))
            .env("TOMBOLO_CONTROL_SOCKET", place.path().join("control.sock"))
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8_lossy(&refused.stderr);
        for text in [
            format!("the state in {} was written by a newer tombolo", state.display()),
            format!("it has schema {}", SCHEMA + 1),
            format!("knows schema {SCHEMA}"),
            "Run the newer version again".to_owned(),
        ] {
            assert!(said.contains(&text), "'{text}' is not in {said}");
        }
        assert!(files(&state) == before, "the files were changed");
    }
    assert_eq!(Store::open(&state, SCHEMA + 1).unwrap().0.load().unwrap(), rows);
}
