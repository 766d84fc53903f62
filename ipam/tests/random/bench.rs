//! The crate beside the model: takes one step on both and holds each answer against what the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_ipam::range::after;
use tombolo_ipam::{COOL_DOWN_S, Edit, Error, Ipam, Pool, PoolId, PoolRequest, Slot, Space, Use, Want, Wish};

use crate::common::*;
use crate::model::{Model, is_usable, share, walk};
use crate::steps::{ENTRIES, POOLS, Step};

/// The record that an edit is about.
fn key(edit: &Edit) -> String {
    match edit {
        Edit::Pool(id, _) => id.to_string(),
        Edit::Slot(space, address, _) => format!("{space} {address}"),
        Edit::Share(cidr, _) => format!("share {cidr}"),
    }
}

/// The crate, the model and the time.
#[derive(Default)]
pub struct Bench {
    pub ipam: Ipam,
    model: Model,
    now_s: u64,
    /// What came about so far.
    pub met: BTreeSet<&'static str>,
}

impl Bench {
    /// Applies what was decided, after making sure that it can be undone.
    pub fn apply(&mut self, edits: Vec<Edit>) {
        let mut there_and_back = self.ipam.clone();
        let undo = apply(&mut there_and_back, edits.clone());
        apply(&mut there_and_back, undo);
        assert_eq!(
            there_and_back, self.ipam,
            "the inverse edits of {edits:?} do not lead back"
        );
        let keys: BTreeSet<String> = edits.iter().map(key).collect();
        assert_eq!(keys.len(), edits.len(), "a record is edited twice: {edits:?}");
        apply(&mut self.ipam, edits);
    }

    fn nth_pool(&self, n: usize) -> Option<PoolId> {
        self.model
            .pools
            .iter()
            .nth(n.checked_rem(self.model.pools.len())?)
            .copied()
    }

    /// The crate's leases as the model writes them.
    fn leases(&self) -> BTreeMap<(Space, IpAddr), (PoolId, Use)> {
        let lease = |(key, slot): (&(Space, IpAddr), &Slot)| match slot {
            Slot::Leased { pool, usage } => Some((*key, (*pool, usage.clone()))),
            Slot::Cooling { .. } => None,
        };
        self.ipam.slots().iter().filter_map(lease).collect()
    }

    /// What must hold after every step.
    pub fn check(&self) {
        assert_eq!(self.leases(), self.model.leases);
        assert_eq!(
            self.ipam.pools().keys().copied().collect::<BTreeSet<_>>(),
            self.model.pools
        );
        let (back, problems) = restarted(&self.ipam);
        assert_eq!(problems, []);
        assert_eq!(
            back, self.ipam,
            "the derived indexes differ from those of the stored records"
        );
        for id in &self.model.pools {
            let mine = self.model.leases.iter().filter(|(_, (pool, _))| pool == id);
            let mine: Vec<_> = mine.map(|((_, address), (_, usage))| (*address, usage)).collect();
            assert_eq!(self.ipam.leases_of(id).collect::<Vec<_>>(), mine);
            let free = self
                .model
                .round(id, None)
                .iter()
                .filter(|a| self.model.holds(id, **a).is_none())
                .count();
            assert_eq!(self.ipam.fill(id).free, free as u64, "{id}");
            assert_eq!(self.ipam.gateway_of(id), self.model.gateway(id));
        }
    }

    pub fn take(&mut self, step: Step) {
        match step {
            Step::Pool { which, repeat } => self.take_pool(id(POOLS[which]), repeat),
            Step::Choose { sized, v6, avoid } => self.take_choice(sized, v6, avoid),
            Step::DropPool { which } => self.take_drop(which),
            Step::Lease {
                pool,
                place,
                usage,
                repeat,
            } => {
                let Some(id) = self.nth_pool(pool) else { return };
                let usage = match usage {
                    0 => Use::Gateway,
                    1 => Use::Aux,
                    2 => named("web"),
                    _ => endpoint(),
                };
                // Of one family's subnet, and sometimes what lies right beyond it or far away.
                let mut places = walk(id.cidr());
                places.extend(after(id.cidr().broadcast()));
                places.push(ip("192.0.2.1"));
                let address = place.map(|n| places[n % places.len()]);
                self.take_lease(
                    id,
                    Wish {
                        address,
                        usage,
                        repeat,
                    },
                );
            }
            Step::Free { which } => {
                let nth = which
                    .checked_rem(self.model.leases.len())
                    .and_then(|n| self.model.leases.iter().nth(n));
                let Some((&(_, address), &(id, _))) = nth else {
                    return;
                };
                self.take_free(id, address);
            }
            Step::FreeAnyhow { pool, place } => {
                let Some(id) = self.nth_pool(pool) else { return };
                let places = walk(id.cidr());
                self.take_free(id, places[place % places.len()]);
            }
            Step::Wait { seconds } => self.now_s += seconds,
            Step::Restart => self.ipam = restarted(&self.ipam).0,
        }
    }

