//! Claims: a piece that was given to us is ours when a majority has both shares in mind.

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::{Deal, Share, claims};

use super::{WITNESS, majority};
use crate::node::Node;
use crate::store::{Claim, life};
use crate::time::Tick;
use crate::wire::Frame;

impl Node {
    /// Is asked to keep two shares in mind.
    pub(in crate::node) fn witness(
        &mut self,
        from: HostId,
        round: u64,
        pool: IpNet,
        giver: HostId,
        gave: Share,
        mine: Share,
    ) {
        // Who may have forgotten something can't be relied on to remember.
        if !self.is_sure() {
            return;
        }
        let mut keep = Vec::new();
        for (host, share) in [(giver, gave), (from, mine)] {
            if host == self.me {
                let own = self.space.own.get(&pool);
                if own.is_none_or(|own| own.revision < share.revision || life(own) != life(&share)) {
                    return;
                }
                continue;
            }
            let known = self
                .space
                .known
                .get(&(pool, host))
                .map_or(0, |known| known.revision);
            if known < share.revision {
                self.learn_share(pool, host, share.clone());
            }
            let known = self.space.known.get(&(pool, host));
            if known.is_none_or(|known| known.revision < share.revision) {
                return;
            }
            keep.push((pool, host));
        }
        // What was passed on since, to whomever, isn't claimed again by who doesn't know of that.
        let known = self.space.known.get(&(pool, from));
        let claimed = known.into_iter().flat_map(|share| &share.pieces);
        let mut claimed = claimed.filter(|(_, piece)| !piece.settled);
        if claimed.any(|(net, piece)| self.is_void(&pool, net, piece.seq)) {
            return;
        }
        self.keep(keep);
        let since = self.charter().members_since();
        self.send(from, Frame::Witnessed { round, since });
    }

    /// Somebody keeps a claim of ours in mind.
    pub(in crate::node) fn witnessed(&mut self, from: HostId, round: u64, since: u64) {
        // Among other members another majority would count.
        if since != self.charter().members_since() {
            return;
        }
        let needed = majority(self.charter().hosts.len());
        let Some((key, claim)) = self
            .space
            .claims
            .iter_mut()
            .find(|(_, claim)| claim.round == round)
        else {
            return;
        };
        claim.got.insert(from);
        let ((pool, net), seq, got) = (*key, claim.seq, claim.got.clone());
        let members = got.iter().filter(|host| self.is_member(host)).count();
        // We ourselves keep it in mind as well.
        if members + 1 >= needed {
            self.deal_once(pool, Deal::Settle(net, seq));
        }
    }

    /// Has claims kept in mind by those who have not said so yet.
    pub(super) fn claims_tick(&mut self) {
        let due: Vec<(IpNet, IpNet)> = self
            .space
            .claims
            .iter()
            .filter(|(_, claim)| claim.next <= self.now)
            .map(|(key, _)| *key)
            .collect();
        for (pool, net) in due {
            let needed = majority(self.charter().hosts.len());
            let giver = self.giver(&pool, &net);
            let Some(claim) = self.space.claims.get_mut(&(pool, net)) else {
                continue;
            };
            claim.next = self.now + WITNESS;
            let (seq, round, got) = (claim.seq, claim.round, claim.got.clone());
            if self.is_void(&pool, &net, seq) {
                self.deal_once(pool, Deal::Disclaim(net, seq));
                continue;
            }
            let Some((giver, gave)) = giver else { continue };
            let Some(mine) = self.space.own.get(&pool).cloned() else {
                continue;
            };
            if self.council.charter().by_store {
                let claim = Claim {
                    pool,
                    net,
                    seq,
                    giver,
                    gave,
                    claimer: self.me,
                    mine,
                };
                self.witness_by_store(round, claim);
                continue;
            }
            let mut others: Vec<HostId> = self
                .charter()
                .hosts
                .keys()
                .copied()
                .filter(|host| *host != self.me && !got.contains(host) && self.is_alive(host))
                .collect();
            // A few more than are needed, beginning anywhere: some may be slow.
            let start = self.pick(others.len());
            others.rotate_left(start);
            let lack = needed.saturating_sub(1 + got.len());
            for host in others.into_iter().take(lack + lack / 4 + 2) {
                let frame = Frame::Witness {
                    round,
                    pool,
                    giver,
                    gave: gave.clone(),
                    mine: mine.clone(),
                };
                self.send(host, frame);
            }
            if got.len() + 1 >= needed {
                self.deal_once(pool, Deal::Settle(net, seq));
            }
        }
    }

    /// A claim of ours is in the store with the gift, or not: then it is tried again at a time.
    pub(in crate::node) fn claim_stored(&mut self, round: u64, again: Option<Tick>) {
        let mut claims = self.space.claims.iter_mut();
        let Some((key, claim)) = claims.find(|(_, claim)| claim.round == round) else {
            return;
        };
        let ((pool, net), seq) = (*key, claim.seq);
        match again {
            Some(at) => claim.next = at,
            None => self.deal_once(pool, Deal::Settle(net, seq)),
        }
    }

    /// Whose gift a claim of ours is.
    pub(super) fn giver(&self, pool: &IpNet, net: &IpNet) -> Option<(HostId, Share)> {
        let of_pool = self
            .space
            .known
            .iter()
            .filter(|((of, host), _)| of == pool && self.is_member(host));
        let gift = |share: &Share| share.gifts.get(net).is_some_and(|gift| gift.to == self.me);
        of_pool
            .into_iter()
            .find(|(_, share)| gift(share))
            .map(|((_, host), share)| (*host, share.clone()))
    }

    /// Whether a gift or a claim is void: somebody else has the piece under a higher number.
    pub(super) fn is_void(&self, pool: &IpNet, net: &IpNet, seq: u64) -> bool {
        let founded = self.charter().pools.get(pool);
        founded.is_some_and(|founded| founded.above(*net, seq).next().is_some())
            || claims(self.space.known_of(*pool), *net).any(|claim| claim.seq > seq)
    }
}
