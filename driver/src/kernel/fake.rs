//! A kernel made of memory that refuses what a kernel refuses, for tests of whatever uses one.
//!
//! It keeps the same promises as the real one, shown by the same suite. Like a real one it takes more away than it is
//! told: with a bridge its addresses, settings, neighbours and ports, with a link the routes by it, with a table its elements.
//! It can be told to refuse, to lose an answer, and to lose or gain a fact behind our back. Nothing in it is random.

mod losses;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, ready};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use ipnet::IpNet;
use tombolo_core::kinds::Theirs;
use tombolo_core::model::IfName;
use tombolo_core::world::{Family, Hop, Key, Setting, Step, Value, World};

use self::values::{check_mtu, same_tunnel, settings_of_new, with_mtu};
use super::{Announcement, Error, Flow, Kernel, Observing, Placed, Removing};

/// What a bridge of the kernel has until somebody changes it.
const MTU: u32 = 1500;

/// What a kernel takes as the number of a VXLAN network.
const VNIS: std::ops::RangeInclusive<u32> = 0..=0x00ff_ffff;

/// A kernel made of memory.
#[derive(Debug, Clone)]
pub struct Fake {
    /// All facts but the accept in FORWARD where that chain does not exist.
    world: World,
    /// Links of somebody else.
    foreign: BTreeSet<IfName>,
    /// Bridges of somebody else, adopted or not, with the addresses that their owner gave them.
    bridges: BTreeMap<IfName, BTreeSet<IpNet>>,
    /// Whether something was added to the administrator's table.
    user_added: bool,
    /// Whether there is a chain FORWARD.
    forward: bool,
    /// Steps from now until one is refused.
    refuse_in: Option<usize>,
    /// Steps from now until one's answer is lost.
    lose_in: Option<usize>,
    /// Whether the next look fails.
    blind: bool,
    steps: Vec<Step>,
    forgotten: BTreeSet<Flow>,
    announced: Vec<Announcement>,
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// A host that has nothing of ours, does not forward, and has a chain FORWARD.
    pub fn new() -> Self {
        let setting = |setting| (Key::Setting(setting), Value::Number(0));
        Self {
            world: World::from([
                setting(Setting::Forward4),
                setting(Setting::Forward6),
                setting(Setting::BridgeFilter6),
            ]),
            foreign: BTreeSet::new(),
            bridges: BTreeMap::new(),
            user_added: false,
            forward: true,
            refuse_in: None,
            lose_in: None,
            blind: false,
            steps: Vec::new(),
            forgotten: BTreeSet::new(),
            announced: Vec::new(),
        }
    }

    /// A host on which nobody has made a chain FORWARD.
    pub fn without_forward() -> Self {
        Self {
            forward: false,
            ..Self::new()
        }
    }

    /// Refuses the `n`-th step from now, counted from 0.
    pub fn refuse_step(&mut self, n: usize) {
        self.refuse_in = Some(n);
    }

    /// Makes the `n`-th step from now, counted from 0, and says that there was no answer.
    pub fn lose_answer(&mut self, n: usize) {
        self.lose_in = Some(n);
    }

    /// Refuses and loses nothing more of what was asked for before.
    pub fn behave(&mut self) {
        (self.refuse_in, self.lose_in, self.blind) = (None, None, false);
    }

    /// Lets the next look fail.
    pub fn fail_next_look(&mut self) {
        self.blind = true;
    }

    /// Puts a link of somebody else there.
    pub fn put_foreign_link(&mut self, name: IfName) {
        self.foreign.insert(name);
    }

    /// Puts a bridge of somebody else there, with addresses.
    pub fn put_foreign_bridge(&mut self, name: IfName, addresses: &[IpNet]) {
        self.bridges.insert(name, addresses.iter().copied().collect());
    }

    /// Adds a rule to the administrator's table.
    pub fn add_user_rule(&mut self) {
        self.user_added = true;
    }

    /// Takes a fact away behind our back, with all that goes with it. A setting becomes what it is on a new link.
    pub fn steal(&mut self, key: &Key) {
        self.take(key);
        match key {
            Key::Setting(setting @ (Setting::Forward4 | Setting::Forward6)) => {
                self.put_number(setting.clone(), 0)
            }
            Key::Setting(setting) => {
                let default = setting
                    .link()
                    .into_iter()
                    .flat_map(settings_of_new)
                    .find(|(new, _)| new == setting);
                default
                    .into_iter()
                    .for_each(|(setting, number)| self.put_number(setting, number));
            }
            _ => {}
        }
    }

