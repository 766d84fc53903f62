//! Word from the kernel that somebody has changed firewall rules, so that ours are put back at once and not on the next
//! slow tick: when Docker's engine starts it makes its chains anew, and containers start right behind it.
//!
//! Of other tables only rules and chains count, of our own the elements of sets as well. What we change ourselves is told
//! from what others change by the number of the socket that asked for it, which every message bears.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::attributes;

/// `NETLINK_NETFILTER`, include/uapi/linux/netlink.h.
const NETFILTER: isize = 12;
/// `NFNLGRP_NFTABLES`, include/uapi/linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// `NFT_MSG_{NEW,DEL}TABLE`, `…CHAIN`, `…RULE` (include/uapi/linux/netfilter/nf_tables.h).
const RULES: [u16; 6] = [0, 2, 3, 5, 6, 8];
/// `NFT_MSG_{NEW,DEL}SET`, `…SETELEM`.
const SETS: [u16; 4] = [9, 11, 12, 14];
/// The attribute that names the table, the same for tables, chains and rules.
const TABLE: u16 = 1;
/// Length of `struct nfgenmsg`.
const GENERIC_HEADER: usize = 4;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The table of ours.
const OURS: &[u8] = b"tombolo\0";

/// By what our own changes are known: the number of the socket that asks for them, 0 before it is open.
#[derive(Debug, Clone, Default)]
pub struct Own(Arc<AtomicU32>);

impl Own {
    /// Notes the number of the socket that changes come from now on.
    pub(super) fn are_of(&self, socket: u32) {
        self.0.store(socket, Ordering::SeqCst);
    }

    fn is(&self, message: &NetlinkBuffer<&[u8]>) -> bool {
        self.0.load(Ordering::SeqCst) == message.port_number()
    }
}

/// A subscription to changes of rules in this thread's network namespace.
pub struct Watch {
    socket: TokioSocket,
    own: Own,
}

impl Watch {
    /// Subscribes.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket or the subscription.
    pub fn new(own: Own) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self { socket, own })
    }

    /// Waits until somebody else has changed a rule or a chain, or something of our table. An overflow counts as a change:
    /// something was missed.
    ///
    /// # Errors
    /// When the socket fails for another reason.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let (datagram, _) = match self.socket.recv_from_full().await {
                Ok(received) => received,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            };
            if messages(&datagram).any(|message| concerns_us(&message, &self.own)) {
                return Ok(());
            }
        }
    }

    /// Lets go of what was heard so far: whoever looks after this sees all of it.
    ///
    /// # Errors
    /// As for [`Self::changed`].
    pub fn catch_up(&mut self) -> io::Result<()> {
        drain(&mut self.socket).map(drop)
    }
}

/// Lets go of what a socket has received. Whether that was anything; an overflow counts as something.
///
/// # Errors
/// When the socket fails for another reason.
pub(super) fn drain(socket: &mut TokioSocket) -> io::Result<bool> {
    let mut any = false;
    while let Some(received) = socket.recv_from_full().now_or_never() {
        match received {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return Err(error),
            _ => any = true,
        }
    }
    Ok(any)
}

/// The messages of a datagram. What is cut short ends them.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        let length = message.length() as usize;
        let next = length.next_multiple_of(4).min(datagram.len());
        if length < HEADER {
            return None;
        }
        let this = NetlinkBuffer::new_checked(datagram.get(..length)?).ok()?;
        datagram = &datagram[next..];
        Some(this)
    })
}

fn concerns_us(message: &NetlinkBuffer<&[u8]>, own: &Own) -> bool {
    let (subsystem, kind) = (message.message_type() >> 8, message.message_type() & 0xff);
    if subsystem != SUBSYSTEM || own.is(message) {
        return false;
    }
    let written = message.payload().get(GENERIC_HEADER..).unwrap_or_default();
    let ours = attributes::one(written, TABLE) == Some(OURS);
    RULES.contains(&kind) || ours && SETS.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of a change that socket 7 asked for.
    fn message(kind: u16, table: &[u8]) -> Vec<u8> {
        let length = HEADER + GENERIC_HEADER + 4 + table.len().next_multiple_of(4);
        let mut bytes = (length as u32).to_ne_bytes().to_vec();
        bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.extend([0; 6]);
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend([1, 0, 0, 0]);
        bytes.extend((4 + table.len() as u16).to_ne_bytes());
        bytes.extend(TABLE.to_ne_bytes());
        bytes.extend(table);
        bytes.resize(length, 0);
        bytes
    }

    fn heard_beside(socket: u32, datagram: &[u8]) -> bool {
        let own = Own::default();
        own.are_of(socket);
        messages(datagram).any(|message| concerns_us(&message, &own))
    }

    fn heard(datagram: &[u8]) -> bool {
        heard_beside(8, datagram)
    }

    #[test]
    fn others_changes_are_heard_and_our_own_are_not() {
        for kind in [2, 6, 12, 14] {
            assert!(heard(&message(kind, OURS)), "{kind}");
            assert!(!heard_beside(7, &message(kind, OURS)), "{kind}");
        }
        assert!(heard(&message(6, b"filter\0")));
        // An element of another table, and the end of a transaction.
        assert!(!heard(&message(12, b"filter\0")));
        assert!(!heard(&message(15, b"filter\0")) && !heard(&message(15, OURS)));
        assert!(heard(
            &[message(12, b"filter\0"), message(8, b"filter\0")].concat()
        ));
    }

    #[test]
    fn what_is_cut_short_is_not_heard_and_does_no_harm() {
        let whole = message(6, b"filter\0");
        for length in 0..whole.len() {
            heard(&whole[..length]);
        }
        let mut endless = whole.clone();
        endless[..4].copy_from_slice(&0u32.to_ne_bytes());
        assert!(!heard(&endless));
    }
}
