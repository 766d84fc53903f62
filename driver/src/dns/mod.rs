//! Names of containers on all hosts of the cluster, and the resolver that answers with them.
//!
//! ```text
//!   Docker's API ──names──> engine ──rows──> cluster ──rows of all hosts──> Names
//!                                                                            ^
//!   container ──question──> gateway's address, port 53 ──> Resolver ─────────┘
//!                                                             └── what is not ours ──> the host's name servers
//! ```
//!
//! The same answers are had within a container from Docker's own resolver's address: [`sandbox`].
//!
//! Who may ask decides the answer: a container is told of the networks that it is on, and of no others.

use std::sync::Arc;

mod answer;
mod gateway;
mod names;
mod resolver;
mod sandbox;
mod served;
mod stream;
mod upstream;

pub use answer::Zone;
pub use gateway::answer_at;
pub use names::{Entry, Home, Names, News, Place, Service, View};

pub use served::Served;

/// Answers at gateways and in containers. It never ends.
pub async fn serve(names: Arc<Names>, zone: Zone, served: Arc<Served>) {
    tokio::join!(
        gateway::serve(names.clone(), zone.clone(), served.clone()),
        sandbox::serve(names, zone, served)
    );
}

/// The zone that all names are in, beside the short ones.
pub const ZONE: &str = "tombolo.internal";
