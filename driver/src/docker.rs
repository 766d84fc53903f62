//! The Docker engine's own API, read in the background: which networks, endpoints and addresses it has, and their names.
//!
//! No handler ever calls this: the engine holds locks while it waits for us, and would wait for ever (a container's
//! inspection blocks during its start, every call blocks during the engine's start). What is read here goes to our
//! engine as one message; see `engine::reconcile` for what becomes of it.
//!
//! As a managed plug-in we bear whatever name we were given (`acme/net:2`), and our networks have that for their driver.
//! The engine knows it, by the plug-in's id, which is the name of the folder that our socket is in.

mod events;
mod names;
pub mod networks;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tombolo_core::kinds::options::{FromText, Switch};
use tombolo_core::model::{EndpointId, IfName, Mac, NetworkId};
use tombolo_core::wire::way_out_name;
use tombolo_core::world::Family;

use self::events::EventStream;
use self::names::Inspections;
pub use self::names::Named;
use crate::engine::Ask;
use crate::engine::reconcile::is_driver;
use crate::replicas::{self, Replicas, Us};

/// How long the engine may take for one answer. It is in no hurry, and neither are we.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks when nothing happens.
const QUIET: Duration = Duration::from_secs(10);
/// Between an event and the look that follows it; events in between share it.
const SETTLE: Duration = Duration::from_millis(500);
/// Between two attempts to reach an engine that doesn't answer.
const RETRY: Duration = Duration::from_secs(2);
/// The events after which something that is read here may be another. A healthcheck has three events of its own every
/// few seconds, none of them among these. It is `{"type":["network","container"],"event":["create",…]}`.
const FILTERS: &str = concat!(
    "%7B%22type%22%3A%5B%22network%22%2C%22container%22%5D%2C",
    "%22event%22%3A%5B%22create%22%2C%22connect%22%2C%22disconnect%22%2C%22destroy%22%2C%22remove%22%2C%22rename%22%5D%7D"
);
/// The largest answer that is read.
const ANSWER_MAX: usize = 64 << 20;

/// Why the engine could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its socket can't be reached.
    #[error("{}: {error} (is the Docker engine running?)", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// It didn't answer as it should.
    #[error("{call}: {why}")]
    Answer {
        /// What was asked.
        call: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// It refused.
    #[error("{call}: {why}")]
    Refused {
        /// What was asked.
        call: String,
        /// The status of its answer.
        status: u16,
        /// Why, as it says it.
        why: String,
    },
}

/// The engine's option that names a bridge.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

/// What the engine has, as far as it concerns us.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The engine's identifier.
    pub engine: String,
    /// Its version.
    pub version: String,
    /// Whether its containers outlive it (`live-restore`).
    pub live_restore: bool,
    /// Networks with our network driver or our IPAM.
    pub networks: Vec<NetworkView>,
    /// Bridges of the engine's own that bear names of a user's choice.
    pub bridges: BTreeSet<IfName>,
}

/// A network as the engine sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkView {
    /// Its identifier.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Its IPAM driver.
    pub ipam_driver: String,
    /// Whether it is internal.
    pub internal: bool,
    /// Whether it has IPv6.
    pub v6: bool,
    /// Its options.
    pub options: BTreeMap<String, String>,
    /// Whether its addresses are lent by a server of its wire.
    pub lent: bool,
    /// Its subnets.
    pub subnets: Vec<SubnetView>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// A subnet as the engine sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct SubnetView {
    /// Its addresses.
    pub pool: IpNet,
    /// Those that are given out.
    pub range: Option<IpNet>,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// Kept for other things.
    pub aux: Vec<IpAddr>,
    /// The containers' way out, where it isn't the gateway.
    pub way_out: Option<IpAddr>,
}

