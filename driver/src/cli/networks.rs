//! `tombolo networks`: the networks, the links that their containers are on, and whether the kernel is as it should be.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::failure::Failure;
use super::output::{Output, cell, items, short, table};

const HELP: &str = "\
Examples:
  tombolo networks
  tombolo networks --output json | jq '.[] | select(.settled | not)'

LINK is the network's bridge, or the parent that its containers' links are on.

STATE is `settled` where the kernel is as the network wants it, and otherwise says what is in the way. Of a network that is the \
same on all hosts of the cluster it also says where it isn't: `kept` where containers use it although it was removed on another \
host, `old` where they use it although another one was made in its place, `refused` where it could not be made (see `tombolo \
status`), `coming` where it is about to be. One that is not here, but is on others or is to come, has no identifier.";

/// The flags of `tombolo networks`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    #[command(flatten)]
    output: Output,
}

impl Flags {
    /// Lists the networks.
    pub fn run(&self, client: &Client, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.output.show(&client.get_json("/v1/networks")?, render, out)
    }
}

fn render(document: &Value) -> String {
    let headings = [
        "NETWORK ID",
        "NAME",
        "KIND",
        "LINK",
        "IPV4",
        "IPV6",
        "MTU",
        "ENDPOINTS",
        "STATE",
    ];
    let row = |network: &Value| {
        [
            short(&network["network_id"]),
            cell(&network["name"]),
            cell(&network["kind"]),
            match &network["bridge"] {
                Value::Null => cell(&network["parent"]),
                bridge => cell(bridge),
            },
            cell(&network["ipv4"]["pool"]),
            cell(&network["ipv6"]["pool"]),
            cell(&network["mtu"]),
            cell(&network["endpoints"]),
            state(network),
        ]
    };
    table(headings, items(document).iter().map(row))
}

fn state(network: &Value) -> String {
    let replica = replica(&network["replica"]);
    match network["network_id"].is_null() {
        true => format!("not here{replica}"),
        false => own_state(network) + &replica,
    }
}

/// Where a network of all hosts isn't as it is on the others.
fn replica(replica: &Value) -> String {
    let hosts = replica["hosts"].as_object().into_iter().flatten();
    let told = hosts.filter_map(|(host, standing)| {
        let state = standing["state"].as_str()?;
        matches!(state, "kept" | "old" | "refused" | "coming").then(|| format!(", {state} on {host}"))
    });
    told.collect()
}

fn own_state(network: &Value) -> String {
    let settled = match (network["settled"].as_bool(), &network["problem"]) {
        (Some(true), Value::Null) => "settled".to_owned(),
        (_, Value::Null) => "not settled yet".to_owned(),
        (_, problem) => format!("not settled: {}", cell(problem)),
    };
    if network["internal"] == true {
        format!("internal, {settled}")
    } else {
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn networks_come_one_a_line_with_short_ids() {
        let document = json!([
            {"network_id": "0123456789abcdef0123", "name": "demo", "kind": "bridge", "bridge": "tb-0123456789ab",
             "internal": false, "ipv4": {"pool": "10.208.0.0/24", "gateway": "10.208.0.1"}, "ipv6": null, "mtu": 1400,
             "endpoints": 2, "settled": true, "problem": null},
            {"network_id": "fff", "name": null, "kind": "bridge", "bridge": "br0", "internal": true, "ipv4": null,
             "ipv6": {"pool": "fd00::/64", "gateway": null}, "mtu": null, "endpoints": 0, "settled": false,
             "problem": "ip link add br0: exists"},
        ]);
        let expected = "\
NETWORK ID     NAME   KIND     LINK              IPV4            IPV6        MTU    ENDPOINTS   STATE
0123456789ab   demo   bridge   tb-0123456789ab   10.208.0.0/24   -           1400   2           settled
fff            -      bridge   br0               -               fd00::/64   -      0           internal, not settled: ip link add br0: exists
";
        assert_eq!(render(&document), expected);
    }

    #[test]
    fn networks_of_all_hosts_say_where_they_are_not_as_elsewhere() {
        let hosts = json!({"a": {"state": "here"}, "b": {"state": "kept"}, "c": {"state": "gone"},
            "d": {"state": "refused", "why": "taken"}});
        let document = json!([
            {"network_id": "aaa", "name": "app", "kind": "overlay", "settled": true, "replica": {"hosts": hosts}},
            {"network_id": null, "name": "back", "kind": "overlay", "ipv4": {"pool": "10.42.0.0/16"},
             "replica": {"hosts": {"a": {"state": "refused", "why": "taken"}}}},
        ]);
        let shown = render(&document);
        let states: Vec<&str> = shown
            .lines()
            .skip(1)
            .filter_map(|line| line.split("  ").last())
            .collect();
        assert_eq!(
            states.iter().map(|state| state.trim()).collect::<Vec<_>>(),
            ["settled, kept on b, refused on d", "not here, refused on a"]
        );
    }

    #[test]
    fn a_document_of_another_version_is_shown_as_far_as_it_goes() {
        let shown = render(&json!([{"network_id": "abc", "ipv4": "10.0.0.0/24", "new": [1, 2]}]));
        assert!(
            shown.lines().nth(1).is_some_and(|line| line.starts_with("abc ")),
            "{shown}"
        );
        assert_eq!(render(&json!({"unexpected": true})).lines().count(), 1);
    }
}
