//! The kernel: what is ours in it, and one change to it at a time.
//!
//! How a process without memory knows what is ours:
//!
//! | sort | sign |
//! |---|---|
//! | links | link group [`tombolo_core::world::LINK_GROUP`], set in the message that makes the link; the container's end of a pair goes with the host's end |
//! | addresses | being on a link of ours, without being IPv6 link-local |
//! | ports | being a link of ours that is up and has a master |
//! | how a bridge asks who hears which group | being a bridge of ours, with exactly what [`tombolo_core::world::Key::Querier`] sets |
//! | neighbours | being permanent, or a proxy entry, on a bridge of ours |
//! | forwarding entries | being on a VXLAN link of ours (`self`), or a bridge's about one (`master`), but for the link's own address |
//! | routes | protocol [`tombolo_core::world::ROUTE_PROTO`], with metric [`tombolo_core::world::ROUTE_METRIC`] in the main table, or for ::1 on a bridge |
//! | rules, sets, maps | being in table `inet tombolo`; or in `bridge tombolo`, which is constant |
//! | an adopted bridge | link group [`tombolo_core::world::ADOPTED_GROUP`], which is all that is ours of it, and addresses with our protocol number |
//! | the administrator's table | never, once something was added to it |
//! | the accept in FORWARD | its text, with the comment `tombolo` |
//! | settings | never ours to take away: see [`tombolo_core::world::Key::Setting`] |
//!
//! What is ours but not as it must be (a bridge that is down, a link of a strange kind, a table with a rule too few, the
//! accept before an administrator's own rules) is found as [`tombolo_core::world::Value::Unfit`], so a difference mends
//! or removes it. A table that is not whole shows no elements: mending it replaces it.
//!
//! ```text
//!   real ──> netlink, link, addresses > socket   links, addresses, ports
//!        ├─> vxlan, neighbours ──────> socket   tunnels; who is where
//!        ├─> uplinks ────────────────> socket   links on the wire of another link
//!        ├─> groups ─────────────────> socket   who hears which group
//!        ├─> placed ─────────────────> socket   a container's link made within its sandbox
//!        ├─> paths, loopback, rate ──> socket   routes, limits
//!        ├─> announce ──> frame, packet         what others are told of addresses
//!        ├─> probe                              frames to other hosts and back
//!        ├─> here, frame, packet                for `segment`: who else is on a wire
//!        ├─> conntrack ──────────────> socket   flows that lead astray
//!        ├─> nft, shape, elements ───> socket   sets and maps; the table itself by `nft -f -`
//!        ├─> docker_accept ──────────> tools    one rule, by `iptables`
//!        └─> settings                           /proc/sys/net
//!   fake                                        the same promises, in memory
//! ```

mod addresses;
mod announce;
mod attributes;
pub(crate) mod checksum;
mod conntrack;
mod docker_accept;
mod elements;
pub mod fake;
pub(crate) mod frame;
pub mod groups;
pub(crate) mod here;
pub mod hook;
mod link;
pub mod look;
mod loopback;
mod neighbours;
mod netlink;
mod nft;
pub mod notice;
pub(crate) mod packet;
mod paths;
mod placed;
pub mod probe;
mod rate;
mod real;
pub mod routes;
pub mod sandbox;
mod settings;
mod shape;
mod socket;
mod tools;
pub mod uplinks;
mod user;
mod vxlan;
pub mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::Instant;

use ipnet::IpNet;

pub use fake::Fake;
pub use placed::{Placed, Sandbox};
pub use real::Real;
use tombolo_core::kinds::Theirs;
use tombolo_core::model::{IfName, Mac, Proto};
use tombolo_core::world::{Family, Step, World};

/// Flows that may lead where they no longer belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// Those that a port of this host led somewhere, while it did.
    Into {
        /// The port's protocol.
        proto: Proto,
        /// The host's address; an unspecified one means all of its family.
        host: IpAddr,
        /// The host's port.
        port: u16,
        /// Where it led.
        to: (IpAddr, u16),
    },
    /// All to a port of an address that are not translated.
    At(IpAddr, u16),
    /// All of UDP from and to an address, whoever began them: whoever has the address next is another.
    Of(IpAddr),
    /// Those from a subnet that left this host with their own address and have not been answered: they began while nobody
    /// translated them, and that holds for as long as they go on.
    Bare(IpNet),
    /// Those of UDP for a port of this host that lead elsewhere than the port does now.
    Udp {
        /// The host's address; an unspecified one means all of its family.
        host: IpAddr,
        /// The host's port.
        port: u16,
        /// Where it leads.
        to: (IpAddr, u16),
    },
}

impl Flow {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        match self {
            Self::At(address, _) | Self::Of(address) => Family::of(*address),
            Self::Bare(subnet) => Family::of(subnet.addr()),
            Self::Into { host, .. } | Self::Udp { host, .. } => Family::of(*host),
        }
    }

    /// Whether such flows are of somebody who is there and goes on sending, and not of a container that is gone.
    pub fn goes_on(&self) -> bool {
        matches!(self, Self::Udp { .. } | Self::Bare(_))
    }

    /// Whether a flow that begins anew to or from an address could be taken for one of these.
    pub fn concerns(&self, holder: IpAddr) -> bool {
        match self {
            Self::Into { to: (address, _), .. } | Self::At(address, _) | Self::Of(address) => {
                *address == holder
            }
            Self::Bare(subnet) => subnet.contains(&holder),
            // What leads where its port leads is none of these.
            Self::Udp { .. } => false,
        }
    }
}

