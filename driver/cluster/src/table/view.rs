//! What the reader of a table has yet to be told.

use std::collections::BTreeMap;
use std::sync::Arc;

use tombolo_ipam::HostId;

use super::row::Key;

/// A difference of what is visible: from what the reader last saw to what is there now. The two differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Whose row.
    pub origin: HostId,
    /// Its name.
    pub key: Key,
    /// What the reader saw before; none if there was nothing.
    pub before: Option<Arc<[u8]>>,
    /// What is there now; none if it is gone.
    pub after: Option<Arc<[u8]>>,
}

/// For each row that differs from what the reader last saw, what that was. A row that goes back to it is struck out, so
/// there are never more entries than rows that were visible then or are now.
#[derive(Debug, Default)]
pub(super) struct View {
    before: BTreeMap<(HostId, Key), Option<Arc<[u8]>>>,
}

impl View {
    pub fn note(&mut self, origin: HostId, key: &Key, before: Option<Arc<[u8]>>, after: Option<&Arc<[u8]>>) {
        let place = (origin, key.clone());
        match self.before.get(&place) {
            Some(seen) if seen.as_ref() == after => {
                self.before.remove(&place);
            }
            Some(_) => {}
            None if before.as_ref() != after => {
                self.before.insert(place, before);
            }
            None => {}
        }
    }

    pub fn len(&self) -> usize {
        self.before.len()
    }

    pub fn take(&mut self) -> BTreeMap<(HostId, Key), Option<Arc<[u8]>>> {
        std::mem::take(&mut self.before)
    }
}

/// The view as the rows of one host are changed in it: blind for a host that is not shown.
pub(super) struct Eye<'a> {
    pub view: &'a mut View,
    pub origin: HostId,
    pub shown: bool,
}

impl Eye<'_> {
    pub fn note(&mut self, key: &Key, before: Option<Arc<[u8]>>, after: Option<&Arc<[u8]>>) {
        if self.shown {
            self.view.note(self.origin, key, before, after);
        }
    }
}
