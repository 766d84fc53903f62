//! Networks whose containers are on the host's own LAN (macvlan, ipvlan): real engines on hosts that share a switch with a
//! router, a stranger and a DHCP server.
//!
//! What a kernel lacks (ipvlan, 802.1Q, dummy) must be refused by the module's name; where it has it, it must work. Each test
//! asks the kernel itself which of both is the case.
//!
//! `TOMBOLO_TEST_DRIVER=docker` has those of `modes` run against Docker's own macvlan: does a test ask for too much?
#![allow(
    clippy::unwrap_used,
    reason = "what is not a test function here is still a test"
)]

mod crash;
mod dhcp;
mod host;
mod ipvlan;
mod isolated;
mod modes;
mod moved;
mod parent;
mod passthru;
mod plain;
mod ports;
mod refusals;
mod scene;
mod subnets;
mod unique;
mod vlan;
