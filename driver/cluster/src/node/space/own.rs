//! Our own shares: what their owner is asked, what it did, and what was decided of them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::prefix::{common, overlap, subtract};
use tombolo_ipam::share::{Deal, Gift, Share, Standing, claims};

use super::{BALKED, Claiming, json, share_key, witness_key};
use crate::node::{Fill, Node, Output};
use crate::wire::Frame;

impl Node {
    /// Asks the owner of the shares, once for the same thing.
    pub(super) fn deal_once(&mut self, pool: IpNet, deal: Deal) {
        if !self.is_member(&self.me) && deal != Deal::Void {
            return;
        }
        if !self.is_sure() && deal != Deal::Void {
            // A share that isn't confirmed stays as it is: a later revision of an earlier state would hide that. But there
            // has to be one, or all of the pool could be leased.
            let first = matches!(deal, Deal::Grant { .. }) && !self.space.own.contains_key(&pool);
            if !first {
                return;
            }
        }
        let what = format!("{deal:?}");
        let dealing = self
            .space
            .dealing
            .values()
            .any(|(of, same)| *of == pool && *same == what);
        let barren = self.space.barren.contains(&(pool, what.clone()));
        let balked = self.space.balked.contains_key(&(pool, what.clone()));
        if !dealing && !barren && !balked {
            let ticket = self.deal(pool, deal);
            self.space.dealing.insert(ticket, (pool, what));
        }
    }

    /// The owner of the shares has done something, or refused.
    pub(in crate::node) fn shared(&mut self, pool: IpNet, ticket: u64, share: Result<Option<Share>, String>) {
        let dealt = self.space.dealing.remove(&ticket);
        let share = match share {
            Ok(share) => share,
            Err(why) => {
                if let Some(dealt) = dealt {
                    self.space.balked.insert(dealt, self.now + BALKED);
                }
                if let Some((to, theirs)) = self.space.gives.remove(&ticket) {
                    self.send(
                        to,
                        Frame::Told {
                            ticket: theirs,
                            pool,
                            given: Err(why),
                        },
                    );
                }
                return;
            }
        };
        // What changed nothing would change nothing again, until something else does.
        let before = self.space.own.get(&pool).map(|own| own.revision);
        let same = before == share.as_ref().map(|share| share.revision);
        match dealt.filter(|_| same) {
            Some(dealt) => drop(self.space.barren.insert(dealt)),
            None => self.space.barren.retain(|(of, _)| *of != pool),
        }
        let row = share.as_ref().map(json);
        self.space.stale.insert(pool);
        match &share {
            Some(share) => drop(self.space.own.insert(pool, share.clone())),
            None => drop(self.space.own.remove(&pool)),
        }
        self.set_row(&share_key(&pool), row.as_deref());
        if let Some(share) = &share {
            self.raise(pool, share);
        }
        if let Some((to, theirs)) = self.space.gives.remove(&ticket) {
            let given = share
                .clone()
                .ok_or_else(|| "this host has no share of it".to_owned());
            self.send(
                to,
                Frame::Told {
                    ticket: theirs,
                    pool,
                    given,
                },
            );
        }
        self.space.claims.retain(|(of, net), claim| {
            let piece = share
                .as_ref()
                .filter(|_| *of == pool)
                .map(|share| share.pieces.get(net));
            piece.is_none_or(|piece| piece.is_some_and(|piece| !piece.settled && piece.seq == claim.seq))
        });
        for (net, piece) in share
            .iter()
            .flat_map(|share| &share.pieces)
            .filter(|(_, piece)| !piece.settled)
        {
            let (now, round) = (self.now, self.ticket());
            let claiming = || Claiming {
                seq: piece.seq,
                round,
                got: BTreeSet::new(),
                next: now,
            };
            self.space.claims.entry((pool, *net)).or_insert_with(claiming);
        }
        self.settle_wishes(pool);
        let known: Vec<HostId> = self.holders(&pool);
        for host in known {
            self.react(pool, host);
        }
        self.space_tick();
    }

    /// What this host has networks on, and how full.
    pub(in crate::node) fn pools(&mut self, fills: BTreeMap<IpNet, Fill>) {
        for (pool, fill) in &fills {
            if fill.used {
                self.space.idle.remove(pool);
                self.space.wanted.remove(pool);
                self.space.begun.remove(pool);
            }
        }
        self.space.fills = fills;
        self.space.stale.clear();
        self.enter_pools();
    }

    /// Where this host has a network on a pool of the cluster's and no share of it, an empty one comes about, so that nothing
    /// is leased there. It may have wished for the pool in vain, and others founded it.
    pub(super) fn enter_pools(&mut self) {
        if !self.is_member(&self.me) {
            return;
        }
        let used = |pool: &IpNet| self.space.fills.get(pool).is_some_and(|fill| fill.used);
        let pools = self.council.charter().pools.iter();
        let entered: Vec<(IpNet, u64)> = pools
            .filter(|(pool, founded)| {
                founded.founder != self.me && used(pool) && !self.space.own.contains_key(*pool)
            })
            .map(|(pool, founded)| (*pool, founded.at))
            .collect();
        for (pool, at) in entered {
            self.enter(pool, at);
        }
    }

