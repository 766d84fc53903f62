//! The mark: the number of the last commit, beside the database, written after the commit is durable.
//!
//! The mark itself is not synchronised, so on disk it is at most as new as the database. A database that is behind its
//! mark has therefore lost commits that were acknowledged, which it cannot tell by itself: a damaged page at the end of
//! its log looks just like a write that a crash cut short.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use tombolo_core::model::fnv1a;

use super::Error;
use super::files::Place;

/// The open mark.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

/// The mark's text: always of one length, so that it is overwritten in place.
fn text(commits: u64) -> String {
    format!("{commits:020} {:016x}\n", fnv1a(&commits.to_be_bytes()))
}

/// The number in the mark; none if there is no mark or it is torn (it is then no proof of anything).
pub(super) fn read(place: &Place) -> Result<Option<u64>, Error> {
    let path = place.mark();
    let found = match std::fs::read(&path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("reading", &path)(e)),
    };
    let number = found
        .get(..20)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|t| t.parse().ok());
    let whole = number.filter(|number| text(*number).as_bytes() == found);
    if whole.is_none() {
        tracing::warn!(path = %path.display(), "the mark of the store is unreadable; going on without it");
    }
    Ok(whole)
}

impl Mark {
    /// Opens the mark, or makes it, and sets it to the number of commits.
    pub(super) fn open(place: &Place, commits: u64) -> Result<Self, Error> {
        let path = place.mark();
        let refused = |e| Error::io("writing", &path)(e);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(refused)?;
        let text = text(commits);
        file.set_len(text.len() as u64)
            .and_then(|()| file.write_all_at(text.as_bytes(), 0))
            .map_err(refused)?;
        Ok(Self { file })
    }

    /// Sets the mark. A refusal is only logged: the commit is durable, and an old mark is still a true one.
    pub(super) fn set(&mut self, commits: u64) {
        if let Err(error) = self.file.write_all_at(text(commits).as_bytes(), 0) {
            tracing::warn!(%error, "the mark of the store could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_written_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::make(dir.path()).unwrap();
        assert_eq!(read(&place).unwrap(), None);
        let mut mark = Mark::open(&place, 7).unwrap();
        assert_eq!(read(&place).unwrap(), Some(7));
        mark.set(u64::MAX);
        assert_eq!(read(&place).unwrap(), Some(u64::MAX));
        let whole = std::fs::read(place.mark()).unwrap();
        for torn in [&whole[..30], b"", &[0; 38], &[whole.as_slice(), b"x"].concat()] {
            std::fs::write(place.mark(), torn).unwrap();
            assert_eq!(read(&place).unwrap(), None);
        }
    }
}
