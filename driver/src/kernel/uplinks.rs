//! Links on the wire of another link, and those that such links are on (see [`Value::Macvlan`], [`Value::Ipvlan`],
//! [`Value::Vlan`], [`Value::Dummy`]).

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVlan, IpVlanFlags, IpVlanMode, LinkAttribute,
    LinkMessage, MacVlanMode,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use tombolo_core::model::{IfName, Mac, Network};
use tombolo_core::modes::{IpvlanFlag, IpvlanMode, MacvlanMode};
use tombolo_core::world::{Key, LINK_GROUP, PLACED_GROUP, Value};

use super::Error;
use super::link::Link;
use super::netlink::{Links, refused, with_mtu};
use super::socket::Failure;

/// What the names of containers' links begin with while they are with the host, as
/// [`tombolo_core::model::EndpointId::container_link`] makes them.
const CHILD: &str = "tbc";

/// The link on a wire that a step asks for.
pub(super) struct Uplink<'a> {
    pub(super) name: &'a IfName,
    /// The other link.
    parent: &'a IfName,
    manner: Manner,
    mac: Option<Mac>,
    mtu: Option<u32>,
}

/// How such a link speaks with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// What the kernel tells of such a link besides what all links have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Macvlan(Option<MacvlanMode>),
    Ipvlan(Option<IpvlanMode>, IpvlanFlag),
    Vlan(Option<u16>),
}

impl<'a> Uplink<'a> {
    /// None where the value is no such link's.
    pub(super) fn of(name: &'a IfName, value: &'a Value) -> Option<Self> {
        match value {
            Value::Macvlan {
                parent,
                mode,
                mac,
                mtu,
            } => Some(Self {
                name,
                parent,
                manner: Manner::Macvlan(*mode),
                mac: Some(*mac),
                mtu: *mtu,
            }),
            Value::Ipvlan {
                parent,
                mode,
                flag,
                mtu,
            } => Some(Self {
                name,
                parent,
                manner: Manner::Ipvlan(*mode, *flag),
                mac: None,
                mtu: *mtu,
            }),
            _ => None,
        }
    }

    /// The word for its kind, which is its module's name too.
    fn word(&self) -> &'static str {
        match self.manner {
            Manner::Macvlan(_) => "macvlan",
            Manner::Ipvlan(..) => "ipvlan",
        }
    }

    fn message(&self, parent: u32) -> LinkMessage {
        self.named(self.name.as_str(), parent)
            .link_group(LINK_GROUP)
            .build()
    }

    /// The message that makes it by a name, in no group.
    fn named(&self, name: &str, parent: u32) -> LinkMessageBuilder<LinkUnspec> {
        let of_kind = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind;
        let message = match self.manner {
            Manner::Macvlan(mode) => {
                let mode = match mode {
                    MacvlanMode::Bridge => MacVlanMode::Bridge,
                    MacvlanMode::Private => MacVlanMode::Private,
                    MacvlanMode::Vepa => MacVlanMode::Vepa,
                    MacvlanMode::Passthru => MacVlanMode::Passthrough,
                };
                of_kind(InfoKind::MacVlan).set_info_data(InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)]))
            }
            Manner::Ipvlan(mode, flag) => {
                let mode = match mode {
                    IpvlanMode::L2 => IpVlanMode::L2,
                    IpvlanMode::L3 => IpVlanMode::L3,
                    IpvlanMode::L3s => IpVlanMode::L3S,
                };
                let flags = match flag {
                    IpvlanFlag::Bridge => IpVlanFlags::empty(),
                    IpvlanFlag::Private => IpVlanFlags::Private,
                    IpvlanFlag::Vepa => IpVlanFlags::Vepa,
                };
                let data = vec![InfoIpVlan::Mode(mode), InfoIpVlan::Flags(flags)];
                of_kind(InfoKind::IpVlan).set_info_data(InfoData::IpVlan(data))
            }
        };
        let message = with_mtu(message.name(name.to_owned()), self.mtu).link(parent);
        match self.mac {
            Some(mac) => message.address(mac.bytes().to_vec()),
            None => message,
        }
    }
}

