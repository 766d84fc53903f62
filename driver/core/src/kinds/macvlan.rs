//! Kind `macvlan`: each container has a link with a hardware address of its own on the wire of a link of the host.

use serde::{Deserialize, Serialize};

use super::Found;
use super::options::{self, FromText, Options};
use super::uplink::{OnWire, Uplink};
use crate::model::{IfName, Mac};
use crate::modes::MacvlanMode;
use crate::world::Value;

/// What the kind is called.
pub const NAME: &str = "macvlan";

/// The options of a macvlan network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Macvlan {
    /// The wire.
    pub uplink: Uplink,
    /// How its containers speak with each other.
    pub mode: MacvlanMode,
}

impl FromText for MacvlanMode {
    const ALLOWED: &'static str = "bridge, private, vepa or passthru";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::default()),
            word => Self::of_word(word),
        }
    }
}

impl Macvlan {
    /// Takes the kind's options.
    ///
    /// # Errors
    /// For a value that an option can't have.
    pub fn take(options: &mut Options, v6: bool) -> Result<Self, options::Error> {
        let mode = options
            .take::<MacvlanMode>(&["macvlan_mode"])?
            .unwrap_or_default();
        let uplink = Uplink::take(options, v6)?;
        let wants = uplink.host_access == Some(true) || !uplink.host_addresses.is_empty();
        if wants && mode != MacvlanMode::Bridge {
            let allowed =
                "the host reaches its containers in mode bridge only; leave host_access and host_address out";
            return Err(options::refuse_value("macvlan_mode", &mode.to_string(), allowed));
        }
        Ok(Self { uplink, mode })
    }

    /// Notes what was found on the host.
    pub fn note(&mut self, found: Found) {
        self.uplink.note(found);
    }

    /// A link of the network's.
    pub fn link(&self, parent: &IfName, mac: Mac) -> Value {
        Value::Macvlan {
            parent: parent.clone(),
            mode: self.mode,
            mac,
            mtu: self.uplink.mtu,
        }
    }
}

impl OnWire for Macvlan {
    const NAME: &'static str = NAME;

    fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    fn link(&self, parent: &IfName, mac: Mac) -> Value {
        Self::link(self, parent, mac)
    }
}
