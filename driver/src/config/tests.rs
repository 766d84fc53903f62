//! Every rule of the settings, without an environment and, but for `load`, without a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

const FILE: &str = "/etc/tombolo/tombolo.toml";

/// Reads settings from flags, environment and file given as text.
fn read(
    flags: &[(Setting, &str)],
    environment: &[(&str, &str)],
    file: Option<&str>,
) -> Result<Config, Vec<String>> {
    let flags: BTreeMap<Setting, String> = flags
        .iter()
        .map(|(key, text)| (*key, (*text).to_owned()))
        .collect();
    let environment: BTreeMap<String, String> = environment
        .iter()
        .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
        .collect();
    let file = file.map(|text| (Path::new(FILE), text));
    Config::read(Sources {
        flags: &flags,
        environment: &environment,
        file,
        is_directory: |path| path == Path::new("/tmp"),
    })
    .map_err(|faults| faults.0.iter().map(Fault::to_string).collect())
}

fn with_flag(setting: Setting, text: &str) -> Result<Config, Vec<String>> {
    read(&[(setting, text)], &[], None)
}

/// The one fault of a flag's value. The message must name flag, value and what is allowed.
fn fault_of(setting: Setting, text: &str) -> String {
    let faults = with_flag(setting, text).expect_err(text);
    assert_eq!(faults.len(), 1, "{faults:?}");
    let fault = faults[0].clone();
    for part in [setting.key(), &format!("flag {}", setting.flag()), "allowed: "] {
        assert!(fault.contains(part), "{fault} lacks {part}");
    }
    fault
}

fn pools(text: &str) -> String {
    pools::list(&with_flag(Setting::AddressPools, text).unwrap().address_pools)
}

#[test]
fn nothing_given_yields_the_defaults_of_the_contract() {
    let config = read(&[], &[], None).unwrap();
    assert_eq!(
        config.plugin_socket,
        PathBuf::from("/run/docker/plugins/tombolo.sock")
    );
    assert_eq!(config.control_socket, PathBuf::from("/run/tombolo/control.sock"));
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/tombolo"));
    assert_eq!(
        config.docker_host,
        DockerHost::Unix(PathBuf::from("/var/run/docker.sock"))
    );
    assert_eq!(
        pools::list(&config.address_pools),
        "10.208.0.0/12:24,198.18.0.0/15:24"
    );
    assert_eq!(
        (config.log.as_str(), config.log_format),
        ("info", LogFormat::Human)
    );
    assert!(
        Setting::ALL
            .iter()
            .all(|setting| *config.origin(*setting) == Origin::Default)
    );
}

#[test]
fn the_names_of_flags_and_variables_are_those_of_the_contract() {
    let names: Vec<String> = Setting::ALL
        .iter()
        .map(|s| format!("{} {}", s.flag(), s.variable()))
        .collect();
    let contract = [
        "--plugin-socket TOMBOLO_PLUGIN_SOCKET",
        "--control-socket TOMBOLO_CONTROL_SOCKET",
        "--state-dir TOMBOLO_STATE_DIR",
        "--docker-host TOMBOLO_DOCKER_HOST",
        "--address-pools TOMBOLO_ADDRESS_POOLS",
        "--host-binding TOMBOLO_HOST_BINDING",
        "--metrics-addr TOMBOLO_METRICS_ADDR",
        "--join TOMBOLO_JOIN",
        "--cluster-key-file TOMBOLO_CLUSTER_KEY_FILE",
        "--advertise TOMBOLO_ADVERTISE",
        "--cluster-port TOMBOLO_CLUSTER_PORT",
        "--cluster-alone TOMBOLO_CLUSTER_ALONE",
        "--vxlan-port TOMBOLO_VXLAN_PORT",
        "--store TOMBOLO_STORE",
        "--replicate TOMBOLO_REPLICATE",
        "--dns-zone TOMBOLO_DNS_ZONE",
        "--dns-export TOMBOLO_DNS_EXPORT",
        "--attach TOMBOLO_ATTACH",
        "--log TOMBOLO_LOG",
        "--log-format TOMBOLO_LOG_FORMAT",
    ];
    assert_eq!(names, contract);
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = Some("state_dir = '/file'\nlog = \"warn\"\n\ndocker_host = 'unix:///file.sock'");
    let environment = [("TOMBOLO_STATE_DIR", "/env"), ("TOMBOLO_LOG", "debug")];
    let config = read(&[(Setting::StateDir, "/flag")], &environment, file).unwrap();
    assert_eq!(config.state_dir, PathBuf::from("/flag"));
    assert_eq!(config.log, "debug");
    assert_eq!(config.docker_host.to_string(), "unix:///file.sock");
    let origins: Vec<String> = config
        .listing()
        .into_iter()
        .map(|l| format!("{}: {}", l.name, l.origin))
        .collect();
    let expected = [
        "plugin_socket: default",
        "control_socket: default",
        "state_dir: flag --state-dir",
        "docker_host: /etc/tombolo/tombolo.toml line 4",
        "address_pools: default",
        "host_binding: default",
        "metrics_addr: default",
        "join: default",
        "cluster_key_file: default",
        "advertise: default",
        "cluster_port: default",
        "cluster_alone: default",
        "vxlan_port: default",
        "store: default",
        "replicate: default",
        "dns_zone: default",
        "dns_export: default",
        "attach: default",
        "log: environment TOMBOLO_LOG",
        "log_format: default",
    ];
    assert_eq!(origins, expected);
}

