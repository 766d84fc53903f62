//! How a new process takes the place of a running one, without a refused call: `tombolo serve --take-over`.
//!
//! ```text
//!   new                                              old
//!   takes its metrics address, if that is free
//!   ── POST /v1/take-over {version, schema, ...} ──>  may it? if not it says why and goes on as if nothing was
//!   <── 101: from here on the connection is theirs ─
//!   ── a byte: it is still there ──────────────────>  accepts nothing more, answers what it has accepted,
//!                                                     closes the store
//!   <── a byte, with all listening sockets ─────────
//!   opens the store, settles
//!   ── a byte: it serves ──────────────────────────>  leaves the sockets' names to the new one and ends
//!   serves
//! ```
//!
//! The sockets themselves are handed over, not their names: what Docker asks meanwhile waits in their queues, and there
//! is no moment at which a socket is nobody's. They come when the store is closed, so their coming is all that the new
//! process waits for. systemd does the same for the processes that it runs, and is then the one to ask.
//!
//! All of it is one connection, so who asked and who gets the sockets are the same, and its end says that the other one
//! has gone: the old process keeps its sockets until the new one serves, and goes on with them if it never does.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;

use crate::config::Config;
use crate::records::SCHEMA;

/// What the connection is called once it is no longer HTTP.
pub const PROTOCOL: &str = "tombolo-take-over";
/// How long the running process may take to answer what it has accepted and to close the store: several times what it
/// allows itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the new one may take to say that it is still there.
const STILL_THERE: Duration = Duration::from_secs(5);
/// How long the new one may take to serve, once it has the sockets. One that lives longer is left to itself: it has the
/// state.
const SERVING: Duration = Duration::from_secs(60);

/// Why there was no hand-over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The running process agreed, but its sockets never came. It goes on, if it lives.
    #[error(
        "the running daemon agreed to hand over, but its sockets did not come within {} s: its log may say why, and \
         'tombolo status' whether it still runs", PATIENCE.as_secs()
    )]
    NeverCame {
        /// What the system said.
        source: io::Error,
    },
    /// Who was to take over has gone. The sockets are still ours.
    #[error("who was to take over has gone")]
    Gone {
        /// What the system said.
        source: io::Error,
    },
}

/// What the new process says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    version: String,
    schema: u32,
    plugin_socket: PathBuf,
    state_dir: PathBuf,
    /// The address for metrics, if it could not have that itself and counts on getting it as well.
    metrics_addr: Option<SocketAddr>,
}

impl Wish {
    /// The wish of a process with these settings, which lacks the socket for metrics or not.
    pub fn of(config: &Config, lacks_metrics: bool) -> Self {
        Self {
            metrics_addr: config.metrics_addr.0.filter(|_| lacks_metrics),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: SCHEMA,
            plugin_socket: config.plugin_socket.clone(),
            state_dir: config.state_dir.clone(),
        }
    }
}

/// Why the running process goes on as if nothing was.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// The new one could not read the state.
    #[error(
        "schema: the state here has schema {ours}, and tombolo {version} knows schema {theirs}; this daemon ({}) goes on. \
         Run a version that knows schema {ours}", env!("CARGO_PKG_VERSION")
    )]
    Older {
        /// The asker's version.
        version: String,
        /// The asker's schema.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// The new one would be another daemon, not this one again.
    #[error(
        "{setting}: this daemon has {}, the new one {}; it goes on. Give the new one the same, or stop this one first",
        ours.display(), theirs.display()
    )]
    Other {
        /// The setting.
        setting: &'static str,
        /// What it is here.
        ours: PathBuf,
        /// What it is there.
        theirs: PathBuf,
    },
    /// Its address for metrics is somebody else's.
    #[error(
        "metrics_addr: {addr} is in use by another process, and not this daemon's own; it goes on. Give the new one an \
         address and port that are free, or end that process"
    )]
    Metrics {
        /// The address.
        addr: SocketAddr,
    },
    /// The sockets are systemd's.
    #[error("systemd holds this daemon's sockets, and they outlive it: use `systemctl restart tombolo`")]
    Systemd,
    /// It is ending already.
    #[error(
        "this daemon is ending, or handing over to another process already; look again in a moment ('tombolo status')"
    )]
    Ending,
}

