//! Addresses from the LAN's own DHCP server, for containers that are on the LAN themselves (macvlan): a client of DHCP (RFC
//! 2131) for each of them, in this daemon, which outlives neither their links nor their leases.
//!
//! ```text
//!   Leases ── commands ──> a task for each parent link ──> Machine for each lease (pure)
//!                            │ one packet socket              │ what happens
//!                            └── frames ── LAN                └──> Events ──> who keeps the leases
//! ```
//!
//! **By frames, on the parent.** The container's address is none of this host's, and at the first question there is no
//! container yet; so there is no socket of UDP that could be used. Frames are sent by the parent with the container's
//! hardware address as their source, as the container would send them itself, so a server sees one and the same client before
//! and after it exists; and answers are read from a packet socket on the parent, which sees them before a macvlan takes them
//! ([`link`]).
//!
//! **By the broadcast flag, not in promiscuous mode.** While no macvlan has the hardware address, a network card passes over
//! frames for it. Servers that are asked to answer to all do so. Once there is a container its macvlan has the card take them.
//!
//! **Renewals** go to the server alone: to the hardware address that its last answer came from, which is a router's if it is
//! elsewhere. Its answer goes to the container's address, so somebody must say by ARP where that is; a container does as long as
//! it has its link. Where that fails, or the server is another machine by now, all servers are asked from T2 on, by turns in two
//! forms, of which the second is answered to all (see [`machine`]).
//!
//! Tried against dnsmasq and busybox's udhcpd (`driver/tests/kernel_suite/dhcp`): both answer a renewal to the address, and
//! dnsmasq, where nobody is at the address, the second form to all.
//!
//! **Not reached** are servers on this host: what is sent by a link comes in neither at that link nor at the macvlans on it. A
//! container in a macvlan network reaches the former no better. **Not understood** are servers that answer to a hardware address
//! though they are asked to answer to all, while the parent doesn't take frames for it; and options that a server puts into the
//! fields for file names (option 52), which it does only if it has more to say than fits.
//!
//! **Time** is that since the host's start, with what it slept. Only what is kept has times of the wall clock.
//!
//! IPv6 needs nothing of this: addresses come by the router's advertisements, to the container itself.

mod events;
mod frame;
mod lease;
mod link;
mod machine;
mod message;
mod parent;
mod way;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tombolo_core::model::{IfName, Mac, cut};

pub use events::{Event, Events};
pub use lease::{Lease, Until};
pub use link::Fault;

use events::Outbox;
use lease::Now;
use message::Who;
use parent::{Command, End, Parent};

/// How many commands for one parent may wait. Each is done at once, so this many at the same moment are more than there are.
const COMMANDS: usize = 1_024;

/// How long a task may be late with its answer.
const GRACE: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The link that the LAN is at.
    pub parent: IfName,
    /// The container's hardware address: servers give the same address to the same one as long as they can.
    pub mac: Mac,
    /// The client identifier (RFC 2132, section 9.14): a type, and at least one byte more. [`client_id`] makes a usual one.
    pub client_id: Vec<u8>,
    /// The container's host name, for servers that put it into the DNS.
    pub host_name: Option<String>,
    /// The address that is wished for. A server may give another one.
    pub wanted: Option<Ipv4Addr>,
    /// The network that it should be of. A server that offers one elsewhere is heard if no other offers any.
    pub within: Ipv4Net,
}

/// The usual client identifier: the hardware address, with its type. A server that has given an address to a machine with this
/// MAC and no identifier takes them for two.
pub fn client_id(mac: Mac) -> Vec<u8> {
    [&[1][..], &mac.bytes()].concat()
}

/// Which lease: there is one for each hardware address on each parent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseId {
    /// The parent link.
    pub parent: IfName,
    /// The hardware address.
    pub mac: Mac,
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What was asked for can't be said in DHCP. Nothing was asked.
    #[error("{field} is {got}: {allowed}")]
    Malformed {
        /// The field.
        field: &'static str,
        /// What it is.
        got: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The parent link can't be used. A lease that was to be released is forgotten all the same, and the server keeps it until
    /// its time is over.
    #[error("DHCP on {parent}: {fault}")]
    Parent {
        /// The link.
        parent: IfName,
        /// Why.
        fault: Fault,
    },
    /// There is such a lease already, or one is being asked for. It goes on.
    #[error("{mac} has a DHCP lease on {parent} already")]
    Held {
        /// The link.
        parent: IfName,
        /// The hardware address.
        mac: Mac,
    },
    /// No server answered in time. Nothing is held.
    #[error("no DHCP server on {parent} has answered {mac} in {waited_ms} ms")]
    NoAnswer {
        /// The link.
        parent: IfName,
        /// Who asked.
        mac: Mac,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// A server refused what it had offered. Nothing is held.
    #[error("the DHCP server on {parent} refuses {mac} an address: {why:?}")]
    Refused {
        /// The link.
        parent: IfName,
        /// Who asked.
        mac: Mac,
        /// What the server says.
        why: String,
    },
    /// More is asked for at once than can be. Nothing was asked.
    #[error("too many DHCP leases on {parent} are asked for at once")]
    Busy {
        /// The link.
        parent: IfName,
    },
    /// The lease was released while it was being asked for, or the daemon ends.
    #[error("the DHCP lease of {mac} on {parent} is not asked for any more")]
    Ended {
        /// The link.
        parent: IfName,
        /// Who asked.
        mac: Mac,
    },
}

/// Whether a text can be a host name.
fn check_host_name(name: &str) -> Result<(), Error> {
    let label = |label: &str| {
        let plain = label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        plain && (1..=63).contains(&label.len())
    };
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(()),
        false => Err(Error::Malformed {
            field: "the host name",
            got: format!("{:?}", cut(name)),
            allowed: "it consists of letters, digits, - and _, 63 at most between dots",
        }),
    }
}

