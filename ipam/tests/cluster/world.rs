//! The hosts, the messages between them, and what is decided by majorities.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::prefix::size;
use tombolo_ipam::range::after;
use tombolo_ipam::{Ask, Error, Ipam, NoGift, Slot, Space, Use};

use crate::Step;
use crate::common::*;
use crate::hosts::{Decree, Host, Row, id_of};

/// A message on its way.
#[derive(Debug, Clone)]
pub enum Mail {
    /// To be given something.
    Ask { from: usize, ask: Ask },
    /// A row.
    Row { of: usize, row: Row },
    /// A majority has witnessed this claim of the receiver.
    Settle { net: IpNet, seq: u64 },
    /// A majority knows this gift of the receiver to be settled.
    Done { net: IpNet, seq: u64 },
    /// A decree.
    Learn { index: usize },
}

pub struct World {
    pub cidr: IpNet,
    pub hosts: Vec<Host>,
    pub decrees: Vec<Decree>,
    pub mail: Vec<(usize, Mail)>,
    pub now_s: u64,
    /// What came about so far.
    pub met: BTreeSet<&'static str>,
}

/// Every address of the pool, one by one.
pub fn walk(net: IpNet) -> Vec<IpAddr> {
    std::iter::successors(Some(net.network()), |at| after(*at))
        .take_while(|at| net.contains(at))
        .collect()
}

impl World {
    /// Hosts of which the first founded the pool, and all but the second have a network on it.
    pub fn new(hosts: usize, v6: bool) -> Self {
        let cidr = net(if v6 { "fd00:9::/123" } else { "10.9.0.0/27" });
        let founding = Decree {
            pieces: vec![(cidr, 1)],
            members: (0..hosts).collect(),
            ..Decree::default()
        };
        let mut world = Self {
            cidr,
            hosts: (0..hosts).map(|me| Host::new(me, cidr)).collect(),
            decrees: vec![founding],
            mail: Vec::new(),
            now_s: 1000,
            met: BTreeSet::new(),
        };
        for host in 0..hosts {
            world.deliver(host, Mail::Learn { index: 1 });
        }
        for host in (0..hosts).filter(|host| *host != 1) {
            world.take(&Step::Network { host });
        }
        world
    }

    pub fn members(&self) -> &BTreeSet<usize> {
        &self.decrees.last().unwrap().members
    }

    /// The host that a step means, if it lives.
    fn living(&self, host: usize) -> Option<usize> {
        let host = host % self.hosts.len();
        self.hosts[host].alive.then_some(host)
    }

