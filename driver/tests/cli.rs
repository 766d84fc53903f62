//! The built binary's command line from outside: exit codes, messages and output, against a daemon of our own making.

// A test's helpers are tests too, though clippy's own exception covers the test functions only.
#![allow(clippy::unwrap_used)]

mod cli_common;

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use cli_common::{Daemon, command, err, out, tombolo};
use serde_json::{Value, json};

#[test]
fn each_list_asks_for_its_document_and_prints_it_as_it_is() {
    let document = json!([{"network_id": "n", "z": 1, "a": [{"b": null}], "big": 18446744073709551615u64}]);
    let daemon = Daemon::answering("200 OK", document.to_string());
    for (list, path) in [
        ("networks", "/v1/networks"),
        ("endpoints", "/v1/endpoints"),
        ("ports", "/v1/ports"),
        ("pools", "/v1/pools"),
        ("status", "/v1/status"),
    ] {
        let output = daemon.ask(&[list, "--output", "json"]);
        assert!(output.status.success(), "{list}: {}", err(&output));
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed, document, "{list}");
        assert_eq!(daemon.request(), format!("GET {path} HTTP/1.1 "));
    }
}

#[test]
fn a_list_is_a_table_unless_json_is_asked_for() {
    let daemon = Daemon::answering(
        "200 OK",
        r#"[{"network_id": "0123456789abcdef", "kind": "bridge"}]"#,
    );
    let output = daemon.ask(&["networks"]);
    assert!(out(&output).starts_with("NETWORK ID "), "{}", out(&output));
    assert!(out(&output).contains("\n0123456789ab "), "{}", out(&output));
}

#[test]
fn no_socket_means_not_running_and_says_how_to_start() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let output = tombolo(&socket, &["status"]);
    assert_eq!(output.status.code(), Some(3));
    for part in [
        "not running",
        socket.to_str().unwrap(),
        "systemctl start tombolo",
        "tombolo serve",
    ] {
        assert!(err(&output).contains(part), "{} lacks {part}", err(&output));
    }
    assert_eq!(out(&output), "");
}

#[test]
fn a_socket_that_nobody_listens_on_means_not_running() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    assert_eq!(tombolo(&socket, &["networks"]).status.code(), Some(3));
}

#[test]
fn a_daemon_that_says_no_is_quoted() {
    let daemon = Daemon::answering("409 Conflict", r#"{"error": "the store is busy"}"#);
    let output = daemon.ask(&["pools"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(err(&output), "tombolo: the store is busy\n");
}

#[test]
fn a_no_without_words_shows_what_came() {
    let daemon = Daemon::answering("500 Internal Server Error", "oh dear");
    let output = daemon.ask(&["pools"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("500 Internal Server Error: oh dear"),
        "{}",
        err(&output)
    );
}

#[test]
fn an_answer_that_is_no_json_is_a_failure_and_not_an_empty_list() {
    let daemon = Daemon::answering("200 OK", "<html>");
    let output = daemon.ask(&["endpoints"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("the daemon's answer to /v1/endpoints is no JSON: expected value"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_daemon_that_never_answers_is_given_up_after_five_seconds() {
    let daemon = Daemon::answering("", "");
    let output = daemon.ask(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("did not answer on"), "{}", err(&output));
    assert!(err(&output).contains("within 5 s"), "{}", err(&output));
}

#[test]
fn the_flag_for_the_socket_works_before_and_after_the_command() {
    let daemon = Daemon::answering("200 OK", "[]");
    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    for args in [
        ["--control-socket", socket, "networks"],
        ["networks", "--control-socket", socket],
    ] {
        let output = command(&args).output().unwrap();
        assert!(output.status.success(), "{}", err(&output));
    }
}

#[test]
fn faulty_settings_end_with_code_2_and_are_all_told() {
    for args in [["status"].as_slice(), &["serve", "--log-format", "xml"]] {
        let mut command = command(args);
        command
            .env("TOMBOLO_CONTROL_SOCKET", "relative.sock")
            .env("TOMBOLO_STATE_DIR", "state");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        for part in [
            "environment TOMBOLO_CONTROL_SOCKET",
            "'relative.sock'",
            "environment TOMBOLO_STATE_DIR",
        ] {
            assert!(
                err(&output).contains(part),
                "{args:?}: {} lacks {part}",
                err(&output)
            );
        }
    }
}

#[test]
fn wrong_usage_ends_with_code_2() {
    assert_eq!(command(&["netwroks"]).output().unwrap().status.code(), Some(2));
    assert_eq!(
        command(&["networks", "--output", "yaml"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn version_needs_neither_daemon_nor_good_settings() {
    let mut command = command(&["version", "--output", "json"]);
    let output = command.env("TOMBOLO_STATE_DIR", "relative").output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert!(document["schema"].is_u64(), "{document}");
}

#[test]
fn completions_come_for_each_shell_and_name_our_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = command(&["completions", shell]).output().unwrap();
        assert!(output.status.success(), "{shell}");
        for word in ["endpoints", "control-socket"] {
            assert!(out(&output).contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn an_exported_state_is_byte_for_byte_what_the_daemon_sent_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let state = "{\"schema\": 1,  \"odd\": 1.10}";
    let daemon = Daemon::answering("200 OK", state);
    let file = daemon.directory.path().join("state.json");
    std::fs::write(&file, "an older one").unwrap();
    let output = daemon.ask(&["state", "export", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(daemon.request(), "GET /v1/state HTTP/1.1 ");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), state);
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let left: Vec<_> = std::fs::read_dir(daemon.directory.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "only the socket and the file: {left:?}");
    assert_eq!(out(&daemon.ask(&["state", "export"])), format!("{state}\n"));
}

#[test]
fn a_failed_export_leaves_the_old_file_alone() {
    let daemon = Daemon::answering("503 Service Unavailable", r#"{"error": "starting"}"#);
    let file = daemon.directory.path().join("state.json");
    std::fs::write(&file, "an older one").unwrap();
    assert_eq!(
        daemon
            .ask(&["state", "export", file.to_str().unwrap()])
            .status
            .code(),
        Some(1)
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "an older one");
    let nowhere = daemon.ask(&["state", "export", "/nowhere/state.json"]);
    assert_eq!(nowhere.status.code(), Some(1));
}

#[test]
fn a_state_is_imported_from_a_file_as_it_is() {
    let daemon = Daemon::answering("200 OK", "{}");
    let file = daemon.directory.path().join("state.json");
    std::fs::write(&file, "{\"schema\": 1}").unwrap();
    let output = daemon.ask(&["state", "import", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(daemon.request(), "PUT /v1/state HTTP/1.1 {\"schema\": 1}");
}

#[test]
fn a_file_that_is_no_json_is_not_even_sent() {
    let daemon = Daemon::answering("200 OK", "{}");
    let file = daemon.directory.path().join("state.json");
    std::fs::write(&file, "{\"schema\": ").unwrap();
    let output = daemon.ask(&["state", "import", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("is no saved state: it is not JSON: EOF"),
        "{}",
        err(&output)
    );
    assert!(daemon.requests.try_recv().is_err());
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let networks: Vec<Value> = (0..5_000)
        .map(|n| json!({"network_id": format!("{n:064x}")}))
        .collect();
    let daemon = Daemon::answering("200 OK", Value::from(networks).to_string());
    let mut child = command(&["networks", "--output", "json"])
        .env("TOMBOLO_CONTROL_SOCKET", daemon.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 16];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert!(child.wait().unwrap().success());
}
