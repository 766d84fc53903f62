//! Asking others for room or for one address, and being asked.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Ask, Deal, Share, resolve};

use super::{AGAIN, ASK, Asking, REST};
use crate::node::{Fill, Node, Wish};
use crate::wire::Frame;

impl Node {
    /// Another host asks for a piece.
    pub(in crate::node) fn asked(&mut self, from: HostId, ticket: u64, pool: IpNet, ask: Ask) {
        let why = if !self.charter().pools.contains_key(&pool) {
            Some(format!("{pool} is no pool of the cluster's here"))
        } else if !self.may_lease() || !self.is_sure() {
            Some("this host has not been confirmed since its start".to_owned())
        } else {
            None
        };
        match why {
            Some(why) => self.send(
                from,
                Frame::Told {
                    ticket,
                    pool,
                    given: Err(why),
                },
            ),
            None => {
                let own = self.deal(pool, Deal::Give { to: from, ask });
                self.space.gives.insert(own, (from, ticket));
            }
        }
    }

    /// The answer to a question of ours.
    pub(in crate::node) fn told(
        &mut self,
        from: HostId,
        ticket: u64,
        pool: IpNet,
        given: Result<Share, String>,
    ) {
        let asked = self
            .space
            .asks
            .get(&pool)
            .is_some_and(|ask| ask.ticket == ticket && ask.to == from);
        match given {
            Ok(share) => {
                let asking = match asked {
                    true => self.space.asks.remove(&pool),
                    false => None,
                };
                self.learn_share(pool, from, share);
                self.react(pool, from);
                let claiming = self.space.claiming(&pool);
                let dealing = self.space.dealing.values().any(|(of, _)| *of == pool);
                if let Some(mut asking) = asking.filter(|_| !claiming && !dealing) {
                    // A gift of before, which has arrived already: nothing follows from it.
                    self.settle_wishes(pool);
                    if asking.urgent && self.wants_space(&pool) {
                        asking.behind = true;
                        self.space.asks.insert(pool, asking);
                        self.ask_next(pool);
                    } else {
                        // Asked again at once, it would say the same.
                        self.space.rest.insert(pool, self.now + REST);
                    }
                }
            }
            Err(why) if asked => {
                let waiting = self
                    .wishes
                    .iter()
                    .filter(|(_, w)| matches!(w.wish, Wish::Address(of, _) if of == pool));
                let waiting: Vec<u64> = waiting.map(|(ticket, _)| *ticket).collect();
                let of_address = self
                    .space
                    .asks
                    .get(&pool)
                    .is_some_and(|ask| matches!(ask.ask, Ask::Address(_)));
                if of_address && self.is_founding(&pool) {
                    self.ask_later(pool);
                } else if of_address {
                    self.space.asks.remove(&pool);
                    let name = self.name(&from);
                    for ticket in waiting {
                        self.done(
                            ticket,
                            Err(format!("its owner, host {name}, does not give it: {why}")),
                        );
                    }
                } else {
                    // Its own count of what is free may be on its way, or be what it keeps for itself.
                    self.space.said_no.insert((pool, from));
                    self.ask_next(pool);
                }
            }
            Err(_) => {}
        }
    }

    /// Whether somebody waits for space in a pool.
    pub(super) fn wants_space(&self, pool: &IpNet) -> bool {
        self.wishes
            .values()
            .any(|pending| matches!(pending.wish, Wish::Space { pool: of, .. } if of == *pool))
    }

    /// Asks for space, unless that is under way.
    pub(super) fn ask(&mut self, pool: IpNet, ask: Ask, urgent: bool) {
        // What is given while the store is away would be nobody's until it is back.
        if !self.is_sure() || !urgent && self.store_fault().is_some() {
            return;
        }
        if let Some(under_way) = self.space.asks.get_mut(&pool) {
            let replaced = urgent && !under_way.urgent;
            if !replaced {
                return;
            }
        }
        let asking = Asking {
            ticket: 0,
            ask,
            to: self.me,
            until: self.now,
            tried: BTreeSet::new(),
            behind: false,
            urgent,
        };
        self.space.asks.insert(pool, asking);
        self.ask_next(pool);
    }

