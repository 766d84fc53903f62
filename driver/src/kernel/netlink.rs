//! Links and bridge ports, through rtnetlink.
//!
//! Ours is what is in link group [`LINK_GROUP`]; the group is set in the message that makes a link. Every change begins
//! with a look at the link's group and goes on by the link's index, so a link of somebody else is never touched, not
//! even one that has just taken the name.

use std::collections::HashMap;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgeStpState, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tokio::time::timeout;
use tombolo_core::model::{IfName, Mac};
use tombolo_core::world::{ADOPTED_GROUP, Key, LEAVING_GROUP, LINK_GROUP, Setting, Value, World};

use super::link::{Link, key_of, link_of, name_and_group, named, place_of, put_back, reply_index, value_of};
use super::settings;
use super::socket::{Failure, Socket, unless};
use super::uplinks::{self, Uplink};
use super::vxlan::Vxlan;

/// The MTU that the kernel gives a bridge, in bytes.
const OWN_MTU: u32 = 1500;

/// Between two looks whether a link that is being deleted is still there.
const GLANCE: Duration = Duration::from_millis(1);

/// The kernel's links and addresses.
pub(super) struct Links {
    pub(super) socket: Socket,
    /// For questions about routes, of which the kernel is to give ours only.
    pub(super) strict: Socket,
}

/// The bridge that a step asks for.
pub(super) struct Bridge<'a> {
    pub(super) name: &'a IfName,
    pub(super) mac: Mac,
    pub(super) mtu: Option<u32>,
}

/// The veth pair that a step asks for.
pub(super) struct Veth<'a> {
    pub(super) name: &'a IfName,
    pub(super) mac: Mac,
    pub(super) peer: &'a IfName,
    pub(super) peer_mac: Mac,
    pub(super) mtu: Option<u32>,
}

/// The place on a bridge that a step asks for.
pub(super) struct Port<'a> {
    pub(super) bridge: &'a IfName,
    pub(super) isolated: bool,
    pub(super) hairpin: bool,
}

