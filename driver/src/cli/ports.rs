//! `tombolo ports`: which port of this host leads to which container. `docker ps` can't show them: Docker gives a network
//! plug-in no way to tell it.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::failure::Failure;
use super::names::{is_called, known};
use super::output::{Format, Output, cell, items, name_or_id, socket, table};

const HELP: &str = "\
Examples:
  tombolo ports
  tombolo ports --network demo --container web
  tombolo ports --output json | jq -r '.[] | select(.host_port == 8080) | .container_name'

HOST and CONTAINER PORT are written as ADDRESS:PORT; 0.0.0.0 and [::] are all of this host's addresses.";

/// The flags of `tombolo ports`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    #[command(flatten)]
    output: Output,
    /// Only ports of this network: its name, or the start of its id
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Only ports of this container: its name, or the start of its endpoint's id
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
}

impl Flags {
    /// Lists the published ports.
    pub fn run(&self, client: &Client, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.must_know(client)?;
        let mut document = client.get_json("/v1/ports")?;
        if let Value::Array(ports) = &mut document {
            ports.retain(|port| self.wants(port));
        }
        self.output.show(&document, render, out)?;
        if self.output.output == Format::Table {
            let networks = client.get_json("/v1/networks")?;
            out.extend_from_slice(self.without(&networks).as_bytes());
        }
        Ok(())
    }

    /// What is to be known of networks that publish nothing.
    fn without(&self, networks: &Value) -> String {
        let on_wire = |network: &&Value| matches!(network["kind"].as_str(), Some("macvlan" | "ipvlan"));
        let wanted = |network: &&Value| {
            let wanted = self.network.as_deref();
            wanted.is_none_or(|wanted| is_called(wanted, network, ("name", "network_id")))
        };
        let networks = items(networks).iter().filter(on_wire).filter(wanted);
        let names: Vec<String> = networks
            .map(|network| name_or_id(&network["name"], &network["network_id"]))
            .collect();
        match names.as_slice() {
            [] => String::new(),
            names => format!(
                "\nOn {} ports are not published, with or without -p: containers are on the wire themselves, and each is reached \
                 at its own address ('tombolo endpoints'), at every port that it listens on.\n",
                names.join(", ")
            ),
        }
    }

    /// Refuses names that nothing has: an empty table would look like an answer.
    fn must_know(&self, client: &Client) -> Result<(), Failure> {
        if let Some(wanted) = &self.network {
            let keys = ("name", "network_id");
            known(
                "network of tombolo's",
                wanted,
                keys,
                &client.get_json("/v1/networks")?,
            )?;
        }
        if let Some(wanted) = &self.container {
            let keys = ("container_name", "endpoint_id");
            known(
                "container on a network of tombolo's",
                wanted,
                keys,
                &client.get_json("/v1/endpoints")?,
            )?;
        }
        Ok(())
    }

    fn wants(&self, port: &Value) -> bool {
        let is = |wanted: &Option<String>, name: &str, id: &str| {
            wanted
                .as_deref()
                .is_none_or(|wanted| is_called(wanted, port, (name, id)))
        };
        is(&self.network, "network_name", "network_id")
            && is(&self.container, "container_name", "endpoint_id")
    }
}

fn render(document: &Value) -> String {
    let row = |port: &Value| {
        [
            socket(&port["host_ip"], &port["host_port"]),
            cell(&port["proto"]),
            name_or_id(&port["container_name"], &port["endpoint_id"]),
            socket(&port["container_ip"], &port["port"]),
            name_or_id(&port["network_name"], &port["network_id"]),
        ]
    };
    let headings = ["HOST", "PROTOCOL", "CONTAINER", "CONTAINER PORT", "NETWORK"];
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
            {"host_ip": "0.0.0.0", "host_port": 8080, "proto": "tcp", "container_ip": "10.208.0.2", "port": 80,
             "container_name": "web", "network_name": "demo", "endpoint_id": "bbbbbbbbbbbbbbbb", "network_id": "aaaa"},
            {"host_ip": "2001:db8::2", "host_port": 8080, "proto": "udp", "container_ip": "fd00::2", "port": 53,
             "container_name": null, "network_name": null, "endpoint_id": "cccccccccccccccc",
             "network_id": "dddddddddddddddd"},
        ])
    }

    #[test]
    fn ports_show_both_ends_and_names_where_known() {
        let expected = "\
HOST                 PROTOCOL   CONTAINER      CONTAINER PORT   NETWORK
0.0.0.0:8080         tcp        web            10.208.0.2:80    demo
[2001:db8::2]:8080   udp        cccccccccccc   [fd00::2]:53     dddddddddddd
";
        assert_eq!(render(&document()), expected);
    }

    #[test]
    fn filters_take_names_and_the_start_of_ids_and_nothing_less() {
        let count = |args: &[&str]| {
            let flags = Cli::parse_from([&["ports"], args].concat()).flags;
            items(&document()).iter().filter(|port| flags.wants(port)).count()
        };
        assert_eq!(count(&[]), 2);
        assert_eq!(count(&["--network", "demo"]), 1);
        assert_eq!(count(&["--network", "dem"]), 0);
        assert_eq!(count(&["--network", "dddd"]), 1);
        assert_eq!(count(&["--container", "web", "--network", "demo"]), 1);
        assert_eq!(count(&["--container", "web", "--network", "dddd"]), 0);
        assert_eq!(count(&["--container", ""]), 0);
    }
}
