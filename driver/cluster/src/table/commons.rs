//! Names and bodies that several tables of one process have in common.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::row::{Content, Key};

/// Keeps equal names, and equal bodies, of several tables in memory once. A daemon has one table and no use for it; a
///  thousand hosts in one process hold the same rows a thousand times over.
#[derive(Debug, Clone, Default)]
pub struct Commons(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    keys: HashSet<Key>,
    bodies: HashSet<Arc<[u8]>>,
    /// From so many on it is looked what no table holds any more.
    full: usize,
}

/// It isn't worth looking for less.
const FEW: usize = 1024;

impl Commons {
    /// How many names and how many bodies are held.
    pub fn held(&self) -> (usize, usize) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (held.keys.len(), held.bodies.len())
    }

    /// Puts what is held already in the place of what is equal to it.
    pub(super) fn share<'a>(&self, rows: impl Iterator<Item = (&'a mut Key, &'a mut Content)>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, content) in rows {
            held.key(key);
            if let Content::Body(body) = content {
                held.body(body);
            }
        }
        held.forget();
    }
}

impl Held {
    fn key(&mut self, key: &mut Key) {
        match self.keys.get(key) {
            Some(held) => *key = held.clone(),
            None => drop(self.keys.insert(key.clone())),
        }
    }

    fn body(&mut self, body: &mut Arc<[u8]>) {
        match self.bodies.get(body) {
            Some(held) => *body = held.clone(),
            None => drop(self.bodies.insert(body.clone())),
        }
    }

    /// Drops what nobody else holds, now and then.
    fn forget(&mut self) {
        if self.keys.len() + self.bodies.len() > self.full.max(FEW) {
            self.keys.retain(|key| !key.is_alone());
            self.bodies.retain(|body| Arc::strong_count(body) > 1);
            self.full = 2 * (self.keys.len() + self.bodies.len());
        }
    }
}
