//! Who hears which group: bridges of ours ask their ports (IGMP, MLD), and what they have learnt is read from them.
//!
//! ```text
//!   container ──report──> bridge ── its table (MDB) ──dump──> Groups ──> whoever tells other hosts
//!                                        └── a word at each change ──────────┘
//! ```
//!
//! A change only says that there is something to be read; then all of the tables is read. They are small, and what is read so
//! can't differ from what the kernel has.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoBridge, InfoKind};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::net::if_::if_indextoname;
use rtnetlink::{LinkBridge, LinkMessageBuilder};
use tombolo_core::model::{IfName, TUNNEL};
use tombolo_core::peers::is_told;

use super::attributes;
use super::link::Link;
use super::netlink::{Links, refused};
use super::socket::{Failure, Socket, unless};
use super::watch::drain;

/// `RTNLGRP_MDB`, include/uapi/linux/rtnetlink.h.
const GROUP: u32 = 26;
/// `RTM_GETMDB`.
const GET_MDB: u16 = 86;
/// Length of `struct br_port_msg`, in bytes: a family, padding, a link's index. Attributes follow.
const PORT_MSG: usize = 8;
/// `AF_BRIDGE`.
const BRIDGE: u8 = 7;
/// `MDBA_MDB`; in it `MDBA_MDB_ENTRY`; in it `MDBA_MDB_ENTRY_INFO`, all of the number 1.
const NESTED: u16 = 1;
/// Where in `struct br_mdb_entry` the port's index, the group and its protocol are (include/uapi/linux/if_bridge.h), and the
/// least that such an entry has, in bytes.
const ENTRY_GROUP: usize = 8;
const ENTRY_PROTOCOL: usize = 24;
const ENTRY: usize = 26;
/// `ETH_P_IP`, `ETH_P_IPV6`.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// How soon who is asked should answer, in hundredths of a second: what a port hears that has just come is known by then. The
/// kernel's own choice is ten times that, for wires with many hosts.
const RESPONSE: u64 = 100;
const RESPONSE_OWN: u64 = 1000;
/// The versions that know sources (IGMPv3, MLDv2), and those of the kernel's own choice. Who speaks an older one is understood.
const VERSIONS: (u8, u8) = (3, 2);
const VERSIONS_OWN: (u8, u8) = (2, 1);

/// What a bridge tells of how it deals with groups.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asking {
    snooping: bool,
    querier: bool,
    versions: (u8, u8),
    response: u64,
}

impl Asking {
    /// Takes over what an attribute says.
    pub(super) fn learn(&mut self, data: &InfoBridge) {
        match data {
            InfoBridge::MulticastSnooping(on) => self.snooping = *on,
            InfoBridge::MulticastQuerier(on) => self.querier = *on,
            InfoBridge::MulticastIgmpVersion(version) => self.versions.0 = *version,
            InfoBridge::MulticastMldVersion(version) => self.versions.1 = *version,
            InfoBridge::MulticastQueryResponseInterval(hundredths) => self.response = *hundredths,
            _ => {}
        }
    }

    /// Whether the bridge asks as ours are told to.
    pub(super) fn as_told(&self) -> bool {
        let told = Self {
            snooping: true,
            querier: true,
            versions: VERSIONS,
            response: RESPONSE,
        };
        *self == told
    }
}

impl Links {
    /// Has a bridge of ours ask.
    pub(super) async fn add_querier(&mut self, name: &IfName) -> Result<(), Failure> {
        let link = self.ours(name).await?;
        if !link.is_bridge() {
            return Err(refused(libc::EINVAL, format!("{name} is not a bridge")));
        }
        let message = bridge(&link).mcast_snooping(true);
        let message = asking(message, VERSIONS, RESPONSE).mcast_querier(true);
        self.tell(RouteNetlinkMessage::NewLink(message.build()), 0).await
    }

    /// Has it ask no more.
    pub(super) async fn remove_querier(&mut self, name: &IfName) -> Result<(), Failure> {
        let Some(link) = self.find_ours(name).await?.filter(Link::is_bridge) else {
            return Ok(());
        };
        let message = asking(bridge(&link).mcast_querier(false), VERSIONS_OWN, RESPONSE_OWN);
        let told = self.tell(RouteNetlinkMessage::NewLink(message.build()), 0).await;
        unless(told, &[libc::ENODEV])
    }
}

fn bridge(link: &Link) -> LinkMessageBuilder<LinkBridge> {
    LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge).index(link.index)
}

fn asking(
    message: LinkMessageBuilder<LinkBridge>,
    (igmp, mld): (u8, u8),
    response: u64,
) -> LinkMessageBuilder<LinkBridge> {
    let message = message.mcast_igmp_version(igmp).mcast_mld_version(mld);
    message.mcast_query_response_interval(response)
}

/// The groups that are heard on bridges, by the bridges' names: on ports that are no tunnels. What the host itself hears
/// there doesn't count, nor do groups that no other host is to be told of.
pub type Groups = BTreeMap<IfName, BTreeSet<IpAddr>>;

/// A subscription to changes of who hears which group, in this thread's network namespace.
pub struct Membership {
    changes: TokioSocket,
    /// Something has changed that nobody was told of.
    waits: bool,
    asks: Socket,
}