    /// Asks the next host that may have room.
    pub(super) fn ask_next(&mut self, pool: IpNet) {
        let Some(mut asking) = self.space.asks.remove(&pool) else {
            return;
        };
        // Ahead of need those are asked who keep as much as this host then has, and those who have no use for it. Where
        // little is left for many, it would be passed around for ever.
        let own = self.space.own_fill(&pool).unwrap_or_default().free;
        let spares = |fill: Fill| {
            fill.free
                > if fill.used {
                    own.saturating_mul(2).saturating_add(2)
                } else {
                    0
                }
        };
        let mut donors: Vec<(u64, HostId)> = self
            .holders(&pool)
            .into_iter()
            .filter(|host| !asking.tried.contains(host) && self.is_alive(host))
            .map(|host| (self.space.room_of(&pool, &host), host))
            .filter(|(fill, _)| asking.urgent || fill.map_or(own == 0, spares))
            .map(|(fill, host)| (fill.map_or(1, |fill| fill.free), host))
            .collect();
        // The founder may own all of it and not have told so yet.
        if let Some(founder) = self.charter().pools.get(&pool).map(|founded| founded.founder)
            && founder != self.me
            && !asking.tried.contains(&founder)
            && self.is_alive(&founder)
            && (asking.urgent || self.space.fill(&pool, &founder).is_none())
            && !donors.iter().any(|(_, host)| *host == founder)
        {
            donors.push((1, founder));
        }
        donors.sort_by(|a, b| b.cmp(a));
        // Those that have about as much are asked in varying order, or all would ask the same one.
        let most = donors.first().map_or(0, |(free, _)| *free);
        let best = donors
            .iter()
            .take_while(|(free, _)| free.saturating_mul(2) >= most)
            .count()
            .max(1);
        let at = self.pick(best);
        match donors.get(at) {
            Some((_, host)) => {
                asking.to = *host;
                asking.tried.insert(*host);
                asking.until = self.now + ASK;
                asking.ticket = self.ticket();
                let frame = Frame::Ask {
                    ticket: asking.ticket,
                    pool,
                    ask: asking.ask,
                };
                let to = asking.to;
                self.space.asks.insert(pool, asking);
                self.send(to, frame);
            }
            None if asking.urgent
                && self.wants_space(&pool)
                && (asking.behind || self.is_founding(&pool)) =>
            {
                asking.tried.clear();
                asking.behind = false;
                self.space.asks.insert(pool, asking);
                self.ask_later(pool);
            }
            None => {
                self.space.rest.insert(pool, self.now + REST);
                let waiting = self
                    .wishes
                    .iter()
                    .filter(|(_, w)| matches!(w.wish, Wish::Space { pool: of, .. } if of == pool));
                let waiting: Vec<u64> = waiting.map(|(ticket, _)| *ticket).collect();
                // A question ahead of need refuses nobody: what was given to who waits may be on its way.
                let claiming = self.space.claiming(&pool);
                if !claiming {
                    self.settle_wishes(pool);
                }
                if asking.urgent && !claiming {
                    let asked = format!("{} hosts were asked", asking.tried.len());
                    let why = self.why_no_space(pool, &asked);
                    for ticket in waiting {
                        self.done(ticket, Err(why.clone()));
                    }
                }
            }
        }
    }

    /// Whether the founder of a pool is there and has not told of its share yet. It may not know itself that it is the
    /// founder: where a store decides, others may read that first.
    pub(super) fn is_founding(&self, pool: &IpNet) -> bool {
        let founded = self.charter().pools.get(pool);
        founded.is_some_and(|founded| {
            let share = self.space.known.get(&(*pool, founded.founder));
            let told = share.is_some_and(|share| share.applied >= founded.at);
            !told && self.is_alive(&founded.founder)
        })
    }

    /// Has a question be asked again in a moment; answers to the one before don't count any more.
    pub(super) fn ask_later(&mut self, pool: IpNet) {
        let (me, until) = (self.me, self.now + AGAIN);
        if let Some(asking) = self.space.asks.get_mut(&pool) {
            asking.to = me;
            asking.until = until;
        }
    }

    pub(in crate::node) fn why_no_space(&self, pool: IpNet, reached: &str) -> String {
        let mut hosts: Vec<String> = Vec::new();
        let mut free = 0;
        for ((of, host), fill) in &self.space.others {
            if *of == pool && fill.leased > 0 {
                hosts.push(format!("{} {}", self.name(host), fill.leased));
            }
            if *of == pool {
                free += self.space.room_of(of, host).map_or(0, |fill| fill.free);
            }
        }
        let own = self.space.own_fill(&pool).unwrap_or_default();
        hosts.push(format!("this host {}", own.leased));
        let leased = hosts.join(", ");
        let there_is = match free {
            0 => "no other host has one to spare".to_owned(),
            free => format!("{free} are free on other hosts, which gave none"),
        };
        format!("pool {pool} has no free address for this host: {there_is} (leased: {leased}; {reached})")
    }

