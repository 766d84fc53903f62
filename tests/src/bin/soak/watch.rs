//! What tombolo holds while it works: memory, descriptors, threads; and what it has put into the kernel.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;
use system_tests::{Scene, json};

use crate::load::PREFIXES;

/// The group of the links that are tombolo's.
const GROUP: &str = "29807";

/// By how much memory may have grown once it has settled, in KiB.
const FLAT_KIB: u64 = 5 << 10;

/// Looks at a scene's tombolo.
pub struct Watcher<'a> {
    scene: &'a Scene,
    proc: PathBuf,
    begun: Instant,
    /// How long tombolo's log was when the watch began.
    log: usize,
}

/// What was seen at one time. Memory is in KiB.
#[derive(Debug, Clone)]
pub struct Sample {
    done: usize,
    seconds: f64,
    rss: u64,
    pss: u64,
    anonymous: u64,
    descriptors: usize,
    threads: u64,
    links: usize,
    connections: usize,
}

impl<'a> Watcher<'a> {
    /// A watcher of a scene's tombolo as it runs now.
    pub fn new(scene: &'a Scene) -> Self {
        let pid = &scene.tombolo().cli(&["status"])["pid"];
        Self {
            scene,
            proc: scene.host.path(&format!("/proc/{pid}")),
            begun: Instant::now(),
            log: scene.tombolo().log().len(),
        }
    }

    fn read(&self, file: &str) -> String {
        let path = self.proc.join(file);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()))
    }

    /// Looks now, when so many containers are through.
    pub fn look(&self, done: usize) -> Sample {
        let (status, maps) = (self.read("status"), self.read("smaps_rollup"));
        let descriptors = fs::read_dir(self.proc.join("fd")).expect("reading tombolo's descriptors");
        Sample {
            done,
            seconds: self.begun.elapsed().as_secs_f64(),
            rss: number(&status, "VmRSS:"),
            pss: number(&maps, "Pss:"),
            anonymous: number(&status, "RssAnon:"),
            descriptors: descriptors.count(),
            threads: number(&status, "Threads:"),
            links: self.links(),
            connections: self.connections().len(),
        }
    }

    fn links(&self) -> usize {
        let shown = self.scene.host.run("ip", &["-j", "link", "show", "group", GROUP]);
        json::rows(&json::parse(&shown)).len()
    }

    /// The connections that the kernel tracks for addresses of the networks. What bridges say by themselves (IGMP) is
    /// neither TCP nor UDP.
    pub fn connections(&self) -> Vec<String> {
        let all = self.scene.host.run("cat", &["/proc/net/nf_conntrack"]);
        let ours = |line: &&str| {
            [" tcp ", " udp "].iter().any(|protocol| line.contains(protocol))
                && PREFIXES.iter().any(|prefix| line.contains(&format!("={prefix}")))
        };
        all.lines().filter(ours).map(str::to_owned).collect()
    }

    /// The lines of tombolo's log since the watch began that tell of an error, or warn.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.scene.tombolo().log();
        let bad = |line: &&str| {
            ["ERROR", "WARN", "panicked"]
                .iter()
                .any(|word| line.contains(word))
        };
        log[self.log..].lines().filter(bad).map(str::to_owned).collect()
    }

    /// What tombolo had to repair so far.
    pub fn repairs(&self) -> Value {
        self.scene.tombolo().cli(&["status"])["repairs"].take()
    }
}

/// The number behind a name in a file of `/proc`.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

impl Sample {
    /// What is held beyond what was held before.
    pub fn more_held_than(&self, before: &Self) -> Vec<String> {
        let more =
            |what: &str, now: u64, then: u64| (now > then).then(|| format!("{now} {what}, before {then}"));
        let descriptors = more("descriptors", self.descriptors as u64, before.descriptors as u64);
        let links = more("links", self.links as u64, before.links as u64);
        // Threads for files are started as needed and end when they were idle for a while.
        let threads = more("threads", self.threads, before.threads);
        [descriptors, links, threads].into_iter().flatten().collect()
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RSS {:.1} MiB, {} descriptors, {} threads",
            mib(self.rss),
            self.descriptors,
            self.threads
        )
    }
}

fn settled(samples: &[Sample], after: usize) -> &[Sample] {
    let first = samples.iter().position(|sample| sample.done >= after);
    &samples[first.expect("a sample after which memory is compared")..]
}

/// By how much resident and anonymous memory have grown since it had settled, if that is too much.
pub fn growth(samples: &[Sample], after: usize) -> Vec<String> {
    let settled = settled(samples, after);
    type Part = (&'static str, fn(&Sample) -> u64);
    let parts: [Part; 2] = [("RSS", |s| s.rss), ("anonymous memory", |s| s.anonymous)];
    let grown = parts.map(|(what, part)| {
        let most = settled.iter().map(part).max().expect("samples");
        let by = most.saturating_sub(part(&settled[0]));
        (by > FLAT_KIB).then(|| format!("{what} has grown by {:.1} MiB after {after} containers", mib(by)))
    });
    grown.into_iter().flatten().collect()
}

/// All samples as a table, and by how much memory has grown.
pub fn table(samples: &[Sample], after: usize) -> String {
    let mut text =
        "| containers | seconds | RSS | PSS | anonymous | descriptors | threads | links | tracked |\n\
                    |---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for sample in samples {
        text += &format!(
            "| {} | {:.0} | {:.1} MiB | {:.1} MiB | {:.1} MiB | {} | {} | {} | {} |\n",
            sample.done,
            sample.seconds,
            mib(sample.rss),
            mib(sample.pss),
            mib(sample.anonymous),
            sample.descriptors,
            sample.threads,
            sample.links,
            sample.connections
        );
    }
    let settled = settled(samples, after);
    let span = |part: fn(&Sample) -> u64| {
        let (first, all) = (part(&settled[0]), settled.iter().map(part));
        let (least, most) = (all.clone().min().expect("samples"), all.max().expect("samples"));
        let last = part(settled.last().expect("samples"));
        format!(
            "{:.1} MiB at first, {:.1} to {:.1}, {:.1} at last",
            mib(first),
            mib(least),
            mib(most),
            mib(last)
        )
    };
    text += &format!(
        "\nAfter {after} containers: RSS {}; anonymous {}.\n",
        span(|s| s.rss),
        span(|s| s.anonymous)
    );
    text
}
