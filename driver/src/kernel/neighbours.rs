//! Who is where: neighbours of bridges and the forwarding tables of VXLAN links, which are one sort of message
//! (rtnetlink(7), `struct ndmsg`).
//!
//! ```text
//!   Neighbour  10.0.0.7 has 02:7b:…      on the bridge, permanent: the bridge answers ARP in its place
//!   Proxied    fd00::7                   on the bridge: this host answers in its own name
//!   Forward    02:7b:… is behind a VTEP  twice: for the link (self, with the VTEP), for the bridge (master, static)
//!   Flood      a group goes to VTEPs     for the link, one entry with many VTEPs
//! ```
//!
//! There may be many of them, so steps that follow each other go to the kernel in batches. A host's neighbours that it has
//! learnt itself are none of ours.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tombolo_core::model::{Group, IfName, Mac};
use tombolo_core::world::{Family, Key, Step, Value, World};

use super::attributes;
use super::link::Link;
use super::netlink::{Links, refused};
use super::socket::{Failure, Reply, unless};

/// States of an entry (`NUD_*`).
pub(super) const PERMANENT: u16 = 0x80;
const NOARP: u16 = 0x40;
/// What bridge(8) calls static: neither learnt nor forgotten, and not an address of this host.
const STATIC: u16 = NOARP | 0x02;

/// Length of `struct ndmsg`, in bytes: attributes follow it. State and flags stand at these places in it.
const NDMSG: usize = 12;
const STATE: usize = 8;
const FLAGS: usize = 10;

/// Attribute numbers (`NDA_*`).
const DESTINATION: u16 = 1;
const HARDWARE: u16 = 2;
const VLAN: u16 = 5;
const PORT: u16 = 6;
const VNI: u16 = 7;
const LINK: u16 = 8;
const MASTER: u16 = 9;

/// How many messages go to the kernel at once. With 300, its answers may overflow a socket's queue of usual size; more are
/// no faster.
const BATCH: usize = 200;

/// Answers to the removal of what is gone.
const GONE: [i32; 3] = [libc::ENOENT, libc::ENODEV, libc::EAFNOSUPPORT];

/// A message, and its flags besides the request for an answer.
type Told = (RouteNetlinkMessage, u16);

/// Whether a fact is one of those that this file is about.
pub(super) fn is_entry(key: &Key) -> bool {
    place_of(key).is_some()
}

/// The link that such a fact is about.
fn place_of(key: &Key) -> Option<&IfName> {
    match key {
        Key::Neighbour(link, _) | Key::Proxied(link, _) => Some(link),
        Key::Forward(link, _) | Key::Flood(link, ..) => Some(link),
        _ => None,
    }
}

impl Links {
    /// Makes one step about an entry.
    pub(super) async fn entry(&mut self, step: &Step) -> Result<(), Failure> {
        let Some(name) = place_of(step.key()) else {
            return Failure::ours("no entry of a table");
        };
        let link = self.find(name).await?;
        let messages = messages(step, link.as_ref())?;
        if step.removes() {
            return self.ask_gone(messages).await;
        }
        for (message, flags) in messages {
            self.tell(message, flags).await?;
        }
        Ok(())
    }

    /// Removes what may be gone.
    pub(super) async fn ask_gone(&mut self, messages: Vec<Told>) -> Result<(), Failure> {
        for (message, flags) in messages {
            unless(self.tell(message, flags).await, &GONE)?;
        }
        Ok(())
    }

    /// Makes steps about entries, many at once; gives what became of each. Links are looked up once.
    pub(super) async fn entries(&mut self, steps: &[Step]) -> Vec<Result<(), Failure>> {
        let mut links: BTreeMap<&IfName, Result<Option<Link>, Failure>> = BTreeMap::new();
        for name in steps.iter().filter_map(|step| place_of(step.key())) {
            if !links.contains_key(name) {
                links.insert(name, self.find(name).await);
            }
        }
        let mut results: Vec<Result<(), Failure>> = steps.iter().map(|_| Ok(())).collect();
        let (mut batch, mut asking) = (Vec::new(), Vec::new());
        for (number, step) in steps.iter().enumerate() {
            let planned = match place_of(step.key()).and_then(|name| links.get(name)) {
                Some(Ok(link)) => messages(step, link.as_ref()),
                Some(Err(failure)) => Err(Failure::Broken(failure.to_string())),
                None => Failure::ours("no entry of a table").map(|()| Vec::new()),
            };
            match planned {
                Ok(messages) if batch.len() + messages.len() > BATCH => {
                    self.send(
                        steps,
                        std::mem::take(&mut batch),
                        std::mem::take(&mut asking),
                        &mut results,
                    )
                    .await;
                    (batch, asking) = (messages, vec![number]);
                }
                Ok(messages) => {
                    batch.extend(messages);
                    asking.push(number);
                }
                Err(failure) => results[number] = Err(failure),
            }
        }
        self.send(steps, batch, asking, &mut results).await;
        results
    }

