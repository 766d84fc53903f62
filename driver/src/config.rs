//! The settings: where each comes from, what it may be, and all that is wrong with them at once.
//!
//! ```text
//!   flag  >  environment  >  file  >  default        one text a setting, with its origin
//!                      |
//!                      v
//!                typed Config, or every fault together
//! ```
//!
//! Flags, environment and file come in as values, so nothing here looks at the process; only [`load`] reads a file.

mod cluster;
mod fault;
mod file;
mod parse;
mod pools;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tombolo_core::model;

use crate::dns::Zone;

pub use cluster::{Advertise, Alone, DnsExport, Join, KeyFile, PLACES, Place, Store};
pub use fault::{Fault, Faults, Origin};
pub use parse::{DockerHost, LogFormat, MetricsAddr, OnOff};
pub use pools::AddressPool;

/// Where the file of settings is looked for unless `--config` or `TOMBOLO_CONFIG` says otherwise.
pub const DEFAULT_FILE: &str = "/etc/tombolo/tombolo.toml";
/// The environment variable that names the file of settings.
pub const FILE_VARIABLE: &str = "TOMBOLO_CONFIG";

/// One setting by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// The socket that Docker speaks to.
    PluginSocket,
    /// The socket that the command line speaks to.
    ControlSocket,
    /// The directory of what must survive.
    StateDir,
    /// The Docker engine whose names we look up.
    DockerHost,
    /// The ranges that networks without a subnet are cut from.
    AddressPools,
    /// The host's address that ports are published on where nobody names one.
    HostBinding,
    /// Where metrics are scraped.
    MetricsAddr,
    /// The hosts whose cluster is joined.
    Join,
    /// The file with the cluster's key.
    ClusterKeyFile,
    /// Where other hosts reach this one.
    Advertise,
    /// The port that hosts of a cluster speak at.
    ClusterPort,
    /// What a host does that has begun anew and that nobody answers.
    ClusterAlone,
    /// The port of the tunnels between hosts.
    VxlanPort,
    /// What decides for a cluster.
    Store,
    /// Whether networks are made and removed with those of other hosts.
    Replicate,
    /// What the names of containers end with.
    DnsZone,
    /// Whether names are told to the outside.
    DnsExport,
    /// How containers come by their links.
    Attach,
    /// Which log lines are wanted.
    Log,
    /// What log lines look like.
    LogFormat,
}

impl Setting {
    /// All settings, in the order in which they are listed.
    pub const ALL: [Self; 20] = [
        Self::PluginSocket,
        Self::ControlSocket,
        Self::StateDir,
        Self::DockerHost,
        Self::AddressPools,
        Self::HostBinding,
        Self::MetricsAddr,
        Self::Join,
        Self::ClusterKeyFile,
        Self::Advertise,
        Self::ClusterPort,
        Self::ClusterAlone,
        Self::VxlanPort,
        Self::Store,
        Self::Replicate,
        Self::DnsZone,
        Self::DnsExport,
        Self::Attach,
        Self::Log,
        Self::LogFormat,
    ];