    pub fn take(&mut self, step: &Step) {
        let living = |host: &usize| self.living(*host);
        match step {
            Step::Ask {
                from,
                of,
                want,
                within,
                place,
            } => {
                let (Some(from), Some(of)) = (living(from), living(of)) else {
                    return;
                };
                let ask = match place {
                    Some(place) => Ask::Address(walk(self.cidr)[*place]),
                    None => {
                        let quarter = self.cidr.subnets(self.cidr.prefix_len() + 2).unwrap();
                        let within = [self.cidr].into_iter().chain(quarter).nth(*within).unwrap();
                        Ask::Space {
                            within,
                            want: *want,
                            urgent: false,
                        }
                    }
                };
                if from != of {
                    self.mail.push((of, Mail::Ask { from, ask }));
                }
            }
            Step::GiveAll { of, to } => {
                let (Some(of), Some(to)) = (living(of), living(to)) else {
                    return;
                };
                self.give_all(of, to);
            }
            Step::Deliver { nth, again } => {
                let Some(last) = self.mail.len().checked_sub(1) else {
                    return;
                };
                let nth = (nth % (2 * self.mail.len())).min(last);
                let (to, mail) = match again {
                    true => self.mail[nth].clone(),
                    false => self.mail.swap_remove(nth),
                };
                self.deliver(to, mail);
            }
            Step::Lose { nth } => {
                let Some(nth) = nth.checked_rem(self.mail.len()) else {
                    return;
                };
                // A charter is asked for again until it comes.
                if !matches!(self.mail[nth].1, Mail::Learn { .. }) {
                    self.mail.swap_remove(nth);
                }
            }
            Step::Show { from, to } => {
                let (Some(from), Some(to)) = (living(from), living(to)) else {
                    return;
                };
                // Of anybody whose row it knows: rows are passed on.
                let nth = (from + to) % self.hosts[from].rows.len();
                let rows = [from]
                    .into_iter()
                    .chain(self.hosts[from].rows.keys().copied().nth(nth));
                let mail = rows.map(|of| {
                    let row = self.hosts[from].rows[&of].clone();
                    (to, Mail::Row { of, row })
                });
                self.mail.extend(mail.collect::<Vec<_>>());
            }
            Step::Tend { host, hears } => {
                let Some(host) = living(host) else { return };
                self.tend(host, *hears);
            }
            Step::Lease { host, place } => {
                let Some(host) = living(host).filter(|host| self.hosts[*host].has_network()) else {
                    return;
                };
                self.lease(host, place.map(|place| walk(self.cidr)[place]));
            }
            Step::Free { host, nth } => {
                let Some(host) = living(host) else { return };
                let endpoints = self.hosts[host].endpoints();
                let Some(nth) = nth.checked_rem(endpoints.len()) else {
                    return;
                };
                let host = &mut self.hosts[host];
                let edits = host
                    .ipam
                    .release_address(&host.pool(), endpoints[nth], self.now_s);
                host.apply(edits);
            }
            Step::Network { host } => {
                let Some(host) = living(host) else { return };
                let host = &mut self.hosts[host];
                let pool = host.pool();
                if host.has_network() {
                    let edits = host.ipam.release_pool(&pool);
                    host.apply(edits);
                    return;
                }
                let (_, edits) = host.ipam.request_pool(&exactly(&pool), &[], &[]).unwrap();
                host.apply(edits);
                let gateway = unnamed(Use::Gateway);
                let (_, edits) = host.ipam.request_address(&pool, &gateway, self.now_s).unwrap();
                host.apply(edits);
            }
            Step::Restart { host } => {
                let Some(host) = living(host) else { return };
                self.hosts[host].ipam = restarted(&self.hosts[host].ipam).0;
                self.mail
                    .retain(|(to, mail)| *to != host || matches!(mail, Mail::Learn { .. }));
            }
            Step::Wait { seconds } => self.now_s += seconds,
            Step::Forget { host, heir, quorum } => {
                let (host, heir) = (host % self.hosts.len(), heir % self.hosts.len());
                self.forget(host, heir, *quorum);
            }
            Step::Join { quorum } => self.join(*quorum),
        }
    }

    pub fn deliver(&mut self, to: usize, mail: Mail) {
        if !self.hosts[to].alive {
            return;
        }
        match mail {
            Mail::Ask { from, ask } => self.give(to, from, ask),
            Mail::Row { of, row } => self.hosts[to].see(of, &row, &self.decrees),
            Mail::Settle { net, seq } => {
                let host = &mut self.hosts[to];
                let before = host.share().pieces.len();
                let edits = host.ipam.settle(self.cidr, net, seq);
                if host.apply(edits) {
                    self.met.insert("settled");
                    self.met
                        .extend((host.share().pieces.len() < before).then_some("merged"));
                }
            }
            Mail::Done { net, seq } => {
                let edits = self.hosts[to].ipam.gift_done(self.cidr, net, seq);
                if self.hosts[to].apply(edits) {
                    self.met.insert("gift done");
                }
            }
            Mail::Learn { index } if self.hosts[to].index + 1 == index => {
                self.met.extend(self.hosts[to].learn(&self.decrees));
            }
            Mail::Learn { index } => {
                if self.hosts[to].index < index {
                    self.mail.push((to, Mail::Learn { index }));
                }
            }
        }
    }

    /// How many usable addresses of a prefix a host has in settled pieces and not leased, by walking.
    fn free(&self, host: usize, within: IpNet) -> usize {
        let host = &self.hosts[host];
        let free = |a: &IpAddr| {
            let leased = matches!(host.ipam.slot(Space::Local, *a), Some(Slot::Leased { .. }));
            !leased && host.share().leases(*a) && host.pool().kept_out(*a).is_none()
        };
        walk(within).iter().filter(|a| free(a)).count()
    }

