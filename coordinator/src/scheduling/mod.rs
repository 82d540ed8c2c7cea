//! Scheduling: who runs what where. Pure cores; their shells live in [`crate::pools`].
//!
//! * [`Dispatcher`], one per pool: ready tasks and the slots that nodes ask for become chunks of tasks for nodes.
//! * [`Allocator`]: targets of pools and capacity of hosts become nodes granted and revoked, and ends of resizes.
//! * [`catalogue`]: what a vmSize needs of a host.
//! * [`Parcel`]: what a host is sent of attempts that were given to it.
//! * [`reconcile`]: what a returning host's inventory means against the state.
//!
//! They read the replicated state and propose; what is decided is what the state then accepts. So they may be dropped
//! and built anew at any time: they remember only what they have proposed and not yet seen answered.

mod allocator;
pub mod catalogue;
mod dispatcher;
mod parcel;
pub mod reconcile;

pub use allocator::{Allocation, Allocator, node_name};
pub use catalogue::{Catalogue, Size};
pub use dispatcher::{CHUNK_MAX, Decision, Dispatcher, IN_FLIGHT_MAX};
pub use parcel::Parcel;

#[cfg(test)]
mod tests;
