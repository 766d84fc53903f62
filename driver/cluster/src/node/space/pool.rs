//! Pools: founding them, saying what they are, and giving back what is of no use.

use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::prefix::overlap;
use tombolo_ipam::share::Deal;

use super::{BEGUN, FILL, IDLE, fill_key, json};
use crate::charter::{Decree, Definition};
use crate::node::{Fill, Node, Wish};

impl Node {
    pub(super) fn tell_fill(&mut self, pool: IpNet, fill: Fill) {
        let due = match self.space.told_fills.get(&pool) {
            None => fill != Fill::default(),
            Some((told, at)) => *told != fill && *at + FILL <= self.now,
        };
        if due {
            self.space.told_fills.insert(pool, (fill, self.now));
            self.set_row(&fill_key(&pool), Some(&json(&fill)));
        }
    }

    /// Gives a share back that this host has no use for; the last one who has all of it ends the pool.
    pub(super) fn give_back(&mut self, pool: IpNet) {
        let share = self.space.own.get(&pool).filter(|share| !share.pieces.is_empty());
        let Some(share) = share.filter(|_| self.space.leaving.is_none()) else {
            self.space.idle.remove(&pool);
            return;
        };
        let since = *self.space.idle.entry(pool).or_insert(self.now);
        if self.now.since(since) < IDLE {
            return;
        }
        self.space.idle.insert(pool, self.now);
        let holders = self.holders(&pool);
        let user = self.user(&pool);
        // Where nobody uses it, the holders agree without a word on who collects it.
        let lowest = holders.into_iter().filter(|host| self.holds(&pool, host)).min();
        let heir = user.or_else(|| lowest.filter(|host| *host < self.me && self.is_alive(host)));
        let all = share.gifts.is_empty() && share.pieces.contains_key(&pool) && share.settled().count() == 1;
        match heir {
            Some(heir) => self.deal_once(pool, Deal::GiveAll(heir)),
            None if all => {
                let ticket = self.ticket();
                let until = self.now + Duration::from_secs(5);
                let decree = Decree::Dissolve { pool, by: self.me };
                self.propose(ticket, decree, until);
            }
            None => {}
        }
    }

    /// Somebody who is there and has a network on a pool.
    pub(super) fn user(&self, pool: &IpNet) -> Option<HostId> {
        let used = |host: &HostId| self.space.fill(pool, host).is_some_and(|fill| fill.used);
        let mut alive = self.membership.alive().map(|seat| seat.host);
        alive.find(used)
    }

    pub(super) fn holds(&self, pool: &IpNet, host: &HostId) -> bool {
        let share = self.space.known.get(&(*pool, *host));
        share.is_some_and(|share| !share.pieces.is_empty())
    }

    pub(in crate::node) fn wish_pool(&mut self, ticket: u64, pool: IpNet, definition: Definition) {
        if let Some(founded) = self.charter().pools.get(&pool).cloned() {
            let conflict = founded.conflict(&definition);
            if let Some((field, theirs, ours)) =
                conflict.as_ref().filter(|_| self.is_used(&pool, &definition))
            {
                let founder = self.name(&founded.founder);
                let why = format!(
                    "pool {pool} is the cluster's already, founded by host {founder} with {field} {theirs}; here it is {ours}: \
                     use the same on every host, or another subnet"
                );
                return self.done(ticket, Err(why));
            }
            self.space.wanted.insert(pool, self.now + Duration::from_secs(60));
            if !founded.has(&definition) {
                let (by, before) = (self.me, founded.definition);
                let net = definition.net.or_else(|| before.net.clone());
                let definition = Box::new(Definition { net, ..definition });
                let before = Box::new(before);
                let decree = Decree::Define {
                    pool,
                    by,
                    before,
                    definition,
                };
                return self.decree(ticket, decree);
            }
            return self.pool_founded(ticket, pool);
        }
        if let Some((other, founded)) = self.charter().pools.iter().find(|(net, _)| overlap(**net, pool)) {
            let founder = self.name(&founded.founder);
            let why = format!(
                "pool {pool} overlaps the cluster's pool {other}, founded by host {founder}: choose another subnet"
            );
            return self.done(ticket, Err(why));
        }
        let founder = self.me;
        self.decree(
            ticket,
            Decree::Found {
                pool,
                founder,
                definition,
            },
        );
    }

    /// Whether somebody has a network on a pool, but for the one that is wished for. One that is to be made here has an
    /// address pool of ours already; one of which only the name is known has not.
    pub(super) fn is_used(&self, pool: &IpNet, wished: &Definition) -> bool {
        let ours = self.space.own_fill(pool).is_some_and(|fill| fill.used);
        let mut fills = self.space.others.iter();
        // Who has just defined it may not have told yet that it has a network there.
        let defined = self.space.defined.get(pool);
        let lately = defined.is_some_and(|(_, at)| self.now.since(*at) < BEGUN);
        lately || ours && wished.kind.is_empty() || fills.any(|((of, _), fill)| of == pool && fill.used)
    }

    /// A pool is one of the cluster's; the wish for it ends when what it grants us is in our share.
    pub(in crate::node) fn pool_founded(&mut self, ticket: u64, pool: IpNet) {
        let at = self
            .charter()
            .pools
            .get(&pool)
            .map(|founded| (founded.at, founded.founder));
        let applied = self.space.own.get(&pool).map_or(0, |share| share.applied);
        match at {
            // An empty share, so that nothing is leased of the pool but what is given to us.
            Some((at, founder)) if applied < at && founder != self.me => self.enter(pool, at),
            Some((at, _)) if applied < at => {}
            Some(_) => {
                let wish = self.wishes.get(&ticket).map(|pending| &pending.wish);
                if matches!(wish, Some(Wish::Pool(_, definition)) if !definition.kind.is_empty()) {
                    self.space.begun.insert(pool, self.now + BEGUN);
                }
                self.done(ticket, Ok(()));
            }
            None => self.done(
                ticket,
                Err(format!(
                    "pool {pool} was given up by the cluster meanwhile: try again"
                )),
            ),
        }
    }

    /// Ends the wishes that a change of our share fulfils.
    pub(super) fn settle_wishes(&mut self, pool: IpNet) {
        let wishes: Vec<(u64, Wish, u64)> = self
            .wishes
            .iter()
            .map(|(ticket, pending)| (*ticket, pending.wish.clone(), pending.had))
            .collect();
        for (ticket, wish, had) in wishes {
            let own = self.space.own.get(&pool);
            match wish {
                Wish::Pool(of, definition) if of == pool => {
                    let founded = self.charter().pools.get(&pool);
                    // What differs is being decided.
                    if founded.is_some_and(|founded| founded.has(&definition)) {
                        self.pool_founded(ticket, pool);
                    }
                }
                Wish::Address(of, address)
                    if of == pool && own.is_some_and(|share| share.leases(address)) =>
                {
                    self.done(ticket, Ok(()));
                }
                Wish::Space { pool: of, within } if of == pool => {
                    let claiming = self.space.claiming(&pool);
                    let asking = self.space.asks.contains_key(&pool);
                    // What was there before is used up.
                    let settled = own.is_some_and(|share| {
                        share.revision > had && share.settled().any(|(net, _)| overlap(net, within))
                    });
                    if settled && !claiming && !asking {
                        self.done(ticket, Ok(()));
                    }
                }
                _ => {}
            }
        }
    }
}
