//! What is known of others' shares, and what follows from it for ours.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Deal, Share, Standing, claims, mended};

use super::{FILL_KEY, READING, SHARE, witness_key};
use crate::node::sync::Purpose;
use crate::node::{Fill, Node, Output};
use crate::store::{Whose, life};
use crate::table::{Key, Seen};
use crate::wire::{Frame, Holding, Request, encode};

impl Node {
    /// What is known of a host's own shares here.
    pub(in crate::node) fn shares_of(&self, host: &HostId) -> BTreeMap<IpNet, Share> {
        let of_host = self.space.known.iter().filter(|((_, of), _)| of == host);
        of_host.map(|((pool, _), share)| (*pool, share.clone())).collect()
    }

    /// All shares that are known here, our own among them.
    pub(in crate::node) fn all_shares(&self) -> Vec<(IpNet, HostId, Share)> {
        let own = self
            .space
            .own
            .iter()
            .map(|(pool, share)| (*pool, self.me, share.clone()));
        let known = self
            .space
            .known
            .iter()
            .map(|((pool, host), share)| (*pool, *host, share.clone()));
        own.chain(known).collect()
    }

    /// Another host holds the same of everybody's shares, with so many decrees known to it.
    pub(in crate::node) fn read_shares(&mut self, from: HostId, index: u64) {
        // What is read counts once it can't be forgotten any more.
        self.keep_known();
        let read = self.space.read.entry(from).or_default();
        let more = *read < index;
        *read = (*read).max(index);
        if more && !self.space.enough {
            self.space.count_read(self.council.charter(), self.me);
        }
    }

    /// Keeps all that is known of others' shares.
    pub(super) fn keep_known(&mut self) {
        let known = self.space.known.keys().copied().collect();
        self.keep(known);
    }

    /// Keeps what is known of these shares, as far as it isn't kept.
    pub(super) fn keep(&mut self, whose: Vec<(IpNet, HostId)>) {
        let mut records = Vec::new();
        for (pool, host) in whose {
            let kept = self.space.kept.get(&(pool, host)).copied();
            let share = self.space.known.get(&(pool, host));
            let fresh = share.filter(|share| kept.is_none_or(|kept| kept < share.revision));
            let Some((revision, record)) = fresh.map(|share| (share.revision, encode(share))) else {
                continue;
            };
            self.space.kept.insert((pool, host), revision);
            records.push((witness_key(&pool, &host), Some(record)));
        }
        if !records.is_empty() {
            self.out.push_back(Output::Keep(records));
        }
    }

    /// Gets what another host holds of everybody's shares.
    pub(in crate::node) fn fetch_shares(&mut self, from: HostId) {
        let asked = self
            .calls
            .values()
            .any(|call| call.to == from && call.what == Purpose::AllShares);
        if !asked {
            self.call(from, &Request::AllShares, Purpose::AllShares);
        }
    }

    /// Takes what another host holds of everybody's shares.
    pub(in crate::node) fn take_shares(&mut self, from: HostId, holding: Holding) {
        let mut own = BTreeMap::new();
        for (pool, host, share) in holding.shares {
            match host == self.me {
                true => drop(own.insert(pool, share)),
                false => self.learn_share(pool, host, share),
            }
        }
        self.shares_elsewhere(own);
        match holding.sure {
            true => self.read_shares(from, holding.index),
            false => self.keep_known(),
        }
    }

    /// What this host holds of everybody's shares.
    pub(in crate::node) fn holding(&self) -> Holding {
        Holding {
            index: self.charter().index,
            sure: self.is_sure(),
            shares: self.all_shares(),
        }
    }

    /// Whether shares have to be read since the members have changed: before they change again, and where a store decides,
    /// for what was given to somebody who is gone.
    pub(super) fn is_unread(&self) -> bool {
        match self.by_store() {
            true => !self.has_read_store() && !self.orphans().is_empty(),
            false => !self.space.has_read(),
        }
    }

    /// Reads the shares of others after the members have changed: before they change again, what a majority of the earlier
    /// ones had in mind must be known to a majority of the present ones.
    pub(super) fn read_tick(&mut self) {
        if self.space.reading > self.now || !self.is_unread() {
            return;
        }
        self.space.reading = self.now + READING;
        if self.by_store() {
            return self.read_store();
        }
        let since = self.charter().members_since();
        let unread = |host: &HostId| self.space.read.get(host).is_none_or(|index| *index < since);
        let mut hosts: Vec<HostId> = self
            .membership
            .alive()
            .map(|seat| seat.host)
            .filter(unread)
            .collect();
        let start = self.pick(hosts.len());
        hosts.rotate_left(start);
        let digest = self.digest();
        for host in hosts.into_iter().take(64) {
            self.send(host, Frame::Digest(digest));
        }
    }

    /// Learns from rows that are there already.
    pub(in crate::node) fn learn_rows(&mut self) {
        let ours = |key: &Key| {
            let key = key.as_str();
            key.starts_with(SHARE) || key.starts_with(FILL_KEY)
        };
        let rows = self.table.visible().filter(|(_, key, _)| ours(key));
        let rows = rows.map(|(origin, key, body)| Seen {
            origin,
            key: key.clone(),
            before: None,
            after: Some(body.clone()),
        });
        let rows: Vec<Seen> = rows.collect();
        self.see_shares(&rows);
    }

