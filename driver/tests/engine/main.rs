//! The engine on a fake kernel.
#![allow(clippy::unwrap_used)]

mod announce;
mod docker;
mod events;
mod flows;
mod grants;
mod later;
mod random;
mod scene;
mod together;
