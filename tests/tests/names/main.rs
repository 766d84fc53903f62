//! Containers find each other by name on whichever host they are, and are told of nothing else.

mod dig;
mod everywhere;
mod export;
mod open;
mod upstream;
