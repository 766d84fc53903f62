//! One netlink socket and one way to ask on it: a request is done when the kernel said so, and only then.
//!
//! ```text
//!   ask ──send──> kernel ──answers──> until the ACK (or the end of the dump) of every message: Ok
//!                                     an error for any message:                               Refused
//!                                     silence, an overrun, an unreadable answer:              Broken
//! ```
//!
//! There is no task between us and the socket, so there is none that could die and leave a request unanswered that
//! looks finished. A request that was given up (a timeout, a dropped future) leaves answers behind that nobody waits
//! for; the next request then begins on a fresh socket.

use std::future::{Future, poll_fn};
use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkSerializable, Parseable,
};
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::time::timeout;

use super::attributes;
use super::watch::Own;

/// How long the kernel may take for one datagram. It answers in microseconds, or in milliseconds where it has to go through
/// a large table; a second means that something is wrong.
const PATIENCE: Duration = Duration::from_secs(1);

/// Size of the socket's buffers in bytes. With the default one, a few hundred unread answers overflow it.
pub(super) const QUEUE: usize = 8 << 20;

/// Size of the buffer that one datagram is read into, in bytes. The kernel cuts its dumps to what the reader can take,
/// up to 32 KiB.
const DATAGRAM: usize = 64 << 10;

/// How often a dump is tried again that was overtaken by a change while it ran.
const DUMP_TRIES: usize = 8;

/// The attribute of an error answer that holds its reason in words (`NLMSGERR_ATTR_MSG`).
const ERROR_TEXT: u16 = 1;

/// Why a request did not end well.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The kernel said no. Nothing was changed.
    #[error("{}", refusal(*errno, text))]
    Refused {
        /// The kernel's error number, positive.
        errno: i32,
        /// Its reason in words, where it gave one.
        text: String,
    },
    /// No answer, or none that could be read. What was asked may or may not have been done.
    #[error("{0}")]
    Broken(String),
}

fn refusal(errno: i32, text: &str) -> String {
    let error = io::Error::from_raw_os_error(errno);
    if text.is_empty() {
        error.to_string()
    } else {
        format!("{text} ({error})")
    }
}

impl Failure {
    /// The kernel's error number, if it gave one.
    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Broken(_) => None,
        }
    }

    /// A refusal by ourselves, in our own words.
    pub(super) fn ours<T>(text: impl Into<String>) -> Result<T, Self> {
        Err(Self::Refused {
            errno: libc::EINVAL,
            text: text.into(),
        })
    }
}

/// A refusal with one of these numbers means that what was asked for holds already.
pub(super) fn unless(result: Result<(), Failure>, fine: &[i32]) -> Result<(), Failure> {
    match result {
        Err(failure) if failure.errno().is_some_and(|errno| fine.contains(&errno)) => Ok(()),
        other => other,
    }
}

/// One message of an answer.
pub(super) struct Reply {
    /// Its header.
    pub(super) header: NetlinkHeader,
    /// What follows the header.
    pub(super) payload: Vec<u8>,
}

/// A netlink socket of one protocol, in the network namespace of the thread that first asks on it.
pub(super) struct Socket {
    protocol: isize,
    /// The kernel obeys what a dump's header and attributes say, and refuses what they can't mean.
    strict: bool,
    open: Option<TokioSocket>,
    own: Own,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// A socket of a protocol (`NETLINK_ROUTE`, `NETLINK_NETFILTER`). It is opened by the first request.
    pub(super) fn new(protocol: isize) -> Self {
        Self {
            protocol,
            strict: false,
            open: None,
            own: Own::default(),
            sequence: 0,
            buffer: Vec::new(),
        }
    }

    /// One on which the kernel gives only what a dump's header and attributes ask for (`NETLINK_GET_STRICT_CHK`, Linux
    /// 4.20). An older one gives everything, as on any socket, so whoever asks still looks at what comes.
    pub(super) fn strict(protocol: isize) -> Self {
        Self {
            strict: true,
            ..Self::new(protocol)
        }
    }

    /// By what its changes are known.
    pub(super) fn own(&self) -> Own {
        self.own.clone()
    }

