//! The evidence, gathered: the only part that looks at the host. What can't be had is noted as such.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Value, json};
use tombolo_core::model::Proto;
use tombolo_core::state::HostPort;

use super::Client;
use super::docker::{SOCKETS, SPECS};
use super::evidence::{Daemon, Docker, Evidence, Feature, Host, Places, Rules, Storage, Systemd};
use crate::config::{Config, DockerHost};
use crate::kernel::look::{Link, Look, echo, rules, spaces, trial};
use crate::{claim, firewall, host};

/// What is tried, in the order of [`trial::links`] and after that the rules.
const FEATURES: [Feature; 9] = [
    feature("bridge", "bridge", true, "bridge"),
    feature("veth", "bridge", true, "veth"),
    feature("vxlan", "overlay", true, "vxlan"),
    feature("dummy", "macvlan or ipvlan without a parent", false, "dummy"),
    feature("macvlan", "macvlan", false, "macvlan"),
    feature("ipvlan", "ipvlan", false, "ipvlan"),
    feature("VLANs", "macvlan or ipvlan on a VLAN", false, "8021q"),
    feature(
        "nftables with tombolo's rules, sets and maps",
        "bridge",
        true,
        "nf_tables",
    ),
    feature(
        "nftables on bridges",
        "overlay",
        true,
        "nf_tables_bridge (CONFIG_NF_TABLES_BRIDGE)",
    ),
];

const fn feature(name: &'static str, kind: &'static str, always: bool, module: &'static str) -> Feature {
    Feature {
        name,
        kind,
        always,
        module,
    }
}

pub(super) fn all(config: &Config, client: &Client) -> Evidence {
    let mut evidence = Evidence {
        places: places(config),
        daemon: daemon(client, &config.control_socket),
        ..Evidence::default()
    };
    take_daemons_places(&mut evidence);
    evidence.places.listens = Some(match UnixStream::connect(&evidence.places.plugin_socket) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    evidence.docker = docker(&evidence.places.docker_socket);
    evidence.host = match network() {
        Ok(host) => host,
        Err(error) => Host {
            error: Some(error.to_string()),
            ..Host::default()
        },
    };
    evidence.host.paths = paths(&evidence.daemon);
    evidence.daemon.inner = inner(&evidence);
    evidence.rules = read_rules();
    evidence.sysctl = sysctl(&evidence);
    evidence.features = features();
    evidence.storage = storage(&evidence.places.state_dir);
    evidence.systemd = systemd();
    evidence.firewalld = firewalld();
    evidence
}

fn places(config: &Config) -> Places {
    let DockerHost::Unix(docker_socket) = &config.docker_host;
    let mut plugin_files = BTreeMap::new();
    for dir in [SOCKETS].into_iter().chain(SPECS) {
        note_files(Path::new(dir), 1, &mut plugin_files);
    }
    Places {
        plugin_socket: config.plugin_socket.clone(),
        control_socket: config.control_socket.clone(),
        state_dir: config.state_dir.clone(),
        docker_socket: docker_socket.clone(),
        listens: None,
        plugin_files,
    }
}

/// Docker also looks into a folder of the plug-in's name.
fn note_files(dir: &Path, deeper: u8, files: &mut BTreeMap<PathBuf, String>) {
    // A folder that isn't there holds nothing.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && deeper > 0 => note_files(&path, deeper - 1, files),
            Ok(kind) if kind.is_file() => {
                drop(files.insert(path.clone(), fs::read_to_string(&path).unwrap_or_default()))
            }
            _ => {}
        }
    }
}

