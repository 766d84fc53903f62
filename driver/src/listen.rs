//! Has the engine know which groups are heard on this host's bridges: at the start, and soon after that has changed.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::engine::Ask;
use crate::kernel::groups::{Groups, Membership};

/// How long without a word of a change until it is read all the same, as all of the kernel is.
const QUIET: Duration = Duration::from_secs(10);
/// How long changes of who hears which group are gathered before they are told; and how long nothing is told after that while
/// they go on, longer each time.
const REPORTS: Duration = Duration::from_millis(10);
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Has the engine know which groups are heard now. Gives what goes on telling that, if it can be told.
pub async fn first_heard(asks: &mpsc::Sender<Ask>) -> (Option<Membership>, Groups) {
    let first = async {
        let mut membership = Membership::new()?;
        let heard = membership.read().await?;
        Ok::<_, std::io::Error>((membership, heard))
    };
    match first.await {
        Ok((membership, heard)) => {
            // An engine that has ended hears nothing.
            asks.send(Ask::Heard(heard.clone())).await.ok();
            (Some(membership), heard)
        }
        Err(error) => {
            tracing::warn!(%error, "who hears which group can't be read, so other hosts are not told, and send none here");
            (None, Groups::new())
        }
    }
}

/// Tells the engine which groups are heard, soon after that has changed.
pub async fn listen(membership: Option<Membership>, mut heard: Groups, asks: mpsc::Sender<Ask>) {
    let mut begun = membership;
    let mut membership = loop {
        match begun {
            Some(membership) => break membership,
            None => tokio::time::sleep(PAUSES.1).await,
        }
        let failed = |error: &std::io::Error| tracing::debug!(%error, "who hears which group can't be read");
        begun = Membership::new().inspect_err(failed).ok();
    };
    let mut pause = PAUSES.0;
    loop {
        let changed = tokio::time::timeout(QUIET, membership.changed()).await;
        tokio::time::sleep(REPORTS).await;
        let read = match changed {
            Ok(Err(error)) => Err(error),
            _ => membership.read().await,
        };
        match read {
            Ok(now) if now == heard => {}
            Ok(now) => {
                heard.clone_from(&now);
                if asks.send(Ask::Heard(now)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "who hears which group can't be read; it is tried again");
                pause = PAUSES.1;
            }
        }
        tokio::time::sleep(pause).await;
        pause = next_pause(pause, !matches!(membership.waits(), Ok(false)));
    }
}

/// How long nothing is told after one pause, at the end of which there was more, or was not.
fn next_pause(pause: Duration, more: bool) -> Duration {
    match more {
        true => (pause * 2).min(PAUSES.1),
        false => PAUSES.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joins_and_leaves_without_end_is_told_of_once_a_second_and_others_at_once() {
        let mut pause = PAUSES.0;
        let mut told = 0;
        let mut spent = Duration::ZERO;
        while spent < Duration::from_secs(10) {
            spent += REPORTS + pause;
            pause = next_pause(pause, true);
            told += 1;
        }
        assert!(told < 16, "{told}");
        assert_eq!(pause, PAUSES.1);
        assert_eq!(next_pause(pause, false), PAUSES.0);
    }
}
