//! Names of containers on all hosts of the cluster, and the resolver that answers with them.
//!
//! ```text
//!   Docker's API ──names──> engine ──rows──> cluster ──rows of all hosts──> Names
//!                                                                            ^
//!   container ──question──> gateway's address, port 53 ──> Resolver ─────────┘
//!                                                             └── what is not ours ──> the host's name servers
//! ```
//!
//! Who may ask decides the answer: a container is told of the networks that it is on, and of no others.

mod answer;
mod gateway;
mod names;
mod resolver;
mod upstream;

pub use answer::Zone;
pub use gateway::serve;
pub use names::{Entry, Home, Names, News, Service, View};

/// The zone that all names are in, beside the short ones.
pub const ZONE: &str = "tombolo.internal";
