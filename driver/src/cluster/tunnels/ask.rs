//! This host's own questions: all tunnels of its networks, tried with all hosts that they lead to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde::Serialize;
use tokio::sync::mpsc;
use tombolo_cluster::HostId;
use tombolo_cluster::wire::{decode, encode};
use tombolo_core::model::cut;

use super::search::{Passes, Search};
use super::{Answer, Question, way};
use crate::cluster::calls::{self, FOR_TUNNELS, TALK};
use crate::cluster::certs::Connector;
use crate::cluster::draw;
use crate::engine::Ask;
use crate::engine::tunnels::Tunnel;
use crate::kernel::probe::{End, Probes};

/// How long probes are waited for at first, and where something was lost once more, and in the search for what passes, of which
/// some have passed: hosts of a cluster are near each other.
const WAIT: Duration = Duration::from_millis(500);
const WAIT_LONG: Duration = Duration::from_millis(1000);
const WAIT_SEARCH: Duration = Duration::from_millis(300);

/// How long probes that are on their way may still take when the other host has all of ours.
const LINGER: Duration = Duration::from_millis(200);

/// How many hosts are asked at a time, and how often one that is busy.
const AT_ONCE: usize = 16;
const BUSY: u32 = 5;

/// How long all hosts together may take before no further question is begun with.
const ENOUGH: Duration = Duration::from_secs(20);

/// Another host as the part knows it.
#[derive(Debug, Clone)]
pub struct Other {
    /// It.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Where it is called; none if nobody knows.
    pub address: Option<SocketAddr>,
    /// The VTEPs that it is reached by, where it has several.
    pub ways: Vec<IpAddr>,
    /// The largest packet on its wire, as it tells, in bytes.
    pub wire_mtu: Option<u32>,
}

/// What questions are asked with.
pub struct Asker {
    /// The engine's queue.
    pub engine: mpsc::Sender<Ask>,
    /// Who calls.
    pub connector: Connector,
    /// The other hosts that are up.
    pub others: Vec<Other>,
    /// Since when that is known.
    pub began: Instant,
}

/// What was found of one tunnel to one host.
#[derive(Debug, Clone, Serialize)]
pub struct Tried {
    host: HostId,
    name: String,
    /// The two VTEPs, and the tunnels' UDP port.
    local: IpAddr,
    vtep: IpAddr,
    port: u16,
    wire_mtu: Option<u32>,
    network: String,
    vni: u32,
    /// The largest packet of the network here and there, in bytes.
    mtu: u32,
    mtu_there: Option<u32>,
    /// What passes to that host, and from there; none if it can't be told.
    to: Option<Passes>,
    from: Option<Passes>,
    /// Why a probe could not be sent, here and there.
    refused: Option<String>,
    refused_there: Option<String>,
    /// Why it was not tried, or not to the end.
    why: Option<String>,
}

impl Tried {
    fn new(tunnel: &Tunnel, other: &Other, vtep: IpAddr) -> Self {
        Self {
            host: other.host,
            name: other.name.clone(),
            local: tunnel.local,
            vtep,
            port: tunnel.port,
            wire_mtu: other.wire_mtu,
            network: tunnel.network.clone(),
            vni: tunnel.vni,
            mtu: tunnel.mtu,
            mtu_there: None,
            to: None,
            from: None,
            refused: None,
            refused_there: None,
            why: None,
        }
    }

    pub(super) fn host(&self) -> HostId {
        self.host
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What doesn't pass, in words; none if all does, or if that is not known.
    pub(super) fn trouble(&self) -> Option<String> {
        let (network, port) = (&self.network, self.port);
        let (to, from) = self.to.zip(self.from)?;
        let size = |passes| match passes {
            Passes::All => "in all sizes".to_owned(),
            Passes::UpTo(size) => format!("up to {size} bytes"),
            Passes::Nothing => format!("not at all (UDP {port})"),
        };
        match (to, from) {
            _ if self.fine() || self.why.is_some() => None,
            (Passes::Nothing, Passes::Nothing) => Some(format!(
                "UDP {port} is dropped on the way to it and from it (network {network})"
            )),
            (Passes::All, Passes::All) => Some(format!(
                "packets of network {network} have up to {} bytes here, and {} there",
                self.mtu,
                self.mtu_there.unwrap_or(self.mtu)
            )),
            (to, from) => Some(format!(
                "packets of network {network} pass to it {}, and from it {}, and its MTU is {}",
                size(to),
                size(from),
                self.mtu
            )),
        }
    }

    /// Whether there is nothing to tell of it.
    pub fn fine(&self) -> bool {
        let passes = self.to == Some(Passes::All) && self.from == Some(Passes::All);
        passes && self.mtu_there.is_none_or(|mtu| mtu == self.mtu)
    }
}

impl Asker {
    /// Tries all tunnels. Of those to one host the network with the largest packets is first, and the first one that has
    /// something to tell is the last: the others run on the same wire.
    ///
    /// # Errors
    /// When the engine has ended.
    pub async fn all(&self) -> Result<Vec<Tried>, String> {
        Ok(self.each(super::tunnels(&self.engine).await?).await)
    }