    /// Rows of others that were seen to change.
    pub(in crate::node) fn see_shares(&mut self, seen: &[Seen]) {
        let me = self.me;
        for row in seen.iter().filter(|row| row.origin != me) {
            let Some(body) = &row.after else { continue };
            let pool =
                |prefix: &str| -> Option<IpNet> { row.key.as_str().strip_prefix(prefix)?.parse().ok() };
            if let Some(pool) = pool(SHARE) {
                match serde_json::from_slice::<Share>(body) {
                    Ok(share) => self.learn_share(pool, row.origin, share),
                    Err(_) => *self.strange.entry(row.origin).or_default() += 1,
                }
            } else if let Some(pool) = pool(FILL_KEY) {
                match serde_json::from_slice::<Fill>(body) {
                    Ok(fill) => {
                        let before = self.space.others.insert((pool, row.origin), fill);
                        self.space.said_no.remove(&(pool, row.origin));
                        self.space.ask_anew(pool, row.origin);
                        if before.is_none_or(|before| before.free < fill.free) {
                            self.space.rest.remove(&pool);
                        }
                    }
                    Err(_) => *self.strange.entry(row.origin).or_default() += 1,
                }
            }
        }
    }

    /// Takes another host's share, if it is later than what is known of it. While it is being decided whether to forget
    /// that host, nothing later is learned of it: the decision rests on what was told.
    pub(super) fn learn_share(&mut self, pool: IpNet, host: HostId, share: Share) {
        if self.council.frozen(host) {
            return;
        }
        let founded = self
            .charter()
            .pools
            .get(&pool)
            .map_or(u64::MAX, |founded| founded.at);
        let later = self
            .space
            .known
            .get(&(pool, host))
            .is_none_or(|known| known.revision < share.revision);
        // What its owner has told nobody before its disk was set back is void.
        let later = later && life(&share) >= self.confirm_life(&host);
        if later && self.is_member(&host) && share.applied >= founded {
            let (share, misfits) = mended(pool, share);
            if !misfits.is_empty() {
                // What no share can have is nobody's, whoever says so.
                *self.strange.entry(host).or_default() += 1;
            }
            self.space.barren.retain(|(of, _)| *of != pool);
            self.space.known.insert((pool, host), share);
            self.space.ask_anew(pool, host);
            self.react(pool, host);
        }
    }

    /// What follows for us from everybody's shares.
    pub(in crate::node) fn react_to_all(&mut self) {
        let known: Vec<(IpNet, HostId)> = self.space.known.keys().copied().collect();
        for (pool, host) in known {
            self.react(pool, host);
        }
    }

    /// What follows for us from another host's share.
    pub(super) fn react(&mut self, pool: IpNet, host: HostId) {
        let Some(theirs) = self.space.known.get(&(pool, host)) else {
            return;
        };
        let Some(founded) = self.charter().pools.get(&pool) else {
            return;
        };
        let at = founded.at;
        let empty = Share::default();
        let own = self.space.own.get(&pool).unwrap_or(&empty);
        let mut deals = Vec::new();
        // Who has asked to be let go takes nothing more: it is the giver's again. It may have asked in an earlier life.
        let going = self.is_going();
        let gifts = theirs.gifts.iter().filter(|_| !going);
        for (net, gift) in gifts.filter(|(_, gift)| gift.to == self.me) {
            // What anybody has under a higher number there makes the gift void, or it was taken and passed on already.
            let own_rows = std::iter::once((self.me, own));
            let later = claims(own_rows, *net).any(|claim| claim.seq >= gift.seq);
            if !later && !self.is_void(&pool, net, gift.seq) {
                deals.push(Deal::Claim(*net, gift.seq));
            }
        }
        for (net, gift) in &own.gifts {
            // Settled there, or passed on from there to whomever: it has arrived.
            let rows = std::iter::once((host, theirs));
            let arrived = claims(rows, *net).any(|claim| {
                let settled = claim.seq == gift.seq && claim.standing == Standing::Settled;
                claim.seq > gift.seq || settled && gift.to == host
            });
            if arrived {
                deals.push(Deal::Done(*net, gift.seq));
            }
        }
        let claims = deals.iter().any(|deal| matches!(deal, Deal::Claim(..)));
        let begins = !deals.is_empty() && own.applied < founded.at;
        if claims {
            // We are among those who must not forget the gift.
            self.keep(vec![(pool, host)]);
        }
        if begins {
            // The share begins with the founding that it belongs to.
            self.enter(pool, at);
        }
        for deal in deals {
            self.deal_once(pool, deal);
        }
        self.space.held_off |= going;
    }

    /// Takes what the store has of others' shares.
    pub(in crate::node) fn learn_stored(&mut self, shares: BTreeMap<Whose, Share>) {
        for ((pool, host), share) in shares {
            if host != self.me {
                self.learn_share(pool, host, share);
            }
        }
    }
}
