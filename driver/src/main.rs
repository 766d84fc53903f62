//! The tombolo daemon and its command line.
fn main() {}