    /// Tries these tunnels in the same way.
    pub(super) async fn each(&self, mut tunnels: Vec<Tunnel>) -> Vec<Tried> {
        tunnels.sort_by_key(|tunnel| std::cmp::Reverse(tunnel.mtu));
        let hosts = self.others.iter();
        let asked: Vec<_> = hosts.map(|other| self.host(other, &tunnels)).collect();
        let tried = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        let tried: Vec<Vec<Tried>> = tried.collect().await;
        let mut tried: Vec<Tried> = tried.into_iter().flatten().collect();
        tried.sort_by(|one, other| (&one.name, &one.network).cmp(&(&other.name, &other.network)));
        tried
    }

    async fn host(&self, other: &Other, tunnels: &[Tunnel]) -> Vec<Tried> {
        let mut all = Vec::new();
        for tunnel in tunnels {
            let Some(vtep) = tunnel.ends.get(&other.host) else {
                continue;
            };
            let ways = match other.ways.as_slice() {
                [] => std::slice::from_ref(vtep),
                ways => ways,
            };
            for vtep in ways {
                let mut tried = Tried::new(tunnel, other, *vtep);
                tried.why = self.one(other, tunnel, &mut tried).await.err();
                let fine = tried.fine();
                all.push(tried);
                if !fine {
                    return all;
                }
            }
        }
        all
    }

    /// Tries one tunnel to one host: at first the least and the largest packets, once more if something was lost, and then
    /// what is between.
    async fn one(&self, other: &Other, tunnel: &Tunnel, tried: &mut Tried) -> Result<(), String> {
        let (mut to, mut from) = (Search::new(tunnel.mtu), Search::new(tunnel.mtu));
        let first = to.next();
        for wait in [WAIT, WAIT_LONG] {
            let (there, here) = self.round(other, tunnel, tried, [&first, &first], wait).await?;
            to.note(&first, &there);
            from.note(&first, &here);
            (tried.to, tried.from) = (Some(to.passes()), Some(from.passes()));
            if tried.fine() {
                return Ok(());
            }
        }
        loop {
            let (send, expect) = (to.next(), from.next());
            if send.is_empty() && expect.is_empty() {
                return Ok(());
            }
            let (there, here) = self
                .round(other, tunnel, tried, [&send, &expect], WAIT_SEARCH)
                .await?;
            to.note(&send, &there);
            from.note(&expect, &here);
            (tried.to, tried.from) = (Some(to.passes()), Some(from.passes()));
        }
    }

    /// One question, with probes of some sizes to and from. Gives what came there, and here.
    async fn round(
        &self,
        other: &Other,
        tunnel: &Tunnel,
        tried: &mut Tried,
        [send, expect]: [&BTreeSet<u32>; 2],
        wait: Duration,
    ) -> Result<(BTreeSet<u32>, BTreeSet<u32>), String> {
        let address = other.address.ok_or("it is not known where it is called")?;
        for _ in 0..BUSY {
            if self.began.elapsed() > ENOUGH {
                return Err("there was no time left".to_owned());
            }
            let nonce = draw().map_err(|e| e.to_string())?;
            let question = encode(&Question {
                vni: tunnel.vni,
                nonce,
                wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
                expect: send.clone(),
                send: expect.clone(),
            });
            let probes = Probes::open(&way(tunnel, tried.vtep), End::Asker, nonce);
            let mut probes = probes.map_err(|error| format!("{}: {error}", tunnel.link))?;
            tried.local = probes.local().unwrap_or(tried.local);
            let called = calls::call(&self.connector, address, other.host, FOR_TUNNELS, &question);
            let answer = tokio::select! {
                called = called => called.map_err(|error| format!(
                    "{}; an older tombolo answers no such question",
                    crate::http::chain(&error)
                ))?,
                // The call has bounds of its own, and these are longer.
                ended = probes.exchange(send, expect, TALK * 2, false) => {
                    return Err(ended.map_or_else(|error| error.to_string(), |()| "no answer in time".to_owned()));
                }
            };
            match decode(&answer) {
                Some(Answer::Tried { came, mtu, refused }) => {
                    let none = BTreeSet::new();
                    let late = probes.exchange(&none, expect, LINGER, true);
                    late.await.map_err(|error| error.to_string())?;
                    tried.mtu_there = Some(mtu);
                    let refused = refused.map(|why| cut(&why));
                    tried.refused_there = tried.refused_there.take().or(refused);
                    tried.refused = tried.refused.take().or(probes.refused);
                    return Ok((came, probes.came));
                }
                Some(Answer::Busy) => tokio::time::sleep(WAIT).await,
                Some(Answer::Not(why)) => return Err(format!("it says: {}", cut(&why))),
                None => return Err("its answer can't be read".to_owned()),
            }
        }
        Err("it is busy with the questions of others".to_owned())
    }
}
