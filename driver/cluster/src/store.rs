//! A store outside of the cluster as the place where it is decided: what a host asks of it, what has to be read for
//! that, and what is then written, provided that nothing of what was read has changed.
//!
//! ```text
//!   Ask ──reads──> charter, shares ──judge──> Answer, or Writes ──if all is as it was read──> Answer
//!        ^                                                      └─ else read again
//! ```
//!
//! The store keeps the charter, and for each pool the shares of hosts as they were when a piece last came to or from them.
//! A decree replaces the charter. A claim is good when the giver's share and the claimer's are in the store together, while
//! both are members; so a decree to forget one of them, which looks at the shares of those it forgets, comes before or
//! after it and knows of it. Claims that are not good yet are left out there: all pieces in the store are settled.
//!
//! A share in the store may be older than its host's own one in two ways, neither of which does harm: it may have gifts
//! that have arrived, and lack what decrees granted, which the charter still says. A share from before the founding
//! of its pool, or of a host that is no member, counts as none.
//!
//! The store also counts the *lives* of each host. One that has begun anew is confirmed under the next one, and its shares
//! have that number in the upper half of their revisions from then on. What it gave away in a life that its disk knows
//! nothing of is void then, unless the store knew of it already and told it.
//!
//! All here is deciding; reading and writing is the caller's.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Share, claims};

use crate::charter::{Charter, Decree, Held, Void};
use crate::council::telling;
use crate::wire::{encode, sum};

/// Whose share of which pool.
pub type Whose = (IpNet, HostId);

/// Most pools that are confirmed at once: a transaction has its bounds.
pub const CONFIRM_MAX: usize = 50;

/// What is asked of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Decide.
    Decide {
        /// What.
        decree: Decree,
        /// The asker's own shares, where it is to leave or to end a pool.
        mine: BTreeMap<IpNet, Share>,
    },
    /// Keep the giver's and the claimer's share in mind.
    Witness(Box<Claim>),
    /// Are this host's shares the latest of it? Then it has another life.
    Confirm {
        /// The host.
        me: HostId,
        /// Its shares of some pools; none of those where it knows of none. At most [`CONFIRM_MAX`].
        mine: BTreeMap<IpNet, Option<Share>>,
    },
    /// What is there of everybody's shares?
    Read,
    /// What was decided?
    Look,
}

/// A claim on a gift.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The pool.
    pub pool: IpNet,
    /// The piece.
    pub net: IpNet,
    /// The number that the gift and the claim have.
    pub seq: u64,
    /// Who gave it.
    pub giver: HostId,
    /// The giver's share, with the gift.
    pub gave: Share,
    /// Who claims it.
    pub claimer: HostId,
    /// The claimer's share, with the claim.
    pub mine: Share,
}

/// Which charter the asker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// How many decrees.
    pub index: u64,
    /// A sum over its bytes: it tells difference, not malice.
    sum: u64,
}

impl Known {
    /// What is known with this charter.
    pub fn of(charter: &Charter) -> Self {
        Self {
            index: charter.index,
            sum: sum(encode(charter)),
        }
    }
}

/// Which shares have to be read with the charter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// These. Each may be read at another time, but none before the charter.
    Of(Vec<Whose>),
    /// All of this pool, at the time of the charter.
    Pool(IpNet),
    /// All there are, at the time of the charter.
    All,
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What was decided.
    pub charter: Charter,
    /// The shares.
    pub shares: BTreeMap<Whose, Share>,
    /// The life of the host that [`Ask::life_of`] names; 0 if it had none.
    pub life: u64,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The answer, once everything is written.
    pub answer: Answer,
    /// What is to be written, if anything.
    pub writes: Option<Writes>,
}

/// What is to be written, all of it or nothing, and only if the charter, the life if one was read, and all the shares in
/// `unless` are as they were read (not there, if they were not there).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Writes {
    /// What is decided now.
    pub charter: Option<Charter>,
    /// Shares that are replaced, or removed.
    pub shares: Vec<(Whose, Option<Share>)>,
    /// The life of the host that [`Ask::life_of`] names.
    pub life: Option<u64>,
    /// Hosts whose lives go.
    pub gone: Vec<HostId>,
    /// A pool of which all shares go.
    pub dissolved: Option<IpNet>,
    /// The shares that must not have changed.
    pub unless: Vec<Whose>,
}