fn daemon(client: &Client, control_socket: &Path) -> Daemon {
    let status = client.get_json("/v1/status").map_err(|failure| failure.chain());
    if status.is_err() {
        return Daemon {
            status: Some(status),
            holder: claim::holder_of(&claim::lock_of(control_socket)),
            ..Daemon::default()
        };
    }
    let list = |path| match client.get_json(path) {
        Ok(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let endpoints = list("/v1/endpoints");
    let networks = list("/v1/networks");
    let tunnels = networks.iter().any(|network| network["vni"].is_u64());
    let tunnels = tunnels.then(|| client.post_json("/v1/cluster/tunnels", &json!({})));
    let joined = endpoints
        .iter()
        .filter_map(|endpoint| endpoint["sandbox"].as_str())
        // That of an endpoint whose record was rebuilt is not known.
        .filter(|path| !path.is_empty());
    let sandboxes = joined
        .map(|path| (path.to_owned(), Path::new(path).exists()))
        .collect();
    Daemon {
        status: Some(status),
        cluster: Some(client.get_json("/v1/cluster").map_err(|failure| failure.chain())),
        names: Some(client.get_json("/v1/names").map_err(|failure| failure.chain())),
        networks,
        tunnels: tunnels.map(|tried| tried.map_err(|failure| failure.chain())),
        endpoints,
        differences: Some(
            client
                .get_json("/v1/differences")
                .map_err(|failure| failure.chain()),
        ),
        listeners: list("/v1/ports").into_iter().filter_map(listener).collect(),
        sandboxes,
        ..Daemon::default()
    }
}

/// A published port with who of this host has it too, if anybody has.
fn listener(port: Value) -> Option<(Value, String)> {
    let proto: Proto = serde_json::from_value(port["proto"].clone()).ok()?;
    let address = port["host_ip"].as_str()?.parse().ok()?;
    let number = u16::try_from(port["host_port"].as_u64()?).ok()?;
    if host::port(proto, address, number) != HostPort::Taken {
        return None;
    }
    let holder = host::port_holder(proto, address, number);
    Some((
        port,
        holder.unwrap_or_else(|| "a process that can't be told".to_owned()),
    ))
}

/// The containers' ends of their links, looked for inside their namespaces.
fn inner(evidence: &Evidence) -> BTreeMap<String, Link> {
    let of = |endpoint: &Value| {
        let host_link = endpoint["host_link"].as_str()?;
        let outer = evidence.host.links.iter().find(|link| link.name == host_link)?;
        let sandbox = endpoint["sandbox"].as_str().filter(|path| !path.is_empty())?;
        // A container that is just ending has no namespace to look into.
        let links = spaces::inside(Path::new(sandbox), || Look::new()?.links())
            .ok()?
            .ok()?;
        let other_end = |link: &Link| link.peer_elsewhere && link.peer == Some(outer.index);
        let link = links.into_iter().find(other_end)?;
        Some((endpoint["endpoint_id"].as_str()?.to_owned(), link))
    };
    evidence.daemon.endpoints.iter().filter_map(of).collect()
}

/// The daemon may have been given other settings than this command.
fn take_daemons_places(evidence: &mut Evidence) {
    let Some(Ok(status)) = &evidence.daemon.status else {
        return;
    };
    for setting in status["settings"].as_array().into_iter().flatten() {
        let Some(value) = setting["value"].as_str() else {
            continue;
        };
        match setting["name"].as_str() {
            Some("plugin_socket") => evidence.places.plugin_socket = value.into(),
            Some("state_dir") => evidence.places.state_dir = value.into(),
            Some("docker_host") => {
                if let Some(path) = value.strip_prefix("unix://") {
                    evidence.places.docker_socket = path.into();
                }
            }
            _ => {}
        }
    }
}

fn docker(socket: &Path) -> Docker {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Docker {
                version: Some(Err(error.to_string())),
                ..Docker::default()
            };
        }
    };
    let ask = |call: &str| {
        runtime
            .block_on(crate::docker::ask(socket, call))
            .map_err(|error| error.to_string())
    };
    let version = ask("/version");
    let list = |call: &str| match ask(call) {
        Ok(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let (networks, plugins) = match version {
        Ok(_) => (list("/networks"), list("/plugins")),
        Err(_) => (Vec::new(), Vec::new()),
    };
    Docker {
        version: Some(version),
        networks,
        plugins,
    }
}

fn network() -> Result<Host, crate::kernel::Error> {
    let mut look = Look::new()?;
    Ok(Host {
        paths: Vec::new(),
        unanswered: rules::unanswered(),
        links: look.links()?,
        routes: look.routes()?,
        name_servers: host::name_servers().iter().map(ipnet::IpNet::addr).collect(),
        error: None,
    })
}

/// Asks the other hosts of the cluster how large packets get through, if there are networks that span them.
fn paths(daemon: &Daemon) -> Vec<(String, u32, echo::Takes)> {
    let spans = |network: &Value| matches!(network["kind"].as_str(), Some("overlay" | "host-gateway"));
    let Some(Ok(cluster)) = &daemon.cluster else {
        return Vec::new();
    };
    let hosts = || cluster["hosts"].as_array().into_iter().flatten();
    let mtu = |host: &Value| host["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok());
    let own = hosts().find(|host| host["state"] == "here").and_then(mtu);
    let Some(own) = own.filter(|_| daemon.networks.iter().any(spans)) else {
        return Vec::new();
    };
    let up = hosts().filter(|host| host["state"] == "up");
    let asked = up.filter_map(|host| {
        let address: SocketAddr = host["address"].as_str()?.parse().ok()?;
        let most = mtu(host).map_or(own, |theirs| theirs.min(own));
        Some((host["host"].as_str()?.to_owned(), address.ip(), most))
    });
    let asked: Vec<(String, IpAddr, u32)> = asked.collect();
    let takes = echo::takes(
        &asked
            .iter()
            .map(|(_, address, most)| (*address, *most))
            .collect::<Vec<_>>(),
    );
    let found = asked.into_iter().zip(takes);
    found
        .map(|((host, _, most), takes)| (host, most, takes))
        .collect()
}

fn read_rules() -> Rules {
    let iptables_is_legacy = rules::iptables_is_legacy();
    match rules::listings() {
        Ok(listings) => match firewall::read(&listings) {
            Ok(ruleset) => Rules {
                ruleset,
                error: None,
                has_nft: listings.nft,
                iptables_is_legacy,
            },
            Err(error) => Rules {
                error: Some(error),
                has_nft: listings.nft,
                iptables_is_legacy,
                ..Rules::default()
            },
        },
        Err(error) => Rules {
            error: Some(error.to_string()),
            has_nft: rules::has_program("nft"),
            iptables_is_legacy,
            ..Rules::default()
        },
    }
}

fn sysctl(evidence: &Evidence) -> BTreeMap<String, String> {
    let mut names: Vec<(String, String)> = [
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
        "net.ipv4.conf.all.rp_filter",
        "net.bridge.bridge-nf-call-iptables",
        "net.bridge.bridge-nf-call-ip6tables",
        "net.netfilter.nf_conntrack_count",
        "net.netfilter.nf_conntrack_max",
    ]
    .into_iter()
    .map(|name| (name.to_owned(), name.replace('.', "/")))
    .collect();
    for link in evidence.our_bridges().into_iter().chain(evidence.way_out(false)) {
        let name = &link.name;
        for setting in ["rp_filter", "forwarding"] {
            names.push((
                format!("net.ipv4.conf.{name}.{setting}"),
                format!("net/ipv4/conf/{name}/{setting}"),
            ));
        }
    }
    let read = |(name, path): (String, String)| {
        let text = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
        Some((name, text.trim().to_owned()))
    };
    names.into_iter().filter_map(read).collect()
}

fn features() -> Vec<(Feature, Result<(), String>)> {
    let tried = spaces::apart(|| {
        let mut tried = trial::links()?;
        tried.push(("nftables", rules::try_skeleton()));
        tried.push(("nftables on bridges", rules::try_tunnels()));
        Ok::<_, crate::kernel::Error>(tried)
    });
    let results: Vec<Result<(), String>> = match tried {
        Ok(Ok(tried)) => tried.into_iter().map(|(_, result)| result).collect(),
        // Without a namespace to try it in nothing can be told.
        Ok(Err(_)) | Err(_) => return Vec::new(),
    };
    FEATURES.into_iter().zip(results).collect()
}

fn storage(dir: &Path) -> Storage {
    let mut storage = Storage {
        now_s: host::now_s(),
        ..Storage::default()
    };
    match statvfs(dir) {
        Ok(found) => {
            let unit = found.fragment_size();
            storage.bytes = Some((found.blocks_available() * unit, found.blocks() * unit));
            storage.inodes = (found.files_available(), found.files());
            storage.read_only = found.flags().contains(FsFlags::ST_RDONLY);
        }
        Err(error) => storage.error = Some(std::io::Error::from(error).to_string()),
    }
    storage.newest_s = newest(dir, 2);
    storage
}

fn newest(dir: &Path, deeper: u8) -> Option<u64> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    let of = |entry: fs::DirEntry| {
        let meta = entry.metadata().ok()?;
        let own = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let below = (meta.is_dir() && deeper > 0)
            .then(|| newest(&entry.path(), deeper - 1))
            .flatten();
        Some(below.map_or(own, |below| below.max(own)))
    };
    entries.filter_map(of).max()
}

fn systemd() -> Option<Systemd> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let properties = ["LoadState", "Before", "UnitFileState"].map(|name| format!("--property={name}"));
    let mut arguments = vec!["show", "tombolo.service"];
    arguments.extend(properties.iter().map(String::as_str));
    // The folder may be left over from somewhere else; then nobody answers.
    let shown = rules::output("systemctl", &arguments)?.ok()?;
    let property = |name: &str| {
        let line = shown
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_default().to_owned()
    };
    Some(Systemd {
        before: (property("LoadState") == "loaded").then(|| property("Before")),
        enabled: property("UnitFileState"),
    })
}

fn firewalld() -> bool {
    let pid = fs::read_to_string("/run/firewalld.pid").unwrap_or_default();
    pid.trim()
        .parse::<u32>()
        .is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
}