/// What the daemon was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// To serve.
    Serve,
    /// To end.
    End,
    /// To end, and to hand its sockets over.
    HandOver,
}

/// The running process's side.
#[derive(Debug, Clone)]
pub struct Giver {
    ours: Wish,
    may: bool,
    told: watch::Sender<Told>,
    offers: mpsc::Sender<Offer>,
    /// One at a time.
    turn: Arc<Semaphore>,
}

/// That a process may take over. No other may as long as this is there.
#[derive(Debug)]
pub struct Promise {
    version: String,
    metrics: bool,
    turn: OwnedSemaphorePermit,
}

impl Giver {
    /// Who hands over the sockets that are `ours` to give, by telling the daemon to end; the second is where it then finds
    /// to whom.
    pub fn new(config: &Config, ours: bool, told: watch::Sender<Told>) -> (Self, mpsc::Receiver<Offer>) {
        let (offers, offered) = mpsc::channel(1);
        let giver = Self {
            ours: Wish::of(config, true),
            may: ours,
            told,
            offers,
            turn: Arc::new(Semaphore::new(1)),
        };
        (giver, offered)
    }

    /// Whether a process may take over.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn agree(&self, wish: &Wish) -> Result<Promise, Refusal> {
        let other = |setting, ours: &Path, theirs: &Path| {
            Err(Refusal::Other {
                setting,
                ours: ours.to_owned(),
                theirs: theirs.to_owned(),
            })
        };
        if !self.may {
            return Err(Refusal::Systemd);
        }
        if wish.schema < self.ours.schema {
            return Err(Refusal::Older {
                version: tombolo_core::model::cut(&wish.version),
                theirs: wish.schema,
                ours: self.ours.schema,
            });
        }
        if wish.plugin_socket != self.ours.plugin_socket {
            return other("plugin_socket", &self.ours.plugin_socket, &wish.plugin_socket);
        }
        if wish.state_dir != self.ours.state_dir {
            return other("state_dir", &self.ours.state_dir, &wish.state_dir);
        }
        if let Some(addr) = wish
            .metrics_addr
            .filter(|_| wish.metrics_addr != self.ours.metrics_addr)
        {
            return Err(Refusal::Metrics { addr });
        }
        let turn = self.turn.clone().try_acquire_owned().ok();
        match turn.filter(|_| *self.told.borrow() == Told::Serve) {
            Some(turn) => Ok(Promise {
                version: tombolo_core::model::cut(&wish.version),
                metrics: wish.metrics_addr.is_some(),
                turn,
            }),
            None => Err(Refusal::Ending),
        }
    }

    /// Tells the daemon to hand over, if who asked is still there: it may have lost its patience with us.
    pub async fn begin(self, promise: Promise, connection: OnUpgrade) {
        let Promise {
            version,
            metrics,
            turn,
        } = promise;
        let stream = match timeout(STILL_THERE, still_there(connection)).await {
            Ok(Ok(stream)) => stream,
            gone => {
                let why = gone.map_or_else(|late| late.to_string(), |gone| gone.err().unwrap_or_default());
                tracing::warn!(
                    version,
                    why,
                    "who asked to take over has gone; this daemon goes on"
                );
                return;
            }
        };
        let offer = Offer {
            stream,
            metrics,
            _turn: turn,
        };
        // There is room: the turn is ours.
        if self.offers.try_send(offer).is_ok() {
            tracing::info!(version, "handing over to another process");
            self.told.send_if_modified(|told| {
                let serves = *told == Told::Serve;
                if serves {
                    *told = Told::HandOver;
                }
                serves
            });
        }
    }
}

