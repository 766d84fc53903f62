//! `tombolo cluster`, `tombolo peers` and `tombolo pools --shares` from outside: what is asked of the daemon, what is
//! printed where, and what is never printed.

// A test's helpers are tests too, though clippy's own exception covers the test functions only.
#![allow(clippy::unwrap_used)]

mod cli_common;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use cli_common::{Daemon, command, err, out};
use serde_json::{Value, json};

const TOKEN: &str = "tombolo-join-1.c2VjcmV0_-";
/// What of a token is nowhere to be seen.
const SECRET: &str = "c2VjcmV0";
const INVITATION: &str =
    r#"{"address": "192.0.2.1:7947", "token": "tombolo-join-1.c2VjcmV0_-", "expires_s": 86400}"#;

/// Runs a command with something on its standard input.
fn piped(daemon: &Daemon, args: &[&str], input: &str) -> Output {
    let mut child = command(args)
        .env("TOMBOLO_CONTROL_SOCKET", daemon.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", err(output));
    out(output)
}

/// A wrong usage that nothing was asked for, and that gives no secret away.
fn refused(daemon: &Daemon, args: &[&str]) -> String {
    let output = daemon.ask(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
    assert_eq!(out(&output), "");
    assert!(!err(&output).contains(SECRET), "{args:?}: {}", err(&output));
    assert!(daemon.requests.try_recv().is_err(), "{args:?}");
    err(&output)
}

#[test]
fn init_prints_one_line_to_paste_and_says_elsewhere_how_long_it_is_good() {
    let daemon = Daemon::answering("200 OK", INVITATION);
    for (args, request) in [
        (
            ["cluster", "init"].as_slice(),
            "POST /v1/cluster/init HTTP/1.1 {}",
        ),
        (
            &["cluster", "token"],
            r#"POST /v1/cluster/token HTTP/1.1 {"ttl_s":86400}"#,
        ),
        (
            &["cluster", "token", "--valid", "90m"],
            r#"POST /v1/cluster/token HTTP/1.1 {"ttl_s":5400}"#,
        ),
    ] {
        let output = daemon.ask(args);
        assert_eq!(
            good(&output),
            format!("tombolo cluster join 192.0.2.1 --token {TOKEN}\n")
        );
        assert!(err(&output).contains("within 1 d"), "{}", err(&output));
        assert!(!err(&output).contains(SECRET), "{}", err(&output));
        assert_eq!(daemon.request(), request);
    }
}

#[test]
fn the_line_that_init_prints_is_one_that_join_takes() {
    for address in ["192.0.2.1:7947", "192.0.2.1:80", "[fd00::1]:7947", "[fd00::1]:80"] {
        let invitation = json!({"address": address, "token": TOKEN, "expires_s": 60}).to_string();
        let line = good(&Daemon::answering("200 OK", invitation).ask(&["cluster", "init"]));
        // As a shell would have it.
        let line = line.replace('\'', "");
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let daemon = Daemon::answering("200 OK", r#"{"hosts": 2, "name": "b"}"#);
        assert_eq!(
            good(&daemon.ask(&words)),
            "This host has joined as b; the cluster has 2 hosts now.\n"
        );
        assert_eq!(
            daemon.request(),
            format!(r#"POST /v1/cluster/join HTTP/1.1 {{"address":"{address}","token":"{TOKEN}"}}"#)
        );
    }
}

#[test]
fn each_command_prints_the_daemons_document_as_it_is_for_a_script() {
    let document = json!({"address": "192.0.2.1:7947", "z": [1, null], "big": 18446744073709551615u64});
    let daemon = Daemon::answering("200 OK", document.to_string());
    for (args, request) in [
        (["cluster", "init"].as_slice(), "POST /v1/cluster/init"),
        (&["cluster", "token"], "POST /v1/cluster/token"),
        (
            &["cluster", "join", "192.0.2.1", "--token", TOKEN],
            "POST /v1/cluster/join",
        ),
        (&["cluster", "status"], "GET /v1/cluster"),
        (&["cluster", "leave"], "POST /v1/cluster/leave"),
        (&["cluster", "forget", "c"], "POST /v1/cluster/forget"),
        (&["cluster", "rotate-key"], "POST /v1/cluster/rotate-key"),
        (&["pools", "--shares"], "GET /v1/cluster"),
        (&["peers"], "GET /v1/peers"),
    ] {
        let output = daemon.ask(&[args, &["--output", "json"]].concat());
        let printed: Value = serde_json::from_str(&good(&output)).unwrap();
        assert_eq!(printed, document, "{args:?}");
        assert_eq!(err(&output), "", "{args:?}");
        let came = daemon.request();
        assert!(came.starts_with(&format!("{request} HTTP/1.1 ")), "{came}");
    }
}

#[test]
fn a_daemon_that_sends_no_address_or_no_token_gives_no_line() {
    for (answer, key) in [
        (r#"{"token": "tombolo-join-1.a"}"#, "address"),
        (
            r#"{"address": "192.0.2.1:7947", "token": "tombolo-join-1.a;b"}"#,
            "token",
        ),
    ] {
        let output = Daemon::answering("200 OK", answer).ask(&["cluster", "init"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(out(&output), "");
        let said =
            format!("tombolo: the daemon's answer to /v1/cluster/init has no {key} that can be used\n");
        assert_eq!(err(&output), said);
    }
}

#[test]
fn a_token_may_come_from_a_file_or_from_standard_input() {
    let daemon = Daemon::answering("200 OK", r#"{"hosts": 2, "name": "b"}"#);
    let file = daemon.directory.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let file = file.to_str().unwrap();
    let join = |source| ["cluster", "join", "fd00::1", "--token-file", source];
    let outputs = [
        daemon.ask(&join(file)),
        piped(&daemon, &join("-"), &format!("  {TOKEN}\n\n")),
    ];
    for output in outputs {
        good(&output);
        assert_eq!(
            daemon.request(),
            format!(r#"POST /v1/cluster/join HTTP/1.1 {{"address":"[fd00::1]:7947","token":"{TOKEN}"}}"#)
        );
    }
}

#[test]
fn words_that_cannot_be_are_refused_before_anything_is_asked_and_no_token_is_repeated() {
    let daemon = Daemon::answering("200 OK", "{}");
    let equals = format!("--tokne={TOKEN}");
    let short = format!("-t{TOKEN}");
    for (args, said) in [
        (["join"].as_slice(), "--token <TOKEN>|--token-file <PATH>"),
        (&["join", "192.0.2.1"], "--token <TOKEN>|--token-file <PATH>"),
        (
            &["join", "192.0.2.1", "--token", TOKEN, "--token-file", "-"],
            "cannot be used with",
        ),
        (&["join", "192.0.2.1", TOKEN], "--token <TOKEN>"),
        (&["join", TOKEN], "--token <TOKEN>"),
        (
            &["join", TOKEN, "--token", TOKEN],
            "a join token stands where the host's address belongs",
        ),
        (
            &["join", "192.0.2.1", "--token", TOKEN, TOKEN],
            "more than ADDRESS came, 2 words",
        ),
        (&["join", "192.0.2.1", "--tokne", TOKEN], "'--tokne'"),
        (&["join", "192.0.2.1", &equals], "'--tokne'"),
        (&["join", "192.0.2.1", &short], "'-t'"),
        (
            &["join", "192.0.2.1", "--token", TOKEN, "--token", TOKEN],
            "multiple times",
        ),
        (
            &["join", "192.0.2.1", "--token", "c2VjcmV0"],
            "--token: the text is no join token: it doesn't begin",
        ),
        (
            &["join", "192.0.2.1", "--token", ""],
            "--token: the text is no join token: it is empty",
        ),
        (
            &["join", "web", "--token", TOKEN],
            "ADDRESS: 'web' is no IP address; ADDRESS[:PORT] of a host is allowed",
        ),
        (
            &["join", "192.0.2.1:0", "--token", TOKEN],
            "'192.0.2.1:0' has port 0",
        ),
        (&["token", "--valid", "24"], "s, m, h or d is allowed"),
        (&["token", "--valid", "0h"], "'0h'"),
        (&["forget"], "<HOST>"),
        (&["forget", ""], "HOST: '' names no host"),
    ] {
        let told = refused(&daemon, &[&["cluster"], args].concat());
        assert!(told.contains(said), "{args:?}: {told}");
    }
}

#[test]
fn a_file_that_holds_no_token_is_named_and_what_it_holds_is_not() {
    let daemon = Daemon::answering("200 OK", "{}");
    let file = daemon.directory.path().join("token");
    for (text, said) in [
        (format!("{TOKEN} {TOKEN}\n"), "has 2 words"),
        (
            format!("tombolo cluster join 192.0.2.1 --token {TOKEN}"),
            "has 6 words",
        ),
        ("root:c2VjcmV0:0".to_owned(), "doesn't begin with 'tombolo-join-'"),
    ] {
        std::fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap();
        let told = refused(&daemon, &["cluster", "join", "192.0.2.1", "--token-file", path]);
        assert!(told.contains(path) && told.contains(said), "{told}");
    }
    let none = daemon.ask(&["cluster", "join", "192.0.2.1", "--token-file", "/none"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(err(&none).contains("reading /none: "), "{}", err(&none));
}

#[test]
fn hosts_are_left_and_forgotten() {
    let daemon = Daemon::telling(|request| match request.contains("/v1/cluster/leave ") {
        true => ("200 OK", "{}".to_owned()),
        false => ("200 OK", r#"{"forgotten": ["c", "d"]}"#.to_owned()),
    });
    assert_eq!(
        good(&daemon.ask(&["cluster", "leave"])),
        "This host has left the cluster.\n"
    );
    assert_eq!(daemon.request(), "POST /v1/cluster/leave HTTP/1.1 {}");
    assert_eq!(
        good(&daemon.ask(&["cluster", "forget", "c", "d0"])),
        "Forgotten: c, d. Their addresses are given to others.\n"
    );
    assert_eq!(
        daemon.request(),
        r#"POST /v1/cluster/forget HTTP/1.1 {"hosts":["c","d0"]}"#
    );
    let busy = Daemon::answering("409 Conflict", r#"{"error": "c is alive: b heard it 0.4 s ago"}"#);
    let output = busy.ask(&["cluster", "forget", "c"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(err(&output), "tombolo: c is alive: b heard it 0.4 s ago\n");
    assert_eq!(out(&output), "");
}

#[test]
fn a_key_that_was_made_is_one_to_rotate_to_unless_others_may_read_it() {
    // No daemon, no settings: none is needed.
    let made = command(&["cluster", "key"])
        .env("TOMBOLO_STATE_DIR", "relative")
        .output()
        .unwrap();
    let text = good(&made);
    assert_eq!(err(&made), "");
    let daemon = Daemon::answering("200 OK", r#"{"secret": 2, "hosts": 2, "without": ["c"]}"#);
    let file = daemon.directory.path().join("key");
    std::fs::write(&file, &text).unwrap();
    let rotate = ["cluster", "rotate-key", "--key-file", file.to_str().unwrap()];
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();

    mode(0o644);
    let told = refused(&daemon, &rotate);
    assert!(
        told.contains("(mode 0644)") && told.contains("chmod 600"),
        "{told}"
    );
    assert!(!told.contains(text.trim()), "{told}");

    mode(0o600);
    let with_key = format!(
        r#"POST /v1/cluster/rotate-key HTTP/1.1 {{"key":"{}"}}"#,
        text.trim()
    );
    for output in [
        daemon.ask(&rotate),
        piped(&daemon, &["cluster", "rotate-key", "--key-file", "-"], &text),
    ] {
        let told = good(&output);
        assert!(told.starts_with("Key 2 holds, on 2 hosts."), "{told}");
        assert!(told.contains("Not reached: c."), "{told}");
        assert_eq!(daemon.request(), with_key);
    }
    good(&daemon.ask(&["cluster", "rotate-key"]));
    assert_eq!(
        daemon.request(),
        r#"POST /v1/cluster/rotate-key HTTP/1.1 {"key":null}"#
    );
}

#[test]
fn a_cluster_and_the_shares_of_its_pools_are_tables_of_one_document() {
    let cluster = json!({
        "in_cluster": true, "cluster": "00", "host": "a0", "standing": "waiting", "standing_note": "1 of 3 answered",
        "hosts": [{"host": "b0", "name": "b", "state": "up", "clock_ms": 1001}],
        "pools": [{"pool": "10.42.0.0/24", "net": "app", "next": "b0",
                   "shares": [{"host": "b0", "name": "b", "pieces": ["10.42.0.0/25"], "free": 126, "leased": 0}]}],
    });
    let daemon = Daemon::answering("200 OK", cluster.to_string());
    let status = good(&daemon.ask(&["cluster", "status"]));
    for part in [
        "Standing   waiting: 1 of 3 answered\n",
        "tombolo cluster forget",
        "+1.0 s !",
        "10.42.0.0/25",
    ] {
        assert!(status.contains(part), "{status}");
    }
    assert_eq!(daemon.request(), "GET /v1/cluster HTTP/1.1 ");
    let expected = "\
POOL           NET   HOST   PIECES         FREE   LEASED   NEXT
10.42.0.0/24   app   b      10.42.0.0/25   126    0        b
";
    assert_eq!(good(&daemon.ask(&["pools", "--shares"])), expected);
    assert_eq!(daemon.request(), "GET /v1/cluster HTTP/1.1 ");
    refused(&daemon, &["pools", "--shares", "--leases"]);
}

#[test]
fn peers_are_filtered_and_a_name_that_nothing_has_is_refused() {
    let daemon = Daemon::telling(|request| {
        let document = match request.split(' ').nth(1) {
            Some("/v1/peers") => json!([
                {"host": "a0", "host_name": "a", "network": "app", "ipv4": "10.42.0.2", "mac": "02:00:00:00:00:01"},
                {"host": "b0", "host_name": "b", "network": "app", "ipv4": "10.42.0.130", "name": "web"},
            ]),
            Some("/v1/networks") => json!([{"name": "quiet"}, {"name": null}]),
            Some("/v1/cluster") => {
                json!({"hosts": [{"host": "a0", "name": "a"}, {"host": "c0", "name": "c"}]})
            }
            _ => return ("404 Not Found", "{}".to_owned()),
        };
        ("200 OK", document.to_string())
    });
    let count = |args: &[&str]| good(&daemon.ask(&[&["peers"], args].concat())).lines().count() - 1;
    assert_eq!(count(&[]), 2);
    assert_eq!(count(&["--host", "b"]), 1);
    assert_eq!(count(&["--host", "b0", "--network", "app"]), 1);
    assert_eq!(count(&["--network", "quiet"]), 0);
    assert_eq!(count(&["--host", "c0"]), 0);
    let printed = good(&daemon.ask(&["peers", "--host", "b", "--output", "json"]));
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed[0]["name"], "web");
    assert_eq!(printed.as_array().unwrap().len(), 1);
    for (args, said) in [
        (
            ["--network", "ap"],
            "tombolo: no network is called 'ap'; there are: app, quiet\n",
        ),
        (
            ["--host", "d"],
            "tombolo: no host of the cluster is called 'd'; there are: a, c\n",
        ),
    ] {
        let output = daemon.ask(&[["peers"].as_slice(), &args].concat());
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(err(&output), said);
    }
}

#[test]
fn every_command_has_help_with_examples_and_a_manual_page() {
    let names = [
        "cluster",
        "cluster init",
        "cluster token",
        "cluster join",
        "cluster status",
        "cluster leave",
        "cluster forget",
        "cluster rotate-key",
        "cluster key",
        "peers",
        "pools",
    ];
    let directory = tempfile::tempdir().unwrap();
    good(
        &command(&["manual", directory.path().to_str().unwrap()])
            .output()
            .unwrap(),
    );
    for name in names {
        let args: Vec<&str> = name.split(' ').chain(["--help"]).collect();
        let help = good(&command(&args).output().unwrap());
        assert!(
            help.contains(&format!("Examples:\n  tombolo {name}")) || help.contains("umask"),
            "{help}"
        );
        let page = directory
            .path()
            .join(format!("tombolo-{}.1", name.replace(' ', "-")));
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains("Examples"), "{name}");
    }
    let bash = good(&command(&["completions", "bash"]).output().unwrap());
    for word in ["rotate-key", "--token-file", "--shares", "peers"] {
        assert!(bash.contains(word), "{word}");
    }
}
