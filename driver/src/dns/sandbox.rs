//! The resolver within containers: whoever asks Docker's resolver asks us first, without a word about it in a compose file.
//!
//! What is not ours to answer goes to Docker's resolver in the same container, as it came. While nobody renews the hook, the
//! kernel sends all questions there at once: see [`crate::kernel::hook`].

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_server::net::runtime::{RuntimeProvider, TokioHandle, TokioTime};
use socket2::{Protocol, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};

use super::answer::Zone;
use super::names::{Names, View};
use super::resolver::{Asker, Resolver};
use super::served::Served;
use super::upstream::{PORT, Upstream};
use crate::kernel::hook::{Ears, Hook, LIFE_S, Namespace, RESOLVER};

/// How often the hooks are renewed: three times before they run out.
const BEAT: Duration = Duration::from_millis(LIFE_S as u64 * 1_000 / 3);

/// How long after a failure a container is tried again, at first and at most. Its namespace comes about while it starts.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(10);

/// How many hooks are set at once: a program runs for each, and after a start there may be a thousand to set.
const AT_ONCE: usize = 4;

/// How long a connection to Docker's resolver may take to come about.
const CONNECT: Duration = Duration::from_secs(1);

/// Whoever asks within a container.
#[derive(Clone)]
struct InSandbox(String);

impl Asker for InSandbox {
    fn view(&self, names: &Names, _: IpAddr) -> Option<View> {
        Some(names.view_in(&self.0))
    }
}

/// Sockets in a container's namespace, past the hook.
#[derive(Clone)]
struct Within {
    namespace: Namespace,
    handle: TokioHandle,
}

impl Within {
    async fn socket(&self, kind: Type, protocol: Protocol) -> io::Result<socket2::Socket> {
        let namespace = self.namespace.clone();
        // It takes a thread, as others stay where they are.
        tokio::task::spawn_blocking(move || namespace.socket(kind, protocol)).await?
    }
}

impl RuntimeProvider for Within {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.handle.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _: Option<SocketAddr>,
        wait: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let within = self.clone();
        Box::pin(async move {
            let socket = within.socket(Type::STREAM, Protocol::TCP).await?;
            let connect = TcpSocket::from_std_stream(socket.into()).connect(server);
            let connected = timeout(wait.unwrap_or(CONNECT), connect).await;
            connected
                .map_err(|late| io::Error::new(io::ErrorKind::TimedOut, late))?
                .map(AsyncIoTokioAsStd)
        })
    }

    fn bind_udp(
        &self,
        _: SocketAddr,
        _: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        let within = self.clone();
        Box::pin(async move {
            let socket = within.socket(Type::DGRAM, Protocol::UDP).await?;
            UdpSocket::from_std(socket.into())
        })
    }
}

/// A container that is being served.
struct Guest {
    hook: Hook,
    server: tokio::task::AbortHandle,
}

/// Nobody is to ask a socket that is about to be closed.
impl Drop for Guest {
    fn drop(&mut self) {
        self.hook.rest();
    }
}

/// A container that could not be served yet.
struct Waiting {
    next: tokio::time::Instant,
    pause: Duration,
    told: bool,
}

/// What is there, and what is to come.
struct Guests {
    names: Arc<Names>,
    zone: Zone,
    told: Arc<Served>,
    served: BTreeMap<String, Guest>,
    waiting: BTreeMap<String, Waiting>,
    /// Those whose hooks are being set.
    setting: JoinSet<(String, io::Result<(Hook, Ears)>)>,
    servers: JoinSet<String>,
}

/// Answers in each container that is on a network of the cluster. It never ends.
pub async fn serve(names: Arc<Names>, zone: Zone, served: Arc<Served>) {
    let mut changes: mpsc::UnboundedReceiver<(String, bool)> = names.sandboxes();
    let mut guests = Guests {
        names,
        zone,
        told: served,
        served: BTreeMap::new(),
        waiting: BTreeMap::new(),
        setting: JoinSet::new(),
        servers: JoinSet::new(),
    };
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = guests.next();
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = changes.recv() => match change {
                Some((sandbox, true)) => guests.expect(sandbox),
                Some((sandbox, false)) => guests.leave(&sandbox),
                None => return,
            },
            () = due => guests.begin(),
            Some(Ok((sandbox, set))) = guests.setting.join_next() => guests.begun(sandbox, set),
            Some(Ok(sandbox)) = guests.servers.join_next() => guests.again(sandbox),
            _ = beat.tick() => guests.renew(),
        }
    }
}

