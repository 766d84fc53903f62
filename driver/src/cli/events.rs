//! `tombolo events`: what happens, as it happens.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use clap::Args;
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

use super::client::Client;
use super::failure::Failure;
use super::output::{Format, Output, cell, name_or_id, socket};

const HELP: &str = "\
Examples:
  tombolo events
  tombolo events --output json | jq 'select(.type == \"fact\")'

It goes on until interrupted (exit code 0), or until the daemon ends (exit code 3).

With --output json each line is an object with `time` (UTC), `type`, `action`, and what goes with them:
  type      action                                 with
  network   created removed named                  network
  endpoint  created joined left removed named      network, endpoint, ipv4, ipv6
  port      published unpublished                  network, endpoint, proto, host_ip, host_port, container_ip, port
  address   conflict unasked                       address, parent, because: on a wire, given to nobody, or all the same
  address   changed lost unanswered                address, parent, because: of a lease of a wire's own DHCP server
  fact      repaired                               fact, step, because; network, endpoint
  problem   appeared changed solved                about, problem; network, endpoint
  docker    reachable unreachable                  version or error
  record    freed                                  record, id; network, endpoint
  records   imported
  host      up down joined left forgotten cloned   host, name, detail: of a host of the cluster
  host      standing set-back torn                 host, name, detail: of this host in it
  replica   made removed                           network_name, host_name: of all hosts, made or removed here as elsewhere
  replica   kept old refused settled               network_name, host_name, detail: how it stands on that host
  daemon    following ending                       version
  events    missed                                 count: how many this reader was too slow for
`network` is network_id and network_name, `endpoint` is endpoint_id and container_name. What is not known is left out:
Docker tells names a moment later, and `named` says so. Keys stay; more may come.";

/// The flags of `tombolo events`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    #[command(flatten)]
    output: Output,
}

impl Flags {
    /// Prints events until interrupted.
    pub fn run(&self, client: &Client) -> Result<(), Failure> {
        client.follow("/v1/events", enough(), |line| match self.line(line) {
            Some(line) => print(&line),
            None => Ok(ControlFlow::Continue(())),
        })
    }

    /// A line as it is printed. An empty one only shows that the daemon is there.
    fn line(&self, line: &[u8]) -> Option<String> {
        if line.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(line).into_owned();
        match (self.output.output, serde_json::from_str(&text)) {
            (Format::Table, Ok(event)) => Some(render(&event)),
            _ => Some(text),
        }
    }
}

fn print(line: &str) -> Result<ControlFlow<()>, Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(source) => Err(Failure::File {
            doing: "writing",
            path: "standard output".into(),
            source,
        }),
    }
}

/// Ready when the user has seen enough: an interrupt, or a pipe whose reader has gone.
async fn enough() {
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => if interrupted.is_err() {
            // Then an interrupt ends this process as it ends any other.
            std::future::pending::<()>().await;
        },
        () = reader_gone() => {}
    }
}

async fn reader_gone() {
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    // It is only watched, never written to, so whether it is a pipe, and one that blocks, makes no difference.
    if !io::stdout().is_terminal()
        && let Ok(pipe) = stdout.and_then(Sender::from_file_unchecked)
        && pipe.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    // A file can't be watched and has no reader; a terminal that goes sends a signal.
    std::future::pending().await
}

fn render(event: &Value) -> String {
    let what = format!("{} {}", cell(&event["type"]), cell(&event["action"]));
    let text = format!("{}  {what:<20} {}", cell(&event["time"]), details(event));
    text.trim_end().to_owned()
}

/// More about it, if there is more.
fn detail(event: &Value) -> String {
    match &event["detail"] {
        Value::Null => String::new(),
        detail => format!(": {}", cell(detail)),
    }
}

