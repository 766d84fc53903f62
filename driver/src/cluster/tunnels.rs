//! Tunnels between hosts, tried with probes in them ([`crate::kernel::probe`]), each way for itself.
//!
//! ```text
//!   asker                                          asked
//!     │ ── call: Question (VNI, nonce, sizes) ──────>│   TLS: it comes from a member
//!     │ ══ probes ══ UDP, VNI ══════════════════════>│ ─┐ at once, for as long as the question says,
//!     │<═══════════════════════════════ probes ══════│ ─┘ or until all have come
//!     │ <──────────────────── Answer: what came ─────│
//! ```
//!
//! What is said *about* the probes goes by a call, so that one way is told from the other, and so that a host sends and hears
//! probes only when a member asks for it, to and from where it knows that member. There is no socket for them at other times.
//! Rounds of such questions narrow down the largest packet that passes ([`search`]).

mod ask;
mod schedule;
mod search;
mod watch;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tombolo_cluster::wire::{decode, encode};

pub use ask::{Asker, Other};
pub use watch::watch;

use crate::engine::Ask;
use crate::engine::tunnels::Tunnel;
use crate::kernel::probe::{End, LEAST, MOST, Nonce, Probes, Way};

/// How many sizes are tried at once.
const SIZES: usize = 8;

/// The longest that a question may have probes waited for.
const WAIT_MOST: Duration = Duration::from_secs(2);

/// How many questions of others are answered at a time.
const ANSWERED: usize = 32;

/// Shall we try a tunnel?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Question {
    vni: u32,
    nonce: Nonce,
    /// How long to wait for probes.
    wait_ms: u32,
    /// Sizes of the probes that come, in bytes.
    expect: BTreeSet<u32>,
    /// Sizes of those to send.
    send: BTreeSet<u32>,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    /// It was tried.
    Tried {
        /// Sizes that came.
        came: BTreeSet<u32>,
        /// The network's largest packet on that host, in bytes.
        mtu: u32,
        /// Why a probe could not be sent from there.
        refused: Option<String>,
    },
    /// That host has others to answer just now.
    Busy,
    /// It can't be tried, for this reason.
    Not(String),
}

impl Question {
    /// A question as it came; none if it asks for more than may be.
    fn read(bytes: &[u8]) -> Option<Self> {
        let question: Self = decode(bytes)?;
        let fine = |sizes: &BTreeSet<u32>| {
            sizes.len() <= SIZES && sizes.iter().all(|size| (LEAST..=MOST).contains(size))
        };
        let short = Duration::from_millis(question.wait_ms.into()) <= WAIT_MOST;
        (short && fine(&question.expect) && fine(&question.send)).then_some(question)
    }
}

/// Who answers the questions of other hosts.
#[derive(Debug, Clone)]
pub struct Answerer {
    engine: mpsc::Sender<Ask>,
    room: Arc<Semaphore>,
}

impl Answerer {
    /// With the engine's queue.
    pub fn new(engine: mpsc::Sender<Ask>) -> Self {
        Self {
            engine,
            room: Arc::new(Semaphore::new(ANSWERED)),
        }
    }

    /// Answers a question of the member that is at `vtep`, in a task of its own.
    pub fn answer(&self, vtep: Option<IpAddr>, question: Vec<u8>, answer: oneshot::Sender<Vec<u8>>) {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            answer.send(encode(&Answer::Busy)).ok();
            return;
        };
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let tried = match (vtep, Question::read(&question)) {
                (_, None) => Err("a question that it doesn't understand".to_owned()),
                (None, _) => Err("it doesn't know where this host is".to_owned()),
                (Some(vtep), Some(question)) => tried(&engine, vtep, &question).await,
            };
            // Whoever asked may have gone.
            answer.send(encode(&tried.unwrap_or_else(Answer::Not))).ok();
            drop(place);
        });
    }
}

async fn tried(engine: &mpsc::Sender<Ask>, vtep: IpAddr, question: &Question) -> Result<Answer, String> {
    let tunnels = tunnels(engine).await?;
    let tunnel = tunnels.iter().find(|tunnel| tunnel.vni == question.vni);
    let tunnel = tunnel.ok_or("it has no such network")?;
    let probes = Probes::open(&way(tunnel, vtep), End::Asked, question.nonce);
    let mut probes = probes.map_err(|error| format!("{}: {error}", tunnel.link))?;
    let wait = Duration::from_millis(question.wait_ms.into());
    let exchanged = probes.exchange(&question.send, &question.expect, wait, true);
    exchanged.await.map_err(|error| error.to_string())?;
    Ok(Answer::Tried {
        came: probes.came.intersection(&question.expect).copied().collect(),
        mtu: tunnel.mtu,
        refused: probes.refused,
    })
}

/// The tunnels of this host's networks.
async fn tunnels(engine: &mpsc::Sender<Ask>) -> Result<Vec<Tunnel>, String> {
    let (answer, answered) = oneshot::channel();
    let gone = || "tombolo is shutting down".to_owned();
    engine.send(Ask::Tunnels(answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())
}

fn way(tunnel: &Tunnel, vtep: IpAddr) -> Way {
    Way {
        link: tunnel.link.clone(),
        vni: tunnel.vni,
        local: tunnel.source,
        vtep,
        port: tunnel.port,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(sizes: &[u32], wait_ms: u32) -> Question {
        Question {
            vni: 70_000,
            nonce: [3; 16],
            wait_ms,
            expect: sizes.iter().copied().collect(),
            send: BTreeSet::from([LEAST, 1450]),
        }
    }

    #[test]
    fn a_question_that_asks_for_too_much_is_none() {
        let fine = question(&[LEAST, 1450, MOST], 2000);
        assert_eq!(Question::read(&encode(&fine)), Some(fine));
        for (sizes, wait_ms) in [
            (vec![LEAST - 1], 500),
            (vec![MOST + 1], 500),
            ((100..109).collect(), 500),
            (vec![1450], 2001),
        ] {
            assert_eq!(Question::read(&encode(&question(&sizes, wait_ms))), None);
        }
    }

    #[tokio::test]
    async fn who_has_too_many_to_answer_says_so() {
        // An engine that answers nobody.
        let (engine, _asks) = mpsc::channel(2 * ANSWERED);
        let answerer = Answerer::new(engine);
        let ask = |bytes: Vec<u8>| {
            let (answer, answered) = oneshot::channel();
            answerer.answer(Some(IpAddr::from([192, 0, 2, 2])), bytes, answer);
            answered
        };
        let wrong = decode(&ask(b"?".to_vec()).await.unwrap());
        assert!(matches!(wrong, Some(Answer::Not(_))), "{wrong:?}");
        let good = encode(&question(&[1450], 500));
        // The place of the one before is free once its task has ended, which its answer doesn't wait for.
        while answerer.room.available_permits() < ANSWERED {
            tokio::task::yield_now().await;
        }
        let waiting: Vec<_> = (0..ANSWERED).map(|_| ask(good.clone())).collect();
        assert_eq!(decode(&ask(good).await.unwrap()), Some(Answer::Busy));
        drop(waiting);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_question_within_bounds_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(question) = Question::read(&bytes) {
                prop_assert!(question.wait_ms <= 2000 && question.send.len() <= SIZES);
            }
            decode::<Answer>(&bytes);
        }
    }
}
