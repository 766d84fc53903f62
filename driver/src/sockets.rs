//! The two sockets that are listened on, Docker's and the command line's, and where they come from.
//!
//! ```text
//!   systemd holds them (tombolo.socket)   -> used as they are; their names are systemd's
//!   a running tombolo hands them over     -> [`crate::hand_over`]; their names are ours once we serve
//!   else                                  -> made here
//! ```
//!
//! A name of ours is known by the file that it leads to: somebody who cleans up `/run` may have taken it away, and then
//! nobody reaches the socket, though it is listened on.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::config::Config;

/// Why a socket can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("making the socket {}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Error {
    fn of(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            path: path.to_owned(),
            source,
        }
    }
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Socket {
    /// The socket.
    pub listener: UnixListener,
    /// Its name, if that is ours.
    pub name: Option<Name>,
}

/// The name of a socket of ours; it goes with this value.
#[derive(Debug)]
pub struct Name {
    path: PathBuf,
    /// Device and number of the file.
    file: (u64, u64),
    leave: bool,
}

impl Name {
    /// The name of a socket that is there now.
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: file_of(path)?,
            leave: false,
        })
    }

    /// Whether it still leads to the socket.
    pub fn leads_here(&self) -> bool {
        file_of(&self.path).is_ok_and(|file| file == self.file)
    }

    /// Leaves the name to the process that has the socket now.
    pub fn leave(mut self) {
        self.leave = true;
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Whoever took it away meanwhile did our work, and who has it now keeps it.
        if !self.leave && self.leads_here() {
            fs::remove_file(&self.path).ok();
        }
    }
}

fn file_of(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Both sockets.
#[derive(Debug)]
pub struct Sockets {
    /// The one that Docker speaks to.
    pub plugin: Socket,
    /// The one that the command line speaks to.
    pub control: Socket,
}

impl Socket {
    /// Takes the name over from the process that handed the socket to us.
    pub fn take_name(&mut self, path: &Path) {
        self.name = Some(Name {
            path: path.to_owned(),
            // One that is missing leads nowhere, and is made anew when that is noticed.
            file: file_of(path).unwrap_or_default(),
            leave: false,
        });
    }
}

/// What systemd has handed us, and paths at which nobody listens for what it has not.
#[derive(Debug)]
pub struct Found {
    plugin: Option<UnixListener>,
    control: Option<UnixListener>,
}

impl Found {
    /// Looks, and touches nothing: what is there may be another daemon's.
    ///
    /// # Errors
    /// [`Error`], which names the socket that another process serves.
    pub fn look(config: &Config) -> Result<Self, Error> {
        let (plugin, control) = handed(config)?;
        let sockets = [
            (&plugin, &config.plugin_socket),
            (&control, &config.control_socket),
        ];
        for (handed, path) in sockets {
            if handed.is_none() {
                must_be_free(path)?;
            }
        }
        Ok(Self { plugin, control })
    }

    /// Those that systemd holds for us, and new ones in place of the others.
    ///
    /// # Errors
    /// [`Error`], which names the socket.
    pub fn open(self, config: &Config) -> Result<Sockets, Error> {
        let open = |given: Option<UnixListener>, path: &Path| match given {
            Some(listener) => Ok(Socket { listener, name: None }),
            None => bind(path),
        };
        Ok(Sockets {
            plugin: open(self.plugin, &config.plugin_socket)?,
            control: open(self.control, &config.control_socket)?,
        })
    }
}

impl Sockets {
    /// Whether both are ours to hand over.
    pub fn are_ours(&self) -> bool {
        self.plugin.name.is_some() && self.control.name.is_some()
    }
}

/// What systemd has handed us: Docker's socket and the command line's. The latter is known by its path; the other is
/// Docker's whatever its path, since systemd was told to make it for that.
fn handed(config: &Config) -> Result<(Option<UnixListener>, Option<UnixListener>), Error> {
    let mut handed = listenfd::ListenFd::from_env();
    let (mut plugin, mut control) = (None, None);
    for number in 0..handed.len() {
        let taken = handed.take_unix_listener(number);
        let Some(listener) = taken.map_err(Error::of(&config.plugin_socket))? else {
            continue;
        };
        let address = listener.local_addr().map_err(Error::of(&config.plugin_socket))?;
        let slot = match address.as_pathname() == Some(config.control_socket.as_path()) {
            true => &mut control,
            false => &mut plugin,
        };
        slot.get_or_insert(listener);
    }
    Ok((plugin, control))
}

/// A socket that only root may speak to, in place of what an earlier run left. The lock on the state directory keeps
/// two daemons apart; a socket that still answers is another's all the same.
///
/// # Errors
/// [`Error`]; one that another process serves is left alone.
pub fn bind(path: &Path) -> Result<Socket, Error> {
    must_be_free(path)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::of(path))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::of(path)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(Error::of(path))?;
    let name = Some(Name::of(path).map_err(Error::of(path))?);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::of(path))?;
    Ok(Socket { listener, name })
}

fn must_be_free(path: &Path) -> Result<(), Error> {
    if UnixStream::connect(path).is_ok() {
        let text = "another process serves it; stop that one first ('tombolo status' shows its pid), \
                    or take over from it: tombolo serve --take-over";
        return Err(Error::of(path)(io::Error::new(io::ErrorKind::AddrInUse, text)));
    }
    Ok(())
}
