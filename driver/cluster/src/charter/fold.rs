//! How each decree changes the charter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::HostId;
use tombolo_ipam::prefix::overlap;

use super::{
    Charter, Decree, Definition, Founded, GONE_MAX, Gone, Grant, HOSTS_MAX, Held, How, Member, POOLS_MAX,
    Secret, TooMuch, Void, inherit,
};

impl Charter {
    /// Folds in the next decree. The index rises in any case; with an error nothing else changes.
    pub fn apply(&mut self, decree: &Decree) -> Result<(), Void> {
        self.index = self.slot();
        decree.check()?;
        match decree {
            Decree::Nothing => Ok(()),
            Decree::Join { host, name, key } => self.join(*host, name, *key),
            Decree::Leave { host } => self.leave(*host),
            Decree::Forget { heir, shares, .. } => self.forget(&decree.lost(), *heir, shares),
            Decree::Found {
                pool,
                founder,
                definition,
            } => self.found(*pool, *founder, definition),
            Decree::Define {
                pool,
                by,
                before,
                definition,
            } => self.define(*pool, *by, before, definition),
            Decree::Dissolve { pool, by } => self.dissolve(*pool, *by),
            Decree::Secret { number, check } => self.renew(*number, *check),
        }
    }

    /// The member, or why it is none.
    pub(crate) fn member(&self, host: HostId) -> Result<&Member, Void> {
        if let Some(gone) = self.gone.get(&host) {
            return Err(Void::Gone {
                host: self.called(host),
                how: gone.how,
                at: gone.at,
            });
        }
        self.hosts.get(&host).ok_or(Void::NoMember { host })
    }

    fn join(&mut self, host: HostId, name: &str, key: [u8; 32]) -> Result<(), Void> {
        if let Some(gone) = self.gone.get(&host) {
            return Err(Void::Gone {
                host: self.called(host),
                how: gone.how,
                at: gone.at,
            });
        }
        if let Some((other, _)) = self
            .hosts
            .iter()
            .find(|(id, member)| **id != host && member.key == key)
        {
            return Err(Void::KeyTaken {
                host,
                name: name.to_owned(),
                other: self.called(*other),
            });
        }
        let known = self.called(host);
        if let Some(member) = self.hosts.get_mut(&host) {
            if member.key != key {
                return Err(Void::OtherKey {
                    host: known,
                    theirs: Void::key(&member.key),
                    ours: Void::key(&key),
                });
            }
            name.clone_into(&mut member.name);
            return Ok(());
        }
        if self.hosts.len() >= HOSTS_MAX {
            return Err(TooMuch {
                what: "hosts of the cluster",
                got: HOSTS_MAX + 1,
                most: HOSTS_MAX,
            }
            .into());
        }
        self.hosts.insert(
            host,
            Member {
                name: name.to_owned(),
                key,
                since: self.index,
            },
        );
        Ok(())
    }

    fn leave(&mut self, host: HostId) -> Result<(), Void> {
        self.member(host)?;
        if self.hosts.len() == 1 {
            return Err(Void::LastHost {
                host: self.called(host),
            });
        }
        self.grants.retain(|grant| grant.to != host);
        self.bury(host, How::Left);
        Ok(())
    }

    fn forget(
        &mut self,
        lost: &BTreeSet<HostId>,
        heir: HostId,
        shares: &BTreeMap<HostId, BTreeMap<IpNet, Held>>,
    ) -> Result<(), Void> {
        if lost.is_empty() {
            return Err(Void::Nobody);
        }
        for host in lost {
            self.member(*host)?;
        }
        self.member(heir)?;
        if lost.contains(&heir) {
            return Err(Void::LostHeir {
                heir: self.called(heir),
            });
        }
        let grants = inherit::grants(self, lost, heir, shares);
        let applied = |pool: &IpNet| {
            shares
                .get(&heir)
                .and_then(|held| held.get(pool))
                .map_or(0, |held| held.applied)
        };
        self.grants.retain(|grant| match grant.to {
            to if to == heir => grant.at > applied(&grant.pool),
            to => !lost.contains(&to),
        });
        for grant in &grants {
            if let Some(founded) = self.pools.get_mut(&grant.pool) {
                inherit::raise(&mut founded.floor, &grant.pieces);
            }
        }
        self.grants.extend(grants);
        for host in lost {
            self.bury(*host, How::Forgotten { heir });
        }
        Ok(())
    }

