//! A lease as it is kept: what is needed to go on with it after a start, with times of the wall clock, since no other clock
//! outlives a host.

use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::Ipv4Net;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tombolo_core::model::{IfName, Mac};

use super::LeaseId;
use super::machine::{Grant, Times};
use super::message::Who;

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The link by which the server is reached.
    pub parent: IfName,
    /// The hardware address that it was given to.
    pub mac: Mac,
    /// The client identifier.
    pub client_id: Vec<u8>,
    /// The host name.
    pub host_name: Option<String>,
    /// The address, with the length of its network's prefix.
    pub address: Ipv4Net,
    /// The first router.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// The server that gave it.
    pub server: Ipv4Addr,
    /// The hardware address that the server is reached by.
    pub hop: Mac,
    /// When it was asked for, in milliseconds since 1970.
    pub obtained_ms: u64,
    /// When it has to be renewed and when it ends; never, if none.
    pub until: Option<Until>,
}

/// What comes when, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Until {
    /// The server is asked for more time.
    pub t1_ms: u64,
    /// All servers are.
    pub t2_ms: u64,
    /// The address isn't ours any more.
    pub expiry_ms: u64,
}

impl Lease {
    /// Which one it is.
    pub fn id(&self) -> LeaseId {
        LeaseId {
            parent: self.parent.clone(),
            mac: self.mac,
        }
    }

    /// What a server gave to somebody, as it is kept.
    pub(super) fn of(parent: &IfName, who: &Who, grant: &Grant, now: Now) -> Self {
        Self {
            parent: parent.clone(),
            mac: who.mac,
            client_id: who.client_id.clone(),
            host_name: who.host_name.clone(),
            address: grant.address,
            router: grant.router,
            name_servers: grant.name_servers.clone(),
            server: grant.server,
            hop: grant.hop,
            obtained_ms: now.to_wall(grant.since_ms),
            until: grant.times.map(|times| Until {
                t1_ms: now.to_wall(times.t1_ms),
                t2_ms: now.to_wall(times.t2_ms),
                expiry_ms: now.to_wall(times.expiry_ms),
            }),
        }
    }

    /// Whose it is.
    pub(super) fn who(&self) -> Who {
        Who {
            mac: self.mac,
            client_id: self.client_id.clone(),
            host_name: self.host_name.clone(),
        }
    }

    /// What is left of it.
    ///
    /// A wall clock that is before the lease was obtained has been set back, and tells nothing: then it is renewed at once.
    pub(super) fn grant(&self, now: Now) -> Grant {
        let set_back = now.wall_ms < self.obtained_ms;
        let times = self.until.map(|until| {
            let Until {
                t1_ms,
                t2_ms,
                expiry_ms,
            } = until;
            let reckon = |ms: u64| match set_back {
                true => now.ms.saturating_add(ms.saturating_sub(t1_ms)),
                false => now.of_wall(ms),
            };
            Times {
                t1_ms: reckon(t1_ms),
                t2_ms: reckon(t2_ms),
                expiry_ms: reckon(expiry_ms),
            }
        });
        Grant {
            address: self.address,
            router: self.router,
            name_servers: self.name_servers.clone(),
            server: self.server,
            hop: self.hop,
            since_ms: if set_back {
                now.ms
            } else {
                now.of_wall(self.obtained_ms)
            },
            times,
        }
    }
}

/// A moment by both clocks, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Now {
    /// Since the host started. It counts while the host sleeps, as the server's clock does, and nobody sets it.
    pub ms: u64,
    /// Since 1970.
    pub wall_ms: u64,
}

impl Now {
    pub fn get() -> Self {
        let since_start =
            clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            ms: u64::try_from(std::time::Duration::from(since_start).as_millis()).unwrap_or(u64::MAX),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn to_wall(self, ms: u64) -> u64 {
        move_by(self.wall_ms, self.ms, ms)
    }

    fn of_wall(self, wall_ms: u64) -> u64 {
        move_by(self.ms, self.wall_ms, wall_ms)
    }
}

/// What is as far from `base` as `to` is from `from`.
fn move_by(base: u64, from: u64, to: u64) -> u64 {
    match to.checked_sub(from) {
        Some(later) => base.saturating_add(later),
        None => base.saturating_sub(from - to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Now = Now {
        ms: 1_000_000,
        wall_ms: 50_000_000,
    };

    fn lease() -> Lease {
        let mac = |last| Mac::from_bytes([2, 0, 0, 0, 0, last]).unwrap();
        let who = Who {
            mac: mac(1),
            client_id: vec![1, 2, 3],
            host_name: Some("web".into()),
        };
        let grant = Grant {
            address: "192.0.2.9/24".parse().unwrap(),
            router: Some([192, 0, 2, 1].into()),
            name_servers: Vec::new(),
            server: [192, 0, 2, 1].into(),
            hop: mac(2),
            since_ms: 999_000,
            times: Some(Times {
                t1_ms: 1_059_000,
                t2_ms: 1_104_000,
                expiry_ms: 1_119_000,
            }),
        };
        Lease::of(&"eth0".parse().unwrap(), &who, &grant, HERE)
    }

    #[test]
    fn a_lease_is_the_same_after_it_was_kept() {
        let kept = serde_json::to_string(&lease()).unwrap();
        assert_eq!(serde_json::from_str::<Lease>(&kept).unwrap(), lease());
        assert_eq!(lease().obtained_ms, 49_999_000);
        assert_eq!(lease().who().host_name.as_deref(), Some("web"));
    }

    #[test]
    fn times_are_those_of_the_clock_that_nobody_sets() {
        // Another start of the host, ten seconds later.
        let now = Now {
            ms: 3_000,
            wall_ms: 50_010_000,
        };
        let grant = lease().grant(now);
        let times = Times {
            t1_ms: 52_000,
            t2_ms: 97_000,
            expiry_ms: 112_000,
        };
        assert_eq!((grant.since_ms, grant.times), (0, Some(times)));
    }

    #[test]
    fn what_ended_long_ago_has_ended() {
        let now = Now {
            ms: 3_000,
            wall_ms: 90_000_000,
        };
        assert!(lease().grant(now).times.unwrap().expiry_ms < now.ms);
    }

    #[test]
    fn a_clock_that_was_set_back_has_it_renewed_at_once_and_no_longer_held_than_it_was_given_for() {
        let now = Now {
            ms: 3_000,
            wall_ms: 7,
        };
        let times = lease().grant(now).times.unwrap();
        assert_eq!(
            (times.t1_ms, times.t2_ms, times.expiry_ms),
            (3_000, 48_000, 63_000)
        );
    }
}
