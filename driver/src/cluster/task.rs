//! The task behind the handle, which has a [`Part`] while this host is in a cluster and nothing at all otherwise.

mod join;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tombolo_cluster::node::Wish;
use tombolo_cluster::wire::encode;
use tombolo_core::state::{Command, News};
use tombolo_ipam::share::Deal;

use super::handle::OUTSIDE;
use super::keep::Keeper;
use super::out::{self, Because, Mark};
use super::part::{Around, End, NoPart, Part, Request};
use super::shown::ShownNow;
use super::token::Token;

/// How long to wait between attempts to join by the settings.
const AGAIN: Duration = Duration::from_secs(2);

/// How long to wait before a part that broke begins anew.
const MEND: Duration = Duration::from_secs(1);

/// For who is in a cluster and wants to begin or join one.
const IN_CLUSTER: &str = "this host is in a cluster already: see 'tombolo cluster status', or leave it first";

/// What is asked of the task.
pub(super) enum Ask {
    Init(oneshot::Sender<Result<Value, String>>),
    Join(SocketAddr, Token, oneshot::Sender<Result<Value, String>>),
    Leave(oneshot::Sender<Result<Value, String>>),
    /// For the part, if there is one.
    Part(Request),
}

/// The task behind the handle.
pub struct Task {
    pub(super) around: Around,
    pub(super) keeper: Keeper,
    pub(super) queue: mpsc::Receiver<Ask>,
    pub(super) join: Vec<SocketAddr>,
    /// The same as the setting says it.
    pub(super) setting: String,
    pub(super) key_file: Option<std::path::PathBuf>,
}

impl Task {
    /// Runs until told to end.
    pub async fn run(mut self, mut end: oneshot::Receiver<()>) {
        let mut attempts = 0;
        let mut next = tokio::time::Instant::now();
        self.heed_mark().await;
        loop {
            if self.keeper.get("host").is_some() {
                match Box::pin(self.take_part(&mut end)).await {
                    End::Told => return,
                    End::Left => {}
                    End::Broken(why) => {
                        tracing::error!(%why, "this host's part in the cluster begins anew");
                        self.around.outside.set(Some(why));
                        self.around.shown.give_up();
                        tokio::select! {
                            _ = &mut end => return,
                            () = self.refuse_for(MEND) => {}
                        }
                    }
                }
                continue;
            }
            let joins = self.joins_by_settings();
            tokio::select! {
                _ = &mut end => return,
                ask = self.queue.recv() => match ask {
                    Some(ask) => self.outside(ask).await,
                    None => return,
                },
                // At a moment that is fixed, whatever is asked until then.
                () = tokio::time::sleep_until(next), if joins => {
                    attempts += 1;
                    self.join_by_settings(attempts).await;
                    next = tokio::time::Instant::now() + AGAIN;
                }
            }
        }
    }

    /// Whether it is the settings' turn to have this host join.
    fn joins_by_settings(&self) -> bool {
        let out = self.keeper.get(out::RECORD).is_some();
        !out && !self.join.is_empty() && self.key_file.is_some()
    }

    /// Says that this host stays out if it does; forgets that if the setting has changed since.
    async fn heed_mark(&mut self) {
        let Some(mark) = self.keeper.read::<Mark>(out::RECORD) else {
            return;
        };
        if mark.holds(&self.setting) {
            return self.say_out(&mark);
        }
        tracing::info!(
            join = self.setting,
            "the setting join has changed since this host left, and is followed"
        );
        let record = vec![(out::RECORD.to_owned(), None)];
        if let Err(error) = self.keeper.keep(record).await {
            tracing::error!(%error, "this host stays out of its cluster");
        }
    }

    fn say_out(&self, mark: &Mark) {
        let why = mark.text();
        tracing::warn!("{why}");
        self.around.outside.set(Some(why.clone()));
        self.around.shown.set(ShownNow {
            out: Some(why),
            ..ShownNow::default()
        });
    }

    /// What one is told who had this host leave.
    fn left(&self) -> Value {
        json!({ "out": self.around.shown.get().out })
    }

    /// Has this host stay out from now on, though its settings name a cluster.
    async fn stay_out(&mut self, because: Because) -> Result<(), String> {
        let Some(mark) = Mark::of(&self.setting, because) else {
            return Ok(());
        };
        let records = vec![(out::RECORD.to_owned(), Some(encode(&mark)))];
        self.keeper.keep(records).await.map_err(|e| e.to_string())?;
        self.say_out(&mark);
        Ok(())
    }

    /// Answers requests for a while during which there is no part.
    async fn refuse_for(&mut self, span: Duration) {
        let until = tokio::time::Instant::now() + span;
        while let Ok(Some(ask)) = tokio::time::timeout_at(until, self.queue.recv()).await {
            // A host that can't begin its part can still be taken out of the cluster.
            match ask {
                Ask::Leave(answer) => {
                    self.clear().await;
                    answer.send(Ok(self.left())).ok();
                    return;
                }
                Ask::Init(answer) | Ask::Join(_, _, answer) => drop(answer.send(Err(IN_CLUSTER.to_owned()))),
                Ask::Part(_) => {}
            }
        }
    }

