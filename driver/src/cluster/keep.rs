//! What this host's part in the cluster keeps: records through the engine, which owns the store, and files for what is
//! secret.
//!
//! | where | what |
//! |---|---|
//! | record `host` | this host's identifier, as long as it is in the cluster |
//! | record `epoch` | how often it was started; raised before anything is said |
//! | records `charter.N`, `acceptor.N`, `witness/…` | what the node must not forget |
//! | record `out` | that it stays out, whatever its settings say; [`out`](super::out) |
//! | record `heard.N` | how far each sender was heard, so that nothing is taken twice |
//! | file `cluster/secret` | the cluster's secret, mode 0600 |
//! | file `cluster/secret.next` | the next one, while it is being rotated |
//! | file `cluster/host-key` | this host's own key, mode 0600 |
//! | file `cluster/seats` | where others were reached, written soon after a change; may be missing |
//! | file `cluster/rows` | the rows of others, written now and then; may be missing |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};
use tombolo_cluster::membership::Seat;
use tombolo_cluster::wire::{decode, encode};

use super::secret::Secret;
use crate::engine::Ask;

/// How many bytes a record holds: twice as many hexadecimal digits stay below what the store takes.
const PART: usize = 24 * 1024;

/// The record of this host's identifier.
pub const HOST: &str = "host";

/// Whether records of an earlier run say that this host is in a cluster, which will be heard in a moment.
pub fn in_cluster(records: &BTreeMap<String, String>) -> bool {
    records.contains_key(&part_of(HOST, 0))
}

/// What a part of a record is called in the store.
fn part_of(key: &str, part: usize) -> String {
    format!("{key}.{part}")
}

/// Why something was not kept.
#[derive(Debug, thiserror::Error)]
#[error("the cluster's records could not be stored: {0}")]
pub struct NotKept(String);

/// The records, in memory as they are in the store.
pub struct Keeper {
    asks: mpsc::Sender<Ask>,
    records: BTreeMap<String, String>,
}

impl Keeper {
    /// With what was found in the store.
    pub fn new(asks: mpsc::Sender<Ask>, records: BTreeMap<String, String>) -> Self {
        Self { asks, records }
    }

    /// The records as they are in the store.
    pub fn saved(&self) -> BTreeMap<String, String> {
        self.records.clone()
    }

    /// A record's bytes, put together again.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for part in 0.. {
            match self.records.get(&part_of(key, part)) {
                Some(text) => bytes.extend(unhex(text)?),
                None if part == 0 => return None,
                None => break,
            }
        }
        Some(bytes)
    }

    /// What a record says, if it can be read.
    pub fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.get(key).as_deref().and_then(decode)
    }

    /// The records whose keys begin so, without that beginning.
    pub fn below(&self, head: &str) -> Vec<(String, Vec<u8>)> {
        let keys = self.records.keys().filter_map(|key| key.strip_suffix(".0"));
        let keys = keys.filter(|key| key.starts_with(head));
        keys.filter_map(|key| Some((key.strip_prefix(head)?.to_owned(), self.get(key)?)))
            .collect()
    }

    /// Keeps records; when it returns they survive a power cut.
    ///
    /// # Errors
    /// If they may not; none of them was written then.
    pub async fn keep(&mut self, records: Vec<(String, Option<Vec<u8>>)>) -> Result<(), NotKept> {
        let mut puts = Vec::new();
        for (key, value) in records {
            let parts = value
                .as_ref()
                .map_or(0, |value| value.len().div_ceil(PART).max(1));
            for part in 0.. {
                let name = part_of(&key, part);
                let text = value.as_ref().filter(|_| part < parts).map(|value| {
                    let from = part * PART;
                    hex(value.get(from..value.len().min(from + PART)).unwrap_or_default())
                });
                if text.is_none() && !self.records.contains_key(&name) {
                    break;
                }
                puts.push((name, text));
            }
        }
        let (answer, answered) = oneshot::channel();
        let sent = self.asks.send(Ask::Keep(puts.clone(), answer)).await;
        match (sent, answered.await) {
            (Ok(()), Ok(Ok(()))) => {}
            (Ok(()), Ok(Err(why))) => return Err(NotKept(why)),
            _ => return Err(NotKept("tombolo is shutting down".to_owned())),
        }
        for (name, text) in puts {
            match text {
                Some(text) => self.records.insert(name, text),
                None => self.records.remove(&name),
            };
        }
        Ok(())
    }

    /// Forgets everything but this, which is kept in the same write.
    ///
    /// # Errors
    /// As for [`keep`](Self::keep).
    pub async fn clear(&mut self, but: Option<(String, Vec<u8>)>) -> Result<(), NotKept> {
        let keys = self.records.keys().filter_map(|key| key.rsplit_once('.'));
        let mut records: BTreeMap<String, Option<Vec<u8>>> =
            keys.map(|(key, _)| (key.to_owned(), None)).collect();
        records.extend(but.map(|(key, value)| (key, Some(value))));
        self.keep(records.into_iter().collect()).await
    }
}

