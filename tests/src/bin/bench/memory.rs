//! The memory that tombolo holds.

use system_tests::{Host, Tombolo};

/// The memory of a host's tombolo in MiB: what it holds, what of that is not the file of its program, and the most that it has held.
pub fn of(host: &Host, tombolo: &Tombolo) -> [f64; 3] {
    let pid = &tombolo.cli(&["status"])["pid"];
    let path = host.path(&format!("/proc/{pid}/status"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()));
    ["VmRSS:", "RssAnon:", "VmHWM:"].map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: Option<f64> = kib.and_then(|kib| kib.parse().ok());
        kib.unwrap_or_else(|| panic!("no {name} in {text}")) / 1024.0
    })
}
