//! Addresses of our links, and ours on bridges of somebody else's.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol};
use rtnetlink::AddressMessageBuilder;
use tombolo_core::model::IfName;
use tombolo_core::world::ADDRESS_PROTO;

use super::link::unexpected;
use super::netlink::Links;
use super::socket::{Failure, unless};

impl Links {
    /// All addresses but IPv6 link-local ones, which are the kernel's: the index of the link, the address, and whether it
    /// bears our protocol number.
    pub(super) async fn addresses(&mut self) -> Result<Vec<(u32, IpNet, bool)>, Failure> {
        let dump = NetlinkMessage::from(RouteNetlinkMessage::GetAddress(AddressMessage::default()));
        let mut addresses = Vec::new();
        for reply in self.socket.dump(dump).await? {
            let message = RouteNetlinkMessage::deserialize(&reply.header, &reply.payload);
            let Ok(RouteNetlinkMessage::NewAddress(message)) = message else {
                return Err(unexpected("an address", &message));
            };
            // A point-to-point address (not one of ours) has its own end in `Local` and the other in `Address`.
            let local = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = local.or_else(|| {
                message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            });
            let net = address.and_then(|address| IpNet::new(address, message.header.prefix_len).ok());
            let marked = message.attributes.contains(&our_mark());
            addresses.extend(
                net.filter(|net| !is_link_local6(net))
                    .map(|net| (message.header.index, net, marked)),
            );
        }
        Ok(addresses)
    }

    pub(super) async fn add_address(&mut self, name: &IfName, address: IpNet) -> Result<(), Failure> {
        if is_link_local6(&address) {
            return Failure::ours("link-local addresses are the kernel's own");
        }
        let link = self.used(name).await?;
        let mut address_message = address_message(link.index, address);
        if link.adopted {
            address_message.attributes.push(our_mark());
        }
        let message = RouteNetlinkMessage::NewAddress(address_message);
        let made = self.tell(message, NLM_F_CREATE | NLM_F_EXCL).await;
        if made.as_ref().err().and_then(Failure::errno) != Some(libc::EEXIST) {
            return made;
        }
        // For IPv6 the kernel says so too if the address is there with another prefix length.
        let there = self.addresses().await?;
        let there = there
            .iter()
            .any(|(index, there, _)| (*index, *there) == (link.index, address));
        if there { Ok(()) } else { made }
    }

    pub(super) async fn remove_address(&mut self, name: &IfName, address: IpNet) -> Result<(), Failure> {
        let Some(link) = self.find_used(name).await? else {
            return Ok(());
        };
        // Where somebody else's bridge has had it all along, it is not ours to take away.
        if link.adopted && !self.is_marked(link.index, address).await? {
            return Ok(());
        }
        let message = RouteNetlinkMessage::DelAddress(address_message(link.index, address));
        unless(self.tell(message, 0).await, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    /// Whether an address is there and bears our mark.
    async fn is_marked(&mut self, index: u32, address: IpNet) -> Result<bool, Failure> {
        let there = self.addresses().await?;
        Ok(there.contains(&(index, address, true)))
    }
}

/// The protocol number by which an address on somebody else's bridge is known to be ours.
fn our_mark() -> AddressAttribute {
    AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTO))
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    match address {
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => {
            let message = AddressMessageBuilder::<std::net::Ipv6Addr>::new().index(index);
            let mut message = message.address(net.addr(), net.prefix_len()).build();
            // A bridge has no carrier until its first port is up: the search for duplicates would not even begin.
            message.header.flags = AddressHeaderFlags::Nodad;
            message
        }
    }
}

fn is_link_local6(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local())
}
