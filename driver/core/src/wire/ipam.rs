//! `IpamDriver.*`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::json;
use tombolo_ipam::{PoolId, PoolRequest, Space, Use, Want};

use super::{Call, Error, body, nullable, parse};
use crate::kinds::options::{Options, Switch};
use crate::model::{IfName, NetName, cut};
use crate::state::Command;

/// The name of the address space of networks that are one host's.
pub const SPACE_LOCAL: &str = "tombolo-local";
/// The name of the address space of networks of global scope.
pub const SPACE_GLOBAL: &str = "tombolo-global";

const TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";
const NAME: &str = "com.docker.network.endpoint.name";
const MAC: &str = "com.docker.network.endpoint.macaddress";

type Options6 = Option<BTreeMap<String, String>>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RequestPool {
    #[serde(default, deserialize_with = "nullable")]
    address_space: String,
    #[serde(default, deserialize_with = "nullable")]
    pool: String,
    #[serde(default, deserialize_with = "nullable")]
    sub_pool: String,
    #[serde(default)]
    options: Options6,
    #[serde(rename = "V6", default, deserialize_with = "nullable")]
    v6: bool,
}

#[derive(Deserialize)]
struct OfPool {
    #[serde(rename = "PoolID")]
    pool_id: String,
    #[serde(rename = "Address", default, deserialize_with = "nullable")]
    address: String,
    #[serde(rename = "Options", default)]
    options: Options6,
}

/// Whether an address space is ours.
pub(super) fn is_ours(space: &str) -> bool {
    space == SPACE_LOCAL || space == SPACE_GLOBAL
}

pub(super) fn read(method: &str, name: &str, bytes: &[u8]) -> Result<Call, Error> {
    match name {
        // No replay is needed: what was given out is in the store. No MAC is needed either; one that follows from the
        // address is the better choice (see `Mac::of_address`).
        "GetCapabilities" => Ok(Call::Fixed(
            json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }),
        )),
        "GetDefaultAddressSpaces" => Ok(Call::Fixed(json!({
            "LocalDefaultAddressSpace": SPACE_LOCAL, "GlobalDefaultAddressSpace": SPACE_GLOBAL
        }))),
        "RequestPool" => request_pool(body(method, bytes)?).map(Call::to),
        "ReleasePool" => {
            let request: OfPool = body(method, bytes)?;
            Ok(match request.pool_id.parse() {
                Ok(pool) => Call::to(Command::ReleasePool(pool)),
                Err(_) => Call::Fixed(json!({})),
            })
        }
        "RequestAddress" => request_address(&body(method, bytes)?).map(Call::to),
        "ReleaseAddress" => {
            let request: OfPool = body(method, bytes)?;
            let address = parse("Address", &request.address, "an IPv4 or IPv6 address")?;
            Ok(match (request.pool_id.parse(), address) {
                (Ok(pool), Some(address)) => Call::to(Command::ReleaseAddress(pool, address)),
                _ => Call::Fixed(json!({})),
            })
        }
        _ => Err(Error::NoMethod { method: cut(method) }),
    }
}

fn request_pool(request: RequestPool) -> Result<Command, Error> {
    // An engine keeps the name it was told when a network was made, and says it for ever. One that we don't know is
    // from another version; the engine has no other spaces of ours than these two.
    let space = if request.address_space == SPACE_GLOBAL {
        Space::Global
    } else {
        Space::Local
    };
    let mut options = Options::new(request.options.unwrap_or_default());
    let net = options.take::<NetName>(&["net"])?;
    let parent = options.take::<IfName>(&["parent"])?;
    if parent.as_ref().is_some_and(|parent| parent.as_str() == "lo") {
        return Err(Error::Field {
            field: "parent",
            why: "'lo', the loopback interface, leads to no wire; name a network interface, such as eth0"
                .to_owned(),
        });
    }
    let dhcp = options.take::<Switch>(&["dhcp"])?.is_some_and(|Switch(on)| on);
    options.finish("the IPAM driver")?;
    let subnet = "a subnet such as 10.208.0.0/24";
    let pool: Option<IpNet> = parse("Pool", &request.pool, subnet)?;
    let range = parse("SubPool", &request.sub_pool, subnet)?;
    let v6 = pool.map_or(request.v6, |pool| pool.addr().is_ipv6());
    let want = match pool {
        None => Want::Any,
        // An unspecified address with a length means: any pool of that size.
        Some(pool) if pool.addr().is_unspecified() && pool.prefix_len() > 0 => Want::Sized(pool.prefix_len()),
        Some(pool) => Want::Exactly(pool),
    };
    let request = PoolRequest {
        space,
        want,
        range,
        v6,
        repeat: true,
    };
    // Addresses of IPv6 come by the router's advertisements, to the container itself.
    if dhcp && !v6 {
        let refuse = |field, why: &str| {
            Err(Error::Field {
                field,
                why: why.to_owned(),
            })
        };
        return match (parent, net) {
            (_, Some(_)) => refuse(
                "net",
                "with dhcp=on the wire's own server gives addresses, and not the cluster: leave one out",
            ),
            (None, None) => refuse(
                "dhcp",
                "on, and no parent: add --ipam-opt parent=INTERFACE, the one that leads to the server",
            ),
            (Some(parent), None) => Ok(Command::RequestDhcpPool(request, parent)),
        };
    }
    Ok(match (net, parent, request.want) {
        (Some(net), parent, _) => Command::RequestNetPool(request, net, parent),
        (None, Some(parent), Want::Any | Want::Sized(_)) => Command::RequestWirePool(request, parent),
        (None, ..) => Command::RequestPool(request),
    })
}

fn request_address(request: &OfPool) -> Result<Command, Error> {
    let unknown = |_| format!("'{}' is no pool of tombolo's", cut(&request.pool_id));
    let pool: PoolId = request.pool_id.parse().map_err(|e| Error::Field {
        field: "PoolID",
        why: unknown(e),
    })?;
    let address: Option<IpAddr> = parse("Address", &request.address, "an IPv4 or IPv6 address")?;
    let options = request.options.as_ref();
    let option = |key| options.and_then(|o: &BTreeMap<String, String>| o.get(key));
    // An address without any option is an aux address, or what the engine repeats at its start; an endpoint's with
    // `--ip` looks the same to engines before 29. All are leases of one address, and only their text differs.
    let usage = match option(TYPE).map(String::as_str) {
        Some(GATEWAY) => Use::Gateway,
        Some(other) => {
            let why = format!("{TYPE}: '{}' is not {GATEWAY}", cut(other));
            return Err(Error::Field {
                field: "Options",
                why,
            });
        }
        None => Use::Endpoint {
            name: option(NAME).or(option(MAC)).map(|name| cut(name)),
        },
    };
    let repeat = address.is_some() && (options.is_none() || usage == Use::Gateway);
    Ok(Command::RequestAddress {
        pool,
        address,
        usage,
        repeat,
    })
}
