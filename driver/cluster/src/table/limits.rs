//! How much a table takes in, what it refuses, and what it counts.

use std::collections::BTreeMap;
use std::time::Duration;

use tombolo_ipam::HostId;

use super::row::Key;
use super::version::{Cover, Version};

/// How much a table takes in, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a row's body.
    pub body: usize,
    /// Rows of one host, and beside them as many removals that are still told.
    pub rows_per_host: usize,
    /// Bytes of one host's rows, names included.
    pub bytes_per_host: usize,
    /// Rows and removals of all hosts.
    pub rows_in_all: usize,
    /// Bytes of all hosts' rows, names included.
    pub bytes_in_all: usize,
    /// Hosts whose rows are taken, this one included.
    pub hosts: usize,
    /// How long a removal is told.
    pub removal_life: Duration,
    /// How long the rows of a hidden host are kept.
    pub hidden_life: Duration,
    /// How many deltas that come in pieces may be under way; each holds at most `bytes_per_host`.
    pub gathers: usize,
    /// How long one may make no progress.
    pub gather_life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 8 << 10,
            rows_per_host: 20_000,
            bytes_per_host: 16 << 20,
            rows_in_all: 1_000_000,
            bytes_in_all: 512 << 20,
            hosts: 4096,
            removal_life: Duration::from_secs(30 * 60),
            hidden_life: Duration::from_secs(24 * 60 * 60),
            gathers: 8,
            gather_life: Duration::from_secs(30),
        }
    }
}

/// Why rows were not taken. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A body that is too large.
    #[error("row {key} of host {host} has {got} bytes: at most {at_most} are allowed")]
    Body {
        /// Whose row.
        host: HostId,
        /// Its name.
        key: Key,
        /// Its bytes.
        got: usize,
        /// The limit.
        at_most: usize,
    },
    /// Too much of one host.
    #[error("host {host} would have {got} {what}: at most {at_most} are allowed")]
    OfHost {
        /// The host.
        host: HostId,
        /// Rows, removals, bytes or gaps.
        what: &'static str,
        /// How many there would be.
        got: usize,
        /// The limit.
        at_most: usize,
    },
    /// Too much in all.
    #[error("with what host {host} sent there would be {got} {what} in all: at most {at_most} are allowed")]
    InAll {
        /// Whose rows it came with.
        host: HostId,
        /// Rows, bytes, hosts or deltas under way.
        what: &'static str,
        /// How many there would be.
        got: usize,
        /// The limit.
        at_most: usize,
    },
    /// A host that is no member, as far as this one knows.
    #[error("host {host} is not admitted")]
    NotAdmitted {
        /// The host.
        host: HostId,
    },
    /// A host that failed so long ago that its rows were forgotten; it has to be seen alive first.
    #[error("the rows of host {host} were forgotten since it failed long ago")]
    Aged {
        /// The host.
        host: HostId,
    },
    /// A delta or a change that contradicts itself.
    #[error("what was sent of host {host} contradicts itself: {why}")]
    Contradiction {
        /// Whose rows they were to be.
        host: HostId,
        /// What is wrong.
        why: &'static str,
    },
    /// Own changes after the last that an epoch can number, or an epoch that is not above the one before.
    #[error("after own change {after} a greater epoch is needed")]
    Epoch {
        /// The last own change.
        after: Version,
    },
}

/// What there is too much of where deltas wait for their next piece.
pub(super) const UNDER_WAY: &str = "deltas under way";

impl Refused {
    pub(super) fn gaps(host: HostId) -> Self {
        let at_most = Cover::SPANS;
        Self::OfHost {
            host,
            what: "gaps",
            got: at_most + 1,
            at_most,
        }
    }

    /// Whether the same will be refused again: it is not that too much else is under way.
    pub(super) fn lasts(&self) -> bool {
        !matches!(self, Self::InAll { what, .. } if *what == UNDER_WAY)
    }

    /// The host whose rows they would have been; none for own ones.
    fn host(&self) -> Option<HostId> {
        match self {
            Self::Body { host, .. } | Self::OfHost { host, .. } | Self::InAll { host, .. } => Some(*host),
            Self::NotAdmitted { host } | Self::Aged { host } | Self::Contradiction { host, .. } => {
                Some(*host)
            }
            Self::Epoch { .. } => None,
        }
    }
}

/// What went wrong with the rows of a host, since this table was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Bytes that it sent and that could not be decoded.
    pub undecodable: u64,
    /// What contradicted itself.
    pub contradictions: u64,
    /// Bodies beyond the limit.
    pub too_large: u64,
    /// What was refused since a limit would have been exceeded.
    pub over_limit: u64,
    /// What came of it while it was not admitted, or its rows were aged out.
    pub not_admitted: u64,
    /// Own changes that this host never made.
    pub from_future: u64,
    /// Own changes that came back.
    pub echoes: u64,
}

/// The faults of at most as many hosts as the table takes, and those of all others in one sum.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    by_host: BTreeMap<HostId, Faults>,
    others: Faults,
}

impl Ledger {
    pub fn of(&mut self, host: HostId, hosts: usize) -> &mut Faults {
        let known = self.by_host.contains_key(&host) || self.by_host.len() < hosts;
        match known {
            true => self.by_host.entry(host).or_default(),
            false => &mut self.others,
        }
    }

    pub fn refused(&mut self, why: &Refused, hosts: usize) {
        let Some(host) = why.host() else { return };
        let faults = self.of(host, hosts);
        *match why {
            Refused::Body { .. } => &mut faults.too_large,
            Refused::NotAdmitted { .. } | Refused::Aged { .. } => &mut faults.not_admitted,
            Refused::Contradiction { .. } => &mut faults.contradictions,
            Refused::OfHost { .. } | Refused::InAll { .. } | Refused::Epoch { .. } => &mut faults.over_limit,
        } += 1;
    }

    pub fn by_host(&self) -> &BTreeMap<HostId, Faults> {
        &self.by_host
    }

    pub fn others(&self) -> Faults {
        self.others
    }
}