/// What the asker is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was decided until now.
    pub charter: Charter,
    /// The answer proper.
    pub what: What,
}

/// The answer proper.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The decree holds; or it makes no sense, as the charter is.
    Decided(Option<Void>),
    /// The shares are kept in mind.
    Kept,
    /// They are not, nor is anything confirmed: the store has later ones, these, or what was decided speaks against it.
    Stale(BTreeMap<Whose, Share>),
    /// This is there.
    Read(BTreeMap<Whose, Share>),
    /// The host is confirmed in this life, and its shares are these.
    Confirmed(u64, BTreeMap<Whose, Share>),
}

/// Why the store is not to be relied on, or what it says speaks against a decree. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was set back.
    #[error("it has {there} decrees of this cluster and this host knows {known}: it was set back")]
    SetBack {
        /// How many decrees the store has.
        there: u64,
        /// How many the asker knows.
        known: u64,
    },
    /// Another decree of one number.
    #[error(
        "its decree {0} of this cluster is another one than this host knows: it was set back, or is another store"
    )]
    Torn(u64),
    /// One who leaves or ends a pool, and doesn't know all of it.
    #[error("it knows of a later share of pool {0} than this host: try again")]
    Later(IpNet),
    /// One who leaves and was granted something meanwhile.
    #[error("a piece of pool {0} was granted to this host and isn't taken up yet: try again")]
    Due(IpNet),
}

impl Ask {
    /// Which shares have to be read.
    pub fn reads(&self) -> Reads {
        match self {
            Self::Decide { decree, .. } => match decree {
                Decree::Forget { .. } | Decree::Leave { .. } | Decree::Dissolve { .. } => Reads::All,
                _ => Reads::Of(Vec::new()),
            },
            Self::Witness(claim) => Reads::Pool(claim.pool),
            Self::Confirm { me, mine } => Reads::Of(mine.keys().map(|pool| (*pool, *me)).collect()),
            Self::Read => Reads::All,
            Self::Look => Reads::Of(Vec::new()),
        }
    }

    /// Whose life has to be read as well.
    pub fn life_of(&self) -> Option<HostId> {
        match self {
            Self::Witness(claim) => Some(claim.giver),
            Self::Confirm { me, .. } => Some(*me),
            _ => None,
        }
    }

    /// What comes of what was read.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn judge(&self, known: Known, found: Found) -> Result<Verdict, Refused> {
        let there = Known::of(&found.charter);
        if there.index < known.index {
            return Err(Refused::SetBack {
                there: there.index,
                known: known.index,
            });
        }
        if there.index == known.index && there != known {
            return Err(Refused::Torn(there.index));
        }
        let Found {
            charter,
            mut shares,
            life,
        } = found;
        shares.retain(|(pool, host), share| counts(&charter, pool, host, share));
        match self {
            Self::Decide { decree, mine } => decide(charter, shares, decree, mine),
            Self::Witness(claim) => Ok(witness(charter, shares, life, claim)),
            Self::Confirm { me, mine } => Ok(confirm(charter, &shares, life, *me, mine)),
            Self::Read | Self::Look => Ok(Verdict {
                answer: Answer {
                    charter,
                    what: What::Read(shares),
                },
                writes: None,
            }),
        }
    }
}

/// Whether a share is one of a member, of the pool as it was founded last.
fn counts(charter: &Charter, pool: &IpNet, host: &HostId, share: &Share) -> bool {
    let founded = charter.pools.get(pool);
    charter.hosts.contains_key(host) && founded.is_some_and(|founded| founded.at <= share.applied)
}

/// The life that a share is of.
pub fn life(share: &Share) -> u64 {
    share.revision >> 32
}

/// The share under the first revision of a life.
pub fn risen(share: &Share, life: u64) -> Share {
    Share {
        revision: life.min(u64::from(u32::MAX)) << 32,
        ..share.clone()
    }
}

