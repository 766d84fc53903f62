//! Rows that tombolo has in the kernel so that other hosts are reached.

use serde_json::Value;

use crate::host::Host;
use crate::json;

/// The protocol number of tombolo's routes, and the link group of its links.
const PROTO: &str = "116";
const GROUP: &str = "29807";

/// A sort of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Which hardware address an address of another host has: `ip neigh`.
    Neighbours,
    /// To which host a hardware address leads through a tunnel: `bridge fdb`.
    Forwarding,
    /// Routes to other hosts' parts of a network: `ip route`.
    Routes,
}

impl Rows {
    /// Tombolo's rows of this sort on a host.
    #[track_caller]
    pub fn of(self, host: &Host) -> Vec<Value> {
        match self {
            Self::Neighbours => {
                let ours = listed(host, "ip", &["-j", "link", "show", "group", GROUP]);
                // A link of another group is listed as an object without anything.
                let links: Vec<&str> = ours.iter().filter_map(|link| link["ifname"].as_str()).collect();
                let mut all = listed(host, "ip", &["-j", "neigh", "show", "nud", "permanent"]);
                all.retain(|row| row["dev"].as_str().is_some_and(|dev| links.contains(&dev)));
                all
            }
            Self::Forwarding => {
                let mut all = listed(host, "bridge", &["-j", "fdb", "show"]);
                all.retain(|row| row["dst"].is_string());
                all
            }
            Self::Routes => ["-4", "-6"]
                .map(|family| listed(host, "ip", &["-j", family, "route", "show", "proto", PROTO]))
                .concat(),
        }
    }

    /// Deletes all of them; gives how many there were.
    #[track_caller]
    pub fn delete(self, host: &Host) -> usize {
        let rows = self.of(host);
        rows.iter().for_each(|row| self.delete_one(host, row));
        rows.len()
    }

    /// Deletes one that was listed. If it has gone meanwhile, that is what was wanted.
    #[track_caller]
    pub fn delete_one(self, host: &Host, row: &Value) {
        let at = |key: &str| json::text(row, &format!("/{key}"));
        match self {
            Self::Neighbours => host.try_run("ip", &["neigh", "delete", at("dst"), "dev", at("dev")]),
            Self::Forwarding => {
                let (mac, dev, dst) = (at("mac"), at("ifname"), at("dst"));
                host.try_run("bridge", &["fdb", "delete", mac, "dev", dev, "self", "dst", dst])
            }
            Self::Routes => host.try_run("ip", &["route", "delete", at("dst"), "proto", PROTO]),
        };
    }
}

/// What a command lists as JSON; a list without elements may be printed as nothing.
#[track_caller]
fn listed(host: &Host, program: &str, args: &[&str]) -> Vec<Value> {
    let text = host.run(program, args);
    if text.is_empty() {
        return Vec::new();
    }
    json::rows(&json::parse(&text)).to_vec()
}