    fn take_pool(&mut self, id: PoolId, repeat: bool) {
        let answer = self.ipam.request_pool(
            &PoolRequest {
                repeat,
                ..exactly(&id)
            },
            &[],
            &[],
        );
        match answer {
            Ok((given, edits)) => {
                assert_eq!(given, id);
                assert_eq!(edits.is_empty(), self.model.pools.contains(&id));
                assert!(repeat || !self.model.pools.contains(&id));
                assert_eq!(self.model.in_the_way(&id), None);
                self.apply(edits);
                self.model.pools.insert(id);
            }
            Err(Error::Given { pool }) => {
                self.met.insert("given");
                assert!(!repeat && pool == id && self.model.pools.contains(&id));
            }
            Err(Error::Overlap { existing, .. }) => {
                self.met.insert("overlap");
                assert!(self.model.pools.contains(&existing));
                assert!(self.model.in_the_way(&id).is_some());
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn take_choice(&mut self, sized: Option<u8>, v6: bool, avoid: u8) {
        let base: IpAddr = if v6 { ip("fd00::") } else { ip("10.0.0.0") };
        let avoid: IpNet = std::iter::successors(Some(base), |at| after(*at))
            .nth(avoid.into())
            .unwrap()
            .into();
        let request = of_our_choice(sized.map_or(Want::Any, Want::Sized), v6);
        let answer = self.ipam.request_pool(&request, &carve(ENTRIES), &[avoid]);
        if sized.is_some_and(|prefix| prefix > if v6 { 128 } else { 32 }) {
            assert!(matches!(answer, Err(Error::PrefixTooLong { .. })));
            return;
        }
        let entries = carve(ENTRIES).into_iter().filter(|entry| entry.is_v6() == v6);
        let candidates = entries.flat_map(|entry| {
            let size = sized.unwrap_or(entry.size());
            entry.base().subnets(size).into_iter().flatten()
        });
        let whole = |cidr| PoolId::new(Space::Local, cidr, None).unwrap();
        let free = |cidr: &IpNet| {
            let given = self
                .model
                .pools
                .iter()
                .any(|p| p.space() == Space::Local && share(p.cidr(), *cidr));
            !given && !cidr.contains(&avoid)
        };
        match (answer, candidates.filter(free).map(whole).next()) {
            (Ok((given, edits)), Some(lowest)) => {
                assert_eq!(given, lowest);
                self.apply(edits);
                assert!(self.model.pools.insert(given), "{given} is new");
            }
            (Err(Error::NoSubnet { .. }), None) => {
                self.met.insert("no subnet");
            }
            (answer, lowest) => panic!("{answer:?} where stepping finds {lowest:?}"),
        }
    }

    fn take_drop(&mut self, which: usize) {
        let Some(id) = self.nth_pool(which) else { return };
        let edits = self.ipam.release_pool(&id);
        self.apply(edits);
        self.model.pools.remove(&id);
        self.model.leases.retain(|_, (pool, _)| *pool != id);
        assert!(self.ipam.slots().values().all(|slot| *slot.pool() != id));
    }

    fn take_free(&mut self, id: PoolId, address: IpAddr) {
        let key = (id.space(), address);
        let edits = self.ipam.release_address(&id, address, self.now_s);
        let mine = self.model.leases.get(&key).is_some_and(|(pool, _)| *pool == id);
        assert_eq!(edits.is_empty(), !mine, "{id} {address}");
        self.apply(edits);
        if mine {
            self.model.leases.remove(&key);
            let givers: Vec<PoolId> = self
                .model
                .pools
                .iter()
                .copied()
                .filter(|p| p.space() == id.space())
                .collect();
            let giver = givers
                .into_iter()
                .find(|p| self.model.round(p, None).contains(&address));
            let cools = giver.map(|pool| Slot::Cooling {
                pool,
                until_s: self.now_s + COOL_DOWN_S,
            });
            assert_eq!(self.ipam.slot(id.space(), address), cools.as_ref());
        }
    }

    fn take_lease(&mut self, id: PoolId, wish: Wish) {
        let answer = self.ipam.request_address(&id, &wish, self.now_s);
        match answer {
            Ok((given, edits)) => {
                let address = given.addr();
                assert_eq!(given.prefix_len(), id.cidr().prefix_len());
                assert!(id.cidr().contains(&address));
                assert!(wish.address.is_none_or(|wished| wished == address));
                let repeat = edits.is_empty();
                match self.model.holds(&id, address) {
                    Some((pool, usage)) => {
                        let same = same_sort(usage, &wish.usage);
                        assert!(repeat && *pool == id && same && (wish.repeat || wish.usage == Use::Gateway));
                        self.met.insert("repeat");
                        return;
                    }
                    None => assert!(!repeat, "{address} was free and stays so"),
                }
                assert!(
                    wish.usage == Use::Aux || is_usable(id.cidr(), address),
                    "{address} of {id}"
                );
                if wish.address.is_none() {
                    self.check_choice(&id, &wish.usage, address);
                }
                for edit in &edits {
                    let Edit::Slot(space, forgotten, None) = edit else {
                        continue;
                    };
                    let slot = self.ipam.slot(*space, *forgotten);
                    let cooled =
                        matches!(slot, Some(Slot::Cooling { until_s, .. }) if *until_s <= self.now_s);
                    assert!(cooled, "{forgotten} is forgotten too early: {slot:?}");
                    self.met.insert("forgotten");
                }
                let released = self.released_again(&id, address, &edits);
                self.apply(edits);
                assert_eq!(self.ipam.clone(), released);
                let usage = match (wish.address, wish.usage) {
                    (None, Use::Gateway) => Use::Unnamed,
                    (_, usage) => usage,
                };
                self.model.leases.insert((id.space(), address), (id, usage));
            }
            Err(error) => self.check_refusal(&id, &wish, &error),
        }
    }

    /// Whether this is the address that a wish without one must get.
    fn check_choice(&mut self, id: &PoolId, usage: &Use, given: IpAddr) {
        let cursor = self.ipam.pool(id).and_then(|pool| pool.cursor);
        let endpoint = *usage != Use::Gateway;
        let round = self.model.round(id, cursor.filter(|_| endpoint));
        let first_of_subnet = walk(id.cidr())
            .into_iter()
            .find(|a| is_usable(id.cidr(), *a))
            .unwrap();
        if !endpoint && self.model.holds(id, first_of_subnet).is_none() {
            return assert_eq!(given, first_of_subnet);
        }
        let slot = |address: &IpAddr| self.ipam.slot(id.space(), *address);
        if let Some(free) = round.iter().find(|address| slot(address).is_none()) {
            self.met
                .insert(if Some(*free) < cursor { "around" } else { "free" });
            return assert_eq!(given, *free, "the next free one");
        }
        let cooling = round.iter().filter_map(|address| match slot(address) {
            Some(Slot::Cooling { until_s, .. }) => Some((*until_s, *address)),
            _ => None,
        });
        let first_freed = cooling.min();
        self.met.insert("cooling");
        assert_eq!(
            first_freed.map(|(_, address)| address),
            Some(given),
            "the one that was freed first"
        );
    }

    /// Makes sure that giving the address back at once undoes all but the cursor and what cools; says what the state
    /// is with the address given.
    fn released_again(&self, id: &PoolId, address: IpAddr, edits: &[Edit]) -> Ipam {
        let mut ipam = self.ipam.clone();
        apply(&mut ipam, edits.to_vec());
        let given = ipam.clone();
        let edits = ipam.release_address(id, address, self.now_s);
        apply(&mut ipam, edits);
        assert_eq!(lasting(&ipam), lasting(&self.ipam));
        given
    }

    fn check_refusal(&mut self, id: &PoolId, wish: &Wish, error: &Error) {
        match error {
            Error::Outside { address, .. } => {
                self.met.insert("outside");
                assert!(wish.address == Some(*address) && !id.cidr().contains(address));
            }
            Error::KeptOut { address, .. } => {
                self.met.insert("kept out");
                assert!(wish.usage != Use::Aux && !is_usable(id.cidr(), *address));
            }
            Error::InUse {
                address,
                holder,
                owner,
                ..
            } => {
                self.met.insert("in use");
                assert_eq!(self.model.holds(id, *address), Some(&(*owner, holder.clone())));
                let same = same_sort(holder, &wish.usage);
                assert!(!(same && wish.repeat && owner == id), "a repeat was refused");
            }
            Error::HasGateway { gateway, .. } => {
                self.met.insert("has gateway");
                assert_eq!(wish.usage, Use::Gateway);
                assert_eq!(self.model.gateway(id), Some(*gateway));
                assert!(if wish.address.is_none() {
                    !wish.repeat
                } else {
                    wish.address != Some(*gateway)
                });
            }
            Error::AuxWithoutAddress { .. } => assert!(wish.usage == Use::Aux && wish.address.is_none()),
            Error::Exhausted { leases, .. } => {
                self.met.insert("exhausted");
                let held = |address: &IpAddr| self.model.holds(id, *address).is_some();
                assert!(self.model.round(id, None).iter().all(held), "there was one left");
                assert_eq!(*leases, self.ipam.leases_of(id).count());
            }
            other => panic!("{other}"),
        }
    }
}

/// What is neither a cursor nor on its way to be forgotten.
fn lasting(ipam: &Ipam) -> (BTreeMap<PoolId, Pool>, BTreeMap<(Space, IpAddr), Slot>) {
    let pools = ipam.pools().iter().map(|(id, pool)| {
        (
            *id,
            Pool {
                cursor: None,
                ..*pool
            },
        )
    });
    let leased = ipam
        .slots()
        .iter()
        .filter(|(_, slot)| matches!(slot, Slot::Leased { .. }));
    (
        pools.collect(),
        leased.map(|(key, slot)| (*key, slot.clone())).collect(),
    )
}

/// Whether two uses are of one sort: a gateway is one whether it was named or not.
fn same_sort(one: &Use, other: &Use) -> bool {
    let both = one.is_gateway() && other.is_gateway();
    both || std::mem::discriminant(one) == std::mem::discriminant(other)
}