    /// Sends one batch for some of the steps. One refusal hides what became of the others, so each is then made by itself:
    /// all of them may be repeated.
    async fn send(
        &mut self,
        steps: &[Step],
        batch: Vec<Told>,
        asking: Vec<usize>,
        results: &mut [Result<(), Failure>],
    ) {
        if batch.is_empty() {
            return;
        }
        let message = |(message, flags): Told| {
            let mut message = NetlinkMessage::from(message);
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            message
        };
        let sent = self.socket.batch(batch.into_iter().map(message).collect()).await;
        match sent {
            Ok(_) => {}
            Err(Failure::Refused { .. }) => {
                for number in asking {
                    results[number] = self.entry(&steps[number]).await;
                }
            }
            Err(Failure::Broken(why)) => {
                for number in asking {
                    results[number] = Err(Failure::Broken(why.clone()));
                }
            }
        }
    }

    /// Adds the facts about neighbours of some bridges, by their indices.
    pub(super) async fn neighbours(
        &mut self,
        bridges: &HashMap<u32, IfName>,
        world: &mut World,
    ) -> Result<(), Failure> {
        if bridges.is_empty() {
            return Ok(());
        }
        for flags in [NeighbourFlags::empty(), NeighbourFlags::Proxy] {
            let mut ask = NeighbourMessage::default();
            ask.header.flags = flags;
            let dump = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(ask));
            let of_bridge = |entry: &Entry| bridges.contains_key(&entry.index);
            let read = |reply: Reply| Entry::read(&reply.payload).filter(of_bridge);
            for entry in self.socket.dump_read(dump, read).await? {
                let Some((bridge, address)) = bridges.get(&entry.index).zip(entry.destination) else {
                    continue;
                };
                if entry.flags.contains(NeighbourFlags::Proxy) {
                    world.insert(Key::Proxied(bridge.clone(), address), Value::Present);
                } else if entry.state == PERMANENT {
                    let mac = entry.mac.and_then(|mac| Mac::from_bytes(mac).ok());
                    let value = mac.map_or(Value::Unfit("not the address of one interface"), Value::Mac);
                    world.insert(Key::Neighbour(bridge.clone(), address), value);
                }
            }
        }
        Ok(())
    }

    /// Adds the facts about the forwarding tables of some VXLAN links, by their indices.
    pub(super) async fn forwarding(
        &mut self,
        tunnels: &HashMap<u32, IfName>,
        world: &mut World,
    ) -> Result<(), Failure> {
        if tunnels.is_empty() {
            return Ok(());
        }
        let mut ask = NeighbourMessage::default();
        ask.header.family = AddressFamily::Bridge;
        let dump = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(ask));
        let mut halves: BTreeMap<(u32, Mac), Halves> = BTreeMap::new();
        let of_tunnel = |entry: &Entry| tunnels.contains_key(&entry.index);
        let read = |reply: Reply| Entry::read(&reply.payload).filter(of_tunnel);
        for entry in self.socket.dump_read(dump, read).await? {
            let Some((tunnel, mac)) = tunnels.get(&entry.index).zip(entry.mac) else {
                continue;
            };
            let of_link = entry.flags.contains(NeighbourFlags::Own);
            match (Mac::from_bytes(mac), Group::from_bytes(mac)) {
                (Ok(mac), _) => halves
                    .entry((entry.index, mac))
                    .or_default()
                    .learn(of_link, &entry),
                (Err(_), Some(group)) if of_link => {
                    if let Some(vtep) = entry.destination {
                        world.insert(Key::Flood(tunnel.clone(), group, vtep), Value::Present);
                    }
                }
                // All zeros: where to send what is for an unknown address.
                (Err(_), None) if of_link => {
                    let key = Key::Link(tunnel.clone());
                    world.insert(
                        key,
                        Value::Unfit("a tunnel that floods what is for unknown addresses"),
                    );
                }
                _ => {}
            }
        }
        for ((index, mac), halves) in halves {
            if let Some((tunnel, value)) = tunnels.get(&index).zip(halves.value()) {
                world.insert(Key::Forward(tunnel.clone(), mac), value);
            }
        }
        Ok(())
    }
}

