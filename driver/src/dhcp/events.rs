//! What becomes of leases, told to one who keeps them. For each lease the newest news wait, so they can't grow however slowly
//! they are read, and nobody waits until they are.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::LeaseId;
use super::lease::Lease;

/// What has become of a lease. Each has the lease as it is to be kept now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It goes on, or was lost and is had again.
    Renewed(Lease),
    /// It is one of another address now.
    Changed {
        /// The address before.
        was: Ipv4Addr,
        /// The lease.
        lease: Lease,
    },
    /// The address may not be used any more. It is still asked for, until the lease is released: then [`Self::Renewed`] or
    /// [`Self::Changed`] follows.
    Lost {
        /// The lease as it was.
        lease: Lease,
        /// What a server said, if one did; else its time is over.
        refused: Option<String>,
    },
    /// No server has answered. The address may still be used.
    NoAnswer {
        /// The lease.
        lease: Lease,
        /// For how long.
        left: Duration,
    },
}

impl Event {
    /// The lease that it is about.
    pub fn lease(&self) -> &Lease {
        match self {
            Self::Renewed(lease)
            | Self::Changed { lease, .. }
            | Self::Lost { lease, .. }
            | Self::NoAnswer { lease, .. } => lease,
        }
    }

    /// This event, where an earlier one has not been told: nobody knows yet that the address is another one.
    fn after(self, earlier: Self) -> Self {
        match (earlier, self) {
            (Self::Changed { was, .. }, Self::Renewed(lease) | Self::NoAnswer { lease, .. }) => {
                Self::Changed { was, lease }
            }
            (Self::Changed { was, .. }, Self::Changed { lease, .. }) if was == lease.address.addr() => {
                Self::Renewed(lease)
            }
            (Self::Changed { was, .. }, Self::Changed { lease, .. }) => Self::Changed { was, lease },
            (_, later) => later,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<BTreeMap<LeaseId, Event>>,
    any: Notify,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Event>> {
        // Nothing panics while it is held, and a map is whole after each change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where events are put.
#[derive(Debug, Clone, Default)]
pub(super) struct Outbox(Arc<Shared>);

impl Outbox {
    pub fn put(&self, event: Event) {
        let id = event.lease().id();
        let mut waiting = self.0.waiting();
        let event = match waiting.remove(&id) {
            Some(earlier) => event.after(earlier),
            None => event,
        };
        waiting.insert(id, event);
        drop(waiting);
        self.0.any.notify_one();
    }

    /// Nothing more is told of a lease.
    pub fn forget(&self, id: &LeaseId) {
        self.0.waiting().remove(id);
    }

    pub fn events(&self) -> Events {
        Events(self.clone())
    }
}

/// What becomes of all leases.
#[derive(Debug)]
pub struct Events(Outbox);

impl Events {
    /// Waits for the next event. May be dropped at any moment without losing one.
    pub async fn next(&mut self) -> Event {
        loop {
            let first = self.0.0.waiting().pop_first();
            match first {
                Some((_, event)) => return event,
                None => self.0.0.any.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tombolo_core::model::Mac;

    use super::*;

    fn lease(client: u8, address: u8) -> Lease {
        let mac = |last| Mac::from_bytes([2, 0, 0, 0, 0, last]).unwrap();
        Lease {
            parent: "eth0".parse().unwrap(),
            mac: mac(client),
            client_id: vec![1, client],
            host_name: None,
            address: format!("192.0.2.{address}/24").parse().unwrap(),
            router: None,
            name_servers: Vec::new(),
            server: [192, 0, 2, 1].into(),
            hop: mac(200),
            obtained_ms: 0,
            until: None,
        }
    }

    fn all(events: &mut Events) -> Vec<Event> {
        std::iter::from_fn(|| events.next().now_or_never()).collect()
    }

    #[test]
    fn of_each_lease_the_newest_event_waits() {
        let outbox = Outbox::default();
        let mut events = outbox.events();
        let refused = None;
        for _ in 0..10_000 {
            outbox.put(Event::Renewed(lease(1, 9)));
            outbox.put(Event::Renewed(lease(2, 10)));
        }
        let lost = Event::Lost {
            lease: lease(1, 9),
            refused,
        };
        outbox.put(lost.clone());
        assert_eq!(all(&mut events), [lost, Event::Renewed(lease(2, 10))]);
        outbox.put(Event::Renewed(lease(1, 9)));
        outbox.forget(&lease(1, 9).id());
        assert_eq!(all(&mut events), []);
    }

    #[test]
    fn a_change_that_nobody_knows_of_stays_one() {
        let outbox = Outbox::default();
        let mut events = outbox.events();
        let changed = |was: u8, now| Event::Changed {
            was: [192, 0, 2, was].into(),
            lease: lease(1, now),
        };
        let left = Duration::from_secs(9);
        outbox.put(changed(9, 10));
        outbox.put(Event::NoAnswer {
            lease: lease(1, 10),
            left,
        });
        outbox.put(changed(10, 11));
        outbox.put(Event::Renewed(lease(1, 11)));
        assert_eq!(all(&mut events), [changed(9, 11)]);
        outbox.put(changed(9, 10));
        outbox.put(changed(10, 9));
        assert_eq!(all(&mut events), [Event::Renewed(lease(1, 9))]);
    }
}
