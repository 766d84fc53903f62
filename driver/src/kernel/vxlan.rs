//! VXLAN links and their places on bridges (see [`Value::Vxlan`] and [`Value::Tunnel`]).
//!
//! Such a link is told all that it knows: it learns no addresses from what it hears, and sends nothing where nobody said.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{BridgeMulticastRouterType, InfoKind, InfoVxlan};
use rtnetlink::{LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVxlan};
use tombolo_core::model::IfName;
use tombolo_core::world::{Family, LINK_GROUP, Value};

use super::link::Link;
use super::neighbours;
use super::netlink::{Links, refused, with_mtu};
use super::settings;
use super::socket::Failure;

/// The source of what a tunnel sends that the kernel chooses by the route; of IPv4, since for IPv6 it isn't let choose.
const CHOSEN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The VXLAN link that a step asks for.
pub(super) struct Vxlan<'a> {
    pub(super) name: &'a IfName,
    pub(super) vni: u32,
    pub(super) local: IpAddr,
    pub(super) port: u16,
    pub(super) mtu: Option<u32>,
}

/// A VXLAN link's place on a bridge that a step asks for.
pub(super) struct Tunnel<'a> {
    pub(super) bridge: &'a IfName,
    pub(super) isolated: bool,
    pub(super) multicast: bool,
}

/// What the kernel tells of a VXLAN link besides what all links have.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) vni: u32,
    local: Option<IpAddr>,
    pub(super) port: u16,
    learning: bool,
    /// It sends what it knows no VTEP for to one that was set with the link.
    remote: bool,
    /// It sends by one link only.
    device: bool,
}

impl Found {
    /// Takes over what some attributes say.
    pub(super) fn learn(&mut self, data: Vec<InfoVxlan>) {
        for item in data {
            match item {
                InfoVxlan::Id(vni) => self.vni = vni,
                InfoVxlan::Local(address) => self.local = Some(address.into()),
                InfoVxlan::Local6(address) => self.local = Some(address.into()),
                InfoVxlan::Port(port) => self.port = port,
                InfoVxlan::Learning(on) => self.learning = on,
                InfoVxlan::Group(address) => self.remote |= !address.is_unspecified(),
                InfoVxlan::Group6(address) => self.remote |= !address.is_unspecified(),
                InfoVxlan::Link(index) => self.device |= index != 0,
                _ => {}
            }
        }
    }

    /// The source of what it sends. The kernel doesn't tell that it chooses.
    pub(super) fn source(&self) -> IpAddr {
        self.local.unwrap_or(CHOSEN)
    }

    /// The fact that such a link is.
    pub(super) fn value(&self, link: &Link) -> Value {
        match () {
            _ if !link.up => Value::Unfit("a tunnel that is down"),
            _ if self.learning => Value::Unfit("a tunnel that learns addresses"),
            _ if self.remote => Value::Unfit("a tunnel with a VTEP for what is unknown"),
            _ if self.device => Value::Unfit("a tunnel by one link only"),
            _ => Value::Vxlan {
                vni: self.vni,
                local: self.source(),
                port: self.port,
                mtu: Some(link.mtu),
            },
        }
    }

    /// Whether it can be made what is asked for without making it anew.
    fn can_become(&self, asked: &Vxlan<'_>) -> bool {
        let family = |address: IpAddr| Family::of(address);
        let same =
            (self.vni, self.port, family(self.source())) == (asked.vni, asked.port, family(asked.local));
        same && !self.remote && !self.device
    }
}

/// How a port of a bridge treats what is for nobody in particular.
#[derive(Debug, Default)]
pub(super) struct Manners {
    pub(super) learning: bool,
    pub(super) unknown: bool,
    pub(super) multicast: bool,
    pub(super) broadcast: bool,
    /// Whether a multicast router is there.
    pub(super) router: Option<BridgeMulticastRouterType>,
    /// Whether the bridge answers for those behind it.
    pub(super) suppress: bool,
}

/// The fact that a VXLAN link's place on a bridge is.
pub(super) fn place_of(link: &Link, bridge: IfName) -> Value {
    let manners = &link.manners;
    match manners {
        _ if link.hairpin => Value::Unfit("a tunnel that sends back what came out of it"),
        Manners { learning: true, .. } => Value::Unfit("a tunnel whose bridge learns from it"),
        Manners { suppress: false, .. } => Value::Unfit("a tunnel whose bridge doesn't answer for it"),
        Manners { unknown: false, .. } => Value::Unfit("a tunnel that gets nothing for unknown addresses"),
        _ if manners.multicast != manners.broadcast => {
            Value::Unfit("a tunnel that gets one of multicast and broadcast")
        }
        _ if manners.router != Some(router(manners.multicast)) => {
            Value::Unfit("a tunnel that gets some groups only, or what nobody is to get")
        }
        _ => Value::Tunnel {
            bridge,
            isolated: link.isolated,
            multicast: manners.multicast,
        },
    }
}

