//! What a table remembers of other hosts' rows across its own restarts: one record for each host.

use tombolo_ipam::HostId;

use super::Table;
use super::exchange::{Delta, Head, Merged};
use super::version::{Cover, Version};
use super::wire::{Garbled, Wire};
use crate::time::Tick;
use crate::wire::sum;

/// The form of the records. It stands in their first byte.
const FORM: u8 = 1;
const WHAT: &str = "a record of a host's rows";

impl Table {
    /// A record of all that is held of a host's rows; none if nothing is, or it is this host.
    ///
    /// # Errors
    /// None that is known of, see [`Wire::encode`].
    pub fn snapshot(&self, now: Tick, host: HostId) -> Result<Option<Vec<u8>>, Garbled> {
        let nothing = Head {
            origin: host,
            cover: Cover::default(),
            swept: Version::default(),
        };
        let Some(held) = self.delta(now, &nothing, usize::MAX).filter(|_| host != self.me) else {
            return Ok(None);
        };
        let body = Delta { base: None, ..held }.encode()?;
        let check = sum(body.iter().copied()).to_le_bytes();
        Ok(Some([&[FORM][..], &check, &body].concat()))
    }

    /// Takes in what such a record holds, if the host is admitted. It counts as known; removals in it live on from now
    /// for what they had left.
    ///
    /// # Errors
    /// [`Garbled`] if the record was damaged, or is none. Nothing was changed.
    pub fn restore(&mut self, now: Tick, record: &[u8]) -> Result<Merged, Garbled> {
        let damaged = || Garbled::Damaged {
            what: WHAT,
            got: record.len(),
        };
        let (head, body) = record.split_at_checked(9).ok_or_else(damaged)?;
        let check = sum(body.iter().copied()).to_le_bytes();
        match head.split_first() {
            Some((&FORM, of)) if of == check => Ok(self.merge(now, Delta::decode(body, usize::MAX)?)),
            _ => Err(damaged()),
        }
    }
}
