//! Kind `ipvlan`: each container has a link on the wire of a link of the host, and all share that one's hardware address.

use serde::{Deserialize, Serialize};

use super::options::{self, FromText, Options};
use super::uplink::{OnWire, Uplink};
use super::{Found, Joined};
use crate::model::{Endpoint, IfName, Mac, Network};
use crate::modes::{IpvlanFlag, IpvlanMode};
use crate::world::Value;

/// What the kind is called.
pub const NAME: &str = "ipvlan";

/// The options of an ipvlan network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipvlan {
    /// The wire.
    pub uplink: Uplink,
    /// What its links do with frames.
    pub mode: IpvlanMode,
    /// How its containers speak with each other.
    pub flag: IpvlanFlag,
}

impl FromText for IpvlanMode {
    const ALLOWED: &'static str = "l2, l3 or l3s";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::default()),
            word => Self::of_word(word),
        }
    }
}

impl FromText for IpvlanFlag {
    const ALLOWED: &'static str = "bridge, private or vepa";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::default()),
            word => Self::of_word(word),
        }
    }
}

impl Ipvlan {
    /// Takes the kind's options.
    ///
    /// # Errors
    /// For a value that an option can't have.
    pub fn take(options: &mut Options, v6: bool) -> Result<Self, options::Error> {
        let mode = options.take::<IpvlanMode>(&["ipvlan_mode"])?.unwrap_or_default();
        let flag = options.take::<IpvlanFlag>(&["ipvlan_flag"])?.unwrap_or_default();
        let uplink = Uplink::take(options, v6)?;
        let wants = uplink.host_access == Some(true) || !uplink.host_addresses.is_empty();
        if wants && (mode, flag) != (IpvlanMode::L2, IpvlanFlag::Bridge) {
            let allowed = "the host reaches its containers in mode l2 with flag bridge only; leave host_access and host_address out";
            return Err(options::refuse_value("ipvlan_mode", &mode.to_string(), allowed));
        }
        Ok(Self { uplink, mode, flag })
    }

    /// Notes what was found on the host.
    pub fn note(&mut self, found: Found) {
        self.uplink.note(found);
    }

    /// Whether a container's packets are routed from its link on, so that no router is asked for by name.
    pub fn routes(&self) -> bool {
        self.mode != IpvlanMode::L2
    }

    /// A link of the network's.
    pub fn link(&self, parent: &IfName) -> Value {
        Value::Ipvlan {
            parent: parent.clone(),
            mode: self.mode,
            flag: self.flag,
            mtu: self.uplink.mtu,
        }
    }
}

impl OnWire for Ipvlan {
    const NAME: &'static str = NAME;

    fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    fn link(&self, parent: &IfName, _: Mac) -> Value {
        Self::link(self, parent)
    }

    fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined {
        let mut joined = self.uplink.joined(network, endpoint);
        if self.routes() {
            (joined.gateway, joined.gateway_v6) = (None, None);
            if !network.internal {
                joined.routes = endpoint.addresses.iter().map(super::everywhere).collect();
            }
        }
        joined
    }
}
