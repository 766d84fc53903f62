//! What the council is asked, what it may ask of this host, and what follows from what it decides.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::prefix::overlap;

use super::{ADMIT_TIME, Heard, News, Node, Output, Pending, WISH_TIME, Wish, confirm, space};
use crate::charter::{Charter, Decree, Held, How, Void};
use crate::council::{Act, Context, Council, Kept, Outcome, Witness, Word};
use crate::time::Tick;
use crate::wire::{Frame, encode};

impl Node {
    pub(super) fn wish(&mut self, ticket: u64, wish: Wish) {
        let until = self.now
            + match &wish {
                Wish::Admit { .. } => ADMIT_TIME,
                _ => WISH_TIME,
            };
        let had = match &wish {
            Wish::Space { pool, .. } => self.space.own().get(pool).map_or(0, |share| share.revision),
            _ => 0,
        };
        self.wishes.insert(
            ticket,
            Pending {
                wish: wish.clone(),
                until,
                had,
            },
        );
        match wish {
            Wish::Pool(pool, definition) => self.wish_pool(ticket, pool, definition),
            Wish::Space { pool, within } => self.wish_space(ticket, pool, within),
            Wish::Address(pool, address) => self.wish_address(ticket, pool, address),
            Wish::Admit { host, name, key } => self.decree(ticket, Decree::Join { host, name, key }),
            Wish::Forget(hosts) => self.wish_forget(ticket, hosts),
            Wish::Secret(number, check) => self.decree(ticket, Decree::Secret { number, check }),
            Wish::Leave => self.wish_leave(ticket),
        }
    }

    pub(super) fn wish_forget(&mut self, ticket: u64, hosts: Vec<HostId>) {
        if hosts.contains(&self.me) {
            return self.done(
                ticket,
                Err("a host can't forget itself: use 'tombolo cluster leave'".to_owned()),
            );
        }
        if let Some(host) = hosts.iter().find(|host| self.is_alive(host)) {
            let why = format!("{} is there: use 'tombolo cluster leave' on it", self.name(host));
            return self.done(ticket, Err(why));
        }
        let heir = self.me;
        self.decree(
            ticket,
            Decree::Forget {
                hosts,
                heir,
                shares: BTreeMap::new(),
            },
        );
    }

    /// Proposes a decree for a wish.
    pub(super) fn decree(&mut self, ticket: u64, decree: Decree) {
        let until = self
            .wishes
            .get(&ticket)
            .map_or(self.now + WISH_TIME, |pending| pending.until);
        self.propose(ticket, decree, until);
    }

    /// Has the store decide until a time, or the council.
    pub(super) fn propose(&mut self, ticket: u64, decree: Decree, until: Tick) {
        if self.by_store() {
            return self.decide_by_store(ticket, decree);
        }
        let acts = self.with_council(|council, now, ctx| council.propose(now, ticket, &decree, until, ctx));
        self.act(acts);
    }

    /// Ends a wish.
    pub(super) fn done(&mut self, ticket: u64, outcome: Result<(), String>) {
        if self.wishes.remove(&ticket).is_some() {
            self.out.push_back(Output::Done { ticket, outcome });
        }
    }

    pub(super) fn why_late(&self, ticket: u64) -> String {
        let charter = self.charter();
        let there = self.membership.alive_count() + 1;
        let reached = format!("{there} of {} hosts are there", charter.hosts.len());
        if let Some(why) = self.store_fault() {
            return why.to_owned();
        }
        match self.wishes.get(&ticket).map(|pending| &pending.wish) {
            Some(Wish::Space { pool, .. }) => self.why_no_space(*pool, &reached),
            Some(Wish::Address(pool, address)) => self.why_not_given(*pool, *address, &reached),
            Some(Wish::Leave) if self.why_not_left().is_some() => self.why_not_left().unwrap_or_default(),
            _ if self.by_store() => "the store has not answered in time: try again".to_owned(),
            _ => format!("not decided in time: {reached}; try again"),
        }
    }

