//! How a new process takes the place of a running one, without a refused call: `tombolo serve --take-over`.
//!
//! ```text
//!   new                                              old
//!   listens on control.sock.next
//!   ── POST /v1/hand-over {version, schema, ...} ──>  may it? if not it says why and goes on as if nothing was
//!                                                     accepts nothing more, answers what it has accepted,
//!                                                     closes the store
//!   <── both listening sockets, on control.sock.next ──
//!   opens the store, settles, serves                  ends
//! ```
//!
//! The sockets themselves are handed over, not their names: what Docker asks meanwhile waits in their queues, and there
//! is no moment at which a socket is nobody's. They come when the store is closed, so their coming is all that the new
//! process waits for. systemd does the same for the processes that it runs, and is then the one to ask.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::Config;
use crate::records::SCHEMA;
use crate::sockets::{self, Socket, Sockets};

/// How long the running process may take to answer what it has accepted and to close the store: several times what it
/// allows itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there was no hand-over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket for it could not be made. The running process knows nothing of it.
    #[error(transparent)]
    Socket(#[from] sockets::Error),
    /// The running process agreed, but its sockets never came.
    #[error(
        "the running daemon agreed to hand over, but its sockets did not come within {} s: its log may say why. \
         When it has ended ('tombolo status'), start without --take-over", PATIENCE.as_secs()
    )]
    NeverCame {
        /// What the system said.
        source: io::Error,
    },
    /// The sockets could not be given away. They are closed now.
    #[error("handing the sockets over on {}", path.display())]
    Give {
        /// Where the other process waits.
        path: PathBuf,
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
}

impl Wish {
    /// The wish of a process with these settings.
    pub fn of(config: &Config) -> Self {
        Self {
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
    /// The sockets are systemd's.
    #[error("systemd holds this daemon's sockets, and they outlive it: use `systemctl restart tombolo`")]
    Systemd,
    /// It is ending already.
    #[error("this daemon is ending, or handing over to another process already; try again in a moment")]
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
}

impl Giver {
    /// Who hands these sockets over, by telling the daemon to end.
    pub fn new(config: &Config, sockets: &Sockets, told: watch::Sender<Told>) -> Self {
        Self {
            ours: Wish::of(config),
            may: sockets.are_ours(),
            told,
        }
    }

    /// Tells the daemon to hand over.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then.
    pub fn agree(&self, wish: &Wish) -> Result<(), Refusal> {
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
        let first = self.told.send_if_modified(|told| {
            let serves = *told == Told::Serve;
            if serves {
                *told = Told::HandOver;
            }
            serves
        });
        match first {
            true => {
                tracing::info!(version = wish.version, "handing over to another process");
                Ok(())
            }
            false => Err(Refusal::Ending),
        }
    }
}

/// Where the sockets are handed over.
fn place(control: &Path) -> PathBuf {
    let mut path = control.as_os_str().to_owned();
    path.push(".next");
    path.into()
}

/// Hands the sockets over. The store must be closed.
///
/// # Errors
/// [`Error::Give`].
pub fn give(control_path: &Path, plugin: BorrowedFd<'_>, control: BorrowedFd<'_>) -> Result<(), Error> {
    let path = place(control_path);
    let sent = UnixStream::connect(&path).and_then(|stream| send(&stream, [plugin, control]));
    sent.map_err(|source| Error::Give { path, source })
}

/// The new process's side, before the running one is asked.
#[derive(Debug)]
pub struct Taker(Socket);

impl Taker {
    /// Listens for the sockets.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn new(config: &Config) -> Result<Self, Error> {
        Ok(Self(sockets::bind(&place(&config.control_socket))?))
    }

    /// Waits for the sockets, once the running process has agreed.
    ///
    /// # Errors
    /// [`Error::NeverCame`].
    pub fn wait(self, config: &Config) -> Result<Sockets, Error> {
        let came = || {
            let listener = &self.0.listener;
            // The kernel keeps to this time when accepting as well.
            set_socket_timeout(listener, Timeout::Recv, Some(PATIENCE))?;
            let (stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            receive(&stream)
        };
        let [plugin, control] = came().map_err(|source| Error::NeverCame { source })?;
        Ok(Sockets::taken(config, plugin, control))
    }
}

/// Sends two sockets, with the one byte that they need to travel on.
fn send(stream: &UnixStream, sockets: [BorrowedFd<'_>; 2]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("no room for two sockets"));
    }
    sendmsg(
        stream.as_fd(),
        &[IoSlice::new(b"\n")],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<[UnixListener; 2]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
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
    let sockets: Vec<OwnedFd> = rights.flatten().collect();
    let sockets: [OwnedFd; 2] = sockets
        .try_into()
        .map_err(|found: Vec<OwnedFd>| io::Error::other(format!("{} sockets came, not two", found.len())))?;
    Ok(sockets.map(UnixListener::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn giver(may: bool) -> (Giver, watch::Receiver<Told>) {
        let ours = Wish {
            version: "9.9.9".into(),
            schema: 7,
            plugin_socket: "/run/a.sock".into(),
            state_dir: "/var/lib/a".into(),
        };
        let (told, hears) = watch::channel(Told::Serve);
        (Giver { ours, may, told }, hears)
    }

    #[test]
    fn only_who_could_go_on_in_our_place_is_agreed_with_and_only_the_first() {
        let (giver, hears) = giver(true);
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
        for (wish, text) in [
            (&other, "plugin_socket: this daemon has /run/a.sock"),
            (&elsewhere, "state_dir: this daemon has /var/lib/a"),
            (&older, "schema: the state here has schema 7"),
        ] {
            let why = giver.agree(wish).unwrap_err().to_string();
            assert!(why.starts_with(text), "{why}");
            assert_eq!(*hears.borrow(), Told::Serve);
        }
        let newer = Wish { schema: 8, ..good };
        assert_eq!(giver.agree(&newer), Ok(()));
        assert_eq!(*hears.borrow(), Told::HandOver);
        assert_eq!(giver.agree(&newer), Err(Refusal::Ending));
    }

    #[test]
    fn the_sockets_of_systemd_are_not_handed_over() {
        let (giver, hears) = giver(false);
        assert_eq!(giver.agree(&giver.ours), Err(Refusal::Systemd));
        assert_eq!(*hears.borrow(), Told::Serve);
    }

    #[test]
    fn what_waits_in_the_queue_of_a_socket_goes_with_it() {
        use std::io::{Read, Write};
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let sockets = [
            UnixListener::bind(&one).unwrap(),
            UnixListener::bind(&two).unwrap(),
        ];
        let mut waits = UnixStream::connect(&one).unwrap();
        waits.write_all(b"hello").unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, [sockets[0].as_fd(), sockets[1].as_fd()]).unwrap();
        drop(sockets);
        let [first, second] = receive(&there).unwrap();
        let (mut accepted, _) = first.accept().unwrap();
        let mut text = [0; 5];
        accepted.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
        assert_eq!(second.local_addr().unwrap().as_pathname(), Some(two.as_path()));
    }

    #[test]
    fn a_message_without_sockets_is_no_hand_over() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(receive(&there).is_err());
    }
}
