//! One tombolo a host.
//!
//! Two with state directories of their own, such as a package's and a managed plug-in's, would each take what the other
//! makes in the kernel for something that nobody wants, and sweep it. So each holds a lock beside the control socket, where
//! the command line looks for the one that there is; a managed plug-in has the host's own `/run` there.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why this process may not look after this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another does.
    #[error(
        "{} is locked: another tombolo looks after this host's network already, maybe with another state directory or as a \
         managed plug-in (`docker plugin ls`). `tombolo status` asks it; stop or disable one of the two", path.display()
    )]
    Taken {
        /// The lock.
        path: PathBuf,
    },
    /// The lock could not be taken.
    #[error("locking {}", path.display())]
    System {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The lock, held until this value or the process goes. Its file stays: one that is removed could be locked twice.
#[derive(Debug)]
pub struct Claim {
    file: File,
}

impl Drop for Claim {
    /// Closing the file alone would not do: a child that another thread has just forked still holds a copy of it.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "letting go of the lock by which one tombolo a host is known");
        }
    }
}

impl Claim {
    /// Takes the lock that belongs to a control socket.
    ///
    /// # Errors
    /// [`Error`].
    pub fn take(control_socket: &Path) -> Result<Self, Error> {
        let mut path = control_socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        match file.map(|file| (file.try_lock(), file)) {
            Ok((Ok(()), file)) => Ok(Self { file }),
            Ok((Err(TryLockError::WouldBlock), _)) => Err(Error::Taken { path }),
            Ok((Err(TryLockError::Error(source)), _)) | Err(source) => Err(Error::System { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_the_lock_and_the_next_when_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let first = Claim::take(&socket).unwrap();
        let refused = Claim::take(&socket).unwrap_err().to_string();
        assert!(
            refused.contains("control.sock.lock is locked: another tombolo"),
            "{refused}"
        );
        drop(first);
        Claim::take(&socket).unwrap();
    }
}
