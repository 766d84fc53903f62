//! The cluster with the built binary: a daemon on each of several hosts on one wire, driven by its command line, and by
//! its plug-in socket where addresses and endpoints are wanted, without a Docker engine.
//!
//! ```text
//!   the wire: a bridge in a namespace of its own, 10.200.0.254, where datagrams are cut, lost, heard and forged
//!     ├── 10.200.0.1  tombolo serve
//!     ├── 10.200.0.2  tombolo serve
//!     └── ...
//! ```
//!
//! How long things take is shown, and asserted with room for a busy machine. One cluster runs at a time, as each test is
//! about time.

mod clones;
mod cut;
mod flood;
mod health;
mod joining;
mod keys;
mod lab;
mod leaving;
mod peers;
mod plugin;
mod space;