#[test]
fn an_empty_variable_counts_as_not_given() {
    let config = read(&[], &[("TOMBOLO_STATE_DIR", "")], Some("state_dir = '/file'")).unwrap();
    assert_eq!(config.state_dir, PathBuf::from("/file"));
}

#[test]
fn an_empty_flag_is_refused_and_not_taken_as_absent() {
    assert!(fault_of(Setting::StateDir, "").contains("not absolute"));
}

#[test]
fn all_faults_of_all_sources_come_together() {
    let file = "log_fromat = 'json'\ncontrol_socket = 7\n";
    let environment = [("TOMBOLO_STATE_DIR", "var/lib"), ("TOMBOLO_LOG_FORMAT", "xml")];
    let flags = [
        (Setting::DockerHost, "tcp://10.0.0.1:2375"),
        (Setting::AddressPools, "10.0.0.0/8:,10.0.0.1/8:24"),
    ];
    let faults = read(&flags, &environment, Some(file)).unwrap_err();
    let heads = [
        "control_socket (from /etc/tombolo/tombolo.toml line 2): '7'",
        "'log_fromat' (from /etc/tombolo/tombolo.toml line 1) is no setting, did you mean 'log_format'?",
        "state_dir (from environment TOMBOLO_STATE_DIR): 'var/lib'",
        "docker_host (from flag --docker-host): 'tcp://10.0.0.1:2375': tcp:// is refused",
        "address_pools (from flag --address-pools): '10.0.0.0/8:'",
        "address_pools (from flag --address-pools): '10.0.0.1/8:24'",
        "log_format (from environment TOMBOLO_LOG_FORMAT): 'xml'",
    ];
    assert_eq!(faults.len(), heads.len(), "{faults:#?}");
    for (fault, head) in faults.iter().zip(heads) {
        assert!(fault.starts_with(head), "{fault}\nshould begin with\n{head}");
    }
}

#[test]
fn a_value_that_loses_to_a_better_source_is_not_judged() {
    assert!(
        read(
            &[(Setting::StateDir, "/flag")],
            &[("TOMBOLO_STATE_DIR", "relative")],
            None
        )
        .is_ok()
    );
}

#[test]
fn an_unknown_key_names_the_nearest_one_or_all() {
    let near = read(&[], &[], Some("State-Dir = '/x'")).unwrap_err();
    assert!(near[0].contains("did you mean 'state_dir'?"), "{near:?}");
    let far = read(&[], &[], Some("[weather]\nkey = 'x'")).unwrap_err();
    assert!(
        far[0].contains("'weather'") && !far[0].contains("did you mean"),
        "{far:?}"
    );
    assert!(
        far[0].contains("allowed: plugin_socket, control_socket"),
        "{far:?}"
    );
}

#[test]
fn a_file_that_is_no_toml_names_the_line() {
    let faults = read(&[], &[], Some("log = 'info'\nstate_dir = /var\n")).unwrap_err();
    assert!(
        faults[0].starts_with("/etc/tombolo/tombolo.toml line 2: not TOML: "),
        "{faults:?}"
    );
}

#[test]
fn a_key_given_twice_is_a_fault() {
    let faults = read(&[], &[], Some("log = 'info'\nlog = 'debug'\n")).unwrap_err();
    assert!(
        faults[0].starts_with("/etc/tombolo/tombolo.toml line 2: "),
        "{faults:?}"
    );
}

#[test]
fn sockets_are_absolute_and_short_and_no_directories() {
    assert!(fault_of(Setting::PluginSocket, "run/x.sock").contains("not absolute"));
    assert!(fault_of(Setting::ControlSocket, "/run/tombolo/").contains("names a directory"));
    let path = |length: usize| format!("/{}", "x".repeat(length - 1));
    assert!(with_flag(Setting::PluginSocket, &path(107)).is_ok());
    assert!(fault_of(Setting::PluginSocket, &path(108)).contains("it has 108 bytes"));
    assert!(fault_of(Setting::PluginSocket, "/run/\u{fffd}.sock").contains("UTF-8"));
}

