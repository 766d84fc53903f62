//! A link as the kernel tells of it, and the facts that follow: pure.

use std::collections::HashMap;

use netlink_packet_core::NetlinkDeserializable;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use tombolo_core::model::{IfName, Mac};
use tombolo_core::world::{ADOPTED_GROUP, Key, LEAVING_GROUP, LINK_GROUP, PLACED_GROUP, Value};

use super::attributes;
use super::groups::Asking;
use super::settings::Told;
use super::socket::{Failure, Reply};
use super::uplinks::{self, is_child, is_parent};
use super::vxlan::{self, Found, Manners};

/// The beginning of the name of a pair's container end while it is with the host, as
/// [`tombolo_core::model::EndpointId::container_link`] makes it.
const CONTAINER_END: &str = "tbc";

/// Length of `struct ifinfomsg`, in bytes: attributes follow it.
pub(super) const IFINFO: usize = 16;

/// Attribute numbers that are looked at before a message is parsed (`IFLA_*`).
const IFLA_IFNAME: u16 = 3;
const IFLA_GROUP: u16 = 27;

/// What we need to know of a link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) ours: bool,
    /// A bridge of somebody else's that a network of ours uses.
    pub(super) adopted: bool,
    /// A container's link that was made within its sandbox.
    pub(super) placed: bool,
    pub(super) kind: Option<InfoKind>,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) stp: bool,
    /// Index of the bridge it is a port of.
    pub(super) master: Option<u32>,
    /// As a port: no frames from or to other isolated ports; frames may go out where they came in.
    pub(super) isolated: bool,
    pub(super) hairpin: bool,
    pub(super) manners: Manners,
    /// As a bridge: how it asks who hears which group.
    pub(super) asking: Asking,
    /// What else there is to a VXLAN link.
    pub(super) vxlan: Option<Found>,
    /// What else there is to a link on the wire of another link.
    pub(super) wire: Option<uplinks::Found>,
    /// Index of a pair's other end, or of the link that this one is on, if that is in this namespace.
    pub(super) peer: Option<u32>,
    /// The namespace of that, if it is in another one: by the number that this namespace knows it by.
    pub(super) elsewhere: Option<i32>,
    /// What somebody has noted of it.
    pub(super) alias: Option<String>,
    /// Its settings.
    pub(super) told: Told,
}

impl Link {
    pub(super) fn is_bridge(&self) -> bool {
        self.kind == Some(InfoKind::Bridge)
    }

    pub(super) fn is_veth(&self) -> bool {
        self.kind == Some(InfoKind::Veth)
    }

    pub(super) fn is_container_end(&self) -> bool {
        self.is_veth() && self.name.starts_with(CONTAINER_END)
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            ours: false,
            adopted: false,
            placed: false,
            kind: None,
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            stp: false,
            master: None,
            isolated: false,
            hairpin: false,
            manners: Manners::default(),
            asking: Asking::default(),
            vxlan: None,
            wire: None,
            peer: None,
            elsewhere: None,
            alias: None,
            told: Told::default(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Group(group) => {
                    link.ours = matches!(group, LINK_GROUP | LEAVING_GROUP);
                    link.adopted = group == ADOPTED_GROUP;
                    link.placed = group == PLACED_GROUP;
                }
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes
                        .try_into()
                        .ok()
                        .and_then(|bytes| Mac::from_bytes(bytes).ok());
                }
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.elsewhere = Some(id),
                LinkAttribute::AfSpecUnspec(families) => link.told.learn(&families),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| link.learn(info)),
                _ => {}
            }
        }
        if link.elsewhere.is_some() {
            link.peer = None;
        }
        link
    }
}

