//! All packet filter rules of this host, as the programs write them that belong to them, and what our own mean.

use std::collections::BTreeMap;
use std::fs;

use tokio::runtime::Builder;

use super::super::{Error, shape, tools};
use super::unreadable;

/// The listings of the host's rules. What is not installed, or not in use, is empty.
#[derive(Debug, Clone, Default)]
pub struct Listings {
    /// `nft -j list ruleset`.
    pub json: String,
    /// `nft -a list ruleset`: the same for people, each rule with its handle.
    pub text: String,
    /// `iptables-nft-save` and `ip6tables-nft-save`: the same for what nft can't read.
    pub saves: [String; 2],
    /// `iptables-legacy-save` and `ip6tables-legacy-save`, where the kernel's older tables are in use.
    pub legacy: [String; 2],
    /// Whether there is a program `nft`.
    pub nft: bool,
}

/// Reads all rules of this thread's network namespace.
///
/// # Errors
/// When a program that is there doesn't give its listing.
pub fn listings() -> Result<Listings, Error> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unreadable("the rules", error))?;
    let run = |program: &str, arguments: &[&str]| match tools::find(program) {
        None => Ok(None),
        Some(file) => runtime
            .block_on(tools::run(&file, arguments, ""))
            .map(Some)
            .map_err(|why| unreadable("the rules", why)),
    };
    let mut listings = Listings::default();
    if let Some(json) = run("nft", &["-j", "list", "ruleset"])? {
        listings.json = json;
        listings.text = run("nft", &["-a", "list", "ruleset"])?.unwrap_or_default();
        listings.nft = true;
    }
    for (slot, (program, names)) in [("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")]
        .into_iter()
        .enumerate()
    {
        if listings.json.contains("\"xt\"") {
            listings.saves[slot] = run(&format!("{program}-nft-save"), &[])?.unwrap_or_default();
        }
        // Asking for a table that is not in use would make it.
        let used = fs::read_to_string(format!("/proc/thread-self/net/{names}")).unwrap_or_default();
        for table in used.lines() {
            let save = run(&format!("{program}-legacy-save"), &["-t", table])?;
            listings.legacy[slot].push_str(&save.unwrap_or_default());
        }
    }
    Ok(listings)
}

/// What a program writes, if it is installed.
pub fn output(program: &str, arguments: &[&str]) -> Option<Result<String, String>> {
    let file = tools::find(program)?;
    let run = || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let ran = runtime.block_on(tools::run(&file, arguments, ""));
        ran.map_err(|why| why.to_string())
    };
    Some(run())
}

/// Whether `iptables` is the one for the kernel's older tables.
pub fn iptables_is_legacy() -> bool {
    let file = tools::find("iptables").and_then(|file| fs::canonicalize(file).ok());
    file.is_some_and(|file| !file.to_string_lossy().contains("nft"))
}

/// Whether a program is installed.
pub fn has_program(program: &str) -> bool {
    tools::find(program).is_some()
}

/// Loads the constant part of our table into this thread's network namespace: the very test whether this kernel and its
/// `nft` can do what it needs. To be called in a namespace that is thrown away.
///
/// # Errors
/// What `nft` says against it.
pub fn try_skeleton() -> Result<(), String> {
    try_script(&shape::script())
}

/// The same for the table that tunnels need.
///
/// # Errors
/// What `nft` says against it.
pub fn try_tunnels() -> Result<(), String> {
    try_script(&shape::tunnels())
}

/// How often containers asked for addresses of networks with tunnels that nobody has, by ARP and by neighbour discovery; none
/// where there are no tunnels, or where it can't be read.
pub fn unanswered() -> Option<[u64; 2]> {
    let listed = output("nft", &["-j", "list", "counters", "table", "bridge", "tombolo"])?.ok()?;
    let listed: serde_json::Value = serde_json::from_str(&listed).ok()?;
    let count = |name: &str| {
        let all = listed["nftables"].as_array()?.iter();
        let counter = all
            .map(|item| &item["counter"])
            .find(|counter| counter["name"] == name)?;
        counter["packets"].as_u64()
    };
    Some([count("unanswered4")?, count("unanswered6")?])
}

fn try_script(script: &str) -> Result<(), String> {
    let nft = tools::find("nft").ok_or("there is no program nft on this host")?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let ran = runtime.block_on(tools::run(&nft, &["-f", "-"], script));
    ran.map(drop).map_err(|why| why.to_string())
}

/// What the rules of our table mean, by chain and place in it: the comments of the very text that the table is made
/// from, so they can't differ from the rules.
pub fn meanings() -> BTreeMap<(String, usize), String> {
    meanings_of(&shape::script())
}

/// The name of the chain that tells that a live table is made from the text that [`meanings`] reads.
pub fn version_chain() -> Option<String> {
    let script = shape::script();
    let last = script
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("chain "));
    last.and_then(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
}

/// A comment is about all rules that follow it up to a blank line or the next comment.
fn meanings_of(text: &str) -> BTreeMap<(String, usize), String> {
    let mut meanings = BTreeMap::new();
    let (mut chain, mut rules, mut comment, mut open) = (None::<String>, 0, String::new(), false);
    for line in text.lines().map(str::trim) {
        match *line.split_whitespace().collect::<Vec<_>>() {
            ["type", ..] => {}
            ["chain", name, "{"] => (chain, rules, comment) = (Some(name.to_owned()), 0, String::new()),
            ["}"] => chain = None,
            [] => (comment, open) = (String::new(), false),
            ["#", ref words @ ..] => {
                if !open {
                    comment = String::new();
                }
                let space = if comment.is_empty() { "" } else { " " };
                comment.push_str(&format!("{space}{}", words.join(" ")));
                open = true;
            }
            _ => {
                open = false;
                if let Some(chain) = &chain {
                    if !comment.is_empty() {
                        meanings.insert((chain.clone(), rules), comment.clone());
                    }
                    rules += 1;
                }
            }
        }
    }
    meanings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_about_the_rules_that_follow_it() {
        let text = "table inet t {\n# not this\nchain c {\ntype filter hook forward priority 0;\n# One\n# and on.\na\nb\n\nc\n# Two.\nd\n}\n}\n";
        let meanings = meanings_of(text);
        let of = |place| meanings.get(&("c".to_owned(), place)).map(String::as_str);
        assert_eq!(
            [of(0), of(1), of(2), of(3)],
            [Some("One and on."), Some("One and on."), None, Some("Two.")]
        );
    }

    #[test]
    fn the_last_rule_of_our_forward_chain_has_a_meaning() {
        let meanings = meanings();
        let last = meanings
            .keys()
            .filter(|(chain, _)| chain == "forward")
            .max()
            .unwrap();
        assert!(meanings[last].contains("another"), "{meanings:?}");
        assert!(version_chain().unwrap().starts_with("version_"));
    }
}
