//! Kind `overlay`: one network on several hosts. On each host a bridge; between the bridges, VXLAN (RFC 7348).
//!
//! ```text
//!   container          host A                                        host B
//!   eth0 ─── veth ─── tbh… ─┐                                        ┌─ tbh… ─── veth ─── eth0
//!                           ├─ tb-… ── tbv… ══ UDP, VNI n ══ tbv… ── tb-…
//!                           │  10.42.0.1 (this host's own way out)   │  10.42.0.1 (that host's)
//! ```
//!
//! Nothing is learnt and nothing that is unknown is flooded: where an address of another host's is, is known from its rows.
//! The bridge answers ARP and neighbour discovery for it. The gateway has the same address and the same MAC on each host,
//! and neither leaves it.
//!
//! What is sent to a group goes to the hosts where somebody hears it. The bridge asks its containers (IGMP, MLD), the host
//! tells the others, and each sends a copy to those that have told. To the bridge the tunnel is a multicast router, which is
//! to get all groups; which hosts a frame then goes to is the VXLAN link's affair, and for a group that it knows none for it
//! is dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::bridge::Bridge;
use super::options::{self, Options};
use super::{Agreed, Far, Found, Joined, Kind, Publishing, Underlay};
use crate::model::{Endpoint, Group, IfName, Mac, Network, NetworkId, fnv1a};
use crate::world::{Key, Value, World};

/// What VXLAN adds to a packet, in bytes: the inner Ethernet header (14), VXLAN (8), UDP (8), and the outer IP header, of 20
/// bytes or of 40 (RFC 7348, section 5).
pub fn overhead(vtep: IpAddr) -> u32 {
    if vtep.is_ipv6() { 70 } else { 50 }
}

/// The largest VXLAN network identifier: it has 24 bits (RFC 7348, section 5).
pub const VNI_MAX: u32 = (1 << 24) - 1;

/// The least that we choose ourselves: small ones are what people choose by hand.
pub const VNI_CHOSEN_LEAST: u32 = 1 << 16;

/// VXLAN network identifiers for a network, the first choice first: they follow from its identity, so that hosts which
/// found it at once choose the same.
pub fn vnis_of(identity: &str) -> impl Iterator<Item = u32> {
    let range = VNI_MAX - VNI_CHOSEN_LEAST + 1;
    let first = (fnv1a(identity.as_bytes()) % u64::from(range)) as u32;
    (0..range).map(move |n| VNI_CHOSEN_LEAST + (first + n) % range)
}

/// The largest packet where nothing is known of the way: that of Ethernet, less what VXLAN over IPv6 adds.
pub const MTU_UNKNOWN: u32 = 1430;

/// Groups whose frames go to all hosts that have endpoints, because no bridge learns who hears them (of IPv4 those in
/// 224.0.0.0/24): all systems, the routers' (OSPF, VRRP), and names (mDNS, LLMNR).
const GROUPS: [IpAddr; 7] = [
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 5)),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 6)),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 252)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
];

/// The frames of [`GROUPS`], and of broadcasts.
fn groups_of_all() -> impl Iterator<Item = Group> {
    GROUPS.into_iter().filter_map(Group::of).chain([Group::BROADCAST])
}

/// The options of an overlay network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// The bridge on each host.
    pub bridge: Bridge,
    /// The VXLAN network identifier, where the user chose one.
    pub vni: Option<u32>,
    /// Whether frames to groups go to other hosts.
    pub multicast: bool,
    /// What the cluster has agreed on.
    pub agreed: Agreed,
}

impl Overlay {
    /// Takes the kind's options.
    ///
    /// # Errors
    /// For a value that an option can't have.
    pub fn take(options: &mut Options, v6: bool) -> Result<Self, options::Error> {
        let vni = options.take::<u32>(&["vni", "com.docker.network.driver.overlay.vxlanid_list"])?;
        if let Some(vni) = vni.filter(|vni| !(1..=VNI_MAX).contains(vni)) {
            return Err(options::refuse_value(
                "vni",
                &vni.to_string(),
                &format!("1 to {VNI_MAX}"),
            ));
        }
        let multicast = options.take::<OnOff>(&["multicast"])?;
        Ok(Self {
            bridge: Bridge::take(options, v6)?,
            vni,
            multicast: multicast.is_none_or(|OnOff(on)| on),
            agreed: Agreed::default(),
        })
    }

