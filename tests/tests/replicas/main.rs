//! A network that is made on one host of a cluster is there on all of them, and goes with it.

mod churn;
mod compose;
mod lab;
mod made;
mod taken;
