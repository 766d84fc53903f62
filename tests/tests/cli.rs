//! The command line: what it shows, and how it says what is wrong.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use system_tests::tombolo::{CONTROL, INSIDE};
use system_tests::{Host, Scene, Tombolo, json as look};

fn daemon() -> (Arc<Host>, Tombolo) {
    let host = Arc::new(Host::new());
    let tombolo = Tombolo::start(&host);
    (host, tombolo)
}

/// A network with an endpoint, made as an engine makes them.
fn network_and_endpoint(tombolo: &Tombolo) -> (String, String) {
    let (network, endpoint) = ("c".repeat(64), "d".repeat(64));
    let plugin = tombolo.plugin();
    let pool =
        json!({ "AddressSpace": "", "Pool": "10.41.0.0/24", "SubPool": "", "Options": {}, "V6": false });
    let pool = plugin.accepted("IpamDriver.RequestPool", &pool);
    let ask = |address: &str| json!({ "PoolID": pool["PoolID"], "Address": address, "Options": {} });
    plugin.accepted("IpamDriver.RequestAddress", &ask("10.41.0.1"));
    plugin.accepted("IpamDriver.RequestAddress", &ask("10.41.0.5"));
    let spaces = plugin.accepted("IpamDriver.GetDefaultAddressSpaces", &Value::Null);
    plugin.accepted(
        "NetworkDriver.CreateNetwork",
        &json!({
            "NetworkID": network, "Options": { "com.docker.network.generic": {} }, "IPv6Data": [],
            "IPv4Data": [{ "AddressSpace": spaces["LocalDefaultAddressSpace"], "Pool": "10.41.0.0/24",
                "Gateway": "10.41.0.1/24" }],
        }),
    );
    plugin.accepted(
        "NetworkDriver.CreateEndpoint",
        &json!({
            "NetworkID": network, "EndpointID": endpoint, "Options": {},
            "Interface": { "Address": "10.41.0.5/24", "AddressIPv6": "", "MacAddress": "02:00:00:00:00:41" },
        }),
    );
    (network, endpoint)
}

