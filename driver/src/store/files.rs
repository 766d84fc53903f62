//! The store's directory: its names, its lock, and copies and moves that a power cut does not undo.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Error;

/// The directory of a store.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
}

impl Place {
    /// The directory, made with mode 0700 where it is missing.
    pub(super) fn make(dir: &Path) -> Result<Self, Error> {
        let missing: Vec<&Path> = dir
            .ancestors()
            .take_while(|d| !d.as_os_str().is_empty() && !d.exists())
            .collect();
        let refused = |e| Error::io("making the state directory", dir)(e);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(refused)?;
        for made in missing {
            sync(parent(made))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The database.
    pub(super) fn db(&self) -> PathBuf {
        self.dir.join("db")
    }

    /// The database as it was found, while it is being opened.
    pub(super) fn found(&self) -> PathBuf {
        self.dir.join("db.found")
    }

    /// A database that is being made from rows.
    pub(super) fn built(&self) -> PathBuf {
        self.dir.join("db.built")
    }

    /// A copy that is being made.
    pub(super) fn copied(&self) -> PathBuf {
        self.dir.join("db.copied")
    }

    /// A database that is made and is to take the place of `db`.
    pub(super) fn ready(&self) -> PathBuf {
        self.dir.join("db.ready")
    }

    /// The mark.
    pub(super) fn mark(&self) -> PathBuf {
        self.dir.join("mark")
    }

    /// The backup.
    pub(super) fn backup(&self) -> PathBuf {
        self.dir.join("backup.json")
    }

    /// Whether no store was ever here.
    pub(super) fn untouched(&self) -> Result<bool, Error> {
        let damaged = self.names()?.iter().any(|name| name.starts_with("damaged-"));
        Ok(!damaged && !self.mark().exists() && !self.backup().exists())
    }

    /// A new directory for what was found damaged.
    pub(super) fn damaged(&self) -> Result<PathBuf, Error> {
        let number = |name: &String| name.strip_prefix("damaged-").and_then(|n| n.parse::<u32>().ok());
        let last = self.names()?.iter().filter_map(number).max().unwrap_or(0);
        let path = self.dir.join(format!("damaged-{}", last.saturating_add(1)));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(Error::io("making", &path))?;
        sync(&self.dir)?;
        Ok(path)
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let names = fs::read_dir(&self.dir).and_then(|entries| {
            entries
                .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
                .collect()
        });
        names.map_err(Error::io("listing", &self.dir))
    }
}

/// The lock on a store; let go when dropped, or when the process dies.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock and writes our process id into it.
    pub(super) fn take(place: &Place) -> Result<Self, Error> {
        let path = place.dir.join("lock");
        let refused = |e| Error::io("locking", &path)(e);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options.open(&path).map_err(refused)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(refused)?;
                return Err(Error::Locked {
                    dir: place.dir.clone(),
                    pid: holder.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(refused(e)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(refused)?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    /// Closing the file alone would not do: a child that another thread has just forked still holds a copy of it.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "letting go of the lock of the store");
        }
    }
}

/// The directory that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Waits until a file's content, or a directory's entries, are on the disk.
pub(super) fn sync(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("synchronising", path))
}

/// Moves `from` to `to` in the same file system, durably.
///
/// A directory of an overlay's lower layer, as all that a host with a read-only root has had from its image, can't be
/// renamed (EXDEV; Documentation/filesystems/overlayfs.rst, "renaming directories"): it is copied and removed. A power
/// cut before that is done leaves `from` whole, or `to` whole and what is left of `from`.
pub(super) fn shift(from: &Path, to: &Path) -> Result<(), Error> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            let whole = to.with_extension("moved");
            remove(&whole)?;
            copy(from, &whole, |_| true)?;
            sync_tree(&whole)?;
            fs::rename(&whole, to).map_err(Error::io("moving aside", from))?;
            sync(parent(to))?;
            remove(from)?;
        }
        renamed => renamed.map_err(Error::io("moving aside", from))?,
    }
    sync(parent(to))?;
    sync(parent(from))
}

/// Removes a tree of our own making, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", path)(e)),
        _ => Ok(()),
    }
}

/// Copies a tree to `to`, but for the entries at its top that `wanted` refuses. `to` is there when the copy is whole.
/// It is on the disk only after [`sync_tree`].
pub(super) fn copy(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
    let part = to.with_extension("part");
    remove(&part)?;
    if let Err(e) = copy_entries(from, &part, &wanted) {
        // A disk that is full must not stay so because of us.
        remove(&part)?;
        return Err(Error::io("copying", from)(e));
    }
    fs::rename(&part, to).map_err(Error::io("copying to", to))
}

fn copy_entries(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if wanted(&name.to_string_lossy()) {
            copy_entries(&from.join(&name), &to.join(&name), &|_| true)?;
        }
    }
    Ok(())
}

/// Waits until a tree and its name are on the disk.
pub(super) fn sync_tree(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(Error::io("listing", path))? {
            sync_tree(&entry.map_err(Error::io("listing", path))?.path())?;
        }
    }
    sync(path)?;
    sync(parent(path))
}
