//! Containers on different hosts talk: overlay and host-gateway networks of real engines on several hosts.

mod absent;
mod cuts;
mod echo;
mod groups;
mod matrix;
mod moves;
mod probes;
mod same;
mod underlay;
