//! `tombolo endpoints`: who has which address, and which ports are published for it.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::failure::Failure;
use super::output::{Output, cell, items, name_or_id, short, socket, table};

const HELP: &str = "\
Examples:
  tombolo endpoints
  tombolo endpoints --output json | jq -r '.[] | select(.joined) | [.container_name, .ipv4] | @tsv'

ATTACH is how the container came by its link: classic, moved there by the engine, or inside, made within its sandbox.
PORTS are those that reach the container from outside, as HOST ADDRESS:PORT->CONTAINER PORT/PROTOCOL.";

/// The flags of `tombolo endpoints`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    #[command(flatten)]
    output: Output,
}

impl Flags {
    /// Lists the endpoints.
    pub fn run(&self, client: &Client, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.output.show(&client.get_json("/v1/endpoints")?, render, out)
    }
}

fn render(document: &Value) -> String {
    let headings = [
        "ENDPOINT ID",
        "NETWORK",
        "CONTAINER",
        "IPV4",
        "IPV6",
        "MAC",
        "JOINED",
        "ATTACH",
        "HOST LINK",
        "PORTS",
    ];
    let row = |endpoint: &Value| {
        [
            short(&endpoint["endpoint_id"]),
            name_or_id(&endpoint["network_name"], &endpoint["network_id"]),
            cell(&endpoint["container_name"]),
            cell(&endpoint["ipv4"]),
            cell(&endpoint["ipv6"]),
            cell(&endpoint["mac"]),
            cell(&endpoint["joined"]),
            cell(&endpoint["attach"]),
            cell(&endpoint["host_link"]),
            ports(&endpoint["published"]),
        ]
    };
    table(headings, items(document).iter().map(row))
}

fn ports(published: &Value) -> String {
    let one = |port: &Value| {
        format!(
            "{}->{}/{}",
            socket(&port["host_ip"], &port["host_port"]),
            cell(&port["port"]),
            cell(&port["proto"])
        )
    };
    match items(published) {
        [] => "-".to_owned(),
        all => all.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_show_names_where_known_and_ports_as_docker_does() {
        let document = json!([
            {"network_id": "aaaaaaaaaaaaaaaa", "endpoint_id": "bbbbbbbbbbbbbbbb", "kind": "bridge",
             "ipv4": "10.208.0.2/24", "ipv6": null, "mac": "02:7b:0a:d0:00:02", "joined": true,
             "host_link": "tbhbbbbbbbbbbbb", "sandbox": "/x", "attach": "inside", "network_name": "demo", "container_name": "web",
             "published": [{"proto": "tcp", "host_ip": "0.0.0.0", "host_port": 8001, "port": 80},
                           {"proto": "udp", "host_ip": "::", "host_port": 53, "port": 53}]},
            {"network_id": "aaaaaaaaaaaaaaaa", "endpoint_id": "c", "kind": "bridge", "ipv4": null, "ipv6": "fd00::2/64",
             "mac": "02:7b:00:00:00:01", "joined": false, "host_link": "tbhc", "sandbox": null, "published": [],
             "network_name": null, "container_name": null},
        ]);
        let shown = render(&document);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3);
        let words = |line: &str| {
            line.split("   ")
                .map(str::trim)
                .filter(|w| !w.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let first: Vec<String> = words(lines[1]);
        assert_eq!(
            first,
            [
                "bbbbbbbbbbbb",
                "demo",
                "web",
                "10.208.0.2/24",
                "-",
                "02:7b:0a:d0:00:02",
                "yes",
                "inside",
                "tbhbbbbbbbbbbbb",
                "0.0.0.0:8001->80/tcp, [::]:53->53/udp"
            ]
        );
        let second: Vec<String> = words(lines[2]);
        assert_eq!(second[1], "aaaaaaaaaaaa");
        assert_eq!(second[9], "-");
    }
}
