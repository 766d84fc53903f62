//! `tombolo pools`: the address pools, how full they are, and who holds which address.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::cluster::render_shares;
use super::failure::Failure;
use super::output::{Output, cell, items, name_or_id, table};

const HELP: &str = "\
Examples:
  tombolo pools
  tombolo pools --leases                 one line an address
  tombolo pools --shares                 which host of the cluster has which pieces
  tombolo pools --output json | jq '.[] | {pool, free}'

A freed address is COOLING for a while before somebody else may get it. A host gives addresses out of its own PIECES \
of a cluster's pool only; NEXT is the host that is asked next for some when they run low. With --shares the JSON document \
is that of `tombolo cluster status`.";

/// The flags of `tombolo pools`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    #[command(flatten)]
    output: Output,
    /// List the addresses in use instead of the pools (the JSON document always holds both)
    #[arg(long)]
    leases: bool,
    /// List the pools of the cluster and what each host has of them
    #[arg(long, conflicts_with = "leases")]
    shares: bool,
}

impl Flags {
    /// Lists the pools.
    pub fn run(&self, client: &Client, out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.shares {
            let cluster = client.get_json("/v1/cluster")?;
            return self.output.show(&cluster, render_shares, out);
        }
        let render = if self.leases { render_leases } else { render_pools };
        self.output.show(&client.get_json("/v1/pools")?, render, out)
    }
}

fn render_pools(document: &Value) -> String {
    let headings = ["POOL", "RANGE", "SPACE", "LEASES", "FREE", "COOLING", "NETWORK"];
    let row = |pool: &Value| {
        [
            cell(&pool["pool"]),
            cell(&pool["range"]),
            cell(&pool["address_space"]),
            items(&pool["leases"]).len().to_string(),
            cell(&pool["free"]),
            cell(&pool["cooling"]),
            name_or_id(&pool["network_name"], &pool["network_id"]),
        ]
    };
    table(headings, items(document).iter().map(row))
}

fn render_leases(document: &Value) -> String {
    let rows = items(document).iter().flat_map(|pool| {
        items(&pool["leases"]).iter().map(|lease| {
            [
                cell(&pool["pool"]),
                cell(&lease["address"]),
                cell(&lease["use"]),
                cell(&lease["name"]),
                cell(&lease["container_name"]),
                name_or_id(&pool["network_name"], &pool["network_id"]),
            ]
        })
    });
    table(["POOL", "ADDRESS", "USE", "NAME", "CONTAINER", "NETWORK"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!([
            {"pool": "10.208.0.0/24", "pool_id": "local/10.208.0.0/24", "address_space": "local", "range": null,
             "leases": [{"address": "10.208.0.1", "use": "gateway", "name": null},
                        {"address": "10.208.0.9", "use": "aux", "name": "router"},
                        {"address": "10.208.0.2", "use": "endpoint", "name": null, "container_name": "web"}],
             "free": 252, "cooling": 1, "network_id": "0123456789abcdef", "network_name": "demo"},
            {"pool": "fd00::/64", "pool_id": "x", "address_space": "local", "range": "fd00::100/120", "leases": [],
             "free": 18446744073709551615u64, "cooling": 0, "network_id": "fedcba9876543210", "network_name": null},
        ])
    }

    #[test]
    fn pools_show_how_full_they_are() {
        let expected = "\
POOL            RANGE           SPACE   LEASES   FREE                   COOLING   NETWORK
10.208.0.0/24   -               local   3        252                    1         demo
fd00::/64       fd00::100/120   local   0        18446744073709551615   0         fedcba987654
";
        assert_eq!(render_pools(&document()), expected);
    }

    #[test]
    fn leases_show_one_address_a_line() {
        let expected = "\
POOL            ADDRESS      USE        NAME     CONTAINER   NETWORK
10.208.0.0/24   10.208.0.1   gateway    -        -           demo
10.208.0.0/24   10.208.0.9   aux        router   -           demo
10.208.0.0/24   10.208.0.2   endpoint   -        web         demo
";
        assert_eq!(render_leases(&document()), expected);
    }
}
