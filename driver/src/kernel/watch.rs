//! Word from the kernel that somebody has changed firewall rules, so that ours are put back at once and not on the next
//! slow tick: when Docker's engine starts it makes its chains anew, and containers start right behind it.
//!
//! Only rules and chains count, of any table. Elements of sets are not heard: most of those are our own.

use std::io;

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
const NEW: [u16; 3] = [0, 3, 6];
const DEL: [u16; 3] = [2, 5, 8];
/// The attribute that names the table, the same for tables, chains and rules.
const TABLE: u16 = 1;
/// Length of `struct nfgenmsg`.
const GENERIC_HEADER: usize = 4;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The table of ours.
const OURS: &[u8] = b"tombolo\0";

/// A subscription to changes of rules in this thread's network namespace.
pub struct Watch {
    socket: TokioSocket,
}

impl Watch {
    /// Subscribes.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket or the subscription.
    pub fn new() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self { socket })
    }

    /// Waits until somebody else has changed a rule or a chain, or ours have been taken away. An overflow counts as a
    /// change: something was missed.
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
            if messages(&datagram).any(concerns_us) {
                return Ok(());
            }
        }
    }
}

/// The messages of a datagram. What is cut short ends them.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
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

fn concerns_us(message: NetlinkBuffer<&[u8]>) -> bool {
    let (subsystem, kind) = (message.message_type() >> 8, message.message_type() & 0xff);
    if subsystem != SUBSYSTEM || !(NEW.contains(&kind) || DEL.contains(&kind)) {
        return false;
    }
    let written = message.payload().get(GENERIC_HEADER..).unwrap_or_default();
    let ours = attributes::one(written, TABLE) == Some(OURS);
    // What is made in our table is made by us; what is taken from it, by somebody else or with the last network, where
    // one look too many does no harm.
    !ours || DEL.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, table: &[u8]) -> Vec<u8> {
        let length = HEADER + GENERIC_HEADER + 4 + table.len().next_multiple_of(4);
        let mut bytes = (length as u32).to_ne_bytes().to_vec();
        bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([1, 0, 0, 0]);
        bytes.extend((4 + table.len() as u16).to_ne_bytes());
        bytes.extend(TABLE.to_ne_bytes());
        bytes.extend(table);
        bytes.resize(length, 0);
        bytes
    }

    fn heard(datagram: &[u8]) -> bool {
        messages(datagram).any(concerns_us)
    }

    #[test]
    fn others_changes_and_our_losses_are_heard() {
        assert!(heard(&message(6, b"filter\0")));
        assert!(heard(&message(2, OURS)));
        assert!(!heard(&message(6, OURS)));
        // An element, and the end of a transaction.
        assert!(!heard(&message(12, b"filter\0")));
        assert!(!heard(&message(15, b"filter\0")));
        assert!(heard(&[message(6, OURS), message(8, b"filter\0")].concat()));
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