    pub(super) fn hear_word(&mut self, from: HostId, word: Word) {
        if self.by_store() {
            return;
        }
        let acts = self.with_council(|council, now, ctx| council.hear(now, from, word, ctx));
        self.act(acts);
    }

    /// Has the council do something, with what it may ask of the rest.
    pub(super) fn with_council<T>(&mut self, with: impl FnOnce(&mut Council, Tick, Context<'_>) -> T) -> T {
        let alive: BTreeSet<HostId> = self
            .membership
            .alive()
            .map(|seat| seat.host)
            .chain([self.me])
            .collect();
        let eyes = Eyes {
            me: self.me,
            now: self.now,
            heard: &self.heard,
            alive: &alive,
            routes: &self.routes,
            space: &self.space,
            confirm: &self.confirm,
        };
        let context = Context {
            alive: &alive,
            witness: &eyes,
        };
        with(&mut self.council, self.now, context)
    }

    /// Carries out what the council wants.
    pub(super) fn act(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Keep(Kept::Acceptor(acceptor)) => {
                    self.out.push_back(Output::Keep(vec![(
                        "acceptor".to_owned(),
                        Some(encode(&*acceptor)),
                    )]));
                }
                Act::Keep(Kept::Charter(charter)) => {
                    let records = vec![
                        ("charter".to_owned(), Some(encode(&*charter))),
                        ("acceptor".to_owned(), None),
                    ];
                    self.out.push_back(Output::Keep(records));
                }
                // Where a store decides, nobody else is asked.
                Act::Say(..) if self.council.charter().by_store => {}
                Act::Say(to, word) => {
                    for host in to {
                        self.send(host, Frame::Council(word.clone()));
                    }
                }
                Act::Wake(at) => self.council_due = Some(at),
                Act::Done(ticket, outcome) => self.decided(ticket, outcome),
                Act::Changed { .. } => self.charter_changed(),
                Act::Fetch(from) => self.fetch_charter(from),
                Act::Torn { with, slot } => self.out.push_back(Output::Tell(News::Torn { with, slot })),
            }
        }
    }

    pub(super) fn decided(&mut self, ticket: u64, outcome: Outcome) {
        let Some(pending) = self.wishes.get(&ticket) else {
            return;
        };
        let wish = pending.wish.clone();
        match (outcome, wish) {
            // Not before what the decree grants is in the share.
            (Outcome::Decided { .. }, Wish::Pool(pool, _)) => self.pool_founded(ticket, pool),
            (Outcome::Decided { .. }, Wish::Leave) => self.left(ticket),
            (Outcome::Decided { .. }, _) => self.done(ticket, Ok(())),
            // Somebody may have been faster: look again.
            (Outcome::Void { why }, Wish::Pool(pool, definition)) => {
                let faster = match why {
                    Void::DefinedAnew { .. } => true,
                    Void::Overlap { existing, .. } => existing == pool,
                    _ => false,
                };
                match faster && self.charter().pools.contains_key(&pool) {
                    true => self.wish_pool(ticket, pool, definition),
                    false => self.done(ticket, Err(why.to_string())),
                }
            }
            (Outcome::Void { why }, _) => self.done(ticket, Err(why.to_string())),
            (Outcome::Objected { by, why }, wish) => {
                let why = format!("host {} objects: {}", self.name(&by), why.join("; "));
                match wish {
                    Wish::Leave => self.leave_later(why),
                    _ => self.done(ticket, Err(why)),
                }
            }
            (Outcome::NoMajority { reached, of, needed }, _) => {
                let why = format!(
                    "this needs {needed} of {of} hosts, and {reached} answered: see 'tombolo cluster status'"
                );
                self.done(ticket, Err(why));
            }
            (Outcome::Late { .. }, _) => {
                let why = self.why_late(ticket);
                self.done(ticket, Err(why));
            }
            (Outcome::Crowded { most }, _) => {
                self.done(
                    ticket,
                    Err(format!("{most} wishes are being decided already: try again")),
                );
            }
        }
    }

    /// What was decided has changed: by a decree, or because another host knew more.
    pub(super) fn charter_changed(&mut self) {
        let charter = self.council.charter();
        let members: BTreeSet<HostId> = charter.hosts.keys().copied().collect();
        let known: BTreeSet<HostId> = self.table.hosts().map(|(host, ..)| host).collect();
        let size = members.len();
        for host in members.difference(&known) {
            // More hosts than the table takes are there all the same; their rows are not.
            self.table.admit(*host).ok();
            self.out.push_back(Output::Tell(News::Joined(*host)));
        }
        for host in known.difference(&members).filter(|host| **host != self.me) {
            let gone = self
                .council
                .charter()
                .gone
                .get(host)
                .map(|gone| (gone.name.clone(), gone.how));
            let (name, how) = gone.unwrap_or_else(|| (host.to_string(), How::Left));
            self.table.expel(*host);
            self.membership.expel(self.now, host);
            self.down.remove(host);
            self.seats.remove(host);
            self.heard.remove(host);
            self.twice.remove(host);
            self.out.push_back(Output::Tell(match how {
                How::Left => News::Left(*host, name),
                How::Forgotten { .. } => News::Forgotten(*host, name),
            }));
        }
        self.membership.resize(size);
        self.sync_changed();
        self.confirm_charter();
        self.space_charter();
        // What was not to be learned while something was being decided.
        self.learn_rows();
        self.out.push_back(Output::Charter);
    }
}