    /// The setting's key in the file. Its flag and its variable are made from it.
    pub fn key(self) -> &'static str {
        match self {
            Self::PluginSocket => "plugin_socket",
            Self::ControlSocket => "control_socket",
            Self::StateDir => "state_dir",
            Self::DockerHost => "docker_host",
            Self::AddressPools => "address_pools",
            Self::HostBinding => "host_binding",
            Self::MetricsAddr => "metrics_addr",
            Self::Join => "join",
            Self::ClusterKeyFile => "cluster_key_file",
            Self::Advertise => "advertise",
            Self::ClusterPort => "cluster_port",
            Self::ClusterAlone => "cluster_alone",
            Self::VxlanPort => "vxlan_port",
            Self::Store => "store",
            Self::Replicate => "replicate",
            Self::DnsZone => "dns_zone",
            Self::DnsExport => "dns_export",
            Self::Attach => "attach",
            Self::Log => "log",
            Self::LogFormat => "log_format",
        }
    }

    /// The setting's flag, such as `--state-dir`.
    pub fn flag(self) -> String {
        format!("--{}", self.key().replace('_', "-"))
    }

    /// The setting's environment variable, such as `TOMBOLO_STATE_DIR`.
    pub fn variable(self) -> String {
        format!("TOMBOLO_{}", self.key().to_ascii_uppercase())
    }

    /// The setting's value where nothing gives another.
    pub fn default_text(self) -> &'static str {
        match self {
            Self::PluginSocket => "/run/docker/plugins/tombolo.sock",
            Self::ControlSocket => "/run/tombolo/control.sock",
            Self::StateDir => "/var/lib/tombolo",
            Self::DockerHost => "unix:///var/run/docker.sock",
            Self::AddressPools => "10.208.0.0/12:24,198.18.0.0/15:24",
            Self::HostBinding => "0.0.0.0",
            Self::MetricsAddr | Self::Join | Self::ClusterKeyFile | Self::DnsExport => "off",
            Self::Advertise => "auto",
            Self::ClusterPort => "7947",
            Self::ClusterAlone => "lease",
            Self::VxlanPort => "4789",
            Self::Store => "own",
            Self::Replicate => "on",
            Self::DnsZone => crate::dns::ZONE,
            Self::Attach => "classic",
            Self::Log => "info",
            Self::LogFormat => "human",
        }
    }

    /// What the setting may be, for messages.
    pub fn allowed(self) -> &'static str {
        match self {
            Self::PluginSocket | Self::ControlSocket => "an absolute path of at most 107 bytes",
            Self::StateDir => "an absolute path",
            Self::DockerHost => "unix:// and the absolute path of the engine's socket",
            Self::AddressPools => {
                "BASE/PREFIX:SIZE (the size may be left out: 24, or 64 for IPv6), several separated by commas, such as 10.208.0.0/12:24"
            }
            Self::HostBinding => "an address of this host, or 0.0.0.0 for all of both families",
            Self::MetricsAddr => "off, or an IP address and a port, such as 127.0.0.1:9477 or [::1]:9477",
            Self::Join => "off, or ADDRESS or ADDRESS:PORT of hosts, several separated by commas",
            Self::ClusterKeyFile => "off, or the absolute path of a file with the cluster's key, mode 0600",
            Self::Advertise => {
                "auto, or addresses of this host and names of its interfaces, several separated by commas (at most 8)"
            }
            Self::ClusterPort => "a port from 1 to 65535, for UDP and TCP; the same on all hosts",
            Self::ClusterAlone => "lease or wait",
            Self::VxlanPort => "a port of UDP from 1 to 65535; the same on all hosts",
            Self::Store => {
                "own, or etcd:// and HOST or HOST:PORT of the members of one etcd, separated by commas; the same on all hosts"
            }
            Self::Replicate => "on or off",
            Self::DnsZone => "the name of a domain, such as tombolo.internal; the same on all hosts",
            Self::DnsExport => {
                "off, or zone, or zone and behind it, with commas, the addresses and prefixes that may have all of it at once"
            }
            Self::Attach => model::Attach::ALLOWED,
            Self::Log => {
                "a level (off, error, warn, info, debug, trace) and TARGET=LEVEL pairs, such as info,tombolo=debug"
            }
            Self::LogFormat => "human or json",
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// What gives settings their values. A map without an entry for a setting leaves it to the next source.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The flags that were given.
    pub flags: &'a BTreeMap<Setting, String>,
    /// The process's environment. Variables that are no setting are ignored, and so is an empty one;
    /// one that is nearly a setting is told of.
    pub environment: &'a BTreeMap<String, String>,
    /// The file's path and text, where there is a file.
    pub file: Option<(&'a Path, &'a str)>,
    /// Whether a path leads to a directory of this host.
    pub is_directory: fn(&Path) -> bool,
}