/// An endpoint as the engine sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// Its identifier.
    pub id: EndpointId,
    /// The container's identifier; empty where the engine tells none.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Its hardware address.
    pub mac: Option<Mac>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(rename = "ID")]
    id: String,
    server_version: String,
    #[serde(default)]
    live_restore_enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkJson {
    id: String,
    name: String,
    driver: String,
    #[serde(default)]
    internal: bool,
    #[serde(rename = "EnableIPv6", default)]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: IpamJson,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    containers: Option<BTreeMap<String, ContainerJson>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IpamJson {
    #[serde(default)]
    driver: String,
    #[serde(default)]
    config: Option<Vec<SubnetJson>>,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SubnetJson {
    #[serde(default)]
    subnet: String,
    #[serde(rename = "IPRange", default)]
    ip_range: String,
    #[serde(default)]
    gateway: String,
    #[serde(default)]
    auxiliary_addresses: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerJson {
    #[serde(default)]
    name: String,
    #[serde(rename = "EndpointID", default)]
    endpoint_id: String,
    #[serde(default)]
    mac_address: String,
    #[serde(rename = "IPv4Address", default)]
    ipv4_address: String,
    #[serde(rename = "IPv6Address", default)]
    ipv6_address: String,
}

/// A managed plug-in.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PluginJson {
    id: String,
    name: String,
}

impl NetworkJson {
    /// Puts our driver's name in the place of the one that we have as a managed plug-in.
    fn rename(&mut self, plugin: Option<&PluginJson>, driver: &str) {
        for name in [&mut self.driver, &mut self.ipam.driver] {
            if plugin.is_some_and(|plugin| plugin.name == *name) {
                driver.clone_into(name);
            }
        }
    }
}

/// What the engine calls us as a managed plug-in; none if we are not one.
async fn own_plugin(socket: &Path) -> Result<Option<PluginJson>, Error> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(id) = plugin_id(&mounts) else {
        return Ok(None);
    };
    let all: Vec<PluginJson> = get_json(socket, "/plugins").await?;
    Ok(all.into_iter().find(|plugin| plugin.id == id))
}

/// The id of the managed plug-in that we are: `/run/docker/plugins` is then a folder of the host that is named by it.
fn plugin_id(mounts: &str) -> Option<&str> {
    let folders = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(3);
        let (folder, place) = (words.next()?, words.next()?);
        (place == "/run/docker/plugins").then_some(folder)
    });
    let mut names = folders.filter_map(|folder| folder.rsplit('/').next());
    names.find(|name| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Follows the engine for ever: a look at the start, after events, and now and then. One that is not there is looked for
/// every [`RETRY`], and as soon as `called` tells that it has called us: its socket is there before it calls anybody, so
/// our question waits there, and is answered the moment it serves.
pub async fn follow(
    socket: PathBuf,
    driver: String,
    asks: mpsc::Sender<Ask>,
    called: Arc<Notify>,
    replicas: Arc<Replicas>,
) {
    let mut told = String::new();
    loop {
        let followed = follow_once(&socket, &driver, &asks, &replicas).await;
        replicas.engine(None);
        let error = match followed {
            Ok(()) => return,
            Err(error) => error.to_string(),
        };
        if told != error {
            tracing::warn!(%error, "the Docker engine can't be asked for names and leftovers; tried again every few seconds");
            told.clone_from(&error);
        }
        if asks.send(Ask::Docker(Err(error))).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = called.notified() => {}
        }
    }
}

