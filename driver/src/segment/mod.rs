//! Who else is on the wire of a parent link, so that no address goes out that a stranger there has.
//!
//! ```text
//!   daemon ── check, keep_ahead ──> Segments ──> parent: a task for each link
//!                                      │           ├─ asking   whom to ask for and when; pure
//!   kernel ── links, addresses ──> own ┘           │    └─ table, proxies > recent
//!   (kernel/here)                                  └─ wire     packet sockets (kernel/frame, kernel/packet)
//! ```
//!
//! What is said on the wire is heard all the time, and the addresses that will go out next are asked for ahead. So a check is
//! nearly always answered from what is known, and a container starts as soon as without it. Where nobody can be asked, as
//! without a carrier, the verdict says so at once.
//!
//! What a parent sends goes to the wire only, not to macvlan links on it, and it doesn't hear what these send. So other people's on
//! this host are no strangers to it (a network of Docker's own, a virtual machine); to a macvlan link in bridge mode on that parent
//! they are. Where a network has such a link for the host's access, that is the better one to watch.
//!
//! Strangers are all whose hardware address is neither one of this host's links nor one that the daemon calls ours. What other
//! hosts of a cluster say of their containers is kept as anybody's: it is about addresses that are not ours to give.

mod asking;
mod own;
mod parent;
mod proxies;
mod random;
mod recent;
mod table;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tombolo_core::model::{IfName, Mac};

use self::own::Own;
use self::parent::{Order, Orders, Parent};
use crate::kernel::here::{self, Changes, Here, Told};

/// How many checks wait for the task of a parent at most; more wait for these.
const QUEUE: usize = 256;

/// The pause before the kernel is asked anew for links and addresses, when it failed to tell: at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A stranger on the wire, with this hardware address.
    Stranger(Mac),
    /// This host itself, on any of its links.
    ThisHost,
}

/// Why nobody could be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The link is not watched, or no longer.
    Unwatched,
    /// There is no such link.
    Missing,
    /// It is down.
    Down,
    /// It has no carrier.
    NoCarrier,
    /// It is not one of Ethernet.
    Strange,
    /// It has become another one while somebody waited.
    Changed,
    /// So many frames came that answers may have been lost.
    Flooded,
    /// Too many addresses are being asked for.
    Busy,
    /// The time was over before the outcome was there.
    Late,
    /// The system refused, for this reason.
    Refused(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unwatched => "the link is not watched",
            Self::Missing => "there is no such link",
            Self::Down => "the link is down",
            Self::NoCarrier => "the link has no carrier",
            Self::Strange => "the link is not one of Ethernet",
            Self::Changed => "the link has become another one",
            Self::Flooded => "answers may have been lost among too many frames",
            Self::Busy => "too many addresses are being asked for",
            Self::Late => "there was not enough time",
            Self::Refused(why) => why,
        })
    }
}

/// What is to be held of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody on the wire has it: asked for within the last minute.
    Free,
    /// Somebody has it, or is about to take it.
    Taken(Holder),
    /// Only somebody answers for it that answers for all addresses (proxy ARP): it can't be told whether it is free.
    Proxy(Mac),
    /// It can't be told, because nobody could be asked.
    Unasked(Why),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("nobody has it"),
            Self::Taken(Holder::Stranger(mac)) => write!(f, "{mac} has it"),
            Self::Taken(Holder::ThisHost) => f.write_str("this host has it"),
            Self::Proxy(mac) => write!(f, "{mac} answers for it, as for all addresses (proxy ARP)"),
            Self::Unasked(why) => write!(f, "nobody could be asked: {why}"),
        }
    }
}

/// What a check may go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// What is known, as long as that is new enough.
    Known,
    /// Only what the wire answers now: whoever had the address may have gone a moment ago.
    Nothing,
}

/// What the tasks have in common.
struct Shared {
    own: RwLock<Own>,
    /// Whether a hardware address is one of ours, besides those of this host's links.
    ours: Box<dyn Fn(Mac) -> bool + Send + Sync>,
    parents: Mutex<BTreeMap<IfName, Handle>>,
}

/// The way to the task of a parent. It ends when this is dropped.
struct Handle {
    checks: mpsc::Sender<Order>,
    ahead: watch::Sender<Vec<IpAddr>>,
    link: watch::Sender<Option<Here>>,
    sent: Arc<AtomicU64>,
}

impl Shared {
    // A task that panicked with a lock has left a whole map: each change is one insertion or removal.
    fn own(&self) -> RwLockReadGuard<'_, Own> {
        self.own.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn parents(&self) -> MutexGuard<'_, BTreeMap<IfName, Handle>> {
        self.parents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the kernel says of one link or address.
    fn learn(&self, told: Told) {
        let mut own = self.own.write().unwrap_or_else(PoisonError::into_inner);
        own.learn(&told);
        drop(own);
        for (name, handle) in self.parents().iter() {
            let known = |index: u32| {
                handle
                    .link
                    .borrow()
                    .as_ref()
                    .is_some_and(|link| link.index == index)
            };
            match &told {
                Told::Link(link) if link.name == name.as_str() => handle.stands(Some(link.clone())),
                // It has another name now.
                Told::Link(link) if known(link.index) => handle.stands(None),
                Told::NoLink(index) if known(*index) => handle.stands(None),
                _ => {}
            }
        }
    }

    /// Looks at all links and addresses anew.
    fn look(&self) -> io::Result<()> {
        let (all, mut own) = (here::all()?, Own::default());
        all.iter().for_each(|told| own.learn(told));
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
        for (name, handle) in self.parents().iter() {
            handle.stands(named(&all, name));
        }
        Ok(())
    }
}

impl Handle {
    fn stands(&self, now: Option<Here>) {
        self.link.send_if_modified(|before| {
            let differs = *before != now;
            *before = now;
            differs
        });
    }
}

