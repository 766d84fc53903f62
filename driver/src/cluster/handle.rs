//! The cluster as the rest of the daemon sees it: a handle to ask, and the task behind it, which has a [`Part`] while
//! this host is in a cluster and nothing at all otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tombolo_cluster::HostId;
use tombolo_cluster::charter::{Charter, Definition};
use tombolo_cluster::membership::Seat;
use tombolo_cluster::node::{Link, Standing, Wish};
use tombolo_cluster::wire::encode;
use tombolo_core::model::{NetName, Network, cut};
use tombolo_core::peers::EndpointRow;
use tombolo_core::state::Command;
use tombolo_ipam::share::Deal;

use super::certs::HostKey;
use super::joining::{self, Answer, Asking};
use super::keep::{Keeper, hex};
use super::out::{self, Because, Mark};
use super::part::{Around, End, NoPart, Part, Request, Shown, ShownNow};
use super::secret::Secret;
use super::sight::Sight;
use super::token::Token;
use crate::config::{Advertise, Config};

/// How long a token is good for that `init` makes, in seconds.
const TOKEN_S: u64 = 24 * 3600;
/// How long to wait between attempts to join by the settings.
const AGAIN: Duration = Duration::from_secs(2);
/// How many attempts the first host of the list makes to join another one before it begins the cluster itself.
const FIRST: u32 = 3;
/// How long to wait before a part that broke begins anew.
const MEND: Duration = Duration::from_secs(1);

/// What is asked of the task.
enum Ask {
    Init(oneshot::Sender<Result<Value, String>>),
    Join(SocketAddr, Token, oneshot::Sender<Result<Value, String>>),
    Leave(oneshot::Sender<Result<Value, String>>),
    /// For the part, if there is one.
    Part(Request),
}

/// The handle.
#[derive(Clone)]
pub struct Cluster {
    asks: mpsc::Sender<Ask>,
    shown: Shown,
    outside: crate::engine::Outside,
}

/// The task behind the handle.
pub struct Task {
    around: Around,
    keeper: Keeper,
    queue: mpsc::Receiver<Ask>,
    join: Vec<SocketAddr>,
    /// The same as the setting says it.
    setting: String,
    key_file: Option<std::path::PathBuf>,
    told: crate::engine::Outside,
}