/// Ends well only when our engine has ended.
async fn follow_once(
    socket: &Path,
    driver: &str,
    asks: &mpsc::Sender<Ask>,
    replicas: &Replicas,
) -> Result<(), Error> {
    // The events first, so that nothing slips in between them and the first look.
    let mut events = EventStream::new(get(socket, &format!("/events?filters={FILTERS}")).await?);
    let info: Info = get_json(socket, "/info").await?;
    let plugin = own_plugin(socket).await?;
    let ours =
        |name: &str| is_driver(name, driver) || plugin.as_ref().is_some_and(|plugin| plugin.name == name);
    replicas.engine(Some(replicas::Engine {
        id: info.id.clone(),
        us: Us {
            driver: driver.to_owned(),
            plugin: plugin.as_ref().map(|plugin| plugin.name.clone()),
        },
    }));
    let mut inspections = Inspections::new(socket.to_owned());
    loop {
        let view = look(socket, driver, plugin.as_ref(), &info).await?;
        let networks = view.networks.iter().filter(|n| is_driver(&n.driver, driver));
        let endpoints = networks.flat_map(|n| &n.endpoints);
        inspections.look(endpoints.map(|e| (e.container.as_str(), e.id.clone(), e.name.as_str())));
        if asks.send(Ask::Docker(Ok(view))).await.is_err() {
            return Ok(());
        }
        let mut due = Instant::now() + QUIET;
        loop {
            tokio::select! {
                event = events.next() => {
                    // One look serves all events that come until then.
                    due = due.min(Instant::now() + SETTLE);
                    let event = event?;
                    if event.is_of_networks() {
                        replicas.poke();
                    }
                    if let Some(container) = event.renamed(ours, |container| inspections.knows(container)) {
                        inspections.inspect(&container);
                    }
                }
                named = inspections.found() => {
                    if !named.is_empty() && asks.send(Ask::Called(named)).await.is_err() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(due) => break,
            }
        }
    }
}

/// Asks the engine for all that concerns us. An error when one of the calls fails: half a view would look like things
/// missing.
async fn look(socket: &Path, driver: &str, plugin: Option<&PluginJson>, info: &Info) -> Result<View, Error> {
    let mut networks: Vec<NetworkJson> = get_json(socket, "/networks").await?;
    networks.iter_mut().for_each(|n| n.rename(plugin, driver));
    let ours = |n: &NetworkJson| is_driver(&n.driver, driver) || is_driver(&n.ipam.driver, driver);
    // The names that the engine gives by itself are known without it.
    let usual = |name: &IfName| name.as_str() == "docker0" || name.as_str().starts_with("br-");
    let bridge = |n: &NetworkJson| {
        let name = n.options.as_ref()?.get(BRIDGE_NAME)?.parse().ok();
        name.filter(|name| !usual(name))
    };
    let mut view = View {
        engine: info.id.clone(),
        version: info.server_version.clone(),
        live_restore: info.live_restore_enabled,
        networks: Vec::new(),
        bridges: networks
            .iter()
            .filter(|n| n.driver == "bridge")
            .filter_map(bridge)
            .collect(),
    };
    for network in networks.into_iter().filter(ours) {
        match get_json::<NetworkJson>(socket, &format!("/networks/{}", network.id)).await {
            Ok(mut network) => {
                network.rename(plugin, driver);
                view.networks.extend(network_view(network));
            }
            // Removed since the list was made.
            Err(Error::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(view)
}

fn network_view(json: NetworkJson) -> Option<NetworkView> {
    let subnet = |s: &SubnetJson| {
        let aux = s
            .auxiliary_addresses
            .iter()
            .flatten()
            .filter_map(|(_, text)| address(text));
        let (aux, range, gateway) = (aux.collect(), s.ip_range.parse().ok(), address(&s.gateway));
        let pool = s.subnet.parse::<IpNet>().ok()?.trunc();
        let name = way_out_name(Family::of(pool.addr()));
        let way_out = s.auxiliary_addresses.as_ref().and_then(|aux| aux.get(name));
        Some(SubnetView {
            pool,
            range,
            gateway,
            aux,
            way_out: way_out.and_then(|text| address(text)),
        })
    };
    let endpoint = |container: &str, c: &ContainerJson| {
        let addresses = [&c.ipv4_address, &c.ipv6_address]
            .into_iter()
            .filter_map(|text| text.parse().ok());
        let (addresses, mac) = (addresses.collect(), c.mac_address.parse().ok());
        Some(EndpointView {
            id: c.endpoint_id.parse().ok()?,
            container: container.to_owned(),
            name: c.name.clone(),
            addresses,
            mac,
        })
    };
    Some(NetworkView {
        id: json.id.parse().ok()?,
        name: json.name,
        driver: json.driver,
        ipam_driver: json.ipam.driver,
        internal: json.internal,
        v6: json.enable_ipv6,
        options: json.options.unwrap_or_default(),
        lent: json
            .ipam
            .options
            .iter()
            .flatten()
            .any(|(name, value)| name == "dhcp" && Switch::from_text(value).is_none_or(|Switch(on)| on)),
        subnets: json.ipam.config.iter().flatten().filter_map(subnet).collect(),
        endpoints: json
            .containers
            .iter()
            .flatten()
            .filter_map(|(container, c)| endpoint(container, c))
            .collect(),
    })
}

/// An address that may have a prefix length.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next().and_then(|text| text.parse().ok())
}

/// Asks the engine one question, for a person at the command line who waits for the answer.
///
/// # Errors
/// See [`Error`].
pub async fn ask(socket: &Path, call: &str) -> Result<serde_json::Value, Error> {
    get_json(socket, call).await
}

async fn get_json<T: DeserializeOwned>(socket: &Path, call: &str) -> Result<T, Error> {
    let read = async { read(&format!("GET {call}"), get(socket, call).await?).await };
    in_time(TIMEOUT, &format!("GET {call}"), read).await
}

/// Waits for an answer no longer than this.
async fn in_time<T>(
    time: Duration,
    call: &str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let late = |late: tokio::time::error::Elapsed| Error::Answer {
        call: call.to_owned(),
        why: late.to_string(),
    };
    tokio::time::timeout(time, answer).await.map_err(late)?
}

async fn bytes_of(call: &str, body: Incoming) -> Result<Bytes, Error> {
    let body = http_body_util::Limited::new(body, ANSWER_MAX).collect().await;
    let body = body.map_err(|error| Error::Answer {
        call: call.to_owned(),
        why: error.to_string(),
    });
    Ok(body?.to_bytes())
}

async fn read<T: DeserializeOwned>(call: &str, body: Incoming) -> Result<T, Error> {
    let bytes = bytes_of(call, body).await?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Answer {
        call: call.to_owned(),
        why: error.to_string(),
    })
}

/// The body of an answer, of which only the beginning may have come.
async fn get(socket: &Path, call: &str) -> Result<Incoming, Error> {
    let asked = send(socket, Method::GET, call, Bytes::new());
    in_time(TIMEOUT, &format!("GET {call}"), asked).await
}

/// What the engine says where it refuses.
#[derive(Deserialize)]
struct RefusalJson {
    message: String,
}

/// Sends one request, and gives the body of the answer if it is a good one.
async fn send(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Incoming, Error> {
    let call = format!("{method} {path}");
    let answer = |why: String| Error::Answer {
        call: call.clone(),
        why,
    };
    let connect = |error| Error::Connect {
        path: socket.to_owned(),
        error,
    };
    let stream = UnixStream::connect(socket).await.map_err(connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| answer(e.to_string()))?;
    tokio::spawn(connection);
    let request = hyper::Request::builder().method(method).uri(path);
    let request = request
        .header("Host", "docker")
        .header("Content-Type", "application/json")
        .body(Full::new(body));
    let request = request.map_err(|error| answer(error.to_string()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| answer(error.to_string()))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response.into_body());
    }
    let text = bytes_of(&call, response.into_body()).await?;
    let refusal: Option<RefusalJson> = serde_json::from_slice(&text).ok();
    Err(Error::Refused {
        call,
        status: status.as_u16(),
        why: refusal.map_or_else(|| status.to_string(), |refusal| refusal.message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_managed_plug_in_knows_its_id_and_no_other_process_has_one() {
        let id = "0f".repeat(32);
        let mounts = format!(
            "36 35 98:0 / / rw shared:1 - ext4 /dev/vda rw\n\
             41 36 0:21 /docker/plugins/{id} /run/docker/plugins rw - tmpfs tmpfs rw\n"
        );
        assert_eq!(plugin_id(&mounts), Some(id.as_str()));
        assert_eq!(
            plugin_id("41 36 0:21 /docker/plugins /run/docker/plugins rw - tmpfs tmpfs rw"),
            None
        );
        assert_eq!(plugin_id("22 1 0:21 / /run rw - tmpfs tmpfs rw"), None);
    }

    #[test]
    fn the_name_of_a_managed_plug_in_is_taken_for_the_drivers() {
        let text = r#"{"Id":"a","Name":"n","Driver":"acme/net:2","IPAM":{"Driver":"acme/net:2"}}"#;
        let plugin = PluginJson {
            id: "b".into(),
            name: "acme/net:2".into(),
        };
        let mut network: NetworkJson = serde_json::from_str(text).unwrap();
        network.rename(None, "tombolo");
        assert_eq!(network.driver, "acme/net:2");
        network.rename(Some(&plugin), "tombolo");
        assert_eq!(
            (network.driver.as_str(), network.ipam.driver.as_str()),
            ("tombolo", "tombolo")
        );
    }
}
