//! Which address is whose.
