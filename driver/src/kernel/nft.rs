//! Table `inet tombolo`: as text through `nft` where it is made, its elements one by one through netlink after that.
//!
//! The table is whole if it has the chains and sets of the skeleton, each chain as many rules as the skeleton gives it,
//! a chain whose name carries the hash of the skeleton's text (so another version's table is not whole), and no element
//! that no fact is like. A table that is not whole counts as one without elements: it is replaced as a whole, with
//! the elements that are wanted. Table `bridge tombolo` is known in the same way; it has no elements.

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, GenMessage, ListAttribute, NfTablesMessage, RuleAttribute,
    RuleMessage, SetAttribute, SetElementAttribute, SetElementList, SetElementMessage, SetMessage,
    TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tombolo_core::world::{Family, World};

use super::attributes;
use super::elements::{Element, Set, lines};
use super::shape::{self, Shape, script};
use super::socket::{Failure, Reply, Socket, unless};
use super::tools;
use super::user::{self, User};
use super::watch::Own;

/// The name of our tables.
const TABLE: &str = "tombolo";

/// A table: another one may have the same name in another family.
#[derive(Clone, Copy)]
struct Place {
    family: NetfilterProtoFamily,
    name: &'static str,
}

/// Our table.
const MAIN: Place = Place {
    family: NetfilterProtoFamily::Inet,
    name: TABLE,
};

/// Our table for frames on their way to tunnels.
const TUNNELS: Place = Place {
    family: NetfilterProtoFamily::Bridge,
    name: TABLE,
};

/// The administrator's table.
const USER: Place = Place {
    family: NetfilterProtoFamily::Inet,
    name: user::TABLE,
};

/// nftables' number among the subsystems of netfilter (`NFNL_SUBSYS_NFTABLES`).
const SUBSYSTEM: u16 = 10;

/// Length of the header of a netfilter message (`struct nfgenmsg`), in bytes: attributes follow it.
const HEADER: usize = 4;

/// Attribute numbers of names in what is listed: `NFTA_{CHAIN,RULE,SET}_TABLE` are all 1.
const ATTRIBUTE_TABLE: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
const SET_NAME: u16 = 2;
const GENERATION: u16 = 1;

/// Attribute numbers within a list of elements (`NFTA_SET_ELEM_LIST_ELEMENTS`, `NFTA_SET_ELEM_*`, `NFTA_DATA_VALUE`).
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_END: u16 = 10;
const DATA_VALUE: u16 = 1;

/// `NFT_TABLE_F_DORMANT`: its chains hang on no hook.
const DORMANT: u32 = 1;

/// What became of our table.
pub(super) enum Table {
    Absent,
    Damaged(&'static str),
    Whole(World),
}

/// nftables.
pub(super) struct Nftables {
    socket: Socket,
}

impl Nftables {
    pub(super) fn new() -> Self {
        Self {
            socket: Socket::new(NETLINK_NETFILTER),
        }
    }

    /// By what its changes are known.
    pub(super) fn own(&self) -> Own {
        self.socket.own()
    }

    /// Our table and its elements as facts.
    pub(super) async fn observe(&mut self) -> Result<Table, Failure> {
        match self.constant(MAIN, &script()).await? {
            Table::Whole(_) => {}
            other => return Ok(other),
        }
        let mut facts = World::new();
        for set in Set::all() {
            for element in self.elements(set).await? {
                match element.fact() {
                    Some((key, value)) => facts.insert(key, value),
                    None => return Ok(Table::Damaged("an element that tombolo did not make")),
                };
            }
        }
        Ok(Table::Whole(facts))
    }

    /// Our table for tunnels.
    pub(super) async fn tunnels(&mut self) -> Result<Table, Failure> {
        self.constant(TUNNELS, &shape::tunnels()).await
    }

    /// Makes our table for tunnels, in place of whatever is there under its name.
    pub(super) async fn add_tunnels(&mut self) -> Result<(), Failure> {
        run(&shape::tunnels()).await
    }

    /// Deletes our table for tunnels.
    pub(super) async fn remove_tunnels(&mut self) -> Result<(), Failure> {
        self.delete_table(TUNNELS).await
    }