    /// Makes a fact behind our back, without asking whether a kernel could.
    pub fn plant(&mut self, key: Key, value: Value) {
        self.world.insert(key, value);
    }

    /// The flows that it should have forgotten since this was last asked.
    pub fn take_forgotten(&mut self) -> BTreeSet<Flow> {
        std::mem::take(&mut self.forgotten)
    }

    /// What it should have announced since this was last asked.
    pub fn take_announced(&mut self) -> Vec<Announcement> {
        std::mem::take(&mut self.announced)
    }

    /// The steps asked for so far, whatever became of them.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    fn look(&mut self) -> Result<World, Error> {
        match std::mem::take(&mut self.blind) {
            true => Err(Error::Unreadable {
                what: "anything",
                why: "blind, as asked".into(),
            }),
            false => Ok(self.world()),
        }
    }

    /// All facts that hold, as [`Kernel::observe`] gives them.
    pub fn world(&self) -> World {
        let mut world = self.world.clone();
        if !self.forward && world.contains_key(&Key::Table) {
            for family in Family::ALL {
                world.insert(Key::DockerAccept(family), Value::Present);
            }
        }
        if self.user_added && world.get(&Key::Table) != Some(&Value::Present) {
            world.remove(&Key::UserTable);
        }
        let is_off = |setting: &Setting| {
            let with = setting.only_with().map(Key::Setting);
            with.is_some_and(|with| self.world.get(&with) == Some(&Value::Number(0)))
        };
        world.retain(|key, _| !matches!(key, Key::Setting(setting) if is_off(setting)));
        for (name, addresses) in &self.bridges {
            let adopted = world.get(&Key::Link(name.clone())) == Some(&Value::Adopted);
            for address in addresses.iter().filter(|_| adopted) {
                world.insert(Key::Address(name.clone(), *address), Value::Theirs);
            }
        }
        // A table that is not whole shows no elements.
        if world
            .get(&Key::Table)
            .is_some_and(|table| *table != Value::Present)
        {
            world.retain(|key, _| !key.is_element());
        }
        world
    }

    fn put_number(&mut self, setting: Setting, number: u32) {
        self.world.insert(Key::Setting(setting), Value::Number(number));
    }

    fn make(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Remove(key, _) => {
                self.take(key);
                Ok(())
            }
            Step::Add(key, value) => self.add(key, value),
            Step::Change(key, _, value) => self.change(key, value),
        }
    }

    fn change(&mut self, key: &Key, value: &Value) -> Result<(), String> {
        match (key, self.world.get(key)) {
            (Key::Link(name), None) => Err(format!("there is no link {name}")),
            (Key::Link(_), Some(Value::Veth { .. })) if matches!(value, Value::Veth { .. }) => Ok(()),
            (Key::Port(_) | Key::Rate(_), _) => self.add(key, value),
            (Key::Link(_), Some(found @ Value::Vxlan { mtu, .. })) if same_tunnel(found, value) => {
                let mended = with_mtu(value, *mtu);
                check_mtu(&mended)?;
                self.world.insert(key.clone(), mended);
                Ok(())
            }
            (Key::Link(name), Some(Value::Bridge { mtu, mac: old }))
                if matches!(value, Value::Bridge { .. }) =>
            {
                let mended = with_mtu(value, *mtu);
                // With its address a bridge loses its neighbours.
                if matches!(value, Value::Bridge { mac, .. } if mac != old) {
                    let on = |key: &Key| matches!(key, Key::Neighbour(link, _) if link == name);
                    self.world.retain(|key, _| !on(key));
                }
                self.world.insert(key.clone(), mended);
                Ok(())
            }
            (
                Key::Link(_) | Key::Parent(_) | Key::Publish(..) | Key::Source(..) | Key::DockerAccept(_),
                Some(_),
            ) => {
                let old = self.world.clone();
                self.take(key);
                self.add(key, value).inspect_err(|_| self.world = old)
            }
            _ => self.add(key, value),
        }
    }

    fn add(&mut self, key: &Key, value: &Value) -> Result<(), String> {
        match (key, value) {
            (Key::Table, Value::Present) => self.take(&Key::Table),
            (Key::Link(name), Value::Bridge { .. } | Value::Veth { .. } | Value::Vxlan { .. }) => {
                return self.add_link(name, value);
            }
            (Key::Tunnels, Value::Present) => {}
            (Key::Parent(name), Value::Dummy | Value::Vlan { .. }) => return self.add_parent(name, value),
            (Key::Link(_) | Key::Child(_), Value::Macvlan { .. } | Value::Ipvlan { .. }) => {
                return self.add_on_wire(key, value);
            }
            (Key::Port(link), Value::Up) => match self.link(link)? {
                Value::Macvlan { .. } | Value::Ipvlan { .. } => {}
                _ => return Err(format!("{link} is no link on a wire")),
            },
            (Key::Way(link, _), Value::Present) => {
                self.link(link)?;
                if self.world.get(&Key::Port(link.clone())) != Some(&Value::Up) {
                    return Err("Device for nexthop is not up (os error 100)".into());
                }
            }
            (Key::Link(name), Value::Adopted) => {
                if self.world.get(key) == Some(value) {
                    return Ok(());
                }
                if !self.bridges.contains_key(name) {
                    self.link(name)?;
                    return Err(format!("{name} is not a bridge that somebody else made"));
                }
                settings_of_new(name)
                    .into_iter()
                    .for_each(|(setting, number)| self.put_number(setting, number));
            }
            (Key::UserTable, Value::Present) => {}
            (Key::Loopback(link), Value::Present) => self.bridge(link)?,
            (Key::Querier(link), Value::Present) => self.own_bridge(link)?,
            (Key::Rate(link), Value::Rate(_)) => drop(self.link(link)?),
            (Key::Setting(setting), Value::Number(_)) => {
                if let Some(link) = setting.link()
                    && !matches!(self.link(link)?, Value::Macvlan { .. } | Value::Ipvlan { .. })
                {
                    self.bridge(link)?;
                }
            }
            (Key::Port(link), Value::On { bridge, .. }) => {
                if let Value::Vxlan { .. } = self.link(link)? {
                    return Err(format!("{link} is a VXLAN link"));
                }
                self.bridge(bridge)?;
            }
            (Key::Port(link), Value::Tunnel { bridge, .. }) => {
                self.tunnel(link, None)?;
                self.bridge(bridge)?;
                let there = |value: &Value| matches!(value, Value::Tunnel { bridge: b, .. } if b == bridge);
                if !self.world.get(key).is_some_and(there) {
                    self.halve(link);
                }
            }
            (Key::Neighbour(link, _), Value::Mac(_)) | (Key::Proxied(link, _), Value::Present) => {
                self.own_bridge(link)?;
            }
            (Key::Forward(link, _), Value::Via(vtep)) => {
                self.tunnel(link, Some(*vtep))?;
                if !self.world.contains_key(&Key::Port(link.clone())) {
                    return Err(format!("{link} is on no bridge"));
                }
            }
            (Key::Flood(link, _, vtep), Value::Present) => self.tunnel(link, Some(*vtep))?,
            (Key::Route(net), Value::Hops(hops)) => self.check_route(*net, hops)?,
            (Key::Address(link, address), Value::Present) => {
                self.check_address(link, *address)?;
                if self
                    .bridges
                    .get(link)
                    .is_some_and(|theirs| theirs.contains(address))
                {
                    return Ok(());
                }
            }
            (Key::DockerAccept(_), Value::Present) => {
                self.table()?;
                if !self.forward {
                    return Ok(());
                }
            }
            (Key::Source(_, family), Value::Ip(address)) if *family == Family::of(*address) => {
                self.table()?;
                if self.world.get(key).is_some_and(|found| found != value) {
                    return Err("this bridge has another address".into());
                }
            }
            (Key::Publish(_, host, _), Value::To(to, _)) if host.is_ipv6() == to.is_ipv6() => {
                self.table()?;
                if self.world.get(key).is_some_and(|found| found != value) {
                    return Err("this port is published for another endpoint".into());
                }
            }
            (key, Value::Present) if key.is_element() => self.table()?,
            _ => return Err(format!("no such fact can be made: {value:?}")),
        }
        self.world.insert(key.clone(), value.clone());
        Ok(())
    }

    fn add_link(&mut self, name: &IfName, value: &Value) -> Result<(), String> {
        if self.foreign.contains(name) || self.bridges.contains_key(name) {
            return Err(format!(
                "a link of that name exists and is not tombolo's ({name})"
            ));
        }
        if let Some(found) = self.world.get(&Key::Link(name.clone())) {
            let same = match (found, value) {
                (Value::Veth { .. }, Value::Veth { .. }) => true,
                (Value::Bridge { mtu, .. } | Value::Vxlan { mtu, .. }, _) => *found == with_mtu(value, *mtu),
                _ => false,
            };
            return if same {
                Ok(())
            } else {
                Err(format!("link {name} exists"))
            };
        }
        check_mtu(value)?;
        if let Value::Vxlan { vni, port, .. } = value {
            if !VNIS.contains(vni) {
                return Err("Numerical result out of range (os error 34)".into());
            }
            if self.world.values().any(|found| same_tunnel(found, value)) {
                return Err(format!("another VXLAN link has the number {vni} on port {port}"));
            }
        }
        if let Value::Veth { peer, .. } = value
            && (self.holds_name(peer) || peer == name)
        {
            return Err(format!("a link {peer} is there, the name of the other end"));
        }
        if self.holds_name(name) {
            return Err(format!("link {name} exists"));
        }
        self.world
            .insert(Key::Link(name.clone()), with_mtu(value, Some(MTU)));
        if let Value::Bridge { .. } = value {
            settings_of_new(name)
                .into_iter()
                .for_each(|(setting, number)| self.put_number(setting, number));
        }
        Ok(())
    }

    fn add_parent(&mut self, name: &IfName, value: &Value) -> Result<(), String> {
        let key = Key::Parent(name.clone());
        if self.world.get(&key) == Some(value) {
            return Ok(());
        }
        if self.holds_name(name) {
            return Err(format!(
                "a link of that name exists and is not tombolo's ({name})"
            ));
        }
        if let Value::Vlan { link, .. } = value
            && !self.holds_name(link)
        {
            return Err(format!("there is no link {link}"));
        }
        self.world.insert(key, value.clone());
        Ok(())
    }

    /// Makes a link on the wire of another one.
    fn add_on_wire(&mut self, key: &Key, value: &Value) -> Result<(), String> {
        let (Key::Link(name) | Key::Child(name)) = key else {
            return Err("no such fact can be made".into());
        };
        let parent = match value {
            Value::Macvlan { parent, .. } | Value::Ipvlan { parent, .. } => parent,
            _ => return Err(format!("no such link can be made: {value:?}")),
        };
        if let Some(found) = self.world.get(key) {
            return match value.holds_as(found) {
                true => Ok(()),
                false => Err(format!("link {name} exists")),
            };
        }
        if self.holds_name(name) {
            return Err(format!("a link of that name exists ({name})"));
        }
        if !self.holds_name(parent) {
            return Err(format!("there is no link {parent}"));
        }
        check_mtu(value)?;
        self.world.insert(key.clone(), with_mtu(value, Some(MTU)));
        if matches!(key, Key::Link(_)) {
            settings_of_new(name)
                .into_iter()
                .for_each(|(setting, number)| self.put_number(setting, number));
        }
        Ok(())
    }

    fn check_route(&self, net: IpNet, hops: &[Hop]) -> Result<(), String> {
        if net != net.trunc() {
            return Err(format!("{net} is not the beginning of its network"));
        }
        if hops.is_empty() {
            return Err("a route needs a next hop".into());
        }
        hops.iter().try_for_each(|hop| match self.holds_name(&hop.link) {
            true if hop.via.is_ipv6() == net.addr().is_ipv6() => Ok(()),
            true => Err(format!("{} can't lead to {net}", hop.via)),
            false => Err(format!("there is no link {}", hop.link)),
        })
    }

    /// Whether a link is a VXLAN link, and can lead to a VTEP.
    fn tunnel(&self, name: &IfName, vtep: Option<IpAddr>) -> Result<(), String> {
        match (self.link(name)?, vtep) {
            (Value::Vxlan { local, .. }, Some(vtep)) if Family::of(*local) != Family::of(vtep) => {
                Err(format!("{name} has an address of the other family"))
            }
            (Value::Vxlan { .. }, _) => Ok(()),
            _ => Err(format!("{name} is not a VXLAN link")),
        }
    }

    fn holds_name(&self, name: &IfName) -> bool {
        let other_end = |value: &Value| matches!(value, Value::Veth { peer, .. } if peer == name);
        self.foreign.contains(name)
            || self.bridges.contains_key(name)
            || self.world.contains_key(&Key::Link(name.clone()))
            || self.world.contains_key(&Key::Parent(name.clone()))
            || self.world.contains_key(&Key::Child(name.clone()))
            || self.world.values().any(other_end)
    }

    fn check_address(&self, link: &IfName, address: IpNet) -> Result<(), String> {
        self.link(link)?;
        let IpNet::V6(net) = address else { return Ok(()) };
        if net.addr().is_unicast_link_local() {
            return Err("link-local addresses are the kernel's own".into());
        }
        let clash = |key: &Key| matches!(key, Key::Address(l, a) if l == link && a.addr() == address.addr() && *a != address);
        if self.world.keys().any(clash) {
            Err("File exists (os error 17)".into())
        } else {
            Ok(())
        }
    }

    fn link(&self, name: &IfName) -> Result<&Value, String> {
        self.world.get(&Key::Link(name.clone())).ok_or_else(|| {
            match self.foreign.contains(name) || self.bridges.contains_key(name) {
                true => format!("link {name} is not tombolo's"),
                false => format!("there is no link {name}"),
            }
        })
    }

    fn bridge(&self, name: &IfName) -> Result<(), String> {
        match self.link(name)? {
            Value::Bridge { .. } | Value::Adopted => Ok(()),
            _ => Err(format!("{name} is not a bridge")),
        }
    }

    fn own_bridge(&self, name: &IfName) -> Result<(), String> {
        self.bridge(name)?;
        match self.bridges.contains_key(name) {
            true => Err(format!("link {name} is not tombolo's")),
            false => Ok(()),
        }
    }

    fn table(&self) -> Result<(), String> {
        match self.world.get(&Key::Table) {
            Some(Value::Present) => Ok(()),
            _ => Err("table inet tombolo is not there, or damaged".into()),
        }
    }

    fn apply_now(&mut self, step: &Step) -> Result<(), Error> {
        self.steps.push(step.clone());
        let text = step.to_string();
        if due(&mut self.refuse_in) {
            return Err(Error::Refused {
                step: text,
                why: "refused, as asked".into(),
            });
        }
        let lost = due(&mut self.lose_in);
        self.make(step).map_err(|why| Error::Refused {
            step: text.clone(),
            why,
        })?;
        if lost {
            Err(Error::Unknown {
                step: text,
                why: "lost, as asked".into(),
            })
        } else {
            Ok(())
        }
    }
}