/// An entry as the kernel tells of it.
pub(super) struct Entry {
    pub(super) index: u32,
    pub(super) state: u16,
    pub(super) flags: NeighbourFlags,
    pub(super) destination: Option<IpAddr>,
    pub(super) mac: Option<[u8; 6]>,
    /// It is the bridge's, about one of its ports.
    of_bridge: bool,
    /// It holds within a VLAN only; our bridges have none.
    vlan: bool,
    /// It leads to a port, network or link of its own.
    strange: bool,
}

impl Entry {
    /// Reads a message (`struct ndmsg` and its attributes). One that is cut short is none.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let head = payload.get(..NDMSG)?;
        let mut entry = Self {
            index: attributes::number(&head[4..])?,
            state: u16::from_ne_bytes([head[STATE], head[STATE + 1]]),
            flags: NeighbourFlags::from_bits_retain(head[FLAGS]),
            destination: None,
            mac: None,
            of_bridge: false,
            vlan: false,
            strange: false,
        };
        for (kind, value) in attributes::all(&payload[NDMSG..]) {
            match kind {
                DESTINATION => entry.destination = attributes::ip(value),
                HARDWARE => entry.mac = value.try_into().ok(),
                MASTER => entry.of_bridge = true,
                VLAN => entry.vlan = true,
                PORT | VNI | LINK => entry.strange = true,
                _ => {}
            }
        }
        Some(entry)
    }

    /// Where an entry of a VXLAN link leads.
    pub(super) fn way(&self) -> Value {
        match self.destination {
            Some(vtep) if !self.strange && self.state & (NOARP | PERMANENT) != 0 => Value::Via(vtep),
            _ => Value::Unfit("not a lasting way to one VTEP"),
        }
    }
}

/// The two entries that a [`Key::Forward`] is.
#[derive(Default)]
struct Halves {
    of_link: Option<Value>,
    /// Whether that of the bridge is static.
    of_bridge: Option<bool>,
}

impl Halves {
    fn learn(&mut self, of_link: bool, entry: &Entry) {
        if of_link {
            self.of_link = Some(match self.of_link {
                Some(_) => Value::Unfit("it has several VTEPs"),
                None => entry.way(),
            });
        } else if entry.of_bridge && !entry.vlan && entry.state & PERMANENT == 0 {
            // A permanent one is for the link's own address.
            self.of_bridge = Some(entry.state & NOARP != 0);
        }
    }

    fn value(self) -> Option<Value> {
        match (self.of_link, self.of_bridge) {
            (None, None) => None,
            (Some(value), Some(true)) => Some(value),
            (Some(_), Some(false)) => Some(Value::Unfit("the bridge has learnt it and will forget it")),
            (Some(_), None) | (None, Some(_)) => Some(Value::Unfit("half of it")),
        }
    }
}

