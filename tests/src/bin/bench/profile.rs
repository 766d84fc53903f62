//! Where the time of a question goes: samples of the processor that both ends are on (perf(1), `linux-perf`).
//!
//! Each sample is the kernel's stack at that moment. It counts for the innermost of the parts below that is on it, so the time in
//! which a bridge calls a rule is the rule's.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use system_tests::samples::Samples;

use crate::{across, ask, ports};

/// How many rounds there are.
const ROUNDS: usize = 8;

/// For how long each way is sampled in a round, in seconds, and how often a second.
const TIME: &str = "1";
const RATE: &str = "4999";

/// A part of the kernel, and how the names of its functions begin.
type Part = (&'static str, &'static [&'static str]);

/// What counts with all that it calls: the search for a route that tells how large a segment may be.
const WHOLE: Part = ("TCP's segment size", &["nft_rt_get", "nft_exthdr_tcp"]);

/// From the most particular to the most general: functions of one may be called by another one's.
const PARTS: [Part; 9] = [
    ("rules (nftables)", &["nft_", "ipt_", "ip6t_", "xt_", "nf_tables"]),
    (
        "connection tracking and translation",
        &[
            "nf_conntrack",
            "__nf_conntrack",
            "nf_ct_",
            "nf_nat",
            "nf_confirm",
            "resolve_normal_ct",
            "hash_conntrack",
            "__nf_ct",
        ],
    ),
    (
        "frames filtered on a bridge",
        &["br_nf_", "setup_pre_routing", "nf_bridge_"],
    ),
    ("bridge", &["br_", "__br_", "fdb_"]),
    (
        "VXLAN",
        &["vxlan_", "udp_tunnel", "iptunnel_", "__iptunnel", "gro_cell"],
    ),
    ("pairs of links (veth)", &["veth_", "__dev_forward_skb"]),
    ("other hooks", &["nf_hook", "NF_HOOK"]),
    (
        "IP: forwarding, routes, neighbours",
        &[
            "ip_", "__ip_", "fib_", "__fib", "inet_", "neigh_", "arp_", "dst_", "ipv4_",
        ],
    ),
    (
        "links, their queues and soft interrupts",
        &[
            "__dev_",
            "dev_",
            "netif_",
            "__netif",
            "net_rx",
            "process_backlog",
            "__napi",
            "napi_",
            "handle_softirqs",
            "do_softirq",
            "__local_bh",
        ],
    ),
];

/// What is none of them: sockets, system calls, switches between the two ends.
const REST: &str = "sockets, system calls, the two ends' turns";

/// What was found of a way.
#[derive(Default)]
pub struct Found {
    asked: Samples,
    /// Samples by part.
    parts: BTreeMap<&'static str, usize>,
}

/// The part `profile`: between hosts, and through a published port.
pub fn measure() -> Vec<String> {
    let load = crate::load();
    let mut lines = vec![
        "## Where the time of a question goes".to_owned(),
        String::new(),
        format!(
            "{} Both ends of a way are on one processor. The median of a question and its answer is split as samples of that processor \
             are (perf, {RATE} a second): each counts for the innermost of the kernel's parts that was at work.",
            crate::machine("profile", &load)
        ),
        String::new(),
    ];
    lines.extend(across::profile::measure(ROUNDS));
    lines.extend(ports::profile::measure(ROUNDS));
    lines
}

impl Found {
    /// Samples the processor while this asks, again and again.
    pub fn sample(&mut self, ask: impl Fn() -> Samples + Sync) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("samples").to_string_lossy().into_owned();
        let processor = ask::last().to_string();
        let over = AtomicBool::new(false);
        let asked = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut asked = Samples::default();
                while !over.load(Ordering::Relaxed) {
                    asked.extend(&ask());
                }
                asked
            });
            perf(&[
                "record",
                "-q",
                "-e",
                "cpu-clock",
                "-F",
                RATE,
                "-g",
                "-C",
                &processor,
                "-o",
                &file,
                "--",
                "sleep",
                TIME,
            ]);
            over.store(true, Ordering::Relaxed);
            asking.join().expect("the thread that asks")
        });
        self.asked.extend(&asked);
        let text = perf(&["script", "-i", &file, "-F", "comm,pid,ip,sym"]);
        for part in parts(&text, &std::process::id().to_string()) {
            *self.parts.entry(part).or_default() += 1;
        }
    }

    fn samples(&self) -> usize {
        self.parts.values().sum()
    }

    /// The median of a question, in µs.
    fn median(&self) -> f64 {
        self.asked.median() * 1e3
    }
}

