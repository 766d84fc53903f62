//! What Docker would ask of the plug-in socket: a network on a pool of the cluster, addresses in it, endpoints.

use std::net::IpAddr;

use serde_json::{Value, json};
use system_tests::{json, plugin};

use super::lab::Member;

/// The network's name in the cluster.
pub const NET: &str = "app";

/// A network on a host.
pub struct Network<'a> {
    member: &'a Member,
    /// The pool's identifier.
    pub pool: String,
    id: String,
    length: String,
    gateway: IpAddr,
}

impl Member {
    fn plugin(&self) -> plugin::Client {
        self.tombolo.plugin()
    }

    /// Makes a network named [`NET`] on a pool.
    #[track_caller]
    pub fn network(&self, pool: &str) -> Network<'_> {
        self.try_network(pool, NET)
            .unwrap_or_else(|why| panic!("{pool} on {}: {why}", self.name()))
    }

    /// The same with a name; gives why it is refused, with all undone.
    #[track_caller]
    pub fn try_network(&self, pool: &str, net: &str) -> Result<Network<'_>, String> {
        self.try_network_with(pool, net, "")
    }

    /// The same with a gateway of one's own choice.
    #[track_caller]
    pub fn try_network_with(&self, pool: &str, net: &str, gateway: &str) -> Result<Network<'_>, String> {
        let (plugin, options) = (self.plugin(), json!({ "net": net }));
        let asked = json!({ "AddressSpace": "tombolo-local", "Pool": pool, "SubPool": "", "Options": options, "V6": false });
        let got = plugin.call("IpamDriver.RequestPool", &asked);
        if let Some(why) = plugin::refusal(&got) {
            return Err(why);
        }
        let pool_id = json::text(&got, "/PoolID").to_owned();
        let release = || plugin.accepted("IpamDriver.ReleasePool", &json!({ "PoolID": pool_id }));
        let as_gateway = json!({ "RequestAddressType": "com.docker.network.gateway" });
        let gateway = json!({ "PoolID": pool_id, "Address": gateway, "Options": as_gateway });
        let gateway = plugin.call("IpamDriver.RequestAddress", &gateway);
        if let Some(why) = plugin::refusal(&gateway) {
            release();
            return Err(why);
        }
        // Links are named after the beginning.
        let sum = pool.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let id = format!("{sum:016x}{sum:048x}");
        let data =
            json!([{ "AddressSpace": "tombolo-local", "Pool": got["Pool"], "Gateway": gateway["Address"] }]);
        let made = plugin.call(
            "NetworkDriver.CreateNetwork",
            &json!({
                "NetworkID": id, "IPv4Data": data, "IPv6Data": [],
                "Options": { "com.docker.network.generic": options },
            }),
        );
        let gateway = address_in(&gateway);
        if let Some(why) = plugin::refusal(&made) {
            plugin.accepted(
                "IpamDriver.ReleaseAddress",
                &json!({ "PoolID": pool_id, "Address": gateway }),
            );
            release();
            return Err(why);
        }
        let length = json::text(&got, "/Pool")
            .split('/')
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        Ok(Network {
            member: self,
            pool: pool_id,
            id,
            length,
            gateway,
        })
    }

    /// A network that was made before the daemon was started anew.
    pub fn made(&self, before: &Network<'_>) -> Network<'_> {
        Network {
            member: self,
            pool: before.pool.clone(),
            id: before.id.clone(),
            length: before.length.clone(),
            gateway: before.gateway,
        }
    }

    /// The addresses that are leased on the host, as it says, the gateway's among them.
    #[track_caller]
    pub fn leases(&self, pool: &str) -> Vec<String> {
        let pools = self.tombolo.cli(&["pools"]);
        let found = json::rows(&pools).iter().find(|found| found["pool"] == pool);
        let leases = found
            .map(|found| json::rows(&found["leases"]).to_vec())
            .unwrap_or_default();
        leases
            .iter()
            .map(|lease| json::text(lease, "/address").to_owned())
            .collect()
    }
}

impl Network<'_> {
    /// Asks for an address; gives why it is refused.
    #[track_caller]
    pub fn try_lease(&self) -> Result<IpAddr, String> {
        self.ask_for("")
    }

    /// Asks for one certain address, or for any.
    #[track_caller]
    pub fn ask_for(&self, address: &str) -> Result<IpAddr, String> {
        let asked = json!({ "PoolID": self.pool, "Address": address, "Options": {} });
        let got = self.member.plugin().call("IpamDriver.RequestAddress", &asked);
        match plugin::refusal(&got) {
            Some(why) => Err(why),
            None => Ok(address_in(&got)),
        }
    }

    /// Asks for an address, which must be given.
    #[track_caller]
    pub fn lease(&self) -> IpAddr {
        self.try_lease()
            .unwrap_or_else(|why| panic!("no address on {}: {why}", self.member.name()))
    }

    /// Gives an address back.
    #[track_caller]
    pub fn release(&self, address: IpAddr) {
        let asked = json!({ "PoolID": self.pool, "Address": address });
        self.member.plugin().accepted("IpamDriver.ReleaseAddress", &asked);
    }

    /// Makes an endpoint with an address of its own; gives its identifier and the address.
    #[track_caller]
    pub fn endpoint(&self, number: usize) -> (String, IpAddr) {
        let address = self.lease();
        (self.endpoint_at(number, address), address)
    }

    /// Makes an endpoint at an address that was leased.
    #[track_caller]
    pub fn endpoint_at(&self, number: usize, address: IpAddr) -> String {
        // Links are named after the beginning.
        let id = format!("{number:08x}{number:056x}");
        let interface =
            json!({ "Address": format!("{address}/{}", self.length), "AddressIPv6": "", "MacAddress": "" });
        let made = self.member.plugin().accepted(
            "NetworkDriver.CreateEndpoint",
            &json!({ "NetworkID": self.id, "EndpointID": id, "Interface": interface, "Options": {} }),
        );
        assert!(
            made["Interface"].is_object() || made["Interface"].is_null(),
            "{made}"
        );
        id
    }

    /// Removes an endpoint, and gives its address back.
    #[track_caller]
    pub fn remove(&self, endpoint: &str, address: IpAddr) {
        let asked = json!({ "NetworkID": self.id, "EndpointID": endpoint });
        self.member
            .plugin()
            .accepted("NetworkDriver.DeleteEndpoint", &asked);
        self.release(address);
    }

    /// Removes the network, and gives its pool back.
    #[track_caller]
    pub fn delete(self) {
        let plugin = self.member.plugin();
        plugin.accepted("NetworkDriver.DeleteNetwork", &json!({ "NetworkID": self.id }));
        self.release(self.gateway);
        plugin.accepted("IpamDriver.ReleasePool", &json!({ "PoolID": self.pool }));
    }
}

fn address_in(answer: &Value) -> IpAddr {
    let text = json::text(answer, "/Address");
    let address = text.split('/').next().and_then(|address| address.parse().ok());
    address.unwrap_or_else(|| panic!("no address: {answer}"))
}

/// The addresses of the endpoints that a host shows, in order.
pub fn addresses(peers: &[Value]) -> Vec<String> {
    let mut addresses: Vec<String> = peers
        .iter()
        .filter_map(|peer| peer["ipv4"].as_str())
        .map(str::to_owned)
        .collect();
    addresses.sort();
    addresses
}
