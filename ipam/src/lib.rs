//! Which address is whose: pools, leases, and the choice of the next one.
//!
//! It is pure. There is no clock (requests carry the time), no randomness and no file here, and nothing of Docker's
//! or the driver's. A request only *decides*: it gives an answer and the [edits](Edit) that make it true, which the
//! caller stores and then [applies](Ipam::apply). So an answer that could not be stored was never given.
//!
//! ```text
//!   pool      local/10.1.0.0/24                      a subnet, or one range of it, for one network
//!   slots     (local, 10.1.0.1)  leased, gateway     one record an address: nothing here can hold it twice
//!             (local, 10.1.0.2)  leased, endpoint
//!             (local, 10.1.0.3)  cooling until …     freed a moment ago: comes last
//!   share     10.1.0.0/24                            what this host owns of a pool that hosts share
//! ```
//!
//! No request's cost grows with the number of pools or leases beyond its logarithm, but for what it must name: the
//! release of a pool its slots, the choice of a subnet the gaps between those that are taken.

mod addresses;
mod carve;
mod error;
mod host;
mod index;
mod ipam;
mod pool;
pub mod prefix;
pub mod range;
pub mod share;
mod slot;
mod subnets;

pub use addresses::{COOL_DOWN_S, Wish};
pub use carve::Carve;
pub use error::Error;
pub use host::HostId;
pub use ipam::{Edit, Fill, Ipam, Problem};
pub use pool::{KeptOut, Pool, PoolId, Space};
pub use share::{Ask, Gift, NoGift, Piece, Share};
pub use slot::{Slot, Use};
pub use subnets::{PoolRequest, Want};