impl Membership {
    /// Subscribes.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket or the subscription.
    pub fn new() -> io::Result<Self> {
        let mut changes = TokioSocket::new(NETLINK_ROUTE)?;
        changes.socket_mut().bind(&SocketAddr::new(0, 0))?;
        changes.socket_mut().add_membership(GROUP)?;
        Ok(Self {
            changes,
            waits: false,
            asks: Socket::new(NETLINK_ROUTE),
        })
    }

    /// Waits until something has changed, on any bridge. An overflow counts as a change.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn changed(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.waits) {
            return Ok(());
        }
        match self.changes.recv_from_full().await {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether something has changed since that was read.
    ///
    /// # Errors
    /// As for [`Self::changed`].
    pub fn waits(&mut self) -> io::Result<bool> {
        self.waits |= drain(&mut self.changes)?;
        Ok(self.waits)
    }

    /// What is heard where. Changes that were heard of before are in it.
    ///
    /// # Errors
    /// When the kernel doesn't tell.
    pub async fn read(&mut self) -> io::Result<Groups> {
        self.waits = false;
        drain(&mut self.changes)?;
        let ask = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(Tables));
        let replies = self.asks.dump(ask).await;
        let replies = replies.map_err(|failure| io::Error::other(failure.to_string()))?;
        let mut groups = Groups::new();
        let mut names: BTreeMap<u32, Option<IfName>> = BTreeMap::new();
        let mut name = |index: u32| names.entry(index).or_insert_with(|| name_of(index)).clone();
        for reply in &replies {
            for (of, port, group) in entries(&reply.payload)
                .into_iter()
                .filter(|(_, _, group)| is_told(*group))
            {
                let tunnel = |port: IfName| port.as_str().starts_with(TUNNEL);
                // A link that is gone meanwhile has no name any more, and hears nothing.
                if of != port
                    && !name(port).is_none_or(tunnel)
                    && let Some(bridge) = name(of)
                {
                    groups.entry(bridge).or_default().insert(group);
                }
            }
        }
        Ok(groups)
    }
}

/// The question for the tables of all bridges, which the crate's own messages lack.
#[derive(Debug, Clone)]
struct Tables;

impl NetlinkSerializable for Tables {
    fn message_type(&self) -> u16 {
        GET_MDB
    }

    fn buffer_len(&self) -> usize {
        PORT_MSG
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        buffer[0] = BRIDGE;
    }
}

fn name_of(index: u32) -> Option<IfName> {
    if_indextoname(index).ok()?.to_str().ok()?.parse().ok()
}

/// What a message tells: bridges, ports and groups. What is cut short ends it.
fn entries(payload: &[u8]) -> Vec<(u32, u32, IpAddr)> {
    // The family in it is left out in some answers.
    let head = payload.get(..PORT_MSG);
    let Some(bridge) = head.and_then(|head| attributes::number(&head[4..])) else {
        return Vec::new();
    };
    let inside = |bytes| {
        attributes::all(bytes)
            .filter(|(kind, _)| *kind == NESTED)
            .map(|(_, value)| value)
    };
    let infos = inside(&payload[PORT_MSG..]).flat_map(inside).flat_map(inside);
    infos
        .filter_map(|info| entry(info).map(|(port, group)| (bridge, port, group)))
        .collect()
}

/// A port and a group (`struct br_mdb_entry`). One of hardware addresses is none of those that are asked for.
fn entry(info: &[u8]) -> Option<(u32, IpAddr)> {
    let info = info.get(..ENTRY)?;
    let protocol = u16::from_be_bytes([info[ENTRY_PROTOCOL], info[ENTRY_PROTOCOL + 1]]);
    let group = &info[ENTRY_GROUP..ENTRY_PROTOCOL];
    let group = match protocol {
        IPV4 => IpAddr::from(*group.first_chunk::<4>()?),
        IPV6 => IpAddr::V6(Ipv6Addr::from(*group.first_chunk::<16>()?)),
        _ => return None,
    };
    Some((attributes::number(info)?, group))
}

#[cfg(test)]
mod tests {
    use super::super::attributes::written;
    use super::*;

    fn message(entries: &[(u32, [u8; 16], u16)]) -> Vec<u8> {
        let entry = |(port, group, protocol): &(u32, [u8; 16], u16)| {
            let mut info = port.to_ne_bytes().to_vec();
            info.extend([0; 4]);
            info.extend(group);
            info.extend(protocol.to_be_bytes());
            info.extend([0; 2]);
            written(NESTED, &written(NESTED, &info))
        };
        let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
        let head = [0, 0, 0, 0, 9, 0, 0, 0].to_vec();
        // Behind them come the ports of routers.
        [head, written(NESTED, &entries), written(2, &[1; 8])].concat()
    }

    #[test]
    fn what_is_cut_short_tells_of_what_is_whole() {
        let v4: IpAddr = "239.1.2.3".parse().unwrap();
        let v6: Ipv6Addr = "ff15::1234".parse().unwrap();
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[239, 1, 2, 3]);
        let whole = message(&[(3, bytes, IPV4), (4, v6.octets(), IPV6), (5, [7; 16], 0)]);
        assert_eq!(entries(&whole), [(9, 3, v4), (9, 4, v6.into())]);
        for length in 0..whole.len() {
            assert!(entries(&whole[..length]).len() <= 2);
        }
    }
}