/// A share with those claims settled that are settled in the store.
fn marked(share: &Share, there: Option<&Share>) -> Share {
    let mut share = share.clone();
    let settled: Vec<(IpNet, u64)> = there.map(|there| there.settled().collect()).unwrap_or_default();
    for (net, piece) in &mut share.pieces {
        let is_there = |(other, seq): &(IpNet, u64)| other.contains(net) && *seq == piece.seq;
        piece.settled = piece.settled || settled.iter().any(is_there);
    }
    share
}

/// A share as it is in the store.
fn kept(share: &Share, there: Option<&Share>, claim: Option<IpNet>) -> Share {
    let mut share = marked(share, there);
    if let Some(piece) = claim.and_then(|net| share.pieces.get_mut(&net)) {
        piece.settled = true;
    }
    share.pieces.retain(|_, piece| piece.settled);
    share
}

fn confirm(
    charter: Charter,
    shares: &BTreeMap<Whose, Share>,
    life: u64,
    me: HostId,
    mine: &BTreeMap<IpNet, Option<Share>>,
) -> Verdict {
    let there = |pool: &IpNet| shares.get(&(*pool, me));
    let later: BTreeMap<Whose, Share> = mine
        .iter()
        .filter(|(pool, own)| is_later(there(pool), own.as_ref()))
        .filter_map(|(pool, _)| Some(((*pool, me), there(pool)?.clone())))
        .collect();
    if !later.is_empty() {
        let what = What::Stale(later);
        return Verdict {
            answer: Answer { charter, what },
            writes: None,
        };
    }
    // Higher than any that its shares are of, also if the store was begun anew.
    let own = mine.values().flatten();
    let life = own.map(self::life).fold(life, u64::max).saturating_add(1);
    let own = mine.iter().filter_map(|(pool, own)| Some((pool, own.as_ref()?)));
    let risen = own
        .map(|(pool, own)| ((*pool, me), risen(&marked(own, there(pool)), life)))
        .collect();
    Verdict {
        answer: Answer {
            charter,
            what: What::Confirmed(life, risen),
        },
        writes: Some(Writes {
            life: Some(life),
            unless: mine.keys().map(|pool| (*pool, me)).collect(),
            ..Writes::default()
        }),
    }
}

fn decide(
    charter: Charter,
    shares: BTreeMap<Whose, Share>,
    decree: &Decree,
    mine: &BTreeMap<IpNet, Share>,
) -> Result<Verdict, Refused> {
    let decided = |charter, void, writes| Verdict {
        answer: Answer {
            charter,
            what: What::Decided(void),
        },
        writes,
    };
    if charter.holds(decree).is_some() {
        return Ok(decided(charter, None, None));
    }
    let mut writes = Writes::default();
    let decree = match decree {
        Decree::Leave { host } => {
            for pool in charter.pools.keys() {
                let own = mine.get(pool);
                if is_later(shares.get(&(*pool, *host)), own) {
                    return Err(Refused::Later(*pool));
                }
                let applied = own.map_or(0, |own| own.applied);
                if charter.due(*host, *pool, applied).next().is_some() {
                    return Err(Refused::Due(*pool));
                }
            }
            writes
                .unless
                .extend(charter.pools.keys().map(|pool| (*pool, *host)));
            decree.clone()
        }
        Decree::Forget { hosts, heir, .. } => {
            let lost = decree.lost();
            let members = charter.hosts.keys().map(|host| (*host, held(&shares, host)));
            let told = telling(&lost, *heir, members);
            for host in &lost {
                writes
                    .unless
                    .extend(charter.pools.keys().map(|pool| (*pool, *host)));
            }
            Decree::Forget {
                hosts: hosts.clone(),
                heir: *heir,
                shares: told,
            }
        }
        Decree::Dissolve { pool, by } => {
            // Who has all of it has it under a number as high as any.
            let own = mine.get(pool);
            let highest = own
                .into_iter()
                .flat_map(|own| own.pieces.values())
                .map(|piece| piece.seq)
                .max();
            let others = shares.iter().filter(|((of, host), _)| of == pool && host != by);
            let passed = others
                .flat_map(|(_, share)| share.pieces.values())
                .any(|piece| Some(piece.seq) > highest);
            if passed || is_later(shares.get(&(*pool, *by)), own) {
                return Err(Refused::Later(*pool));
            }
            writes
                .unless
                .extend(charter.hosts.keys().map(|host| (*pool, *host)));
            writes.dissolved = Some(*pool);
            decree.clone()
        }
        _ => decree.clone(),
    };
    let mut after = charter.clone();
    if let Err(void) = after.apply(&decree) {
        return Ok(decided(charter, Some(void), None));
    }
    let hosts = charter.hosts.keys().copied();
    writes.gone = hosts.filter(|host| !after.hosts.contains_key(host)).collect();
    let gone = shares.keys().filter(|(_, host)| !after.hosts.contains_key(host));
    writes.shares.extend(gone.map(|whose| (*whose, None)));
    writes.charter = Some(after.clone());
    Ok(decided(after, None, Some(writes)))
}

