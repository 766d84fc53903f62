//! Leaving the cluster: shares go to others first.

use std::time::Duration;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::share::Deal;

use super::{LEAVE, majority};
use crate::charter::Decree;
use crate::node::Node;

impl Node {
    /// This host wants to leave: its shares go to others first.
    pub(in crate::node) fn wish_leave(&mut self, ticket: u64) {
        let out = !self.is_member(&self.me);
        if let Some((pool, _)) = self.space.fills.iter().find(|(_, fill)| fill.used && !out) {
            let why = format!(
                "this host has a network on the cluster's pool {pool}: remove it first (docker network rm)"
            );
            return self.done(ticket, Err(why));
        }
        if let Some(pending) = self.wishes.get_mut(&ticket) {
            pending.until = self.now + Duration::from_secs(20);
        }
        self.space.leaving = Some(ticket);
        self.space.gone = false;
        self.space.objected = None;
        // It may have come out before, and others not have heard of it.
        self.space.out = out;
        self.leave_tick();
    }

    /// Others know of something that stands in the way of our leaving. It may be that they haven't heard the latest.
    pub(in crate::node) fn leave_later(&mut self, why: String) {
        self.stay();
        self.space.objected = Some((why, self.now + LEAVE));
    }

    /// Whether it may be decided any moment that this host leaves.
    pub(super) fn is_going(&self) -> bool {
        self.space.gone || self.council.may_leave()
    }

    /// Leaving isn't proposed any more, and what was given to us meanwhile is taken.
    pub(super) fn stay(&mut self) {
        self.space.gone = false;
        self.react_to_all();
    }

    /// Why others objected to our leaving last.
    pub(in crate::node) fn why_not_left(&self) -> Option<String> {
        self.space.objected.as_ref().map(|(why, _)| why.clone())
    }

    pub(super) fn leave_tick(&mut self) {
        let Some(ticket) = self.space.leaving else { return };
        if self.space.out {
            // Whoever is there is to hear of it, and so many that they can decide without us.
            let untold: Vec<HostId> = self
                .council
                .untold()
                .filter(|host| self.is_member(host))
                .collect();
            let stay = self.charter().hosts.len();
            let few = !self.by_store() && stay - untold.len() < majority(stay);
            let waits = match self.by_store() {
                true => self.store_untold(),
                false => few || untold.iter().any(|host| self.is_alive(host)),
            };
            let until = self.wishes.get(&ticket).map(|pending| pending.until);
            let late = until.is_none_or(|until| until <= self.now + Duration::from_secs(1));
            if late && few {
                self.space.leaving = None;
                let names: Vec<String> = untold.iter().map(|host| self.name(host)).collect();
                let why = format!(
                    "it is decided, but of the hosts that stay too few have heard of it to decide anything without this one: \
                     have {} running and leave again, or have them forgotten first",
                    names.join(", ")
                );
                self.done(ticket, Err(why));
            } else if late || !waits {
                self.membership.leave(self.now);
                self.space.leaving = None;
                self.done(ticket, Ok(()));
            }
            return;
        }
        if !self.wishes.contains_key(&ticket) {
            self.space.leaving = None;
            self.stay();
            return;
        }
        if self.charter().hosts.len() == 1 {
            return self.left(ticket);
        }
        let held: Vec<IpNet> = self
            .space
            .own
            .iter()
            .filter(|(_, share)| !share.pieces.is_empty())
            .map(|(pool, _)| *pool)
            .collect();
        // Only what is settled can be given: asking for the rest would go on without an end.
        let settled = |pool: &&IpNet| {
            let share = self.space.own.get(*pool);
            share.is_some_and(|share| share.settled().next().is_some())
        };
        let give: Vec<IpNet> = held.iter().filter(settled).copied().collect();
        for pool in give {
            if let Some(heir) = self.user(&pool).or_else(|| self.somebody()) {
                self.deal_once(pool, Deal::GiveAll(heir));
            }
        }
        let pending = self.space.own.values().any(|share| !share.gifts.is_empty());
        let early = self.space.objected.as_ref().is_some_and(|(_, at)| *at > self.now);
        let still = held.is_empty() && !pending && self.space.dealing.is_empty();
        if still && !self.space.gone && !early {
            self.space.gone = true;
            let host = self.me;
            self.decree(ticket, Decree::Leave { host });
        }
    }

    /// This host is out.
    pub(in crate::node) fn left(&mut self, ticket: u64) {
        self.space.leaving = Some(ticket);
        self.space.out = true;
        self.leave_tick();
    }
}
