//! The one rule of ours outside our table: an accept of packets with our mark in chain FORWARD of `iptables`.
//!
//! A packet passes only if every base chain lets it, and Docker sets the policy of FORWARD to DROP. Where there is no
//! such chain there is nothing to overrule and nothing is made: an empty chain of ours would look like Docker's. The rule
//! stands behind the jump to DOCKER-USER, where an administrator's own rules are, so that those are still seen first.
//!
//! `iptables` is the program for it because Docker uses it too, whichever of its two flavours it is. It is run only if
//! its chain exists, and in the nftables flavour only after a change of the ruleset.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tombolo_core::world::{Family, MARK_ACCEPT};

use super::nft::Nftables;
use super::socket::Failure;
use super::tools;

/// The comment that our rule bears.
const COMMENT: &str = "tombolo";

/// How the rule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// There is no chain that it could stand in.
    Nowhere,
    /// It is not there.
    Missing,
    /// It is there, and there is none before the jump to DOCKER-USER.
    Right,
    /// It comes before the jump to DOCKER-USER.
    Early,
}

/// Chain FORWARD as far as it matters, by the number of a rule counted from one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chain {
    ours: Vec<usize>,
    user: Option<usize>,
}

impl Chain {
    /// Reads what `iptables -S FORWARD` writes.
    fn read(listing: &str, rule: &str) -> Self {
        let mut chain = Self::default();
        let rules = listing
            .lines()
            .filter_map(|line| line.trim().strip_prefix("-A FORWARD "));
        for (number, text) in (1..).zip(rules) {
            if text == rule {
                chain.ours.push(number);
            } else if text.ends_with("-j DOCKER-USER") && chain.user.is_none() {
                chain.user = Some(number);
            }
        }
        chain
    }

    fn place(&self) -> Place {
        match (self.ours.first(), self.user) {
            (None, _) => Place::Missing,
            (Some(ours), Some(user)) if *ours < user => Place::Early,
            (Some(_), _) => Place::Right,
        }
    }
}

/// The rule as `iptables -S` writes it.
fn rule() -> String {
    format!("-m mark --mark {MARK_ACCEPT:#x}/{MARK_ACCEPT:#x} -m comment --comment {COMMENT} -j ACCEPT")
}

/// What was read of a family's rule, and in which state of the ruleset.
type Seen = Option<(u32, Place)>;

/// The rules for both families. Copies share what was seen.
#[derive(Clone, Default)]
pub(super) struct DockerAccept {
    /// What was read last; IPv4 first.
    seen: Arc<Mutex<[Seen; 2]>>,
}

impl DockerAccept {
    fn seen(&self) -> MutexGuard<'_, [Seen; 2]> {
        // Each write is whole, whatever became of the writer.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the rule of a family stands.
    pub(super) async fn place(&mut self, nft: &mut Nftables, family: Family) -> Result<Place, Failure> {
        let Some(tool) = tool(nft, family).await? else {
            return Ok(Place::Nowhere);
        };
        let slot = usize::from(family == Family::V6);
        // The legacy flavour has no number that tells of a change.
        let generation = if tool.legacy {
            None
        } else {
            Some(nft.generation().await?)
        };
        let seen = self.seen()[slot].filter(|(seen, _)| Some(*seen) == generation);
        if let Some((seen, place)) = seen {
            tracing::trace!(seen, ?place, "FORWARD is as it was");
            return Ok(place);
        }
        let place = tool.chain().await?.place();
        self.seen()[slot] = generation.map(|generation| (generation, place));
        Ok(place)
    }

    /// Puts the rule in its place.
    pub(super) async fn add(&mut self, nft: &mut Nftables, family: Family) -> Result<(), Failure> {
        let Some(tool) = tool(nft, family).await? else {
            return Ok(());
        };
        let chain = tool.chain().await?;
        if chain.place() == Place::Right {
            return Ok(());
        }
        let position = chain.user.map_or(1, |user| user + 1).to_string();
        tool.run(&["-I", "FORWARD", &position]).await?;
        // Deletion by text takes the first copy, so the early ones go and the new one stays.
        for _ in chain
            .ours
            .iter()
            .filter(|ours| chain.user.is_some_and(|user| **ours < user))
        {
            tool.run(&["-D", "FORWARD"]).await?;
        }
        Ok(())
    }

