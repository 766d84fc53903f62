//! The task of one parent link: its socket, and its leases.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Weak;
use std::time::Duration;

use dhcproto::Encodable;
use ipnet::Ipv4Net;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tombolo_core::model::{IfName, Mac};

use super::events::{Event, Outbox};
use super::frame::{self, LONGEST};
use super::lease::{Lease, Now};
use super::link::Fault;
use super::machine::{self, Machine, Outgoing, Output};
use super::message::{Answer, Who};
use super::way::Way;
use super::{Error, LeaseId, Shared};

/// The longest sleep. Timers don't run on while the host sleeps, and leases do.
const LONGEST_SLEEP_MS: u64 = 60_000;

/// How often it is looked whether a lease that was handed over has been taken, in milliseconds.
const CLAIM_MS: u64 = 500;

/// A lease for who asked for it, and how that one says that it has it.
pub(super) type Handed = (Lease, oneshot::Sender<()>);

/// How a lease ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Release,
    Decline,
}

/// What can be asked of a parent's task.
#[derive(Debug)]
pub(super) enum Command {
    Lease {
        who: Who,
        wanted: Option<Ipv4Addr>,
        within: Ipv4Net,
        limit_ms: u64,
        deadline_ms: u64,
        reply: oneshot::Sender<Result<Handed, Error>>,
    },
    Resume {
        lease: Lease,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Call {
        mac: Mac,
        host_name: String,
    },
    End {
        mac: Mac,
        how: End,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// Who waits for a lease.
enum Asker {
    /// Who asked for it has not got it.
    Waiting {
        reply: oneshot::Sender<Result<Handed, Error>>,
        limit_ms: u64,
        deadline_ms: u64,
    },
    /// It was given, and may not have been taken.
    Handed(oneshot::Receiver<()>, u64),
    /// It is told of as events.
    Nobody,
}

struct Entry {
    who: Who,
    machine: Machine,
    asker: Asker,
    /// The last that was had.
    lease: Option<Lease>,
    /// When it is looked after again.
    due_ms: u64,
}

/// One parent link.
pub(super) struct Parent {
    name: IfName,
    outbox: Outbox,
    entries: BTreeMap<Mac, Entry>,
    dues: BTreeSet<(u64, Mac)>,
    /// Those that wait for an answer.
    asking: BTreeSet<Mac>,
    way: Way,
}

impl Parent {
    pub fn new(name: IfName, outbox: Outbox) -> Self {
        let way = Way::new(name.clone());
        Self {
            name,
            outbox,
            entries: BTreeMap::new(),
            dues: BTreeSet::new(),
            asking: BTreeSet::new(),
            way,
        }
    }

    /// Works until there is nothing to do, or nobody to do it for.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, shared: Weak<Shared>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            self.work();
            if !self.way.is_open() && self.entries.is_empty() && self.may_end(&commands, &shared) {
                return;
            }
            let wait = Duration::from_millis(self.wait_ms());
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    // Leases go on at their servers, for a later run.
                    None => return,
                },
                read = self.way.next(&mut buffer) => match read {
                    Ok(length) => self.hear(&buffer[..length]),
                    Err(fault) => self.way.broken(fault, Now::get().ms),
                },
                () = sleep(wait) => {}
            }
        }
    }

    /// Whether this task may end. Nobody reaches it from then on.
    fn may_end(&self, commands: &mpsc::Receiver<Command>, shared: &Weak<Shared>) -> bool {
        let Some(shared) = shared.upgrade() else {
            return true;
        };
        let mut parents = shared.parents();
        let idle = commands.is_empty();
        if idle {
            parents.remove(&self.name);
        }
        idle
    }

    fn wait_ms(&self) -> u64 {
        let due_ms = self.dues.first().map_or(u64::MAX, |(due_ms, _)| *due_ms);
        let link_ms = self.way.due_ms(!self.asking.is_empty());
        let left_ms = due_ms.min(link_ms).saturating_sub(Now::get().ms);
        // One more, as sleeping ends when a millisecond has begun.
        left_ms.saturating_add(1).min(LONGEST_SLEEP_MS)
    }

    /// Does all that is due.
    fn work(&mut self) {
        let now = Now::get();
        while let Some((due_ms, mac)) = self.dues.first().copied()
            && due_ms <= now.ms
        {
            self.look_after(mac, now);
        }
        if self.way.tick(now.ms, !self.asking.is_empty()) {
            self.hasten(now);
        }
    }

    /// Has asked soon what could not be asked.
    fn hasten(&mut self, now: Now) {
        for mac in self.asking.clone() {
            if let Some(entry) = self.entries.get_mut(&mac) {
                entry.machine.nudge(now.ms, &mut dice);
            }
            self.schedule(mac);
        }
    }

    fn obey(&mut self, command: Command) {
        let now = Now::get();
        // Who asked may have gone meanwhile, and then doesn't need an answer.
        match command {
            Command::Lease {
                who,
                wanted,
                within,
                limit_ms,
                deadline_ms,
                reply,
            } => {
                let asker = Asker::Waiting {
                    reply,
                    limit_ms,
                    deadline_ms,
                };
                let machine = Machine::new(who.clone(), wanted, within, now.ms);
                self.begin(who, machine, asker, now);
            }
            Command::Resume { lease, reply } => {
                let outcome = self.vacant(lease.mac, now);
                if outcome.is_ok() {
                    let machine = Machine::resume(lease.who(), lease.grant(now), now.ms);
                    self.insert(lease.who(), machine, Asker::Nobody, Some(lease));
                }
                reply.send(outcome).ok();
            }
            Command::Call { mac, host_name } => {
                if let Some(entry) = self.entries.get_mut(&mac) {
                    entry.who.host_name = Some(host_name.clone());
                    entry.machine.call(host_name);
                }
            }
            Command::End { mac, how, reply } => {
                reply.send(self.end(mac, how)).ok();
            }
        }
    }

    /// Begins to ask for a lease, if there is a way to ask.
    fn begin(&mut self, who: Who, machine: Machine, asker: Asker, now: Now) {
        let mac = who.mac;
        let needed = self.way.need(now.ms);
        if needed == Ok(true) {
            self.hasten(now);
        }
        let usable = needed.map(drop).map_err(|fault| self.fault(fault));
        if let Err(error) = self.vacant(mac, now).and(usable) {
            return refuse(asker, error);
        }
        self.insert(who, machine, asker, None);
        self.look_after(mac, now);
        // It may turn out only now that there is no way.
        if let Err(fault) = self.way.known()
            && let Some(entry) = self.forget(mac)
        {
            refuse(entry.asker, self.fault(fault));
        }
    }

    fn fault(&self, fault: Fault) -> Error {
        let parent = self.name.clone();
        Error::Parent { parent, fault }
    }

    /// Makes sure that nobody has or waits for a lease of an address.
    fn vacant(&mut self, mac: Mac, now: Now) -> Result<(), Error> {
        match self.heed_asker(mac, now) {
            true => Err(Error::Held {
                parent: self.name.clone(),
                mac,
            }),
            false => Ok(()),
        }
    }

    fn insert(&mut self, who: Who, machine: Machine, asker: Asker, lease: Option<Lease>) {
        let mac = who.mac;
        let entry = Entry {
            who,
            machine,
            asker,
            lease,
            due_ms: 0,
        };
        self.entries.insert(mac, entry);
        self.schedule(mac);
    }

    /// Has a lease looked after when that is due.
    fn schedule(&mut self, mac: Mac) {
        let Some(entry) = self.entries.get_mut(&mac) else {
            return;
        };
        self.dues.remove(&(entry.due_ms, mac));
        let asker_ms = match &entry.asker {
            Asker::Waiting { deadline_ms, .. } => *deadline_ms,
            Asker::Handed(_, look_ms) => *look_ms,
            Asker::Nobody => u64::MAX,
        };
        entry.due_ms = entry.machine.due_ms().min(asker_ms);
        self.dues.insert((entry.due_ms, mac));
        if entry.machine.asks() {
            self.asking.insert(mac);
        } else {
            self.asking.remove(&mac);
        }
    }

    fn forget(&mut self, mac: Mac) -> Option<Entry> {
        let entry = self.entries.remove(&mac)?;
        self.dues.remove(&(entry.due_ms, mac));
        self.asking.remove(&mac);
        let parent = self.name.clone();
        self.outbox.forget(&LeaseId { parent, mac });
        Some(entry)
    }

    /// Does what is due for a lease.
    fn look_after(&mut self, mac: Mac, now: Now) {
        if self.heed_asker(mac, now)
            && let Some(entry) = self.entries.get_mut(&mac)
        {
            let output = entry.machine.tick(now.ms, &mut dice);
            self.act(mac, output, now);
        }
    }

    /// Looks what has become of who asked for a lease; gives whether there is still one to look after.
    fn heed_asker(&mut self, mac: Mac, now: Now) -> bool {
        let Some(entry) = self.entries.get_mut(&mac) else {
            return false;
        };
        match &mut entry.asker {
            Asker::Waiting { reply, .. } if reply.is_closed() => {
                self.give_up(mac);
                false
            }
            Asker::Waiting { deadline_ms, .. } if now.ms >= *deadline_ms => {
                let asker = std::mem::replace(&mut entry.asker, Asker::Nobody);
                let error = self.why_not(mac, &asker);
                self.give_up(mac);
                refuse(asker, error);
                false
            }
            Asker::Handed(claim, look_ms) => match claim.try_recv() {
                Ok(()) => {
                    entry.asker = Asker::Nobody;
                    true
                }
                Err(oneshot::error::TryRecvError::Empty) => {
                    *look_ms = now.ms.saturating_add(CLAIM_MS);
                    true
                }
                Err(oneshot::error::TryRecvError::Closed) => {
                    self.give_up(mac);
                    false
                }
            },
            Asker::Waiting { .. } | Asker::Nobody => true,
        }
    }

    /// Ends a lease that nobody waits for.
    fn give_up(&mut self, mac: Mac) {
        if let Err(error) = self.end(mac, End::Release) {
            tracing::warn!(%error, %mac, "a lease that nobody waits for any more lasts until its time is over");
        }
    }

    /// Why who asked has no answer yet.
    fn why_not(&self, mac: Mac, asker: &Asker) -> Error {
        let parent = self.name.clone();
        let refused = self.entries.get(&mac).and_then(|entry| entry.machine.refused());
        match (self.way.carries(), refused, asker) {
            (Err(fault), _, _) => Error::Parent { parent, fault },
            (Ok(()), Some(why), _) => {
                let why = why.to_owned();
                Error::Refused { parent, mac, why }
            }
            (Ok(()), None, Asker::Waiting { limit_ms, .. }) => {
                let waited_ms = *limit_ms;
                Error::NoAnswer {
                    parent,
                    mac,
                    waited_ms,
                }
            }
            (Ok(()), None, _) => Error::Ended { parent, mac },
        }
    }

    /// Takes a frame.
    fn hear(&mut self, frame: &[u8]) {
        let answer = frame::read(frame).and_then(|(hop, message)| Answer::read(message, hop));
        let Some(answer) = answer else {
            return;
        };
        let now = Now::get();
        // Nothing more is taken for who has gone.
        if self.heed_asker(answer.mac, now)
            && let Some(entry) = self.entries.get_mut(&answer.mac)
        {
            let output = entry.machine.receive(now.ms, &answer, &mut dice);
            self.act(answer.mac, output, now);
        }
    }

    /// Does what a lease's machine says.
    fn act(&mut self, mac: Mac, output: Output, now: Now) {
        if let Some(out) = &output.send
            && let Err(error) = self.send(mac, out)
        {
            // As if it were lost on the wire: it is asked again.
            tracing::debug!(%error, %mac, "a message of DHCP can't be sent");
        }
        if let Some(event) = output.event {
            self.tell(mac, event, now);
        }
        self.schedule(mac);
    }

    fn send(&mut self, mac: Mac, out: &Outgoing) -> Result<(), Error> {
        let message = out.message.to_vec().map_err(|error| Error::Malformed {
            field: "a message of DHCP",
            got: format!("too long ({error})"),
            allowed: "a client identifier and a host name have 255 bytes at most",
        })?;
        let frame = frame::frame(mac, out.to, &message);
        let sent = self.way.send(&frame, Now::get().ms);
        sent.map_err(|fault| self.fault(fault))
    }

    /// Tells of what has happened: who asked for the lease, or who keeps it.
    fn tell(&mut self, mac: Mac, event: machine::Event, now: Now) {
        use machine::Event::{Changed, Lost, NoAnswer, Obtained, Renewed};
        let Some(entry) = self.entries.get_mut(&mac) else {
            return;
        };
        if let Obtained(grant) | Renewed(grant) | Changed { now: grant, .. } = &event {
            entry.lease = Some(Lease::of(&self.name, &entry.who, grant, now));
        }
        // There is one from the first of these on.
        let Some(lease) = entry.lease.clone() else {
            return;
        };
        let told = match event {
            Obtained(_) => match std::mem::replace(&mut entry.asker, Asker::Nobody) {
                Asker::Waiting { reply, .. } => {
                    let (claim, claimed) = oneshot::channel();
                    entry.asker = Asker::Handed(claimed, now.ms.saturating_add(CLAIM_MS));
                    if reply.send(Ok((lease, claim))).is_err() {
                        self.give_up(mac);
                    }
                    return;
                }
                _ => Event::Renewed(lease),
            },
            Renewed(_) => Event::Renewed(lease),
            Changed { was, .. } => Event::Changed { was, lease },
            Lost { refused, .. } => Event::Lost { lease, refused },
            NoAnswer { left_ms } => {
                let left = Duration::from_millis(left_ms);
                Event::NoAnswer { lease, left }
            }
        };
        self.outbox.put(told);
    }

    /// Ends a lease, if there is one, and tells its server.
    fn end(&mut self, mac: Mac, how: End) -> Result<(), Error> {
        let Some(mut entry) = self.forget(mac) else {
            return Ok(());
        };
        let out = match how {
            End::Release => entry.machine.release(&mut dice),
            End::Decline => entry.machine.decline(&mut dice),
        };
        out.map_or(Ok(()), |out| self.send(mac, &out))
    }
}

/// Tells who waits for a lease that there is none. Who has gone needs no answer.
fn refuse(asker: Asker, error: Error) {
    if let Asker::Waiting { reply, .. } = asker {
        reply.send(Err(error)).ok();
    }
}

/// A random number: of a transaction, or for a pause.
fn dice() -> u32 {
    match crate::cluster::draw() {
        Ok(bytes) => u32::from_be_bytes(bytes),
        // Other numbers than those of the last time will do; nothing secret hangs on them.
        Err(_) => (Now::get().wall_ms as u32).rotate_left(16) ^ std::process::id(),
    }
}