#[test]
fn one_path_for_both_sockets_is_refused() {
    assert!(
        fault_of(Setting::ControlSocket, "/run/docker/plugins/tombolo.sock")
            .contains("the plugin_socket as well")
    );
}

#[test]
fn the_engine_is_a_unix_socket_of_this_host() {
    let host = with_flag(Setting::DockerHost, "unix:///tmp/d.sock")
        .unwrap()
        .docker_host;
    assert_eq!(host, DockerHost::Unix(PathBuf::from("/tmp/d.sock")));
    let refused = [
        ("tcp://127.0.0.1:2375", "this host's engine only"),
        ("ssh://root@host", "this host's engine only"),
        ("npipe:////./pipe/docker", "npipe:// is unknown"),
        (
            "/var/run/docker.sock",
            "did you mean unix:///var/run/docker.sock?",
        ),
        ("docker.sock", "the scheme is missing"),
        ("unix://docker.sock", "'unix://docker.sock': it is not absolute"),
        ("unix://", "not absolute"),
    ];
    for (text, why) in refused {
        let fault = fault_of(Setting::DockerHost, text);
        assert!(fault.contains(why), "{fault} lacks {why}");
    }
}

#[test]
fn pools_of_both_families_are_read_in_order() {
    assert_eq!(
        pools("10.9.0.0/16:24, fd00:1::/48:64,10.8.0.0/16:26"),
        "10.9.0.0/16:24,fd00:1::/48:64,10.8.0.0/16:26"
    );
}

#[test]
fn pools_of_ipv6_alone_keep_the_default_ones_of_ipv4() {
    assert_eq!(
        pools("fd00:1::/48:64"),
        "fd00:1::/48:64,10.208.0.0/12:24,198.18.0.0/15:24"
    );
    assert_eq!(pools("10.9.0.0/16:24"), "10.9.0.0/16:24");
    assert_eq!(pools::DEFAULT_V4.join(","), Setting::AddressPools.default_text());
}

#[test]
fn pools_in_the_file_are_a_list_or_one_text() {
    for text in [
        "address_pools = ['10.9.0.0/16:24', 'fd00::/48:64']",
        "address_pools = '10.9.0.0/16:24,fd00::/48:64'",
    ] {
        let config = read(&[], &[], Some(text)).unwrap();
        assert_eq!(pools::list(&config.address_pools), "10.9.0.0/16:24,fd00::/48:64");
    }
    let faults = read(&[], &[], Some("address_pools = ['10.9.0.0/16:24', 5]")).unwrap_err();
    assert!(
        faults[0].contains("'5': a string in quotes is needed"),
        "{faults:?}"
    );
    let faults = read(&[], &[], Some("log = ['info']")).unwrap_err();
    assert!(faults[0].contains("not the type array"), "{faults:?}");
}

#[test]
fn a_pool_without_a_size_is_cut_as_is_usual() {
    assert_eq!(pools("10.9.0.0/16,fd00::/48"), "10.9.0.0/16:24,fd00::/48:64");
    assert_eq!(pools("10.9.0.0/26"), "10.9.0.0/26:26");
}

#[test]
fn a_pool_that_could_hold_no_network_is_refused() {
    let refused = [
        ("", "'' is no range of addresses"),
        ("10.0.0.0/8:", "'' is no prefix length"),
        ("10.0.0.0:24", "is no range"),
        ("10.0.0.0/33:24", "'10.0.0.0/33' is no range"),
        ("10.0.0.0/8:x", "'x' is no prefix length"),
        ("10.0.0.1/8:24", "did you mean 10.0.0.0/8:24?"),
        ("10.0.0.0/24:16", "sizes 24 to 30"),
        ("10.0.0.0/8:31", "sizes 8 to 30"),
        ("10.0.0.0/31:31", "too small"),
        ("fd00::/48:127", "sizes 48 to 126"),
        ("127.0.0.0/16:24", "loopback"),
        ("169.254.0.0/16:24", "link-local"),
        ("224.0.0.0/8:24", "multicast"),
        ("0.0.0.0/0:24", "unspecified"),
        ("fe80::/64:64", "link-local"),
        ("10.0.0.0/8:24,10.1.0.0/16:24", "overlaps 10.0.0.0/8:24"),
        ("10.1.0.0/16:24,10.0.0.0/8:24", "overlaps 10.1.0.0/16:24"),
    ];
    for (text, why) in refused {
        let fault = fault_of(Setting::AddressPools, text);
        assert!(fault.contains(why), "{text}: {fault} lacks {why}");
    }
}