/// What a tunnel is for its bridge: a multicast router, which gets all groups, or never one.
fn router(multicast: bool) -> BridgeMulticastRouterType {
    match multicast {
        true => BridgeMulticastRouterType::Permanent,
        false => BridgeMulticastRouterType::Disabled,
    }
}

impl Links {
    pub(super) async fn add_vxlan(&mut self, asked: &Vxlan<'_>) -> Result<(), Failure> {
        let made = self.create(message(asked)).await;
        if made.as_ref().err().and_then(Failure::errno) != Some(libc::EEXIST) {
            return made;
        }
        if self.find(asked.name).await?.is_none() {
            let text = format!(
                "another VXLAN link has the number {} on port {}",
                asked.vni, asked.port
            );
            return Err(refused(libc::EEXIST, text));
        }
        let found = self.ours_of_that_name(asked.name).await?;
        let wanted = Value::Vxlan {
            vni: asked.vni,
            local: asked.local,
            port: asked.port,
            mtu: asked.mtu,
        };
        let holds = |tunnel: &Found| wanted.holds_as(&tunnel.value(&found));
        if found.vxlan.as_ref().is_some_and(holds) {
            Ok(())
        } else {
            made
        }
    }

    /// Mends a VXLAN link, or makes it anew where the kernel changes no such thing: then what was on it is gone. A link of
    /// ours of another kind is replaced.
    pub(super) async fn change_vxlan(&mut self, asked: &Vxlan<'_>) -> Result<(), Failure> {
        let found = self.ours(asked.name).await?;
        if !found
            .vxlan
            .as_ref()
            .is_some_and(|tunnel| tunnel.can_become(asked))
        {
            self.delete(found.index).await?;
            return self.add_vxlan(asked).await;
        }
        // First what the kernel may refuse: it would keep what it had done before that.
        if let Some(mtu) = asked.mtu.filter(|mtu| *mtu != found.mtu) {
            let message = LinkUnspec::new_with_index(found.index).mtu(mtu).build();
            self.tell(RouteNetlinkMessage::SetLink(message), 0).await?;
        }
        let message = local(
            LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan),
            asked.local,
        )
        .index(found.index)
        .learning(false)
        .up()
        .build();
        self.tell(RouteNetlinkMessage::NewLink(message), 0).await?;
        self.ask_gone(neighbours::flood_of_unknown(found.index)).await
    }

    /// Puts a VXLAN link on a bridge. A port can only be told its manners once it is one, so it is down until then.
    pub(super) async fn add_tunnel(&mut self, name: &IfName, asked: &Tunnel<'_>) -> Result<(), Failure> {
        let link = self.ours(name).await?;
        if link.vxlan.is_none() {
            return Failure::ours(format!("{name} is not a VXLAN link"));
        }
        let bridge = self.our_bridge(asked.bridge).await?;
        settings::without_own_ipv6(name)?;
        if link.master != Some(bridge.index) {
            let message = LinkUnspec::new_with_index(link.index).down();
            self.tell(RouteNetlinkMessage::SetLink(message.build()), 0)
                .await?;
            let message = LinkUnspec::new_with_index(link.index).controller(bridge.index);
            self.tell(RouteNetlinkMessage::SetLink(message.build()), 0)
                .await?;
        }
        let message = LinkBridgePort::new(link.index)
            .learning(false)
            .flood(true)
            .neigh_suppress(true)
            .mcast_flood(asked.multicast)
            .bcast_flood(asked.multicast)
            .mcast_router(router(asked.multicast))
            .isolated(asked.isolated)
            .hairpin(false);
        self.tell(RouteNetlinkMessage::NewLink(message.build()), 0)
            .await?;
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.tell(RouteNetlinkMessage::SetLink(message), 0).await
    }
}

fn message(asked: &Vxlan<'_>) -> netlink_packet_route::link::LinkMessage {
    let message = LinkVxlan::new(asked.name.as_str(), asked.vni)
        .link_group(LINK_GROUP)
        .port(asked.port)
        .learning(false)
        .up();
    local(with_mtu(message, asked.mtu), asked.local).build()
}

fn local(message: LinkMessageBuilder<LinkVxlan>, address: IpAddr) -> LinkMessageBuilder<LinkVxlan> {
    match address {
        IpAddr::V4(v4) => message.local(v4),
        IpAddr::V6(v6) => message.local6(v6),
    }
}
