//! What is this host's own: the addresses and hardware addresses of its links. Pure.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use tombolo_core::model::Mac;

use crate::kernel::here::Told;

/// Addresses and hardware addresses, with the links' indices: several links may have the same.
#[derive(Debug, Default)]
pub(super) struct Own {
    addresses: BTreeSet<(IpAddr, u32)>,
    macs: BTreeSet<(Mac, u32)>,
    links: HashMap<u32, Mac>,
}

impl Own {
    /// Takes in what the kernel says.
    pub fn learn(&mut self, told: &Told) {
        match told {
            Told::Link(link) => {
                self.forget_mac(link.index);
                if let Some(mac) = link.mac {
                    self.macs.insert((mac, link.index));
                    self.links.insert(link.index, mac);
                }
            }
            Told::NoLink(index) => self.forget_mac(*index),
            Told::Address(address, index) => {
                self.addresses.insert((*address, *index));
            }
            Told::NoAddress(address, index) => {
                self.addresses.remove(&(*address, *index));
            }
            Told::Missed => {}
        }
    }

    fn forget_mac(&mut self, index: u32) {
        if let Some(mac) = self.links.remove(&index) {
            self.macs.remove(&(mac, index));
        }
    }

    /// Whether this host has an address, on any link: it answers for all of them on each.
    pub fn has(&self, address: IpAddr) -> bool {
        let mut links = self.addresses.range((address, 0)..=(address, u32::MAX));
        links.next().is_some()
    }

    /// Whether a link of this host's has a hardware address.
    pub fn is(&self, mac: Mac) -> bool {
        let mut links = self.macs.range((mac, 0)..=(mac, u32::MAX));
        links.next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::here::{Here, Stand};

    #[test]
    fn what_two_links_have_goes_with_the_second() {
        let (mut own, address) = (Own::default(), "192.0.2.1".parse().unwrap());
        let mac: Mac = "02:00:00:00:00:01".parse().unwrap();
        let link = |index, mac| {
            Told::Link(Here {
                index,
                name: format!("eth{index}"),
                mac: Some(mac),
                stand: Stand::Up,
            })
        };
        for index in [1, 2] {
            own.learn(&link(index, mac));
            own.learn(&Told::Address(address, index));
        }
        own.learn(&Told::NoLink(1));
        own.learn(&Told::NoAddress(address, 1));
        assert!(own.has(address) && own.is(mac));
        own.learn(&link(2, "02:00:00:00:00:02".parse().unwrap()));
        own.learn(&Told::NoAddress(address, 2));
        assert!(!own.has(address) && !own.is(mac));
        assert!(own.is("02:00:00:00:00:02".parse().unwrap()));
    }
}