/// Why this host was not let in, in words.
#[derive(Debug, thiserror::Error)]
enum NotIn {
    /// The identifier that it has drawn is of a host that is gone for good.
    #[error("{0}")]
    Gone(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<String> for NotIn {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

/// Why this host may not lease while it is in no cluster.
pub const OUTSIDE: &str = "this host is in no cluster; see 'tombolo cluster --help'";

impl Cluster {
    /// A handle and the task that must run behind it.
    pub fn new(config: &Config, around: Around, kept: BTreeMap<String, String>) -> (Self, Task) {
        let (asks, queue) = mpsc::channel(256);
        let handle = Self {
            asks,
            shown: around.shown.clone(),
            outside: around.outside.clone(),
        };
        let task = Task {
            keeper: Keeper::new(around.asks.clone(), kept),
            told: around.outside.clone(),
            around,
            queue,
            join: config.join.addresses(config.cluster_port),
            setting: config.join.to_string(),
            key_file: config.cluster_key_file.0.clone(),
        };
        (handle, task)
    }

    /// What requests are checked against.
    pub fn shown(&self) -> Arc<ShownNow> {
        self.shown.get()
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Ask) -> Result<T, String> {
        let (answer, answered) = oneshot::channel();
        let gone = || "tombolo is shutting down".to_owned();
        self.asks.send(ask(answer)).await.map_err(|_| gone())?;
        // Where there is no part, its requests are dropped.
        let no_part = || self.outside.why().unwrap_or_else(|| OUTSIDE.to_owned());
        answered.await.unwrap_or_else(|_| Err(no_part()))
    }

    /// Has a wish come true.
    ///
    /// # Errors
    /// Why it doesn't, in words.
    pub async fn wish(&self, wish: Wish) -> Result<(), String> {
        self.ask(|answer| Ask::Part(Request::Wish(wish, answer))).await
    }

    /// Has a network's pools be the cluster's, and adds the addresses that are kept there on all hosts.
    ///
    /// # Errors
    /// Why they can't be, in words.
    pub async fn share(&self, network: &mut Network) -> Result<(), String> {
        for subnet in network.subnets.iter().filter(|subnet| subnet.ours) {
            let mut aux: BTreeSet<IpAddr> = subnet.aux.iter().copied().collect();
            aux.extend(subnet.way_out);
            let definition = Definition {
                net: network.spec.net().map(ToString::to_string),
                kind: network.spec.kind().name().to_owned(),
                gateway: subnet.gateway.map(|gateway| gateway.addr()),
                aux,
                vni: None,
                mtu: None,
            };
            self.wish(Wish::Pool(subnet.pool, definition))
                .await
                .map_err(|why| format!("net: {why}"))?;
        }
        let shown = self.shown();
        for subnet in network.subnets.iter_mut().filter(|subnet| subnet.ours) {
            let kept = shown
                .pools
                .get(&subnet.pool)
                .into_iter()
                .flat_map(|definition| &definition.aux);
            let more: Vec<IpAddr> = kept
                .copied()
                .filter(|aux| !subnet.aux.contains(aux) && subnet.way_out != Some(*aux))
                .collect();
            subnet.aux.extend(more);
        }
        Ok(())
    }

    /// Has a pool be the cluster's, of which no more than a name is known.
    ///
    /// # Errors
    /// Why it can't be, in words.
    pub async fn share_pool(&self, pool: IpNet, net: &NetName) -> Result<(), String> {
        let definition = Definition {
            net: Some(net.to_string()),
            kind: String::new(),
            gateway: None,
            aux: BTreeSet::new(),
            vni: None,
            mtu: None,
        };
        self.wish(Wish::Pool(pool, definition))
            .await
            .map_err(|why| format!("net: {why}"))
    }

    async fn see(&self) -> Option<Sight> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Part(Request::See(true, answer))).await.ok()?;
        answered.await.ok()
    }

    /// Has the part be looked at without its rows, if this host is in a cluster and not too much is asked of it already.
    pub fn measure(&self, answer: oneshot::Sender<Sight>) -> bool {
        self.shown().member && self.asks.try_send(Ask::Part(Request::See(false, answer))).is_ok()
    }

    /// The document behind `tombolo cluster status`.
    pub async fn status(&self) -> Value {
        let Some(sight) = self.see().await else {
            let out = self.shown().out.clone();
            let broken = self.outside.why().filter(|why| out.is_none() && why != OUTSIDE);
            let standing = out.as_ref().map(|_| "out").or(broken.as_ref().map(|_| "broken"));
            return json!({
                "in_cluster": false, "cluster": null, "host": null, "standing": standing, "standing_note": out.or(broken),
                "decrees": 0, "secret": 0, "store": null, "hosts": [], "pools": [], "waiting": 0, "clones": [],
                "counts": {"garbled": 0, "wrong_key": 0, "replayed": 0, "strangers": 0, "clones": 0}, "dropped": [],
            });
        };
        let view = &sight.view;
        let version = |host: &HostId| {
            let row = sight.rows.iter().find(|(of, key, _)| of == host && key == "host");
            row.and_then(|(_, _, body)| serde_json::from_slice::<Value>(body).ok())
                .map(|row| row["version"].clone())
        };
        let name = |host: &HostId| {
            let known = view.hosts.iter().find(|view| view.host == *host);
            known.map_or_else(|| host.to_string(), |view| view.name.clone())
        };
        let hosts = view.hosts.iter().map(|host| {
            let (state, down_ms) = match host.link {
                Link::Here => ("here", None),
                Link::Up => ("up", None),
                Link::Down(ms) => ("down", Some(ms)),
                Link::Unknown => ("unknown", None),
            };
            json!({
                "host": host.host, "name": host.name, "address": host.address, "state": state, "down_ms": down_ms,
                "heard_ms": host.heard_ms, "rtt_ms": host.rtt_ms, "clock_ms": host.clock_ms, "version": version(&host.host),
                "rows": host.rows, "faults": host.faults,
                "call_ms": sight.noted.last_call(&host.host).map(|ago| ago.as_millis()),
            })
        });
        let clones = sight.noted.clones();
        let clones =
            clones.map(|(host, one, other)| json!({ "host": host, "name": name(host), "at": [one, other] }));
        let dropped = sight.counts.dropped().into_iter().filter(|(_, count)| *count > 0);
        let dropped = dropped.map(|(why, count)| {
            let last = sight.noted.last_dropped(why);
            json!({
                "why": why, "count": count, "last_ms": last.map(|(ago, _)| ago.as_millis()),
                "from": last.map(|(_, from)| from),
            })
        });
        let store = sight
            .store
            .as_ref()
            .map(|(store, fault)| json!({ "name": store, "fault": fault }));
        let pools = view.pools.iter().map(|pool| {
            let holders: BTreeSet<&HostId> = pool.pieces.keys().chain(pool.fills.keys()).collect();
            let shares = holders.into_iter().map(|host| {
                let fill = pool.fills.get(host).copied().unwrap_or_default();
                json!({
                    "host": host, "name": name(host), "pieces": pool.pieces.get(host).cloned().unwrap_or_default(),
                    "free": fill.free, "leased": fill.leased, "used": fill.used,
                })
            });
            json!({
                "pool": pool.pool, "net": pool.net, "kind": pool.kind, "founder": pool.founder, "next": pool.next,
                "disputed": pool.disputed, "shares": shares.collect::<Vec<_>>(),
            })
        });
        let (standing, note) = match &view.standing {
            Standing::Confirmed => ("confirmed", None),
            Standing::Waiting => ("waiting", None),
            Standing::Alone => ("alone", None),
            Standing::Gone(how) => ("gone", Some(how.clone())),
            Standing::Cloned(other) => ("cloned", Some(format!("the other one is at {other}"))),
        };
        let counts = sight.counts;
        json!({
            "in_cluster": true, "cluster": hex(&sight.cluster), "host": view.me, "standing": standing, "standing_note": note,
            "decrees": view.index, "secret": view.secret, "store": store, "clones": clones.collect::<Vec<_>>(),
            "dropped": dropped.collect::<Vec<_>>(), "hosts": hosts.collect::<Vec<_>>(), "pools": pools.collect::<Vec<_>>(),
            "waiting": view.waiting,
            "counts": {
                "garbled": counts.short + counts.long + counts.magic + counts.version + counts.mac,
                "wrong_key": counts.old_key + counts.new_key,
                "replayed": counts.replay + counts.old_epoch,
                "strangers": counts.sender,
                "clones": counts.clones + counts.still_alive,
            },
        })
    }

    /// The document behind `tombolo peers`: endpoints of all hosts, as far as these are there.
    pub async fn peers(&self) -> Value {
        let Some(sight) = self.see().await else {
            return json!([]);
        };
        let name = |host: &HostId| {
            let known = sight.view.hosts.iter().find(|view| view.host == *host);
            known.map_or_else(|| host.to_string(), |view| view.name.clone())
        };
        let peer = |(host, key, body): &(HostId, String, Vec<u8>)| {
            key.strip_prefix(tombolo_core::peers::ENDPOINT)?;
            // A row that can't be read is counted where it is used.
            let row: EndpointRow = serde_json::from_slice(body).ok()?;
            let network = match &row.net {
                Some(net) => net.to_string(),
                None => row
                    .pools
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            };
            Some(json!({
                "host": host, "host_name": name(host), "network": network, "kind": row.kind, "ipv4": row.ipv4, "ipv6": row.ipv6,
                "mac": row.mac, "name": row.name, "aliases": row.aliases, "vtep": row.via, "vni": row.vni, "joined": row.joined,
                "here": *host == sight.view.me,
            }))
        };
        sight.rows.iter().filter_map(peer).collect()
    }

    /// Begins a cluster with this host.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn init(&self) -> Result<Value, String> {
        self.ask(Ask::Init).await?;
        self.token(TOKEN_S).await
    }