/// What the council may ask of this host.
struct Eyes<'a> {
    me: HostId,
    now: Tick,
    heard: &'a BTreeMap<HostId, Heard>,
    alive: &'a BTreeSet<HostId>,
    routes: &'a [(IpNet, String)],
    space: &'a space::State,
    confirm: &'a confirm::State,
}

impl Witness for Eyes<'_> {
    fn objections(&self, decree: &Decree, charter: &Charter) -> Vec<String> {
        let mut objections = Vec::new();
        match decree {
            Decree::Forget { hosts, .. } => {
                for host in hosts.iter().filter(|host| self.alive.contains(host)) {
                    let ago = self
                        .heard
                        .get(host)
                        .and_then(|heard| heard.at)
                        .map(|at| self.now.since(at));
                    let ago = ago
                        .map(|ago| format!(", heard {} ms ago", ago.as_millis()))
                        .unwrap_or_default();
                    objections.push(format!("{host} is there{ago}"));
                }
            }
            // Where containers are on the hosts' own wire, the hosts' routes lead there, as they should.
            Decree::Found { definition, .. } if definition.is_on_wire() => {}
            Decree::Found { pool, .. } => {
                for (net, what) in self.routes.iter().filter(|(net, _)| overlap(*net, *pool)) {
                    objections.push(format!("{pool} overlaps {net} there ({what})"));
                }
            }
            Decree::Define {
                pool, by, definition, ..
            } if *by != self.me => {
                let founded = charter.pools.get(pool);
                let conflict = founded.and_then(|founded| founded.conflict(definition));
                if let Some((field, ours, theirs)) = conflict.filter(|_| self.space.uses(pool, self.now)) {
                    objections.push(format!(
                        "{pool} is in use there with {field} {ours}, which can't become {theirs}"
                    ));
                }
            }
            Decree::Dissolve { pool, by } if *by != self.me && self.space.needs(pool) => {
                objections.push(format!("{pool} is in use there"));
            }
            Decree::Leave { host } => {
                let due = self.space.has_due(host, charter, self.me);
                if due || self.space.owns_something(host, self.me) {
                    objections.push("it still owns pieces of pools, as is known there".to_owned());
                }
            }
            _ => {}
        }
        objections
    }

    fn held(&self, host: HostId) -> BTreeMap<IpNet, Held> {
        self.space.held(&host, self.me)
    }

    fn is_sure(&self, lost: &BTreeSet<HostId>, charter: &Charter) -> bool {
        self.confirm.is_recalled(lost, charter, self.me)
    }

    fn read(&self, charter: &Charter) -> BTreeSet<HostId> {
        self.space.read_since(charter, self.me)
    }
}