/// The messages that make a step, with the link that it is about as it was found.
fn messages(step: &Step, link: Option<&Link>) -> Result<Vec<Told>, Failure> {
    let refuse = |text: String| Err(refused(libc::EINVAL, text));
    let (key, value) = match step {
        Step::Remove(key, _) => {
            // What is on a link of somebody else's is none of ours.
            let ours = link.filter(|link| link.ours);
            return Ok(ours.map(|link| removal(key, link)).unwrap_or_default());
        }
        Step::Add(key, value) | Step::Change(key, _, value) => (key, value),
    };
    let Some(link) = link else {
        return Err(refused(libc::ENODEV, "there is no such link".to_owned()));
    };
    let name = &link.name;
    if !link.ours {
        return Err(refused(libc::EPERM, format!("link {name} is not tombolo's")));
    }
    let tunnel_to = |vtep: IpAddr| match link.vxlan.as_ref().map(|tunnel| Family::of(tunnel.source())) {
        Some(family) if family == Family::of(vtep) => Ok(()),
        Some(_) => refuse(format!("{name} has an address of the other family")),
        None => refuse(format!("{name} is not a VXLAN link")),
    };
    let on_bridge = match link.is_bridge() {
        true => Ok(()),
        false => refuse(format!("{name} is not a bridge")),
    };
    let mut entry = about(key, link.index);
    let flags = match (key, value) {
        (Key::Neighbour(..), Value::Mac(mac)) => {
            on_bridge?;
            entry.header.state = NeighbourState::Permanent;
            entry.attributes.push(hardware(mac.bytes()));
            NLM_F_REPLACE
        }
        (Key::Proxied(..), Value::Present) => {
            on_bridge?;
            // Or it would go with the last port of the bridge that is up.
            entry.header.state = NeighbourState::Permanent;
            NLM_F_REPLACE
        }
        (Key::Forward(..), Value::Via(vtep)) => {
            tunnel_to(*vtep)?;
            if link.master.is_none() {
                refuse(format!("{name} is on no bridge"))?;
            }
            entry.header.flags = NeighbourFlags::Own | NeighbourFlags::Controller;
            entry.header.state = NeighbourState::Other(STATIC);
            entry
                .attributes
                .push(NeighbourAttribute::Destination((*vtep).into()));
            NLM_F_REPLACE
        }
        (Key::Flood(_, _, vtep), Value::Present) => {
            tunnel_to(*vtep)?;
            NLM_F_APPEND
        }
        _ => {
            return Err(refused(
                libc::EINVAL,
                format!("no such fact can be made: {value:?}"),
            ));
        }
    };
    Ok(vec![(
        RouteNetlinkMessage::NewNeighbour(entry),
        NLM_F_CREATE | flags,
    )])
}

/// The messages that take a fact away. The halves of a [`Key::Forward`] go one by one: asked for both, the kernel stops at
/// the first that is gone.
fn removal(key: &Key, link: &Link) -> Vec<Told> {
    let entry = about(key, link.index);
    let mut entries = vec![entry.clone()];
    match key {
        // Other links have no such entries of ours.
        Key::Forward(..) | Key::Flood(..) if link.vxlan.is_none() => entries.clear(),
        Key::Forward(..) if link.master.is_some() => {
            let mut of_bridge = entry;
            of_bridge.header.flags = NeighbourFlags::Controller;
            entries.push(of_bridge);
        }
        _ => {}
    }
    let deletion = |entry| (RouteNetlinkMessage::DelNeighbour(entry), 0);
    entries.into_iter().map(deletion).collect()
}

/// What a VXLAN link has no entry for is not sent: the removal of the entry that would say otherwise.
pub(super) fn flood_of_unknown(index: u32) -> Vec<Told> {
    let mut entry = forwarding_entry(index);
    entry.attributes.push(hardware([0; 6]));
    vec![(RouteNetlinkMessage::DelNeighbour(entry), 0)]
}

/// The entry that a fact is, as far as its key tells.
fn about(key: &Key, index: u32) -> NeighbourMessage {
    match key {
        Key::Forward(_, mac) => {
            let mut entry = forwarding_entry(index);
            entry.attributes.push(hardware(mac.bytes()));
            entry
        }
        Key::Flood(_, group, vtep) => {
            let mut entry = forwarding_entry(index);
            entry.header.state = NeighbourState::Permanent;
            let destination = NeighbourAttribute::Destination((*vtep).into());
            entry.attributes.extend([hardware(group.bytes()), destination]);
            entry
        }
        Key::Neighbour(_, address) | Key::Proxied(_, address) => {
            let mut entry = NeighbourMessage::default();
            entry.header.ifindex = index;
            entry.header.family = match Family::of(*address) {
                Family::V4 => AddressFamily::Inet,
                Family::V6 => AddressFamily::Inet6,
            };
            if let Key::Proxied(..) = key {
                entry.header.flags = NeighbourFlags::Proxy;
            }
            entry
                .attributes
                .push(NeighbourAttribute::Destination((*address).into()));
            entry
        }
        _ => NeighbourMessage::default(),
    }
}

/// An entry in the forwarding table of a link itself.
fn forwarding_entry(index: u32) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Bridge;
    entry.header.ifindex = index;
    entry.header.flags = NeighbourFlags::Own;
    entry
}

fn hardware(address: [u8; 6]) -> NeighbourAttribute {
    NeighbourAttribute::LinkLayerAddress(address.to_vec())
}
