//! The charter: what the hosts of a cluster have agreed on, and how each decree changes it.
//!
//! ```text
//!   Charter of index i --apply(decree of slot i + 1)--> Charter of index i + 1, or the same with a word why not
//! ```
//!
//! Folding is deterministic: the same decrees in the same order give the same charter on every host. A decree that no
//! longer makes sense when its turn comes takes its slot all the same and changes nothing else.
//!
//! What keeps it small: a host that is gone leaves its identifier (the latest [`GONE_MAX`] of them), a grant goes when
//! its pool is dissolved, when its host is gone, and when its host was seen to have applied it; a pool's floor has at
//! most one entry for each prefix that was ever granted, and loses those that lie within a later one.

mod fold;
mod inherit;
mod limits;
mod void;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tombolo_ipam::HostId;
use tombolo_ipam::prefix::overlap;
use tombolo_ipam::share::Share;

pub(crate) use inherit::later;
pub use limits::{CHARTER_MAX, DECREE_MAX, GONE_MAX, HELD_MAX, HOSTS_MAX, NoCharter, POOLS_MAX, TooMuch};
pub(crate) use limits::{check_shares, most, size};
pub use void::Void;

/// What the hosts have agreed on after the first `index` decrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    /// How many decrees are folded in; the next one to decide has the number above.
    pub index: u64,
    /// Which cluster: random bits, drawn when it was founded.
    pub cluster: [u8; 16],
    /// The members.
    pub hosts: BTreeMap<HostId, Member>,
    /// Who was a member: none of these identifiers comes back.
    pub gone: BTreeMap<HostId, Gone>,
    /// The pools that span hosts; no two overlap.
    pub pools: BTreeMap<IpNet, Founded>,
    /// Pieces of pools that decrees gave to hosts, in the order of the decrees. A host applies each of its own once.
    pub grants: Vec<Grant>,
    /// Which secret is in force.
    pub secret: Secret,
    /// Whether a store outside of the cluster decides ([`crate::store`]), rather than a majority of the hosts. It is so,
    /// or not, from the founding on.
    pub by_store: bool,
}

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What people call it.
    pub name: String,
    /// The SHA-256 of its public key.
    pub key: [u8; 32],
    /// The decree by which it joined; 0 for the founder.
    pub since: u64,
}

/// A host that is no member any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// What people called it.
    pub name: String,
    /// In which way it went.
    pub how: How,
    /// The decree by which it went.
    pub at: u64,
}

/// In which way a host went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// By its own wish, with empty hands.
    Left,
    /// It was lost: what it owned is another's now.
    Forgotten {
        /// Whose.
        heir: HostId,
    },
}

/// A pool that spans hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founded {
    /// The decree that founded it.
    pub at: u64,
    /// Who founded it, and was granted all of it.
    pub founder: HostId,
    /// What hosts that join it must agree with.
    pub definition: Definition,
    /// The highest numbers that decrees have given out, by piece; disjoint. A claim with a lower number on any of these
    /// addresses is void.
    pub floor: BTreeMap<IpNet, u64>,
}

/// What is the same for a cluster network on every host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its name, where a name is its identity.
    pub net: Option<String>,
    /// The kind of network: `overlay`, `host-gateway`, …
    pub kind: String,
    /// The gateway, reserved on every host.
    pub gateway: Option<IpAddr>,
    /// Further addresses that are reserved on every host.
    pub aux: BTreeSet<IpAddr>,
    /// The VXLAN network identifier.
    pub vni: Option<u32>,
    /// The MTU in bytes.
    pub mtu: Option<u32>,
}

/// Pieces of a pool that a decree gave to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The decree.
    pub at: u64,
    /// Who owns the pieces by it.
    pub to: HostId,
    /// The pool.
    pub pool: IpNet,
    /// The pieces, each with its number; disjoint.
    pub pieces: Vec<(IpNet, u64)>,
    /// Gifts that a lost host had made and that are now for `to` to bring to an end: the piece, its number, the
    /// recipient, who may be gone itself. Disjoint, also from the pieces.
    pub gifts: Vec<(IpNet, u64, HostId)>,
}

/// A secret of the cluster: which one, and how to know it. The secret itself isn't here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Counted from 1.
    pub number: u32,
    /// A digest by which a host knows the right one.
    pub check: [u8; 32],
}