    /// Has a part, and passes on what it is asked.
    async fn take_part(&mut self, end: &mut oneshot::Receiver<()>) -> End {
        let keeper = std::mem::replace(
            &mut self.keeper,
            Keeper::new(self.around.asks.clone(), BTreeMap::new()),
        );
        let saved = keeper.saved();
        let (running, part) = match Box::pin(Part::begin(self.around.clone(), keeper)).await {
            Ok(begun) => begun,
            Err(NoPart(why)) => {
                self.keeper = Keeper::new(self.around.asks.clone(), saved);
                return End::Broken(why);
            }
        };
        tracing::info!("this host takes part in its cluster");
        let (requests, mut queue) = mpsc::channel(256);
        let (tell_end, mut ended) = oneshot::channel();
        let mut tell_end = Some(tell_end);
        let mut taking = Box::pin(part.run(running, &mut queue, &mut ended));
        let mut leaving: Option<oneshot::Sender<Result<Value, String>>> = None;
        let mut goodbye: Option<oneshot::Receiver<Result<(), String>>> = None;
        let mut gone = false;
        let (end, keeper) = loop {
            tokio::select! {
                done = &mut taking => break done,
                _ = &mut *end, if !gone => {
                    gone = true;
                    if let Some(tell) = tell_end.take() {
                        tell.send(()).ok();
                    }
                }
                outcome = decision(&mut goodbye), if goodbye.is_some() => {
                    goodbye = None;
                    // Where it was decided, the part ends by itself, and the answer comes when nothing is left of it.
                    if let Err(why) = outcome
                        && let Some(answer) = leaving.take()
                    {
                        answer.send(Err(why)).ok();
                    }
                }
                Some(ask) = self.queue.recv() => match ask {
                    Ask::Init(answer) | Ask::Join(_, _, answer) => drop(answer.send(Err(IN_CLUSTER.to_owned()))),
                    Ask::Part(request) => drop(requests.send(request).await),
                    Ask::Leave(answer) if leaving.is_some() => {
                        drop(answer.send(Err("this host is leaving its cluster already".to_owned())));
                    }
                    Ask::Leave(answer) => {
                        let out = self.around.outside.why().is_some_and(|why| why.contains("tombolo cluster leave"));
                        if out && !self.around.shown.get().left {
                            // Who was forgotten, or a copy, has nobody to say good-bye to.
                            leaving = Some(answer);
                            if let Some(tell) = tell_end.take() {
                                tell.send(()).ok();
                            }
                        } else {
                            let (done, decided) = oneshot::channel();
                            drop(requests.send(Request::Wish(Wish::Leave, done)).await);
                            (goodbye, leaving) = (Some(decided), Some(answer));
                        }
                    }
                },
            }
        };
        self.keeper = keeper;
        match end {
            // Who was out already had it told to end.
            End::Told if leaving.is_some() && goodbye.is_none() => {}
            End::Left => {}
            end => return end,
        }
        self.clear().await;
        if let Some(answer) = leaving {
            answer.send(Ok(self.left())).ok();
        }
        match gone {
            true => End::Told,
            false => End::Left,
        }
    }

    /// Forgets the cluster: records, files and shares. It was said to leave, so the settings don't lead back in.
    async fn clear(&mut self) {
        let mark = Mark::of(&self.setting, Because::Left);
        let record = mark.as_ref().map(|mark| (out::RECORD.to_owned(), encode(mark)));
        if let Err(error) = self.keeper.clear(record).await {
            tracing::error!(%error, "the records of the cluster are still there");
        }
        if let Err(error) = self.around.files.remove() {
            tracing::error!(%error, "the files of the cluster are still there");
        }
        let nobody = News {
            everything: true,
            ..News::default()
        };
        // An engine that has ended needs no news.
        self.around
            .asks
            .send(crate::engine::Ask::Peers(nobody))
            .await
            .ok();
        let (answer, answered) = oneshot::channel();
        let sent = self
            .around
            .asks
            .send(crate::engine::Ask::Cluster {
                everything: false,
                answer,
            })
            .await;
        if let (Ok(()), Ok(told)) = (sent, answered.await) {
            for pool in told.shares.into_keys() {
                self.deal(pool, Deal::Void).await;
            }
        }
        self.around.outside.set(Some(OUTSIDE.to_owned()));
        self.around.shown.set(ShownNow::default());
        self.around.names.clear();
        if let Some(mark) = mark {
            self.say_out(&mark);
        }
    }

    async fn deal(&self, pool: IpNet, deal: Deal) {
        let (answer, answered) = oneshot::channel();
        let ask = crate::engine::Ask::Do {
            command: Command::Deal(pool, deal),
            looked: crate::engine::Looked::default(),
            deadline: std::time::Instant::now() + Duration::from_secs(5),
            answer,
        };
        let sent = self.around.asks.send(ask).await;
        if let (Ok(()), Ok(Err(error))) = (sent, answered.await) {
            tracing::error!(%error, %pool, "the share is still there");
        }
    }

    /// A request while this host is in no cluster.
    async fn outside(&mut self, ask: Ask) {
        match ask {
            Ask::Init(answer) => {
                let begun = self.begin_cluster(None).await;
                answer.send(begun.map(|()| json!({}))).ok();
            }
            Ask::Join(address, token, answer) => {
                let joined = self.join_as_told(address, &token).await;
                answer.send(joined).ok();
            }
            // It is about to join, and isn't to.
            Ask::Leave(answer) if self.joins_by_settings() => {
                let stays = self.stay_out(Because::Left).await;
                answer.send(stays.map(|()| self.left())).ok();
            }
            Ask::Leave(answer) => drop(answer.send(Err("this host is in no cluster".to_owned()))),
            // Its answer is dropped, which says that there is no part.
            Ask::Part(_) => {}
        }
    }
}

/// Waits for what becomes of a wish.
async fn decision(wish: &mut Option<oneshot::Receiver<Result<(), String>>>) -> Result<(), String> {
    match wish {
        Some(decided) => decided
            .await
            .unwrap_or_else(|_| Err("tombolo is shutting down".to_owned())),
        None => std::future::pending().await,
    }
}
