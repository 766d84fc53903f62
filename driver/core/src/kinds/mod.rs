//! The kinds of network.
use serde::{Deserialize, Serialize};

/// The kind of a network and that kind's options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Spec {
    /// A Linux bridge on one host.
    Bridge {},
}
