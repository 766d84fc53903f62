//! Making it so: the engine, the store, the kernel, Docker's socket and the command line.

pub mod claim;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod dhcp;
pub mod dns;
pub mod docker;
pub mod door;
pub mod engine;
pub mod firewall;
pub mod hand_over;
pub mod host;
pub mod http;
pub mod kernel;
pub mod lent;
mod listen;
pub mod metrics;
pub mod records;
pub mod replicas;
pub mod segment;
pub mod serve;
pub mod sockets;
pub mod store;
mod wires;
