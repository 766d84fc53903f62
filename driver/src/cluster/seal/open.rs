//! Opening datagrams: who may send, with which secret, in which run, and each datagram once.
//!
//! ```text
//!   length, magic, version ─> sender a member? ─> secret valid? ─> which run?
//!                                                                   ├─ the present one: its counter is new ──> MAC ─> taken
//!                                                                   ├─ a later epoch ──> MAC ─> the present one from now on, taken
//!                                                                   ├─ the same epoch, another instance ──> MAC ─> Clone
//!                                                                   ├─ the one before, counter beyond all heard ──> MAC ─> StillAlive
//!                                                                   └─ else OldEpoch or Replay
//! ```
//!
//! What fails before the MAC costs a look-up or two. For one that claims a run whose key isn't known, the key is made
//! and thrown away again unless its MAC is right; no state changes on any word that isn't proved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use aws_lc_rs::aead::{Aad, LessSafeKey};
use tombolo_cluster::HostId;
use tombolo_cluster::time::Tick;

use super::header::{HEADER, Header, To};
use super::window::Window;
use super::{DATAGRAM_MAX, Instance, Last, Root, Why, nonce};
use crate::cluster::secret::Secret;

/// How many datagrams were taken, and how many were not, by reason. Since the opener was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub opened: u64,
    pub short: u64,
    pub long: u64,
    pub magic: u64,
    pub version: u64,
    pub sender: u64,
    pub old_key: u64,
    pub new_key: u64,
    pub old_epoch: u64,
    pub replay: u64,
    pub mac: u64,
    pub clones: u64,
    pub still_alive: u64,
}

impl Counts {
    /// Those that were not taken, each with its reason as [`Why::name`] has it.
    pub fn dropped(&self) -> [(&'static str, u64); 12] {
        [
            ("short", self.short),
            ("long", self.long),
            ("magic", self.magic),
            ("version", self.version),
            ("sender", self.sender),
            ("old_key", self.old_key),
            ("new_key", self.new_key),
            ("old_epoch", self.old_epoch),
            ("replay", self.replay),
            ("mac", self.mac),
            ("clone", self.clones),
            ("still_alive", self.still_alive),
        ]
    }

    fn note(&mut self, outcome: Result<(), Why>) {
        let field = match outcome {
            Ok(()) => &mut self.opened,
            Err(Why::Short) => &mut self.short,
            Err(Why::Long) => &mut self.long,
            Err(Why::Magic) => &mut self.magic,
            Err(Why::Version) => &mut self.version,
            Err(Why::Sender) => &mut self.sender,
            Err(Why::OldKey) => &mut self.old_key,
            Err(Why::NewKey) => &mut self.new_key,
            Err(Why::OldEpoch { .. }) => &mut self.old_epoch,
            Err(Why::Replay) => &mut self.replay,
            Err(Why::Mac) => &mut self.mac,
            Err(Why::Clone { .. }) => &mut self.clones,
            Err(Why::StillAlive { .. }) => &mut self.still_alive,
        };
        *field = field.saturating_add(1);
    }
}

/// A datagram that was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Who sealed it, or another holder of the secret in its name.
    pub sender: HostId,
    /// The sender's start.
    pub epoch: u32,
    /// Its instance.
    pub instance: Instance,
    /// The number of the secret it was sealed with.
    pub number: u32,
    /// Whether it was to all, and not to this host alone.
    pub to_all: bool,
    /// Whether the sender was first heard in this run now: the time to keep [`Opener::last`].
    pub first: bool,
    /// What it carries.
    pub plain: &'a [u8],
}

/// One start of a sender, as heard. At most one key for each valid secret.
struct Run {
    epoch: u32,
    instance: Instance,
    window: Window,
    keys: Vec<(u32, LessSafeKey)>,
}

impl Run {
    fn after(epoch: u32, instance: Instance, counter: u64) -> Self {
        Self {
            epoch,
            instance,
            window: Window::after(counter),
            keys: Vec::new(),
        }
    }

    fn is_of(&self, header: &Header) -> bool {
        (self.epoch, self.instance) == (header.epoch, header.instance)
    }

