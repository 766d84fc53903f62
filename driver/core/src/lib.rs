//! What should be: Docker's words, our records, and the facts that follow from them.
//!
//! Nothing in this crate waits, reads a clock, draws a random number, or touches a file, a socket or the kernel.
//!
//! ```text
//!   bytes -> wire -> Command -> state -> edits + Reply -> wire -> bytes        records -> kinds -> facts (world)
//! ```

pub mod kinds;
pub mod model;
pub mod modes;
pub mod peers;
pub mod state;
pub mod wire;
pub mod world;

/// Builds a tree anew: nodes of one that was filled one by one are half empty.
pub fn pack<K: Ord, V>(tree: &mut std::collections::BTreeMap<K, V>) {
    *tree = std::mem::take(tree).into_iter().collect();
}