    /// Makes a token to join with.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn token(&self, ttl_s: u64) -> Result<Value, String> {
        let (address, token) = self
            .ask(|answer| Ask::Part(Request::Token(ttl_s, answer)))
            .await?;
        Ok(json!({ "address": address, "token": token, "expires_s": ttl_s }))
    }

    /// Joins the cluster of the host at an address.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn join(&self, address: SocketAddr, token: &str) -> Result<Value, String> {
        let token = Token::parse(token).map_err(|e| e.to_string())?;
        self.ask(|answer| Ask::Join(address, token, answer)).await
    }

    /// Leaves the cluster.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn leave(&self) -> Result<Value, String> {
        self.ask(Ask::Leave).await
    }

    /// Forgets hosts that are gone for good.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn forget(&self, hosts: Vec<String>) -> Result<Value, String> {
        let forgotten = self
            .ask(|answer| Ask::Part(Request::Forget(hosts, answer)))
            .await?;
        Ok(json!({ "forgotten": forgotten }))
    }

    /// Has another key in force; a given one, or one that is drawn.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn rotate(&self, key: Option<&str>) -> Result<Value, String> {
        let key = key
            .map(|text| text.trim().parse::<Secret>().map_err(|e| format!("key: {e}")))
            .transpose()?;
        let (secret, hosts, without) = self.ask(|answer| Ask::Part(Request::Rotate(key, answer))).await?;
        Ok(json!({ "secret": secret, "hosts": hosts, "without": without }))
    }
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
        self.told.set(Some(why.clone()));
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
                        if out {
                            // Who is out already, or a copy, has nobody to say good-bye to.
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
        self.told.set(Some(OUTSIDE.to_owned()));
        self.around.shown.set(ShownNow::default());
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

    /// Begins a cluster, with a secret that is given or drawn.
    async fn begin_cluster(&mut self, secret: Option<Secret>) -> Result<(), String> {
        (self.around.advertise)(&self.around.advertised).map_err(|why| format!("advertise: {why}"))?;
        let text = |e: super::Refused| e.to_string();
        let secret = secret.map_or_else(|| Secret::draw(1).map_err(text), Ok)?;
        let key = HostKey::draw().map_err(|e| e.to_string())?;
        let host = HostId::from_bytes(super::draw().map_err(text)?);
        let cluster = super::draw().map_err(text)?;
        let mut charter = Charter::founded(
            cluster,
            host,
            self.around.name.clone(),
            *key.key_print().bytes(),
            secret.check(),
        );
        charter.secret.number = secret.number();
        if let Some(store) = &self.around.store {
            charter = charter.with_store();
            store.begin(&charter).await.map_err(|e| e.to_string())?;
        }
        self.become_member(host, &key, &secret, &charter, Vec::new())
            .await
    }

    /// Joins because somebody says so: under another identifier if the one that was drawn is gone.
    async fn join_as_told(&mut self, address: SocketAddr, token: &Token) -> Result<Value, String> {
        match self.join(address, token).await {
            Err(NotIn::Gone(_)) => {
                let record = vec![("joining".to_owned(), None)];
                self.keeper.keep(record).await.map_err(|e| e.to_string())?;
                self.around
                    .files
                    .remove()
                    .map_err(|e| format!("the state directory: {e}"))?;
            }
            joined => return joined.map_err(|e| e.to_string()),
        }
        self.join(address, token).await.map_err(|e| e.to_string())
    }

    async fn join(&mut self, address: SocketAddr, token: &Token) -> Result<Value, NotIn> {
        (self.around.advertise)(&self.around.advertised).map_err(|why| format!("advertise: {why}"))?;
        let text = |e: super::Refused| e.to_string();
        // One who was let in without hearing of it asks again as the same.
        let files = &self.around.files;
        files.make().map_err(|e| format!("the state directory: {e}"))?;
        let key = match HostKey::read(&files.host_key()) {
            Ok(key) => key,
            Err(_) => {
                let key = HostKey::draw().map_err(|e| e.to_string())?;
                key.write(&files.host_key()).map_err(|e| crate::http::chain(&e))?;
                key
            }
        };
        let host = match self.keeper.read("joining") {
            Some(host) => host,
            None => {
                let host = HostId::from_bytes(super::draw().map_err(text)?);
                let record = vec![("joining".to_owned(), Some(encode(&host)))];
                self.keeper.keep(record).await.map_err(|e| e.to_string())?;
                host
            }
        };
        let asking = Asking {
            host,
            name: self.around.name.clone(),
            key: *key.key_print().bytes(),
            token: token.text(),
            by_store: self.around.store.is_some(),
        };
        match joining::ask(address, token, &asking).await? {
            Answer::Refused(why) => Err(format!("{address} does not let this host in: {why}").into()),
            Answer::Gone(why) => Err(NotIn::Gone(format!("{address} does not let this host in: {why}"))),
            Answer::Welcome {
                secret,
                charter,
                seats,
            } => {
                let secret = zeroize::Zeroizing::new(secret);
                let secret: Secret = secret
                    .trim()
                    .parse()
                    .map_err(|e| format!("{address} sent a key that can't be read: {e}"))?;
                if secret.check() != charter.secret.check || !charter.hosts.contains_key(&host) {
                    return Err(format!("{address} sent what does not fit together; try again").into());
                }
                let hosts = charter.hosts.len();
                self.become_member(host, &key, &secret, &charter, seats).await?;
                Ok(json!({ "hosts": hosts, "name": self.around.name }))
            }
        }
    }

    /// Writes down what makes this host a member; its part begins after that.
    async fn become_member(
        &mut self,
        host: HostId,
        key: &HostKey,
        secret: &Secret,
        charter: &Charter,
        seats: Vec<Seat>,
    ) -> Result<(), String> {
        let files = &self.around.files;
        let chain = |e: &dyn std::error::Error| crate::http::chain(e);
        files.make().map_err(|e| format!("the state directory: {e}"))?;
        key.write(&files.host_key()).map_err(|e| chain(&e))?;
        secret.write(&files.secret()).map_err(|e| chain(&e))?;
        files.write_seats(&seats).map_err(|e| chain(&e))?;
        let records = vec![
            ("charter".to_owned(), Some(encode(charter))),
            ("joining".to_owned(), None),
            (out::RECORD.to_owned(), None),
            // The last: with it there is a part.
            ("host".to_owned(), Some(encode(&host))),
        ];
        self.keeper.keep(records).await.map_err(|e| e.to_string())
    }

    /// Joins the hosts that the settings name, or, as the first of them, begins the cluster.
    async fn join_by_settings(&mut self, attempt: u32) {
        let Some(file) = self.key_file.clone() else { return };
        let secret = match Secret::read(&file) {
            Ok(secret) => secret,
            Err(error) => {
                return tracing::error!(
                    error = crate::http::chain(&error),
                    "cluster_key_file can't be used"
                );
            }
        };
        let own = match (self.around.advertise)(&self.around.advertised) {
            Ok(own) => SocketAddr::new(own, self.around.port),
            Err(why) => return tracing::error!(%why, "advertise"),
        };
        let token = super::certs::Authority::of(&secret)
            .map_err(|e| e.to_string())
            .and_then(|authority| {
                let nonce = super::draw().map_err(|e| e.to_string())?;
                Ok(Token::issue(
                    &secret,
                    authority.print(),
                    crate::host::now_s(),
                    3600,
                    nonce,
                ))
            });
        let token = match token {
            Ok(token) => token,
            Err(why) => return tracing::error!(%why, "no token could be made of cluster_key_file"),
        };
        for address in self.join.clone().into_iter().filter(|address| *address != own) {
            match self.join(address, &token).await {
                Ok(_) => return tracing::info!(%address, "joined the cluster"),
                Err(NotIn::Gone(why)) => {
                    tracing::warn!(%address, %why, "this host was forgotten before it knew that it had been let in");
                    if let Err(why) = self.stay_out(Because::Forgotten).await {
                        tracing::error!(%why, "that this host stays out was not stored");
                    }
                    return;
                }
                Err(why) => tracing::info!(%address, %why, "not joined yet"),
            }
        }
        if self.join.first() == Some(&own) && attempt >= FIRST {
            match self.begin_cluster(Some(secret)).await {
                Ok(()) => tracing::info!("began the cluster, as the first of the hosts in 'join'"),
                Err(why) => tracing::error!(%why, "the cluster could not be begun"),
            }
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

/// For who is in a cluster and wants to begin or join one.
const IN_CLUSTER: &str = "this host is in a cluster already: see 'tombolo cluster status', or leave it first";

/// Where other hosts reach this one.
///
/// # Errors
/// Why that can't be told, in words.
pub fn advertise(advertise: &Advertise) -> Result<IpAddr, String> {
    match advertise {
        Advertise::Address(address) => Ok(*address),
        Advertise::Interface(name) => {
            let all = nix::ifaddrs::getifaddrs().map_err(|e| format!("the interfaces can't be read: {e}"))?;
            let of_link = all
                .filter(|one| one.interface_name == name.as_str())
                .filter_map(|one| one.address);
            let addresses: Vec<IpAddr> = of_link
                .filter_map(|address| {
                    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
                })
                .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
                .collect();
            let v4 = addresses.iter().find(|address| address.is_ipv4());
            v4.or(addresses.first())
                .copied()
                .ok_or_else(|| format!("interface {name} is not there, or has no address"))
        }
        // Connecting a socket of UDP sends nothing: it asks the kernel for the way, and the source address on it.
        Advertise::Auto => {
            let ways: [(SocketAddr, SocketAddr); 2] = [
                (([0, 0, 0, 0], 0).into(), ([192, 0, 2, 1], 9).into()),
                (
                    ([0_u16; 8], 0).into(),
                    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into(),
                ),
            ];
            let source = |(any, far): (SocketAddr, SocketAddr)| {
                let socket = UdpSocket::bind(any).ok()?;
                socket.connect(far).ok()?;
                socket.local_addr().ok().map(|address| address.ip())
            };
            ways.into_iter().find_map(source).ok_or_else(|| {
                "this host has no default route: name an address or an interface (TOMBOLO_ADVERTISE)"
                    .to_owned()
            })
        }
    }
}

/// Refuses a pool that isn't the cluster's and stands in the way of one that is.
///
/// # Errors
/// Which, and whose.
pub fn clear_of(shown: &ShownNow, pool: IpNet) -> Result<(), String> {
    let overlap = |net: &IpNet| net.contains(&pool) || pool.contains(net);
    match shown.pools.iter().find(|(net, _)| overlap(net) && **net != pool) {
        Some((net, definition)) => {
            let name = definition
                .net
                .as_ref()
                .map(|name| format!(" ({})", cut(name)))
                .unwrap_or_default();
            Err(format!(
                "Pool: {pool} overlaps the cluster's pool {net}{name}: choose another subnet"
            ))
        }
        None => Ok(()),
    }
}

/// The pool of a family that goes by a name in the cluster.
pub fn called(shown: &ShownNow, net: &NetName, v6: bool) -> Option<IpNet> {
    let of_name = |definition: &Definition| definition.net.as_deref() == Some(net.as_str());
    let mut pools = shown
        .pools
        .iter()
        .filter(|(pool, definition)| pool.addr().is_ipv6() == v6 && of_name(definition));
    pools.next().map(|(pool, _)| *pool)
}

/// Refuses a pool of the cluster that a route of another host overlaps.
///
/// # Errors
/// Which route, and whose.
pub fn clear_of_routes(shown: &ShownNow, pool: IpNet) -> Result<(), String> {
    let overlap = |net: &IpNet| net.contains(&pool) || pool.contains(net);
    match shown.routes.iter().find(|(net, _)| overlap(net)) {
        Some((net, host)) => Err(format!(
            "Pool: {pool} overlaps {net}, a route or address of host {}: choose another subnet",
            cut(host)
        )),
        None => Ok(()),
    }
}