/// The settings, each well-formed.
#[derive(Debug, Clone)]
pub struct Config {
    /// The socket that Docker speaks to.
    pub plugin_socket: PathBuf,
    /// The socket that the command line speaks to.
    pub control_socket: PathBuf,
    /// The directory of what must survive.
    pub state_dir: PathBuf,
    /// The Docker engine whose names we look up.
    pub docker_host: DockerHost,
    /// The ranges that networks without a subnet are cut from, in the order in which they are tried. There is always
    /// one of IPv4; where there is none of IPv6 the daemon makes a range of its own once, and keeps it.
    pub address_pools: Vec<AddressPool>,
    /// The host's address that ports are published on where neither user nor network names one.
    pub host_binding: IpAddr,
    /// Where metrics are scraped, if they are.
    pub metrics_addr: MetricsAddr,
    /// The hosts whose cluster is joined, if there are any.
    pub join: Join,
    /// The file with the cluster's key, if there is one.
    pub cluster_key_file: KeyFile,
    /// Where other hosts reach this one.
    pub advertise: Advertise,
    /// The port that hosts of a cluster speak at, of UDP and TCP.
    pub cluster_port: u16,
    /// What a host does that has begun anew and that nobody answers.
    pub cluster_alone: Alone,
    /// The port of the tunnels between hosts, of UDP.
    pub vxlan_port: u16,
    /// What decides for a cluster: a majority of its own hosts, or a store outside of it.
    pub store: Store,
    /// Whether networks are made and removed with those of other hosts.
    pub replicate: OnOff,
    /// What the names of containers end with.
    pub dns_zone: Zone,
    /// Whether names are told to the outside, and to whom all at once.
    pub dns_export: DnsExport,
    /// How containers come by their links on networks that don't say so.
    pub attach: model::Attach,
    /// Which log lines are wanted: a filter that [`tracing_subscriber::EnvFilter`] takes.
    pub log: String,
    /// What log lines look like.
    pub log_format: LogFormat,
    /// Variables of the environment that are spelled much like a setting's and are none, each in words. They are no
    /// fault: others may have variables that begin as ours do.
    pub ignored: Vec<String>,
    origins: BTreeMap<Setting, Origin>,
}

/// One setting as `tombolo status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The setting's key.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where the value came from.
    pub origin: String,
}

impl Config {
    /// Reads all settings from their sources.
    ///
    /// # Errors
    /// Every fault of every source together.
    pub fn read(sources: Sources<'_>) -> Result<Self, Faults> {
        let mut reader = Reader::new(sources);
        let config = reader.config();
        match config {
            Some(config) if reader.faults.is_empty() => Ok(config),
            _ => Err(Faults(reader.faults)),
        }
    }

    /// Where a setting's value came from.
    pub fn origin(&self, setting: Setting) -> &Origin {
        self.origins.get(&setting).unwrap_or(&Origin::Default)
    }

    /// Every setting with its value and where that came from.
    pub fn listing(&self) -> Vec<Listed> {
        Setting::ALL
            .into_iter()
            .map(|setting| Listed {
                name: setting.key(),
                value: self.value(setting),
                origin: self.origin(setting).to_string(),
            })
            .collect()
    }

