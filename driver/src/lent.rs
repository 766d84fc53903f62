//! Addresses that a wire's own DHCP server lends to containers: asked for when Docker asks for an address, renewed as long as
//! the container has it, kept in the records over our own restarts, and given back when Docker gives them back.
//!
//! ```text
//!   RequestAddress ──> Lent::obtain ──> dhcp::Leases ──> the wire      the lease is a record before the address is one
//!   ReleaseAddress ──> records ──> Lent::returned ──> RELEASE          in the background: nobody waits for a server
//!   a start, a tick ──> Lent::tend ──> resume, and give back what no record of an address asks for
//! ```
//!
//! Docker tells a MAC address only after it has the address, and the container's name from 29 on only. So the MAC is chosen here: it
//! follows from the host's own on the wire and from the container's name, or else from the lowest number that is free. The server
//! then gives a container that is started again the address that it had.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tombolo_core::model::{IfName, Mac, fnv1a};
use tombolo_ipam::PoolId;

use crate::dhcp::{Event, Events as Changes, Lease, LeaseId, Leases, Request, client_id};
use crate::engine::Ask;
use crate::engine::events::{Events, What};

/// How long a container's start may wait for the wire's server. Some (dnsmasq) look for three seconds whether anybody has an address
/// before they offer it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a container's start waits until what was given back just before has been: it may be the same container's.
const BACK: Duration = Duration::from_secs(1);

/// Between two looks whether all leases are still somebody's.
const TEND: Duration = Duration::from_secs(5);

/// What the records hold of it.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// The pools whose addresses are lent, and the links to their wires.
    pub pools: BTreeMap<IpNet, IfName>,
    /// The leases, whether a container has the address, or is to have it, and its name as far as Docker has told it.
    pub leases: Vec<(Lease, bool, Option<String>)>,
}

/// Those who lend, and what was lent.
#[derive(Clone)]
pub struct Lent(Arc<Inner>);

struct Inner {
    leases: Leases,
    asks: mpsc::Sender<Ask>,
    pools: Mutex<BTreeMap<IpNet, IfName>>,
    /// The hardware addresses in use or being asked for.
    macs: Mutex<BTreeSet<Mac>>,
    /// Addresses that are being asked for or given back just now, with which nothing is to be done by anybody else.
    moving: Mutex<BTreeSet<LeaseId>>,
    /// How many were told that something is to be given back, and have not seen to it yet.
    returning: watch::Sender<usize>,
    /// Held by whoever compares the leases with what is held, one at a time.
    tending: tokio::sync::Mutex<()>,
}

/// An address that is being asked for. While this is there nobody else does anything with its lease; when it goes before the lease was
/// kept in the records, the lease is given back.
pub struct Moving {
    lent: Lent,
    id: LeaseId,
    kept: Option<Lease>,
}

impl Drop for Moving {
    fn drop(&mut self) {
        let over = |lent: &Lent, id: &LeaseId| {
            locked(&lent.0.moving).remove(id);
        };
        if self.kept.is_some() {
            // Whose it is, or that it is nobody's, is in the records.
            return over(&self.lent, &self.id);
        }
        let (lent, id) = (self.lent.clone(), self.id.clone());
        // Where everything ends, the records of the next run say what is nobody's.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            lent.give_back(&id).await;
            over(&lent, &id);
            // From here on somebody else may have it.
            locked(&lent.0.macs).remove(&id.mac);
        });
    }
}

