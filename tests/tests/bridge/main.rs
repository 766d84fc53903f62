//! Every option of a bridge network and every situation it may be in, on a real engine: who reaches whom, and as whom they
//! are seen. Each row of a table is a real connection or datagram.
//!
//! Each test ends by removing all it made and finding the host as it was.
#![allow(
    clippy::unwrap_used,
    reason = "what is not a test function here is still a test"
)]

mod firewall;
mod flows;
mod modes;
mod options;
mod ports;
mod ways;
