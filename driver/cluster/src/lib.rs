//! What hosts tell each other: who is there, who is where, and what they have decided together.
//!
//! There is no socket, no clock and no file here. A host's part in the cluster is a state machine: bytes and ticks go
//! in; bytes, timers and records to keep come out, in the order in which they are to be carried out. The daemon and the
//! simulator run the same code.

pub mod charter;
pub mod council;
pub mod membership;
pub mod node;
pub mod store;
pub mod table;
pub mod time;
pub mod wire;

pub use tombolo_ipam::HostId;