/// The connection as it is without HTTP, once the other process has said that it is still there.
async fn still_there(connection: OnUpgrade) -> Result<tokio::net::UnixStream, String> {
    let upgraded = connection.await.map_err(|error| error.to_string())?;
    let parts = upgraded.downcast::<TokioIo<tokio::net::UnixStream>>();
    let parts = parts.map_err(|_| "it did not ask on a Unix socket".to_owned())?;
    let mut stream = parts.io.into_inner();
    if parts.read_buf.is_empty() {
        let byte = stream.read_u8().await;
        byte.map_err(|error| error.to_string())?;
    }
    Ok(stream)
}

/// A process that waits for our sockets.
#[derive(Debug)]
pub struct Offer {
    stream: tokio::net::UnixStream,
    metrics: bool,
    _turn: OwnedSemaphorePermit,
}

impl Offer {
    /// Hands the sockets over and waits until the other process serves. The store must be closed.
    ///
    /// # Errors
    /// [`Error::Gone`]: the other process has ended, so the store is free and the sockets are ours alone.
    pub async fn give(
        mut self,
        plugin: BorrowedFd<'_>,
        control: BorrowedFd<'_>,
        metrics: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let metrics = metrics.filter(|_| self.metrics);
        let sockets: Vec<BorrowedFd<'_>> = [plugin, control].into_iter().chain(metrics).collect();
        send(self.stream.as_fd(), &sockets).map_err(|source| Error::Gone { source })?;
        match timeout(SERVING, self.stream.read_u8()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => Err(Error::Gone { source }),
            Err(_) => {
                let limit_s = SERVING.as_secs();
                tracing::warn!(
                    limit_s,
                    "who took over does not serve yet, but lives; it has the sockets and the state"
                );
                Ok(())
            }
        }
    }
}

/// The sockets of a process that hands over. Their names are its own until it is told that we serve.
#[derive(Debug)]
pub struct Taken {
    /// The one that Docker speaks to.
    pub plugin: UnixListener,
    /// The one that the command line speaks to.
    pub control: UnixListener,
    /// The one that metrics are scraped from.
    pub metrics: Option<TcpListener>,
    /// Where the other process waits.
    pub giver: Waiting,
}

/// A process that has handed over, and goes on if we end.
#[derive(Debug)]
pub struct Waiting(UnixStream);

impl Waiting {
    /// Tells it that we serve, so that it ends.
    pub fn serves(mut self) {
        // One that has ended meanwhile needs to be told nothing.
        self.0.write_all(b"\n").ok();
    }
}

/// Takes the sockets of the running process, which has agreed on this connection. A socket for metrics comes with them
/// only to who has none.
///
/// # Errors
/// [`Error::NeverCame`].
pub fn take(mut stream: UnixStream, metrics: Option<TcpListener>) -> Result<Taken, Error> {
    let mut came = || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"\n")?;
        receive(&stream)
    };
    let mut came = came().map_err(|source| Error::NeverCame { source })?.into_iter();
    let (Some(plugin), Some(control)) = (came.next(), came.next()) else {
        let source = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it ended, or has thought better of it",
        );
        return Err(Error::NeverCame { source });
    };
    Ok(Taken {
        plugin: plugin.into(),
        control: control.into(),
        metrics: metrics.or(came.next().map(TcpListener::from)),
        giver: Waiting(stream),
    })
}

/// How many sockets are handed over at most.
const SOCKETS_MAX: usize = 3;

