//! The tunnels of this host's networks, for who tries them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tombolo_cluster::HostId;
use tombolo_core::kinds::overlay;
use tombolo_core::model::IfName;

use super::{Engine, Journal};
use crate::kernel::Kernel;

/// A network's tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The network, as people know it.
    pub network: String,
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// Its largest packet, in bytes.
    pub mtu: u32,
    /// This host's VXLAN link.
    pub link: IfName,
    /// This host's VTEP.
    pub local: IpAddr,
    /// The source of what the tunnel sends; unspecified where the kernel chooses it by the route.
    pub source: IpAddr,
    /// The tunnels' UDP port.
    pub port: u16,
    /// The other hosts that it leads to, with their VTEPs.
    pub ends: BTreeMap<HostId, IpAddr>,
}

impl<K: Kernel, J: Journal> Engine<K, J> {
    /// The tunnels of all networks that have one.
    pub(super) fn tunnels(&self) -> Vec<Tunnel> {
        let underlay = self.state.peers().underlay();
        let tunnel = |network: &tombolo_core::model::Network| {
            let underlay = underlay.filter(|_| network.spec.has_tunnel())?;
            let name = self.docker.network_name(&network.id);
            Some(Tunnel {
                network: name.map_or_else(|| network.id.to_string(), str::to_owned),
                vni: network.spec.agreed().vni?,
                mtu: network.spec.kind().mtu().unwrap_or(overlay::MTU_UNKNOWN),
                link: network.id.tunnel_name(),
                local: underlay.vtep,
                source: underlay.source(),
                port: underlay.port,
                ends: self.state.tunnel_ends(network),
            })
        };
        self.state.networks().filter_map(tunnel).collect()
    }
}