    fn value(&self, setting: Setting) -> String {
        match setting {
            Setting::PluginSocket => self.plugin_socket.display().to_string(),
            Setting::ControlSocket => self.control_socket.display().to_string(),
            Setting::StateDir => self.state_dir.display().to_string(),
            Setting::DockerHost => self.docker_host.to_string(),
            Setting::AddressPools => pools::list(&self.address_pools),
            Setting::HostBinding => self.host_binding.to_string(),
            Setting::MetricsAddr => self.metrics_addr.to_string(),
            Setting::Join => self.join.to_string(),
            Setting::ClusterKeyFile => self.cluster_key_file.to_string(),
            Setting::Advertise => self.advertise.to_string(),
            Setting::ClusterPort => self.cluster_port.to_string(),
            Setting::ClusterAlone => self.cluster_alone.to_string(),
            Setting::VxlanPort => self.vxlan_port.to_string(),
            Setting::Store => self.store.to_string(),
            Setting::Replicate => self.replicate.to_string(),
            Setting::DnsZone => self.dns_zone.to_string(),
            Setting::DnsExport => self.dns_export.to_string(),
            Setting::Attach => self.attach.to_string(),
            Setting::Log => self.log.clone(),
            Setting::LogFormat => self.log_format.to_string(),
        }
    }
}

/// The sources while they are read: one text a setting, and what was wrong so far.
struct Reader {
    raw: BTreeMap<Setting, (String, Origin)>,
    faults: Vec<Fault>,
    ignored: Vec<String>,
    is_directory: fn(&Path) -> bool,
}

impl Reader {
    fn new(sources: Sources<'_>) -> Self {
        let (mut raw, faults) = match sources.file {
            Some((path, text)) => file::entries(path, text),
            None => (BTreeMap::new(), Vec::new()),
        };
        for setting in Setting::ALL {
            let variable = setting.variable();
            // An empty variable is how compose files and unit files say "not given".
            if let Some(text) = sources.environment.get(&variable).filter(|text| !text.is_empty()) {
                raw.insert(setting, (text.clone(), Origin::Environment(variable)));
            }
            if let Some(text) = sources.flags.get(&setting) {
                raw.insert(setting, (text.clone(), Origin::Flag(setting.flag())));
            }
        }
        Self {
            raw,
            faults,
            ignored: mistyped(sources.environment),
            is_directory: sources.is_directory,
        }
    }

    fn config(&mut self) -> Option<Config> {
        let is_directory = self.is_directory;
        let socket = |text: &str| parse::socket(text, is_directory);
        let plugin_socket = self.take(Setting::PluginSocket, socket);
        let control_socket = self.take(Setting::ControlSocket, socket);
        self.refuse_one_socket_for_two(plugin_socket.as_deref(), control_socket.as_deref());
        let state_dir = self.take(Setting::StateDir, parse::directory);
        let docker_host = self.take(Setting::DockerHost, parse::docker_host);
        let address_pools = self.take(Setting::AddressPools, pools::parse);
        let host_binding = self.take(Setting::HostBinding, parse::address);
        let metrics_addr = self.take(Setting::MetricsAddr, parse::metrics_addr);
        let join = self.take(Setting::Join, cluster::join);
        let cluster_key_file = self.take(Setting::ClusterKeyFile, cluster::key_file);
        let advertise = self.take(Setting::Advertise, cluster::advertise);
        let cluster_port = self.take(Setting::ClusterPort, cluster::port);
        let cluster_alone = self.take(Setting::ClusterAlone, cluster::alone);
        let vxlan_port = self.take(Setting::VxlanPort, cluster::port);
        let store = self.take(Setting::Store, cluster::store);
        let replicate = self.take(Setting::Replicate, parse::on_off);
        let dns_zone = self.take(Setting::DnsZone, cluster::zone);
        let dns_export = self.take(Setting::DnsExport, cluster::dns_export);
        let attach = self.take(Setting::Attach, parse::attach);
        let log = self.take(Setting::Log, parse::filter);
        let log_format = self.take(Setting::LogFormat, parse::log_format);
        let origins = self
            .raw
            .iter()
            .map(|(setting, (_, origin))| (*setting, origin.clone()))
            .collect();
        Some(Config {
            plugin_socket: plugin_socket?,
            control_socket: control_socket?,
            state_dir: state_dir?,
            docker_host: docker_host?,
            address_pools: address_pools?,
            host_binding: host_binding?,
            metrics_addr: metrics_addr?,
            join: join?,
            cluster_key_file: cluster_key_file?,
            advertise: advertise?,
            cluster_port: cluster_port?,
            cluster_alone: cluster_alone?,
            vxlan_port: vxlan_port?,
            store: store?,
            replicate: replicate?,
            dns_zone: dns_zone?,
            dns_export: dns_export?,
            attach: attach?,
            log: log?,
            log_format: log_format?,
            ignored: std::mem::take(&mut self.ignored),
            origins,
        })
    }

