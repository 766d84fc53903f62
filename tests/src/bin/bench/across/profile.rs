//! Where the time of a question between two hosts goes, on each way.

use system_tests::{Plan, say};

use super::{ALL, filter, ways};
use crate::profile::{Found, table};
use crate::{probe, turns};

/// How many questions are asked at a time while a way is sampled.
const EXCHANGES: usize = 5_000;

/// Samples all ways in so many rounds, and says what was found.
pub fn measure(rounds: usize) -> Vec<String> {
    let sites = Plan::of(2).joined();
    let ways = ways(&sites);
    let mut found: [Found; ALL.len()] = Default::default();
    for round in 0..rounds {
        for at in turns::order(round, ways.len()) {
            filter(&sites, ALL[at]);
            let way = &ways[at];
            found[at].sample(|| {
                let asked = probe::udp(way, EXCHANGES).unwrap_or_else(|e| panic!("{}: {e}", way.name));
                asked.0
            });
        }
        say(&format!(
            "profile: {} of {rounds} rounds between hosts",
            round + 1
        ));
    }
    let mut lines = vec![
        format!(
            "A question and its answer in datagrams, on the hosts and ways of `across` (Docker {}). *Frames filtered* and not: \
             `bridge-nf-call-iptables`.",
            sites[0].engine.version()
        ),
        String::new(),
    ];
    lines.extend(table(ALL.iter().map(|way| way.name()).zip(&found)));
    lines
}