/// What those on a bridge are told of an address, whatever they believed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The bridge.
    pub bridge: IfName,
    /// The address.
    pub address: IpAddr,
    /// The hardware address behind it.
    pub mac: Mac,
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bridge, address, mac } = self;
        write!(f, "those on {bridge} are told that {address} has {mac}")
    }
}

/// Why a step was refused or the kernel could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel (or the tool that speaks to it) refused one step. The kernel is as it was before the step.
    #[error("{step}: {why}")]
    Refused {
        /// The step as an operator would type it.
        step: String,
        /// The kernel's answer, with what to do about it where we know.
        why: String,
    },
    /// The kernel did not answer in time, or the connection to it broke. The step may or may not have been done: only
    /// a fresh look tells.
    #[error("{step}: no answer from the kernel ({why})")]
    Unknown {
        /// The step as an operator would type it.
        step: String,
        /// What broke.
        why: String,
    },
    /// What holds could not be read. Nothing was changed.
    #[error("reading {what}: {why}")]
    Unreadable {
        /// What was being read.
        what: &'static str,
        /// What broke.
        why: String,
    },
}

/// A look that is under way: all facts that hold and are ours.
pub type Observing = Pin<Box<dyn Future<Output = Result<World, Error>> + Send>>;

/// Links that are being removed: what became of each.
pub type Removing = Pin<Box<dyn Future<Output = Vec<Result<(), Error>>> + Send>>;

/// A kernel, real or fake.
///
/// Both keep these promises, which one suite checks for both:
/// - after `apply(Add)` or `apply(Change)` succeeds, `observe` shows the fact as it was asked for;
/// - `apply(Remove)` of what is already gone succeeds;
/// - `apply(Add)` of what is already there, as asked, succeeds (a step may be repeated after an unknown outcome);
/// - `observe` shows all that is ours and nothing that is not, whoever made or changed it;
/// - a refused step changes nothing.
///
/// Some steps take more away than they say, and a look shows it: adding or changing the table gives one without elements,
/// whatever was in it; a change of what the kernel can't change in a link (its kind; of a VXLAN link number, port and family)
/// makes the link anew, without what was on it; a VXLAN link that leaves its bridge leaves half of its forwarding entries; a
/// bridge loses its neighbours with its hardware address, and with its last address of IPv4 those of IPv4.
///
/// A future of either function may be dropped at any moment: the step was then made or not, and the kernel object goes on
/// working.
pub trait Kernel: Send {
    /// All facts that hold and are ours.
    fn observe(&mut self) -> impl Future<Output = Result<World, Error>> + Send;

    /// Begins to look for them beside all else. What is changed meanwhile may be found or not.
    fn observe_beside(&mut self) -> Observing;

    /// What the link of a name is, whoever made it; nothing where there is none.
    fn named_link(&mut self, name: &IfName) -> impl Future<Output = Result<Option<Theirs>, Error>> + Send;

    /// Makes one step.
    fn apply(&mut self, step: &Step) -> impl Future<Output = Result<(), Error>> + Send;

    /// Makes the step that adds a container's link (a pair, or one on a wire), right in its sandbox and with all set up there.
    ///
    /// # Errors
    /// Where that can't be, for whatever reason, nothing of it is left. The link can then be made on the host.
    fn attach(&mut self, step: &Step, placed: &Placed) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes a container's link on a wire that was made within a sandbox out of it, where it is still there. With an empty path it is
    /// looked for in all sandboxes.
    fn detach(&mut self, step: &Step, sandbox: &Path) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes links on wires out of all sandboxes that were made there, but for those of these names; gives their names. An earlier
    /// run may have ended before it could.
    fn sweep(&mut self, wanted: BTreeSet<IfName>) -> impl Future<Output = Result<Vec<String>, Error>> + Send;

    /// Makes many steps, in their order; gives what became of each. It is faster than one by one where neighbours and
    /// forwarding entries follow each other.
    fn apply_all(&mut self, steps: &[Step]) -> impl Future<Output = Vec<Result<(), Error>>> + Send;

    /// Begins to remove links, by steps that do that and nothing else, at once and beside all else: it takes the kernel some 20 ms.
    /// Gives what became of each.
    fn remove_links(&mut self, removals: &[Step]) -> Removing;

    /// Makes the table anew with these of its elements, all at once: whatever was in it goes in the same moment, so no packet
    /// that comes after it meets a table that lacks something. A refusal changes nothing.
    fn load(&mut self, elements: &World) -> impl Future<Output = Result<(), Error>> + Send;

    /// Begins to end flows that still lead where published ports led before. That takes the longer the more flows this host
    /// has, so it is done beside all else.
    ///
    /// # Errors
    /// When it can't even begin.
    fn forget(&mut self, flows: BTreeSet<Flow>) -> std::io::Result<()>;

    /// Waits until no flow is being ended that concerns one of some addresses (see [`Flow::concerns`]), or until none is:
    /// whoever has such an address next would lose flows of its own. Tells whether that came in time.
    fn forgotten(
        &mut self,
        addresses: Option<&[IpAddr]>,
        deadline: Instant,
    ) -> impl Future<Output = bool> + Send;

    /// Tells those on bridges of ours which hardware addresses are behind some addresses now, for whoever has another one in its
    /// neighbour table. Who has none learns nothing, and no other host hears of it. It may be lost, as any packet.
    ///
    /// # Errors
    /// When one could not be sent; the others were.
    fn announce(&mut self, announcements: &[Announcement]) -> std::io::Result<()>;
}