fn perf(args: &[&str]) -> String {
    let output = Command::new("perf").args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("perf: {e}; this part needs it (linux-perf)"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "perf {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The part that each sample of a process counts for, or of the kernel's own threads for packets.
fn parts<'a>(text: &'a str, pid: &'a str) -> impl Iterator<Item = &'static str> + 'a {
    let samples = text
        .split("\n\n")
        .filter_map(|sample| sample.trim_matches('\n').split_once('\n'));
    let ours = move |head: &str| {
        let mut words = head.split_whitespace().rev();
        words.next() == Some(pid) || head.trim_start().starts_with("ksoftirqd")
    };
    samples
        .filter(move |(head, _)| ours(head))
        .map(|(_, stack)| part_of(stack))
}

/// The part that a stack counts for, innermost function first.
fn part_of(stack: &str) -> &'static str {
    let functions = || stack.lines().filter_map(|line| line.split_whitespace().nth(1));
    let is_of = |function: &str, (_, begins): &Part| begins.iter().any(|begin| function.starts_with(begin));
    if functions().any(|function| is_of(function, &WHOLE)) {
        return WHOLE.0;
    }
    let mut known = functions().filter_map(|function| {
        let part = PARTS.iter().find(|part| is_of(function, part));
        part.map(|(name, _)| *name)
    });
    known.next().unwrap_or(REST)
}

/// A table with a column for each, by name.
pub fn table<'a>(columns: impl IntoIterator<Item = (&'a str, &'a Found)>) -> Vec<String> {
    let (names, found): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let mut lines = vec![
        format!("| µs | {} |", names.join(" | ")),
        format!("|---|{}", "---|".repeat(names.len())),
    ];
    let row = |name: &str, of: &dyn Fn(&Found) -> f64| {
        let cells: Vec<String> = found.iter().map(|found| format!("{:.1}", of(found))).collect();
        format!("| {name} | {} |", cells.join(" | "))
    };
    let parts = std::iter::once(&WHOLE).chain(&PARTS);
    for name in parts.map(|(name, _)| *name).chain([REST]) {
        lines.push(row(name, &|found| {
            let part = found.parts.get(name).copied().unwrap_or_default();
            found.median() * part as f64 / found.samples().max(1) as f64
        }));
    }
    lines.push(row("**in all**", &Found::median));
    lines.push(String::new());
    let samples = found
        .iter()
        .map(|found| found.samples())
        .min()
        .unwrap_or_default();
    lines.push(format!("Samples of a column: {samples} at least."));
    lines.push(String::new());
    lines
}

#[cfg(test)]
mod tests {
    use super::{REST, WHOLE, parts};

    #[test]
    fn a_sample_counts_for_the_innermost_part_on_its_stack() {
        let text = "bench  77 \n\tffff nft_do_chain\n\tffff nf_hook_slow\n\tffff br_nf_forward_ip\n\n\
                    bench  77 \n\tffff memcpy\n\tffff br_handle_frame\n\n\
                    other  78 \n\tffff nft_do_chain\n\n\
                    ksoftirqd/1    22 \n\tffff vxlan_rcv\n\n\
                    bench  77 \n\tffff fib_table_lookup\n\tffff nft_rt_get_eval\n\tffff nft_do_chain\n\n\
                    bench  77 \n\tffff do_syscall_64\n";
        let found: Vec<&str> = parts(text, "77").collect();
        assert_eq!(found, ["rules (nftables)", "bridge", "VXLAN", WHOLE.0, REST]);
    }
}