/// What hosts can decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decree {
    /// Nothing: brings a slot to an end that was left half-way.
    Nothing,
    /// A host becomes a member. One that is a member already, with the same key, takes the new name.
    Join {
        /// Its identifier.
        host: HostId,
        /// Its name.
        name: String,
        /// The SHA-256 of its public key.
        key: [u8; 32],
    },
    /// A host that owns nothing leaves.
    Leave {
        /// Which one.
        host: HostId,
    },
    /// Hosts are lost for good, and another one owns what they owned.
    Forget {
        /// The lost ones.
        hosts: Vec<HostId>,
        /// Who inherits.
        heir: HostId,
        /// The shares of the lost hosts as witnessed, by host and pool. Of others what speaks against them: pieces with
        /// numbers higher by two or more, and what the heir has applied. Empty in a wish: the council fills it in.
        shares: BTreeMap<HostId, BTreeMap<IpNet, Held>>,
    },
    /// A pool spans hosts from now on.
    Found {
        /// Its addresses.
        pool: IpNet,
        /// Who is granted all of it.
        founder: HostId,
        /// What other hosts must agree with.
        definition: Definition,
    },
    /// What hosts must agree with of a pool that was founded by its name alone, or that nobody uses any more.
    Define {
        /// Its addresses.
        pool: IpNet,
        /// Who wants that.
        by: HostId,
        /// What stands until then: it may have been replaced meanwhile.
        before: Box<Definition>,
        /// What other hosts must agree with from then on.
        definition: Box<Definition>,
    },
    /// A pool ends.
    Dissolve {
        /// Its addresses.
        pool: IpNet,
        /// Who wants that.
        by: HostId,
    },
    /// Another secret is in force.
    Secret {
        /// One more than that of the secret before.
        number: u32,
        /// How to know it.
        check: [u8; 32],
    },
}

/// A host's share of one pool, as another host has witnessed it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// The version of the row: epoch and count.
    pub version: (u32, u32),
    /// The last decree that the host had applied to this share.
    pub applied: u64,
    /// What it owned or claimed, each with its number.
    pub pieces: Vec<(IpNet, u64)>,
    /// What it was giving away: the piece, its number, the recipient.
    pub gifts: Vec<(IpNet, u64, HostId)>,
}

impl From<&Share> for Held {
    fn from(share: &Share) -> Self {
        let pieces = share.pieces.iter().map(|(net, piece)| (*net, piece.seq));
        let gifts = share.gifts.iter().map(|(net, gift)| (*net, gift.seq, gift.to));
        Self {
            version: ((share.revision >> 32) as u32, share.revision as u32),
            applied: share.applied,
            pieces: pieces.collect(),
            gifts: gifts.collect(),
        }
    }
}

impl Decree {
    /// The hosts that it would forget; none unless it is a `Forget`.
    pub fn lost(&self) -> BTreeSet<HostId> {
        match self {
            Self::Forget { hosts, .. } => hosts.iter().copied().collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Whether it would change who is a member.
    pub fn changes_members(&self) -> bool {
        matches!(self, Self::Join { .. } | Self::Leave { .. } | Self::Forget { .. })
    }

    /// Whether both want the same: equal but for what the council itself fills in.
    pub fn same_wish(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Forget { heir, .. }, Self::Forget { heir: other_heir, .. }) => {
                heir == other_heir && self.lost() == other.lost()
            }
            _ => self == other,
        }
    }

    /// The same wish without what the council fills in.
    pub fn bare(&self) -> Self {
        match self {
            Self::Forget { hosts, heir, .. } => Self::Forget {
                hosts: hosts.clone(),
                heir: *heir,
                shares: BTreeMap::new(),
            },
            other => other.clone(),
        }
    }
}

/// What stands for the kind of a pool of which no more is known than that its addresses are on a wire of the hosts.
pub const ON_WIRE: &str = "wire";

impl Definition {
    /// Whether nothing is known yet but a name, and perhaps that it is on a wire.
    pub fn is_open(&self) -> bool {
        self.kind.is_empty() || self.kind == ON_WIRE
    }

    /// Whether its addresses are on a wire that the hosts are on as well, so that their own routes lead there.
    pub fn is_on_wire(&self) -> bool {
        matches!(self.kind.as_str(), ON_WIRE | "macvlan" | "ipvlan")
    }
}

impl Founded {
    /// The pieces with something of a prefix that decrees gave out under higher numbers than this.
    pub fn above(&self, net: IpNet, seq: u64) -> impl Iterator<Item = IpNet> {
        let above = self.floor.iter().filter(move |(_, floor)| **floor > seq);
        above
            .map(|(piece, _)| *piece)
            .filter(move |piece| overlap(*piece, net))
    }

    /// Whether it is all that a wish asks for.
    pub fn has(&self, wish: &Definition) -> bool {
        let completes = self.definition.is_open() && !wish.is_open();
        !completes && self.conflict(wish).is_none()
    }

