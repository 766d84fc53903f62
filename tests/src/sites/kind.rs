//! The kinds of networks that hosts of a cluster have in common, and how each is asked for.

/// Whether tombolo has the kinds whose containers reach each other from host to host. Where it has not, networks that only
/// share their addresses stand in for them, and nothing is asked across hosts.
pub const ACROSS: bool = true;

/// A kind of network that has the same name on several hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bridges that share their addresses and nothing else.
    Shared,
    /// A tunnel from each host to each other one.
    Overlay,
    /// Routes from each host to each other one.
    HostGateway,
}

impl Kind {
    /// What a user calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "bridge",
            Self::Overlay => "overlay",
            Self::HostGateway => "host-gateway",
        }
    }

    /// Whether its containers reach each other from host to host.
    pub fn reaches(self) -> bool {
        ACROSS && self != Self::Shared
    }

    /// The option (`-o`) of `docker network create` that asks for a network of this kind.
    pub fn option(self, network: &str) -> String {
        if self.reaches() {
            format!("type={}", self.name())
        } else {
            format!("net={network}")
        }
    }
}