/// Sends sockets, with the one byte that they need to travel on.
fn send(stream: BorrowedFd<'_>, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("no room for the sockets"));
    }
    // A peer that has gone is an error here, not a signal.
    sendmsg(
        stream,
        &[IoSlice::new(b"\n")],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The sockets that come next; none if the other end has gone.
fn receive(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        stream.as_fd(),
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn giver(may: bool) -> (Giver, watch::Receiver<Told>, mpsc::Receiver<Offer>) {
        let ours = Wish {
            version: "9.9.9".into(),
            schema: 7,
            plugin_socket: "/run/a.sock".into(),
            state_dir: "/var/lib/a".into(),
            metrics_addr: Some("127.0.0.1:9477".parse().unwrap()),
        };
        let (told, hears) = watch::channel(Told::Serve);
        let (offers, offered) = mpsc::channel(1);
        let turn = Arc::new(Semaphore::new(1));
        let giver = Giver {
            ours,
            may,
            told,
            offers,
            turn,
        };
        (giver, hears, offered)
    }

    #[test]
    fn only_who_could_go_on_in_our_place_is_agreed_with_and_one_at_a_time() {
        let (giver, hears, _offered) = giver(true);
        let good = giver.ours.clone();
        let other = Wish {
            plugin_socket: "/run/b.sock".into(),
            ..good.clone()
        };
        let elsewhere = Wish {
            state_dir: "/var/lib/b".into(),
            ..good.clone()
        };
        let older = Wish {
            schema: 6,
            ..good.clone()
        };
        let crowded = Wish {
            metrics_addr: Some("127.0.0.1:80".parse().unwrap()),
            ..good.clone()
        };
        for (wish, text) in [
            (&other, "plugin_socket: this daemon has /run/a.sock"),
            (&elsewhere, "state_dir: this daemon has /var/lib/a"),
            (&older, "schema: the state here has schema 7"),
            (
                &crowded,
                "metrics_addr: 127.0.0.1:80 is in use by another process, and not this daemon's own",
            ),
        ] {
            let why = giver.agree(wish).unwrap_err().to_string();
            assert!(why.starts_with(text), "{why}");
        }
        let unscraped = Wish {
            metrics_addr: None,
            ..good.clone()
        };
        for newer in [Wish { schema: 8, ..good }, unscraped] {
            let promise = giver.agree(&newer).unwrap();
            assert_eq!(giver.agree(&newer).unwrap_err(), Refusal::Ending);
            drop(promise);
        }
        assert_eq!(*hears.borrow(), Told::Serve);
    }

    #[test]
    fn one_that_ends_makes_no_promise() {
        let (giver, _hears, _offered) = giver(true);
        giver.told.send_replace(Told::End);
        assert_eq!(giver.agree(&giver.ours).unwrap_err(), Refusal::Ending);
    }

    #[test]
    fn the_sockets_of_systemd_are_not_handed_over() {
        let (giver, ..) = giver(false);
        assert_eq!(giver.agree(&giver.ours).unwrap_err(), Refusal::Systemd);
    }

    #[test]
    fn what_waits_in_the_queue_of_a_socket_goes_with_it() {
        use std::io::Read;
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let sockets = [
            UnixListener::bind(&one).unwrap(),
            UnixListener::bind(&two).unwrap(),
        ];
        let mut waits = UnixStream::connect(&one).unwrap();
        waits.write_all(b"hello").unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        send(here.as_fd(), &[sockets[0].as_fd(), sockets[1].as_fd()]).unwrap();
        drop(sockets);
        let Taken {
            plugin: first,
            control: second,
            metrics,
            ..
        } = take(there, None).unwrap();
        assert!(metrics.is_none());
        let (mut accepted, _) = first.accept().unwrap();
        let mut text = [0; 5];
        accepted.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
        assert_eq!(second.local_addr().unwrap().as_pathname(), Some(two.as_path()));
    }

    #[test]
    fn who_gives_up_brings_no_sockets_and_who_takes_them_and_dies_gives_them_back() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(matches!(take(there, None), Err(Error::NeverCame { .. })));

        let dir = tempfile::tempdir().unwrap();
        let socket = UnixListener::bind(dir.path().join("one")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap();
        let give = |to: UnixStream| {
            to.set_nonblocking(true).unwrap();
            runtime.block_on(async {
                let mut stream = tokio::net::UnixStream::from_std(to).unwrap();
                // It is still there.
                stream.read_u8().await.unwrap();
                let turn = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
                let offer = Offer {
                    stream,
                    metrics: false,
                    _turn: turn,
                };
                offer.give(socket.as_fd(), socket.as_fd(), None).await
            })
        };
        for serves in [false, true] {
            let (here, there) = UnixStream::pair().unwrap();
            let taker = std::thread::spawn(move || {
                let taken = take(there, None).unwrap();
                if serves {
                    taken.giver.serves();
                }
            });
            assert_eq!(give(here).is_ok(), serves);
            taker.join().unwrap();
        }
    }
}
