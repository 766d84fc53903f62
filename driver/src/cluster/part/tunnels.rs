//! What a part knows for tunnels that are tried.

use std::net::IpAddr;
use std::time::Instant;

use tombolo_cluster::HostId;
use tombolo_cluster::node::Link;

use super::Part;
use crate::cluster::tunnels::{Asker, Other};

impl Part {
    /// Where a host's end of tunnels is: of several one that carries packets.
    pub(super) fn vtep_of(&self, host: &HostId) -> Option<IpAddr> {
        let seat = self.node.seats().find(|seat| seat.host == *host)?;
        Some(self.ways.around(host, seat.address.ip()))
    }

    /// What the other hosts that are up are asked with.
    pub(super) fn asker(&self) -> Asker {
        let hosts = self.node.view().hosts.into_iter();
        let others = hosts.filter(|view| view.link == Link::Up).map(|view| Other {
            address: view.address.map(|address| self.around(&view.host, address)),
            ways: self.ways.usable(&view.host),
            wire_mtu: self.host_row_of(&view.host).and_then(|row| row.mtu),
            host: view.host,
            name: view.name,
        });
        Asker {
            engine: self.around.asks.clone(),
            connector: self.connector.clone(),
            others: others.collect(),
            began: Instant::now(),
        }
    }
}