impl Link {
    fn learn(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind),
            LinkInfo::Data(InfoData::Bridge(data)) => {
                data.iter().for_each(|item| self.asking.learn(item));
                self.stp = data.iter().any(
                    |item| matches!(item, InfoBridge::StpState(state) if *state != BridgeStpState::Disabled),
                );
            }
            LinkInfo::Data(data @ (InfoData::MacVlan(_) | InfoData::IpVlan(_) | InfoData::Vlan(_))) => {
                self.wire = uplinks::Found::learn(&data)
            }
            LinkInfo::Data(InfoData::Vxlan(data)) => self.vxlan.get_or_insert_default().learn(data),
            LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
                for item in data {
                    match item {
                        InfoBridgePort::Isolated(on) => self.isolated = on,
                        InfoBridgePort::HairpinMode(on) => self.hairpin = on,
                        InfoBridgePort::Learning(on) => self.manners.learning = on,
                        InfoBridgePort::UnicastFlood(on) => self.manners.unknown = on,
                        InfoBridgePort::MulticastFlood(on) => self.manners.multicast = on,
                        InfoBridgePort::BroadcastFlood(on) => self.manners.broadcast = on,
                        InfoBridgePort::MulticastRouter(router) => self.manners.router = Some(router),
                        InfoBridgePort::NeighSupress(on) => self.manners.suppress = on,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

pub(super) fn link_of(reply: &Reply) -> Result<Link, Failure> {
    match RouteNetlinkMessage::deserialize(&reply.header, &reply.payload) {
        Ok(RouteNetlinkMessage::NewLink(message)) => Ok(message.into()),
        other => Err(unexpected("a link", &other)),
    }
}

pub(super) fn name_and_group(reply: &Reply) -> (Option<String>, Option<u32>) {
    name_and_group_of(reply.payload.get(IFINFO..).unwrap_or_default())
}

/// The name and the group among a link's attributes.
pub(super) fn name_and_group_of(written: &[u8]) -> (Option<String>, Option<u32>) {
    let (mut name, mut group) = (None, None);
    for (kind, value) in attributes::all(written) {
        match kind {
            IFLA_IFNAME => name = Some(attributes::text(value)),
            IFLA_GROUP => group = attributes::number(value),
            _ => {}
        }
    }
    (name, group)
}

/// The index in a link message: the fifth to eighth byte of `struct ifinfomsg`.
pub(super) fn reply_index(reply: &Reply) -> Option<u32> {
    attributes::number(reply.payload.get(4..)?)
}

/// Whether a link is the container's end of a pair that Docker has put back: it goes with the host's end, which is the
/// fact.
pub(super) fn put_back(link: &Link, ours: &HashMap<u32, Link>) -> bool {
    let peer = link.peer.and_then(|index| ours.get(&index));
    link.is_container_end() && peer.is_some_and(|peer| peer.is_veth() && !peer.is_container_end())
}

/// The name of a link of ours as a fact can bear it. Somebody could give a link of ours a name that none of ours has.
pub(super) fn named(link: &Link) -> Option<IfName> {
    let name = link.name.parse().ok();
    if name.is_none() {
        tracing::warn!(link = ?link.name, "a link in our group has a name that we cannot speak of; it is left alone");
    }
    name
}

/// The name of the fact that a link is.
pub(super) fn key_of(link: &Link, name: IfName) -> Key {
    match link {
        link if link.ours && is_child(link) => Key::Child(name),
        link if link.ours && is_parent(link) => Key::Parent(name),
        _ => Key::Link(name),
    }
}

/// What a link is. `names` has all links by their indices.
pub(super) fn value_of(link: &Link, ours: &HashMap<u32, Link>, names: &HashMap<u32, String>) -> Value {
    let Some(mac) = link.mac else {
        return Value::Unfit("a link without a hardware address");
    };
    match &link.kind {
        Some(InfoKind::Bridge) if link.adopted => Value::Adopted,
        _ if link.adopted => Value::Unfit("not a bridge"),
        Some(InfoKind::Bridge) if link.stp => Value::Unfit("a bridge with spanning tree"),
        Some(InfoKind::Bridge) if !link.up => Value::Unfit("a bridge that is down"),
        Some(InfoKind::Bridge) => Value::Bridge {
            mtu: Some(link.mtu),
            mac,
        },
        Some(InfoKind::Veth) if link.is_container_end() => {
            Value::Unfit("the container's end of a broken pair")
        }
        Some(InfoKind::Veth) => {
            // The other end is out of sight once Docker has taken it; then its place is filled with what we know.
            let peer = link.peer.and_then(|index| ours.get(&index));
            let name = peer.unwrap_or(link).name.parse().ok();
            let peer_mac = peer.and_then(|peer| peer.mac).unwrap_or(mac);
            match name {
                Some(peer) => Value::Veth {
                    peer,
                    peer_mac,
                    mac,
                    mtu: Some(link.mtu),
                },
                None => Value::Unfit("a pair whose other end has a strange name"),
            }
        }
        Some(InfoKind::Vxlan) => match &link.vxlan {
            Some(tunnel) => tunnel.value(link),
            None => Value::Unfit("a tunnel that tells nothing of itself"),
        },
        Some(InfoKind::Dummy) if !link.up => Value::Unfit("a link that is down"),
        Some(InfoKind::Dummy) => Value::Dummy,
        _ => match &link.wire {
            Some(wire) => wire.value(link, names),
            None => Value::Unfit("a link of a kind that tombolo makes none of"),
        },
    }
}

/// The fact that a link's place on a bridge is.
pub(super) fn place_of(link: &Link, bridge: IfName) -> Value {
    match &link.vxlan {
        Some(_) => vxlan::place_of(link, bridge),
        None => Value::On {
            bridge,
            isolated: link.isolated,
            hairpin: link.hairpin,
        },
    }
}

/// An answer that is not what was asked for.
pub(super) fn unexpected(what: &str, got: &dyn std::fmt::Debug) -> Failure {
    Failure::Broken(format!("{what} was asked for, the answer is {got:?}"))
}
