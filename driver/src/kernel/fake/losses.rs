//! What goes with a fact that goes, as with a real kernel.

use ipnet::IpNet;
use tombolo_core::model::IfName;
use tombolo_core::world::{Key, Value};

use super::Fake;

impl Fake {
    /// Removes a fact and what cannot be without it.
    pub(super) fn take(&mut self, key: &Key) {
        match key {
            Key::Setting(_) => {}
            Key::Table => self
                .world
                .retain(|key, _| *key != Key::Table && !key.is_element()),
            // It is somebody else's: what we put on it stays until it is taken away by itself.
            Key::Link(name) if self.world.get(key) == Some(&Value::Adopted) => {
                self.world.retain(|key, _| match key {
                    Key::Link(link) | Key::Address(link, _) | Key::Loopback(link) => link != name,
                    Key::Setting(setting) => setting.link() != Some(name),
                    _ => true,
                });
            }
            // What an administrator has put in stays.
            Key::UserTable if self.user_added => {}
            Key::Link(name) => self.take_link(name),
            Key::Parent(name) => {
                self.world.remove(key);
                self.take_those_on(name);
            }
            // A link that is down has no routes.
            Key::Port(name) if self.world.get(key) == Some(&Value::Up) => {
                self.world.remove(key);
                self.world
                    .retain(|key, _| !matches!(key, Key::Way(link, _) if link == name));
            }
            Key::Address(name, IpNet::V4(_)) => {
                self.world.remove(key);
                let left = |key: &Key| matches!(key, Key::Address(link, IpNet::V4(_)) if link == name);
                if !self.world.keys().any(left) {
                    self.end_ipv4(name);
                }
            }
            Key::Port(name) => {
                self.world.remove(key);
                self.halve(name);
            }
            _ => drop(self.world.remove(key)),
        }
    }

    /// Removes a link of ours and what was on it.
    fn take_link(&mut self, name: &IfName) {
        let ports: Vec<IfName> = self.ports_of(name);
        self.world.retain(|key, value| match (key, value) {
            (Key::Link(link) | Key::Port(link) | Key::Address(link, _), _) => link != name,
            (Key::Loopback(link) | Key::Rate(link) | Key::Querier(link), _) => link != name,
            (Key::Way(link, _), _) => link != name,
            (Key::Neighbour(link, _) | Key::Proxied(link, _), _) => link != name,
            (Key::Forward(link, _) | Key::Flood(link, ..), _) => link != name,
            (Key::Setting(setting), _) => setting.link() != Some(name),
            // A route of IPv4 goes as a whole, one of IPv6 hop by hop.
            (Key::Route(net), Value::Hops(hops)) if net.addr().is_ipv4() => {
                hops.iter().all(|hop| hop.link != *name)
            }
            (Key::Route(_), Value::Hops(hops)) => {
                hops.retain(|hop| hop.link != *name);
                !hops.is_empty()
            }
            _ => true,
        });
        for port in ports {
            self.take(&Key::Port(port));
        }
        self.take_those_on(name);
    }

    /// Removes the links that were on the wire of one that is gone.
    pub(super) fn take_those_on(&mut self, parent: &IfName) {
        let on = |value: &Value| match value {
            Value::Macvlan { parent: on, .. } | Value::Ipvlan { parent: on, .. } => on == parent,
            Value::Vlan { link, .. } => link == parent,
            _ => false,
        };
        let gone = self.world.iter().filter(|(_, value)| on(value));
        let gone: Vec<Key> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.take(&key);
        }
    }

    /// Takes away what goes with a link's last address of IPv4.
    fn end_ipv4(&mut self, name: &IfName) {
        self.world.retain(|key, value| match (key, value) {
            (Key::Neighbour(link, address) | Key::Proxied(link, address), _) => {
                address.is_ipv6() || link != name
            }
            (Key::Route(net), Value::Hops(hops)) => {
                net.addr().is_ipv6() || hops.iter().all(|hop| hop.link != *name)
            }
            _ => true,
        });
    }

    fn ports_of(&self, bridge: &IfName) -> Vec<IfName> {
        let on = |value: &Value| matches!(value, Value::On { bridge: b, .. } | Value::Tunnel { bridge: b, .. } if b == bridge);
        let ports = self.world.iter().filter(|(_, value)| on(value));
        ports
            .filter_map(|(key, _)| match key {
                Key::Port(link) => Some(link.clone()),
                _ => None,
            })
            .collect()
    }

    /// Lets a VXLAN link leave its bridge: that forgets what it knew of it.
    pub(super) fn halve(&mut self, name: &IfName) {
        for (key, value) in &mut self.world {
            if matches!(key, Key::Forward(link, _) if link == name) {
                *value = Value::Unfit("half of it");
            }
        }
    }
}
