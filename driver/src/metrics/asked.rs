//! Numbers that somebody else has, and is asked for.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// How long numbers that were given are good enough.
const FRESH: Duration = Duration::from_secs(1);

/// What was said last, and when.
#[derive(Debug)]
pub(super) struct Last<T>(Arc<Mutex<Option<(Instant, T)>>>);

impl<T> Clone for Last<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Last<T> {
    /// No code of ours panics while it holds the lock, and whole numbers would be in it even then.
    pub fn lock(&self) -> MutexGuard<'_, Option<(Instant, T)>> {
        self.0.lock().unwrap_or_else(|held| held.into_inner())
    }

    pub fn set(&self, now: Option<T>) {
        *self.lock() = now.map(|now| (Instant::now(), now));
    }
}

/// The one who is asked.
#[derive(Debug)]
pub(super) struct Asked<T> {
    pub last: Last<T>,
    /// The question that is not answered yet; held by the scrape that waits for it.
    asked: tokio::sync::Mutex<Option<oneshot::Receiver<T>>>,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self {
            last: Last::default(),
            asked: tokio::sync::Mutex::default(),
        }
    }
}

impl<T> Asked<T> {
    /// Has the numbers be given, unless they were just now. Never more than one question is under way; `ask` says whether it
    /// could put it.
    pub async fn ask(&self, ask: impl FnOnce(oneshot::Sender<T>) -> bool) {
        let mut asked = self.asked.lock().await;
        let fresh = |(at, _): &(Instant, T)| at.elapsed() < FRESH;
        if self.last.lock().as_ref().is_some_and(fresh) {
            return;
        }
        // What was answered after the last scrape had gone may be old by now.
        if asked
            .as_mut()
            .is_some_and(|asked| !matches!(asked.try_recv(), Err(TryRecvError::Empty)))
        {
            *asked = None;
        }
        if asked.is_none() {
            let (answer, answered) = oneshot::channel();
            // A queue that is full gets no more to do.
            if ask(answer) {
                *asked = Some(answered);
            }
        }
        if let Some(answered) = asked.as_mut() {
            let numbers = answered.await;
            *asked = None;
            if let Ok(numbers) = numbers {
                self.last.set(Some(numbers));
            }
        }
    }
}