    fn found(&mut self, pool: IpNet, founder: HostId, definition: &Definition) -> Result<(), Void> {
        self.member(founder)?;
        if pool != pool.trunc() {
            return Err(Void::NotMasked {
                got: pool,
                masked: pool.trunc(),
            });
        }
        for (existing, founded) in &self.pools {
            if overlap(*existing, pool) {
                return Err(Void::Overlap {
                    wanted: pool,
                    existing: *existing,
                    by: self.founding(founded),
                });
            }
        }
        self.fits(pool, definition)?;
        if self.pools.len() >= POOLS_MAX {
            return Err(TooMuch {
                what: "pools of the cluster",
                got: POOLS_MAX + 1,
                most: POOLS_MAX,
            }
            .into());
        }
        let (at, definition, floor) = (self.index, definition.clone(), BTreeMap::from([(pool, 1)]));
        self.pools.insert(
            pool,
            Founded {
                at,
                founder,
                definition,
                floor,
            },
        );
        self.grants.push(Grant {
            at,
            to: founder,
            pool,
            pieces: vec![(pool, 1)],
            gifts: Vec::new(),
        });
        Ok(())
    }

    /// Whether a pool may be defined so, beside the others.
    fn fits(&self, pool: IpNet, definition: &Definition) -> Result<(), Void> {
        let outside = |field, address: &IpAddr| match pool.contains(address) {
            true => Ok(()),
            false => Err(Void::Outside {
                field,
                address: *address,
                pool,
            }),
        };
        let (mut gateway, mut aux) = (definition.gateway.iter(), definition.aux.iter());
        gateway.try_for_each(|address| outside("gateway", address))?;
        aux.try_for_each(|address| outside("aux address", address))?;
        let v6 = |pool: IpNet| pool.network().is_ipv6();
        for (existing, founded) in self.pools.iter().filter(|(existing, _)| **existing != pool) {
            let theirs = &founded.definition;
            // A network of both families has a pool of each.
            let same_net = definition.net.is_some() && definition.net == theirs.net;
            let other_half = same_net && v6(*existing) != v6(pool);
            if let Some(net) = definition.net.clone().filter(|_| same_net && !other_half) {
                return Err(Void::NetTaken {
                    net,
                    wanted: pool,
                    existing: *existing,
                    by: self.founding(founded),
                });
            }
            let same_vni = |vni: &u32| theirs.vni == Some(*vni) && !other_half;
            if let Some(vni) = definition.vni.filter(same_vni) {
                return Err(Void::VniTaken {
                    vni,
                    wanted: pool,
                    existing: *existing,
                    by: self.founding(founded),
                });
            }
        }
        Ok(())
    }

    fn founding(&self, founded: &Founded) -> String {
        format!("{} at decree {}", self.called(founded.founder), founded.at)
    }

    fn define(
        &mut self,
        pool: IpNet,
        by: HostId,
        before: &Definition,
        definition: &Definition,
    ) -> Result<(), Void> {
        self.member(by)?;
        let founded = self.pools.get(&pool).ok_or(Void::NoPool { pool })?;
        if founded.definition != *before {
            return Err(Void::DefinedAnew { pool });
        }
        self.fits(pool, definition)?;
        if let Some(founded) = self.pools.get_mut(&pool) {
            founded.definition = definition.clone();
        }
        Ok(())
    }

    fn dissolve(&mut self, pool: IpNet, by: HostId) -> Result<(), Void> {
        self.member(by)?;
        self.pools.remove(&pool).ok_or(Void::NoPool { pool })?;
        self.grants.retain(|grant| grant.pool != pool);
        Ok(())
    }

    fn renew(&mut self, number: u32, check: [u8; 32]) -> Result<(), Void> {
        let allowed = self.secret.number.saturating_add(1);
        if number != allowed {
            return Err(Void::Number {
                got: number,
                inforce: self.secret.number,
                allowed,
            });
        }
        self.secret = Secret { number, check };
        Ok(())
    }

    fn bury(&mut self, host: HostId, how: How) {
        let Some(member) = self.hosts.remove(&host) else {
            return;
        };
        self.gone.insert(
            host,
            Gone {
                name: member.name,
                how,
                at: self.index,
            },
        );
        while self.gone.len() > GONE_MAX {
            // The same on every host: the oldest, and among those of one decree the lowest identifier.
            let Some(oldest) = self
                .gone
                .iter()
                .min_by_key(|(id, gone)| (gone.at, **id))
                .map(|(id, _)| *id)
            else {
                return;
            };
            self.gone.remove(&oldest);
        }
    }
}