/// The link of a name.
fn named(all: &[Told], name: &IfName) -> Option<Here> {
    let link = |told: &Told| match told {
        Told::Link(link) if link.name == name.as_str() => Some(link.clone()),
        _ => None,
    };
    all.iter().find_map(link)
}

/// Those who are on the wires of parent links, in the network namespace of the thread that made this.
pub struct Segments {
    shared: Arc<Shared>,
    follower: JoinHandle<()>,
}

impl Drop for Segments {
    fn drop(&mut self) {
        self.follower.abort();
        self.shared.parents().clear();
    }
}

impl Segments {
    /// Begins to follow this host's links and addresses. `ours` tells whether a hardware address is one of ours that is on no
    /// link of this host's namespace, as those of containers; it is asked for each word on the wires, so it must be quick.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket, or doesn't tell what there is.
    ///
    /// # Panics
    /// Outside of a runtime of tokio.
    pub fn new(ours: impl Fn(Mac) -> bool + Send + Sync + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            own: RwLock::default(),
            ours: Box::new(ours),
            parents: Mutex::default(),
        });
        let changes = Changes::new()?;
        shared.look()?;
        let follower = tokio::spawn(follow(Arc::clone(&shared), changes));
        Ok(Self { shared, follower })
    }

    /// Begins to listen on the wire of a link, whether there is one already or not. Nothing changes if that has begun before.
    ///
    /// # Errors
    /// When the kernel doesn't tell how the link stands. Nothing has begun then.
    pub fn watch(&self, parent: &IfName) -> io::Result<()> {
        let mut parents = self.shared.parents();
        if parents.contains_key(parent) {
            return Ok(());
        }
        let (checks, checks_come) = mpsc::channel(QUEUE);
        let (ahead, ahead_come) = watch::channel(Vec::new());
        // What changes meanwhile waits for the lock.
        let (link, link_comes) = watch::channel(named(&here::all()?, parent));
        let (sent, orders) = (
            Arc::<AtomicU64>::default(),
            Orders {
                checks: checks_come,
                ahead: ahead_come,
                link: link_comes,
            },
        );
        let seed = RandomState::new().hash_one(parent.as_str());
        let shared = Arc::clone(&self.shared);
        let task = Parent::new(parent.clone(), shared, orders, Arc::clone(&sent), seed);
        let handle = Handle {
            checks,
            ahead,
            link,
            sent,
        };
        parents.insert(parent.clone(), handle);
        tokio::spawn(task.run());
        Ok(())
    }

    /// Listens no more on the wire of a link, and forgets what was heard there.
    pub fn unwatch(&self, parent: &IfName) {
        self.shared.parents().remove(parent);
    }

    /// These addresses will be checked next on the wire of a link, the first ones first: they are asked for in the background,
    /// again and again, in the place of those named before. All networks of a link are to be in it; of more than 256 addresses the
    /// rest is left out.
    pub fn keep_ahead(&self, parent: &IfName, mut addresses: Vec<IpAddr>) {
        addresses.truncate(asking::AHEAD);
        if let Some(handle) = self.shared.parents().get(parent) {
            handle.ahead.send_replace(addresses);
        }
    }

    /// Who has an address on the wire of a link? The answer is there at once if it is known, and else within 300 ms, or within
    /// `limit` if that is less.
    pub async fn check(&self, parent: &IfName, address: IpAddr, limit: Duration) -> Verdict {
        self.judge(parent, address, Trust::Known, limit).await
    }

    /// The same, by nothing but what the wire answers now.
    pub async fn check_anew(&self, parent: &IfName, address: IpAddr, limit: Duration) -> Verdict {
        self.judge(parent, address, Trust::Nothing, limit).await
    }

    async fn judge(&self, parent: &IfName, address: IpAddr, trust: Trust, limit: Duration) -> Verdict {
        if self.shared.own().has(address) {
            return Verdict::Taken(Holder::ThisHost);
        }
        let checks = self
            .shared
            .parents()
            .get(parent)
            .map(|handle| handle.checks.clone());
        let Some(checks) = checks else {
            return Verdict::Unasked(Why::Unwatched);
        };
        let (who, told) = tokio::sync::oneshot::channel();
        let asked = async {
            checks.send((address, trust, who)).await.ok()?;
            told.await.ok()
        };
        match timeout(limit, asked).await {
            Ok(verdict) => verdict.unwrap_or(Verdict::Unasked(Why::Unwatched)),
            Err(_) => Verdict::Unasked(Why::Late),
        }
    }

    /// How many probes were sent by a link since it is watched; none if it isn't.
    pub fn probes(&self, parent: &IfName) -> Option<u64> {
        let parents = self.shared.parents();
        parents
            .get(parent)
            .map(|handle| handle.sent.load(Ordering::Relaxed))
    }
}

/// Follows the kernel's word of links and addresses.
async fn follow(shared: Arc<Shared>, mut changes: Changes) {
    let mut pause = PAUSE;
    loop {
        let followed = follow_on(&shared, &mut changes).await;
        // Only failures end it.
        let Err(error) = followed else { continue };
        tracing::warn!(%error, "the kernel doesn't tell of this host's links and addresses; it is asked anew");
        sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MOST);
        match Changes::new().and_then(|anew| shared.look().map(|()| anew)) {
            Ok(anew) => (changes, pause) = (anew, PAUSE),
            Err(error) => tracing::warn!(%error, "this host's links and addresses"),
        }
    }
}

async fn follow_on(shared: &Shared, changes: &mut Changes) -> io::Result<()> {
    for told in changes.next().await? {
        match told {
            Told::Missed => shared.look()?,
            told => shared.learn(told),
        }
    }
    Ok(())
}