/// Counts down; whether it was at 0.
fn due(counter: &mut Option<usize>) -> bool {
    let now = *counter == Some(0);
    *counter = counter.and_then(|n| n.checked_sub(1));
    now
}

impl Kernel for Fake {
    fn observe(&mut self) -> impl Future<Output = Result<World, Error>> + Send {
        ready(self.look())
    }

    /// It finds what is there as it begins.
    fn observe_beside(&mut self) -> Observing {
        Box::pin(ready(self.look()))
    }

    fn apply(&mut self, step: &Step) -> impl Future<Output = Result<(), Error>> + Send {
        ready(self.apply_now(step))
    }

    fn attach(&mut self, step: &Step, _: &Placed) -> impl Future<Output = Result<(), Error>> + Send {
        ready(self.apply_now(step))
    }

    /// It has all links that somebody names.
    fn named_link(&mut self, _: &IfName) -> impl Future<Output = Result<Option<Theirs>, Error>> + Send {
        ready(Ok(Some(Theirs::default())))
    }

    /// It has no sandboxes.
    fn detach(&mut self, _: &Step, _: &Path) -> impl Future<Output = Result<(), Error>> + Send {
        ready(Ok(()))
    }

    fn sweep(&mut self, _: BTreeSet<IfName>) -> impl Future<Output = Result<Vec<String>, Error>> + Send {
        ready(Ok(Vec::new()))
    }

