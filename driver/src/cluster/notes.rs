//! What is known of others, written down for the next start: where they were reached, and their rows.
//!
//! Where they are reached is little and worth much: with it a host finds the others again. It is written within a second of
//! a change. Rows come again from anybody who is found, and are many: they are written now and then.
//!
//! The disk is not waited for, so there is one write at a time; what changes meanwhile is written next.

use tokio::task::JoinHandle;
use tombolo_cluster::membership::Seat;

use super::keep::Files;
use super::private::Error;

/// The notes.
pub struct Notes {
    files: Files,
    /// Where others are reached, as it was given to be written last.
    seats: Vec<Seat>,
    writing: Option<JoinHandle<()>>,
}

impl Notes {
    /// Notes of which this is written already.
    pub fn new(files: Files, seats: Vec<Seat>) -> Self {
        Self {
            files,
            seats,
            writing: None,
        }
    }

    /// Has it written down where others are reached, if that has changed and nothing else is being written.
    pub fn seats<'a>(&mut self, seats: impl Iterator<Item = &'a Seat>) {
        if self.is_writing() {
            return;
        }
        let seats: Vec<Seat> = seats.cloned().collect();
        if seats != self.seats {
            self.seats.clone_from(&seats);
            self.write(move |files| files.write_seats(&seats));
        }
    }

    /// Has all written down, unless something is being written: then it is next time.
    pub fn all<'a>(&mut self, seats: impl Iterator<Item = &'a Seat>, rows: impl FnOnce() -> Vec<Vec<u8>>) {
        if self.is_writing() {
            return;
        }
        self.seats = seats.cloned().collect();
        let (seats, rows) = (self.seats.clone(), rows());
        self.write(move |files| files.write_seats(&seats).and_then(|()| files.write_rows(&rows)));
    }

    /// Waits until what is being written has been.
    pub async fn settled(&mut self) {
        if let Some(writing) = self.writing.take() {
            // A write doesn't panic, and says itself if it fails.
            writing.await.ok();
        }
    }

    fn is_writing(&self) -> bool {
        self.writing
            .as_ref()
            .is_some_and(|writing| !writing.is_finished())
    }

    fn write(&mut self, write: impl FnOnce(&Files) -> Result<(), Error> + Send + 'static) {
        let files = self.files.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&files) {
                tracing::warn!(
                    error = crate::http::chain(&error),
                    "what is known of other hosts was not written down"
                );
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use tombolo_cluster::HostId;

    use super::*;

    fn seat(n: u8, port: u16) -> Seat {
        Seat::new(HostId::from_bytes([n; 16]), ([192, 0, 2, n], port).into(), 1)
    }

    #[tokio::test]
    async fn where_others_are_reached_is_written_when_it_has_changed_and_not_else() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        files.make().unwrap();
        let mut notes = Notes::new(files.clone(), vec![seat(1, 7)]);
        let mut write = async |seats: &[Seat]| {
            notes.seats(seats.iter());
            notes.settled().await;
        };
        write(&[seat(1, 7)]).await;
        assert_eq!(files.read_seats(), [], "as it was");
        for now in [
            vec![seat(1, 7), seat(2, 7)],
            vec![seat(1, 8), seat(2, 7)],
            vec![seat(2, 7)],
        ] {
            write(&now).await;
            assert_eq!(files.read_seats(), now);
        }
        assert!(files.read_rows().is_empty());
        notes.all([seat(3, 7)].iter(), || vec![vec![1, 2]]);
        notes.settled().await;
        assert_eq!(
            (files.read_seats(), files.read_rows()),
            (vec![seat(3, 7)], vec![vec![1, 2]])
        );
    }
}
