//! `NetworkDriver.*`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Call, Error, Object, body, nullable, parse};
use crate::kinds::options::{FromText, Options, Rate};
use crate::kinds::{Joined, Spec};
use crate::model::{Attach, EndpointId, Mac, Network, NetworkId, PortWish, Proto, Subnet, cut};
use crate::state::Command;
use crate::world::Family;

/// Where the user's options stand among the engine's.
const GENERIC: &str = "com.docker.network.generic";
const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
const INTERNAL: &str = "com.docker.network.internal";
const PORT_MAP: &str = "com.docker.network.portmap";
/// What the engine's own options of an endpoint begin with.
const ENGINES: &str = "com.docker.network.";

/// Docker's name of the aux address that is the containers' gateway in place of the bridge's own address.
pub fn way_out_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "DefaultGatewayIPv4",
        Family::V6 => "DefaultGatewayIPv6",
    }
}

/// The option of an endpoint that limits what it is sent.
const RATE: &str = "rate";

/// The engine's option of an endpoint that names settings of its link (27 and later).
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

type Map = BTreeMap<String, Value>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(default, deserialize_with = "nullable")]
    options: Map,
    #[serde(rename = "IPv4Data", default, deserialize_with = "nullable")]
    ipv4_data: Vec<Object<IpamData>>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "nullable")]
    ipv6_data: Vec<Object<IpamData>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IpamData {
    #[serde(default, deserialize_with = "nullable")]
    address_space: String,
    #[serde(default, deserialize_with = "nullable")]
    pool: String,
    #[serde(default, deserialize_with = "nullable")]
    gateway: String,
    #[serde(default, deserialize_with = "nullable")]
    aux_addresses: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct OptionsOnly {
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    options: Map,
}

#[derive(Deserialize)]
struct OfNetwork {
    #[serde(rename = "NetworkID")]
    network_id: String,
}

#[derive(Deserialize)]
struct OfEndpoint {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    options: Map,
    #[serde(rename = "SandboxKey", default, deserialize_with = "nullable")]
    sandbox_key: String,
    #[serde(rename = "Interface", default, deserialize_with = "nullable")]
    interface: Object<Interface>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Interface {
    #[serde(default, deserialize_with = "nullable")]
    address: String,
    #[serde(rename = "AddressIPv6", default, deserialize_with = "nullable")]
    address_ipv6: String,
    #[serde(default, deserialize_with = "nullable")]
    mac_address: String,
}

#[derive(Deserialize)]
struct PortBinding {
    #[serde(rename = "Proto")]
    proto: u8,
    #[serde(rename = "Port")]
    port: u16,
    #[serde(rename = "HostIP", default, deserialize_with = "nullable")]
    host_ip: String,
    #[serde(rename = "HostPort", default, deserialize_with = "nullable")]
    host_port: u16,
    #[serde(rename = "HostPortEnd", default, deserialize_with = "nullable")]
    host_port_end: u16,
}

pub(super) fn read(method: &str, name: &str, bytes: &[u8]) -> Result<Call, Error> {
    match name {
        // Local scope: every host has networks of its own, which is what an engine without Swarm can keep.
        "GetCapabilities" => Ok(Call::Fixed(json!({
            "Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": true
        }))),
        "GwAllocCheck" => {
            // Asked before any address is, so a bad option is refused before there is anything to take back.
            let request: OptionsOnly = body(method, bytes)?;
            let spec = spec(&request.options)?;
            let internal = flag(&request.options, INTERNAL)?.unwrap_or(false);
            let skip = |v6| spec.kind().without_gateway(internal, v6);
            Ok(Call::Fixed(
                json!({ "SkipIPv4": skip(false), "SkipIPv6": skip(true) }),
            ))
        }
        // These two are a Swarm manager's, which refuses this sort of plug-in anyway.
        "AllocateNetwork" => body::<OfNetwork>(method, bytes).map(|_| Call::Fixed(json!({ "Options": {} }))),
        "FreeNetwork" => body::<OfNetwork>(method, bytes).map(|_| Call::Fixed(json!({}))),
        "CreateNetwork" => create_network(&body(method, bytes)?).map(|n| Call::to(Command::CreateNetwork(n))),
        "DeleteNetwork" => {
            let request: OfNetwork = body(method, bytes)?;
            Ok(of_known(&request.network_id, Command::DeleteNetwork))
        }
        "CreateEndpoint" => create_endpoint(&body(method, bytes)?).map(Call::to),
        "DeleteEndpoint" => take_down(method, bytes, Command::DeleteEndpoint),
        "Leave" => take_down(method, bytes, Command::Leave),
        "RevokeExternalConnectivity" => take_down(method, bytes, Command::Unpublish),
        // The engine ignores ports that a plug-in reports here, in every version; it wants an answer only.
        // As it is always the same, it is given to a repeat without a body as well.
        "EndpointOperInfo" if bytes.is_empty() => Ok(Call::Fixed(nothing_to_tell())),
        "EndpointOperInfo" => {
            let request: OfEndpoint = body(method, bytes)?;
            let id = request.endpoint_id.parse();
            Ok(id.map_or_else(|_| Call::Fixed(nothing_to_tell()), Call::Asked))
        }
        "Join" => {
            let request: OfEndpoint = body(method, bytes)?;
            let (network, endpoint) = ids(&request)?;
            if request.sandbox_key.is_empty() || request.sandbox_key.len() > SANDBOX_MAX {
                let why = format!(
                    "{} bytes; 1 to {SANDBOX_MAX} are allowed",
                    request.sandbox_key.len()
                );
                return Err(Error::Field {
                    field: "SandboxKey",
                    why,
                });
            }
            Ok(Call::to(Command::Join {
                network,
                endpoint,
                sandbox: request.sandbox_key,
            }))
        }
        "ProgramExternalConnectivity" => {
            let request: OfEndpoint = body(method, bytes)?;
            let (network, endpoint) = ids(&request)?;
            Ok(Call::to(Command::Publish {
                network,
                endpoint,
                wishes: wishes(&request.options)?,
            }))
        }
        // Events of Swarm's nodes.
        "DiscoverNew" | "DiscoverDelete" => body::<Map>(method, bytes).map(|_| Call::Fixed(json!({}))),
        _ => Err(Error::NoMethod { method: cut(method) }),
    }
}

/// What there is to know of an endpoint.
pub fn nothing_to_tell() -> Value {
    json!({ "Value": {} })
}

/// The longest path of a sandbox: the kernel's PATH_MAX.
const SANDBOX_MAX: usize = 4096;

/// A command about something that we may not have: an identifier that we would never have taken names nothing of ours.
fn of_known<T: std::str::FromStr>(id: &str, command: impl Fn(T) -> Command) -> Call {
    id.parse()
        .map_or_else(|_| Call::Fixed(json!({})), |id| Call::to(command(id)))
}

fn take_down(method: &str, bytes: &[u8], command: impl Fn(EndpointId) -> Command) -> Result<Call, Error> {
    let request: OfEndpoint = body(method, bytes)?;
    Ok(of_known(&request.endpoint_id, command))
}

fn ids(request: &OfEndpoint) -> Result<(NetworkId, EndpointId), Error> {
    let network = request
        .network_id
        .parse()
        .map_err(Error::malformed("NetworkID"))?;
    let endpoint = request
        .endpoint_id
        .parse()
        .map_err(Error::malformed("EndpointID"))?;
    Ok((network, endpoint))
}

fn flag(options: &Map, key: &'static str) -> Result<Option<bool>, Error> {
    match options.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => {
            let why = format!("'{}' is not true or false", cut(&other.to_string()));
            Err(Error::Field { field: key, why })
        }
    }
}

/// What the user has said with `-o`.
fn given(options: &Map) -> Result<BTreeMap<String, String>, Error> {
    let given: BTreeMap<String, Value> = match options.get(GENERIC) {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(Value::Object(map)) => map.clone().into_iter().collect(),
        Some(other) => {
            let why = format!("'{}' is not an object of options", cut(&other.to_string()));
            return Err(Error::Field { field: GENERIC, why });
        }
    };
    let text = |(key, value): (String, Value)| match value {
        Value::String(text) => Ok((key, text)),
        other => {
            let why = format!("{}: '{}' is not a text", cut(&key), cut(&other.to_string()));
            Err(Error::Field { field: GENERIC, why })
        }
    };
    given.into_iter().map(text).collect()
}

/// The kind and its options.
fn spec(options: &Map) -> Result<Spec, Error> {
    let v6 = flag(options, ENABLE_IPV6)?.unwrap_or(false);
    Ok(Spec::read(Options::new(given(options)?), v6)?)
}

fn create_network(request: &CreateNetwork) -> Result<Network, Error> {
    let id = request
        .network_id
        .parse()
        .map_err(Error::malformed("NetworkID"))?;
    flag(&request.options, ENABLE_IPV4)?;
    let subnet = |Object(data): &Object<IpamData>| -> Result<Subnet, Error> {
        let allowed = "a subnet such as 10.208.0.0/24";
        let pool: Option<IpNet> = parse("Pool", &data.pool, allowed)?;
        let why = || format!("'{}' is not {allowed}", cut(&data.pool));
        let pool = pool
            .ok_or_else(|| Error::Field {
                field: "Pool",
                why: why(),
            })?
            .trunc();
        let gateway = parse("Gateway", &data.gateway, "an address with its prefix length")?;
        // The engine's own IPAM sends an aux address outside --ip-range as the text "<nil>"; it is no address of ours.
        let aux = data
            .aux_addresses
            .values()
            .filter_map(|text| text.parse::<IpNet>().ok());
        let aux = aux
            .map(|net| net.addr())
            .filter(|address| pool.contains(address))
            .collect();
        let name = way_out_name(Family::of(pool.addr()));
        let way_out = match data.aux_addresses.get(name) {
            Some(text) => parse::<IpNet>(name, text, "an address of the subnet")?.map(|net| net.addr()),
            None => None,
        };
        if let Some(outside) = way_out.filter(|address| !pool.contains(address)) {
            let why = format!("'{outside}' is not in {pool}; an address of the subnet is allowed");
            return Err(Error::Field { field: name, why });
        }
        Ok(Subnet {
            pool,
            gateway,
            aux,
            way_out,
            ours: super::ipam::is_ours(&data.address_space),
        })
    };
    let subnets = request
        .ipv4_data
        .iter()
        .chain(&request.ipv6_data)
        .map(subnet)
        .collect::<Result<_, _>>()?;
    Ok(Network {
        id,
        spec: spec(&request.options)?,
        internal: flag(&request.options, INTERNAL)?.unwrap_or(false),
        subnets,
        released: false,
        attach: Attach::among(&given(&request.options)?),
    })
}

fn create_endpoint(request: &OfEndpoint) -> Result<Command, Error> {
    let (network, id) = ids(request)?;
    let known = |key: &&String| key.as_str() == RATE || key.starts_with(ENGINES);
    if let Some(key) = request.options.keys().find(|key| !known(key)) {
        let why = format!("{}: unknown; a bridge network's endpoint knows: {RATE}", cut(key));
        return Err(Error::Field {
            field: "Options",
            why,
        });
    }
    wishes(&request.options)?;
    let rate = match request.options.get(RATE) {
        None => None,
        Some(value) => {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned);
            let rate = Rate::from_text(&text).ok_or_else(|| Error::Field {
                field: RATE,
                why: format!("'{}' is not {}", cut(&text), Rate::ALLOWED),
            })?;
            Some(rate.0)
        }
    };
    let sysctls = match request.options.get(SYSCTLS) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text.split(',').map(ToOwned::to_owned).collect(),
        Some(other) => {
            let why = format!("'{}' is not a text", cut(&other.to_string()));
            return Err(Error::Field { field: SYSCTLS, why });
        }
    };
    let of_family = |field, text: &str, v6: bool, allowed: &str| -> Result<Option<IpNet>, Error> {
        let address: Option<IpNet> = parse(field, text, allowed)?;
        match address.filter(|a| a.addr().is_ipv6() != v6) {
            Some(_) => Err(Error::Field {
                field,
                why: format!("'{}' is not {allowed}", cut(text)),
            }),
            None => Ok(address),
        }
    };
    let v4 = of_family(
        "Interface.Address",
        &request.interface.0.address,
        false,
        "an IPv4 address with its prefix length",
    )?;
    let text = &request.interface.0.address_ipv6;
    let v6 = of_family(
        "Interface.AddressIPv6",
        text,
        true,
        "an IPv6 address with its prefix length",
    )?;
    let mac = match request.interface.0.mac_address.as_str() {
        "" => None,
        text => Some(
            text.parse::<Mac>()
                .map_err(Error::malformed("Interface.MacAddress"))?,
        ),
    };
    Ok(Command::CreateEndpoint {
        id,
        network,
        addresses: v4.into_iter().chain(v6).collect(),
        mac,
        rate,
        sysctls,
    })
}