    fn key(&self, number: u32) -> Option<&LessSafeKey> {
        self.keys
            .iter()
            .find(|(known, _)| *known == number)
            .map(|(_, key)| key)
    }

    /// Notes what was proved: a counter, and the key that it needed if that was new.
    fn note(&mut self, header: &Header, made: Option<LessSafeKey>) {
        self.window.note(header.counter);
        self.keys.extend(made.map(|key| (header.number, key)));
    }
}

/// What a datagram would be, if its MAC were right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Present,
    Later,
    Before,
    Twin,
}

/// What is known of a member: its present run and the one heard before it.
#[derive(Default)]
struct Sender {
    present: Option<Run>,
    before: Option<Run>,
}

impl Sender {
    /// What the header claims, as far as it can be told without a key.
    fn claim(&self, header: &Header) -> Result<Claim, Why> {
        let Some(present) = &self.present else {
            return Ok(Claim::Later);
        };
        if present.is_of(header) {
            return match present.window.is_new(header.counter) {
                true => Ok(Claim::Present),
                false => Err(Why::Replay),
            };
        }
        if header.epoch > present.epoch {
            return Ok(Claim::Later);
        }
        match &self.before {
            Some(before) if before.is_of(header) => match header.counter > before.window.top() {
                true => Ok(Claim::Before),
                false => Err(Why::Replay),
            },
            _ if header.epoch == present.epoch => Ok(Claim::Twin),
            _ => Err(Why::OldEpoch {
                sender: header.sender,
                epoch: header.epoch,
            }),
        }
    }

    fn key(&self, claim: Claim, number: u32) -> Option<&LessSafeKey> {
        match claim {
            Claim::Present => self.present.as_ref()?.key(number),
            Claim::Before => self.before.as_ref()?.key(number),
            Claim::Later | Claim::Twin => None,
        }
    }

    fn runs(&mut self) -> impl Iterator<Item = &mut Run> {
        self.present.iter_mut().chain(&mut self.before)
    }
}

/// The secrets that are valid.
struct Valid {
    current: Root,
    other: Option<(Root, Tick)>,
}

impl Valid {
    fn new(current: &Secret, other: Option<(&Secret, Tick)>) -> Self {
        Self {
            current: Root::new(current),
            other: other.map(|(secret, until)| (Root::new(secret), until)),
        }
    }

    fn find(&self, number: u32) -> Result<&Root, Why> {
        match &self.other {
            _ if number == self.current.number => Ok(&self.current),
            Some((other, _)) if number == other.number => Ok(other),
            _ if number < self.current.number => Err(Why::OldKey),
            _ => Err(Why::NewKey),
        }
    }
}

/// This host's ear: opens what members have sealed. What it holds grows with the members and with nothing else.
pub struct Opener {
    me: HostId,
    valid: Valid,
    senders: BTreeMap<HostId, Sender>,
    counts: Counts,
}

impl Opener {
    /// Opens for `me` what the other `members` send. `last` is how far each was heard by what was kept; a member of whom
    /// nothing was kept is taken in whatever run it is first heard.
    pub fn new(
        me: HostId,
        current: &Secret,
        members: &BTreeSet<HostId>,
        last: &BTreeMap<HostId, Last>,
    ) -> Self {
        let valid = Valid::new(current, None);
        let mut opener = Self {
            me,
            valid,
            senders: BTreeMap::new(),
            counts: Counts::default(),
        };
        opener.set_members(members);
        for (host, last) in last {
            if let Some(sender) = opener.senders.get_mut(host) {
                sender.present = Some(Run::after(last.epoch, last.instance, last.counter));
            }
        }
        opener
    }

    /// From now on the members are these. What is known of those who stay is kept; what is known of others is dropped, so
    /// an identifier that comes back must not be one that was a member before.
    pub fn set_members(&mut self, members: &BTreeSet<HostId>) {
        self.senders.retain(|host, _| members.contains(host));
        for host in members.iter().filter(|host| **host != self.me) {
            self.senders.entry(*host).or_default();
        }
    }