    /// What became of a table that a text has made, but for elements.
    async fn constant(&mut self, table: Place, text: &str) -> Result<Table, Failure> {
        match self.flags(table).await? {
            None => return Ok(Table::Absent),
            Some(flags) if flags & DORMANT != 0 => {
                return Ok(Table::Damaged("switched off (flag dormant)"));
            }
            Some(_) => {}
        }
        Ok(match self.shape(table).await? == Shape::of_text(text) {
            true => Table::Whole(World::new()),
            false => Table::Damaged("not the chains, rules and sets of this version"),
        })
    }

    /// Whether there is a table of ours, whole or not.
    pub(super) async fn is_there(&mut self) -> Result<bool, Failure> {
        self.has_table(MAIN).await
    }

    /// The flags of a table, if it is there.
    async fn flags(&mut self, table: Place) -> Result<Option<u32>, Failure> {
        let get = message_of(table.family, NfTablesMessage::GetTable(named(table.name)));
        let replies = match self.socket.ask(get).await {
            Err(failure) if failure.errno() == Some(libc::ENOENT) => return Ok(None),
            answer => answer?,
        };
        let flags = replies.iter().find_map(|reply| attribute(reply, TABLE_FLAGS));
        let flags = flags.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        Ok(Some(flags.unwrap_or_default()))
    }

    async fn has_table(&mut self, table: Place) -> Result<bool, Failure> {
        Ok(self.flags(table).await?.is_some())
    }

    /// What became of the administrator's table.
    pub(super) async fn user(&mut self) -> Result<User, Failure> {
        if !self.has_table(USER).await? {
            return Ok(User::Absent);
        }
        let shape = self.shape(USER).await?;
        Ok(match shape == Shape::of_text(user::TEXT) {
            true => User::Untouched,
            false if !shape.chains.contains_key(user::BASE) => User::Unasked,
            false => User::Theirs,
        })
    }

    /// Makes what is missing of the administrator's table, if nothing leads to his chain. What is in that stays.
    pub(super) async fn add_user(&mut self) -> Result<(), Failure> {
        match self.user().await? {
            User::Absent | User::Unasked => run(user::TEXT).await,
            User::Untouched | User::Theirs => Ok(()),
        }
    }

    /// Removes the administrator's table, if nothing was added to it.
    pub(super) async fn remove_user(&mut self) -> Result<(), Failure> {
        match self.user().await? {
            User::Untouched => self.delete_table(USER).await,
            User::Absent | User::Unasked | User::Theirs => Ok(()),
        }
    }

    async fn shape(&mut self, table: Place) -> Result<Shape, Failure> {
        let mut shape = Shape::default();
        let chains = NfTablesMessage::GetChain(ChainMessage {
            attributes: Vec::new(),
        });
        for reply in self.list(table, chains).await? {
            let name = text(&reply, CHAIN_NAME).unwrap_or_default();
            shape.chains.insert(name, 0);
        }
        let rules = NfTablesMessage::GetRule(RuleMessage {
            attributes: vec![RuleAttribute::Table(table.name.into())],
        });
        for reply in self.list(table, rules).await? {
            let chain = text(&reply, RULE_CHAIN).unwrap_or_default();
            *shape.chains.entry(chain).or_default() += 1;
        }
        let sets = NfTablesMessage::GetSet(SetMessage {
            attributes: vec![SetAttribute::Table(table.name.into())],
        });
        for reply in self.list(table, sets).await? {
            let name = text(&reply, SET_NAME).unwrap_or_default();
            // Sets that nft makes for braces within a rule have names of their own; they come and go with the rule.
            if !name.starts_with("__") {
                shape.sets.insert(name);
            }
        }
        Ok(shape)
    }

    /// What is listed of one table. Kernels heed its family, not always its name.
    async fn list(&mut self, table: Place, what: NfTablesMessage) -> Result<Vec<Reply>, Failure> {
        let mut replies = self.socket.dump(message_of(table.family, what)).await?;
        let family = u8::from(table.family);
        replies.retain(|reply| {
            let of_family = reply.payload.first() == Some(&family);
            of_family && text(reply, ATTRIBUTE_TABLE).as_deref() == Some(table.name)
        });
        Ok(replies)
    }