impl Found {
    /// What some attributes say, if they are such a link's.
    pub(super) fn learn(data: &InfoData) -> Option<Self> {
        match data {
            InfoData::MacVlan(data) => Some(Self::Macvlan(data.iter().find_map(|item| match item {
                InfoMacVlan::Mode(MacVlanMode::Bridge) => Some(MacvlanMode::Bridge),
                InfoMacVlan::Mode(MacVlanMode::Private) => Some(MacvlanMode::Private),
                InfoMacVlan::Mode(MacVlanMode::Vepa) => Some(MacvlanMode::Vepa),
                InfoMacVlan::Mode(MacVlanMode::Passthrough) => Some(MacvlanMode::Passthru),
                _ => None,
            }))),
            InfoData::IpVlan(data) => {
                let mode = data.iter().find_map(|item| match item {
                    InfoIpVlan::Mode(IpVlanMode::L2) => Some(IpvlanMode::L2),
                    InfoIpVlan::Mode(IpVlanMode::L3) => Some(IpvlanMode::L3),
                    InfoIpVlan::Mode(IpVlanMode::L3S) => Some(IpvlanMode::L3s),
                    _ => None,
                });
                let flag = data.iter().find_map(|item| match item {
                    InfoIpVlan::Flags(flags) if flags.contains(IpVlanFlags::Private) => {
                        Some(IpvlanFlag::Private)
                    }
                    InfoIpVlan::Flags(flags) if flags.contains(IpVlanFlags::Vepa) => Some(IpvlanFlag::Vepa),
                    _ => None,
                });
                Some(Self::Ipvlan(mode, flag.unwrap_or_default()))
            }
            InfoData::Vlan(data) => Some(Self::Vlan(data.iter().find_map(|item| match item {
                InfoVlan::Id(id) => Some(*id),
                _ => None,
            }))),
            _ => None,
        }
    }

    /// The fact that such a link is. `names` has all links by their indices.
    pub(super) fn value(&self, link: &Link, names: &HashMap<u32, String>) -> Value {
        let below = link.peer.and_then(|index| names.get(&index)?.parse().ok());
        let Some(below) = below else {
            return Value::Unfit("a link on one that is not in sight");
        };
        let mtu = Some(link.mtu);
        match (*self, link.mac) {
            (Self::Macvlan(Some(mode)), Some(mac)) => Value::Macvlan {
                parent: below,
                mode,
                mac,
                mtu,
            },
            (Self::Ipvlan(Some(mode), flag), _) => Value::Ipvlan {
                parent: below,
                mode,
                flag,
                mtu,
            },
            (Self::Vlan(_), _) if !link.up => Value::Unfit("a VLAN's link that is down"),
            (Self::Vlan(Some(id)), _) => Value::Vlan { link: below, id },
            _ => Value::Unfit("a link of a mode that is none of ours"),
        }
    }
}

/// Whether a link on a wire is a container's that Docker has not taken yet, or has put back.
pub(super) fn is_child(link: &Link) -> bool {
    matches!(link.wire, Some(Found::Macvlan(_) | Found::Ipvlan(..))) && link.name.starts_with(CHILD)
}

/// Whether a link is one that others of ours are on.
pub(super) fn is_parent(link: &Link) -> bool {
    matches!(link.wire, Some(Found::Vlan(_))) || link.kind == Some(InfoKind::Dummy)
}

impl Links {
    pub(super) async fn add_uplink(&mut self, asked: &Uplink<'_>) -> Result<(), Failure> {
        let parent = self.lower_of(asked).await?;
        let made = self.create(asked.message(parent)).await;
        match made.as_ref().err().and_then(Failure::errno) {
            Some(libc::EEXIST) => {
                let found = self.ours_of_that_name(asked.name).await?;
                let same = match (&found.wire, asked.manner) {
                    (Some(Found::Macvlan(mode)), Manner::Macvlan(wanted)) => {
                        *mode == Some(wanted) && found.mac == asked.mac
                    }
                    (Some(Found::Ipvlan(mode, flag)), Manner::Ipvlan(wanted, with)) => {
                        (*mode, *flag) == (Some(wanted), with)
                    }
                    _ => false,
                };
                if same && found.peer == Some(parent) {
                    Ok(())
                } else {
                    made
                }
            }
            Some(errno) => Err(explained(errno, asked.word(), made)),
            None => made,
        }
    }

