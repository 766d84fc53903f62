//! Containers that come and go all the while, on the same networks, on the hosts that an event leaves alone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use system_tests::{Site, Sites};

use super::seats::{HOSTS, NETWORKS};

/// How long between two of them: the script's pace.
const PAUSE: Duration = Duration::from_millis(700);

/// What comes and goes.
#[derive(Debug, Default)]
pub struct Churn {
    over: AtomicBool,
    /// Held by who disturbs a host, and by who runs something there.
    hosts: [Mutex<()>; HOSTS],
    number: AtomicUsize,
    refused: Mutex<Vec<String>>,
}

impl Churn {
    /// Runs containers on one host after the other until it is over.
    pub fn go_on(&self, sites: &Sites) {
        let hosts = (0..HOSTS).cycle();
        for host in hosts.take_while(|_| !self.over.load(Ordering::Relaxed)) {
            if let Ok(_held) = self.hosts[host].try_lock() {
                self.one(&sites[host]);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Runs one container on a host and removes it.
    pub fn one(&self, site: &Site) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (network, ..) = NETWORKS[number / HOSTS % NETWORKS.len()];
        match site.try_container(&format!("churn{number}"), network, &[]) {
            Ok(container) => container.remove(),
            Err(why) => {
                let mut refused = self.refused.lock().expect("no panic while held");
                refused.push(format!("  churn{number} on {} was refused: {why}", site.name()));
            }
        }
    }

    /// Lets nothing be run on these hosts while what is given lives.
    pub fn spare(&self, hosts: &[usize]) -> Vec<MutexGuard<'_, ()>> {
        let held = hosts.iter().map(|&host| self.hosts[host].lock());
        held.map(|held| held.expect("no panic while held")).collect()
    }

    /// How many have come.
    pub fn count(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    /// What engines refused since it was last asked.
    pub fn refused(&self) -> Vec<String> {
        std::mem::take(&mut self.refused.lock().expect("no panic while held"))
    }

    /// Has all of it end when this value goes, as it also does in a panic.
    pub fn until_dropped(&self) -> impl Drop + '_ {
        struct Over<'a>(&'a Churn);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.over.store(true, Ordering::Relaxed);
            }
        }
        Over(self)
    }
}