#[test]
fn metrics_are_off_or_at_an_address_and_a_port() {
    let shown = |text| {
        with_flag(Setting::MetricsAddr, text)
            .unwrap()
            .metrics_addr
            .to_string()
    };
    for text in ["off", "127.0.0.1:9477", "0.0.0.0:1", "[::1]:65535"] {
        assert_eq!(shown(text), text);
    }
    assert_eq!(read(&[], &[], None).unwrap().metrics_addr, MetricsAddr(None));
    let refused = [
        ("", "no address and port"),
        ("on", "no address and port"),
        ("127.0.0.1", "the port is missing"),
        ("::1", "the port is missing"),
        ("::1:9477", "the port is missing"),
        (":9477", "the address is missing"),
        ("127.0.0.1:", "does not end with a port"),
        ("127.0.0.1:99999", "does not end with a port"),
        ("127.0.0.1:0", "port 0"),
        ("2001:db8:0:0:0:0:0:1:9477", "stands in brackets"),
        ("localhost:9477", "no IP address"),
    ];
    for (text, why) in refused {
        let fault = fault_of(Setting::MetricsAddr, text);
        assert!(fault.contains(why), "{fault} lacks {why}");
    }
}

#[test]
fn log_filters_are_checked_before_they_silence_anything() {
    for text in [
        "debug",
        "INFO",
        "info,tombolo=debug",
        "tombolo::kernel=trace,warn",
        "info,tombolo[step]=debug",
    ] {
        assert_eq!(with_flag(Setting::Log, text).unwrap().log, text);
    }
    assert!(fault_of(Setting::Log, "inof").contains("did you mean info?"));
    assert!(fault_of(Setting::Log, "info,tombolo").contains("'tombolo': no level;"));
    assert!(fault_of(Setting::Log, "info,tombolo=loud").contains("'info,tombolo=loud'"));
}

#[test]
fn a_file_that_somebody_named_must_be_there() {
    let absent = Path::new("/nowhere/tombolo.toml");
    let none = BTreeMap::new();
    let by_flag = load(&BTreeMap::new(), Some(absent), &none)
        .unwrap_err()
        .to_string();
    assert!(
        by_flag.contains("/nowhere/tombolo.toml (from flag --config) cannot be read: No such file"),
        "{by_flag}"
    );
    let environment = BTreeMap::from([
        (FILE_VARIABLE.to_owned(), "/nowhere/tombolo.toml".to_owned()),
        ("TOMBOLO_LOG".to_owned(), "loud".to_owned()),
    ]);
    let by_variable = load(&BTreeMap::new(), None, &environment)
        .unwrap_err()
        .to_string();
    assert!(
        by_variable.starts_with("2 faults in the settings:\n  - the file of settings /nowhere"),
        "{by_variable}"
    );
    assert!(by_variable.contains("'loud'"), "{by_variable}");
}

#[test]
fn a_file_that_somebody_named_is_read_from_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.toml");
    std::fs::write(&path, "state_dir = '/from/disk'").unwrap();
    let config = load(&BTreeMap::new(), Some(&path), &BTreeMap::new()).unwrap();
    assert_eq!(config.state_dir, PathBuf::from("/from/disk"));
    assert_eq!(
        config.origin(Setting::StateDir).to_string(),
        format!("{} line 1", path.display())
    );
}