/// Whether a share in the store is later than its host's own one.
fn is_later(there: Option<&Share>, own: Option<&Share>) -> bool {
    there.is_some_and(|there| own.is_none_or(|own| own.revision < there.revision))
}

fn held(shares: &BTreeMap<Whose, Share>, host: &HostId) -> BTreeMap<IpNet, Held> {
    let of_host = shares.iter().filter(|((_, of), _)| of == host);
    of_host
        .map(|((pool, _), share)| (*pool, Held::from(share)))
        .collect()
}

fn witness(charter: Charter, shares: BTreeMap<Whose, Share>, life: u64, claim: &Claim) -> Verdict {
    let answer = |charter, what| Answer { charter, what };
    let stale = |charter, shares| Verdict {
        answer: answer(charter, What::Stale(shares)),
        writes: None,
    };
    let Claim { pool, net, seq, .. } = claim;
    let fits = counts(&charter, pool, &claim.giver, &claim.gave)
        && counts(&charter, pool, &claim.claimer, &claim.mine)
        && claim.gave.gifts.get(net).is_some_and(|gift| is_for(gift, claim))
        && claim.mine.pieces.get(net).is_some_and(|piece| piece.seq == *seq);
    let founded = charter.pools.get(pool);
    let void = founded.is_some_and(|founded| founded.above(*net, *seq).next().is_some());
    // What was passed on since isn't claimed again because the first giver has not dropped its gift yet.
    let of_pool = shares.iter().filter(|((of, _), _)| of == pool);
    let rows = of_pool.map(|((_, host), share)| (*host, share));
    let passed = claims(rows, *net).any(|other| other.seq > *seq);
    if !fits || void || passed {
        return stale(charter, shares);
    }
    let (giver, claimer) = ((*pool, claim.giver), (*pool, claim.claimer));
    let (gave, mine) = (shares.get(&giver), shares.get(&claimer));
    let mut writes = Writes {
        unless: vec![giver, claimer],
        ..Writes::default()
    };
    match gave {
        Some(there) if there.revision >= claim.gave.revision => {
            let gift = there.gifts.get(net);
            if !gift.is_some_and(|gift| is_for(gift, claim)) {
                return stale(charter, shares);
            }
        }
        // The giver has begun anew since, and may know nothing of the gift.
        _ if self::life(&claim.gave) < life => return stale(charter, shares),
        there => writes.shares.push((giver, Some(kept(&claim.gave, there, None)))),
    }
    if mine.is_some_and(|there| there.revision > claim.mine.revision) {
        return stale(charter, shares);
    }
    let share = kept(&claim.mine, mine, Some(*net));
    if mine != Some(&share) {
        writes.shares.push((claimer, Some(share)));
    }
    Verdict {
        answer: answer(charter, What::Kept),
        writes: (!writes.shares.is_empty()).then_some(writes),
    }
}

fn is_for(gift: &tombolo_ipam::share::Gift, claim: &Claim) -> bool {
    gift.to == claim.claimer && gift.seq == claim.seq
}
