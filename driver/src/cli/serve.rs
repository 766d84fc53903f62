//! `tombolo serve`: read the settings, turn the log on, be the daemon.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::Common;
use super::client::Client;
use super::failure::Failure;
use crate::config::{Config, LogFormat, Setting};
use crate::hand_over::{self, PROTOCOL, Taken, Wish};

const HELP: &str = "\
Examples:
  tombolo serve
  tombolo serve --log info,tombolo=debug
  tombolo serve --address-pools 10.64.0.0/12:24,fd12:3456:789a::/48:64
  TOMBOLO_STATE_DIR=/srv/tombolo tombolo serve --log-format json
  tombolo serve --take-over             in place of the daemon that runs, without a refused call

Needs root. SIGTERM ends it; networks and containers go on without it.
Each flag has a variable and a key in the file of settings: --state-dir is TOMBOLO_STATE_DIR and state_dir.
All that is wrong with the settings is said at once, with exit code 2, before anything is touched.";

/// The flags of `tombolo serve`: settings as text, judged together with those of the other sources.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Flags {
    /// Socket that Docker speaks to [default: /run/docker/plugins/tombolo.sock]
    #[arg(long, value_name = "PATH")]
    plugin_socket: Option<String>,
    /// Directory of what must survive [default: /var/lib/tombolo]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// Docker engine, asked for names and for what it still knows [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "URL")]
    docker_host: Option<String>,
    /// Ranges that networks without a subnet are cut from, as BASE/PREFIX:SIZE separated by commas
    /// [default: 10.208.0.0/12:24,198.18.0.0/15:24; for IPv6 a ULA /48 of this host's own]
    #[arg(long, value_name = "POOLS", verbatim_doc_comment)]
    address_pools: Option<String>,
    /// Address of this host to publish ports on where neither user nor network names one [default: 0.0.0.0, which is all
    /// of both families]
    #[arg(long, value_name = "ADDRESS", verbatim_doc_comment)]
    host_binding: Option<String>,
    /// Address and port that Prometheus scrapes metrics from, such as 127.0.0.1:9477 [default: off]
    #[arg(long, value_name = "ADDR")]
    metrics_addr: Option<String>,
    /// Hosts whose cluster to join, as ADDRESS or ADDRESS:PORT separated by commas; with --cluster-key-file [default: off]
    #[arg(long, value_name = "HOSTS")]
    join: Option<String>,
    /// File with the cluster's key, mode 0600, as 'tombolo cluster key' writes it [default: off]
    #[arg(long, value_name = "PATH")]
    cluster_key_file: Option<String>,
    /// Where other hosts reach this one: an address, or an interface [default: the source address of the default route]
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<String>,
    /// Port that hosts of a cluster speak at, of UDP and TCP; the same on all of them [default: 7947]
    #[arg(long, value_name = "PORT")]
    cluster_port: Option<String>,
    /// What a host does that has begun anew and that too few answer: lease addresses of its share, or wait for them
    /// [default: lease]
    #[arg(long, value_name = "lease|wait", verbatim_doc_comment)]
    cluster_alone: Option<String>,
    /// Port of UDP of the tunnels between hosts (VXLAN); the same on all of them [default: 4789]
    #[arg(long, value_name = "PORT")]
    vxlan_port: Option<String>,
    /// What decides for the cluster: a majority of its own hosts, or etcd://HOST:PORT of one or several members of an etcd
    /// [default: own]
    #[arg(long, value_name = "own|URL", verbatim_doc_comment)]
    store: Option<String>,
    /// Whether networks of the cluster are made and removed with those of its other hosts [default: on]
    #[arg(long, value_name = "on|off")]
    replicate: Option<String>,
    /// Name of the domain that the names of containers are in; the same on all hosts [default: tombolo.internal]
    #[arg(long, value_name = "DOMAIN")]
    dns_zone: Option<String>,
    /// Whether that domain is open to everybody who reaches this host, at port 53 of the addresses of --advertise; prefixes behind it
    /// may transfer all of it [default: off]
    #[arg(long, value_name = "off|zone[,PREFIX]...", verbatim_doc_comment)]
    dns_export: Option<String>,
    /// Log lines to write: a level, or TARGET=LEVEL pairs separated by commas [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// What log lines look like: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Take the sockets over from the daemon that runs, if one does; it ends
    #[arg(long)]
    take_over: bool,
}