    /// Makes it in another namespace, by the lowest free number behind a prefix.
    pub(super) async fn place_uplink(
        &mut self,
        asked: &Uplink<'_>,
        prefix: &str,
        sandbox: &File,
    ) -> Result<(), Failure> {
        let parent = self.lower_of(asked).await?;
        let message = asked
            .named(&format!("{prefix}%d"), parent)
            .link_group(PLACED_GROUP)
            .append_extra_attribute(LinkAttribute::NetNsFd(sandbox.as_raw_fd()));
        let made = self.create(message.build()).await;
        match made.as_ref().err().and_then(Failure::errno) {
            Some(errno) => Err(explained(errno, asked.word(), made)),
            None => made,
        }
    }

    /// The index of the link that another one is to be on, which must take its packets.
    async fn lower_of(&mut self, asked: &Uplink<'_>) -> Result<u32, Failure> {
        let below = self.lower(asked.parent).await?;
        match asked.mtu.filter(|mtu| *mtu > below.mtu) {
            Some(mtu) => {
                let text = format!(
                    "mtu: {mtu} is more than {} takes, which is {}",
                    asked.parent, below.mtu
                );
                Err(refused(libc::EINVAL, text))
            }
            None => Ok(below.index),
        }
    }

    /// Makes a link anew that is not as it should be. What was on it is gone with it.
    pub(super) async fn change_uplink(&mut self, asked: &Uplink<'_>) -> Result<(), Failure> {
        let found = self.ours(asked.name).await?;
        self.delete(found.index).await?;
        self.add_uplink(asked).await
    }

    /// Makes a link that others are to be on.
    pub(super) async fn add_parent(&mut self, name: &IfName, value: &Value) -> Result<(), Failure> {
        let of_kind = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind;
        let (message, word) = match value {
            Value::Dummy => (of_kind(InfoKind::Dummy), "dummy"),
            Value::Vlan { link, id } => {
                let below = self.lower(link).await?.index;
                let data = InfoData::Vlan(vec![InfoVlan::Id(*id)]);
                (of_kind(InfoKind::Vlan).set_info_data(data).link(below), "8021q")
            }
            _ => return Failure::ours(format!("no such link can be made: {value:?}")),
        };
        let message = message.name(name.to_string()).link_group(LINK_GROUP).up().build();
        let made = self.create(message).await;
        match made.as_ref().err().and_then(Failure::errno) {
            Some(libc::EEXIST) if self.find(name).await?.is_none() => {
                let text = format!(
                    "another link is that VLAN already; name it as the parent in the place of {name}"
                );
                Err(refused(libc::EEXIST, text))
            }
            Some(libc::EEXIST) => {
                let found = self.ours_of_that_name(name).await?;
                let same = match (found.wire, value) {
                    (Some(Found::Vlan(id)), Value::Vlan { id: wanted, .. }) => id == Some(*wanted),
                    (None, Value::Dummy) => found.kind == Some(InfoKind::Dummy),
                    _ => false,
                };
                if same { Ok(()) } else { made }
            }
            Some(errno) => Err(explained(errno, word, made)),
            None => made,
        }
    }

    /// Makes such a link what it should be: up, or anew.
    pub(super) async fn change_parent(&mut self, name: &IfName, value: &Value) -> Result<(), Failure> {
        let found = self.ours(name).await?;
        let same = match (found.wire, value) {
            (Some(Found::Vlan(id)), Value::Vlan { id: wanted, .. }) => id == Some(*wanted),
            (None, Value::Dummy) => found.kind == Some(InfoKind::Dummy),
            _ => false,
        };
        if !same {
            self.delete(found.index).await?;
            return self.add_parent(name, value).await;
        }
        self.set_up(found.index, true).await
    }

