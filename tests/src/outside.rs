//! The world outside a host: a network namespace on the other end of a wire.
//!
//! It is the host's default route and knows no way back to any container network, so what arrives there and is
//! answered has the host's address.

use crate::host::Host;
use crate::spaces::Spaces;

/// The outside's addresses.
pub const OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// The host's addresses on the wire.
pub const HOST: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// The name of the wire's ends.
pub const WIRE: &str = "wire0";

/// The world outside a host.
#[derive(Debug)]
pub struct Outside {
    spaces: Spaces,
}

impl Outside {
    /// Makes an outside and wires a host to it.
    pub fn of(host: &Host) -> Self {
        let spaces = Spaces::new_network();
        let holder = host.holder_pid().to_string();
        spaces.run(
            "ip",
            &[
                "link", "add", WIRE, "type", "veth", "peer", "name", WIRE, "netns", &holder,
            ],
        );
        for (end, addresses) in [(&spaces, OUTSIDE), (host.spaces(), HOST)] {
            for (address, length) in addresses.iter().zip([24, 64]) {
                // Without duplicate address detection, which would take a second.
                end.run(
                    "ip",
                    &[
                        "address",
                        "add",
                        &format!("{address}/{length}"),
                        "dev",
                        WIRE,
                        "nodad",
                    ],
                );
            }
            end.run("ip", &["link", "set", WIRE, "up"]);
        }
        for address in OUTSIDE {
            host.run("ip", &["route", "add", "default", "via", address]);
        }
        Self { spaces }
    }

    /// The outside's network namespace.
    pub fn spaces(&self) -> &Spaces {
        &self.spaces
    }
}