/// The ports that the user wants published.
fn wishes(options: &Map) -> Result<Vec<PortWish>, Error> {
    let bindings: Vec<Object<PortBinding>> = match options.get(PORT_MAP) {
        None => Vec::new(),
        Some(value) => {
            let read: Result<Option<Vec<Object<PortBinding>>>, _> =
                serde_path_to_error::deserialize(value.clone());
            let why = |error: serde_path_to_error::Error<serde_json::Error>| cut(&error.to_string());
            read.map_err(|error| Error::Field {
                field: PORT_MAP,
                why: why(error),
            })?
            .unwrap_or_default()
        }
    };
    bindings.iter().map(|Object(binding)| wish(binding)).collect()
}

fn wish(binding: &PortBinding) -> Result<PortWish, Error> {
    let field = |why| Error::Field { field: PORT_MAP, why };
    let proto = Proto::from_number(binding.proto);
    let proto = proto.ok_or_else(|| {
        field(format!(
            "Proto: {} is not 6 (TCP), 17 (UDP) or 132 (SCTP)",
            binding.proto
        ))
    })?;
    let host: Option<IpAddr> = parse("HostIP", &binding.host_ip, "an address of this host")?;
    let last = binding.host_port_end.max(binding.host_port);
    if binding.port == 0 {
        return Err(field("Port: 0; 1 to 65535 are allowed".to_owned()));
    }
    if binding.host_port == 0 && last != 0 {
        return Err(field(format!(
            "HostPort: 0 with HostPortEnd {last}; both or neither are allowed"
        )));
    }
    Ok(PortWish {
        proto,
        host,
        first: binding.host_port,
        last,
        port: binding.port,
    })
}

