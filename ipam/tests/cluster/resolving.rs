//! What hosts do of their own accord, what must hold after every step, and what must have come of it when every message
//! has arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::Ipam;
use tombolo_ipam::prefix::{common, sibling};
use tombolo_ipam::share::{mended, resolve};

use crate::common::apply;
use crate::hosts::id_of;
use crate::world::{Mail, World};

impl World {
    /// A host takes up what is due: claims, then asks those that it hears for what needs a majority.
    pub fn tend(&mut self, host: usize, hears: u8) {
        let met = self.hosts[host].tend_claims(&self.decrees);
        self.met.extend(met);
        let index = self.hosts[host].index;
        let Some(known) = index.checked_sub(1) else { return };
        let members = self.decrees[known].members.clone();
        // Hosts answer only those that know the same decrees.
        let hears = |other: &usize| {
            let state = &self.hosts[*other];
            state.alive && state.index == index && (*other == host || hears >> *other & 1 == 1)
        };
        let heard: BTreeSet<usize> = members.iter().copied().filter(hears).collect();
        if members.contains(&host) && heard.len() > members.len() / 2 {
            self.settle_claims(host, &heard, members.len());
            self.end_gifts(host, &heard, members.len());
        }
    }

    fn settle_claims(&mut self, host: usize, heard: &BTreeSet<usize>, members: usize) {
        let pieces = self.hosts[host].share().pieces.clone();
        for (net, piece) in pieces.into_iter().filter(|(_, piece)| !piece.settled) {
            let seq = piece.seq;
            let witness = |other: &&usize| self.hosts[**other].witnesses_claim(host, net, seq, &self.decrees);
            if heard.iter().filter(witness).count() > members / 2 {
                self.mail.push((host, Mail::Settle { net, seq }));
            }
        }
    }

    fn end_gifts(&mut self, host: usize, heard: &BTreeSet<usize>, members: usize) {
        let known = &self.decrees[..self.hosts[host].index];
        let gone = known.iter().filter_map(|decree| decree.gone);
        let never: BTreeSet<_> = gone.chain([host]).map(id_of).collect();
        let gifts = self.hosts[host].share().gifts.clone();
        for (net, gift) in gifts {
            let seq = gift.seq;
            // Part by part, each of one address: what a majority knows to be settled is done; what nobody of a
            // majority knows to be settled is taken back if its recipient is gone, or the heir of its giver.
            let unsettled: Vec<Vec<IpNet>> = heard
                .iter()
                .map(|other| self.hosts[*other].unsettled_parts(host, net, seq, &self.decrees))
                .collect();
            for part in net.subnets(net.max_prefix_len()).unwrap() {
                let lacks = |parts: &&Vec<IpNet>| parts.iter().any(|p| common(*p, part).is_some());
                let lacking = unsettled.iter().filter(lacks).count();
                if unsettled.len() - lacking > members / 2 {
                    self.mail.push((host, Mail::Done { net: part, seq }));
                } else if lacking == unsettled.len() && never.contains(&gift.to) {
                    let edits = self.hosts[host].ipam.regain(self.cidr, part, seq);
                    let before = self.hosts[host].share().pieces.len();
                    assert!(self.hosts[host].apply(edits));
                    let after = self.hosts[host].share().pieces.len();
                    self.met.insert("regained");
                    self.met.extend((after <= before).then_some("merged"));
                }
            }
        }
    }