/// Takes a lock; what it guards is whole after each change.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lent {
    /// Nothing is lent yet; and where to hear what becomes of leases.
    pub fn new(asks: mpsc::Sender<Ask>) -> (Self, Changes) {
        let (leases, changes) = Leases::new();
        let inner = Inner {
            leases,
            asks,
            pools: Mutex::default(),
            macs: Mutex::default(),
            moving: Mutex::default(),
            returning: watch::Sender::default(),
            tending: tokio::sync::Mutex::default(),
        };
        (Self(Arc::new(inner)), changes)
    }

    /// The link to the wire whose server lends the addresses of a pool, if they are lent.
    pub fn parent_of(&self, pool: &PoolId) -> Option<IfName> {
        locked(&self.0.pools).get(&pool.cidr()).cloned()
    }

    /// Notes that the addresses of a pool are lent.
    ///
    /// # Errors
    /// Why that can't be kept, in words.
    pub async fn lend(&self, pool: IpNet, parent: IfName) -> Result<(), String> {
        // Who compares leases has asked for all pools before, and would forget this one.
        let _not_meanwhile = self.0.tending.lock().await;
        let kept = self
            .ask(|answer| Ask::LentPool(pool, Some(parent.clone()), answer))
            .await;
        kept?;
        locked(&self.0.pools).insert(pool, parent);
        Ok(())
    }

    /// Obtains an address of a pool: the one that is named, or any. It is kept in the records before this returns. What it gives
    /// beside the address is to be held until the address is a container's by the records.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub async fn obtain(
        &self,
        pool: &PoolId,
        parent: &IfName,
        name: Option<&str>,
        wanted: Option<Ipv4Addr>,
        deadline: Instant,
    ) -> Result<(Ipv4Addr, Moving), String> {
        // A container that is restarted is to have its hardware address, and so its address, again.
        let mut returning = self.0.returning.subscribe();
        let until = deadline.min(Instant::now() + BACK);
        tokio::time::timeout_at(until.into(), returning.wait_for(|count| *count == 0))
            .await
            .ok();
        let mac = self.take_mac(pool, parent, name)?;
        let id = LeaseId {
            parent: parent.clone(),
            mac,
        };
        locked(&self.0.moving).insert(id.clone());
        let mut moving = Moving {
            lent: self.clone(),
            id,
            kept: None,
        };
        let address = self.obtain_for(pool, &mut moving, name, wanted, deadline).await?;
        Ok((address, moving))
    }

    async fn obtain_for(
        &self,
        pool: &PoolId,
        moving: &mut Moving,
        name: Option<&str>,
        wanted: Option<Ipv4Addr>,
        deadline: Instant,
    ) -> Result<Ipv4Addr, String> {
        let id = &moving.id;
        let IpNet::V4(within) = pool.cidr() else {
            return Err(format!("Address: {} is not of IPv4, as DHCP is", pool.cidr()));
        };
        let request = Request {
            parent: id.parent.clone(),
            mac: id.mac,
            client_id: client_id(id.mac),
            host_name: name.and_then(host_name),
            wanted,
            within,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let lease = self.0.leases.lease(request, left).await;
        let lease = lease.map_err(|error| format!("Address: {error}"))?;
        let address = lease.address.addr();
        let (server, mac) = (lease.server, id.mac);
        match wanted {
            Some(wanted) if wanted != address => {
                return Err(format!(
                    "Address: the DHCP server {server} gives {address} in the place of {wanted}: it keeps that for somebody else, or \
                     out of what it gives; have it keep it for {mac}, or leave --ip out"
                ));
            }
            _ if !within.contains(&address) => {
                return Err(format!(
                    "Address: the DHCP server {server} gives {address}, which is not of {within}: make the network anew with --subnet {}",
                    lease.address.trunc(),
                ));
            }
            _ => {}
        }
        if let Some(router) = lease
            .router
            .filter(|router| !within.contains(router) || *router == address)
        {
            tracing::warn!(%address, %router, %server, "a DHCP server names a router that is none on this network: it is passed over");
        }
        self.ask(|answer| Ask::Lent(lease.clone(), answer)).await?;
        moving.kept = Some(lease);
        Ok(address)
    }

    /// Tells the server of an address that was obtained, and that nobody has yet, that somebody else uses it. It is given up.
    pub async fn decline(&self, mut moving: Moving) {
        // Whoever found a record that nobody has would give back what is declined.
        if let Some(lease) = moving.kept.take()
            && let Err(error) = self.ask(|answer| Ask::Unlent(lease.clone(), answer)).await
        {
            tracing::warn!(address = %lease.address.addr(), error, "that a lease is declined could not be noted");
            moving.kept = Some(lease);
        }
        if let Err(error) = self.0.leases.decline(&moving.id).await {
            tracing::info!(%error, "a DHCP server can't be told that somebody else uses an address");
        }
    }

    /// Whether an address is lent to this host.
    pub async fn has(&self, address: Ipv4Addr) -> bool {
        let (answer, answered) = oneshot::channel();
        self.0.asks.send(Ask::IsLent(address, answer)).await.is_ok() && answered.await.unwrap_or(false)
    }

    /// An address of a pool is nobody's any more: its server is told so in the background.
    pub fn returned(&self) {
        let lent = self.clone();
        lent.0.returning.send_modify(|count| *count += 1);
        tokio::spawn(async move {
            lent.tend().await;
            lent.0.returning.send_modify(|count| *count -= 1);
        });
    }

    /// Goes on with what the records hold, and gives back what nobody has any more.
    pub async fn tend(&self) {
        let _one_at_a_time = self.0.tending.lock().await;
        let (answer, answered) = oneshot::channel();
        if self.0.asks.send(Ask::AllLent(answer)).await.is_err() {
            return;
        }
        let Ok(kept) = answered.await else { return };
        *locked(&self.0.pools) = kept.pools;
        for (lease, held, name) in kept.leases {
            let id = lease.id();
            if locked(&self.0.moving).contains(&id) {
                continue;
            }
            if held {
                locked(&self.0.macs).insert(id.mac);
                let known = lease.host_name.is_some();
                // One that is held goes on already.
                self.0.leases.resume(lease).await.ok();
                // Engines before 29 tell a name after the address was asked for.
                let name = name.as_deref().and_then(host_name).filter(|_| !known);
                if let Some(Err(error)) = name.map(|name| self.0.leases.call(&id, &name)) {
                    tracing::debug!(%error, "a container's name is not told to its DHCP server");
                }
                continue;
            }
            // It may have become a container's since: the engine has the last word.
            match self.ask(|answer| Ask::Unlent(lease.clone(), answer)).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    tracing::warn!(address = %lease.address.addr(), error, "that a lease is over could not be noted");
                    continue;
                }
            }
            // One of an earlier run has nobody here yet who could say it.
            self.0.leases.resume(lease).await.ok();
            self.give_back(&id).await;
            locked(&self.0.macs).remove(&id.mac);
        }
    }

    async fn give_back(&self, id: &LeaseId) {
        if let Err(error) = self.0.leases.release(id).await {
            tracing::info!(%error, "a lease lasts at its server until its time is over");
        }
    }

    /// A hardware address that no other container of this host has.
    fn take_mac(&self, pool: &PoolId, parent: &IfName, name: Option<&str>) -> Result<Mac, String> {
        let own = own_mac(parent).ok_or_else(|| {
            format!(
                "parent: {parent} is not there, or has no hardware address: it must lead to the DHCP server"
            )
        })?;
        let mac = |what: &str| {
            let [a, b, c, d] =
                (fnv1a(format!("{own} {} {what}", pool.cidr()).as_bytes()) as u32).to_be_bytes();
            Mac::from_bytes([0x0e, 0x7b, a, b, c, d]).ok()
        };
        let mut macs = locked(&self.0.macs);
        let named = name.and_then(|name| mac(&format!("name {name}")));
        let numbered = (0..=u16::MAX).filter_map(|number| mac(&format!("number {number}")));
        let mut free = named
            .into_iter()
            .chain(numbered)
            .filter(|mac| !macs.contains(mac));
        let Some(mac) = free.next() else {
            return Err("Address: no hardware address is left".to_owned());
        };
        macs.insert(mac);
        Ok(mac)
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Ask,
    ) -> Result<T, String> {
        let gone = || "tombolo is shutting down".to_owned();
        let (answer, answered) = oneshot::channel();
        self.0.asks.send(question(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// The hardware address of a link of this host.
fn own_mac(link: &IfName) -> Option<Mac> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    let mut of_link = addresses.filter(|address| address.interface_name == link.as_str());
    of_link.find_map(|address| Mac::from_bytes(address.address?.as_link_addr()?.addr()?).ok())
}

/// A container's name as a host name: what can't be in one is left out.
fn host_name(container: &str) -> Option<String> {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    };
    let name: String = container.chars().map(plain).take(63).collect();
    let name = name.trim_matches('-').to_owned();
    (!name.is_empty()).then_some(name)
}

/// Goes on with the leases of an earlier run, keeps what becomes of them, and tells of it; until dropped.
pub async fn look_after(lent: Lent, mut changes: Changes, events: Events) {
    let mut tend = tokio::time::interval(TEND);
    tend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tend.tick() => lent.tend().await,
            change = changes.next() => lent.changed(change, &events).await,
        }
    }
}

