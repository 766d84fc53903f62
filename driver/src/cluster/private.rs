//! Files that nobody but their owner may read: how they are written whole, and refused when others can read them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The longest file that is read, in bytes: far more than any key has.
pub const LONGEST: usize = 4096;

/// Why a file of a key could not be read or written. A file that was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be written.
    #[error("writing {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a directory, a pipe or the like.
    #[error("{} is not a regular file, and only such a file may hold a key", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Others may read or write it.
    #[error(
        "{0} has mode {mode:04o}, so others than its owner may use the key in it; only 0600 or less is allowed: \
         `chmod 600 {0}`. If others could read it until now, the key is known to them", path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode's twelve lowest bits.
        mode: u32,
    },
    /// It is too long for a key.
    #[error("{} is longer than {LONGEST} bytes, so it holds no key", path.display())]
    Long {
        /// The file.
        path: PathBuf,
    },
}

/// The bytes of a file that only its owner may use. They are overwritten when dropped.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let fault = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    // Not to wait for the other end of a pipe. The mode is asked of what was opened, not of what the path may name by then.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(fault)?;
    let meta = file.metadata().map_err(fault)?;
    if !meta.is_file() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Error::Open {
            path: path.to_owned(),
            mode: meta.mode() & 0o7777,
        });
    }
    // All room at once: a buffer that grew would leave pieces of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(fault)?;
    if bytes.len() > LONGEST {
        return Err(Error::Long {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

/// Writes a file with mode 0600, whole or not at all, and durable when this returns.
///
/// Whoever dies on the way leaves `<path>.new`, which the next writing replaces.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fault = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut new = OsString::from(path);
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(fault)?;
    // The mask of the process may have taken more bits than it should.
    let written = file
        .set_permissions(Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        // What is left would hold a piece of a key.
        let _ = fs::remove_file(&new);
        return Err(fault(error));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_with_mode_0600_and_replaces_one_that_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(folder.path().join("key.new"), "left by one who died").unwrap();
        for text in ["first", "second, longer", ""] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(read(&path).unwrap().as_slice(), text.as_bytes());
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_may_use_is_refused_with_its_mode_and_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write(&path, b"text").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let text = read(&path).unwrap_err().to_string();
            assert!(text.contains(&format!("mode {mode:04o}")), "{text}");
            assert!(text.contains(&format!("chmod 600 {}", path.display())), "{text}");
        }
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(read(&path).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_file_or_too_long_or_not_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path()), Err(Error::NotAFile { .. })));
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&pipe), Err(Error::NotAFile { .. })));
        let path = folder.path().join("key");
        assert!(matches!(read(&path), Err(Error::Read { .. })));
        write(&path, &[b'a'; LONGEST]).unwrap();
        assert_eq!(read(&path).unwrap().len(), LONGEST);
        write(&path, &[b'a'; LONGEST + 1]).unwrap();
        assert!(matches!(read(&path), Err(Error::Long { .. })));
        assert!(matches!(
            write(&folder.path().join("none/key"), b""),
            Err(Error::Write { .. })
        ));
    }

    #[test]
    fn a_writing_that_fails_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        // A folder that isn't empty can't be replaced by a file.
        let path = folder.path().join("key");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "kept").unwrap();
        assert!(write(&path, b"key").is_err());
        assert_eq!(fs::read_to_string(path.join("inside")).unwrap(), "kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