    /// Sets a link of ours on a wire up, or down.
    pub(super) async fn raise(&mut self, name: &IfName, up: bool) -> Result<(), Failure> {
        match (self.find_ours(name).await?, up) {
            (Some(link), up) => self.set_up(link.index, up).await,
            (None, false) => Ok(()),
            (None, true) => Err(refused(libc::ENODEV, format!("there is no link {name}"))),
        }
    }

    async fn set_up(&mut self, index: u32, up: bool) -> Result<(), Failure> {
        let message = LinkUnspec::new_with_index(index);
        let message = if up { message.up() } else { message.down() };
        self.tell(RouteNetlinkMessage::SetLink(message.build()), 0).await
    }

    /// The link that another is to be on.
    async fn lower(&mut self, name: &IfName) -> Result<Link, Failure> {
        match self.find(name).await? {
            Some(link) => Ok(link),
            None => Err(refused(
                libc::ENODEV,
                format!("there is no link {name}, which the network's containers are to be on"),
            )),
        }
    }

    /// Tries whether a network's links can be made, by making one of each and removing it again: a parent that is missing, and
    /// a link on it.
    pub(super) async fn try_uplink(
        &mut self,
        parent: Option<(&IfName, &Value)>,
        asked: &Uplink<'_>,
    ) -> Result<(), Failure> {
        let missing = match parent {
            Some((name, _)) => self.find(name).await?.is_none(),
            None => false,
        };
        if let Some((name, value)) = parent.filter(|_| missing) {
            self.add_parent(name, value).await?;
        }
        let made = self.add_uplink(asked).await;
        let removed = match &made {
            Ok(()) => self.remove(asked.name).await,
            Err(_) => Ok(()),
        };
        let parent_removed = match parent.filter(|_| missing) {
            Some((name, _)) => self.remove(name).await,
            None => Ok(()),
        };
        made.and(removed).and(parent_removed)
    }
}

/// A refusal in words that say what to do about it.
fn explained(errno: i32, word: &str, made: Result<(), Failure>) -> Failure {
    let text = match errno {
        libc::EOPNOTSUPP => format!(
            "this kernel makes no {word} links: load its module (modprobe {word}), or use a kernel that has it"
        ),
        libc::EBUSY => format!(
            "the parent has another use that leaves no room for {word} links: it is a port of a bridge or a bond, the parent of \
             another kind of links, or one in mode passthru has it for itself"
        ),
        libc::EINVAL => match made {
            Err(failure) => format!("the parent takes no {word} link of that sort: {failure}"),
            Ok(()) => String::new(),
        },
        _ => {
            return match made {
                Err(failure) => failure,
                Ok(()) => Failure::Broken("a refusal without an error".into()),
            };
        }
    };
    refused(errno, text)
}

/// What a trial's link is called. Its index among the links of a process's life keeps two trials apart.
fn trial_name() -> Option<IfName> {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("tbt{:08x}{number:04x}", std::process::id()).parse().ok()
}

/// Tries whether a network's links can be made on this host. Nothing stays of it.
///
/// # Errors
/// Why not, and what to do.
pub async fn try_out(network: &Network) -> Result<(), Error> {
    let Some(uplink) = network.spec.uplink() else {
        return Ok(());
    };
    let step = "trying the network's links";
    let name = trial_name().ok_or_else(|| Error::Refused {
        step: step.to_owned(),
        why: "no name for a trial".to_owned(),
    })?;
    let mac = Mac::of_network(&network.id);
    let lower = uplink.lower(&network.id);
    let value = network.spec.link_on(&lower, mac);
    let Some(asked) = value.as_ref().and_then(|value| Uplink::of(&name, value)) else {
        return Ok(());
    };
    let parent = match uplink.parent_fact(&network.id) {
        Some((Key::Parent(name), value)) => Some((name, value)),
        _ => None,
    };
    let parent = parent.as_ref().map(|(name, value)| (name, value));
    let tried = Links::new().try_uplink(parent, &asked).await;
    tried.map_err(|failure| match failure {
        Failure::Refused { .. } => Error::Refused {
            step: format!("parent: a {} link on {lower}", network.spec.kind().name()),
            why: failure.to_string(),
        },
        Failure::Broken(why) => Error::Unknown {
            step: step.to_owned(),
            why,
        },
    })
}