fn details(event: &Value) -> String {
    match event["type"].as_str() {
        Some("network") => network(event),
        Some("endpoint") => {
            let addresses = [&event["ipv4"], &event["ipv6"]].into_iter();
            let addresses = addresses
                .filter(|a| !a.is_null())
                .map(|a| format!(", {}", cell(a)));
            whose(event) + &addresses.collect::<String>()
        }
        Some("port") => format!(
            "{}->{}/{} of {}",
            socket(&event["host_ip"], &event["host_port"]),
            cell(&event["port"]),
            cell(&event["proto"]),
            whose(event)
        ),
        Some("fact") => {
            let because = cell(&event["because"]);
            format!("{}{} ({because})", cell(&event["step"]), of(event))
        }
        Some("address") => format!(
            "{} on {}: {}",
            cell(&event["address"]),
            cell(&event["parent"]),
            cell(&event["because"])
        ),
        Some("host") => name_or_id(&event["name"], &event["host"]) + &detail(event),
        Some("replica") => {
            let (network, host) = (cell(&event["network_name"]), cell(&event["host_name"]));
            format!("network {network} on {host}{}", detail(event))
        }
        Some("problem") => format!(
            "{}{}: {}",
            cell(&event["about"]),
            of(event),
            cell(&event["problem"])
        ),
        Some("docker") if event["error"].is_null() => format!("version {}", cell(&event["version"])),
        Some("docker") => cell(&event["error"]),
        Some("record") => format!(
            "{} {}{}, which Docker has forgotten",
            cell(&event["record"]),
            cell(&event["id"]),
            of(event)
        ),
        Some("daemon") => format!("tombolo {}", cell(&event["version"])),
        Some("events") => format!(
            "{} events, because this reader was too slow",
            cell(&event["count"])
        ),
        _ => String::new(),
    }
}

fn network(event: &Value) -> String {
    name_or_id(&event["network_name"], &event["network_id"])
}

/// An endpoint: its container on its network.
fn whose(event: &Value) -> String {
    let container = name_or_id(&event["container_name"], &event["endpoint_id"]);
    format!("{container} on {}", network(event))
}

/// ` of …`, where something is somebody's.
fn of(event: &Value) -> String {
    match (&event["endpoint_id"], &event["network_id"]) {
        (Value::Null, Value::Null) => String::new(),
        (Value::Null, _) => format!(" of {}", network(event)),
        _ => format!(" of {}", whose(event)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_a_line_for_a_person() {
        let web = json!({"network_id": "aaaaaaaaaaaaaaaa", "network_name": "demo", "endpoint_id": "bbbbbbbbbbbbbbbb",
            "container_name": "web"});
        let cases = [
            (
                json!({"type": "endpoint", "action": "joined", "ipv4": "10.208.0.2", "ipv6": "fd00::2"}),
                "endpoint joined      web on demo, 10.208.0.2, fd00::2",
            ),
            (
                json!({"type": "port", "action": "published", "proto": "tcp", "host_ip": "::", "host_port": 8080, "port": 80}),
                "port published       [::]:8080->80/tcp of web on demo",
            ),
            (
                json!({"type": "fact", "action": "repaired", "step": "ip link set x up", "because": "tick"}),
                "fact repaired        ip link set x up of web on demo (tick)",
            ),
            (
                json!({"type": "address", "action": "conflict", "address": "192.0.2.7", "parent": "eth0", "because": "X has it"}),
                "address conflict     192.0.2.7 on eth0: X has it",
            ),
            (
                json!({"type": "problem", "action": "appeared", "about": "kernel", "problem": "no\nway"}),
                "problem appeared     kernel of web on demo: no way",
            ),
        ];
        let cases = cases.into_iter().chain([
            (
                json!({"type": "host", "action": "cloned", "name": "b", "host": "b0", "detail": "at x and y"}),
                "host cloned          b: at x and y",
            ),
            (
                json!({"type": "replica", "action": "kept", "network_name": "demo", "host_name": "b"}),
                "replica kept         network demo on b",
            ),
        ]);
        for (mut event, expected) in cases {
            event["time"] = json!("T");
            event
                .as_object_mut()
                .unwrap()
                .extend(web.as_object().unwrap().clone());
            assert_eq!(render(&event), format!("T  {expected}"));
        }
    }

    #[test]
    fn names_that_are_not_known_are_short_ids_and_nobodys_fact_is_nobodys() {
        let removed =
            json!({"time": "T", "type": "network", "action": "removed", "network_id": "aaaaaaaaaaaaaaaa"});
        assert_eq!(render(&removed), "T  network removed      aaaaaaaaaaaa");
        let table = json!({"time": "T", "type": "fact", "action": "repaired", "step": "nft -f x", "because": "start"});
        assert_eq!(render(&table), "T  fact repaired        nft -f x (start)");
        let unknown = json!({"time": "T", "type": "comet", "action": "seen"});
        assert_eq!(render(&unknown), "T  comet seen");
    }
}