    /// Notes what was found on the host.
    pub fn note(&mut self, found: Found) {
        self.bridge.note(found);
        self.bridge.path_mtu = tunnel_mtu(self.agreed, found);
    }
}

/// The largest packet of a network with a tunnel, where the user has named none: none without having looked.
pub(super) fn tunnel_mtu(agreed: Agreed, found: Found) -> Option<u32> {
    let on_the_way = found.tunnel_mtu.into_iter().chain(found.path_mtu).min();
    let looked = found != Found::default();
    agreed.mtu.or(on_the_way).or(looked.then_some(MTU_UNKNOWN))
}

/// Adds the facts of a network's tunnel, once it is known what that runs on.
pub(super) fn tunnel_facts(
    network: &Network,
    bridge: &Bridge,
    agreed: Agreed,
    multicast: bool,
    underlay: Option<&Underlay>,
    world: &mut World,
) {
    let Some((underlay, vni)) = underlay.zip(agreed.vni) else {
        return;
    };
    let link = network.id.tunnel_name();
    let vxlan = Value::Vxlan {
        vni,
        local: underlay.source(),
        port: underlay.port,
        mtu: bridge.mtu(),
    };
    world.insert(Key::Link(link.clone()), vxlan);
    let place = Value::Tunnel {
        bridge: bridge.link(&network.id),
        isolated: !bridge.icc,
        multicast,
    };
    world.insert(Key::Port(link), place);
    if multicast && !bridge.adopted {
        // On a bridge of somebody else's who hears what is its owner's to ask.
        world.insert(Key::Querier(bridge.link(&network.id)), Value::Present);
    }
}

/// Adds what follows from something of another host's that is reached through a network's tunnel.
pub(super) fn far_facts(
    network: &Network,
    bridge: &IfName,
    multicast: bool,
    far: &Far<'_>,
    world: &mut World,
) {
    let link = network.id.tunnel_name();
    match *far {
        Far::Address(address, mac, _) => {
            world.insert(Key::Neighbour(bridge.clone(), address), Value::Mac(mac));
        }
        Far::Mac(mac, vtep, reach) => {
            world.insert(Key::Forward(link, mac), Value::Via(reach.way(vtep, mac)));
        }
        Far::Vtep(vtep, reach) if multicast => {
            let vtep = reach.way(vtep, Mac::of_net(network));
            for group in groups_of_all() {
                world.insert(Key::Flood(link.clone(), group, vtep), Value::Present);
            }
        }
        // Groups of different addresses may share one of hardware.
        Far::Listener(group, vtep, reach) if multicast && groups_of_all().all(|of_all| of_all != group) => {
            let vtep = reach.way(vtep, Mac::of_net(network));
            world.insert(Key::Flood(link, group, vtep), Value::Present);
        }
        Far::Vtep(..) | Far::Listener(..) | Far::Piece(..) => {}
    }
}

/// A switch, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnOff(pub bool);

impl options::FromText for OnOff {
    const ALLOWED: &'static str = "on or off";
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "on" => Some(Self(true)),
            "off" => Some(Self(false)),
            _ => bool::from_text(text).map(Self),
        }
    }
}

impl Kind for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn links(&self, network: &NetworkId) -> Vec<IfName> {
        vec![self.bridge.link(network), network.tunnel_name()]
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
        let (bridge, agreed) = (&self.bridge, self.agreed);
        tunnel_facts(network, bridge, agreed, self.multicast, underlay, world);
    }

    fn endpoint_facts(&self, network: &Network, endpoint: &Endpoint, world: &mut World) {
        self.bridge.endpoint_facts(network, endpoint, world);
    }

    fn remote_facts(&self, network: &Network, far: &Far<'_>, world: &mut World) {
        far_facts(
            network,
            &self.bridge.link(&network.id),
            self.multicast,
            far,
            world,
        );
    }

    fn seen_as(&self, _: &Network, far: &Far<'_>) -> Option<Mac> {
        match far {
            Far::Address(_, mac, _) => Some(*mac),
            _ => None,
        }
    }

    fn joined(&self, network: &Network, endpoint: &Endpoint) -> Joined {
        self.bridge.joined(network, endpoint)
    }
}
