//! `tombolo status`: is the daemon well, what does it look after, and where do its settings come from?

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::failure::Failure;
use super::output::{Output, cell, duration, items, table};

const HELP: &str = "\
Examples:
  tombolo status
  tombolo status --output json | jq .problems

REPAIRS counts what had to be put back because somebody else changed it. The exit code is 3 where no daemon runs, and \
0 where one answers, whatever it has to say.";

/// The flags of `tombolo status`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    #[command(flatten)]
    output: Output,
}

impl Flags {
    /// Shows how the daemon is.
    pub fn run(&self, client: &Client, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.output.show(&client.get_json("/v1/status")?, render, out)
    }
}

fn render(status: &Value) -> String {
    let mut text = format!(
        "tombolo {}, process {}, running for {}\n\n",
        cell(&status["version"]),
        cell(&status["pid"]),
        status["uptime_s"]
            .as_f64()
            .map_or_else(|| "-".to_owned(), duration)
    );
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<11}{value}\n"));
    for (name, key) in [
        ("Networks", "networks"),
        ("Endpoints", "endpoints"),
        ("Pools", "pools"),
        ("Leases", "leases"),
        ("Facts", "facts"),
    ] {
        line(name, cell(&status[key]));
    }
    line("Repairs", repairs(&status["repairs"]));
    line("Docker", docker(&status["docker"]));
    if !status["recovered"].is_null() {
        line("Recovered", cell(&status["recovered"]));
    }
    line("Problems", problems(items(&status["problems"])));
    for ignored in items(&status["ignored"]) {
        line("Ignored", cell(ignored));
    }
    let settings = items(&status["settings"]).iter();
    let rows = settings.map(|setting| {
        [
            cell(&setting["name"]),
            cell(&setting["value"]),
            cell(&setting["origin"]),
        ]
    });
    format!("{text}\n{}", table(["SETTING", "VALUE", "FROM"], rows))
}

fn repairs(repairs: &Value) -> String {
    let counts: Vec<String> = match repairs {
        Value::Object(map) => map
            .iter()
            .filter(|(_, count)| **count != 0)
            .map(|(sort, count)| format!("{} {sort}", cell(count)))
            .collect(),
        Value::Null => Vec::new(),
        other => vec![cell(other)],
    };
    if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    }
}

fn docker(docker: &Value) -> String {
    let looked = match docker["last_look_s"].as_f64() {
        Some(seconds) => format!("last looked at {} ago", duration(seconds)),
        None => "not looked at yet".to_owned(),
    };
    match (docker["reachable"].as_bool(), &docker["error"]) {
        (Some(true), _) => format!("version {}, {looked}", cell(&docker["version"])),
        (_, Value::Null) => format!("not reached, {looked}"),
        (_, error) => format!("not reached, {looked}: {}", cell(error)),
    }
}

fn problems(problems: &[Value]) -> String {
    match problems {
        [] => "none".to_owned(),
        some => some
            .iter()
            .map(|problem| format!("\n  - {}", one_problem(problem)))
            .collect(),
    }
}

fn one_problem(problem: &Value) -> String {
    if !problem.is_object() {
        return cell(problem);
    }
    let whose: Vec<String> = [("network", "network_name"), ("container", "container_name")]
        .into_iter()
        .filter(|(_, key)| !problem[key].is_null())
        .map(|(what, key)| format!("{what} {}", cell(&problem[key])))
        .collect();
    let whose = if whose.is_empty() {
        String::new()
    } else {
        format!(" ({})", whose.join(", "))
    };
    let about = if problem["step"].is_null() {
        "about"
    } else {
        "step"
    };
    format!("{}{whose}: {}", cell(&problem[about]), cell(&problem["problem"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_well_daemon_is_shown_with_its_settings() {
        let status = json!({
            "version": "0.1.0", "pid": 42, "uptime_s": 90061.5, "networks": 2, "endpoints": 3, "pools": 2, "leases": 5,
            "facts": 31, "repairs": {"link": 0, "address": 2}, "problems": [], "recovered": null,
            "docker": {"reachable": true, "version": "20.10.24", "last_look_s": 61.2, "error": null},
            "settings": [{"name": "log", "value": "info", "origin": "default"}],
        });
        let expected = "\
tombolo 0.1.0, process 42, running for 1 d 1 h

Networks   2
Endpoints  3
Pools      2
Leases     5
Facts      31
Repairs    2 address
Docker     version 20.10.24, last looked at 1 min 1 s ago
Problems   none

SETTING   VALUE   FROM
log       info    default
";
        assert_eq!(render(&status), expected);
    }

    #[test]
    fn troubles_are_listed_one_a_line() {
        let status = json!({
            "problems": [
                {"about": "kernel", "problem": "disk\nfull", "step": null, "network_name": null, "container_name": null},
                {"about": "Port(x)", "problem": "no", "step": "ip link set x master y up", "network_name": "demo",
                 "container_name": "web"},
            ], "ignored": ["the variable X is no setting"], "recovered": "the snapshot was damaged",
            "docker": {"reachable": false, "version": null, "last_look_s": null, "error": "connection refused"},
        });
        let shown = render(&status);
        assert!(
            shown.contains(
                "Problems   \n  - kernel: disk full\n  - ip link set x master y up (network demo, container web): no\n"
            ),
            "{shown}"
        );
        assert!(shown.contains("Recovered  the snapshot was damaged\n"), "{shown}");
        assert!(
            shown.contains("Docker     not reached, not looked at yet: connection refused\n"),
            "{shown}"
        );
        assert!(shown.contains("Repairs    none\n"), "{shown}");
        assert!(
            shown.contains("Ignored    the variable X is no setting\n"),
            "{shown}"
        );
    }
}
