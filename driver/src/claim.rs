//! One tombolo a host.
//!
//! Two with state directories of their own, such as a package's and a managed plug-in's, would each take what the other
//! makes in the kernel for something that nobody wants, and sweep it. So each holds a lock beside the control socket, where
//! the command line looks for the one that there is; a managed plug-in has the host's own `/run` there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why this process may not look after this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another does.
    #[error(
        "{} is locked{}: another tombolo looks after this host's network already, maybe with another state directory or as a \
         managed plug-in (`docker plugin ls`). `tombolo status` asks it; stop or disable one of the two", path.display(),
        pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
    )]
    Taken {
        /// The lock.
        path: PathBuf,
        /// Who has it, where that can be told.
        pid: Option<u32>,
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

/// The lock that belongs to a control socket.
pub fn lock_of(control_socket: &Path) -> PathBuf {
    let mut path = control_socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Which process holds a lock, where that can be told. The lock itself is not touched: one who starts just now may want it.
pub fn holder_of(lock: &Path) -> Option<u32> {
    let meta = fs::metadata(lock).ok()?;
    // The kernel gives a long list in pieces, and may miss a line when locks come and go between them.
    (0..LOOKS).find_map(|_| holder(&locks().ok()?, meta.dev(), meta.ino()))
}

/// How often the kernel's list of locks is looked through for one that should be there.
const LOOKS: usize = 5;

/// The kernel's list of locks.
fn locks() -> io::Result<String> {
    let mut file = File::open("/proc/locks")?;
    let (mut text, mut piece) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            length => text.extend_from_slice(&piece[..length]),
        }
    }
}

/// The same by the kernel's own list (`/proc/locks`) and the lock's device and number.
fn holder(locks: &str, device: u64, number: u64) -> Option<u32> {
    let file = format!(
        "{:02x}:{:02x}:{number}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    );
    let mut lines = locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    // `1: FLOCK  ADVISORY  WRITE 1234 00:1a:12345 0 EOF`; one who waits has an arrow behind the number.
    let held = lines.find(|words| words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file.as_str()))?;
    held.get(4)?.parse().ok()
}

impl Claim {
    /// Takes the lock that belongs to a control socket.
    ///
    /// # Errors
    /// [`Error`].
    pub fn take(control_socket: &Path) -> Result<Self, Error> {
        let path = lock_of(control_socket);
        if let Some(parent) = path.parent()
            && let Err(source) = fs::create_dir_all(parent)
        {
            return Err(Error::System { path, source });
        }
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        match file.map(|file| (file.try_lock(), file)) {
            Ok((Ok(()), file)) => Ok(Self { file }),
            Ok((Err(TryLockError::WouldBlock), _)) => {
                let pid = holder_of(&path);
                Err(Error::Taken { path, pid })
            }
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
            refused.contains(&format!(
                "control.sock.lock is locked by process {}: another tombolo",
                std::process::id()
            )),
            "{refused}"
        );
        drop(first);
        Claim::take(&socket).unwrap();
    }

    #[test]
    fn the_kernels_list_tells_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let claim = Claim::take(&socket).unwrap();
        let meta = fs::metadata(lock_of(&socket)).unwrap();
        let who = || (0..LOOKS).find_map(|_| holder(&locks().unwrap(), meta.dev(), meta.ino()));
        assert_eq!(who(), Some(std::process::id()));
        drop(claim);
        assert_eq!(who(), None);
        let list = "1: POSIX  ADVISORY  WRITE 7 00:1a:5 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 8 00:1a:5 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE 9 00:1a:5 0 EOF\n";
        assert_eq!(holder(list, 0x1a, 5), Some(9));
        assert_eq!(holder(list, 0x1b, 5), None);
    }
}
