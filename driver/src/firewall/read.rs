//! Listings to a [`Ruleset`].

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Base, Body, ChainId, Hook, Rule, Ruleset};
use crate::kernel::look::rules::Listings;

/// Expressions of other programs' extensions that change nothing.
const HARMLESS: [&str; 1] = ["comment"];

/// Reads all listings.
///
/// # Errors
/// When nft's listing is not what it should be.
pub fn read(listings: &Listings) -> Result<Ruleset, String> {
    let mut ruleset = Ruleset::default();
    let saves = [("ip", &listings.saves[0]), ("ip6", &listings.saves[1])];
    let mut saved: BTreeMap<ChainId, Vec<String>> = BTreeMap::new();
    for (family, text) in saves {
        for (id, _, line) in save_lines(family, text, false) {
            if let Some(line) = line {
                saved.entry(id).or_default().push(line);
            }
        }
    }
    if !listings.json.is_empty() {
        let document: Value =
            serde_json::from_str(&listings.json).map_err(|error| format!("nft's listing: {error}"))?;
        let objects = document["nftables"]
            .as_array()
            .ok_or("nft's listing has no list of objects")?;
        let texts = texts(&listings.text);
        for object in objects {
            ruleset.take(object, &texts, &saved);
        }
        ruleset.heed(&listings.text);
    }
    for (family, text) in [("ip", &listings.legacy[0]), ("ip6", &listings.legacy[1])] {
        for (id, policy, line) in save_lines(family, text, true) {
            let base = base_of_iptables(&id, &policy);
            let chain = ruleset.chains.entry(id).or_default();
            match line {
                Some(line) => chain.rules.push(Rule {
                    body: Body::Xt(words(&line)),
                    text: line,
                }),
                None => chain.base = base,
            }
        }
    }
    Ok(ruleset)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Ruleset {
    fn take(
        &mut self,
        object: &Value,
        texts: &BTreeMap<(ChainId, u64), String>,
        saved: &BTreeMap<ChainId, Vec<String>>,
    ) {
        let id = |of: &Value, chain: &str| ChainId {
            family: text(&of["family"]),
            table: text(&of["table"]),
            chain: text(&of[chain]),
            legacy: false,
        };
        if let Some(chain) = object.get("chain") {
            let base = Hook::of(chain["hook"].as_str().unwrap_or_default()).map(|hook| Base {
                hook,
                priority: chain["prio"].as_i64().unwrap_or_default(),
                nat: chain["type"] == "nat",
                drops: chain["policy"] == "drop",
            });
            let links = match &chain["dev"] {
                Value::Array(names) => names.iter().map(text).collect(),
                Value::String(name) => vec![name.clone()],
                _ => Vec::new(),
            };
            let entry = self.chains.entry(id(chain, "name")).or_default();
            (entry.base, entry.links) = (base, links);
        } else if let Some(set) = object.get("set").or_else(|| object.get("map")) {
            let name = (text(&set["family"]), text(&set["table"]), text(&set["name"]));
            self.sets
                .insert(name, set["elem"].as_array().cloned().unwrap_or_default());
        } else if let Some(rule) = object.get("rule") {
            let id = id(rule, "chain");
            let expressions = rule["expr"].as_array().cloned().unwrap_or_default();
            let chain = self.chains.entry(id.clone()).or_default();
            let line = saved.get(&id).and_then(|lines| lines.get(chain.rules.len()));
            let foreign = expressions.iter().filter_map(|e| e.get("xt"));
            let foreign = foreign
                .filter(|xt| !HARMLESS.contains(&xt["name"].as_str().unwrap_or_default()))
                .count()
                > 0;
            let body = match line {
                Some(line) if foreign => Body::Xt(words(line)),
                _ => Body::Nft(expressions),
            };
            let handle = rule["handle"].as_u64().unwrap_or_default();
            let shown = line.cloned().or_else(|| texts.get(&(id, handle)).cloned());
            chain.rules.push(Rule {
                text: shown.unwrap_or_else(|| rule["expr"].to_string()),
                body,
            });
        }
    }
}

impl Ruleset {
    /// Takes from `nft -a list ruleset` what the JSON of nft 1.0.6 lacks: which tables are switched off, so that nobody asks
    /// their chains, and which links chains at the hooks of links are for.
    fn heed(&mut self, listing: &str) {
        let (mut table, mut chain) = ((String::new(), String::new()), String::new());
        for line in listing.lines().map(str::trim) {
            let words: Vec<&str> = line
                .split([' ', ',', ';', '"', '{', '}', '='])
                .filter(|word| !word.is_empty())
                .collect();
            match *words {
                ["table", family, name, ..] => table = (family.to_owned(), name.to_owned()),
                ["chain", name, ..] => name.clone_into(&mut chain),
                ["flags", ref flags @ ..] if flags.contains(&"dormant") => {
                    // Of a table: sets, whose flags are others, come behind.
                    let asleep = |id: &ChainId| id.family == table.0 && id.table == table.1 && !id.legacy;
                    let chains = self.chains.iter_mut().filter(|(id, _)| asleep(id));
                    chains.for_each(|(_, chain)| chain.base = None);
                }
                ["type", _, "hook", _, "device" | "devices", ref rest @ ..] => {
                    let id = ChainId {
                        family: table.0.clone(),
                        table: table.1.clone(),
                        chain: chain.clone(),
                        legacy: false,
                    };
                    let names = rest.iter().take_while(|word| **word != "priority");
                    if let Some(chain) = self.chains.get_mut(&id) {
                        chain.links = names.map(|name| (*name).to_owned()).collect();
                    }
                }
                _ => {}
            }
        }
    }
}

/// The rules of `nft -a list ruleset` by their handles.
fn texts(listing: &str) -> BTreeMap<(ChainId, u64), String> {
    let mut texts = BTreeMap::new();
    let mut id = ChainId {
        family: String::new(),
        table: String::new(),
        chain: String::new(),
        legacy: false,
    };
    for line in listing.lines().map(str::trim) {
        let (rule, handle) = match line.rsplit_once(" # handle ") {
            Some((rule, handle)) => (rule.trim(), handle.parse().unwrap_or_default()),
            None => (line, 0),
        };
        match *rule.split_whitespace().collect::<Vec<_>>() {
            ["table", family, table, "{"] => (id.family, id.table) = (family.to_owned(), table.to_owned()),
            ["chain", chain, "{"] => chain.clone_into(&mut id.chain),
            _ if handle != 0 => drop(texts.insert((id.clone(), handle), rule.to_owned())),
            _ => {}
        }
    }
    texts
}

/// The lines of `iptables-save`: chains (with their policies) and rules.
fn save_lines(family: &str, save: &str, legacy: bool) -> Vec<(ChainId, String, Option<String>)> {
    let mut table = String::new();
    let mut lines = Vec::new();
    let id = |table: &str, chain: &str| ChainId {
        family: family.to_owned(),
        table: table.to_owned(),
        chain: chain.to_owned(),
        legacy,
    };
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.trim().clone_into(&mut table);
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut parts = chain.split_whitespace();
            if let (Some(name), Some(policy)) = (parts.next(), parts.next()) {
                lines.push((id(&table, name), policy.to_owned(), None));
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let name = rule.split_whitespace().next().unwrap_or_default();
            lines.push((id(&table, name), String::new(), Some(line.to_owned())));
        }
    }
    lines
}

/// Where the kernel asks the built-in chains of its older iptables.
fn base_of_iptables(id: &ChainId, policy: &str) -> Option<Base> {
    let hook = Hook::of(&id.chain).filter(|_| policy != "-")?;
    let priority = match (id.table.as_str(), hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", Hook::Prerouting | Hook::Output) => -100,
        ("nat", _) => 100,
        ("security", _) => 50,
        _ => 0,
    };
    Some(Base {
        hook,
        priority,
        nat: id.table == "nat",
        drops: policy == "DROP",
    })
}

/// The words of a line, of which those in quotes are one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped, mut begun) =
        (Vec::new(), String::new(), false, false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            _ => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_are_one() {
        let line = r#"-A FORWARD -m comment --comment "a \"b\" c" -j DROP"#;
        assert_eq!(
            words(line),
            [
                "-A",
                "FORWARD",
                "-m",
                "comment",
                "--comment",
                "a \"b\" c",
                "-j",
                "DROP"
            ]
        );
    }
}
