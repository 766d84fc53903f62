//! The table of rows from outside: what changes do, what an exchange repairs, what is refused, and that any mixture of
//! all of it ends in the same rows everywhere.

#![allow(clippy::unwrap_used)]

mod common;
mod commons;
mod exchange;
mod named;
mod random;
mod refusals;
mod view;
mod wire;
