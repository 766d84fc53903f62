//! Who comes first where this host's user makes a network in the very moment in which it is made here because another host has it.
//!
//! ```text
//!   a user's  GET /networks: none ─────────> POST /networks/create ─> RequestPool waits ─────────────> is granted
//!   ours              POST /networks/create ─> RequestPool ─> CreateNetwork ─> made ─> DELETE, as somebody waits
//! ```
//!
//! Whoever starts an application looks for its network, finds none, and makes it. The user's request can't be given the network
//! that is on its way, as the engine has a name of its own for each; so the copy gives way, and the user's is made.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::watch;

/// How long a user's request waits for a copy to go: less than any request may take.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// How long it takes at most from a request for a pool to the network on it.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// The copy that is being made just now, and what users make.
#[derive(Debug, Default)]
struct Traffic {
    /// One at a time.
    copy: Option<Making>,
    /// How many there were.
    count: u64,
    /// Pools that users have asked for not long ago.
    users: Vec<(IpNet, Instant)>,
}

#[derive(Debug)]
struct Making {
    pools: BTreeSet<IpNet>,
    /// Those that were asked for since: the first time by us.
    asked: BTreeSet<IpNet>,
    waiting: usize,
}

/// Where users and copies meet.
#[derive(Debug, Default)]
pub struct Way(watch::Sender<Traffic>);

impl Way {
    /// A copy on these pools is about to be made. Not while a user makes a network on one of them.
    #[must_use]
    pub fn begin(&self, pools: BTreeSet<IpNet>, now: Instant) -> bool {
        self.0.send_if_modified(|traffic| {
            let users = &mut traffic.users;
            users.retain(|(_, asked)| now < *asked + UNDER_WAY);
            let free = users.iter().all(|(pool, _)| !pools.contains(pool));
            if free {
                traffic.count += 1;
                traffic.copy = Some(Making {
                    pools,
                    asked: BTreeSet::new(),
                    waiting: 0,
                });
            }
            free
        })
    }

    /// Whether somebody waits for the copy to go.
    pub fn is_wanted(&self) -> bool {
        let traffic = self.0.borrow();
        traffic.copy.as_ref().is_some_and(|copy| copy.waiting > 0)
    }

    /// The copy is there to stay, or gone.
    pub fn end(&self) {
        self.0.send_modify(|traffic| traffic.copy = None);
    }

    /// The engine asks for a pool. Where it does so for a user, while a copy on that pool is being made, waits until that one has
    /// ended. With another outcome the pool is taken, which the request will be told.
    pub async fn ask(&self, pool: IpNet) {
        let mut traffic = self.0.subscribe();
        let waits = self.0.send_if_modified(|traffic| {
            let now = Instant::now();
            let copy = traffic.copy.as_mut().filter(|copy| copy.pools.contains(&pool));
            let waits = match copy {
                Some(copy) if !copy.asked.contains(&pool) => {
                    copy.asked.insert(pool);
                    return false;
                }
                Some(copy) => {
                    copy.waiting += 1;
                    true
                }
                None => false,
            };
            traffic.users.retain(|(_, asked)| now < *asked + UNDER_WAY);
            traffic.users.push((pool, now));
            waits
        });
        if waits {
            let waiting = Waiting(self, traffic.borrow_and_update().count);
            let over = traffic.wait_for(|traffic| traffic.copy.is_none() || traffic.count != waiting.1);
            // Then it is refused as any request for a pool that is taken.
            drop(tokio::time::timeout(PATIENCE, over).await);
        }
    }
}

/// One request that waits for a copy to end, by its number. It may be given up at any time.
struct Waiting<'a>(&'a Way, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|traffic| {
            let same = traffic.count == self.1;
            if let Some(copy) = traffic.copy.as_mut().filter(|_| same) {
                copy.waiting -= 1;
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use super::*;

    const POOL: &str = "10.42.0.0/16";

    fn pool(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn pools() -> BTreeSet<IpNet> {
        BTreeSet::from([pool(POOL)])
    }

    /// A copy that is being made, up to our own request for its pool.
    async fn under_way() -> Way {
        let way = Way::default();
        assert!(way.begin(pools(), Instant::now()));
        way.ask(pool(POOL)).await;
        way
    }

    /// Begins something, which then waits.
    fn must_wait<F: Future>(begun: F) -> Pin<Box<F>> {
        let mut begun = Box::pin(begun);
        assert!(
            begun
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        begun
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_waits_for_the_copy_under_way_and_nobody_else_does() {
        // Neither our own request waited, nor does one for another pool.
        let way = under_way().await;
        way.ask(pool("10.43.0.0/16")).await;
        assert!(!way.is_wanted());
        let user = must_wait(way.ask(pool(POOL)));
        assert!(way.is_wanted());
        way.end();
        user.await;
        // The copy is not tried again until the user's is there.
        assert!(!way.begin(pools(), Instant::now()));
        assert!(way.begin(pools(), Instant::now() + UNDER_WAY));
        assert!(!way.is_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_go_is_waited_for_within_a_bound() {
        let way = under_way().await;
        let begun = tokio::time::Instant::now();
        way.ask(pool(POOL)).await;
        let took = begun.elapsed();
        assert!((PATIENCE..PATIENCE * 2).contains(&took), "{took:?}");
        // Whoever has given up wants nothing.
        assert!(!way.is_wanted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dropped_wants_nothing_and_the_next_copy_owes_it_nothing() {
        let way = under_way().await;
        for ended in [false, true] {
            let user = must_wait(way.ask(pool(POOL)));
            if ended {
                way.end();
                let later = Instant::now() + UNDER_WAY;
                assert!(way.begin(BTreeSet::from([pool("10.44.0.0/16")]), later));
            }
            drop(user);
            assert!(!way.is_wanted());
        }
    }
}