    /// One setting's value, or nothing and its faults on the list.
    fn take<T>(&mut self, setting: Setting, parse: impl Fn(&str) -> parse::Parsed<T>) -> Option<T> {
        let (text, origin) = match self.raw.get(&setting) {
            Some((text, origin)) => (text.as_str(), origin.clone()),
            None => (setting.default_text(), Origin::Default),
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(wrongs) => {
                let faults = wrongs.into_iter().map(|wrong| Fault::Value {
                    setting,
                    origin: origin.clone(),
                    got: wrong.got,
                    why: wrong.why,
                });
                self.faults.extend(faults);
                None
            }
        }
    }

    fn refuse_one_socket_for_two(&mut self, plugin: Option<&Path>, control: Option<&Path>) {
        if let (Some(plugin), Some(control)) = (plugin, control)
            && plugin == control
        {
            let origin = self
                .raw
                .get(&Setting::ControlSocket)
                .map_or(Origin::Default, |(_, origin)| origin.clone());
            self.faults.push(Fault::Value {
                setting: Setting::ControlSocket,
                origin,
                got: control.display().to_string(),
                why: "it is the plugin_socket as well".to_owned(),
            });
        }
    }
}

/// Variables that are spelled much like a setting's and are none, with the one that may be meant.
fn mistyped(environment: &BTreeMap<String, String>) -> Vec<String> {
    let known = |name: &str| name == FILE_VARIABLE || Setting::ALL.iter().any(|s| s.variable() == name);
    let of = |name: &String| {
        let key = name.strip_prefix("TOMBOLO_").filter(|_| !known(name))?;
        let nearest = Setting::ALL
            .into_iter()
            .find(|s| file::nearest(key) == Some(s.key()))?;
        Some(format!(
            "the variable {name} is no setting and is ignored; did you mean {}?",
            nearest.variable()
        ))
    };
    environment.keys().filter_map(of).collect()
}

/// Reads all settings, and the file from the disk. A file that nobody named may be absent.
///
/// # Errors
/// Every fault together, an unreadable file among them.
pub fn load(
    flags: &BTreeMap<Setting, String>,
    file_flag: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<Config, Faults> {
    let (path, origin) = match (
        file_flag,
        environment.get(FILE_VARIABLE).filter(|text| !text.is_empty()),
    ) {
        (Some(path), _) => (path.to_owned(), Origin::Flag("--config".to_owned())),
        (None, Some(path)) => (PathBuf::from(path), Origin::Environment(FILE_VARIABLE.to_owned())),
        (None, None) => (PathBuf::from(DEFAULT_FILE), Origin::Default),
    };
    let (text, unreadable) = match std::fs::read_to_string(&path) {
        Ok(text) => (Some(text), None),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound && origin == Origin::Default => {
            (None, None)
        }
        Err(source) => (
            None,
            Some(Fault::Unreadable {
                path: path.clone(),
                origin,
                source,
            }),
        ),
    };
    let file = text.as_deref().map(|text| (path.as_path(), text));
    let config = Config::read(Sources {
        flags,
        environment,
        file,
        is_directory: Path::is_dir,
    });
    match (unreadable, config) {
        (None, config) => config,
        (Some(fault), Ok(_)) => Err(Faults(vec![fault])),
        (Some(fault), Err(Faults(more))) => Err(Faults(std::iter::once(fault).chain(more).collect())),
    }
}