    /// What must hold after every step.
    pub fn check(&self) {
        let living = || self.hosts.iter().filter(|host| host.alive);
        let mut leased: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for host in living() {
            for address in host.endpoints() {
                let other = leased.insert(address, host.me);
                assert_eq!(other, None, "{address} is leased by host {} too", host.me);
                assert!(
                    host.share().leases(address),
                    "{address} of host {} is stranded",
                    host.me
                );
            }
            let share = host.share();
            assert_eq!(mended(self.cidr, share.clone()), (share.clone(), vec![]));
            for (net, _) in share.settled() {
                let other = sibling(net).and_then(|other| share.pieces.get(&other));
                assert!(
                    net == self.cidr || other.is_none_or(|other| !other.settled),
                    "{net} has its other half"
                );
            }
        }
        let settled: Vec<(IpNet, usize)> = living()
            .flat_map(|host| host.share().settled().map(|(net, _)| (net, host.me)))
            .collect();
        for (n, (net, host)) in settled.iter().enumerate() {
            let twice = settled[n + 1..]
                .iter()
                .find(|(other, _)| common(*net, *other).is_some());
            assert_eq!(twice, None, "{net} of host {host} is another's too");
        }
        // With the grants that were not taken up yet, every address is somebody's.
        let mut rows: Vec<(usize, Ipam)> = living().map(|host| (host.me, host.ipam.clone())).collect();
        for (host, ipam) in &mut rows {
            for (index, decree) in (1..)
                .zip(&self.decrees)
                .filter(|(_, decree)| decree.heir == *host)
            {
                let edits = ipam.grant(self.cidr, index, &decree.pieces, &decree.gifts);
                apply(ipam, edits);
            }
        }
        let shares: Vec<_> = rows
            .iter()
            .map(|(host, ipam)| (id_of(*host), ipam.share(self.cidr).unwrap()))
            .collect();
        let ownership = resolve(self.cidr, shares.iter().copied());
        assert_eq!(ownership.gaps, [], "nobody's");
        assert!(
            !ownership.conflicts.iter().any(|conflict| conflict.leasing),
            "{:?}",
            ownership.conflicts
        );
        assert_eq!(
            ownership.owners.keys().filter(|net| **net != net.trunc()).count(),
            0
        );
    }

    /// Lets all messages arrive and everybody hear everybody, until nothing is due; then each address is settled with
    /// exactly one living host.
    pub fn come_to_rest(&mut self) {
        for _ in 0..30 {
            while let Some((to, mail)) = self.mail.pop() {
                match mail {
                    // Decrees are learnt in their order, below; nothing more is asked for.
                    Mail::Learn { .. } | Mail::Ask { .. } => {}
                    other => self.deliver(to, other),
                }
            }
            for host in 0..self.hosts.len() {
                while self.hosts[host].alive && self.hosts[host].index < self.decrees.len() {
                    let index = self.hosts[host].index + 1;
                    self.deliver(host, Mail::Learn { index });
                    self.check();
                }
            }
            let living: Vec<usize> = (0..self.hosts.len())
                .filter(|host| self.hosts[*host].alive)
                .collect();
            for of in &living {
                let row = self.hosts[*of].rows[of].clone();
                for to in &living {
                    self.deliver(
                        *to,
                        Mail::Row {
                            of: *of,
                            row: row.clone(),
                        },
                    );
                }
            }
            for host in living {
                self.tend(host, u8::MAX);
                self.check();
            }
        }
        let living = || self.hosts.iter().filter(|host| host.alive);
        for host in living() {
            let share = host.share();
            assert!(
                share.gifts.is_empty(),
                "host {} still gives {:?}",
                host.me,
                share.gifts
            );
            assert!(
                share.pieces.values().all(|piece| piece.settled),
                "host {}: {share:?}",
                host.me
            );
        }
        let shares: Vec<_> = living().map(|host| (id_of(host.me), host.share())).collect();
        let ownership = resolve(self.cidr, shares.iter().copied());
        assert!(ownership.gaps.is_empty(), "nobody's: {:?}", ownership.gaps);
        assert!(ownership.conflicts.is_empty());
        for (net, owner) in &ownership.owners {
            let (_, share) = shares.iter().find(|(host, _)| host == owner).unwrap();
            assert!(
                share.settled().any(|(piece, _)| piece == *net),
                "{net} is not one piece"
            );
        }
    }
}