    /// Where a wish differs: the field, what was founded and what is wished. What the wish leaves open agrees.
    pub fn conflict(&self, wish: &Definition) -> Option<(&'static str, String, String)> {
        let theirs = &self.definition;
        // One that was founded, or is wished for, by a name and nothing else is open for any kind.
        if theirs.is_open() || wish.is_open() {
            let both = theirs.net.clone().zip(wish.net.clone());
            return both
                .filter(|(one, two)| one != two)
                .map(|(one, two)| ("net", one, two));
        }
        let open = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        let differ = |field, theirs: Option<String>, ours: Option<String>| {
            (ours.is_some() && ours != theirs).then(|| (field, open(theirs), open(ours)))
        };
        let text = |aux: &BTreeSet<IpAddr>| {
            let words: Vec<String> = aux.iter().map(ToString::to_string).collect();
            (!words.is_empty()).then(|| words.join(", "))
        };
        differ("net", theirs.net.clone(), wish.net.clone())
            .or_else(|| differ("kind", Some(theirs.kind.clone()), Some(wish.kind.clone())))
            .or_else(|| {
                differ(
                    "gateway",
                    theirs.gateway.map(|a| a.to_string()),
                    wish.gateway.map(|a| a.to_string()),
                )
            })
            .or_else(|| differ("aux", text(&theirs.aux), text(&wish.aux)))
            .or_else(|| {
                differ(
                    "vni",
                    theirs.vni.map(|n| n.to_string()),
                    wish.vni.map(|n| n.to_string()),
                )
            })
            .or_else(|| {
                differ(
                    "mtu",
                    theirs.mtu.map(|n| n.to_string()),
                    wish.mtu.map(|n| n.to_string()),
                )
            })
    }
}

impl Charter {
    /// The charter of a new cluster: its founder is the only member, and the first secret is in force.
    pub fn founded(cluster: [u8; 16], host: HostId, name: String, key: [u8; 32], check: [u8; 32]) -> Self {
        Self {
            index: 0,
            cluster,
            hosts: BTreeMap::from([(host, Member { name, key, since: 0 })]),
            gone: BTreeMap::new(),
            pools: BTreeMap::new(),
            grants: Vec::new(),
            secret: Secret { number: 1, check },
            by_store: false,
        }
    }

    /// The same cluster, with a store outside of it that decides.
    #[must_use]
    pub fn with_store(self) -> Self {
        Self {
            by_store: true,
            ..self
        }
    }

    /// The number of the next decree.
    pub fn slot(&self) -> u64 {
        self.index.saturating_add(1)
    }

    /// The last decree that changed who is a member; 0 if none did.
    pub fn members_since(&self) -> u64 {
        let joined = self.hosts.values().map(|member| member.since);
        joined
            .chain(self.gone.values().map(|gone| gone.at))
            .max()
            .unwrap_or(0)
    }

    /// Whether a host that has read the shares of these members, its own among them, knows whatever a majority of the
    /// members had witnessed before the last change of members, so far as a decree depends on it.
    ///
    /// A majority of the present members meets each majority of those before, if one joined or went; if several went at
    /// once it takes all. Where hosts are to be forgotten, all the others are enough: what none of them knows was
    /// between lost ones, or went through hosts that are gone, and then the number of who has it now is higher by two.
    pub fn read_enough(&self, read: &BTreeSet<HostId>, decree: &Decree) -> bool {
        let last = self.members_since();
        let went = self.gone.values().filter(|gone| gone.at == last).count();
        let known = self.hosts.keys().filter(|host| read.contains(host)).count();
        let lost = decree.lost();
        let all = self
            .hosts
            .keys()
            .all(|host| read.contains(host) || lost.contains(host));
        all || (went <= 1 && known > self.hosts.len() / 2)
    }

    /// The grants to a host that it has still to apply, having applied those of the pool up to `applied`.
    pub fn due(&self, host: HostId, pool: IpNet, applied: u64) -> impl Iterator<Item = &Grant> {
        self.grants
            .iter()
            .filter(move |grant| grant.to == host && grant.pool == pool && grant.at > applied)
    }

    /// Since which decree that which the wish asks for holds already, so that nothing needs to be decided.
    pub fn holds(&self, wish: &Decree) -> Option<u64> {
        match wish {
            Decree::Join { host, name, key } => {
                let member = self.hosts.get(host)?;
                (member.name == *name && member.key == *key).then_some(member.since)
            }
            Decree::Leave { host } => {
                let gone = self.gone.get(host)?;
                (gone.how == How::Left).then_some(gone.at)
            }
            Decree::Forget { heir, .. } => {
                let how = How::Forgotten { heir: *heir };
                let gone = |host| self.gone.get(&host).filter(|gone| gone.how == how);
                let at = wish.lost().into_iter().map(|host| gone(host).map(|gone| gone.at));
                at.collect::<Option<Vec<u64>>>()?.into_iter().max()
            }
            Decree::Found {
                pool,
                founder,
                definition,
            } => {
                let founded = self.pools.get(pool)?;
                (founded.founder == *founder && founded.definition == *definition).then_some(founded.at)
            }
            Decree::Define { pool, definition, .. } => {
                let founded = self.pools.get(pool)?;
                (founded.definition == **definition).then_some(self.index)
            }
            Decree::Secret { number, check } => (self.secret
                == Secret {
                    number: *number,
                    check: *check,
                })
            .then_some(self.index),
            // A pool that isn't there may have ended or never have been: only `apply` can say what that means.
            Decree::Dissolve { .. } | Decree::Nothing => None,
        }
    }

    /// What a host is called, with its identifier, for a text.
    pub(crate) fn called(&self, host: HostId) -> String {
        let name = self.hosts.get(&host).map(|member| &member.name);
        match name.or_else(|| self.gone.get(&host).map(|gone| &gone.name)) {
            Some(name) => format!("{name} ({host})"),
            None => host.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