    /// From now on `current` is valid, and until a tick (and at it) another: the one before, or the next.
    pub fn set_secrets(&mut self, current: &Secret, other: Option<(&Secret, Tick)>) {
        self.valid = Valid::new(current, other);
        // All of them: making one again is cheap, and nothing then depends on a number never naming another secret.
        self.senders
            .values_mut()
            .flat_map(Sender::runs)
            .for_each(|run| run.keys.clear());
    }

    /// How far each member was heard. Kept when a run was first heard and now and then, it says what a restart has to
    /// refuse; what was opened after it was kept could be opened again.
    pub fn last(&self) -> BTreeMap<HostId, Last> {
        let of = |(host, sender): (&HostId, &Sender)| {
            let run = sender.present.as_ref()?;
            Some((
                *host,
                Last {
                    epoch: run.epoch,
                    instance: run.instance,
                    counter: run.window.top(),
                },
            ))
        };
        self.senders.iter().filter_map(of).collect()
    }

    /// The latest epoch that a member was heard in.
    pub fn epoch(&self, host: &HostId) -> Option<u32> {
        let present = self.senders.get(host)?.present.as_ref();
        present.map(|run| run.epoch)
    }

    /// What came until now.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Opens a datagram in place. After an error the bytes are of no use.
    pub fn open<'a>(&mut self, now: Tick, from: SocketAddr, bytes: &'a mut [u8]) -> Result<Opened<'a>, Why> {
        let outcome = self.judge(now, from, bytes);
        self.counts.note(outcome.as_ref().map(|_| ()).map_err(|why| *why));
        outcome
    }

    fn judge<'a>(&mut self, now: Tick, from: SocketAddr, bytes: &'a mut [u8]) -> Result<Opened<'a>, Why> {
        if bytes.len() > DATAGRAM_MAX {
            return Err(Why::Long);
        }
        let header = Header::read(bytes)?;
        if self.valid.other.as_ref().is_some_and(|(_, until)| now > *until) {
            self.valid.other = None;
            self.drop_keys();
        }
        let sender = self.senders.get_mut(&header.sender).ok_or(Why::Sender)?;
        let root = self.valid.find(header.number)?;
        let claim = sender.claim(&header)?;

        let known = sender.key(claim, header.number);
        let made = match known {
            Some(_) => None,
            None => Some(
                root.key(header.sender, header.epoch, header.instance)
                    .map_err(|_| Why::Mac)?,
            ),
        };
        let key = known.or(made.as_ref()).ok_or(Why::Mac)?;
        let bound = header.bound(if header.to_all { To::All } else { To::Host(self.me) });
        let (_, sealed) = bytes.split_at_mut_checked(HEADER).ok_or(Why::Short)?;
        let plain = key
            .open_in_place(nonce(header.counter), Aad::from(bound), sealed)
            .map_err(|_| Why::Mac)?;

        // From here on the header is proved.
        match claim {
            Claim::Twin => return Err(Why::cloned(&header, from)),
            Claim::Later => {
                sender.before = sender.present.take();
                sender.present = Some(Run::after(header.epoch, header.instance, 0));
            }
            Claim::Present | Claim::Before => {}
        }
        let run = if claim == Claim::Before {
            &mut sender.before
        } else {
            &mut sender.present
        };
        if let Some(run) = run {
            run.note(&header, made);
        }
        if claim == Claim::Before {
            return Err(Why::alive(&header, from));
        }
        Ok(Opened {
            sender: header.sender,
            epoch: header.epoch,
            instance: header.instance,
            number: header.number,
            to_all: header.to_all,
            first: claim == Claim::Later,
            plain,
        })
    }

    /// Forgets the keys of a secret whose time is over.
    fn drop_keys(&mut self) {
        for run in self.senders.values_mut().flat_map(Sender::runs) {
            run.keys.retain(|(number, _)| self.valid.find(*number).is_ok());
        }
    }

    /// How many keys and windows are held, for tests of their bound.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        let runs = || {
            self.senders
                .values()
                .flat_map(|sender| sender.present.iter().chain(&sender.before))
        };
        (runs().map(|run| run.keys.len()).sum(), runs().count())
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Opener({:?}, {} senders, key {})",
            self.me,
            self.senders.len(),
            self.valid.current.number
        )
    }
}