impl Lent {
    async fn changed(&self, change: Event, events: &Events) {
        let lease = change.lease().clone();
        let (action, address, because) = match &change {
            Event::Renewed(lease) => {
                let address = lease.address.addr();
                let lease = lease.clone();
                if let Err(error) = self.ask(|answer| Ask::Relent(lease, answer)).await {
                    tracing::warn!(%address, error, "that a lease was renewed could not be kept");
                }
                return;
            }
            Event::Changed { was, lease } => (
                "changed",
                *was,
                format!(
                    "the DHCP server {} gives {} now: start the container again",
                    lease.server,
                    lease.address.addr()
                ),
            ),
            Event::Lost { lease, refused } => (
                "lost",
                lease.address.addr(),
                match refused {
                    Some(why) => format!("the DHCP server refuses it ({why}): start the container again"),
                    None => "its time is over, and no DHCP server has answered: start the server, or the container again".to_owned(),
                },
            ),
            Event::NoAnswer { lease, left } => (
                "unanswered",
                lease.address.addr(),
                format!("no DHCP server answers; the lease ends in {} s", left.as_secs()),
            ),
        };
        tracing::warn!(%address, parent = %lease.parent, because, "a lent address");
        events.tell(&What::Address {
            action,
            address: address.into(),
            parent: lease.parent.clone(),
            because,
        });
    }
}
