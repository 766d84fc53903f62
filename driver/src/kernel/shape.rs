//! The constant part of our tables: their texts, and the shape by which a table made from one is known.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::model::fnv1a;

/// The constant part of table `inet tombolo`.
const SKELETON: &str = include_str!("skeleton.nft");

/// Table `bridge tombolo`, all of which is constant.
const TUNNELS: &str = include_str!("tunnels.nft");

/// Beginning of the name of the chain that tells the version of a text.
const VERSION: &str = "version_";

/// What a table consists of: its chains with the number of their rules, and the names of its sets and maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Its chains with the number of their rules.
    pub(super) chains: BTreeMap<String, usize>,
    /// The names of its sets and maps.
    pub(super) sets: BTreeSet<String>,
}

impl Shape {
    /// The shape of the table that a text makes, written as [`SKELETON`] is: one rule a line.
    pub(super) fn of_text(text: &str) -> Self {
        let mut shape = Self::default();
        let mut chain = None;
        for line in text.lines().map(str::trim) {
            match *line.split_whitespace().collect::<Vec<_>>() {
                [] | ["type" | "flags", ..] => {}
                ["chain", name, "{"] => {
                    shape.chains.insert(name.to_owned(), 0);
                    chain = Some(name.to_owned());
                }
                ["set" | "map", name, "{"] => drop(shape.sets.insert(name.to_owned())),
                ["}"] => chain = None,
                [first, ..] if first.starts_with('#') => {}
                _ => {
                    if let Some(rules) = chain.as_ref().and_then(|chain| shape.chains.get_mut(chain)) {
                        *rules += 1;
                    }
                }
            }
        }
        shape
    }
}

/// The text that makes table `inet tombolo`, with the chain that tells its version.
pub(super) fn script() -> String {
    versioned(SKELETON, "inet")
}

/// The text that makes table `bridge tombolo`, likewise.
pub(super) fn tunnels() -> String {
    versioned(TUNNELS, "bridge")
}

fn versioned(text: &str, family: &str) -> String {
    let version = fnv1a(text.as_bytes());
    format!("{text}\ntable {family} tombolo {{\n\tchain {VERSION}{version:016x} {{\n\t}}\n}}\n")
}

#[cfg(test)]
mod tests {
    use tombolo_core::world::{ADOPTED_GROUP, LINK_GROUP, MARK_ACCEPT, MARK_MASQUERADE, MARK_PUBLISHED};

    use super::*;
    use crate::kernel::elements::Set;

    /// The number that a name stands for in the skeleton.
    fn defined(name: &str) -> u32 {
        let line = SKELETON
            .lines()
            .find_map(|line| line.strip_prefix(&format!("define {name} = ")))
            .unwrap();
        match line.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).unwrap(),
            None => line.parse().unwrap(),
        }
    }

    #[test]
    fn the_skeleton_uses_the_numbers_of_the_world() {
        assert_eq!([defined("own"), defined("adopted")], [LINK_GROUP, ADOPTED_GROUP]);
        assert_eq!(defined("accept_bit"), MARK_ACCEPT);
        assert_eq!(defined("masquerade_bit"), MARK_MASQUERADE);
        assert_eq!(defined("both_bits"), MARK_ACCEPT | MARK_MASQUERADE);
        assert_eq!(defined("published_bit"), MARK_PUBLISHED);
        assert_eq!(defined("let_in_bits"), MARK_ACCEPT | MARK_PUBLISHED);
        let ours = MARK_ACCEPT | MARK_MASQUERADE | MARK_PUBLISHED;
        assert_eq!(defined("other_bits"), !ours);
        assert_eq!(TUNNELS.matches(&format!("oifgroup {LINK_GROUP} ")).count(), 2);
        assert!(super::super::user::TEXT.contains(&format!("mark & {MARK_PUBLISHED:#010x} != 0")));
    }

    #[test]
    fn the_shape_of_the_skeleton_is_read_from_its_text() {
        let shape = Shape::of_text(&script());
        let sets: Vec<_> = shape.sets.iter().map(String::as_str).collect();
        let mut known: Vec<_> = Set::all().into_iter().map(Set::name).collect();
        known.sort_unstable();
        assert_eq!(sets, known);
        assert_eq!((shape.chains["raw"], shape.chains["not_loopback"]), (2, 4));
        assert_eq!(shape.chains["clear"], 1);
        let tunnels = Shape::of_text(&tunnels());
        assert_eq!((tunnels.chains["forward"], tunnels.chains["silent"]), (1, 4));
        assert!(tunnels.sets.is_empty());
        for shape in [shape, tunnels] {
            let versions: Vec<_> = shape
                .chains
                .iter()
                .filter(|(name, _)| name.starts_with(VERSION))
                .collect();
            assert_eq!(versions.len(), 1);
            assert_eq!(*versions[0].1, 0);
        }
    }
}