/// The link that a step asks for.
pub(super) enum Asked<'a> {
    Bridge(Bridge<'a>),
    Adopted(&'a IfName),
    Veth(Veth<'a>),
    Vxlan(Vxlan<'a>),
    Uplink(Uplink<'a>),
}

impl<'a> Asked<'a> {
    /// None where the value is no link's, or none that can be asked for.
    pub(super) fn of(name: &'a IfName, value: &'a Value) -> Option<Self> {
        match value {
            Value::Bridge { mtu, mac } => Some(Self::Bridge(Bridge {
                name,
                mac: *mac,
                mtu: *mtu,
            })),
            Value::Adopted => Some(Self::Adopted(name)),
            Value::Veth {
                peer,
                peer_mac,
                mac,
                mtu,
            } => {
                let (mac, peer_mac, mtu) = (*mac, *peer_mac, *mtu);
                Some(Self::Veth(Veth {
                    name,
                    mac,
                    peer,
                    peer_mac,
                    mtu,
                }))
            }
            Value::Vxlan {
                vni,
                local,
                port,
                mtu,
            } => Some(Self::Vxlan(Vxlan {
                name,
                vni: *vni,
                local: *local,
                port: *port,
                mtu: *mtu,
            })),
            other => Uplink::of(name, other).map(Self::Uplink),
        }
    }
}

impl Links {
    pub(super) async fn add(&mut self, asked: &Asked<'_>) -> Result<(), Failure> {
        match asked {
            Asked::Bridge(bridge) => self.add_bridge(bridge).await,
            Asked::Adopted(name) => self.adopt(name).await,
            Asked::Veth(veth) => self.add_veth(veth).await,
            Asked::Vxlan(vxlan) => self.add_vxlan(vxlan).await,
            Asked::Uplink(uplink) => self.add_uplink(uplink).await,
        }
    }

    pub(super) async fn change(&mut self, asked: &Asked<'_>) -> Result<(), Failure> {
        match asked {
            Asked::Bridge(bridge) => self.change_bridge(bridge).await,
            Asked::Adopted(name) => self.adopt(name).await,
            Asked::Veth(veth) => self.change_veth(veth).await,
            Asked::Vxlan(vxlan) => self.change_vxlan(vxlan).await,
            Asked::Uplink(uplink) => self.change_uplink(uplink).await,
        }
    }

    pub(super) fn new() -> Self {
        Self {
            socket: Socket::new(NETLINK_ROUTE),
            strict: Socket::strict(NETLINK_ROUTE),
        }
    }

    /// Adds all facts about links, ports and addresses that hold; gives the names of our links.
    pub(super) async fn observe(&mut self, world: &mut World) -> Result<Vec<IfName>, Failure> {
        let dump = get_link(LinkMessageBuilder::<LinkUnspec>::new());
        let mut names = HashMap::new();
        let mut ours = HashMap::new();
        for reply in self.socket.dump(dump).await? {
            let (name, group) = name_and_group(&reply);
            if matches!(group, Some(LINK_GROUP | LEAVING_GROUP | ADOPTED_GROUP)) {
                let link = link_of(&reply)?;
                names.insert(link.index, link.name.clone());
                ours.insert(link.index, link);
            } else if let Some((index, name)) = reply_index(&reply).zip(name) {
                // Somebody else's links are not parsed further, so none of theirs can make ours unreadable.
                names.insert(index, name);
            }
        }
        let facts: HashMap<u32, IfName> = ours
            .values()
            .filter(|link| !put_back(link, &ours))
            .filter_map(|link| Some((link.index, named(link)?)))
            .collect();
        for (index, name) in &facts {
            let link = &ours[index];
            let (key, value) = (key_of(link, name.clone()), value_of(link, &ours, &names));
            if has_settings(&key, &value) {
                world.extend(link.told.facts(name));
            }
            world.insert(key, value);
            let shim = matches!(
                link.wire,
                Some(uplinks::Found::Macvlan(_) | uplinks::Found::Ipvlan(..))
            );
            if shim && link.ours && link.up && link.master.is_none() && !uplinks::is_child(link) {
                world.insert(Key::Port(name.clone()), Value::Up);
            }
            if link.ours && link.is_bridge() && link.asking.as_told() {
                world.insert(Key::Querier(name.clone()), Value::Present);
            }
            let bridge = link
                .master
                .filter(|_| link.up)
                .and_then(|master| names.get(&master)?.parse().ok());
            // An adopted bridge may be a port of something else; that is its owner's.
            if let Some(bridge) = bridge.filter(|_| !link.adopted && !uplinks::is_parent(link)) {
                world.insert(Key::Port(name.clone()), place_of(link, bridge));
            }
        }
        for (index, address, marked) in self.addresses().await? {
            // What else is done with a VLAN is not ours.
            let of_parent = ours.get(&index).is_some_and(uplinks::is_parent);
            if let Some((name, link)) = facts.get(&index).zip(ours.get(&index)).filter(|_| !of_parent) {
                let value = if link.adopted && !marked {
                    Value::Theirs
                } else {
                    Value::Present
                };
                world.insert(Key::Address(name.clone(), address), value);
            }
        }
        self.routes(&names, &facts, world).await?;
        let of_sort = |wanted: fn(&Link) -> bool| -> HashMap<u32, IfName> {
            let of_sort = facts.iter().filter(|(index, _)| wanted(&ours[*index]));
            of_sort.map(|(index, name)| (*index, name.clone())).collect()
        };
        self.neighbours(&of_sort(|link| link.ours && link.is_bridge()), world)
            .await?;
        self.forwarding(&of_sort(|link| link.ours && link.vxlan.is_some()), world)
            .await?;
        for (index, bits) in self.rates().await? {
            let limited = facts.get(&index).filter(|_| {
                !ours
                    .get(&index)
                    .is_some_and(|link| link.adopted || uplinks::is_parent(link))
            });
            if let Some(name) = limited {
                world.insert(Key::Rate(name.clone()), Value::Rate(bits));
            }
        }
        Ok(facts.into_values().collect())
    }

    pub(super) async fn find(&mut self, name: &IfName) -> Result<Option<Link>, Failure> {
        match self
            .socket
            .ask(get_link(LinkUnspec::new_with_name(name.as_str())))
            .await
        {
            Ok(replies) => replies.first().map(link_of).transpose(),
            Err(failure) if failure.errno() == Some(libc::ENODEV) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The link of that name, if it is ours.
    pub(super) async fn find_ours(&mut self, name: &IfName) -> Result<Option<Link>, Failure> {
        Ok(self.find(name).await?.filter(|link| link.ours))
    }

    /// The link of that name, if it is ours or an adopted bridge.
    pub(super) async fn find_used(&mut self, name: &IfName) -> Result<Option<Link>, Failure> {
        Ok(self.find(name).await?.filter(|link| link.ours || link.adopted))
    }

    /// The link of that name, which must be ours.
    pub(super) async fn ours(&mut self, name: &IfName) -> Result<Link, Failure> {
        self.fit(name, |link| link.ours).await
    }

    /// The link of that name, which must be ours or an adopted bridge, or within a sandbox.
    pub(super) async fn used(&mut self, name: &IfName) -> Result<Link, Failure> {
        self.fit(name, |link| link.ours || link.adopted || link.placed)
            .await
    }

    async fn fit(&mut self, name: &IfName, fits: impl Fn(&Link) -> bool) -> Result<Link, Failure> {
        match self.find(name).await? {
            Some(link) if fits(&link) => Ok(link),
            Some(_) => Err(refused(libc::EPERM, format!("link {name} is not tombolo's"))),
            None => Err(refused(libc::ENODEV, format!("there is no link {name}"))),
        }
    }

    /// The bridge of that name, which must be ours or adopted.
    pub(super) async fn our_bridge(&mut self, name: &IfName) -> Result<Link, Failure> {
        let link = self.used(name).await?;
        if link.is_bridge() {
            Ok(link)
        } else {
            Err(refused(libc::EINVAL, format!("{name} is not a bridge")))
        }
    }

    /// The link of that name, which must be one whose settings are ours to make: a bridge, or one on a wire.
    pub(super) async fn with_settings(&mut self, name: &IfName) -> Result<Link, Failure> {
        let link = self.used(name).await?;
        match link.is_bridge() || (link.wire.is_some() && !uplinks::is_child(&link)) {
            true => Ok(link),
            false => Err(refused(libc::EINVAL, format!("{name} is not a bridge"))),
        }
    }

    /// Takes somebody else's bridge into use: its group is all that is changed.
    async fn adopt(&mut self, name: &IfName) -> Result<(), Failure> {
        let Some(link) = self.find(name).await? else {
            let text = format!(
                "there is no link {name}; the network was made on a bridge of that name: make it again (ip link add {name} type bridge)"
            );
            return Err(refused(libc::ENODEV, text));
        };
        if !link.is_bridge() || link.ours {
            let text = format!("{name} is not a bridge that somebody else made; choose another name");
            return Err(refused(libc::EINVAL, text));
        }
        self.regroup(link.index, ADOPTED_GROUP).await
    }

    async fn regroup(&mut self, index: u32, group: u32) -> Result<(), Failure> {
        let message = LinkUnspec::new_with_index(index).link_group(group).build();
        unless(
            self.tell(RouteNetlinkMessage::SetLink(message), 0).await,
            &[libc::ENODEV],
        )
    }

    pub(super) async fn tell(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Failure> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        self.socket.ask(message).await.map(drop)
    }

    pub(super) async fn create(&mut self, message: LinkMessage) -> Result<(), Failure> {
        self.tell(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            .await
    }

    async fn add_bridge(&mut self, bridge: &Bridge<'_>) -> Result<(), Failure> {
        // An MTU in the message that makes a bridge lasts until its first port, from then on the bridge follows its ports.
        // One that is changed later is kept. So where an MTU is asked for, the bridge begins with another one.
        let first = bridge.mtu.filter(|mtu| *mtu == OWN_MTU).map(|mtu| mtu - 1);
        let message = bridge_message(Some(bridge.mac))
            .name(bridge.name.as_str())
            .link_group(LINK_GROUP);
        let made = self.create(with_mtu(message, first).build()).await;
        if made.as_ref().err().and_then(Failure::errno) == Some(libc::EEXIST) {
            let found = self.ours_of_that_name(bridge.name).await?;
            return if is_as_asked(&found, bridge) { Ok(()) } else { made };
        }
        made?;
        let Some(mtu) = bridge.mtu else { return Ok(()) };
        let message = LinkUnspec::new_with_name(bridge.name.as_str()).mtu(mtu).build();
        let set = self.tell(RouteNetlinkMessage::SetLink(message), 0).await;
        if let Err(Failure::Refused { .. }) = set {
            self.remove(bridge.name).await?;
        }
        set
    }

    async fn add_veth(&mut self, veth: &Veth<'_>) -> Result<(), Failure> {
        let end = LinkUnspec::new_with_name(veth.peer.as_str())
            .link_group(LINK_GROUP)
            .address(veth.peer_mac.bytes().to_vec());
        let mut message = LinkVeth::new(veth.name.as_str(), veth.peer.as_str())
            .link_group(LINK_GROUP)
            .address(veth.mac.bytes().to_vec());
        message = with_mtu(message, veth.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(with_mtu(end, veth.mtu).build())));
        let made = self.create(message.build()).await;
        if made.as_ref().err().and_then(Failure::errno) != Some(libc::EEXIST) {
            return made;
        }
        if self.find(veth.name).await?.is_none() {
            return Err(refused(
                libc::EEXIST,
                format!("a link {} is there, the name of the other end", veth.peer),
            ));
        }
        let found = self.ours_of_that_name(veth.name).await?;
        if found.is_veth() && !found.is_container_end() {
            Ok(())
        } else {
            made
        }
    }

    /// The link that holds a name which a new link was to have; a refusal if it is somebody else's.
    pub(super) async fn ours_of_that_name(&mut self, name: &IfName) -> Result<Link, Failure> {
        match self.find(name).await? {
            Some(link) if link.ours => Ok(link),
            Some(_) => Err(refused(
                libc::EEXIST,
                format!(
                    "a link of that name exists and is not tombolo's; remove it (ip link delete {name}) or take another name"
                ),
            )),
            None => Err(Failure::Broken(
                "a link of that name was there and is gone".into(),
            )),
        }
    }

    /// Mends a bridge: its MTU and MAC, up, without spanning tree. A link of ours of another kind is replaced.
    async fn change_bridge(&mut self, bridge: &Bridge<'_>) -> Result<(), Failure> {
        let found = self.ours(bridge.name).await?;
        if !found.is_bridge() {
            self.delete(found.index).await?;
            return self.add_bridge(bridge).await;
        }
        // The MTU alone and first: it is what the kernel may refuse, and it would keep what it had done before that.
        if let Some(mtu) = bridge.mtu.filter(|mtu| *mtu != found.mtu) {
            let message = LinkUnspec::new_with_index(found.index).mtu(mtu).build();
            self.tell(RouteNetlinkMessage::SetLink(message), 0).await?;
        }
        let mac = Some(bridge.mac).filter(|mac| found.mac != Some(*mac));
        self.tell(
            RouteNetlinkMessage::NewLink(bridge_message(mac).index(found.index).build()),
            0,
        )
        .await
    }

    /// Makes a pair in the place of a link of ours that is none.
    async fn change_veth(&mut self, veth: &Veth<'_>) -> Result<(), Failure> {
        let found = self.ours(veth.name).await?;
        if found.is_veth() && !found.is_container_end() {
            return Ok(());
        }
        self.delete(found.index).await?;
        self.add_veth(veth).await
    }

    pub(super) async fn remove(&mut self, name: &IfName) -> Result<(), Failure> {
        match self.find_used(name).await? {
            Some(link) if link.adopted => {
                // Our table keeps the bridge's neighbours from the host's loopback as long as it is in our group.
                settings::apply(&Setting::RouteLocalnet(name.clone()), 0, &[])?;
                self.regroup(link.index, 0).await
            }
            Some(link) => self.delete(link.index).await,
            None => Ok(()),
        }
    }

    /// Removes several links of ours at once (`rtnl_group_dellink`, net/core/rtnetlink.c), for which the kernel waits once and not
    /// for each.
    pub(super) async fn remove_many(&mut self, names: &[&IfName]) -> Result<(), Failure> {
        let mut last = None;
        for name in names {
            if let Some(link) = self.find_ours(name).await? {
                self.regroup(link.index, LEAVING_GROUP).await?;
                last = Some(link.index);
            }
        }
        let Some(last) = last else { return Ok(()) };
        let group = LinkMessageBuilder::<LinkUnspec>::new().link_group(LEAVING_GROUP);
        self.delete_with(group.build(), last).await
    }

    /// Deletes a link; done when nobody sees it any more.
    pub(super) async fn delete(&mut self, index: u32) -> Result<(), Failure> {
        self.delete_with(LinkUnspec::new_with_index(index).build(), index)
            .await
    }

    /// Deletes what a message says, a link of this index among it. When that is gone the kernel waits for all its processors to have
    /// let go of it (`rcu_barrier`), some 15 ms during which it holds the asker: a thread of its own, not this one.
    async fn delete_with(&mut self, which: LinkMessage, index: u32) -> Result<(), Failure> {
        let mut deletion = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| Failure::Broken(format!("making a runtime: {e}")))?;
            runtime.block_on(Self::new().delete_and_wait(which))
        });
        loop {
            if let Ok(ended) = timeout(GLANCE, &mut deletion).await {
                return ended.unwrap_or_else(|e| Err(Failure::Broken(format!("deleting a link: {e}"))));
            }
            if !self.is_there(index).await? {
                return Ok(());
            }
        }
    }

    async fn delete_and_wait(&mut self, which: LinkMessage) -> Result<(), Failure> {
        let message = RouteNetlinkMessage::DelLink(which);
        unless(self.tell(message, 0).await, &[libc::ENODEV])
    }

    async fn is_there(&mut self, index: u32) -> Result<bool, Failure> {
        match self.socket.ask(get_link(LinkUnspec::new_with_index(index))).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.errno() == Some(libc::ENODEV) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Puts a link on a bridge, and up. A port can only be told to be isolated once it is one, so it comes up after that.
    pub(super) async fn add_port(&mut self, name: &IfName, port: &Port<'_>) -> Result<(), Failure> {
        let link = self.ours(name).await?;
        if link.vxlan.is_some() {
            return Failure::ours(format!(
                "{name} is a VXLAN link, whose place on a bridge is another one"
            ));
        }
        let bridge = self.our_bridge(port.bridge).await?;
        settings::without_own_ipv6(name)?;
        if link.master != Some(bridge.index) {
            let message = LinkUnspec::new_with_index(link.index).controller(bridge.index);
            self.tell(RouteNetlinkMessage::SetLink(message.build()), 0)
                .await?;
        }
        // A link that was on another bridge begins anew on this one.
        let moved = link.master != Some(bridge.index);
        let asked = (port.isolated, port.hairpin);
        if (moved && asked != (false, false)) || (!moved && asked != (link.isolated, link.hairpin)) {
            let message = LinkBridgePort::new(link.index)
                .isolated(port.isolated)
                .hairpin(port.hairpin);
            self.tell(RouteNetlinkMessage::NewLink(message.build()), 0)
                .await?;
        }
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.tell(RouteNetlinkMessage::SetLink(message), 0).await
    }

    pub(super) async fn remove_port(&mut self, name: &IfName) -> Result<(), Failure> {
        let Some(link) = self.find_ours(name).await? else {
            return Ok(());
        };
        let message = LinkUnspec::new_with_index(link.index).nocontroller().build();
        unless(
            self.tell(RouteNetlinkMessage::SetLink(message), 0).await,
            &[libc::ENODEV],
        )
    }
}

pub(super) fn refused(errno: i32, text: String) -> Failure {
    Failure::Refused { errno, text }
}

/// A question about links, without their counters (half of the answer).
fn get_link(link: LinkMessageBuilder<LinkUnspec>) -> NetlinkMessage<RouteNetlinkMessage> {
    let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    NetlinkMessage::from(RouteNetlinkMessage::GetLink(
        link.append_extra_attribute(mask).build(),
    ))
}

/// Whether the settings of a link are ours to make.
pub(super) fn has_settings(key: &Key, value: &Value) -> bool {
    let sorts = matches!(
        value,
        Value::Bridge { .. } | Value::Adopted | Value::Macvlan { .. } | Value::Ipvlan { .. }
    );
    matches!(key, Key::Link(_)) && sorts
}

fn is_as_asked(found: &Link, bridge: &Bridge<'_>) -> bool {
    let set_up = found.is_bridge() && found.up && !found.stp;
    set_up && found.mac == Some(bridge.mac) && bridge.mtu.is_none_or(|mtu| mtu == found.mtu)
}

fn bridge_message(mac: Option<Mac>) -> LinkMessageBuilder<LinkBridge> {
    let message = LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge)
        .up()
        .stp_state(BridgeStpState::Disabled);
    match mac {
        Some(mac) => message.address(mac.bytes().to_vec()),
        None => message,
    }
}

pub(super) fn with_mtu<T>(message: LinkMessageBuilder<T>, mtu: Option<u32>) -> LinkMessageBuilder<T> {
    match mtu {
        Some(mtu) => message.mtu(mtu),
        None => message,
    }
}