    /// The elements of a set.
    async fn elements(&mut self, set: Set) -> Result<Vec<Element>, Failure> {
        let get = NfTablesMessage::GetSetElement(of_set(set, None));
        let replies = self.socket.dump(message(get)).await?;
        Ok(replies.iter().flat_map(|reply| elements_of(set, reply)).collect())
    }

    /// Loads the skeleton with some elements, in place of whatever table of that name is there, in one transaction.
    pub(super) async fn load(&mut self, elements: &World) -> Result<(), Failure> {
        run(&(script() + &lines(elements))).await
    }

    /// Deletes the table.
    pub(super) async fn unload(&mut self) -> Result<(), Failure> {
        self.delete_table(MAIN).await
    }

    async fn delete_table(&mut self, table: Place) -> Result<(), Failure> {
        let delete = NfTablesMessage::DeleteTable(named(table.name));
        let deleted = self.transaction_of(table.family, vec![(delete, 0)]).await;
        unless(deleted, &[libc::ENOENT])
    }

    /// Adds an element. That it is there already, leading to the same, is fine.
    pub(super) async fn add(&mut self, element: &Element) -> Result<(), Failure> {
        let new = NfTablesMessage::NewSetElement(of_set(element.set, Some(element)));
        explain(self.transaction(vec![(new, NLM_F_CREATE)]).await)
    }

    /// Lets a map's key lead elsewhere, in one transaction.
    pub(super) async fn change(&mut self, element: &Element) -> Result<(), Failure> {
        let old = Element {
            data: None,
            ..element.clone()
        };
        let delete = NfTablesMessage::DeleteSetElement(of_set(element.set, Some(&old)));
        let new = NfTablesMessage::NewSetElement(of_set(element.set, Some(element)));
        match self.transaction(vec![(delete, 0), (new, NLM_F_CREATE)]).await {
            // The old one is gone meanwhile, so there is nothing to take away.
            Err(failure) if failure.errno() == Some(libc::ENOENT) => self.add(element).await,
            other => other,
        }
    }

    /// Removes an element.
    pub(super) async fn remove(&mut self, element: &Element) -> Result<(), Failure> {
        let old = Element {
            data: None,
            ..element.clone()
        };
        let delete = NfTablesMessage::DeleteSetElement(of_set(element.set, Some(&old)));
        unless(self.transaction(vec![(delete, 0)]).await, &[libc::ENOENT])
    }

    /// Removes elements and adds others in one transaction: nobody sees the set without both. All of it is done, or nothing.
    pub(super) async fn exchange(&mut self, removed: &[Element], added: &[Element]) -> Result<(), Failure> {
        let delete = |element: &Element| {
            let message = NfTablesMessage::DeleteSetElement(of_set(element.set, Some(element)));
            (message, 0)
        };
        let new = |element: &Element| {
            let message = NfTablesMessage::NewSetElement(of_set(element.set, Some(element)));
            (message, NLM_F_CREATE)
        };
        let changes = removed.iter().map(delete).chain(added.iter().map(new));
        explain(self.transaction(changes.collect()).await)
    }

    async fn transaction(&mut self, changes: Vec<(NfTablesMessage, u16)>) -> Result<(), Failure> {
        self.transaction_of(MAIN.family, changes).await
    }

    /// Does all of the changes or none. Each asks for its own ACK; the kernel sends them when it has committed.
    async fn transaction_of(
        &mut self,
        family: NetfilterProtoFamily,
        changes: Vec<(NfTablesMessage, u16)>,
    ) -> Result<(), Failure> {
        let frame = |control| {
            let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
            let mut message = NetlinkMessage::from(NetfilterMessage::new(header, control));
            message.header.flags = NLM_F_REQUEST;
            message
        };
        let mut messages = vec![frame(ControlMessage::BatchBegin)];
        messages.extend(changes.into_iter().map(|(change, flags)| {
            let mut message = message_of(family, change);
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            message
        }));
        messages.push(frame(ControlMessage::BatchEnd));
        self.socket.batch(messages).await.map(drop)
    }

    /// Whether table `filter` of a family has a chain FORWARD, as `iptables` (its nftables flavour) makes it.
    pub(super) async fn has_forward(&mut self, family: Family) -> Result<bool, Failure> {
        let attributes = vec![
            ChainAttribute::Table("filter".into()),
            ChainAttribute::Name("FORWARD".into()),
        ];
        let family = match family {
            Family::V4 => NetfilterProtoFamily::IPv4,
            Family::V6 => NetfilterProtoFamily::IPv6,
        };
        let get = NfTablesMessage::GetChain(ChainMessage { attributes });
        found(self.socket.ask(message_of(family, get)).await)
    }