pub(super) fn endpoint_answer(chosen: Option<Mac>) -> Value {
    // A value that the engine gave must not be repeated: it takes even an equal one for a change, and refuses it.
    match chosen {
        Some(mac) => json!({ "Interface": { "MacAddress": mac.to_string() } }),
        None => json!({ "Interface": {} }),
    }
}

pub(super) fn join_answer(joined: &Joined) -> Value {
    let text = |address: Option<IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    // 1: by the container's link, without a next hop; 0: by a next hop.
    let by_link = joined.routes.iter();
    let by_link = by_link.map(|net| json!({ "Destination": net, "RouteType": 1 }));
    let by_router = joined.routers.iter();
    let by_router = by_router.map(|(net, via)| json!({ "Destination": net, "RouteType": 0, "NextHop": via }));
    let routes = by_link.chain(by_router);
    // Without this the engine moves nothing and sets nothing up, but for the ways out.
    let name = match joined.made {
        true => Value::Null,
        false => json!({ "SrcName": joined.source.as_str(), "DstPrefix": joined.prefix }),
    };
    json!({
        "InterfaceName": name,
        "Gateway": text(joined.gateway),
        "GatewayIPv6": text(joined.gateway_v6),
        "StaticRoutes": routes.collect::<Vec<_>>(),
        "DisableGatewayService": joined.gateway.is_none() && !joined.engines_way_out,
    })
}
