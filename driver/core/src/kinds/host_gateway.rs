//! Kind `host-gateway`: one network on several hosts of one wire, with routes between them and nothing around the packets.
//!
//! ```text
//!   container          host A                                       host B
//!   eth0 ─── veth ─── tbh… ── tb-… ── eth0 ════════ eth0 ── tb-… ── tbh… ─── veth ─── eth0
//!                              10.42.0.0/26 is here                 10.42.0.64/26 via A's eth0 is B's route to A's piece
//! ```
//!
//! A container takes the whole pool for its own wire, so its host answers ARP and neighbour discovery for what the others
//! have, and routes it. Who isn't on the same wire isn't reached, or (`fallback=overlay`) through a tunnel.

use serde::{Deserialize, Serialize};

use super::bridge::Bridge;
use super::options::{self, FromText, Options};
use super::overlay::{far_facts, tunnel_facts, tunnel_mtu};
use super::{Agreed, Far, Found, Joined, Kind, Publishing, Underlay};
use crate::model::{Endpoint, IfName, Mac, Network, NetworkId};
use crate::world::{Family, Key, Setting, Value, World};

/// What the kind is called.
pub const NAME: &str = "host-gateway";

/// The options of a host-gateway network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostGateway {
    /// The bridge on each host.
    pub bridge: Bridge,
    /// Whether hosts on other wires are reached through a tunnel.
    pub fallback: bool,
    /// What the cluster has agreed on.
    pub agreed: Agreed,
}

/// What to do about hosts on other wires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fallback {
    None,
    Overlay,
}

impl FromText for Fallback {
    const ALLOWED: &'static str = "none or overlay";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "overlay" => Some(Self::Overlay),
            _ => None,
        }
    }
}

impl HostGateway {
    /// Takes the kind's options.
    ///
    /// # Errors
    /// For a value that an option can't have.
    pub fn take(options: &mut Options, v6: bool) -> Result<Self, options::Error> {
        let fallback = options.take::<Fallback>(&["fallback"])?;
        Ok(Self {
            bridge: Bridge::take(options, v6)?,
            fallback: fallback == Some(Fallback::Overlay),
            agreed: Agreed::default(),
        })
    }

    /// Notes what was found on the host.
    pub fn note(&mut self, found: Found) {
        self.bridge.note(found);
        if self.fallback {
            self.bridge.path_mtu = tunnel_mtu(self.agreed, found);
        } else if self.agreed.mtu.is_some() {
            self.bridge.path_mtu = self.agreed.mtu;
        }
    }
}

impl Kind for HostGateway {
    fn name(&self) -> &'static str {
        NAME
    }

    fn links(&self, network: &NetworkId) -> Vec<IfName> {
        let tunnel = self.fallback.then(|| network.tunnel_name());
        std::iter::once(self.bridge.link(network)).chain(tunnel).collect()
    }

    fn mtu(&self) -> Option<u32> {
        self.bridge.mtu()
    }

    fn isolated(&self, v6: bool) -> bool {
        self.bridge.isolated(v6)
    }

    fn without_gateway(&self, internal: bool, v6: bool) -> bool {
        self.bridge.without_gateway(internal, v6)
    }

    fn publishing(&self, v6: bool) -> Publishing {
        self.bridge.publishing(v6)
    }

    fn network_facts(&self, network: &Network, underlay: Option<&Underlay>, world: &mut World) {
        self.bridge.facts(network, Mac::of_net(network), world);
        let link = self.bridge.link(&network.id);
        let setting = |setting, number, world: &mut World| {
            world.insert(Key::Setting(setting), Value::Number(number));
        };
        for family in network
            .subnets
            .iter()
            .map(|subnet| Family::of(subnet.pool.addr()))
        {
            let proxy = match family {
                Family::V4 => Setting::ProxyArp(link.clone()),
                Family::V6 => Setting::ProxyNdp(link.clone()),
            };
            setting(proxy, 1, world);
            if family == Family::V6 {
                setting(Setting::AcceptDad(link.clone()), 0, world);
            }
            setting(Setting::ProxyDelay(link.clone(), family), 0, world);
        }
        if self.fallback {
            tunnel_facts(network, &self.bridge, self.agreed, false, underlay, world);
        }
    }

    fn endpoint_facts(&self, network: &Network, endpoint: &Endpoint, world: &mut World) {
        self.bridge.endpoint_facts(network, endpoint, world);
        // Others route here as soon as they know of a container. A packet that comes before it is up would have this host's
        // kernel ask for it in vain, and not again for a second, in which the container isn't reached.
        for address in endpoint
            .addresses
            .iter()
            .filter(|_| endpoint.linked && !self.bridge.adopted)
        {
            let key = Key::Neighbour(self.bridge.link(&network.id), address.addr());
            world.insert(key, Value::Mac(endpoint.mac));
        }
    }

    fn remote_facts(&self, network: &Network, far: &Far<'_>, world: &mut World) {
        let link = self.bridge.link(&network.id);
        match *far {
            // For IPv4 the route to the piece is enough for this host to answer.
            Far::Address(address, _, reach) if !reach.hops(address.is_ipv6()).is_empty() => {
                if address.is_ipv6() {
                    world.insert(Key::Proxied(link, address), Value::Present);
                }
            }
            Far::Piece(piece, reach) => {
                let hops = reach.hops(piece.addr().is_ipv6());
                if !hops.is_empty() {
                    world.insert(Key::Remote(link, piece), Value::Present);
                    world.insert(Key::Route(piece), Value::Hops(hops.to_vec()));
                }
            }
            Far::Address(..) | Far::Mac(..) | Far::Vtep(..) if self.fallback => {
                far_facts(network, &link, false, far, world);
            }
            Far::Address(..) | Far::Mac(..) | Far::Vtep(..) | Far::Listener(..) => {}
        }
    }

    fn seen_as(&self, network: &Network, far: &Far<'_>) -> Option<Mac> {
        match far {
            // This host answers for it; with what address on a bridge of somebody else's, that one says.
            Far::Address(address, _, reach) if !reach.hops(address.is_ipv6()).is_empty() => {
                Some(Mac::of_net(network)).filter(|_| !self.bridge.adopted)
            }
            Far::Address(_, mac, _) if self.fallback => Some(*mac),
            _ => None,
        }
    }

    fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined {
        self.bridge.joined(network, endpoint)
    }
}
