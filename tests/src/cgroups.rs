//! The control groups of a host's containers: the one thing that outlives a host's processes.
//!
//! Each engine makes them under a parent that is named after its test process, so whoever comes later knows whose they
//! were. Both layouts are handled: one tree (version 2) and a tree for each controller (version 1).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// What the names of all parent groups begin with; the process id of the test and a number follow.
pub const PREFIX: &str = "tombolo-test-";

const MOUNTS: &str = "/sys/fs/cgroup";

/// Removes what is left of a host's groups once its processes are gone.
pub fn remove(name: &str) {
    for group in parents().filter(|path| path.file_name().is_some_and(|n| n == name)) {
        remove_tree(&group);
    }
}

/// Removes, once in a test process, the groups of test processes that are no more.
pub fn reap() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for group in parents() {
            let name = group
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let owner = name
                .trim_start_matches(PREFIX)
                .split('-')
                .next()
                .unwrap_or_default()
                .to_owned();
            if !Path::new("/proc").join(owner).exists() {
                remove_tree(&group);
            }
        }
    });
}

/// All parent groups of hosts, in either layout.
fn parents() -> impl Iterator<Item = PathBuf> {
    let trees = children(Path::new(MOUNTS));
    let under_trees: Vec<PathBuf> = trees.iter().flat_map(|tree| children(tree)).collect();
    trees.into_iter().chain(under_trees).filter(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
    })
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// A group is a directory that can be removed when it has no group and no process in it; its files do not count. One
/// that still has a process is left for the next run.
fn remove_tree(group: &Path) {
    for child in children(group) {
        remove_tree(&child);
    }
    fs::remove_dir(group).ok();
}
