//! What is said of ways between hosts.

use std::cmp::Ordering;

use super::{ALL, Which};
use crate::cost::{self, CARRIED, Cost, QUESTIONS, ratios};
use crate::spread::{TIE, beside_one, median, pairs, with_quartiles};

/// How much more than the wire a host-gateway may take, in µs, and what part of an overlay's time.
const ABOVE_WIRE: f64 = 3.0;
const OF_OVERLAY: f64 = 0.75;

/// All that is said.
pub fn lines(version: &str, load: &str, costs: &[Cost]) -> Vec<String> {
    let of = |which: Which| &costs[ALL.iter().position(|one| *one == which).unwrap_or_default()];
    [
        how_made(version, load, costs),
        cost::table(ALL.map(Which::name).into_iter().zip(costs)),
        cost::compared(COMPARED.iter().map(|&(one, other)| {
            let what = format!("{} / {}", one.name(), other.name());
            (what, [of(one), of(other)])
        })),
        cost::pictures("across", &ALL.map(Which::name), costs, |name| {
            name.starts_with("overlay") || name.starts_with("host-gateway")
        }),
        aims(&of),
    ]
    .concat()
}

fn how_made(version: &str, load: &str, costs: &[Cost]) -> Vec<String> {
    vec![
        "## From container to container".to_owned(),
        String::new(),
        format!(
            "{} Two hosts made of namespaces, with a pair of links and a bridge for a wire (MTU 1500), each with Docker \
             {version} and tombolo, and both a swarm as well.",
            crate::machine("across", load)
        ),
        String::new(),
        format!(
            "{} *Frames filtered*: `bridge-nf-call-iptables` is on, as an engine of a swarm switches it on for its host; in \
             the other rows it is off. Swarm's own bridge is in a namespace of its own and not concerned.",
            cost::how(costs)
        ),
        String::new(),
    ]
}

/// What is compared with what.
const COMPARED: [(Which, Which); 8] = [
    (Which::Overlay, Which::Swarm),
    (Which::OverlayFiltered, Which::Swarm),
    (Which::Routed, Which::Swarm),
    (Which::RoutedFiltered, Which::Swarm),
    (Which::Routed, Which::Overlay),
    (Which::RoutedFiltered, Which::OverlayFiltered),
    (Which::Overlay, Which::Wire),
    (Which::Routed, Which::Wire),
];

fn aims<'a>(of: &impl Fn(Which) -> &'a Cost) -> Vec<String> {
    let mut lines = Vec::new();
    let wire = of(Which::Wire);
    for (overlay, routed, how) in [
        (Which::Overlay, Which::Routed, ""),
        (Which::OverlayFiltered, Which::RoutedFiltered, ", frames filtered"),
    ] {
        let (overlay, routed, swarm) = (of(overlay), of(routed), of(Which::Swarm));
        let mut aim =
            |what: &str, found: String, met| lines.push(crate::aim(&format!("{what}{how}"), &found, met));
        for (name, sort) in CARRIED {
            let (carried, met) = beside_one(&ratios(sort, overlay, swarm), Ordering::Greater);
            aim(
                &format!("an overlay carries at least what Swarm's does, {name}{TIE}"),
                carried,
                met,
            );
        }
        for (name, sort) in QUESTIONS {
            let (took, met) = beside_one(&ratios(sort, overlay, swarm), Ordering::Less);
            aim(
                &format!("an overlay's answer takes no longer than Swarm's, {name}{TIE}"),
                took,
                met,
            );
            if name.contains("connection") {
                continue;
            }
            let above = pairs(sort(routed), sort(wire), |one, other| one - other);
            aim(
                &format!(
                    "a host-gateway's answer takes at most {ABOVE_WIRE} µs longer than the wire's, {name}"
                ),
                with_quartiles(&above, 1),
                median(&above) <= ABOVE_WIRE,
            );
            let part = ratios(sort, routed, overlay);
            aim(
                &format!("a host-gateway's answer takes at most {OF_OVERLAY} of an overlay's time, {name}"),
                with_quartiles(&part, 2),
                median(&part) <= OF_OVERLAY,
            );
        }
    }
    lines
}