impl Guests {
    /// A container is on a network of the cluster.
    fn expect(&mut self, sandbox: String) {
        // It may have left and come again in one.
        if self
            .served
            .get(&sandbox)
            .is_some_and(|guest| guest.hook.is_in_place())
        {
            return;
        }
        if let Some(guest) = self.served.remove(&sandbox) {
            guest.server.abort();
        }
        let waiting = Waiting {
            next: tokio::time::Instant::now(),
            pause: SOON,
            told: false,
        };
        self.waiting.entry(sandbox).or_insert(waiting);
    }

    /// A container is on none any more, or has ended.
    fn leave(&mut self, sandbox: &str) {
        self.waiting.remove(sandbox);
        self.told.no_container(sandbox);
        if let Some(guest) = self.served.remove(sandbox) {
            guest.server.abort();
            // With the namespace the hook is gone as well.
            tokio::task::spawn_blocking(move || drop(guest.hook.remove()));
        }
    }

    /// When the next hook is to be set, if one can be.
    fn next(&self) -> Option<tokio::time::Instant> {
        let waiting = self.waiting.values().map(|waiting| waiting.next);
        waiting.min().filter(|_| self.setting.len() < AT_ONCE)
    }

    /// Sets the hooks that are due, as many as may be set at once.
    fn begin(&mut self) {
        let now = tokio::time::Instant::now();
        let room = AT_ONCE.saturating_sub(self.setting.len());
        let due = self.waiting.iter_mut().filter(|(_, w)| w.next <= now);
        for (sandbox, waiting) in due.take(room) {
            // Until that has ended.
            waiting.next = now + LATER;
            let sandbox = sandbox.clone();
            self.setting.spawn_blocking(move || {
                let set = Hook::set(Path::new(&sandbox));
                (sandbox, set)
            });
        }
    }

    fn begun(&mut self, sandbox: String, set: io::Result<(Hook, Ears)>) {
        // It may have left meanwhile.
        let Some(waiting) = self.waiting.get_mut(&sandbox) else {
            if let Ok((hook, _)) = set {
                tokio::task::spawn_blocking(move || drop(hook.remove()));
            }
            return;
        };
        let begun = set.and_then(|(hook, ears)| {
            let udp = UdpSocket::from_std(ears.udp)?;
            let tcp = tokio::net::TcpListener::from_std(ears.tcp)?;
            Ok((hook, udp, tcp))
        });
        match begun {
            Ok((hook, udp, tcp)) => {
                self.waiting.remove(&sandbox);
                let within = Within {
                    namespace: hook.namespace().clone(),
                    handle: TokioHandle::default(),
                };
                let docker = SocketAddr::from((RESOLVER, PORT));
                let resolver = Resolver {
                    names: self.names.clone(),
                    zone: self.zone.clone(),
                    asker: InSandbox(sandbox.clone()),
                    upstream: Upstream::new(move || vec![docker], within),
                };
                let ended = sandbox.clone();
                let server = self.servers.spawn(async move {
                    let why = resolver.serve(udp, tcp).await;
                    tracing::debug!(sandbox = ended, why, "a container's sockets are made anew");
                    ended
                });
                hook.renew();
                tracing::debug!(sandbox, "names are answered in a container");
                self.told.container(&sandbox, None);
                self.served.insert(sandbox, Guest { hook, server });
            }
            Err(error) => {
                waiting.next = tokio::time::Instant::now() + waiting.pause;
                waiting.pause = (waiting.pause * 2).min(LATER);
                self.told.container(&sandbox, Some(error.to_string()));
                if waiting.pause == LATER && !std::mem::replace(&mut waiting.told, true) {
                    tracing::warn!(sandbox, %error, "names can't be answered in a container; Docker's resolver answers there, and the gateway's");
                }
            }
        }
    }

    /// A container's server has ended by itself.
    fn again(&mut self, sandbox: String) {
        if self.served.remove(&sandbox).is_some() {
            self.expect(sandbox);
        }
    }

    /// Renews all hooks; what was taken away by others, or has ended, is begun again.
    fn renew(&mut self) {
        let lost = self
            .served
            .extract_if(.., |_, guest| !(guest.hook.is_in_place() && guest.hook.renew()));
        for (sandbox, guest) in lost.collect::<Vec<_>>() {
            guest.server.abort();
            self.expect(sandbox);
        }
    }
}
