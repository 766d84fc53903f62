//! Which sorts of link this kernel makes: found by making them, in a network namespace that is thrown away.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVlan, InfoVxlan, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::super::Error;
use super::super::socket::Failure;
use super::Look;

/// A sort of link, and what the kernel said against it.
pub type Tried = (&'static str, Result<(), String>);

/// Tries all sorts that any kind of network needs. To be called where nobody minds links that stay: see
/// [`super::spaces::apart`].
///
/// # Errors
/// When netlink can't be asked at all.
pub fn links() -> Result<Vec<Tried>, Error> {
    let mut look = Look::new()?;
    let of_kind =
        |name: &str, kind| LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).name(name.to_owned());
    let mut tried = vec![
        (
            "bridge",
            look.make(of_kind("trial-bridge", InfoKind::Bridge).build()),
        ),
        ("veth", look.make(of_kind("trial-veth", InfoKind::Veth).build())),
        (
            "vxlan",
            look.make(
                of_kind("trial-vxlan", InfoKind::Vxlan)
                    .set_info_data(InfoData::Vxlan(vec![InfoVxlan::Id(1)]))
                    .build(),
            ),
        ),
        (
            "dummy",
            look.make(of_kind("trial-dummy", InfoKind::Dummy).build()),
        ),
    ];
    // These stand on another link; one link can't bear both sorts.
    let links = look.links()?;
    let index = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.index);
    let below = [index("trial-bridge"), index("trial-veth"), index("trial-veth")];
    let above = [
        (
            "macvlan",
            of_kind("trial-macvlan", InfoKind::MacVlan).set_info_data(InfoData::MacVlan(vec![
                InfoMacVlan::Mode(netlink_packet_route::link::MacVlanMode::Bridge),
            ])),
        ),
        (
            "ipvlan",
            of_kind("trial-ipvlan", InfoKind::IpVlan).set_info_data(InfoData::IpVlan(vec![
                InfoIpVlan::Mode(netlink_packet_route::link::IpVlanMode::L2),
            ])),
        ),
        (
            "VLANs",
            of_kind("trial-vlan", InfoKind::Vlan).set_info_data(InfoData::Vlan(vec![InfoVlan::Id(7)])),
        ),
    ];
    for ((name, message), below) in above.into_iter().zip(below) {
        let made = match below {
            Some(below) => look.make(message.link(below).build()),
            None => Err("there is no link that it could stand on".to_owned()),
        };
        tried.push((name, made));
    }
    Ok(tried)
}

impl Look {
    fn make(&mut self, message: LinkMessage) -> Result<(), String> {
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(message));
        message.header.flags = NLM_F_CREATE | NLM_F_EXCL;
        let made = self.runtime.block_on(self.socket.ask(message));
        made.map(drop).map_err(|failure: Failure| failure.to_string())
    }
}