    fn apply_all(&mut self, steps: &[Step]) -> impl Future<Output = Vec<Result<(), Error>>> + Send {
        ready(steps.iter().map(|step| self.apply_now(step)).collect())
    }

    fn remove_links(&mut self, removals: &[Step]) -> Removing {
        let removed = removals.iter().map(|step| self.apply_now(step)).collect();
        Box::pin(ready(removed))
    }

    fn load(&mut self, elements: &World) -> impl Future<Output = Result<(), Error>> + Send {
        let old = self.world.clone();
        let facts = std::iter::once((&Key::Table, &Value::Present)).chain(elements);
        let mut steps = facts.map(|(key, value)| Step::Add(key.clone(), value.clone()));
        let loaded = steps.try_for_each(|step| self.apply_now(&step));
        ready(loaded.inspect_err(|_| self.world = old))
    }

    /// A kernel of memory has no flows, and notes what it should forget.
    fn forget(&mut self, flows: BTreeSet<Flow>) -> io::Result<()> {
        self.forgotten.extend(flows);
        Ok(())
    }

    fn forgotten(&mut self, _: Option<&[IpAddr]>, _: Instant) -> impl Future<Output = bool> + Send {
        ready(true)
    }

    /// Nobody is on its bridges; it notes what it should announce.
    fn announce(&mut self, announcements: &[Announcement]) -> io::Result<()> {
        self.announced.extend_from_slice(announcements);
        Ok(())
    }
}