    /// An empty share of a pool comes about that was founded by that decree, so that nothing is leased but what is given.
    pub(super) fn enter(&mut self, pool: IpNet, at: u64) {
        let (pieces, gifts) = (Vec::new(), Vec::new());
        self.deal_once(pool, Deal::Grant { at, pieces, gifts });
    }

    /// What was decided has changed: take what is granted, drop what is void.
    pub(in crate::node) fn space_charter(&mut self) {
        let charter = self.council.charter().clone();
        self.enter_pools();
        let pools = &charter.pools;
        self.space.defined.retain(|pool, _| pools.contains_key(pool));
        for (pool, founded) in pools {
            let known = self.space.defined.get(pool).map(|(definition, _)| definition);
            if known != Some(&founded.definition) {
                let definition = founded.definition.clone();
                self.space.defined.insert(*pool, (definition, self.now));
            }
        }
        self.space.read.retain(|host, _| charter.hosts.contains_key(host));
        self.space.count_read(&charter, self.me);
        let me_gone = !charter.hosts.contains_key(&self.me);
        let pools: Vec<IpNet> = self.space.own.keys().copied().collect();
        for pool in pools {
            let applied = self.space.own.get(&pool).map_or(0, |share| share.applied);
            let stands = charter
                .pools
                .get(&pool)
                .is_some_and(|founded| founded.at <= applied);
            if me_gone || !stands {
                self.deal_once(pool, Deal::Void);
            }
        }
        self.space.known.retain(|(pool, host), share| {
            let founded = charter.pools.get(pool);
            charter.hosts.contains_key(host) && founded.is_some_and(|founded| founded.at <= share.applied)
        });
        let stale: Vec<(IpNet, HostId)> = self
            .space
            .kept
            .keys()
            .copied()
            .filter(|key| !self.space.known.contains_key(key))
            .collect();
        if !stale.is_empty() {
            let forget = stale
                .iter()
                .map(|(pool, host)| (witness_key(pool, host), None))
                .collect();
            self.out.push_back(Output::Keep(forget));
            self.space.kept.retain(|key, _| !stale.contains(key));
        }
        self.space
            .others
            .retain(|(pool, host), _| charter.hosts.contains_key(host) && charter.pools.contains_key(pool));
        self.space
            .told_fills
            .retain(|pool, _| charter.pools.contains_key(pool));
        if me_gone {
            return;
        }
        if self.space.held_off && !self.is_going() {
            self.space.held_off = false;
            self.react_to_all();
        }
        if self.space.since != charter.members_since() {
            self.space.since = charter.members_since();
            for claim in self.space.claims.values_mut() {
                claim.got.clear();
                claim.next = self.now;
            }
        }
        let me = self.me;
        for grant in charter.grants.iter().filter(|grant| grant.to == me) {
            if self
                .space
                .own
                .get(&grant.pool)
                .is_none_or(|share| share.applied < grant.at)
            {
                let deal = Deal::Grant {
                    at: grant.at,
                    pieces: grant.pieces.clone(),
                    gifts: grant.gifts.clone(),
                };
                self.deal_once(grant.pool, deal);
            }
        }
    }

    /// Gifts whose recipients are no more, or that we inherited and are to ourselves: whoever has the piece under a later
    /// number has it; what nobody has is ours again. That is known once a majority was read since the members changed.
    pub(super) fn orphans_tick(&mut self) {
        let orphans = self.orphans();
        if orphans.is_empty() || self.is_unread() {
            return;
        }
        for (pool, net, gift) in orphans {
            let mut left = vec![net];
            for taken in self.later_than(&pool, &net, &gift) {
                left = left.iter().flat_map(|part| subtract(*part, taken)).collect();
                if let Some(part) = common(net, taken) {
                    self.deal_once(pool, Deal::Done(part, gift.seq));
                }
            }
            for part in left {
                self.deal_once(pool, Deal::Regain(part, gift.seq));
            }
        }
    }

    pub(super) fn orphans(&self) -> Vec<(IpNet, IpNet, Gift)> {
        let charter = self.council.charter();
        let me = self.me;
        let orphan = |to: &HostId| *to == me || !charter.hosts.contains_key(to);
        let gifts = self
            .space
            .own
            .iter()
            .flat_map(|(pool, share)| share.gifts.iter().map(move |(net, gift)| (*pool, *net, *gift)));
        gifts.filter(|(_, _, gift)| orphan(&gift.to)).collect()
    }

    /// What of a given piece somebody has under a later number, or settled under the same.
    pub(super) fn later_than(&self, pool: &IpNet, net: &IpNet, gift: &Gift) -> Vec<IpNet> {
        let later = claims(self.space.all_of(*pool, self.me), *net).filter(|claim| {
            claim.seq > gift.seq || claim.seq == gift.seq && claim.standing == Standing::Settled
        });
        let founded = self.charter().pools.get(pool).into_iter();
        let decreed = founded.flat_map(|founded| founded.above(*net, gift.seq));
        let later = later.map(|claim| claim.net);
        later
            .filter(|piece| overlap(*piece, *net))
            .chain(decreed)
            .collect()
    }
}