    /// The number of the ruleset's present state; every change of any table makes another one.
    pub(super) async fn generation(&mut self) -> Result<u32, Failure> {
        let get = NfTablesMessage::GetGen(GenMessage {
            attributes: Vec::new(),
        });
        let replies = self.socket.ask(message(get)).await?;
        let number = replies
            .first()
            .and_then(|reply| attribute(reply, GENERATION))
            .and_then(|v| v.try_into().ok());
        number
            .map(u32::from_be_bytes)
            .ok_or_else(|| Failure::Broken("the ruleset's generation has no number".into()))
    }
}

fn named(table: &str) -> TableMessage {
    TableMessage {
        attributes: vec![TableAttribute::Name(table.into())],
    }
}

/// Has `nft` carry out a text, all of it or nothing.
async fn run(text: &str) -> Result<(), Failure> {
    let Some(nft) = tools::find("nft") else {
        return Failure::ours("there is no program nft on this host; install nftables");
    };
    tools::run(&nft, &["-f", "-"], text).await.map(drop)
}

fn message(inner: NfTablesMessage) -> NetlinkMessage<NetfilterMessage> {
    message_of(MAIN.family, inner)
}

fn message_of(family: NetfilterProtoFamily, inner: NfTablesMessage) -> NetlinkMessage<NetfilterMessage> {
    NetlinkMessage::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner))
}

/// Whether the thing asked for exists.
fn found(answer: Result<Vec<Reply>, Failure>) -> Result<bool, Failure> {
    match answer {
        Ok(_) => Ok(true),
        Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn attribute(reply: &Reply, kind: u16) -> Option<&[u8]> {
    attributes::one(reply.payload.get(HEADER..)?, kind)
}

fn text(reply: &Reply, kind: u16) -> Option<String> {
    attribute(reply, kind).map(attributes::text)
}

fn of_set(set: Set, element: Option<&Element>) -> SetElementMessage {
    let mut attributes = vec![
        SetElementList::Table(TABLE.into()),
        SetElementList::Set(set.name()),
    ];
    if let Some(element) = element {
        let mut parts = vec![SetElementAttribute::Key(DataAttribute::Value(
            element.key.clone(),
        ))];
        let nested = |end| vec![DefaultNla::new(DATA_VALUE, end)];
        parts.extend(element.end.clone().map(nested).map(SetElementAttribute::KeyEnd));
        parts.extend(
            element
                .data
                .clone()
                .map(|data| SetElementAttribute::Data(DataAttribute::Value(data))),
        );
        attributes.push(SetElementList::Elements(vec![ListAttribute::Element(parts)]));
    }
    SetElementMessage { attributes }
}

/// The elements in one message of a dump. The crate's own reader is not used: its time grows with the square of their
/// number.
fn elements_of(set: Set, reply: &Reply) -> Vec<Element> {
    let data = |value| attributes::one(value, DATA_VALUE).map(<[u8]>::to_vec);
    let element = |(_, item)| {
        let mut element = Element {
            set,
            key: Vec::new(),
            end: None,
            data: None,
        };
        for (kind, value) in attributes::all(item) {
            match kind {
                ELEMENT_KEY => element.key = data(value).unwrap_or_default(),
                ELEMENT_END => element.end = data(value),
                ELEMENT_DATA => element.data = data(value),
                _ => {}
            }
        }
        element
    };
    attributes::all(attribute(reply, ELEMENTS).unwrap_or_default())
        .map(element)
        .collect()
}

/// Words for refusals whose number alone says little.
fn explain(result: Result<(), Failure>) -> Result<(), Failure> {
    let text = match result.as_ref().err().and_then(Failure::errno) {
        Some(libc::ENOENT) => "table inet tombolo is not there, or damaged",
        Some(libc::EBUSY) => "this port is published for another endpoint",
        _ => return result,
    };
    result.map_err(|failure| Failure::Refused {
        errno: failure.errno().unwrap_or_default(),
        text: text.into(),
    })
}