    /// The sizes of all prefixes that a host may give, by trying each, with how many usable addresses they have.
    fn givable(&self, host: usize, within: IpNet, most: usize) -> Vec<(u128, usize)> {
        let lengths = self.cidr.prefix_len()..=self.cidr.max_prefix_len();
        let all = lengths.flat_map(|length| self.cidr.subnets(length).unwrap());
        let share = self.hosts[host].share();
        let fits = |net: &IpNet| {
            let one_piece = share.settled().any(|(piece, _)| piece.contains(net));
            let leased = |a: &IpAddr| {
                matches!(
                    self.hosts[host].ipam.slot(Space::Local, *a),
                    Some(Slot::Leased { .. })
                )
            };
            within.contains(net) && one_piece && !walk(*net).iter().any(leased)
        };
        let sized = all.filter(fits).map(|net| (size(net), self.free(host, net)));
        sized.filter(|(_, usable)| (1..=most).contains(usable)).collect()
    }

    fn give(&mut self, of: usize, to: usize, ask: Ask) {
        let answer = self.hosts[of].ipam.give(self.cidr, id_of(to), &ask, self.now_s);
        match (&ask, &answer) {
            (_, Ok((net, edits))) if edits.is_empty() => {
                assert_eq!(
                    self.hosts[of].share().gifts[net].to,
                    id_of(to),
                    "it is on its way"
                );
            }
            (Ask::Space { within, want, .. }, answer) => {
                let (free, all) = (self.free(of, *within), self.free(of, self.cidr));
                let most = match self.hosts[of].has_network() {
                    true => free.div_ceil(2).min(all.saturating_sub(1)),
                    false => free,
                };
                let givable = self.givable(of, *within, most);
                let enough = givable.iter().filter(|(_, usable)| *usable as u64 >= *want);
                let wanted = enough.min().or_else(|| givable.iter().max());
                match answer {
                    Ok((net, _)) => {
                        self.met.insert("gave room");
                        assert!(within.contains(net) && self.free(of, *net) <= most);
                        assert_eq!(Some(size(*net)), wanted.map(|(size, _)| *size));
                    }
                    Err(NoGift::Nothing { .. }) => {
                        self.met.insert("gave no room");
                        assert_eq!((wanted, most), (None, 0), "there was room");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            (Ask::Address(address), Ok((net, _))) => {
                self.met.insert("gave an address");
                assert_eq!((IpNet::from(*address), self.free(of, *net)), (*net, 1));
            }
            (Ask::Address(address), Err(_)) => {
                self.met.insert("gave no address");
                assert_eq!(self.free(of, (*address).into()), 0);
            }
        }
        if let Ok((_, edits)) = answer {
            self.hosts[of].apply(edits);
            let row = self.hosts[of].rows[&of].clone();
            self.mail.push((to, Mail::Row { of, row }));
        }
    }

    fn give_all(&mut self, of: usize, to: usize) {
        let host = &mut self.hosts[of];
        if of == to {
            return;
        }
        match host.ipam.give_all(self.cidr, id_of(to)) {
            Ok(edits) => {
                if host.apply(edits) {
                    self.met.insert("gave all");
                }
                assert_eq!(host.share().settled().count(), 0);
            }
            Err(NoGift::Leased { address, .. }) => assert!(host.endpoints().contains(&address)),
            Err(other) => panic!("{other}"),
        }
    }

    fn lease(&mut self, host: usize, place: Option<IpAddr>) {
        let wish = match place {
            Some(address) => this(&address.to_string(), endpoint()),
            None => unnamed(endpoint()),
        };
        let free = self.free(host, self.cidr);
        let host = &mut self.hosts[host];
        match host.ipam.request_address(&host.pool(), &wish, self.now_s) {
            Ok((_, edits)) => {
                self.met.insert(if place.is_some() {
                    "leased by name"
                } else {
                    "leased"
                });
                host.apply(edits);
            }
            Err(Error::ShareExhausted { .. }) => {
                self.met.insert("share exhausted");
                assert_eq!(free, 0);
            }
            Err(Error::Foreign { address, .. }) => {
                self.met.insert("foreign");
                assert!(!host.share().leases(address));
            }
            Err(Error::InUse { .. } | Error::KeptOut { .. }) => assert!(place.is_some()),
            Err(other) => panic!("{other}"),
        }
    }

    fn forget(&mut self, gone: usize, heir: usize, quorum: u8) {
        let mut members = self.members().clone();
        if gone == heir || !members.remove(&gone) || !members.contains(&heir) {
            return;
        }
        let Some(quorum) = self.quorum(&members, quorum) else {
            return;
        };
        // What the quorum knows is known to all of it afterwards.
        let rows = self.level(&quorum);
        let mut held = Ipam::default();
        let row = rows.get(&gone).cloned().unwrap_or_default();
        apply(
            &mut held,
            vec![tombolo_ipam::Edit::Share(self.cidr, Some(row.share))],
        );
        // What it was granted and had not taken up, as far as they know.
        for (decree, index) in self
            .decrees
            .iter()
            .zip(1..)
            .filter(|(decree, _)| decree.heir == gone)
        {
            let edits = held.grant(self.cidr, index, &decree.pieces, &decree.gifts);
            apply(&mut held, edits);
        }
        let share = held.share(self.cidr).unwrap();
        // Claims that are not settled go back to whoever gave them.
        let pieces = share.settled().map(|(net, seq)| (net, seq + 1)).collect();
        let gifts = share
            .gifts
            .iter()
            .map(|(net, gift)| (*net, gift.seq, gift.to))
            .collect();
        self.hosts[gone].alive = false;
        self.met.insert("forgotten");
        self.decree(
            Decree {
                gone: Some(gone),
                heir,
                pieces,
                gifts,
                members,
            },
            &quorum,
        );
    }

    fn join(&mut self, quorum: u8) {
        let members = self.members().clone();
        if self.hosts.len() > 6 {
            return;
        }
        let Some(quorum) = self.quorum(&members, quorum) else {
            return;
        };
        let rows = self.level(&quorum);
        let new = self.hosts.len();
        let mut host = Host::new(new, self.cidr);
        host.index = self.decrees.len();
        for (of, row) in rows {
            host.see(of, &row, &self.decrees);
        }
        self.hosts.push(host);
        self.met.insert("joined");
        let mut with_new = members;
        with_new.insert(new);
        let everybody = quorum.into_iter().chain([new]).collect();
        let decree = Decree {
            heir: new,
            members: with_new,
            ..Decree::default()
        };
        self.decree(decree, &everybody);
    }

    /// Those of the wanted hosts that live and know all decrees, if they are a majority.
    fn quorum(&self, members: &BTreeSet<usize>, wanted: u8) -> Option<BTreeSet<usize>> {
        let up = |host: &&usize| {
            let state = &self.hosts[**host];
            state.alive && state.index == self.decrees.len() && wanted >> **host & 1 == 1
        };
        let quorum: BTreeSet<usize> = members.iter().filter(up).copied().collect();
        (quorum.len() > members.len() / 2).then_some(quorum)
    }

    /// Lets hosts know what any of them knows, and says what that is.
    fn level(&mut self, hosts: &BTreeSet<usize>) -> BTreeMap<usize, Row> {
        let mut newest: BTreeMap<usize, Row> = BTreeMap::new();
        for (of, row) in hosts.iter().flat_map(|host| &self.hosts[*host].rows) {
            if newest.get(of).is_none_or(|known| known.version < row.version) {
                newest.insert(*of, row.clone());
            }
        }
        for host in hosts {
            for (of, row) in &newest {
                self.hosts[*host].see(*of, row, &self.decrees);
            }
        }
        newest
    }

    /// Takes down a decree: the quorum learns it now, the others some time.
    fn decree(&mut self, decree: Decree, quorum: &BTreeSet<usize>) {
        self.decrees.push(decree);
        let index = self.decrees.len();
        for host in 0..self.hosts.len() {
            match quorum.contains(&host) {
                true => self.met.extend(self.hosts[host].learn(&self.decrees)),
                false => self.mail.push((host, Mail::Learn { index })),
            }
        }
    }
}