impl Flags {
    /// Serves until told to stop.
    pub fn run(&self, common: &Common) -> Result<(), Failure> {
        let config = common.settings(self.given())?;
        start_log(&config)?;
        crate::host::spare_memory();
        crate::host::more_files();
        let taken = match self.take_over {
            true => take_over(&config)?,
            false => None,
        };
        crate::serve::run(config, taken).map_err(|error| Failure::Serve { source: error.into() })
    }

    fn given(&self) -> BTreeMap<Setting, String> {
        let pairs = [
            (Setting::PluginSocket, &self.plugin_socket),
            (Setting::StateDir, &self.state_dir),
            (Setting::DockerHost, &self.docker_host),
            (Setting::AddressPools, &self.address_pools),
            (Setting::HostBinding, &self.host_binding),
            (Setting::MetricsAddr, &self.metrics_addr),
            (Setting::Join, &self.join),
            (Setting::ClusterKeyFile, &self.cluster_key_file),
            (Setting::Advertise, &self.advertise),
            (Setting::ClusterPort, &self.cluster_port),
            (Setting::ClusterAlone, &self.cluster_alone),
            (Setting::VxlanPort, &self.vxlan_port),
            (Setting::Store, &self.store),
            (Setting::Replicate, &self.replicate),
            (Setting::DnsZone, &self.dns_zone),
            (Setting::DnsExport, &self.dns_export),
            (Setting::Log, &self.log),
            (Setting::LogFormat, &self.log_format),
        ];
        pairs
            .into_iter()
            .filter_map(|(setting, text)| Some((setting, text.clone()?)))
            .collect()
    }
}

/// What the daemon that runs hands over; nothing if none does.
///
/// All that may fail here fails before it is asked, or makes it go on.
fn take_over(config: &Config) -> Result<Option<Taken>, Failure> {
    let serving = |source: crate::serve::Error| Failure::Serve {
        source: source.into(),
    };
    let in_use = |error: &crate::serve::Error| matches!(error, crate::serve::Error::Metrics { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
    let (metrics, lacking) = match crate::serve::metrics_socket(config) {
        Ok(metrics) => (metrics, None),
        // It may be that daemon's own, and then comes with the other sockets.
        Err(error) if in_use(&error) => (None, Some(error)),
        Err(error) => return Err(serving(error)),
    };
    let client = Client::new(config.control_socket.clone());
    let wish = Wish::of(config, lacking.is_some());
    match (client.upgrade("/v1/take-over", PROTOCOL, &wish), lacking) {
        (Ok(stream), _) => hand_over::take(stream, metrics)
            .map(Some)
            .map_err(|error| Failure::Serve { source: error.into() }),
        (Err(Failure::NotRunning { .. }), None) => {
            tracing::info!("no daemon runs, so there is nothing to take over");
            Ok(None)
        }
        (Err(Failure::NotRunning { .. }), Some(error)) => Err(serving(error)),
        (Err(failure), _) => Err(failure),
    }
}

fn start_log(config: &Config) -> Result<(), Failure> {
    let failure = |source| Failure::Process { doing: "log", source };
    let filter = EnvFilter::try_new(&config.log).map_err(|error| failure(error.into()))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let started = match config.log_format {
        // NO_COLOR (no-color.org) is a terminal's own wish, not a setting of ours.
        LogFormat::Human => {
            let colours =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            log.with_ansi(colours).try_init()
        }
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(failure)
}
