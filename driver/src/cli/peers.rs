//! `tombolo peers`: the endpoints of all hosts of the cluster, as this host knows them.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::failure::Failure;
use super::names::{is_called, known, unknown};
use super::output::{Output, cell, items, name_or_id, table};

const HELP: &str = "\
Examples:
  tombolo peers
  tombolo peers --network app --host b
  tombolo peers --output json | jq -r '.[] | select(.here | not) | [.name, .ipv4] | @tsv'

These are the rows that every host writes about its own endpoints; those of a host that is down are not among them.";

/// A host's name and identifier, in a row of `/v1/peers`.
const HOST_OF_PEER: (&str, &str) = ("host_name", "host");
/// The same in `/v1/cluster`.
const HOST_OF_CLUSTER: (&str, &str) = ("name", "host");

/// The flags of `tombolo peers`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    #[command(flatten)]
    output: Output,
    /// Only endpoints on this network, by its name
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Only endpoints of this host: its name, or the start of its identifier
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

impl Flags {
    /// Lists the endpoints of all hosts.
    pub fn run(&self, client: &Client, out: &mut Vec<u8>) -> Result<(), Failure> {
        let mut document = client.get_json("/v1/peers")?;
        self.must_know(client, items(&document))?;
        if let Value::Array(peers) = &mut document {
            peers.retain(|peer| self.wants(peer));
        }
        self.output.show(&document, render, out)
    }

    /// Refuses names that nothing has: an empty table would look like an answer. A network or a host may well be there
    /// without an endpoint.
    fn must_know(&self, client: &Client, peers: &[Value]) -> Result<(), Failure> {
        if let Some(wanted) = &self.network
            && !peers.iter().any(|peer| peer["network"] == *wanted)
        {
            let networks = client.get_json("/v1/networks")?;
            let ours = items(&networks).iter().map(|network| &network["name"]);
            let names = peers.iter().map(|peer| &peer["network"]).chain(ours);
            let names: BTreeSet<String> = names.filter(|name| !name.is_null()).map(cell).collect();
            if !names.contains(wanted) {
                return Err(unknown("network", wanted, names));
            }
        }
        if let Some(wanted) = &self.host
            && !peers.iter().any(|peer| is_called(wanted, peer, HOST_OF_PEER))
        {
            let hosts = &client.get_json("/v1/cluster")?["hosts"];
            known("host of the cluster", wanted, HOST_OF_CLUSTER, hosts)?;
        }
        Ok(())
    }

    fn wants(&self, peer: &Value) -> bool {
        let network = self.network.as_deref();
        let host = self.host.as_deref();
        network.is_none_or(|wanted| peer["network"] == wanted)
            && host.is_none_or(|wanted| is_called(wanted, peer, HOST_OF_PEER))
    }
}

fn render(document: &Value) -> String {
    let row = |peer: &Value| {
        [
            name_or_id(&peer["host_name"], &peer["host"]),
            cell(&peer["network"]),
            cell(&peer["ipv4"]),
            cell(&peer["ipv6"]),
            cell(&peer["mac"]),
            cell(&peer["name"]),
        ]
    };
    let headings = ["HOST", "NETWORK", "IPV4", "IPV6", "MAC", "NAME"];
    table(headings, items(document).iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn document() -> Value {
        json!([
            {"host": "a0000000000000000000000000000001", "host_name": "a", "network": "app", "kind": "bridge",
             "ipv4": "10.42.0.2", "ipv6": null, "mac": "02:7b:0a:2a:00:02", "name": "web", "aliases": ["web"],
             "vtep": null, "vni": null, "here": true},
            {"host": "b0000000000000000000000000000002", "host_name": null, "network": "app", "kind": "bridge",
             "ipv4": "10.42.0.130", "ipv6": "fd00::82", "mac": "02:7b:0a:2a:00:82", "name": null, "aliases": [],
             "vtep": "192.0.2.2", "vni": 7, "here": false},
            {"host": "b0000000000000000000000000000002", "host_name": null, "network": "back", "kind": "bridge",
             "ipv4": null, "ipv6": "fd01::2", "mac": null, "name": "db\u{1b}[1m", "here": false},
        ])
    }

    #[test]
    fn peers_come_one_a_line_with_their_host() {
        let expected = "\
HOST           NETWORK   IPV4          IPV6       MAC                 NAME
a              app       10.42.0.2     -          02:7b:0a:2a:00:02   web
b00000000000   app       10.42.0.130   fd00::82   02:7b:0a:2a:00:82   -
b00000000000   back      -             fd01::2    -                   db [1m
";
        assert_eq!(render(&document()), expected);
    }

    #[test]
    fn filters_take_whole_names_of_networks_and_names_or_the_start_of_ids_of_hosts() {
        let count = |args: &[&str]| {
            let flags = Cli::parse_from([&["peers"], args].concat()).flags;
            items(&document()).iter().filter(|peer| flags.wants(peer)).count()
        };
        assert_eq!(count(&[]), 3);
        assert_eq!(count(&["--network", "app"]), 2);
        assert_eq!(count(&["--network", "ap"]), 0);
        assert_eq!(count(&["--network", ""]), 0);
        assert_eq!(count(&["--host", "a"]), 1);
        assert_eq!(count(&["--host", "b00"]), 2);
        assert_eq!(count(&["--host", "b00", "--network", "back"]), 1);
        assert_eq!(count(&["--host", "a", "--network", "back"]), 0);
        assert_eq!(count(&["--host", ""]), 0);
    }
}
