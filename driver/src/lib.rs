//! Making it so: the engine, the store, the kernel, Docker's socket and the command line.

pub mod cli;
pub mod config;
pub mod kernel;