    pub(in crate::node) fn why_not_given(&self, pool: IpNet, address: IpAddr, reached: &str) -> String {
        let owner = self.owner_of(&pool, address).map_or_else(
            || "a host that is not known here".to_owned(),
            |host| {
                let state = if self.is_alive(&host) {
                    ""
                } else {
                    ", which is not there"
                };
                format!("host {}{state}", self.name(&host))
            },
        );
        format!(
            "address {address} of pool {pool} is in the share of {owner}, and it was not given in time ({reached})"
        )
    }

    /// Who owns an address of a pool, as far as is known here.
    pub(in crate::node) fn owner_of(&self, pool: &IpNet, address: IpAddr) -> Option<HostId> {
        let owners = resolve(*pool, self.space.all_of(*pool, self.me)).owners;
        let found = owners
            .iter()
            .find(|(net, _)| net.contains(&address))
            .map(|(_, owner)| *owner);
        found.or_else(|| self.charter().pools.get(pool).map(|founded| founded.founder))
    }

    /// Asks for space before it is needed.
    pub(super) fn ask_ahead(&mut self, pool: IpNet, fill: Fill) {
        // In a small pool each host has few to spare, and asking for them would only send them round.
        let most = (self.part(&pool) / 4).clamp(1, 256);
        let low = (fill.leased / 4).clamp(4, 256).min(most);
        let claiming = self.space.claiming(&pool);
        let resting = self.space.rest.contains_key(&pool);
        let stale = self.space.stale.contains(&pool);
        if fill.free < low
            && !stale
            && !claiming
            && !resting
            && self.may_lease()
            && !self.space.asks.contains_key(&pool)
        {
            let want = self.fair(&pool, fill);
            self.ask(
                pool,
                Ask::Space {
                    within: pool,
                    want,
                    urgent: false,
                },
                false,
            );
        }
    }

    /// Half of what each host would have of a pool if all had the same.
    pub(super) fn part(&self, pool: &IpNet) -> u64 {
        let bits = pool.max_prefix_len() - pool.prefix_len();
        let size = 1_u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX);
        let hosts = self.charter().hosts.len() as u64;
        size / (2 * hosts.max(1))
    }

    /// How many addresses to ask for: as many again as are in use, and until this host has its part of the pool what it
    /// lacks of that.
    pub(super) fn fair(&self, pool: &IpNet, fill: Fill) -> u64 {
        let lacks = self
            .part(pool)
            .saturating_sub(fill.leased.saturating_add(fill.free));
        let again = match fill.leased {
            0 => 1,
            leased => leased.max(4),
        };
        lacks.max(again).min(1 << 16)
    }

    pub(in crate::node) fn wish_space(&mut self, ticket: u64, pool: IpNet, within: IpNet) {
        if !self.charter().pools.contains_key(&pool) {
            return self.done(ticket, Err(format!("pool {pool} is none of the cluster's")));
        }
        if let Some(why) = self.why_none_now() {
            return self.done(ticket, Err(why));
        }
        let fill = self.space.own_fill(&pool).unwrap_or_default();
        let want = self.fair(&pool, fill);
        self.ask(
            pool,
            Ask::Space {
                within,
                want,
                urgent: true,
            },
            true,
        );
    }

    pub(in crate::node) fn wish_address(&mut self, ticket: u64, pool: IpNet, address: IpAddr) {
        let own = self.space.own.get(&pool);
        if own.is_some_and(|share| share.leases(address)) {
            return self.done(ticket, Ok(()));
        }
        if let Some(why) = self.why_none_now() {
            return self.done(ticket, Err(why));
        }
        match self.owner_of(&pool, address) {
            Some(owner) if owner == self.me => {}
            Some(owner) if self.is_alive(&owner) => self.ask_owner(pool, address),
            _ => {
                let why = self.why_not_given(pool, address, "it can't be asked");
                self.done(ticket, Err(why));
            }
        }
    }

    /// Why this host can't get more of any pool now, if it can't.
    pub(super) fn why_none_now(&self) -> Option<String> {
        if self.space.leaving.is_some() || self.is_going() {
            return Some("this host is about to leave the cluster".to_owned());
        }
        (!self.is_sure()).then(|| self.why_not_sure())
    }

    /// Asks the owner of an address for it, if it is there.
    pub(super) fn ask_owner(&mut self, pool: IpNet, address: IpAddr) {
        let owner = self.owner_of(&pool, address);
        let Some(to) = owner.filter(|owner| *owner != self.me && self.is_alive(owner)) else {
            return;
        };
        let ticket = self.ticket();
        let ask = Ask::Address(address);
        let asking = Asking {
            ticket,
            ask,
            to,
            until: self.now + ASK,
            tried: BTreeSet::from([to]),
            behind: false,
            urgent: true,
        };
        self.space.asks.insert(pool, asking);
        self.send(to, Frame::Ask { ticket, pool, ask });
    }
}
