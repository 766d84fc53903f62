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
mod export;
mod gateway;
mod names;
mod resolver;
mod sandbox;
mod served;
mod services;
mod stream;
mod upstream;

pub use answer::Zone;
pub use export::Export;
pub use gateway::answer_at;
pub use names::{Entry, Home, Names, News, Place, View};

pub use served::Served;
pub use upstream::PORT;

/// Answers at gateways and in containers, and where it is wanted to the outside. It never ends.
pub async fn serve(names: Arc<Names>, zone: Zone, served: Arc<Served>, export: Option<Export>) {
    tokio::join!(
        export::serve(names.clone(), zone.clone(), served.clone(), export),
        gateway::serve(names.clone(), zone.clone(), served.clone()),
        sandbox::serve(names, zone, served)
    );
}

/// The zone that all names are in, beside the short ones.
pub const ZONE: &str = "tombolo.internal";