    /// Asks for a change or for one thing; gives what came back besides the ACK.
    pub(super) async fn ask<T: NetlinkSerializable>(
        &mut self,
        mut message: NetlinkMessage<T>,
    ) -> Result<Vec<Reply>, Failure> {
        message.header.flags |= NLM_F_REQUEST | NLM_F_ACK;
        self.batch(vec![message]).await
    }

    /// Asks for all things of a sort. A dump during which something changed may lack things that were there all the
    /// time, so it is made again.
    pub(super) async fn dump<T: NetlinkSerializable + Clone>(
        &mut self,
        message: NetlinkMessage<T>,
    ) -> Result<Vec<Reply>, Failure> {
        self.dump_read(message, Some).await
    }

    /// The same of what `read` makes of each: of very many things, only what is wanted of them is held.
    pub(super) async fn dump_read<T: NetlinkSerializable + Clone, R>(
        &mut self,
        mut message: NetlinkMessage<T>,
        read: impl Fn(Reply) -> Option<R>,
    ) -> Result<Vec<R>, Failure> {
        message.header.flags |= NLM_F_REQUEST | NLM_F_DUMP;
        for _ in 0..DUMP_TRIES {
            let (mut found, mut whole) = (Vec::new(), true);
            let take = |reply: Reply| {
                whole &= reply.header.flags & NLM_F_DUMP_INTR == 0;
                if reply.header.message_type != NLMSG_DONE {
                    found.extend(read(reply));
                }
            };
            self.talk(vec![message.clone()], take).await?;
            if whole {
                return Ok(found);
            }
        }
        Err(Failure::Broken(format!(
            "it changed during each of {DUMP_TRIES} readings"
        )))
    }

    /// Asks for all things of a sort and gives each of them to `take` as it comes. What changes meanwhile may be missed.
    pub(super) async fn list<T: NetlinkSerializable>(
        &mut self,
        mut message: NetlinkMessage<T>,
        mut take: impl FnMut(Reply),
    ) -> Result<(), Failure> {
        message.header.flags |= NLM_F_REQUEST | NLM_F_DUMP;
        self.talk(vec![message], |reply| {
            if reply.header.message_type != NLMSG_DONE {
                take(reply);
            }
        })
        .await
    }

    /// Sends messages as one datagram and waits for an answer to each that asks for one (by its ACK or dump flag).
    pub(super) async fn batch<T: NetlinkSerializable>(
        &mut self,
        messages: Vec<NetlinkMessage<T>>,
    ) -> Result<Vec<Reply>, Failure> {
        let mut replies = Vec::new();
        self.talk(messages, |reply| replies.push(reply)).await?;
        Ok(replies)
    }

    async fn talk<T: NetlinkSerializable>(
        &mut self,
        mut messages: Vec<NetlinkMessage<T>>,
        take: impl FnMut(Reply),
    ) -> Result<(), Failure> {
        let first = self.sequence.wrapping_add(1);
        for message in &mut messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            message.finalize();
        }
        let waiting = messages
            .iter()
            .filter(|m| m.header.flags & (NLM_F_ACK | NLM_F_DUMP) != 0)
            .count();
        let mut datagram = vec![0; messages.iter().map(|m| m.buffer_len().next_multiple_of(4)).sum()];
        let mut at = 0;
        for message in &messages {
            message.serialize(&mut datagram[at..at + message.buffer_len()]);
            at += message.buffer_len().next_multiple_of(4);
        }
        // Taken out while the answer is awaited: whoever drops this future half-way drops the socket with it.
        let socket = match self.open.take() {
            Some(socket) => socket,
            None => {
                let opened = open(self.protocol, self.strict, &self.own);
                opened.map_err(|e| Failure::Broken(format!("opening a netlink socket: {e}")))?
            }
        };
        let mut talk = Talk {
            socket: &socket,
            buffer: &mut self.buffer,
            first,
            last: self.sequence,
            take,
        };
        let outcome = talk.exchange(&datagram, waiting).await;
        // After a refusal within a batch, answers to its other messages may still be in the queue.
        let clean = match &outcome {
            Ok(_) => true,
            Err(Failure::Refused { .. }) => messages.len() == 1,
            Err(Failure::Broken(_)) => false,
        };
        if clean {
            self.open = Some(socket);
        }
        outcome
    }
}

