//! What the engine's tests of its plug-in client and proxies assert, seen from the plug-in's side. Bodies that are cut
//! short, wrong or too long are in `hostile.rs`, whole conversations in `conversations.rs`.

use serde_json::{Value, json};
use system_tests::{Scene, Staging, plugin, until};

use crate::{DUAL, scene};

/// TestGetEmptyCapabilities, TestGetInvalidCapabilities, TestGetExtraCapabilities; TestGetCapabilities and
/// TestGetDefaultAddressSpaces of the address proxy; TestInvalidRemoteDriver
#[test]
fn what_is_announced_is_what_engines_accept() {
    let scene = Scene::new();
    let plugin = scene.tombolo().plugin();
    let implements = &plugin.call("Plugin.Activate", &Value::Null)["Implements"];
    assert_eq!(implements, &json!(["NetworkDriver", "IpamDriver"]));
    let network = plugin.call("NetworkDriver.GetCapabilities", &Value::Null);
    assert_eq!(
        network["Scope"], "local",
        "an engine refuses all but local and global"
    );
    let connectivity = network["ConnectivityScope"].as_str();
    assert!(
        connectivity.is_none_or(|scope| ["local", "global"].contains(&scope)),
        "{network}"
    );
    let addresses = plugin.call("IpamDriver.GetCapabilities", &Value::Null);
    assert!(addresses["RequiresMACAddress"].is_boolean() && addresses["RequiresRequestReplay"].is_boolean());
    let spaces = plugin.call("IpamDriver.GetDefaultAddressSpaces", &Value::Null);
    for space in ["LocalDefaultAddressSpace", "GlobalDefaultAddressSpace"] {
        assert!(
            spaces[space].as_str().is_some_and(|name| !name.is_empty()),
            "{spaces}"
        );
    }
    // And a real engine takes it all.
    scene.network("net", &DUAL);
    assert_eq!(scene.inspect("network", "net")["Scope"], "local");
}

/// TestRemoteDriver, its last part
#[test]
fn news_of_other_nodes_are_taken_without_a_word() {
    let scene = Scene::new();
    let news = json!({ "DiscoveryType": 1, "DiscoveryData": { "Address": "192.0.2.9", "BindAddress": "", "Self": false } });
    for method in ["NetworkDriver.DiscoverNew", "NetworkDriver.DiscoverDelete"] {
        assert_eq!(
            scene.tombolo().plugin().call(method, &news),
            json!({}),
            "{method}"
        );
    }
}

/// TestDriverError, and the same for addresses
#[test]
fn the_words_of_a_refusal_reach_whoever_asked() {
    let (scene, before) = scene();
    scene
        .try_network("net", &["-o", "colour=red"])
        .must_fail_with(&["colour"]);
    scene.network("net", &DUAL);
    scene.container("one", &["--network", "net", "--ip", "10.60.0.55"]);
    let args = [
        "run",
        "--rm",
        "--network",
        "net",
        "--ip",
        "10.60.0.55",
        "busybox",
        "true",
    ];
    scene
        .try_docker(&args)
        .must_fail_with(&["10.60.0.55", "10.60.0.0/24"]);
    scene.must_clear_to(&before);
}

/// The order of discovery in `plugin_test.go` and `discovery_test.go`: a file that says where the socket is serves as well
/// as the socket in its usual place.
#[test]
fn an_engine_finds_us_through_a_spec_file() {
    let elsewhere = "/run/tombolo-elsewhere.sock";
    let prepare = |host: &system_tests::Host| {
        host.write("/etc/docker/plugins/tombolo.spec", &format!("unix://{elsewhere}"));
    };
    // The lab waits for the usual socket, which this host must not have when its engine looks for one.
    let scene = Scene::staged(&Staging {
        prepare: Some(&prepare),
        ..Staging::default()
    });
    scene.tombolo().stop();
    scene.host.sh(&format!("rm -f {}", plugin::SOCKET));
    scene.host.start(
        {
            let mut command = std::process::Command::new(system_tests::tombolo::INSIDE);
            command.args(["serve", "--plugin-socket", elsewhere]);
            command
        },
        "/var/log/tombolo-elsewhere.log",
    );
    until("the socket is there", || {
        scene.host.try_run("test", &["-S", elsewhere]).ok.then_some(())
    });
    scene.network("net", &DUAL);
    let (one, two) = (
        scene.container("one", &["--network", "net"]),
        scene.container("two", &["--network", "net"]),
    );
    assert!(one.pings("two") && two.pings6("one"));
    scene.clear();
}