    /// Removes every copy of the rule.
    pub(super) async fn remove(&mut self, nft: &mut Nftables, family: Family) -> Result<(), Failure> {
        let Some(tool) = tool(nft, family).await? else {
            return Ok(());
        };
        for _ in tool.chain().await?.ours {
            let removed = tool.run(&["-D", "FORWARD"]).await;
            if removed.is_err() && !tool.chain().await?.ours.is_empty() {
                return removed;
            }
        }
        Ok(())
    }
}

/// A program for whose flavour the chain exists.
struct Tool {
    file: PathBuf,
    legacy: bool,
}

impl Tool {
    async fn chain(&self) -> Result<Chain, Failure> {
        Ok(Chain::read(
            &tools::run(&self.file, &["-w", "2", "-S", "FORWARD"], "").await?,
            &rule(),
        ))
    }

    /// Runs a command with our rule at its end.
    async fn run(&self, command: &[&str]) -> Result<(), Failure> {
        let rule = rule();
        let arguments: Vec<&str> = ["-w", "2"]
            .iter()
            .chain(command)
            .copied()
            .chain(rule.split(' '))
            .collect();
        tools::run(&self.file, &arguments, "").await.map(drop)
    }
}

/// The program of a family; none if it is not installed or has no chain FORWARD.
async fn tool(nft: &mut Nftables, family: Family) -> Result<Option<Tool>, Failure> {
    let (program, tables) = match family {
        Family::V4 => ("iptables", "ip_tables_names"),
        Family::V6 => ("ip6tables", "ip6_tables_names"),
    };
    let Some(file) = tools::find(program) else {
        return Ok(None);
    };
    let legacy = is_legacy(&file);
    let exists = if legacy {
        has_legacy_filter(tables)?
    } else {
        nft.has_forward(family).await?
    };
    Ok(exists.then_some(Tool { file, legacy }))
}

/// Which flavour a program is: all flavours are one program under several names, at the end of a chain of links.
fn is_legacy(file: &Path) -> bool {
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    !target
        .file_name()
        .is_some_and(|name| name.to_string_lossy().contains("nft"))
}

/// Whether the kernel's own iptables has a table `filter`, and so a chain FORWARD. The file is that of this thread, which
/// is in its own network namespace in tests.
fn has_legacy_filter(tables: &str) -> Result<bool, Failure> {
    match fs::read_to_string(format!("/proc/thread-self/net/{tables}")) {
        Ok(names) => Ok(names.lines().any(|name| name == "filter")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Failure::Broken(format!("reading {tables}: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(rules: &[&str]) -> Place {
        let lines: Vec<String> = rules.iter().map(|rule| format!("-A FORWARD {rule}")).collect();
        Chain::read(&format!("-P FORWARD DROP\n{}\n", lines.join("\n")), &rule()).place()
    }

    #[test]
    fn the_place_of_the_rule_is_read_from_the_listing() {
        let (ours, user, other) = (rule(), "-j DOCKER-USER", "-o docker0 -j DOCKER");
        assert_eq!(place(&[]), Place::Missing);
        assert_eq!(place(&[user, other]), Place::Missing);
        assert_eq!(place(&[&ours]), Place::Right);
        assert_eq!(place(&[user, &ours, other]), Place::Right);
        assert_eq!(place(&[user, other, &ours]), Place::Right);
        assert_eq!(place(&[&ours, user, other]), Place::Early);
        assert_eq!(place(&[&ours, user, &ours]), Place::Early);
    }

    #[test]
    fn a_rule_of_somebody_else_with_our_comment_is_not_ours() {
        assert_eq!(
            place(&["-i eth0 -m comment --comment tombolo -j ACCEPT"]),
            Place::Missing
        );
    }
}