fn open(protocol: isize, strict: bool, own: &Own) -> io::Result<TokioSocket> {
    let mut open = TokioSocket::new(protocol)?;
    let socket = open.socket_mut();
    own.are_of(socket.bind_auto()?.port_number());
    socket.connect(&SocketAddr::new(0, 0))?;
    // Answers carry the kernel's reason in words, but not a copy of the request.
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    if strict && let Err(error) = socket.set_netlink_get_strict_chk(true) {
        match error.raw_os_error() {
            Some(libc::ENOPROTOOPT) => {}
            _ => return Err(error),
        }
    }
    setsockopt(socket, sockopt::RcvBufForce, &QUEUE)?;
    Ok(open)
}

/// One request on its way.
struct Talk<'a, F> {
    socket: &'a TokioSocket,
    buffer: &'a mut Vec<u8>,
    first: u32,
    last: u32,
    take: F,
}

impl<F: FnMut(Reply)> Talk<'_, F> {
    async fn exchange(&mut self, datagram: &[u8], mut waiting: usize) -> Result<(), Failure> {
        let send = poll_fn(|context| self.socket.poll_send(context, datagram));
        let sent = in_time("writing to", send).await?;
        if sent != datagram.len() {
            return Err(Failure::Broken(format!(
                "{sent} of {} bytes were sent",
                datagram.len()
            )));
        }
        while waiting > 0 {
            in_time("reading from", self.receive()).await?;
            waiting = self.sort(waiting)?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(DATAGRAM);
        poll_fn(|context| self.socket.poll_recv(context, self.buffer)).await
    }

    /// Sorts the messages of one datagram; gives how many answers are still awaited.
    fn sort(&mut self, mut waiting: usize) -> Result<usize, Failure> {
        let unreadable = |e: &dyn std::fmt::Display| Failure::Broken(format!("unreadable answer: {e}"));
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(|e| unreadable(&e))?;
            let header = NetlinkHeader::parse(&message).map_err(|e| unreadable(&e))?;
            let payload = message.payload();
            rest = rest
                .get((message.length() as usize).next_multiple_of(4)..)
                .unwrap_or_default();
            if !(self.first..=self.last).contains(&header.sequence_number) {
                continue;
            }
            match header.message_type {
                NLMSG_NOOP => {}
                NLMSG_OVERRUN => return Err(Failure::Broken("the kernel lost answers".into())),
                NLMSG_ERROR => {
                    verdict(&header, payload)?;
                    waiting = waiting.saturating_sub(1);
                }
                NLMSG_DONE => {
                    // A dump that failed half-way says so in its last message.
                    verdict(&header, payload)?;
                    waiting = waiting.saturating_sub(1);
                    // Kept for its header: it may be the only message of a dump that was overtaken.
                    (self.take)(Reply {
                        header,
                        payload: Vec::new(),
                    });
                }
                _ => (self.take)(Reply {
                    header,
                    payload: payload.to_vec(),
                }),
            }
        }
        Ok(waiting)
    }
}

/// Waits for one datagram to come or to go.
async fn in_time<T>(what: &str, done: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    let broken = |why: String| Failure::Broken(format!("{what} the netlink socket: {why}"));
    match timeout(PATIENCE, done).await {
        Ok(done) => done.map_err(|e| broken(e.to_string())),
        Err(_) => Err(broken(format!("{PATIENCE:?} have passed"))),
    }
}

/// Whether an answer with an error number is an ACK.
fn verdict(header: &NetlinkHeader, payload: &[u8]) -> Result<(), Failure> {
    let code = payload
        .first_chunk::<4>()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 {
        return Ok(());
    }
    // The error number, the header of the request (all of the request if it was not capped), then attributes.
    let echoed = match header.flags & NLM_F_CAPPED {
        0 => payload
            .get(4..8)
            .and_then(|l| l.try_into().ok())
            .map_or(16, |l| u32::from_ne_bytes(l) as usize),
        _ => 16,
    };
    let rest = payload.get(4 + echoed.next_multiple_of(4)..).unwrap_or_default();
    let text = attributes::one(rest, ERROR_TEXT).map(attributes::text);
    Err(Failure::Refused {
        errno: -code,
        text: text.unwrap_or_default(),
    })
}