/// The files.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Below the state directory.
    pub fn below(state: &Path) -> Self {
        Self {
            dir: state.join("cluster"),
        }
    }

    /// Makes their directory.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn make(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
    }

    /// The cluster's secret.
    pub fn secret(&self) -> PathBuf {
        self.dir.join("secret")
    }

    /// The secret that comes next.
    pub fn next_secret(&self) -> PathBuf {
        self.dir.join("secret.next")
    }

    /// This host's own key.
    pub fn host_key(&self) -> PathBuf {
        self.dir.join("host-key")
    }

    fn seats(&self) -> PathBuf {
        self.dir.join("seats")
    }

    fn rows(&self) -> PathBuf {
        self.dir.join("rows")
    }

    /// Where others were reached before the start.
    pub fn read_seats(&self) -> Vec<Seat> {
        // Without it others have to find this host.
        let bytes = std::fs::read(self.seats()).unwrap_or_default();
        decode(&bytes).unwrap_or_default()
    }

    /// Writes where others are reached.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write_seats(&self, seats: &[Seat]) -> Result<(), super::private::Error> {
        super::private::write(&self.seats(), &encode(&seats))
    }

    /// The rows of others as they were known before the start.
    pub fn read_rows(&self) -> Vec<Vec<u8>> {
        // Without it all come again from the others.
        let bytes = std::fs::read(self.rows()).unwrap_or_default();
        decode(&bytes).unwrap_or_default()
    }

    /// Writes the rows of others.
    ///
    /// # Errors
    /// If they can't be written.
    pub fn write_rows(&self, rows: &[Vec<u8>]) -> Result<(), super::private::Error> {
        super::private::write(&self.rows(), &encode(&rows))
    }

    /// Takes the next secret for the present one.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn turn_over(&self, secret: &Secret) -> Result<(), super::secret::Error> {
        secret.write(&self.secret())?;
        // What remains of it is of no use, and harmless.
        std::fs::remove_file(self.next_secret()).ok();
        Ok(())
    }

    /// Removes them all.
    ///
    /// # Errors
    /// If one can't be removed.
    pub fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a text can't fail.
            write!(text, "{byte:02x}").ok();
            text
        })
}

/// Hexadecimal digits as bytes.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    let digits = (0..text.len()).step_by(2);
    digits
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_of_any_size_are_put_together_again_and_forgotten_whole() {
        let (asks, mut queue) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Some(ask) = queue.recv().await {
                if let Ask::Keep(puts, answer) = ask {
                    let fits = puts
                        .iter()
                        .all(|(_, text)| text.as_ref().is_none_or(|text| text.len() < 60_000));
                    assert!(fits, "a record fits into the store");
                    answer.send(Ok(())).ok();
                }
            }
        });
        let mut keeper = Keeper::new(asks, BTreeMap::new());
        for size in [0, 1, PART - 1, PART, PART + 1, 5 * PART + 7, 3] {
            let value: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            keeper
                .keep(vec![("charter".to_owned(), Some(value.clone()))])
                .await
                .unwrap();
            assert_eq!(keeper.get("charter"), Some(value));
        }
        assert_eq!(keeper.records.len(), 1);
        keeper
            .keep(vec![("witness/a".to_owned(), Some(vec![1]))])
            .await
            .unwrap();
        assert_eq!(keeper.below("witness/"), [("a".to_owned(), vec![1])]);
        assert!(!in_cluster(&keeper.saved()));
        keeper
            .keep(vec![(HOST.to_owned(), Some(vec![2; 16]))])
            .await
            .unwrap();
        assert!(in_cluster(&keeper.saved()), "it is heard of as the store has it");
        keeper.clear(Some(("out".to_owned(), vec![7]))).await.unwrap();
        assert_eq!((keeper.records.len(), keeper.get("out")), (1, Some(vec![7])));
        assert!(!in_cluster(&keeper.saved()));
        keeper.clear(None).await.unwrap();
        assert!(keeper.records.is_empty());
    }

    #[test]
    fn digits_read_back_and_nothing_else_is_read() {
        assert_eq!(unhex(&hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        for strange in ["0", "0g", "ü0", "+1"] {
            assert_eq!(unhex(strange), None, "{strange}");
        }
    }
}