impl Request {
    fn check(&self) -> Result<(), Error> {
        let id = &self.client_id;
        if !(2..=255).contains(&id.len()) {
            return Err(Error::Malformed {
                field: "the client identifier",
                got: format!("{} bytes long", id.len()),
                allowed: "it has 2 to 255 bytes",
            });
        }
        self.host_name.as_deref().map_or(Ok(()), check_host_name)
    }
}

/// All leases of this host. They go on at their servers when this is dropped; who has kept them goes on with them after a
/// start by [`Self::resume`].
#[derive(Debug, Clone)]
pub struct Leases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    outbox: Outbox,
    parents: Mutex<BTreeMap<IfName, mpsc::Sender<Command>>>,
}

impl Shared {
    fn parents(&self) -> MutexGuard<'_, BTreeMap<IfName, mpsc::Sender<Command>>> {
        // A map is whole after each change.
        self.parents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leases {
    /// None yet; and where to hear what becomes of them.
    pub fn new() -> (Self, Events) {
        let outbox = Outbox::default();
        let events = outbox.events();
        let parents = Mutex::default();
        (Self(Arc::new(Shared { outbox, parents })), events)
    }

    /// Obtains a lease within a time; from then on it is renewed, until it is released.
    ///
    /// When this is dropped before it is done, nothing is asked for any more, and what is obtained all the same is released.
    /// Nothing is told of it as an [`Event`] before it was given here.
    ///
    /// # Errors
    /// All of [`Error`]; nothing is held then.
    pub async fn lease(&self, request: Request, limit: Duration) -> Result<Lease, Error> {
        request.check()?;
        let Request {
            parent,
            mac,
            client_id,
            host_name,
            wanted,
            within,
        } = request;
        let (reply, answer) = oneshot::channel();
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let command = Command::Lease {
            who: Who {
                mac,
                client_id,
                host_name,
            },
            wanted,
            within,
            limit_ms,
            deadline_ms: Now::get().ms.saturating_add(limit_ms),
            reply,
        };
        self.command(&parent, command)?;
        match timeout(limit.saturating_add(GRACE), answer).await {
            Ok(Ok(handed)) => {
                let (lease, claim) = handed?;
                // From here on it isn't released by itself.
                claim.send(()).map_err(|()| Error::Ended { parent, mac })?;
                Ok(lease)
            }
            Ok(Err(_dropped)) => Err(Error::Ended { parent, mac }),
            Err(_late) => Err(Error::NoAnswer {
                parent,
                mac,
                waited_ms: limit_ms,
            }),
        }
    }

    /// Goes on with a lease of an earlier run. What becomes of it is told as an [`Event`]. The parent may be missing; the lease is
    /// asked after once it is there.
    ///
    /// # Errors
    /// [`Error::Held`], [`Error::Busy`], [`Error::Ended`]. Nothing was changed.
    pub async fn resume(&self, lease: Lease) -> Result<(), Error> {
        let LeaseId { parent, mac } = lease.id();
        let (reply, answer) = oneshot::channel();
        self.command(&parent, Command::Resume { lease, reply })?;
        answer.await.unwrap_or(Err(Error::Ended { parent, mac }))
    }

    /// Says another host name with the next renewal of a lease, for servers that put it into the DNS. One that isn't held stays so.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is no host name, [`Error::Busy`]. Nothing was changed.
    pub fn call(&self, id: &LeaseId, host_name: &str) -> Result<(), Error> {
        check_host_name(host_name)?;
        if !self.0.parents().contains_key(&id.parent) {
            return Ok(());
        }
        let (mac, host_name) = (id.mac, host_name.to_owned());
        self.command(&id.parent, Command::Call { mac, host_name })
    }

    /// Gives a lease back to its server. One that isn't held is released already.
    ///
    /// # Errors
    /// [`Error::Parent`] if the server can't be told: the lease is forgotten here, and lasts there until its time is over.
    /// [`Error::Busy`]: nothing was changed.
    pub async fn release(&self, id: &LeaseId) -> Result<(), Error> {
        self.end(id, End::Release).await
    }

    /// Tells the server that somebody else uses the address, so that it gives it to nobody for a while; then the lease is over.
    /// Another one should be asked for after ten seconds at the earliest, if it may wait (RFC 2131, section 3.1, step 5).
    ///
    /// # Errors
    /// As for [`Self::release`].
    pub async fn decline(&self, id: &LeaseId) -> Result<(), Error> {
        self.end(id, End::Decline).await
    }

    async fn end(&self, id: &LeaseId, how: End) -> Result<(), Error> {
        let LeaseId { parent, mac } = id.clone();
        if !self.0.parents().contains_key(&parent) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.command(&parent, Command::End { mac, how, reply })?;
        answer.await.unwrap_or(Ok(()))
    }

    /// Gives a command to the task of a parent, which is begun if there is none.
    fn command(&self, parent: &IfName, command: Command) -> Result<(), Error> {
        // The task ends itself under the same lock, if nothing waits for it: so what is put here is read.
        let mut parents = self.0.parents();
        let commands = parents.entry(parent.clone()).or_insert_with(|| {
            let (sender, commands) = mpsc::channel(COMMANDS);
            let task = Parent::new(parent.clone(), self.0.outbox.clone());
            tokio::spawn(task.run(commands, Arc::downgrade(&self.0)));
            sender
        });
        commands.try_send(command).map_err(|_| Error::Busy {
            parent: parent.clone(),
        })
    }
}