#[test]
fn a_directory_is_no_socket_and_told_with_all_other_faults() {
    let fault = fault_of(Setting::PluginSocket, "/tmp");
    assert!(fault.contains("it is a directory"), "{fault}");
    let both = [(Setting::ControlSocket, "/tmp"), (Setting::StateDir, "x")];
    assert_eq!(read(&both, &[], None).unwrap_err().len(), 2);
    assert!(with_flag(Setting::PluginSocket, "/tmp/x.sock").is_ok());
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_told_and_what_others_have_is_not() {
    let ignored = |name: &str| read(&[], &[(name, "x")], None).unwrap().ignored;
    for (name, meant) in [
        ("TOMBOLO_METRIC_ADDR", "TOMBOLO_METRICS_ADDR"),
        ("TOMBOLO_STATEDIR", "TOMBOLO_STATE_DIR"),
        ("TOMBOLO_ADRESS_POOLS", "TOMBOLO_ADDRESS_POOLS"),
    ] {
        let told = ignored(name);
        assert_eq!(told.len(), 1, "{name}");
        assert!(
            told[0].contains(name) && told[0].ends_with(&format!("did you mean {meant}?")),
            "{told:?}"
        );
    }
    for name in [
        "TOMBOLO_CONFIG",
        "TOMBOLO_BENCH_PORTS",
        "TOMBOLO_BENCH_ROUNDS",
        "TOMBOLO_SOAK_CONTAINERS",
        "TOMBOLO_TEST_BINARY",
        "TOMBOLO_TEST_DRIVER",
        "TOMBOLO_TEST_ENGINE",
        "TOMBOLO_TEST_MIRROR",
        "TOMBOLO_TEST_WRITER_DIR",
    ] {
        assert_eq!(ignored(name), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn what_a_host_does_in_a_cluster_is_read() {
    let file = "join = ['192.0.2.1', '[fd00::1]:8000']\ncluster_port = 7000\nadvertise = 'eth1'\ncluster_alone = 'wait'";
    let config = read(&[], &[], Some(file)).unwrap();
    let join: Vec<String> = config
        .join
        .addresses(config.cluster_port)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(join, ["192.0.2.1:7000", "[fd00::1]:8000"]);
    assert_eq!(config.advertise.to_string(), "eth1");
    for (text, shown) in [
        ("'auto'", "auto"),
        ("'192.0.2.1, eth1'", "192.0.2.1,eth1"),
        ("['eth0', 'eth1']", "eth0,eth1"),
    ] {
        let config = read(&[], &[], Some(&format!("advertise = {text}"))).unwrap();
        assert_eq!(config.advertise.to_string(), shown);
    }
    for (text, why) in [
        ("eth0,eth0", "named twice"),
        ("192.0.2.1,fd00::1", "both families"),
        ("a,b,c,d,e,f,g,h,i", "at most 8"),
        ("eth0,auto", "neither an address nor"),
        ("eth0,", "neither an address nor"),
        ("224.0.0.1", "nobody can be reached"),
    ] {
        let faults = read(&[], &[], Some(&format!("advertise = '{text}'")))
            .unwrap_err()
            .join("\n");
        assert!(faults.contains(why), "{text}: {faults}");
    }
    assert_eq!(config.cluster_alone, Alone::Wait);
    let strange = "join = 'host-a,192.0.2.1:0'\ncluster_port = 0\nadvertise = '0.0.0.0'\ncluster_key_file = 'key'\ncluster_alone = 'maybe'";
    let faults = read(&[], &[], Some(strange)).unwrap_err().join("\n");
    for part in [
        "host-a",
        "192.0.2.1:0",
        "no port from 1",
        "nobody can be reached",
        "not absolute",
        "neither lease nor wait",
    ] {
        assert!(faults.contains(part), "{part}: {faults}");
    }
}

#[test]
fn a_store_is_the_cluster_itself_or_an_etcd() {
    assert_eq!(read(&[], &[], None).unwrap().store, Store::Own);
    for (text, shown) in [
        ("own", "own"),
        ("etcd://192.0.2.1:2379", "etcd://192.0.2.1:2379"),
        ("etcd://etcd-1.example/", "etcd://etcd-1.example:2379"),
        ("etcd://a:1, b:65535,a:1", "etcd://a:1,b:65535"),
        (
            "etcd://[fd00::1],[fd00::2]:80",
            "etcd://[fd00::1]:2379,[fd00::2]:80",
        ),
    ] {
        assert_eq!(with_flag(Setting::Store, text).unwrap().store.to_string(), shown);
        let by_file = format!("store = '{text}'");
        let by_variable = read(&[], &[("TOMBOLO_STORE", text)], None).unwrap();
        assert_eq!(read(&[], &[], Some(&by_file)).unwrap().store, by_variable.store);
    }
    for (text, why) in [
        ("etcds://192.0.2.1", "TLS to a store is not spoken"),
        ("https://192.0.2.1", "TLS to a store is not spoken"),
        ("http://192.0.2.1", "the scheme is etcd://"),
        ("consul://192.0.2.1", "consul:// is unknown"),
        ("", "neither own nor etcd://"),
        ("none", "neither own nor etcd://"),
        ("etcd://", "no HOST"),
        ("etcd://a:0", "'a:0'"),
        ("etcd://a:99999", "no HOST"),
        ("etcd://a,,b", "no HOST"),
        ("etcd://fd00::1:2379", "no HOST"),
        ("etcd://[fd00::1", "no HOST"),
        ("etcd://user:word@a:2379", "'user:word@a:2379'"),
        ("etcd://a/path", "no HOST"),
    ] {
        let fault = fault_of(Setting::Store, text);
        assert!(fault.contains(why), "{text}: {fault} lacks {why}");
    }
}