#[test]
fn json_has_the_promised_fields() {
    let (_host, tombolo) = daemon();
    let (network, endpoint) = network_and_endpoint(&tombolo);
    let networks = tombolo.cli(&["networks"]);
    assert_eq!(
        (&networks[0]["network_id"], &networks[0]["kind"]),
        (&json!(network), &json!("bridge"))
    );
    let shown = tombolo.cli(&["endpoints"])[0].take();
    for (key, value) in [
        ("network_id", json!(network)),
        ("endpoint_id", json!(endpoint)),
        ("kind", json!("bridge")),
        ("ipv4", json!("10.41.0.5")),
        ("ipv6", Value::Null),
        ("mac", json!("02:00:00:00:00:41")),
        ("joined", json!(false)),
    ] {
        assert_eq!(shown[key], value, "{key} of {shown:#}");
    }
    let pool = tombolo.cli(&["pools"])[0].take();
    assert_eq!(pool["pool"], "10.41.0.0/24");
    assert!(pool["address_space"].is_string(), "{pool:#}");
    let mut leases: Vec<_> = look::rows(&pool["leases"])
        .iter()
        .map(|l| look::text(l, "/address"))
        .collect();
    leases.sort_unstable();
    assert_eq!(leases, ["10.41.0.1", "10.41.0.5"]);
    assert!(tombolo.cli(&["status"]).is_object());
    assert!(
        tombolo
            .cli(&["version"])
            .to_string()
            .contains(env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn tables_show_the_same_for_people() {
    let (_host, tombolo) = daemon();
    let (network, _) = network_and_endpoint(&tombolo);
    for (list, texts) in [
        ("networks", ["10.41.0.0/24", &network[..12]]),
        ("endpoints", ["10.41.0.5", "02:00:00:00:00:41"]),
        ("pools", ["10.41.0.0/24", "10.41.0.0/24"]),
        ("status", ["/run/docker/plugins/tombolo.sock", "default"]),
        ("version", [env!("CARGO_PKG_VERSION"), "tombolo"]),
    ] {
        for args in [&[list][..], &[list, "--output", "table"]] {
            let table = tombolo.try_cli(args).must().stdout;
            for text in texts {
                assert!(
                    table.contains(text),
                    "'{text}' is not in `tombolo {list}`:\n{table}"
                );
            }
            assert!(!table.contains('{'), "no JSON unless asked for:\n{table}");
        }
    }
}

#[test]
fn containers_are_shown_as_joined() {
    let scene = Scene::new();
    scene.network(
        "net",
        &["--ipv6", "--subnet", "10.42.0.0/24", "--subnet", "fd42::/64"],
    );
    let one = scene.container("one", &["--network", "net"]);
    let shown = scene.tombolo().cli(&["endpoints"])[0].take();
    let place = one.on("net");
    for (key, docker) in [
        ("network_id", "NetworkID"),
        ("endpoint_id", "EndpointID"),
        ("ipv4", "IPAddress"),
        ("ipv6", "GlobalIPv6Address"),
        ("mac", "MacAddress"),
    ] {
        assert_eq!(shown[key], place[docker], "{key}");
    }
    assert_eq!(shown["joined"], true);
    // Names come from the engine, a moment later.
    scene.names_are_known();
    let shown = scene.tombolo().cli(&["endpoints"])[0].take();
    assert_eq!(
        (&shown["network_name"], &shown["container_name"]),
        (&json!("net"), &json!("one"))
    );
}

#[test]
fn a_port_is_not_looked_for_at_what_is_not_there() {
    let (_host, tombolo) = daemon();
    let (network, _) = network_and_endpoint(&tombolo);
    for filter in ["--network", "--container"] {
        let refused = tombolo.try_cli(&["ports", filter, "nosuch"]);
        assert_eq!(refused.code, Some(1));
        refused.must_fail_with(&["'nosuch'", "there are: "]);
    }
    tombolo.try_cli(&["ports", "--network", &network[..12]]).must();
}

#[test]
fn a_daemon_that_is_not_running_is_said_to_be() {
    let (host, tombolo) = daemon();
    tombolo.stop();
    for list in ["status", "networks", "endpoints", "pools"] {
        tombolo.try_cli(&[list]).must_fail_with(&["not running", CONTROL]);
    }
    tombolo.try_cli(&["version"]).must();
    tombolo.start_again();
    tombolo.kill();
    assert!(host.path(CONTROL).exists(), "a killed daemon leaves its socket");
    tombolo.try_cli(&["status"]).must_fail_with(&["not running"]);
    tombolo.start_again();
    tombolo.try_cli(&["status"]).must();
}

#[test]
fn the_sockets_are_for_root_alone() {
    let (host, _tombolo) = daemon();
    let mode = |path: &str| host.path(path).metadata().expect("a socket").permissions().mode() & 0o777;
    assert_eq!(mode(CONTROL), 0o600);
    assert_eq!(
        mode(system_tests::plugin::SOCKET) & 0o077,
        0,
        "whoever reaches the plug-in socket owns the network"
    );
}

#[test]
fn completions_are_there_for_each_shell() {
    let (_host, tombolo) = daemon();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            tombolo
                .try_cli(&["completions", shell])
                .must()
                .stdout
                .contains("endpoints"),
            "{shell}"
        );
    }
}

/// Runs the daemon of a host with an environment; it must end at once, and what it said is returned.
#[track_caller]
fn must_not_serve(host: &Host, environment: &[(&str, &str)], args: &[&str]) -> String {
    let mut command = Command::new(INSIDE);
    command
        .args([&["serve"], args].concat())
        .envs(environment.iter().copied());
    let output = system_tests::command::run(host.spaces(), command, None, system_tests::command::LIMIT);
    assert!(!output.ok, "it served");
    output.stderr
}

#[test]
fn all_faults_of_the_settings_are_told_together_with_where_they_come_from() {
    let host = Host::new();
    host.write(
        "/etc/tombolo/tombolo.toml",
        "state_dri = \"/x\"\nlog_format = \"loud\"\n",
    );
    let environment = [
        ("TOMBOLO_ADDRESS_POOLS", "10.0.0.0/33:24"),
        ("TOMBOLO_DOCKER_HOST", "ftp://x"),
    ];
    let args = ["--plugin-socket", "relative", "--control-socket", "/tmp"];
    let said = must_not_serve(&host, &environment, &args);
    for part in [
        "state_dri",
        "state_dir",
        "tombolo.toml",
        "loud",
        "TOMBOLO_ADDRESS_POOLS",
        "10.0.0.0/33:24",
        "TOMBOLO_DOCKER_HOST",
        "ftp://x",
        "relative",
        "--plugin-socket",
        "'/tmp': it is a directory",
    ] {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
}

#[test]
fn a_flag_beats_the_environment_and_that_the_file() {
    let host = Arc::new(Host::new());
    host.write(
        "/etc/tombolo/tombolo.toml",
        "state_dir = \"/var/lib/from-file\"\nlog = \"warn\"\n",
    );
    let environment = [
        ("TOMBOLO_STATE_DIR", "/var/lib/from-environment"),
        ("TOMBOLO_ADDRESS_POOLS", "10.43.0.0/16:24"),
    ];
    let tombolo = Tombolo::start_with(&host, &environment);
    let status = tombolo.cli(&["status"]);
    let setting = |name: &str| {
        let found = look::rows(&status["settings"]).iter().find(|s| s["name"] == name);
        found
            .map(|s| (s["value"].clone(), look::text(s, "/origin").to_owned()))
            .unwrap_or_else(|| panic!("{status:#}"))
    };
    assert_eq!(setting("state_dir").0, "/var/lib/from-environment");
    assert!(setting("state_dir").1.contains("TOMBOLO_STATE_DIR"));
    assert_eq!(setting("log").0, "warn");
    assert!(setting("log").1.contains("tombolo.toml"));
    assert!(setting("plugin_socket").1.contains("default"));
    assert!(host.path("/var/lib/from-environment").exists() && !host.path("/var/lib/from-file").exists());
    tombolo.stop();
    let mut serve = Command::new(INSIDE);
    serve
        .args(["serve", "--state-dir", "/var/lib/from-flag"])
        .envs(environment);
    let process = host.start(serve, "/var/log/second.log");
    system_tests::until("it serves from where the flag says", || {
        (tombolo.try_cli(&["status"]).ok && host.path("/var/lib/from-flag").exists()).then_some(())
    });
    system_tests::engine::end(
        &process,
        nix::sys::signal::Signal::SIGTERM,
        system_tests::command::LIMIT,
    );
}

#[test]
fn what_is_exported_can_be_imported_elsewhere() {
    let (_first_host, first) = daemon();
    network_and_endpoint(&first);
    let export = first.export();
    let (second_host, second) = daemon();
    second_host.write("/tmp/state.json", &export.to_string());
    second.try_cli(&["state", "import", "/tmp/state.json"]).must();
    for list in ["networks", "pools"] {
        assert_eq!(second.cli(&[list]), first.cli(&[list]), "{list}");
    }
    second
        .try_cli(&["state", "import", "/tmp/missing.json"])
        .must_fail_with(&["/tmp/missing.json"]);
    let shown = first.try_cli(&["state", "export", "-"]).must().stdout;
    assert_eq!(look::parse(&shown), export);
    second_host.write("/tmp/state.json", "{ \"not\": ");
    second
        .try_cli(&["state", "import", "/tmp/state.json"])
        .must_fail_with(&["/tmp/state.json"]);
    assert_eq!(second.cli(&["networks"]), first.cli(&["networks"]));
}
